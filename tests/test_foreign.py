"""Heads on recordings of another corpus: they are chosen without them, and scores are those of a recount."""

import os
from types import SimpleNamespace

import mir_eval
import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.base.tensors import save_tensors
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.evaluate import NO_KEY
from keymyna_lib.experiments import foreign
from keymyna_lib.experiments.foreign import (
    ALL,
    Recordings,
    chosen_heads,
    foreign_scores,
    foreign_table,
    gains,
    heard_twice,
    other_scores,
    recordings_of,
    songs_beside,
)
from keymyna_lib.experiments.head_study import HeadStudy
from keymyna_lib.experiments.label_free import ModelSystem
from keymyna_lib.features import CHROMA, MEAN_MEL, Features, cut_windows, embed, of_tracks
from keymyna_lib.heads import HeadSpec, Rows, select, train_heads
from keymyna_lib.key_model import KeyModel
from keymyna_lib.keys import KEY_NAMES
from keymyna_lib.model import EncoderConfig, build_encoder
from keymyna_lib.spectrogram import compress, mel_power

N = {"train": 96, "valid": 48, "test": 24}
GRID = [HeadSpec(lr=lr) for lr in (1e-5, 1e-2)]
SHORT = {"max_steps": 200, "eval_every": 50, "patience": 4}


def study(**changes):
    asked = {"features": "clear", "head": "linear probe", "budget": 0, "shifts": (0,), "seed": 0}
    return HeadStudy(**{**asked, **SHORT, **changes})


@pytest.fixture(scope="module")
def corpus():
    """Tracks of all keys in each split, and features of two windows per track: clear ones, and noise."""
    rows = [(f"{split}{i}", split, i % 24) for split, n in N.items() for i in range(n)]
    manifest = pd.DataFrame(rows, columns=["track_id", "split", "key"]).set_index("track_id")
    return SimpleNamespace(
        hash="c", manifest=manifest, tracks=lambda split: list(manifest.index[manifest["split"] == split])
    )


def features_of(keys, ids, noise, seed):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.one_hot(torch.tensor(list(keys)).repeat_interleave(2), 24)
    x = (rows + noise * torch.randn(rows.shape, generator=generator)).float()
    return of_tracks(list(x.split(2)), list(ids))


@pytest.fixture(scope="module")
def sets(corpus):
    keys, ids = corpus.manifest["key"], corpus.manifest.index
    return {"clear": features_of(keys, ids, 0.1, 0), "noisy": features_of(keys, ids, 3.0, 1)}


@pytest.fixture(scope="module")
def recordings():
    """48 recordings, half of them labelled a fifth too high, and two systems that answered."""
    ids, keys = [f"r{i:02d}" for i in range(48)], np.arange(48) % 24
    tracks = pd.DataFrame(
        {"key": keys, "set": ["rock"] * 24 + ["folk"] * 24, "group": [f"g{i // 2}" for i in range(48)]},
        index=pd.Index(ids, name="track_id"),
    )
    others = pd.DataFrame({"right": keys, "silent": NO_KEY}, index=tracks.index)
    return Recordings(tracks, lambda track: np.zeros((300, 128), np.float16), None, others)


