"""Encoders that differ in one setting: each pre-trained, embedded and probed in the same way, one run each.

The notebooks that compare objectives and that ablate the design both use this module, so that two rows differ in their
configuration alone. They share the corpus, its unlabelled training tracks, the initial weights of a seed, the batches,
the logistic probe with its labelled tracks, and the test tracks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.evaluate import summary
from keymyna_lib.experiments.cost import counted_flops
from keymyna_lib.experiments.label_efficiency import label_efficiency
from keymyna_lib.experiments.pretext import chance_measure
from keymyna_lib.features import extract
from keymyna_lib.model import Encoder, build_encoder, load_encoder, save_encoder
from keymyna_lib.pretrain import INITIAL_WEIGHTS, PretrainConfig, pretrain_once, training_tracks
from keymyna_lib.report.runs import Run, artifact, config_of, run_file
from keymyna_lib.report.stage import Stage
from keymyna_lib.spectrogram import window_frames

MASKED, UNTRAINED = "masked contrastive", "untrained"
# What each objective changes in a configuration. Masked contrastive keeps the mask ratio; reconstruction hides the
# three quarters that He et al. (2022) found best; the others see every patch.
OBJECTIVES: dict[str, dict[str, Any]] = {
    MASKED: dict(objective="contrastive", augmentation="none"),
    "augmented contrastive": dict(objective="contrastive", mask_ratio=0.0, augmentation="timbre"),
    "augmented contrastive, pitch-shifted": dict(
        objective="contrastive", mask_ratio=0.0, augmentation="timbre and pitch"
    ),
    "bare contrastive": dict(objective="contrastive", mask_ratio=0.0, augmentation="none"),
    "masked reconstruction": dict(objective="reconstruction", mask_ratio=0.75, augmentation="none"),
    "supervised": dict(objective="supervised", mask_ratio=0.0, augmentation="none"),
}


def with_objective(config: PretrainConfig, name: str) -> PretrainConfig:
    """A configuration with an objective of OBJECTIVES.

    Raises
    ------
    KeyMynaError
        When there is no objective of this name.
    """
    if name not in OBJECTIVES:
        raise KeyMynaError(f"objective {name!r}: choose among {', '.join(OBJECTIVES)}.")
    return replace(config, **OBJECTIVES[name])


def known_factors(factors: Sequence[str], variants: Mapping[str, Any]) -> Sequence[str]:
    """The factors to vary, after a check that each has variants.

    Raises
    ------
    KeyMynaError
        When one has none.
    """
    check_parts(factors, list(variants), "what to vary")
    return factors


def check_parts(parts: Sequence[Any], whole: Sequence[Any], names: str) -> None:
    """Check, before hours of work, that everything to be compared or shown will have been run.

    Parameters
    ----------
    names : of the parameters that hold the parts and the whole, for the message.

    Raises
    ------
    KeyMynaError
        When a part is not in the whole.
    """
    if missing := [part for part in parts if part not in whole]:
        raise KeyMynaError(f"{names}: {missing[0]!r} is not among {', '.join(map(repr, whole))}; add it there.")


def record(
    stage: Stage,
    name: str,
    config: PretrainConfig | None,
    base: PretrainConfig,
    corpus: Corpus,
    budgets: Sequence[int],
    draws: Sequence[int],
    *,
    experiment: str,
) -> str:
    """Pre-train (or load from the cache), embed, probe at every label budget, and store everything as one run.

    Parameters
    ----------
    stage : of the notebook that the run belongs to.
    name : of the system, the same for every length of its pre-training.
    config : the pre-training; None for the untrained encoder of `base`.
    base : the default that the systems vary. The untrained encoder is its initialisation, and its number of steps is
        the one at which systems are compared (see `summaries.at_equal_steps`).
    budgets, draws : see `label_efficiency`.

    Returns
    -------
    The run's id. Its files: encoder.safetensors (in the cache); history.csv; predictions.csv, of the first budget and
    draw; estimates.csv, one row per test track and one column per budget and draw (see `summaries.estimates_of`);
    choices.csv.
    """
    train, valid = training_tracks(config or base, corpus), corpus.tracks(split="valid")
    shown = _shown(config) if config else {"encoder": asdict(base.encoder), "steps": 0, "seed": base.seed}
    with stage.run(
        experiment,
        seed=base.seed,
        inputs={"corpus": corpus.hash},
        config={
            **shown,
            "name": name,
            "window_frames": window_frames((config or base).crop_frames),
            "budgets": list(budgets),
            "draws": list(draws),
            "base_steps": base.steps,
        },
    ) as run:
        if config:
            encoder, history = pretrain_once(config, corpus, train, valid, desc=name)
        else:
            encoder = build_encoder(base.encoder, torch_stream(base.seed, INITIAL_WEIGHTS)).eval()
        save_encoder(encoder, run.artifact_path("encoder.safetensors"))
        features = extract(
            corpus, name, encoder.to(pick_device(base.device)), frames=window_frames((config or base).crop_frames)
        )
        predictions, choices = label_efficiency(features, corpus, budgets, draws)
        record_predictions(run, predictions, choices, len(valid))
        flops = counted_flops(config, corpus, train) * config.steps if config else 0.0
        run.metric("all", "train", "flops", flops, len(train))
        if config:
            run.attach("history", history.drop(columns="seconds"))
            run.metric("all", "train", "seconds_a_step", history["seconds"].median(), len(train))
            seen = min(config.batch_size, len(valid))
            run.metric("all", "valid", "measure", history["valid_measure"].dropna().iloc[-1], seen)
            run.metric("all", "valid", "chance", chance_measure(config, corpus, valid), seen)
    return run.run_id


def _shown(config: PretrainConfig) -> dict[str, Any]:
    """The settings that results depend on; the device and the intervals of checkpoints and validation are not."""
    return {
        key: value
        for key, value in asdict(config).items()
        if key not in ("device", "checkpoint_every", "validate_every")
    }


def record_predictions(run: Run, predictions: pd.DataFrame, choices: pd.DataFrame, n_valid: int) -> None:
    """Store what `label_efficiency` returns: every estimate, the choices made on `n_valid` tracks, and mean metrics."""
    first = predictions[
        (predictions["budget"] == predictions["budget"].iloc[0]) & (predictions["draw"] == predictions["draw"].iloc[0])
    ].reset_index(drop=True)
    run.predictions(first.drop(columns=["budget", "draw"]))
    wide = predictions.pivot(index="track_id", columns=["budget", "draw"], values="estimate").loc[first["track_id"]]
    wide.columns = [f"{budget}/{draw}" for budget, draw in wide.columns]
    shown = first.set_index("track_id")[["source", "composition", "reference"]]
    run.attach("estimates", shown.join(wide).reset_index())
    run.attach("choices", choices)
    for budget, group in predictions.groupby("budget"):
        values = summary(group["reference"].to_numpy(), group["estimate"].to_numpy())
        for metric in ("weighted_both", "weighted_ascending", "accuracy"):
            run.metric("all", "test", metric, values[metric], len(first), budget=budget)
    for budget, group in choices.groupby("budget"):
        run.metric("all", "valid", "weighted_both", group["valid_score"].mean(), n_valid, budget=budget)


def tune(
    stage: Stage,
    name: str,
    config: PretrainConfig,
    lrs: Sequence[float],
    steps: int,
    corpus: Corpus,
    budget: int,
    draws: Sequence[int],
) -> float:
    """Choose the learning rate of an objective on validation tracks, by short pilots of equal length.

    Test tracks are not even embedded.

    Parameters
    ----------
    lrs : the candidates.
    steps : length of a pilot; warm-up and schedule are shortened in proportion.
    budget, draws : of the logistic probe that judges the pilots, see `label_efficiency`.

    Returns
    -------
    The learning rate with the best validation score. The run that holds all scores is added to the stage; one that
    the notebook has published with this code is taken over, so that further seeds share one tuning.
    """
    settings = {
        **_shown(config),
        "name": name,
        "lrs": list(lrs),
        "pilot_steps": steps,
        "budget": budget,
        "draws": list(draws),
    }
    settings = {key: value for key, value in settings.items() if key not in ("lr", "seed")}
    run_id = stage.take_over("tuning", settings, corpus.hash)
    if run_id is None:
        valid = corpus.tracks(split="valid")
        seen = sorted({track for draw in draws for track in budget_tracks(corpus, budget, draw)}) + valid
        with stage.run("tuning", config=settings, seed=0, inputs={"corpus": corpus.hash}) as run:
            scores = []
            for lr in lrs:
                pilot = replace(
                    config, lr=lr, steps=steps, seed=0, warmup_steps=round(config.warmup_steps * steps / config.steps)
                )
                encoder, _ = pretrain_once(
                    pilot, corpus, training_tracks(pilot, corpus), valid, desc=f"{name}, lr {lr}"
                )
                features = extract(
                    corpus,
                    name,
                    encoder.to(pick_device(config.device)),
                    frames=window_frames(config.crop_frames),
                    track_ids=seen,
                )
                _, choices = label_efficiency(features, corpus, [budget], draws, scored="valid")
                scores.append({"lr": str(lr), "valid_score": choices["valid_score"].mean()})
                run.metric("all", "valid", "weighted_both", scores[-1]["valid_score"], len(valid), condition=f"lr {lr}")
            run.attach("scores", pd.DataFrame(scores))
        run_id = run.run_id
    table = pd.read_csv(run_file(stage.profile, run_id, "scores.csv"))  # one row per candidate, in their order
    return float(lrs[table["valid_score"].argmax()])


def encoders_of_runs(profile: str, run_ids: Sequence[str]) -> dict[str, Encoder]:
    """The encoders of runs of `record` by the name of their system, from this machine's cache."""
    return {
        config_of(profile, run)["name"]: load_encoder(artifact(profile, run, "encoder.safetensors")) for run in run_ids
    }
