"""The streams in a sound file, and what their headers get wrong, for `decode`.

A file may hold several streams behind one another (mp3s or flacs joined by `cat`, links of an ogg chain), of which a
decoder sees the first; and a header may give a length that is unknown, too large for its field, or another file's.
Here, frames, pages and chunks are counted instead, and each stream is handed on as a file of its own, with a header
that is right. A file of another format behind one is not read, but named. Files are read in small pieces: memory does
not grow with them.
"""

from __future__ import annotations

import functools
import io
import re
import struct
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import ffmpeg

Span = bytes | tuple[int, int]  # of a file: new bytes, or where its own begin and end
_PIECE = 1 << 20  # bytes read at a time
_SYNC = re.compile(rb"\xff[\xe2-\xff]|ID3|APETAGEX|TAG|LYRICSBEGIN")
_CHUNK = re.compile(rb"[ -~]{4}")  # its name
_ALL_ONES = 0xFFFFFFFF
_ENDLESS = 0x7FFF0000  # bytes; a larger length in a header of 32 bits means that its writer did not know it
_RUBBISH = 1 << 24  # bytes without a frame, after which no more are looked for
_LONGEST = 1441  # bytes of a frame of layer III
_MOST_SAMPLES = (1 << 36) - 1  # of a flac
_LOST = 0.1  # s that may be missing amid a stream

_KBPS = {  # by (MPEG 1, layer)
    (True, 1): range(32, 449, 32),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by version bits


@dataclass(frozen=True)
class Part:
    """One stream.

    spans : the bytes of a file that holds it alone; None where the file itself is that.
    frames : samples of each channel that it should have, if its header or its decoder tells another number.
    cut : the file ends amid it, and nothing says how much is missing.
    holes : its decoder passes over damage in silence, so that what is missing need not be its tail.
    behind : what begins where it ends and is not read, in words.
    """

    spans: tuple[Span, ...] | None = None
    frames: int | None = None
    cut: bool = False
    holes: bool = False
    behind: str = ""


class Spliced(io.RawIOBase):
    """A file of pieces of another one, read-only; `soundfile` reads it like any."""

    def __init__(self, file: io.BufferedReader, spans: tuple[Span, ...]) -> None:
        self._file, self._spans, self._place = file, spans, 0
        sizes = (len(span) if isinstance(span, bytes) else span[1] - span[0] for span in spans)
        self._starts = [0, *accumulate(sizes)]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and 0 <= self._place < self._starts[-1]:
            number = bisect_right(self._starts, self._place) - 1
            span, skip = self._spans[number], self._place - self._starts[number]
            count = min(len(view) - done, self._starts[number + 1] - self._place)
            if isinstance(span, bytes):
                got = span[skip : skip + count]
            else:
                self._file.seek(span[0] + skip)
                if not (got := self._file.read(count)):
                    break
            view[done : done + len(got)] = got
            done, self._place = done + len(got), self._place + len(got)
        return done


class _Bytes:
    """Random access to a file, a piece of it held."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.file, self.size = file, file.seek(0, io.SEEK_END)
        self._start, self._held = 0, b""

    def at(self, place: int, count: int) -> bytes:
        """Bytes from a place on; fewer at the end."""
        low = place - self._start
        if not 0 <= low <= len(self._held) - count:
            self.file.seek(place)
            self._start, self._held, low = place, self.file.read(max(count, _PIECE)), 0
        return self._held[low : low + count]

    def find(self, pattern: re.Pattern[bytes], place: int, within: int | None = None) -> int:
        """Where a pattern of at most 16 bytes is found next, or the file's size; not much further than `within`."""
        last = self.size if within is None else min(self.size, place + within)
        while place < last:
            self.at(place, min(16, self.size - place))
            if found := pattern.search(self._held, place - self._start):
                return self._start + found.start()
            end = self._start + len(self._held)
            place = end if end >= self.size else max(end - 16, place + 1)
        return self.size


def beginning(file: io.BufferedReader) -> bytes:
    """The first 4,096 bytes of a file behind tags (ID3)."""
    data, place = _Bytes(file), 0
    while data.at(place, 3) == b"ID3" and (size := _tag(data, place)):
        place += size
    return data.at(place, 4096)


def parts_of(file: io.BufferedReader) -> list[Part]:
    """The streams of an open file, in order; one without spans where it needs no help. For mp3s, see `mpeg_parts`."""
    data = _Bytes(file)
    head = data.at(0, 12)
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:] == b"WAVE":
        return _wav(data)
    if head[:4] == b".snd":
        return _au(data)
    if head[:4] == b"caff":
        return _caf(data)
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return _aiff(data)
    if head[:4] == b"OggS":
        return _ogg(data)
    if head[:4] == b"fLaC":
        return _flac(data)
    return [Part()]


