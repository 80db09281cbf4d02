"""Independent tasks on a Dask cluster: processes of this machine, a scheduler that runs already, or SLURM jobs.

What travels are paths, ids and hashes. The data lie on a file system that all machines see under the same path, and a
task leaves its result there, so that a worker that dies costs its tasks' unfinished part and nothing else: Dask gives
these tasks to another worker, and a run that is started again goes on from the files.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json
from keymyna_lib.base.progress import bar

if TYPE_CHECKING:
    from distributed import Client

Result = TypeVar("Result")
_FORMS = (
    'expected "" (this machine, without Dask), "local" or "local:N" (N processes), a scheduler\'s address such as '
    '"tcp://host:8786", or "slurm:FILE.json"'
)


@contextlib.contextmanager
def connect(where: str) -> Iterator[Client | None]:
    """A client of the cluster that a parameter names; what was started for it ends with it.

    Parameters
    ----------
    where : "" for none (the client is None, and work is done by this machine's processes); "local" for one process on
        each core of this machine, "local:N" for N; "tcp://host:port" for a scheduler that runs already;
        "slurm:FILE.json" for SLURM jobs. The file holds the arguments of `dask_jobqueue.SLURMCluster` and "jobs", how
        many are asked for: {"jobs": 16, "cores": 8, "processes": 8, "memory": "32GB", "walltime": "04:00:00"}.

    Raises
    ------
    KeyMynaError
        When it is none of these, no scheduler answers, SLURM is not there, or the file is not as above.
    """
    if not where:
        yield None
        return
    from distributed import Client

    kind, _, rest = where.partition(":")
    with contextlib.ExitStack() as stack:
        if kind == "local" and ((rest.isdecimal() and int(rest)) or where == kind):
            target = stack.enter_context(_local(int(rest or 0)))
        elif kind == "slurm" and rest:
            target = stack.enter_context(_slurm(rest))
        elif kind == "tcp":
            target = _answering(where)
        else:
            raise KeyMynaError(f"scheduler {where!r}: {_FORMS}.")
        yield stack.enter_context(Client(target))


def _local(processes: int) -> contextlib.AbstractContextManager:
    from distributed import LocalCluster

    from keymyna_lib.compute.processes import worker_count

    # One thread each: tasks keep a core busy. No dashboard: its packages are not among the requirements.
    return LocalCluster(processes or worker_count(0, 2**31), threads_per_worker=1, dashboard_address=None)


def _answering(address: str) -> str:
    """An address at which something listens. A Client that finds nothing leaves a thread behind, which may block the next."""
    try:
        parts = urlsplit(address)
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20).close()
    except (OSError, ValueError) as error:
        raise KeyMynaError(
            f"scheduler {address!r} does not answer ({error}). Start one with `dask scheduler`, and "
            "workers with `dask worker ADDRESS --nthreads 1`."
        ) from None
    return address


def _slurm(file: str) -> contextlib.AbstractContextManager:
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise KeyMynaError(
            "scheduler 'slurm:...' needs dask-jobqueue; install it into this environment: "
            "pip install -c requirements.lock dask-jobqueue"
        ) from None
    arguments = read_json(file)
    if not isinstance(arguments, dict) or not isinstance(jobs := arguments.pop("jobs", None), int) or jobs < 1:
        raise KeyMynaError(f'{file}: expected the arguments of SLURMCluster by name, and "jobs", how many to ask for.')
    if shutil.which("sbatch") is None:
        raise KeyMynaError("scheduler 'slurm:...': there is no sbatch here; run on a machine that submits to SLURM.")
    try:
        cluster = SLURMCluster(**arguments)
    except (TypeError, ValueError) as error:
        raise KeyMynaError(f"{file}: SLURMCluster does not take these arguments ({error}).") from None
    cluster.scale(jobs=jobs)
    return cluster


def over(
    client: Client,
    function: Callable[..., Result],
    tasks: Sequence[tuple],
    *,
    desc: str,
    unit: str = "task",
    sizes: Sequence[int] | None = None,
    show: bool = True,
) -> Iterator[tuple[int, Result]]:
    """Yield the number of each task and `function(*task)`, as they are done.

    Parameters
    ----------
    function : a function of a module that the workers can import, or a `functools.partial` of one.
    tasks : arguments; they are sent to the workers, as the results are sent back, so let both be small.
    desc, unit, sizes, show : the progress bar's text, what it counts, how many of these each task has (1), and whether
        to draw it.

    Raises
    ------
    KeyMynaError
        When a task's workers died again and again, or the scheduler is gone; or as `function` does.
    """
    from distributed import KilledWorker, as_completed
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    sizes = sizes or [1] * len(tasks)
    futures = [client.submit(_one_thread, function, *task, pure=False) for task in tasks]
    position = {future.key: i for i, future in enumerate(futures)}
    try:
        with bar(desc=desc, total=sum(sizes), unit=unit, show=show) as progress:
            for future in as_completed(futures):
                result = future.result()
                future.release()
                progress.update(sizes[position[future.key]])
                yield position[future.key], result
    except KilledWorker as error:
        raise KeyMynaError(
            f"{desc}: the workers of one task were killed {error.allowed_failures + 1} times, most often "
            "for want of memory. Give them more and run again; it goes on where it stopped."
        ) from None
    except (FutureCancelledError, CommClosedError) as error:
        raise KeyMynaError(
            f"{desc}: the scheduler is gone ({error}). Run again; it goes on where it stopped."
        ) from None
    finally:
        with contextlib.suppress(CommClosedError, OSError, TimeoutError):  # of a scheduler that is gone
            client.cancel(futures)


def _one_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """In a worker: as many workers as cores are expected, and results not to depend on the number of threads."""
    from keymyna_lib.compute.threads import one_thread

    with one_thread():
        return function(*arguments)
