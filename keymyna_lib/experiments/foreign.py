"""Heads trained on one corpus and tested on another: what synthetic labels are worth on real recordings.

Heads are trained on a task's training tracks and chosen on its validation tracks, as everywhere; the recordings that
they are tested on give neither training examples nor a choice. These are the labelled tracks of another corpus, such as
a folder of the user's, whatever their split there; or stored spectrograms with a table of their keys:

    <folder>/tracks.csv                  columns track and key; set, group and mean_chroma if known; all others but
                                         genre, artist and title hold what other systems answered
    <folder>/spectrograms.safetensors    a tensor per track, by its name: (frame, mel) float16, as a corpus stores them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.small_tables import read_table
from keymyna_lib.base.tensors import reading
from keymyna_lib.compute.executor import Executor
from keymyna_lib.compute.processes import HERE
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.rendered.build import SongConfig, build_songs
from keymyna_lib.corpus.sound import soundfonts
from keymyna_lib.evaluate import NO_KEY, bootstrap_interval, holm, paired_difference
from keymyna_lib.experiments.controls import PROFILES, System, predict_all, profile_key
from keymyna_lib.experiments.head_study import HeadStudy, sweep
from keymyna_lib.experiments.scoring import judged
from keymyna_lib.features import CHROMA, MEAN_MEL, Features, cut_windows, extract, of_tracks, track_embeddings
from keymyna_lib.heads import HeadSpec, TrainedHead, select
from keymyna_lib.keys import KEY_NAMES, KeyLabelError, parse_key
from keymyna_lib.model import Encoder
from keymyna_lib.spectrogram import N_MELS, WINDOW, window_starts

ALL = "all"  # recordings of every set together
_NEEDED, _KNOWN = ("track", "key"), ("set", "group", "mean_chroma", "genre", "artist", "title")
_KEYS = list(KEY_NAMES)  # columns of probabilities


@dataclass(frozen=True)
class Recordings:
    """Labelled recordings to test on.

    Attributes
    ----------
    tracks : index track_id; columns key (0..23), set (of the recordings that are scored together) and group (tracks
        drawn together for intervals).
    spectrogram : track_id -> (frame, mel) float16.
    chroma : rows of mean chroma, of windows or of whole tracks; None where it is not known.
    others : index track_id; what each other system answered, a column of keys or NO_KEY per system.
    """

    tracks: pd.DataFrame
    spectrogram: Callable[[str], np.ndarray]
    chroma: Features | None
    others: pd.DataFrame


def songs_beside(
    corpus: Corpus, n_songs: int, soundfont: str = soundfonts.DEFAULT, *, client: Executor = HERE, show: bool = True
) -> Corpus:
    """Songs that a synthetic corpus does not hold, under its own conditions; another SoundFont plays the same ones.

    Parameters
    ----------
    corpus : as of notebook 00; its length of excerpts, scope, tuning, noise and front end are the songs'.
    soundfont : as of `SongConfig`.
    """
    made = corpus.config
    shared = {name: made[name] for name in ("seconds", "scope", "detune_cents", "snr_db")}
    config = SongConfig(
        **shared, front_end=corpus.front_end, n_songs=n_songs, seed=made["seed"] + 1, soundfont=soundfont
    )
    return build_songs(config, progress=show, client=client)


def recordings_of(
    corpus: Corpus,
    systems: Sequence[System] = (),
    *,
    split: str | None = None,
    chroma: Features | None = None,
    frames: int = WINDOW,
    client: Executor = HERE,
    show: bool = True,
) -> Recordings:
    """The labelled tracks of a corpus; a set for each of its sources.

    Parameters
    ----------
    systems : of `controls` or `label_free.ModelSystem`, whose answers are scored beside.
    split : only the tracks of this one; all of them where it is None.
    chroma : of these tracks at least, where it has been extracted already.
    frames : length of a window.

    Raises
    ------
    KeyMynaError
        When no track has a label.
    """
    tracks = corpus.manifest.loc[corpus.tracks(split)]
    tracks = tracks[tracks["key"] >= 0]
    if tracks.empty:
        raise KeyMynaError(f"{corpus.path} has no labelled track to test on.")
    ids = list(tracks.index)
    return Recordings(
        tracks[["key"]].assign(set=tracks["source"], group=tracks["composition"]),
        corpus.spectrogram,
        chroma or extract(corpus, CHROMA, frames=frames, track_ids=ids, show=show, client=client),
        predict_all(corpus, ids, systems, client=client, progress=show)
        if systems
        else pd.DataFrame(index=tracks.index),
    )


def stored_recordings(folder: Path | str) -> Recordings:
    """Labelled recordings of which only spectrograms are there, see the module's description.

    Where tracks.csv has mean_chroma (12 numbers, C first), the answers of `controls.PROFILES` are among the others.

    Raises
    ------
    KeyMynaError
        When a file is absent or damaged, a key cannot be read, or a track has no spectrogram, or one of another shape.
    """
    table, path = Path(folder) / "tracks.csv", Path(folder) / "spectrograms.safetensors"
    advice = "Expected tracks.csv and spectrograms.safetensors in one folder."
    with reading(path, "spectrograms (frame, mel)", advice) as (tensors, _):
        stored = {name: tensor.numpy() for name, tensor in tensors.items()}
    rows: dict[str, dict] = {}
    for line, given in read_table(table, _NEEDED, advice=advice):
        track = given["track"]
        frames = stored.get(track)
        if frames is None or frames.ndim != 2 or frames.shape[1] != N_MELS or frames.dtype != np.float16:
            shape = "none" if frames is None else f"{frames.dtype} {frames.shape}"
            raise KeyMynaError(
                f"{table}, line {line}: {path.name} should hold float16 (frame, {N_MELS}) of {track!r}, has {shape}."
            )
        try:
            rows[track] = given | {"key": parse_key(given["key"])}
        except KeyLabelError as error:
            raise KeyMynaError(f"{table}, line {line}: {error}") from None
    if not rows:
        raise KeyMynaError(f"{table} names no track. {advice}")
    tracks = pd.DataFrame.from_dict(rows, orient="index").rename_axis("track_id")
    systems = [name for name in tracks if name not in (*_NEEDED, *_KNOWN)]
    others = pd.DataFrame({name: [_answer(text) for text in tracks[name]] for name in systems}, index=tracks.index)
    chroma = None
    if "mean_chroma" in tracks:
        vectors = np.array([list(map(float, text.split())) for text in tracks["mean_chroma"]])
        chroma = of_tracks([torch.from_numpy(row[None]).float() for row in vectors], list(tracks.index))
        others = others.assign(**{f"template-{name}": profile_key(vectors, name) for name in PROFILES})
    given = {"set": tracks.get("set", Path(folder).name), "group": tracks.get("group", tracks.index)}
    return Recordings(tracks[["key"]].assign(**given), stored.__getitem__, chroma, others)


def _answer(text: str) -> int:
    try:
        return parse_key(text)
    except KeyLabelError:
        return NO_KEY


def features_elsewhere(
    recordings: Recordings, encoders: Mapping[str, Encoder], *, frames: int = WINDOW
) -> dict[str, Features]:
    """Feature sets of recordings, unshifted, by the names that `upstream.feature_sets` gives them.

    Parameters
    ----------
    encoders : by the name of their features.
    frames : length of a window, see `upstream.window_of`.
    """
    ids = list(recordings.tracks.index)
    spectrograms = [recordings.spectrogram(track) for track in ids]
    sets = {}
    for name, encoder in encoders.items():
        x, track = track_embeddings(encoder, spectrograms, frames)
        sets[name] = Features(x, track, torch.zeros_like(track), tuple(ids))
    means = []
    for stored in spectrograms:
        mel = torch.from_numpy(np.array(stored)).T
        means.append(cut_windows(mel, window_starts(mel.shape[1], frames), frames).float().mean(dim=2))
    sets[MEAN_MEL] = of_tracks(means, ids)
    if recordings.chroma is not None:
        sets[CHROMA] = recordings.chroma
    return sets


def chosen_heads(
    studies: Sequence[HeadStudy],
    grid: Sequence[HeadSpec],
    features: Mapping[str, Features],
    corpus: Corpus,
    device: str = "cpu",
    *,
    client: Executor = HERE,
    show: bool = True,
) -> dict[HeadStudy, TrainedHead]:
    """The head of each study that is best on the corpus's validation tracks; parameters as in `head_study.sweep`."""
    trained = sweep(studies, grid, features, corpus, device, client=client, show=show)
    return {study: select(heads) for study, heads in zip(studies, trained)}


