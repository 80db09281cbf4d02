"""How time and memory grow: against batch, tokens, tracks, heads and length, with exponents; and against the corpus."""

from __future__ import annotations

import functools
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.bench import material
from keymyna_lib.bench.heads import train_ours
from keymyna_lib.bench.measure import (
    Action,
    Case,
    Measurement,
    alternate,
    anonymous_memory,
    exponent,
    in_fresh_process,
    peak_of,
    summary,
)
from keymyna_lib.bench.sizes import Size
from keymyna_lib.bench.song import files_of
from keymyna_lib.bench.step import OURS, config, corpus_in, our_bare_step
from keymyna_lib.corpus.corpus import open_corpus
from keymyna_lib.features import track_embeddings
from keymyna_lib.heads import HeadSpec
from keymyna_lib.key_model import KeyModel
from keymyna_lib.model import EncoderConfig, build_encoder
from keymyna_lib.predict import KeyFinder
from keymyna_lib.pretrain import CropSampler
from keymyna_lib.spectrogram import N_MELS, WINDOW

SUBJECT = "growth"
_BATCHES = 50  # drawn from each store
_TRACK_FRAMES = 1000  # of the stores' tracks, 32 s


def grow(case: str, actions: Mapping[float, Action], seconds: float) -> list[Measurement]:
    """Times at some sizes, in turns, and the exponent, fitted in each round."""
    times = alternate({f"{size:g}": action for size, action in actions.items()}, seconds)
    rows = [summary(SUBJECT, case, OURS, "time", "s", times.seconds[f"{size:g}"], size=size) for size in actions]
    fits = [exponent(list(actions), list(taken))[0] for taken in zip(*times.seconds.values())]
    return [*rows, summary(SUBJECT, case, OURS, "exponent", "", fits)]


def step_by_batch(size: Size, folder: Path, seconds: float) -> list[Measurement]:
    """The bare step by tracks in a batch."""
    path = corpus_in(folder, size, max(size.growth_batches))
    return grow(
        "step by batch",
        {batch: our_bare_step(path, config(size.presets[-1], batch, 0.9)) for batch in size.growth_batches},
        seconds,
    )


def memory_by_batch(size: Size, folder: Path, seconds: float) -> list[Measurement]:
    """Peak memory of the bare step beyond the imports, by tracks in a batch, each in a new process."""
    path = corpus_in(folder, size, max(size.growth_batches))
    found = {
        batch: in_fresh_process(peak_of, our_bare_step, path, config(size.presets[-1], batch, 0.9))["above imports"]
        for batch in size.growth_batches
    }
    rows = [
        summary(SUBJECT, "memory by batch", OURS, "memory", "MB", [peak / 1e6], size=batch)
        for batch, peak in found.items()
    ]
    return [
        *rows,
        summary(SUBJECT, "memory by batch", OURS, "exponent", "", [exponent(list(found), list(found.values()))[0]]),
    ]


def step_by_tokens(size: Size, folder: Path, seconds: float) -> list[Measurement]:
    """The bare unmasked step by tokens of a crop."""
    path = folder / "corpus-long"
    material.write_corpus(path, size.masking_batch + 2, max(size.growth_frames) + 10)
    actions = {
        frames // 2: our_bare_step(path, config(size.presets[-1], size.masking_batch, 0.0, crop_frames=frames))
        for frames in size.growth_frames
    }
    return grow("unmasked step by tokens", actions, seconds)


def embedding_by_tracks(size: Size, folder: Path, seconds: float) -> list[Measurement]:
    """Embedding by tracks."""
    corpus = open_corpus(corpus_in(folder, size))
    encoder = build_encoder(EncoderConfig(size.presets[-1], "vertical", "linear"), torch_stream(0, "weights")).eval()
    stored = [corpus.spectrogram(track) for track in corpus.tracks()[: max(size.growth_tracks)]]
    return grow(
        "embedding by tracks",
        {n: functools.partial(track_embeddings, encoder, stored[:n]) for n in size.growth_tracks},
        seconds,
    )


def heads_by_number(size: Size, folder: Path, seconds: float) -> list[Measurement]:
    """Linear heads side by side by their number: below 1, as they share the cost of Python."""
    train, valid = (material.rows(n // 4, 4, size.head_dim, seed=n) for n in (size.head_rows, size.head_rows // 32))
    grids = {n: [HeadSpec(dropout=0.5, lr=1e-4 * 1.01**i) for i in range(n)] for n in size.growth_heads}
    return grow(
        "linear heads by their number",
        {n: functools.partial(train_ours, grid, train, valid, size.linear_steps[0]) for n, grid in grids.items()},
        seconds,
    )


def song_by_length(size: Size, folder: Path, seconds: float) -> list[Measurement]:
    """A song's key by its length in seconds."""
    finder = KeyFinder(KeyModel.of_files(*files_of(folder, size.presets[-1])))
    songs = {length: material.write_audio(folder / f"song-{length:g}", length, 1)[0] for length in size.growth_seconds}
    return grow(
        "song by seconds", {length: functools.partial(finder.key, song) for length, song in songs.items()}, seconds
    )


def draw_capped(path: Path, batch_size: int, cap: int) -> float:
    """Peak anonymous memory [bytes] of a process that draws batches from the corpus in `path` under a cap [bytes].

    The cap is on writable memory (RLIMIT_DATA): mapped files do not count, as the system can drop their pages.
    """
    if cap:
        resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    corpus = open_corpus(path)
    sampler, most = CropSampler(corpus, corpus.tracks(split="train"), WINDOW), 0
    for step in range(_BATCHES):
        sampler.batch(sampler.tracks_of_step(step, batch_size, 0), 2, torch_stream(0, "batch", step))
        most = max(most, anonymous_memory())
    return float(most)


def memory_by_corpus(size: Size, folder: Path, seconds: float) -> list[Measurement]:
    """Anonymous memory [MB] of a capped process by the size of the corpus that it draws crops from."""
    case, found = "memory by corpus", {}
    for megabytes in size.store_mb:
        path, n_tracks = folder / f"store-{megabytes}", megabytes * 1_000_000 // (2 * N_MELS * _TRACK_FRAMES)
        material.write_corpus(path, n_tracks, _TRACK_FRAMES)
        try:
            found[megabytes] = in_fresh_process(draw_capped, path, min(64, n_tracks // 2), size.cap_mb * 1_000_000)
        finally:
            shutil.rmtree(path)
    rows = [
        summary(
            SUBJECT,
            case,
            OURS,
            "memory",
            "MB",
            [peak / 1e6],
            size=megabytes,
            note=f"cap {size.cap_mb} MB" if size.cap_mb else "",
        )
        for megabytes, peak in found.items()
    ]
    return [*rows, summary(SUBJECT, case, OURS, "exponent", "", [exponent(list(found), list(found.values()))[0]])]


def cases(size: Size, folder: Path) -> list[Case]:
    """All cases of growth."""
    timed = (step_by_batch, step_by_tokens, embedding_by_tracks, heads_by_number, song_by_length)
    return [
        *(Case(SUBJECT, function.__name__, functools.partial(function, size, folder), 0.7) for function in timed),
        *(
            Case(SUBJECT, function.__name__, functools.partial(function, size, folder), 0.0)
            for function in (memory_by_batch, memory_by_corpus)
        ),
    ]
