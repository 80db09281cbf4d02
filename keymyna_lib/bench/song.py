"""One song, from a sound file to its key: warm and cold, beside essentia's KeyExtractor."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import torch

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.bench import material
from keymyna_lib.bench.measure import Action, Case, Measurement, alternate, summary
from keymyna_lib.bench.sizes import Size
from keymyna_lib.compute.threads import one_thread
from keymyna_lib.heads import HeadSpec, TrainedHead
from keymyna_lib.key_model import KeyModel
from keymyna_lib.keys import N_KEYS
from keymyna_lib.model import EncoderConfig, build_encoder, save_encoder
from keymyna_lib.predict import KeyFinder

SUBJECT = "song"
OURS, ALONE, ESSENTIA = "ours", "ours, one thread", "essentia"
_ESSENTIA = (
    "import essentia; essentia.log.infoActive = essentia.log.warningActive = False\n"
    "import essentia.standard as e, sys\n"
    "print(e.KeyExtractor()(e.MonoLoader(filename=sys.argv[1])()))"
)


def files_of(folder: Path, preset: str) -> tuple[Path, Path]:
    """An encoder and a linear head for it, untrained: what they cost does not depend on their weights."""
    encoder = build_encoder(EncoderConfig(preset, "vertical", "linear"), torch_stream(0, "weights"))
    dim, made = encoder.embedding_dim, folder / "song"
    head = TrainedHead(
        HeadSpec(),
        {"weight.0": torch.randn(N_KEYS, dim, generator=torch_stream(0, "head")), "bias.0": torch.zeros(N_KEYS)},
        torch.zeros(dim),
        torch.ones(dim),
    )
    save_encoder(encoder, made / f"{preset}.safetensors")
    head.save(made / f"{preset}-head.safetensors")
    return made / f"{preset}.safetensors", made / f"{preset}-head.safetensors"


def warm(folder: Path, size: Size, preset: str, seconds: float) -> list[Measurement]:
    """Seconds per song with everything loaded; essentia on one thread, with its own decoder and sample rate."""
    import essentia

    essentia.log.infoActive = essentia.log.warningActive = False
    import essentia.standard

    (path,) = material.write_audio(folder / "song", size.song_seconds, 1)
    finder, extractor = KeyFinder(KeyModel.of_files(*files_of(folder, preset))), essentia.standard.KeyExtractor()

    def alone() -> None:
        with one_thread():
            finder.key(path)

    times = alternate(
        {
            OURS: lambda: finder.key(path),
            ALONE: alone,
            ESSENTIA: lambda: extractor(essentia.standard.MonoLoader(filename=str(path))()),
        },
        seconds,
    )
    case = f"{preset}, warm, an mp3 of {size.song_seconds:g} s"
    rows = times.rows(
        SUBJECT,
        case,
        "songs",
        "1/s",
        dict.fromkeys((OURS, ALONE, ESSENTIA), 1.0),
        ratios=[(OURS, ESSENTIA), (ALONE, ESSENTIA)],
    )
    return rows + [summary(SUBJECT, case, name, "time", "s", taken) for name, taken in times.seconds.items()]


def cold(folder: Path, size: Size, preset: str, seconds: float) -> list[Measurement]:
    """Seconds of a whole process that finds one key, and how much of it goes into importing torch."""
    (path,) = material.write_audio(folder / "song", size.song_seconds, 1)
    encoder, head = files_of(folder, preset)
    times = alternate(
        {
            OURS: process("-m", "keymyna_lib", "predict", "--model", encoder, "--head", head, path),
            ESSENTIA: process("-c", _ESSENTIA, path),
            "importing torch": process("-c", "import torch"),
        },
        seconds,
    )
    case = f"{preset}, cold, an mp3 of {size.song_seconds:g} s"
    rows = times.rows(SUBJECT, case, "songs", "1/s", {OURS: 1.0, ESSENTIA: 1.0}, ratios=[(OURS, ESSENTIA)])
    rows += [summary(SUBJECT, case, name, "time", "s", taken) for name, taken in times.seconds.items()]
    share = [alone / whole for alone, whole in zip(times.seconds["importing torch"], times.seconds[OURS])]
    return [*rows, summary(SUBJECT, case, OURS, "share of importing torch", "", share)]


def process(*arguments: object) -> Action:
    """A run of Python in a new process; a KeyMynaError when it fails."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}

    def run() -> None:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise KeyMynaError(f"{' '.join(command[1:4])} failed: {done.stderr[-500:]}")

    return run


def cases(size: Size, folder: Path) -> list[Case]:
    """All cases of one song."""
    made = [
        Case(SUBJECT, f"warm: {preset}", functools.partial(warm, folder, size, preset), 0.3) for preset in size.presets
    ]
    return [
        *made,
        Case(SUBJECT, f"cold: {size.presets[-1]}", functools.partial(cold, folder, size, size.presets[-1]), 0.5),
    ]
