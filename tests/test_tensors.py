"""Named tensors in files: whole or absent, and named when they are not what they should be."""

import errno
import os

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
        assert file.metadata() == {"words": "två ord"} and torch.equal(file.get_tensor("b"), VALUES["b"])


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
    with pytest.raises(KeyMynaError, match=r"x\.safetensors is damaged, or is not a pair .*Make it again\."):
        read(path)
    save_file({"a": torch.zeros(1)}, path)  # another writer's: neither all tensors nor metadata
    with pytest.raises(KeyMynaError, match=r"x\.safetensors .*is not a pair .*'b'"):
        read(path)
    tensors.save_tensors(path, VALUES, words="whole")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(KeyMynaError, match=r"x\.safetensors is damaged"):
        read(path)


def test_an_error_of_ours_within_the_block_stays_as_it_is(tmp_path):
    tensors.save_tensors(tmp_path / "x.safetensors", VALUES)
    with (
        pytest.raises(KeyMynaError, match="^no such preset$"),
        tensors.reading(tmp_path / "x.safetensors", "a pair", "Make it again."),
    ):
        raise KeyMynaError("no such preset")
