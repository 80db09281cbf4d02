"""The claims about the paper's own pipeline: heads, robustness, sensitivity to pitch; from what its notebooks stored.

Each function returns lines as `conclusions.conclude` does, with the notebook that they are from, to be decided together
with all others. Nothing is computed anew but paired differences, by the functions that those notebooks call. A claim
whose notebook has no runs is a line without numbers. All lines are of one pre-training run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments import geometry, robustness, supervised_cnn
from keymyna_lib.experiments.conclusions import N_RESAMPLES, NO_LABELS, Claim, conclude, untested
from keymyna_lib.experiments.encoder_study import MASKED
from keymyna_lib.experiments.pitch_probes import MEASURES, PROPERTIES
from keymyna_lib.experiments.robustness import MOVES, STAYS
from keymyna_lib.experiments.upstream import TRAINED, UNTRAINED
from keymyna_lib.features import CHROMA
from keymyna_lib.report import summaries
from keymyna_lib.report.intervals import budget_label
from keymyna_lib.report.runs import config_of, load_runs, run_file

LINEAR_PROBE, WIDE_MLP, ROBUSTNESS = "20_linear_probe", "30_wide_mlp", "40_robustness"
PITCH, HEADS = "55_pitch", "65_heads"
_LINEAR, _WIDE = "under the paper's linear probe, pre-training beats", "under the paper's wide MLP, pre-training beats"
HEAD_CLAIMS: dict[str, tuple[Claim, ...]] = {
    LINEAR_PROBE: (
        Claim(f"{_LINEAR} no pre-training", TRAINED, UNTRAINED),
        Claim(f"{_LINEAR} chroma", TRAINED, CHROMA),
        Claim(f"{_LINEAR} a supervised CNN", TRAINED, supervised_cnn.HEAD),
    ),
    WIDE_MLP: (Claim(f"{_WIDE} no pre-training", TRAINED, UNTRAINED), Claim(f"{_WIDE} chroma", TRAINED, CHROMA)),
}
SHIFTING_CLAIM = "pitch shifting helps the wide MLP on the pre-trained encoder"
SHARE = "% of tracks and changes"
NEAREST_CLAIM = "robust: after changes that keep the key, pre-training finds the clean version more often"
# By kind of change and measure of `robustness.measured`; more often than with the untrained encoder.
ROBUSTNESS_CLAIMS = {
    (STAYS, "retrieval"): NEAREST_CLAIM,
    (STAYS, "key (linear probe)"): "robust: after such changes, pre-training keeps the linear probe's key more often",
    (STAYS, "key (wide MLP)"): "robust: after such changes, pre-training keeps the wide MLP's key more often",
    (
        MOVES,
        "key (linear probe)",
    ): "sensitive to pitch: after pre-training, the linear probe's key follows a shift more often",
    (MOVES, "key (wide MLP)"): "sensitive to pitch: after pre-training, the wide MLP's key follows a shift more often",
}
COSINE = "cosine x 100"
FIFTH_CLAIM = "sensitive to pitch: the fifth is nearer than the semitone"
MORE_FIFTH_CLAIM = f"{FIFTH_CLAIM}, by more than without pre-training"
# Those of the probed properties that are of pitch.
PROPERTY_CLAIMS = {
    one.name: (
        f"sensitive to pitch: {one.name} is easier to read than without pre-training",
        f"{MEASURES[one.kind]} x 100",
    )
    for one in PROPERTIES
    if one.name in ("tonic", "mode", "chroma", "tuning", "register")
}


def runs_read(
    profile: str, notebooks: Sequence[str], like: pd.DataFrame, corpora: Collection[str]
) -> dict[str, pd.DataFrame]:
    """The runs of those notebooks that have run in a profile; the others are named, and the profile need not have them.

    Parameters
    ----------
    like : runs made by the code that counts: results of another version are left out.
    corpora : hashes of the corpora that count, likewise.
    """
    found = {}
    for notebook in notebooks:
        try:
            runs = load_runs(profile, [notebook])
        except KeyMynaError as error:
            print(f"not tested: {error}")
            continue
        if set(runs["code_hash"]) == set(like["code_hash"]) and set(runs["input_corpus"]) <= set(corpora):
            found[notebook] = runs
        else:
            print(
                f"not tested: notebook {notebook} ran with other code or on another corpus; run it again: "
                f"./run_all.sh --profile {profile} --only {notebook[:2]}"
            )
    return found


def evidence(
    profile: str, runs: Mapping[str, pd.DataFrame], compositions: Mapping[str, str], n_train: Mapping[str, int]
) -> pd.DataFrame:
    """The lines of all claims here.

    Parameters
    ----------
    runs : by notebook, what `runs_read` returns.
    compositions : by track, of all corpora.
    n_train : by task, its training tracks; that of the first is notebook 65's.
    """
    return pd.concat(
        [
            *(about_heads(profile, name, runs.get(name), n_train) for name in HEAD_CLAIMS),
            about_shifting(profile, runs.get(HEADS), next(iter(n_train.values()))),
            about_robustness(profile, runs.get(ROBUSTNESS), compositions, n_train),
            about_pitch(profile, runs.get(PITCH), compositions),
        ],
        ignore_index=True,
    )


def about_heads(profile: str, notebook: str, runs: pd.DataFrame | None, n_train: Mapping[str, int]) -> pd.DataFrame:
    """The lines of HEAD_CLAIMS of notebook 20 or 30, by task and label budget.

    Parameters
    ----------
    runs : its runs; None where it has not run.
    n_train : by task.
    """
    claims = HEAD_CLAIMS[notebook]
    if runs is None:
        return _from(notebook, conclude(claims, pd.DataFrame(), 0))
    network = runs["head"] == supervised_cnn.HEAD
    named = runs.assign(name=np.where(network, supervised_cnn.HEAD, runs["features"]))
    named = named[named["name"].isin([TRAINED, *(claim.worse for claim in claims)])]
    lines = []
    for task, ours in named.groupby("task", sort=False):
        budgets = list(dict.fromkeys(ours["budget"].astype(int)))
        found = summaries.head_comparison(profile, ours, budgets, TRAINED, n_resamples=N_RESAMPLES)
        about = claims if len(n_train) == 1 else [c._replace(text=f"{c.text} ({task})") for c in claims]
        lines.append(conclude(about, found, n_train[str(task)]))
    table = pd.concat(lines, ignore_index=True)
    return _from(notebook, table.assign(seeds=table["seeds"].clip(upper=1)))  # those were the heads'


def about_shifting(profile: str, runs: pd.DataFrame | None, n_train: int) -> pd.DataFrame:
    """The line of SHIFTING_CLAIM: notebook 65's default minus the row that it trained without shifted views."""
    claim, found = Claim(SHIFTING_CLAIM, "default", "none"), pd.DataFrame()
    if runs is not None:
        ours = runs[(runs["experiment"] == "head") & (runs["features"] == TRAINED)]
        default = ours["head"].str.startswith("default")
        unshifted = [list(shifts) == [0] for shifts in ours["shifts"]]
        named = ours.assign(name=np.select([default, unshifted], ["default", "none"], ""))
        budgets = list(dict.fromkeys(named["budget"].astype(int)))
        found = summaries.head_comparison(
            profile, named[named["name"] != ""], budgets, "default", n_resamples=N_RESAMPLES
        )
    table = conclude([claim], found, n_train)
    return _from(HEADS, table.assign(seeds=table["seeds"].clip(upper=1)))


