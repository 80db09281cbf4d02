"""How things are measured: in turns, after a warm-up, as medians with quartiles, and ratios within a round.

What is compared runs A B A B ..., so that a slow spell of the machine affects all of them; a ratio is taken between
the two runs of one round, and its median over rounds. Peak memory is that of a new process for each case, as a
process's peak never goes down.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.machine import cpu_name
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.report.intervals import NOT_RUN

NO_GPU = "no GPU here"
LEAST_ROUNDS = 3
LEAST_SECONDS = 0.05  # of one timing; shorter actions are repeated within it
Action = Callable[[], Any]


@dataclass(frozen=True)
class Measurement:
    """One row of the result.

    Attributes
    ----------
    subject : step, data, embedding, heads, song, growth, gpu.
    case : what was measured, for instance "vit-s, batch 128, mask 0.9".
    system : "ours", "reference implementation", or the name of another one.
    quantity, unit : what the numbers are.
    median, low, high : over rounds, with the quartiles; None where it was not run.
    n : rounds.
    ratio_to : the system that the same quantity was divided by, round by round, in favour of `system` when above 1;
        "" for a plain value.
    size : the row's place on a growth axis; None elsewhere.
    note : "not run: ..." with the reason; otherwise what a reader of the row must know.
    """

    subject: str
    case: str
    system: str
    quantity: str
    unit: str
    median: float | None
    low: float | None
    high: float | None
    n: int
    ratio_to: str = ""
    size: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Case:
    """A case that can be run: it is given seconds, and returns its rows.

    Attributes
    ----------
    subject, name : see `Measurement`.
    run : called with the seconds that it may take, roughly.
    weight : its share of the budget, relative to the other cases.
    """

    subject: str
    name: str
    run: Callable[[float], list[Measurement]]
    weight: float = 1.0


@dataclass
class Timings:
    """Seconds of each system's action, one in each round, all alike in number."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def rows(
        self,
        subject: str,
        case: str,
        quantity: str,
        unit: str,
        amounts: Mapping[str, float],
        *,
        ratios: Sequence[tuple[str, str]] = (),
    ) -> list[Measurement]:
        """Rates `amount / seconds` of the systems in `amounts`, and the ratios of some pairs, round by round."""
        rates = {name: amount / np.array(self.seconds[name]) for name, amount in amounts.items()}
        return [
            *(summary(subject, case, name, quantity, unit, values) for name, values in rates.items()),
            *(summary(subject, case, name, quantity, "x", rates[name] / rates[to], ratio_to=to) for name, to in ratios),
        ]


def summary(
    subject: str, case: str, system: str, quantity: str, unit: str, values: Sequence[float] | np.ndarray, **more: Any
) -> Measurement:
    """The row of some values, one per round: their median and quartiles."""
    low, median, high = (float(v) for v in np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.5, 0.75]))
    return Measurement(subject, case, system, quantity, unit, median, low, high, len(values), **more)


def not_run(subject: str, case: str, system: str, quantity: str, unit: str, why: str) -> Measurement:
    """The row of what could not be measured here."""
    return Measurement(subject, case, system, quantity, unit, None, None, None, 0, note=f"{NOT_RUN}: {why}")


def alternate(
    actions: Mapping[str, Action],
    seconds: float,
    *,
    clock: Callable[[], float] = time.perf_counter,
    least_rounds: int = LEAST_ROUNDS,
    least_seconds: float = LEAST_SECONDS,
) -> Timings:
    """Time actions in turns, A B A B ..., until the time is up.

    Each action runs once to warm up and once to find how often to repeat it so that one timing lasts `least_seconds`.
    Garbage is collected between timings, not during them.

    Parameters
    ----------
    actions : by system. On a GPU an action must wait for its own end.
    seconds : after these no further round begins, except for the first `least_rounds`.
    clock : seconds, increasing.

    Returns
    -------
    Timings, for a single run of each action.
    """
    began, repeats = clock(), {}
    for name, action in actions.items():
        action()
        started = clock()
        action()
        repeats[name] = max(1, int(np.ceil(least_seconds / max(clock() - started, 1e-9))))
    found = Timings({name: [] for name in actions})
    enabled, rounds = gc.isenabled(), 0
    try:
        while rounds < least_rounds or clock() - began < seconds:
            for name, action in actions.items():
                gc.collect(1)
                gc.disable()
                started = clock()
                for _ in range(repeats[name]):
                    action()
                found.seconds[name].append((clock() - started) / repeats[name])
                if enabled:
                    gc.enable()
            rounds += 1
    finally:
        if enabled:
            gc.enable()
    return found


