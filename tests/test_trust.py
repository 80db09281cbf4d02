"""What is said of a model's answers, against the same numbers by hand."""

from dataclasses import replace

import matplotlib.pyplot as plt
import models
import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib.corpus.rendered.build import SongConfig, build_songs
from keymyna_lib.corpus.rendered.local_keys import LocalKey
from keymyna_lib.experiments import trust
from keymyna_lib.experiments.key_tracking import SYSTEMS, Heard
from keymyna_lib.experiments.recipe import toy_recipe
from keymyna_lib.key_model import MOST
from keymyna_lib.report import answers

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def heard():
    """Answers to songs, as `trust.songs` has them."""
    reference = RNG.integers(0, 24, 50)
    wrong = RNG.random(50) < 0.3
    return pd.DataFrame(
        {
            "track_id": [f"song {i}" for i in range(50)],
            "reference": reference,
            "estimate": (reference + np.where(wrong, 1, 0)) % 24,
            "score": np.where(wrong, 0.0, 1.0),
            "confidence": RNG.random(50),
            "uncalibrated": RNG.random(50),
            "doubt": np.where(wrong, 2.0, 1.0) + RNG.random(50) / 2,
        }
    )


def sounds(doubts, confidence=0.5):
    return pd.concat(
        [pd.DataFrame({"kind": kind, "doubt": values, "confidence": confidence}) for kind, values in doubts.items()]
    )


def test_songs_are_answered_as_the_model_answers_their_windows():
    model = models.model(temperature=0.5)
    corpus = build_songs(
        SongConfig(n_songs=2, seconds=14, scope="piece", detune_cents=0, snr_db=(30, 30), seed=5), progress=False
    )
    found = trust.songs(model, corpus).set_index("track_id")
    for track in corpus.tracks():
        picture = np.asarray(corpus.spectrogram(track), np.float32).T
        starts = [*range(0, picture.shape[1] - 196, 196), picture.shape[1] - 196]
        windows = np.stack([picture[:, start : start + 196] for start in starts])
        p = model.probabilities(model.encoder(torch.from_numpy(windows)).detach()).astype(np.float64)
        mean, row = p.mean(axis=0), found.loc[track]
        assert row.estimate == mean.argmax() and row.reference == corpus.manifest.loc[track, "key"]
        assert row.uncalibrated == pytest.approx(mean.max(), rel=1e-4)
        assert row.confidence == pytest.approx(mean.max() ** 2 / (mean**2).sum(), rel=1e-4)
        assert row.doubt == pytest.approx(-(p * np.log(p)).sum(axis=1).mean(), rel=1e-4)


def test_sounds_are_of_every_kind_and_others_for_each_split():
    recipe = replace(toy_recipe("mel"), n_no_key=2)
    valid, test = (trust.sounds(models.model(), recipe, split, show=False) for split in ("valid", "test"))
    assert valid["kind"].tolist() == test["kind"].tolist() == ["noise"] * 2 + ["drums"] * 2 + ["atonal"] * 2
    assert not set(valid["doubt"]) & set(test["doubt"]) and test["doubt"].between(0, MOST).all()


def test_withholding_what_is_in_doubt_leaves_the_rest(heard):
    found = trust.calibration(heard, 1.75).set_index("measure")
    given = heard["doubt"] <= 1.75
    assert found.loc["answered", "value"] == given.mean() and found.loc["weighted_both, answered", "value"] == 1
    assert found.loc["weighted_both", "value"] == found.loc["accuracy", "value"] == pytest.approx(heard["score"].mean())
    assert (found["low"] <= found["value"])[:4].all() and found["low"][4:].isna().all()
    nothing = trust.calibration(heard, 0.0).set_index("measure").loc["weighted_both, answered"]
    assert nothing.n == 0 and np.isnan(nothing.value)


def test_what_has_no_key_is_compared_at_as_many_songs_withheld(heard):
    chosen = sounds({"noise": [3.0, 3.1], "drums": [2.6, 2.7]})
    tested = sounds({"noise": [1.0, 2.8, 2.9, 3.1], "drums": [2.0, 2.9]}, confidence=0.9)
    found = trust.no_key(heard, chosen, tested, 1.75).set_index(["kind", "measure"])["value"]
    assert found["noise", "answered"] == 0.25 and found["drums", "answered"] == 0.0
    least = heard["confidence"].sort_values().iloc[(heard["doubt"] > 1.75).sum()]  # as many songs have less
    for sure, given in ((least, 1.0), (least - 1e-9, 0.0)):
        of = trust.no_key(heard, chosen, tested.assign(confidence=sure), 1.75).set_index(["kind", "measure"])["value"]
        assert of["noise", "by confidence"] == of["drums", "by confidence"] == given
    # All songs are below both kinds: the threshold is as high as the kind that is known allows.
    assert found["drums", "kind unknown"] == 1.0 and found["noise", "kind unknown"] == 0.25


