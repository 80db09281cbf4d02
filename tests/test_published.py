"""What chance does to published scores, against scores drawn track by track."""

import numpy as np
import pytest

from keymyna_lib.report import published


@pytest.mark.parametrize("shares", [(0.7, 0.05, 0.04, 0.02), (0.5, 0.2, 0.0, 0.0), (0.3, 0.0, 0.0, 0.4)])
def test_the_standard_error_lies_within_its_bounds(shares):
    """Shares of right keys, fifths, relatives and parallels."""
    credits = np.array([1, 0.5, 0.3, 0.2, 0])
    chances = np.append(shares, 1 - sum(shares))
    mean = chances @ credits
    exact = np.sqrt((chances @ credits**2 - mean**2) / 604)
    low, high = published.standard_error(mean, shares[0], 604)
    assert low - 1e-12 <= exact <= high + 1e-12
    drawn = np.random.default_rng(0).choice(credits, (4000, 604), p=chances).mean(axis=1).std()
    assert drawn == pytest.approx(exact, rel=0.05)


def test_margins_are_those_of_the_list():
    quoted = published.read()
    found = published.margins(quoted).set_index("dataset")
    assert set(found.index) == set(quoted.loc[quoted["system"] == published.PAPER, "dataset"])
    for dataset, row in found.iterrows():
        of = quoted[(quoted["dataset"] == dataset) & (quoted["metric"] == "weighted score")]
        values = of[of["place"].str.contains("2604.10021")].set_index("system")["value"].astype(float)
        others = values.drop(published.PAPER)
        assert (row["best other"], float(row["its score"])) == (others.idxmax(), others.max())
        assert float(row["margin"]) == pytest.approx(values[published.PAPER] - others.max(), abs=0.005)
    assert float(found.loc["GiantSteps", "standard error"]) > float(found.loc["GiantSteps", "margin"]) > 0
    assert float(found.loc["Billboard", "margin"]) < 0
