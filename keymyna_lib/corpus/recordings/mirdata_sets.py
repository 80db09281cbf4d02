"""Data sets whose layout, checksums and annotations mirdata knows: FMA-keys, GuitarSet, GiantSteps Key as revised.

mirdata reads the annotations and says what can be downloaded from where; `fetch` downloads it. Each data
set lies in mirdata's own layout, and its index, which mirdata keeps inside its package, lies there with it.
"""

from __future__ import annotations

import csv
import importlib
import logging
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from keymyna_lib.base import files, seeds
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.listing import Listing
from keymyna_lib.corpus.recordings.dataset import Dataset, labelled, table_of
from keymyna_lib.corpus.recordings.fetch import Source


class _Mirdata(Dataset):
    """A data set that mirdata has a loader for.

    Attributes
    ----------
    loader, version : in mirdata. The version is pinned: another one is another data set.
    audio : which of a track's files is the audio, by its name in mirdata's index.
    wanted : what is downloaded besides the index: mirdata's name -> size in bytes, 0 when unknown.
    """

    loader: ClassVar[str]
    version: ClassVar[str]
    audio: ClassVar[str] = "audio"
    wanted: ClassVar[Mapping[str, int]]

    def sources(self) -> Sequence[Source]:
        """mirdata's downloads, annotations first, each where mirdata would put it."""
        module = _module(self.loader)
        index = module.INDEXES[self.version]
        found = [Source((index.remote.url,), index.filename, md5=index.remote.checksum)]
        for name, size in self.wanted.items():
            remote = module.REMOTES[name]
            folder = Path(remote.destination_dir or ".")
            extract = folder.as_posix() if remote.filename.endswith(".zip") else ""
            found.append(
                Source(
                    (remote.url,),
                    (folder / remote.filename).as_posix(),
                    md5=remote.checksum,
                    size=size,
                    extract=extract,
                )
            )
        return tuple(found)

    def index(self, root: Path | str) -> pd.DataFrame:
        """The tracks of mirdata's index; see `Dataset.index`."""
        folder = self.folder(root)
        module = _module(self.loader)
        path = folder / module.INDEXES[self.version].filename
        if not path.is_file():
            raise KeyMynaError(f"{path} does not exist. {self.how}")
        loader = module.Dataset(data_home=str(folder), version=self.version)
        listing, facts, rows, track_id = Listing(folder), self._facts(folder), [], "-"
        try:
            loader._index = files.read_json(path)  # mirdata's own reader stumbles over a byte order mark
            for track_id, paths in loader._index["tracks"].items():
                audio, md5 = paths[self.audio]
                rows.append(
                    {
                        "track_id": track_id,
                        "path": audio and listing.find(audio),
                        "md5": md5,
                        **self._row(loader.track(track_id)),
                        **(facts[track_id] if facts else {}),
                    }
                )
        except KeyMynaError:
            raise
        except Exception as error:  # mirdata's parsers let any error of a damaged file through
            raise KeyMynaError(
                f"{folder}: the annotations of track {track_id} are missing or damaged "
                f"({type(error).__name__}: {error}). {self.how}"
            ) from error
        return table_of(rows)

    @abstractmethod
    def _row(self, track: Any) -> dict[str, Any]:
        """What mirdata knows about a track, by column of the index."""

    def _facts(self, folder: Path) -> dict[str, dict[str, str]]:
        """What else is known about the tracks, by track and column."""
        return {}


