"""One file of the model hub, at one commit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError


@dataclass(frozen=True)
class HubFile:
    """One file of a repository on the model hub, at one commit.

    Attributes
    ----------
    repo : "owner/name". name : of the file. revision : the commit, 40 hexadecimal digits.

    Raises
    ------
    KeyMynaError
        When the revision is a branch, a tag or abbreviated.
    """

    repo: str
    name: str
    revision: str

    def __post_init__(self) -> None:
        if not re.fullmatch("[0-9a-f]{40}", self.revision):
            raise KeyMynaError(
                f"revision {self.revision!r} of {self.repo}: expected the 40 hexadecimal digits of a "
                "commit. A branch or a tag can move, and would then stand for other weights."
            )

    def download(self) -> Path:
        """The file in the hub's cache on this machine; once it is there, no network is needed.

        Raises
        ------
        KeyMynaError
            When huggingface_hub is not installed, or the file cannot be downloaded.
        """
        try:
            from huggingface_hub import hf_hub_download
        except ImportError:
            raise KeyMynaError(
                "files of the model hub need huggingface_hub; install it into this environment "
                "(pip install -c requirements.lock huggingface-hub), or download the file by hand and "
                "give its path."
            ) from None
        try:
            return Path(hf_hub_download(self.repo, self.name, revision=self.revision))
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise KeyMynaError(
                f"{self.name} of {self.repo} at {self.revision} cannot be downloaded from the model hub "
                f"({reason[0]}). Check the names and the network, or download the file by hand and give "
                "its path."
            ) from None


def checkpoint(text: str) -> Path | HubFile:
    """The file that a notebook's parameter names: one on this machine, or "owner/name/file@commit" on the model hub.

    >>> checkpoint("owner/name/model.safetensors@" + 8 * "01234").name
    'model.safetensors'

    Raises
    ------
    KeyMynaError
        When it is neither.
    """
    if "@" not in text or paths.expanded(text).is_file():
        return paths.expanded(text)
    place, _, revision = text.rpartition("@")
    if len(parts := place.split("/", 2)) < 3:
        raise KeyMynaError(
            f"weights {text!r}: there is no such file; one of the model hub is written owner/name/file@commit."
        )
    return HubFile("/".join(parts[:2]), parts[2], revision)
