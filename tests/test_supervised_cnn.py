"""The supervised network on a toy problem: it learns, repeats and resumes exactly, and averages what windows say."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments import supervised_cnn
from keymyna_lib.experiments.supervised_cnn import (
    FEATURES,
    HEAD,
    CnnConfig,
    CnnTraining,
    KeyCnn,
    cnn_configuration,
    pitch_shifted,
    record_cnn,
    track_probabilities,
    train_cnn,
    train_cnn_once,
)
from keymyna_lib.features import cut_windows
from keymyna_lib.front_ends import N_BANDS, transpose_bands
from keymyna_lib.report.runs import Run, load_metrics, load_predictions
from keymyna_lib.spectrogram import WINDOW, compress, mel_power, window_starts

SPLIT = np.repeat(["train", "valid", "test"], [48, 24, 24])
NAMES = [f"t{i}" for i in range(len(SPLIT))]
TINY = dict(channels=2, lr=0.01, batch_size=16, max_steps=12, eval_every=4, patience=9, device="cpu")


def of_key(key, frames, rng):
    """(frame, band) log-frequency spectrogram of a triad in two octaves under noise."""
    bands = 0.2 * rng.random((frames, 168))
    for note in (0, 3 if key >= 12 else 4, 7):
        for octave in (2, 3):
            bands[:, 24 * octave + 2 * (key % 12 + note)] += 2 + rng.random(frames)
    return bands.astype(np.float16)


@pytest.fixture(scope="module")
def corpus():
    rng, keys = np.random.default_rng(0), np.arange(len(NAMES)) % 24
    lengths = rng.integers(100, 500, len(NAMES))
    frames = np.concatenate([of_key(key, n, rng) for key, n in zip(keys, lengths)])
    first = np.cumsum(lengths) - lengths
    manifest = pd.DataFrame({"key": keys, "split": SPLIT, "source": "x", "composition": NAMES}, index=NAMES)
    return SimpleNamespace(
        manifest=manifest,
        tracks=lambda split: [name for name, s in zip(NAMES, SPLIT) if s == split],
        spectrogram=lambda name: frames[first[NAMES.index(name)] :][: lengths[NAMES.index(name)]],
        frames=[frames],
        offsets=pd.DataFrame({"shard": 0, "first_frame": first, "n_frames": lengths}, index=NAMES),
        front_end="log-frequency",
        hash="toy",
    )


def test_it_learns_keys_that_it_was_shown_and_their_transpositions(corpus, tmp_path):
    settings = CnnConfig(**TINY | dict(channels=4, max_steps=30, eval_every=15))
    net, history = train_cnn(settings, corpus, tmp_path / "a.safetensors", show=False)
    test = corpus.tracks(split="test")
    assert (track_probabilities(net, corpus, test).argmax(axis=1) == corpus.manifest.loc[test, "key"]).mean() > 0.8
    assert history["valid_score"].max() > 0.8


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_it_repeats_and_resumes_exactly(corpus, tmp_path, monkeypatch):
    settings = CnnConfig(**TINY)
    net, history = train_cnn(settings, corpus, tmp_path / "a.safetensors", show=False)
    again, _ = train_cnn(settings, corpus, tmp_path / "b.safetensors", show=False)
    other, _ = train_cnn(CnnConfig(**TINY, seed=1), corpus, tmp_path / "c.safetensors", show=False)
    assert same(net, again) and not same(net, other)

    class Killed(Exception):
        pass

    real = CnnTraining.take_step

    def dies_at_ten(self):
        if self.step == 10:
            raise Killed
        return real(self)

    monkeypatch.setattr(CnnTraining, "take_step", dies_at_ten)
    with pytest.raises(Killed):
        train_cnn(settings, corpus, tmp_path / "d.safetensors", show=False)
    monkeypatch.setattr(CnnTraining, "take_step", real)
    steps = []
    monkeypatch.setattr(CnnTraining, "take_step", lambda self: steps.append(self.step) or real(self))
    resumed, curve = train_cnn(settings, corpus, tmp_path / "d.safetensors", show=False)
    assert steps == [8, 9, 10, 11]
    assert same(net, resumed)
    pd.testing.assert_frame_equal(history, curve)


def test_a_finished_run_comes_from_the_cache_and_a_damaged_one_starts_anew(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    settings = CnnConfig(**TINY | dict(max_steps=2, eval_every=1))
    net, history = train_cnn_once(settings, corpus, show=False)
    real, steps = CnnTraining.take_step, []
    monkeypatch.setattr(CnnTraining, "take_step", lambda self: steps.append(1) or real(self))
    again, curve = train_cnn_once(settings, corpus, show=False)
    assert not steps and same(net, again) and history.equals(curve)
    (file,) = (tmp_path / "supervised_cnn").iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    anew, _ = train_cnn_once(settings, corpus, show=False)
    assert len(steps) == 2 and same(net, anew) and "damaged" in capsys.readouterr().out


def test_it_stops_when_validation_does_not_improve_and_keeps_the_best(corpus, tmp_path, monkeypatch):
    scores, seen = iter([0.1, 0.5, 0.3, 0.5, 0.4, 0.9]), []

    def scripted(reference, estimate, fifths):
        seen.append(reference)
        return np.array([next(scores)])

    kept = {}
    real = CnnTraining.look

    def look(self, loss):
        real(self, loss)
        kept[self.step] = {name: value.clone() for name, value in self.net.state_dict().items()}

    monkeypatch.setattr(supervised_cnn, "mirex_scores", scripted)
    monkeypatch.setattr(CnnTraining, "look", look)
    settings = CnnConfig(**TINY | dict(max_steps=60, eval_every=1, patience=3))
    net, history = train_cnn(settings, corpus, tmp_path / "a.safetensors", show=False)
    assert list(history["valid_score"]) == [0.1, 0.5, 0.3, 0.5, 0.4] and list(history["step"]) == [1, 2, 3, 4, 5]
    assert all(torch.equal(value, kept[2][name]) for name, value in net.state_dict().items())
    assert all(np.array_equal(keys, np.arange(48, 72) % 24) for keys in seen)  # validation tracks alone


def test_a_track_has_the_mean_of_its_windows_probabilities(corpus):
    net = KeyCnn(168, 2, 0.1, torch.Generator().manual_seed(0)).eval()
    found = track_probabilities(net, corpus, NAMES[:5])
    few, most = track_probabilities(net, corpus, NAMES[:5], 1), 0
    for name, row, middle in zip(NAMES, found, few):
        stored = torch.from_numpy(corpus.spectrogram(name)).T
        windows = cut_windows(stored, window_starts(stored.shape[1], WINDOW))
        each = torch.stack([net(window[None])[0].softmax(dim=0) for window in windows]).detach().numpy()
        assert np.allclose(row, each.mean(axis=0), atol=1e-6) and row.sum() == pytest.approx(1)
        assert np.allclose(middle, each[len(each) // 2], atol=1e-6)
        most = max(most, len(windows))
    assert most > 1


def test_shifted_crops_are_moved_by_bands_with_their_keys():
    crops, keys = torch.rand(200, 168, 3), torch.arange(200) % 24
    moved, labels = pitch_shifted(crops, keys, torch.Generator().manual_seed(0))
    found = set()
    for crop, key, new, label in zip(crops, keys, moved, labels):
        (semitones,) = [s for s in range(-11, 12) if torch.equal(transpose_bands(crop, s), new)]
        found.add(semitones)
        assert label // 12 == key // 12 and (label - key - semitones) % 12 == 0
    assert found == set(range(-4, 8))


def test_shifted_mel_crops_rise_and_fall_with_their_keys():
    """A sine's band moves to where that of the sine so many semitones away is."""
    time = np.arange(8000) / 16000
    crop = compress(mel_power(np.sin(2 * np.pi * 1000 * time).astype(np.float32), [0.0])[0])
    keys = torch.zeros(100, dtype=torch.long)
    moved, labels = pitch_shifted(crop.expand(100, -1, -1), keys, torch.Generator().manual_seed(0))
    for new, label in zip(moved, labels.tolist()):
        semitones = label - 12 * (label > 7)
        sine = np.sin(2 * np.pi * 1000 * 2 ** (semitones / 12) * time).astype(np.float32)
        expected = mel_power(sine, [0.0])[0].mean(dim=1).argmax()
        assert abs(new.mean(dim=1).argmax() - expected) <= 1
    assert set(labels.tolist()) == set(range(12))


