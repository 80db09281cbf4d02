"""What the earlier notebooks of a profile published, opened for the later ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus.corpus import Corpus, open_corpus
from keymyna_lib.corpus.recordings.tasks import TASKS, dataset, download, unlabelled_corpus
from keymyna_lib.encoders.huggingface import extract_audio, frozen_encoder
from keymyna_lib.features import CHROMA, MEAN_MEL, Features, add_shifted, extract
from keymyna_lib.model import Encoder, load_encoder
from keymyna_lib.pretrain import PretrainConfig, pretrain, training_tracks
from keymyna_lib.report.runs import Run, artifact, config_of, published, run_file
from keymyna_lib.spectrogram import WINDOW, window_frames

TRAINED, UNTRAINED = "pre-trained", "untrained"
RENDERED, RECORDED = "00_data", "05_recordings"  # the notebooks that build a corpus
PRETRAINED = "10_pretrain"


def _maker(profile: str) -> str:
    """The notebook whose corpus the profile works on."""
    return RECORDED if published(profile, RECORDED)["outputs"]["folder"] else RENDERED


def _corpus_of(profile: str, notebook: str) -> Corpus:
    made = published(profile, notebook)["outputs"]
    corpus = open_corpus(paths.CACHE / made["folder"])
    if corpus.hash != made["corpus"]:
        raise KeyMynaError(
            f"the corpus in {corpus.path} is not the one that notebook {notebook[:2]} published; run that "
            f"notebook again: ./run_all.sh --profile {profile} --only {notebook[:2]} --force"
        )
    return corpus


def rendered_corpus_of(profile: str) -> Corpus:
    """The synthetic corpus that notebook 00 built.

    Raises
    ------
    KeyMynaError
        When the notebook has not run, or when its corpus is missing from this machine's cache or is a different one.
    """
    return _corpus_of(profile, RENDERED)


def corpus_of(profile: str) -> Corpus:
    """The corpus of a profile: the recordings that notebook 05 found under the data root, else the synthetic corpus.

    Raises
    ------
    KeyMynaError
        As `rendered_corpus_of`.
    """
    return _corpus_of(profile, _maker(profile))


FREE_SECONDS = 60.0  # of each: about as many hours as the synthetic corpora have (our choice)


def free_recordings_in(root: str) -> Corpus:
    """Free game music to pre-train on; see `recordings.game_music`.

    Parameters
    ----------
    root : a data root. Without game music, it is fetched; what is there is taken as it is (`-p fetch game_music`, of
        notebook 05, completes it).

    Returns
    -------
    `FREE_SECONDS`, from the beginning, of each recording that is long enough; all have the split "pretrain".

    Raises
    ------
    KeyMynaError
        As `tasks.download` and `tasks.unlabelled_corpus`.
    """
    folder, music = Path(root).expanduser(), dataset("game_music")
    if not music.folder(folder).is_dir():
        download([music], folder, offline=False)
    return unlabelled_corpus([music], folder, seconds=FREE_SECONDS)[0]


def tasks_of(corpus: Corpus) -> dict[str, Corpus]:
    """The tasks of a corpus by name, each with its own labelled tracks for training, validation and test."""
    return {name: corpus.of_task(name) for name in _in_order(corpus)}


def _in_order(corpus: Corpus) -> list[str]:
    """The names of a corpus's tasks, the paper's first."""
    return sorted(corpus.tasks(), key=lambda name: list(TASKS).index(name) if name in TASKS else len(TASKS))


def task_of(profile: str, task: str) -> Corpus:
    """One task of a profile's corpus; its first when `task` is empty.

    Raises
    ------
    KeyMynaError
        When the corpus has no such task, or as `corpus_of`.
    """
    corpus = corpus_of(profile)
    return corpus.of_task(task or _in_order(corpus)[0])


def pretraining_of(corpus: Corpus, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies notebook 10's run with these settings (a `PretrainConfig`'s where it trains), for `Stage.run`."""
    return {"experiment": "pretrain", "config": settings, "seed": settings["seed"], "inputs": {"corpus": corpus.hash}}


def train_encoder(run: Run, corpus: Corpus, config: PretrainConfig) -> tuple[Encoder, pd.DataFrame]:
    """Pre-train the encoder of a run, resuming where an earlier attempt stopped; see `pretrain.pretrain`.

    Notebook 10 and `run.torchrun` both train through here, so either resumes what the other began.
    """
    return pretrain(
        config,
        corpus,
        training_tracks(config, corpus),
        corpus.tracks(split="valid"),
        run.resumable_path("checkpoint.safetensors"),
    )


