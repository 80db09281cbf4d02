"""SimpleViT on spectrograms, masked by dropping tokens: the encoder of the paper, in one sitting.

Parameter names, shapes, patch order and positions are those of the official Myna checkpoints, so that they load
strictly (`encoders.official`). Tensors: spectrograms are (batch, band, frame) and hold log(1 + power), as stored;
tokens are (batch, token, dim); embeddings are (batch, embedding).
"""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from keymyna_lib.base.checks import check, one_of
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.tensors import ENCODER, expect_floating, misfits, reading, save_tensors, shapes, some
from keymyna_lib.front_ends import BANDS_PER_OCTAVE, FRONT_ENDS, N_BANDS
from keymyna_lib.spectrogram import N_MELS

# name: width, depth, heads (of 64), MLP width. "vit-s" is the paper's, "vit-b" that of Myna-85M; the others fit a CPU.
PRESETS = {
    "vit-b": (768, 12, 12, 3072),
    "vit-s": (384, 12, 6, 1536),
    "vit-xs": (192, 4, 3, 768),
    "vit-xxs": (128, 3, 2, 512),
    "vit-toy": (64, 2, 1, 128),
}
# name: patch sizes (mel bands, frames), one for each branch of the encoder.
# A horizontal patch is one band over half a window (3.1 s), the counterpart of a vertical one (our choice).
PATCHES = {
    "vertical": ((N_MELS, 2),),
    "square": ((16, 16),),
    "hybrid": ((16, 16), (N_MELS, 2)),
    "horizontal": ((1, 98),),
}
# The same of log-frequency spectrograms. An octave is a row of patches with one embedding for all, so that a move by an
# octave is a move among tokens; a horizontal patch is a quarter tone, so that every transposition is (our choice).
LOG_FREQUENCY_PATCHES = {
    "vertical": ((N_BANDS["log-frequency"], 2),),
    "octave": ((BANDS_PER_OCTAVE, 8),),
    "horizontal": ((1, 98),),
}
SCALES = ("log1p", "linear")
_HEAD_DIM = 64
MOST_PACKED_TOKENS = 64  # up to which a GPU packs several sequences into a tile of its matrix units


@dataclass(frozen=True)
class EncoderConfig:
    """What defines an encoder's architecture and input. The defaults are those of `mini`; `paper` has the paper's.

    Attributes
    ----------
    preset : a name in PRESETS.
    patch : a name in PATCHES, or for log-frequency spectrograms in LOG_FREQUENCY_PATCHES.
    scale : one of SCALES: "log1p" feeds log(1 + power) to the patch embedding, "linear" the power itself (the paper's).
    front_end : one of `front_ends.FRONT_ENDS`; the paper's is "mel".

    Raises
    ------
    KeyMynaError
        When a name is unknown.
    """

    preset: str = "vit-xxs"
    patch: str = "vertical"
    scale: str = "log1p"
    front_end: str = "mel"

    def __post_init__(self) -> None:
        names = {"front_end": FRONT_ENDS, "preset": PRESETS, "scale": SCALES}
        check(self, {name: one_of(known) for name, known in names.items()})
        check(self, {"patch": one_of(self._patches)})

    @property
    def _patches(self) -> dict[str, tuple[tuple[int, int], ...]]:
        return PATCHES if self.front_end == "mel" else LOG_FREQUENCY_PATCHES

    @property
    def patch_sizes(self) -> tuple[tuple[int, int], ...]:
        """Bands and frames of a patch, for each branch of the encoder."""
        return self._patches[self.patch]

    @property
    def n_bands(self) -> int:
        """Bands of the spectrograms."""
        return N_BANDS[self.front_end]


def kept_tokens(n_tokens: int, mask_ratio: float) -> int:
    """Number of tokens that survive masking: N - int(ratio N), as in the reference implementation.

    >>> kept_tokens(98, 0.9)
    10
    """
    if not 0 <= mask_ratio < 1:
        raise KeyMynaError(f"mask_ratio {mask_ratio}: expected 0 <= mask_ratio < 1.")
    return n_tokens - int(mask_ratio * n_tokens)


def random_keep(batch: int, n_tokens: int, mask_ratio: float, generator: torch.Generator) -> Tensor:
    """Draw the mask: indices of the tokens to keep, uniform without replacement, independent for each example.

    Returns
    -------
    (batch, kept) int64 on the generator's device, in random order (the trunk is permutation-equivariant).

    Examples
    --------
    >>> keep = random_keep(2, 98, 0.9, torch.Generator().manual_seed(0))
    >>> keep.shape, len(set(keep[0].tolist()))
    (torch.Size([2, 10]), 10)
    """
    noise = torch.rand(batch, n_tokens, generator=generator, device=generator.device)
    return noise.argsort(dim=1)[:, : kept_tokens(n_tokens, mask_ratio)]


