"""`keymyna bench --gpu`: does the GPU compute what the CPU computes, and how fast, in under four minutes.

Parts come in the order in which one wants to know them. A part that fails costs only itself; everything is written as
soon as it is known. Of what takes no CUDA all runs on a CPU as well, which is how it is tested.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from keymyna_lib.accelerated.draws import Draws, key_for
from keymyna_lib.accelerated.sampler import DeviceSampler, FedSampler, ResidentFrames, sampler_for
from keymyna_lib.accelerated.step import READ_EVERY, DeviceStep, worth_compiling
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import write_json
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.bench import material
from keymyna_lib.bench import step as steps
from keymyna_lib.bench.goals import GOALS, ON_CPU, OURS, REFERENCE, SUBJECT, Goal, table
from keymyna_lib.bench.measure import (
    Action,
    Measurement,
    alternate,
    in_fresh_process,
    machine,
    product_action,
    summary,
    synchronised,
)
from keymyna_lib.compute import ranks
from keymyna_lib.corpus.corpus import Corpus, open_corpus
from keymyna_lib.experiments.cost import counted_flops
from keymyna_lib.features import embed
from keymyna_lib.heads import HeadSpec, linear_probe_grid, train_heads, wide_mlp_grid
from keymyna_lib.model import EncoderConfig, build_encoder
from keymyna_lib.pretrain import PretrainConfig, Pretraining
from keymyna_lib.report import provenance
from keymyna_lib.report.intervals import NOT_RUN
from keymyna_lib.spectrogram import N_MELS, WINDOW

BUDGET = 230.0  # s; no part begins later
_LIMIT = 90.0  # s of a process of its own, as processes that cannot find each other wait for long
_FEW_STEPS = 8  # of a check: by single kernels first, the rest by the recorded graph


@dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes
    ----------
    large, small : encoders.
    batches : of the large encoder, the larger one first; small_batch : of the small one.
    tracks, frames : of the corpus of noise, frames of each track.
    reference_files, loader_workers, reference_batches : tracks that the reference implementation reads from files, by
        so many processes, and the batches that are timed.
    product : side of the matrix product that is the ceiling.
    windows : that are embedded.
    head_rows, head_dim, widths : rows that heads learn from, features, and widths of grid B.
    head_steps, head_steps_on_cpu : that are timed; on the GPU so many that setting up counts for little.
    seconds : of each timing, about.
    checked, checked_batch : encoder and batch of the comparisons with the CPU.
    """

    large: str = "vit-s"
    small: str = "vit-xxs"
    batches: tuple[int, int] = (4096, 1024)
    small_batch: int = 128
    tracks: int = 4560
    frames: int = 938
    reference_files: int = 2048
    loader_workers: int = 4
    reference_batches: int = 4
    product: int = 8192
    windows: int = 8192
    head_rows: int = 8192
    head_dim: int = 384
    widths: tuple[int, ...] = (1024, 2048, 4096, 8192)
    head_steps: int = 1000
    head_steps_on_cpu: int = 16
    seconds: float = 2.0
    checked: str = "vit-xxs"
    checked_batch: int = 32


SIZES = {
    "full": Size(),
    "tiny": Size(
        large="vit-toy",
        small="vit-toy",
        batches=(16, 8),
        small_batch=4,
        tracks=24,
        frames=250,
        reference_files=16,
        loader_workers=0,
        reference_batches=2,
        product=256,
        windows=8,
        head_rows=256,
        head_dim=16,
        widths=(32, 64),
        head_steps=6,
        head_steps_on_cpu=2,
        seconds=0.0,
        checked="vit-toy",
        checked_batch=8,
    ),
}


