"""The tables: pure functions of stored runs, with every cell traced to the runs behind it.

Scores are averages over test tracks, in 0..1; intervals are 95 % bootstraps over compositions (the settings of one
tune are drawn together) and, where a system was trained with several seeds, over seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from keymyna_lib import paths, results
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.evaluate import bootstrap_interval, confusion, paired_difference_interval, summary

SYSTEM = ["features", "head"]
NOT_RUN = "not run"
_BOOTSTRAP_SEED = 0


def expect_complete(runs: pd.DataFrame) -> None:
    """Check that every system with a trained head has each label budget and seed exactly once.

    Raises
    ------
    KeyMynaError
        Naming the missing or surplus run.
    """
    trained = runs.dropna(subset="budget")
    counts = trained.groupby([*SYSTEM, "budget", "seed"]).size()
    for head, group in trained.groupby("head"):
        names = group["features"].unique(), trained["budget"].unique(), trained["seed"].unique()
        for features, budget, seed in product(*names):
            if (found := counts.get((features, head, budget, seed), 0)) != 1:
                raise KeyMynaError(f"{features}, {head}: {found} runs with {int(budget)} labels and seed {seed}, expected "
                                   "one. Run its notebook again with --force, with the budgets and seeds of the others.")


def test_scores(profile: str, run_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(run, track) scores of some runs, the tracks in the same order, and (track,) the compositions.

    Raises
    ------
    KeyMynaError
        When the runs were not scored on the same tracks.
    """
    tables = [results.load_predictions(profile, run).set_index("track_id") for run in run_ids]
    if any(set(table.index) != set(tables[0].index) for table in tables):
        raise KeyMynaError(f"runs {', '.join(run_ids)} were scored on different tracks; run their notebooks again.")
    return (np.stack([table.loc[tables[0].index, "score"].to_numpy() for table in tables]),
            tables[0]["composition"].to_numpy())


def systems(profile: str, runs: pd.DataFrame) -> pd.DataFrame:
    """One row a system and label budget: all metrics with the interval of the weighted score, and the runs behind.

    Parameters
    ----------
    runs : rows of `results.load_runs`, of runs with test predictions.

    Returns
    -------
    Columns features, head, budget (missing for systems without training), n_seeds, n_tracks, weighted_both, low, high,
    weighted_ascending, accuracy, the shares of the MIREX classes, chorale, tune (weighted_both on these), run_ids.
    """
    rows = []
    for (features, head, budget), group in runs.groupby([*SYSTEM, "budget"], dropna=False, sort=False):
        ids = list(group.sort_values("seed")["run_id"])
        tables = [results.load_predictions(profile, run) for run in ids]
        scores, compositions = test_scores(profile, ids)
        low, high = bootstrap_interval(scores, groups=compositions, seed=_BOOTSTRAP_SEED)
        metrics = pd.DataFrame([summary(t["reference"].to_numpy(), t["estimate"].to_numpy()) for t in tables]).mean()
        by_source = pd.concat(tables).groupby("source")["score"].mean()
        rows.append({"features": features, "head": head, "budget": budget, "n_seeds": len(ids),
                     "n_tracks": scores.shape[1], **metrics, "low": low, "high": high, **by_source, "run_ids": ids})
    return pd.DataFrame(rows)


def differences(profile: str, table: pd.DataFrame, against: str, compared: str) -> pd.DataFrame:
    """`compared` minus `against` (names of features), for each head and budget, paired over tracks and seeds.

    Returns
    -------
    Columns head, budget, difference, low, high, run_ids (of both sides).
    """
    rows = []
    for (head, budget), group in table.dropna(subset="budget").groupby(["head", "budget"], sort=False):
        sides = group.set_index("features")["run_ids"]
        if compared not in sides or against not in sides:
            continue
        run_ids = [*sides[compared], *sides[against]]
        scores, compositions = test_scores(profile, run_ids)
        a, b = np.split(scores, 2)
        low, high = paired_difference_interval(a, b, groups=compositions, seed=_BOOTSTRAP_SEED)
        rows.append({"head": head, "budget": budget, "difference": a.mean() - b.mean(), "low": low, "high": high,
                     "run_ids": run_ids})
    return pd.DataFrame(rows)


