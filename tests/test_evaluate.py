from itertools import chain, combinations

import mir_eval
import numpy as np
import pytest
from scipy import stats

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.evaluate import (
    NO_KEY,
    _resampled_means,
    bootstrap_interval,
    chance_scores,
    confusion,
    holm,
    mirex_scores,
    paired_difference,
    ratio_interval,
    summary,
    track_predictions,
)

REFERENCE, ESTIMATE = np.divmod(np.arange(576), 24)  # all pairs of keys


def reference_score(reference, estimate):
    """mir_eval's score: only ascending fifths are credited."""
    return mir_eval.key.weighted_score(keys.KEY_NAMES[reference], keys.KEY_NAMES[estimate])


def test_all_pairs_against_mir_eval():
    ascending = [reference_score(r, e) for r, e in zip(REFERENCE, ESTIMATE)]
    # The score is symmetric except for the fifth: turned round, mir_eval credits what lies a fifth below.
    both = [max(reference_score(r, e), reference_score(e, r)) for r, e in zip(REFERENCE, ESTIMATE)]
    np.testing.assert_array_equal(mirex_scores(REFERENCE, ESTIMATE, fifths="ascending"), ascending)
    np.testing.assert_array_equal(mirex_scores(REFERENCE, ESTIMATE, fifths="both"), both)


def test_an_estimate_without_a_key_is_wrong_in_every_respect():
    scores = [mir_eval.key.weighted_score(name, "X") for name in keys.KEY_NAMES]
    for fifths in ("both", "ascending"):
        np.testing.assert_array_equal(mirex_scores(range(24), [NO_KEY] * 24, fifths=fifths), scores)
    metrics = summary(range(24), [NO_KEY] * 24)
    assert metrics.pop("share_other") == 1 and not any(metrics.values())
    assert confusion([0, 11, 12], [0, NO_KEY, NO_KEY]).sum() == 1
    with pytest.raises(KeyMynaError, match="reference: keys run from 0"):
        mirex_scores([NO_KEY], [0], fifths="both")
    with pytest.raises(KeyMynaError, match="estimate: keys run from -1"):
        mirex_scores([0], [-2], fifths="both")


def test_fifths_by_name():
    c, g, f = (keys.parse_key(name) for name in ("C major", "G major", "F major"))
    assert mirex_scores([c, c], [g, f], fifths="both").tolist() == [0.5, 0.5]
    assert mirex_scores([c, c], [g, f], fifths="ascending").tolist() == [0.5, 0.0]
    with pytest.raises(TypeError):
        mirex_scores([c], [g])


def test_summary_by_hand():
    names = [
        ("C major", "C major"),
        ("C major", "G major"),
        ("C major", "F major"),
        ("C major", "A minor"),
        ("A minor", "A major"),
        ("A minor", "G major"),
        ("E minor", "E minor"),
        ("C major", "D major"),
    ]
    reference, estimate = zip(*((keys.parse_key(r), keys.parse_key(e)) for r, e in names))
    got = summary(reference, estimate)
    expected = dict(
        weighted_both=(2 + 1 + 0.3 + 0.2) / 8,
        weighted_ascending=(2 + 0.5 + 0.3 + 0.2) / 8,
        accuracy=2 / 8,
        tonic_accuracy=3 / 8,
        mode_accuracy=5 / 8,
        share_same=2 / 8,
        share_fifth=2 / 8,
        share_relative=1 / 8,
        share_parallel=1 / 8,
        share_other=2 / 8,
    )
    assert got == pytest.approx(expected, abs=1e-15)


def test_confusion_counts_in_circle_order():
    rng = np.random.default_rng(0)
    reference, estimate = rng.integers(24, size=(2, 200))
    counts = confusion(reference, estimate)
    for i, r in enumerate(keys.CIRCLE_OF_FIFTHS):
        for j, e in enumerate(keys.CIRCLE_OF_FIFTHS):
            assert counts[i, j] == sum((reference == r) & (estimate == e))
    assert np.trace(counts) == (reference == estimate).sum()


