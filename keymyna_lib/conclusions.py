"""What may be concluded from stored results, by one rule: a claim holds when the interval of its difference says so.

A claim is that one system is better than another. It holds when the 95 % interval of the paired difference lies above
zero, the opposite holds when it lies below, and otherwise the two are not told apart; a claim whose runs are absent is
"not run". No sentence here is written by hand but the claims themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from keymyna_lib.comparison import MASKED, OBJECTIVES, UNTRAINED
from keymyna_lib.tables import budget_label, with_interval

HOLDS, OPPOSITE, UNDECIDED, NOT_RUN = "holds", "the opposite holds", "not told apart", "not run"


class Claim(NamedTuple):
    """That `better` beats `worse`, in the words of `text`, among the systems that one notebook compares."""

    text: str
    better: str
    worse: str


OBJECTIVE_CLAIMS: tuple[Claim, ...] = (
    Claim("masked contrastive pre-training beats no pre-training", MASKED, UNTRAINED),
    *(Claim(f"masked contrastive pre-training beats {name} at equal steps", MASKED, name)
      for name in OBJECTIVES if name != MASKED),
)
DESIGN_CLAIMS: tuple[Claim, ...] = (
    Claim("hiding nine tenths of the patches beats hiding none", "default", "mask ratio 0"),
    Claim("hiding nine tenths of the patches beats hiding half", "default", "mask ratio 0.5"),
    Claim("vertical patches beat square ones", "default", "patches square"),
    Claim("vertical patches beat horizontal ones", "default", "patches horizontal"),
    Claim("vertical patches alone beat vertical and square ones together", "default", "patches hybrid"),
    Claim("a log-compressed spectrogram beats the linear one", "default", "input linear"),
    Claim("SogCLR beats InfoNCE", "default", "loss infonce"),
    Claim("a projection head helps", "default", "no projection head"),
)


def verdict(low: float, high: float) -> str:
    """The rule: what an interval of "better minus worse" says of a claim."""
    return HOLDS if low > 0 else OPPOSITE if high < 0 else UNDECIDED


def conclude(claims: Sequence[Claim], found: pd.DataFrame, against: str, n_train: int) -> pd.DataFrame:
    """Every claim at every label budget, with its evidence.

    Parameters
    ----------
    found : what `tables.comparison` returns for the systems, each set against `against`.
    against : the system of `tables.comparison`; every claim is about it.

    Returns
    -------
    Columns claim, labels, seeds, verdict, evidence (points of weighted score, better minus worse, with its interval),
    run_ids.
    """
    rows = []
    for claim in claims:
        sign, other = (-1, claim.worse) if claim.better == against else (1, claim.better)
        for budget in dict.fromkeys(found["budget"]):
            row = {"claim": claim.text, "labels": budget_label(budget, n_train), "seeds": 0, "verdict": NOT_RUN,
                   "evidence": "", "run_ids": []}
            cell = found[(found["budget"] == budget) & (found["name"] == other)].dropna(subset="difference")
            if len(cell):
                cell, = cell.to_dict("records")
                low, high = sorted((sign * cell["d_low"], sign * cell["d_high"]))
                row |= {"seeds": cell["seeds"], "verdict": verdict(low, high), "run_ids": cell["run_ids"],
                        "evidence": with_interval(sign * cell["difference"], low, high, "+")}
            rows.append(row)
    return pd.DataFrame(rows)


def conclusions_table(concluded: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """`conclude` for people, and the trace of each cell that says something."""
    table = concluded.drop(columns="run_ids").astype(str)
    trace = {f"{', '.join((row.claim, row.labels, str(row.seeds)))} / {column}": row.run_ids
             for row in concluded.itertuples() if row.run_ids for column in ("verdict", "evidence")}
    return table, trace
