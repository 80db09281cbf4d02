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


def test_what_merely_shows_results_is_not_part_of_it(tmp_path, monkeypatch):
    (tmp_path / "keymyna_lib" / "report").mkdir(parents=True)
    shown, counted = tmp_path / "keymyna_lib" / "report" / "tables.py", tmp_path / "keymyna_lib" / "model.py"
    monkeypatch.setattr(paths, "LIBRARY", tmp_path / "keymyna_lib")
    hashes = []
    for path in (counted, shown, counted):
        path.write_text(f"x = {len(hashes)}")
        hashes.append(provenance.code_hash.__wrapped__())
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_notebook_without_the_runner_has_the_profiles_own_values(monkeypatch):
    monkeypatch.delenv(paths.SET_BY_HAND, raising=False)
    assert provenance.set_by_hand() == {}
    monkeypatch.setenv(paths.SET_BY_HAND, '{"10_pretrain": ["steps = 5"]}')
    assert provenance.set_by_hand() == {"10_pretrain": ["steps = 5"]}
