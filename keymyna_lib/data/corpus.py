"""The rendered corpus: selection, splits, audio and spectrograms in a cache that is addressed by content.

A corpus lives in CACHE/corpus/<key>, the key being a hash of its configuration, of the code that makes it and of the
libraries' versions; another version of either is another corpus, and nothing is ever removed.

    audio.i16          int16 samples at 16 kHz, all tracks end to end
    spectrograms.f16   float16 (frame, mel), `spectrogram.compress` of the mel power of those very samples
    hashes.csv         track_id, sha256 of its samples, sha256 of its spectrogram: appended to as tracks get done
    manifest.csv       one row a track
    corpus.json        configuration, versions, sizes, sha256 of the manifest; written last

Both large files have their final size from the start, and each track its place in them. What is there counts only as
far as it has the sha256 in hashes.csv, so a build that was killed goes on where it was, and damaged tracks, and only
those, are rendered anew.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from keymyna_lib import files, keys, paths, spectrogram
from keymyna_lib.data import arrange, compositions, render
from keymyna_lib.data.scores import Score, ScoreSet, load_scores
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.parallel import worker_count
from keymyna_lib.progress import bar

COLUMNS = ("piece_id", "source", "collection", "title", "composition", "split", "analysed", "key", "key_name",
           "key_written", "transposition", "tempo", "duration", "n_samples", "n_frames", "sha256",
           "spectrogram_sha256", "arrangement")
_AUDIO, _FRAMES, _HASHES = "audio.i16", "spectrograms.f16", "hashes.csv"
_MANIFEST, _INDEX = "manifest.csv", "corpus.json"
_FRAME_BYTES = 2 * spectrogram.N_MELS
_LIBRARIES = ("music21", "symusic", "tinysoundfont", "pretty_midi", "numpy", "scipy", "torch", "librosa")


@dataclass(frozen=True)
class CorpusConfig:
    """What is in a corpus and how it is rendered; a KeyMynaError where a value is out of range.

    n_chorales, n_tunes : pieces of each source; 0 for all that pass the audit.
    seconds : longest excerpt from a piece's beginning, s.
    scope : "section" draws instruments, drums, tuning, level, room and noise anew every 5 to 8 s, "piece" once.
    drum_probability : share of sections with drums.
    detune_cents : tuning offsets are uniform in plus or minus this, cents.
    snr_db : signal-to-noise ratios are uniform between these two, dB.
    seed : of every draw.
    """

    n_chorales: int
    n_tunes: int
    seconds: float
    scope: str
    drum_probability: float
    detune_cents: float
    snr_db: tuple[float, float]
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "snr_db", tuple(self.snr_db))
        rules = {"n_chorales": (self.n_chorales >= 0, "0 (all) or more"),
                 "n_tunes": (self.n_tunes >= 0, "0 (all) or more"),
                 "seconds": (self.seconds >= 1, "at least 1 s"),
                 "scope": (self.scope in arrange.SCOPES, f"one of {arrange.SCOPES}"),
                 "drum_probability": (0 <= self.drum_probability <= 1, "between 0 and 1"),
                 "detune_cents": (self.detune_cents >= 0, "0 or more"),
                 "snr_db": (len(self.snr_db) == 2 and self.snr_db[0] <= self.snr_db[1], "two numbers, lower first"),
                 "seed": (self.seed >= 0, "0 or more")}
        for name, (valid, rule) in rules.items():
            if not valid:
                raise KeyMynaError(f"{name}={getattr(self, name)!r}: expected {rule}.")


@dataclass(frozen=True, eq=False)
class Corpus:
    """A finished corpus.

    config : what it was built from.
    path : its folder.
    hash : sha256 of the manifest, which holds that of every track's samples and spectrogram.
    manifest : one row a track, indexed by track_id, columns `COLUMNS`. key is after transposition, key_written
        before; duration in s; arrangement is JSON (see `arrange.arrange`).
    frames : (frame, mel) float16 memory map of all spectrograms end to end.
    offsets : first_frame, n_frames, first_sample, n_samples by track_id.
    samples : (sample,) int16 memory map of all audio end to end.
    """

    config: CorpusConfig
    path: Path
    hash: str
    manifest: pd.DataFrame
    frames: np.memmap
    offsets: pd.DataFrame
    samples: np.memmap

    def tracks(self, split: str | None = None, source: str | None = None) -> list[str]:
        """Track ids in the manifest's order, of one split ("train", "valid", "test") and source, or of all."""
        keep = pd.Series(True, index=self.manifest.index)
        for column, value, known in (("split", split, compositions.SPLITS), ("source", source, tuple(arrange.TEMPO))):
            if value is not None:
                if value not in known:
                    raise KeyMynaError(f"{column} {value!r}: expected one of {known}.")
                keep &= self.manifest[column] == value
        return self.manifest.index[keep].tolist()

    def audio(self, track_id: str) -> np.ndarray:
        """(sample,) float32 in [-1, 1], 16 kHz."""
        place = self._place(track_id)
        return to_float(self.samples[place.first_sample:place.first_sample + place.n_samples])

    def spectrogram(self, track_id: str) -> np.ndarray:
        """(frame, mel) float16 log(1 + power), a view into the memory map."""
        place = self._place(track_id)
        return self.frames[place.first_frame:place.first_frame + place.n_frames]

    def _place(self, track_id: str) -> pd.Series:
        try:
            return self.offsets.loc[track_id]
        except KeyError:
            raise KeyMynaError(f"no track {track_id!r} in {self.path}.") from None


