"""Key detection without training: key profiles on chroma or on a score's own notes, and essentia's extractor.

Conventions: a histogram or chroma vector has 12 pitch classes, C first; a key is an index of
`keymyna_lib.keys`. Chance has a closed form and is computed in `keymyna_lib.evaluate`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.chroma import mean_chroma
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.spectrogram import SAMPLE_RATE


class Profile(NamedTuple):
    """How well each pitch class fits a key: weights from the tonic upwards in semitones, for each mode."""

    major: tuple[float, ...]
    minor: tuple[float, ...]
    source: str


PROFILES: dict[str, Profile] = {
    "krumhansl": Profile(
        (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
        (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
        "Listeners' probe-tone ratings: Krumhansl & Kessler, Psychological Review 89(4), 1982; tabulated in "
        "Krumhansl, Cognitive Foundations of Musical Pitch, Oxford University Press, 1990",
    ),
    "temperley": Profile(
        (0.748, 0.060, 0.488, 0.082, 0.670, 0.460, 0.096, 0.715, 0.104, 0.366, 0.057, 0.400),
        (0.712, 0.084, 0.474, 0.618, 0.049, 0.460, 0.105, 0.747, 0.404, 0.067, 0.133, 0.330),
        "Share of the segments of the Kostka-Payne textbook corpus that hold the pitch class: Temperley, A "
        "Bayesian key-finding model, MIREX 2005 (not the hand-adjusted one of Music Perception 17(1), 1999)",
    ),
    "shaath": Profile(
        (6.6, 2.0, 3.5, 2.3, 4.6, 4.0, 2.5, 5.2, 2.4, 3.7, 2.3, 3.4),
        (6.5, 2.7, 3.5, 5.4, 2.6, 3.5, 2.5, 5.2, 4.0, 2.7, 4.3, 3.2),
        "Krumhansl's ratings adapted to popular and electronic music: Sha'ath, Estimation of key in digital "
        "music recordings, MSc report, Birkbeck, University of London, 2011 (KeyFinder; libKeyFinder later "
        "changed its numbers)",
    ),
    "albrecht": Profile(
        (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
        (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
        "Share of each pitch class in the first and last bars of common-practice music: Albrecht & Shanahan, The use "
        "of large corpora to train a new type of key-finding algorithm, Music Perception 31(1), 2013 (who compare by "
        "distance; here, as for all profiles, by correlation)",
    ),
    "edma": Profile(
        (1.00, 0.29, 0.50, 0.40, 0.60, 0.56, 0.32, 0.80, 0.31, 0.45, 0.42, 0.39),
        (1.00, 0.31, 0.44, 0.58, 0.33, 0.49, 0.29, 0.78, 0.43, 0.29, 0.53, 0.32),
        "Mean chroma of electronic dance music: Faraldo, Gómez, Jordà & Herrera, Key estimation in electronic dance "
        "music, ECIR 2016",
    ),
    "bgate": Profile(
        (1.00, 0.00, 0.42, 0.00, 0.53, 0.37, 0.00, 0.77, 0.00, 0.38, 0.21, 0.30),
        (1.00, 0.00, 0.36, 0.39, 0.00, 0.38, 0.00, 0.74, 0.27, 0.00, 0.42, 0.23),
        "Median chroma of electronic dance music, the four weakest classes set to zero: Faraldo, Jordà & Herrera, A "
        "multi-profile method for key estimation in EDM, AES Semantic Audio 2017",
    ),
}


@functools.cache
def _templates(profile: str) -> np.ndarray:
    """The 24 keys' profiles, (key, pitch class), each with zero mean and unit length."""
    if profile not in PROFILES:
        raise KeyMynaError(f"profile {profile!r}: expected one of {', '.join(PROFILES)}.")
    weights = PROFILES[profile]
    rows = np.array([np.roll(getattr(weights, keys.mode(k)), keys.tonic(k)) for k in range(keys.N_KEYS)])
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def profile_correlation(histogram: np.ndarray, profile: str = "krumhansl") -> np.ndarray:
    """Pearson correlation of pitch-class weights with each key's profile (Krumhansl and Schmuckler's method).

    Parameters
    ----------
    histogram : (..., pitch class), C first; durations, counts or chroma in any unit.
    profile : one of `PROFILES`.

    Returns
    -------
    (..., key) in [-1, 1]; 0 for every key where the histogram is constant (silence).

    Raises
    ------
    KeyMynaError
        When the profile is unknown, or the last axis is not 12 finite numbers.
    """
    histogram = np.asarray(histogram, dtype=np.float64)
    if histogram.shape[-1:] != (12,) or not np.isfinite(histogram).all():
        raise KeyMynaError(f"histogram of shape {histogram.shape}: expected 12 finite numbers per row.")
    centred = histogram - histogram.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    flat = norm <= 1e-12 * np.abs(histogram).max(axis=-1, keepdims=True)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, norm)) @ _templates(profile).T