@dataclass(frozen=True)
class Check:
    """A comparison with the CPU, or with an unbroken run.

    Attributes
    ----------
    name : what was compared.
    found : the largest difference; None where it could not be taken.
    bound : the largest that passes.
    note : why it could not be taken.
    """

    name: str
    found: float | None
    bound: float
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the bound; not a number is not."""
        return self.found is not None and self.found <= self.bound

    def __str__(self) -> str:
        found = self.note if self.found is None else f"{self.found:.2g}"
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name}: {found} (bound {self.bound:g})"


@dataclass
class Bench:
    """What the parts share: device, size and a folder for a corpus, which is made when first asked for."""

    device: torch.device
    size: Size
    folder: Path

    @cached_property
    def corpus(self) -> Corpus:
        """Noise, enough tracks for the largest batch."""
        return material.write_corpus(self.folder / "corpus", self.size.tracks, self.size.frames)

    @cached_property
    def small_corpus(self) -> Corpus:
        """Noise, a few tracks for comparisons."""
        return material.write_corpus(self.folder / "small-corpus", 3 * self.size.checked_batch, 300)

    @cached_property
    def attention(self) -> Future[dict[torch.dtype, float]]:
        """What `attention_apart` finds, begun when first asked for, beside other checks: it compiles for long."""
        pool = ThreadPoolExecutor(1)
        try:
            return pool.submit(in_fresh_process, attention_apart, self.device, limit=_LIMIT)
        finally:
            pool.shutdown(wait=False)

    @property
    def on_gpu(self) -> bool:
        """False in tests."""
        return self.device.type == "cuda"

    def settings(self, preset: str, batch_size: int, mask_ratio: float = 0.9, **changes: Any) -> PretrainConfig:
        """The paper's step on the device, in bfloat16."""
        made = steps.config(preset, batch_size, mask_ratio, device=self.device.type, precision="bf16")
        return replace(made, **changes)

    def checked(self, **changes: Any) -> PretrainConfig:
        """A short run whose losses are compared, in float32."""
        values: dict[str, Any] = dict(
            encoder=EncoderConfig(self.size.checked, "vertical", "log1p"),
            batch_size=self.size.checked_batch,
            projection_dim=32,
            lr=1e-4,
            steps=2 * _FEW_STEPS,
            warmup_steps=2,
            device=self.device.type,
            checkpoint_every=_FEW_STEPS,
            validate_every=_FEW_STEPS,
        )
        return PretrainConfig(**values | changes)


Result = Measurement | Check
Part = Callable[[Bench], Iterator[Result]]


# Correctness


def run_of(settings: PretrainConfig, corpus: Corpus, *, by_device_step: bool = True) -> Pretraining:
    """A run on a corpus, its steps taken by `DeviceStep` whatever the device, or as on several processes.

    On a CPU the steps are those of a GPU, drawn alike, in single operations.
    """
    train, valid = (corpus.tracks(split=split) for split in ("train", "valid"))
    run = Pretraining(settings, corpus, train, valid, store_bytes=sys.maxsize)
    run.modules.train()
    if not by_device_step:
        run.device_step = None
    elif run.device_step is None:
        for group in run.optimizer.param_groups:
            group["lr"] = torch.tensor(settings.lr)
        sampler = sampler_for(settings, run.encoder, run.objective, corpus, train, run.device, sys.maxsize)
        run.device_step = DeviceStep(
            run.encoder,
            run.objective,
            run.optimizer,
            sampler,
            clip_norm=settings.clip_norm,
            precision=settings.precision,
            compiled=False,
            recorded=False,
        )
    return run


def losses(run: Pretraining, n_steps: int = _FEW_STEPS) -> np.ndarray:
    """The losses of a run's next steps."""
    for _ in range(n_steps):
        run.take_step()
    run.settle()
    return np.array([record["loss"] for record in run.history[-n_steps:]])


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to what is expected where that is above 1."""
    return float((np.abs(found - expected) / np.maximum(1, np.abs(expected))).max())


def _relative(found: Tensor, expected: Tensor) -> float:
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).norm() / expected.norm())


def _apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of two states; not a number where a value is none."""
    pairs = [(value.detach().double(), other[name].detach().double()) for name, value in one.items()]
    return max(float((value - expected).abs().max()) for value, expected in pairs)


