"""Progress bars with an ETA, readable in a terminal, a notebook and a log."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm


def bar(
    iterable: Iterable | None = None,
    *,
    desc: str,
    total: int | None = None,
    unit: str = "it",
    unit_scale: bool = False,
    show: bool = True,
) -> tqdm:
    """A text progress bar on standard error (the runner passes it on live; committed notebooks keep its last line).

    Parameters
    ----------
    desc : what is being done, in a few words.
    unit_scale : shorten large counts (12.3M), as for bytes.
    show : False to stay silent.
    """
    # leave=None: a bar inside another one vanishes when it is full, the outermost stays.
    return tqdm(
        iterable,
        desc=desc,
        total=total,
        unit=unit,
        unit_scale=unit_scale,
        file=sys.stderr,
        ncols=100,
        mininterval=0.5,
        disable=not show,
        dynamic_ncols=False,
        leave=None,
    )
