"""The profile of the paper, shrunk, on tiny copies of its data sets, in a copy of this clone."""

import make_datasets
import pandas as pd
import pytest
from clones import copy_of_the_sources, run_in

from keymyna_lib.base import files
from keymyna_lib.corpus.recordings.giantsteps import GiantStepsKey

# The paper's sizes, made small; nothing is trained on the rendered corpus here.
SHRUNK = {
    "n_chorales": "40",
    "n_tunes": "40",
    "n_songs": "0",
    "seconds": "8",
    "floor_budgets": "24,0",
    "preset": "vit-toy",
    "steps": "10",
    "batch_size": "8",
    "warmup_steps": "2",
    "precision": "fp32",
    "budgets": "24,0",
    "headline_budget": "24",
    "seeds": "0",
    "hidden": "0",
    "batch_sizes": "64",
    "lrs": "0.01",
    "weight_decays": "0.0",
    "dropouts": "0.5",
    "max_steps": "40",
    "cnn_steps": "5",
    "eval_every": "20",
    "widths": "64",
    "widest_pair": "64",
    "shift_steps": "3,6",
    "n_tracks": "6",
    "perplexity": "5",
    "min_windows": "0",
    "budget": "24",
    "n_test_songs": "2",
    "test_shifts": "-5,2",
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, scores):
    """A copy where the notebooks behind the paper's Table 1 and Figure 2 have run on recordings, and where they are."""
    folder = copy_of_the_sources(tmp_path_factory.mktemp("recorded"))
    data = tmp_path_factory.mktemp("music")
    make_datasets.make(data, tracks=48, seconds=6.5)
    shrunk = [word for pair in SHRUNK.items() for word in ("-p", *pair)]
    status, output = run_in(
        folder, "--data-root", str(data), "--offline", "--only", "90", "--only", "45", *shrunk, profile="paper"
    )
    assert status == 0, output[-3000:]
    return folder, data


def test_recordings_give_the_papers_table_and_figure(recorded):
    folder, _ = recorded
    tables = folder / "local/results/paper/tables"
    for task in ("giantsteps", "billboard"):
        table = pd.read_csv(tables / f"table1_{task}.csv")
        assert {
            "pre-trained",
            "untrained",
            "mean mel",
            "mean mel, LDA",
            "chroma",
            "spectrogram",
            "template",
            "essentia",
            "chance",
        } == set(table["features"])
    published = pd.read_csv(tables / "published.csv", keep_default_na=False).set_index(["system", "dataset", "metric"])
    assert (published["measured here"] != "not run").sum() == 4  # KeyMyna, two data sets, two metrics; nobody else
    assert "ascending only" in published.loc[("KeyMyna", "GiantSteps", "weighted score"), "measured here"]
    assert "vit-toy after 10 pre-training steps of batch 8" in (tables / "published.md").read_text()
    points = pd.read_csv(folder / "local/figures/paper/tsne.csv")
    assert points["track"].str.startswith("gtzan/").all() and points["track"].nunique() == 6


def test_recordings_that_are_scored_were_never_trained_on(recorded):
    folder, _ = recorded
    index = files.read_json(folder / "local/results/paper/index/05_recordings.json")
    manifest = pd.read_csv(folder / "local/results/paper/runs" / index["runs"][0] / "manifest.csv").set_index(
        "track_id"
    )
    by_task = manifest[manifest["task"] != ""].groupby(["task", "composition"])["split"].nunique()
    assert by_task.max() == 1
    for run in (folder / "local/results/paper/runs").glob("wide_mlp-*"):
        task = files.read_json(run / "config.json")["task"]
        scored = manifest.loc[pd.read_csv(run / "predictions.csv")["track_id"]]
        assert set(scored["split"]) == {"test"} and set(scored["task"]) == {task}
        assert set(manifest.loc[pd.read_csv(run / "extra.csv")["track_id"], "source"]) == {"gtzan"}
    (pretrained,) = (folder / "local/results/paper/runs").glob("pretrain-*")
    seen = pd.read_csv(pretrained / "training_tracks.csv")["track_id"]
    assert set(manifest.loc[seen, "split"]) == {"pretrain"}


def test_heads_of_synthetic_labels_are_tested_on_all_recordings(recorded):
    folder, _ = recorded
    (made,) = files.read_json(folder / "local/results/paper/index/05_recordings.json")["runs"]
    manifest = pd.read_csv(folder / "local/results/paper/runs" / made / "manifest.csv").set_index("track_id")
    labelled = set(manifest.index[manifest["key"] >= 0])
    assert set(manifest.loc[list(labelled), "split"]) == {"train", "valid", "test", "extra"}
    tested = {}
    for run in (folder / "local/results/paper/runs").glob("real_music-*"):
        config, predictions = files.read_json(run / "config.json"), pd.read_csv(run / "predictions.csv")
        if config["test"] == "recordings of notebook 05":
            tested |= {features: set(part["track_id"]) for features, part in predictions.groupby("features")}
    assert {"pre-trained", "untrained", "mean mel", "chroma", "essentia-bgate"} <= set(tested)
    assert all(tracks == labelled for tracks in tested.values())
    agreement = pd.read_csv(folder / "local/results/paper/tables/agreement.csv")
    assert {"synthetic test tracks", "unlabelled recordings"} <= set(agreement["material"])


def test_data_cards_count_what_was_written(recorded):
    folder, data = recorded
    cards = pd.read_csv(folder / "local/results/paper/tables/data_sets.csv").set_index("name")
    assert (cards.loc[["giantsteps_key", "billboard"], "found"] == 48).all()
    assert cards.loc["giantsteps_key", "missing"] == 1 and cards.loc["giantsteps_key", "corrupt"] == 2
    annotated = GiantStepsKey().index(data)
    assert cards.loc["giantsteps_key", ["found", "missing", "corrupt", "excluded"]].sum() == len(annotated)


def test_recordings_leave_no_path_of_this_machine(recorded):
    folder, data = recorded
    for path in (*(folder / "local/results").rglob("*.*"), *(folder / "local/figures").rglob("*.*")):
        if path.suffix in (".ipynb", ".json", ".csv", ".md"):
            text = path.read_text()
            assert str(folder) not in text and str(data) not in text, path