def check_draws(bench: Bench) -> Iterator[Result]:
    """Draws, batches and fetched patches on the device are those on the CPU, and fed as from the resident store."""
    if bench.on_gpu:
        _ = bench.attention  # begun here, the first of the checks
    here, there = (Draws(torch.tensor(key_for(5), device=device)) for device in ("cpu", bench.device))
    limits = torch.arange(1, 1001)
    pairs = [
        (here.words(0, 1000), there.words(0, 1000)),
        (here.below(2, limits), there.below(2, limits.to(bench.device))),
        (here.subsets(3, 500, 98, 10), there.subsets(3, 500, 98, 10)),
        (here.order(4, 5000), there.order(4, 5000)),
    ]
    corpus, settings = bench.small_corpus, bench.checked()
    tracks = corpus.tracks(split="train")
    draws = dict(batch_size=settings.batch_size, views=2, crop_frames=WINDOW, crop_distance=40, seed=1)
    resident = []
    for device in (torch.device("cpu"), bench.device):
        store = ResidentFrames(corpus, tracks, device)
        resident.append(DeviceSampler(store.spans, store.frames, **draws))
    fed = FedSampler(corpus, tracks, bench.device, patch_sizes=[(N_MELS, 2)], mask_ratio=0.9, n_frames=WINDOW, **draws)
    for step in (0, 7):
        patches = []
        for sampler in (*resident, fed):
            sampler.prepare(step)
            crops, keep = sampler.crops(sampler.tracks()), sampler.keep(0, WINDOW // 2, 0.9)
            patches.append(crops.patches((N_MELS, 2), keep))
        pairs += [(patches[0], other) for other in patches[1:]]
    yield Check("what is drawn and fetched, against the CPU", float(sum(_unlike(*pair) for pair in pairs)), 0)


def _unlike(one: Tensor, other: Tensor) -> int:
    return int((one.cpu() != other.cpu()).sum())


def check_float32(bench: Bench) -> Iterator[Result]:
    """Losses of a few float32 steps of each kind."""
    hybrid = EncoderConfig(bench.size.checked, "hybrid", "log1p")
    cases: dict[str, dict[str, Any]] = {
        "SogCLR, 90 % masked": dict(),
        "hybrid patches, InfoNCE, in slices": dict(
            encoder=hybrid, loss="infonce", micro_batch=bench.size.checked_batch // 2
        ),
        "supervised": dict(objective="supervised", mask_ratio=0.0),
    }
    for name, changes in cases.items():
        run = run_of(bench.checked(**changes), bench.small_corpus)
        found = losses(run)
        yield Check(
            f"float32 steps, {name}, against the CPU",
            difference(found, losses(run_of(bench.checked(**changes, device="cpu"), bench.small_corpus))),
            1e-4,
        )


def check_heads(bench: Bench) -> Iterator[Result]:
    """Heads without dropout, whose draws are the device's own; with it, that they can be repeated."""
    train, valid = (material.rows(n, 4, 48, seed=seed) for seed, n in enumerate((200, 60)))
    shapes: list[tuple[int, ...]] = [(), (64,), (32, 32)]
    grid = [HeadSpec(hidden, 0.0, lr, 1e-4, 32, s) for hidden in shapes for lr in (1e-3, 1e-2) for s in (True, False)]
    grid += [replace(spec, mixup=0.4) for spec in grid if spec.hidden]

    def trained(device: str, grid: list[HeadSpec], dtype: torch.dtype) -> Any:
        return train_heads(
            grid, train, valid, max_steps=120, eval_every=20, patience=2, seed=1, device=device, dtype=dtype
        )

    device = bench.device.type
    for dtype, bound in ((torch.float64, 1e-6), (torch.float32, 2e-3)):
        pairs = list(zip(trained(device, grid, dtype), trained("cpu", grid, dtype)))
        apart = max(abs(x[2] - y[2]) for one, other in pairs for x, y in zip(one.valid_curve, other.valid_curve))
        if dtype == torch.float64:  # a validation score that flips by rounding would move the best check
            apart = max([apart, *(_apart(one.parameters, other.parameters) for one, other in pairs)])
        yield Check(f"a grid of {len(grid)} heads, {dtype}, against the CPU", apart, bound)
    dropped = [replace(spec, dropout=p) for spec in grid[:12] for p in (0.5, 0.9)]
    pairs = list(zip(*(trained(device, dropped, torch.float32) for _ in range(2))))
    apart = max(_apart(one.parameters, other.parameters) for one, other in pairs)
    yield Check("heads with dropout, trained twice", apart, 0)


def check_half(bench: Bench) -> Iterator[Result]:
    """Losses of bfloat16 steps beside those of float32."""
    found, expected = (
        losses(run_of(bench.checked(precision=precision), bench.small_corpus)) for precision in ("bf16", "fp32")
    )
    yield Check("bfloat16 steps, against float32", difference(found, expected), 0.03)


def check_resume(bench: Bench) -> Iterator[Result]:
    """A run that goes on from a checkpoint ends with the very weights and losses of an unbroken one."""
    for precision in ("fp32", "bf16"):
        settings, corpus = bench.checked(precision=precision), bench.small_corpus
        path = bench.folder / f"{precision}.safetensors"
        unbroken, killed, resumed = (run_of(settings, corpus) for _ in range(3))
        expected = losses(unbroken, 2 * _FEW_STEPS)
        losses(killed)
        killed.save(path)
        if not resumed.restore(path):
            raise KeyMynaError(f"{path}: the checkpoint was not taken.")
        found = losses(resumed)
        states = _apart(unbroken.modules.state_dict(), resumed.modules.state_dict())
        apart = max(states, float(np.abs(found - expected[_FEW_STEPS:]).max()))
        yield Check(f"resumed, {settings.precision}, against unbroken", apart, 0)


def check_attention(bench: Bench) -> Iterator[Result]:
    """Attention over few tokens and its gradient, beside the usual attention in float64; on a GPU only."""
    if bench.on_gpu:
        apart = bench.attention.result()
        for dtype, bound in ((torch.float32, 2e-6), (torch.bfloat16, 1e-2)):
            name = f"attention over few tokens and its gradient, {dtype}, against float64"
            yield Check(name, apart[dtype], bound)


def attention_apart(device: torch.device) -> dict[torch.dtype, float]:
    """The largest relative difference of each precision; to be called in a process of its own."""
    from keymyna_lib.compute.short_attention import HEAD_DIM, short_attention

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        worst = 0.0
        for batch, tokens, heads in ((4097, 10, 6), (65, 1, 1), (3, 26, 1), (1, 64, 1)):
            generator = torch_stream(tokens, "attention")
            qkv = (3 * torch.randn(batch, tokens, 3 * heads * HEAD_DIM, generator=generator)).to(device, dtype)
            grad = torch.randn(batch, tokens, heads * HEAD_DIM, generator=generator).to(device, dtype)
            packed, plain = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
            q, k, v = plain.unflatten(2, (3, heads, HEAD_DIM)).permute(2, 0, 3, 1, 4)
            expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            found = short_attention(packed, heads)
            found.backward(grad)
            expected.backward(grad.double())
            # Of a single token, queries and keys have no gradient: norms are of all three together.
            worst = max(worst, _relative(found, expected), _relative(packed.grad, plain.grad))
        found[dtype] = worst
    return found


def check_embedding(bench: Bench) -> Iterator[Result]:
    """Embeddings of the device beside the CPU's."""
    encoder = _encoder(bench.size.checked)
    windows = _windows(64)
    expected = embed(encoder, windows)
    found = embed(encoder.to(bench.device), windows)
    yield Check("embeddings, against the CPU", _relative(found, expected), 2e-3)


def check_processes(bench: Bench) -> Iterator[Result]:
    """DistributedDataParallel on one process, beside the same step without it and on the CPU."""
    compared = in_fresh_process(plain_and_distributed, bench.checked(), bench.small_corpus.path, limit=_LIMIT)
    yield Check("DistributedDataParallel, losses against the plain step", compared["losses"], 1e-6)
    yield Check("DistributedDataParallel, weights against the plain step", compared["weights"], 1e-6)
    yield Check("rows gathered from all processes, and their gradient", compared["gathered"], 0)
    yield Check("plain float32 steps, against the CPU", compared["plain"], 1e-4)


def plain_and_distributed(settings: PretrainConfig, corpus: Path) -> dict[str, float]:
    """Differences that joining a group of one process makes; to be called in a process of its own."""
    from torch.distributed import group
    from torch.distributed.nn.functional import all_gather

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = dict.fromkeys(("RANK", "LOCAL_RANK"), "0") | dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), "1")
    loopback = dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), "lo")
    os.environ |= alone | loopback | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def plain(settings: PretrainConfig) -> Pretraining:
        return run_of(settings, open_corpus(corpus), by_device_step=False)

    with ranks.joined(settings.device):
        alone_run, joined_run = plain(settings), plain(settings)
        joined_run._forward = DistributedDataParallel(joined_run.modules, broadcast_buffers=False)
        expected, found = losses(alone_run), losses(joined_run)
        weights = _apart(alone_run.modules.state_dict(), joined_run.modules.state_dict())
        rows = torch.arange(6.0, device=joined_run.device).view(2, 3).requires_grad_()
        (gathered,) = all_gather(rows, group.WORLD)
        (gathered * rows.detach()).sum().backward()
        apart = _apart({"rows": rows, "gradient": rows.grad}, {"rows": gathered, "gradient": rows.detach()})
        del joined_run
    on_cpu = losses(plain(replace(settings, device="cpu")))
    return {
        "losses": difference(found, expected),
        "weights": weights,
        "gathered": apart,
        "plain": difference(expected, on_cpu),
    }


