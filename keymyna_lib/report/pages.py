"""What README and docs quote from the committed results: filled in from there, and checked.

A page marks what it quotes by two comments, and `keymyna docs` writes what stands between them:

    <!--= mini/table1 / chroma, linear probe / 48 labels / value -->81.3<!--/-->    one cell, or a part of it
    <!--= mini/table1 -->                                                           a whole table, on lines of its own
    <!--/-->

The first comment names a table, a row by its labels, a column and a format. In row and column, `*` stands for anything.
The format is `value`, the first number of the cell as it is written there; `interval`, that and its interval; `answer`,
a verdict, or what a difference says by its interval and adjusted p, as yes, no or undecided; or a format specification
of Python for the number (".0f"). Without a format, all of the cell is shown.

Tables are `PROFILE/NAME` for results/PROFILE/tables/NAME.csv; `PROFILE/minutes`, how long each notebook took, their
`total`, and the `run` as a whole; `PROFILE/reading`, as a whole only, the list of notebooks with links; `gpu`, the
measurements of results/gpu.json; `model`, the card of the package's model, its shares in points; and `PROFILE/record`
and `gpu/record`, whose row `record` says which commit ran on which machine. What is not there yet is "not run".
"""

from __future__ import annotations

import csv
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json, write_text
from keymyna_lib.report.intervals import NOT_RUN, UNDECIDED, with_interval

Rows = list[dict[str, str]]  # of a table: column -> cell, the labels first

ANSWERS = {  # verdicts of all tables, earlier versions' included
    **dict.fromkeys(["better", "holds"], "yes"),
    **dict.fromkeys(["worse", "does not", "the opposite holds"], "no"),
    **dict.fromkeys([UNDECIDED, "cannot be told"], UNDECIDED),
    "not tested": NOT_RUN,
}
_MARK = re.compile(r"<!--= (?P<what>.*?) -->(?P<shown>.*?)<!--/-->", re.DOTALL)
NUMBER = r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
LEVEL = 0.05  # of adjusted p, as in the verdicts of the tables
DIFFERENCE = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\](?:, p (?:< )?([\d.]+))?")
_WITH_INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
# What only a measurement can say: an interval, a signed or a decimal number, a rate, a ratio, a duration. Sizes of
# windows, frequencies and numbers of versions and licences are no results.
_RESULT = re.compile(
    r"\d \[[+-]?\d"
    r"|(?<![\w.])[+−-]\d+\.\d"
    r"|(?<![\w.,:/])\d{1,3}\.\d+\b(?! (?:s|Hz|kHz|GB|MB|M)\b)"
    r"|\b\d[\d,]*(?:\.\d+)?(?: x [a-z]| (?:ms|points?|minutes?|hours?|examples|windows per|[a-z]+ (?:per|a) second)\b)"
)
_NO_PROSE = re.compile(r"^```.*?^```$|<!--.*?-->|`[^`\n]*`|\]\([^)]*\)|CC BY(?:-SA)? \d\.\d", re.DOTALL | re.MULTILINE)


def pages(root: Path) -> list[Path]:
    """The pages of a clone that may quote results; docs/reliability.md is made as a whole from its own record."""
    docs = sorted(path for path in (root / "docs").glob("*.md") if path.name != "reliability.md")
    return [root / "README.md", root / "CONTRIBUTING.md", root / "notebooks" / "README.md", *docs]


def rewrite(root: Path) -> list[Path]:
    """Write the current results into all pages, and say which ones changed.

    Raises
    ------
    KeyMynaError
        When a mark names nothing, or a number looks like a result and has no mark; all of them are listed, and nothing
        is written.
    """
    new, wrong = {}, []
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        try:
            new[page] = filled(text, page, root)
        except KeyMynaError as error:
            wrong.append(str(error))
        wrong += [f"{page.relative_to(root)}: {found!r} looks like a result: mark it." for found in unmarked(text)]
    if wrong:
        raise KeyMynaError("\n".join(wrong))
    changed = [page for page, text in new.items() if text != page.read_text(encoding="utf-8")]
    for page in changed:
        write_text(page, new[page])
    return changed


