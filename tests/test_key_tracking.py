"""Scores over time against sampling every hundredth, boundaries against mir_eval, choices against trying all."""

import warnings
from itertools import pairwise

import mir_eval
import models
import numpy as np
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered.local_keys import LocalKey, Passage, song_passage
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments import key_tracking
from keymyna_lib.experiments.key_tracking import Heard
from keymyna_lib.key_over_time import timeline, window_edges
from keymyna_lib.keys import N_KEYS, transpose


def spans(rng, seconds=60.0):
    cuts = np.sort(rng.integers(1, int(100 * seconds), rng.integers(0, 8))) / 100
    edges = np.unique([0.0, *cuts, seconds])
    return [LocalKey(a, b, int(rng.integers(N_KEYS))) for a, b in pairwise(edges)]


@pytest.mark.parametrize("seed", range(5))
def test_the_score_is_that_of_every_moment(seed):
    rng = np.random.default_rng(seed)
    reference, estimate = spans(rng), spans(rng)
    moments = np.arange(0.005, 60, 0.01)
    keys_at = [
        np.concatenate([[s.key] * round(100 * (s.end - s.start)) for s in them]) for them in (reference, estimate)
    ]
    assert len(moments) == len(keys_at[0])
    expected = mirex_scores(*keys_at, fifths="both").mean()
    assert key_tracking.score_over_time(reference, estimate) == pytest.approx(expected)
    half = [LocalKey(0.0, 30.0, 4)]
    assert key_tracking.score_over_time([LocalKey(0.0, 60.0, 4)], half) == pytest.approx(0.5)


def test_a_reference_covers_time():
    with pytest.raises(KeyMynaError, match="covers no time"):
        key_tracking.score_over_time([], [LocalKey(0.0, 1.0, 2)])


@pytest.mark.parametrize("seed", range(30))
def test_boundaries_are_matched_as_mir_eval_does(seed):
    rng = np.random.default_rng(seed)
    both = [np.unique(rng.integers(1, 590, rng.integers(1, 25)) / 10) for _ in range(2)]
    intervals = [np.stack([[0.0, *inner], [*inner, 60.0]], axis=1) for inner in both]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, _ = mir_eval.segment.detection(*intervals, window=3.0, trim=True)
    hits = key_tracking.boundary_hits(*both)
    assert hits == pytest.approx(precision * len(both[1])) == pytest.approx(recall * len(both[0]))


def passage(seed, change=(0, 2), at=20):
    """Probabilities that mostly say what is there, of a passage of 40 windows."""
    rng = np.random.default_rng(seed)
    edges, weights = window_edges(49 * np.arange(40), 196, 49 * 39 + 196)
    key = np.where(np.arange(40) < at, *change)
    p = rng.dirichlet(np.full(N_KEYS, 0.3), 40) + 0.25 * np.eye(N_KEYS)[key]
    p /= p.sum(axis=1, keepdims=True)
    truth = (LocalKey(0.0, edges[at] * 0.032, change[0]), LocalKey(edges[at] * 0.032, edges[-1] * 0.032, change[1]))
    return Heard(f"passage {seed}", truth, p, edges * 0.032, weights, change[0], p)


def test_the_persistence_is_the_best_on_what_is_given():
    heard = [passage(seed) for seed in range(6)]
    choices = (0.0, 0.3, 1.0, 50.0)

    def mean_score(persistence):
        found = [timeline(one.probabilities, one.edges, one.weights, persistence).segments for one in heard]
        return np.mean([key_tracking.score_over_time(one.truth, s) for one, s in zip(heard, found)])

    scores = [mean_score(value) for value in choices]
    best = key_tracking.choose_persistence(heard, choices)
    assert scores[choices.index(best)] == max(scores) and best in (0.3, 1.0)
    certain = [
        Heard("x", (LocalKey(0.0, 2.0, 1),), np.eye(N_KEYS)[[1, 1]], np.arange(3.0), np.ones(2), 1, np.zeros((2, 24)))
    ]
    assert key_tracking.choose_persistence(certain, choices) == 50.0


def test_all_systems_are_judged_and_boundaries_counted_together():
    heard = [passage(seed) for seed in range(4)]
    table = key_tracking.judge(heard, 1.0, 1.0)
    assert table.groupby("system").size().to_dict() == dict.fromkeys(key_tracking.SYSTEMS, 4)
    by_system = dict(tuple(table.groupby("system")))
    assert (by_system["one key"][["estimated", "hits"]] == 0).all(axis=None)
    assert key_tracking.f_measure(by_system["one key"]) == 0
    smoothed = by_system["smoothed"]
    unchanged = key_tracking.judge(heard, 1.0, 0.0)  # the template's is its own
    assert unchanged[unchanged["system"] == "smoothed"].equals(smoothed)
    last = unchanged.set_index("system")["score"]
    assert last["template, smoothed"].tolist() == last["template"].tolist()
    assert smoothed["score"].mean() > by_system["windows alone"]["score"].mean() + 0.05
    precision = smoothed["hits"].sum() / smoothed["estimated"].sum()
    recall = smoothed["hits"].sum() / smoothed["reference"].sum()
    expected = 2 * precision * recall / (precision + recall)
    assert key_tracking.f_measure(smoothed) == pytest.approx(expected) and expected > 0.5
    assert key_tracking.f_measure(smoothed.iloc[:0]) == 0


def test_each_half_is_judged_with_what_is_best_on_the_other():
    heard = [passage(seed, at=20 if seed % 2 else 39) for seed in range(6)]
    found = key_tracking.judge_in_folds(heard).set_index(["passage", "system"]).sort_index()
    for fold in (0, 1):
        others = heard[1 - fold :: 2]
        chosen = [key_tracking.choose_persistence(others, template=it) for it in (False, True)]
        expected = key_tracking.judge(heard[fold::2], *chosen).set_index(["passage", "system"]).sort_index()
        assert found.loc[[one.name for one in heard[fold::2]]].sort_index().equals(expected)
    with pytest.raises(KeyMynaError, match="1 passages do not make 2 folds"):
        key_tracking.judge_in_folds(heard[:1])


def test_a_passage_is_heard_in_its_own_time():
    made = song_passage(3, 1, modulates=True, seconds=16.0, detune_cents=0.0, snr_db=(40.0, 40.0))
    heard = key_tracking.hear(models.model(), made)
    assert heard.truth == made.local_keys and len(heard.probabilities) == len(heard.template) == len(heard.weights)
    assert heard.edges[0] == 0 and heard.edges[-1] == pytest.approx(heard.truth[-1].end, abs=0.05)


def test_the_template_follows_a_cadence_that_moves():
    import tones

    audio = np.concatenate([tones.cadence(key, 20.0) for key in (0, 6)])
    truth = (LocalKey(0.0, 20.0, 0), LocalKey(20.0, 40.0, int(transpose(0, 6))))
    sounding = np.round(audio / np.abs(audio).max() * 30000).astype(np.int16)

    class Cadences(Passage):
        def audio(self):
            return sounding

    heard = key_tracking.hear(models.model(), Cadences("cadences", np.empty((0, 4)), {}, truth))
    table = key_tracking.judge([heard], 1.0, 1.0).set_index("system")
    assert table.loc["template", "score"] > 0.85 and table.loc["template", "hits"] == 1
