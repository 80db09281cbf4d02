"""The two large files of a corpus: filled by processes, resumable after a kill, nothing believed unhashed.

    audio.i16          int16 samples at 16 kHz, all tracks end to end
    spectrograms.f16   float16 (frame, mel), `spectrogram.compress` of the mel power of those very samples
    hashes.csv         track_id, sha256 of its samples and of its spectrogram: appended to as tracks get done
    problems.jsonl     track_id and why it cannot be made, likewise; such a track leaves its place in both files empty

Both large files have their final size from the start, and each track its place in them. What is there counts
only as far as it has the sha256 in hashes.csv, so a build that was killed goes on where it was, and damaged
tracks, and only those, are made anew. Where a track's samples come from is the caller's: they are rendered, or
decoded from recordings.
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
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from keymyna_lib import files, spectrogram
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.parallel import start_worker, worker_count
from keymyna_lib.progress import bar

AUDIO, FRAMES, HASHES, PROBLEMS = "audio.i16", "spectrograms.f16", "hashes.csv", "problems.jsonl"
_FRAME_BYTES = 2 * spectrogram.N_MELS


class BadTrack(Exception):
    """Raised by what makes a track's samples when these cannot be had, now or later: the build goes on without."""


class _Job(NamedTuple):
    track_id: str
    arguments: tuple  # of what makes its samples
    first_sample: int
    n_samples: int
    first_frame: int


def to_float(samples: np.ndarray) -> np.ndarray:
    """int16 samples to float32 in [-1, 1]."""
    return samples.astype(np.float32) / np.float32(32768)


def track_spectrogram(samples: np.ndarray) -> np.ndarray:
    """Stored spectrogram of int16 samples: (frame, mel) float16."""
    power = spectrogram.mel_power(to_float(samples))[0]
    return np.ascontiguousarray(spectrogram.compress(power).numpy().T)


def offsets(manifest: pd.DataFrame) -> pd.DataFrame:
    """Place of each track: first_frame, n_frames, first_sample, n_samples, by track_id."""
    table = manifest[["n_frames", "n_samples"]].astype(np.int64)
    first = table.cumsum() - table
    return table.assign(first_frame=first["n_frames"], first_sample=first["n_samples"])


def fill(folder: Path, places: pd.DataFrame, make: Callable[..., np.ndarray], arguments: Callable[[str], tuple],
         finished: Path, *, doing: str, progress: bool, workers: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Make what is missing or damaged. A track that turned out bad is not tried again.

    Parameters
    ----------
    places : see `offsets`.
    make : returns a track's int16 samples, as many as it has place for, or raises BadTrack; a function of a module,
        or a `functools.partial` of one (it is sent to other processes).
    arguments : track_id -> those of `make`, called for what is to be made.
    finished : the file that says the corpus is whole; removed before anything is changed.
    doing : what `make` does, for the bar and for messages ("rendering").
    workers : processes; 0 is one for each core.

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
        hashes, problems = _read_hashes(folder / HASHES), _read_problems(folder / PROBLEMS)
        intact = _intact(folder, places, hashes, progress)
        damaged = sum(t in hashes and t not in intact for t in places.index)
        if damaged:
            print(f"{folder}: {damaged} damaged track(s) are made anew.")
        todo = places[[t not in intact and t not in problems for t in places.index]]
        if len(todo):
            finished.unlink(missing_ok=True)
            jobs = [_Job(p.Index, arguments(p.Index), p.first_sample, p.n_samples, p.first_frame)
                    for p in todo.itertuples()]
            done = bar(_make_all(folder, make, jobs, workers), desc=doing, total=len(jobs), unit="track", show=progress)
            for journal in (folder / HASHES, folder / PROBLEMS):
                if _lines(journal)[-1:] not in ([], [""]):
                    _append(journal, "")  # ends a line that a kill has cut short
            for track_id, *pair, problem in done:
                if problem:
                    _append(folder / PROBLEMS, json.dumps([track_id, problem]))
                    problems[track_id] = problem
                else:
                    _append(folder / HASHES, ",".join([track_id, *pair]))
                    hashes[track_id] = pair
        return hashes, problems
    except OSError as error:
        raise KeyMynaError(f"cannot write to {folder}: {error.strerror}. Free some space or mend its "
                           "permissions and run again; it goes on where it stopped.") from error
    except BrokenProcessPool:
        raise KeyMynaError(f"{doing}: a process was killed, perhaps for want of memory. Run again; it goes on where "
                           "it stopped.") from None


def _reserve(folder: Path, places: pd.DataFrame, finished: Path) -> None:
    """Give both large files their final size, after a look at the free space."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {AUDIO: 2 * int(places["n_samples"].sum()),
             FRAMES: _FRAME_BYTES * int(places["n_frames"].sum())}
    present = {name: (folder / name).stat() for name in sizes if (folder / name).exists()}
    needed = sum(sizes.values()) - sum(512 * stat.st_blocks for stat in present.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise KeyMynaError(f"the corpus needs {needed / 1e9:.2f} GB more in {folder}, but only "
                           f"{free / 1e9:.2f} GB are free. Free some space, or set KEYMYNA_CACHE to a folder "
                           "on a larger disk.")
    for name, size in sizes.items():
        if name not in present or present[name].st_size != size:
            finished.unlink(missing_ok=True)
            with open(folder / name, "ab") as file:
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


def _intact(folder: Path, places: pd.DataFrame, hashes: dict[str, list[str]], progress: bool) -> set[str]:
    """Tracks whose samples and spectrogram have their sha256."""
    audio, frames = (np.memmap(folder / name, np.uint8, "r") for name in (AUDIO, FRAMES))

    def check(place: tuple) -> bool:
        parts = (audio[2 * place.first_sample:][:2 * place.n_samples],
                 frames[_FRAME_BYTES * place.first_frame:][:_FRAME_BYTES * place.n_frames])
        return hashes[place.Index] == [files.sha256_bytes(part) for part in parts]

    known = places[places.index.isin(hashes)]
    with ThreadPoolExecutor(worker_count(0, len(places))) as pool:  # hashing releases the interpreter's lock
        checked = bar(pool.map(check, known.itertuples()), desc="verifying", total=len(known), unit="track",
                      show=progress and len(known) > 0)
        return {t for t, good in zip(known.index, checked) if good}


def _make_all(folder: Path, make: Callable[..., np.ndarray], jobs: list[_Job],
              workers: int) -> Iterator[tuple[str, str, str, str]]:
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
    for name, start, array in ((AUDIO, 2 * job.first_sample, samples),
                               (FRAMES, _FRAME_BYTES * job.first_frame, frames)):
        with open(folder / name, "r+b") as file:
            file.seek(start)
            file.write(array.data)
    return job.track_id, files.sha256_bytes(samples.data), files.sha256_bytes(frames.data), ""
