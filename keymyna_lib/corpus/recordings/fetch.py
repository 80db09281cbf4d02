"""Downloads of data sets: resumed where they stopped, checked before they count, unpacked without leaving their folder.

A file is written to `<name>.part` and gets its name only when it is whole and its size and checksum fit, so a partial
file never counts. What the part is a part of (URL, ETag or date, length) is kept beside it in `<name>.part.json`: it
is continued only if the server still has the very same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import tarfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import OpenerDirector, Request, build_opener

import pandas as pd
from tqdm import tqdm

from keymyna_lib import __version__
from keymyna_lib.base import files, hashing
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar

AGENT = f"keymyna-lib/{__version__} (reproduction of arXiv:2604.10021)"
TRIES = 4  # of one file at one mirror, in one call
PER_HOST = 2  # connections at once
TIMEOUT = 30.0  # s without a byte
LONGEST_WAIT = 120.0  # s; a server that asks for more is left alone
_PASSING = {408, 429, 500, 502, 503, 504}  # HTTP errors that another try may not meet
_BLOCK = 1 << 18  # bytes
_STAMPED = 1 << 26  # bytes: files so large are hashed once, then known by size and time; smaller ones every time
_ARCHIVES = {".zip": "", ".tar": "r:", ".tar.gz": "r:gz", ".tar.bz2": "r:bz2"}  # tarfile's modes


@dataclass(frozen=True)
class Source:
    """One file to download.

    Attributes
    ----------
    urls : mirrors, tried in order: http://, https:// or file:///.
    path : where it goes, relative to the data set's folder.
    md5, sha256 : hexadecimal checksums; either may be empty. With neither, and no size, a download is held only against
        the length that the server announces, and a file that is there already is believed.
    size : bytes; 0 is unknown.
    extract : folder, relative to the data set's ("." is that one), into which this .zip, .tar, .tar.gz or .tar.bz2 is
        unpacked; empty when it is not.
    """

    urls: tuple[str, ...]
    path: str
    md5: str = ""
    sha256: str = ""
    size: int = 0
    extract: str = ""


@dataclass
class _Job:
    """A file to get: where to, where from, what became of it, and how many bytes of it the bar still expects."""

    source: Source
    target: Path
    urls: list[str]
    state: str = ""
    problem: str = ""
    left: int = 0

    @property
    def part(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part")

    @property
    def notes(self) -> Path:
        return self.target.with_name(f"{self.target.name}.part.json")

    def drop_part(self) -> None:
        self.part.unlink(missing_ok=True)
        self.notes.unlink(missing_ok=True)


class _GivenUp(Exception):
    """A mirror that will not give the file; says why."""


class _Again(Exception):
    """Something that may pass: after `wait` s (None: the usual back-off). `host`: it concerns all files of the host."""

    def __init__(self, reason: str, wait: float | None = None, *, host: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.host = wait, host


def fetch(
    sources: Sequence[Source],
    folder: Path | str,
    *,
    offline: bool = False,
    workers: int = 4,
    mirror: str = "",
    show: bool = True,
    sleep: Callable[[float], Any] | None = None,
) -> pd.DataFrame:
    """Get what is missing of some files, and unpack the archives among them.

    A file counts as present when its size and its checksums, as far as they are known, are right; a wrong one is
    replaced once the right one is whole. A file that fails does not stop the others. After Ctrl-C, or a kill, the
    next call goes on where this one stopped.

    Parameters
    ----------
    folder : of the data set.
    offline : open local files only. What is absent is looked for under file:/// alone; its problem says what to bring.
    workers : downloads at once, of which at most PER_HOST from one host.
    mirror : base URL of a copy of this data set's folder, asked before the others for <mirror>/<path>.
    show : draw progress bars.
    sleep : waits so many seconds between two tries of a file; None is a wait that Ctrl-C ends.

    Returns
    -------
    One row a source, in their order: path; state, "present" (it was there), "fetched" or "failed"; problem, empty or
    what went wrong. An archive that cannot be unpacked has failed.

    Raises
    ------
    KeyMynaError
        When a source or a parameter makes no sense, or when the folder cannot be written into, or not now because
        another process does.
    """
    folder = Path(folder)
    if workers < 1:
        raise KeyMynaError(f"workers={workers}: expected the number of downloads at once, 1 or more.")
    _check(sources)
    jobs = [_Job(source, folder / _inside(source.path, "path"), _urls(source, mirror)) for source in sources]
    for job in bar(jobs, desc="checking files", unit="file", show=show):
        _look(job)
        job.urls = [url for url in job.urls if job.state != "present" and (_is_local(url) or not offline)]
    if todo := [job for job in jobs if job.urls]:
        with _locked(folder / ".fetch.lock"):
            _download(todo, min(workers, len(todo)), show, sleep)
    for job in jobs:
        if job.state == "failed":
            job.problem += f"; {'' if offline else 'run again, or '}bring {_describe(job.source)} to {job.target}"
        elif job.source.extract:
            try:
                extract(job.target, folder / job.source.extract, show=show)
            except KeyMynaError as error:
                job.state, job.problem = "failed", str(error)
    return pd.DataFrame(
        [(job.source.path, job.state, job.problem) for job in jobs], columns=["path", "state", "problem"]
    )


def md5_file(path: Path | str) -> str:
    """Hexadecimal MD5 of a file's content; a file that cannot be read is a KeyMynaError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise KeyMynaError(f"cannot read {path}: {error.strerror}.") from error


