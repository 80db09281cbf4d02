"""Downloads of data sets, checked before they count.

pooch downloads and hashes. A file gets its name only when it is whole and its size and checksums match, so a partial
file never counts; one that was interrupted is downloaded again from the start. Where a publisher gives no checksum,
that of the first download is recorded in the data set's folder, and holds from then on.
"""

from __future__ import annotations

import contextlib
import glob
import re
import shutil
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

import pandas as pd
from tqdm import tqdm

from keymyna_lib import __version__
from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.corpus.recordings.unpack import extract, is_unpacked

HEADERS = {
    "User-Agent": f"keymyna-lib/{__version__} (reproduction of arXiv:2604.10021)",
    "Accept-Encoding": "identity",  # the length that a server announces is then the file's
}
TRIES = 4  # of one file at one mirror, in one call
PER_HOST = 2  # connections at once
TIMEOUT = 30.0  # s without a byte
LONGEST_WAIT = 120.0  # s; a server that asks for more is not asked again
_TRANSIENT = {408, 429, 500, 502, 503, 504}  # HTTP errors after which another try may succeed
_RECORD = ".first_downloads.json"  # checksums, see the module's description
_CHUNK = 1 << 16  # bytes


def _pooch() -> ModuleType:
    """pooch, imported when it is needed: it brings along tqdm's widgets, which warn in a kernel that has none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")
        import pooch
    return pooch


@dataclass(frozen=True)
class Source:
    """One file to download.

    Attributes
    ----------
    urls : mirrors, tried in order: http://, https:// or file:///.
    path : destination, relative to the data set's folder.
    md5, sha256 : hexadecimal checksums; either may be empty. With neither, and no size, a download is checked only
        against the length that the server announces, and a file that already exists is trusted.
    size : bytes; 0 when unknown.
    extract : folder, relative to the data set's ("." is that one), into which this .zip is unpacked; empty when it
        is not.
    """

    urls: tuple[str, ...]
    path: str
    md5: str = ""
    sha256: str = ""
    size: int = 0
    extract: str = ""


@dataclass
class _Job:
    """A file to get: its destination, where to ask for it, and what became of it."""

    source: Source
    target: Path
    urls: list[str]
    state: str = ""
    problem: str = ""
    recorded: bool = False  # the checksum is that of the first download


class _Failed(Exception):
    """A mirror does not provide the file, and why.

    `again`: another try may succeed, after `wait` s (None: the usual back-off). `host`: it concerns all of its files.
    """

    def __init__(self, reason: str, *, again: bool = False, wait: float | None = None, host: bool = False) -> None:
        super().__init__(reason)
        self.again, self.wait, self.host = again, wait, host


def fetch(
    sources: Sequence[Source],
    folder: Path | str,
    *,
    offline: bool = False,
    workers: int = 4,
    mirror: str = "",
    show: bool = True,
) -> pd.DataFrame:
    """Download the files that are missing, and unpack the archives among them.

    A file counts as present when its size and checksums, as far as they are known, are right; a wrong one is replaced
    once the right one is complete. A file that fails does not stop the others. After Ctrl-C, or a kill, the next call
    downloads what is still missing.

    Parameters
    ----------
    folder : of the data set.
    offline : open local files only. What is absent is looked for under file:/// alone; its problem says what to bring.
    workers : downloads at once, of which at most PER_HOST from one host.
    mirror : base URL of a copy of this data set's folder, asked before the others for <mirror>/<path>.
    show : draw progress bars.

    Returns
    -------
    One row per source, in their order: path; state, "present" (it was there), "fetched" or "failed"; problem, empty or
    what went wrong. An archive that cannot be unpacked has failed.

    Raises
    ------
    KeyMynaError
        When a source or a parameter is invalid, when the folder cannot be written to, or while another process writes
        to it.
    """
    folder = Path(folder)
    if workers < 1:
        raise KeyMynaError(f"workers={workers}: expected the number of downloads at once, 1 or more.")
    _check(sources)
    jobs = [_Job(source, folder / _inside(source.path, "path"), _urls(source, mirror)) for source in sources]
    first = _first_checksums(folder)
    for job in bar(jobs, desc="checking files", unit="file", show=show):
        if not (job.source.md5 or job.source.sha256) and job.source.path in first:
            job.source, job.recorded = replace(job.source, sha256=first[job.source.path]), True
        job.problem = _mismatch(job.target, job.source)
        job.state = "failed" if job.problem else "present"
        job.urls = [url for url in job.urls if job.problem and (_is_local(url) or not offline)]
    todo = [job for job in jobs if job.urls]
    unpacking = [
        job
        for job in jobs
        if job.source.extract
        and (job.urls or (not job.problem and not is_unpacked(job.target, folder / job.source.extract)))
    ]
    with files.locked(folder / ".fetch.lock") if todo or unpacking else contextlib.nullcontext():
        if todo:
            try:
                _download(todo, min(workers, len(todo)), show)
            finally:  # after Ctrl-C too
                _record_first_checksums(folder, todo)
        for job in jobs:
            if job.state == "failed":
                if job.recorded and "sha256" in job.problem:
                    job.problem += f" as at the first download; remove {folder / _RECORD} to accept another"
                job.problem += f"; {'' if offline else 'run again, or '}bring {_describe(job.source)} to {job.target}"
        for job in unpacking:
            if job.state != "failed":
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
        return _pooch().file_hash(str(path), alg="md5")
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
            if not source.path.lower().endswith(".zip"):
                raise KeyMynaError(f"{source.path} cannot be unpacked: expected a .zip.")
        if (place := _inside(source.path, "path")) in seen:
            raise KeyMynaError(f"path={source.path!r}: two sources have this destination.")
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


def _reason(error: BaseException) -> str:
    """The error at the bottom of a chain of them, in a few words."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _first_checksums(folder: Path) -> dict[str, str]:
    """Path -> sha256 of the first download of each file whose publisher gives no checksum."""
    return files.read_json(folder / _RECORD) if (folder / _RECORD).exists() else {}


