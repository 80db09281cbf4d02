"""Contrastive losses between two views of a batch of tracks.

Projections are (batch, dim), row i of both views from the same track; they are normalised here, so similarities
are cosines. Two rows of one track are never negatives of each other.

On several processes (see `compute.ranks`) each takes the mean loss of its own rows against the rows of all: the mean
over the processes, and its gradient, equal those of one process that holds all rows.

A new loss is a class with `from_config` and `forward` as below, and an entry in `LOSSES`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keymyna_lib.compute.ranks import gather, rank, world

if TYPE_CHECKING:
    from keymyna_lib.pretrain import PretrainConfig


class InfoNCE(nn.Module):
    """Symmetric InfoNCE: cross-entropy of finding row i's other view among the batch (van den Oord et al., 2018).

    Parameters
    ----------
    temperature : divides the cosines; positive.

    Examples
    --------
    Where nothing distinguishes the tracks, the loss is that of a guess among the batch, log(batch):

    >>> same = torch.ones(4, 8)
    >>> round(InfoNCE(0.1)(same, same, torch.arange(4)).item(), 4) == round(math.log(4), 4)
    True
    """

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    @classmethod
    def from_config(cls, config: PretrainConfig, n_tracks: int) -> InfoNCE:
        """The loss that a configuration asks for; the number of training tracks does not matter."""
        return cls(config.temperature)

    def forward(self, first: Tensor, second: Tensor, tracks: Tensor) -> Tensor:
        """Mean loss over both directions, nats.

        Parameters
        ----------
        first, second : (batch, dim) projections of the two views.
        tracks : (batch,) int64, equal where rows share a track.
        """
        first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
        target = rank() * len(first) + torch.arange(len(first), device=first.device)
        there = self._logits(first, second, tracks, target)
        # On one process the same products lead back.
        back = there.T if world() == 1 else self._logits(second, first, tracks, target)
        return (F.cross_entropy(there, target) + F.cross_entropy(back, target)) / 2

    def _logits(self, anchors: Tensor, others: Tensor, tracks: Tensor, target: Tensor) -> Tensor:
        """(batch, rank x batch) logits; -inf for rows of the anchor's track other than its own, which is `target`."""
        excluded = (tracks[:, None] == gather(tracks)[None, :]).scatter(1, target[:, None], False)
        return (anchors @ gather(others).T / self.temperature).masked_fill(excluded, float("-inf"))


class SogCLR(nn.Module):
    """Global contrastive loss with moving averages (Yuan et al., 2022), the paper's loss.

    It minimises the mean over anchors i of tau log(eps + E_j exp((s_ij - s_ii) / tau)), the expectation over all
    negatives of the whole data set. u_i, kept for each track and view, follows the inner mean:
    u <- (1 - gamma) u + gamma (batch mean), and the gradient weights each pair by exp(.) / (u_i + eps). Negatives
    are the rows of other tracks in both views. The returned value is the surrogate with that gradient.

    On several processes each keeps the state of its own tracks, those at positions rank, rank + world, ...; a state
    dictionary holds that of all tracks, so that it can be loaded on any number of processes. All must ask for it.

    Parameters
    ----------
    n_tracks : tracks of the training set.
    temperature : tau; positive.
    gamma : weight of the newest batch, in [0, 1]; a track's first batch counts in full.
    eps : keeps the division finite.
    """

    def __init__(self, n_tracks: int, temperature: float = 0.1, gamma: float = 0.9, eps: float = 1e-8):
        super().__init__()
        self.temperature, self.gamma, self.eps, self.n_tracks = temperature, gamma, eps, n_tracks
        self.register_buffer("u", torch.zeros(2, math.ceil(n_tracks / world())))
        self.register_state_dict_post_hook(_state_of_all)
        self.register_load_state_dict_pre_hook(_own_state)

    @classmethod
    def from_config(cls, config: PretrainConfig, n_tracks: int) -> SogCLR:
        """The loss that a configuration asks for, with state for so many training tracks."""
        return cls(n_tracks, config.temperature, config.gamma)

    def forward(self, first: Tensor, second: Tensor, tracks: Tensor) -> Tensor:
        """Surrogate loss; updates the state of the batch's tracks.

        Parameters
        ----------
        first, second : (batch, dim) projections of the two views.
        tracks : (batch,) int64, positions among the training tracks.
        """
        views = F.normalize(first, dim=1).float(), F.normalize(second, dim=1).float()
        everyone = [gather(view) for view in views]
        place = tracks // world()
        positive = (views[0] * views[1]).sum(dim=1, keepdim=True)
        negative = (tracks[:, None] != gather(tracks)[None, :]).repeat(1, 2)
        n_negatives = negative.sum(dim=1, keepdim=True).clamp(min=1)
        total = 0.0
        for view, anchors in enumerate(views):
            difference = anchors @ torch.cat(everyone).T - positive  # (batch, 2 x rank x batch)
            with torch.no_grad():
                weight = (difference / self.temperature).exp() * negative / n_negatives
                inner = weight.sum(dim=1)
                old = self.u[view, place]
                new = torch.where(old == 0, inner, (1 - self.gamma) * old + self.gamma * inner)
                self.u[view, place] = new
                weight = weight / (new[:, None] + self.eps)
            total = total + (weight * difference).sum(dim=1).mean()
        return total / 2


# By the name that a configuration uses.
LOSSES: dict[str, type[InfoNCE] | type[SogCLR]] = {"infonce": InfoNCE, "sogclr": SogCLR}


def _state_of_all(loss: SogCLR, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Put every track's u into a state dictionary: (view, track), in the order of the training tracks."""
    state[f"{prefix}u"] = gather(loss.u[None]).permute(1, 2, 0).flatten(1)[:, : loss.n_tracks]


def _own_state(loss: SogCLR, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Leave this process's share of every track's u in a state dictionary that is about to be loaded."""
    whole = F.pad(state[f"{prefix}u"], (0, loss.u.shape[1] * world() - loss.n_tracks))
    state[f"{prefix}u"] = whole.unflatten(1, (-1, world()))[:, :, rank()]


@torch.no_grad()
def top1(first: Tensor, second: Tensor, tracks: Tensor) -> Tensor:
    """Share of rows of the first view whose nearest of the second (by cosine) is of the same track; () in [0, 1]."""
    similarity = F.normalize(first, dim=1) @ F.normalize(gather(second), dim=1).T
    return (gather(tracks)[similarity.argmax(dim=1)] == tracks).float().mean()
