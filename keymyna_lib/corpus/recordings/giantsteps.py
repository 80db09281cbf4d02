"""GiantSteps: electronic dance music with one global key; the test set of the literature and its training set.

Both data sets consist of a public repository of annotations and of two-minute mp3 previews, named by their Beatport
numbers (<number>.LOFI.mp3) and kept by two hosts. The annotations are in the data set's folder itself (a clone), or in
`repository/` below it, where the downloaded archive is unpacked; the audio is in `audio/`:

    annotations/key/<id>.key, annotations/genre/<id>.genre, md5/<id>.md5              giantsteps_key
    annotations/annotations.txt, annotations/beatport_metadata.txt, md5/<id>.md5      giantsteps_mtg_keys
    audio/<id>.mp3                                                                    both
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.listing import Listing
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.base.small_tables import read_table, read_value
from keymyna_lib.base.text import identity
from keymyna_lib.corpus.recordings.dataset import Dataset, table_of
from keymyna_lib.corpus.recordings.fetch import Source

VALID_SHARE = 0.125  # of GiantSteps MTG's tracks with one key: our choice
_SEED = 0  # of their split, which never changes
_METADATA = "annotations/beatport_metadata.txt"
_AGAIN = "Get the annotations again."


class _Repository(Dataset):
    """A repository of annotations, with the audio at two hosts."""

    repository: str  # its name at GitHub
    commit: str  # of its archive
    needed: str  # what makes a folder the repository, relative to it
    hosts: tuple[str, str]  # of the audio, the better one first

    def sources(self) -> Sequence[Source]:
        """The annotations. Only they tell which audio there is, and its checksums: see `audio_sources`."""
        return (
            Source(
                (f"https://github.com/GiantSteps/{self.repository}/archive/{self.commit}.zip",),
                f"{self.repository}.zip",
                extract="repository",
            ),
        )

    def audio_sources(self, root: Path | str) -> Sequence[Source]:
        """The audio of the tracks that are used, with the md5 that the annotations give.

        Raises
        ------
        KeyMynaError
            As `index` does.
        """
        table = self.index(root)
        return tuple(
            Source(tuple(f"{host}{row.Index}.mp3" for host in self.hosts), row.path, md5=row.md5)
            for row in table[table["excluded"] == ""].itertuples()
        )

    def _annotations(self, root: Path | str) -> Listing:
        """The repository's files."""
        folder = self.folder(root)
        for place in (folder, folder / "repository" / f"{self.repository}-{self.commit}"):
            if (files := Listing(place)).one(self.needed):
                return files
        raise KeyMynaError(f"{folder / self.needed} does not exist. {self.how}")


class GiantStepsKey(_Repository):
    """The 604 tracks of the literature's GiantSteps Key (Knees et al. 2015), all of them split "test".

    mirdata's `giantsteps_key` is another data set: 600 of these tracks with revised labels. The two are never mixed; a
    folder in its layout (keys_gs+/, meta/) is refused.
    """

    name = "giantsteps_key"
    title = "GiantSteps Key"
    citation = (
        "P. Knees, Á. Faraldo, P. Herrera, R. Vogl, S. Böck, F. Hörschläger, M. Le Goff: Two data sets for "
        "tempo estimation and key detection in electronic dance music annotated from user corrections. "
        "ISMIR 2015, pp. 364-370."
    )
    licence = "annotations: none stated; audio: previews of Beatport, rights with their owners"
    size = "850 MB (604 mp3)"
    url = "https://github.com/GiantSteps/giantsteps-key-dataset"
    how = (
        "Download it, or clone https://github.com/GiantSteps/giantsteps-key-dataset to <data root>/giantsteps_key "
        "and run its audio_dl.sh."
    )
    repository = "giantsteps-key-dataset"
    commit = "c8cb8aad2cb53f165be51ea099d0dc75c64a844f"
    needed = "annotations/key"
    hosts = ("https://www.cp.jku.at/datasets/giantsteps/backup/", "https://geo-samples.beatport.com/lofi/")

    def index(self, root: Path | str) -> pd.DataFrame:
        """The tracks of the annotations; see `Dataset.index`.

        Raises
        ------
        KeyMynaError
            When the annotations are missing, or when the folder is mirdata's.
        """
        folder = self.folder(root)
        audio = Listing(folder)
        for mark in ("keys_gs+", "meta"):
            if audio.one(mark):
                raise KeyMynaError(
                    f"{folder} has a folder {mark}: that is mirdata's giantsteps_key, 600 tracks with "
                    "revised labels, and not the 604 of the literature. Move it elsewhere; the two "
                    "are never mixed."
                )
        base = self._annotations(root)
        rows = []
        for path in base.below(".key", self.needed):
            label = read_value(path)
            key, reason = _key(label)
            rows.append(
                {
                    "track_id": path.stem,
                    "path": audio.find(f"audio/{path.stem}.mp3"),
                    "label": label,
                    "key": key,
                    "excluded": reason,
                    "split": "" if reason else "test",
                    "md5": _md5(base, path.stem),
                    "genre": _known(base, f"annotations/genre/{path.stem}.genre"),
                }
            )
        if not rows:
            raise KeyMynaError(f"{base.top / self.needed} has no *.key. {self.how}")
        return table_of(rows)


