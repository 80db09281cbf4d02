"""The code hash follows what the numbers may depend on, and nothing else."""

from keymyna_lib.base import paths
from keymyna_lib.report import provenance


def test_code_hash_follows_the_code(tmp_path, monkeypatch):
    (tmp_path / "keymyna_lib").mkdir()
    source = tmp_path / "keymyna_lib" / "a.py"
    monkeypatch.setattr(paths, "LIBRARY", tmp_path / "keymyna_lib")
    hashes = set()
    for text in ("x = 1", "x = 2"):
        source.write_text(text)
        hashes.add(provenance.code_hash.__wrapped__())
    assert len(hashes) == 2