def encoders_of(profile: str, device: str = "cpu") -> dict[str, Encoder]:
    """The pre-trained encoder of notebook 10, and the untrained one with the weights that it started from.

    Raises
    ------
    KeyMynaError
        When notebook 10 has not run, or ran on another corpus.
    """
    made = published(profile, PRETRAINED)
    if made["outputs"]["corpus"] != published(profile, _maker(profile))["outputs"]["corpus"]:
        raise KeyMynaError(
            "the encoder was pre-trained on another corpus; pre-train again: "
            f"./run_all.sh --profile {profile} --only 10 --force"
        )
    (run_id,) = made["runs"]
    return {
        name: load_encoder(artifact(profile, run_id, file)).to(pick_device(device))
        for name, file in ((TRAINED, "encoder.safetensors"), (UNTRAINED, "untrained.safetensors"))
    }


def pretraining_tracks_of(profile: str) -> list[str]:
    """Ids of the tracks that notebook 10's encoder was pre-trained on; none where its weights are official ones."""
    (run_id,) = published(profile, PRETRAINED)["runs"]
    if "weights" in config_of(profile, run_id):
        return []
    return pd.read_csv(run_file(profile, run_id, "training_tracks.csv"), dtype=str)["track_id"].tolist()


def inputs_of(profile: str, frozen: str = "") -> dict[str, str]:
    """Hashes of the inputs of a run on frozen features: corpus, pre-trained encoder, and `frozen` where one is given.

    Parameters
    ----------
    frozen : another encoder, see `huggingface.frozen_encoder`; none when empty.
    """
    inputs = {
        "corpus": published(profile, _maker(profile))["outputs"]["corpus"],
        "pretrain": published(profile, PRETRAINED)["outputs"]["encoder"],
    }
    return inputs | ({"frozen": frozen_encoder(frozen, "cpu").identity} if frozen else {})


def window_of(profile: str) -> int:
    """Length of the windows that notebook 10's encoder embeds, frames; official weights get the usual one."""
    (run_id,) = published(profile, PRETRAINED)["runs"]
    return window_frames(config_of(profile, run_id).get("crop_frames", WINDOW))


def describe_encoder(profile: str) -> str:
    """Notebook 10's encoder in words, for captions: its size, and its pre-training or where its weights are from."""
    (run_id,) = published(profile, PRETRAINED)["runs"]
    config = config_of(profile, run_id)
    preset = config["encoder"]["preset"]
    if "weights" in config:
        return f"{preset} with the weights of {config['weights']['source']}"
    return f"{preset} after {config['steps']} pre-training steps of batch {config['batch_size']}"


def feature_sets(
    corpus: Corpus,
    encoders: Mapping[str, Encoder],
    frozen: str = "",
    device: str = "cpu",
    *,
    shifts: Mapping[str, Sequence[int]] | None = None,
    windows: int = 1,
    frames: int = WINDOW,
    client: Executor = HERE,
) -> dict[str, Features]:
    """The feature sets that heads are compared on, by name: those of the encoders, the controls, then `frozen`.

    One process at a time extracts; others wait, and find in the cache what they have in common.

    Parameters
    ----------
    corpus : one task.
    encoders : by the name of their features.
    frozen : an encoder that reads audio, see `huggingface.frozen_encoder`; none when empty. It gets no shifted views:
        these are made on the spectrogram, which it does not read.
    shifts, windows : shifted views to add, see `features.add_shifted`.
    frames : length of a window, see `window_of`; the same for all sets, so that they differ in their features alone.
    client : where to work, see `cluster.connect`; shifted views are always made in this process.
    """
    names = (*encoders, MEAN_MEL, CHROMA)
    turn = filelock.FileLock(paths.CACHE / "features" / ".turn.lock")
    (paths.CACHE / "features").mkdir(parents=True, exist_ok=True)
    # Whoever ends first removes the parts of a set, see `features.in_parts`, and all have the same place for them.
    with turn:
        sets = {name: extract(corpus, name, encoders.get(name), frames=frames, client=client) for name in names}
    if shifts:
        sets = add_shifted(corpus, encoders, sets, shifts, windows=windows, frames=frames)
    if frozen:
        other = frozen_encoder(frozen, device)
        with turn:
            sets[other.name] = extract_audio(corpus, other, frames=frames, client=client)
    return sets


def material(task: str) -> str:
    """The tracks of a task in words, for captions."""
    return TASKS[task].title if task in TASKS else "the synthetic corpus" if task == "rendered" else task
