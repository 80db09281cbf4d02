"""Masked contrastive pre-training: two random crops of a track, each masked, told apart from all other tracks.

Every draw of step t (which tracks, where the crops start, which tokens are masked) comes from a generator seeded
by (seed, t), so that a run resumed from a checkpoint takes exactly the steps an unbroken one would have taken.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from keymyna_lib.data.corpus import Corpus
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.files import atomic_path, sha256_json
from keymyna_lib.losses import InfoNCE, SogCLR, top1
from keymyna_lib.model import Encoder, EncoderConfig, ProjectionHead, build_encoder
from keymyna_lib.progress import bar


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run.

    Attributes
    ----------
    encoder : architecture and input.
    mask_ratio : share of the tokens dropped in each view.
    crop_frames : length of a crop, frames of 32 ms.
    loss : "infonce" or "sogclr".
    temperature : of the loss.
    gamma : SogCLR's weight of the newest batch.
    projection_dim : outputs of the projection head; 0 for none.
    steps, batch_size : optimizer steps, tracks a step (two crops each).
    optimizer : "adam" (L2 weight decay, the public code's) or "adamw" (decoupled).
    lr, weight_decay : peak learning rate and weight decay.
    warmup_steps : linear warm-up, then a cosine to zero.
    clip_norm : largest gradient norm.
    precision : "fp32", or "bf16" for autocast.
    device : "auto" takes CUDA when there is one.
    checkpoint_every, validate_every : steps.
    seed : of everything that is drawn.
    """

    encoder: EncoderConfig
    mask_ratio: float
    crop_frames: int
    loss: str
    temperature: float
    gamma: float
    projection_dim: int
    steps: int
    batch_size: int
    optimizer: str
    lr: float
    weight_decay: float
    warmup_steps: int
    clip_norm: float
    precision: str
    device: str
    checkpoint_every: int
    validate_every: int
    seed: int

    def __post_init__(self) -> None:
        for name, known in (("loss", ("infonce", "sogclr")), ("optimizer", ("adam", "adamw")),
                            ("precision", ("fp32", "bf16"))):
            if getattr(self, name) not in known:
                raise KeyMynaError(f"{name} {getattr(self, name)!r}: choose one of {', '.join(known)}.")
        for name in ("crop_frames", "batch_size", "steps", "checkpoint_every", "validate_every"):
            if getattr(self, name) < 1:
                raise KeyMynaError(f"{name} {getattr(self, name)}: must be at least 1.")
        if not 0 <= self.mask_ratio < 1:
            raise KeyMynaError(f"mask_ratio {self.mask_ratio}: expected 0 <= mask_ratio < 1.")


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA when there is one, else the CPU.

    Raises
    ------
    KeyMynaError
        When CUDA is asked for and absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise KeyMynaError("device 'cuda': this machine shows no CUDA GPU; use device 'cpu' or 'auto'.")
    return torch.device(name)


