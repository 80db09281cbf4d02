"""Rules of configurations: what they let through, and how they name what they do not."""

import math
from types import SimpleNamespace

import pytest

from keymyna_lib.base.checks import (
    POSITIVE,
    RANGES,
    SHARE_BELOW_ONE,
    Rule,
    at_least,
    broken,
    check,
    each,
    one_of,
    within,
)
from keymyna_lib.base.errors import KeyMynaError


@pytest.mark.parametrize(
    "rule, good, bad",
    [
        (one_of(("adam", "adamw")), ["adam", "adamw"], ["sgd", "", 1, [], None]),
        (at_least(1), [1, 1.5, 10**9], [0, 0.99, -1, math.nan, math.inf, "1", None]),
        (POSITIVE, [1e-9, 3], [0, -1, math.nan, math.inf, "1"]),
        (SHARE_BELOW_ONE, [0, 0.999], [1, -0.1, math.nan, "0.5"]),
        (within(-11, 11), [-11, 0, 11], [-12, 12, math.nan, -math.inf, "0"]),
        (each(at_least(1)), [[1], [3, 1], (2,)], [[], [0], [1, 1], [1, None], [1, "2"], 1, "1", None, [math.nan]]),
        (each(at_least(1), least=0, distinct=False), [[], [1, 1]], [[0], 1, "", {}]),
        (RANGES["snr_db"], [[0.0, 15.0], (3, 3)], [[15, 0], [1], [math.nan, 1], [0, math.inf], 3, None]),
        (RANGES["gamma"], [1e-6, 1], [0, 1.01, -1, math.nan]),
    ],
)
def test_rules(rule, good, bad):
    for value in good:
        check(SimpleNamespace(field=value), {"field": rule})
    for value in bad:
        with pytest.raises(KeyMynaError, match="field"):
            check(SimpleNamespace(field=value), {"field": rule})


def test_the_first_broken_rule_is_named_with_what_was_expected():
    config = SimpleNamespace(width=3, loss="triplet", steps=0)
    rules = {"width": Rule(lambda value: value % 2, "an odd number"), "loss": one_of(["infonce", "sogclr"])}
    with pytest.raises(KeyMynaError, match=r"^loss 'triplet': expected one of infonce, sogclr\.$"):
        check(config, rules | {"steps": at_least(1)})
    with pytest.raises(KeyMynaError, match=r"^head steps 0: expected at least 1\.$"):
        check(config, {"steps": at_least(1)}, of="head")
    check(config, {"width": rules["width"]})


def test_all_broken_rules_are_named_and_what_is_absent_is_not():
    rules = {"lr": POSITIVE, "steps": at_least(1), "seed": at_least(0)}
    found = broken({"steps": 0, "lr": math.nan, "name": "x"}, rules)
    assert found == ["lr nan: expected a positive number.", "steps 0: expected at least 1."]
