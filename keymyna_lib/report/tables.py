"""The tables: pure functions of stored runs, with every cell traced to the runs behind it.

Scores are averages over test tracks, in 0..1; intervals are 95 % bootstraps over compositions (the settings of one
tune are drawn together) and, where a system was trained with several seeds, over seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.evaluate import bootstrap_interval, paired_difference
from keymyna_lib.report import runs as results
from keymyna_lib.report.summaries import _BOOTSTRAP_SEED, SYSTEM, test_scores

NOT_RUN = "not run"


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
            (cell,) = found.to_dict("records")
            row[label] = with_interval(cell["weighted_both"], cell["low"], cell["high"])
            trace[f"{features}, {head} / {label}"] = cell["run_ids"]
        rows.append(row)
    return pd.DataFrame(rows), trace


def detail_table(table: pd.DataFrame, n_train: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Every metric of every system and budget, in points of a hundred, and the trace of each cell."""
    metrics = {
        "weighted_both": "weighted (both fifths)",
        "weighted_ascending": "weighted (ascending only)",
        "accuracy": "accuracy",
        "share_fifth": "fifth",
        "share_relative": "relative",
        "share_parallel": "parallel",
        "share_other": "other",
        **{column: column for column in table if column.startswith("weighted, ") and table[column].notna().any()},
    }
    rows, trace = [], {}
    for cell in table.to_dict("records"):
        label = budget_label(cell["budget"], n_train)
        row = {"features": cell["features"], "head": cell["head"], "labels": label}
        for metric, name in metrics.items():
            if np.isnan(cell[metric]):
                row[name] = NOT_RUN
                continue
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
        rows.append(
            {
                "head": cell["head"],
                "labels": label,
                column: with_interval(cell["difference"], cell["low"], cell["high"], "+"),
                "verdict": verdict,
            }
        )
        trace[f"{cell['head']}, {label} / {column}"] = cell["run_ids"]
        trace[f"{cell['head']}, {label} / verdict"] = cell["run_ids"]
    return pd.DataFrame(rows), trace


# What stands here for a published system: features (an encoder of the hub goes by its repository), head, all labels.
_HERE = {"KeyMyna": ("pre-trained", "wide MLP"), "MERT-95M": ("MERT-v1-95M", "wide MLP")}
_TASK_OF = {"GiantSteps": "giantsteps", "Billboard": "billboard"}


def published_table(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """The numbers that others have published, whose they are, and what was measured here of them; trace of the latter.

    Parameters
    ----------
    table : of `systems`. A published row is measured where its data set is a task and its system was run; predictions
        of an outside system (see `protocol.outside_predictions`) count under the name that their file has.
    """
    published = pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=False, dtype=str)
    measured, trace = [], {}
    for row in published.to_dict("records"):
        features, head = _HERE.get(row["system"], ("outside", row["system"]))
        found = table[
            (table["task"] == _TASK_OF.get(row["dataset"]))
            & (table["features"] == features)
            & (table["head"] == head)
            & (table["budget"].isna() | (table["budget"] == 0))
        ]
        if found.empty:
            measured.append(NOT_RUN)
            continue
        (cell,) = found.to_dict("records")
        score = (
            f"{100 * cell['accuracy']:.1f}"
            if row["metric"] == "accuracy"
            else f"{100 * cell['weighted_ascending']:.1f} ascending only, {100 * cell['weighted_both']:.1f} both"
        )
        measured.append(f"{score} ({cell['n_tracks']} tracks)")
        trace[f"{row['system']}, {row['dataset']}, {row['metric']} / measured here"] = cell["run_ids"]
    return published.assign(**{"measured here": measured}), trace


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
    wide = wide.sort_values(
        ["dataset", "split"],
        key=lambda c: c.map({"train": 0, "valid": 1, "test": 2}).fillna(c) if c.name == "split" else c,
    )
    table = wide.rename(columns={"dataset": "source", "minor_tracks": "minor tracks"}).rename_axis(columns=None)
    for column in ("tracks", "compositions", "minor tracks"):
        table[column] = table[column].astype(int)
    table["hours"] = [f"{hours:.2f}" for hours in table["hours"]]
    table = table[["source", "split", "tracks", "compositions", "minor tracks", "hours"]]
    return table, {
        f"{row.source}, {row.split} / {column}": [run_id] for row in table.itertuples() for column in table.columns[2:]
    }


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
    values = dict.fromkeys(columns, f"{100 * metrics['weighted_both']:.1f}")
    return {**row, **values}, {f"chance, uniform guess / {column}": [run_id] for column in columns}


