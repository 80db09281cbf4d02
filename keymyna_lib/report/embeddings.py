"""Pictures and tables of what an embedding knows: transpositions, directions in use, properties of the music."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keymyna_lib.report.figures.method import running_mean
from keymyna_lib.report.figures.style import (
    BETTER,
    GREY,
    LINE,
    PAGE,
    TEXT,
    UNDECIDED,
    WORSE,
    by_material,
    look,
    material_handles,
    name_rows,
    objective_and_material,
    plain_name,
    rows_of,
    wrapped,
)
from keymyna_lib.report.intervals import difference_cell, with_interval
from keymyna_lib.report.traced import TracedTable

ALPHA = 0.05  # of adjusted p
_PER_ROW = 5  # panels
_KEYS = 3  # columns of a legend
_BESIDE = 0.03  # how far points at equal steps stand apart on a logarithmic axis


def circle_table(profile: pd.DataFrame, fifths: pd.DataFrame, runs: Mapping[str, str], against: str) -> TracedTable:
    """Cosines x 100 by steps along the circle of fifths, one row per system, and the fifth minus the semitone.

    Parameters
    ----------
    profile, fifths : what `geometry.circle_profile` and `geometry.fifth_over_semitone` return.
    runs : system -> run id. against : the system that `fifths` compares with.
    """
    shown, lead = TracedTable(["system"]), fifths.set_index("name")
    for name, group in profile.groupby("name", sort=False):
        row, own = shown.row(name), lead.loc[name]
        for cell in group.sort_values("steps").itertuples():
            row.cell(_steps(cell.steps), _rounded(cell.cosine, cell.low, cell.high), [runs[name]])
        row.cell("fifth minus semitone", with_interval(own["value"], own["low"], own["high"], "+"), [runs[name]])
        if name != against:
            column = f"fifth minus semitone, minus {against}"
            row.cell(column, difference_cell({"shared": 1, **own}), [runs[name], runs[against]])
    return shown


def _rounded(value: float, low: float, high: float) -> str:
    return f"{100 * value:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def _steps(steps: int) -> str:
    return f"{steps} step{'s' * (steps > 1)}"


def rank_table(lengths: pd.DataFrame) -> TracedTable:
    """One row per length of pre-training: effective rank, and the probe's score with few labels.

    Parameters
    ----------
    lengths : columns objective, steps, first_loss and last_loss (missing where there was no training), rank, score,
        low, high, run_ids.
    """
    shown = TracedTable(["system", "steps"])
    for cell in lengths.to_dict("records"):
        row = shown.row(cell["objective"], str(cell["steps"]))
        for column, name in (("loss, first tenth", "first_loss"), ("loss, last tenth", "last_loss")):
            row.cell(column, "" if pd.isna(cell[name]) else f"{cell[name]:.1f}", cell["run_ids"])
        row.cell("effective rank", f"{cell['rank']:.1f}", cell["run_ids"])
        row.cell("weighted score x 100", with_interval(cell["score"], cell["low"], cell["high"]), cell["run_ids"])
    return shown


def rank_panels(history: pd.DataFrame, lengths: pd.DataFrame, main: str, untrained: str, labels: str) -> Figure:
    """The loss of one run by step, and by length of pre-training the effective rank and the probe's score.

    Parameters
    ----------
    history : columns step and loss, of the longest run of `main`.
    lengths : as for `rank_table`.
    main, untrained : objectives; the latter is a dotted line.
    labels : label budget of the score, in words.
    """
    trained = lengths[lengths["objective"] != untrained]
    names = list(dict.fromkeys(trained["objective"]))
    handles = [
        Line2D([], [], color=look(name).colour, marker=look(name).marker, label=wrapped(name, 31))
        for name in names
        if not objective_and_material(name)[1]
    ]
    handles += [Line2D([], [], color=look(untrained).colour, linestyle=":", label=untrained), *material_handles(names)]
    deep = -(-len(handles) // _KEYS)  # legends are filled by columns
    heights = [1.3 + str(handle.get_label()).count("\n") for handle in handles]
    legend = LINE * max(sum(heights[place : place + deep]) for place in range(0, len(handles), deep))
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.2 + legend))
    axes[0].plot(history["step"], history["loss"], color="0.8", linewidth=0.6)
    axes[0].plot(history["step"], running_mean(history[["loss"]])["loss"], color=look(main).colour)
    axes[0].set(title="Loss", xlabel=f"step of {main}", ylabel="training loss")
    for axis, column, scale in ((axes[1], "rank", 1), (axes[2], "score", 100)):
        for name, group in trained.groupby("objective", sort=False):
            group, (colour, marker) = group.sort_values("steps"), look(str(name))
            steps = group["steps"] * np.exp(_BESIDE * (names.index(name) - (len(names) - 1) / 2))
            axis.plot(steps, scale * group[column], marker=marker, color=colour, label=name)
            if column == "score":
                axis.vlines(steps, scale * group["low"], scale * group["high"], color=colour, linewidth=0.8)
        for value in lengths.loc[lengths["objective"] == untrained, column]:
            axis.axhline(scale * value, color=look(untrained).colour, linestyle=":", label=untrained)
        axis.set(xscale="log", xlabel="pre-training steps")
        ticks = sorted(set(trained["steps"]))
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.minorticks_off()
    axes[1].set(title="Directions in use", ylabel="effective rank")
    axes[2].set(title="What a probe reads", ylabel=f"score x 100, {labels}")
    figure.legend(handles=handles, loc="outside lower center", ncols=_KEYS, labelspacing=0.3)
    return figure


def property_points(found: pd.DataFrame, against: str) -> Figure:
    """Differences of what a linear map reads, a panel for each property, a marker with its interval for each system.

    A triangle points the way of a difference whose adjusted p is below ALPHA; a ring is undecided.

    Parameters
    ----------
    found : what `pitch_probes.property_differences` returns.
    against : the system at 0.
    """
    properties, systems = (list(dict.fromkeys(found[column])) for column in ("property", "system"))
    columns = min(_PER_ROW, len(properties))
    rows, lines = rows_of(by_material(systems)), -(-len(properties) // columns)
    size = (PAGE, lines * (rows.height + 0.35) + 0.5)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, properties):
        group = found[found["property"] == name].set_index("system")
        for system, place in rows.places.items():
            row = group.loc[system]
            decided = row["p_holm"] < ALPHA
            colour, marker = (BETTER if row["difference"] > 0 else WORSE) if decided else UNDECIDED
            axis.plot([100 * row["d_low"], 100 * row["d_high"]], [place, place], color=colour)
            inside = colour if decided else "white"
            axis.plot(100 * row["difference"], place, marker, color=colour, markerfacecolor=inside, markersize=4.5)
        axis.axvline(0, color=GREY, linewidth=0.6)
        axis.set_title(textwrap.fill(f"{name} ({group['measure'].iloc[0]})", 17))
    for axis in axes.flat[len(properties) :]:
        axis.set_visible(False)
    for axis in axes.flat[max(len(properties) - columns, 0) : len(properties)]:
        axis.tick_params(labelbottom=True)
    name_rows(axes, rows)
    figure.supxlabel(f"points above {plain_name(against)}", fontsize=TEXT)
    kinds = ((BETTER, "more"), (WORSE, "less"), (UNDECIDED, f"undecided (Holm-adjusted p at least {ALPHA})"))
    handles = [
        Line2D([], [], linestyle="none", marker=of.marker, color=of.colour, label=text, markersize=5)
        for of, text in kinds
    ]
    handles[-1].set_markerfacecolor("white")
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def property_difference_table(found: pd.DataFrame, runs: Mapping[str, str], against: str) -> TracedTable:
    """`pitch_probes.property_differences` as text, one row per property and one column per system.

    Parameters
    ----------
    runs : system -> run id. against : the system that it is compared with.
    """
    shown = TracedTable(["property"])
    for name, group in found.groupby("property", sort=False):
        row = shown.row(name)
        for cell in group.to_dict("records"):
            row.cell(cell["system"], difference_cell({"shared": 1, **cell}), [runs[cell["system"]], runs[against]])
    return shown


def layer_table(values: pd.DataFrame, runs: Mapping[str, str]) -> TracedTable:
    """What a linear map reads off every layer, times 100 with intervals, one row per system and layer.

    Parameters
    ----------
    values : columns system, block, property, value, low, high.
    runs : system -> run id.
    """
    shown = TracedTable(["system", "layer"])
    for (system, block), group in values.groupby(["system", "block"], sort=False):
        row = shown.row(system, block)
        for cell in group.itertuples():
            row.cell(cell.property, _rounded(cell.value, cell.low, cell.high), [runs[system]])
    return shown


def course_of_loss(history: pd.DataFrame) -> str:
    """A sentence on the loss of one run: where it begins and ends, and how low and high it gets in between.

    Parameters
    ----------
    history : columns step (from 0) and loss. Values are means over tenths of the steps, named by how many steps were
        done at the end of each.
    """
    tenths = np.array_split(history.sort_values("step")[["step", "loss"]].to_numpy(), min(10, len(history)))
    steps, losses = [int(tenth[-1, 0]) + 1 for tenth in tenths], [float(tenth[:, 1].mean()) for tenth in tenths]
    low, high = int(np.argmin(losses)), int(np.argmax(losses))
    return (
        f"The loss of the longest run, by tenths of its {steps[-1]} steps, begins at {losses[0]:.2f} and ends at "
        f"{losses[-1]:.2f}; it is lowest, {losses[low]:.2f}, up to step {steps[low]} and highest, {losses[high]:.2f}, "
        f"up to step {steps[high]}."
    )


def losses_at_ends(history: pd.DataFrame) -> tuple[float, float]:
    """Mean training loss over the first and the last tenth of the steps of a run."""
    losses = history.sort_values("step")["loss"].to_numpy()
    few = max(1, len(losses) // 10)
    return float(np.mean(losses[:few])), float(np.mean(losses[-few:]))