class FMAKeys(_Mirdata):
    """FMA-keys, or FMAK (Wong and Hernandez 2023): key and mode of 5,489 songs of the Free Music Archive, full length.

    It has no split of its own, but the FMA has one for all of its tracks (80/10/10, no artist in two parts), which is
    used here: pre-training on the FMA's training set keeps this test set clean. FMA-keys names no artists either; both
    come from the FMA's table fma_metadata/tracks.csv. The tracks of one artist stay together.

    The labels are those of the first version. FMAKv2 (Kong et al. 2024) changes about 200 of them.
    """

    name = "fma_keys"
    title = "FMA-keys"
    citation = (
        "S. Wong, G. Hernandez: FMAK: a dataset of key and mode annotations for the Free Music Archive. ISMIR "
        "2023, late-breaking demo. M. Defferrard, K. Benzi, P. Vandergheynst, X. Bresson: FMA: a dataset for "
        "music analysis. ISMIR 2017."
    )
    licence = "annotations: CC BY 4.0; audio: the Creative Commons licence that its artist chose, track by track"
    size = "39 GB in ten archives (5,489 mp3); the first one, of 4.2 GB, is enough to start"
    url = "https://zenodo.org/records/10719860"
    how = (
        "Download it, or bring fma_keys_index_1.0.json, fma_keys_metadata.csv, fma_metadata/tracks.csv and the "
        "audio (000/000010.mp3) to <data root>/fma_keys."
    )
    loader = "fma_keys"
    version = "1.0"
    wanted: ClassVar = {
        "metadata": 0,
        "tracks-000-019": 4_150_442_299,
        "tracks-020-039": 0,
        "tracks-040-049": 0,
        "tracks-050-059": 0,
        "tracks-060-069": 0,
        "tracks-070-079": 0,
        "tracks-080-089": 0,
        "tracks-090-099": 0,
        "tracks-100-109": 0,
        "tracks-110-124": 0,
    }
    _SPLITS: ClassVar = {"training": "train", "validation": "valid", "test": "test"}

    def sources(self) -> Sequence[Source]:
        """mirdata's downloads and the FMA's metadata; each archive of audio can be used without the others."""
        index, metadata, *audio = super().sources()
        # mdeff/fma publishes a SHA-1 only (f0df49ffe5f2a6008d7dc83c6915b31835dfe733); others computed this one.
        fma = Source(
            ("https://os.unil.cloud.switch.ch/fma/fma_metadata.zip",),
            "fma_metadata.zip",
            size=358_412_441,
            sha256="d9527a5297a65da31c5676484d5047c3e2b8a8060ce72a46e26158be736bf265",
            extract=".",
        )
        return (index, metadata, fma, *audio)

    def _row(self, track: Any) -> dict[str, Any]:
        return labelled(f"{track.key} {track.mode}" if track.key else "")

    def _facts(self, folder: Path) -> dict[str, dict[str, str]]:
        path = folder / Listing(folder).find("fma_metadata/tracks.csv")
        for needed in (folder / "fma_keys_metadata.csv", path):
            if not needed.is_file():
                raise KeyMynaError(f"{needed} does not exist. {self.how}")
        wanted = {
            ("", ""): "track_id",
            ("artist", "id"): "composition",
            ("artist", "name"): "artist",
            ("track", "title"): "title",
            ("track", "genre_top"): "genre",
            ("set", "split"): "split",
        }
        try:
            with open(path, encoding="utf-8-sig", newline="") as file:
                lines = csv.reader(file)
                heads = list(zip(next(lines), next(lines)))  # the third line names the index
            places = {heads.index(head): column for head, column in wanted.items()}
            table = pd.read_csv(path, skiprows=3, header=None, usecols=list(places), dtype=str, keep_default_na=False)
            table = table.rename(columns=places).set_index("track_id")
            table["split"] = [self._SPLITS[split] for split in table["split"]]
            table["composition"] = "artist " + table["composition"]
            return table.to_dict("index")
        except (OSError, ValueError, KeyError, StopIteration, csv.Error) as error:
            raise KeyMynaError(
                f"{path} is not the FMA's table of tracks ({type(error).__name__}: {error}). {self.how}"
            ) from error


