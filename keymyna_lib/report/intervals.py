"""How scores, intervals, label budgets and verdicts are written wherever they are shown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NOT_RUN, UNDECIDED = "not run", "undecided"
HOLDS, DOES_NOT, CANNOT_BE_TOLD, NOT_TESTED = "holds", "does not", "cannot be told", "not tested"  # of a claim


def budget_label(budget: float | None, n_train: int) -> str:
    """A label budget as text; 0 stands for all `n_train` training tracks, a missing one (None, NaN) for no training."""
    if budget is None or math.isnan(budget):
        return "none"
    return f"{int(budget)} labels" if budget else f"all {n_train} labels"


def with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A score in 0..1 and its interval, both times 100: "71.2 [66.0, 76.1]"; `sign` "+" for differences."""
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def difference_cell(cell: Mapping[str, Any]) -> str:
    """A paired difference of `summaries.comparison` with its interval and adjusted p, or that it was not run."""
    if not cell["shared"]:
        return NOT_RUN
    p = f"p {cell['p_holm']:.3f}" if cell["p_holm"] >= 0.001 else "p < 0.001"
    return f"{with_interval(cell['difference'], cell['d_low'], cell['d_high'], '+')}, {p}"


def direction(low: float, high: float) -> str:
    """What the interval of a difference says, in words.

    >>> direction(-0.01, 0.03)
    'neither clearly more nor less than'
    """
    return "more than" if low > 0 else "less than" if high < 0 else "neither clearly more nor less than"