def to_float(samples: np.ndarray) -> np.ndarray:
    """int16 samples to float32 in [-1, 1]."""
    return samples.astype(np.float32) / np.float32(32768)


def track_spectrogram(samples: np.ndarray) -> np.ndarray:
    """Stored spectrogram of int16 samples: (frame, mel) float16."""
    power = spectrogram.mel_power(to_float(samples))[0]
    return np.ascontiguousarray(spectrogram.compress(power).numpy().T)


def build_corpus(config: CorpusConfig, *, progress: bool = True, cache: Path | None = None,
                 workers: int = 0) -> Corpus:
    """Build a corpus, or what of it is missing or damaged; a finished one is verified and opened in seconds.

    Parameters
    ----------
    config : what to build.
    progress : show a bar.
    cache : folder to build in; `paths.CACHE` by default.
    workers : processes; 0 is one for each core. The result does not depend on it.

    Raises
    ------
    KeyMynaError
        When the disk is too full, or a rendering process is killed.
    """
    folder = Path(cache or paths.CACHE) / "corpus" / corpus_key(config)
    scores = load_scores()
    plan = plan_corpus(config, scores)
    offsets = _offsets(plan)
    try:
        _reserve(folder, offsets)
        hashes = _read_hashes(folder / _HASHES)
        intact = _intact(folder, offsets, hashes)
        damaged = sum(t in hashes and t not in intact for t in plan.index)
        if damaged:
            print(f"{folder}: {damaged} damaged track(s) are rendered again.")
        todo = [t for t in plan.index if t not in intact]
        if todo:
            (folder / _INDEX).unlink(missing_ok=True)
            jobs = [(t, playable_score(scores, t).notes, plan.arrangement[t], offsets.loc[t].to_dict()) for t in todo]
            with open(folder / _HASHES, "a", encoding="utf-8", buffering=1) as journal:
                for track_id, *pair in bar(_render_all(folder, jobs, workers), desc="rendering", total=len(jobs),
                                           unit="track", show=progress):
                    journal.write(f"{track_id},{pair[0]},{pair[1]}\n")
                    hashes[track_id] = pair
    except OSError as error:
        raise KeyMynaError(f"cannot write to {folder}: {error.strerror}. Free some space or mend its permissions and "
                           "run again; it goes on where it stopped.") from error
    except BrokenProcessPool:
        raise KeyMynaError("a rendering process was killed, perhaps for want of memory. Run again; it goes on where "
                           "it stopped.") from None
    plan["sha256"], plan["spectrogram_sha256"] = zip(*(hashes[t] for t in plan.index))
    _finish(folder, config, plan[list(COLUMNS)])
    return open_corpus(folder)