def passage(name, keys, bad=False):
    """A passage of two halves in some keys, of which the model is sure and the template is not."""
    n = 20
    p = np.full((n, 24), 0.1 / 23)
    p[: n // 2, keys[0]], p[n // 2 :, keys[1]] = 0.9, 0.9
    edges = np.arange(n + 1.0)
    truth = (LocalKey(0, n / 2, keys[0]), LocalKey(n / 2, n, keys[1]))
    return Heard(name, truth, p, edges, np.ones(n), keys[0], RNG.random((n, 24)) if bad else p)


def test_the_key_over_time_is_judged_by_music():
    music = {"songs": [passage("a", (0, 7), bad=True)], "chorales": [passage("b", (3, 10)), passage("c", (0, 2))]}
    judged = trust.over_time(music, 2.0, show=False)
    assert len(judged) == 3 * len(SYSTEMS) and set(judged["music"]) == set(music)
    found = trust.tracking(judged).set_index(["music", "system", "measure"])
    assert found.loc[("songs", "smoothed", "score over time"), "value"] == 1
    assert found.loc[("songs", "smoothed", "boundaries (F)"), "value"] == 1
    assert found.loc[("songs", "one key", "boundaries (F)"), "value"] == 0
    assert found.loc[("chorales", "template, smoothed", "score over time"), "value"] == 1
    assert found["n"].tolist() == [1] * 2 * len(SYSTEMS) + [2] * 2 * len(SYSTEMS)
    ahead = trust.leads(judged, "smoothed").set_index(["music", "system"])
    assert ahead.loc[("chorales", "template, smoothed"), ["difference", "low", "high"]].tolist() == [0, 0, 0]
    expected = 1 - found.loc[("songs", "one key", "score over time"), "value"]
    assert ahead.loc[("songs", "one key"), ["difference", "low", "high"]].tolist() == [expected] * 3
    table = answers.tracking_table(trust.tracking(judged), SYSTEMS, ["run-1"])
    shown = table.frame.set_index(["music", "system"])
    assert shown.loc[("songs", "smoothed"), "boundaries (F)"] == "100.0"
    assert shown.loc[("chorales", "smoothed"), "score over time"] == "100.0 [100.0, 100.0]"
    assert table.cells["songs, smoothed / boundaries (F)"] == ["run-1"]


def test_without_a_model_everything_says_not_run_and_nothing_is_traced():
    for table in (
        answers.calibration_table(None, []),
        answers.no_key_table(None, ["noise", "drums"], []),
        answers.tracking_table(None, SYSTEMS, []),
    ):
        cells = table.frame.drop(columns=table.labels).to_numpy()
        assert cells.size and (cells == "not run").all() and not table.cells


def test_tables_show_what_was_measured(heard):
    shown = answers.calibration_table(trust.calibration(heard, 1.75), ["run-1"]).frame.set_index("measure")["value"]
    assert shown["weighted score of those answered"] == "100.0 [100.0, 100.0]"
    assert " " not in shown["calibration error after"]
    chosen = sounds({"noise": [3.0], "drums": [2.2]})
    table = answers.no_key_table(trust.no_key(heard, chosen, chosen, 1.75), ["noise", "drums"], ["run-1"])
    assert table.frame["answered"].tolist() == ["0.0 [0.0, 0.0]"] * 2
    assert table.cells["drums / answered"] == ["run-1"]


def test_what_is_right_of_the_line_gets_no_answer():
    _, axis = plt.subplots()
    answers.doubt_points(axis, {"songs": np.array([0.5, 1.0]), "noise": np.array([2.5])}, 1.5)
    songs, noise, line = axis.lines
    assert songs.get_xdata().tolist() == [0.5, 1.0] and noise.get_xdata().tolist() == [2.5]
    assert set(line.get_xdata()) == {1.5} and [text.get_text() for text in axis.get_yticklabels()] == [
        "songs (2)",
        "noise (1)",
    ]
    assert songs.get_color() == noise.get_color()  # the rows tell them apart; colours are those of systems
    plt.close("all")