def exclusions_table(profile: str, run_id: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Scores that the label audit left out, by source, reason and interval; and the trace of each cell."""
    left_out = pd.read_csv(paths.results_dir(profile) / "runs" / run_id / "exclusions.csv")
    interval = left_out["interval"].map(lambda value: "" if pd.isna(value) else f"{int(value)}")
    left_out = left_out.assign(**{"last note above the tonic (semitones)": interval})
    table = (
        left_out.groupby(["source", "reason", "last note above the tonic (semitones)"])
        .size()
        .reset_index(name="pieces")
    )
    return table, {f"{', '.join(row[:3])} / pieces": [run_id] for row in table.astype(str).to_numpy().tolist()}


def comparison_table(found: pd.DataFrame, n_train: int, against: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """`comparison` for people: a row a system, score and paired difference at each budget; and the trace of each cell."""
    rows, trace = [], {}
    for name, group in found.groupby("name", sort=False):
        row = {"system": name, "seeds": str(group["seeds"].iloc[0])}
        for cell in group.to_dict("records"):
            label = budget_label(cell["budget"], n_train)
            row[label] = with_interval(cell["score"], cell["low"], cell["high"])
            trace[f"{name}, {row['seeds']} / {label}"] = cell["run_ids"]
            if name != against:
                row[f"{label}, minus {against}"] = difference_cell(cell)
                trace[f"{name}, {row['seeds']} / {label}, minus {against}"] = cell["pair_ids"] or cell["run_ids"]
        rows.append(row)
    return pd.DataFrame(rows).fillna(""), trace


def difference_cell(cell: Mapping[str, Any]) -> str:
    """A paired difference of `comparison` with its interval and adjusted p, or that it was not run."""
    if not cell["shared"]:
        return NOT_RUN
    p = f"p {cell['p_holm']:.3f}" if cell["p_holm"] >= 0.001 else "p < 0.001"
    return f"{with_interval(cell['difference'], cell['d_low'], cell['d_high'], '+')}, {p}"


def cost_table(cost: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """`comparison_cost` for people, and the trace of each cell."""
    rows, trace = [], {}
    for cell in cost.sort_values("tflop", kind="stable").to_dict("records"):
        row = {
            "system": cell["name"],
            "steps": str(cell["steps"]),
            "TFLOP": f"{cell['tflop']:.1f}",
            "score": with_interval(cell["score"], cell["low"], cell["high"]),
        }
        rows.append(row)
        trace |= {f"{row['system']}, {row['steps']} / {column}": cell["run_ids"] for column in ("TFLOP", "score")}
    return pd.DataFrame(rows), trace


def property_table(values: pd.DataFrame, run_of: Mapping[str, str]) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """What each system's embedding tells of each property, with intervals; and the trace of each cell.

    Parameters
    ----------
    values : columns system, block, property, value, low, high; the last block of a system is its embedding.
    run_of : system -> run id.
    """
    rows, trace = [], {}
    for system, group in values.groupby("system", sort=False):
        row = {"system": system}
        for name, layers in group.groupby("property", sort=False):
            value, low, high = (100 * layers[column].iloc[-1] for column in ("value", "low", "high"))
            row[name] = f"{value:.0f} [{low:.0f}, {high:.0f}]"
            trace[f"{system} / {name}"] = [run_of[system]]
        rows.append(row)
    return pd.DataFrame(rows), trace


def transfer_table(found: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """`transfer_scores` for people, a row a system; and the trace of each cell."""
    rows, trace = [], {}
    for system, group in found.groupby("system", sort=False):
        row = {"system": system}
        for cell in group.to_dict("records"):
            row[cell["condition"]] = (
                f"{100 * cell['score']:.1f} ({with_interval(cell['difference'], cell['d_low'], cell['d_high'], '+')})"
            )
            trace[f"{system} / {cell['condition']}"] = cell["run_ids"]
        rows.append(row)
    return pd.DataFrame(rows), trace


def head_table(found: Mapping[str, pd.DataFrame], against: str) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Head ablations for people: a row a head, two columns an encoder (name -> what `comparison` returns); with trace."""
    rows, trace = {}, {}
    for encoder, table in found.items():
        for cell in table.to_dict("records"):
            row = rows.setdefault(cell["name"], {"head": cell["name"]})
            row[encoder] = with_interval(cell["score"], cell["low"], cell["high"])
            trace[f"{cell['name']} / {encoder}"] = cell["run_ids"]
            if cell["name"] != against:
                row[f"{encoder}, minus default"] = difference_cell(cell)
                trace[f"{cell['name']} / {encoder}, minus default"] = cell["pair_ids"]
    return pd.DataFrame(rows.values()).fillna(""), trace


def optimism_table(profile: str, run_ids: Sequence[str], n_train: int) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Test scores of the heads that validation and that the test score chose, averaged over seeds; and their trace."""
    rows, trace, groups = [], {}, {}
    for run in run_ids:
        config = results.config_of(profile, run)
        groups.setdefault((config["features"], config["head"], budget_label(config["budget"], n_train)), []).append(run)
    for names, ids in groups.items():
        found = [results.load_predictions(profile, run).sort_values("track_id") for run in ids]
        by_valid, by_test = (
            np.stack([table.loc[table["chosen_on"] == split, "score"] for table in found])
            for split in ("valid", "test")
        )
        compositions = found[0].loc[found[0]["chosen_on"] == "valid", "composition"].to_numpy()
        gap = paired_difference(by_test, by_valid, groups=compositions, seed=_BOOTSTRAP_SEED)
        row = dict(zip(("features", "head", "labels"), names))
        values = {
            "chosen on validation": f"{100 * by_valid.mean():.1f}",
            "chosen on test (not a result)": f"{100 * by_test.mean():.1f}",
            "optimism": with_interval(gap.difference, gap.low, gap.high, "+"),
        }
        rows.append({**row, **values, "seeds": len(ids)})
        trace |= {f"{', '.join(names)} / {column}": ids for column in values}
    return pd.DataFrame(rows), trace
