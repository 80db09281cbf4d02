"""A stored table read back: its text, its caption, and the runs behind each cell."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json


@dataclass(frozen=True)
class StoredTable:
    """A table as `Stage.table` has stored it, every cell as text."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    made_by: str = ""  # the notebook
    traced: tuple[tuple[tuple[str, ...], ...], ...] = ()  # the ids of the runs behind each cell, row by row

    def records(self) -> Iterator[dict[str, str]]:
        """The rows as column -> text."""
        for row in self.rows:
            yield dict(zip(self.columns, row))


def parse(name: str, csv_text: str, markdown: str = "", trace: str = "") -> StoredTable:
    """A table from the text of its three files.

    Raises
    ------
    KeyMynaError
        When the CSV has no header, or a row of another length; names the table.
    """
    lines = list(csv.reader(io.StringIO(csv_text)))
    if not lines or any(len(line) != len(lines[0]) for line in lines):
        raise KeyMynaError(f"table {name} is damaged: not every row has as many cells as its header. Make it anew.")
    columns, rows = tuple(lines[0]), tuple(map(tuple, lines[1:]))
    origin = json.loads(trace) if trace else {}
    return StoredTable(
        name,
        columns,
        rows,
        caption=markdown.partition("\n\n|")[0].strip(),
        made_by=origin.get("made_by", ""),
        traced=_traced(columns, rows, origin.get("cells", {})),
    )


def _traced(
    columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], cells: dict[str, list[str]]
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """A trace names a cell "row labels joined by ', ' / column"; how many columns are labels is what finds most."""

    def found(n_labels: int) -> tuple[tuple[tuple[str, ...], ...], ...]:
        return tuple(
            tuple(tuple(cells.get(f"{', '.join(row[:n_labels])} / {column}", ())) for column in columns) for row in rows
        )

    tried = [found(n_labels) for n_labels in range(1, len(columns) + 1)] or [()]
    return max(tried, key=lambda table: sum(bool(cell) for row in table for cell in row))


def read(folder: Path, name: str) -> StoredTable:
    """A table of a folder of tables.

    Raises
    ------
    KeyMynaError
        When it is absent or damaged; names the file.
    """
    path = folder / f"{name}.csv"
    try:
        texts = [path.read_text(encoding="utf-8")]
    except (OSError, UnicodeDecodeError) as error:
        raise KeyMynaError(f"{path} cannot be read ({error}). Run its notebook again.") from None
    for suffix in ("md", "trace.json"):
        other = folder / f"{name}.{suffix}"
        texts.append(other.read_text(encoding="utf-8") if other.exists() else "")
    try:
        return parse(name, *texts)
    except ValueError as error:
        raise KeyMynaError(f"{folder / name}.trace.json is damaged ({error}). Run its notebook again.") from None


def read_all(folder: Path) -> dict[str, StoredTable]:
    """The tables of a folder by name; none where there is no such folder."""
    return {path.stem: read(folder, path.stem) for path in sorted(folder.glob("*.csv"))}


def json_or_nothing(path: Path) -> dict:
    """A JSON object; empty where it is absent or damaged."""
    with contextlib.suppress(KeyMynaError):
        return read_json(path)
    return {}
