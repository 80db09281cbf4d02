"""Files asked for their keys, and the answers as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.key_over_time import Segment
from keymyna_lib.keys import KEY_NAMES, NOTATIONS, RELATIONS, camelot, open_key, parse_key, relation
from keymyna_lib.predict import SILENCE, Estimate, KeyFinder
from keymyna_lib.tool.tags import read_key, write_key

_HEADINGS = {"key": "key", "camelot": "Camelot", "openkey": "Open Key"}
# As in a tag, but for the usual spelling, which has room here.
_SHOWN: dict[str, Callable[[int], str]] = {**NOTATIONS, "key": KEY_NAMES.__getitem__}
_WIDE = 10_000  # columns, where nobody's terminal says how many there are


@dataclass(frozen=True)
class Answer:
    """What is known of one file.

    Attributes
    ----------
    file : as named, or found.
    estimate : None where the file could not be read.
    error : why it could not be read, or tagged; empty where nothing went wrong.
    tag : the key that its tags state, as written there; empty for none.
    new_tag : what was written there, or would be in a dry run; empty for nothing.
    """

    file: Path
    estimate: Estimate | None = None
    error: str = ""
    tag: str = ""
    new_tag: str = ""

    @property
    def tag_relation(self) -> str:
        """How the key of the tag relates to the estimate: one of keys.RELATIONS; empty without the two."""
        if self.estimate is None or self.estimate.key is None:
            return ""
        try:
            return RELATIONS[int(relation(parse_key(self.tag), self.estimate.key))]
        except KeyMynaError:  # no key, or one of no kind that we know
            return ""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The keys over time; none where they were not asked for, or there is no clear key."""
        heard = self.estimate and self.estimate.timeline
        return heard.segments if heard else ()

    def record(self, *, segments: bool = False) -> dict[str, Any]:
        """The answer in plain values, None for what there is not; the columns of the CSV.

        Parameters
        ----------
        segments : add the list of segments, as no column can hold it.
        """
        found: dict[str, Any] = {"file": os.fspath(self.file)} | dict.fromkeys(_COLUMNS[1:])
        if (heard := self.estimate) is not None:
            first, second = heard.ranking[:2]
            found |= dict(
                confidence=round(float(heard.probabilities[first]), 4),
                tuning_cents=round(heard.tuning, 1) + 0.0,  # no -0.0
                seconds=round(heard.seconds, 3),
                silence_seconds=round(heard.silence, 3),
                unclear=heard.unclear or None,
            )
            if heard.key is not None:
                found |= dict(key=KEY_NAMES[first], camelot=camelot(first), open_key=open_key(first))
                found |= dict(
                    runner_up=KEY_NAMES[second], runner_up_confidence=round(float(heard.probabilities[second]), 4)
                )
        agrees = self.tag_relation == "same" if self.tag_relation else None
        found |= dict(tag=self.tag or None, tag_agrees=agrees, new_tag=self.new_tag or None, error=self.error or None)
        return found | ({"segments": [_segment_record(one) for one in self.segments]} if segments else {})


def _segment_record(segment: Segment) -> dict[str, Any]:
    return dict(
        start=round(segment.start, 2),
        end=round(segment.end, 2),
        key=KEY_NAMES[segment.key],
        camelot=camelot(segment.key),
        open_key=open_key(segment.key),
        confidence=round(segment.confidence, 4),
    )


_COLUMNS = (
    "file key camelot open_key confidence runner_up runner_up_confidence tuning_cents seconds silence_seconds unclear "
    "tag tag_agrees new_tag error"
).split()


def ask(
    finder: KeyFinder,
    files: Sequence[Path],
    *,
    jobs: int,
    notation: str = "",
    dry_run: bool = False,
    over_time: bool = False,
) -> Generator[Answer, None, None]:
    """The answer of each file, in their order, as they come.

    Parameters
    ----------
    jobs : files at a time; with several, each has one thread.
    notation : one of keys.NOTATIONS in which to write keys into the files' tags; empty to write none.
    dry_run : write nothing, and say what would be written.
    over_time : find the keys over time too.
    """
    one = partial(_ask_one, finder, notation=notation, dry_run=dry_run, over_time=over_time)
    if min(jobs, len(files)) < 2:
        yield from map(one, files)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(one, files)
    finally:
        torch.set_num_threads(threads)


def _ask_one(finder: KeyFinder, file: Path, *, notation: str, dry_run: bool, over_time: bool) -> Answer:
    try:
        heard = finder.estimate(file, over_time=over_time)
    except KeyMynaError as error:
        return Answer(file, error=str(error))
    tag, new, problem = read_key(file), "", ""
    if notation and heard.key is not None:
        new = NOTATIONS[notation](heard.key)
        new = "" if new == tag else new
        try:
            if new and not dry_run:
                write_key(file, new)
        except KeyMynaError as error:
            new, problem = "", str(error)
    return Answer(file, heard, problem, tag, new)


