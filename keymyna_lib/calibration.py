"""Whether a system's confidence means what it says: temperature scaling, calibration error, and when to say nothing."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keymyna_lib.base.errors import KeyMynaError

BOUNDS = (0.1, 10.0)  # of a temperature
_HALVINGS = 50


def log_of(probabilities: np.ndarray) -> np.ndarray:
    """Logarithms, those of 0 taken as of the smallest normal float32."""
    return np.log(np.maximum(np.asarray(probabilities, np.float64), np.finfo(np.float32).tiny))


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities (..., class) whose logarithms are divided by a temperature, of the same order."""
    logs = log_of(probabilities) / temperature
    powers = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean over rows of -log p(label) [nats]; probabilities (row, class), labels (row,) int."""
    return float(-log_of(probabilities)[np.arange(len(labels)), labels].mean())


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which the labels are most probable (Guo et al., "On calibration of modern neural networks",
    2017), between 0.1 and 10.

    The loss is convex in the inverse of the temperature, so that halving an interval finds its minimum. Where every
    answer is right, or none better than chance, there is no minimum, and one of the bounds is returned.

    Parameters
    ----------
    probabilities : (row, class).
    labels : (row,) int.

    Raises
    ------
    KeyMynaError
        When there is no row, or not one label per row.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise KeyMynaError(
            f"probabilities {probabilities.shape}, labels {labels.shape}: expected (row, class) and (row,), at least "
            "one row."
        )
    logs = log_of(probabilities)
    true = logs[np.arange(len(labels)), labels]

    def slope(inverse: float) -> float:
        """Derivative of the mean loss: what is expected of the logarithms less what is there."""
        return float((tempered(probabilities, 1 / inverse) * logs).sum(axis=1).mean() - true.mean())

    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    for _ in range(_HALVINGS):
        middle = np.sqrt(low * high)
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float(np.clip(1 / np.sqrt(low * high), *BOUNDS))


class Reliability(NamedTuple):
    """Bins of a reliability diagram, each (bin,): answers in it, their mean confidence, and the share that is right."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: the mean distance of confidence and accuracy, bins weighted by their answers."""
        return float((self.count * np.abs(self.confidence - self.accuracy)).sum() / self.count.sum())


def reliability(confidence: np.ndarray, correct: np.ndarray, *, bins: int = 10) -> Reliability:
    """Reliability of answers in bins of as equal numbers as can be (Nguyen and O'Connor, 2015), by confidence.

    Parameters
    ----------
    confidence : (answer,) 0 to 1.
    correct : (answer,) bool.
    bins : at most; fewer where there are fewer answers.

    Raises
    ------
    KeyMynaError
        When there is no answer, not as many of both, or no bin.
    """
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if confidence.ndim != 1 or confidence.shape != correct.shape or not len(confidence) or bins < 1:
        raise KeyMynaError(
            f"confidence {confidence.shape}, correct {correct.shape}, bins {bins}: expected one of both per answer, at "
            "least one answer and one bin."
        )
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    means = np.array([[len(part), confidence[part].mean(), correct[part].mean()] for part in parts])
    return Reliability(means[:, 0].astype(int), means[:, 1], means[:, 2])


class Coverage(NamedTuple):
    """What is left when doubtful answers are withheld, each (threshold,), thresholds falling.

    threshold : least confidence of an answer that is given. answered : share of all. score : mean of those.
    """

    threshold: np.ndarray
    answered: np.ndarray
    score: np.ndarray


def coverage(confidence: np.ndarray, scores: np.ndarray) -> Coverage:
    """Score against share answered, at every confidence that occurs.

    Parameters
    ----------
    confidence, scores : (answer,), at least one.
    """
    confidence, scores = np.asarray(confidence, np.float64), np.asarray(scores, np.float64)
    order = np.argsort(-confidence, kind="stable")
    given = np.arange(1, len(order) + 1)
    last = np.flatnonzero(np.diff(confidence[order], append=-np.inf))  # equals are answered together
    return Coverage(confidence[order][last], given[last] / len(order), scores[order].cumsum()[last] / given[last])


def entropy(probabilities: np.ndarray) -> np.ndarray:
    """Entropy [nats] of probabilities (..., class), 0 to the logarithm of the number of classes.

    >>> entropy(np.array([[0.9, 0.1], [0.5, 0.5]])).round(4)
    array([0.3251, 0.6931])
    """
    probabilities = np.asarray(probabilities, np.float64)
    return -(probabilities * log_of(probabilities)).sum(axis=-1)


def answered(doubt: np.ndarray, most: float) -> float:
    """Share of some material that gets an answer: what is in no more doubt than `most`."""
    return float((np.asarray(doubt) <= most).mean())


def most_doubt(tonal: np.ndarray, other: np.ndarray, *, lost: float) -> float:
    """The doubt above which to say nothing.

    Of all thresholds that withhold the answer of at most a share `lost` of tonal pieces, that which answers least of
    what has no key; of several, the highest (our choice). Infinity where it is best to answer everything.

    Parameters
    ----------
    tonal, other : (piece,) doubt about pieces in a key, and about material without one, in any unit.
    lost : share of `tonal`, 0 to 1.

    Raises
    ------
    KeyMynaError
        When one of the two is empty, or the share out of range.
    """
    tonal, other = np.asarray(tonal, np.float64), np.asarray(other, np.float64)
    if not len(tonal) or not len(other) or not 0 <= lost <= 1:
        raise KeyMynaError(f"{len(tonal)} tonal pieces, {len(other)} others, lost {lost}: expected some, and a share.")
    # Just below each doubt about what has no key, for that is where one more of it falls silent.
    thresholds = np.concatenate([np.nextafter(other, -np.inf), [np.inf]])
    allowed = [t for t in thresholds if answered(tonal, t) >= 1 - lost - 1e-12]
    return float(min(allowed, key=lambda t: (answered(other, t), -t)))
