"""The processor's name, where the system tells it and where it does not."""

import platform
from pathlib import Path

import pytest

from keymyna_lib.base.machine import cpu_name


@pytest.mark.parametrize(
    "text, name",
    [
        ("processor\t: 0\nmodel name\t: Some CPU @ 2.0GHz: fast\nmodel name\t: Another\n", "Some CPU @ 2.0GHz: fast"),
        ("processor\t: 0\nBogoMIPS\t: 100\n", platform.machine()),  # Arm's has no names
    ],
)
def test_the_name_is_that_of_the_first_processor(monkeypatch, text, name):
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: text)
    assert cpu_name() == name


def test_without_the_file_it_is_the_architecture(monkeypatch):
    def absent(path, encoding):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", absent)
    assert cpu_name() == platform.machine()
