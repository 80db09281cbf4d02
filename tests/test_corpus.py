from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from corpora import small_corpus

from keymyna_lib import keys, spectrogram
from keymyna_lib.base import hashing
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus import store
from keymyna_lib.corpus.corpus import COLUMNS, open_corpus
from keymyna_lib.corpus.rendered import build
from keymyna_lib.corpus.rendered.build import CorpusConfig, build_corpus, plan_corpus
from keymyna_lib.corpus.rendered.scores import load_scores
from keymyna_lib.corpus.sound import render
from keymyna_lib.corpus.splits import SPLITS
from keymyna_lib.pretrain import CropSampler

CONFIG = small_corpus()

pytestmark = pytest.mark.usefixtures("known_compositions")


def make(cache: Path, config: CorpusConfig = CONFIG, **options):
    return build_corpus(config, progress=False, cache=cache, **options)


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Twelve tracks in three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD", 5)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return make(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def copy(built, tmp_path):
    """A copy to damage: (cache, folder)."""
    folder = tmp_path / "corpus" / built.path.name
    shutil.copytree(built.path, folder)
    return tmp_path, folder


def flip(path: Path, position: int) -> None:
    with open(path, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0xFF]))


def test_manifest(built):
    table = built.manifest
    assert table.index.name == "track_id" and tuple(table.columns) == (*COLUMNS, "task")
    assert table.index.is_unique and len(table) == 12
    assert table.source.value_counts().to_dict() == {"tune": 8, "chorale": 4}
    assert set(table.split) <= set(SPLITS) and "train" in set(table.split)
    moved = [keys.transpose(k, t) for k, t in zip(table.key_written, table.transposition)]
    np.testing.assert_array_equal(table.key, moved)
    assert table.key_name.tolist() == [keys.KEY_NAMES[k] for k in table.key]
    assert table.transposition.between(-6, 5).all() and (table.duration <= 7).all()
    assert CorpusConfig(**built.config) == CONFIG and built.hash == hashing.sha256_file(built.path / "manifest.csv")
    assert (built.path / "manifest.csv").read_text().splitlines()[0] == ",".join(["track_id", *COLUMNS])
    assert all(json.loads(a)["transposition"] == t for a, t in zip(table.arrangement, table.transposition))


def test_tracks(built):
    assert built.tracks() == built.manifest.index.tolist()
    by_split = [t for s in SPLITS for t in built.tracks(s)]
    assert sorted(by_split) == sorted(built.tracks())
    assert set(built.tracks("train", "tune")) == set(built.tracks("train")) & set(built.tracks(source="tune"))
    assert built.tracks("pretrain") == built.tracks("extra") == []
    with pytest.raises(KeyMynaError, match="split"):
        built.tracks("training")
    with pytest.raises(KeyMynaError, match="source 'tunes'.*chorale"):
        built.tracks(source="tunes")
    with pytest.raises(KeyMynaError, match="no track"):
        built.audio("nothing")


def test_a_rendered_corpus_is_one_task(built):
    assert built.tasks() == ["rendered"] and built.of_task("rendered") is built
    with pytest.raises(KeyMynaError, match="task 'giantsteps'.*rendered"):
        built.of_task("giantsteps")


def test_audio_and_spectrograms_belong_together(built):
    scores = load_scores()
    for track in built.tracks():
        row, audio, stored = built.manifest.loc[track], built.audio(track), built.spectrogram(track)
        assert audio.dtype == np.float32 and len(audio) == row.n_samples
        assert np.abs(audio).max() == pytest.approx(render.PEAK, abs=1e-3)
        notes = build.playable_score(scores, row.piece_id).notes
        samples = render.render(notes, json.loads(row.arrangement))
        np.testing.assert_array_equal(audio, store.to_float(samples))
        assert hashing.sha256_bytes(samples.data) == row.sha256
        assert stored.dtype == np.float16 and stored.shape == (row.n_frames, spectrogram.N_MELS)
        assert hashing.sha256_bytes(np.ascontiguousarray(stored).data) == row.spectrogram_sha256
        power = spectrogram.mel_power(audio)[0].numpy().T
        np.testing.assert_allclose(stored.astype(np.float32), np.log1p(power), rtol=1e-3, atol=1e-5)
    for shard in range(3):
        frames = built.manifest.n_frames[5 * shard : 5 * shard + 5].sum()
        assert built.frames[shard].shape == (frames, spectrogram.N_MELS)


