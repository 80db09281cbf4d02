"""The paper's heads for any encoder: they learn from shifted views, several answer together, and work is kept."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.experiments import wide_mlp as module
from keymyna_lib.experiments.head_study import rows_of
from keymyna_lib.experiments.wide_mlp import WideMlp, labelled_sets, wide_mlp
from keymyna_lib.features import Features
from keymyna_lib.heads import HeadSpec, train_heads

N = 96


@pytest.fixture
def corpus(home):
    manifest = pd.DataFrame(
        {"key": np.arange(N) % 24, "split": np.repeat(["train", "valid", "test"], [48, 24, 24])},
        index=[f"t{i:02d}" for i in range(N)],
    )
    return SimpleNamespace(
        hash="c", manifest=manifest, tracks=lambda split: list(manifest.index[manifest["split"] == split])
    )


def features_of(corpus, shifts=(0,), noise=0.0):
    """Rows that are one-hot in the key of each view, and `noise`; two windows of each view."""
    rng = np.random.default_rng(0)
    rows = [(i, s) for i in range(N) for s in shifts for _ in range(2)]
    track, shift = (torch.tensor(column) for column in zip(*rows))
    made = Features(torch.zeros(len(rows), 24), track, shift, tuple(corpus.manifest.index))
    x = torch.nn.functional.one_hot(made.keys(corpus.manifest["key"]), 24).float()
    return Features(x + noise * torch.from_numpy(rng.normal(size=x.shape)).float(), track, shift, made.track_ids)


def protocol(shifts=(0,), seeds=(0, 1), widths=(32,)):
    grid = tuple(HeadSpec((width,), 0.5, 0.01, 0.0, 32, True) for width in widths)
    return WideMlp(grid, tuple(shifts), tuple(seeds), max_steps=60, eval_every=20, patience=3)


def test_shifted_views_teach_keys_that_no_label_has(corpus):
    """Only C, in both modes, is labelled: without shifts no other key can be named, with all of them each is."""
    corpus.manifest.loc[corpus.tracks("train"), "key"] = np.tile([0, 12], 24)
    features = features_of(corpus, shifts=range(-5, 7))
    right = {}
    for shifts in ((0,), tuple(range(-5, 7))):
        estimates, choices = wide_mlp(protocol(shifts), features, corpus, [0], [0])
        keys = corpus.manifest.loc[estimates["track_id"], "key"].to_numpy()
        right[len(shifts)] = (estimates["estimate"].to_numpy() == keys).mean()
        assert list(choices) == ["budget", "draw", "width", "dropout", "valid_score"] and len(choices) == 1
    assert right[12] == 1 and right[1] <= 2 / 24 + 1e-9


def test_heads_of_all_seeds_answer_together_and_the_grid_point_is_best_on_average(corpus):
    features, asked = features_of(corpus, noise=0.6), protocol(seeds=(0, 1, 2), widths=(8, 64))
    estimates, choices = wide_mlp(asked, features, corpus, [0], [0])
    tracks = {"train": budget_tracks(corpus, 0, 0), **{split: corpus.tracks(split) for split in ("valid", "test")}}
    rows = {split: rows_of(features, corpus, tracks[split]) for split in tracks}
    heads = [
        train_heads(asked.grid, rows["train"], rows["valid"], max_steps=60, eval_every=20, patience=3, seed=seed)
        for seed in asked.seeds
    ]
    scores = [sum(of_seed[i].valid_score for of_seed in heads) / 3 for i in range(2)]
    best = int(scores[1] > scores[0])
    together = sum(of_seed[best].predict(rows["test"].x, rows["test"].track) for of_seed in heads)
    assert choices["width"][0] == (8, 64)[best] and choices["valid_score"][0] == pytest.approx(max(scores))
    assert (estimates["estimate"] == together.argmax(axis=1)).all()


def test_budgets_draws_and_what_is_kept(corpus, monkeypatch):
    features, trained = features_of(corpus, noise=0.3), []
    train = module._train
    monkeypatch.setattr(module, "_train", lambda *a: trained.append(a[3:5]) or train(*a))
    asked = protocol(seeds=(0,))
    first = wide_mlp(asked, features, corpus, [24, 0], [1, 2])
    assert trained == labelled_sets([24, 0], [1, 2]) == [(24, 1), (24, 2), (0, 1)]
    again = wide_mlp(asked, features, corpus, [24, 0], [1, 2])
    assert len(trained) == 3
    for one, other in zip(first, again):
        pd.testing.assert_frame_equal(one, other)
    (kept, *_) = sorted((module.paths.CACHE / "wide_mlp").iterdir())
    kept.write_bytes(b"cut short")
    pd.testing.assert_frame_equal(first[0], wide_mlp(asked, features, corpus, [24, 0], [1, 2])[0])
    assert len(trained) == 4
    wide_mlp(protocol(seeds=(0, 1)), features, corpus, [0], [1])
    wide_mlp(asked, features_of(corpus, noise=0.31), corpus, [0], [1])
    assert len(trained) == 6  # of other settings, and on other features
