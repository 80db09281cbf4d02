"""Tasks: which tracks of which data sets they are made of, what is left out and why, and what a card says."""

from pathlib import Path

import layouts_published
import pandas as pd
import pytest
import tones

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import tasks

SIZES = {"tracks": 24, "seconds": 1.0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """GiantSteps and GTZAN in their layouts, and an unlabelled folder; no Billboard."""
    folder = tmp_path_factory.mktemp("root")
    expected = {
        "giantsteps_key": layouts_published.write_giantsteps_key(folder, **SIZES),
        "giantsteps_mtg_keys": layouts_published.write_giantsteps_mtg_keys(folder, **SIZES),
        "gtzan": layouts_published.write_gtzan(folder, **SIZES),
    }
    tones.write(folder / "unlabelled" / "radio" / "a.mp3", 3, 1.0)
    return folder, expected


@pytest.fixture(scope="module")
def planned(root):
    folder, _ = root
    names = ["giantsteps_mtg_keys", "giantsteps_key", "billboard", "gtzan", "unlabelled:radio"]
    sets = [tasks.dataset(name) for name in names]
    examined, absent = tasks.examine_all(sets, folder, show=False)
    folders = {one.name: one.folder(folder) for one in sets}
    return (
        sets,
        examined,
        absent,
        *tasks.assemble(examined, folders, ["giantsteps", "billboard"], ["gtzan"], ["unlabelled:radio"]),
    )


def test_a_task_takes_its_splits_from_its_data_sets(planned, root):
    tracks, expected = planned[3], root[1]
    task = tracks[tracks["task"] == "giantsteps"]
    assert set(task.loc[task["split"] == "test", "source"]) == {"giantsteps_key"}
    assert set(task.loc[task["split"].isin(["train", "valid"]), "source"]) == {"giantsteps_mtg_keys"}
    for name in ("giantsteps_key", "giantsteps_mtg_keys"):
        found = {f"{name}/{track}" for track, state in expected[name]["states"].items() if state == "found"}
        assert found == set(task.index[task["source"] == name])
        assert all(
            task.loc[f"{name}/{track}", "key"] == key
            for track, key in expected[name]["keys"].items()
            if f"{name}/{track}" in found
        )
    assert all(Path(file).stat().st_size for file in tracks["file"]) and (tracks["n_samples"] > 0).all()


def test_extra_and_unlabelled_tracks_belong_to_no_task(planned):
    tracks = planned[3]
    extra, unlabelled = (tracks[tracks["split"] == split] for split in ("extra", "pretrain"))
    assert set(extra["source"]) == {"gtzan"} and (extra["task"] == "").all() and (extra["key"] >= 0).all()
    assert list(unlabelled.index) == ["unlabelled:radio/a.mp3"] and (unlabelled["key"] == -1).all()


def test_what_is_not_there_is_left_out_and_said(planned):
    sets, examined, absent, _, left_out = planned
    assert list(left_out) == ["billboard"] and "no train and no valid and no test tracks" in left_out["billboard"]
    assert list(absent) == ["billboard"]
    card = tasks.card(sets, examined, absent).set_index("name")
    assert "billboard" in card.loc["billboard", "note"] and card.loc["billboard", "found"] == 0
    assert card.loc["billboard", "note"].startswith("<data root>/billboard has no ")  # the card is committed
    assert card.loc["gtzan", "note"] == "" and "Tzanetakis" in card.loc["gtzan", "citation"]
    fetched = pd.DataFrame(
        [
            ("bb.zip", "failed", "https://a: no route; http://a: HTTP 404", "billboard"),
            ("x", "failed", "why", "billboard"),
        ],
        columns=["path", "state", "problem", "name"],
    )
    error = str(tasks.nothing_found("/music", left_out, absent, fetched))
    assert "/music" in error and "task billboard" in error and "no task" in error
    assert "billboard: 2 files could not be fetched, bb.zip first: https://a: no route; http://a: HTTP 404" in error


def test_the_card_counts_every_track_once_and_every_reason(planned, root):
    sets, examined, absent, *_ = planned
    card, reasons = tasks.card(sets, examined, absent).set_index("name"), tasks.reasons(examined)
    for name, expected in root[1].items():
        counts = pd.Series(expected["states"]).value_counts()
        assert {state: card.loc[name, state] for state in counts.index} == counts.to_dict()
        assert card.loc[name, ["found", "missing", "corrupt", "excluded"]].sum() == len(expected["states"])
        why = pd.Series([reason for reason in expected["excluded"].values() if reason]).value_counts()
        given = reasons[(reasons["name"] == name) & (reasons["state"] == "excluded")].set_index("why")["tracks"]
        assert given.to_dict() == why.to_dict()


def test_a_track_that_cannot_be_decoded_becomes_corrupt(planned):
    examined = planned[1]
    track = examined["gtzan"].index[examined["gtzan"]["state"] == "found"][0]
    problem = pd.DataFrame({"track_id": [f"gtzan/{track}"], "state": ["corrupt"], "problem": ["cut short"]})
    marked = tasks.with_problems(examined, problem)
    assert tuple(marked["gtzan"].loc[track, ["state", "problem"]]) == ("corrupt", "cut short")
    assert examined["gtzan"].loc[track, "state"] == "found"


def test_short_recordings_are_counted_and_named(planned):
    examined = planned[1]
    short = pd.DataFrame({"track_id": ["unlabelled:radio/a.mp3"], "state": ["excluded"], "problem": ["too short"]})
    why = tasks.reasons(tasks.with_problems(examined, short))
    row = why[why["name"] == "unlabelled:radio"].iloc[0]
    assert row[["state", "tracks", "why"]].to_list() == ["excluded", 1, "too short"] and "a.mp3" in row["for instance"]


def test_nothing_wanted_gives_no_tracks():
    tracks, left_out = tasks.assemble({}, {}, ["giantsteps"], ["gtzan"], [])
    assert tracks.empty and list(left_out) == ["giantsteps"]


def test_all_that_is_there_is_tested_on_whatever_its_split(root, tmp_path, monkeypatch):
    folder, expected = root
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(tasks, "labelled_folders", lambda root: ["folder:mine"])  # beside what the others look at
    corpus = tasks.corpus_to_test(folder, min_windows=0, show=False)
    found = {f"{name}/{t}" for name, one in expected.items() for t, state in one["states"].items() if state == "found"}
    labelled = corpus.manifest[corpus.manifest["key"] >= 0]
    assert set(labelled.index) <= found and len(labelled) > 0.9 * len(found)  # some cannot be decoded
    assert set(labelled["split"]) == {"extra"} and set(labelled["source"]) == set(expected)
    assert corpus.tracks(split="pretrain") == ["unlabelled:radio/a.mp3"]
    with pytest.raises(KeyMynaError, match="no recordings to test on. .*gtzan: "):
        tasks.corpus_to_test(tmp_path, show=False)


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: tasks.dataset("giantstep"), "data set 'giantstep'.*giantsteps_key"),
        (lambda: tasks.datasets_of("gtzan"), "task 'gtzan'.*giantsteps"),
        (lambda: tasks.dataset("giantsteps_mtg_keys", min_confidence=5), "min_confidence"),
    ],
)
def test_unknown_names_are_refused(ask, message):
    with pytest.raises(KeyMynaError, match=message):
        ask()


def test_offline_and_without_a_mirror_nothing_is_downloaded(tmp_path):
    one = tasks.dataset("gtzan")
    first = tasks.download([one], tmp_path, offline=True, show=False)
    assert set(first["state"]) == {"failed"} and set(first["name"]) == {"gtzan"}
    assert not list(tmp_path.rglob("*.wav"))


def test_every_data_set_says_what_its_card_needs():
    for name in (*tasks.NAMES, "folder:mine", "unlabelled:mine"):
        one = tasks.dataset(name)
        assert one.name == name
        for field in ("title", "citation", "licence", "size", "how"):
            assert getattr(one, field).strip(), (name, field)
