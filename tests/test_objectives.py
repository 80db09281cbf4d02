"""Objectives, each against a restatement in plain loops or a property that it must have."""

import pytest
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.losses import InfoNCE, SogCLR, top1
from keymyna_lib.model import EncoderConfig, build_encoder
from keymyna_lib.objectives import Batch, Contrastive, Reconstruction, Supervised, Transposed, in_slices
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.views import shift_bands


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def encoder():
    return build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), generator())


def batch(views, n=6, frames=24, seed=1):
    crops = torch.rand(views, n, 128, frames, generator=generator(seed)).mul(4).half()
    return Batch(crops, torch.arange(n), torch.arange(n) % 24)


def contrastive(encoder, **changes):
    settings = dict(mask_ratio=0.0, augmentation="none", loss=InfoNCE(0.1), projection_dim=0, generator=generator())
    return Contrastive(encoder, **settings | changes)


def test_bare_views_are_the_encoder_itself(encoder):
    given = batch(2)
    outputs = contrastive(encoder)(encoder, given, generator())
    for view in range(2):
        assert torch.allclose(outputs[0, view], encoder(given.crops[view]), atol=1e-6)


@pytest.mark.parametrize(
    "changes", [dict(mask_ratio=0.75), dict(augmentation="timbre"), dict(augmentation="timbre and pitch")]
)
def test_the_two_views_of_one_crop_are_drawn_apart(encoder, changes):
    crops = batch(1).crops.expand(2, -1, -1, -1)
    ((first, second),) = contrastive(encoder, **changes)(
        encoder, Batch(crops, torch.arange(6), torch.arange(6)), generator()
    )
    assert not torch.allclose(first, second, atol=1e-3)


def test_the_measure_of_identical_views_is_one(encoder):
    crops = batch(1).crops.expand(2, -1, -1, -1)
    objective, given = contrastive(encoder), Batch(crops, torch.arange(6), torch.arange(6))
    assert objective.measure(objective(encoder, given, generator()), given) == 1


def test_transpositions_are_different_ones_the_same_in_both_views_and_told_apart(encoder):
    settings = dict(mask_ratio=0.0, augmentation="none", loss=InfoNCE(0.1), projection_dim=0, generator=generator())
    objective, given = Transposed(encoder, transpositions=3, **settings), batch(2)
    ((first, second),) = outputs = objective(encoder, given, generator(7))
    power = given.crops.float().expm1()
    every = {
        semitones: [encoder(shift_bands(view, torch.full((6,), float(semitones))).log1p()) for view in power]
        for semitones in range(-5, 7)
    }
    for track in range(6):
        found = [
            [s for s in every if torch.allclose(every[s][view][track], rows[3 * track + i], atol=1e-4)]
            for view, rows in enumerate((first, second))
            for i in range(3)
        ]
        assert all(len(one) == 1 for one in found)
        assert found[:3] == found[3:] and len({one[0] for one in found[:3]}) == 3
    expected = InfoNCE(0.1)(first, second, torch.arange(18))
    assert torch.allclose(objective.loss(outputs, given), expected)
    assert torch.equal(objective.measure(outputs, given), top1(first, second, torch.arange(18)))
    with pytest.raises(KeyMynaError, match="loss 'sogclr': it has loss 'infonce' alone"):
        PretrainConfig(objective="transposed", loss="sogclr")


