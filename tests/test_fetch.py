"""Downloads from a server that misbehaves in every way it can, and archives that try to leave their folder."""

import bz2
import fcntl
import gzip
import hashlib
import io
import os
import signal
import socket
import stat
import tarfile
import threading
import time
import zipfile
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import fetch as module
from keymyna_lib.corpus.recordings.fetch import Source, extract, fetch, md5_file

DATA = np.random.default_rng(0).bytes(100_000)
OTHER = np.random.default_rng(1).bytes(100_000)
SHA256, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        with site.lock:
            site.requests.append((self.path, self.headers))
            count = sum(path == self.path for path, _ in site.requests)
        if self.path in site.routes:
            site.routes[self.path](self, count)
        else:
            self.send_error(404)

    def answer(self, status, body, cut=None, **headers):
        """Send a body, or its first `cut` bytes, under headers that speak of the whole."""
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, *_):
        pass


class Site:
    """A server on this machine: routes path -> function of the handler and of how often the path was asked for."""

    def __init__(self):
        self.routes, self.requests, self.lock = {}, [], threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.site, self.server.daemon_threads, self.server.handle_error = self, True, lambda *_: None
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path, host="127.0.0.1"):
        return f"http://{host}:{self.server.server_port}{path}"

    def asked(self, path):
        return [headers for asked, headers in self.requests if asked == path]


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    site = Site()
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def get(tmp_path, waits):
    """fetch into an empty folder, silently, without waiting; the only source's row when there is one."""

    def get(*sources, **options):
        table = fetch(sources, tmp_path / "set", **dict(show=False, sleep=waits.append) | options)
        assert list(table.columns) == ["path", "state", "problem"] and list(table["path"]) == [s.path for s in sources]
        return table.iloc[0] if len(sources) == 1 else table

    return get


def plain(body, **headers):
    return lambda handler, count: handler.answer(200, body, **headers)


def ranged(body, etag='"one"', first_cut=None):
    """A well-behaved server that cuts the first connection."""

    def route(handler, count):
        wanted = handler.headers.get("Range")
        if wanted and handler.headers.get("If-Range") == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            handler.answer(206, body[start:], ETag=etag, Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            handler.answer(200, body, ETag=etag, cut=first_cut if count == 1 else None)

    return route


def seen(folder):
    """Files that a user sees, and parts."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def until(happened):
    """Wait for what a thread is to do, but not for ever."""
    for _ in range(500):
        if happened():
            break
        time.sleep(0.02)


@pytest.fixture
def ctrl_c():
    """What the terminal does; a shell's background job, in which the tests may run, would not heed it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


# Downloads


def test_files_are_fetched_once_in_their_order(site, get, tmp_path):
    site.routes = {"/a": plain(DATA), "/b": plain(OTHER), "/c": plain(b"")}
    sources = [
        Source((site.url("/a"),), "x/y/a.bin", sha256=SHA256.upper()),
        Source((site.url("/b"),), "b.bin"),
        Source((site.url("/c"),), "c.bin"),
    ]
    assert list(get(*sources)["state"]) == ["fetched"] * 3
    assert (tmp_path / "set/x/y/a.bin").read_bytes() == DATA and (tmp_path / "set/b.bin").read_bytes() == OTHER
    assert seen(tmp_path / "set") == ["b.bin", "c.bin", "x/y/a.bin"]
    assert all(headers["User-Agent"].startswith("keymyna-lib/") for _, headers in site.requests)
    table = get(*sources)
    assert list(table["state"]) == ["present"] * 3 and not table["problem"].any() and len(site.requests) == 3


def test_a_cut_download_goes_on_where_it_stopped(site, get, tmp_path, waits):
    site.routes["/a"] = ranged(DATA, first_cut=40_000)
    assert get(Source((site.url("/a"),), "a")).state == "fetched"
    assert (tmp_path / "set/a").read_bytes() == DATA and waits == [1.0] and seen(tmp_path / "set") == ["a"]
    first, second = site.asked("/a")
    assert first["Range"] is None and (second["Range"], second["If-Range"]) == ("bytes=40000-", '"one"')


def test_redirections_are_followed(site, get, tmp_path):
    site.routes = {
        "/old": lambda handler, count: handler.answer(302, b"", Location=site.url("/new", "localhost")),
        "/new": ranged(DATA, first_cut=40_000),
    }
    assert get(Source((site.url("/old"),), "a")).state == "fetched" and (tmp_path / "set/a").read_bytes() == DATA
    assert site.asked("/new")[1]["Range"] == "bytes=40000-"


def test_a_server_without_ranges_begins_anew(site, get, tmp_path):
    site.routes["/a"] = lambda handler, count: handler.answer(200, DATA, ETag='"x"', cut=999 if count == 1 else None)
    assert get(Source((site.url("/a"),), "a")).state == "fetched"
    assert site.asked("/a")[1]["Range"] == "bytes=999-" and (tmp_path / "set/a").read_bytes() == DATA


@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}])
def test_what_cannot_be_told_apart_is_not_resumed(site, get, tmp_path, headers):
    site.routes["/a"] = lambda handler, count: handler.answer(200, DATA, cut=999 if count == 1 else None, **headers)
    assert get(Source((site.url("/a"),), "a")).state == "fetched"
    assert site.asked("/a")[1]["Range"] is None and (tmp_path / "set/a").read_bytes() == DATA


