"""librosa's functions are compiled once for an installation, and a failure is said."""

import subprocess
from types import SimpleNamespace

import pytest

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.run import warmup


def test_once_and_not_before_it_has_succeeded(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    calls, status = [], [1]
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **_: (
            calls.append(command) or SimpleNamespace(returncode=status[0], stderr="ImportError: no such file")
        ),
    )
    with pytest.raises(KeyMynaError, match="ImportError: no such file"):
        warmup.compile_librosa()
    status[0] = 0
    for _ in range(3):
        warmup.compile_librosa()
    assert len(calls) == 2


def test_the_program_runs():
    """It is real librosa code: every call in it exists and takes these arguments."""
    exec(compile(warmup._PROGRAM, "warm-up", "exec"), {})
