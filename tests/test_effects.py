from __future__ import annotations

import numpy as np
import pytest
import scipy.signal

from keymyna_lib.corpus.sound import effects
from keymyna_lib.spectrogram import SAMPLE_RATE

TIME = np.arange(4 * SAMPLE_RATE) / SAMPLE_RATE


def sine(frequency: float, amplitude: float = 0.3) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * frequency * TIME)).astype(np.float32)


def noise(seed: int = 0, seconds: float = 4.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(round(seconds * SAMPLE_RATE), dtype=np.float32)


def level(audio: np.ndarray) -> float:
    return 10 * np.log10(np.mean(audio.astype(float) ** 2))


def partial(audio: np.ndarray, frequency: float) -> float:
    """Amplitude at a frequency [dB], of the two seconds in the middle."""
    middle = audio[SAMPLE_RATE : 3 * SAMPLE_RATE].astype(float)
    window = np.hanning(len(middle))
    turn = np.exp(-2j * np.pi * frequency * TIME[: len(middle)])
    return 20 * np.log10(2 * abs(window @ (middle * turn)) / window.sum() + 1e-12)


def strongest(audio: np.ndarray) -> float:
    middle = audio[SAMPLE_RATE : 3 * SAMPLE_RATE].astype(float)
    size = 1 << 20
    return np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle)), size))) * SAMPLE_RATE / size


def test_saturation_makes_odd_harmonics():
    bent = effects.saturate(sine(250), drive=12.0)
    # the series of tanh(A sin x), A = sqrt(2) 10^(12 / 20), by numerical integration
    angle = np.linspace(0, 2 * np.pi, 4096, endpoint=False)
    wave = np.tanh(np.sqrt(2) * 10 ** (12 / 20) * np.sin(angle))
    series = {n: 2 * abs(np.mean(wave * np.exp(-1j * n * angle))) for n in (1, 3, 5, 7)}
    for n in (3, 5, 7):
        expected = 20 * np.log10(series[n] / series[1])
        assert partial(bent, 250 * n) - partial(bent, 250) == pytest.approx(expected, abs=0.5)
    for n in (2, 4, 6):
        assert partial(bent, 250 * n) < partial(bent, 250) - 60
    assert level(bent) == pytest.approx(level(sine(250)), abs=0.01)


def test_a_biased_saturation_makes_even_harmonics_too():
    bent = effects.saturate(sine(250), drive=0.0, bias=0.3)
    assert partial(bent, 500) > partial(bent, 250) - 30


def test_little_drive_changes_little():
    assert np.abs(effects.saturate(sine(250), drive=-40.0) - sine(250)).max() < 0.01


def test_saturation_mirrors_little():
    """Of 1100 Hz, the ninth harmonic (9,900 Hz) would lie at 6,100 if sampled at 16 kHz."""
    bent = effects.saturate(sine(1100), drive=12.0)
    assert partial(bent, 6100) < partial(bent, 1100) - 40


@pytest.mark.parametrize("high", [False, True])
@pytest.mark.parametrize("gain", [-9.0, 6.0])
def test_shelving_filter(high, gain):
    section = effects.shelving_filter(1000.0, gain, high=high)
    _, response = scipy.signal.sosfreqz(section, [1, 1000, 7999.9], fs=SAMPLE_RATE)
    below, corner, above = 20 * np.log10(np.abs(response))
    assert corner == pytest.approx(gain / 2, abs=0.01)
    assert (above, below) == pytest.approx((gain, 0) if high else (0, gain), abs=0.05)


def test_equaliser_keeps_the_level_and_tilts():
    audio = noise()
    tilted = effects.equalise(audio, bands=[["low", 300.0, -12.0], ["high", 3000.0, 6.0], ["peak", 1000.0, 3.0, 1.0]])
    assert level(tilted) == pytest.approx(level(audio), abs=0.01)
    frequency, before = scipy.signal.welch(audio, SAMPLE_RATE, nperseg=4096)
    after = scipy.signal.welch(tilted, SAMPLE_RATE, nperseg=4096)[1]
    change = 10 * np.log10(after / before)
    low, high = change[(frequency > 20) & (frequency < 60)].mean(), change[frequency > 7000].mean()
    assert high - low == pytest.approx(18, abs=0.7)


def test_band_limits():
    audio = noise()
    narrow = effects.band_limit(audio, low=300.0, high=3000.0)
    frequency, power = scipy.signal.welch(narrow, SAMPLE_RATE, nperseg=4096)
    change = 10 * np.log10(power / scipy.signal.welch(audio, SAMPLE_RATE, nperseg=4096)[1])

    def warped(hertz):  # of the bilinear transform
        return np.tan(np.pi * hertz / SAMPLE_RATE)

    def butterworth(at):
        below, above = (warped(300) / warped(at)) ** 4, (warped(at) / warped(3000)) ** 8
        return -10 * np.log10((1 + below) * (1 + above))

    at = np.array([100, 300, 1000, 3000, 4500])
    measured = np.array([change[np.abs(frequency - hertz) < 0.05 * hertz].mean() for hertz in at])
    np.testing.assert_allclose(measured - measured[2], butterworth(at) - butterworth(at[2]), atol=0.7)
    open_below = effects.band_limit(audio, low=0, high=3000.0)
    assert abs(partial(open_below, 50) - partial(audio, 50) - measured[2]) < 2 and measured[0] < measured[2] - 15


