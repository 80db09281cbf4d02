"""Which data sets there are, and which of them train and test what.

A task is a labelled training, validation and test set; heads are trained and scored task by task. Extra test sets are
scored by the heads of every task and never trained on. Unlabelled sets are for pre-training alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.text import identity
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.packages import fetch_packages, licences_below
from keymyna_lib.corpus.recordings.billboard import Billboard
from keymyna_lib.corpus.recordings.build import build_recordings
from keymyna_lib.corpus.recordings.dataset import STATES, Dataset, examine
from keymyna_lib.corpus.recordings.decode import may_be_sound
from keymyna_lib.corpus.recordings.fetch import fetch
from keymyna_lib.corpus.recordings.folder import AudioFolder, UnlabelledFolder, labelled_folders, unlabelled_folders
from keymyna_lib.corpus.recordings.game_music import GameMusic
from keymyna_lib.corpus.recordings.giantsteps import GiantStepsKey, GiantStepsMTG
from keymyna_lib.corpus.recordings.gtzan import GTZAN
from keymyna_lib.corpus.recordings.mirdata_sets import FMAKeys, GuitarSet, MirdataGiantSteps


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes
    ----------
    title : for captions.
    datasets : names of the data sets whose splits, taken together, it is made of.
    """

    title: str
    datasets: tuple[str, ...]


# The paper's two tasks, then the open ones. "folder:NAME" is a task as well, on the folder's own splits.
TASKS = {
    "giantsteps": Task("GiantSteps Key (604)", ("giantsteps_mtg_keys", "giantsteps_key")),
    "billboard": Task("McGill Billboard", ("billboard",)),
    "fma": Task("FMA-keys", ("fma_keys",)),
    "guitarset": Task("GuitarSet", ("guitarset",)),
}
_SETS = {kind.name: kind for kind in (GiantStepsKey, Billboard, GTZAN, FMAKeys, GuitarSet, MirdataGiantSteps)}
NAMES = (GiantStepsMTG.name, *_SETS, GameMusic.name)
_FOLDERS = {"folder": AudioFolder, "unlabelled": UnlabelledFolder}
SPLITS = ("train", "valid", "test")


def dataset(name: str, *, min_confidence: int = 2, single_key: bool = True) -> Dataset:
    """A data set by its name; "folder:NAME" and "unlabelled:NAME" stand for folders of the user.

    "game_music" is short for "unlabelled:game_music", which can be fetched.

    Parameters
    ----------
    min_confidence, single_key : of `GiantStepsMTG`.

    Raises
    ------
    KeyMynaError
        When there is none of this name.
    """
    kind, _, folder = name.partition(":")
    if name in (GameMusic.name, GameMusic.name.removeprefix("unlabelled:")):
        return GameMusic()
    if kind in _FOLDERS and folder:
        return _FOLDERS[kind](folder)
    if name == GiantStepsMTG.name:
        return GiantStepsMTG(min_confidence=min_confidence, single_key=single_key)
    if name not in _SETS:
        raise KeyMynaError(f"data set {name!r}: there are {', '.join(NAMES)}, folder:NAME and unlabelled:NAME.")
    return _SETS[name]()


def datasets_of(task: str) -> tuple[str, ...]:
    """Names of the data sets of a task.

    Raises
    ------
    KeyMynaError
        When there is no such task.
    """
    if task.startswith("folder:"):
        return (task,)
    if task not in TASKS:
        raise KeyMynaError(f"task {task!r}: choose among {', '.join(TASKS)} and folder:NAME.")
    return TASKS[task].datasets


def download(
    sets: Sequence[Dataset], root: Path | str, *, offline: bool, mirror: str = "", show: bool = True
) -> pd.DataFrame:
    """Download what the publishers of some data sets offer to anyone: rows of `fetch.fetch`, with the data set's name.

    The annotations of all data sets come first, then the audio that they name. A mirror has one folder per data set;
    for packages, the machine's own sources of them say where they come from.
    """
    done = []
    for ask in (lambda one: one.sources(), lambda one: one.audio_sources(root)):
        for one in sets:
            if sources := ask(one):
                address = f"{mirror.rstrip('/')}/{one.name}" if mirror else ""
                done.append(
                    fetch(sources, one.folder(root), offline=offline, mirror=address, show=show).assign(name=one.name)
                )
    for one in sets:
        if packages := one.packages():
            done.append(
                fetch_packages(packages, one.folder(root), may_be_sound, offline=offline, show=show).assign(
                    name=one.name
                )
            )
    return pd.concat(done, ignore_index=True) if done else pd.DataFrame(columns=["path", "state", "problem", "name"])


