"""Copies of a recording: found under every name, kept in one split, and never pre-trained on where they are scored."""

import contextlib
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
from corpora import small_corpus

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus import store
from keymyna_lib.corpus.recordings import copies, tasks
from keymyna_lib.corpus.recordings.build import build_recordings
from keymyna_lib.corpus.rendered.build import build_corpus
from keymyna_lib.experiments import encoder_study, upstream
from keymyna_lib.pretrain import PretrainConfig, training_tracks

RATE = 16000


def tune(seed, seconds=12.0):
    """(sample,) float: random notes of random lengths, with four harmonics, an accompaniment and a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    audio = 0.01 * rng.standard_normal(len(time))
    for low, shortest in ((48, 0.5), (64, 0.15)):
        start = 0.0
        while start < seconds:
            length = shortest * rng.integers(1, 4)
            here = (time >= start) & (time < start + length)
            pitch = 440 * 2 ** ((low + rng.integers(0, 16) - 69) / 12)
            for harmonic in range(1, 5):
                wave = np.sin(2 * np.pi * harmonic * pitch * time[here]) * np.exp(-3 * (time[here] - start))
                audio[here] += wave / harmonic
            start += length
    return 0.8 * audio / np.abs(audio).max()


def spectrogram(audio, level=0.9):
    return store.track_spectrogram(np.round(audio * level * 32767 / np.abs(audio).max()).astype(np.int16))


def read_back(path, audio, **options):
    soundfile.write(path, audio, RATE, **options)
    return soundfile.read(path)[0]


WAYS = {
    "mp3": lambda x, folder: read_back(folder / "x.mp3", x),
    "mp3 of low quality": lambda x, folder: read_back(
        folder / "x.mp3", x, compression_level=0.9, bitrate_mode="CONSTANT"
    ),
    "ogg of low quality": lambda x, folder: read_back(folder / "x.ogg", x, compression_level=0.9),
    "8 bits": lambda x, folder: read_back(folder / "x.wav", x, subtype="PCM_U8"),
    "half as loud": lambda x, _: x / 2,
    "silence before it": lambda x, _: np.concatenate([np.zeros(20_111), x]),
    "noise before it": lambda x, _: np.concatenate([np.random.default_rng(1).normal(0, 0.01, 31_777), x]),
    "silence after it": lambda x, _: np.concatenate([x, np.zeros(40_001)]),
    "its beginning cut": lambda x, _: x[47_777:],
    "its end faded": lambda x, _: x * np.linspace(1, 0, len(x)) ** 0.5,
    "upside down": lambda x, _: -x,
}


@pytest.fixture(scope="module")
def originals():
    return {f"tune {seed}": tune(seed) for seed in range(4)}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_is_known_however_it_was_made(originals, way, tmp_path):
    frames = {name: spectrogram(audio) for name, audio in originals.items()}
    frames |= {f"zz {name}": spectrogram(WAYS[way](audio, tmp_path)) for name, audio in originals.items()}
    hashes = pd.Series({name: name for name in frames})
    found = copies.recordings(hashes, frames.__getitem__)
    assert found.to_dict() == {name: name.removeprefix("zz ") for name in frames}


def test_equal_samples_are_copies_however_short(originals):
    hashes = pd.Series({"a": "1", "b": "2", "c": "1", "d": "3"})
    frames = {name: np.zeros((20, 128), np.float16) for name in hashes.index}
    assert copies.recordings(hashes, frames.__getitem__).to_dict() == {"a": "a", "b": "b", "c": "a", "d": "d"}


def test_sounds_without_changes_are_not_taken_for_each_other():
    time = np.arange(10 * RATE) / RATE
    held = {f"{hertz} Hz": spectrogram(np.sin(2 * np.pi * hertz * time)) for hertz in (220, 440, 443)}
    held["noise"], held["silence"] = spectrogram(np.random.default_rng(0).normal(size=10 * RATE)), np.zeros((300, 128))
    hashes = pd.Series({name: name for name in held})
    assert copies.recordings(hashes, held.__getitem__).to_list() == list(held)


def test_more_copies_than_are_compared_with_each_other_are_one_recording(originals):
    audio = originals["tune 0"]
    frames = {f"{n:02}": spectrogram(np.concatenate([np.zeros(700 * n), audio])) for n in range(25)}
    assert set(copies.recordings(pd.Series({name: name for name in frames}), frames.__getitem__)) == {"00"}


@pytest.mark.usefixtures("known_compositions")
def test_no_two_synthetic_pieces_are_copies(tmp_path):
    corpus = build_corpus(small_corpus(), cache=tmp_path, progress=False, client=Processes(1))
    assert not copies.recordings(corpus.manifest["sha256"], corpus.spectrogram).duplicated().any()
    prints = [copies.fingerprint(corpus.spectrogram(track)) for track in corpus.tracks()]
    most = max(
        copies.agreement(one, other, shift)
        for n, one in enumerate(prints)
        for other in prints[:n]
        for shift in range(-50, 51)
    )
    assert 0.4 < most < copies.AGREEMENT - 0.05


def table(*rows, task="folder:m", drawn=True):
    """Tracks t0, t1, ... from (recording, composition, split)."""
    made = pd.DataFrame(rows, columns=["recording", "composition", "split"], index=[f"t{n}" for n in range(len(rows))])
    made["task"] = ["" if split in ("extra", "pretrain") else task for split in made["split"]]
    return made.assign(drawn=drawn & (made["task"] != ""), key=0, label="C")


OTHERS = [("o1", "o1", "train"), ("o2", "o2", "valid"), ("o3", "o3", "test")]


def test_drawn_splits_follow_the_first_composition_of_copies():
    tracks = table(
        *OTHERS,
        ("r", "b", "test"),
        ("r", "a", "train"),
        ("s", "b", "test"),  # shares no recording with a, but its composition
        ("q", "c", "valid"),
    )
    settled, left_out = copies.settle(tracks)
    assert not left_out and settled["split"].to_list()[3:] == ["train", "train", "train", "valid"]
    assert settled["composition"].to_list() == ["o1", "o2", "o3", "a", "a", "a", "c"]
    (line,) = copies.describe(tracks, settled, left_out)
    assert (
        "1 recordings are there more than once, in 2 tracks (t3 = t4). " in line and "2 went to another split" in line
    )


def test_given_splits_stay_and_what_is_scored_is_not_trained_on():
    tracks = table(
        *OTHERS,
        ("r", "a", "train"),
        ("r", "b", "test"),
        ("s", "c", "train"),
        ("s", "d", "valid"),
        ("t", "e", "valid"),
        ("t", "f", "test"),
        ("u", "g", "train"),
        ("u", "h", "train"),
        ("v", "i", "train"),
        ("v", "j", "extra"),
        ("w", "k", "pretrain"),
        ("w", "l", "test"),
        drawn=False,
    )
    settled, left_out = copies.settle(tracks)
    assert settled["split"].equals(tracks["split"]) and left_out == ["t11", "t3", "t5", "t7"]
    (line,) = copies.describe(tracks, settled, left_out)
    assert "4 left out of training and validation" in line and "1 not pre-trained on" in line


def test_without_copies_nothing_changes_and_nothing_is_said():
    tracks = table(*OTHERS, ("p", "o1", "train"))
    settled, left_out = copies.settle(tracks)
    pd.testing.assert_frame_equal(settled, tracks)
    assert not left_out and not copies.describe(tracks, settled, left_out)


def test_copies_in_other_tasks_are_theirs():
    tracks = pd.concat([table(*OTHERS, ("r", "a", "train")), table(*OTHERS, ("r", "b", "test"), task="folder:n")])
    tracks.index = [f"t{n}" for n in range(len(tracks))]
    tracks.loc["t4":"t6", "recording"] = ["p1", "p2", "p3"]
    settled, left_out = copies.settle(tracks)
    assert settled["split"].equals(tracks["split"]) and not left_out


@pytest.mark.parametrize("drawn", [True, False])
def test_a_task_that_loses_a_split_is_refused(drawn):
    tracks = table(("r", "a", "test"), ("r", "b", "train"), ("q", "c", "valid"), drawn=drawn)
    with pytest.raises(KeyMynaError, match="folder:m: no train tracks are left.*keys.csv"):
        copies.settle(tracks)


# On files, through every step to what pre-training sees.


def build(root, cache, *, folders, unlabelled=(), extra=()):
    sets = [tasks.dataset(name) for name in (*folders, *extra, *unlabelled)]
    examined, absent = tasks.examine_all(sets, root, show=False)
    assert not absent
    places = {one.name: one.folder(root) for one in sets}
    tracks, left_out = tasks.assemble(examined, places, folders, extra, unlabelled)
    assert not left_out
    corpus, unused = build_recordings(tracks, seconds=0, cache=cache, progress=False, client=Processes(1))
    return corpus, tasks.with_problems(examined, unused)


def write_folder(root, name, rows):
    """folders/NAME with keys.csv: file -> (seed of its tune, the rest of its line)."""
    folder = root / "folders" / name
    folder.mkdir(parents=True)
    for file, (seed, _) in rows.items():
        soundfile.write(folder / file, tune(seed, 6.0), RATE)
    columns = "file,key,split" if any("," in rest for _, rest in rows.values()) else "file,key"
    lines = [f"{file},{rest}" for file, (_, rest) in rows.items()]
    (folder / "keys.csv").write_text("\n".join([columns, *lines]))
    return folder


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(Processes, "count", lambda *_: 1)


def test_copies_in_a_folder_share_a_split_and_unlike_labels_are_named(tmp_path, here, capsys):
    endings = (".wav", ".flac", ".mp3", ".ogg")
    rows = {f"{n:02}{endings[n % 4]}": (n // 2, "C major") for n in range(24)}
    rows["05.flac"] = (2, "D minor")
    folder = write_folder(tmp_path, "m", rows)
    shutil.copy(folder / "00.wav", folder / "99 the same bytes.wav")
    with open(folder / "keys.csv", "a") as file:
        file.write("\n99 the same bytes.wav,C major")
    corpus, _ = build(tmp_path, tmp_path / "cache", folders=["folder:m"])
    manifest = corpus.manifest
    assert len(manifest) == 25 and manifest["recording"].nunique() == 12
    assert (manifest.groupby("recording")[["split", "composition"]].nunique() == 1).all(axis=None)
    assert set(manifest["split"]) == {"train", "valid", "test"}
    said = capsys.readouterr().out
    assert "12 recordings are there more than once, in 25 tracks" in said
    assert "1 recordings have different keys" in said
    assert "folder:m/04.wav (C major) = folder:m/05.flac (D minor)" in said
    (row,) = tasks.copies_in(corpus).query("name == 'folder:m' and why == 'the same recording as another track'").index
    assert tasks.copies_in(corpus).loc[row, "state"] == "copy"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Two tasks with splits of their own, and an unlabelled folder: copies in each direction."""
    root = tmp_path_factory.mktemp("root")
    splits = ("train", "train", "train", "valid", "test")
    write_folder(root, "m", {f"m{n}.wav": (n, f"C major,{split}") for n, split in enumerate(splits)})
    # m0 is tested on in the other task, m3 trained on, and n4 is a copy of its own test track
    seeds = {"n0.wav": 10, "n1.mp3": 3, "n2.wav": 12, "n3.flac": 13, "n4.ogg": 0, "n5.mp3": 0}
    rows = {file: (seed, f"C major,{split}") for (file, seed), split in zip(seeds.items(), (*splits, "train"))}
    write_folder(root, "n", rows)
    loose = root / "unlabelled" / "loose"
    (loose / "disc").mkdir(parents=True)
    for name, seed in {"a.mp3": 4, "b.ogg": 13, "disc/c.wav": 1, "d.flac": 20}.items():
        soundfile.write(loose / name, np.concatenate([np.zeros(5000), tune(seed, 6.0)]), RATE)
    return root