def foreign_scores(
    heads: Mapping[HeadStudy, TrainedHead], elsewhere: Mapping[str, Features], recordings: Recordings
) -> pd.DataFrame:
    """Score heads on recordings of another corpus than the one that they were trained and chosen on.

    Parameters
    ----------
    heads : of `chosen_heads`.
    elsewhere : of `features_elsewhere`, sets of the names that the studies give.

    Returns
    -------
    One row per study and track: features, head, budget, seed, valid_score (of the head, 0..1), track_id, set, group,
    reference, estimate, score (both fifths), score_ascending, and a column per key, by its name, with the mean output
    of the track's windows.

    Raises
    ------
    KeyMynaError
        When a study asks for features that the recordings lack.
    """
    parts = []
    for study, head in heads.items():
        if study.features not in elsewhere:
            raise KeyMynaError(
                f"features {study.features!r}: the recordings have {', '.join(elsewhere)}; stored ones have chroma "
                "only where tracks.csv has the column mean_chroma."
            )
        own = elsewhere[study.features].select(list(recordings.tracks.index))
        outputs = head.predict(own.x, own.track)
        about = {"features": study.features, "head": study.head, "budget": study.budget, "seed": study.seed}
        table = _scored(recordings, outputs.argmax(axis=1))
        for place, (name, value) in enumerate((about | {"valid_score": head.valid_score}).items()):
            table.insert(place, name, value)
        parts.append(pd.concat([table, pd.DataFrame(outputs, columns=_KEYS)], axis=1))
    return pd.concat(parts, ignore_index=True)


