"""The protocol on a stand-in corpus: budgets, shifts, and a test split that nothing but the last look touches."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib import heads
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus import splits
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments import head_study, scoring
from keymyna_lib.features import Features
from keymyna_lib.heads import HeadSpec
from keymyna_lib.report import provenance
from keymyna_lib.report.runs import Run, load_metrics, load_predictions, run_file

N = {"train": 96, "valid": 48, "test": 48, "extra": 24}


@pytest.fixture
def corpus():
    """Tracks of all 24 keys in each split, chorales and tunes by turns."""
    rows = [
        (f"{split}{i}", split, i % 24, ("chorale", "tune")[i // 24 % 2], f"{split}{i}")
        for split, n in N.items()
        for i in range(n)
    ]
    manifest = pd.DataFrame(rows, columns=["track_id", "split", "key", "source", "composition"]).set_index("track_id")
    return SimpleNamespace(
        hash="c", manifest=manifest, tracks=lambda split: list(manifest.index[manifest["split"] == split])
    )


def features(corpus, corrupt=()):
    """Two windows per track that all but spell out the key (noise in `corrupt` splits), and one shifted view."""
    generator = torch.Generator().manual_seed(0)
    key = torch.tensor(corpus.manifest["key"].to_numpy())
    track = torch.arange(len(key)).repeat_interleave(3)
    shift = torch.tensor([0, 0, 2]).repeat(len(key))
    rows = Features(torch.empty(0), track, shift, tuple(corpus.manifest.index))
    x = torch.nn.functional.one_hot(rows.keys(corpus.manifest["key"]), 24) + 0.1 * torch.randn(
        len(track), 24, generator=generator
    )
    spoiled = torch.tensor(corpus.manifest["split"].isin(corrupt).to_numpy())[track]
    x[spoiled] = torch.randn(int(spoiled.sum()), 24, generator=generator)
    return Features(x, track, shift, rows.track_ids)


GRID = [HeadSpec(lr=lr) for lr in (1e-5, 1e-2)]


def study(**changes):
    return head_study.HeadStudy(
        **{
            "features": "f",
            "head": "linear probe",
            "budget": 48,
            "shifts": (0,),
            "max_steps": 200,
            "eval_every": 50,
            "patience": 4,
            "seed": 0,
        }
        | changes
    )


@pytest.mark.parametrize(
    "largest, step, shifts", [(6, 1, tuple(range(-6, 7))), (6, 3, (-6, -3, 0, 3, 6)), (6, 4, (-4, 0, 4)), (0, 1, (0,))]
)
def test_shift_range(largest, step, shifts):
    assert head_study.shift_range(largest, step) == shifts


@pytest.mark.parametrize("largest, step", [(6, 0), (12, 1), (-1, 1)])
def test_shift_range_refuses(largest, step):
    with pytest.raises(KeyMynaError, match="semitones"):
        head_study.shift_range(largest, step)


def test_needed_shifts_cover_every_study(corpus):
    needed = head_study.needed_shifts(corpus, [24, 0], [(-1, 0, 1), (0, 3)], [0, 1])
    assert set(needed) == set(corpus.tracks("train"))
    small = {t for seed in (0, 1) for t in splits.budget_tracks(corpus, 24, seed)}
    assert all(needed[t] == ([-1, 0, 1, 3] if t in small else [0, 3]) for t in needed)


def test_budgets_are_nested_and_stratified(corpus):
    small, large = (splits.budget_tracks(corpus, n, 3) for n in (24, 72))
    assert set(small) < set(large) and sorted(corpus.manifest.loc[small, "key"]) == list(range(24))
    assert corpus.manifest.loc[large, "key"].value_counts().eq(3).all()


def test_selection_does_not_depend_on_the_test_tracks(corpus):
    """Whatever the test tracks hold, the same head is trained, at the same step, from the same rows."""
    one, other = (head_study.train(study(), GRID, features(corpus, corrupt), corpus) for corrupt in ((), ("test",)))
    for a, b in zip(one, other):
        assert a.valid_curve == b.valid_curve and all(
            torch.equal(a.parameters[k], b.parameters[k]) for k in a.parameters
        )


def test_a_study_is_recorded_with_the_chosen_head(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(provenance, "code_hash", lambda: "code")
    monkeypatch.setattr(provenance, "notebook_hash", lambda notebook: "source")
    rows = features(corpus)
    heads = head_study.train(study(shifts=(0, 2)), GRID, rows, corpus)
    with Run(
        "x", profile="smoke", notebook="n", config=head_study.configuration(study(), GRID), seed=0, inputs={}
    ) as run:
        chosen = head_study.record_study(run, study(), heads, rows, corpus)
    assert chosen.spec.lr == 1e-2  # the other has hardly moved
    predictions = load_predictions("smoke", run.run_id)
    assert list(predictions["track_id"]) == corpus.tracks("test")
    assert (predictions["reference"] == corpus.manifest.loc[predictions["track_id"], "key"].to_numpy()).all()
    metrics = load_metrics("smoke", [run.run_id]).set_index(["dataset", "split", "metric"])["value"]
    assert (
        metrics["all", "test", "weighted_both"] == pytest.approx(predictions["score"].mean(), abs=1e-6)
        and metrics["all", "test", "weighted_both"] > 0.95
    )
    assert metrics["tune", "test", "accuracy"] == pytest.approx(
        (predictions["reference"] == predictions["estimate"])[predictions["source"] == "tune"].mean()
    )
    assert metrics["all", "train", "labelled_tracks"] == 48


def test_the_configuration_covers_the_grid():
    wider = [*GRID, HeadSpec(hidden=(8,))]
    assert head_study.configuration(study(), GRID) != head_study.configuration(study(), wider)
    assert head_study.configuration(study(), GRID, windows=2) != head_study.configuration(study(), GRID, windows=3)


def test_shifted_rows_carry_the_moved_label(corpus):
    rows = head_study.rows_of(features(corpus), corpus, corpus.tracks("train"), (0, 2))
    assert (rows.x.argmax(dim=1) == rows.y).float().mean() > 0.99
    assert len(rows.x) == 3 * N["train"] and np.bincount(rows.track.numpy()).tolist() == [3] * N["train"]


def blurred(corpus, noise=1.5):
    """Features that hold the key under much noise, so that scores of heads and steps differ."""
    rows = features(corpus)
    return Features(
        rows.x + noise * torch.randn(rows.x.shape, generator=torch.Generator().manual_seed(1)),
        rows.track,
        rows.shift,
        rows.track_ids,
    )


LOOSE = [HeadSpec(lr=lr, dropout=p) for lr in (1e-3, 1e-2, 1e-1) for p in (0.0, 0.5)]


def split_score(head, rows, corpus, split):
    tracks = corpus.tracks(split)
    estimates = head_study.predict(head, rows, corpus, tracks)
    return mirex_scores(corpus.manifest.loc[tracks, "key"].to_numpy(), estimates, fifths="both").mean()


def test_optimism_is_the_best_test_score_of_all_heads_and_steps(corpus):
    """Against every head stopped at every step, scored on both splits: the maxima over the one and over the other."""
    rows, look = blurred(corpus), study(max_steps=60, eval_every=20, patience=3)
    train, valid = (
        head_study.rows_of(rows, corpus, tracks)
        for tracks in (splits.budget_tracks(corpus, 48, 0), corpus.tracks("valid"))
    )
    scores = {}
    for steps in (20, 40, 60):
        stopped = heads.train_heads(LOOSE, train, valid, max_steps=steps, eval_every=steps, patience=1, seed=0)
        scores |= {
            (h.spec.lr, h.spec.dropout, steps): [split_score(h, rows, corpus, s) for s in ("valid", "test")]
            for h in stopped
        }
    choices, predictions = head_study.optimism(look, LOOSE, rows, corpus)
    choices = choices.set_index("chosen_on")
    for watched, column in (("valid", 0), ("test", 1)):
        row = choices.loc[watched]
        there = scores[row["lr"], row["dropout"], row["best_step"]]
        assert [row["valid_score"], row["test_score"]] == pytest.approx(there)
        assert there[column] == pytest.approx(max(pair[column] for pair in scores.values()))
    assert choices.loc["test", "test_score"] > choices.loc["valid", "test_score"]
    assert choices.loc["test", "valid_score"] <= choices.loc["valid", "valid_score"]
    ways = dict(tuple(predictions.groupby("chosen_on")))
    for watched, table in ways.items():
        assert list(table["track_id"]) == corpus.tracks("test")
        assert table["score"].mean() == pytest.approx(choices.loc[watched, "test_score"])


def test_the_honest_way_of_optimism_is_the_one_that_is_reported(corpus):
    rows, look = blurred(corpus), study(max_steps=100, eval_every=20, patience=2)
    chosen = heads.select(head_study.train(look, LOOSE, rows, corpus))
    choices, predictions = head_study.optimism(look, LOOSE, rows, corpus)
    honest = choices.set_index("chosen_on").loc["valid"]
    assert [honest["lr"], honest["dropout"], honest["best_step"]] == [
        chosen.spec.lr,
        chosen.spec.dropout,
        chosen.best_step,
    ]
    assert honest["valid_score"] == pytest.approx(chosen.valid_score)
    tracks = corpus.tracks("test")
    pd.testing.assert_frame_equal(
        predictions[predictions["chosen_on"] == "valid"].drop(columns="chosen_on").reset_index(drop=True),
        scoring.prediction_table(corpus, tracks, head_study.predict(chosen, rows, corpus, tracks)),
    )


def test_there_is_no_optimism_where_both_splits_hold_the_same(corpus):
    """Test tracks that are copies of the validation tracks: the two ways are one."""
    rows = blurred(corpus)
    number = {name: i for i, name in enumerate(rows.track_ids)}
    for valid, test in zip(corpus.tracks("valid"), corpus.tracks("test")):
        rows.x[rows.track == number[test]] = rows.x[rows.track == number[valid]]
    choices, predictions = head_study.optimism(study(max_steps=60, eval_every=20, patience=1), LOOSE, rows, corpus)
    one, other = (choices.drop(columns="chosen_on").iloc[i] for i in range(2))
    assert one.equals(other) and one["valid_score"] == one["test_score"]
    one, other = (predictions.loc[predictions["chosen_on"] == w, "estimate"].to_numpy() for w in ("valid", "test"))
    assert (one == other).all()


def test_extra_test_sets_are_kept_apart(home, corpus):
    tracks = scoring.scored_tracks(corpus)
    right = corpus.manifest.loc[tracks, "key"].to_numpy()
    wrong_outside = np.where(corpus.manifest.loc[tracks, "split"] == "extra", (right + 6) % 12, right)
    with Run("x", profile="smoke", notebook="n", config={}, seed=0, inputs={}) as run:
        scoring.record_test(run, scoring.prediction_table(corpus, tracks, wrong_outside), corpus)
    assert list(load_predictions("smoke", run.run_id)["track_id"]) == corpus.tracks("test")
    assert list(pd.read_csv(run_file("smoke", run.run_id, "extra.csv"))["track_id"]) == corpus.tracks("extra")
    metrics = load_metrics("smoke", [run.run_id]).set_index(["split", "dataset", "metric"])["value"]
    assert metrics["test", "all", "accuracy"] == 1 and metrics["extra", "chorale", "accuracy"] == 0
