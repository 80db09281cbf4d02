"""How a configuration checks its fields: one rule per field, and one wording for the value that breaks it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from keymyna_lib.base.errors import KeyMynaError


class Rule(NamedTuple):
    """What a field may hold."""

    holds: Callable[[Any], bool]
    expected: str  # as in "expected at least 1"


def one_of(known: Collection[str]) -> Rule:
    """One of these names."""
    return Rule(lambda value: value in known, f"one of {', '.join(known)}")


def at_least(least: float) -> Rule:
    """A finite number, this large or larger."""
    return Rule(lambda value: least <= value < float("inf"), f"at least {least}")


POSITIVE = Rule(lambda value: 0 < value < float("inf"), "a positive number")
SHARE_BELOW_ONE = Rule(lambda value: 0 <= value < 1, "a share in [0, 1)")


def check(config: object, rules: Mapping[str, Rule], *, of: str = "") -> None:
    """Refuse a configuration whose fields do not keep their rules; a value of another type does not keep any.

    Parameters
    ----------
    config : anything with attributes.
    rules : by the name of the attribute.
    of : what the names are of, where they alone do not say it: "head" for a head's `lr`.

    Raises
    ------
    KeyMynaError
        Names the first such field, its value and what was expected.
    """
    for name, rule in rules.items():
        value = getattr(config, name)
        try:
            holds = rule.holds(value)
        except TypeError:
            holds = False
        if not holds:
            raise KeyMynaError(f"{of} {name} {value!r}: expected {rule.expected}.".lstrip())
