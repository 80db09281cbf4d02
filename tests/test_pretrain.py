"""The pre-training loop: resuming is exact, learning happens, draws are what they claim to be."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from store_stand_in import TRAIN, VALID, config, store

from keymyna_lib import pretrain as pretraining
from keymyna_lib.base import paths
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments.cost import counted_flops
from keymyna_lib.losses import LOSSES, InfoNCE
from keymyna_lib.model import EncoderConfig
from keymyna_lib.objectives import OBJECTIVES, Objective
from keymyna_lib.pretrain import (
    CropSampler,
    PretrainConfig,
    Pretraining,
    learning_rate,
    pretrain,
    pretrain_once,
    training_tracks,
)
from keymyna_lib.views import AUGMENTATIONS


@pytest.fixture(scope="module")
def corpus():
    return store()


@pytest.mark.parametrize(
    "changes",
    [
        dict(loss="infonce", optimizer="adam"),
        dict(loss="sogclr", optimizer="adamw"),
        dict(objective="reconstruction"),
        dict(objective="supervised", mask_ratio=0.0),
        dict(augmentation="timbre and pitch", mask_ratio=0.0),
    ],
)
def test_killed_and_resumed_equals_unbroken(corpus, tmp_path, monkeypatch, changes):
    settings = config(**changes)
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


@pytest.mark.parametrize(
    "changes",
    [
        dict(loss="infonce"),
        dict(loss="sogclr", augmentation="timbre", mask_ratio=0.0),
        dict(loss="sogclr", encoder=EncoderConfig("vit-toy", "hybrid", "log1p"), crop_frames=40),
    ],
)
@pytest.mark.parametrize("on_device", [False, True])
def test_a_batch_embedded_in_parts_is_the_whole_batch(corpus, monkeypatch, changes, on_device):
    monkeypatch.setattr(pretraining, "steps_on_device", lambda device, objective: on_device)
    runs = [
        Pretraining(config(**changes, micro_batch=size, optimizer="adamw"), corpus, TRAIN, VALID) for size in (0, 3)
    ]
    for _ in range(3):
        for run in runs:
            run.take_step()
        whole, parts = ({name: p.grad for name, p in run.modules.named_parameters()} for run in runs)
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-5, msg=name)
    for run in runs:
        run.settle()
    for one, other in zip(*(run.history for run in runs)):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5) and one["measure"] == other["measure"]


def test_a_foreign_or_damaged_checkpoint_is_not_believed(corpus, tmp_path, capsys):
    path = tmp_path / "c.safetensors"
    first, _ = pretrain(config(), corpus, TRAIN, VALID, path, show=False)
    assert first.crop_frames == config().crop_frames  # and its file says so
    run = Pretraining(config(seed=1), corpus, TRAIN, VALID)
    assert not run.restore(path) and run.step == 0
    path.write_bytes(path.read_bytes()[:-100])
    again, _ = pretrain(config(), corpus, TRAIN, VALID, path, show=False)
    assert "damaged" in capsys.readouterr().out
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())


def test_it_learns_to_tell_tracks_apart(corpus, tmp_path):
    _, curve = pretrain(
        config(steps=150, lr=3e-3, mask_ratio=0.5), corpus, TRAIN, VALID, tmp_path / "d.safetensors", show=False
    )
    assert curve["measure"][-10:].mean() > curve["measure"][:5].mean() + 0.2
    assert curve["loss"][-10:].mean() < curve["loss"][:5].mean()
    assert curve["valid_measure"].notna().sum() == 50


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
        crops = sampler.batch(torch.arange(9), 2, torch.Generator().manual_seed(seed)).crops
        assert crops.shape == (2, 9, 128, 20)
        for row, place in enumerate(corpus.offsets.loc[TRAIN].itertuples()):
            length = place.n_frames
            track = torch.from_numpy(corpus.frames[place.shard][place.first_frame : place.first_frame + length]).T
            for view in range(2):
                size = min(20, length)
                found = [
                    s
                    for s in range(length - size + 1)
                    if torch.equal(track[:, s : s + size], crops[view, row, :, :size])
                ]
                assert len(found) == 1 and (crops[view, row, :, size:] == 0).all()
                if row == int(np.argmax(sampler.spans[:, 2])):
                    seen.add(found[0])
    longest = sampler.spans[:, 2].max()
    assert min(seen) < 4 and max(seen) > longest - 20 - 4  # both ends are reached


def test_second_crops_begin_near_the_first(corpus):
    near, far = CropSampler(corpus, TRAIN, 10, crop_distance=3), CropSampler(corpus, TRAIN, 10)
    track = int(np.argmax(near.spans[:, 2]))
    shard, first, length = near.spans[track]
    frames = torch.from_numpy(corpus.frames[shard][first : first + length]).T

    def starts(sampler, seed):
        crops = sampler.batch(torch.tensor([track]), 2, torch.Generator().manual_seed(seed)).crops[:, 0]
        return [next(s for s in range(frames.shape[1]) if torch.equal(frames[:, s : s + 10], crop)) for crop in crops]

    distances = [abs(np.diff(starts(near, seed))[0]) for seed in range(60)]
    assert max(distances) == 3 and {0, 1, 2} <= set(distances)
    assert max(abs(np.diff(starts(far, seed))[0]) for seed in range(60)) > 10


def test_keys_travel_with_their_tracks(corpus):
    batch = CropSampler(corpus, TRAIN, 10).batch(torch.tensor([4, 0, 8]), 1, torch.Generator())
    assert (
        batch.keys.tolist() == [1, 0, 2] and batch.tracks.tolist() == [4, 0, 8] and batch.crops.shape == (1, 3, 128, 10)
    )


@pytest.mark.parametrize(
    "changes, better",
    [(dict(objective="reconstruction"), "lower"), (dict(objective="supervised", mask_ratio=0.0), "higher")],
)
def test_the_other_objectives_learn_too(corpus, tmp_path, changes, better):
    _, curve = pretrain(
        config(steps=60, lr=3e-3, **changes), corpus, TRAIN, VALID, tmp_path / "f.safetensors", show=False
    )
    before, after = curve["measure"][:5].mean(), curve["measure"][-10:].mean()
    assert after < 0.8 * before if better == "lower" else after > before + 0.2


def test_only_what_needs_labels_is_kept_from_unlabelled_tracks():
    corpus = SimpleNamespace(pretraining_tracks=lambda labelled: ["labelled" if labelled else "unlabelled"])
    for objective in OBJECTIVES:
        expected = ["labelled"] if objective == "supervised" else ["unlabelled"]
        assert training_tracks(config(objective=objective), corpus) == expected


class Loudness(Objective):
    """A toy: the mean of a crop's stored values, from its embedding."""

    labelled = True
    measured = "squared error of the loudness"

    def __init__(self, encoder):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((encoder.embedding_dim,), 0.1))

    @classmethod
    def from_config(cls, config, encoder, n_tracks, generator):
        assert n_tracks == len(TRAIN) and config.objective == "loudness"
        return cls(encoder)

    def forward(self, encoder, batch, generator):
        return encoder(batch.crops[0]) @ self.scale - batch.crops[0].float().mean(dim=(1, 2))

    def loss(self, outputs, batch):
        return outputs.square().mean()

    def measure(self, outputs, batch):
        return outputs.square().mean().item()


