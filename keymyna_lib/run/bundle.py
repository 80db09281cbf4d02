"""Prepare here, train on another machine that has torch and little else, and bring the results back.

`write` packs into one archive

    run.py              starts the work there, see `away`
    bundle.json         profile, parameters set by hand, commit and code hash
    keymyna_lib/, notebooks/, requirements.lock
    packages/           what the library needs and that machine lacks, of the lock's versions, for its Python
    .cache/scores/      the parsed scores, from which it renders the corpus: parsing needs music21 and takes minutes

and `bring_back` takes the results to where runs write, as if the runner had made them here: index, runs with that
machine's provenance, tables, figures, executed notebooks, and the runner's note that they are up to date.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.metadata
import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from keymyna_lib.base import files, hashing, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import provenance, publication
from keymyna_lib.report.runs import copy_run
from keymyna_lib.run import parameters, pipeline
from keymyna_lib.run.away import MANIFEST
from keymyna_lib.run.project import Project

# What the notebooks' defaults import. music21 only parses scores, which is done here, and of pretty_midi only the
# SoundFont is read.
IMPORTED = (
    "click",
    "essentia",
    "filelock",
    "librosa",
    "matplotlib",
    "numpy",
    "pandas",
    "psutil",
    "safetensors",
    "scikit-learn",
    "scipy",
    "seaborn",
    "soundfile",
    "soxr",
    "symusic",
    "threadpoolctl",
    "tinysoundfont",
    "torch",
    "tqdm",
)
THERE = ("torch", "numpy", "pandas", "scikit-learn", "matplotlib")  # expected on the other machine
_PLATFORMS = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{i}" for i in range(5, 29)))
_RUN = '''"""Do the work of this bundle: python run.py [--help]. Start it again to go on after a stop."""

import os
import sys

version = sys.version.split(" ")[0]
if not version.startswith("{python}."):
    sys.exit(f"error: this bundle is for Python {python}, and this is {{version}}.")
root = os.path.dirname(os.path.abspath(__file__))
os.environ["PYTHONPATH"] = os.pathsep.join([root, os.path.join(root, "packages")])
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin while they wait slow down the others
os.execv(sys.executable, [sys.executable, "-m", "keymyna_lib.run.away", *sys.argv[1:]])
'''


def write(
    project: Project,
    profile: str,
    out: Path,
    *,
    overrides: Sequence[tuple[str, str]] = (),
    python: str,
    there: Sequence[str] = (),
) -> dict[str, Any]:
    """Pack a profile for another machine (Linux, x86-64) into `out`, a .tar.gz.

    Parameters
    ----------
    overrides : (name, value as typed).
    python : version there, such as "3.12".
    there : distributions that it has besides THERE, with all that these need.

    Returns
    -------
    What bundle.json holds.

    Raises
    ------
    KeyMynaError
        For parameters as `pipeline.run`, for one that names a file of this machine, and when packages cannot be
        downloaded.
    """
    values = pipeline.resolve(project, pipeline.load_notebooks(project), profile, list(overrides))
    for table in values.values():
        for name in parameters.local_paths(table, project.root):
            raise KeyMynaError(f"{name} names files of this machine; a bundle works on the synthetic corpus alone.")
    origin = provenance.environment()
    packages = needed(python, there)
    bundle = {
        "profile": profile,
        "overrides": [list(pair) for pair in overrides],
        **{key: origin[key] for key in ("commit", "dirty", "code_hash")},
        "python": python,
        "packages": packages,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files.write_json(folder / paths.BUNDLE.name, bundle)
        files.write_text(folder / "run.py", _RUN.format(python=python))
        _fetch(packages, python, folder / "packages")
        _add_sounds(folder / "packages")
        scores = _parsed_scores()
        shutil.copytree(scores, folder / ".cache" / "scores" / scores.name)
        for source in (project.library, project.root / "notebooks", project.root / paths.LOCK.name):
            if source.is_dir():
                shutil.copytree(source, folder / source.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copy(source, folder / source.name)
        with files.atomic_path(out) as target, tarfile.open(target, "w:gz") as archive:
            archive.add(folder, "keymyna")
    return bundle


def needed(python: str, there: Sequence[str] = ()) -> dict[str, str]:
    """Distributions that the library needs on another machine and that are not there, with their versions here.

    Parameters
    ----------
    python, there : see `write`.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}

    def closure(names: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        todo = list(names)
        while todo:
            if (name := canonicalize_name(todo.pop())) in found:
                continue
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # one that the lock leaves out
                found[name] = importlib.metadata.version(name)
                asked = map(Requirement, importlib.metadata.requires(name) or ())
                todo += [each.name for each in asked if each.marker is None or each.marker.evaluate(environment)]
        return found

    present = {*closure((*THERE, *there)), *map(canonicalize_name, there)}
    return {name: version for name, version in sorted(closure(IMPORTED).items()) if name not in present}


def _fetch(packages: dict[str, str], python: str, folder: Path) -> None:
    """Download wheels for the other machine's Python, and unpack them side by side."""
    folder.mkdir()
    if not packages:
        return
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip") or "pip"]
    with tempfile.TemporaryDirectory() as wheels:
        command = [*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", python]
        command += [f"--platform={platform}_x86_64" for platform in _PLATFORMS]
        command += ["--dest", wheels, *(f"{name}=={version}" for name, version in packages.items())]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            raise KeyMynaError("downloading packages needs pip: python -m ensurepip, then run again.") from None
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no message"]
            raise KeyMynaError(
                f"pip cannot download packages for Python {python} ({errors[-1]}). Those that the other machine has "
                "can be left out: --there NAME."
            )
        for wheel in Path(wheels).glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)


def _add_sounds(folder: Path) -> None:
    """The SoundFont, and the versions of the packages that only its keys in the cache ask for."""
    from keymyna_lib.corpus.sound import soundfonts

    bank = soundfonts.find(soundfonts.DEFAULT)
    (folder / bank.parent.name).mkdir()
    (folder / bank.parent.name / "__init__.py").touch()
    shutil.copy(bank, folder / bank.parent.name / bank.name)
    for name in ("pretty_midi", "music21"):
        version = importlib.metadata.version(name)
        place = folder / f"{name}-{version}.dist-info" / "METADATA"
        files.write_text(place, f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def _parsed_scores() -> Path:
    """The folder of the parsed scores, parsed now if need be."""
    from keymyna_lib.corpus.rendered import scores

    scores.load_scores()
    return scores.cache_folder()


def bring_back(project: Project, archives: Sequence[Path]) -> dict[str, Any]:
    """Take the results of another machine to where runs write; nothing is changed unless all of it is in order.

    The corpus, weights and features stayed there: a notebook that needs them runs there, or makes all of them anew.

    Parameters
    ----------
    archives : the file that `away.pack` wrote, or its parts in order.

    Returns
    -------
    The archive's manifest: "notebooks", "origin", "profile" and more.

    Raises
    ------
    KeyMynaError
        When an archive is damaged or incomplete, when its results are of another version of code, notebooks or
        profile, or when a run of the same name and other content is here already.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = _unpack(archives, folder)
        profile, notebooks = manifest["profile"], pipeline.load_notebooks(project)
        _expect_same_version(project, manifest, notebooks)
        with pipeline.locked(project, profile):
            publication.complete(project.made, profile)
            _take_runs(project, profile, folder)
            for name, ran in manifest["notebooks"].items():
                _publish(project, profile, name, folder, manifest, ran)
    return manifest


def _unpack(archives: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Unpack an archive of `away.pack`, every file of it checked."""
    shown = ", ".join(map(str, archives))
    damaged = KeyMynaError(
        f"{shown}: damaged, incomplete, or no results of a bundle. Copy it again, all parts in order."
    )
    try:
        content = b"".join(Path(path).read_bytes() for path in archives)
    except OSError as error:
        raise KeyMynaError(f"{error.filename} cannot be read ({error.strerror}).") from None
    try:
        # Unpacked to its end, where the checksum is: tarfile stops at the last file.
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
            archive.extractall(folder, filter="data")
        manifest = files.read_json(folder / MANIFEST)
        checksum = manifest.pop("checksum")
        listed, found = manifest["files"], set(_listing(folder)) - {MANIFEST}
        own = tuple(f"{top}/{manifest['profile']}/" for top in ("results", "figures"))
        whole = (
            checksum == hashing.sha256_json(manifest)
            and found == set(listed)
            and all(name.startswith(own) and hashing.sha256_file(folder / name) == listed[name] for name in found)
        )
    except (tarfile.TarError, EOFError, zlib.error, OSError, KeyMynaError, KeyError, TypeError):
        raise damaged from None
    if not whole:
        raise damaged
    return manifest


def _listing(folder: Path) -> Iterator[str]:
    """The files below a folder, by their path in it."""
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _expect_same_version(project: Project, manifest: dict[str, Any], notebooks: dict[str, pipeline.Notebook]) -> None:
    """Refuse results of another version, and say which."""
    commit = manifest["origin"]["commit"]
    remedy = f"Bring them back in a clone at commit {commit}, where they were packed."
    values = pipeline.resolve(
        project, notebooks, manifest["profile"], [(name, text) for name, text in manifest["overrides"]]
    )
    for name, ran in manifest["notebooks"].items():
        if name not in notebooks:
            raise KeyMynaError(f"these results are of a notebook {name}, which is not here. {remedy}")
        here = pipeline.fingerprint(project, notebooks[name], values[name])
        for part, what in (("code", "version of the library"), ("notebook", name), ("parameters", "profile or value")):
            if here[part] != ran["fingerprint"][part]:
                raise KeyMynaError(
                    f"these results were made by another {what}{'' if part != 'parameters' else f' in {name}'} than is "
                    f"here. {remedy}"
                )


def _take_runs(project: Project, profile: str, folder: Path) -> None:
    """Put the runs in place, each as a whole; a run that is here already has to be the same."""
    inside = PurePosixPath("results", profile, "runs")
    runs = sorted((folder / inside).glob("*"))
    for run in runs:
        here = project.made / inside / run.name
        if here.exists() and any(_contents(run)[name] != _contents(here).get(name) for name in _contents(run)):
            raise KeyMynaError(
                f"run {run.name} of profile {profile} is here already, with other content. Move "
                f"{project.show(here)} away, and bring the results back again."
            )
    for run in runs:
        copy_run(run, project.made / inside)


def _contents(run: Path) -> dict[str, str]:
    return {name: hashing.sha256_file(run / name) for name in _listing(run)}


def _publish(
    project: Project, profile: str, notebook: str, folder: Path, manifest: dict[str, Any], ran: dict[str, Any]
) -> None:
    """Publish a notebook's tables, figures and index, and store its executed copy and the runner's note."""
    import nbformat

    from keymyna_lib.run.execute import tidy

    there = Project(Path(manifest["root"]), Path(manifest["cache"]))
    index = publication.read_index(folder / project.named(project.index(profile, notebook)))
    staging = publication.Staging(project.made, profile, notebook)
    for name in index["files"]:
        if (folder / name).is_file() and not name.startswith(f"results/{profile}/runs/"):
            place = staging.path(project.made / name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / name, place)
    files.discard(project.state(profile, notebook))
    staging.publish(index)
    executed = project.executed(profile, notebook)
    node = nbformat.reads((folder / project.named(executed)).read_text(encoding="utf-8"), as_version=4)
    with files.atomic_path(executed) as target:
        nbformat.write(tidy(node, there, profile, notebook, {}), target)
    produced = [path for name in index["files"] if (path := project.made / name).is_file()]
    files.write_json(
        project.state(profile, notebook),
        {
            **ran,
            "files": {project.named(path): pipeline.mark_of(path) for path in (*produced, executed)},
            "index": index,
        },
    )
