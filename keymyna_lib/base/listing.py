"""Names in folders: a file is found however the disk, or whoever names it, writes its letters.

Letter case, the ways to compose an accented letter and what else `text.identity` ignores do not matter. Hidden names,
those that begin with a dot, do not count: among them are macOS's "._NAME", which stand beside every file it copies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from keymyna_lib.base.errors import KeyMynaError, unreadable
from keymyna_lib.base.text import identity


class Listing:
    """What is below a folder; each folder is read once, when it is needed.

    Parameters
    ----------
    top : the folder; one that does not exist has nothing in it.

    Raises
    ------
    KeyMynaError
        From every method: when a folder cannot be read.
    """

    def __init__(self, top: Path | str) -> None:
        self.top = Path(top)
        self._names: dict[Path, dict[str, list[str]]] = {}

    def names(self, folder: Path | str = ".") -> list[str]:
        """Names in a folder, sorted; its path is relative to the top."""
        return sorted(name for names in self._by_identity(self.top / folder).values() for name in names)

    def find(self, path: Path | str) -> str:
        """A path below the top as the disk writes it, an exact match first; as given where there is no such file.

        Raises
        ------
        KeyMynaError
            When two names on the disk are meant equally.
        """
        if os.path.lexists(self.top / path):
            return str(path)
        place = Path()
        for part in Path(path).parts:
            found = self._by_identity(self.top / place).get(identity(part), [])
            if part not in found:
                if not found:
                    return str(path)
                part = _only(self.top / place, found)
            place /= part
        return str(place)

    def one(self, path: Path | str) -> Path | None:
        """The file or folder of this path, with the top, or None; there must be no second one of the same name.

        Raises
        ------
        KeyMynaError
            When there are two, whichever is an exact match.
        """
        place = Path()
        for part in Path(path).parts:
            if not (found := self._by_identity(self.top / place).get(identity(part), [])):
                return None
            place /= _only(self.top / place, found)
        return self.top / place

    def below(self, ending: str, folder: Path | str = ".") -> list[Path]:
        """All files below a folder with an ending, such as ".key", in any case: paths with the top, sorted."""
        return sorted(self._walk(Path(self.find(folder)), ending.casefold(), ()))

    def _walk(self, folder: Path, ending: str, above: tuple[str, ...]) -> Iterator[Path]:
        above = (*above, os.path.realpath(self.top / folder))
        for name in self.names(folder):
            path = self.top / folder / name
            if path.is_dir():
                if os.path.realpath(path) not in above:  # a link to where it is would never end
                    yield from self._walk(folder / name, ending, above)
            elif name.casefold().endswith(ending):
                yield path

    def _by_identity(self, folder: Path) -> dict[str, list[str]]:
        if folder not in self._names:
            names: dict[str, list[str]] = {}
            try:
                for name in os.listdir(folder):
                    if not name.startswith("."):
                        names.setdefault(identity(name), []).append(name)
            except (FileNotFoundError, NotADirectoryError):
                pass
            except OSError as error:
                raise unreadable(folder, error) from error
            self._names[folder] = names
        return self._names[folder]


def _only(folder: Path, names: list[str]) -> str:
    if len(names) > 1:
        one, other = sorted(names)[:2]
        raise KeyMynaError(f"{folder}: {one!r} and {other!r} are one name to a reader. Keep one of them, or rename it.")
    return names[0]
