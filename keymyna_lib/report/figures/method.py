"""The method in a picture, after the paper's Figure 1, and how its pre-training went."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Polygon
from torch import Tensor

from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.report.figures.style import DARK, GREY, PAGE, look, mark_chance
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE

_PATCH = 2  # frames of a vertical patch
_CROPS = (DARK, GREY)  # of the two crops and what becomes of them: no system's colour


def framework(crops: Sequence[Tensor], keep: Tensor) -> Figure:
    """The paper's Figure 1 in our own drawing: two crops, their patches, the masks, encoder, projection, and loss.

    Parameters
    ----------
    crops : two (mel, frame) stored spectrograms of one recording.
    keep : (2, kept) indices of the vertical patches that are kept.
    """
    figure = plt.figure(figsize=(PAGE, 2.7))
    grid = figure.add_gridspec(2, 4, width_ratios=[0.8, 1.15, 1.15, 3.3])
    high = float(torch.cat(list(crops), dim=1).float().quantile(0.995))
    for row, (crop, tokens) in enumerate(zip(crops, keep)):
        audio, patches, masked = (figure.add_subplot(grid[row, column]) for column in range(3))
        crop = crop.float()
        _envelope(audio, crop, _CROPS[row])
        seen = torch.full_like(crop, float("nan"))
        for token in tokens.tolist():
            part = slice(_PATCH * token, _PATCH * (token + 1))
            seen[:, part] = crop[:, part]
        seconds = crop.shape[1] * HOP / SAMPLE_RATE
        for axis, picture in ((patches, crop), (masked, seen)):
            axis.imshow(
                picture.numpy(),
                origin="lower",
                aspect="auto",
                cmap="magma",
                vmin=0.0,
                vmax=high,
                extent=(0, seconds, 0, crop.shape[0]),
                interpolation="nearest",
            )
            axis.set_facecolor("0.93")
            axis.set(yticks=[], xticks=[])
            axis.spines[:].set_visible(False)
            edges = np.arange(_PATCH, crop.shape[1], _PATCH) * HOP / SAMPLE_RATE
            axis.vlines(edges, 0, crop.shape[0], color="white", linewidth=0.2, alpha=0.6)
        audio.set_ylabel(f"crop {row + 1}", color=_CROPS[row], fontweight="bold")
        if row == 0:
            audio.set_title("audio")
            patches.set_title(f"{crop.shape[1] // _PATCH} patches")
            masked.set_title(f"{len(tokens)} kept, rest masked")
        else:
            audio.set_xlabel(f"{seconds:.1f} s each")
            patches.set_xlabel(f"{crop.shape[0]} mel bands\nx {_PATCH} frames each")
            masked.set_xlabel("what the encoder sees")
    _schematic(figure.add_subplot(grid[:, 3]))
    return figure


def _envelope(axis: Axes, crop: Tensor, colour: str) -> None:
    """A wave with the loudness that a crop has over time."""
    level = crop.mean(0).numpy()
    level = level - 0.9 * level.min()
    wave = np.repeat(level, 2) * numpy_stream(0, "wave").uniform(0.3, 1, 2 * len(level)) * np.tile([1, -1], len(level))
    axis.plot(np.linspace(0, 1, len(wave)), wave, color=colour, linewidth=0.4)
    axis.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(-1.25 * level.max(), 1.25 * level.max()))
    axis.spines[:].set_visible(False)


def _schematic(axis: Axes) -> None:
    """Encoder, embedding, projection head and loss, for both crops, with example numbers from a seed."""
    rng = numpy_stream(0, "example embeddings")
    axis.set(xlim=(0, 10), ylim=(0, 10), xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    for y, colour in ((7.6, _CROPS[0]), (2.4, _CROPS[1])):
        _arrow(axis, (0.0, y), (0.6, y))
        axis.add_patch(Polygon([(0.6, y - 1.8), (0.6, y + 1.8), (2.7, y + 1.1), (2.7, y - 1.1)], **_box()))
        axis.text(1.65, y, "encoder\n(ViT)", ha="center", va="center", linespacing=1.1)
        _arrow(axis, (2.7, y), (3.2, y))
        _vector(axis, 3.2, y, rng.normal(size=8), colour)
        _arrow(axis, (3.6, y), (4.1, y))
        axis.add_patch(FancyBboxPatch((4.2, y - 1.0), 1.9, 2.0, boxstyle="round,pad=0.1", **_box()))
        axis.text(5.15, y, "project-\nion head", ha="center", va="center", linespacing=1.1)
        _arrow(axis, (6.2, y), (6.7, y))
    axis.annotate("", (1.65, 6.1), (1.65, 3.9), arrowprops={"arrowstyle": "<->", "color": GREY, "linewidth": 0.7})
    axis.text(1.85, 5.0, "same\nweights", va="center", color=GREY, linespacing=1.0)
    axis.text(3.4, 9.75, "embedding", ha="center", va="center", fontweight="bold")
    axis.text(3.4, 0.15, "kept for key\ndetection", ha="center", va="center", color=GREY, linespacing=1.0)
    left, size, number = 6.9, 3.0, 4
    cosines = np.clip(0.25 * np.abs(rng.normal(size=(number, number))) + 0.75 * np.eye(number), 0, 1)
    bottom = 5 - size / 2 * 0.95
    extent = (left, left + size, bottom, bottom + size * 0.95)
    axis.imshow(cosines, cmap="Greys", vmin=0, vmax=1.1, extent=extent, aspect="auto", zorder=1)
    for y, at in ((7.6, 0.95 * size + bottom), (2.4, bottom)):
        axis.plot([6.7, left + size / 2, left + size / 2], [y, y, at], color=DARK, linewidth=0.7)
    axis.text(left + size / 2, 9.75, "loss", ha="center", va="center", fontweight="bold")
    axis.text(left + size / 2, 8.6, "diagonal: one recording,\ndrawn together", **_note())
    axis.text(left + size / 2, 1.3, "elsewhere: different\nones, driven apart", **_note())
    axis.set(xlim=(0, 10), ylim=(0, 10))


def _box() -> dict:
    return {"facecolor": "0.93", "edgecolor": DARK, "linewidth": 0.7}


def _note() -> dict:
    return {"ha": "center", "va": "center", "color": GREY, "linespacing": 1.0}


def _arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": DARK, "linewidth": 0.7, "shrinkB": 0})


def _vector(axis: Axes, x: float, y: float, values: np.ndarray, colour: str) -> None:
    """An embedding as a column of cells, darker for larger values."""
    height = 0.42
    for place, value in enumerate(values):
        bottom = y + height * (place - len(values) / 2)
        shade = 0.15 + 0.85 / (1 + np.exp(-value))
        axis.add_patch(
            plt.Rectangle((x, bottom), 0.4, height, facecolor=colour, alpha=shade, edgecolor="white", linewidth=0.5)
        )


def running_mean(history: pd.DataFrame) -> pd.DataFrame:
    """Centred running means over a twentieth of the steps; short runs stay as they are."""
    return history.rolling(max(1, len(history) // 20), min_periods=1, center=True).mean()


def pretraining_curves(history: pd.DataFrame, measure: str, chance: float | None) -> Figure:
    """Loss, measure and learning rate by step; dark lines are running means over a twentieth of the steps.

    Parameters
    ----------
    history : of `pretrain.pretrain`.
    measure : what the measure is. chance : its value by chance, if there is one.
    """
    figure, axes = plt.subplots(1, 3, figsize=(PAGE, 2.0), width_ratios=[1, 1, 0.7])
    smooth = running_mean(history[["loss", "measure"]])
    colour = look("pre-trained").colour
    for axis, column in ((axes[0], "loss"), (axes[1], "measure")):
        axis.plot(history["step"], history[column], color="0.8", linewidth=0.6)
        axis.plot(history["step"], smooth[column], color=colour, label="training")
    axes[0].set(title="loss", xlabel="step")
    checks = history.dropna(subset="valid_measure")
    axes[1].plot(checks["step"], checks["valid_measure"], "o", markersize=3, color=DARK, label="validation")
    axes[1].set(title=measure, xlabel="step")
    if chance is not None:  # a share: the axis begins at 0, so that chance is on it
        axes[1].set_ylim(0, 1.04 * max(1.04 * history["measure"].max(), checks["valid_measure"].max()))
        mark_chance(axes[1], chance)
    axes[1].legend(loc="best", handlelength=1)
    axes[2].plot(history["step"], 1000 * history["lr"], color=DARK)
    axes[2].set(title="learning rate x 1000", xlabel="step")
    return figure
