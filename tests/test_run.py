"""The runner: parameters, order, skipping, failures, tidying; mostly without kernels, slow to start."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import threading
from dataclasses import fields

import nbformat
import pytest

from keymyna_lib.base import files, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.run import execute, live, parameters, pipeline
from keymyna_lib.run.project import Project

FIRST = """profile = "mini"  # smoke, mini or paper
steps = 3  # optimiser steps
rate = 0.1  # per step
name = "a"  # label
mixup = False
sizes = [48, 150]  # labelled pieces
cutoffs = [1.0, 2]  # Hz"""
SECOND = 'profile = "mini"\nsteps = 7  # of the head'
PUBLISH = """import json, pathlib
made = pathlib.Path("local/results") / profile / "made_{0}.txt"
made.parent.mkdir(parents=True, exist_ok=True)
made.write_text(f"{{steps}}")
index = made.parent / "index" / "{0}.json"
index.parent.mkdir(exist_ok=True)
sizes = {{str(made.relative_to("local")): made.stat().st_size}}
index.write_text(json.dumps({{"runs": [], "outputs": {{"steps": steps}}, "files": sizes}}))"""


def write_notebook(project: Project, name: str, cell: str, *sources: str) -> None:
    v4 = nbformat.v4
    cells = [v4.new_code_cell(cell, metadata={"tags": ["parameters"]}), *map(v4.new_code_cell, sources)]
    project.source(name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(v4.new_notebook(cells=cells), project.source(name))


@pytest.fixture
def project(tmp_path) -> Project:
    """Three notebooks: 10 needs 00, and 20 needs 10."""
    made = Project(tmp_path / "clone", tmp_path / "cache")
    (made.library / "run").mkdir(parents=True)
    (made.library / "code.py").write_text("x = 1\n")
    (made.root / "requirements.lock").write_text("numpy==1.0\n")
    names = ["00_first", "10_second", "20_third"]
    needs = [[], ["00_first"], ["10_second"]]
    (made.library / "run" / "pipeline.toml").write_text(
        "".join(
            f'[{name}]\ntitle = "Step {name[:2]}"\nneeds = {json.dumps(need)}\nminutes = {{mini = 2}}\n'
            for name, need in zip(names, needs)
        )
    )
    (made.library / "run" / "profiles.toml").write_text("[mini]\n[smoke.00_first]\nsteps = 1\nrate = 1\n")
    for name in names:
        write_notebook(made, name, FIRST if name == "00_first" else SECOND, PUBLISH.format(name))
    return made


class Ran(list):
    """Notebooks that ran, each with the values that it got."""

    def __init__(self):
        self.told = {}  # notebook -> what it was told of parameters set by hand


@pytest.fixture
def fake_kernel(project, monkeypatch):
    """In place of papermill: publishes the given steps at once, and keeps count of what ran with what."""
    ran = Ran()

    def fake(project, profile, notebook, values, environment, bars):
        made = project.made / "results" / profile / f"made_{notebook}.txt"
        files.write_text(made, str(values.get("steps")))
        files.write_text(project.executed(profile, notebook), "{}")
        files.write_json(
            project.index(profile, notebook),
            {
                "runs": [],
                "outputs": {"steps": values.get("steps"), "folder": values.get("data_root", "")},
                "files": {project.named(made): made.stat().st_size},
            },
        )
        ran.append((notebook, values))
        ran.told[notebook] = json.loads(environment[paths.SET_BY_HAND])

    monkeypatch.setattr(execute, "execute", fake)
    return ran


def go(project, ran, profile="mini", **options) -> list[str]:
    """Run, and return the numbers of what really ran."""
    ran.clear()
    pipeline.run(project, profile, say=lambda line: None, **options)
    return [name[:2] for name, _ in ran]


# Parameters


def test_declared_parameters_have_type_default_and_comment(project):
    found = parameters.declared(project.source("00_first"))
    assert [(p.name, p.type_name) for p in found.values()] == [
        ("profile", "str"),
        ("steps", "int"),
        ("rate", "float"),
        ("name", "str"),
        ("mixup", "bool"),
        ("sizes", "list"),
        ("cutoffs", "list"),
    ]
    assert found["sizes"].default == [48, 150] and found["sizes"].comment == "labelled pieces"
    assert found["mixup"].comment == ""


def test_a_comment_within_a_formatters_parentheses_is_read(project):
    write_notebook(project, "00_first", 'profile = "mini"\nscope = (\n    "mixed"  # half and half\n)', "")
    found = parameters.declared(project.source("00_first"))["scope"]
    assert (found.default, found.comment) == ("mixed", "half and half")


@pytest.mark.parametrize(
    "cell, message",
    [
        ('profile = "mini"\nsteps = 2 * 3', "line 2"),
        ('profile = "mini"\nimport os', "line 2"),
        ('profile = "mini"\nx = None', "line 2"),
        ('profile = "mini"\nx = [1, "a"]', "line 2"),
        ('profile = "mini"\nx = {"a": 1}', "line 2"),
        ('profile = "mini"\nx = y = 1', "line 2"),
        ('profile = "mini"\nx: int = 1', "line 2"),
        ('profile = "mini"\nx += 1', "line 2"),
        ('profile = "mini"\ndel profile', "line 2"),
        ("profile = ", "not valid Python"),
        ("steps = 3", "must declare `profile`"),
    ],
)
def test_only_plain_literals_are_parameters(project, cell, message):
    write_notebook(project, "00_first", cell)
    with pytest.raises(KeyMynaError, match=message):
        parameters.declared(project.source("00_first"))


def test_a_damaged_notebook_is_named(project):
    project.source("00_first").write_text('{"cells": ')
    with pytest.raises(KeyMynaError, match="00_first.ipynb is not a notebook"):
        pipeline.load_notebooks(project)


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("steps", "12", 12),
        ("steps", "-1", -1),
        ("rate", "2", 2.0),
        ("rate", "1e-3", 1e-3),
        ("name", "3", "3"),
        ("name", "two words", "two words"),
        ("mixup", "true", True),
        ("mixup", "False", False),
        ("mixup", "0", False),
        ("mixup", "YES", True),
        ("mixup", " off ", False),
        ("sizes", "[1, 2]", [1, 2]),
        ("sizes", "1,2", [1, 2]),
        ("sizes", "7", [7]),
        ("sizes", "7,", [7]),
        ("sizes", "['7', \"8\"]", [7, 8]),
        ("sizes", "[]", []),
        ("cutoffs", "1, 2.5", [1.0, 2.5]),
    ],
)
def test_values_are_read_in_the_declared_type(project, name, text, value):
    got = parameters.declared(project.source("00_first"))[name].parse(text)
    assert got == value and type(got) is type(value)
    assert not isinstance(value, list) or [type(x) for x in got] == [type(x) for x in value]


