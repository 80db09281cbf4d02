"""Transfer on made-up windows, where what carries over is known."""

import numpy as np
import pandas as pd
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments.transfer import conditions, transfer


@pytest.fixture(scope="module")
def table():
    """240 tracks of two windows, in turn chorale or tune, with one of two families and one of two noise levels."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(240):
        split, key = ("train", "train", "valid", "test")[i // 4 % 4], int(rng.integers(4))
        rows += [
            {
                "track_id": f"t{i:03d}",
                "split": split,
                "source": ("chorale", "tune")[i % 2],
                "key": key,
                "family": ("organ", "reed")[i // 2 % 2],
                "families": ("organ", "reed")[i // 2 % 2],
                "snr": (2.0, 14.0)[int(rng.integers(2))],
                "purity": 1.0,
            }
            for _ in range(2)
        ]
    return pd.DataFrame(rows)


def features(table, reed_is_mirrored):
    """One-hot keys with noise; on reeds, if asked, keys 0 and 1 look like each other."""
    keys = table["key"].to_numpy().copy()
    if reed_is_mirrored:
        swap = (table["family"] == "reed").to_numpy() & (keys < 2)
        keys[swap] = 1 - keys[swap]
    noise = np.random.default_rng(1).normal(0, 0.1, (len(table), 4))
    instrument = (table["family"] == "reed").to_numpy()[:, None]
    x = np.eye(4)[keys] + noise
    return np.concatenate([x * ~instrument, x * instrument], axis=1)


def scores(found):
    return found.groupby(["condition", "family", "head"])["score"].mean()


def test_conditions_train_apart_from_their_test(table):
    found = list(conditions(table))
    assert [(c.name, c.family) for c in found] == [
        ("tunes to chorales", ""),
        ("chorales to tunes", ""),
        ("clean to noisy", ""),
        ("unheard instrument", "organ"),
        ("unheard instrument", "reed"),
    ]
    for condition in found:
        assert not (condition.train & condition.test).any() and (condition.control & condition.test).any()


def test_songs_are_a_repertoire_where_there_are_any(table):
    songs = table.assign(source=table["source"].where(np.arange(len(table)) % 3 > 0, "song"))
    found = {c.name: c for c in conditions(songs)}
    there, back = found["scores to songs"], found["songs to scores"]
    assert set(songs.loc[there.train, "source"]) == {"chorale", "tune"} == set(songs.loc[back.test, "source"])
    assert set(songs.loc[there.test, "source"]) == {"song"} == set(songs.loc[back.train, "source"])
    assert (there.control == there.test).all() and (back.control == back.test).all()


def test_what_is_alike_carries_over_and_what_was_never_heard_does_not(table):
    means = scores(transfer(features(table, False), table, np.random.default_rng(0)))
    assert means["tunes to chorales", "", "elsewhere"] > 0.95 and means["clean to noisy", "", "elsewhere"] > 0.95
    assert (
        means["unheard instrument", "reed", "control"] > 0.95 > 0.6 > means["unheard instrument", "reed", "elsewhere"]
    )


def test_each_condition_scores_the_same_test_tracks_twice(table):
    found = transfer(features(table, True), table, np.random.default_rng(0))
    test = set(table.loc[table["split"] == "test", "track_id"])
    for _, group in found.groupby(["condition", "family"]):
        one, other = (set(group.loc[group["head"] == head, "track_id"]) for head in ("elsewhere", "control"))
        assert one == other <= test and group["n_train"].nunique() == 1
    reference = table.groupby("track_id")["key"].first()
    assert (found["reference"] == found["track_id"].map(reference)).all()


def test_rows_must_fit(table):
    with pytest.raises(KeyMynaError, match="windows"):
        transfer(np.zeros((3, 2)), table, np.random.default_rng(0))
    no_chorale = table[(table["source"] == "tune") | (table["split"] != "test")]
    with pytest.raises(KeyMynaError, match="tunes to chorales.*n_tracks"):
        transfer(np.zeros((len(no_chorale), 2)), no_chorale, np.random.default_rng(0))


def test_a_window_in_which_a_family_plays_any_part_is_not_trained_on(table):
    mixed = table.assign(families=np.where(np.arange(len(table)) % 5 == 0, "organ+reed", table["family"]))
    (condition,) = (c for c in conditions(mixed) if c.family == "reed")
    assert set(mixed.loc[condition.train, "families"]) == {"organ"}
