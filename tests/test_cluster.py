"""Work on a cluster of two processes gives what it gives on this machine, even if one of them is killed."""

import functools
import itertools
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pandas as pd
import pytest
import tones
import torch
from distributed import Future

from keymyna_lib import features
from keymyna_lib.base import files, hashing, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute import cluster
from keymyna_lib.compute.processes import Processes
from keymyna_lib.compute.threads import one_thread
from keymyna_lib.corpus import store
from keymyna_lib.corpus.recordings import decode
from keymyna_lib.corpus.recordings.build import build_recordings
from keymyna_lib.encoders.huggingface import extract_audio
from keymyna_lib.experiments.head_study import HeadStudy, sweep
from keymyna_lib.features import CHROMA, MEAN_MEL
from keymyna_lib.heads import HeadSpec
from keymyna_lib.model import EncoderConfig, build_encoder


@pytest.fixture(scope="module")
def client(fork_server):
    # Instead of "spawn", by which each worker, and who follows a killed one, imports everything.
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}), cluster.connect("local:2") as it:
        yield it


def product(a, b):
    if b == 0:
        raise KeyMynaError("b=0: expected another number.")
    return a * b


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def test_no_scheduler_is_this_machine():
    with cluster.connect("") as client:
        assert client == Processes() and client.here


@pytest.mark.parametrize(
    "where, problem",
    [
        ("local:0", "scheduler 'local:0': expected"),
        ("local:two", "scheduler 'local:two': expected"),
        ("localhost", "scheduler 'localhost': expected"),
        ("slurm:", "scheduler 'slurm:': expected"),
        ("tcp://127.0.0.1:port", "does not answer"),
        ("tcp://", "'tcp://' does not answer"),
        ("tcp://127.0.0.1:1", "'tcp://127.0.0.1:1' does not answer"),
    ],
)
def test_bad_addresses(where, problem):
    with pytest.raises(KeyMynaError, match=problem), cluster.connect(where):
        pass


def test_slurm_jobs_are_those_of_the_file(client, monkeypatch, tmp_path):
    asked = {}

    class SLURMCluster:
        def __init__(self, cores):
            asked["cores"] = cores

        def scale(self, jobs):
            asked["jobs"] = jobs

        scheduler_address = client.client.scheduler.address
        __enter__, __exit__ = lambda self: self.scheduler_address, lambda *_: asked.update(ended=True)

    path = tmp_path / "slurm.json"
    monkeypatch.setitem(sys.modules, "dask_jobqueue", SimpleNamespace(SLURMCluster=SLURMCluster))
    files.write_json(path, {"jobs": 3, "cores": 8})
    monkeypatch.setattr(cluster.shutil, "which", {"sbatch": None}.get)
    with pytest.raises(KeyMynaError, match="no sbatch"), cluster.connect(f"slurm:{path}"):
        pass
    monkeypatch.setattr(cluster.shutil, "which", {"sbatch": "/usr/bin/sbatch"}.get)
    with cluster.connect(f"slurm:{path}") as connected:
        assert list(connected.map(product, [(2, 3)], desc="", show=False)) == [(0, 6)]
        assert asked == {"jobs": 3, "cores": 8}
    assert asked["ended"]
    for content, problem in (
        ({"cores": 8}, '"jobs"'),
        ({"jobs": 0}, '"jobs"'),
        ([3], "expected a JSON object"),
        ({"jobs": 1, "core": 1}, "SLURMCluster does not take.*core"),
    ):
        files.write_json(path, content)
        with pytest.raises(KeyMynaError, match=f"slurm.json.*{problem}"), cluster.connect(f"slurm:{path}"):
            pass
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(KeyMynaError, match="pip install.*dask-jobqueue"), cluster.connect(f"slurm:{path}"):
        pass


def test_results_come_with_their_tasks_indices(client):
    tasks, expected = [(i, 7) for i in range(20)], {i: 7 * i for i in range(20)}
    assert dict(client.map(product, tasks, desc="", show=False)) == expected
    assert list(client.map(product, tasks, desc="", ordered=True, show=False)) == list(expected.items())


