"""Downloads from a server that misbehaves in every way it can."""

import fcntl
import hashlib
import io
import os
import signal
import socket
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import fetch as module
from keymyna_lib.corpus.recordings.fetch import Source, fetch, md5_file

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
def waits(monkeypatch):
    """Seconds that were to be waited, and are not."""
    waits = []
    monkeypatch.setattr(module._Downloads, "wait", lambda self, seconds: waits.append(seconds))
    return waits


@pytest.fixture
def get(tmp_path):
    """fetch into an empty folder, silently; the only source's row when there is one."""

    def get(*sources, **options):
        table = fetch(sources, tmp_path / "set", **dict(show=False) | options)
        assert list(table.columns) == ["path", "state", "problem"] and list(table["path"]) == [s.path for s in sources]
        return table.iloc[0] if len(sources) == 1 else table

    return get


def plain(body, **headers):
    return lambda handler, count: handler.answer(200, body, **headers)


def seen(folder):
    """Files that a user sees, and parts."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))


def until(happened):
    """Wait for what a thread is to do, but not for ever."""
    for _ in range(6000):
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


def test_redirections_are_followed(site, get, tmp_path):
    site.routes = {
        "/old": lambda handler, count: handler.answer(302, b"", Location=site.url("/new", "localhost")),
        "/new": plain(DATA),
    }
    assert get(Source((site.url("/old"),), "a")).state == "fetched" and (tmp_path / "set/a").read_bytes() == DATA
    assert site.asked("/new")[0]["User-Agent"].startswith("keymyna-lib/")


@pytest.mark.parametrize("after, expected", [("7", 7.0), ("soon", 1.0), (None, 1.0)])
def test_a_busy_server_is_asked_again_when_it_says(site, get, waits, after, expected):
    def route(handler, count):
        if count == 1:
            handler.answer(503, b"busy", Retry_After=after)
        else:
            handler.answer(200, DATA)

    site.routes["/a"] = route
    assert get(Source((site.url("/a"),), "a")).state == "fetched"
    assert waits == [expected]


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
    assert row.state == "failed" and "100000 bytes instead of 50000" in row.problem and seen(tmp_path / "set") == []


def test_without_any_length_only_a_checksum_can_tell(site, get, tmp_path):
    site.routes["/a"] = lambda handler, count: handler.answer(200, DATA, Content_Length=None)
    row = get(Source((site.url("/a"),), "a"))
    assert row.state == "failed" and "states no length" in row.problem and seen(tmp_path / "set") == []
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


def test_a_download_without_a_checksum_is_compared_with_the_first_one(site, get, tmp_path, capsys):
    site.routes["/a"] = plain(DATA)
    source, place = Source((site.url("/a"),), "sub/a"), tmp_path / "set/sub/a"
    assert get(source).state == "fetched"
    said = capsys.readouterr().out
    assert "no checksum of 1 file(s)" in said and f"sub/a (sha256 {SHA256})" in said and get(source).state == "present"
    place.write_bytes(OTHER)  # damaged since: the first one comes back
    assert get(source).state == "fetched" and place.read_bytes() == DATA and not capsys.readouterr().out
    place.unlink()
    site.routes["/a"] = plain(OTHER)
    row = get(source)
    assert (
        row.state == "failed" and not place.exists() and f"instead of {SHA256} as at the first download" in row.problem
    )
    record = tmp_path / "set/.first_downloads.json"
    assert f"remove {record} to accept another" in row.problem
    record.unlink()
    assert get(source).state == "fetched"
    assert place.read_bytes() == OTHER


def test_every_mirror_that_was_tried_says_why_it_failed(site, get, waits):
    site.routes["/b"] = lambda handler, count: handler.answer(503, b"")
    urls = (site.url("/none"), site.url("/b"), "http://127.0.0.1:9/c", "file:///not/here")
    row = get(Source(urls, "x"))
    for url, why in zip(urls, ("HTTP 404", "HTTP 503", "refused", "No such file")):
        assert url in row.problem and why in row.problem.split(url)[1].split("; http")[0].split("; file")[0]


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


def test_ctrl_c_leaves_nothing_half_written(site, get, tmp_path, ctrl_c):
    long, piece = 200 * DATA, 30_000

    def route(handler, count):
        handler.answer(200, long, cut=piece)
        if count == 1:
            until(lambda: any((tmp_path / "set").glob(".a.*.tmp")))
            ctrl_c()
        for start in range(piece, len(long), piece):
            time.sleep(0.05 * (count == 1))  # half a minute for all, however busy the machine
            handler.wfile.write(long[start : start + piece])

    site.routes = {"/a": route, "/b": plain(DATA)}
    sources = [Source((site.url("/a"),), "a"), Source((site.url("/b"),), "b")]
    with pytest.raises(KeyboardInterrupt):
        get(*sources, workers=1)
    assert os.listdir(tmp_path / "set") == [".fetch.lock"] and not site.asked("/b")
    (tmp_path / "set/.a.killed.tmp").write_bytes(b"half")
    assert list(get(*sources)["state"]) == ["fetched"] * 2 and (tmp_path / "set/a").read_bytes() == long
    assert sorted(os.listdir(tmp_path / "set")) == [".fetch.lock", ".first_downloads.json", "a", "b"]


def test_ctrl_c_ends_a_wait(site, get, ctrl_c):
    def route(handler, count):
        handler.answer(503, b"", Retry_After=100)
        threading.Timer(0.2, ctrl_c).start()

    site.routes["/a"] = route
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        get(Source((site.url("/a"),), "a"))
    assert time.monotonic() - start < 50


def test_two_processes_do_not_write_into_one_folder(site, get, tmp_path):
    site.routes["/a"] = plain(DATA)
    (tmp_path / "set").mkdir()
    with open(tmp_path / "set/.fetch.lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(KeyMynaError, match="another process"):
            get(Source((site.url("/a"),), "a"))
    assert get(Source((site.url("/a"),), "a")).state == "fetched"


def test_troubles_of_this_machine_are_told(site, get, tmp_path):
    site.routes = {"/b": plain(b"small")}
    table = get(Source((site.url("/b"),), "b"), Source((site.url("/b"), site.url("/b")), "b/c"), workers=1)
    assert list(table["state"]) == ["fetched", "failed"] and "cannot be written" in table["problem"][1]
    assert len(site.asked("/b")) == 1


def test_the_bar_counts_bytes(site, tmp_path, capsys, monkeypatch, waits):
    def route(handler, count):
        handler.answer(200, DATA, cut=40_000 if count == 1 else None)

    site.routes["/a"], bar, totals = route, module.bar, set()

    def watched(*arguments, **options):
        shown = bar(*arguments, **options)
        if options["desc"] == "downloads":
            update = shown.update
            shown.update = lambda count: totals.add(shown.total) or update(count)
        return shown

    monkeypatch.setattr(module, "bar", watched)
    fetch([Source((site.url("/a"),), "a")], tmp_path)
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


def zipped(members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return packed.getvalue()


def test_fetched_archives_are_unpacked_in_their_folder(site, get, tmp_path):
    members = {"top.txt": b"top", "in/side/a.bin": DATA}
    site.routes = {"/x.zip": plain(zipped(members)), "/y.zip": plain(zipped({"../evil": b"e"}))}
    url = (site.url("/x.zip"),)
    sources = [
        Source(url, "x.zip", extract="."),
        Source(url, "z.zip", extract="b/c"),
        Source((site.url("/y.zip"),), "y.zip", extract="y"),
        Source((site.url("/no"),), "n.zip", extract="n"),
    ]
    table = get(*sources)
    assert list(table["state"]) == ["fetched", "fetched", "failed", "failed"] and "evil" in table["problem"][2]
    for name, content in members.items():
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "set/b/c" / name).read_bytes() == content
    (tmp_path / "set/b/c/.z.zip.unpacked").unlink()
    (tmp_path / "set/b/c/top.txt").unlink()
    assert list(get(*sources, offline=True)["state"]) == ["present", "present", "failed", "failed"]
    assert (tmp_path / "set/b/c/top.txt").exists() and not (tmp_path / "set/y").exists()


def test_what_is_there_and_unpacked_is_not_written_to(site, get, tmp_path):
    site.routes["/x.zip"] = plain(zipped({"a": b"1"}))
    source = Source((site.url("/x.zip"),), "x.zip", extract="x")
    assert get(source).state == "fetched"
    with open(tmp_path / "set/.fetch.lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert get(source, offline=True).state == "present"
