"""Transposition in embedding space and at test time: two further uses of pitch-shifted views.

The public code of the paper can augment embeddings by learned bias-free linear maps, one for each shift; here the maps
are fitted by least squares on unlabelled training tracks. At test time, a head can be asked about shifted views of a
recording too, each answer transposed back, and the answers averaged (an independent re-run of the paper gained most
from this).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.embed import Features
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.evaluate import track_predictions
from keymyna_lib.heads import TrainedHead
from keymyna_lib.keys import N_KEYS, transpose

RIDGE = 1e-3  # of the mean squared feature; keeps the maps finite where features depend on each other


def fit_shift_maps(features: Features, track_ids: Sequence[str], shifts: Sequence[int]) -> dict[int, Tensor]:
    """For each shift the linear map from a window's embedding to that of the shifted window, without labels.

    Parameters
    ----------
    features : what `embed.add_shifted` returns; holds the shifted views of these tracks.
    shifts : semitones; 0 is the identity.

    Returns
    -------
    shift -> (dim, dim) float32: a row vector times the map is the shifted embedding.
    """
    maps = {0: torch.eye(features.x.shape[1])}
    for shift in shifts:
        if shift != 0:
            source, target = _pairs(features, track_ids, shift)
            gram = source.T @ source
            gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
            maps[shift] = torch.linalg.solve(gram, source.T @ target).float()
    return maps


def _pairs(features: Features, track_ids: Sequence[str], shift: int) -> tuple[Tensor, Tensor]:
    """(row, dim) float64 windows and what they are when shifted; a view holds few windows, spread over the track."""
    plain, view = features.select(track_ids), features.select(track_ids, [shift])
    sizes, kept = (torch.bincount(rows.track, minlength=len(track_ids)).numpy() for rows in (plain, view))
    firsts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rows = np.concatenate([first + np.linspace(0, size - 1, count).round().astype(int)
                           for first, size, count in zip(firsts, sizes, kept)])
    return plain.x[rows].double(), view.x.double()


def mapped_views(features: Features, track_ids: Sequence[str], maps: Mapping[int, Tensor]) -> Features:
    """All unshifted rows, and the windows of some tracks sent through every map as if their audio had been shifted."""
    plain = features.select(features.track_ids)
    rows = torch.isin(plain.track, torch.tensor([plain.track_ids.index(name) for name in track_ids]))
    shifts = [shift for shift in maps if shift != 0]
    return Features(torch.cat([plain.x, *(plain.x[rows] @ maps[shift] for shift in shifts)]),
                    torch.cat([plain.track, plain.track[rows].repeat(len(shifts))]),
                    torch.cat([plain.shift, torch.tensor(shifts).repeat_interleave(int(rows.sum()))]), plain.track_ids)


def predict_transposed(head: TrainedHead, features: Features, track_ids: Sequence[str],
                       shifts: Sequence[int]) -> np.ndarray:
    """(track, 24) mean outputs over shifted views, each view's keys transposed back to the recording's.

    Raises
    ------
    KeyMynaError
        When there is no shift, or a view was not extracted.
    """
    if not len(shifts):
        raise KeyMynaError("shifts: give at least one; 0 is the recording itself.")
    total = np.zeros((len(track_ids), N_KEYS))
    for shift in shifts:
        view = features.select(track_ids, [shift])
        outputs = track_predictions(head.window_probabilities(view.x), view.track.numpy())
        total += outputs[:, transpose(np.arange(N_KEYS), shift)]
    return total / len(shifts)