class Opened:
    """What writes into a log where it is unpickled."""

    def __init__(self, log):
        self.log = log

    def __reduce__(self):
        return opened, (self.log,)


def opened(log):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    return Opened(log)


def use(shared, number):
    return number


def test_what_tasks_share_is_opened_once_by_each_worker_and_nowhere_else(client, tmp_path):
    work = functools.partial(use, Opened(tmp_path / "log"))
    assert dict(client.map(work, [(i,) for i in range(20)], desc="", show=False)) == {i: i for i in range(20)}
    where = (tmp_path / "log").read_text().split()
    assert len(where) == len(set(where)) <= 2 and str(os.getpid()) not in where


def test_what_a_task_raises_is_raised(client):
    with pytest.raises(KeyMynaError, match="b=0"):
        list(client.map(product, [(1, 2), (1, 0)], desc="", show=False))


def test_a_task_that_kills_its_workers_is_given_up(client, monkeypatch):
    monkeypatch.setattr(client.client.cluster.scheduler, "allowed_failures", 0)
    with pytest.raises(KeyMynaError, match="working: .* killed 1 times"):
        list(client.map(die, [()], desc="working", show=False))


def wait_while(there):
    until = time.monotonic() + 600
    while there.exists() and time.monotonic() < until:
        time.sleep(0.01)


def test_lost_tasks_are_an_error_and_not_waited_for(client, tmp_path):
    hold = tmp_path / "hold"
    hold.touch()
    results = client.map(wait_while, [(tmp_path / "nothing",), *[(hold,)] * 5], desc="working", show=False)
    next(results)
    client.client.cancel([Future(key, client.client) for key in client.client.futures])
    with pytest.raises(KeyMynaError, match="working: the scheduler is gone"):
        list(results)
    hold.unlink()


def noise(number, n_samples, log, gone):
    """Samples of a track; writes its number and this process's into a log first, fails while a file is there, and waits
    while there is one that names it."""
    with open(log, "a") as file:
        file.write(f"{number} {os.getpid()}\n")
    held = Path(log).with_name(f"hold {number}")
    while held.exists():
        time.sleep(0.01)
    if number == 5:
        raise store.BadTrack("it is broken")
    if number == 8 and Path(gone).exists():
        raise KeyMynaError("track 8 cannot be read.")
    return np.random.default_rng(number).integers(-9999, 9999, n_samples).astype(np.int16)


def at_work(dask_worker):
    """Tasks that a worker does or is about to do."""
    return len(dask_worker.state.executing) + len(dask_worker.state.ready)


