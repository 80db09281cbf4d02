"""Reading the small tables and texts that users and publishers bring: keys, annotations, folds, predictions.

What spreadsheets and editors do to such a file makes no difference: UTF-8 with or without a byte order mark, UTF-16
and UTF-32, lines that end in LF, CR or CRLF, cells separated by commas, semicolons or tabs, quotes, letter case and
blanks in the names of columns, lines without content. Everything else is an error that names file, line and column. A
file in an older 8-bit encoding is one as well: which of them it is cannot be told, and the wrong one gives wrong names.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from keymyna_lib.base.errors import KeyMynaError, unreadable
from keymyna_lib.base.text import identity, visible

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_LARGEST = 64 * 2**20  # bytes of a file, and
_LONGEST = 2**17  # characters of a cell: beyond these it is not a small table, or a quote is open. Our choice.
_MARKS = (  # the longer ones first, as UTF-32's begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_END = re.compile(r"\r\n|\r|\n")


def read_text(path: Path | str, *, advice: str = "") -> str:
    """The text of a file, without a byte order mark; line ends as they are.

    Parameters
    ----------
    advice : what to do when the file is missing; ends the error.

    Raises
    ------
    KeyMynaError
        When there is no such file, or when it is no text.
    """
    data = _read_bytes(Path(path), advice)
    mark, encoding = next((known for known in _MARKS if data.startswith(known[0])), (b"", _encoding_without_mark(data)))
    data = data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, errors="replace")
        raise KeyMynaError(
            f"{path}{_place(before)} cannot be read: {data[error.start : error.start + 1]!r} is not "
            f"{encoding.upper()}. Save it as text in UTF-8."
        ) from None
    text = text.rstrip("\0\x1a")  # old editors end a text with the latter
    if "\0" in text:
        raise KeyMynaError(f"{path}{_place(text[: text.index(chr(0))])}: a NUL, which no text has. Save it in UTF-8.")
    return text


def read_value(path: Path | str, *, advice: str = "") -> str:
    """The text of a file that holds one value, such as a key; as it looks, on one line. Errors as of `read_text`."""
    return visible(read_text(path, advice=advice))


def read_lines(path: Path | str, *, advice: str = "") -> list[tuple[int, str]]:
    """Number and text of each line that is not blank; as it looks. Errors as of `read_text`."""
    lines = enumerate(map(visible, _LINE_END.split(read_text(path, advice=advice))), 1)
    return [(number, line) for number, line in lines if line]


def read_table(
    path: Path | str,
    needed: Sequence[str],
    *,
    optional: Sequence[str] | None = None,
    or_else: Mapping[str, str] | None = None,
    advice: str = "",
) -> list[tuple[int, dict[str, str]]]:
    """Number of the line and cells by column of each row below the header.

    The separator is the one that finds the needed columns in the header. Cells have no white space around them, a
    quoted one keeps its line breaks. Empty cells at the end of a row may be too many, and in a table with tabs, which
    editors take for white space, too few.

    Parameters
    ----------
    needed : columns that must be there, as `cells` names them; in the file, case and blanks do not matter.
    optional : columns that may be there; any by default, which keep their names.
    or_else : for a needed column, the one that is taken where it is absent.
    advice : what to do when the file is missing or has other columns; ends the error.

    Raises
    ------
    KeyMynaError
        When there is no such file, when it is empty or no text, lacks a column, has one twice or one that is not
        `optional`, when a row has too many or too few cells, or a quote is not closed.
    """
    text = read_text(path, advice=advice)
    start = 0
    if stated := re.match(r"sep=([,;\t])(?:\r\n|\r|\n|$)", text):  # a line that Excel writes, and hides
        separator, start = stated[1], stated.end()
    else:
        separator = _separator(text, needed)
    rows = _rows(str(path), text, separator, start)
    _, header = next(rows, (1, []))
    if not header:
        expected = f"expected a header with the columns {', '.join(map(repr, needed))}, and rows"
        raise KeyMynaError(f"{path} is empty: {expected}. {advice}".rstrip())
    header = _renamed(header, or_else or {})
    columns = _columns(str(path), header, separator, needed, optional, advice)
    found = []
    for line, cells in rows:
        while len(cells) > len(columns) and not cells[-1]:
            cells.pop()
        if separator == "\t":
            cells += [""] * (len(columns) - len(cells))
        if len(cells) != len(columns):
            many = "more" if len(cells) > len(columns) else "fewer"
            raise KeyMynaError(
                f"{path}, line {line}: {many} cells than columns, {len(cells)} for {len(columns)} "
                f"(separated by {_SEPARATORS[separator]}). Quote a cell that contains the separator, "
                "and leave a cell empty where nothing is known."
            )
        found.append((line, dict(zip(columns, cells))))
    return found


def _read_bytes(path: Path, advice: str) -> bytes:
    try:
        if path.is_dir():
            raise KeyMynaError(f"{path} is a folder, not a file. {advice}".rstrip())
        if path.exists() and not path.is_file():
            raise KeyMynaError(f"{path} is not a regular file. {advice}".rstrip())
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise KeyMynaError(f"{path} does not exist. {advice}".rstrip()) from None
    except OSError as error:
        raise unreadable(path, error) from error
    except ValueError as error:  # a NUL in the name
        raise KeyMynaError(f"{path} cannot be read ({error}).") from error
    if len(data) > _LARGEST:
        raise KeyMynaError(f"{path} cannot be read: with more than {_LARGEST >> 20} MB it is no small table.")
    return data


def _encoding_without_mark(data: bytes) -> str:
    """UTF-16 where every other byte of the beginning, which is a plain letter in all our files, is NUL; else UTF-8."""
    head = data[:4]
    if len(data) % 2 == 0 and len(head) == 4:
        if head[1] == head[3] == 0 and head[0] and head[2]:
            return "utf-16-le"
        if head[0] == head[2] == 0 and head[1] and head[3]:
            return "utf-16-be"
    return "utf-8"


def _place(before: str) -> str:
    """Where a text goes on, as ", line 3, character 7"."""
    lines = _LINE_END.split(before)
    return f", line {len(lines)}, character {len(lines[-1]) + 1}"


def _separator(text: str, needed: Sequence[str]) -> str:
    """The separator under which the header has most of the needed columns, and then most columns of all."""
    header = next((line for line in _LINE_END.split(text) if visible(line)), "")
    wanted = {identity(name) for name in needed}

    def columns_found(separator: str) -> tuple[int, int]:
        names = [identity(name.strip().strip('"')) for name in header.split(separator)]
        return len(wanted.intersection(names)), len(names)

    return max(_SEPARATORS, key=columns_found)


def _rows(path: str, text: str, separator: str, start: int) -> Iterator[tuple[int, list[str]]]:
    """Number of the first line, and cells, of each row that is not blank.

    A cell that begins with a quote ends at the next single one; two stand for one. What follows up to the separator
    belongs to the cell, as in other readers, unless the quoted part has line breaks: then a quote is missing.
    """
    s = re.escape(separator)
    cell = re.compile(rf' *"([^"]*+(?:""[^"]*+)*+)"([^{s}\r\n]*)|([^{s}\r\n]*)')
    at, line = start, 1 + len(_LINE_END.findall(text, 0, start))
    while at < len(text):
        cells, first = [], line
        while True:
            match = cell.match(text, at)
            quoted, rest, plain = match.groups()
            where = f"{path}, line {line}, cell {len(cells) + 1}"
            breaks = len(_LINE_END.findall(quoted)) if quoted else 0
            if (quoted is None and plain.lstrip(" ").startswith('"')) or (breaks and rest.strip()):
                raise KeyMynaError(f"{where}: a quote is not closed. Write one at the end of the cell, or none at all.")
            content = plain if quoted is None else quoted.replace('""', '"') + rest
            if len(content) > _LONGEST:
                raise KeyMynaError(f"{where}: {len(content)} characters. No cell is that long; is a quote missing?")
            cells.append(content.strip())
            at, line = match.end(), line + breaks
            if text[at : at + 1] != separator:
                break
            at += 1
        if end := _LINE_END.match(text, at):
            at, line = end.end(), line + 1
        if any(cells):
            yield first, cells


def _renamed(header: list[str], or_else: Mapping[str, str]) -> list[str]:
    """The header, in which a column that stands in for an absent one has its name."""
    there = set(map(identity, header))
    names = {identity(other): name for name, other in or_else.items() if identity(name) not in there}
    return [names.get(identity(cell), cell) for cell in header]


def _columns(
    path: str, header: list[str], separator: str, needed: Sequence[str], optional: Sequence[str] | None, advice: str
) -> list[str]:
    """Names of the columns, as the caller spells them."""
    while header and not header[-1]:
        header.pop()
    known = {identity(name): name for name in (*needed, *(optional or ()))}
    columns = [known.get(identity(name), visible(name)) for name in header]
    stated = f"columns {', '.join(map(repr, columns))}, separated by {_SEPARATORS[separator]}"
    if lacking := [name for name in needed if name not in columns]:
        raise KeyMynaError(f"{path}: no column {lacking[0]!r} ({stated}). {advice}".rstrip())
    if optional is not None and (unknown := [name for name in columns if name not in known.values()]):
        raise KeyMynaError(f"{path}: unknown column {unknown[0]!r} ({stated}). {advice}".rstrip())
    if twice := [name for i, name in enumerate(columns) if identity(name) in map(identity, columns[:i])]:
        raise KeyMynaError(f"{path}: column {twice[0]!r} is there twice ({stated}). Keep one of them.")
    return columns
