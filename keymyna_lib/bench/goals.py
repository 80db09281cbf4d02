"""What pre-training is to reach on one GPU, and what `keymyna bench --gpu` has measured: results/gpu.json.

The file is committed, so that the benchmark of any machine shows its rows, with the GPU and the commit they are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.files import read_json
from keymyna_lib.bench.measure import NO_GPU, Measurement, not_run, summary
from keymyna_lib.report.intervals import NOT_RUN

SUBJECT, OURS, REFERENCE = "gpu", "ours", "reference implementation"
ON_CPU = "ours, on its CPU"


@dataclass(frozen=True)
class Goal:
    """A row of the table.

    Attributes
    ----------
    case, quantity, unit, ratio_to : as in `measure.Measurement`.
    value : what is to be reached: at least, or at most where the unit is ms.
    """

    case: str
    quantity: str
    unit: str
    value: float
    ratio_to: str = ""

    def met(self, median: float) -> bool:
        """Whether it has been reached."""
        return median <= self.value if self.unit == "ms" else median >= self.value

    def row(self, values: Sequence[float]) -> Measurement:
        """The row of what was measured, one value a round."""
        return summary(SUBJECT, self.case, OURS, self.quantity, self.unit, values, ratio_to=self.ratio_to)

    def missing(self, note: str) -> Measurement:
        """The row where nothing was measured; `note` says why."""
        return replace(not_run(SUBJECT, self.case, OURS, self.quantity, self.unit, ""), note=note)


# On one H100 or H200, bfloat16, 98 tokens, 90 % of them masked where nothing else is said.
GOALS = {
    "rate": Goal("vit-s, batch 4096, from the store", "examples", "1/s", 100_000),
    "ceiling": Goal("vit-s, batch 4096, from the store", "share of the bf16 ceiling", "", 0.35),
    "bare": Goal("vit-s, batch 4096, from the store", "share of the bare step's rate", "", 0.97),
    "reference": Goal("vit-s, batch 1024, the reference from files", "examples", "x", 50, REFERENCE),
    "step": Goal("vit-s, batch 1024, from the store", "time of a step", "ms", 10),
    "small step": Goal("vit-xxs, batch 128, from the store", "time of a step", "ms", 1),
    "timbre": Goal("vit-xxs, batch 128, timbre changed, unmasked", "time of a step", "ms", 5),
    "embedding": Goal("vit-s, unmasked", "windows embedded", "1/s", 30_000),
    "heads": Goal("grid B, 28 wide heads", "head steps", "x", 20, ON_CPU),
}


def stored_at() -> Path:
    """Where the rows are kept."""
    return paths.ROOT / "results" / "gpu.json"


def stored() -> list[Measurement]:
    """The rows that are kept, each with a note on where it was measured; of goals that have none, that they were not
    run.

    Raises
    ------
    KeyMynaError
        When the file is damaged.
    """
    if not stored_at().exists():
        return [goal.missing(f"{NOT_RUN}: {NO_GPU}") for goal in GOALS.values()]
    found = read_json(stored_at(), "Remove it, or run keymyna bench --gpu where there is a GPU.")
    names = [field.name for field in fields(Measurement)]
    rows = [Measurement(**{name: row[name] for name in names}) for row in found["measurements"]]
    code = f"commit {found['commit'][:7]}" if found["commit"] else f"code {found['code_hash'][:12]}"  # without a clone
    where = f"{found['machine']['gpu']}, {code}"
    return [replace(row, note=f"{row.note}; {where}" if row.note else where) for row in rows]


def table(rows: Sequence[Measurement]) -> pd.DataFrame:
    """The goals beside what was measured: columns row, measured, goal, met."""
    found = {(row.case, row.quantity, row.unit): row for row in rows}
    made: list[dict[str, Any]] = []
    for goal in GOALS.values():
        row = found.get((goal.case, goal.quantity, goal.unit), goal.missing(NOT_RUN))
        ran = row.median is not None
        made.append(
            {
                "row": f"{goal.case}: {goal.quantity}",
                "measured": f"{_number(row.median)} {goal.unit}".strip() if ran else row.note,
                "goal": f"{_number(goal.value)} {goal.unit}".strip(),
                "met": ("yes" if goal.met(row.median) else "no") if ran else "",
            }
        )
    return pd.DataFrame(made)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