def _check(sources: Sequence[Source]) -> None:
    seen = set()
    for source in sources:
        for name, value, digits in (("md5", source.md5, 32), ("sha256", source.sha256, 64)):
            if value and not re.fullmatch(f"[0-9a-fA-F]{{{digits}}}", value):
                raise KeyMynaError(f"{name}={value!r} of {source.path}: expected {digits} hexadecimal digits.")
        if source.size < 0:
            raise KeyMynaError(f"size={source.size} of {source.path}: expected bytes, or 0 when unknown.")
        if source.extract:
            _inside(source.extract, f"extract of {source.path}", itself=True)
            _archive_mode(source.path)
        if (place := _inside(source.path, "path")) in seen:
            raise KeyMynaError(f"path={source.path!r}: two sources are to be stored there.")
        seen.add(place)


def _inside(path: str, what: str, *, itself: bool = False) -> PurePosixPath:
    """A relative path that stays in its folder; "." is that folder itself."""
    pure = PurePosixPath(path.replace("\\", "/"))
    if pure.is_absolute() or ".." in pure.parts or not (pure.parts or itself):
        raise KeyMynaError(f"{what}={path!r}: expected a relative path that stays in the data set's folder.")
    return pure


def _urls(source: Source, mirror: str) -> list[str]:
    urls = ([f"{mirror.rstrip('/')}/{quote(source.path)}"] if mirror else []) + list(source.urls)
    if not urls:
        raise KeyMynaError(f"{source.path} has no urls, and no mirror is given: nothing says where it comes from.")
    for url in urls:
        parts = urlsplit(url)
        known = bool(parts.netloc) if parts.scheme in ("http", "https") else _is_local(url) and not parts.netloc
        if not known or not re.fullmatch("[!-~]+", url):
            raise KeyMynaError(
                f"URL {url!r} of {source.path}: expected http://, https:// or file:///, without spaces "
                "and other characters that must be quoted."
            )
    return urls


def _is_local(url: str) -> bool:
    return url.startswith("file:///")


def _describe(source: Source) -> str:
    """What a file is, for somebody who has to find it."""
    facts = [f"{source.size} bytes"] * bool(source.size)
    facts += [f"{name} {value}" for name, value in (("md5", source.md5), ("sha256", source.sha256)) if value]
    remote = [url for url in source.urls if not _is_local(url)][:1]
    return (
        PurePosixPath(source.path).name
        + (f" ({', '.join(facts)})" if facts else "")
        + "".join(f" from {url}" for url in remote)
    )


def _reason(error: Exception) -> str:
    """An error of the system or the network in a few words."""
    if isinstance(error, URLError):
        error = error.reason if isinstance(error.reason, Exception) else error
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


# What is there


def _look(job: _Job) -> None:
    """State and problem of a file before anything is downloaded."""
    try:
        if not job.target.is_file():
            job.problem = "it is not there"
        elif not _stamped(job.target, job.source):
            job.problem = _mismatch(job.target, job.source)
            if not job.problem:
                _stamp(job.target, job.source)
    except (OSError, KeyMynaError) as error:
        job.problem = _reason(error)
    job.state = "failed" if job.problem else "present"


def _mismatch(path: Path, source: Source) -> str:
    """What is wrong with a file, or an empty string."""
    size = path.stat().st_size
    if source.size and size != source.size:
        return f"it has {size} bytes instead of {source.size}"
    for name, expected, measure in (("md5", source.md5, md5_file), ("sha256", source.sha256, hashing.sha256_file)):
        if expected and (found := measure(path)) != expected.lower():
            return f"its {name} is {found} instead of {expected.lower()}"
    return ""


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified")


