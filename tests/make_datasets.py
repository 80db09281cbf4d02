"""Write every data set's layout with tiny rendered recordings: python tests/make_datasets.py DIR [TRACKS [SECONDS]].

Right and wrong labels, missing and corrupt files, wrong checksums; mp3 where the real ones are. Then, for instance,
./run_all.sh --profile smoke --data-root DIR runs on it like on the real thing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import layouts_open
import layouts_published

PUBLISHED = ("giantsteps_key", "giantsteps_mtg_keys", "gtzan", "billboard")


def make(root: Path, tracks: int = 48, seconds: float = 8.0) -> None:
    """Write the paper's data sets with so many whole tracks each, and the open ones at their fixed small size."""
    for name in PUBLISHED:
        getattr(layouts_published, f"write_{name}")(root, tracks=tracks, seconds=seconds)
    for writer in (
        layouts_open.write_fma_keys,
        layouts_open.write_guitarset,
        layouts_open.write_folder,
        layouts_open.write_unlabelled,
        layouts_open.write_giantsteps_key_mirdata,
    ):
        writer(root)


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 4:
        sys.exit(__doc__)
    make(Path(sys.argv[1]), *(kind(text) for kind, text in zip((int, float), sys.argv[2:])))
