"""Frozen features of recordings, one row per window: the encoder's embeddings and the features they have to beat.

A feature set is a table of rows (window, pitch-shifted view) for a list of tracks. Windows are 98 tokens (6.25 s) long
and lie end to end, the last one aligned to the recording's end; a shorter recording is padded with silence.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.accelerated import embedding as accelerated
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import discard
from keymyna_lib.base.hashing import code_hash_of, sha256_bytes, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.base.tensors import FEATURES, reading, save_tensors
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.front_ends import same_front_end, transpose_bands
from keymyna_lib.keys import transpose
from keymyna_lib.model import Encoder, load_encoder, save_encoder
from keymyna_lib.spectrogram import HOP, N_FFT, WINDOW, compress, mel_power, n_frames, window_starts

if TYPE_CHECKING:  # importing what makes a corpus takes longer than embedding one song
    from keymyna_lib.corpus.corpus import Corpus

MEAN_MEL, CHROMA = "mean mel", "chroma"
GROUP = 16  # tracks embedded together: full batches are half as fast again
GPU_GROUP = 256  # the same on a GPU, whose batches are larger
PART = 256  # tracks per task; a multiple of GROUP, so that batches are the same on a cluster
CHROMA_PART = 8  # tracks per task of chroma, so few that all cores are busy to the end


@dataclass(frozen=True)
class Features:
    """Rows of one feature set.

    Attributes
    ----------
    x : (row, dim) float32.
    track : (row,) int64, index into `track_ids`.
    shift : (row,) int64, semitones by which the row's audio was shifted.
    track_ids : ids of the tracks.
    """

    x: Tensor
    track: Tensor
    shift: Tensor
    track_ids: tuple[str, ...]

    @property
    def has_shifts(self) -> bool:
        """Whether some rows are of pitch-shifted views."""
        return bool(self.shift.any())

    def keys(self, key_of_track: Mapping[str, int]) -> Tensor:
        """(row,) int64: the key of each row's track, transposed by the row's shift."""
        untransposed = torch.tensor([key_of_track[name] for name in self.track_ids])[self.track]
        return transpose(untransposed, self.shift)

    def select(self, track_ids: Sequence[str], shifts: Sequence[int] = (0,)) -> Features:
        """The rows of some tracks, in the order given, and of some shifts.

        Raises
        ------
        KeyMynaError
            When a track or one of its shifts was not extracted.
        """
        position = {name: i for i, name in enumerate(self.track_ids)}
        if missing := [name for name in track_ids if name not in position]:
            raise KeyMynaError(f"no features of track {missing[0]} ({len(missing)} missing); extract them first.")
        renumbered = torch.full((len(self.track_ids),), -1)
        renumbered[[position[name] for name in track_ids]] = torch.arange(len(track_ids))
        rows = (renumbered[self.track] >= 0) & torch.isin(self.shift, torch.tensor(list(shifts)))
        rows = rows.nonzero().squeeze(1)
        rows = rows[renumbered[self.track[rows]].argsort(stable=True)]
        found = {(int(t), int(s)) for t, s in zip(renumbered[self.track[rows]], self.shift[rows])}
        if len(found) != len(track_ids) * len(set(shifts)):
            raise KeyMynaError(f"shifts {list(shifts)} were not extracted for all of the {len(track_ids)} tracks.")
        return Features(self.x[rows], renumbered[self.track[rows]], self.shift[rows], tuple(track_ids))


def of_tracks(rows: Sequence[Tensor], track_ids: Sequence[str]) -> Features:
    """Unshifted features from the rows of each track, (window, dim)."""
    track = torch.repeat_interleave(torch.tensor([len(r) for r in rows]))
    return Features(torch.cat(list(rows)), track, torch.zeros_like(track), tuple(track_ids))


def cut_windows(spectrogram: Tensor, starts: Sequence[int], frames: int = WINDOW) -> Tensor:
    """(band, frame) to (window, band, frame), windows of `frames` frames; silence follows a shorter recording."""
    if (short := frames - spectrogram.shape[1]) > 0:
        spectrogram = torch.nn.functional.pad(spectrogram, (0, short))
    return torch.stack([spectrogram[:, start : start + frames] for start in starts])


def spread_windows(n: int, count: int) -> np.ndarray:
    """Indices of `count` of n windows, spread evenly: the middle one for a count of 1, all if n is smaller."""
    if count == 1:
        return np.array([n // 2])
    return np.linspace(0, n - 1, min(count, n)).round().astype(int)


def _all_windows(corpus: Corpus, track_id: str, frames: int) -> Tensor:
    stored = torch.from_numpy(np.array(corpus.spectrogram(track_id))).T
    return cut_windows(stored, window_starts(stored.shape[1], frames), frames)


def _groups(track_ids: Sequence[str], size: int = GROUP) -> list[Sequence[str]]:
    return [track_ids[i : i + size] for i in range(0, len(track_ids), size)]


@torch.inference_mode()
def embed(encoder: Encoder, windows: Tensor, *, batch_size: int = 64) -> Tensor:
    """Stored spectrograms (window, band, frame) to embeddings (window, embedding), unmasked, float32 on the CPU.

    A GPU takes larger batches than `batch_size`, see `accelerated.embedding`.
    """
    if next(encoder.parameters()).is_cuda:
        return accelerated.embed(encoder, windows)
    return torch.cat([encoder(batch).float() for batch in windows.split(batch_size)])


def track_embeddings(
    encoder: Encoder, spectrograms: Sequence[np.ndarray], frames: int = WINDOW
) -> tuple[Tensor, Tensor]:
    """Stored spectrograms, each (frame, mel), to embeddings (window, embedding) and their track indices (window,)."""
    rows = []
    for stored in spectrograms:
        mel = torch.from_numpy(np.array(stored)).T
        rows.append(embed(encoder, cut_windows(mel, window_starts(mel.shape[1], frames), frames)))
    return torch.cat(rows), torch.repeat_interleave(torch.tensor([len(r) for r in rows]))


@torch.inference_mode()
def extract_blocks(
    corpus: Corpus, encoder: Encoder, track_ids: Sequence[str], *, frames: int = WINDOW, desc: str
) -> Tensor:
    """Mean token of every window at every depth, (block, row, dim) float32, rows in the order of `extract`.

    Block 0 is the patch embedding, block i the output of layer i, and the last one the embedding itself.
    """
    same_front_end(encoder.config.front_end, corpus.front_end)
    device, rows = next(encoder.parameters()).device, []
    with bar(desc=desc, total=len(track_ids), unit="track") as progress:
        for group in _groups(track_ids):
            windows = torch.cat([_all_windows(corpus, track, frames) for track in group])
            rows.append(torch.stack(encoder.block_means(windows.to(device))).cpu())
            progress.update(len(group))
    return torch.cat(rows, dim=1)


def _of_windows(windows: Tensor, encoder: Encoder | None) -> Tensor:
    """(window, band, frame) to (window, dim): embeddings, or without an encoder the time-averaged log spectrum."""
    return windows.float().mean(dim=2) if encoder is None else embed(encoder, windows)


def _window_chroma(corpus: Corpus, track_id: str, *, frames: int) -> np.ndarray:
    """Mean chroma of each window of a track, (window, pitch class)."""
    from keymyna_lib.chroma import mean_chroma  # here, as it imports pandas

    audio = corpus.audio(track_id)
    starts = window_starts(n_frames(len(audio)), frames)
    return np.stack([mean_chroma(audio[HOP * start : HOP * (start + frames)]) for start in starts]).astype(np.float32)


def extract(
    corpus: Corpus,
    name: str,
    encoder: Encoder | None = None,
    *,
    frames: int = WINDOW,
    track_ids: Sequence[str] | None = None,
    show: bool = True,
    client: Executor = HERE,
) -> Features:
    """One feature set of a corpus's tracks, all windows, unshifted; kept in the cache.

    Parameters
    ----------
    corpus : source of audio and spectrograms.
    name : name of the set. Without an encoder, MEAN_MEL (time-averaged log spectrum of each window, in
        mel bands or whichever the corpus has) or CHROMA (mean chroma of each window, 12 values).
    frames : length of a window, see `window_frames`.
    track_ids : the tracks; None for all that have a label.
    show : draw a progress bar.
    client : where to work, see `in_parts`.

    Raises
    ------
    KeyMynaError
        When the name is of neither kind and no encoder is given, or the encoder hears another front end than the
        corpus has.
    """
    if encoder is None and name not in (MEAN_MEL, CHROMA):
        raise KeyMynaError(f"features {name!r} need an encoder; without one there are {MEAN_MEL!r} and {CHROMA!r}.")
    if encoder is not None:
        same_front_end(encoder.config.front_end, corpus.front_end)
    request = [frames, None if track_ids is None else list(track_ids)]
    track_ids = list(corpus.manifest.index[corpus.manifest["key"] >= 0] if track_ids is None else track_ids)
    identity = _identity(corpus, {name: encoder}, request)
    if name == CHROMA:
        work, options = functools.partial(_chroma, frames=frames), {"size": CHROMA_PART, "threaded": False}
    else:
        sent = encoder and _EncoderByFile(encoder, _parts(identity) / "encoder.safetensors")
        work, options = functools.partial(_embeddings, name=name, encoder=sent, frames=frames), {}

    def compute() -> dict[str, Features]:
        desc = f"features: {name}"
        return {name: in_parts(client, work, corpus, track_ids, identity, desc=desc, show=show, **options)}

    return cached([name], identity, compute)[name]


def _chroma(corpus: Corpus, track_ids: Sequence[str], *, frames: int, show: bool) -> Features:
    return of_tracks([torch.from_numpy(_window_chroma(corpus, track, frames=frames)) for track in track_ids], track_ids)


def _embeddings(
    corpus: Corpus, track_ids: Sequence[str], *, name: str, encoder: _EncoderByFile | None, frames: int, show: bool
) -> Features:
    rows: list[Tensor] = []
    with bar(desc=f"features: {name}", total=len(track_ids), unit="track", show=show) as progress:
        on_gpu = encoder is not None and next(encoder.encoder.parameters()).is_cuda
        for group in _groups(track_ids, GPU_GROUP if on_gpu else GROUP):
            windows = [_all_windows(corpus, track, frames) for track in group]
            rows += _of_windows(torch.cat(windows), encoder and encoder.encoder).split([len(w) for w in windows])
            progress.update(len(group))
    return of_tracks(rows, track_ids)


@dataclass(frozen=True, eq=False)
class _EncoderByFile:
    """An encoder that travels to other processes as the path of a file with its weights."""

    encoder: Encoder
    file: Path

    def __reduce__(self) -> tuple[Any, ...]:
        save_encoder(self.encoder, self.file)
        return _encoder_from, (self.file, next(self.encoder.parameters()).device.type)


def _encoder_from(file: Path, device: str) -> _EncoderByFile:
    return _EncoderByFile(load_encoder(file).to(device), file)


def in_parts(
    client: Executor,
    work: Callable[..., Features],
    corpus: Corpus,
    track_ids: Sequence[str],
    identity: str,
    *,
    desc: str,
    show: bool,
    size: int = PART,
    threaded: bool = True,
) -> Features:
    """Unshifted features, computed in parts whose files are kept until `cached` has stored the whole.

    Parameters
    ----------
    work : a `functools.partial` of a module-level function: (corpus, track_ids, show=) to the features of some tracks.
    identity : names the folder, as for `cached`; intact parts that are there are not computed again.
    size : tracks per part.
    threaded : whether `work` uses all cores or a GPU by itself. On this machine it then does all tracks at once in this
        process, which is faster than one thread per part.
    """
    if client.here and threaded:
        return work(corpus, track_ids, show=show)
    parts = _groups(track_ids, size)
    files = [_parts(identity) / f"part-{i:05d}.safetensors" for i in range(len(parts))]
    make, tasks = functools.partial(_make_part, work, corpus), list(zip(parts, files))
    for _ in client.map(make, tasks, desc=desc, unit="track", sizes=[len(part) for part in parts], show=show):
        pass
    made = [load_features(file) for file in files]
    return of_tracks([rows for one in made for rows in one.x.split(one.track.bincount().tolist())], track_ids)


def _make_part(work: Callable[..., Features], corpus: Corpus, track_ids: Sequence[str], file: Path) -> None:
    try:
        load_features(file)
    except KeyMynaError:
        discard(file)
        save_features(work(corpus, track_ids, show=False), file)
        corpus.close()


def _parts(identity: str) -> Path:
    return paths.CACHE / "features" / identity / "parts"


def add_shifted(
    corpus: Corpus,
    encoders: Mapping[str, Encoder],
    base: Mapping[str, Features],
    shifts_of_track: Mapping[str, Sequence[int]],
    *,
    windows: int,
    frames: int = WINDOW,
    show: bool = True,
) -> dict[str, Features]:
    """Feature sets with rows of pitch-shifted views appended; kept in the cache.

    Parameters
    ----------
    encoders : by name, the encoders of those sets in `base` that are embeddings.
    base : results of `extract` by name, of the same tracks: MEAN_MEL, CHROMA and the encoders' sets.
    shifts_of_track : semitones of each track's views; 0 is skipped, as `base` has it.
    windows : number of windows of each shifted view, see `spread_windows`.
    frames : length of a window, as in `base`.
    """

    def compute() -> dict[str, Features]:
        parts: dict[str, list[Tensor]] = {name: [base[name].x] for name in base}
        some = next(iter(base.values()))
        track, shift = [some.track], [some.shift]
        position = {name: i for i, name in enumerate(some.track_ids)}
        wanted = {name: [s for s in shifts if s != 0] for name, shifts in shifts_of_track.items()}
        wanted = {name: shifts for name, shifts in wanted.items() if shifts}
        with bar(desc="pitch-shifted views", total=len(wanted), unit="track", show=show) as progress:
            for group in _groups(list(wanted)):
                views, chroma = [], []
                for name in group:
                    starts = window_starts(len(corpus.spectrogram(name)), frames)
                    few = spread_windows(len(starts), windows)
                    views.append(shifted_views(corpus, name, starts[few], wanted[name], frames))
                    if CHROMA in base:
                        unshifted = base[CHROMA].x[base[CHROMA].track == position[name]][few]
                        chroma += [unshifted.roll(s, dims=1) for s in wanted[name]]
                    track.append(torch.full((len(views[-1]),), position[name]))
                    shift.append(torch.tensor(wanted[name]).repeat_interleave(len(few)))
                for key, rows in parts.items():
                    rows.append(
                        torch.cat(chroma) if key == CHROMA else _of_windows(torch.cat(views), encoders.get(key))
                    )
                progress.update(len(group))
        columns = torch.cat(track), torch.cat(shift), some.track_ids
        return {name: Features(torch.cat(rows), *columns) for name, rows in parts.items()}

    request = {
        "windows": windows,
        "frames": frames,
        "shifts": {name: list(map(int, s)) for name, s in shifts_of_track.items()},
    }
    return cached(list(base), _identity(corpus, {name: encoders.get(name) for name in base}, request), compute)


def shifted_views(corpus: Corpus, track_id: str, starts: Sequence[int], shifts: Sequence[int], frames: int) -> Tensor:
    """Stored spectrograms of some windows of pitch-shifted views, (shift x window, band, frame), shift by shift."""
    if corpus.front_end == "mel":
        return _shifted_windows(corpus.audio(track_id), starts, shifts, frames)
    windows = cut_windows(torch.from_numpy(np.array(corpus.spectrogram(track_id))).T, starts, frames)
    return torch.cat([transpose_bands(windows, shift) for shift in shifts])


def _shifted_windows(audio: np.ndarray, starts: Sequence[int], shifts: Sequence[int], frames: int) -> Tensor:
    """`shifted_views` in mel bands: (shift x window, mel, frame).

    Only these windows are transformed. A frame reaches N_FFT / 2 samples to either side, so each window is transformed
    with that margin, which is then dropped; its frames are those of the whole recording.
    """
    margin, windows = N_FFT // 2 // HOP, []
    for start in starts:
        first = max(start - margin, 0)
        power = mel_power(audio[HOP * first : HOP * (start + frames + margin)], shifts)
        windows.append(torch.stack([cut_windows(mel, [start - first], frames)[0] for mel in compress(power)]))
    return torch.stack(windows, dim=1).flatten(0, 1)


def _identity(corpus: Corpus, encoders: Mapping[str, Encoder | None], request: object = None) -> str:
    code = code_hash_of(__name__)
    # The configuration too, as scale and patch shape do not show in the weights.
    weights = {
        name: encoder and [asdict(encoder.config), content_hash(encoder.state_dict())]
        for name, encoder in encoders.items()
    }
    return sha256_json([corpus.hash, weights, request, code])[:16]


def cached(names: Sequence[str], identity: str, compute: Callable[[], dict[str, Features]]) -> dict[str, Features]:
    """Feature sets from the cache; if any of their files is absent or damaged, all are computed and stored again."""
    folder = paths.CACHE / "features" / identity
    try:
        return {name: load_features(folder / f"{name}.safetensors") for name in names}
    except KeyMynaError:
        made = compute()
    for name, features in made.items():
        discard(folder / f"{name}.safetensors")
        save_features(features, folder / f"{name}.safetensors")
    shutil.rmtree(_parts(identity), ignore_errors=True)
    return made


def save_features(features: Features, path: Path) -> None:
    """Write one feature set as safetensors, its tracks in the metadata."""
    tensors = {"x": features.x, "track": features.track, "shift": features.shift}
    save_tensors(path, tensors, track_ids=json.dumps(features.track_ids))


def load_features(path: Path) -> Features:
    """Read a feature set; a damaged or absent file is a KeyMynaError that names it."""
    with reading(path, FEATURES, "Run again what makes it.") as (tensors, metadata):
        return Features(**tensors, track_ids=tuple(json.loads(metadata["track_ids"])))


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors, in the order of their names."""
    return sha256_json(
        [[name, sha256_bytes(value.cpu().contiguous().numpy().tobytes())] for name, value in sorted(tensors.items())]
    )
