"""The protocol: how key estimates are scored, summarised and given an interval.

Conventions
-----------
Keys are the integers of `keymyna_lib.keys`; the reference comes before the estimate; one entry per track. An estimate
may be NO_KEY, the answer of a system that finds none: it scores 0 and is wrong in every respect, as in MIREX.
The MIREX weighted score gives 1 for the same key, 0.5 for a fifth, 0.3 for the relative key, 0.2 for the
parallel key and 0 for the rest. There are two conventions for the fifth; every function that needs one asks for it:

"both"
    a fifth up or down from the reference is credited (MIREX since 2017);
"ascending"
    only an estimate a fifth above the reference is credited (MIREX before, and mir_eval's `weighted_score`).

A track's estimate is the argmax of the mean of its windows' probabilities. Intervals are percentile
bootstraps over tracks, or over groups of tracks that belong together; where a system was trained with several
seeds, seeds are resampled too. The p-value of a paired difference comes from the same resamples as its interval.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from keymyna_lib import keys
from keymyna_lib.base import seeds
from keymyna_lib.base.errors import KeyMynaError

FIFTHS = ("both", "ascending")
NO_KEY = -1
RELATION_SCORES = np.array([1.0, 0.5, 0.3, 0.2, 0.0])  # in the order of keys.RELATIONS


def _as_keys(name: str, values, *, lowest: int = 0) -> np.ndarray:
    values = np.atleast_1d(np.asarray(values))
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise KeyMynaError(f"{name}: expected one integer key per track, got {values.dtype} {values.shape}.")
    if values.size and not (values.min() >= lowest and values.max() < keys.N_KEYS):
        raise KeyMynaError(f"{name}: keys run from {lowest} to 23, found {values.min()} to {values.max()}.")
    return values.astype(np.int64)


def _as_pair(reference, estimate) -> tuple[np.ndarray, np.ndarray]:
    reference, estimate = _as_keys("reference", reference), _as_keys("estimate", estimate, lowest=NO_KEY)
    if len(reference) != len(estimate) or not len(reference):
        raise KeyMynaError(
            f"{len(reference)} reference keys and {len(estimate)} estimates: pass the same "
            "tracks to both, and at least one."
        )
    return reference, estimate


def _relation(reference: np.ndarray, estimate: np.ndarray) -> np.ndarray:
    """`keys.relation`, NO_KEY being one of the others."""
    return np.where(estimate == NO_KEY, keys.RELATIONS.index("other"), keys.relation(reference, estimate))


def mirex_scores(reference, estimate, *, fifths: str) -> np.ndarray:
    """MIREX weighted score of each track.

    Parameters
    ----------
    reference, estimate : (track,) int, keys 0..23; an estimate may be NO_KEY.
    fifths : "both" or "ascending", see the module's header; on purpose without a default.

    Returns
    -------
    (track,) float in {0, 0.2, 0.3, 0.5, 1}.

    Raises
    ------
    KeyMynaError
        Unequal lengths, no track, a value that is not a key, or an unknown convention.

    Examples
    --------
    Estimates for a piece in C major: C major, G major, F major, A minor, C minor, D major.

    >>> from keymyna_lib.keys import parse_key
    >>> estimates = [parse_key(name) for name in ("C", "G", "F", "Am", "Cm", "D")]
    >>> mirex_scores([0] * 6, estimates, fifths="both").tolist()
    [1.0, 0.5, 0.5, 0.3, 0.2, 0.0]
    >>> mirex_scores([0] * 6, estimates, fifths="ascending").tolist()
    [1.0, 0.5, 0.0, 0.3, 0.2, 0.0]
    """
    if fifths not in FIFTHS:
        raise KeyMynaError(f"fifths={fifths!r}: choose one of {FIFTHS}.")
    reference, estimate = _as_pair(reference, estimate)
    scores = RELATION_SCORES[_relation(reference, estimate)]
    if fifths == "ascending":
        scores[keys.fifth_direction(reference, estimate) < 0] = 0.0
    return scores


def summary(reference, estimate) -> dict[str, float]:
    """Every metric of the tables, averaged over tracks, each in 0..1.

    Returns
    -------
    dict
        `weighted_both`, `weighted_ascending`, `accuracy`, `tonic_accuracy`, `mode_accuracy`, and the shares
        of the five MIREX classes: `share_same` (= accuracy), `share_fifth` (both directions),
        `share_relative`, `share_parallel`, `share_other`.
    """
    reference, estimate = _as_pair(reference, estimate)
    relation, answered = _relation(reference, estimate), estimate != NO_KEY
    metrics = {f"weighted_{f}": mirex_scores(reference, estimate, fifths=f) for f in FIFTHS}
    metrics["accuracy"] = reference == estimate
    metrics["tonic_accuracy"] = answered & (keys.tonic(reference) == keys.tonic(estimate))
    metrics["mode_accuracy"] = answered & (keys.is_minor(reference) == keys.is_minor(estimate))
    metrics |= {f"share_{name}": relation == i for i, name in enumerate(keys.RELATIONS)}
    return {name: float(np.mean(values)) for name, values in metrics.items()}


def confusion(reference, estimate) -> np.ndarray:
    """Counts (reference, estimate), (24, 24) int, both axes in the order of `keys.CIRCLE_OF_FIFTHS`; none of NO_KEY."""
    reference, estimate = _as_pair(reference, estimate)
    reference, estimate = reference[estimate != NO_KEY], estimate[estimate != NO_KEY]
    counts = np.zeros((keys.N_KEYS, keys.N_KEYS), dtype=np.int64)
    np.add.at(counts, (reference, estimate), 1)
    order = list(keys.CIRCLE_OF_FIFTHS)
    return counts[np.ix_(order, order)]


def chance_scores(reference, *, fifths: str) -> np.ndarray:
    """Expected weighted score of each track, (track,) float, for a guess uniform over the 24 keys.

    Every key has one relative, one parallel and two neighbours a fifth away (one of them above), so this is
    2.5 / 24 ("both") or 2 / 24 ("ascending") whatever the reference.

    >>> (24 * chance_scores([0, 17], fifths="both")).round(9).tolist()
    [2.5, 2.5]
    """
    if fifths not in FIFTHS:
        raise KeyMynaError(f"fifths={fifths!r}: choose one of {FIFTHS}.")
    same, fifth, relative, parallel, _ = RELATION_SCORES
    expected = (same + {"both": 2, "ascending": 1}[fifths] * fifth + relative + parallel) / keys.N_KEYS
    return np.full(len(_as_keys("reference", reference)), expected)


def track_predictions(window_probabilities, track_of_window) -> np.ndarray:
    """Mean of the window outputs of each track.

    Parameters
    ----------
    window_probabilities : (window, 24) float.
    track_of_window : (window,) int, 0..n_tracks-1 in any order; every track has a window.

    Returns
    -------
    (track, 24) float64; the estimate is its argmax over the last axis.

    Raises
    ------
    KeyMynaError
        Shapes that do not fit, or a track without windows.
    """
    probabilities, track = np.asarray(window_probabilities), np.asarray(track_of_window)
    if probabilities.ndim != 2 or track.shape != probabilities.shape[:1] or not len(track):
        raise KeyMynaError(
            f"window_probabilities {probabilities.shape}, track_of_window {track.shape}: "
            "expected (window, key) and (window,), at least one window."
        )
    if track.min() < 0 or not np.bincount(track).all():
        raise KeyMynaError(
            "track_of_window must number the tracks 0..n-1, each with at least one window; "
            "renumber the tracks that are left after filtering."
        )
    return group_means(probabilities, track)


def group_means(values, group) -> np.ndarray:
    """Mean of the rows of each group, added up in float64 in the order given.

    Parameters
    ----------
    values : (row, dim) float array or CPU tensor.
    group : (row,) int, 0..n_groups-1 in any order; every group has a row.

    Returns
    -------
    (group, dim) float64.

    >>> group_means([[1.0], [5.0], [3.0]], [0, 1, 0]).tolist()
    [[2.0], [5.0]]
    """
    import torch  # here, because tables need no torch; NumPy's add.at takes five times as long

    values, group = torch.as_tensor(values, dtype=torch.float64), torch.as_tensor(group)
    sizes = torch.bincount(group)
    total = torch.zeros(len(sizes), values.shape[1], dtype=torch.float64).index_add_(0, group, values)
    return (total / sizes[:, None]).numpy()


def _resampled_means(scores, groups, n_resamples: int, seed: int) -> np.ndarray:
    """Means of resampled tables of scores, (resample,); parameters and errors as in `bootstrap_interval`."""
    scores = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    if scores.ndim > 3 or not scores.size or not np.isfinite(scores).all():
        raise KeyMynaError(
            f"scores {scores.shape}: expected finite values as (track,), (seed, track) or (seed, draw, track)."
        )
    if n_resamples < 1:
        raise KeyMynaError(f"n_resamples={n_resamples}: draw at least one.")
    n_tracks = scores.shape[-1]
    number = np.arange(n_tracks) if groups is None else np.unique(groups, return_inverse=True)[1]
    if len(number) != n_tracks:
        raise KeyMynaError(f"{len(number)} group labels for {n_tracks} tracks: give one for each.")
    counts = _counts((*scores.shape[:-1], int(number.max()) + 1), n_resamples, seed)
    shares, drawn = [each / each.shape[1] for each in counts[:-1]], counts[-1]
    weights = shares[0] if len(shares) == 1 else np.einsum("rs,rd->rsd", *shares).reshape(n_resamples, -1)
    table = scores.reshape(-1, n_tracks)
    sums = np.stack([np.bincount(number, row) for row in table])  # tracks of one group are drawn together
    return np.einsum("rs,rs->r", weights, drawn @ sums.T) / (drawn @ np.bincount(number))


@functools.lru_cache(maxsize=4)
def _counts(sizes: tuple[int, ...], n_resamples: int, seed: int) -> list[np.ndarray]:
    """How often each seed, draw and group is drawn in each resample: (resample, size) float64 each.

    The draws depend on the sizes alone, and cost more than all else: tables compare many systems on the same tracks.
    """
    rng = seeds.numpy_stream(seed, "bootstrap")
    return [rng.multinomial(n, np.full(n, 1 / n), size=n_resamples).astype(np.float64) for n in sizes]


def _percentiles(means: np.ndarray, level: float) -> tuple[float, float]:
    """Bounds of the middle `level` of resampled means."""
    if not 0 < level < 1:
        raise KeyMynaError(f"level={level}: the share of the resampled means inside the interval is between 0 and 1.")
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    scores, *, groups=None, n_resamples: int = 2000, level: float = 0.95, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean score.

    Parameters
    ----------
    scores : (track,), (seed, track) or (seed, draw, track) float. Tracks are drawn with replacement; with several
        seeds, seeds are drawn too, independently of the tracks (the same tracks for every seed of a resample), so that
        the interval covers another test set and another training run; likewise draws of labelled tracks, which are the
        same for every seed.
    groups : (track,) labels; the tracks of one group, such as the settings of one composition, are drawn together.
        By default each track is a group of its own.
    n_resamples : resamples of the whole table.
    level : share of the resampled means inside the interval, in (0, 1).
    seed : of the resampling.

    Returns
    -------
    (low, high) in the unit of the scores.

    Raises
    ------
    KeyMynaError
        No score, a score that is not finite, no resample, another number of groups, or a level outside (0, 1).
    """
    return _percentiles(_resampled_means(scores, groups, n_resamples, seed), level)


