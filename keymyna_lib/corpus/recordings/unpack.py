"""Archives of data sets, unpacked once and without leaving their folder."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar


def extract(archive: Path | str, folder: Path | str, *, show: bool = True) -> None:
    """Unpack a .zip, once; one process at a time.

    It is unpacked next to its destination, or inside the folder where there is one, and moved when it is complete; the
    stamp that says so comes last. Delete the folder to have it unpacked again.

    Parameters
    ----------
    folder : destination; what is there stays, except files of the same name.

    Raises
    ------
    KeyMynaError
        When the archive is damaged or locked, needs more space than is free, or has a member that is a link or a
        device or would leave the folder: names it, and nothing is unpacked.
    """
    archive, folder = Path(archive), Path(folder)
    if is_unpacked(archive, folder):
        return
    # On the same disk as what it becomes, so that moving it takes no time.
    work = (folder if folder.is_dir() else folder.parent) / f".{archive.name}.unpacking"
    try:
        shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
        work.mkdir(parents=True)
        _unpack(archive, work, show)
        files.write_json(work / _stamp(archive), _identity(archive))
        if folder.exists():
            _merge(work, folder, last=_stamp(archive))
        else:
            work.rename(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise KeyMynaError(f"{archive} is damaged ({error}). Get it again.") from error
    except OSError as error:
        raise KeyMynaError(
            f"cannot unpack {archive} into {folder}: {error.strerror}. Correct that (space, "
            "permissions, the files' names) and run again."
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def is_unpacked(archive: Path, folder: Path) -> bool:
    """Whether `extract` has unpacked this very archive (by size and time of change) into the folder."""
    try:
        return files.read_json(folder / _stamp(archive)) == _identity(archive)
    except KeyMynaError:  # no stamp, or a damaged one
        return False


def _stamp(archive: Path) -> str:
    return f".{archive.name}.unpacked"


def _identity(archive: Path) -> dict[str, int]:
    """What changes when an archive is replaced."""
    status = archive.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _unpack(archive: Path, folder: Path, show: bool) -> None:
    """Write an archive's files below an empty folder, after a look at all of them."""
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        for member in members:
            if problem := _refusal(member):
                raise KeyMynaError(f"{archive} is not unpacked: its member {member.filename!r} {problem}.")
            member.filename = member.filename.replace("\\", "/")
        total, free = sum(member.file_size for member in members), shutil.disk_usage(folder).free
        if total > free:
            raise KeyMynaError(
                f"{archive} holds {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. "
                "Free some space and run again."
            )
        with bar(desc=f"unpacking {archive.name}", total=total, unit="B", unit_scale=True, show=show) as shown:
            for member in members:
                opened.extract(member, folder)
                shown.update(member.file_size)


def _refusal(member: zipfile.ZipInfo) -> str:
    """Why a member must not be unpacked, or an empty string."""
    path = PurePosixPath(member.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        return "would leave the folder"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return "needs a password" if member.flag_bits & 1 else ""


def _merge(content: Path, folder: Path, *, last: str) -> None:
    """Move a tree's files into an existing folder; `last` is moved last."""
    for path in sorted(content.rglob("*")):
        place = folder / path.relative_to(content)
        if not path.is_dir():
            if path != content / last:
                os.replace(path, place)
        elif place.is_symlink():
            raise KeyMynaError(f"{place} is a link; nothing is unpacked through it. Remove it and run again.")
        else:
            place.mkdir(exist_ok=True)
    os.replace(content / last, folder / last)