@pytest.mark.parametrize("stamps", [("ETag", '"one"', '"two"'), ("Last-Modified", formatdate(0), formatdate(9))])
@pytest.mark.parametrize("heeds_if_range", [True, False])
def test_a_file_that_changed_in_between_is_not_glued_together(site, get, tmp_path, stamps, heeds_if_range):
    name, before, after = stamps

    def route(handler, count):
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
        if count == 1:
            handler.answer(200, DATA, cut=5_000, **{name: before})
        elif start and not heeds_if_range:
            handler.answer(206, OTHER[start:], Content_Range=f"bytes {start}-99999/100000", **{name: after})
        else:
            handler.answer(200, OTHER, **{name: after})

    site.routes["/a"] = route
    assert get(Source((site.url("/a"),), "a")).state == "fetched"
    assert site.asked("/a")[1]["If-Range"] == before and (tmp_path / "set/a").read_bytes() == OTHER


@pytest.mark.parametrize("content_range", ["bytes 4000-99999/100000", "bytes 5000-99999/200000", "nonsense", None])
def test_an_answer_that_does_not_join_the_part_is_not_used(site, get, tmp_path, content_range):
    def route(handler, count):
        if handler.headers.get("Range"):
            handler.answer(206, OTHER[5_000:], ETag='"one"', Content_Range=content_range)
        else:
            handler.answer(200, DATA, ETag='"one"', cut=5_000 if count == 1 else None)

    site.routes["/a"] = route
    assert get(Source((site.url("/a"),), "a")).state == "fetched" and (tmp_path / "set/a").read_bytes() == DATA
    assert len(site.requests) == 3


def test_a_file_that_became_shorter(site, get, tmp_path):
    def route(handler, count):
        if count == 1:
            handler.answer(200, DATA, ETag='"one"', cut=5_000)
        elif handler.headers.get("Range"):
            handler.answer(416, b"", Content_Range="bytes */100")
        else:
            handler.answer(200, DATA[:100], ETag='"two"')

    site.routes["/a"] = route
    assert get(Source((site.url("/a"),), "a")).state == "fetched" and (tmp_path / "set/a").read_bytes() == DATA[:100]


def test_a_part_belongs_to_its_url(site, get, tmp_path):
    """After a kill: the part is continued from where it came, and from nowhere else; without notes it is nothing."""
    site.routes = {"/a": ranged(DATA, first_cut=30_000), "/b": ranged(DATA)}
    source = Source((site.url("/a"),), "a")
    site.routes["/a"] = lambda handler, count: handler.answer(200, DATA, ETag='"one"', cut=20_000 + count)
    assert get(source).state == "failed"
    assert seen(tmp_path / "set") == ["a.part", "a.part.json"]
    parts = {name: (tmp_path / "set" / name).read_bytes() for name in ("a.part", "a.part.json")}
    assert parts["a.part"] == DATA[: 20_000 + module.TRIES]
    site.routes["/a"] = ranged(DATA)

    def restore(*names):
        (tmp_path / "set/a").unlink(missing_ok=True)
        site.requests.clear()
        for name in names:
            (tmp_path / "set" / name).write_bytes(parts[name])

    assert get(source).state == "fetched" and site.asked("/a")[-1]["Range"] == f"bytes={20_000 + module.TRIES}-"
    restore("a.part", "a.part.json")
    assert get(Source((site.url("/b"),), "a")).state == "fetched" and site.asked("/b")[0]["Range"] is None
    restore("a.part")
    assert get(source).state == "fetched" and site.asked("/a")[0]["Range"] is None
    restore("a.part", "a.part.json")
    (tmp_path / "set/a.part").write_bytes(DATA)  # killed after the last byte
    assert get(source).state == "fetched" and not site.requests and seen(tmp_path / "set") == ["a"]