@pytest.mark.parametrize(
    "name, text",
    [
        ("steps", "1.5"),
        ("steps", "many"),
        ("rate", "fast"),
        ("rate", "nan"),
        ("mixup", "2"),
        ("mixup", "maybe"),
        ("sizes", "1,x"),
        ("sizes", "1.5"),
        ("steps", "true"),
        ("unheard_of", "1"),
        ("profile", "paper"),
    ],
)
def test_bad_values_are_refused_before_anything_runs(project, fake_kernel, name, text):
    with pytest.raises(KeyMynaError) as caught:
        go(project, fake_kernel, overrides=[(name, text)])
    assert fake_kernel == []
    if name != "profile":
        assert name in str(caught.value) and "00_first: steps (int), rate (float)" in str(caught.value)


def test_defaults_then_profile_then_command_line(project):
    notebooks = pipeline.load_notebooks(project)
    values = pipeline.resolve(project, notebooks, "smoke", [("steps", "9")])
    assert values["00_first"]["steps"] == 9 and values["10_second"]["steps"] == 9
    assert values["00_first"]["rate"] == 1.0 and isinstance(values["00_first"]["rate"], float)
    assert values["00_first"]["name"] == "a" and values["10_second"]["profile"] == "smoke"
    assert pipeline.resolve(project, notebooks, "mini", [])["00_first"]["steps"] == 3


def test_a_shared_value_reaches_every_notebook_that_declares_it_and_its_own_table_wins(project):
    table = "[smoke.00_first]\nsteps = 1\n[smoke.shared]\nsteps = 4\nrate = 2\n[mini.shared]\nsteps = 5\n"
    (project.library / "run" / "profiles.toml").write_text(table)
    notebooks = pipeline.load_notebooks(project)
    values = pipeline.resolve(project, notebooks, "smoke", [])
    assert {name: found["steps"] for name, found in values.items()} == {"00_first": 1, "10_second": 4, "20_third": 4}
    assert values["00_first"]["rate"] == 2.0 and isinstance(values["00_first"]["rate"], float)
    assert "rate" not in values["10_second"]
    values = pipeline.resolve(project, notebooks, "smoke", [("steps", "9")])
    assert {found["steps"] for found in values.values()} == {9}
    (project.library / "run" / "profiles.toml").write_text("[smoke.shared]\nstepz = 4")
    with pytest.raises(KeyMynaError, match=r"\[smoke.shared\], stepz: no notebook declares"):
        pipeline.resolve(project, notebooks, "smoke", [])