@pytest.mark.parametrize("fifths", ["both", "ascending"])
def test_chance_is_the_mean_over_all_guesses(fifths):
    brute = mirex_scores(REFERENCE, ESTIMATE, fifths=fifths).reshape(24, 24).mean(1)
    np.testing.assert_allclose(chance_scores(np.arange(24), fifths=fifths), brute, rtol=1e-12)


def test_track_predictions_average_windows():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(24), size=7).astype(np.float32)
    track = np.array([2, 0, 1, 0, 2, 2, 1])
    got = track_predictions(probabilities, track)
    for i in range(3):
        np.testing.assert_allclose(got[i], probabilities[track == i].mean(0), rtol=1e-6)


def test_interval_of_a_bernoulli_share():
    scores = np.repeat([0.0, 1.0], [60, 140])
    half_width = 1.96 * np.sqrt(0.7 * 0.3 / 200)  # normal approximation
    low, high = bootstrap_interval(scores, n_resamples=20000, seed=0)
    assert (low, high) == pytest.approx((0.7 - half_width, 0.7 + half_width), abs=0.006)
    assert bootstrap_interval(scores, seed=1) == bootstrap_interval(scores, seed=1)
    narrow = bootstrap_interval(scores, level=0.5, seed=0)
    assert low < narrow[0] < 0.7 < narrow[1] < high


def test_seeds_widen_the_interval():
    rng = np.random.default_rng(0)
    tracks = rng.uniform(size=100)
    level = np.array([-0.2, 0.0, 0.2])[:, None]
    # Resamples by loops: draw seeds and tracks, average the table they span.
    table = tracks + level
    means = [table[np.ix_(rng.integers(3, size=3), rng.integers(100, size=100))].mean() for _ in range(20000)]
    got = bootstrap_interval(table, n_resamples=20000, seed=0)
    np.testing.assert_allclose(got, np.quantile(means, [0.025, 0.975]), atol=0.01)
    equal = bootstrap_interval(np.repeat(tracks[None], 3, 0), seed=0)
    assert np.diff(got) > 2 * np.diff(equal)
    np.testing.assert_allclose(equal, bootstrap_interval(tracks, seed=0), atol=0.01)


