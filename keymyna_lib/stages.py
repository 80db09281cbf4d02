"""What the earlier notebooks of a profile made, opened for the later ones."""

from __future__ import annotations

from keymyna_lib import paths, results
from keymyna_lib.data.corpus import Corpus, open_corpus
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.model import Encoder, load_encoder
from keymyna_lib.pretrain import pick_device

TRAINED, UNTRAINED = "pre-trained", "untrained"


def corpus_of(profile: str) -> Corpus:
    """The corpus that notebook 00 built.

    Raises
    ------
    KeyMynaError
        When it has not run, or its corpus is not in this machine's cache or is another one.
    """
    made = results.published(profile, "00_data")["outputs"]
    corpus = open_corpus(paths.CACHE / made["folder"])
    if corpus.hash != made["corpus"]:
        raise KeyMynaError(f"the corpus in {corpus.path} is not the one that notebook 00 published; run it again: "
                           f"./run_all.sh --profile {profile} --only 00 --force")
    return corpus


def encoders_of(profile: str, corpus: Corpus, device: str = "cpu") -> dict[str, Encoder]:
    """The pre-trained encoder of notebook 10 and the untrained one that it started as, on a device.

    Raises
    ------
    KeyMynaError
        When notebook 10 has not run, or ran on another corpus.
    """
    made = results.published(profile, "10_pretrain")
    if made["outputs"]["corpus"] != corpus.hash:
        raise KeyMynaError("the encoder was pre-trained on another corpus; pre-train again: "
                           f"./run_all.sh --profile {profile} --only 10 --force")
    run_id, = made["runs"]
    return {name: load_encoder(results.artifact(profile, run_id, file)).to(pick_device(device))
            for name, file in ((TRAINED, "encoder.safetensors"), (UNTRAINED, "untrained.safetensors"))}


def inputs_of(profile: str, corpus: Corpus) -> dict[str, str]:
    """Hashes of the corpus and of the pre-trained encoder: what a run on frozen features has as its inputs."""
    return {"corpus": corpus.hash, "pretrain": results.published(profile, "10_pretrain")["outputs"]["encoder"]}