@pytest.mark.parametrize(
    "table",
    [
        "[mini.00_first]\nstep = 1",
        "[mini.shared]\nstep = 1",
        '[mini.shared]\nsteps = "1"',
        '[mini.shared]\nprofile = "x"',
        "[mini.99_none]\nsteps = 1",
        '[mini.00_first]\nsteps = "1"',
        "[mini.00_first]\nsteps = true",
        '[mini.00_first]\nprofile = "x"',
        "[mini",
        "[huge]",
    ],
)
def test_bad_profiles_are_refused(project, table):
    (project.library / "run" / "profiles.toml").write_text(table)
    with pytest.raises(KeyMynaError, match="profile"):
        pipeline.resolve(project, pipeline.load_notebooks(project), "mini", [])


# Order and selection


@pytest.mark.parametrize(
    "only, start, order, asked",
    [
        ([], None, "00 10 20", "00 10 20"),
        (["20"], None, "00 10 20", "20"),
        (["10_second"], None, "00 10", "10"),
        (["0"], None, "00", "00"),
        ([], "10", "00 10 20", "10 20"),
        (["20", "00"], None, "00 10 20", "00 20"),
    ],
)
def test_selection_adds_what_is_needed(project, only, start, order, asked):
    got, got_asked = pipeline.select(pipeline.load_notebooks(project), only, start)
    assert [name[:2] for name in got] == order.split()
    assert {name[:2] for name in got_asked} == set(asked.split())


@pytest.mark.parametrize("options", [{"only": ["30"]}, {"start": "linear"}])
def test_unknown_numbers_are_refused_with_the_list(project, fake_kernel, options):
    with pytest.raises(KeyMynaError, match=r"(?s)there is no notebook.*20_third  Step 20"):
        go(project, fake_kernel, **options)


def test_notebooks_must_be_described_and_in_order(project):
    write_notebook(project, "30_new", SECOND)
    with pytest.raises(KeyMynaError, match="30_new.ipynb is not described"):
        pipeline.load_notebooks(project)
    project.source("30_new").unlink()
    project.source("00_first").unlink()
    with pytest.raises(KeyMynaError, match="10_second needs 00_first"):
        pipeline.load_notebooks(project)


# Skipping


def test_a_second_run_skips_everything_and_says_so(project, fake_kernel):
    assert go(project, fake_kernel) == ["00", "10", "20"]
    said = []
    pipeline.run(project, "mini", say=said.append)
    assert len(fake_kernel) == 3
    assert [
        bool(re.match(rf"\[{i}/3\] \d\d_\w+  skipped: unchanged since 2", line)) for i, line in enumerate(said[:3], 1)
    ] == [True] * 3


def test_only_what_differs_from_the_defaults_is_injected(project, fake_kernel):
    go(project, fake_kernel, profile="smoke", overrides=[("name", "b")])
    assert fake_kernel[0] == ("00_first", {"profile": "smoke", "steps": 1, "rate": 1.0, "name": "b"})
    assert fake_kernel[1] == ("10_second", {"profile": "smoke"})


def test_a_notebook_is_told_what_was_set_by_hand_where_it_builds_on(project, fake_kernel):
    go(project, fake_kernel, overrides=[("name", "b")])
    assert fake_kernel.told == {key: {"00_first": ["name = 'b'"]} for key in ("00_first", "10_second", "20_third")}
    go(project, fake_kernel, overrides=[("steps", "5")])
    shown = {name: ["steps = 5"] for name in ("00_first", "10_second", "20_third")}
    assert list(fake_kernel.told.values()) == [dict(list(shown.items())[:count]) for count in (1, 2, 3)]
    assert paths.SET_BY_HAND not in os.environ


def test_what_a_killed_notebook_had_published_is_put_in_place_first(project, fake_kernel):
    journal = project.made / "results" / "mini" / ".publishing" / "20_third"
    table = "results/mini/tables/t.csv"
    files.write_text(journal / "files" / table, "a")
    index = {"runs": [], "outputs": {"steps": 9}, "files": {table: 1}}
    files.write_json(journal / "index.json", index)
    go(project, fake_kernel, only=["00"])
    assert (project.made / table).read_text() == "a" and not journal.exists()
    assert files.read_json(project.index("mini", "20_third")) == index


