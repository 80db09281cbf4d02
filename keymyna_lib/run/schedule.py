"""Tasks that wait for each other, several at a time, in threads of this process."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from keymyna_lib.base.errors import KeyMynaError

Work = Callable[[], None]
SOON = 10.0  # s; whatever Ctrl-C or a full disk ends at the same time has ended by then


@dataclass(frozen=True)
class Task:
    """Something to do.

    name : unique.
    after : names of tasks that are done before it begins, as far as they are to be done at all.
    alone : whether nothing else may be at work meanwhile.
    """

    name: str
    after: Collection[str] = ()
    alone: bool = False


def usual_jobs() -> int:
    """How many notebooks at a time suit this machine: two, or one where there is one core, or a GPU to be shared."""
    import torch  # here, as whoever skips everything should not wait for it

    return 2 if len(os.sched_getaffinity(0)) > 1 and not torch.cuda.is_available() else 1


def work_off(
    tasks: Sequence[Task],
    begin: Callable[[str], Work | None],
    jobs: int | None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Do tasks, the first in order of those that nothing holds back; after a failure, begin none.

    Parameters
    ----------
    tasks : each comes behind those that it is to come after.
    begin : called in this thread when a task is next: what is left to do, in another thread perhaps; None if nothing.
    jobs : how many tasks are at work at a time, None for `usual_jobs`. One is done in this thread.
    say : told of a failure while others are still at work.

    Raises
    ------
    KeyMynaError
        For all tasks that failed so; those at work at the time have ended.
    Exception
        The first of any other kind that was raised.
    """
    waiting, working = {task.name: task for task in tasks}, dict[str, Task]()
    ended: queue.SimpleQueue[tuple[str, BaseException | None]] = queue.SimpleQueue()
    failures: list[BaseException] = []

    def do(name: str, work: Work) -> None:
        try:
            work()
            ended.put((name, None))
        except BaseException as error:  # it is raised below, in the thread that waits
            ended.put((name, error))

    while waiting or working:
        while (not failures) and (task := _next(waiting, working, jobs)):
            try:
                work = begin(task.name)
            except Exception as error:
                failures.append(error)
                break
            del waiting[task.name]
            if work is None:
                continue
            if jobs is None:
                jobs = usual_jobs()
            if jobs == 1:
                work()
                continue
            working[task.name] = task
            # Those of a pool would be waited for when Ctrl-C ends this process.
            threading.Thread(target=do, args=(task.name, work), daemon=True).start()
        if not working:
            break
        try:
            name, error = ended.get(timeout=SOON if failures else None)
        except queue.Empty:
            say(f"A notebook has failed, and no other begins. Still at work: {', '.join(working)}.")
            name, error = ended.get()
        del working[name]
        failures += [error] if error else []
    if other := [failure for failure in failures if not isinstance(failure, KeyMynaError)]:
        raise other[0]
    if len(failures) > 1:
        raise KeyMynaError("\n".join(str(failure) for failure in failures))
    if failures:
        raise failures[0]


def _next(waiting: dict[str, Task], working: dict[str, Task], jobs: int | None) -> Task | None:
    """The task to begin now, if any."""
    if any(task.alone for task in working.values()) or (working and len(working) >= (jobs or 1)):
        return None
    ahead = {*waiting, *working}
    free = (task for task in waiting.values() if not (ahead & set(task.after)) and not (task.alone and working))
    return next(free, None)
