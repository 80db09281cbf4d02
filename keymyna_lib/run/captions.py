"""What figures show, in words: `captions.toml`, and alternative texts for the pictures of executed notebooks."""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path

from nbformat import NotebookNode

_STAGED = re.compile(r'stage\.figure\(\s*\w+,\s*(?:named\()?f?"([\w{}]+)"')


@functools.cache
def captions() -> dict[str, dict[str, str]]:
    """Name of a figure -> "caption" and "alt"; id of a cell whose picture is not kept as a figure -> "alt"."""
    return tomllib.loads(Path(__file__).with_name("captions.toml").read_text(encoding="utf-8"))


def describe(cell: NotebookNode) -> None:
    """Give the pictures among a cell's outputs their alternative text, where its code names as many figures.

    A figure is named by `stage.figure(figure, "NAME")` or, without such a call, by any string in quotes; an f-string
    names all that it fits. Where none is named, the cell's own id may be.
    The text goes where nbconvert looks for it: into the metadata of the output.
    """
    pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    quoted = _STAGED.findall(cell.source) or re.findall(r'"([\w{}]+)"', cell.source)
    written = [re.sub(r"\{[^{}]*\}", r"\\w+", name) for name in quoted]
    names = list(dict.fromkeys(name for pattern in written for name in captions() if re.fullmatch(pattern, name)))
    if not names and cell.get("id") in captions():
        names = [cell["id"]]
    if len(names) == 1:
        names *= len(pictures)  # the same figure of each task
    if len(names) == len(pictures):
        for picture, name in zip(pictures, names):
            picture.setdefault("metadata", {}).setdefault("image/png", {})["alt"] = captions()[name]["alt"]
