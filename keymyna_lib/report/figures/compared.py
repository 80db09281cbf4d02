"""Systems and designs compared: costs, differences, claims, other music, the circle of fifths."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from keymyna_lib.report.figures.style import (
    BETTER,
    CHANCE,
    DARK,
    GREY,
    PAGE,
    TEXT,
    UNDECIDED,
    WORSE,
    Look,
    label_points,
    look,
    mark_chance,
    plain_name,
    readable_limits,
    score_limits,
)
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, HOLDS, NOT_RUN, NOT_TESTED, budget_label

_ALPHA = 0.05
_VERDICTS = {HOLDS: BETTER, DOES_NOT: WORSE, CANNOT_BE_TOLD: UNDECIDED}
_ROW = 0.19  # inches
_NAME = 38  # letters beside a forest plot, at most


def cost_curve(cost: pd.DataFrame, main: str, untrained: str, labels: str) -> Figure:
    """Score against counted operations: the lengths of one objective as a line, the others as points.

    Parameters
    ----------
    cost : what `summaries.comparison_cost` returns.
    main : the objective drawn as a line. untrained : the one drawn as a level, for it costs nothing.
    labels : the label budget in words.
    """
    figure, axis = plt.subplots(figsize=(PAGE, 2.6))
    level = cost[cost["objective"] == untrained].iloc[0]
    colour = look(untrained).colour
    axis.axhline(100 * level["score"], color=colour, linestyle=":")
    axis.axhspan(100 * level["low"], 100 * level["high"], color=colour, alpha=0.1, linewidth=0)
    paid, ends = cost[cost["objective"] != untrained], []
    low, high = paid["tflop"].min(), paid["tflop"].max()
    wide = high > 4 * low
    limits = (low / 1.4, high * 1.4) if wide else (0, 1.15 * high)
    for name, group in paid.groupby("objective", sort=False):
        group, (colour, marker) = group.sort_values("tflop"), look(name)
        spread = 100 * np.abs(group[["low", "high"]].to_numpy().T - group["score"].to_numpy())
        axis.errorbar(
            group["tflop"],
            100 * group["score"],
            yerr=spread,
            marker=marker,
            elinewidth=0.7,
            color=colour,
            linestyle="-" if name == main else "none",
            label=name,
        )
        last = group.iloc[-1]
        ends.append((last["tflop"], 100 * last["score"], str(name), colour))
        if name == main:
            for place, row in enumerate(group.itertuples()):
                text = f"{row.steps}" if place else f"{row.steps} steps"
                axis.annotate(
                    text, (row.tflop, 100 * row.score), xytext=(3, 5), textcoords="offset points", color=colour
                )
    axis.set(xscale="log" if wide else "linear", xlim=limits)
    axis.set_ylim(score_limits(100 * cost["low"].min(), 100 * cost["high"].max()))
    axis.set(xlabel="counted operations of pre-training [TFLOP]", ylabel=f"weighted score x 100, {labels}")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    mark_chance(axis, CHANCE)
    label_points(axis, [*ends, (axis.get_xlim()[1], 100 * level["score"], untrained, look(untrained).colour)])
    return figure


def circle_of_fifths(axis: Axes, found: pd.DataFrame) -> None:
    """Cosine between music and its transpositions, by steps along the circle of fifths, a line for each system.

    Parameters
    ----------
    found : what `geometry.circle_profile` returns.
    """
    ends = []
    for name, group in found.groupby("name", sort=False):
        group, (colour, marker) = group.sort_values("steps"), look(str(name))
        style = ":" if name == "untrained" else "-"
        axis.plot(group["steps"], group["cosine"], marker=marker, color=colour, label=name, linestyle=style)
        axis.fill_between(group["steps"], group["low"], group["high"], color=colour, alpha=0.13, linewidth=0)
        ends.append((group["steps"].iloc[-1], group["cosine"].iloc[-1], str(name), colour))
    axis.axhline(0, color=GREY, linewidth=0.6)
    semitones = {0: "0", 1: "5, 7", 2: "2, 10", 3: "3, 9", 4: "4, 8", 5: "1, 11", 6: "6"}
    steps = sorted(set(found["steps"]))
    axis.set_xticks(steps, [f"{step}\n({semitones[step]})" for step in steps])
    axis.set(xlabel="steps along the circle of fifths (semitones)", ylabel="cosine to the transposition")
    label_points(axis, ends)


def transfer(found: pd.DataFrame) -> Figure:
    """Scores of probes trained elsewhere, a panel a condition, a row a system; a bar is the control of the same row.

    Parameters
    ----------
    found : what `summaries.transfer_scores` returns.
    """
    systems, conditions = list(dict.fromkeys(found["system"])), list(dict.fromkeys(found["condition"]))
    columns = min(3, len(conditions))
    rows = -(-len(conditions) // columns)
    size = (PAGE, 0.65 + rows * (0.55 + _ROW * len(systems)))
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, sharex=True, squeeze=False)
    for axis, condition in zip(axes.flat, conditions):
        group = found[found["condition"] == condition].set_index("system").reindex(systems)
        _dots(axis, group, "score")
        for place, control in enumerate(group["control"]):
            axis.plot([100 * control] * 2, [place - 0.35, place + 0.35], color=DARK, linewidth=1.4)
        axis.set_title(condition)
    for axis in axes.flat[len(conditions) :]:
        axis.set_visible(False)
    axes[0, 0].set_xlim(_score_axis(found, ["low", "high", "control"]))
    for axis in axes.flat[: len(conditions)]:
        mark_chance(axis, CHANCE, along="x")
    for axis in axes.flat[len(conditions) - columns : len(conditions)]:
        axis.set_xlabel("weighted score x 100")
        axis.tick_params(labelbottom=True)
    _key(figure, [(DARK, "|", DARK, "control: trained where it is tested")])
    return figure


def systems(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Scores of systems, dots with intervals, a panel a test.

    Parameters
    ----------
    found : title -> score, low, high by system (index), the same ones in each; a row is empty if it was not run.
    """
    number = len(next(iter(found.values())))
    size = (PAGE, 0.75 + _ROW * number)
    figure, axes = plt.subplots(1, len(found), figsize=size, sharey=True, sharex=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], found.items()):
        _dots(axis, table, "score")
        axis.set_title(textwrap.fill(title, int(13 * (PAGE - 1.6) / len(found))))
    axes[0, 0].set_xlim(_score_axis(pd.concat(list(found.values())), ["low", "high"]))
    for axis in axes[0]:
        mark_chance(axis, CHANCE, along="x")
    figure.supxlabel("weighted score x 100")
    return figure