def other_scores(recordings: Recordings) -> pd.DataFrame:
    """Rows like those of `foreign_scores` for what other systems answered; head empty, budget and seed 0."""
    parts = [
        _scored(recordings, recordings.others[name].to_numpy()).assign(features=name, head="", budget=0, seed=0)
        for name in recordings.others
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _scored(recordings: Recordings, estimates: np.ndarray) -> pd.DataFrame:
    tracks = recordings.tracks
    return pd.DataFrame(
        {
            "track_id": tracks.index,
            "set": tracks["set"].to_numpy(),
            "group": tracks["group"].to_numpy(),
            **judged(tracks["key"].to_numpy(), estimates),
        }
    )


def foreign_table(predictions: pd.DataFrame, *, baseline: str = "", n_resamples: int = 2000, seed: int) -> pd.DataFrame:
    """Scores by set of recordings, features and head, each beside a baseline.

    Parameters
    ----------
    predictions : rows of `foreign_scores`, of `other_scores`, or both.
    baseline : features that the others are compared with, under the same head and budget, or, where they have no head,
        as they are. No difference without one.
    n_resamples, seed : of the bootstrap, over groups of tracks and over seeds; see `evaluate.bootstrap_interval`.

    Returns
    -------
    One row per set (ALL first, where there are several), features, head and budget: set, features, head, budget,
    tracks, seeds, score (both fifths, 0..1), low, high (95 %); difference, difference_low, difference_high and p (not
    adjusted), against the baseline on the same tracks, NaN for the baseline itself and where there is none to compare
    with.

    Raises
    ------
    KeyMynaError
        When the baseline is not among the features.
    """
    if baseline and baseline not in set(predictions["features"]):
        raise KeyMynaError(f"baseline {baseline!r}: there are {', '.join(predictions['features'].unique())}.")
    sets = list(predictions["set"].unique())
    rows = []
    for name in [ALL] * (len(sets) > 1) + sets:
        part = predictions if name == ALL else predictions[predictions["set"] == name]
        tables = {
            by: group.pivot(index="seed", columns="track_id", values="score")
            for by, group in part.groupby(["features", "head", "budget"], sort=False)
        }
        groups = part.drop_duplicates("track_id").set_index("track_id")["group"]
        for (features, head, budget), scores in tables.items():
            options = {"groups": groups[scores.columns].to_numpy(), "n_resamples": n_resamples, "seed": seed}
            low, high = bootstrap_interval(scores.to_numpy(), **options)
            row = {"set": name, "features": features, "head": head, "budget": budget}
            row |= {"tracks": scores.shape[1], "seeds": len(scores)}
            row |= {"score": scores.to_numpy().mean(), "low": low, "high": high}
            row |= dict.fromkeys(("difference", "difference_low", "difference_high", "p"), np.nan)
            other = next((tables[by] for by in ((baseline, head, budget), (baseline, "", 0)) if by in tables), None)
            if other is not None and features != baseline:
                pair = [scores, other[scores.columns]]
                if not scores.index.equals(other.index):  # a seed of one is none of the other's
                    pair = [table.mean(axis=0) for table in pair]
                found = paired_difference(*(table.to_numpy() for table in pair), **options)
                row |= {"difference": found.difference, "p": found.p}
                row |= {"difference_low": found.low, "difference_high": found.high}
            rows.append(row)
    return pd.DataFrame(rows)


def gains(predictions: pd.DataFrame, features: str, *, n_resamples: int = 2000, seed: int) -> pd.DataFrame:
    """How much better the heads on some features do than every other system, on all recordings together.

    Parameters
    ----------
    predictions, n_resamples, seed : as in `foreign_table`.
    features : whose heads are compared; the others have the same head and budget, or none.

    Returns
    -------
    One row per other system, in columns as `intervals.difference_cell` reads them: features (of the other), shared
    (tracks), difference (of scores, 0..1), d_low, d_high (95 %), p, and p_holm, adjusted over these rows.
    """
    rows = []
    for other in predictions["features"].unique():
        if other != features:
            both = predictions[predictions["features"].isin([features, other])].assign(set=ALL)
            table = foreign_table(both, baseline=other, n_resamples=n_resamples, seed=seed)
            (row,) = table[table["features"] == features].itertuples()
            spread = {"d_low": row.difference_low, "d_high": row.difference_high, "p": row.p}
            rows.append({"features": other, "shared": row.tracks, "difference": row.difference, **spread})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))


