"""Decoding: level, frequency and length whatever the format and rate, and one clear error for whatever is broken."""

import importlib.util
import io
import itertools
import os
import struct

import numpy as np
import pytest
import soundfile
import soxr
import tones

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import decode
from keymyna_lib.corpus.recordings.decode import audio_blocks, audio_length, may_be_sound, read_audio
from keymyna_lib.spectrogram import SAMPLE_RATE

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".au")


def tone(frequency, seconds, rate):
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def without_count(path, audio, mode):
    """Write an mp3 at 16 kHz and take its first frame off; returns the number of the others, as that frame has it."""
    soundfile.write(path, audio, 16000, format="MP3", bitrate_mode=mode)
    data = path.read_bytes()
    tag = max(data[:64].find(b"Xing"), data[:64].find(b"Info"))
    size = data.find(data[:2], tag + 160)  # beyond what it says there is nothing but zeros
    assert tag > 0 and size > 0
    path.write_bytes(data[size:])
    return struct.unpack(">I", data[tag + 8 : tag + 12])[0]


def without_av(monkeypatch):
    """As on a machine without FFmpeg."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "av" else find(name, *more))


def sound(frequency, seconds, rate=44100, channels=1, **how):
    """The bytes of a file with a tone."""
    file = io.BytesIO()
    soundfile.write(file, np.stack([tone(frequency, seconds, rate)] * channels, axis=1), rate, **how)
    return file.getvalue()


def mp3(frequency, seconds, rate=44100, channels=2):
    return sound(frequency, seconds, rate, channels, format="MP3", bitrate_mode="CONSTANT")


def id3(body, *, version=4):
    return b"ID3" + bytes([version, 0, 0, *(len(body) >> shift & 127 for shift in (21, 14, 7, 0))]) + body


def at(data, place, new):
    """The data with other bytes at a place."""
    return data[:place] + new + data[place + len(new) :]


def heard(audio, *pieces, tolerance=0.06):
    """Whether audio is tones of 0.5, (frequency, seconds) behind one another."""
    assert abs(len(audio) / SAMPLE_RATE - sum(seconds for _, seconds in pieces)) < tolerance
    start = 0
    for frequency, seconds in pieces:
        piece = audio[round((start + 0.2) * SAMPLE_RATE) : round((start + seconds - 0.2) * SAMPLE_RATE)]
        spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece))))
        assert abs(spectrum.argmax() * SAMPLE_RATE / len(piece) - frequency) < 1.5
        assert abs(np.sqrt(np.mean(piece**2)) - np.sqrt(1 / 8)) < 0.02
        start += seconds


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("frequency", [440.0, 3300.0])
def test_a_tone_keeps_its_frequency_and_level(tmp_path, rate, frequency):
    soundfile.write(tmp_path / "tone.wav", tone(frequency, 2.0, rate), rate, subtype="FLOAT")
    audio = read_audio(tmp_path / "tone.wav")
    assert audio.dtype == np.float32 and audio.shape == (2 * SAMPLE_RATE,)
    middle = slice(SAMPLE_RATE // 2, -SAMPLE_RATE // 2)
    np.testing.assert_allclose(audio[middle], tone(frequency, 2.0, SAMPLE_RATE)[middle], atol=2e-4)


def test_what_16_khz_cannot_hold_is_gone(tmp_path):
    soundfile.write(tmp_path / "tone.wav", tone(9000, 2.0, 44100), 44100, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "tone.wav")[1000:-1000]).max() < 1e-5


def test_channels_are_averaged(tmp_path):
    left, right = np.random.default_rng(0).uniform(-0.9, 0.9, (2, 16000))
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "two.wav"), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate, channels", [(22050, 1), (44100, 2), (48000, 2)])
def test_formats_agree(tmp_path, suffix, rate, channels):
    tones.write(tmp_path / f"a{suffix}", 5, 3.01, rate, channels)
    audio, expected = read_audio(tmp_path / f"a{suffix}"), tones.cadence(5, 3.01, rate)
    frames = round(3.01 * rate)
    assert len(audio) == audio_length(tmp_path / f"a{suffix}") == int(np.ceil(frames * SAMPLE_RATE / rate))
    tones.write(tmp_path / "plain.wav", 5, 3.01, rate, channels)
    error = audio - read_audio(tmp_path / "plain.wav")
    if suffix in (".wav", ".flac", ".au"):
        assert np.abs(error).max() < 2 / 32768  # one step of 16 bits, rounded here and cut there
    else:
        assert np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate", [8000, 22050, 48000])
def test_an_excerpt_is_the_beginning_of_the_whole(tmp_path, suffix, rate):
    tones.write(tmp_path / f"a{suffix}", 3, 4.0, rate)
    whole = read_audio(tmp_path / f"a{suffix}")
    excerpt = read_audio(tmp_path / f"a{suffix}", seconds=1.5)
    assert len(excerpt) == 24000 and len(read_audio(tmp_path / f"a{suffix}", seconds=9.0)) == len(whole)
    np.testing.assert_allclose(excerpt, whole[:24000], atol=1e-5)


def test_an_excerpt_decodes_no_more_than_it_needs(tmp_path):
    tones.write(tmp_path / "a.wav", 3, 4.0, 22050)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(data[: len(data) // 2])
    excerpts = [read_audio(tmp_path / name, seconds=1.0) for name in ("cut.wav", "a.wav")]
    np.testing.assert_array_equal(*excerpts)
    with pytest.raises(KeyMynaError, match="truncated"):
        read_audio(tmp_path / "cut.wav", seconds=3.0)


def test_silence_is_allowed(tmp_path):
    soundfile.write(tmp_path / "silence.flac", np.zeros(44100), 44100)
    audio = read_audio(tmp_path / "silence.flac")
    assert audio.shape == (16000,) and not audio.any()


@pytest.mark.parametrize("suffix", [".wav", ".au", ".mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_truncated_file_is_refused_and_its_length_is_the_promised_one(tmp_path, suffix, channels):
    path = tmp_path / f"a{suffix}"
    tones.write(path, 7, 4.0, 22050, channels)
    data = path.read_bytes()
    path.write_bytes(data[: round(0.8 * len(data))])
    assert audio_length(path) == 4 * SAMPLE_RATE
    with pytest.raises(KeyMynaError, match=rf"a\{suffix} is truncated: [23]\.\d s of 4\.0 s"):
        read_audio(path)
    path.write_bytes(data[: len(data) - 8])  # a few samples are not worth a track
    assert len(read_audio(path)) == 4 * SAMPLE_RATE


def test_a_truncated_flac_is_refused(tmp_path):
    path = tmp_path / "a.flac"
    tones.write(path, 7, 4.0)
    path.write_bytes(path.read_bytes()[:-30000])
    with pytest.raises(KeyMynaError, match="a.flac"):
        read_audio(path)


@pytest.mark.parametrize("unknown", [0xFFFFFFFF, 0x7FFFF000])
def test_a_streamed_wav_has_the_length_of_its_data(tmp_path, unknown):
    path = tmp_path / "a.wav"
    tones.write(path, 7, 2.0)
    data = bytearray(path.read_bytes())
    assert data[36:40] == b"data"
    data[40:44] = struct.pack("<I", unknown)
    path.write_bytes(data)
    assert len(read_audio(path)) == audio_length(path) == 2 * SAMPLE_RATE


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
@pytest.mark.parametrize("quiet", ["nowhere", "first", "last"])
@pytest.mark.parametrize("front, back", [(0, 0), (100_000, 128)])
def test_an_mp3_that_does_not_say_how_many_frames_it_has(tmp_path, mode, quiet, front, back):
    """Its length is counted, whatever its bit rate does and whatever tags and pictures surround it."""
    audio = tones.cadence(4, 6.0)
    audio[{"nowhere": slice(0), "first": slice(0, 48000), "last": slice(48000, None)}[quiet]] = 0
    count = without_count(tmp_path / "a.mp3", audio, mode)
    data = (tmp_path / "a.mp3").read_bytes()
    picture = np.random.default_rng(0).bytes(front) + data[: len(data) // 2]  # and what looks like frames, but is none
    tag = b"ID3\3\0\0" + bytes(len(picture) >> shift & 127 for shift in (21, 14, 7, 0)) + picture
    (tmp_path / "b.mp3").write_bytes(tag * (front > 0) + data + b"TAG".ljust(back, b" ")[:back])
    decoded = read_audio(tmp_path / "b.mp3")
    assert audio_length(tmp_path / "b.mp3") == len(decoded) == 576 * count - 529  # less the decoder's own delay
    delay = 576  # the encoder's
    error = decoded[delay : delay + len(audio)] - audio
    assert np.sqrt(np.mean(error**2)) < 0.05 * np.sqrt(np.mean(audio**2))


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"no audio, but words " * 500, "not a sound file"),
        (bytes(20000), "not a sound file"),
        (np.random.default_rng(0).bytes(20000), "not a sound file"),
    ],
)
def test_what_is_no_audio_is_refused(tmp_path, suffix, content, message):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content)
    for function in (read_audio, audio_length):
        with pytest.raises(KeyMynaError, match=rf"bad\{suffix}.*{message}"):
            function(path)


def test_absent_files_and_folders(tmp_path):
    for function in (read_audio, audio_length):
        with pytest.raises(KeyMynaError, match="none.wav cannot be read") as error:
            function(tmp_path / "none.wav")
        assert isinstance(error.value.__cause__, FileNotFoundError)
        with pytest.raises(KeyMynaError, match="cannot be read"):
            function(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(tmp_path, value):
    audio = tone(440, 1.0, 22050)
    audio[100] = value
    soundfile.write(tmp_path / "a.wav", audio, 22050, subtype="FLOAT")
    with pytest.raises(KeyMynaError, match="a.wav.*no numbers"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("suffix", [".flac", ".mp3"])
def test_damage_amid_a_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    tones.write(path, 7, 20.0, 44100, 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 8000] = np.random.default_rng(0).bytes(8000)
    path.write_bytes(data)
    with pytest.raises(KeyMynaError, match="a.*damaged|a.*truncated"):
        read_audio(path)


def test_a_flac_that_cannot_be_as_long_as_it_says(tmp_path, monkeypatch):
    path = tmp_path / "a.flac"
    tones.write(path, 7, 1.0)
    audio = read_audio(path)
    data = bytearray(path.read_bytes())  # 36 bits, of which the last 32 are bytes 22 to 25
    data[21] |= 15
    data[22:26] = bytes(4)
    path.write_bytes(data)
    np.testing.assert_array_equal(read_audio(path), audio)  # through FFmpeg
    assert audio_length(path) == len(audio)
    without_av(monkeypatch)
    for function in (read_audio, audio_length):
        with pytest.raises(KeyMynaError, match="a.flac.*FLAC.*pip install av"):
            function(path)


@pytest.mark.parametrize("samples, rate", [(0, 22050), (22050, 100)])
def test_headers_that_cannot_be_true(tmp_path, samples, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(samples), rate)
    with pytest.raises(KeyMynaError, match=rf"a.wav states no length.*: {samples} samples at {rate} Hz"):
        audio_length(tmp_path / "a.wav")


def test_seconds_out_of_range(tmp_path):
    with pytest.raises(KeyMynaError, match="seconds=-1"):
        read_audio(tmp_path / "a.wav", seconds=-1)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("rate, channels", [(16000, 1), (44100, 2)])
def test_blocks_joined_are_the_whole_resampled_at_once(tmp_path, suffix, rate, channels):
    path = tmp_path / f"a{suffix}"
    tones.write(path, 5, 20.0, rate, channels)
    blocks = list(audio_blocks(path))
    assert max(map(len, blocks)) < 17 * SAMPLE_RATE
    np.testing.assert_array_equal(np.concatenate(blocks), read_audio(path))
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0].mean(axis=1)
    if rate != SAMPLE_RATE:
        whole = soxr.resample(whole, rate, SAMPLE_RATE, quality="HQ")
    np.testing.assert_allclose(read_audio(path), whole, rtol=0, atol=2e-7 if suffix == ".mp3" else 0)


def _joined():
    a, b, wav = mp3(440, 3), mp3(660, 2), sound(440, 3, format="WAV")
    ape = b"APETAGEX" + struct.pack("<III", 2000, 832, 1)
    ape = ape + struct.pack("<I", 0xA0000000) + bytes(8) + a[400:1200] + ape + struct.pack("<I", 1 << 31) + bytes(8)
    chains = {
        f"chain of {name}": [sound(f, s, 48000, format=how[0], subtype=how[1]) for f, s in ((440, 3), (660, 2))]
        for name, how in {"ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16")}.items()
    }
    return {
        "mp3s": a + b,
        "mp3s of two rates": a + mp3(660, 2, 22050, 1),
        "mp3s with tags": id3(bytes(3000)) + a + b"TAG".ljust(128) + id3(b[:9000]) + b,
        "mp3s, APE tag between": a + ape + b,
        "mp3s, tag appended": a + b + id3(a[:4000]) + b"3DI\4\0\0\0\0\x1f\x20",
        "mp3s, rubbish before": b"HTTP/1.0 200 OK\r\n\r\n" + a + b,
        "wavs": wav + sound(660, 2, 22050, format="WAV"),
        "wavs with a list": wav + b"LIST" + struct.pack("<I", 4) + b"INFO" + sound(660, 2, format="WAV"),
        **{name: b"".join(links) for name, links in chains.items()},
        "ogg and opus": chains["chain of ogg"][0] + chains["chain of opus"][1],
    }


@pytest.mark.parametrize("name, data", _joined().items())
def test_streams_behind_one_another_are_all_read(tmp_path, caplog, name, data):
    path = tmp_path / "joined"
    path.write_bytes(data)
    audio = read_audio(path)
    heard(audio, (440, 3), (660, 2))
    assert len(audio) == audio_length(path) and not caplog.records
    np.testing.assert_array_equal(read_audio(path, seconds=3.5)[:-8], audio[: 3 * SAMPLE_RATE + SAMPLE_RATE // 2 - 8])


FORMATS = {
    "wav": sound(440, 3, format="WAV"),
    "FLAC": sound(440, 3, format="FLAC"),
    "Ogg": sound(440, 3, format="OGG"),
    "AIFF": sound(440, 3, format="AIFF"),
    "an mp3": id3(bytes(3000)) + mp3(440, 3),
}


@pytest.mark.parametrize("first, second", list(itertools.permutations(FORMATS, 2)))
def test_a_file_of_another_format_behind_one_is_named(tmp_path, caplog, first, second):
    alone, joined = tmp_path / "alone", tmp_path / "joined"
    alone.write_bytes(FORMATS[first])
    joined.write_bytes(FORMATS[first] + FORMATS[second])
    assert audio_length(joined) == audio_length(alone)
    expected = read_audio(alone)
    read_audio(joined, seconds=1)
    assert not caplog.records
    np.testing.assert_array_equal(read_audio(joined), expected)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{joined} has another file behind its audio ({second}), which is not read. Split it."


@pytest.mark.parametrize("share", [0.5, 0.25, 3])
def test_a_wrong_count_of_frames(tmp_path, share):
    data = mp3(440, 5)
    tag = max(data[:64].find(b"Xing"), data[:64].find(b"Info"))
    (count,) = struct.unpack(">I", data[tag + 8 : tag + 12])
    (tmp_path / "a.mp3").write_bytes(data)
    (tmp_path / "b.mp3").write_bytes(at(data, tag + 8, struct.pack(">I", round(count * share))))
    np.testing.assert_array_equal(*(read_audio(tmp_path / name) for name in ("a.mp3", "b.mp3")))


@pytest.mark.parametrize("count", [0, 1, 66150, 100_000])
@pytest.mark.parametrize("links", [1, 2])
def test_a_flac_that_counts_fewer_samples_than_it_has(tmp_path, monkeypatch, count, links):
    without_av(monkeypatch)
    data = sound(440, 3, 44100, 2, format="FLAC")
    (described,) = struct.unpack(">Q", data[18:26])
    assert described & (1 << 36) - 1 == 3 * 44100
    (tmp_path / "a.flac").write_bytes(data * links)
    (tmp_path / "b.flac").write_bytes(at(data, 18, struct.pack(">Q", described >> 36 << 36 | count)) * links)
    whole, counted = (read_audio(tmp_path / name) for name in ("a.flac", "b.flac"))
    np.testing.assert_array_equal(counted, whole)
    assert len(whole) == audio_length(tmp_path / "b.flac") == 3 * SAMPLE_RATE * links


def test_a_wav_whose_data_are_longer_than_their_chunk(tmp_path, caplog):
    """A recorder that stopped between the two lengths that it writes, or before either."""
    data = sound(440, 3, format="WAV")
    size = struct.unpack("<I", data[40:44])[0] // 2
    for name, content in {"a": data, "b": at(data, 40, struct.pack("<I", size))}.items():
        (tmp_path / f"{name}.wav").write_bytes(content)
    np.testing.assert_array_equal(*(read_audio(tmp_path / name) for name in ("a.wav", "b.wav")))
    assert not caplog.records
    (tmp_path / "c.wav").write_bytes(at(at(data, 40, struct.pack("<I", size)), 4, struct.pack("<I", size + 36)))
    assert len(read_audio(tmp_path / "c.wav")) == 3 * SAMPLE_RATE // 2
    assert "c.wav has another file behind its audio (of no known format)" in caplog.text


@pytest.mark.parametrize("data", [mp3(440, 3), id3(bytes(300)) + mp3(440, 3), sound(440, 3, format="WAV")])
@pytest.mark.parametrize("fork", ["._{}", ".AppleDouble/{}"])
def test_what_macos_puts_beside_a_file_is_no_part_of_it(tmp_path, data, fork):
    (tmp_path / "a.mp3").write_bytes(data)
    alone = read_audio(tmp_path / "a.mp3")
    (tmp_path / ".AppleDouble").mkdir()
    (tmp_path / fork.format("a.mp3")).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X".ljust(4096, b"\0"))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.mp3"), alone)


def test_a_folder_of_macos_where_the_program_runs(tmp_path, monkeypatch):
    (tmp_path / "a.mp3").write_bytes(mp3(440, 3) * 2)
    (tmp_path / ".AppleDouble").mkdir()
    assert len(read_audio(tmp_path / "a.mp3")) > 5 * SAMPLE_RATE
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyMynaError, match="a.mp3 cannot be read where .*AppleDouble is.*run in another folder"):
        read_audio(tmp_path / "a.mp3")


def _unknown_lengths():
    wav, long, au = (sound(440, 3, format=format) for format in ("WAV", "RF64", "AU"))
    caf, ds64, data = sound(440, 3, format="CAF"), long.find(b"ds64") + 16, wav.find(b"data") + 4
    return {
        "wav 0": at(wav, data, bytes(4)),
        "wav 0, RIFF 0": at(at(wav, data, bytes(4)), 4, bytes(4)),
        "wav -1": at(wav, data, b"\xff" * 4),
        "RF64 0": at(long, ds64, bytes(8)),
        "RF64 -1": at(long, ds64, b"\xff" * 8),
        "BW64": b"BW64" + long[4:],
        "au 0": at(au, 8, bytes(4)),
        "au -1": at(au, 8, b"\xff" * 4),
        "caf -1": at(caf, caf.find(b"data") + 4, b"\xff" * 8),
    }


@pytest.mark.parametrize("name, data", _unknown_lengths().items())
def test_a_length_that_the_header_does_not_know(tmp_path, name, data):
    (tmp_path / "a").write_bytes(data)
    heard(read_audio(tmp_path / "a"), (440, 3), tolerance=1e-4)


@pytest.mark.parametrize("stated", ["unknown", "0", "its last 32 bits"])
def test_beyond_4_gib(tmp_path, stated):
    """A sparse file; only its length and its beginning are looked at."""
    size, start = 5 << 30, sound(440, 3, channels=2, format="WAV")
    data = start.find(b"data") + 8
    field = {"unknown": 0xFFFFFFFF, "0": 0, "its last 32 bits": size & 0xFFFFFFFF}[stated]
    with open(tmp_path / "a.wav", "wb") as file:
        file.write(at(start, data - 4, struct.pack("<I", field)))
        file.truncate(data + size)
    assert audio_length(tmp_path / "a.wav") == -(-size // 4 * SAMPLE_RATE // 44100)
    heard(read_audio(tmp_path / "a.wav", seconds=3), (440, 3))


@pytest.mark.parametrize("suffix, share", [(".wav", 0.98), (".au", 0.95), (".mp3", 0.96), (".flac", 0.96)])
def test_a_missing_tail_is_said_once(tmp_path, caplog, suffix, share):
    path = tmp_path / f"a{suffix}"
    tones.write(path, 7, 12.0)
    whole, data = read_audio(path), path.read_bytes()
    assert not caplog.records
    path.write_bytes(data[: round(share * len(data))])
    audio = read_audio(path)
    (line,) = caplog.messages
    assert str(path) in line and "\n" not in line and len(audio) == len(whole) == audio_length(path)
    np.testing.assert_array_equal(audio[: 11 * SAMPLE_RATE], whole[: 11 * SAMPLE_RATE])
    assert not audio[-1600:].any()
    path.write_bytes(data[: round(0.85 * len(data))])
    with pytest.raises(KeyMynaError, match=f"a{suffix} is (truncated|damaged): 1[01].. s of 12.0 s"):
        read_audio(path)


@pytest.mark.parametrize("format", ["AIFF", "CAF", "RF64"])
def test_real_truncation_is_refused_in_rarer_containers(tmp_path, format):
    (tmp_path / "a").write_bytes(sound(440, 6, format=format)[:400_000])
    with pytest.raises(KeyMynaError, match="a is truncated: 4.. s of 6.0 s"):
        read_audio(tmp_path / "a")


@pytest.mark.parametrize("low, high", [(0.3, 0.6), (0.5, 0.51), (0.6, 0.99)])
def test_an_ogg_with_a_hole(tmp_path, low, high):
    noise = np.random.default_rng(0).normal(0, 0.1, 480000)
    soundfile.write(tmp_path / "a.ogg", noise, 48000, format="OGG")
    data = (tmp_path / "a.ogg").read_bytes()
    (tmp_path / "a.ogg").write_bytes(data[: round(low * len(data))] + data[round(high * len(data)) :])
    with pytest.raises(KeyMynaError, match="a.ogg is (truncated|damaged)"):
        read_audio(tmp_path / "a.ogg")


def test_an_ogg_that_lacks_a_moment_in_minutes(tmp_path, caplog):
    lacking = decode._Stream(
        44100, 9135516, 9135516, lambda most: iter(()), holes=True
    )  # as one of Debian's games has it
    decode._judge(tmp_path / "a.ogg", lacking, 9129710)
    assert [record.getMessage().split("a.ogg ")[1] for record in caplog.records] == [
        "lacks 0.1 s of 207.2 s; silence at its end stands for them."
    ]
    with pytest.raises(KeyMynaError, match="a.ogg is damaged: 206.7 s of 207.2 s"):
        decode._judge(tmp_path / "a.ogg", lacking, 9135516 - 22050)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_the_end_of_an_ogg(tmp_path, caplog, subtype):
    path = tmp_path / "a.ogg"
    noise = np.random.default_rng(0).normal(0, 0.1, 480000)
    soundfile.write(path, noise, 48000, format="OGG", subtype=subtype)
    whole, data = read_audio(path), path.read_bytes()
    path.write_bytes(data[:-8])  # the last page says where the stream ends, though not all of it is there
    audio = read_audio(path)
    assert len(audio) == len(whole) and len(caplog.records) <= 1
    np.testing.assert_allclose(audio[: 8 * SAMPLE_RATE], whole[: 8 * SAMPLE_RATE], atol=1e-4)
    path.write_bytes(data[: len(data) * 7 // 10])
    assert len(read_audio(path, seconds=2)) == 2 * SAMPLE_RATE
    with pytest.raises(KeyMynaError, match="a.ogg is truncated"):
        read_audio(path)


@pytest.mark.parametrize("gains", [(1, -1), (1, -0.99), (-1, 1, -0.5, 0.5), (1, -1, 0)])
@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_channels_that_cancel(tmp_path, suffix, gains):
    if suffix == ".mp3" and len(gains) > 2:
        pytest.skip("an mp3 has two channels at most")
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, np.outer(tone(440, 3.0, 44100), gains), 44100)
    heard(read_audio(path), (440, 3))


def test_channels_that_do_not_cancel_are_averaged_however_wide(tmp_path):
    left, noise = np.random.default_rng(0).normal(0, 0.1, (2, 16000))
    for right in (noise, -0.8 * left, np.zeros(16000)):
        soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16000, subtype="FLOAT")
        np.testing.assert_allclose(read_audio(tmp_path / "a.wav"), (left + right) / 2, atol=1e-7)


# (name, coder, container, s that the coder may add)
FOREIGN = [
    ("a.m4a", "aac", None, 0.01),
    ("a.M4A", "alac", "mp4", 0.01),
    ("a.mp4", "aac", None, 0.01),
    ("a.webm", "libopus", None, 0.02),
    ("a.mka", "mp2", "matroska", 0.03),
    ("a.mkv", "ac3", "matroska", 0.05),
    ("a.avi", "mp2", None, 0.03),
    ("a.aac", "aac", "adts", 0.06),
    ("a.ac3", "ac3", None, 0.05),
    ("a.wav", "ac3", "wav", 0.05),
    ("a.caf", "alac", "caf", 0.01),
    ("a.wma", "wmav2", "asf", 0.1),
    ("a.ts", "aac", "mpegts", 0.06),
    ("named.mp3", "aac", "mp4", 0.01),
]


def encode(path, coder, container, *, rate=48000, seconds=3.0, picture=False, silent=False):
    """A file by FFmpeg's encoders: a tone of 440 Hz in both channels, beside moving pictures if wanted."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=container) as file:
        if picture:
            video = file.add_stream("mpeg4", rate=5)
            video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        if not silent:
            audio = file.add_stream(coder, rate=rate, layout="stereo")
            audio.codec_context.bit_rate = 192000
        for number in range(5 * picture):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = number
            file.mux(video.encode(frame))
        if picture:
            file.mux(video.encode(None))
        if silent:
            return
        samples = np.stack([tone(440, seconds, rate).astype(np.float32)] * 2)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        context = audio.codec_context
        if not context.is_open:
            context.open()
        to = av.AudioResampler(
            format=context.format, layout=context.layout, rate=rate, frame_size=context.frame_size or 1024
        )
        for piece in itertools.chain(to.resample(frame), to.resample(None)):
            file.mux(audio.encode(piece))
        file.mux(audio.encode(None))


