"""The large files of a corpus: filled by processes, resumable after a kill, nothing believed unhashed.

Tracks lie in shards of SHARD tracks, in the folders shard-00000, shard-00001, ..., each with

    audio.i16          int16 samples at 16 kHz, its tracks end to end
    spectrograms.f16   float16 (frame, mel), `spectrogram.compress` of the mel power of those very samples
    hashes.csv         track_id, sha256 of its samples and of its spectrogram: appended to as tracks get done
    problems.jsonl     track_id and why it cannot be made, likewise; such a track leaves its place in both files empty

Both large files have their final size from the start, and each track its place in them. What is there counts
only as far as it has the sha256 in hashes.csv, so a build that was killed goes on where it was, and damaged
tracks, and only those, are made anew. Where a track's samples come from is the caller's: they are rendered, or
decoded from recordings. On a cluster a shard is a task, so that each of its files has one writer.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch

from keymyna_lib import spectrogram
from keymyna_lib.base import hashing
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.compute import cluster
from keymyna_lib.compute.processes import start_worker, worker_count

if TYPE_CHECKING:
    from distributed import Client

AUDIO, FRAMES, HASHES, PROBLEMS = "audio.i16", "spectrograms.f16", "hashes.csv", "problems.jsonl"
SHARD = 256  # tracks; of 30 s they are 0.3 GB. Few, as a shard is a cluster's task
_FRAME_BYTES = 2 * spectrogram.N_MELS
_LAYOUTS = {AUDIO: (torch.int16, (-1,)), FRAMES: (torch.float16, (-1, spectrogram.N_MELS))}


class BadTrack(Exception):
    """Raised by what makes a track's samples when these cannot be had, now or later: the build goes on without."""


class _Job(NamedTuple):
    track_id: str
    arguments: tuple  # of what makes its samples
    shard: int
    first_sample: int
    n_samples: int
    first_frame: int


