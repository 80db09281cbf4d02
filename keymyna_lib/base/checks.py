"""How values are checked: one rule for each, and one wording for the value that breaks it.

RANGES holds the rules of numbers by the name that configurations and notebooks give them, so that a value is refused in
the same words wherever it enters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from typing import Any, NamedTuple

from keymyna_lib.base.errors import KeyMynaError


class Rule(NamedTuple):
    """What a field may hold."""

    holds: Callable[[Any], bool]
    expected: str  # as in "expected at least 1"
    many: bool = False  # a list


def one_of(known: Collection[str]) -> Rule:
    """One of these names."""
    return Rule(lambda value: value in known, f"one of {', '.join(known)}")


def at_least(least: float) -> Rule:
    """A finite number, this large or larger."""
    return Rule(lambda value: least <= value < float("inf"), f"at least {least}")


def within(low: float, high: float) -> Rule:
    """A number between these two, both included."""
    return Rule(lambda value: low <= value <= high, f"{low} to {high}")


def each(rule: Rule, *, least: int = 1, distinct: bool = True) -> Rule:
    """A list of values that keep a rule.

    Parameters
    ----------
    least : values in it, at least.
    distinct : whether it may not hold one twice.
    """

    def holds(values: Any) -> bool:
        if not isinstance(values, list | tuple) or len(values) < least or not all(map(rule.holds, values)):
            return False
        return not distinct or len(set(values)) == len(values)

    wording = f"a list of {'different ' * distinct}values, {f'{least} or more, ' * bool(least)}each {rule.expected}"
    return Rule(holds, wording, many=True)


POSITIVE = Rule(lambda value: 0 < value < float("inf"), "a positive number")
SHARE = Rule(lambda value: 0 <= value <= 1, "a share in [0, 1]")
SHARE_BELOW_ONE = Rule(lambda value: 0 <= value < 1, "a share in [0, 1)")
SHIFT = within(0, 11)  # semitones
WIDEST, LARGEST = 1 << 16, 1 << 20  # units of a layer, rows of a head's batch: what no memory holds is a slip

# Of numbers, by name: fields of configurations and parameters of notebooks.
RANGES: dict[str, Rule] = {
    # the synthetic corpus
    **dict.fromkeys(("n_chorales", "n_tunes", "n_songs", "corpus_seed", "seed"), at_least(0)),
    "detune_cents": within(0, 50),  # beyond, another key is nearer than the one on the label
    "drum_probability": SHARE,
    "snr_db": Rule(
        lambda value: len(value) == 2 and float("-inf") < value[0] <= value[1] < float("inf"),
        "two numbers, the lower one first",
        many=True,
    ),
    # recordings
    "mtg_confidence": within(0, 2),
    "min_windows": at_least(0),
    # pre-training
    "mask_ratio": SHARE_BELOW_ONE,
    "mask_ratios": each(SHARE_BELOW_ONE),
    **dict.fromkeys(
        ("crop_frames", "steps", "batch_size", "checkpoint_every", "validate_every", "tuning_steps"), at_least(1)
    ),
    "crops": each(at_least(1)),
    "batch_sizes": each(within(1, LARGEST)),
    "masked_steps": each(at_least(1), least=0),
    "crop_distance": Rule(lambda value: 0 <= value < float("inf"), "frames, or 0 for any distance"),
    "crop_distances": each(Rule(lambda value: 0 <= value < float("inf"), "frames, or 0 for any distance")),
    **dict.fromkeys(("temperature", "lr", "clip_norm"), POSITIVE),
    "gamma": Rule(lambda value: 0 < value <= 1, "a weight in (0, 1]"),
    **dict.fromkeys(("micro_batch", "warmup_steps", "weight_decay"), at_least(0)),
    "projection_dim": within(0, WIDEST),
    "transpositions": within(2, 12),
    "projection_dims": each(within(0, WIDEST)),
    **dict.fromkeys(("lrs", "tuning_lrs"), each(POSITIVE)),
    "weight_decays": each(at_least(0)),
    "warmup_share": SHARE,
    # labels and draws
    **dict.fromkeys(("budget", "headline_budget", "tuning_budget"), at_least(0)),
    **dict.fromkeys(("budgets", "shown_budgets", "floor_budgets", "optimism_budgets"), each(at_least(0))),
    **dict.fromkeys(("seeds", "draws"), each(at_least(0))),
    # heads
    "hidden": each(within(0, WIDEST)),
    "widths": each(within(1, WIDEST)),
    "width": within(1, WIDEST),
    "grid_batches": each(within(1, LARGEST)),
    "head_batch_size": within(1, LARGEST),
    **dict.fromkeys(("widest_pair", "shifted_windows"), at_least(1)),
    "depths": each(within(1, 2)),
    "dropout": SHARE_BELOW_ONE,
    "dropouts": each(SHARE_BELOW_ONE),
    "head_lr": POSITIVE,
    "grid_lrs": each(POSITIVE),
    **dict.fromkeys(("mixup", "head_weight_decay"), at_least(0)),
    "grid_decays": each(at_least(0)),
    "mixups": each(at_least(0)),
    **dict.fromkeys(("max_steps", "eval_every", "patience"), at_least(1)),
    "standardize": each(Rule(lambda value: isinstance(value, bool), "true or false")),
    # pitch shifts
    "shift_steps": each(at_least(1), distinct=False),
    "max_shift": SHIFT,
    "shift_ranges": each(SHIFT),
    "test_shifts": each(within(-11, 11)),
    # what is shown or probed
    **dict.fromkeys(("n_tracks", "map_tracks"), at_least(0)),
    "perplexity": POSITIVE,
    "probe_rows": at_least(2),
}


def ranges_of(kind: type) -> dict[str, Rule]:
    """The rules of a dataclass's fields that have one in RANGES."""
    return {one.name: RANGES[one.name] for one in fields(kind) if one.name in RANGES}


def broken(values: Mapping[str, Any], rules: Mapping[str, Rule], *, of: str = "") -> list[str]:
    """The values that do not keep their rules, a sentence for each, in the order of the rules.

    A value of another type keeps none. Rules of names that are absent do not count.
    """
    found = []
    for name, rule in rules.items():
        if name in values:
            value = values[name]
            try:
                holds = bool(rule.holds(value))
            except TypeError:
                holds = False
            if not holds:
                found.append(f"{of} {name} {value!r}: expected {rule.expected}.".lstrip())
    return found


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
    if found := broken({name: getattr(config, name) for name in rules}, rules, of=of):
        raise KeyMynaError(found[0])
