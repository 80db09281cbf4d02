"""Discriminants of "same track?" against scikit-learn's, in closed form, and on a subspace planted among noise."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments.discriminants import fit_discriminants, project, tuned_discriminants
from keymyna_lib.features import Features

N_WINDOWS = 6


def windows(n_tracks, dim=10, seed=0, equal=False):
    """(row, dim) windows of unequal scale, and (row,) their tracks, unless equal in number, the first has one only."""
    rng = np.random.default_rng(seed)
    sizes = np.full(n_tracks, N_WINDOWS) if equal else [1, *rng.integers(2, N_WINDOWS + 1, n_tracks - 1)]
    track = np.repeat(np.arange(n_tracks), sizes)
    mix = rng.normal(size=(dim, dim)) * np.logspace(-1, 1, dim)
    return (rng.normal(size=(n_tracks, dim))[track] + 0.7 * rng.normal(size=(len(track), dim))) @ mix + 3, track


def features(x, track, shift=None):
    track = torch.as_tensor(track)
    shift = torch.zeros_like(track) if shift is None else torch.as_tensor(shift)
    return Features(torch.as_tensor(x).float(), track, shift, tuple(f"t{i}" for i in range(int(track.max()) + 1)))


@pytest.mark.filterwarnings("ignore:Only one sample")
@pytest.mark.parametrize("n_tracks, dim, axes", [(30, 10, 10), (6, 10, 5)])
def test_without_shrinkage_they_are_those_of_scikit_learn(n_tracks, dim, axes):
    x, track = windows(n_tracks, dim)
    found = fit_discriminants(x, track, 0.0)
    theirs = LinearDiscriminantAnalysis(solver="eigen").fit(x, track)
    assert found.axes.shape == (dim, axes)
    assert np.allclose(found.ratios / found.ratios.sum(), theirs.explained_variance_ratio_[:axes])
    ours = project(features(x, track), found, axes).x.numpy()  # centred, unlike theirs
    expected = theirs.transform(x - x.mean(0))[:, :axes]
    expected *= np.sign((ours * expected).sum(axis=0))
    assert np.allclose(ours, expected, atol=1e-3)


def test_shrinkage_is_that_of_the_formula():
    x, track = windows(20)
    found = fit_discriminants(x, track, 0.3)
    z = (x - x.mean(0)) / x.std(0)
    own = np.array([z[track == t].mean(0) for t in track])
    within = 0.7 * np.cov((z - own).T, bias=True)
    within += 0.3 * np.var(z - own, axis=0).mean() * np.eye(10)
    expected = np.sort(np.linalg.eigvals(np.linalg.solve(within, own.T @ own / len(z))).real)[::-1]
    assert np.allclose(found.ratios, expected)
    assert np.allclose(found.axes.T @ within @ found.axes, np.eye(10))


def test_full_shrinkage_leaves_the_principal_components_of_the_means():
    x, track = windows(20, equal=True)
    z = (x - x.mean(0)) / x.std(0)
    components = PCA().fit(np.array([z[track == t].mean(0) for t in track])).components_
    axes = fit_discriminants(x, track, 1.0).axes
    axes /= np.linalg.norm(axes, axis=0)
    assert np.allclose(np.abs(components @ axes), np.eye(10), atol=1e-6)


def test_a_planted_subspace_is_found_where_its_variance_is_least():
    """Tracks differ in three directions of small variance, windows of a track in all others and far more."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    track = np.repeat(np.arange(200), 5)
    hidden = np.concatenate([rng.normal(size=(200, 3))[track], 10 * rng.normal(size=(1000, 9))], axis=1)
    hidden[:, :3] += 0.1 * rng.normal(size=(1000, 3))
    x = hidden @ basis.T
    found = fit_discriminants(x, track, 0.0)
    directions, _ = np.linalg.qr(found.axes[:, :3] / found.scale[:, None])
    overlap = np.linalg.svd(directions.T @ basis[:, :3])[1]  # cosines of the angles between the two subspaces
    assert overlap.min() > 0.999
    assert found.ratios[2] > 20 * found.ratios[3]


def test_views_are_projected_as_their_recordings_are():
    x, track = windows(12)
    found = fit_discriminants(x, track, 0.01)
    both = project(features(np.concatenate([x, x + 1]), np.tile(track, 2), np.repeat([0, 2], len(x))), found, 4)
    moved = ((1 / found.scale) @ found.axes)[:4]
    assert both.has_shifts and both.x.shape == (2 * len(x), 4)
    assert np.allclose(both.x[len(x) :] - both.x[: len(x)], moved, atol=1e-3)


