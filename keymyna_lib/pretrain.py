"""The pre-training loop: random crops of training tracks, an objective, an optimizer, checkpoints and a curve.

Every draw comes from a stream of the seed that names the step (where crops start, which tokens are masked) or the epoch
(the order of tracks), so that a run resumed from a checkpoint takes exactly the steps an unbroken one would have taken.

On a GPU batches are drawn there and steps are queued, compiled and recorded (see `accelerated`): other draws than on a
CPU, resumed as exactly.

On several processes (see `compute.ranks`) each draws its share of a batch from its own share of the training tracks and
reads no others; losses and gradients are those of the joint batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from keymyna_lib.accelerated.sampler import sampler_for
from keymyna_lib.accelerated.step import READ_EVERY, DeviceStep, steps_on_device, worth_compiling
from keymyna_lib.base import paths
from keymyna_lib.base.checks import check, one_of, ranges_of
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.hashing import code_hash_of, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.compute import ranks
from keymyna_lib.compute.checkpoints import read_checkpoint, save_checkpoint
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.front_ends import N_BANDS, same_front_end
from keymyna_lib.losses import LOSSES
from keymyna_lib.model import Encoder, EncoderConfig, build_encoder
from keymyna_lib.objectives import OBJECTIVES, Batch, Objective
from keymyna_lib.spectrogram import WINDOW
from keymyna_lib.views import AUGMENTATIONS

INITIAL_WEIGHTS = "initial weights"  # name of the stream that an encoder is initialised from
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
PRECISIONS = ("fp32", "bf16")
_SMALL_TEMPERATURE = 2 / 88  # two cosines differ by 2 at most, and exp(88) is about the largest float32


@dataclass(frozen=True)
class PretrainConfig:
    """One pre-training run. The defaults are those of `mini`, which the notebooks repeat; `paper` has the paper's.

    Attributes
    ----------
    encoder : architecture and input.
    objective : a name in `objectives.OBJECTIVES`; the paper's is "contrastive".
    mask_ratio : share of the tokens dropped in each view.
    augmentation : of the contrastive views, a name in `views.AUGMENTATIONS`; the paper's is "none".
    crop_frames : length of a crop, frames of 32 ms.
    crop_distance : greatest distance between the starts of a track's two crops, frames; 0 for any.
    loss : of the contrastive objective, a name in `losses.LOSSES`; the paper's is "sogclr".
    temperature : of the contrastive loss.
    gamma : SogCLR's weight of the newest batch.
    projection_dim : outputs of the contrastive projection head; 0 for none.
    transpositions : of each track, for the objective "transposed".
    steps, batch_size : optimizer steps, tracks per step (of all processes together).
    micro_batch : contrastive: tracks that are embedded at a time (by each process), for memory; 0 for all. The loss is
        still that of the whole batch.
    optimizer : "adam" (L2 weight decay, as in the reference implementation) or "adamw" (decoupled).
    lr, weight_decay : peak learning rate and weight decay.
    warmup_steps : linear warm-up, then a cosine to zero.
    clip_norm : largest gradient norm.
    precision : "fp32", or "bf16" for autocast.
    device : "auto" takes CUDA when there is one.
    checkpoint_every, validate_every : steps.
    seed : of everything that is drawn.

    Raises
    ------
    KeyMynaError
        When a name is unknown, a value out of range, the warm-up longer than the run, a crop narrower than a patch, or
        the objective cannot be trained so.
    """

    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    objective: str = "contrastive"
    mask_ratio: float = 0.9
    augmentation: str = "none"
    crop_frames: int = WINDOW
    crop_distance: int = 0
    loss: str = "sogclr"
    temperature: float = 0.1
    gamma: float = 0.9
    projection_dim: int = 128
    transpositions: int = 4
    steps: int = 150
    batch_size: int = 128
    micro_batch: int = 0
    optimizer: str = "adam"
    lr: float = 1e-3
    weight_decay: float = 1e-5
    warmup_steps: int = 15
    clip_norm: float = 1.0
    precision: str = "fp32"
    device: str = "auto"
    checkpoint_every: int = 100
    validate_every: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        names = {
            "objective": OBJECTIVES,
            "augmentation": AUGMENTATIONS,
            "loss": LOSSES,
            "optimizer": OPTIMIZERS,
            "precision": PRECISIONS,
        }
        check(self, {name: one_of(known) for name, known in names.items()} | ranges_of(PretrainConfig))
        if self.warmup_steps > self.steps:
            raise KeyMynaError(
                f"warmup_steps {self.warmup_steps}: expected no more than steps, which is {self.steps}; "
                f"a tenth of them, as in the paper, is -p warmup_steps {self.steps // 10}."
            )
        width = max(frames for _, frames in self.encoder.patch_sizes)
        if self.crop_frames < width:
            raise KeyMynaError(
                f"crop_frames {self.crop_frames}: patches {self.encoder.patch!r} are {width} frames wide; take as many."
            )
        OBJECTIVES[self.objective].check(self)

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any], **changes: Any) -> PretrainConfig:
        """The run that a notebook's parameters stand for; what they do not say has its default.

        Parameters
        ----------
        parameters : by name, with those of the encoder (`preset`, `patch`, `scale`, `front_end`) beside the fields; in
            a notebook `globals()`. Names that are no settings are passed over.
        changes : fields to set otherwise.

        Raises
        ------
        KeyMynaError
            As the constructor.
        """

        def given(kind: type) -> dict[str, Any]:
            return {one.name: parameters[one.name] for one in fields(kind) if one.name in parameters}

        return cls(**given(cls) | {"encoder": EncoderConfig(**given(EncoderConfig))} | changes)


def learning_rate(step: int, config: PretrainConfig) -> float:
    """Learning rate of a step: linear warm-up, then half a cosine down to zero at the last step."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


