"""Attention that packs several sequences into a tile equals the usual one, forward and backward."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

SHAPES = [(7, 10, 2), (65, 1, 1), (3, 26, 1), (1, 64, 1)]  # batch, tokens, heads
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def usual(qkv, heads):
    q, k, v = qkv.unflatten(2, (3, heads, 64)).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def differences(batch, tokens, heads, device, dtype=torch.float32):
    """Relative errors of result and gradient, against the usual attention in float64."""
    from keymyna_lib.compute.short_attention import short_attention

    generator = torch.Generator().manual_seed(tokens)
    qkv = (3 * torch.randn(batch, tokens, 3 * heads * 64, generator=generator)).to(device, dtype)
    grad = torch.randn(batch, tokens, heads * 64, generator=generator).to(device, dtype)
    packed, plain = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
    found, expected = short_attention(packed, heads), usual(plain, heads)
    found.backward(grad)
    expected.backward(grad.double())
    pairs = ((found, expected), (packed.grad, plain.grad))
    return [((one.double() - other).norm() / other.norm().clamp(min=1e-9)).item() for one, other in pairs]


def check_interpreted():
    """In a process of its own: the very kernels, run by Triton's interpreter."""
    for shape in SHAPES:
        assert max(differences(*shape, "cpu")) < 2e-6, shape
    from keymyna_lib.compute.short_attention import short_attention

    with torch.inference_mode():
        qkv = torch.randn(3, 10, 2 * 3 * 64)
        torch.testing.assert_close(short_attention(qkv, 2), usual(qkv, 2))
    torch.library.opcheck(short_attention, (torch.randn(3, 10, 3 * 64, requires_grad=True), 1))


def test_packed_attention_is_the_usual_attention():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", "import test_short_attention as t; t.check_interpreted()"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr[-2000:]


@needs_gpu
@pytest.mark.parametrize("shape", [*SHAPES, (4097, 10, 6)])
def test_on_a_gpu(shape):
    assert max(differences(*shape, "cuda")) < 2e-6
    assert max(differences(*shape, "cuda", torch.bfloat16)) < 1e-2


@needs_gpu
def test_an_encoder_uses_it():
    from keymyna_lib.model import EncoderConfig, build_encoder, packing_works

    assert packing_works()
    encoder = build_encoder(EncoderConfig("vit-toy"), torch.Generator().manual_seed(0))
    crops = torch.rand(6, 128, 40, generator=torch.Generator().manual_seed(1))
    here = encoder(crops)
    torch.testing.assert_close(encoder.cuda()(crops.cuda()).cpu(), here, rtol=1e-4, atol=1e-4)
