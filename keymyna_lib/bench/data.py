"""From the store to a batch, and from audio to spectrograms: decoding, resampling and mel, beside other front ends."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch

from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.bench import material
from keymyna_lib.bench.measure import Case, Measurement, alternate, not_run, summary
from keymyna_lib.bench.sizes import Size
from keymyna_lib.bench.step import (
    OURS,
    REFERENCE,
    config,
    corpus_in,
    name_of,
    our_run,
    reference_batches,
    reference_files,
)
from keymyna_lib.compute.threads import one_thread
from keymyna_lib.corpus.recordings.decode import read_audio
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.spectrogram import HOP, N_FFT, N_MELS, SAMPLE_RATE, compress, mel_power

SUBJECT = "data"
_MINUTES = 60.0 / 3600.0  # from seconds of audio per second to hours per minute


def store_to_batch(folder: Path, size: Size, settings: PretrainConfig, seconds: float) -> list[Measurement]:
    """Drawing a batch from the store on disk, beside the reference's loader; and its share of the step.

    Both draw in this process: batches that a loader's processes fetch during the other's turn would come for free.
    `step.end_to_end` measures the loader with its processes.
    """
    path, case = corpus_in(folder, size, settings.batch_size), f"{name_of(settings)}, store to batch"
    run, batches = our_run(path, settings), reference_batches(reference_files(path), settings, 0)
    generator, drawn = torch_stream(0, "batches"), iter(range(1 << 62))

    def draw() -> None:
        tracks = run.train_sampler.tracks_of_step(next(drawn), settings.batch_size, settings.seed)
        run.train_sampler.batch(tracks, run.objective.views, generator)

    times = alternate({OURS: draw, REFERENCE: lambda: next(batches), "step": run.take_step}, seconds)
    rows = times.rows(
        SUBJECT,
        case,
        "examples",
        "1/s",
        dict.fromkeys((OURS, REFERENCE), settings.batch_size),
        ratios=[(OURS, REFERENCE)],
    )
    share = [drawing / step for drawing, step in zip(times.seconds[OURS], times.seconds["step"])]
    return [*rows, summary(SUBJECT, case, OURS, "share of the step that draws its batch", "", share)]


def audio_to_spectrogram(folder: Path, size: Size, ending: str, seconds: float) -> list[Measurement]:
    """A sound file to its stored spectrogram on one core, whole and part by part."""
    import soundfile
    import soxr

    (path,) = material.write_audio(folder / "audio", size.audio_seconds, 1, ending=ending)
    stereo, rate = soundfile.read(path, dtype="float32")
    decoded = stereo.mean(axis=1)
    resampled = soxr.resample(decoded, rate, SAMPLE_RATE, quality="HQ")
    actions = {
        "whole": lambda: compress(mel_power(read_audio(path))[0]),
        "decode alone": lambda: soundfile.read(path, dtype="float32")[0].mean(axis=1),
        "resample alone": lambda: soxr.resample(decoded, rate, SAMPLE_RATE, quality="HQ"),
        "mel alone": lambda: compress(mel_power(resampled)[0]),
    }
    with one_thread():
        times = alternate(actions, seconds)
    case = f"{ending}, 44.1 kHz stereo, one core"
    return [
        summary(SUBJECT, case, OURS, part, "h/min", _MINUTES * size.audio_seconds / np.array(taken))
        for part, taken in times.seconds.items()
    ]


def mel(folder: Path, size: Size, seconds: float) -> list[Measurement]:
    """The mel front end beside nnAudio's, torchaudio's and librosa's, on one core, from decoded audio."""
    audio, case = material.noise(size.audio_seconds), "mel, one core"
    actions, rows = {OURS: lambda: mel_power(audio)}, []
    try:
        from nnAudio.features import MelSpectrogram

        transform = MelSpectrogram(sr=SAMPLE_RATE, n_fft=N_FFT, n_mels=N_MELS, hop_length=HOP, verbose=False)
        actions["nnAudio"] = lambda: transform(torch.from_numpy(audio))
    except ImportError:
        rows.append(not_run(SUBJECT, case, "nnAudio", "audio", "h/min", "nnAudio is not installed"))
    import librosa
    import torchaudio

    other = torchaudio.transforms.MelSpectrogram(
        SAMPLE_RATE, N_FFT, hop_length=HOP, n_mels=N_MELS, norm="slaney", mel_scale="slaney"
    )
    actions["torchaudio"] = lambda: other(torch.from_numpy(audio))
    actions["librosa"] = lambda: librosa.feature.melspectrogram(
        y=audio, sr=SAMPLE_RATE, n_fft=N_FFT, hop_length=HOP, n_mels=N_MELS
    )
    with one_thread(), torch.no_grad():
        times = alternate(actions, seconds)
    return rows + times.rows(
        SUBJECT,
        case,
        "audio",
        "h/min",
        dict.fromkeys(actions, _MINUTES * size.audio_seconds),
        ratios=[(OURS, other) for other in actions if other != OURS],
    )


def cases(size: Size, folder: Path) -> list[Case]:
    """All cases of the data path."""
    steps = {preset: config(preset, batch, mask) for preset, batch, mask in size.steps}  # the last of each preset
    made = [
        Case(SUBJECT, f"store to batch: {preset}", functools.partial(store_to_batch, folder, size, steps[preset]), 0.5)
        for preset in size.presets
    ]
    made += [
        Case(
            SUBJECT,
            f"audio to spectrogram: {ending}",
            functools.partial(audio_to_spectrogram, folder, size, ending),
            0.3,
        )
        for ending in size.formats
    ]
    return [*made, Case(SUBJECT, "mel", functools.partial(mel, folder, size), 0.3)]