def budget_label(budget: float, n_train: int) -> str:
    """How a label budget is written in a table; 0 stands for all."""
    return "none" if pd.isna(budget) else f"{int(budget)} labels" if budget else f"all {n_train} labels"


def with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A score and its interval in points of a hundred: 71.2 [66.0, 76.1]."""
    return f"{100 * value:{sign}.1f} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"


def main_table(table: pd.DataFrame, budgets: Sequence[int], n_train: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Systems by label budgets, the weighted score with its interval in each cell; and the trace of each cell.

    Systems without training have one score, set in every column.
    """
    labels = {budget: budget_label(budget, n_train) for budget in budgets}
    rows, trace = [], {}
    for (features, head), group in table.groupby(SYSTEM, sort=False):
        row = {"features": features, "head": head}
        for budget, label in labels.items():
            found = group[(group["budget"] == budget) | group["budget"].isna()]
            if found.empty:
                row[label] = NOT_RUN
                continue
            cell, = found.to_dict("records")
            row[label] = with_interval(cell["weighted_both"], cell["low"], cell["high"])
            trace[f"{features}, {head} / {label}"] = cell["run_ids"]
        rows.append(row)
    return pd.DataFrame(rows), trace


def detail_table(table: pd.DataFrame, n_train: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Every metric of every system and budget, in points of a hundred, and the trace of each cell."""
    metrics = {"weighted_both": "weighted (both fifths)", "weighted_ascending": "weighted (ascending only)",
               "accuracy": "accuracy", "share_fifth": "fifth", "share_relative": "relative",
               "share_parallel": "parallel", "share_other": "other", "chorale": "weighted, chorales",
               "tune": "weighted, tunes"}
    rows, trace = [], {}
    for cell in table.to_dict("records"):
        label = budget_label(cell["budget"], n_train)
        row = {"features": cell["features"], "head": cell["head"], "labels": label}
        for metric, name in metrics.items():
            row[name] = f"{100 * cell[metric]:.1f}"
            trace[f"{cell['features']}, {cell['head']}, {label} / {name}"] = cell["run_ids"]
        row["interval"] = f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"
        trace[f"{cell['features']}, {cell['head']}, {label} / interval"] = cell["run_ids"]
        rows.append({**row, "seeds": cell["n_seeds"], "tracks": cell["n_tracks"]})
    return pd.DataFrame(rows), trace


def difference_table(table: pd.DataFrame, n_train: int, column: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Paired differences with intervals, and what they say; and the trace of each cell."""
    rows, trace = [], {}
    for cell in table.to_dict("records"):
        label = budget_label(cell["budget"], n_train)
        verdict = "better" if cell["low"] > 0 else "worse" if cell["high"] < 0 else "not told apart"
        rows.append({"head": cell["head"], "labels": label,
                     column: with_interval(cell["difference"], cell["low"], cell["high"], "+"), "verdict": verdict})
        trace[f"{cell['head']}, {label} / {column}"] = cell["run_ids"]
        trace[f"{cell['head']}, {label} / verdict"] = cell["run_ids"]
    return pd.DataFrame(rows), trace


def mean_confusion(profile: str, run_ids: Sequence[str]) -> np.ndarray:
    """(24, 24) counts along the circle of fifths, averaged over the runs of a system."""
    tables = [results.load_predictions(profile, run) for run in run_ids]
    return np.mean([confusion(t["reference"].to_numpy(), t["estimate"].to_numpy()) for t in tables], axis=0)


def published_table() -> pd.DataFrame:
    """The numbers that others have published, whose they are, and what was measured here of them: nothing yet."""
    table = pd.read_csv(paths.LIBRARY / "published.csv", keep_default_na=False, dtype=str)
    return table.assign(**{"measured here": NOT_RUN})


def robustness_table(profile: str, run_id: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The robustness run's metrics, a row an augmentation, and the trace of each cell."""
    metrics = results.load_metrics(profile, [run_id])
    metrics[["measure", "features"]] = metrics["metric"].str.split(": ", expand=True)
    wide = metrics.pivot_table(index="dataset", columns=["measure", "features"], values="value", sort=False)
    table = pd.DataFrame({"augmentation": wide.index})
    trace = {}
    for measure, features in wide.columns:
        name, scale, digits = f"{measure}, {features}", *((1, 2) if "cosine" in measure else (100, 0))
        table[name] = [f"{scale * value:.{digits}f}" for value in wide[measure, features]]
        trace |= {f"{row} / {name}": [run_id] for row in wide.index}
    return table, trace


def corpus_table(profile: str, run_id: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Counts by source and split, and the trace of each cell."""
    metrics = results.load_metrics(profile, [run_id])
    wide = metrics.pivot(index=["dataset", "split"], columns="metric", values="value").reset_index()
    wide = wide.sort_values(["dataset", "split"], key=lambda c: c.map({"train": 0, "valid": 1, "test": 2}).fillna(c)
                            if c.name == "split" else c)
    table = wide.rename(columns={"dataset": "source", "minor_tracks": "minor tracks"}).rename_axis(columns=None)
    for column in ("tracks", "compositions", "minor tracks"):
        table[column] = table[column].astype(int)
    table["hours"] = [f"{hours:.2f}" for hours in table["hours"]]
    table = table[["source", "split", "tracks", "compositions", "minor tracks", "hours"]]
    return table, {f"{row.source}, {row.split} / {column}": [run_id] for row in table.itertuples()
                   for column in table.columns[2:]}


def room_table(profile: str, runs: pd.DataFrame, n_train: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Ceiling and floor on validation with their intervals, and the trace of each cell."""
    rows, trace = [], {}
    for run in runs.to_dict("records"):
        scores, compositions = test_scores(profile, [run["run_id"]])
        low, high = bootstrap_interval(scores, groups=compositions, seed=_BOOTSTRAP_SEED)
        name = {"ceiling": "key profile {head} on the score's notes", "floor": "{features}, {head}"}[run["experiment"]]
        row = {"bound": run["experiment"], "system": name.format(**run), "labels": budget_label(run["budget"], n_train)}
        trace[f"{', '.join(row.values())} / validation"] = [run["run_id"]]
        rows.append({**row, "validation": with_interval(scores.mean(), low, high)})
    return pd.DataFrame(rows), trace


def chance_row(profile: str, run_id: str, columns: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The row of a uniform guess for the main table, from the run that holds its closed form, and its trace."""
    metrics = results.load_metrics(profile, [run_id]).set_index("metric")["value"]
    row = {"features": "chance", "head": "uniform guess"}
    values = {column: f"{100 * metrics['weighted_both']:.1f}" for column in columns}
    return {**row, **values}, {f"chance, uniform guess / {column}": [run_id] for column in columns}


def exclusions_table(profile: str, run_id: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Scores that the label audit left out, by source, reason and interval; and the trace of each cell."""
    left_out = pd.read_csv(paths.results_dir(profile) / "runs" / run_id / "exclusions.csv")
    interval = left_out["interval"].map(lambda value: "" if pd.isna(value) else f"{int(value)}")
    left_out = left_out.assign(**{"last note above the tonic (semitones)": interval})
    table = left_out.groupby(["source", "reason", "last note above the tonic (semitones)"]).size().reset_index(name="pieces")
    return table, {f"{', '.join(row[:3])} / pieces": [run_id] for row in table.astype(str).to_numpy().tolist()}
