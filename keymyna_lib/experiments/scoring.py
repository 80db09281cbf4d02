"""Scoring predictions: per track, per data set, and those of systems that were run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.evaluate import mirex_scores, summary
from keymyna_lib.keys import parse_key
from keymyna_lib.report.runs import Run


def prediction_table(corpus: Corpus, tracks: Sequence[str], estimates: Sequence[int]) -> pd.DataFrame:
    """One row per track: source, composition, reference and estimate (0..23), score under both fifth conventions."""
    manifest = corpus.manifest.loc[list(tracks)]
    reference, estimates = manifest["key"].to_numpy(), np.asarray(estimates)
    return pd.DataFrame(
        {
            "track_id": list(tracks),
            "source": manifest["source"].to_numpy(),
            "composition": manifest["composition"].to_numpy(),
            "reference": reference,
            "estimate": estimates,
            "score": mirex_scores(reference, estimates, fifths="both"),
            "score_ascending": mirex_scores(reference, estimates, fifths="ascending"),
        }
    )


def scored_tracks(corpus: Corpus) -> list[str]:
    """The tracks that a system is scored on: the task's test tracks, then those of extra test sets."""
    return corpus.tracks(split="test") + corpus.tracks(split="extra")


def outside_predictions(folder: Path | str, task: str, corpus: Corpus) -> dict[str, pd.DataFrame]:
    """Estimates of systems that were run elsewhere, by the names of their files.

    Parameters
    ----------
    folder : holds <task>/<system>.csv, each with the columns track (id, or the part of it after the last slash) and
        key, in any notation that `keys.parse_key` reads. A task without a folder has no outside systems.
    corpus : the task.

    Returns
    -------
    system -> `prediction_table` of the task's test tracks, and of those tracks of extra test sets that the file has.

    Raises
    ------
    KeyMynaError
        When a file lacks a column or a test track, names a track twice or ambiguously, or holds a key that
        `keys.parse_key` does not know.
    """
    found = {}
    for path in sorted((Path(folder) / task).glob("*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")  # as spreadsheets save it
        if missing := {"track", "key"} - set(table.columns):
            raise KeyMynaError(f"{path}: no column {missing.pop()!r}; it needs the columns track and key.")
        if (twice := table["track"].duplicated()).any():
            raise KeyMynaError(f"{path}: track {table.loc[twice, 'track'].iloc[0]!r} is listed twice.")
        given = table.set_index("track")["key"]
        names = {
            track: next((name for name in (track, track.rsplit("/", 1)[-1]) if name in given.index), None)
            for track in scored_tracks(corpus)
        }
        meant: dict[str, str] = {}
        for track, name in names.items():
            if name is not None and (other := meant.setdefault(name, track)) != track:
                raise KeyMynaError(f"{path}: track {name!r} may be {other!r} or {track!r}; write the whole id.")
        if absent := [track for track in corpus.tracks(split="test") if names[track] is None]:
            raise KeyMynaError(
                f"{path}: no estimate for track {absent[0]!r} ({len(absent)} missing). A system is scored on "
                "every test track."
            )
        tracks = [track for track, name in names.items() if name is not None]
        try:
            estimates = [parse_key(given[names[track]]) for track in tracks]
        except KeyMynaError as error:
            raise KeyMynaError(f"{path}: {error}") from None
        found[path.stem] = prediction_table(corpus, tracks, estimates)
    return found


def record_test(run: Run, predictions: pd.DataFrame, corpus: Corpus) -> None:
    """Store predictions on `scored_tracks` in a run, with every metric.

    Predictions on the task's own test tracks become the run's predictions; those on extra test sets are stored as
    extra.csv. Metrics are over all test tracks, over each source among them, and over each extra set.
    """
    is_test = predictions["track_id"].isin(corpus.tracks(split="test"))
    test, extra = predictions[is_test].reset_index(drop=True), predictions[~is_test].reset_index(drop=True)
    run.predictions(test)
    groups = {("all", "test"): test}
    for split, table in (("test", test), ("extra", extra)):
        groups |= {(source, split): part for source, part in table.groupby("source")}
    for (dataset, split), table in groups.items():
        for metric, value in summary(table["reference"].to_numpy(), table["estimate"].to_numpy()).items():
            run.metric(dataset, split, metric, value, len(table))
    if len(extra):
        run.attach("extra", extra)
