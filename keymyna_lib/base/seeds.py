"""Seeds and generators: every random draw comes from one that is made here and handed in."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stable_words(text: str) -> list[int]:
    """Four 32-bit words derived from a string, to seed a generator by name whatever the order of work."""
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]


def named_rng(seed: int, purpose: str) -> np.random.Generator:
    """A NumPy generator for one named purpose of one seed, independent of all others."""
    return np.random.default_rng([seed, *stable_words(purpose)])


def generator_for(seed: int, *words: int) -> torch.Generator:
    """A CPU generator for one purpose of one seed, independent of all others; a third word of 0 is as good as none."""
    state = np.random.SeedSequence([seed, *words]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
