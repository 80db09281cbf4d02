"""A tiny key model with weights of chance, for the tests of what is done with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.heads import HeadSpec, TrainedHead
from keymyna_lib.key_model import KeyModel
from keymyna_lib.keys import N_KEYS
from keymyna_lib.model import EncoderConfig, build_encoder


def head(dim: int = 64, seed: int = 1) -> TrainedHead:
    """A linear head."""
    weight = torch.randn(N_KEYS, dim, generator=torch_stream(seed, "weights"))
    parameters = {"weight.0": weight, "bias.0": torch.zeros(N_KEYS)}
    return TrainedHead(HeadSpec(), parameters, torch.full((dim,), 0.1), torch.full((dim,), 1.5))


def model(heads: int = 1, **fields: Any) -> KeyModel:
    """An encoder with linear heads."""
    encoder = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch_stream(0, "weights")).eval()
    return KeyModel(encoder, {f"probe {i}": head(seed=i) for i in range(heads)}, **fields)


def write(path: Path, **fields: Any) -> Path:
    """Write the file of a model."""
    model(**fields).save(path)
    return path
