"""One experiment on frozen features: a label budget, a grid of heads, one chosen on validation and scored on test once.

The notebooks of the linear probe and the wide MLP, and every control with a trained head, use this module, so that
they differ only in the features and the grid.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.device import pick_device
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import discard
from keymyna_lib.base.hashing import code_hash_of, sha256_json
from keymyna_lib.base.progress import bar
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.splits import budget_tracks
from keymyna_lib.experiments.scoring import prediction_table, record_test, scored_tracks
from keymyna_lib.features import Features, content_hash, load_features, save_features
from keymyna_lib.heads import HeadSpec, Rows, TrainedHead, select, train_heads

if TYPE_CHECKING:
    from keymyna_lib.report.runs import Run


@dataclass(frozen=True)
class HeadStudy:
    """What heads are trained on, and for how long.

    Attributes
    ----------
    features : name of the feature set, such as "pre-trained" or "mean mel".
    head : name of the kind of head, "linear probe" or "wide MLP".
    budget : labelled training tracks; 0 for all.
    shifts : semitones of the views to train on, including 0; keys are transposed with them.
    max_steps, eval_every, patience : optimizer steps; steps between validation checks; checks without improvement
        after which training stops.
    seed : for the choice of labelled tracks, initialisation, batches and dropout.
    """

    features: str
    head: str
    budget: int
    shifts: tuple[int, ...]
    max_steps: int
    eval_every: int
    patience: int
    seed: int


def shift_range(largest: int, step: int) -> tuple[int, ...]:
    """Shifts from -largest to +largest semitones, in steps outwards from 0, which is always included.

    Raises
    ------
    KeyMynaError
        When the step is not positive or the range exceeds 11 semitones.
    """
    if step < 1 or not 0 <= largest <= 11:
        raise KeyMynaError(
            f"shifts up to {largest} semitones in steps of {step}: the step must be at least 1 and the "
            "largest shift 0 to 11."
        )
    return tuple(range(-(largest // step) * step, largest + 1, step))


def needed_shifts(
    corpus: Corpus, budgets: Sequence[int], shift_sets: Sequence[Sequence[int]], seeds: Sequence[int]
) -> dict[str, list[int]]:
    """Training track -> semitones of the shifted views that studies with these budgets and seeds will use."""
    if len(budgets) != len(shift_sets):
        raise KeyMynaError(f"{len(budgets)} budgets and {len(shift_sets)} shift_steps: give one step for each budget.")
    needed: dict[str, set[int]] = {}
    for budget, shifts in zip(budgets, shift_sets):
        for seed in seeds:
            for track in budget_tracks(corpus, budget, seed):
                needed.setdefault(track, set()).update(shifts)
    return {track: sorted(shifts) for track, shifts in needed.items()}


def rows_of(features: Features, corpus: Corpus, tracks: Sequence[str], shifts: Sequence[int] = (0,)) -> Rows:
    """Labelled rows of some tracks and shifted views."""
    chosen = features.select(tracks, shifts)
    return Rows(chosen.x, chosen.keys(corpus.manifest["key"]), chosen.track)


def configuration(study: HeadStudy, grid: Sequence[HeadSpec], **more: Any) -> dict[str, Any]:
    """The configuration that a run of a study records and its id is made of: study, all grid points, and `more`."""
    return {**asdict(study), "grid": [asdict(spec) for spec in grid], **more}


def _train(
    study: HeadStudy, grid: Sequence[HeadSpec], features: Features, corpus: Corpus, device: str, watched: str
) -> list[TrainedHead]:
    """Train a grid of heads on a budget of labels, with the tracks of the split `watched` as validation."""
    tracks = budget_tracks(corpus, study.budget, study.seed)
    return train_heads(
        grid,
        rows_of(features, corpus, tracks, study.shifts),
        rows_of(features, corpus, corpus.tracks(split=watched)),
        max_steps=study.max_steps,
        eval_every=study.eval_every,
        patience=study.patience,
        seed=study.seed,
        device=str(pick_device(device)),
    )


def train(
    study: HeadStudy, grid: Sequence[HeadSpec], features: Features, corpus: Corpus, device: str = "cpu"
) -> list[TrainedHead]:
    """Train a grid of heads on a budget of labels, validated on the validation split; test tracks are not touched."""
    return _train(study, grid, features, corpus, device, "valid")


def sweep(
    studies: Sequence[HeadStudy],
    grid: Sequence[HeadSpec],
    features: Mapping[str, Features],
    corpus: Corpus,
    device: str = "cpu",
    *,
    client: Executor = HERE,
    show: bool = True,
) -> Iterator[list[TrainedHead]]:
    """`train` for many studies, yielded in their order.

    Parameters
    ----------
    features : feature sets by the name that studies give.
    client : where to work, see `cluster.connect`. On a cluster a study is a task, and its heads are kept in the cache,
        so that a sweep that is started again resumes. On this machine studies are trained one after another.
    """
    if client.here:  # a grid keeps all cores or the GPU busy by itself, and its heads need not pass through files
        progress = bar(desc="training heads", total=len(studies), unit="grid", show=show)
        for study in studies:
            heads = train(study, grid, features[study.features], corpus, device)
            progress.update()
            if study is studies[-1]:  # the caller may not come back after the last one
                progress.close()
            yield heads
        return
    folder, stored = paths.CACHE / "sweeps", {}
    code = code_hash_of(__name__)
    for name in {study.features for study in studies}:
        one = features[name]
        content = [content_hash({"x": one.x, "track": one.track, "shift": one.shift}), list(one.track_ids)]
        stored[name] = folder / f"features-{sha256_json(content)[:16]}.safetensors"
        try:
            load_features(stored[name])
        except KeyMynaError:  # absent, or damaged
            discard(stored[name])
            save_features(one, stored[name])
    tasks = []
    for study in studies:
        identity = [configuration(study, grid), stored[study.features].name, corpus.hash, code]
        tasks.append((study, stored[study.features], folder / sha256_json(identity)[:16]))
    work = functools.partial(_train_into, grid, corpus, device)
    for i, _ in client.map(work, tasks, desc="training heads", unit="grid", ordered=True, show=show):
        yield [TrainedHead.load(path) for path in _head_files(tasks[i][-1], grid)]


def _head_files(folder: Path, grid: Sequence[HeadSpec]) -> list[Path]:
    return [folder / f"head-{i:03d}.safetensors" for i in range(len(grid))]


def _train_into(
    grid: Sequence[HeadSpec], corpus: Corpus, device: str, study: HeadStudy, features: Path, folder: Path
) -> None:
    """In a worker of a cluster: `train` into a folder, unless its heads are there already."""
    files = _head_files(folder, grid)
    try:
        for file in files:
            TrainedHead.load(file)
    except KeyMynaError:
        for head, file in zip(train(study, grid, load_features(features), corpus, device), files):
            discard(file)
            head.save(file)


def predict(head: TrainedHead, features: Features, corpus: Corpus, tracks: Sequence[str]) -> np.ndarray:
    """(track,) keys: argmax of the class probabilities averaged over a track's windows."""
    chosen = features.select(tracks)
    return head.predict(chosen.x, chosen.track).argmax(axis=1)


