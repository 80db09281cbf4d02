"""Short work that is queued on a GPU again and again: recorded once as a CUDA graph, then replayed by one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch


class Recorded:
    """A function that is called many times: on a GPU the second call records it, and that one and later ones replay.

    Parameters
    ----------
    function : queues the same kernels on the same tensors at each call, and never waits for the device. What it
        computes lies in tensors that it was made with; Python runs in the first two calls only.
    device : where it works. Elsewhere than on a GPU, or where recording fails (a warning says so), it is just called.
    """

    def __init__(self, function: Callable[[], None], device: torch.device):
        self._function, self._device = function, device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._to_record = device.type == "cuda"
        self._called = False

    def __call__(self) -> None:
        if self._called and self._to_record:
            self._record()
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()
        self._called = True

    def _record(self) -> None:
        self._to_record, graph = False, torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._function()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            warnings.warn(f"a step is not recorded: {type(error).__name__}: {error}", stacklevel=3)
        else:
            self._graph = graph