class CropSampler:
    """Draws batches of random crops from a corpus's spectrogram store.

    Parameters
    ----------
    corpus : the store.
    track_ids : the tracks to draw from.
    crop_frames : frames per crop; shorter tracks are padded with silence at the end.
    crop_distance : greatest distance of a track's further crops from its first, frames; 0 for any.
    rank, world : of the processes that share the tracks; this one draws from positions rank, rank + world, ...
    """

    def __init__(
        self,
        corpus: Corpus,
        track_ids: Sequence[str],
        crop_frames: int,
        crop_distance: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
    ):
        own = list(track_ids)[rank::world]
        self.frames, self.n_bands = corpus.frames, N_BANDS[corpus.front_end]
        self.spans = corpus.offsets.loc[own, ["shard", "first_frame", "n_frames"]].to_numpy()
        self.keys = torch.tensor(corpus.manifest.loc[own, "key"].tolist())
        self.crop_frames, self.crop_distance = crop_frames, crop_distance
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return len(self.spans)

    def tracks_of_step(self, step: int, batch_size: int, seed: int) -> Tensor:
        """(batch,) int64: which own tracks a step takes, each track once per epoch (an epoch may end within a step)."""
        epochs, places = np.divmod(np.arange(step * batch_size, (step + 1) * batch_size), len(self))
        orders = {
            epoch: torch.randperm(len(self), generator=torch_stream(seed, "order of tracks", epoch, self.rank))
            for epoch in np.unique(epochs)
        }
        return torch.cat([order[places[epochs == epoch]] for epoch, order in orders.items()])

    def batch(self, tracks: Tensor, views: int, generator: torch.Generator) -> Batch:
        """Crops of own tracks: the first one's start is uniform, the others' within `crop_distance` of it.

        Parameters
        ----------
        tracks : (batch,) int64, positions among the own tracks.
        views : crops of each track.
        """
        crops = np.zeros((views, len(tracks), self.crop_frames, self.n_bands), np.float16)
        shard, first_frame, length = self.spans[tracks.numpy()].T
        room = np.maximum(length - self.crop_frames, 0)  # the last possible start
        draws = torch.rand(views, len(tracks), generator=generator).numpy()
        start = np.minimum((draws[0] * (room + 1)).astype(int), room)
        low, high = np.zeros_like(room), room
        if self.crop_distance:
            low, high = np.maximum(start - self.crop_distance, 0), np.minimum(start + self.crop_distance, room)
        others = np.minimum(low + (draws[1:] * (high - low + 1)).astype(int), high)
        sizes = np.minimum(self.crop_frames, length)
        for view, starts in zip(crops, [start, *others]):
            for crop, part, begin, size in zip(view, shard, first_frame + starts, sizes):
                crop[:size] = self.frames[part][begin : begin + size]
        return Batch(torch.from_numpy(crops).transpose(2, 3), tracks * self.world + self.rank, self.keys[tracks])


