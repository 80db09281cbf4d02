"""How well a property can be read off frozen features by a linear map.

A map is fitted on training rows, its one hyperparameter (the strength of regularisation) chosen on validation rows, and
scored on test rows. Numbers and vectors are predicted by ridge regression and scored by R2, categories by multinomial
logistic regression and scored by the skill over always naming the most frequent training class. Both scores are 1
for a perfect reading and 0 for one that tells nothing; below 0 the map is worse than that. The grids, the cap on
training rows and on iterations, and the purity asked of a window are our choices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered.window_truth import CHROMA_COLUMNS
from keymyna_lib.corpus.splits import SPLITS
from keymyna_lib.evaluate import holm, paired_difference, ratio_interval
from keymyna_lib.experiments.label_efficiency import logistic_path

MEASURES = {"numeric": "R2", "category": "skill"}  # by kind of target
ALPHAS = tuple(10.0 ** np.arange(-1, 7))  # penalty on the squared weights, the squared errors summed over rows
CS = (1e-3, 1e-2, 1e-1, 1.0)  # inverse of that penalty, the cross-entropy summed over rows
MAX_TRAIN_ROWS = 8000
MAX_ITERATIONS, TOLERANCE = 100, 1e-4  # of L-BFGS, for one C
N_RESAMPLES = 20_000  # of paired differences: Holm's correction multiplies their smallest p, 2 in so many
MIN_PURITY = 0.75  # least share of a window filled by one section, for properties of that section


@dataclass(frozen=True)
class Property:
    """What to read off: its name, its columns in `window_truth.window_properties`, its kind (of MEASURES).

    pure : whether it belongs to the section that fills most of a window; windows below MIN_PURITY are left out.
    """

    name: str
    columns: tuple[str, ...]
    kind: str
    pure: bool = False


PROPERTIES = (
    Property("tonic", ("tonic",), "category"),
    Property("mode", ("mode",), "category"),
    Property("chroma", CHROMA_COLUMNS, "numeric"),
    Property("tuning", ("tuning",), "numeric"),
    Property("register", ("register",), "numeric"),
    Property("instrument family", ("family",), "category", pure=True),
    Property("drums", ("drums",), "category", pure=True),
    Property("noise level", ("snr",), "numeric"),
    Property("tempo", ("tempo",), "numeric"),
)


@dataclass(frozen=True, eq=False)
class LinearMap:
    """A fitted map: outputs = ((x - mean) / std) @ weights + intercept.

    mean, std : (dim,) of the training rows. weights : (dim, output). intercept : (output,).
    classes : (output,), the category of the largest output being predicted; None where outputs are the prediction.
    chosen : alpha of a ridge regression, C of a logistic regression.
    """

    mean: np.ndarray
    std: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    classes: np.ndarray | None
    chosen: float

    def predict(self, x: np.ndarray) -> np.ndarray:
        """(row, dim) to (row, output) numbers, or (row,) categories."""
        outputs = (x - self.mean) / self.std @ self.weights + self.intercept
        return outputs if self.classes is None else self.classes[outputs.argmax(axis=1)]


@dataclass(frozen=True)
class Score:
    """Outcome of a probe.

    Attributes
    ----------
    measure : "R2" or "skill".
    value, low, high : on test, 1 - the sum of the errors over that of the reference, with its 95 % interval.
    n_train, n_test : rows fitted on and scored.
    chosen : alpha or C.
    errors, reference : (test row,) of the probe and of the guess that its measure compares it with, see `probe`.
    groups : (test row,) as given.
    """

    measure: str
    value: float
    low: float
    high: float
    n_train: int
    n_test: int
    chosen: float
    errors: np.ndarray = field(compare=False, repr=False)
    reference: np.ndarray = field(compare=False, repr=False)
    groups: np.ndarray = field(compare=False, repr=False)


def fit_ridge(x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray) -> LinearMap:
    """Ridge regression with the alpha of ALPHAS that has the least squared error on validation rows.

    Parameters
    ----------
    x, x_valid : (row, dim). y, y_valid : (row, output).
    """
    mean, std = _moments(x)
    z, intercept = (x - mean) / std, y.mean(axis=0)
    # z'z = V diag(l) V' gives the weights of every alpha, V diag(1 / (l + alpha)) V' z'y. scikit-learn's Ridge gives
    # the same R2 to 1e-15, but factorises anew for each alpha, which takes four times as long.
    eigenvalues, vectors = np.linalg.eigh(z.T @ z)
    projected = vectors.T @ (z.T @ (y - intercept))
    maps = [
        LinearMap(
            mean, std, vectors @ (projected / (eigenvalues.clip(min=0) + alpha)[:, None]), intercept, None, float(alpha)
        )
        for alpha in ALPHAS
    ]
    return min(maps, key=lambda fitted: np.square(fitted.predict(x_valid) - y_valid).sum())


def fit_logistic(x: np.ndarray, y: np.ndarray, x_valid: np.ndarray, y_valid: np.ndarray) -> LinearMap:
    """Multinomial logistic regression with the C of CS that gets most validation rows right, the smallest of equals.

    Parameters
    ----------
    x, x_valid : (row, dim). y, y_valid : (row,) categories.

    Raises
    ------
    KeyMynaError
        When the training rows are all of one class.
    """
    if len(np.unique(y)) < 2:
        raise KeyMynaError(f"y: all {len(y)} training rows are of class {y[0]!r}; a probe needs two classes or more.")
    mean, std = _moments(x)
    maps = []
    # The last digits of the weights cost most of the iterations and change next to no prediction.
    for model in logistic_path((x - mean) / std, y, CS, tolerance=TOLERANCE, iterations=MAX_ITERATIONS):
        weights, intercept = model.coef_.T, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn holds one output then, that of the second class
            weights, intercept = np.hstack([0 * weights, weights]), np.append(0, intercept)
        maps.append(LinearMap(mean, std, weights, intercept, model.classes_, model.C))
    return max(maps, key=lambda fitted: np.mean(fitted.predict(x_valid) == y_valid))


def probe(
    kind: str, x, y, split, groups, generator: np.random.Generator, *, max_train_rows: int = MAX_TRAIN_ROWS
) -> Score:
    """Fit a linear map from features to a target, and score it on the test rows, which decide nothing.

    Parameters
    ----------
    kind : "numeric" or "category".
    x : (row, dim) float array or CPU tensor.
    y : (row,) or (row, component) float, or (row,) categories.
    split : (row,) "train", "valid" or "test".
    groups : (row,) labels; test rows of one group, the windows of a composition, are resampled together.
    generator : draws the training rows where there are more than `max_train_rows`.
    max_train_rows : training rows fitted on, at most; a probe of 384 dimensions then takes 3 s or less.

    Returns
    -------
    Score
        "R2" is 1 - SSE / SST, both summed over test rows and components, SST about the components' means on test.
        "skill" is (accuracy - m) / (1 - m), m being the share on test of the most frequent training class.

    Raises
    ------
    KeyMynaError
        An unknown kind, shapes that do not fit, missing values, a split without rows, a single training class, or a
        target that does not vary over the test rows.
    """
    if kind not in MEASURES:
        raise KeyMynaError(f"kind={kind!r}: choose one of {tuple(MEASURES)}.")
    x, y, split = np.asarray(x, dtype=np.float64), np.asarray(y), np.asarray(split)
    if x.ndim != 2 or len(y) != len(x) or split.shape != (len(x),) or y.ndim > (2 if kind == "numeric" else 1):
        raise KeyMynaError(
            f"x {x.shape}, y {y.shape}, split {split.shape}: expected (row, dim), one {kind} target and "
            "one split per row."
        )
    if kind == "numeric":
        y = y.astype(np.float64).reshape(len(y), -1)
    for name, values in {"x": x, **({"y": y} if kind == "numeric" else {})}.items():
        if not np.isfinite(values).all():
            raise KeyMynaError(f"{name} holds NaN or infinity; leave out the rows without a value.")
    rows = {name: np.flatnonzero(split == name) for name in SPLITS}
    if empty := [name for name in SPLITS if not len(rows[name])]:
        raise KeyMynaError(f"split: no row is {empty[0]!r}; a probe needs rows of {SPLITS}.")
    if len(rows["train"]) > max_train_rows:
        rows["train"] = np.sort(generator.choice(rows["train"], max_train_rows, replace=False))
    train, valid, test = (rows[name] for name in ("train", "valid", "test"))
    fit = fit_ridge if kind == "numeric" else fit_logistic
    fitted = fit(x[train], y[train], x[valid], y[valid])
    estimate = fitted.predict(x[test])
    errors, reference = _squared(estimate, y[test]) if kind == "numeric" else _wrong(estimate, y[test], y[train])
    groups = np.asarray(groups)[test]
    low, high = ratio_interval(errors, reference, groups=groups, seed=0)
    return Score(
        MEASURES[kind],
        float(1 - errors.sum() / reference.sum()),
        1 - high,
        1 - low,
        len(train),
        len(test),
        fitted.chosen,
        errors,
        reference,
        groups,
    )


def probe_properties(
    x, table: pd.DataFrame, generator: np.random.Generator, *, max_train_rows: int = MAX_TRAIN_ROWS
) -> dict[str, Score]:
    """Probe one feature set for every one of PROPERTIES.

    Parameters
    ----------
    x : (window, dim) features, their rows in the order of `table`.
    table : from `window_truth.window_properties`, tracks of all three splits. Windows without a value (where no note
        sounds), and for the family and the drums those below MIN_PURITY, are left out.
    generator, max_train_rows : see `probe`; generators of one seed give every feature set the same training rows.

    Returns
    -------
    By the name of the property, in their order; intervals resample compositions.

    Raises
    ------
    KeyMynaError
        When there is not one row per window, or where `probe` raises one; the property is named.
    """
    if len(x) != len(table):
        raise KeyMynaError(f"x has {len(x)} rows and the table {len(table)} windows: pass the same tracks to both.")
    x, results = np.asarray(x), {}
    for wanted in PROPERTIES:
        values = table[list(wanted.columns)]
        keep = (values.notna().all(axis=1) & (table["purity"].ge(MIN_PURITY) | (not wanted.pure))).to_numpy()
        y = values.to_numpy()[keep] if len(wanted.columns) > 1 else values[wanted.columns[0]].to_numpy()[keep]
        try:
            results[wanted.name] = probe(
                wanted.kind,
                x[keep],
                y,
                table["split"].to_numpy()[keep],
                table["composition"].to_numpy()[keep],
                generator,
                max_train_rows=max_train_rows,
            )
        except KeyMynaError as error:
            raise KeyMynaError(f"property {wanted.name!r}: {error}") from None
    return results


def score_table(scores: Mapping[str, Score]) -> pd.DataFrame:
    """What `probe_properties` returns as one row per property: property, and a `Score`'s attributes up to `chosen`."""
    shown = ("measure", "value", "low", "high", "n_train", "n_test", "chosen")
    return pd.DataFrame(
        [{"property": name} | {column: getattr(score, column) for column in shown} for name, score in scores.items()]
    )


