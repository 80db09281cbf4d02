"""Named tensors in files: whole or absent, and named when they are not what they should be."""

import contextlib
import errno
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from keymyna_lib.base import tensors
from keymyna_lib.base.errors import KeyMynaError

VALUES = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.tensor([1, 2])}  # one of them not contiguous


def read(path):
    with tensors.reading(path, "a pair", "Make it again.") as (values, metadata):
        return values["a"], values["b"], metadata["words"]


def test_what_is_read_is_what_was_written(tmp_path):
    tensors.save_tensors(tmp_path / "x.safetensors", VALUES, words="två ord")
    a, b, words = read(tmp_path / "x.safetensors")
    assert torch.equal(a, VALUES["a"]) and torch.equal(b, VALUES["b"]) and words == "två ord"
    with safe_open(tmp_path / "x.safetensors", "pt") as file:  # the format's own reader
        assert file.metadata()["words"] == "två ord" and torch.equal(file.get_tensor("b"), VALUES["b"])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    tensors.save_tensors(path, VALUES, words="old")

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(KeyMynaError, match="(?s)x.safetensors.*space"):
        tensors.save_tensors(path, VALUES, words="new")
    assert read(path)[2] == "old" and os.listdir(tmp_path) == ["x.safetensors"]


def test_absent_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(KeyMynaError, match=r"x\.safetensors does not exist\. Make it again\."):
        read(path)
    path.write_bytes(b"damaged")
    with pytest.raises(KeyMynaError, match=r"x\.safetensors is damaged .*expected a pair\. Make it again\."):
        read(path)
    save_file({"a": torch.zeros(1)}, path)  # another writer's: neither all tensors nor metadata
    with pytest.raises(KeyMynaError, match=r"x\.safetensors .*is not a pair .*'b'"):
        read(path)
    tensors.save_tensors(path, VALUES, words="whole")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(KeyMynaError, match=r"x\.safetensors is cut short: \d+ of \d+ bytes"):
        read(path)


def test_the_same_content_is_the_same_file(tmp_path):
    """safetensors orders metadata by chance, anew in each process."""
    program = (
        "import sys, torch; from keymyna_lib.base.tensors import save_tensors; "
        "save_tensors(sys.argv[1], {'a': torch.ones(2)}, b='1', a='\u00e4\"\\x7f', c='3', d='')"
    )
    here, there = tmp_path / "here.safetensors", tmp_path / "there.safetensors"
    tensors.save_tensors(here, {"a": torch.ones(2)}, b="1", a='\u00e4"\x7f', c="3", d="")
    subprocess.run([sys.executable, "-c", program, there], check=True)
    assert here.read_bytes() == there.read_bytes()


def test_no_changed_byte_passes_for_another_number(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors.save_tensors(path, {**VALUES, "half": torch.ones(3, dtype=torch.bfloat16)}, words="whole")
    whole = path.read_bytes()
    want = [value.clone() for value in read(path)[:2]]
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x11]) + whole[position + 1 :])
        with contextlib.suppress(KeyMynaError):
            refused += 1
            a, b, words = read(path)
            refused -= 1
            assert torch.equal(a, want[0]) and torch.equal(b, want[1]) and words == "whole"
    assert refused > len(whole) - 30  # but for the name of the checksum itself, and blanks


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_number_that_is_not_finite_is_refused_by_name(tmp_path, value, dtype):
    path = tmp_path / "x.safetensors"
    tensors.save_tensors(path, {**VALUES, "c": torch.tensor([1.0, value], dtype=dtype)}, words="")
    with pytest.raises(KeyMynaError, match=r"x\.safetensors: tensor c holds NaN or infinity \(1 of 2 values\)"):
        read(path)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"RIFF\x00\x00\x00\x00WAVE", "is a sound file"),
        (b"PK\x03\x04" + bytes(60), "is a zip archive"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "is a git-lfs pointer"),
        (b"{}", "is JSON"),
        (b"\x80\x02}q\x00.", "is a pickle"),
        (b"\x40\x00\x00\x00\x00\x00\x00\x00{", "is cut short: 9 of 72 bytes or more"),
        (b"\xff" * 40, "is damaged"),
        (None, "is a folder"),
    ],
)
def test_other_files_are_said_to_be_what_they_are(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(KeyMynaError, match=rf"x\.safetensors {message}.*; expected a pair\. Make it again\."):
        read(path)


def test_an_error_of_ours_within_the_block_gets_the_files_name(tmp_path):
    tensors.save_tensors(tmp_path / "x.safetensors", VALUES)
    with (
        pytest.raises(KeyMynaError, match=r"x\.safetensors: no such preset\. Make it again\.$"),
        tensors.reading(tmp_path / "x.safetensors", "a pair", "Make it again."),
    ):
        raise KeyMynaError("no such preset.")
