"""The paper's protocol for any encoder of a comparison: wide MLPs on frozen features, trained on pitch-shifted views.

It is that of notebook 30 with two differences, both for less noise (our choice): heads of several seeds answer together
by the mean of their class probabilities, and the grid point is the one whose heads are the best on validation on
average over those seeds, so that no lucky head is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from keymyna_lib.base import paths
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import discard
from keymyna_lib.base.hashing import code_hash_of, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.base.tensors import reading, save_tensors
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.features import Features, content_hash
from keymyna_lib.heads import HeadSpec, Rows, train_heads


@dataclass(frozen=True)
class WideMlp:
    """How the heads are trained.

    Attributes
    ----------
    grid : hyperparameters to choose among on validation.
    shifts : semitones of the views of labelled tracks, including 0.
    seeds : of initialisation, batches and dropout; the heads of all seeds answer together.
    max_steps, eval_every, patience : as of `heads.train_heads`.
    """

    grid: tuple[HeadSpec, ...]
    shifts: tuple[int, ...]
    seeds: tuple[int, ...]
    max_steps: int
    eval_every: int
    patience: int


def labelled_sets(budgets: Sequence[int], draws: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs (budget, draw) to train on: all labels, budget 0, are the same tracks in each draw, so they count once.

    >>> labelled_sets([48, 0], [3, 5])
    [(48, 3), (48, 5), (0, 3)]
    """
    return [(budget, draw) for budget, draw in product(budgets, draws) if budget or draw == draws[0]]


def wide_mlp(
    protocol: WideMlp,
    features: Features,
    corpus: Corpus,
    budgets: Sequence[int],
    draws: Sequence[int],
    device: str = "cpu",
    *,
    desc: str = "wide MLP",
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Estimates of the test tracks' keys for each number of labels and each draw of the labelled tracks.

    What was trained is kept in the cache, so that work that is started again goes on where it stopped.

    Parameters
    ----------
    features : of the labelled tracks with the protocol's shifts, and of validation and test tracks. Features without
        any shifted view are trained on as they are.
    budgets, draws : see `labelled_sets`.

    Returns
    -------
    estimates : columns budget, draw, track_id, estimate (0..23).
    choices : one row per budget and draw; columns budget, draw, width, dropout, valid_score (mean over the
        seeds' heads, 0..1).

    Raises
    ------
    KeyMynaError
        When a labelled track lacks one of the shifts, and what `train_heads` refuses.
    """
    content = [content_hash({"x": features.x, "track": features.track, "shift": features.shift}), features.track_ids]
    code, test = code_hash_of(__name__), corpus.tracks(split="test")
    estimates, choices = [], []
    for budget, draw in bar(labelled_sets(budgets, draws), desc=desc, unit="set"):
        identity = [asdict(protocol), content, corpus.hash, budget, draw, code]
        file = paths.CACHE / "wide_mlp" / f"{sha256_json(identity)[:16]}.safetensors"
        try:
            found = _load(file, len(test))
        except KeyMynaError:  # absent, or damaged
            found = _train(protocol, features, corpus, budget, draw, device)
            discard(file)
            save_tensors(file, found)
        spec = protocol.grid[int(found["chosen"])]
        estimates.append(
            pd.DataFrame({"budget": budget, "draw": draw, "track_id": test, "estimate": found["estimates"].numpy()})
        )
        choices.append(
            {
                "budget": budget,
                "draw": draw,
                "width": spec.hidden[0],
                "dropout": spec.dropout,
                "valid_score": float(found["valid_score"]),
            }
        )
    return pd.concat(estimates, ignore_index=True), pd.DataFrame(choices)


def _load(file: Path, n_test: int) -> dict[str, torch.Tensor]:
    with reading(file, "estimates of wide MLPs", "Run again what makes it.") as (tensors, _):
        if tensors["estimates"].shape != (n_test,):
            raise KeyMynaError(f"{file} has estimates of {len(tensors['estimates'])} tracks; expected {n_test}.")
        return {name: tensors[name] for name in ("estimates", "chosen", "valid_score")}


def _train(
    protocol: WideMlp, features: Features, corpus: Corpus, budget: int, draw: int, device: str
) -> dict[str, torch.Tensor]:
    """The chosen grid point, its mean validation score, and the (track,) keys that the heads of all seeds name."""
    train, valid = (
        _rows(features, corpus, tracks, shifts)
        for tracks, shifts in (
            (budget_tracks(corpus, budget, draw), protocol.shifts if features.has_shifts else (0,)),
            (corpus.tracks(split="valid"), (0,)),
        )
    )
    by_seed = [
        train_heads(
            protocol.grid,
            train,
            valid,
            max_steps=protocol.max_steps,
            eval_every=protocol.eval_every,
            patience=protocol.patience,
            seed=seed,
            device=str(pick_device(device)),
        )
        for seed in protocol.seeds
    ]
    scores = np.array([[head.valid_score for head in heads] for heads in by_seed]).mean(axis=0)
    chosen = int(scores.argmax())
    rows = features.select(corpus.tracks(split="test"))
    probabilities = np.mean([heads[chosen].predict(rows.x, rows.track) for heads in by_seed], axis=0)
    return {
        "estimates": torch.from_numpy(probabilities.argmax(axis=1)),
        "chosen": torch.tensor(chosen),
        "valid_score": torch.tensor(scores[chosen], dtype=torch.float64),
    }


def _rows(features: Features, corpus: Corpus, tracks: Sequence[str], shifts: Sequence[int]) -> Rows:
    chosen = features.select(tracks, shifts)
    return Rows(chosen.x, chosen.keys(corpus.manifest["key"]), chosen.track)
