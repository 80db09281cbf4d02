"""Probes against scikit-learn, and on targets whose score is known."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.preprocessing import StandardScaler

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered.window_truth import CHROMA_COLUMNS
from keymyna_lib.experiments import pitch_probes
from keymyna_lib.experiments.pitch_probes import (
    ALPHAS,
    CS,
    MIN_PURITY,
    PROPERTIES,
    fit_logistic,
    fit_ridge,
    probe,
    probe_properties,
    property_differences,
    score_table,
)

N, DIM = 900, 20
SPLIT = np.repeat(["train", "valid", "test"], [500, 200, 200])
GROUPS = np.arange(len(SPLIT))
TRAIN, VALID, TEST = (name == SPLIT for name in ("train", "valid", "test"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def x(rng):
    """Correlated features of unequal scale and offset."""
    return (rng.normal(size=(N, DIM)) @ rng.normal(size=(DIM, DIM)) * 10.0 ** rng.integers(-2, 3, DIM) + 5).astype("f4")


@pytest.fixture
def linear(x, rng):
    """A target of three components of unequal variance, linear in x except for some noise."""
    z = StandardScaler().fit_transform(x)
    return z @ rng.normal(size=(DIM, 3)) * (1, 3, 10) + rng.normal(size=(N, 3))


@pytest.fixture
def classes(linear):
    return np.array(["a", "b", "c"])[(linear / (1, 3, 10)).argmax(axis=1)]


def ridge_by_the_book(x, y):
    """scikit-learn's scaler and ridge regression, alpha chosen on validation: (alpha, estimates for all rows)."""
    scaler = StandardScaler().fit(x[TRAIN])
    z = scaler.transform(x)
    fits = {alpha: Ridge(alpha).fit(z[TRAIN], y[TRAIN]).predict(z) for alpha in ALPHAS}
    alpha = min(fits, key=lambda a: ((fits[a][VALID] - y[VALID]) ** 2).sum())
    return alpha, fits[alpha]


@pytest.mark.parametrize("noise", [0, 30])
def test_ridge_is_scikit_learns(x, linear, rng, noise):
    x, y = x.astype(np.float64), linear + noise * rng.normal(size=linear.shape)
    alpha, estimate = ridge_by_the_book(x, y)
    fitted = fit_ridge(x[TRAIN], y[TRAIN], x[VALID], y[VALID])
    assert fitted.chosen == alpha
    np.testing.assert_allclose(fitted.predict(x), estimate, rtol=1e-6, atol=1e-6)
    score = probe("numeric", x, y, SPLIT, GROUPS, rng)
    assert score.value == pytest.approx(r2_score(y[TEST], estimate[TEST], multioutput="variance_weighted"))
    assert (score.measure, score.n_train, score.n_test, score.chosen) == ("R2", 500, 200, alpha)


def test_more_noise_asks_for_a_stronger_penalty(x, linear, rng):
    weak, strong = (
        probe("numeric", x, linear + scale * rng.normal(size=linear.shape), SPLIT, GROUPS, rng).chosen
        for scale in (0, 300)
    )
    assert strong > 10 * weak


@pytest.mark.parametrize("labels", ["abc", "ab"])
def test_logistic_is_scikit_learns(x, classes, rng, labels, monkeypatch):
    monkeypatch.setattr(pitch_probes, "MAX_ITERATIONS", 10_000)
    x, y = x.astype(np.float64), np.where(np.isin(classes, list(labels)), classes, "a")
    z = StandardScaler().fit(x[TRAIN]).transform(x)
    fits = {c: LogisticRegression(C=c, max_iter=10_000, tol=1e-6).fit(z[TRAIN], y[TRAIN]) for c in CS}
    accuracy = {c: fit.score(z[VALID], y[VALID]) for c, fit in fits.items()}
    fitted = fit_logistic(x[TRAIN], y[TRAIN], x[VALID], y[VALID])
    assert fitted.chosen == max(CS, key=accuracy.get)
    estimate = fits[fitted.chosen].predict(z)
    assert np.mean(fitted.predict(x) == estimate) > 0.995
    counts = pd.Series(y[TRAIN]).value_counts()
    majority = np.mean(y[TEST] == counts.index[0])
    score = probe("category", x, y, SPLIT, GROUPS, rng)
    skill = (np.mean(fitted.predict(x[TEST]) == y[TEST]) - majority) / (1 - majority)
    assert (score.measure, score.chosen) == ("skill", fitted.chosen) and score.value == pytest.approx(skill)


