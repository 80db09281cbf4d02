"""Stored runs in numbers: scores, intervals and paired differences, without any text (that is `tables`).

Scores are in 0..1; intervals are 95 % bootstraps.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.evaluate import (
    PairedDifference,
    bootstrap_interval,
    confusion,
    holm,
    mirex_scores,
    paired_difference,
    summary,
)
from keymyna_lib.report.intervals import UNDECIDED
from keymyna_lib.report.runs import config_of, load_metrics, load_predictions, name_elsewhere, run_file

SYSTEM = ["features", "head"]
TASK_SYSTEM = ["task", *SYSTEM]
_BOOTSTRAP_SEED, _N_RESAMPLES = 0, 20_000


def estimates_of(profile: str, run_id: str) -> pd.DataFrame:
    """Estimates of a run in long format: budget, draw, track_id, composition, source, reference, estimate.

    Runs of `encoder_study.record` hold many budgets and draws; those of a head study hold one, whose draw is the seed.
    """
    if not (path := run_file(profile, run_id, "estimates.csv")).exists():
        config = config_of(profile, run_id)
        return load_predictions(profile, run_id).assign(budget=config["budget"], draw=config["seed"])
    wide = pd.read_csv(path)
    long = wide.melt(["track_id", "source", "composition", "reference"], var_name="set", value_name="estimate")
    of_set = long.pop("set")
    for i, column in enumerate(("budget", "draw")):
        long[column] = of_set.map({name: int(name.split("/")[i]) for name in of_set.unique()})
    return long


def expect_complete(runs: pd.DataFrame) -> None:
    """Check that, in each task, every system with a trained head has one run per label budget and seed of the head.

    Raises
    ------
    KeyMynaError
        Naming the combination whose runs are missing or surplus.
    """
    trained = runs.dropna(subset="budget")
    counts = trained.groupby([*TASK_SYSTEM, "budget", "seed"]).size()
    for (task, head), group in trained.groupby(["task", "head"]):
        # A head may have seeds of its own: a network trained from its beginning costs more than a grid of heads.
        names = group["features"].unique(), trained["budget"].unique(), group["seed"].unique()
        for features, budget, seed in product(*names):
            if (found := counts.get((task, features, head, budget, seed), 0)) != 1:
                raise KeyMynaError(
                    f"{task}, {features}, {head}: {found} runs with {int(budget)} labels and seed {seed}, expected "
                    "one. Run its notebook again with --force, with the budgets and seeds of the others."
                )


def test_scores(profile: str, run_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(run, track) scores of some runs on the same tracks, and (track,) the compositions.

    Raises
    ------
    KeyMynaError
        When the runs were not scored on the same tracks.
    """
    tables = [load_predictions(profile, run).set_index("track_id") for run in run_ids]
    if any(set(table.index) != set(tables[0].index) for table in tables):
        raise KeyMynaError(f"runs {', '.join(run_ids)} were scored on different tracks; run their notebooks again.")
    return (
        np.stack([table.loc[tables[0].index, "score"].to_numpy() for table in tables]),
        tables[0]["composition"].to_numpy(),
    )


def systems(profile: str, runs: pd.DataFrame) -> pd.DataFrame:
    """One row per task, system and label budget: all metrics, the interval of the weighted score, the runs behind it.

    Parameters
    ----------
    runs : rows of `runs.load_runs`, of runs with test predictions.

    Returns
    -------
    Columns task, features, head, budget (missing for systems without training), n_seeds, n_tracks, n_train (training
    tracks of the task, missing likewise), weighted_both, low, high, weighted_ascending, accuracy, the shares of the
    MIREX classes, "weighted, <source>" for each source of test tracks and each extra test set, run_ids.
    """
    rows = []
    for (task, features, head, budget), group in runs.groupby([*TASK_SYSTEM, "budget"], dropna=False, sort=False):
        ids = list(group.sort_values("seed")["run_id"])
        tables = [load_predictions(profile, run) for run in ids]
        scores, compositions = test_scores(profile, ids)
        low, high = bootstrap_interval(scores, groups=compositions, seed=_BOOTSTRAP_SEED)
        metrics = pd.DataFrame([summary(t["reference"].to_numpy(), t["estimate"].to_numpy()) for t in tables]).mean()
        known = load_metrics(profile, ids)
        n_train = known.loc[known["metric"] == "labelled_tracks", "n"].max()
        by_source = (
            known[(known["metric"] == "weighted_both") & (known["dataset"] != "all")].groupby("dataset")["value"].mean()
        )
        rows.append(
            {
                "task": task,
                "features": features,
                "head": head,
                "budget": budget,
                "n_seeds": len(ids),
                "n_tracks": scores.shape[1],
                "n_train": n_train,
                **metrics,
                "low": low,
                "high": high,
                **by_source.add_prefix("weighted, "),
                "run_ids": ids,
            }
        )
    return pd.DataFrame(rows)


