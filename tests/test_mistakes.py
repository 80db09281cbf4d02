"""Errors by kind and the tracks misread most, from predictions written by hand."""

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.evaluate import NO_KEY, mirex_scores
from keymyna_lib.keys import RELATIONS, parse_key
from keymyna_lib.report import mistakes
from keymyna_lib.report.runs import Run

KEYS = ["C", "C", "C", "Am", "Am"]
ESTIMATES = [["C", "G", "Am", "Am", "A"], ["C", "F", "Cm", "C", None]]  # by run


@pytest.fixture
def runs(home):
    ids = []
    for seed, estimates in enumerate(ESTIMATES):
        reference = np.array([parse_key(key) for key in KEYS])
        estimate = np.array([NO_KEY if key is None else parse_key(key) for key in estimates])
        with Run("x", profile="smoke", notebook="n", config={}, seed=seed, inputs={}) as run:
            run.predictions(
                pd.DataFrame(
                    {
                        "track_id": [f"t{i}" for i in range(5)],
                        "source": "tune",
                        "composition": [f"c{i}" for i in range(5)],
                        "reference": reference,
                        "estimate": estimate,
                        "score": mirex_scores(reference, estimate, fifths="both"),
                    }
                )
            )
        ids.append(run.run_id)
    return ids


def test_shares_of_each_kind_are_means_over_runs_within_a_mode(runs):
    found = mistakes.errors_by_kind("smoke", runs).set_index("mode")
    assert list(found.index) == ["major", "minor", "all"] and list(found["tracks"]) == [3, 2, 5]
    expected = {"major": [2, 2, 1, 1, 0], "minor": [1, 0, 1, 1, 1], "all": [3, 2, 2, 2, 1]}
    for mode, counts in expected.items():
        assert np.allclose(found.loc[mode, list(RELATIONS)].astype(float), np.array(counts) / sum(counts))
    shown = mistakes.kind_of_error_table("smoke", {"probe": runs})
    row = shown.frame.set_index(["system", "mode"]).loc[("probe", "all")]
    assert (row["same"], row["other"], row["tracks"]) == ("30.0", "10.0", 5)
    assert shown.cells["probe, minor / parallel"] == runs


def test_a_mode_without_tracks_has_no_row(runs, monkeypatch):
    load = mistakes.load_predictions
    monkeypatch.setattr(mistakes, "load_predictions", lambda *names: load(*names).iloc[:3].copy())
    assert list(mistakes.errors_by_kind("smoke", runs)["mode"]) == ["major", "all"]


def test_the_worst_come_first_with_what_most_runs_say(runs):
    found = mistakes.by_track("smoke", [*runs, runs[1]])
    assert list(found["track_id"]) == ["t4", "t2", "t1", "t3", "t0"]
    assert found["score"].tolist() == pytest.approx([0.2 / 3, 0.7 / 3, 0.5, 1.6 / 3, 1.0], abs=1e-6)
    by_track = found.set_index("track_id")
    assert by_track.loc["t4", ["estimate", "relation", "right"]].tolist() == [NO_KEY, "other", 0]
    assert by_track.loc["t2", "estimate"] == parse_key("Cm") and by_track.loc["t3", "right"] == 1
    tied = mistakes.by_track("smoke", runs).set_index("track_id")
    assert tied.loc["t1", "estimate"] == parse_key("G")  # of the first run
    shown = mistakes.as_text(mistakes.by_track("smoke", runs).head(2), 2)
    assert shown.to_dict("records") == [
        {
            "track": "t4",
            "source": "tune",
            "key": "Am",
            "estimate": "A",
            "relation": "parallel",
            "right": "0 of 2 seeds",
        },
        {
            "track": "t2",
            "source": "tune",
            "key": "C",
            "estimate": "Am",
            "relation": "relative",
            "right": "0 of 2 seeds",
        },
    ]
    assert mistakes.named(NO_KEY) == mistakes.NONE