def test_pairing_takes_out_what_the_systems_share():
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=300)
    a, b = hard + 0.05, hard
    assert paired_difference(a, b, seed=0)[:3] == pytest.approx((0.05, 0.05, 0.05), abs=1e-12)
    noisy = paired_difference(a + rng.normal(0, 0.1, 300), b, seed=0)
    assert 0 < noisy.low < 0.05 + 0.02 and noisy.high - noisy.low < np.diff(bootstrap_interval(a, seed=0))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: mirex_scores([0], [1], fifths="up"), "fifths"),
        (lambda: chance_scores([0], fifths="up"), "fifths"),
        (lambda: mirex_scores([0, 1], [1], fifths="both"), "2 reference keys and 1"),
        (lambda: summary([], []), "expected one integer key|at least one"),
        (lambda: summary([24], [0]), "reference: keys run"),
        (lambda: summary([0], [-2]), "estimate: keys run"),
        (lambda: confusion([0.5], [0]), "integer"),
        (lambda: track_predictions(np.ones((3, 24)), [0, 2, 2]), "renumber"),
        (lambda: track_predictions(np.ones((3, 24)), [0, -1, 0]), "renumber"),
        (lambda: track_predictions(np.ones((3, 24)), [0, 0]), "expected"),
        (lambda: bootstrap_interval([], seed=0), "finite"),
        (lambda: bootstrap_interval([0.5, np.nan], seed=0), "finite"),
        (lambda: bootstrap_interval([0.5], level=95, seed=0), "level"),
        (lambda: bootstrap_interval([0.5], n_resamples=0, seed=0), "n_resamples"),
        (lambda: paired_difference([1, 2], [1], seed=0), "same tracks"),
        (lambda: paired_difference([[1, 2]], [1, 2], seed=0), "same tracks"),
        (lambda: paired_difference([1], [np.inf], seed=0), "finite"),
        (lambda: holm([0.5, 1.5]), "p_values"),
        (lambda: holm([0.5, np.nan]), "p_values"),
        (lambda: holm([[0.5]]), "p_values"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(KeyMynaError, match=message):
        call()


def test_groups_are_drawn_together():
    """Copies of a track add nothing: the interval is that of the groups, and wider than that of the tracks."""
    scores = np.random.default_rng(0).random(40)
    low, high = bootstrap_interval(scores, seed=0)
    copies, groups = np.repeat(scores, 5), np.repeat(np.arange(40), 5)
    assert bootstrap_interval(copies, groups=groups, seed=0) == pytest.approx((low, high))
    narrow = bootstrap_interval(copies, seed=0)
    assert narrow[1] - narrow[0] < 0.6 * (high - low)
    with pytest.raises(KeyMynaError, match="group labels"):
        bootstrap_interval(scores, groups=[0, 1], seed=0)


def resampled_means(scores, groups, n_resamples, seed):
    """The resampling written out: the same draws, then each resample's table averaged entry by entry."""
    rng = numpy_stream(seed, "bootstrap")
    labels = np.unique(groups)
    draws = [rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) for n in (len(scores), len(labels))]
    means = []
    for seeds, drawn in zip(*draws):
        rows = [s for s, n in enumerate(seeds) for _ in range(n)]
        columns = [t for label, n in zip(labels, drawn) for _ in range(n) for t in np.flatnonzero(groups == label)]
        means.append(scores[np.ix_(rows, columns)].mean())
    return np.array(means)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_interval_and_p_value_are_those_of_the_resampled_tables(n_seeds):
    rng = np.random.default_rng(4)
    a, b = rng.choice([0, 0.2, 0.3, 0.5, 1], size=(2, n_seeds, 30))
    groups = np.array([f"tune {i}" for i in rng.integers(12, size=30)])
    means = resampled_means(a - b, groups, 500, 7)
    found = paired_difference(a, b, groups=groups, n_resamples=500, level=0.9, seed=7)
    bounds = np.quantile(means, [0.05, 0.95])
    assert found.difference == pytest.approx(a.mean() - b.mean(), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(bounds), abs=1e-12)
    means = means.round(9)  # sums of tenths: what is 0 is 0
    assert found.p == pytest.approx(min(1, 2 * (min(np.sum(means <= 0), np.sum(means >= 0)) + 1) / 501))
    assert bootstrap_interval(a, groups=groups, n_resamples=500, level=0.9, seed=7) == pytest.approx(
        tuple(np.quantile(resampled_means(a, groups, 500, 7), [0.05, 0.95])), abs=1e-12
    )
    assert bootstrap_interval(a - b, groups=groups, n_resamples=500, level=0.9, seed=7) == found[1:3]


def test_p_value_of_no_difference_and_of_a_sure_one():
    scores = np.random.default_rng(0).random((2, 50))
    assert paired_difference(scores, scores, seed=0) == (0, 0, 0, 1)
    shifted = paired_difference(scores + 0.1, scores, seed=0)
    assert shifted.p == pytest.approx(2 / 2001) and shifted[:3] == pytest.approx((0.1, 0.1, 0.1))
    assert paired_difference(scores, scores + 0.1, seed=0).p == shifted.p  # two-sided


def test_rounding_does_not_decide_what_is_zero():
    """0.3 - 0.1 and 0.2 cancel up to rounding: half of the resamples of two such tracks are draws of both, mean 0."""
    a, b = np.array([0.3, 0.0]), np.array([0.1, 0.2])
    assert (a - b).sum() != 0
    assert paired_difference(a, b, seed=0).p == 1  # each side holds a quarter besides


