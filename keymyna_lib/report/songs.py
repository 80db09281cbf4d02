"""Pictures of synthetic songs: a piano roll with sections and chords, and what a set of songs consists of."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from keymyna_lib.keys import MODES, N_KEYS, short_name
from keymyna_lib.report.figures.style import MODE_COLOURS, PAGE

_TITLES = {"style": "style", "kind": "kind of harmony"}
_DRUMS = -1


def piano_roll(
    notes: np.ndarray,
    roles: Sequence[str],
    sections: Sequence[tuple[str, float]],
    chords: Sequence[tuple[str, float]],
    title: str,
) -> Figure:
    """Notes over time, a colour a part; sections are ruled and named above, chords named between notes and drums.

    Parameters
    ----------
    notes : (note, 5) onset [beats], duration [beats], MIDI pitch, part, velocity; part -1 is the drums, drawn apart.
    roles : name of each part.
    sections, chords : names and onsets [beats].
    """
    figure, (axis, drums) = plt.subplots(
        2, 1, figsize=(PAGE, 4.2), sharex=True, gridspec_kw={"height_ratios": [5, 1.4]}, layout="constrained"
    )
    colours = plt.get_cmap("tab10")
    pitched = notes[notes[:, 3] != _DRUMS]
    parts = np.unique(pitched[:, 3]).astype(int)
    widths = np.linspace(3.5, 1.5, len(parts))  # parts in unison stay visible
    for part, width in zip(parts, widths):
        onset, duration, pitch, _, velocity = pitched[pitched[:, 3] == part].T
        lines = np.stack([np.stack([onset, pitch], 1), np.stack([onset + duration, pitch], 1)], 1)
        colour = np.tile(colours(part % 10), (len(onset), 1))
        colour[:, 3] = 0.35 + 0.65 * velocity / 127
        axis.add_collection(LineCollection(lines, colors=colour, linewidths=width))
        axis.plot([], [], color=colours(part % 10), linewidth=4, label=roles[part])
    start, stop = notes[:, 0].min(), (notes[:, 0] + notes[:, 1]).max()
    low, high = pitched[:, 2].min() - 3, pitched[:, 2].max() + 3
    for _, beat in sections:
        axis.axvline(beat, color="black", linewidth=0.8)
    for name, beat in _apart(sections, start, 0.13 * (stop - start)):
        axis.text(beat, high + 0.5, f" {name}", fontweight="bold")
    for name, beat in _apart(chords, start, 0.025 * (stop - start)):
        below = {"xycoords": axis.get_xaxis_transform(), "xytext": (0, -4), "textcoords": "offset points"}
        axis.annotate(name, (beat, 0), rotation=90, ha="left", va="top", annotation_clip=False, **below)
    axis.set(xlim=(start, stop), ylim=(low, high), ylabel="MIDI pitch")
    axis.set_title(title, loc="left", pad=14)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    strokes = notes[notes[:, 3] == _DRUMS]
    keys, rows = np.unique(strokes[:, 2].astype(int), return_inverse=True)
    drums.scatter(strokes[:, 0], rows, marker="|", s=18, c=0.9 - strokes[:, 4] / 140, cmap="gray", vmin=0, vmax=1)
    drums.set_yticks(range(len(keys))[::2], keys[::2])
    drums.set(xlabel="beats", ylabel="drums", ylim=(-0.7, max(len(keys), 1) - 0.3))
    return figure


def _apart(names: Sequence[tuple[str, float]], start: float, gap: float) -> list[tuple[str, float]]:
    """Names at their beats, none before `start` [beats], without those that the next one would overlap."""
    kept: list[tuple[str, float]] = []
    for name, onset in reversed(names):
        beat = max(onset, start)
        if not kept or kept[-1][1] - beat >= gap:
            kept.append((name, beat))
    return kept


def song_histograms(card: pd.DataFrame) -> Figure:
    """Songs by style and mode, by key, by tempo, and by kind of harmony; `card` as of `songs.card.data_card`."""
    figure, axes = plt.subplots(2, 2, figsize=(PAGE, 8.0), height_ratios=[2.2, 1], layout="constrained")
    _by_mode(axes[0, 0], card, "style")
    _by_mode(axes[0, 1], card, "kind")
    counts = card["key"].value_counts().reindex(range(N_KEYS), fill_value=0)
    axes[1, 0].bar(range(N_KEYS), counts, color=[MODE_COLOURS[MODES[key // 12]] for key in range(N_KEYS)])
    axes[1, 0].set_xticks(range(N_KEYS), [short_name(key) for key in range(N_KEYS)], rotation=90)
    axes[1, 0].set(ylabel="songs", title="Keys")
    tempi = [card.loc[card["mode"] == mode, "tempo"] for mode in MODES]
    axes[1, 1].hist(tempi, bins=np.arange(30, 211, 10), stacked=True, color=list(MODE_COLOURS.values()), label=MODES)
    axes[1, 1].set(xlabel="tempo (beats per minute)", ylabel="songs", title="Tempi")
    axes[1, 1].legend()
    return figure


def _by_mode(axis: plt.Axes, card: pd.DataFrame, column: str) -> None:
    counts = pd.crosstab(card[column], card["mode"]).reindex(columns=MODES, fill_value=0)
    counts = counts.loc[counts.sum(axis=1).sort_values().index]
    counts.plot.barh(stacked=True, ax=axis, color=MODE_COLOURS, width=0.8)
    axis.set(xlabel="songs", ylabel="", title=f"Songs by {_TITLES[column]}")
