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
    """Global contrastive loss with moving averages (Yuan et al., 2022), the paper's loss, as the authors' code has it.

    It minimises the mean over anchors i of tau log E_j exp(s_ij / tau) - s_ii, the expectation over all negatives of
    the whole data set, summed over the two views. u_i, kept for each track, follows the expectation: each view has
    (1 - gamma) u_i + gamma (mean over the batch's negatives), by which its pairs' weights exp(s_ij / tau) are divided,
    and the mean of both views is the new u_i. Negatives are the rows of other tracks in both views. The returned value
    is the surrogate with that gradient. A batch that holds no track seen before counts in full.

    Values and gradients are those of `GCLoss_v1` in libauc 2.0.1, which the authors call, with a constant gamma. What
    differs: u is kept as its logarithm, so that no temperature overflows; rows of one track are not each other's
    negatives, and its u is then the mean over them; and the rule for a batch of new tracks holds at all times (there,
    in the first epoch).

    On several processes each keeps the state of its own tracks, those at positions rank, rank + world, ...; a state
    dictionary holds that of all tracks, so that it can be loaded on any number of processes. All must ask for it.

    Parameters
    ----------
    n_tracks : tracks of the training set.
    temperature : tau; positive.
    gamma : weight of the newest batch, in (0, 1].
    eps : smallest u to divide by.
    """

    def __init__(self, n_tracks: int, temperature: float = 0.1, gamma: float = 0.9, eps: float = 1e-8):
        super().__init__()
        self.temperature, self.gamma, self.eps, self.n_tracks = temperature, gamma, eps, n_tracks
        # Of a track that has not been seen, u is 0.
        self.register_buffer("log_u", torch.full((math.ceil(n_tracks / world()),), -math.inf))
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
        views = F.normalize(first, dim=1), F.normalize(second, dim=1)
        everyone = torch.cat([gather(view) for view in views])
        excluded = (tracks[:, None] == gather(tracks)[None, :]).repeat(1, 2)
        n_negatives = (~excluded).sum(dim=1, keepdim=True, dtype=first.dtype).clamp(min=1)
        place = tracks // world()
        old = self.log_u[place][:, None]
        seen = gather((old > -math.inf).sum()[None]).sum()
        log_kept = math.log1p(-self.gamma) if self.gamma < 1 else -math.inf
        log_gamma = (seen > 0).to(first.dtype) * math.log(self.gamma)
        total, averages = -2 * (views[0] * views[1]).sum(dim=1).mean(), []
        for anchors in views:
            similarity = anchors @ everyone.T  # (batch, 2 x rank x batch)
            with torch.no_grad():
                terms = (similarity / self.temperature).masked_fill(excluded, -math.inf) - n_negatives.log()
                average = torch.logaddexp(old + log_kept, terms.logsumexp(dim=1, keepdim=True) + log_gamma)
                averages.append(average)
                weight = (terms - average.clamp(min=math.log(self.eps))).exp()
            total = total + (weight * similarity).sum(dim=1).mean()
        with torch.no_grad():
            # Over the rows of a track, as which of several would be kept is left to chance on a GPU.
            same = tracks[:, None] == tracks[None, :]
            rows = torch.cat(averages, dim=1).logsumexp(dim=1).expand_as(same).masked_fill(~same, -math.inf)
            self.log_u[place] = (rows.logsumexp(dim=1) - (2 * same.sum(dim=1, dtype=first.dtype)).log()).to(
                self.log_u.dtype
            )
        return total


# By the name that a configuration uses.
LOSSES: dict[str, type[InfoNCE] | type[SogCLR]] = {"infonce": InfoNCE, "sogclr": SogCLR}


def _state_of_all(loss: SogCLR, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Put every track's log u into a state dictionary, (track,), in the order of the training tracks."""
    state[f"{prefix}log_u"] = gather(loss.log_u[None]).T.flatten()[: loss.n_tracks]


def _own_state(loss: SogCLR, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Leave this process's share of every track's log u in a state dictionary that is about to be loaded."""
    whole = F.pad(state[f"{prefix}log_u"], (0, len(loss.log_u) * world() - loss.n_tracks), value=-math.inf)
    state[f"{prefix}log_u"] = whole.unflatten(0, (-1, world()))[:, rank()]


@torch.no_grad()
def top1(first: Tensor, second: Tensor, tracks: Tensor) -> Tensor:
    """Share of rows of the first view whose nearest of the second (by cosine) is of the same track; () in [0, 1]."""
    similarity = F.normalize(first, dim=1) @ F.normalize(gather(second), dim=1).T
    return (gather(tracks)[similarity.argmax(dim=1)] == tracks).float().mean()