def _score_axis(found: pd.DataFrame, columns: list[str]) -> tuple[float, float]:
    return score_limits(100 * np.nanmin(found[columns].to_numpy()), 100 * np.nanmax(found[columns].to_numpy()))


def _dots(axis: Axes, found: pd.DataFrame, value: str) -> None:
    """A row a system from the top down, each in its colour and marker, with its interval."""
    for place, (system, row) in enumerate(found.iterrows()):
        colour, marker = look(str(system))
        if pd.isna(row[value]):
            axis.text(0.02, place, NOT_RUN, transform=axis.get_yaxis_transform(), va="center", color=GREY)
            continue
        axis.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour)
        axis.plot(100 * row[value], place, marker, color=colour, markersize=4.5)
    names = [textwrap.fill(plain_name(str(name)).replace("untrained encoder", "untrained"), 24) for name in found.index]
    axis.set_yticks(range(len(found)), names, linespacing=0.9)
    axis.set_ylim(len(found) + 0.1, -0.6)  # with room for a word below
    axis.grid(axis="x", color="0.92", linewidth=0.5)


def designs(found: pd.DataFrame, n_train: int) -> Figure:
    """Differences of designs from the default: a panel a label budget, a row a design.

    Parameters
    ----------
    found : what `summaries.comparison` returns against "default".
    """
    budgets = {budget_label(budget, n_train): table for budget, table in found.groupby("budget", sort=False)}
    return differences({title: table[table["name"] != "default"] for title, table in budgets.items()})


