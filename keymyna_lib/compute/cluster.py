"""Tasks on a Dask cluster: processes of this machine, a running scheduler, or SLURM jobs.

Only paths, ids and hashes travel. The data lie on a file system that all machines see under the same path, and tasks
leave their results there. A worker that dies therefore costs only what it had not finished: Dask gives its tasks to
another worker, and a run that is started again resumes from the files.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json
from keymyna_lib.compute.executor import Executor, Result, call
from keymyna_lib.compute.processes import HERE, cores
from keymyna_lib.compute.threads import one_thread

if TYPE_CHECKING:
    from distributed import Client

_FORMS = (
    'expected "" (this machine, without Dask), "local" or "local:N" (N processes), the address of a scheduler such as '
    '"tcp://host:8786", or "slurm:FILE.json"'
)


@contextlib.contextmanager
def connect(where: str) -> Iterator[Executor]:
    """The executor that a parameter names; whatever was started for it ends with it.

    Parameters
    ----------
    where : "" for this machine's processes without Dask; "local" for a Dask cluster with one process per core of this
        machine, "local:N" for N processes; "tcp://host:port" for a running scheduler; "slurm:FILE.json" for SLURM jobs.
        The file holds the arguments of `dask_jobqueue.SLURMCluster` and "jobs", the number of jobs to ask for:
        {"jobs": 16, "cores": 8, "processes": 8, "memory": "32GB", "walltime": "04:00:00"}.

    Raises
    ------
    KeyMynaError
        When it is none of these, no scheduler answers, SLURM is absent, or the file is not as described.
    """
    if not where:
        yield HERE
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
        yield Cluster(stack.enter_context(Client(target)))


def _local(processes: int) -> contextlib.AbstractContextManager:
    from distributed import LocalCluster

    # One thread each, as a task keeps a core busy. No dashboard: its packages are not among the requirements.
    return LocalCluster(processes or cores(), threads_per_worker=1, dashboard_address=None)


def _answering(address: str) -> str:
    """The address, if something listens there: a Client that finds nothing leaves a thread that may block the next."""
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
        raise KeyMynaError(f'{file}: expected the arguments of SLURMCluster by name, and "jobs", the number of jobs.')
    if shutil.which("sbatch") is None:
        raise KeyMynaError("scheduler 'slurm:...': there is no sbatch here; run on a machine that submits to SLURM.")
    try:
        cluster = SLURMCluster(**arguments)
    except (TypeError, ValueError) as error:
        raise KeyMynaError(f"{file}: SLURMCluster does not take these arguments ({error}).") from None
    cluster.scale(jobs=jobs)
    return cluster


class Cluster(Executor):
    """The workers of a Dask scheduler; a worker that dies costs the tasks it was doing, which another one repeats.

    Parameters
    ----------
    client : a client of the scheduler.
    """

    here = False

    def __init__(self, client: Client):
        self.client = client

    def _results(
        self, function: Callable[..., Result], tasks: Sequence[tuple], desc: str, ordered: bool
    ) -> Generator[tuple[int, Result], None, None]:
        from distributed import KilledWorker, as_completed
        from distributed.client import FutureCancelledError
        from distributed.comm import CommClosedError

        sent = pickle.dumps(function)  # here, or the scheduler would open what the function holds
        futures = [self.client.submit(_call_on_one_thread, sent, *task, pure=False) for task in tasks]
        index = {future.key: i for i, future in enumerate(futures)}
        try:
            for future in list(futures) if ordered else as_completed(futures):
                result = future.result()
                future.release()
                yield index[future.key], result
        except KilledWorker as error:
            raise KeyMynaError(
                f"{desc}: the workers of one task were killed {error.allowed_failures + 1} times, most often for lack "
                "of memory. Give them more and run again; it resumes where it stopped."
            ) from None
        except (FutureCancelledError, CommClosedError) as error:
            raise KeyMynaError(
                f"{desc}: the scheduler is gone ({error}). Run again; it resumes where it stopped."
            ) from None
        finally:
            with contextlib.suppress(CommClosedError, OSError, TimeoutError):  # the scheduler may be gone
                self.client.cancel(futures)


def _call_on_one_thread(function: bytes, *task: Any) -> Any:
    """In a worker. There is to be one worker per core, and no result may depend on the number of threads."""
    with one_thread():
        return call(function, *task)