def test_changes_rerun_what_depends_on_them_and_no_more(project, fake_kernel):
    go(project, fake_kernel)
    # The new index of 00 differs, so 10 runs; that of 10 comes out the same, so 20 does not.
    assert go(project, fake_kernel, overrides=[("rate", "0.5"), ("name", "z")]) == ["00"]
    assert go(project, fake_kernel) == ["00"]
    write_notebook(project, "10_second", SECOND, "a = 1")
    assert go(project, fake_kernel) == ["10"]
    (project.library / "code.py").write_text("x = 2\n")
    assert go(project, fake_kernel) == ["00", "10", "20"]
    (project.root / "requirements.lock").write_text("numpy==2.0\n")
    assert go(project, fake_kernel, only=["10"]) == ["00", "10"]
    assert go(project, fake_kernel) == ["20"]
    files.write_json(project.index("mini", "00_first"), {"runs": [], "outputs": {"steps": 5}, "files": {}})
    assert go(project, fake_kernel) == ["10"]
    files.write_json(
        project.index("mini", "00_first"), {"runs": [], "outputs": {"steps": 5}, "files": {}, "code_hash": "x"}
    )
    assert go(project, fake_kernel) == []  # it came to the same end


def test_the_runner_and_its_tables_do_not_count_as_code(project, fake_kernel):
    go(project, fake_kernel)
    with open(project.library / "run" / "profiles.toml", "a", encoding="utf-8") as file:
        file.write("[paper]\n")
    assert go(project, fake_kernel) == []


@pytest.mark.parametrize("damage", ["remove", "truncate", "executed", "state"])
def test_missing_outputs_and_damaged_notes_rerun(project, fake_kernel, damage):
    go(project, fake_kernel)
    made = project.made / "results" / "mini" / "made_10_second.txt"
    {
        "remove": made.unlink,
        "truncate": lambda: made.write_text(""),
        "executed": project.executed("mini", "10_second").unlink,
        "state": lambda: project.state("mini", "10_second").write_text('{"finger'),
    }[damage]()
    assert go(project, fake_kernel) == ["10"]


def test_force_runs_what_is_asked_for_only(project, fake_kernel):
    go(project, fake_kernel)
    assert go(project, fake_kernel, only=["20"], force=True) == ["20"]
    assert go(project, fake_kernel, start="10", force=True) == ["10", "20"]


def test_what_is_there_on_request_runs_only_when_named(project, fake_kernel):
    described = project.library / "run" / "pipeline.toml"
    described.write_text(
        described.read_text()
        .replace('title = "Step 10"', 'title = "Step 10"\non_request = true')
        .replace('needs = ["10_second"]', 'needs = ["00_first"]')
    )
    assert go(project, fake_kernel) == ["00", "20"]
    assert go(project, fake_kernel, start="10", force=True) == ["20"]
    assert go(project, fake_kernel, only=["10"]) == ["10"]
    assert "10_second  Step 10 (needs 00; about 2 min; only when named by --only)" in pipeline.describe(project, "mini")


def test_what_is_merely_read_comes_first_and_counts_but_is_not_started(project, fake_kernel):
    described = project.library / "run" / "pipeline.toml"
    described.write_text(
        described.read_text().replace('needs = ["10_second"]', 'needs = ["00_first"]\nreads = ["10_second"]')
    )
    assert go(project, fake_kernel, only=["20"]) == ["00", "20"]  # without results of 10
    assert go(project, fake_kernel) == ["10", "20"]  # which there are now
    assert go(project, fake_kernel) == []
    assert go(project, fake_kernel, only=["10"], overrides=[("steps", "5")]) == ["00", "10"]
    assert go(project, fake_kernel, only=["20"]) == ["00", "20"]
    assert fake_kernel.told["20_third"] == {"10_second": ["steps = 5"]}  # as 10 ran last
    assert "20_third  Step 20 (needs 00; reads 10 if run; about 2 min)" in pipeline.describe(project, "mini")
    described.write_text(described.read_text().replace("10_second", "30_third").replace("[30_third]", "[10_second]"))
    with pytest.raises(KeyMynaError, match="20_third needs 30_third"):
        pipeline.load_notebooks(project)


def test_profiles_do_not_touch_each_other(project, fake_kernel):
    go(project, fake_kernel)
    assert go(project, fake_kernel, profile="smoke") == ["00", "10", "20"]
    assert go(project, fake_kernel) == []


def test_a_failure_stops_and_forgets_the_last_success(project, fake_kernel, monkeypatch):
    go(project, fake_kernel)
    good = execute.execute

    def fail(*arguments):
        raise KeyMynaError("broken")

    monkeypatch.setattr(execute, "execute", fail)
    with pytest.raises(KeyMynaError, match="broken"):
        go(project, fake_kernel, only=["10"], force=True)
    monkeypatch.setattr(execute, "execute", good)
    assert go(project, fake_kernel) == ["10"]