def differences(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Paired differences from a default with their intervals, a panel for each of several tables of the same rows.

    A triangle points the way of a difference whose Holm-adjusted p is below 0.05; a ring is undecided.

    Parameters
    ----------
    found : title -> rows of `summaries.comparison` with name, difference, d_low, d_high, p_holm.
    """
    names = list(dict.fromkeys(name for table in found.values() for name in table["name"]))
    size = (PAGE, 0.95 + _ROW * len(names))
    figure, axes = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], found.items()):
        table = table.set_index("name").reindex(names)
        decided = table["p_holm"] < _ALPHA
        looks = np.where(decided, np.where(table["difference"] > 0, "better", "worse"), "undecided")
        kinds = {"better": BETTER, "worse": WORSE, "undecided": UNDECIDED}
        shown = table[["difference", "d_low", "d_high"]].to_numpy()
        _intervals(axis, shown, [kinds[look] for look in looks], range(len(names)))
        axis.set(title=title, xlabel="points above the default")
    axes[0, 0].set_yticks(range(len(names)), [textwrap.fill(plain_name(name), 26) for name in names], linespacing=0.9)
    axes[0, 0].set_ylim(len(names) - 0.4, -0.6)
    _key(
        figure,
        [
            (*_filled(BETTER), "better than the default"),
            (*_filled(WORSE), "worse"),
            (UNDECIDED.colour, UNDECIDED.marker, "white", "undecided (Holm-adjusted p at least 0.05)"),
        ],
    )
    return figure


def scopes(found: pd.DataFrame, levels: Sequence[str], n_train: int) -> Figure:
    """Scores by what the encoder was pre-trained to do, in two corpora: a row an objective, a panel a label budget.

    The first corpus is filled, the second open; `levels` are upright lines, whole in the first and dashed in the second.

    Parameters
    ----------
    found : rows of `summaries.comparison`, of both corpora, with a column scope.
    levels : systems to measure the others by.
    """
    corpora, budgets = list(dict.fromkeys(found["scope"])), list(dict.fromkeys(found["budget"]))
    names = [name for name in dict.fromkeys(found["name"]) if name not in levels]
    figure, axes = plt.subplots(
        1, len(budgets), figsize=(PAGE, 1.2 + 2 * _ROW * len(names)), sharey=True, squeeze=False
    )
    for axis, budget in zip(axes[0], budgets):
        for corpus, line, away in zip(corpora, ("-", "--"), (-0.16, 0.16)):
            here = (found["scope"] == corpus) & (found["budget"] == budget)
            table = found[here].set_index("name")
            for level in [level for level in levels if level in table.index]:
                axis.axvline(100 * table.loc[level, "score"], color=look(level).colour, linestyle=line, linewidth=0.9)
            for place, name in enumerate(names):
                if name not in table.index:
                    continue
                row, (colour, marker) = table.loc[name], look(name)
                inside = colour if line == "-" else "white"
                axis.plot([100 * row["low"], 100 * row["high"]], [place + away] * 2, color=colour)
                axis.plot(100 * row["score"], place + away, marker, color=colour, markerfacecolor=inside, markersize=5)
        axis.set(title=budget_label(budget, n_train))
        axis.set_xlim(_score_axis(found[found["budget"] == budget], ["low", "high"]))
        axis.grid(axis="x", color="0.92", linewidth=0.5)
        mark_chance(axis, CHANCE, along="x")
    axes[0, 0].set_yticks(range(len(names)), [textwrap.fill(name, 24) for name in names], linespacing=1.0)
    axes[0, 0].set_ylim(len(names) - 0.1, -0.6)  # with room for a word below
    figure.supxlabel("weighted score x 100")
    handles = [
        Line2D([], [], color=DARK, marker="o", linestyle=line, markerfacecolor=inside, label=corpus)
        for corpus, line, inside in zip(corpora, ("-", "--"), (DARK, "white"))
    ]
    handles += [Line2D([], [], color=look(level).colour, label=level) for level in levels]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), borderpad=0)
    return figure


def claims(concluded: pd.DataFrame, budgets: Sequence[str]) -> Figure:
    """A forest plot: a row a claim, a panel a label budget; colour and shape are the verdict.

    Claims that were tested at none of the budgets have no row.

    Parameters
    ----------
    concluded : of `conclusions.decide`, all of one scale.
    budgets : those drawn, as its column labels has them.
    """
    shown = concluded[concluded["labels"].isin(budgets)]
    tested = shown[shown.groupby("claim")["p"].transform(lambda p: p.notna().any())]
    budgets = [labels for labels in budgets if labels in set(tested["labels"])]
    rows = _claim_rows(list(dict.fromkeys(tested["claim"])))
    texts, names = [claim for claim, _ in rows], [name for _, name in rows]
    lines = np.array([1 + name.count("\n") for name in names])
    places = np.cumsum(lines) - (lines + 1) / 2  # a row is as high as its name
    size = (PAGE, 1.0 + 0.125 * sum(1.3 + name.count("\n") for name in names))
    figure, axes = plt.subplots(1, max(len(budgets), 1), figsize=size, sharey=True, squeeze=False)
    for axis, labels in zip(axes[0], budgets):
        table = tested[tested["labels"] == labels].set_index("claim").reindex(texts)
        looks = [_VERDICTS.get(verdict, UNDECIDED) for verdict in table["verdict"]]
        _intervals(axis, table[["difference", "low", "high"]].to_numpy(), looks, places)
        for place, verdict in zip(places, table["verdict"]):
            if verdict == NOT_TESTED:
                axis.text(0.5, place, NOT_TESTED, transform=axis.get_yaxis_transform(), va="center", color=GREY)
        axis.set(title=labels)
        axis.tick_params(axis="y", length=0)
    axes[0, 0].set_yticks(places, names, linespacing=0.95)
    for claim, text in zip(texts, axes[0, 0].get_yticklabels()):
        text.set_fontweight("normal" if claim else "bold")
    axes[0, 0].set_ylim(lines.sum() - 0.4, -0.6)
    _key(
        figure,
        [
            (*_filled(BETTER), "holds"),
            (*_filled(WORSE), "the opposite holds"),
            (UNDECIDED.colour, UNDECIDED.marker, "white", "cannot be told"),
        ],
    )
    label = figure.supxlabel("points of weighted score")
    figure.draw_without_rendering()  # for where the names leave the panels
    label.set_x((axes[0, 0].get_position().x0 + axes[0, -1].get_position().x1) / 2)
    return figure


def _claim_rows(claims: list[str]) -> list[tuple[str, str]]:
    """Rows of the forest plot: a claim, or "" for a heading that several share, and what is written beside it."""
    rows, before = [], ""
    for claim in claims:
        match = re.fullmatch(r"(.+?) (?:beats|is better than) (.+)", claim)
        heading = f"{match[1]} is better than" if match else ""
        if heading and heading != before:
            rows.append(("", textwrap.fill(heading, _NAME, break_on_hyphens=False)))
        name = plain_name(match[2].removesuffix(" at equal steps")) if match else textwrap.fill(claim, _NAME, break_on_hyphens=False)
        rows.append((claim, name))
        before = heading
    return rows


def _filled(of: Look) -> tuple[str, str, str]:
    return of.colour, of.marker, of.colour


def _key(figure: Figure, entries: list[tuple[str, str, str, str]]) -> None:
    """What markers mean, above the panels; entries are colour, marker, colour of its inside, text."""
    handles = [
        Line2D([], [], linestyle="none", marker=marker, color=colour, markerfacecolor=inside, label=text, markersize=5)
        for colour, marker, inside, text in entries
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), borderpad=0)


def _intervals(axis: Axes, found: np.ndarray, looks: list[Look], places: Sequence[float] | np.ndarray) -> None:
    """Differences and their intervals, a row each from the top down, with zero; what lies off the axis is a number.

    Parameters
    ----------
    found : (row, 3) difference, low, high in -1..1; NaN where there is none.
    places : (row,) where each row lies.
    """
    found = 100 * found.astype(float)
    left, right = readable_limits(found[:, 1], found[:, 2])
    axis.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axis.set_xlim(left, right)
    axis.grid(axis="x", color="0.92", linewidth=0.5)
    for place, (middle, low, high), (colour, marker) in zip(places, found, looks):
        if np.isnan(middle):
            continue
        inside = "white" if (colour, marker) == UNDECIDED else colour
        if left <= middle <= right:
            axis.plot([max(low, left), min(high, right)], [place, place], color=colour, solid_capstyle="butt")
            axis.plot(middle, place, marker, color=colour, markerfacecolor=inside, markersize=4.5)
        else:
            edge, side, arrow = (left, "left", "← ") if middle < left else (right, "right", "→ ")
            text = f"{arrow}{middle:+.0f} [{low:+.0f}, {high:+.0f}]"
            axis.text(edge, place, text, ha=side, va="center", color=colour, fontsize=TEXT)
