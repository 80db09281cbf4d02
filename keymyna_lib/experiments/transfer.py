"""Heads tested on what they were not trained on: another repertoire, unheard instruments, louder noise.

Each condition names windows to train on, windows to test on, and windows for a control head trained on what it is
tested on, with as many tracks. The head is the logistic probe of `label_efficiency`, on the mean of a track's windows
of that kind. Only the head has not heard them: the encoder was pre-trained on everything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.corpus.rendered.build import SONG
from keymyna_lib.evaluate import group_means, mirex_scores
from keymyna_lib.experiments.label_efficiency import logistic_curve
from keymyna_lib.experiments.pitch_probes import MIN_PURITY

CLEAN, NOISY = 10.0, 5.0  # dB SNR: train on windows of at least CLEAN, test on windows of at most NOISY


class Condition(NamedTuple):
    """Windows, (row,) bool each: those of a shifted head's training, of its test, and of the control's training.

    `family` is the instrument family that is tested, where the condition is about one.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    control: np.ndarray
    family: str = ""


def conditions(table: pd.DataFrame) -> Iterator[Condition]:
    """Every condition that the windows of `window_truth.window_properties` allow.

    Repertoires are chorales and tunes and, where there are songs, scores and songs. Instrument families without windows
    in some split are left out.
    """
    source, family, families, snr = (table[column].to_numpy() for column in ("source", "family", "families", "snr"))
    for here, there in (("tune", "chorale"), ("chorale", "tune")):
        yield Condition(f"{here}s to {there}s", source == here, source == there, source == there)
    if (songs := source == SONG).any():
        yield Condition("scores to songs", ~songs, songs, songs)
        yield Condition("songs to scores", songs, ~songs, ~songs)
    yield Condition("clean to noisy", snr >= CLEAN, snr <= NOISY, snr <= NOISY)
    for name in sorted(set(family)):
        test = (family == name) & (table["purity"] >= MIN_PURITY).to_numpy()
        without = np.array([name not in heard.split("+") for heard in families])
        if set(table["split"][test]) == set(table["split"]):
            # The control has heard the family among the others; nobody trains on one instrument alone.
            yield Condition("unheard instrument", without, test, np.ones(len(table), bool), name)


def transfer(x, table: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Estimates of test tracks under every condition, by the head trained elsewhere and by its control.

    Parameters
    ----------
    x : (row, dim) window features, rows as in `table`.
    table : what `window_truth.window_properties` returns for all tracks.
    rng : draws the tracks of the larger of two training (and validation) sets down to the size of the smaller.

    Returns
    -------
    One row per condition, family, head ("elsewhere" or "control") and test track: condition, family (empty where the
    condition is not about one), head, track_id, reference, estimate, score (both fifths), n_train (labelled tracks).

    Raises
    ------
    KeyMynaError
        When features and windows differ in number, or a condition lacks tracks.
    """
    x = np.asarray(x, dtype=np.float64)
    if len(x) != len(table):
        raise KeyMynaError(f"{len(x)} rows of features for {len(table)} windows: give the same tracks to both.")
    keys = table.groupby("track_id")["key"].first()
    found = []
    for condition in bar(list(conditions(table)), desc="transfer", unit="condition"):
        x_test, test = _track_means(x, table, condition.test & (table["split"] == "test").to_numpy())
        reference = keys[test].to_numpy()
        sets = {
            (head, split): _track_means(x, table, rows & (table["split"] == split).to_numpy())
            for head, rows in (("elsewhere", condition.train), ("control", condition.control))
            for split in ("train", "valid")
        }
        if not len(test) or not all(len(ids) for _, ids in sets.values()):
            raise KeyMynaError(
                f"{condition.name} {condition.family}".rstrip()
                + ": some split has no such track; take more tracks (n_tracks, 0 for all)."
            )
        # More labels alone would make a head better.
        sizes = {
            split: min(len(sets[head, split][1]) for head in ("elsewhere", "control")) for split in ("train", "valid")
        }
        for head in ("elsewhere", "control"):
            chosen = {
                split: np.sort(rng.permutation(len(sets[head, split][1]))[:size]) for split, size in sizes.items()
            }
            (x_train, y_train), (x_valid, y_valid) = (
                (sets[head, split][0][rows], keys[sets[head, split][1][rows]].to_numpy())
                for split, rows in chosen.items()
            )
            estimates, _, _ = logistic_curve(x_train, y_train, x_valid, y_valid, x_test)
            found.append(
                pd.DataFrame(
                    {
                        "condition": condition.name,
                        "family": condition.family,
                        "head": head,
                        "track_id": test,
                        "reference": reference,
                        "estimate": estimates,
                        "score": mirex_scores(reference, estimates, fifths="both"),
                        "n_train": sizes["train"],
                    }
                )
            )
    return pd.concat(found, ignore_index=True)


def _track_means(x: np.ndarray, table: pd.DataFrame, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean features (track, dim) of the tracks that have any of these rows (row,), and their ids (track,)."""
    ids, number = np.unique(table["track_id"].to_numpy()[rows].astype(str), return_inverse=True)
    return group_means(x[rows], number), ids
