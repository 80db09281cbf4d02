"""The device that work is done on."""

from __future__ import annotations

import torch

from keymyna_lib.base.errors import KeyMynaError


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA when there is one, else the CPU.

    Raises
    ------
    KeyMynaError
        When CUDA is asked for and absent.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise KeyMynaError("device 'cuda': this machine shows no CUDA GPU; use device 'cpu' or 'auto'.")
    return torch.device(name)
