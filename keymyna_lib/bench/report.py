"""All subjects within a time budget, and the result: one JSON of the machine and a long list of rows."""

from __future__ import annotations

import gc
import importlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import write_json
from keymyna_lib.base.progress import bar
from keymyna_lib.bench.measure import Case, Measurement, machine, not_run
from keymyna_lib.bench.sizes import SIZES, SUBJECTS
from keymyna_lib.report import provenance
from keymyna_lib.report.traced import TracedTable


def measure_all(
    subjects: Sequence[str] = SUBJECTS, *, size: str = "full", budget: float = 1800.0, show: bool = True
) -> dict[str, Any]:
    """Measure.

    Parameters
    ----------
    subjects : names in `sizes.SUBJECTS`.
    size : a name in `sizes.SIZES`.
    budget : s for all cases; what one leaves is shared among the next ones. A case takes at least three rounds,
        however long they last.
    show : draw a progress bar.

    Returns
    -------
    machine, date, commit, dirty, size, budget, seconds (that it took), and measurements: one dictionary of the fields
    of `measure.Measurement` per row.

    Raises
    ------
    KeyMynaError
        For an unknown subject or size, or a budget that is not positive.
    """
    for name, known in (*((subject, SUBJECTS) for subject in subjects), (size, tuple(SIZES))):
        if name not in known:
            raise KeyMynaError(f"{name!r}: choose from {', '.join(known)}.")
    if not budget > 0:
        raise KeyMynaError(f"budget {budget}: expected a positive number of seconds.")
    date, here, began, rows = provenance.now(), machine(), time.perf_counter(), []
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.CACHE, prefix="bench-") as folder:
        modules = [importlib.import_module(f"keymyna_lib.bench.{subject}") for subject in subjects]
        cases: list[Case] = [case for module in modules for case in module.cases(SIZES[size], Path(folder))]
        left = sum(case.weight for case in cases)
        with bar(desc="benchmark", total=len(cases), unit="case", show=show) as progress:
            for case in cases:
                progress.set_postfix_str(f"{case.subject}: {case.name}"[:40])
                seconds = (budget - (time.perf_counter() - began)) * case.weight / left if left > 0 else 0.0
                try:
                    rows += case.run(max(seconds, 0.0))
                except Exception as error:  # one case that fails here must not cost the hour of the others
                    rows.append(not_run(case.subject, case.name, "ours", "all", "", f"{type(error).__name__}: {error}"))
                left -= case.weight
                gc.collect()  # what a case held must not weigh on the next
                progress.update()
    environment = provenance.environment()
    return {
        "machine": here,
        "date": date,
        "commit": environment["commit"],
        "dirty": environment["dirty"],
        "size": size,
        "budget": budget,
        "seconds": round(time.perf_counter() - began, 1),
        "measurements": [asdict(row) for row in rows],
    }


def write(found: dict[str, Any], path: Path) -> None:
    """Write what `measure_all` returned as JSON."""
    write_json(path, found)


def frame(found: dict[str, Any]) -> pd.DataFrame:
    """The rows of what `measure_all` returned, or of its JSON; one column per field of `measure.Measurement`."""
    return pd.DataFrame(found["measurements"], columns=[field.name for field in fields(Measurement)])


def text(found: dict[str, Any]) -> str:
    """The rows as text, and what they were measured on."""
    table = readable(frame(found)).to_string(index=False, justify="left")
    about = ", ".join(f"{key} {value}" for key, value in found["machine"].items() if value != "")
    return f"{table}\n\n{about}; {found['date']}; commit {found['commit']}{' (dirty)' if found['dirty'] else ''}"


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """Columns subject, case, system, quantity, value (median, quartiles and unit; or why it was not run), rounds."""

    def value(row: Any) -> str:
        if row.n == 0:
            return row.note
        to = f" {row.ratio_to}" if row.ratio_to else ""
        spread = f" [{row.low:.3g}, {row.high:.3g}]" if row.n > 1 else ""
        return f"{row.median:.3g} {row.unit}".strip() + to + spread + (f" ({row.note})" if row.note else "")

    made = rows[["subject", "case", "system", "quantity"]].assign(
        case=[row.case if pd.isna(row.size) else f"{row.case}: {row.size:g}" for row in rows.itertuples()],
        value=[value(row) for row in rows.itertuples()],
    )
    return made.assign(rounds=rows["n"])


def speed_table(rows: pd.DataFrame, run_id: str) -> TracedTable:
    """Rows of the benchmark (columns as in `bench.measure.Measurement`) as text, their values traced to the run."""
    return TracedTable.of_runs(readable(rows), ["subject", "case", "system", "quantity"], [run_id], ["value"])
