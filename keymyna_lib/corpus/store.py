"""The large files of a corpus: filled by several processes, resumable after a kill, trusted only as far as hashed.

Tracks lie in shards of SHARD tracks, in folders shard-00000, shard-00001, ..., each with

    audio.i16          int16 samples at 16 kHz, its tracks end to end
    spectrograms.f16   float16 (frame, band), `spectrogram.compress` of these samples' power in a front end's bands
    hashes.csv         track_id, sha256 of its samples and of its spectrogram; one row appended per finished track
    problems.jsonl     track_id and why it cannot be made, likewise; such a track leaves its place in both files empty

Both large files have their final size from the start, and each track has its place in them. A track counts as present
only if its data have the sha256 in hashes.csv. A build that was killed therefore resumes where it stopped, and damaged
tracks, and only those, are made again. Samples come from the caller, which synthesizes them or decodes recordings.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from keymyna_lib import front_ends, spectrogram
from keymyna_lib.base import files, hashing
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE, Processes

AUDIO, FRAMES, HASHES, PROBLEMS = "audio.i16", "spectrograms.f16", "hashes.csv", "problems.jsonl"
SHARD = 256  # tracks, 0.3 GB at 30 s each; few, because a shard is one task of a cluster


class BadTrack(Exception):
    """Raised by the maker of a track's samples when it can never make them; the build continues without the track."""


class _Job(NamedTuple):
    track_id: str
    arguments: tuple  # of the maker of its samples
    shard: int
    first_sample: int
    n_samples: int
    first_frame: int


class Shards:
    """The files of one name in all shards, memory-mapped when first read.

    `shards[i]` is that of shard i, read-only: (sample,) int16 for AUDIO, (frame, band) float16 for FRAMES.
    """

    def __init__(self, folder: Path, name: str, front_end: str = "mel"):
        self._folder, self._name = folder, name
        self._layout = {AUDIO: (torch.int16, (-1,)), FRAMES: (torch.float16, (-1, front_ends.N_BANDS[front_end]))}[name]
        self._maps: dict[int, np.ndarray] = {}

    def __getitem__(self, shard: int) -> np.ndarray:
        if shard not in self._maps:
            path, (dtype, shape) = shard_folder(self._folder, shard) / self._name, self._layout
            # Not numpy's map, which keeps its file open; a process may have only about 1,000 open files. Shared,
            # because a private writable map would count as this process's own memory (RLIMIT_DATA).
            size = path.stat().st_size // dtype.itemsize
            array = torch.from_file(str(path), shared=True, size=size, dtype=dtype).numpy().reshape(shape)
            array.flags.writeable = False
            self._maps[shard] = array
        return self._maps[shard]

    def close(self) -> None:
        """Drop the maps; a later read maps its file again."""
        self._maps.clear()


def shard_folder(folder: Path, shard: int) -> Path:
    """Folder of a shard of a corpus."""
    return folder / f"shard-{shard:05d}"


def to_float(samples: np.ndarray) -> np.ndarray:
    """int16 samples to float32 in [-1, 1]."""
    return samples.astype(np.float32) / np.float32(32768)


def track_spectrogram(samples: np.ndarray, front_end: str = "mel") -> np.ndarray:
    """Stored spectrogram of int16 samples: (frame, band) float16."""
    power = front_ends.power(to_float(samples), front_end)
    return np.ascontiguousarray(spectrogram.compress(power).numpy().T)


def frames_of(frames: Shards, place: Any) -> np.ndarray:
    """(frame, band) float16 of the track in a place (a row of `offsets`), a view of the memory map."""
    return frames[place.shard][place.first_frame : place.first_frame + place.n_frames]


def offsets(manifest: pd.DataFrame) -> pd.DataFrame:
    """Place of each track by track_id: its shard, and first_frame, n_frames, first_sample, n_samples in that shard."""
    table = manifest[["n_frames", "n_samples"]].astype(np.int64)
    shard = np.arange(len(table)) // SHARD
    first = table.groupby(shard).cumsum() - table
    return table.assign(shard=shard, first_frame=first["n_frames"], first_sample=first["n_samples"])


def frame_bytes(front_end: str) -> int:
    """Bytes of one frame."""
    return 2 * front_ends.N_BANDS[front_end]