def test_a_sweep_that_stands_still_is_butterworths_filter():
    for kind in ("lowpass", "highpass"):
        swept = effects.sweep(noise(), kind=kind, low=999.999, high=1000.0, period=8.0, phase=0.0)
        sections = scipy.signal.butter(2, 1000, kind, fs=SAMPLE_RATE, output="sos")
        np.testing.assert_allclose(swept, scipy.signal.sosfilt(sections, noise()), atol=1e-3)


def test_a_sweep_opens_and_closes():
    swept = effects.sweep(noise(), kind="lowpass", low=300.0, high=6000.0, period=4.0, phase=0.0)
    treble = scipy.signal.sosfilt(scipy.signal.butter(4, 3000, "highpass", fs=SAMPLE_RATE, output="sos"), swept)
    parts = [level(treble[round(at * SAMPLE_RATE) :][:4000]) for at in (0.0, 2.0, 3.75)]
    assert parts[0] > parts[1] + 20 and parts[2] > parts[1] + 20


def test_compressor_divides_what_is_above_the_threshold_by_its_ratio():
    loud, soft = 0.5, 0.05  # 20 dB apart
    step = np.where(TIME < 2, loud, soft).astype(np.float32) * np.sin(2 * np.pi * 500 * TIME).astype(np.float32)
    threshold = 20 * np.log10(soft / np.sqrt(2)) - 10 * np.log10(np.mean(step.astype(float) ** 2))
    squeezed = effects.compress(step, threshold=threshold, ratio=4.0, attack=0.01, release=0.1)
    before, after = squeezed[SAMPLE_RATE : 2 * SAMPLE_RATE], squeezed[3 * SAMPLE_RATE :]
    assert level(before) - level(after) == pytest.approx(20 / 4, abs=0.3)
    assert level(squeezed) == pytest.approx(level(step), abs=0.01)
    onset = level(squeezed[2 * SAMPLE_RATE + 1600 : 2 * SAMPLE_RATE + 1920])  # one release later, a share 1 / e is left
    assert level(after) - onset == pytest.approx(15 / np.e, abs=0.8)


