"""Sound files to one channel of float32 at 16 kHz, which everything here works on.

One decoder for a format: libsndfile (wav, flac, ogg, opus, mp3, mp2, aiff, au, caf), and FFmpeg for what that does not
read (`ffmpeg`). There is no fallback when a file's decoder fails: decoders differ in offsets and levels, and features
would silently differ with them. One resampler, soxr at its setting HQ. It keeps the range of the top mel bands and
nothing above: from 44.1 to 16 kHz, a tone at 7 kHz loses 0.0 dB and one at 8.5 kHz 140 dB
(torchaudio.functional.resample with its defaults: 1.8 and 10.8 dB), and it takes a fifth of the time.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import math
import os
import re
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from keymyna_lib.base.errors import KeyMynaError, unreadable
from keymyna_lib.corpus.recordings import ffmpeg, parts
from keymyna_lib.spectrogram import SAMPLE_RATE

# In lower case; what is in a file is told by its content.
SOUND_ENDINGS = frozenset(
    ".3gp .aac .ac3 .aif .aifc .aiff .alac .amr .ape .asf .au .avi .caf .dff .dsf .dts .flac .flv .m4a .m4b .m4p .m4v "
    ".mka .mkv .mov .mp1 .mp2 .mp3 .mp4 .mpc .mpeg .mpg .mpga .oga .ogg .ogv .opus .ra .rf64 .rm .snd .spx .tak .tta "
    ".w64 .wav .wave .webm .wma .wmv .wv".split()
)
_OWN_ENDINGS = frozenset(  # of what libsndfile reads
    ".aif .aifc .aiff .au .caf .flac .mp1 .mp2 .mp3 .mpga .oga .ogg .opus .rf64 .snd .w64 .wav .wave".split()
)
_MISSING = 0.1  # s that may be missing without a word
# What may be missing at the end: a second or a hundredth of the length, but not a sixth of it (our choice).
_TAIL, _TAIL_SHARE, _TAIL_MOST = 1.0, 1 / 100, 1 / 6
_HOLES = 1 / 1000  # of the length that may be missing within: published files lack a page in some minutes (our choice)
_MARGIN = 0.2  # s beyond an excerpt, so that its end is resampled like the whole
_BLOCK = 1 << 18  # samples of each channel decoded at a time
_LEAST_BYTES = 8  # a second; silence in flac takes more
_LEAST_RATE = 4000  # Hz
_ENDLESS = 0x7FFF0000  # bytes; a larger length in a wav header means that its writer did not know it
_CANCELS = 1e-3  # of the loudest channel's energy: what is left of it in the mean of channels that cancel (our choice)

_LOUDEST = 2.0**32  # of full scale; integers of 32 bits stored as floats stay below

_FOREVER = 1 << 60  # frames

_log = logging.getLogger(__name__)


def may_be_sound(path: Path | str) -> bool:
    """Whether a file is worth decoding: its name ends like a sound or video file's, or its first bytes are one's.

    >>> may_be_sound("Song.M4A")
    True
    """
    if Path(path).suffix.lower() in SOUND_ENDINGS:
        return True
    try:
        if _endless(path):
            return False
        with open(path, "rb") as file:
            head = parts.beginning(file)
    except OSError:  # whoever decodes it says so
        return True
    return ffmpeg.kind_of(head) is not None or parts.is_mpeg(head)


def named_for_ffmpeg(path: Path | str) -> bool:
    """Whether a file's name ends like those that FFmpeg decodes; the file need not be there.

    >>> named_for_ffmpeg("Song.M4A"), named_for_ffmpeg("song.wav")
    (True, False)
    """
    return Path(path).suffix.lower() in SOUND_ENDINGS - _OWN_ENDINGS


def audio_length(path: Path | str) -> int:
    """Samples of a file at 16 kHz, according to its header.

    The frames of an mp3 are counted; what FFmpeg reads is decoded and counted.

    Raises
    ------
    KeyMynaError
        When the file is absent, empty, not a sound file, without an audio track, encrypted, of a format that needs
        FFmpeg where that is not installed, or does not say how long it is. Names the file.
    """
    with _opened(path) as streams:
        return sum(
            _at_16_khz(sum(map(len, stream.blocks(_FOREVER))) if stream.frames is None else stream.frames, stream.rate)
            for stream in streams
        )


def read_audio(path: Path | str, *, seconds: float = 0.0) -> np.ndarray:
    """Decode a file.

    Streams behind one another in a file follow one another in the result; a file of another format behind them is not
    read, and that is said (`logging`). If the end of one is missing, by no more than a second or a hundredth of its
    length (but a sixth of a short one), that is said once, and silence stands for it. So it is for what is missing
    within, up to a thousandth.

    Parameters
    ----------
    seconds : of the file, from its beginning; 0 for all.

    Returns
    -------
    (sample,) float32 at 16 kHz, the mean of its channels, at the level of the file: lossy ones may exceed 1. Where
    channels cancel in their mean, as the two of [x, -x] do (30 dB below the loudest, over some 6 s; our choice), the
    loudest channel stands for it. Its length is that of `audio_length`, or `seconds` if that is less. Silence is zeros.

    Raises
    ------
    KeyMynaError
        As `audio_length`; also when the file is damaged, lacks more than that, or has samples that are no numbers or
        beyond any level. Names the file. The cause is an OSError where the system reported one.
    """
    return np.concatenate([np.empty(0, np.float32), *audio_blocks(path, seconds=seconds)])


def audio_blocks(path: Path | str, *, seconds: float = 0.0) -> Iterator[np.ndarray]:
    """What `read_audio` returns, in pieces: however long a file is, no more than a few seconds of it are held.

    Parameters
    ----------
    seconds : of the file, from its beginning; 0 for all.

    Yields
    ------
    (sample,) float32 at 16 kHz, of about 6 s; joined they are `read_audio`'s, bit for bit.

    Raises
    ------
    KeyMynaError
        As `read_audio`; what only the end of a file can tell, such as truncation, is raised at its end.
    """
    if not 0 <= seconds < math.inf:
        raise KeyMynaError(f"seconds={seconds}: expected 0 (all) or more.")
    left = round(seconds * SAMPLE_RATE) if seconds else math.inf
    with _opened(path) as streams:
        for stream in streams:
            for block in _resampled(path, stream, left):
                left -= len(block)
                yield block
            if left <= 0:
                break
            if stream.behind:
                _log.warning(
                    "%s has another file behind its audio (%s), which is not read. Split it.", path, stream.behind
                )


@dataclass
class _Stream:
    """One stream of a file.

    rate : Hz.
    frames : samples of each channel that it has, however many can be decoded; None if only decoding can tell.
    promised : samples of each channel that it should have; None if nothing says so.
    blocks : a generator of (frame, channel) float32 from the beginning, as many frames as given if they are there.
    cut, holes, behind : as in `parts.Part`.
    broken : its decoder stopped at an error.
    """

    rate: int
    frames: int | None
    promised: int | None
    blocks: Callable[[int], Iterator[np.ndarray]]
    cut: bool = False
    holes: bool = False
    behind: str = ""
    broken: bool = False


def _resampled(path: Path | str, stream: _Stream, most: float) -> Iterator[np.ndarray]:
    """(sample,) float32 at 16 kHz of one stream, in pieces, `most` samples at most."""
    rate, mono = stream.rate, _Mono()
    frames = _FOREVER if stream.frames is None else stream.frames
    wanted = frames if most == math.inf else min(frames, math.ceil((most / SAMPLE_RATE + _MARGIN) * rate))
    length = int(min(most, _at_16_khz(frames, rate)))
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    there = given = 0

    def fitted(audio: np.ndarray, last: bool = False) -> np.ndarray:
        nonlocal given
        audio = (audio if rate == SAMPLE_RATE else resampler.resample_chunk(audio, last=last))[: length - given]
        given += len(audio)
        return audio

    for block in stream.blocks(wanted):
        there += len(block)
        peak = np.abs(block).max(initial=0.0)
        if not np.isfinite(peak):
            raise KeyMynaError(f"{path} has samples that are no numbers (NaN or infinite). Get the file again.")
        if peak > _LOUDEST:
            raise KeyMynaError(f"{path} has samples of {peak:.0e} times full scale, no sound. Get the file again.")
        yield fitted(mono(block))
    yield fitted(np.empty(0, np.float32), last=True)
    if there < wanted or (stream.cut and wanted == frames):
        _judge(path, stream, there)
    length = min(length, _at_16_khz(max(there, stream.frames or 0), rate))
    yield np.zeros(length - given, np.float32)


def _judge(path: Path | str, stream: _Stream, there: int) -> None:
    """Pass over a missing tail in silence, in a word, or not at all."""
    if stream.cut:
        raise KeyMynaError(f"{path} is truncated: it breaks off after {there / stream.rate:.1f} s. Get the file again.")
    if stream.promised is None and there:
        return
    of, missing = (stream.promised or 0) / stream.rate, ((stream.promised or 0) - there) / stream.rate
    if there and missing <= _MISSING:
        return
    bearable = _HOLES * of if stream.holes else min(max(_TAIL, _TAIL_SHARE * of), _TAIL_MOST * of)
    if not there or missing > bearable:
        words = "damaged" if stream.broken or stream.holes else "truncated"
        raise KeyMynaError(
            f"{path} is {words}: {there / stream.rate:.1f} s of {of:.1f} s are there. Get the file again."
        )
    which = "lacks" if stream.holes else "lacks its last"
    _log.warning("%s %s %.1f s of %.1f s; silence at its end stands for them.", path, which, missing, of)


class _Mono:
    """The mean of the channels, or the loudest where they cancel in it; the same one as long as none is far louder."""

    def __init__(self) -> None:
        self._kept = 0

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """(frame,) float32 of (frame, channel)."""
        # Of two channels, the sum of columns is the same mean in a fraction of the time.
        mean = (block[:, 0] + block[:, 1]) / 2 if block.shape[1] == 2 else block.mean(axis=1)
        if block.shape[1] == 1 or not len(block):
            return mean
        energies = np.einsum("fc,fc->c", block, block)
        if not mean @ mean < _CANCELS * energies.max():
            return mean
        if energies[self._kept] < energies.max() / 2:
            self._kept = int(energies.argmax())
        return block[:, self._kept]


def _at_16_khz(frames: int, rate: int) -> int:
    return -(-frames * SAMPLE_RATE // rate)


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[Iterator[_Stream]]:
    """The streams of an open file, to be read in turn."""
    try:
        if _endless(path):
            raise KeyMynaError(f"{path} is a pipe or a device. Give a file; write what comes from it to one.")
        with open(path, "rb") as file:
            if not file.seek(0, io.SEEK_END):
                raise KeyMynaError(f"{path} is empty. Get the file again.")
            with contextlib.closing(_streams(path, file)) as streams:
                yield streams
    except OSError as error:
        raise unreadable(path, error) from error


def _endless(path: Path | str) -> bool:
    """Whether reading may wait for ever: for the writer of a pipe, or the end of a device."""
    mode = os.stat(path).st_mode
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _streams(path: Path | str, file: io.BufferedReader) -> Generator[_Stream, None, None]:
    head = parts.beginning(file)
    kind = ffmpeg.kind_of(head)
    if kind and kind.foreign:
        yield from _foreign(path, kind, behind=parts.behind_mp4(file) if kind.words.startswith("MP4") else "")
        return
    try:
        found = parts.mpeg_parts(file, path) if parts.is_mpeg(head) else parts.parts_of(file)
        with _sound_file(path, file, found[0]) as sound:
            if sound.format == "RAW":  # libsndfile goes by a suffix such as .au where it does not know the content
                raise KeyMynaError(f"{path} is not a sound file. Get the file again.")
            if sound.subtype.startswith("MPEG_LAYER") and not parts.is_mpeg(head):
                found = parts.mpeg_parts(file, path)
            unknown = sound.format == "FLAC" and not 0 < sound.frames < _most_frames(file, sound)
    except soundfile.LibsndfileError as error:
        if not kind and not (found := parts.mpeg_parts(file, path))[0].spans:
            raise KeyMynaError(f"{path} is not a sound file, or a damaged one. Get the file again.") from error
        unknown = bool(kind)
    if unknown:
        yield from _foreign(path, kind, found[0].frames)
        return
    for part in found:
        try:
            with _sound_file(path, file, part) as sound:
                frames, rate = part.frames or _promised(sound), sound.samplerate
                if rate < _LEAST_RATE or not 0 < frames < _most_frames(file, sound):
                    raise KeyMynaError(
                        f"{path} states no length, or an impossible one: {frames} samples at {rate} Hz in "
                        f"{Path(path).stat().st_size} bytes. Get the file again, or write it anew with an audio tool."
                    )
                stream = _Stream(rate, frames, frames, lambda most: iter(()), part.cut, part.holes, part.behind)
                stream.blocks = functools.partial(_sound_blocks, stream, sound)
                yield stream
        except soundfile.LibsndfileError as error:
            raise KeyMynaError(f"{path} is damaged. Get the file again.") from error


def _sound_file(path: Path | str, file: io.BufferedReader, part: parts.Part) -> soundfile.SoundFile:
    spans = part.spans
    # By its name, it would be one without a header, or macOS's file beside it a part of it.
    if spans is None and (Path(path).suffix.lower() == ".raw" or _beside(Path(path))):
        spans = ((0, file.seek(0, io.SEEK_END)),)
    if spans is None:
        return soundfile.SoundFile(os.fsencode(path))
    try:
        return soundfile.SoundFile(parts.Spliced(file, spans))
    except soundfile.LibsndfileError:
        if other := _beside(Path()):  # which belongs to any file without a name
            raise KeyMynaError(
                f"{path} cannot be read where {other.absolute()} is: libsndfile takes that for a part of it. "
                "Remove it, or run in another folder."
            ) from None
        raise


def _beside(path: Path) -> Path | None:
    """The file that libsndfile takes for a file's resource fork, whatever is in it; None if there is none."""
    forks = (path.with_name(f"._{path.name}") if path.name else Path("._"), path.parent / ".AppleDouble" / path.name)
    return next(filter(os.path.lexists, forks), None)


