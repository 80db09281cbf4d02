"""Work over tracks in other processes gives what it gives in this one, in order."""

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute import processes
from keymyna_lib.compute.threads import one_thread
from keymyna_lib.corpus import corpus as storage
from keymyna_lib.corpus import store


@pytest.fixture
def corpus(tmp_path):
    """Five tracks of constant samples, written as `build_corpus` leaves them."""
    n_samples = 512 * np.arange(3, 8)
    manifest = pd.DataFrame(
        {"n_samples": n_samples, "n_frames": 1 + n_samples // 512},
        index=pd.Index([f"t{i}" for i in range(5)], name="track_id"),
    )
    manifest = manifest.reindex(columns=storage.COLUMNS, fill_value="")
    shard = store.shard_folder(tmp_path, 0)
    shard.mkdir()
    np.repeat(np.arange(5), n_samples).astype(np.int16).tofile(shard / store.AUDIO)
    np.zeros((manifest["n_frames"].sum(), 128), np.float16).tofile(shard / store.FRAMES)
    storage.finish(tmp_path, {}, {}, manifest, store.offsets(manifest))
    return storage.open_corpus(tmp_path)


def level(corpus, track_id):
    return track_id, float(corpus.audio(track_id).max())


@pytest.mark.parametrize("workers", [1, 2])
def test_order_and_results(corpus, workers):
    tracks = ["t3", "t0", "t4", "t1"]
    results = list(processes.over_tracks(level, corpus, tracks, desc="", workers=workers, progress=False))
    assert [track for track, _ in results] == tracks
    assert [round(value * 32768) for _, value in results] == pytest.approx([3, 0, 4, 1])


def threads(corpus, track_id):
    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]


def test_a_worker_has_one_thread(corpus, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = list(processes.over_tracks(threads, corpus, ["t0", "t1"], desc="", workers=2, progress=False))
    assert all(len(counts) > 1 and set(counts) == {1} for counts in found)


def test_an_error_in_a_worker_reaches_the_caller(corpus):
    with pytest.raises(KeyMynaError, match="no track 'absent'"):
        list(processes.over_tracks(level, corpus, ["t0", "absent"], desc="", workers=2, progress=False))


def test_worker_count():
    assert processes.worker_count(3, 10) == 3 and processes.worker_count(8, 2) == 2
    assert processes.worker_count(0, 0) == 1 and processes.worker_count(0, 1000) >= 1
    with pytest.raises(KeyMynaError, match="workers=-1"):
        processes.worker_count(-1, 5)


def test_one_thread_is_left_again_even_after_an_error():
    before = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        raise RuntimeError
    assert before == (torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()])