def profile_key(histogram: np.ndarray, profile: str = "krumhansl") -> np.ndarray:
    """Best-correlated key of pitch-class weights: (..., pitch class) -> (...) int; the first of equals.

    On the durations of a score's own notes this is the ceiling of template methods, free of any transcription
    error. Parameters and errors as in `profile_correlation`.
    """
    return profile_correlation(histogram, profile).argmax(axis=-1)


@functools.cache
def _key_extractor(profile_type: str) -> Any:
    import essentia

    essentia.log.infoActive = essentia.log.warningActive = False
    import essentia.standard

    try:
        return essentia.standard.KeyExtractor(profileType=profile_type, sampleRate=SAMPLE_RATE)
    except RuntimeError as error:
        raise KeyMynaError(f"profile_type {profile_type!r} is not one of essentia's KeyExtractor.") from error


def essentia_key(audio: np.ndarray, profile_type: str = "bgate") -> int:
    """Key of a recording by essentia's KeyExtractor (Faraldo et al., ECIR 2016, and AES Semantic Audio 2017).

    Parameters
    ----------
    audio : (sample,) in [-1, 1] at 16 kHz.
    profile_type : essentia's name; its default "bgate" and "edma" come from electronic dance music.

    Notes
    -----
    The sample rate is set, all else is essentia's default: 4,096-sample frames (256 ms here, 93 ms at 44.1
    kHz), spectral peaks from 25 to 3,500 Hz, which 16 kHz holds in full.
    """
    tonic, mode, _ = _key_extractor(profile_type)(np.ascontiguousarray(audio, dtype=np.float32))
    return keys.parse_key(f"{tonic} {mode}")


def template_keys(audio: np.ndarray) -> dict[str, int]:
    """Key of a recording by every profile, "template-<profile>" -> key, from one chroma."""
    average = mean_chroma(audio)
    return {f"template-{profile}": int(profile_key(average, profile)) for profile in PROFILES}


def essentia_keys(audio: np.ndarray) -> dict[str, int]:
    """Key of a recording by essentia's default profile and by "edma", "essentia-<profile>" -> key."""
    return {f"essentia-{profile}": essentia_key(audio, profile) for profile in ("bgate", "edma")}


System = Callable[[np.ndarray], dict[str, int]]  # (sample,) audio -> {system's name: key}
SYSTEMS: tuple[System, ...] = (template_keys, essentia_keys)


def _predict(systems: Sequence[System], corpus: Any, track_id: str) -> dict[str, int]:
    audio = corpus.audio(track_id)
    return {name: key for system in systems for name, key in system(audio).items()}


def predict_all(
    corpus: Any,
    track_ids: Sequence[str],
    systems: Sequence[System] = SYSTEMS,
    *,
    client: Executor = HERE,
    progress: bool = True,
) -> pd.DataFrame:
    """Keys of tracks by each control, on all cores.

    Parameters
    ----------
    corpus : as `keymyna_lib.corpus.corpus.open_corpus` returns it.
    systems : functions of a module (or partials of them): (sample,) float32 -> {name: key}.
    client : where to work, see `cluster.connect`. The result does not depend on it.

    Returns
    -------
    Estimated keys (int), one row per track (index `track_id`) in the order given, one column per system.
    """
    work, tasks = functools.partial(_predict, tuple(systems), corpus), [(track,) for track in track_ids]
    rows = client.map(work, tasks, desc="controls", unit="track", ordered=True, show=progress)
    return pd.DataFrame([row for _, row in rows], index=pd.Index(track_ids, name="track_id"), dtype=int)
