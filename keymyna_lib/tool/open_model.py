"""The key model that somebody names: a file, a run, official weights, or the one that comes with the package."""

from __future__ import annotations

from pathlib import Path

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json
from keymyna_lib.base.tensors import ENCODER, HEAD, MODEL, kind_of_file, reading
from keymyna_lib.encoders.hub import checkpoint
from keymyna_lib.encoders.official import load_official
from keymyna_lib.heads import TrainedHead
from keymyna_lib.key_model import DEFAULT, KeyModel

# Files of encoders in a run of notebook 10, by the features that heads are trained on (`experiments.upstream`).
_ENCODERS = {"pre-trained": "encoder.safetensors", "untrained": "untrained.safetensors"}
_KINDS = (
    "a model file; a run that trained a head, by its id or folder; or an encoder's weights, ours or official ones, "
    "with --head"
)


def open_model(name: str = "", head: str = "", *, patch: str | None = None, scale: str = "linear") -> KeyModel:
    """A model by its name on the command line.

    Parameters
    ----------
    name : a model file; an encoder's file, official ones included, or a file of the model hub (see `hub.checkpoint`);
        the id or folder of a run. Empty for the model of the package.
    head : file of the head, where `name` is an encoder.
    patch, scale : of official weights, see `official.load_official`.

    Raises
    ------
    KeyMynaError
        When there is no such model, when it needs a head or has one already, or as those who read the files.
    """
    if not name:
        if head:
            raise KeyMynaError("--head is for the encoder that --model names: give both.")
        if not DEFAULT.is_file():
            raise KeyMynaError(f"this version comes without a model. Name one by --model: {_KINDS}.")
        return KeyModel.load(DEFAULT)
    path = paths.expanded(name)
    run = path if path.is_dir() else next(paths.run_folders(path.name), None)
    if run and not path.is_file() and path.name == run.name:
        return _of_run(run.resolve(), head)
    kind = kind_of_file(path)
    if kind == MODEL:
        if head:
            raise KeyMynaError(f"{path} has a head of its own: leave --head out.")
        return KeyModel.load(path)
    if kind == HEAD:
        raise KeyMynaError(f"{path} is {HEAD}: give it as --head, and its encoder as --model.")
    if not path.exists() and "@" not in name:
        raise KeyMynaError(f"--model {name}: there is no such file or run. Give {_KINDS}.")
    if not head:
        if path.exists():
            with reading(
                path, kind or "an encoder's weights", f"Give {_KINDS}."
            ):  # says so of what is damaged, or no weights at all
                pass
        raise KeyMynaError(f"{path} needs a head that was trained on it: add --head FILE.")
    if kind == ENCODER:
        return KeyModel.of_files(path, head)
    encoder, _ = load_official(checkpoint(name), scale=scale, patch=patch)
    return KeyModel(encoder, {Path(head).name: TrainedHead.load(head)})


def _of_run(folder: Path, head: str) -> KeyModel:
    """The head of a run with the encoder that it was trained on, or the encoder of a run with `head`."""
    from keymyna_lib.report.runs import artifact  # here, as it needs what the notebooks install

    profile, run = folder.parents[1].name, folder.name
    if folder not in [place.resolve() for place in paths.run_folders(run)]:
        raise KeyMynaError(
            f"{folder} is no run of this clone: expected a folder in {paths.ROOT}/{paths.LOCAL}/results/*/runs, or in "
            f"{paths.ROOT}/results/*/runs."
        )
    config, artifacts = read_json(folder / "config.json"), read_json(folder / "provenance.json")["artifacts"]
    if "encoder.safetensors" in artifacts:
        if not head:
            raise KeyMynaError(
                f"run {run} made an encoder, which needs a head that was trained on it: add --head FILE."
            )
        return KeyModel.of_files(artifact(profile, run, "encoder.safetensors"), head)
    if head:
        raise KeyMynaError(f"run {run} has a head of its own: leave --head out.")
    if "head.safetensors" not in artifacts or config.get("features") not in _ENCODERS:
        raise KeyMynaError(
            f"run {run} has no head on an encoder of ours (features: {config.get('features', 'none')}). Give one of "
            f"notebooks 20, 30 or 65 with features {' or '.join(_ENCODERS)}."
        )
    for made in sorted(folder.parent.glob("pretrain-*/provenance.json")):
        if read_json(made)["artifacts"].get("encoder.safetensors") == config["inputs"]["pretrain"]:
            encoder = artifact(profile, made.parent.name, _ENCODERS[config["features"]])
            return KeyModel.of_files(encoder, artifact(profile, run, "head.safetensors"))
    raise KeyMynaError(f"the run that made the encoder of run {run} is no longer there: run notebooks 10 and 20 again.")
