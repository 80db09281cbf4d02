"""Where things live: the clone, its cache, and the outputs of a profile, made here or committed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "keymyna_lib"
NOTEBOOKS = ROOT / "notebooks"
LOCK = ROOT / "requirements.lock"
# Audio, spectrograms, checkpoints and embeddings: large, made anew from the code, never committed.
CACHE = Path(os.path.realpath(os.path.expanduser(os.environ.get("KEYMYNA_CACHE") or ROOT / ".cache")))
# What runs make here, laid out as the clone itself: results/<profile> and figures/<profile>. Git ignores it, and the
# committed results stay as they are until `--publish` replaces them, see run/publish.py.
LOCAL = "local"
BUNDLE = ROOT / "bundle.json"  # there only in a copy that `keymyna bundle` made, see run/bundle.py
SET_BY_HAND = "KEYMYNA_SET_BY_HAND"  # environment variable of the runner for its notebooks, see report/provenance.py

PROFILES = ("smoke", "mini", "mini-full", "mini-full-piece", "gpu", "paper")


def expanded(path: Path | str) -> Path:
    """A path with the home folder in place of "~"; that of nobody stays as it is, and is not there."""
    return Path(os.path.expanduser(path))


def results_dir(profile: str) -> Path:
    """Runs, tables, executed notebooks and the index of a profile, as made here."""
    return ROOT / LOCAL / "results" / profile


def figures_dir(profile: str) -> Path:
    """Figures of a profile, each with its data and its provenance, as made here."""
    return ROOT / LOCAL / "figures" / profile


def committed_dir(profile: str) -> Path:
    """As `results_dir`, but of what was published; committed but for `smoke`, `gpu` and `paper`."""
    return ROOT / "results" / profile


def run_folders(run_id: str) -> Iterator[Path]:
    """The directories of a run, of whatever profile: as made here, then the committed ones."""
    for place in (ROOT / LOCAL, ROOT):
        yield from (place / "results").glob(f"*/runs/{run_id}")
