"""A corpus of recordings: what is in it is what decoding gives, and nothing that goes wrong with one file stops it."""

import functools
import importlib.metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import tones

from keymyna_lib import keys, spectrogram
from keymyna_lib.base import hashing
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus import store
from keymyna_lib.corpus.corpus import open_corpus
from keymyna_lib.corpus.recordings import build, decode
from keymyna_lib.corpus.recordings.build import COLUMNS, build_recordings
from keymyna_lib.corpus.sound.render import PEAK

# id, file, key, task, split; seven recordings of one to four seconds
ROWS = [
    ("b/2, live", "b2.wav", 5, "b", "train"),
    ("b/1", "b1.flac", 12, "b", "test"),
    ("a/1", "a1.mp3", 0, "a", "train"),
    ("a/2", "a2.ogg", 23, "a", "valid"),
    ("a/3", "a3.wav", 9, "a", "test"),
    ("x/1", "x1.wav", 3, "", "extra"),
    ("u/1", "u1.mp3", -1, "", "pretrain"),
]
SECONDS = 2.5


def table(folder: Path) -> pd.DataFrame:
    rows = []
    for track_id, name, key, task, split in ROWS:
        path = folder / name
        rows.append(
            {
                "track_id": track_id,
                "file": str(path),
                "n_samples": decode.audio_length(path),
                "source": name[0],
                "task": task,
                "split": split,
                "drawn": False,
                "composition": track_id,
                "key": key,
                "content": hashing.sha256_file(path),
                "label": keys.KEY_NAMES[key] if key >= 0 else "",
                "artist": 'the "A", B',
                "title": "1999",
            }
        )
    return pd.DataFrame(rows).set_index("track_id")


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    """The folder of the sound files, one at five times full scale and one silent."""
    folder = tmp_path_factory.mktemp("audio")
    for n, (_, name, key, _, _) in enumerate(ROWS):
        tones.write(folder / name, max(key, 0), 1 + 0.5 * n, (16000, 22050, 44100)[n % 3], 1 + n % 2)
    loud = 5 * tones.cadence(9, 3.0) / np.abs(tones.cadence(9, 3.0)).max()
    soundfile.write(folder / "a3.wav", loud, 16000, subtype="FLOAT")
    soundfile.write(folder / "x1.wav", np.zeros(32000), 16000)
    return folder


