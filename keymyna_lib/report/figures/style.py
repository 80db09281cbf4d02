"""One style for all figures: sizes as printed, one colour and one marker for each system, and how names are drawn."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import rcsetup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from keymyna_lib.evaluate import chance_scores

PAGE = 7.0  # inches that a page has in print; figures are drawn at this size
TEXT = 8.0  # points, of all text
ROW, LINE = 0.18, 0.115  # inches that a row of a dot plot, and a line of text, have at least
_BETWEEN = 0.02  # inches between names of rows


class Look(NamedTuple):
    """How a system is drawn, in every figure."""

    colour: str
    marker: str


# Okabe and Ito's palette and, where it ends, Tol's muted one: both can be told apart by colour-blind readers. The
# markers tell systems apart without any colour.
SYSTEMS = {
    "pre-trained": Look("#D55E00", "o"),  # by masked contrast, if notebook 10's objective is not changed
    "masked contrastive": Look("#D55E00", "o"),
    "masked contrastive, timbre-augmented": Look("#882255", "X"),
    "masked contrastive, transpositions told apart": Look("#AA4499", "8"),
    "masked contrastive, crops within 3.75 s": Look("#661100", "h"),
    # The same objectives on other material: of their colour, with markers of their own.
    "masked contrastive, on free recordings": Look("#D55E00", "^"),
    "masked contrastive, timbre-augmented, on free recordings": Look("#882255", "^"),
    "masked contrastive, crops within 3.75 s, on free recordings": Look("#661100", "^"),
    "masked contrastive, on the other corpus": Look("#D55E00", "v"),
    "masked contrastive, timbre-augmented, on the other corpus": Look("#882255", "v"),
    "untrained": Look("#0072B2", "s"),
    "bare contrastive": Look("#999933", "v"),
    "augmented contrastive": Look("#56B4E9", "<"),
    "augmented contrastive, pitch-shifted": Look("#332288", ">"),
    "masked reconstruction": Look("#E69F00", "d"),
    "supervised": Look("#555555", "P"),
    "supervised CNN": Look("#117733", "p"),
    "mean mel": Look("#009E73", "^"),
    "mean mel, LDA": Look("#44AA99", "H"),
    "chroma": Look("#CC79A7", "D"),
    "template": Look("#999999", "h"),
    "essentia": Look("#8B6F47", "X"),
    "default model": Look("#000000", "*"),
}
OUTSIDE = Look("#DDCC77", "o")  # frozen encoders and answers from elsewhere
# What a test of a difference says; none of these is a system's colour.
BETTER, WORSE, UNDECIDED = Look("#004488", ">"), Look("#BB5566", "<"), Look("#888888", "o")
MODE_COLOURS = {"major": "#DDAA33", "minor": "#44546A"}
GREY, DARK, FAINT = "#777777", "#222222", "#CCCCCC"
SEQUENTIAL = "viridis"  # for what has no natural colour

_THEME: dict[str, Any] = {
    "figure.dpi": 130,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same picture everywhere
    "axes.axisbelow": True,
    "axes.edgecolor": DARK,
    "axes.labelcolor": DARK,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 4,
    "axes.titleweight": "bold",
    "axes.labelpad": 2,
    "axes.prop_cycle": rcsetup.cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]),
    "legend.frameon": False,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.2,
    "lines.linewidth": 1.1,
    "lines.markersize": 4,
    "text.color": DARK,
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in {"color": DARK, "major.size": 2.5}.items()},
    **{f"{axis}tick.major.{name}": value for axis in "xy" for name, value in {"width": 0.6, "pad": 2}.items()},
    **{f"{axis}tick.minor.{name}": value for axis in "xy" for name, value in {"width": 0.4, "size": 1.5}.items()},
    **dict.fromkeys(
        ("font.size", "axes.labelsize", "axes.titlesize", "figure.titlesize", "figure.labelsize")
        + ("legend.fontsize", "legend.title_fontsize", "xtick.labelsize", "ytick.labelsize"),
        TEXT,
    ),
}


def use_style() -> None:
    """Set the style of every figure."""
    mpl.rcParams.update(_THEME)


def look(system: str) -> Look:
    """How a system is drawn; "template-krumhansl" is drawn as all templates, an unknown name as one from outside."""
    return SYSTEMS.get(system) or SYSTEMS.get(system.split("-")[0], OUTSIDE)


_PLAIN = {  # names of designs in tables -> in figures
    r"untrained": "untrained encoder",
    r"mask ratio 0": "no masking",
    r"mask ratio (.+)": r"mask ratio \1",
    r"patches (\w+)": r"\1 patches",
    r"input (\w+)": r"\1 mel input",
    r"batch (\d+)": r"batches of \1",
    r"crops within (\d+) frames": r"crops within \1 frames",
}


_AUTHORS = {
    "shaath": "Sha'ath",
    "edma": "edma",
    "bgate": "bgate",
}  # of key profiles, where not just a capital is missing


def plain_name(name: str) -> str:
    """A system's or design's name as figures write it.

    >>> plain_name("batch 32"), plain_name("template-shaath"), plain_name("chroma")
    ('batches of 32', "key profile: Sha'ath", 'chroma')
    """
    kind, _, profile = name.partition("-")
    if kind in ("template", "essentia") and profile:
        author = _AUTHORS.get(profile, profile.capitalize())
        return f"{'key profile' if kind == 'template' else kind}: {author}"
    for pattern, plain in _PLAIN.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(plain)
    return name


def objective_and_material(name: str) -> tuple[str, str]:
    """An objective's name without what it was pre-trained on, and that: "" where it is the corpus of the probes.

    >>> objective_and_material("bare contrastive, on free recordings"), objective_and_material("bare contrastive")
    (('bare contrastive', 'on free recordings'), ('bare contrastive', ''))
    """
    match = re.fullmatch(r"(.+), (on .+)", name)
    return (match[1], match[2]) if match else (name, "")


def wrapped(name: str, letters: int) -> str:
    """A name in lines of at most so many letters, which end with a comma where that is enough.

    >>> wrapped("masked contrastive, crops within 3.75 s", 26)
    'masked contrastive,\\ncrops within 3.75 s'
    """
    lines = [""]
    for part in name.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        lines = [*lines[:-1], joined] if len(joined) < letters else [*lines[:-1], f"{lines[-1]},", part]
    if max(map(len, lines)) <= letters and lines[0] != ",":
        return "\n".join(lines)
    return textwrap.fill(name, letters, break_on_hyphens=False)


class Entry(NamedTuple):
    """A row of a dot plot, or a heading: one with a line is of a group of rows, one without of a part of the group."""

    key: str  # of a row; "" for a heading
    name: str
    ruled: bool = False  # a thin line above it


class Rows(NamedTuple):
    """Rows of a dot plot from the top down; see `rows_of`."""

    places: dict[str, float]  # of the middle of each row [inches below the top]
    texts: list[tuple[float, str, Entry]]  # place, wrapped name, what it is
    height: float  # inches


def rows_of(entries: Sequence[Entry], letters: int = 26, least: float = ROW) -> Rows:
    """Rows that are as high as their names, so that none covers another.

    Parameters
    ----------
    letters : of a line. least : inches that a row has.
    """
    places, texts, top = {}, [], 0.0
    for entry in entries:
        text = wrapped(entry.name, letters)
        height = max(least if entry.key else 0, LINE * (1 + text.count("\n")) + _BETWEEN)
        texts.append((top + height / 2, text, entry))
        if entry.key:
            places[entry.key] = top + height / 2
        top += height
    return Rows(places, texts, top)


def by_material(names: Sequence[str]) -> list[Entry]:
    """Entries for `rows_of`: systems, then under a heading each those that were pre-trained on other material."""
    found: dict[str, list[Entry]] = {"": []}
    for name in names:
        objective, material = objective_and_material(name)
        shown = plain_name(objective).replace("untrained encoder", "untrained")
        found.setdefault(material, [Entry("", material, ruled=True)]).append(Entry(name, shown))
    return [entry for entries in found.values() for entry in entries]


def name_rows(axes: np.ndarray, rows: Rows, below: float = 0.0) -> None:
    """Name the rows of panels that share their axis of rows, and rule their thin lines.

    Headings of groups are bold, those of parts of a group slanted.

    Parameters
    ----------
    below : inches left free below the last row.
    """
    axes.flat[0].set_yticks([place for place, _, _ in rows.texts], [text for _, text, _ in rows.texts])
    axes.flat[0].set_ylim(rows.height + below, 0)
    heights = [LINE * (1 + text.count("\n")) + _BETWEEN for _, text, _ in rows.texts]
    above = [place - height / 2 for (place, _, entry), height in zip(rows.texts[1:], heights[1:]) if entry.ruled]
    for axis in axes.flat:
        axis.tick_params(axis="y", length=0)
        for top in above:
            axis.axhline(top, color="0.8", linewidth=0.5, zorder=0)
        for label, (_, _, entry) in zip(axis.get_yticklabels(), rows.texts):
            heading = {"fontweight": "bold"} if entry.ruled else {"fontstyle": "italic"}
            label.set(linespacing=0.95, **({} if entry.key else heading))


def multiples(names: Sequence[str], height: float = 1.3) -> tuple[Figure, dict[str, Axes]]:
    """Small panels that share their axes, by objective: what differs in its material alone is drawn in one.

    Parameters
    ----------
    height : inches of a panel.
    """
    objectives = list(dict.fromkeys(objective_and_material(name)[0] for name in names))
    columns = min(4, len(objectives))
    rows = -(-len(objectives) // columns)
    titles = [wrapped(plain_name(name), 88 // columns) for name in objectives]
    lines = sum(
        1 + max(title.count("\n") for title in titles[columns * row : columns * (row + 1)]) for row in range(rows)
    )
    size = (PAGE, 0.6 + rows * height + LINE * lines)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(objectives) :]:
        axis.set_visible(False)
    for axis, title in zip(axes.flat, titles):
        axis.set_title(title)
    for axis in axes.flat[max(len(objectives) - columns, 0) : len(objectives)]:
        axis.tick_params(labelbottom=True)
    return figure, dict(zip(objectives, axes.flat))


def multiples_key(figure: Figure, names: Sequence[str], levels: Mapping[str, str]) -> None:
    """What lines and markers mean in all panels of `multiples`.

    Parameters
    ----------
    names : of the systems. levels : those drawn in every panel, and the style of their line.
    """
    handles = [Line2D([], [], color=look(name).colour, linestyle=style, label=name) for name, style in levels.items()]
    handles.append(Line2D([], [], color=FAINT, label="the others"))
    figure.legend(handles=[*handles, *material_handles(names)], loc="outside upper right", ncols=5, borderpad=0)


def material_handles(names: Sequence[str]) -> list[Line2D]:
    """Entries of a legend: the markers of what was pre-trained on other material, if these systems have any."""
    markers = {objective_and_material(name)[1]: look(name).marker for name in names}
    return [
        Line2D([], [], color=DARK, linestyle="none", marker=marker, label=material)
        for material, marker in markers.items()
        if material
    ]


def label_points(axis: Axes, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names right of an axis, moved apart so that none covers another, each joined to what it names by a thin line.

    A figure that is too low for all the names becomes higher.

    Parameters
    ----------
    points : x, y (in data), name (a long one is wrapped), colour. Call it last: it takes the limits as they are.
    """
    from scipy.optimize import isotonic_regression

    if not points:
        return
    figure: Figure = axis.figure  # type: ignore[assignment]
    named = [(x, y, "\n".join(wrapped(part, 30) for part in name.split("\n")), c) for x, y, name, c in points]
    ordered = sorted(named, key=lambda point: point[1])
    figure.draw_without_rendering()  # for the height that the layout leaves
    needed = 1.2 * TEXT / 72 * figure.dpi * sum(1 + name.count("\n") for _, _, name, _ in named)
    lacking = (needed - axis.get_window_extent().height) / figure.dpi
    if lacking > 0:
        figure.set_figheight(figure.get_figheight() + lacking)
        figure.draw_without_rendering()
    line = 1.2 * TEXT / 72 * figure.dpi / axis.get_window_extent().height
    to_fraction = axis.transLimits.transform
    wanted = np.array([to_fraction(axis.transScale.transform((x, y)))[1] for x, y, _, _ in ordered])
    heights = line * np.array([1 + name.count("\n") for _, _, name, _ in ordered])
    least = np.concatenate([[0], np.cumsum((heights[1:] + heights[:-1]) / 2)])  # of each above the first
    places = isotonic_regression(wanted - least).x
    places = np.clip(places, 0, max(1 - least[-1], 0)) + least
    for (x, y, name, colour), place in zip(ordered, places):
        axis.annotate(
            name,
            (x, y),
            xytext=(1.04, place),
            textcoords="axes fraction",
            color=colour,
            va="center",
            linespacing=1.0,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.4,
                "shrinkA": 0,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def score_limits(low: float, high: float) -> tuple[float, float]:
    """Limits [points] of an axis of scores that hold these: from a multiple of ten below to one above, at most 100.

    A line at chance would lie on an axis at 10, which therefore begins at 0.
    """
    floor, ceiling = 10 * np.floor((low - 1) / 10), 10 * np.ceil((high + 1) / 10)
    floor = 0 if floor == 10 else floor
    return max(float(floor), 0.0), min(float(ceiling), 100.0) + (1.5 if ceiling >= 100 else 0)


CHANCE = 100 * float(chance_scores([0], fifths="both").mean())  # weighted score [points] of a uniform guess


def mark_chance(axis: Axes, value: float, *, along: str = "y") -> None:
    """A dotted line at the value by chance with its name, or, where it is off the axis, an arrow that says where.

    Parameters
    ----------
    value : in the units of the axis, whose limits stay as they are. along : the axis that it is a value of, x or y.
    """
    low, high = sorted(axis.get_ylim() if along == "y" else axis.get_xlim())
    inside = low <= value <= high
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # over lines of reference, but not over data
    looks: dict[str, Any] = {"color": GREY, "bbox": box, "zorder": 1.5}
    text = f"chance {value:.3g}" if inside else f"{'↓' if along == 'y' else '←'} chance {value:.3g}"
    if along == "y":
        if inside:
            axis.axhline(value, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
        at = (0.01, value if inside else low)
        axis.annotate(text, at, xycoords=axis.get_yaxis_transform(), xytext=(1, 2), textcoords="offset points", **looks)
        return
    if inside:
        axis.axvline(value, color=GREY, linestyle=":", linewidth=0.8, zorder=0)
    at = (value if inside else low, 0.0)
    axis.annotate(text, at, xycoords=axis.get_xaxis_transform(), xytext=(2, 2), textcoords="offset points", **looks)


def readable_limits(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Limits of an axis of differences that hold zero and these intervals, but for outliers that would crush the rest.

    An interval is an outlier when it reaches more than twice as far from zero as 85 % of them (our choice).

    Parameters
    ----------
    low, high : (row,) NaN where there is no interval.
    """
    known = ~np.isnan(low)
    low, high = low[known], high[known]
    if not len(low):
        return -1.0, 1.0
    reach = np.maximum(np.abs(low), np.abs(high))
    kept = reach <= 2 * np.quantile(reach, 0.85, method="nearest")
    bottom, top = min(low[kept].min(), 0.0), max(high[kept].max(), 0.0)
    margin = 0.08 * (top - bottom) or 1.0
    return bottom - margin, top + margin
