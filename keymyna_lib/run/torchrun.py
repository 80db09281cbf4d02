"""Notebook 10's training alone, on as many processes as torchrun starts; the notebook then only records it.

    ./run_all.sh --profile paper --only 00 --only 05 -p steps 200000
    torchrun --nproc-per-node 8 -m keymyna_lib pretrain --profile paper -p steps 200000
    ./run_all.sh --profile paper -p steps 200000

Parameters are those of the notebook for the profile, and a checkpoint goes where the notebook looks for one. Whichever
of the two stopped, the other resumes from it, on any number of processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute import ranks
from keymyna_lib.experiments.upstream import PRETRAINED, corpus_of, pretraining_of, train_encoder
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.report.runs import Run
from keymyna_lib.run import pipeline
from keymyna_lib.run.project import Project


def config_of(values: Mapping[str, Any]) -> PretrainConfig:
    """The configuration that parameters of notebook 10 stand for.

    Raises
    ------
    KeyMynaError
        When they name official weights, which are not trained, or a value is out of range.
    """
    if values["weights"]:
        raise KeyMynaError(f"weights {values['weights']!r}: with official weights nothing is trained.")
    return PretrainConfig.from_parameters(values)


def train(profile: str, overrides: list[tuple[str, str]]) -> None:
    """Train to the end, in a process that torchrun started, or alone.

    Parameters
    ----------
    profile : whose parameters and corpus to take.
    overrides : (name, value as typed), as for the runner.

    Raises
    ------
    KeyMynaError
        For bad input, or when the notebooks that make the corpus would run again before notebook 10; or as
        `pretrain.pretrain` does.
    """
    project = Project()
    notebooks = pipeline.load_notebooks(project)
    values = pipeline.resolve(project, notebooks, profile, overrides)
    config = config_of(values[PRETRAINED])
    for need in notebooks[PRETRAINED].needs:
        if reason := pipeline.outdated(project, notebooks[need], values[need])[0]:
            raise KeyMynaError(
                f"notebook {need} is not up to date ({reason}), so the corpus may change before notebook 10 runs. "
                f"First: ./run_all.sh --profile {profile} --only {need[:2]}, with the same -p."
            )
    with ranks.joined(pick_device(config.device).type):
        first = not ranks.rank()
        with pipeline.locked(project, profile) if first else contextlib.nullcontext():
            corpus = corpus_of(profile)
            run = Run(profile=profile, notebook=PRETRAINED, **pretraining_of(corpus, asdict(config)))
            train_encoder(run, corpus, config)
        if first:
            print("Trained. Notebook 10 finds it done, and records it, if it runs with the same parameters.")
