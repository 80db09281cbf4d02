"""A key model's answers as tables and pictures: what it hears, whether its confidence means what it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keymyna_lib.calibration import Coverage, Reliability
from keymyna_lib.key_over_time import Timeline
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, KEY_NAMES, N_KEYS, short_name
from keymyna_lib.report.figures.style import CHANCE, DARK, GREY, PAGE, mark_chance, score_limits
from keymyna_lib.report.intervals import NOT_RUN, with_interval
from keymyna_lib.report.traced import TracedRow, TracedTable
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE

_COLOURS = plt.get_cmap("hsv")(np.arange(N_KEYS) / N_KEYS)  # along the circle: near keys look alike
_LOOKS: list[dict[str, Any]] = [  # of two curves about one system; the colours of systems mean others
    {"color": DARK, "linestyle": "-", "marker": "o"},
    {"color": GREY, "linestyle": ":", "marker": "s"},
]


def key_timeline(timeline: Timeline, *, title: str = "") -> Figure:
    """Probability of the 24 keys along the circle of fifths against time, and above it the segments with their keys."""
    figure, (above, axis) = plt.subplots(
        2, 1, figsize=(PAGE, 4.4), sharex=True, gridspec_kw={"height_ratios": [1, 9]}, layout="constrained"
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
    axis.set_yticks(range(N_KEYS), [KEY_NAMES[key] for key in order])
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


def circle_of_fifths(probabilities: np.ndarray, *, title: str = "") -> Figure:
    """Probability of the 24 keys on the circle of fifths, major keys outside, their relatives inside.

    Parameters
    ----------
    probabilities : (key,).
    """
    clock = {"projection": "polar", "theta_offset": np.pi / 2, "theta_direction": -1}
    figure, axis = plt.subplots(figsize=(4.8, 4.8), subplot_kw=clock, layout="constrained")
    step, shade = 2 * np.pi / 12, plt.get_cmap("magma_r")
    for place, key in enumerate(CIRCLE_OF_FIFTHS):
        angle, inner = place // 2 * step, place % 2
        p = float(probabilities[key])
        bottom = 0.35 if inner else 0.68
        axis.bar(angle, 0.31, width=step, bottom=bottom, color=shade(p), edgecolor="0.7", linewidth=0.8)
        text = short_name(key) + (f"\n{p:.0%}" if p >= 0.01 else "")
        colour = "white" if p > 0.5 else "black"
        axis.text(angle, bottom + 0.155, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set(ylim=(0, 1), title=title)
    axis.set_axis_off()
    return figure


def masked_spectrogram(
    stored: np.ndarray, centres: np.ndarray, start: int, frames: int, kept: Sequence[np.ndarray], *, title: str = ""
) -> Figure:
    """The spectrogram of a recording, and a window of it with its patches and a mask.

    Parameters
    ----------
    stored : (band, frame) log(1 + power).
    centres : (band,) Hz.
    start, frames : of the window.
    kept : for each kind of patch, (row, column) bool: which of the patches that tile the window are kept.
    """
    figure, axes = plt.subplots(1 + len(kept), 1, figsize=(PAGE, 1.6 + 1.6 * len(kept)), layout="constrained")
    top = float(np.quantile(stored, 0.995))
    seconds = HOP / SAMPLE_RATE
    window = stored[:, start : start + frames].astype(np.float32)
    begin, end = start * seconds, (start + window.shape[1]) * seconds
    pictures = [stored.astype(np.float32)]
    for tiles in kept:
        bands, columns = (extent // n for extent, n in zip(window.shape, tiles.shape))
        whole = np.kron(tiles, np.ones((bands, columns), bool))  # what no patch covers is not seen either
        masked = np.full_like(window, np.nan)
        seen = masked[: whole.shape[0], : whole.shape[1]]
        seen[whole] = window[: whole.shape[0], : whole.shape[1]][whole]
        pictures.append(masked)
    spans = [(0.0, stored.shape[1] * seconds), *[(begin, end)] * len(kept)]
    for axis, picture, span in zip(axes, pictures, spans):
        extent = (*span, -0.5, len(stored) - 0.5)
        axis.imshow(
            picture,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=0,
            vmax=top,
            extent=extent,
            interpolation="nearest",
        )
        axis.set_facecolor("0.93")
        axis.set_yticks(*_octaves(centres))
        axis.set_ylabel("pitch")
    axes[0].axvspan(begin, end, fill=False, edgecolor="white", linewidth=1.5)
    axes[0].set_title(title)
    for axis, tiles in zip(axes[1:], kept):
        bands, columns = (extent // n for extent, n in zip(window.shape, tiles.shape))
        for edge in range(0, tiles.shape[1] * columns + 1, columns):
            axis.axvline(begin + edge * seconds, color="white", linewidth=0.4)
        for edge in range(bands, tiles.shape[0] * bands, bands):
            axis.axhline(edge - 0.5, color="white", linewidth=0.4)
        axis.set_title(f"{tiles.sum()} of {tiles.size} patches of {bands} bands x {columns} frames are kept")
    axes[-1].set_xlabel("time [s]")
    return figure


def _octaves(centres: np.ndarray) -> tuple[list[float], list[str]]:
    """Where the notes C lie among bands, and their names."""
    notes = {f"C{octave}": 440 * 2 ** ((12 * octave - 57) / 12) for octave in range(1, 9)}
    places, names = [], []
    for name, hz in reversed(notes.items()):
        place = float(np.interp(hz, centres, np.arange(len(centres))))
        if 0.99 * centres[0] <= hz <= centres[-1] and (not places or places[-1] - place > 0.07 * len(centres)):
            places.append(place)  # mel bands leave no room for the lowest
            names.append(name)
    return places, names


def neighbour_map(
    points: np.ndarray, keys: Sequence[int], near: Sequence[int], here: np.ndarray | None, *, title: str = ""
) -> Figure:
    """Tracks in the plane of two principal components by the names of their keys, those near a recording joined to it.

    Parameters
    ----------
    points : (track, 2). keys : (track,) 0 to 23, -1 for unknown. near : which of the tracks are its neighbours.
    here : (2,) the recording; None where it is nowhere.
    """
    figure, axis = plt.subplots(figsize=(6.2, 4.8), layout="constrained")
    order = list(CIRCLE_OF_FIFTHS)
    axis.scatter(*points.T, s=0)  # for the limits
    for i in near:
        axis.plot(*np.stack([here, points[i]]).T, color="0.6", linewidth=0.9, zorder=1)
    for i, ((x, y), key) in enumerate(zip(points, keys)):
        close = i in near
        axis.text(
            x,
            y,
            short_name(key) if key >= 0 else "?",
            color=_COLOURS[order.index(key)][:3] * 0.75 if key >= 0 else "0.5",
            fontsize=11 if close else 8,
            fontweight="bold" if close else "normal",
            ha="center",
            va="center",
            clip_on=True,
        )
    if here is not None:
        axis.plot(*here, marker="*", markersize=14, color="black", zorder=3)
    axis.set(xticks=[], yticks=[], title=title)
    axis.set(xlabel="first principal component", ylabel="second principal component")
    axis.margins(0.06)
    return figure


def reliability_diagram(axis: Axes, found: Mapping[str, Reliability]) -> None:
    """Share of right answers against confidence, a point a bin, with Wilson's 95 % interval.

    On the diagonal, confidence means what it says.

    Parameters
    ----------
    found : label -> bins of the same answers, at most two.
    """
    from scipy.stats import binomtest

    axis.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=0.8)
    for (label, bins), look in zip(found.items(), _LOOKS):
        right = np.rint(bins.count * bins.accuracy).astype(int)
        tests = [binomtest(int(k), int(n)) for k, n in zip(right, bins.count)]
        low, high = np.transpose([test.proportion_ci(method="wilson") for test in tests])
        axis.vlines(bins.confidence, low, high, color=look["color"], linewidth=0.8)
        axis.plot(bins.confidence, bins.accuracy, label=label, clip_on=False, **look)
        answers = f"{bins.count.sum()} answers in {len(bins.count)} bins"
    axis.set(xlabel=f"confidence, {answers}", ylabel="share of right answers")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    _legend_above(axis)


def coverage_curves(axis: Axes, found: Mapping[str, Coverage], least: float) -> None:
    """Score of the answers that are given against their share; a dot at what the model's own threshold leaves.

    Parameters
    ----------
    found : label -> what withholding leaves, at most two; `least` is a threshold of the first.
    """
    for (label, curve), look in zip(found.items(), _LOOKS):
        axis.plot(curve.answered, 100 * curve.score, label=label, color=look["color"], linestyle=look["linestyle"])
    first = next(iter(found.values()))
    given = np.flatnonzero(first.threshold >= least)[-1:]
    axis.plot(first.answered[given], 100 * first.score[given], "o", color=_LOOKS[0]["color"])
    scores = 100 * np.concatenate([curve.score for curve in found.values()])
    axis.set(xlabel="share answered", ylabel="weighted score x 100", xlim=(0, 1.02))
    axis.set_ylim(score_limits(scores.min(), scores.max()))
    mark_chance(axis, CHANCE)
    _legend_above(axis)


def _legend_above(axis: Axes) -> None:
    """Curves may pass anywhere, so no corner inside is free for certain."""
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3)


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
        axis.plot(values, i + rng.uniform(-0.25, 0.25, len(values)), ".", color=DARK, alpha=0.5)
    axis.axvline(most, color="black", linestyle="--", linewidth=1)
    axis.annotate("no answer", (most, 0.02), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points")
    axis.set_yticks(range(len(doubt)), [f"{kind} ({len(values)})" for kind, values in doubt.items()])
    axis.set(xlabel="mean entropy of the windows [nats]", xlim=(0, np.log(N_KEYS)))
    axis.invert_yaxis()
