"""Answers, in numbers and in words."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.key_over_time import Segment, Timeline
from keymyna_lib.keys import N_KEYS, parse_key
from keymyna_lib.predict import DOUBT, SILENCE, Estimate
from keymyna_lib.tool import answers
from keymyna_lib.tool.answers import Answer, AsCsv, AsJson, AsTable, ask, summary


def heard(first="F# minor", second="A major", p=0.8, unclear="", tuning=-12.34):
    probabilities = np.full(N_KEYS, (0.9 - p) / 22 if unclear != SILENCE else 1 / N_KEYS, np.float32)
    if unclear != SILENCE:
        probabilities[parse_key(first)], probabilities[parse_key(second)] = p, 0.1
    return Estimate(None if unclear else parse_key(first), probabilities, tuning, 200.0, 1.5, unclear)


SURE = Answer(Path("a, b.mp3"), heard(), tag="11A")
RELATIVE = Answer(Path("c.mp3"), heard(), tag="A", new_tag="F#m")
STRANGE = Answer(Path("d.mp3"), heard(), tag="??")
SILENT = Answer(Path("e.mp3"), heard(unclear=SILENCE, tuning=0.0))
DOUBTFUL = Answer(Path("f.mp3"), heard(p=0.2, unclear=DOUBT), tag="C")
UNREAD = Answer(Path("g.mp3"), error="g.mp3 is damaged.")
UNTAGGED = Answer(Path("h.au"), heard(), error="h.au has no tag.")
ALL = [SURE, RELATIVE, STRANGE, SILENT, DOUBTFUL, UNREAD, UNTAGGED]


def shown(printer, *rest, **options):
    lines = []
    made = printer(lines.append, *rest, **options)
    for answer in ALL:
        made.add(answer)
    made.end()
    return "\n".join(lines)


def test_a_record_holds_all_notations_and_how_the_tag_agrees():
    assert SURE.record() == {
        "file": "a, b.mp3", "key": "F# minor", "camelot": "11A", "open_key": "4m", "confidence": 0.8,
        "runner_up": "A major", "runner_up_confidence": 0.1, "tuning_cents": -12.3, "seconds": 200.0,
        "silence_seconds": 1.5, "unclear": None, "tag": "11A", "tag_agrees": True, "new_tag": None, "error": None,
    }  # fmt: skip
    assert [answer.record()["tag_agrees"] for answer in ALL[1:4]] == [False, None, None]
    assert DOUBTFUL.record()["key"] is None and DOUBTFUL.record()["unclear"] == "doubt"
    assert DOUBTFUL.record()["tag_agrees"] is None and DOUBTFUL.record()["confidence"] == 0.2
    assert UNREAD.record() == dict.fromkeys(SURE.record()) | {"file": "g.mp3", "error": "g.mp3 is damaged."}


def test_json_and_csv_say_the_same():
    records = json.loads(shown(AsJson))
    assert records == [answer.record() for answer in ALL]
    rows = list(csv.DictReader(io.StringIO(shown(AsCsv))))
    assert rows == [{name: "" if value is None else str(value) for name, value in r.items()} for r in records]
    nothing = []
    AsJson(nothing.append).end()
    assert json.loads("\n".join(nothing)) == []


def test_the_table():
    assert shown(AsTable, str) == (
        "file      key           Camelot  Open Key  confidence  runner-up        tuning  tag\n"
        "a, b.mp3  F# minor      11A      4m              0.80  A major 0.10  -12 cents  11A (same)\n"
        "c.mp3     F# minor      11A      4m              0.80  A major 0.10  -12 cents  A (relative) -> F#m\n"
        "d.mp3     F# minor      11A      4m              0.80  A major 0.10  -12 cents  ?? (not comparable)\n"
        "e.mp3     no clear key                                 silence\n"
        "f.mp3     no clear key                           0.20  doubt         -12 cents  C\n"
        "h.au      F# minor      11A      4m              0.80  A major 0.10  -12 cents"
    )
    lines = shown(AsTable, str, notation="openkey", dry_run=True).split("\n")
    assert lines[0].split() == "file Open Key confidence runner-up tuning tag (dry run)".split()
    assert "  4m  " in lines[1] and " 4d 0.10 " in lines[1] and "F# minor" not in lines[1]


def test_segments_stand_under_their_file_and_in_json():
    segments = (Segment(0.0, 61.26, 18, 0.912), Segment(61.26, 200.0, 9, 0.5))
    found = replace(SURE.estimate, timeline=Timeline(np.zeros(3), np.zeros((2, N_KEYS)), segments))
    lines = []
    printer = AsTable(lines.append, str, notation="key")
    printer.add(replace(SURE, estimate=found))
    printer.add(DOUBTFUL)
    printer.end()
    assert lines[0].split("\n")[2:4] == [
        "  0:00 to 1:01  F# minor            0.91",
        "  1:01 to 3:20  A major             0.50",
    ]
    record = replace(SURE, estimate=found).record(segments=True)
    assert {name: value for name, value in record.items() if name != "segments"} == SURE.record()
    assert record["segments"][1] == {
        "start": 61.26, "end": 200.0, "key": "A major", "camelot": "11B", "open_key": "4d", "confidence": 0.5
    }  # fmt: skip
    assert UNREAD.record(segments=True)["segments"] == SURE.record(segments=True)["segments"] == []
    AsJson(lines.append, segments=True).add(replace(SURE, estimate=found))
    assert json.loads(lines[-1])["segments"] == record["segments"]


def test_the_summary_counts():
    assert summary(ALL) == "7 files: 4 with a key, 2 with no clear key, 1 could not be read, 1 could not be tagged"
    assert summary([SURE]) == "1 file: 1 with a key" and summary([]) == "0 files: no answer"


class Finder:
    """Says of every file what it is named after."""

    def estimate(self, path, *, over_time):
        if path.stem == "bad":
            raise KeyMynaError("bad is damaged.")
        return heard(unclear=DOUBT, p=0.2) if path.stem == "noise" else heard(path.stem)


@pytest.fixture
def written(monkeypatch):
    tags = {Path("C.mp3"): "8B"}
    monkeypatch.setattr(answers, "read_key", lambda path: tags.get(path, ""))
    monkeypatch.setattr(answers, "write_key", tags.__setitem__)
    return tags


@pytest.mark.parametrize("jobs", [1, 3])
def test_tags_are_written_where_there_is_a_key_and_they_differ(written, jobs):
    files = [Path(f"{name}.mp3") for name in ("C", "D", "bad", "noise", "F#m", "Bb")]
    before = dict(written)
    dry = list(ask(Finder(), files, jobs=jobs, notation="camelot", dry_run=True))
    assert written == before
    wet = list(ask(Finder(), files, jobs=jobs, notation="camelot"))
    assert [answer.file for answer in wet] == files == [answer.file for answer in dry]
    assert [a.new_tag for a in wet] == [a.new_tag for a in dry] == ["", "10B", "", "", "11A", "6B"]
    assert [a.error for a in wet] == ["", "", "bad is damaged.", "", "", ""]
    assert written == {Path("C.mp3"): "8B", Path("D.mp3"): "10B", Path("F#m.mp3"): "11A", Path("Bb.mp3"): "6B"}
    list(ask(Finder(), files, jobs=jobs))
    assert written[Path("D.mp3")] == "10B"  # nothing is written that was not asked for


def test_a_tag_that_cannot_be_written_is_told_and_the_key_stays(written, monkeypatch):
    def refuse(path, text):
        raise KeyMynaError("read-only.")

    monkeypatch.setattr(answers, "write_key", refuse)
    (answer,) = ask(Finder(), [Path("D.mp3")], jobs=1, notation="key")
    assert answer.error == "read-only." and answer.new_tag == "" and answer.estimate.key == parse_key("D")
