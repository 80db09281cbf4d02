"""Bundles: packed, run in a clean folder by a bare Python process, brought back; damage and other versions refused."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata

import nbformat
import pytest
from clones import COPIED

from keymyna_lib.base import files, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered.scores import cache_folder
from keymyna_lib.run import away, bundle, pipeline
from keymyna_lib.run.project import Project

PARAMETERS = 'profile = "smoke"  # scale\nsteps = 3  # optimizer steps'
TRAINS = """import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display
from keymyna_lib.report.stage import Stage

stage = Stage("00_first", profile)
with stage.run("toy", seed=0, inputs={}, config={"steps": steps}) as run:
    run.metric("all", "test", "steps", steps, 1)
    run.artifact_path("encoder.safetensors").parent.mkdir(parents=True)
    run.artifact_path("encoder.safetensors").write_bytes(b"weights")
print("trained")
display(Markdown("**bold**"))
pd.DataFrame({"steps": [steps]})"""
DRAWS = """figure, axis = plt.subplots(figsize=(1, 1))
data = pd.DataFrame({"x": [steps]})
stage.figure(figure, "toy", data=data, parameters={}, runs=stage.runs)
plt.show()
stage.done(outputs={"steps": steps})"""
READS = """from keymyna_lib.report.runs import load_metrics, published
from keymyna_lib.report.stage import Stage

