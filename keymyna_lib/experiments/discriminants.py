"""Linear discriminants of "same track?": what contrast of a track's windows can learn without depth.

Contrastive pre-training asks which windows are of the same track. Fisher's linear discriminant analysis answers the
same question in closed form, with tracks as classes: the directions in which windows of different tracks lie furthest
apart, relative to how far those of one track do. It needs no key, so it is a baseline that a pre-trained encoder has to
beat, and applied to an encoder's embeddings it shows what is left to gain there. The baseline is our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.evaluate import group_means
from keymyna_lib.experiments.label_efficiency import logistic_curve, track_means
from keymyna_lib.features import Features

SHRINKAGES = (0.001, 0.01, 0.1, 0.5)
DIMENSIONS = (4, 6, 8, 12, 24, 48)  # six carry the pitch classes' circle of fifths and its overtones


class Discriminants(NamedTuple):
    """A projection onto discriminants, the best first.

    mean, scale : (dim,) float64; features are centred and divided by them first.
    axes : (dim, axis) float64, of unit (shrunk) variance within tracks.
    ratios : (axis,) float64, variance between tracks over that within, falling.
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    ratios: np.ndarray


def fit_discriminants(x: np.ndarray | Tensor, track: np.ndarray | Tensor, shrinkage: float) -> Discriminants:
    """Fisher's discriminants of z-scored features, whose classes are the tracks.

    The covariance S within tracks is shrunk towards (tr S / dim) I, since near-duplicate features make it singular; the
    covariance between tracks is that of their means, each as often as it has windows.

    Parameters
    ----------
    x : (row, dim) finite features of windows.
    track : (row,) int, 0..n_tracks-1, each with a row; two tracks at least. Where no two windows of a track differ, the
        discriminants are the principal components of the tracks' means.
    shrinkage : in 0..1; 0 does not shrink, 1 leaves those principal components.

    Returns
    -------
    Discriminants
        min(dim, n_tracks - 1) of them.

    Raises
    ------
    KeyMynaError
        Features that are not finite, a shrinkage outside 0..1, fewer than two tracks, or a covariance within
        tracks that is singular after shrinkage.
    """
    import scipy.linalg  # here, because it costs time to import

    x, track = np.asarray(x, dtype=np.float64), np.asarray(track)
    if x.ndim != 2 or track.shape != x.shape[:1] or not np.isfinite(x).all():
        raise KeyMynaError(f"x {x.shape}, track {track.shape}: expected finite (row, dim), and a track for each row.")
    if not 0 <= shrinkage <= 1:
        raise KeyMynaError(f"shrinkage={shrinkage}: choose it in 0..1.")
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale <= 1e-12 * np.abs(x).max(axis=0)] = 1.0  # a constant feature says nothing, whatever its scale
    z = (x - mean) / scale
    means = group_means(z, track)
    if len(means) < 2:
        raise KeyMynaError("discriminants of one track: give the windows of two tracks or more.")
    inner = z - means[track]
    within, between = inner.T @ inner / len(z), means[track].T @ means[track] / len(z)
    average = np.trace(within) / len(within)
    if average <= 1e-12:  # short recordings, a window each, say nothing of what varies within one
        within, average = np.eye(len(within)), 1.0
    shrunk = (1 - shrinkage) * within + shrinkage * average * np.eye(len(within))
    try:
        ratios, axes = scipy.linalg.eigh(between, shrunk)
    except np.linalg.LinAlgError:
        raise KeyMynaError(
            f"the covariance within tracks is singular at shrinkage {shrinkage}: choose a larger one."
        ) from None
    best = np.arange(len(ratios))[::-1][: len(means) - 1]
    axes = axes[:, best]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])  # the sign is free: settle it
    return Discriminants(mean, scale, axes, ratios[best])


def project(features: Features, found: Discriminants, dimensions: int) -> Features:
    """Features in the coordinates of the first discriminants, all rows, pitch-shifted views too: (row, dimensions)."""
    z = (features.x.double() - torch.from_numpy(found.mean)) / torch.from_numpy(found.scale)
    x = (z @ torch.from_numpy(found.axes[:, :dimensions])).float()
    return Features(x, features.track, features.shift, features.track_ids)


def tuned_discriminants(
    features: Features,
    corpus: Corpus,
    budget: int,
    draws: Sequence[int],
    *,
    shrinkages: Sequence[float] = SHRINKAGES,
    dimensions: Sequence[int] = DIMENSIONS,
    desc: str = "discriminants",
) -> tuple[Features, pd.DataFrame]:
    """Features projected onto discriminants of the training tracks, shrinkage and number chosen on validation.

    Discriminants see the training tracks without their keys. Their two settings are tuned as an encoder's learning rate
    is (`encoder_study.tune`): by the validation score of the logistic probe at one label budget, averaged over draws.
    Test tracks are not looked at.

    Parameters
    ----------
    features : of all labelled tracks, unshifted windows at least.
    budget, draws : of the probe, see `label_efficiency`.
    shrinkages, dimensions : the candidates; numbers of dimensions that the features do not have are left out.

    Returns
    -------
    chosen : the projected features.
    choices : one row per candidate; columns shrinkage, dimensions, valid_score (0..1). The first of the best is taken.

    Raises
    ------
    KeyMynaError
        When no candidate is left, and what `fit_discriminants` refuses.
    """
    train, valid = corpus.tracks(split="train"), corpus.tracks(split="valid")
    windows = features.select(train)
    labelled = [budget_tracks(corpus, budget, draw) for draw in draws]
    keys_of = corpus.manifest["key"]
    y_valid = keys_of.loc[valid].to_numpy()
    fits, rows = {shrinkage: fit_discriminants(windows.x, windows.track, shrinkage) for shrinkage in shrinkages}, []
    possible = [(s, d) for s in shrinkages for d in dimensions if d <= len(fits[s].ratios)]
    if not possible or not labelled:
        raise KeyMynaError(
            f"shrinkages={list(shrinkages)}, dimensions={list(dimensions)}, draws={list(draws)}: give at least one of "
            "each, and a number of dimensions that the features have."
        )
    for shrinkage, number in bar(possible, desc=desc, unit="setting"):
        projected, scores = project(features, fits[shrinkage], number), []
        x_valid = track_means(projected, valid)
        for tracks in labelled:
            y = keys_of.loc[tracks].to_numpy()
            scores.append(logistic_curve(track_means(projected, tracks), y, x_valid, y_valid, x_valid)[2])
        rows.append({"shrinkage": shrinkage, "dimensions": number, "valid_score": np.mean(scores)})
    choices = pd.DataFrame(rows)
    shrinkage, number = possible[choices["valid_score"].argmax()]
    return project(features, fits[shrinkage], number), choices
