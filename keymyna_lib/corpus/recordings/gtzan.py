"""GTZAN's thousand excerpts with Lerch's key annotations: a test set that no head is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.listing import Listing
from keymyna_lib.base.small_tables import read_value
from keymyna_lib.corpus.recordings.dataset import Dataset, audio_path, table_of
from keymyna_lib.corpus.recordings.fetch import Source

_REPOSITORY, _COMMIT = "gtzan_key", "9ef1591f81ee2f7821c7ce41e774ea7ac7f94cbe"
_SUFFIXES = (".wav", ".au")  # of circulating copies; the original is .au


class GTZAN(Dataset):
    """1,000 excerpts of 30 s in ten genres (Tzanetakis and Cook 2002), 837 of them with a key, all split "test".

        gtzan_key/genres/<genre>/<genre>.<number>.lerch.txt     in the data set's folder, or in repository/ below it
        genres/<genre>/<genre>.<number>.wav, or .au

    A label is a number: 0-11 the major keys from A upwards, 12-23 the minor keys from A upwards, -1 where the key
    changes or is unknown (all of classical); these are excluded ("no key"), and with them jazz.00054, whose wav
    is damaged in circulating copies. Some recordings occur more than once (Sturm 2013), so the set is only used for
    tests.
    """

    name = "gtzan"
    title = "GTZAN"
    citation = (
        "G. Tzanetakis, P. Cook: Musical genre classification of audio signals. IEEE Transactions on Speech "
        "and Audio Processing 10(5), 2002, pp. 293-302. Keys: S. Kraft, A. Lerch, U. Zölzer: The tonalness "
        "spectrum: feature-based estimation of tonal components. DAFx 2013."
    )
    licence = "keys: MIT; audio: none stated, excerpts of commercial recordings"
    size = "1.2 GB (1,000 excerpts of 30 s)"
    url = "https://github.com/alexanderlerch/gtzan_key"
    how = (
        "The keys can be downloaded, or cloned from https://github.com/alexanderlerch/gtzan_key to "
        "<data root>/gtzan. Bring the audio of GTZAN (genres.tar.gz) as "
        "<data root>/gtzan/genres/<genre>/<genre>.<number>.wav or .au."
    )

    def sources(self) -> Sequence[Source]:
        """The keys; the audio may not be redistributed."""
        return (Source((f"{self.url}/archive/{_COMMIT}.zip",), f"{_REPOSITORY}.zip", extract="repository"),)

    def index(self, root: Path | str) -> pd.DataFrame:
        """The tracks of the annotations; see `Dataset.index`.

        Raises
        ------
        KeyMynaError
            When the annotations are missing or cannot be read.
        """
        folder = self.folder(root)
        files = Listing(folder)
        places = ("", f"repository/{_REPOSITORY}-{_COMMIT}/")
        found = next(filter(None, (files.below(".lerch.txt", f"{place}gtzan_key/genres") for place in places)), [])
        if not found:
            raise KeyMynaError(f"{folder / 'gtzan_key' / 'genres'} has no annotations (*.lerch.txt). {self.how}")
        rows = []
        for path in found:
            track_id, genre = path.name[: -len(".lerch.txt")].casefold(), path.parent.name.casefold()
            label = read_value(path)
            key, reason = _key(label)
            audio = audio_path(files, f"genres/{genre}/{track_id}", _SUFFIXES)
            rows.append(
                {
                    "track_id": track_id,
                    "path": audio,
                    "label": label,
                    "key": key,
                    "excluded": reason,
                    "genre": genre,
                    "split": "" if reason else "test",
                }
            )
        return table_of(rows)


def _key(label: str) -> tuple[int, str]:
    """Key and reason of exclusion of a label."""
    if label == "-1":
        return -1, "no key"
    if label not in map(str, range(keys.N_KEYS)):
        return -1, "not a key"
    number = int(label)
    return keys.key_index(9 + number, keys.mode(number)), ""  # A has pitch class 9
