"""What may be concluded: every line follows from a comparison by one rule, and one that nothing tests says so."""

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.base import files, paths
from keymyna_lib.evaluate import holm, mirex_scores
from keymyna_lib.experiments import conclusions
from keymyna_lib.experiments.conclusions import ANY, Claim
from keymyna_lib.experiments.encoder_study import ELSEWHERE, MASKED, NEAR, OBJECTIVES, TIMBRE, UNTRAINED
from keymyna_lib.experiments.pretext import MARK
from keymyna_lib.experiments.references import REFERENCES, discriminants_of
from keymyna_lib.features import CHROMA, MEAN_MEL
from keymyna_lib.report import summaries
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, HOLDS, NOT_TESTED
from keymyna_lib.report.runs import Run, name_elsewhere
from keymyna_lib.report.stage import Stage

TRACKS, KEYS = [f"t{i:02d}" for i in range(40)], np.arange(40) % 24


def cell(name, difference, p=0.001, budget=48, shared=2):
    """A row of `summaries.comparison`."""
    numbers = {"difference": difference, "d_low": difference - 0.05, "d_high": difference + 0.02, "p": p}
    return {"name": name, "budget": budget, "shared": shared, "pair_ids": [f"{name}-run"] * shared, **numbers}


def test_every_system_of_the_comparison_has_a_claim():
    claims = (*conclusions.OBJECTIVE_CLAIMS, *conclusions.REFERENCE_CLAIMS, *conclusions.WIDE_CLAIMS)
    assert len({claim.text for claim in claims}) == len(claims) and {claim.better for claim in claims} == {MASKED}
    here = {UNTRAINED, *OBJECTIVES} - ELSEWHERE.keys()
    assert {c.worse for c in conclusions.OBJECTIVE_CLAIMS} == here - {MASKED}
    rows = {*REFERENCES[:-1], *map(discriminants_of, (MEAN_MEL, UNTRAINED, MASKED))}
    assert {c.worse for c in conclusions.REFERENCE_CLAIMS} == rows
    assert {c.worse for c in conclusions.WIDE_CLAIMS} == {MEAN_MEL, CHROMA, *here} - {MASKED}
    gains = (conclusions.GAIN_CLAIMS, conclusions.WIDE_GAIN_CLAIMS)
    gains += (conclusions.STAYS_CLAIMS, conclusions.WIDE_STAYS_CLAIMS)
    assert {c.better for c in gains[0]} == {TIMBRE, NEAR, *ELSEWHERE} == {c.better for c in gains[2]} - {MASKED}
    everything = [*claims, *(claim for part in gains for claim in part), *conclusions.MASK_CLAIMS]
    assert len({claim.text for claim in everything}) == len(everything)
    assert all(" / " not in claim.text for claim in everything)  # which parts the names of traced cells


def test_a_line_is_the_comparison_turned_round():
    claims = [Claim("a beats b", "a", "b"), Claim("a beats c", "a", "c"), Claim("a beats d", "a", "d")]
    found = pd.DataFrame(
        [cell("b", -0.3), cell("b", -0.1, budget=0), cell("c", 0.2), {**cell("d", np.nan, shared=0), "p": np.nan}]
    )
    lines = conclusions.conclude(claims, found, 90, unlearned=["c"])
    assert list(zip(lines["claim"], lines["labels"])) == [
        ("a beats b", "48 labels"),
        ("a beats b", "all 90 labels"),
        ("a beats c", "48 labels"),
        ("a beats d", ANY),
    ]
    assert np.allclose(lines.loc[0, ["difference", "low", "high"]].astype(float), [0.3, 0.28, 0.35])
    assert list(lines["mark"]) == ["", "", MARK, ""] and list(lines["seeds"]) == [2, 2, 2, 0]
    decided = conclusions.decide(lines)
    assert list(decided["verdict"]) == [HOLDS, HOLDS, DOES_NOT, NOT_TESTED]
    table = conclusions.conclusions_table(decided.assign(notebook="50"))
    assert list(table.frame["pretext task"]) == ["", "", MARK, ""]
    assert table.cells["a beats c, 48 labels, 2 / verdict"] == ["c-run"] * 2
    assert not any("a beats d" in name for name in table.cells)


