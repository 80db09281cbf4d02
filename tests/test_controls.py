"""Controls against music21's and essentia's own numbers, and on rendered cadences whose key is known."""

import numpy as np
import pytest

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.chroma import mean_chroma
from keymyna_lib.compute.processes import Processes
from keymyna_lib.experiments.controls import (
    PROFILES,
    SYSTEMS,
    essentia_key,
    predict_all,
    profile_correlation,
    profile_key,
    template_keys,
)
from keymyna_lib.spectrogram import SAMPLE_RATE


def cadence(key, cents=0.0, snr=None, repeats=2):
    """I-IV-V-I in decaying harmonic tones, with white noise `snr` dB below."""
    third = 3 if keys.is_minor(key) else 4
    time = np.arange(int(0.75 * SAMPLE_RATE)) / SAMPLE_RATE
    chords = []
    for root, middle in ((0, third), (5, third), (7, 4), (0, third)):
        pitches = 60 + keys.tonic(key) + root + np.array([0, middle, 7])
        frequencies = 440 * 2 ** ((pitches - 69 + cents / 100) / 12)
        chords.append(
            sum(np.sin(2 * np.pi * f * h * time) / h for f in frequencies for h in range(1, 5)) * np.exp(-2 * time)
        )
    audio = np.tile(np.concatenate(chords), repeats)
    audio *= 0.4 / np.abs(audio).max()
    if snr is not None:
        level = np.sqrt((audio**2).mean() * 10 ** (-snr / 10))
        audio += np.random.default_rng(key).normal(0, level, len(audio))
    return audio.astype(np.float32)


class Cadences:
    """Stands in for a corpus: track "k" is a cadence in key k."""

    def audio(self, track_id):
        return cadence(int(track_id))


@pytest.mark.parametrize(
    "profile, theirs", [("krumhansl", "KrumhanslSchmuckler"), ("temperley", "TemperleyKostkaPayne")]
)
def test_profiles_are_those_of_music21(profile, theirs):
    from music21.analysis import discrete

    for mode in keys.MODES:
        assert list(getattr(PROFILES[profile], mode)) == getattr(discrete, theirs)().getWeights(mode)


@pytest.mark.parametrize(
    "profile, theirs",
    [(name, {"temperley": "temperley2005"}.get(name, name)) for name in PROFILES if name != "albrecht"],
)
def test_key_and_correlation_are_those_of_essentia(profile, theirs):
    import essentia

    essentia.log.infoActive = False
    import essentia.standard

    algorithm = essentia.standard.Key(profileType=theirs, usePolyphony=False, pcpSize=12)
    histograms = np.random.default_rng(0).dirichlet(np.full(12, 0.5), 200).astype(np.float32)
    correlations, estimates = profile_correlation(histograms, profile), profile_key(histograms, profile)
    for histogram, correlation, estimate in zip(histograms, correlations, estimates, strict=True):
        tonic, mode, strength, _ = algorithm(np.roll(histogram, 3))  # essentia counts from A
        assert keys.parse_key(f"{tonic} {mode}") == estimate
        assert strength == pytest.approx(correlation.max(), abs=1e-5)


def test_albrecht_and_shanahan_give_shares_that_add_up():
    """To 1, but for the rounding of twelve numbers to three digits."""
    for mode in keys.MODES:
        assert sum(getattr(PROFILES["albrecht"], mode)) == pytest.approx(1, abs=0.003)


@pytest.mark.parametrize("profile", PROFILES)
def test_recovers_every_rotated_profile(profile):
    histograms = np.array([np.roll(getattr(PROFILES[profile], keys.mode(k)), k % 12) for k in range(24)])
    assert (profile_key(histograms, profile) == np.arange(24)).all()
    assert np.allclose(np.diag(profile_correlation(histograms, profile)), 1)
    assert (profile_key(3 + 5 * histograms.reshape(2, 12, 12), profile).ravel() == np.arange(24)).all()
    reference = np.corrcoef(histograms[7], histograms)[0, 1:]
    assert np.allclose(profile_correlation(histograms[7], profile), reference)


def test_silence_and_bad_histograms():
    assert (profile_correlation(np.full((2, 12), 3.0)) == 0).all()
    assert profile_key(np.zeros(12)) == 0
    for bad in (np.zeros(11), np.full(12, np.nan), np.float64(3)):
        with pytest.raises(KeyMynaError, match="12 finite"):
            profile_key(bad)
    with pytest.raises(KeyMynaError, match="krumhansl, temperley, shaath"):
        profile_key(np.ones(12), "gomez")


def test_mean_chroma_of_tones():
    time = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * 440 * 2 ** (-0.3 / 12) * time)  # A, 30 cents flat
    average = mean_chroma((0.5 * tone).astype(np.float32))
    assert average.argmax() == 9 and average.sum() == pytest.approx(1, abs=1e-6)
    assert average[8] < 0.2 * average[9]
    half_silent = mean_chroma(np.concatenate([0.5 * tone, np.zeros_like(tone)]).astype(np.float32))
    assert np.allclose(half_silent, average, atol=0.02)
    assert (mean_chroma(np.zeros(SAMPLE_RATE, np.float32)) == 0).all()


@pytest.mark.parametrize("cents", [-30, 0, 30])
def test_keys_of_noisy_cadences(cents):
    audios = [cadence(k, cents, snr=5) for k in range(24)]
    for profile in PROFILES:
        assert [template_keys(audio)[f"template-{profile}"] for audio in audios] == list(range(24))
    for profile_type in ("bgate", "edma"):
        assert [essentia_key(audio, profile_type) for audio in audios] == list(range(24))


def test_essentia_is_silent_and_keeps_no_state(capfd):
    first = essentia_key(cadence(5))
    essentia_key(cadence(18))
    assert essentia_key(cadence(5)) == first == 5
    assert 0 <= essentia_key(np.zeros(2 * SAMPLE_RATE, np.float32)) < 24
    assert capfd.readouterr() == ("", "")
    with pytest.raises(KeyMynaError, match="profile_type"):
        essentia_key(cadence(0), "nonsense")


def test_predict_all():
    table = predict_all(Cadences(), ["20", "3"], SYSTEMS, client=Processes(1), progress=False)
    assert list(table.index) == ["20", "3"] and table.index.name == "track_id"
    assert list(table.columns) == [
        "template-krumhansl",
        "template-temperley",
        "template-shaath",
        "template-albrecht",
        "template-edma",
        "template-bgate",
        "essentia-bgate",
        "essentia-edma",
    ]
    assert (table.to_numpy() == [[20], [3]]).all() and table.dtypes.eq(int).all()
    with pytest.raises(KeyMynaError, match="workers"):
        predict_all(Cadences(), ["3"], client=Processes(-1))