def unseen(corpus, tracks):
    """Whether none of the tracks is a copy of one that any task scores; told by their names alone."""
    scored = {"m3", "m4", "n3", "n4", "m0", "n1", "n5", "a", "b"}
    return not {track.rsplit("/")[-1].split(".")[0] for track in tracks} & scored


@pytest.fixture
def corpus(recorded, tmp_path, here):
    names = dict(folders=["folder:m", "folder:n"], unlabelled=["unlabelled:loose"])
    return build(recorded, tmp_path / "with", **names)[0], build(recorded, tmp_path / "w", folders=names["folders"])


def test_pretraining_sees_no_copy_of_what_any_task_scores(corpus):
    whole, (labelled, examined) = corpus
    assert whole.pretraining_tracks() == ["unlabelled:loose/d.flac", "unlabelled:loose/disc/c.wav"]
    assert labelled.pretraining_tracks() == [f"folder:{t}.wav" for t in ("m/m1", "m/m2", "n/n0", "n/n2")]
    for each in (whole, labelled):
        assert each.pretraining_tracks(labelled=True) == labelled.pretraining_tracks()
        for name in each.tasks():
            view = each.of_task(name)
            for objective in ("contrastive", "supervised", "reconstruction"):
                seen = training_tracks(SimpleNamespace(objective=objective), view)
                assert seen and unseen(view, seen)
    # Heads of a task are trained on what only the other one scores, and never on what it scores itself.
    assert labelled.of_task("folder:m").tracks("train") == [f"folder:m/m{n}.wav" for n in range(3)]
    assert labelled.of_task("folder:n").tracks("train") == ["folder:n/n0.wav", "folder:n/n1.mp3", "folder:n/n2.wav"]
    assert examined["folder:n"].loc["n5.mp3", ["state", "excluded"]].to_list() == ["excluded", copies.LEFT_OUT]
    assert tasks.reasons(examined)["tracks"].to_list() == [1]
    rows = tasks.copies_in(whole).set_index(["name", "why"])["tracks"]
    assert rows["unlabelled:loose", "the same recording as another track, scored, so not pre-trained on"] == 2


