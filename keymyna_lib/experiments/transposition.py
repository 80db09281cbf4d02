"""Transposition in embedding space and at test time: two further uses of pitch-shifted views.

The paper's reference implementation can augment embeddings by learned bias-free linear maps, one per shift; here the
maps are fitted by least squares on unlabelled training tracks. At test time, a head can also be asked about shifted
views of a recording, each answer transposed back, and the answers averaged (an independent re-run of the paper gained
most from this).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.evaluate import track_predictions
from keymyna_lib.features import Features, spread_windows
from keymyna_lib.heads import TrainedHead
from keymyna_lib.keys import N_KEYS, transpose

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of the mean squared feature; the best on held-out tracks is taken
HELD_OUT = 5  # every fifth track


def fit_shift_maps(features: Features, track_ids: Sequence[str], shifts: Sequence[int]) -> dict[int, Tensor]:
    """For each shift the linear map from a window's embedding to that of the shifted window, without labels.

    Parameters
    ----------
    features : what `features.add_shifted` returns; holds the shifted views of these tracks.
    track_ids : five or more, in random order: every fifth one is held out to choose the penalty.
    shifts : semitones; 0 is the identity.

    Returns
    -------
    shift -> (dim, dim) float32: a row vector times the map is the shifted embedding.
    """
    maps = {0: torch.eye(features.x.shape[1])}
    held_out = set(track_ids[::HELD_OUT])
    for shift in shifts:
        if shift != 0:
            fitted, tried = (
                [rows.double() for rows in paired_windows(features, tracks, shift)[:2]]
                for tracks in ([t for t in track_ids if (t in held_out) == held] for held in (False, True))
            )
            errors = {r: (tried[0] @ _ridge(fitted[0], fitted[1], r) - tried[1]).square().sum().item() for r in RIDGES}
            source, target = (torch.cat(both) for both in zip(fitted, tried))
            maps[shift] = _ridge(source, target, min(errors, key=errors.get)).float()
    return maps


def _ridge(source: Tensor, target: Tensor, ridge: float) -> Tensor:
    """(dim, dim) map of least squares from source (row, dim) to target (row, dim), penalised."""
    gram = source.T @ source
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram, source.T @ target)


def _chosen_windows(features: Features, track_ids: Sequence[str], count: int) -> Features:
    """The unshifted windows of tracks that a view of so many windows holds."""
    plain = features.select(track_ids)
    sizes = torch.bincount(plain.track, minlength=len(track_ids)).numpy()
    rows = np.concatenate([first + spread_windows(size, count) for first, size in zip(np.cumsum(sizes) - sizes, sizes)])
    return Features(plain.x[rows], plain.track[rows], plain.shift[rows], plain.track_ids)


def paired_windows(features: Features, track_ids: Sequence[str], shift: int) -> tuple[Tensor, Tensor, Tensor]:
    """The windows that a shifted view holds: (row, dim) unshifted, (row, dim) shifted, and (row,) their tracks."""
    view = features.select(track_ids, [shift])
    plain = _chosen_windows(features, track_ids, int(torch.bincount(view.track).max()))
    return plain.x, view.x, view.track


def mapped_views(features: Features, track_ids: Sequence[str], maps: Mapping[int, Tensor], windows: int) -> Features:
    """Stand-ins for pitch-shifted views: all unshifted rows, and windows of some tracks sent through every map.

    Parameters
    ----------
    track_ids : the tracks that get views. maps : of `fit_shift_maps`; 0 is passed over. windows : per view.
    """
    plain = features.select(features.track_ids)
    moved = _chosen_windows(features, track_ids, windows)
    track = torch.tensor([plain.track_ids.index(name) for name in moved.track_ids])[moved.track]
    shifts = [shift for shift in maps if shift != 0]
    return Features(
        torch.cat([plain.x, *(moved.x @ maps[shift] for shift in shifts)]),
        torch.cat([plain.track, track.repeat(len(shifts))]),
        torch.cat([plain.shift, torch.tensor(shifts).repeat_interleave(len(track))]),
        plain.track_ids,
    )


def predict_transposed(
    head: TrainedHead, features: Features, track_ids: Sequence[str], shifts: Sequence[int]
) -> np.ndarray:
    """Mean outputs over shifted views, (track, 24) float64, each view's keys transposed back to the recording's.

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