def check_compiled(bench: Bench) -> Iterator[Result]:
    """A compiled and recorded float32 step, as long runs take it; on a GPU only."""
    if not bench.on_gpu:
        return
    settings = bench.checked(steps=1_000_000)
    run = run_of(settings, bench.small_corpus)
    if not worth_compiling(settings, run.encoder, run.objective):
        raise KeyMynaError("the run is not compiled.")
    found = losses(run)
    expected = losses(run_of(replace(settings, device="cpu"), bench.small_corpus))
    yield Check("float32 steps, compiled and recorded, against the CPU", difference(found, expected), 1e-4)


# Speed


def _several_steps(run: Pretraining) -> Action:
    """So many steps that their losses are read, for which the host waits."""

    def take() -> None:
        for _ in range(READ_EVERY):
            run.take_step()

    return take


def _run_on(bench: Bench, settings: PretrainConfig) -> Pretraining:
    """A run whose first steps, which compile and record, have been taken."""
    run = steps.our_run(bench.corpus.path, settings, store_bytes=sys.maxsize)
    _several_steps(run)()
    return run


def large_batch(bench: Bench) -> Iterator[Result]:
    """From the store: rate, share of the ceiling, and of the same step on one batch."""
    settings = bench.settings(bench.size.large, bench.size.batches[0])
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats(bench.device)
    run = _run_on(bench, settings)
    actions = {OURS: _several_steps(run)}
    actions[steps.CEILING], flops = product_action(bench.device, torch.bfloat16, bench.size.product)
    tracks = bench.corpus.tracks(split="train")
    needed = READ_EVERY * counted_flops(settings, bench.corpus, tracks)
    times = alternate(actions, bench.size.seconds).seconds
    yield GOALS["rate"].row([READ_EVERY * settings.batch_size / t for t in times[OURS]])
    yield GOALS["ceiling"].row(
        [needed / mine / (flops / best) for mine, best in zip(times[OURS], times[steps.CEILING])]
    )
    yield summary(
        SUBJECT,
        "matrix product, bf16",
        steps.CEILING,
        "arithmetic",
        "TFLOP/s",
        [flops / t / 1e12 for t in times[steps.CEILING]],
    )
    if bench.on_gpu:
        peak = torch.cuda.max_memory_allocated(bench.device) / 1e9
        yield summary(SUBJECT, GOALS["rate"].case, OURS, "memory, peak", "GB", [peak])
    actions[steps.BARE] = _several_steps(steps.bare_run(bench.corpus.path, settings))
    del actions[steps.CEILING]
    times = alternate(actions, bench.size.seconds).seconds
    yield GOALS["bare"].row([bare / mine for mine, bare in zip(times[OURS], times[steps.BARE])])


