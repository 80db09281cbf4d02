"""Files of Debian packages, on any Debian or Ubuntu, without root: apt-get download, then dpkg-deb -x.

Nothing is installed. apt takes the packages from wherever the machine's sources say, and verifies their signatures. Of
a package's files those that are asked for are kept, and its copyright file:

    <folder>/<package>/<paths of these files, below what they share>
    <folder>/<package>/copyright
    <folder>/<package>/package.json     name, version, architecture, homepage, size and sha256 of the .deb

The folder of a package appears when it is complete; after Ctrl-C, or a kill, the next call fetches what is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.hashing import sha256_file
from keymyna_lib.base.progress import bar

RECORD, COPYRIGHT = "package.json", "copyright"
TOOLS = ("apt-cache", "apt-get", "dpkg-deb")
_ONLINE = ("-o", "Acquire::Retries=3", "-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30")
_FACTS = {"Version": "version", "Architecture": "architecture", "Homepage": "homepage", "Size": "size"} | {
    "SHA256": "sha256"
}


def fetch_packages(
    packages: Sequence[str],
    folder: Path | str,
    keep: Callable[[Path], bool],
    *,
    offline: bool = False,
    show: bool = True,
) -> pd.DataFrame:
    """Fetch the packages that are missing, and keep some of their files.

    A package that this machine's release does not have, or that cannot be fetched, does not stop the others.

    Parameters
    ----------
    packages : names, or alternatives such as "wesnoth-1.18-music | wesnoth-1.16-music": the first that there is.
    folder : where a folder of each package is made.
    keep : whether a file is to be kept, by its path.
    offline : fetch nothing; what is missing has failed.
    show : draw a progress bar.

    Returns
    -------
    One row per entry of `packages`, in their order: path (the package, or the entry where none was found); state,
    "present" (it was there), "fetched" or "failed"; problem, empty or what went wrong.

    Raises
    ------
    KeyMynaError
        When something is missing and this machine lacks apt or dpkg, or its apt knows none of the packages; when an
        entry is no package name, the folder cannot be written to, or another process writes to it.
    """
    folder, rows = Path(folder), []
    wanted = {entry: _alternatives(entry) for entry in packages}
    there = {entry: next((name for name in names if is_there(folder / name)), "") for entry, names in wanted.items()}
    missing = [entry for entry in packages if not there[entry]]
    if not missing or offline:
        for entry in packages:
            problem = "" if there[entry] else "it is not there, and nothing is fetched offline"
            rows.append((there[entry] or entry, "failed" if problem else "present", problem))
        return _rows(rows)
    known = _known([name for entry in missing for name in wanted[entry]], folder)
    chosen = {entry: next((known[name] for name in wanted[entry] if name in known), None) for entry in missing}
    if not any(chosen.values()) and len(missing) == len(packages):
        raise KeyMynaError(
            f"apt knows none of the packages {', '.join(packages)}. Update its lists (sudo apt-get update); on Ubuntu, "
            "they are in the component universe."
        )
    total = sum(package["size"] for package in chosen.values() if package)
    with (
        files.locked(folder / ".fetch.lock"),
        bar(desc="packages", total=total, unit="B", unit_scale=True, show=show) as shown,
    ):
        for entry in packages:
            package = chosen.get(entry)
            if there[entry]:
                rows.append((there[entry], "present", ""))
            elif package is None:
                rows.append((entry, "failed", "apt knows no such package here (apt-get update renews its lists)"))
            else:
                shown.set_postfix_str(package["package"])
                problem = _fetch(package, folder, keep)
                rows.append((package["package"], "failed" if problem else "fetched", problem))
                shown.update(package["size"])
    return _rows(rows)


def is_there(folder: Path) -> bool:
    """Whether a package's folder is complete."""
    return (folder / RECORD).is_file()


def licences_below(folder: Path | str) -> pd.DataFrame:
    """The packages in a folder and their licences.

    Returns
    -------
    One row per package, sorted: package, version, files (how many were kept), licences (those that its copyright file
    names, for all its files; or that nobody but the file itself can say), homepage, sha256 (of the .deb).

    Raises
    ------
    KeyMynaError
        When a package's record cannot be read.
    """
    rows = []
    for record in sorted(Path(folder).glob(f"*/{RECORD}")):
        facts = files.read_json(record, f"Remove {record.parent} and fetch it again.")
        names = licences_in((record.parent / COPYRIGHT).read_text(encoding="utf-8", errors="replace"))
        rows.append(facts | {"licences": ", ".join(names) or "see its copyright file"})
    return pd.DataFrame(rows, columns=["package", "version", "files", "licences", "homepage", "sha256"])


