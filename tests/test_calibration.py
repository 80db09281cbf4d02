"""Temperature scaling against a grid, calibration error against cases by hand, thresholds against trying all."""

import numpy as np
import pytest
import scipy.stats

from keymyna_lib import calibration
from keymyna_lib.base.errors import KeyMynaError

RNG = np.random.default_rng(0)


def answers(n, sharpness, true_temperature):
    """(n, 24) probabilities and labels that are drawn from them at a temperature."""
    z = sharpness * RNG.normal(size=(n, 24))
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    drawn = calibration.tempered(p, true_temperature)
    return p, np.array([RNG.choice(24, p=row) for row in drawn])


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_a_temperature_is_the_best_of_a_fine_grid(true):
    p, labels = answers(400, 2.0, true)
    grid = np.geomspace(0.1, 10, 2001)
    losses = [calibration.negative_log_likelihood(calibration.tempered(p, t), labels) for t in grid]
    found = calibration.fit_temperature(p, labels)
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=0.003)
    assert found == pytest.approx(true, rel=0.25)


def test_a_temperature_stays_within_bounds():
    p, _ = answers(50, 2.0, 1.0)
    assert calibration.fit_temperature(p, p.argmax(axis=1)) == pytest.approx(0.1)
    assert calibration.fit_temperature(p, p.argmin(axis=1)) == pytest.approx(10)
    certain = np.eye(24)[[0, 1]]  # zeros have logarithms too
    assert calibration.fit_temperature(certain, [0, 2]) == pytest.approx(10)
    with pytest.raises(KeyMynaError, match=r"probabilities \(50, 24\), labels \(3,\)"):
        calibration.fit_temperature(p, [0, 1, 2])


def test_calibration_error_of_a_case_by_hand():
    confidence = np.array([0.9, 0.2, 0.8, 0.4, 0.6])
    correct = np.array([True, False, False, True, True])
    # In order: 0.2 no, 0.4 yes, 0.6 yes | 0.8 no, 0.9 yes.
    found = calibration.reliability(confidence, correct, bins=2)
    assert found.count.tolist() == [3, 2]
    np.testing.assert_allclose(found.confidence, [0.4, 0.85])
    np.testing.assert_allclose(found.accuracy, [2 / 3, 0.5])
    assert found.error == pytest.approx((3 * (2 / 3 - 0.4) + 2 * 0.35) / 5)
    alone = calibration.reliability(confidence, correct, bins=50)
    assert alone.count.tolist() == [1] * 5 and alone.error == pytest.approx((0.2 + 0.6 + 0.4 + 0.8 + 0.1) / 5)
    with pytest.raises(KeyMynaError, match="expected one of both per answer"):
        calibration.reliability(confidence, correct[:4])


def test_what_is_calibrated_has_little_error():
    p, labels = answers(20000, 2.0, 1.0)
    right = p.argmax(axis=1) == labels
    assert calibration.reliability(p.max(axis=1), right).error < 0.015
    assert calibration.reliability(calibration.tempered(p, 0.4).max(axis=1), right).error > 0.1


def test_coverage_is_what_thresholds_leave():
    confidence, scores = np.round(RNG.random(40), 1), RNG.random(40)
    found = calibration.coverage(confidence, scores)
    assert found.threshold.tolist() == sorted(set(confidence), reverse=True)
    for threshold, share, score in zip(*found):
        given = confidence >= threshold
        assert (share, score) == (pytest.approx(given.mean()), pytest.approx(scores[given].mean()))
    assert found.answered[-1] == 1


def test_entropy_is_that_of_scipy():
    p, _ = answers(20, 2.0, 1.0)
    np.testing.assert_allclose(calibration.entropy(p), scipy.stats.entropy(p, axis=1), rtol=1e-9)
    assert calibration.entropy(np.eye(24)[3]) == pytest.approx(0)  # zeros count for nothing


@pytest.mark.parametrize("lost", [0.0, 0.05, 0.3, 1.0])
def test_the_most_doubt_is_the_best_of_all_thresholds(lost):
    tonal, other = 3 * RNG.beta(2, 5, 60), 3 * RNG.beta(4, 2, 30)
    found = calibration.most_doubt(tonal, other, lost=lost)
    assert (tonal > found).mean() <= lost
    allowed = [t for t in np.linspace(0, 3, 5001) if (tonal > t).mean() <= lost]
    assert calibration.answered(other, found) == min((other <= t).mean() for t in allowed)
    assert calibration.answered(other, found + 1e-9) > calibration.answered(other, found)


def test_what_cannot_be_told_apart_is_answered():
    assert calibration.most_doubt([2.0, 2.0], [1.0], lost=0.4) == np.inf


def test_a_threshold_needs_both_kinds():
    with pytest.raises(KeyMynaError, match="0 tonal pieces, 1 others"):
        calibration.most_doubt([], [0.3], lost=0.1)
