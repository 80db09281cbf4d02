"""The tables as text: pure functions of stored runs, with every measured cell traced to the runs behind it.

Scores are averages over test tracks, in 0..1, shown times 100; intervals are 95 % bootstraps over compositions (the
settings of one tune are drawn together) and, where a system was trained with several seeds, over seeds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from keymyna_lib.report import published, summaries
from keymyna_lib.report.intervals import NOT_RUN, budget_label, difference_cell, with_interval
from keymyna_lib.report.runs import load_metrics, run_file
from keymyna_lib.report.summaries import SYSTEM
from keymyna_lib.report.traced import TracedTable


def main_table(table: pd.DataFrame, budgets: Sequence[int], n_train: int) -> TracedTable:
    """Systems by label budget: the weighted score and its interval in each cell.

    Systems without training have one score, shown in every column.
    """
    shown = TracedTable(SYSTEM)
    for system, group in table.groupby(SYSTEM, sort=False):
        row = shown.row(*system)
        for budget in budgets:
            label = budget_label(budget, n_train)
            found = group[(group["budget"] == budget) | group["budget"].isna()]
            if found.empty:
                row.cell(label, NOT_RUN)
                continue
            (cell,) = found.to_dict("records")
            row.cell(label, with_interval(cell["weighted_both"], cell["low"], cell["high"]), cell["run_ids"])
    return shown


def add_chance_row(table: TracedTable, profile: str, run_id: str) -> None:
    """Add a uniform guess to the main table, from the run that holds its closed form."""
    metrics = load_metrics(profile, [run_id]).set_index("metric")["value"]
    row = table.row("chance", "uniform guess")
    for column in table.columns[len(SYSTEM) :]:
        row.cell(column, f"{100 * metrics['weighted_both']:.1f}", [run_id])


_DETAIL = {
    "weighted_both": "weighted (both fifths)",
    "weighted_ascending": "weighted (ascending only)",
    "accuracy": "accuracy",
    "share_fifth": "fifth",
    "share_relative": "relative",
    "share_parallel": "parallel",
    "share_other": "other",
}


def detail_table(table: pd.DataFrame, n_train: int) -> TracedTable:
    """Every metric of every system and label budget."""
    by_source = [name for name in table if name.startswith("weighted, ") and table[name].notna().any()]
    shown = TracedTable([*SYSTEM, "labels"])
    for cell in table.to_dict("records"):
        row = shown.row(cell["features"], cell["head"], budget_label(cell["budget"], n_train))
        for metric, name in (*_DETAIL.items(), *zip(by_source, by_source)):
            if np.isnan(cell[metric]):
                row.cell(name, NOT_RUN)
            else:
                row.cell(name, f"{100 * cell[metric]:.1f}", cell["run_ids"])
        row.cell("interval", f"[{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]", cell["run_ids"])
        row.cell("seeds", cell["n_seeds"])
        row.cell("tracks", cell["n_tracks"])
    return shown


def kind_table(table: pd.DataFrame, n_train: int) -> TracedTable:
    """Systems and label budgets by kind of test track (see `summaries.by_kind`), with intervals."""
    shown = TracedTable([*SYSTEM, "labels"])
    for (features, head, budget), group in table.groupby([*SYSTEM, "budget"], dropna=False, sort=False):
        row = shown.row(features, head, budget_label(budget, n_train))
        for cell in group.to_dict("records"):
            column = f"{cell['kind']} ({cell['n_tracks']})"
            row.cell(column, with_interval(cell["weighted_both"], cell["low"], cell["high"]), cell["run_ids"])
    return shown


def difference_table(table: pd.DataFrame, n_train: int, column: str) -> TracedTable:
    """Paired differences (see `summaries.differences`) with interval and adjusted p, in `column`, and what they say."""
    shown = TracedTable(["head", "labels"])
    for cell, verdict in zip(table.to_dict("records"), summaries.decided(table)):
        row = shown.row(cell["head"], budget_label(cell["budget"], n_train))
        row.cell(column, difference_cell(cell), cell["pair_ids"])
        row.cell("verdict", verdict, cell["pair_ids"])
    return shown


# What stands here for a published system: features (an encoder of the hub goes by its repository), head, all labels.
_HERE = {"KeyMyna": ("pre-trained", "wide MLP"), "MERT-95M": ("MERT-v1-95M", "wide MLP")}
_TASK_OF = {"GiantSteps": "giantsteps", "Billboard": "billboard"}


def published_table(table: pd.DataFrame) -> TracedTable:
    """The numbers that others have published, with their sources, and beside them what was measured here.

    Parameters
    ----------
    table : of `summaries.systems`. A published row is measured where its data set is a task and its system was run;
        predictions of an outside system (see `scoring.outside_predictions`) count under the name of their file.
    """
    quoted = published.read()
    labels = ["system", "dataset", "metric"]
    shown = TracedTable(labels)
    for values in quoted.to_dict("records"):
        row = shown.row(*(values[label] for label in labels))
        for column in quoted.columns.drop(labels):
            row.cell(column, values[column])
        features, head = _HERE.get(values["system"], ("outside", values["system"]))
        found = table[
            (table["task"] == _TASK_OF.get(values["dataset"]))
            & (table["features"] == features)
            & (table["head"] == head)
            & (table["budget"].isna() | (table["budget"] == 0))
        ]
        if found.empty:
            row.cell("measured here", NOT_RUN)
            continue
        (cell,) = found.to_dict("records")
        score = (
            f"{100 * cell['accuracy']:.1f}"
            if values["metric"] == "accuracy"
            else f"{100 * cell['weighted_ascending']:.1f} ascending only, {100 * cell['weighted_both']:.1f} both"
        )
        row.cell("measured here", f"{score} ({cell['n_tracks']} tracks)", cell["run_ids"])
    return shown


def robustness_table(profile: str, run_id: str) -> TracedTable:
    """The robustness run's metrics, one row per augmentation."""
    metrics = load_metrics(profile, [run_id])
    wide = metrics.pivot_table(index="condition", columns=["metric", "features"], values="value", sort=False)
    shown = TracedTable(["augmentation"])
    for augmentation, values in wide.iterrows():
        row = shown.row(augmentation)
        for (measure, features), value in values.items():
            text = f"{value:.2f}" if "cosine" in measure else f"{100 * value:.0f}"
            row.cell(f"{measure}, {features}", text, [run_id])
    return shown


