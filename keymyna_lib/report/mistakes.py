"""What systems get wrong: errors by kind and mode, and the tracks that are misread most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from keymyna_lib.evaluate import NO_KEY
from keymyna_lib.keys import MODES, RELATIONS, is_minor, relation, short_name
from keymyna_lib.report.runs import load_predictions
from keymyna_lib.report.traced import TracedTable

NONE = "no key"


def relation_of(reference: int, estimate: int) -> str:
    """The MIREX class of one estimate; NO_KEY is one of the others."""
    return "other" if estimate == NO_KEY else RELATIONS[int(relation(reference, estimate))]


def errors_by_kind(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """Shares of the MIREX classes among the test tracks of each mode, averaged over the runs of a system.

    Returns
    -------
    One row per mode that there is, then "all"; columns mode (of the reference), tracks, and RELATIONS, in 0..1.
    """
    found = []
    for run in run_ids:
        table = load_predictions(profile, run)
        table["mode"] = np.where(is_minor(table["reference"].to_numpy()), "minor", "major")
        table["relation"] = [relation_of(*pair) for pair in zip(table["reference"], table["estimate"])]
        found.append(table)
    rows = []
    for mode in (*MODES, "all"):
        parts = [table if mode == "all" else table[table["mode"] == mode] for table in found]
        if len(parts[0]):
            shares = {name: np.mean([(part["relation"] == name).mean() for part in parts]) for name in RELATIONS}
            rows.append({"mode": mode, "tracks": len(parts[0]), **shares})
    return pd.DataFrame(rows)


def kind_of_error_table(profile: str, systems: Mapping[str, Sequence[str]]) -> TracedTable:
    """`errors_by_kind` as text, times 100, one row per system and mode.

    Parameters
    ----------
    systems : name -> runs.
    """
    shown = TracedTable(["system", "mode"])
    for name, run_ids in systems.items():
        for cell in errors_by_kind(profile, run_ids).to_dict("records"):
            row = shown.row(name, cell["mode"])
            row.cell("tracks", cell["tracks"])
            for kind in RELATIONS:
                row.cell(kind, f"{100 * cell[kind]:.1f}", run_ids)
    return shown


def by_track(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """Test tracks by their mean score over runs, the worst first, equals by name.

    Returns
    -------
    Columns track_id, source, reference, estimate (the commonest, of equals the one of the first run), relation, score
    (mean weighted score, 0..1), right (number of runs that have the key right).
    """
    every = pd.concat([load_predictions(profile, run).assign(run=i) for i, run in enumerate(run_ids)])
    rows = []
    for track, group in every.sort_values("run", kind="stable").groupby("track_id"):
        reference, estimate = group["reference"].iloc[0], group["estimate"].value_counts(sort=False).idxmax()
        rows.append(
            {
                "track_id": track,
                "source": group["source"].iloc[0],
                "reference": reference,
                "estimate": estimate,
                "relation": relation_of(reference, estimate),
                "score": group["score"].mean(),
                "right": int((group["estimate"] == reference).sum()),
            }
        )
    return pd.DataFrame(rows).sort_values(["score", "track_id"], ignore_index=True)


def as_text(tracks: pd.DataFrame, runs: int) -> pd.DataFrame:
    """Rows of `by_track`, of so many runs, as text: track, source, key, estimate, relation, right."""
    return pd.DataFrame(
        {
            "track": tracks["track_id"],
            "source": tracks["source"],
            "key": tracks["reference"].map(short_name),
            "estimate": tracks["estimate"].map(named),
            "relation": tracks["relation"],
            "right": [f"{right} of {runs} seeds" for right in tracks["right"]],
        }
    )


def named(estimate: int) -> str:
    """An estimate as text."""
    return NONE if estimate == NO_KEY else short_name(estimate)
