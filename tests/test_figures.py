"""Figures at print size: text of 8 points without overlaps, one look a system, chance and every interval on them."""

from itertools import combinations, product

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments.encoder_study import OBJECTIVES
from keymyna_lib.experiments.upstream import TRAINED, UNTRAINED
from keymyna_lib.features import CHROMA, MEAN_MEL
from keymyna_lib.report import embeddings, figures, songs
from keymyna_lib.report.figures import style

FREE, OTHER = "on free recordings", "on the other corpus"
MATERIALS = [f"masked contrastive, {material}" for material in (FREE, OTHER)]
MATERIALS += [f"masked contrastive, timbre-augmented, {material}" for material in (FREE, OTHER)]
MATERIALS += [f"masked contrastive, crops within 3.75 s, {FREE}"]
NAMES = ["untrained", *dict.fromkeys([*OBJECTIVES, *MATERIALS])]
PLAIN = [name for name in NAMES if name not in MATERIALS]


@pytest.fixture(autouse=True)
def drawn_in_style():
    with mpl.rc_context():
        mpl.rcdefaults()
        figures.use_style()
        yield
    plt.close("all")


def compared(budgets=(24, 200, 0), names=NAMES, seed=0):
    """What `summaries.comparison` returns, of random scores."""
    rng = np.random.default_rng(seed)
    rows = [{"name": name, "budget": budget, "score": rng.uniform(0.4, 0.95)} for budget in budgets for name in names]
    found = pd.DataFrame(rows)
    found["difference"] = found["score"] - 0.7
    found["p_holm"] = np.where(found["difference"].abs() > 0.1, 0.001, 0.4)
    for low, high, of in (("low", "high", "score"), ("d_low", "d_high", "difference")):
        found[low], found[high] = found[of] - 0.03, found[of] + 0.04
    return found


def texts(figure):
    """All texts that can be seen, with their boxes [pixels]; without the lines of annotations."""
    figure.canvas.draw()
    shown = [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]
    ticks = set()
    for axis in figure.axes:
        for one in (axis.xaxis, axis.yaxis):  # of ticks beyond the limits, too, there are texts
            low, high = sorted(one.get_view_interval())
            both = [*one.get_major_ticks(), *one.get_minor_ticks()]
            ticks |= {
                label
                for tick in both
                for label in (tick.label1, tick.label2)
                if not low <= tick.get_loc() <= high or not axis.get_visible()
            }
            if not axis.get_visible():
                ticks |= {one.label, axis.title}
    return [(text, Text.get_window_extent(text)) for text in shown if text not in ticks]


def overlapping(figure):
    def shared(a, b):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        return width > 1 and height > 0.25 * min(a.height, b.height)  # boxes are taller than letters

    return [
        (a.get_text(), b.get_text()) for (a, of_a), (b, of_b) in combinations(texts(figure), 2) if shared(of_a, of_b)
    ]


def is_printable(figure):
    assert figure.get_size_inches()[0] == style.PAGE and figure.get_size_inches()[1] < 9.5  # a page in print
    found = texts(figure)
    assert {text.get_fontsize() for text, _ in found} == {8.0}
    inside = figure.bbox.padded(1)
    outside = [text.get_text() for text, box in found if not (inside.contains(*box.p0) and inside.contains(*box.p1))]
    assert not outside and not overlapping(figure)


def row_names(axis):
    """Names of the rows, in one line each, by where they are."""
    return dict(zip(axis.get_yticks(), [text.get_text().replace("\n", " ") for text in axis.get_yticklabels()]))


def test_every_system_has_a_look_of_its_own():
    looks = {name: look for name, look in style.SYSTEMS.items() if name != TRAINED}  # masked contrast by another name
    assert {*NAMES, UNTRAINED, MEAN_MEL, CHROMA} <= set(looks)
    assert style.look(TRAINED) == style.look("masked contrastive")
    assert len(set(looks.values())) == len(looks)
    for name in MATERIALS:  # an objective keeps its colour on other material, which has a marker of its own
        objective, material = style.objective_and_material(name)
        assert objective in OBJECTIVES and style.look(name).colour == style.look(objective).colour
        assert style.look(name).marker == style.look(f"masked contrastive, {material}").marker
    verdicts = [style.BETTER, style.WORSE, style.UNDECIDED]
    of_one_material = [look for name, look in looks.items() if name not in MATERIALS]
    for a, b in combinations([look.colour for look in [*of_one_material, *verdicts]], 2):
        assert np.abs(np.subtract(to_rgb(a), to_rgb(b))).max() > 0.06, (a, b)
    assert len({look.marker for look in verdicts}) == 3
    assert style.look("template-shaath") == style.look("template") != style.look("essentia-bgate")
    assert style.look("an encoder from elsewhere") == style.OUTSIDE


