"""Systems and designs compared: costs, differences, claims, other music, the circle of fifths."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox, BboxBase

from keymyna_lib.report.figures.style import (
    BETTER,
    CHANCE,
    DARK,
    FAINT,
    GREY,
    LINE,
    PAGE,
    ROW,
    TEXT,
    UNDECIDED,
    WORSE,
    Entry,
    Look,
    Rows,
    by_material,
    label_points,
    look,
    mark_chance,
    multiples,
    multiples_key,
    name_rows,
    objective_and_material,
    plain_name,
    readable_limits,
    rows_of,
    score_limits,
    wrapped,
)
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, HOLDS, NOT_RUN, NOT_TESTED, budget_label

_ALPHA = 0.05
_VERDICTS = {HOLDS: BETTER, DOES_NOT: WORSE, CANNOT_BE_TOLD: UNDECIDED}
_NAME = 40  # letters beside a forest plot, at most
_BELOW = 0.16  # inches for a word below the rows
_MARKER = 0.04  # inches from the middle of a marker to its edge, about
_ASIDE = ((0, "center"), (-4, "right"), (4, "left"))  # of a number: points to the right, alignment
_DAGGER, _MARKED = "†", "† near chance on its own task"


def cost_curve(cost: pd.DataFrame, main: str, untrained: str, labels: str) -> Figure:
    """Score against counted operations: a panel an objective, its lengths joined and named, with the others in grey.

    Parameters
    ----------
    cost : what `summaries.comparison_cost` returns.
    main : the objective whose line is in every panel.
    untrained : the one drawn as a level with its interval, for it costs nothing.
    labels : the label budget in words.
    """
    level = cost[cost["objective"] == untrained].iloc[0]
    paid = cost[cost["objective"] != untrained].sort_values(["tflop"], kind="stable")
    lines = {str(name): paid[paid["objective"] == name] for name in cost["objective"].unique() if name != untrained}
    figure, panels = multiples(list(lines))
    low, high = paid["tflop"].min(), paid["tflop"].max()
    wide = high > 4 * low
    limits = (low / 1.8, high * 1.8) if wide else (0, 1.15 * high)
    scores = score_limits(100 * cost["low"].min(), 100 * cost["high"].max() + 5)  # with room for numbers
    for objective, axis in panels.items():
        axis.set(xscale="log" if wide else "linear", xlim=limits, ylim=scores)
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.axhline(100 * level["score"], color=look(untrained).colour, linestyle=":")
        axis.axhspan(100 * level["low"], 100 * level["high"], color=look(untrained).colour, alpha=0.1, linewidth=0)
        own = {name: line for name, line in lines.items() if objective_and_material(name)[0] == objective}
        for name, line in lines.items():
            if name not in own:
                grey = {"color": look(main).colour, "alpha": 0.5} if name == main else {"color": FAINT}
                axis.plot(
                    line["tflop"], 100 * line["score"], marker=look(name).marker, markersize=2.5, linewidth=0.7, **grey
                )
        for i, (name, line) in enumerate(own.items()):
            colour, marker = look(name)
            spread = 100 * np.abs(line[["low", "high"]].to_numpy().T - line["score"].to_numpy())
            axis.errorbar(
                line["tflop"] * np.exp(0.12 * (i - (len(own) - 1) / 2)) if wide else line["tflop"],
                100 * line["score"],
                yerr=spread,
                color=colour,
                marker=marker,
                linestyle="-" if name == objective else "--",
                elinewidth=0.7,
                label=name,
            )
        mark_chance(axis, CHANCE)
    figure.supxlabel("counted operations of pre-training [TFLOP]; numbers are steps")
    figure.supylabel(f"weighted score x 100,\n{labels}")
    multiples_key(figure, list(lines), {untrained: ":", main: "-"})
    figure.draw_without_rendering()  # for where the layout leaves the markers
    for objective, axis in panels.items():
        own = [name for name in lines if objective_and_material(name)[0] == objective]
        _number(axis, pd.concat([lines[name] for name in own]))
    return figure


def _number(axis: Axes, cost: pd.DataFrame) -> None:
    """Steps above the intervals of a panel of `cost_curve`, or below or aside, where no text and few markers are."""
    drawn = [axis.transData.transform(line.get_xydata()) for line in axis.lines if line.get_marker() != "None"]
    markers = [Bbox([point, point]).padded(_MARKER * axis.figure.dpi) for point in np.concatenate(drawn)]
    texts = [text.get_window_extent() for text in axis.texts]
    for steps, group in cost.groupby("steps"):
        at, high, low = group["tflop"].mean(), 100 * group["high"].max(), 100 * group["low"].min()
        number = axis.annotate(f"{steps}", (at, high), (0, 0), textcoords="offset points")
        found = []
        for place in product(_ASIDE, ((high, 1, "bottom"), (low, -1, "top"))):
            box = _place(number, at, *place)
            beyond = box.x1 > axis.bbox.x1 + 1
            found.append((box.count_overlaps(texts) + beyond, box.count_overlaps(markers), len(found), place))
        texts.append(_place(number, at, *min(found)[-1]))


def _place(number: Annotation, at: float, aside: tuple[int, str], end: tuple[float, int, str]) -> BboxBase:
    """Put a number where its alignment to a point says, some points off it, and return its box."""
    (right, ha), (y, up, va) = aside, end
    number.xy = (at, y)
    number.set(position=(right, up), ha=ha, va=va)
    return number.get_window_extent()


def circle_of_fifths(axis: Axes, found: pd.DataFrame) -> None:
    """Cosine between music and its transpositions, by steps along the circle of fifths, a line for each system.

    Parameters
    ----------
    found : what `geometry.circle_profile` returns.
    """
    ends = []
    for name, group in found.groupby("name", sort=False):
        group, (colour, marker) = group.sort_values("steps"), look(str(name))
        style = ":" if name == "untrained" else "--" if objective_and_material(str(name))[1] else "-"
        axis.plot(group["steps"], group["cosine"], marker=marker, color=colour, label=name, linestyle=style)
        axis.fill_between(group["steps"], group["low"], group["high"], color=colour, alpha=0.13, linewidth=0)
        ends.append((group["steps"].iloc[-1], group["cosine"].iloc[-1], str(name), colour))
    axis.axhline(0, color=GREY, linewidth=0.6)
    semitones = {0: "0", 1: "5, 7", 2: "2, 10", 3: "3, 9", 4: "4, 8", 5: "1, 11", 6: "6"}
    steps = sorted(set(found["steps"]))
    axis.set_xticks(steps, [f"{step}\n({semitones[step]})" for step in steps])
    axis.set(xlabel="steps along the circle of fifths (semitones)", ylabel="centred cosine to the transposition")
    label_points(axis, ends)


def transfer(found: pd.DataFrame) -> Figure:
    """Scores of probes trained elsewhere, a panel a condition, a row a system; a bar is the control of the same row.

    Open markers are those of systems whose paired difference from the control has an interval that holds zero.

    Parameters
    ----------
    found : what `summaries.transfer_scores` returns.
    """
    conditions = list(dict.fromkeys(found["condition"]))
    rows = rows_of(by_material(list(dict.fromkeys(found["system"]))))
    size = (PAGE, 0.85 + LINE + _BELOW + rows.height)
    figure, axes = plt.subplots(1, len(conditions), figsize=size, sharey=True, sharex=True, squeeze=False)
    for axis, condition in zip(axes[0], conditions):
        group = found[found["condition"] == condition].set_index("system")
        _dots(axis, group, rows, undecided=set(group.index[(group["d_low"] <= 0) & (group["d_high"] >= 0)]))
        for system, control in group["control"].items():
            place = rows.places[str(system)]
            axis.plot([100 * control] * 2, [place - 0.07, place + 0.07], color=DARK, linewidth=1.4)
        title = textwrap.fill(condition, int(13 * (PAGE - 1.8) / len(conditions)))
        axis.set_title(f"{title}\nn = {group['tracks'].iloc[0]}")
    name_rows(axes, rows, _BELOW)
    axes[0, 0].set_xlim(_score_axis(found, ["low", "high", "control"]))
    axes[0, 0].locator_params(axis="x", nbins=max(3, 12 // len(conditions)))
    for axis in axes[0]:
        mark_chance(axis, CHANCE, along="x")
    figure.supxlabel("weighted score x 100")
    _key(
        figure,
        [
            (DARK, "|", DARK, "control: trained where it is tested"),
            (DARK, "o", DARK, "differs from it"),
            (DARK, "o", "white", "cannot be told"),
        ],
    )
    return figure


def systems(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Scores of systems, dots with intervals, a panel a test.

    Parameters
    ----------
    found : title -> score, low, high by system (index), the same ones in each; a row is empty if it was not run.
    """
    rows = rows_of(by_material([str(name) for name in next(iter(found.values())).index]), 24)
    size = (PAGE, 0.75 + _BELOW + rows.height)
    figure, axes = plt.subplots(1, len(found), figsize=size, sharey=True, sharex=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], found.items()):
        _dots(axis, table, rows)
        axis.set_title(textwrap.fill(title, int(13 * (PAGE - 1.6) / len(found))))
    name_rows(axes, rows, _BELOW)
    axes[0, 0].set_xlim(_score_axis(pd.concat(list(found.values())), ["low", "high"]))
    for axis in axes[0]:
        mark_chance(axis, CHANCE, along="x")
    figure.supxlabel("weighted score x 100")
    return figure


