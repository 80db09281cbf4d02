"""Rows that a comparison of encoders must face: what needs no encoder, no pre-training or no labels at all.

Each is probed and scored as the encoders are: at the same label budgets and draws, on the same test tracks.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from keymyna_lib.base.device import pick_device
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.evaluate import mirex_scores
from keymyna_lib.experiments import controls
from keymyna_lib.experiments.discriminants import tuned_discriminants
from keymyna_lib.experiments.encoder_study import encoders_of_runs, record_predictions
from keymyna_lib.experiments.label_efficiency import label_efficiency
from keymyna_lib.experiments.scoring import prediction_table
from keymyna_lib.experiments.upstream import feature_sets
from keymyna_lib.features import CHROMA, MEAN_MEL, Features
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.report.stage import Stage
from keymyna_lib.spectrogram import window_frames

KEY_PROFILES, ESSENTIA, DISCRIMINANTS = "key profiles", "essentia", "discriminants"
REFERENCES = (MEAN_MEL, CHROMA, KEY_PROFILES, ESSENTIA, DISCRIMINANTS)
_SYSTEMS = {KEY_PROFILES: controls.template_keys, ESSENTIA: controls.essentia_keys}


def discriminants_of(name: str) -> str:
    """What the row of linear discriminants of features is called.

    >>> discriminants_of("mean mel")
    'discriminants of mean mel'
    """
    return f"{DISCRIMINANTS} of {name}"


# What no seed of pre-training changes: there is no encoder behind it.
UNSEEDED = (MEAN_MEL, CHROMA, KEY_PROFILES, ESSENTIA, discriminants_of(MEAN_MEL))


def record_references(
    stage: Stage,
    references: Sequence[str],
    encoder_runs: Mapping[str, str],
    base: PretrainConfig,
    corpus: Corpus,
    budgets: Sequence[int],
    draws: Sequence[int],
    *,
    tuning_budget: int,
) -> list[str]:
    """Probe and store each reference as a run of experiment "reference", beside the runs of `encoder_study.record`.

    Parameters
    ----------
    references : of REFERENCES. Systems without labels answer alike at every budget; the one that validation prefers
        among the key profiles, or among those of essentia, is taken. "essentia" is left out where it is not installed.
        "discriminants" stands for a row for the mean mel spectrum and for each encoder, see
        `discriminants.tuned_discriminants`.
    encoder_runs : name of a system -> id of its run of `encoder_study.record`.
    base : the configuration that the encoders vary. Nothing else here depends on its seed; a run is stored for each
        seed, so that differences pair up.
    budgets, draws : see `label_efficiency`.
    tuning_budget : labels of the probe that chooses discriminants on validation.

    Returns
    -------
    The ids of the runs. Their files are those of `encoder_study.record`, without encoder and history.
    """
    if not references:
        return []
    encoders = encoders_of_runs(stage.profile, list(encoder_runs.values()))
    features = feature_sets(
        corpus,
        {name: encoder.to(pick_device(base.device)) for name, encoder in encoders.items()},
        frames=window_frames(base.crop_frames),
    )
    run_ids = []
    for name, (predictions, choices) in _probed(references, features, corpus, budgets, draws, tuning_budget):
        with stage.run(
            "reference",
            seed=base.seed,
            inputs={"corpus": corpus.hash},
            config={
                "name": name,
                "steps": 0,
                "base_steps": base.steps,
                "budgets": list(budgets),
                "draws": list(draws),
                "tuning_budget": tuning_budget,
            },
        ) as run:
            record_predictions(run, predictions, choices, len(corpus.tracks(split="valid")))
        run_ids.append(run.run_id)
    return run_ids


def _probed(
    references: Sequence[str],
    features: Mapping[str, Features],
    corpus: Corpus,
    budgets: Sequence[int],
    draws: Sequence[int],
    tuning_budget: int,
) -> Iterator[tuple[str, tuple[pd.DataFrame, pd.DataFrame]]]:
    for reference in references:
        if reference in (MEAN_MEL, CHROMA):
            yield reference, label_efficiency(features[reference], corpus, budgets, draws)
        elif reference == DISCRIMINANTS:
            for name in features:
                if name != CHROMA:
                    found, choices = tuned_discriminants(
                        features[name], corpus, tuning_budget, draws, desc=discriminants_of(name)
                    )
                    best = choices.loc[choices["valid_score"].idxmax(), ["shrinkage", "dimensions"]]
                    predictions, probes = label_efficiency(found, corpus, budgets, draws)
                    yield discriminants_of(name), (predictions, probes.assign(**best))
        elif reference != ESSENTIA or importlib.util.find_spec("essentia"):
            yield reference, _without_labels(_SYSTEMS[reference], corpus, budgets, draws)


def _without_labels(
    system: controls.System, corpus: Corpus, budgets: Sequence[int], draws: Sequence[int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and choices as of `label_efficiency`, the same at each budget and draw."""
    valid, test = (corpus.tracks(split=split) for split in ("valid", "test"))
    answers = controls.predict_all(corpus, [*valid, *test], [system])
    reference = corpus.manifest.loc[valid, "key"].to_numpy()
    scores = {
        name: float(mirex_scores(reference, answers.loc[valid, name].to_numpy(), fifths="both").mean())
        for name in answers
    }
    best = max(scores, key=lambda name: scores[name])  # the first of equals
    table = prediction_table(corpus, test, np.asarray(answers.loc[test, best]))
    sets = [(budget, draw) for budget in budgets for draw in draws]
    predictions = [table.assign(budget=budget, draw=draw) for budget, draw in sets]
    choices = [{"budget": b, "draw": d, "system": best, "valid_score": scores[best]} for b, d in sets]
    return pd.concat(predictions, ignore_index=True), pd.DataFrame(choices)