def _identity(path: Path) -> dict[str, int]:
    """By what a file that was looked at before is known again."""
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _stamp_of(path: Path, source: Source) -> dict[str, Any]:
    return _identity(path) | {"expected": [source.size, source.md5, source.sha256]}


def _stamped(path: Path, source: Source) -> bool:
    try:
        return files.read_json(_stamp_path(path)) == _stamp_of(path, source)
    except KeyMynaError:
        return False


def _stamp(path: Path, source: Source) -> None:
    """Note that a large file was checked."""
    if path.stat().st_size >= _STAMPED and (source.md5 or source.sha256):
        with contextlib.suppress(KeyMynaError):  # a folder that is only to be read is checked every time
            files.write_json(_stamp_path(path), _stamp_of(path, source))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes out while the lock file is held; they would write into the same parts."""
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "a", encoding="utf-8"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise KeyMynaError(f"another process is writing into {path.parent}. Wait for it, or stop it.") from None
        except OSError as error:
            raise KeyMynaError(
                f"cannot write into {path.parent}: {error.strerror}. Mend its permissions, or choose another folder."
            ) from error
        yield


# Downloads


def _download(jobs: Sequence[_Job], workers: int, show: bool, sleep: Callable[[float], Any] | None) -> None:
    with (
        bar(desc="downloads", total=0, unit="B", unit_scale=True, show=show) as shown,
        ThreadPoolExecutor(workers) as pool,
    ):
        downloads = _Downloads(jobs, shown, sleep)
        try:
            for future in [pool.submit(downloads.get, job) for job in jobs]:
                future.result()
        except BaseException:  # Ctrl-C too
            downloads.stop.set()
            raise


class _Downloads:
    """What the threads of one call share."""

    def __init__(self, jobs: Sequence[_Job], shown: tqdm, sleep: Callable[[float], Any] | None) -> None:
        self.stop, self.lock, self.shown = threading.Event(), threading.Lock(), shown
        self.sleep = sleep or self.stop.wait
        self.opener: OpenerDirector = build_opener()
        self.slots = {_host(url): threading.Semaphore(PER_HOST) for job in jobs for url in job.urls}
        self.lost: dict[str, str] = {}  # hosts that are not asked again in this call, and why
        self.done, self.count = 0, len(jobs)
        for job in jobs:
            self._expect(job, job.source.size)

    def get(self, job: _Job) -> None:
        """Try the mirrors of a file in turn."""
        try:
            job.target.parent.mkdir(parents=True, exist_ok=True)
            for url in job.urls:
                try:
                    with self.slots[_host(url)]:  # kept while it waits: a host that is overloaded is left alone
                        self._get_from(job, url)
                    job.state, job.problem = "fetched", ""
                    break
                except _GivenUp as reason:
                    job.problem += f"; {url}: {reason}"
        except (OSError, KeyMynaError) as error:  # of this machine: the network's have been dealt with
            job.problem += f"; it cannot be written ({_reason(error)})"
        finally:
            self._expect(job, 0)
            with self.lock:
                self.done += 1
                self.shown.set_postfix_str(f"{self.done} of {self.count} files", refresh=False)

    def _get_from(self, job: _Job, url: str) -> None:
        for attempt in range(TRIES):
            if self.stop.is_set():
                raise _GivenUp("interrupted")
            if reason := self.lost.get(_host(url)):
                raise _GivenUp(f"not asked again ({reason})")
            try:
                self._receive(job, url)
                break
            except _Again as again:
                wait = 2.0**attempt if again.wait is None else again.wait
                if attempt + 1 == TRIES or wait > LONGEST_WAIT:
                    if again.host:
                        self.lost[_host(url)] = str(again)
                    raise _GivenUp(f"{again}; tries: {attempt + 1}") from None
            self.sleep(wait)
        if problem := _mismatch(job.part, job.source):
            job.drop_part()
            raise _GivenUp(problem)
        os.replace(job.part, job.target)
        job.notes.unlink(missing_ok=True)
        _stamp(job.target, job.source)

    def _receive(self, job: _Job, url: str) -> None:
        """Download the part, or the rest of it, until it is whole."""
        have, validator, length = _resumable(job, url)
        if have and have == length:
            return
        headers = {"User-Agent": AGENT}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        try:
            response = self.opener.open(Request(url, headers=headers), timeout=TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 416 and have:  # the file has become shorter
                job.drop_part()
                raise _Again("it changed on the server", 0.0) from None
            raise _answer(error) from None
        except (OSError, HTTPException) as error:
            if _is_local(url):
                raise _GivenUp(_reason(error)) from None
            raise _Again(_reason(error), host=isinstance(error, URLError)) from None
        with response:
            announced = _length(response)
            if response.status != 206:
                have, validator, length = 0, _validator(response), None
            elif not _continues(response, have, validator, length):
                job.drop_part()
                raise _Again("it changed on the server", 0.0)
            if length is None and announced is not None:
                length = have + announced
            if job.source.size and length not in (None, job.source.size):
                raise _GivenUp(f"it has {length} bytes there instead of {job.source.size}")
            length = job.source.size or length
            if length is None and not (response.chunked or job.source.md5 or job.source.sha256):
                raise _GivenUp("nothing says how long it is, so nobody could tell whether it is whole")
            self._store(job, response, have, length, {"url": url, "validator": validator, "length": length})

    def _store(self, job: _Job, response: Any, have: int, length: int | None, notes: dict[str, Any]) -> None:
        """Append what a server sends to the `have` bytes of a file of `length`."""
        missing, free = max(0, (length or 0) - have), shutil.disk_usage(job.target.parent).free
        if missing > free:
            raise _GivenUp(f"it needs {missing / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free")
        self._expect(job, missing)
        with open(job.part, "ab" if have else "wb") as file:
            if not have:  # the old part is gone before the new notes are there
                files.write_json(job.notes, notes)
            while block := self._read(response):
                if self.stop.is_set():
                    raise _GivenUp("interrupted")
                file.write(block)
                have += len(block)
                self._received(job, len(block))
                if length is not None and have > length:
                    job.drop_part()
                    raise _GivenUp(f"it has more than {length} bytes there")
        if have < (length or 0):
            raise _Again(f"the connection was cut after {have} of {length} bytes")

    @staticmethod
    def _read(response: Any) -> bytes:
        try:
            return response.read1(_BLOCK)  # what there is, without waiting for more
        except (OSError, HTTPException) as error:
            raise _Again(f"the connection was cut ({_reason(error)})") from None

    def _expect(self, job: _Job, left: int) -> None:
        """The bar's total, by what is now known to be left of a file."""
        with self.lock:
            self.shown.total += left - job.left
            job.left = left

    def _received(self, job: _Job, count: int) -> None:
        with self.lock:
            self.shown.total += max(0, count - job.left)  # of a file of unknown length
            job.left = max(0, job.left - count)
            self.shown.update(count)


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _resumable(job: _Job, url: str) -> tuple[int, str, int | None]:
    """Bytes there are of this URL's file, what tells whether it is still the same, and its length if known."""
    try:
        notes = files.read_json(job.notes)
        if notes["url"] == url and notes["validator"]:
            return job.part.stat().st_size, notes["validator"], notes["length"]
    except (KeyMynaError, FileNotFoundError, KeyError, TypeError):
        pass  # no part, or one of unknown origin
    return 0, "", None


