"""Contrastive losses between two views of a batch of tracks.

Projections are (batch, dim), row i of both views from the same track; they are normalised here, so similarities
are cosines. Two rows of one track are never negatives of each other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InfoNCE(nn.Module):
    """Symmetric InfoNCE: cross-entropy of finding row i's other view among the batch (van den Oord et al., 2018).

    Parameters
    ----------
    temperature : divides the cosines.
    """

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, first: Tensor, second: Tensor, tracks: Tensor) -> Tensor:
        """Mean loss over both directions; `tracks` (batch,) int64 tells which rows share a track."""
        logits = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T / self.temperature
        logits = logits.masked_fill(_other_row_of_same_track(tracks), float("-inf"))
        target = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class SogCLR(nn.Module):
    """Global contrastive loss with moving averages (Yuan et al., 2022), the paper's loss.

    It minimises the mean over anchors i of tau log(eps + E_j exp((s_ij - s_ii) / tau)), the expectation over all
    negatives of the whole data set. u_i, kept for each track and view, follows the inner mean:
    u <- (1 - gamma) u + gamma (batch mean), and the gradient weighs each pair by exp(.) / (u_i + eps). Negatives
    are the rows of other tracks in both views. The returned value is the surrogate whose gradient that is.

    Parameters
    ----------
    n_tracks : tracks of the training set, the length of the state.
    temperature : tau.
    gamma : weight of the newest batch; a track's first batch is taken whole.
    eps : keeps the division finite.
    """

    def __init__(self, n_tracks: int, temperature: float = 0.1, gamma: float = 0.9, eps: float = 1e-8):
        super().__init__()
        self.temperature, self.gamma, self.eps = temperature, gamma, eps
        self.register_buffer("u", torch.zeros(2, n_tracks))

    def forward(self, first: Tensor, second: Tensor, tracks: Tensor) -> Tensor:
        """Surrogate loss; `tracks` (batch,) int64 indexes the state, which is updated."""
        views = F.normalize(first, dim=1).float(), F.normalize(second, dim=1).float()
        positive = (views[0] * views[1]).sum(dim=1, keepdim=True)
        negative = (tracks[:, None] != tracks[None, :]).repeat(1, 2)
        n_negatives = negative.sum(dim=1, keepdim=True).clamp(min=1)
        total = 0.0
        for view, anchors in enumerate(views):
            difference = anchors @ torch.cat(views).T - positive  # (batch, 2 batch)
            with torch.no_grad():
                weight = (difference / self.temperature).exp() * negative / n_negatives
                inner = weight.sum(dim=1)
                old = self.u[view, tracks]
                new = torch.where(old == 0, inner, (1 - self.gamma) * old + self.gamma * inner)
                self.u[view, tracks] = new
                weight = weight / (new[:, None] + self.eps)
            total = total + (weight * difference).sum(dim=1).mean()
        return total / 2


def _other_row_of_same_track(tracks: Tensor) -> Tensor:
    same = tracks[:, None] == tracks[None, :]
    return same & ~torch.eye(len(tracks), dtype=torch.bool, device=tracks.device)


@torch.no_grad()
def top1(first: Tensor, second: Tensor, tracks: Tensor) -> float:
    """Share of rows of the first view whose nearest row of the second, by cosine, is of the same track."""
    similarity = F.normalize(first, dim=1) @ F.normalize(second, dim=1).T
    return (tracks[similarity.argmax(dim=1)] == tracks).float().mean().item()