def summary(answers: Sequence[Answer]) -> str:
    """How many files got which kind of answer, in words."""
    unread = sum(answer.estimate is None for answer in answers)
    untagged = sum(answer.estimate is not None and bool(answer.error) for answer in answers)
    keyed = sum(answer.estimate is not None and answer.estimate.key is not None for answer in answers)
    counts = {
        "with a key": keyed,
        "with no clear key": len(answers) - unread - keyed,
        "could not be read": unread,
        "could not be tagged": untagged,
    }
    shown = [f"{count} {what}" for what, count in counts.items() if count]
    return f"{len(answers)} file{'s' * (len(answers) != 1)}: {', '.join(shown) or 'no answer'}"


class AsJson:
    """An array with an object a line, which is whole however early it ends; `segments` adds the keys over time."""

    def __init__(self, echo: Callable[[str], None], *, segments: bool = False):
        self._echo, self._before, self._segments = echo, "  ", segments
        echo("[")

    def add(self, answer: Answer) -> None:
        """Show an answer."""
        self._echo(self._before + json.dumps(answer.record(segments=self._segments)))
        self._before = ", "

    def end(self) -> None:
        """Show what comes after the last one."""
        self._echo("]")


class AsCsv:
    """A line of names and a line for each answer."""

    def __init__(self, echo: Callable[[str], None]):
        self._echo = echo
        echo(_csv_line(_COLUMNS))

    def add(self, answer: Answer) -> None:
        """Show an answer."""
        self._echo(_csv_line(list(answer.record().values())))

    def end(self) -> None:
        """Nothing comes after the last one."""


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)  # quotes the characters that could end a line
    return line.getvalue()[:-2]


class AsTable:
    """A table for people, shown at the end, of all files that could be read; as wide as it needs to be.

    Segments, where they were asked for, stand under their file.

    Parameters
    ----------
    plain : makes a file's name harmless to terminals.
    notation : the only one to show keys in, one of keys.NOTATIONS; empty for all.
    dry_run : whether new tags were not written.
    """

    def __init__(
        self, echo: Callable[[str], None], plain: Callable[[str], str], *, notation: str = "", dry_run: bool = False
    ):
        self._echo, self._plain, self._dry_run = echo, plain, dry_run
        self._notations = [notation] if notation else list(NOTATIONS)
        self._answers: list[Answer] = []

    def add(self, answer: Answer) -> None:
        """Remember an answer."""
        if answer.estimate is not None:
            self._answers.append(answer)

    def end(self) -> None:
        """Show all of them."""
        if not self._answers:
            return
        from rich.console import Console  # here, as other output needs none
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("file", *map(_HEADINGS.__getitem__, self._notations), "confidence", "runner-up", "tuning"):
            table.add_column(name, justify="right" if name in ("confidence", "tuning") else "left", no_wrap=True)
        tags = any(answer.tag or answer.new_tag for answer in self._answers)
        if tags:
            table.add_column("tag (dry run)" if self._dry_run else "tag", no_wrap=True)
        for answer in self._answers:
            cells = [os.fspath(answer.file), *self._heard(answer.estimate), *([_tag(answer)] if tags else [])]
            table.add_row(*(Text(self._plain(cell)) for cell in cells))
            for one in answer.segments:
                keys = [_SHOWN[name](one.key) for name in self._notations]
                table.add_row(f"  {_clock(one.start)} to {_clock(one.end)}", *keys, f"{one.confidence:.2f}")
        text = io.StringIO()
        Console(file=text, width=_WIDE).print(table)
        self._echo("\n".join(line.rstrip() for line in text.getvalue().split("\n")[:-1]))

    def _heard(self, heard: Estimate) -> list[str]:
        first, second = heard.ranking[:2]
        confidence, tuning = f"{heard.probabilities[first]:.2f}", f"{round(heard.tuning):+d} cents"
        if heard.key is None:
            numbers = ["", ""] if heard.unclear == SILENCE else [confidence, tuning]
            return ["no clear key", *[""] * (len(self._notations) - 1), numbers[0], heard.unclear, numbers[1]]
        keys = [_SHOWN[name](first) for name in self._notations]
        return [*keys, confidence, f"{_SHOWN[self._notations[0]](second)} {heard.probabilities[second]:.2f}", tuning]


def _clock(seconds: float) -> str:
    """Minutes and seconds.

    >>> _clock(0.2), _clock(59.96), _clock(3725)
    ('0:00', '1:00', '62:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _tag(answer: Answer) -> str:
    """What the tags say and how it agrees, and what they say then."""
    if not answer.tag or answer.estimate.key is None:
        return f"-> {answer.new_tag}" if answer.new_tag else answer.tag
    said = f"{answer.tag} ({answer.tag_relation or 'not comparable'})"
    return f"{said} -> {answer.new_tag}" if answer.new_tag else said
