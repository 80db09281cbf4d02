"""Hashes of bytes, files, values, source code and folders: what cache keys and run ids are made of."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from keymyna_lib.base import paths


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
    """SHA-256 over source files, each with its name; a folder stands for all .py, .toml and .csv below it."""
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


# What carries work without deciding what comes out: a new wording of an error message, or another
# range of a parameter, makes nothing anew.
_PLUMBING = frozenset(
    f"keymyna_lib.{name}"
    for name in (
        "base.checks",
        "base.errors",
        "base.files",
        "base.paths",
        "base.progress",
        "compute.checkpoints",
        "compute.cluster",
        "compute.executor",
        "compute.processes",
    )
)


@functools.cache
def code_hash_of(*modules: str) -> str:
    """SHA-256 over the code of some modules of this library and of all that they import of it, however indirectly.

    The part of a cache key that stands for the code. Imports inside functions count; imports for type checkers and
    modules that only carry work (files, progress bars, processes) do not, nor do comments, docstrings and layout.

    Parameters
    ----------
    modules : full names, for instance "keymyna_lib.heads"; `__name__` of the module that asks.
    """
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        if (name := todo.pop()) in found or name in _PLUMBING:
            continue
        found[name] = _source_of(name)
        todo += _imports_of(found[name])
    return sha256_json({name: _code_of(found[name]) for name in found})


def _code_of(source: Path) -> str:
    """A source file without comments, docstrings and layout."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    return _dump(tree)


def _dump(node: Any) -> str:
    """A syntax tree as text, the same by every version of Python: what is empty is left out, so that kinds of fields
    that a version adds to all nodes count only where they are used (`ast.dump` shows them)."""
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return f"{type(node).__name__}({', '.join(f'{name}={_dump(value)}' for name, value in fields)})"
    return f"[{', '.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def _source_of(module: str) -> Path:
    place = paths.LIBRARY.parent.joinpath(*module.split("."))
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _imports_of(source: Path) -> set[str]:
    """Modules of this library that a file imports."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for_type_checkers = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node in for_type_checkers:
            continue
        if (node.module or "").split(".")[0] == paths.LIBRARY.name:
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {name if _source_of(name).is_file() else node.module for name in names}
    return found


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