def _score_axis(found: pd.DataFrame, columns: list[str]) -> tuple[float, float]:
    return score_limits(100 * np.nanmin(found[columns].to_numpy()), 100 * np.nanmax(found[columns].to_numpy()))


def _dots(axis: Axes, found: pd.DataFrame, rows: Rows, undecided: Collection[str] = ()) -> None:
    """Scores of systems (index), each in its colour and marker, open where it is undecided, with their intervals."""
    for system, row in found.iterrows():
        (colour, marker), place = look(str(system)), rows.places[str(system)]
        if pd.isna(row["score"]):
            axis.text(0.02, place, NOT_RUN, transform=axis.get_yaxis_transform(), va="center", color=GREY)
            continue
        axis.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour)
        inside = "white" if system in undecided else colour
        axis.plot(100 * row["score"], place, marker, color=colour, markerfacecolor=inside, markersize=4.5)
    axis.grid(axis="x", color="0.92", linewidth=0.5)


def designs(found: pd.DataFrame, n_train: int) -> Figure:
    """Differences of designs from the default: a panel a label budget, a row a design.

    Parameters
    ----------
    found : what `summaries.comparison` returns against "default"; with a column mark, see `differences`.
    """
    budgets = {budget_label(budget, n_train): table for budget, table in found.groupby("budget", sort=False)}
    return differences({title: table[table["name"] != "default"] for title, table in budgets.items()})