def test_a_hybrid_has_the_mean_of_two_losses_on_one_state_and_one_head():
    encoder = build_encoder(EncoderConfig("vit-toy", "hybrid", "log1p"), generator())
    given = batch(2, frames=32)
    objective = contrastive(encoder, loss=SogCLR(6, 0.1, 0.7), projection_dim=8)
    state = SogCLR(6, 0.1, 0.7)
    for step in range(3):
        outputs = objective(encoder, given, generator(step))
        value = objective.loss(outputs, given)
        losses, tops, crops = [], [], encoder.trim(given.crops.flatten(0, 1))
        by_kind = torch.cat([encoder.tokens(branch, crops).mean(dim=1) for branch in encoder.branches])  # square first
        for first, second in objective.head(by_kind).unflatten(0, (2, 2, -1)):
            losses.append(state(first, second, given.tracks))
            tops.append(top1(first, second, given.tracks))
        assert value.item() == pytest.approx(sum(losses).item() / 2, rel=1e-5)
        assert objective.measure(outputs, given) == pytest.approx(sum(tops).item() / 2)
        torch.testing.assert_close(objective._loss.log_u, state.log_u, rtol=1e-4, atol=1e-5)
    assert objective.head[0].in_features == encoder.dim == encoder.embedding_dim // 2


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 9])
def test_slices_give_the_gradient_of_the_whole_with_the_memory_of_one(size):
    """All rows' outputs enter one loss; what is computed between them and the inputs is not kept."""
    layer, rows = torch.nn.Linear(3, 5).double(), torch.randn(7, 3, dtype=torch.float64)
    weights, seen = torch.arange(7.0, dtype=torch.float64), []

    def function(x, weight):
        seen.append(len(x))
        return layer(x).sin() * weight[:, None]

    expected = (layer(rows).sin() * weights[:, None]).logsumexp(dim=0).square().sum()
    gradients = torch.autograd.grad(expected, list(layer.parameters()))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        outputs = in_slices(function, size, rows, weights)
    found = outputs.logsumexp(dim=0).square().sum()
    assert found.item() == pytest.approx(expected.item())
    for one, other in zip(torch.autograd.grad(found, list(layer.parameters())), gradients):
        torch.testing.assert_close(one, other)
    whole = not 0 < size < 7
    assert max(seen) == (7 if whole else size) and sum(seen) == (7 if whole else 14)
    assert any(shape[-1:] == (5,) for shape in kept) == whole


def test_reconstruction_error_is_that_of_the_hidden_patches_and_reads_no_other(encoder):
    objective, given = Reconstruction(encoder, mask_ratio=0.75, generator=generator()), batch(1)
    with torch.no_grad():
        errors = objective(encoder, given, generator(5))
        assert errors.shape == (6, 9) and objective.loss(errors, given) == pytest.approx(
            objective.measure(errors, given)
        )
        order = torch.rand(6, 12, generator=generator(5)).argsort(1)  # how the masks are drawn
        hide = order[:, 3:]
        changed = given.crops.clone()
        for row in range(6):
            for token in hide[row].tolist():
                changed[0, row, :, 2 * token : 2 * token + 2] += 1
        again = objective(encoder, Batch(changed, given.tracks, given.keys), generator(5))
        # The guess g stays, the target t moves by 1: (g - t - 1)^2 - (g - t)^2 has the mean 1 - 2 mean(g - t).
        guesses = []
        objective.leave.register_forward_hook(lambda module, inputs, output: guesses.append(output))
        objective(encoder, given, generator(5))
        objective(encoder, Batch(changed, given.tracks, given.keys), generator(5))
        assert torch.equal(*guesses)
        for row in range(6):
            for place, token in enumerate(hide[row].tolist()):
                patch = given.crops[0, row, :, 2 * token : 2 * token + 2].float().flatten()
                expected = (guesses[0][row, 3 + place] - patch).square().mean()
                assert errors[row, place] == pytest.approx(expected.item(), rel=1e-4)
        assert not torch.allclose(errors, again)


def test_reconstruction_needs_something_hidden_and_one_kind_of_patches(encoder):
    with pytest.raises(KeyMynaError, match="mask_ratio 0.0"):
        Reconstruction(encoder, mask_ratio=0.0, generator=generator())
    hybrid = build_encoder(EncoderConfig("vit-toy", "hybrid", "log1p"), generator())
    with pytest.raises(KeyMynaError, match="hybrid"):
        Reconstruction(hybrid, mask_ratio=0.5, generator=generator())


def test_supervised_loss_is_the_cross_entropy_of_the_keys(encoder):
    objective, given = Supervised(encoder, generator=generator()), batch(1)
    logits = objective(encoder, given, generator())
    expected = -logits.log_softmax(1)[torch.arange(6), given.keys].mean()
    assert torch.allclose(objective.loss(logits, given), expected)
    assert objective.measure(torch.nn.functional.one_hot(given.keys, 24).float(), given) == 1


def test_an_unknown_augmentation_is_named(encoder):
    with pytest.raises(KeyMynaError, match="'loud'"):
        contrastive(encoder, augmentation="loud")
