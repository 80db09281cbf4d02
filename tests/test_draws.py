"""Numbers by counting: they are SplitMix64's, uniform, and alike on every device."""

import math

import numpy as np
import pytest
import torch

from keymyna_lib.accelerated.draws import Draws, key_for

GAMMA = 0x9E3779B97F4A7C15


def mix(x):
    x &= 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % 2**64
    return x ^ (x >> 31)


def plain_words(key, purpose, n):
    """The same numbers in Python's own integers, unsigned."""
    base = mix(key + (purpose + 1) * GAMMA)
    return [mix(base + i * GAMMA) for i in range(1, n + 1)]


def draws_of(seed, *words, device="cpu"):
    return Draws(torch.tensor(key_for(seed, *words), device=device))


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), key_for(3, 1)])
def test_words_are_splitmix64(key):
    drawn = Draws(torch.tensor(key)).words(5, 4, 3)
    assert [int(x) % 2**64 for x in drawn.flatten()] == plain_words(key, 5, 12)


def test_the_first_number_of_splitmix64_from_zero():
    assert mix(GAMMA) == 0xE220A8397B1DCDAF  # published with the generator


def test_numbers_are_those_of_the_words():
    key = key_for(0, 2, 7)
    words, draws = plain_words(key, 1, 30), Draws(torch.tensor(key))
    assert draws.uniform(1, 30).tolist() == [(w >> 40) / 2**24 for w in words]
    limits = torch.arange(1, 31)
    assert draws.below(1, limits).tolist() == [((w >> 32) * n) >> 32 for w, n in zip(words, limits.tolist())]
    rows = draws.subsets(1, 3, 10, 4).tolist()
    for row, begin in zip(rows, (0, 10, 20)):
        signed = [w - 2**64 if w >= 2**63 else w for w in words[begin : begin + 10]]
        assert row == sorted(range(10), key=lambda i: (signed[i] >> 4, i))[:4]


def test_uniform_and_below_cover_their_range_evenly():
    draws, n = draws_of(1), 200_000
    numbers = draws.uniform(0, n)
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = torch.histc(numbers, 20, 0, 1)
    assert ((counts - n / 20) ** 2 / (n / 20)).sum() < 45  # chi square of 19 degrees, p about 0.0007
    below = draws.below(1, torch.full((n,), 7))
    assert ((below.bincount(minlength=7) - n / 7) ** 2 / (n / 7)).sum() < 25
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


def test_subsets_are_distinct_and_even():
    rows, n, size = 20_000, 98, 10
    drawn = draws_of(2).subsets(0, rows, n, size)
    assert drawn.shape == (rows, size) and (drawn.sort(dim=1).values.diff(dim=1) > 0).all()
    expected = rows * size / n
    assert ((drawn.flatten().bincount(minlength=n) - expected) ** 2 / expected).sum() < 150  # 97 degrees
    first = drawn[:, 0].bincount(minlength=n)
    assert ((first - rows / n) ** 2 / (rows / n)).sum() < 150  # in random order
    assert draws_of(2).subsets(0, 5, 1, 1).tolist() == [[0]] * 5


def test_orders_are_permutations():
    order = draws_of(3).order(0, 1000)
    assert sorted(order.tolist()) == list(range(1000)) and order.tolist() != list(range(1000))


def test_keys_purposes_and_words_differ():
    seen = [draws_of(*words).words(purpose, 50) for words in ((0, 1), (0, 2), (1, 1)) for purpose in (0, 1)]
    assert len({int(x) for drawn in seen for x in drawn}) == 300


def test_a_key_that_is_overwritten_draws_anew():
    draws = draws_of(0, 2, 0)
    first = draws.words(0, 8)
    draws.key.fill_(key_for(0, 2, 1))
    assert not torch.equal(first, draws.words(0, 8))
    draws.key.fill_(key_for(0, 2, 0))
    assert torch.equal(first, draws.words(0, 8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_draws_the_same():
    here, there = draws_of(5), draws_of(5, device="cuda")
    limits = torch.arange(1, 1001)
    for drawn, same in (
        (here.words(0, 1000), there.words(0, 1000)),
        (here.uniform(1, 1000), there.uniform(1, 1000)),
        (here.below(2, limits), there.below(2, limits.cuda())),
        (here.subsets(3, 500, 98, 10), there.subsets(3, 500, 98, 10)),
        (here.order(4, 5000), there.order(4, 5000)),
    ):
        assert torch.equal(drawn, same.cpu())
    assert math.isfinite(there.uniform(6, 10).sum())