def _validator(response: Any) -> str:
    """What changes with the file: a strong ETag, else the date, else nothing."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _length(response: Any) -> int | None:
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _continues(response: Any, have: int, validator: str, length: int | None) -> bool:
    """Does an answer 206 go on exactly where the part ends, in the same file?"""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    kind = "ETag" if validator.startswith('"') else "Last-Modified"
    return (
        match is not None
        and int(match[1]) == have > 0
        and response.headers.get(kind, validator) == validator
        and (length is None or match[2] in ("*", str(length)))
    )


def _answer(error: HTTPError) -> Exception:
    """What to do about an HTTP error."""
    reason = f"HTTP {error.code} {error.reason}"
    if error.code not in _PASSING:
        return _GivenUp(reason)
    wait = _retry_after(error.headers.get("Retry-After", ""))
    return _Again(reason + (f", ask again in {wait:.0f} s" if wait else ""), wait, host=error.code in (429, 503))


def _retry_after(text: str) -> float | None:
    """Seconds, from the header's number or date."""
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


# Archives


class _Member(NamedTuple):
    """A file or folder in an archive; `open` gives its content."""

    name: str
    is_folder: bool
    size: int
    open: Callable[[], IO[bytes]]


def extract(archive: Path | str, folder: Path | str, *, show: bool = True) -> None:
    """Unpack a .zip, .tar, .tar.gz or .tar.bz2, once.

    It is unpacked beside its place, or inside the folder where there is one, and moved when it is whole; the stamp
    that says so comes last. Delete the folder to have it unpacked again. Owners, permissions and dates are not taken
    over.

    Parameters
    ----------
    folder : where to; what is there stays, except files of the same name.

    Raises
    ------
    KeyMynaError
        When the archive is damaged, locked or of another kind, would need more space than is free, or has a member
        that is a link or a device or would leave the folder: names it, and nothing is unpacked.
    """
    archive, folder = Path(archive), Path(folder)
    mode = _archive_mode(archive.name)
    try:
        stamp, identity = folder / f".{archive.name}.unpacked", _identity(archive)
        if stamp.is_file() and files.read_json(stamp) == identity:
            return
        # On the same disk as what it becomes, so that it can be moved in no time.
        work = (folder if folder.is_dir() else folder.parent) / f".{archive.name}.unpacking"
        with _locked(work / "lock"):
            try:
                content = work / "content"
                if content.exists():  # of a process that was killed
                    shutil.rmtree(content)
                content.mkdir()
                _unpack(archive, mode, content, show)
                files.write_json(content / stamp.name, identity)
                if folder.exists():
                    _merge(content, folder, last=stamp.name)
                else:
                    content.rename(folder)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise KeyMynaError(f"{archive} is damaged ({error}). Delete it and fetch it again.") from error
    except OSError as error:
        if error.errno is None:  # what gzip and bz2 raise
            raise KeyMynaError(f"{archive} is damaged ({error}). Delete it and fetch it again.") from error
        raise KeyMynaError(
            f"cannot unpack {archive} into {folder}: {error.strerror}. Mend that (space, "
            "permissions, the files' names) and run again."
        ) from error


