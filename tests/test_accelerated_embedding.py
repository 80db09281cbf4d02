"""Embedding in half precision is near the float32 one, and gives way to it where numbers are too large."""

import pytest
import torch

from keymyna_lib.accelerated import embedding
from keymyna_lib.features import embed
from keymyna_lib.model import EncoderConfig, build_encoder


@pytest.fixture
def encoder():
    return build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def windows():
    return torch.rand(11, 128, 40, generator=torch.Generator().manual_seed(1)).mul(8).half()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def test_half_precision_is_near(encoder, windows, monkeypatch):
    expected = embed(encoder, windows)
    monkeypatch.setattr(embedding, "BATCH", 4)
    with torch.inference_mode():
        found = embedding.embed(encoder, windows)
    assert found.dtype == torch.float32 and found.shape == expected.shape
    assert 0 < relative(found, expected) < 1e-3


def test_what_overflows_is_done_in_float32(encoder, windows):
    with torch.inference_mode():
        encoder.transformer.layers[0][1].net[1].weight.mul_(1e6)
        expected = encoder(windows)
        assert torch.equal(embedding.embed(encoder, windows), expected) and expected.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_embeds_as_the_cpu(encoder, windows):
    expected = embed(encoder, windows)
    assert relative(embed(encoder.cuda(), windows), expected) < 1e-3
