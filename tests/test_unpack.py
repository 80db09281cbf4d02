"""Archives that try to leave their folder, are damaged or too large, or are unpacked twice."""

import os
import shutil
import stat
import zipfile

import numpy as np
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import unpack as module
from keymyna_lib.corpus.recordings.unpack import extract, is_unpacked

DATA = np.random.default_rng(0).bytes(100_000)
FILES = {"top.txt": b"top", "in/side/a.bin": DATA, "in/empty": b""}


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(".unpacked")
    }


def test_archives_are_unpacked_once(tmp_path, monkeypatch):
    archive, folder = zipped(tmp_path / "x.zip", FILES, compression=zipfile.ZIP_DEFLATED), tmp_path / "out/here"
    assert not is_unpacked(archive, folder)
    extract(archive, folder, show=False)
    assert is_unpacked(archive, folder) and tree(folder) == FILES
    assert stat.S_IMODE(folder.stat().st_mode) & 0o500 == 0o500
    assert sorted(os.listdir(tmp_path / "out")) == ["here"]
    (folder / "top.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_unpack", lambda *_: pytest.fail("unpacked again"))
        extract(archive, folder, show=False)
    zipped(archive, {"new": b"n"})  # another archive of that name
    extract(archive, folder, show=False)
    assert tree(folder) == {name: FILES[name] for name in FILES if name != "top.txt"} | {"new": b"n"}


def test_a_damaged_stamp_is_no_stamp(tmp_path):
    archive, folder = zipped(tmp_path / "x.zip", FILES), tmp_path / "out"
    extract(archive, folder, show=False)
    (folder / ".x.zip.unpacked").write_bytes(b"{")
    (folder / "top.txt").unlink()
    extract(archive, folder, show=False)
    assert tree(folder) == FILES


def test_names_as_other_systems_write_them(tmp_path):
    extract(zipped(tmp_path / "x.zip", {"dir\\": b"", "dir\\a": b"1", "b/": b""}), tmp_path / "z", show=False)
    assert tree(tmp_path / "z") == {"dir/a": b"1"}


def zip_entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


EVIL = {
    "upwards": lambda p: zipped(p / "x.zip", {"good": b"g", "in/../../evil": b"e"}),
    "upwards by backslash": lambda p: zipped(p / "x.zip", {"good": b"g", "..\\evil": b"e"}),
    "absolute": lambda p: zipped(p / "x.zip", {"good": b"g", str(p / "evil"): b"e"}),
    "link": lambda p: zipped(p / "x.zip", {"good": b"g", zip_entry("evil", stat.S_IFLNK | 0o777): b".."}),
    "device": lambda p: zipped(p / "x.zip", {"good": b"g", zip_entry("evil", stat.S_IFCHR | 0o666): b""}),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_members_are_refused_before_anything_is_written(tmp_path, kind):
    archive = EVIL[kind](tmp_path)
    with pytest.raises(KeyMynaError, match="(?s)x\\.zip is not unpacked.*evil"):
        extract(archive, tmp_path / "deep/out", show=False)
    assert sorted(tree(tmp_path)) == [archive.name] and os.listdir(tmp_path / "deep") == []


def test_locked_archives_are_refused(tmp_path):
    data = bytearray(zipped(tmp_path / "x.zip", {"a": b"1"}).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of the central directory's entry
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(KeyMynaError, match="'a' needs a password"):
        extract(tmp_path / "x.zip", tmp_path / "out", show=False)


def test_an_interrupted_unpacking_does_not_count(tmp_path, monkeypatch):
    archive, folder = zipped(tmp_path / "x.zip", FILES), tmp_path / "out"

    def interrupt(self, info, *options):
        if info.filename == "in/empty":
            raise KeyboardInterrupt
        return unpack_one(self, info, *options)

    unpack_one = zipfile.ZipFile.extract
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extract", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(archive, folder, show=False)
    assert os.listdir(tmp_path) == ["x.zip"]
    killed = tmp_path / ".x.zip.unpacking/content"  # what a kill leaves
    killed.mkdir(parents=True)
    (killed / "half").write_bytes(b"h")
    extract(archive, folder, show=False)
    assert tree(folder) == FILES and sorted(os.listdir(tmp_path)) == ["out", "x.zip"]


def test_an_interrupted_move_does_not_count(tmp_path, monkeypatch):
    archive, folder = zipped(tmp_path / "x.zip", FILES), tmp_path / "out"
    folder.mkdir()

    def interrupt(source, target):
        if str(target).endswith("top.txt"):
            raise KeyboardInterrupt
        return replace(source, target)

    replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(archive, folder, show=False)
    assert "top.txt" not in tree(folder)
    extract(archive, folder, show=False)
    assert tree(folder) == FILES


def test_two_archives_share_a_folder_and_links_in_it_are_not_followed(tmp_path):
    folder = tmp_path / "out"
    extract(zipped(tmp_path / "x.zip", {"in/a": b"1", "same": b"x"}), folder, show=False)
    (folder / "mine").write_bytes(b"m")
    extract(zipped(tmp_path / "y.zip", {"in/b": b"2", "same": b"y"}), folder, show=False)
    assert tree(folder) == {"in/a": b"1", "in/b": b"2", "same": b"y", "mine": b"m"}
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyMynaError, match="link is a link"):
        extract(zipped(tmp_path / "z.zip", {"link/c": b"3"}), folder, show=False)
    assert os.listdir(tmp_path / "elsewhere") == [] and ".z.zip.unpacking" not in os.listdir(folder)


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: flip(data, 5000), lambda data: b"PK"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zips(tmp_path, damage, compression):
    data = zipped(tmp_path / "x.zip", {"a": DATA}, compression=compression).read_bytes()
    (tmp_path / "x.zip").write_bytes(damage(data))
    with pytest.raises(KeyMynaError, match="x.zip is damaged"):
        extract(tmp_path / "x.zip", tmp_path / "out", show=False)
    assert not (tmp_path / "out").exists()


def test_more_than_the_disk_holds_is_refused(tmp_path, monkeypatch):
    members = {f"zeros {i}": bytes(600_000) for i in range(2)}
    archive = zipped(tmp_path / "x.zip", members, compression=zipfile.ZIP_DEFLATED)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1_199_999))
    with pytest.raises(KeyMynaError, match="0.0 GB are free"):
        extract(archive, tmp_path / "out", show=False)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1_200_000))
    extract(archive, tmp_path / "out", show=False)
    assert len(tree(tmp_path / "out")) == 2
