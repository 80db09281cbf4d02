"""The logistic probe against scikit-learn's plain fits, and labelled sets that nothing of the test tracks enters."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus import splits
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments import label_efficiency
from keymyna_lib.features import Features


def split(n, rng, dim=30, noise=0.3):
    """(track, dim) features of another scale in each column, keys in the first 24, and (track,) keys."""
    y = np.arange(n) % 24
    x = np.pad(np.eye(24)[y], ((0, 0), (0, dim - 24))) + noise * rng.normal(size=(n, dim))
    return x * np.logspace(-2, 2, dim), y


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return split(96, rng), split(96, rng), split(120, rng)[0]


def plain(train, others, C):
    """scikit-learn's model from a cold start on features scaled by hand: probabilities and keys of the others."""
    (x, y), model = train, LogisticRegression(C=C, tol=1e-9, max_iter=20000)
    model.fit((x - x.mean(0)) / x.std(0), y)
    scaled = [(other - x.mean(0)) / x.std(0) for other in others]
    return [model.predict_proba(other) for other in scaled], [model.predict(other) for other in scaled]


def unsure(probabilities):
    """Where the lead of the best key is so small that the optimiser's tolerance may turn it round."""
    ranked = np.sort(probabilities, axis=1)
    return ranked[:, -1] - ranked[:, -2] < 0.01 * (ranked[:, -1] - ranked[:, 0])


def test_estimates_and_choice_are_those_of_plain_fits(data):
    train, (x_valid, y_valid), x_test = data
    estimates, C, score = label_efficiency.logistic_curve(*train, x_valid, y_valid, x_test)
    by_hand = {}
    for c in label_efficiency.CS:
        (_, test), (valid_keys, test_keys) = plain(train, (x_valid, x_test), c)
        by_hand[c] = mirex_scores(y_valid, valid_keys, fifths="both").mean(), test_keys, unsure(test)
    assert len({value[0] for value in by_hand.values()}) > 2  # there is something to choose
    assert max(by_hand, key=lambda c: by_hand[c][0]) == C  # the first of equals, from small to large
    assert score == pytest.approx(by_hand[C][0])
    _, expected, close = by_hand[C]
    assert close.mean() < 0.05 and (estimates == expected)[~close].all()


def test_the_penalty_is_that_of_the_documented_loss(data):
    """At the optimum of 1/2 |W|^2 + C sum of log losses nothing is gained by any step away from it."""
    (x, y), C = data[0], 0.1
    x = (x - x.mean(0)) / x.std(0)
    model = LogisticRegression(C=C, tol=label_efficiency._TOLERANCE, max_iter=1000).fit(x, y)

    def loss(weights, bias):
        return 0.5 * (weights**2).sum() - C * log_softmax(x @ weights.T + bias, axis=1)[np.arange(len(y)), y].sum()

    rng = np.random.default_rng(0)
    least = loss(model.coef_, model.intercept_)
    for _ in range(20):
        assert loss(model.coef_ + 1e-2 * rng.normal(size=model.coef_.shape), model.intercept_) > least


def test_ties_go_to_the_smaller_C():
    rng = np.random.default_rng(0)
    (x, y), (x_valid, y_valid), (x_test, y_test) = (split(n, rng, noise=0.01) for n in (48, 48, 24))
    estimates, C, score = label_efficiency.logistic_curve(x, y, x_valid, y_valid, x_test, Cs=(10.0, 0.1, 1.0))
    assert (C, score) == (0.1, 1.0) and (estimates == y_test).all()


@pytest.mark.parametrize("held", [(0, 9), (3, 5, 14, 20, 23)])
def test_keys_without_a_label_are_never_estimated(data, held):
    (x, y), (x_valid, y_valid), x_test = data
    rows = np.isin(y, held)
    estimates, C, score = label_efficiency.logistic_curve(x[rows], y[rows], x_valid, y_valid, x_test)
    assert set(estimates) <= set(held) and len(estimates) == len(x_test)
    _, (keys,) = plain((x[rows], y[rows]), (x_valid,), C)
    assert score == pytest.approx(mirex_scores(y_valid, keys, fifths="both").mean(), abs=0.01)


def test_the_scale_of_a_feature_does_not_matter_and_constant_ones_are_left_alone(data):
    (x, y), (x_valid, y_valid), x_test = data
    one = label_efficiency.logistic_curve(x, y, x_valid, y_valid, x_test)
    scale = np.logspace(3, -3, x.shape[1])
    constant = [np.full((len(part), 1), 0.1) for part in (x, x_valid)] + [np.linspace(-9, 9, len(x_test))[:, None]]
    parts = [np.hstack([part * scale + 5, more]) for part, more in zip((x, x_valid, x_test), constant)]
    other = label_efficiency.logistic_curve(parts[0], y, parts[1], y_valid, parts[2])
    assert other[1:] == one[1:] and np.mean(other[0] != one[0]) < 0.02


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(y_train=np.zeros(96, int)), "y_train"),
        (dict(y_train=np.arange(5)), "5 labels"),
        (dict(x_test=np.ones((3, 7))), "x_test"),
        (dict(x_valid=np.full((96, 30), np.nan)), "NaN"),
        (dict(Cs=()), "Cs"),
        (dict(Cs=(0, 1)), "Cs"),
    ],
)
def test_bad_input(data, change, message):
    (x, y), (x_valid, y_valid), x_test = data
    arguments = dict(x_train=x, y_train=y, x_valid=x_valid, y_valid=y_valid, x_test=x_test) | change
    with pytest.raises(KeyMynaError, match=message):
        label_efficiency.logistic_curve(**arguments)


