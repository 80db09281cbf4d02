"""A reference implementation: what the public code does, written anew, to be measured beside the library.

It does what the authors' public repository does wherever that costs time: all patches are embedded and most tokens then
dropped; attention is spelled out; everything is float32; masks are drawn example by example in Python; the two views
pass through the encoder one after the other; a loader reads one file per track, whole, to cut two crops from it; heads
are trained one after another, from a loader that yields single rows, with each row's output kept in Python lists.

The loss is that of the package it calls, libauc's `GCLoss_v1`: four blocks of similarities, their exponentials as they
are, moving averages on the CPU. Tests compare it with that package, and the library's step with it.

Where it differs: files are .npy instead of pickles, whose reading runs code (both are one read of the same bytes).
Heads have dropout where the library's have it (the public linear head has none, so a third of its grid is the same head
three times); without it the two could not be compared head by head. Scores per epoch, checkpoints and logging are left
out of both.
"""

from __future__ import annotations

import random
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.heads import HeadSpec, Rows
from keymyna_lib.keys import N_KEYS
from keymyna_lib.model import PRESETS, position_table
from keymyna_lib.spectrogram import N_MELS

_PATCH = (N_MELS, 2)
_HEAD_DIM = 64
_LEFT_OUT = 1e9  # subtracted from the logits of what is not a pair