def record_study(
    run: Run, study: HeadStudy, heads: Sequence[TrainedHead], features: Features, corpus: Corpus
) -> TrainedHead:
    """Choose a head on validation, score it on the test tracks once, and store the result in a run."""
    chosen = select(heads)
    tracks = scored_tracks(corpus)
    record_test(run, prediction_table(corpus, tracks, predict(chosen, features, corpus, tracks)), corpus)
    run.metric("all", "valid", "weighted_both", chosen.valid_score, len(corpus.tracks(split="valid")))
    run.metric(
        "all",
        "train",
        "labelled_tracks",
        len(budget_tracks(corpus, study.budget, study.seed)),
        len(corpus.tracks(split="train")),
    )
    chosen.save(run.artifact_path("head.safetensors"))
    return chosen


def grid_table(heads: Sequence[TrainedHead]) -> pd.DataFrame:
    """One row per head: hyperparameters, best validation score and its step; no score for a head that diverged."""
    return pd.DataFrame(
        [
            {
                "width": h.spec.hidden[0] if h.spec.hidden else 0,
                "depth": len(h.spec.hidden),
                "dropout": h.spec.dropout,
                "lr": h.spec.lr,
                "weight_decay": h.spec.weight_decay,
                "batch_size": h.spec.batch_size,
                "standardize": h.spec.standardize,
                "mixup": h.spec.mixup,
                "valid_score": h.valid_score if h.best_step else np.nan,
                "best_step": h.best_step,
            }
            for h in heads
        ]
    )


def optimism(
    study: HeadStudy, grid: Sequence[HeadSpec], features: Features, corpus: Corpus, device: str = "cpu"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How much choosing on the test split would overstate the score, compared with choosing on validation.

    The grid is trained twice from the same initialisation on the same batches. First the validation tracks decide when
    a head stops, which of its steps is kept and which head is chosen, as in `train`; then the test tracks decide, as in
    the reference implementation. The second score demonstrates a flaw, since its choice has seen the answers, and is
    never reported as a result.

    Both use the study's patience. If no head runs out of patience, the two choose among the same heads and steps, and
    the second test score is at least as high; a head that the test tracks stop early may miss a later step that
    validation finds.

    Parameters
    ----------
    study, grid, features, corpus, device : as in `train`.

    Returns
    -------
    choices : one row per split chosen on; columns chosen_on ("valid" or "test") and those of `grid_table` for the
        chosen head, with its scores on the tracks of both splits, valid_score and test_score ("both" fifths, 0..1).
    predictions : one row per split chosen on and test track; chosen_on and the columns of `prediction_table`, tracks in
        the same order both times, so that the difference of the scores is a paired one.
    """
    choices, predictions = [], []
    for watched in ("valid", "test"):
        chosen = select(_train(study, grid, features, corpus, device, watched))
        valid, test = (
            prediction_table(corpus, tracks, predict(chosen, features, corpus, tracks))
            for tracks in (corpus.tracks(split="valid"), corpus.tracks(split="test"))
        )
        row = grid_table([chosen]).assign(valid_score=valid["score"].mean(), test_score=test["score"].mean())
        for rows, table in ((choices, row), (predictions, test)):
            table.insert(0, "chosen_on", watched)
            rows.append(table)
    return pd.concat(choices, ignore_index=True), pd.concat(predictions, ignore_index=True)
