"""Hashes and atomic writes: a file is either whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keymyna_lib.errors import KeyMynaError


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, on failure removed.

    Raises
    ------
    KeyMynaError
        When the disk is full or the folder cannot be written to.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes it private
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise KeyMynaError(
            f"cannot write {path}: {os.strerror(error.errno)}. Free some space or mend its "
            "permissions and run again; nothing was half-written."
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON atomically, keys sorted, one per line, so that diffs are readable."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Read JSON; a missing or damaged file is a KeyMynaError that names it."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KeyMynaError(f"{path} does not exist.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise KeyMynaError(f"{path} is damaged ({error}). Delete it and run again.") from None


def sha256_bytes(data: bytes | memoryview) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, independent of the order of its keys."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def source_hash(*paths: Path | str) -> str:
    """SHA-256 over source files, each with its name; a folder stands for all Python and TOML files below it."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        found = (
            [path]
            if path.is_file()
            else sorted(p for p in path.rglob("*") if p.suffix in {".py", ".toml", ".csv"} and p.is_file())
        )
        for file in found:
            digest.update(f"{file.name}\0{sha256_file(file)}\0".encode())
    return digest.hexdigest()


def listing_hash(path: Path | str) -> str:
    """SHA-256 over names, sizes and times of change of a file, or of all files below a folder: cheap, and enough to see
    that something was added, removed or replaced. Linked folders are entered, once each; hidden files do not count."""
    path, found, entered = Path(path), [], set()
    for place, folders, names in os.walk(path, followlinks=True):
        entered.add(os.path.realpath(place))
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(place, name)) not in entered
        )
        found += [Path(place, name) for name in names if not name.startswith(".")]
    digest = hashlib.sha256()
    for file in sorted(found) or [path]:
        if file.is_file():
            stat = file.stat()
            digest.update(os.fsencode(f"{file.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0"))
    return digest.hexdigest()


def stable_words(text: str) -> list[int]:
    """Four 32-bit words derived from a string, to seed a generator by name whatever the order of work."""
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
