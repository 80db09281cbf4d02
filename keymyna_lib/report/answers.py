"""Pictures of a key model's answers: the key over time, and whether confidence means what it says."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keymyna_lib.calibration import Coverage, Reliability
from keymyna_lib.key_over_time import Timeline
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, KEY_NAMES, N_KEYS, short_name

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
    axis.legend(loc="upper left")


def coverage_curve(axis: Axes, found: Coverage, label: str, *, least: float | None = None) -> None:
    """Score of the answers that are given against their share; a dot at what a threshold of `least` leaves."""
    (line,) = axis.plot(found.answered, found.score, label=label)
    given = [] if least is None else np.flatnonzero(found.threshold >= least)
    if len(given):
        axis.plot(found.answered[given[-1]], found.score[given[-1]], marker="o", color=line.get_color())
    axis.set(xlabel="share answered", ylabel="MIREX weighted score", xlim=(0, 1.02))
    axis.legend(loc="lower left")