def test_an_m4a_behind_another_is_named(tmp_path, caplog):
    encode(tmp_path / "a.m4a", "aac", None)
    (tmp_path / "b.m4a").write_bytes((tmp_path / "a.m4a").read_bytes() * 2)
    np.testing.assert_array_equal(*(read_audio(tmp_path / name) for name in ("a.m4a", "b.m4a")))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{tmp_path / 'b.m4a'} has another file behind its audio (MP4")


@pytest.mark.parametrize("name, coder, container, more", FOREIGN)
def test_what_libsndfile_does_not_read(tmp_path, monkeypatch, name, coder, container, more):
    path = tmp_path / name
    encode(path, coder, container, picture=name[-3:] in ("mp4", "mkv", "avi"))
    audio = read_audio(path)
    heard(audio, (440, 3), tolerance=more)
    assert len(audio) == audio_length(path)
    np.testing.assert_allclose(read_audio(path, seconds=1.0), audio[:SAMPLE_RATE], atol=1e-5)
    without_av(monkeypatch)
    with pytest.raises(KeyMynaError, match=rf"{name} is.*pip install av"):
        read_audio(path)


def test_two_decoders_agree(tmp_path):
    """Lossless, by libsndfile and, as its length is not stated, by FFmpeg; and ALAC against wav."""
    encode(tmp_path / "a.m4a", "alac", "mp4", rate=44100)
    soundfile.write(tmp_path / "a.wav", tone(440, 3.0, 44100), 44100)
    np.testing.assert_allclose(*(read_audio(tmp_path / name) for name in ("a.m4a", "a.wav")), atol=1e-4)


def test_why_a_file_of_a_foreign_format_is_not_read(tmp_path):
    encode(tmp_path / "silent.mp4", "aac", None, picture=True, silent=True)
    encode(tmp_path / "whole.m4a", "aac", None)
    data = (tmp_path / "whole.m4a").read_bytes()
    (tmp_path / "half.m4a").write_bytes(data[: len(data) // 2])
    (tmp_path / "locked.m4a").write_bytes(data.replace(b"mp4a", b"drms"))
    (tmp_path / "words.m4a").write_bytes(b"words " * 1000)
    for name, words in {
        "silent.mp4": "has no audio track",
        "half.m4a": "is damaged",
        "locked.m4a": "is encrypted",
        "words.m4a": "is not a sound file",
    }.items():
        for function in (read_audio, audio_length):
            with pytest.raises(KeyMynaError, match=rf"{name} {words}"):
                function(tmp_path / name)


def test_a_truncated_video_whose_index_is_at_its_beginning(tmp_path):
    av = pytest.importorskip("av")
    encode(tmp_path / "a.m4a", "aac", None, seconds=8.0)
    faststart = {"movflags": "faststart"}
    with av.open(str(tmp_path / "a.m4a")) as whole, av.open(str(tmp_path / "b.m4a"), "w", options=faststart) as file:
        track = file.add_stream_from_template(whole.streams.audio[0])
        for packet in whole.demux(audio=0):
            if packet.dts is not None:
                packet.stream = track
                file.mux(packet)
    data = (tmp_path / "b.m4a").read_bytes()
    (tmp_path / "b.m4a").write_bytes(data[: len(data) // 2])
    with pytest.raises(KeyMynaError, match=r"b.m4a is truncated: [345].. s of 8.0 s"):
        read_audio(tmp_path / "b.m4a")


def test_layer_ii_with_a_large_cover(tmp_path):
    encode(tmp_path / "a.mp2", "mp2", "mp2", rate=44100)
    data = (tmp_path / "a.mp2").read_bytes()
    (tmp_path / "b.mp2").write_bytes(id3(np.random.default_rng(0).bytes(400_000)) + data + b"TAG".ljust(128))
    for name in ("a.mp2", "b.mp2"):
        heard(read_audio(tmp_path / name), (440, 3))
    np.testing.assert_array_equal(*(read_audio(tmp_path / name) for name in ("a.mp2", "b.mp2")))


@pytest.mark.parametrize("name", ["pipe", "pipe.wav"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    for function in (read_audio, audio_length):
        with pytest.raises(KeyMynaError, match=f"{name} is a pipe or a device"):
            function(tmp_path / name)
    assert may_be_sound(tmp_path / name) == name.endswith(".wav")
    with pytest.raises(KeyMynaError, match="/dev/zero is a pipe or a device"):
        read_audio("/dev/zero")


def test_the_ending_raw_means_nothing(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound(440, 1.0, format="WAV"))
    (tmp_path / "a.raw").write_bytes(sound(440, 1.0, format="WAV"))
    np.testing.assert_array_equal(read_audio(tmp_path / "a.raw"), read_audio(tmp_path / "a.wav"))
    (tmp_path / "b.RAW").write_bytes(sound(440, 1.0, format="RAW", subtype="PCM_16"))
    with pytest.raises(KeyMynaError, match="b.RAW is not a sound file"):
        read_audio(tmp_path / "b.RAW")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value, read", [(2.0**31, True), (1e12, False), (-3e38, False)])
def test_samples_beyond_any_level(tmp_path, value, read):
    audio = np.stack([tone(440, 1.0, 16000)] * 2, axis=1)
    audio[100:110] = value
    soundfile.write(tmp_path / "a.wav", audio, 16000, subtype="FLOAT")
    if read:
        assert np.abs(read_audio(tmp_path / "a.wav")).max() == np.float32(value)
    else:
        with pytest.raises(KeyMynaError, match=r"a.wav has samples of \de\+\d\d times full scale"):
            read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("mark", ["fbb3112223bdd211b4b700a0c955fc6e", "14e68a292226174cb935dae07ee9289c"])
def test_both_marks_of_encryption(tmp_path, mark):
    (tmp_path / "a.wma").write_bytes(bytes.fromhex("3026b2758e66cf11") + bytes(200) + bytes.fromhex(mark) + bytes(99))
    with pytest.raises(KeyMynaError, match="a.wma is encrypted"):
        read_audio(tmp_path / "a.wma")


def test_gigabytes_of_nothing_are_not_searched(tmp_path):
    with open(tmp_path / "a.mp3", "wb") as file:
        file.write(b"ID4")
        file.truncate(1 << 36)
    with pytest.raises(KeyMynaError, match="a.mp3 is not a sound file"):
        audio_length(tmp_path / "a.mp3")
