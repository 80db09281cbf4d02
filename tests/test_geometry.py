"""The geometry of embeddings against closed forms, and of pitch classes that are transposed exactly."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments.geometry import (
    circle_profile,
    circle_steps,
    effective_rank,
    fifth_over_semitone,
    transposition_cosines,
)
from keymyna_lib.features import Features, spread_windows
from keymyna_lib.report import figures

NAMES = tuple(f"t{i}" for i in range(40))
SHIFTS = (-5, 0, 1, 2, 3, 4, 6)
SCALE = np.isin(np.arange(12), [0, 2, 4, 5, 7, 9, 11]).astype(float)


@given(st.integers(-24, 24))
def test_steps_are_counted_by_walking_along_fifths(semitones):
    walked = next(n for n in range(7) if (7 * n - semitones) % 12 == 0 or (7 * n + semitones) % 12 == 0)
    assert circle_steps(semitones) == walked


def scales(noise=0.0):
    """Tracks of 3 or 4 windows in a major scale; their views hold two windows, the scale rotated."""
    rng = np.random.default_rng(0)
    x, track, shift = [], [], []
    for i in range(len(NAMES)):
        plain = np.roll(SCALE, i % 12) + noise * rng.normal(size=(3 + i % 2, 12))
        for s in SHIFTS:
            rows = plain if s == 0 else np.roll(plain[spread_windows(len(plain), 2)], s, axis=1)
            x.append(rows), track.append(np.full(len(rows), i)), shift.append(np.full(len(rows), s))
    parts = (torch.from_numpy(np.concatenate(part)) for part in (x, track, shift))
    rows, track, shift = parts
    return Features(rows.float(), track, shift, NAMES)


def test_scales_fall_along_the_circle_as_their_common_notes_do():
    """Scales k <= 5 fifths apart share 7 - k notes; of a centred 0/1 vector of 7 ones, n common ones are a cosine of
    (n - 49/12) / (7 - 49/12)."""
    found = transposition_cosines(scales(), NAMES[:36], SHIFTS)  # three of each key: the mean is the same for all notes
    assert len(found) == 36 * 6 and set(found["shift"]) == set(SHIFTS) - {0}
    for row in found.itertuples():
        common = SCALE @ np.roll(SCALE, row.shift)
        assert common == (2 if row.steps == 6 else 7 - row.steps)
        assert row.cosine == pytest.approx((common - 49 / 12) / (7 - 49 / 12), abs=1e-5)


def test_a_common_offset_and_scale_change_nothing():
    given = scales(noise=0.3)
    moved = Features(5 * given.x + 100, given.track, given.shift, given.track_ids)
    first, second = (transposition_cosines(one, NAMES, SHIFTS)["cosine"] for one in (given, moved))
    assert np.allclose(first, second, atol=1e-3) and first.std() > 0.1


def test_only_the_windows_of_the_view_are_compared():
    """The windows of a view are rotations of these windows, so undoing it gives a cosine of 1 with noise as well."""
    given = scales(noise=1.0)
    undone = given.x.clone()
    for s in SHIFTS:
        undone[given.shift == s] = given.x[given.shift == s].roll(-s, dims=1)
    found = transposition_cosines(Features(undone, given.track, given.shift, NAMES), NAMES, SHIFTS)
    assert np.allclose(found["cosine"], 1, atol=1e-5)


def test_a_profile_averages_shifts_of_one_distance_and_draws_compositions_together():
    found = transposition_cosines(scales(noise=0.3), NAMES, SHIFTS)
    alone = circle_profile({"a": found}, {name: name for name in NAMES})
    assert list(alone["steps"]) == [1, 2, 3, 4, 5, 6]
    expected = found.groupby("steps")["cosine"].mean()
    assert np.allclose(alone.set_index("steps")["cosine"], expected) and (np.diff(alone["cosine"][:5]) < 0).all()
    together = circle_profile({"a": found}, {name: str(i % 4) for i, name in enumerate(NAMES)})
    assert (alone["low"] < alone["cosine"]).all() and (alone["cosine"] < alone["high"]).all()
    assert not np.allclose(together[["low", "high"]], alone[["low", "high"]])


def test_scales_hear_fifths_and_what_moves_with_frequency_hears_semitones():
    """Scales share six notes with the fifth and two with the semitone; a bump on a line of frequency is nearest to the
    semitone."""
    scale = transposition_cosines(scales(), NAMES[:36], SHIFTS)
    bump = scales()
    places = torch.arange(12.0) - 6
    x = torch.stack([torch.exp(-((places - s) ** 2) / 8) for s in bump.shift.tolist()])
    x += 0.01 * torch.from_numpy(np.random.default_rng(0).normal(size=x.shape)).float()
    bump = transposition_cosines(Features(x, bump.track, bump.shift, NAMES), NAMES[:36], SHIFTS)
    compositions = {name: str(i // 2) for i, name in enumerate(NAMES)}
    found = fifth_over_semitone({"scale": scale, "bump": bump, "twin": scale}, compositions, "scale").set_index("name")
    assert found.loc["scale", "value"] == pytest.approx(4 / (7 - 49 / 12), abs=1e-5)
    assert found.loc["bump", "value"] < 0 and found.loc["bump", "high"] < 0
    assert (found["value_p"] < 0.001).all()
    assert found.loc["bump", "difference"] == pytest.approx(found.loc["bump", "value"] - found.loc["scale", "value"])
    assert found.loc["bump", "d_high"] < 0 and found.loc["bump", "p_holm"] < 0.001
    assert np.allclose(found.loc["twin", ["difference", "d_low", "d_high"]].astype(float), 0)
    assert found.loc["twin", "p_holm"] == 1 and np.isnan(found.loc["scale", "p_holm"])


def test_fifths_and_semitones_are_needed_of_the_same_tracks():
    found = transposition_cosines(scales(), NAMES, SHIFTS)
    names = {name: name for name in NAMES}
    with pytest.raises(KeyMynaError, match="'a': shifts .* a fifth and a semitone"):
        fifth_over_semitone({"a": found[found["shift"] != 1]}, names, "a")
    with pytest.raises(KeyMynaError, match="'b' and 'a': expected cosines of the same tracks"):
        fifth_over_semitone({"a": found, "b": found[found["track_id"] != "t3"]}, names, "a")


def test_the_figure_draws_each_system_at_its_cosines():
    found = circle_profile(
        {
            name: transposition_cosines(scales(noise), NAMES, SHIFTS)
            for name, noise in (("untrained", 1.0), ("masked contrastive", 0.1))
        },
        {name: name for name in NAMES},
    )
    figure, axis = plt.subplots()
    figures.circle_of_fifths(axis, found)
    drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
    for name in ("untrained", "masked contrastive"):
        assert np.array_equal(drawn[name], found[found["name"] == name]["cosine"])
    assert axis.get_xticklabels()[0].get_text() == "1\n(5, 7)"
    plt.close(figure)


def test_transpositions_that_cannot_be_compared():
    given = scales()
    with pytest.raises(KeyMynaError, match="give one other than 0"):
        transposition_cosines(given, NAMES, [0])
    with pytest.raises(KeyMynaError, match="were not extracted"):
        transposition_cosines(given, NAMES, [5])
    with pytest.raises(KeyMynaError, match="no direction"):
        transposition_cosines(Features(torch.ones_like(given.x), given.track, given.shift, NAMES), NAMES, [1])


@pytest.mark.parametrize("values", [[1, 1, 1], [2, 1, 0], [5], [3, 2, 1]])
def test_effective_rank_is_the_entropy_of_given_singular_values(values):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, len(values)))
    left, _ = np.linalg.qr(rows - rows.mean(0))  # orthogonal, and of mean 0
    right, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    shares = np.array([v for v in values if v]) / np.sum(values)
    x = left @ np.diag(values) @ right[: len(values)]
    expected = np.prod(shares**-shares)
    assert effective_rank(x) == pytest.approx(expected)
    assert effective_rank(10 * x + 3) == pytest.approx(expected)
    assert effective_rank(torch.from_numpy(x).float()) == pytest.approx(expected, rel=1e-3)


def test_what_has_no_rank():
    for bad, message in ((np.ones((5, 3)), "all alike"), (np.full((5, 3), np.nan), "finite"), (np.ones(5), "finite")):
        with pytest.raises(KeyMynaError, match=message):
            effective_rank(bad)
