"""Figures and tables of embeddings show the numbers that they are given, and trace them to their runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from keymyna_lib.report import embeddings
from keymyna_lib.report.figures.style import BETTER, UNDECIDED, WORSE

LENGTHS = pd.DataFrame(
    {
        "objective": ["untrained", "masked contrastive", "masked contrastive"],
        "steps": [0, 150, 500],
        "first_loss": [np.nan, 5.0, 5.5],
        "last_loss": [np.nan, 3.0, 6.0],
        "rank": [4.0, 9.0, 16.25],
        "score": [0.5, 0.6, 0.75],
        "low": [0.4, 0.5, 0.7],
        "high": [0.6, 0.7, 0.8],
        "run_ids": [["a"], ["b"], ["c", "d"]],
    }
)
DIFFERENCES = pd.DataFrame(
    [
        {
            "system": system,
            "property": name,
            "measure": "R2",
            "difference": difference,
            "d_low": difference - 0.1,
            "d_high": difference + 0.1,
            "p_holm": p,
        }
        for system, sign in (("masked contrastive", 1), ("mean mel", -1))
        for name, difference, p in (("tonic", sign * 0.2, 0.01), ("tempo", sign * 0.05, 0.9))
    ]
)


def test_the_circle_has_a_row_for_each_system():
    names = ["untrained", "chroma"]
    profile = pd.DataFrame(
        [
            {"name": n, "steps": s, "cosine": c}
            for n, sign in zip(names, (1, -1))
            for s, c in ((5, sign * 0.2), (1, 0.5))
        ]
    )
    profile = profile.assign(low=profile["cosine"] - 0.1, high=profile["cosine"] + 0.1)
    fifths = pd.DataFrame(
        {"name": names, "value": [0.3, 0.7], "low": 0.2, "high": 0.9, "difference": [np.nan, 0.4]}
        | {"d_low": 0.3, "d_high": 0.5, "p_holm": 0.0001}
    )
    shown = embeddings.circle_table(profile, fifths, {"untrained": "u", "chroma": "c"}, "untrained")
    first, second = shown.frame.to_dict("records")
    assert (first["1 step"], first["5 steps"], second["5 steps"]) == ("50 [40, 60]", "20 [10, 30]", "-20 [-30, -10]")
    assert first["fifth minus semitone"] == "+30.0 [+20.0, +90.0]"
    assert first["fifth minus semitone, minus untrained"] == ""
    assert second["fifth minus semitone, minus untrained"] == "+40.0 [+30.0, +50.0], p < 0.001"
    assert shown.cells["chroma / fifth minus semitone, minus untrained"] == ["c", "u"]


def test_lengths_are_rows_with_their_loss_rank_and_score():
    shown = embeddings.rank_table(LENGTHS)
    first, _, last = shown.frame.to_dict("records")
    assert (first["loss, first tenth"], last["loss, last tenth"]) == ("", "6.0")
    assert (last["effective rank"], last["weighted score x 100"]) == ("16.2", "75.0 [70.0, 80.0]")
    assert shown.cells["masked contrastive, 500 / effective rank"] == ["c", "d"]


def test_panels_of_rank_draw_every_length():
    history = pd.DataFrame({"step": range(1, 41), "loss": np.linspace(3, 6, 40)})
    figure = embeddings.rank_panels(history, LENGTHS, "masked contrastive", "untrained", "48 labels")
    loss, rank, score = figure.axes
    raw, smooth = loss.lines
    assert np.array_equal(raw.get_ydata(), history["loss"])
    assert np.allclose(smooth.get_ydata()[1:], np.convolve(history["loss"], [0.5, 0.5], "valid"))  # 2 of 40 steps
    for axis, values in ((rank, [9, 16.25]), (score, [60, 75])):
        (line,) = [line for line in axis.lines if line.get_label() == "masked contrastive"]
        assert np.allclose(line.get_ydata(), values) and list(line.get_xdata()) == [150, 500]
    (dotted,) = [line for line in rank.lines if line.get_label() == "untrained"]
    assert set(dotted.get_ydata()) == {4.0} and "48 labels" in score.get_ylabel()
    plt.close(figure)


def test_the_ends_of_a_history_are_its_tenths():
    history = pd.DataFrame({"step": range(20), "loss": np.arange(20.0)}).sample(frac=1, random_state=0)
    assert embeddings.losses_at_ends(history) == (0.5, 18.5)
    assert embeddings.losses_at_ends(history[history["step"] == 7]) == (7, 7)


def test_differences_point_their_way_where_they_are_sure():
    figure = embeddings.property_points(DIFFERENCES, "untrained")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title(loc="left") or axis.get_title() for axis in shown] == ["tonic (R2)", "tempo (R2)"]
    looks = {"tonic (R2)": (BETTER, WORSE), "tempo (R2)": (UNDECIDED, UNDECIDED)}
    for axis, values, expected in zip(shown, ([20, -20], [5, -5]), looks.values()):
        points = [
            line for line in axis.lines if line.get_marker() in {look.marker for look in (BETTER, WORSE, UNDECIDED)}
        ]
        assert [float(line.get_xdata()[0]) for line in points] == pytest.approx(values)
        assert [(line.get_color(), line.get_marker()) for line in points] == list(expected)
    plt.close(figure)


def test_differences_and_layers_as_text():
    runs = {"untrained": "u", "masked contrastive": "m", "mean mel": "s"}
    shown = embeddings.property_difference_table(DIFFERENCES, runs, "untrained")
    assert shown.frame.set_index("property").loc["tonic", "mean mel"] == "-20.0 [-30.0, -10.0], p 0.010"
    assert shown.cells["tonic / mean mel"] == ["s", "u"]
    values = pd.DataFrame(
        [
            {"system": "untrained", "block": block, "property": name, "value": value, "low": -0.1, "high": 0.5}
            for block, value in (("patches", 0.314), ("embedding", -0.02))
            for name in ("tonic", "mode")
        ]
    )
    shown = embeddings.layer_table(values, runs)
    assert shown.frame.to_dict("records") == [
        {"system": "untrained", "layer": "patches", "tonic": "31 [-10, 50]", "mode": "31 [-10, 50]"},
        {"system": "untrained", "layer": "embedding", "tonic": "-2 [-10, 50]", "mode": "-2 [-10, 50]"},
    ]
    assert shown.cells["untrained, patches / mode"] == ["u"]


def test_the_course_of_a_loss_is_told_by_tenths():
    history = pd.DataFrame({"step": range(100), "loss": np.repeat([0.0, -2, 3, 1, 1, 1, 1, 1, 1, -1], 10)})
    said = embeddings.course_of_loss(history.sample(frac=1, random_state=0))
    assert "its 100 steps, begins at 0.00 and ends at -1.00" in said
    assert "lowest, -2.00, up to step 20 and highest, 3.00, up to step 30" in said
    assert "its 3 steps, begins at 0.00 and ends at 0.00" in embeddings.course_of_loss(history[:3])
