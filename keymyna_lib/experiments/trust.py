"""How far a key model's answers can be trusted: what is measured of one, on music that it has never heard.

The songs, sounds and passages are those of a recipe's test (`recipe.held_out`, `recipe.without_key`,
`recipe.song_passages`); nothing of the model is chosen on them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from keymyna_lib.base.progress import bar
from keymyna_lib.calibration import answered, coverage, most_doubt, reliability
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.evaluate import bootstrap_interval, mirex_scores, paired_difference
from keymyna_lib.experiments.key_tracking import Heard, choose_persistence, f_measure, judge
from keymyna_lib.experiments.recipe import LOST, Answers, Recipe, listen, without_key
from keymyna_lib.key_model import KeyModel


def songs(model: KeyModel, corpus: Corpus) -> pd.DataFrame:
    """Answers to all tracks of a labelled corpus of the model's front end.

    Returns
    -------
    Rows of track_id, reference, estimate, score (MIREX, both fifths), confidence, uncalibrated (the confidence at
    temperature 1), doubt [nats].
    """
    tracks, labels = corpus.tracks(), corpus.manifest["key"].to_numpy()
    found = listen(model, [corpus.spectrogram(track) for track in tracks])
    estimate = found.probabilities.argmax(axis=1)
    return pd.DataFrame(
        {
            "track_id": tracks,
            "reference": labels,
            "estimate": estimate,
            "score": mirex_scores(labels, estimate, fifths="both"),
            **_certainty(model, found),
        }
    )


def sounds(model: KeyModel, recipe: Recipe, split: str, *, show: bool = True) -> pd.DataFrame:
    """Rows of kind, confidence, uncalibrated and doubt [nats] of sound without a key, see `recipe.without_key`."""
    found = without_key(model, recipe, split, show=show)
    return pd.concat([pd.DataFrame({"kind": kind, **_certainty(model, one)}) for kind, one in found.items()])


def _certainty(model: KeyModel, found: Answers) -> dict[str, np.ndarray]:
    return {
        "confidence": model.calibrated(found.probabilities).max(axis=1),
        "uncalibrated": found.probabilities.max(axis=1),
        "doubt": found.doubt,
    }


def calibration(heard: pd.DataFrame, max_entropy: float) -> pd.DataFrame:
    """Rows of measure, value, low, high (95 %; none of an error) and n, from rows of `songs`."""
    right, given = heard["reference"] == heard["estimate"], heard["doubt"] <= max_entropy
    shares = {
        "weighted_both": heard["score"],
        "accuracy": right,
        "answered": given,
        "weighted_both, answered": heard["score"][given],
    }
    rows = [(name, *_mean_and_interval(values), len(values)) for name, values in shares.items()]
    for name, sure in {"calibration error, temperature 1": "uncalibrated", "calibration error": "confidence"}.items():
        error = reliability(heard[sure].to_numpy(), right.to_numpy()).error
        rows.append((name, error, np.nan, np.nan, len(heard)))
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high", "n"])


def no_key(tonal: pd.DataFrame, chosen: pd.DataFrame, tested: pd.DataFrame, max_entropy: float) -> pd.DataFrame:
    """How much of each kind of sound without a key gets an answer.

    Parameters
    ----------
    tonal : rows of `songs`.
    chosen, tested : rows of `sounds`, by which thresholds are chosen, and which are answered or not.
    max_entropy : the model's.

    Returns
    -------
    Rows of kind, measure, value, low, high (95 %) and n. "answered" is by the model. "by confidence" withholds as many
    of `tonal` as the model does, those of the least confidence instead of the greatest doubt. "kind unknown" is by a
    threshold of doubt that was chosen on `tonal` and the other kinds, as the model's was on all.
    """
    curve = coverage(tonal["confidence"].to_numpy(), tonal["score"].to_numpy())
    share = answered(tonal["doubt"].to_numpy(), max_entropy)
    enough = np.flatnonzero(curve.answered >= share - 1e-12)
    least = curve.threshold[enough[0]]
    rows = []
    for kind, of in tested.groupby("kind", sort=False):
        others = chosen.loc[chosen["kind"] != kind, "doubt"].to_numpy()
        unknown = most_doubt(tonal["doubt"].to_numpy(), others, lost=LOST)
        given = {
            "answered": of["doubt"] <= max_entropy,
            "by confidence": of["confidence"] >= least,
            "kind unknown": of["doubt"] <= unknown,
        }
        rows += [(kind, name, *_mean_and_interval(values), len(of)) for name, values in given.items()]
    return pd.DataFrame(rows, columns=["kind", "measure", "value", "low", "high", "n"])


def over_time(heard: Mapping[str, Sequence[Heard]], persistence: float, *, show: bool = True) -> pd.DataFrame:
    """Rows of music, and otherwise as `key_tracking.judge`, of each music's passages.

    The template's persistence is the best for the very passages that it is judged on, which flatters it.
    """
    tables = [
        judge(passages, persistence, choose_persistence(passages, template=True)).assign(music=music)
        for music, passages in bar(heard.items(), desc="judging", total=len(heard), show=show)
    ]
    return pd.concat(tables, ignore_index=True)


def tracking(judged: pd.DataFrame) -> pd.DataFrame:
    """Rows of music, system, measure, value, low, high (95 %; none of an F-measure) and n, from `over_time`."""
    rows = []
    for (music, system), of in judged.groupby(["music", "system"], sort=False):
        rows.append((music, system, "score over time", *_mean_and_interval(of["score"]), len(of)))
        rows.append((music, system, "boundaries (F)", f_measure(of), np.nan, np.nan, len(of)))
    return pd.DataFrame(rows, columns=["music", "system", "measure", "value", "low", "high", "n"])


def leads(judged: pd.DataFrame, one: str) -> pd.DataFrame:
    """A system's score over time minus each other system's, paired over passages.

    Parameters
    ----------
    judged : rows of `over_time`.
    one : of `key_tracking.SYSTEMS`.

    Returns
    -------
    Columns music, system (the other one), difference, low, high (95 %).
    """
    rows = []
    for music, of in judged.groupby("music", sort=False):
        scores = of.pivot(index="passage", columns="system", values="score")
        for other in scores.columns.drop(one):
            found = paired_difference(scores[one], scores[other], seed=0)
            rows.append((music, other, found.difference, found.low, found.high))
    return pd.DataFrame(rows, columns=["music", "system", "difference", "low", "high"])


def _mean_and_interval(values: pd.Series) -> tuple[float, float, float]:
    if not len(values):
        return np.nan, np.nan, np.nan
    numbers = values.to_numpy(float)
    return float(numbers.mean()), *bootstrap_interval(numbers, seed=0)