def _archive_mode(name: str) -> str:
    for suffix, mode in _ARCHIVES.items():
        if name.lower().endswith(suffix):
            return mode
    raise KeyMynaError(f"{name} cannot be unpacked: expected one of {', '.join(_ARCHIVES)}.")


def _unpack(archive: Path, mode: str, folder: Path, show: bool) -> None:
    """Write an archive's files below an empty folder, after a look at all of them."""
    with tarfile.open(archive, mode) if mode else zipfile.ZipFile(archive) as opened:
        members = [
            (_place(archive, member.name), member)
            for member in (_tar_members(archive, opened) if mode else _zip_members(archive, opened))
        ]
        total, free = sum(member.size for _, member in members), shutil.disk_usage(folder).free
        if total > free:
            raise KeyMynaError(
                f"{archive} holds {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. "
                "Free some space and run again."
            )
        with bar(desc=f"unpacking {archive.name}", total=total, unit="B", unit_scale=True, show=show) as shown:
            for place, member in members:
                path = folder / place
                if member.is_folder:
                    path.mkdir(parents=True, exist_ok=True)
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with member.open() as packed, open(path, "wb") as file:
                    while block := packed.read(_BLOCK):
                        file.write(block)
                        shown.update(len(block))


def _place(archive: Path, name: str) -> PurePosixPath:
    """Where a member goes, relative to the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise KeyMynaError(f"{archive} is not unpacked: its member {name!r} would leave the folder.")
    return path


def _zip_members(archive: Path, opened: zipfile.ZipFile) -> Iterator[_Member]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise KeyMynaError(f"{archive} is not unpacked: its member {info.filename!r} is a link or a device.")
        if info.flag_bits & 1:
            raise KeyMynaError(f"{archive} is not unpacked: its member {info.filename!r} needs a password.")
        is_folder = info.filename.endswith(("/", "\\"))
        yield _Member(info.filename, is_folder, info.file_size, lambda info=info: opened.open(info))


def _tar_members(archive: Path, opened: tarfile.TarFile) -> Iterator[_Member]:
    for info in opened.getmembers():
        if not (info.isreg() or info.isdir()):
            raise KeyMynaError(f"{archive} is not unpacked: its member {info.name!r} is a link or a device.")
        yield _Member(info.name, info.isdir(), info.size, lambda info=info: opened.extractfile(info))
    # tarfile takes damage between two members, or the file's end, for the end of the archive.
    opened.fileobj.seek(opened.offset)
    if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise EOFError("it is cut")
    while opened.fileobj.read(_BLOCK):  # up to the checksum of what is compressed
        pass


def _merge(content: Path, folder: Path, *, last: str) -> None:
    """Move a tree's files into a folder that is there; `last` is moved last."""
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