@pytest.fixture(scope="module")
def tracks(audio):
    return table(audio)


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    """Seven tracks in three shards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "SHARD", 3)
        yield


def make(tracks, cache, **options):
    return build_recordings(
        tracks, **{"seconds": SECONDS, "cache": cache, "progress": False, "client": Processes(2), **options}
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def built(tracks, cache):
    corpus, problems = make(tracks, cache)
    assert problems.empty and list(problems.columns) == ["track_id", "state", "problem"]
    return corpus


@pytest.fixture
def here(monkeypatch):
    """Decode in this process, which is quick; returns the files that were decoded."""
    decoded, read = [], decode.read_audio
    monkeypatch.setattr(Processes, "count", lambda *_: 1)
    monkeypatch.setattr(
        decode, "read_audio", lambda path, **options: (decoded.append(Path(path).name), read(path, **options))[1]
    )
    return decoded


def contents(corpus):
    return {
        path.relative_to(corpus.path): path.read_bytes()
        for path in corpus.path.rglob("*.*")
        if path.name in (store.AUDIO, store.FRAMES, "manifest.csv", "places.csv")
    }


def test_manifest(built, tracks):
    manifest = built.manifest
    assert tuple(manifest.columns) == COLUMNS and manifest.index.name == "track_id"
    assert manifest.index.tolist() == sorted(row[0] for row in ROWS)
    given = tracks.loc[manifest.index]
    for name in ("source", "task", "title", "artist", "composition", "split", "key", "label"):
        assert manifest[name].tolist() == given[name].tolist()
    assert manifest["key_name"].tolist() == [keys.KEY_NAMES[k] if k >= 0 else "" for k in given["key"]]
    expected = np.minimum(given["n_samples"], round(SECONDS * 16000))
    assert manifest["n_samples"].tolist() == expected.tolist() and manifest["n_samples"].nunique() > 3
    np.testing.assert_allclose(manifest["duration"], expected / 16000)
    assert built.config["seconds"] == SECONDS and built.hash == hashing.sha256_file(built.path / "manifest.csv")
    assert built.path.parent.name == "corpus"


def test_audio_and_spectrograms_are_those_of_the_files(built, tracks):
    for track, row in built.manifest.iterrows():
        decoded = decode.read_audio(tracks.file[track], seconds=SECONDS)
        peak = np.abs(decoded).max()
        assert peak > 4.9 if track == "a/3" else peak < 1
        scaled = decoded * (PEAK / peak if peak else 1)
        kept = built.audio(track)
        assert kept.shape == scaled.shape and np.abs(kept - scaled).max() <= 1.5 / 32768
        power = spectrogram.mel_power(kept)[0].numpy().T
        stored = built.spectrogram(track)
        assert stored.dtype == np.float16 and stored.shape == (row.n_frames, 128) and np.isfinite(stored).all()
        np.testing.assert_allclose(stored.astype(np.float32), np.log1p(power), rtol=1e-3, atol=1e-5)
        assert hashing.sha256_bytes(np.ascontiguousarray(stored).data) == row.spectrogram_sha256
    assert not built.audio("x/1").any() and np.abs(built.audio("a/1")).max() == pytest.approx(PEAK, abs=1e-3)


def test_neither_processes_nor_order_matter(built, tracks, tmp_path):
    other, _ = make(tracks.iloc[::-1], tmp_path, client=Processes(1))
    assert other.hash == built.hash and other.path.name == built.path.name and contents(other) == contents(built)


def test_the_version_of_ffmpeg_counts_where_it_decodes_and_nowhere_else(tracks, monkeypatch):
    installed = importlib.metadata.version

    def key(table, av):
        def version(name):
            if name == "av" and av is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return av if name == "av" else installed(name)

        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", version)
            return build._key(build._plan(table, SECONDS), {})

    with_m4a = tracks.assign(file=[*tracks["file"][:-1], "/music/a.M4A"])
    plain = key(tracks, None)
    assert plain == key(tracks, "14.0.0") == key(tracks, "15.0.0") == key(with_m4a, None)
    assert len({plain, key(with_m4a, "14.0.0"), key(with_m4a, "15.0.0")}) == 3


def test_a_second_call_decodes_nothing(built, tracks, cache, here, capsys):
    again, problems = make(tracks, cache)
    assert again.hash == built.hash and problems.empty and here == [] and capsys.readouterr().out == ""
    moved = tracks.assign(file="/elsewhere/" + tracks["file"].str.rsplit("/", n=1).str[-1])
    assert make(moved, cache)[0].path == built.path  # where the files lie is no part of a corpus


def test_a_killed_build_goes_on(built, tracks, tmp_path, here, monkeypatch):
    """Killed amid the fourth track, its line in the journal half written."""

    def killed(self, work, tasks, **options):
        for n, (i, row) in enumerate(Executor.map(self, work, tasks, **options)):
            if n == 3:
                (folder,) = (tmp_path / "corpus").iterdir()
                with open(store.shard_folder(folder, 1) / store.HASHES, "a") as journal:
                    journal.write(",".join([tasks[i][0].track_id, *row])[:50])
                raise KeyboardInterrupt
            yield i, row

    monkeypatch.setattr(Processes, "map", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tracks, tmp_path)
    here.clear()
    monkeypatch.setattr(Processes, "map", Executor.map)
    again, _ = make(tracks, tmp_path)
    assert len(here) == len(ROWS) - 3 and again.hash == built.hash and contents(again) == contents(built)
    here.clear()
    assert make(tracks, tmp_path)[0].hash == built.hash and here == []


def test_a_damaged_track_alone_is_decoded_again(built, tracks, tmp_path, here, capsys):
    corpus, _ = make(tracks, tmp_path)
    here.clear()
    place = corpus.offsets.loc["a/3"]
    with open(store.shard_folder(corpus.path, place.shard) / store.AUDIO, "r+b") as file:
        file.seek(2 * int(place.first_sample) + 7)
        file.write(b"\x55")
    again, _ = make(tracks, tmp_path)
    assert here == ["a3.wav"] and "1 damaged track" in capsys.readouterr().out
    assert again.hash == built.hash and contents(again) == contents(built)


def bad_copy(tracks, folder):
    """The tracks with files of their own, of which three are broken after their headers have been read."""
    tracks = tracks.copy()
    for path in tracks["file"]:
        (folder / Path(path).name).write_bytes(Path(path).read_bytes())
    tracks["file"] = [str(folder / Path(path).name) for path in tracks["file"]]
    data = (folder / "a1.mp3").read_bytes()
    (folder / "a1.mp3").write_bytes(data[: len(data) // 2])
    (folder / "b1.flac").write_bytes(b"no audio at all [really]" * 99)
    soundfile.write(folder / "u1.mp3", np.zeros(800), 16000)
    return tracks.assign(n_samples=tracks["n_samples"].where(tracks.index != "u/1", 800))


@pytest.mark.parametrize("workers", [1, 2])
def test_broken_files_are_reported_and_left_out(built, tracks, tmp_path, workers):
    tracks = bad_copy(tracks, tmp_path)
    corpus, problems = make(tracks, tmp_path / "cache", client=Processes(workers))
    assert problems["track_id"].tolist() == ["a/1", "b/1", "u/1"]
    for problem, expected in zip(problems["problem"], ("a1.mp3 is truncated", "b1.flac is not", "u1.mp3 is too short")):
        assert problem.startswith(expected) and str(tmp_path) not in problem
    assert sorted(corpus.tracks()) == sorted(set(tracks.index) - set(problems["track_id"]))
    for track in corpus.tracks():
        np.testing.assert_array_equal(corpus.audio(track), built.audio(track))
        np.testing.assert_array_equal(corpus.spectrogram(track), built.spectrogram(track))
    with pytest.raises(KeyMynaError, match="no track 'a/1'"):
        corpus.audio("a/1")


def test_broken_files_are_not_tried_again(tracks, tmp_path, here, monkeypatch):
    tracks = bad_copy(tracks, tmp_path)

    def killed(*arguments, **options):
        for n, row in enumerate(Executor.map(*arguments, **options)):
            if n == 4:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(Processes, "map", killed)
    with pytest.raises(KeyboardInterrupt):
        make(tracks, tmp_path / "cache")
    monkeypatch.setattr(Processes, "map", Executor.map)
    (folder,) = (tmp_path / "cache" / "corpus").iterdir()
    with open(store.shard_folder(folder, 0) / store.PROBLEMS, "a") as file:
        file.write('["a/2", "cut short by a kill [now]')
    here.clear()
    corpus, problems = make(tracks, tmp_path / "cache")
    assert "a1.mp3" not in here and "u1.mp3" in here
    here.clear()
    again, same = make(tracks, tmp_path / "cache")
    assert here == [] and again.hash == corpus.hash and same.equals(problems) and len(problems) == 3
    assert "a/2" in corpus.tracks()


def test_a_file_that_is_gone_stops_the_build_until_it_is_back(built, tracks, tmp_path, here):
    elsewhere = tmp_path / "a3.wav"
    moved = tracks.assign(file=tracks["file"].where(tracks.index != "a/3", str(elsewhere)))
    with pytest.raises(KeyMynaError, match="a3.wav cannot be read.*run again"):
        make(moved, tmp_path)
    elsewhere.write_bytes(Path(tracks.file["a/3"]).read_bytes())
    here.clear()
    corpus, problems = make(moved, tmp_path)
    assert corpus.hash == built.hash and problems.empty and "a1.mp3" not in here and "a3.wav" in here


@pytest.mark.parametrize("change", [-5000, 5000])
def test_a_file_of_another_length_than_was_said_spoils_no_other(built, tracks, tmp_path, here, change):
    said = tracks["n_samples"] + np.where(tracks.index == "b/1", change, 0)
    corpus, problems = make(tracks.assign(n_samples=said), tmp_path)
    assert problems["track_id"].tolist() == ["b/1"] and "samples instead of" in problems["problem"][0]
    for track in corpus.tracks():
        np.testing.assert_array_equal(corpus.audio(track), built.audio(track))


def test_nothing_but_broken_files(tracks, tmp_path, here):
    (tmp_path / "a.wav").write_bytes(b"nothing")
    with pytest.raises(KeyMynaError, match="none of the 7 recordings.*a.wav is not a sound file"):
        make(tracks.assign(file=str(tmp_path / "a.wav")), tmp_path)


@pytest.mark.parametrize(
    "change", [{"content": "another"}, {"key": 7}, {"split": "test"}, {"n_samples": 30000}, {"title": "2000"}]
)
def test_another_table_is_another_corpus(tracks, change):
    def key(table, seconds=SECONDS):
        return build._key(build._plan(table, seconds), {"seconds": seconds})

    ((column, value),) = change.items()
    changed = tracks.copy()
    changed.loc["a/1", column] = value
    assert key(changed) != key(tracks) and key(tracks, 0.0) != key(tracks)
    assert key(tracks.iloc[::-1]) == key(tracks) == key(tracks.assign(file="/elsewhere/x.wav"))


def test_all_of_every_recording(tracks, tmp_path, here):
    corpus, _ = make(tracks, tmp_path, seconds=0.0)
    assert corpus.manifest["n_samples"].tolist() == tracks["n_samples"].sort_index().tolist()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.drop(columns=["artist", "content"]), "no column artist, content"),
        (lambda t: t.iloc[:0], "0 rows"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "8 rows, 7"),
        (lambda t: t.assign(key=24), "key of a/1 is 24"),
        (lambda t: t.assign(split="dev"), "split of a/1 is dev"),
        (lambda t: t.assign(n_samples=0), "n_samples of a/1 is 0"),
    ],
)
def test_tables_that_are_refused(tracks, tmp_path, change, message):
    with pytest.raises(KeyMynaError, match=message):
        make(change(tracks), tmp_path)


@pytest.mark.parametrize("seconds", [-1.0, 0.01])
def test_seconds_out_of_range(tracks, tmp_path, seconds):
    with pytest.raises(KeyMynaError, match="seconds="):
        make(tracks, tmp_path, seconds=seconds)


def mean(corpus, track_id):
    return track_id, float(np.abs(corpus.audio(track_id)).mean()), len(corpus.spectrogram(track_id))


def test_views(built):
    assert built.tasks() == ["a", "b"]
    views = {name: built.of_task(name) for name in built.tasks()}
    for name, view in views.items():
        assert view.tracks() == [row[0] for row in sorted(ROWS) if row[3] in (name, "")]
        assert view.tasks() == [name] and view.of_task(name) is view and view.path == built.path
        assert view.tracks("test") == [t for t in built.tracks("test") if t in view.tracks()] != []
        assert view.hash == hashing.sha256_json([built.hash, name])
        work, tasks = functools.partial(mean, view), [(track,) for track in view.tracks()]
        done = [result for _, result in Processes(2).map(work, tasks, desc="", ordered=True, show=False)]
        assert done == [mean(built, track) for track in view.tracks()]
        (other,) = set(views) - {name}
        with pytest.raises(KeyMynaError, match="no track"):
            view.audio(views[other].tracks("train")[0])
        assert view.pretraining_tracks() == ["u/1"]
    assert len({built.hash, *(view.hash for view in views.values())}) == 3
    assert built.tracks("pretrain") == ["u/1"] and built.tracks("extra", "x") == ["x/1"]
    with pytest.raises(KeyMynaError, match="source 'c'"):
        built.tracks(source="c")
    with pytest.raises(KeyMynaError, match="task 'c'.*a, b"):
        built.of_task("c")


def test_opening_notices_truncation_and_change(built, tracks, tmp_path, here):
    corpus, _ = make(tracks, tmp_path)
    for name in ("shard-00000/audio.i16", "shard-00002/spectrograms.f16", "manifest.csv", "places.csv"):
        with open(corpus.path / name, "r+b") as file:
            file.truncate((corpus.path / name).stat().st_size - 10)
        with pytest.raises(KeyMynaError, match=name):
            open_corpus(corpus.path)
        assert make(tracks, tmp_path)[0].hash == built.hash


def test_pretraining_leaves_out_copies_of_what_is_scored(tracks, tmp_path, here):
    copies = tracks.loc[["a/3", "x/1", "b/2, live"]].assign(task="", split="pretrain", key=-1, source="u")
    copies.index = ["u/test", "u/extra", "u/train"]
    corpus, _ = make(pd.concat([tracks, copies]), tmp_path)
    assert corpus.pretraining_tracks() == ["u/1", "u/train"]
    only_copies, _ = make(pd.concat([tracks.drop("u/1"), copies.drop("u/train")]), tmp_path)
    assert only_copies.pretraining_tracks() == only_copies.tracks("train")


def test_pretraining_takes_recordings_of_enough_sound(tracks, tmp_path, here):
    """Lengths around two windows of 6.272 s: by their header, by the silence in them, and labelled ones in any case."""
    window = spectrogram.WINDOW * spectrogram.HOP  # samples
    sound = tones.cadence(4, 14.0)
    silent = np.concatenate([sound[:window], np.zeros(8 * window, np.float32), sound[window : 2 * window - 4000]])
    gaps = np.concatenate([sound[:window], np.zeros(8 * window, np.float32), sound[window : 2 * window + 4000]])
    audio = {"long": sound, "jingle": sound[: 2 * window - 4000], "silent": silent, "gaps": gaps}
    for name, samples in audio.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000)
    unlabelled = pd.DataFrame(
        [
            {
                **tracks.loc["u/1"].to_dict(),
                "file": str(tmp_path / f"{name}.wav"),
                "n_samples": len(samples),
                "composition": name,
                "content": name,
            }
            for name, samples in audio.items()
        ],
        index=pd.Index([f"u/{name}" for name in audio], name="track_id"),
    )
    both = pd.concat([tracks.loc[["a/1", "a/2", "a/3"]], unlabelled])
    corpus, unused = make(both, tmp_path / "cache", seconds=0, min_windows=2)
    assert corpus.tracks(split="pretrain") == ["u/gaps", "u/long"]
    assert set(corpus.manifest.index) == {"a/1", "a/2", "a/3", "u/gaps", "u/long"}  # each of one window or less
    assert unused["track_id"].tolist() == ["u/jingle", "u/silent"] and set(unused["state"]) == {"excluded"}
    assert set(unused["problem"]) == {"less than 2 windows of sound (12.5 s)"}
    assert "jingle.wav" not in here and "silent.wav" in here
    for name in ("u/long", "u/gaps"):
        np.testing.assert_array_equal(
            corpus.spectrogram(name), store.track_spectrogram(build._samples(unlabelled.file[name], seconds=0))
        )
    for named in (["u/jingle"], ["u/silent"]):
        with pytest.raises(KeyMynaError, match="less than 2 windows of sound.*lower min_windows"):
            make(unlabelled.loc[named], tmp_path / "none", seconds=0, min_windows=2)
