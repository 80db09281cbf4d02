"""Embedding-space transposition against maps that are known, and test-time transposition against a loop."""

import numpy as np
import pytest
import torch

from keymyna_lib.embed import Features
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.heads import HeadSpec, TrainedHead
from keymyna_lib.transposition import fit_shift_maps, mapped_views, predict_transposed

DIM, SHIFTS = 6, (-2, 0, 3)
NAMES = tuple(f"t{i}" for i in range(40))


@pytest.fixture(scope="module")
def true_maps():
    generator = torch.Generator().manual_seed(0)
    return {shift: torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0] for shift in SHIFTS if shift}


@pytest.fixture(scope="module")
def features(true_maps):
    """Tracks of 3 to 5 windows; two windows of each, the first and the last, sent through the true maps."""
    generator = torch.Generator().manual_seed(1)
    x, track, shift = [], [], []
    for i in range(len(NAMES)):
        windows = torch.randn(3 + i % 3, DIM, generator=generator)
        for s in SHIFTS:
            rows = windows if s == 0 else windows[[0, -1]] @ true_maps[s]
            x.append(rows), track.append(torch.full((len(rows),), i)), shift.append(torch.full((len(rows),), s))
    return Features(torch.cat(x), torch.cat(track), torch.cat(shift), NAMES)


def test_known_maps_are_found(features, true_maps):
    maps = fit_shift_maps(features, NAMES, SHIFTS)
    assert torch.equal(maps[0], torch.eye(DIM))
    for shift, true in true_maps.items():
        assert torch.allclose(maps[shift], true, atol=5e-3)


def test_mapped_views_are_the_windows_times_the_maps_and_their_labels_move(features, true_maps):
    views = mapped_views(features, NAMES[1:3], {0: torch.eye(DIM), 3: true_maps[3]})
    plain = features.select(NAMES[1:3])
    assert torch.allclose(views.select(NAMES[1:3], [3]).x, plain.x @ true_maps[3])
    assert torch.equal(views.select(NAMES).x, features.select(NAMES).x)
    assert views.select(NAMES[1:3], [0, 3]).keys({name: 11 for name in NAMES}).unique().tolist() == [2, 11]  # B, and D
    with pytest.raises(KeyMynaError, match="were not extracted"):
        views.select(NAMES[:1], [3])


def test_outputs_are_transposed_back_and_averaged(features):
    generator = torch.Generator().manual_seed(2)
    head = TrainedHead(HeadSpec(), {"weight.0": torch.randn(24, DIM, generator=generator), "bias.0": torch.zeros(24)},
                       torch.zeros(DIM), torch.ones(DIM))
    found = predict_transposed(head, features, NAMES[:4], (-2, 3))
    for i, name in enumerate(NAMES[:4]):
        for key in range(24):
            total = 0.0
            for shift in (-2, 3):
                outputs = head.window_probabilities(features.select([name], [shift]).x).mean(0)
                moved = (key % 12 + shift) % 12 + (12 if key >= 12 else 0)
                total += outputs[moved] / 2
            assert found[i, key] == pytest.approx(total, abs=1e-6)
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    with pytest.raises(KeyMynaError, match="at least one"):
        predict_transposed(head, features, NAMES, ())
