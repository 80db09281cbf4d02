"""Sound files that libsndfile does not read: m4a, wma, webm and video files, through FFmpeg (the package `av`).

`av` is imported when the first such file is met. A file is taken for what its first bytes say, never for its name, and
handed over as bytes, so that no playlist or reference in it is followed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keymyna_lib.base.errors import KeyMynaError

_TAIL = 0.1  # s by which an encoder's last frame goes beyond the end of the audio
_HEAD = 1 << 16  # bytes
_RIFF_LACKS = 1 << 14  # bytes of a RIFF file that may be missing: a tenth of a second or so
_HELD = 256  # frames of the decoder, mostly of 1,024 samples
# Demultiplexers of files whose header gives the length of the audio; others guess it from the bit rate.
_STATED = {"mov", "matroska", "asf", "avi", "wav", "aiff", "caf", "ape", "wv", "tta"}
# Microsoft's marks of files that only a key opens: the objects for content encryption, old and new.
_LOCKED = (bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"), bytes.fromhex("14e68a292226174cb935dae07ee9289c"))
_KINDS = (  # what a file begins with
    (rb"....ftyp|....moov|....mdat|....wide....mdat", "MP4 or QuickTime (m4a, m4b, mp4, mov)"),
    (rb"\x1aE\xdf\xa3", "Matroska or WebM (mkv, mka, webm)"),
    (rb"0&\xb2u\x8ef\xcf\x11", "Windows Media (wma, asf)"),
    (rb"RIFF....AVI ", "AVI video"),
    (rb"FLV\x01", "Flash video"),
    (rb"\x00\x00\x01\xba", "MPEG video (mpg, vob)"),
    (rb"G.{187}G.{187}G", "an MPEG transport stream (ts)"),
    (rb"\xff[\xf0\xf1\xf8\xf9]", "AAC without a container"),
    (rb"ADIF", "AAC"),
    (rb"\x0bw", "AC-3"),
    (rb"\x7f\xfe\x80\x01", "DTS"),
    (rb"wvpk", "WavPack"),
    (rb"MAC ", "Monkey's Audio"),
    (rb"TTA[12]", "True Audio"),
    (rb"MPCK|MP\+", "Musepack"),
    (rb"#!AMR", "AMR"),
    (rb"\.RMF", "RealMedia"),
    (rb"DSD |FRM8", "DSD"),
    (rb"tBaK", "TAK"),
    (rb"(?:RIFF|RF64|BW64|RIFX)....WAVE", "wav"),
    (rb"riff\x2e\x91\xcf\x11", "Wave64"),
    (rb"FORM....AIF", "AIFF"),
    (rb"caff", "Core Audio"),
    (rb"\.snd|dns\.", "au"),
    (rb"OggS", "Ogg"),
    (rb"fLaC", "FLAC"),
)
_OWN = len(_KINDS) - 7  # those before it are no business of libsndfile's, whatever it makes of them


class Kind(NamedTuple):
    """What a file is, in words, and whether that is foreign to libsndfile."""

    words: str
    foreign: bool


class Stream(NamedTuple):
    """Audio that FFmpeg decodes.

    rate : Hz.
    frames : samples of each channel according to the header; None where it does not tell.
    blocks : (frame, channel) float32, in order; raises a KeyMynaError where audio is missing amid it.
    """

    rate: int
    frames: int | None
    blocks: Iterator[np.ndarray]


def kind_of(head: bytes) -> Kind | None:
    """What a file is by its first bytes; None if it is neither a container of sound nor of a coding listed here.

    >>> kind_of(b"OggS\\0")
    Kind(words='Ogg', foreign=False)
    """
    for number, (pattern, words) in enumerate(_KINDS):
        if re.match(pattern, head, re.DOTALL):
            return Kind(words, number < _OWN)
    return None


@contextlib.contextmanager
def opened(path: Path | str, kind: Kind) -> Iterator[Stream]:
    """Open a file of a kind that `kind_of` names.

    Raises
    ------
    KeyMynaError
        When `av` is not installed, or the file is damaged, encrypted or without an audio track. Names the file.
    """
    if importlib.util.find_spec("av") is None:
        words = "is" if kind.foreign else "is damaged, or in a coding that libsndfile does not read:"
        raise KeyMynaError(
            f"{path} {words} {kind.words}. To read it through FFmpeg, run 'pip install av' (the extra 'formats')."
        )
    import av

    av.logging.set_level(av.logging.PANIC)  # what matters is raised
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        if any(mark in head for mark in _LOCKED):
            raise KeyMynaError(f"{path} is encrypted; its audio cannot be read. Get it without copy protection.")
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        start = file.read(8)
        if start[:4] == b"RIFF" and int.from_bytes(start[4:], "little") + 8 > size + _RIFF_LACKS:
            raise KeyMynaError(f"{path} is truncated: the end of its {kind.words} is not there. Get the file again.")
        file.seek(0)
        try:
            with av.open(file, metadata_errors="ignore") as container:
                yield _stream(path, container)
        except av.error.FFmpegError as error:
            if isinstance(error, av.error.PatchWelcomeError | av.error.DecoderNotFoundError):
                raise KeyMynaError(
                    f"{path} ({kind.words}) is of a coding that this FFmpeg does not decode. Convert it."
                ) from None
            raise KeyMynaError(f"{path} is damaged (it begins as {kind.words}). Get the file again.") from None


def _stream(path: Path | str, container: Any) -> Stream:
    track = container.streams.best("audio")
    if track is None:
        raise KeyMynaError(f"{path} has no audio track.")
    if track.codec_context is None or not track.codec_context.sample_rate:
        raise KeyMynaError(f"{path}: its audio is of a coding that this FFmpeg does not decode. Convert the file.")
    if track.codec_context.codec_tag in ("drms", "enca", "aavd"):
        raise KeyMynaError(f"{path} is encrypted; its audio cannot be read. Get it without copy protection.")
    track.codec_context.thread_count = 1  # the processes are as many as the cores already
    stated = None
    if container.format.name.split(",")[0] in _STATED:
        if track.duration:
            stated = float(track.duration * track.time_base)
        elif container.duration and len(container.streams) == 1:
            stated = container.duration / 1e6
    blocks = _blocks(path, container, track)
    first, rate = next(blocks, (np.empty((0, 1), np.float32), track.codec_context.sample_rate))
    return Stream(rate, None if stated is None else round(stated * rate), _of_one_rate(path, first, rate, blocks))


def _of_one_rate(
    path: Path | str, first: np.ndarray, rate: int, blocks: Iterator[tuple[np.ndarray, int]]
) -> Iterator[np.ndarray]:
    yield first
    for block, other in blocks:
        if other != rate or block.shape[1] != first.shape[1]:
            raise KeyMynaError(f"{path} changes its sample rate or its channels. Convert the file.")
        yield block


def _blocks(path: Path | str, container: Any, track: Any) -> Iterator[tuple[np.ndarray, int]]:
    """(frame, channel) float32 and Hz, some seconds at a time."""
    import av

    held: list[np.ndarray] = []
    rate, lost, there = 0, 0.0, 0.0  # Hz, s, s
    for packet in _packets(av, container, track):
        try:
            frames = packet.decode()
        except av.error.InvalidDataError:
            lost += float((packet.duration or 0) * packet.time_base)
            continue
        for frame in frames:
            if lost > _TAIL and there:
                raise KeyMynaError(f"{path} is damaged: audio is missing at about {there:.1f} s. Get the file again.")
            lost = 0.0
            samples = _float32(frame)
            there += len(samples) / frame.sample_rate
            if held and (rate != frame.sample_rate or held[0].shape[1] != samples.shape[1] or len(held) >= _HELD):
                yield np.concatenate(held), rate
                held = []
            held.append(samples)
            rate = frame.sample_rate
    if held:
        yield np.concatenate(held), rate


def _packets(av: Any, container: Any, track: Any) -> Iterator[Any]:
    """Packets up to the end, or to where the file breaks off."""
    with contextlib.suppress(av.error.EOFError, av.error.InvalidDataError):
        yield from container.demux(track)


def _float32(frame: Any) -> np.ndarray:
    """(frame, channel) float32 of a frame in any of FFmpeg's formats, 1 for full scale."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return (values / np.float64(1 << 8 * values.itemsize - 1)).astype(np.float32)
    return values.astype(np.float32)
