"""What is recorded computes what is called."""

import pytest
import torch

from keymyna_lib.compute.recorded import Recorded

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def counter(device):
    total, calls = torch.zeros((), device=device), []

    def add() -> None:
        calls.append(1)
        total.add_(total + 1)

    return total, calls, add


def test_without_a_gpu_it_is_called_each_time():
    total, calls, add = counter("cpu")
    recorded = Recorded(add, torch.device("cpu"))
    for _ in range(5):
        recorded()
    assert total == 31 and len(calls) == 5


@needs_gpu
def test_on_a_gpu_it_is_replayed():
    total, calls, add = counter("cuda")
    recorded = Recorded(add, torch.device("cuda"))
    for _ in range(5):
        recorded()
    assert total == 31 and len(calls) == 2


@needs_gpu
def test_on_a_gpu_what_waits_for_it_is_called():
    total, _, add = counter("cuda")
    recorded = Recorded(lambda: (add(), total.item()), torch.device("cuda"))
    recorded()
    with pytest.warns(UserWarning, match="a step is not recorded"):
        recorded()
    for _ in range(3):
        recorded()
    assert total.item() == 31
