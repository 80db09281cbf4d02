"""Scores with keys stated by their editors, and the audit of those keys.

Two sources, both from music21's bundled corpus: Bach's chorales (MusicXML, key and mode encoded) and fiddle tunes in
ABC (O'Neill's 1850, Ryan's Mammoth Collection, Aird's Airs; the `K:` field). A key inferred from a key signature is
often wrong (Dorian notation, modal tunes, half closes), and wrong labels limit every system. So a piece is kept only
when the editor's key and its close agree: its last bass note is the tonic (our choice; the mode of the last chord is
free, so a Picardy third is fine). Excluded pieces are counted by reason and interval.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import itertools
import os
import re
import xml.etree.ElementTree as ET
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base import files, hashing, paths, progress
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered import notation

MIN_BEATS = 16  # 8 s at 120 beats per minute
_ABC_FOLDERS = {"oneills": "oneills1850", "ryans": "ryansMammoth", "airds": "airdsAirs"}
_COLUMNS = ["piece_id", "source", "collection", "title", "key", "beats_per_bar", "analysed"]
_EXCLUSION_COLUMNS = ["piece_id", "source", "collection", "title", "reason", "interval", "key_written"]
_CACHED = ("notes.npz", "table.csv", "exclusions.csv")
_BATCH = 64  # scores that a thread reads at a time, the tunes with one call of abc2midi


@dataclass(frozen=True, eq=False)
class Score:
    """One audited piece, untransposed; fields as in `ScoreSet.table`.

    notes : (note, 4) float32, see `keymyna_lib.corpus.rendered.notation`. A chorale's parts are its voices from the
        soprano down; a tune has one part, which may hold double stops.
    """

    piece_id: str
    source: str
    collection: str
    title: str
    key: int
    beats_per_bar: int
    analysed: bool
    notes: np.ndarray


@dataclass(frozen=True, eq=False)
class ScoreSet:
    """All pieces that passed the audit, and a list of the others.

    table : one row per kept piece, indexed by piece_id (safe as a file name): source ("chorale" or "tune"),
        collection ("bach", "oneills", "ryans" or "airds"), title, key (index of `keys`, the editor's),
        beats_per_bar, analysed (music21 holds a Roman-numeral analysis of this chorale).
    exclusions : piece_id, source, collection, title, reason, interval (last bass note above the tonic,
        semitones 0..11; missing where the reason is another), key_written (encoded key, or the `K:` field).
    """

    table: pd.DataFrame
    exclusions: pd.DataFrame
    _notes: np.ndarray  # of all kept pieces, in the table's order
    _offsets: np.ndarray  # (piece + 1,)

    def notes(self, piece_id: str) -> np.ndarray:
        """Notes of a kept piece, (note, 4): a view."""
        try:
            i = self.table.index.get_loc(piece_id)
        except KeyError:
            raise KeyMynaError(f"no piece {piece_id!r} among the {len(self.table)} audited ones.") from None
        return self._notes[self._offsets[i] : self._offsets[i + 1]]

    def score(self, piece_id: str) -> Score:
        """A kept piece with its notes."""
        notes = self.notes(piece_id)
        row = self.table.loc[piece_id]
        return Score(
            piece_id,
            row.source,
            row.collection,
            row.title,
            int(row.key),
            int(row.beats_per_bar),
            bool(row.analysed),
            notes,
        )


def pitch_class_histogram(notes: np.ndarray) -> np.ndarray:
    """Duration-weighted pitch-class histogram of (note, 4) notes: (12,) float64 that sums to 1, C first.

    >>> pitch_class_histogram(np.array([[0, 3, 60, 0], [3, 1, 67, 0]]))
    array([0.75, 0.  , 0.  , 0.  , 0.  , 0.  , 0.  , 0.25, 0.  , 0.  , 0.  ,
           0.  ])
    """
    histogram = np.bincount(keys.pitch_class(notes[:, 2].astype(int)), weights=notes[:, 1], minlength=12)
    return histogram / histogram.sum()


def last_bass_pitch(notes: np.ndarray) -> int:
    """MIDI pitch of the lowest note of the last chord (the notes that end last)."""
    ends = notes[:, 0] + notes[:, 1]
    return int(notes[ends > ends.max() - 0.01, 2].min())


def audit(notes: np.ndarray, key: int) -> tuple[str, int | None]:
    """Why a piece is excluded, and the interval of its last bass note above the tonic (semitones 0..11) if that is why.

    Returns ("", None) for a piece to keep.
    """
    interval = keys.pitch_class(last_bass_pitch(notes) - keys.tonic(key))
    if interval:
        return "ends on another note than the tonic", interval
    if (notes[:, 0] + notes[:, 1]).max() - notes[:, 0].min() < MIN_BEATS:
        return f"shorter than {MIN_BEATS} beats", None
    return "", None


def cache_folder() -> Path:
    """Where the parsed scores lie: a folder named by this code and the versions of the corpus and its parser."""
    versions = {name: importlib.metadata.version(name) for name in ("music21", "symusic")}
    return paths.CACHE / "scores" / hashing.sha256_json([hashing.code_hash_of(__name__), versions])[:16]


def load_scores() -> ScoreSet:
    """All audited scores: parsed on all cores the first time, later read from `cache_folder`.

    A damaged cache is rebuilt.
    """
    folder = cache_folder()
    if folder.exists():
        try:
            return _read_cache(folder)
        except (KeyMynaError, OSError):
            print(f"{folder} is incomplete or damaged: parsing the scores again.")
            files.discard(folder)
    scores = _parse_corpus()
    _write_cache(folder, scores)
    return scores


def _parse_corpus() -> ScoreSet:
    spec = importlib.util.find_spec("music21")
    if spec is None:
        raise KeyMynaError("music21, whose corpus holds the scores, is missing; ./run_all.sh installs it.")
    corpus = Path(spec.submodule_search_locations[0]) / "corpus"
    jobs = _chorale_jobs(corpus) + _tune_jobs(corpus)
    batches = [jobs[i : i + _BATCH] for i in range(0, len(jobs), _BATCH)]
    # Threads: most of the work is done by abc2midi, a process of its own.
    with (
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
        progress.bar(desc="parsing scores", total=len(jobs), unit="score") as bar,
    ):
        for batch in pool.map(_parse, batches):
            bar.update(len(batch))
    kept = [job for job in jobs if not job["reason"]]
    table = pd.DataFrame(kept, columns=_COLUMNS).astype({"key": int}).set_index("piece_id")
    exclusions = pd.DataFrame([job for job in jobs if job["reason"]], columns=_EXCLUSION_COLUMNS)
    notes = [job["notes"] for job in kept]
    return ScoreSet(
        table, exclusions.astype({"interval": "Int64"}), np.concatenate(notes), np.cumsum([0, *map(len, notes)])
    )


def chorale_file(path: Path) -> bytes:
    """The MusicXML of a file, compressed (.mxl) or not."""
    data = path.read_bytes()
    if path.suffix != ".mxl":
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        container = ET.fromstring(archive.read("META-INF/container.xml"))
        return archive.read(next(e for e in container.iter() if e.get("full-path")).get("full-path"))


def _chorale_jobs(corpus: Path) -> list[dict]:
    """One job per MusicXML file of Bach's; the Humdrum files only repeat three of them."""
    from music21.corpus.chorales import ChoraleListRKBWV  # slow to import, and needed only here

    chorales = ChoraleListRKBWV().byRiemenschneider
    titles = {chorale["bwv"]: chorale["title"] for chorale in chorales.values()}
    analysed = {chorales[int(p.stem[-3:])]["bwv"] for p in (corpus / "bach/choraleAnalyses").glob("*.rntxt")}
    jobs = []
    for path in sorted((corpus / "bach").glob("*.[mx][xm]l")):  # .mxl and .xml
        data = chorale_file(path)
        number = path.stem.removeprefix("bwv")
        title = titles.get(number) or titles.get(number.split("-")[0]) or f"BWV {number}"
        jobs.append(
            {
                "piece_id": path.stem,
                "source": "chorale",
                "collection": "bach",
                "data": data,
                "title": title,
                "analysed": number in analysed,
            }
        )
    return jobs


def _tune_jobs(corpus: Path) -> list[dict]:
    """One job per ABC tune, named by its number (in Ryan's, with one tune per file, by its file)."""
    jobs: dict[str, dict] = {}
    for collection, folder in _ABC_FOLDERS.items():
        for path in sorted((corpus / folder).glob("*.abc")):
            text = path.read_bytes().decode("latin-1").replace("\r", "")
            for tune in re.split(r"(?m)^(?=X:)", text)[1:]:
                number = re.match(r"X:\s*(\d*)", tune)[1].zfill(4)
                name = f"{folder}-{path.stem if collection == 'ryans' else number}"
                again = (f"{name}-{n}" for n in itertools.count(2))  # some were transcribed by two hands
                piece_id = next(i for i in itertools.chain([name], again) if i not in jobs)
                title = re.search(r"(?m)^T:\s*(.*?)\s*$", tune)
                written = re.findall(r"(?m)^K:\s*(.*?)\s*$", tune)
                jobs[piece_id] = {
                    "piece_id": piece_id,
                    "source": "tune",
                    "collection": collection,
                    "data": tune,
                    "title": title[1] if title else "",
                    "analysed": False,
                    "key_written": written[0] if written else "",
                    "changes_key": len(written) > 1 or "[K:" in tune,
                }
    return list(jobs.values())


def _parse(jobs: list[dict]) -> list[dict]:
    """Add notes, key, beats_per_bar, and the audit's reason and interval to each job."""
    for job in jobs:
        job.update(notes=None, key=None, beats_per_bar=0, interval=None, reason="")
        if job["source"] == "chorale":
            parsed = notation.read_musicxml(job["data"])
            job["notes"], job["key"], job["beats_per_bar"] = parsed or (None, None, 0)
            job["key_written"] = "" if job["key"] is None else keys.KEY_NAMES[job["key"]]
            job["reason"] = (
                "not in four voices" if parsed is None else "no key and mode encoded" if job["key"] is None else ""
            )
        else:
            job["key"] = notation.plain_key(job["key_written"])
            job["reason"] = (
                "not plain major or minor" if job["key"] is None else "changes key" if job["changes_key"] else ""
            )
    tunes = [job for job in jobs if job["source"] == "tune" and not job["reason"]]
    for job, parsed in zip(tunes, notation.read_abc([job["data"] for job in tunes])):
        job["notes"], job["beats_per_bar"] = parsed or (None, 0)
        job["reason"] = "" if parsed else "unreadable"
    for job in jobs:
        if not job["reason"]:
            job["reason"], job["interval"] = audit(job["notes"], job["key"])
    return jobs


def _write_cache(folder: Path, scores: ScoreSet) -> None:
    with files.atomic_path(folder / "notes.npz") as path, open(path, "wb") as file:
        np.savez(file, notes=scores._notes, offsets=scores._offsets)
    files.write_text(folder / "table.csv", scores.table.to_csv())
    files.write_text(folder / "exclusions.csv", scores.exclusions.to_csv(index=False))
    hashes = {name: hashing.sha256_file(folder / name) for name in _CACHED}
    files.write_json(folder / "sha256.json", hashes)


def _read_cache(folder: Path) -> ScoreSet:
    hashes = {name: hashing.sha256_file(folder / name) for name in _CACHED}
    if files.read_json(folder / "sha256.json") != hashes:
        raise KeyMynaError(f"{folder} does not match its checksums.")
    with np.load(folder / "notes.npz", allow_pickle=False) as arrays:
        notes, offsets = arrays["notes"], arrays["offsets"]
    table = pd.read_csv(folder / "table.csv", index_col="piece_id", keep_default_na=False)
    exclusions = pd.read_csv(
        folder / "exclusions.csv", keep_default_na=False, na_values={"interval": [""]}, dtype={"interval": "Int64"}
    )
    return ScoreSet(table, exclusions, notes, offsets)
