"""Command line of the benchmark: measures on this machine, prints a table, writes JSON."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.bench import report
from keymyna_lib.bench.sizes import SIZES


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m keymyna_lib.bench", allow_abbrev=False, description=__doc__)
    made.add_argument(
        "--only",
        nargs="+",
        choices=report.SUBJECTS,
        default=list(report.SUBJECTS),
        metavar="SUBJECT",
        help=f"what to measure: {', '.join(report.SUBJECTS)}",
    )
    made.add_argument(
        "--budget",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="time for all of it, about; each case takes three rounds at least (default: 1800)",
    )
    made.add_argument("--size", choices=SIZES, default="full", help="tiny is for tests")
    made.add_argument("--out", type=Path, default=Path("bench.json"), metavar="FILE", help="default: bench.json")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; status 0, or 1 for a failure."""
    options = parser().parse_args(arguments)
    try:
        found = report.measure_all(options.only, size=options.size, budget=options.budget)
        report.write(found, options.out)
    except KeyMynaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(report.text(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