@pytest.mark.parametrize("after, expected", [("7", 7.0), ("date", 60.0), ("soon", 1.0), (None, 1.0)])
def test_a_busy_server_is_asked_again_when_it_says(site, get, waits, after, expected):
    def route(handler, count):
        if count == 1:
            handler.answer(503, b"busy", Retry_After=formatdate(time.time() + 60) if after == "date" else after)
        else:
            handler.answer(200, DATA)

    site.routes["/a"] = route
    assert get(Source((site.url("/a"),), "a")).state == "fetched"
    assert waits == [pytest.approx(expected, abs=2 if after == "date" else 0)]


def test_tries_are_few_and_a_busy_host_is_left_alone(site, get, waits):
    site.routes["/a"] = lambda handler, count: handler.answer(429, b"")
    site.routes["/b"] = plain(DATA)
    sources = [
        Source((site.url("/a"),), "a"),
        Source((site.url("/b"),), "b"),
        Source((site.url("/b"), site.url("/b", "localhost")), "c"),
    ]
    table = get(*sources, workers=1)
    assert list(table["state"]) == ["failed", "failed", "fetched"] and waits == [1.0, 2.0, 4.0]
    assert len(site.asked("/a")) == module.TRIES and len(site.asked("/b")) == 1
    assert "HTTP 429" in table["problem"][0] and "not asked again" in table["problem"][1]


def test_a_server_that_asks_for_too_long_a_wait_is_left(site, get, waits):
    site.routes = {"/a": lambda handler, count: handler.answer(503, b"", Retry_After=3600), "/b": plain(DATA)}
    assert get(Source((site.url("/a"), site.url("/b", "localhost")), "a")).state == "fetched"
    assert not waits and len(site.asked("/a")) == 1


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_is_not_there_is_asked_for_once_and_stops_nothing(site, get, waits, tmp_path, status):
    site.routes = {"/none": lambda handler, count: handler.answer(status, b"no"), "/a": plain(DATA)}
    table = get(
        Source((site.url("/none"),), "none", size=7, md5=MD5),
        Source((site.url("/none"), site.url("/a")), "a"),
        workers=1,
    )
    assert list(table["state"]) == ["failed", "fetched"] and len(site.asked("/none")) == 2 and not waits
    problem = table["problem"][0]
    assert site.url("/none") in problem and f"HTTP {status}" in problem
    assert f"bring none (7 bytes, md5 {MD5}" in problem and str(tmp_path / "set/none") in problem


def test_a_server_that_is_not_there(get, waits):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        table = get(Source((url + "a",), "a"), Source((url + "b",), "b"), workers=1)
    assert list(table["state"]) == ["failed"] * 2 and waits == [1.0, 2.0, 4.0]
    assert "refused" in table["problem"][0] and "not asked again" in table["problem"][1]


@pytest.mark.parametrize("sums", [dict(md5=MD5), dict(sha256=SHA256), dict(size=len(DATA), md5=MD5, sha256=SHA256)])
def test_wrong_content_is_thrown_away_and_the_next_mirror_asked(site, get, tmp_path, sums):
    site.routes = {"/bad": plain(OTHER, ETag='"x"'), "/good": plain(DATA)}
    row = get(Source((site.url("/bad"),), "a", **sums))
    assert row.state == "failed" and "instead of" in row.problem and seen(tmp_path / "set") == []
    assert get(Source((site.url("/bad"), site.url("/good")), "a", **sums)).state == "fetched"
    assert (tmp_path / "set/a").read_bytes() == DATA and len(site.asked("/bad")) == 2


def test_a_file_of_another_length_is_not_even_begun(site, get, tmp_path):
    site.routes = {"/a": plain(DATA), "/endless": lambda handler, count: handler.answer(200, DATA, Content_Length=None)}
    row = get(Source((site.url("/a"),), "a", size=50_000))
    assert row.state == "failed" and "100000 bytes there instead of 50000" in row.problem
    row = get(Source((site.url("/endless"),), "a", size=50_000))
    assert row.state == "failed" and "more than 50000" in row.problem and seen(tmp_path / "set") == []


