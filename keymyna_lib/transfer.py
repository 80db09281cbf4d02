"""Heads that are tested on what they were not trained on: another repertoire, unheard instruments, louder noise.

Each condition names windows to train on, windows to test on, and windows for a control head that was trained where it
is tested. The head is the logistic probe of `efficiency`, on the mean of a track's windows of that kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from keymyna_lib.efficiency import logistic_curve
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.progress import bar
from keymyna_lib.probes import MIN_PURITY

CLEAN, NOISY = 10.0, 5.0  # dB: windows at least so clean to train on, at most so clean to test on


class Condition(NamedTuple):
    """Windows, (row,) bool each: those of a shifted head's training, of its test, and of the control's training."""

    name: str
    train: np.ndarray
    test: np.ndarray
    control: np.ndarray


def conditions(table: pd.DataFrame) -> Iterator[Condition]:
    """Every condition that the windows of `properties.window_properties` allow.

    Families of which a split holds no windows are passed over.
    """
    source, family, snr = (table[column].to_numpy() for column in ("source", "family", "snr"))
    for here, there in (("tune", "chorale"), ("chorale", "tune")):
        yield Condition(f"{here}s to {there}s", source == here, source == there, source == there)
    yield Condition("clean to noisy", snr >= CLEAN, snr <= NOISY, snr <= NOISY)
    for name in sorted(set(family)):
        test = (family == name) & (table["purity"] >= MIN_PURITY).to_numpy()
        if set(table["split"][test]) == set(table["split"]):
            # The control has heard the family among the others; nobody trains on one instrument alone.
            yield Condition(f"unheard: {name}", family != name, test, np.ones(len(table), bool))


def transfer(x, table: pd.DataFrame) -> pd.DataFrame:
    """Estimates of test tracks under every condition, by the head that was trained elsewhere and by its control.

    Parameters
    ----------
    x : (row, dim) window features, rows as in `table`.
    table : what `properties.window_properties` returns for all tracks.

    Returns
    -------
    One row a condition, head ("elsewhere" or "control") and test track: condition, head, track_id, reference, estimate,
    score (both fifths).

    Raises
    ------
    KeyMynaError
        When features and windows differ in number.
    """
    x = np.asarray(x, dtype=np.float64)
    if len(x) != len(table):
        raise KeyMynaError(f"{len(x)} rows of features for {len(table)} windows: give the same tracks to both.")
    keys = table.groupby("track_id")["key"].first()
    found = []
    for condition in bar(list(conditions(table)), desc="transfer", unit="condition"):
        for head, train in (("elsewhere", condition.train), ("control", condition.control)):
            sets = [_track_means(x, table, rows & (table["split"] == split).to_numpy())
                    for split, rows in (("train", train), ("valid", train), ("test", condition.test))]
            (x_train, train_ids), (x_valid, valid_ids), (x_test, test_ids) = sets
            estimates, _, _ = logistic_curve(x_train, keys[train_ids].to_numpy(), x_valid, keys[valid_ids].to_numpy(), x_test)
            reference = keys[test_ids].to_numpy()
            found.append(pd.DataFrame({"condition": condition.name, "head": head, "track_id": test_ids,
                                       "reference": reference, "estimate": estimates,
                                       "score": mirex_scores(reference, estimates, fifths="both")}))
    return pd.concat(found, ignore_index=True)


def _track_means(x: np.ndarray, table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean features of the tracks that have any of these rows, and their ids."""
    ids, number = np.unique(table["track_id"].to_numpy()[rows].astype(str), return_inverse=True)
    total = np.zeros((len(ids), x.shape[1]))
    np.add.at(total, number, x[rows])
    return total / np.bincount(number)[:, None], ids
