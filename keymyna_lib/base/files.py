"""Atomic writes: a file is either whole or absent."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
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


def read_json(path: Path | str, remedy: str = "Put the right file in its place.") -> dict[str, Any]:
    """Read a JSON object.

    Parameters
    ----------
    remedy : what to do when it cannot be read, as a sentence.

    Raises
    ------
    KeyMynaError
        When the file is absent, unreadable, or holds no JSON object; names it.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise KeyMynaError(f"{path} does not exist.") from None
    except OSError as error:
        raise KeyMynaError(f"{path} cannot be read ({error.strerror}). {remedy}") from None
    except (ValueError, RecursionError) as error:  # JSON's and UTF-8's errors are ValueErrors
        raise KeyMynaError(f"{path} is damaged, or is not JSON ({error}). {remedy}") from None
    if not isinstance(value, dict):
        raise KeyMynaError(f"{path} holds a {type(value).__name__}; expected a JSON object. {remedy}")
    return value


def discard(path: Path | str) -> None:
    """Remove what lies at a path of this library's cache, whatever it is, so that it can be made again."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other processes out of the folder of the lock file.

    Raises
    ------
    KeyMynaError
        When another process is writing there, or the folder cannot be written to.
    """
    import filelock

    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(filelock.FileLock(path, timeout=0))
        except filelock.Timeout:
            raise KeyMynaError(f"another process is writing to {path.parent}. Wait for it, or stop it.") from None
        except OSError as error:
            raise KeyMynaError(
                f"cannot write to {path.parent}: {error.strerror}. Correct its permissions, or choose another folder."
            ) from error
        yield
