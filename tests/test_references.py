"""Rows without pre-training: probed as encoders are, chosen on validation, and paired with every seed."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib.experiments import references
from keymyna_lib.experiments.references import record_references
from keymyna_lib.features import CHROMA, MEAN_MEL, Features
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.report import summaries
from keymyna_lib.report.runs import describe_runs, run_file
from keymyna_lib.report.stage import Stage

N = 96


@pytest.fixture
def corpus(home):
    manifest = pd.DataFrame(
        {
            "key": np.arange(N) % 24,
            "split": np.repeat(["train", "valid", "test"], [48, 24, 24]),
            "source": "tune",
            "composition": [f"c{i}" for i in range(N)],
        },
        index=[f"t{i:02d}" for i in range(N)],
    )
    return SimpleNamespace(
        hash="c", manifest=manifest, tracks=lambda split: list(manifest.index[manifest["split"] == split])
    )


@pytest.fixture
def sets(corpus, monkeypatch):
    """Four feature sets that know the key more or less well; three windows of each track."""
    rng, track = np.random.default_rng(0), torch.arange(N).repeat_interleave(3)
    key = torch.nn.functional.one_hot(torch.tensor(corpus.manifest["key"].to_list())[track], 24).float()
    found = {
        name: Features(
            key + noise * torch.from_numpy(rng.normal(size=key.shape)).float(),
            track,
            torch.zeros_like(track),
            tuple(corpus.manifest.index),
        )
        for name, noise in (("untrained", 0.5), ("masked", 0.4), (MEAN_MEL, 0.6), (CHROMA, 0.1))
    }
    monkeypatch.setattr(references, "encoders_of_runs", lambda profile, runs: {})
    monkeypatch.setattr(references, "feature_sets", lambda *_, **__: found)
    few = {"shrinkages": (0.01, 0.5), "dimensions": (8, 24)}  # a choice of theirs: test_discriminants.py
    for name, values in few.items():
        monkeypatch.setitem(references.tuned_discriminants.__kwdefaults__, name, values)
    return found


def recorded(corpus, names, seed=0):
    stage = Stage("50_objectives", "smoke")
    base = PretrainConfig(seed=seed, steps=20, warmup_steps=2)
    ids = record_references(stage, names, {"untrained": "r"}, base, corpus, [24, 0], [0, 1], tuning_budget=24)
    assert ids == stage.runs
    return describe_runs("smoke", ids)


def test_features_and_discriminants_are_rows_at_every_budget(corpus, sets):
    runs = pd.concat([recorded(corpus, [MEAN_MEL, CHROMA, references.DISCRIMINANTS], seed) for seed in (0, 1)])
    names = [MEAN_MEL, CHROMA, *(f"discriminants of {name}" for name in ("untrained", "masked", MEAN_MEL))]
    assert list(runs["name"]) == names * 2 and set(runs["experiment"]) == {"reference"}
    found = summaries.comparison("smoke", summaries.at_equal_steps(runs), [24, 0], MEAN_MEL, n_resamples=100)
    scores = found[found["budget"] == 0].set_index("name")["score"]
    assert scores[CHROMA] == 1 and scores[CHROMA] > scores[MEAN_MEL] > 0.3
    assert set(found["seeds"]) == {2}
    of_mel = runs[runs["name"] == f"discriminants of {MEAN_MEL}"]["run_id"].iloc[0]
    assert {"shrinkage", "dimensions"} <= set(pd.read_csv(run_file("smoke", of_mel, "choices.csv")))


def test_the_system_without_labels_is_chosen_on_validation(corpus, sets, monkeypatch):
    def answers(corpus, tracks, systems, **_):
        keys = corpus.manifest.loc[tracks, "key"].to_numpy()
        valid = (corpus.manifest.loc[tracks, "split"] == "valid").to_numpy()
        right, wrong = keys, (keys + 1) % 12
        table = {"better on test": np.where(valid, wrong, right), "better on validation": np.where(valid, right, wrong)}
        return pd.DataFrame(table, index=tracks)

    monkeypatch.setattr(references.controls, "predict_all", answers)
    runs = recorded(corpus, [references.KEY_PROFILES])
    assert list(runs["name"]) == ["key profiles"]
    found = summaries.comparison("smoke", runs, [24, 0], "none", n_resamples=100)
    assert found["score"].max() < 0.1  # the one that is better on test was not taken
    choices = pd.read_csv(run_file("smoke", runs["run_id"][0], "choices.csv"))
    assert set(choices["system"]) == {"better on validation"} and set(choices["valid_score"]) == {1.0}


def test_essentia_is_left_out_where_it_is_not_installed_and_nothing_asked_is_nothing_done(corpus, sets, monkeypatch):
    monkeypatch.setattr(references.importlib.util, "find_spec", lambda name: None)
    stage, base = Stage("50_objectives", "smoke"), PretrainConfig()
    assert record_references(stage, ["essentia"], {}, base, corpus, [24], [0], tuning_budget=24) == []
    monkeypatch.setattr(references, "feature_sets", None)
    assert record_references(stage, [], {}, base, corpus, [24], [0], tuning_budget=24) == []