stage = Stage("10_second", profile)
print(load_metrics(profile, published(profile, "00_first")["runs"])["value"].item())
stage.done()"""
FAILS = 'raise ValueError("no such thing")'


def cells(*sources):
    v4 = nbformat.v4
    first = v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    return v4.new_notebook(cells=[first, *map(v4.new_code_cell, sources)])


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """This library with three toy notebooks, of which the third fails."""
    root = tmp_path_factory.mktemp("clone")
    shutil.copytree(paths.LIBRARY, root / "keymyna_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.LOCK, root)
    (root / "notebooks").mkdir()
    for name, sources in {"00_first": (TRAINS, DRAWS), "10_second": (READS,), "15_third": (FAILS,)}.items():
        nbformat.write(cells(*sources), root / "notebooks" / f"{name}.ipynb")
    needs = {"00_first": [], "10_second": ["00_first"], "15_third": []}
    (root / "keymyna_lib" / "run" / "pipeline.toml").write_text(
        "".join(
            f'[{name}]\ntitle = "{name}"\nneeds = {json.dumps(need)}\nminutes = {{}}\n' for name, need in needs.items()
        )
    )
    (root / "keymyna_lib" / "run" / "profiles.toml").write_text("[smoke.shared]\nsteps = 7\n")
    return Project(root, root / ".cache")


@pytest.fixture(scope="module")
def packed(clone, tmp_path_factory):
    """The bundle of the clone, without packages: this Python has them."""
    out = tmp_path_factory.mktemp("packed") / "toy.tar.gz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "needed", lambda python, there: {})
        bundle.write(clone, "smoke", out, python=f"{sys.version_info[0]}.{sys.version_info[1]}")
    return out


@pytest.fixture(scope="module")
def there(packed, clone, tmp_path_factory):
    """The other machine's folder after two starts, and what it printed the first and the second time."""
    folder = tmp_path_factory.mktemp("there")
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    root = folder / "keymyna"
    files.write_json(root / "bundle.json", files.read_json(root / "bundle.json") | {"commit": "c0ffee", "dirty": False})
    if (paths.CACHE / "compiled").exists():  # librosa, which this Python shares
        shutil.copytree(paths.CACHE / "compiled", root / ".cache" / "compiled")
    said = []
    for asked in (["10", "15"], ["0", "10"]):
        done = subprocess.run(
            [sys.executable, root / "run.py", "--to", folder / "out", *asked],
            env={name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KEYMYNA_CACHE")}
            | {"OMP_NUM_THREADS": "1"},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
        )
        said.append((done.returncode, done.stdout, done.stderr))
    return folder, said


@pytest.fixture
def home(clone, tmp_path):
    """The clone as it was when it was packed."""
    for name in COPIED:
        if (clone.root / name).is_dir():
            shutil.copytree(clone.root / name, tmp_path / "home" / name)
        elif (clone.root / name).exists():
            shutil.copy(clone.root / name, tmp_path / "home")
    return Project(tmp_path / "home", tmp_path / "home" / ".cache")


def test_a_notebook_that_fails_stops_no_other_and_a_second_start_goes_on(there):
    _, ((status, first, errors), (again, second, _)) = there
    assert status == 1 and "[2/3] 10_second  done" in first
    assert "15_third failed: ValueError: no such thing" in errors
    assert again == 0 and second.count("skipped: unchanged") == 2 and "done in" not in second


def test_results_come_back_as_if_made_here_with_the_provenance_of_there(there, home):
    manifest = bundle.bring_back(home, [there[0] / "out" / away.ARCHIVE])
    assert list(manifest["notebooks"]) == ["00_first", "10_second"]
    (run,) = (home.made / "results" / "smoke" / "runs").iterdir()
    origin = files.read_json(run / "provenance.json")
    assert origin["commit"] == "c0ffee" and not origin["dirty"]
    assert not (home.cache / "artifacts").exists()  # the weights stay there
    assert (home.made / "figures" / "smoke" / "toy.pdf").is_file()
    ran = []

    def execute(project, profile, notebook, *_):
        ran.append(notebook)
        raise KeyMynaError("enough")

    with pytest.raises(KeyMynaError, match="enough"):
        pipeline.run(home, "smoke", execute=execute, say=lambda line: None)
    assert ran == ["15_third"]


def test_an_executed_notebook_is_like_one_of_papermill(there, home):
    bundle.bring_back(home, [there[0] / "out" / away.ARCHIVE])
    path = home.executed("smoke", "00_first")
    node = nbformat.read(path, as_version=4)
    nbformat.validate(node)
    assert node.cells[1].source == "# Parameters\nprofile = 'smoke'\nsteps = 7"
    shown = [output for cell in node.cells for output in cell.outputs]
    assert [output.output_type for output in shown] == ["stream", "display_data", "execute_result", "display_data"]
    assert shown[0].text == "trained\n" and shown[1].data["text/markdown"] == "**bold**"
    assert "<td>7</td>" in shown[2].data["text/html"] and "image/png" in shown[3].data
    assert str(there[0]) not in path.read_text()
    assert "7.0" in home.executed("smoke", "10_second").read_text()


def test_bringing_back_twice_changes_nothing(there, home):
    archive = there[0] / "out" / away.ARCHIVE
    bundle.bring_back(home, [archive])
    before = {path: path.read_bytes() for path in (home.made / "results").rglob("*.*") if path.is_file()}
    bundle.bring_back(home, [archive])
    assert {path: path.read_bytes() for path in (home.made / "results").rglob("*.*") if path.is_file()} == before


def altered(archive, change):
    """The archive with other members: `change` gets a dictionary name -> bytes."""
    with tarfile.open(archive) as old:
        members = {member.name: old.extractfile(member).read() for member in old.getmembers()}
    change(members)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as new:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return made.getvalue()


def lose(members):
    del members[next(name for name in members if name.endswith("metrics.csv"))]


def change(members):
    name = next(name for name in members if name.endswith("metrics.csv"))
    members[name] = members[name].replace(b"7.0", b"8.0")


def change_the_manifest(members):
    members[away.MANIFEST] = members[away.MANIFEST].replace(b"c0ffee", b"c0ffed")


def leave_the_folder(members):
    members["keymyna_lib/keys.py"] = b""


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.read_bytes()[:-40],
        lambda path: b"no archive",
        lambda path: altered(path, lose),
        lambda path: altered(path, change),
        lambda path: altered(path, change_the_manifest),
        lambda path: altered(path, leave_the_folder),
    ],
    ids=["cut short", "no archive", "a file lost", "a file changed", "manifest changed", "a file too many"],
)
def test_a_damaged_archive_is_refused_and_nothing_is_written(damage, there, home, tmp_path):
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(damage(there[0] / "out" / away.ARCHIVE))
    with pytest.raises(KeyMynaError, match=r"bad\.tar\.gz: damaged"):
        bundle.bring_back(home, [bad])
    assert not (home.made / "results").exists()