def test_without_any_length_only_a_checksum_can_tell(site, get, tmp_path):
    site.routes["/a"] = lambda handler, count: handler.answer(200, DATA, Content_Length=None)
    row = get(Source((site.url("/a"),), "a"))
    assert row.state == "failed" and "nothing says how long" in row.problem and seen(tmp_path / "set") == []
    assert get(Source((site.url("/a"),), "a", md5=MD5)).state == "fetched"


def test_a_body_in_chunks_that_is_cut_is_not_whole(site, get, tmp_path, waits):
    def route(handler, count):
        handler.protocol_version = "HTTP/1.1"
        handler.close_connection = True
        handler.answer(200, b"", Content_Length=None, Transfer_Encoding="chunked")
        for start in range(0, len(DATA) if count > 1 else 40_000, 20_000):
            handler.wfile.write(b"%x\r\n%s\r\n" % (20_000, DATA[start : start + 20_000]))
        if count > 1:
            handler.wfile.write(b"0\r\n\r\n")

    site.routes["/a"] = route
    assert get(Source((site.url("/a"),), "a")).state == "fetched"
    assert (tmp_path / "set/a").read_bytes() == DATA and waits == [1.0]


def test_a_length_that_is_said_only_of_the_rest(site, get, tmp_path):
    def route(handler, count):
        if count == 1:
            handler.protocol_version, handler.close_connection = "HTTP/1.1", True
            handler.answer(200, b"", Content_Length=None, Transfer_Encoding="chunked", ETag='"one"')
            handler.wfile.write(b"%x\r\n%s\r\n" % (40_000, DATA[:40_000]))
        else:
            start = int(handler.headers["Range"][6:-1])
            handler.answer(
                206,
                DATA[start:],
                cut=10_000 if count == 2 else None,
                ETag='"one"',
                Content_Range=f"bytes {start}-99999/100000",
            )

    site.routes["/a"] = route
    assert get(Source((site.url("/a"),), "a")).state == "fetched" and (tmp_path / "set/a").read_bytes() == DATA
    assert [headers["Range"] for headers in site.asked("/a")] == [None, "bytes=40000-", "bytes=50000-"]


def test_a_server_that_does_not_hang_up_is_not_waited_for(site, get, waits, monkeypatch):
    def route(handler, count):
        handler.answer(200, DATA, ETag='"one"')
        until(lambda: over)

    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    site.routes["/a"], over = route, False
    assert get(Source((site.url("/a"),), "a")).state == "fetched" and not waits
    over = True


@pytest.mark.parametrize("sums", [dict(size=len(DATA)), dict(md5=MD5), dict(sha256=SHA256)])
def test_a_partial_file_never_counts(site, get, tmp_path, sums):
    site.routes["/a"] = plain(DATA)
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a").write_bytes(DATA[:-1])
    source = Source((site.url("/a"),), "a", **sums)
    row = get(source, offline=True)
    assert row.state == "failed" and "instead of" in row.problem and site.url("/a") in row.problem
    assert (tmp_path / "set/a").read_bytes() == DATA[:-1] and not site.requests
    assert get(source).state == "fetched" and (tmp_path / "set/a").read_bytes() == DATA


