"""What a corpus consists of: tracks by key, label errors, spectrograms."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keymyna_lib.keys import CIRCLE_OF_FIFTHS, N_KEYS, mode, short_name
from keymyna_lib.report.figures.style import MODE_COLOURS, PAGE
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE

_SPLIT_SHADES = {"train": "0.8", "valid": "0.55", "test": "0.2", "extra": "#DDAA33"}


def _along_the_circle(axis: Axes) -> None:
    axis.set_xticks(range(N_KEYS), [short_name(key) for key in CIRCLE_OF_FIFTHS])
    axis.set(xlabel="key, along the circle of fifths", xlim=(-0.6, N_KEYS - 0.4))


def key_histogram(counts: pd.DataFrame) -> Figure:
    """Tracks by key along the circle of fifths, a panel a split; `counts` has the columns split, key, size."""
    splits = [split for split in ("train", "valid", "test") if split in set(counts["split"])]
    figure, axes = plt.subplots(len(splits), 1, figsize=(PAGE, 0.35 + 0.95 * len(splits)), sharex=True, squeeze=False)
    for axis, split in zip(axes[:, 0], splits):
        sizes = counts[counts["split"] == split].set_index("key")["size"].reindex(CIRCLE_OF_FIFTHS, fill_value=0)
        axis.bar(range(N_KEYS), sizes, color=[MODE_COLOURS[mode(key)] for key in CIRCLE_OF_FIFTHS])
        axis.set(ylabel="tracks", title=f"{split}, {sizes.sum()} tracks")
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=colour) for colour in MODE_COLOURS.values()]
    axes[0, 0].legend(handles, MODE_COLOURS, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)
    _along_the_circle(axes[-1, 0])
    return figure


def source_histograms(counts: pd.DataFrame) -> Figure:
    """Tracks by key along the circle of fifths, one row per data set; `counts` has columns source, split, key, size."""
    sources = list(dict.fromkeys(counts["source"]))
    figure, axes = plt.subplots(len(sources), 1, figsize=(PAGE, 0.35 + 1.05 * len(sources)), sharex=True, squeeze=False)
    for axis, source in zip(axes[:, 0], sources):
        bottom = np.zeros(N_KEYS)
        of_split = dict(tuple(counts[counts["source"] == source].groupby("split")))
        for split in (split for split in _SPLIT_SHADES if split in of_split):
            sizes = of_split[split].set_index("key")["size"].reindex(CIRCLE_OF_FIFTHS, fill_value=0).to_numpy()
            axis.bar(range(N_KEYS), sizes, bottom=bottom, label=split, color=_SPLIT_SHADES[split])
            bottom += sizes
        axis.set(title=source, ylabel="tracks")
        axis.legend(ncols=4, loc="lower right", bbox_to_anchor=(1, 1), borderpad=0)  # above the bars
    _along_the_circle(axes[-1, 0])
    return figure


def label_audit(closes: pd.DataFrame) -> Figure:
    """Scores left out by how far their last note lies above the written tonic, a panel a source.

    Parameters
    ----------
    closes : columns source, interval [semitones], size.
    """
    sources = list(dict.fromkeys(closes["source"]))
    figure, axes = plt.subplots(1, len(sources), figsize=(PAGE, 1.7), squeeze=False)
    for axis, source in zip(axes[0], sources):
        table = closes[closes["source"] == source]
        axis.bar(table["interval"], table["size"], color="0.45")
        axis.set(title=f"{source}s left out", xlabel="last note above the written tonic [semitones]", ylabel="pieces")
        axis.set(xticks=range(12), xlim=(-0.6, 11.6))
    return figure


def spectrograms(shown: Mapping[tuple[str, str], tuple[str, np.ndarray]]) -> Figure:
    """Spectrograms in rows and columns, on one scale of colours.

    Parameters
    ----------
    shown : by row and column, the name of a track and its (frame, band) stored spectrogram.
    """
    rows, columns = (list(dict.fromkeys(place[i] for place in shown)) for i in (0, 1))
    size = (PAGE, 0.3 + 1.6 * len(rows))
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, sharey=True)
    high = np.quantile(np.concatenate([frames.ravel() for _, frames in shown.values()]).astype(np.float32), 0.995)
    room = int(PAGE / len(columns) * 13)  # characters of a title
    for (row, column), (name, frames) in shown.items():
        axis = axes[rows.index(row), columns.index(column)]
        extent = (0, len(frames) * HOP / SAMPLE_RATE, 0, frames.shape[1])
        picture = frames.T.astype(np.float32)
        drawn = axis.imshow(picture, origin="lower", aspect="auto", cmap="magma", vmin=0, vmax=high, extent=extent)
        name = textwrap.shorten(name, room, placeholder=" ...")
        axis.set_title(f"{column}, {row}\n{name}", fontweight="normal")
    for axis in axes.flat:
        axis.set_visible(bool(axis.images))
    for axis in axes[-1]:
        axis.set_xlabel("time [s]")
    for axis in axes[:, 0]:
        axis.set_ylabel("mel band")
    figure.colorbar(drawn, ax=axes, label="log(1 + power)", shrink=0.6, pad=0.01, aspect=30)
    return figure
