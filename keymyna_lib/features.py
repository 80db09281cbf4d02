"""Frozen features of recordings, one row a window: the encoder's embeddings and the features they must beat.

A feature set is a table of rows (window, pitch-shifted view) for a list of tracks. Windows are 98 tokens (6.25 s),
end to end, the last aligned to the end; a shorter recording is padded with silence to one window.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.accelerated import embedding as accelerated
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.hashing import code_hash_of, sha256_bytes, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.base.tensors import reading, save_tensors
from keymyna_lib.compute.cluster import over
from keymyna_lib.compute.processes import over_tracks
from keymyna_lib.keys import transpose
from keymyna_lib.model import Encoder, load_encoder, save_encoder
from keymyna_lib.spectrogram import HOP, N_FFT, WINDOW, compress, mel_power, n_frames, window_starts

if TYPE_CHECKING:  # a corpus is handed in; what builds one takes longer to import than one song to embed
    from distributed import Client

    from keymyna_lib.corpus.corpus import Corpus

MEAN_MEL, CHROMA = "mean mel", "chroma"
PART = 256  # tracks of a task on a cluster; a multiple of what is embedded together


@dataclass(frozen=True)
class Features:
    """Rows of one feature set.

    Attributes
    ----------
    x : (row, dim) float32.
    track : (row,) int64, index into `track_ids`.
    shift : (row,) int64, semitones by which the row's audio was shifted.
    track_ids : the tracks.
    """

    x: Tensor
    track: Tensor
    shift: Tensor
    track_ids: tuple[str, ...]

    @property
    def has_shifts(self) -> bool:
        """Whether there are rows of pitch-shifted views."""
        return bool(self.shift.any())

    def keys(self, key_of_track: Mapping[str, int]) -> Tensor:
        """(row,) int64: each row's key, moved along with its shift."""
        untransposed = torch.tensor([key_of_track[name] for name in self.track_ids])[self.track]
        return transpose(untransposed, self.shift)

    def select(self, track_ids: Sequence[str], shifts: Sequence[int] = (0,)) -> Features:
        """The rows of some tracks, in their order, and of some shifts.

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


def window_frames(crop_frames: int) -> int:
    """Length of the windows that an encoder embeds, frames: that of its training crops, and WINDOW at most.

    It has been trained on no positions beyond its crops; longer crops leave the tracks' windows as they are.
    """
    return min(crop_frames, WINDOW)


def cut_windows(spectrogram: Tensor, starts: Sequence[int], frames: int = WINDOW) -> Tensor:
    """(mel, frame) to (window, mel, frames), padded with silence where the recording is shorter."""
    if (short := frames - spectrogram.shape[1]) > 0:
        spectrogram = torch.nn.functional.pad(spectrogram, (0, short))
    return torch.stack([spectrogram[:, start : start + frames] for start in starts])


@torch.inference_mode()
def embed(encoder: Encoder, windows: Tensor, *, batch_size: int = 64) -> Tensor:
    """(window, mel, frame) stored spectrograms to (window, embedding) float32 on the CPU, unmasked.

    `batch_size` windows at a time; a GPU takes as many as suit it, see `accelerated.embedding`.
    """
    if next(encoder.parameters()).is_cuda:
        return accelerated.embed(encoder, windows)
    return torch.cat([encoder(batch).float() for batch in windows.split(batch_size)])


def _window_chroma(corpus: Corpus, track_id: str, *, frames: int) -> np.ndarray:
    """Mean chroma of each window of a track, (window, pitch class)."""
    from keymyna_lib.chroma import mean_chroma  # here, because it brings pandas along

    audio = corpus.audio(track_id)
    starts = window_starts(n_frames(len(audio)), frames)
    return np.stack([mean_chroma(audio[HOP * start : HOP * (start + frames)]) for start in starts]).astype(np.float32)


def _of_windows(windows: Tensor, encoder: Encoder | None) -> Tensor:
    """(window, mel, frame) to (window, dim): embeddings, or the time-averaged spectrum when there is no encoder."""
    return windows.float().mean(dim=2) if encoder is None else embed(encoder, windows)


def extract(
    corpus: Corpus,
    name: str,
    encoder: Encoder | None = None,
    *,
    frames: int = WINDOW,
    track_ids: Sequence[str] | None = None,
    show: bool = True,
    client: Client | None = None,
) -> Features:
    """One feature set of the tracks of a corpus, all windows, unshifted; kept in the cache.

    Parameters
    ----------
    corpus : where audio and spectrograms come from.
    name : what the set is called; without an encoder, MEAN_MEL (time-averaged log mel spectrum of each window, 128)
        or CHROMA (its mean chroma, 12).
    frames : length of a window, see `window_frames`.
    track_ids : the tracks; None for all that have a label.
    show : draw a progress bar.
    client : a cluster to work on instead of this machine, see `in_parts`.
    """
    if encoder is None and name not in (MEAN_MEL, CHROMA):
        raise KeyMynaError(f"features {name!r} need an encoder; without one there are {MEAN_MEL!r} and {CHROMA!r}.")
    request = [frames, None if track_ids is None else list(track_ids)]
    track_ids = list(corpus.manifest.index[corpus.manifest["key"] >= 0] if track_ids is None else track_ids)

    identity = _identity(corpus, {name: encoder}, request)

    def compute() -> dict[str, Features]:
        if client is None:
            return {name: _extract(corpus, track_ids, name, encoder, frames, show=show)}
        weights = device = None
        if encoder is not None:
            weights, device = _parts(identity) / "encoder.safetensors", next(encoder.parameters()).device.type
            save_encoder(encoder, weights)
        work = functools.partial(_extract_part, name=name, weights=weights, device=device, frames=frames)
        return {name: in_parts(client, work, corpus, track_ids, identity, desc=f"features: {name}", show=show)}

    return cached([name], identity, compute)[name]


def _extract(
    corpus: Corpus,
    track_ids: Sequence[str],
    name: str,
    encoder: Encoder | None,
    frames: int,
    *,
    workers: int = 0,
    show: bool,
) -> Features:
    if name == CHROMA:
        work = functools.partial(_window_chroma, frames=frames)
        chroma = over_tracks(work, corpus, track_ids, desc=name, workers=workers, progress=show)
        return of_tracks([torch.from_numpy(rows) for rows in chroma], track_ids)
    rows: list[Tensor] = []
    with bar(desc=f"features: {name}", total=len(track_ids), unit="track", show=show) as progress:
        for group in _groups(track_ids, encoder):
            windows = [_all_windows(corpus, track, frames) for track in group]
            rows += _of_windows(torch.cat(windows), encoder).split([len(w) for w in windows])
            progress.update(len(group))
    return of_tracks(rows, track_ids)


def _extract_part(
    corpus: Corpus, track_ids: Sequence[str], *, name: str, weights: Path | None, device: str | None, frames: int
) -> Features:
    """In a worker of a cluster: `_extract` with an encoder from a file."""
    encoder = None if weights is None else _encoder_of(weights, device)
    return _extract(corpus, track_ids, name, encoder, frames, workers=1, show=False)


@functools.lru_cache(maxsize=1)
def _encoder_of(weights: Path, device: str) -> Encoder:
    return load_encoder(weights).to(device)


def of_tracks(rows: Sequence[Tensor], track_ids: Sequence[str]) -> Features:
    """Unshifted features from each track's rows, (window, dim)."""
    track = torch.repeat_interleave(torch.tensor([len(r) for r in rows]))
    return Features(torch.cat(list(rows)), track, torch.zeros_like(track), tuple(track_ids))


