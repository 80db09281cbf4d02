"""Tiny recordings of a known key, for the tests of data sets: a cadence of triads, as wav, flac, ogg or mp3."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile


def cadence(key: int, seconds: float, sample_rate: int = 16000, seed: int = 0) -> np.ndarray:
    """(sample,) float32: I-IV-V-I of a key 0..23, one triad a second, with a little noise."""
    tonic, third = key % 12, 4 if key < 12 else 3
    rng = np.random.default_rng([seed, key])
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    audio = 0.002 * rng.standard_normal(len(time))
    for beat in range(int(np.ceil(seconds))):
        root = 48 + tonic + (0, 5, 7, 0)[beat % 4]
        notes = (root, root + (4 if beat % 4 == 2 else third), root + 7, 48 + tonic - 12)
        here = (time >= beat) & (time < beat + 1)
        for note in notes:
            audio[here] += 0.12 * np.sin(2 * np.pi * 440 * 2 ** ((note - 69) / 12) * time[here])
    return audio.astype(np.float32)


def write(
    path: Path, key: int, seconds: float = 8.0, sample_rate: int = 22050, channels: int = 1, seed: int = 0
) -> None:
    """Write a cadence as a sound file, by the ending of its name; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    audio = cadence(key, seconds, sample_rate, seed)
    formats = {".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".mp3": "MP3", ".au": "AU"}
    soundfile.write(path, np.repeat(audio[:, None], channels, axis=1), sample_rate, format=formats[path.suffix])