class GiantStepsMTG(_Repository):
    """GiantSteps MTG Keys (Faraldo 2017): 1,486 tracks of the same kind, to train and validate on.

    With one key each and min_confidence 2 there are 1,159 tracks (JukeMIR's training set), with 0 there are 1,349
    (InceptionKeyNet's list), with single_key=False and 2 there are 1,182. No setting gives the 1,077 of the literature:
    annotations.txt does not tell what was left out there besides low confidences and second keys.

    Train and valid share no artist: tracks with a name in common, directly or through others, stay together, and so do
    the nine recordings that occur under two numbers. A track's split does not depend on the parameters.

    Parameters
    ----------
    min_confidence : 0, 1 or 2; tracks of a lower confidence are excluded.
    single_key : exclude what is not labelled with one major or minor key. False: the first tonic and the first mode
        of several keys count ("F minor / G# major" is F minor); tracks without a key stay excluded.

    Raises
    ------
    KeyMynaError
        When min_confidence is another value.
    """

    name = "giantsteps_mtg_keys"
    title = "GiantSteps MTG Keys"
    citation = (
        "Á. Faraldo: Tonality estimation in electronic dance music: a computational and musically informed "
        "examination. PhD thesis, Universitat Pompeu Fabra, Barcelona, 2017."
    )
    licence = "annotations: none stated; audio: previews of Beatport, rights with their owners"
    size = "about 2 GB (1,486 mp3)"
    url = "https://github.com/GiantSteps/giantsteps-mtg-key-dataset"
    how = (
        "Download it, or clone https://github.com/GiantSteps/giantsteps-mtg-key-dataset to "
        "<data root>/giantsteps_mtg_keys and run its audio_dl.sh."
    )
    repository = "giantsteps-mtg-key-dataset"
    commit = "fd7b8c584f7bd6d720d170c325a6d42c9bf75a6b"
    needed = "annotations/annotations.txt"
    hosts = ("https://www.cp.jku.at/datasets/giantsteps/mtg_key_backup/", "https://geo-samples.beatport.com/lofi/")

    def __init__(self, min_confidence: int = 2, single_key: bool = True) -> None:
        if min_confidence not in (0, 1, 2):
            raise KeyMynaError(f"min_confidence={min_confidence!r}: expected 0, 1 or 2.")
        self.min_confidence, self.single_key = min_confidence, single_key

    def index(self, root: Path | str) -> pd.DataFrame:
        """The tracks of the annotations; see `Dataset.index`.

        Tracks that are in GiantSteps Key too, by number or md5, are excluded.

        Raises
        ------
        KeyMynaError
            When annotations are missing or damaged: these, or those of GiantSteps Key under the same root, without
            which test tracks could end up in the training set.
        """
        base = self._annotations(root)
        try:
            test = GiantStepsKey().index(root)
        except KeyMynaError as error:
            raise KeyMynaError(
                f"{self.name} is only used beside the annotations of giantsteps_key (not its audio), "
                f"which say what must not be trained on: {error}"
            ) from error
        annotations, metadata = (base.top / base.find(name) for name in (self.needed, _METADATA))
        labels = _table(annotations, ("ID", "MANUAL KEY", "C"))
        facts = _table(metadata, ("ID", "ARTIST", "SONG TITLE", "MIX", "BP GENRE"))
        if unknown := sorted(set(labels) - set(facts)):
            raise KeyMynaError(f"{metadata} has no track {unknown[0]}, whose artist decides on its split. {self.how}")
        tested = {*map(identity, test.index), *test["md5"]} - {""}
        audio, rows = Listing(self.folder(root)), []
        for number, row in labels.items():
            track_id, fact = f"{number}.LOFI", facts[number]
            label, confidence, md5 = row["MANUAL KEY"], row["C"], _md5(base, track_id)
            if confidence not in ("0", "1", "2"):
                raise KeyMynaError(
                    f"{annotations}: the confidence of track {number} is {confidence!r} instead "
                    f"of 0, 1 or 2. {self.how}"
                )
            key, reason = _key(label, first=not self.single_key)
            if not reason and int(confidence) < self.min_confidence:
                reason = "low confidence"
            if not reason and not tested.isdisjoint((identity(track_id), md5)):
                reason = "in GiantSteps Key"
            title = fact["SONG TITLE"] + (f" ({fact['MIX']})" if fact["MIX"] else "")
            rows.append(
                {
                    "track_id": track_id,
                    "path": audio.find(f"audio/{track_id}.mp3"),
                    "label": label,
                    "key": key,
                    "excluded": reason,
                    "artist": fact["ARTIST"],
                    "title": title,
                    "genre": fact["BP GENRE"],
                    "md5": md5,
                }
            )
        table = table_of(rows)
        table["composition"] = _artist_groups(table)
        split = _split(table["composition"], [_key(label)[1] == "" for label in table["label"]])
        return table.assign(split=split.where(table["excluded"] == "", ""))