def about_robustness(
    profile: str, runs: pd.DataFrame | None, compositions: Mapping[str, str], n_train: Mapping[str, int]
) -> pd.DataFrame:
    """The lines of ROBUSTNESS_CLAIMS: shares of tracks under all changes of a kind, paired over tracks."""
    if runs is None:
        return _untested(ROBUSTNESS, [(text, SHARE) for text in ROBUSTNESS_CLAIMS.values()])
    (run,) = runs.itertuples()
    means = pd.read_csv(run_file(profile, run.run_id, "by_track.csv"), dtype={"track": str})
    found = robustness.compared_by_track(
        means, TRAINED, UNTRAINED, by="features", groups=compositions, seed=run.seed
    ).set_index(["change", "measure"])
    heads = pd.read_csv(run_file(profile, run.run_id, "heads.csv"))
    budget = config_of(profile, heads["run_id"][0])["budget"]
    lines = [
        _line(
            text,
            budget_label(budget, n_train[run.task]) if kind[1].startswith("key") else NO_LABELS,
            found.loc[kind],
            SHARE,
            [run.run_id],
        )
        for kind, text in ROBUSTNESS_CLAIMS.items()
    ]
    return _from(ROBUSTNESS, pd.DataFrame(lines))


def about_pitch(profile: str, runs: pd.DataFrame | None, compositions: Mapping[str, str]) -> pd.DataFrame:
    """The lines about the circle of fifths, from notebook 55's cosines, and of PROPERTY_CLAIMS, as it published them.

    A version of the notebook that lacks one of the two leaves its claims untested.
    """
    runs = pd.DataFrame(columns=["experiment", "name", "run_id"]) if runs is None else runs
    of = {
        experiment: runs[runs["experiment"] == experiment].set_index("name")["run_id"].reindex([MASKED, UNTRAINED])
        for experiment in ("circle", "pitch")
    }
    lines = [untested(text, COSINE) for text in (FIFTH_CLAIM, MORE_FIFTH_CLAIM)]
    if of["circle"].notna().all():
        cosines = {
            name: pd.read_csv(run_file(profile, run, "cosines.csv"), dtype={"track_id": str})
            for name, run in of["circle"].items()
        }
        found = geometry.fifth_over_semitone(cosines, compositions, UNTRAINED, n_resamples=N_RESAMPLES)
        row = found.set_index("name").loc[MASKED]
        own = row[["value", "low", "high", "value_p"]].set_axis(["difference", "low", "high", "p"])
        more = row[["difference", "d_low", "d_high", "p"]].set_axis(own.index)
        lines = [
            _line(FIFTH_CLAIM, NO_LABELS, own, COSINE, [of["circle"][MASKED]]),
            _line(MORE_FIFTH_CLAIM, NO_LABELS, more, COSINE, list(of["circle"])),
        ]
    data = paths.figures_dir(profile) / "pitch_differences.csv"
    if of["pitch"].isna().any() or not data.exists():
        lines += [untested(text, scale) for text, scale in PROPERTY_CLAIMS.values()]
    else:
        found = pd.read_csv(data)
        found = found[found["system"] == MASKED].set_index("property")
        found = found.rename(columns={"d_low": "low", "d_high": "high"})
        labels = f"{config_of(profile, of['pitch'][MASKED])['probe_rows']} windows"
        lines += [
            _line(text, labels, found.loc[name], scale, list(of["pitch"]))
            for name, (text, scale) in PROPERTY_CLAIMS.items()
        ]
    return _from(PITCH, pd.DataFrame(lines))


def _line(text: str, labels: str, found: pd.Series, scale: str, run_ids: Sequence[str]) -> dict[str, Any]:
    """A row of `conclude` from a difference with its interval and p."""
    numbers = {name: float(found[name]) for name in ("difference", "low", "high", "p")}
    return {**untested(text, scale), "labels": labels, "seeds": 1, **numbers, "run_ids": list(run_ids)}


def _untested(notebook: str, claims: Sequence[tuple[str, str]]) -> pd.DataFrame:
    return _from(notebook, pd.DataFrame([untested(text, scale) for text, scale in claims]))


def _from(notebook: str, lines: pd.DataFrame) -> pd.DataFrame:
    return lines.assign(notebook=notebook.split("_")[0])
