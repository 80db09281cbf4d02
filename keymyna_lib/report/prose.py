"""What a notebook says of its results: templates whose numbers, and the words that depend on them, come from tables.

A place in a template stands in braces and names a table, a row, a column and a format, as the marks of `pages` do:

    The linear probe {gain / linear probe, {fewest} / pre-trained minus * / gains}.

`{fewest}` is a plain value, filled in first. In row and column, `*` stands for anything. The formats are those of
`pages` (`value`, `interval`, `answer`, or one of Python's, as ".0f"), and two that choose words by the interval of a
difference, or by the verdict of its row:

    gains                           "gains 5.1 [1.2, 9.0]", "loses 5.1 [1.2, 9.0]", or that it is undecided
    rises|falls|stays undecided     the first if the interval is above 0, the second if below, else the third

Plain values have formats too, a condition two words: `{share / .0%}`, `{same / agree|differ}`. A number typed outside
braces is an error. What is no result stands in braces by itself (`{24} keys`), in a code span, in a formula or in a
link; numbers of notebooks and numbers within words (top-1) may be typed.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report.intervals import NOT_RUN
from keymyna_lib.report.pages import DIFFERENCE, Rows, cell_of, named, sign_of
from keymyna_lib.report.traced import TracedTable

Table: TypeAlias = TracedTable | pd.DataFrame

_VALUE = re.compile(r"\{([\w.,]+)\}")
_PLACE = re.compile(r"\{([^{}]+)\}")
_NO_RESULT = re.compile(
    r"`[^`]*`|\$[^$]*\$|\[[^\]]*\]\([^)]*\)|\bnotebooks? \d\d(?:, \d\d)*(?:,? (?:and|or|to) \d\d)?|\b[A-Za-z]+-?\d+\w*"
)


class Said(str):
    """Markdown that notebooks show as such."""

    def _repr_markdown_(self) -> str:
        return str(self)


def say(template: str, **given: Table | str | int | float | bool) -> Said:
    """A template with its places filled in.

    Parameters
    ----------
    template : Markdown; lines may be indented as the code is.
    given : tables and plain values by the names that the template gives them.

    Raises
    ------
    KeyMynaError
        When a number is typed, or a place names nothing; all of them are listed.

    Examples
    --------
    >>> gain = pd.DataFrame({"head": ["probe"], "gain": ["+5.1 [+1.2, +9.0]"]})
    >>> say("With {n} labels, the probe {gain / probe / gain / gains}.", gain=gain, n=48)
    'With 48 labels, the probe gains 5.1 [1.2, 9.0].'
    """
    template = textwrap.dedent(template).strip()
    wrong = [f"{found!r} is typed: inject it, or put it in braces if it is no result." for found in typed(template)]
    tables = {name: _rows(table) for name, table in given.items() if isinstance(table, TracedTable | pd.DataFrame)}
    values = {name: value for name, value in given.items() if name not in tables}

    def value(match: re.Match[str]) -> str:
        name = match[1]
        return name if name[0].isdigit() else str(values[name]) if name in values else match[0]

    def place(match: re.Match[str]) -> str:
        name, *where = " ".join(match[1].split()).split(" / ")  # it may run over the end of a line
        try:
            if name in values and len(where) == 1:
                return _formatted(values[name], where[0])
            if name not in tables:
                raise KeyMynaError(f"neither a table nor a value is called {name!r}.")
            return _filled(tables[name], *where)
        except (KeyMynaError, KeyError, TypeError, ValueError) as error:
            wrong.append(f"{match[0]}: {error}")
            return match[0]

    text = _PLACE.sub(place, _VALUE.sub(value, template))
    if wrong:
        raise KeyMynaError("\n".join(wrong))
    return Said(text)


def typed(template: str) -> list[str]:
    """The numbers in a template that are typed as if they were no results, each with what stands around it."""
    prose = _NO_RESULT.sub("", _PLACE.sub("", _VALUE.sub("", template)))
    return [prose[max(0, match.start() - 20) : match.end() + 10] for match in re.finditer(r"\d[\d.,]*", prose)]


def spelled(number: int) -> str:
    """A small number as a word.

    >>> spelled(6), spelled(13)
    ('six', '13')
    """
    words = "no one two three four five six seven eight nine ten eleven twelve".split()
    return words[number] if 0 <= number < len(words) else str(number)


def listed(items: Iterable[object]) -> str:
    """Things in a row, with "and" before the last; semicolons between them where one has a comma itself.

    >>> listed(["a", "b", "c"]), listed([1]), listed([])
    ('a, b and c', '1', 'none')
    >>> listed(["a, shifted", "b"])
    'a, shifted; and b'
    """
    *others, last = [str(item) for item in items] or ["none"]
    if any("," in item for item in (*others, last)):
        return "; and ".join(filter(None, ["; ".join(others), last]))
    return f"{', '.join(others)} and {last}" if others else last


def compared(value: float, other: float, above: str, below: str, alike: str) -> str:
    """The word for a value beside another.

    >>> compared(67, 67, "more", "fewer", "as many")
    'as many'
    """
    return above if value > other else below if value < other else alike


def _rows(table: Table) -> Rows:
    frame = table.frame if isinstance(table, TracedTable) else table
    return [{str(name): "" if pd.isna(cell) else str(cell) for name, cell in row.items()} for row in _records(frame)]


def _records(frame: pd.DataFrame) -> list[Mapping[Any, Any]]:
    """The rows; an index with a name is a label as well."""
    return (frame.reset_index() if any(frame.index.names) else frame).to_dict("records")


def _formatted(value: Any, how: str) -> str:
    words = how.split("|")
    if len(words) == 2:
        return words[not value]
    return format(value, how)


def _filled(rows: Rows, row: str, column: str, how: str = "") -> str:
    words = how.split("|")
    if how != "gains" and len(words) == 1:
        return cell_of(rows, row, column, how)
    cell = cell_of(rows, row, column)
    if cell == NOT_RUN:
        return NOT_RUN
    verdict = named(rows, row).get("verdict", "")
    if how == "gains":
        return _gains(cell, verdict)
    if len(words) != 3:
        raise KeyMynaError(f"{how!r}: three words, for above 0, below 0 and undecided.")
    return words[sign_of(cell, verdict)]


def _gains(cell: str, verdict: str) -> str:
    sign = sign_of(cell, verdict)
    value, low, high, _ = DIFFERENCE.search(cell).groups()
    if sign == 2:
        return f"differs by an undecided {value} [{low}, {high}]"
    value, low, high = (number.lstrip("+-") for number in (value, low, high))
    return f"loses {value} [{high}, {low}]" if sign else f"gains {value} [{low}, {high}]"