@pytest.mark.parametrize("n", [1, 5, 12])
def test_names_beside_points_do_not_overlap_and_keep_their_order(n):
    rng = np.random.default_rng(n)
    figure, axis = plt.subplots(figsize=(style.PAGE, 2.5))
    axis.set(xscale="log", xlim=(1, 10), ylim=(0, 1))
    points = [(float(rng.uniform(1, 10)), 0.5 + 0.01 * i, f"system {i}", "black") for i in range(n)]
    style.label_points(axis, points)
    assert not overlapping(figure)
    places = {text.get_text(): Text.get_window_extent(text).y0 for text in axis.texts}
    assert sorted(places, key=places.__getitem__) == [name for _, _, name, _ in points]
    if n == 1:  # nothing pushes it away
        at = axis.transData.transform((points[0][0], 0.5))[1]
        box = Text.get_window_extent(axis.texts[0])
        assert abs((box.y0 + box.y1) / 2 - at) < 2


@pytest.mark.parametrize("along", ["x", "y"])
def test_chance_is_a_line_or_an_arrow(along):
    axis = plt.figure().subplots()
    axis.set(xlim=(50, 100), ylim=(50, 100))
    style.mark_chance(axis, 60.0, along=along)
    (line,) = axis.lines
    assert set(line.get_xdata() if along == "x" else line.get_ydata()) == {60.0}
    style.mark_chance(axis, 10.0, along=along)
    assert (
        list(axis.lines) == [line] and axis.texts[0].get_text() == "chance 60" and axis.texts[1].get_text()[0] in "↓←"
    )
    assert axis.get_xlim() == axis.get_ylim() == (50, 100)


def test_chance_is_the_mean_score_of_all_answers():
    scores = [mirex_scores(np.full(24, key), np.arange(24), fifths="both").mean() for key in range(24)]
    assert np.isclose(style.CHANCE, 100 * np.mean(scores))


@pytest.mark.parametrize(("low", "expected"), [(42.0, 40), (20.5, 0), (12.0, 0), (8.0, 0)])
def test_an_axis_of_scores_does_not_begin_at_chance(low, expected):
    assert style.score_limits(low, 97.0) == (expected, 101.5)


def test_limits_of_differences_hold_all_but_outliers():
    low, high = np.array([-4.0, -2, 1, -3, np.nan]), np.array([-1.0, 2, 3, 0, np.nan])
    left, right = style.readable_limits(low, high)
    assert left < -4 and right > 3 and right - left < 9
    with_outlier = np.append(low, -80), np.append(high, -70)
    assert style.readable_limits(*with_outlier) == (left, right)
    assert style.readable_limits(np.array([-9.0, -1]), np.array([-7.0, 1]))[0] < -9  # of two rows none is one
    left, right = style.readable_limits(np.array([np.nan]), np.array([np.nan]))
    assert left < 0 < right