@pytest.fixture(scope="module")
def elsewhere(recordings):
    keys, ids = recordings.tracks["key"].to_numpy(), recordings.tracks.index
    sounding = np.where(np.arange(48) < 24, keys, (keys + 5) % 12 + keys // 12 * 12)  # of folk, a fifth below its label
    return {"clear": features_of(sounding, ids, 0.1, 2), "noisy": features_of(sounding, ids, 3.0, 3)}


@pytest.fixture(scope="module")
def scored(corpus, sets, elsewhere, recordings):
    studies = [study(features=name, seed=seed) for name in sets for seed in (0, 1)]
    return foreign_scores(chosen_heads(studies, GRID, sets, corpus, show=False), elsewhere, recordings)


def test_heads_of_one_corpus_answer_for_another(scored, recordings):
    clear = scored[(scored["features"] == "clear") & (scored["seed"] == 0)].set_index("track_id")
    assert list(clear.index) == list(recordings.tracks.index)
    assert (clear.loc[clear["set"] == "rock", "score"] == 1).all()  # what it was trained for
    folk = clear[clear["set"] == "folk"]
    assert (folk["score"] == 0.5).all() and (folk["score_ascending"] == 0).all()
    outputs = clear[list(KEY_NAMES)].to_numpy()
    np.testing.assert_allclose(outputs.sum(axis=1), 1, rtol=1e-5)
    assert (outputs.argmax(axis=1) == clear["estimate"]).all()
    for row in scored.sample(20, random_state=0).itertuples():
        names = [KEY_NAMES[key] for key in (row.reference, row.estimate)]
        ascending, descending = (mir_eval.key.weighted_score(*pair) for pair in (names, names[::-1]))
        assert (row.score, row.score_ascending) == (max(ascending, descending), ascending)


def test_the_head_is_chosen_on_validation_and_never_by_the_recordings(corpus, sets, elsewhere, recordings, scored):
    """By hand: the same heads, the best on validation; recordings of other labels change no answer."""
    chosen_from = budget_tracks(corpus, 0, 0), corpus.tracks(split="valid")
    train, valid = (sets["noisy"].select(tracks) for tracks in chosen_from)
    rows = (Rows(one.x, one.keys(corpus.manifest["key"]), one.track) for one in (train, valid))
    chosen = select(train_heads(GRID, *rows, seed=0, device="cpu", **SHORT))
    own = scored[(scored["features"] == "noisy") & (scored["seed"] == 0)]
    expected = chosen.predict(elsewhere["noisy"].x, elsewhere["noisy"].track)
    np.testing.assert_array_equal(own[list(KEY_NAMES)].to_numpy(), expected)
    assert (own["valid_score"] == chosen.valid_score).all()
    shuffled = Recordings(
        recordings.tracks.assign(key=np.roll(recordings.tracks["key"], 7)),
        recordings.spectrogram,
        None,
        recordings.others,
    )
    again = foreign_scores({study(features="noisy"): chosen}, elsewhere, shuffled)
    assert again["estimate"].tolist() == own["estimate"].tolist() and again["score"].mean() != own["score"].mean()


def test_the_table_is_what_a_recount_gives(scored, recordings):
    both = pd.concat([scored, other_scores(recordings)], ignore_index=True)
    table = foreign_table(both, baseline="noisy", seed=0).set_index(["set", "features"])
    assert set(table.index) == {(s, f) for s in (ALL, "rock", "folk") for f in ("clear", "noisy", "right", "silent")}
    assert table.loc[(ALL, "clear"), ["tracks", "seeds", "score"]].tolist() == [48, 2, 0.75]
    assert table.loc[("folk", "clear"), ["score", "low", "high"]].tolist() == [0.5, 0.5, 0.5]
    assert table.loc[(ALL, "right"), "score"] == 1 and table.loc[(ALL, "silent"), "score"] == 0
    noisy = scored[scored["features"] == "noisy"]
    assert table.loc[(ALL, "noisy"), "score"] == pytest.approx(noisy["score"].mean())
    row = table.loc[("rock", "clear")]
    assert row["difference"] == pytest.approx(1 - noisy.loc[noisy["set"] == "rock", "score"].mean())
    assert row["difference_low"] < row["difference"] < row["difference_high"] and row["p"] < 0.01
    assert table.loc[(slice(None), ["noisy", "right", "silent"]), "difference"].isna().all()  # no head of theirs
    # Groups of two tracks, one of which is right: resampled means do not vary.
    paired = both[both["features"] == "right"].assign(score=np.arange(48) % 2)
    tied = foreign_table(paired, seed=0).iloc[0]
    assert tied["low"] == tied["high"] == 0.5
    free = foreign_table(paired.assign(group=paired["track_id"]), seed=0).iloc[0]
    assert free["low"] < 0.45 and free["high"] > 0.55


def test_everything_is_compared_with_a_system_that_has_no_head(scored, recordings):
    both = pd.concat([scored, other_scores(recordings)], ignore_index=True)
    table = foreign_table(both, baseline="right", seed=0).set_index(["set", "features"])
    assert table.loc[(ALL, "clear"), "difference"] == pytest.approx(-0.25)
    assert table.loc[(ALL, "silent"), ["difference", "difference_low"]].tolist() == [-1, -1]
    with pytest.raises(KeyMynaError, match="baseline 'wrong'.*clear, noisy, right, silent"):
        foreign_table(both, baseline="wrong", seed=0)


def test_gains_are_paired_differences_to_each_of_the_others(scored, recordings):
    both = pd.concat([scored, other_scores(recordings)], ignore_index=True)
    table = gains(both, "clear", seed=0).set_index("features")
    assert list(table.index) == ["noisy", "right", "silent"] and (table["shared"] == 48).all()
    means = both.groupby("features")["score"].mean()
    for other, row in table.iterrows():
        assert row["difference"] == pytest.approx(means["clear"] - means[other])
    assert table.loc["silent", "difference"] == 0.75 and table.loc["right", "d_high"] < 0
    # Holm by hand: the smallest of three counts three times.
    assert table["p_holm"].min() == pytest.approx(3 * table["p"].min()) and (table["p_holm"] >= table["p"]).all()


def test_tracks_that_are_heard_twice_are_compared_with_themselves(scored):
    quieter = scored.assign(score=scored["score"] - np.where(scored["features"] == "clear", 0.25, 0))
    quieter = quieter.sample(frac=1, random_state=0)  # in any order
    table = heard_twice(quieter, scored, seed=0).set_index("features")
    assert table.loc["clear", ["tracks", "difference", "low", "high"]].tolist() == [48, -0.25, -0.25, -0.25]
    assert table.loc["noisy", ["difference", "p"]].tolist() == [0, 1]
    clear = scored["features"] == "clear"
    for fewer in (scored[scored["track_id"] != "r03"], scored[scored["seed"] == 0], scored[clear]):
        with pytest.raises(KeyMynaError, match="not of the same tracks and seeds"):
            heard_twice(scored, fewer, seed=0)


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Songs beside a synthetic corpus of a second an excerpt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        settings = {"seconds": 1.0, "scope": "piece", "detune_cents": 0.0, "snr_db": [40.0, 40.0], "seed": 6}
        yield songs_beside(SimpleNamespace(config=settings, front_end="mel"), 12, client=Processes(1), show=False)


def test_songs_beside_a_corpus_are_of_another_seed_and_its_own_conditions(songs):
    assert len(songs.manifest) == 12 and set(songs.manifest["source"]) == {"song"}
    assert songs.config["seed"] == 7 and songs.config["seconds"] == 1.0 and songs.front_end == "mel"
    assert (songs.manifest["duration"] <= 1.5).all() and set(songs.manifest["scope"]) == {"piece"}


def first_sample(audio):
    return {"first": int(abs(audio[0]) * 1e6) % 24}


def test_all_tracks_of_a_corpus_are_tested_on_or_those_of_one_split(songs, monkeypatch):
    options = {"client": Processes(1), "show": False}
    everything = recordings_of(songs, [first_sample], **options)
    assert list(everything.tracks.index) == songs.tracks() == list(everything.chroma.track_ids)
    assert everything.tracks["key"].equals(songs.manifest["key"])
    monkeypatch.setattr(foreign, "extract", None)  # nothing is extracted again
    for split in songs.manifest["split"].unique():
        some = recordings_of(songs, [first_sample], split=split, chroma=everything.chroma, **options)
        assert list(some.tracks.index) == songs.tracks(split=split) and some.chroma is everything.chroma
        assert some.others.equals(everything.others.loc[some.tracks.index])


def test_features_that_the_recordings_lack_are_refused(elsewhere, recordings):
    with pytest.raises(KeyMynaError, match="features 'chroma'.*clear, noisy.*mean_chroma"):
        foreign_scores({study(features=CHROMA): None}, elsewhere, recordings)


# Stored spectrograms


@pytest.fixture
def encoder():
    return build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch_stream(0, "weights")).eval()