def corpus_table(profile: str, run_id: str) -> TracedTable:
    """Tracks, how many of them have scope "piece", compositions, minor tracks and hours by source and split."""
    metrics = load_metrics(profile, [run_id])
    wide = metrics.pivot(index=["dataset", "split"], columns="metric", values="value").reset_index()
    wide = wide.sort_values(
        ["dataset", "split"],
        key=lambda c: c.map({"train": 0, "valid": 1, "test": 2}).fillna(c) if c.name == "split" else c,
    )
    names = {"dataset": "source", "piece_tracks": "scope piece", "minor_tracks": "minor tracks"}
    table = wide.rename(columns=names).rename_axis(columns=None)
    for column in (counts := ["tracks", "scope piece", "compositions", "minor tracks"]):
        table[column] = table[column].astype(int)
    table["hours"] = [f"{hours:.2f}" for hours in table["hours"]]
    table = table[["source", "split", *counts, "hours"]]
    return TracedTable.of_runs(table, ["source", "split"], [run_id])


def room_table(profile: str, runs: pd.DataFrame, n_train: int) -> TracedTable:
    """Ceiling and floor on validation with their intervals."""
    names = {"ceiling": "key profile {head} on the notes", "floor": "{features}, {head}"}
    shown = TracedTable(["bound", "system", "labels"])
    for cell in summaries.room(profile, runs).to_dict("records"):
        row = shown.row(
            cell["experiment"], names[cell["experiment"]].format(**cell), budget_label(cell["budget"], n_train)
        )
        row.cell("validation", with_interval(cell["score"], cell["low"], cell["high"]), [cell["run_id"]])
    return shown


def exclusions_table(profile: str, run_id: str) -> TracedTable:
    """Number of scores that the label audit left out, by source, reason and interval of the last note."""
    left_out = pd.read_csv(run_file(profile, run_id, "exclusions.csv"))
    interval = left_out["interval"].map(lambda value: "" if pd.isna(value) else f"{int(value)}")
    labels = ["source", "reason", "last note above the tonic (semitones)"]
    table = left_out.assign(**{labels[-1]: interval}).groupby(labels).size().reset_index(name="pieces")
    return TracedTable.of_runs(table, labels, [run_id])


LEARNED = "learned of its task (not comparable between rows)"


def comparison_table(
    found: pd.DataFrame,
    n_train: int,
    against: str,
    learned: Mapping[str, tuple[str, Sequence[str]]] | None = None,
    unseeded: Collection[str] = (),
) -> TracedTable:
    """`summaries.comparison` as text: one row per system, score and paired difference at each label budget.

    Parameters
    ----------
    learned : system -> how far it came in its own task and the runs that say so, see `pretext.learned`; a last column.
    unseeded : systems that no seed changes: their runs of several seeds, there to pair up, are alike.
    """
    shown, columns = TracedTable(["system", "seeds"]), learned or {}
    for name, group in found.groupby("name", sort=False):
        row = shown.row(name, "–" if name in unseeded else str(group["seeds"].iloc[0]))
        for cell in group.to_dict("records"):
            label = budget_label(cell["budget"], n_train)
            row.cell(label, with_interval(cell["score"], cell["low"], cell["high"]), cell["run_ids"])
            if name != against:
                row.cell(f"{label}, minus {against}", difference_cell(cell), cell["pair_ids"] or cell["run_ids"])
        if name in columns:
            row.cell(LEARNED, *columns[str(name)])
    return shown