def heard_twice(one: pd.DataFrame, other: pd.DataFrame, *, n_resamples: int = 2000, seed: int) -> pd.DataFrame:
    """How much better each system does on one hearing of some tracks than on another, by two SoundFonts for instance.

    Parameters
    ----------
    one, other : rows of `foreign_scores`, of `other_scores`, or both, about tracks of the same ids.
    n_resamples, seed : of the bootstrap, over groups of tracks and over seeds; see `evaluate.bootstrap_interval`.

    Returns
    -------
    One row per features, head and budget: features, head, budget, tracks, difference (of scores, 0..1), low, high
    (95 %) and p (not adjusted).

    Raises
    ------
    KeyMynaError
        When the tracks, systems or seeds are not the same.
    """
    by, rows = ["features", "head", "budget"], []
    groups = one.drop_duplicates("track_id").set_index("track_id")["group"]
    pairs = [
        {
            key: part.pivot(index="seed", columns="track_id", values="score")
            for key, part in table.groupby(by, sort=False)
        }
        for table in (one, other)
    ]
    for key, scores in pairs[0].items():
        again = pairs[1].get(key)
        if again is None or not (again.index.equals(scores.index) and again.columns.equals(scores.columns)):
            raise KeyMynaError(f"{', '.join(map(str, key))}: the two hearings are not of the same tracks and seeds.")
        found = paired_difference(
            scores.to_numpy(),
            again.to_numpy(),
            groups=groups[scores.columns].to_numpy(),
            n_resamples=n_resamples,
            seed=seed,
        )
        row = dict(zip(by, key)) | {"tracks": scores.shape[1], "difference": found.difference}
        rows.append(row | {"low": found.low, "high": found.high, "p": found.p})
    return pd.DataFrame(rows)
