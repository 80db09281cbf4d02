"""Front ends: the log-frequency spectrogram against its definition, closed forms and librosa."""

from types import SimpleNamespace

import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from store_stand_in import config

from keymyna_lib import views
from keymyna_lib.accelerated import views as on_device
from keymyna_lib.accelerated.sampler import ResidentFrames
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus import store
from keymyna_lib.features import cut_windows, embed
from keymyna_lib.front_ends import band_centres, front_end_of, power, power_pieces, same_front_end, transpose_bands
from keymyna_lib.heads import HeadSpec, Rows, train_heads
from keymyna_lib.key_model import KeyModel
from keymyna_lib.model import EncoderConfig, build_encoder
from keymyna_lib.predict import KeyFinder
from keymyna_lib.pretrain import Pretraining
from keymyna_lib.spectrogram import HOP, PEAK, SAMPLE_RATE, compress, n_frames, window_starts

LOG = "log-frequency"
Q = 1 / (2 ** (1 / 24) - 1)


def sine(frequency, seconds=4.0, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=int(seconds * SAMPLE_RATE)).astype(np.float32)


def test_bands_are_quarter_tones_from_c1():
    centres = band_centres(LOG)
    np.testing.assert_allclose(centres, librosa.cqt_frequencies(168, fmin=librosa.note_to_hz("C1"), bins_per_octave=24))
    assert len(band_centres()) == 128


@pytest.mark.parametrize("band", [0, 23, 24, 90, 91, 143, 144, 167])
def test_a_sine_has_its_power_in_its_band_and_neighbouring_semitones_are_apart(band):
    heard = power(sine(band_centres(LOG)[band]), LOG)[:, 40:-40]
    assert torch.allclose(heard[band], torch.tensor(0.25 * 1e5), rtol=2e-3)
    others = torch.cat([heard[: max(band - 1, 0)], heard[band + 2 :]])
    assert others.max() < heard[band].min() * 10**-3  # a semitone off: 30 dB less
    far = torch.cat([heard[: max(band - 12, 0)], heard[band + 13 :]])
    assert far.max() < heard[band].min() * 10**-5.5


@pytest.mark.parametrize("band", [3, 40, 75, 110])
def test_power_is_that_of_the_definition(band):
    """A constant-Q coefficient as Brown (1991) writes it: one windowed sum at the full sample rate."""
    audio, frequency, frame = noise(3.0), band_centres(LOG)[band], 47
    half = int(Q * SAMPLE_RATE / frequency / 2)
    time = np.arange(-half, half + 1)
    window = 0.5 + 0.5 * np.cos(2 * np.pi * time * frequency / SAMPLE_RATE / Q)
    around = audio[frame * HOP + time].astype(np.float64)
    coefficient = (around * window * np.exp(-2j * np.pi * frequency / SAMPLE_RATE * time)).sum() / window.sum()
    assert power(audio, LOG)[band, frame].item() == pytest.approx(4e5 * abs(coefficient) ** 2, rel=0.01)


def test_it_agrees_with_librosa():
    """On a scale of long notes, up to the factor of each octave that librosa's resampling leaves."""
    notes = np.concatenate([sine(110 * 2 ** (step / 12), 0.5) for step in (0, 7, 3, 12, 26, 17, 31, 40)])
    audio = (notes + 0.001 * noise(4.0)).astype(np.float32)
    theirs = np.abs(
        librosa.cqt(audio, sr=SAMPLE_RATE, hop_length=HOP, n_bins=168, bins_per_octave=24, fmin=band_centres(LOG)[0])
    )
    ours = power(audio, LOG)
    assert ours.shape == theirs.shape
    mine, other = (np.log(1e-3 + x / x.max()) for x in (ours.sqrt().numpy(), theirs))
    assert np.corrcoef(mine[:144].ravel(), other[:144].ravel())[0, 1] > 0.95


@pytest.mark.parametrize("samples", [1_025, 40_000, 131_072, 300_001])
@pytest.mark.parametrize("front_end", ["mel", LOG])
def test_pieces_are_the_whole_and_frames_those_of_mel(samples, front_end):
    audio = noise(20.0)[:samples]
    whole = power(audio, front_end, 0.4)
    pieces = torch.cat(list(power_pieces(np.split(audio, range(7_001, samples, 7_001)), front_end, 0.4)), dim=1)
    assert whole.shape == (len(band_centres(front_end)), n_frames(samples)) and torch.equal(pieces, whole)


@pytest.mark.parametrize("semitones", [-6, -1, 0, 5])
def test_transposed_bands_are_those_of_transposed_audio(semitones):
    tone = sum(sine(220 * h) / h for h in range(1, 6))
    higher = sum(sine(220 * 2 ** (semitones / 12) * h) / h for h in range(1, 6))
    moved = transpose_bands(power(tone, LOG), semitones)[:, 40:-40].log1p()
    expected = power(higher, LOG)[:, 40:-40].log1p()
    assert (moved - expected).abs().max() < 0.2 and moved.argmax(dim=0).unique().item() == 66 + 2 * semitones
    for shifted in (views.shift_bands, on_device.shift_bands):
        other = shifted(power(tone, LOG)[None], torch.tensor([float(semitones)]))[0, 1:-1, 40:-40].log1p()
        torch.testing.assert_close(other, moved[1:-1], atol=2e-3, rtol=1e-3)