def in_parts(
    client: Client,
    work: Callable[[Corpus, Sequence[str]], Features],
    corpus: Corpus,
    track_ids: Sequence[str],
    identity: str,
    *,
    desc: str,
    show: bool,
) -> Features:
    """Unshifted features computed on a cluster in parts of PART tracks, which are kept until `cached` has the whole.

    Parameters
    ----------
    work : a `functools.partial` of a function of a module, small when sent; gives the features of some tracks.
    corpus : its workers open it by its path.
    identity : names the folder, as for `cached`; parts that are there already are not computed again.
    """
    parts = [track_ids[i : i + PART] for i in range(0, len(track_ids), PART)]
    files = [_parts(identity) / f"part-{i:05d}.safetensors" for i in range(len(parts))]
    tasks = [(work, corpus.path, part, file) for part, file in zip(parts, files)]
    for _ in over(client, _make_part, tasks, desc=desc, unit="track", sizes=[len(part) for part in parts], show=show):
        pass
    made = [load_features(file) for file in files]
    return of_tracks([rows for one in made for rows in one.x.split(one.track.bincount().tolist())], track_ids)


def _make_part(
    work: Callable[[Corpus, Sequence[str]], Features], path: Path, track_ids: Sequence[str], file: Path
) -> None:
    try:
        load_features(file)
    except KeyMynaError:
        corpus = _corpus_at(path)
        save_features(work(corpus, track_ids), file)
        corpus.close()