@functools.lru_cache(maxsize=16)
def position_table(rows: int, columns: int, dim: int) -> Tensor:
    """Fixed 2-D sine-cosine positions (temperature 10,000): (row x column, dim), tokens in row-major order.

    The four quarters of `dim` hold sin(x w), cos(x w), sin(y w), cos(y w), with x the column, y the row and
    w_k = 10000^(-k / (dim/4 - 1)).
    """
    omega = 10_000.0 ** (-torch.arange(dim // 4) / (dim // 4 - 1))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    x, y = x.flatten()[:, None] * omega, y.flatten()[:, None] * omega
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


class Patchify(nn.Module):
    """Cut spectrograms into patches: (batch, band, frame) -> (batch, token, band x frame of a patch).

    Tokens run along a row of patches (time) first; within a patch, frames vary fastest.
    """

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def grid(self, spectrograms: Tensor) -> tuple[int, int]:
        """Rows (bands) and columns (time) of patches in spectrograms (batch, band, frame)."""
        return tuple(extent // patch for extent, patch in zip(spectrograms.shape[1:], self.size))

    def forward(self, spectrograms: Tensor, keep: Tensor | None = None) -> Tensor:
        """All patches, or only those of `keep` (batch, kept) int64; the others are never copied."""
        patches = spectrograms.unflatten(2, (-1, self.size[1])).unflatten(1, (-1, self.size[0]))
        patches = patches.permute(0, 1, 3, 2, 4)  # batch, row, column, band, frame: still a view
        if keep is None:
            return patches.flatten(3).flatten(1, 2)
        batch = torch.arange(len(keep), device=keep.device)[:, None]
        return patches[batch, keep // patches.shape[2], keep % patches.shape[2]].flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention, (batch, head, token, _HEAD_DIM) each, in the faster precision.

    In a masked step on a CPU the fused kernel for bfloat16 takes six times as long as that for float32, casts included.
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(q.dtype)


def packing_works() -> bool:
    """Whether `compute.short_attention` works here: it needs a GPU, Triton, and a C compiler for Triton."""
    return _packing_works()


@functools.cache
def _packing_works() -> bool:
    try:
        from keymyna_lib.compute.short_attention import short_attention

        short_attention(torch.zeros(1, 1, 3 * _HEAD_DIM, device="cuda"), 1)
    except Exception as error:
        warnings.warn(f"attention over few tokens falls back to the usual kernels: {error}", stacklevel=1)
        return False
    return True


class Attention(nn.Module):
    """Multi-head self-attention behind a LayerNorm, without biases: (batch, token, dim) to the same."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * heads * _HEAD_DIM, bias=False)
        self.to_out = nn.Linear(heads * _HEAD_DIM, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(self.norm(x))
        if qkv.is_cuda and qkv.shape[1] <= MOST_PACKED_TOKENS and packing_works():
            return self.to_out(torch.ops.keymyna.short_attention(qkv, self.heads))
        q, k, v = qkv.unflatten(2, (3, self.heads, _HEAD_DIM)).permute(2, 0, 3, 1, 4)
        return self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """A GELU layer behind a LayerNorm: (batch, token, dim) to the same."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Layer(nn.ModuleList):
    """Attention and feed-forward, each added to its input; a list because the checkpoints number the two."""

    def __init__(self, dim: int, heads: int, hidden: int):
        super().__init__([Attention(dim, heads), FeedForward(dim, hidden)])

    def forward(self, x: Tensor) -> Tensor:
        attention, feed_forward = self
        x = x + attention(x)
        return x + feed_forward(x)


class Transformer(nn.Module):
    """A stack of layers and a last LayerNorm: (batch, token, dim) to the same.

    Parameters
    ----------
    dim : width of the tokens. depth : layers. heads : of attention, _HEAD_DIM wide each. hidden : feed-forward width.
    """

    def __init__(self, dim: int, depth: int, heads: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(Layer(dim, heads, hidden) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Encoder(nn.Module):
    """SimpleViT without its classification head (paper, section on the encoder; `linear_head` is left out).

    The hybrid model runs one trunk on two kinds of patches and concatenates the two embeddings.

    Attributes
    ----------
    config : architecture and input.
    crop_frames : length of the crops that it was pre-trained on, frames of 32 ms; None where it was not, or not here.
    """

    def __init__(self, config: EncoderConfig):
        super().__init__()
        self.config = config
        self.crop_frames: int | None = None
        dim, depth, heads, hidden = PRESETS[config.preset]
        self.dim = dim
        for name, size in zip(("to_patch_embedding", "to_patch_embedding_b"), config.patch_sizes):
            patch_dim = size[0] * size[1]
            setattr(
                self,
                name,
                nn.Sequential(Patchify(size), nn.LayerNorm(patch_dim), nn.Linear(patch_dim, dim), nn.LayerNorm(dim)),
            )
        self.transformer = Transformer(dim, depth, heads, hidden)
        self._positions: dict[tuple, Tensor] = {}

    @property
    def branches(self) -> list[nn.Sequential]:
        """The patch embeddings, one for each kind of patch."""
        return [module for name, module in self.named_children() if name.startswith("to_patch_embedding")]

    @property
    def embedding_dim(self) -> int:
        """Size of an embedding."""
        return self.dim * len(self.branches)

    def forward(
        self, spectrograms: Tensor, mask_ratio: float = 0.0, generator: torch.Generator | None = None
    ) -> Tensor:
        """Embed spectrograms, dropping a random share of their tokens.

        Parameters
        ----------
        spectrograms : (batch, band, frame) log(1 + power); frames are trimmed to a multiple of the patch width.
        mask_ratio : share of the tokens dropped **before** the patch embedding, 0 <= mask_ratio < 1.
        generator : draws the masks; needed when mask_ratio > 0.

        Returns
        -------
        (batch, embedding), the mean over tokens after the last LayerNorm.

        Raises
        ------
        KeyMynaError
            When the spectrograms are not of the front end's bands, or shorter than one patch.
        """
        spectrograms = self.trim(spectrograms)
        return self.embed(spectrograms, *self.masks(spectrograms, mask_ratio, generator))

    def masks(self, spectrograms: Tensor, mask_ratio: float, generator: torch.Generator | None) -> list[Tensor]:
        """Draw the tokens to keep, (batch, kept) int64 for each kind of patch; none where all are kept.

        Parameters as in `forward`, the spectrograms trimmed.
        """
        if not mask_ratio:
            return []
        n_tokens = [math.prod(branch[0].grid(spectrograms)) for branch in self.branches]
        return [random_keep(len(spectrograms), n, mask_ratio, generator).to(spectrograms.device) for n in n_tokens]

    def embed(self, spectrograms: Tensor, *masks: Tensor) -> Tensor:
        """(batch, embedding) of spectrograms that are trimmed, under `masks` that are drawn."""
        kept = masks or [None] * len(self.branches)
        means = [self.tokens(branch, spectrograms, keep).mean(dim=1) for branch, keep in zip(self.branches, kept)]
        return torch.cat(means, dim=1)

    def trim(self, spectrograms: Tensor) -> Tensor:
        """Spectrograms (batch, band, frame), trimmed to a multiple of the patch width; errors as in `forward`."""
        width = max(branch[0].size[1] for branch in self.branches)
        if spectrograms.ndim != 3 or spectrograms.shape[1] != self.config.n_bands or spectrograms.shape[2] < width:
            raise KeyMynaError(
                f"spectrograms of shape {tuple(spectrograms.shape)}: expected (batch, "
                f"{self.config.n_bands} {self.config.front_end} bands, at least {width} frames)."
            )
        return spectrograms[:, :, : spectrograms.shape[2] // width * width]

    def positions(self, grid: tuple[int, int], device: torch.device) -> Tensor:
        """`position_table` of a grid on a device; copied there once, as a compiled or recorded step cannot."""
        if (grid, device) not in self._positions:
            self._positions[grid, device] = position_table(*grid, self.dim).to(device)
        return self._positions[grid, device]

    def patch_tokens(self, branch: nn.Sequential, spectrograms: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embedded patches with their positions, (batch, token, dim): all, or those of `keep` (batch, kept)."""
        return self.embed_patches(branch, branch[0](spectrograms, keep), branch[0].grid(spectrograms), keep)

    def embed_patches(
        self, branch: nn.Sequential, patches: Tensor, grid: tuple[int, int], keep: Tensor | None = None
    ) -> Tensor:
        """`patch_tokens` of patches (batch, token, band x frame) that are at hand, all of a grid or those of `keep`."""
        positions = self.positions(grid, patches.device)
        patches = patches.float()
        if self.config.scale == "linear":
            patches = patches.expm1()
        return branch[1:](patches) + (positions if keep is None else positions[keep])

    def tokens(self, branch: nn.Sequential, spectrograms: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens after the trunk and its last LayerNorm, (batch, token, dim); parameters as in `patch_tokens`."""
        return self.transformer(self.patch_tokens(branch, spectrograms, keep))

    def block_means(self, spectrograms: Tensor) -> list[Tensor]:
        """Mean tokens by depth, (batch, embedding) each: patch embedding, each layer's output, the embedding itself."""
        spectrograms = self.trim(spectrograms)
        by_branch = []
        for branch in self.branches:
            states = [self.patch_tokens(branch, spectrograms)]
            for layer in self.transformer.layers:
                states.append(layer(states[-1]))
            states.append(self.transformer.norm(states[-1]))
            by_branch.append([state.mean(dim=1) for state in states])
        return [torch.cat(means, dim=1) for means in zip(*by_branch)]


def build_encoder(config: EncoderConfig, generator: torch.Generator) -> Encoder:
    """An untrained encoder with PyTorch's default initialisation, drawn from `generator` alone.

    >>> encoder = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch.Generator().manual_seed(0))
    >>> encoder(torch.zeros(2, 128, 196)).shape
    torch.Size([2, 64])
    """
    encoder = Encoder(config)
    initialise(encoder, generator)
    return encoder


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Redraw every Linear layer from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default, with `generator`."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            for parameter in layer.parameters(recurse=False):
                nn.init.uniform_(parameter, -bound, bound, generator=generator)


class ProjectionHead(nn.Sequential):
    """Two-layer MLP between embedding and loss, thrown away after pre-training (SimCLR; an option of the paper)."""

    def __init__(self, dim: int, out: int, generator: torch.Generator):
        super().__init__(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, out))
        initialise(self, generator)


def save_encoder(encoder: Encoder, path: Path) -> None:
    """Write the weights as safetensors under the official names, with `encoder_record` in the metadata."""
    save_tensors(path, encoder.state_dict(), encoder_config=json.dumps(encoder_record(encoder)))


def load_encoder(path: Path) -> Encoder:
    """Read an encoder written by `save_encoder`; every name and shape must agree.

    Raises
    ------
    KeyMynaError
        When the file is absent, damaged, or not an encoder of ours: a head, a checkpoint, official weights.
    """
    remedy = "Give the encoder.safetensors of a run of notebook 10 or 50."
    with reading(path, ENCODER, remedy) as (state, metadata):
        if "encoder_config" not in metadata:
            raise KeyMynaError(
                f"{path} holds {some(state)}, and not the configuration of {ENCODER}. {remedy} Weights from elsewhere, "
                "the official ones for instance, are read by notebook 10: ./run_all.sh --only 10 -p weights FILE."
            )
        return recorded_encoder(json.loads(metadata["encoder_config"]), state, path, remedy)


def encoder_record(encoder: Encoder) -> dict[str, str | int]:
    """What a reader of an encoder's weights needs to know: its configuration, and its crops where they are known."""
    crops = {} if encoder.crop_frames is None else {"crop_frames": encoder.crop_frames}
    return asdict(encoder.config) | crops


def recorded_encoder(
    record: dict[str, str | int], state: Mapping[str, Tensor], path: Path | str, remedy: str
) -> Encoder:
    """The encoder of an `encoder_record` and a state dict, for evaluation.

    Raises
    ------
    KeyMynaError
        When the state dict does not fit, or an entry is impossible; names the file, and ends in the remedy.
    """
    crop_frames = record.pop("crop_frames", None)
    if crop_frames is not None and (not isinstance(crop_frames, int) or crop_frames < 1):
        raise KeyMynaError(f"{path} has crop_frames {crop_frames!r}, which must be 1 or more. {remedy}")
    config = EncoderConfig(**record)
    if problems := misfits(shapes(state), encoder_shapes(config.preset, config.patch, config.front_end), "encoder"):
        raise KeyMynaError(
            f"{path} does not fit its configuration ({config.preset}, {config.patch} patches): {some(problems)}. "
            f"{remedy}"
        )
    expect_floating(state, path, remedy)
    encoder = Encoder(config)
    encoder.load_state_dict(state)
    encoder.crop_frames = crop_frames
    return encoder.eval()


@functools.cache
def encoder_shapes(preset: str, patch: str, front_end: str = "mel") -> dict[str, tuple[int, ...]]:
    """Shapes of an encoder's tensors by name."""
    with torch.device("meta"):
        return shapes(Encoder(EncoderConfig(preset, patch, front_end=front_end)).state_dict())
