"""Songs in corpora: planned, built alone or beside scores, and what their windows contain."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from corpora import small_corpus

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.corpus import COLUMNS
from keymyna_lib.corpus.rendered import build
from keymyna_lib.corpus.rendered.build import SONG_COLUMNS, SongConfig, build_corpus, build_songs, plan_songs
from keymyna_lib.corpus.rendered.window_truth import window_properties
from keymyna_lib.corpus.songs.compose import DRUMS_PART, compose
from keymyna_lib.corpus.songs.styles import STYLES
from keymyna_lib.corpus.splits import SPLITS


def config(**changes) -> SongConfig:
    few = dict(n_songs=6, seconds=4.0, scope="piece", detune_cents=20.0, snr_db=(30.0, 40.0), seed=0)
    return SongConfig(**few | changes)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_songs(config(), progress=False, cache=tmp_path_factory.mktemp("cache"))


def test_plan():
    plan = plan_songs(config(n_songs=300, scope="mixed"))
    assert set(plan["style"]) <= set(STYLES) and set(plan["split"]) == set(SPLITS)
    assert plan["composition"].is_unique and set(plan["scope"]) == {"piece", "section"}
    for _, songs in plan.groupby([plan["split"], plan["key"] >= 12]):
        assert songs["key"].value_counts().reindex(songs["key"].unique()).pipe(np.ptp) <= 1  # tonics alike
    np.testing.assert_array_equal(plan["key"], keys.transpose(plan["key_written"], plan["transposition"]))
    shares = plan["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.03)
    few = plan_songs(config(n_songs=20))
    assert few["style"].equals(plan["style"].iloc[:20]) and few["key_written"].equals(plan["key_written"].iloc[:20])


def test_what_is_refused():
    for name, value in (("n_songs", 0), ("scope", "bar"), ("detune_cents", 80), ("seconds", 0.5)):
        with pytest.raises(KeyMynaError, match=name):
            config(**{name: value})


def test_built_alone(built, tmp_path):
    table = built.manifest
    assert tuple(table.columns) == (*COLUMNS, *SONG_COLUMNS, "task") and SongConfig(**built.config) == config()
    assert built.tracks(source="song") == list(table.index) == [f"song-{i:06d}" for i in range(6)]
    for track, row in table.iterrows():
        audio = built.audio(track)
        assert len(audio) == row.n_samples and np.abs(audio).max() == pytest.approx(0.9, abs=0.01)
        assert np.sqrt(np.mean(audio**2)) > 0.02
    again = build_songs(config(), progress=False, cache=tmp_path)
    assert again.hash == built.hash


def test_windows(built):
    """The truth of windows against the notes of songs composed anew."""
    windows = window_properties(built, built.tracks(), frames=50)
    chroma = windows[[f"chroma_{i}" for i in range(12)]]
    for track, row in built.manifest.iterrows():
        mine = windows["track_id"] == track
        song = compose(0, int(track[-6:]), tonic=keys.tonic(row.key))
        assert song.key == row.key and song.style == row["style"]
        section = json.loads(row.arrangement)["sections"][0]
        first, last = section["beat"], section["beat"] + section["length"] * section["tempo"] / 60
        notes = song.notes(first, last)
        assert windows.loc[mine, "drums"].any() == (notes[:, 3] == DRUMS_PART).any()
        pitched = notes[notes[:, 3] != DRUMS_PART]
        heard = set((pitched[:, 2].astype(int) % 12).tolist())
        assert set(np.flatnonzero(chroma[mine].sum() > 0)) <= heard
        assert set(np.flatnonzero(chroma[mine].mean() > 0.05)) <= heard
        np.testing.assert_allclose(chroma[mine].sum(axis=1), 1, atol=1e-6)
    assert windows["tuning"].abs().max() <= 20 and windows["family"].notna().all()


@pytest.mark.usefixtures("known_compositions")
def test_beside_scores(tmp_path, monkeypatch):
    """Scores are the same with and without songs."""
    plans = []
    monkeypatch.setattr(build, "_build", lambda config, plan, scores, **options: plans.append(plan))
    for n_songs in (0, 5):
        build_corpus(small_corpus(n_songs=n_songs), progress=False, cache=tmp_path)
    without, beside = plans
    assert not set(SONG_COLUMNS) & set(without.columns)
    pd.testing.assert_frame_equal(beside.loc[without.index, without.columns], without, check_dtype=False)
    assert beside["source"].value_counts().to_dict() == {"tune": 8, "song": 5, "chorale": 4}
    assert (beside.loc[without.index, list(SONG_COLUMNS)] == "").all(axis=None)
