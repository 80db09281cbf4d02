"""Seeds and generators: every random draw comes from one that is made here and handed in."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stable_words(text: str) -> list[int]:
    """Four 32-bit words derived from a string, to seed a generator by name whatever the order of work."""
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]


def stream_of(seed: int, text: str = "") -> np.random.Generator:
    """Random numbers that depend on nothing but the seed and what they are for, whatever the order of work.

    Parameters
    ----------
    text : what they are for; without it, the numbers of `np.random.default_rng(seed)`.
    """
    return np.random.default_rng([seed, *(stable_words(text) if text else [])])


def stream(seed: int, *name: object) -> np.random.Generator:
    """`stream_of` a name of several words and numbers, whose `repr` never changes."""
    return stream_of(seed, repr(name))


def torch_stream(seed: int, *name: object, device: str = "cpu") -> torch.Generator:
    """`stream` for draws that torch makes on a device; other devices draw other numbers."""
    return torch.Generator(device).manual_seed(int(stream(seed, *name).integers(2**63)))


def generator_for(seed: int, *words: int) -> torch.Generator:
    """A CPU generator for one purpose of one seed, independent of all others; a third word of 0 is as good as none."""
    state = np.random.SeedSequence([seed, *words]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
