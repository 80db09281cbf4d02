"""What the benchmark measures: ratios, where the time goes, and how it grows."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from keymyna_lib.report.figures.style import DARK, GREY, PAGE

_ROW = 0.165  # inches


def speed_ratios(rows: pd.DataFrame) -> Figure:
    """Ratios of the benchmark with their quartiles, a panel a subject, on a logarithmic axis; 1 is no difference.

    Parameters
    ----------
    rows : those with a `ratio_to` that were measured, columns as `bench.measure.Measurement`.
    """
    rows = rows.dropna(subset="median")
    groups = list(rows.groupby("subject", sort=False))
    heights = [len(group) + 0.4 for _, group in groups]
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(PAGE, 0.4 + 0.25 * len(groups) + _ROW * sum(heights)),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
    )
    for axis, (subject, group) in zip(axes[:, 0], groups):
        y = np.arange(len(group))
        spread = np.abs(group[["low", "high"]].to_numpy().T - group["median"].to_numpy())
        axis.errorbar(group["median"], y, xerr=spread, fmt="o", markersize=3.5, elinewidth=1, color=DARK)
        for place, row in zip(y, group.itertuples()):
            axis.annotate(
                f"{row.median:.2g}", (row.high, place), xytext=(4, 0), textcoords="offset points", va="center"
            )
        axis.axvline(1, color=GREY, linewidth=0.8, zorder=0)
        axis.set_yticks(y, [_comparison(row.case, row.system, row.ratio_to, row.note) for row in group.itertuples()])
        axis.set(xscale="log", title=", ".join([subject, *_machines(group["note"])]), ylim=(len(group) - 0.3, -0.7))
    axis.set_xlim(right=1.5 * rows["high"].max())
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("times as fast")
    return figure


def _machines(notes: pd.Series) -> list[str]:
    """The machines that rows from elsewhere name, as "a remark; NVIDIA H200, commit 2db073d"."""
    found = (note.split("; ")[-1].split(", commit ") for note in notes)
    return sorted({machine for machine, *commit in found if commit})


def _comparison(case: str, system: str, other: str, note: str) -> str:
    """What is compared with what; "ours" and "reference implementation" are so common that they are left out."""
    ours = system.removeprefix("ours").removeprefix(", ")
    text = case.removesuffix(", or bare")  # which names both sides
    text += f", {ours}" if ours else ""
    if other != "reference implementation":
        return f"{text} / {other.replace('reference implementation', 'reference')}"
    return f"{text} / fp32" if "in fp32" in note else text


def step_shares(rows: pd.DataFrame) -> Figure:
    """Where the time of a pre-training step goes: a panel a case and system, a bar a part.

    Parameters
    ----------
    rows : those whose quantity is "share: PART", columns as `bench.measure.Measurement`.
    """
    rows = rows.assign(part=rows["quantity"].str.removeprefix("share: "))
    table = rows.pivot(index="part", columns=["case", "system"], values="median")
    table = table.loc[table.mean(axis=1).sort_values(ascending=False).index]
    columns = list(dict.fromkeys(zip(rows["case"], rows["system"])))
    size = (PAGE, 0.9 + _ROW * len(table))
    figure, axes = plt.subplots(1, len(columns), figsize=size, sharey=True, sharex=True, squeeze=False)
    for axis, (case, system) in zip(axes[0], columns):
        shares = 100 * table[case, system]
        drawn = axis.barh(range(len(table)), shares, color=DARK if system == "ours" else "0.6")
        axis.bar_label(drawn, [f"{share:.0f}" for share in shares], padding=2)
        axis.set_title(
            textwrap.fill(case.removesuffix(", profile"), 20) + f"\n{textwrap.fill(system, 20)}", fontweight="normal"
        )
        axis.set(xlabel="share of the step [%]", xlim=(0, 115))
    axes[0, 0].set_yticks(range(len(table)), table.index)
    axes[0, 0].set_ylim(len(table) - 0.4, -0.6)
    return figure


def growth_lines(rows: pd.DataFrame) -> Figure:
    """What grows against its size on logarithmic axes, a panel a case, with the fitted exponent in its title.

    Parameters
    ----------
    rows : of subject "growth", columns as `bench.measure.Measurement`.
    """
    groups = list(rows.groupby("case", sort=False))
    columns = min(4, len(groups))
    lines = -(-len(groups) // columns)
    figure, axes = plt.subplots(lines, columns, squeeze=False, figsize=(PAGE, 1.9 * lines))
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, (case, group) in zip(axes.flat, groups):
        fitted, points = group[group["quantity"] == "exponent"].iloc[0], group.dropna(subset="size")
        spread = np.abs(points[["low", "high"]].to_numpy().T - points["median"].to_numpy())
        axis.errorbar(points["size"], points["median"], yerr=spread, fmt="o", markersize=3.5, color=DARK)
        middle = np.exp(np.log(points[["size", "median"]]).mean())
        fit = middle["median"] * (points["size"] / middle["size"]) ** fitted["median"]
        axis.plot(points["size"], fit, color=GREY, linewidth=0.8)
        centre = middle["median"]
        half = max(points["high"].max() / centre, centre / points["low"].min(), 3)
        axis.set(xscale="log", yscale="log", ylabel=f"{points['quantity'].iloc[0]} [{points['unit'].iloc[0]}]")
        axis.set_xlabel(case.rpartition(" by ")[2])
        axis.set_ylim(centre / half / 1.3, 1.3 * centre * half)
        sizes = points["size"].to_numpy()[:: max(1, len(points) // 3)]
        axis.set_xticks(sizes, [f"{value:g}" for value in sizes])
        axis.xaxis.minorticks_off()
        axis.yaxis.set_minor_formatter(NullFormatter())
        title = textwrap.fill(case, 24)
        axis.set_title(f"{title}\nexponent {fitted['median']:.2f}", fontweight="normal")
    return figure
