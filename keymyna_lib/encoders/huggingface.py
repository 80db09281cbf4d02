"""Other frozen encoders, compared with ours on the same windows of the same recordings.

HuBERT and wav2vec 2.0 models are read with the package transformers, which is not among the requirements. MERT-v1-95M
(Li et al., 2023) is read as a HuBERT model: its extensions are switched off and its tensors have HuBERT's names. The
code in its repository is never run.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.base import paths
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json
from keymyna_lib.base.hashing import code_hash_of, sha256_file, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.encoders.hub import HubFile
from keymyna_lib.encoders.official import read_tensors, without_prefix
from keymyna_lib.features import Features, cached, in_parts, of_tracks
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE, WINDOW, n_frames, window_starts

# model_type of a config.json -> the class of transformers that reads it.
_MODELS = {"hubert": "Hubert", "wav2vec2": "Wav2Vec2", "mert_model": "Hubert"}
_MERT_OFF = {"feature_extractor_cqt": False, "deepnorm": False, "attention_relax": -1}  # extensions that HuBERT lacks
_CONFIG, _PREPROCESSOR, _WEIGHTS = "config.json", "preprocessor_config.json", ("model.safetensors", "pytorch_model.bin")
# Prefixes of tensors that a task or pre-training adds to these models, and the tensor that only training needs.
_EXTRAS = ("lm_head.", "classifier.", "projector.", "layer_weights", "quantizer.", "project_hid.", "project_q.")
_UNUSED = {"masked_spec_embed"}
_REMEDY = "Get the model's files again."


class FrozenEncoder(Protocol):
    """What `extract_audio` asks of an encoder of audio.

    Attributes
    ----------
    name : name of its features.
    sample_rate : sample rate of its input, Hz.
    dim : dimension of its embeddings.
    identity : part of the cache key; it changes whenever the embeddings may.
    """

    name: str
    sample_rate: int
    dim: int
    identity: str

    def embed_audio(self, audio: Tensor) -> Tensor:
        """(window, sample) float32 in [-1, 1] at `sample_rate` to (window, dim) float32 on the CPU."""


def frozen_encoder(source: str, device: str = "auto", layer: int | str = "mean") -> HuggingFaceEncoder:
    """An encoder from a folder, or from the model hub as "repository@revision".

    For MERT-95M, "m-a-p/MERT-v1-95M@12af15fef9d0ac838c3f475bfbbf26d2060dd4f5" (CC BY-NC 4.0).

    Parameters
    ----------
    layer : see `HuggingFaceEncoder`.

    Raises
    ------
    KeyMynaError
        When there is no such folder, the revision is not a commit, or a download fails; or as `HuggingFaceEncoder`.
    """
    if (folder := paths.expanded(source)).is_dir():
        return HuggingFaceEncoder(folder, device, layer, name=folder.resolve().name)
    repo, at, revision = source.partition("@")
    if not at:
        raise KeyMynaError(
            f"frozen {source!r}: there is no such folder; a repository of the model hub is written owner/name@revision."
        )
    HubFile(repo, _PREPROCESSOR, revision).download()
    folder = HubFile(repo, _CONFIG, revision).download().parent
    try:
        HubFile(repo, _WEIGHTS[0], revision).download()
    except KeyMynaError:  # MERT has only the other file
        HubFile(repo, _WEIGHTS[1], revision).download()
    return HuggingFaceEncoder(folder, device, layer, name=repo.split("/")[-1])


class HuggingFaceEncoder:
    """A FrozenEncoder: the hidden states of a HuBERT or wav2vec 2.0 model, averaged over time.

    Parameters
    ----------
    folder : contains config.json, preprocessor_config.json, and model.safetensors or pytorch_model.bin.
    device : "auto", "cpu" or "cuda".
    layer : 0 for the input of the transformer, i for the output of its layer i; "mean" for the mean of all of these.
    name : name of its features; a single layer is appended to it.

    Attributes
    ----------
    extras : names of tensors in the file that belong to a task or to pre-training, not to the model.

    Raises
    ------
    KeyMynaError
        When transformers is not installed, a file is missing or damaged, the model is of another kind, a tensor is
        missing, unknown or of the wrong shape, or there is no such layer.
    """

    def __init__(self, folder: Path, device: str = "auto", layer: int | str = "mean", *, name: str):
        try:
            import transformers
        except ImportError:
            raise KeyMynaError(
                f"{name}: this encoder needs transformers; install it into this environment: "
                "pip install -c requirements.lock transformers"
            ) from None
        config = read_json(folder / _CONFIG, _REMEDY)
        kind = config.get("model_type")
        if kind not in _MODELS:
            raise KeyMynaError(f"{folder / _CONFIG}: model_type {kind!r} is none of {', '.join(_MODELS)}.")
        for field, off in _MERT_OFF.items():
            if config.get(field, off) != off:
                raise KeyMynaError(
                    f"{folder / _CONFIG}: {field} is {config[field]}; only models where it is {off} can "
                    "be read, as MERT-v1-95M."
                )
        if not (folder / _PREPROCESSOR).is_file():
            raise KeyMynaError(f"{folder / _PREPROCESSOR} does not exist; it gives the sample rate of the model.")
        weights = next((folder / file for file in _WEIGHTS if (folder / file).is_file()), None)
        if weights is None:
            raise KeyMynaError(f"{folder}: neither {' nor '.join(_WEIGHTS)}.")
        family = _MODELS[kind]
        try:  # these classes ignore auto_map, which points to code in the repository
            model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**config))
        except Exception as error:
            raise KeyMynaError(
                f"{folder / _CONFIG} does not describe a {family} model ({_in_a_line(error)})."
            ) from None
        if layer != "mean" and layer not in range(depth := model.config.num_hidden_layers + 1):
            raise KeyMynaError(f"layer {layer!r}: expected 'mean', or 0 to {depth - 1}.")
        self.extras = _load(model, weights)
        self._device, self._layer = pick_device(device), layer
        self._model = model.eval().requires_grad_(False).to(self._device)
        try:
            self._prepare = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder, local_files_only=True)
        except Exception as error:
            raise KeyMynaError(f"{folder / _PREPROCESSOR} cannot be read ({_in_a_line(error)}). {_REMEDY}") from None
        self.name = name if layer == "mean" else f"{name}, layer {layer}"
        self.sample_rate, self.dim = self._prepare.sampling_rate, model.config.hidden_size
        files = [sha256_file(path) for path in (folder / _CONFIG, folder / _PREPROCESSOR, weights)]
        self._made_of = folder.resolve(), device, layer, name
        self.identity = sha256_json([files, layer, transformers.__version__])

    def __reduce__(self) -> tuple:
        """Another process receives the path, and reads the model once."""
        return _read_once, self._made_of

    @torch.inference_mode()
    def embed_audio(self, audio: Tensor) -> Tensor:
        """(window, sample) float32 in [-1, 1] at `sample_rate` to (window, dim) float32 on the CPU."""
        rows = []
        for batch in audio.split(8):
            prepared = self._prepare(list(batch.numpy()), sampling_rate=self.sample_rate, return_tensors="pt")
            states = self._model(prepared.input_values.to(self._device), output_hidden_states=True).hidden_states
            means = torch.stack([state.mean(dim=1) for state in states])  # (layer, window, dim)
            rows.append((means.mean(dim=0) if self._layer == "mean" else means[self._layer]).float().cpu())
        return torch.cat(rows)


@functools.lru_cache(maxsize=1)
def _read_once(folder: Path, device: str, layer: int | str, name: str) -> HuggingFaceEncoder:
    return HuggingFaceEncoder(folder, device, layer, name=name)


def _in_a_line(error: Exception) -> str:
    """The message of an error of another library, in one line that is not too long."""
    return " ".join(str(error).split())[:400] or type(error).__name__


def _load(model: torch.nn.Module, path: Path) -> list[str]:
    """Copy a file's tensors into a model, strictly except for the extras, whose names are returned.

    Weight-normalised convolutions may be stored under their older names (weight_g, weight_v); torch translates them.
    """
    state = without_prefix(read_tensors(path), "feature_projection.projection.weight", path.name)
    extras = [name for name in state if name.startswith(_EXTRAS)]
    try:
        missing, unknown = model.load_state_dict(
            {name: value for name, value in state.items() if name not in extras}, strict=False
        )
    except RuntimeError as error:  # shapes
        raise KeyMynaError(f"{path} does not fit its {_CONFIG}: {_in_a_line(error)}") from None
    problems = [f"{name} is missing" for name in missing if name not in _UNUSED]
    if problems := problems + [f"{name} is unknown" for name in unknown]:
        raise KeyMynaError(f"{path} does not fit its {_CONFIG}: {', '.join(problems[:8])}.")
    return extras


def extract_audio(
    corpus: Corpus,
    frozen: FrozenEncoder,
    *,
    frames: int = WINDOW,
    track_ids: Sequence[str] | None = None,
    show: bool = True,
    client: Executor = HERE,
) -> Features:
    """Embeddings of some tracks, all windows, unshifted, in the rows of `features.extract`; kept in the cache.

    Parameters
    ----------
    frames : length of a window, spectrogram frames of 32 ms.
    track_ids : the tracks; None for all that have a label.
    show : draw a progress bar.
    client : where to work, see `features.in_parts`.
    """
    track_ids = list(corpus.manifest.index[corpus.manifest["key"] >= 0] if track_ids is None else track_ids)

    def compute() -> dict[str, Features]:
        work = functools.partial(_extract, frozen=frozen, frames=frames)
        desc = f"features: {frozen.name}"
        return {frozen.name: in_parts(client, work, corpus, track_ids, identity, desc=desc, show=show)}

    code = code_hash_of(__name__)
    identity = sha256_json([corpus.hash, frozen.identity, frozen.sample_rate, frames, track_ids, code])[:16]
    return cached([frozen.name], identity, compute)[frozen.name]


def _extract(corpus: Corpus, track_ids: Sequence[str], *, frozen: FrozenEncoder, frames: int, show: bool) -> Features:
    rows = [
        frozen.embed_audio(_windows(corpus.audio(track), frames, frozen.sample_rate))
        for track in bar(track_ids, desc=f"features: {frozen.name}", unit="track", show=show)
    ]
    return of_tracks(rows, track_ids)


def _windows(audio: np.ndarray, frames: int, rate: int) -> Tensor:
    """The audio of each window of a recording, resampled from 16 kHz to another rate: (window, sample).

    The recording is resampled as a whole, then cut; silence is appended where it ends before its last window.
    """
    import torchaudio  # here: nothing else needs it

    resampled = torchaudio.functional.resample(torch.as_tensor(audio), SAMPLE_RATE, rate)
    starts = [round(HOP * start * rate / SAMPLE_RATE) for start in window_starts(n_frames(len(audio)), frames)]
    length = round(HOP * frames * rate / SAMPLE_RATE)
    padded = torch.nn.functional.pad(resampled, (0, max(starts[-1] + length - len(resampled), 0)))
    return torch.stack([padded[start : start + length] for start in starts])
