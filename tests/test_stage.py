"""A notebook's stage: its runs, tables and figures, and what it publishes of them when it is done."""

import json
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from keymyna_lib.base import files, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report.runs import load_runs, published
from keymyna_lib.report.stage import Stage, markdown
from keymyna_lib.report.traced import TracedTable

INPUTS = {"corpus": "c1"}


def make(stage, seed=0, config=None, artifact=None):
    with stage.run("probe", config=config or {"budget": 48}, seed=seed, inputs=INPUTS) as run:
        run.metric("all", "test", "accuracy", 0.25, 4)
        if artifact:
            path = run.artifact_path("head.safetensors")
            path.parent.mkdir(parents=True)
            path.write_bytes(artifact)
    return run.run_id


def table_of(*run_ids):
    table = TracedTable(["system"])
    table.row("ours").cell("score", "12.3", run_ids)
    return table


def draw(stage, name, run_ids=()):
    figure, axis = plt.subplots(figsize=(1, 1))
    axis.plot([0, 1])
    stage.figure(figure, name, data=pd.DataFrame({"x": [0.5]}), parameters={"steps": 5}, runs=run_ids, seed=3)
    plt.close(figure)


def caption_of(home, name):
    return (home / f"local/results/smoke/tables/{name}.md").read_text().splitlines()[0]


def test_runs_are_kept_at_once_and_published_when_done(home):
    stage = Stage("20_x", "smoke")
    first, second = make(stage), make(stage, seed=1)
    assert stage.runs == [first, second]
    assert {path.name for path in (home / "local/results/smoke/runs").iterdir()} == {first, second}
    assert not (home / "local/results/smoke/index").exists()
    stage.done(outputs={"k": 1})
    assert load_runs("smoke", ["20_x"])["run_id"].tolist() == [first, second]
    assert published("smoke", "20_x")["outputs"] == {"k": 1}


@pytest.mark.parametrize("profile", ["smol", "", "Smoke", "mini ", "../mini"])
def test_an_unknown_profile_leaves_nothing_behind(home, profile):
    with pytest.raises(KeyMynaError, match="expected one of smoke, mini, mini-full, mini-full-piece, gpu, paper"):
        Stage("20_x", profile)
    assert not (home / "local/results").exists() or not any((home / "local/results").rglob("*"))


def test_a_run_that_fails_is_not_among_them(home):
    stage = Stage("20_x", "smoke")
    with pytest.raises(ZeroDivisionError), stage.run("probe", config={}, seed=0, inputs=INPUTS):
        raise ZeroDivisionError
    assert stage.runs == []


def test_the_index_names_all_files_with_their_sizes(home):
    stage = Stage("20_x", "smoke")
    run_id = make(stage, artifact=b"12345")
    stage.table("t", table_of(run_id), caption="A caption.")
    draw(stage, "f", [run_id])
    further, model = paths.CACHE / "corpus" / "shard", home / "keymyna_lib" / "models" / "a.safetensors"
    for path in (further, model):
        files.write_text(path, "123")
    stage.done(files=[further, model])
    sizes = published("smoke", "20_x")["files"]
    assert sizes["keymyna_lib/models/a.safetensors"] == 3
    assert sizes[f"artifacts/smoke/{run_id}/head.safetensors"] == 5 and sizes["corpus/shard"] == 3
    for name in (f"runs/{run_id}/metrics.csv", f"runs/{run_id}/provenance.json", "tables/t.csv", "tables/t.trace.json"):
        assert sizes[f"results/smoke/{name}"] == (home / "local/results/smoke" / name).stat().st_size
    assert {f"figures/smoke/f.{suffix}" for suffix in ("png", "pdf", "csv", "json")} < set(sizes)


