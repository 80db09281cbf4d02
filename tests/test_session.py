"""A folder of good and bad files, from the command line to the tags."""

import json
import shutil
import signal
import subprocess
import sys

import models
import numpy as np
import pytest
import soundfile
import tones
import torch
from click.testing import CliRunner

from keymyna_lib.__main__ import main
from keymyna_lib.base import paths
from keymyna_lib.tool.tags import read_key, write_key

GOOD = ("a.wav", "b.flac", "deep/c.ogg", "deep/d.mp3", "deep/er/e.wav", "f.mp3")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder `music` with twelve files that may be sound, six of them with a key, and three others; and a model."""
    top = tmp_path_factory.mktemp("library")
    models.write(top / "model.safetensors")
    for i, name in enumerate(GOOD):
        tones.write(top / "music" / name, 2 * i, seconds=2.0)
    write_key(top / "music" / "b.flac", "11B")
    soundfile.write(top / "music" / "silent.wav", np.zeros(30_000), 16_000)
    (top / "music" / "empty.mp3").touch()
    (top / "music" / "words.mp3").write_bytes(b"words " * 500)
    (top / "music" / "half.flac").write_bytes((top / "music" / "b.flac").read_bytes()[:9000])
    (top / "music" / "zeros.ogg").write_bytes(bytes(4000))
    (top / "music" / "short.wav").write_bytes((top / "music" / "a.wav").read_bytes()[:100])
    for name in ("cover.jpg", "notes.txt", "._a.wav"):
        (top / "music" / name).write_bytes(b"\xff\xd8\xff\xe0 no sound")
    return top


@pytest.fixture
def library(made, tmp_path):
    return shutil.copytree(made, tmp_path / "library")


def predict(library, *arguments):
    return CliRunner().invoke(main, ["predict", "--model", str(library / "model.safetensors"), *map(str, arguments)])


SUMMARY = "12 files: 6 with a key, 1 with no clear key, 5 could not be read"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_mixed_folder_runs_through(library, jobs):
    done = predict(library, library / "music", "--json", "--jobs", jobs)
    found = {record["file"].removeprefix(f"{library}/music/"): record for record in json.loads(done.stdout)}
    assert {name for name, record in found.items() if record["key"]} == set(GOOD)
    assert {name for name, record in found.items() if record["unclear"] == "silence"} == {"silent.wav"}
    bad = {name for name, record in found.items() if record["error"]}
    assert bad == {"empty.mp3", "words.mp3", "half.flac", "zeros.ogg", "short.wav"}
    assert {name: record["tag"] for name, record in found.items() if record["tag"]} == {"b.flac": "11B"}
    *errors, last = done.stderr.splitlines()
    assert done.exit_code == 1 and last == SUMMARY
    assert len(errors) == 5 and all(sum(name in error for error in errors) == 1 for name in bad)


def test_segments_are_shown_on_request(library):
    done = predict(library, library / "music" / "a.wav", library / "music" / "silent.wav", "--segments", "--json")
    sounding, silent = json.loads(done.stdout)
    (segment,) = sounding["segments"]
    assert segment["key"] == sounding["key"] and silent["segments"] == [] and done.exit_code == 0
    assert (segment["start"], segment["end"]) == (0, pytest.approx(2.0))
    assert "0:00 to 0:02" in predict(library, library / "music" / "a.wav", "--segments").stdout
    assert "segments" not in json.loads(predict(library, library / "music" / "a.wav", "--json").stdout)[0]
    assert predict(library, library / "music" / "a.wav", "--segments", "--csv").exit_code == 2


def test_tags_are_written_only_on_request(library):
    before = {path: path.read_bytes() for path in library.rglob("*") if path.is_file()}
    predict(library, library / "music")
    dry = predict(library, library / "music", "--write-tags", "--dry-run", "--notation", "camelot", "--csv")
    assert {path: path.read_bytes() for path in library.rglob("*") if path.is_file()} == before
    assert dry.stderr.splitlines()[-1] == SUMMARY + " (dry run: no tag was written)"
    wet = predict(library, library / "music", "--write-tags", "--notation", "camelot", "--csv")
    assert wet.stdout == dry.stdout and wet.exit_code == 1
    changed = {path for path in library.rglob("*") if path.is_file() and path.read_bytes() != before[path]}
    assert changed <= {library / "music" / name for name in GOOD} and len(changed) >= 5  # one may have had its key
    again = json.loads(predict(library, library / "music", "--json").stdout)
    for record in [record for record in again if not record["error"]]:
        assert read_key(record["file"]) == (record["camelot"] or "") and record["tag_agrees"] in (True, None)
    assert sum(record["tag_agrees"] is True for record in again) == 6


def test_nothing_but_python_speaks_of_a_damaged_file(library):
    """Decoders in C write to the file descriptor itself."""
    command = [sys.executable, "-m", "keymyna_lib", "predict", "--model", library / "model.safetensors"]
    done = subprocess.run([*command, library / "music" / "words.mp3"], capture_output=True, text=True, cwd=paths.ROOT)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ") and "words.mp3" in done.stderr


def test_a_folder_without_sound_and_a_missing_device_are_told(library, monkeypatch):
    (library / "empty").mkdir()
    done = predict(library, library / "empty")
    assert done.exit_code == 1 and "there is no sound file in" in done.stderr and done.stdout == ""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = predict(library, library / "music", "--device", "cuda")
    assert done.exit_code == 1 and done.stderr.startswith("error: device 'cuda'") and done.stdout == ""


@pytest.fixture
def hears_ctrl_c():
    """What is started hears it, even where these tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_what_is_interrupted_is_whole(library):
    for i in range(200):
        shutil.copyfile(library / "music" / "a.wav", library / "music" / f"more{i}.wav")
    command = [sys.executable, "-m", "keymyna_lib", "predict", "--model", library / "model.safetensors", "--json"]
    with subprocess.Popen(
        [*command, library / "music"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=paths.ROOT
    ) as running:
        start = running.stdout.readline() + running.stdout.readline()
        running.send_signal(signal.SIGINT)
        rest, said = running.communicate(timeout=600)
    assert running.returncode == 130 and said.splitlines()[-1].startswith("stopped: ")
    assert 1 <= len(json.loads(start + rest)) < 212