def open_corpus(path: Path | str) -> Corpus:
    """Open a finished corpus. Sizes and the manifest's sha256 are checked; `build_corpus` verifies every track.

    Raises
    ------
    KeyMynaError
        When the corpus is unfinished, truncated or changed.
    """
    path = Path(path)
    mend = "Run notebook 00_data again; it renders anew what is damaged."
    if not (path / _INDEX).exists():
        raise KeyMynaError(f"{path} holds no finished corpus. {mend}")
    index = files.read_json(path / _INDEX)
    for name, size in index["sizes"].items():
        if not (path / name).exists() or (path / name).stat().st_size != size:
            raise KeyMynaError(f"{path / name} is missing or truncated. {mend}")
    if files.sha256_file(path / _MANIFEST) != index["hash"]:
        raise KeyMynaError(f"{path / _MANIFEST} was changed. {mend}")
    manifest = pd.read_csv(path / _MANIFEST, index_col="track_id", keep_default_na=False,
                           dtype={"track_id": str, "piece_id": str, "title": str, "composition": str})
    frames = np.memmap(path / _FRAMES, np.float16, "r").reshape(-1, spectrogram.N_MELS)
    return Corpus(CorpusConfig(**index["config"]), path, index["hash"], manifest, frames, _offsets(manifest),
                  np.memmap(path / _AUDIO, np.int16, "r"))


def corpus_key(config: CorpusConfig) -> str:
    """Folder name of a corpus: hash of configuration, code and library versions."""
    library = Path(__file__).parent.parent
    code = files.source_hash(library / "data", library / "spectrogram.py", library / "keys.py")
    return files.sha256_json([asdict(config), code, _versions()])[:16]


def playable_score(scores: ScoreSet, piece_id: str) -> Score:
    """A piece as it is arranged and rendered: without long rests."""
    score = scores.score(piece_id)
    return replace(score, notes=arrange.shorten_rests(score.notes))


def plan_corpus(config: CorpusConfig, scores: ScoreSet) -> pd.DataFrame:
    """The manifest but for what only rendering tells (the sha256 of the results)."""
    table = scores.table.assign(composition=compositions.composition_ids(scores))
    table["split"] = compositions.assign_splits(table, seed=config.seed)
    chosen = compositions.select(table, n_chorales=config.n_chorales, n_tunes=config.n_tunes, seed=config.seed)
    table = table.loc[chosen].copy()
    table["transposition"] = compositions.transpositions(table, seed=config.seed)
    table["key_written"] = table["key"]
    table["key"] = keys.transpose(table["key_written"], table["transposition"])
    table["key_name"] = [keys.KEY_NAMES[k] for k in table["key"]]
    drawn = [arrange.arrange(playable_score(scores, p), table.transposition[p], config,
                             np.random.default_rng([config.seed, *files.stable_words(p)])) for p in chosen]
    table["tempo"] = [a["tempo"] for a in drawn]
    table["duration"] = [a["duration"] for a in drawn]
    table["n_samples"] = [render.n_samples(a) for a in drawn]
    table["n_frames"] = [spectrogram.n_frames(n) for n in table["n_samples"]]
    table["arrangement"] = [json.dumps(a, separators=(",", ":")) for a in drawn]
    table["piece_id"] = table.index
    return table.rename_axis("track_id")


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _offsets(manifest: pd.DataFrame) -> pd.DataFrame:
    table = manifest[["n_frames", "n_samples"]].astype(np.int64)
    first = table.cumsum() - table
    return table.assign(first_frame=first["n_frames"], first_sample=first["n_samples"])


