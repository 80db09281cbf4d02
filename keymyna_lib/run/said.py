"""What a notebook said of its results, as the report page shows it.

The little Markdown that `report/prose` needs: headings, lists, paragraphs; bold, emphasis, code and links.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\[(?P<text>[^\]]+)\]\((?P<link>[^)\s]+)\)|\*\*(?P<strong>.+?)\*\*|\*(?P<em>[^*\s][^*]*)\*"
)
_NOTEBOOK = re.compile(r"(\d\d_\w+)\.ipynb(?:#.*)?")


def sections(path: Path) -> dict[str, str]:
    """The findings stored in a file as HTML by heading; none where there is no such file."""
    if not path.is_file():
        return {}
    found = re.split(r"^## (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {heading: _blocks(body) for heading, body in zip(found[1::2], found[2::2])}


def _blocks(text: str) -> str:
    """Paragraphs and lists, each set off by an empty line; a list begins with "- "."""
    parts = []
    for block in filter(None, map(str.strip, re.split(r"\n\s*\n", text))):
        items = re.split(r"^- ", block, flags=re.MULTILINE)
        before, *points = (_inline(" ".join(item.split())) for item in items)
        parts.append(f"<p>{before}</p>" if before else "")
        parts.append(f"<ul>{''.join(f'<li>{point}</li>' for point in points)}</ul>" if points else "")
    return "".join(parts)


def _inline(text: str) -> str:
    """Text of one block. A link to a notebook leads to its section of the page; of other links, the text stays."""
    made, end = [], 0
    for match in _INLINE.finditer(text):
        made.append(html.escape(text[end : match.start()]))
        end = match.end()
        kind = match.lastgroup
        if kind == "code":
            made.append(f"<code>{html.escape(match['code'])}</code>")
        elif kind == "link":
            notebook, shown = _NOTEBOOK.fullmatch(match["link"]), _inline(match["text"])
            made.append(f'<a href="#nb-{notebook[1]}">{shown}</a>' if notebook else shown)
        else:
            made.append(f"<{kind}>{_inline(match[kind])}</{kind}>")
    return "".join(made) + html.escape(text[end:])