def property_differences(scores: Mapping[str, Mapping[str, Score]], against: str) -> pd.DataFrame:
    """What each feature set tells of each property more than one of them does, paired over test windows.

    Of two probes with the same reference, the difference of R2 or skill is the sum of the differences of their errors
    over that of the reference. Compositions are resampled; p is for a difference of zero.

    Parameters
    ----------
    scores : by system, what `probe_properties` returns for the same windows and generator.
    against : the system that the others are compared with.

    Returns
    -------
    One row per other system and property: system, property, measure, difference, d_low, d_high, p, and p_holm (adjusted
    over all rows).

    Raises
    ------
    KeyMynaError
        When a property was not probed on the same windows for both.
    """
    rows, others = [], {system: found for system, found in scores.items() if system != against}
    for system, found in others.items():
        for name, ours in found.items():
            theirs = scores[against][name]
            if not np.array_equal(ours.reference, theirs.reference) or not np.array_equal(ours.groups, theirs.groups):
                raise KeyMynaError(f"{system!r} and {against!r}: {name!r} was not probed on the same windows of both.")
            less = theirs.errors - ours.errors
            low, high = ratio_interval(less, ours.reference, groups=ours.groups, n_resamples=N_RESAMPLES, seed=0)
            of_group = np.bincount(np.unique(ours.groups, return_inverse=True)[1], less)
            p = paired_difference(of_group, np.zeros_like(of_group), n_resamples=N_RESAMPLES, seed=0).p
            rows.append(
                {
                    "system": system,
                    "property": name,
                    "measure": ours.measure,
                    "difference": float(less.sum() / ours.reference.sum()),
                    "d_low": low,
                    "d_high": high,
                    "p": p,
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature, (dim,) each."""
    mean, std = x.mean(axis=0), x.std(axis=0)
    # A feature that is constant in training up to rounding says nothing, and must not be magnified on test.
    return mean, np.where(std > 1e-6 * np.abs(mean), std, np.inf)


def _squared(estimate: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row,) squared errors, and those of naming the mean of the test rows: R2 is 1 - the ratio of their sums."""
    if (y == y[0]).all():
        raise KeyMynaError("y is the same in all test rows, so that R2 has no meaning; leave this target out.")
    return np.square(y - estimate).sum(axis=1), np.square(y - y.mean(axis=0)).sum(axis=1)


def _wrong(estimate: np.ndarray, y: np.ndarray, y_train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row,) errors, and those of naming the commonest training class: skill is 1 - the ratio of their sums."""
    classes, counts = np.unique(y_train, return_counts=True)
    commonest = y != classes[counts.argmax()]
    if not commonest.any():
        raise KeyMynaError(
            "y is the most frequent training class in all test rows, so that skill has no meaning; "
            "leave this target out."
        )
    return (estimate != y).astype(float), commonest.astype(float)
