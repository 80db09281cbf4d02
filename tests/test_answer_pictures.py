"""Pictures of answers show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keymyna_lib.calibration import coverage, reliability
from keymyna_lib.key_over_time import timeline
from keymyna_lib.keys import CIRCLE_OF_FIFTHS, N_KEYS
from keymyna_lib.report.answers import coverage_curve, key_timeline, reliability_diagram


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


def test_reliability_and_coverage_are_drawn_as_they_are():
    rng = np.random.default_rng(0)
    confidence, scores = rng.random(50), rng.random(50)
    _, (left, right) = plt.subplots(1, 2)
    found = reliability(confidence, scores > 0.5, bins=5)
    reliability_diagram(left, found, "test")
    np.testing.assert_array_equal(left.lines[1].get_xydata(), np.stack([found.confidence, found.accuracy], axis=1))
    assert f"{found.error:.3f}" in left.get_legend().texts[0].get_text()
    curve = coverage(confidence, scores)
    coverage_curve(right, curve, "test", least=0.4)
    line, dot = right.lines
    np.testing.assert_array_equal(line.get_xydata(), np.stack([curve.answered, curve.score], axis=1))
    given = confidence >= 0.4
    np.testing.assert_allclose(dot.get_xydata(), [[given.mean(), scores[given].mean()]])
