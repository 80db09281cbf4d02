"""Numbers that others have published, and how far chance alone moves them.

The list is published.csv, each value with its citation and place.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

PAPER, UNKNOWN = "KeyMyna", "not known"
TRACKS = {"GiantSteps": 604}  # test tracks of the literature: Knees et al., ISMIR 2015
_CREDITS = (0.2, 0.5)  # of near misses, the least and the most


def read() -> pd.DataFrame:
    """The rows of published.csv, all of them text."""
    return pd.read_csv(Path(__file__).with_name("published.csv"), keep_default_na=False, dtype=str)


def standard_error(weighted: float, accuracy: float, n_tracks: int) -> tuple[float, float]:
    """Bounds of the standard error of a MIREX weighted score, from the score and the accuracy alone.

    A track scores 1 with probability `accuracy`, and near misses make up the rest of the mean, each worth 0.2 to 0.5.
    So its mean square lies between accuracy + 0.2 rest and accuracy + 0.5 rest, and the variance is that minus the
    squared mean.

    Parameters
    ----------
    weighted, accuracy : of a test set, in 0..1, the accuracy not the larger.
    n_tracks : of the test set, taken as drawn independently.

    Returns
    -------
    The least and the largest standard error, in 0..1.
    """
    rest = weighted - accuracy
    low, high = (np.sqrt((accuracy + credit * rest - weighted**2) / n_tracks) for credit in _CREDITS)
    return float(low), float(high)


def margins(published: pd.DataFrame) -> pd.DataFrame:
    """The paper's weighted scores beside the best other system that its Table 1 lists for the data set.

    Parameters
    ----------
    published : as `read` returns it.

    Returns
    -------
    One row per data set of the paper, text as published: dataset, KeyMyna, best other, its score, margin (in points),
    tracks, standard error (of the paper's score, in points: the middle of its bounds). "not known" where the number of
    tracks is not in TRACKS.
    """
    quoted = published["place"].str.contains("Table 1")
    scores = published[quoted & (published["metric"] == "weighted score")]
    accuracies = published[published["metric"] == "accuracy"].set_index(["system", "dataset"])["value"]
    rows = []
    for ours in scores[scores["system"] == PAPER].itertuples():
        others = scores[(scores["dataset"] == ours.dataset) & (scores["system"] != PAPER)]
        best = others.loc[others["value"].astype(float).idxmax()]
        error, n_tracks = UNKNOWN, TRACKS.get(ours.dataset)
        if n_tracks:
            accuracy = float(accuracies[PAPER, ours.dataset])
            error = f"{100 * np.mean(standard_error(float(ours.value) / 100, accuracy / 100, n_tracks)):.1f}"
        rows.append(
            {
                "dataset": ours.dataset,
                PAPER: ours.value,
                "best other": best["system"],
                "its score": best["value"],
                "margin": f"{float(ours.value) - float(best['value']):+.2f}",
                "tracks": str(n_tracks or UNKNOWN),
                "standard error": error,
            }
        )
    return pd.DataFrame(rows)
