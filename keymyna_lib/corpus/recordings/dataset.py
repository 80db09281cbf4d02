"""The interface of a data set of recordings: its tracks, its description, its downloads.

A data set lies in <data root>/<its name>, in the layout of its publisher. Its index is read from its annotations alone,
so that a track without audio has a row, too, and can be counted as missing.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.listing import Listing
from keymyna_lib.base.progress import bar
from keymyna_lib.base.text import visible
from keymyna_lib.corpus.recordings.decode import audio_length
from keymyna_lib.corpus.recordings.fetch import Source, md5_file

# path: of the audio, relative to the data set's folder. label: the key as written. key: 0..23, or -1. excluded: why the
# track is not used, or empty. composition: what a split keeps whole. split: train, valid, test, or empty where the data
# set has none. drawn: whether the split was drawn from the composition, so that copies may change it. md5: of the audio
# file, or empty where its publisher gives none.
COLUMNS = ("path", "label", "key", "excluded", "artist", "title", "genre", "composition", "split", "drawn", "md5")
STATES = ("found", "missing", "corrupt", "excluded")


class Dataset(ABC):
    """One data set.

    Attributes
    ----------
    name : of its folder under the data root, and of its rows in the tables.
    title, citation, licence, size : for the data card.
    url : its home.
    how : how to get it, in a sentence or two.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    citation: ClassVar[str]
    licence: ClassVar[str]
    size: ClassVar[str]
    url: ClassVar[str]
    how: ClassVar[str]

    def folder(self, root: Path | str) -> Path:
        """The data set's folder; the case of its name does not matter.

        Raises
        ------
        KeyMynaError
            When there are two such folders.
        """
        return Listing(root).one(self.name) or Path(root) / self.name

    @abstractmethod
    def index(self, root: Path | str) -> pd.DataFrame:
        """The tracks that the annotations name: index track_id (str), columns COLUMNS, sorted by track_id.

        Raises
        ------
        KeyMynaError
            When the annotations are missing or cannot be read; names the file and says how to get it.
        """

    def sources(self) -> Sequence[Source]:
        """What can lawfully be downloaded, for `fetch.fetch`; empty where the user must bring everything."""
        return ()

    def audio_sources(self, root: Path | str) -> Sequence[Source]:
        """What else can be downloaded once `sources` are there: files that only the annotations name."""
        return ()

    def packages(self) -> Sequence[str]:
        """Debian packages that it is made of, for `packages.fetch_packages`."""
        return ()


def labelled(label: str) -> dict[str, Any]:
    """Columns of an index that follow from a label: label, and either key or excluded.

    >>> labelled("Eb minor"), labelled("F dorian")
    ({'label': 'Eb minor', 'key': 15}, {'label': 'F dorian', 'excluded': 'modal'})
    """
    try:
        return {"label": label, "key": keys.parse_key(label)}
    except keys.KeyLabelError as error:
        return {"label": label, "excluded": error.reason}


def audio_path(files: Listing, stem: str, suffixes: Sequence[str]) -> str:
    """Path of a recording that may be in one of several formats: the first that exists, else the first of all.

    Parameters
    ----------
    files : of the data set's folder.
    """
    names = [files.find(f"{stem}{suffix}") for suffix in suffixes]
    return next((name for name in names if os.path.isfile(files.top / name)), names[0])


def table_of(rows: Sequence[dict]) -> pd.DataFrame:
    """Rows of an index, each a dict with track_id and what is known of COLUMNS, as `Dataset.index` returns them.

    All texts but paths become what is `visible` of them; ids only where they still differ then.

    Raises
    ------
    KeyMynaError
        When a track is named twice.
    """
    table = pd.DataFrame(list(rows), columns=["track_id", *COLUMNS])
    texts = [column for column in ("track_id", *COLUMNS) if column not in ("key", "drawn")]
    table[texts] = table[texts].astype(object).fillna("").astype(str)
    shown = [column for column in texts if column not in ("track_id", "path", "md5")]
    table[shown] = table[shown].map(visible)
    ids = table["track_id"].map(visible)
    table["track_id"] = table["track_id"].where(ids.duplicated(keep=False), ids)
    table["key"] = table["key"].fillna(-1).astype(int)
    table["drawn"] = table["drawn"].eq(True)
    if (twice := table["track_id"].duplicated()).any():
        raise KeyMynaError(f"track {table.loc[twice, 'track_id'].iloc[0]!r} is named twice in the annotations.")
    return table.set_index("track_id").sort_index()


def examine(dataset: Dataset, root: Path | str, *, show: bool = True) -> pd.DataFrame:
    """The index with three more columns: state, problem and n_samples.

    state : one of STATES. A file is corrupt when its md5 is not its publisher's or its header cannot be read; errors in
        decoding are reported later, by `build.build_recordings`. Excluded tracks are not examined.
    problem : why a track is missing or corrupt, or empty.
    n_samples : length at 16 kHz according to the file's header; 0 where there is none.
    """
    folder, table = dataset.folder(root), dataset.index(root)
    states, problems, lengths = [], [], []
    for row in bar(table.itertuples(), desc=dataset.title, total=len(table), unit="track", show=show):
        path, problem, n_samples = folder / row.path, "", 0
        if row.excluded:
            state = "excluded"
        elif not os.path.isfile(path):  # False, unlike the path's own method, for names of any length
            state, problem = "missing", f"no file {row.path}"
        else:
            state = "found"
            try:
                if row.md5 and md5_file(path) != row.md5:
                    raise KeyMynaError(f"{row.path}: its md5 is not the one that was published")
                n_samples = audio_length(path)
            except KeyMynaError as error:
                state, problem = "corrupt", str(error).replace(str(path), row.path)
        states.append(state)
        problems.append(problem)
        lengths.append(n_samples)
    return table.assign(state=states, problem=problems, n_samples=lengths)
