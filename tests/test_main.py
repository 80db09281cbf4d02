"""The command line: what each sub-command is called with, its help, messages, statuses and start-up."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import models
import numpy as np
import pandas as pd
import pytest
import soundfile
import tones
from click.testing import CliRunner

from keymyna_lib import __main__ as cli
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments import recipe
from keymyna_lib.keys import KEY_NAMES, parse_key
from keymyna_lib.model import save_encoder
from keymyna_lib.report import publication
from keymyna_lib.run import page, pipeline, publish, torchrun, verify, warmup
from keymyna_lib.run.project import Project

COMMANDS = list(cli.main.commands)


def call(*arguments):
    """The result of a command line: exit_code, stdout, stderr."""
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The calls of the runner, (profile, options), which does nothing here, in an empty project."""
    calls = []
    monkeypatch.setattr(
        pipeline, "run", lambda project, profile, **options: calls.append((profile, options)) or ["00_a"]
    )
    monkeypatch.setattr(warmup, "compile_librosa", lambda: None)
    monkeypatch.setattr(page, "write", lambda project, profile, root: root / f"{profile}.html")
    monkeypatch.setattr("keymyna_lib.run.project.Project", lambda: Project(tmp_path, tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.chdir(tmp_path)
    return calls


# run


def test_without_options_everything_runs(asked):
    assert call("run").exit_code == 0
    assert asked == [("mini", {"only": [], "start": None, "force": False, "overrides": [], "jobs": None})]


def test_a_run_ends_with_the_report(asked):
    report, *hints = call("run", "--profile", "smoke").stdout.splitlines()
    assert report == "Report: local/smoke.html" and "--verify" in hints[0] and "--publish" in hints[0]
    assert call("report").stdout == "Report: local/mini.html\n"
    assert call("report", "--committed").stdout == "Report: mini.html\n"
    assert len(asked) == 1


@pytest.mark.parametrize("verified", [True, False, None])
def test_results_are_published_on_request_and_only_if_a_verification_agrees(asked, monkeypatch, verified):
    published = []
    monkeypatch.setattr(cli, "_verify", lambda profile, against: verified)
    monkeypatch.setattr(publish, "publish", lambda project, *given: published.append(given) or ["70_b"])
    done = call("run", "--publish", *([] if verified is None else ["--verify"]))
    assert done.exit_code == (verified is False)
    assert published == ([] if verified is False else [("mini", ["00_a"])])
    assert ("Earlier results stay of: 70_b\n" in done.stdout) == bool(published)


@pytest.mark.parametrize("differ, status", [(0, 0), (1, 1)])
@pytest.mark.parametrize("folder", [None, "tables"])
def test_verify_comes_after_the_run_and_decides_the_status(asked, monkeypatch, tmp_path, folder, differ, status):
    table = verify.Comparison("table1", cells=verify.Counter({verify.SAME: 3, verify.DIFFERS: differ}))
    given = []

    def found(project, profile, against):
        assert asked
        given.append(against)
        return verify.Verification("commit x", [table])

    monkeypatch.setattr(verify, "verify", found)
    for place in ("local/results/mini", "tables"):
        (tmp_path / place).mkdir(parents=True)
    done = call("run", "--verify", *([folder] if folder else []), "--force")
    assert done.exit_code == status and given == [Path(folder) if folder else None]
    assert "| table1 |" in done.stdout and "\nReport: local/mini.html\n" in done.stdout
    assert ("--publish" in done.stdout) == (not differ)
    assert (tmp_path / "local/results/mini/verification.md").exists() and asked[0][1]["force"]


def test_a_folder_to_verify_against_must_be_there(asked):
    done = call("run", "--verify", "absent")
    assert done.exit_code == 1 and "'absent' is not a folder" in done.stderr and not asked


def test_options_reach_the_runner(asked):
    assert (
        call("run", "--only", 20, "--profile", "smoke", "-p", "seeds", "-1", "--only", "10_x", "--force").exit_code == 0
    )
    assert call("run", "--from", 20, "-p", "a", 1, "-p", "b", "two words", "--jobs", 1).exit_code == 0
    assert asked == [
        ("smoke", {"only": ["20", "10_x"], "start": None, "force": True, "overrides": [("seeds", "-1")], "jobs": None}),
        ("mini", {"only": [], "start": "20", "force": False, "overrides": [("a", "1"), ("b", "two words")], "jobs": 1}),
    ]


def test_a_data_root_is_a_parameter_like_any_other(asked, tmp_path):
    (tmp_path / "music").mkdir()
    call("run", "--data-root", "music", "-p", "seconds", "2")
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    call("run", "--data-root", "music", "--offline", "-p", "seconds", "3")
    assert os.environ["HF_HUB_OFFLINE"] == "1"  # weights and other encoders come from the hub
    root = ("data_root", str(tmp_path / "music"))
    assert [options["overrides"] for _, options in asked] == [
        [("seconds", "2"), root],
        [("seconds", "3"), root, ("offline", "true")],
    ]


@pytest.mark.parametrize("wrong", ["musik", ""])
def test_a_data_root_that_is_not_there_is_refused_before_anything_runs(asked, wrong):
    done = call("run", "--data-root", wrong)
    assert done.exit_code == 1 and f"--data-root {wrong!r} is not a folder" in done.stderr and asked == []


def test_going_back_from_recordings_to_the_synthetic_corpus_is_said_not_guessed(asked, tmp_path):
    index = Project(tmp_path).index("mini", "05_recordings")
    assert call("run").exit_code == 0
    publication.write_index(index, {"runs": [], "files": {}, "outputs": {"folder": ""}})
    assert call("run").exit_code == 0
    publication.write_index(index, {"runs": [], "files": {}, "outputs": {"folder": "corpus/1"}})
    done = call("run")
    assert done.exit_code == 1 and "--data-root none" in done.stderr
    assert call("run", "--profile", "smoke").exit_code == call("run", "--data-root", "none").exit_code == 0
    assert [options["overrides"] for _, options in asked] == [[]] * 4


@pytest.mark.parametrize("rest", [[], ["-k", "keys"], ["-p", "no:randomly", "--only", "--tests", "--help", "x.py::y"]])
def test_what_follows_tests_is_for_pytest(asked, monkeypatch, rest):
    became = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: became.append((program, arguments)))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert call("run", "--profile", "smoke", "--tests", *rest).exit_code == 0
    ((program, arguments),) = became
    assert program == arguments[0] == sys.executable and arguments[1:3] == ["-m", "pytest"]
    assert arguments[len(arguments) - len(rest) :] == rest and len(arguments) == 8 + len(rest)
    assert os.environ["OMP_NUM_THREADS"] == "1" and os.getcwd() == str(paths.ROOT) and asked == []


def test_the_list_is_printed_and_nothing_runs(asked, monkeypatch):
    monkeypatch.setattr(pipeline, "describe", lambda project, profile: f"all of {profile}")
    assert call("run", "--list", "--profile", "smoke").stdout == "all of smoke\n" and asked == []


@pytest.mark.parametrize(
    "error, status, message",
    [
        (KeyMynaError("mend it"), 1, "error: mend it\n"),
        (KeyboardInterrupt("stopped so"), 130, "\nstopped: stopped so\n"),
        (KeyboardInterrupt(), 130, "\nstopped: interrupted\n"),
        (
            OSError(28, "No space left on device", "x.npy"),
            1,
            "error: cannot write x.npy: No space left on device. Free",
        ),
        (OSError(errno.EROFS, "Read-only"), 1, "error: cannot write: Read-only. Free"),
    ],
)
def test_failures_end_in_one_message_and_a_status(asked, monkeypatch, error, status, message):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(pipeline, "run", fail)
    done = call("run")
    assert done.exit_code == status and done.stderr.startswith(message) and done.stdout == ""


def test_an_error_of_the_code_keeps_its_traceback(asked, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda *_, **__: os.stat("not there"))
    assert isinstance(call("run").exception, FileNotFoundError)


@pytest.mark.parametrize("arguments", [["run", "--list"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(arguments):
    """The reader is gone before the first line."""
    there, here = os.pipe()
    os.close(there)
    command = [sys.executable, "-m", "keymyna_lib", *arguments]
    done = subprocess.run(command, stdout=here, stderr=subprocess.PIPE, text=True, cwd=paths.ROOT)
    os.close(here)
    assert done.returncode == 141 and done.stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--profile", "huge"],
        ["run", "--only", "20", "--from", "10"],
        ["run", "-p", "steps"],
        ["run", "--bogus"],
        ["run", "--prof", "smoke"],  # no abbreviations
        ["run", "20"],
        ["pretrain", "--force"],
        ["bench", "steps"],
        ["bench", "--size", "huge"],
        ["predict", "--model", "m"],
        ["predict", "--json", "--csv", "song.wav"],
        ["predict", "--dry-run", "song.wav"],
        ["predict", "--jobs", "0", "song.wav"],
        ["bogus"],
    ],
)
def test_wrong_options_are_refused(asked, arguments):
    done = call(*arguments)
    assert done.exit_code == 2 and "Error: " in done.stderr and asked == []


# The others


def test_pretraining_takes_its_parameters_from_the_profile_and_the_command_line(monkeypatch):
    calls = []
    monkeypatch.setattr(torchrun, "train", lambda *arguments: calls.append(arguments))
    assert call("pretrain", "--profile", "smoke", "-p", "steps", 5, "-p", "seed", 1).exit_code == 0
    assert calls == [("smoke", [("steps", "5"), ("seed", "1")])]


def test_the_benchmark_measures_what_is_named(monkeypatch, tmp_path):
    from keymyna_lib.bench import report

    calls = []
    monkeypatch.setattr(report, "measure_all", lambda *subjects, **options: calls.append((*subjects, options)))
    monkeypatch.setattr(report, "write", lambda found, path: calls.append(path))
    monkeypatch.setattr(report, "text", lambda found: "a table")
    assert call("bench", "heads", "song", "--budget", 9, "--out", tmp_path / "x.json").stdout == "a table\n"
    assert call("bench", "--size", "tiny").exit_code == 0
    assert calls[:2] == [(("heads", "song"), {"size": "full", "budget": 9.0}), tmp_path / "x.json"]
    assert calls[2] == (report.SUBJECTS, {"size": "tiny", "budget": 1800.0}) and str(calls[3]) == "bench.json"


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    folder = tmp_path_factory.mktemp("song")
    save_encoder(models.model().encoder, folder / "encoder.safetensors")
    models.head().save(folder / "head.safetensors")
    tones.write(folder / "short.wav", 15, seconds=2.0)
    return folder


def predict(song, *arguments):
    return call("predict", "--model", song / "encoder.safetensors", "--head", song / "head.safetensors", *arguments)


def test_prediction_continues_after_a_bad_file(song):
    done = predict(song, song / "none.wav", song / "short.wav")
    _, row = done.stdout.splitlines()
    name, key, camelot, open_key, confidence, _, tuning = re.split("  +", row)
    assert name.endswith("short.wav") and key in KEY_NAMES and parse_key(camelot) == parse_key(open_key)
    assert parse_key(key) == parse_key(camelot) and 0 < float(confidence) <= 1
    assert re.fullmatch(r"[+-]\d+ cents", tuning)
    assert done.exit_code == 1 and done.stderr.startswith("error: ") and "none.wav" in done.stderr
    assert done.stderr.endswith("2 files: 1 with a key, 1 could not be read\n")
    assert predict(song, song / "short.wav").exit_code == 0
    encoder = song / "encoder.safetensors"
    assert call("predict", "--model", encoder, "--head", encoder, song / "short.wav").exit_code == 1


def test_silence_has_no_clear_key(song):
    soundfile.write(song / "silence.wav", np.zeros(20_000), 16_000)
    done = predict(song, song / "silence.wav", song / "short.wav")
    _, first, second = done.stdout.splitlines()
    assert re.search(r"silence.wav +no clear key +silence$", first) and "cents" in second and done.exit_code == 0


def test_names_are_printed_as_they_are_on_disk_and_spoil_no_line(song):
    names = [b"caf\xe9.wav", b"\xff\xfe.wav", "é\u200b日.wav".encode(), b"a\tb\nc\x1b[2J[red].wav", b" .wav"]
    names += ["\u202egnp.\x9b2J.wav".encode()]
    for name in names:
        shutil.copyfile(song / "short.wav", os.fsencode(song) + b"/" + name)
    command = [sys.executable, "-m", "keymyna_lib", "predict", "--model", "encoder.safetensors"]
    command += ["--head", "head.safetensors", b"\xe9none.wav", *names]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(paths.ROOT)}
    done = subprocess.run(command, capture_output=True, cwd=song, env=ascii_only)
    _, *rows = done.stdout.split(b"\n")[:-1]
    shown = [*names[:3], rb"a\tb\nc\x1b[2J[red].wav", names[4], rb"\u202egnp.\x9b2J.wav"]
    assert len(rows) == 6 and all(row.startswith(name + b" ") for row, name in zip(rows, shown))
    error, counts, end = done.stderr.split(b"\n")
    assert (
        done.returncode == 1 and error.startswith(b"error: \xe9none.wav") and counts.startswith(b"7 files") and not end
    )
    done = subprocess.run([*command, "--json", "--jobs", "1"], capture_output=True, cwd=song, env=ascii_only)
    assert [os.fsencode(found["file"]) for found in json.loads(done.stdout)] == [b"\xe9none.wav", *names]
    done = subprocess.run([*command, "--csv", "--jobs", "1"], capture_output=True, cwd=song, env=ascii_only)
    table = list(csv.DictReader(io.StringIO(os.fsdecode(done.stdout), newline="")))
    assert [os.fsencode(found["file"]) for found in table] == [b"\xe9none.wav", *names]


def test_what_is_missing_from_a_file_is_noted_under_its_name_on_disk(song):
    cut = os.fsencode(song) + b"/\xe9\n.wav"
    with open(cut, "wb") as file:
        file.write((song / "short.wav").read_bytes()[:-8820])  # 0.2 s
    command = [sys.executable, "-m", "keymyna_lib", "predict", "--model", song / "encoder.safetensors"]
    command += ["--head", song / "head.safetensors", cut]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONPATH": str(paths.ROOT)})
    said = (
        b"note: " + os.fsencode(song) + rb"/\xe9\n.wav".replace(rb"\xe9", b"\xe9") + b" lacks its last 0.2 s of 2.0 s;"
    )
    assert done.returncode == 0 and done.stderr.startswith(said) and done.stderr.count(b"\n") == 1


def test_what_a_light_installation_lacks_is_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.delitem(sys.modules, "keymyna_lib.corpus.recordings.tasks", raising=False)
    done = call("score", "giantsteps", "list.csv", "--data-root", ".")
    assert done.exit_code == 1 and done.stderr == (
        "error: pandas is not installed. All that the notebooks need: pip install '.[notebooks]' in a clone, or "
        "./run_all.sh.\n"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"], ["run", "--list"]])
def test_a_full_device_is_told_in_one_line(arguments):
    command = [sys.executable, "-m", "keymyna_lib", *arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=paths.ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write: No space left") and done.stderr.count("\n") == 1


# Help and start-up


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(command):
    lines = call(command, "--help").stdout.splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    assert any(re.match("  Examples?:", line) for line in lines)


def test_run_shows_how_users_of_a_clone_start_it():
    assert call("run", "--help").stdout.startswith("Usage: ./run_all.sh [OPTIONS]\n")
    assert "Try './run_all.sh --help'" in call("run", "--bogus").stderr


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)], ids=str)
def test_help_imports_nothing_heavy(arguments):
    code = f"""
import sys
from keymyna_lib.__main__ import main
main({arguments}, standalone_mode=False)
print(sorted({{"torch", "numpy", "pandas", "papermill", "librosa", "scipy"}} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n")


def test_what_is_needed_for_a_run_that_skips_everything_is_light():
    code = """
