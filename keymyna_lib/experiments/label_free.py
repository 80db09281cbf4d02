"""What can be measured of a key estimator without labels: whether it agrees with itself.

Two measures, for any system that names a key (our choice):

    halves          the first half of a recording and the second one; a recording that modulates lowers it
    transposition   a recording and its transpositions by known semitones, each answer transposed back

Neither says that an answer is right: one that is wrong in the same way every time agrees with itself. A system that
always names one key is perfect by halves and useless by transposition, so read both, beside what chance would give:
the agreement of answers to different recordings.

Audio is transposed by resampling, as a record that turns faster or slower: no vocoder leaves its marks, and the tempo
changes by the same factor, which has no part in the key. What an upward transposition carries past 8 kHz is lost.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import soxr

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.evaluate import NO_KEY, bootstrap_interval, mirex_scores
from keymyna_lib.experiments.controls import System
from keymyna_lib.features import cut_windows, embed
from keymyna_lib.front_ends import power
from keymyna_lib.key_model import KeyModel
from keymyna_lib.keys import N_KEYS, transpose
from keymyna_lib.spectrogram import N_FFT, SAMPLE_RATE, compress, window_starts

WHOLE, FIRST, SECOND = "whole", "first half", "second half"
SHIFTS = (-5, -3, -1, 2, 4, 6)  # semitones: every distance on the circle of fifths, 1 to 6, once
MEASURES = ("halves", "transposition")


@dataclass(frozen=True)
class ModelSystem:
    """A key model as a system of `controls.predict_all` and `listen`: always with an answer, however doubtful."""

    name: str
    model: KeyModel

    def __call__(self, audio: np.ndarray) -> dict[str, int]:
        """The key of (sample,) audio: argmax of the mean output over windows."""
        model = self.model
        stored = compress(power(audio, model.encoder.config.front_end))
        windows = cut_windows(stored, window_starts(stored.shape[1], model.frames), model.frames)
        outputs = model.probabilities(embed(model.encoder, windows))
        return {self.name: int(outputs.mean(axis=0, dtype=np.float64).argmax())}


def transposed(audio: np.ndarray, semitones: float) -> np.ndarray:
    """(sample,) audio played faster, so that it sounds so many semitones higher; slower for negative ones."""
    if semitones == 0:
        return audio
    return soxr.resample(audio, SAMPLE_RATE, SAMPLE_RATE / 2 ** (semitones / 12), quality="HQ")


def listen(
    corpus: Any,
    track_ids: Sequence[str],
    systems: Sequence[System],
    *,
    shifts: Sequence[int] = SHIFTS,
    client: Executor = HERE,
    progress: bool = True,
) -> pd.DataFrame:
    """What systems answer to the whole of each recording, to its halves, and to its transpositions.

    Parameters
    ----------
    corpus : as `corpus.open_corpus` returns it.
    systems : functions of a module, partials of them, or `ModelSystem`: (sample,) float32 -> {name: key, or NO_KEY}.
    shifts : semitones, other than 0.
    client : where to work, see `cluster.connect`.

    Returns
    -------
    One row per track, system and part: track_id, system, part (WHOLE, FIRST, SECOND), shift (of the audio that was
    heard), estimate (as answered: of the transposed audio).

    Raises
    ------
    KeyMynaError
        When there is no track or no shift, a shift is 0 or not whole, or half a recording is too short to be heard.
    """
    if not len(track_ids) or not len(shifts) or not all(shift == int(shift) != 0 for shift in shifts):
        raise KeyMynaError(
            f"{len(track_ids)} tracks, shifts {list(shifts)}: expected at least one track, and whole semitones but 0."
        )
    work = functools.partial(_answers, tuple(systems), tuple(map(int, shifts)), corpus)
    tasks = [(track,) for track in track_ids]
    done = client.map(work, tasks, desc="agreement", unit="track", ordered=True, show=progress)
    rows = [row for _, answers in done for row in answers]
    return pd.DataFrame(rows, columns=["track_id", "system", "part", "shift", "estimate"])


def _answers(
    systems: Sequence[System], shifts: Sequence[int], corpus: Any, track_id: str
) -> list[tuple[str, str, str, int, int]]:
    audio = corpus.audio(track_id)
    middle = len(audio) // 2
    if middle <= N_FFT:
        raise KeyMynaError(f"track {track_id} is too short to be heard by halves: {len(audio) / SAMPLE_RATE:.2f} s.")
    heard = [(WHOLE, 0, audio), (FIRST, 0, audio[:middle]), (SECOND, 0, audio[middle:])]
    heard += [(WHOLE, shift, transposed(audio, shift)) for shift in shifts]
    return [
        (track_id, name, part, shift, key)
        for part, shift, samples in heard
        for system in systems
        for name, key in system(samples).items()
    ]


def pairs(answers: pd.DataFrame) -> pd.DataFrame:
    """The answers that should be the same, side by side.

    Parameters
    ----------
    answers : of `listen`.

    Returns
    -------
    One row per system, measure (MEASURES), track and shift (0 for halves): system, measure, track_id, shift, one and
    other (keys of the recording at its own pitch), same (0 or 1), weighted (MIREX, both fifths; 0 without a key).
    """
    answers = answers.assign(
        estimate=np.where(
            answers["estimate"] == NO_KEY,
            NO_KEY,
            transpose(answers["estimate"].clip(lower=0).to_numpy(), -answers["shift"].to_numpy()),
        )
    )
    by = ["system", "track_id"]
    part = {
        name: answers[(answers["part"] == name) & (answers["shift"] == 0)].set_index(by)["estimate"]
        for name in (WHOLE, FIRST, SECOND)
    }
    halves = (
        pd.DataFrame({"one": part[FIRST], "other": part[SECOND]}).reset_index().assign(measure=MEASURES[0], shift=0)
    )
    moved = answers[answers["shift"] != 0].rename(columns={"estimate": "other"})
    moved = moved.join(part[WHOLE].rename("one"), on=by).assign(measure=MEASURES[1])
    columns = ["system", "measure", "track_id", "shift", "one", "other"]
    table = pd.concat([halves[columns], moved[columns]], ignore_index=True)
    one, other = (table[name].to_numpy() for name in ("one", "other"))
    known = (one != NO_KEY) & (other != NO_KEY)
    return table.assign(
        same=(known & (one == other)).astype(float),
        weighted=np.where(known, mirex_scores(np.where(known, one, 0), np.where(known, other, 0), fifths="both"), 0.0),
    )


def agreement(
    answers: pd.DataFrame, *, groups: pd.Series | None = None, n_resamples: int = 2000, seed: int
) -> pd.DataFrame:
    """How often each system agrees with itself.

    Parameters
    ----------
    answers : of `listen`.
    groups : of tracks that are drawn together for the intervals, such as the manifest's column recording, by track_id.
    n_resamples, seed : of the bootstrap over tracks, see `evaluate.bootstrap_interval`.

    Returns
    -------
    One row per system and measure, in the order of the answers: system, measure, tracks; same and weighted, means over
    tracks in 0..1, each with its 95 % interval (same_low, same_high, ...); and their expectation where the two answers
    are to different recordings, drawn independently (same_chance, weighted_chance).
    """
    table, rows = pairs(answers), []
    for system in answers["system"].unique():
        for measure in MEASURES:
            part = table[(table["system"] == system) & (table["measure"] == measure)]
            means = part.groupby("track_id", sort=False)[["same", "weighted"]].mean()
            row = {"system": system, "measure": measure, "tracks": len(means)}
            chance = _by_chance(part)
            together = None if groups is None else groups.loc[means.index].to_numpy()
            for name, expected in zip(("same", "weighted"), chance):
                low, high = bootstrap_interval(
                    means[name].to_numpy(), groups=together, n_resamples=n_resamples, seed=seed
                )
                row |= {name: means[name].mean(), f"{name}_low": low, f"{name}_high": high, f"{name}_chance": expected}
            rows.append(row)
    return pd.DataFrame(rows)


def right_where_agreed(
    answers: pd.DataFrame, keys: pd.Series, *, groups: pd.Series | None = None, n_resamples: int = 2000, seed: int
) -> pd.DataFrame:
    """What agreement says about being right, on recordings whose keys are known after all.

    Parameters
    ----------
    answers : of `listen`. keys : 0 to 23, by track_id.
    groups, n_resamples, seed : as in `agreement`.

    Returns
    -------
    One row per system and whether its answers to the two halves were the same key, where that happened: system, agreed
    (bool), tracks, right (share of them whose key, of the whole, is right), low, high (95 %).
    """
    whole = answers[(answers["part"] == WHOLE) & (answers["shift"] == 0)].set_index(["system", "track_id"])["estimate"]
    halves = pairs(answers).query("measure == @MEASURES[0]").set_index(["system", "track_id"])["same"] == 1
    table = pd.DataFrame({"estimate": whole, "agreed": halves}).reset_index()
    table["right"] = table["estimate"].to_numpy() == keys.loc[table["track_id"]].to_numpy()
    rows = []
    for (system, agreed), part in table.groupby(["system", "agreed"], sort=False):
        together = None if groups is None else groups.loc[part["track_id"]].to_numpy()
        right = part["right"].to_numpy(float)
        low, high = bootstrap_interval(right, groups=together, n_resamples=n_resamples, seed=seed)
        row = {"system": system, "agreed": bool(agreed), "tracks": len(part), "right": right.mean()}
        rows.append(row | {"low": low, "high": high})
    return pd.DataFrame(rows)


def _by_chance(part: pd.DataFrame) -> tuple[float, float]:
    """Expected `same` and `weighted` of the first answers and the second ones, each to a recording drawn at random."""
    one, other = (
        np.bincount(part[name][part[name] != NO_KEY], minlength=N_KEYS) / len(part) for name in ("one", "other")
    )
    every, each = np.repeat(np.arange(N_KEYS), N_KEYS), np.tile(np.arange(N_KEYS), N_KEYS)
    scores = mirex_scores(every, each, fifths="both").reshape(N_KEYS, N_KEYS)
    return float(one @ other), float(one @ scores @ other)
