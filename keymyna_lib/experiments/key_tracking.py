"""Key over time measured on music whose key changes: a key model and a template, smoothed and not, and one key for all.

The score is the MIREX weighted score of every moment, averaged over time; boundaries count as found within 3 s, as in
the structural segmentation of MIREX.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.chroma import mean_chroma
from keymyna_lib.corpus.rendered.local_keys import LocalKey, Passage
from keymyna_lib.corpus.store import to_float, track_spectrogram
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments.controls import profile_correlation
from keymyna_lib.features import cut_windows, embed
from keymyna_lib.key_model import KeyModel
from keymyna_lib.key_over_time import Segment, Timeline, dense_starts, timeline, window_edges
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE, window_starts

SMOOTHED, WINDOWS, WHOLE = "smoothed", "windows alone", "one key"
TEMPLATE, SMOOTHED_TEMPLATE = "template", "template, smoothed"
SYSTEMS = (SMOOTHED, WINDOWS, WHOLE, SMOOTHED_TEMPLATE, TEMPLATE)
_SHARPNESS = 10.0  # by which correlations are multiplied to be log likelihoods; with it goes the persistence chosen
TOLERANCE = 3.0  # s
PERSISTENCES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # nats

Spans = Sequence[LocalKey] | Sequence[Segment]


@dataclass(frozen=True, eq=False)
class Heard:
    """What is needed of a passage to judge its key over time, whatever the persistence.

    name : of the passage. truth : its local keys.
    probabilities : (window, key) calibrated, of windows that overlap. weights, edges [s] : as of `key_over_time`.
    whole : key of the passage as a whole.
    template : (window, key) correlations of the windows' chroma with a key profile.
    """

    name: str
    truth: tuple[LocalKey, ...]
    probabilities: np.ndarray
    edges: np.ndarray
    weights: np.ndarray
    whole: int
    template: np.ndarray


def hear(model: KeyModel, passage: Passage, *, profile: str = "temperley") -> Heard:
    """Render a passage and listen to it.

    Parameters
    ----------
    profile : of the template, see `controls.PROFILES`.
    """
    samples, frames = passage.audio(), model.frames
    picture = torch.from_numpy(track_spectrogram(samples, model.encoder.config.front_end)).T
    starts = dense_starts(picture.shape[1], frames)
    found = model.probabilities(embed(model.encoder, cut_windows(picture, starts, frames)))
    whole = found[np.isin(starts, window_starts(picture.shape[1], frames))].mean(axis=0)
    edges, weights = window_edges(starts, frames, picture.shape[1])
    audio = to_float(samples)
    chroma = [mean_chroma(audio[HOP * start : HOP * (start + frames)]) for start in starts]
    return Heard(
        passage.name,
        passage.local_keys,
        model.calibrated(found),
        edges * HOP / SAMPLE_RATE,
        weights,
        int(whole.argmax()),
        profile_correlation(np.stack(chroma), profile),
    )


def timeline_of(heard: Heard, persistence: float, *, template: bool = False) -> Timeline:
    """The key over time by the model's windows, or by the template's."""
    likely = np.exp(_SHARPNESS * heard.template) if template else heard.probabilities
    return timeline(likely, heard.edges, heard.weights, persistence)


def smooth(heard: Heard, persistence: float, *, template: bool = False) -> tuple[Segment, ...]:
    """The segments of `timeline_of`."""
    return timeline_of(heard, persistence, template=template).segments


def answers(heard: Heard, persistence: float, template_persistence: float) -> dict[str, tuple[Segment, ...]]:
    """The key over time of each of SYSTEMS."""
    return {
        SMOOTHED: smooth(heard, persistence),
        WINDOWS: smooth(heard, 0.0),
        WHOLE: (Segment(float(heard.edges[0]), float(heard.edges[-1]), heard.whole, 1.0),),
        SMOOTHED_TEMPLATE: smooth(heard, template_persistence, template=True),
        TEMPLATE: smooth(heard, 0.0, template=True),
    }


def score_over_time(reference: Spans, estimate: Spans) -> float:
    """MIREX weighted score, both fifths, averaged over the time that the reference covers.

    A moment that the estimate leaves out scores 0.

    Parameters
    ----------
    reference, estimate : spans with start, end [s] and key, in order, none overlapping another.

    Raises
    ------
    KeyMynaError
        When the reference covers no time.
    """
    total = gained = 0.0
    for span in reference:
        total += span.end - span.start
        shared = [(min(span.end, other.end) - max(span.start, other.start), other.key) for other in estimate]
        shared = [(length, key) for length, key in shared if length > 0]
        if shared:
            lengths, keys = zip(*shared)
            gained += float(mirex_scores([span.key] * len(keys), list(keys), fifths="both") @ np.array(lengths))
    if total <= 0:
        raise KeyMynaError("the reference covers no time: give at least one span that ends after it starts.")
    return gained / total


def boundaries(spans: Spans) -> np.ndarray:
    """Moments at which the key changes [s]; beginning and end are none."""
    found = [(span.start, span.key) for span in spans]
    return np.array([start for (_, before), (start, key) in pairwise(found) if before != key])


def boundary_hits(reference: np.ndarray, estimate: np.ndarray, tolerance: float = TOLERANCE) -> int:
    """Most pairs of a reference and an estimated boundary within `tolerance` [s] of each other, each used once.

    Going through both in order finds the most: whatever could be matched later cannot use an earlier one better.
    """
    hits = i = j = 0
    while i < len(reference) and j < len(estimate):
        distance = estimate[j] - reference[i]
        if abs(distance) <= tolerance:
            hits, i, j = hits + 1, i + 1, j + 1
        elif distance < 0:
            j += 1
        else:
            i += 1
    return hits


def judge(heard: Iterable[Heard], persistence: float, template_persistence: float) -> pd.DataFrame:
    """Rows of passage, system, score over time, and of boundaries how many there are (reference), estimated and hit."""
    rows = []
    for one in heard:
        there = boundaries(one.truth)
        for system, found in answers(one, persistence, template_persistence).items():
            told = boundaries(found)
            hits = boundary_hits(there, told)
            rows.append((one.name, system, score_over_time(one.truth, found), len(there), len(told), hits))
    return pd.DataFrame(rows, columns=["passage", "system", "score", "reference", "estimated", "hits"])


def f_measure(rows: pd.DataFrame) -> float:
    """Harmonic mean of precision and recall of all boundaries of some rows of `judge` together; 0 without any."""
    counted = rows["reference"].sum() + rows["estimated"].sum()
    return float(2 * rows["hits"].sum() / counted) if counted else 0.0


def judge_in_folds(heard: Sequence[Heard], folds: int = 2) -> pd.DataFrame:
    """As `judge`, where each fold (every so many-th passage) is judged with what is best on the others.

    For music unlike that of the validation songs, of which there is too little to set some aside.

    Raises
    ------
    KeyMynaError
        When there are fewer passages than folds.
    """
    if len(heard) < folds:
        raise KeyMynaError(f"{len(heard)} passages do not make {folds} folds.")
    tables = []
    for fold in range(folds):
        others = [one for i, one in enumerate(heard) if i % folds != fold]
        chosen = choose_persistence(others), choose_persistence(others, template=True)
        tables.append(judge(heard[fold::folds], *chosen))
    return pd.concat(tables, ignore_index=True)


def choose_persistence(
    heard: Sequence[Heard], choices: Sequence[float] = PERSISTENCES, *, template: bool = False
) -> float:
    """The persistence of highest mean score over time; of equals the largest, which changes key least.

    Parameters
    ----------
    heard : passages of a validation set.
    template : whether for the template, or for the model.
    """

    def mean_score(persistence: float) -> float:
        scores = [score_over_time(one.truth, smooth(one, persistence, template=template)) for one in heard]
        return float(np.mean(scores))

    return max(sorted(choices, reverse=True), key=lambda persistence: round(mean_score(persistence), 9))
