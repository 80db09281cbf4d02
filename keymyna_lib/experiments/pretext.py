"""Did an objective learn its own task? Its measure on validation beside that of a guess, and a mark if they are close.

An encoder that never learned its pretext task says nothing about that task: it was not trained long enough, or at the
wrong learning rate. Such a row is shown with its mark, and no sentence should explain its score by the objective.

And what an encoder makes of the views of a few recordings, as a matrix of similarities.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.model import Encoder
from keymyna_lib.objectives import OBJECTIVES, Batch
from keymyna_lib.pretrain import CropSampler, PretrainConfig
from keymyna_lib.report.runs import config_of, load_metrics
from keymyna_lib.report.traced import TracedTable

NEAR_CHANCE = 0.1  # of the way from chance to a perfect measure (our choice)
MARK, WORSE = "near chance", "worse than a guess"


class _Guess(NamedTuple):
    """The measure of a guess that ignores the crop, and that of a perfect answer."""

    chance: Callable[[PretrainConfig, Batch], float]
    perfect: float


# By the name of the objective.
_GUESSES = {
    "contrastive": _Guess(lambda config, batch: 1 / len(batch.tracks), 1.0),
    "transposed": _Guess(lambda config, batch: 1 / (len(batch.tracks) * config.transpositions), 1.0),
    "reconstruction": _Guess(lambda config, batch: float(_around_bands(batch.crops[0].float())), 0.0),
    "supervised": _Guess(lambda config, batch: float(batch.keys.bincount().max() / len(batch.keys)), 1.0),
}


def _around_bands(crops: Tensor) -> Tensor:
    """() mean squared distance of crops (batch, band, frame) from the mean of each band."""
    return crops.var(dim=(0, 2), correction=0).mean()


def chance_measure(config: PretrainConfig, corpus: Corpus, valid: Sequence[str]) -> float:
    """What an objective measures on the validation batch (`Pretraining.validate`) for a guess that ignores the crop.

    A guess among the second views for the contrastive objectives, the most frequent key for the supervised one, and
    each band's mean over the batch for reconstruction.

    Parameters
    ----------
    valid : ids of the validation tracks, in the order of pre-training.
    """
    sampler = CropSampler(corpus, valid, config.crop_frames, config.crop_distance)
    batch = sampler.batch(
        torch.arange(min(len(sampler), config.batch_size)),
        OBJECTIVES[config.objective].views,
        torch_stream(config.seed, "validation batch"),
    )
    return _GUESSES[config.objective].chance(config, batch)


def pretext_scores(profile: str, runs: pd.DataFrame) -> pd.DataFrame:
    """How far each objective came in its own task, on validation crops, averaged over seeds.

    Parameters
    ----------
    runs : rows of `runs.load_runs`, of runs of `encoder_study.record`; the untrained encoder has no task.

    Returns
    -------
    One row per system and number of steps; columns name, steps, measured (in words), measure (at the last step),
    chance (see `chance_measure`), learned (share of the way from chance to a perfect measure), near_chance (whether
    that is below NEAR_CHANCE), run_ids.
    """
    rows = []
    for (name, steps), group in runs[runs["steps"] > 0].groupby(["name", "steps"], sort=False):
        ids = list(group["run_id"])
        objective = config_of(profile, ids[0])["objective"]
        metrics = load_metrics(profile, ids)
        means = metrics[metrics["split"] == "valid"].groupby("metric")["value"].mean()
        measure, chance = means["measure"], means["chance"]
        learned = (measure - chance) / (_GUESSES[objective].perfect - chance)
        rows.append(
            {
                "name": name,
                "steps": int(steps),
                "measured": OBJECTIVES[objective].measured,
                "measure": measure,
                "chance": chance,
                "learned": learned,
                "near_chance": learned < NEAR_CHANCE,
                "run_ids": ids,
            }
        )
    return pd.DataFrame(rows)


def pretext_table(found: pd.DataFrame) -> TracedTable:
    """`pretext_scores` as text, with MARK or WORSE where an objective hardly learned its task."""
    table = TracedTable(["system", "steps"])
    for cell in found.itertuples():
        row = table.row(cell.name, str(cell.steps))
        row.cell("pretext measure", cell.measured)
        for column, value in (("validation", cell.measure), ("chance", cell.chance)):
            row.cell(column, f"{value:.3f}", cell.run_ids)
        row.cell("learned", f"{100 * cell.learned:.0f} %", cell.run_ids)
        row.cell("mark", _mark(cell.learned), cell.run_ids)
    return table


def _mark(learned: float) -> str:
    return WORSE if learned < 0 else MARK if learned < NEAR_CHANCE else ""


def learned(found: pd.DataFrame) -> dict[str, tuple[str, list[str]]]:
    """By system, how far it came in its own task, with MARK or WORSE where that is hardly at all, and the runs behind.

    Parameters
    ----------
    found : of `pretext_scores`, one number of steps for each system.
    """
    return {
        row.name: (", ".join(filter(None, (f"{100 * row.learned:.0f} %", _mark(row.learned)))), row.run_ids)
        for row in found.itertuples()
    }


def unlearned(found: pd.DataFrame) -> list[str]:
    """The systems of `pretext_scores` that hardly learned their task: their scores say nothing about that task."""
    return list(found.loc[found["near_chance"], "name"]) if len(found) else []


@torch.inference_mode()
def similarity(encoder: Encoder, crops: Tensor, mask_ratio: float, generator: torch.Generator) -> np.ndarray:
    """Centred cosines between two views' embeddings.

    Parameters
    ----------
    crops : (2, recording, band, frame) stored spectrograms of the two views.
    mask_ratio, generator : as in `model.Encoder.forward`; every crop has a mask of its own.

    Returns
    -------
    (first view, second view) float32 in [-1, 1], the mean embedding of all crops taken off before.
    """
    embeddings = encoder(crops.flatten(0, 1).float(), mask_ratio, generator)
    first, second = F.normalize(embeddings - embeddings.mean(dim=0), dim=1).chunk(2)
    return (first @ second.T).numpy()


def matching_table(cosines: Mapping[str, np.ndarray], run_id: str) -> TracedTable:
    """What matrices of `similarity` say, by encoder, and a guess: top-1 in percent, mean cosines of pairs.

    Parameters
    ----------
    run_id : of the pre-training.
    """
    table = TracedTable(["encoder"])
    for name, matrix in cosines.items():
        n, own = len(matrix), np.diagonal(matrix)
        row = table.row(name)
        row.cell("top-1", f"{100 * np.mean(matrix.argmax(axis=1) == np.arange(n)):.0f}", [run_id])
        row.cell("same recording", f"{own.mean():.2f}", [run_id])
        row.cell("other recordings", f"{(matrix.sum() - own.sum()) / (n * (n - 1)):.2f}", [run_id])
    table.row("a guess").cell("top-1", f"{100 / n:.0f}")
    return table
