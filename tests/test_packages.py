"""Debian packages, fetched by the machine's own apt from a repository in a folder, and by stand-ins that misbehave."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tones

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus import packages as module
from keymyna_lib.corpus.packages import licences_below, licences_in
from keymyna_lib.corpus.recordings import tasks
from keymyna_lib.corpus.recordings.dataset import examine
from keymyna_lib.corpus.recordings.decode import may_be_sound
from keymyna_lib.corpus.recordings.folder import unlabelled_folders
from keymyna_lib.experiments.upstream import free_recordings_in

fetch_packages = functools.partial(module.fetch_packages, keep=may_be_sound)
needs_apt = pytest.mark.skipif(not all(map(shutil.which, module.TOOLS)), reason="apt and dpkg are not installed")
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2004 Somebody
License: CC-BY-SA-3.0
 You may copy it.

Files: debian/*
License: GPL-2+

License: GPL-2+
 On Debian systems, see /usr/share/common-licenses/GPL-2.
"""


def write_package(repository: Path, name: str, sounds: list[str], text: str = DEP5, version: str = "1:1.0-2") -> str:
    """A package with a picture, sound files below usr/share/games/NAME and a link; its stanza of a package list."""
    tree = repository / f".{name}"
    for path in sounds:
        tones.write(tree / "usr/share/games" / name / path, 3, 1.0)
    for path, content in (
        (f"usr/share/games/{name}/title.png", "a picture"),
        (f"usr/share/doc/{name}/copyright", text),
        ("DEBIAN/control", control(name, version)),
    ):
        if content:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(content)
    (tree / f"usr/share/games/{name}/link.wav").symlink_to("/dev/null")
    archive = repository / f"{name}_1.0-2_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, archive], check=True, capture_output=True)
    shutil.rmtree(tree)
    data = archive.read_bytes()
    return (
        control(name, version)
        + f"Filename: ./{archive.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
    )


