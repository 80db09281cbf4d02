"""`report.html` of a profile: what its stored results say, on one page that needs nothing else.

It lies beside the results, be they those made here or the committed ones, and is made of what is stored alone, with no
time of writing, so that the same results are the same page. Numbers link to the run or the trace behind them, by paths
relative to the page.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.hashing import sha256_bytes, sha256_file, sha256_json
from keymyna_lib.report.intervals import NOT_RUN, UNDECIDED
from keymyna_lib.run import findings, pipeline, said, stored
from keymyna_lib.run.pipeline import duration
from keymyna_lib.run.project import Project

NAME = "report.html"
VERIFICATION = "verification.json"  # of `verify`, beside the page
_HERE = Path(__file__).parent
_CODE = ("page.py", "page.html", "findings.py", "said.py", "stored.py", "captions.toml")
_FIRST = {"label_efficiency": 0, "table1": 1, "pretraining_gain": 2}  # shown at once, in this order
_LARGER = {"mini": "mini-full"}  # where a claim is tested that the profile itself is too small for
_MAX_ROWS = 60  # a longer table is folded
_MAX_WIDTH, _COLOURS = 1400, 128  # of a figure in the page: pixels, and entries of its palette
_DENSITY = 1.6  # stored pixels for one on the page, so that text is of one size in all figures
_NUMBERS = re.compile(r"[-+−]?\d[-+−\d.,%<p \[\]()]*")  # a cell that is a number, with its interval perhaps
_DIGEST = re.compile(r'<meta name="made-of" content="(\w*)">')


@dataclass(frozen=True)
class Cell:
    """A table cell: its text, where it links to, and how it looks."""

    text: str
    href: str = ""
    title: str = ""
    kind: str = ""  # class of the style sheet


def write(project: Project, profile: str, root: Path) -> Path:
    """Write the page of a profile where it is not up to date, and return its path.

    Parameters
    ----------
    root : where its results lie: `project.made`, or `project.root` for the committed ones.

    Raises
    ------
    KeyMynaError
        When nothing of the profile has run, or a table or figure is damaged or missing.
    """
    path = _results(root, profile) / NAME
    if not any((_results(root, profile) / "index").glob("*.json")):
        raise KeyMynaError(f"profile {profile} has no results: ./run_all.sh --profile {profile} makes them.")
    titles = {name: notebook.title for name, notebook in sorted(pipeline.load_notebooks(project).items())}
    digest = _digest(root, profile, titles, project.root)
    if not path.exists() or digest not in _DIGEST.findall(path.read_text(encoding="utf-8", errors="replace")[:2000]):
        files.write_text(path, build(root, profile, titles, project.root))
    return path


def build(root: Path, profile: str, titles: Mapping[str, str], committed: Path) -> str:
    """The page as HTML; the same text for the same results and the same version of Pillow.

    Parameters
    ----------
    root : where the results lie, in results/ and figures/.
    titles : notebook -> title, of all notebooks, in the order of their sections.
    committed : the clone; its results of the larger profile stand in where `root` has none.
    """
    import jinja2  # with Pillow 0.3 s, and not needed where the page is up to date

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string((_HERE / "page.html").read_text(encoding="utf-8"))
    content, digest = _content(root, profile, titles, committed), _digest(root, profile, titles, committed)
    return template.render(content, digest=digest) + "\n"


def _results(root: Path, profile: str) -> Path:
    return root / "results" / profile


def _larger(root: Path, profile: str, committed: Path) -> Path | None:
    """Tables of the profile where claims are tested that this one is too small for, if there is such a profile."""
    if not (name := _LARGER.get(profile)):
        return None
    here = _results(root, name) / "tables"
    return here if here.exists() else _results(committed, name) / "tables"


def _digest(root: Path, profile: str, titles: Mapping[str, str], committed: Path) -> str:
    """SHA-256 over everything that the page is made of."""
    results, figures = _results(root, profile), root / "figures" / profile
    read = [path for folder in ("index", "tables", "findings", "notebooks") for path in (results / folder).glob("*")]
    read += [*results.glob("runs/*/provenance.json"), *results.glob(VERIFICATION), *figures.glob("*.*")]
    made_of = {path.relative_to(root).as_posix(): sha256_file(path) for path in sorted(read) if path.is_file()}
    larger = _larger(root, profile, committed)
    others = {path.name: sha256_file(path) for path in sorted(larger.glob("*"))} if larger else {}
    where = os.path.relpath(larger, results) if larger else ""  # links lead there
    return sha256_json([made_of, others, where, {name: sha256_file(_HERE / name) for name in _CODE}, dict(titles)])


def _content(root: Path, profile: str, titles: Mapping[str, str], committed: Path) -> dict[str, Any]:
    results = _results(root, profile)
    tables = stored.read_all(results / "tables")
    notebooks = [_notebook(root, profile, name, title, tables) for name, title in titles.items()]
    ran = [notebook for notebook in notebooks if notebook["ran"]]
    first = _taken(notebooks, lambda item: item["name"] in _FIRST)
    return {
        "profile": profile,
        "findings": _findings(profile, results, tables, _larger(root, profile, committed)),
        "first": sorted(first, key=lambda item: _FIRST[item["name"]]),
        "conclusions": _taken(notebooks, lambda item: item["name"] == "conclusions"),
        "notebooks": notebooks,
        "ran": ran,
        "total": duration(sum(notebook["seconds"] for notebook in ran)),
        "commits": _different(notebook["commit"] for notebook in ran),
        "machines": _different(notebook["machine"] for notebook in ran),
        "code": _different(notebook["code"] for notebook in ran),
        "verified": _verification(results),
    }


def _taken(notebooks: list[dict[str, Any]], wanted: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Figures and tables taken out of their notebooks' sections, to be shown elsewhere."""
    found = []
    for notebook in notebooks:
        found += [item for item in notebook["items"] if wanted(item)]
        notebook["items"] = [item for item in notebook["items"] if not wanted(item)]
    return found