def _most_frames(file: io.BufferedReader, sound: soundfile.SoundFile) -> float:
    return file.seek(0, io.SEEK_END) / _LEAST_BYTES * sound.samplerate


def _sound_blocks(stream: _Stream, sound: soundfile.SoundFile, wanted: int) -> Iterator[np.ndarray]:
    while wanted > 0:
        block = np.full((min(wanted, _BLOCK), sound.channels), np.nan, np.float32)
        try:
            read = len(sound.read(out=block))
        except soundfile.LibsndfileError:  # what was decoded before the error is there
            stream.broken = True
            undone = np.isnan(block).any(axis=1)
            read = int(undone.argmax()) if undone.any() else len(block)
        if read:
            yield block[:read]
        if not read or stream.broken:
            return
        wanted -= read


def _foreign(
    path: Path | str, kind: ffmpeg.Kind, promised: int | None = None, *, behind: str = ""
) -> Iterator[_Stream]:
    with ffmpeg.opened(path, kind) as (rate, stated, blocks):
        stated = promised or stated
        yield _Stream(rate, None, stated, lambda most: _as_stated(blocks, stated, most, rate), behind=behind)


def _as_stated(blocks: Iterator[np.ndarray], stated: int | None, most: int, rate: int) -> Iterator[np.ndarray]:
    """Without what an encoder's last frame adds to the length that the header states."""
    there, excess, end = 0, [], most if stated is None else stated
    for block in blocks:
        keep = min(max(end - there, 0), len(block))
        there += len(block)
        yield block[: min(keep, max(most - there + len(block), 0))]
        if there >= most:
            return
        if keep < len(block):
            excess.append(block[keep:])
        if excess and there > end + _MISSING * rate:  # the header is wrong
            yield from excess
            excess, end = [], most


def _promised(sound: soundfile.SoundFile) -> int:
    """Frames according to the header; libsndfile mentions those missing from a truncated wav or au in its log only."""
    cut = re.search(r"(?:data|Data Size) *: *(\d+) \(should be (\d+)\)", sound.extra_info)
    if cut and 0 < int(cut[2]) < int(cut[1]) < _ENDLESS:
        return round(sound.frames * int(cut[1]) / int(cut[2]))
    return sound.frames
