"""Named streams of a seed: every random draw comes from a generator that is made here and handed in.

One convention for all of the library: a generator is that of a seed and of a name, which says what is drawn with it
("splits"; "batch", step). Draws of one name depend neither on those of another nor on the order of work. Only the
benchmark's reference implementation draws as the public code does, from global state; no result depends on it.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stable_words(text: str) -> list[int]:
    """Four 32-bit words of a text, the same on every machine and in every process."""
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]


def numpy_stream(seed: int, *name: object) -> np.random.Generator:
    """The NumPy generator of a seed and a name.

    Parameters
    ----------
    name : one or more words and numbers whose `str` never changes; they are joined by "/".

    >>> int(numpy_stream(0, "splits").integers(100)) == int(numpy_stream(0, "splits").integers(100))
    True
    """
    return np.random.default_rng([seed, *stable_words("/".join(map(str, name)))])


def torch_stream(seed: int, *name: object, device: str = "cpu") -> torch.Generator:
    """The torch generator of a seed and a name, as `numpy_stream`; another device draws other numbers."""
    return torch.Generator(device).manual_seed(int(numpy_stream(seed, *name).integers(2**63)))
