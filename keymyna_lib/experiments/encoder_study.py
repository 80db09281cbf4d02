"""Encoders that differ in one setting: each pre-trained, embedded and probed in the same way, one run each.

The notebooks that compare objectives and that ablate the design both use this module, so that two rows differ in their
configuration alone. They share the corpus, its unlabelled training tracks (but for the objectives of ELSEWHERE), the
initial weights of a seed, the batches, the logistic probe with its labelled tracks, and the test tracks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType
from typing import Any, NamedTuple

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
from keymyna_lib.experiments.scoring import prediction_table
from keymyna_lib.experiments.upstream import feature_sets
from keymyna_lib.experiments.wide_mlp import WideMlp, labelled_sets, wide_mlp
from keymyna_lib.features import extract
from keymyna_lib.model import Encoder, build_encoder, load_encoder, save_encoder
from keymyna_lib.pretrain import INITIAL_WEIGHTS, PretrainConfig, pretrain_once, training_tracks
from keymyna_lib.report.runs import Run, artifact, config_of, run_file
from keymyna_lib.report.stage import Stage
from keymyna_lib.report.traced import TracedTable
from keymyna_lib.spectrogram import window_frames

MASKED, UNTRAINED = "masked contrastive", "untrained"
TIMBRE = "masked contrastive, timbre-augmented"
# AudioSet's clips last 10 s: two crops of 6.25 s out of one start at most 3.75 s apart, 117 frames.
NEAR = "masked contrastive, crops within 3.75 s"
# What each objective changes in a configuration. Masked contrastive keeps the mask ratio; reconstruction hides the
# three quarters that He et al. (2022) found best; the others see every patch.
OBJECTIVES: dict[str, dict[str, Any]] = {
    MASKED: dict(objective="contrastive", augmentation="none"),
    TIMBRE: dict(objective="contrastive", augmentation="timbre"),
    NEAR: dict(objective="contrastive", augmentation="none", crop_distance=117),
    "masked contrastive, transpositions told apart": dict(objective="transposed", augmentation="none", loss="infonce"),
    "bare contrastive": dict(objective="contrastive", mask_ratio=0.0, augmentation="none"),
    "augmented contrastive": dict(objective="contrastive", mask_ratio=0.0, augmentation="timbre"),
    "augmented contrastive, pitch-shifted": dict(
        objective="contrastive", mask_ratio=0.0, augmentation="timbre and pitch"
    ),
    "masked reconstruction": dict(objective="reconstruction", mask_ratio=0.75, augmentation="none"),
    "supervised": dict(objective="supervised", mask_ratio=0.0, augmentation="none"),
}
FREE, OTHER = "on free recordings", "on the other corpus"
# The same objectives on other material, (objective, material); what is probed, and how, stays.
ELSEWHERE: dict[str, tuple[str, str]] = {
    f"{name}, {material}": (name, material)
    for material, names in ((FREE, (MASKED, TIMBRE, NEAR)), (OTHER, (MASKED, TIMBRE)))
    for name in names
}
OBJECTIVES |= {name: OBJECTIVES[objective] for name, (objective, _) in ELSEWHERE.items()}


class Unlabelled(NamedTuple):
    """What an encoder learns from: a corpus, and the ids of its tracks for training and for the validation curve."""

    corpus: Corpus
    train: list[str]
    valid: list[str]


def unlabelled_of(
    name: str, config: PretrainConfig, corpus: Corpus, elsewhere: Mapping[str, Corpus | None]
) -> Unlabelled:
    """What the objective `name` of OBJECTIVES is pre-trained on.

    Parameters
    ----------
    corpus : that of the probes; its own splits hold.
    elsewhere : FREE -> recordings without labels, of which every tenth is held out for the curve; OTHER -> a corpus of
        the same pieces and splits. What is not at hand is None or missing.

    Raises
    ------
    KeyMynaError
        When the objective needs what is not at hand.
    """
    material = ELSEWHERE[name][1] if name in ELSEWHERE else ""
    seen = elsewhere.get(material) if material else corpus
    if seen is None:
        parameter = {FREE: "free_recordings", OTHER: "beside"}[material]
        raise KeyMynaError(f"{name!r}: {parameter} says where its material is, and is empty.")
    train, valid = training_tracks(config, seen), seen.tracks(split="valid")
    if material == FREE:
        valid = train[::10]
        train = sorted(set(train) - set(valid))
    return Unlabelled(seen, train, valid)


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
    elsewhere: Mapping[str, Corpus | None] = MappingProxyType({}),
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
    elsewhere : see `unlabelled_of`.

    Returns
    -------
    The run's id. Its files: encoder.safetensors (in the cache); history.csv; predictions.csv, of the first budget and
    draw; estimates.csv, one row per test track and one column per budget and draw (see `summaries.estimates_of`);
    choices.csv.
    """
    seen = unlabelled_of(name, config or base, corpus, elsewhere)
    shown = _shown(config) if config else {"encoder": asdict(base.encoder), "steps": 0, "seed": base.seed}
    with stage.run(
        experiment,
        seed=base.seed,
        inputs={"corpus": corpus.hash, **({"unlabelled": seen.corpus.hash} if name in ELSEWHERE else {})},
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
            encoder, history = pretrain_once(config, *seen, desc=name)
        else:
            encoder = build_encoder(base.encoder, torch_stream(base.seed, INITIAL_WEIGHTS)).eval()
        save_encoder(encoder, run.artifact_path("encoder.safetensors"))
        features = extract(
            corpus, name, encoder.to(pick_device(base.device)), frames=window_frames((config or base).crop_frames)
        )
        predictions, choices = label_efficiency(features, corpus, budgets, draws)
        record_predictions(run, predictions, choices, len(corpus.tracks(split="valid")))
        flops = counted_flops(config, seen.corpus, seen.train) * config.steps if config else 0.0
        run.metric("all", "train", "flops", flops, len(seen.train))
        if config:
            run.attach("history", history.drop(columns="seconds"))
            run.metric("all", "train", "seconds_a_step", history["seconds"].median(), len(seen.train))
            n = min(config.batch_size, len(seen.valid))
            run.metric("all", "valid", "measure", history["valid_measure"].dropna().iloc[-1], n)
            run.metric("all", "valid", "chance", chance_measure(config, seen.corpus, seen.valid), n)
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


def record_wide_mlps(
    stage: Stage,
    protocol: WideMlp,
    encoder_runs: Mapping[str, str],
    base: PretrainConfig,
    corpus: Corpus,
    budgets: Sequence[int],
    draws: Sequence[int],
    *,
    windows: int,
) -> list[str]:
    """Train the paper's heads on each encoder, on the mean mel spectrum and on chroma; a run each, "wide_mlp".

    Views of the labelled tracks are shifted once for all of them.

    Parameters
    ----------
    encoder_runs : name of a system -> id of its run of `record`.
    base : the configuration that the systems vary; its seed and its number of steps are the runs'.
    budgets, draws : see `wide_mlp.labelled_sets`; where there is no budget, nothing is done.
    windows : of each shifted view, see `features.add_shifted`.

    Returns
    -------
    The runs' ids. Their files: predictions.csv, estimates.csv and choices.csv, as of `record`.
    """
    if not budgets:
        return []
    labelled = {track for pair in labelled_sets(budgets, draws) for track in budget_tracks(corpus, *pair)}
    encoders = encoders_of_runs(stage.profile, list(encoder_runs.values()))
    sets = feature_sets(
        corpus,
        {name: encoder.to(pick_device(base.device)) for name, encoder in encoders.items()},
        windows=windows,
        frames=window_frames(base.crop_frames),
        shifts=dict.fromkeys(sorted(labelled), protocol.shifts),
    )
    made = []
    for name, features in sets.items():
        with stage.run(
            "wide_mlp",
            seed=base.seed,
            inputs={"corpus": corpus.hash, "encoder_run": encoder_runs.get(name, "")},
            config={
                **asdict(protocol),
                "name": name,
                "steps": base.steps,
                "base_steps": base.steps,
                "budgets": list(budgets),
                "draws": list(draws),
                "shifted_windows": windows,
            },
        ) as run:
            estimates, choices = wide_mlp(
                protocol, features, corpus, budgets, draws, base.device, desc=f"wide MLP, {name}"
            )
            tables = [
                prediction_table(corpus, list(group["track_id"]), group["estimate"]).assign(budget=budget, draw=draw)
                for (budget, draw), group in estimates.groupby(["budget", "draw"], sort=False)
            ]
            record_predictions(run, pd.concat(tables, ignore_index=True), choices, len(corpus.tracks(split="valid")))
        made.append(run.run_id)
    return made


class Tuned(NamedTuple):
    """A learning rate that validation has chosen.

    lr : the rate.
    valid_score : its mean weighted score on validation, 0..1.
    tried : all rates that were tried, rising.
    on_edge : whether it is the lowest or highest of several that were tried, so that a better one may lie beyond.
    run_id : of the run that holds all scores.
    """

    lr: float
    valid_score: float
    tried: list[float]
    on_edge: bool
    run_id: str


def tune(
    stage: Stage,
    name: str,
    config: PretrainConfig,
    lrs: Sequence[float],
    steps: int,
    corpus: Corpus,
    budget: int,
    draws: Sequence[int],
    *,
    further: Sequence[float] = (),
    elsewhere: Mapping[str, Corpus | None] = MappingProxyType({}),
) -> Tuned:
    """Choose the learning rate of an objective on validation tracks, by pilots of equal length.

    Test tracks are not even embedded. A pilot of the full length is the very run that seed 0 makes with this rate, so
    it is trained once (see `pretrain_once`).

    Parameters
    ----------
    lrs : the candidates.
    steps : length of a pilot; warm-up and schedule are shortened in proportion.
    budget, draws : of the logistic probe that judges the pilots, see `label_efficiency`.
    further : candidates beyond those, tried one by one, the nearest first, for as long as the best lies on an edge.
    elsewhere : see `unlabelled_of`.

    Returns
    -------
    What was chosen. The run that holds all scores is added to the stage; one that the notebook has published with this
    code is taken over, so that further seeds share one tuning.
    """
    settings = {
        **_shown(config),
        "name": name,
        "lrs": list(lrs),
        "further": list(further),
        "pilot_steps": steps,
        "budget": budget,
        "draws": list(draws),
    }
    settings = {key: value for key, value in settings.items() if key not in ("lr", "seed")}
    learnt_from = unlabelled_of(name, config, corpus, elsewhere)
    if name in ELSEWHERE:
        settings["unlabelled"] = learnt_from.corpus.hash
    run_id = stage.take_over("tuning", settings, corpus.hash)
    if run_id is None:
        valid = corpus.tracks(split="valid")
        seen = sorted({track for draw in draws for track in budget_tracks(corpus, budget, draw)}) + valid

        def score(lr: float) -> float:
            pilot = replace(
                config, lr=lr, steps=steps, seed=0, warmup_steps=round(config.warmup_steps * steps / config.steps)
            )
            encoder, _ = pretrain_once(pilot, *learnt_from, desc=f"{name}, lr {lr}")
            features = extract(
                corpus,
                name,
                encoder.to(pick_device(config.device)),
                frames=window_frames(config.crop_frames),
                track_ids=seen,
            )
            _, choices = label_efficiency(features, corpus, [budget], draws, scored="valid")
            return round(float(choices["valid_score"].mean()), 6)  # as it is stored

        with stage.run("tuning", config=settings, seed=0, inputs={"corpus": corpus.hash}) as run:
            scores = {lr: score(lr) for lr in lrs}
            while (lr := _beyond(scores, further)) is not None:
                scores[lr] = score(lr)
            for lr, value in scores.items():
                run.metric("all", "valid", "weighted_both", value, len(valid), condition=f"lr {lr}")
            run.attach("scores", pd.DataFrame({"lr": [str(lr) for lr in scores], "valid_score": scores.values()}))
        run_id = run.run_id
    table = pd.read_csv(run_file(stage.profile, run_id, "scores.csv"), dtype={"lr": str})
    scores = dict(zip(map(float, table["lr"]), table["valid_score"]))
    best = _best(scores)
    on_edge = len(scores) > 1 and best in (min(scores), max(scores))
    return Tuned(best, scores[best], sorted(scores), on_edge, run_id)


def tuning_table(tuned: Mapping[str, Tuned]) -> TracedTable:
    """The learning rate of each objective, by `tune`, as text."""
    table = TracedTable(["objective"])
    for name, found in tuned.items():
        row, runs = table.row(name), [found.run_id]
        row.cell("learning rate", f"{found.lr:g}", runs)
        row.cell("validation", f"{100 * found.valid_score:.1f}", runs)
        row.cell("tried", ", ".join(f"{lr:g}" for lr in found.tried), runs)
        row.cell("on the edge", "yes" if found.on_edge else "no", runs)
    return table


def _best(scores: Mapping[float, float]) -> float:
    """The rate with the best score, the first of equals."""
    return max(scores, key=lambda lr: scores[lr])


def _beyond(scores: Mapping[float, float], further: Sequence[float]) -> float | None:
    """The candidate to try next: the nearest beyond the best rate, if that lies on an edge of those tried."""
    best = _best(scores)
    above = [lr for lr in further if lr > best and best == max(scores)]
    below = [lr for lr in further if lr < best and best == min(scores)]
    return min(above) if above else max(below, default=None)


def encoders_of_runs(profile: str, run_ids: Sequence[str]) -> dict[str, Encoder]:
    """The encoders of runs of `record` by the name of their system, from this machine's cache."""
    return {
        config_of(profile, run)["name"]: load_encoder(artifact(profile, run, "encoder.safetensors")) for run in run_ids
    }
