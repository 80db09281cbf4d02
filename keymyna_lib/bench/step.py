"""The pre-training step beside the reference: rate, share of the ceiling, memory, from files on disk, and by part."""

from __future__ import annotations

import functools
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keymyna_lib.accelerated.sampler import Crops, DeviceSampler
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.bench import goals, material, reference
from keymyna_lib.bench.measure import (
    NO_GPU,
    Action,
    Case,
    Measurement,
    alternate,
    in_fresh_process,
    not_run,
    peak_of,
    product_action,
    summary,
    synchronised,
)
from keymyna_lib.bench.sizes import Size
from keymyna_lib.corpus.corpus import open_corpus
from keymyna_lib.experiments.cost import counted_flops, product_flops
from keymyna_lib.model import EncoderConfig
from keymyna_lib.objectives import Batch
from keymyna_lib.pretrain import PretrainConfig, Pretraining
from keymyna_lib.spectrogram import SAMPLE_RATE, WINDOW, n_frames

SUBJECT = "step"
OURS, BARE, REFERENCE, CEILING = "ours", "ours, bare", "reference implementation", "matrix product"
LEAST_TURN = 2.0  # s of steps, so that what a loader has fetched ahead is little of it


def config(
    preset: str,
    batch_size: int,
    mask_ratio: float,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    crop_frames: int = WINDOW,
) -> PretrainConfig:
    """The paper's step: SogCLR on linear mel power, no projection head."""
    return PretrainConfig(
        encoder=EncoderConfig(preset, "vertical", "linear"),
        mask_ratio=mask_ratio,
        crop_frames=crop_frames,
        projection_dim=0,
        steps=1_000_000,
        batch_size=batch_size,
        lr=3e-4,
        warmup_steps=10,
        precision=precision,
        device=device,
        checkpoint_every=1_000_000,
        validate_every=1_000_000,
    )


class Resident:
    """A sampler whose only batch is already on the device: with it, a step takes no time for its data."""

    def __init__(self, run: Pretraining):
        sampler, settings = run.train_sampler, run.config
        self.tracks = sampler.tracks_of_step(0, settings.batch_size, settings.seed)
        drawn = sampler.batch(self.tracks, run.objective.views, torch_stream(settings.seed, "batch", 0, 0))
        self.drawn = Batch(*(t.to(run.device) for t in (drawn.crops, drawn.tracks, drawn.keys)))

    def tracks_of_step(self, step: int, batch_size: int, seed: int) -> Tensor:
        """The tracks of the one batch."""
        return self.tracks

    def batch(self, tracks: Tensor, views: int, generator: torch.Generator) -> Batch:
        """The one batch."""
        return self.drawn


class ResidentCrops(DeviceSampler):
    """The same for a run whose steps are drawn on the device: tracks and crops stay those of step 0, masks do not."""

    def __init__(self, sampler: DeviceSampler):
        self.__dict__.update(sampler.__dict__)
        sampler.prepare(0)
        self.one_batch = sampler.tracks()
        drawn = sampler.crops(self.one_batch)
        begin = torch.arange(len(drawn), device=sampler.device) * drawn.n_frames
        frames = drawn.whole().mT.flatten(0, 1).contiguous()
        self.drawn = replace(drawn, frames=frames, begin=begin, there=torch.full_like(begin, drawn.n_frames))

    def tracks(self) -> Tensor:
        """The tracks of the one batch."""
        return self.one_batch

    def crops(self, tracks: Tensor) -> Crops:
        """Its crops."""
        return self.drawn


