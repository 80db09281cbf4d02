"""What an embedding knows by its geometry alone: the circle of fifths, and how many directions it uses.

Music a fifth higher shares six of its seven scale notes, music a tritone away two. An embedding of pitch content
therefore lies close to that of the transposition by a fifth and far from that by a semitone, although the semitone
moves each note least; one of register or timbre does the opposite. The measures are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.evaluate import bootstrap_interval, group_means, holm, paired_difference
from keymyna_lib.experiments.transposition import paired_windows
from keymyna_lib.features import Features

_BOOTSTRAP_SEED = 0
FIFTH, SEMITONE = 1, 5  # steps along the circle


def circle_steps(semitones: int) -> int:
    """Least number of steps along the circle of fifths that a transposition is away, 0..6.

    >>> [circle_steps(n) for n in (0, -5, 5, 7, 2, 3, 4, 1, 6)]
    [0, 1, 1, 1, 2, 3, 4, 5, 6]
    """
    steps = 7 * semitones % 12
    return min(steps, 12 - steps)


def transposition_cosines(features: Features, track_ids: Sequence[str], shifts: Sequence[int]) -> pd.DataFrame:
    """Cosine between each track's embedding and that of each of its transpositions.

    An embedding is the mean of the windows that the shifted views hold, the same windows of the recording itself. The
    mean over all tracks and transpositions is subtracted first, for what all embeddings share tells nothing.

    Parameters
    ----------
    features : what `features.add_shifted` returns; holds these views of these tracks.
    track_ids : two or more.
    shifts : semitones; 0 is passed over.

    Returns
    -------
    One row per track and shift; columns track_id, shift, steps (see `circle_steps`), cosine.

    Raises
    ------
    KeyMynaError
        When there is no shift or fewer than two tracks, a view was not extracted, or an embedding is the mean.
    """
    wanted = [shift for shift in shifts if shift != 0]
    if not wanted or len(track_ids) < 2:
        raise KeyMynaError(f"shifts {list(shifts)} of {len(track_ids)} tracks: give one other than 0, and two tracks.")
    means = {}
    for shift in wanted:
        plain, moved, track = paired_windows(features, track_ids, shift)
        means[shift] = group_means(plain, track), group_means(moved, track)
    centre = np.mean(list(means.values()), axis=(0, 1, 2))
    rows = []
    for shift, both in means.items():
        plain, moved = (one - centre for one in both)
        lengths = np.linalg.norm(plain, axis=1) * np.linalg.norm(moved, axis=1)
        if not lengths.all():
            raise KeyMynaError(f"the embeddings shifted by {shift} semitones are all alike: they have no direction.")
        rows.append(
            pd.DataFrame(
                {
                    "track_id": list(track_ids),
                    "shift": shift,
                    "steps": circle_steps(shift),
                    "cosine": (plain * moved).sum(axis=1) / lengths,
                }
            )
        )
    return pd.concat(rows, ignore_index=True)


def circle_profile(cosines: Mapping[str, pd.DataFrame], compositions: Mapping[str, str]) -> pd.DataFrame:
    """Mean cosine at each distance along the circle of fifths, with 95 % intervals over compositions.

    Parameters
    ----------
    cosines : by the system's name, what `transposition_cosines` returns.
    compositions : of each track; those of one composition are resampled together.

    Returns
    -------
    One row per system and number of steps; columns name, steps, cosine, low, high.
    """
    rows = []
    for name, found in cosines.items():
        for steps, group in found.groupby("steps"):
            of_track = group.groupby("track_id", sort=False)["cosine"].mean()
            groups = [compositions[track] for track in of_track.index]
            low, high = bootstrap_interval(of_track.to_numpy(), groups=groups, seed=_BOOTSTRAP_SEED)
            rows.append({"name": name, "steps": steps, "cosine": of_track.mean(), "low": low, "high": high})
    return pd.DataFrame(rows)


def fifth_over_semitone(
    cosines: Mapping[str, pd.DataFrame], compositions: Mapping[str, str], against: str, *, n_resamples: int = 20_000
) -> pd.DataFrame:
    """How much nearer the transposition by a fifth is than that by a semitone, which moves each note least.

    The cosine to the former minus that to the latter, each a track's mean over shifts up and down: above 0 where notes
    in common count, below 0 where the distance in frequency does.

    Parameters
    ----------
    cosines, compositions : as for `circle_profile`; the same tracks for every system.
    against : the system that the others are compared with.
    n_resamples : of the paired bootstrap.

    Returns
    -------
    One row per system: name, value, low, high (95 % interval over compositions), value_p (that it is 0), and for all
    but `against` the paired difference from it: difference, d_low, d_high, p, p_holm (adjusted over all rows).

    Raises
    ------
    KeyMynaError
        When a system has other tracks than `against`, or there are no shifts by a fifth or by a semitone.
    """
    of_track = {}
    for name, found in cosines.items():
        by_steps = found.groupby(["track_id", "steps"])["cosine"].mean().unstack()
        if not {FIFTH, SEMITONE} <= set(by_steps):
            raise KeyMynaError(f"{name!r}: shifts {sorted(set(found['shift']))}: expected a fifth and a semitone.")
        of_track[name] = by_steps[FIFTH] - by_steps[SEMITONE]
    rows, seed = [], _BOOTSTRAP_SEED
    for name, values in of_track.items():
        if not values.index.equals(of_track[against].index):
            raise KeyMynaError(f"{name!r} and {against!r}: expected cosines of the same tracks.")
        groups = [compositions[track] for track in values.index]
        own = paired_difference(values, np.zeros(len(values)), groups=groups, n_resamples=n_resamples, seed=seed)
        row = {"name": name, **dict(zip(("value", "low", "high", "value_p"), own))}
        row |= dict.fromkeys(("difference", "d_low", "d_high", "p"), np.nan)
        if name != against:
            more = paired_difference(values, of_track[against], groups=groups, n_resamples=n_resamples, seed=seed)
            row |= zip(("difference", "d_low", "d_high", "p"), more)
        rows.append(row)
    table = pd.DataFrame(rows)
    known = table["p"].notna()
    table.loc[known, "p_holm"] = holm(table.loc[known, "p"])
    return table


def effective_rank(x: np.ndarray | Tensor) -> float:
    """How many directions embeddings use: the exponential of the entropy of their singular values, each a share.

    Of the centred rows (Roy and Vetterli, The effective rank, EUSIPCO 2007; as RankMe, Garrido et al., ICML 2023, but
    centred, so that a common offset does not count). It is between 1 and the number of features.

    Parameters
    ----------
    x : (row, dim) finite features.

    Raises
    ------
    KeyMynaError
        When they are not finite, or all rows are alike.
    """
    rows = torch.as_tensor(x, dtype=torch.float64)
    if rows.ndim != 2 or not rows.isfinite().all():
        raise KeyMynaError(f"embeddings {tuple(rows.shape)}: expected finite (row, dim).")
    values = torch.linalg.svdvals(rows - rows.mean(dim=0))
    if values.sum() <= 1e-12 * max(1.0, rows.abs().max()):
        raise KeyMynaError("the embeddings are all alike: they have no rank.")
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
