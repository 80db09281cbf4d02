"""Embedding many windows on a GPU: large batches in half precision, copied back once."""

from __future__ import annotations

import torch
from torch import Tensor

from keymyna_lib.model import Encoder

BATCH = 1024  # windows


def embed(encoder: Encoder, windows: Tensor) -> Tensor:
    """(window, mel, frame) stored spectrograms to (window, embedding) float32 on the CPU, unmasked.

    Products are taken in float16, whose significand is TF32's; LayerNorm, softmax and the sum of the layers stay in
    float32. Where a product is beyond float16's range, all is done again in float32.
    """
    found = _embed(encoder, windows, half=True)
    if not found.isfinite().all():
        found = _embed(encoder, windows, half=False)
    return found.cpu()


def _embed(encoder: Encoder, windows: Tensor, *, half: bool) -> Tensor:
    device = next(encoder.parameters()).device
    with torch.autocast(device.type, torch.float16, enabled=half):
        batches = [encoder(batch.to(device, non_blocking=True)).float() for batch in windows.split(BATCH)]
    return torch.cat(batches)