def behind_mp4(file: io.BufferedReader) -> str:
    """What a decoder does not read of an MP4 file, in words: one that begins behind it."""
    data, place, seen = _Bytes(file), 0, False
    while place + 8 <= data.size:
        size, name = struct.unpack(">I4s", data.at(place, 8))
        if name == b"ftyp" and seen:
            return _kind_at(data, place)
        seen = True
        if size == 1:
            size = int.from_bytes(data.at(place + 8, 8), "big")
        if size < 8:
            break
        place += size
    return ""


def is_mpeg(head: bytes) -> bool:
    """Whether a file that begins so, behind its tags, is an mp3, mp2 or mp1: with one frame behind another."""
    size = _frame_size(head[:4])
    return size > 0 and (size == len(head) or _frame_size(head[size : size + 4]) > 0)


def _kind_at(data: _Bytes, place: int) -> str:
    """What begins at a place, in words, if it is the beginning of a sound file."""
    start = place
    while data.at(place, 3) == b"ID3" and (size := _tag(data, place)):
        place += size
    head = data.at(place, 4096)
    if kind := ffmpeg.kind_of(head):
        return kind.words
    return "an mp3" if is_mpeg(head) and (place > start or _opens(data, place)) else ""


# Chunks ---------------------------------------------------------------------------------------------------------------


def _wav(data: _Bytes) -> list[Part]:
    """A wav whose length is unknown, was never filled in, or is too large for 32 bits; wavs behind one another."""
    parts, start = [], 0
    while start < data.size:
        part, end = _one_wav(data, start)
        if part is None:
            break
        parts.append(part)
        start = end
    if len(parts) > 1:
        return [spliced for spliced, _ in parts]
    return [parts[0][1]] if parts else [Part()]