@pytest.fixture
def corpus():
    n = {"train": (96, 1), "valid": (48, 5), "test": (72, 7)}  # tracks, and semitones from one to the next
    rows = [
        (f"{name}{i}", name, step * i % 24, ("chorale", "tune")[i // 24 % 2], f"c{i // 2}")
        for name, (m, step) in n.items()
        for i in range(m)
    ]
    manifest = pd.DataFrame(rows, columns=["track_id", "split", "key", "source", "composition"]).set_index("track_id")
    return SimpleNamespace(manifest=manifest, tracks=lambda split: list(manifest.index[manifest["split"] == split]))


def features(corpus, noise=0.5, corrupt=()):
    """One to three windows per track with its key under noise, and a shifted view of each track that is all noise."""
    rng = np.random.default_rng(0)
    keys = corpus.manifest["key"].to_numpy()
    track = np.concatenate([np.repeat(np.arange(len(keys)), 1 + np.arange(len(keys)) % 3), np.arange(len(keys))])
    shift = np.repeat([0, 5], [len(track) - len(keys), len(keys)])
    x = np.eye(24)[keys[track]] + noise * rng.normal(size=(len(track), 24))
    spoiled = (shift != 0) | corpus.manifest["split"].isin(corrupt).to_numpy()[track]
    x[spoiled] = 100 * rng.normal(size=(spoiled.sum(), 24))
    return Features(
        torch.tensor(x, dtype=torch.float32), torch.tensor(track), torch.tensor(shift), tuple(corpus.manifest.index)
    )


def test_track_means_are_of_the_unshifted_windows_in_the_order_asked_for(corpus):
    rows = features(corpus)
    tracks = ["test7", "train2", "valid0"]
    got = label_efficiency.track_means(rows, tracks)
    assert got.shape == (3, 24) and got.dtype == np.float64
    for row, track in zip(got, tracks):
        windows = (rows.track.numpy() == rows.track_ids.index(track)) & (rows.shift.numpy() == 0)
        np.testing.assert_allclose(row, rows.x.numpy()[windows].astype(np.float64).mean(0), rtol=1e-12)


def test_label_efficiency_fits_the_sets_of_the_protocol(corpus):
    rows = features(corpus)
    predictions, choices = label_efficiency.label_efficiency(rows, corpus, [12, 48, 0], [0, 1])
    assert len(predictions) == 6 * 72 and len(choices) == 6
    assert {"budget", "draw", "track_id", "composition", "source", "reference", "estimate", "score"} <= set(predictions)
    valid, test = (label_efficiency.track_means(rows, corpus.tracks(name)) for name in ("valid", "test"))
    y_valid = corpus.manifest.loc[corpus.tracks("valid"), "key"].to_numpy()
    for (budget, draw), table in predictions.groupby(["budget", "draw"]):
        labelled = splits.budget_tracks(corpus, budget, draw)
        y = corpus.manifest.loc[labelled, "key"].to_numpy()
        expected = label_efficiency.logistic_curve(
            label_efficiency.track_means(rows, labelled), y, valid, y_valid, test
        )
        assert list(table["track_id"]) == corpus.tracks("test") and set(table["estimate"]) <= set(y)
        assert (table["estimate"].to_numpy() == expected[0]).mean() > 0.95  # the labels' order is another one
        assert list(table["reference"]) == list(corpus.manifest.loc[table["track_id"], "key"])
        scores = mirex_scores(table["reference"], table["estimate"], fifths="both")
        np.testing.assert_array_equal(table["score"], scores)
        choice = choices.set_index(["budget", "draw"]).loc[(budget, draw)]
        assert choice["C"] == expected[1] and choice["valid_score"] == pytest.approx(expected[2], abs=0.02)
    mean = predictions.groupby("budget")["score"].mean()
    assert mean[12] < mean[48] < mean[0]
    all_labels = [predictions[(predictions["budget"] == 0) & (predictions["draw"] == draw)] for draw in (0, 1)]
    assert list(all_labels[0]["estimate"]) == list(all_labels[1]["estimate"])


def test_the_choice_does_not_depend_on_the_test_tracks(corpus):
    (seen, one), (spoiled, other) = (
        label_efficiency.label_efficiency(features(corpus, corrupt=c), corpus, [24, 72], [3]) for c in ((), ("test",))
    )
    pd.testing.assert_frame_equal(one, other)
    assert seen["score"].mean() > 0.4 > spoiled["score"].mean()


def test_without_features_of_the_test_tracks_validation_is_scored(corpus):
    seen = splits.budget_tracks(corpus, 48, 0) + corpus.tracks("valid")
    few, choices = label_efficiency.label_efficiency(features(corpus).select(seen), corpus, [48], [0], scored="valid")
    assert list(few["track_id"]) == corpus.tracks("valid")
    assert few["score"].mean() == pytest.approx(choices["valid_score"].iloc[0])
    with pytest.raises(KeyMynaError, match="no features of track"):
        label_efficiency.label_efficiency(features(corpus).select(seen), corpus, [48], [0])


@pytest.mark.parametrize(
    "budgets, draws, message",
    [([], [0], "budgets"), ([24], [], "draws"), ([1], [0], "y_train"), ([97], [0], "budget of 97")],
)
def test_label_efficiency_refuses(corpus, budgets, draws, message):
    with pytest.raises(KeyMynaError, match=message):
        label_efficiency.label_efficiency(features(corpus), corpus, budgets, draws)


def test_processes_fit_the_same(corpus, monkeypatch):
    asked = features(corpus), corpus, [24, 0], [0, 1]
    here = label_efficiency.label_efficiency(*asked)
    monkeypatch.setattr(label_efficiency, "cores", lambda: 3)
    for one, other in zip(here, label_efficiency.label_efficiency(*asked)):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
