"""The hidden Markov model of keys against all paths of few windows, and against closed forms at both ends."""

import itertools

import numpy as np
import pytest

from keymyna_lib import key_over_time as over_time
from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.key_over_time import Segment
from keymyna_lib.spectrogram import window_starts

RNG = np.random.default_rng(0)


def posteriors(windows, sharpness=3.0):
    z = sharpness * RNG.normal(size=(windows, keys.N_KEYS))
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def test_distances_are_steps_between_neighbours_and_the_same_in_every_key():
    found = over_time.key_distances()
    assert np.array_equal(found, found.T) and (np.diag(found) == 0).all()
    every = np.arange(keys.N_KEYS)
    for shift in range(12):
        moved = keys.transpose(every, shift)
        assert np.array_equal(found[np.ix_(moved, moved)], found)
    near = {keys.KEY_NAMES[k] for k in np.flatnonzero(found[0] == 1)}
    assert near == {"G major", "F major", "A minor", "C minor"}
    fifths = [7 * i % 12 for i in range(7)]
    assert found[0, fifths].tolist() == [0, 1, 2, 2, 3, 4, 4]  # three fifths down are two steps, through the parallel


@pytest.mark.parametrize("persistence", [0.0, 0.7, 3.0])
def test_transitions_are_probabilities_that_fall_with_distance(persistence):
    found = np.exp(over_time.log_transitions(persistence))
    np.testing.assert_allclose(found.sum(axis=1), 1)
    distance = over_time.key_distances()
    by_distance = [found[distance == d] for d in range(distance.max() + 1)]
    assert all(np.ptp(same) < 1e-12 for same in by_distance)
    ratios = np.log([near[0] / far[0] for near, far in itertools.pairwise(by_distance)])
    np.testing.assert_allclose(ratios, persistence * np.array([1, *[0.5] * (len(ratios) - 1)]), atol=1e-12)


@pytest.mark.parametrize("windows, persistence", [(1, 2.0), (2, 1.0), (3, 0.4), (3, 2.5)])
def test_path_and_posteriors_are_those_of_all_paths(windows, persistence):
    logs = np.log(posteriors(windows))
    step = over_time.log_transitions(persistence)
    paths = np.array(list(itertools.product(range(keys.N_KEYS), repeat=windows)))
    score = logs[np.arange(windows), paths].sum(axis=1) + step[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    assert over_time.likeliest_path(logs, persistence).tolist() == paths[score.argmax()].tolist()
    weight = np.exp(score - score.max())
    expected = np.array([np.bincount(paths[:, t], weight, keys.N_KEYS) for t in range(windows)]) / weight.sum()
    np.testing.assert_allclose(over_time.smoothed(logs, persistence), expected, atol=1e-12)


def test_without_persistence_every_window_is_for_itself():
    p = posteriors(50)
    np.testing.assert_allclose(over_time.smoothed(np.log(p), 0.0), p, atol=1e-12)
    assert np.array_equal(over_time.likeliest_path(np.log(p), 0.0), p.argmax(axis=1))


def test_with_infinite_persistence_there_is_one_key_that_of_the_product():
    logs = np.log(posteriors(400))
    whole = logs.sum(axis=0)
    expected = np.exp(whole - whole.max()) / np.exp(whole - whole.max()).sum()
    with np.errstate(all="raise", under="ignore"):
        found = over_time.smoothed(logs, np.inf)
    np.testing.assert_allclose(found, np.tile(expected, (400, 1)), atol=1e-9)
    assert set(over_time.likeliest_path(logs, np.inf)) == {whole.argmax()}


def test_thousands_of_windows_neither_vanish_nor_overflow():
    logs = 5 * np.log(posteriors(4000, 30.0))
    found = over_time.smoothed(logs, 20.0)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize("persistence", [-1.0, float("nan")])
def test_impossible_persistence_is_refused(persistence):
    with pytest.raises(KeyMynaError, match="persistence .* expected 0 or more"):
        over_time.log_transitions(persistence)


@pytest.mark.parametrize("frames", [50, 196, 230, 392, 1000])
def test_dense_windows_hold_those_of_the_whole(frames):
    dense, whole = over_time.dense_starts(frames, 196), window_starts(frames, 196)
    assert set(whole) <= set(dense) and dense[-1] == whole[-1]
    assert (np.diff(dense) > 0).all() and (np.diff(dense) < 49 + 32).all()  # a second more at the end


def test_a_change_is_found_where_it_is():
    edges, weights = over_time.window_edges(over_time.dense_starts(49 * 41, 196), 196, 49 * 41)
    p = np.full((38, keys.N_KEYS), 0.4 / 23)
    p[:20, 0], p[20:, 14] = 0.6, 0.6
    p[5] = p[30] = 1 / keys.N_KEYS
    p[11, [0, 7]] = 0.1, 0.6 + 0.4 / 23 - 0.1  # a lapse
    assert edges[-1] == 49 * 41 and (weights[1:-1] == 0.25).all()
    found = over_time.timeline(p, edges, weights, 3.0)
    first, second = found.segments
    assert (first.key, second.key) == (0, 14) and first.start == 0 and second.end == edges[-1]
    assert first.end == second.start == edges[20]
    assert first.confidence == pytest.approx(np.average(found.probabilities[:20, 0], weights=np.diff(edges[:21])))
    assert len(over_time.timeline(p, edges, weights, 0.0).segments) >= 4


def test_segments_join_equal_neighbours():
    p = np.zeros((4, keys.N_KEYS))
    p[:, 3], p[:, 5] = [0.5, 1, 0, 0.2], [0, 0, 0.7, 0]
    assert over_time.segments_of(np.array([3, 3, 5, 3]), np.array([0, 1, 4, 5, 6.5]), p) == (
        Segment(0, 4, 3, pytest.approx((0.5 + 3) / 4)), Segment(4, 5, 5, 0.7), Segment(5, 6.5, 3, pytest.approx(0.2))
    )  # fmt: skip


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(KeyMynaError, match=r"probabilities \(3, 24\), edges \(3,\)"):
        over_time.timeline(posteriors(3), np.arange(3.0), np.ones(3), 1.0)
