"""Tasks in other processes give what they give in this one; what they share travels once."""

import functools
import os
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_info

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.processes import Processes, cores
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


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_with_their_tasks_indices(corpus, workers, ordered):
    tracks = ["t3", "t0", "t4", "t1"]
    results = list(mapped(level, corpus, tracks, workers, ordered=ordered))
    assert not ordered or [i for i, _ in results] == [0, 1, 2, 3]
    results = dict(results)
    assert [results[i][0] for i in range(4)] == tracks
    assert [round(results[i][1] * 32768) for i in range(4)] == pytest.approx([3, 0, 4, 1])


def opened_and_process(corpus, track_id):
    return id(corpus), os.getpid()


def test_a_worker_opens_the_corpus_once(corpus):
    results = [result for _, result in mapped(opened_and_process, corpus, ["t0"] * 12, 2)]
    assert len(set(results)) == len({process for _, process in results}) <= 2
    assert os.getpid() not in {process for _, process in results}


def wait_for(other, own):
    own.touch()
    while other and not other.exists():
        time.sleep(0.01)


def test_results_come_as_they_complete_or_in_order(tmp_path):
    for ordered, expected in ((False, [1, 0]), (True, [0, 1])):
        first, second, seen = (tmp_path / f"{name} {ordered}" for name in ("first", "second", "seen"))
        order = []
        for i, _ in Processes(2).map(
            wait_for, [(second if ordered else seen, first), (None, second)], desc="", ordered=ordered, show=False
        ):
            order.append(i)
            seen.touch()
        assert order == expected


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_worker_is_an_error_that_says_so():
    with pytest.raises(KeyMynaError, match="working: a worker process was killed.*fewer processes"):
        list(Processes(2).map(die, [(0,), (1,)], desc="working", show=False))


def mapped(function, corpus, tracks, workers, **options):
    tasks = [(track,) for track in tracks]
    return Processes(workers).map(functools.partial(function, corpus), tasks, desc="", show=False, **options)


def threads(corpus, track_id):
    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_task_has_one_thread(corpus, monkeypatch, workers):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = [counts for _, counts in mapped(threads, corpus, ["t0", "t1"], workers)]
    assert all(len(counts) > 1 and set(counts) == {1} for counts in found)


def test_an_error_in_a_worker_reaches_the_caller(corpus):
    with pytest.raises(KeyMynaError, match="no track 'absent'"):
        list(mapped(level, corpus, ["t0", "absent"], 2))


def test_number_of_processes():
    assert Processes(3).count(10) == 3 and Processes(8).count(2) == 2
    assert Processes().count(0) == 1 and Processes().count(1000) == min(cores(), 1000)
    with pytest.raises(KeyMynaError, match="workers=-1"):
        Processes(-1)


def test_one_thread_is_left_again_even_after_an_error():
    before = torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()]
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}
        raise RuntimeError
    assert before == (torch.get_num_threads(), [pool["num_threads"] for pool in threadpool_info()])