def generator_for(seed: int, *words: int) -> torch.Generator:
    """A CPU generator for one purpose of one seed, independent of all others."""
    state = np.random.SeedSequence([seed, *words]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to zero at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class CropSampler:
    """Draws batches of two random crops a track from a corpus's spectrogram store.

    Parameters
    ----------
    corpus : the store.
    track_ids : the tracks to draw from.
    crop_frames : frames a crop; tracks that are shorter are padded with silence at the end.
    """

    def __init__(self, corpus: Corpus, track_ids: Sequence[str], crop_frames: int):
        self.frames = corpus.frames
        self.spans = corpus.offsets.loc[list(track_ids), ["first_frame", "n_frames"]].to_numpy()
        self.crop_frames = crop_frames

    def __len__(self) -> int:
        return len(self.spans)

    def tracks_of_step(self, step: int, batch_size: int, seed: int) -> Tensor:
        """(batch,) int64: the tracks of a step, each track once an epoch (epochs run on across steps)."""
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        orders = {epoch: torch.randperm(len(self), generator=generator_for(seed, 1, int(epoch)))
                  for epoch in np.unique(positions // len(self))}
        return torch.stack([orders[p // len(self)][p % len(self)] for p in positions])

    def crops(self, tracks: Tensor, generator: torch.Generator) -> Tensor:
        """(2, batch, mel, frame) float16: two crops of each track, their starts uniform and independent."""
        out = np.zeros((2, len(tracks), self.crop_frames, self.frames.shape[1]), np.float16)
        first, length = self.spans[tracks.numpy()].T
        room = np.maximum(length - self.crop_frames, 0)
        starts = (torch.rand(2, len(tracks), generator=generator).numpy() * (room + 1)).astype(int)
        for view in range(2):
            for row, start in enumerate(np.minimum(starts[view], room)):
                size = min(self.crop_frames, length[row])
                out[view, row, :size] = self.frames[first[row] + start:first[row] + start + size]
        return torch.from_numpy(out).transpose(2, 3)


class Pretraining:
    """Model, loss and optimizer of one run, and how they are saved and restored.

    Parameters
    ----------
    config : the run.
    corpus : its store.
    train, valid : track ids; only `train` is learned from.
    """

    def __init__(self, config: PretrainConfig, corpus: Corpus, train: Sequence[str], valid: Sequence[str]):
        self.config = config
        self.device = pick_device(config.device)
        self.train_sampler = CropSampler(corpus, train, config.crop_frames)
        self.valid_sampler = CropSampler(corpus, valid, config.crop_frames)
        self.fingerprint = sha256_json({"config": asdict(config), "corpus": corpus.hash, "tracks": list(train)})
        encoder = build_encoder(config.encoder, generator_for(config.seed, 0))
        head = (ProjectionHead(encoder.embedding_dim, config.projection_dim, generator_for(config.seed, 3))
                if config.projection_dim else torch.nn.Identity())
        loss = (InfoNCE(config.temperature) if config.loss == "infonce" else
                SogCLR(len(train), config.temperature, config.gamma))
        self.modules = torch.nn.ModuleDict({"encoder": encoder, "head": head, "loss": loss}).to(self.device)
        optimizer = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
        self.optimizer = optimizer(self.modules.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        self.step = 0
        self.history: list[dict[str, float]] = []

    @property
    def encoder(self) -> Encoder:
        return self.modules["encoder"]

    def _project(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """(2, batch, mel, frame) crops to (2, batch, projection)."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            embeddings = self.encoder(crops.to(self.device).flatten(0, 1), self.config.mask_ratio, generator)
            return self.modules["head"](embeddings).float().unflatten(0, (2, -1))

    def take_step(self) -> None:
        """One optimizer step; appends loss, in-batch top-1, learning rate and seconds to the history."""
        started, config = time.perf_counter(), self.config
        generator = generator_for(config.seed, 2, self.step)
        tracks = self.train_sampler.tracks_of_step(self.step, config.batch_size, config.seed)
        crops = self.train_sampler.crops(tracks, generator)
        tracks = tracks.to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        first, second = self._project(crops, generator)
        loss = self.modules["loss"](first, second, tracks)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), config.clip_norm)
        self.optimizer.step()
        self.history.append({"step": self.step, "loss": loss.item(), "top1": top1(first, second, tracks),
                             "lr": group["lr"], "seconds": time.perf_counter() - started})
        self.step += 1

    @torch.no_grad()
    def validate(self) -> float:
        """In-batch top-1 among the first `batch_size` validation tracks, with the same crops each time."""
        generator = generator_for(self.config.seed, 4)
        tracks = torch.arange(min(len(self.valid_sampler), self.config.batch_size))
        first, second = self._project(self.valid_sampler.crops(tracks, generator), generator)
        return top1(first, second, tracks.to(self.device))

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on, as safetensors."""
        tensors = {f"modules.{name}": value for name, value in self.modules.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        metadata = {"fingerprint": self.fingerprint, "step": str(self.step), "history": json.dumps(self.history)}
        with atomic_path(path) as temporary:
            save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata)

    def restore(self, path: Path) -> bool:
        """Take up a checkpoint of this very run; False (and nothing changed) when there is none that fits."""
        try:
            with safe_open(path, framework="pt", device=str(self.device)) as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except FileNotFoundError:
            return False
        except Exception as error:
            print(f"checkpoint {path.name} is damaged ({error}): starting from step 0.")
            return False
        if metadata["fingerprint"] != self.fingerprint:
            return False
        self.modules.load_state_dict({name.removeprefix("modules."): value for name, value in tensors.items()
                                      if name.startswith("modules.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                # Adam keeps its step count on the CPU.
                state.setdefault(int(index), {})[key] = value.cpu() if key == "step" else value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.step, self.history = int(metadata["step"]), json.loads(metadata["history"])
        return True


def pretrain(config: PretrainConfig, corpus: Corpus, train: Sequence[str], valid: Sequence[str],
             checkpoint: Path, *, show: bool = True) -> tuple[Encoder, pd.DataFrame]:
    """Pre-train an encoder, resuming from `checkpoint` when it is of this very run.

    Parameters
    ----------
    config : the run.
    corpus : spectrogram store.
    train, valid : track ids; `valid` only for the curve.
    checkpoint : written every `checkpoint_every` steps and at the end.
    show : draw a progress bar.

    Returns
    -------
    The encoder in evaluation mode on the CPU, and the history: one row a step with step, loss, top1, lr, seconds
    and, where it was measured, valid_top1.

    Raises
    ------
    KeyMynaError
        When there is nothing to train on, the device is absent, or the loss is no longer finite.
    """
    if not train or not valid:
        raise KeyMynaError("pre-training needs training and validation tracks; the corpus has none. Raise n_tunes.")
    if config.batch_size > len(train):
        raise KeyMynaError(f"batch_size {config.batch_size}: there are only {len(train)} training tracks, and a batch "
                           "holds a track once; lower it.")
    run = Pretraining(config, corpus, train, valid)
    if run.restore(checkpoint) and show:
        print(f"resumed at step {run.step} of {config.steps}.")
    run.modules.train()
    with bar(desc="pre-training", total=config.steps, unit="step", show=show) as progress:
        progress.update(run.step)
        while run.step < config.steps:
            run.take_step()
            record = run.history[-1]
            if not math.isfinite(record["loss"]):
                raise KeyMynaError(f"the loss became {record['loss']} at step {run.step}; lower lr (now {config.lr}).")
            if run.step % config.validate_every == 0 or run.step == config.steps:
                record["valid_top1"] = run.validate()
            if run.step % config.checkpoint_every == 0 or run.step == config.steps:
                run.save(checkpoint)
            progress.update()
            progress.set_postfix_str(f"loss {record['loss']:.2f}, top-1 {record['top1']:.2f}", refresh=False)
    return run.encoder.cpu().eval(), pd.DataFrame(run.history)
