"""Draws that arrangements and productions share. All ranges are our choice."""

from __future__ import annotations

import numpy as np

SECTION_SECONDS = (5.0, 8.0)  # of a section with scope "section"
TEMPO_FACTOR = (0.85, 1.18)  # its tempo over the piece's


def uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """A uniform draw, short in JSON."""
    return round(float(rng.uniform(*bounds)), 3)


def section_length(remaining: float, rng: np.random.Generator) -> float:
    """5 to 8 s; near the end all of the rest, or half of it, so that no short remnant is left."""
    low, high = SECTION_SECONDS
    length = uniform(rng, SECTION_SECONDS)
    if remaining - length < low:
        length = remaining if remaining <= high else remaining / 2
    return round(length, 6)
