"""A convolutional network trained on keys alone: what a user with labels would train instead of pre-training anything.

In the manner of AllConv (Korzeniowski and Widmer, Genre-agnostic key classification with convolutional neural networks,
ISMIR 2018): pairs of small convolutions under max-pooling, keys as maps averaged over time, training on excerpts
that are shifted in pitch. Ours is small, takes the corpus's own spectrogram windows (mel or log-frequency bands, six
frames averaged), and its last convolution spans all bands, where theirs averages over frequency; these are our choices.
It gets the labelled tracks, validation tracks and score of the heads on frozen features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keymyna_lib.base import paths
from keymyna_lib.base.checks import at_least, check, ranges_of
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.hashing import code_hash_of, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.compute.checkpoints import read_checkpoint, save_checkpoint
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.evaluate import mirex_scores, track_predictions
from keymyna_lib.experiments.scoring import prediction_table, record_test, scored_tracks
from keymyna_lib.features import cut_windows, spread_windows
from keymyna_lib.front_ends import N_BANDS, front_end_of, transpose_bands
from keymyna_lib.keys import N_KEYS, transpose
from keymyna_lib.pretrain import CropSampler
from keymyna_lib.spectrogram import WINDOW, window_starts
from keymyna_lib.views import shift_bands

if TYPE_CHECKING:
    from keymyna_lib.report.runs import Run

FEATURES, HEAD = "spectrogram", "supervised CNN"  # how tables name it
SHIFTS = (-4, 7)  # semitones, both included, as Korzeniowski and Widmer shift
VALID_WINDOWS = 3  # of each validation track, where training asks whether to go on
_FRAMES = 6  # averaged into one: 192 ms, about theirs
_BLOCKS = ((1, 5), (2, 3), (4, 3))  # multiple of the channels and width of two convolutions, then pooling by two
_LAST = (8, 3)
_BATCH = 64  # windows at a time without gradients


@dataclass(frozen=True)
class CnnConfig:
    """One network.

    Attributes
    ----------
    budget : labelled training tracks; 0 for all.
    channels : of the first convolution; the last one has eight times as many.
    dropout : share of the maps dropped after each pooling.
    lr, weight_decay : of AdamW.
    batch_size : windows a step, of as many tracks.
    max_steps, eval_every, patience : optimizer steps; steps between looks at validation; looks without improvement
        after which training stops.
    device : "auto" takes CUDA when there is one.
    seed : of labelled tracks, initialisation, batches, shifts and dropout.

    Raises
    ------
    KeyMynaError
        When a value is out of range.
    """

    budget: int = 0
    channels: int = 8
    dropout: float = 0.1
    lr: float = 0.001
    weight_decay: float = 0.0001
    batch_size: int = 32
    max_steps: int = 1500
    eval_every: int = 50
    patience: int = 6
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check(self, {"channels": at_least(1)} | ranges_of(CnnConfig))


class KeyCnn(nn.Module):
    """Stored spectrogram windows to logits of the 24 keys.

    Parameters
    ----------
    n_bands : of the front end.
    channels, dropout : see `CnnConfig`.
    generator : draws the initial weights.
    """

    def __init__(self, n_bands: int, channels: int, dropout: float, generator: torch.Generator):
        super().__init__()
        self.dropout = dropout
        self.enter = nn.BatchNorm2d(1)
        self.convolutions, self.norms, given = nn.ModuleList(), nn.ModuleList(), 1
        for multiple, width in (*_BLOCKS, _LAST):
            for _ in range(2):
                self.convolutions.append(nn.Conv2d(given, multiple * channels, width, padding=width // 2, bias=False))
                given = multiple * channels
                self.norms.append(nn.BatchNorm2d(given))
        self.leave = nn.Conv2d(given, N_KEYS, (n_bands // 2 ** len(_BLOCKS), 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, generator=generator)
        nn.init.zeros_(self.leave.bias)

    def forward(self, windows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(batch, band, frame) to (batch, 24) logits, means over time; `generator` draws the dropout, if any."""
        x = self.enter(F.avg_pool2d(windows.float()[:, None], (1, _FRAMES)))
        for i, (convolution, norm) in enumerate(zip(self.convolutions, self.norms)):
            x = F.elu(norm(convolution(x)))
            if i % 2 and i < 2 * len(_BLOCKS):
                x = F.max_pool2d(x, 2)
                if generator is not None:
                    kept = torch.rand(*x.shape[:2], 1, 1, generator=generator) >= self.dropout
                    x = x * (kept / (1 - self.dropout)).to(x)
        return self.leave(x)[:, :, 0].mean(dim=2)


