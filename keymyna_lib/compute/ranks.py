"""Pre-training on several processes, on one machine or many, as torchrun starts them. Without torchrun there is one.

Each process has a rank, 0 to world - 1; "own" means this process's. Rows are along the first axis of a tensor.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_alone = False


def world() -> int:
    """Number of processes that work together."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Number of this process among them, from 0; the first one speaks and writes for all."""
    return dist.get_rank() if world() > 1 else 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end; without torchrun do nothing.

    Parameters
    ----------
    device : type of device, "cuda" (by nccl, each process with the GPU of its local rank) or "cpu" (by gloo).

    Raises
    ------
    KeyMynaError
        When torchrun's environment is incomplete, or a machine has more processes than GPUs.
    """
    if not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        yield
        return
    if missing := [name for name in _VARIABLES if name not in os.environ]:
        raise KeyMynaError(
            f"of torchrun's environment {', '.join(missing)} is missing. Start several processes by "
            "torchrun, which sets all of it; for one process unset RANK and WORLD_SIZE."
        )
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        # All of the machine's processes raise it, as only the first one speaks.
        if (processes := int(os.environ["LOCAL_WORLD_SIZE"])) > gpus:
            raise KeyMynaError(
                f"{processes} processes on this machine, which has only {gpus} GPU(s): lower torchrun's "
                "--nproc-per-node."
            )
        torch.cuda.set_device(local)
        dist.init_process_group("nccl", device_id=torch.device("cuda", local))
    else:
        dist.init_process_group("gloo")
    yield
    # Not after an error: it could wait for ever, and torchrun stops the others. What holds the group goes first: as the
    # last to hold it, DistributedDataParallel could wait for ever too, for a thread of the group that waits for Python.
    gc.collect()
    dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within, this process is the only one: nothing is sent, so that not all need to come by here."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes in the order of their ranks: (row, ...) -> (rank x row, ...).

    Gradients flow back to the process that a row came from and are summed there over all processes. As gradients of
    parameters are averaged afterwards, each process may take its loss as if it were the only one: the result is the
    gradient of the mean of these losses.
    """
    if world() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather  # here, because it is slow to import

    # The group by name: that function's default is the one that was there when it was imported.
    return torch.cat(all_gather(rows, dist.group.WORLD))
