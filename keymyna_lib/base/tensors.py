"""Named tensors in safetensors files: written whole or not at all, and read with errors that name the file.

What this library writes carries a checksum over tensors and metadata. A changed byte shows when the file is read, where
it would otherwise be another number.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import atomic_path

# What a file holds, by the entry of its metadata that only such a file has.
ENCODER, HEAD, MODEL, FEATURES, CHECKPOINT = (
    "an encoder of this library",
    "a head of this library",
    "a key model of this library",
    "a feature set of this library",
    "a checkpoint of unfinished training",
)
_KINDS = {"encoder_config": ENCODER, "head": HEAD, "key_model": MODEL, "track_ids": FEATURES, "fingerprint": CHECKPOINT}
# Types of tensors that are read; others (complex, quantised, 8-bit floating-point) have no place in these files.
_READ = ("float16", "bfloat16", "float32", "float64", "bool", "uint8", "int8", "int16", "int32", "int64")
_CHECKSUM = "keymyna_checksum"
_LENGTH = struct.Struct("<Q")  # of the header, in the file's first eight bytes
_LONGEST = 1 << 44  # bytes; a length beyond is itself damaged
# What else people name by mistake, by how it begins.
_BEGINNINGS = {
    b"PK\x03\x04": "a zip archive, or what torch.save or numpy wrote",
    b"\x80\x02": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"RIFF": "a sound file",
    b"fLaC": "a sound file",
    b"OggS": "a sound file",
    b"ID3": "a sound file",
    b"version https://git-lfs": "a git-lfs pointer, not the file that it stands for",
    b"<": "a web page",
    b"{": "JSON",
}


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors and metadata as safetensors, atomically; the same content is the same file, byte for byte.

    Parameters
    ----------
    tensors : by name, on any device; those that share memory are refused by the format.
    metadata : strings by name; structured values as JSON.
    """
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={**metadata, _CHECKSUM: _checksum(tensors, metadata)})
        _order_metadata(temporary)


