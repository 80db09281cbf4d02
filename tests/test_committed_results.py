"""The committed results: every cell of the tables can be computed again from what lies beside them.

`mini` is of this clone's notebooks. `mini-full` takes hours and stays as it is when prose changes; its executed
notebooks are those that its runs name by their hash.
"""

import io
import re
import subprocess
import tarfile

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.base import files, hashing, paths
from keymyna_lib.evaluate import mirex_scores, summary
from keymyna_lib.experiments import conclusions, pipeline_claims
from keymyna_lib.experiments.encoder_study import MASKED, OBJECTIVES, UNTRAINED
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, NOT_TESTED, UNDECIDED
from keymyna_lib.report.navigation import rebased
from keymyna_lib.report.runs import traced_to
from keymyna_lib.run import pipeline
from keymyna_lib.run.plan import FACTORS
from keymyna_lib.run.project import Project


@pytest.fixture(scope="module", autouse=True)
def committed(tmp_path_factory):
    """The results as they were committed, whatever has been run here since."""
    global MINI, FULL, PIECE, NOTEBOOKS
    folder = tmp_path_factory.mktemp("committed")
    if not (paths.ROOT / ".git").exists():
        pytest.skip("not a git clone: what was committed cannot be told from what was run")
    archive = subprocess.run(
        ["git", "-C", paths.ROOT, "archive", "HEAD", "results", "notebooks"], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    MINI, FULL, PIECE = (folder / "results" / name for name in ("mini", "mini-full", "mini-full-piece"))
    NOTEBOOKS = folder / "notebooks"


@pytest.fixture(params=["mini", "mini-full", "mini-full-piece"])
def stored(request):
    """The results of a profile."""
    return {"mini": MINI, "mini-full": FULL, "mini-full-piece": PIECE}[request.param]


CORPUS = ("n_chorales", "n_tunes", "n_songs", "seconds", "scope", "drum_probability", "detune_cents", "snr_db")
# Notebook 80 has run in these alone.
CONCLUDING = pytest.mark.parametrize("stored", ["mini", "mini-full"], indirect=True)
ON_REQUEST = {"70_speed"}  # it measures the machine, whenever it is asked to


def published_runs(stored, left_out=ON_REQUEST):
    return [
        run
        for path in (stored / "index").glob("*.json")
        if path.stem not in left_out
        for run in files.read_json(path)["runs"]
    ]


def predictions(run):
    return pd.read_csv(MINI / "runs" / run / "predictions.csv")


def cells(name, labels, stored=None):
    """(row labels, column, cell text, runs) of every traced cell of a table."""
    stored = stored or MINI
    table = pd.read_csv(stored / "tables" / f"{name}.csv", dtype=str).set_index(labels)
    for cell, runs in files.read_json(stored / "tables" / f"{name}.trace.json")["cells"].items():
        row, column = cell.split(" / ")
        row = tuple(row.rsplit(", ", len(labels) - 1))  # a name may have a comma in it
        yield row, column, table.loc[row, column], runs


ALWAYS = {"objectives", "objectives_cost", "objectives_wide_mlp"}
TABLES = {
    "mini": ALWAYS
    | {
        "design",
        "design_cost",
        "conclusions",
        "pitch_probes",
        "transfer",
        "table1",
        "table1_detail",
        "table1_kinds",
        "pretraining_gain",
        "probe_scores",
        "probe_or_network",
        "error_kinds",
        "circle",
        "embedding_rank",
        "pitch_differences",
        "gain_over_mean_mel",
        "room",
        "robustness",
        "corpus",
        "heads",
        "optimism",
        "calibration",
        "no_key",
        "key_over_time",
    },
    "mini-full": ALWAYS | {"tuning", "design", "design_cost", "conclusions", "circle", "pitch_probes", "transfer"},
    "mini-full-piece": ALWAYS | {"tuning"},
}


def test_each_cell_names_runs_commit_and_notebook(stored):
    assert TABLES[stored.name] <= {path.stem for path in (stored / "tables").glob("*.csv")}
    for name in TABLES[stored.name]:
        trace = files.read_json(stored / "tables" / f"{name}.trace.json")
        assert trace["cells"]
        for run in {run for runs in trace["cells"].values() for run in runs}:
            profile, run_id = traced_to(run, stored.name)
            origin = files.read_json(stored.parent / profile / "runs" / run_id / "provenance.json")
            assert origin["commit"] and origin["dirty"] is False and origin["scale"] == profile
            assert (paths.NOTEBOOKS / f"{origin['notebook']}.ipynb").exists()
            assert trace["runs"][run]["code_hash"] == origin["code_hash"]


def test_one_code_and_one_corpus_made_all_of_it(stored):
    origins = [files.read_json(stored / "runs" / run / "provenance.json") for run in published_runs(stored)]
    assert len(origins) > {"mini": 70, "mini-full": 35, "mini-full-piece": 35}[stored.name]
    assert len({origin["code_hash"] for origin in origins}) == 1
    assert len({origin["corpus_hash"] for origin in origins} - {None}) == 1  # notebook 75 has songs of its own


@pytest.mark.parametrize("profile", ["mini-full", "mini-full-piece"])
def test_the_comparison_asks_for_the_corpus_that_its_results_are_of(profile):
    """`mini` may change; what took hours stays comparable with what is run next."""
    folder = {"mini-full": FULL, "mini-full-piece": PIECE}[profile]
    (run,) = (run for run in files.read_json(folder / "index" / "00_data.json")["runs"] if run.startswith("corpus-"))
    made = files.read_json(folder / "runs" / run / "config.json")
    asked = pipeline.resolve(Project(), pipeline.load_notebooks(Project()), profile, [])["00_data"]
    assert {name: asked[name] for name in CORPUS} == {name: made[name] for name in CORPUS}


@pytest.mark.parametrize("profile", ["mini-full", "mini-full-piece"])
def test_the_comparison_has_three_seeds_of_every_objective(profile):
    folder, seeds = {"mini-full": FULL, "mini-full-piece": PIECE}[profile], {}
    for run in published_runs(folder):
        config = files.read_json(folder / "runs" / run / "config.json")
        if config["experiment"] == "objective" and config["steps"] in (0, config["base_steps"]):
            seeds.setdefault(config["name"], set()).add(config["seed"])
    assert set(seeds) == {UNTRAINED, *OBJECTIVES}
    assert min(map(len, seeds.values())) >= 3
    shown = pd.read_csv(folder / "tables" / "objectives.csv").set_index("system")["seeds"]
    assert {name: shown[name] for name in seeds} == {name: str(len(found)) for name, found in seeds.items()}


def test_designs_are_those_of_all_factors_beside_the_default_and_the_untrained():
    configs = [files.read_json(FULL / "runs" / run / "config.json") for run in published_runs(FULL)]
    designs = {config["name"] for config in configs if config["experiment"] == "design"}
    assert {"default", UNTRAINED} < designs and len(designs) >= 2 + len(FACTORS) + 6


def test_metrics_of_each_label_budget_follow_from_the_estimates(stored):
    seen = 0
    for run in published_runs(stored):
        if not (stored / "runs" / run / "estimates.csv").exists():
            continue
        metrics = pd.read_csv(stored / "runs" / run / "metrics.csv")
        for row in metrics[(metrics["split"] == "test") & (metrics["metric"] == "weighted_both")].itertuples():
            assert row.value == pytest.approx(mean_scores(stored, run, int(row.budget)).mean(), abs=1e-6)
            seen += 1
    assert seen > 15


def sources_of(executed):
    """The cells of an executed copy as the notebook has them: without parameters, links as they were."""
    cells = [
        cell
        for cell in files.read_json(executed)["cells"]
        if "injected-parameters" not in cell["metadata"].get("tags", [])
    ]
    texts = ["".join(cell["source"]) for cell in cells]
    there = executed.parents[3] / "notebooks"
    return [
        rebased(text, executed.parent, there) if cell["cell_type"] == "markdown" else text
        for cell, text in zip(cells, texts)
    ]


def test_executed_notebooks_are_those_that_made_the_runs(stored):
    for run in published_runs(stored, left_out=()):
        origin = files.read_json(stored / "runs" / run / "provenance.json")
        source = sources_of(stored / "notebooks" / f"{origin['notebook']}.ipynb")
        assert hashing.sha256_json(source) == origin["notebook_hash"]


def test_main_table():
    seen = 0
    for row, _, text, runs in cells("table1", ["features", "head"]):
        if row[0] == "chance":
            assert float(text) == pytest.approx(100 * (1 + 2 * 0.5 + 0.3 + 0.2) / 24, abs=0.051)
            continue
        score = np.mean(
            [
                mirex_scores(p["reference"].to_numpy(), p["estimate"].to_numpy(), fifths="both").mean()
                for p in map(predictions, runs)
            ]
        )
        assert float(text.split(" ")[0]) == pytest.approx(100 * score, abs=0.051)
        seen += 1
    assert seen == 3 * (4 * 2 + 1 + 1 + 6 + 2)  # chance has no predictions


def test_detail_table():
    metrics = {
        "weighted (both fifths)": "weighted_both",
        "weighted (ascending only)": "weighted_ascending",
        "accuracy": "accuracy",
        "fifth": "share_fifth",
        "relative": "share_relative",
        "parallel": "share_parallel",
        "other": "share_other",
    }
    for _, column, text, runs in cells("table1_detail", ["features", "head", "labels"]):
        if column in metrics:
            values = [
                summary(p["reference"].to_numpy(), p["estimate"].to_numpy())[metrics[column]]
                for p in map(predictions, runs)
            ]
            assert float(text) == pytest.approx(100 * np.mean(values), abs=0.051)


@pytest.mark.parametrize(
    "name, column",
    [("pretraining_gain", "pre-trained minus untrained"), ("gain_over_mean_mel", "pre-trained minus mean mel")],
)
def test_difference_tables(name, column):
    table = pd.read_csv(MINI / "tables" / f"{name}.csv").set_index(["head", "labels"])
    for row, traced, text, runs in cells(name, ["head", "labels"]):
        if traced != column:
            continue
        scores = [predictions(run)["score"].mean() for run in runs]
        half = len(runs) // 2
        difference = 100 * (np.mean(scores[:half]) - np.mean(scores[half:]))
        shown, low, high, _, p = (v.strip("[],") for v in text.replace("p < 0", "p 0").split())
        shown, low, high = map(float, (shown, low, high))
        assert shown == pytest.approx(difference, abs=0.051) and low <= shown <= high
        verdict = UNDECIDED if float(p) >= 0.05 else "better" if low > 0 else "worse" if high < 0 else UNDECIDED
        if 0 not in (low, high) and p != "0.050":  # rounded, either may have been on the other side
            assert table.loc[row, "verdict"] == verdict


def mean_scores(stored, run, budget):
    """(draw, track) scores of a run of notebook 50 or 60 at one budget, tracks by id."""
    profile, run_id = traced_to(run, stored.name)
    wide = pd.read_csv(stored.parent / profile / "runs" / run_id / "estimates.csv").sort_values("track_id")
    return np.stack(
        [
            mirex_scores(wide["reference"].to_numpy(), wide[column].to_numpy(), fifths="both")
            for column in wide.columns
            if column.split("/")[0] == str(budget)
        ]
    )


def of_seeds(cell):
    """A system that no seed changes has no number, and as many runs as there are seeds."""
    return np.inf if cell == "–" else int(cell)


def test_comparison_tables(stored):
    seen = 0
    for name in {"objectives", "design"} & TABLES[stored.name]:
        seeds = pd.read_csv(stored / "tables" / f"{name}.csv").set_index("system")["seeds"]
        for row, column, text, runs in cells(name, ["system", "seeds"], stored):
            if column.startswith("learned of its task"):
                continue
            configs = [files.read_json(stored / "runs" / run / "config.json")["name"] for run in runs]
            if ", minus " in column:
                label, against = column.split(", minus ")
                ours = [run for run, config in zip(runs, configs) if config == row[0]]
                others = [run for run, config in zip(runs, configs) if config == against]
                value = scores_of(stored, ours, label) - scores_of(stored, others, label)
                assert len(ours) == len(others) == min(of_seeds(row[1]), of_seeds(seeds[against]))
            else:
                assert set(configs) == {row[0]} and (len(runs) == int(row[1]) if row[1] != "–" else runs)
                value = scores_of(stored, runs, column)
            assert float(text.split(" ")[0]) == pytest.approx(100 * value, abs=0.051)
            seen += 1
    assert seen > 6


def scores_of(stored, runs, label):
    return np.mean(
        [mean_scores(stored, run, 0 if label.startswith("all") else int(label.split()[0])).mean() for run in runs]
    )


# Results that were made before the verdicts had their present names.
EARLIER_WORDS = {"not run": NOT_TESTED, UNDECIDED: CANNOT_BE_TOLD, "the opposite holds": DOES_NOT}


@CONCLUDING
def test_each_conclusion_follows_from_the_estimates_of_its_runs(stored):
    table = pd.read_csv(stored / "tables" / "conclusions.csv", dtype=str, keep_default_na=False)
    table["verdict"] = table["verdict"].replace(EARLIER_WORDS)
    trace = files.read_json(stored / "tables" / "conclusions.trace.json")["cells"]
    designs = {files.read_json(path / "config.json")["name"] for path in (stored / "runs").glob("design-*")}
    of_objectives = (*conclusions.OBJECTIVE_CLAIMS, *conclusions.REFERENCE_CLAIMS, *conclusions.WIDE_CLAIMS)
    of_objectives += (*conclusions.GAIN_CLAIMS, *conclusions.WIDE_GAIN_CLAIMS, *conclusions.MASK_CLAIMS)
    of_objectives += (*conclusions.STAYS_CLAIMS, *conclusions.WIDE_STAYS_CLAIMS)
    named = {claim.text: claim for claim in (*of_objectives, *conclusions.design_claims(sorted(designs)))}
    interactions = {conclusions.SCOPE_CLAIM, conclusions.WIDE_SCOPE_CLAIM}
    table = table[~table["claim"].isin(OF_PIPELINE)]
    assert set(table["claim"]) <= {*named, *interactions, conclusions.STATE_OF_THE_ART}
    decided = 0
    for row in table.itertuples():
        runs = trace.get(f"{row.claim}, {row.labels}, {row.seeds} / evidence", [])
        if row.verdict == NOT_TESTED:
            assert not runs and not row.evidence
            continue
        budget = 0 if row.labels.startswith("all") else int(row.labels.split()[0])
        claim = named.get(row.claim, conclusions.OBJECTIVE_CLAIMS[0])
        sides = {}
        for run in runs:
            profile, run_id = traced_to(run, stored.name)
            name = files.read_json(stored.parent / profile / "runs" / run_id / "config.json")["name"]
            (side,) = (side for side in ("better", "worse") if name == getattr(claim, side))
            sides.setdefault((profile, side), []).append(mean_scores(stored, run, budget).mean())
        shown, low, high = (float(v.strip("[],")) for v in row.evidence.split())
        assert {len(scores) for scores in sides.values()} == {int(row.seeds)}
        assert len(sides) == (4 if row.claim in interactions else 2)
        total = sum(
            np.mean(scores)
            * (-1 if row.claim in interactions and profile != stored.name else 1)
            * (1 if side == "better" else -1)
            for (profile, side), scores in sides.items()
        )
        assert shown == pytest.approx(100 * total, abs=0.051)
        # Rounded, 0 and the level may have been on either side.
        if 0 not in (low, high) and float(row.p) != conclusions.ALPHA:
            assert row.verdict == conclusions.verdict(low, high, float(row.p))
        decided += 1
    assert decided > 5


OF_PIPELINE = {  # claim -> what its difference is of
    **{claim.text: claim for claims in pipeline_claims.HEAD_CLAIMS.values() for claim in claims},
    pipeline_claims.SHIFTING_CLAIM: ("default", "no pitch shift"),
    **{text: kind for kind, text in pipeline_claims.ROBUSTNESS_CLAIMS.items()},
    pipeline_claims.FIFTH_CLAIM: None,
    pipeline_claims.MORE_FIFTH_CLAIM: None,
    **{text: name for name, (text, _) in pipeline_claims.PROPERTY_CLAIMS.items()},
}


def pipeline_difference(stored, claim, runs):
    """The difference that a line of OF_PIPELINE is about, from the files of its runs."""
    about, folders = OF_PIPELINE[claim], [stored / "runs" / run for run in runs]
    configs = [files.read_json(folder / "config.json") for folder in folders]

    def mean_of(chosen, value):
        return np.mean([value(folder) for folder, config in zip(folders, configs) if chosen(config)])

    def score(folder):
        return pd.read_csv(folder / "predictions.csv")["score"].mean()

    def lead(folder):
        cosines = pd.read_csv(folder / "cosines.csv").groupby("steps")["cosine"].mean()
        return cosines[1] - cosines[5]

    if isinstance(about, conclusions.Claim):
        better, worse = (
            mean_of(lambda config, of=of: of in (config["features"], config["head"]), score) for of in about[1:]
        )
    elif claim == pipeline_claims.SHIFTING_CLAIM:
        better, worse = (mean_of(lambda config, of=of: config["head"].startswith(of), score) for of in about)
    elif claim == pipeline_claims.FIFTH_CLAIM:
        better, worse = lead(folders[0]), 0
    elif claim == pipeline_claims.MORE_FIFTH_CLAIM:
        better, worse = (mean_of(lambda config, of=of: config["name"] == of, lead) for of in (MASKED, UNTRAINED))
    elif isinstance(about, tuple):
        means = pd.read_csv(folders[0] / "by_track.csv").set_index(["change", "measure"]).loc[about]
        better, worse = (means.loc[means["features"] == of, "value"].mean() for of in ("pre-trained", UNTRAINED))
    else:

        def value(folder):
            return (
                pd.read_csv(folder / "metrics.csv").set_index(["condition", "layer"]).loc[about, "embedding"]["value"]
            )

        better, worse = (mean_of(lambda config, of=of: config["name"] == of, value) for of in (MASKED, UNTRAINED))
    return better - worse


@CONCLUDING
def test_each_conclusion_about_the_pipeline_follows_from_its_runs(stored):
    table = pd.read_csv(stored / "tables" / "conclusions.csv", dtype=str, keep_default_na=False)
    trace = files.read_json(stored / "tables" / "conclusions.trace.json")["cells"]
    for row in table[table["claim"].isin(OF_PIPELINE)].itertuples():
        runs = trace.get(f"{row.claim}, {row.labels}, {row.seeds} / evidence", [])
        if row.verdict == NOT_TESTED:
            assert not runs and not row.evidence
            continue
        shown, low, high = (float(v.strip("[],")) for v in row.evidence.split())
        # Of the network, which has fewer seeds than the heads, each pair has one of both.
        assert shown == pytest.approx(100 * pipeline_difference(stored, row.claim, runs), abs=0.051)
        assert row.verdict == conclusions.verdict(low, high, float(row.p)) or 0 in (low, high)


def test_executed_notebooks_are_those_of_this_clone_and_hold_no_audio():
    for path in NOTEBOOKS.glob("*.ipynb"):
        executed = MINI / "notebooks" / path.name
        if path.stem in ON_REQUEST:  # of the clone in which it was asked to run
            continue
        assert sources_of(executed) == ["".join(cell["source"]) for cell in files.read_json(path)["cells"]]
        assert "<audio" not in executed.read_text()


def test_executed_notebooks_are_free_of_warnings_and_of_what_only_a_terminal_shows(stored):
    for path in sorted((stored / "notebooks").glob("*.ipynb")):
        if path.stem in ON_REQUEST:
            continue
        for cell in files.read_json(path)["cells"]:
            for output in cell.get("outputs", ()):
                said = "".join(output.get("text", ()))
                assert not re.search(r"[A-Za-z]Warning: |\x1b|\r|%\|", said), f"{path.stem}: {said[:300]}"