def corpus_of(n):
    """A third of n tracks each for training, validation and test, whose keys take turns."""
    split = np.repeat(["train", "valid", "test"], n // 3)
    names = [f"t{i}" for i in range(n)]
    return SimpleNamespace(
        manifest=pd.DataFrame({"key": np.arange(n) % 24}, index=names),
        tracks=lambda split, of=split: [name for name, s in zip(names, of) if s == split],
    )


@pytest.fixture
def labelled(monkeypatch):
    """A corpus of 72 tracks a split, whose key lies in three of 12 directions under the noise of windows."""
    corpus = corpus_of(216)
    monkeypatch.setattr(
        "keymyna_lib.experiments.discriminants.budget_tracks",
        lambda corpus, budget, draw: corpus.tracks(split="train")[:budget],
    )
    rng = np.random.default_rng(0)
    key = np.arange(216) % 24
    angle = 2 * np.pi * (7 * key % 12) / 12
    place = np.stack([np.cos(angle), np.sin(angle), 2.0 * (key >= 12) - 1], axis=1)
    track = np.repeat(np.arange(216), 6)
    hidden = np.concatenate([place[track] + 0.1 * rng.normal(size=(1296, 3)), 3 * rng.normal(size=(1296, 9))], axis=1)
    return corpus, features(hidden @ np.linalg.qr(rng.normal(size=(12, 12)))[0], track)


def test_settings_are_chosen_on_validation_and_without_test_tracks(labelled):
    corpus, given = labelled
    options = dict(shrinkages=(0.01, 1.0), dimensions=(1, 3, 24))
    chosen, choices = tuned_discriminants(given, corpus, 24, [0], **options)
    assert list(choices["dimensions"]) == [1, 3, 1, 3]  # there are no 24
    assert chosen.x.shape == (1296, 3) and choices["valid_score"].argmax() == 1
    test = given.track >= 144
    other = Features(torch.where(test[:, None], 1e3, given.x), given.track, given.shift, given.track_ids)
    again, same = tuned_discriminants(other, corpus, 24, [0], **options)
    assert same.equals(choices) and torch.equal(again.x[~test], chosen.x[~test])
    shuffled = corpus.manifest.copy()
    shuffled.loc[corpus.tracks(split="train"), "key"] = np.roll(shuffled["key"][:72], 7)
    found, _ = tuned_discriminants(given, SimpleNamespace(manifest=shuffled, tracks=corpus.tracks), 24, [0], **options)
    assert found.x.shape == chosen.x.shape and torch.equal(found.x, chosen.x)  # axes owe nothing to the keys


@pytest.mark.parametrize(
    "x, track, shrinkage, message",
    [
        (np.full((4, 2), np.nan), [0, 0, 1, 1], 0.1, "finite"),
        (np.eye(4), [0, 0, 1], 0.1, "a track for each row"),
        (np.eye(4), [0, 0, 1, 1], 1.5, "choose it in 0..1"),
        (np.eye(4), [0, 0, 0, 0], 0.1, "one track"),
        (np.eye(4)[:, [0, 0, 1, 1]], [0, 0, 1, 1], 0.0, "choose a larger one"),
    ],
)
def test_bad_input(x, track, shrinkage, message):
    with pytest.raises(KeyMynaError, match=message):
        fit_discriminants(x, np.array(track), shrinkage)


def test_nothing_to_choose_from(labelled):
    corpus, given = labelled
    with pytest.raises(KeyMynaError, match="at least one of each"):
        tuned_discriminants(given, corpus, 24, [0], dimensions=(100,))


def test_tracks_of_one_window_leave_principal_components():
    x = np.random.default_rng(3).normal(size=(30, 6)) * [5, 1, 3, 1, 2, 1]
    found = fit_discriminants(x, np.arange(30), 0.1)
    components = PCA().fit((x - x.mean(axis=0)) / x.std(axis=0))
    np.testing.assert_allclose(np.abs(found.axes.T), np.abs(components.components_), atol=1e-8)
    np.testing.assert_allclose(found.ratios, components.explained_variance_ * 29 / 30, atol=1e-8)