class Filling:
    """Twelve tracks in four shards, filled into a folder; and what was made, track by track."""

    def __init__(self, folder, client=None):
        client = client or Processes(1)
        self.folder, self.client, self.log, self.gone = folder / "corpus", client, folder / "log", folder / "gone"
        lengths = 3000 + 300 * np.arange(12)
        places = pd.DataFrame(
            {"n_samples": lengths, "n_frames": 1 + lengths // 512},
            index=pd.Index([f"t{i}" for i in range(12)], name="track_id"),
        )
        self.places = store.offsets(places)

    def fill(self):
        return store.fill(
            self.folder,
            self.places,
            noise,
            self.arguments,
            self.folder / "finished",
            doing="working",
            progress=False,
            client=self.client,
        )

    def arguments(self, track_id):
        return int(track_id[1:]), int(self.places.n_samples[track_id]), str(self.log), str(self.gone)

    def made(self):
        """Track -> how many times it was begun."""
        return Counter(int(line.split()[0]) for line in self.lines())

    def lines(self):
        return self.log.read_text().splitlines() if self.log.exists() else []

    def contents(self):
        return {path.relative_to(self.folder): path.read_bytes() for path in self.folder.glob("*/*.?16")}

    def settle(self):
        """Wait until no worker makes anything any more; what was made."""
        while any(self.client.client.run(at_work).values()):
            time.sleep(0.05)
        return self.made()


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """What is to come out, filled in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD", 3)
        filling = Filling(tmp_path_factory.mktemp("serial"))
        result = filling.fill()
        assert result[1] == {"t5": "it is broken"} and len(result[0]) == 11 and len(filling.contents()) == 8
        yield filling, result


def test_a_worker_killed_amid_its_shard_costs_one_track(serial, client, tmp_path):
    filling, hold = Filling(tmp_path, client), tmp_path / "hold 7"  # the second of its shard
    hold.touch()

    def kill():
        while 7 not in filling.made():
            time.sleep(0.01)
        (pid,) = (int(line.split()[1]) for line in filling.lines() if line.startswith("7 "))
        os.kill(pid, signal.SIGKILL)
        hold.unlink()

    killer = threading.Thread(target=kill, daemon=True)  # it would wait forever for what a failed run does not log
    killer.start()
    result = filling.fill()
    killer.join()
    assert result == serial[1] and filling.contents() == serial[0].contents()
    assert filling.made() == Counter([*range(12), 7])
    filling.log.unlink()
    assert filling.fill() == serial[1] and not filling.made()


def test_a_failed_run_goes_on_when_started_again(serial, client, tmp_path):
    filling = Filling(tmp_path, client)
    filling.gone.touch()
    with pytest.raises(KeyMynaError, match="track 8 cannot be read"):
        filling.fill()
    before = filling.settle()
    filling.gone.unlink()
    assert filling.fill() == serial[1] and filling.contents() == serial[0].contents()
    assert filling.made() == before | Counter(range(12)) + Counter([8])


def test_damage_is_mended_on_a_cluster(serial, client, tmp_path, capsys):
    filling = Filling(tmp_path, client)
    filling.fill()
    filling.log.unlink()
    path = store.shard_folder(filling.folder, 2) / store.FRAMES
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 255]))
    assert filling.fill() == serial[1] and filling.contents() == serial[0].contents()
    assert filling.made() == {8: 1} and "1 damaged track" in capsys.readouterr().out


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Twenty tones of 0.6 s, of which the fourth cannot be read: folder, and their table."""
    folder, rows = tmp_path_factory.mktemp("recordings"), {}
    for key in range(20):
        path = folder / f"{key}.wav"
        tones.write(path, key, 0.6, 16000, 1)
        rows[f"t{key:02d}"] = {
            "file": str(path),
            "n_samples": decode.audio_length(path),
            "source": "tones",
            "task": "tones",
            "split": ("train", "valid")[key % 2],
            "composition": str(key),
            "key": key,
            "label": "",
            "artist": "",
            "title": "",
            "drawn": False,
            "content": hashing.sha256_file(path),
        }
    (folder / "3.wav").write_bytes(b"nothing")
    return folder, pd.DataFrame.from_dict(rows, orient="index").rename_axis("track_id")


@pytest.fixture(scope="module")
def corpus(recordings):
    """What this process makes of them, in shards of eight."""
    folder, tracks = recordings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD", 8)
        corpus, problems = build_recordings(tracks, seconds=0, cache=folder, progress=False, client=Processes(1))
    assert problems["track_id"].tolist() == ["t03"]
    return corpus


def test_recordings_are_the_same_from_a_cluster(client, corpus, recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD", 8)
    other, problems = build_recordings(recordings[1], seconds=0, cache=tmp_path, progress=False, client=client)
    assert other.hash == corpus.hash and problems["track_id"].tolist() == ["t03"]
    found = {path.relative_to(corpus.path) for path in corpus.path.rglob("*.*")}
    assert len(found) == 3 + 3 * 3 + 1 and found == {path.relative_to(other.path) for path in other.path.rglob("*.*")}
    for name in found:
        assert (corpus.path / name).read_bytes() == (other.path / name).read_bytes()


class Ear:
    """A frozen encoder that says how loud a window is."""

    name, sample_rate, dim, identity = "ear", 16000, 1, "ear"

    def embed_audio(self, audio):
        return audio.square().mean(dim=1, keepdim=True)


@pytest.mark.parametrize("name", ["toy", MEAN_MEL, CHROMA, "ear"])
def test_features_are_the_same_from_a_cluster(client, corpus, tmp_path, monkeypatch, name):
    monkeypatch.setitem(features.in_parts.__kwdefaults__, "size", 16)  # two parts, of chroma three
    encoder = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch.Generator().manual_seed(0)).eval()
    made = []
    for folder, on in (("serial", Processes(1)), ("cluster", client)):
        monkeypatch.setattr(paths, "CACHE", tmp_path / folder)
        with one_thread():
            made.append(
                extract_audio(corpus, Ear(), show=False, client=on)
                if name == "ear"
                else features.extract(corpus, name, encoder if name == "toy" else None, show=False, client=on)
            )
    assert made[0].track_ids == made[1].track_ids == tuple(corpus.tracks()) and len(made[0].x) == 19
    for part in ("x", "track", "shift"):
        assert torch.equal(getattr(made[0], part), getattr(made[1], part))
    one, other = (list((tmp_path / folder).rglob("*.safetensors")) for folder in ("serial", "cluster"))
    assert len(one) == 1 and [path.parts[-2:] for path in one] == [path.parts[-2:] for path in other]  # no part is left


def lengths(corpus, track_ids, *, log, gone, show):
    """Features of a part, which fail for a track while a file is there; writes the part's first track into a log."""
    with open(log, "a") as file:
        file.write(track_ids[0] + "\n")
    if "t18" in track_ids and gone.exists():
        raise KeyMynaError("t18 cannot be read.")
    return features.of_tracks([torch.tensor([[float(len(corpus.audio(track)))]]) for track in track_ids], track_ids)


def test_parts_that_are_there_are_not_computed_again(client, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    log, gone = tmp_path / "log", tmp_path / "gone"
    gone.touch()
    work = functools.partial(lengths, log=log, gone=gone)
    arguments = (client, work, corpus, corpus.tracks(), "identity")
    with pytest.raises(KeyMynaError, match="t18"):
        features.in_parts(*arguments, desc="", show=False, size=7)
    until = time.monotonic() + 600
    while len(kept := list(tmp_path.rglob("part-*.safetensors"))) < 2:
        assert time.monotonic() < until, "the other parts were not finished"
        time.sleep(0.01)
    gone.unlink()
    kept[0].write_bytes(b"damaged")
    joined = features.in_parts(*arguments, desc="", show=False, size=7)
    assert joined.x[:, 0].tolist() == corpus.manifest["n_samples"].tolist()
    assert sorted(Counter(log.read_text().split()).values()) == [1, 2, 2]


def test_heads_are_the_same_from_a_cluster(client, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    sets = {MEAN_MEL: features.extract(corpus, MEAN_MEL, show=False)}
    grid = [HeadSpec(lr=lr) for lr in (1e-4, 1e-2)]
    studies = [
        HeadStudy(MEAN_MEL, "linear probe", 0, (0,), max_steps=steps, eval_every=10, patience=2, seed=seed)
        for seed, steps in ((0, 100), (1, 10), (2, 10))
    ]
    with one_thread():
        here = list(sweep(studies, grid, sets, corpus, show=False))
    written = []
    for _ in range(2):  # the second time nothing is trained
        there = list(sweep(studies, grid, sets, corpus, client=client, show=False))
        assert [[head.valid_curve for head in heads] for heads in there] == [
            [head.valid_curve for head in heads] for heads in here
        ]
        for one, other in zip(itertools.chain(*here), itertools.chain(*there)):
            assert one.spec == other.spec and one.best_step == other.best_step
            assert all(torch.equal(one.parameters[name], other.parameters[name]) for name in one.parameters)
        written.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("head-*")})
    assert written[0] == written[1] and len(written[0]) == 6
