"""Does this Python interpreter's environment satisfy `requirements.lock`?

Run as a file by any Python, before anything is installed: `python environment.py requirements.lock` exits
with 0 when it does, and otherwise prints what differs and exits with 1. Standard library only, except for
`packaging`, which the lock itself contains.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path


def locked(lock: Path | str) -> dict[str, str]:
    """Versions by distribution name, of the lock's lines whose markers hold in this environment.

    Raises
    ------
    ModuleNotFoundError
        Without `packaging`, which evaluates the markers.
    """
    from packaging.requirements import Requirement

    lines = (line.split("#")[0].strip() for line in Path(lock).read_text(encoding="utf-8").splitlines())
    requirements = [Requirement(line) for line in lines if line]
    return {r.name: next(iter(r.specifier)).version for r in requirements if r.marker is None or r.marker.evaluate()}


def differences(lock: Path | str) -> list[str]:
    """Why this environment does not satisfy the lock, one phrase per distribution; empty if it does."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return [f"Python {sys.version_info[0]}.{sys.version_info[1]} is not 3.11 to 3.13"]
    try:
        wanted = locked(lock)
    except ModuleNotFoundError:
        return ["packaging is missing"]
    if not wanted:
        return ["the lock is for Linux on x86-64 only"]
    found = []
    for name, version in wanted.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(f"{name} is missing")
            continue
        # A build tag such as 2.11.0+cpu is another build, and the lock says which one is wanted.
        if installed != version:
            found.append(f"{name} is {installed}, not {version}")
    return found


if __name__ == "__main__":
    problems = differences(sys.argv[1])
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        sys.exit("; ".join(problems[:3]) + more)
