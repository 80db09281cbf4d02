"""The key of one file: what the corpus's own path gives, with little imported."""

import subprocess
import sys
from dataclasses import replace

import models
import numpy as np
import pytest
import scipy.stats
import soundfile
import soxr
import tones
import torch

from keymyna_lib import key_over_time, predict
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import build
from keymyna_lib.corpus.store import track_spectrogram
from keymyna_lib.features import cut_windows, embed, track_embeddings
from keymyna_lib.keys import N_KEYS
from keymyna_lib.spectrogram import HOP, PEAK, SAMPLE_RATE, compress, mel_power


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("song")
    models.write(folder / "model.safetensors")
    tones.write(folder / "long.flac", 3, seconds=15.0)
    return folder


@pytest.fixture(scope="module")
def finder(files):
    return predict.KeyFinder.load(files / "model.safetensors")


@pytest.fixture
def estimate(finder, tmp_path):
    """The estimate of some samples at 16 kHz."""

    def of(samples, subtype="FLOAT", **options):
        soundfile.write(tmp_path / "song.wav", samples, SAMPLE_RATE, subtype=subtype)
        return finder.estimate(tmp_path / "song.wav", **options)

    return of


def song(key=3, hops=500):
    """(sample,) of a cadence, of whole hops."""
    return tones.cadence(key, hops * HOP / SAMPLE_RATE)


@pytest.mark.parametrize("crop_frames, window", [(196, 196), (98, 98), (400, 196), (None, 196)])
def test_a_song_is_embedded_as_a_track_of_a_corpus_is(files, crop_frames, window):
    model = models.model()
    model.encoder.crop_frames = crop_frames
    finder = predict.KeyFinder(model)
    samples = build._samples(str(files / "long.flac"), seconds=0)
    x, _ = track_embeddings(finder.encoder, [track_spectrogram(samples)], window)
    expected = finder.model.probabilities(x).mean(axis=0)
    np.testing.assert_allclose(finder.probabilities(files / "long.flac"), expected, atol=2e-3)  # 16 bits there
    assert finder.key(files / "long.flac") == expected.argmax()
    embedding = finder.estimate(
        files / "long.flac", over_time=True
    ).embedding  # of the same windows, with others beside
    np.testing.assert_allclose(embedding, x.mean(dim=0), atol=5e-3)


# What the model asks for


def test_the_models_temperature_counts_and_too_much_doubt_is_no_key(finder, files):
    heard = finder.estimate(files / "long.flac")
    expected = heard.probabilities.astype(np.float64) ** 0.25
    unsure = predict.KeyFinder(replace(finder.model, temperature=4.0)).estimate(files / "long.flac")
    np.testing.assert_allclose(unsure.probabilities, expected / expected.sum(), rtol=1e-5)
    x, _ = track_embeddings(finder.encoder, [track_spectrogram(build._samples(str(files / "long.flac"), seconds=0))])
    doubt = scipy.stats.entropy(finder.model.probabilities(x), axis=1).mean()  # of each window, as the heads have it
    for most, key, why in ((doubt + 1e-3, heard.key, ""), (doubt - 1e-3, None, predict.DOUBT)):
        strict = predict.KeyFinder(replace(finder.model, temperature=4.0, max_entropy=most))
        again = strict.estimate(files / "long.flac")
        assert again.key == key and again.unclear == why and again.ranking == heard.ranking
    assert heard.unclear == "" and heard.ranking[0] == heard.key


# Silence


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(80_000),
        np.full(80_000, 0.1),  # an offset
        np.random.default_rng(0).integers(-1, 2, 80_000) / 32768,  # dither
        np.random.default_rng(0).normal(0, 1e-4, 80_000),  # -80 dBFS
        np.eye(1, 80_000, 40_000)[0],  # a click
        np.zeros(1025),
    ],
)
def test_silence_has_no_key(estimate, samples):
    heard = estimate(samples)
    assert heard.embedding is None
    assert heard.key is None and heard.tuning == 0 and heard.silence == heard.seconds == len(samples) / SAMPLE_RATE
    assert np.all(heard.probabilities == 1 / N_KEYS)


@pytest.mark.parametrize("filling", [0.0, 0.05, "noise"])
@pytest.mark.parametrize("place", [0, 150 * HOP, 500 * HOP])
def test_silence_does_not_count(estimate, filling, place):
    silence = (
        np.random.default_rng(0).normal(0, 2e-4, 1000 * HOP) if filling == "noise" else np.full(1000 * HOP, filling)
    )
    heard, expected = estimate(np.insert(song(), place, silence)), estimate(song())
    assert heard.silence == 1000 * HOP / SAMPLE_RATE and expected.silence == 0
    np.testing.assert_array_equal(heard.probabilities, expected.probabilities)


