"""Damaged files by the thousand: what a reader makes of each is what it should be, or one clear error.

    PYTHONPATH=. python tests/mutations.py [--each 200] [--seed 0] [--only wav --only head]

Of each kind of file (recordings in five formats, an encoder, a head, a feature set, keys.csv, predictions) so many
mutations are read, in a process of their own. A mutation passes when the reader returns something sound (of audio, as
long as the file can hold) or raises a KeyMynaError that names the file, within 10 seconds and 1 GB. Anything else is
printed with its kind and number, which make it again, and the status is 1. Not part of the test suite: it takes
minutes.
"""

from __future__ import annotations

import collections
import multiprocessing
import resource
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import click
import numpy as np
import pandas as pd
import soundfile
import torch
from tones import cadence

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings.decode import audio_length, read_audio
from keymyna_lib.corpus.recordings.folder import AudioFolder
from keymyna_lib.experiments.scoring import outside_predictions
from keymyna_lib.features import Features, load_features, save_features
from keymyna_lib.heads import HeadSpec, Rows, TrainedHead, train_heads
from keymyna_lib.keys import KEY_NAMES, N_KEYS
from keymyna_lib.model import EncoderConfig, build_encoder, load_encoder, save_encoder
from keymyna_lib.spectrogram import SAMPLE_RATE

SECONDS = 12.0  # of each recording
LONGEST = 10.0  # s for one mutation
MEMORY = 1 << 30  # bytes
HEADER = 300  # bytes at the beginning, where half of the mutations fall
SOUND = ("wav", "flac", "ogg", "mp3", "m4a")


@dataclass
class Kind:
    """A kind of file: its name within the folder, how it is written, and how it is read and judged."""

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path, float], None]  # the file, and the share of its bytes that a truncation left


def _write_sound(path: Path) -> None:
    audio = cadence(3, SECONDS, 22050)
    if path.suffix != ".m4a":
        soundfile.write(path, np.stack([audio, audio], axis=1), 22050, format=path.suffix[1:].upper())
        return
    import av

    with av.open(str(path), "w", format="ipod") as container:
        stream = container.add_stream("aac", rate=22050)
        for start in range(0, len(audio), 1024):
            frame = av.AudioFrame.from_ndarray(audio[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate = 22050
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _read_sound(path: Path, share: float) -> None:
    audio, length = read_audio(path), audio_length(path)
    assert audio.dtype == np.float32 and audio.ndim == 1 and len(audio) and np.isfinite(audio).all()
    assert abs(len(audio) - length) <= max(SAMPLE_RATE, length / 100), f"{len(audio)} of {length} samples"
    if share < 1:  # nobody can have more than a truncation left; the bit rate is not constant, and a second may miss
        assert len(audio) <= (1.25 * share * SECONDS + 2) * SAMPLE_RATE, (
            f"{len(audio)} samples of {share:.2f} of a file"
        )


def _write_encoder(path: Path) -> None:
    save_encoder(build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch.Generator().manual_seed(0)), path)


def _read_encoder(path: Path, share: float) -> None:
    with torch.inference_mode():
        assert load_encoder(path)(torch.rand(1, 128, 196)).isfinite().all()


def _write_head(path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = Rows(rng.standard_normal((48, 16)).astype(np.float32), np.arange(48) % N_KEYS, np.arange(48))
    spec = HeadSpec((8,), 0.5, 1e-2, batch_size=16)
    train_heads([spec], rows, rows, max_steps=4, eval_every=2, patience=2, seed=0)[0].save(path)


def _read_head(path: Path, share: float) -> None:
    head = TrainedHead.load(path)
    found = head.predict(np.zeros((2, len(head.mean)), np.float32), np.array([0, 1]))
    assert found.shape == (2, N_KEYS) and np.isfinite(found).all() and np.allclose(found.sum(axis=1), 1, atol=1e-3)


def _write_features(path: Path) -> None:
    x = torch.rand(6, 8, generator=torch.Generator().manual_seed(0))
    save_features(
        Features(x, torch.tensor([0, 0, 1, 1, 2, 2]), torch.zeros(6, dtype=torch.int64), ("a", "b", "c")), path
    )


def _read_features(path: Path, share: float) -> None:
    assert load_features(path).x.isfinite().all()


def _write_keys(path: Path) -> None:
    lines = [f"song {i}.wav,{KEY_NAMES[i % N_KEYS]},Émilie {i % 7}" for i in range(40)]
    path.write_text("file,key,artist\n" + "\n".join(lines) + "\n", encoding="utf-8")


def _read_keys(path: Path, share: float) -> None:
    table = AudioFolder("mine").index(path.parents[2])
    assert table.index.is_unique and table["key"].between(-1, N_KEYS - 1).all()  # -1: excluded


_TRACKS = [f"toy/{i}" for i in range(40)]


def _write_predictions(path: Path) -> None:
    path.write_text("track,key\n" + "".join(f"{i},{KEY_NAMES[i % N_KEYS]}\n" for i in range(40)), encoding="utf-8")


def _read_predictions(path: Path, share: float) -> None:
    manifest = pd.DataFrame({"source": "toy", "composition": _TRACKS, "key": 0}, index=_TRACKS)
    corpus = SimpleNamespace(manifest=manifest, tracks=lambda split: _TRACKS if split == "test" else [])
    for table in outside_predictions(path.parents[1], "toy", corpus).values():
        assert len(table) == len(_TRACKS) and table["score"].between(0, 1).all()


KINDS = {
    **{ending: Kind(f"sound.{ending}", _write_sound, _read_sound) for ending in SOUND},
    "encoder": Kind("encoder.safetensors", _write_encoder, _read_encoder),
    "head": Kind("head.safetensors", _write_head, _read_head),
    "features": Kind("x.safetensors", _write_features, _read_features),
    "keys.csv": Kind("folders/mine/keys.csv", _write_keys, _read_keys),
    "predictions": Kind("toy/system.csv", _write_predictions, _read_predictions),
}


def mutated(data: bytes, others: list[bytes], rng: np.random.Generator) -> tuple[str, bytes]:
    """What was done, and the file that came of it."""
    end = len(data) if rng.random() < 0.5 else min(HEADER, len(data))
    place = int(rng.integers(end))
    what = str(rng.choice(["truncated", "flipped", "spliced", "numbers", "repeated", "zeros"]))
    changed = bytearray(data)
    if what == "truncated":
        del changed[place:]
    elif what == "flipped":
        for at in rng.integers(end, size=rng.integers(1, 9)):
            changed[at] ^= 1 << int(rng.integers(8))
    elif what == "spliced":
        other = others[rng.integers(len(others))]
        start = int(rng.integers(len(other)))
        piece = other[start : start + int(rng.integers(1, 5000))]
        changed[place : place + len(piece) * int(rng.integers(2))] = piece
    elif what == "numbers":  # sizes, rates and counts that are not so
        value = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, int(rng.integers(1 << 32))]))
        changed[place : place + 4] = value.to_bytes(4, str(rng.choice(["little", "big"])))
    elif what == "repeated":
        changed[place:place] = changed[place : place + int(rng.integers(1, 5000))]
    else:
        changed[place : place + int(rng.integers(1, 500))] = bytes(int(rng.integers(1, 500)))
    return what, bytes(changed)


