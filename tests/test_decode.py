"""Decoding: level, frequency and length whatever the format and rate, and one clear error for whatever is broken."""

import struct

import numpy as np
import pytest
import soundfile
import tones

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings.decode import audio_length, read_audio
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
    path.write_bytes(path.read_bytes()[:-5000])
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


@pytest.mark.parametrize("frames", [0, 15 << 32])
def test_a_flac_that_does_not_say_its_length(tmp_path, frames):
    path = tmp_path / "a.flac"
    tones.write(path, 7, 1.0)
    data = bytearray(path.read_bytes())  # 36 bits, of which the last 32 are bytes 22 to 25
    data[21] = data[21] & 0xF0 | frames >> 32
    data[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    path.write_bytes(data)
    for function in (read_audio, audio_length):
        with pytest.raises(KeyMynaError, match="a.flac states no length"):
            function(path)


@pytest.mark.parametrize("samples, rate", [(0, 22050), (22050, 100)])
def test_headers_that_cannot_be_true(tmp_path, samples, rate):
    soundfile.write(tmp_path / "a.wav", np.zeros(samples), rate)
    with pytest.raises(KeyMynaError, match=rf"a.wav states no length.*: {samples} samples at {rate} Hz"):
        audio_length(tmp_path / "a.wav")


def test_seconds_out_of_range(tmp_path):
    with pytest.raises(KeyMynaError, match="seconds=-1"):
        read_audio(tmp_path / "a.wav", seconds=-1)