def scale(tonic, minor=False):
    """Chroma of a scale."""
    steps = (0, 2, 3, 5, 7, 8, 10) if minor else (0, 2, 4, 5, 7, 9, 11)
    chroma = np.full(12, 0.01)
    chroma[[(tonic + step) % 12 for step in steps]] = 0.1
    chroma[[tonic, (tonic + 7) % 12]] = 0.2
    return " ".join(f"{value:.4f}" for value in chroma)


def write_stored(folder, change=lambda lines: lines, drop=(), dtype=torch.float16):
    generator = torch.Generator().manual_seed(5)
    stored = {name: torch.rand(frames, 128, generator=generator).to(dtype) for name, frames in LENGTHS.items()}
    save_tensors(folder / "spectrograms.safetensors", {k: v for k, v in stored.items() if k not in drop})
    lines = [
        "track,key,set,genre,some_system,mean_chroma",
        f"a.1,G minor,real,blues,Gm,{scale(7, minor=True)}",
        f"b,Db major,other,rock,,{scale(1)}",
    ]
    (folder / "tracks.csv").write_text("\n".join(change(lines)) + "\n")
    return stored


LENGTHS = {"a.1": 500, "b": 120}


def test_stored_spectrograms_and_what_other_systems_answered(tmp_path, encoder):
    stored = write_stored(tmp_path)
    found = foreign.stored_recordings(tmp_path)
    assert found.tracks.to_dict("index") == {
        "a.1": {"key": 19, "set": "real", "group": "a.1"},
        "b": {"key": 1, "set": "other", "group": "b"},
    }
    assert found.others["some_system"].tolist() == [19, NO_KEY]
    assert found.others["template-temperley"].tolist() == [19, 1]
    np.testing.assert_array_equal(found.spectrogram("b"), stored["b"].numpy())
    sets = foreign.features_elsewhere(found, {"encoder": encoder})
    assert set(sets) == {"encoder", MEAN_MEL, CHROMA}
    # Windows of 196 frames: at 0, 196 and 304 of 500; one of 120, with silence behind.
    windows = cut_windows(stored["a.1"].T, [0, 196, 304])
    for name, expected in (("encoder", embed(encoder, windows)), (MEAN_MEL, windows.float().mean(dim=2))):
        assert sets[name].track.tolist() == [0, 0, 0, 1] and sets[name].track_ids == ("a.1", "b")
        torch.testing.assert_close(sets[name].x[:3], expected)
    torch.testing.assert_close(sets[MEAN_MEL].x[3], stored["b"].float().sum(dim=0) / 196)
    assert sets[CHROMA].x.shape == (2, 12)