def test_a_table_names_run_commit_and_notebook_of_each_cell(home):
    earlier = Stage("20_x", "smoke")
    run_id = make(earlier)
    earlier.done()
    stage = Stage("90_tables", "smoke")
    stage.table("t", table_of(run_id), caption="A caption.")
    folder = home / "local/results/smoke/tables"
    assert not folder.exists()
    stage.done()
    trace = files.read_json(folder / "t.trace.json")
    assert trace["cells"] == {"ours / score": [run_id]} and trace["made_by"] == "90_tables"
    assert trace["runs"][run_id]["notebook"] == "20_x"
    assert {"commit", "dirty", "code_hash", "scale"} <= set(trace["runs"][run_id])
    assert (folder / "t.md").read_text() == "A caption.\n\n| system | score |\n| --- | --- |\n| ours | 12.3 |\n"
    assert (folder / "t.csv").read_text() == "system,score\nours,12.3\n"


def test_a_figure_has_its_data_and_its_origin_and_repeats_byte_for_byte(home):
    stored = []
    for _ in range(2):
        stage = Stage("20_x", "smoke")
        draw(stage, "f", ["run"])
        stage.done()
        folder = home / "local/figures/smoke"
        stored.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert set(stored[0]) == {"f.png", "f.pdf", "f.csv", "f.json"} and stored[0] == stored[1]
    assert stored[0]["f.csv"] == b"x\n0.500000\n"
    origin = json.loads(stored[0]["f.json"])
    assert origin["runs"] == ["run"] and origin["parameters"] == {"steps": 5} and origin["seed"] == 3
    assert origin["notebook"] == "20_x" and origin["scale"] == "smoke" and origin["code_hash"] == "code"


def test_what_a_notebook_makes_no_longer_is_removed_and_nothing_else(home):
    def publish(notebook, table, figure):
        stage = Stage(notebook, "smoke")
        stage.table(table, table_of(make(stage)), caption="A caption.")
        draw(stage, figure)
        stage.done()

    publish("80_x", "other", "other")
    publish("90_x", "table1", "curve")
    publish("90_x", "table1_billboard", "curve_billboard")
    left = {path.stem.split(".")[0] for path in (home / "local/results/smoke/tables").iterdir()}
    assert left == {"other", "table1_billboard"}
    assert {path.stem for path in (home / "local/figures/smoke").iterdir()} == {"other", "curve_billboard"}
    assert len(list((home / "local/results/smoke/runs").iterdir())) == 3  # runs are never removed


def test_further_seeds_and_shared_runs_are_taken_over(home):
    earlier = Stage("50_x", "smoke")
    tuning, first, other = make(earlier, config={"lrs": [1]}), make(earlier), make(earlier, config={"budget": 9})
    earlier.done()
    stage = Stage("50_x", "smoke")
    assert stage.take_over("probe", {"lrs": [1]}, "c1") == tuning
    assert stage.take_over("probe", {"lrs": [2]}, "c1") is None
    assert stage.take_over("probe", {"lrs": [1]}, "c2") is None
    second = make(stage, seed=1)
    stage.keep_other_seeds([second])
    assert stage.runs == [tuning, second, first] and other not in stage.runs
    stage.done()
    assert load_runs("smoke", ["50_x"])["seed"].tolist() == [0, 1, 0]


def test_committed_seeds_are_taken_over_where_the_notebook_has_not_run(home):
    earlier = Stage("50_x", "smoke")
    tuning, first = make(earlier, config={"lrs": [1]}), make(earlier)
    earlier.done()
    shutil.copytree(home / "local" / "results", home / "results")
    files.discard(home / "local")
    with pytest.raises(KeyMynaError, match="has not run"):  # for other notebooks, it has to run here
        published("smoke", "50_x")
    compared = load_runs("smoke", ["50_x"], or_committed=True)  # by another profile
    assert compared["run_id"].tolist() == [tuning, first]
    stage = Stage("50_x", "smoke")
    assert stage.take_over("probe", {"lrs": [1]}, "c1") == tuning
    second = make(stage, seed=1)
    stage.keep_other_seeds([second])
    stage.done()
    assert load_runs("smoke", ["50_x"])["run_id"].tolist() == [tuning, second, first]
    for run in (tuning, first):  # copied, so that what was made here is whole
        here, committed = home / "local/results/smoke/runs" / run, home / "results/smoke/runs" / run
        assert {path.name: path.read_bytes() for path in here.iterdir()} == {
            path.name: path.read_bytes() for path in committed.iterdir()
        }
    again = Stage("50_x", "smoke")  # from here on, what was made here is what counts
    again.done()
    assert Stage("50_x", "smoke").take_over("probe", {"lrs": [1]}, "c1") is None


