"""How numbers are written."""

import numpy as np
import pytest

from keymyna_lib.report.intervals import budget_label, difference_cell, direction, with_interval


@pytest.mark.parametrize(
    "budget, text", [(48, "48 labels"), (48.0, "48 labels"), (0, "all 90 labels"), (np.nan, "none"), (None, "none")]
)
def test_a_label_budget_is_a_number_all_or_none(budget, text):
    assert budget_label(budget, 90) == text


def test_scores_are_times_a_hundred_with_one_decimal():
    assert with_interval(0.7124, 0.66, 0.7606) == "71.2 [66.0, 76.1]"
    assert with_interval(0.05, -0.01, 0.1, "+") == "+5.0 [-1.0, +10.0]"


def test_a_difference_names_its_p_or_that_it_was_not_run():
    cell = {"shared": 2, "difference": 0.05, "d_low": -0.01, "d_high": 0.1, "p_holm": 0.0421}
    assert difference_cell(cell) == "+5.0 [-1.0, +10.0], p 0.042"
    assert difference_cell(cell | {"p_holm": 0.0009}).endswith(", p < 0.001")
    assert difference_cell(cell | {"shared": 0}) == "not run"


def test_an_interval_that_holds_zero_has_no_direction():
    assert [direction(*ends) for ends in ((0.1, 0.2), (-0.2, -0.1))] == ["more than", "less than"]
    assert {direction(*ends) for ends in ((-0.1, 0.1), (0, 0.1), (-0.1, 0), (0, 0))} == {
        "neither clearly more nor less than"
    }
