"""Properties of windows against sampling score and arrangement every 10 ms, and against what is heard."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from corpora import small_corpus

from keymyna_lib import features, keys
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.chroma import mean_chroma
from keymyna_lib.corpus import store
from keymyna_lib.corpus.rendered.build import plan_corpus, playable_score
from keymyna_lib.corpus.rendered.window_truth import CHROMA_COLUMNS, window_properties
from keymyna_lib.corpus.sound.programmes import FAMILIES
from keymyna_lib.corpus.sound.render import render
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE, WINDOW, compress, mel_power, n_frames

CONFIG = small_corpus(n_chorales=2, n_tunes=4, seconds=14.0, detune_cents=20.0, snr_db=(20.0, 40.0))
STEP = 0.01  # s

pytestmark = pytest.mark.usefixtures("known_compositions")


@pytest.fixture(scope="module")
def corpus(scores):
    """Rendered here and now: a corpus proper starts processes, which cost more than the rendering."""
    plan = plan_corpus(CONFIG, scores)
    audio = {
        name: store.to_float(render(playable_score(scores, name).notes, json.loads(plan.arrangement[name])))
        for name in plan.index
    }
    pictures = {name: compress(mel_power(samples))[0].T.numpy() for name, samples in audio.items()}
    return SimpleNamespace(hash="stand-in", manifest=plan, audio=audio.__getitem__, spectrogram=pictures.__getitem__)


@pytest.fixture(scope="module")
def table(corpus):
    return window_properties(corpus, corpus.manifest.index)


def of_one(row: pd.Series, change) -> SimpleNamespace:
    """A corpus of one track, its arrangement changed."""
    arrangement = change(json.loads(row["arrangement"]))
    frames = n_frames(round(arrangement["duration"] * SAMPLE_RATE))
    return SimpleNamespace(
        manifest=pd.DataFrame([{**row, "arrangement": json.dumps(arrangement), "n_frames": frames}], index=[row.name])
    )


def sampled(notes: np.ndarray, arrangement: dict, start: float, frames: int) -> dict:
    """What sounds in a window, by looking every 10 ms."""
    seen, pitches = [], []
    for time in np.arange(start + STEP / 2, min(start + frames * HOP / SAMPLE_RATE, arrangement["duration"]), STEP):
        section = [s for s in arrangement["sections"] if s["start"] <= time][-1]
        beat = section["beat"] + (time - section["start"]) * section["tempo"] / 60
        now = notes[(notes[:, 0] <= beat) & (beat < notes[:, 0] + notes[:, 1]), 2]
        pitches += (now + arrangement["transposition"] + section["octave"]).tolist()
        seen.append(section)
    counts = [sum(s is section for s in seen) for section in arrangement["sections"]]
    most = arrangement["sections"][int(np.argmax(counts))]
    return {
        "tuning": np.mean([s["cents"] for s in seen]),
        "purity": max(counts) / len(seen),
        **{name: np.mean([s[name] for s in seen]) for name in ("snr", "tempo")},
        "register": np.mean(pitches),
        "drums": most["drums"] is not None,
        "families": {name for name, family in FAMILIES.items() for s in seen if set(s["programmes"]) & set(family)},
        "family": next(name for name, family in FAMILIES.items() if most["programmes"][0] in family),
        "chroma": np.bincount(np.array(pitches, int) % 12, minlength=12) / len(pitches),
    }


def assert_as_sampled(row: pd.Series, notes: np.ndarray, arrangement: dict, frames: int = WINDOW) -> None:
    expected = sampled(notes, arrangement, row["start"], frames)
    for name, tolerance in {"tuning": 0.2, "snr": 0.1, "tempo": 0.2, "register": 0.1, "purity": 0.005}.items():
        assert row[name] == pytest.approx(expected[name], abs=tolerance), name
    np.testing.assert_allclose(row[list(CHROMA_COLUMNS)].astype(float), expected["chroma"], atol=0.01)
    # Sampling may miss the last hundredth of a second of a section.
    assert expected["families"] <= set(row["families"].split("+")) and len(expected["families"]) >= 1
    if row["purity"] > 0.51:  # else the sampling may find the other section the longer one
        assert (row["family"], row["drums"]) == (expected["family"], expected["drums"])


def test_rows_are_those_of_the_features(corpus, table, tmp_path, monkeypatch):
    some = corpus.manifest.index[::-2].tolist()
    of_some = window_properties(corpus, some)
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    embedded = features.extract(corpus, features.MEAN_MEL, show=False)
    for rows, tracks in ((table, embedded.track_ids), (of_some, some)):
        expected = embedded.select(tracks)
        assert rows["track"].tolist() == expected.track.tolist()
        assert rows["track_id"].tolist() == [tracks[t] for t in expected.track]
        for x, row in zip(expected.x, rows.itertuples()):
            first = round(row.start * SAMPLE_RATE / HOP)
            frames = corpus.spectrogram(row.track_id)[first : first + WINDOW].astype(np.float32)
            np.testing.assert_allclose(x, frames.sum(axis=0) / WINDOW, rtol=1e-4, atol=1e-5)


def test_shorter_windows(corpus, table, scores, tmp_path, monkeypatch):
    some = corpus.manifest.index[:1].tolist()
    rows = window_properties(corpus, some, 98)
    assert len(rows) > 1.5 * table["track_id"].isin(some).sum()
    monkeypatch.setattr(paths, "CACHE", tmp_path)  # from here on, as it lacks the parsed scores
    embedded = features.extract(corpus, features.MEAN_MEL, frames=98, track_ids=some, show=False)
    assert rows["track"].tolist() == embedded.track.tolist()
    for _, row in rows.iterrows():
        arrangement = json.loads(corpus.manifest.loc[row["track_id"], "arrangement"])
        assert_as_sampled(row, playable_score(scores, row["track_id"]).notes, arrangement, 98)


def test_what_holds_for_the_track(corpus, table):
    manifest = corpus.manifest.loc[table["track_id"]]
    for column in ("split", "source", "composition", "key"):
        assert table[column].tolist() == manifest[column].tolist()
    names = [keys.parse_key(name) for name in manifest["key_name"]]
    assert [keys.key_index(t, m) for t, m in zip(table["tonic"], table["mode"])] == names


def test_as_sampled_every_10_ms(corpus, table, scores):
    assert (table["purity"] < 0.9).any() and table["drums"].nunique() == 2
    for _, row in table.iterrows():
        arrangement = json.loads(corpus.manifest.loc[row["track_id"], "arrangement"])
        assert_as_sampled(row, playable_score(scores, row["track_id"]).notes, arrangement)
    np.testing.assert_allclose(table[list(CHROMA_COLUMNS)].sum(axis=1), 1)
    pure = table[table["purity"] == 1]
    for row in pure.itertuples():  # one section, so its instruments and no others
        sections = json.loads(corpus.manifest.loc[row.track_id, "arrangement"])["sections"]
        section = [s for s in sections if s["start"] <= row.start + 0.01][-1]
        assert set(row.families.split("+")) == {
            name for name, family in FAMILIES.items() if set(section["programmes"]) & set(family)
        }


def test_padding_of_a_short_recording_does_not_count(corpus, scores):
    def cut(arrangement):
        first = {**arrangement["sections"][0], "length": 3.0}
        rest = {**arrangement["sections"][1], "start": 3.0, "length": 1.0}
        return {**arrangement, "sections": [first, rest], "duration": 4.0}

    row = corpus.manifest.iloc[0]
    ((_, short),) = window_properties(of_one(row, cut), [row.name]).iterrows()
    assert short["start"] == 0 and short["purity"] == pytest.approx(0.75)
    assert_as_sampled(short, playable_score(scores, row.name).notes, cut(json.loads(row["arrangement"])))


def test_where_no_note_sounds(corpus):
    def after_the_end(arrangement):
        return {**arrangement, "sections": [{**s, "beat": 1e6} for s in arrangement["sections"]]}

    row = corpus.manifest.iloc[0]
    silent = window_properties(of_one(row, after_the_end), [row.name])
    assert silent["register"].isna().all() and silent[list(CHROMA_COLUMNS)].eq(0).all(axis=None)
    assert silent["tempo"].notna().all()


def test_the_chroma_is_that_of_the_audio(corpus, table):
    """How the chroma changes from window to window is the same in the score as in the audio."""
    changes = []
    for track_id, rows in table.groupby("track_id"):
        first = (rows["start"] * SAMPLE_RATE).round().astype(int)
        heard = np.stack([mean_chroma(corpus.audio(track_id)[i : i + HOP * WINDOW]) for i in first])
        read = rows[list(CHROMA_COLUMNS)].to_numpy()
        changes.append([(read - read.mean(axis=0)).ravel(), (heard - heard.mean(axis=0)).ravel()])
    read, heard = np.concatenate(changes, axis=1)
    assert np.corrcoef(read, heard)[0, 1] > 0.7  # read half a second late it is 0.63


def test_unknown_tracks_are_refused(corpus):
    with pytest.raises(KeyMynaError, match="no track 'nothing'"):
        window_properties(corpus, [*corpus.manifest.index, "nothing"])
    with pytest.raises(KeyMynaError, match="track_ids is empty"):
        window_properties(corpus, [])
