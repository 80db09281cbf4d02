"""The pre-training step on one GPU: compiled, recorded as one CUDA graph, and never waited for.

A step draws its batch, runs encoder, loss and backward pass, clips and updates, all on the device; the host only says
which step it is and at what learning rate. The first steps are taken one kernel at a time, as real steps; the same
calls are then recorded and from there on replayed. Losses stay on the device until they are read, several at a time.
Where something cannot be compiled or recorded, the step is taken without, and a warning says so.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from keymyna_lib.accelerated.sampler import Crops, DeviceSampler, masks_before_looking
from keymyna_lib.accelerated.views import AUGMENTATIONS, band_centres
from keymyna_lib.compute import ranks
from keymyna_lib.model import Encoder, kept_tokens, packing_works
from keymyna_lib.objectives import Batch, Contrastive, Objective, Supervised, in_slices

if TYPE_CHECKING:
    from keymyna_lib.pretrain import PretrainConfig

READ_EVERY = 16  # steps; a loss that is no longer finite is noticed within as many
# Seconds, on an H200: to compile a step; what that saves a step, and besides by token, layer and width.
_COMPILING, _SAVED_A_STEP, _SAVED_A_VALUE = 20.0, 5e-4, 4e-11
_TAKEN_FIRST = 3  # steps before one is recorded: they compile, choose kernels and fill the optimizer's state


def steps_on_device(device: torch.device, objective: Objective) -> bool:
    """Whether a run takes its steps by `DeviceStep`: a single process, on a GPU, whose draws the device can make.

    Reconstruction, objectives and augmentations that this module does not know, and several processes do without.
    """
    # Exactly these classes: one that is derived from them may do something else with a batch.
    known = type(objective) is Supervised or (
        type(objective) is Contrastive and objective.augmentation in AUGMENTATIONS
    )
    return known and device.type == "cuda" and ranks.world() == 1


def worth_compiling(config: PretrainConfig, encoder: Encoder, objective: Objective) -> bool:
    """Whether a run is long enough for a compiled step to make up for the time that compiling takes."""
    crop = encoder.trim(torch.empty(1, encoder.config.n_bands, config.crop_frames))
    grids = [branch[0].grid(crop) for branch in encoder.branches]
    masked = config.mask_ratio if isinstance(objective, Contrastive) else 0.0
    tokens = config.batch_size * objective.views * sum(kept_tokens(rows * cols, masked) for rows, cols in grids)
    saved = _SAVED_A_STEP + _SAVED_A_VALUE * tokens * encoder.dim * len(encoder.transformer.layers)
    return config.steps * saved > _COMPILING


class DeviceStep:
    """Steps of one run on one device.

    Parameters
    ----------
    encoder, objective : what is trained, on the device.
    optimizer : with its learning rate in a tensor on the device; on CUDA "capturable".
    sampler : draws batches on the device.
    clip_norm : largest gradient norm.
    precision : "fp32", or "bf16" for autocast, with TF32 for what remains in float32.
    compiled, recorded : whether to compile, and to record a CUDA graph; the latter on CUDA only.

    Raises
    ------
    KeyMynaError
        When a crop is shorter than a patch.
    """

    def __init__(
        self,
        encoder: Encoder,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        sampler: DeviceSampler,
        *,
        clip_norm: float,
        precision: str,
        compiled: bool,
        recorded: bool,
    ):
        self.encoder, self.objective, self.optimizer, self.sampler = encoder, objective, optimizer, sampler
        self.clip_norm, self.precision = clip_norm, precision
        self.device = sampler.device
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        crop = encoder.trim(torch.empty(1, encoder.config.n_bands, sampler.crop_frames))
        self._frames = crop.shape[2]
        for branch in encoder.branches:
            encoder.positions(branch[0].grid(crop), self.device)
        if compiled:
            torch.compiler.reset()  # the compiler gives up on a function after a few versions; each run makes one
            for constant in (packing_works, band_centres):  # marked here, as that imports the compiler
                torch.compiler.assume_constant_result(constant)
        self._forward = torch.compile(self.forward, dynamic=False) if compiled else self.forward
        self._compiled, self._recorded = compiled, recorded and self.device.type == "cuda"
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._taken = 0
        self._found = torch.zeros(2, device=self.device)
        self._log = torch.zeros(READ_EVERY, 2, device=self.device)
        self.unread = 0

    def forward(self) -> tuple[Tensor, Tensor]:
        """() loss and () measure of the step that the sampler has been prepared for."""
        objective, tracks = self.objective, self.sampler.tracks()
        crops = replace(self.sampler.crops(tracks), n_frames=self._frames)
        batch = Batch(torch.empty(0), tracks, self.sampler.keys(tracks))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if isinstance(objective, Contrastive):
                outputs = objective.project(self._embeddings(crops, objective))
            else:
                batch = replace(batch, crops=crops.whole()[None])
                outputs = objective(self.encoder, batch, None)
        return objective.loss(outputs, batch), objective.measure(outputs.detach(), batch)

    def _embeddings(self, crops: Crops, objective: Contrastive) -> Tensor:
        """(view x batch, embedding); of crops that are masked and not augmented, only kept patches are fetched."""
        sizes = [branch[0].size for branch in self.encoder.branches]
        grids = [crops.grid(size) for size in sizes]
        keeps: list[Tensor] = []
        if objective.mask_ratio > 0:
            keeps = [self.sampler.keep(i, math.prod(grid), objective.mask_ratio) for i, grid in enumerate(grids)]
        if not masks_before_looking(objective):
            whole = AUGMENTATIONS[objective.augmentation](crops.whole(), self.sampler.draws)
            return in_slices(self.encoder.embed, objective.rows_at_a_time, whole, *keeps)

        def embed(*rows: Tensor) -> Tensor:
            means = []
            for branch, grid, patches, keep in zip(self.encoder.branches, grids, rows, rows[len(grids) :]):
                tokens = self.encoder.embed_patches(branch, patches, grid, keep)
                means.append(self.encoder.transformer(tokens).mean(dim=1))
            return torch.cat(means, dim=1)

        patches = [crops.patches(size, keep) for size, keep in zip(sizes, keeps)]
        return in_slices(embed, objective.rows_at_a_time, *patches, *keeps)

    def take(self, step: int, lr: float) -> None:
        """Put a step in the device's queue.

        Parameters
        ----------
        step : its number, which fixes what is drawn.
        lr : its learning rate.
        """
        with self._queue(), _tf32(self.device, self.precision):
            self.sampler.prepare(step)
            for group in self.optimizer.param_groups:
                group["lr"].fill_(lr)
            if self._recorded and self._graph is None and self._taken >= _TAKEN_FIRST:
                self._record()
            if self._graph is not None:
                self._graph.replay()
            else:
                self._take_or_fall_back()
            self._log[self.unread].copy_(self._found)
        self._taken += 1
        self.unread += 1

    def read(self) -> list[list[float]]:
        """Loss and measure of each step since the last reading; waits for the device. READ_EVERY steps at most."""
        found = self._log[: self.unread].tolist()
        self.unread = 0
        return found

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss, measure = self._forward()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self.clip_norm, foreach=True)
        self.optimizer.step()
        self._found.copy_(torch.stack([loss.detach(), measure]))

    def _take_or_fall_back(self) -> None:
        try:
            self._step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if not self._compiled:
                raise
            warnings.warn(f"the step is not compiled: {type(error).__name__}: {error}", stacklevel=3)
            self._compiled, self._forward = False, self.forward
            self._step()

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)  # gradients are to lie in the graph's own memory
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._step()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            warnings.warn(f"the step is not recorded: {type(error).__name__}: {error}", stacklevel=3)
            self._recorded = False
        else:
            self._graph = graph

    @contextlib.contextmanager
    def _queue(self) -> Iterator[None]:
        """A stream of its own, as recording needs one, in order with what comes before and after."""
        if self._stream is None:
            yield
            return
        outer = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(outer)
        with torch.cuda.stream(self._stream):
            yield
        outer.wait_stream(self._stream)


@contextlib.contextmanager
def _tf32(device: torch.device, precision: str) -> Iterator[None]:
    """TF32 for matrix products in float32, where bf16 is good enough for the others."""
    if device.type != "cuda" or precision != "bf16":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
