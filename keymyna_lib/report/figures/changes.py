"""What changes of the audio do to embeddings and answers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report.figures.style import DARK, PAGE, look, mark_chance

_ROW = 0.18  # inches
_COLUMNS = 4


def robustness(
    measured: pd.DataFrame, measures: Mapping[str, str], systems: Sequence[str], chance: Mapping[str, float]
) -> Figure:
    """What each change of the audio does: a panel a measure, a row a change, a marker with its interval a system.

    A rule parts the changes that should leave the key alone, above, from pitch shifts.

    Parameters
    ----------
    measured : columns augmentation, family, features, measure, value, low, high, n_tracks.
    measures : measure -> title, those shown. systems : those of `features` shown.
    chance : measure -> its value by chance, where there is one.
    """
    family = measured.drop_duplicates("augmentation").set_index("augmentation")["family"]
    changes = [*family.index[family != "pitch"], *family.index[family == "pitch"]]
    rule = (family != "pitch").sum() - 0.5
    size = (PAGE, 1.05 + _ROW * len(changes))
    figure, axes = plt.subplots(1, len(measures), figsize=size, sharey=True, squeeze=False)
    for axis, (measure, title) in zip(axes[0], measures.items()):
        shown = measured[(measured["measure"] == measure) & measured["features"].isin(systems)]
        for offset, system in zip(np.linspace(-0.17, 0.17, len(systems)), systems):
            rows = shown[shown["features"] == system].set_index("augmentation").loc[changes]
            (colour, marker), places = look(system), np.arange(len(changes)) + offset
            axis.hlines(places, rows["low"], rows["high"], color=colour, linewidth=0.8)
            axis.plot(rows["value"], places, marker, color=colour, markersize=3.2, label=system)
        axis.axhline(rule, color=DARK, linewidth=0.6)
        low, high = float(shown["low"].min()), float(shown["high"].max())
        margin = 0.08 * (high - low) or 0.05
        axis.set(title=textwrap.fill(title, 17), xlim=(low - margin, high + margin))
        axis.grid(axis="x", color="0.92", linewidth=0.5)
        if measure in chance:
            mark_chance(axis, chance[measure], along="x")
    axes[0, 0].set_yticks(range(len(changes)), changes)
    axes[0, 0].set_ylim(len(changes) + 0.2, -0.7)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=len(names), borderpad=0)
    figure.supxlabel(f"means over {measured['n_tracks'].max()} tracks, with 95 % intervals")
    return figure


def tsne(xy_by_encoder: Mapping[str, np.ndarray], track: np.ndarray, family: np.ndarray, shift: np.ndarray) -> Figure:
    """The paper's Figure 2 as small multiples: a block of panels an encoder, a panel a kind of change.

    Every panel has the clean tracks in grey and, in the encoder's colour, the same tracks under one kind of change:
    where a change does nothing, each coloured point hides a grey one. Pitch shifts, the one change that should move an
    embedding, are triangles that point the way of the shift.

    Parameters
    ----------
    xy_by_encoder : title -> (point, 2), the output of `tsne`.
    track : (point,) labels of the tracks.
    family : (point,) kind of change, such as "noise" or "pitch"; "" for the one clean point of every track.
    shift : (point,) semitones by which a point's audio was shifted.
    """
    track, family, shift = np.asarray(track), np.asarray(family), np.asarray(shift)
    clean = family == ""
    if not (np.unique(track[clean], return_counts=True)[1] == 1).all() or set(track) != set(track[clean]):
        raise KeyMynaError("tsne: expected exactly one clean point per track.")
    families = list(dict.fromkeys(family[~clean]))
    rows = -(-len(families) // _COLUMNS)
    side = PAGE / _COLUMNS
    figure = plt.figure(figsize=(PAGE, len(xy_by_encoder) * (0.25 + rows * (0.82 * side + 0.15))))
    blocks = figure.subfigures(len(xy_by_encoder), 1, squeeze=False)[:, 0]
    for block, (title, xy) in zip(blocks, xy_by_encoder.items()):
        text = f"{title}: clean tracks in grey, the same tracks changed in colour"
        block.suptitle(text, fontweight="bold", color=look(title).colour, x=0.01, ha="left")
        axes = block.subplots(rows, _COLUMNS, squeeze=False).ravel()
        for axis, name in zip(axes, families):
            axis.plot(*xy[clean].T, "o", color="0.75", markersize=2.5, markeredgewidth=0)
            for marker, way in (("o", shift == 0), ("^", shift > 0), ("v", shift < 0)):
                chosen = xy[(family == name) & way]
                axis.plot(*chosen.T, marker, color=look(title).colour, markersize=2, markeredgewidth=0, alpha=0.75)
            axis.set_title(name, fontweight="normal")
            axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
            axis.margins(0.03)
            axis.spines[:].set_visible(True)
            axis.spines[:].set_color("0.85")
        for axis in axes[len(families) :]:
            axis.set_visible(False)
    return figure
