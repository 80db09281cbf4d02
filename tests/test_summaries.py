"""Summaries of stored runs: computed here by hand from the same predictions."""

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.evaluate import bootstrap_interval, mirex_scores, paired_difference
from keymyna_lib.report import summaries, tables
from keymyna_lib.report.runs import Run, describe_runs, load_predictions

KEYS = np.arange(24)


def store(experiment, config, predictions, metrics=()):
    with Run(experiment, profile="smoke", notebook="n", config=config, seed=0, inputs={"corpus": "c"}) as run:
        run.predictions(predictions)
        for arguments, facts in metrics:
            run.metric(*arguments, **facts)
    return run.run_id


def estimates(share_right, seed, **columns):
    """Predictions of 24 tracks, of which so many are right."""
    rng = np.random.default_rng(seed)
    estimate = np.where(rng.random(24) < share_right, KEYS, (KEYS + 1) % 24)
    return pd.DataFrame(
        {
            "track_id": [f"t{i:02d}" for i in range(24)],
            "composition": [f"c{i // 2}" for i in range(24)],
            "reference": KEYS,
            "estimate": estimate,
            "score": mirex_scores(KEYS, estimate, fifths="both"),
            **columns,
        }
    )


def test_runs_of_equal_steps_are_those_of_the_base_and_the_untrained():
    runs = pd.DataFrame({"run_id": list("abcd"), "steps": [0, 150, 500, 100], "base_steps": [150, 150, 150, 100]})
    assert list(summaries.at_equal_steps(runs)["run_id"]) == ["a", "b", "d"]


def test_lengths_of_one_objective_cost_what_they_did_and_are_named_by_their_steps(home):
    ids = [
        store(
            "objective",
            {"name": name, "steps": steps, "base_steps": 10, "budget": 48},
            estimates(share, seed=steps),
            [
                (("all", "train", "flops", 2e12 * steps, 24), {}),
                (("all", "test", "accuracy", 0.5, 24), {}),
                (("all", "valid", "weighted_both", share / 2, 20), {"budget": 48}),
                (("all", "valid", "weighted_both", 1.0, 20), {"budget": 200}),
            ],
        )
        for name, steps, share in (("untrained", 0, 0.2), ("masked", 10, 0.6), ("masked", 30, 0.9))
    ]
    runs = describe_runs("smoke", ids)
    cost = summaries.comparison_cost("smoke", runs, 48)
    assert list(cost["name"]) == ["untrained", "masked", "masked, 30 steps"]
    assert list(cost["objective"]) == ["untrained", "masked", "masked"] and list(cost["tflop"]) == [0, 20, 60]
    for row, run in zip(cost.itertuples(), ids):
        assert row.run_ids == [run]
        assert row.score == pytest.approx(load_predictions("smoke", run)["score"].mean())
    table = tables.cost_table(cost)
    assert list(table.frame["system"]) == list(cost["name"]) and list(table.frame["TFLOP"]) == ["0.0", "20.0", "60.0"]
    assert list(table.frame["validation"]) == ["10.0", "30.0", "45.0"]
    assert table.cells["masked, 30 steps, 30 / score"] == [ids[2]]


def test_families_count_as_one_condition_and_are_paired_by_track(home):
    parts = [
        estimates(share, seed, condition=condition, family=family, head=head)
        for seed, (condition, family, head, share) in enumerate(
            [
                ("tunes to chorales", "", "elsewhere", 0.5),
                ("tunes to chorales", "", "control", 0.9),
                ("unheard instrument", "reed", "elsewhere", 0.3),
                ("unheard instrument", "organ", "elsewhere", 0.6),
                ("unheard instrument", "organ", "control", 0.8),
                ("unheard instrument", "reed", "control", 0.9),
            ]
        )
    ]
    run = store("pitch", {"name": "masked"}, pd.concat(parts))
    found = summaries.transfer_scores("smoke", [run]).set_index("condition")
    assert list(found.index) == ["tunes to chorales", "unheard instrument"] and list(found["tracks"]) == [24, 48]
    (reed, organ), (organ_control, reed_control) = parts[2:4], parts[4:]
    elsewhere, control = pd.concat([organ, reed]), pd.concat([organ_control, reed_control])
    expected = paired_difference(
        elsewhere["score"].to_numpy(), control["score"].to_numpy(), groups=control["composition"].to_numpy(), seed=0
    )
    row = found.loc["unheard instrument"]
    assert row["score"] == pytest.approx(elsewhere["score"].mean(), abs=1e-6)
    assert row["control"] == pytest.approx(control["score"].mean(), abs=1e-6)
    assert (row["difference"], row["d_low"], row["d_high"]) == pytest.approx(
        (expected.difference, expected.low, expected.high), abs=1e-6
    )
    shown = tables.transfer_table(found.reset_index())
    assert shown.cells == {f"masked / {condition}": [run] for condition in found.index}


