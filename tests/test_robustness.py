"""Augmentations measured in the spectrum and in time; measures against closed forms."""

import numpy as np
import pandas as pd
import pytest
import scipy.signal

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus.sound.effects import peaking_filter
from keymyna_lib.experiments import audio_changes, robustness
from keymyna_lib.experiments.audio_changes import AUGMENTATIONS
from keymyna_lib.spectrogram import SAMPLE_RATE, compress, mel_power

SECONDS = 4
TIME = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE


def tone(frequency, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * frequency * TIME)).astype(np.float32)


def noise(seed=0, level=0.1):
    return np.random.default_rng(seed).normal(0, level, len(TIME)).astype(np.float32)


def music(seed=0):
    """Decaying harmonic notes, twice a second."""
    rng, audio = np.random.default_rng(seed), np.zeros(len(TIME))
    for start in range(0, len(TIME), SAMPLE_RATE // 2):
        t = TIME[: len(TIME) - start]
        f = 220 * 2 ** (rng.integers(24) / 12)
        audio[start:] += np.exp(-4 * t) * sum(np.sin(2 * np.pi * f * h * t) / h for h in range(1, 6))
    return (0.5 * audio / np.abs(audio).max()).astype(np.float32)


def apply(name, audio, seed=0):
    return AUGMENTATIONS[name](audio, np.random.default_rng(seed))


def decibel(power):
    return 10 * np.log10(power)


def power_in(audio, low, high):
    spectrum = np.abs(np.fft.rfft(audio)) ** 2
    frequency = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    return spectrum[(frequency >= low) & (frequency < high)].mean()


def peak(audio):
    """Frequency of the strongest component, Hz, away from the ends."""
    middle = audio[len(audio) // 4 : -len(audio) // 4]
    return np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 2**18)).argmax() * SAMPLE_RATE / 2**18


class Music:
    """Stands in for a corpus."""

    front_end = "mel"

    def audio(self, track_id):
        return music(int(track_id))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_contract(name):
    audio = music() / np.abs(music()).max()  # full scale
    before = audio.copy()
    changed, augmentation = apply(name, audio), AUGMENTATIONS[name]
    assert (augmentation.name, changed.dtype, changed.ndim) == (name, np.float32, 1)
    assert np.isfinite(changed).all()
    assert len(changed) == len(audio) or augmentation.family == "tempo"
    assert np.abs(changed).max() <= 1 or name == "louder"
    assert (augmentation.shift != 0) == (augmentation.family == "pitch")
    assert np.array_equal(changed, apply(name, audio)) and np.array_equal(audio, before)
    random = augmentation.family in ("noise", "equaliser", "reverb")
    assert np.array_equal(changed, apply(name, audio, seed=1)) != random
    assert np.isfinite(apply(name, np.zeros_like(audio))).all()


def test_bad_audio():
    for bad in (music()[:1000], music().reshape(2, -1), np.zeros(SAMPLE_RATE, np.int16), np.full(SAMPLE_RATE, np.nan)):
        with pytest.raises(KeyMynaError, match="softer"):
            apply("softer", bad)


@pytest.mark.parametrize("name, snr, slope", [("white_noise", 0, 0), ("pink_noise", 5, -10 * np.log10(2))])
def test_noise_level_and_slope(name, snr, slope):
    audio = 0.2 * music()  # far from full scale, so that nothing is scaled
    added = apply(name, audio).astype(np.float64) - audio
    assert decibel(np.mean(np.square(audio)) / np.mean(np.square(added))) == pytest.approx(snr, abs=0.01)
    for low in (100, 400, 1600):  # an octave further up
        change = decibel(power_in(added, 2 * low, 4 * low) / power_in(added, low, 2 * low))
        assert change == pytest.approx(slope, abs=0.8)


