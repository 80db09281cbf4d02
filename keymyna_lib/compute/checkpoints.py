"""Checkpoints of unfinished training: everything that the next step depends on, in one safetensors file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import discard
from keymyna_lib.base.tensors import CHECKPOINT, reading, save_tensors
from keymyna_lib.compute.ranks import rank

_OPTIMIZER = "optimizer"


class Checkpoint(NamedTuple):
    """What a file held.

    Attributes
    ----------
    states : state dictionaries of modules, by the names under which they were saved.
    moments : what the optimizer keeps for each parameter, by the parameter's index.
    step : steps taken.
    history : one record per step or look at validation.
    """

    states: dict[str, dict[str, Tensor]]
    moments: dict[int, dict[str, Tensor]]
    step: int
    history: list[dict[str, float]]

    def restore_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimizer its moments back; its settings stay."""
        optimizer.load_state_dict({**optimizer.state_dict(), "state": self.moments})


def save_checkpoint(
    path: Path,
    states: Mapping[str, Mapping[str, Tensor]],
    optimizer: torch.optim.Optimizer,
    *,
    fingerprint: str,
    step: int,
    history: Sequence[Mapping[str, float]],
) -> None:
    """Write a checkpoint, atomically. All processes may call it; the first writes.

    Parameters
    ----------
    states : state dictionaries by a name without a full stop, other than "optimizer".
    fingerprint : of the run: its settings and data.
    step, history : see `Checkpoint`.
    """
    if rank():
        return
    tensors = {f"{kind}.{name}": value for kind, state in states.items() for name, value in state.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"{_OPTIMIZER}.{index}.{name}": value for name, value in state.items()}
    save_tensors(path, tensors, fingerprint=fingerprint, step=str(step), history=json.dumps(history))


def read_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """The checkpoint of this very run, on the CPU; None when there is none, or that of another run.

    A damaged one in the cache is removed, and said once: the run starts at step 0. Elsewhere it is somebody's file, and
    stays.
    """
    if not path.exists():
        return None
    states: dict[str, dict[str, Tensor]] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        with reading(path, CHECKPOINT, "Starting from step 0.") as (tensors, metadata):
            if metadata["fingerprint"] != fingerprint:
                return None
            for name, value in tensors.items():
                kind, rest = name.split(".", 1)
                if kind == _OPTIMIZER:
                    index, entry = rest.split(".")
                    moments.setdefault(int(index), {})[entry] = value
                else:
                    states.setdefault(kind, {})[rest] = value
            return Checkpoint(states, moments, int(metadata["step"]), json.loads(metadata["history"]))
    except KeyMynaError as error:
        if not rank():
            print(error)
            if path.is_relative_to(paths.CACHE):
                discard(path)
        return None
