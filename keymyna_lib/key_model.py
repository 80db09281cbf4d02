"""A key model: all that turns mel spectrograms into an answer about a key, in one safetensors file.

An encoder, one head or several, and what calibrates their answer: a temperature, and the doubt above which there
is no answer. The file's header says what it was trained on, under which licence it may be used, and by which code it
was made. Tensors are named "encoder.<name>" and "head.<number>.<name>".
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.base import paths
from keymyna_lib.base.checks import Rule, at_least, check, within
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.tensors import MODEL, reading, save_tensors, some
from keymyna_lib.calibration import tempered
from keymyna_lib.heads import TrainedHead
from keymyna_lib.key_over_time import PERSISTENCE
from keymyna_lib.keys import KEY_NAMES, N_KEYS
from keymyna_lib.model import Encoder, encoder_record, load_encoder, recorded_encoder
from keymyna_lib.spectrogram import WINDOW, window_frames

DEFAULT = paths.LIBRARY / "models" / "default.safetensors"
LARGEST = 10_000_000  # bytes of a file; what a package may bring along
# How weights are stored. Half precision rounds them by 2^-11 of their size at most: with encoder, probe and wide MLP of
# `mini`, no key of its 284 test tracks changed, and no probability by more than 0.0005.
STORED = {"float32": torch.float32, "float16": torch.float16}
_NUMBERS = ("temperature", "max_entropy", "persistence")
MOST = math.log(N_KEYS)  # nats, the entropy of equal probabilities
_TEXTS = ("name", "licence", "data_card", "commit")
_REMEDY = "Give a file that KeyModel.save wrote, or get it again."


@dataclass
class KeyModel:
    """An encoder with heads, and what calibrates them.

    Attributes
    ----------
    encoder : in evaluation mode.
    heads : by name; the mean of their softmax outputs counts.
    temperature : by which the logarithm of a recording's mean probabilities is divided (Guo et al., 2017), chosen on
        validation; 1 changes nothing, more is more doubt. No key changes with it.
    max_entropy : of a recording whose key is clear: the mean over its windows of the entropy of their probabilities, as
        the heads give them [nats]; above, there is no clear key. Chosen on validation; log 24 lets everything through.
        Where there is a key, doubt is between it and its neighbours; noise, drums and atonal music spread it over the
        whole circle, which an entropy shows and the likeliest key's probability does not.
    persistence : of keys over time, see `key_over_time.log_transitions`; chosen on validation.
    name : of the model. licence : of the weights ("MIT"). data_card : where it says what they were trained on.
    commit : of the code that trained them.

    Raises
    ------
    KeyMynaError
        When a head expects other features than the encoder's, or there is none, or a number is out of range.
    """

    encoder: Encoder
    heads: dict[str, TrainedHead]
    temperature: float = 1.0
    max_entropy: float = MOST
    persistence: float = PERSISTENCE
    name: str = ""
    licence: str = ""
    data_card: str = ""
    commit: str = ""

    def __post_init__(self) -> None:
        check(
            self,
            {
                "temperature": within(0.01, 100),
                "max_entropy": within(0, MOST),
                "persistence": at_least(0),
                "heads": Rule(lambda value: len(value) > 0, "one head or more"),
            },
            of="key model",
        )
        for name, head in self.heads.items():
            if len(head.mean) != self.encoder.embedding_dim:
                raise KeyMynaError(
                    f"head {name} takes {len(head.mean)} features, and the encoder gives {self.encoder.embedding_dim}. "
                    "Give the head that was trained on this encoder."
                )

    @classmethod
    def of_files(cls, encoder: Path | str, head: Path | str) -> KeyModel:
        """An encoder and a head as the runs wrote them (`model.save_encoder`, `heads.TrainedHead.save`).

        Raises
        ------
        KeyMynaError
            When a file is missing or damaged, or the two do not fit.
        """
        head = Path(head)
        return cls(load_encoder(Path(encoder)), {f"{head.parent.name}/{head.name}": TrainedHead.load(head)})

    @property
    def frames(self) -> int:
        """Length of the windows that the heads were trained on, frames."""
        return window_frames(self.encoder.crop_frames or WINDOW)

    def probabilities(self, embeddings: Tensor) -> np.ndarray:
        """Softmax outputs (window, 24) of embeddings (window, embedding), the mean over heads, not yet calibrated.

        Raises
        ------
        KeyMynaError
            When one is NaN: weights may be finite and their products not.
        """
        found = [head.window_probabilities(embeddings) for head in self.heads.values()]
        mean = found[0] if len(found) == 1 else np.mean(found, axis=0)
        if not np.isfinite(mean).all():
            raise KeyMynaError(
                f"the key model {self.name or ', '.join(self.heads)} gives NaN: its weights are too large, from a "
                "training run that diverged perhaps. Take another one."
            )
        return mean

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray:
        """Probabilities (..., key) at the model's temperature, of the same order."""
        if self.temperature == 1:
            return probabilities
        return tempered(probabilities, self.temperature)

    def save(self, path: Path | str, *, stored: str = "float32", most: int = LARGEST) -> None:
        """Write the model file, atomically and with a checksum.

        Parameters
        ----------
        stored : type of the weights in the file, one of STORED; scalers are stored in float32 always.
        most : bytes that its tensors may take.

        Raises
        ------
        KeyMynaError
            When it would be larger, when a weight is beyond what the type holds, or a head is of an unknown kind.
        """
        if stored not in STORED:
            raise KeyMynaError(f"stored {stored!r}: expected one of {', '.join(STORED)}.")
        kind = STORED[stored]
        tensors = {f"encoder.{name}": value.to(kind) for name, value in self.encoder.state_dict().items()}
        for i, head in enumerate(self.heads.values()):
            for name, value in head.tensors().items():
                scaler = name in ("mean", "std")
                tensors[f"head.{i}.{name}"] = value.to(torch.float32 if scaler else kind)
        if beyond := [name for name, value in tensors.items() if not value.isfinite().all()]:
            raise KeyMynaError(f"{path}: {some(beyond)} cannot be stored as {stored}; store the weights as float32.")
        if (size := sum(value.nbytes for value in tensors.values())) > most:
            raise KeyMynaError(
                f"{path} would take {size / 1e6:.1f} MB, and may take {most / 1e6:.1f}. Store the weights as float16, "
                "or take a smaller encoder or head."
            )
        header = {
            **{name: getattr(self, name) for name in _TEXTS},
            **{name: float(getattr(self, name)) for name in _NUMBERS},
            "keys": KEY_NAMES,
            "stored": stored,
            "encoder": encoder_record(self.encoder),
            "heads": [{"name": name, **head.record()} for name, head in self.heads.items()],
        }
        save_tensors(path, tensors, key_model=json.dumps(header))

    @classmethod
    def load(cls, path: Path | str) -> KeyModel:
        """Read what `save` wrote; weights become float32.

        Raises
        ------
        KeyMynaError
            When the file is absent, damaged, or no key model; when parts of it do not fit, or its keys are others than
            `keys.KEY_NAMES`.
        """
        with reading(path, MODEL, _REMEDY) as (tensors, metadata):
            if "key_model" not in metadata:
                raise KeyMynaError(f"{path} holds {some(tensors)}, and not the header of {MODEL}. {_REMEDY}")
            header: dict[str, Any] = json.loads(metadata["key_model"])
            if tuple(header["keys"]) != KEY_NAMES:
                raise KeyMynaError(f"{path} is for other keys, or for another order of them. {_REMEDY}")
            parts: dict[str, dict[str, Tensor]] = {"encoder": {}}
            for name, value in tensors.items():
                part, _, rest = name.partition(".")
                if part == "head":
                    number, _, rest = rest.partition(".")
                    part = f"head {number}"
                parts.setdefault(part, {})[rest] = value.float() if value.is_floating_point() else value
            encoder = recorded_encoder(header["encoder"], parts.pop("encoder"), path, _REMEDY)
            heads = {}
            for i, record in enumerate(header["heads"]):
                name = record.pop("name")
                heads[name] = TrainedHead.recorded(record, parts.pop(f"head {i}"), path, _REMEDY)
            if parts:
                raise KeyMynaError(f"{path} holds {some(parts)} that its header does not name. {_REMEDY}")
            return cls(
                encoder,
                heads,
                **{name: header[name] for name in ("temperature", "max_entropy", *_TEXTS)},
                persistence=header.get("persistence", PERSISTENCE),  # left open by models without keys over time
            )