@pytest.mark.parametrize("name, cutoff, sign", [("low_pass", 2000, 1), ("high_pass", 500, -1)])
@pytest.mark.parametrize("frequency", [250, 500, 1000, 2000, 3000])
def test_filter_response(name, cutoff, sign, frequency):
    """Butterworth's closed form of order 4, frequencies warped by the bilinear transform."""
    ratio = np.tan(np.pi * frequency / SAMPLE_RATE) / np.tan(np.pi * cutoff / SAMPLE_RATE)
    audio, inner = tone(frequency), slice(SAMPLE_RATE, -SAMPLE_RATE)
    measured = decibel(np.mean(apply(name, audio)[inner] ** 2) / np.mean(audio[inner] ** 2))
    assert measured == pytest.approx(-decibel(1 + ratio ** (8 * sign)), abs=0.05)


@pytest.mark.parametrize("frequency, gain, q", [(100, 12, 0.7), (1000, -9, 2), (5000, 4, 1)])
def test_peaking_filter(frequency, gain, q):
    import torch
    import torchaudio

    section = peaking_filter(frequency, gain, q)
    response = scipy.signal.freqz_sos(section, [0, frequency, SAMPLE_RATE / 2 - 1e-6], fs=SAMPLE_RATE)[1]
    assert np.allclose(20 * np.log10(np.abs(response)), [0, gain, 0], atol=1e-6)
    audio = 0.1 * noise()
    theirs = torchaudio.functional.equalizer_biquad(torch.from_numpy(audio), SAMPLE_RATE, frequency, gain, q)
    assert np.allclose(scipy.signal.sosfilt(section, audio), theirs.numpy(), atol=1e-5)


def test_equaliser_changes_the_spectrum_and_not_the_level():
    audio = noise()
    changed = apply("equaliser", audio)
    assert np.sqrt(np.mean(changed**2)) == pytest.approx(np.sqrt(np.mean(audio**2)), rel=1e-3)
    bands = [decibel(power_in(changed, f, 2 * f) / power_in(audio, f, 2 * f)) for f in (100, 300, 900, 2700)]
    assert np.ptp(bands) > 3


@pytest.mark.parametrize("name, gain", [("softer", -12), ("louder", 12)])
def test_gain(name, gain):
    assert np.allclose(apply(name, music()), music() * 10 ** (gain / 20), rtol=1e-6)


def test_reverb_decays_by_60_db():
    impulse = np.zeros_like(music())
    impulse[0] = 0.5
    response = apply("reverb", impulse).astype(np.float64)
    delay = SAMPLE_RATE // 100
    assert np.abs(response[1:delay]).max() < 1e-9
    tail = response[delay + 1 :]
    length = np.flatnonzero(np.abs(tail) > 1e-6 * np.abs(tail).max()).max() + 1
    assert 0.5 < length / SAMPLE_RATE < 1.5
    assert np.sum(tail**2) == pytest.approx(response[0] ** 2, rel=1e-3)  # as strong as the direct sound
    tenths = np.array_split(tail[:length], 10)
    slope = np.polyfit(np.arange(10), [decibel(np.mean(part**2)) for part in tenths], 1)[0]
    assert slope == pytest.approx(-6, abs=0.3)


@pytest.mark.parametrize("name, rate", [("slower", 0.8), ("faster", 1.25)])
def test_stretch_changes_duration_and_not_pitch(name, rate):
    changed = apply(name, tone(440))
    assert len(changed) == pytest.approx(len(TIME) / rate, abs=1)
    assert peak(changed) == pytest.approx(440, rel=1e-3)


@pytest.mark.parametrize("name", [n for n, a in AUGMENTATIONS.items() if a.family == "pitch"])
def test_pitch_shift_moves_the_peak(name):
    shift = AUGMENTATIONS[name].shift
    assert name == f"pitch{shift:+d}"
    assert peak(apply(name, tone(440))) == pytest.approx(440 * 2 ** (shift / 12), rel=1e-3)


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_mp3_is_aligned_and_lossy(level):
    """At 80 kbit/s the decoder knows the delay, at 16 it does not: both must come out in place."""
    audio = music()
    changed = audio_changes.code_mp3(audio, None, level=level)
    assert len(changed) == len(audio)
    assert scipy.signal.correlate(changed, audio, method="fft").argmax() == len(audio) - 1
    assert 0.99 < np.corrcoef(audio, changed)[0, 1] < 1
    assert np.corrcoef(noise(), audio_changes.code_mp3(noise(), None, level=0.95))[0, 1] < 0.95


