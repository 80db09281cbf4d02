"""The two large files of a corpus: filled by processes, resumable after a kill, nothing believed unhashed.

    audio.i16          int16 samples at 16 kHz, all tracks end to end
    spectrograms.f16   float16 (frame, mel), `spectrogram.compress` of the mel power of those very samples
    hashes.csv         track_id, sha256 of its samples and of its spectrogram: appended to as tracks get done

Both large files have their final size from the start, and each track its place in them. What is there counts
only as far as it has the sha256 in hashes.csv, so a build that was killed goes on where it was, and damaged
tracks, and only those, are rendered anew.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from keymyna_lib import files, spectrogram
from keymyna_lib.data import render
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.parallel import start_worker, worker_count
from keymyna_lib.progress import bar

AUDIO, FRAMES, HASHES = "audio.i16", "spectrograms.f16", "hashes.csv"
_FRAME_BYTES = 2 * spectrogram.N_MELS


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


def fill(folder: Path, places: pd.DataFrame, job: Callable[[str], tuple[np.ndarray, str]],
         finished: Path, *, progress: bool, workers: int) -> dict[str, list[str]]:
    """Render what is missing or damaged.

    Parameters
    ----------
    places : see `offsets`.
    job : track_id -> notes and arrangement (JSON), called for what is to be rendered.
    finished : the file that says the corpus is whole; removed before anything is changed.
    workers : processes; 0 is one for each core.

    Returns
    -------
    dict
        track_id -> sha256 of samples and of spectrogram.

    Raises
    ------
    KeyMynaError
        When the disk is too full, the folder cannot be written to, or a process is killed.
    """
    try:
        _reserve(folder, places, finished)
        hashes = _read_hashes(folder / HASHES)
        intact = _intact(folder, places, hashes)
        damaged = sum(t in hashes and t not in intact for t in places.index)
        if damaged:
            print(f"{folder}: {damaged} damaged track(s) are rendered again.")
        todo = [t for t in places.index if t not in intact]
        if todo:
            finished.unlink(missing_ok=True)
            jobs = [(t, *job(t), places.loc[t].to_dict()) for t in todo]
            done = bar(_render_all(folder, jobs, workers), desc="rendering", total=len(jobs), unit="track",
                       show=progress)
            with open(folder / HASHES, "a", encoding="utf-8", buffering=1) as journal:
                for track_id, *pair in done:
                    journal.write(f"{track_id},{pair[0]},{pair[1]}\n")
                    hashes[track_id] = pair
        return hashes
    except OSError as error:
        raise KeyMynaError(f"cannot write to {folder}: {error.strerror}. Free some space or mend its "
                           "permissions and run again; it goes on where it stopped.") from error
    except BrokenProcessPool:
        raise KeyMynaError("a rendering process was killed, perhaps for want of memory. Run again; it goes "
                           "on where it stopped.") from None


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
    if not path.exists():
        return {}
    rows = (line.split(",") for line in path.read_text(encoding="utf-8", errors="replace").split("\n"))
    return {row[0]: row[1:] for row in rows if [len(cell) for cell in row[1:]] == [64, 64]}


def _intact(folder: Path, places: pd.DataFrame, hashes: dict[str, list[str]]) -> set[str]:
    """Tracks whose samples and spectrogram have their sha256."""
    audio, frames = (np.memmap(folder / name, np.uint8, "r") for name in (AUDIO, FRAMES))

    def check(place: tuple) -> bool:
        parts = (audio[2 * place.first_sample:][:2 * place.n_samples],
                 frames[_FRAME_BYTES * place.first_frame:][:_FRAME_BYTES * place.n_frames])
        return hashes[place.Index] == [files.sha256_bytes(part) for part in parts]

    known = places[places.index.isin(hashes)]
    with ThreadPoolExecutor(worker_count(0, len(places))) as pool:  # hashing releases the interpreter's lock
        return {t for t, good in zip(known.index, pool.map(check, known.itertuples())) if good}


def _render_all(folder: Path, jobs: list[tuple], workers: int) -> Iterator[tuple[str, str, str]]:
    """Render tracks in processes; yields track_id and the two hashes, in order, as they are done."""
    context = multiprocessing.get_context("forkserver")  # plain forking is unsafe beside torch's threads
    context.set_forkserver_preload([__name__, "librosa.filters"])  # imported once, not once a process
    pool = ProcessPoolExecutor(worker_count(workers, len(jobs)), context, start_worker)
    try:
        yield from pool.map(functools.partial(_render_track, folder), jobs, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _render_track(folder: Path, job: tuple[str, np.ndarray, str, dict]) -> tuple[str, str, str]:
    """Render one track into its place in both files."""
    track_id, notes, arrangement, place = job
    samples = render.render(notes, json.loads(arrangement))
    frames = track_spectrogram(samples)
    for name, start, array in ((AUDIO, 2 * place["first_sample"], samples),
                               (FRAMES, _FRAME_BYTES * place["first_frame"], frames)):
        with open(folder / name, "r+b") as file:
            file.seek(start)
            file.write(array.data)
    return track_id, files.sha256_bytes(samples.data), files.sha256_bytes(frames.data)