def test_designs_show_every_interval_or_write_it():
    found = compared(names=["default", "untrained", "InfoNCE loss", "batch 32", "patches square", "crops of 98 frames"])
    outlier = (found["name"] == "patches square") & (found["budget"] == 0)
    found.loc[outlier, ["difference", "d_low", "d_high"]] = -0.95, -0.99, -0.91
    figure = figures.designs(found, 1147)
    is_printable(figure)
    assert [axis.get_title("left") for axis in figure.axes] == ["24 labels", "200 labels", "all 1147 labels"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["untrained encoder", "InfoNCE loss", "batches of 32", "square patches", "crops of 98 frames"]
    for axis, budget in zip(figure.axes, (24, 200, 0)):
        rows = found[(found["budget"] == budget) & (found["name"] != "default")].reset_index()
        markers = {line.get_ydata()[0]: line for line in axis.lines if len(line.get_ydata()) == 1}
        for place, row in zip(figure.axes[0].get_yticks(), rows.to_dict("records")):
            if budget == 0 and row["name"] == "patches square":
                assert place not in markers and "← -95 [-99, -91]" in [text.get_text() for text in axis.texts]
                continue
            significant = style.BETTER if row["difference"] > 0 else style.WORSE
            expected = significant if row["p_holm"] < 0.05 else style.UNDECIDED
            line = markers[place]
            assert np.isclose(line.get_xdata()[0], 100 * row["difference"])
            assert (line.get_color(), line.get_marker()) == expected
            assert axis.get_xlim()[0] < 100 * row["d_low"] and 100 * row["d_high"] < axis.get_xlim()[1]


def test_scopes_have_a_row_an_objective_and_a_level_for_each_corpus():
    names = [*NAMES, "chroma"]
    parts = [compared(names=names, seed=seed).assign(scope=f"scope {seed}") for seed in (1, 2)]
    parts[1] = parts[1][parts[1]["name"] != "supervised"]  # which was not run there
    found = pd.concat(parts, ignore_index=True)
    found["mark"] = np.where(found["name"] == "masked reconstruction", "near chance", "")
    figure = figures.scopes(found, ["untrained", "chroma"], 1147)
    is_printable(figure)
    assert [axis.get_title("left") for axis in figure.axes] == ["24 labels", "200 labels", "all 1147 labels"]
    rows = row_names(figure.axes[0])
    plain = [name + "†" * (name == "masked reconstruction") for name in PLAIN[1:]]
    headings = [name for name in rows.values() if name not in plain]
    assert list(rows.values())[: len(plain)] == plain and headings == [FREE, OTHER]
    assert "† near chance on its own task" in {text.get_text() for text, _ in texts(figure)}
    assert len({axis.get_xlim() for axis in figure.axes}) == 1
    for axis, budget in zip(figure.axes, (24, 200, 0)):
        markers = [line for line in axis.lines if len(line.get_xdata()) == 1]
        assert len(markers) == 2 * (len(NAMES) - 1) - 1
        for line in markers:
            place, filled = line.get_ydata()[0], line.get_markerfacecolor() == line.get_color()
            objective = rows[min(rows, key=lambda row: abs(row - place))].removesuffix("†")
            above = [name for row, name in rows.items() if row < place and name in (FREE, OTHER)]
            name = ", ".join([objective, *above[-1:]])
            row = found[(found["budget"] == budget) & (found["name"] == name)]
            (row,) = row[row["scope"] == ("scope 1" if filled else "scope 2")].to_dict("records")
            assert np.isclose(line.get_xdata()[0], 100 * row["score"])
            assert (line.get_color(), line.get_marker()) == style.look(name)
        uprights = {(line.get_color(), line.get_linestyle()): line.get_xdata()[0] for line in axis.lines}
        for name, (scope, dashes) in product(("untrained", "chroma"), (("scope 1", "-"), ("scope 2", "--"))):
            at = found[(found["budget"] == budget) & (found["name"] == name) & (found["scope"] == scope)]["score"]
            assert np.isclose(uprights[style.look(name).colour, dashes], 100 * at.iloc[0])


def claims():
    rows = [
        ("masked contrastive pre-training beats no pre-training", 0.2, 0.15, 0.25, "holds"),
        ("masked contrastive pre-training beats bare contrastive at equal steps", np.nan, np.nan, np.nan, "not tested"),
        ("the default design beats InfoNCE loss", 0.01, -0.02, 0.03, "cannot be told"),
        ("the default design beats batch 32", -0.1, -0.13, -0.06, "does not"),
        ("something else is true where instruments change, and that is a long sentence", 0.1, 0.05, 0.14, "holds"),
    ]
    table = pd.DataFrame(rows, columns=["claim", "difference", "low", "high", "verdict"])
    table["p"] = np.where(table["difference"].isna(), np.nan, 0.01)
    some = table.assign(labels="48 labels")
    all_ = table.assign(labels="all 90 labels")
    all_.loc[2, ["difference", "low", "high", "p"]] = np.nan
    all_.loc[2, "verdict"] = "not tested"
    nowhere = table.iloc[[1]].assign(claim="what nothing here tests", labels="any")
    names = ["masked contrastive, timbre-augmented", "masked reconstruction", *MATERIALS]
    gains = table.iloc[[0] * len(names)].assign(
        labels="48 labels", mark=[""] + ["near chance"] + [""] * (len(names) - 2)
    )
    gains["claim"] = [f"there is a gain over no pre-training: {name}" for name in names]
    wide = gains.iloc[:1].assign(claim="under the wide MLP, " + gains["claim"].iloc[0], difference=-0.3, low=-0.4)
    return pd.concat([some, all_, nowhere, gains, wide.assign(verdict="does not")], ignore_index=True)


def test_the_forest_plot_has_plain_rows_and_a_shape_for_each_verdict():
    other = claims().iloc[[0]].assign(claim="something that was tested elsewhere", labels="150 labels")
    found = pd.concat([claims(), other], ignore_index=True)
    figure = figures.claims(found, ["48 labels", "200 labels", "all 90 labels"])
    is_printable(figure)
    titles = [axis.get_title(loc="left").replace("\n", " ") for axis in figure.axes]
    assert titles == ["48 labels", "all 90 labels", "wide MLP, 48 labels"]
    rows = row_names(figure.axes[0])
    assert list(rows.values()) == [
        "masked contrastive pre-training is better than",
        "no pre-training",
        "the default design is better than",
        "InfoNCE loss",
        "batches of 32",
        claims()["claim"].iloc[4],
        "there is a gain over no pre-training",
        "masked contrastive, timbre-augmented",
        "masked reconstruction†",
        *(FREE, "masked contrastive"),
        *(OTHER, "masked contrastive"),
        *(FREE, "masked contrastive, timbre-augmented"),
        *(OTHER, "masked contrastive, timbre-augmented"),
        *(FREE, "masked contrastive, crops within 3.75 s"),
    ]

    def drawn(axis):
        lines = [line for line in axis.lines if len(line.get_ydata()) == 1]
        return {rows[line.get_ydata()[0]]: (line.get_color(), line.get_marker()) for line in lines}, lines

    expected = {"no pre-training": style.BETTER, "InfoNCE loss": style.UNDECIDED, "batches of 32": style.WORSE}
    found, lines = drawn(figure.axes[0])
    assert expected.items() <= found.items() and len(lines) == 4 + 2 + len(MATERIALS)
    hollow = [rows[line.get_ydata()[0]] for line in lines if line.get_markerfacecolor() == "white"]
    assert hollow == ["InfoNCE loss", "masked reconstruction†"]
    assert [(text.get_text(), rows[text.get_position()[1]]) for text in figure.axes[1].texts] == [
        ("not tested", "InfoNCE loss")
    ]
    assert drawn(figure.axes[2])[0] == {"masked contrastive, timbre-augmented": style.WORSE}
    limits = {axis.get_xlim() for axis in figure.axes}
    assert len(limits) == 1 and limits.pop()[0] < -40


def test_the_forest_plot_shows_which_rows_belong_together():
    names = ["masked contrastive", *MATERIALS[:2]]
    texts = [*(f"pre-training beats {name}" for name in names), "pitch shifting helps"]
    found = claims().iloc[[0] * len(texts)].assign(claim=texts, mark="", labels="48 labels")
    figure = figures.claims(found, ["48 labels"])
    is_printable(figure)
    (axis,) = figure.axes
    labels = {label.get_text(): label for label in axis.get_yticklabels()}
    assert [name for name, label in labels.items() if label.get_fontweight() == "bold"] == [
        "pre-training is better than"
    ]
    assert [name for name, label in labels.items() if label.get_fontstyle() == "italic"] == [FREE, OTHER]
    (rule,) = [line.get_ydata()[0] for line in axis.lines if list(line.get_xdata()) == [0, 1]]
    assert list(row_names(axis))[-2] < rule < list(row_names(axis))[-1]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds", "holds"], ["holds >", "† near chance on its own task > open"]),
        (
            ["cannot be told", "does not"],
            ["the opposite holds <", "cannot be told o open", "† near chance on its own task < open"],
        ),
        (["holds", "cannot be told"], ["holds >", "cannot be told o open", "† near chance on its own task  open"]),
    ],
)
def test_the_forest_plot_explains_what_is_drawn_and_nothing_else(verdicts, expected):
    found = claims().iloc[[0, 3]].assign(verdict=verdicts, mark=["", "near chance"], labels="48 labels")
    (legend,) = figures.claims(found, ["48 labels"]).legends
    shown = [
        f"{one.get_label()} {one.get_marker()}{' open' * (one.get_markerfacecolor() == 'white')}"
        for one in legend.legend_handles
    ]
    assert shown == expected


