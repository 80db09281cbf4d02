"""Heads on frozen features: scores by labels, what was tried, and which keys are taken for which."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, N_KEYS, short_name
from keymyna_lib.report.figures.style import (
    CHANCE,
    DARK,
    FAINT,
    GREY,
    PAGE,
    SEQUENTIAL,
    label_points,
    look,
    mark_chance,
    multiples,
    multiples_key,
    objective_and_material,
    plain_name,
    score_limits,
)

_WEIGHTED = "weighted score x 100"


def _labels_axis(axis: plt.Axes, labels: list[int]) -> None:
    """A logarithmic axis of numbers of labelled tracks, each named."""
    axis.set(xscale="log", xlabel="labelled training tracks", xlim=(labels[0] / 1.25, labels[-1] * 1.25))
    axis.set_xticks(labels, list(map(str, labels)))
    axis.minorticks_off()


def _apart(i: int, n: int) -> float:
    """Factor that moves system i of n on a logarithmic axis, so that intervals stand beside each other."""
    return float(np.exp(0.025 * (i - (n - 1) / 2)))


def head_curves(systems: pd.DataFrame) -> Figure:
    """Score against labelled tracks, a panel for each kind of head, with the best system without training and chance.

    Parameters
    ----------
    systems : of `summaries.systems`, one task.
    """
    trained, others = systems.dropna(subset="budget"), systems[systems["budget"].isna()]
    alone = trained.groupby("head")["features"].transform("nunique") == 1  # a system of its own, in every panel
    heads = list(trained.loc[~alone, "head"].unique()) or list(trained["head"].unique())
    figure, axes = plt.subplots(1, len(heads), figsize=(PAGE, 2.7), sharey=True, squeeze=False)
    best = others.loc[others["weighted_both"].idxmax()]
    trained = trained.assign(labels=trained["budget"].where(trained["budget"] > 0, trained["n_train"]).astype(int))
    limits = score_limits(100 * systems["low"].min(), 100 * trained["high"].max())
    for axis, head in zip(axes[0], heads):
        drawn = trained[(trained["head"] == head) | (alone & ~trained["head"].isin(heads))]
        named = drawn.assign(name=drawn["features"].where(drawn["head"] == head, drawn["head"]))
        names, ends = list(named["name"].unique()), []
        for i, name in enumerate(names):
            line, (colour, marker) = named[named["name"] == name].sort_values("labels"), look(name)
            x, y = line["labels"] * _apart(i, len(names)), 100 * line["weighted_both"]
            spread = 100 * np.abs(line[["low", "high"]].to_numpy().T - line["weighted_both"].to_numpy())
            axis.errorbar(x, y, yerr=spread, color=colour, marker=marker, elinewidth=0.7, label=name)
            ends.append((x.iloc[-1], y.iloc[-1], name, colour))
        axis.axhline(100 * best["weighted_both"], color=GREY, linestyle="--", linewidth=0.8, zorder=0)
        _labels_axis(axis, sorted(set(trained["labels"])))
        axis.set(title=head, ylim=limits)
        name = plain_name(f"{best['features']}-{best['head']}").replace(": ", ",\n")
        ends.append((axis.get_xlim()[1], 100 * best["weighted_both"], name, GREY))
        mark_chance(axis, CHANCE)
        label_points(axis, ends)
    axes[0, 0].set_ylabel(_WEIGHTED)
    return figure


def label_curves(curves: pd.DataFrame, n_train: int) -> Figure:
    """Score with its interval against the number of labels: a panel an objective, with the others in grey.

    Every panel has the untrained encoder, dotted, too.

    Parameters
    ----------
    curves : what `summaries.comparison` returns. n_train : labels of a budget of 0.
    """
    curves = curves.assign(labels=curves["budget"].replace(0, n_train).astype(int))
    lines = {str(name): line.sort_values("labels") for name, line in curves.groupby("name", sort=False)}
    untrained = lines.pop("untrained", None)
    figure, panels = multiples(list(lines))
    for objective, axis in panels.items():
        own = [name for name in lines if objective_and_material(name)[0] == objective]
        for line in [line for name, line in lines.items() if name not in own]:
            axis.plot(line["labels"], 100 * line["score"], color=FAINT, linewidth=0.7, zorder=1)
        if untrained is not None:
            axis.plot(untrained["labels"], 100 * untrained["score"], ":", color=look("untrained").colour)
        for i, name in enumerate(own):
            line, (colour, marker) = lines[name], look(name)
            dashes = "-" if name == objective else "--"
            x, y = line["labels"] * _apart(2 * i, 2 * len(own) - 1), 100 * line["score"]
            spread = 100 * np.abs(line[["low", "high"]].to_numpy().T - line["score"].to_numpy())
            axis.errorbar(x, y, yerr=spread, color=colour, marker=marker, linestyle=dashes, elinewidth=0.7, label=name)
        _labels_axis(axis, sorted(set(curves["labels"])))
        axis.set(xlabel="", ylim=score_limits(100 * curves["low"].min(), 100 * curves["high"].max()))
        mark_chance(axis, CHANCE)
    figure.supxlabel("labelled training tracks")
    figure.supylabel(_WEIGHTED)
    multiples_key(figure, list(lines), {"untrained": ":"} if untrained is not None else {})
    return figure


def probe_selection(tried: pd.DataFrame) -> Figure:
    """Validation scores of all settings of a head: a row of panels a task, a panel a label budget, a column a system.

    Parameters
    ----------
    tried : columns task, budget (0 for all), features, standardize, valid_score in 0..1.
    """
    tasks, budgets = list(tried["task"].unique()), list(tried["budget"].unique())
    size = (PAGE, 0.75 + 1.9 * len(tasks))
    figure, axes = plt.subplots(len(tasks), len(budgets), figsize=size, sharey=True, squeeze=False)
    rng = numpy_stream(0, "places of points")
    for row, task in zip(axes, tasks):
        systems = list(tried.loc[tried["task"] == task, "features"].unique())
        for axis, budget in zip(row, budgets):
            found = tried[(tried["task"] == task) & (tried["budget"] == budget)]
            for x, system in enumerate(systems):
                colour, marker = look(system)
                for standardize, group in found[found["features"] == system].groupby("standardize"):
                    places = x + (0.2 if standardize else -0.2) + rng.uniform(-0.13, 0.13, len(group))
                    axis.plot(
                        places,
                        100 * group["valid_score"],
                        marker,
                        color=colour,
                        markerfacecolor=colour if standardize else "none",
                        markersize=2.5,
                        markeredgewidth=0.5,
                        alpha=0.6,
                    )
                best = found.loc[found["features"] == system, "valid_score"].max()
                axis.plot([x - 0.4, x + 0.4], [100 * best] * 2, color=DARK, linewidth=0.8)
            axis.set_title(f"{budget or 'all'} labels" + (f", {task}" if len(tasks) > 1 else ""))
            axis.set_xticks(range(len(systems)), [name.replace(", ", ",\n") for name in systems], rotation=90)
            axis.set(xlim=(-0.6, len(systems) - 0.4))
        row[0].set_ylabel(f"validation\n{_WEIGHTED}")
    axes[0, 0].set_ylim(score_limits(100 * tried["valid_score"].min(), 100 * tried["valid_score"].max()))
    for axis in axes.flat:
        mark_chance(axis, CHANCE)
    return figure


def mlp_grid(scores: pd.DataFrame) -> Figure:
    """Validation score over width and dropout: a row a task and depth, a column a budget, one scale of colours.

    Parameters
    ----------
    scores : columns task, budget (0 for all), depth, width, dropout, valid_score in 0..1.
    """
    rows = list(dict.fromkeys(zip(scores["task"], scores["depth"])))
    budgets, tasks = sorted(scores["budget"].unique(), key=lambda n: n or np.inf), scores["task"].nunique()
    low, high = 100 * scores["valid_score"].min(), 100 * scores["valid_score"].max()
    heights = [scores.loc[scores["depth"] == depth, "width"].nunique() for _, depth in rows]
    size = (PAGE, 0.5 * len(rows) + 0.26 * sum(heights) + 0.3)
    figure, axes = plt.subplots(len(rows), len(budgets), figsize=size, squeeze=False, height_ratios=heights)
    for of_row, (task, depth) in zip(axes, rows):
        for axis, budget in zip(of_row, budgets):
            chosen = (scores["task"] == task) & (scores["depth"] == depth) & (scores["budget"] == budget)
            table = 100 * scores[chosen].pivot(index="width", columns="dropout", values="valid_score").sort_index()
            values = table.to_numpy()
            drawn = axis.imshow(values, origin="lower", aspect="auto", cmap=SEQUENTIAL, vmin=low, vmax=high)
            for (y, x), value in np.ndenumerate(values):
                dark = (value - low) / (high - low or 1) < 0.6
                axis.text(x, y, f"{value:.1f}", ha="center", va="center", color="white" if dark else "black")
            y, x = np.unravel_index(np.nanargmax(values), values.shape)
            axis.add_patch(
                plt.Rectangle((x - 0.47, y - 0.45), 0.94, 0.9, fill=False, edgecolor="#D55E00", linewidth=1.6)
            )
            axis.set_xticks(range(len(table.columns)), [f"{value:g}" for value in table.columns])
            axis.set_yticks(range(len(table)), table.index)
            axis.tick_params(length=0)
            axis.spines[:].set_visible(False)
            layers = f"{depth} hidden layer{'s' * (depth > 1)}"
            axis.set_title(f"{budget or 'all'} labels, {layers}" + (f"\n{task}" if tasks > 1 else ""))
        of_row[0].set_ylabel("width")
    for axis in axes[-1]:
        axis.set_xlabel("dropout")
    figure.colorbar(drawn, ax=axes, label=f"validation {_WEIGHTED}", pad=0.01, aspect=25)
    return figure


def confusion(counts: Mapping[str, np.ndarray]) -> Figure:
    """Row-normalised confusion along the circle of fifths, a panel a system, one scale of colours with its bar.

    Parameters
    ----------
    counts : title -> (reference, estimate) counts of the 24 keys along the circle of fifths.
    """
    size = (PAGE, 0.55 + (PAGE - 0.9) / max(len(counts), 2))
    figure, axes = plt.subplots(1, len(counts), figsize=size, squeeze=False, sharey=True)
    for axis, (title, of) in zip(axes[0], counts.items()):
        share = of / np.maximum(of.sum(axis=1, keepdims=True), 1)
        drawn = axis.imshow(100 * share, cmap="magma_r", vmin=0, vmax=100)
        majors = range(0, N_KEYS, 2)  # each is followed by its relative minor
        names = [short_name(CIRCLE_OF_FIFTHS[place]) for place in majors]
        axis.set_xticks(majors, names)
        axis.set_yticks(majors, names)
        axis.set(title=plain_name(title), xlabel="estimated key")
    tracks = np.concatenate([of.sum(axis=1) for of in counts.values()])
    of_a_key = f"{tracks.min():.0f} to {tracks.max():.0f} tracks"
    axes[0, 0].set_ylabel(f"key (each major, then its relative minor),\n{of_a_key} each")
    figure.colorbar(drawn, ax=axes, label="share of the key's tracks [%]", shrink=0.85, pad=0.01, aspect=30)
    return figure