def pitch_shifted(crops: Tensor, keys: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each crop shifted by a number of semitones drawn from SHIFTS, and its key with it.

    Parameters
    ----------
    crops : (batch, band, frame) stored spectrograms, log(1 + power). Log-frequency bands move as they are; between mel
        bands, power is interpolated.
    keys : (batch,) int64.
    """
    semitones = torch.randint(SHIFTS[0], SHIFTS[1] + 1, keys.shape, generator=generator)
    if front_end_of(crops) == "log-frequency":
        moved = torch.stack([transpose_bands(crop, by) for crop, by in zip(crops, semitones.tolist())])
    else:
        moved = shift_bands(crops.float().expm1(), semitones.float().to(crops.device)).log1p()
    return moved, transpose(keys, semitones.to(keys.device))


def _windows(corpus: Corpus, track_id: str, most: int | None) -> Tensor:
    stored = torch.from_numpy(np.array(corpus.spectrogram(track_id))).T
    starts = window_starts(stored.shape[1], WINDOW)
    return cut_windows(stored, starts if most is None else starts[spread_windows(len(starts), most)], WINDOW)


@torch.inference_mode()
def track_probabilities(net: KeyCnn, corpus: Corpus, track_ids: Sequence[str], most: int | None = None) -> np.ndarray:
    """Probabilities of the keys, averaged over the windows of each track, (track, 24) float64.

    Parameters
    ----------
    net : is put into evaluation mode.
    most : windows of a track, spread evenly; None for all.
    """
    net.eval()
    device, found, sizes = next(net.parameters()).device, [], []
    for first in range(0, len(track_ids), _BATCH):
        windows = [_windows(corpus, track, most) for track in track_ids[first : first + _BATCH]]
        sizes += [len(some) for some in windows]
        for batch in torch.cat(windows).split(_BATCH):
            found.append(net(batch.to(device)).softmax(dim=1).double().cpu())
    return track_predictions(torch.cat(found).numpy(), np.repeat(np.arange(len(sizes)), sizes))


class CnnTraining:
    """Network, optimizer, and the best network so far, of one configuration, and how they are saved and restored.

    Parameters
    ----------
    config : the network.
    corpus : one task; its labelled training tracks of the budget are learned from, its validation tracks are watched.
    """

    def __init__(self, config: CnnConfig, corpus: Corpus):
        self.config, self.corpus = config, corpus
        self.device = pick_device(config.device)
        self.train, self.valid = budget_tracks(corpus, config.budget, config.seed), corpus.tracks(split="valid")
        if not self.train or not self.valid:
            raise KeyMynaError("a network needs labelled training and validation tracks; the corpus has none of one.")
        self.fingerprint = sha256_json([asdict(config), corpus.hash, self.train, self.valid])
        self.sampler = CropSampler(corpus, self.train, WINDOW)
        generator = torch_stream(config.seed, "initial weights of the network")
        self.net = KeyCnn(N_BANDS[corpus.front_end], config.channels, config.dropout, generator).to(self.device)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.step, self.history = 0, list[dict[str, float]]()
        self.best = {name: value.clone() for name, value in self.net.state_dict().items()}

    @property
    def best_look(self) -> int:
        """Index of the first look at validation with the best score; -1 before any."""
        return int(np.argmax([look["valid_score"] for look in self.history])) if self.history else -1

    @property
    def finished(self) -> bool:
        """Whether all steps are taken, or the patience is at its end."""
        waited = len(self.history) - 1 - self.best_look
        return self.step >= self.config.max_steps or waited >= self.config.patience

    def take_step(self) -> float:
        """One optimizer step on shifted crops of labelled tracks; its loss."""
        config = self.config
        generator = torch_stream(config.seed, "batch of the network", self.step)
        tracks = self.sampler.tracks_of_step(self.step, config.batch_size, config.seed)
        batch = self.sampler.batch(tracks, 1, generator)
        crops, keys = pitch_shifted(batch.crops[0].to(self.device), batch.keys.to(self.device), generator)
        self.net.train()
        loss = F.cross_entropy(self.net(crops, generator), keys)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def look(self, loss: float) -> None:
        """Score the validation tracks, keep the network if none was better, and write the history."""
        found = track_probabilities(self.net, self.corpus, self.valid, VALID_WINDOWS).argmax(axis=1)
        score = float(mirex_scores(self.corpus.manifest.loc[self.valid, "key"].to_numpy(), found, fifths="both").mean())
        self.history.append({"step": self.step, "loss": loss, "valid_score": score})
        if self.best_look == len(self.history) - 1:
            self.best = {name: value.clone() for name, value in self.net.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on."""
        states = {"net": self.net.state_dict(), "best": self.best}
        save_checkpoint(
            path, states, self.optimizer, fingerprint=self.fingerprint, step=self.step, history=self.history
        )

    def restore(self, path: Path) -> bool:
        """Resume from a checkpoint of this very run; False (and nothing changed) when there is none that fits."""
        found = read_checkpoint(path, self.fingerprint)
        if found is None:
            return False
        self.net.load_state_dict(found.states["net"])
        self.best = {name: value.to(self.device) for name, value in found.states["best"].items()}
        found.restore_optimizer(self.optimizer)
        self.step, self.history = found.step, found.history
        return True


def train_cnn(
    config: CnnConfig, corpus: Corpus, checkpoint: Path, *, desc: str = "supervised CNN", show: bool = True
) -> tuple[KeyCnn, pd.DataFrame]:
    """Train a network until validation no longer improves, resuming from `checkpoint` if it belongs to this very run.

    Test tracks are not touched.

    Parameters
    ----------
    checkpoint : written at every look at validation.
    desc, show : the progress bar's text, and whether to draw it.

    Returns
    -------
    net : the one with the best validation score, on the CPU in evaluation mode.
    history : one row per look at validation; columns step, loss (of the last batch), valid_score (0..1).

    Raises
    ------
    KeyMynaError
        When there is nothing to train or validate on, or the loss is no longer finite.
    """
    run = CnnTraining(config, corpus)
    run.restore(checkpoint)
    with bar(desc=desc, total=config.max_steps, unit="step", show=show) as progress:
        progress.update(run.step)
        while not run.finished:
            loss = run.take_step()
            if not np.isfinite(loss):
                raise KeyMynaError(f"the loss became {loss} at step {run.step}; lower lr (now {config.lr}).")
            if run.step % config.eval_every == 0 or run.step == config.max_steps:
                run.look(loss)
                run.save(checkpoint)
            progress.update()
    run.net.load_state_dict(run.best)
    return run.net.cpu().eval(), pd.DataFrame(run.history)


def train_cnn_once(
    config: CnnConfig, corpus: Corpus, *, desc: str = "supervised CNN", show: bool = True
) -> tuple[KeyCnn, pd.DataFrame]:
    """`train_cnn`, but taken from the cache when this code has finished this very run before."""
    name = sha256_json([asdict(config), corpus.hash, code_hash_of(__name__)])[:16]
    return train_cnn(config, corpus, paths.CACHE / "supervised_cnn" / f"{name}.safetensors", desc=desc, show=show)


def record_cnn(run: Run, config: CnnConfig, corpus: Corpus, *, desc: str = "supervised CNN", show: bool = True) -> None:
    """Train a network, score it on the test tracks once, and store the result in a run as `head_study` stores a head's.

    Parameters
    ----------
    run : its configuration has FEATURES, HEAD and the budget as features, head and budget, see `cnn_configuration`.
    """
    net, history = train_cnn_once(config, corpus, desc=desc, show=show)
    tracks, valid, train = scored_tracks(corpus), corpus.tracks(split="valid"), corpus.tracks(split="train")
    record_test(run, prediction_table(corpus, tracks, track_probabilities(net, corpus, tracks).argmax(axis=1)), corpus)
    run.metric("all", "valid", "weighted_both", history["valid_score"].max(), len(valid))
    run.metric("all", "train", "labelled_tracks", len(budget_tracks(corpus, config.budget, config.seed)), len(train))
    run.attach("history", history)


def cnn_configuration(config: CnnConfig, task: str) -> dict[str, object]:
    """The configuration that a run of `record_cnn` records and its id is made of; the device is no part of it."""
    settings = {name: value for name, value in asdict(config).items() if name != "device"}
    return {**settings, "task": task, "features": FEATURES, "head": HEAD}