def _record_first_checksums(folder: Path, jobs: Sequence[_Job]) -> None:
    """Add those of files that were just downloaded, and say so."""
    new = {
        job.source.path: _pooch().file_hash(str(job.target), alg="sha256")
        for job in jobs
        if job.state == "fetched" and not (job.source.md5 or job.source.sha256)
    }
    if new:
        files.write_json(folder / _RECORD, _first_checksums(folder) | new)
        path, sha256 = next(iter(new.items()))
        print(
            f"{folder.name}: the publisher gives no checksum of {len(new)} file(s), such as {path} (sha256 "
            f"{sha256}); from now on they are compared with these downloads, recorded in {_RECORD}."
        )


def _mismatch(path: Path, source: Source) -> str:
    """What is wrong with a file, or an empty string."""
    try:
        if not path.is_file():
            return "it is not there"
        size = path.stat().st_size
        if source.size and size != source.size:
            return f"it has {size} bytes instead of {source.size}"
        for name, expected in (("md5", source.md5), ("sha256", source.sha256)):
            if expected and (found := _pooch().file_hash(str(path), alg=name)) != expected.lower():
                return f"its {name} is {found} instead of {expected.lower()}"
    except OSError as error:
        return _reason(error)
    return ""


# Downloads


def _download(jobs: Sequence[_Job], workers: int, show: bool) -> None:
    with (
        bar(desc="downloads", total=0, unit="B", unit_scale=True, show=show) as shown,
        ThreadPoolExecutor(workers) as pool,
    ):
        downloads = _Downloads(jobs, shown)
        try:
            for count, future in enumerate(as_completed([pool.submit(downloads.get, job) for job in jobs]), 1):
                future.result()
                shown.set_postfix_str(f"{count} of {len(jobs)} files")
        except BaseException:  # Ctrl-C too
            downloads.stop.set()
            raise


class _Share:
    """The share of one file in the common bar, with what pooch wants of a progress bar: total, update, reset, close."""

    def __init__(self, downloads: _Downloads, total: int) -> None:
        self._downloads, self.total, self.done, self._counted = downloads, total, 0, 0
        self.reset()

    def update(self, count: int) -> None:
        if self._downloads.stop.is_set():
            raise _Failed("interrupted")
        self._show(self.done + count)

    def reset(self) -> None:
        self._show(0)

    def close(self) -> None:
        """Nothing: the bar is shared."""

    def fill(self, size: int) -> None:
        """The file is complete, or given up (0)."""
        self.total = size
        self._show(size)

    def _show(self, done: int) -> None:
        done = min(done, self.total or done)  # pooch counts whole chunks
        with self._downloads.lock:
            self._downloads.shown.total += self.total - self._counted
            if done != self.done:
                self._downloads.shown.update(done - self.done)
            self.done, self._counted = done, self.total