def _different(values: Iterable[str]) -> list[str]:
    return sorted({value for value in values if value})


def _findings(profile: str, results: Path, tables: findings.Tables, larger: Path | None) -> list[dict[str, Any]]:
    """The claims; one that this profile has not tested is shown as the larger profile found it, and says so."""
    own = findings.findings(tables)
    others = findings.findings(stored.read_all(larger)) if larger else own
    shown = []
    for here, there in zip(own, others, strict=True):
        elsewhere = here.found.verdict == NOT_RUN and there.found.verdict != NOT_RUN
        found = (there if elsewhere else here).found
        where = f"#table-{found.table}" if found.table in tables else ""
        shown.append(
            {
                "paper": here.paper,
                "text": f"In profile {_LARGER[profile]}. {found.text}" if elsewhere else found.text,
                "cells": found.cells,
                "verdict": found.verdict,
                "kind": _kind(found.verdict),
                "table": found.table,
                "where": f"{os.path.relpath(larger, results)}/{found.table}.md" if elsewhere else where,
            }
        )
    return shown


def _notebook(
    root: Path, profile: str, name: str, title: str, tables: Mapping[str, stored.StoredTable]
) -> dict[str, Any]:
    """A notebook's section, and its line among what ran; without an index it has not run."""
    results, figures = _results(root, profile), root / "figures" / profile
    index = stored.json_or_nothing(results / "index" / f"{name}.json")
    made = list(index.get("files", {}))
    executed = results / "notebooks" / f"{name}.ipynb"
    origins = [
        origin
        for run in index.get("runs", [])
        if (origin := stored.json_or_nothing(results / "runs" / run / "provenance.json"))
    ]
    # A notebook that only reads runs has none of its own; its figures name the commit all the same.
    drawn = [
        stored.json_or_nothing(root / path) for path in made if path.startswith("figures/") and path[-4:] == "json"
    ]
    metadata = stored.json_or_nothing(executed).get("metadata", {})
    return {
        "name": name,
        "number": name.partition("_")[0],
        "title": title,
        "ran": bool(index),
        "executed": f"notebooks/{name}.ipynb" if executed.exists() else "",
        "seconds": (seconds := float(metadata.get("papermill", {}).get("duration") or 0)),
        "took": duration(seconds) if seconds else "",
        "said": said.sections(results / "findings" / f"{name}.md"),
        "runs": len(index.get("runs", [])),
        "commit": " ".join(_different(map(_commit, [*origins, *drawn]))),
        "code": str(index.get("code_hash", ""))[:10],
        "machine": "; ".join(_different(map(_machine, origins))),
        "by_hand": _different(
            line for origin in origins for lines in origin.get("set_by_hand", {}).values() for line in lines
        ),
        "items": [
            *(_figure(root, figures, Path(path).stem) for path in made if path.endswith(".png")),
            *(
                _table(results, tables[stem])
                for path in made
                if path.endswith(".csv") and "/tables/" in path and (stem := Path(path).stem) in tables
            ),
        ],
    }