def synchronised(action: Action, device: torch.device) -> Action:
    """An action that ends when the device has done its work."""
    if device.type != "cuda":
        return action

    def run() -> None:
        action()
        torch.cuda.synchronize(device)

    return run


def product_action(device: torch.device, dtype: torch.dtype, n: int) -> tuple[Action, float]:
    """A square matrix product, n x n, the ceiling of all others; and its floating-point operations."""
    a, b = (torch.randn(n, n, generator=torch_stream(0, "factor", i)).to(device, dtype) for i in range(2))
    out = torch.empty_like(a)
    return synchronised(lambda: torch.mm(a, b, out=out), device), 2.0 * n**3


def copy_action(device: torch.device, n_bytes: int) -> tuple[Action, float]:
    """A copy of so many bytes, the ceiling of memory traffic; and the bytes that it reads and writes."""
    source = torch.ones(n_bytes // 4, device=device)
    target = torch.empty_like(source)
    return synchronised(lambda: target.copy_(source), device), 2.0 * n_bytes


def exponent(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Exponent and factor of the power law value = factor x size^exponent, by least squares of the logarithms.

    Raises
    ------
    KeyMynaError
        Fewer than two different sizes, or a size or value that is not positive.
    """
    x, y = np.asarray(sizes, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(set(x)) < 2 or x.shape != y.shape or not (x > 0).all() or not (y > 0).all():
        raise KeyMynaError(
            f"sizes {x.tolist()}, values {y.tolist()}: a power law is fitted to positive values at two sizes or more."
        )
    slope, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return float(slope), float(np.exp(intercept))


def anonymous_memory() -> int:
    """Bytes that this process holds now, mapped files and shared memory aside."""
    held = psutil.Process().memory_info()
    return held.rss - held.shared


def peak_memory() -> int:
    """The most bytes that this process has held since it started its program.

    Linux's own mark, which psutil does not give; getrusage's also counts the parent's memory at the time of the fork.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def in_fresh_process(function: Callable[..., Any], *arguments: Any, limit: float | None = None) -> Any:
    """Call a function of a module in a new process, with as many threads as this one; what it returns.

    Parameters
    ----------
    limit : s that it may take; None for any.

    Raises
    ------
    KeyMynaError
        When it fails there, takes too long, or the process is killed; includes the error's text.
    """
    context = multiprocessing.get_context("spawn")  # a fork would start with this process's memory
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, torch.get_num_threads(), function, arguments))
    process.start()
    there.close()
    try:
        if here.poll(limit):
            kind, value = here.recv()
        else:
            process.kill()
            kind, value = "error", f"not done after {limit:g} s"
    except EOFError:
        kind, value = "error", "the process was killed"
    process.join()
    if kind == "error":
        raise KeyMynaError(f"{function.__qualname__}, in a process of its own: {value}.")
    return value


def _send(pipe: Any, threads: int, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(threads)
    try:
        pipe.send(("value", function(*arguments)))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def peak_of(prepare: Callable[..., Action], *arguments: Any) -> dict[str, float]:
    """Peak memory of two runs of an action, for `in_fresh_process`.

    Parameters
    ----------
    prepare : makes the action from the arguments.

    Returns
    -------
    "peak" : bytes. "above imports" : of them, those beyond what the process held before `prepare`.
    """
    before = psutil.Process().memory_info().rss
    action = prepare(*arguments)
    for _ in range(2):
        action()
    peak = peak_memory()
    return {"peak": float(peak), "above imports": float(peak - before)}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpu,
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }
