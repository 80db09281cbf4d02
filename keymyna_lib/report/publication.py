"""What a notebook publishes, put in place as a whole: its tables, figures and findings, and the index that names them.

All of it lies below one root: the folder `local` of the clone, or the clone itself when `--publish` replaces what is
committed. Until a notebook is done, they lie in a staging folder, each under its path below the root, and what was
published before stays as it is. Publishing is a single rename, which turns the staging folder, by then with the new
index in it, into a journal. The journal is then worked off: what is no longer made is removed, the new files are
moved into place, the index last. Every step can be repeated, so a journal that a kill leaves behind is completed by
whoever comes next: the runner and every `Stage` begin with `complete`.

    results/<profile>/.staged/<notebook>-<process>/   being made
    results/<profile>/.publishing/<notebook>/         the journal: published, and being moved into place

A notebook may run in two processes at once, the runner and a person: each stages for itself, and publishing is locked.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock
import psutil

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json, write_json
from keymyna_lib.base.hashing import sha256_json

_INDEX = "index.json"
_FILES = "files"
_CHECKSUM = "checksum"


class Staging:
    """The staging folder of a notebook, empty when opened.

    Parameters
    ----------
    root : the folder that has results/ and figures/.
    profile, notebook : whose folder it is.
    """

    def __init__(self, root: Path, profile: str, notebook: str):
        complete(root, profile)
        self._root, self._profile, self._notebook = root, profile, notebook
        self._folder = root / "results" / profile / ".staged" / f"{notebook}-{os.getpid()}"
        for folder in self._folder.parent.glob("*-*"):  # of notebooks that were never done
            process = int(folder.name.rpartition("-")[2])
            if folder == self._folder or not psutil.pid_exists(process):
                shutil.rmtree(folder, ignore_errors=True)
        self._folder.mkdir(parents=True)

    def path(self, final: Path) -> Path:
        """Where to write a file that is to lie at `final` once it is published.

        Raises
        ------
        KeyMynaError
            When the notebook is done already.
        """
        self._expect_open()
        return self._folder / _FILES / final.relative_to(self._root)

    def sizes(self) -> dict[str, int]:
        """The staged files by their path below the root, with their sizes [bytes]."""
        return {name: path.stat().st_size for name, path in _files(self._folder).items()}

    def publish(self, index: Mapping[str, Any]) -> None:
        """Publish what was staged, with an index whose "files" name it.

        Raises
        ------
        KeyMynaError
            As `path` and `complete`.
        """
        self._expect_open()
        write_index(self._folder / _INDEX, index)
        journal = self._folder.parents[1] / ".publishing" / self._notebook
        journal.parent.mkdir(exist_ok=True)
        with _publishing(self._root, self._profile):
            _complete(self._root, self._profile)
            os.rename(self._folder, journal)
            _complete(self._root, self._profile)

    def _expect_open(self) -> None:
        if not self._folder.exists():
            raise KeyMynaError(f"notebook {self._notebook} is done: run it again from its first cell.")


def write_index(path: Path, index: Mapping[str, Any]) -> None:
    """Write the index of a notebook, with a checksum of it."""
    write_json(path, {**index, _CHECKSUM: sha256_json(index)})


def read_index(path: Path) -> dict[str, Any]:
    """The index of a notebook: its "runs", "outputs" and "files".

    Raises
    ------
    KeyMynaError
        When it is absent, damaged, or no index.
    """
    remedy = "./run_all.sh makes it anew."
    index = read_json(path, remedy)
    checksum = index.pop(_CHECKSUM, None)  # an index of an earlier version has none
    whole = all(
        isinstance(index.get(entry), kind) for entry, kind in (("runs", list), ("outputs", dict), (_FILES, dict))
    )
    if not whole or checksum not in (None, sha256_json(index)):
        raise KeyMynaError(f"{path} is damaged. {remedy}")
    return index


def _index_or_nothing(path: Path) -> dict[str, Any]:
    """An index; empty where it is absent or damaged."""
    try:
        return read_index(path)
    except KeyMynaError:
        return {}


def _files(folder: Path) -> dict[str, Path]:
    """The files of a staging folder or journal, by their path below the root."""
    found = sorted(path for path in (folder / _FILES).rglob("*") if path.is_file())
    return {path.relative_to(folder / _FILES).as_posix(): path for path in found}


def complete(root: Path, profile: str) -> None:
    """Move into place whatever notebooks of a profile have published; nothing to do unless one was killed meanwhile.

    Raises
    ------
    KeyMynaError
        When a file cannot be moved; the journal stays, and the next call tries again.
    """
    with _publishing(root, profile):
        _complete(root, profile)


def _publishing(root: Path, profile: str) -> filelock.BaseFileLock:
    """Held while files are moved into place, by one process at a time."""
    results = root / "results" / profile
    results.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(results / ".publishing.lock")


def _complete(root: Path, profile: str) -> None:
    results = root / "results" / profile
    for journal in sorted((results / ".publishing").glob("*")):
        index = results / "index" / f"{journal.name}.json"
        # Without an index, or with a damaged one, only the journal itself is left to remove; its notebook runs again.
        if published := _index_or_nothing(journal / _INDEX):
            before = _index_or_nothing(index).get("files", {})
            shown = (f"results/{profile}/tables/", f"results/{profile}/findings/", f"figures/{profile}/")
            for name in set(before) - set(published["files"]):
                if name.startswith(shown):
                    (root / name).unlink(missing_ok=True)
            for name, path in _files(journal).items():
                _move(path, root / name)
            _move(journal / _INDEX, index)
        shutil.rmtree(journal)


def _move(path: Path, final: Path) -> None:
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, final)
    except OSError as error:
        raise KeyMynaError(
            f"cannot write {final}: {os.strerror(error.errno or 0)}. Correct its permissions and run again; publishing "
            "resumes there."
        ) from error