@pytest.mark.parametrize(
    "name, said",
    [
        ("keymyna_lib/keys.py", "another version of the library than is here"),
        ("notebooks/10_second.ipynb", "another 10_second than is here"),
        ("keymyna_lib/run/profiles.toml", "another profile or value in 00_first"),
    ],
)
def test_results_of_another_version_are_refused_by_name(name, said, there, home):
    path = home.root / name
    path.write_text(path.read_text().replace("steps = 7", "steps = 8").replace("done()", "done(outputs={})") + "\n\n")
    if path.suffix == ".py":
        path.write_text(path.read_text() + "x = 1\n")
    with pytest.raises(KeyMynaError, match=f"{said}.*at commit c0ffee"):
        bundle.bring_back(home, [there[0] / "out" / away.ARCHIVE])
    assert not (home.made / "results").exists()


def test_a_run_of_the_same_name_and_other_content_is_not_overwritten(there, home):
    archive = there[0] / "out" / away.ARCHIVE
    bundle.bring_back(home, [archive])
    (path,) = (home.made / "results" / "smoke" / "runs").glob("*/metrics.csv")
    path.write_text("mine\n")
    with pytest.raises(KeyMynaError, match=f"run {path.parent.name} .*is here already, with other content"):
        bundle.bring_back(home, [archive])
    assert path.read_text() == "mine\n"


def test_a_large_archive_comes_in_parts(there, home, monkeypatch, tmp_path):
    project = Project(there[0] / "keymyna", there[0] / "keymyna" / ".cache")
    monkeypatch.setattr(away, "PART", 4000)
    (tmp_path / away.ARCHIVE).touch()  # of an earlier time, when one file was enough
    parts = away.pack(project, files.read_json(project.root / "bundle.json"), tmp_path)
    assert len(parts) > 1 and sorted(tmp_path.glob(f"{away.ARCHIVE}*")) == sorted(parts)
    assert max(part.stat().st_size for part in parts) <= 4000
    with pytest.raises(KeyMynaError, match="all parts in order"):
        bundle.bring_back(home, parts[:-1])
    assert list(bundle.bring_back(home, parts)["notebooks"]) == ["00_first", "10_second"]


def test_what_travels_is_what_the_other_machine_lacks():
    found = bundle.needed("3.12", ["Numba", "llvmlite"])
    assert {"librosa", "symusic", "tinysoundfont", "soundfile", "cffi"} <= set(found)
    assert not {"torch", "numpy", "joblib", "filelock", "numba", "llvmlite", "jupyterlab", "music21"} & set(found)
    assert "llvmlite" in bundle.needed("3.12") and found["librosa"] == metadata.version("librosa")


def test_packages_are_fetched_for_the_other_python(monkeypatch, tmp_path):
    def pip(command, **_):
        folder = command[command.index("--dest") + 1]
        assert command[command.index("--python-version") + 1] == "3.12" and command[-1] == "toy==1.0"
        with zipfile.ZipFile(f"{folder}/toy-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("toy/__init__.py", "")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    bundle._fetch({"toy": "1.0"}, "3.12", tmp_path / "packages")
    assert (tmp_path / "packages" / "toy" / "__init__.py").is_file()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", "ERROR: no toy\n"))
    with pytest.raises(KeyMynaError, match="cannot download packages for Python 3.12 .*no toy.*--there"):
        bundle._fetch({"toy": "1.0"}, "3.12", tmp_path / "again")


def test_the_bundle_holds_the_scores_under_the_key_that_is_asked_for(packed, scores):
    with tarfile.open(packed) as archive:
        found = {name.split("/")[3] for name in archive.getnames() if name.endswith("notes.npz")}
    assert found == {cache_folder().name} and (cache_folder() / "notes.npz").is_file()