def smaller_batch(bench: Bench) -> Iterator[Result]:
    """A step from the store, and the reference implementation from files."""
    settings = bench.settings(bench.size.large, bench.size.batches[1])
    run = _run_on(bench, settings)
    ours = np.array(alternate({OURS: _several_steps(run)}, bench.size.seconds).seconds[OURS]) / READ_EVERY
    yield GOALS["step"].row(1000 * ours)
    folder = bench.folder / "reference"
    files = material.write_reference_files(
        folder, bench.corpus, bench.corpus.tracks(split="train")[: bench.size.reference_files]
    )
    theirs = steps.ReferenceRun(run)
    batches = steps.reference_batches(files, settings, bench.size.loader_workers)
    step = synchronised(lambda: theirs.step(next(batches)), bench.device)
    for _ in range(max(2, bench.size.loader_workers)):  # what the loader has fetched ahead
        step()
    began = time.perf_counter()
    for _ in range(bench.size.reference_batches):
        step()
    seconds = (time.perf_counter() - began) / bench.size.reference_batches
    note = f"{REFERENCE} in fp32, {bench.size.loader_workers} loader processes"
    yield replace(GOALS["reference"].row(seconds / ours), note=note)
    yield summary(SUBJECT, GOALS["reference"].case, REFERENCE, "examples", "1/s", [settings.batch_size / seconds])


