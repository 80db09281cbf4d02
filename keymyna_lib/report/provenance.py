"""Where a result comes from: the code, the notebook, the packages and the machine."""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
from typing import Any

from keymyna_lib.base import paths
from keymyna_lib.base.files import read_json
from keymyna_lib.base.hashing import sha256_json, source_hash
from keymyna_lib.base.machine import cpu_name

_NOT_IN_RUNS = {"run", "report", "experiments/conclusions.py", "base/progress.py", "base/errors.py", "__main__.py"}
# Packages that the numbers may depend on; the lock file lists the rest.
_PACKAGES = (
    "torch",
    "torchaudio",
    "numpy",
    "scipy",
    "scikit-learn",
    "librosa",
    "essentia",
    "music21",
    "symusic",
    "tinysoundfont",
    "pretty_midi",
)


@functools.lru_cache(maxsize=1)
def code_hash() -> str:
    """SHA-256 over the library and the lock file; every run, table and figure names it.

    Left out are the runner, which affects results through the notebooks' parameters only, and what merely presents
    stored runs: a change there makes tables and figures anew, and trains nothing again.
    """
    left_out = [paths.LIBRARY / name for name in _NOT_IN_RUNS]
    parts = sorted(
        path
        for path in paths.LIBRARY.rglob("*")
        if path.suffix in {".py", ".toml", ".csv"} and not any(path.is_relative_to(place) for place in left_out)
    )
    return source_hash(*parts, paths.LOCK)


def notebook_hash(notebook: str) -> str:
    """SHA-256 over the source of a notebook's cells."""
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    return sha256_json(["".join(cell["source"]) for cell in read_json(path)["cells"]])


@functools.lru_cache(maxsize=1)
def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", paths.ROOT, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    if paths.BUNDLE.exists():  # a copy without git, or within somebody else's clone
        bundle = read_json(paths.BUNDLE)
        return {"commit": bundle["commit"], "dirty": bundle["dirty"] or code_hash() != bundle["code_hash"]}
    try:
        # Results do not make the code dirty.
        changed = git("status", "--porcelain", "--", ":!results", ":!figures")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}  # not a git clone, for instance an unpacked archive


@functools.lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Commit, code hash, package versions and machine: the part of the provenance that all runs share."""
    import torch

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {
        **_commit(),
        "code_hash": code_hash(),
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.system(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def set_by_hand() -> dict[str, list[str]]:
    """Notebook -> its parameters set by hand (-p) as "name = value", for the running one and all that it builds on.

    The runner says so in an environment variable; a notebook that runs without it has the profile's own values.
    """
    return json.loads(os.environ.get(paths.SET_BY_HAND) or "{}")


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