import sys, keymyna_lib.run.pipeline, keymyna_lib.run.warmup
print(sorted({"torch", "pandas", "papermill", "nbformat", "librosa"} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# make-model


def test_a_models_card_tells_model_command_and_scores(monkeypatch, tmp_path):
    table = pd.DataFrame({"set": ["test: all"], "measure": ["accuracy"], "value": [0.5], "low": [None], "high": [None]})
    made = SimpleNamespace(model=SimpleNamespace(save=lambda path, stored: path.write_bytes(b"weights")))
    monkeypatch.setattr(recipe, "make", lambda wanted, **_: made if wanted == recipe.toy_recipe("mel") else None)
    monkeypatch.setattr(recipe, "held_out", lambda wanted, soundfont: soundfont)
    asked = {}
    monkeypatch.setattr(recipe, "report", lambda made, **options: asked.update(options) or table)
    model, options = tmp_path / "model.safetensors", ["--recipe", "toy", "--held-out", "FluidR3", "--real", tmp_path]
    assert call("make-model", model, *options).exit_code == 0
    assert asked == {"others": {"songs on FluidR3": "FluidR3"}, "unlabelled": None, "real": tmp_path}
    card = json.loads(model.with_suffix(".json").read_text())
    assert card["model"] == hashlib.sha256(b"weights").hexdigest()
    command = "keymyna make-model FILE --recipe toy --front-end mel --real DIR --held-out FluidR3"
    assert card["command"] == command and str(tmp_path) not in json.dumps(card)
    (row,) = card["scores"]
    assert row == {"set": "test: all", "measure": "accuracy", "value": 0.5, "low": None, "high": None}
    assert card["provenance"]["code_hash"]
