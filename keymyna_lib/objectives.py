"""What an encoder is pre-trained to do. An objective owns its views of a batch and its loss; the loop is shared.

Every objective turns crops into outputs, outputs into a loss, and outputs into one number that people understand:

    contrastive      match the two crops of a track among those of all tracks, masked, augmented or bare (top-1)
    transposed       the same, each track in several transpositions that have to be told apart as well   (top-1)
    reconstruction   fill in the patches that were hidden: a masked autoencoder                          (error)
    supervised       name the key of a crop, from its label                                              (accuracy)

A new objective is a subclass of `Objective` and an entry in `OBJECTIVES`; nothing else needs to know of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.keys import N_KEYS
from keymyna_lib.losses import LOSSES, top1
from keymyna_lib.model import (
    Encoder,
    EncoderConfig,
    ProjectionHead,
    Transformer,
    initialise,
    kept_tokens,
    position_table,
    random_keep,
)
from keymyna_lib.spectrogram import WINDOW
from keymyna_lib.views import AUGMENTATIONS, shift_bands

if TYPE_CHECKING:
    from keymyna_lib.pretrain import PretrainConfig

DECODER_DEPTH = 4  # as in the reference implementation


@dataclass(frozen=True)
class Batch:
    """Some tracks of a step.

    crops : (view, batch, band, frame) stored spectrograms, log(1 + power).
    tracks : (batch,) int64, positions among the training tracks.
    keys : (batch,) int64, 0..23, or -1 without a label; read only by an objective that is `labelled`.
    """

    crops: Tensor
    tracks: Tensor
    keys: Tensor


class Objective(nn.Module, ABC):
    """Something to pre-train an encoder for, with whatever parameters it learns besides the encoder's.

    Attributes
    ----------
    views : crops that it takes of each track.
    labelled : whether it learns from the labelled training tracks only; else from all that pre-training may use.
    measured : what `measure` returns, in words for axes and progress bars.
    """

    views: ClassVar[int] = 1
    labelled: ClassVar[bool] = False
    measured: ClassVar[str]

    @classmethod
    def check(cls, config: PretrainConfig) -> None:
        """Refuse, with a KeyMynaError, a configuration that this objective cannot be trained with."""

    @classmethod
    @abstractmethod
    def from_config(
        cls, config: PretrainConfig, encoder: Encoder, n_tracks: int, generator: torch.Generator
    ) -> Objective:
        """The objective that a configuration asks for.

        Parameters
        ----------
        encoder : only its architecture is read.
        n_tracks : training tracks; `Batch.tracks` runs from 0 to n_tracks - 1.
        generator : draws the initial values of the parameters.
        """

    @abstractmethod
    def forward(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """Outputs for a batch, of a shape of the objective's own; `generator` draws masks and augmentations."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What is minimised, a scalar."""

    @abstractmethod
    def measure(self, outputs: Tensor, batch: Batch) -> Tensor | float:
        """How well the outputs do, as one number that means something by itself."""


def in_slices(function: Callable[..., Tensor], size: int, *rows: Tensor) -> Tensor:
    """`function(*rows)`, so many rows at a time (0 for all), with the memory of one slice.

    What a slice computes is not kept for the backward pass but computed again there, when the gradient of its outputs
    is known: the cached gradients of Gao et al. (2021), for a loss that needs the outputs of all rows at once.

    Parameters
    ----------
    function : of tensors whose rows belong together, with a row of output for each; it draws nothing.
    """
    if not size or size >= len(rows[0]):
        return function(*rows)
    slices = zip(*(tensor.split(size) for tensor in rows))
    return torch.cat([checkpoint(function, *one, use_reentrant=False, preserve_rng_state=False) for one in slices])


