"""Sound files to one channel of float32 at 16 kHz, which everything here works on.

One decoder, libsndfile (wav, flac, ogg, mp3, au), and one resampler, soxr at its setting HQ. There is no fallback when
one of them fails: decoders differ in offsets and levels, and features would silently differ with them. soxr keeps the
range of the top mel bands and nothing above: from 44.1 to 16 kHz, a tone at 7 kHz loses 0.0 dB and one at 8.5 kHz 140
dB (torchaudio.functional.resample with its defaults: 1.8 and 10.8 dB), and it takes a fifth of the time.
"""

from __future__ import annotations

import contextlib
import io
import math
import mmap
import re
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.spectrogram import SAMPLE_RATE

_MISSING = 0.1  # s that may be missing at the end of a file
_MARGIN = 0.2  # s beyond an excerpt, so that its end is resampled like the whole
_BLOCK = 1 << 18  # samples of each channel decoded at a time
_LEAST_BYTES = 8  # a second; silence in flac takes more
_LEAST_RATE = 4000  # Hz
_ENDLESS = 0x7FFF0000  # bytes; a larger length in a wav header means that its writer did not know it

_MP3_KBPS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),  # MPEG 1, layer III
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # MPEG 2 and 2.5
_MP3_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by version bits


def audio_length(path: Path | str) -> int:
    """Samples of a file at 16 kHz, according to its header; nothing is decoded.

    The frames of an mp3 that does not say how many it has are counted.

    Raises
    ------
    KeyMynaError
        When the file is absent, empty, not a sound file, or does not say how long it is. Names the file.
    """
    with _opened(path) as (_, frames, rate):
        return _at_16_khz(frames, rate)