def _reserve(folder: Path, offsets: pd.DataFrame) -> None:
    """Give both large files their final size, after a look at the free space."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {_AUDIO: 2 * int(offsets["n_samples"].sum()), _FRAMES: _FRAME_BYTES * int(offsets["n_frames"].sum())}
    present = {name: (folder / name).stat() for name in sizes if (folder / name).exists()}
    needed = sum(sizes.values()) - sum(512 * stat.st_blocks for stat in present.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise KeyMynaError(f"the corpus needs {needed / 1e9:.2f} GB more in {folder}, where {free / 1e9:.2f} GB are "
                           "free. Free some space, or set KEYMYNA_CACHE to a folder on a larger disk.")
    for name, size in sizes.items():
        if name not in present or present[name].st_size != size:
            (folder / _INDEX).unlink(missing_ok=True)
            with open(folder / name, "ab") as file:
                file.truncate(size)


def _read_hashes(path: Path) -> dict[str, list[str]]:
    """track_id -> sha256 of samples and spectrogram; lines cut short by a kill are passed over, the last one wins."""
    if not path.exists():
        return {}
    rows = (line.split(",") for line in path.read_text(encoding="utf-8", errors="replace").split("\n"))
    return {row[0]: row[1:] for row in rows if [len(cell) for cell in row[1:]] == [64, 64]}


def _intact(folder: Path, offsets: pd.DataFrame, hashes: dict[str, list[str]]) -> set[str]:
    """Tracks whose samples and spectrogram have their sha256."""
    audio, frames = (np.memmap(folder / name, np.uint8, "r") for name in (_AUDIO, _FRAMES))

    def check(place: tuple) -> bool:
        first, frame = 2 * place.first_sample, _FRAME_BYTES * place.first_frame
        return hashes[place.Index] == [files.sha256_bytes(audio[first:first + 2 * place.n_samples]),
                                       files.sha256_bytes(frames[frame:frame + _FRAME_BYTES * place.n_frames])]

    known = offsets[offsets.index.isin(hashes)]
    with ThreadPoolExecutor(worker_count(0, len(offsets))) as pool:  # hashing releases the interpreter's lock
        return {t for t, good in zip(known.index, pool.map(check, known.itertuples())) if good}


def _render_all(folder: Path, jobs: list[tuple], workers: int) -> Iterator[tuple[str, str, str]]:
    """Render tracks in processes; yields track_id and the two hashes, in order, as they are done."""
    context = multiprocessing.get_context("forkserver")  # plain forking is unsafe beside torch's threads
    context.set_forkserver_preload([__name__, "librosa.filters"])  # imported once, not once a process
    pool = ProcessPoolExecutor(worker_count(workers, len(jobs)), context, _start_worker)
    try:
        yield from pool.map(functools.partial(_render_track, folder), jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    torch.set_num_threads(1)                      # one process a core is enough
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A worker of a parent that was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _render_track(folder: Path, job: tuple[str, np.ndarray, str, dict]) -> tuple[str, str, str]:
    """Render one track into its place in both files."""
    track_id, notes, arrangement, place = job
    samples = render.render(notes, json.loads(arrangement))
    frames = track_spectrogram(samples)
    for name, start, array in ((_AUDIO, 2 * place["first_sample"], samples),
                               (_FRAMES, _FRAME_BYTES * place["first_frame"], frames)):
        with open(folder / name, "r+b") as file:
            file.seek(start)
            file.write(array.data)
    return track_id, files.sha256_bytes(samples.data), files.sha256_bytes(frames.data)


def _finish(folder: Path, config: CorpusConfig, manifest: pd.DataFrame) -> None:
    """Write manifest.csv, then corpus.json, which makes the corpus whole."""
    text = manifest.to_csv()
    sizes = {name: (folder / name).stat().st_size for name in (_AUDIO, _FRAMES)}
    files.write_text(folder / _MANIFEST, text)
    files.write_json(folder / _INDEX, {"config": asdict(config), "versions": _versions(), "sizes": sizes,
                                       "hash": files.sha256_bytes(text.encode())})
