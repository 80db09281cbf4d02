"""Named tensors in safetensors files: written whole or not at all, and read with errors that name the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import atomic_path


def save_tensors(path: Path | str, tensors: Mapping[str, Tensor], **metadata: str) -> None:
    """Write tensors and metadata as safetensors, atomically.

    Parameters
    ----------
    tensors : by name, on any device; those that share memory are refused by the format.
    metadata : strings by name; structured values as JSON.
    """
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=metadata or None)


@contextlib.contextmanager
def reading(path: Path | str, what: str, remedy: str) -> Iterator[tuple[dict[str, Tensor], dict[str, str]]]:
    """Read a safetensors file as (tensors, metadata), and make of it what it holds within the `with` block.

    Whatever the block trips over (an entry that is absent, JSON that does not parse, a shape that does not fit) means
    that the file is not what it should be, and is reported like a damaged file.

    Parameters
    ----------
    path : the file.
    what : what it should hold, with its article: "an encoder".
    remedy : what to do when it does not, as a sentence.

    Raises
    ------
    KeyMynaError
        When the file is absent, damaged, or foreign.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            metadata = file.metadata() or {}
        yield tensors, metadata
    except FileNotFoundError:
        raise KeyMynaError(f"{path} does not exist. {remedy}") from None
    except KeyMynaError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise KeyMynaError(f"{path} is damaged, or is not {what} ({reason}). {remedy}") from None