def label_efficiency():
    rows = [
        {"features": features, "head": head, "budget": budget, "n_train": 1147, "weighted_both": score, "low": 0.33}
        for head, score in (("linear probe", 0.62), ("wide MLP", 0.8))
        for features in (TRAINED, UNTRAINED, "mean mel", "chroma", "mean mel, LDA")
        for budget in (48, 150, 0)
        if (features, head) != ("mean mel, LDA", "wide MLP")
    ]
    rows += [
        {"features": "spectrogram", "head": "supervised CNN", "budget": budget, "n_train": 1147, "weighted_both": 0.9}
        for budget in (48, 0)
    ]
    rows += [{"features": "template", "head": head, "weighted_both": 0.7} for head in ("krumhansl", "shaath")]
    return pd.DataFrame(rows).fillna({"low": 0.6}).assign(high=0.93)


def test_head_curves_name_all_systems_and_begin_near_the_data():
    figure = figures.head_curves(label_efficiency())
    is_printable(figure)
    assert [axis.get_title("left") for axis in figure.axes] == ["linear probe", "wide MLP"]
    for axis, more in zip(figure.axes, (["mean mel, LDA"], [])):
        named = {text.get_text() for text in axis.texts}
        expected = [TRAINED, UNTRAINED, "mean mel", "chroma", "supervised CNN", *more]
        assert named == {*expected, "key profile,\nKrumhansl", "↓ chance 10.4"}
        for container in axis.containers:
            line = container.lines[0]
            assert (line.get_color(), line.get_marker()) == style.look(container.get_label())
        assert {container.get_label() for container in axis.containers} == set(expected)
    assert figure.axes[0].get_ylim() == (30, 101.5)


def test_curves_of_objectives_have_a_panel_each_with_the_others_in_grey():
    found = compared()
    figure = figures.label_curves(found, 1147)
    is_printable(figure)
    panels = {axis.get_title("left").replace("\n", " "): axis for axis in figure.axes if axis.get_visible()}
    assert list(panels) == PLAIN[1:]
    assert {FREE, OTHER, "untrained"} <= {text.get_text() for text, _ in texts(figure)}
    for objective, axis in panels.items():
        own = [name for name in NAMES if name.split(", on ")[0] == objective]
        assert [container.get_label() for container in axis.containers] == own
        for container in axis.containers:
            rows = found[found["name"] == container.get_label()].sort_values("budget").iloc[[1, 2, 0]]
            line = container.lines[0]
            assert (line.get_color(), line.get_marker()) == style.look(container.get_label())
            assert np.allclose(line.get_ydata(), 100 * rows["score"])
            assert np.allclose(line.get_xdata(), [24, 200, 1147], rtol=0.1)
            assert (axis.get_xlim()[0] < np.asarray(line.get_xdata()) / 1.1).all()  # no marker on the axis
        grey = [line for line in axis.lines if line.get_color() == style.FAINT]
        assert len(grey) == len(NAMES) - 1 - len(own)
        low, high = axis.get_ylim()
        assert low <= 100 * found["low"].min() and 100 * found["high"].max() <= high


