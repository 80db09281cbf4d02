"""A table whose measured cells name the runs behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd


class TracedTable:
    """A table built row by row, text and trace together, so that the two cannot get out of step.

    Parameters
    ----------
    labels : the columns that name a row.
    columns : the order of columns where it is not that of the cells as they come, labels included.

    Examples
    --------
    >>> table = TracedTable(["head", "labels"])
    >>> row = table.row("linear", "48 labels")
    >>> row.cell("score", "71.2", ["probe-0123456789-s0-a1"])
    >>> row.cell("tracks", 60)
    >>> table.frame.to_dict("records")
    [{'head': 'linear', 'labels': '48 labels', 'score': '71.2', 'tracks': 60}]
    >>> table.cells
    {'linear, 48 labels / score': ['probe-0123456789-s0-a1']}
    """

    def __init__(self, labels: Sequence[str], columns: Sequence[str] = ()):
        self.labels = list(labels)
        self.cells: dict[str, list[str]] = {}  # "row labels joined by ', ' / column" -> ids of the runs behind the cell
        self._columns = list(columns)
        self._rows: list[dict[str, Any]] = []

    @classmethod
    def of_runs(
        cls, frame: pd.DataFrame, labels: Sequence[str], run_ids: Iterable[str], measured: Sequence[str] | None = None
    ) -> TracedTable:
        """A finished table that the same runs are behind throughout.

        Parameters
        ----------
        measured : the columns to trace; all but the labels where it is None.
        """
        table = cls(labels, list(frame.columns))
        measured = frame.columns.difference(table.labels) if measured is None else measured
        run_ids = list(run_ids)
        for values in frame.to_dict("records"):
            row = table.row(*(values.pop(label) for label in labels))
            for column, value in values.items():
                row.cell(column, value, run_ids if column in measured else None)
        return table

    def row(self, *labels: Any) -> TracedRow:
        """Add a row, named by one value for each label column, and fill it by its `cell`."""
        values = dict(zip(self.labels, labels, strict=True))
        self._rows.append(values)
        return TracedRow(self, values)

    @property
    def columns(self) -> list[str]:
        """The columns in order: as given, then as they first appear, row by row."""
        return list(dict.fromkeys([*self._columns, *(column for row in self._rows for column in row)]))

    @property
    def frame(self) -> pd.DataFrame:
        """The text, as it is written to CSV; a cell that a row lacks is empty."""
        columns = self.columns
        return pd.DataFrame([[row.get(column, "") for column in columns] for row in self._rows], columns=columns)


class TracedRow:
    """One row of a `TracedTable`, to be filled."""

    def __init__(self, table: TracedTable, values: dict[str, Any]):
        self._table, self._values = table, values
        self._name = ", ".join(str(values[label]) for label in table.labels)

    def cell(self, column: str, value: Any, run_ids: Iterable[str] | None = None) -> None:
        """Set a cell, and trace it to runs; without them it holds no measurement (a count, or that it was not run)."""
        self._values[column] = value
        if run_ids is not None:
            self._table.cells[f"{self._name} / {column}"] = list(run_ids)
