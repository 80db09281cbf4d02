"""Tables are functions of stored runs: recomputed here by hand from the same predictions."""

import numpy as np
import pandas as pd
import pytest

from keymyna_lib import results, tables
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.evaluate import mirex_scores

REFERENCE = np.arange(24)


def store(features, head, estimates, budget=None, seed=0):
    config = {"features": features, "head": head} | ({} if budget is None else {"budget": budget})
    with results.Run("x", profile="smoke", notebook="n", config=config, seed=seed, inputs={"corpus": "c"}) as run:
        run.predictions(pd.DataFrame({
            "track_id": [f"t{i}" for i in range(24)], "source": ["chorale"] * 12 + ["tune"] * 12,
            "composition": [f"c{i}" for i in range(24)],
            "reference": REFERENCE, "estimate": estimates,
            "score": mirex_scores(REFERENCE, estimates, fifths="both"),
            "score_ascending": mirex_scores(REFERENCE, estimates, fifths="ascending")}))
        run.metric("all", "test", "accuracy", 0, 24)
    return run.run_id


@pytest.fixture
def runs(home):
    rng = np.random.default_rng(0)
    ids = [store("KeyMyna", "linear", np.where(rng.random(24) < 0.8, REFERENCE, 3), budget, seed)
           for budget in (48, 0) for seed in (0, 1)]
    ids += [store("untrained", "linear", np.where(rng.random(24) < 0.3, REFERENCE, 3), budget, seed)
            for budget in (48, 0) for seed in (0, 1)]
    ids.append(store("template", "shaath", (REFERENCE + 7) % 12 + 12 * (REFERENCE // 12)))
    results.publish("smoke", "n", runs=ids)
    return results.load_runs("smoke", ["n"])


def test_cells_are_the_mean_of_the_predictions(runs):
    table = tables.systems("smoke", runs)
    tables.expect_complete(runs)
    assert len(table) == 5
    for row in table.to_dict("records"):
        frames = [results.load_predictions("smoke", run) for run in row["run_ids"]]
        by_hand = np.mean([[1 if r == e else 0 for r, e in zip(f["reference"], f["estimate"])] for f in frames])
        assert row["accuracy"] == pytest.approx(by_hand)
        assert row["weighted_both"] == pytest.approx(np.mean([f["score"].mean() for f in frames]))
        assert row["low"] <= row["weighted_both"] <= row["high"] and row["n_seeds"] == len(frames)
    template = table[table["features"] == "template"].iloc[0]
    assert template["weighted_both"] == 0.5 and template["share_fifth"] == 1.0  # a fifth above, everywhere


def test_main_table_and_its_trace(runs):
    table, trace = tables.main_table(tables.systems("smoke", runs), [48, 150, 0], n_train=90)
    assert list(table.columns) == ["features", "head", "48 labels", "150 labels", "all 90 labels"]
    ours = table.set_index("features").loc["KeyMyna"]
    assert ours["150 labels"] == tables.NOT_RUN and "KeyMyna, linear / 150 labels" not in trace
    expected = runs[(runs["features"] == "KeyMyna") & (runs["budget"] == 48)]["run_id"]
    assert trace["KeyMyna, linear / 48 labels"] == list(expected)
    assert table.set_index("features").loc["template", "48 labels"] == "50.0 [50.0, 50.0]"


def test_differences_are_paired(runs):
    table = tables.systems("smoke", runs)
    found = tables.differences("smoke", table, "untrained", "KeyMyna")
    assert len(found) == 2
    values = table.set_index(["features", "budget"])["weighted_both"]
    for row in found.itertuples():
        assert row.difference == pytest.approx(values["KeyMyna", row.budget] - values["untrained", row.budget])
        assert row.low < row.difference < row.high and row.low > 0
    shown, _ = tables.difference_table(found, 90, "gain")
    assert list(shown["verdict"]) == ["better", "better"]
    same = tables.differences("smoke", table, "KeyMyna", "KeyMyna")
    assert (same[["difference", "low", "high"]] == 0).all(axis=None)


def test_missing_and_surplus_runs_are_errors(runs):
    with pytest.raises(KeyMynaError, match="0 runs with 48 labels and seed 1"):
        tables.expect_complete(runs.drop(index=runs.index[1]))
    with pytest.raises(KeyMynaError, match="2 runs"):
        tables.expect_complete(pd.concat([runs, runs.iloc[:1]]))


def test_every_measured_cell_of_the_detail_table_is_traced(runs):
    table, trace = tables.detail_table(tables.systems("smoke", runs), 90)
    for row in table.to_dict("records"):
        for column in table.columns[3:-2]:
            assert f"{row['features']}, {row['head']}, {row['labels']} / {column}" in trace


def test_published_numbers_name_their_source_and_are_not_ours():
    table = tables.published_table()
    assert (table["measured here"] == tables.NOT_RUN).all() and (table["citation"] != "").all() and (table["place"] != "").all()
    keymyna = table[(table["system"] == "KeyMyna") & (table["dataset"] == "GiantSteps")]
    assert list(keymyna["value"]) == ["75.91", "72.02"]