def kinds_of(manifest: pd.DataFrame) -> pd.DataFrame:
    """What each track of a synthetic corpus is, by track_id: material ("scores" or "songs") and scope ("scope piece").

    A column that does not vary, as in a corpus of scores alone or of one scope, is left out.

    Parameters
    ----------
    manifest : with columns source and scope.
    """
    kinds = pd.DataFrame(
        {
            "material": manifest["source"].map(lambda source: "songs" if source == "song" else "scores"),
            "scope": "scope " + manifest["scope"],
        }
    )
    return kinds.loc[:, kinds.nunique() > 1]


def by_kind(profile: str, runs: pd.DataFrame, kinds: pd.DataFrame) -> pd.DataFrame:
    """Weighted score of each system and label budget on test tracks of each kind, with intervals.

    Parameters
    ----------
    runs : rows of `runs.load_runs`, of runs with test predictions.
    kinds : by track_id, such as `kinds_of` returns; each column divides all tracks.

    Returns
    -------
    Columns task, features, head, budget, kind (column by column, in alphabetical order, then "all"), n_tracks,
    weighted_both, low, high, run_ids.

    Raises
    ------
    KeyMynaError
        When a track that was scored has no kind, or runs of one system were not scored on the same tracks.
    """
    rows = []
    for system, group in runs.groupby([*TASK_SYSTEM, "budget"], dropna=False, sort=False):
        ids = list(group.sort_values("seed")["run_id"])
        scores, compositions = test_scores(profile, ids)
        of_track = kinds.reindex(load_predictions(profile, ids[0])["track_id"])
        if of_track.isna().any(axis=None):
            raise KeyMynaError(f"run {ids[0]} was scored on tracks of another corpus; run its notebook again.")
        divided = [
            (kind, (of_track[name] == kind).to_numpy()) for name in kinds for kind in sorted(set(of_track[name]))
        ]
        for kind, ours in (*divided, ("all", np.ones(len(of_track), bool))):
            low, high = bootstrap_interval(scores[:, ours], groups=compositions[ours], seed=_BOOTSTRAP_SEED)
            rows.append(
                {
                    **dict(zip([*TASK_SYSTEM, "budget"], system)),
                    "kind": kind,
                    "n_tracks": int(ours.sum()),
                    "weighted_both": scores[:, ours].mean(),
                    "low": low,
                    "high": high,
                    "run_ids": ids,
                }
            )
    return pd.DataFrame(rows)


def differences(profile: str, table: pd.DataFrame, against: str, compared: str) -> pd.DataFrame:
    """Features `compared` minus features `against`, for each head and budget, paired over tracks and seeds.

    Resampled as by `comparison`, so that the same difference has the same interval in all tables.

    Returns
    -------
    Columns head, budget, difference, d_low, d_high, p, p_holm (adjusted over the rows), shared (the number of seeds),
    pair_ids (runs of both sides).
    """
    rows = []
    for (head, budget), group in table.dropna(subset="budget").groupby(["head", "budget"], sort=False):
        sides = group.set_index("features")["run_ids"]
        if compared not in sides or against not in sides:
            continue
        run_ids = [*sides[compared], *sides[against]]
        scores, compositions = test_scores(profile, run_ids)
        a, b = np.split(scores, 2)
        found = paired_difference(a, b, groups=compositions, n_resamples=_N_RESAMPLES, seed=_BOOTSTRAP_SEED)
        rows.append(
            {
                "head": head,
                "budget": budget,
                "difference": found.difference,
                "d_low": found.low,
                "d_high": found.high,
                "p": found.p,
                "shared": len(a),
                "pair_ids": run_ids,
            }
        )
    columns = ["head", "budget", "difference", "d_low", "d_high", "p", "shared", "pair_ids"]
    return adjusted(pd.DataFrame(rows, columns=columns))


def adjusted_p(p: pd.Series) -> pd.Series:
    """p-values, Holm-adjusted over those that are there; the others stay NaN."""
    known = p.notna()
    return pd.Series(holm(p[known]) if known.any() else [], p.index[known], dtype=float).reindex(p.index)


def adjusted(found: pd.DataFrame) -> pd.DataFrame:
    """Differences with p_holm: their p, adjusted over all rows that have one."""
    return found.assign(p_holm=adjusted_p(found["p"]) if len(found) else np.nan)