@pytest.mark.parametrize("lengths", [[150, 500], [30, 100, 200, 1000, 3200]])
def test_costs_join_the_lengths_of_an_objective_and_name_them(lengths):
    rows = [("untrained", 0, 0.37)] + [("masked contrastive", n, 0.4) for n in lengths]
    rows += [("masked contrastive, timbre-augmented", n, 0.45) for n in lengths[:2]]
    rows += [(name, lengths[0], 0.5) for name in MATERIALS]
    rows += [("masked reconstruction", 150, 0.31), ("augmented contrastive, pitch-shifted", 150, 0.33)]
    cost = pd.DataFrame(rows, columns=["objective", "steps", "score"])
    cost = cost.assign(tflop=cost["steps"] / 100, low=cost["score"] - 0.04, high=cost["score"] + 0.04)
    figure = figures.cost_curve(cost, "masked contrastive", "untrained", "48 labels")
    is_printable(figure)
    panels = {axis.get_title("left").replace("\n", " "): axis for axis in figure.axes if axis.get_visible()}
    assert set(panels) == {name.split(", on ")[0] for name in cost["objective"]} - {"untrained"}
    for objective, axis in panels.items():
        own = cost[cost["objective"].str.split(", on ").str[0] == objective]
        chance, *numbers = axis.texts
        assert [text.get_text() for text in numbers] == [f"{n}" for n in sorted(set(own["steps"]))]
        assert chance.get_text() == "↓ chance 10.4"
        assert [container.get_label() for container in axis.containers] == list(dict.fromkeys(own["objective"]))
        for container in axis.containers:
            line, name = container.lines[0], container.get_label()
            assert (line.get_color(), line.get_marker()) == style.look(name)
            assert line.get_linestyle() == ("--" if name in MATERIALS else "-")
            assert np.allclose(line.get_ydata(), 100 * own.loc[own["objective"] == name, "score"])
        low, high = axis.get_ylim()
        assert low <= 100 * cost["low"].min() and 100 * cost["high"].max() <= high


@pytest.mark.parametrize("others", [(0.47,), (0.47, 0.33)])  # above, and above and below, what is numbered
def test_numbers_of_steps_cover_no_marker(others):
    rows = [("untrained", 0, 0.37), ("masked contrastive", 100, 0.4), ("bare contrastive", 300, 0.4)]
    rows += [(name, 100, score) for name, score in zip(("supervised", "masked reconstruction"), others)]
    cost = pd.DataFrame(rows, columns=["objective", "steps", "score"])
    cost = cost.assign(tflop=cost["steps"] / 100, low=cost["score"] - 0.03, high=cost["score"] + 0.03)
    figure = figures.cost_curve(cost, "masked contrastive", "untrained", "48 labels")
    is_printable(figure)
    for axis in figure.axes[: len(rows) - 1]:
        points = [point for line in axis.lines if line.get_marker() != "None" for point in line.get_xydata()]
        assert len(points) == len(rows) - 1
        for number in axis.texts[1:]:
            box = Text.get_window_extent(number)
            assert number.get_bbox_patch() is None
            assert not any(box.contains(*axis.transData.transform(point)) for point in points)


def test_transfer_draws_controls_and_all_names():
    conditions = ["tunes to chorales", "chorales to tunes", "clean to noisy", "unheard instrument"]
    found = pd.DataFrame([{"system": name, "condition": c} for c in conditions for name in NAMES])
    found = found.assign(score=np.linspace(0.5, 0.8, len(found)), control=0.85)
    found = found.assign(low=found["score"] - 0.1, high=found["score"] + 0.1, tracks=19)
    found = found.assign(
        d_low=np.where(found["score"] < 0.6, -0.3, -0.2), d_high=np.where(found["score"] < 0.6, -0.1, 0.0)
    )
    figure = figures.transfer(found)
    is_printable(figure)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title("left").replace("\n", " ") for axis in shown] == [f"{one} n = 19" for one in conditions]
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["differs from it", "cannot be told"]
    order = [name for name in NAMES if name in PLAIN] + [name for m in (FREE, OTHER) for name in NAMES if m in name]
    for axis, condition in zip(shown, conditions):
        scores = 100 * found[found["condition"] == condition].set_index("system")["score"].loc[order]
        dots = sorted((line for line in axis.lines if len(line.get_xdata()) == 1), key=lambda line: line.get_ydata()[0])
        assert np.allclose([line.get_xdata()[0] for line in dots], scores)
        assert [(line.get_color(), line.get_marker()) for line in dots] == [style.look(name) for name in order]
        assert [line.get_markerfacecolor() == "white" for line in dots] == [score >= 60 for score in scores]
        assert axis.get_xlim()[0] < 10 * 4 + 1 and "chance" in axis.texts[-1].get_text()


def test_the_circle_grows_until_every_name_has_room():
    found = pd.DataFrame([{"name": name, "steps": s, "cosine": 0.5 - s / 7} for name in NAMES for s in range(1, 7)])
    found = found.assign(low=found["cosine"] - 0.1, high=found["cosine"] + 0.1)
    figure, axis = plt.subplots(figsize=(style.PAGE, 3.2))
    figures.circle_of_fifths(axis, found)
    is_printable(figure)
    assert {text.get_text().replace("\n", " ") for text in axis.texts} == set(NAMES)
    assert axis.get_ylabel().startswith("centred cosine")


