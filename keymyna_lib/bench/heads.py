"""Head grids trained side by side, as the library does, and one after another; and how near the roofline that is."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from keymyna_lib.bench import material, reference
from keymyna_lib.bench.measure import (
    NO_GPU,
    Case,
    Measurement,
    alternate,
    copy_action,
    not_run,
    product_action,
    summary,
    synchronised,
)
from keymyna_lib.bench.sizes import Size
from keymyna_lib.compute.threads import one_thread
from keymyna_lib.heads import HeadSpec, Rows, linear_probe_grid, train_heads, wide_mlp_grid
from keymyna_lib.keys import N_KEYS

SUBJECT = "heads"
OURS, REFERENCE, ALONE = "ours", "reference implementation", "reference implementation, one thread"
WINDOWS = 4  # per track
_FLOAT = 4  # bytes
_ADAM_PASSES = 7  # reads parameter, gradient and two moments; writes parameter and moments


def train_ours(grid: Sequence[HeadSpec], train: Rows, valid: Rows, steps: int, device: str = "cpu") -> None:
    """All heads for so many steps, with one validation at the end."""
    train_heads(grid, train, valid, max_steps=steps, eval_every=steps, patience=1, seed=0, device=device)


def train_reference(grid: Sequence[HeadSpec], train: Rows, valid: Rows, steps: int) -> None:
    """The same, one head after another, from a loader of rows."""
    scaled = {spec.standardize: reference.prepared(train, spec.standardize) for spec in grid}
    for spec in grid:
        module = reference.head(spec, train.x.shape[1])
        reference.train_head(module, spec, reference.head_loader(scaled[spec.standardize], spec, 0), steps)
        with torch.no_grad():
            module.eval()(valid.x).softmax(dim=1)


def train_reference_alone(grid: Sequence[HeadSpec], train: Rows, valid: Rows, steps: int) -> None:
    """The same on one thread, which is faster for small heads: their products are not worth splitting."""
    with one_thread():
        train_reference(grid, train, valid, steps)


def floor_seconds(grid: Sequence[HeadSpec], dim: int, flops_per_second: float, bytes_per_second: float) -> float:
    """Least time [s] of one step of all heads.

    Each matrix product runs at the ceiling of arithmetic or of memory, whichever takes longer; then the optimizer,
    which needs the gradient first, at the ceiling of memory. Small heads that stay in the cache may be faster.
    """
    total = 0.0
    for spec in grid:
        sizes = (dim, *spec.hidden, N_KEYS)
        for layer, (n_in, n_out) in enumerate(itertools.pairwise(sizes)):
            products = 2 if layer == 0 else 3  # forward, by the weights and, except in the first layer, by the inputs
            flops = 2.0 * spec.batch_size * n_in * n_out
            traffic = _FLOAT * (n_in * n_out + spec.batch_size * (n_in + n_out))
            total += products * max(flops / flops_per_second, traffic / bytes_per_second)
            total += _ADAM_PASSES * _FLOAT * (n_in + 1) * n_out / bytes_per_second
    return total


def rows_of(size: Size) -> list[Rows]:
    """Training rows, and a thirty-second of their number for validation."""
    return [
        material.rows(n // WINDOWS, WINDOWS, size.head_dim, seed=seed)
        for seed, n in enumerate((size.head_rows, size.head_rows // 32))
    ]


def compare(
    size: Size, name: str, grid: Sequence[HeadSpec], steps: int, reference_steps: int, roofline: bool, seconds: float
) -> list[Measurement]:
    """Head steps per second of both implementations, and the library's share of the roofline if `roofline`.

    The few validation rows are evaluated once: whatever a timing contains besides steps must count for little.
    """
    train, valid = rows_of(size)
    actions = {
        OURS: lambda: train_ours(grid, train, valid, steps),
        REFERENCE: lambda: train_reference(grid, train, valid, reference_steps),
        ALONE: lambda: train_reference_alone(grid, train, valid, reference_steps),
    }
    product, flops = product_action(torch.device("cpu"), torch.float32, size.product)
    copy, traffic = copy_action(torch.device("cpu"), size.copy_mb << 20)
    times = alternate({**actions, "matrix product": product, "copy": copy} if roofline else actions, seconds)
    amounts = {OURS: len(grid) * steps, **dict.fromkeys((REFERENCE, ALONE), len(grid) * reference_steps)}
    rows = times.rows(SUBJECT, name, "head steps", "1/s", amounts, ratios=[(OURS, REFERENCE), (OURS, ALONE)])
    if roofline:
        share = [
            floor_seconds(grid, size.head_dim, flops / best, traffic / moved) * steps / mine
            for mine, best, moved in zip(times.seconds[OURS], times.seconds["matrix product"], times.seconds["copy"])
        ]
        rows.append(summary(SUBJECT, name, OURS, "share of the roofline", "", share))
        rows += times.rows(SUBJECT, name, "arithmetic", "GFLOP/s", {"matrix product": flops / 1e9})
        rows += times.rows(SUBJECT, name, "memory traffic", "GB/s", {"copy": traffic / 1e9})
    return rows


def on_gpu(size: Size, name: str, grid: Sequence[HeadSpec], steps: int, seconds: float) -> list[Measurement]:
    """The library's head steps per second on a GPU."""
    train, valid = rows_of(size)
    action = synchronised(lambda: train_ours(grid, train, valid, steps, "cuda"), torch.device("cuda"))
    return alternate({OURS: action}, seconds).rows(
        SUBJECT, f"{name}, GPU", "head steps", "1/s", {OURS: len(grid) * steps}
    )


def grids(size: Size) -> dict[str, tuple[list[HeadSpec], tuple[int, int]]]:
    """The grids by name, with the steps of one timing, the library's and the reference's."""
    return {
        "probe grid, linear half": (linear_probe_grid(hidden=[()]), size.linear_steps),
        "probe grid, hidden half": (linear_probe_grid(hidden=[(512,)]), size.hidden_steps),
        "grid B (wide MLP)": (
            wide_mlp_grid(widths=size.wide_widths, widest_pair=max(size.wide_widths) // 2),
            size.wide_steps,
        ),
    }


def cases(size: Size, folder: Path) -> list[Case]:
    """All cases of the heads."""
    made = []
    for name, (grid, (steps, reference_steps)) in grids(size).items():
        made.append(
            Case(
                SUBJECT,
                name,
                functools.partial(compare, size, name, grid, steps, reference_steps, grid[0].hidden != ()),
            )
        )
        if torch.cuda.is_available():
            made.append(Case(SUBJECT, f"{name}, GPU", functools.partial(on_gpu, size, name, grid, steps), 0.3))
        else:
            row = not_run(SUBJECT, f"{name}, GPU", OURS, "head steps", "1/s", NO_GPU)
            made.append(Case(SUBJECT, f"{name}, GPU", lambda seconds, row=row: [row], 0.0))
    return made
