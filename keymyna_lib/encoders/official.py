"""Official Myna checkpoints, files of the model hub, and the card that goes with weights of ours.

The authors' checkpoints (github.com/ghost-signal/myna, and oriyonay/myna-* on the hub) are state dicts with the names
of `model.Encoder`, including the pre-training head. Loading is strict and reads tensors only; it never runs code.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json
from keymyna_lib.base.hashing import sha256_file
from keymyna_lib.base.tensors import (
    ENCODER,
    damage,
    expect_finite,
    expect_floating,
    kind_of,
    misfits,
    reading,
    shapes,
    some,
)
from keymyna_lib.encoders.hub import HubFile
from keymyna_lib.model import PATCHES, PRESETS, Encoder, EncoderConfig, encoder_shapes

# Prefixes of parts of the names of tensors that the reference implementation trains and an encoder does not need: the
# head (one layer or several), a projection, the masked autoencoder's decoder.
HEADS = ("linear_head", "proj", "decoder", "mask_token")
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_REMEDY_CONFIG = "Get the model's config.json again, or move it away from the weights and give `patch`."
_REMEDY = "Give the file of an encoder's weights, or get it again."


@dataclass(frozen=True)
class Origin:
    """Where an encoder's weights come from, for a run's provenance.

    Attributes
    ----------
    source : name of the file, or "repository/file" on the hub. revision : the hub's commit, or empty.
    sha256 : of the file.
    config : the encoder's.
    declared_patch : the patches that the config.json beside the file states; empty where there is none.
    n_parameters : of the encoder.
    dropped : names of the tensors that were left out, all of them parts of a head.
    """

    source: str
    revision: str
    sha256: str
    config: EncoderConfig
    declared_patch: str
    n_parameters: int
    dropped: tuple[str, ...]


def load_official(
    source: Path | HubFile, *, scale: str, preset: str | None = None, patch: str | None = None, drop: Sequence[str] = ()
) -> tuple[Encoder, Origin]:
    """An encoder with all weights of an official Myna checkpoint, and where they come from.

    Parameters
    ----------
    source : a .safetensors file or one written by torch.save, on this machine or on the hub (beside a config.json).
    scale : "linear" (mel power, the default of the authors' code) or "log1p"; checkpoints do not state it.
    preset, patch : what is expected; None for what fits. Vertical and square patches hold 256 values each and have
        tensors of the same shapes: `patch` is needed unless the config.json beside the file states it.
    drop : further tensors that may be left out, named as in HEADS.

    Raises
    ------
    KeyMynaError
        When the file is unavailable or holds more than tensors; when a tensor of the encoder is missing or of another
        shape or not finite, or one is left over that is no part of a head; when the encoder is not the expected one,
        or ambiguous.
    """
    if isinstance(source, HubFile):
        name, revision = f"{source.repo}/{source.name}", source.revision
        path, declaration = (HubFile(source.repo, file, revision).download() for file in (source.name, "config.json"))
    else:
        path, name, revision = Path(source), Path(source).name, ""
        declaration = path.parent / "config.json"
    declared = _declared_patch(declaration)
    if declared and patch not in (None, declared):
        raise KeyMynaError(
            f"{name} is for {declared} patches according to the config.json beside it, not for {patch} ones."
        )
    encoder, dropped = encoder_of(
        read_tensors(path), name, scale=scale, preset=preset, patch=patch or declared or None, drop=drop
    )
    return encoder, Origin(
        name,
        revision,
        sha256_file(path),
        encoder.config,
        declared,
        sum(p.numel() for p in encoder.parameters()),
        tuple(dropped),
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a state dict that torch.save wrote (bare, or wrapped in a checkpoint).

    Raises
    ------
    KeyMynaError
        When the file is absent, damaged, of another kind, or holds anything but finite tensors.
    """
    suffix = path.suffix.lower()
    if suffix not in (".safetensors", *_PICKLED):
        raise KeyMynaError(f"{path}: expected a file that ends in .safetensors, {', '.join(_PICKLED)}.")
    if suffix == ".safetensors":
        with reading(path, "a state dict", _REMEDY) as (stored, metadata):
            if (kind := kind_of(metadata)) not in ("", ENCODER):
                raise KeyMynaError(f"{path} is {kind}; expected the weights of an encoder. {_REMEDY}")
            return stored
    try:
        stored = torch.load(path, "cpu", weights_only=True)
    except FileNotFoundError:
        raise KeyMynaError(f"{path} does not exist. {_REMEDY}") from None
    except Exception as error:
        found = "" if zipfile.is_zipfile(path) else damage(path)
        if found.startswith("is a zip"):  # whose end is missing
            found = "is cut short"
        elif not found and path.read_bytes()[8:9] == b"{":
            found = "is a .safetensors file by another name; rename it"
        raise KeyMynaError(
            f"{path} {found}; expected what torch.save wrote. {_REMEDY}"
            if found and not found.endswith("pickle")
            else f"{path} is damaged, or holds more than tensors and would run code when loaded, which was "
            f"not done ({type(error).__name__}). Get it again, or ask for a .safetensors file."
        ) from None
    if isinstance(stored, Mapping):
        stored = next((stored[key] for key in _WRAPPERS if isinstance(stored.get(key), Mapping)), stored)
    if not isinstance(stored, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in stored.items()
    ):
        raise KeyMynaError(
            f"{path} does not hold a state dict: expected tensors by name, bare or under one of {', '.join(_WRAPPERS)}."
        )
    expect_finite(stored, path, _REMEDY)
    return dict(stored)


def without_prefix(state: Mapping[str, Tensor], anchor: str, what: str) -> dict[str, Tensor]:
    """A state dict without the prefix ("module.", "model.encoder.", ...) of the larger model that it was part of.

    Parameters
    ----------
    anchor : a name that occurs exactly once in the model.
    what : names the state dict in an error.

    Raises
    ------
    KeyMynaError
        When the anchor does not occur exactly once.
    """
    prefixes = [name.removesuffix(anchor) for name in state if f".{name}".endswith(f".{anchor}")]
    if len(prefixes) != 1:
        raise KeyMynaError(
            f"{what}: expected one tensor {anchor}, found {len(prefixes)} among {some(state) or 'none at all'}."
        )
    return {name.removeprefix(prefixes[0]): value for name, value in state.items()}


def encoder_of(
    state: Mapping[str, Tensor],
    what: str,
    *,
    scale: str,
    preset: str | None = None,
    patch: str | None = None,
    drop: Sequence[str] = (),
) -> tuple[Encoder, list[str]]:
    """The encoder that a state dict with the official names fits, with its weights, and the names that were left out.

    `what` names the state dict in an error; the other parameters and the errors are those of `load_official`.
    """
    EncoderConfig(preset or "vit-s", patch or "vertical", scale)  # names that do not exist are refused here
    state = without_prefix(state, "transformer.norm.weight", what)
    dropped = [name for name in state if any(part.startswith((*HEADS, *drop)) for part in name.split("."))]
    state = {name: value for name, value in state.items() if name not in dropped}
    found = shapes(state)
    misfit = {(a, b): misfits(found, encoder_shapes(a, b), "encoder") for a in PRESETS for b in PATCHES}
    fitting = [pair for pair, phrases in misfit.items() if not phrases]
    wanted = [(a, b) for a, b in misfit if preset in (None, a) and patch in (None, b)]
    chosen = [pair for pair in fitting if pair in wanted]
    if not chosen and fitting:
        raise KeyMynaError(f"{what} fits {_names(fitting)}, not {preset or 'any size'} with {patch or 'any'} patches.")
    if not chosen:
        closest = min(wanted, key=lambda pair: len(misfit[pair]))
        raise KeyMynaError(
            f"{what} does not fit {_names([closest])}: {some(misfit[closest])}. Tensors of a "
            "head, not of the encoder, can be left out by `drop`."
        )
    if len(chosen) > 1:
        raise KeyMynaError(f"{what} fits {_names(chosen)} alike: say which by `patch`.")
    expect_floating(state, what, _REMEDY)
    encoder = Encoder(EncoderConfig(*chosen[0], scale))
    encoder.load_state_dict(state)
    return encoder.eval(), dropped


def _names(pairs: Sequence[tuple[str, str]]) -> str:
    """Pairs of one preset and some patches, in words."""
    return f"{pairs[0][0]} with {' or '.join(patch for _, patch in pairs)} patches"


def _declared_patch(path: Path) -> str:
    """The patches that a config.json states in the authors' fields (patch_size, additional_patch_size), or empty."""
    stored = read_json(path, _REMEDY_CONFIG) if path.is_file() else {}
    sizes = [stored.get(field) for field in ("patch_size", "additional_patch_size")]
    if not sizes[0]:
        return ""
    try:
        sizes = tuple((size, size) if isinstance(size, int) else tuple(size) for size in sizes if size)
    except TypeError:
        raise KeyMynaError(f"{path}: patch_size {sizes[0]!r}: expected a number or a pair. {_REMEDY_CONFIG}") from None
    for patch, known in PATCHES.items():
        if sizes == known:
            return patch
    raise KeyMynaError(f"{path}: patches of {sizes} (mel bands, frames) are none of {', '.join(PATCHES)}.")