@pytest.mark.parametrize("names", [PLAIN, NAMES])
def test_embeddings_by_length_have_a_legend_within_the_page(names):
    steps = {"untrained": [0], "masked contrastive": [30, 100, 300, 1000]}
    rows = [{"objective": name, "steps": n} for name in names for n in steps.get(name, [100])]
    lengths = pd.DataFrame(rows).assign(rank=np.linspace(20, 60, len(rows)), score=0.6, low=0.5, high=0.7)
    history = pd.DataFrame({"step": range(40), "loss": np.linspace(3, 6, 40)})
    figure = embeddings.rank_panels(history, lengths, "masked contrastive", "untrained", "48 labels")
    is_printable(figure)
    (legend,) = figure.legends
    assert {text.get_text().replace("\n", " ") for text in legend.get_texts()} == {
        *PLAIN,
        *((FREE, OTHER) if names == NAMES else ()),
    }
    assert not any(legend.get_window_extent().overlaps(axis.get_tightbbox()) for axis in figure.axes)


def test_properties_name_the_rows_of_every_system():
    properties = ["tonic", "mode", "chroma", "tuning", "register", "instrument family", "drums", "noise level", "tempo"]
    found = pd.DataFrame(
        [{"system": name, "property": p, "measure": "skill"} for p in properties for name in NAMES[1:]]
    )
    found = found.assign(difference=0.1, d_low=-0.1, d_high=0.3, p_holm=0.5)
    figure = embeddings.property_points(found, "untrained")
    is_printable(figure)
    assert list(row_names(figure.axes[0]).values())[: len(PLAIN) - 1] == PLAIN[1:]


def test_chords_of_a_piano_roll_lie_off_its_notes():
    beats = np.arange(32.0)
    notes = np.stack([beats, np.ones(32), 40 + beats, np.zeros(32), np.full(32, 90)], 1)
    drums = np.stack([beats, np.ones(32), np.full(32, 36), np.full(32, -1), np.full(32, 90)], 1)
    sections, chords = [("verse", 0.0), ("chorus", 16.0)], [("bVII5", beat) for beat in beats[::2]]
    figure = songs.piano_roll(np.concatenate([notes, drums]), ["lead"], sections, chords, "a song")
    is_printable(figure)
    roll, strokes = (axis.get_window_extent() for axis in figure.axes)
    boxes = [box for text, box in texts(figure) if text.get_text() == "bVII5"]
    assert len(boxes) == len(chords) and all(strokes.y1 < box.y0 and box.y1 < roll.y0 for box in boxes)


def test_systems_that_were_not_run_are_named():
    table = pd.DataFrame({"score": [0.7, np.nan, 0.75], "low": [0.6, np.nan, 0.7], "high": [0.8, np.nan, 0.8]})
    table.index = ["pre-trained", "default model", "template-krumhansl"]
    figure = figures.systems({"synthetic test tracks, 248 tracks": table, "songs, 40 tracks": table})
    is_printable(figure)
    assert [text.get_text() for text in figure.axes[0].texts] == ["not run", "← chance 10.4"]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["pre-trained", "default model", "key profile: Krumhansl"]


def test_grids_and_confusions_share_one_scale_with_a_bar():
    grid = pd.DataFrame(
        [
            {"task": "rendered", "budget": budget, "depth": depth, "width": width, "dropout": dropout}
            for budget in (0, 48)
            for depth, widths in ((1, (512, 2048)), (2, (512,)))
            for width in widths
            for dropout in (0.5, 0.9)
        ]
    ).assign(valid_score=np.linspace(0.4, 0.9, 12))
    figure = figures.mlp_grid(grid)
    is_printable(figure)
    *panels, bar = figure.axes
    assert [axis.get_title("left") for axis in panels[:2]] == [
        "48 labels, 1 hidden layer",
        "all labels, 1 hidden layer",
    ]
    assert {axis.images[0].get_clim() for axis in panels} == {(40, 90)}
    assert "validation" in bar.get_ylabel()
    for axis in panels:
        values = axis.images[0].get_array()
        assert [float(text.get_text()) for text in axis.texts] == pytest.approx(values.ravel().tolist(), abs=0.05)
        ((x, y),) = [patch.get_center() for patch in axis.patches]
        assert values[round(y), round(x)] == values.max()

    counts = np.eye(24) * 3 + np.roll(np.eye(24), 1, axis=1)
    figure = figures.confusion({"pre-trained, 48 labels": counts, "untrained, 48 labels": 2 * counts})
    is_printable(figure)
    *panels, bar = figure.axes
    for axis in panels:
        assert np.allclose(axis.images[0].get_array().sum(axis=1), 100) and axis.images[0].get_clim() == (0, 100)
    assert "%" in bar.get_ylabel() and "4 to 8 tracks each" in panels[0].get_ylabel()


