"""Random numbers by counting: the i-th number of a key is a hash of both, alike on every device.

A generator's state lives on the host, and its numbers differ between CPU and CUDA. Here a key stands in a tensor on
the device and numbers are computed from it, so that a recorded CUDA graph draws anew when the key is overwritten, a
step that is taken again draws the same, and a CPU can check what a GPU has drawn. The hash is SplitMix64 (Steele, Lea
and Flood, 2014), whose i-th number is mix(key + i gamma).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from keymyna_lib.base.seeds import numpy_stream

_GAMMA = 0x9E3779B97F4A7C15 - 2**64  # odd, the golden ratio's bits; torch's 64-bit products wrap around
_MIX = (30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64)


def key_for(seed: int, *name: object) -> int:
    """The key of a seed and a name, see `base.seeds`: 64 bits, signed."""
    return int(numpy_stream(seed, *name).integers(-(2**63), 2**63))


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _mix(x: Tensor) -> Tensor:
    for bits, factor in _MIX:
        x = (x ^ _shift(x, bits)) * factor
    return x ^ _shift(x, 31)


class Draws:
    """Random numbers of one key.

    Parameters
    ----------
    key : () int64, on the device where numbers are wanted; may be overwritten between steps.
    """

    def __init__(self, key: Tensor):
        self.key = key
        # In a tensor, as torch's compiler takes the product of a range and a large constant for one of 32 bits.
        self._gamma = torch.full((), _GAMMA, device=key.device)

    def words(self, purpose: int, *shape: int) -> Tensor:
        """int64 of the given shape, uniform over all 64 bits; the same purpose gives the same numbers again."""
        count = torch.arange(1, math.prod(shape) + 1, device=self.key.device)
        offset = ((purpose + 1) * _GAMMA + 2**63) % 2**64 - 2**63  # wrapped, as Python's integers do not
        return _mix(_mix(self.key + offset) + count * self._gamma).view(shape)

    def uniform(self, purpose: int, *shape: int) -> Tensor:
        """float32 in [0, 1), multiples of 2^-24."""
        return _shift(self.words(purpose, *shape), 40).float() * 2.0**-24

    def below(self, purpose: int, limit: Tensor) -> Tensor:
        """int64 uniform in 0..limit - 1, of the shape of `limit` (int64, from 1 to 2^31)."""
        return (_shift(self.words(purpose, *limit.shape), 32) * limit) >> 32

    def subsets(self, purpose: int, rows: int, n: int, size: int) -> Tensor:
        """(row, size) int64: for each row so many of 0..n - 1, without replacement and in random order."""
        bits = max(n - 1, 1).bit_length()
        tagged = (self.words(purpose, rows, n) >> bits << bits) + torch.arange(n, device=self.key.device)
        return tagged.topk(size, dim=1, largest=False).values & (2**bits - 1)

    def order(self, purpose: int, n: int) -> Tensor:
        """(n,) int64: a permutation."""
        return self.words(purpose, n).argsort(stable=True)
