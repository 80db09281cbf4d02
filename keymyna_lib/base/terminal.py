"""Lines for people and pipes: names of files as they are on disk, and beside progress bars."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator

import click


def echo(line: str, *, err: bool = False) -> None:
    """Print names of files in the bytes that they have on disk, whatever the terminal's encoding."""
    bars = sys.modules.get("tqdm")  # only where some bar may be on the screen
    with bars.tqdm.external_write_mode() if bars else contextlib.nullcontext():
        click.echo(os.fsencode(line), err=err)


def plain(name: str) -> str:
    """Without control characters, which would break or turn lines, or drive the terminal."""
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]",
        lambda found: found[0].encode("unicode_escape").decode(),
        name,
    )


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within it, nothing but Python writes to standard error: decoders in C comment there on every damaged file."""
    kept = os.dup(2)
    nowhere, ours = os.open(os.devnull, os.O_WRONLY), sys.stderr
    try:
        ours.flush()
        os.dup2(nowhere, 2)
        with open(kept, "w", 1, ours.encoding, ours.errors, closefd=False) as beside:
            if ours is sys.__stderr__:
                sys.stderr = beside
            try:
                yield
            finally:
                sys.stderr = ours
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class Notes(logging.Handler):
    """Prints what the library passes over with a warning, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        echo(plain(f"note: {record.getMessage()}"), err=True)