@pytest.mark.parametrize("front_end", N_BANDS)
def test_it_is_small_and_takes_both_front_ends(front_end):
    net = KeyCnn(N_BANDS[front_end], CnnConfig().channels, 0.1, torch.Generator().manual_seed(0))
    assert sum(parameter.numel() for parameter in net.parameters()) < 200_000
    assert net.eval()(torch.rand(2, N_BANDS[front_end], WINDOW)).shape == (2, 24)


def test_dropout_leaves_the_mean_alone():
    net = KeyCnn(168, 8, 0.5, torch.Generator().manual_seed(0)).eval()
    windows = torch.rand(1, 168, WINDOW).expand(64, -1, -1)
    with torch.no_grad():
        dropped = net(windows, torch.Generator().manual_seed(1))
    assert dropped.std(dim=0).min() > 1e-3
    assert torch.equal(dropped, net(windows, torch.Generator().manual_seed(1)))
    assert net(windows).std(dim=0).max() < 1e-4


def test_what_cannot_be_trained(corpus, tmp_path):
    with pytest.raises(KeyMynaError, match="channels"):
        CnnConfig(channels=0)
    empty = SimpleNamespace(**vars(corpus) | {"tracks": lambda split: [] if split == "valid" else NAMES[:48]})
    with pytest.raises(KeyMynaError, match="validation tracks"):
        train_cnn(CnnConfig(**TINY), empty, tmp_path / "a.safetensors", show=False)
    with pytest.raises(KeyMynaError, match="lower lr"):
        train_cnn(CnnConfig(**TINY | dict(lr=1e30)), corpus, tmp_path / "b.safetensors", show=False)


def test_a_run_holds_the_test_estimates_of_the_chosen_network(corpus, home):
    settings = CnnConfig(**TINY | dict(max_steps=2, eval_every=1, budget=24))
    config = cnn_configuration(settings, "toy")
    assert (config["features"], config["head"], config["budget"]) == (FEATURES, HEAD, 24) and "device" not in config
    with Run("supervised_cnn", profile="smoke", notebook="n", seed=0, inputs={"corpus": "c"}, config=config) as run:
        record_cnn(run, settings, corpus, show=False)
    net, history = train_cnn_once(settings, corpus, show=False)
    stored = load_predictions("smoke", run.run_id).set_index("track_id")
    test = corpus.tracks(split="test")
    assert list(stored.index) == test
    assert (stored["estimate"] == track_probabilities(net, corpus, test).argmax(axis=1)).all()
    metrics = load_metrics("smoke", [run.run_id]).set_index(["dataset", "split", "metric"])["value"]
    assert metrics["all", "train", "labelled_tracks"] == 24
    assert metrics["all", "valid", "weighted_both"] == pytest.approx(history["valid_score"].max(), abs=1e-6)