def training_tracks(config: PretrainConfig, corpus: Corpus) -> list[str]:
    """Ids of the tracks that a run learns from: all that pre-training may use, or the labelled ones of "train"."""
    return corpus.pretraining_tracks(labelled=OBJECTIVES[config.objective].labelled)


class _Modules(torch.nn.ModuleDict):
    """Encoder and objective, called as one."""

    def forward(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return self["objective"](self["encoder"], batch, generator)


class Pretraining:
    """Encoder, objective and optimizer of one run, and how they are saved and restored.

    Parameters
    ----------
    config : the run.
    corpus : its store.
    train, valid : track ids; only `train` is learned from.
    store_bytes : memory of a GPU that spectrograms may take; None for half of what is free.
    """

    def __init__(
        self,
        config: PretrainConfig,
        corpus: Corpus,
        train: Sequence[str],
        valid: Sequence[str],
        *,
        store_bytes: int | None = None,
    ):
        self.config = config
        same_front_end(config.encoder.front_end, corpus.front_end)
        self.device = pick_device(config.device)
        self.train_sampler = CropSampler(
            corpus, train, config.crop_frames, config.crop_distance, rank=ranks.rank(), world=ranks.world()
        )
        self.valid_sampler = CropSampler(corpus, valid, config.crop_frames, config.crop_distance)
        self.fingerprint = sha256_json({"config": asdict(config), "corpus": corpus.hash, "tracks": list(train)})
        encoder = build_encoder(config.encoder, torch_stream(config.seed, INITIAL_WEIGHTS))
        encoder.crop_frames = config.crop_frames
        objective = OBJECTIVES[config.objective].from_config(
            config, encoder, len(train), torch_stream(config.seed, "objective")
        )
        self.modules = _Modules({"encoder": encoder, "objective": objective}).to(self.device)
        # DistributedDataParallel averages gradients while the backward pass is still running; buffers are SogCLR's
        # state, which each process has for itself.
        self._forward = (
            DistributedDataParallel(self.modules, broadcast_buffers=False) if ranks.world() > 1 else self.modules
        )
        on_device = steps_on_device(self.device, objective)
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.modules.parameters(),
            lr=torch.tensor(config.lr, device=self.device) if on_device else config.lr,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=on_device,
        )
        self.device_step: DeviceStep | None = None
        if on_device:
            sampler = sampler_for(config, encoder, objective, corpus, train, self.device, store_bytes)
            self.device_step = DeviceStep(
                encoder,
                objective,
                self.optimizer,
                sampler,
                clip_norm=config.clip_norm,
                precision=config.precision,
                compiled=self.device.type == "cuda" and worth_compiling(config, encoder, objective),
                recorded=True,
            )
        self.step = 0
        self.history: list[dict[str, float]] = []

    @property
    def encoder(self) -> Encoder:
        """What is trained for use."""
        return self.modules["encoder"]

    @property
    def objective(self) -> Objective:
        """What it is trained by; thrown away afterwards."""
        return self.modules["objective"]

    def outputs(self, sampler: CropSampler, tracks: Tensor, generator: torch.Generator) -> tuple[Tensor, Batch]:
        """Draw crops of some tracks and run them through encoder and objective.

        Parameters
        ----------
        sampler : `train_sampler` or `valid_sampler`.
        tracks : (batch,) int64, positions among the sampler's own tracks.
        generator : draws crops, augmentations and masks.

        Returns
        -------
        The objective's outputs, and the batch, both on the run's device.
        """
        batch = sampler.batch(tracks, self.objective.views, generator)
        batch = Batch(batch.crops.to(self.device), batch.tracks.to(self.device), batch.keys.to(self.device))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self._forward(batch, generator), batch

    def take_step(self) -> None:
        """One optimizer step; appends loss, measure (of the joint batch), learning rate and seconds to the history.

        On a GPU the step is only put in its queue; `settle` appends it, at the latest after READ_EVERY steps.
        """
        started, config = time.perf_counter(), self.config
        if self.device_step is not None:
            if not self.device_step.unread:
                self._unsettled_since = started
            self.device_step.take(self.step, learning_rate(self.step, config))
            self.step += 1
            if self.device_step.unread == READ_EVERY:
                self.settle()
            return
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, config)
        tracks = self.train_sampler.tracks_of_step(self.step, config.batch_size // ranks.world(), config.seed)
        outputs, batch = self.outputs(
            self.train_sampler, tracks, torch_stream(config.seed, "batch", self.step, ranks.rank())
        )
        loss = self.objective.loss(outputs, batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.modules.parameters(), config.clip_norm)
        self.optimizer.step()
        own = torch.tensor(
            [[loss.item(), float(self.objective.measure(outputs.detach(), batch))]],
            dtype=torch.float64,
            device=self.device,
        )
        joint_loss, measure = ranks.gather(own).mean(dim=0).tolist()
        self.history.append(
            {
                "step": self.step,
                "loss": joint_loss,
                "measure": measure,
                "lr": group["lr"],
                "seconds": time.perf_counter() - started,
            }
        )
        self.step += 1

    def settle(self) -> None:
        """Wait for the steps in a GPU's queue and append them to the history; elsewhere nothing is outstanding."""
        if self.device_step is None or not self.device_step.unread:
            return
        found = self.device_step.read()
        seconds = (time.perf_counter() - self._unsettled_since) / len(found)
        for step, (loss, measure) in enumerate(found, self.step - len(found)):
            lr = learning_rate(step, self.config)
            self.history.append({"step": step, "loss": loss, "measure": measure, "lr": lr, "seconds": seconds})

    @torch.no_grad()
    def validate(self) -> float:
        """The objective's measure on the first `batch_size` validation tracks, with the same crops each time.

        Every process takes it for itself, on all of them.
        """
        tracks = torch.arange(min(len(self.valid_sampler), self.config.batch_size))
        with ranks.alone():
            outputs, batch = self.outputs(
                self.valid_sampler, tracks, torch_stream(self.config.seed, "validation batch")
            )
            return float(self.objective.measure(outputs, batch))

    def save(self, path: Path) -> None:
        """Write everything that the next step depends on; all processes call it, the first writes."""
        states = {"modules": self.modules.state_dict()}
        save_checkpoint(
            path, states, self.optimizer, fingerprint=self.fingerprint, step=self.step, history=self.history
        )

    def restore(self, path: Path) -> bool:
        """Resume from a checkpoint of this very run; False (and nothing changed) when there is none that fits."""
        found = read_checkpoint(path, self.fingerprint)
        if found is None:
            return False
        self.modules.load_state_dict(found.states["modules"])
        found.restore_optimizer(self.optimizer)
        self.step, self.history = found.step, found.history
        return True


def pretrain(
    config: PretrainConfig,
    corpus: Corpus,
    train: Sequence[str],
    valid: Sequence[str],
    checkpoint: Path,
    *,
    desc: str = "pre-training",
    show: bool = True,
    store_bytes: int | None = None,
) -> tuple[Encoder, pd.DataFrame]:
    """Pre-train an encoder, resuming from `checkpoint` when it belongs to this very run.

    Parameters
    ----------
    config : the run.
    corpus : spectrogram store.
    train, valid : track ids; `valid` only for the curve.
    checkpoint : written every `checkpoint_every` steps and at the end.
    desc, show : the progress bar's text, and whether to draw it.
    store_bytes : see `Pretraining`.

    Returns
    -------
    The encoder in evaluation mode on the CPU, and the history: one row per step with step, loss, measure (see
    `Objective.measured`), lr, seconds and, where it was taken, valid_measure.

    Raises
    ------
    KeyMynaError
        When there is nothing to train on, the corpus holds spectrograms of another front end, the device is absent, a
        batch cannot be divided evenly, the processes do not see the same checkpoint, or the loss is no longer finite.
    """
    if not train or not valid:
        raise KeyMynaError("pre-training needs training and validation tracks; the corpus has none. Raise n_tunes.")
    if config.batch_size > len(train):
        raise KeyMynaError(f"batch_size {config.batch_size}: there are only {len(train)} training tracks; lower it.")
    if config.batch_size % ranks.world():
        raise KeyMynaError(
            f"batch_size {config.batch_size}: it is divided evenly among {ranks.world()} "
            "processes; make it a multiple of their number."
        )
    show = show and not ranks.rank()
    run = Pretraining(config, corpus, train, valid, store_bytes=store_bytes)
    resumed = run.restore(checkpoint)
    if len(ranks.gather(torch.tensor([run.step], device=run.device)).unique()) > 1:
        raise KeyMynaError(
            f"the processes do not see the same {checkpoint}. All machines need the clone, or "
            "KEYMYNA_CACHE, in a folder that they share."
        )
    if resumed and show and run.step < config.steps:
        print(f"resumed at step {run.step} of {config.steps}.")
    run.modules.train()
    with bar(desc=desc, total=config.steps, unit="step", show=show) as progress:
        progress.update(run.step)
        while run.step < config.steps:
            known = len(run.history)
            run.take_step()
            last = run.step == config.steps
            validate, save = (last or run.step % n == 0 for n in (config.validate_every, config.checkpoint_every))
            if validate or save:
                run.settle()
            for record in run.history[known:]:
                if not math.isfinite(loss := record["loss"]):
                    raise KeyMynaError(
                        f"the loss became {loss} at step {record['step'] + 1}; {_remedy(config, record)}."
                    )
                progress.set_postfix_str(
                    f"loss {loss:.2f}, {run.objective.measured} {record['measure']:.2f}", refresh=False
                )
            if validate:
                run.history[-1]["valid_measure"] = run.validate()
            if save:
                run.save(checkpoint)
            progress.update()
    return run.encoder.cpu().eval(), pd.DataFrame(run.history)


def _remedy(config: PretrainConfig, record: Mapping[str, float]) -> str:
    """What to change after a loss that is not finite, in words."""
    lr, temperature = f"lower lr (now {config.lr})", f"raise temperature (now {config.temperature})"
    if config.objective == "contrastive" and config.temperature < _SMALL_TEMPERATURE:
        return f"{temperature}: cosines divided by it overflow"
    if record["step"]:
        return lr
    return (
        "it is the first, before lr counts: look for damaged spectrograms, or try scale log1p and precision fp32"
        if config.objective != "contrastive"
        else f"it is the first, before lr counts: {temperature}, or try scale log1p and precision fp32"
    )


def pretrain_once(
    config: PretrainConfig, corpus: Corpus, train: Sequence[str], valid: Sequence[str], *, desc: str
) -> tuple[Encoder, pd.DataFrame]:
    """`pretrain`, but taken from the cache when this code has finished this very run before.

    Many notebooks compare the same encoder with others; it is trained once.
    """
    name = sha256_json([asdict(config), corpus.hash, list(train), code_hash_of(__name__)])[:16]
    return pretrain(config, corpus, train, valid, paths.CACHE / "pretraining" / f"{name}.safetensors", desc=desc)
