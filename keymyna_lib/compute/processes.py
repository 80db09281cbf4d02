"""Tasks on processes of this machine."""

from __future__ import annotations

import functools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, ClassVar

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor, Result, call
from keymyna_lib.compute.threads import one_thread


@dataclass(frozen=True)
class Processes(Executor):
    """Processes of this machine, started for each `map` and stopped after it.

    Attributes
    ----------
    workers : number of processes; 0 for one per core that this process may use. With 1, tasks run in this process.

    Raises
    ------
    KeyMynaError
        When `workers` is negative.
    """

    workers: int = 0
    here: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise KeyMynaError(f"workers={self.workers}: expected 0 (all cores) or the number of processes.")

    def count(self, tasks: int) -> int:
        """Number of processes for this many tasks: at least 1, and no more than there are tasks."""
        return max(1, min(self.workers or cores(), tasks))

    def _results(
        self, function: Callable[..., Result], tasks: Sequence[tuple], desc: str, ordered: bool
    ) -> Generator[tuple[int, Result], None, None]:
        if self.count(len(tasks)) == 1:
            for i, task in enumerate(tasks):
                with one_thread():
                    result = function(*task)
                yield i, result
            return
        context = multiprocessing.get_context("forkserver")  # plain forking is unsafe with torch's threads
        # Imported once, not once per process. Only the first pool of a process has a say in it, so this names what any
        # pool needs: probes import scikit-learn late, which on every worker took two seconds of each pool.
        preloaded = [*sorted(_modules_of(function)), "torch", "librosa.filters", "sklearn.linear_model"]
        context.set_forkserver_preload(preloaded)
        pool = ProcessPoolExecutor(self.count(len(tasks)), context, _start_worker)
        try:
            sent = pickle.dumps(function)
            index = {pool.submit(call, sent, *task): i for i, task in enumerate(tasks)}
            for future in list(index) if ordered else as_completed(index):
                yield index.pop(future), future.result()
        except BrokenProcessPool:
            raise KeyMynaError(
                f"{desc}: a worker process was killed, most often for lack of memory. Run again, on fewer processes "
                '(scheduler "local:N") if it is killed again; a build resumes where it stopped.'
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


HERE = Processes()


def cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def _start_worker() -> None:
    import torch
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    # One thread per process, in torch and in BLAS: threads that wait for each other make chroma three times as slow.
    torch.set_num_threads(1)
    threadpool_limits(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """Otherwise the worker of a killed parent would wait for work forever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _modules_of(value: Any) -> set[str]:
    """Modules that a function needs: its own and, of a partial, those of its arguments."""
    if isinstance(value, functools.partial):
        return set().union(*map(_modules_of, (value.func, *value.args, *value.keywords.values())))
    return {getattr(value, "__module__", None) or type(value).__module__}
