"""The pre-training loop: resuming is exact, learning happens, draws are what they claim to be."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from keymyna_lib.errors import KeyMynaError
from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import CropSampler, PretrainConfig, Pretraining, learning_rate, pick_device, pretrain


def config(**changes):
    values = dict(encoder=EncoderConfig("vit-toy", "vertical", "log1p"), mask_ratio=0.5, crop_frames=20,
                  loss="infonce", temperature=0.1, gamma=0.9, projection_dim=16, steps=6, batch_size=8,
                  optimizer="adam", lr=1e-3, weight_decay=1e-5, warmup_steps=2, clip_norm=1.0, precision="fp32",
                  device="cpu", checkpoint_every=2, validate_every=3, seed=0)
    return PretrainConfig(**values | changes)


@pytest.fixture(scope="module")
def corpus():
    """Twelve tracks, each with a faint spectrum of its own under loud noise; a stand-in for the spectrogram store."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(15, 60, 12)
    frames = np.concatenate([0.4 * rng.random(128) + 4 * rng.random((n, 128)) for n in lengths]).astype(np.float16)
    firsts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return SimpleNamespace(frames=frames, hash="stand-in",
                           offsets=pd.DataFrame({"first_frame": firsts, "n_frames": lengths},
                                                index=[f"t{i}" for i in range(12)]))


TRAIN, VALID = [f"t{i}" for i in range(9)], ["t9", "t10", "t11"]


@pytest.mark.parametrize("loss, optimizer", [("infonce", "adam"), ("sogclr", "adamw")])
def test_killed_and_resumed_equals_unbroken(corpus, tmp_path, monkeypatch, loss, optimizer):
    settings = config(loss=loss, optimizer=optimizer)
    unbroken, curve = pretrain(settings, corpus, TRAIN, VALID, tmp_path / "a.safetensors", show=False)

    class Killed(Exception):
        pass

    real = Pretraining.take_step

    def dies_at_five(self):
        if self.step == 5:
            raise Killed
        real(self)

    monkeypatch.setattr(Pretraining, "take_step", dies_at_five)
    with pytest.raises(Killed):
        pretrain(settings, corpus, TRAIN, VALID, tmp_path / "b.safetensors", show=False)
    monkeypatch.setattr(Pretraining, "take_step", real)
    torch.rand(3)  # the global state is nobody's business
    resumed, curve2 = pretrain(settings, corpus, TRAIN, VALID, tmp_path / "b.safetensors", show=False)
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert curve.drop(columns="seconds").equals(curve2.drop(columns="seconds")) and len(curve) == 6


def test_a_foreign_or_damaged_checkpoint_is_not_believed(corpus, tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    first, _ = pretrain(config(), corpus, TRAIN, VALID, path, show=False)
    run = Pretraining(config(seed=1), corpus, TRAIN, VALID)
    assert not run.restore(path) and run.step == 0
    path.write_bytes(path.read_bytes()[:-100])
    again, _ = pretrain(config(), corpus, TRAIN, VALID, path, show=False)
    assert "damaged" in capsys.readouterr().out
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


def test_it_learns_to_tell_tracks_apart(corpus, tmp_path):
    _, curve = pretrain(config(steps=150, lr=3e-3, mask_ratio=0.5), corpus, TRAIN, VALID, tmp_path / "d.safetensors",
                        show=False)
    assert curve["top1"][-10:].mean() > curve["top1"][:5].mean() + 0.2
    assert curve["loss"][-10:].mean() < curve["loss"][:5].mean()
    assert curve["valid_top1"].notna().sum() == 50


def test_an_epoch_takes_each_track_once(corpus):
    sampler = CropSampler(corpus, TRAIN, 20)
    drawn = torch.cat([sampler.tracks_of_step(step, 4, seed=3) for step in range(9)])
    for epoch in drawn.split(9):
        assert sorted(epoch.tolist()) == list(range(9))
    assert drawn[:9].tolist() != drawn[9:18].tolist()


def test_crops_lie_inside_their_track_and_short_tracks_are_padded(corpus):
    sampler = CropSampler(corpus, TRAIN, 20)
    seen = set()
    for seed in range(50):
        crops = sampler.crops(torch.arange(9), torch.Generator().manual_seed(seed))
        assert crops.shape == (2, 9, 128, 20)
        for row, (first, length) in enumerate(corpus.offsets.loc[TRAIN].to_numpy()):
            track = torch.from_numpy(corpus.frames[first:first + length]).T
            for view in range(2):
                size = min(20, length)
                found = [s for s in range(length - size + 1) if torch.equal(track[:, s:s + size], crops[view, row, :, :size])]
                assert len(found) == 1 and (crops[view, row, :, size:] == 0).all()
                if row == int(np.argmax(sampler.spans[:, 1])):
                    seen.add(found[0])
    longest = sampler.spans[:, 1].max()
    assert min(seen) < 4 and max(seen) > longest - 20 - 4  # both ends are reached


def test_schedule():
    settings = config(steps=110, warmup_steps=10, lr=2.0)
    rates = [learning_rate(step, settings) for step in range(110)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(2.0) == rates[10]
    assert rates[60] == pytest.approx(1.0) and 0 < rates[-1] < 0.01


@pytest.mark.parametrize("changes, message", [({"loss": "triplet"}, "loss 'triplet'"), ({"mask_ratio": 1.0}, "mask_ratio"),
                                              ({"batch_size": 0}, "batch_size 0"), ({"precision": "fp8"}, "fp8")])
def test_bad_settings_are_named(changes, message):
    with pytest.raises(KeyMynaError, match=message):
        config(**changes)


def test_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(KeyMynaError, match="CUDA"):
        pick_device("cuda")


def test_nothing_to_learn_from(corpus, tmp_path):
    with pytest.raises(KeyMynaError, match="validation tracks"):
        pretrain(config(), corpus, TRAIN, [], tmp_path / "e.safetensors", show=False)
