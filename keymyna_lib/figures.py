"""One style for all figures, and how they are saved: each with its data and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from keymyna_lib import paths
from keymyna_lib.files import atomic_path, write_json
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, KEY_NAMES, N_KEYS
from keymyna_lib.results import environment, note_written, write_csv
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE

# One colour for each kind of features, the same in every figure (Okabe and Ito's palette, safe for colour-blind).
COLOURS = {"pre-trained": "#D55E00", "untrained": "#0072B2", "mean mel": "#009E73", "chroma": "#CC79A7",
           "template": "#999999", "chance": "#555555"}


def use_style() -> None:
    """Set the style of every figure."""
    sns.set_theme(context="notebook", style="ticks", font_scale=0.9)
    mpl.rcParams.update({"figure.dpi": 100, "savefig.dpi": 160, "savefig.bbox": "tight", "axes.spines.top": False,
                         "axes.spines.right": False, "axes.titleweight": "bold", "axes.titlelocation": "left",
                         "legend.frameon": False, "pdf.fonttype": 42, "figure.constrained_layout.use": True})


def save(figure: Figure, name: str, *, data: pd.DataFrame, profile: str, notebook: str, runs: Sequence[str],
         parameters: Mapping[str, Any], seed: int | None = None) -> None:
    """Write figures/<profile>/NAME.png, .pdf, .csv (the data drawn) and .json (runs, parameters, provenance)."""
    folder = paths.figures_dir(profile)
    note_written(*(folder / f"{name}.{suffix}" for suffix in ("png", "pdf", "csv", "json")))
    # Without dates, so that the same picture is the same file.
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Creator": None})):
        with atomic_path(folder / f"{name}.{suffix}") as temporary:
            figure.savefig(temporary, format=suffix, metadata=metadata)
    write_csv(folder / f"{name}.csv", data)
    shared = {key: environment()[key] for key in ("commit", "dirty", "code_hash")}
    write_json(folder / f"{name}.json", {"figure": name, "notebook": notebook, "scale": profile, "runs": list(runs),
                                         "parameters": dict(parameters), "seed": seed, **shared})


def key_histogram(counts: pd.DataFrame) -> Figure:
    """Tracks by key along the circle of fifths, a panel a split; `counts` has the columns split, key, size."""
    splits = [split for split in ("train", "valid", "test") if split in set(counts["split"])]
    figure, axes = plt.subplots(len(splits), 1, figsize=(10, 1.7 * len(splits)), sharex=True, squeeze=False)
    for axis, split in zip(axes[:, 0], splits):
        sizes = counts[counts["split"] == split].set_index("key")["size"].reindex(CIRCLE_OF_FIFTHS, fill_value=0)
        axis.bar(range(N_KEYS), sizes, color=["#4C72B0" if key < 12 else "#C44E52" for key in CIRCLE_OF_FIFTHS])
        axis.set(ylabel="tracks", title=f"{split} ({sizes.sum()} tracks)")
    axes[-1, 0].set_xticks(range(N_KEYS), [KEY_NAMES[key] for key in CIRCLE_OF_FIFTHS], rotation=60, ha="right")
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
            masked[:, 2 * token:2 * token + 2] = crop[:, 2 * token:2 * token + 2]
        for axis, picture in zip(axes[:, column], (crop, masked)):
            axis.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high,
                        extent=(0, seconds, 0, crop.shape[0]), interpolation="nearest")
            axis.set_facecolor("0.93")
        for edge in range(crop.shape[1] // 2 + 1):
            axes[1, column].axvline(2 * edge * HOP / SAMPLE_RATE, color="white", linewidth=0.4)
        axes[0, column].set_title(f"crop {column + 1}: {crop.shape[1] // 2} patches of {crop.shape[0]} bands x 2 frames")
        axes[1, column].set_title(f"what the encoder sees: {len(tokens)} patches")
        axes[1, column].set_xlabel("s")
    for axis in axes[:, 0]:
        axis.set_ylabel("mel band")
    return figure


def grid_heatmap(axis: Axes, scores: pd.DataFrame) -> None:
    """Validation score over width and dropout; `scores` has the columns width, dropout, valid_score."""
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
