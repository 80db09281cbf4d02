"""Scoring predictions: per track, per data set, and those of systems that were run elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.listing import Listing
from keymyna_lib.base.small_tables import read_table
from keymyna_lib.base.text import identity, visible
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.recordings.tasks import NAMES, TASKS
from keymyna_lib.evaluate import NO_KEY, mirex_scores, summary
from keymyna_lib.keys import KeyLabelError, parse_key
from keymyna_lib.report.runs import Run

_ENDINGS = (".csv", ".tsv")  # of lists of predictions
# Endings that systems keep, drop or replace: those of audio, of the previews of Beatport, and of MIREX's outputs.
_AUDIO_ENDINGS = re.compile(
    r"(\.(lofi|aac|aif|aiff|au|caf|flac|key|m4a|mp2|mp3|mp4|oga|ogg|opus|snd|txt|w64|wav|wave|webm|wma))+$"
)


def prediction_table(corpus: Corpus, tracks: Sequence[str], estimates: Sequence[int]) -> pd.DataFrame:
    """One row per track: source, composition, reference and estimate (0..23), score under both fifth conventions."""
    return _scores(corpus.manifest, tracks, estimates)


def _scores(manifest: pd.DataFrame, tracks: Sequence[str], estimates: Sequence[int]) -> pd.DataFrame:
    manifest = manifest.loc[list(tracks)]
    reference, estimates = manifest["key"].to_numpy(), np.asarray(estimates)
    return pd.DataFrame(
        {
            "track_id": list(tracks),
            "source": manifest["source"].to_numpy(),
            "composition": manifest["composition"].to_numpy(),
            **judged(reference, estimates),
        }
    )


def judged(reference: np.ndarray, estimates: np.ndarray) -> dict[str, np.ndarray]:
    """Columns reference and estimate, (track,) keys each, and their score under both fifth conventions."""
    return {
        "reference": reference,
        "estimate": estimates,
        "score": mirex_scores(reference, estimates, fifths="both"),
        "score_ascending": mirex_scores(reference, estimates, fifths="ascending"),
    }


def scored_tracks(corpus: Corpus) -> list[str]:
    """The tracks that a system is scored on: the task's test tracks, then those of extra test sets."""
    return corpus.tracks(split="test") + corpus.tracks(split="extra")


def predicted_tasks(
    folder: Path | str, tasks: Iterable[str], *, say: Callable[[str], None] = print
) -> dict[str, dict[str, Path]]:
    """The files that `outside_predictions` reads, by task and by the name of the system.

    Parameters
    ----------
    folder : holds <task>/<system>.csv, or .tsv; case does not matter. A task may have none.
    say : told what else is there.

    Raises
    ------
    KeyMynaError
        When there is no such folder, no file of any of the tasks, a folder of a task without one, or two of one name.
    """
    listing, tasks, found = Listing(paths.expanded(folder)), list(tasks), {}
    wanted = f"expected {', '.join(f'{task}/<system>.csv' for task in tasks)} in it"
    if not listing.top.is_dir():
        what = "is a file" if listing.top.exists() else "does not exist"
        raise KeyMynaError(f"predictions: {listing.top.absolute()} {what}; it names a folder, {wanted}.")
    others = dict.fromkeys(listing.names())
    for task in tasks:
        place = listing.one(task)
        if place is None or not place.is_dir():
            continue
        del others[place.name]
        systems: dict[str, Path] = {}
        for name in Listing(place).names():
            if not name.casefold().endswith(_ENDINGS) or not (place / name).is_file():
                others[f"{place.name}/{name}"] = None
                continue
            system = identity(Path(name).stem)
            if system in systems:
                raise KeyMynaError(f"{place}: {systems[system].name!r} and {name!r} have one name. Rename one of them.")
            systems[system] = place / name
        if not systems:
            raise KeyMynaError(
                f"predictions: {place} has no file <system>.csv in it; {_there(Listing(place).names())}."
            )
        found[task] = {visible(path.stem): path for path in systems.values()}
    if not found:
        raise KeyMynaError(f"predictions: {listing.top.absolute()}: {wanted}; {_there(others)}.")
    if others:
        say(f"{listing.top}: not used: {_some(others)}.")
    return found