def without(column):
    return lambda lines: [",".join(np.delete(line.split(","), column)) for line in lines]


def test_columns_that_may_be_absent(tmp_path):
    write_stored(tmp_path, without(5))
    found = foreign.stored_recordings(tmp_path)
    assert found.chroma is None and list(found.others) == ["some_system"]
    write_stored(tmp_path, without(2))
    assert set(foreign.stored_recordings(tmp_path).tracks["set"]) == {tmp_path.name}


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"change": lambda lines: [*lines, "c,C,real,,,"]},
            "line 4: spectrograms.safetensors should hold.*'c', has none",
        ),
        ({"drop": ["b"]}, "line 3.*'b', has none"),
        ({"dtype": torch.float32}, r"line 2.*'a.1', has float32 \(500, 128\)"),
        ({"change": lambda lines: [line.replace("G minor", "H dur moll") for line in lines]}, "line 2.*H dur moll"),
        ({"change": lambda lines: lines[:1]}, "names no track"),
        ({"change": without(1)}, "key"),
    ],
)
def test_stored_spectrograms_that_are_refused(tmp_path, options, message):
    write_stored(tmp_path, **options)
    with pytest.raises(KeyMynaError, match=message):
        foreign.stored_recordings(tmp_path)


def test_a_folder_without_spectrograms_is_refused(tmp_path):
    with pytest.raises(KeyMynaError, match="spectrograms.safetensors does not exist.*in one folder"):
        foreign.stored_recordings(tmp_path)


def test_an_encoder_and_a_head_are_a_system(encoder):
    """The same key from audio as from the spectrogram that a corpus stores."""
    rng = np.random.default_rng(0)
    audio = rng.standard_normal(16000 * 9).astype(np.float32) * 0.1
    windows = cut_windows(compress(mel_power(audio)[0]), [0, 282 - 196])
    x = embed(encoder, windows)
    rows = Rows(torch.cat([x, -x]), torch.tensor([4, 4, 9, 9]), torch.tensor([0, 0, 1, 1]))
    (head,) = train_heads([HeadSpec(lr=0.1)], rows, rows, max_steps=50, eval_every=10, patience=9, seed=0, device="cpu")
    assert ModelSystem("ours", KeyModel(encoder, {"head": head}))(audio) == {"ours": 4}


# Recordings on this machine, of nobody's repository

FOLDER = os.environ.get("KEYMYNA_LABELLED_SPECTROGRAMS", "")


@pytest.mark.skipif(not FOLDER, reason="KEYMYNA_LABELLED_SPECTROGRAMS names no folder")
def test_templates_find_keys_of_real_recordings(encoder):
    found = foreign.stored_recordings(FOLDER)
    table = foreign_table(other_scores(found), seed=0).set_index(["set", "features"])
    best = table["score"].groupby("set").max()
    assert (best > 0.4).all(), best  # by chance 0.1
    sets = foreign.features_elsewhere(found, {"encoder": encoder})
    assert all(one.track_ids == tuple(found.tracks.index) for one in sets.values())
    assert isinstance(sets["encoder"], Features) and sets["encoder"].x.isfinite().all()
