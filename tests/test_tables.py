"""Tables are functions of stored runs: recomputed here by hand from the same predictions."""

import re

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.report import summaries, tables
from keymyna_lib.report.runs import Run, describe_runs, load_predictions

REFERENCE = np.arange(24)


def store(features, head, estimates, budget=None, seed=0, task="giantsteps"):
    config = {"task": task, "features": features, "head": head} | ({} if budget is None else {"budget": budget})
    with Run("x", profile="smoke", notebook="n", config=config, seed=seed, inputs={"corpus": "c"}) as run:
        run.predictions(
            pd.DataFrame(
                {
                    "track_id": [f"t{i}" for i in range(24)],
                    "source": ["chorale"] * 12 + ["tune"] * 12,
                    "composition": [f"c{i}" for i in range(24)],
                    "reference": REFERENCE,
                    "estimate": estimates,
                    "score": mirex_scores(REFERENCE, estimates, fifths="both"),
                    "score_ascending": mirex_scores(REFERENCE, estimates, fifths="ascending"),
                }
            )
        )
        if budget is not None:
            run.metric("all", "train", "labelled_tracks", budget or 90, 90)
        for source, part in (("tune", slice(12, 24)), ("gtzan", slice(0, 6))):
            score = mirex_scores(REFERENCE[part], estimates[part], fifths="both").mean()
            run.metric(source, "test" if source == "tune" else "extra", "weighted_both", score, 12)
    return run.run_id