def differences(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Paired differences from a default with their intervals, a panel for each of several tables of the same rows.

    A triangle points the way of a difference whose Holm-adjusted p is below 0.05; a ring is undecided.

    Parameters
    ----------
    found : title -> rows of `summaries.comparison` with name, difference, d_low, d_high, p_holm. Those of a column mark
        that is not empty have a dagger and open markers: they are near chance on their own task.
    """
    names = list(dict.fromkeys(name for table in found.values() for name in table["name"]))
    marked = {name for table in found.values() for name in _marked(table, "name")}
    rows = rows_of([Entry(name, plain_name(name) + _DAGGER * (name in marked)) for name in names])
    size = (PAGE, 0.95 + rows.height)
    figure, axes = plt.subplots(1, len(found), figsize=size, sharey=True, squeeze=False)
    for axis, (title, table) in zip(axes[0], found.items()):
        table = table.set_index("name").reindex(names)
        decided = table["p_holm"] < _ALPHA
        looks = np.where(decided, np.where(table["difference"] > 0, "better", "worse"), "undecided")
        kinds = {"better": BETTER, "worse": WORSE, "undecided": UNDECIDED}
        shown = table[["difference", "d_low", "d_high"]].to_numpy()
        limits = readable_limits(100 * table["d_low"].to_numpy(), 100 * table["d_high"].to_numpy())
        drawn = [(kinds[look], look != "undecided" and name not in marked) for name, look in zip(names, looks)]
        _intervals(axis, shown, drawn, list(rows.places.values()), limits)
        axis.set(title=title, xlabel="points above the default")
    name_rows(axes, rows)
    _key(
        figure,
        [
            (*_filled(BETTER), "better than the default"),
            (*_filled(WORSE), "worse"),
            (UNDECIDED.colour, UNDECIDED.marker, "white", "undecided"),
            *[(WORSE.colour, WORSE.marker, "white", _MARKED) for _ in list(marked)[:1]],
        ],
    )
    return figure


def _marked(table: pd.DataFrame, column: str) -> set[str]:
    """The names in a column of the rows whose mark, if they have one, is not empty."""
    return set(table.loc[table["mark"].fillna("") != "", column]) if "mark" in table else set()


def scopes(found: pd.DataFrame, levels: Sequence[str], n_train: int) -> Figure:
    """Scores by what the encoder was pre-trained to do, in two corpora: a row an objective, a panel a label budget.

    The first corpus is filled, the second open; `levels` are upright lines, whole in the first, dashed in the second.

    Parameters
    ----------
    found : rows of `summaries.comparison`, of both corpora, with a column scope.
        Systems of a column mark that is not empty have a dagger: they are near chance on their own task.
    levels : systems to measure the others by.
    """
    corpora, budgets = list(dict.fromkeys(found["scope"])), list(dict.fromkeys(found["budget"]))
    names = [name for name in dict.fromkeys(found["name"]) if name not in levels]
    marked = _marked(found, "name")
    entries = [entry._replace(name=entry.name + _DAGGER * (entry.key in marked)) for entry in by_material(names)]
    rows = rows_of(entries, least=1.7 * ROW)
    size = (PAGE, 1.0 + _BELOW + rows.height)
    figure, axes = plt.subplots(1, len(budgets), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, budget in zip(axes[0], budgets):
        for corpus, line, away in zip(corpora, ("-", "--"), (-0.07, 0.07)):
            here = (found["scope"] == corpus) & (found["budget"] == budget)
            table = found[here].set_index("name")
            for level in [level for level in levels if level in table.index]:
                axis.axvline(
                    100 * table.loc[level, "score"], color=look(level).colour, linestyle=line, linewidth=0.9, zorder=1
                )
            for name, place in rows.places.items():
                if name not in table.index:
                    continue
                row, (colour, marker) = table.loc[name], look(name)
                inside = colour if line == "-" else "white"
                axis.plot([100 * row["low"], 100 * row["high"]], [place + away] * 2, color=colour)
                axis.plot(100 * row["score"], place + away, marker, color=colour, markerfacecolor=inside, markersize=5)
        axis.set(title=budget_label(budget, n_train))
        axis.set_xlim(_score_axis(found, ["low", "high"]))
        axis.grid(axis="x", color="0.92", linewidth=0.5)
        mark_chance(axis, CHANCE, along="x")
    name_rows(axes, rows, _BELOW)
    figure.supxlabel("weighted score x 100")
    handles = [
        Line2D([], [], color=DARK, marker="o", linestyle=line, markerfacecolor=inside, label=corpus)
        for corpus, line, inside in zip(corpora, ("-", "--"), (DARK, "white"))
    ]
    handles += [Line2D([], [], color=look(level).colour, label=level) for level in levels]
    handles += [Line2D([], [], linestyle="none", label=_MARKED) for _ in list(marked)[:1]]
    figure.legend(handles=handles, loc="outside upper right", ncols=3, borderpad=0)
    return figure


def claims(concluded: pd.DataFrame, budgets: Sequence[str]) -> Figure:
    """A forest plot: a row a claim, a panel a head and label budget; colour and shape are the verdict.

    Claims "under the wide MLP, ..." are panels on the right, in the row of the claim without these words. Claims that
    were tested at none of the budgets have no row. A claim with a mark has a dagger and open markers.

    Parameters
    ----------
    concluded : of `conclusions.decide`, all of one scale.
    budgets : those drawn, as its column labels has them.
    """
    shown = concluded[concluded["labels"].isin(budgets)]
    tested = shown[shown.groupby("claim")["p"].transform(lambda p: p.notna().any())]
    parts = tested["claim"].str.extract(r"(?:under the (wide MLP), )?(.+)")
    tested = tested.assign(head=parts[0].fillna(""), text=parts[1])
    marked = _marked(tested, "text")
    rows = rows_of(_claim_rows(list(dict.fromkeys(tested["text"])), marked), _NAME, 0)
    panels = [(head, labels) for head in dict.fromkeys(tested["head"]) for labels in budgets]
    panels = [panel for panel in panels if panel in set(zip(tested["head"], tested["labels"]))]
    size = (PAGE, 1.05 + rows.height)
    figure, axes = plt.subplots(1, max(len(panels), 1), figsize=size, sharex=True, sharey=True, squeeze=False)
    learned = tested[~tested["text"].isin(marked)]  # the others may lie anywhere, and say nothing
    low, high = (100 * learned[["low", "high"]].to_numpy(dtype=float)).T
    limits = np.nanmin([*low, -1.0]) - 2, np.nanmax([*high, 1.0]) + 2
    room = int(13 * (PAGE - 2.5) / max(len(panels), 1))  # letters of a title
    for axis, (head, labels) in zip(axes[0], panels):
        table = (
            tested[(tested["head"] == head) & (tested["labels"] == labels)].set_index("text").reindex(list(rows.places))
        )
        looks = [
            (_VERDICTS.get(verdict, UNDECIDED), verdict in (HOLDS, DOES_NOT) and text not in marked)
            for text, verdict in table["verdict"].items()
        ]
        shown = table[["difference", "low", "high"]].to_numpy()
        _intervals(axis, shown, looks, list(rows.places.values()), limits, brief=True)
        for text, verdict in table["verdict"].items():
            if verdict == NOT_TESTED:
                at = rows.places[str(text)]
                axis.text(
                    0.5, at, NOT_TESTED, transform=axis.get_yaxis_transform(), ha="center", va="center", color=GREY
                )
        axis.set_title(wrapped(", ".join(filter(None, (head, labels))), room))
    axes[0, 0].locator_params(axis="x", nbins=4)
    name_rows(axes, rows)
    entries = {
        HOLDS: (*_filled(BETTER), "holds"),
        DOES_NOT: (*_filled(WORSE), "the opposite holds"),
        CANNOT_BE_TOLD: (UNDECIDED.colour, UNDECIDED.marker, "white", CANNOT_BE_TOLD),
    }
    drawn = [entry for verdict, entry in entries.items() if verdict in set(tested["verdict"])]
    if marked:
        found = set(tested.loc[tested["text"].isin(marked), "verdict"])
        open_ones = [entries[verdict] for verdict in (HOLDS, DOES_NOT) if verdict in found]
        colour, marker, *_ = [*open_ones, (DARK, "")][0]
        drawn.append((colour, marker, "white", _MARKED))
    _key(figure, drawn)
    label = figure.supxlabel("points of weighted score")
    figure.draw_without_rendering()  # for where the names leave the panels
    label.set_x((axes[0, 0].get_position().x0 + axes[0, -1].get_position().x1) / 2)
    return figure


def _claim_rows(claims: list[str], marked: Collection[str]) -> list[Entry]:
    """Rows of the forest plot under the headings that several share; a claim without one stands between lines."""
    rows, before = [], ("", "")
    for claim in claims:
        match = re.fullmatch(r"(.+?)(: | beats | is better than )(.+)", claim)
        heading = (match[1] if match[2] == ": " else f"{match[1]} is better than") if match else ""
        name, material = objective_and_material(match[3].removesuffix(" at equal steps")) if match else (claim, "")
        if heading and heading != before[0]:
            rows.append(Entry("", heading, ruled=True))
        if material and (heading, material) != before:
            rows.append(Entry("", material))
        rows.append(Entry(claim, plain_name(name) + _DAGGER * (claim in marked), ruled=not heading))
        before = heading, material
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


def _intervals(
    axis: Axes,
    found: np.ndarray,
    looks: Sequence[tuple[Look, bool]],
    places: Sequence[float],
    limits: tuple[float, float],
    *,
    brief: bool = False,
) -> None:
    """Differences and their intervals, a row each, with zero; what lies off the axis is a number.

    Parameters
    ----------
    found : (row, 3) difference, low, high in -1..1; NaN where there is none.
    looks : (row,) and whether the marker is filled. places : (row,) where each row lies.
    limits : of the axis [points].
    brief : no interval beside that number, where a panel is too narrow for both.
    """
    found = 100 * found.astype(float)
    left, right = limits
    axis.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    axis.set_xlim(left, right)
    axis.grid(axis="x", color="0.92", linewidth=0.5)
    for place, (middle, low, high), ((colour, marker), filled) in zip(places, found, looks):
        if np.isnan(middle):
            continue
        if left <= middle <= right:
            axis.plot([max(low, left), min(high, right)], [place, place], color=colour, solid_capstyle="butt")
            inside = colour if filled else "white"
            axis.plot(middle, place, marker, color=colour, markerfacecolor=inside, markersize=4.5)
        else:
            edge, side, arrow = (left, "left", "← ") if middle < left else (right, "right", "→ ")
            text = f"{arrow}{middle:+.0f}" + ("" if brief else f" [{low:+.0f}, {high:+.0f}]")
            axis.text(edge, place, text, ha=side, va="center", color=colour, fontsize=TEXT)
