"""Windows, pitch-shifted rows and their cache, on a stand-in corpus of synthetic tones."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib import features
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.processes import Processes
from keymyna_lib.features import (
    CHROMA,
    MEAN_MEL,
    Features,
    add_shifted,
    cut_windows,
    extract,
    extract_blocks,
    track_embeddings,
)
from keymyna_lib.front_ends import power
from keymyna_lib.model import Encoder, EncoderConfig, build_encoder
from keymyna_lib.spectrogram import SAMPLE_RATE, WINDOW, compress, mel_power, n_frames, window_frames, window_starts

SECONDS = {"a": 14.0, "b": 3.0, "c": 8.0}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(Processes, "count", lambda *_: 1)  # nothing is sent to another process
    rng = np.random.default_rng(0)

    def chord(pitches, seconds):
        time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        tones = sum(np.sin(2 * np.pi * 440 * 2 ** ((p - 69) / 12) * time) for p in pitches)
        return (0.1 * tones + 0.001 * rng.normal(size=len(time))).astype(np.float32)

    audio = {name: chord((60 + i, 64 + i, 67 + i), s) for i, (name, s) in enumerate(SECONDS.items())}
    pictures = {name: compress(mel_power(samples))[0].T.numpy() for name, samples in audio.items()}
    return SimpleNamespace(
        hash="stand-in",
        front_end="mel",
        manifest=pd.DataFrame({"key": [0, 1, 2]}, index=list(SECONDS)),
        audio=audio.__getitem__,
        spectrogram=pictures.__getitem__,
        close=lambda: None,
    )


@pytest.fixture
def encoder():
    return build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch.Generator().manual_seed(0)).eval()


def test_short_recordings_are_padded_with_silence():
    short = torch.ones(128, 50)
    (window,) = cut_windows(short, window_starts(50))
    assert window.shape == (128, WINDOW) and window[:, :50].eq(1).all() and window[:, 50:].eq(0).all()


def test_rows_are_each_windows_own_embedding(corpus, encoder):
    features = extract(corpus, "toy", encoder, show=False)
    assert features.track.tolist() == [0, 0, 0, 1, 2, 2] and features.shift.eq(0).all()
    last = torch.from_numpy(corpus.spectrogram("a")[-WINDOW:].T.copy())
    torch.testing.assert_close(features.x[2], encoder(last[None])[0].detach(), atol=1e-5, rtol=1e-4)
    mean = extract(corpus, MEAN_MEL, show=False)
    np.testing.assert_allclose(mean.x[2], corpus.spectrogram("a")[-WINDOW:].astype(np.float32).mean(0), rtol=1e-5)


def test_only_the_tracks_asked_for_are_embedded(corpus, encoder):
    whole, some = (
        extract(corpus, "toy", encoder, show=False),
        extract(corpus, "toy", encoder, track_ids=["c", "a"], show=False),
    )
    assert some.track_ids == ("c", "a")
    for track in ("a", "c"):
        torch.testing.assert_close(some.select([track]).x, whole.select([track]).x, atol=1e-5, rtol=1e-4)
    with pytest.raises(KeyMynaError, match="no features of track b"):
        some.select(["b"])


def test_chroma_rows_find_the_chord(corpus):
    features = extract(corpus, CHROMA, show=False)
    for row, track in zip(features.x, features.track.tolist()):
        assert set(row.topk(3).indices.tolist()) == {track, track + 4, track + 7}


def test_shifted_rows(corpus, encoder):
    encoders = {"toy": encoder}
    base = {name: extract(corpus, name, encoders.get(name), show=False) for name in ("toy", MEAN_MEL, CHROMA)}
    more = add_shifted(corpus, encoders, base, {"a": [-1, 0, 3], "b": [0, 3]}, windows=2, show=False)
    for name, found in more.items():
        assert torch.equal(found.x[:6], base[name].x), name
        assert found.track[6:].tolist() == [0, 0, 0, 0, 1] and found.shift[6:].tolist() == [-1, -1, 3, 3, 3]
    key_of_track = corpus.manifest["key"]
    assert more[CHROMA].keys(key_of_track)[6:].tolist() == [11, 11, 3, 3, 4]
    assert set(more[CHROMA].x[8].topk(3).indices.tolist()) == {3, 7, 10}
    # Track b raised by 3 semitones is a chord on E flat + 1: its mean mel lies near that of the chord itself.
    selected = more[MEAN_MEL].select(["b", "a"], [0, 3])
    assert selected.track.tolist() == [0, 0, 1, 1, 1, 1, 1] and selected.track_ids == ("b", "a")


@pytest.mark.parametrize("frames", [WINDOW, 98])
@pytest.mark.parametrize("samples", [300_000, 100_500, 40_000])
def test_windows_of_shifted_views_are_those_of_the_whole_shifted_recording(samples, frames):
    audio = np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)
    starts, shifts = window_starts(n_frames(samples), frames), [-3, 2]
    whole = torch.cat([cut_windows(mel, starts, frames) for mel in compress(mel_power(audio, shifts))])
    assert torch.equal(features._shifted_windows(audio, starts, shifts, frames), whole)


def test_an_encoder_embeds_windows_as_long_as_its_crops():
    assert [window_frames(n) for n in (98, 196, 400)] == [98, 196, 196]


def test_shorter_windows_are_shorter_in_every_feature_set(corpus, encoder):
    """14, 3 and 7 s are 438, 94 and 219 frames: 5, 1 and 3 windows of 98."""
    encoders = {"toy": encoder}
    base = {
        name: extract(corpus, name, encoders.get(name), frames=98, show=False) for name in ("toy", MEAN_MEL, CHROMA)
    }
    for name, found in base.items():
        assert found.track.tolist() == [0] * 5 + [1] + [2] * 3, name
    stored = corpus.spectrogram("a")[98:196]
    embedded = encoder(torch.from_numpy(stored.T.copy())[None])[0].detach()
    torch.testing.assert_close(base["toy"].x[1], embedded, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(base[MEAN_MEL].x[1], stored.astype(np.float32).mean(0), rtol=1e-5)
    assert set(base[CHROMA].x[1].topk(3).indices.tolist()) == {0, 4, 7}
    more = add_shifted(corpus, encoders, base, {"a": [3]}, windows=1000, frames=98, show=False)
    assert {name: len(found.x) for name, found in more.items()} == dict.fromkeys(base, 9 + 5)
    rows, track = track_embeddings(encoder, [corpus.spectrogram(name) for name in SECONDS], 98)
    assert torch.equal(track, base["toy"].track)
    torch.testing.assert_close(rows, base["toy"].x, atol=1e-5, rtol=1e-4)
    blocks = extract_blocks(corpus, encoder, list(SECONDS), frames=98, desc="blocks")
    torch.testing.assert_close(blocks[-1], base["toy"].x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n, count, expected", [(5, 1, [2]), (4, 2, [0, 3]), (3, 9, [0, 1, 2]), (1, 1, [0])])
def test_spread_windows(n, count, expected):
    assert features.spread_windows(n, count).tolist() == expected


def test_select_refuses_what_was_not_extracted(corpus):
    features = extract(corpus, MEAN_MEL, show=False)
    with pytest.raises(KeyMynaError, match="track z"):
        features.select(["z"])
    with pytest.raises(KeyMynaError, match="shifts"):
        features.select(["a"], [0, 5])
    with pytest.raises(KeyMynaError, match="need an encoder"):
        extract(corpus, "toy", show=False)


def test_cache_is_used_and_a_damaged_file_is_made_anew(corpus, encoder, tmp_path, monkeypatch):
    first = extract(corpus, "toy", encoder, show=False)
    monkeypatch.setattr(features, "embed", lambda *_, **__: pytest.fail("computed although cached"))
    again = extract(corpus, "toy", encoder, show=False)
    assert torch.equal(first.x, again.x) and again.track_ids == first.track_ids
    monkeypatch.undo()
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    (file,) = tmp_path.rglob("toy.safetensors")
    file.write_bytes(file.read_bytes()[:200])
    assert torch.equal(extract(corpus, "toy", encoder, show=False).x, first.x)
    other = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch.Generator().manual_seed(1)).eval()
    assert not torch.equal(extract(corpus, "toy", other, show=False).x, first.x)


@pytest.mark.parametrize("change", [{"scale": "linear"}, {"patch": "square"}])
def test_encoders_of_the_same_weights_but_another_input_have_features_of_their_own(corpus, encoder, change):
    first = extract(corpus, "toy", encoder, show=False)
    other = Encoder(replace(encoder.config, **change)).eval()
    other.load_state_dict(encoder.state_dict())
    assert not torch.equal(extract(corpus, "toy", other, show=False).x, first.x)


def test_features_keys_move_with_the_shift():
    features = Features(torch.zeros(3, 1), torch.tensor([0, 0, 1]), torch.tensor([0, 2, -1]), ("m", "n"))
    assert features.keys({"m": 11, "n": 12}).tolist() == [11, 1, 23]


def test_log_frequency_views_are_moved_by_bands_and_other_encoders_refused(corpus, encoder):
    with pytest.raises(KeyMynaError, match="takes mel spectrograms, and the corpus holds log-frequency ones"):
        extract(SimpleNamespace(**{**vars(corpus), "front_end": "log-frequency"}), "embedding", encoder, show=False)
    pictures = {name: compress(power(corpus.audio(name), "log-frequency")).T.numpy() for name in SECONDS}
    heard = SimpleNamespace(**{**vars(corpus), "front_end": "log-frequency", "spectrogram": pictures.__getitem__})
    views = features.shifted_views(heard, "a", [0, 196], [2, -1], WINDOW)
    assert views.shape == (4, 168, WINDOW)
    assert np.array_equal(views[1, 4:].numpy(), pictures["a"].T[:-4, 196 : 2 * WINDOW])
    assert np.array_equal(views[2, :-2].numpy(), pictures["a"].T[2:, :WINDOW])
    base = {MEAN_MEL: extract(heard, MEAN_MEL, show=False)}
    shifted = add_shifted(heard, {}, base, {"a": [0, 2]}, windows=1, show=False)[MEAN_MEL]
    assert shifted.x.shape == (len(base[MEAN_MEL].x) + 1, 168) and shifted.shift[-1] == 2
