"""Key over time: the keys of overlapping windows, smoothed by a hidden Markov model, and the segments that they form.

The states are the 24 keys, all equally likely at first. A window's probabilities are, up to a factor, the likelihoods
of what is heard in it (all keys being equally likely beforehand); windows that overlap hear the same music several
times, and their log likelihoods count as much less. Going on to another key is less probable the farther it is. The
model is the usual one of key estimation (Noland and Sandler, "Key estimation using a hidden Markov model", ISMIR 2006);
its distances and windows are our choice.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.spectrogram import window_starts

OVERLAP = 4  # windows that hear the same moment
PERSISTENCE = 4.0  # nats; before a validation set has its say


class Segment(NamedTuple):
    """A stretch in one key.

    start, end : [s].
    key : 0 to 23.
    confidence : mean probability of the key over the segment, smoothed, 0 to 1.
    """

    start: float
    end: float
    key: int
    confidence: float


class Timeline(NamedTuple):
    """The key of a recording over time.

    edges : (window + 1,) [s] where the share of each window begins and ends.
    probabilities : (window, key) smoothed.
    segments : of the likeliest sequence of keys, end to end from the first edge to the last.
    """

    edges: np.ndarray
    probabilities: np.ndarray
    segments: tuple[Segment, ...]


@functools.cache
def key_distances() -> np.ndarray:
    """(key, key) int: steps from key to key, where a step leads up or down a fifth, to the relative or the parallel.

    These are the moves in Schoenberg's chart of the regions (Structural Functions of Harmony, 1954), and before him in
    Weber's, with every step the same length (our choice); they are also what the MIREX score counts as near.

    >>> names = ("C", "G", "Am", "Cm", "D", "Ebm", "F#")
    >>> key_distances()[0, [keys.parse_key(name) for name in names]].tolist()
    [0, 1, 1, 1, 2, 3, 4]
    """
    every = np.arange(keys.N_KEYS)
    relation = keys.relation(every[:, None], every)
    near = (relation != keys.RELATIONS.index("other")).astype(int)  # itself included
    reached, steps = np.eye(keys.N_KEYS, dtype=int), np.zeros((keys.N_KEYS, keys.N_KEYS), int)
    while not reached.all():
        steps += reached == 0
        reached = (reached @ near > 0).astype(int)
    return steps


def log_transitions(persistence: float) -> np.ndarray:
    """(key before, key after) logarithms of transition probabilities.

    Staying is exp(persistence) times as probable as a step to a neighbouring key, and every further step costs half as
    much again (our choice): tunes are often repeated a tone or a semitone higher, which is a long way to go.

    Parameters
    ----------
    persistence : nats, 0 or more; 0 makes windows independent, infinity allows one key only.

    Raises
    ------
    KeyMynaError
        When it is negative or no number.
    """
    if not persistence >= 0:
        raise KeyMynaError(f"persistence {persistence}: expected 0 or more.")
    distance = key_distances()
    moved = distance > 0
    logs = np.zeros(distance.shape)
    logs[moved] = -persistence * (1 + distance[moved]) / 2 if np.isfinite(persistence) else -np.inf
    return logs - _log_sum(logs, axis=1)[:, None]


def smoothed(logs: np.ndarray, persistence: float) -> np.ndarray:
    """Posterior of each window given all of them (forward-backward), in the log domain.

    Parameters
    ----------
    logs : (window, key) log likelihoods, each window's up to a constant.
    persistence : see `log_transitions`.

    Returns
    -------
    (window, key) that sum to 1 over keys.
    """
    step = log_transitions(persistence)
    before, after = np.zeros_like(logs), np.zeros_like(logs)
    for t in range(1, len(logs)):
        before[t] = _log_sum((before[t - 1] + logs[t - 1])[:, None] + step, axis=0)
        before[t] -= before[t].max()  # only ratios matter, and they stay near 0
    for t in range(len(logs) - 2, -1, -1):
        after[t] = _log_sum(step + (after[t + 1] + logs[t + 1]), axis=1)
        after[t] -= after[t].max()
    joint = before + logs + after
    return np.exp(joint - _log_sum(joint, axis=1)[:, None])


def likeliest_path(logs: np.ndarray, persistence: float) -> np.ndarray:
    """The sequence of keys that is likeliest as a whole (Viterbi), (window,) int; parameters as of `smoothed`."""
    step = log_transitions(persistence)
    best, came_from = logs[0], np.zeros(logs.shape, int)
    for t in range(1, len(logs)):
        through = best[:, None] + step
        came_from[t] = through.argmax(axis=0)
        best = through.max(axis=0) + logs[t]
    path = np.empty(len(logs), int)
    path[-1] = best.argmax()
    for t in range(len(logs) - 1, 0, -1):
        path[t - 1] = came_from[t, path[t]]
    return path


def dense_starts(frames: int, window: int) -> np.ndarray:
    """First frames of windows every OVERLAP-th of a window, with all of `spectrogram.window_starts` among them.

    >>> dense_starts(450, 196).tolist()
    [0, 49, 98, 147, 196, 245, 254]
    """
    whole = window_starts(frames, window)
    between = (whole[:, None] + np.arange(OVERLAP) * window // OVERLAP).ravel()
    return np.union1d(whole, between[between < whole[-1]])


def timeline(probabilities: np.ndarray, edges: np.ndarray, weights: np.ndarray, persistence: float) -> Timeline:
    """The key over time, from the probabilities of windows.

    Parameters
    ----------
    probabilities : (window, key), of windows in order of time.
    edges : (window + 1,) [s], see `window_edges`.
    weights : (window,) share of what a window hears that none of the others does, see `window_edges`.
    persistence : see `log_transitions`.

    Raises
    ------
    KeyMynaError
        When shapes do not fit.
    """
    probabilities = np.asarray(probabilities, np.float64)
    n = len(probabilities)
    if probabilities.shape != (n, keys.N_KEYS) or n == 0 or edges.shape != (n + 1,) or weights.shape != (n,):
        raise KeyMynaError(
            f"probabilities {probabilities.shape}, edges {edges.shape}, weights {weights.shape}: expected "
            "(window, 24), (window + 1,) and (window,), at least one window."
        )
    logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)) * weights[:, None]
    found, path = smoothed(logs, persistence), likeliest_path(logs, persistence)
    return Timeline(edges, found, segments_of(path, edges, found))


def window_edges(starts: Sequence[int] | np.ndarray, window: int, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the share of each window begins and ends, (window + 1,) frames, and that share of its length, (window,).

    The border between two windows is half-way between their middles; the first and last reach to the ends.

    >>> window_edges([0, 50, 100], 100, 200)
    (array([  0.,  75., 125., 200.]), array([0.75, 0.5 , 0.75]))
    """
    middle = np.asarray(starts) + window / 2
    edges = np.concatenate([[0.0], (middle[1:] + middle[:-1]) / 2, [float(frames)]])
    return edges, np.minimum(np.diff(edges) / window, 1.0)


def segments_of(path: np.ndarray, edges: np.ndarray, probabilities: np.ndarray) -> tuple[Segment, ...]:
    """Equal neighbours of a sequence of keys joined.

    Parameters
    ----------
    path : (window,) keys.
    edges : (window + 1,) [s].
    probabilities : (window, key), of which the mean over a segment's time is its confidence.
    """
    first = np.flatnonzero(np.diff(path, prepend=-1))
    found = []
    for begin, after in zip(first, [*first[1:], len(path)]):
        key, length = int(path[begin]), np.diff(edges[begin : after + 1])
        sure = probabilities[begin:after, key]
        confidence = float((sure * length).sum() / length.sum()) if length.sum() > 0 else float(sure.mean())
        found.append(Segment(float(edges[begin]), float(edges[after]), key, confidence))
    return tuple(found)


def _log_sum(logs: np.ndarray, axis: int) -> np.ndarray:
    top = logs.max(axis=axis, keepdims=True)
    return (np.log(np.exp(logs - top).sum(axis=axis, keepdims=True)) + top).squeeze(axis)
