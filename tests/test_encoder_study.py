"""Comparisons of encoders: what is stored comes back, seeds add up, and every number follows from the estimates."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.evaluate import bootstrap_interval, holm, mirex_scores, paired_difference
from keymyna_lib.experiments import conclusions, encoder_study
from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.report import provenance, summaries, tables
from keymyna_lib.report.runs import Run, describe_runs, load_metrics, other_seeds, published_run
from keymyna_lib.report.stage import Stage

TRACKS = [f"t{i:02d}" for i in range(30)]
REFERENCE = np.arange(30) % 24
CONFIG = PretrainConfig(
    encoder=EncoderConfig("vit-toy", "vertical", "log1p"),
    crop_frames=98,
    loss="infonce",
    projection_dim=0,
    steps=5,
    batch_size=8,
    weight_decay=0.0,
    warmup_steps=1,
    device="cpu",
    checkpoint_every=5,
    validate_every=5,
)


def predictions(share_right, rng, budgets=(48, 0), draws=(0, 1)):
    """Estimates as `label_efficiency` gives them, of which so many are right."""
    rows = [
        {
            "budget": budget,
            "draw": draw,
            "track_id": track,
            "source": "tune",
            "composition": f"c{i // 2}",
            "reference": key,
            "estimate": key if rng.random() < share_right else (key + 1) % 12,
        }
        for budget in budgets
        for draw in draws
        for i, (track, key) in enumerate(zip(TRACKS, REFERENCE))
    ]
    return pd.DataFrame(rows)


def store_tuning():
    with Run("tuning", profile="smoke", notebook="n", seed=0, inputs={"corpus": "c"}, config={"name": "a"}) as run:
        run.metric("all", "valid", "weighted_both", 0.5, 30, condition="lr 1")
    return run.run_id


def store(name, share_right, seed=0, steps=5):
    made = predictions(share_right, np.random.default_rng([seed, len(name)]))
    choices = made[["budget", "draw"]].drop_duplicates().assign(C=1.0, valid_score=0.5)
    with Run(
        "objective",
        profile="smoke",
        notebook="n",
        seed=seed,
        inputs={"corpus": "c"},
        config={"name": name, "seed": seed, "steps": steps},
    ) as run:
        encoder_study.record_predictions(run, made, choices, 30)
        run.metric("all", "train", "flops", 1e12 * steps, 30)
    return run.run_id, made


def publish(*runs):
    stage = Stage("n", "smoke")
    stage.runs += runs
    stage.done()


def test_estimates_come_back_as_they_were_stored(home):
    run, made = store("a", 0.7)
    columns = ["budget", "draw", "track_id", "reference", "estimate", "composition"]
    back = summaries.estimates_of("smoke", run)[columns].sort_values(columns).reset_index(drop=True)
    pd.testing.assert_frame_equal(back, made[columns].sort_values(columns).reset_index(drop=True), check_dtype=False)
    metrics = load_metrics("smoke", [run]).set_index(["dataset", "budget", "metric", "split"])["value"]
    kept = made[made["budget"] == 48]
    assert metrics["all", 48, "accuracy", "test"] == pytest.approx(
        (kept["reference"] == kept["estimate"]).mean(), abs=1e-6
    )


def test_seeds_of_the_same_settings_add_up_and_others_are_left(home):
    first, _ = store("a", 0.7, seed=0)
    other, _ = store("a", 0.7, seed=0, steps=6)
    publish(first, other)
    second, _ = store("a", 0.7, seed=1)
    assert other_seeds("smoke", "n", [second]) == ([first], {})
    again, _ = store("a", 0.7, seed=0)
    assert other_seeds("smoke", "n", [again]) == ([], {})
    # A run of another kind with the old seed, such as a tuning that all seeds share, keeps nothing out.
    assert other_seeds("smoke", "n", [store_tuning(), second]) == ([first], {})


def test_runs_of_other_code_are_not_added(home, monkeypatch):
    first, _ = store("a", 0.7, seed=0)
    publish(first)
    monkeypatch.setattr(provenance, "code_hash", lambda: "newer code")
    provenance.environment.cache_clear()  # it is asked once a process
    second, _ = store("a", 0.7, seed=1)
    assert other_seeds("smoke", "n", [second]) == ([], {0: "by another version of the code"})
    again, _ = store("a", 0.7, seed=0)  # the same seed by the newer code takes its place
    assert other_seeds("smoke", "n", [again, second]) == ([], {})
    another, _ = store("a", 0.7, seed=1, steps=6)  # other settings: nothing is missed
    assert other_seeds("smoke", "n", [another]) == ([], {})


def test_a_published_run_is_found_by_its_configuration(home):
    first, _ = store("a", 0.7, seed=3)
    publish(first)
    assert published_run("smoke", "n", "objective", {"name": "a", "steps": 5}, "c") == first
    assert published_run("smoke", "n", "objective", {"name": "a", "steps": 6}, "c") is None
    assert published_run("smoke", "n", "objective", {"name": "a", "steps": 5}, "another corpus") is None
    assert published_run("smoke", "elsewhere", "objective", {"name": "a", "steps": 5}, "c") is None


@pytest.fixture
def compared(home):
    made = {
        (name, seed): store(name, share, seed)
        for name, share in (("base", 0.8), ("worse", 0.3), ("alike", 0.8))
        for seed in (0, 1)
    }
    runs = describe_runs("smoke", [run for run, _ in made.values()])
    return made, summaries.comparison("smoke", runs, [48, 0], "base")


def by_hand(made, name, budget):
    """(seed, draw, track) scores and compositions, from the estimates; one draw where all labels are used."""
    rows = []
    for seed in (0, 1):
        table = made[name, seed][1]
        rows.append([])
        for draw in (0, 1)[: 1 if budget == 0 else None]:
            part = table[(table["budget"] == budget) & (table["draw"] == draw)].sort_values("track_id")
            rows[-1].append(mirex_scores(part["reference"].to_numpy(), part["estimate"].to_numpy(), fifths="both"))
    return np.array(rows), part["composition"].to_numpy()


def test_scores_differences_and_p_follow_from_the_estimates(compared):
    made, found = compared
    assert len(found) == 6 and set(found["seeds"]) == {2}
    raw = []
    for row in found.to_dict("records"):
        scores, groups = by_hand(made, row["name"], row["budget"])
        assert row["score"] == pytest.approx(scores.mean()) and row["low"] <= row["score"] <= row["high"]
        if row["name"] == "base":
            assert np.isnan(row["difference"]) and row["shared"] == 0
            continue
        expected = paired_difference(
            scores, by_hand(made, "base", row["budget"])[0], groups=groups, n_resamples=20_000, seed=0
        )
        assert set(row["run_ids"]) == {made[row["name"], seed][0] for seed in (0, 1)} < set(row["pair_ids"])
        assert row["difference"] == pytest.approx(expected.difference)
        assert (row["d_low"], row["d_high"]) == pytest.approx((expected.low, expected.high))
        raw.append((expected.p, row["p"], row["p_holm"]))
    assert all(expected == p for expected, p, _ in raw)
    assert np.allclose(holm([p for p, _, _ in raw]), [adjusted for _, _, adjusted in raw])


def test_only_shared_seeds_are_compared(home):
    runs = [store("base", 0.8, 0)[0], store("base", 0.8, 1)[0], store("alone", 0.4, 1)[0], store("late", 0.4, 7)[0]]
    found = summaries.comparison("smoke", describe_runs("smoke", runs), [48], "base", n_resamples=100).set_index("name")
    assert found.loc["alone", "shared"] == 1 and found.loc["alone", "pair_ids"] == [runs[2], runs[1]]
    assert found.loc["late", "shared"] == 0 and np.isnan(found.loc["late", "p_holm"])
    shown = tables.comparison_table(found.reset_index(), 99, "base", unseeded=["late"])
    assert list(shown.frame["seeds"]) == ["2", "1", "–"]
    assert shown.frame.set_index("system").loc["late", "48 labels, minus base"] == "not run"
    assert shown.cells["alone, 1 / 48 labels"] == [runs[2]]
    assert shown.cells["alone, 1 / 48 labels, minus base"] == [runs[2], runs[1]]


def test_a_design_that_is_an_objective_has_one_claim():
    designs = ["default", "untrained", "mask ratio 0", "crops within 117 frames", "crops within 9 frames"]
    assert len(conclusions.design_claims(designs)) == 3
    claims = conclusions.design_claims(designs, objectives=["bare contrastive", encoder_study.NEAR])
    assert [claim.worse for claim in claims] == ["crops within 9 frames"]


def test_conclusions_follow_the_rule(compared):
    _, found = compared
    claims = [
        *conclusions.design_claims(["base", "worse", "alike"], default="base"),
        conclusions.Claim("base beats nobody", "base", "nobody"),
    ]
    assert [claim.worse for claim in claims] == ["worse", "alike", "nobody"]
    decided = conclusions.decide(conclusions.conclude(claims, found, 99))
    known = decided[decided["p"].notna()]
    assert np.allclose(known["p_holm"], holm(known["p"])) and len(known) == 4
    by_claim = decided.set_index(["claim", "labels"])
    for labels, budget in (("48 labels", 48), ("all 99 labels", 0)):
        worse = by_claim.loc[("the default design beats worse", labels)]
        raw = found[(found["name"] == "worse") & (found["budget"] == budget)].iloc[0]
        assert worse["verdict"] == "holds" and worse["difference"] == -raw["difference"] > 0.2
        assert (worse["low"], worse["high"]) == (-raw["d_high"], -raw["d_low"]) and worse["seeds"] == 2
    assert by_claim.loc[("base beats nobody", "any"), "verdict"] == "not tested"
    table = conclusions.conclusions_table(decided.assign(notebook="50"))
    assert not any("nobody" in cell for cell in table.cells) and len(table.cells) == 4 * 3 and len(table.frame) == 5


@pytest.mark.parametrize(
    "low, high, p, word",
    [
        (0.1, 2.0, 0.01, "holds"),
        (-2.0, -0.1, 0.01, "does not"),
        (-1.0, 1.0, 0.3, "cannot be told"),
        (0.1, 2.0, 0.2, "cannot be told"),  # one interval of many
        (0.0, 1.0, 0.04, "cannot be told"),
        (np.nan, np.nan, np.nan, "not tested"),
    ],
)
def test_verdicts(low, high, p, word):
    assert conclusions.verdict(low, high, p) == word


@pytest.fixture
def two_corpora(home):
    """Runs whose gain over "base" is large in the first corpus and none in the second, by corpus and seed."""
    made = {
        (corpus, name, seed): store(name, share, 10 * seed + (corpus == "piece"))
        for corpus, name, share in (
            ("section", "gain", 0.9),
            ("section", "base", 0.3),
            ("piece", "gain", 0.4),
            ("piece", "base", 0.4),
        )
        for seed in (1, 2, 3, 4)
    }

    def runs(corpus, seeds=(1, 2, 3, 4)):
        rows = [
            {"name": name, "seed": seed, "run_id": run}
            for (c, name, seed), (run, _) in made.items()
            if c == corpus and seed in seeds
        ]
        return "smoke", pd.DataFrame(rows)

    return made, runs


def test_the_interaction_is_a_difference_of_paired_differences(two_corpora):
    made, runs = two_corpora
    found = summaries.interaction(runs("section"), runs("piece", (2, 3, 4)), "gain", "base", [48, 0])
    assert list(found["budget"]) == [48, 0] and set(found["seeds"]) == {3}
    for row in found.itertuples():
        means = {
            (corpus, name): np.mean(
                [
                    mirex_scores(t["reference"].to_numpy(), t["estimate"].to_numpy(), fifths="both").mean()
                    for seed in (2, 3, 4)
                    for table in [made[corpus, name, seed][1]]
                    for t in [table[(table["budget"] == row.budget) & ((table["draw"] == 0) | (row.budget > 0))]]
                ]
            )
            for corpus in ("section", "piece")
            for name in ("gain", "base")
        }
        by_hand = means["section", "gain"] - means["section", "base"] - means["piece", "gain"] + means["piece", "base"]
        assert row.difference == pytest.approx(by_hand) and by_hand > 0.3
        assert 0 < row.low < row.difference < row.high and row.p < 0.01
        assert set(row.run_ids) == {run for (_, _, seed), (run, _) in made.items() if seed > 1}
    turned = summaries.interaction(runs("piece"), runs("section"), "gain", "base", [48])
    assert turned["high"][0] < 0


def test_an_interaction_needs_common_seeds_and_tracks(two_corpora, monkeypatch):
    _, runs = two_corpora
    found = summaries.interaction(runs("section", (1, 2)), runs("piece", (3, 4)), "gain", "base", [48])
    assert found["seeds"][0] == 0 and np.isnan(found["p"][0]) and found["run_ids"][0] == []
    scores_of = summaries.comparison_scores

    def others(profile, ids, budget):
        scores, groups = scores_of(profile, ids, budget)
        return scores, groups[::-1] if set(ids) & set(runs("piece")[1]["run_id"]) else groups

    monkeypatch.setattr(summaries, "comparison_scores", others)
    with pytest.raises(KeyMynaError, match="same test tracks"):
        summaries.interaction(runs("section"), runs("piece"), "gain", "base", [48])


def test_an_interaction_is_decided_apart_from_the_other_claims(two_corpora, compared):
    _, runs = two_corpora
    (_, found), both = compared, summaries.interaction(runs("section"), runs("piece"), "gain", "base", [48, 0])
    evidence = pd.concat(
        [
            conclusions.conclude_interaction(conclusions.SCOPE_CLAIM, both, 99),
            conclusions.conclude(conclusions.design_claims(["worse", "alike", "nobody"], default="base"), found, 99),
        ],
        ignore_index=True,
    )
    decided = conclusions.decide(evidence)
    assert list(decided["labels"][:2]) == ["48 labels", "all 99 labels"] and set(decided["verdict"][:2]) == {"holds"}
    tested = decided["p"].notna()
    assert tested.sum() == 6 and np.allclose(decided["p_page"][tested], holm(decided["p"][tested]))
    first, others = decided[:2], decided[2:][tested[2:]]
    assert all(np.allclose(part["p_holm"], holm(part["p"])) for part in (first, others)) and len(others) == 4
    assert conclusions.seeds_warning(decided).startswith("Warning: 4 of the 6 lines")
    assert conclusions.seeds_warning(decided[:2]) == ""  # four seeds
    table = conclusions.conclusions_table(decided.assign(notebook="50"))
    assert table.frame["claim"][0] == conclusions.SCOPE_CLAIM and table.frame["seeds"][0] == "4"


def test_intervals_of_few_seeds_are_too_narrow():
    """What `seeds_warning` warns of: the truth, 0, lies outside more often than 5 times in 100."""
    rng, missed = np.random.default_rng(0), {2: 0, 12: 0}
    for seeds in missed:
        for i in range(200):
            scores = rng.normal(size=(seeds, 1)) + 0.1 * rng.normal(size=(seeds, 40))
            low, high = bootstrap_interval(scores, n_resamples=400, seed=i)
            missed[seeds] += not low <= 0 <= high
    assert missed[2] > 60 and missed[12] < 30


def test_objectives_change_nothing_but_the_objective():
    config = replace(CONFIG, mask_ratio=0.6)
    for name, change in encoder_study.OBJECTIVES.items():
        changed = encoder_study.with_objective(config, name)
        kept = ("objective", "mask_ratio", "augmentation", "crop_distance", "loss")
        assert replace(changed, **{field: getattr(config, field) for field in kept}) == config
        assert {key: getattr(changed, key) for key in change} == change
    assert encoder_study.with_objective(config, encoder_study.MASKED).mask_ratio == 0.6
    with pytest.raises(KeyMynaError, match="'rotation'"):
        encoder_study.with_objective(CONFIG, "rotation")


class Tracks:
    """A corpus of track ids alone, by split."""

    def __init__(self, **splits):
        self.splits = splits

    def tracks(self, *, split):
        return self.splits.get(split, [])

    def pretraining_tracks(self, *, labelled=False):
        return self.tracks(split="train") if labelled else self.tracks(split="pretrain") or self.tracks(split="train")


def test_what_an_objective_is_pretrained_on():
    here, other = Tracks(train=["a"], valid=["b"]), Tracks(train=["c"], valid=["d"])
    free = Tracks(pretrain=[f"f{i}" for i in range(25)])
    at_hand = {encoder_study.FREE: free, encoder_study.OTHER: other}
    for name in encoder_study.OBJECTIVES:
        config = encoder_study.with_objective(CONFIG, name)
        seen, train, valid = encoder_study.unlabelled_of(name, config, here, at_hand)
        if name.endswith(encoder_study.FREE):
            assert (
                seen is free
                and valid == ["f0", "f10", "f20"]
                and sorted(train + valid) == sorted(free.splits["pretrain"])
            )
        elif name.endswith(encoder_study.OTHER):
            assert seen is other and (train, valid) == (["c"], ["d"])
        else:
            assert seen is here and (train, valid) == (["a"], ["b"])
    for name, parameter in (
        (f"{encoder_study.MASKED}, {encoder_study.FREE}", "free_recordings"),
        (f"{encoder_study.MASKED}, {encoder_study.OTHER}", "beside"),
    ):
        with pytest.raises(KeyMynaError, match=f"{name}.*{parameter}"):
            encoder_study.unlabelled_of(name, encoder_study.with_objective(CONFIG, name), here, {})


def test_unknown_factors_are_named():
    assert encoder_study.known_factors(["loss"], {"loss": {}, "crop": {}}) == ["loss"]
    with pytest.raises(KeyMynaError, match="'colour'"):
        encoder_study.known_factors(["loss", "colour"], {"loss": {}, "crop": {}})


def test_what_will_not_have_been_run_is_refused_at_once():
    encoder_study.check_parts([48], [24, 48], "shown_budgets, budgets")
    with pytest.raises(KeyMynaError, match="shown_budgets, budgets: 200 is not among 24, 48"):
        encoder_study.check_parts([48, 200], [24, 48], "shown_budgets, budgets")


def test_a_learning_rate_is_kept_in_full(home, monkeypatch):
    lrs = [1.23456789e-7, 3e-7, 0.1 + 0.2]
    corpus = SimpleNamespace(hash="c", tracks=lambda split: ["v"], pretraining_tracks=lambda labelled: ["u"])
    monkeypatch.setattr(
        encoder_study, "pretrain_once", lambda config, *_, desc: (SimpleNamespace(to=lambda _: config.lr), None)
    )
    monkeypatch.setattr(encoder_study, "budget_tracks", lambda *_: ["t"])
    monkeypatch.setattr(encoder_study, "extract", lambda corpus, name, lr, **_: lr)
    for best in lrs:
        monkeypatch.setattr(
            encoder_study,
            "label_efficiency",
            lambda lr, *_, best=best, **__: (None, pd.DataFrame({"valid_score": [lr == best]})),
        )
        stage = Stage("50_objectives", "mini")
        assert encoder_study.tune(stage, f"best {best}", CONFIG, lrs, 1, corpus, 1, [0]).lr == best
        assert load_metrics("mini", stage.runs)["condition"].to_list() == [f"lr {lr}" for lr in lrs]


@pytest.fixture
def rates(home, monkeypatch):
    """A stand-in for pilots, whose validation score is a function of the rate; what was trained and looked at."""
    tracks = {"train": [f"a{i}" for i in range(20)], "valid": ["v0", "v1"], "test": ["t0"]}
    corpus = SimpleNamespace(
        hash="corpus", tracks=lambda split: tracks[split], pretraining_tracks=lambda labelled: ["u0", "u1"]
    )
    made = SimpleNamespace(corpus=corpus, seen=[], trained=[], score_of={})

    def pretrained(config, corpus, train, valid, desc):
        made.trained.append(config)
        assert (train, valid) == (["u0", "u1"], tracks["valid"])
        return SimpleNamespace(to=lambda device: config.lr), None

    def scored(lr, corpus, budgets, draws, scored):
        assert scored == "valid"
        return None, pd.DataFrame({"valid_score": [made.score_of[lr]] * len(draws)})

    monkeypatch.setattr(encoder_study, "pretrain_once", pretrained)
    monkeypatch.setattr(
        encoder_study, "budget_tracks", lambda corpus, budget, draw: tracks["train"][draw : draw + budget]
    )
    monkeypatch.setattr(
        encoder_study, "extract", lambda corpus, name, lr, frames, track_ids: made.seen.append(track_ids) or lr
    )
    monkeypatch.setattr(encoder_study, "label_efficiency", scored)
    return made


def test_tuning_takes_the_best_on_validation_never_sees_the_test_and_is_shared_by_seeds(rates):
    rates.score_of |= {1e-3: 0.5, 3e-3: 0.7, 1e-2: 0.6}
    for seed in (4, 5):
        config = replace(CONFIG, steps=50, warmup_steps=10, seed=seed)
        stage = Stage("50_objectives", "mini")
        found = encoder_study.tune(stage, "toy", config, [1e-3, 3e-3, 1e-2], 5, rates.corpus, 3, [0, 2])
        assert found == (3e-3, 0.7, [1e-3, 3e-3, 1e-2], False, *stage.runs)
        stage.done()
    assert len(rates.trained) == 3  # the second seed takes what the first has found
    assert {(c.steps, c.warmup_steps, c.seed) for c in rates.trained} == {(5, 1, 0)}
    assert rates.seen == [["a0", "a1", "a2", "a3", "a4", "v0", "v1"]] * 3


def test_a_pilot_of_the_full_length_is_the_run_of_seed_0(rates):
    rates.score_of |= {1e-3: 0.5, 3e-3: 0.7}
    config = encoder_study.with_objective(replace(CONFIG, steps=50, warmup_steps=7), encoder_study.TIMBRE)
    found = encoder_study.tune(
        Stage("50_objectives", "mini"), "toy", replace(config, seed=2), [1e-3, 3e-3], 50, rates.corpus, 3, [0]
    )
    assert replace(config, lr=found.lr) in rates.trained


@pytest.mark.parametrize(
    "best, tried, on_edge",
    [
        (1e-3, [1e-3, 3e-4, 3e-3], False),  # none but those asked for
        (1e-2, [1e-3, 3e-4, 3e-3, 1e-2, 3e-2], False),  # one by one, until the next is worse
        (3e-2, [1e-3, 3e-4, 3e-3, 1e-2, 3e-2], True),  # as far as there are candidates
        (1e-4, [1e-3, 3e-4, 3e-3, 1e-4, 3e-5], False),
        (3e-5, [1e-3, 3e-4, 3e-3, 1e-4, 3e-5], True),
    ],
)
def test_tuning_goes_on_beyond_an_edge(rates, best, tried, on_edge):
    further = [1e-4, 1e-2, 3e-2, 3e-5]
    rates.score_of |= {lr: 1 / (1 + abs(np.log(lr / best))) for lr in (1e-3, 3e-4, 3e-3, *further)}
    found = encoder_study.tune(
        Stage("50_objectives", "mini"), "toy", CONFIG, [1e-3, 3e-4, 3e-3], 5, rates.corpus, 3, [0], further=further
    )
    assert [config.lr for config in rates.trained] == tried
    assert found.lr == best and found.tried == sorted(tried) and found.on_edge == on_edge
    table = encoder_study.tuning_table({"toy": found})
    (row,) = table.frame.to_dict("records")
    assert float(row["learning rate"]) == best and row["validation"] == "100.0"
    assert list(map(float, row["tried"].split(", "))) == sorted(tried) and row["on the edge"] == ["no", "yes"][on_edge]
    assert set(map(tuple, table.cells.values())) == {(found.run_id,)} and len(table.cells) == 4
