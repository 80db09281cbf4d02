"""How embeddings and predictions withstand changes of the audio: the paper's Figure 2 and the numbers behind it.

Conventions: embeddings are (track, dim), the rows of the clean and of the augmented array belonging to the
same tracks; keys are indices of `keymyna_lib.keys`. The changes themselves are in `audio_changes`.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base import seeds
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.evaluate import bootstrap_interval, paired_difference
from keymyna_lib.experiments.audio_changes import AUGMENTATIONS, Augmentation
from keymyna_lib.experiments.conclusions import N_RESAMPLES
from keymyna_lib.front_ends import power
from keymyna_lib.spectrogram import compress

CLEAN = "clean"  # the name of the unchanged audio among those of the augmentations
STAYS, MOVES = "key should stay", "key should move"  # under all changes but pitch shifts, and under these


def _augment(augmentations: Mapping[str, Augmentation], seed: int, corpus: Any, track_id: str) -> dict[str, np.ndarray]:
    audio = corpus.audio(track_id)
    versions = {CLEAN: audio} | {
        name: augmentation(audio, seeds.numpy_stream(seed, track_id, name))
        for name, augmentation in augmentations.items()
    }
    return {
        name: np.ascontiguousarray(compress(power(version, corpus.front_end)).numpy().T)
        for name, version in versions.items()
    }


def augment_tracks(
    corpus: Any,
    track_ids: Sequence[str],
    augmentations: Mapping[str, Augmentation] = AUGMENTATIONS,
    *,
    seed: int,
    client: Executor = HERE,
    progress: bool = True,
) -> dict[str, list[np.ndarray]]:
    """Spectrograms of tracks under each augmentation, and the clean ones made the same way, on all cores.

    Every (track, augmentation) has a generator of its own, so neither the choice of the others nor the number
    of processes changes a result.

    Parameters
    ----------
    corpus : as `keymyna_lib.corpus.corpus.open_corpus` returns it.
    augmentations : name -> augmentation (functions of a module, to be sent to other processes).
    client : where to work, see `cluster.connect`. The result does not depend on it.

    Returns
    -------
    Name -> one compressed spectrogram per track in the order given, each (frame, band) float16; `CLEAN` is the
    first name. About 0.24 MB for 30 s. A change of tempo changes the number of frames.
    """
    work, tasks = functools.partial(_augment, dict(augmentations), seed, corpus), [(track,) for track in track_ids]
    made = client.map(work, tasks, desc="augmentations", unit="track", ordered=True, show=progress)
    spectrograms: dict[str, list[np.ndarray]] = {name: [] for name in (CLEAN, *augmentations)}
    for _, versions in made:
        for name, spectrogram in versions.items():
            spectrograms[name].append(spectrogram)
    return spectrograms


def _unit(clean: np.ndarray, augmented: np.ndarray, centre: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    clean, augmented = np.asarray(clean, dtype=np.float64), np.asarray(augmented, dtype=np.float64)
    if clean.shape != augmented.shape or clean.ndim != 2:
        raise KeyMynaError(
            f"embeddings of shapes {clean.shape} and {augmented.shape}: expected the same (track, dim) twice."
        )
    offset = 0.0 if centre is None else np.asarray(centre, dtype=np.float64)
    rows = (clean - offset, augmented - offset)
    return tuple(r / np.maximum(np.linalg.norm(r, axis=1, keepdims=True), 1e-12) for r in rows)


def cosine_to_clean(clean: np.ndarray, augmented: np.ndarray, *, centre: np.ndarray | None = None) -> np.ndarray:
    """Cosine similarity of each track's augmented embedding to its clean one.

    Embeddings may share a large common component: those of an untrained encoder lie in a narrow cone, where
    any two tracks have a cosine near 1 and the raw figure says nothing. Subtract the mean of the *training*
    embeddings (`centre`) to compare encoders: that depends neither on the tracks at hand nor on their
    augmentations, and two unrelated tracks then have a cosine near 0. Report the raw figure beside it for the
    paper's sake.

    Parameters
    ----------
    clean, augmented : (track, dim).
    centre : (dim,) mean of the training embeddings, or None for the raw cosine.

    Returns
    -------
    (track,) in [-1, 1].
    """
    clean, augmented = _unit(clean, augmented, centre)
    return (clean * augmented).sum(axis=1)


def retrieval_top1(clean: np.ndarray, augmented: np.ndarray, *, centre: np.ndarray | None = None) -> np.ndarray:
    """Whether the clean embedding nearest by cosine to an augmented one is that of the same track.

    Chance is 1 / tracks, and an encoder that maps everything to one point gets just that (the first of equals
    is taken). Parameters as in `cosine_to_clean`; returns (track,) bool.
    """
    clean, augmented = _unit(clean, augmented, centre)
    return (augmented @ clean.T).argmax(axis=1) == np.arange(len(clean))


def moved_by(clean: np.ndarray, augmented: np.ndarray, semitones: int) -> np.ndarray:
    """Whether the predicted key moves by `semitones`, its mode kept: (track,) keys twice -> (track,) bool."""
    return keys.transpose(np.asarray(clean), semitones) == np.asarray(augmented)


def tsne(points: np.ndarray, *, seed: int, perplexity: float = 30.0) -> np.ndarray:
    """scikit-learn's t-SNE by cosine distance, started from principal components: (n, dim) -> (n, 2).

    Raises
    ------
    KeyMynaError
        When there are no more points than the perplexity.
    """
    from sklearn.manifold import TSNE

    if len(points) <= perplexity:
        raise KeyMynaError(f"t-SNE of {len(points)} points: expected more than perplexity={perplexity:g}.")
    model = TSNE(2, init="pca", metric="cosine", perplexity=perplexity, random_state=seed)
    return model.fit_transform(np.asarray(points, dtype=np.float64))


def measured(
    embeddings: Mapping[tuple[str, str], np.ndarray],
    centres: Mapping[str, np.ndarray],
    estimates: Mapping[tuple[str, str, str], np.ndarray],
    augmentations: Mapping[str, Augmentation] = AUGMENTATIONS,
) -> pd.DataFrame:
    """Every measure of every track under every augmentation.

    Parameters
    ----------
    embeddings : (encoder, version) -> (track, dim), `CLEAN` among the versions; their other names are augmentations.
    centres : encoder -> (dim,), the mean training embedding.
    estimates : (encoder, head, version) -> (track,) keys, the same tracks in the same order.

    Returns
    -------
    Columns augmentation (its label), family, shift (semitones), features (the encoder), measure, track (its place in
    the arrays), value. The measures are "raw cosine", "cosine" and "retrieval" of embeddings, and "key (HEAD)" for each
    head: whether the estimate moves by the shift, which is 0 for all augmentations but pitch shifts.
    """
    heads = list(dict.fromkeys(head for _, head, _ in estimates))
    tables = []
    for version, augmentation in augmentations.items():
        for encoder, centre in centres.items():
            clean, moved = embeddings[encoder, CLEAN], embeddings[encoder, version]
            values = {
                "raw cosine": cosine_to_clean(clean, moved),
                "cosine": cosine_to_clean(clean, moved, centre=centre),
                "retrieval": retrieval_top1(clean, moved, centre=centre),
            }
            for head in heads:
                before, after = estimates[encoder, head, CLEAN], estimates[encoder, head, version]
                values[f"key ({head})"] = moved_by(before, after, augmentation.shift)
            about = {"augmentation": augmentation.label, "family": augmentation.family, "shift": augmentation.shift}
            tables += [
                pd.DataFrame(
                    {**about, "features": encoder, "measure": name, "track": range(len(of)), "value": of * 1.0}
                )
                for name, of in values.items()
            ]
    return pd.concat(tables, ignore_index=True)


def by_change(values: pd.DataFrame, groups: Sequence[str], seed: int) -> pd.DataFrame:
    """The rows of `measured` averaged over tracks.

    Parameters
    ----------
    values : rows of `measured`.
    groups, seed : of the bootstrap, as for `compared`.

    Returns
    -------
    Columns augmentation, family, features, measure, value, low, high (95 %), n_tracks.
    """
    together, rows = np.asarray(groups), []
    columns = ["augmentation", "family", "features", "measure"]
    for about, of in values.groupby(columns, sort=False):
        of_track = of.set_index("track")["value"]
        low, high = bootstrap_interval(of_track, groups=together[of_track.index], seed=seed)
        rows.append((*about, of_track.mean(), low, high, len(of_track)))
    return pd.DataFrame(rows, columns=[*columns, "value", "low", "high", "n_tracks"])


def by_track(values: pd.DataFrame) -> pd.DataFrame:
    """The rows of `measured` averaged over the changes of a kind.

    Returns
    -------
    Columns change ("key should stay" or "key should move"), features, measure, track, value.
    """
    kinds = values.assign(change=np.where(values["shift"] == 0, STAYS, MOVES))
    return kinds.groupby(["change", "features", "measure", "track"], sort=False)["value"].mean().reset_index()


def compared(values: pd.DataFrame, one: str, other: str, *, by: str, groups: Sequence[str], seed: int) -> pd.DataFrame:
    """Two systems under all changes of a kind together, paired over tracks.

    Parameters
    ----------
    values : rows of `measured`.
    one, other : the two, as column `by` names them.
    by : the column in which the two differ, "features" or "measure".
    groups : (track,) labels, such as compositions, that the bootstrap draws together.
    seed : of the bootstrap.

    Returns
    -------
    As `compared_by_track`.
    """
    return compared_by_track(by_track(values), one, other, by=by, groups=dict(enumerate(groups)), seed=seed)


def compared_by_track(
    means: pd.DataFrame, one: str, other: str, *, by: str, groups: Mapping[Hashable, str], seed: int
) -> pd.DataFrame:
    """`compared`, from the means of each track.

    Parameters
    ----------
    means : what `by_track` returns, or a run of notebook 40 stored.
    one, other, by, seed : as for `compared`.
    groups : by track, labels that the bootstrap draws together.

    Returns
    -------
    Columns change, measure or features (the one that is not `by`), one, other (their means), difference, low, high (one
    minus other, 95 %), p.
    """
    rest = "measure" if by == "features" else "features"
    rows = []
    for (change, name), of in means.groupby(["change", rest], sort=False):
        sides = of.pivot(index="track", columns=by, values="value")
        together = [groups[track] for track in sides.index]
        found = paired_difference(sides[one], sides[other], groups=together, n_resamples=N_RESAMPLES, seed=seed)
        shown = {"one": sides[one].mean(), "other": sides[other].mean()}
        rows.append({"change": change, rest: name, **shown, **found._asdict()})
    return pd.DataFrame(rows)