def contents(corpus, name):
    """A file's bytes, shard after shard."""
    return b"".join(path.read_bytes() for path in sorted(corpus.path.glob(f"*/{name}")))


def test_neither_processes_nor_the_size_of_shards_matter(built, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHARD", 1024)
    whole = make(tmp_path, client=Processes(1))
    assert whole.hash == built.hash and whole.offsets.shard.eq(0).all() and built.offsets.shard.max() == 2
    for name in ("audio.i16", "spectrograms.f16"):
        assert contents(whole, name) == contents(built, name)
    for track in built.tracks():
        np.testing.assert_array_equal(built.audio(track), whole.audio(track))
        np.testing.assert_array_equal(built.spectrogram(track), whole.spectrogram(track))
    one, other = (
        CropSampler(corpus, built.tracks(), 150).batch(torch.arange(12), 2, torch.Generator().manual_seed(0))
        for corpus in (built, whole)
    )
    assert torch.equal(one.crops, other.crops) and one.crops.count_nonzero() > one.crops.numel() / 2


def test_maps_are_opened_when_read_and_keep_no_file_open(built):
    def mapped():
        return Path("/proc/self/maps").read_text().count(str(built.path))

    built.close()
    open_files = len(os.listdir("/proc/self/fd"))
    first, last = (built.spectrogram(built.tracks()[i]) for i in (0, -1))
    assert mapped() == 2 and len(os.listdir("/proc/self/fd")) == open_files
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1
    del first, last
    built.close()
    assert mapped() == 0 and built.spectrogram(built.tracks()[0]).any()


def test_a_second_build_renders_nothing(copy, built, monkeypatch, capsys):
    monkeypatch.setattr(Processes, "map", None)
    assert make(copy[0]).hash == built.hash
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["shard-00001/audio.i16", "shard-00001/spectrograms.f16"])
def test_damaged_track_alone_is_rendered_again(copy, built, monkeypatch, capsys, name):
    cache, folder = copy
    rendered = recorded(monkeypatch)
    flip(folder / name, 100)
    assert make(cache).hash == built.hash
    assert rendered == built.tracks()[5:6] and "1 damaged track" in capsys.readouterr().out
    assert (folder / name).read_bytes() == (built.path / name).read_bytes()


@pytest.mark.parametrize(
    "name", ["shard-00002/audio.i16", "shard-00000/spectrograms.f16", "manifest.csv", "places.csv", "corpus.json"]
)
def test_truncation_is_noticed_and_mended(copy, built, name):
    cache, folder = copy
    with open(folder / name, "r+b") as file:
        file.truncate((folder / name).stat().st_size - 10)
    with pytest.raises(KeyMynaError):
        open_corpus(folder)
    assert make(cache).hash == open_corpus(folder).hash == built.hash
    assert (folder / name).read_bytes() == (built.path / name).read_bytes()


def test_changed_manifest_is_not_believed(copy, built):
    cache, folder = copy
    text = (folder / "manifest.csv").read_text()
    (folder / "manifest.csv").write_text(text.replace("train", "valid", 1))
    with pytest.raises(KeyMynaError, match="changed"):
        open_corpus(folder)
    assert make(cache).hash == built.hash


def recorded(monkeypatch):
    """A list that collects the tracks that are rendered from now on."""
    rendered = []

    def record(self, work, tasks, **options):
        rendered.extend(job.track_id for (job,) in tasks)
        return Executor.map(self, work, tasks, **options)

    monkeypatch.setattr(Processes, "map", record)
    return rendered