def filled(text: str, page: Path, root: Path) -> str:
    """The text of a page with everything that it marks as the results in `root` have it.

    Raises
    ------
    KeyMynaError
        When a mark is not closed, begins a line (Markdown then takes the line for HTML), or names nothing.
    """
    wrong, tables = [], {}

    def quote(match: re.Match[str]) -> str:
        what = match["what"]
        table, *place = what.split(" / ")
        try:
            if not place:
                shown = f"\n{_as_markdown(root, table, page)}\n"
            else:
                if match.string[: match.start()].endswith(("\n", "\n- ")):
                    raise KeyMynaError("a mark within a text cannot begin its line.")
                if table not in tables:
                    tables[table] = _rows(root, table)
                shown = cell_of(tables[table], *place)
        except (KeyMynaError, KeyError, TypeError, ValueError) as error:
            wrong.append(f"{page.relative_to(root)}: {what}: {error}")
            return match[0]
        return f"<!--= {what} -->{shown}<!--/-->"

    new = _MARK.sub(quote, text)
    if len(_MARK.findall(text)) != text.count("<!--=") or len(_MARK.findall(text)) != text.count("<!--/-->"):
        wrong.append(f"{page.relative_to(root)}: a mark is not closed: <!--= ... --> and <!--/--> come in pairs.")
    if wrong:
        raise KeyMynaError("\n".join(wrong))
    return new


def unmarked(text: str) -> list[str]:
    """Numbers of a page that look like results and are not marked, with what stands around them."""
    prose = _NO_PROSE.sub("", _MARK.sub("", text))
    return [prose[max(0, m.start() - 20) : m.end() + 10].replace("\n", " ") for m in _RESULT.finditer(prose)]


def cell_of(rows: Rows | None, row: str, column: str, shown: str = "") -> str:
    """The text that a mark shows: of the table's rows, the one named so, its column named so, in a format.

    Raises
    ------
    KeyMynaError
        When not exactly one row and one column are named so, or the cell has no such number.
    """
    if rows is None:
        return NOT_RUN
    found = named(rows, row)
    columns = [name for name in found if _fits(column, name)]
    if len(columns) != 1:
        raise KeyMynaError(f"{len(columns)} columns are named so, of {', '.join(found)}.")
    cell = found[columns[0]]
    if not cell or cell.startswith(NOT_RUN):
        return NOT_RUN
    if not shown:
        return cell
    if shown == "answer":
        return ANSWERS[cell] if cell in ANSWERS else ("yes", "no", UNDECIDED)[sign_of(cell)]
    match = (_WITH_INTERVAL if shown == "interval" else re.compile(NUMBER)).search(cell)
    if match is None:
        raise KeyMynaError(f"there is no {'interval' if shown == 'interval' else 'number'} in {cell!r}.")
    return match[0] if shown in ("value", "interval") else format(float(match[0].replace(",", "")), shown)


def sign_of(cell: str, verdict: str = "") -> int:
    """0 where a difference is above 0 (or its verdict is "yes"), 1 where it is below, 2 where it may be either.

    Parameters
    ----------
    verdict : of the row, if it has one: it may be stricter than the interval.

    Raises
    ------
    KeyMynaError
        When the cell has neither an interval nor a verdict.
    """
    match = DIFFERENCE.search(cell)
    said = {"yes": 0, "no": 1}.get(ANSWERS.get(cell if match is None else verdict, ""), 2)
    if match is None:
        if cell not in ANSWERS:
            raise KeyMynaError(f"there is neither an interval nor a verdict in {cell!r}.")
        return said
    _, low, high, p = match.groups()
    found = 0 if float(low) > 0 else 1 if float(high) < 0 else 2
    decided = (p is None or float(p) < LEVEL) and (not verdict or said == found)
    return found if decided else 2


def named(rows: Rows, name: str) -> Mapping[str, str]:
    """The one row that is named so.

    Raises
    ------
    KeyMynaError
        When there is none, or several.
    """
    found = [cells for cells in rows if _is_named(cells, name)]
    if len(found) != 1:
        raise KeyMynaError(f"{len(found)} rows are named so.")
    return found[0]


def _is_named(cells: Mapping[str, str], row: str) -> bool:
    """Whether the first cells of a row, however many of them, are its name."""
    values = list(cells.values())
    return any(_fits(row, ", ".join(values[:n])) for n in range(1, len(values)))


def _fits(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text) is not None


def _as_markdown(root: Path, name: str, page: Path) -> str:
    profile, _, table = name.partition("/")
    if table == "reading":
        return _reading(root, profile, page)
    if profile == "model":  # without validation, on which the model was chosen
        return _markdown([row for row in _rows(root, profile) or [] if not row["set"].startswith("valid: ")])
    path = root / "results" / profile / "tables" / f"{table}.md"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else NOT_RUN


