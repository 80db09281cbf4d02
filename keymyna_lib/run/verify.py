"""Whether the tables made on this machine agree with the committed ones: cell by cell, verdict by verdict.

Another machine rounds differently, and training carries that on: what learns nothing, and linear heads, moved by a
tenth of a point between the machines tried, wide MLPs by up to one. What is allowed for is stated in `RULE`.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report.intervals import NOT_RUN, UNDECIDED
from keymyna_lib.run import findings, page, pipeline, stored
from keymyna_lib.run.project import Project
from keymyna_lib.run.stored import StoredTable

# Our choices. Points of a score times 100; a hundredth of that where a value is written with two decimals or more.
QUARTER, LEAST, MOST = 0.25, 1.0, 2.0  # of the width of a committed interval; points
ALPHA = 0.05
RULE = (
    "Counts, names and quoted numbers have to be the same. A measured value may differ by a quarter of the width of "
    "its committed interval, but by 1 point at least and 2 at most, or 2 if it has none (a hundredth of that where it "
    "is written with two decimals), and by one unit of its last digit for rounding; the ends of an interval by twice "
    "that; arithmetic (TFLOP) by one unit. A verdict, also that of a difference with its interval, has to be the same, "
    "or is a close call: decided on one machine, undecided on the other, its numbers within tolerance and an end of "
    "its interval as near to zero as that tolerance. p-values have to lie on the same side of 0.05. Timings are not "
    "compared."
)
SAME, WITHIN, CLOSE, DIFFERS, TIMING = "the same", "within tolerance", "close calls", "differ", "timings"
_TIMED_NOTEBOOK = "70_speed"
_TIMED = re.compile(r"\b(seconds|minutes|duration|elapsed|speed|throughput|memory)\b|\[s\]|/s\b")
_COUNTS = {"tracks", "compositions", "minor tracks", "hours", "pieces", "seeds", "steps", "labels", "rounds"}
_NUMBER = r"[-+−]?\d+(?:\.\d+)?"
_INTERVAL = re.compile(rf"({_NUMBER}) \[({_NUMBER}), ({_NUMBER})\]")
_P = re.compile(r", p (?:< )?([\d.]+)$")
_SHOWN = 30  # notes that are printed; the file has all


class Cell(NamedTuple):
    """How a cell compares, and what to say of it where somebody should look."""

    outcome: str
    note: str = ""


@dataclass
class Comparison:
    """How a table compares: cells by outcome, and a note on each that is a close call or differs."""

    table: str
    cells: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    absent: str = ""  # why it was not compared

    @property
    def status(self) -> str:
        """In a word or two."""
        if self.absent:
            return self.absent
        if self.cells[DIFFERS]:
            return "differs"
        if set(self.cells) == {TIMING}:
            return "timings"
        return "agrees" if self.cells[WITHIN] or self.cells[CLOSE] else "the same"

    def count(self, where: str, cell: Cell) -> None:
        """Add a cell."""
        self.cells[cell.outcome] += 1
        if cell.note:
            label = "close call" if cell.outcome == CLOSE else "differs"
            self.notes.append(f"{label}: {self.table}: {where}: {cell.note}")


@dataclass(frozen=True)
class Verification:
    """All tables of a profile compared with `reference`: a commit, or a folder."""

    reference: str
    tables: list[Comparison]

    @property
    def cells(self) -> Counter[str]:
        """Cells of all tables by outcome."""
        return sum((table.cells for table in self.tables), Counter())

    @property
    def agrees(self) -> bool:
        """Whether something was compared and nothing differs."""
        return not self.cells[DIFFERS] and any(self.cells[each] for each in (SAME, WITHIN, CLOSE))

    @property
    def notes(self) -> list[str]:
        """What to look at: first what differs, then the close calls."""
        return sorted((note for table in self.tables for note in table.notes), key=lambda note: note[0] != "d")

    @property
    def summary(self) -> str:
        """One or two sentences."""
        cells = self.cells
        agree = sum(cells[each] for each in (SAME, WITHIN, CLOSE))
        left_out = sum(bool(table.absent) for table in self.tables)
        parts = [f"{cells[each]} {each}" for each in (SAME, WITHIN, CLOSE) if cells[each]]
        return (
            f"{'Verified' if self.agrees else 'Not verified'}: {agree} of {agree + cells[DIFFERS]} cells agree with "
            f"{self.reference} ({', '.join(parts) or 'none'})."
            + (f" {cells[TIMING]} timings are not compared." if cells[TIMING] else "")
            + (f" {left_out} tables were not made here." if left_out else "")
        )


def verify(project: Project, profile: str, against: Path | None = None) -> Verification:
    """Compare the tables that were made on this machine with those of the last commit, or of a folder.

    Raises
    ------
    KeyMynaError
        When there is nothing to compare with, or a table is damaged.
    """
    if against is not None:
        reference, there = str(against), stored.read_all(against)
    else:
        reference, there = _committed(project.root, profile)
    if not there:
        raise KeyMynaError(f"{reference} has no tables of profile {profile}. Name a folder of tables: --verify DIR.")
    here = stored.read_all(project.made / "results" / profile / "tables")
    made = {name for name in here if _made_here(project, profile, here[name])}
    ran = {name for name in pipeline.load_notebooks(project) if project.state(profile, name).exists()}
    compared = []
    for name in sorted(here.keys() | there.keys()):
        if name in made or (name not in here and there[name].made_by in ran):
            compared.append(compare(name, here.get(name), there.get(name)))
        else:
            compared.append(Comparison(name, absent="not run here"))
    return Verification(reference, compared)


def _committed(root: Path, profile: str) -> tuple[str, dict[str, StoredTable]]:
    """The last commit's name and its tables."""
    folder = f"results/{profile}/tables"

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "-C", root, *arguments], capture_output=True, check=True).stdout

    try:
        commit = git("rev-parse", "--short=10", "HEAD").decode().strip()
        if not git("ls-tree", "HEAD", folder):
            return f"commit {commit}", {}
        archive = git("archive", "--format=tar", "HEAD", folder)
    except (OSError, subprocess.CalledProcessError):
        raise KeyMynaError("this is no git clone: name a folder of tables to compare with, --verify DIR.") from None
    texts: dict[str, str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        for member in packed:
            if member.isfile():
                texts[PurePosixPath(member.name).name] = packed.extractfile(member).read().decode("utf-8")
    names = [name.removesuffix(".csv") for name in texts if name.endswith(".csv")]
    return f"commit {commit}", {
        name: stored.parse(name, texts[f"{name}.csv"], texts.get(f"{name}.md", ""), texts.get(f"{name}.trace.json", ""))
        for name in names
    }


def _made_here(project: Project, profile: str, table: StoredTable) -> bool:
    """Whether the runner noted this very file as made by its notebook on this machine; a committed copy is not."""
    path = project.made / "results" / profile / "tables" / f"{table.name}.csv"
    noted = stored.json_or_nothing(project.state(profile, table.made_by)).get("files", {})
    return noted.get(project.named(path)) == pipeline.mark_of(path)


def compare(name: str, here: StoredTable | None, there: StoredTable | None) -> Comparison:
    """Compare a table made here with the committed one; None stands for a table that is not there."""
    found = Comparison(name)
    if here is None or there is None:
        found.count(
            "the table", Cell(DIFFERS, "is missing here" if here is None else "is new: nothing to compare with")
        )
        return found
    timed = there.made_by == _TIMED_NOTEBOOK
    for column in there.columns:
        if column not in here.columns:
            found.count("columns", Cell(DIFFERS, f"{column!r} is missing here"))
    for column in here.columns:
        if column not in there.columns:
            found.count("columns", Cell(DIFFERS, f"{column!r} is new"))
    n_labels = _labels(there)
    ours, theirs = _rows(here, n_labels), _rows(there, n_labels)
    for key in theirs:
        if key not in ours:
            found.count("rows", Cell(DIFFERS, f"{', '.join(key[:-1])} is missing here"))
    for key in ours:
        if key not in theirs:
            found.count("rows", Cell(DIFFERS, f"{', '.join(key[:-1])} is new"))
    for key, (row, traced) in theirs.items():
        if key not in ours:
            continue
        other, _ = ours[key]
        close = any(_close(other[column], row[column]) for column in row if column in other)
        for column, text in row.items():
            if column not in other:
                continue
            if timed or _TIMED.search(column):
                found.count("", Cell(TIMING))
                continue
            cell = _compare_cell(column, other[column], text, measured=traced[column], close=close)
            found.count(f"{', '.join(key[:-1])} / {column}", cell)
    return found


def _labels(table: StoredTable) -> int:
    """How many columns, from the left, tell the rows apart."""
    for n_labels in range(1, len(table.columns)):
        if len({row[:n_labels] for row in table.rows}) == len(table.rows):
            return n_labels
    return len(table.columns)


def _rows(table: StoredTable, n_labels: int) -> dict[tuple[str, ...], tuple[dict[str, str], dict[str, bool]]]:
    """Row labels and the how-many-eth of that name -> (column -> text, column -> whether a run is behind it)."""
    found: dict[tuple[str, ...], tuple[dict[str, str], dict[str, bool]]] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    for row, traced in zip(table.rows, table.traced, strict=True):
        labels = row[:n_labels]
        cells = dict(zip(table.columns, row)), dict(zip(table.columns, map(bool, traced)))
        found[(*labels, str(seen[labels]))] = cells
        seen[labels] += 1
    return found


def _compare_cell(column: str, here: str, there: str, *, measured: bool, close: bool) -> Cell:
    """One cell; `close` says that the row's difference is a close call."""
    if here == there:
        return Cell(SAME)
    told = f"{there or 'empty'} committed, {here or 'empty'} here"
    if NOT_RUN in (here, there) or not (here and there):
        return Cell(DIFFERS, told)
    if column == "verdict":
        one_undecided = UNDECIDED in map(findings.answer, (here, there))
        return Cell(CLOSE, told) if close and one_undecided else Cell(DIFFERS, told)
    if column in _COUNTS or not measured:
        return Cell(DIFFERS, told)
    if column == "p":
        if (float(here) < ALPHA) == (float(there) < ALPHA):
            return Cell(WITHIN)
        return Cell(CLOSE, told) if close else Cell(DIFFERS, told)
    if not _agree(column, here, there):
        return Cell(DIFFERS, told)
    if _sign(here) == _sign(there):
        return Cell(WITHIN)
    return Cell(CLOSE, told) if _close(here, there) else Cell(DIFFERS, told)


def _agree(column: str, here: str, there: str) -> bool:
    """Whether two cells have the same words and their numbers lie within tolerance."""
    here, there = _P.sub("", here), _P.sub("", there)
    if re.sub(_NUMBER, "#", here) != re.sub(_NUMBER, "#", there):
        return False
    allowed: list[float] = []
    position = 0
    for interval in _INTERVAL.finditer(there):
        allowed += [_most(text) + _unit(text) for text in re.findall(_NUMBER, there[position : interval.start()])]
        allowed += _tolerances(interval)
        position = interval.end()
    allowed += [_most(text) + _unit(text) for text in re.findall(_NUMBER, there[position:])]
    if column == "TFLOP":
        allowed = [_unit(text) for text in re.findall(_NUMBER, there)]
    pairs = zip(re.findall(_NUMBER, here), re.findall(_NUMBER, there), allowed, strict=True)
    return all(abs(_value(a) - _value(b)) <= limit + 1e-9 for a, b, limit in pairs)


def _tolerances(interval: re.Match[str]) -> tuple[float, float, float]:
    """For a value and the two ends of its interval."""
    value, low, high = interval.groups()
    most = _most(value)
    tolerance = min(max(QUARTER * (_value(high) - _value(low)), most * LEAST / MOST), most) + _unit(value)
    return tolerance, 2 * tolerance, 2 * tolerance


def _value(text: str) -> float:
    return float(text.replace("−", "-"))


def _unit(text: str) -> float:
    """One unit of the last digit."""
    return 10.0 ** -len(text.partition(".")[2])


def _most(text: str) -> float:
    return MOST if _unit(text) > 0.05 else MOST / 100


def _difference(text: str) -> re.Match[str] | None:
    """A difference with its interval, which is written with signs throughout; None if the cell has none."""
    found = _INTERVAL.search(text)
    return found if found and all(number[0] in "+-−" for number in found.groups()) else None


def _sign(text: str) -> int:
    """What a difference says, as the tables conclude: 1, -1, or 0 where it is undecided or the cell has none."""
    found, p = _difference(text), _P.search(text)
    if not found or (p and float(p[1]) >= ALPHA):
        return 0
    _, low, high = map(_value, found.groups())
    return int(low > 0) - int(high < 0)


def _close(here: str, there: str) -> bool:
    """Whether two cells hold the same difference, so near to zero that another machine may decide it otherwise."""
    differences = _difference(here), _difference(there)
    if not all(differences) or not _agree("", here, there) or _sign(here) * _sign(there) < 0:
        return False
    limit = _tolerances(differences[1])[1]
    return any(min(abs(_value(found[2])), abs(_value(found[3]))) <= limit for found in differences)


COLUMNS = ("table", "cells", SAME, WITHIN, CLOSE, DIFFERS, TIMING, "status")


def rows(found: Verification) -> list[list[str]]:
    """A line for each table, under `COLUMNS`."""
    return [
        [
            table.table,
            str(table.cells.total()),
            *(str(table.cells[each]) for each in (SAME, WITHIN, CLOSE, DIFFERS, TIMING)),
            table.status,
        ]
        for table in found.tables
    ]


def text(found: Verification, most_notes: int = _SHOWN) -> str:
    """The verification as Markdown that can be pasted: its table, the cells to look at, the rule and the summary."""
    lines = [list(COLUMNS), *rows(found)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(COLUMNS))]
    shown = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    shown.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    listed = [f"- {note}" for note in found.notes[:most_notes]]
    if len(found.notes) > most_notes:
        listed.append(f"- and {len(found.notes) - most_notes} more")
    return "\n".join([*shown, "", *listed, *([""] if listed else []), RULE, "", found.summary])


def write(project: Project, profile: str, found: Verification) -> Path:
    """Write the verification beside the report, as Markdown and, for the report, as JSON; returns the first."""
    results = project.made / "results" / profile
    files.write_json(
        results / page.VERIFICATION,
        {
            "summary": found.summary,
            "rule": RULE,
            "columns": list(COLUMNS),
            "rows": rows(found),
            "notes": found.notes,
            "tables_digest": page.tables_digest(results),
        },
    )
    path = (results / page.VERIFICATION).with_suffix(".md")
    files.write_text(path, text(found, most_notes=10**6) + "\n")
    return path