def _one_wav(data: _Bytes, start: int) -> tuple[tuple[Part, Part] | None, int]:
    """A wav behind a header of its own, and as it is if nothing is wrong with it; where the next one begins."""
    place, kept, long = start + 12, [], None
    while place + 8 <= data.size:
        name, stated = struct.unpack("<4sI", data.at(place, 8))
        body = place + 8
        if name == b"ds64":
            long = struct.unpack("<Q", data.at(body + 8, 8).ljust(8, b"\0"))[0]
        elif name in (b"fmt ", b"fact") and stated < _PIECE:
            kept.append((place, body + stated + stated % 2))
        elif name == b"data":
            break
        place = body + stated + stated % 2
    else:
        return None, data.size
    there = data.size - body
    size = stated if long is None or stated != _ALL_ONES else long
    follows = _behind(data, body + size)
    unknown = follows is None and size < there
    unknown = unknown and not any(_CHUNK.match(data.at(body + size + odd, 4)) for odd in (0, 1))
    if follows is None and (size == 0 or _ENDLESS <= size <= _ALL_ONES or size >> 63):
        size = there
    elif follows is None and there > size:
        size += there - size >> 32 << 32  # a length that lost its upper bits
        if unknown:
            riff = start + 8 + struct.unpack("<I", data.at(start + 4, 4))[0]
            size = max(size, min(riff - body, there))  # its writer brought the length of the whole up to date
    end, block = body + min(size, there), _block(data, kept)
    frames = size // block if long is not None and size > there else None
    follows = _behind(data, end)
    behind = ""
    if follows is None:
        behind = _kind_at(data, end + end % 2)
        if unknown and data.size - end > size / 100:
            behind = behind or "of no known format"
    spliced = Part(_as_rf64(data, kept, body, end, size, size // block), frames, behind=behind)
    strange = size > stated if long is None else size != long
    plain = spliced if strange or data.at(start, 4) == b"BW64" else Part(None, frames, behind=behind)
    return (spliced, plain), data.size if follows is None else follows


def _block(data: _Bytes, kept: list[tuple[int, int]]) -> int:
    """Bytes of a sample of all channels."""
    for low, high in kept:
        if data.at(low, 4) == b"fmt " and high - low >= 24:
            return max(struct.unpack("<H", data.at(low + 20, 2))[0], 1)
    return 1


def _as_rf64(
    data: _Bytes, kept: list[tuple[int, int]], low: int, high: int, size: int, frames: int
) -> tuple[Span, ...]:
    """Spans of the same samples behind a header of 64 bits."""
    chunks = b"".join(data.at(begin, end - begin) for begin, end in kept)
    sizes = struct.pack("<QQQI", 4 + 36 + len(chunks) + 8 + size, size, frames, 0)
    ds64 = b"ds64" + struct.pack("<I", len(sizes)) + sizes
    return (b"RF64\xff\xff\xff\xffWAVE" + ds64 + chunks + b"data\xff\xff\xff\xff", (low, high))


def _behind(data: _Bytes, place: int) -> int | None:
    """Where the next wav begins if the rest of a file is chunks; None if it is anything else."""
    place += place % 2
    while place + 8 <= data.size:
        name, size = struct.unpack("<4sI", data.at(place, 8))
        if name in (b"RIFF", b"RF64") and data.at(place + 8, 4) == b"WAVE":
            return place
        if not _CHUNK.match(name):
            return None
        place += 8 + size + size % 2
    return data.size if place <= data.size + 8 else None


def _au(data: _Bytes) -> list[Part]:
    """An au file of unknown length, or one of more than 4 GiB."""
    offset, size = struct.unpack(">II", data.at(4, 8).ljust(8, b"\0"))
    there = data.size - offset
    if size not in (0, _ALL_ONES) and not size < there >> 32 << 32:
        return [Part()]
    return [Part((data.at(0, 8) + b"\xff\xff\xff\xff", (12, data.size)))] if there > 0 else [Part()]


def _caf(data: _Bytes) -> list[Part]:
    """A Core Audio file whose last chunk goes to the end, wherever that is, or beyond it."""
    place, packet = 8, (0, 0)
    while place + 12 <= data.size:
        name, size = struct.unpack(">4sq", data.at(place, 12))
        if name == b"desc":
            packet = struct.unpack(">II", data.at(place + 28, 8).ljust(8, b"\0"))
        elif name == b"data" and size < 0:
            return [Part(((0, place + 4), struct.pack(">q", data.size - place - 12), (place + 12, data.size)))]
        elif name == b"data" and place + 12 + size > data.size and packet[0]:
            return [Part(None, (size - 4) // packet[0] * packet[1])]
        if size < 0:
            break
        place += 12 + size
    return [Part()]


def _aiff(data: _Bytes) -> list[Part]:
    """An AIFF file that says how many frames it should have, though its samples break off."""
    place, frames = 12, 0
    while place + 8 <= data.size:
        name, size = struct.unpack(">4sI", data.at(place, 8))
        if name == b"COMM":
            frames = struct.unpack(">I", data.at(place + 10, 4).ljust(4, b"\0"))[0]
        elif name == b"SSND" and place + 8 + size > data.size and size < _ENDLESS:
            return [Part(None, frames or None)]
        place += 8 + size + size % 2
    (size,) = struct.unpack(">I", data.at(4, 4))
    return [Part(behind=_kind_at(data, 8 + size + size % 2))]


# Ogg and flac ---------------------------------------------------------------------------------------------------------


def _ogg(data: _Bytes) -> list[Part]:
    """The links of a chain. The end of the last is known even where its last page is not whole."""
    starts, place, opening, ended, cut, end, behind = [], 0, False, True, False, 0, ""
    while place < data.size:
        head = data.at(place, 27)
        if head[:4] != b"OggS" or len(head) < 27:
            cut = cut or not ended  # rubbish amid a stream, or in place of its end
            behind = behind or (_kind_at(data, place) if ended else "")
            place = data.find(re.compile(rb"OggS"), place + 1)
            continue
        flags, (granule,) = head[5], struct.unpack("<q", head[6:14])
        if flags & 2 and not opening:
            starts.append(place)
        opening, ended = bool(flags & 2), bool(flags & 4)
        table = data.at(place + 27, head[26])
        place += 27 + head[26] + sum(table)
        if place > data.size or len(table) < head[26]:
            end, cut = (granule, cut) if ended else (0, True)
    bounds = list(zip(starts, [*starts[1:], data.size]))
    frames = _ogg_frames(data, starts[-1], end) if end > 0 and starts else None
    parts = [Part((bound,) if len(starts) > 1 else None, holes=True) for bound in bounds] or [Part()]
    return [*parts[:-1], Part(parts[-1].spans, frames, cut=cut, holes=frames is None, behind=behind)]


def _ogg_frames(data: _Bytes, start: int, granule: int) -> int | None:
    """Samples of a stream by the position that its last page gives; None for what is neither Vorbis nor Opus."""
    head = data.at(start, 64)
    body = head[27 + head[26] :]
    if body[:7] == b"\1vorbis":
        return granule
    return granule - struct.unpack("<H", body[10:12])[0] if body[:8] == b"OpusHead" else None


_OTHERS = tuple(
    re.compile(head, re.DOTALL) for head in (rb"RIFF....WAVE", rb"OggS\0\x02", rb"ID3[\x02-\x04]\0", rb"FORM....AIF")
)


def _flac(data: _Bytes) -> list[Part]:
    """Flacs behind one another; each begins with a block of 34 bytes about its stream. Only decoding finds its end."""
    head, starts = re.compile(rb"fLaC[\0\x80]\0\0\x22"), [0]
    while (found := data.find(head, starts[-1] + 8)) < data.size:
        starts.append(found)
    other = min(data.find(pattern, starts[-1] + 8) for pattern in _OTHERS)
    behind = _kind_at(data, other) if other < data.size else ""
    bounds = list(zip(starts, [*starts[1:], data.size]))
    return [*(_one_flac(data, *bound) for bound in bounds[:-1]), replace(_one_flac(data, *bounds[-1]), behind=behind)]


def _one_flac(data: _Bytes, low: int, high: int) -> Part:
    """A flac behind a header that counts all its samples, of which a decoder reads no more than are counted."""
    there, counted = _flac_samples(data, low, high), int.from_bytes(data.at(low + 18, 8), "big")
    if there > counted & _MOST_SAMPLES:
        count = (counted & ~_MOST_SAMPLES | there).to_bytes(8, "big")
        return Part(((low, low + 18), count, (low + 26, high)))
    return Part(None if (low, high) == (0, data.size) else ((low, high),))


def _flac_samples(data: _Bytes, low: int, high: int) -> int:
    """Samples up to the end of the last frame, by its number; 0 where the stream does not end with one (RFC 9639)."""
    block = int.from_bytes(data.at(low + 8, 2), "big")
    low = max(low + 42, high - _PIECE)
    tail = data.at(low, high - low)
    for place in (found.start() for found in reversed(list(re.finditer(rb"\xff[\xf8\xf9]", tail)))):
        head = tail[place : place + 20].ljust(20, b"\0")
        ones = 8 - (head[4] ^ 0xFF).bit_length()  # of its number, coded like a character of UTF-8
        after, code = 4 + max(ones, 1), head[2] >> 4
        number = head[4] & (0x7F >> ones)
        for byte in head[5:after]:
            number = number << 6 | byte & 0x3F
        sizes = {1: 192, 6: head[after] + 1, 7: int.from_bytes(head[after : after + 2], "big") + 1}
        size = sizes.get(code) or (576 << code - 2 if code < 6 else 256 << code - 8)
        after += {6: 1, 7: 2}.get(code, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
        if not code or _crc(head[:after], 8, 0x07) != head[after] or _crc(tail[place:], 16, 0x8005):
            continue
        return size + (number if head[1] & 1 else number * block)
    return 0


def _crc(data: bytes, bits: int, polynomial: int) -> int:
    table, value, mask = _crc_table(bits, polynomial), 0, (1 << bits) - 1
    for byte in data:
        value = value << 8 & mask ^ table[value >> bits - 8 ^ byte]
    return value


@functools.cache
def _crc_table(bits: int, polynomial: int) -> tuple[int, ...]:
    table = []
    for value in range(256):
        value <<= bits - 8
        for _ in range(8):
            value = value << 1 ^ (polynomial | 1 << bits) * (value >> bits - 1)
        table.append(value)
    return tuple(table)


# MPEG audio -----------------------------------------------------------------------------------------------------------


class _Stream:
    """The frames of one MPEG stream, as they are found."""

    def __init__(self, header: bytes, info: tuple[int | None, int | None, Span] | None) -> None:
        self.header, self.info, self.count, self.size, self.lost = header, info, 0, 0, 0
        self.spans: list[tuple[int, int]] = []

    def add(self, place: int, size: int) -> None:
        self.count, self.size = self.count + 1, self.size + size
        if self.spans and self.spans[-1][1] == place:
            self.spans[-1] = (self.spans[-1][0], place + size)
        else:
            self.spans.append((place, place + size))


def mpeg_parts(file: io.BufferedReader, path: Path | str) -> list[Part]:
    """The streams of an mp3 (or mp2, mp1), their frames counted, without the tags and the rubbish around them.

    A stream begins where a frame counts those behind it ("Xing" or "Info"), or where the sort of frames changes.
    libsndfile goes by that count; without one, by the file's size and the first frame's bit rate, and its length is
    wrong by a little (the padding of frames), by much (a cover picture), or so short that it stops before the end (a
    variable bit rate). So each stream gets a true count, unless it has one.

    Raises
    ------
    KeyMynaError
        When more than 0.1 s are missing amid a stream. Names the file.
    """
    data, parts, front = _Bytes(file), [], 0
    while data.at(front, 3) == b"ID3" and (size := _tag(data, front)):
        front += size
    streams = _streams(data)
    end = streams[-1].spans[-1][1] if streams else data.size
    while size := _tag(data, end):
        end += size
    for stream in streams:
        _, layer, rate, samples, _ = _sort(stream.header)
        stated, size, frame = stream.info or (None, None, (front, front))
        missing = stated - stream.count if stated else 0
        if size and missing > 1 and frame[1] - frame[0] + stream.size > size - _LONGEST:
            stated = None  # all its bytes are there, so the number of frames is another file's
        elif missing < -1:
            stated = None
        lost = missing if stated else stream.lost * stream.count / stream.size
        if stream.lost and lost * samples / rate > _LOST:
            where = (stream.spans[0][1] - stream.spans[0][0]) / stream.size * stream.count * samples / rate
            raise KeyMynaError(f"{path} is damaged: audio is missing at about {where:.1f} s. Get the file again.")
        whole = len(streams) == len(stream.spans) == 1 and (frame[0], frame[1]) == (front, stream.spans[0][0])
        whole = whole and data.size - stream.spans[0][1] < stream.size / 100  # else libmpg123 complains of tags
        if layer != 3:
            plain = whole and stream.spans[0] == (0, data.size)
            parts.append(Part(None if plain else tuple(stream.spans), stream.count * samples))
        elif not stated or (size and abs(frame[1] - frame[0] + stream.size - size) > size / 100):
            parts.append(Part((_info(data, stream, stated or stream.count), *stream.spans)))
        else:
            parts.append(Part(None if whole else (frame, *stream.spans)))
    return [*parts[:-1], replace(parts[-1], behind=_kind_at(data, end))] if parts else [Part()]


def _streams(data: _Bytes) -> list[_Stream]:
    streams: list[_Stream] = []
    place, chained, gap = 0, False, 0
    while place < data.size and gap < _RUBBISH:
        head = data.at(place, 4)
        size = _frame_size(head)
        same = bool(size and streams and _sort(streams[-1].header) == _sort(head))
        if size and place + size <= data.size and ((chained and same) or _opens(data, place)):
            info = _count(data, place, size)
            if info or not same:
                streams.append(_Stream(head, info))
                gap = 0
            if not info:
                streams[-1].lost += gap
                streams[-1].add(place, size)
            place, chained, gap = place + size, True, 0
        elif size := _tag(data, place):
            place, chained = place + size, False
        else:
            found = data.find(_SYNC, place + 1, _RUBBISH)
            place, chained, gap = found, False, gap + found - place
    return [stream for stream in streams if stream.count]


def _opens(data: _Bytes, place: int) -> bool:
    """Whether a frame is followed by two of its sort, or by fewer and then a tag or the end."""
    sort = _sort(data.at(place, 4))
    place += _frame_size(data.at(place, 4))
    for _ in range(2):
        if place >= data.size or _tag(data, place):
            return True
        head = data.at(place, 4)
        size = _frame_size(head)
        if not size or _sort(head) != sort:
            return False
        place += size
    return True


def _tag(data: _Bytes, place: int) -> int:
    """Bytes of a tag (ID3, its footer, APE, Lyrics3) that begins at a place; 0 if there is none, or not all of it."""
    head = data.at(place, 32)
    size = 0
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        size = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0))) + 10 * (head[5] >> 4 & 1)
    elif head[:8] == b"APETAGEX" and len(head) == 32:
        size = 32 + struct.unpack("<I", head[12:16])[0] * (head[23] >> 5 & 1)  # a footer stands behind its items
    elif head[:3] == b"TAG":
        size = 227 if head[3:4] == b"+" else 128
    elif head[:11] == b"LYRICSBEGIN":
        size = data.find(re.compile(rb"LYRICS200|LYRICSEND"), place, _PIECE) + 9 - place
    return size if place + size <= data.size else 0


@functools.lru_cache(maxsize=4096)
def _frame_size(header: bytes) -> int:
    """Bytes of a frame by its first four; 0 if these are no such header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return 0
    version, layer, kbps, rate = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3), header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 4 or kbps in (0, 15) or rate == 3:
        return 0
    bits = 1000 * _KBPS[version == 3, layer][kbps - 1]
    padding, hertz = header[2] >> 1 & 1, _RATES[version][rate]
    if layer == 1:
        return (12 * bits // hertz + padding) * 4
    return (144 if version == 3 or layer == 2 else 72) * bits // hertz + padding


@functools.lru_cache(maxsize=4096)
def _sort(header: bytes) -> tuple[int, int, int, int, bool]:
    """Version bits, layer, Hz and samples of a frame, and whether it is of one channel."""
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    samples = 384 if layer == 1 else 1152 if layer == 2 or version == 3 else 576
    return version, layer, _RATES[version][header[2] >> 2 & 3], samples, header[3] >> 6 == 3


def _side(header: bytes) -> int:
    """Bytes of side information of a frame of layer III."""
    return (32 if header[1] & 8 else 17) if header[3] >> 6 != 3 else (17 if header[1] & 8 else 9)


def _count(data: _Bytes, place: int, size: int) -> tuple[int | None, int | None, Span] | None:
    """Of a frame that counts the others: their number, their bytes and where it lies; None of any other frame."""
    head = data.at(place, 48)
    tag = max(head.find(b"Xing"), head.find(b"Info"))
    if tag < 0 or len(head) < 48 or _sort(head[:4])[1] != 3 or tag not in (4 + _side(head), 6 + _side(head)):
        return None
    flags, *values = struct.unpack(">III", data.at(place + tag + 4, 12).ljust(12, b"\0"))
    count = values.pop(0) if flags & 1 else None
    return count or None, values[0] if flags & 2 else None, (place, place + size)


def _info(data: _Bytes, stream: _Stream, count: int) -> bytes:
    """A frame with the true count: the one that is there (it knows the encoder's delay) put right, or a new one."""
    if stream.info:
        frame = stream.info[2]
        old = bytearray(data.at(frame[0], frame[1] - frame[0]))
        tag = max(old.find(b"Xing"), old.find(b"Info"))
        flags = struct.unpack(">I", old[tag + 4 : tag + 8])[0]
        if flags & 1:
            old[tag + 8 : tag + 12] = struct.pack(">I", count)
            if flags & 2:
                old[tag + 12 : tag + 16] = struct.pack(">I", len(old) + stream.size & _ALL_ONES)
            return bytes(old)
    head = stream.header
    # The highest bit rate, no check sum, no padding.
    header = bytes([0xFF, head[1] | 1, 0xE0 | head[2] & 0x0C, head[3]])
    new = header + bytes(_side(head)) + b"Info" + struct.pack(">II", 1, count)
    return new.ljust(_frame_size(header), b"\0")
