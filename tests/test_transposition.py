"""Embedding-space transposition against maps that are known, and test-time transposition against a loop."""

import numpy as np
import pytest
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments.transposition import fit_shift_maps, mapped_views, predict_transposed
from keymyna_lib.features import Features
from keymyna_lib.heads import HeadSpec, TrainedHead

DIM, SHIFTS = 6, (-2, 0, 3)
NAMES = tuple(f"t{i}" for i in range(40))


@pytest.fixture(scope="module")
def true_maps():
    generator = torch.Generator().manual_seed(0)
    return {shift: torch.linalg.qr(torch.randn(DIM, DIM, generator=generator))[0] for shift in SHIFTS if shift}


@pytest.fixture(scope="module")
def features(true_maps):
    """Tracks of 3 to 5 windows; the views of a track hold its middle window, sent through the true maps."""
    generator = torch.Generator().manual_seed(1)
    x, track, shift = [], [], []
    for i in range(len(NAMES)):
        windows = torch.randn(3 + i % 3, DIM, generator=generator)
        for s in SHIFTS:
            rows = windows if s == 0 else windows[[len(windows) // 2]] @ true_maps[s]
            x.append(rows), track.append(torch.full((len(rows),), i)), shift.append(torch.full((len(rows),), s))
    return Features(torch.cat(x), torch.cat(track), torch.cat(shift), NAMES)


def test_known_maps_are_found(features, true_maps):
    maps = fit_shift_maps(features, NAMES, SHIFTS)
    assert torch.equal(maps[0], torch.eye(DIM))
    for shift, true in true_maps.items():
        assert torch.allclose(maps[shift], true, atol=5e-3)


def test_the_penalty_is_chosen_on_tracks_held_out(features):
    """Where views are noise, the maps are shrunk."""
    noise = Features(
        torch.randn(features.x.shape, generator=torch.Generator().manual_seed(3)), features.track, features.shift, NAMES
    )
    found, free = fit_shift_maps(noise, NAMES, [3])[3], fit_shift_maps(features, NAMES, [3])[3]
    assert found.norm() < 0.7 * free.norm()


def test_mapped_views_are_the_chosen_windows_times_the_maps_and_their_labels_move(features, true_maps):
    views = mapped_views(features, NAMES[1:3], {0: torch.eye(DIM), 3: true_maps[3]}, 1)
    middle = torch.stack([features.select([name]).x[n // 2] for name, n in zip(NAMES[1:3], (4, 5))])
    assert torch.allclose(views.select(NAMES[1:3], [3]).x, middle @ true_maps[3])
    assert torch.equal(views.select(NAMES).x, features.select(NAMES).x)
    assert views.select(NAMES[1:3], [0, 3]).keys(dict.fromkeys(NAMES, 11)).unique().tolist() == [2, 11]  # B, and D
    with pytest.raises(KeyMynaError, match="were not extracted"):
        views.select(NAMES[:1], [3])


def test_outputs_are_transposed_back_and_averaged(features):
    generator = torch.Generator().manual_seed(2)
    head = TrainedHead(
        HeadSpec(),
        {"weight.0": torch.randn(24, DIM, generator=generator), "bias.0": torch.zeros(24)},
        torch.zeros(DIM),
        torch.ones(DIM),
    )
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
