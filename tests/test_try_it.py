"""One recording heard and seen, and the panel's callbacks, without a browser."""

import datetime
import io

import matplotlib.pyplot as plt
import models
import numpy as np
import pytest
import soundfile
import tones
from corpora import small_corpus

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered.build import build_corpus
from keymyna_lib.keys import KEY_NAMES, RELATIONS, parse_key, relation
from keymyna_lib.predict import DOUBT, SILENCE, KeyFinder
from keymyna_lib.spectrogram import SAMPLE_RATE
from keymyna_lib.tool import try_it

PNG = b"\x89PNG"
N = 3


@pytest.fixture(scope="module")
def corpus(scores, tmp_path_factory):
    return build_corpus(small_corpus(), progress=False, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def session(corpus):
    return try_it.Session(KeyFinder(models.model()), corpus, corpus.tracks())


@pytest.fixture
def panel(session):
    yield try_it.Panel(session, n_neighbours=N, mask_ratio=0.9, seed=0)
    plt.close("all")


def sent(name, content):
    """What the browser sends of a file."""
    now = datetime.datetime.now(datetime.UTC)
    return ({"name": name, "type": "", "size": len(content), "content": memoryview(content), "last_modified": now},)


def shown(panel):
    return {name for name, image in panel.pictures.items() if image.layout.display != "none" and image.value[:4] == PNG}


# The session


def test_a_track_is_heard_as_its_file_would_be(session, corpus, tmp_path):
    track = corpus.tracks()[0]
    heard = session.of_track(track)
    soundfile.write(tmp_path / "a.flac", corpus.audio(track), SAMPLE_RATE)
    file = session.of_file(tmp_path / "a.flac")
    np.testing.assert_array_equal(heard.estimate.probabilities, file.estimate.probabilities)
    np.testing.assert_array_equal(heard.audio, file.audio)
    assert heard.key == corpus.manifest.loc[track, "key"] and file.key is None and file.name == "a.flac"
    assert heard.answer.endswith(f"The corpus says {KEY_NAMES[heard.key]}.")
    played, rate = soundfile.read(io.BytesIO(heard.wav()))
    np.testing.assert_allclose(played, corpus.audio(track), atol=1e-4)
    assert rate == SAMPLE_RATE


def test_neighbours_are_the_nearest_by_cosine(session, corpus):
    tracks = corpus.tracks()
    embeddings = np.stack([session.of_track(track).estimate.embedding for track in tracks])
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for i, track in enumerate(tracks[:3]):
        heard = session.of_track(track)
        similar = unit @ unit[i]
        expected = [j for j in np.argsort(-similar) if j != i][:N]
        found = session.neighbours(heard, N)
        assert found.index.tolist() == [tracks[j] for j in expected]
        np.testing.assert_allclose(found["similarity"], similar[expected], rtol=1e-5)
        for near, row in found.iterrows():
            assert row["title"] == corpus.manifest.loc[near, "title"]
            assert row["key"] == corpus.manifest.loc[near, "key_name"]
            assert row["relation"] == RELATIONS[int(relation(parse_key(row["key"]), heard.estimate.key))]


def test_the_mask_keeps_its_share_of_the_patches_and_is_of_the_seed(session, corpus):
    heard = session.of_track(corpus.tracks()[0])

    def seen(mask_ratio, seed=0):
        _, window = session.spectrogram(heard, mask_ratio=mask_ratio, seed=seed).axes
        return ~np.ma.getmaskarray(np.ma.masked_invalid(window.images[0].get_array())).any(axis=0)

    assert seen(0.0).all() and seen(0.0).shape == (196,) and seen(0.9).sum() == 2 * 10
    np.testing.assert_array_equal(seen(0.9), seen(0.9))
    assert (seen(0.9) != seen(0.9, seed=1)).any()
    plt.close("all")


def test_some_tracks_are_of_the_test_split_and_of_the_seed(corpus):
    all_of_them = corpus.tracks(split="test")
    assert try_it.some_tracks(corpus, 0, 0) == all_of_them == try_it.some_tracks(corpus, 100, 0)
    assert len(try_it.some_tracks(corpus, 1, 0)) == 1


def test_without_a_track_there_is_nothing_to_compare_with(session, corpus):
    with pytest.raises(KeyMynaError, match="no track to compare with"):
        try_it.Session(KeyFinder(models.model()), corpus, [])
    with pytest.raises(KeyMynaError, match="no track 'x'"):
        session.of_track("x")


# The panel


def test_nothing_is_heard_or_seen_until_something_is_chosen(panel):
    assert shown(panel) == set() and panel.player.value == b"" and panel.answer.value == ""
    assert panel.player.layout.display == "none"
    panel.mask_ratio.value = 0.5
    assert shown(panel) == set()


def test_another_track_is_another_answer_and_another_picture(panel, session, corpus):
    first, second = corpus.tracks()[:2]
    seen = []
    for track in (first, second):
        panel.track.value = track
        assert session.titles[track] in panel.answer.value and KEY_NAMES[corpus.manifest.loc[track, "key"]] in (
            panel.answer.value
        )
        assert shown(panel) == set(panel.pictures) and panel.player.value == session.of_track(track).wav()
        assert panel.table.value.count("<tr") == 1 + N
        seen.append({name: image.value for name, image in panel.pictures.items()})
    assert all(seen[0][name] != seen[1][name] for name in panel.pictures)
    assert not plt.get_fignums()


def test_the_slider_draws_another_mask_and_nothing_else(panel, corpus):
    panel.track.value = corpus.tracks()[0]
    before = {name: image.value for name, image in panel.pictures.items()}
    panel.mask_ratio.value = 0.5
    changed = {name for name, image in panel.pictures.items() if image.value != before[name]}
    assert changed == {try_it.SPECTROGRAM}


def test_a_file_may_be_sent_or_named_and_the_choice_before_is_taken_back(panel, corpus, tmp_path):
    tones.write(tmp_path / "<b>.wav", 3, seconds=2.0)  # shorter than a window
    panel.track.value = corpus.tracks()[0]
    panel.path.value = str(tmp_path / "<b>.wav")
    by_path = panel.answer.value
    assert "&lt;b&gt;.wav: " in by_path and panel.track.value == "" and shown(panel) == set(panel.pictures)
    panel.upload.value = sent("<b>.wav", (tmp_path / "<b>.wav").read_bytes())
    assert panel.answer.value == by_path and panel.path.value == "" and panel.upload.value == ()
    panel.track.value = corpus.tracks()[0]
    assert "&lt;b&gt;" not in panel.answer.value


@pytest.mark.parametrize("name", ["words.wav", "../../words.wav"])
def test_a_bad_file_is_one_line_that_names_it_and_takes_the_pictures_away(panel, corpus, name, capsys):
    panel.track.value = corpus.tracks()[0]
    panel.upload.value = sent(name, b"words " * 500)
    assert panel.answer.value.startswith("<b>words.wav is not a sound file") and "\n" not in panel.answer.value
    assert shown(panel) == set() and panel.player.value == b"" and panel.table.value == ""
    panel.path.value = "/does/not/exist.mp3"
    assert "/does/not/exist.mp3" in panel.answer.value
    assert "Traceback" not in "".join(capsys.readouterr())


def test_silence_is_drawn_and_has_no_answer(panel):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(30_000), SAMPLE_RATE, format="WAV")
    panel.upload.value = sent("silent.wav", file.getvalue())
    assert f"no clear key ({SILENCE})" in panel.answer.value and "cents" not in panel.answer.value
    assert shown(panel) == {try_it.SPECTROGRAM} and panel.table.value == ""


def test_doubt_has_no_timeline(corpus):
    unsure = KeyFinder(models.model(max_entropy=0.0))
    panel = try_it.Panel(try_it.Session(unsure, corpus, corpus.tracks()), n_neighbours=N, mask_ratio=0.9, seed=0)
    panel.track.value = corpus.tracks()[0]
    assert f"no clear key ({DOUBT})" in panel.answer.value
    assert shown(panel) == set(panel.pictures) - {try_it.TIMELINE} and set(panel.pictures) > shown(panel)
