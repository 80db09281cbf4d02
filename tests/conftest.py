"""Fixtures that several modules of tests share; the scores are parsed once, then cached as in a normal run."""

import multiprocessing
from multiprocessing import forkserver

import filelock
import hypothesis
import matplotlib
import pytest

from keymyna_lib.base import paths
from keymyna_lib.corpus import splits
from keymyna_lib.corpus.rendered import compositions
from keymyna_lib.corpus.rendered.scores import load_scores
from keymyna_lib.report import provenance

# The same examples in every run, however busy the machine.
hypothesis.settings.register_profile("steady", deadline=None, derandomize=True)
hypothesis.settings.load_profile("steady")


def pytest_collection_modifyitems(items):
    """The files that run notebooks first: each takes minutes, and a worker of its own."""
    items.sort(key=lambda item: not item.path.name.startswith("test_notebooks"))


@pytest.fixture(autouse=True)
def settings_of_figures():
    """No test leaves its style to the next: which one runs next depends on the number of workers."""
    with matplotlib.rc_context():
        yield


@pytest.fixture(scope="session")
def scores():
    """Parsed by the worker that needs them first, while the others wait for what it writes."""
    paths.CACHE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(paths.CACHE / "scores.lock"):
        return load_scores()


@pytest.fixture(scope="session")
def pieces(scores):
    """The table of all kept pieces with their composition and split."""
    table = scores.table.assign(composition=compositions.composition_ids(scores))
    return table.assign(split=splits.assign_splits(table, seed=0))


@pytest.fixture(scope="module")
def known_compositions(pieces):
    """Found once, not for each plan of a small corpus: they are sought among all pieces, most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compositions, "composition_ids", lambda scores: pieces["composition"])
        yield


@pytest.fixture(scope="session")
def fork_server():
    """What the processes of a test need is imported once, in the one that they are forked from."""
    needed = "distributed librosa.effects torch._dynamo keymyna_lib.experiments.upstream keymyna_lib.run.torchrun"
    multiprocessing.get_context("forkserver").set_forkserver_preload(needed.split())
    forkserver.ensure_running()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty clone to write runs into, its code and notebooks of a fixed hash."""
    monkeypatch.delenv(paths.SET_BY_HAND, raising=False)
    for name, value in (("ROOT", tmp_path), ("CACHE", tmp_path / ".cache")):
        monkeypatch.setattr(paths, name, value)
    monkeypatch.setattr(provenance, "code_hash", lambda: "code")
    monkeypatch.setattr(provenance, "notebook_hash", lambda notebook: f"source of {notebook}")
    provenance.environment.cache_clear()
    yield tmp_path
    provenance.environment.cache_clear()
