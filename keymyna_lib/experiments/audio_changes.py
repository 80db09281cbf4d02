"""Common changes of audio, to test what embeddings and predictions withstand (not used in any training).

Audio is (sample,) at 16 kHz in [-1, 1]. The paper names the kinds of change; their strengths are our choice:
each is plainly audible, and leaves the key recognisable.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.signal

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.sound import effects
from keymyna_lib.spectrogram import SAMPLE_RATE


@dataclass(frozen=True)
class Augmentation:
    """One change of the audio, to be called as `augmentation(audio, rng)`.

    Attributes
    ----------
    name, family, label : identifier; group that shares a colour in figures; words for figures and tables.
    function : (sample,), generator -> (sample,); deterministic given the generator.
    shift : semitones by which the key moves; 0 for everything but a pitch shift.
    """

    name: str
    family: str
    label: str
    function: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    shift: int = 0

    def __call__(self, audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change the audio; the result is float32, of the same length unless time is stretched.

        A result that passes full scale is scaled down as a whole to a peak of 1: that keeps a signal-to-noise
        ratio or a frequency response, and clips nothing. Only gain may leave [-1, 1]: scaling back would undo
        it, and nothing downstream clips floating-point samples.

        Raises
        ------
        KeyMynaError
            When the audio is not one channel of finite floating-point samples, at least 1 s of them.
        """
        audio = np.asarray(audio)
        if audio.ndim != 1 or len(audio) < SAMPLE_RATE or audio.dtype.kind != "f" or not np.isfinite(audio).all():
            raise KeyMynaError(
                f"{self.name}: audio of shape {audio.shape}, {audio.dtype}: expected one "
                "channel of at least 1 s, finite floating-point samples."
            )
        changed = self.function(audio.astype(np.float32), rng)
        if self.family != "gain":
            changed = changed / max(1.0, np.abs(changed).max())
        return np.asarray(changed, dtype=np.float32)


def _rms(audio: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(audio))))


def add_noise(audio: np.ndarray, rng: np.random.Generator, *, snr: float, exponent: float) -> np.ndarray:
    """Gaussian noise with a power spectrum of 1 / f**exponent (0 white, 1 pink; level below 20 Hz).

    The ratio of the whole recording's mean power to the noise's is `snr` dB exactly.
    """
    spectrum = np.fft.rfft(rng.standard_normal(len(audio)))
    frequency = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    noise = np.fft.irfft(spectrum * np.maximum(frequency, 20.0) ** (-exponent / 2), len(audio))
    return audio + noise * (_rms(audio) / _rms(noise) * 10 ** (-snr / 20))


def butterworth(audio: np.ndarray, rng: np.random.Generator, *, kind: str, cutoff: float) -> np.ndarray:
    """Fourth-order Butterworth "lowpass" or "highpass": -3 dB at `cutoff` Hz, then 24 dB per octave."""
    return scipy.signal.sosfilt(scipy.signal.butter(4, cutoff, kind, fs=SAMPLE_RATE, output="sos"), audio)


def equalise(audio: np.ndarray, rng: np.random.Generator, *, bands: int, gain: float) -> np.ndarray:
    """Random peaking bands, level kept: centres log-uniform, 80 Hz to 6 kHz; +-`gain` dB; Q 0.7 to 2."""
    sections = [
        effects.peaking_filter(80 * 75 ** rng.uniform(), rng.uniform(-gain, gain), rng.uniform(0.7, 2.0))
        for _ in range(bands)
    ]
    changed = scipy.signal.sosfilt(np.concatenate(sections), audio)
    return changed * (_rms(audio) / max(_rms(changed), 1e-12))


def apply_gain(audio: np.ndarray, rng: np.random.Generator, *, gain: float) -> np.ndarray:
    """Every sample times `gain` dB."""
    return audio * 10 ** (gain / 20)


def reverberate(audio: np.ndarray, rng: np.random.Generator, *, decay: tuple[float, float]) -> np.ndarray:
    """Direct sound and an equally strong diffuse tail: noise that falls by 60 dB in a time within `decay` s.

    The tail sets in after 10 ms; its decay time is drawn uniformly. Length and level are the input's.
    """
    time = rng.uniform(*decay)
    tail = rng.standard_normal(int(time * SAMPLE_RATE))
    tail *= 10 ** (-3 * np.arange(len(tail)) / len(tail))
    response = np.concatenate([[1.0], np.zeros(SAMPLE_RATE // 100), tail / np.linalg.norm(tail)])
    changed = scipy.signal.oaconvolve(audio, response)[: len(audio)]
    return changed * (_rms(audio) / max(_rms(changed), 1e-12))


def stretch(audio: np.ndarray, rng: np.random.Generator, *, rate: float) -> np.ndarray:
    """librosa's phase vocoder: `rate` times as fast at the same pitch, samples / rate long."""
    import librosa

    return librosa.effects.time_stretch(audio, rate=rate)


def shift_pitch(audio: np.ndarray, rng: np.random.Generator, *, semitones: int) -> np.ndarray:
    """librosa's phase vocoder and resampler: `semitones` higher at the same tempo and length."""
    import librosa

    return librosa.effects.pitch_shift(audio, sr=SAMPLE_RATE, n_steps=semitones)


def code_mp3(audio: np.ndarray, rng: np.random.Generator, *, level: float) -> np.ndarray:
    """`effects.code_mp3`."""
    return effects.code_mp3(audio, level=level)


def _registry() -> dict[str, Augmentation]:
    def entry(name: str, family: str, label: str, function: Callable, shift: int = 0, **options: Any) -> Augmentation:
        return Augmentation(name, family, label, functools.partial(function, **options), shift)

    listed = [
        entry("white_noise", "noise", "white noise, 0 dB SNR", add_noise, snr=0.0, exponent=0.0),
        entry("pink_noise", "noise", "pink noise, 5 dB SNR", add_noise, snr=5.0, exponent=1.0),
        entry("low_pass", "filter", "low-pass, 2 kHz", butterworth, kind="lowpass", cutoff=2000.0),
        entry("high_pass", "filter", "high-pass, 500 Hz", butterworth, kind="highpass", cutoff=500.0),
        entry("equaliser", "equaliser", "equaliser, 4 bands, ±12 dB", equalise, bands=4, gain=12.0),
        entry("softer", "gain", "gain −12 dB", apply_gain, gain=-12.0),
        entry("louder", "gain", "gain +12 dB", apply_gain, gain=12.0),
        entry("reverb", "reverb", "reverb, 0.5 to 1.5 s", reverberate, decay=(0.5, 1.5)),
        entry("slower", "tempo", "tempo × 0.8", stretch, rate=0.8),
        entry("faster", "tempo", "tempo × 1.25", stretch, rate=1.25),
        entry("mp3", "coding", "MP3, 16 kbit/s", code_mp3, level=0.95),
    ] + [
        entry(
            f"pitch{n:+d}",
            "pitch",
            f"pitch {n:+d} semitone{'s' * (abs(n) > 1)}".replace("-", "−"),
            shift_pitch,
            n,
            semitones=n,
        )
        for n in (-2, -1, 1, 2, 6)
    ]
    return {augmentation.name: augmentation for augmentation in listed}


AUGMENTATIONS: dict[str, Augmentation] = _registry()
