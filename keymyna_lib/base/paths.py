"""Where things live: the clone, its cache, and the outputs of a profile."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "keymyna_lib"
NOTEBOOKS = ROOT / "notebooks"
LOCK = ROOT / "requirements.lock"
# Audio, spectrograms, checkpoints and embeddings: large, made anew from the code, never committed.
CACHE = Path(os.path.realpath(os.path.expanduser(os.environ.get("KEYMYNA_CACHE") or ROOT / ".cache")))
BUNDLE = ROOT / "bundle.json"  # there only in a copy that `keymyna bundle` made, see run/bundle.py
SET_BY_HAND = "KEYMYNA_SET_BY_HAND"  # environment variable of the runner for its notebooks, see report/provenance.py

PROFILES = ("smoke", "mini", "mini-full", "mini-full-piece", "gpu", "paper")


def expanded(path: Path | str) -> Path:
    """A path with the home folder in place of "~"; that of nobody stays as it is, and is not there."""
    return Path(os.path.expanduser(path))


def results_dir(profile: str) -> Path:
    """Runs, tables, executed notebooks and the index of a profile; committed but for `smoke`, `gpu` and `paper`."""
    return ROOT / "results" / profile


def figures_dir(profile: str) -> Path:
    """Figures of a profile, each with its data and its provenance; committed but for `smoke`, `gpu` and `paper`."""
    return ROOT / "figures" / profile