def test_a_killed_build_goes_on(tmp_path, built, monkeypatch):
    """Killed amid the sixth track, its line in the journal half written."""
    folder = tmp_path / "corpus" / built.path.name

    def killed(self, work, tasks, **options):
        for n, (i, row) in enumerate(Executor.map(self, work, tasks, **options)):
            if n == 5:
                with open(folder / "shard-00001" / "hashes.csv", "a") as journal:
                    journal.write(",".join([tasks[i][0].track_id, *row])[:50])
                raise KeyboardInterrupt
            yield i, row

    monkeypatch.setattr(Processes, "map", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path)
    with pytest.raises(KeyMynaError, match="no finished corpus"):
        open_corpus(folder)
    rendered = recorded(monkeypatch)
    assert make(tmp_path).hash == built.hash
    assert rendered == built.tracks()[5:]
    monkeypatch.setattr(Processes, "map", None)  # the line that was cut short has spoiled none of the others
    assert make(tmp_path).hash == built.hash


def test_scope_piece(tmp_path):
    plan = plan_corpus(dataclasses.replace(CONFIG, scope="piece", seconds=30.0), load_scores())
    sections = [len(json.loads(a)["sections"]) for a in plan.arrangement]
    assert sections == [1] * len(plan) and set(plan.scope) == {"piece"}


def test_scope_mixed_arranges_each_piece_as_in_the_pure_corpora():
    pure = {
        scope: plan_corpus(dataclasses.replace(CONFIG, scope=scope, seconds=30.0), load_scores())
        for scope in ("section", "piece", "mixed")
    }
    mixed = pure.pop("mixed")
    assert set(mixed.scope) == set(pure)
    assert all(mixed.arrangement[p] == pure[mixed.scope[p]].arrangement[p] for p in mixed.index)


def test_another_soundfont_plays_the_same_notes_and_is_another_corpus(built, tmp_path):
    path = tmp_path / "mine.sf2"
    path.write_bytes(b"RIFF")
    other = dataclasses.replace(CONFIG, soundfont=str(path))
    plan = plan_corpus(other, load_scores())
    arrangements = [json.loads(a) for a in plan.arrangement]
    assert {a.pop("soundfont") for a in arrangements} == {str(path)}
    assert arrangements == [json.loads(a) for a in built.manifest.arrangement]
    keys = [build.corpus_key(CONFIG), build.corpus_key(other)]
    path.write_bytes(b"RIFX")
    assert len({*keys, build.corpus_key(other)}) == 3
    with pytest.raises(KeyMynaError, match="soundfont 'none'.*TimGM6mb"):
        build_corpus(dataclasses.replace(CONFIG, soundfont="none"), progress=False, cache=tmp_path)


def test_another_configuration_is_another_corpus(built, monkeypatch):
    assert build.corpus_key(CONFIG) == built.path.name
    assert build.corpus_key(dataclasses.replace(CONFIG, seed=1)) != built.path.name
    monkeypatch.setattr(build, "_versions", lambda: {"numpy": "0"})
    assert build.corpus_key(CONFIG) != built.path.name


@pytest.mark.parametrize(
    "change",
    [
        {"n_chorales": -1},
        {"seconds": 0.5},
        {"scope": "bar"},
        {"seed": -1},
        {"drum_probability": 1.5},
        {"detune_cents": -1.0},
        {"snr_db": (30.0, 5.0)},
        {"snr_db": (30.0,)},
    ],
)
def test_configuration_out_of_range(change):
    with pytest.raises(KeyMynaError, match=next(iter(change))):
        dataclasses.replace(CONFIG, **change)


def test_full_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(KeyMynaError, match="free"):
        make(tmp_path)
    monkeypatch.undo()

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    monkeypatch.setattr(Processes, "map", full)
    with pytest.raises(KeyMynaError, match="No space left"):
        make(tmp_path)