def test_augment_tracks():
    chosen = {name: AUGMENTATIONS[name] for name in ("white_noise", "faster")}
    made = robustness.augment_tracks(Music(), ["1", "2"], chosen, seed=3, client=Processes(1), progress=False)
    assert list(made) == ["clean", "white_noise", "faster"]
    assert [s.shape for s in made["clean"]] == [(126, 128)] * 2 and made["faster"][0].shape == (101, 128)
    expected = compress(mel_power(music(2)))[0].numpy().T
    assert made["clean"][1].dtype == np.float16 and np.array_equal(made["clean"][1], expected)
    alone = robustness.augment_tracks(
        Music(), ["2"], {"white_noise": chosen["white_noise"]}, seed=3, client=Processes(1), progress=False
    )
    assert np.array_equal(alone["white_noise"][0], made["white_noise"][1])
    other = robustness.augment_tracks(Music(), ["2"], chosen, seed=4, client=Processes(1), progress=False)
    assert not np.array_equal(other["white_noise"][0], made["white_noise"][1])


def test_cosine():
    clean = np.array([[1.0, 0], [0, 2], [3, 3]])
    augmented = np.array([[2.0, 0], [5, 0], [-1, -1]])
    assert np.allclose(robustness.cosine_to_clean(clean, augmented), [1, 0, -1])
    centred = robustness.cosine_to_clean(clean, augmented, centre=np.array([1.0, 1]))
    assert np.allclose(centred, [1 / np.sqrt(2), -5 / np.sqrt(34), -1])
    with pytest.raises(KeyMynaError, match="shapes"):
        robustness.cosine_to_clean(clean, augmented[:2])


def test_centring_undoes_a_common_component():
    rng = np.random.default_rng(0)
    clean, other = rng.standard_normal((2, 500, 64)) + 100.0
    assert robustness.cosine_to_clean(clean, other).min() > 0.99
    assert abs(robustness.cosine_to_clean(clean, other, centre=np.full(64, 100.0)).mean()) < 0.02


def test_retrieval():
    clean = np.eye(10)
    assert robustness.retrieval_top1(clean, 3 * clean).all()
    swapped = clean[[1, 0, *range(2, 10)]]
    assert robustness.retrieval_top1(clean, swapped).tolist() == [False, False] + 8 * [True]
    assert robustness.retrieval_top1(np.ones((10, 4)), np.ones((10, 4))).sum() == 1  # all alike: chance
    rng = np.random.default_rng(0)
    hits = [robustness.retrieval_top1(*rng.standard_normal((2, 20, 8))).mean() for _ in range(400)]
    assert np.mean(hits) == pytest.approx(1 / 20, abs=4 * np.sqrt(0.05 * 0.95 / 8000))


def test_prediction_measures():
    clean = np.array([0, 11, 12, 23])
    assert robustness.moved_by(clean, [0, 0, 12, 23], 0).tolist() == [True, False, True, True]
    assert robustness.moved_by(clean, [2, 1, 14, 13], 2).all()
    assert robustness.moved_by(clean, [10, 9, 22, 9], -2).tolist() == [True, True, True, False]


def test_tsne_parts_clusters_and_repeats():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 30)
    points = 5 * np.eye(3, 10)[group] + rng.normal(0, 0.2, (90, 10))
    xy = robustness.tsne(points, seed=1, perplexity=10)
    assert xy.shape == (90, 2) and np.array_equal(xy, robustness.tsne(points, seed=1, perplexity=10))
    distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (group[distance.argmin(axis=1)] == group).all()
    with pytest.raises(KeyMynaError, match="perplexity"):
        robustness.tsne(points[:20], seed=1)


