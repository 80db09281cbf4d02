"""The first and the last cell of each notebook: the one before, the one after, the paper's section, the modules.

They follow from the pipeline, `keymyna docs` writes them, and a test compares.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from keymyna_lib.base.files import read_json, write_text
from keymyna_lib.report.pages import described

TOP, END = "navigation", "navigation-end"  # ids of the cells
# A notebook as others link to it: beside them or, of an executed copy, in another folder.
_OTHER = re.compile(r"(?:(?:\.\./)+[\w/-]*notebooks/)?(?P<name>\d\d_\w+)\.ipynb(?P<place>(?:#.*)?)")


def rewrite(root: Path) -> list[Path]:
    """Write the navigation into all notebooks of a clone, and say which ones changed."""
    changed = []
    for name, cells in navigation(root).items():
        path = root / "notebooks" / f"{name}.ipynb"
        node = read_json(path)
        between = [cell for cell in node["cells"] if cell.get("id") not in cells]
        top, end = (
            {"cell_type": "markdown", "id": name, "metadata": {}, "source": text.splitlines(keepends=True)}
            for name, text in cells.items()
        )
        if node["cells"] != [top, *between, end]:
            write_text(path, _written({**node, "cells": [top, *between, end]}))
            changed.append(path)
    return changed


def navigation(root: Path) -> dict[str, dict[str, str]]:
    """The text of the two cells of each notebook that is there, by the cell's id."""
    entries = {name: entry for name, entry in described(root).items() if _source(root, name).is_file()}
    names = list(entries)
    found = {}
    for before, name, after in zip([None, *names], names, [*names[1:], None]):
        links = [
            f"[← {_title(before)}]({before}.ipynb)" if before else "",
            "[all notebooks, words explained](README.md)",
            f"[{_title(after)} →]({after}.ipynb)" if after else "",
        ]
        line = " | ".join(filter(None, links))
        found[name] = {TOP: f"{line}\n\n{_about(entries[name])}", END: line}
    return found


def _source(root: Path, name: str) -> Path:
    return root / "notebooks" / f"{name}.ipynb"


def _title(name: str) -> str:
    number, _, words = name.partition("_")
    return f"{number} {words.replace('_', ' ')}"


def _about(entry: dict[str, Any]) -> str:
    paper = f"In the [paper](https://arxiv.org/abs/2604.10021): {entry['paper']}."
    modules = (f"[`{name}`](../keymyna_lib/{name.replace('.', '/')}.py)" for name in entry["code"])
    return f"{paper} Code: {', '.join(modules)}."


def moved(text: str, folder: Path, to: Path, elsewhere: Mapping[str, Path] = MappingProxyType({})) -> str:
    """The text of an executed copy in `folder` that is to lie in the folder `to`, with all its links `rebased`."""
    node = json.loads(text)

    def lines(markdown: list[str] | str) -> list[str]:
        return rebased("".join(markdown), folder, to, elsewhere).splitlines(keepends=True)

    for cell in node.get("cells", ()):
        if cell["cell_type"] == "markdown":
            cell["source"] = lines(cell["source"])
        for output in cell.get("outputs", ()):
            if "text/markdown" in output.get("data", {}):
                output["data"]["text/markdown"] = lines(output["data"]["text/markdown"])
    return _written(node) if "cells" in node else text


def _written(node: dict[str, Any]) -> str:
    """A notebook as nbformat writes it."""
    return json.dumps(node, indent=1, ensure_ascii=False) + "\n"


def rebased(text: str, folder: Path, to: Path, elsewhere: Mapping[str, Path] = MappingProxyType({})) -> str:
    """Markdown of a notebook in `folder` as a copy in the folder `to` has it: links to files of the clone lead there.

    Links between notebooks stay, from copy to copy. The way back is `rebased(text, to, folder)`.

    Parameters
    ----------
    elsewhere : by name, the files of notebooks of which `to` has no copy: links lead there.
    """

    def link(match: re.Match[str]) -> str:
        target = match[1]
        if re.match(r"[a-z]+:|#|/", target):
            return match[0]
        if other := _OTHER.fullmatch(target):
            at = elsewhere.get(other["name"])
            found = Path(os.path.relpath(at, to)).as_posix() if at else f"{other['name']}.ipynb"
            return f"]({found}{other['place']})"
        return f"]({Path(os.path.relpath(folder / target, to)).as_posix()})"

    return re.sub(r"\]\(([^)\s]+)\)", link, text)