def test_a_committed_copy_does_not_stand_in_for_what_was_made_here(project, fake_kernel):
    go(project, fake_kernel)
    made = "results/mini/made_10_second.txt"
    files.write_text(project.root / made, (project.made / made).read_text())
    (project.made / made).unlink()
    assert go(project, fake_kernel) == ["10"]


def test_a_notebook_that_publishes_nothing_has_not_succeeded(project, fake_kernel, monkeypatch):
    go(project, fake_kernel)  # leaves an index, which must not pass for a new one
    monkeypatch.setattr(execute, "execute", lambda *arguments: None)
    with pytest.raises(KeyMynaError, match="without writing local/results/mini/index/00_first.json"):
        go(project, fake_kernel, only=["00"], force=True)


def test_a_second_runner_on_a_profile_is_refused(project, fake_kernel):
    with pipeline.locked(project, "mini"):
        with pytest.raises(KeyMynaError, match=rf"mini is being run already \(process {os.getpid()}\)"):
            go(project, fake_kernel)
        assert go(project, fake_kernel, profile="smoke") == ["00", "10", "20"]
    assert go(project, fake_kernel) == ["00", "10", "20"]


def test_files_that_the_user_brings_are_watched_and_not_named(project, fake_kernel, tmp_path):
    brought = tmp_path / "music"
    (brought / "sub").mkdir(parents=True)
    (brought / "sub" / "a.wav").write_bytes(b"one")
    options = {"overrides": [("name", str(brought))]}
    assert go(project, fake_kernel, **options) == ["00", "10", "20"]
    assert list(fake_kernel.told.values()) == [{"00_first": ["name = 'music'"]}] * 3
    assert go(project, fake_kernel, **options) == []
    (brought / "sub" / "b.wav").write_bytes(b"two")
    assert go(project, fake_kernel, **options)[0] == "00"
    assert parameters.local_paths({"name": "a", "device": "cpu", "steps": 3, "gone": "no/where"}, project.root) == {}


# Side by side


@pytest.fixture
def branches(project):
    """00; 10, 15 and 20, which need it; 90, which needs 10 and is what is said to be complete."""
    described = project.library / "run" / "pipeline.toml"
    needs = {"00_first": [], "10_second": ["00_first"], "90_end": ["10_second"], "15_more": ["00_first"]}
    needs["20_third"] = ["00_first"]
    project.source("20_third").unlink()
    for name in needs:
        if name != "00_first":
            write_notebook(project, name, SECOND)
    described.write_text(
        "".join(
            f'[{name}]\ntitle = "Step {name[:2]}"\nneeds = {json.dumps(need)}\nminutes = {{}}\n'
            + ('completes = "All of it is complete"\n' if name == "90_end" else "")
            for name, need in needs.items()
        )
    )
    return project


def meeting(monkeypatch, *names):
    """Have notebooks end only when all of these have begun."""
    good, barrier = execute.execute, threading.Barrier(len(names))

    def meet(project, profile, notebook, *rest):
        if notebook in names:
            barrier.wait(60)
        good(project, profile, notebook, *rest)

    monkeypatch.setattr(execute, "execute", meet)


def test_two_at_a_time_are_noted_as_one_at_a_time(branches, fake_kernel, monkeypatch):
    def noted():
        states = [files.read_json(branches.state("mini", name)) for name in pipeline.load_notebooks(branches)]
        return [{key: state[key] for key in ("fingerprint", "parameters", "files", "index")} for state in states]

    assert go(branches, fake_kernel) == ["00", "10", "90", "15", "20"]
    one_by_one = noted()
    whole = branches.whole_run("mini")
    assert files.read_json(whole)["jobs"] == 1
    meeting(monkeypatch, "10_second", "15_more")
    go(branches, fake_kernel, force=True, jobs=2)
    assert noted() == one_by_one
    assert files.read_json(whole)["jobs"] == 2
    whole.unlink()
    go(branches, fake_kernel, only=["20"], force=True)
    go(branches, fake_kernel)
    assert not whole.exists()  # not all of them ran