def corpus_in(folder: Path, size: Size, batch_size: int = 0) -> Path:
    """The corpus of noise in a folder, made if missing, with at least `batch_size` training tracks."""
    n_tracks = max(size.tracks, -(-batch_size * 10 // 9) + 1)
    path = Path(folder) / f"corpus-{n_tracks}"
    if not path.exists():
        material.write_corpus(path, n_tracks, n_frames(round(size.seconds * SAMPLE_RATE)))
    return path


def our_run(path: Path, settings: PretrainConfig, store_bytes: int | None = None) -> Pretraining:
    """The library's run on the corpus in `path`."""
    corpus = open_corpus(path)
    train, valid = (corpus.tracks(split=split) for split in ("train", "valid"))
    run = Pretraining(settings, corpus, train, valid, store_bytes=store_bytes)
    run.modules.train()
    return run


def bare_run(path: Path, settings: PretrainConfig) -> Pretraining:
    """The library's run on a batch in memory."""
    run = our_run(path, settings, store_bytes=sys.maxsize)
    if run.device_step is None:
        run.train_sampler = Resident(run)
    else:
        run.device_step.sampler = ResidentCrops(run.device_step.sampler)
    return run


def our_bare_step(path: Path, settings: PretrainConfig) -> Action:
    """The library's whole step, on a batch in memory."""
    run = bare_run(path, settings)
    return synchronised(run.take_step, run.device)


class ReferenceRun:
    """The reference's encoder, loss and optimizer, with the weights of a run of the library's; always float32."""

    def __init__(self, run: Pretraining):
        settings = run.config
        self.mask_ratio, self.device = settings.mask_ratio, run.device
        self.encoder = reference.ReferenceEncoder(settings.encoder.preset).to(run.device)
        self.encoder.load_state_dict(run.encoder.state_dict())
        self.loss = reference.ReferenceSogCLR(len(run.train_sampler), settings.temperature, settings.gamma)
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)

    def step(self, batch: tuple[Tensor, list[Tensor]]) -> float:
        """One step on a batch of the reference's loader; the loss."""
        return reference.step(self.encoder, self.loss, self.optimizer, batch, self.mask_ratio)


def reference_bare_step(path: Path, settings: PretrainConfig) -> Action:
    """The reference implementation's step, on a batch in memory."""
    run = our_run(path, settings)
    theirs, drawn = ReferenceRun(run), Resident(run).drawn
    batch = drawn.tracks.cpu(), list(drawn.crops.float().expm1()[:, :, None])
    return synchronised(lambda: theirs.step(batch), run.device)


MAKERS = {OURS: our_bare_step, REFERENCE: reference_bare_step}


def reference_batches(
    files: list[Path], settings: PretrainConfig, workers: int
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Endless batches of the reference's loader."""
    made = reference.loader(files, settings.crop_frames, settings.batch_size, workers=workers, seed=0)
    while True:
        yield from made


def name_of(settings: PretrainConfig) -> str:
    """The name of a step's case."""
    name = f"{settings.encoder.preset}, batch {settings.batch_size}, mask {settings.mask_ratio:g}"
    gpu = settings.device.startswith("cuda")
    return name + (", GPU" if gpu else "") + (", bf16" if settings.precision == "bf16" else "")


def compare(folder: Path, size: Size, settings: PretrainConfig, seconds: float) -> list[Measurement]:
    """Rates of the bare step, its ratio to the reference implementation's, and the share of the ceiling."""
    path, gpu, case = (
        corpus_in(folder, size, settings.batch_size),
        settings.device.startswith("cuda"),
        name_of(settings),
    )
    actions = {name: make(path, settings) for name, make in MAKERS.items()}
    flops = {name: product_flops(action) for name, action in actions.items() if not gpu or name != OURS}
    if gpu:  # a recorded step shows no operators
        corpus = open_corpus(path)
        flops[OURS] = counted_flops(settings, corpus, corpus.tracks(split="train"))
    actions[CEILING], flops[CEILING] = product_action(
        torch.device(settings.device),
        torch.bfloat16 if settings.precision == "bf16" else torch.float32,
        size.gpu_product if gpu else size.product,
    )
    times = alternate(actions, seconds)
    rows = times.rows(
        SUBJECT, case, "examples", "1/s", dict.fromkeys(MAKERS, settings.batch_size), ratios=[(OURS, REFERENCE)]
    )
    rows += times.rows(SUBJECT, case, "arithmetic", "GFLOP/s", {name: value / 1e9 for name, value in flops.items()})
    for name in MAKERS if settings.precision == "fp32" else [OURS]:  # the reference has float32 only
        share = [
            flops[name] / mine / (flops[CEILING] / best)
            for mine, best in zip(times.seconds[name], times.seconds[CEILING])
        ]
        rows.append(summary(SUBJECT, case, name, "share of the ceiling", "", share))
    return in_float32(rows, settings)


def in_float32(rows: list[Measurement], settings: PretrainConfig) -> list[Measurement]:
    """The rows, with a note on those that involve the reference where the library's step has another precision."""
    return [
        replace(row, note=f"{REFERENCE} in fp32")
        if settings.precision != "fp32" and REFERENCE in (row.system, row.ratio_to)
        else row
        for row in rows
    ]


def peak(folder: Path, size: Size, settings: PretrainConfig, seconds: float) -> list[Measurement]:
    """Peak memory of the bare step: of a new process, or on the GPU."""
    path, rows = corpus_in(folder, size, settings.batch_size), []
    for name, make in MAKERS.items():
        if settings.device.startswith("cuda"):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            make(path, settings)()
            peaks = {"peak": float(torch.cuda.max_memory_allocated())}
        else:
            peaks = in_fresh_process(peak_of, make, path, settings)
        rows += [
            summary(SUBJECT, name_of(settings), name, f"memory, {what}", "MB", [value / 1e6])
            for what, value in peaks.items()
        ]
    return rows


def masking(
    folder: Path, size: Size, preset: str, batch_size: int, masks: tuple[float, ...], seconds: float
) -> list[Measurement]:
    """The library's step at several mask ratios, the first of them 0, and its speed relative to unmasked."""
    path = corpus_in(folder, size, batch_size)
    actions = {f"{OURS}, mask {mask:g}": our_bare_step(path, config(preset, batch_size, mask)) for mask in masks}
    bare, *masked = actions
    return alternate(actions, seconds).rows(
        SUBJECT,
        f"{preset}, batch {batch_size}, masking",
        "examples",
        "1/s",
        dict.fromkeys(actions, batch_size),
        ratios=[(name, bare) for name in masked],
    )


def end_to_end(folder: Path, size: Size, settings: PretrainConfig, seconds: float) -> list[Measurement]:
    """Rates from files on disk, also relative to the bare step."""
    path, case = corpus_in(folder, size, settings.batch_size), f"{name_of(settings)}, from files"
    run, bare = our_run(path, settings), our_bare_step(path, settings)
    theirs, batches = ReferenceRun(run), reference_batches(reference_files(path), settings, size.loader_workers)
    ours = {OURS: synchronised(run.take_step, run.device)}
    # Apart from the reference's loader, whose processes would keep working during the turns of the other two.
    rows = alternate(ours | {BARE: bare}, seconds / 2).rows(
        SUBJECT,
        f"{case}, or bare",
        "examples",
        "1/s",
        dict.fromkeys((OURS, BARE), settings.batch_size),
        ratios=[(OURS, BARE)],
    )
    actions = ours | {REFERENCE: synchronised(lambda: theirs.step(next(batches)), run.device)}
    rows += alternate(actions, seconds / 2, least_seconds=LEAST_TURN).rows(
        SUBJECT, case, "examples", "1/s", dict.fromkeys(actions, settings.batch_size), ratios=[(OURS, REFERENCE)]
    )
    return in_float32(rows, settings)


def reference_files(path: Path) -> list[Path]:
    """The training tracks of the corpus in `path` as the public code keeps them, made if missing."""
    folder = path.with_name(f"{path.name}-reference")
    if not folder.exists():
        corpus = open_corpus(path)
        material.write_reference_files(folder, corpus, corpus.tracks(split="train"))
    return sorted(folder.glob("*.npy"))


def largest_batch(folder: Path, size: Size, preset: str, seconds: float) -> list[Measurement]:
    """The largest power of two that fits on the GPU as a batch, and its rate."""
    rows, batch = [], 256
    while True:
        settings, path = (
            config(preset, batch, 0.9, device="cuda", precision="bf16"),
            folder / f"corpus-of-crops-{batch}",
        )
        material.write_corpus(path, 2 * batch, WINDOW)
        try:
            times = alternate({OURS: our_bare_step(path, settings)}, 0.0, least_rounds=1)
        except torch.cuda.OutOfMemoryError:
            return rows
        finally:
            shutil.rmtree(path)
        rows = [
            summary(SUBJECT, f"{preset}, largest batch on the GPU", OURS, "batch", "examples", [batch]),
            *times.rows(SUBJECT, f"{preset}, largest batch on the GPU", "examples", "1/s", {OURS: batch}),
        ]
        batch *= 2


# Parts of a step by the names of torch's operators, forward and backward; the first that matches.
PARTS = {
    "attention": ("scaled_dot_product", "bmm", "softmax"),
    "optimizer": ("adam", "foreach", "Optimizer"),
    "matrix products": ("mm", "linear"),
    "LayerNorm": ("layer_norm",),
    "GELU": ("gelu",),
    "drawing masks": ("sort", "rand"),
    "patches and copies": ("index", "gather", "copy", "expm1", "cat", "clone"),
    "other operators": ("",),
}
DRAWING, REST = "drawing the batch", "Python and the rest"


class _Timed:
    """A function that adds up the duration of its calls, and marks them for torch's profiler."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.seconds = function, 0.0

    def __call__(self, *arguments: Any) -> Any:
        started = time.perf_counter()
        with torch.autograd.profiler.record_function(DRAWING):
            returned = self.function(*arguments)
        self.seconds += time.perf_counter() - started
        return returned


def shares_of(step: Action, drawing: _Timed) -> dict[str, float]:
    """Shares of one step by part, operators within `drawing` counted there; they add up to 1."""
    drawing.seconds = 0.0
    with torch.autograd.profiler.profile(use_device=None) as profiler:
        started = time.perf_counter()
        step()
        total = time.perf_counter() - started
    found = dict.fromkeys(PARTS, 0.0)
    for event in profiler.function_events:
        above = event
        while above is not None and above.name != DRAWING:
            above = above.cpu_parent
        if above is None:
            part = next(part for part, names in PARTS.items() if any(name in event.name for name in names))
            found[part] += event.self_cpu_time_total / 1e6 / total
    found[DRAWING] = drawing.seconds / total
    return found | {REST: 1 - sum(found.values())}


def profile(folder: Path, size: Size, settings: PretrainConfig, seconds: float) -> list[Measurement]:
    """Where the time of a whole step goes; both implementations draw their batch in this process."""
    path = corpus_in(folder, size, settings.batch_size)
    run, other = our_run(path, settings), our_run(path, settings)
    run.train_sampler.batch = drawing = _Timed(run.train_sampler.batch)
    theirs, fetching = (
        ReferenceRun(other),
        _Timed(functools.partial(next, reference_batches(reference_files(path), settings, 0))),
    )
    steps = {OURS: (run.take_step, drawing), REFERENCE: (lambda: theirs.step(fetching()), fetching)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for step, _ in steps.values():
        step()
    began = time.perf_counter()
    while len(found[REFERENCE]) < 3 or time.perf_counter() - began < seconds:
        for name, (step, timed) in steps.items():
            found[name].append(shares_of(step, timed))
    return [
        summary(SUBJECT, f"{name_of(settings)}, profile", name, f"share: {part}", "", [taken[part] for taken in rounds])
        for name, rounds in found.items()
        for part in rounds[0]
    ]


def cases(size: Size, folder: Path) -> list[Case]:
    """All cases of the step; and what was measured on a GPU earlier, or that nothing was."""

    def case(function, *arguments: object, weight: float = 1.0) -> Case:
        settings = next((a for a in arguments if isinstance(a, PretrainConfig)), None)
        name = f"{function.__name__}: {name_of(settings) if settings else arguments[0]}"
        return Case(SUBJECT, name, functools.partial(function, folder, size, *arguments), weight)

    steps = [config(*step) for step in size.steps]
    whole = [steps[max(i for i, s in enumerate(steps) if s.encoder.preset == preset)] for preset in size.presets]
    made = [case(compare, settings) for settings in steps]
    made += [case(peak, settings, weight=0.0) for settings in steps]
    made += [case(compare, replace(settings, precision="bf16")) for settings in whole]
    made += [case(masking, preset, size.masking_batch, size.masks) for preset in size.presets]
    made += [case(end_to_end, settings) for settings in whole]
    made += [case(profile, settings, weight=0.3) for settings in whole]
    made.append(Case(goals.SUBJECT, "goals", lambda seconds: goals.stored(), 0.0))
    on_gpu = [config(*step, device="cuda", precision="bf16") for step in size.gpu_steps]
    if torch.cuda.is_available():
        made += [case(function, settings) for settings in on_gpu for function in (compare, peak)]
        made += [case(end_to_end, on_gpu[-1]), case(largest_batch, on_gpu[-1].encoder.preset)]
    else:
        made.append(
            Case(
                SUBJECT,
                "GPU",
                lambda seconds: [
                    *(not_run(SUBJECT, name_of(settings), OURS, "examples", "1/s", NO_GPU) for settings in on_gpu),
                    not_run(SUBJECT, f"{name_of(on_gpu[-1])}, from files", OURS, "examples", "1/s", NO_GPU),
                    not_run(
                        SUBJECT,
                        f"{on_gpu[-1].encoder.preset}, largest batch on the GPU",
                        OURS,
                        "batch",
                        "examples",
                        NO_GPU,
                    ),
                ],
                weight=0.0,
            )
        )
    return made