@pytest.fixture
def runs(home):
    rng = np.random.default_rng(0)
    ids = [
        store("KeyMyna", "linear", np.where(rng.random(24) < 0.8, REFERENCE, 3), budget, seed)
        for budget in (48, 0)
        for seed in (0, 1)
    ]
    ids += [
        store("untrained", "linear", np.where(rng.random(24) < 0.3, REFERENCE, 3), budget, seed)
        for budget in (48, 0)
        for seed in (0, 1)
    ]
    ids.append(store("template", "shaath", (REFERENCE + 7) % 12 + 12 * (REFERENCE // 12)))
    ids.append(store("outside", "ConvKey", REFERENCE, task="giantsteps"))
    return describe_runs("smoke", ids)


def test_cells_are_the_mean_of_the_predictions(runs):
    table = summaries.systems("smoke", runs)
    summaries.expect_complete(runs)
    assert len(table) == 6
    for row in table.to_dict("records"):
        frames = [load_predictions("smoke", run) for run in row["run_ids"]]
        by_hand = np.mean([[1 if r == e else 0 for r, e in zip(f["reference"], f["estimate"])] for f in frames])
        assert row["accuracy"] == pytest.approx(by_hand)
        assert row["weighted_both"] == pytest.approx(np.mean([f["score"].mean() for f in frames]))
        assert row["low"] <= row["weighted_both"] <= row["high"] and row["n_seeds"] == len(frames)
        assert row["weighted, tune"] == pytest.approx(np.mean([f["score"][12:].mean() for f in frames]), abs=1e-6)
        assert row["weighted, gtzan"] == pytest.approx(np.mean([f["score"][:6].mean() for f in frames]), abs=1e-6)
        assert row["n_train"] == 90 or row["features"] in ("template", "outside")
    template = table[table["features"] == "template"].iloc[0]
    assert template["weighted_both"] == 0.5 and template["share_fifth"] == 1.0  # a fifth above, everywhere


def test_main_table_and_its_trace(runs):
    shown = tables.main_table(summaries.systems("smoke", runs), [48, 150, 0], n_train=90)
    table, trace = shown.frame, shown.cells
    assert list(table.columns) == ["features", "head", "48 labels", "150 labels", "all 90 labels"]
    ours = table.set_index("features").loc["KeyMyna"]
    assert ours["150 labels"] == tables.NOT_RUN and "KeyMyna, linear / 150 labels" not in trace
    expected = runs[(runs["features"] == "KeyMyna") & (runs["budget"] == 48)]["run_id"]
    assert trace["KeyMyna, linear / 48 labels"] == list(expected)
    assert table.set_index("features").loc["template", "48 labels"] == "50.0 [50.0, 50.0]"


def test_differences_are_paired(runs):
    table = summaries.systems("smoke", runs)
    found = summaries.differences("smoke", table, "untrained", "KeyMyna")
    assert len(found) == 2
    values = table.set_index(["features", "budget"])["weighted_both"]
    for row in found.itertuples():
        assert row.difference == pytest.approx(values["KeyMyna", row.budget] - values["untrained", row.budget])
        assert row.d_low < row.difference < row.d_high and row.d_low > 0
        assert row.p_holm == pytest.approx(min(1, 2 * row.p), rel=0.5) and row.p_holm < 0.05
    shown = tables.difference_table(found, 90, "gain").frame
    assert list(shown["verdict"]) == ["better", "better"]
    same = summaries.differences("smoke", table, "KeyMyna", "KeyMyna")
    assert (same[["difference", "d_low", "d_high"]] == 0).all(axis=None)
    assert list(tables.difference_table(same, 90, "gain").frame["verdict"]) == ["undecided", "undecided"]
    assert tables.difference_table(summaries.differences("smoke", table, "nobody", "KeyMyna"), 90, "gain").frame.empty


def test_missing_and_surplus_runs_are_errors(runs):
    with pytest.raises(KeyMynaError, match="0 runs with 48 labels and seed 1"):
        summaries.expect_complete(runs.drop(index=runs.index[1]))
    with pytest.raises(KeyMynaError, match="2 runs"):
        summaries.expect_complete(pd.concat([runs, runs.iloc[:1]]))


def test_a_head_may_have_fewer_seeds_but_no_fewer_budgets(runs):
    ids = [store("spectrogram", "network", REFERENCE, budget) for budget in (48, 0)]
    summaries.expect_complete(pd.concat([runs, describe_runs("smoke", ids)]))
    with pytest.raises(KeyMynaError, match="network: 0 runs with 0 labels and seed 0"):
        summaries.expect_complete(pd.concat([runs, describe_runs("smoke", ids[:1])]))


def test_every_measured_cell_of_the_detail_table_is_traced(runs):
    shown = tables.detail_table(summaries.systems("smoke", runs), 90)
    for row in shown.frame.to_dict("records"):
        for column in shown.columns[3:-2]:
            assert f"{row['features']}, {row['head']}, {row['labels']} / {column}" in shown.cells


def test_a_system_without_the_extra_set_was_not_run_on_it(runs):
    systems = summaries.systems("smoke", runs)
    systems.loc[systems["features"] == "outside", "weighted, gtzan"] = np.nan
    shown = tables.detail_table(systems, 90)
    outside = shown.frame.set_index("features").loc["outside"]
    assert outside["weighted, gtzan"] == tables.NOT_RUN and outside["accuracy"] == "100.0"
    assert "outside, ConvKey, none / weighted, gtzan" not in shown.cells
    assert "outside, ConvKey, none / accuracy" in shown.cells


def test_a_task_that_lacks_a_run_is_named(runs):
    other = runs.dropna(subset="budget").assign(task="billboard")
    summaries.expect_complete(pd.concat([runs, other]))
    with pytest.raises(KeyMynaError, match="billboard, KeyMyna, linear: 0 runs"):
        summaries.expect_complete(pd.concat([runs, other.iloc[1:]]))


def test_published_numbers_name_their_source_and_are_not_ours(home):
    ids = [store("pre-trained", "wide MLP", REFERENCE, 0, task="rendered")]
    shown = tables.published_table(summaries.systems("smoke", describe_runs("smoke", ids)))
    table, trace = shown.frame, shown.cells
    assert (
        (table["measured here"] == tables.NOT_RUN).all()
        and (table["citation"] != "").all()
        and (table["place"] != "").all()
    )
    assert not trace  # whatever was run on the synthetic corpus
    keymyna = table[(table["system"] == "KeyMyna") & (table["dataset"] == "GiantSteps")]
    assert list(keymyna["value"]) == ["75.91", "72.02"]


def test_what_was_measured_stands_beside_what_was_published(home):
    fifth_below = (REFERENCE + 5) % 12 + 12 * (REFERENCE // 12)
    ours = [store("pre-trained", "wide MLP", REFERENCE, 48), store("pre-trained", "wide MLP", fifth_below, 0)]
    ids = [*ours, store("outside", "ConvKey", REFERENCE)]
    shown = tables.published_table(summaries.systems("smoke", describe_runs("smoke", ids)))
    table, trace = shown.frame, shown.cells
    here = table.set_index(["system", "dataset", "metric"])["measured here"]
    assert here["KeyMyna", "GiantSteps", "weighted score"] == f"0.0 ascending only, 50.0 both ({len(REFERENCE)} tracks)"
    # that of all labels, and on how many of the 604 tracks
    assert here["KeyMyna", "GiantSteps", "accuracy"] == f"0.0 ({len(REFERENCE)} tracks)"
    assert here["ConvKey", "GiantSteps", "weighted score"].startswith("100.0 ascending only, 100.0 both (")
    assert here["KeyMyna", "Billboard", "weighted score"] == tables.NOT_RUN
    assert trace["KeyMyna, GiantSteps, accuracy / measured here"] == ours[1:]
    assert len(trace) == 3


def test_mert_is_found_under_the_name_of_its_repository(home):
    from keymyna_lib.encoders import huggingface

    repository = re.search(r'"(\S+)@[0-9a-f]{40}"', huggingface.frozen_encoder.__doc__)[1]
    ids = [store(repository.split("/")[-1], "wide MLP", REFERENCE, 0)]
    table = tables.published_table(summaries.systems("smoke", describe_runs("smoke", ids))).frame
    here = table.set_index(["system", "dataset"])["measured here"]
    assert here["MERT-95M", "GiantSteps"].startswith("100.0 ") and here["MERT-95M", "Billboard"] == tables.NOT_RUN


def test_the_corpus_is_counted_by_source_and_split(home):
    with Run("corpus", profile="smoke", notebook="n", config={}, seed=0, inputs={"corpus": "c"}) as run:
        for source, split, tracks in (("tune", "test", 7), ("song", "train", 9), ("song", "valid", 8)):
            for metric, value in (("tracks", tracks), ("piece_tracks", 3), ("compositions", 6), ("minor_tracks", 4)):
                run.metric(source, split, metric, value, tracks)
            run.metric(source, split, "hours", tracks / 8, tracks)
    assert tables.corpus_table("smoke", run.run_id).frame.to_dict("split")["data"] == [
        ["song", "train", 9, 3, 6, 4, "1.12"],
        ["song", "valid", 8, 3, 6, 4, "1.00"],
        ["tune", "test", 7, 3, 6, 4, "0.88"],
    ]


def test_cards_stand_side_by_side_without_validation_and_say_what_was_not_run():
    def score(name, measure, value, low=None, high=None):
        return {"set": name, "measure": measure, "value": value, "low": low, "high": high, "tracks": 9}

    cards = {
        "ours": {
            "scores": [
                score("valid: all", "accuracy", 0.9, 0.8, 1.0),
                score("test: all", "accuracy", 0.875, 0.75, 1.0),
                score("test: all", "answered", 0.5),
                score("test: all", "calibration error", 0.1),
            ]
        },
        "theirs": {"scores": [score("test: all", "accuracy", 0.25, 0.125, 0.5)]},
        "nobody": {"scores": []},
    }
    table = tables.card_table(cards, "run-1")
    assert table.frame.to_dict("records") == [
        {
            "set": "test: all",
            "measure": "accuracy",
            "ours": "87.5 [75.0, 100.0]",
            "theirs": "25.0 [12.5, 50.0]",
            "nobody": "not run",
        },
        {"set": "test: all", "measure": "answered", "ours": "50.0", "theirs": "not run", "nobody": "not run"},
    ]
    assert set(table.cells) == {
        "test: all, accuracy / ours",
        "test: all, accuracy / theirs",
        "test: all, answered / ours",
    }
    assert table.cells["test: all, accuracy / theirs"] == ["run-1"]