def ratio_interval(
    numerator, denominator, *, groups, n_resamples: int = 1000, level: float = 0.95, seed: int
) -> tuple[float, float]:
    """Percentile bootstrap interval of sum(numerator) / sum(denominator), groups of rows drawn together.

    Parameters
    ----------
    numerator, denominator : (row,) float, the denominators not negative and not all 0.
    groups, n_resamples, level, seed : as in `bootstrap_interval`.
    """
    number = np.unique(groups, return_inverse=True)[1]
    sums = np.stack([np.bincount(number, np.asarray(values, dtype=np.float64)) for values in (numerator, denominator)])
    n = sums.shape[1]
    drawn = seeds.numpy_stream(seed, "bootstrap of a ratio").multinomial(n, np.full(n, 1 / n), size=n_resamples)
    above, below = (drawn @ row for row in sums)
    return _percentiles(above[below > 0] / below[below > 0], level)


class PairedDifference(NamedTuple):
    """A mean paired difference, its interval (low, high), both in the unit of the scores, and its p-value."""

    difference: float
    low: float
    high: float
    p: float


def paired_difference(
    a, b, *, groups=None, n_resamples: int = 2000, level: float = 0.95, seed: int
) -> PairedDifference:
    """mean(a) - mean(b) over the same tracks and seeds, with a bootstrap interval and a two-sided p-value.

    Each track of `a` is compared with itself in `b`, so that how hard the tracks are does not matter.

    Parameters
    ----------
    a, b : (track,), (seed, track) or (seed, draw, track) float, alike; a pair shares its track, seed and draw.
    groups, n_resamples, level, seed : as in `bootstrap_interval`, whose interval it is for a - b.

    Returns
    -------
    PairedDifference
        p is for "the mean paired difference is zero": twice the smaller of the shares of resampled means at most
        and at least 0, each share counted as (k + 1) / (n + 1) (Davison and Hinkley, Bootstrap Methods and their
        Application, Cambridge University Press, 1997, section 4.2), and at most 1. So p < 1 - level where the
        interval excludes 0, give or take a resample or two, and p is never below 2 / (n_resamples + 1).

    Raises
    ------
    KeyMynaError
        Different shapes, and what `bootstrap_interval` refuses.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise KeyMynaError(f"a {a.shape}, b {b.shape}: a paired difference needs the same tracks and seeds.")
    means = _resampled_means(a - b, groups, n_resamples, seed)
    # Scores take few values, so resampled means of exactly 0 are common; rounding must not put them on one side.
    zero = 1e-12 * np.abs(a - b).max()
    fewer = min(np.sum(means <= zero), np.sum(means >= -zero))
    return PairedDifference(
        float(np.mean(a - b)), *_percentiles(means, level), float(min(1.0, 2 * (fewer + 1) / (n_resamples + 1)))
    )


def paired_difference_interval(
    a, b, *, groups=None, n_resamples: int = 2000, level: float = 0.95, seed: int
) -> tuple[float, float]:
    """The interval of `paired_difference` alone."""
    found = paired_difference(a, b, groups=groups, n_resamples=n_resamples, level=level, seed=seed)
    return found.low, found.high


def holm(p_values) -> np.ndarray:
    """Adjusted p-values of a family of tests: rejecting those up to alpha keeps the family-wise error at alpha.

    Holm's step-down procedure (Scandinavian Journal of Statistics 6(2), 1979), whatever the tests' dependence: of m
    values the i-th smallest counts m - i + 1 times, no value less than a smaller one's, and at most 1.

    Parameters
    ----------
    p_values : (test,) float in [0, 1]; the whole family, in any order.

    Returns
    -------
    (test,) float64, in the order given.

    Raises
    ------
    KeyMynaError
        When there is not one value in [0, 1] per test.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():  # NaN is refused too
        raise KeyMynaError(f"p_values {p.shape}: expected one value in [0, 1] per test.")
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted
