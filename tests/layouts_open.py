"""Writers of the open data sets in mirdata's layouts, and of folders of the user, with tiny recordings: right labels
and wrong ones, a corrupt file, a missing one and, where checksums are published, one with the wrong checksum.

Each returns what is expected, by track id: "keys" (-1 where excluded, or where there are none), "excluded" (reasons, or
empty), "states" of `dataset.examine` and "splits". Nothing here comes from the library.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pandas as pd
import tones

_FLATS = "C Db D Eb E F Gb G Ab A Bb B".split()
_FMA_TONICS = "C C# D D# E F F# G G# A Bb B".split()  # mirdata reads these spellings and no others


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _mode(key: int) -> str:
    return "minor" if key >= 12 else "major"


class _Expected:
    """What is expected of the tracks written so far, their audio, and mirdata's index of them."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self.columns: dict[str, dict] = {"keys": {}, "excluded": {}, "states": {}, "splits": {}}
        self.files: dict[str, dict] = {}

    def add(
        self,
        track_id: str,
        path: str,
        key: int,
        split: str,
        *,
        reason: str = "",
        state: str = "found",
        others: dict[str, str] | None = None,
    ) -> None:
        """Write a track's audio, spoilt according to its state; `others` are the further files of mirdata's index."""
        audio = self.folder / path
        if state == "corrupt":
            _write(audio, f"{track_id} is not a recording")
        elif state != "missing":
            tones.write(audio, max(key, 0), self.seconds, seed=len(self.files))
        md5s = {}
        for name, file in {"audio": path, **(others or {})}.items():
            content = (self.folder / file).read_bytes() if (self.folder / file).is_file() else b"elsewhere"
            md5s[name] = [file, hashlib.md5(content + b"!" * (state == "checksum")).hexdigest()]
        self.files[track_id] = md5s
        found = "excluded" if reason else "corrupt" if state == "checksum" else state
        for column, value in (("keys", key), ("excluded", reason), ("states", found), ("splits", split)):
            self.columns[column][track_id] = value

    def index(self, name: str, version: str) -> None:
        _write(self.folder / name, json.dumps({"version": version, "tracks": self.files}))


def write_fma_keys(root: Path, tracks: int = 10, seconds: float = 8.0) -> dict[str, dict]:
    """Index, labels, the FMA's table of tracks and mp3: `tracks` whole ones, one without a label, three spoilt ones.

    Of ten whole tracks one is for validation and one for test, each by artists of its own.
    """
    expected = _Expected(Path(root) / "fma_keys", seconds)
    rows = [(str(7 + 1003 * i), 5 * i % 24, ("train",) * 8 + ("valid", "test"), "", "found") for i in range(tracks)]
    rows += [
        ("150001", -1, ("train",), "no key", "found"),
        ("150002", 3, ("train",), "", "corrupt"),
        ("150003", 15, ("train",), "", "missing"),
        ("150004", 22, ("train",), "", "checksum"),
    ]
    labels, facts = [], []
    for i, (track_id, key, splits, reason, state) in enumerate(rows):
        split, number = splits[i % len(splits)], track_id.zfill(6)
        expected.add(track_id, f"{number[:3]}/{number}.mp3", key, split, reason=reason, state=state)
        if not reason:
            name = f"{_FMA_TONICS[key % 12]} {'minor' if key >= 12 else 'Major'}"
            labels.append({"track_id": track_id, "spotify_uri": f"spotify:track:{i:022d}", "key_and_mode": name})
        artist = i // 2 + 1000 * (split == "test")  # the pairs of tracks are of one split, except (valid, test)
        facts.append((int(track_id), split, artist, f"Artist, the {artist}th", f'"Title" {i}\nin two lines', "Folk"))
    expected.index("fma_keys_index_1.0.json", "1.0")
    pd.DataFrame(labels).to_csv(expected.folder / "fma_keys_metadata.csv", index=False)
    # Two lines of header and one that names the index, as pandas writes them; with columns that nobody needs.
    ids, splits, artists, names, titles, genres = zip(*facts)
    official = {"train": "training", "valid": "validation", "test": "test"}
    table = pd.DataFrame(
        {
            ("album", "id"): 1,
            ("artist", "bio"): "<p>a, b</p>",
            ("artist", "id"): artists,
            ("artist", "name"): names,
            ("set", "split"): [official[split] for split in splits],
            ("set", "subset"): "large",
            ("track", "genre_top"): genres,
            ("track", "title"): titles,
        },
        index=pd.Index(ids, name="track_id"),
    ).sort_index()
    (expected.folder / "fma_metadata").mkdir()
    table.to_csv(expected.folder / "fma_metadata" / "tracks.csv")
    return expected.columns


def write_guitarset(root: Path, seconds: float = 8.0) -> dict[str, dict]:
    """Index, jams and wav of two players: six lead sheets, each as "comp" and "solo", a mode and two keys among their
    labels, and three spoilt takes."""
    expected = _Expected(Path(root) / "guitarset", seconds)
    sheets = [
        ("Jazz1-130-D", 2, "train", "D:major"),
        ("Jazz1-200-B", 11, "train", "B:major"),
        ("SS2-107-Ab", 8, "train", "Ab:major"),
        ("Rock3-117-Bb", 10, "valid", "Bb:major"),
        ("BN2-131-B", 23, "test", "B:minor"),
        ("BN2-166-Ab", 20, "test", "Ab:minor"),
    ]
    rows = [
        (f"{player}_{sheet}_{mode}", key, split, [label], "", "found")
        for player in ("00", "05")
        for sheet, key, split, label in sheets
        for mode in ("comp", "solo")
    ]
    rows += [
        ("01_Jazz1-130-D_comp", -1, "train", ["D:dorian"], "modal", "found"),
        ("01_Jazz1-130-D_solo", -1, "train", ["D:major", "G:major"], "several keys", "found"),
        ("01_SS2-107-Ab_comp", 8, "train", ["Ab:major"], "", "corrupt"),
        ("01_SS2-107-Ab_solo", 8, "train", ["Ab:major"], "", "missing"),
        ("02_SS2-107-Ab_solo", 8, "train", ["Ab:major"], "", "checksum"),
    ]
    for track_id, key, split, labels, reason, state in rows:
        events = [{"time": 4.0 * i, "duration": 4.0, "value": label, "confidence": 1} for i, label in enumerate(labels)]
        jams = {"annotations": [{"namespace": "tempo", "data": []}, {"namespace": "key_mode", "data": events}]}
        _write(expected.folder / "annotation" / f"{track_id}.jams", json.dumps(jams))
        expected.add(
            track_id,
            f"audio_mono-mic/{track_id}_mic.wav",
            key,
            split,
            reason=reason,
            state=state,
            others={"jams": f"annotation/{track_id}.jams"},
        )
        files = expected.files[track_id]
        files["audio_mic"] = files.pop("audio")
        for name, kind, suffix in (
            ("audio_mix", "mono-pickup_mix", "mix"),
            ("audio_hex", "hex-pickup_original", "hex"),
            ("audio_hex_cln", "hex-pickup_debleeded", "hex_cln"),
        ):
            files[name] = [f"audio_{kind}/{track_id}_{suffix}.wav", "0" * 32]
    expected.index("guitarset_index_1.1.0.json", "1.1.0")
    return expected.columns


def write_giantsteps_key_mirdata(root: Path, tracks: int = 4, seconds: float = 8.0) -> dict[str, dict]:
    """Index, keys, Beatport's metadata and mp3: `tracks` whole ones, odd labels, and three spoilt ones."""
    expected = _Expected(Path(root) / "giantsteps_key_mirdata", seconds)
    rows = [(f"{_FLATS[7 * i % 12]} {_mode(7 * i % 24)}", 7 * i % 24, "", "found") for i in range(tracks)]
    rows += [
        ("F minor aeolian", 17, "", "found"),
        ("Eb major ", 3, "", "found"),
        ("Gb minor harmonic", 18, "", "found"),
        ("C major | A minor", -1, "several keys", "found"),
        ("Bb other", -1, "not a key", "found"),
        ("E minor aeolian | G major", -1, "several keys", "found"),
        ("X", -1, "no key", "found"),
        ("G minor", 19, "", "corrupt"),
        ("A major", 9, "", "missing"),
        ("D minor", 14, "", "checksum"),
    ]
    for i, (label, key, reason, state) in enumerate(rows):
        stem = f"{1000 + i} Artist {i} - Träck Nr. {i} (Original Mix)"
        _write(expected.folder / "keys_gs+" / f"{stem}.txt", label)
        meta = {
            "bpm": 125,
            "genres": [{"name": "Electronica"}],
            "sub_genres": [{"name": "Acid"}] * (i % 2),
            "artists": [{"name": f"Artist {i}"}, {"name": "Guest"}],
        }
        _write(expected.folder / "meta" / f"{stem}.json", json.dumps(meta))
        expected.add(
            str(i + 1),
            f"audio/{stem}.mp3",
            key,
            "test",
            reason=reason,
            state=state,
            others={"meta": f"meta/{stem}.json", "key": f"keys_gs+/{stem}.txt"},
        )
    expected.index("giantsteps_key_index_+.json", "+")
    return expected.columns


def write_folder(root: Path, name: str = "mine", tracks: int = 20, seconds: float = 8.0) -> dict[str, dict]:
    """keys.csv with all its columns and audio in subfolders, as wav, flac, ogg and mp3 in turn: `tracks` whole ones,
    wrong labels, a corrupt file and a missing one. There are no checksums.

    Of ten whole tracks six are for training, two for validation, two for test; any two in a row are one composition.
    """
    expected = _Expected(Path(root) / "folders" / name, seconds)
    rows = []
    for i in range(tracks):
        key, suffix = 7 * i % 24, ("wav", "flac", "ogg", "mp3")[i % 4]
        label = (f"{_FLATS[key % 12]} {_mode(key)}", f"{_FLATS[key % 12]}{'m' if key >= 12 else ''}")[i % 2]
        split = ("train", "train", "train", "valid", "test")[i // 2 % 5]
        rows.append((f"disc {i % 3}/{i:03d}.{suffix}", label, key, split, "", "found"))
    rows += [
        ("odd/a.wav", "D dorian", -1, "train", "modal", "found"),
        ("odd/b.wav", "", -1, "train", "no key", "found"),
        ("odd/c.wav", "C major / A minor", -1, "train", "several keys", "found"),
        ("odd/d.mp3", "Hmm", -1, "train", "not a key", "found"),
        ("odd/e.wav", "G", 7, "train", "", "corrupt"),
        ("odd/f.wav", "8A", 21, "train", "", "missing"),
    ]
    expected.folder.mkdir(parents=True)
    with open(expected.folder / "keys.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "key", "artist", "title", "genre", "composition", "split"])
        for i, (path, label, key, split, reason, state) in enumerate(rows):
            table.writerow([path, label, f"Artist {i // 4}", f"Title, {i}", "Folk", f"Tune {i // 2}", split])
            expected.add(path, path, key, split, reason=reason, state=state)
    return expected.columns


def write_unlabelled(root: Path, name: str = "more", tracks: int = 8, seconds: float = 8.0) -> dict[str, dict]:
    """Audio at three depths, as wav, flac, ogg and mp3 in turn: `tracks` whole ones, a corrupt one, and files that are
    none of the data set's."""
    expected = _Expected(Path(root) / "unlabelled" / name, seconds)
    for i in range(tracks):
        path = f"{('', 'one/', 'one/two/')[i % 3]}{i:03d}.{('wav', 'flac', 'ogg', 'mp3')[i % 4]}"
        expected.add(path, path, 5 * i % 24, "")
        expected.columns["keys"][path] = -1
    expected.add("one/broken.mp3", "one/broken.mp3", -1, "", state="corrupt")
    for other in ("notes.txt", "one/cover.jpg"):
        expected.add(other, other, -1, "", reason="not a sound file", state="corrupt")
    for other in ("one/._000.wav", ".trash/lost.wav"):
        _write(expected.folder / other, "not a recording")
    return expected.columns
