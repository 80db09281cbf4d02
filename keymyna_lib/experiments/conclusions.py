"""What may be concluded from stored results, by one rule for interval and p-value.

This module has the rule, the claims about objectives, references and designs, and the table; `pipeline_claims` has
those about the paper's own pipeline.

A claim says that one system is better than another, or better by more in one corpus than in another. It holds when the
95 % interval of the paired difference lies above zero and the p-value, Holm-adjusted over all lines of its family, is
below 0.05. It does not when the interval lies below zero and the adjusted p-value is below 0.05: then the opposite
holds. Otherwise it cannot be told; without runs it was not tested. There are two families, as of a trial's primary and
secondary endpoints: the question that the comparison was designed for, and everything else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments.encoder_study import ELSEWHERE, FREE, MASKED, NEAR, OBJECTIVES, TIMBRE, UNTRAINED
from keymyna_lib.experiments.pretext import MARK
from keymyna_lib.experiments.references import ESSENTIA, KEY_PROFILES, discriminants_of
from keymyna_lib.features import CHROMA, MEAN_MEL
from keymyna_lib.report import summaries
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, HOLDS, NOT_TESTED, budget_label, with_interval
from keymyna_lib.report.prose import listed
from keymyna_lib.report.runs import load_runs, name_elsewhere
from keymyna_lib.report.traced import TracedTable

ALPHA = 0.05
ENOUGH_SEEDS = 4  # with fewer, bootstrap intervals over seeds are too narrow


class Claim(NamedTuple):
    """The claim `text`: that system `better` beats system `worse`, both compared in the same notebook."""

    text: str
    better: str
    worse: str


_SUBJECT = "masked contrastive pre-training beats"
_WIDE = "under the wide MLP, "  # the paper's head; elsewhere, a logistic probe
OBJECTIVE_CLAIMS: tuple[Claim, ...] = (
    Claim(f"{_SUBJECT} no pre-training", MASKED, UNTRAINED),
    *(
        Claim(f"{_SUBJECT} {name} at equal steps", MASKED, name)
        for name in OBJECTIVES
        if name not in (MASKED, "supervised", *ELSEWHERE)
    ),
    Claim(f"{_SUBJECT} supervised training with every label", MASKED, "supervised"),
)
_FEATURES = (Claim(f"{_SUBJECT} the mean mel spectrum", MASKED, MEAN_MEL), Claim(f"{_SUBJECT} chroma", MASKED, CHROMA))
# What needs no pre-training, or no labels at all.
REFERENCE_CLAIMS: tuple[Claim, ...] = (
    *_FEATURES,
    Claim(f"{_SUBJECT} the best key profile", MASKED, KEY_PROFILES),
    Claim(f"{_SUBJECT} essentia", MASKED, ESSENTIA),
    *(Claim(f"{_SUBJECT} {name}", MASKED, name) for name in map(discriminants_of, (MEAN_MEL, UNTRAINED, MASKED))),
)
WIDE_CLAIMS: tuple[Claim, ...] = tuple(
    claim._replace(text=f"{_WIDE}{claim.text}") for claim in (*OBJECTIVE_CLAIMS, *_FEATURES)
)
_GAIN = "there is a gain over no pre-training: "
_STAYS = "where pieces keep their sound, "  # of the corpus beside, scope "piece"


def _gains(names: Sequence[str], where: str = "") -> tuple[Claim, ...]:
    return tuple(Claim(f"{where}{_GAIN}{name}", name, UNTRAINED) for name in names)


# Is there a gain at all? The free recordings under both heads; the other corpus, a control, under one.
_RECORDED = [name for name, (_, material) in ELSEWHERE.items() if material == FREE]
GAIN_CLAIMS = _gains([TIMBRE, NEAR, *ELSEWHERE])
WIDE_GAIN_CLAIMS = _gains([TIMBRE, NEAR, *_RECORDED], _WIDE)
STAYS_CLAIMS = _gains([MASKED, TIMBRE, NEAR, *ELSEWHERE], _STAYS)
WIDE_STAYS_CLAIMS = _gains([MASKED, TIMBRE, NEAR, *_RECORDED], f"{_WIDE}{_STAYS}")
# What masks cost or bring where crops are augmented.
MASK_CLAIMS: tuple[Claim, ...] = (
    Claim(f"with timbre augmentation, masks are better than whole crops: {TIMBRE}", TIMBRE, "augmented contrastive"),
)


# Designs of notebook 60 that are objectives of notebook 50, which has more seeds of them.
_AS_OBJECTIVES = {"mask ratio 0": "bare contrastive", f"crops within {OBJECTIVES[NEAR]['crop_distance']} frames": NEAR}


def design_claims(names: Sequence[str], objectives: Sequence[str] = (), default: str = "default") -> list[Claim]:
    """For every design that was run, the claim that the default beats it; `OBJECTIVE_CLAIMS` has the untrained one,
    and those that are among the `objectives` that were run."""
    elsewhere = {default, UNTRAINED, *(name for name, same in _AS_OBJECTIVES.items() if same in objectives)}
    return [Claim(f"the default design beats {name}", default, name) for name in names if name not in elsewhere]


# Of `summaries.interaction` between the corpora of scope "section" and "piece": what the comparison asks first.
SCOPE_CLAIM = (
    "masked contrastive pre-training gains more over no pre-training where instruments, room and tuning change within "
    "a piece than where they do not"
)
WIDE_SCOPE_CLAIM = f"{_WIDE}{SCOPE_CLAIM}"
FIRST, OTHERS = "first question", "other lines"  # the families
# What the abstract says of data sets that are not freely available.
STATE_OF_THE_ART = "the wide MLP on the frozen embedding beats all earlier systems on GiantSteps and Billboard"
ANY = "any"  # label budget of a claim that was tested at none
NO_LABELS = budget_label(None, 0)  # of one that is about no head
SCORE = "points of weighted score"  # the scale of a difference where nothing else is said
N_RESAMPLES = 20_000  # of each difference: Holm's correction multiplies the smallest p, 2 in so many, by the lines


def untested(text: str, scale: str = SCORE) -> dict[str, Any]:
    """The line of a claim without runs, as a row of `conclude`."""
    return {
        "claim": text,
        "labels": ANY,
        "seeds": 0,
        **dict.fromkeys(("difference", "low", "high", "p"), np.nan),
        "scale": scale,
        "run_ids": [],
        "mark": "",
        "family": OTHERS,
    }


def not_tested(text: str) -> pd.DataFrame:
    """The line of a claim that these runs cannot test, to be decided together with those of `conclude`."""
    return pd.DataFrame([untested(text)])


def conclude(
    claims: Sequence[Claim], found: pd.DataFrame, n_train: int, unlearned: Collection[str] = ()
) -> pd.DataFrame:
    """The evidence for every claim at every label budget at which it was tested.

    Parameters
    ----------
    claims : about systems of one comparison, `better` being the one that the others are compared with.
    found : what `summaries.comparison` returns.
    unlearned : systems that hardly learned their own task (see `pretext.unlearned`): their claims are marked.

    Returns
    -------
    Columns claim, labels, seeds (of pre-training, shared by both systems), difference, low, high (better minus worse),
    p (not adjusted), scale (what they are a hundredth of: SCORE, the weighted score in 0..1), run_ids, mark, family. A
    claim that was tested nowhere has one row: labels ANY, the numbers are missing and run_ids is empty.
    """
    rows = []
    for claim in claims:
        tested = [
            untested(claim.text)
            | {
                "labels": budget_label(cell["budget"], n_train),
                "seeds": cell["shared"],
                "difference": -cell["difference"],
                "low": -cell["d_high"],
                "high": -cell["d_low"],
                "p": cell["p"],
                "run_ids": cell["pair_ids"],
                "mark": MARK if {claim.better, claim.worse} & set(unlearned) else "",
            }
            for cell in found.to_dict("records")
            if cell["name"] == claim.worse and cell["shared"]
        ]
        rows += tested or [untested(claim.text)]
    return pd.DataFrame(rows)


def conclude_interaction(text: str, found: pd.DataFrame, n_train: int) -> pd.DataFrame:
    """The evidence for a claim about a difference of differences, to be decided together with that of `conclude`.

    Parameters
    ----------
    text : the claim, such as SCOPE_CLAIM.
    found : what `summaries.interaction` returns.

    Returns
    -------
    The columns of `conclude`, in one row without numbers where nothing was found or no seed is common; and by_seed, the
    difference of each seed, in 0..1.
    """
    rows = [
        {**untested(text), "labels": budget_label(cell.pop("budget"), n_train), **cell}
        for cell in found.to_dict("records")
        if cell["seeds"]
    ]
    return (pd.DataFrame(rows) if rows else not_tested(text)).assign(family=FIRST)


def at_equal_steps(runs: pd.DataFrame, *experiments: str) -> pd.DataFrame:
    """The runs of some experiments of notebook 50, at the number of steps at which systems are compared."""
    return summaries.at_equal_steps(runs[runs["experiment"].isin(experiments)])


def about_systems(
    claims: Sequence[Claim],
    profile: str,
    runs: pd.DataFrame,
    budgets: Sequence[int],
    n_train: int,
    unlearned: Collection[str] = (),
) -> pd.DataFrame:
    """`conclude` on some runs, at those of the label budgets that all of them were scored at.

    Parameters
    ----------
    claims : all with the same `better`.
    runs : rows of `runs.load_runs`, for `summaries.comparison`.
    """
    found, shown = pd.DataFrame(), summaries.common_budgets(runs, budgets)
    if claims and shown:
        found = summaries.comparison(profile, runs, shown, claims[0].better, n_resamples=N_RESAMPLES)
    return conclude(claims, found, n_train, unlearned)


def about_gains(
    claims: Sequence[Claim],
    profile: str,
    runs: pd.DataFrame,
    budgets: Sequence[int],
    n_train: int,
    unlearned: Collection[str] = (),
) -> pd.DataFrame:
    """`about_systems` on claims that differ in their better system, each from the runs of its two."""
    parts = []
    for claim in claims:
        pair = runs[runs["name"].isin([claim.better, claim.worse])]
        if pair["name"].nunique() == 2:
            parts.append(about_systems([claim], profile, pair, budgets, n_train, unlearned))
        else:
            parts.append(not_tested(claim.text))
    return pd.concat(parts, ignore_index=True)


def as_traced(evidence: pd.DataFrame, of: str, profile: str) -> pd.DataFrame:
    """Evidence from runs of profile `of`, with the runs as the traces of `profile` call them."""
    return evidence.assign(run_ids=[[name_elsewhere(run, of, profile) for run in runs] for runs in evidence["run_ids"]])


def about_scopes(
    text: str, here: tuple[str, pd.DataFrame], beside: tuple[str, pd.DataFrame], budgets: Sequence[int], n_train: int
) -> pd.DataFrame:
    """`conclude_interaction` on whether masked pre-training gains more in one profile than in another.

    Parameters
    ----------
    text : the claim.
    here, beside : each a profile and its runs of one experiment; the second may be empty.
    """
    both = pd.concat([here[1][["budgets"]], beside[1][["budgets"]]])
    shown = summaries.common_budgets(both, budgets) if len(beside[1]) else []
    found = summaries.interaction(here, beside, MASKED, UNTRAINED, shown, n_resamples=N_RESAMPLES)
    return conclude_interaction(text, found, n_train)


def runs_beside(profile: str, notebooks: Sequence[str]) -> pd.DataFrame:
    """What notebooks published in another profile, here or else as committed; empty, with a word why, if nothing.

    Parameters
    ----------
    profile : "" for none.
    """
    if profile:
        try:
            return load_runs(profile, notebooks, or_committed=True)
        except KeyMynaError as error:
            print(f"nothing to compare with: {error}")
    return pd.DataFrame(columns=["name", "experiment", "seed", "steps", "base_steps", "budgets", "scope", "run_id"])


def verdict(low: float, high: float, p_holm: float) -> str:
    """The rule, for the interval of "better minus worse" and its adjusted p-value; NaN stands for a pair not run."""
    if np.isnan(p_holm):
        return NOT_TESTED
    if p_holm >= ALPHA:
        return CANNOT_BE_TOLD
    return HOLDS if low > 0 else DOES_NOT if high < 0 else CANNOT_BE_TOLD


def decide(evidence: pd.DataFrame) -> pd.DataFrame:
    """The rows of `conclude`, all of a table together, with verdict, p_holm (adjusted over a family) and p_page
    (over all lines; it decides nothing).
    """

    by_family = evidence.groupby("family", sort=False)["p"]
    decided = evidence.assign(
        p_holm=by_family.transform(summaries.adjusted_p), p_page=summaries.adjusted_p(evidence["p"])
    )
    return decided.assign(verdict=[verdict(row.low, row.high, row.p_holm) for row in decided.itertuples()])


def seeds_warning(decided: pd.DataFrame) -> str:
    """A sentence for the caption where lines rest on fewer than ENOUGH_SEEDS seeds; empty where none does."""
    tested = decided[decided["verdict"] != NOT_TESTED]
    few = tested[tested["seeds"] < ENOUGH_SEEDS]
    if few.empty:
        return ""
    return (
        f"Warning: {len(few)} of the {len(tested)} lines tested rest on fewer than {ENOUGH_SEEDS} pre-training seeds. "
        "Their intervals are narrower than those of other seeds would have to be; one seed describes one pair of runs."
    )


def meaning(verdicts: Collection[str]) -> str:
    """What follows from the verdicts on SCOPE_CLAIM at the label budgets, in words that fit any of them."""
    if len(verdicts) > 1:
        return "How much the corpus decides depends on the number of labels: the first line has no single verdict."
    (one,) = verdicts
    return {
        HOLDS: (
            "The corpus decides: pre-training gains more where the sound changes within a piece, so that harmony is "
            "what tells that two crops belong together. What varies between two views decides what is learned."
        ),
        DOES_NOT: (
            "Pre-training gains less where the sound changes within a piece: the guess that timbre gives the pretext "
            "task away is refuted here."
        ),
        CANNOT_BE_TOLD: (
            "Whether the gain depends on what varies within a piece cannot be told from these runs; a sentence about "
            "pre-training then holds for the corpus that it was measured in."
        ),
        NOT_TESTED: "All lines are about one corpus. Whether they hold where the sound varies otherwise is not tested.",
    }[one]


def conclusions_table(decided: pd.DataFrame) -> TracedTable:
    """`decide` as text; cells of claims that were not tested are not traced.

    Parameters
    ----------
    decided : with a column notebook: where each line is from.
    """
    columns = ["claim", "labels", "seeds", "verdict", "evidence", "scale", "p", "pretext task", "notebook"]
    table = TracedTable(["claim", "labels", "seeds"], columns)
    for cell in decided.itertuples():
        row = table.row(cell.claim, cell.labels, str(cell.seeds))
        row.cell("notebook", cell.notebook)
        if cell.verdict == NOT_TESTED:
            row.cell("verdict", NOT_TESTED)
            continue
        row.cell("verdict", cell.verdict, cell.run_ids)
        row.cell("evidence", with_interval(cell.difference, cell.low, cell.high, "+"), cell.run_ids)
        row.cell("scale", cell.scale)
        row.cell("p", f"{cell.p_holm:.4f}", cell.run_ids)
        row.cell("pretext task", cell.mark)
    return table


def lines_of(rows: pd.DataFrame, claim: str) -> str:
    """What the rows of the table say of a claim, in words, at each label budget; a difference of scores has no unit."""

    def line(row: Any) -> str:
        if row.verdict == NOT_TESTED:
            return "not tested here"
        scale = "" if row.scale == SCORE else f" {row.scale}"
        said = f"it {row.verdict} ({row.evidence}{scale}, p {row.p}, pre-training seeds: {row.seeds})"
        return said if row.labels == NO_LABELS else f"with {row.labels}, {said}"

    return "; ".join(map(line, rows[rows["claim"] == claim].itertuples()))


def gains_of(rows: pd.DataFrame, claims: Sequence[Claim]) -> str:
    """What the rows of the table say of some gains, with the fewest labels that each was tested at."""
    said = []
    for claim in claims:
        row = rows[rows["claim"] == claim.text].iloc[0]
        if row["verdict"] != NOT_TESTED:
            said.append(f"{claim.better}, {row['evidence']}, {row['verdict']} ({row['labels']})")
    return "; ".join(said) or "not tested here"


def seed_by_seed(concluded: pd.DataFrame) -> str:
    """The first line's difference, one seed at a time, in points; with its p over all lines of the page."""
    first = concluded.iloc[0]
    if first["verdict"] == NOT_TESTED:
        return "not tested here"
    seeds = ", ".join(f"{100 * value:+.1f}" for value in first["by_seed"])
    return f"{seeds} with {first['labels']}; over all lines of the page, its p would be {first['p_page']:.4f}"


def claims_with(rows: pd.DataFrame, verdict: str) -> str:
    """The claims of the table that have a verdict, each with the label budgets at which it has it; "none"."""
    at = rows[rows["verdict"] == verdict].groupby("claim", sort=False)["labels"]
    named = (claim if set(labels) <= {ANY, NO_LABELS} else f"{claim} ({listed(labels)})" for claim, labels in at)
    return "; ".join(named) or "none"
