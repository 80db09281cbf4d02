"""The recipe of a key model, at toy size: stages come back from the cache, and scores are those of the answers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from safetensors.numpy import save_file

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.calibration import negative_log_likelihood, reliability, tempered
from keymyna_lib.compute.processes import Processes
from keymyna_lib.corpus.corpus import join
from keymyna_lib.corpus.rendered.build import CorpusConfig, build_corpus
from keymyna_lib.corpus.rendered.local_keys import chorale_passages
from keymyna_lib.corpus.rendered.no_key import KINDS
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments import recipe as recipes
from keymyna_lib.experiments.key_tracking import PERSISTENCES, SYSTEMS
from keymyna_lib.experiments.recipe import Recipe, make, report
from keymyna_lib.key_model import KeyModel
from keymyna_lib.keys import KEY_NAMES
from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import PretrainConfig

CORPUS = dict(
    seconds=14, scope="piece", drum_probability=0.0, detune_cents=10, snr_db=(20, 20), n_chorales=4, n_tunes=24
)

pytestmark = pytest.mark.usefixtures("known_compositions")


def toy(front_end="mel", **changes):
    encoder = EncoderConfig("vit-toy", "vertical", front_end=front_end)
    values = dict(
        corpus=CorpusConfig(**CORPUS, seed=0, front_end=front_end),
        pretraining=PretrainConfig(encoder=encoder, steps=2, warmup_steps=1, batch_size=8, device="cpu"),
        max_shift=1,
        shifted_windows=1,
        widths=(32,),
        dropouts=(0.5,),
        max_steps=20,
        eval_every=10,
        seeds=(0, 1),
        n_passages=2,
        n_no_key=1,
    )
    return Recipe(**values | changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "count", lambda *_: 1)
        yield make(toy(), device="cpu", name="toy", show=False)


def test_a_model_is_made_and_made_again_from_the_cache(made, monkeypatch, tmp_path):
    monkeypatch.setattr(recipes.head_study, "train", lambda *_, **__: pytest.fail("they are in the cache"))
    again = make(toy(), device="cpu", name="toy", show=False)
    assert list(again.model.heads) == ["seed 0", "seed 1"] and again.model.temperature == made.model.temperature
    again.model.save(tmp_path / "model.safetensors")
    x = made.features.x[:3]
    expected = made.model.probabilities(x)
    np.testing.assert_allclose(KeyModel.load(tmp_path / "model.safetensors").probabilities(x), expected, atol=1e-6)
    assert made.features.shift.unique().tolist() == [-1, 0, 1] and len(made.history) == 2


def test_the_report_scores_answers(made, tmp_path):
    tracks = made.corpus.tracks(split="test")
    rng = np.random.default_rng(0)
    stored = {name: np.ascontiguousarray(made.corpus.spectrogram(name)) for name in tracks}
    save_file(stored, tmp_path / "spectrograms.safetensors")
    labels = rng.integers(0, 24, len(tracks))
    pd.DataFrame({"track": tracks, "key": [KEY_NAMES[k] for k in labels], "set": "mine"}).to_csv(
        tmp_path / "tracks.csv", index=False
    )
    other = recipes.held_out(toy(), "TimGM6mb", n_songs=2, show=False)
    table = report(made, others={"other": other}, unlabelled=made.corpus, real=tmp_path, show=False)
    assert table.set_index(["set", "measure"])["tracks"]["other", "accuracy"] == 2
    table = table.set_index(["set", "measure"])["value"]
    chosen = made.features.select(tracks)
    answers = np.array(
        [made.model.probabilities(chosen.x[chosen.track == i]).mean(axis=0).argmax() for i in range(len(tracks))]
    )
    truth = made.corpus.manifest.loc[tracks, "key"].to_numpy()
    assert table["test: all", "accuracy"] == pytest.approx((answers == truth).mean())
    assert table["test: all", "weighted_both"] == pytest.approx(mirex_scores(truth, answers, fifths="both").mean())
    assert table["mine", "weighted_both"] == pytest.approx(mirex_scores(labels, answers, fifths="both").mean())
    confidence = made.model.calibrated(
        np.array([made.model.probabilities(chosen.x[chosen.track == i]).mean(axis=0) for i in range(len(tracks))])
    ).max(axis=1)
    doubt = np.array(
        [
            scipy.stats.entropy(made.model.probabilities(chosen.x[chosen.track == i]), axis=1).mean()
            for i in range(len(tracks))
        ]
    )
    assert table["test: all", "answered"] == pytest.approx((doubt <= made.model.max_entropy).mean())
    assert table["test: all", "calibration error"] == pytest.approx(reliability(confidence, answers == truth).error)
    assert {f"without a key: {kind}" for kind in KINDS} <= {
        name for name, measure in table.index if measure == "answered"
    }
    for system in SYSTEMS:
        for name in ("songs", "analysed chorales"):
            assert 0 <= table[f"{name}: {system}", "weighted_both over time"] <= 1
            assert 0 <= table[f"{name}: {system}", "boundaries within 3 s (F)"] <= 1
    assert {"moves with a transposition", "halves agree"} <= {
        measure for name, measure in table.index if name == "unlabelled"
    }


def test_what_calibrates_the_model_is_chosen_on_validation(made):
    chosen = made.features.select(made.corpus.tracks(split="valid"))
    p = made.model.probabilities(chosen.x)
    mean = np.array([p[chosen.track == i].mean(axis=0) for i in range(int(chosen.track.max()) + 1)])
    labels = made.corpus.manifest.loc[made.corpus.tracks(split="valid"), "key"].to_numpy()
    grid = np.geomspace(0.1, 10, 801)
    losses = [negative_log_likelihood(tempered(mean, t), labels) for t in grid]
    assert made.model.temperature == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)
    doubt = scipy.stats.entropy(p, axis=1)
    tonal = np.array([doubt[chosen.track == i].mean() for i in range(len(mean))])
    assert (tonal > made.model.max_entropy).mean() <= recipes.LOST
    assert made.model.persistence in PERSISTENCES


def test_validation_and_test_have_no_passage_in_common(made):
    valid, test = (recipes.song_passages(made.recipe, split) for split in ("valid", "test"))
    assert [len(one.local_keys) for one in valid + test] == [2, 1, 2, 1]
    assert not {one.name for one in valid} & {one.name for one in test}


def test_chorales_that_were_trained_on_are_left_out():
    sound = {"detune_cents": 0, "snr_db": (20, 20)}
    names = [one.name for one in chorale_passages(0, **sound)]
    left = chorale_passages(0, **sound, without=names[:2], count=3)
    assert [one.name for one in left] == names[2:5]


def test_front_ends_of_corpus_and_encoder_agree():
    with pytest.raises(KeyMynaError, match="the corpus's front_end is log-frequency, the encoder's mel"):
        toy(corpus=CorpusConfig(**CORPUS, seed=0, front_end="log-frequency"))


def test_corpora_are_joined(made, tmp_path):
    one = made.corpus
    with pytest.raises(KeyMynaError, match="is in two of the corpora"):
        join([one, one])
    other = build_corpus(
        CorpusConfig(**CORPUS | {"n_chorales": 2, "n_tunes": 2}, seed=3), progress=False, client=Processes(1)
    )
    new = [name for name in other.manifest.index if name not in one.manifest.index]
    assert new, "the draw must differ for this test"
    other = replace(other, manifest=other.manifest.loc[new], offsets=other.offsets.loc[new])
    both = join([one, other])
    for part in (one, other):
        for name in part.manifest.index[:3]:
            assert np.array_equal(both.spectrogram(name), part.spectrogram(name))
            assert np.array_equal(both.audio(name), part.audio(name))
    assert len(both.manifest) == len(one.manifest) + len(new) and both.hash != one.hash
    assert paths.CACHE in one.path.parents