def sizes(places: pd.DataFrame, front_end: str = "mel") -> Iterator[tuple[int, dict[str, int]]]:
    """Each shard's number, and the sizes of its large files by name, in bytes."""
    for shard, sums in places.groupby("shard")[["n_samples", "n_frames"]].sum().iterrows():
        yield shard, {AUDIO: 2 * int(sums["n_samples"]), FRAMES: frame_bytes(front_end) * int(sums["n_frames"])}


def fill(
    folder: Path,
    places: pd.DataFrame,
    make: Callable[..., np.ndarray],
    arguments: Callable[[str], tuple],
    finished: Path,
    *,
    doing: str,
    progress: bool,
    client: Executor = HERE,
    front_end: str = "mel",
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Make the tracks that are missing or damaged. A track that raised BadTrack is not tried again.

    Parameters
    ----------
    places : see `offsets`.
    make : returns a track's int16 samples, n_samples of its place, or raises BadTrack; a module-level function, or a
        `functools.partial` of one.
    arguments : track_id -> arguments of `make`.
    finished : the file that marks the corpus as whole; removed before anything is changed.
    doing : what `make` does, for the progress bar and messages ("rendering").
    client : where to work; the workers of a cluster see `folder` under the same path.
    front_end : of the spectrograms, one of `front_ends.FRONT_ENDS`.

    Returns
    -------
    hashes : track_id -> sha256 of samples and of spectrogram.
    problems : track_id -> why it cannot be made.

    Raises
    ------
    KeyMynaError
        When the disk is too full, the folder cannot be written to, or a worker is killed; or as `make` does.
    """
    try:
        _reserve(folder, places, finished, front_end)
        if client.here:  # a corpus of few shards still keeps all cores busy, as tracks are the tasks
            filled = [_fill(folder, places, make, arguments, finished, doing, client, progress, front_end)]
        else:  # a shard is a task, so that each file has one writer, as network file systems require
            shards = [part for _, part in places.groupby("shard")]
            filled = client.map(
                functools.partial(_fill_shard, folder, make, finished, doing, front_end),
                [(part, {track: arguments(track) for track in part.index}) for part in shards],
                desc=doing,
                unit="track",
                sizes=[len(part) for part in shards],
                show=progress,
            )
            filled = (made for _, made in filled)
        hashes, problems, damaged = {}, {}, 0
        for made in filled:
            hashes |= made[0]
            problems |= made[1]
            damaged += made[2]
    except OSError as error:
        raise KeyMynaError(
            f"cannot write to {folder}: {error.strerror}. Free some space or fix its permissions and run again; "
            "the build resumes where it stopped."
        ) from error
    if damaged:
        print(f"{folder}: {damaged} damaged track(s) were made again.")
    return hashes, problems


def _fill_shard(
    folder: Path,
    make: Callable[..., np.ndarray],
    finished: Path,
    doing: str,
    front_end: str,
    places: pd.DataFrame,
    arguments: dict[str, tuple],
) -> tuple[dict[str, list[str]], dict[str, str], int]:
    """In a worker of a cluster: `_fill` without further processes."""
    return _fill(folder, places, make, arguments.__getitem__, finished, doing, Processes(1), False, front_end)


def _fill(
    folder: Path,
    places: pd.DataFrame,
    make: Callable[..., np.ndarray],
    arguments: Callable[[str], tuple],
    finished: Path,
    doing: str,
    client: Processes,
    progress: bool,
    front_end: str,
) -> tuple[dict[str, list[str]], dict[str, str], int]:
    """`fill` for some shards, track by track; returns the number of damaged tracks as well."""
    hashes, problems = {}, {}
    for shard in map(functools.partial(shard_folder, folder), places["shard"].unique()):
        hashes.update(_read_hashes(shard / HASHES))
        problems.update(_read_problems(shard / PROBLEMS))
        for journal in (shard / HASHES, shard / PROBLEMS):
            if _lines(journal)[-1:] not in ([], [""]):
                _append(journal, "")  # ends a line that a kill has cut short
    intact = _intact(folder, places, hashes, client, progress, front_end)
    todo = places[[t not in intact and t not in problems for t in places.index]]
    damaged = sum(t in hashes for t in todo.index)
    if len(todo):
        files.discard(finished)
        jobs = [
            _Job(p.Index, arguments(p.Index), p.shard, p.first_sample, p.n_samples, p.first_frame)
            for p in todo.itertuples()
        ]
        work = functools.partial(_make_track, folder, make, front_end)
        tasks = [(job,) for job in jobs]
        for i, (*pair, problem) in client.map(work, tasks, desc=doing, unit="track", ordered=True, show=progress):
            track_id, shard = jobs[i].track_id, shard_folder(folder, jobs[i].shard)
            if problem:
                _append(shard / PROBLEMS, json.dumps([track_id, problem]))
                problems[track_id] = problem
            else:
                _append(shard / HASHES, ",".join([track_id, *pair]))
                hashes[track_id] = pair
    return hashes, problems, damaged


def _reserve(folder: Path, places: pd.DataFrame, finished: Path, front_end: str) -> None:
    """Give the large files their final size if the disk has room for them."""
    if not folder.is_dir():
        files.discard(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted_sizes = list(sizes(places, front_end))
    for shard, names in wanted_sizes:
        if not (place := shard_folder(folder, shard)).is_dir():
            files.discard(place)
        for path in (place / name for name in (*names, HASHES, PROBLEMS)):
            if path.exists() and not (path.is_file() and os.access(path, os.R_OK | os.W_OK)):
                files.discard(path)
    wanted = {shard_folder(folder, shard) / name: size for shard, pair in wanted_sizes for name, size in pair.items()}
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
            files.discard(finished)
            path.parent.mkdir(exist_ok=True)
            with open(path, "ab") as file:
                file.truncate(size)


def _read_hashes(path: Path) -> dict[str, list[str]]:
    """track_id -> its two sha256; the last line wins, and lines cut short by a kill are skipped."""
    rows = (line.rsplit(",", 2) for line in _lines(path))  # an id may contain commas
    return {row[0]: row[1:] for row in rows if [len(cell) for cell in row[1:]] == [64, 64]}


def _read_problems(path: Path) -> dict[str, str]:
    """track_id -> problem; lines cut short by a kill are skipped."""
    problems = {}
    for line in _lines(path):
        with contextlib.suppress(ValueError, TypeError):
            track_id, problem = map(str, json.loads(line))
            problems[track_id] = problem
    return problems


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []


def _append(path: Path, line: str) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(line + "\n")


def _intact(
    folder: Path, places: pd.DataFrame, hashes: dict[str, list[str]], client: Processes, progress: bool, front_end: str
) -> set[str]:
    """Tracks whose samples and spectrogram match their sha256."""

    size = frame_bytes(front_end)

    def check(place: Any) -> bool:
        shard = shard_folder(folder, place.shard)
        parts = (
            np.fromfile(shard / AUDIO, np.uint8, 2 * place.n_samples, offset=2 * place.first_sample),
            np.fromfile(shard / FRAMES, np.uint8, size * place.n_frames, offset=size * place.first_frame),
        )
        return hashes[place.Index] == [hashing.sha256_bytes(part) for part in parts]

    known = places[places.index.isin(hashes)]
    with ThreadPoolExecutor(
        client.count(len(places))
    ) as pool:  # threads will do: hashing releases the interpreter's lock
        checked = bar(
            pool.map(check, known.itertuples()),
            desc="verifying",
            total=len(known),
            unit="track",
            show=progress and len(known) > 0,
        )
        return {t for t, good in zip(known.index, checked) if good}


def _make_track(folder: Path, make: Callable[..., np.ndarray], front_end: str, job: _Job) -> tuple[str, str, str]:
    """Make one track in its place in both files; returns the two sha256, and the problem or an empty string."""
    try:
        samples = make(*job.arguments)
        if len(samples) != job.n_samples:
            raise BadTrack(f"it has {len(samples)} samples instead of the {job.n_samples} announced")
    except BadTrack as problem:
        return "", "", str(problem)
    frames = track_spectrogram(samples, front_end)
    for name, start, array in (
        (AUDIO, 2 * job.first_sample, samples),
        (FRAMES, frame_bytes(front_end) * job.first_frame, frames),
    ):
        with open(shard_folder(folder, job.shard) / name, "r+b") as file:
            file.seek(start)
            file.write(array.data)
    return hashing.sha256_bytes(samples.data), hashing.sha256_bytes(frames.data), ""
