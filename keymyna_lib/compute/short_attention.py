"""Attention over sequences of a few tokens, several of them in one tile of the matrix units (Triton; our choice).

A masked view keeps 10 tokens. Fused attention pads them to a tile of 64 or 128 and spends most of its time on padding.
Here one program takes as many whole sequences as fit in a tile, for one head; pairs of different sequences are
masked out. Queries, keys and values are read from where the linear layer has put them, and nothing but the result is
written: forward and backward are each one pass over memory. The backward pass repeats the softmax, which is not kept.

Runs on CUDA, and under TRITON_INTERPRET=1 on the CPU (for tests).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HEAD_DIM = 64
# Rows. On an H200, 8,192 sequences of 10 tokens, 6 heads, forward and backward, us: this one 233; tiles of 16, 32 and
# 128 rows 341, 256 and 319; PyTorch's fused kernels 2,345 (memory-efficient), 2,845 (cuDNN) and 5,857 (flash); plain
# products compiled 1,158, not compiled 1,956; sums of products compiled 3,724; 12 sequences in a masked fused kernel
# 1,545; flex attention over 64 sequences 1,071. Memory traffic alone would take 161.
_TILE = 64


@triton.jit
def _places(n_rows, tokens: tl.constexpr, heads: tl.constexpr, tile: tl.constexpr, dim: tl.constexpr):
    """Of one program: offsets of its rows in qkv and in the result, which rows exist, which pairs are one sequence."""
    row = tl.arange(0, tile)
    column = tl.arange(0, dim)[None, :]
    packed: tl.constexpr = tile // tokens * tokens
    index = tl.program_id(0).to(tl.int64) * packed + row
    there = ((row < packed) & (index < n_rows))[:, None]
    head = tl.program_id(1)
    qkv = index[:, None] * (3 * heads * dim) + head * dim + column
    out = index[:, None] * (heads * dim) + head * dim + column
    same = (row // tokens)[:, None] == (row // tokens)[None, :]  # rows that do not exist see only each other
    return qkv, out, there, same


@triton.jit
def _forward(qkv, out, n_rows, scale, tokens: tl.constexpr, heads: tl.constexpr, tile: tl.constexpr, dim: tl.constexpr):
    source, target, there, same = _places(n_rows, tokens, heads, tile, dim)
    q = tl.load(qkv + source, mask=there, other=0.0)
    k = tl.load(qkv + source + heads * dim, mask=there, other=0.0)
    v = tl.load(qkv + source + 2 * heads * dim, mask=there, other=0.0)
    score = tl.where(same, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, float("-inf"))
    weight = tl.exp(score - tl.max(score, axis=1)[:, None])
    weight = weight / tl.sum(weight, axis=1)[:, None]
    mixed = tl.dot(weight.to(v.dtype), v, input_precision="ieee")
    tl.store(out + target, mixed.to(v.dtype), mask=there)


@triton.jit
def _backward(
    qkv, grad, out, n_rows, scale, tokens: tl.constexpr, heads: tl.constexpr, tile: tl.constexpr, dim: tl.constexpr
):
    source, target, there, same = _places(n_rows, tokens, heads, tile, dim)
    q = tl.load(qkv + source, mask=there, other=0.0)
    k = tl.load(qkv + source + heads * dim, mask=there, other=0.0)
    v = tl.load(qkv + source + 2 * heads * dim, mask=there, other=0.0)
    g = tl.load(grad + target, mask=there, other=0.0)
    score = tl.where(same, tl.dot(q, tl.trans(k), input_precision="ieee") * scale, float("-inf"))
    weight = tl.exp(score - tl.max(score, axis=1)[:, None])
    weight = weight / tl.sum(weight, axis=1)[:, None]
    tl.store(
        out + source + 2 * heads * dim,
        tl.dot(tl.trans(weight.to(g.dtype)), g, input_precision="ieee").to(g.dtype),
        mask=there,
    )
    slope = tl.dot(g, tl.trans(v), input_precision="ieee")
    slope = weight * (slope - tl.sum(weight * slope, axis=1)[:, None]) * scale
    slope = slope.to(g.dtype)
    tl.store(out + source, tl.dot(slope, k, input_precision="ieee").to(g.dtype), mask=there)
    tl.store(out + source + heads * dim, tl.dot(tl.trans(slope), q, input_precision="ieee").to(g.dtype), mask=there)


def tile_of(tokens: int) -> int:
    """Rows of a tile for sequences of so many tokens."""
    return max(_TILE, triton.next_power_of_2(tokens))


def _grid(qkv: Tensor, heads: int, tile: int) -> tuple[int, int]:
    return triton.cdiv(qkv.shape[0], tile // qkv.shape[1]), heads


@torch.library.custom_op("keymyna::short_attention", mutates_args=())
def short_attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention within each sequence: softmax(q k / 8) v.

    Parameters
    ----------
    qkv : (batch, token, 3 x head x 64), queries, keys and values one after the other.
    heads : number of heads.

    Returns
    -------
    (batch, token, head x 64), of qkv's type; products accumulate in float32.
    """
    qkv = qkv.contiguous()
    batch, tokens, _ = qkv.shape
    out = qkv.new_empty(batch, tokens, heads * HEAD_DIM)
    tile = tile_of(tokens)
    _forward[_grid(qkv, heads, tile)](
        qkv, out, batch * tokens, HEAD_DIM**-0.5, tokens, heads, tile, HEAD_DIM, num_warps=4
    )
    return out


@torch.library.custom_op("keymyna::short_attention_backward", mutates_args=())
def _short_attention_backward(qkv: Tensor, grad: Tensor, heads: int) -> Tensor:
    """Gradient of qkv, given that of the result."""
    qkv, grad = qkv.contiguous(), grad.contiguous()
    batch, tokens, _ = qkv.shape
    out = torch.empty_like(qkv)
    tile = tile_of(tokens)
    _backward[_grid(qkv, heads, tile)](
        qkv, grad, out, batch * tokens, HEAD_DIM**-0.5, tokens, heads, tile, HEAD_DIM, num_warps=4
    )
    return out


@short_attention.register_fake
def _(qkv: Tensor, heads: int) -> Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1], heads * HEAD_DIM)


@_short_attention_backward.register_fake
def _(qkv: Tensor, grad: Tensor, heads: int) -> Tensor:
    return torch.empty_like(qkv, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.heads = inputs[1]


def _gradient(ctx, grad: Tensor) -> tuple[Tensor, None]:
    return _short_attention_backward(ctx.saved_tensors[0], grad, ctx.heads), None


short_attention.register_autograd(_gradient, setup_context=_setup_context)