class GuitarSet(_Mirdata):
    """GuitarSet (Xi et al. 2018): 360 excerpts of 30 s on an acoustic guitar, here as the microphone recorded them.

    Six players play 30 lead sheets, each as accompaniment and as solo. A lead sheet is one of three chord progressions
    in one of five styles and at one of two tempi, each in a key of its own. All twelve takes of a lead sheet have the
    same chords and key, so that with a split by player, as is usual for transcription, the test keys could be learned
    by heart. A style's progression ("Jazz2") therefore stays together, at both tempi. The 15 are split 10, 3, 2 in an
    order drawn from their names. The three progressions recur in all styles, and the players in all splits, which is
    unavoidable.
    """

    name = "guitarset"
    title = "GuitarSet"
    citation = (
        "Q. Xi, R. M. Bittner, J. Pauwels, X. Ye, J. P. Bello: GuitarSet: a dataset for guitar transcription. "
        "ISMIR 2018."
    )
    licence = "CC BY 4.0"
    size = "0.7 GB (360 wav from the microphone)"
    url = "https://zenodo.org/records/3371780"
    how = (
        "Download it, or bring guitarset_index_1.1.0.json, annotation/ (jams) and audio_mono-mic/ (wav) to "
        "<data root>/guitarset."
    )
    loader = "guitarset"
    version = "1.1.0"
    audio = "audio_mic"
    wanted: ClassVar = {"annotations": 0, "audio_mic": 0}
    _TUNES: ClassVar = tuple(f"{style}{number}" for style in ("BN", "Funk", "Jazz", "Rock", "SS") for number in "123")

    def _row(self, track: Any) -> dict[str, Any]:
        tune = track.track_id.split("_")[1].split("-")[0]
        place = sorted(self._TUNES, key=seeds.stable_words).index(tune)
        split = "train" if place < 10 else "valid" if place < 13 else "test"
        return labelled(" | ".join(dict.fromkeys(track.key_mode.keys))) | {
            "artist": f"player {track.player_id}",
            "title": track.track_id,
            "genre": track.style,
            "composition": tune,
            "split": split,
        }


class MirdataGiantSteps(_Mirdata):
    """mirdata's giantsteps_key: GiantSteps+ (Faraldo 2017), 600 tracks with revised labels, all of them split "test".

    599 of them are among the 604 of the literature's GiantSteps Key, but many labels differ and some are several keys:
    a score on one says nothing about the other. It is a data set of its own, and nothing is trained on it.

    A label may name a scale after the mode ("F minor aeolian"); the scale is ignored.
    """

    name = "giantsteps_key_mirdata"
    title = "GiantSteps+ (mirdata's 600)"
    citation = (
        "Á. Faraldo: Tonality estimation in electronic dance music: a computational and musically informed "
        "examination. PhD thesis, Universitat Pompeu Fabra, Barcelona, 2017."
    )
    licence = "annotations: CC BY-SA 4.0; audio: previews of Beatport, rights with their owners"
    size = "about 0.9 GB (600 mp3)"
    url = "https://zenodo.org/records/1095691"
    how = (
        "Download it, or bring giantsteps_key_index_+.json, keys_gs+/ (txt), meta/ (json) and audio/ (mp3) to "
        "<data root>/giantsteps_key_mirdata."
    )
    loader = "giantsteps_key"
    version = "+"
    wanted: ClassVar = {"keys": 0, "metadata": 0, "audio": 0}
    _SCALES: ClassVar = "aeolian|dorian|harmonic|ionian|lydian|melodic|mixolydian|phrygian"

    def _row(self, track: Any) -> dict[str, Any]:
        label = track.key.strip()
        key = re.sub(rf"^(\S+ (?:major|minor)) (?:{self._SCALES})$", r"\1", label)
        return labelled(key) | {
            "label": label,
            "artist": ", ".join(track.artists),
            "title": track.title,
            "genre": ", ".join(track.genres["sub_genres"] or track.genres["genres"]),
            "split": "test",
        }


def _module(name: str) -> Any:
    """A module of mirdata; imported when it is needed, because that takes a second."""
    # mirdata sets up the root logger, unless somebody has.
    root, somebody = logging.getLogger(), logging.NullHandler()
    root.addHandler(somebody)
    try:
        return importlib.import_module(f"mirdata.datasets.{name}")
    finally:
        root.removeHandler(somebody)