def test_seeds_that_cannot_be_taken_over_are_named_in_the_captions(home, capsys):
    earlier = Stage("50_x", "smoke")
    first = make(earlier)
    earlier.done()
    path = home / "local/results/smoke/runs" / first / "provenance.json"
    files.write_json(path, files.read_json(path) | {"code_hash": "an older one"})
    stage = Stage("50_x", "smoke")
    second = make(stage, seed=1)
    stage.keep_other_seeds([second])
    stage.table("t", table_of(second), caption="A caption.")
    stage.done()
    note = "Left out are the runs of seed 0 (made by another version of the code); run them again to have them here."
    assert stage.runs == [second] and caption_of(home, "t") == f"A caption. {note}"
    assert capsys.readouterr().out == f"{note}\n"


def test_a_caption_names_the_parameters_set_by_hand_that_concern_it(home, monkeypatch):
    def told(**notebooks):
        monkeypatch.setenv(paths.SET_BY_HAND, json.dumps(notebooks))

    told(pretrain=["steps = 5"], probe=["lr = 0.1"])  # the probe builds on the pre-training
    probe = Stage("probe", "smoke")
    changed = make(probe)
    probe.done()
    told(corpus=[])
    corpus = Stage("corpus", "smoke")
    plain = make(corpus)
    corpus.done()
    told(speed=["budget = 60"])  # concerns nothing but its own tables
    speed = Stage("speed", "smoke")
    speed.table("speed", table_of(make(speed)), caption="Speed.")
    speed.done()
    told(pretrain=["steps = 5"], probe=["lr = 0.1"], tables=["headline = 24"])
    stage = Stage("tables", "smoke")
    stage.table("scores", table_of(changed, plain), caption="Scores.")
    told(tables=[])
    stage.table("counts", table_of(plain), caption="Counts.")
    stage.done()
    assert caption_of(home, "speed") == "Speed. Not the profile's own values: budget = 60."
    assert caption_of(home, "scores") == "Scores. Not the profile's own values: steps = 5; lr = 0.1; headline = 24."
    assert caption_of(home, "counts") == "Counts."


def test_a_caption_names_nothing_of_a_corpus_that_was_not_used(home, monkeypatch):
    for notebook, corpus in (("00_data", "c1"), ("05_recordings", "c2")):
        stage = Stage(notebook, "smoke")
        stage.done(outputs={"corpus": corpus, "folder": f"corpus/{corpus}"})
    lines = {"00_data": ["n_tunes = 9"], "05_recordings": ["seconds = 5"], "20_x": ["lr = 0.1"]}
    monkeypatch.setenv(paths.SET_BY_HAND, json.dumps(lines))
    stage = Stage("20_x", "smoke")
    stage.table("t", table_of(make(stage)), caption="A caption.")
    stage.done()
    assert caption_of(home, "t") == "A caption. Not the profile's own values: n_tunes = 9; lr = 0.1."


def test_runs_of_an_earlier_version_do_not_say_what_was_set_by_hand(home):
    stage = Stage("20_x", "smoke")
    path = home / "local/results/smoke/runs" / make(stage) / "provenance.json"
    origin = files.read_json(path)
    del origin["set_by_hand"]
    files.write_json(path, origin)
    stage.table("t", table_of(*stage.runs), caption="A caption.")
    stage.done()
    assert caption_of(home, "t") == "A caption."


def test_markdown_leaves_missing_values_empty():
    table = pd.DataFrame({"a": [1, None], "b": ["x", "y"]}, dtype=object)
    assert markdown(table) == "| a | b |\n| --- | --- |\n| 1 | x |\n|  | y |"