@functools.lru_cache(maxsize=1)
def _corpus_at(path: Path) -> Corpus:
    from keymyna_lib.corpus.corpus import open_corpus

    return open_corpus(path)


def _parts(identity: str) -> Path:
    return paths.CACHE / "features" / identity / "parts"


@torch.inference_mode()
def extract_blocks(
    corpus: Corpus, encoder: Encoder, track_ids: Sequence[str], *, frames: int = WINDOW, desc: str
) -> Tensor:
    """Mean tokens of every window of some tracks by depth, (block, row, dim) float32; rows as `extract` orders them.

    Block 0 is the patch embedding, block i the output of layer i, and the last one the embedding itself.
    """
    device, rows = next(encoder.parameters()).device, []
    with bar(desc=desc, total=len(track_ids), unit="track") as progress:
        for group in _groups(track_ids):
            windows = torch.cat([_all_windows(corpus, track, frames) for track in group])
            rows.append(torch.stack(encoder.block_means(windows.to(device))).cpu())
            progress.update(len(group))
    return torch.cat(rows, dim=1)


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
    """Feature sets enlarged by the rows of pitch-shifted views; kept in the cache.

    Parameters
    ----------
    encoders : by name, those of `base` that are embeddings.
    base : what `extract` returned: MEAN_MEL, CHROMA and the encoders' sets.
    shifts_of_track : semitones of each track's views (0 is in `base` already and passed over).
    windows : windows of each shifted view, see `spread_windows`.
    frames : length of a window, as in `base`.
    """

    def compute() -> dict[str, Features]:
        parts: dict[str, list[Tensor]] = {name: [base[name].x] for name in base}
        track, shift = [base[CHROMA].track], [base[CHROMA].shift]
        position = {name: i for i, name in enumerate(base[CHROMA].track_ids)}
        wanted = {name: [s for s in shifts if s != 0] for name, shifts in shifts_of_track.items()}
        wanted = {name: shifts for name, shifts in wanted.items() if shifts}
        with bar(desc="pitch-shifted views", total=len(wanted), unit="track", show=show) as progress:
            for group in _groups(list(wanted)):
                views, chroma = [], []
                for name in group:
                    starts = window_starts(len(corpus.spectrogram(name)), frames)
                    few = spread_windows(len(starts), windows)
                    views.append(_shifted_windows(corpus.audio(name), starts[few], wanted[name], frames))
                    unshifted = base[CHROMA].x[base[CHROMA].track == position[name]][few]
                    chroma += [unshifted.roll(s, dims=1) for s in wanted[name]]
                    track.append(torch.full((len(views[-1]),), position[name]))
                    shift.append(torch.tensor(wanted[name]).repeat_interleave(len(few)))
                for key, rows in parts.items():
                    rows.append(
                        torch.cat(chroma) if key == CHROMA else _of_windows(torch.cat(views), encoders.get(key))
                    )
                progress.update(len(group))
        columns = torch.cat(track), torch.cat(shift), base[CHROMA].track_ids
        return {name: Features(torch.cat(rows), *columns) for name, rows in parts.items()}

    request = {
        "windows": windows,
        "frames": frames,
        "shifts": {name: list(map(int, s)) for name, s in shifts_of_track.items()},
    }
    return cached(list(base), _identity(corpus, {name: encoders.get(name) for name in base}, request), compute)