def test_limiter_never_overshoots_and_leaves_the_rest():
    audio = noise()
    audio[: len(audio) // 2] *= 0.01
    limited = effects.limit(audio, gain=9.0)
    ceiling = np.abs(audio).max() * 10 ** (-9 / 20)
    assert 0.8 * ceiling < np.abs(limited).max() <= ceiling * 1.00001
    quiet = slice(0, len(audio) // 2 - 400)
    np.testing.assert_allclose(limited[quiet], audio[quiet], rtol=1e-5)


def test_limiter_keeps_a_sine_a_sine():
    """Gain that follows the wave itself would distort it."""
    limited = effects.limit(sine(440, 0.9), gain=6.0)
    assert partial(limited, 1320) < partial(limited, 440) - 50


def test_clipping():
    clipped = effects.clip(sine(250), gain=6.0)
    assert np.abs(clipped).max() == pytest.approx(0.3 * 10 ** (-6 / 20), rel=1e-4)
    assert partial(clipped, 750) > partial(clipped, 250) - 25


def test_ducking_lowers_the_level_after_a_stroke_and_only_there():
    audio, strokes = np.ones(4 * SAMPLE_RATE, np.float32), [SAMPLE_RATE, 2 * SAMPLE_RATE]
    ducked = effects.duck(audio, strokes, depth=12.0, release=0.3)
    assert ducked[SAMPLE_RATE] == pytest.approx(10 ** (-12 / 20), rel=0.01)
    assert ducked[SAMPLE_RATE + 2400] == pytest.approx(10 ** (-6 / 20), rel=0.02)  # half the release, a raised cosine
    away = np.ones(len(audio), bool)
    for stroke in strokes:
        away[stroke - 100 : stroke + 4900] = False
    np.testing.assert_array_equal(ducked[away], 1)
    np.testing.assert_array_equal(effects.duck(audio, [], depth=12.0, release=0.3), audio)
    assert np.abs(np.diff(ducked)).max() < 0.05  # no click


@pytest.mark.parametrize("cents", [-50.0, 0.0, 37.0, 1200.0])
def test_speed_moves_a_sine_by_so_many_cents(cents):
    played = effects.play_at(sine(440), cents=cents)
    assert len(played) == effects.length_at_speed(len(TIME), cents) == round(len(TIME) / 2 ** (cents / 1200))
    if cents < 100:
        assert 1200 * np.log2(strongest(played) / 440) == pytest.approx(cents, abs=0.2)
    if cents == 0:
        np.testing.assert_array_equal(played, sine(440))


def test_interpolation_is_clean_in_the_middle_and_bright_enough():
    for frequency, loss in ((440, 0.1), (2000, 1.0), (4000, 4.0)):
        played = effects.play_at(sine(frequency), cents=13.0)
        moved = frequency * 2 ** (13 / 1200)
        assert -loss < partial(played, moved) - 20 * np.log10(0.3) < 0.1


def test_wow_is_as_deep_and_as_fast_as_asked():
    played = effects.play_at(sine(1000), cents=0.0, wow=10.0, rate=0.556, seed=1)
    phase = np.unwrap(np.angle(scipy.signal.hilbert(played.astype(float))))
    pitch = 1200 * np.log2(np.diff(phase)[500:-500] * SAMPLE_RATE / (2 * np.pi) / 1000)
    slow = np.convolve(pitch, np.ones(2400) / 2400, "valid")[2000:-2000]  # 1 period of flutter
    assert slow.max() == pytest.approx(10, abs=1.5) and slow.min() == pytest.approx(-10, abs=1.5)
    assert (np.diff(np.sign(slow)) != 0).sum() in (3, 4, 5)  # 2 x 0.556 x 3.6 s


def test_chorus_beats_slowly_around_the_pitch():
    wide = effects.chorus(sine(440), depth=1.5, rate=0.8, mix=0.7)
    assert strongest(wide) == pytest.approx(440, abs=2)
    assert partial(wide, 440) < partial(sine(440), 440) - 0.5 and level(wide) == pytest.approx(
        level(sine(440)), abs=0.01
    )
    still = effects.chorus(noise(), depth=0.0, rate=0.8, mix=0.5)
    correlation = scipy.signal.correlate(still, noise(), "full")[len(TIME) - 1 :]
    assert np.argmax(correlation[1:1000]) + 1 == 240  # 15 ms


def test_hum_has_its_level_and_harmonics():
    audio = noise(seconds=4.0)
    added = effects.hum(audio, frequency=50.0, level=-30.0) - audio
    assert level(added) - level(audio) == pytest.approx(-30, abs=0.1)
    assert partial(added, 50) - partial(added, 100) == pytest.approx(6.02, abs=0.1)


def test_hiss_follows_from_its_seed():
    one, same, other = (effects.hiss(sine(440), snr=20.0, colour=1.0, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert level(one - sine(440)) - level(sine(440)) == pytest.approx(-20, abs=0.1)
    assert np.abs(np.corrcoef(one - sine(440), other - sine(440))[0, 1]) < 0.1


@pytest.mark.parametrize("format", ["mp3", "ogg"])
@pytest.mark.parametrize("length", [16_000, 47_999])
def test_coding_keeps_length_place_and_level(format, length):
    audio = scipy.signal.lfilter([0.1], [1, -0.9], noise())[:length].astype(np.float32)  # most of it below 1 kHz
    coded = effects.code(audio * 7, format=format, level=0.8) / 7
    assert coded.shape == audio.shape and coded.dtype == np.float32
    lags = scipy.signal.correlate(coded, audio, "full")
    assert np.argmax(lags) == length - 1  # not late
    assert np.corrcoef(coded, audio)[0, 1] > 0.8 and not np.array_equal(coded, audio)
    assert level(coded) == pytest.approx(level(audio), abs=1)


def test_worse_quality_is_worse():
    for format, levels in (("mp3", (0.6, 0.97)), ("ogg", (0.0, 1.0))):
        better, worse = (effects.code(noise(), format=format, level=at) for at in levels)
        assert np.corrcoef(better, noise())[0, 1] > np.corrcoef(worse, noise())[0, 1] + 0.01


PARAMETERS = {
    "saturate": {"drive": 10.0, "bias": 0.2},
    "equalise": {"bands": [["low", 100.0, 3.0]]},
    "band_limit": {"low": 100.0, "high": 4000.0},
    "sweep": {"kind": "lowpass", "low": 300.0, "high": 3000.0, "period": 5.0, "phase": 0.2},
    "compress": {"threshold": -10.0, "ratio": 3.0, "attack": 0.01, "release": 0.2},
    "limit": {"gain": 6.0},
    "clip": {"gain": 3.0},
    "chorus": {"depth": 1.0, "rate": 0.5, "mix": 0.5},
    "play_at": {"cents": 20.0, "wow": 3.0, "seed": 1},
    "hiss": {"snr": 20.0, "colour": 1.0, "seed": 1},
    "hum": {"frequency": 50.0, "level": -30.0},
    "code": {"format": "mp3", "level": 0.8},
}


@pytest.mark.parametrize("name", effects.EFFECTS)
def test_every_effect_is_pure_and_leaves_silence_silent(name):
    effect, parameters = effects.EFFECTS[name], PARAMETERS[name]
    silent = effect(np.zeros(16_001, np.float32), **parameters)
    assert not silent.any()
    audio = noise(seconds=1.01)
    kept = audio.copy()
    once, again = effect(audio, **parameters), effect(audio, **parameters)
    np.testing.assert_array_equal(audio, kept)
    np.testing.assert_array_equal(once, again)
    assert once.dtype == np.float32 and np.isfinite(once).all()
    assert len(once) == (effects.length_at_speed(len(audio), 20.0) if name == "play_at" else len(audio))
