"""Who is trained on, validated on and tested on, and which training tracks count as labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base import seeds
from keymyna_lib.base.errors import KeyMynaError

if TYPE_CHECKING:
    from keymyna_lib.corpus.corpus import Corpus


def budget_tracks(corpus: Corpus, budget: int, seed: int) -> list[str]:
    """Labelled training tracks of a budget: nested for a seed and stratified by key; 0 for all of them."""
    return label_budget(corpus.manifest.loc[corpus.tracks(split="train")], budget, seed=seed)


SPLITS = ("train", "valid", "test")


def assign_splits(table: pd.DataFrame, *, seed: int, fractions: Sequence[float] = (0.7, 0.15, 0.15)) -> pd.Series:
    """Split of each piece, by composition and stratified by source and mode as well as compositions allow.

    Compositions that hold an analysed chorale go to test. The others, largest first and else in random order,
    go where their strata lack most.

    Parameters
    ----------
    table : one row per piece with columns composition, source, key, analysed.
    fractions : shares of the pieces in `SPLITS`, summing to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise KeyMynaError(f"fractions={fractions!r}: give three shares for {SPLITS} that sum to 1.")
    strata = pd.crosstab(table.composition, [table.source, table.key.map(keys.mode).rename("mode")])
    order = strata.iloc[seeds.stream_of(seed, "splits").permutation(len(strata))]
    order = order.loc[order.sum(axis=1).sort_values(ascending=False, kind="stable").index]
    forced = set(table.composition[table.analysed])
    order = pd.concat([order[order.index.isin(forced)], order[~order.index.isin(forced)]])
    wanted = np.outer(fractions, strata.sum())
    missing = wanted.copy()
    split = {}
    for composition, counts in zip(order.index, order.to_numpy()):
        # Relative to what is wanted, so that the small splits fill as fast as the large one.
        need = (missing / np.maximum(wanted, 1e-9) * (wanted > 0)) @ counts
        choice = 2 if composition in forced else int(np.argmax(need))
        missing[choice] -= counts
        split[composition] = SPLITS[choice]
    return table.composition.map(split).rename("split")


def label_budget(train: pd.DataFrame, n: int, *, seed: int) -> list[str]:
    """The first n tracks of an order that takes the 24 keys in turn: larger budgets hold smaller ones.

    Parameters
    ----------
    train : training tracks, indexed by their ids, with a column key.
    n : how many; 0 = all.
    """
    if not 0 <= n <= len(train):
        raise KeyMynaError(f"a budget of {n} labels: there are {len(train)} tracks to train on; 0 takes all.")
    generator = seeds.stream_of(seed, "label budget")
    shuffled = train.key.iloc[generator.permutation(len(train))]
    turn = shuffled.groupby(shuffled).cumcount()
    key_order = pd.Series(generator.permutation(keys.N_KEYS))[shuffled].to_numpy()
    order = np.lexsort((key_order, turn))
    return list(shuffled.index[order][: n or None])