def small_encoder(bench: Bench) -> Iterator[Result]:
    """A step of the small encoder, masked."""
    yield _step_of(bench, GOALS["small step"], bench.settings(bench.size.small, bench.size.small_batch))


def timbre(bench: Bench) -> Iterator[Result]:
    """A step of the small encoder on whole crops with their timbre changed."""
    settings = bench.settings(bench.size.small, bench.size.small_batch, 0.0, augmentation="timbre")
    yield _step_of(bench, GOALS["timbre"], settings)


def _step_of(bench: Bench, goal: Goal, settings: PretrainConfig) -> Measurement:
    run = _run_on(bench, settings)
    times = alternate({OURS: _several_steps(run)}, bench.size.seconds / 2, least_seconds=bench.size.seconds / 10)
    return goal.row([1000 * seconds / READ_EVERY for seconds in times.seconds[OURS]])


def _encoder(preset: str) -> Any:
    return build_encoder(EncoderConfig(preset, "vertical", "log1p"), torch_stream(0, "weights")).eval()


def _windows(n: int) -> Tensor:
    """(window, mel, frame) float16 noise; a block of it again and again."""
    block = min(n, 256)
    return (6 * torch.rand(block, N_MELS, WINDOW, generator=torch_stream(0, "windows"))).half().repeat(n // block, 1, 1)


def embedding(bench: Bench) -> Iterator[Result]:
    """Windows in the host's memory to embeddings there."""
    encoder, windows = _encoder(bench.size.large).to(bench.device), _windows(bench.size.windows)
    times = alternate({OURS: lambda: embed(encoder, windows)}, bench.size.seconds)
    yield GOALS["embedding"].row([len(windows) / seconds for seconds in times.seconds[OURS]])


def head_grids(bench: Bench) -> Iterator[Result]:
    """Grids of heads, setting up and one validation included, beside the same on this machine's CPU."""
    size = bench.size
    train, valid = (
        material.rows(n // 4, 4, size.head_dim, seed=seed)
        for seed, n in enumerate((size.head_rows, size.head_rows // 32))
    )
    grids = {
        GOALS["heads"].case: wide_mlp_grid(widths=size.widths, widest_pair=max(size.widths) // 2),
        "probe grid, 216 heads": linear_probe_grid(),
    }
    for name, grid in grids.items():
        rates = {}
        for system, device, count in (
            (OURS, bench.device.type, size.head_steps),
            (ON_CPU, "cpu", size.head_steps_on_cpu),
        ):
            # The first call loads kernels; the host's has few to load, and takes long.
            for steps_taken in (max(count // 20, 1), count):
                began = time.perf_counter()
                train_heads(
                    grid, train, valid, max_steps=steps_taken, eval_every=steps_taken, patience=1, seed=0, device=device
                )
                rates[system] = len(grid) * steps_taken / (time.perf_counter() - began)
            yield summary(SUBJECT, name, system, "head steps, rate", "1/s", [rates[system]])
        yield replace(GOALS["heads"], case=name).row([rates[OURS] / rates[ON_CPU]])


# Parts by name, each with the goals that it owes.
PARTS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "grids of heads": (head_grids, ("heads",)),
    "what is drawn": (check_draws, ()),
    "float32": (check_float32, ()),
    "heads": (check_heads, ()),
    "resuming": (check_resume, ()),
    "bfloat16": (check_half, ()),
    "embedding": (check_embedding, ()),
    "processes": (check_processes, ()),
    "compiled": (check_compiled, ()),
    "attention": (check_attention, ()),
    "large batch": (large_batch, ("rate", "ceiling", "bare")),
    "smaller batch": (smaller_batch, ("step", "reference")),
    "small encoder": (small_encoder, ("small step",)),
    "timbre": (timbre, ("timbre",)),
    "embedding, speed": (embedding, ("embedding",)),
}


@dataclass
class Found:
    """What has been found so far, and its file, written anew after each result."""

    path: Path | None
    say: Callable[[str], None]
    began: float = field(default_factory=time.perf_counter)
    rows: list[Measurement] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    not_begun: list[str] = field(default_factory=list)  # parts, for lack of time
    notes: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        environment = provenance.environment()
        self.about = {
            "machine": machine(),
            "cuda": torch.version.cuda,
            "date": provenance.now(),
            **{key: environment[key] for key in ("commit", "dirty", "code_hash", "packages")},
        }

    def add(self, result: Result) -> None:
        """Keep, say and write a result."""
        if isinstance(result, Check):
            self.checks.append(result)
            self.say(str(result))
        else:
            self.rows.append(result)
            value = result.note if result.median is None else f"{result.median:.4g} {result.unit}".strip()
            self.say(f"      {result.case}: {result.quantity}, {result.system}: {value}")
        self.write()

    def write(self) -> None:
        """Write everything."""
        if self.path is not None:
            write_json(self.path, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """Everything, as it is written."""
        return {
            **self.about,
            "seconds": round(time.perf_counter() - self.began, 1),
            "seconds_of_parts": self.seconds,
            "measurements": [asdict(row) for row in self.rows],
            "checks": [{**asdict(check), "passed": check.passed} for check in self.checks],
            "failures": self.failures,
            "not_begun": self.not_begun,
            "notes": self.notes,
        }

    @property
    def passed(self) -> bool:
        """Whether all checks passed and no part failed; those that did not begin count in neither way."""
        return not self.failures and all(check.passed for check in self.checks)


def run(
    device: torch.device,
    *,
    size: str = "full",
    budget: float = BUDGET,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> Found:
    """Take all parts.

    Parameters
    ----------
    device : "cuda"; another one for tests.
    size : a name in SIZES.
    budget : s after which no part begins.
    out : where the results go, as JSON; None for nowhere.
    say : told each result as it comes.
    """
    found = Found(out, say)
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=paths.CACHE, prefix="bench-", ignore_cleanup_errors=True) as folder:
        bench = Bench(device, SIZES[size], Path(folder))
        for name, (part, owed) in PARTS.items():
            began, wanted = time.perf_counter(), {key: GOALS[key] for key in owed}
            if began - found.began > budget:
                why = f"{NOT_RUN}: {budget:g} s were over"
                found.not_begun.append(name)
            else:
                why = _take(part, bench, found, name)
            for goal in wanted.values():
                if why and not any(
                    (row.case, row.quantity, row.unit) == (goal.case, goal.quantity, goal.unit) for row in found.rows
                ):
                    found.add(goal.missing(why))
            found.seconds[name] = round(time.perf_counter() - began, 1)
            gc.collect()  # what a part held must not weigh on the next
            if device.type == "cuda":
                torch.cuda.empty_cache()
    found.write()
    return found


def _take(part: Part, bench: Bench, found: Found, name: str) -> str:
    """Take a part; why it failed, or nothing."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)  # that something is not compiled, or not recorded
        try:
            for result in part(bench):
                found.add(result)
            why = ""
        except Exception as error:  # whatever it is, the other parts must have their turn
            why = f"failed: {type(error).__name__}: {str(error)[:500]}"
            found.failures.append(f"{name}: {why}")
            found.say(f"FAIL  {name}: {why}")
    for warning in {f"{one.category.__name__}: {str(one.message)[:300]}": None for one in warned}:
        found.notes.append(f"{name}: {warning}")
        found.say(f"note  {name}: {warning}")
    return why


def text(found: Found) -> str:
    """The table of goals, how many checks passed, and what was measured on."""
    about = found.about
    good = sum(check.passed for check in found.checks)
    where = (
        f"{about['machine']['gpu'] or about['machine']['cpu']}, torch {about['machine']['torch']}, CUDA {about['cuda']}"
    )
    code = f"commit {about['commit']}{' (dirty)' if about['dirty'] else ''}, code {about['code_hash'][:12]}"
    lines = [
        table(found.rows).to_string(index=False, justify="left"),
        "",
        f"{good} of {len(found.checks)} checks passed, {len(found.failures)} parts failed, "
        f"{len(found.not_begun)} not begun for lack of time{': ' * bool(found.not_begun)}{', '.join(found.not_begun)}.",
        f"{where}; {about['date']}; {code}; {time.perf_counter() - found.began:.0f} s.",
    ]
    return "\n".join(lines)