def outside_predictions(
    folder: Path | str, task: str, corpus: Corpus, *, say: Callable[[str], None] = print
) -> dict[str, pd.DataFrame]:
    """Estimates of systems that were run elsewhere, by the names of their files.

    Parameters
    ----------
    folder : holds <task>/<system>.csv, see `predicted_tasks`; each as `score_list` reads it.
    corpus : the task.
    say : told what a reader of the scores should know.

    Returns
    -------
    system -> `prediction_table` of the task's test tracks, and of those tracks of extra test sets that the file has.

    Raises
    ------
    KeyMynaError
        As `predicted_tasks` and `score_list` do.
    """
    test, extra = corpus.tracks(split="test"), corpus.tracks(split="extra")
    lists = predicted_tasks(folder, [task], say=lambda _: None)[task]
    return {system: score_list(path, corpus.manifest, test, extra, say=say) for system, path in lists.items()}


def score_list(
    path: Path,
    tracks: pd.DataFrame,
    test: Sequence[str],
    extra: Sequence[str] = (),
    *,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Score one list of estimates, a small table with the columns track and key, against labels; no audio is needed.
    Where there is no column track, file is meant, as `keymyna predict --csv` writes it.

    A track goes by its id, or by the part of it that is its file's path or name, with or without folders before it and
    the endings of audio behind it: "giantsteps_key/1004923.LOFI", "1004923", "/music/1004923.LOFI.mp3"; and by a number
    where no other name matches: "4" or "4.0" for "0004". A key may be in any notation that `keys.parse_key` reads. An
    answer without a single major or minor key ("N", "X", "C major / A minor", "D dorian") scores 0, as in MIREX.

    Parameters
    ----------
    tracks : the tracks that an id may mean, indexed by id; columns source, composition, key.
    test : ids of tracks that must be in the list. extra : those that may be.
    say : told how many answers name no single key, and how many rows are of other tracks or repeated.

    Returns
    -------
    As of `prediction_table`, an estimate without a key being `evaluate.NO_KEY`.

    Raises
    ------
    KeyMynaError
        When the file is no such table, has no rows or only zeros, lacks a test track, has a track twice with different
        keys, an id that may mean several tracks, or an answer that cannot be read.
    """
    names, scored = _Names(tracks), {*test, *extra}
    estimates: dict[str, int] = {}
    lines: dict[str, int] = {}
    others, repeated, answers = [], 0, Counter()
    rows = read_table(
        path, ("track", "key"), or_else={"track": "file"}, advice="Give a table with the columns track and key."
    )
    if not rows:
        raise KeyMynaError(f"{path} has a header and no rows; write one row for each track, N where it has no key.")
    if {row["key"] for _, row in rows} <= {"0", "0.0"}:  # which is C major where keys are numbered
        raise KeyMynaError(
            f"{path}, column 'key': every answer is 0. Write each key's name, and N where there is none."
        )
    for line, row in rows:
        where, meant = f"{path}, line {line}", names.meant(row["track"])
        if not scored.intersection(meant):
            others.append(f"{row['track']!r} (line {line})")
            continue
        if len(meant) > 1:
            raise KeyMynaError(
                f"{where}: track {row['track']!r} may be {' or '.join(map(repr, meant[:2]))}; write the whole id."
            )
        (track,) = meant
        try:
            estimate, answer = parse_key(row["key"]), ""
        except KeyLabelError as error:
            if error.reason == "not a key":
                raise KeyMynaError(f"{where}, column 'key': {error}") from None
            estimate, answer = NO_KEY, error.reason
        if track not in estimates:
            answers[answer] += 1
        elif estimates[track] == estimate:
            repeated += 1
        else:
            raise KeyMynaError(
                f"{where}: track {track!r} is listed twice, with another key in line {lines[track]}. Keep one of them."
            )
        estimates[track], lines[track] = estimate, line
    if absent := [track for track in test if track not in estimates]:
        raise KeyMynaError(
            f"{path}: no estimate for track {absent[0]!r} ({len(absent)} missing; {len(rows) - len(others)} of "
            f"{len(rows)} rows are of tracks scored here{f', {others[0]} is not' if others else ''}). A system is "
            "scored on every test track; write N where it finds no key."
        )
    for answer, count in answers.items():
        if answer:
            say(f"{path}: answers that are not one key ({answer}) and score 0: {count} of {len(estimates)}.")
    if repeated:
        say(f"{path}: rows that repeat a track with the same key: {repeated}.")
    if others:
        say(f"{path}: rows of tracks that are not scored here: {len(others)}, such as {others[0]}.")
    order = [track for track in (*test, *extra) if track in estimates]
    return _scores(tracks, order, [estimates[track] for track in order])


class _Names:
    """Which tracks an outside list means by a name.

    Parameters
    ----------
    tracks : indexed by id, "<data set>/<path>" or a name alone; column source, the data set.
    """

    def __init__(self, tracks: pd.DataFrame) -> None:
        # For each form, last part -> id, data set, parts after it.
        self._by_name: list[dict[str, list[tuple[str, str, list[str]]]]] = [{} for _ in _FORMS]
        for track, source in zip(tracks.index, tracks["source"]):
            parts = _parts(track.removeprefix(f"{source}/"))
            for form, by_name in zip(_FORMS, self._by_name):
                by_name.setdefault(form(parts[-1]), []).append((track, identity(source), parts))
        self._sources = {identity(source): {identity(source)} for source in (*NAMES, *tracks["source"])}
        self._sources |= {identity(name): set(map(identity, task.datasets)) for name, task in TASKS.items()}

    def meant(self, written: str) -> list[str]:
        """Ids of the tracks that a name may mean: of the closest matches, and none of another data set than it says."""
        if not (parts := _parts(written)):
            return []
        for form, by_name in zip(_FORMS, self._by_name):
            matches: dict[int, list[str]] = {}
            for track, source, own in by_name.get(form(parts[-1]), []):
                closeness = self._closeness(parts[:-1], source, own[:-1])
                matches.setdefault(closeness, []).append(track)
            matches.pop(0, None)
            if matches:
                return matches[max(matches)]
        return []

    def _closeness(self, before: list[str], source: str, own: list[str]) -> int:
        """0 for no match; else the more, the more folders are the track's own; a whole path outdoes a part of one."""
        if len(before) < len(own):
            return 1 if own[len(own) - len(before) :] == before else 0
        rest = before[: len(before) - len(own)]
        stated = next((self._sources[part] for part in reversed(rest) if part in self._sources), {source})
        if before[len(rest) :] != own or source not in stated:
            return 0
        folder = source.partition(":")[2]
        if folder and rest and rest[-1] not in (source, folder):  # a file of the same name in another folder
            return 0
        return 2 + len(own)


def _parts(path: str) -> list[str]:
    """Folders and name of a path, in any system's notation."""
    return [identity(part) for part in re.split(r"[/\\]+", path) if part not in ("", ".")]


def _without_endings(name: str) -> str:
    return _AUDIO_ENDINGS.sub("", name) or name


def _as_number(name: str) -> str:
    """As a spreadsheet makes it of a name of digits: without zeros before it; and without those of a decimal point."""
    name = _without_endings(name)
    number = re.fullmatch(r"0*(\d+)(\.0+)?", name)
    return number[1] if number else name


_FORMS = (str, _without_endings, _as_number)  # of the last part of a name, compared in this order


def _some(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "")


def _there(names: Collection[str]) -> str:
    return f"there are {_some(names)}" if names else "it is empty"


def record_test(run: Run, predictions: pd.DataFrame, corpus: Corpus) -> None:
    """Store predictions on `scored_tracks` in a run, with every metric.

    Predictions on the task's own test tracks become the run's predictions; those on extra test sets are stored as
    extra.csv. Metrics are over all test tracks, over each source among them, and over each extra set; share_no_key, of
    answers without a key, is among them where there are such.
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
        if none := int((table["estimate"] == NO_KEY).sum()):
            run.metric(dataset, split, "share_no_key", none / len(table), len(table))
    if len(extra):
        run.attach("extra", extra)
