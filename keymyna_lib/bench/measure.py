"""How things are measured: by turns, after a warm-up, as medians with quartiles, and ratios within a round.

What is compared runs A B A B ..., so that a slow spell of the machine falls on all of them; a ratio is taken between
the two runs of one round, and then its median over rounds. Peak memory is that of a fresh process for each case: a
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
import torch

from keymyna_lib.base.errors import KeyMynaError
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
    subject : step, data, embedding, heads, song, growth.
    case : what was measured, for instance "vit-s, batch 128, mask 0.9".
    system : "ours", "public way", or another one's name.
    quantity, unit : what the numbers are.
    median, low, high : over rounds, with the quartiles; None where it was not run.
    n : rounds.
    ratio_to : the system that the same quantity was divided by, round by round, in favour of `system` when above 1;
        "" for a plain value.
    size : what the row's place on a growth axis is; None elsewhere.
    note : "not run: ..." with the reason; else what must be known to read the row.
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
    run : called with the seconds that it may take, more or less.
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
        """Rates `amount / seconds` of the systems in `amounts`, and the ratios of some pairs of them, round by round."""
        rates = {name: amount / np.array(self.seconds[name]) for name, amount in amounts.items()}
        return [
            *(summary(subject, case, name, quantity, unit, values) for name, values in rates.items()),
            *(summary(subject, case, name, quantity, "x", rates[name] / rates[to], ratio_to=to) for name, to in ratios),
        ]


def summary(
    subject: str, case: str, system: str, quantity: str, unit: str, values: Sequence[float] | np.ndarray, **more: Any
) -> Measurement:
    """The row of some values, one a round: their median and quartiles."""
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
    """Time actions by turns, A B A B ..., until the time is up.

    Each action runs once to warm up and once to learn how often it has to be repeated for one timing to last
    `least_seconds`. Garbage is collected between timings, not in them.

    Parameters
    ----------
    actions : by system. On a GPU an action must wait for its own end.
    seconds : after so many no further round is begun, but for the first `least_rounds`.
    clock : seconds, rising.

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
    a, b = (torch.randn(n, n, generator=torch.Generator().manual_seed(i)).to(device, dtype) for i in range(2))
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
    sizes, values = (np.asarray(v, dtype=np.float64) for v in (sizes, values))
    if len(set(sizes)) < 2 or sizes.shape != values.shape or not (sizes > 0).all() or not (values > 0).all():
        raise KeyMynaError(
            f"sizes {sizes.tolist()}, values {values.tolist()}: a power law is fitted to positive values "
            "at two sizes or more."
        )
    slope, intercept = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(slope), float(np.exp(intercept))


def memory(key: str = "VmRSS") -> int:
    """Bytes that this process holds, by Linux: "VmRSS" now, "VmHWM" at most so far, "RssAnon" without mapped files."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return 1024 * int(value.split()[0])
    raise KeyMynaError(f"/proc/self/status has no {key}; memory can be measured on Linux only.")


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function of a module returns when a process of its own runs it, with as many threads as this one.

    Raises
    ------
    KeyMynaError
        When it fails there, or the process is killed; the error's text is in the message.
    """
    context = multiprocessing.get_context("spawn")  # a fork would start with this process's memory
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, torch.get_num_threads(), function, arguments))
    process.start()
    there.close()
    try:
        kind, value = here.recv()
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

    The kernel's own mark for this process image (VmHWM); getrusage's counts the parent's memory at the time of starting.

    Parameters
    ----------
    prepare : makes the action from the arguments.

    Returns
    -------
    "peak" : bytes. "above imports" : of them, those beyond what the process held before `prepare`.
    """
    before = memory()
    action = prepare(*arguments)
    for _ in range(2):
        action()
    peak = memory("VmHWM")
    return {"peak": float(peak), "above imports": float(peak - before)}


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return {
        "cpu": _of_proc("cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(int(_of_proc("meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "gpu": gpu,
        "load": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _of_proc(file: str, key: str) -> str:
    lines = Path(f"/proc/{file}").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