def test_bounds_have_the_interval_of_their_tracks(home):
    ceiling = store("ceiling", {"head": "shaath", "budget": None}, estimates(0.9, 0))
    floor = store("floor", {"head": "linear probe", "features": "mean mel", "budget": 0}, estimates(0.3, 1))
    runs = describe_runs("smoke", [ceiling, floor])
    for row in summaries.room("smoke", runs).itertuples():
        table = load_predictions("smoke", row.run_id)
        scores = table["score"].to_numpy()[None]
        assert row.score == scores.mean()
        assert (row.low, row.high) == bootstrap_interval(scores, groups=table["composition"].to_numpy(), seed=0)
    assert list(tables.room_table("smoke", runs, 90).cells) == [
        "ceiling, key profile shaath on the notes, none / validation",
        "floor, mean mel, linear probe, all 90 labels / validation",
    ]


def test_optimism_is_the_test_score_of_the_test_choice_minus_that_of_the_honest_one(home):
    ids = []
    for seed in (0, 1):
        honest, best = estimates(0.5, seed, chosen_on="valid"), estimates(0.9, seed, chosen_on="test")
        config = {"features": "mean mel", "head": "linear probe", "budget": 48, "of": seed}
        ids.append(store("optimism", config, pd.concat([honest, best])))
    (row,) = summaries.optimism("smoke", ids).to_dict("records")
    scores = pd.concat([load_predictions("smoke", run) for run in ids]).groupby("chosen_on")["score"].mean()
    assert row["chosen_on_valid"] == pytest.approx(scores["valid"])
    assert row["chosen_on_test"] == pytest.approx(scores["test"])
    assert row["difference"] == pytest.approx(scores["test"] - scores["valid"]) and row["low"] <= row["difference"]
    shown = tables.optimism_table("smoke", ids, 90)
    assert shown.frame["seeds"].tolist() == [2]
    assert shown.cells["mean mel, linear probe, 48 labels / optimism"] == ids


def test_robustness_has_a_row_for_each_augmentation_and_a_column_for_each_measure_and_encoder(home):
    values = {
        (condition, measure, features): 0.1 * i
        for i, (condition, measure, features) in enumerate(
            (c, m, f)
            for c in ("low-pass, 2 kHz", "gain: +12 dB")
            for m in ("cosine", "key (wide MLP)")
            for f in ("pre-trained", "untrained")
        )
    }
    run = store(
        "robustness",
        {"n_tracks": 24},
        estimates(1.0, 0),
        [
            (("all", "test", measure, value, 24), {"condition": condition, "features": features})
            for (condition, measure, features), value in values.items()
        ],
    )
    table = tables.robustness_table("smoke", run)
    shown = table.frame.set_index("augmentation")
    assert list(shown.index) == ["low-pass, 2 kHz", "gain: +12 dB"]
    assert list(shown) == [
        "cosine, pre-trained",
        "cosine, untrained",
        "key (wide MLP), pre-trained",
        "key (wide MLP), untrained",
    ]
    for (condition, measure, features), value in values.items():
        text = f"{value:.2f}" if measure == "cosine" else f"{100 * value:.0f}"
        assert shown.loc[condition, f"{measure}, {features}"] == text
        assert table.cells[f"{condition} / {measure}, {features}"] == [run]


def test_scores_by_kind_are_those_of_its_tracks(home):
    runs = []
    for features, share in (("pre-trained", 0.9), ("untrained", 0.3)):
        for seed in (0, 1):
            run = store("head", {"seed": seed}, estimates(share, seed=seed))
            system = {"task": "rendered", "features": features, "head": "wide MLP", "budget": 0}
            runs.append(system | {"run_id": run, "seed": seed})
    runs = pd.DataFrame(runs)
    names = [f"t{i:02d}" for i in range(24)]
    manifest = pd.DataFrame(
        {"source": ["chorale", "tune"] * 6 + ["song"] * 12, "scope": ["piece"] * 6 + ["section"] * 12 + ["piece"] * 6},
        index=names,
    )
    kinds = summaries.kinds_of(manifest)
    assert kinds.columns.to_list() == ["material", "scope"]
    found = summaries.by_kind("smoke", runs, kinds[::-1])  # in any order
    divided = ["scores", "songs", "scope piece", "scope section", "all"]
    assert list(found["kind"]) == 2 * divided and list(found["n_tracks"][:5]) == [12, 12, 12, 12, 24]
    ours = {  # straight from the manifest, whose order is that of the predictions
        "scores": slice(0, 12),
        "songs": slice(12, 24),
        "scope piece": [*range(6), *range(18, 24)],
        "scope section": slice(6, 18),
        "all": slice(None),
    }
    for row in found.itertuples():
        scores = np.stack([load_predictions("smoke", run).set_index("track_id")["score"] for run in row.run_ids])
        assert row.weighted_both == pytest.approx(scores[:, ours[row.kind]].mean())
        assert row.low <= row.weighted_both <= row.high
    shown = tables.kind_table(found, 100)
    assert list(shown.columns[-5:]) == [*(f"{kind} (12)" for kind in divided[:-1]), "all (24)"]
    with pytest.raises(KeyMynaError, match="another corpus"):
        summaries.by_kind("smoke", runs, kinds[:-1])


def test_what_does_not_vary_in_a_corpus_divides_nothing():
    manifest = pd.DataFrame({"source": ["chorale", "tune", "song"], "scope": ["section"] * 3})
    assert summaries.kinds_of(manifest).columns.to_list() == ["material"]
    assert summaries.kinds_of(manifest[:2]).columns.empty


def test_heads_of_one_budget_each_are_compared_and_corrected_together(home):
    """As `comparison` has them, budget by budget, over the seeds that both have; Holm's correction is over all."""
    ids = []
    for name, shares, seeds in (("ours", {48: 0.5, 0: 0.95}, (0, 1)), ("theirs", {48: 0.45, 0: 0.3}, (0, 1, 2))):
        for budget, share in shares.items():
            for seed in seeds:
                config = {"name": name, "budget": budget, "task": "t"}
                with Run("x", profile="smoke", notebook="n", config=config, seed=seed, inputs={"corpus": "c"}) as run:
                    run.predictions(estimates(share, seed=10 * seed + budget + len(name), source="s"))
                ids.append(run.run_id)
    runs = describe_runs("smoke", ids)
    found = summaries.head_comparison("smoke", runs, [48, 0], "theirs", n_resamples=500)
    assert list(zip(found["name"], found["budget"])) == [("ours", 48), ("theirs", 48), ("ours", 0), ("theirs", 0)]
    ours = found[found["name"] == "ours"].set_index("budget")
    assert list(ours["shared"]) == [2, 2] and list(found["seeds"]) == [2, 3, 2, 3]
    shared = runs[runs["seed"] < 2]
    for budget, row in zip(ours.index, ours.to_dict("records")):
        a, b = (
            np.stack(
                [
                    load_predictions("smoke", run)["score"].to_numpy()
                    for run in shared.loc[(shared["name"] == name) & (shared["budget"] == budget), "run_id"]
                ]
            )
            for name in ("ours", "theirs")
        )
        assert row["difference"] == pytest.approx(a.mean() - b.mean(), abs=1e-6)
    assert ours.loc[0, "p"] < ours.loc[48, "p"]
    assert ours.loc[0, "p_holm"] == pytest.approx(min(1, 2 * ours.loc[0, "p"]))
    assert ours.loc[48, "p_holm"] == pytest.approx(max(ours.loc[48, "p"], ours.loc[0, "p_holm"]))


def test_a_difference_is_decided_by_adjusted_p_and_interval_together():
    found = pd.DataFrame(
        [
            (0.01, 0.2, 0.4, "better"),
            (0.01, -0.4, -0.2, "worse"),
            (0.06, 0.1, 0.4, "undecided"),  # not after Holm's correction
            (0.04, -0.1, 0.4, "undecided"),
            (np.nan, np.nan, np.nan, ""),  # what the others are compared with
        ],
        columns=["p_holm", "d_low", "d_high", "expected"],
    )
    assert list(summaries.decided(found)) == list(found["expected"])


def test_a_difference_on_one_source_is_of_its_tracks_alone(home):
    source = ["chorale", "tune"] * 12
    ours = [store("head", {"seed": seed}, estimates(0.9, seed, source=source)) for seed in (0, 1)]
    theirs = [store("control", {"seed": 0}, estimates(0.5, 2, source=source))]
    found = summaries.source_difference("smoke", theirs, ours, source="chorale")
    a, b = (np.mean([load_predictions("smoke", run)["score"][::2] for run in runs], axis=0) for runs in (theirs, ours))
    assert found.difference == pytest.approx(np.mean(a - b)) and found.low <= found.difference <= found.high
    assert found == paired_difference(a, b, groups=[f"c{i}" for i in range(12)], seed=0)
