"""Pictures of answers show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keymyna_lib.calibration import coverage, reliability
from keymyna_lib.front_ends import band_centres
from keymyna_lib.key_over_time import timeline
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, N_KEYS, parse_key
from keymyna_lib.report.answers import (
    circle_of_fifths,
    coverage_curves,
    key_timeline,
    masked_spectrogram,
    neighbour_map,
    reliability_diagram,
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_the_timeline_has_keys_along_the_circle_and_segments_above():
    p = np.full((30, N_KEYS), 0.2 / 23)
    p[:12, 0], p[12:, 16] = 0.8, 0.8  # C major, E minor
    edges = np.arange(31) * 1.5
    found = timeline(p, edges, np.full(30, 0.5), 2.0)
    above, axis, _ = key_timeline(found, title="a song").axes
    (mesh,) = axis.collections
    shown = np.asarray(mesh.get_array()).reshape(N_KEYS, 30)
    np.testing.assert_array_equal(shown, found.probabilities[:, CIRCLE_OF_FIFTHS].T)
    assert axis.get_xlim() == (0, 45) and axis.get_yticklabels()[2].get_text() == "G major"
    assert [text.get_text() for text in above.texts] == ["C", "Em"]
    assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in above.patches] == [(0, 18), (18, 45)]


def test_the_circle_goes_up_in_fifths_clockwise_with_relatives_inside():
    p = np.full(N_KEYS, 0.1 / 22)
    p[[7, 16]] = 0.6, 0.3  # G major, E minor
    (axis,) = circle_of_fifths(p).axes
    named = {text.get_text().split("\n")[0]: text for text in axis.texts}
    hour = {name: round(text.get_position()[0] / (2 * np.pi) * 12) for name, text in named.items()}
    assert [hour[name] for name in ("C", "G", "D", "F#", "F", "Am", "Em", "Dm")] == [0, 1, 2, 6, 11, 0, 1, 11]
    assert all(
        named["Em"].get_position()[1] < text.get_position()[1] for name, text in named.items() if "m" not in name
    )
    assert named["G"].get_text() == "G\n60%" and named["Em"].get_text() == "Em\n30%" and named["C"].get_text() == "C"
    assert axis.get_theta_direction() == -1 and axis.get_theta_offset() == pytest.approx(np.pi / 2)
    darkness = {name: -sum(bar.get_facecolor()[:3]) for name, bar in zip(named, axis.patches)}
    assert max(darkness, key=darkness.get) == "G"


@pytest.mark.parametrize("front_end, named", [("mel", "C6"), ("log-frequency", "C3")])
def test_a_mask_leaves_the_patches_that_are_kept(front_end, named):
    centres = band_centres(front_end)
    stored = np.random.default_rng(0).random((len(centres), 40)).astype(np.float32)
    vertical, tiles = np.zeros((1, 10), bool), np.zeros((4, 2), bool)
    vertical[0, [2, 7]] = tiles[1, 0] = True
    whole, first, second = masked_spectrogram(stored, centres, 12, 20, [vertical, tiles]).axes
    np.testing.assert_array_equal(whole.images[0].get_array(), stored)
    kept = np.zeros((2, *stored[:, 12:32].shape), bool)
    kept[0][:, [4, 5, 14, 15]] = True
    n = len(centres) // 4
    kept[1][n : 2 * n, :10] = True
    for axis, seen in zip((first, second), kept):
        shown = np.ma.filled(axis.images[0].get_array(), np.nan)
        np.testing.assert_array_equal(shown, np.where(seen, stored[:, 12:32], np.nan))
        assert axis.get_xlim() == pytest.approx((12 * 0.032, 32 * 0.032))
    place = dict(zip([tick.get_text() for tick in whole.get_yticklabels()], whole.get_yticks()))[named]
    octaves = {"C6": 1046.502, "C3": 130.813}[named]
    assert np.interp(place, np.arange(len(centres)), centres) == pytest.approx(octaves, rel=1e-3)


def test_tracks_stand_as_their_keys_and_the_near_ones_are_joined():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    (axis,) = neighbour_map(points, [parse_key("F#m"), 0, -1], [1], np.array([0.5, 0.5])).axes
    assert {text.get_text(): text.get_position() for text in axis.texts} == {"F#m": (0, 0), "C": (1, 0), "?": (0, 3)}
    line, star = axis.lines
    np.testing.assert_array_equal(line.get_xydata(), [[0.5, 0.5], [1, 0]])
    np.testing.assert_array_equal(star.get_xydata(), [[0.5, 0.5]])
    (axis,) = neighbour_map(points, [0, 1, 2], [], None).axes
    assert not axis.lines


def test_reliability_and_coverage_are_drawn_as_they_are():
    rng = np.random.default_rng(0)
    confidence, scores = rng.random(50), rng.random(50)
    _, (left, right) = plt.subplots(1, 2)
    found = reliability(confidence, scores > 0.5, bins=5)
    reliability_diagram(left, {"after": found, "before": reliability(confidence**2, scores > 0.5, bins=5)})
    np.testing.assert_array_equal(left.lines[1].get_xydata(), np.stack([found.confidence, found.accuracy], axis=1))
    assert [text.get_text() for text in left.get_legend().texts] == ["after", "before"]
    assert "50 answers in 5 bins" in left.get_xlabel()
    ends = np.array([segment[:, 1] for segment in left.collections[0].get_segments()])  # Wilson's closed form
    z, n, p = 1.959964, found.count, found.accuracy
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    bounds = np.stack([p + z**2 / (2 * n) - half, p + z**2 / (2 * n) + half], axis=1) / (1 + z**2 / n)[:, None]
    np.testing.assert_allclose(ends, bounds, atol=1e-6)
    curve = coverage(confidence, scores)
    coverage_curves(right, {"one": curve, "other": coverage(-confidence, scores)}, least=0.4)
    line, other, dot = right.lines[:3]
    np.testing.assert_array_equal(line.get_xydata(), np.stack([curve.answered, 100 * curve.score], axis=1))
    given = confidence >= 0.4
    np.testing.assert_allclose(dot.get_xydata(), [[given.mean(), 100 * scores[given].mean()]])
    low, high = right.get_ylim()
    assert all(low <= one.get_ydata().min() and one.get_ydata().max() <= high for one in (line, other))
    assert "chance" in right.texts[0].get_text()
