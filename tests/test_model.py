"""The encoder against vit-pytorch, and its masks against what uniform masks must look like."""

import json
import math

import pytest
import torch
from scipy import stats

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.tensors import save_tensors
from keymyna_lib.encoders.official import encoder_of
from keymyna_lib.model import (
    PATCHES,
    PRESETS,
    Encoder,
    EncoderConfig,
    Patchify,
    ProjectionHead,
    attend,
    build_encoder,
    kept_tokens,
    load_encoder,
    position_table,
    random_keep,
    save_encoder,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def spectrograms(batch=3, frames=196, seed=0):
    return torch.rand(batch, 128, frames, generator=generator(seed)) * 5


def reference(preset, patch, frames):
    from vit_pytorch import SimpleViT

    dim, depth, heads, hidden = PRESETS[preset]
    torch.manual_seed(1)  # the reference draws from global state
    return SimpleViT(
        image_size=(128, frames),
        patch_size=patch,
        num_classes=7,
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_dim=hidden,
        channels=1,
    )


@pytest.mark.parametrize("preset", ["vit-s", "vit-xs", "vit-toy"])
@pytest.mark.parametrize("patch, frames", [("vertical", 196), ("square", 192)])
def test_agrees_with_vit_pytorch(preset, patch, frames):
    theirs = reference(preset, PATCHES[patch][0], frames).eval()
    ours, dropped = encoder_of(theirs.state_dict(), "vit-pytorch", preset=preset, patch=patch, scale="log1p")
    assert dropped == ["linear_head.weight", "linear_head.bias"]
    theirs.linear_head = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(
            ours(spectrograms(frames=196)), theirs(spectrograms(frames=196)[:, None, :, :frames]), atol=1e-5, rtol=1e-5
        )


def test_hybrid_is_the_two_models_side_by_side():
    config = EncoderConfig("vit-toy", "hybrid", "log1p")
    hybrid = build_encoder(config, generator()).eval()
    state = hybrid.state_dict()
    trunk = {k: v for k, v in state.items() if k.startswith("transformer")}
    parts = []
    for patch, prefix in (("square", "to_patch_embedding."), ("vertical", "to_patch_embedding_b.")):
        own = {k.replace(prefix, "to_patch_embedding."): v for k, v in state.items() if k.startswith(prefix)}
        single, _ = encoder_of({**trunk, **own}, "one branch", patch=patch, scale="log1p")
        parts.append(single(spectrograms()[:, :, :192]))
    torch.testing.assert_close(hybrid(spectrograms()), torch.cat(parts, 1), atol=1e-5, rtol=1e-5)
    assert hybrid.embedding_dim == 128


def test_paper_presets_have_the_published_sizes():
    encoder = build_encoder(EncoderConfig("vit-s", "vertical", "linear"), generator())
    assert 21e6 < sum(p.numel() for p in encoder.parameters()) < 22.5e6
    with torch.device("meta"):  # Myna-85M
        assert 85e6 < sum(p.numel() for p in Encoder(EncoderConfig("vit-b", "hybrid")).parameters()) < 86e6
    names = set(encoder.state_dict())
    assert {
        "to_patch_embedding.1.weight",
        "to_patch_embedding.2.bias",
        "to_patch_embedding.3.weight",
        "transformer.layers.11.0.norm.bias",
        "transformer.layers.0.0.to_qkv.weight",
        "transformer.layers.0.0.to_out.weight",
        "transformer.layers.5.1.net.0.weight",
        "transformer.layers.5.1.net.3.bias",
        "transformer.norm.weight",
    } <= names
    assert not any("to_qkv.bias" in n or "to_out.bias" in n or "pos" in n for n in names)


def test_patches_against_explicit_slices():
    images = spectrograms(2, 32)
    patches = Patchify((16, 16))(images)
    assert patches.shape == (2, 16, 256)
    for row in range(8):
        for column in range(2):
            block = images[1, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
            assert torch.equal(patches[1, row * 2 + column], block.reshape(-1))


@pytest.mark.parametrize("size", [(16, 16), (128, 2)])
def test_kept_patches_are_those_of_all_patches(size):
    images, patchify = spectrograms(3, 64), Patchify(size)
    every = patchify(images)
    keep = random_keep(3, every.shape[1], 0.75, generator())
    expected = torch.stack([row[kept] for row, kept in zip(every, keep)])
    assert torch.equal(patchify(images, keep), expected)


def test_positions_follow_the_closed_form():
    table = position_table(3, 5, 32)
    for row, column, k in ((0, 0, 0), (1, 4, 3), (2, 2, 7)):
        omega = 10_000 ** (-k / 7)
        expected = [math.sin(column * omega), math.cos(column * omega), math.sin(row * omega), math.cos(row * omega)]
        assert table[row * 5 + column, [k, 8 + k, 16 + k, 24 + k]].tolist() == pytest.approx(expected, abs=1e-6)


def test_linear_scale_undoes_the_stored_compression():
    power = spectrograms() * 100
    state = build_encoder(EncoderConfig("vit-toy", "vertical", "linear"), generator()).eval()
    plain = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), generator()).eval()
    torch.testing.assert_close(state(power.log1p()), plain(power), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ratio, kept", [(0, 98), (0.5, 49), (0.75, 25), (0.9, 10), (0.95, 5)])
def test_kept_tokens(ratio, kept):
    assert kept_tokens(98, ratio) == kept


def test_masks_are_uniform_and_independent():
    keep = random_keep(20_000, 98, 0.9, generator())
    assert keep.shape == (20_000, 10) and all(len(set(row)) == 10 for row in keep[:200].tolist())
    counts = torch.bincount(keep.flatten(), minlength=98).numpy()
    assert stats.chisquare(counts).pvalue > 1e-3
    # Two tokens are kept together as often as drawing 10 of 98 without replacement says.
    kept = torch.zeros(20_000, 98).scatter_(1, keep, 1.0)
    together = (kept.T @ kept)[~torch.eye(98, dtype=torch.bool)] / 20_000
    assert together.mean().item() == pytest.approx(10 * 9 / (98 * 97), rel=1e-6)
    assert together.std().item() < 3 * (10 * 9 / (98 * 97) / 20_000) ** 0.5


def test_masking_is_dropping_tokens_before_the_trunk():
    """The masked forward equals the trunk run on the kept patches alone, each at its own position."""
    encoder = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), generator()).eval()
    images = spectrograms(2)
    masked = encoder(images, 0.9, generator(7))
    keep = random_keep(2, 98, 0.9, generator(7))
    for row in range(2):
        columns = torch.cat([images[row : row + 1, :, 2 * t : 2 * t + 2] for t in keep[row]], dim=2)
        tokens = encoder.to_patch_embedding(columns) + position_table(1, 98, 64)[keep[row]]
        torch.testing.assert_close(encoder.transformer(tokens).mean(1)[0], masked[row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(masked, encoder(images, 0.9, generator(8)), atol=1e-3)


def test_bfloat16_is_float32_but_for_its_rounding():
    """Under autocast a CPU attends in float32; values and gradients stay within what eight bits of mantissa give."""
    encoder, x = build_encoder(EncoderConfig("vit-xs"), generator(1)), spectrograms(4, 40)
    found = {}
    for half in (False, True):
        encoder.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            embedding = encoder(x)
        embedding.float().square().sum().backward()
        found[half] = [embedding.float().detach(), *(p.grad for p in encoder.parameters())]
    for exact, rounded in zip(found[False], found[True]):
        assert rounded.dtype == torch.float32 and (exact - rounded).norm() < 0.03 * exact.norm()
    assert not torch.equal(found[False][0], found[True][0])


def test_attention_keeps_its_precision_and_follows_the_formula():
    q, k, v = torch.randn(3, 2, 3, 5, 64, generator=generator()).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v)
    q, k, v = (t.double() for t in (q, k, v))
    wanted = (q @ k.mT / 8).softmax(-1) @ v
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, wanted.bfloat16(), rtol=0.01, atol=1e-3)  # one rounding, at the end


