"""Runs are immutable, named by what they are, and leave no directory when they fail."""

import pandas as pd
import pytest

from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import provenance
from keymyna_lib.report.runs import (
    METRIC_COLUMNS,
    Run,
    artifact,
    describe_runs,
    load_metrics,
    load_runs,
    published,
    run_file,
)
from keymyna_lib.report.stage import Stage


def make(seed=0, config=None, corpus="c1", artifact=None):
    with Run(
        "probe", profile="smoke", notebook="20_x", config=config or {"budget": 48}, seed=seed, inputs={"corpus": corpus}
    ) as run:
        run.predictions(pd.DataFrame({"track_id": ["a"], "reference": [0], "estimate": [7]}))
        run.metric("all", "test", "accuracy", 0.25, 4)
        if artifact:
            path = run.artifact_path("head.safetensors")
            path.parent.mkdir(parents=True)
            path.write_bytes(artifact)
    return run.run_id


def test_a_run_holds_what_a_reviewer_needs(home):
    run_id = make()
    folder = home / "local/results/smoke/runs" / run_id
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "metrics.csv",
        "predictions.csv",
        "provenance.json",
    ]
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics) == METRIC_COLUMNS
    assert metrics.iloc[0].dropna().to_dict() == {
        "run_id": run_id,
        "experiment": "probe",
        "dataset": "all",
        "split": "test",
        "budget": 48,
        "metric": "accuracy",
        "value": 0.25,
        "n": 4,
        "seed": 0,
    }
    provenance = files.read_json(folder / "provenance.json")
    assert {
        "commit",
        "dirty",
        "code_hash",
        "packages",
        "device",
        "started",
        "ended",
        "scale",
        "notebook",
        "corpus_hash",
        "python",
    } <= set(provenance)
    assert provenance["packages"]["torch"].startswith("2.11.0") and provenance["corpus_hash"] == "c1"


def test_what_a_number_is_of_comes_back_in_columns(home):
    config = {"features": "mean mel", "budget": 48}
    with Run("probe", profile="smoke", notebook="20_x", config=config, seed=3, inputs={}) as run:
        run.metric("all", "test", "accuracy", 0.25, 4)
        run.metric(
            "all", "test", "R2", 0.5, 4, condition="tempo × 1.1", features="untrained", layer="layer 1", budget=0
        )
    stored = load_metrics("smoke", [run.run_id])
    facts = ["condition", "features", "layer", "budget", "metric", "value"]
    assert stored[facts].to_numpy().tolist() == [
        ["", "mean mel", "", 48, "accuracy", 0.25],
        ["tempo × 1.1", "untrained", "layer 1", 0, "R2", 0.5],
    ]
    other = make(config={"head": "template"})  # without training: no label budget
    both = load_metrics("smoke", [run.run_id, other])
    assert list(both) == METRIC_COLUMNS and both["budget"].isna().tolist() == [False, False, True]
    assert pd.read_csv(run_file("smoke", run.run_id, "metrics.csv"), dtype=str)["budget"].tolist() == ["48", "0"]


def test_metrics_of_another_version_are_named(home):
    path = run_file("smoke", run_id := make(), "metrics.csv")
    path.write_text("run_id,dataset,value\na,48 labels,0.5\n")
    with pytest.raises(KeyMynaError, match=r"metrics.csv: columns run_id, dataset, value: .*run its notebook again"):
        load_metrics("smoke", [run_id])


def test_identity_covers_configuration_seed_code_and_inputs(home, monkeypatch):
    first = make()
    stem = first.rsplit("-a", 1)[0]
    assert make() == f"{stem}-a2" and make() == f"{stem}-a3"  # repeats are new attempts
    others = [make(seed=1), make(config={"budget": 150}), make(corpus="c2")]
    monkeypatch.setattr(provenance, "code_hash", lambda: "code-2")
    others.append(make())
    monkeypatch.setattr(provenance, "notebook_hash", lambda notebook: "edited")
    others.append(make())
    assert len({run.rsplit("-a", 1)[0] for run in [first, *others]}) == 6


def test_a_failed_run_leaves_no_directory(home):
    run = Run("probe", profile="smoke", notebook="20_x", config={}, seed=0, inputs={})
    with pytest.raises(ZeroDivisionError), run:
        raise ZeroDivisionError
    assert list((home / "local/results/smoke/runs").iterdir()) == []


def test_published_runs_are_found_and_others_are_not(home):
    make(seed=5)  # never published
    run_id = make()
    with pytest.raises(KeyMynaError, match="--only 20"):
        published("smoke", "20_x")
    stage = Stage("20_x", "smoke")
    stage.runs.append(run_id)
    stage.done(outputs={"k": 1})
    found = load_runs("smoke", ["20_x"])
    assert list(found["run_id"]) == [run_id] and found["budget"].tolist() == [48]
    assert found["notebook"].tolist() == ["20_x"] and found["input_corpus"].tolist() == ["c1"]
    assert published("smoke", "20_x")["outputs"] == {"k": 1}


def test_a_damaged_artifact_is_not_taken(home):
    run_id = make(artifact=b"12345")
    path = artifact("smoke", run_id, "head.safetensors")
    path.write_bytes(b"12346")
    with pytest.raises(KeyMynaError, match="damaged.*--only 20"):
        artifact("smoke", run_id, "head.safetensors")


def test_runs_of_different_code_are_not_mixed(home, monkeypatch):
    first = make()
    monkeypatch.setattr(provenance, "code_hash", lambda: "code-2")
    provenance.environment.cache_clear()
    with pytest.raises(KeyMynaError, match="2 different versions of the code"):
        describe_runs("smoke", [first, make()])


def test_runs_of_different_corpora_are_not_mixed(home):
    with pytest.raises(KeyMynaError, match="2 different corpora"):
        describe_runs("smoke", [make(), make(corpus="c2")])