def test_said_lines_are_those_of_one_by_one(branches, fake_kernel, monkeypatch):
    meeting(monkeypatch, "10_second", "15_more")
    said = []
    assert pipeline.run(branches, "mini", say=said.append, jobs=2) == [
        "00_first", "10_second", "90_end", "15_more", "20_third",
    ]  # fmt: skip
    assert {name for name, _ in fake_kernel} == set(pipeline.load_notebooks(branches))
    begun = [line.split()[1] for line in said if line.endswith("...")]
    assert begun[0] == "00_first" and set(begun[1:3]) == {"10_second", "15_more"}
    assert [line.split(", after")[0] for line in said if "complete" in line] == ["All of it is complete"]
    assert said[-1].startswith("All done in ")
    assert len(said) == 2 * 5 + 2
    said.clear()
    pipeline.run(branches, "mini", say=said.append, jobs=2)
    assert [line.split()[:3] for line in said[:-1]] == [
        [f"[{i}/5]", name, "skipped:"] for i, name in enumerate(pipeline.load_notebooks(branches), 1)
    ]


def test_the_success_of_one_beside_a_failure_counts(branches, fake_kernel, monkeypatch):
    go(branches, fake_kernel, only=["00"])
    meeting(monkeypatch, "10_second", "15_more")
    met = execute.execute

    def fail(project, profile, notebook, *rest):
        met(project, profile, notebook, *rest)
        if notebook == "10_second":
            raise KeyMynaError("10_second failed in cell [1] `x`:\n  broken")

    monkeypatch.setattr(execute, "execute", fail)
    with pytest.raises(KeyMynaError, match="10_second failed in cell"):
        go(branches, fake_kernel, jobs=2)
    assert branches.state("mini", "15_more").exists() and not branches.state("mini", "10_second").exists()


def test_what_takes_up_the_work_of_another_waits_for_it_and_depends_on_none_of_it(branches, fake_kernel):
    described = branches.library / "run" / "pipeline.toml"
    go(branches, fake_kernel)
    described.write_text(described.read_text().replace("[20_third]", '[20_third]\nafter = ["15_more"]\nalone = true'))
    assert go(branches, fake_kernel) == []
    assert go(branches, fake_kernel, only=["20"], force=True, jobs=2) == ["20"]
    said = []
    pipeline.run(branches, "mini", say=said.append, force=True, jobs=4)
    assert [line.split()[1] for line in said if line.startswith("[")][-2:] == ["20_third", "20_third"]
    assert "20_third  Step 20 (needs 00; nothing beside it)" in pipeline.describe(branches, "mini")


# Real kernels


def test_a_notebook_runs_and_its_copy_is_tidy(project, capsys):
    write_notebook(
        project,
        "00_first",
        FIRST,
        """import os, sys, time, keymyna_lib
from IPython.display import Audio, display
from keymyna_lib.base.progress import bar
for _ in bar(range(steps), desc="work"):
    time.sleep(0.6)
display(Audio([0.0] * 100, rate=8000, normalize=False))
print(os.getcwd(), os.getcwd() + "/data.csv", sys.executable)
print(name + "/a.wav")""",
        PUBLISH.format("00_first"),
    )
    brought = project.root.parent / 'my "Müsic"'
    brought.mkdir()
    pipeline.run(project, "mini", only=["00"], overrides=[("steps", "2"), ("name", str(brought))])
    text = project.executed("mini", "00_first").read_text()
    node = nbformat.reads(text, as_version=4)
    nbformat.validate(node)
    outputs = node.cells[2].outputs
    assert [output.output_type for output in outputs] == ["display_data", "stream"]  # the bar was short
    assert outputs[0].data == {"text/plain": execute.AUDIO_NOTE}
    assert outputs[1].text.startswith(". data.csv ") and outputs[1].text.endswith("\n<name>/a.wav\n")
    assert (
        str(project.root) not in text
        and str(brought) not in text
        and "audio/wav" not in text
        and "start_time" not in text
    )
    assert node.cells[1].source == '# Parameters\nprofile = "mini"\nsteps = 2\nname = "<name>"\n'
    assert not project.partial("mini", "00_first").exists()
    assert (project.made / "results/mini/made_00_first.txt").read_text() == "2"
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "[1/1] 00_first  Step 00 (no earlier success, about 2 min) ..."
    assert re.fullmatch(r"\[1/1\] 00_first  done in \d+ s \(total \d+ s\)", said[1])


