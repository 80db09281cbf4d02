"""Work over a corpus's tracks on all cores, in processes that open the corpus by its path."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar

Result = TypeVar("Result")
_corpus: Any = None  # in a worker: the corpus it has opened


def worker_count(workers: int, tasks: int) -> int:
    """Processes to use: `workers`, or every core this process may run on when 0; never more than tasks."""
    if workers < 0:
        raise KeyMynaError(f"workers={workers}: expected 0 (all cores) or the number of processes.")
    return max(1, min(workers or len(os.sched_getaffinity(0)), tasks))


def start_worker() -> None:
    """What every worker process does first."""
    import torch
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # One core a process, in torch and in BLAS: threads that wait for each other cost chroma three times its time.
    torch.set_num_threads(1)
    threadpool_limits(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker of a parent that was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _start(corpus: Any) -> None:
    global _corpus
    start_worker()
    _corpus = corpus


def _modules_of(function: Callable, *values: Any) -> list[str]:
    """Modules that the workers need, imported once and not once in each."""
    return [getattr(function, "func", function).__module__, *(type(value).__module__ for value in values), "librosa"]


def _apply(function: Callable[[Any, str], Result], track_id: str) -> Result:
    return function(_corpus, track_id)


def over_tracks(
    function: Callable[[Any, str], Result],
    corpus: Any,
    track_ids: Sequence[str],
    *,
    desc: str,
    workers: int = 0,
    progress: bool = True,
) -> Iterator[Result]:
    """Yield `function(corpus, track_id)` for each track, in the order given.

    Parameters
    ----------
    function : a function of a module, or a `functools.partial` of one (it is sent to other processes).
    corpus : what `keymyna_lib.corpus.corpus.open_corpus` returns.
    workers : processes; 0 is one for each core, 1 works in this process.

    Raises
    ------
    KeyMynaError
        When a process was killed, most often for want of memory.
    """
    count = worker_count(workers, len(track_ids))
    if count == 1:
        yield from (function(corpus, t) for t in bar(track_ids, desc=desc, unit="track", show=progress))
        return
    context = multiprocessing.get_context("forkserver")  # plain forking is unsafe beside torch's threads
    context.set_forkserver_preload(_modules_of(function, corpus))
    pool = ProcessPoolExecutor(count, context, _start, (corpus,))
    try:
        results = pool.map(_apply, [function] * len(track_ids), track_ids)
        yield from bar(results, total=len(track_ids), desc=desc, unit="track", show=progress)
    except BrokenProcessPool:
        raise KeyMynaError(
            f"{desc}: a worker process was killed, most often for want of memory; run again with fewer workers."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
