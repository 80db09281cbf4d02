"""A key model's answers as tables and pictures: whether confidence means what it says, and the key over time."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keymyna_lib.calibration import Coverage, Reliability
from keymyna_lib.key_over_time import Timeline
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, KEY_NAMES, N_KEYS, short_name
from keymyna_lib.report.intervals import NOT_RUN, with_interval
from keymyna_lib.report.traced import TracedRow, TracedTable

_COLOURS = plt.get_cmap("hsv")(np.arange(N_KEYS) / N_KEYS)  # along the circle: near keys look alike


def key_timeline(timeline: Timeline, *, title: str = "") -> Figure:
    """Probability of the 24 keys along the circle of fifths against time, and above it the segments with their keys."""
    figure, (above, axis) = plt.subplots(
        2, 1, figsize=(11, 5.6), sharex=True, gridspec_kw={"height_ratios": [1, 9]}, layout="constrained"
    )
    order = list(CIRCLE_OF_FIFTHS)
    picture = axis.pcolormesh(
        timeline.edges,
        np.arange(N_KEYS + 1) - 0.5,
        timeline.probabilities[:, order].T,
        cmap="magma",
        vmin=0,
        vmax=1,
        rasterized=True,
    )
    axis.set_yticks(range(N_KEYS), [KEY_NAMES[key] for key in order], fontsize=8)
    axis.set(xlabel="time [s]", xlim=(timeline.edges[0], timeline.edges[-1]))
    figure.colorbar(picture, ax=axis, label="probability", pad=0.01)
    for segment in timeline.segments:
        length = segment.end - segment.start
        colour = (*_COLOURS[order.index(segment.key)][:3], 0.35)
        above.barh(0, length, left=segment.start, height=1, color=colour, edgecolor="black", linewidth=0.8)
        if length > 0.03 * (timeline.edges[-1] - timeline.edges[0]):  # room for a name
            above.text(segment.start + length / 2, 0, short_name(segment.key), ha="center", va="center")
    above.set(ylim=(-0.5, 0.5), yticks=[], title=title)
    above.spines[:].set_visible(False)
    return figure


def reliability_diagram(axis: Axes, found: Reliability, label: str) -> None:
    """Share of right answers against confidence, a point a bin; on the diagonal, confidence means what it says."""
    axis.plot([0, 1], [0, 1], color="#999999", linestyle="--", linewidth=1)
    axis.plot(found.confidence, found.accuracy, marker="o", label=f"{label} (error {found.error:.3f})")
    axis.set(xlabel="confidence", ylabel="share of right answers", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    axis.legend(loc="lower right")


def coverage_curve(axis: Axes, found: Coverage, label: str, *, least: float | None = None) -> None:
    """Score of the answers that are given against their share; a dot at what a threshold of `least` leaves."""
    (line,) = axis.plot(found.answered, found.score, label=label)
    given = [] if least is None else np.flatnonzero(found.threshold >= least)
    if len(given):
        axis.plot(found.answered[given[-1]], found.score[given[-1]], marker="o", color=line.get_color())
    axis.set(xlabel="share answered", ylabel="MIREX weighted score", xlim=(0, 1.02))
    axis.legend(loc="lower left")


_MEASURES = {
    "weighted_both": "weighted score, all answered",
    "accuracy": "accuracy, all answered",
    "answered": "answered",
    "weighted_both, answered": "weighted score of those answered",
    "calibration error, temperature 1": "calibration error before",
    "calibration error": "calibration error after",
}
_NO_KEY = {
    "answered": "answered",
    "by confidence": "by confidence, as many songs withheld",
    "kind unknown": "answered, threshold without this kind",
}


def calibration_table(found: pd.DataFrame | None, run_ids: Sequence[str]) -> TracedTable:
    """The rows of `trust.calibration`, times 100; not run where there are none."""
    table = TracedTable(["measure"])
    for measure, text in _MEASURES.items():
        row = table.row(text)
        _cell(row, "value", found if found is None else found[found["measure"] == measure], run_ids)
    return table


def no_key_table(found: pd.DataFrame | None, kinds: Sequence[str], run_ids: Sequence[str]) -> TracedTable:
    """Share answered [%] by kind, from the rows of `trust.no_key`; not run where there are none."""
    table = TracedTable(["kind"])
    for kind in kinds:
        row = table.row(kind)
        for measure, text in _NO_KEY.items():
            of = None if found is None else found[(found["kind"] == kind) & (found["measure"] == measure)]
            _cell(row, text, of, run_ids)
    return table


def tracking_table(found: pd.DataFrame | None, systems: Sequence[str], run_ids: Sequence[str]) -> TracedTable:
    """Systems and kinds of music, from the rows of `trust.tracking`, times 100; not run where there are none."""
    table = TracedTable(["music", "system"])
    for music in ("not run",) if found is None else dict.fromkeys(found["music"]):
        for system in systems:
            row = table.row(music, system)
            for measure in ("score over time", "boundaries (F)"):
                chosen = ("music", music), ("system", system), ("measure", measure)
                of = None if found is None else found[np.all([found[name] == value for name, value in chosen], axis=0)]
                _cell(row, measure, of, run_ids)
    return table


def _cell(row: TracedRow, column: str, found: pd.DataFrame | None, run_ids: Sequence[str]) -> None:
    """A number times 100, with its interval if it has one; not run where there is no row."""
    if found is None:
        row.cell(column, NOT_RUN)
        return
    (one,) = found.to_dict("records")
    plain = np.isnan(one["low"])
    shown = f"{100 * one['value']:.1f}" if plain else with_interval(one["value"], one["low"], one["high"])
    row.cell(column, shown, run_ids)


def doubt_points(axis: Axes, doubt: dict[str, np.ndarray], most: float) -> None:
    """The doubt about each recording, a row of points a kind; what is right of the line gets no answer."""
    rng = np.random.default_rng(0)  # heights within a row
    for i, values in enumerate(doubt.values()):
        axis.plot(values, i + rng.uniform(-0.25, 0.25, len(values)), ".", alpha=0.5)
    axis.axvline(most, color="black", linestyle="--", linewidth=1)
    axis.set_yticks(range(len(doubt)), list(doubt))
    axis.set(xlabel="mean entropy of the windows [nats]", xlim=(0, np.log(N_KEYS)))
    axis.invert_yaxis()