def control(name, version):
    return (
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: music\n"
        f"Homepage: https://example.org/{name}\n"
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A folder with packages and their list, as apt reads it."""
    folder = tmp_path_factory.mktemp("repository")
    stanzas = [
        write_package(folder, "one-music", ["music/a.ogg", "music/deep/b b.flac", "music/c.wav"]),
        write_package(folder, "other-music", ["d.mp3"], "It is free.\n/usr/share/common-licenses/GPL-3.\n"),
        write_package(folder, "pictures", []),
        write_package(folder, "unlicensed", ["e.wav"], ""),
    ]
    (folder / "Packages").write_text("\n".join(stanzas))
    return folder


def use_apt(monkeypatch, tmp_path, source, *lines):
    """Have apt know one source alone, keep what it keeps in a folder of ours, and read the source's list."""
    for place in ("lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.d"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / "status").touch()
    (tmp_path / "etc/sources.list").write_text(f"deb [trusted=yes] {source} ./\n")
    (tmp_path / "apt.conf").write_text(
        f'Dir::State::lists "{tmp_path}/lists";\nDir::State::status "{tmp_path}/status";\n'
        f'Dir::Cache "{tmp_path}/cache";\nDir::Etc::sourcelist "{tmp_path}/etc/sources.list";\n'
        f'Dir::Etc::sourceparts "{tmp_path}/etc/sources.d";\n'
        f'Dir::Etc::preferencesparts "{tmp_path}/etc/preferences.d";\n'
        'APT::Sandbox::User "root";\nAcquire::http::Proxy "DIRECT";\nAcquire::Languages "none";\n' + "\n".join(lines)
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)


@needs_apt
def test_the_sound_files_of_packages_are_there_with_their_licences(repository, monkeypatch, tmp_path):
    use_apt(monkeypatch, tmp_path / "apt", f"file:{repository}")
    wanted = ["one-music", "no-such-music | other-music", "no-such-package", "pictures", "unlicensed"]
    rows = fetch_packages(wanted, tmp_path / "new", show=False)
    assert rows["path"].to_list() == ["one-music", "other-music", "no-such-package", "pictures", "unlicensed"]
    assert rows["state"].to_list() == ["fetched", "fetched", "failed", "failed", "failed"]
    problems = rows["problem"].to_list()
    assert problems[:2] == ["", ""] and "apt-get update" in problems[2]
    assert "none of the files" in problems[3] and "no copyright" in problems[4]
    found = {str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file()}
    assert found == {
        *(f"one-music/{name}" for name in ("a.ogg", "deep/b b.flac", "c.wav", "copyright", "package.json")),
        *(f"other-music/{name}" for name in ("d.mp3", "copyright", "package.json")),
        ".fetch.lock",
    }
    assert (tmp_path / "new/one-music/copyright").read_text() == DEP5
    shown = licences_below(tmp_path / "new").set_index("package")
    assert shown["licences"].to_dict() == {"one-music": "CC-BY-SA-3.0, GPL-2+", "other-music": "GPL-3"}
    assert shown["files"].to_dict() == {"one-music": 3, "other-music": 1}
    archive = (repository / "one-music_1.0-2_all.deb").read_bytes()
    assert shown.loc["one-music", "sha256"] == hashlib.sha256(archive).hexdigest()
    assert shown.loc["one-music", ["version", "homepage"]].to_list() == ["1:1.0-2", "https://example.org/one-music"]


class Shaky(SimpleHTTPRequestHandler):
    """Serves a folder, but answers the first request for each package that it is too busy."""

    def do_GET(self):
        asked = self.server.asked
        asked.append(self.path)
        if self.path.endswith(".deb") and asked.count(self.path) == 1:
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@needs_apt
def test_a_server_that_is_busy_is_asked_again(repository, monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *arguments: Shaky(*arguments, directory=str(repository)))
    server.asked = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        source = f"http://127.0.0.1:{server.server_port}/"
        use_apt(monkeypatch, tmp_path / "apt", source, 'Acquire::Retries::Delay "false";')
        rows = fetch_packages(["one-music"], tmp_path / "new", show=False)
    finally:
        server.shutdown()
        server.server_close()
    assert rows["state"].to_list() == ["fetched"], rows["problem"].to_list()
    assert sum(path.endswith(".deb") for path in server.asked) == 2


# Stand-ins


@pytest.fixture
def stand_in(repository, monkeypatch, tmp_path):
    """An apt of our own on PATH: its list is the repository's, and `apt-get download` runs the given Python lines."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def write(name, lines):
        (folder / name).write_text(
            f"#!{sys.executable}\nimport os, shutil, signal, sys\nrepository = {str(repository)!r}\n"
            f"name = sys.argv[-1].partition('=')[0]\n{lines}\n"
        )
        (folder / name).chmod(0o755)

    def install(lines):
        write("apt-get", f"open({str(tmp_path / 'asked')!r}, 'a').write(sys.argv[-1] + '\\n')\n{lines}")
        write("apt-cache", "print(open(repository + '/Packages').read())")
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


COPY = "shutil.copy(f'{repository}/{name}_1.0-2_all.deb', '.')"
needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg is not installed")


@needs_dpkg
def test_what_is_there_is_not_fetched_again(stand_in, tmp_path):
    stand_in(COPY)
    new = tmp_path / "new"
    assert fetch_packages(["one-music"], new, show=False)["state"].to_list() == ["fetched"]
    again = fetch_packages(["nicer-music | one-music", "other-music"], new, show=False)
    assert again["state"].to_list() == ["present", "fetched"] and again["path"].to_list() == [
        "one-music",
        "other-music",
    ]
    assert (tmp_path / "asked").read_text().split() == ["one-music=1:1.0-2", "other-music=1:1.0-2"]
    stand_in("sys.exit('never asked')")
    assert set(fetch_packages(["one-music", "other-music"], new, show=False)["state"]) == {"present"}
    offline = fetch_packages(["one-music", "pictures"], new, offline=True, show=False)
    assert offline["state"].to_list() == ["present", "failed"] and "offline" in offline["problem"][1]


@needs_dpkg
@pytest.mark.parametrize(
    "lines, problem",
    [
        ("sys.exit('Get:1 something\\nE: Failed to fetch http://x/y.deb  404  Not Found')", "404  Not Found.*update"),
        ("sys.exit(3)", "status 3"),
        ("", "status 0"),
        ("open(f'{name}.deb', 'wb').write(b'half')", "its sha256 is"),
    ],
)
def test_a_package_that_cannot_be_fetched_leaves_nothing_and_stops_no_other(stand_in, tmp_path, lines, problem):
    stand_in(f"if name == 'one-music':\n    {lines or 'pass'}\nelse:\n    {COPY}")
    rows = fetch_packages(["one-music", "other-music"], tmp_path / "new", show=False).set_index("path")
    assert rows["state"].to_dict() == {"one-music": "failed", "other-music": "fetched"}
    assert re.search(problem, rows["problem"]["one-music"])
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"other-music", ".fetch.lock"}


@needs_dpkg
def test_a_damaged_archive_is_said(stand_in, repository, monkeypatch, tmp_path):
    stand_in("open(f'{name}.deb', 'wb').write(b'no archive')")
    listed = hashlib.sha256((repository / "one-music_1.0-2_all.deb").read_bytes()).hexdigest()
    monkeypatch.setattr(module, "sha256_file", lambda path: listed)
    rows = fetch_packages(["one-music"], tmp_path / "new", show=False)
    assert "dpkg-deb cannot unpack it" in rows["problem"][0]


@needs_dpkg
def test_what_a_kill_left_is_fetched_again(stand_in, tmp_path):
    stand_in(COPY)
    new = tmp_path / "new"
    (new / ".one-music.partial/tree").mkdir(parents=True)
    (new / "one-music").mkdir()
    (new / "one-music/a.ogg").write_bytes(b"half")
    assert fetch_packages(["one-music"], new, show=False)["state"].to_list() == ["fetched"]
    assert (new / "one-music/a.ogg").stat().st_size > 4 and not (new / ".one-music.partial").exists()
    assert sorted(path.name for path in (new / "one-music").iterdir()) == [
        "a.ogg",
        "c.wav",
        "copyright",
        "deep",
        "package.json",
    ]


def test_machines_without_apt_and_names_that_are_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(KeyMynaError, match="apt-cache, apt-get, dpkg-deb cannot be found. Fetch one-music.*bring"):
        fetch_packages(["one-music"], tmp_path / "new", show=False)
    assert not (tmp_path / "new").exists()
    for name in ("../evil", "-o", "One", "a=1"):
        with pytest.raises(KeyMynaError, match="expected the name of a Debian package"):
            fetch_packages([name], tmp_path / "new", show=False)


@needs_dpkg
def test_a_list_that_knows_none_of_them_is_an_error(stand_in, tmp_path):
    stand_in(COPY)
    with pytest.raises(KeyMynaError, match="knows none of the packages x-music, y-music.*apt-get update.*universe"):
        fetch_packages(["x-music", "y-music"], tmp_path / "new", show=False)


@pytest.mark.parametrize(
    "text, names",
    [
        (DEP5, ["CC-BY-SA-3.0", "GPL-2+"]),
        ("License: made up\nOn Debian systems: /usr/share/common-licenses/GPL-2'.\n", ["GPL-2"]),
        ("This is a CREATIVE COMMONS PUBLIC LICENSE", ["Creative Commons"]),
        ("Do what you like.", []),
    ],
)
def test_names_of_licences(text, names):
    assert licences_in(text) == names


@needs_dpkg
def test_game_music_is_a_data_set_for_pretraining(stand_in, monkeypatch, tmp_path):
    stand_in(COPY)
    monkeypatch.setattr("keymyna_lib.corpus.recordings.game_music.PACKAGES", ("one-music", "gone | other-music"))
    one = tasks.dataset("game_music")
    assert one.name == tasks.dataset(one.name).name == "unlabelled:game_music"
    with pytest.raises(KeyMynaError, match="-p fetch game_music"):
        one.index(tmp_path)
    rows = tasks.download([one], tmp_path, offline=False, show=False)
    assert rows["state"].to_list() == ["fetched", "fetched"] and set(rows["name"]) == {one.name}
    table = examine(one, tmp_path, show=False)
    assert table["state"].to_dict() == dict.fromkeys(
        ["one-music/a.ogg", "one-music/c.wav", "one-music/deep/b b.flac", "other-music/d.mp3"], "found"
    )
    assert one.name in unlabelled_folders(tmp_path)
    with pytest.raises(KeyMynaError, match="all of the 4 recordings have less than 2 windows"):
        tasks.unlabelled_corpus([one], tmp_path, show=False)
    tones.write(one.folder(tmp_path) / "one-music" / "long.ogg", 7, 13.0)
    monkeypatch.setattr("keymyna_lib.base.paths.CACHE", tmp_path / "cache")
    corpus, why = tasks.unlabelled_corpus([one], tmp_path, show=False)
    assert corpus.pretraining_tracks() == ["unlabelled:game_music/one-music/long.ogg"]
    monkeypatch.setattr("keymyna_lib.experiments.upstream.FREE_SECONDS", 12.8)
    free = free_recordings_in(str(tmp_path))  # nothing is left to fetch
    assert free.pretraining_tracks() == corpus.pretraining_tracks() and free.manifest["duration"].tolist() == [12.8]
    assert why[["state", "tracks"]].to_numpy().tolist() == [["excluded", 4]]
    assert "windows of sound" in why["why"][0] and "one-music" in why["for instance"][0]
    assert tasks.licences([one, tasks.dataset("unlabelled:mine")], tmp_path)["package"].to_list() == [
        "one-music",
        "other-music",
    ]
