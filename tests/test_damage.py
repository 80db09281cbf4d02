"""A file of the cache or of the results that is flipped, cut, emptied, gone or unreadable is made again, alone."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from keymyna_lib.base import files, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus import store
from keymyna_lib.corpus.corpus import open_corpus
from keymyna_lib.corpus.recordings.build import build_recordings
from keymyna_lib.corpus.rendered import scores as rendered_scores
from keymyna_lib.report import publication
from keymyna_lib.report.stage import Stage
from keymyna_lib.run import execute, pipeline
from keymyna_lib.run.project import Project


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 0x01
    path.write_bytes(data)


def in_its_place(path):
    """What no mode keeps from a user who may do all: a folder where a file should be."""
    path.unlink()
    (path / "sub").mkdir(parents=True)


DAMAGE = {
    "flipped at the start": lambda path: flip(path, 0),
    "flipped amid": lambda path: flip(path, 0.5),
    "flipped at the end": lambda path: flip(path, 1),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "unreadable": in_its_place,
}
each_damage = pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())


# Corpora


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Six recordings of a second, as `build_recordings` takes them."""
    folder, rows = tmp_path_factory.mktemp("music"), {}
    for i, name in enumerate("abcdef"):
        soundfile.write(folder / f"{name}.wav", np.random.default_rng(i).uniform(-0.5, 0.5, 16_000), 16_000)
        rows[name] = dict(file=str(folder / f"{name}.wav"), n_samples=16_000, source="s", task="t", split="train")
        rows[name] |= dict(composition=name, key=i, label="C", artist="", title="", content=name, drawn=False)
    return pd.DataFrame.from_dict(rows, orient="index")


def build(recordings, cache):
    return build_recordings(recordings, seconds=0, cache=cache, progress=False, client=Processes(1))[0]