def _work(pipe: Connection, folder: Path, originals: dict[str, bytes], seed: int) -> None:
    """Judge one mutation after another, as they are asked for."""
    torch.set_num_threads(1)
    for name, data in originals.items():  # whatever is imported or allocated once
        _judge(folder, name, "nothing", data, 1.0)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    while (task := pipe.recv()) is not None:
        name, number = task
        rng = np.random.default_rng([seed, list(KINDS).index(name), number])
        what, data = mutated(originals[name], list(originals.values()), rng)
        share = len(data) / len(originals[name]) if what == "truncated" else 1.0
        pipe.send((what, *_judge(folder, name, what, data, share)))


def _judge(folder: Path, name: str, what: str, data: bytes, share: float) -> tuple[str, str]:
    """("read" | "refused" | "failed", why)."""
    path = folder / KINDS[name].name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    try:
        KINDS[name].read(path, share)
    except KeyMynaError as error:
        if path.name not in str(error):
            return "failed", f"does not name the file: {error}"
        return "refused", str(error)
    except BaseException as error:
        return "failed", "".join(traceback.format_exception(error)[-3:])
    return "read", ""


class _Judge:
    """A process that may hang or die, and is then started anew."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *self.arguments), daemon=True)
        self.process.start()
        theirs.close()
        self.fresh = True

    def __call__(self, name: str, number: int) -> tuple[str, str, str]:
        self.pipe.send((name, number))
        patience, self.fresh = LONGEST + 60 * self.fresh, False  # a fresh one imports first
        try:
            if self.pipe.poll(patience):
                return self.pipe.recv()
            outcome = "?", "failed", f"still at it after {LONGEST:.0f} s"
        except EOFError:
            self.process.join()
            outcome = "?", "failed", f"the process died of signal or status {self.process.exitcode}"
        self.close()
        self._start()
        return outcome

    def close(self) -> None:
        self.process.kill()
        self.process.join()


@click.command()
@click.option("--each", default=200, show_default=True, help="Mutations of each kind of file.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(KINDS)), help="These kinds only (repeatable).")
@click.option("--number", type=int, help="This mutation alone.")
def main(each: int, seed: int, only: tuple[str, ...], number: int | None) -> None:
    """Read mutations of every kind of file; status 1 when one fails."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        originals = {}
        for name, kind in KINDS.items():
            if only and name not in only:
                continue
            path = Path(folder) / kind.name
            path.parent.mkdir(parents=True, exist_ok=True)
            kind.write(path)
            kind.read(path, 1.0)
            originals[name] = path.read_bytes()
        judge = _Judge(Path(folder) / "mutated", originals, seed)
        for name in only or KINDS:
            counts: collections.Counter[str] = collections.Counter()
            for i in range(each) if number is None else [number]:
                what, outcome, why = judge(name, i)
                counts[outcome] += 1
                if outcome == "failed" or number is not None:
                    click.echo(f"{name} {i} ({what}): {outcome}: {why}")
            failed += counts["failed"]
            click.echo(f"{name:12} read {counts['read']:4}  refused {counts['refused']:4}  failed {counts['failed']:4}")
        judge.close()
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