class _Downloads:
    """What the threads of one call share."""

    def __init__(self, jobs: Sequence[_Job], shown: tqdm) -> None:
        self.stop, self.lock, self.shown = threading.Event(), threading.Lock(), shown
        self.slots = {urlsplit(url).netloc: threading.Semaphore(PER_HOST) for job in jobs for url in job.urls}
        self.lost: dict[str, str] = {}  # hosts that are not asked again in this call, and why
        self.shares = {job.target: _Share(self, job.source.size) for job in jobs}

    def get(self, job: _Job) -> None:
        """Try the mirrors of a file in turn."""
        share = self.shares[job.target]
        for left in job.target.parent.glob(f".{glob.escape(job.target.name)}.*.tmp"):  # by a process that was killed
            left.unlink()
        for url in job.urls:
            try:
                # The slot is kept while it waits: an overloaded host is not asked for other files meanwhile.
                with self.slots[urlsplit(url).netloc], files.atomic_path(job.target) as temporary:
                    self._get_from(url, temporary, job.source, share)
                    if problem := _mismatch(temporary, job.source):
                        raise _Failed(problem)
                job.state, job.problem = "fetched", ""
                share.fill(job.target.stat().st_size)
                return
            except _Failed as reason:
                job.problem += f"; {url}: {reason}"
            except KeyMynaError as error:  # of this machine: the network's have been dealt with
                job.problem += f"; it cannot be written ({_reason(error)})"
                break
        share.fill(0)

    def _get_from(self, url: str, path: Path, source: Source, share: _Share) -> None:
        """Download a whole file in at most TRIES tries."""
        host = urlsplit(url).netloc
        for attempt in range(TRIES):
            if reason := self.lost.get(host, "interrupted" if self.stop.is_set() else ""):
                raise _Failed(f"not asked again ({reason})")
            share.reset()
            try:
                return _copy(url, path) if _is_local(url) else _receive(url, path, source, share)
            except _Failed as failure:
                wait = 2.0**attempt if failure.wait is None else failure.wait
                if not failure.again:
                    raise
                if attempt + 1 == TRIES or wait > LONGEST_WAIT:
                    if failure.host:
                        self.lost[host] = str(failure)
                    raise _Failed(f"{failure}; tries: {attempt + 1}") from None
            self.wait(wait)

    def wait(self, seconds: float) -> None:
        """Wait; Ctrl-C ends it."""
        self.stop.wait(seconds)


def _copy(url: str, path: Path) -> None:
    """A file:/// URL, which pooch does not open."""
    try:
        shutil.copyfile(url2pathname(urlsplit(url).path), path)
    except OSError as error:
        raise _Failed(_reason(error)) from None


def _receive(url: str, path: Path, source: Source, share: _Share) -> None:
    """Download one file over HTTP, once."""

    def inspect(response: Any, *_: Any, **__: Any) -> None:
        """Refuse, before it is read, a body that cannot be the file or that nobody could tell to be whole."""
        length, chunked = response.headers.get("Content-Length"), "Transfer-Encoding" in response.headers
        problem = ""
        if source.size and length not in (None, str(source.size)):
            problem = f"it has {length} bytes there instead of {source.size}"
        if length is None and not (chunked or source.md5 or source.sha256 or source.size):
            problem = "the server states no length, so that a truncated download could not be recognised"
        if problem and response.status_code == 200:
            response.close()
            raise _Failed(problem)

    get = _pooch().HTTPDownloader(
        progressbar=share, chunk_size=_CHUNK, timeout=TIMEOUT, headers=HEADERS, hooks={"response": inspect}
    )
    try:
        get(url, str(path), None)
    except OSError as error:  # those of requests are, too, but have no errno
        if error.errno is not None:
            raise
        if (response := getattr(error, "response", None)) is None:
            raise _Failed(f"the connection failed ({_reason(error)})", again=True, host=not share.done) from None
        status, after = response.status_code, response.headers.get("Retry-After", "")
        raise _Failed(
            f"HTTP {status} {response.reason}" + (f", ask again in {after}" if after else ""),
            again=status in _TRANSIENT,
            wait=float(after) if after.isdecimal() else None,
            host=status in (429, 503),
        ) from None