def test_probe_selection_draws_every_setting_once():
    rng = np.random.default_rng(0)
    tried = pd.DataFrame(
        [
            {"task": "rendered", "budget": b, "features": f, "standardize": s, "valid_score": rng.uniform(0.2, 0.8)}
            for b in (48, 0)
            for f in (TRAINED, UNTRAINED, "mean mel, LDA")
            for s in (True, False)
            for _ in range(5)
        ]
    )
    figure = figures.probe_selection(tried)
    is_printable(figure)
    for axis, budget in zip(figure.axes, (48, 0)):
        of = tried[tried["budget"] == budget]
        drawn = [y for line in axis.lines if line.get_linestyle() == "None" for y in line.get_ydata()]
        assert sorted(drawn) == pytest.approx(sorted(100 * of["valid_score"]))
        assert any("chance" in text.get_text() for text in axis.texts)


def test_robustness_keeps_one_order_and_each_axis_holds_its_values():
    changes = {"white noise": "noise", "pitch +1": "pitch", "pitch -1": "pitch", "gain": "gain"}
    in_order = ["white noise", "gain", "pitch +1", "pitch -1"]
    measures = {"cosine": "cosine to clean (centred)", "retrieval": "found"}
    rng = np.random.default_rng(0)
    measured = pd.DataFrame(
        [
            {"augmentation": c, "family": family, "features": f, "measure": m}
            | {"value": rng.uniform(-0.2 if m == "cosine" else 0.3, 1), "n_tracks": 60}
            for c, family in changes.items()
            for f in (TRAINED, UNTRAINED)
            for m in measures
        ]
    )
    measured = measured.assign(low=measured["value"] - 0.1, high=measured["value"] + 0.05)
    figure = figures.robustness(measured, measures, [TRAINED, UNTRAINED], {"retrieval": 0.01})
    is_printable(figure)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == in_order
    assert "60 tracks" in figure.get_supxlabel()
    for axis, measure in zip(figure.axes, measures):
        for name in (TRAINED, UNTRAINED):
            (line,) = [line for line in axis.lines if line.get_label() == name]
            rows = measured[(measured["features"] == name) & (measured["measure"] == measure)]
            rows = rows.set_index("augmentation").loc[in_order]
            assert np.array_equal(line.get_xdata(), rows["value"]) and line.get_color() == style.look(name).colour
            (bars,) = [bars for bars in axis.collections if to_rgb(bars.get_color()[0]) == to_rgb(line.get_color())]
            ends = [segment[:, 0] for segment in bars.get_segments()]
            assert np.allclose(ends, rows[["low", "high"]])
            assert axis.get_xlim()[0] < rows["low"].min() and rows["high"].max() < axis.get_xlim()[1]
        assert [1.5, 1.5] in [list(line.get_ydata()) for line in axis.lines]  # pitch shifts are below this rule
    assert [text.get_text() for text in figure.axes[1].texts] == ["← chance 0.01"]


def test_tsne_is_a_panel_for_each_kind_of_change():
    family, shift = np.repeat(["", "reverb", "pitch", "pitch"], 4), np.repeat([0, 0, -1, 2], 4)
    track = np.tile(["a", "b", "c", "d"], 4)
    xy = np.random.default_rng(0).standard_normal((16, 2))
    figure = figures.tsne({"pre-trained": xy, "untrained": -xy}, track, family, shift)
    is_printable(figure)
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title("left") for axis in panels] == ["reverb", "pitch"] * 2
    for axis, points, system in zip(panels, (xy, xy, -xy, -xy), ["pre-trained"] * 2 + ["untrained"] * 2):
        grey, *coloured = [line for line in axis.lines if len(line.get_xdata())]
        assert np.allclose(grey.get_xydata(), points[:4])
        assert {line.get_color() for line in coloured} == {style.look(system).colour}
    assert [line.get_marker() for line in panels[1].lines if len(line.get_xdata())] == ["o", "^", "v"]
    with pytest.raises(KeyMynaError, match="one clean point"):
        figures.tsne({"pre-trained": xy[1:]}, track[1:], family[1:], shift[1:])


def test_the_framework_shows_the_kept_patches_alone():
    crops = [torch.rand(128, 40, generator=torch.Generator().manual_seed(i)).half() for i in range(2)]
    keep = torch.tensor([[1, 7], [0, 19]])
    figure = figures.framework(crops, keep)
    is_printable(figure)
    shown = [
        axis.images[0].get_array() for axis in figure.axes if axis.images and axis.images[0].get_array().shape[0] == 128
    ]
    for crop, tokens, whole, seen in zip(crops, keep, shown[::2], shown[1::2]):
        assert np.allclose(whole, crop)
        kept = np.zeros(40, bool)
        kept[[2 * token + i for token in tokens for i in (0, 1)]] = True
        assert np.array_equal(~np.ma.getmaskarray(np.ma.masked_invalid(seen)).all(axis=0), kept)
        assert np.allclose(seen[:, kept], crop.numpy()[:, kept])
    names = [text for text, _ in texts(figure) if text.get_text() in ("crop 1", "crop 2")]
    of_systems = {to_rgb(look.colour) for look in style.SYSTEMS.values()}
    assert len({to_rgb(text.get_color()) for text in names} - of_systems) == 2


