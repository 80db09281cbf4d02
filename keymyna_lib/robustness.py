"""How embeddings and predictions bear changes of the audio: the paper's Figure 2 and what stands behind it.

Conventions: embeddings are (track, dim), the rows of the clean and of the augmented array belonging to the
same tracks; keys are indices of `keymyna_lib.keys`. The changes themselves are in `augmentations`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keymyna_lib import files, keys
from keymyna_lib.augmentations import AUGMENTATIONS, Augmentation
from keymyna_lib.errors import KeyMynaError
from keymyna_lib.parallel import over_tracks
from keymyna_lib.spectrogram import compress, mel_power

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAN = "clean"  # the name of the unchanged audio among those of the augmentations


def _augment(augmentations: Mapping[str, Augmentation], seed: int, corpus: Any, track_id: str) -> dict[str, np.ndarray]:
    audio = corpus.audio(track_id)
    versions = {CLEAN: audio} | {
        name: augmentation(audio, np.random.default_rng([seed, *files.stable_words(f"{track_id}/{name}")]))
        for name, augmentation in augmentations.items()
    }
    return {name: np.ascontiguousarray(compress(mel_power(version))[0].numpy().T) for name, version in versions.items()}


def augment_tracks(
    corpus: Any,
    track_ids: Sequence[str],
    augmentations: Mapping[str, Augmentation] = AUGMENTATIONS,
    *,
    seed: int,
    workers: int = 0,
    progress: bool = True,
) -> dict[str, list[np.ndarray]]:
    """Spectrograms of tracks under each augmentation, and the clean ones made the same way, on all cores.

    Every (track, augmentation) has a generator of its own, so neither the choice of the others nor the number
    of processes changes a result.

    Parameters
    ----------
    corpus : as `keymyna_lib.data.corpus.open_corpus` returns it.
    augmentations : name -> augmentation (functions of a module, to be sent to other processes).
    workers : processes; 0 is one for each core.

    Returns
    -------
    Name -> one compressed spectrogram a track in the order given, each (frame, mel) float16; `CLEAN` is the
    first name. About 0.24 MB for 30 s. Frames differ in number under a change of tempo.
    """
    made = over_tracks(
        functools.partial(_augment, dict(augmentations), seed),
        corpus,
        track_ids,
        desc="augmentations",
        workers=workers,
        progress=progress,
    )
    spectrograms: dict[str, list[np.ndarray]] = {name: [] for name in (CLEAN, *augmentations)}
    for versions in made:
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


# Colour-blind safe hues (Okabe and Ito), two more in between.
_FAMILY_COLOURS = {
    "noise": "#56B4E9",
    "filter": "#0072B2",
    "equaliser": "#009E73",
    "gain": "#8C8C8C",
    "reverb": "#CC79A7",
    "tempo": "#E69F00",
    "coding": "#7B4FA3",
    "pitch": "#D55E00",
}


def _track_colours(number: int) -> np.ndarray:
    """Colours (number, 3) that tell neighbours in order apart: hue by the golden ratio, two lightnesses."""
    from matplotlib.colors import hsv_to_rgb

    n = np.arange(number)
    saturation, value = np.where(n % 2, 0.55, 0.85), np.where(n % 3, 0.85, 0.65)
    return hsv_to_rgb(np.stack([n * 0.618034 % 1, saturation, value], axis=1))


def plot_tsne(
    fig: Figure,
    xy_by_encoder: Mapping[str, np.ndarray],
    track: np.ndarray,
    augmentation: np.ndarray,
    augmentations: Mapping[str, Augmentation] = AUGMENTATIONS,
) -> None:
    """The paper's Figure 2 in our own drawing: a column an encoder, coloured by track above, by change below.

    A ring is a clean track, joined by a thin line to each of its changed versions: what the encoder is robust
    to sits in its ring. Colours above only tell neighbours apart. Below, pitch shifts, the one change that
    should move an embedding, are triangles that point the way of the shift.

    Parameters
    ----------
    fig : an empty figure with a constrained layout; 5 inches a column and 10.4 in height suit 100 tracks.
    xy_by_encoder : title -> (point, 2), the output of `tsne`.
    track : (point,) labels of the tracks.
    augmentation : (point,) names of `augmentations`, or `CLEAN`; every track has one clean point.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    track, augmentation = np.asarray(track), np.asarray(augmentation)
    _, number = np.unique(track, return_inverse=True)
    clean = np.flatnonzero(augmentation == CLEAN)
    home = clean[np.argsort(number[clean])]  # track's number -> its clean point
    if len(home) != number.max() + 1:
        raise KeyMynaError("plot_tsne: expected exactly one clean point a track.")
    changed = np.flatnonzero(augmentation != CLEAN)
    changed = np.random.default_rng(0).permutation(changed)  # so that no change hides another
    family = np.array([augmentations[name].family for name in augmentation[changed]])
    shift = np.array([augmentations[name].shift for name in augmentation[changed]])
    by_track = _track_colours(len(home))
    by_family = np.array([_FAMILY_COLOURS.get(f, "black") for f in family])
    families = list(dict.fromkeys(a.family for a in augmentations.values() if a.family in family))

    axes = fig.subplots(2, len(xy_by_encoder), squeeze=False)
    for column, (title, xy) in zip(axes.T, xy_by_encoder.items(), strict=True):
        column[0].set_title(title)
        for axis, colours, line_colours, line_alpha, ring, pointed in (
            (column[0], by_track[number[changed]], by_track[number[changed]], 0.45, by_track, False),
            (column[1], by_family, "black", 0.12, "0.15", True),
        ):
            lines = np.stack([xy[home[number[changed]]], xy[changed]], axis=1)
            axis.add_collection(LineCollection(lines, colors=line_colours, linewidths=0.4, alpha=line_alpha))
            for marker, chosen in (("o", shift == 0), ("^", shift > 0), ("v", shift < 0)):
                axis.scatter(
                    *xy[changed[chosen]].T,
                    c=colours[chosen],
                    marker=marker if pointed else "o",
                    s=9,
                    linewidths=0,
                    alpha=0.85,
                    zorder=2,
                )
            axis.scatter(*xy[home].T, s=26, linewidths=0.8, facecolors="none", edgecolors=ring, zorder=3)
            axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
            axis.margins(0.03)
            axis.spines[:].set_color("0.8")
    axes[0, 0].set_ylabel("coloured by track")
    axes[1, 0].set_ylabel("coloured by change")
    handles = [Line2D([], [], ls="", marker="o", mfc="white", mec="black", label="clean")] + [
        Line2D([], [], ls="", marker="^" if f == "pitch" else "o", color=_FAMILY_COLOURS.get(f, "black"), label=f)
        for f in families
    ]
    fig.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        handletextpad=0.1,
        columnspacing=1.2,
    )
