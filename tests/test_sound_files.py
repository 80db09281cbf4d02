"""What of a folder is taken for sound."""

import os

import pytest
import tones

from keymyna_lib.tool.sound_files import sound_files


def found(folder, *given):
    unreadable = []
    files = sound_files([str(folder / name) for name in given], unreadable.append)
    return [str(file.relative_to(folder)) for file in files], unreadable


def test_folders_are_searched_in_order_and_each_file_counts_once(tmp_path):
    for name in (
        "b.mp3",
        "a/2.flac",
        "a/1.WAV",
        "a/deep/er/x.ogg",
        "a/cover.jpg",
        "a/._1.WAV",
        ".trash/x.mp3",
        "list.m3u",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    (tmp_path / "a" / "circle").symlink_to(tmp_path)
    tones.write(tmp_path / "a" / "nameless.mp3", 0, seconds=1.0)
    (tmp_path / "a" / "nameless.mp3").rename(tmp_path / "a" / "nameless")
    expected = ["a/1.WAV", "a/2.flac", "a/nameless", "a/deep/er/x.ogg"]
    assert found(tmp_path, "a") == (expected, [])
    assert found(tmp_path, ".")[0] == ["b.mp3", *expected]
    assert found(tmp_path, "a/2.flac", "a", "list.m3u", "none.mp3")[0] == [
        "a/2.flac", "a/1.WAV", "a/nameless", "a/deep/er/x.ogg", "list.m3u", "none.mp3"
    ]  # fmt: skip


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
def test_a_folder_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "a.wav").touch()
    files, unreadable = found(tmp_path, ".")
    assert files == ["a.wav"] and [error.filename for error in unreadable] == [str(tmp_path / "closed")]
