"""Comparisons of encoders: what is stored comes back, seeds add up, and every number follows from the estimates."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from keymyna_lib import comparison, conclusions, paths, results, tables
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.evaluate import holm, mirex_scores, paired_difference
from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import PretrainConfig

TRACKS = [f"t{i:02d}" for i in range(30)]
REFERENCE = np.arange(30) % 24
CONFIG = PretrainConfig(
    encoder=EncoderConfig("vit-toy", "vertical", "log1p"), objective="contrastive", mask_ratio=0.9, augmentation="none",
    crop_frames=98, crop_distance=0, loss="infonce", temperature=0.1, gamma=0.9, projection_dim=0, steps=5, batch_size=8,
    optimizer="adam", lr=1e-3, weight_decay=0.0, warmup_steps=1, clip_norm=1.0, precision="fp32", device="cpu",
    checkpoint_every=5, validate_every=5, seed=0)


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name, value in (("ROOT", tmp_path), ("CACHE", tmp_path / ".cache")):
        monkeypatch.setattr(paths, name, value)
    monkeypatch.setattr(results, "code_hash", lambda: "code")
    monkeypatch.setattr(results, "notebook_hash", lambda notebook: "source")
    monkeypatch.setattr(results, "_written", set())
    results.environment.cache_clear()
    yield tmp_path
    results.environment.cache_clear()


def predictions(share_right, rng, budgets=(48, 0), draws=(0, 1)):
    """Estimates as `label_efficiency` gives them, of which so many are right."""
    rows = [{"budget": budget, "draw": draw, "track_id": track, "source": "tune", "composition": f"c{i // 2}",
             "reference": key, "estimate": key if rng.random() < share_right else (key + 1) % 12}
            for budget in budgets for draw in draws for i, (track, key) in enumerate(zip(TRACKS, REFERENCE))]
    return pd.DataFrame(rows)


def store(name, share_right, seed=0, steps=5):
    made = predictions(share_right, np.random.default_rng([seed, len(name)]))
    choices = made[["budget", "draw"]].drop_duplicates().assign(C=1.0, valid_score=0.5)
    with results.Run("objective", profile="smoke", notebook="n", seed=seed, inputs={"corpus": "c"},
                     config={"name": name, "seed": seed, "steps": steps}) as run:
        comparison.record_predictions(run, made, choices)
        run.metric("all", "train", "flops", 1e12 * steps, 30)
    return run.run_id, made


def test_estimates_come_back_as_they_were_stored(home):
    run, made = store("a", 0.7)
    columns = ["budget", "draw", "track_id", "reference", "estimate", "composition"]
    back = comparison.estimates_of("smoke", run)[columns].sort_values(columns).reset_index(drop=True)
    pd.testing.assert_frame_equal(back, made[columns].sort_values(columns).reset_index(drop=True), check_dtype=False)
    metrics = results.load_metrics("smoke", [run]).set_index(["dataset", "metric", "split"])["value"]
    kept = made[made["budget"] == 48]
    assert metrics["48 labels", "accuracy", "test"] == pytest.approx((kept["reference"] == kept["estimate"]).mean(), abs=1e-6)


def test_seeds_of_the_same_settings_add_up_and_others_are_left(home):
    first, _ = store("a", 0.7, seed=0)
    other, _ = store("a", 0.7, seed=0, steps=6)
    results.publish("smoke", "n", runs=[first, other])
    second, _ = store("a", 0.7, seed=1)
    assert results.other_seeds("smoke", "n", [second]) == [first]
    again, _ = store("a", 0.7, seed=0)
    assert results.other_seeds("smoke", "n", [again]) == []


def test_runs_of_other_code_are_not_added(home, monkeypatch):
    first, _ = store("a", 0.7, seed=0)
    results.publish("smoke", "n", runs=[first])
    monkeypatch.setattr(results, "code_hash", lambda: "newer code")
    results.environment.cache_clear()  # it is asked once a process
    second, _ = store("a", 0.7, seed=1)
    assert results.other_seeds("smoke", "n", [second]) == []


def test_a_published_run_is_found_by_its_configuration(home):
    first, _ = store("a", 0.7, seed=3)
    results.publish("smoke", "n", runs=[first])
    assert results.published_run("smoke", "n", "objective", {"name": "a", "steps": 5}, "c") == first
    assert results.published_run("smoke", "n", "objective", {"name": "a", "steps": 6}, "c") is None
    assert results.published_run("smoke", "n", "objective", {"name": "a", "steps": 5}, "another corpus") is None
    assert results.published_run("smoke", "elsewhere", "objective", {"name": "a", "steps": 5}, "c") is None


@pytest.fixture
def compared(home):
    made = {(name, seed): store(name, share, seed) for name, share in (("base", 0.8), ("worse", 0.3), ("alike", 0.8))
            for seed in (0, 1)}
    results.publish("smoke", "n", runs=[run for run, _ in made.values()])
    runs = results.load_runs("smoke", ["n"])
    return made, tables.comparison("smoke", runs, [48, 0], "base")


def by_hand(made, name, budget):
    """(seed and draw, track) scores and compositions, from the estimates themselves."""
    rows = []
    for seed in (0, 1):
        table = made[name, seed][1]
        for draw in (0, 1):
            part = table[(table["budget"] == budget) & (table["draw"] == draw)].sort_values("track_id")
            rows.append(mirex_scores(part["reference"].to_numpy(), part["estimate"].to_numpy(), fifths="both"))
    return np.stack(rows), part["composition"].to_numpy()


def test_scores_differences_and_p_follow_from_the_estimates(compared):
    made, found = compared
    assert len(found) == 6 and set(found["seeds"]) == {2}
    raw = []
    for row in found.to_dict("records"):
        scores, groups = by_hand(made, row["name"], row["budget"])
        assert row["score"] == pytest.approx(scores.mean()) and row["low"] <= row["score"] <= row["high"]
        if row["name"] == "base":
            assert np.isnan(row["difference"])
            continue
        expected = paired_difference(scores, by_hand(made, "base", row["budget"])[0], groups=groups, seed=0)
        assert row["difference"] == pytest.approx(expected.difference)
        assert (row["d_low"], row["d_high"]) == pytest.approx((expected.low, expected.high))
        raw.append((expected.p, row["p"]))
    assert np.allclose(holm([p for p, _ in raw]), [p for _, p in raw])


def test_conclusions_follow_the_rule(compared):
    _, found = compared
    claims = [conclusions.Claim("base beats worse", "base", "worse"), conclusions.Claim("worse beats base", "worse", "base"),
              conclusions.Claim("base beats alike", "base", "alike"), conclusions.Claim("base beats nobody", "base", "nobody")]
    concluded = conclusions.conclude(claims, found, "base", 99).set_index(["claim", "labels"])
    for labels in ("48 labels", "all 99 labels"):
        words = [concluded.loc[(claim.text, labels), "verdict"] for claim in claims]
        assert words[:2] == ["holds", "the opposite holds"] and words[3] == "not run"
        row = found[(found["name"] == "alike") & (found["budget"] == (48 if labels[0] == "4" else 0))].iloc[0]
        assert words[2] == ("not told apart" if row["d_low"] <= 0 <= row["d_high"] else
                            "holds" if row["d_high"] < 0 else "the opposite holds")
        shown = concluded.loc[("base beats worse", labels), "evidence"]
        assert shown.startswith("+") and float(shown.split()[0]) > 20
    table, trace = conclusions.conclusions_table(concluded.reset_index())
    assert not any("nobody" in cell for cell in trace) and len(trace) == 2 * 6 and len(table) == 8


@pytest.mark.parametrize("low, high, word", [(0.1, 2.0, "holds"), (-2.0, -0.1, "the opposite holds"),
                                             (-1.0, 1.0, "not told apart"), (0.0, 1.0, "not told apart")])
def test_verdicts(low, high, word):
    assert conclusions.verdict(low, high) == word


def test_objectives_change_nothing_but_the_objective():
    for name, change in comparison.OBJECTIVES.items():
        changed = comparison.with_objective(CONFIG, name)
        assert replace(changed, objective=CONFIG.objective, mask_ratio=CONFIG.mask_ratio,
                       augmentation=CONFIG.augmentation) == CONFIG
        assert {key: getattr(changed, key) for key in change} == change
    with pytest.raises(KeyMynaError, match="'rotation'"):
        comparison.with_objective(CONFIG, "rotation")


def test_unknown_factors_are_named():
    assert comparison.known_factors(["loss"], {"loss": {}, "crop": {}}) == ["loss"]
    with pytest.raises(KeyMynaError, match="'colour'"):
        comparison.known_factors(["loss", "colour"], {"loss": {}, "crop": {}})


def test_an_encoder_embeds_windows_as_long_as_its_crops():
    assert comparison.window_frames(CONFIG) == 98
    assert comparison.window_frames(replace(CONFIG, crop_frames=400)) == 196