def licences(sets: Sequence[Dataset], root: Path | str) -> pd.DataFrame:
    """Licences of the packages that some data sets are made of, see `packages.licences_below`."""
    tables = [licences_below(one.folder(root)) for one in sets if one.packages()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def unlabelled_corpus(
    sets: Sequence[Dataset],
    root: Path | str,
    *,
    seconds: float = 0,
    min_windows: float = 2,
    front_end: str = "mel",
    show: bool = True,
    client: Executor = HERE,
) -> tuple[Corpus, pd.DataFrame]:
    """A corpus for pre-training alone, of data sets without labels.

    Parameters
    ----------
    seconds, min_windows, front_end, client : see `build.build_recordings`.

    Returns
    -------
    corpus : all of its tracks have the split "pretrain".
    unused : rows of `reasons`: how many recordings of each data set are not in it, and why.

    Raises
    ------
    KeyMynaError
        When a data set is not there, or as `build.build_recordings`.
    """
    examined, absent = examine_all(sets, root, show=show)
    if absent:
        name, reason = next(iter(absent.items()))
        raise KeyMynaError(f"{name}: {reason}")
    names = list(examined)
    tracks, _ = assemble(examined, {one.name: one.folder(root) for one in sets}, [], [], names)
    corpus, unused = build_recordings(
        tracks, seconds=seconds, min_windows=min_windows, front_end=front_end, progress=show, client=client
    )
    return corpus, reasons(with_problems(examined, unused))


def corpus_to_test(
    root: Path | str,
    *,
    seconds: float = 0,
    min_windows: float = 2,
    front_end: str = "mel",
    show: bool = True,
    client: Executor = HERE,
) -> Corpus:
    """A corpus to test on what others were trained for: all that is under a data root, whatever a task makes of it.

    Parameters
    ----------
    root : as notebook 05 reads it: data sets in their publishers' layouts, folders of the user, unlabelled ones. Of
        GiantSteps, mirdata's revision is passed over, as its recordings are those of the original.
    seconds, min_windows, front_end, client : see `build.build_recordings`.

    Returns
    -------
    Its labelled tracks have the split "extra", its unlabelled ones "pretrain".

    Raises
    ------
    KeyMynaError
        When nothing is found there, or as `build.build_recordings`.
    """
    unlabelled = unlabelled_folders(root)
    published = [GiantStepsMTG.name, *(name for name in _SETS if name != MirdataGiantSteps.name)]
    sets = [dataset(name) for name in (*published, *labelled_folders(root), *unlabelled)]
    examined, absent = examine_all(sets, root, show=show)
    labelled = [name for name in examined if name not in unlabelled]
    folders = {one.name: one.folder(root) for one in sets}
    tracks, _ = assemble(examined, folders, [], labelled, [name for name in unlabelled if name in examined])
    if tracks.empty:
        raise KeyMynaError(f"{root} holds no recordings to test on. " + " ".join(map(": ".join, absent.items())))
    corpus, _ = build_recordings(
        tracks, seconds=seconds, min_windows=min_windows, front_end=front_end, progress=show, client=client
    )
    return corpus


def examine_all(
    sets: Sequence[Dataset], root: Path | str, *, show: bool = True
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """`dataset.examine` of the data sets whose annotations are there; and why the others cannot be used, by name.

    The reasons end up in committed tables, so they name no folder of this machine.
    """
    examined, absent = {}, {}
    for one in sets:
        try:
            examined[one.name] = examine(one, root, show=show)
        except KeyMynaError as error:
            absent[one.name] = str(error).replace(str(root), "<data root>")
    return examined, absent


def assemble(
    examined: Mapping[str, pd.DataFrame],
    folders: Mapping[str, Path],
    tasks: Sequence[str],
    extra: Sequence[str],
    unlabelled: Sequence[str],
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The tracks of a corpus of recordings, as `build.build_recordings` expects them.

    Parameters
    ----------
    examined : data set -> its examined index; only what was found is taken.
    folders : data set -> its folder.
    tasks : wanted; one that lacks tracks of a split is left out.
    extra : further test sets. unlabelled : data sets for pre-training.

    Returns
    -------
    tracks : index track_id, "<data set>/<id>".
    left_out : task -> why.
    """
    parts, left_out = [], {}
    for task in tasks:
        names = datasets_of(task)
        usable = [_found(name, examined, folders) for name in names]
        together = pd.concat(usable) if usable else pd.DataFrame()
        if lacking := [split for split in SPLITS if together.empty or not (together["split"] == split).any()]:
            left_out[task] = f"no {' and no '.join(lacking)} tracks found of {', '.join(names)}"
        else:
            parts.append(together.assign(task=task))
    parts += [_found(name, examined, folders).assign(task="", split="extra") for name in extra]
    parts += [_found(name, examined, folders).assign(task="", split="pretrain", key=-1) for name in unlabelled]
    tracks = pd.concat(parts) if parts else pd.DataFrame()
    return tracks, left_out


def _found(name: str, examined: Mapping[str, pd.DataFrame], folders: Mapping[str, Path]) -> pd.DataFrame:
    columns = [
        "file",
        "n_samples",
        "source",
        "split",
        "drawn",
        "composition",
        "key",
        "label",
        "artist",
        "title",
        "content",
    ]
    if name not in examined:
        return pd.DataFrame(columns=columns)
    table = examined[name][examined[name]["state"] == "found"]
    table = table.assign(file=[str(folders[name] / path) for path in table["path"]], source=name)
    stats = [Path(file).stat() for file in table["file"]]
    table["content"] = [md5 or f"{stat.st_size}-{stat.st_mtime_ns}" for md5, stat in zip(table["md5"], stats)]
    table["composition"] = name + ": " + table["composition"].where(table["composition"] != "", table.index.to_series())
    return table.set_index(name + "/" + table.index)[columns]


def labels(name: str, root: Path | str) -> tuple[pd.DataFrame, dict[str, str]]:
    """The tracks of a task, or of one data set, by their annotations alone: whatever audio is there.

    Parameters
    ----------
    name : of a task or a data set, in any case.

    Returns
    -------
    tracks : index track_id, "<data set>/<id>", as of `assemble`; columns source, composition, split, key; those that
        are excluded have neither split nor key (-1), and are left out where a test track has the same id: the two data
        sets of GiantSteps share some numbers, which mean the test track.
    absent : data set of the task -> why it cannot be used.

    Raises
    ------
    KeyMynaError
        When there is no such folder, task or data set, or no track of a test set in what is there.
    """
    known = {identity(known): known for known in (*TASKS, *NAMES)}
    kind, _, folder = name.partition(":")
    if folder and identity(kind) == "folder":
        name = f"folder:{folder}"
    elif identity(name) in known:
        name = known[identity(name)]
    else:
        raise KeyMynaError(f"{name!r}: choose a task or a data set, {', '.join(known.values())} or folder:NAME.")
    if not Path(root).is_dir():
        raise KeyMynaError(f"data root {str(root)!r} is not a folder; expected the one with the data sets.")
    parts, absent = [], {}
    for one in map(dataset, datasets_of(name) if name in TASKS else (name,)):
        try:
            table = one.index(root)
        except KeyMynaError as error:
            absent[one.name] = str(error)
            continue
        own = table["composition"].where(table["composition"] != "", table.index.to_series())
        split = table["split"].where(table["excluded"] == "", "")
        table = table.assign(source=one.name, composition=f"{one.name}: " + own, split=split)
        parts.append(table.set_index(f"{one.name}/" + table.index)[["source", "composition", "split", "key"]])
    tracks = pd.concat(parts) if parts else pd.DataFrame(columns=["split"])
    if not (test := tracks["split"] == "test").any():
        raise KeyMynaError(f"{name}: no labels of test tracks under {root}. {' '.join(absent.values())}".rstrip())
    own = tracks.index.to_series().map(lambda track_id: identity(track_id.partition("/")[2]))
    return tracks[(tracks["split"] != "") | ~own.isin(own[test])], absent


def card(sets: Sequence[Dataset], examined: Mapping[str, pd.DataFrame], absent: Mapping[str, str]) -> pd.DataFrame:
    """One row per data set: what it is, how many of its tracks are in which state, how to get it if it is absent."""
    rows = []
    for one in sets:
        states = examined[one.name]["state"] if one.name in examined else pd.Series(dtype=str)
        rows.append(
            {
                "data set": one.title,
                "name": one.name,
                **{state: int((states == state).sum()) for state in STATES},
                "licence": one.licence,
                "size": one.size,
                "citation": one.citation,
                "note": f"{absent[one.name]} {one.how}" if one.name in absent else "",
            }
        )
    return pd.DataFrame(rows)


def reasons(examined: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Counts of what is not used: one row per data set, state and reason, with an example."""
    rows = []
    for name, table in examined.items():
        for reason, group in table[table["state"] == "excluded"].groupby("excluded"):
            rows.append(
                {
                    "name": name,
                    "state": "excluded",
                    "tracks": len(group),
                    "why": reason,
                    "for instance": f"{group.index[0]}: {group['label'].iloc[0]}",
                }
            )
        for state in ("missing", "corrupt"):
            group = table[table["state"] == state]
            if len(group):
                rows.append(
                    {
                        "name": name,
                        "state": state,
                        "tracks": len(group),
                        "why": "",
                        "for instance": f"{group.index[0]}: {group['problem'].iloc[0]}",
                    }
                )
    return pd.DataFrame(rows, columns=["name", "state", "tracks", "why", "for instance"])


def with_problems(examined: Mapping[str, pd.DataFrame], unused: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The examined indices, with the tracks that `build.build_recordings` did not use marked corrupt or excluded."""
    marked = {name: table.copy() for name, table in examined.items()}
    for track_id, state, problem in unused[["track_id", "state", "problem"]].itertuples(index=False):
        name, track = track_id.split("/", 1)
        column = "excluded" if state == "excluded" else "problem"
        marked[name].loc[track, ["state", column]] = [state, problem]
    return marked


def copies_in(corpus: Corpus) -> pd.DataFrame:
    """Rows like those of `reasons`, for the tracks of a corpus that are the same recording as another of its tracks."""
    manifest, rows = corpus.manifest, []
    twice = manifest[manifest["recording"].duplicated(keep=False)]
    skipped = twice["split"].isin(["train", "pretrain"]) & twice["recording"].isin(corpus.scored)
    for (name, scored), group in twice.groupby(["source", skipped]):
        same = twice.index[twice["recording"] == group["recording"].iloc[0]].drop(group.index[0])
        rows.append(
            {
                "name": name,
                "state": "copy",
                "tracks": len(group),
                "why": "the same recording as another track" + ", scored, so not pre-trained on" * scored,
                "for instance": f"{group.index[0]} = {same[0]}",
            }
        )
    return pd.DataFrame(rows, columns=["name", "state", "tracks", "why", "for instance"])


def failures(fetched: pd.DataFrame) -> list[str]:
    """A line for each data set of which `download` could not get all files: how many failed, and why the first did."""
    failed = fetched[fetched["state"] == "failed"]
    return [
        f"{name}: {len(group)} files could not be fetched, {group['path'].iloc[0]} first: {group['problem'].iloc[0]}"
        for name, group in failed.groupby("name")
    ]


def nothing_found(
    root: str, left_out: Mapping[str, str], absent: Mapping[str, str], fetched: pd.DataFrame
) -> KeyMynaError:
    """The error for a data root from which no task can be made, after some downloads."""
    lines = [f"  {line}" for line in failures(fetched)]
    lines += [f"  task {task}: {reason}" for task, reason in left_out.items()]
    lines += [f"  {name}: {reason}" for name, reason in absent.items()]
    return KeyMynaError(f"data_root {root}: no task can be made from what is there.\n" + "\n".join(lines))
