"""Small tables: what spreadsheets and editors do to one makes no difference, and any other file is one clear error."""

import contextlib
import csv
import io
import os
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.small_tables import read_lines, read_table, read_text, read_value

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "data"
BOMS = {"utf-8-sig": b"", "utf-16": b"", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff", "utf-32": b""}
few = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# Texts that are as long without white space around them; a BOM at the start of a file is not the text's.
cells = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff\x1c\x1d\x1e\x1f\x85"), max_size=12
).map(str.strip)


def write(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@few
@given(
    rows=st.lists(st.tuples(cells, cells, cells).filter(any), max_size=6),
    separator=st.sampled_from([",", ";", "\t"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", *BOMS, "utf-16-le, no mark", "utf-16-be, no mark"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    last=st.booleans(),
)
@example([("a", "b", "c")], ";", "\r", "utf-16-le, no mark", csv.QUOTE_ALL, False)
def test_a_table_reads_as_it_was_written(tmp_path, rows, separator, end, encoding, quoting, last):
    """By the standard library's writer, which leaves line breaks other than its own without quotes unless told."""
    file = io.StringIO()
    if any(set(cell) & set("\r\n") for row in rows for cell in row):
        quoting = csv.QUOTE_ALL
    writer = csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting)
    writer.writerows([("Track", "key", "more"), *rows])
    text = file.getvalue() if last else file.getvalue().removesuffix(end)
    content = text.encode(encoding.split(",")[0])
    path = write(tmp_path, content if "no mark" in encoding else BOMS.get(encoding, b"") + content)
    expected = [dict(zip(("track", "key", "more"), row)) for row in rows]
    assert [found for _, found in read_table(path, ("track", "key"))] == expected


@few
@given(st.one_of(st.binary(max_size=200), st.text('track,key;\t\r\n"\0é', max_size=60).map(str.encode)))
@example(b"\xff\xfe\x00")
@example(b'track,key\n"a,b\n')
@example(b"\xff\xfe\x00\x00\x00\x00\x11\x00")
def test_any_bytes_are_a_table_or_one_error(tmp_path, content):
    path = write(tmp_path, content)
    for read in (lambda: read_table(path, ("track",)), lambda: read_lines(path), lambda: read_value(path)):
        with contextlib.suppress(KeyMynaError):
            read()


def test_lines_are_counted_as_an_editor_counts_them(tmp_path):
    text = '\n\nTrack , "KEY"\r\na,"C\nmajor"\n\n,,,\n"b ""x""" , D\rc,"E"  ,,\n'
    assert read_table(write(tmp_path, text), ("track", "key")) == [
        (4, {"track": "a", "key": "C\nmajor"}),
        (8, {"track": 'b "x"', "key": "D"}),
        (9, {"track": "c", "key": "E"}),
    ]


def test_names_of_columns_are_the_callers(tmp_path):
    path = write(tmp_path, "\ufeff\u200bMANUAL  key;Ｉd;C\nA;1;2\n".encode("utf-8-sig"))
    assert read_table(path, ("ID", "Manual Key"), optional=["c"]) == [(2, {"Manual Key": "A", "ID": "1", "c": "2"})]


@pytest.mark.parametrize("header", ["track,key", '"track","key"', "other;x,track,key"])
def test_the_separator_is_the_one_that_finds_the_columns(tmp_path, header):
    n = header.count(",") - 1
    rows = read_table(write(tmp_path, header + "\n" + "x," * n + "a;b;c;d;e,C\tmajor\n"), ("track", "key"))
    assert [(row["track"], row["key"]) for _, row in rows] == [("a;b;c;d;e", "C\tmajor")]


def test_quotes_inside_a_cell_are_letters(tmp_path):
    text = 'track\tkey\n12" mix\tC\n"Heroes" live\tD\n'
    assert [row["track"] for _, row in read_table(write(tmp_path, text), ("track",))] == ['12" mix', "Heroes live"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty: expected a header with the columns 'track'"),
        (" \n\n", "is empty: expected a header with the columns 'track'"),
        ("id,key\na,C\n", "no column 'track' .columns 'id', 'key', separated by commas.*Write a table"),
        ("track\tkey\tspilt\n", "unknown column 'spilt' .columns 'track', 'key', 'spilt', separated by tabs.*Write"),
        ("track;key; TRACK\n", "column 'track' is there twice .*semicolons"),
        ("track,key\na,C\nb,C,x\n", "line 3: more cells than columns, 3 for 2 .separated by commas"),
        ("track,key,more\na,C,\nb\n", "line 3: fewer cells than columns, 1 for 3"),
        ('track,key\na,C\nb,"C\nc,D\n', "line 3, cell 2: a quote is not closed"),
        ('track,key\na,"C\nb,"D\nc,E\n', "line 2, cell 2: a quote is not closed"),
        ('track,key\n"a""b,C\nc,E\n', "line 2, cell 1: a quote is not closed"),
        ("track,key\na,C\0D\n", "line 2, character 4: a NUL"),
        ("track,key\na," + "C" * 200_000, "line 2, cell 2: 200000 characters"),
        ("track,key\na,C\nbé,C\n".encode("latin-1"), "line 3, character 2 cannot be read: b'.xe9' is not UTF-8"),
        ("track,key\na,C\nbé,C".encode("utf-16")[:-1], "line 3, character 4 cannot be read.*UTF-16-LE"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 1, character 1 cannot be read: b'.x89'"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "line 1, character 6: a NUL"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, text, message):
    with pytest.raises(KeyMynaError, match=f"t.csv.*{message}"):
        read_table(write(tmp_path, text), ("track", "key"), optional=["more"], advice="Write a table.")


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("circle", tmp_path / "circle")
    with open(tmp_path / "huge.csv", "wb") as file:
        file.truncate(2**27)
    for name, message in (
        ("gone.csv", "does not exist. Get it"),
        ("pipe/deeper", "does not exist"),
        ("a\0b", "cannot be read"),
        ("", "is a folder, not a file. Get it"),
        ("pipe", "not a regular file"),
        ("circle", "cannot be read .*links.*Remove the links"),
        ("huge.csv", "more than 64 MB"),
    ):
        with pytest.raises(KeyMynaError, match=message):
            read_text(tmp_path / name, advice="Get it.")


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", ""])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_one_value(tmp_path, encoding, end):
    assert read_value(write(tmp_path, f" F♯ \u00a0minor{end}".encode(encoding))) == "F♯ minor"
    assert read_value(write(tmp_path, f"7{end}".encode(encoding))) == "7"
    assert read_value(write(tmp_path, "A minor\0\0")) == read_value(write(tmp_path, "A minor\r\n\x1a")) == "A minor"


def test_lines_of_a_list(tmp_path):
    path = write(tmp_path, "\ufeffone\r\n\r two \rthree".encode("utf-16"))
    assert read_lines(path) == [(1, "one"), (3, "two"), (4, "three")]


@pytest.mark.parametrize("name", ["giantsteps_key", "giantsteps_mtg_keys", "gtzan_key", "inceptionkeynet_subsets"])
def test_published_lists_read_as_pandas_reads_them(name):
    path = PUBLISHED / f"{name}.csv"
    if not path.is_file():
        pytest.skip("the published lists are not here")
    expected = pd.read_csv(path, dtype=str, keep_default_na=False).apply(lambda column: column.str.strip())
    found = pd.DataFrame([row for _, row in read_table(path, list(expected.columns))])
    pd.testing.assert_frame_equal(found, expected)