@pytest.mark.parametrize(
    "line, cause",
    [
        ("raise ValueError('seven')", "ValueError: seven"),
        ("from keymyna_lib.base.errors import KeyMynaError; raise KeyMynaError('mend x.csv')", "\n  mend x.csv"),
        ("import os; os._exit(9)", "the kernel died"),
    ],
)
def test_a_failing_cell_is_named_and_its_copy_left(project, line, cause):
    write_notebook(project, "00_first", FIRST, "print('so far')", f"# the culprit\n{line}", "never = 1")
    with pytest.raises(KeyMynaError) as caught:
        pipeline.run(project, "mini", say=lambda text: None)
    message = str(caught.value)
    assert message.startswith("00_first failed in cell ")
    assert "`# the culprit`" in message and cause in message
    assert len(message.splitlines()) == 3 and str(project.partial("mini", "00_first")) in message
    assert "so far" in project.partial("mini", "00_first").read_text()
    assert not project.executed("mini", "00_first").exists()
    assert not project.state("mini", "00_first").exists()


# What is shown


@pytest.mark.parametrize(
    "raw, shown",
    [
        ("\r 0%|\r50%|\r100%|\ndone\n", "100%|\ndone\n"),
        ("plain\n", "plain\n"),
        ("a\rb\r\n", "b\n"),
        ("", ""),
        ("\ro 1/2\n\ri 1/2\x1b[A\n\ri 2/2\x1b[A\n\r      \x1b[A\ro 2/2\ndone\n", "o 2/2\ndone\n"),
        ("\ro 1/2\n\ri 1/2\x1b[A", "o 1/2\ni 1/2"),
    ],
)
def test_progress_bars_collapse_to_their_last_state(raw, shown):
    assert execute.collapse(raw) == shown


@pytest.mark.parametrize(
    "bar, line",
    [
        ("scores: 100%|███| 4658/4658 [00:18<00:00, 552.54score/s]\n", "scores: 4658 of 4658 in 0:18\n"),
        ("lr 0.001: 100%|██| 50/50 [00:00<00:00, 594094.05step/s]\n", ""),
        ("fit: 100%|██| 5/5 [00:09<00:00,  1.11s/fit]\nprobes: 4 of 5\n", "probes: 4 of 5\n"),
        ("runs:  55%|██▎  | 6/11 [1:28:33<36:32, 438.53s/run]kept", "runs: 6 of 11 in 1:28:33\nkept"),
        (
            "a: 100%|█| 9/9 [02:45<00:00, 7.5step/s, loss -0.49, top-1 0.73]\n",
            "a: 9 of 9 in 2:45 (loss -0.49, top-1 0.73)\n",
        ),
        (
            "got: 100%|█| 1.2M/1.2M [00:12<00:00, 97.5kB/s]\nb:   0%|  | 0/9 [00:00<?, ?it/s]",
            "got: 1.2M of 1.2M in 0:12\n",
        ),
        ("no bar: 100% | of 3/4 [sic]\n", "no bar: 100% | of 3/4 [sic]\n"),
    ],
)
def test_a_bar_ends_as_a_plain_line(bar, line):
    assert execute.plain_bars(bar) == line


def test_bars_are_thinned_in_a_log(monkeypatch):
    clock = iter([0.0, 1.0, 31.0, 31.0, 32.0])
    monkeypatch.setattr(live.time, "monotonic", lambda: next(clock))
    log, said = io.StringIO(), []
    screen = live.Screen(log, said.append, moves=False)
    bars = screen.bars("10_second")
    for text in ("\rwork 1%", "\rwork 2%", "\rwork 3%"):
        bars.write(text)
    screen.say("[1/1] 10_second  done")
    bars.close()
    assert log.getvalue() == "    10: work 2%\n" and said == ["[1/1] 10_second  done"]


def seen(written):
    """What a terminal shows, by its moves up, its erasures and new lines; nothing else is expected."""
    lines, row = [""], 0
    for up, erase, end, text in re.findall(r"\x1b\[(\d+)A|(\x1b\[J)|(\n)|([^\x1b\n]+)", written.replace("\r", "")):
        if up:
            row -= int(up)
            assert row >= 0
        elif erase:
            del lines[row:]
            lines.append("")
        elif end:
            row += 1
            lines += [""] * (row + 1 - len(lines))
        else:
            lines[row] += text
    return lines