def test_measures_of_an_encoder_that_hears_pitch_alone_and_of_one_that_hears_all():
    """One encoder's embedding names the key, the other's the version; both heads are perfect or constant."""
    keys = np.arange(4)
    versions = {robustness.CLEAN: 0, **{name: one.shift for name, one in AUGMENTATIONS.items()}}
    one_hot = np.eye(24)
    embeddings = {("key", name): one_hot[(keys + shift) % 24] for name, shift in versions.items()}
    embeddings |= {("sound", name): one_hot[[5 + i] * 4] for i, name in enumerate(versions)}
    estimates = {}
    for name, shift in versions.items():
        for encoder in ("key", "sound"):
            estimates[encoder, "perfect", name] = robustness.keys.transpose(keys, shift)
            estimates[encoder, "constant", name] = np.zeros(4, int)
    values = robustness.measured(embeddings, {"key": np.zeros(24), "sound": np.zeros(24)}, estimates)
    assert len(values) == len(AUGMENTATIONS) * 2 * 5 * 4
    means = robustness.by_track(values).groupby(["change", "features", "measure"])["value"].mean()
    for change in (robustness.STAYS, robustness.MOVES):
        assert (means[change, :, "key (perfect)"] == 1).all()
        assert (means[change, :, "key (constant)"] == (change == robustness.STAYS)).all()
        assert means[change, "sound", "cosine"] == 0 and means[change, "sound", "retrieval"] == 0.25
    assert means[robustness.STAYS, "key", "cosine"] == 1 and means[robustness.MOVES, "key", "cosine"] == 0
    shown = robustness.by_change(values, list("abcd"), 0).set_index(["augmentation", "features", "measure"])
    for one in AUGMENTATIONS.values():
        row = shown.loc[one.label, "key", "cosine"]
        assert list(row[["family", "value", "low", "high", "n_tracks"]]) == [one.family, *[one.shift == 0] * 3, 4]
    found = robustness.compared(values, "key", "sound", by="features", groups=list("abcd"), seed=0)
    stays = found.set_index(["change", "measure"]).loc[(robustness.STAYS, "cosine")]
    assert (stays[["one", "other", "difference", "low", "high"]] == [1, 0, 1, 1, 1]).all()
    heads = robustness.compared(
        values[values["features"] == "key"],
        "key (perfect)",
        "key (constant)",
        by="measure",
        groups=list("abcd"),
        seed=0,
    )
    assert list(heads["difference"]) == [0, 1] and list(heads["change"]) == [robustness.STAYS, robustness.MOVES]


def test_intervals_of_a_change_are_over_compositions():
    """Tracks of one composition alike: drawing them together widens the interval as if each were one track."""
    composition = np.repeat(np.arange(30), 4)
    kept = np.repeat(np.random.default_rng(0).integers(0, 2, 30), 4).astype(float)
    values = pd.DataFrame({"augmentation": "gain", "family": "gain", "features": "one", "measure": "key"}, range(120))
    values = values.assign(track=range(120), value=kept)
    alone = robustness.by_change(values, list(map(str, range(120))), 0).iloc[0]
    together = robustness.by_change(values, list(map(str, composition)), 0).iloc[0]
    assert alone["value"] == together["value"] == kept.mean()
    assert (together["high"] - together["low"]) / (alone["high"] - alone["low"]) == pytest.approx(2, rel=0.15)


def test_means_of_tracks_give_the_same_difference_as_the_measures_do():
    """Notebook 80 starts from a stored table by track, notebook 40 from the measures: one quantity, one interval."""
    rng = np.random.default_rng(1)
    names = [f"track-{i}" for i in rng.permutation(12)]
    about = [{"features": f, "track": i} for f in ("one", "other") for i in range(12)]
    values = pd.DataFrame(about).assign(shift=0, measure="cosine", value=rng.uniform(size=24))
    pieces = [f"piece-{i // 2}" for i in range(12)]
    direct = robustness.compared(values, "one", "other", by="features", groups=pieces, seed=3)
    stored = robustness.by_track(values).assign(track=lambda rows: [names[i] for i in rows["track"]])
    of_stored = robustness.compared_by_track(
        stored, "one", "other", by="features", groups=dict(zip(names, pieces)), seed=3
    )
    pd.testing.assert_frame_equal(direct, of_stored)