def _markdown(rows: Rows) -> str:
    if not rows:
        return NOT_RUN
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _rows(root: Path, name: str) -> Rows | None:
    """The rows of a table by its name in a mark; None where it was not made yet."""
    profile, _, table = name.partition("/")
    if name == "gpu":
        return _of_gpu(root / "results" / "gpu.json")
    if name == "gpu/record":
        return _record_of_gpu(root / "results" / "gpu.json")
    if name == "model":
        return _of_model(root / "keymyna_lib" / "models" / "default.json")
    if table == "minutes":
        return _minutes(root, profile)
    if table == "record":
        return _record(root, profile)
    path = root / "results" / profile / "tables" / f"{table}.csv"
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _of_gpu(path: Path) -> Rows | None:
    """The measurements of `keymyna bench --gpu`."""
    if not path.is_file():
        return None
    shown = ("case", "system", "quantity", "median", "unit")
    return [{name: str(one[name] or "") for name in shown} for one in read_json(path)["measurements"]]


def _record_of_gpu(path: Path) -> Rows | None:
    if not path.is_file():
        return None
    found = read_json(path)
    checks = [one["passed"] for one in found["checks"]]
    facts = {"commit": found["commit"][:7], "device": found["machine"]["gpu"], "passed": f"{sum(checks)}/{len(checks)}"}
    return [{"record": "record", **facts}]


def _record(root: Path, profile: str) -> Rows | None:
    """Commits and machines of the runs behind a profile's tables, those made on request left out."""
    commits, devices = {}, {}  # as ordered sets
    for name, entry in described(root).items():
        index = root / "results" / profile / "index" / f"{name}.json"
        if entry.get("on_request") or not index.is_file():
            continue
        for run in read_json(index)["runs"]:
            made = read_json(root / "results" / profile / "runs" / run / "provenance.json")
            commits[made["commit"][:7]] = devices[f"{made['device']}, {made['threads']} threads"] = None
    if not commits:
        return None
    return [{"record": "record", "commit": ", ".join(commits), "device": "; ".join(devices)}]


def _of_model(path: Path) -> Rows | None:
    """The card that `recipe.write_card` wrote, all its shares in points."""
    if not path.is_file():
        return None
    rows = []
    for one in read_json(path)["scores"]:
        spread = None if one["low"] is None else with_interval(one["value"], one["low"], one["high"])
        value = None if one["value"] is None else f"{100 * one['value']:.1f}"
        row = {"set": one["set"], "measure": one["measure"], "points": spread or value, "tracks": one["tracks"]}
        rows.append({name: "" if cell is None else str(cell) for name, cell in row.items()})
    return rows


def described(root: Path) -> dict[str, dict[str, Any]]:
    """The notebooks of a clone in order, as the pipeline describes them."""
    described = tomllib.loads((root / "keymyna_lib" / "run" / "pipeline.toml").read_text(encoding="utf-8"))
    return {name: described[name] for name in sorted(described)}


def _executed(root: Path, profile: str, notebook: str) -> Path:
    return root / "results" / profile / "notebooks" / f"{notebook}.ipynb"


def _minutes(root: Path, profile: str) -> Rows | None:
    """Duration of each executed notebook, by papermill's record in it; the total is of those that run unasked.

    Where all of these ran in one go, "run" is how long that took: less than the total if some ran side by side.
    """
    taken, total = {}, 0.0
    for name, entry in described(root).items():
        if (path := _executed(root, profile, name)).is_file():
            taken[name] = read_json(path)["metadata"]["papermill"]["duration"] / 60
            total += 0 if entry.get("on_request") else taken[name]
    if not taken:
        return None
    taken["total"] = total
    if (whole := root / "results" / profile / "run.json").is_file():
        taken["run"] = read_json(whole)["seconds"] / 60
    return [{"notebook": name, "minutes": f"{minutes:.1f}"} for name, minutes in taken.items()]


def _reading(root: Path, profile: str, page: Path) -> str:
    """The notebooks as a table, each linked to its executed copy, or to its source where there is none."""
    minutes = {row["notebook"]: row["minutes"] for row in _minutes(root, profile) or []}
    lines = ["| notebook | what it is about | minutes |", "| --- | --- | --- |"]
    for name, entry in described(root).items():
        path = _executed(root, profile, name) if name in minutes else root / "notebooks" / f"{name}.ipynb"
        link = os.path.relpath(path, page.parent)
        took = minutes.get(name, NOT_RUN) + (", on request" if entry.get("on_request") else "")
        lines.append(f"| [{name}]({link}) | {entry['title']} | {took} |")
    return "\n".join(lines)