class Shards:
    """The files of one name in all shards, mapped into memory when they are first read.

    `shards[i]` is shard i's: (sample,) int16 of AUDIO, (frame, mel) float16 of FRAMES; it cannot be written to.
    """

    def __init__(self, folder: Path, name: str):
        self._folder, self._name = folder, name
        self._maps: dict[int, np.ndarray] = {}

    def __getitem__(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            path, (dtype, shape) = shard_folder(self._folder, shard) / self._name, _LAYOUTS[self._name]
            # numpy's maps keep their files open, and a process may have no more than some 1,000 of these. Shared, as a
            # private map that could be written to would count as this process's own memory (RLIMIT_DATA).
            size = path.stat().st_size // dtype.itemsize
            array = torch.from_file(str(path), shared=True, size=size, dtype=dtype).numpy().reshape(shape)
            array.flags.writeable = False
            self._maps[shard] = array
        return self._maps[shard]

    def close(self) -> None:
        """Let go of the maps; what is read later is mapped again."""
        self._maps.clear()


def shard_folder(folder: Path, shard: int) -> Path:
    """Where a shard of a corpus lies."""
    return folder / f"shard-{shard:05d}"


def to_float(samples: np.ndarray) -> np.ndarray:
    """int16 samples to float32 in [-1, 1]."""
    return samples.astype(np.float32) / np.float32(32768)


def track_spectrogram(samples: np.ndarray) -> np.ndarray:
    """Stored spectrogram of int16 samples: (frame, mel) float16."""
    power = spectrogram.mel_power(to_float(samples))[0]
    return np.ascontiguousarray(spectrogram.compress(power).numpy().T)


def offsets(manifest: pd.DataFrame) -> pd.DataFrame:
    """Place of each track: shard, and in it first_frame, n_frames, first_sample, n_samples, by track_id."""
    table = manifest[["n_frames", "n_samples"]].astype(np.int64)
    shard = np.arange(len(table)) // SHARD
    first = table.groupby(shard).cumsum() - table
    return table.assign(shard=shard, first_frame=first["n_frames"], first_sample=first["n_samples"])


def sizes(places: pd.DataFrame) -> Iterator[tuple[int, dict[str, int]]]:
    """Each shard, and the bytes of its large files by name."""
    for shard, sums in places.groupby("shard")[["n_samples", "n_frames"]].sum().iterrows():
        yield shard, {AUDIO: 2 * int(sums["n_samples"]), FRAMES: _FRAME_BYTES * int(sums["n_frames"])}


def fill(
    folder: Path,
    places: pd.DataFrame,
    make: Callable[..., np.ndarray],
    arguments: Callable[[str], tuple],
    finished: Path,
    *,
    doing: str,
    progress: bool,
    workers: int,
    client: Client | None = None,
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Make what is missing or damaged. A track that turned out bad is not tried again.

    Parameters
    ----------
    places : see `offsets`.
    make : returns a track's int16 samples, as many as it has place for, or raises BadTrack; a function of a module,
        or a `functools.partial` of one (it is sent to other processes).
    arguments : track_id -> those of `make`.
    finished : the file that says the corpus is whole; removed before anything is changed.
    doing : what `make` does, for the bar and for messages ("rendering").
    workers : processes of this machine; 0 is one for each core.
    client : a cluster to work on instead, see `cluster.connect`; its workers see `folder` under the same path.

    Returns
    -------
    hashes : track_id -> sha256 of samples and of spectrogram.
    problems : track_id -> why it is a bad one.

    Raises
    ------
    KeyMynaError
        When the disk is too full, the folder cannot be written to, or a process is killed; or as `make` does.
    """
    try:
        _reserve(folder, places, finished)
        if client is None:
            hashes, problems, damaged = _fill(folder, places, make, arguments, finished, doing, progress, workers)
        else:
            hashes, problems, damaged = {}, {}, 0
            tasks = [
                (folder, part, make, {t: arguments(t) for t in part.index}.__getitem__, finished, doing)
                for _, part in places.groupby("shard")
            ]
            for _, made in cluster.over(
                client,
                _fill,
                tasks,
                desc=doing,
                unit="track",
                show=progress,
                sizes=[len(part) for _, part, *_ in tasks],
            ):
                hashes.update(made[0])
                problems.update(made[1])
                damaged += made[2]
    except OSError as error:
        raise KeyMynaError(
            f"cannot write to {folder}: {error.strerror}. Free some space or mend its "
            "permissions and run again; it goes on where it stopped."
        ) from error
    except BrokenProcessPool:
        raise KeyMynaError(
            f"{doing}: a process was killed, perhaps for want of memory. Run again; it goes on where it stopped."
        ) from None
    if damaged:
        print(f"{folder}: {damaged} damaged track(s) were made anew.")
    return hashes, problems


def _fill(
    folder: Path,
    places: pd.DataFrame,
    make: Callable[..., np.ndarray],
    arguments: Callable[[str], tuple],
    finished: Path,
    doing: str,
    progress: bool = False,
    workers: int | None = None,
) -> tuple[dict[str, list[str]], dict[str, str], int]:
    """`fill` for some shards, in this process when `workers` is None; returns the number of damaged tracks besides."""
    hashes, problems = {}, {}
    for shard in map(functools.partial(shard_folder, folder), places["shard"].unique()):
        hashes.update(_read_hashes(shard / HASHES))
        problems.update(_read_problems(shard / PROBLEMS))
        for journal in (shard / HASHES, shard / PROBLEMS):
            if _lines(journal)[-1:] not in ([], [""]):
                _append(journal, "")  # ends a line that a kill has cut short
    intact = _intact(folder, places, hashes, progress, workers)
    todo = places[[t not in intact and t not in problems for t in places.index]]
    damaged = sum(t in hashes for t in todo.index)
    if len(todo):
        finished.unlink(missing_ok=True)
        jobs = [
            _Job(p.Index, arguments(p.Index), p.shard, p.first_sample, p.n_samples, p.first_frame)
            for p in todo.itertuples()
        ]
        done = (
            map(functools.partial(_make_track, folder, make), jobs)
            if workers is None
            else _make_all(folder, make, jobs, workers)
        )
        for track_id, *pair, problem in bar(done, desc=doing, total=len(jobs), unit="track", show=progress):
            shard = shard_folder(folder, todo.shard[track_id])
            if problem:
                _append(shard / PROBLEMS, json.dumps([track_id, problem]))
                problems[track_id] = problem
            else:
                _append(shard / HASHES, ",".join([track_id, *pair]))
                hashes[track_id] = pair
    return hashes, problems, damaged


def _reserve(folder: Path, places: pd.DataFrame, finished: Path) -> None:
    """Give the large files their final size, after a look at the free space."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {shard_folder(folder, shard) / name: size for shard, pair in sizes(places) for name, size in pair.items()}
    present = {path: path.stat() for path in wanted if path.exists()}
    needed = sum(wanted.values()) - sum(512 * stat.st_blocks for stat in present.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise KeyMynaError(
            f"the corpus needs {needed / 1e9:.2f} GB more in {folder}, but only "
            f"{free / 1e9:.2f} GB are free. Free some space, or set KEYMYNA_CACHE to a folder "
            "on a larger disk."
        )
    for path, size in wanted.items():
        if path not in present or present[path].st_size != size:
            finished.unlink(missing_ok=True)
            path.parent.mkdir(exist_ok=True)
            with open(path, "ab") as file:
                file.truncate(size)


def _read_hashes(path: Path) -> dict[str, list[str]]:
    """track_id -> its two sha256; the last line wins, and lines cut short by a kill are passed over."""
    rows = (line.rsplit(",", 2) for line in _lines(path))  # an id may have commas
    return {row[0]: row[1:] for row in rows if [len(cell) for cell in row[1:]] == [64, 64]}


def _read_problems(path: Path) -> dict[str, str]:
    """track_id -> problem; lines cut short by a kill are passed over."""
    problems = {}
    for line in _lines(path):
        with contextlib.suppress(json.JSONDecodeError):
            track_id, problem = json.loads(line)
            problems[track_id] = problem
    return problems


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []


def _append(path: Path, line: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _intact(
    folder: Path, places: pd.DataFrame, hashes: dict[str, list[str]], progress: bool, workers: int | None
) -> set[str]:
    """Tracks whose samples and spectrogram have their sha256."""

    def check(place: tuple) -> bool:
        shard = shard_folder(folder, place.shard)
        parts = (
            np.fromfile(shard / AUDIO, np.uint8, 2 * place.n_samples, offset=2 * place.first_sample),
            np.fromfile(
                shard / FRAMES, np.uint8, _FRAME_BYTES * place.n_frames, offset=_FRAME_BYTES * place.first_frame
            ),
        )
        return hashes[place.Index] == [hashing.sha256_bytes(part) for part in parts]

    known = places[places.index.isin(hashes)]
    # Hashing releases the interpreter's lock.
    with ThreadPoolExecutor(1 if workers is None else worker_count(0, len(places))) as pool:
        checked = bar(
            pool.map(check, known.itertuples()),
            desc="verifying",
            total=len(known),
            unit="track",
            show=progress and len(known) > 0,
        )
        return {t for t, good in zip(known.index, checked) if good}


def _make_all(
    folder: Path, make: Callable[..., np.ndarray], jobs: list[_Job], workers: int
) -> Iterator[tuple[str, str, str, str]]:
    """Make tracks in processes; yields track_id, the two hashes and the problem, in order, as they are done."""
    context = multiprocessing.get_context("forkserver")  # plain forking is unsafe beside torch's threads
    module = getattr(make, "func", make).__module__  # `make` may be a functools.partial
    context.set_forkserver_preload([__name__, module, "librosa.filters"])  # imported once, not once a process
    pool = ProcessPoolExecutor(worker_count(workers, len(jobs)), context, start_worker)
    try:
        yield from pool.map(functools.partial(_make_track, folder, make), jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _make_track(folder: Path, make: Callable[..., np.ndarray], job: _Job) -> tuple[str, str, str, str]:
    """Make one track in its place in both files."""
    try:
        samples = make(*job.arguments)
        if len(samples) != job.n_samples:
            raise BadTrack(f"it has {len(samples)} samples and not {job.n_samples}, as was said before")
    except BadTrack as problem:
        return job.track_id, "", "", str(problem)
    frames = track_spectrogram(samples)
    for name, start, array in (
        (AUDIO, 2 * job.first_sample, samples),
        (FRAMES, _FRAME_BYTES * job.first_frame, frames),
    ):
        with open(shard_folder(folder, job.shard) / name, "r+b") as file:
            file.seek(start)
            file.write(array.data)
    return job.track_id, hashing.sha256_bytes(samples.data), hashing.sha256_bytes(frames.data), ""