def test_without_a_comparison_each_claim_has_one_line_that_says_so():
    lines = conclusions.conclude(conclusions.WIDE_CLAIMS, pd.DataFrame(), 90)
    assert len(lines) == len(conclusions.WIDE_CLAIMS)
    assert set(conclusions.decide(lines)["verdict"]) == {NOT_TESTED} and set(lines["labels"]) == {ANY}


def test_holm_counts_every_line_that_was_tested_and_no_other():
    lines = pd.concat(
        [
            conclusions.conclude(
                [Claim("a beats b", "a", "b")], pd.DataFrame([cell("b", -0.3, 0.02), cell("b", -0.3, 0.03, 0)]), 9
            ),
            conclusions.conclude([Claim("a beats c", "a", "c")], pd.DataFrame([cell("c", -0.3, 0.02)]), 9),
            conclusions.not_tested(conclusions.STATE_OF_THE_ART),
        ],
        ignore_index=True,
    )
    decided = conclusions.decide(lines)
    assert np.allclose(decided["p_holm"][:3], holm([0.02, 0.03, 0.02])) and np.isnan(decided["p_holm"][3])
    assert list(decided["verdict"]) == [CANNOT_BE_TOLD] * 3 + [NOT_TESTED]  # alone, each would hold


def test_the_first_question_is_a_family_of_its_own():
    found = pd.DataFrame([{"budget": 48, "seeds": 3, "difference": 0.2, "low": 0.1, "high": 0.3, "p": 0.02}])
    found = found.assign(run_ids=[["r"]], by_seed=[[0.1, 0.2, 0.3]])
    first = conclusions.conclude_interaction(conclusions.SCOPE_CLAIM, found, 90)
    others = conclusions.conclude([Claim("a beats b", "a", "b")], pd.DataFrame([cell("b", -0.3, 0.02)] * 3), 90)
    decided = conclusions.decide(pd.concat([first, others], ignore_index=True))
    assert np.allclose(decided["p_holm"], [0.02, 0.06, 0.06, 0.06]) and np.allclose(decided["p_page"], 0.08)
    assert list(decided["verdict"]) == [HOLDS, *[CANNOT_BE_TOLD] * 3]
    said = conclusions.seed_by_seed(decided)
    assert said == "+10.0, +20.0, +30.0 with 48 labels; over all lines of the page, its p would be 0.0800"
    untested = conclusions.decide(conclusions.not_tested(conclusions.SCOPE_CLAIM))
    assert conclusions.seed_by_seed(untested) == "not tested here"


def store(profile, name, share_right, seed):
    """A run as of `encoder_study.record`, with so many right answers."""
    rng = np.random.default_rng([seed, len(name), len(profile)])
    right = rng.random(len(TRACKS)) < share_right
    table = pd.DataFrame({"track_id": TRACKS, "source": "tune", "composition": TRACKS, "reference": KEYS})
    with Run(
        "objective",
        profile=profile,
        notebook="50_objectives",
        seed=seed,
        inputs={"corpus": profile},
        config={"name": name, "seed": seed, "steps": 5, "base_steps": 5, "budgets": [24]},
    ) as run:
        run.attach("estimates", table.assign(**{"24/0": np.where(right, KEYS, (KEYS + 1) % 12)}))
    return run.run_id, float(mirex_scores(KEYS, np.where(right, KEYS, (KEYS + 1) % 12), fifths="both").mean())


@pytest.fixture
def two_profiles(home):
    """Published runs of three seeds in two profiles; the mean scores by profile and system."""
    means = {}
    for profile, gain in (("mini-full", 0.9), ("mini-full-piece", 0.3)):
        stage = Stage("50_objectives", profile)
        for name, share in ((MASKED, gain), (UNTRAINED, 0.3)):
            made = [store(profile, name, share, seed) for seed in (0, 1, 2)]
            stage.runs += [run for run, _ in made]
            means[profile, name] = np.mean([score for _, score in made])
        stage.done()
    return means