def test_a_linear_target_is_read_and_noise_is_not(x, linear, rng):
    assert probe("numeric", x, linear, SPLIT, GROUPS, rng).value > 0.9
    assert probe("numeric", torch.from_numpy(x), linear[:, 2], SPLIT, GROUPS, rng).value > 0.9
    assert -0.2 < probe("numeric", x, rng.normal(size=N), SPLIT, GROUPS, rng).value < 0.05


def test_separable_classes_are_read_and_shuffled_labels_are_not(x, classes, rng):
    assert probe("category", x, classes, SPLIT, GROUPS, rng).value > 0.8
    assert probe("category", x, x[:, 0] > np.median(x[:, 0]), SPLIT, GROUPS, rng).value > 0.9
    assert -0.3 < probe("category", x, rng.permutation(classes), SPLIT, GROUPS, rng).value < 0.15


def test_skill_in_closed_form(rng):
    """Of 10 test rows 4 are of the most frequent training class; a feature that tells 8 of them right: skill 2/3."""
    split = np.repeat(["train", "valid", "test"], [30, 10, 10])
    y = np.array([0] * 20 + [1] * 10 + [0] * 5 + [1] * 5 + [0] * 4 + [1] * 6)
    x = np.where(np.arange(50) < 48, y, 1 - y)[:, None]
    assert probe("category", x, y, split, np.arange(50), rng).value == pytest.approx((0.8 - 0.4) / 0.6)
    assert probe("category", np.zeros((50, 1)), y, split, np.arange(50), rng).value == 0


@pytest.mark.parametrize("kind", ["numeric", "category"])
def test_test_rows_decide_nothing(x, linear, classes, kind, monkeypatch):
    y = linear if kind == "numeric" else classes
    name = "fit_ridge" if kind == "numeric" else "fit_logistic"
    fit, fitted = getattr(pitch_probes, name), []
    monkeypatch.setattr(pitch_probes, name, lambda *rows: fitted.append(fit(*rows)) or fitted[-1])
    rng = np.random.default_rng(1)
    other_x, other_y = x.copy(), y.copy()
    other_x[TEST], other_y[TEST] = 1e3 * rng.normal(size=(200, DIM)), rng.permutation(y[TEST])
    scores = [
        probe(kind, a, b, SPLIT, GROUPS, np.random.default_rng(2), max_train_rows=300)
        for a, b in ((x, y), (other_x, other_y))
    ]
    assert scores[0].value > scores[1].value and fitted[0].chosen == fitted[1].chosen
    for part in ("mean", "std", "weights", "intercept"):
        np.testing.assert_array_equal(getattr(fitted[0], part), getattr(fitted[1], part))


def test_training_rows_are_capped_by_the_generators_draw(x, linear):
    first, same, other = (
        probe("numeric", x, linear, SPLIT, GROUPS, np.random.default_rng(seed), max_train_rows=100)
        for seed in (0, 0, 1)
    )
    assert first == same and first.value != other.value and first.n_train == 100
    keep = ~TRAIN
    keep[np.random.default_rng(0).choice(500, 100, replace=False)] = True
    alone = probe("numeric", x[keep], linear[keep], SPLIT[keep], GROUPS[keep], np.random.default_rng(5))
    assert alone.value == pytest.approx(first.value)


def test_a_feature_constant_in_training_is_left_alone(x, linear, rng):
    constant = np.where(TEST, 1e4 * rng.normal(size=N), 0.1).astype(np.float32)
    plain, more = (probe("numeric", z, linear, SPLIT, GROUPS, rng).value for z in (x, np.column_stack([x, constant])))
    assert more == pytest.approx(plain)


def test_refusals(x, linear, classes, rng):
    def refused(match, kind="category", x=x, y=classes, split=SPLIT):
        with pytest.raises(KeyMynaError, match=match):
            probe(kind, x, y, split, np.arange(len(split)), rng)

    refused("kind='ordinal'", kind="ordinal")
    refused("expected", y=classes[1:])
    refused("expected", y=linear)
    refused("split: no row is 'valid'", split=np.where(VALID, "train", SPLIT))
    refused("x holds NaN", x=np.where(np.arange(N)[:, None] == 3, np.nan, x))
    refused("y holds NaN", kind="numeric", y=np.where(np.arange(N) == 3, np.inf, linear[:, 0]))
    refused("two classes", y=np.where(TRAIN, "a", classes))
    refused("leave this target out", y=np.where(TEST | (np.arange(N) < 300), "a", classes))
    refused("leave this target out", kind="numeric", y=np.where(TEST, 0.1, linear[:, 0]))


