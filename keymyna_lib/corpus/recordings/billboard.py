"""McGill Billboard with one global key per song, annotated by Korzeniowski and Widmer: pop for training and testing."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.listing import Listing
from keymyna_lib.base.small_tables import read_lines, read_value
from keymyna_lib.base.text import identity
from keymyna_lib.corpus.recordings.dataset import Dataset, audio_path, labelled, table_of
from keymyna_lib.corpus.recordings.fetch import Source
from keymyna_lib.corpus.splits import assign_splits

SHARES = (0.625, 0.125, 0.25)  # of train, valid and test in the literature
_SEED = 0  # of the split, which never changes
_SUFFIXES = (".flac", ".wav", ".mp3")  # the first that is there is taken
_PREFIX = "mcgill-billboard_"
_NAME = re.compile(rf"(?i:{_PREFIX})([^-]+)-(([^-]+)-(.+))")


class Billboard(Dataset):
    """625 songs from the Billboard charts, each with a key.

        .../mcgill-billboard_<id>-<artist>-<title>.key     anywhere below the data set's folder, as bb.zip unpacks
        .../eusipco2017_val.fold, eusipco2017_test.fold    optional, likewise
        audio/<id>.flac, .wav or .mp3                      to be brought

    The names of the .key files and their contents (one key, such as "Bb major") are those that InceptionKeyNet's
    published code reads from bb.zip; we do not know where in that archive they are, so they are looked for everywhere.
    The artist ends at the first hyphen: the second half of "Bachman-Turner Overdrive" counts as part of the title.

    Split: that of Korzeniowski and Widmer (2017) where their two .fold files exist (names of .key files without the
    suffix, one per line); they list the songs of valid and test, the others are train. We do not know whether bb.zip
    contains them, nor which 154 songs KeyMyna is tested on. Without them the split is ours, in the same shares, by
    composition and stratified by mode: scores on it are not comparable with published ones.
    """

    name = "billboard"
    title = "McGill Billboard"
    citation = (
        "J. A. Burgoyne, J. Wild, I. Fujinaga: An expert ground truth set for audio chord recognition and "
        "music analysis. ISMIR 2011, pp. 633-638. Keys: F. Korzeniowski, G. Widmer: End-to-end musical key "
        "estimation using a convolutional neural network. EUSIPCO 2017."
    )
    licence = "keys: none stated (the chords they come from: CC0); audio: commercial recordings"
    size = "keys: small; audio: 625 songs"
    url = "https://www.cp.jku.at/people/korzeniowski/bb.zip"
    how = (
        "The keys can be downloaded: unpack https://www.cp.jku.at/people/korzeniowski/bb.zip to "
        "<data root>/billboard. Bring the songs as <data root>/billboard/audio/<id>.flac, .wav or .mp3, <id> as in "
        "the names of the .key files. Unless the two eusipco2017_*.fold files are there, the split is ours and not "
        "the literature's."
    )

    def sources(self) -> Sequence[Source]:
        """The keys; the songs must be brought. The address in the literature is without encryption; it comes second."""
        return (Source((self.url, self.url.replace("https:", "http:")), "bb.zip", extract="bb"),)

    def index(self, root: Path | str) -> pd.DataFrame:
        """The tracks of the annotations; see `Dataset.index`.

        Raises
        ------
        KeyMynaError
            When the annotations are missing or cannot be read, a file's name is not as expected, or a .fold file names
            no song.
        """
        folder = self.folder(root)
        files, rows = Listing(folder), []
        for path in files.below(".key"):
            if not path.name.casefold().startswith(_PREFIX):
                continue
            if not (match := _NAME.fullmatch(path.stem)):
                raise KeyMynaError(f"{path}: expected mcgill-billboard_<id>-<artist>-<title>.key.")
            track_id, song, artist, title = match.groups()
            rows.append(
                {
                    "track_id": track_id,
                    "path": audio_path(files, f"audio/{track_id}", _SUFFIXES),
                    **labelled(read_value(path)),
                    "artist": artist.replace("_", " "),
                    "title": title.replace("_", " "),
                    "composition": _composition(song),
                    "name": path.stem,
                }
            )
        if not rows:
            raise KeyMynaError(f"{folder} has no mcgill-billboard_*.key. {self.how}")
        table = table_of(rows)
        used = table[table["excluded"] == ""]
        names = {identity(row["name"]): row["track_id"] for row in rows}
        split = (
            _published_split(files, names)
            or assign_splits(used.assign(source=self.name, analysed=False), seed=_SEED, fractions=SHARES).to_dict()
        )
        return table.assign(
            split=[split.get(track_id, "train") * (reason == "") for track_id, reason in table["excluded"].items()]
        )


def _composition(song: str) -> str:
    """What the versions of a song share: letters and digits of artist and title, without accents and brackets."""
    text = unicodedata.normalize("NFKD", identity(song))
    text = "".join(c for c in text if not unicodedata.combining(c))
    return " ".join(re.findall(r"[^\W_]+", re.sub(r"\([^)]*\)", " ", text)))


def _published_split(files: Listing, names: dict[str, str]) -> dict[str, str]:
    """Split of the tracks that the two .fold files name; empty without these files.

    Parameters
    ----------
    names : track id by the identity of each .key file's name without its ending.
    """
    split = {}
    for part, fold in (("valid", "eusipco2017_val.fold"), ("test", "eusipco2017_test.fold")):
        found = [path for path in files.below(fold) if path.name.casefold() == fold]
        if not found:
            return {}
        for line, name in read_lines(found[0]):
            song = identity(name).removesuffix(".key")
            if song not in names:
                raise KeyMynaError(
                    f"{found[0]}, line {line} names {name!r}, but there is no such .key file. Unpack bb.zip again, "
                    "or remove the .fold files for a split of our own."
                )
            track_id = names[song]
            if split.setdefault(track_id, part) != part:
                raise KeyMynaError(f"{found[0]}, line {line}: {name!r} is in the other .fold file as well.")
    return split