def test_a_rest_of_the_music_stays(estimate, finder):
    samples = song()
    samples[100 * HOP : 130 * HOP] = 0
    heard = estimate(samples)
    x, _ = track_embeddings(finder.encoder, [_stored(samples)])
    np.testing.assert_allclose(heard.probabilities, finder.model.probabilities(x).mean(axis=0), rtol=1e-5)
    assert heard.silence == 0


def test_a_quiet_recording_is_that_of_a_loud_one(estimate):
    quiet, loud = estimate(song() / 512), estimate(song())  # -68 dBFS at its peaks
    assert quiet.key == loud.key
    np.testing.assert_allclose(quiet.probabilities, loud.probabilities, atol=1e-5)


def _stored(samples):
    """(frame, mel), of all of them at once."""
    return compress(mel_power(samples * (PEAK / np.abs(samples).max()))[0]).numpy().T


# Short recordings


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 3.0, 6.2])
def test_a_short_recording_is_repeated_until_it_fills_a_window(estimate, finder, seconds):
    samples = tones.cadence(15, seconds)
    x, _ = track_embeddings(finder.encoder, [np.tile(_stored(samples), (100, 1))[:196]])
    np.testing.assert_array_equal(estimate(samples).probabilities, finder.model.probabilities(x)[0])


def test_around_a_short_sound_no_silence_counts(estimate):
    sound, gap = song(hops=60), np.zeros(20 * HOP, np.float32)
    np.testing.assert_array_equal(
        estimate(np.concatenate([gap, sound, gap])).probabilities, estimate(sound).probabilities
    )


@pytest.mark.parametrize("samples", [1, 800, 1024])
def test_a_file_too_short_for_any_key_is_named(estimate, samples):
    with pytest.raises(KeyMynaError, match=rf"song.wav is too short: {samples / SAMPLE_RATE:.3f} s"):
        estimate(song()[:samples])


# Tuning


def detuned(samples, cents):
    return soxr.resample(samples, SAMPLE_RATE * 2 ** (cents / 1200), SAMPLE_RATE)


def rich(key=3, seconds=16.0):
    """A cadence with upper partials."""
    cadence = tones.cadence(key, seconds)
    return cadence + 2 * cadence**3


@pytest.mark.parametrize("cents", [-50, -45, -31, -12, 0, 7, 29, 38, 49])
def test_tuning_is_what_it_was_made_and_what_librosa_finds(estimate, cents):
    import librosa

    samples = detuned(rich(), cents)
    found, theirs = estimate(samples).tuning, 100 * librosa.estimate_tuning(y=samples, sr=SAMPLE_RATE)
    assert -50 < found <= 50
    assert abs((found - cents + 50) % 100 - 50) < 2 and abs((found - theirs + 50) % 100 - 50) < 5


@pytest.mark.parametrize("softest", [1e-20, 1e-36, 1e-44])
def test_the_tuning_of_what_fades_to_next_to_nothing(estimate, softest):
    samples = detuned(rich(), 29)
    faded = samples[: 4 * SAMPLE_RATE] * np.geomspace(1, softest, 4 * SAMPLE_RATE)
    with np.errstate(all="raise", under="ignore"):
        assert estimate(np.concatenate([samples, faded])).tuning == pytest.approx(29, abs=2)


def test_noise_has_no_tuning(estimate):
    heard = estimate(np.random.default_rng(0).normal(0, 0.1, 200_000))
    assert heard.tuning == 0 and heard.key is not None


@pytest.mark.parametrize("cents", [-55, -45, -35, 35, 45, 55])
def test_off_pitch_it_is_heard_at_the_nearest_semitone(estimate, monkeypatch, cents):
    def spectrum(samples):
        """(mel,) mean of the windows that are embedded, from where bands are wider than the lines of a spectrum."""
        seen = []
        monkeypatch.setattr(predict, "embed", lambda encoder, windows: seen.append(windows) or embed(encoder, windows))
        estimate(samples)
        return torch.cat(seen).float().mean(dim=(0, 2))[4:]

    off = detuned(rich(), cents)
    in_tune = spectrum(detuned(off, 100 * round(cents / 100) - cents))  # of nearly the same tempo
    corrected = (spectrum(off) - in_tune).norm()
    monkeypatch.setattr(predict, "_IN_TUNE", 100)
    assert 2 * corrected < (spectrum(off) - in_tune).norm()