def test_the_interaction_of_two_profiles_is_traced_to_both(two_profiles):
    here, there = (conclusions.runs_beside(of, ["50_objectives"]) for of in ("mini-full", "mini-full-piece"))
    budgets = summaries.common_budgets(pd.concat([here, there]), [24, 48, 0])
    assert budgets == [24]
    sides = ("mini-full", here), ("mini-full-piece", there)
    found = summaries.interaction(*sides, MASKED, UNTRAINED, budgets, n_resamples=500)
    assert len(found["by_seed"][0]) == 3 and np.isclose(np.mean(found["by_seed"][0]), found["difference"][0])
    lines = conclusions.conclude_interaction(conclusions.SCOPE_CLAIM, found, 90)
    decided = conclusions.decide(lines)
    expected = sum(
        sign * two_profiles[profile, name]
        for profile, name, sign in (
            ("mini-full", MASKED, 1),
            ("mini-full", UNTRAINED, -1),
            ("mini-full-piece", MASKED, -1),
            ("mini-full-piece", UNTRAINED, 1),
        )
    )
    assert decided["difference"][0] == pytest.approx(expected) and decided["verdict"][0] == HOLDS
    assert decided["seeds"][0] == 3 and "fewer than 4" in conclusions.seeds_warning(decided)

    stage = Stage("80_conclusions", "mini-full")
    stage.table("conclusions", conclusions.conclusions_table(decided.assign(notebook="50")), caption="Lines.")
    stage.done()
    trace = files.read_json(paths.results_dir("mini-full") / "tables" / "conclusions.trace.json")
    assert {origin["scale"] for origin in trace["runs"].values()} == {"mini-full", "mini-full-piece"}
    assert {"mini-full-piece"} == {run.split("/")[0] for run in trace["runs"] if "/" in run} and len(
        trace["runs"]
    ) == 12


def test_without_the_other_profile_the_interaction_is_not_tested(two_profiles, capsys):
    here = conclusions.runs_beside("mini-full", ["50_objectives"])
    for beside, said in (("", ""), ("mini", "./run_all.sh --profile mini --only 50")):
        there = conclusions.runs_beside(beside, ["50_objectives"])
        assert there.empty and said in capsys.readouterr().out
        assert len(summaries.at_equal_steps(there[there["experiment"].isin(["objective"])])) == 0
        found = summaries.interaction(("mini-full", here), (beside, there), MASKED, UNTRAINED, [])
        (line,) = conclusions.conclude_interaction(conclusions.SCOPE_CLAIM, found, 90).to_dict("records")
        assert line["labels"] == ANY and line["run_ids"] == []
    assert summaries.common_budgets(there, [24]) == []
    assert name_elsewhere("run", "mini", "mini") == "run"


@pytest.mark.parametrize("verdicts", [{HOLDS}, {DOES_NOT}, {CANNOT_BE_TOLD}, {NOT_TESTED}, {HOLDS, CANNOT_BE_TOLD}])
def test_each_outcome_has_a_meaning_of_its_own(verdicts):
    said = conclusions.meaning(verdicts)
    others = [conclusions.meaning({v}) for v in (HOLDS, DOES_NOT, CANNOT_BE_TOLD, NOT_TESTED) if {v} != verdicts]
    assert said.endswith(".") and said not in others


def test_gains_come_from_the_runs_of_their_two_systems(two_profiles):
    runs = conclusions.runs_beside("mini-full-piece", ["50_objectives"])
    claims = conclusions.STAYS_CLAIMS[:2]
    gains = conclusions.about_gains(claims, "mini-full-piece", runs, [24], 90)
    assert list(gains["labels"]) == ["24 labels", ANY] and list(gains["seeds"]) == [3, 0]
    expected = two_profiles["mini-full-piece", MASKED] - two_profiles["mini-full-piece", UNTRAINED]
    assert np.isclose(gains["difference"][0], expected)
    traced = conclusions.as_traced(gains, "mini-full-piece", "mini-full")
    assert {run.split("/")[0] for run in traced["run_ids"][0]} == {"mini-full-piece"} and len(traced["run_ids"][0]) == 6
    rows = conclusions.conclusions_table(conclusions.decide(gains).assign(notebook="50")).frame
    said = conclusions.gains_of(rows, claims)
    assert said.startswith(f"{MASKED}, ") and said.endswith("(24 labels)") and claims[1].better not in said
    assert conclusions.gains_of(rows, claims[1:]) == "not tested here"
