"""Progress bars of notebooks that run in other processes, shown as they move, side by side."""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable
from typing import TextIO

PLAIN_INTERVAL = 30.0  # s between the lines of a notebook's progress where there is no terminal
DEPTH = 3  # lines of a notebook that a terminal shows: bars within bars


class Lines:
    """What a terminal shows of some text, by its carriage returns and (for nested bars) moves up."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row, self._at_start = 0, True

    def feed(self, text: str) -> None:
        """Take the next piece of text."""
        for part in re.split(r"(\r|\n|\x1b\[A)", text):
            if part in ("\r", "\n", "\x1b[A"):
                self._row = max(self._row + {"\r": 0, "\n": 1, "\x1b[A": -1}[part], 0)
                self.lines += [""] * (self._row + 1 - len(self.lines))
                self._at_start = part != "\x1b[A"
            elif part:
                # A bar is drawn over all of its line.
                self.lines[self._row] = part if self._at_start else self.lines[self._row] + part
                self._at_start = False

    def forget(self, kept: int) -> None:
        """Drop all but the last lines."""
        dropped = min(max(len(self.lines) - kept, 0), self._row)
        del self.lines[:dropped]
        self._row -= dropped


class Screen:
    """Where notebooks show how far they are, several at once perhaps, and the runner says what it does.

    A terminal has, below all that was said, the bars of each notebook under its name, redrawn as they move. A log gets
    a line now and then.

    Parameters
    ----------
    out : where bars go, normally the runner's own standard error.
    say : where the runner's lines go.
    moves : whether both lead to a terminal.
    """

    def __init__(self, out: TextIO, say: Callable[[str], None], *, moves: bool) -> None:
        self.out, self.moves = out, moves
        self._say, self._lock = say, threading.Lock()
        self._bars: list[LiveBars] = []
        self._drawn = 0  # lines below all that was said, the cursor after them

    def say(self, line: str) -> None:
        """Print a line, whole, above the bars."""
        with self._lock:
            self._erase()
            self._say(line)
            self._draw()

    def bars(self, name: str) -> LiveBars:
        """A place for the bars of a notebook that begins."""
        made = LiveBars(self, name)
        with self._lock:
            self._bars.append(made)
        return made

    def write(self, bars: LiveBars, text: str) -> None:
        """Show what a notebook has written."""
        with self._lock:
            if self.moves:
                bars.shown.feed(text)
                bars.shown.forget(DEPTH)
                self._erase()
                self._draw()
                return
            states = [state.strip() for state in re.split(r"\r|\n|\x1b\[A", text) if state.strip()]
            if states and time.monotonic() - bars.printed >= PLAIN_INTERVAL:
                self.out.write(f"    {bars.name[:2]}: {states[-1]}\n")
                self.out.flush()
                bars.printed = time.monotonic()

    def close(self, bars: LiveBars) -> None:
        """Take a notebook off the screen."""
        with self._lock:
            self._bars.remove(bars)
            self._erase()
            self._draw()

    def _erase(self) -> None:
        if self._drawn:
            self.out.write(f"\x1b[{self._drawn}A\r\x1b[J")
            self.out.flush()
            self._drawn = 0

    def _draw(self) -> None:
        if not self.moves:
            return
        width, height = shutil.get_terminal_size()
        lines = []
        for bars in self._bars:
            if moving := [line for line in bars.shown.lines if line.strip()]:
                lines += [bars.name, *(f"  {line}" for line in moving)]
        lines = lines[: height - 1]  # what has left the screen cannot be erased
        self.out.write("".join(f"{line[: width - 1]}\n" for line in lines))  # one that wrapped would count twice
        self.out.flush()
        self._drawn = len(lines)


class LiveBars:
    """A notebook's standard error, as a file: its bars on a screen.

    Parameters
    ----------
    screen : where to.
    name : of the notebook.
    """

    def __init__(self, screen: Screen, name: str) -> None:
        self.name, self.shown, self.printed = name, Lines(), time.monotonic()
        self._screen = screen

    def write(self, text: str) -> None:
        """Take a piece of text, which may hold carriage returns and begin or end anywhere in a line."""
        self._screen.write(self, text)

    def flush(self) -> None:
        """Nothing to do: what is written is shown at once."""

    def close(self) -> None:
        """Leave the screen."""
        self._screen.close(self)