def test_an_objective_is_added_by_its_entry_alone(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, "loudness", Loudness)
    settings = config(objective="loudness", steps=3)
    labelled = SimpleNamespace(
        pretraining_tracks=lambda labelled: TRAIN if labelled else pytest.fail("unlabelled tracks")
    )
    encoder, curve = pretrain(
        settings, corpus, training_tracks(settings, labelled), VALID, tmp_path / "g.safetensors", show=False
    )
    assert len(curve) == 3 and curve["loss"].tolist() == pytest.approx(curve["measure"].tolist())
    assert not any(parameter.isnan().any() for parameter in encoder.parameters())
    resumed = Pretraining(settings, corpus, TRAIN, VALID)
    assert resumed.restore(tmp_path / "g.safetensors") and resumed.step == 3


def test_a_loss_and_an_augmentation_are_added_by_their_entries_alone(corpus, tmp_path, monkeypatch):
    seen = []

    class Doubled(InfoNCE):
        def forward(self, first, second, tracks):
            return 2 * super().forward(first, second, tracks)

    def shortened(crops, generator):
        seen.append(crops.shape)
        return crops[:, :, :10]

    monkeypatch.setitem(LOSSES, "doubled", Doubled)
    monkeypatch.setitem(AUGMENTATIONS, "shortened", shortened)
    changes = dict(augmentation="shortened", mask_ratio=0.0, steps=3, validate_every=3)
    once, twice = (
        pretrain(config(loss=loss, **changes), corpus, TRAIN, VALID, tmp_path / f"{loss}.safetensors", show=False)[1]
        for loss in ("infonce", "doubled")
    )
    assert twice["loss"][0] == pytest.approx(2 * once["loss"][0]) and set(seen) == {(16, 128, 20), (6, 128, 20)}