def _order_metadata(path: Path) -> None:
    """Sort a file's metadata, which safetensors writes in an order of chance."""
    with open(path, "r+b") as file:
        (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(_LENGTH.size)
        file.write(text.ljust(length))


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and values, and over the metadata."""
    described = [[name, str(value.dtype), list(value.shape)] for name, value in sorted(tensors.items())]
    digest = hashlib.sha256(json.dumps([described, dict(metadata)], sort_keys=True).encode())
    for _, value in sorted(tensors.items()):
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextlib.contextmanager
def reading(path: Path | str, what: str, remedy: str) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Read a safetensors file as (tensors, metadata), and make of it what it holds within the `with` block.

    Whatever the block trips over (an entry that is absent, JSON that does not parse, a shape that does not fit) means
    that the file is not what it should be, and is reported like a damaged file.

    Parameters
    ----------
    path : the file.
    what : what it should hold, with its article: ENCODER, HEAD, "a state dict".
    remedy : what to do when it does not, as a sentence.

    Raises
    ------
    KeyMynaError
        When the file is absent, damaged, or foreign, or when a number in it is not finite.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):  # whose reader would wait for a writer
        raise KeyMynaError(f"{path} is a pipe or a device; expected {what}. {remedy}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise KeyMynaError(f"{path} does not exist. {remedy}") from None
    except Exception as error:
        problem = damage(path) or f"is damaged ({error})"
        raise KeyMynaError(f"{path} {problem}; expected {what}. {remedy}") from None
    stored = metadata.pop(_CHECKSUM, None)
    if stored not in (None, _checksum(tensors, metadata)):
        raise KeyMynaError(f"{path} is damaged: its content has changed since it was written. {remedy}")
    found = kind_of(metadata)
    if found and what in _KINDS.values() and found != what:
        raise KeyMynaError(f"{path} is {found}; expected {what}. {remedy}")
    expect_finite(tensors, path, remedy)
    try:
        yield tensors, metadata
    except KeyMynaError as error:
        if str(path) in str(error):
            raise
        raise KeyMynaError(f"{path}: {error} {remedy}") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise KeyMynaError(f"{path} is damaged, or is not {what} ({reason}). {remedy}") from None


def kind_of(metadata: Mapping[str, str]) -> str:
    """What a file with this metadata holds, if this library wrote it; else empty."""
    return next((kind for entry, kind in _KINDS.items() if entry in metadata), "")


def kind_of_file(path: Path | str) -> str:
    """`kind_of` a file; empty too for what is no safetensors file, or cannot be read."""
    if not os.path.isfile(path):
        return ""
    try:
        with safe_open(path, framework="pt") as file:
            return kind_of(file.metadata() or {})
    except Exception:  # whoever reads it says why
        return ""


def damage(path: Path) -> str:
    """What a file that cannot be read is, as "is a folder", for an error; empty where it cannot be told."""
    if path.is_dir():
        return "is a folder"
    if not os.access(path, os.R_OK):
        return "may not be read by this user"
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(32)
        if not start:
            return "is empty"
        if start[_LENGTH.size : _LENGTH.size + 1] != b"{":  # as every header of safetensors begins
            return next((f"is {kind}" for beginning, kind in _BEGINNINGS.items() if start.startswith(beginning)), "")
        (length,) = _LENGTH.unpack(start[: _LENGTH.size])
        whole = _LENGTH.size + length
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            if whole <= size:
                file.seek(_LENGTH.size)
                header = json.loads(file.read(length))
                whole += max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        return f"is cut short: {size} of {whole} bytes or more" if size < whole < _LONGEST else ""


def expect_finite(tensors: Mapping[str, Tensor], path: Path | str, remedy: str) -> None:
    """Refuse tensors that are no plain numbers, or hold NaN, infinity or what is infinite in single precision.

    Raises
    ------
    KeyMynaError
        Names the file, the first such tensor and what is wrong with it.
    """
    for name, value in tensors.items():
        kind = str(value.dtype).removeprefix("torch.")
        if value.layout != torch.strided or value.is_meta or value.is_quantized or kind not in _READ:
            where = ", on no device" if value.is_meta else ", sparse" if value.layout != torch.strided else ""
            raise KeyMynaError(f"{path}: tensor {name} is of type {kind}{where}, which is not read. {remedy}")
        if value.is_floating_point() and not (finite := torch.isfinite(value.float())).all():
            bad = value.numel() - int(finite.sum())
            raise KeyMynaError(
                f"{path}: tensor {name} holds NaN or infinity ({bad} of {value.numel()} values): damaged, or from a "
                f"training run that diverged. {remedy}"
            )


def expect_floating(tensors: Mapping[str, Tensor], what: Path | str, remedy: str) -> None:
    """Refuse tensors of whole numbers, as weights that were quantised are: they would be read as other weights.

    Raises
    ------
    KeyMynaError
        Names the first such tensor.
    """
    for name, value in tensors.items():
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            raise KeyMynaError(f"{what}: tensor {name} is of type {kind}; weights are floating-point. {remedy}")


def misfits(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], whole: str) -> list[str]:
    """How the shapes of tensors by name differ from those expected, as phrases; `whole` is what has these ("head")."""
    return [
        *(f"{name} is missing" for name in expected if name not in found),
        *(f"{name} is not the {whole}'s" for name in found if name not in expected),
        *(
            f"{name} is {found[name]}, not {shape}"
            for name, shape in expected.items()
            if found.get(name, shape) != shape
        ),
    ]


def some(phrases: list[str] | Mapping[str, object], most: int = 8) -> str:
    """The first few of many phrases."""
    shown = list(phrases)[:most]
    return ", ".join(shown) + (f" and {len(phrases) - most} more" if len(phrases) > most else "")


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors by name."""
    return {name: tuple(value.shape) for name, value in tensors.items()}
