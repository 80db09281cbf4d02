"""What a number of labels is worth: one L2-regularised logistic probe on frozen features.

A row is a track, the mean of its unshifted windows' features. That is our choice: a track has one label, so with one
row per track the number of labels is the number of rows, and a fit on a few hundred rows takes a fraction of a second,
which leaves room for many draws of labelled tracks. Features are z-scored with the mean and deviation of the labelled
rows alone, and the strength of the regularisation is chosen on validation tracks by the MIREX weighted score ("both"
fifths).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.compute.processes import HERE, cores
from keymyna_lib.compute.threads import one_thread
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.evaluate import group_means, mirex_scores
from keymyna_lib.experiments.scoring import prediction_table
from keymyna_lib.features import Features

if TYPE_CHECKING:
    from sklearn.linear_model import LogisticRegression

CS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # our choice: from a hardly fitted to a nearly unregularised probe
_TOLERANCE = 1e-6  # of the gradient; at the default of 1e-4 a warm start stops short of the optimum
_ITERATIONS = 1000


def track_means(features: Features, track_ids: Sequence[str]) -> np.ndarray:
    """Mean of the unshifted windows' features of tracks, (track, dim) float64, in the order given.

    Raises
    ------
    KeyMynaError
        When a track was not extracted.
    """
    windows = features.select(track_ids)
    return group_means(windows.x, windows.track)


def logistic_path(
    x: np.ndarray, y: np.ndarray, Cs: Sequence[float], *, tolerance: float, iterations: int
) -> Iterator[LogisticRegression]:
    """Multinomial logistic regressions along a path of regularisation strengths, each started from the one before.

    Parameters
    ----------
    x : (row, dim) float64, scaled by the caller. y : (row,) labels of at least two classes.
    Cs : inverse strengths of the L2 penalty as scikit-learn defines them (C times the summed loss), in order.
    tolerance, iterations : of L-BFGS, for each C. A fit that runs out of iterations is taken as it is.

    Yields
    ------
    The one model, fitted anew for each C: read what is needed before the next.
    """
    from sklearn.exceptions import ConvergenceWarning  # here, because they cost a second to import
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(solver="lbfgs", tol=tolerance, max_iter=iterations, warm_start=True)
    with warnings.catch_warnings(), one_thread():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # A small budget has hardly more tracks than keys, which scikit-learn takes for a regression.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        for C in Cs:
            yield model.set_params(C=C).fit(x, y)


def logistic_curve(
    x_train, y_train, x_valid, y_valid, x_test, *, Cs: Sequence[float] = CS
) -> tuple[np.ndarray, float, float]:
    """Multinomial logistic regression on one labelled set, along a path of regularisation strengths.

    Each fit starts from the one before, from the strongest regularisation to the weakest; the best on validation is
    kept, of equals the most regularised. A fit that ran out of iterations is a candidate like the others. Keys without
    a labelled track are never estimated.

    Parameters
    ----------
    x_train, x_valid, x_test : (track, dim) float, finite.
    y_train, y_valid : (track,) int keys 0..23, at least two different ones in y_train.
    Cs : inverse strengths of the L2 penalty as scikit-learn defines them (C times the summed loss), positive.

    Returns
    -------
    estimates : (track,) int keys of the test tracks.
    C : the chosen strength.
    score : its mean MIREX weighted score on validation, 0..1.

    Raises
    ------
    KeyMynaError
        Features that are not finite or do not fit together, labels of fewer than two keys, a C that is not positive.
    """
    from sklearn.preprocessing import StandardScaler  # here, because it costs a second to import

    x_train, x_valid, x_test = (np.asarray(x, dtype=np.float64) for x in (x_train, x_valid, x_test))
    shapes = [x.shape for x in (x_train, x_valid, x_test)]
    if any(len(shape) != 2 or shape[1:] != shapes[0][1:] for shape in shapes) or len(y_train) != len(x_train):
        raise KeyMynaError(
            f"x_train, x_valid, x_test {shapes}, {len(y_train)} labels in y_train: expected (track, dim) "
            "with the same features in each, and a label for each track."
        )
    if not all(np.isfinite(x).all() for x in (x_train, x_valid, x_test)):
        raise KeyMynaError(
            "x_train, x_valid or x_test holds NaN or infinity: look for a diverged encoder or damaged "
            "audio, and embed the tracks again."
        )
    if len(np.unique(y_train)) < 2:
        raise KeyMynaError(f"y_train: {len(x_train)} labels of fewer than two keys; take a larger budget of labels.")
    if not len(Cs) or not min(Cs) > 0:
        raise KeyMynaError(f"Cs={tuple(Cs)}: give at least one, all positive.")
    scaler = StandardScaler().fit(x_train)
    x_train, x_valid, x_test = (scaler.transform(x) for x in (x_train, x_valid, x_test))
    estimates, chosen, best = np.empty(0, dtype=np.int64), 0.0, -1.0
    for model in logistic_path(x_train, y_train, sorted(Cs), tolerance=_TOLERANCE, iterations=_ITERATIONS):
        score = float(mirex_scores(y_valid, model.predict(x_valid), fifths="both").mean())
        if score > best:
            estimates, chosen, best = model.predict(x_test), float(model.C), score
    return estimates, chosen, best


def _fit_all(tasks: Mapping[bytes, tuple[np.ndarray, ...]]) -> dict[bytes, tuple[np.ndarray, float, float]]:
    """`logistic_curve` of each task. A fit keeps one core busy; two cores are too few for processes to be worth it."""
    names = sorted(tasks, key=len, reverse=True)  # the longest fit first
    ordered = [tasks[name] for name in names]
    fits: Iterable[tuple[int, tuple[np.ndarray, float, float]]]
    if cores() > 2 and len(tasks) > 2:
        fits = HERE.map(logistic_curve, ordered, desc="label efficiency", unit="fit")
    else:
        fits = ((i, logistic_curve(*task)) for i, task in enumerate(bar(ordered, desc="label efficiency", unit="fit")))
    return {names[i]: fit for i, fit in fits}


def label_efficiency(
    features: Features, corpus: Corpus, budgets: Sequence[int], draws: Sequence[int], *, scored: str = "test"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A logistic probe for each number of labels and each draw of the labelled tracks.

    Labelled sets are those of `splits.budget_tracks`: the larger budgets of a draw contain its smaller ones, and the
    keys take turns.

    Parameters
    ----------
    features : of the labelled tracks and those of validation and `scored`.
    budgets : numbers of labelled training tracks; 0 for all (the same tracks in every draw).
    draws : seeds of the choice of labelled tracks.
    scored : split whose keys are estimated; "valid" where something is still to be chosen.

    Returns
    -------
    predictions : one row per budget, draw and track of `scored`; columns budget, draw and those of
        `scoring.prediction_table`.
    choices : one row per budget and draw; columns budget, draw, C, valid_score (0..1).

    Raises
    ------
    KeyMynaError
        No budget or no draw, a budget above the number of training tracks or of one key only, and what
        `logistic_curve` and `track_means` refuse.
    """
    if not len(budgets) or not len(draws):
        raise KeyMynaError(f"budgets={list(budgets)}, draws={list(draws)}: give at least one of each.")
    train, valid, test = (corpus.tracks(split=split) for split in ("train", "valid", scored))
    x_valid, x_test = (track_means(features, tracks) for tracks in (valid, test))
    y_train, y_valid = (corpus.manifest.loc[tracks, "key"].to_numpy() for tracks in (train, valid))
    sets: dict[tuple[int, int], bytes] = {}  # all labels are the same tracks in every draw: fitted once
    tasks: dict[bytes, tuple[np.ndarray, ...]] = {}
    for budget, draw in product(budgets, draws):
        # In the corpus's order, so that draws of the same tracks agree to the last bit.
        labelled = np.flatnonzero(np.isin(train, budget_tracks(corpus, budget, draw)))
        sets[budget, draw] = labelled.tobytes()
        if sets[budget, draw] not in tasks:
            x_train = track_means(features, [train[i] for i in labelled])
            tasks[sets[budget, draw]] = (x_train, y_train[labelled], x_valid, y_valid, x_test)
    fitted = _fit_all(tasks)
    predictions, choices = [], []
    for budget, draw in product(budgets, draws):
        estimates, C, score = fitted[sets[budget, draw]]
        table = prediction_table(corpus, test, estimates)
        table.insert(0, "budget", budget)
        table.insert(1, "draw", draw)
        predictions.append(table)
        choices.append({"budget": budget, "draw": draw, "C": C, "valid_score": score})
    return pd.concat(predictions, ignore_index=True), pd.DataFrame(choices)