def source_difference(profile: str, run_ids: Sequence[str], against: Sequence[str], *, source: str) -> PairedDifference:
    """Score of some runs minus that of others on the test tracks of one source; each side is averaged over its runs."""

    def scores(runs: Sequence[str]) -> pd.DataFrame:
        tables = [load_predictions(profile, run) for run in runs]
        table = pd.concat([table[table["source"] == source] for table in tables])
        return table.groupby("track_id").agg({"score": "mean", "composition": "first"})

    a, b = scores(run_ids), scores(against)
    return paired_difference(a["score"], b["score"], groups=a["composition"].to_numpy(), seed=_BOOTSTRAP_SEED)


def mean_confusion(profile: str, run_ids: Sequence[str]) -> np.ndarray:
    """(24, 24) counts along the circle of fifths, averaged over the runs of a system."""
    tables = [load_predictions(profile, run) for run in run_ids]
    return np.mean([confusion(t["reference"].to_numpy(), t["estimate"].to_numpy()) for t in tables], axis=0)


def comparison_scores(profile: str, run_ids: Sequence[str], budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores of runs of one system at one label budget: (seed, draw, track), and (track,) compositions.

    Seeds and draws are in their order and tracks by id, so that two systems pair up. With all labels (budget 0) there
    is one draw, for the tracks are the same in each.
    """
    seeds, compositions = [], None
    for run in sorted(run_ids, key=lambda run: config_of(profile, run)["seed"]):
        estimates = estimates_of(profile, run)
        estimates = estimates[estimates["budget"] == budget].sort_values(["draw", "track_id"])
        draws = [table for _, table in estimates.groupby("draw")][: 1 if budget == 0 else None]
        if not draws:
            raise KeyMynaError(
                f"run {run} has no estimates with {budget} labels; add it to `budgets` and run its notebook again."
            )
        seeds.append(
            [
                mirex_scores(table["reference"].to_numpy(), table["estimate"].to_numpy(), fifths="both")
                for table in draws
            ]
        )
        compositions = draws[0]["composition"].to_numpy()
    return np.array(seeds), compositions


def comparison(
    profile: str, runs: pd.DataFrame, budgets: Sequence[int], against: str, *, n_resamples: int = _N_RESAMPLES
) -> pd.DataFrame:
    """Systems by label budget, each compared with one of them on the same tracks, seeds and draws.

    Parameters
    ----------
    runs : rows of `runs.load_runs` with name and seed, of runs of `encoder_study.record` or of a head study.
    budgets : label budgets; 0 for all.
    against : name of the system that the others are compared with.
    n_resamples : of the bootstrap; no p-value before Holm's correction is smaller than 2 / n_resamples.

    Returns
    -------
    Columns name, budget, seeds, score, low, high, run_ids; and for all but `against`, over the seeds that both have:
    shared (their number), difference (minus `against`), d_low, d_high, p, p_holm (adjusted over all rows of the table),
    pair_ids (runs of both). Missing where no seed is shared. Seeds, label draws and compositions are resampled; one
    seed says nothing about another pre-training run.
    """
    rows, ids = (
        [],
        {name: group.set_index("seed")["run_id"].to_dict() for name, group in runs.groupby("name", sort=False)},
    )
    scores_of = functools.cache(lambda budget, *runs: comparison_scores(profile, runs, budget))
    for budget, name in product(budgets, ids):
        scores, compositions = scores_of(budget, *ids[name].values())
        low, high = bootstrap_interval(scores, groups=compositions, seed=_BOOTSTRAP_SEED)
        row = {
            "name": name,
            "budget": budget,
            "seeds": len(ids[name]),
            "score": scores.mean(),
            "low": low,
            "high": high,
            "run_ids": list(ids[name].values()),
            "shared": 0,
            "pair_ids": [],
            **dict.fromkeys(("difference", "d_low", "d_high", "p"), np.nan),
        }
        shared = sorted(set(ids[name]) & set(ids.get(against, {})))
        if name != against and shared:
            ours, theirs = ([ids[side][seed] for seed in shared] for side in (name, against))
            (a, groups), (b, _) = (scores_of(budget, *side) for side in (ours, theirs))
            found = paired_difference(a, b, groups=groups, n_resamples=n_resamples, seed=_BOOTSTRAP_SEED)
            row |= {
                "shared": len(shared),
                "difference": found.difference,
                "d_low": found.low,
                "d_high": found.high,
                "p": found.p,
                "pair_ids": ours + theirs,
            }
        rows.append(row)
    return adjusted(pd.DataFrame(rows))


def head_comparison(
    profile: str, runs: pd.DataFrame, budgets: Sequence[int], against: str, *, n_resamples: int = _N_RESAMPLES
) -> pd.DataFrame:
    """`comparison` of heads that were trained with one label budget each: columns as there, over the seeds of both.

    Parameters
    ----------
    runs : rows of `runs.load_runs` with name, of one task, a run for each name, budget and seed.
    budgets, against, n_resamples : as for `comparison`; a name without runs at one of the budgets has no row there.
    """
    found = pd.concat(
        [
            comparison(profile, runs[runs["budget"] == budget], [budget], against, n_resamples=n_resamples)
            for budget in budgets
        ],
        ignore_index=True,
    )
    return adjusted(found)


def decided(found: pd.DataFrame, *, level: float = 0.05) -> pd.Series:
    """Which differences of `comparison` are "better" or "worse", and which "undecided".

    Decided is one whose adjusted p is below the level and whose interval excludes 0. Empty where nothing was compared.
    """
    sure = found["p_holm"] < level
    verdict = pd.Series(UNDECIDED, index=found.index)
    verdict[sure & (found["d_low"] > 0)] = "better"
    verdict[sure & (found["d_high"] < 0)] = "worse"
    return verdict.where(found["p_holm"].notna(), "")


def interaction(
    first: tuple[str, pd.DataFrame],
    second: tuple[str, pd.DataFrame],
    better: str,
    worse: str,
    budgets: Sequence[int],
    *,
    n_resamples: int = _N_RESAMPLES,
) -> pd.DataFrame:
    """How much more one system gains over another in one corpus than in a second one: a difference of differences.

    (better - worse in the first) - (better - worse in the second), paired over seeds, label draws and test tracks: the
    corpora have the same compositions and splits, and differ in how they sound. What they have in common, such as
    a fortunate initialisation or easy compositions, cancels out. Seeds, draws and compositions are resampled.

    Parameters
    ----------
    first, second : the profile that holds the runs of a corpus, and its runs as for `comparison`.
    better, worse : names of the systems.
    budgets : label budgets; 0 for all.
    n_resamples : as of `comparison`.

    Returns
    -------
    One row per budget: budget, seeds (that all four have), difference, low, high (in 0..1), p (not adjusted), run_ids
    (those of the second profile as `runs.name_elsewhere` has them), by_seed (the difference of each seed). Without a
    common seed, seeds is 0, run_ids and by_seed are empty and the numbers are missing.

    Raises
    ------
    KeyMynaError
        When the test tracks or label draws of the two corpora are not the same.
    """
    sides = [(profile, runs[runs["name"] == name]) for profile, runs in (first, second) for name in (better, worse)]
    by_seed = [runs.set_index("seed")["run_id"].to_dict() for _, runs in sides]
    shared = sorted(set.intersection(*map(set, by_seed)))
    ids = [[runs[seed] for seed in shared] for runs in by_seed]
    rows = []
    for budget in budgets:
        row = {
            "budget": budget,
            "seeds": len(shared),
            **dict.fromkeys(("difference", "low", "high", "p"), np.nan),
            "run_ids": [name_elsewhere(run, of, first[0]) for (of, _), some in zip(sides, ids) for run in some],
            "by_seed": [],
        }
        if shared:
            scored = [comparison_scores(profile, some, budget) for (profile, _), some in zip(sides, ids)]
            groups = scored[0][1]
            if any(s.shape != scored[0][0].shape or not np.array_equal(g, groups) for s, g in scored):
                raise KeyMynaError(
                    f"{better!r} and {worse!r} were not scored on the same test tracks and label draws in both "
                    "corpora; build both from the same scores, changing their scope alone."
                )
            a, b, c, d = (scores for scores, _ in scored)
            found = paired_difference(a - b, c - d, groups=groups, n_resamples=n_resamples, seed=_BOOTSTRAP_SEED)
            row |= found._asdict()
            row["by_seed"] = ((a - b) - (c - d)).mean(axis=tuple(range(1, a.ndim))).tolist()
        rows.append(row)
    return pd.DataFrame(rows)


def common_budgets(runs: pd.DataFrame, budgets: Sequence[int]) -> list[int]:
    """Those of some label budgets that every run of `encoder_study` was scored at; none without runs."""
    return [budget for budget in budgets if len(runs) and all(budget in of for of in runs["budgets"])]


def at_equal_steps(runs: pd.DataFrame) -> pd.DataFrame:
    """The untrained among runs of `encoder_study.record`, and those of as many steps as the default they vary."""
    return runs[(runs["steps"] == 0) | (runs["steps"] == runs["base_steps"])]


def comparison_cost(profile: str, runs: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Steps, counted operations and score at one label budget of runs of `encoder_study.record`, averaged over seeds.

    Returns
    -------
    Columns name (with the steps, where they are not those of the comparison), objective (the name alone), steps, tflop,
    valid (the score on validation tracks, by which a length may be chosen), score, low, high (on test tracks), run_ids.
    """
    rows, common = [], set(at_equal_steps(runs)["run_id"])
    for (name, steps), group in runs.groupby(["name", "steps"], sort=False):
        ids, steps = list(group["run_id"]), int(steps)
        metrics = load_metrics(profile, ids)
        chosen = (metrics["split"] == "valid") & (metrics["metric"] == "weighted_both") & (metrics["budget"] == budget)
        scores, compositions = comparison_scores(profile, ids, budget)
        low, high = bootstrap_interval(scores, groups=compositions, seed=_BOOTSTRAP_SEED)
        rows.append(
            {
                "name": name if common.issuperset(ids) else f"{name}, {steps} steps",
                "objective": name,
                "steps": steps,
                "tflop": metrics.loc[metrics["metric"] == "flops", "value"].mean() / 1e12,
                "valid": metrics.loc[chosen, "value"].mean(),
                "score": scores.mean(),
                "low": low,
                "high": high,
                "run_ids": ids,
            }
        )
    return pd.DataFrame(rows)


def transfer_scores(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """Scores under each condition of `transfer.transfer`, and paired differences to the control.

    The instrument families count as one condition, in which a track counts once for each family that it has.

    Returns
    -------
    Columns system, condition, tracks, score, low, high, control, difference, d_low, d_high, run_ids.
    """
    rows = []
    for run in run_ids:
        for condition, group in load_predictions(profile, run).groupby("condition", sort=False):
            heads = [
                group[group["head"] == head].sort_values(["family", "track_id"]) for head in ("elsewhere", "control")
            ]
            scores, control = (table["score"].to_numpy() for table in heads)
            compositions = heads[0]["composition"].to_numpy()
            low, high = bootstrap_interval(scores, groups=compositions, seed=_BOOTSTRAP_SEED)
            drop = paired_difference(scores, control, groups=compositions, seed=_BOOTSTRAP_SEED)
            rows.append(
                {
                    "system": config_of(profile, run)["name"],
                    "condition": condition,
                    "tracks": len(scores),
                    "score": scores.mean(),
                    "low": low,
                    "high": high,
                    "control": control.mean(),
                    "difference": drop.difference,
                    "d_low": drop.low,
                    "d_high": drop.high,
                    "run_ids": [run],
                }
            )
    return pd.DataFrame(rows)


def room(profile: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Validation scores of runs that bound what is possible, each with its interval.

    Parameters
    ----------
    runs : rows of `runs.load_runs`.

    Returns
    -------
    The rows with score, low, high.
    """
    found = []
    for run_id in runs["run_id"]:
        scores, compositions = test_scores(profile, [run_id])
        found.append((scores.mean(), *bootstrap_interval(scores, groups=compositions, seed=_BOOTSTRAP_SEED)))
    return runs.assign(**dict(zip(("score", "low", "high"), np.transpose(found))))


def optimism(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """Test scores of the heads that validation chose and of those that the test score itself would have chosen.

    Parameters
    ----------
    run_ids : runs of `head_study.optimism`.

    Returns
    -------
    One row per features, head and budget: these, chosen_on_valid, chosen_on_test (means over seeds), difference (test
    minus validation), low, high, run_ids.
    """
    groups: dict[tuple[str, str, int], list[str]] = {}
    for run in run_ids:
        config = config_of(profile, run)
        groups.setdefault((config["features"], config["head"], config["budget"]), []).append(run)
    rows = []
    for names, ids in groups.items():
        found = [load_predictions(profile, run).sort_values("track_id") for run in ids]
        by_valid, by_test = (
            np.stack([table.loc[table["chosen_on"] == split, "score"] for table in found])
            for split in ("valid", "test")
        )
        compositions = found[0].loc[found[0]["chosen_on"] == "valid", "composition"].to_numpy()
        gap = paired_difference(by_test, by_valid, groups=compositions, seed=_BOOTSTRAP_SEED)
        rows.append(
            {
                **dict(zip((*SYSTEM, "budget"), names)),
                "chosen_on_valid": by_valid.mean(),
                "chosen_on_test": by_test.mean(),
                "difference": gap.difference,
                "low": gap.low,
                "high": gap.high,
                "run_ids": ids,
            }
        )
    return pd.DataFrame(rows)
