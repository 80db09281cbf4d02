"""The key in a sound file's own tags, where players and DJ programs look for it.

It is TKEY in ID3 (mp3, wav, aiff), INITIALKEY among Vorbis comments (flac, ogg, opus), and the freeform atom
"initialkey" of MP4 (m4a). Files are tagged in a copy that then takes their place, so that a file is never half-written;
its audio stays as it is, byte for byte.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import atomic_path

_ATOM = "----:com.apple.iTunes:"


def read_key(path: Path | str) -> str:
    """The key that a file's tags state, as it is written there; empty where they state none, or cannot be read."""
    with contextlib.suppress(Exception):  # mutagen raises what it likes; a damaged file is judged by its sound
        if (file := _opened(path)) is not None and file.tags:
            return next(filter(None, map(str.strip, _stated(file.tags))), "")
    return ""


def write_key(path: Path | str, text: str) -> None:
    """Write a key into a file's tags, in place of what stands there.

    A link stays, and the file that it leads to is tagged. Its permissions stay; it was last changed now.

    Parameters
    ----------
    text : ASCII.

    Raises
    ------
    KeyMynaError
        When the file cannot be written, or has no place for a key. It is then as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        if (found := _opened(target)) is None:
            raise KeyMynaError(f"{path} is of a kind that has no tag for a key.")
        with atomic_path(target) as copy:
            shutil.copy2(target, copy)
            _tag(_as_stored(type(found), copy), text)
            with contextlib.suppress(PermissionError):
                os.chown(copy, target.stat().st_uid, target.stat().st_gid)
            with open(copy, "rb") as file:
                os.fsync(file.fileno())
    except (KeyMynaError, OSError):
        raise
    except Exception as error:
        raise KeyMynaError(f"{path} cannot be tagged ({error or type(error).__name__}). It is as it was.") from error


def _opened(path: Path | str) -> Any:
    """What mutagen makes of a file; None for a kind without a tag for keys."""
    from mutagen import File  # here, as below: an import that most of the library never needs
    from mutagen.aiff import AIFF
    from mutagen.flac import FLAC
    from mutagen.mp3 import MP3
    from mutagen.mp4 import MP4
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis
    from mutagen.wave import WAVE

    return File(path, [MP3, WAVE, AIFF, FLAC, OggVorbis, OggOpus, MP4])


def _as_stored(kind: Any, path: Path) -> Any:
    """A file of a known kind, the frames of its ID3 in their own version."""
    from mutagen.aiff import AIFF
    from mutagen.mp3 import MP3
    from mutagen.wave import WAVE

    return kind(path, translate=False) if issubclass(kind, MP3 | WAVE | AIFF) else kind(path)


def _stated(tags: Any) -> Iterator[str]:
    """All that tags say about the key, the usual place first."""
    from mutagen.id3 import ID3
    from mutagen.mp4 import MP4Tags

    if isinstance(tags, ID3):
        for frame in tags.getall("TKEY"):
            yield from frame.text
        return
    for name in ("initialkey", "key"):  # some programs write the second
        for entry in list(tags.keys()):
            if entry.lower() == (f"{_ATOM}{name}".lower() if isinstance(tags, MP4Tags) else name):
                for value in tags[entry]:
                    yield bytes(value).decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _tag(file: Any, text: str) -> None:
    from mutagen.id3 import ID3, TKEY
    from mutagen.mp4 import AtomDataType, MP4FreeForm, MP4Tags

    new = file.tags is None
    if new:
        file.add_tags()
    tags = file.tags
    if isinstance(tags, ID3):
        # ID3 2.4 stays what it is; what is older, or new, becomes 2.3, which all players read.
        version = 3 if new or tags.version < (2, 4) else 4
        tags.update_to_v23() if version == 3 else tags.update_to_v24()
        tags.setall("TKEY", [TKEY(encoding=0, text=[text])])
        file.save(v2_version=version, v23_sep=None)
        return
    if isinstance(tags, MP4Tags):
        for entry in [entry for entry in tags if entry.lower() == f"{_ATOM}initialkey".lower()]:
            del tags[entry]
        tags[f"{_ATOM}initialkey"] = [MP4FreeForm(text.encode(), AtomDataType.UTF8)]
    else:
        tags["INITIALKEY"] = [text]
    file.save()
