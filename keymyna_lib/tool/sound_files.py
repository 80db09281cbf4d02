"""The sound files that somebody names, by themselves or as folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from keymyna_lib.corpus.recordings.decode import may_be_sound


def sound_files(given: Iterable[str], unreadable: Callable[[OSError], None]) -> list[Path]:
    """Files as given, and of folders all that may be sound files, at any depth, sorted; each of them once.

    Names that begin with a dot are left out, as are linked folders, which may lead in a circle.

    Parameters
    ----------
    unreadable : told of a folder that cannot be read, which is passed over.
    """
    found: dict[Path, None] = {}
    for name in given:
        found |= dict.fromkeys(_in_folder(name, unreadable) if os.path.isdir(name) else [Path(name)])
    return list(found)


def _in_folder(top: str, unreadable: Callable[[OSError], None]) -> Iterator[Path]:
    for folder, below, names in os.walk(top, onerror=unreadable):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and may_be_sound(path := Path(folder, name)):
                yield path
