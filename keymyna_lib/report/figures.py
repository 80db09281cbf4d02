"""One style for all figures, and how they are saved: each with its data and where it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib import rcsetup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.evaluate import chance_scores
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, KEY_NAMES, N_KEYS, is_minor
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, HOLDS, NOT_RUN, NOT_TESTED
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE

# One colour for each kind of features, the same in every figure (Okabe and Ito's palette, safe for colour-blind).
COLOURS = {
    "pre-trained": "#D55E00",
    "untrained": "#0072B2",
    "mean mel": "#009E73",
    "mean mel, LDA": "#56B4E9",
    "chroma": "#CC79A7",
    "template": "#999999",
    "chance": "#555555",
    "outside": "#E69F00",
    "default model": "#E69F00",
    "masked contrastive": "#D55E00",
    "augmented contrastive": "#56B4E9",
    "bare contrastive": "#CC79A7",
    "augmented contrastive, pitch-shifted": "#004D7A",
    "masked reconstruction": "#E69F00",
    "supervised": "#333333",
}
_SPLIT_COLOURS = {"train": "#0072B2", "valid": "#56B4E9", "test": "#D55E00", "extra": "#E69F00"}
# seaborn's theme "ticks" in the context "notebook", fonts at 0.9, written out: importing seaborn takes a second or two.
_DARK = ".15"
_THEME: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _DARK,
    "axes.labelcolor": _DARK,
    "axes.linewidth": 1.25,
    "axes.prop_cycle": rcsetup.cycler(
        color="#4C72B0 #DD8452 #55A868 #C44E52 #8172B3 #937860 #DA8BC3 #8C8C8C #CCB974 #64B5CD".split()
    ),
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "Bitstream Vera Sans", "sans-serif"],
    "grid.color": ".8",
    "grid.linewidth": 1.0,
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "text.color": _DARK,
    **dict.fromkeys(("axes.labelsize", "axes.titlesize", "font.size", "legend.title_fontsize"), 10.8),
    **dict.fromkeys(("legend.fontsize", "xtick.labelsize", "ytick.labelsize"), 9.9),
    **{
        f"{axis}tick.{name}": value
        for axis in "xy"
        for name, value in {
            "color": _DARK,
            "major.size": 6.0,
            "major.width": 1.25,
            "minor.size": 4.0,
            "minor.width": 1.0,
        }.items()
    },
}


def use_style() -> None:
    """Set the style of every figure."""
    mpl.rcParams.update(
        {
            **_THEME,
            "figure.dpi": 100,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "legend.frameon": False,
            "pdf.fonttype": 42,
            "figure.constrained_layout.use": True,
        }
    )


def key_histogram(counts: pd.DataFrame) -> Figure:
    """Tracks by key along the circle of fifths, a panel a split; `counts` has the columns split, key, size."""
    splits = [split for split in ("train", "valid", "test") if split in set(counts["split"])]
    figure, axes = plt.subplots(len(splits), 1, figsize=(10, 1.7 * len(splits)), sharex=True, squeeze=False)
    for axis, split in zip(axes[:, 0], splits):
        sizes = counts[counts["split"] == split].set_index("key")["size"].reindex(CIRCLE_OF_FIFTHS, fill_value=0)
        axis.bar(range(N_KEYS), sizes, color=["#C44E52" if is_minor(key) else "#4C72B0" for key in CIRCLE_OF_FIFTHS])
        axis.set(ylabel="tracks", title=f"{split} ({sizes.sum()} tracks)")
    axes[-1, 0].set_xticks(range(N_KEYS), [KEY_NAMES[key] for key in CIRCLE_OF_FIFTHS], rotation=60, ha="right")
    return figure


def source_histograms(counts: pd.DataFrame) -> Figure:
    """Tracks by key along the circle of fifths, one row per data set; `counts` has columns source, split, key, size."""
    sources = list(dict.fromkeys(counts["source"]))
    figure, axes = plt.subplots(len(sources), 1, figsize=(10, 1.9 * len(sources)), sharex=True, squeeze=False)
    for axis, source in zip(axes[:, 0], sources):
        bottom = np.zeros(N_KEYS)
        of_split = dict(tuple(counts[counts["source"] == source].groupby("split")))
        for split in (split for split in _SPLIT_COLOURS if split in of_split):
            sizes = of_split[split].set_index("key")["size"].reindex(CIRCLE_OF_FIFTHS, fill_value=0).to_numpy()
            axis.bar(range(N_KEYS), sizes, bottom=bottom, label=split, color=_SPLIT_COLOURS[split])
            bottom += sizes
        axis.set(title=source, ylabel="tracks")
        axis.legend(ncols=4, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)  # above the bars
    axes[-1, 0].set_xticks(range(N_KEYS), [KEY_NAMES[key] for key in CIRCLE_OF_FIFTHS], rotation=90)
    return figure


def spectrograms(shown: Mapping[tuple[str, str], tuple[str, np.ndarray]]) -> Figure:
    """Spectrograms in rows and columns, on one scale of colours.

    Parameters
    ----------
    shown : by row and column, the name of a track and its (frame, band) stored spectrogram.
    """
    rows, columns = (list(dict.fromkeys(place[i] for place in shown)) for i in (0, 1))
    size = (4.2 * len(columns), 2.3 * len(rows))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, sharey=True)
    high = np.quantile(np.concatenate([frames.ravel() for _, frames in shown.values()]).astype(np.float32), 0.995)
    for (row, column), (name, frames) in shown.items():
        axis = axes[rows.index(row), columns.index(column)]
        extent = (0, len(frames) * HOP / SAMPLE_RATE, 0, frames.shape[1])
        picture = frames.T.astype(np.float32)
        axis.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=high, extent=extent)
        axis.set_title(f"{column}, {row}\n{textwrap.shorten(name, 48)}", fontsize=9)
    for axis in axes.flat:
        axis.set_visible(bool(axis.images))
    for axis in axes[-1]:
        axis.set_xlabel("s")
    for axis in axes[:, 0]:
        axis.set_ylabel("mel band")
    return figure


def framework(crops: Sequence[Tensor], keep: Tensor) -> Figure:
    """The paper's Figure 1: two crops of a recording, their vertical patches, and those that survive masking.

    Parameters
    ----------
    crops : two (mel, frame) stored spectrograms.
    keep : (2, kept) indices of the tokens that are kept.
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 4.6), sharex=True, sharey=True)
    seconds = crops[0].shape[1] * HOP / SAMPLE_RATE
    low, high = 0.0, float(torch.cat(list(crops), dim=1).float().quantile(0.995))
    for column, (crop, tokens) in enumerate(zip(crops, keep)):
        crop = crop.float()
        masked = torch.full_like(crop, float("nan"))
        for token in tokens.tolist():
            masked[:, 2 * token : 2 * token + 2] = crop[:, 2 * token : 2 * token + 2]
        for axis, picture in zip(axes[:, column], (crop, masked)):
            axis.imshow(
                picture,
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=low,
                vmax=high,
                extent=(0, seconds, 0, crop.shape[0]),
                interpolation="nearest",
            )
            axis.set_facecolor("0.93")
        for edge in range(crop.shape[1] // 2 + 1):
            axes[1, column].axvline(2 * edge * HOP / SAMPLE_RATE, color="white", linewidth=0.4)
        axes[0, column].set_title(
            f"crop {column + 1}: {crop.shape[1] // 2} patches of {crop.shape[0]} bands x 2 frames"
        )
        axes[1, column].set_title(f"what the encoder sees: {len(tokens)} patches")
        axes[1, column].set_xlabel("s")
    for axis in axes[:, 0]:
        axis.set_ylabel("mel band")
    return figure


def pretraining_curves(history: pd.DataFrame, measure: str, chance: float | None) -> Figure:
    """Loss, measure and learning rate by step.

    Parameters
    ----------
    history : of `pretrain.pretrain`.
    measure : what the measure is. chance : its value by chance, if there is one.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.2))
    smooth = history[["loss", "measure"]].rolling(15, min_periods=1, center=True).mean()
    for axis, column, label in ((axes[0], "loss", "loss"), (axes[1], "measure", measure)):
        axis.plot(history["step"], history[column], color="0.85", linewidth=0.8)
        axis.plot(history["step"], smooth[column], color=COLOURS["pre-trained"], label="training")
        axis.set(xlabel="step", title=label)
    checks = history.dropna(subset="valid_measure")
    axes[1].plot(checks["step"], checks["valid_measure"], "o", markersize=3, color="0.2", label="validation")
    if chance is not None:
        axes[1].axhline(chance, color="0.5", linestyle=":", linewidth=1)
        axes[1].annotate("chance", (0, chance), xytext=(0, 3), textcoords="offset points", fontsize=8, color="0.4")
    axes[1].legend()
    axes[2].plot(history["step"], history["lr"], color="0.3")
    axes[2].set(xlabel="step", title="learning rate")
    return figure


def grid_heatmap(axis: Axes, scores: pd.DataFrame) -> None:
    """Validation score over width and dropout; `scores` has the columns width, dropout, valid_score."""
    import seaborn as sns  # here, because it takes a second or two

    table = scores.pivot(index="width", columns="dropout", values="valid_score").sort_index(ascending=False)
    sns.heatmap(table, annot=True, fmt=".3f", cmap="viridis", cbar=False, ax=axis, annot_kws={"size": 8})
    row, column = np.unravel_index(np.nanargmax(table.to_numpy()), table.shape)
    axis.plot(column + 0.9, row + 0.15, "o", color="white", markersize=5)


def confusion_heatmap(axis: Axes, counts: np.ndarray, title: str) -> None:
    """Row-normalised 24 x 24 confusion along the circle of fifths, (reference, estimate)."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="magma_r", vmin=0, vmax=1)
    names = [KEY_NAMES[key].replace(" major", "").replace(" minor", "m") for key in CIRCLE_OF_FIFTHS]
    axis.set_xticks(range(N_KEYS), names, rotation=90, fontsize=7)
    axis.set_yticks(range(N_KEYS), names, fontsize=7)
    axis.set(title=title, xlabel="estimate", ylabel="reference")


def label_curves(axis: Axes, curves: pd.DataFrame, n_train: int) -> None:
    """Score with its band against the number of labels; `curves` is what `summaries.comparison` returns."""
    for name, group in curves.groupby("name", sort=False):
        group = group.assign(labels=group["budget"].replace(0, n_train)).sort_values("labels")
        axis.plot(
            group["labels"],
            100 * group["score"],
            marker="o",
            markersize=3.5,
            color=COLOURS[name],
            label=name,
            linestyle=":" if name == "untrained" else "-",
        )
        axis.fill_between(
            group["labels"], 100 * group["low"], 100 * group["high"], color=COLOURS[name], alpha=0.12, linewidth=0
        )
    labels = sorted(set(curves["budget"].replace(0, n_train)))
    axis.set_xscale("log")
    axis.set_xticks(labels, [str(label) for label in labels])
    axis.minorticks_off()
    axis.legend(loc="lower right", fontsize=8)


def head_curves(systems: pd.DataFrame) -> Figure:
    """Score against labelled tracks, one panel per kind of head, with the best system without training and chance.

    Parameters
    ----------
    systems : of `summaries.systems`, one task.
    """
    trained, others = systems.dropna(subset="budget"), systems[systems["budget"].isna()]
    heads = list(trained["head"].unique())
    figure, axes = plt.subplots(1, len(heads), figsize=(5.5 * len(heads), 4.6), sharey=True, squeeze=False)
    best = others.loc[others["weighted_both"].idxmax()]
    for axis, head in zip(axes[0], heads):
        group = trained[trained["head"] == head]
        group = group.assign(labels=group["budget"].where(group["budget"] > 0, group["n_train"])).sort_values("labels")
        for features in group["features"].unique():
            line, colour = group[group["features"] == features], COLOURS.get(features, COLOURS["outside"])
            axis.plot(line["labels"], 100 * line["weighted_both"], "o-", color=colour, label=features, markersize=4)
            axis.fill_between(
                line["labels"], 100 * line["low"], 100 * line["high"], color=colour, alpha=0.13, linewidth=0
            )
        axis.axhline(100 * best["weighted_both"], color=COLOURS["template"], linestyle="--", linewidth=1)
        axis.annotate(
            f"best of {len(others)} without training, by test: {best['features']} {best['head']}",
            (group["labels"].min(), 100 * best["weighted_both"]),
            xytext=(0, 26 if best["weighted_both"] < 0.9 else -12),
            textcoords="offset points",
            fontsize=8,
            color="0.35",
        )
        axis.axhline(
            100 * chance_scores([0], fifths="both").mean(), color=COLOURS["chance"], linestyle=":", linewidth=1
        )
        ticks = sorted(set(group["labels"].astype(int)))
        axis.set(xscale="log", title=head, xlabel="labelled training tracks", ylim=(0, 100))
        axis.set_xticks(ticks, list(map(str, ticks)))
        axis.minorticks_off()
    axes[0, 0].set_ylabel("weighted score x 100")
    known = {line.get_label(): line for axis in axes[0] for line in axis.lines if line.get_marker() == "o"}
    axes[0, -1].legend(list(known.values()), list(known), loc="center right")  # some features have one kind of head
    return figure


def cost_curve(axis: Axes, cost: pd.DataFrame, main: str, untrained: str) -> None:
    """Score against counted operations: the lengths of one objective as a line, the others as points.

    Parameters
    ----------
    cost : what `summaries.comparison_cost` returns.
    main : the objective drawn as a line. untrained : the one drawn as a level, for it costs nothing.
    """
    level = cost[cost["objective"] == untrained].iloc[0]
    axis.axhline(100 * level["score"], color=COLOURS[untrained], linestyle=":", label=untrained)
    axis.axhspan(100 * level["low"], 100 * level["high"], color=COLOURS[untrained], alpha=0.1, linewidth=0)
    for name, group in cost[cost["objective"] != untrained].groupby("objective", sort=False):
        group = group.sort_values("tflop")
        spread = 100 * np.abs(group[["low", "high"]].to_numpy().T - group["score"].to_numpy())
        axis.errorbar(
            group["tflop"],
            100 * group["score"],
            yerr=spread,
            marker="o",
            capsize=2,
            color=COLOURS[name],
            linestyle="-" if name == main else "none",
            label=name,
        )
        if name == main:
            for row in group.itertuples():
                axis.annotate(
                    f"{row.steps}", (row.tflop, 100 * row.score), xytext=(4, 5), textcoords="offset points", fontsize=7
                )
    axis.set_xscale("log")
    axis.legend(fontsize=8)


def circle_of_fifths(axis: Axes, found: pd.DataFrame) -> None:
    """Cosine between music and its transpositions, by steps along the circle of fifths, a line for each system.

    Parameters
    ----------
    found : what `geometry.circle_profile` returns.
    """
    for name, group in found.groupby("name", sort=False):
        group = group.sort_values("steps")
        (line,) = axis.plot(
            group["steps"],
            group["cosine"],
            marker="o",
            markersize=4,
            color=COLOURS.get(name),
            label=name,
            linestyle=":" if name == "untrained" else "-",
        )
        axis.fill_between(group["steps"], group["low"], group["high"], color=line.get_color(), alpha=0.13, linewidth=0)
    axis.axhline(0, color="0.3", linewidth=0.8)
    semitones = {0: "0", 1: "5, 7", 2: "2, 10", 3: "3, 9", 4: "4, 8", 5: "1, 11", 6: "6"}
    steps = sorted(set(found["steps"]))
    axis.set_xticks(steps, [f"{step}\n({semitones[step]})" for step in steps])
    axis.set(xlabel="steps along the circle of fifths (semitones)", ylabel="cosine to the transposition")
    axis.legend(fontsize=8)


def layer_heatmap(axis: Axes, values: pd.DataFrame, *, colorbar: bool) -> None:
    """What can be read off each layer: properties down, layers across; `values` has block, property, value."""
    import seaborn as sns

    table = values.pivot_table(index="property", columns="block", values="value", sort=False)
    sns.heatmap(
        table,
        vmin=0,
        vmax=1,
        cmap="viridis",
        annot=100 * table,
        fmt=".0f",
        annot_kws={"size": 7},
        ax=axis,
        cbar=colorbar,
        cbar_kws={"label": "skill or R2"},
    )
    axis.set(xlabel="", ylabel="")
    axis.tick_params(axis="x", labelrotation=60, labelsize=8)
    axis.tick_params(axis="y", labelrotation=0, labelsize=8)


def transfer_points(axis: Axes, found: pd.DataFrame) -> None:
    """Scores of heads trained elsewhere (dots with intervals) and of their controls (bars), by condition and system."""
    systems, names = list(dict.fromkeys(found["system"])), list(dict.fromkeys(found["condition"]))
    for i, system in enumerate(systems):
        group = found[found["system"] == system].set_index("condition").loc[names]
        x = np.arange(len(names)) + (i - (len(systems) - 1) / 2) * 0.8 / len(systems)
        spread = 100 * np.abs(group[["low", "high"]].to_numpy().T - group["score"].to_numpy())
        axis.errorbar(x, 100 * group["score"], yerr=spread, fmt="o", markersize=4, color=COLOURS[system], label=system)
        axis.plot(x, 100 * group["control"], "_", markersize=9, color=COLOURS[system])
    axis.plot([], [], "_", color="0.3", label="trained where tested")
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    axis.set_ylabel("weighted score x 100")
    axis.legend(fontsize=8, bbox_to_anchor=(1.01, 1), loc="upper left")


def system_points(axis: Axes, found: pd.DataFrame) -> None:
    """Scores of systems, dots with intervals, from the top down; `found` by system, a row empty if it was not run."""
    for place, (system, row) in enumerate(found.iterrows()):
        colour = COLOURS.get(system, COLOURS["template"])
        if pd.isna(row["score"]):
            axis.text(0.02, place, NOT_RUN, transform=axis.get_yaxis_transform(), va="center", fontsize=8, color="0.5")
            continue
        axis.plot([100 * row["low"], 100 * row["high"]], [place, place], color=colour, linewidth=1.5)
        axis.plot(100 * row["score"], place, "o", color=colour, markersize=5)
    axis.set_yticks(range(len(found)), found.index)
    axis.set(xlim=(-2, 102), ylim=(len(found) - 0.5, -0.5))


def difference_points(axis: Axes, found: pd.DataFrame) -> None:
    """Paired differences with their intervals, one row per system; filled where Holm-adjusted p is below 0.05."""
    y = np.arange(len(found))[::-1]
    for place, row in zip(y, found.to_dict("records")):
        colour = "#D55E00" if row["p_holm"] < 0.05 else "0.5"
        axis.plot([100 * row["d_low"], 100 * row["d_high"]], [place, place], color=colour, linewidth=1.5)
        axis.plot(
            100 * row["difference"],
            place,
            "o",
            color=colour,
            markersize=5,
            markerfacecolor=colour if row["p_holm"] < 0.05 else "white",
        )
    axis.axvline(0, color="0.3", linewidth=0.8)
    axis.set_yticks(y, found["name"])


def verdicts(axis: Axes, concluded: pd.DataFrame) -> None:
    """Claims down, label budgets across, a word and a colour for each verdict; `concluded` as of `conclusions`."""
    claims, labels = (list(dict.fromkeys(concluded[column])) for column in ("claim", "labels"))
    colours = {HOLDS: "#009E73", DOES_NOT: "#D55E00", CANNOT_BE_TOLD: "0.85", NOT_TESTED: "1.0"}
    for row in concluded.itertuples():
        x, y = labels.index(row.labels), len(claims) - 1 - claims.index(row.claim)
        axis.add_patch(plt.Rectangle((x, y), 0.96, 0.9, facecolor=colours[row.verdict], edgecolor="0.8", linewidth=0.5))
        text = (
            row.verdict
            if np.isnan(row.p)
            else f"{100 * row.difference:+.1f}\n[{100 * row.low:+.1f}, {100 * row.high:+.1f}]"
        )
        axis.text(
            x + 0.48,
            y + 0.45,
            text,
            ha="center",
            va="center",
            fontsize=6.5,
            color="black" if colours[row.verdict] in ("0.85", "1.0") else "white",
        )
    axis.set(xlim=(0, len(labels)), ylim=(0, len(claims)))
    axis.set_xticks(np.arange(len(labels)) + 0.48, labels)
    axis.set_yticks(np.arange(len(claims)) + 0.45, claims[::-1], fontsize=8)
    axis.tick_params(length=0)
    axis.legend(
        [plt.Rectangle((0, 0), 1, 1, facecolor=c, edgecolor="0.8") for c in colours.values()],
        colours,
        ncols=4,
        fontsize=7,
        loc="lower center",
        bbox_to_anchor=(0.4, 1.0),
    )
    for side in axis.spines.values():
        side.set_visible(False)


def speed_ratios(rows: pd.DataFrame, notes: Sequence[str]) -> Figure:
    """Ratios of the benchmark with their quartiles, a panel a subject, on a logarithmic axis; 1 is no difference.

    Parameters
    ----------
    rows : those with a `ratio_to`, columns as `bench.measure.Measurement`.
    notes : what was not run, written below.
    """
    groups = list(rows.groupby("subject", sort=False))
    figure, axes = plt.subplots(
        len(groups),
        1,
        figsize=(9, 0.9 * len(groups) + 0.27 * len(rows)),
        sharex=True,
        squeeze=False,
        height_ratios=[len(group) + 1 for _, group in groups],
    )
    for axis, (subject, group) in zip(axes[:, 0], groups):
        y = np.arange(len(group))[::-1]
        spread = np.abs(group[["low", "high"]].to_numpy().T - group["median"].to_numpy())
        axis.errorbar(group["median"], y, xerr=spread, fmt="o", markersize=4, color=COLOURS["pre-trained"])
        for place, row in zip(y, group.itertuples()):
            axis.annotate(
                f"{row.median:.2g} x", (row.high, place), xytext=(5, -3), textcoords="offset points", fontsize=7
            )
        axis.axvline(1, color="0.3", linewidth=0.8)
        axis.set_yticks(y, [f"{row.case}: {row.system} / {row.ratio_to}" for row in group.itertuples()], fontsize=7)
        axis.set(xscale="log", title=subject, ylim=(-0.7, len(group) - 0.3))
    axes[-1, 0].set_xlabel("times as fast (median and quartiles of rounds)")
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=6, x=0.01, ha="left")
    return figure


