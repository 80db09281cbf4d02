"""What a pre-training step costs: floating-point operations, counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.pretrain import PretrainConfig, Pretraining


def counted_flops(config: PretrainConfig, corpus: Corpus, tracks: Sequence[str]) -> float:
    """Floating-point operations of the matrix products of one step, forward and backward, as torch counts them.

    Counted on eight tracks and scaled to the batch. That undercounts the contrastive similarities, which grow with the
    square of the batch and are less than a hundredth of the whole, and what a `micro_batch` computes twice.
    """
    few = list(tracks[:8])
    run = Pretraining(replace(config, batch_size=len(few), micro_batch=0, device="cpu"), corpus, few, few)

    def forward_and_backward() -> None:
        outputs, batch = run.outputs(
            run.train_sampler, torch.arange(len(few)), torch_stream(config.seed, "counted batch")
        )
        run.objective.loss(outputs, batch).backward()

    return product_flops(forward_and_backward) * config.batch_size / len(few)


def product_flops(action: Callable[[], object]) -> float:
    """Floating-point operations of the matrix products of one run of an action, as torch counts them."""
    from torch.utils.flop_counter import FlopCounterMode  # here, because few ask for it

    # Fused attention has no count on every device; spelled out, it is two batched products.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        action()
    return float(counter.get_total_flops())
