"""One interface for independent tasks, whether processes of this machine or a cluster's workers do them.

`cluster.connect` opens the executor that a parameter names; the default is `processes.HERE`, all cores of this machine.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeVar

from keymyna_lib.base.progress import bar

Result = TypeVar("Result")


class Executor(ABC):
    """Runs independent tasks, each on one thread. Results do not depend on which executor ran them.

    Attributes
    ----------
    here : whether all work is done on this machine, by processes that live only for one `map`. What already uses every
        core or a GPU by itself, as torch does, is then faster in the calling process than as tasks.
    """

    here: bool

    def map(
        self,
        function: Callable[..., Result],
        tasks: Sequence[tuple],
        *,
        desc: str,
        unit: str = "task",
        sizes: Sequence[int] | None = None,
        ordered: bool = False,
        show: bool = True,
    ) -> Iterator[tuple[int, Result]]:
        """Yield each task's index and `function(*task)`.

        Parameters
        ----------
        function : a module-level function, or a `functools.partial` of one. A worker unpickles it once and keeps it
            until it gets another. What all tasks share, such as a corpus (sent as its path), belongs in the partial.
        tasks : positional arguments of each call. They and the results are pickled; keep large data in files.
        desc, unit, sizes, show : the progress bar's text, what it counts, how many of these each task has (default 1),
            and whether to draw it.
        ordered : yield results in the order of the tasks instead of as they complete.

        Raises
        ------
        KeyMynaError
            When a worker is killed or the scheduler is lost. What `function` raises is raised here.
        """
        sizes = sizes or [1] * len(tasks)
        left = len(tasks)
        with (
            bar(desc=desc, total=sum(sizes), unit=unit, show=show) as progress,
            contextlib.closing(self._results(function, tasks, desc, ordered)) as results,
        ):
            for i, result in results:
                progress.update(sizes[i])
                left -= 1
                if not left:  # the caller may not ask again after the last result
                    progress.close()
                yield i, result

    @abstractmethod
    def _results(
        self, function: Callable[..., Result], tasks: Sequence[tuple], desc: str, ordered: bool
    ) -> Generator[tuple[int, Result], None, None]:
        """`map` without the progress bar; cancels unfinished tasks when closed."""


def call(function: bytes, *task: Any) -> Any:
    """In a worker: apply a pickled function."""
    return _unpickled(function)(*task)


@functools.lru_cache(maxsize=1)
def _unpickled(function: bytes) -> Callable:
    return pickle.loads(function)