def step_shares(rows: pd.DataFrame) -> Figure:
    """Where the time of a pre-training step goes, part by part from left to right, a bar for each case and system.

    Parameters
    ----------
    rows : those whose quantity is "share: PART", columns as `bench.measure.Measurement`.
    """
    import seaborn as sns

    parts = rows["quantity"].str.removeprefix("share: ")
    table = rows.assign(part=parts).pivot(index=["case", "system"], columns="part", values="median")[parts.unique()]
    figure, axis = plt.subplots(figsize=(9, 1.2 + 0.45 * len(table)))
    left = np.zeros(len(table))
    for part, colour in zip(table, sns.color_palette("colorblind", table.shape[1])):
        drawn = axis.barh(
            [f"{case}: {system}" for case, system in table.index], table[part], left=left, color=colour, label=part
        )
        axis.bar_label(
            drawn, [f"{share:.0%}" if share > 0.04 else "" for share in table[part]], label_type="center", fontsize=7
        )
        left += table[part].to_numpy()
    axis.set(xlabel="share of the step (medians)", xlim=(0, 1.02))
    axis.invert_yaxis()
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=7)
    return figure


def growth_lines(rows: pd.DataFrame) -> Figure:
    """What grows against its size on logarithmic axes, a panel a case, with the fitted exponent in its title.

    Parameters
    ----------
    rows : of subject "growth", columns as `bench.measure.Measurement`.
    """
    groups = list(rows.groupby("case", sort=False))
    columns = min(4, len(groups))
    figure, axes = plt.subplots(
        -(-len(groups) // columns), columns, squeeze=False, figsize=(3.3 * columns, 2.9 * -(-len(groups) // columns))
    )
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, (case, group) in zip(axes.flat, groups):
        fitted, points = group[group["quantity"] == "exponent"].iloc[0], group.dropna(subset="size")
        spread = np.abs(points[["low", "high"]].to_numpy().T - points["median"].to_numpy())
        axis.errorbar(points["size"], points["median"], yerr=spread, fmt="o", markersize=4, color=COLOURS["untrained"])
        middle = np.exp(np.log(points[["size", "median"]]).mean())
        axis.plot(
            points["size"],
            middle["median"] * (points["size"] / middle["size"]) ** fitted["median"],
            color="0.5",
            linewidth=1,
        )
        centre, half = (
            middle["median"],
            max(points["high"].max() / middle["median"], middle["median"] / points["low"].min(), 3),
        )
        axis.set(
            xscale="log", yscale="log", ylabel=points["unit"].iloc[0], ylim=(centre / half / 1.3, 1.3 * centre * half)
        )
        axis.set_xticks(points["size"], [f"{value:g}" for value in points["size"]])
        axis.xaxis.minorticks_off()
        axis.set_title(f"{case}\nexponent {fitted['median']:.2f}", fontsize=8)
    return figure


# Colour-blind safe hues (Okabe and Ito), two more in between.
_FAMILY_COLOURS = {
    "noise": "#56B4E9",
    "filter": "#0072B2",
    "equaliser": "#009E73",
    "gain": "#8C8C8C",
    "reverb": "#CC79A7",
    "tempo": "#E69F00",
    "coding": "#7B4FA3",
    "pitch": "#D55E00",
}


def _track_colours(number: int) -> np.ndarray:
    """Colours (number, 3) that tell neighbours in order apart: hue by the golden ratio, two lightnesses."""
    from matplotlib.colors import hsv_to_rgb

    n = np.arange(number)
    saturation, value = np.where(n % 2, 0.55, 0.85), np.where(n % 3, 0.85, 0.65)
    return hsv_to_rgb(np.stack([n * 0.618034 % 1, saturation, value], axis=1))


def plot_tsne(
    fig: Figure, xy_by_encoder: Mapping[str, np.ndarray], track: np.ndarray, family: np.ndarray, shift: np.ndarray
) -> None:
    """The paper's Figure 2 in our own drawing: one column per encoder, coloured by track above, by change below.

    A ring is a clean track, joined by a thin line to each of its changed versions: what the encoder is robust
    to sits in its ring. Colours above only tell neighbours apart. Below, pitch shifts, the one change that
    should move an embedding, are triangles that point the way of the shift.

    Parameters
    ----------
    fig : an empty figure with a constrained layout; 5 inches per column and 10.4 in height suit 100 tracks.
    xy_by_encoder : title -> (point, 2), the output of `tsne`.
    track : (point,) labels of the tracks.
    family : (point,) kind of change, such as "noise" or "pitch"; "" for the one clean point of every track.
    shift : (point,) semitones by which a point's audio was shifted.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    track, family, shift = np.asarray(track), np.asarray(family), np.asarray(shift)
    _, number = np.unique(track, return_inverse=True)
    clean = np.flatnonzero(family == "")
    home = clean[np.argsort(number[clean])]  # track's number -> its clean point
    if len(home) != number.max() + 1:
        raise KeyMynaError("plot_tsne: expected exactly one clean point per track.")
    changed = np.flatnonzero(family != "")
    changed = numpy_stream(0, "drawing order").permutation(changed)  # so that no change hides another
    families = list(dict.fromkeys(family[family != ""]))
    family, shift = family[changed], shift[changed]
    by_track = _track_colours(len(home))
    by_family = np.array([_FAMILY_COLOURS.get(f, "black") for f in family])

    axes = fig.subplots(2, len(xy_by_encoder), squeeze=False)
    for column, (title, xy) in zip(axes.T, xy_by_encoder.items(), strict=True):
        column[0].set_title(title)
        for axis, colours, line_colours, line_alpha, ring, pointed in (
            (column[0], by_track[number[changed]], by_track[number[changed]], 0.45, by_track, False),
            (column[1], by_family, "black", 0.12, "0.15", True),
        ):
            lines = np.stack([xy[home[number[changed]]], xy[changed]], axis=1)
            axis.add_collection(LineCollection(lines, colors=line_colours, linewidths=0.4, alpha=line_alpha))
            for marker, chosen in (("o", shift == 0), ("^", shift > 0), ("v", shift < 0)):
                axis.scatter(
                    *xy[changed[chosen]].T,
                    c=colours[chosen],
                    marker=marker if pointed else "o",
                    s=9,
                    linewidths=0,
                    alpha=0.85,
                    zorder=2,
                )
            axis.scatter(*xy[home].T, s=26, linewidths=0.8, facecolors="none", edgecolors=ring, zorder=3)
            axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
            axis.margins(0.03)
            axis.spines[:].set_color("0.8")
    axes[0, 0].set_ylabel("coloured by track")
    axes[1, 0].set_ylabel("coloured by change")
    handles = [Line2D([], [], ls="", marker="o", mfc="white", mec="black", label="clean")] + [
        Line2D([], [], ls="", marker="^" if f == "pitch" else "o", color=_FAMILY_COLOURS.get(f, "black"), label=f)
        for f in families
    ]
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.2,
    )