class Contrastive(Objective):
    """Two views of each track, to be distinguished from all other tracks (in the paper masked, not augmented).

    An encoder of two kinds of patches has the mean of two losses, one for each kind, as in the authors' code: they
    share the projection head and the state of the loss, which the first kind updates before the second.

    Parameters
    ----------
    encoder : only the sizes of its embedding are read.
    mask_ratio : share of the tokens dropped from each view.
    augmentation : a name in `views.AUGMENTATIONS`, applied to each view separately.
    loss : one of `losses.LOSSES`; takes two views' projections (batch, projection) and the tracks (batch,).
    projection_dim : outputs of the projection head; 0 for none.
    micro_batch : tracks that are embedded at a time, see `in_slices`; 0 for all.
    generator : draws the head.
    """

    views = 2
    measured = "in-batch top-1"

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_ratio: float,
        augmentation: str,
        loss: nn.Module,
        projection_dim: int,
        micro_batch: int = 0,
        generator: torch.Generator,
    ):
        super().__init__()
        if augmentation not in AUGMENTATIONS:
            raise KeyMynaError(f"augmentation {augmentation!r}: choose one of {', '.join(AUGMENTATIONS)}.")
        self.mask_ratio, self.augmentation, self._loss = mask_ratio, augmentation, loss
        self.rows_at_a_time = self.views * micro_batch
        self._kinds = len(encoder.branches)
        self.head = ProjectionHead(encoder.dim, projection_dim, generator) if projection_dim else nn.Identity()

    @classmethod
    def check(cls, config: PretrainConfig) -> None:
        """See `Objective.check`."""
        if config.batch_size < 2:
            raise KeyMynaError("batch_size 1: tracks of a batch are told from each other; take 2 or more.")

    @classmethod
    def from_config(
        cls, config: PretrainConfig, encoder: Encoder, n_tracks: int, generator: torch.Generator
    ) -> Contrastive:
        """See `Objective.from_config`."""
        return cls(
            encoder,
            **cls.more(config),
            mask_ratio=config.mask_ratio,
            augmentation=config.augmentation,
            loss=LOSSES[config.loss].from_config(config, n_tracks),
            projection_dim=config.projection_dim,
            micro_batch=config.micro_batch,
            generator=generator,
        )

    @classmethod
    def more(cls, config: PretrainConfig) -> dict[str, Any]:
        """What a subclass takes beside these parameters."""
        return {}

    def forward(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """(kind of patch, view, batch, projection)."""
        crops = encoder.trim(AUGMENTATIONS[self.augmentation](batch.crops.flatten(0, 1), generator))
        masks = encoder.masks(crops, self.mask_ratio, generator)
        return self.project(in_slices(encoder.embed, self.rows_at_a_time, crops, *masks))

    def project(self, embeddings: Tensor) -> Tensor:
        """(view x batch, embedding) to (kind of patch, view, batch, projection) float32."""
        by_kind = embeddings.unflatten(1, (self._kinds, -1)).transpose(0, 1).flatten(0, 1)
        return self.head(by_kind).float().unflatten(0, (self._kinds, self.views, -1))

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean contrastive loss over kinds of patches."""
        return sum(self._loss(first, second, batch.tracks) for first, second in outputs) / self._kinds

    def measure(self, outputs: Tensor, batch: Batch) -> Tensor:
        """() share of first views whose nearest second view is of the same track; mean over kinds of patches."""
        return sum(top1(first, second, batch.tracks) for first, second in outputs) / self._kinds


class Transposed(Contrastive):
    """Two views of each track in several transpositions, to be distinguished from each other and from all other tracks.

    What a recording's transpositions share, its timbre, rhythm and tempo, does not tell them apart; pitch alone does
    (our choice). A track's transpositions are different ones of -5 to 6 semitones, drawn anew at each step, and the
    same for both views.

    Parameters
    ----------
    transpositions : of each track.
    others : as of `Contrastive`.
    """

    measured = "in-batch top-1, transpositions counted apart"

    def __init__(self, encoder: Encoder, *, transpositions: int, **others: Any):
        super().__init__(encoder, **others)
        self.transpositions = transpositions

    @classmethod
    def check(cls, config: PretrainConfig) -> None:
        """See `Objective.check`."""
        if config.loss != "infonce":
            raise KeyMynaError(f"objective 'transposed' with loss {config.loss!r}: it has loss 'infonce' alone.")

    @classmethod
    def more(cls, config: PretrainConfig) -> dict[str, Any]:
        """See `Contrastive.more`."""
        return {"transpositions": config.transpositions}

    def forward(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """(kind of patch, view, batch x transposition, projection)."""
        n = self.transpositions
        order = torch.rand(len(batch.tracks), N_KEYS // 2, generator=generator).argsort(dim=1)[:, :n]
        semitones = (order - 5).float().flatten().repeat(self.views).to(batch.crops.device)
        power = batch.crops.repeat_interleave(n, dim=1).flatten(0, 1).float().expm1()
        crops = shift_bands(power, semitones).log1p().unflatten(0, (self.views, -1))
        return super().forward(encoder, Batch(crops, batch.tracks, batch.keys), generator)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """See `Contrastive.loss`."""
        return super().loss(outputs, self._apart(outputs, batch))

    def measure(self, outputs: Tensor, batch: Batch) -> Tensor:
        """See `Contrastive.measure`."""
        return super().measure(outputs, self._apart(outputs, batch))

    def _apart(self, outputs: Tensor, batch: Batch) -> Batch:
        """The batch with each transposition as a track of its own."""
        return Batch(batch.crops, torch.arange(outputs.shape[2], device=outputs.device), batch.keys)


class Reconstruction(Objective):
    """A masked autoencoder (He et al., 2022): the mean squared error of hidden patches of log(1 + power).

    The decoder, half as wide as the encoder and four layers deep, sees the encoder's tokens and one learned token
    wherever a patch was hidden, all with positions; it is thrown away afterwards.
    """

    measured = "squared error of hidden patches"

    def __init__(self, encoder: Encoder, *, mask_ratio: float, generator: torch.Generator):
        super().__init__()
        _need_hidden_patches(encoder.config, mask_ratio, WINDOW)
        patchify, _, embedding, _ = encoder.branches[0]
        self.mask_ratio, self.dim = mask_ratio, encoder.dim // 2
        self.enter = nn.Linear(encoder.dim, self.dim)
        self.decoder = Transformer(self.dim, DECODER_DEPTH, max(1, self.dim // 64), 4 * self.dim)
        self.leave = nn.Linear(self.dim, embedding.in_features)
        self.patchify = patchify
        initialise(self, generator)
        self.hidden = nn.Parameter(0.02 * torch.randn(self.dim, generator=generator))

    @classmethod
    def check(cls, config: PretrainConfig) -> None:
        """See `Objective.check`."""
        _need_hidden_patches(config.encoder, config.mask_ratio, config.crop_frames)

    @classmethod
    def from_config(
        cls, config: PretrainConfig, encoder: Encoder, n_tracks: int, generator: torch.Generator
    ) -> Reconstruction:
        """See `Objective.from_config`."""
        return cls(encoder, mask_ratio=config.mask_ratio, generator=generator)

    def forward(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """(batch, hidden patch) mean squared errors."""
        crops = encoder.trim(batch.crops[0])
        rows, columns = self.patchify.grid(crops)
        order = random_keep(len(crops), rows * columns, 0.0, generator).to(crops.device)
        n_kept = kept_tokens(rows * columns, self.mask_ratio)
        keep, hide = order[:, :n_kept], order[:, n_kept:]
        tokens = self.enter(encoder.tokens(encoder.branches[0], crops, keep))
        tokens = torch.cat([tokens, self.hidden.to(tokens.dtype).expand(*hide.shape, -1)], dim=1)
        positions = position_table(rows, columns, self.dim).to(crops.device)[order]
        guess = self.leave(self.decoder(tokens + positions))[:, n_kept:]
        return (guess.float() - self.patchify(crops, hide).float()).square().mean(dim=2)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean over hidden patches."""
        return outputs.mean()

    def measure(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The same number."""
        return outputs.mean()


def _need_hidden_patches(encoder: EncoderConfig, mask_ratio: float, frames: int) -> None:
    sizes = encoder.patch_sizes
    n_tokens = encoder.n_bands // sizes[0][0] * (frames // sizes[0][1])
    if len(sizes) != 1 or kept_tokens(n_tokens, mask_ratio) == n_tokens:
        raise KeyMynaError(
            f"reconstruction with patches {encoder.patch!r} and mask_ratio {mask_ratio}, crops of {frames} frames: it "
            "needs one kind of patches, and some of them hidden. Take another patch, or leave this objective out."
        )


class Supervised(Objective):
    """The key of each crop, from scratch, with all the labels: what pre-training would have to replace."""

    labelled = True
    measured = "accuracy of crops"

    def __init__(self, encoder: Encoder, *, generator: torch.Generator):
        super().__init__()
        self.classifier = nn.Linear(encoder.embedding_dim, N_KEYS)
        initialise(self, generator)

    @classmethod
    def from_config(
        cls, config: PretrainConfig, encoder: Encoder, n_tracks: int, generator: torch.Generator
    ) -> Supervised:
        """See `Objective.from_config`."""
        return cls(encoder, generator=generator)

    def forward(self, encoder: Encoder, batch: Batch, generator: torch.Generator) -> Tensor:
        """(batch, 24) logits."""
        return self.classifier(encoder(batch.crops[0])).float()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(outputs, batch.keys)

    def measure(self, outputs: Tensor, batch: Batch) -> Tensor:
        """() share of crops whose key is right."""
        return (outputs.argmax(dim=1) == batch.keys).float().mean()


# By the name that a configuration uses.
OBJECTIVES: dict[str, type[Objective]] = {
    "contrastive": Contrastive,
    "transposed": Transposed,
    "reconstruction": Reconstruction,
    "supervised": Supervised,
}