def test_up_to_15_cents_nothing_is_changed(estimate, finder):
    samples = detuned(rich(), 12)[: 400 * HOP]
    x, _ = track_embeddings(finder.encoder, [_stored(samples)])
    np.testing.assert_allclose(estimate(samples).probabilities, finder.model.probabilities(x).mean(axis=0), rtol=1e-5)


# Over time


@pytest.mark.parametrize("crop_frames, hops", [(196, 100), (196, 640), (98, 450), (90, 403)])
def test_keys_over_time_are_those_of_overlapping_windows(tmp_path, crop_frames, hops):
    model = models.model(temperature=2.0, persistence=0.5)
    model.encoder.crop_frames = crop_frames
    finder, samples = predict.KeyFinder(model), song(hops=hops)
    soundfile.write(tmp_path / "song.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    plain, heard = (finder.estimate(tmp_path / "song.wav", over_time=it) for it in (False, True))
    np.testing.assert_allclose(heard.probabilities, plain.probabilities, atol=1e-6)
    assert plain.timeline is None
    picture = torch.from_numpy(_stored(samples)).T
    if hops < crop_frames:
        picture = picture.repeat(1, 2)[:, :crop_frames]
    starts = key_over_time.dense_starts(picture.shape[1], crop_frames)
    found = model.calibrated(model.probabilities(embed(model.encoder, cut_windows(picture, starts, crop_frames))))
    edges, weights = key_over_time.window_edges(starts, crop_frames, hops)
    expected = key_over_time.timeline(found, edges * HOP / SAMPLE_RATE, weights, 0.5)
    np.testing.assert_allclose(heard.timeline.probabilities, expected.probabilities, atol=1e-4)
    np.testing.assert_allclose(heard.timeline.edges, np.minimum(expected.edges, len(samples) / SAMPLE_RATE), atol=0.033)


def test_segments_are_told_in_the_time_of_the_recording(estimate):
    samples = np.insert(song(hops=600), 300 * HOP, np.zeros(200 * HOP))
    samples = np.concatenate([np.zeros(100 * HOP, np.float32), samples])
    heard = estimate(samples, over_time=True)
    begin, end = heard.timeline.segments[0].start, heard.timeline.segments[-1].end
    assert (begin, end) == (pytest.approx(100 * HOP / SAMPLE_RATE, abs=0.04), pytest.approx(heard.seconds, abs=0.04))
    edges = heard.timeline.edges
    assert not ((edges > 401 * HOP / SAMPLE_RATE) & (edges < 599 * HOP / SAMPLE_RATE)).any()  # none in the silence
    assert (np.diff(edges) > 0).all()


def test_where_no_key_is_clear_there_are_no_segments(finder, files, monkeypatch):
    monkeypatch.setattr(finder.model, "max_entropy", 0.0)
    heard = finder.estimate(files / "long.flac", over_time=True)
    assert heard.unclear == predict.DOUBT and heard.timeline is None


# Length


@pytest.mark.parametrize("length", [1, 700, 100_000])
def test_a_long_recording_is_decoded_twice_and_sounds_the_same(estimate, monkeypatch, length):
    samples = np.insert(detuned(rich(), 40), 100 * HOP, np.zeros(100 * HOP))[:250_001]
    expected, decoded = estimate(samples), []

    def in_blocks(path):
        decoded.append(path)
        whole, _ = soundfile.read(path, dtype="float32")
        yield from np.split(whole, range(length, len(whole), length) if length > 1 else [1, 2, 1025, 1026])

    monkeypatch.setattr(predict, "_KEPT", 50_000)
    monkeypatch.setattr(predict, "audio_blocks", in_blocks)
    heard = estimate(samples)
    np.testing.assert_allclose(heard.probabilities, expected.probabilities, atol=1e-6)
    assert len(decoded) == 2 and heard.tuning == pytest.approx(expected.tuning) and heard.silence == expected.silence


def test_importing_it_loads_no_compiler_and_no_tables_and_using_it_little_more():
    """Most of the time of a single call is spent on imports."""
    code = """
import sys, keymyna_lib.predict
print(sorted({'triton', 'torch._dynamo', 'torch._inductor', 'pandas', 'distributed', 'librosa'} & set(sys.modules)))
list(keymyna_lib.predict.power_pieces([[0.0] * 3000]))
heavy = {'librosa', 'sklearn', 'pandas', 'scipy', 'matplotlib', 'numba', 'music21', 'essentia'}
print(sorted(heavy & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["[]", "[]", ""]