def _commit(origin: Mapping[str, Any]) -> str:
    commit = str(origin.get("commit") or "")[:10]
    return f"{commit} (with changes)" if commit and origin.get("dirty") else commit


def _machine(origin: Mapping[str, Any]) -> str:
    packages = origin.get("packages", {})
    return (
        f"{origin.get('device', '?')}, {origin.get('threads', '?')} threads, {origin.get('system', '?')}, "
        f"Python {origin.get('python', '?')}, torch {packages.get('torch', '?')}"
    )


def _figure(root: Path, figures: Path, name: str) -> dict[str, Any]:
    text = tomllib.loads((_HERE / "captions.toml").read_text(encoding="utf-8")).get(name, {})
    path = figures / f"{name}.png"
    try:
        data, width, height = _small(picture := path.read_bytes())
    except OSError as error:  # Pillow's own are of this kind
        raise KeyMynaError(f"{path} is no picture ({error}). Run its notebook again.") from None
    place = f"../../{figures.relative_to(root).as_posix()}/{name}"
    return {
        "name": name,
        "caption": text.get("caption", name.replace("_", " ") + "."),
        "alt": text.get("alt", name.replace("_", " ")),
        "source": sha256_bytes(picture)[:16],
        "data": data,
        "width": width,
        "height": height,
        "links": [
            (suffix, f"{place}.{suffix}")
            for suffix in ("pdf", "csv", "json")
            if (figures / f"{name}.{suffix}").exists()
        ],
    }


def _small(picture: bytes) -> tuple[str, int, int]:
    """A PNG no wider than the page needs, with a palette, in base64; the width and height to show it in [pixels]."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as opened:
        image = opened.convert("RGB")
    shown = round(image.width / _DENSITY), round(image.height / _DENSITY)
    if image.width > _MAX_WIDTH:
        size = _MAX_WIDTH, round(image.height * _MAX_WIDTH / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    palette = image.quantize(_COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette.save(packed, "PNG")
    return base64.b64encode(packed.getvalue()).decode("ascii"), *shown


def _table(results: Path, table: stored.StoredTable) -> dict[str, Any]:
    rows = []
    for row, traced in zip(table.rows, table.traced):
        rows.append(
            [
                _cell(results, table, text, column, runs)
                for text, column, runs in zip(row, table.columns, traced, strict=True)
            ]
        )
    links = [(what, f"tables/{table.name}.{what}") for what in ("csv", "md", "trace.json")]
    return {
        "name": table.name,
        "caption": table.caption or table.name,
        "columns": [Cell(column, kind=_column_kind(rows, place)) for place, column in enumerate(table.columns)],
        "rows": rows,
        "long": len(rows) > _MAX_ROWS,
        "links": [(what, link) for what, link in links if (results / link).exists()],
    }


def _column_kind(rows: list[list[Cell]], place: int) -> str:
    return "n" if rows and all(row[place].kind == "n" or not row[place].text for row in rows) else ""


def _cell(results: Path, table: stored.StoredTable, text: str, column: str, runs: tuple[str, ...]) -> Cell:
    """A cell; one run is linked itself, several are named in its title and linked through the table's trace."""
    href = f"runs/{runs[0]}/provenance.json" if len(runs) == 1 else f"tables/{table.name}.trace.json"
    if column == "verdict" or text == NOT_RUN:
        kind = f"chip {_kind(text)}"
    else:
        kind = "n" if _NUMBERS.fullmatch(text) else ""
    if not runs or not (results / href).exists():
        return Cell(text, kind=kind)
    return Cell(text, href, ", ".join(runs), kind)


def _kind(verdict: str) -> str:
    """The class of a verdict in the style sheet."""
    kinds = {findings.YES: "good", findings.NO: "bad", UNDECIDED: "open", NOT_RUN: "none"}
    return kinds.get(findings.answer(verdict), "part")


def tables_digest(results: Path) -> str:
    """SHA-256 over a profile's tables: a verification is of these."""
    digest = hashlib.sha256()
    for path in sorted(results.glob("tables/*.csv")):
        digest.update(f"{path.name}\0{sha256_file(path)}\0".encode())
    return digest.hexdigest()


def _verification(results: Path) -> dict[str, Any] | None:
    """The last verification, if it is of these tables."""
    found = stored.json_or_nothing(results / VERIFICATION)
    return found if found.get("tables_digest") == tables_digest(results) else None