@pytest.fixture
def table(rng):
    """As from window_properties, every value drawn."""
    values = {
        "split": SPLIT,
        "tonic": rng.integers(0, 12, N),
        "mode": rng.choice(["major", "minor"], N),
        "family": rng.choice(["keys", "reed", "pipe"], N),
        "drums": rng.random(N) < 0.5,
        "composition": np.arange(N) // 3,
        "purity": rng.uniform(0.5, 1, N),
        **{name: rng.normal(size=N) for name in ("tuning", "register", "snr", "tempo")},
        **dict(zip(CHROMA_COLUMNS, rng.dirichlet(np.ones(12), N).T)),
    }
    return pd.DataFrame(values)


def test_every_property_is_probed(table):
    """Features that hold all there is to know, except in windows of two sections and one where nothing sounds."""
    held = pd.get_dummies(
        table.drop(columns=["split", "purity", "composition"]), columns=["tonic", "mode", "family"]
    ).to_numpy(float)
    mixed = (table["purity"] < MIN_PURITY).to_numpy()
    table.loc[mixed, "family"] = np.random.default_rng(1).permutation(table.loc[mixed, "family"])
    table.loc[7, "register"] = np.nan
    scores = probe_properties(torch.from_numpy(held), table, np.random.default_rng(0))
    results = score_table(scores).set_index("property")
    assert results.index.tolist() == [wanted.name for wanted in PROPERTIES]
    assert results["measure"].tolist() == ["skill", "skill", "R2", "R2", "R2", "skill", "skill", "R2", "R2"]
    assert (results["value"] > 0.99).all()
    pure = ~mixed
    assert results.loc["instrument family", ["n_train", "n_test"]].tolist() == [sum(pure & TRAIN), sum(pure & TEST)]
    assert results.loc["drums", "n_train"] == sum(pure & TRAIN) < 500
    assert results.loc["register", "n_train"] == 499 and results.loc["tonic", "n_train"] == 500


def test_the_property_that_cannot_be_probed_is_named(table):
    with pytest.raises(KeyMynaError, match="property 'tuning': y is the same"):
        probe_properties(np.zeros((N, 2)), table.assign(tuning=0.0), np.random.default_rng(0))
    with pytest.raises(KeyMynaError, match="899 rows"):
        probe_properties(np.zeros((N - 1, 2)), table, np.random.default_rng(0))


def test_differences_of_properties_are_those_of_their_values_and_paired(table):
    """A feature set beside a noisier copy of itself, and a set beside itself: no window tells one from the other."""
    rng = np.random.default_rng(0)
    known = pd.get_dummies(table[["tonic", "mode"]].astype(str)).to_numpy(float)
    known = np.column_stack([known, table[list(CHROMA_COLUMNS)], table[["tuning", "register"]]])
    sets = {"clear": known, "noisy": known + rng.normal(size=known.shape), "again": known}
    scores = {name: probe_properties(x, table, np.random.default_rng(0)) for name, x in sets.items()}
    found = property_differences(scores, "clear").set_index(["system", "property"])
    assert list(found.index) == [(name, wanted.name) for name in ("noisy", "again") for wanted in PROPERTIES]
    for (name, wanted), row in found.iterrows():
        assert row["difference"] == pytest.approx(scores[name][wanted].value - scores["clear"][wanted].value)
        assert row["p"] <= row["p_holm"] <= 1
    for wanted in ("tonic", "mode", "chroma", "tuning", "register"):
        lost = found.loc[("noisy", wanted)]
        assert lost["d_low"] <= lost["difference"] <= lost["d_high"] < 0 and lost["p_holm"] < 0.05
    assert (found.loc["again", ["difference", "d_low", "d_high"]] == 0).all(axis=None)
    assert (found.loc["again", "p_holm"] == 1).all()


def test_differences_need_the_same_windows(table):
    x = np.random.default_rng(0).normal(size=(N, 3))
    one = probe_properties(x, table, np.random.default_rng(0))
    other = probe_properties(x, table.assign(composition=np.arange(N)), np.random.default_rng(0))
    with pytest.raises(KeyMynaError, match="'b' and 'a': 'tonic' was not probed on the same windows"):
        property_differences({"a": one, "b": other}, "a")