def licences_in(text: str) -> list[str]:
    """Short names of the licences in a Debian copyright file, in order.

    In the machine-readable format (DEP-5), those of its fields License; else the texts in /usr/share/common-licenses
    that it points to, and "Creative Commons" where it has one of theirs.

    >>> licences_in("Format: https://www.debian.org/...\\n\\nFiles: *\\nLicense: GPL-2+\\n text\\n")
    ['GPL-2+']
    """
    machine_readable = re.search(r"^Format(-Specification)?:", text, re.MULTILINE | re.IGNORECASE)
    pattern = r"^License:[ \t]*(\S.*?)\s*$" if machine_readable else r"/usr/share/common-licenses/([\w.+-]*\w)"
    names = re.findall(pattern, text, re.MULTILINE | re.IGNORECASE)
    if not machine_readable and re.search("creative +commons", text, re.IGNORECASE):
        names.append("Creative Commons")
    return list(dict.fromkeys(names))


def _rows(rows: Sequence[tuple[str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["path", "state", "problem"])


def _alternatives(entry: str) -> list[str]:
    names = [name.strip() for name in entry.split("|")]
    for name in names:
        if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name):
            raise KeyMynaError(f"package {name!r}: expected the name of a Debian package, such as asc-music.")
    return names


def _run(*command: str, folder: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"LC_ALL": "C.UTF-8"},  # messages are read
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )


def _known(names: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """What apt knows of those packages that it can download, by name."""
    if lacking := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise KeyMynaError(
            f"packages are fetched with {', '.join(TOOLS)}, which Debian and Ubuntu have; here, {', '.join(lacking)} "
            f"cannot be found. Fetch {', '.join(names)} on such a machine, and bring the folder to {folder}."
        )
    found = {}
    for stanza in _run("apt-cache", "show", "--no-all-versions", *names).stdout.split("\n\n"):
        fields = dict(re.findall(r"^([\w-]+): (.*)$", stanza, re.MULTILINE))
        if {"Package", "Version", "Filename", "Size", "SHA256"} <= fields.keys():
            facts = {own: fields.get(name, "") for name, own in _FACTS.items()}
            found[fields["Package"]] = {"package": fields["Package"]} | facts | {"size": int(fields["Size"])}
    return {name: found[name] for name in names if name in found}


def _fetch(package: dict[str, Any], folder: Path, keep: Callable[[Path], bool]) -> str:
    """Download and unpack one package; what went wrong, or nothing."""
    work = folder / f".{package['package']}.partial"
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        work.mkdir(parents=True)
        done = _run("apt-get", *_ONLINE, "download", f"{package['package']}={package['version']}", folder=work)
        archives = list(work.glob("*.deb"))
        if done.returncode or len(archives) != 1:
            return f"apt-get download failed: {_last_line(done)} Run again; if that does not help, apt-get update."
        if (sha256 := sha256_file(archives[0])) != package["sha256"]:
            return f"its sha256 is {sha256} instead of {package['sha256']}. Run again."
        done = _run("dpkg-deb", "-x", str(archives[0]), str(work / "tree"))
        if done.returncode:
            return f"dpkg-deb cannot unpack it: {_last_line(done)}"
        return _settle(package, work, folder / package["package"], keep)
    except OSError as error:
        return f"{error.filename or work} cannot be written ({error.strerror})"
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _settle(package: dict[str, Any], work: Path, place: Path, keep: Callable[[Path], bool]) -> str:
    """Move the wanted files of an unpacked package, with its record, to their place."""
    tree, kept = work / "tree", work / "kept"
    wanted = [path for path in sorted(tree.rglob("*")) if path.is_file() and not path.is_symlink() and keep(path)]
    licence = tree / "usr/share/doc" / package["package"] / COPYRIGHT
    if not wanted:
        return "it has none of the files that are wanted"
    if not licence.is_file():
        return "it has no copyright file"
    top = Path(os.path.commonpath([path.parent for path in wanted]))
    for path in wanted:
        (target := kept / path.relative_to(top)).parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    licence.rename(kept / COPYRIGHT)
    files.write_json(kept / RECORD, package | {"files": len(wanted)})
    shutil.rmtree(place, ignore_errors=True)  # without a record: not a whole one
    kept.rename(place)
    return ""


def _last_line(done: subprocess.CompletedProcess) -> str:
    """The last error that a command wrote, or else its status."""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg-deb: error"))]
    return lines[-1].removeprefix("E: ").rstrip(".") + "." if lines else f"it ended with status {done.returncode}."
