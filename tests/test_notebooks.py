"""All notebooks at toy size, in a copy of this clone: they run, repeat exactly, are skipped, and leave what they
promise."""

import os
import re

import nbformat
import numpy as np
import pandas as pd
import pytest
from clones import copy_of_the_sources, run_in

from keymyna_lib.base import files, paths
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.run.pipeline import load_notebooks
from keymyna_lib.run.project import Project

SOURCES = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture(scope="module")
def clone(tmp_path_factory, scores):
    """A copy of the sources in which every notebook has run once."""
    folder = copy_of_the_sources(tmp_path_factory.mktemp("clone"))
    status, output = run_in(folder)
    assert status == 0, output[-3000:]
    return folder


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_notebook_opens_one_stage_and_is_done_in_its_last_code_cell(path):
    cells = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    code = "\n".join(cells)
    opened = f'check_cell("{path.stem}", globals())\nstage = Stage("{path.stem}", profile)\n'
    assert code.count("Stage(") == 1 and code.count("check_cell(") == 1
    after_imports = re.sub(r"^(from|import) .*(\n {4}.*|\n\))*\n+", "", cells[1], flags=re.M)
    assert (after_imports + "\n").startswith(opened)
    assert code.count("stage.done(") == 1 and "stage.done(" in cells[-1]
    assert "profile=profile" not in code and not re.search(r"(?<!assign\()notebook=", code)


def test_every_notebook_ran_and_holds_its_outputs_but_no_audio(clone):
    names = sorted(name for name, notebook in load_notebooks(Project()).items() if not notebook.on_request)
    executed = sorted((clone / "local/results/smoke/notebooks").glob("*.ipynb"))
    assert [path.stem for path in executed] == names
    for path in executed:
        text = path.read_text()
        assert "<audio" not in text and "audio/wav" not in text
        assert str(clone) not in text and str(os.path.expanduser("~")) + "/" not in text
        assert any(cell.get("outputs") for cell in nbformat.reads(text, 4).cells)


def test_an_unchanged_pipeline_is_skipped(clone):
    status, output = run_in(clone, forked=False)
    assert status == 0 and output.count("skipped") == len(
        list((clone / "local/results/smoke/notebooks").glob("*.ipynb"))
    ), output


def test_every_figure_has_its_data_and_its_origin(clone):
    figures = {path.stem for path in (clone / "local/figures/smoke").glob("*.png")}
    assert figures == {
        "framework",
        "key_histogram",
        "label_audit",
        "song_histograms",
        "piano_roll_major",
        "piano_roll_minor",
        "spectrograms",
        "pretraining",
        "similarity",
        "probe_selection",
        "examples",
        "mlp_grid",
        "robustness",
        "tsne",
        "real_music",
        "label_efficiency",
        "confusion",
        "objectives_labels",
        "objectives_scale",
        "circle",
        "embedding_rank",
        "pitch_differences",
        "transfer",
        "design",
        "heads",
        "trust",
        "doubt",
        "timeline",
        "conclusions",
    }
    for name in figures:
        assert (clone / f"local/figures/smoke/{name}.pdf").stat().st_size > 1000
        assert len(pd.read_csv(clone / f"local/figures/smoke/{name}.csv")) > 0
        origin = files.read_json(clone / f"local/figures/smoke/{name}.json")
        assert origin["runs"] and origin["scale"] == "smoke"
        assert all((clone / "local/results/smoke/runs" / run).is_dir() for run in origin["runs"])


def test_every_measured_cell_has_a_trace_to_runs_that_exist(clone):
    tables = clone / "local/results/smoke/tables"
    traced = 0
    for path in tables.glob("*.trace.json"):
        trace = files.read_json(path)
        for runs in trace["cells"].values():
            assert runs and all((clone / "local/results/smoke/runs" / run / "provenance.json").exists() for run in runs)
            assert set(runs) <= set(trace["runs"])
            traced += 1
    assert traced > 200


def test_table_cells_follow_from_the_predictions(clone):
    trace = files.read_json(clone / "local/results/smoke/tables/table1.trace.json")["cells"]
    table = pd.read_csv(clone / "local/results/smoke/tables/table1.csv").set_index(["features", "head"])
    for cell, runs in trace.items():
        system, column = cell.split(" / ")
        if system.startswith("chance"):
            continue  # a closed form, without predictions
        predictions = [pd.read_csv(clone / "local/results/smoke/runs" / run / "predictions.csv") for run in runs]
        score = np.mean(
            [
                mirex_scores(p["reference"].to_numpy(), p["estimate"].to_numpy(), fifths="both").mean()
                for p in predictions
            ]
        )
        assert float(table.loc[tuple(system.rsplit(", ", 1)), column].split(" ")[0]) == pytest.approx(
            100 * score, abs=0.051
        )


def test_pretraining_and_heads_saw_their_own_split_only(clone):
    index = files.read_json(clone / "local/results/smoke/index/00_data.json")
    run_id = next(run for run in index["runs"] if run.startswith("corpus-"))
    manifest = pd.read_csv(clone / "local/results/smoke/runs" / run_id / "manifest.csv").set_index("track_id")
    assert manifest.groupby("composition")["split"].nunique().max() == 1
    (pretrained,) = (clone / "local/results/smoke/runs").glob("pretrain-*-a1")
    seen = pd.read_csv(pretrained / "training_tracks.csv")["track_id"]
    assert set(manifest.loc[seen, "split"]) == {"train"} and len(seen) == (manifest["split"] == "train").sum()
    for run in (clone / "local/results/smoke/runs").glob("wide_mlp-*"):
        assert set(manifest.loc[pd.read_csv(run / "predictions.csv")["track_id"], "split"]) == {"test"}


def listing(clone):
    """Names of all runs, and the content of every table."""
    return (
        set(os.listdir(clone / "local/results/smoke/runs")),
        {path.name: path.read_bytes() for path in (clone / "local/results/smoke/tables").glob("*.csv")},
    )


@pytest.fixture(scope="module")
def again(clone):
    """What was there before and what is there after the forced repeat of a notebook of each kind (what trains, what
    compares, and what makes tables of it) and the benchmark, which runs only when it is named; what was said."""
    before = listing(clone)
    named = [word for number in ("10", "60", "70", "90") for word in ("--only", number)]
    status, output = run_in(clone, "--force", *named, "-p", "subjects", "embedding,growth", "-p", "budget", "1")
    assert status == 0, output[-3000:]
    return before, listing(clone), output


def test_forced_repeats_are_new_attempts_with_the_same_tables(again):
    (runs, tables), (more_runs, more_tables), output = again
    assert all(f"{name}  done" in output for name in ("10_pretrain", "60_design", "90_tables"))
    # They came to the same end, so what depends on them is up to date.
    assert all(f"{name}  skipped" in output for name in ("15_controls", "20_linear_probe", "40_robustness")), output
    assert tables == {name: table for name, table in more_tables.items() if not name.startswith("speed")}
    new = {name for name in more_runs - runs if not name.startswith("speed-")}
    assert runs < more_runs and new and all(name.endswith("-a2") for name in new)


def test_the_benchmark_runs_when_it_is_named(clone, again):
    table = pd.read_csv(clone / "local/results/smoke/tables/speed.csv")
    assert set(table["subject"]) == {"embedding"}
    assert set(pd.read_csv(clone / "local/figures/smoke/speed_growth.csv")["subject"]) == {"growth"}
