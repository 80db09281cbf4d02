"""Embedding recordings: windows and tracks per second, from stored spectrograms and from sound files."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.bench import material, reference
from keymyna_lib.bench.measure import NO_GPU, Case, Measurement, alternate, not_run, synchronised
from keymyna_lib.bench.sizes import Size
from keymyna_lib.bench.step import OURS, REFERENCE, corpus_in, reference_files
from keymyna_lib.corpus.corpus import open_corpus
from keymyna_lib.corpus.recordings.decode import read_audio
from keymyna_lib.features import cut_windows, embed
from keymyna_lib.model import EncoderConfig, build_encoder
from keymyna_lib.spectrogram import WINDOW, compress, mel_power, window_starts

SUBJECT = "embedding"


def windows_of(stored: torch.Tensor) -> torch.Tensor:
    """All windows of a stored spectrogram (mel, frame)."""
    return cut_windows(stored, window_starts(stored.shape[1]))


@torch.inference_mode()
def embed_reference(encoder: reference.ReferenceEncoder, files: list[Path]) -> None:
    """Track by track, one file each, the windows of one track at a time."""
    for file in files:
        power = torch.from_numpy(np.load(file)).to(next(encoder.parameters()).device)
        encoder(torch.stack([power[..., start : start + WINDOW] for start in window_starts(power.shape[-1])])).cpu()


def compare(folder: Path, size: Size, preset: str, device: str, seconds: float) -> list[Measurement]:
    """Both rates of both implementations; from audio only the library's, as the public code has no such path."""
    path = corpus_in(folder, size)
    corpus, files = open_corpus(path), reference_files(path)[: size.embed_tracks]
    tracks = [file.stem for file in files]
    encoder = build_encoder(EncoderConfig(preset, "vertical", "linear"), torch_stream(0, "weights")).to(device).eval()
    theirs = reference.ReferenceEncoder(preset).to(device).eval()
    theirs.load_state_dict(encoder.state_dict())
    sounds = material.write_audio(folder / "sounds", size.seconds, size.embed_tracks)

    def from_store() -> None:
        embed(encoder, torch.cat([windows_of(torch.from_numpy(np.array(corpus.spectrogram(t))).T) for t in tracks]))

    def from_audio() -> None:
        embed(encoder, torch.cat([windows_of(compress(mel_power(read_audio(sound))[0])) for sound in sounds]))

    gpu, where = torch.device(device), ", GPU" if device == "cuda" else ""
    actions = {
        OURS: synchronised(from_store, gpu),
        "ours, from mp3": synchronised(from_audio, gpu),
        REFERENCE: synchronised(lambda: embed_reference(theirs, files), gpu),
    }
    times = alternate(actions, seconds)
    n_windows = len(tracks) * len(window_starts(len(corpus.spectrogram(tracks[0]))))
    stored = (OURS, REFERENCE)
    case = f"{preset}{where}"
    return [
        *times.rows(SUBJECT, case, "windows", "1/s", dict.fromkeys(stored, n_windows), ratios=[(OURS, REFERENCE)]),
        *times.rows(SUBJECT, case, f"tracks of {size.seconds:g} s", "1/s", dict.fromkeys(actions, len(tracks))),
    ]


def cases(size: Size, folder: Path) -> list[Case]:
    """All cases of the embedding."""
    made = []
    for preset in size.presets:
        made.append(Case(SUBJECT, preset, functools.partial(compare, folder, size, preset, "cpu")))
        if torch.cuda.is_available():
            made.append(Case(SUBJECT, f"{preset}, GPU", functools.partial(compare, folder, size, preset, "cuda"), 0.5))
        else:
            row = not_run(SUBJECT, f"{preset}, GPU", OURS, "windows", "1/s", NO_GPU)
            made.append(Case(SUBJECT, f"{preset}, GPU", lambda seconds, row=row: [row], 0.0))
    return made
