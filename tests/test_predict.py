"""The key of one file: what the corpus's own path gives, with little imported."""

import subprocess
import sys

import numpy as np
import pytest
import tones
import torch

from keymyna_lib import predict
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.corpus.recordings import build
from keymyna_lib.corpus.store import track_spectrogram
from keymyna_lib.features import track_embeddings
from keymyna_lib.heads import HeadSpec, TrainedHead
from keymyna_lib.keys import N_KEYS
from keymyna_lib.model import EncoderConfig, build_encoder, save_encoder


def head_for(dim):
    return TrainedHead(
        HeadSpec(),
        {"weight.0": torch.randn(N_KEYS, dim, generator=torch_stream(1, "weights")), "bias.0": torch.zeros(N_KEYS)},
        torch.zeros(dim),
        torch.ones(dim),
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("song")
    save_encoder(
        build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch_stream(0, "weights")),
        folder / "encoder.safetensors",
    )
    head_for(64).save(folder / "head.safetensors")
    tones.write(folder / "long.flac", 3, seconds=15.0)
    tones.write(folder / "short.wav", 15, seconds=2.0)
    return folder


@pytest.mark.parametrize("crop_frames, window", [(196, 196), (98, 98), (400, 196)])
def test_a_song_is_embedded_as_a_track_of_a_corpus_is(files, crop_frames, window):
    finder = predict.KeyFinder(files / "encoder.safetensors", files / "head.safetensors", crop_frames=crop_frames)
    for name in ("long.flac", "short.wav"):
        samples = build._samples(str(files / name), seconds=0)
        x, _ = track_embeddings(finder.encoder, [track_spectrogram(samples)], window)
        expected = finder.head.window_probabilities(x).mean(axis=0)
        np.testing.assert_allclose(finder.probabilities(files / name), expected, atol=2e-3)  # 16 bits there
        assert finder.key(files / name) == expected.argmax()


def test_a_head_of_another_encoder_is_refused(files, tmp_path):
    head_for(10).save(tmp_path / "other.safetensors")
    with pytest.raises(KeyMynaError, match="other.safetensors takes 10 features, and .* gives 64"):
        predict.KeyFinder(files / "encoder.safetensors", tmp_path / "other.safetensors")


def test_crops_without_frames_are_refused(files):
    with pytest.raises(KeyMynaError, match="crop_frames 0"):
        predict.KeyFinder(files / "encoder.safetensors", files / "head.safetensors", crop_frames=0)


def test_little_is_imported_besides_torch():
    heavy = "{'librosa', 'sklearn', 'pandas', 'scipy', 'matplotlib', 'numba', 'music21', 'essentia'}"
    code = f"""
import sys, keymyna_lib.predict
keymyna_lib.predict.mel_power([0.0] * 3000)
print(sorted({heavy} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_it_loads_no_compiler_and_no_tables():
    """Most of the time of a single call is spent on imports."""
    heavy = "{'triton', 'torch._dynamo', 'torch._inductor', 'pandas', 'distributed', 'librosa'}"
    code = f"import sys, keymyna_lib.predict; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
