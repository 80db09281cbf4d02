"""Atomic writes: a file is either whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keymyna_lib.base.errors import KeyMynaError


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
        # tempfile would make it private, and only os.umask, which threads share, could tell what to undo.
        unused = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        unused.touch(exist_ok=False)
        temporary = unused
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise KeyMynaError(
            f"cannot write {path}: {os.strerror(error.errno)}. Free some space or correct its "
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