def test_everything_is_heard_higher_by_the_tuning():
    mended = power(sine(440 * 2 ** (-0.3 / 12)), LOG, 0.3)[:, 40:-40]
    assert mended.mean(dim=1).argmax() == 90
    assert mended[90].mean() > power(sine(440 * 2 ** (-0.3 / 12)), LOG)[90, 40:-40].mean() * 1.2
    with pytest.raises(KeyMynaError, match="tuning 2.0: expected at most 1.0"):
        list(power_pieces([noise(1.0)], LOG, 2.0))


def test_noise_for_log_frequency_views_is_coloured_as_noise_is():
    shape = power(noise(20.0), LOG).mean(dim=1)[24:144]
    made = views.coloured_noise(torch.ones(1, 168, 400), torch.tensor([0.0]), torch.tensor([0.0]), torch.Generator())
    ratio = (made[0].mean(dim=1)[24:144] / shape).log()
    assert ratio.unflatten(0, (5, 24)).mean(dim=1).std() < 0.1  # octave by octave alike


def test_front_ends_are_told_apart():
    assert front_end_of(torch.zeros(2, 128, 5)) == "mel"
    with pytest.raises(KeyMynaError, match="one of 128, 168 bands"):
        front_end_of(torch.zeros(2, 100, 5))
    same_front_end(LOG, LOG)
    with pytest.raises(KeyMynaError, match="takes log-frequency spectrograms, and the corpus holds mel ones"):
        same_front_end(LOG, "mel")


@pytest.mark.parametrize(("patch", "tokens"), [("vertical", 98), ("octave", 7 * 24), ("horizontal", 168 * 2)])
def test_an_encoder_takes_its_front_end_alone(patch, tokens):
    encoder = build_encoder(EncoderConfig("vit-toy", patch, front_end=LOG), torch.Generator().manual_seed(0)).eval()
    heard = torch.rand(2, 168, 196)
    assert (
        encoder(heard).shape == (2, 64)
        and len(encoder.patch_tokens(encoder.branches[0], encoder.trim(heard))[0]) == tokens
    )
    with pytest.raises(KeyMynaError, match="168 log-frequency bands"):
        encoder(torch.rand(2, 128, 196))
    with pytest.raises(KeyMynaError, match="patch 'square'"):
        EncoderConfig("vit-toy", "square", front_end=LOG)
    with pytest.raises(KeyMynaError, match="front_end 'cqt'"):
        EncoderConfig(front_end="cqt")


def music(number):
    """(sample,) int16."""
    return np.round(8000 * noise(2.0, number).clip(-3, 3) / 3).astype(np.int16)


def test_a_store_keeps_the_front_end_and_pre_training_takes_it(tmp_path):
    names = [f"t{i}" for i in range(6)]
    manifest = pd.DataFrame({"n_samples": 32_000, "n_frames": n_frames(32_000), "key": -1}, index=names)
    places = store.offsets(manifest)
    store.fill(
        tmp_path, places, music, lambda name: (int(name[1:]),), tmp_path / "done", doing="making", progress=False,
        client=Processes(1), front_end=LOG,
    )  # fmt: skip
    frames = store.Shards(tmp_path, store.FRAMES, LOG)
    expected = compress(power(store.to_float(music(3)), LOG)).numpy().T
    assert np.array_equal(store.frames_of(frames, places.loc["t3"]), expected)
    corpus = SimpleNamespace(frames=frames, offsets=places, manifest=manifest, hash="noise", front_end=LOG)
    wanted = config(
        encoder=EncoderConfig("vit-toy", "vertical", front_end=LOG), augmentation="timbre and pitch", batch_size=4
    )
    run = Pretraining(wanted, corpus, names[:4], names[4:])
    run.take_step()
    assert np.isfinite(run.history[0]["loss"])
    resident = ResidentFrames(corpus, names, torch.device("cpu"))
    assert resident.frames.shape == (6 * 63, 168)
    with pytest.raises(KeyMynaError, match="takes mel spectrograms"):
        Pretraining(config(batch_size=4), corpus, names[:4], names[4:])


def test_a_key_is_predicted_from_log_frequencies(tmp_path):
    encoder = build_encoder(EncoderConfig("vit-toy", "octave", front_end=LOG), torch.Generator().manual_seed(0)).eval()
    rows = Rows(torch.randn(24, 64, generator=torch.Generator().manual_seed(1)), torch.arange(24), torch.arange(24))
    (head,) = train_heads([HeadSpec()], rows, rows, max_steps=2, eval_every=1, patience=2, seed=0)
    audio = (sine(220, 14.0) + sine(277.18, 14.0) + 0.01 * noise(14.0)).astype(np.float32)
    audio *= PEAK / np.abs(audio).max()
    soundfile.write(tmp_path / "a.wav", audio, SAMPLE_RATE, subtype="FLOAT")
    windows = cut_windows(compress(power(audio, LOG)), window_starts(n_frames(len(audio))))
    expected = head.window_probabilities(embed(encoder, windows)).mean(axis=0)
    found = KeyFinder(KeyModel(encoder, {"head": head})).estimate(tmp_path / "a.wav")
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-3)  # a last frame more or less