def _artist_groups(table: pd.DataFrame) -> pd.Series:
    """The first track of those that share an artist or the very recording, directly or through others."""
    from scipy.sparse.csgraph import connected_components  # here, because they cost a second to import
    from sklearn.feature_extraction.text import CountVectorizer

    shared = [
        [track_id, *{name.strip() for name in identity(artist).split(",")} - {""}, *[md5] * bool(md5)]
        for track_id, artist, md5 in zip(table.index, table["artist"], table["md5"])
    ]
    counts = CountVectorizer(analyzer=list, binary=True, dtype=np.int32).fit_transform(shared)
    group = connected_components(counts @ counts.T, directed=False)[1]
    return pd.Series(table.index, table.index).groupby(group).transform("first")


def _split(groups: pd.Series, counted: Sequence[bool]) -> pd.Series:
    """train or valid: whole groups, drawn in random order, until valid has its share of the counted tracks."""
    sizes = pd.Series(counted, groups.index).groupby(groups).sum()
    sizes = sizes.iloc[numpy_stream(_SEED, "splits").permutation(len(sizes))]
    valid = sizes.index[sizes.cumsum() <= VALID_SHARE * sizes.sum()]
    return groups.isin(valid).map({True: "valid", False: "train"})


def _key(label: str, *, first: bool = False) -> tuple[int, str]:
    """Key and reason of exclusion of a label; `first`: of several keys the first one counts."""
    try:
        return keys.parse_key(label), ""
    except keys.KeyLabelError as error:
        tonic, mode = re.search("[A-G]#?", label), re.search("major|minor", label)
        if first and error.reason == "several keys" and tonic and mode:
            return keys.parse_key(f"{tonic[0]} {mode[0]}"), ""
        return -1, error.reason


def _known(base: Listing, path: str) -> str:
    """The value in a small file; empty when there is none."""
    file = base.top / base.find(path)
    return read_value(file) if file.is_file() else ""


def _md5(base: Listing, track_id: str) -> str:
    """The published md5 of a track's audio; empty when there is none. `md5sum` writes the file's name behind it."""
    path = f"md5/{track_id}.md5"
    md5 = _known(base, path).casefold().partition(" ")[0]
    if md5 and not re.fullmatch("[0-9a-f]{32}", md5):
        raise KeyMynaError(f"{base.top / base.find(path)}: {md5!r} is no md5, of 32 hexadecimal digits. {_AGAIN}")
    return md5


def _table(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Rows of a table by their ID."""
    rows: dict[str, dict[str, str]] = {}
    for line, row in read_table(path, columns, advice=_AGAIN):
        if not row["ID"] or row["ID"] in rows:
            raise KeyMynaError(f"{path}, line {line}: no ID, or that of another row. {_AGAIN}")
        rows[row["ID"]] = row
    return rows
