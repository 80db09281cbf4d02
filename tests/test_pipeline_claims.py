"""Claims about the paper's own pipeline: each line is the paired difference of what its notebook's runs stored."""

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.base import paths
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments import conclusions, pipeline_claims
from keymyna_lib.experiments.conclusions import ANY, NO_LABELS, SCORE
from keymyna_lib.experiments.encoder_study import MASKED
from keymyna_lib.experiments.pipeline_claims import HEADS, LINEAR_PROBE, PITCH, ROBUSTNESS, WIDE_MLP
from keymyna_lib.experiments.supervised_cnn import HEAD as CNN
from keymyna_lib.experiments.upstream import TRAINED, UNTRAINED
from keymyna_lib.features import CHROMA
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, HOLDS, NOT_TESTED
from keymyna_lib.report.runs import load_runs, write_csv
from keymyna_lib.report.stage import Stage

PROFILE, N_TRAIN = "mini", {"rendered": 90}
TRACKS, KEYS = [f"{i:03d}" for i in range(40)], np.arange(40) % 24  # ids that a reader could take for numbers
COMPOSITIONS = {track: f"c{int(track) // 2}" for track in TRACKS}
SHARES = {TRAINED: 0.8, UNTRAINED: 0.4, CHROMA: 0.9, CNN: 0.4, "mean mel": 0.1}