def test_schedule():
    settings = config(steps=110, warmup_steps=10, lr=2.0)
    rates = [learning_rate(step, settings) for step in range(110)]
    assert rates[0] == pytest.approx(0.2) and max(rates) == pytest.approx(2.0) == rates[10]
    assert rates[60] == pytest.approx(1.0) and 0 < rates[-1] < 0.01


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss": "triplet"}, "loss 'triplet'"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"precision": "fp8"}, "fp8"),
        (
            {"objective": "rotation"},
            "objective 'rotation': expected one of contrastive, transposed, reconstruction, supervised",
        ),
        ({"augmentation": "loud"}, "augmentation 'loud'"),
        ({"crop_distance": -1}, "crop_distance -1"),
        ({"lr": 0.0}, "lr 0.0"),
        ({"temperature": -0.1}, "temperature -0.1"),
        ({"gamma": 0.0}, "gamma 0.0"),
        ({"projection_dim": -1}, "projection_dim -1"),
        ({"warmup_steps": -1}, "warmup_steps -1"),
        ({"weight_decay": "much"}, "weight_decay 'much'"),
        ({"optimizer": "sgd"}, "optimizer 'sgd'"),
        ({"clip_norm": -1.0}, "clip_norm -1.0"),
        ({"gamma": 1.1}, "gamma 1.1"),
        ({"seed": -1}, "seed -1"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"steps": 10, "warmup_steps": 11}, "warmup_steps 11: expected no more than steps, which is 10"),
        ({"batch_size": 1}, "batch_size 1: tracks of a batch are told from each other; take 2 or more"),
        ({"encoder": EncoderConfig("vit-toy", "square"), "crop_frames": 15}, "crop_frames 15: patches 'square' are 16"),
        ({"objective": "reconstruction", "mask_ratio": 0.0}, "reconstruction with"),
        ({"objective": "reconstruction", "encoder": EncoderConfig("vit-toy", "hybrid")}, "reconstruction with"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(KeyMynaError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    "changes, step, advice",
    [
        (dict(temperature=0.001), 0, "raise temperature (now 0.001)"),
        (dict(temperature=0.001, lr=1e-9), 5, "raise temperature (now 0.001)"),
        (dict(lr=10.0), 3, "lower lr (now 10.0)"),
        (dict(objective="supervised", temperature=0.001, lr=10.0), 3, "lower lr (now 10.0)"),
        (dict(), 0, "raise temperature (now 0.1)"),
        (dict(objective="supervised"), 0, "damaged spectrograms"),
    ],
)
def test_a_loss_that_is_not_finite_is_answered_with_what_helps(corpus, tmp_path, monkeypatch, changes, step, advice):
    monkeypatch.setattr(Pretraining, "take_step", lambda run: _broken_at(run, step))
    with pytest.raises(KeyMynaError) as caught:
        pretrain(config(**changes), corpus, TRAIN, VALID, tmp_path / "a.safetensors", show=False)
    assert f"the loss became nan at step {step + 1}; " in str(caught.value) and advice in str(caught.value)
    assert ("lower lr" in str(caught.value)) == ("lower lr" in advice)


def _broken_at(run, step):
    """In place of a step: its record, with a loss that is not a number from a step on."""
    loss = float("nan") if run.step >= step else 1.0
    run.history.append({"step": run.step, "loss": loss, "measure": 0.0, "lr": 1.0, "seconds": 0.0})
    run.step += 1


def test_parameters_of_a_notebook_make_a_run():
    given = {
        "preset": "vit-toy",
        "scale": "linear",
        "loss": "infonce",
        "steps": 7,
        "budgets": [48],
        "encoder": "another",
    }
    made = PretrainConfig.from_parameters(given, warmup_steps=3)
    expected = dict(encoder=EncoderConfig("vit-toy", "vertical", "linear"), loss="infonce", steps=7, warmup_steps=3)
    assert made == PretrainConfig(**expected)
    assert PretrainConfig.from_parameters({}) == PretrainConfig(encoder=EncoderConfig())
    with pytest.raises(KeyMynaError, match="patch 'round'"):
        PretrainConfig.from_parameters({"patch": "round"})


def test_missing_gpu_is_said(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(KeyMynaError, match="CUDA"):
        pick_device("cuda")


def test_nothing_to_learn_from(corpus, tmp_path):
    with pytest.raises(KeyMynaError, match="validation tracks"):
        pretrain(config(), corpus, TRAIN, [], tmp_path / "e.safetensors", show=False)


def test_counted_operations_are_those_of_the_closed_form(corpus):
    settings = config(mask_ratio=0.0, crop_frames=10, projection_dim=0, batch_size=16)
    width, depth, hidden, tokens, patch = 64, 2, 128, 5, 256
    linear = patch * width + depth * (4 * width * width + 2 * width * hidden)  # multiply-adds a token
    attention = 2 * tokens * width * depth  # scores and their use, one head
    forward = 2 * tokens * (linear + attention)
    expected = 16 * 2 * 3 * forward  # two views; backward costs twice as much as forward
    assert counted_flops(settings, corpus, TRAIN) == pytest.approx(expected, rel=0.01)


def test_a_finished_run_is_taken_from_the_cache(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    first, curve = pretrain_once(config(), corpus, TRAIN, VALID, desc="one")
    monkeypatch.setattr(Pretraining, "take_step", lambda self: pytest.fail("trained again"))
    again, curve2 = pretrain_once(config(), corpus, TRAIN, VALID, desc="two")
    assert curve.equals(curve2) and all(torch.equal(v, again.state_dict()[k]) for k, v in first.state_dict().items())
