"""Notebook 10's training alone, on as many processes as torchrun starts; the notebook then only records it.

    ./run_all.sh --profile paper --only 00 --only 05 -p steps 200000
    torchrun --nproc-per-node 8 -m keymyna_lib.run.pretrain --profile paper -p steps 200000
    ./run_all.sh --profile paper -p steps 200000

Parameters are those of the notebook for the profile, and a checkpoint goes where the notebook looks for one. So
either goes on where the other stopped, on any number of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from keymyna_lib.base import paths
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute import ranks
from keymyna_lib.experiments.upstream import PRETRAINED, corpus_of, pretraining_of, train_encoder
from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.report.runs import Run
from keymyna_lib.run import pipeline
from keymyna_lib.run.project import Project


def config_of(values: Mapping[str, Any]) -> PretrainConfig:
    """The run that parameters of notebook 10 stand for.

    Raises
    ------
    KeyMynaError
        When they name official weights, which are not trained, or a value is out of range.
    """
    if values["weights"]:
        raise KeyMynaError(f"weights {values['weights']!r}: with official weights nothing is trained.")
    encoder = EncoderConfig(values["preset"], values["patch"], values["scale"])
    return PretrainConfig(encoder, **{field.name: values[field.name] for field in fields(PretrainConfig)[1:]})


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="torchrun ... -m keymyna_lib.run.pretrain",
        allow_abbrev=False,
        description="Pre-train as notebook 10 would, on several processes.",
    )
    made.add_argument("--profile", choices=paths.PROFILES, default="mini", help="whose parameters and corpus to take")
    made.add_argument(
        "-p",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        default=[],
        dest="overrides",
        help="set a parameter, as for ./run_all.sh (repeatable)",
    )
    return made


def train(profile: str, overrides: list[tuple[str, str]]) -> None:
    """Train to the end.

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
                f"notebook {need} is not up to date ({reason}), so that the corpus may change before "
                f"notebook 10 runs. First: ./run_all.sh --profile {profile} --only {need[:2]}, with the "
                "same -p."
            )
    with ranks.joined(pick_device(config.device).type):
        first = not ranks.rank()
        with pipeline.locked(project, profile) if first else contextlib.nullcontext():
            corpus = corpus_of(profile)
            run = Run(profile=profile, notebook=PRETRAINED, **pretraining_of(corpus, asdict(config)))
            train_encoder(run, corpus, config)
        if first:
            print("Trained. Notebook 10 finds it done, and records it, if it runs with the same parameters.")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; status 0, or 1 for a failure, 2 for a wrong option, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        train(options.profile, [tuple(pair) for pair in options.overrides])
    except KeyMynaError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once on each machine
            print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