@pytest.mark.parametrize("chance", [1 / 16, None])
def test_pretraining_curves_hold_all_checks_and_chance(chance):
    history = pd.DataFrame({"step": range(60), "loss": np.linspace(-1, -2, 60), "measure": np.linspace(0.1, 0.6, 60)})
    history = history.assign(lr=1e-3, valid_measure=[0.7 if step % 20 == 19 else np.nan for step in range(60)])
    figure = figures.pretraining_curves(history, "in-batch top-1", chance)
    is_printable(figure)
    axis = figure.axes[1]
    assert axis.get_ylim()[1] > 0.7 and axis.get_title("left") == "in-batch top-1"
    assert [text.get_text() for text in axis.texts] == ([] if chance is None else ["chance 0.0625"])


def test_corpora_by_key():
    counts = pd.DataFrame([{"split": s, "key": k, "size": k + 1} for s in ("train", "test") for k in range(24)])
    figure = figures.key_histogram(counts)
    is_printable(figure)
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights[:2] == [1, 22] and sum(heights) == 300  # C major, then A minor
    is_printable(figures.source_histograms(counts.assign(source="a set")))
    closes = pd.DataFrame([{"source": s, "interval": i, "size": 3} for s in ("chorale", "tune") for i in (2, 7)])
    is_printable(figures.label_audit(closes))


def test_spectrograms_stand_in_rows_and_columns_on_one_scale():
    lengths = {("piece", "tune"): 40, ("section", "tune"): 90, ("section", "song"): 60}
    shown = {place: ("a name", np.full((n, 128), n / 10, np.float16)) for place, n in lengths.items()}
    figure = figures.spectrograms(shown)
    is_printable(figure)
    drawn = [axis.images for axis in figure.axes[:4]]
    assert [picture.get_array().shape for (picture,) in filter(None, drawn)] == [(128, 40), (128, 90), (128, 60)]
    assert not drawn[1] and not figure.axes[1].get_visible()  # no song of scope "piece"
    assert {picture.get_clim() for (picture,) in filter(None, drawn)} == {(0, 9)}


def measurements(rows):
    columns = ["subject", "case", "system", "quantity", "unit", "median", "ratio_to", "size"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(low=table["median"] * 0.9, high=table["median"] * 1.1, note="")


def test_figures_of_the_benchmark():
    ratios = [
        ("step", f"vit-s, batch {n}", "ours", "examples", "x", n / 20, "reference implementation", None)
        for n in (8, 64)
    ]
    ratios += [("song", "vit-s, warm", "ours, one thread", "songs", "x", 0.3, "essentia", None)]
    ratios += [("song", "vit-s, cold", "ours", "songs", "x", None, "essentia", None)]  # not run
    figure = figures.speed_ratios(measurements(ratios))
    is_printable(figure)
    assert [text.get_text() for text in figure.axes[1].get_yticklabels()] == ["vit-s, warm, one thread / essentia"]
    drawn = [point for axis in figure.axes for one in axis.containers for point in one.lines[0].get_xdata()]
    assert drawn == [0.4, 3.2, 0.3]


def test_ratios_name_the_other_machine_and_the_other_precision():
    reference = "reference implementation"
    ratios = [
        ("step", "vit-s, from files, or bare", "ours", "examples", "x", 1.0, "ours, bare", None),
        ("step", "vit-s, bf16", "ours", "examples", "x", 2.0, reference, None),
        ("gpu", "vit-s", "ours", "examples", "x", 50.0, reference, None),
    ]
    notes = ["", f"{reference} in fp32", f"{reference} in fp32; NVIDIA H200, commit 0123abc"]
    figure = figures.speed_ratios(measurements(ratios).assign(note=notes))
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["step", "gpu, NVIDIA H200"]
    labels = [text.get_text() for axis in figure.axes for text in axis.get_yticklabels()]
    assert labels == ["vit-s, from files / ours, bare", "vit-s, bf16 / fp32", "vit-s / fp32"]


def test_shares_and_growth_are_drawn():
    shares = [
        ("step", "vit-s, batch 8, profile", system, f"share: {part}", "", share, "", None)
        for system in ("ours", "reference implementation")
        for part, share in (("attention", 0.1), ("matrix products", 0.7), ("other operators", 0.2))
    ]
    figure = figures.step_shares(measurements(shares))
    is_printable(figure)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "matrix products"
    assert [patch.get_width() for patch in figure.axes[0].patches] == pytest.approx([70, 20, 10])

    growth = [("growth", "step by batch", "ours", "time", "s", 0.1 * n, "", n) for n in (1, 2, 4, 8)]
    growth += [("growth", "step by batch", "ours", "exponent", "", 1.0, "", None)]
    figure = figures.growth_lines(measurements(growth))
    is_printable(figure)
    (axis,) = figure.axes
    assert axis.get_xlabel() == "batch" and axis.get_ylabel() == "time [s]"
    (fit,) = [line for line in axis.lines if line.get_marker() == "None"]
    assert np.allclose(fit.get_ydata(), 0.1 * fit.get_xdata())