def test_p_value_is_uniform_when_nothing_differs_and_tracks_come_in_groups():
    """Compositions move their settings alike. Drawn together the p-values are uniform, drawn singly far too small."""
    groups = np.repeat(np.arange(60), 3)
    together, singly, t_test, agree = [], [], [], []
    for trial in range(400):
        rng = np.random.default_rng([5, trial])
        noise = rng.normal(size=60)[groups] + 0.3 * rng.normal(size=180)
        found = paired_difference(noise, np.zeros(180), groups=groups, n_resamples=199, seed=trial)
        together.append(found.p)
        singly.append(paired_difference(noise, np.zeros(180), n_resamples=199, seed=trial).p)
        t_test.append(stats.ttest_1samp(noise.reshape(60, 3).mean(axis=1), 0).pvalue)
        excludes = not found.low <= 0 <= found.high
        agree.append((found.p < 0.05) == excludes or abs(found.p - 0.05) <= 2 * 2 / 200)  # two resamples, two sides
    together, singly = np.array(together), np.array(singly)
    assert all(agree) and np.abs(together - t_test).mean() < 0.05
    assert stats.kstest(together, "uniform").statistic < stats.kstwo.ppf(0.99, 400)
    assert 0.02 < np.mean(together <= 0.05) < 0.09 and np.mean(singly <= 0.05) > 0.15


def test_p_value_is_near_that_of_the_t_test():
    difference = np.random.default_rng(3).normal(0.16, 1, size=200)
    p = paired_difference(difference, np.zeros(200), n_resamples=20000, seed=0).p
    assert p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, rel=0.25)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 count 4, 3, 2 and 1 times: 0.02, 0.03, 0.06, and 0.04 raised to the 0.06 before.
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02], rtol=1e-12)
    assert holm([0.4, 0.6]).tolist() == [0.8, 0.8] and holm([0.7, 0.8]).tolist() == [1, 1] and holm([]).size == 0


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_holm_is_closed_testing_with_bonferroni(n):
    """By definition: the largest Bonferroni p-value of all the sets of hypotheses that one belongs to."""
    p = np.random.default_rng(n).random(n).round(1) ** 3  # with ties
    subsets = [list(s) for s in chain.from_iterable(combinations(range(n), size) for size in range(1, n + 1))]
    closed = [max(min(1, len(s) * p[s].min()) for s in subsets if i in s) for i in range(n)]
    np.testing.assert_allclose(holm(p), closed, rtol=1e-12)


def test_seeds_draws_and_groups_are_resampled_each_on_its_own():
    """Spread that comes from seeds alone must not shrink with the number of label draws."""
    rng = np.random.default_rng(0)
    by_seed = rng.normal(size=(4, 1, 1)) + np.zeros((4, 10, 50))
    low, high = bootstrap_interval(by_seed, seed=0)
    assert (low, high) == pytest.approx(bootstrap_interval(by_seed[:, 0], seed=0), abs=0.15)
    flat = bootstrap_interval(by_seed.reshape(40, 50), seed=0)
    assert flat[1] - flat[0] < 0.5 * (high - low)
    scores = rng.normal(size=(3, 2, 8))
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    for n_resamples, seed in ((3, 5), (4, 5), (3, 6)):
        found = _resampled_means(scores, groups, n_resamples, seed=seed)
        draws = numpy_stream(seed, "bootstrap")
        counts = [draws.multinomial(n, np.full(n, 1 / n), size=n_resamples) for n in (3, 2, 4)]
        for resample, (seeds, labels, drawn) in enumerate(zip(*counts)):
            total = weight = 0.0
            for s, d, t in np.ndindex(*scores.shape):
                count = seeds[s] * labels[d] * drawn[groups[t]]
                total, weight = total + count * scores[s, d, t], weight + count
            assert found[resample] == pytest.approx(total / weight)


def test_ratio_interval_is_that_of_the_resampled_sums():
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 3)
    denominator = rng.uniform(1, 2, 180)
    numerator = denominator * np.repeat(rng.uniform(0.2, 0.6, 60), 3)
    low, high = ratio_interval(numerator, denominator, groups=groups, seed=0)
    assert low < numerator.sum() / denominator.sum() < high
    sums = [np.bincount(groups, values) for values in (numerator, denominator)]
    by_hand = [
        np.divide(*(row[pick].sum() for row in sums)) for pick in np.random.default_rng(2).integers(0, 60, (4000, 60))
    ]
    assert (low, high) == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=0.01)