@pytest.mark.parametrize("objective", ["contrastive", "supervised"])
def test_every_way_to_pretrain_asks_for_the_same_tracks(corpus, objective, monkeypatch):
    """Notebook 10 and torchrun (`train_encoder`), and the notebooks that compare encoders, pilots included."""
    seen = []

    def stop(config, corpus, train, *_, **__):
        seen.append(train)
        raise KeyboardInterrupt

    monkeypatch.setattr(upstream, "pretrain", stop)
    monkeypatch.setattr(encoder_study, "pretrain_once", stop)
    config = PretrainConfig(objective=objective, augmentation="none", mask_ratio=0.5, steps=4, warmup_steps=1)
    run = SimpleNamespace(resumable_path=lambda name: name, run_id="r")
    stage = SimpleNamespace(
        take_over=lambda *_: None, run=lambda *_, **__: contextlib.nullcontext(run), profile="smoke"
    )
    for whole in (corpus[0], corpus[1][0]):
        for each in (whole, *map(whole.of_task, whole.tasks())):
            for way in (
                lambda each: upstream.train_encoder(run, each, config),
                lambda each: encoder_study.record(stage, "a", config, config, each, [0], [0], experiment="design"),
                lambda each: encoder_study.tune(stage, "a", config, [0.1], 2, each, 0, [0]),
            ):
                with pytest.raises(KeyboardInterrupt):
                    way(each)
                assert seen[-1] and unseen(each, seen[-1])
    assert len(seen) == 18
