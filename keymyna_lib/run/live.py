"""Progress bars of a notebook that runs in another process, shown as they move."""

from __future__ import annotations

import re
import shutil
import time
from typing import TextIO

PLAIN_INTERVAL = 30.0  # s between the lines of a progress bar where there is no terminal


class LiveBars:
    """Forwards a notebook's standard error: bars move in a terminal, a log gets a line now and then.

    Parameters
    ----------
    out : where to, normally the runner's own standard error.
    """

    def __init__(self, out: TextIO) -> None:
        self.out, self.last_line, self.printed = out, "", time.monotonic()
        self.open_line = False

    def write(self, text: str) -> None:
        """Take a piece of text, which may hold carriage returns and begin or end anywhere in a line."""
        if self.out.isatty():
            width = shutil.get_terminal_size().columns - 1  # a bar that wrapped would scroll
            self.out.write(re.sub(rf"([^\r\n]{{{width}}})[^\r\n]+", r"\1", text))
            self.open_line = not text.endswith("\n")
            return
        states = [state.strip() for state in re.split(r"\r|\n|\x1b\[A", text) if state.strip()]
        if states and time.monotonic() - self.printed >= PLAIN_INTERVAL:
            self.out.write(f"    {states[-1]}\n")
            self.printed = time.monotonic()

    def flush(self) -> None:
        """Show what was written."""
        self.out.flush()

    def close(self) -> None:
        """Leave the terminal at the beginning of an empty line."""
        if self.open_line:
            self.out.write("\r\x1b[K")
            self.out.flush()
