"""One pinned set of dependencies: the lock, what declares it, and what installs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import models
import pytest
import tones
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from keymyna_lib.base import paths
from keymyna_lib.run import environment

SETTINGS = tomllib.loads((paths.ROOT / "pyproject.toml").read_text())
PROJECT, UV = SETTINGS["project"], SETTINGS["tool"]["uv"]
EXTRAS = PROJECT["optional-dependencies"]
IN_LOCK = ("notebooks", "test", "formats")
LOCKED = {canonicalize_name(name): version for name, version in environment.locked(paths.LOCK).items()}


def test_torch_is_the_pinned_one():
    assert LOCKED["torch"] == LOCKED["torchaudio"] == "2.11.0"
    assert "torch==2.11.0" in PROJECT["dependencies"] and "torchaudio==2.11.0" in EXTRAS["notebooks"]


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *(text for name in IN_LOCK for text in EXTRAS[name])])
def test_everything_declared_is_locked(text):
    requirement = Requirement(text)
    version = LOCKED[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version, prereleases=True)


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
def test_each_python_gets_one_version_of_each(python):
    lines = [line.split("#")[0].strip() for line in paths.LOCK.read_text().splitlines()]
    here = {"python_full_version": python, "python_version": python[:4]}
    names = [r.name for r in map(Requirement, filter(None, lines)) if r.marker is None or r.marker.evaluate(here)]
    assert len(names) == len(set(names)) and {"torch", "essentia", "tinysoundfont", "papermill"} <= set(names)


def test_the_lock_is_closed_but_for_what_nothing_uses():
    """Installing it with --no-deps leaves nothing out that is ever imported; conda's pip is told so by PIP_NO_DEPS."""
    corrected = {package["name"]: package["requires-dist"] for package in UV["dependency-metadata"]}
    wanted = set()
    for name in LOCKED:
        for requirement in map(Requirement, corrected.get(name) or metadata.requires(name) or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.add(canonicalize_name(requirement.name))
    assert wanted - set(LOCKED) == {"pyaudio"}
    assert "PIP_NO_DEPS=1 conda env create" in (paths.ROOT / "environment.yml").read_text()


def test_the_lock_says_how_it_was_made_of_what():
    command = next(line for line in paths.LOCK.read_text().splitlines() if "uv pip compile" in line)
    assert re.findall(r"--extra (\w+)", command) == list(IN_LOCK)


def test_predict_imports_nothing_but_what_a_plain_installation_brings(tmp_path):
    tones.write(tmp_path / "song.mp3", 0, seconds=2.0)
    code = """
import sys
from keymyna_lib.__main__ import main
for shown in ("--json", "--write-tags"):
    main(["predict", "--model", "model.safetensors", "song.mp3", shown], standalone_mode=False)
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)"""
    models.write(tmp_path / "model.safetensors")
    python = [sys.executable, "-c", code]
    done = subprocess.run(
        python, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(paths.ROOT)}
    )
    assert done.returncode == 0, done.stderr
    of_module = metadata.packages_distributions()
    imported = {
        canonicalize_name(of_module[name][0]) for name in done.stderr.splitlines()[-1].split() if name in of_module
    }
    brought, new = set(), {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    while new:
        brought |= new
        found = [Requirement(text) for name in new for text in metadata.requires(name) or []]
        new = {canonicalize_name(r.name) for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}
        new -= brought
    assert {"torch", "soundfile", "mutagen", "rich"} <= imported <= brought | {"keymyna-lib", "setuptools"}


def test_conda_installs_the_lock_and_the_same_python():
    conda = yaml.safe_load((paths.ROOT / "environment.yml").read_text())
    plain = [entry for entry in conda["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pip == [f"-r {paths.LOCK.name}", "-e ."]  # no version of its own to disagree with the lock
    (python,) = [entry for entry in plain if entry.startswith("python")]
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert plain == [python, "pip"]
    assert conda["channels"] == ["conda-forge", "nodefaults"]


def test_no_registry_is_named():
    for name in ("requirements.lock", "environment.yml", "run_all.sh", "pyproject.toml"):
        text = re.sub(r"\[project\.urls\][^\[]*", "", (paths.ROOT / name).read_text())  # where to read about it
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links|^-[if] ", text, re.M)


def test_this_environment_satisfies_the_lock():
    assert environment.differences(paths.LOCK) == []


@pytest.mark.parametrize(
    "lock, problem",
    [
        ("numpy==0.0.1\n", "numpy is "),
        ("no-such-thing==1.0\n    # via numpy\n", "no-such-thing is missing"),
        ("numpy==2.0 ; sys_platform == 'plan9'\n", "the lock is for Linux on x86-64 only"),
    ],
)
def test_differences_from_the_lock_are_named(tmp_path, lock, problem):
    (tmp_path / "lock").write_text(lock)
    found = environment.differences(tmp_path / "lock")
    assert len(found) == 1 and found[0].startswith(problem)
    done = subprocess.run([sys.executable, environment.__file__, tmp_path / "lock"], capture_output=True, text=True)
    assert done.returncode == 1 and problem in done.stderr


def test_a_bare_python_does_not_satisfy_it(tmp_path):
    """The check itself runs where nothing is installed."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", environment.__file__, paths.LOCK], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr == "packaging is missing\n"


def test_run_all_is_short_and_valid():
    script = paths.ROOT / "run_all.sh"
    assert len(script.read_text().splitlines()) < 40 and os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert re.search(r'^PYTHONPATH=.* exec "\$python" -m keymyna_lib run "\$@"$', script.read_text(), re.M)


def test_ci_calls_exactly_the_tests():
    script = paths.ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["./run_all.sh --tests"]


def test_citation_file():
    cff = yaml.safe_load((paths.ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(cff)
    assert cff["cff-version"] == "1.2.0" and cff["license"] == PROJECT["license"] == "MIT"
    assert Version(cff["version"]) == Version(PROJECT["version"])
    (paper,) = cff["references"]
    assert {"type", "title", "authors"} <= set(paper) and paper["identifiers"][0]["value"] == "arXiv:2604.10021"