def _shifted_windows(audio: np.ndarray, starts: Sequence[int], shifts: Sequence[int], frames: int) -> Tensor:
    """Stored spectrograms of some windows of pitch-shifted views, (shift x window, mel, frame), shift by shift.

    Only these windows are transformed. A frame reaches N_FFT / 2 samples to either side; with so much more audio, and
    what lies there dropped, the frames are those of the whole recording.
    """
    margin, windows = N_FFT // 2 // HOP, []
    for start in starts:
        first = max(start - margin, 0)
        power = mel_power(audio[HOP * first : HOP * (start + frames + margin)], shifts)
        windows.append(torch.stack([cut_windows(mel, [start - first], frames)[0] for mel in compress(power)]))
    return torch.stack(windows, dim=1).flatten(0, 1)


def spread_windows(n: int, count: int) -> np.ndarray:
    """Indices of `count` of n windows spread evenly over the track, the middle one for one, all when there are fewer."""
    if count == 1:
        return np.array([n // 2])
    return np.linspace(0, n - 1, min(count, n)).round().astype(int)


def _groups(track_ids: Sequence[str], encoder: Encoder | None = None) -> list[Sequence[str]]:
    """Tracks that are embedded together: an encoder is half as fast again on full batches, and a GPU wants large ones."""
    size = 256 if encoder is not None and next(encoder.parameters()).is_cuda else 16
    return [track_ids[i : i + size] for i in range(0, len(track_ids), size)]


def _all_windows(corpus: Corpus, track_id: str, frames: int) -> Tensor:
    stored = torch.from_numpy(np.array(corpus.spectrogram(track_id))).T
    return cut_windows(stored, window_starts(stored.shape[1], frames), frames)


def _identity(corpus: Corpus, encoders: Mapping[str, Encoder | None], request: object = None) -> str:
    code = code_hash_of(__name__)
    # The configuration too: scale and patches leave no mark on the weights.
    weights = {
        name: encoder and [asdict(encoder.config), content_hash(encoder.state_dict())]
        for name, encoder in encoders.items()
    }
    return sha256_json([corpus.hash, weights, request, code])[:16]


def cached(names: Sequence[str], identity: str, compute: Callable[[], dict[str, Features]]) -> dict[str, Features]:
    """Feature sets from the cache, or computed (again, when a file is absent or damaged) and kept there."""
    folder = paths.CACHE / "features" / identity
    try:
        return {name: load_features(folder / f"{name}.safetensors") for name in names}
    except KeyMynaError:
        made = compute()
    for name, features in made.items():
        save_features(features, folder / f"{name}.safetensors")
    shutil.rmtree(_parts(identity), ignore_errors=True)
    return made


def save_features(features: Features, path: Path) -> None:
    """Write one feature set as safetensors, its tracks in the metadata."""
    tensors = {"x": features.x, "track": features.track, "shift": features.shift}
    save_tensors(path, tensors, track_ids=json.dumps(features.track_ids), sha256=content_hash(tensors))


def load_features(path: Path) -> Features:
    """Read a feature set; a damaged or absent file is a KeyMynaError that names it."""
    with reading(path, "a feature set", "Delete it if it is there, and run again.") as (tensors, metadata):
        if content_hash(tensors) != metadata["sha256"]:
            raise ValueError("its content has changed")
        return Features(**tensors, track_ids=tuple(json.loads(metadata["track_ids"])))


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over tensors, in the order of their names."""
    return sha256_json(
        [[name, sha256_bytes(value.cpu().contiguous().numpy().tobytes())] for name, value in sorted(tensors.items())]
    )


def track_embeddings(
    encoder: Encoder, spectrograms: Sequence[np.ndarray], frames: int = WINDOW
) -> tuple[Tensor, Tensor]:
    """Window embeddings of stored spectrograms, each (frame, mel): (window, embedding), and (window,) the track."""
    rows = []
    for stored in spectrograms:
        mel = torch.from_numpy(np.array(stored)).T
        rows.append(embed(encoder, cut_windows(mel, window_starts(mel.shape[1], frames), frames)))
    return torch.cat(rows), torch.repeat_interleave(torch.tensor([len(r) for r in rows]))
