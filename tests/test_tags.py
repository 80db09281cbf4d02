"""A key in a file's tags: read back by another library, the audio and all other tags as they were."""

import os

import av
import mutagen
import numpy as np
import pytest
import soundfile
import tones
from mutagen.id3 import ID3, PRIV, TDRC, TIT2, TKEY, TXXX, TYER
from mutagen.mp4 import MP4

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings.decode import read_audio
from keymyna_lib.tool import tags
from keymyna_lib.tool.tags import read_key, write_key

FORMATS = {
    "wav": ("WAV", None),
    "aiff": ("AIFF", None),
    "mp3": ("MP3", None),
    "flac": ("FLAC", None),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
}


def write(path):
    """A second of music, in the format of its ending."""
    audio = tones.cadence(3, 1.0, 48000)
    if path.suffix == ".m4a":
        with av.open(str(path), "w") as file:
            stream = file.add_stream("aac", rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(audio[None], "fltp", "mono")
            frame.sample_rate = 48000
            file.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        kind, subtype = FORMATS[path.suffix[1:]]
        soundfile.write(path, audio, 48000, format=kind, subtype=subtype)
    return path


def by_ffmpeg(path):
    """The tags of a file that hold its key, by FFmpeg."""
    with av.open(str(path)) as file:
        found = {**file.metadata, **file.streams.audio[0].metadata}
    return {name: value for name, value in found.items() if name.lower() in ("tkey", "initialkey")}


@pytest.mark.parametrize(
    "ending, name", [("wav", "TKEY"), ("aiff", "TKEY"), ("mp3", "TKEY"), ("m4a", "initialkey")]
    + [(ending, "INITIALKEY") for ending in ("flac", "ogg", "opus")],
)  # fmt: skip
def test_another_reader_finds_the_key_and_the_audio_is_the_same(tmp_path, ending, name):
    path = write(tmp_path / f"song.{ending}")
    before = read_audio(path)
    assert read_key(path) == ""
    for text in ("F#m", "11A"):
        write_key(path, text)
        assert read_key(path) == text and by_ffmpeg(path) == {name: text}
    np.testing.assert_array_equal(read_audio(path), before)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("version, year", [(3, TYER), (4, TDRC)])
def test_other_frames_and_the_version_of_id3_stay(tmp_path, version, year):
    path = write(tmp_path / "song.mp3")
    old = ID3()
    frames = [TIT2(encoding=1, text=["Tïtle", "two"]), TXXX(encoding=1, desc="mood", text=["a/b"]), TKEY(text=["Cm"])]
    for frame in [*frames, PRIV(owner="x", data=b"\0\1\2"), year(encoding=0, text=["1999"])]:
        old.add(frame)
    old.save(path, v2_version=version, v23_sep=None)
    assert read_key(path) == "Cm"
    before = {name: frame for name, frame in ID3(path, translate=False).items() if name != "TKEY"}
    write_key(path, "8A")
    after = ID3(path, translate=False)
    assert after.version[:2] == (2, version) and after.pop("TKEY").text == ["8A"]
    assert {name: repr(frame) for name, frame in after.items()} == {name: repr(frame) for name, frame in before.items()}


def test_one_atom_of_mp4_is_left_however_its_name_was_spelled(tmp_path):
    path = write(tmp_path / "song.m4a")
    file = MP4(path)
    file["\xa9nam"], file["----:com.apple.iTunes:INITIALKEY"] = ["Title"], [b"Am"]
    file.save()
    assert read_key(path) == "Am"
    write_key(path, "9A")
    found = MP4(path).tags
    assert found["\xa9nam"] == ["Title"] and [name for name in found if "key" in name.lower()] == [
        "----:com.apple.iTunes:initialkey"
    ]


def test_a_second_name_is_read(tmp_path):
    path = write(tmp_path / "song.flac")
    file = mutagen.File(path)
    file["key"] = ["Ebm"]
    file.save()
    assert read_key(path) == "Ebm"
    write_key(path, "2A")
    assert read_key(path) == "2A"


def test_permissions_and_links_stay(tmp_path):
    path, link = write(tmp_path / "song.flac"), tmp_path / "link.flac"
    path.chmod(0o640)
    os.utime(path, (1, 1))
    link.symlink_to("song.flac")
    write_key(link, "Bb")
    assert link.is_symlink() and not path.is_symlink() and read_key(path) == "Bb"
    assert path.stat().st_mode & 0o777 == 0o640 and path.stat().st_mtime > 1


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_file_and_nothing_else(tmp_path, monkeypatch, error):
    path = write(tmp_path / "song.mp3")
    before = path.read_bytes()

    def half_way(file, text):
        with open(file.filename, "r+b") as stream:
            stream.write(b"half")
        raise error

    monkeypatch.setattr(tags, "_tag", half_way)
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else KeyMynaError):
        write_key(path, "C")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["song.mp3"]


def test_what_has_no_place_for_a_key_is_refused(tmp_path):
    path = tmp_path / "song.au"
    soundfile.write(path, tones.cadence(3, 1.0), 16000, format="AU")
    with pytest.raises(KeyMynaError, match=r"song\.au is of a kind that has no tag for a key"):
        write_key(path, "C")
    (tmp_path / "none.flac").write_bytes(b"fLaC")
    with pytest.raises(KeyMynaError, match=r"none\.flac cannot be tagged"):
        write_key(tmp_path / "none.flac", "C")
    assert read_key(tmp_path / "none.flac") == "" and read_key(tmp_path / "absent.mp3") == ""