@pytest.fixture(scope="module")
def built(recordings, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD", 3)
        yield build(recordings, tmp_path_factory.mktemp("cache"))


CORPUS = [
    "corpus.json",
    "manifest.csv",
    "places.csv",
    "shard-00000/hashes.csv",
    "shard-00001/audio.i16",
    "shard-00001/spectrograms.f16",
]


@pytest.mark.parametrize("name", CORPUS)
@each_damage
def test_any_file_of_a_corpus_is_mended_and_whole_shards_stay(built, recordings, tmp_path, monkeypatch, name, damage):
    folder, made = tmp_path / "corpus" / built.path.name, []
    shutil.copytree(built.path, folder)
    damage(folder / name)
    if name in ("corpus.json", "manifest.csv", "places.csv"):
        with pytest.raises(KeyMynaError, match=r"run_all\.sh mends it"):
            open_corpus(folder)

    def recorded(self, work, tasks, **options):
        made.extend(job.track_id for (job,) in tasks)
        return Executor.map(self, work, tasks, **options)

    monkeypatch.setattr(Processes, "map", recorded)
    again = build(recordings, tmp_path)
    assert again.hash == open_corpus(folder).hash == built.hash
    for file in (name, "shard-00000/audio.i16", "shard-00001/spectrograms.f16"):
        if not name.endswith("hashes.csv"):
            assert (folder / file).read_bytes() == (built.path / file).read_bytes()
    shard = {"shard-00000": built.tracks()[:3], "shard-00001": built.tracks()[3:]}.get(name.split("/")[0], [])
    assert set(made) <= set(shard)


def test_a_flipped_byte_anywhere_in_the_corpuss_index_is_seen(built, tmp_path):
    shutil.copytree(built.path, tmp_path / "copy")
    path = tmp_path / "copy" / "corpus.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytes([whole[position] ^ 0x01])
        if not (whole[position : position + 1] + changed).isspace():
            path.write_bytes(whole[:position] + changed + whole[position + 1 :])
            with pytest.raises(KeyMynaError):
                open_corpus(path.parent)


@pytest.mark.parametrize("name", ["notes.npz", "table.csv", "exclusions.csv", "sha256.json"])
@each_damage
def test_parsed_scores_are_parsed_again(scores, tmp_path, monkeypatch, name, damage, capsys):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    parsed = []
    monkeypatch.setattr(rendered_scores, "_parse_corpus", lambda: parsed.append(1) or scores)
    rendered_scores.load_scores()
    (folder,) = (tmp_path / "scores").iterdir()
    rendered_scores.load_scores()
    assert len(parsed) == 1
    damage(folder / name)
    assert rendered_scores.load_scores().table.equals(scores.table) and len(parsed) == 2
    assert "parsing the scores again" in capsys.readouterr().out
    rendered_scores.load_scores()
    assert len(parsed) == 2


# The runner: each of three notebooks publishes a run, a large file of it, a table and a file of the cache


NOTEBOOKS = ("00_first", "10_second", "20_third")


@pytest.fixture
def project(home, monkeypatch):
    """A clone in which 10 needs 00 and 20 needs 10, and what ran in it, by number."""
    made, ran = Project(home, home / ".cache"), []
    described = home / "keymyna_lib" / "run" / "pipeline.toml"
    files.write_text(
        described,
        "".join(
            f'[{name}]\ntitle = "x"\nneeds = {list(NOTEBOOKS[max(i - 1, 0) : i])}\nminutes = {{}}\n'
            for i, name in enumerate(NOTEBOOKS)
        ).replace("'", '"'),
    )
    files.write_text(described.with_name("profiles.toml"), "")
    files.write_text(home / "requirements.lock", "")
    for name in NOTEBOOKS:
        cell = {"cell_type": "code", "source": 'profile = "mini"', "metadata": {"tags": ["parameters"]}}
        files.write_json(made.source(name), {"cells": [cell]})

    def notebook(project, profile, name, *_):
        ran.append(name[:2])
        stage = Stage(name, profile)
        other = stage.take_over("tuning", {"lr": 1}, "c")  # as notebooks that tune do
        if other is None:
            with stage.run("tuning", config={"lr": 1}, seed=0, inputs={"corpus": "c"}) as run:
                run.metric("all", "valid", "score", 0.25, 4)
        with stage.run("probe", config={}, seed=0, inputs={"corpus": "c"}) as run:
            run.metric("all", "test", "score", 0.5, 4)
            files.write_text(run.artifact_path("head.safetensors"), "weights of the head")
        files.write_text(project.cache / "corpus" / name, "a small file of the corpus")
        stage.done(files=[project.cache / "corpus" / name], outputs={"folder": "", "corpus": "c"})
        files.write_text(project.executed(profile, name), "{}")

    monkeypatch.setattr(execute, "execute", notebook)
    made.__dict__["ran"] = ran
    return made


def go(project, **options):
    project.ran.clear()
    pipeline.run(project, "smoke", say=lambda line: None, **options)
    return list(project.ran)


def shown(project):
    """What is published: the metrics of the indexed runs by notebook, in six decimals, without their attempts."""
    return {
        name: [
            (project.made / "results/smoke/runs" / run / "metrics.csv").read_text().replace(run, run.rsplit("-", 1)[0])
            for run in publication.read_index(project.index("smoke", name))["runs"]
        ]
        for name in NOTEBOOKS
    }


PUBLISHED = [
    "local/results/smoke/runs/probe-*/metrics.csv",
    "local/results/smoke/runs/probe-*/config.json",
    "local/results/smoke/runs/probe-*/provenance.json",
    "local/results/smoke/runs/tuning-*/metrics.csv",
    "local/results/smoke/runs/tuning-*/config.json",
    "local/results/smoke/notebooks/10_second.ipynb",
    ".cache/artifacts/smoke/probe-*/head.safetensors",
    ".cache/corpus/10_second",
]


@pytest.mark.parametrize("pattern", PUBLISHED)
@each_damage
def test_the_notebook_of_a_damaged_file_runs_again_and_no_other(project, pattern, damage):
    assert go(project) == ["00", "10", "20"] and go(project) == []
    before = shown(project)
    runs = publication.read_index(project.index("smoke", "10_second"))["runs"]
    found = sorted(path for path in project.root.glob(pattern) if path.parent.name in runs or "10_" in path.name)
    assert len(found) == 1
    damage(found[0])
    assert go(project) == ["10"]
    assert shown(project) == before
    assert go(project) == []


@each_damage
def test_a_damaged_index_is_put_back_without_running_anything(project, damage):
    go(project)
    for name in NOTEBOOKS[:2]:
        index = project.index("smoke", name)
        whole = index.read_bytes()
        damage(index)
        assert go(project) == [] and index.read_bytes() == whole


@each_damage
def test_with_index_and_the_runners_note_both_damaged_the_notebook_runs_again(project, damage):
    go(project)
    before = shown(project)
    damage(project.index("smoke", "00_first"))
    damage(project.state("smoke", "00_first"))
    assert go(project) == ["00"] and shown(project) == before and go(project) == []


@each_damage
def test_a_damaged_note_of_the_runner_costs_at_most_one_notebook(project, damage):
    go(project)
    before = shown(project)
    damage(project.state("smoke", "10_second"))
    assert go(project) in (["10"], []) and shown(project) == before and go(project) == []


def test_a_large_file_is_noted_by_its_time_of_change(project, monkeypatch):
    monkeypatch.setattr(pipeline, "MOST_HASHED", 10)
    go(project)
    path = project.cache / "corpus" / "00_first"
    path.touch()
    assert go(project) == ["00"]


def test_a_time_of_change_alone_changes_nothing(project):
    """Clocks are set, and copies are made."""
    go(project)
    for time in (4e9, 1e9):
        for path in project.root.rglob("*"):
            os.utime(path, (time, time))
        assert go(project) == []
