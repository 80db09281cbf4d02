"""What is measured on: a corpus, sound files and rows of features, drawn from a seed.

How long an operation takes does not depend on the music, so no data set is needed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.corpus import corpus as corpora
from keymyna_lib.corpus import store
from keymyna_lib.heads import Rows
from keymyna_lib.keys import N_KEYS
from keymyna_lib.spectrogram import N_MELS, SAMPLE_RATE

_BLOCK = 1 << 16  # frames drawn at once


def write_corpus(folder: Path, n_tracks: int, n_frames: int, *, seed: int = 0) -> corpora.Corpus:
    """A corpus of spectrograms on disk, noise at the level of music, opened like any other. Its audio is empty.

    Parameters
    ----------
    folder : a new one.
    n_tracks, n_frames : tracks, and frames of each; a tenth of the tracks, at least one, is for validation.
    """
    rng = numpy_stream(seed, "tracks")
    block = (6 * rng.random((min(_BLOCK, n_tracks * n_frames), N_MELS), dtype=np.float32)).astype(np.float16)
    n_valid = max(1, n_tracks // 10)
    manifest = pd.DataFrame(
        {
            "source": "noise",
            "split": ["valid"] * n_valid + ["train"] * (n_tracks - n_valid),
            "key": np.arange(n_tracks) % N_KEYS,
            "n_samples": 1,
            "n_frames": n_frames,
        },
        index=pd.Index([f"noise-{i:06d}" for i in range(n_tracks)], name="track_id"),
    )
    places = store.offsets(manifest)
    for shard, sizes in store.sizes(places):
        path = store.shard_folder(folder, shard)
        path.mkdir(parents=True)
        left = sizes[store.FRAMES] // block[0].nbytes
        with open(path / store.FRAMES, "wb") as file:
            while left > 0:  # the same block again and again: drawing terabytes of noise would measure the generator
                file.write(block[:left].data)
                left -= len(block)
        (path / store.AUDIO).write_bytes(
            bytes(sizes[store.AUDIO])
        )  # one sample per track: an empty file cannot be mapped
    corpora.finish(folder, {"seed": seed}, {}, manifest, places)
    return corpora.open_corpus(folder)


def write_reference_files(folder: Path, corpus: corpora.Corpus, track_ids: list[str]) -> list[Path]:
    """The same spectrograms as the public code keeps them: one file per track, float32 mel power, (1, mel, frame)."""
    folder.mkdir(parents=True)
    made = []
    for track in track_ids:
        made.append(folder / f"{track}.npy")
        np.save(made[-1], np.expm1(corpus.spectrogram(track).astype(np.float32)).T[None])
    return made


def write_audio(folder: Path, seconds: float, n_tracks: int, *, ending: str = "mp3", seed: int = 0) -> list[Path]:
    """Stereo sound files at 44.1 kHz: chords of a key under a little noise."""
    import soundfile

    folder.mkdir(parents=True, exist_ok=True)
    rate, made = 44_100, []
    time = np.arange(round(seconds * rate)) / rate
    for i in range(n_tracks):
        rng = numpy_stream(seed, "track", i)
        audio = 0.02 * rng.standard_normal((len(time), 2))
        for semitone in (0, 4, 7, 12, 16):
            audio += 0.1 * np.sin(2 * np.pi * 220 * 2 ** ((semitone + i % 12) / 12) * time)[:, None]
        made.append(folder / f"{i:04d}.{ending}")
        soundfile.write(made[-1], audio, rate, format=ending.upper())
    return made


def noise(seconds: float, *, seed: int = 0) -> np.ndarray:
    """(sample,) float32 at 16 kHz."""
    return 0.1 * numpy_stream(seed, "audio").standard_normal(round(seconds * SAMPLE_RATE)).astype(np.float32)


def rows(n_tracks: int, windows: int, dim: int, *, seed: int = 0) -> Rows:
    """Rows of features: `windows` per track, keys in turn."""
    rng, track = numpy_stream(seed, "rows"), np.repeat(np.arange(n_tracks), windows)
    return Rows(torch.from_numpy(rng.standard_normal((len(track), dim), dtype=np.float32)), track % N_KEYS, track)