def estimates(share, *of):
    """Keys of which so many are right; the others are of no relation."""
    right = np.random.default_rng(list(map(len, map(str, of)))).random(len(KEYS)) < share
    return np.where(right, KEYS, (KEYS + 1) % 12 + 12 * (KEYS // 12))


def head_run(stage, experiment, features, head, budget, seed, share, **more):
    found = estimates(share, features, head, "x" * (budget + 1), "x" * (seed + 1))
    config = {"task": "rendered", "features": features, "head": head, "budget": budget, **more}
    with stage.run(experiment, seed=seed, inputs={"corpus": "corpus"}, config=config) as run:
        table = pd.DataFrame({"track_id": TRACKS, "composition": list(COMPOSITIONS.values()), "reference": KEYS})
        scores = mirex_scores(KEYS, found, fifths="both")
        run.predictions(table.assign(source="tune", estimate=found, score=scores))
    return run.run_id, float(scores.mean())


def opened(notebook):
    return load_runs(PROFILE, [notebook])


@pytest.fixture
def probes(home):
    """Runs of notebook 20 with two seeds of the heads, one of the network; the mean scores by system and budget."""
    stage, means = Stage(LINEAR_PROBE, PROFILE), {}
    for features, share in SHARES.items():
        for budget in (48, 0):
            of, head, seeds = ("spectrogram", CNN, [0]) if features == CNN else (features, "linear probe", [0, 1])
            made = [head_run(stage, "linear_probe", of, head, budget, seed, share) for seed in seeds]
            means[features, budget] = [score for _, score in made]
    stage.done()
    return means


def test_lines_of_the_linear_probe_are_paired_over_the_seeds_that_both_have(probes):
    lines = pipeline_claims.about_heads(PROFILE, LINEAR_PROBE, opened(LINEAR_PROBE), N_TRAIN)
    assert len(lines) == 6 and set(lines["labels"]) == {"48 labels", "all 90 labels"}
    assert set(lines["seeds"]) == {1} and set(lines["scale"]) == {SCORE} and set(lines["notebook"]) == {"20"}
    for row in lines.itertuples():
        (claim,) = (c for c in pipeline_claims.HEAD_CLAIMS[LINEAR_PROBE] if c.text == row.claim)
        budget = 48 if row.labels == "48 labels" else 0
        theirs = probes[claim.worse, budget]
        ours = probes[TRAINED, budget][: len(theirs)]
        assert row.difference == pytest.approx(np.mean(ours) - np.mean(theirs), abs=1e-6)
        assert len(row.run_ids) == 2 * len(theirs) and row.low <= row.difference <= row.high
    decided = conclusions.decide(lines).set_index(["claim", "labels"])["verdict"]
    assert decided["under the paper's linear probe, pre-training beats no pre-training", "48 labels"] == HOLDS
    assert decided["under the paper's linear probe, pre-training beats chroma", "48 labels"] != HOLDS


def test_with_several_tasks_each_has_its_own_lines(probes):
    runs = opened(LINEAR_PROBE)
    both = pd.concat([runs, runs.assign(task="billboard")], ignore_index=True)
    lines = pipeline_claims.about_heads(PROFILE, LINEAR_PROBE, both, {**N_TRAIN, "billboard": 70})
    of = lines.groupby(lines["claim"].str.extract(r"\((\w+)\)$")[0])["labels"].agg(set).to_dict()
    assert of == {"rendered": {"48 labels", "all 90 labels"}, "billboard": {"48 labels", "all 70 labels"}}


def test_pitch_shifting_is_the_default_minus_the_row_without(home):
    stage = Stage(HEADS, PROFILE)
    shares = {("default (shifts to 6)", (-1, 0, 1)): 0.9, ("no pitch shift", (0,)): 0.3, ("shifts to 2", (0, 1)): 0.6}
    made = {
        head: [
            head_run(stage, "head", features, head, 48, 0, share, shifts=list(shifts))
            for features in (TRAINED, UNTRAINED)
        ]
        for (head, shifts), share in shares.items()
    }
    stage.done()
    (line,) = pipeline_claims.about_shifting(PROFILE, opened(HEADS), 90).to_dict("records")
    (default, ours), (none, theirs) = (made[name][0] for name in ("default (shifts to 6)", "no pitch shift"))
    assert line["difference"] == pytest.approx(ours - theirs, abs=1e-6) and set(line["run_ids"]) == {default, none}
    assert line["labels"] == "48 labels" and line["notebook"] == "65" and line["low"] > 0


def test_robustness_is_compared_track_by_track(home):
    stage = Stage(WIDE_MLP, PROFILE)
    head, _ = head_run(stage, "wide_mlp", TRAINED, "wide MLP", 0, 0, 0.9)
    stage.done()
    stage, rng = Stage(ROBUSTNESS, PROFILE), np.random.default_rng(0)
    means = {TRAINED: {}, UNTRAINED: {}}
    for kind in pipeline_claims.ROBUSTNESS_CLAIMS:
        hard = rng.uniform(0, 0.5, len(TRACKS))  # what both share
        means[TRAINED][kind], means[UNTRAINED][kind] = hard + 0.1 * rng.random(len(TRACKS)), hard + 0.3
    config = {"task": "rendered", "n_tracks": len(TRACKS)}
    with stage.run("robustness", seed=3, inputs={"corpus": "corpus"}, config=config) as run:
        run.attach("heads", pd.DataFrame({"features": [TRAINED], "head": ["wide MLP"], "run_id": [head]}))
        rows = [
            pd.DataFrame({"change": change, "features": name, "measure": measure, "track": TRACKS, "value": values})
            for name, by_kind in means.items()
            for (change, measure), values in by_kind.items()
        ]
        run.attach("by_track", pd.concat(rows).sample(frac=1, random_state=0))
    stage.done()
    lines = pipeline_claims.about_robustness(PROFILE, opened(ROBUSTNESS), COMPOSITIONS, N_TRAIN)
    assert list(lines["claim"]) == list(pipeline_claims.ROBUSTNESS_CLAIMS.values())
    assert list(lines["labels"]) == [NO_LABELS] + ["all 90 labels"] * 4
    for row, kind in zip(lines.itertuples(), pipeline_claims.ROBUSTNESS_CLAIMS):
        gap = means[TRAINED][kind] - means[UNTRAINED][kind]
        assert row.difference == pytest.approx(gap.mean(), abs=1e-5)
        assert row.high - row.low < 4 * gap.std() / np.sqrt(len(gap) / 2)  # what both share does not widen it
    assert set(conclusions.decide(lines)["verdict"]) == {DOES_NOT}


@pytest.fixture
def pitch(home):
    """Runs and published data of notebook 55: in the masked encoder, fifths are nearer than semitones."""
    stage, rng = Stage(PITCH, PROFILE), np.random.default_rng(0)
    for name, lead in ((MASKED, 0.5), (UNTRAINED, 0.1), (CHROMA, 0.9)):
        cosines = pd.DataFrame(
            [
                {"track_id": t, "shift": s, "steps": n, "cosine": lead * (n == 1) + 0.01 * rng.random()}
                for t in TRACKS
                for s, n in ((-5, 1), (5, 1), (-1, 5), (1, 5))
            ]
        )
        with stage.run("circle", seed=0, inputs={"corpus": "corpus"}, config={"name": name}) as run:
            run.attach("cosines", cosines)
        if name != CHROMA:
            with stage.run("pitch", seed=0, inputs={"corpus": "corpus"}, config={"name": name, "probe_rows": 2000}):
                pass
    stage.done()
    names = [*pipeline_claims.PROPERTY_CLAIMS, "tempo"]
    data = pd.DataFrame({"system": MASKED, "property": names, "difference": 0.1, "d_low": 0.05, "d_high": 0.2})
    data = pd.concat([data.assign(p=0.0001), data.assign(system="mean mel", difference=-1.0, p=0.5)])
    paths.figures_dir(PROFILE).mkdir(parents=True)
    write_csv(paths.figures_dir(PROFILE) / "pitch_differences.csv", data)


def test_sensitivity_to_pitch_is_that_of_the_masked_encoder(pitch):
    lines = pipeline_claims.about_pitch(PROFILE, opened(PITCH), COMPOSITIONS)
    own, more = lines.to_dict("records")[:2]
    assert own["difference"] == pytest.approx(0.5, abs=0.01) and more["difference"] == pytest.approx(0.4, abs=0.01)
    assert len(own["run_ids"]) == 1 and len(more["run_ids"]) == 2 and more["p"] < 0.001
    probed = lines[2:]
    assert set(probed["difference"]) == {0.1} and set(probed["p"]) == {0.0001} and len(probed) == 5
    assert set(probed["labels"]) == {"2000 windows"} and set(probed["scale"]) == {"skill x 100", "R2 x 100"}
    assert set(conclusions.decide(lines)["verdict"]) == {HOLDS}


def test_an_earlier_form_of_notebook_55_leaves_its_claims_untested(pitch):
    runs = opened(PITCH)
    lines = pipeline_claims.about_pitch(PROFILE, runs[runs["experiment"] == "pitch"], COMPOSITIONS)
    assert list(conclusions.decide(lines)["verdict"])[:2] == [NOT_TESTED] * 2 and lines["p"].notna().sum() == 5
    (paths.figures_dir(PROFILE) / "pitch_differences.csv").unlink()
    assert pipeline_claims.about_pitch(PROFILE, runs, COMPOSITIONS)["p"].notna().sum() == 2


def test_what_has_not_run_is_not_tested_and_nothing_fails(home, capsys):
    every = [LINEAR_PROBE, WIDE_MLP, ROBUSTNESS, PITCH, HEADS]
    like = pd.DataFrame({"code_hash": ["code"]})
    assert pipeline_claims.runs_read(PROFILE, every, like, ["corpus"]) == {}
    assert capsys.readouterr().out.count("not tested: ") == len(every)
    lines = pipeline_claims.evidence(PROFILE, {}, {}, N_TRAIN)
    assert set(conclusions.decide(lines)["verdict"]) == {NOT_TESTED} and set(lines["labels"]) == {ANY}
    assert lines["claim"].is_unique and not lines["claim"].str.contains(" / ").any()
    table = conclusions.conclusions_table(conclusions.decide(lines))
    assert not table.cells and set(table.frame["notebook"]) == {"20", "30", "40", "55", "65"}


def test_results_of_other_code_or_of_another_corpus_do_not_count(probes, capsys):
    for code, corpora, counts in (("code", ["corpus"], True), ("other", ["corpus"], False), ("code", ["other"], False)):
        like = pd.DataFrame({"code_hash": [code]})
        found = pipeline_claims.runs_read(PROFILE, [LINEAR_PROBE], like, corpora)
        assert (LINEAR_PROBE in found) == counts
        assert ("--only 20" in capsys.readouterr().out) != counts


def test_the_tables_rows_in_words():
    lines = pd.DataFrame(
        [
            {**conclusions.untested("a beats b"), "labels": "48 labels", "seeds": 2, "difference": 0.1, "low": 0.05}
            | {"high": 0.2, "p": 0.001, "notebook": "50"},
            {**conclusions.untested("c", "cosine x 100"), "labels": NO_LABELS, "seeds": 1, "difference": -0.1}
            | {"low": -0.2, "high": -0.05, "p": 0.001, "notebook": "55"},
            {**conclusions.untested("d"), "notebook": "20"},
        ]
    )
    rows = conclusions.conclusions_table(conclusions.decide(lines)).frame
    assert conclusions.lines_of(rows, "a beats b") == (
        "with 48 labels, it holds (+10.0 [+5.0, +20.0], p 0.0020, pre-training seeds: 2)"
    )
    said = "it does not (-10.0 [-20.0, -5.0] cosine x 100, p 0.0020, pre-training seeds: 1)"
    assert conclusions.lines_of(rows, "c") == said
    assert conclusions.lines_of(rows, "d") == "not tested here"
    assert conclusions.claims_with(rows, HOLDS) == "a beats b (48 labels)"
    assert conclusions.claims_with(rows, DOES_NOT) == "c" and conclusions.claims_with(rows, CANNOT_BE_TOLD) == "none"