def test_bars_of_two_notebooks_move_side_by_side_below_all_that_is_said(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("LINES", "24")
    terminal = io.StringIO()
    screen = live.Screen(terminal, lambda line: terminal.write(f"{line}\n"), moves=True)
    screen.say("00 starts")
    one, other = screen.bars("00"), screen.bars("05")
    one.write("\rscores 1%")
    other.write("\rfetch 1% 123456789 123456789")
    one.write("\rscores 2%")
    assert seen(terminal.getvalue()) == ["00 starts", "00", "  scores 2%", "05", "  fetch 1% 12345678", ""]
    one.write("\n\rinner 7%")  # one bar within another; what is written may be cut anywhere
    one.write("\x1b[A\rscores 3%")
    screen.say("05 says")
    assert seen(terminal.getvalue())[:5] == ["00 starts", "05 says", "00", "  scores 3%", "  inner 7%"]
    other.close()
    screen.say("05 is done")
    assert seen(terminal.getvalue())[2:] == ["05 is done", "00", "  scores 3%", "  inner 7%", ""]
    for i in range(9):
        one.write(f"\nline {i}")
    assert seen(terminal.getvalue())[3:] == ["00", *(f"  line {i}" for i in range(6, 9)), ""]
    one.close()
    assert seen(terminal.getvalue()) == ["00 starts", "05 says", "05 is done", ""]


def test_bars_that_do_not_fit_on_the_screen_are_left_out(monkeypatch):
    monkeypatch.setenv("LINES", "4")
    terminal = io.StringIO()
    screen = live.Screen(terminal, print, moves=True)
    for name in ("00", "05", "10"):
        screen.bars(name).write("\rwork")
    assert seen(terminal.getvalue()) == ["00", "  work", "05", ""]


@pytest.mark.parametrize("seconds, text", [(42.4, "42 s"), (492, "8 min 12 s"), (11100, "3 h 5 min")])
def test_durations(seconds, text):
    assert pipeline.duration(seconds) == text


def test_list_shows_parameters_and_marks_what_the_profile_changes(project):
    text = pipeline.describe(project, "smoke")
    assert re.search(r"^  \* steps +int +1 +optimiser steps$", text, re.M)
    assert re.search(r"^    sizes +list +\[48, 150\] +labelled pieces$", text, re.M)
    assert "10_second  Step 10 (needs 00)" in text
    assert "about 2 min" in pipeline.describe(project, "mini")


# The real notebooks

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_every_described_notebook_exists_and_every_profile_fits():
    project = Project()
    described = pipeline._read_toml(project.library / "run" / "pipeline.toml")
    assert sorted(described) == [path.stem for path in NOTEBOOKS]
    notebooks = pipeline.load_notebooks(project)
    for profile in paths.PROFILES:
        pipeline.resolve(project, notebooks, profile, [])


def test_the_papers_own_pipeline_runs_first_and_its_end_is_said():
    notebooks = pipeline.load_notebooks(Project())
    order = list(notebooks)
    (last,) = [name for name in order if notebooks[name].completes]
    own = {"00_data", "05_recordings", "10_pretrain", "15_controls", "20_linear_probe", "30_wide_mlp", "40_robustness"}
    assert set(order[: order.index(last)]) == own and set(notebooks[last].needs) <= own


@each_notebook
def test_notebooks_need_what_they_read(path):
    """A notebook names what it reads, or reads it through `upstream`; all that must be declared, and no more."""
    code = "\n".join(cell["source"] for cell in parameters.read_cells(path) if cell["cell_type"] == "code")
    reads = set(re.findall(r'"(\d\d_\w+)"', code)) - {path.stem}
    reads |= {"00_data"} if "corpus_of(" in code else set()
    makers = {"00_data", "05_recordings"}
    reads |= makers if re.search(r"(?<!rendered_)corpus_of\(|task_of\(|inputs_of\(", code) else set()
    reads |= {"10_pretrain"} if re.search(r"(encoders_of|inputs_of|window_of|describe_encoder)\(", code) else set()
    assert set(pipeline.load_notebooks(Project())[path.stem].inputs) == reads


@each_notebook
def test_notebooks_are_stored_without_outputs(path):
    node = nbformat.read(path, as_version=4)
    nbformat.validate(node)
    assert all(not cell.outputs and cell.execution_count is None for cell in node.cells if cell.cell_type == "code")
    assert node.metadata.kernelspec.name == "python3"  # plain papermill needs it
    assert node.cells[0].cell_type == "markdown"


@each_notebook
def test_every_parameter_has_a_comment_and_is_read(path):
    declared = parameters.declared(path)
    assert [p.name for p in declared.values() if not p.comment] == []
    assert declared["profile"].default == "mini"
    read = set()
    for cell in parameters.read_cells(path):
        if cell["cell_type"] == "code" and parameters.TAG not in cell["metadata"].get("tags", []):
            source = re.sub(r"^\s*[%!].*$", "", cell["source"], flags=re.M)
            read |= {
                node.id
                for node in ast.walk(ast.parse(source))
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
            }
            if "PretrainConfig.from_parameters(globals()" in source:  # reads all that is a setting
                read |= {field.name for kind in (EncoderConfig, PretrainConfig) for field in fields(kind)}
    assert set(declared) - read == set()
