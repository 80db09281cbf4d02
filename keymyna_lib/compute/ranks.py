"""Pre-training on several processes that torchrun starts on one or more machines; without torchrun on one process.

Each process has a rank, 0 to world - 1. "Own" means of this process; rows lie along the first axis of a tensor.
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
    """Number of cooperating processes."""
    return dist.get_world_size() if dist.is_initialized() and not _alone else 1


def rank() -> int:
    """Number of this process among them; rank 0 prints and writes for all."""
    return dist.get_rank() if world() > 1 else 0


@contextlib.contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that torchrun started, and leave them at the end; does nothing without torchrun.

    Parameters
    ----------
    device : device type, "cuda" (nccl; each process uses the GPU of its local rank) or "cpu" (gloo).

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
            f"of torchrun's environment {', '.join(missing)} is missing. Start several processes with "
            "torchrun, which sets all of it; for a single process unset RANK and WORLD_SIZE."
        )
    if device == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        # Every process of the machine raises this, because only rank 0 prints.
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
    # Not after an error, when it could wait forever; torchrun stops the other processes. Collect first: if
    # DistributedDataParallel were the last to hold the group, its destructor could deadlock with a thread of the group
    # that waits for the interpreter's lock.
    gc.collect()
    dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Within this context the process is on its own: nothing is communicated, so the others need not enter it."""
    global _alone
    _alone = True
    try:
        yield
    finally:
        _alone = False


def gather(rows: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks: (row, ...) -> (rank x row, ...).

    Gradients flow back to the process that a row came from and are summed there over all processes. Since parameters'
    gradients are averaged afterwards, each process may compute its loss as if it were alone; the result is the gradient
    of the mean of these losses.
    """
    if world() == 1:
        return rows
    from torch.distributed.nn.functional import all_gather  # here, as it is slow to import

    # Pass the group: the function's default is the group that existed when it was imported.
    return torch.cat(all_gather(rows, dist.group.WORLD))