def test_large_files_are_hashed_once(get, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_STAMPED", 1)
    path, hashed = tmp_path / "set/a", []
    path.parent.mkdir()
    path.write_bytes(DATA)
    monkeypatch.setattr(module, "md5_file", lambda path: hashed.append(path) or md5_file(path))
    source = Source(("http://127.0.0.1/a",), "a", md5=MD5)
    assert [get(source, offline=True).state for _ in range(3)] == ["present"] * 3 and len(hashed) == 1
    assert get(Source(source.urls, "a", md5="0" * 32), offline=True).state == "failed" and len(hashed) == 2
    path.write_bytes(OTHER)
    os.utime(path, ns=(0, 0))
    assert get(source, offline=True).state == "failed"


def test_offline_opens_no_socket(get, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was touched")

    for name in ("socket", "create_connection", "getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        monkeypatch.setattr(socket, name, refuse)
    disk = tmp_path / "a disk"
    (disk / "in here").mkdir(parents=True)
    (disk / "in here/a b#.bin").write_bytes(DATA)
    (disk / "wrong").write_bytes(OTHER)
    (disk / "c").write_bytes(OTHER)
    urls = ("http://example.org/x",)
    sources = [
        Source(urls, "in here/a b#.bin", md5=MD5),
        Source(urls, "wrong", md5=MD5),
        Source(urls, "none", sha256=SHA256),
        Source((*urls, (disk / "c").as_uri()), "cc"),
    ]
    table = get(*sources, offline=True, mirror=disk.as_uri() + "/")
    assert list(table["state"]) == ["fetched", "failed", "failed", "fetched"]
    assert (tmp_path / "set/in here/a b#.bin").read_bytes() == DATA and (tmp_path / "set/cc").read_bytes() == OTHER
    assert "md5" in table["problem"][1] and "No such file" in table["problem"][2]
    assert f"bring none (sha256 {SHA256}) from http://example.org/x to {tmp_path / 'set/none'}" in table["problem"][2]
    table = get(Source(urls, "none"), Source(urls, "cc"), offline=True, mirror="https://example.org")
    assert list(table["state"]) == ["failed", "present"]
    assert table["problem"][0].startswith("it is not there; bring none from http://example.org/x")


def test_the_mirror_comes_first(site, get, tmp_path):
    site.routes = {"/m/x/a": plain(DATA), "/a": plain(OTHER)}
    assert get(Source((site.url("/a"),), "x/a"), mirror=site.url("/m")).state == "fetched"
    assert (tmp_path / "set/x/a").read_bytes() == DATA and not site.asked("/a")


def test_connections_are_limited_in_all_and_to_a_host(site, get):
    now, most = {"127.0.0.1": 0, "localhost": 0}, {"127.0.0.1": 0, "localhost": 0, "all": 0}

    def route(handler, count):
        host = handler.headers["Host"].split(":")[0]
        with site.lock:
            now[host] += 1
            most[host], most["all"] = max(most[host], now[host]), max(most["all"], sum(now.values()))
        until(lambda: most["all"] >= wanted)
        time.sleep(0.05)
        with site.lock:
            now[host] -= 1
        handler.answer(200, DATA)

    site.routes, wanted = {f"/{i}": route for i in range(12)}, 3
    sources = [Source((site.url(f"/{i}", ("127.0.0.1", "localhost")[i % 2]),), str(i)) for i in range(12)]
    assert set(get(*sources, workers=3)["state"]) == {"fetched"}
    assert most["all"] == 3 and most["127.0.0.1"] <= 2 and most["localhost"] <= 2
    most["all"], wanted = 0, 2
    sources = [Source((site.url(f"/{i}"),), f"again {i}") for i in range(6)]
    assert set(get(*sources, workers=6)["state"]) == {"fetched"} and most["all"] == 2


def test_ctrl_c_leaves_the_part(site, get, tmp_path, ctrl_c):
    def route(handler, count):
        if handler.headers.get("Range"):
            return ranged(DATA)(handler, count)
        handler.answer(200, DATA, ETag='"one"', cut=30_000)
        until(lambda: part.exists() and part.stat().st_size)
        ctrl_c()
        for start in range(30_000, 100_000, 1_000):
            time.sleep(0.05)
            handler.wfile.write(DATA[start : start + 1_000])

    part = tmp_path / "set/a.part"
    site.routes = {"/a": route, "/b": plain(DATA)}
    sources = [Source((site.url("/a"),), "a"), Source((site.url("/b"),), "b")]
    with pytest.raises(KeyboardInterrupt):
        get(*sources, workers=1)
    assert seen(tmp_path / "set") == ["a.part", "a.part.json"] and not site.asked("/b")
    had = part.stat().st_size
    assert 0 < had < 100_000
    assert list(get(*sources)["state"]) == ["fetched"] * 2
    assert site.asked("/a")[1]["Range"] == f"bytes={had}-" and (tmp_path / "set/a").read_bytes() == DATA


def test_ctrl_c_ends_a_wait(site, get, ctrl_c):
    def route(handler, count):
        handler.answer(503, b"", Retry_After=100)
        threading.Timer(0.2, ctrl_c).start()

    site.routes["/a"] = route
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(Source((site.url("/a"),), "a"), sleep=None)
    assert time.monotonic() - start < 50


def test_two_processes_do_not_write_into_one_part(site, get, tmp_path):
    site.routes["/a"] = plain(DATA)
    (tmp_path / "set").mkdir()
    with open(tmp_path / "set/.fetch.lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(KeyMynaError, match="another process"):
            get(Source((site.url("/a"),), "a"))
    assert get(Source((site.url("/a"),), "a")).state == "fetched"


def test_troubles_of_this_machine_are_told(site, get, tmp_path, monkeypatch):
    site.routes = {"/a": plain(DATA), "/b": plain(b"small")}
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    table = get(
        Source((site.url("/a"),), "a"), Source((site.url("/b"),), "b"), Source((site.url("/b"),), "b/c"), workers=1
    )
    assert list(table["state"]) == ["failed", "fetched", "failed"] and "are free" in table["problem"][0]
    assert "cannot be written" in table["problem"][2] and len(site.asked("/a")) == 1


def test_the_bar_counts_bytes(site, tmp_path, capsys, monkeypatch):
    site.routes["/a"], bar, totals = ranged(DATA, first_cut=40_000), module.bar, set()

    def watched(*arguments, **options):
        shown = bar(*arguments, **options)
        if options["desc"] == "downloads":
            update = shown.update
            shown.update = lambda count: totals.add(shown.total) or update(count)
        return shown

    monkeypatch.setattr(module, "bar", watched)
    fetch([Source((site.url("/a"),), "a")], tmp_path, sleep=lambda seconds: None)
    last = capsys.readouterr().err.strip().split("\r")[-1]
    assert "100%" in last and "100k/100k" in last and "1 of 1 files" in last
    assert totals == {100_000}  # from the first byte on, and after the cut: the time that is left can be told


@pytest.mark.parametrize(
    "source, options, message",
    [
        (dict(path="../a"), {}, "path='../a'"),
        (dict(path="/etc/a"), {}, "path='/etc/a'"),
        (dict(path="a/../../b"), {}, "path"),
        (dict(path="..\\a"), {}, "path"),
        (dict(path="."), {}, "path"),
        (dict(urls=()), {}, "no urls"),
        (dict(urls=("ftp://host/a",)), {}, "ftp://host/a"),
        (dict(urls=("file://host/a",)), {}, "file://host/a"),
        (dict(urls=("http:///a",)), {}, "http:///a"),
        (dict(urls=("http://host/a b",)), {}, "quoted"),
        (dict(md5="abc"), {}, "md5='abc'"),
        (dict(sha256="z" * 64), {}, "sha256"),
        (dict(size=-1), {}, "size=-1"),
        (dict(path="a.rar", extract="x"), {}, "a.rar.*zip"),
        (dict(path="a.zip", extract="../x"), {}, "extract of a.zip"),
        ({}, dict(mirror="/a/disk"), "/a/disk"),
        ({}, dict(workers=0), "workers=0"),
    ],
)
def test_bad_input(get, tmp_path, source, options, message):
    with pytest.raises(KeyMynaError, match=message):
        get(Source(**dict(urls=("http://127.0.0.1/a",), path="a") | source), **options)
    assert not (tmp_path / "set").exists()


def test_two_sources_of_one_path(get):
    with pytest.raises(KeyMynaError, match="two sources"):
        get(Source(("http://127.0.0.1/a",), "x/a"), Source(("http://127.0.0.1/b",), "./x//a"))


def test_md5(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert md5_file(tmp_path / "a") == "900150983cd24fb0d6963f7d28e17f72"  # RFC 1321, A.5
    with pytest.raises(KeyMynaError, match="cannot read .*none"):
        md5_file(tmp_path / "none")


# Archives

FILES = {"top.txt": b"top", "in/side/a.bin": DATA, "in/empty": b""}


def zipped(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return path


def tarred(path, members, mode="w", **kinds):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in kinds.get(name, {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.name.endswith(".unpacked")
    }


ARCHIVES = {
    ".zip": lambda path, members: zipped(path, members, compression=zipfile.ZIP_DEFLATED),
    ".tar": tarred,
    ".tar.gz": lambda path, members: tarred(path, members, "w:gz"),
    ".tar.bz2": lambda path, members: tarred(path, members, "w:bz2"),
}


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_archives_are_unpacked_once(tmp_path, suffix, monkeypatch):
    archive, folder = ARCHIVES[suffix](tmp_path / f"x{suffix}", FILES), tmp_path / "out/here"
    extract(archive, folder, show=False)
    assert tree(folder) == FILES and stat.S_IMODE(folder.stat().st_mode) & 0o500 == 0o500
    assert sorted(os.listdir(tmp_path / "out")) == ["here"]
    (folder / "top.txt").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(module, "_unpack", lambda *_: pytest.fail("unpacked again"))
        extract(archive, folder, show=False)
    ARCHIVES[suffix](archive, {"new": b"n"})  # another archive of that name
    extract(archive, folder, show=False)
    assert tree(folder) == {name: FILES[name] for name in FILES if name != "top.txt"} | {"new": b"n"}


def test_names_as_other_systems_write_them(tmp_path):
    extract(zipped(tmp_path / "x.zip", {"dir\\": b"", "dir\\a": b"1", "b/": b""}), tmp_path / "z", show=False)
    extract(
        tarred(tmp_path / "x.tar", {"./": b"", "./dir/a": b"2"}, **{"./": {"type": tarfile.DIRTYPE}}),
        tmp_path / "t",
        show=False,
    )
    assert tree(tmp_path / "z") == {"dir/a": b"1"} and tree(tmp_path / "t") == {"dir/a": b"2"}


def zip_entry(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info


EVIL = {
    "zip, upwards": lambda p: zipped(p / "x.zip", {"good": b"g", "in/../../evil": b"e"}),
    "zip, upwards by backslash": lambda p: zipped(p / "x.zip", {"good": b"g", "..\\evil": b"e"}),
    "zip, absolute": lambda p: zipped(p / "x.zip", {"good": b"g", str(p / "evil"): b"e"}),
    "zip, link": lambda p: zipped(p / "x.zip", {"good": b"g", zip_entry("evil", stat.S_IFLNK | 0o777): b".."}),
    "zip, device": lambda p: zipped(p / "x.zip", {"good": b"g", zip_entry("evil", stat.S_IFCHR | 0o666): b""}),
    "tar, upwards": lambda p: tarred(p / "x.tar", {"good": b"g", "../evil": b"e"}),
    "tar, absolute": lambda p: tarred(p / "x.tar", {"good": b"g", str(p / "evil"): b"e"}),
    "tar, link": lambda p: tarred(
        p / "x.tar", {"good": b"g", "evil": b"", "evil/x": b"e"}, evil={"type": tarfile.SYMTYPE, "linkname": ".."}
    ),
    "tar, hard link": lambda p: tarred(
        p / "x.tar", {"good": b"g", "evil": b""}, evil={"type": tarfile.LNKTYPE, "linkname": "good"}
    ),
    "tar, device": lambda p: tarred(p / "x.tar", {"good": b"g", "evil": b""}, evil={"type": tarfile.CHRTYPE}),
    "tar, pipe": lambda p: tarred(p / "x.tar", {"good": b"g", "evil": b""}, evil={"type": tarfile.FIFOTYPE}),
}


@pytest.mark.parametrize("kind", EVIL)
def test_evil_members_are_refused_before_anything_is_written(tmp_path, kind):
    archive = EVIL[kind](tmp_path)
    with pytest.raises(KeyMynaError, match="(?s)x\\.(zip|tar) is not unpacked.*evil"):
        extract(archive, tmp_path / "deep/out", show=False)
    assert sorted(tree(tmp_path)) == [archive.name] and os.listdir(tmp_path / "deep") == []


def test_locked_archives_are_refused(tmp_path):
    data = bytearray(zipped(tmp_path / "x.zip", {"a": b"1"}).read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag of the central directory's entry
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(KeyMynaError, match="'a' needs a password"):
        extract(tmp_path / "x.zip", tmp_path / "out", show=False)


def test_an_interrupted_unpacking_does_not_count(tmp_path, monkeypatch):
    archive, folder = tarred(tmp_path / "x.tar", FILES), tmp_path / "out"

    def interrupt(self, info):
        if info.name == "in/empty":
            raise KeyboardInterrupt
        return extractfile(self, info)

    extractfile = tarfile.TarFile.extractfile
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extractfile", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(archive, folder, show=False)
    assert os.listdir(tmp_path) == ["x.tar"]
    killed = tmp_path / ".x.tar.unpacking/content"  # what a kill leaves
    killed.mkdir(parents=True)
    (killed / "half").write_bytes(b"h")
    extract(archive, folder, show=False)
    assert tree(folder) == FILES and sorted(os.listdir(tmp_path)) == ["out", "x.tar"]


def test_an_interrupted_move_does_not_count(tmp_path, monkeypatch):
    archive, folder = zipped(tmp_path / "x.zip", FILES), tmp_path / "out"
    folder.mkdir()

    def interrupt(source, target):
        if str(target).endswith("top.txt"):
            raise KeyboardInterrupt
        return replace(source, target)

    replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(archive, folder, show=False)
    assert "top.txt" not in tree(folder)
    extract(archive, folder, show=False)
    assert tree(folder) == FILES


def test_two_archives_share_a_folder_and_links_in_it_are_not_followed(tmp_path):
    folder = tmp_path / "out"
    extract(zipped(tmp_path / "x.zip", {"in/a": b"1", "same": b"x"}), folder, show=False)
    (folder / "mine").write_bytes(b"m")
    extract(tarred(tmp_path / "y.tar", {"in/b": b"2", "same": b"y"}), folder, show=False)
    assert tree(folder) == {"in/a": b"1", "in/b": b"2", "same": b"y", "mine": b"m"}
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyMynaError, match="link is a link"):
        extract(zipped(tmp_path / "z.zip", {"link/c": b"3"}), folder, show=False)
    assert os.listdir(tmp_path / "elsewhere") == [] and ".z.zip.unpacking" not in os.listdir(folder)


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.fixture
def tar_bytes(tmp_path):
    return tarred(tmp_path / "whole.tar", {"a": DATA, "b": OTHER}).read_bytes()


@pytest.mark.parametrize(
    "name, damage",
    [
        ("x.tar", lambda tar: tar[: 512 + 100_352]),  # cut between two members: tarfile itself is content with that
        ("x.tar", lambda tar: flip(tar, 512 + 100_352 + 10)),  # in the second header
        ("x.tar", lambda tar: tar[:150_000]),
        ("x.tar", lambda tar: b""),
        ("x.tar", lambda tar: b"no archive" * 99),
        ("x.tar.gz", lambda tar: gzip.compress(tar)[:-20]),
        ("x.tar.gz", lambda tar: flip(gzip.compress(tar), -6)),
        ("x.tar.gz", lambda tar: tar),
        ("x.tar.bz2", lambda tar: bz2.compress(tar)[:-20]),
        ("x.tar.bz2", lambda tar: flip(bz2.compress(tar), 5000)),
    ],
)
def test_damaged_tars(tmp_path, tar_bytes, name, damage):
    (tmp_path / name).write_bytes(damage(tar_bytes))
    with pytest.raises(KeyMynaError, match=f"{name} is damaged"):
        extract(tmp_path / name, tmp_path / "out", show=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-30], lambda data: flip(data, 5000), lambda data: b"PK"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zips(tmp_path, damage, compression):
    data = zipped(tmp_path / "x.zip", {"a": DATA}, compression=compression).read_bytes()
    (tmp_path / "x.zip").write_bytes(damage(data))
    with pytest.raises(KeyMynaError, match="x.zip is damaged"):
        extract(tmp_path / "x.zip", tmp_path / "out", show=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("suffix", ARCHIVES)
def test_more_than_the_disk_holds_is_refused(tmp_path, monkeypatch, suffix):
    archive = ARCHIVES[suffix](tmp_path / f"x{suffix}", {f"zeros {i}": bytes(600_000) for i in range(2)})
    usage = module.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1_199_999))
    with pytest.raises(KeyMynaError, match="0.0 GB are free"):
        extract(archive, tmp_path / "out", show=False)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=1_200_000))
    extract(archive, tmp_path / "out", show=False)
    assert len(tree(tmp_path / "out")) == 2


def test_fetched_archives_are_unpacked_in_their_folder(site, get, tmp_path):
    site.routes["/x.zip"] = plain(zipped(tmp_path / "x.zip", FILES).read_bytes())
    site.routes["/y.tar"] = plain(EVIL["tar, link"](tmp_path).read_bytes())
    zipped_url = (site.url("/x.zip"),)
    sources = [
        Source(zipped_url, "x.zip", extract="."),
        Source(zipped_url, "z.zip", extract="b/c"),
        Source((site.url("/y.tar"),), "y.tar", extract="y"),
        Source((site.url("/no"),), "n.zip", extract="n"),
    ]
    table = get(*sources)
    assert list(table["state"]) == ["fetched", "fetched", "failed", "failed"] and "evil" in table["problem"][2]
    for name, content in FILES.items():
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "set/b/c" / name).read_bytes() == content
    (tmp_path / "set/b/c/.z.zip.unpacked").unlink()
    (tmp_path / "set/b/c/top.txt").unlink()
    assert list(get(*sources, offline=True)["state"]) == ["present", "present", "failed", "failed"]
    assert (tmp_path / "set/b/c/top.txt").exists() and not (tmp_path / "set/y").exists()
