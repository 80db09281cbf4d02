"""Fixtures for tests that need the real corpus of scores: parsed once, then cached as in a normal run."""

import pytest

from keymyna_lib.data import compositions
from keymyna_lib.data.scores import load_scores


@pytest.fixture(scope="session")
def scores():
    return load_scores()


@pytest.fixture(scope="session")
def pieces(scores):
    """The table of all kept pieces with their composition and split."""
    table = scores.table.assign(composition=compositions.composition_ids(scores))
    return table.assign(split=compositions.assign_splits(table, seed=0))