def test_weights_depend_on_the_generator_alone():
    first = build_encoder(EncoderConfig("vit-toy"), generator(3)).state_dict()
    torch.rand(5)  # moves the global state on
    second = build_encoder(EncoderConfig("vit-toy"), generator(3)).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    third = build_encoder(EncoderConfig("vit-toy"), generator(4)).state_dict()
    assert not torch.equal(first["to_patch_embedding.2.weight"], third["to_patch_embedding.2.weight"])


def test_initialisation_has_pytorchs_spread():
    weight = build_encoder(EncoderConfig("vit-xs"), generator()).transformer.layers[0][0].to_qkv.weight
    assert weight.std().item() == pytest.approx(192**-0.5 / 3**0.5, rel=0.02)


@pytest.mark.parametrize("crop_frames", [None, 98])
def test_save_and_load(tmp_path, crop_frames):
    encoder = build_encoder(EncoderConfig("vit-toy", "hybrid", "log1p"), generator()).eval()
    encoder.crop_frames = crop_frames
    save_encoder(encoder, tmp_path / "encoder.safetensors")
    again = load_encoder(tmp_path / "encoder.safetensors")
    assert again.config == encoder.config and again.crop_frames == crop_frames
    assert torch.equal(again(spectrograms()), encoder(spectrograms()))


