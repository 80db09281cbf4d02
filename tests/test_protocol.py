"""The protocol on a stand-in corpus: budgets, shifts, and a test split that nothing but the last look touches."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib import paths, protocol, results
from keymyna_lib.embed import Features
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.heads import HeadSpec

N = {"train": 96, "valid": 48, "test": 48}


@pytest.fixture
def corpus():
    """Tracks of all 24 keys in each split, chorales and tunes by turns."""
    rows = [(f"{split}{i}", split, i % 24, ("chorale", "tune")[i // 24 % 2], f"{split}{i}") for split, n in N.items() for i in range(n)]
    manifest = pd.DataFrame(rows, columns=["track_id", "split", "key", "source", "composition"]).set_index("track_id")
    return SimpleNamespace(hash="c", manifest=manifest,
                           tracks=lambda split: list(manifest.index[manifest["split"] == split]))


def features(corpus, corrupt=()):
    """Two windows a track that all but spell out the key (noise on tracks in `corrupt` splits), and one shifted view."""
    generator = torch.Generator().manual_seed(0)
    key = torch.tensor(corpus.manifest["key"].to_numpy())
    track = torch.arange(len(key)).repeat_interleave(3)
    shift = torch.tensor([0, 0, 2]).repeat(len(key))
    rows = Features(torch.empty(0), track, shift, tuple(corpus.manifest.index))
    x = torch.nn.functional.one_hot(rows.keys(corpus.manifest["key"]), 24) + 0.1 * torch.randn(len(track), 24, generator=generator)
    spoiled = torch.tensor(corpus.manifest["split"].isin(corrupt).to_numpy())[track]
    x[spoiled] = torch.randn(int(spoiled.sum()), 24, generator=generator)
    return Features(x, track, shift, rows.track_ids)


GRID = [HeadSpec(lr=lr) for lr in (1e-5, 1e-2)]


def study(**changes):
    return protocol.HeadStudy(**{"features": "f", "head": "linear probe", "budget": 48, "shifts": (0,), "max_steps": 200,
                                 "eval_every": 50, "patience": 4, "seed": 0} | changes)


@pytest.mark.parametrize("largest, step, shifts", [(6, 1, tuple(range(-6, 7))), (6, 3, (-6, -3, 0, 3, 6)),
                                                   (6, 4, (-4, 0, 4)), (0, 1, (0,))])
def test_shift_range(largest, step, shifts):
    assert protocol.shift_range(largest, step) == shifts


@pytest.mark.parametrize("largest, step", [(6, 0), (12, 1), (-1, 1)])
def test_shift_range_refuses(largest, step):
    with pytest.raises(KeyMynaError, match="semitones"):
        protocol.shift_range(largest, step)


def test_needed_shifts_cover_every_study(corpus):
    needed = protocol.needed_shifts(corpus, [24, 0], [(-1, 0, 1), (0, 3)], [0, 1])
    assert set(needed) == set(corpus.tracks("train"))
    small = {t for seed in (0, 1) for t in protocol.budget_tracks(corpus, 24, seed)}
    assert all(needed[t] == ([-1, 0, 1, 3] if t in small else [0, 3]) for t in needed)


def test_budgets_are_nested_and_stratified(corpus):
    small, large = (protocol.budget_tracks(corpus, n, 3) for n in (24, 72))
    assert set(small) < set(large) and sorted(corpus.manifest.loc[small, "key"]) == list(range(24))
    assert corpus.manifest.loc[large, "key"].value_counts().eq(3).all()


def test_selection_does_not_depend_on_the_test_tracks(corpus):
    """Whatever the test tracks hold, the same head is trained, at the same step, from the same rows."""
    one, other = (protocol.train(study(), GRID, features(corpus, corrupt), corpus) for corrupt in ((), ("test",)))
    for a, b in zip(one, other):
        assert a.valid_curve == b.valid_curve and all(torch.equal(a.parameters[k], b.parameters[k]) for k in a.parameters)


def test_a_study_is_recorded_with_the_chosen_head(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(results, "code_hash", lambda: "code")
    monkeypatch.setattr(results, "notebook_hash", lambda notebook: "source")
    rows = features(corpus)
    heads = protocol.train(study(shifts=(0, 2)), GRID, rows, corpus)
    with results.Run("x", profile="smoke", notebook="n", config=protocol.configuration(study(), GRID), seed=0, inputs={}) as run:
        chosen = protocol.record_study(run, study(), heads, rows, corpus)
    assert chosen.spec.lr == 1e-2  # the other has hardly moved
    predictions = results.load_predictions("smoke", run.run_id)
    assert list(predictions["track_id"]) == corpus.tracks("test")
    assert (predictions["reference"] == corpus.manifest.loc[predictions["track_id"], "key"].to_numpy()).all()
    metrics = results.load_metrics("smoke", [run.run_id]).set_index(["dataset", "split", "metric"])["value"]
    assert metrics["all", "test", "weighted_both"] == pytest.approx(predictions["score"].mean(), abs=1e-6) and \
        metrics["all", "test", "weighted_both"] > 0.95
    assert metrics["tune", "test", "accuracy"] == pytest.approx(
        (predictions["reference"] == predictions["estimate"])[predictions["source"] == "tune"].mean())
    assert metrics["all", "train", "labelled_tracks"] == 48


def test_the_configuration_covers_the_grid():
    wider = [*GRID, HeadSpec(hidden=(8,))]
    assert protocol.configuration(study(), GRID) != protocol.configuration(study(), wider)
    assert protocol.configuration(study(), GRID, windows=2) != protocol.configuration(study(), GRID, windows=3)


def test_shifted_rows_carry_the_moved_label(corpus):
    rows = protocol.rows_of(features(corpus), corpus, corpus.tracks("train"), (0, 2))
    assert (rows.x.argmax(dim=1) == rows.y).float().mean() > 0.99
    assert len(rows.x) == 3 * N["train"] and np.bincount(rows.track.numpy()).tolist() == [3] * N["train"]