def read_audio(path: Path | str, *, seconds: float = 0.0) -> np.ndarray:
    """Decode a file.

    Parameters
    ----------
    seconds : of the file, from its beginning; 0 for all.

    Returns
    -------
    (sample,) float32 at 16 kHz, the mean of its channels, at the level of the file: lossy ones may exceed 1. Its
    length is that of `audio_length`, or `seconds` if that is less.

    Raises
    ------
    KeyMynaError
        As `audio_length`; also when the file is damaged, ends more than 0.1 s early, or has samples that are no
        numbers. Names the file. The cause is an OSError where the system reported one.
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
    if seconds < 0:
        raise KeyMynaError(f"seconds={seconds}: expected 0 (all) or more.")
    with _opened(path) as (sound, frames, rate):
        length = _at_16_khz(frames, rate)
        wanted = frames
        if seconds:
            length = min(length, round(seconds * SAMPLE_RATE))
            wanted = min(frames, math.ceil((seconds + _MARGIN) * rate))
        resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        there = given = 0
        while there < wanted:
            block = sound.read(min(wanted - there, _BLOCK), dtype="float32", always_2d=True).mean(axis=1)
            if not np.isfinite(block).all():
                raise KeyMynaError(f"{path} has samples that are no numbers (NaN or infinite). Get the file again.")
            there += len(block)
            if not len(block) and there < wanted - _MISSING * rate:
                raise KeyMynaError(
                    f"{path} is truncated: {there / rate:.1f} s of {frames / rate:.1f} s are there. Get the file again."
                )
            last = not len(block) or there == wanted
            audio = block if rate == SAMPLE_RATE else resampler.resample_chunk(block, last=last)
            audio = audio[: length - given]
            given += len(audio)
            if len(audio):
                yield audio
            if last:
                break
        if given < length:
            yield np.zeros(length - given, np.float32)


def _at_16_khz(frames: int, rate: int) -> int:
    return -(-frames * SAMPLE_RATE // rate)


@contextlib.contextmanager
def _opened(path: Path | str) -> Iterator[tuple[soundfile.SoundFile, int, int]]:
    """An open file, the frames that it should have, its sample rate in Hz."""
    try:
        with open(path, "rb") as file, contextlib.ExitStack() as stack:
            size = file.seek(0, io.SEEK_END)
            if size == 0:
                raise KeyMynaError(f"{path} is empty. Get the file again.")
            sound = stack.enter_context(soundfile.SoundFile(path))
            if sound.format == "RAW":  # libsndfile goes by a suffix such as .au where it does not recognise the content
                raise KeyMynaError(f"{path} is not a sound file. Get the file again.")
            if sound.subtype == "MPEG_LAYER_III" and (counted := _with_count(path)):
                sound = stack.enter_context(soundfile.SoundFile(counted))
            frames, rate = _promised(sound), sound.samplerate
            if rate < _LEAST_RATE or not 0 < frames < size / _LEAST_BYTES * rate:
                raise KeyMynaError(
                    f"{path} states no length, or an impossible one: {frames} samples at {rate} Hz "
                    f"in {size} bytes. Get the file again, or write it anew with an audio tool."
                )
            yield sound, frames, rate
    except OSError as error:
        raise KeyMynaError(f"{path} cannot be read ({error.strerror}).") from error
    except soundfile.LibsndfileError as error:
        raise KeyMynaError(f"{path} is not a sound file, or a damaged one. Get the file again.") from error


def _promised(sound: soundfile.SoundFile) -> int:
    """Frames according to the header; libsndfile mentions those missing from a truncated wav or au in its log only."""
    cut = re.search(r"(?:data|Data Size) *: *(\d+) \(should be (\d+)\)", sound.extra_info)
    if cut and 0 < int(cut[2]) < int(cut[1]) < _ENDLESS:
        return round(sound.frames * int(cut[1]) / int(cut[2]))
    return sound.frames


def _with_count(path: Path | str) -> io.BytesIO | None:
    """An mp3 with a first frame that counts the others, or None when it has one (a "Xing" or "Info" frame) already.

    Without it, libsndfile goes by the file's size and the first frame's bit rate, and its length is wrong by a little
    (the padding of frames), by much (a cover picture), or so short that it stops before the end (a variable bit rate).
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = 0
        while data[start : start + 3] == b"ID3":
            start += 10 + sum(byte << shift for byte, shift in zip(data[start + 6 : start + 10], (21, 14, 7, 0)))
        start = _next_mp3_frame(data, start)
        head = bytes(data[start : start + 48])
        tag = max(head.find(b"Xing"), head.find(b"Info"))
        if not head or (tag > 0 and head[tag + 7] & 1):
            return None
        count, place = 0, start
        while (place := _next_mp3_frame(data, place)) < len(data):
            count, place = count + 1, place + _mp3_frame_size(data[place : place + 4])
        version, rate = head[1] >> 3 & 3, head[2] & 0x0C
        side_information = (32 if version == 3 else 17) if head[3] >> 6 != 3 else (17 if version == 3 else 9)
        header = bytes([0xFF, head[1] | 1, 0xE0 | rate, head[3]])  # the highest bit rate, no check sum, no padding
        frame = header + bytes(side_information) + b"Info" + struct.pack(">II", 1, count)
        return io.BytesIO(frame.ljust(_mp3_frame_size(header), b"\0") + data[start:])


def _next_mp3_frame(data: mmap.mmap, place: int) -> int:
    """Where the next whole frame starts that another one, a tag or the end follows; len(data) where there is none."""
    while 0 <= place < len(data):
        if size := _mp3_frame_size(data[place : place + 4]):
            after = place + size
            if after == len(data) or _mp3_frame_size(data[after : after + 4]) or data[after : after + 3] == b"TAG":
                return place
        place = data.find(b"\xff", place + 1)
    return len(data)


def _mp3_frame_size(header: bytes) -> int:
    """Bytes of a frame of layer III by its first four; 0 if these are no such header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, kbps, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or kbps in (0, 15) or rate == 3:
        return 0
    bits = (144 if version == 3 else 72) * 1000 * _MP3_KBPS[version == 3][kbps - 1]
    return bits // _MP3_RATES[version][rate] + (header[2] >> 1 & 1)
