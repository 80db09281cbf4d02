"""Atomic writes and hashes."""

import errno
import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from keymyna_lib.base import files, hashing, seeds
from keymyna_lib.base.errors import KeyMynaError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value.json"
    files.write_json(path, {"a": 1})

    def fail():
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert files.read_json(path) == {"a": 1} and os.listdir(tmp_path) == ["value.json"]


def test_a_full_disk_is_one_clear_error(tmp_path):
    path = tmp_path / "value.txt"
    with pytest.raises(KeyMynaError, match="(?s)value.txt.*space"), files.atomic_path(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_files_get_the_permissions_that_the_umask_leaves(tmp_path):
    """Whatever happens in other threads, which share the umask: it is never set."""
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: files.write_text(tmp_path / str(i), "text"), range(100)))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(KeyMynaError, match="cut.json is damaged"):
        files.read_json(tmp_path / "cut.json")
    with pytest.raises(KeyMynaError, match="none.json does not exist"):
        files.read_json(tmp_path / "none.json")


@pytest.mark.parametrize("content", [b"", b"[1]", b"null", b"\xff\xfe{\x00", b"[" * 100_000, b'{"a": 1}}', None])
def test_what_is_no_json_object_is_one_error_that_asks_nobody_to_delete_it(tmp_path, content):
    path = tmp_path / "x.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(KeyMynaError, match=r"x\.json .*Get it again\.$") as caught:
        files.read_json(path, "Get it again.")
    assert "elete" not in str(caught.value)


def test_whatever_lies_there_is_discarded_and_nothing_behind_a_link(tmp_path):
    (tmp_path / "kept" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for name in ("folder", "file", "link", "absent"):
        files.discard(tmp_path / name)
    assert os.listdir(tmp_path) == ["kept"] and (tmp_path / "kept" / "sub").is_dir()


def test_hashes(tmp_path):
    (tmp_path / "x.py").write_bytes(b"content")
    assert hashing.sha256_file(tmp_path / "x.py") == hashlib.sha256(b"content").hexdigest()
    assert hashing.sha256_json({"b": 1, "a": [2]}) == hashing.sha256_json(json.loads('{"a": [2], "b": 1}'))
    before = hashing.source_hash(tmp_path)
    (tmp_path / "ignored.txt").write_text("not code")
    assert hashing.source_hash(tmp_path) == before
    (tmp_path / "x.py").write_bytes(b"changed")
    assert hashing.source_hash(tmp_path) != before


def test_the_hash_of_code_covers_what_a_module_imports_however_indirectly(tmp_path, monkeypatch):
    library = tmp_path / "keymyna_lib"
    monkeypatch.setattr(hashing.paths, "LIBRARY", library)
    sources = {
        "top": "import json\nfrom typing import TYPE_CHECKING\nfrom keymyna_lib import a\n"
        "from keymyna_lib.room.b import f\nfrom keymyna_lib.base.files import write_text\n"
        "if TYPE_CHECKING:\n    from keymyna_lib.types import T\n"
        "def g():\n    from keymyna_lib.lazy import h\n",
        "a": "from keymyna_lib import __version__, deep\n",
        "deep": "from keymyna_lib import top  # a circle\n",
        **dict.fromkeys(("__init__", "room/__init__", "room/b", "lazy", "types", "base/files", "other"), ""),
    }
    for name, text in sources.items():
        files.write_text(library / f"{name}.py", text)

    def code_hash():
        return hashing.code_hash_of.__wrapped__("keymyna_lib.top")

    before, counted = code_hash(), set()
    for name, text in sources.items():
        files.write_text(library / f"{name}.py", text + "x = 1\n")
        counted |= {name} if code_hash() != before else set()
        files.write_text(library / f"{name}.py", text)
    assert code_hash() == before
    assert counted == {"top", "a", "deep", "room/b", "lazy", "__init__"}  # neither types, plumbing nor what is unused


def test_code_is_written_alike_by_every_python(tmp_path):
    """ast.dump is not: since 3.12 functions and classes have a list of type parameters, and since 3.13 what is empty is
    left out. So the text is spelled out here, and holds whichever version runs this."""
    source = tmp_path / "a.py"
    source.write_text('def f(x, *, y=None):\n    "Words."\n    return f"{x!r}: {-1.5}"\n')
    returned = (
        "JoinedStr(values=[FormattedValue(value=Name(id='x', ctx=Load()), conversion=114), Constant(value=': '), "
        "FormattedValue(value=UnaryOp(op=USub(), operand=Constant(value=1.5)), conversion=-1)])"
    )
    arguments = "arguments(args=[arg(arg='x')], kwonlyargs=[arg(arg='y')], kw_defaults=[Constant()])"
    expected = f"Module(body=[FunctionDef(name='f', args={arguments}, body=[Return(value={returned})])])"
    assert hashing._code_of(source) == expected


def test_stable_words_never_change():
    """Seeds hang on these: the first 16 bytes of the name's SHA-256."""
    digest = hashlib.sha256(b"bwv1.6").digest()
    assert seeds.stable_words("bwv1.6") == [int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8, 12)]


def test_streams_are_those_of_their_seed_and_name():
    words = [7, *seeds.stable_words("a/1")]
    assert (seeds.numpy_stream(7, "a", 1).normal(size=9) == np.random.default_rng(words).normal(size=9)).all()
    first = {
        seeds.numpy_stream(*which).integers(2**63) for which in ((7, "a", 1), (7, "a", 2), (7, "b", 1), (8, "a", 1))
    }
    assert len(first) == 4
    draws = [torch.rand(9, generator=seeds.torch_stream(7, name)) for name in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_listing_notices_what_was_added_removed_or_replaced(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "sub/b.wav"):
        (tmp_path / name).write_bytes(b"1234")
    seen = [hashing.listing_hash(tmp_path), hashing.listing_hash(tmp_path / "a.wav")]
    assert seen == [hashing.listing_hash(tmp_path), hashing.listing_hash(tmp_path / "a.wav")]
    (tmp_path / "c.wav").write_bytes(b"")
    seen.append(hashing.listing_hash(tmp_path))
    (tmp_path / "c.wav").rename(tmp_path / "sub/c.wav")
    seen.append(hashing.listing_hash(tmp_path))
    (tmp_path / "a.wav").write_bytes(b"12345")
    seen.append(hashing.listing_hash(tmp_path))
    assert len(set(seen)) == 5


def test_a_listing_enters_links_once_and_reads_any_name(tmp_path):
    root, disk = tmp_path / "root", tmp_path / "disk"
    root.mkdir(), disk.mkdir()
    (root / "set").symlink_to(disk)
    (disk / "back").symlink_to(root)  # a loop
    seen = [hashing.listing_hash(root)]
    (disk / "a.wav").write_bytes(b"1234")
    seen.append(hashing.listing_hash(root))
    (root / os.fsdecode(b"\xff.wav")).write_bytes(b"")
    seen.append(hashing.listing_hash(root))
    assert len(set(seen)) == 3
    (disk / ".fetch.lock").write_bytes(b"")  # what a download leaves behind
    assert hashing.listing_hash(root) == seen[-1]
