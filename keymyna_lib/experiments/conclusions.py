"""What may be concluded from stored results, by one rule for interval and p-value.

A claim says that one system is better than another, or better by more in one corpus than in another. It holds when the
95 % interval of the paired difference lies above zero and the p-value, Holm-adjusted over all claims of the table, is
below 0.05. It does not when the interval lies below zero and the adjusted p-value is below 0.05: then the opposite
holds. Otherwise it cannot be told; without runs it was not tested.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from keymyna_lib.evaluate import holm
from keymyna_lib.experiments.encoder_study import MASKED, OBJECTIVES, UNTRAINED
from keymyna_lib.report.intervals import CANNOT_BE_TOLD, DOES_NOT, HOLDS, NOT_TESTED, budget_label, with_interval
from keymyna_lib.report.traced import TracedTable

ALPHA = 0.05
ENOUGH_SEEDS = 4  # with fewer, bootstrap intervals over seeds are too narrow


class Claim(NamedTuple):
    """The claim `text`: that system `better` beats system `worse`, both compared in the same notebook."""

    text: str
    better: str
    worse: str


OBJECTIVE_CLAIMS: tuple[Claim, ...] = (
    Claim("masked contrastive pre-training beats no pre-training", MASKED, UNTRAINED),
    *(
        Claim(f"masked contrastive pre-training beats {name} at equal steps", MASKED, name)
        for name in OBJECTIVES
        if name not in (MASKED, "supervised")
    ),
    Claim("masked contrastive pre-training beats supervised training with every label", MASKED, "supervised"),
)


def design_claims(names: Sequence[str], default: str = "default") -> list[Claim]:
    """For every design that was run, the claim that the default beats it."""
    return [Claim(f"the default design beats {name}", default, name) for name in names if name != default]


# Of `summaries.interaction` between the corpora of scope "section" and "piece": what the comparison asks first.
SCOPE_CLAIM = (
    "masked contrastive pre-training gains more over no pre-training where instruments, room and tuning change within "
    "a piece than where they do not"
)


def conclude(claims: Sequence[Claim], found: pd.DataFrame, n_train: int) -> pd.DataFrame:
    """The evidence for every claim at every label budget.

    Parameters
    ----------
    claims : about systems of one comparison, `better` being the one that the others are compared with.
    found : what `summaries.comparison` returns.

    Returns
    -------
    Columns claim, labels, seeds (shared by both systems), difference, low, high (better minus worse, weighted score in
    0..1), p (not adjusted), run_ids. Without runs, the numbers are missing and run_ids is empty.
    """
    rows = []
    for claim in claims:
        for budget in dict.fromkeys(found["budget"]):
            row = {
                "claim": claim.text,
                "labels": budget_label(budget, n_train),
                "seeds": 0,
                "difference": np.nan,
                "low": np.nan,
                "high": np.nan,
                "p": np.nan,
                "run_ids": [],
            }
            for cell in found[(found["budget"] == budget) & (found["name"] == claim.worse)].to_dict("records"):
                row |= {
                    "seeds": cell["shared"],
                    "difference": -cell["difference"],
                    "low": -cell["d_high"],
                    "high": -cell["d_low"],
                    "p": cell["p"],
                    "run_ids": cell["pair_ids"],
                }
            rows.append(row)
    return pd.DataFrame(rows)


def conclude_interaction(text: str, found: pd.DataFrame, n_train: int) -> pd.DataFrame:
    """The evidence for a claim about a difference of differences, to be decided together with that of `conclude`.

    Parameters
    ----------
    text : the claim, such as SCOPE_CLAIM.
    found : what `summaries.interaction` returns.

    Returns
    -------
    The columns of `conclude`.
    """
    labels = [budget_label(budget, n_train) for budget in found["budget"]]
    return found.drop(columns="budget").assign(claim=text, labels=labels)[
        ["claim", "labels", "seeds", "difference", "low", "high", "p", "run_ids"]
    ]


def verdict(low: float, high: float, p_holm: float) -> str:
    """The rule, for the interval of "better minus worse" and its adjusted p-value; NaN stands for a pair not run."""
    if np.isnan(p_holm):
        return NOT_TESTED
    if p_holm >= ALPHA:
        return CANNOT_BE_TOLD
    return HOLDS if low > 0 else DOES_NOT if high < 0 else CANNOT_BE_TOLD


def decide(evidence: pd.DataFrame) -> pd.DataFrame:
    """The rows of `conclude`, all of a table together, with p_holm and verdict."""
    known = evidence["p"].notna().to_numpy()
    adjusted = np.full(len(evidence), np.nan)
    if known.any():
        adjusted[known] = holm(evidence["p"][known])
    decided = evidence.assign(p_holm=adjusted)
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


def conclusions_table(decided: pd.DataFrame) -> TracedTable:
    """`decide` as text; cells of claims that were not tested are not traced."""
    table = TracedTable(["claim", "labels", "seeds"], ["claim", "labels", "seeds", "verdict", "evidence", "p"])
    for cell in decided.itertuples():
        row = table.row(cell.claim, cell.labels, str(cell.seeds))
        if cell.verdict == NOT_TESTED:
            row.cell("verdict", NOT_TESTED)
            continue
        row.cell("verdict", cell.verdict, cell.run_ids)
        row.cell("evidence", with_interval(cell.difference, cell.low, cell.high, "+"), cell.run_ids)
        row.cell("p", f"{cell.p_holm:.4f}", cell.run_ids)
    return table