def test_bad_input_is_one_clear_error(tmp_path):
    with pytest.raises(KeyMynaError, match="preset 'vit-l'"):
        EncoderConfig("vit-l")
    with pytest.raises(KeyMynaError, match="mask_ratio 1"):
        kept_tokens(98, 1.0)
    encoder = build_encoder(EncoderConfig("vit-toy"), generator())
    with pytest.raises(KeyMynaError, match="128 mel"):
        encoder(torch.zeros(2, 64, 196))
    with pytest.raises(KeyMynaError, match="does not exist"):
        load_encoder(tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"not weights")
    with pytest.raises(KeyMynaError, match="cut.safetensors"):
        load_encoder(tmp_path / "cut.safetensors")


def test_what_is_no_encoder_is_told_apart_and_never_to_be_deleted(tmp_path):
    encoder = build_encoder(EncoderConfig("vit-toy"), generator())
    state, path = encoder.state_dict(), tmp_path / "given.safetensors"

    def refusal(tensors, **metadata):
        save_tensors(path, tensors, **metadata)
        with pytest.raises(KeyMynaError) as caught:
            load_encoder(path)
        message = str(caught.value)
        assert str(path) in message and "encoder.safetensors" in message and "elete" not in message
        assert "\n" not in message and path.exists()
        return message

    ours = json.dumps({"preset": "vit-toy", "patch": "vertical", "scale": "log1p"})
    assert "is a head of this library; expected an encoder" in refusal({"mean": torch.zeros(2)}, head="{}")
    assert "is a checkpoint of unfinished training" in refusal({"modules.x": torch.zeros(2)}, fingerprint="")
    assert "is a feature set" in refusal({"x": torch.zeros(2)}, track_ids="[]")
    projection = ProjectionHead(64, 8, generator()).state_dict()
    assert "holds 0.bias, 0.weight, 2.bias, 2.weight, and not the configuration" in refusal(projection)
    assert "-p weights FILE" in refusal(state)  # official names, of whatever configuration
    other = {**state, "to_patch_embedding.2.weight": torch.zeros(64, 200)}
    assert "to_patch_embedding.2.weight is (64, 200), not (64, 256)" in refusal(other, encoder_config=ours)
    lacking = {name: value for name, value in state.items() if name != "transformer.norm.bias"}
    assert "transformer.norm.bias is missing" in refusal(lacking, encoder_config=ours)
    assert "2.weight is not the encoder's" in refusal(state | projection, encoder_config=ours)
    assert "does not fit its configuration (vit-s, vertical patches)" in refusal(
        state, encoder_config='{"preset": "vit-s"}'
    )
    assert "not an encoder" in refusal(state, encoder_config='{"depth": 3}')
    assert "not an encoder" in refusal(state, encoder_config="{")
    broken = {**state, "transformer.norm.bias": torch.full((64,), float("nan"))}
    assert "tensor transformer.norm.bias holds NaN or infinity (64 of 64" in refusal(broken, encoder_config=ours)


@pytest.mark.parametrize("patch", ["vertical", "hybrid"])
def test_block_means_are_those_of_the_layers_and_end_in_the_embedding(patch):
    encoder = build_encoder(EncoderConfig("vit-toy", patch, "log1p"), torch.Generator().manual_seed(0)).eval()
    crops, seen = torch.rand(3, 128, 48, generator=torch.Generator().manual_seed(1)), []
    means = encoder.block_means(crops)
    with torch.no_grad():
        encoder.transformer.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].mean(dim=1)))
        embedding = encoder(crops)
    assert len(means) == 2 + 2 and torch.equal(means[-1], embedding)
    assert torch.allclose(means[-2], torch.cat(seen, dim=1), atol=1e-6) and not torch.allclose(means[0], means[1])