class _Patches(nn.Module):
    def forward(self, spectrograms: Tensor) -> Tensor:
        """(batch, 1, mel, frame) power to (batch, token, mel x 2), one token per vertical patch."""
        return spectrograms[:, 0].unflatten(2, (-1, _PATCH[1])).transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.scale = heads, _HEAD_DIM**-0.5
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * _HEAD_DIM, bias=False)
        self.to_out = nn.Linear(heads * _HEAD_DIM, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(self.norm(x)).chunk(3, 2)
        )
        weights = (torch.matmul(q, k.transpose(-1, -2)) * self.scale).softmax(dim=-1)
        return self.to_out(torch.matmul(weights, v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class ReferenceEncoder(nn.Module):
    """SimpleViT with vertical patches that embeds all of them and then drops tokens.

    Its state dict is that of `model.Encoder` with the same preset, vertical patches and linear scale.

    Parameters
    ----------
    preset : a name in `model.PRESETS`.
    """

    def __init__(self, preset: str):
        super().__init__()
        dim, depth, heads, hidden = PRESETS[preset]
        size = _PATCH[0] * _PATCH[1]
        self.dim = dim
        self.to_patch_embedding = nn.Sequential(_Patches(), nn.LayerNorm(size), nn.Linear(size, dim), nn.LayerNorm(dim))
        self.transformer = nn.Module()
        self.transformer.norm = nn.LayerNorm(dim)
        self.transformer.layers = nn.ModuleList(
            nn.ModuleList([_Attention(dim, heads), _FeedForward(dim, hidden)]) for _ in range(depth)
        )

    def forward(self, power: Tensor, mask_ratio: float = 0.0, keep: Tensor | None = None) -> Tensor:
        """(batch, 1, mel, frame) mel power to (batch, dim).

        Parameters
        ----------
        mask_ratio : share of the tokens dropped; drawn from torch's global generator, as in the public code.
        keep : (batch, kept) indices instead of a draw.
        """
        x = self.to_patch_embedding(power)
        x = x + position_table(1, x.shape[1], self.dim).to(x.device)
        if keep is None and mask_ratio:
            orders = torch.stack([torch.randperm(x.shape[1]) for _ in range(len(x))])
            keep = orders[:, int(mask_ratio * x.shape[1]) :].to(x.device)
        if keep is not None:
            x = x.gather(1, keep[:, :, None].expand(-1, -1, x.shape[2]))
        for attention, feed_forward in self.transformer.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return self.transformer.norm(x).mean(dim=1)


class ReferenceSogCLR:
    """The global contrastive loss; its moving averages, (track, 1), stay on the CPU."""

    def __init__(self, n_tracks: int, temperature: float, gamma: float, eps: float = 1e-8):
        self.temperature, self.gamma, self.eps = temperature, gamma, eps
        self.u = torch.zeros(n_tracks, 1)

    def __call__(self, first: Tensor, second: Tensor, tracks: Tensor) -> Tensor:
        """Surrogate loss of two views (batch, dim); `tracks` (batch,) int64, each track once, on the CPU."""
        a, b = F.normalize(first, dim=1), F.normalize(second, dim=1)
        batch = len(a)
        n_negatives = 2 * (batch - 1)
        own = F.one_hot(torch.arange(batch), batch).to(a)
        positive = torch.cat([own, torch.zeros_like(own)], dim=1)
        gamma = self.gamma if self.u[tracks].any() else 1.0
        total, averages = torch.zeros((), device=a.device), []
        for across, within in ((a @ b.T, a @ a.T), (b @ a.T, b @ b.T)):
            logits = torch.cat([across, within - _LEFT_OUT * own], dim=1)
            terms = (logits.detach() / self.temperature).exp() * (1 - positive)
            mean = terms.sum(dim=1, keepdim=True) / n_negatives
            average = (1 - gamma) * self.u[tracks].to(a.device) + gamma * mean
            averages.append(average)
            negative = (terms / average.clamp(min=self.eps) * logits).sum(dim=1) / n_negatives
            total = total + (negative - (positive * logits).sum(dim=1)).mean()
        self.u[tracks] = torch.stack(averages).mean(dim=0).cpu()
        return total


class ReferenceTracks(Dataset):
    """Two random crops of a track's float32 mel power, from one file per track, read whole."""

    def __init__(self, paths: Sequence[Path], crop_frames: int, seed: int):
        self.paths, self.crop_frames, self.draw = list(paths), crop_frames, random.Random(seed)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[int, list[np.ndarray]]:
        power = np.load(self.paths[i])  # (1, mel, frame)
        last = power.shape[-1] - self.crop_frames
        starts = [self.draw.randint(0, last) for _ in range(2)]
        return i, [power[..., start : start + self.crop_frames] for start in starts]


def loader(paths: Sequence[Path], crop_frames: int, batch_size: int, *, workers: int, seed: int) -> DataLoader:
    """Shuffled batches of `ReferenceTracks`: tracks (batch,), and a list of two views (batch, 1, mel, frame)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # the public code's number, on any machine
        return DataLoader(
            ReferenceTracks(paths, crop_frames, seed),
            batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch_stream(seed, "order of rows"),
        )


def step(
    encoder: ReferenceEncoder,
    loss: ReferenceSogCLR,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, list[Tensor]],
    mask_ratio: float,
    keeps: Sequence[Tensor | None] = (None, None),
) -> float:
    """One optimizer step; the loss. `keeps` are the tokens of both views to keep, instead of a draw."""
    device = next(encoder.parameters()).device
    tracks, views = batch
    crops = torch.stack(views).to(device)
    optimizer.zero_grad()
    first, second = (encoder(view, mask_ratio, keep) for view, keep in zip(crops, keeps))
    value = loss(first, second, tracks)
    value.backward()
    optimizer.step()
    return value.item()


class _RowByRow(Dataset):
    def __init__(self, rows: Rows):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows.x)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.rows.track[i], self.rows.x[i], self.rows.y[i]


def prepared(rows: Rows, standardize: bool) -> Rows:
    """The rows with their features z-scored, or as they are; done once for all heads."""
    std, mean = torch.std_mean(rows.x, 0, correction=0)
    return Rows((rows.x - mean) / std, rows.y, rows.track) if standardize else rows


def head_loader(rows: Rows, spec: HeadSpec, seed: int) -> DataLoader:
    """Shuffled batches of rows: track (row,), features (row, dim), keys (row,)."""
    return DataLoader(_RowByRow(rows), spec.batch_size, shuffle=True, generator=torch_stream(seed, "order of rows"))


def head(spec: HeadSpec, dim: int) -> nn.Sequential:
    """The head of a spec as a chain of torch's modules."""
    layers: list[nn.Module] = [] if spec.hidden else [nn.Dropout(spec.dropout)]
    for i, (n_in, n_out) in enumerate(zip((dim, *spec.hidden), spec.hidden)):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()] + ([nn.Dropout(spec.dropout)] if i == 0 else [])
    return nn.Sequential(*layers, nn.Linear((dim, *spec.hidden)[-1], N_KEYS))


def train_head(module: nn.Module, spec: HeadSpec, batches: Iterable[tuple[Tensor, Tensor, Tensor]], steps: int) -> None:
    """Train one head in place; `batches` are of (track, features, keys) and restart when they run out."""
    optimizer = torch.optim.Adam(module.parameters(), lr=spec.lr, weight_decay=spec.weight_decay)
    module.train()
    done, running = 0, 0.0
    while done < steps:
        outputs_of, key_of = defaultdict(list), {}
        for tracks, x, y in batches:
            optimizer.zero_grad()
            outputs = module(x)
            loss = F.cross_entropy(outputs, y)
            loss.backward()
            optimizer.step()
            running += loss.item()
            for track, key, output in zip(tracks.cpu().numpy(), y.cpu().numpy(), outputs.detach().cpu().numpy()):
                outputs_of[track].append(output)
                key_of[track] = key
            done += 1
            if done == steps:
                break
        else:  # the estimates of a whole epoch only: a short timing would otherwise pay for too many
            np.array([np.mean(outputs_of[track], axis=0) for track in outputs_of])
