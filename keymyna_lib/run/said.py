"""What a notebook said of its results, as the report page shows it."""

from __future__ import annotations

import re
from pathlib import Path

import mistune

_NOTEBOOK = re.compile(r"(\d\d_\w+)\.ipynb(?:#.*)?")


class _Page(mistune.HTMLRenderer):
    """Markdown on the page: a link to a notebook leads to its section; of other links, the text stays."""

    def link(self, text: str, url: str, title: str | None = None) -> str:
        notebook = _NOTEBOOK.fullmatch(url)
        return f'<a href="#nb-{notebook[1]}">{text}</a>' if notebook else text


_html = mistune.create_markdown(renderer=_Page(escape=True))


def sections(path: Path) -> dict[str, str]:
    """The findings stored in a file as HTML by heading; none where there is no such file."""
    if not path.is_file():
        return {}
    found = re.split(r"^## (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {heading: str(_html(body)).strip() for heading, body in zip(found[1::2], found[2::2])}