def cost_table(cost: pd.DataFrame) -> TracedTable:
    """`summaries.comparison_cost` as text, the cheapest first."""
    shown = TracedTable(["system", "steps"])
    for cell in cost.sort_values("tflop", kind="stable").to_dict("records"):
        row = shown.row(cell["name"], str(cell["steps"]))
        row.cell("TFLOP", f"{cell['tflop']:.1f}", cell["run_ids"])
        row.cell("validation", f"{100 * cell['valid']:.1f}", cell["run_ids"])
        row.cell("score", with_interval(cell["score"], cell["low"], cell["high"]), cell["run_ids"])
    return shown


def property_table(values: pd.DataFrame, run_of: Mapping[str, str]) -> TracedTable:
    """What each system's embedding tells of each property, with intervals.

    Parameters
    ----------
    values : columns system, block, property, value, low, high; the last block of a system is its embedding.
    run_of : system -> run id.
    """
    shown = TracedTable(["system"])
    for system, group in values.groupby("system", sort=False):
        row = shown.row(system)
        for name, layers in group.groupby("property", sort=False):
            value, low, high = (100 * layers[column].iloc[-1] for column in ("value", "low", "high"))
            row.cell(name, f"{value:.0f} [{low:.0f}, {high:.0f}]", [run_of[system]])
    return shown


def transfer_table(found: pd.DataFrame) -> TracedTable:
    """`summaries.transfer_scores` as text, one row per system: score and difference to the control."""
    shown = TracedTable(["system"])
    for system, group in found.groupby("system", sort=False):
        row = shown.row(system)
        for cell in group.to_dict("records"):
            difference = with_interval(cell["difference"], cell["d_low"], cell["d_high"], "+")
            row.cell(cell["condition"], f"{100 * cell['score']:.1f} ({difference})", cell["run_ids"])
    return shown


def head_table(found: Mapping[str, pd.DataFrame], against: str) -> TracedTable:
    """Head ablations as text: one row per head, two columns per encoder (name -> what `comparison` returns)."""
    shown, rows = TracedTable(["head"]), {}
    for encoder, table in found.items():
        for cell in table.to_dict("records"):
            row = rows.get(cell["name"]) or rows.setdefault(cell["name"], shown.row(cell["name"]))
            row.cell(encoder, with_interval(cell["score"], cell["low"], cell["high"]), cell["run_ids"])
            if cell["name"] != against:
                row.cell(f"{encoder}, minus default", difference_cell(cell), cell["pair_ids"])
    return shown


def optimism_table(profile: str, run_ids: Sequence[str], n_train: int) -> TracedTable:
    """`summaries.optimism` as text."""
    shown = TracedTable([*SYSTEM, "labels"])
    for cell in summaries.optimism(profile, run_ids).to_dict("records"):
        row, runs = shown.row(cell["features"], cell["head"], budget_label(cell["budget"], n_train)), cell["run_ids"]
        row.cell("chosen on validation", f"{100 * cell['chosen_on_valid']:.1f}", runs)
        row.cell("chosen on test (not a result)", f"{100 * cell['chosen_on_test']:.1f}", runs)
        row.cell("optimism", with_interval(cell["difference"], cell["low"], cell["high"], "+"), runs)
        row.cell("seeds", len(runs))
    return shown


CARD_MEASURES = ("weighted_both", "accuracy", "answered", "halves agree", "moves with a transposition")


def card_table(cards: Mapping[str, Mapping[str, Any]], run_id: str) -> TracedTable:
    """Cards of key models side by side: their scores on what they were not chosen on, times 100.

    Parameters
    ----------
    cards : model -> what `recipe.write_card` wrote.
    run_id : the run that names the cards' commands and commits.
    """
    shown = TracedTable(["set", "measure"], ["set", "measure", *cards])
    found = {
        (one["set"], one["measure"], name): one
        for name, card in cards.items()
        for one in card["scores"]
        if one["measure"] in CARD_MEASURES and not one["set"].startswith("valid") and one["value"] is not None
    }
    for labels in dict.fromkeys(key[:2] for key in found):
        row = shown.row(*labels)
        for name in cards:
            one = found.get((*labels, name))
            if one is None:
                row.cell(name, NOT_RUN)
            elif one["low"] is None:
                row.cell(name, f"{100 * one['value']:.1f}", [run_id])
            else:
                row.cell(name, with_interval(one["value"], one["low"], one["high"]), [run_id])
    return shown
