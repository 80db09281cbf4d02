"""Writers of published data sets in the layout of their publishers, with tiny recordings: right labels and wrong ones,
a corrupt file, a missing one and, where checksums are published, one with the wrong checksum.

Each returns what is expected, by track id: "keys" (-1 where excluded), "excluded" (reasons, or empty) and "states" of
`dataset.examine`. Nothing here comes from the library.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd
import tones

_FLATS = "C Db D Eb E F Gb G Ab A Bb B".split()
_SHARPS = "C C# D D# E F F# G G# A A# B".split()


def _name(key: int, tonics: list[str]) -> str:
    return f"{tonics[key % 12]} {'minor' if key >= 12 else 'major'}"


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


class _Expected:
    """What is expected of the tracks written so far, and their audio."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.keys: dict[str, int] = {}
        self.excluded: dict[str, str] = {}
        self.states: dict[str, str] = {}

    def add(
        self,
        track_id: str,
        path: str,
        key: int,
        *,
        reason: str = "",
        state: str = "found",
        seed: int = 0,
        md5: bool = True,
    ) -> None:
        """Write a track's audio, spoilt according to its state, and its checksum as Beatport's data sets do."""
        file = self.folder / path
        if state == "corrupt":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(f"{track_id} is not a recording".encode())
        elif state != "missing":
            tones.write(file, max(key, 0), self.seconds, seed=seed)
        if md5:
            content = file.read_bytes() if file.is_file() else track_id.encode()
            content += b"of another file" * (state == "checksum")
            _text(self.folder / "md5" / f"{track_id}.md5", hashlib.md5(content).hexdigest() + "\n")
        self.keys[track_id] = -1 if reason and reason not in ("low confidence", "in GiantSteps Key") else key
        self.excluded[track_id] = reason
        self.states[track_id] = "excluded" if reason else "corrupt" if state == "checksum" else state

    def as_dict(self) -> dict[str, dict]:
        return {"keys": self.keys, "excluded": self.excluded, "states": self.states}


def write_giantsteps_key(root: Path, tracks: int = 6, seconds: float = 8.0) -> dict[str, dict]:
    """The annotation repository with mp3 audio: `tracks` whole ones, one of a wrong label, and three spoilt ones."""
    expected = _Expected(Path(root) / "giantsteps_key", seconds)
    rows = [(f"{10000 + i}.LOFI", 5 * i % 24, "", "found") for i in range(tracks)]
    rows += [
        ("20000.LOFI", -1, "not a key", "found"),
        ("20001.LOFI", 3, "", "corrupt"),
        ("20002.LOFI", 15, "", "missing"),
        ("20003.LOFI", 22, "", "checksum"),
    ]
    for i, (track_id, key, reason, state) in enumerate(rows):
        label = "drums" if reason else _name(key, _FLATS)
        _text(expected.folder / "annotations" / "key" / f"{track_id}.key", label)
        _text(expected.folder / "annotations" / "genre" / f"{track_id}.genre", ("techno", "trance\n")[i % 2])
        expected.add(track_id, f"audio/{track_id}.mp3", key, reason=reason, state=state, seed=i)
    return expected.as_dict()


def write_giantsteps_mtg_keys(root: Path, tracks: int = 24, seconds: float = 8.0) -> dict[str, dict]:
    """The annotation repository with mp3 audio: `tracks` whole ones, odd labels, low confidences, spoilt ones, one that
    has the number and one that has the recording of a track of `write_giantsteps_key`.

    Every third whole track shares an artist with the one before it.
    """
    expected = _Expected(Path(root) / "giantsteps_mtg_keys", seconds)
    # number, label, confidence, artist, key, reason, state, seed; the default min_confidence and single_key
    rows = []
    for i in range(tracks):
        artist = f"Artist {i - 1}, Guest {i}" if i % 3 == 2 else f"Artist {i}"
        rows.append((str(30000 + i), _name(7 * i % 24, _SHARPS), 2, artist, 7 * i % 24, "", "found", 100 + i))
    rows += [
        ("40000", "-", 0, "Nobody", -1, "no key", "found", 203),
        ("40001", " ", 0, "Nobody", -1, "no key", "found", 204),
        ("40002", "F minor / G# major", 2, "Two", -1, "several keys", "found", 205),
        ("40003", "A# major / minor", 2, "Two", -1, "several keys", "found", 206),
        ("40004", "B major ", 2, "Blank", 11, "", "found", 207),
        ("40005", "D minor", 1, "Unsure", 14, "low confidence", "found", 208),
        ("40006", "C# minor", 2, "Broken", 13, "", "corrupt", 209),
        ("40007", "G major", 2, "Gone", 7, "", "missing", 210),
        ("40008", "A minor", 2, "Other", 21, "", "checksum", 211),
        ("10001", "F major", 2, "Tested", 5, "in GiantSteps Key", "found", 212),
        ("40009", "C major", 2, "Tested too", 0, "in GiantSteps Key", "found", 0),
    ]
    labels, facts = ["ID\tMANUAL KEY\tC"], ["ID\tARTIST\tSONG TITLE\tMIX\tLABEL\tBP GENRE\tBP BPM\tBP KEY"]
    for number, label, confidence, artist, key, reason, state, seed in rows:
        labels.append(f"{number}\t{label}\t{confidence}")
        facts.append(f"{number}\t{artist}\tTitle {number}\tOriginal Mix\tLabel\tTechno\t125\tC min")
        expected.add(f"{number}.LOFI", f"audio/{number}.LOFI.mp3", key, reason=reason, state=state, seed=seed)
    _text(expected.folder / "annotations" / "annotations.txt", "\n".join(labels) + "\n")
    _text(expected.folder / "annotations" / "beatport_metadata.txt", "\n".join(facts) + "\n")
    return expected.as_dict()


def write_gtzan(root: Path, tracks: int = 4, seconds: float = 8.0) -> dict[str, dict]:
    """Lerch's annotations and audio, blues as wav and pop as au: `tracks` whole ones of each, classical ones without a
    key, a wrong label, a corrupt file and a missing one. GTZAN has no checksums.
    """
    expected = _Expected(Path(root) / "gtzan", seconds)
    # Lerch's numbers by hand: A, A#, B, C, ... major, then minor.
    tonics = "A A# B C C# D D# E F F# G G#".split()
    rows = [
        (genre, i, (5 * i + shift) % 24, suffix, "", "found")
        for genre, suffix, shift in (("blues", "wav", 0), ("pop", "au", 12))
        for i in range(tracks)
    ]
    rows += [
        ("classical", 0, -1, "wav", "no key", "found"),
        ("classical", 1, -1, "wav", "no key", "found"),
        ("rock", 0, 24, "wav", "not a key", "found"),
        ("jazz", 54, 3, "wav", "", "corrupt"),
        ("metal", 7, 20, "wav", "", "missing"),
    ]
    for genre, number, label, suffix, reason, state in rows:
        track_id = f"{genre}.{number:05d}"
        key = -1 if reason else _SHARPS.index(tonics[label % 12]) + 12 * (label >= 12)
        _text(expected.folder / "gtzan_key" / "genres" / genre / f"{track_id}.lerch.txt", f"{label}\n")
        expected.add(
            track_id, f"genres/{genre}/{track_id}.{suffix}", key, reason=reason, state=state, seed=number, md5=False
        )
    return expected.as_dict()


def write_billboard(root: Path, tracks: int = 32, seconds: float = 8.0) -> dict[str, dict]:
    """Key files and audio as mp3, wav and flac in turn: `tracks` whole ones, every fourth the song before it under
    another number and with another spelling, wrong labels, a corrupt file and a missing one. There are no checksums.
    """
    expected = _Expected(Path(root) / "billboard", seconds)
    rows = []
    for i in range(tracks):
        song = f"The_Band_{i - 1}-song_number_{i - 1}_(live)" if i % 4 == 3 else f"The_Band_{i}-Song_Number_{i}"
        rows.append((f"{i:04d}", song, _name(11 * i % 24, _FLATS), 11 * i % 24, "", "found"))
    rows += [
        ("1000", "Bachman-Turner_Overdrive-Heartaches", "C mixolydian", -1, "modal", "found"),
        ("1001", "Unknown-No_Key", "?", -1, "no key", "found"),
        ("1002", "Beyoncé-Broken", "Bb minor", 22, "", "corrupt"),
        ("1003", "Nobody-Gone", "D major", 2, "", "missing"),
    ]
    for i, (track_id, song, label, key, reason, state) in enumerate(rows):
        _text(expected.folder / "bb" / "key" / f"mcgill-billboard_{track_id}-{song}.key", label + "\n")
        expected.add(
            track_id,
            f"audio/{track_id}.{('mp3', 'wav', 'flac')[i % 3]}",
            key,
            reason=reason,
            state=state,
            seed=i,
            md5=False,
        )
    return expected.as_dict()


def reference(name: str) -> pd.DataFrame:
    """Published facts about a data set, all of them text; skips the test where there is no folder beside the clone."""
    import pytest  # which the writers do without

    path = Path(__file__).resolve().parents[2] / "shared" / "data" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return pd.read_csv(path, dtype=str, keep_default_na=False)
