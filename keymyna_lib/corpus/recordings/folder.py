"""Folders of the user: audio with a table of its keys, and audio without labels.

<data root>/folders/NAME/keys.csv, and the audio it names, in subfolders if you like       data set "folder:NAME"
<data root>/unlabelled/NAME/, audio at any depth                                           "unlabelled:NAME"
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, ClassVar

import pandas as pd

from keymyna_lib.base import seeds
from keymyna_lib.base.errors import KeyMynaError, unreadable
from keymyna_lib.base.listing import Listing
from keymyna_lib.base.small_tables import read_table
from keymyna_lib.base.text import identity, visible
from keymyna_lib.corpus.recordings.dataset import Dataset, labelled, table_of
from keymyna_lib.corpus.recordings.decode import may_be_sound

SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}  # our choice
_NO_SOUND, _NO_LINE = "not a sound file", "not in keys.csv"
_NEEDED, _OPTIONAL = ("file", "key"), ("artist", "title", "genre", "composition", "split")


class _Folder(Dataset):
    """A folder of the user, <data root>/<place>/NAME, as the data set "<kind>:NAME".

    Attributes
    ----------
    kind, words, place : how its name, its title and its place begin.
    """

    citation = "none"
    licence = "as its owner says"
    size = "any"
    url = ""
    kind: ClassVar[str]
    words: ClassVar[str]
    place: ClassVar[str]

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"\w[\w. -]*", name := visible(name)):
            raise KeyMynaError(
                f"folder {name!r}: expected its name alone, of letters, digits, '.', '-', '_' and spaces."
            )
        self._folder, self.name, self.title = name, f"{self.kind}:{name}", f"{self.words} {name}"

    def folder(self, root: Path | str) -> Path:
        """The folder; the case of its name does not matter."""
        return Listing(root).one(f"{self.place}/{self._folder}") or Path(root) / self.place / self._folder


class AudioFolder(_Folder):
    """Labelled recordings of the user: <data root>/folders/NAME with a table keys.csv, see `small_tables.read_table`.

    Its columns, in any order: file, relative to the folder, in the notation of any system; key, in any notation that
    `keys.parse_key` reads; and, if known, artist, title, genre, composition, split (train, valid or test in every
    line). A label that is not one major or minor key excludes its track; all other mistakes in the table are errors.
    Sound files that it does not name are excluded, too (see `UnlabelledFolder` for what counts as one).

    Without the column split, 70/15/15 are drawn by composition, else by artist, else by file. The draw is a hash of
    that name, so that adding tracks moves none of the others, unless they are copies (see `copies.settle`). In a small
    folder the shares may be far from these, or zero; give a split then.

    Parameters
    ----------
    name : NAME.

    Raises
    ------
    KeyMynaError
        When NAME is not the plain name of a folder.
    """

    kind, words, place = "folder", "folder", "folders"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.how = (
            f"Put a table keys.csv with the columns {' and '.join(_NEEDED)} (and {', '.join(_OPTIONAL)}, if "
            f"known) beside the audio in <data root>/folders/{name}."
        )

    def index(self, root: Path | str) -> pd.DataFrame:
        """The tracks of keys.csv, by the path of their file; see `Dataset.index`.

        Raises
        ------
        KeyMynaError
            When there is no such table or two of them, when `read_table` refuses it, a column is unknown, a file has no
            name, leaves the folder or occurs twice, in whatever spelling, a split is another word or divides a
            composition, or no label is a key.
        """
        files = Listing(self.folder(root))
        path = files.one("keys.csv") or files.top / "keys.csv"
        rows: dict[str, dict[str, Any]] = {}
        lines: dict[str, int] = {}  # of each file
        whole: dict[str, str] = {}  # split of each composition
        for line, given in read_table(path, _NEEDED, optional=_OPTIONAL, advice=self.how):
            where = f"{path}, line {line}"
            written = unicodedata.normalize("NFC", given.pop("file"))
            drive = ""
            if "\\" in written and not os.path.lexists(files.top / written):  # a path of Windows
                drive, written = PureWindowsPath(written).drive, PureWindowsPath(written).as_posix()
            file = PurePosixPath(written)
            if drive or file.is_absolute() or ".." in file.parts or not file.parts:
                raise KeyMynaError(f"{where}: file {str(file)!r}; expected a path inside {path.parent}.")
            name = str(file)
            if (first := lines.setdefault(identity(name), line)) != line:
                raise KeyMynaError(
                    f"{where}: file {name!r} is there a second time, after line {first} (case does not "
                    "count). Keep one line per file."
                )
            row = {"track_id": name, "path": files.find(name)} | labelled(given.pop("key")) | given
            group = given.get("composition") or given.get("artist") or name
            row["composition"] = group = identity(group)
            if "split" not in given:
                row |= {"split": _drawn(group), "drawn": True}
            elif (row := row | {"split": identity(given["split"])})["split"] not in SHARES:
                raise KeyMynaError(
                    f"{where}: split {given['split']!r}; expected {', '.join(SHARES)} in every line, or "
                    "no column split."
                )
            elif given.get("composition") and whole.setdefault(group, row["split"]) != row["split"]:
                raise KeyMynaError(
                    f"{where}: composition {given['composition']!r} is in {whole[group]} and in "
                    f"{row['split']}. Keep it in one of them."
                )
            rows[name] = row
        if not any("key" in row for row in rows.values()):
            label = next((f", such as {row['label']!r}" for row in rows.values()), "")
            raise KeyMynaError(
                f"{path}: none of its {len(rows)} labels is a major or minor key{label}. Write keys like 'Eb minor'."
            )
        named = {os.path.normpath(row["path"]) for row in rows.values()}
        others = [name for name in _files_below(files.top) if name not in named]
        unnamed = [_without_label(name, _NO_LINE) for name in others if may_be_sound(files.top / name)]
        return table_of([*rows.values(), *unnamed])


class UnlabelledFolder(_Folder):
    """Recordings without labels, for pre-training: all audio below <data root>/unlabelled/NAME.

    A file counts as audio by its ending or its first bytes, see `decode.may_be_sound`; all others are rows, too, but
    excluded. Hidden ones (a dot before the name of the file or a folder) are passed over. NAME and files below it may
    be links; linked folders are not entered.

    Parameters
    ----------
    name : NAME.

    Raises
    ------
    KeyMynaError
        When NAME is not the plain name of a folder.
    """

    kind, words, place = "unlabelled", "unlabelled folder", "unlabelled"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.how = f"Put audio into <data root>/unlabelled/{name}, or link that name to where it is."

    def index(self, root: Path | str) -> pd.DataFrame:
        """The files, by their paths, key -1; see `Dataset.index`. None is opened whose name ends like a sound file's.

        Raises
        ------
        KeyMynaError
            When there is no such folder, no audio in it, or a folder in it that cannot be read.
        """
        top, rows = self.folder(root), []
        if not top.is_dir():
            raise KeyMynaError(f"{top} does not exist. {self.how}")
        for name in _files_below(top):
            rows.append(_without_label(name, "" if may_be_sound(top / name) else _NO_SOUND))
        if all(row.get("excluded") == _NO_SOUND for row in rows):
            others = f", but {len(rows)} other files" if rows else ""
            raise KeyMynaError(f"{top} has no audio in it{others}. {self.how}")
        return table_of(rows)


def labelled_folders(root: Path | str) -> list[str]:
    """Names, as data sets, of the folders with tables of keys under a data root."""
    return _folders(AudioFolder, root)


def unlabelled_folders(root: Path | str) -> list[str]:
    """Names, as data sets, of the folders for pre-training under a data root."""
    return _folders(UnlabelledFolder, root)


def _folders(kind: type[_Folder], root: Path | str) -> list[str]:
    folders = Listing(Listing(root).one(kind.place) or Path(root) / kind.place)
    return [f"{kind.kind}:{visible(name)}" for name in folders.names() if (folders.top / name).is_dir()]


def _drawn(group: str) -> str:
    """The split of all tracks of a group, drawn from its name."""
    place = seeds.stable_words(group)[0] / 2**32
    return "train" if place < SHARES["train"] else "valid" if place < SHARES["train"] + SHARES["valid"] else "test"


def _files_below(top: Path) -> Iterator[str]:
    """Paths of all files that are not hidden, relative to a folder; folders that are links are not entered."""
    for place, folders, names in os.walk(top, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = "" if place == str(top) else f"{os.path.relpath(place, top)}/"
        yield from (below + name for name in names if not name.startswith("."))


def _without_label(path: str, excluded: str) -> dict[str, str]:
    try:
        path.encode()
        return {"track_id": path, "path": path, "excluded": excluded}
    except UnicodeEncodeError:  # bytes of another encoding, which no table can hold
        readable = os.fsencode(path).decode(errors="backslashreplace")
        return {"track_id": readable, "path": readable, "excluded": "name is not UTF-8"}


def _refuse(error: OSError) -> None:
    raise unreadable(error.filename, error) from error
