"""The same recording under two names: found after decoding, kept in one split, never trained on where it is scored.

Copies have equal samples or matching fingerprints: another format, bit rate, level, tag, or silence or a few seconds
more at either end. A fingerprint, after Haitsma and Kalker (ISMIR 2002), is the signs of changes in time of the
differences of neighbouring bands. Recordings that share words of them, at one distance in time, are candidates, and the
agreement of all their signs decides. The cost grows with the number of recordings, not of their pairs: 10,000 take
minutes, and about 1 GB.

Not recognised: another tempo, pitch, performance or mix of the same music; copies that share less than half of the
shorter one, or nothing within SECONDS of their first sounds; less than MIN_SECONDS of sound, unless the samples are
equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.progress import bar
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE

SECONDS, MIN_SECONDS = 120.0, 3.0  # of sound that are compared at most; at least
# Least share of equal signs. Of the synthetic corpus, no two pieces reach 0.65; an mp3 of the lowest quality keeps 0.8.
AGREEMENT = 0.75
LEFT_OUT = "a copy of a scored recording"
_STEP, _SPAN, _BITS = 2, 8, 32  # frames between words; frames averaged on either side of a change; signs of a word
_STILL = 0.02  # a smaller change of log(1 + power) has no sign
_LOW, _LATER = 12, 8  # a recording is looked up by the signs of so many low bands, at a step and so many steps later
_CLEAR = 18  # of these, so many have a sign
_NEIGHBOURS = 8  # recordings with the same signs that each is compared with


def fingerprint(frames: np.ndarray) -> np.ndarray:
    """(step, 2) uint32 of a stored spectrogram (frame, band): every 64 ms, the signs by bit, and which of them count.

    It begins with the first sound, and is empty where there is none.
    """
    edges = np.linspace(0, frames.shape[1], _BITS + 2).astype(int)
    first = np.argmax(np.append(frames.max(axis=1) > _STILL, True))
    heard = frames[first : first + round(SECONDS * SAMPLE_RATE / HOP)].astype(np.float64)
    if len(heard) < 2 * _SPAN:
        return np.empty((0, 2), np.uint32)
    sums = np.cumsum(np.add.reduceat(heard, edges[:-1], axis=1) / np.diff(edges), axis=0)
    means = (sums[_SPAN:] - sums[:-_SPAN])[::_STEP] / _SPAN
    change = np.diff(means[_SPAN // _STEP :] - means[: -(_SPAN // _STEP)], axis=1)
    return np.concatenate(
        [np.packbits(x, axis=1, bitorder="little").view("<u4") for x in (change > 0, abs(change) > _STILL)], axis=1
    )


def agreement(one: np.ndarray, other: np.ndarray, shift: int = 0) -> float:
    """Share of equal signs of two fingerprints where `other` begins `shift` steps into `one`.

    0 where they share less than half of the shorter one, or too little sound.
    """
    a, b = one[max(shift, 0) :], other[max(-shift, 0) :]
    size = min(len(a), len(b))
    both = a[:size, 1] & b[:size, 1]
    known = int(np.bitwise_count(both).sum())
    if 2 * size < min(len(one), len(other)) or known < _BITS / 2 * MIN_SECONDS * SAMPLE_RATE / HOP / _STEP:
        return 0.0
    return 1 - int(np.bitwise_count((a[:size, 0] ^ b[:size, 0]) & both).sum()) / known


def recordings(hashes: pd.Series, spectrogram: Callable[[str], np.ndarray], *, progress: bool = False) -> pd.Series:
    """Which tracks are the same recording: track_id -> the first track of that recording.

    Parameters
    ----------
    hashes : sha256 of the samples, by track_id.
    spectrogram : track_id -> its stored spectrogram, (frame, mel).
    progress : show a bar.
    """
    first = hashes.index.to_series().groupby(hashes.to_numpy()).transform("first")
    distinct = first.unique()
    prints = [
        fingerprint(spectrogram(track))
        for track in bar(distinct, desc="looking for copies", unit="track", show=progress)
    ]
    pairs: dict[tuple[int, int], bool] = {}
    for a, b, shift in _candidates(prints):
        if not pairs.get((a, b)):
            pairs[a, b] = max(agreement(prints[a], prints[b], shift + by) for by in (0, -1, 1)) >= AGREEMENT
    same = _connected([pair for pair, equal in pairs.items() if equal], len(distinct))
    leader = pd.Series(distinct, distinct).groupby(same).transform("first")
    return first.map(leader).rename("recording")


def _candidates(prints: Sequence[np.ndarray]) -> list[tuple[int, int, int]]:
    """Positions a < b of two fingerprints and the step of `a` where `b` begins, that two shared words agree on."""
    words, tracks, steps = [], [], []
    low = np.uint32((1 << _LOW) - 1)
    for track, one in enumerate(prints):
        signs, counts = (
            (one[:-_LATER, part] & low) | ((one[_LATER:, part] & low) << np.uint32(_LOW)) for part in (0, 1)
        )
        (clear,) = np.nonzero(np.bitwise_count(counts) >= _CLEAR)
        word, where = np.unique(signs[clear], return_index=True)  # where a sound is held, its beginning
        words.append(word)
        tracks.append(np.full(len(word), track, np.int32))
        steps.append(clear[where].astype(np.int32))
    word, track, step = (np.concatenate(x) if x else np.empty(0, np.int32) for x in (words, tracks, steps))
    order = np.argsort(word, kind="stable")
    word, track, step = word[order], track[order], step[order]
    longest = max(map(len, prints), default=0)
    found = []
    for lag in range(1, _NEIGHBOURS + 1):
        (at,) = np.nonzero(word[lag:] == word[:-lag])
        a, b = (track[at + by].astype(np.int64) for by in (0, lag))
        found.append((a * len(prints) + b) * 4 * longest + step[at] - step[at + lag] + 2 * longest)
    votes = np.sort(np.concatenate(found))
    pair, shift = np.divmod(np.unique(votes[1:][np.diff(votes) <= 1]), max(4 * longest, 1))
    return list(zip((pair // len(prints)).tolist(), (pair % len(prints)).tolist(), (shift - 2 * longest).tolist()))


def _connected(pairs: Sequence[tuple[int, int]], n: int) -> np.ndarray:
    """Number of the group of each of n things, of which some pairs belong together."""
    from scipy.sparse import coo_array  # here, because they cost a second to import
    from scipy.sparse.csgraph import connected_components

    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    return connected_components(coo_array((np.ones(len(rows)), (rows, columns)), (n, n)), directed=False)[1]


def settle(tracks: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Keep copies together: one composition for all, and none trained on or chosen by where another is scored.

    Splits that were drawn are mended: of compositions with a recording in common, all tracks go where those of the
    first one are. Splits that a publisher or user gives stay; there, copies of test and extra tracks are left out of
    training and validation, and copies of validation tracks out of training.

    Parameters
    ----------
    tracks : index track_id; columns task, split, composition, recording and drawn (whether the split was drawn).

    Returns
    -------
    tracks : all of them, with other splits and compositions.
    left_out : ids of those to leave out.

    Raises
    ------
    KeyMynaError
        When a task loses its training, validation or test tracks.
    """
    together = pd.concat([_kept_together(part) for _, part in tracks.groupby("task")]).loc[tracks.index]
    extra = set(together.loc[together["split"] == "extra", "recording"])
    left_out: list[str] = []
    for task, part in together[together["task"] != ""].groupby("task"):
        seen = set(extra)
        for split in ("test", "valid", "train"):
            here = part.loc[part["split"] == split, "recording"]
            copies = here.index[here.isin(seen)] if split != "test" else []
            if len(copies) == len(here) and split in set(tracks.loc[part.index, "split"]):
                raise KeyMynaError(
                    f"task {task}: no {split} tracks are left once copies of one recording are kept in one split. "
                    "Bring other recordings; the keys.csv of a folder may name the splits itself, in a column split."
                )
            left_out += list(copies)
            seen |= set(here)
    return together, sorted(left_out)


def _kept_together(tracks: pd.DataFrame) -> pd.DataFrame:
    """The tracks of one task, with one composition, and one split if splits were drawn, for copies."""
    places, recording = (tracks[name].astype("category").cat for name in ("composition", "recording"))
    n = len(places.categories)
    links = list(zip(places.codes.astype(int), recording.codes.astype(int) + n))
    tracks = tracks.assign(group=_connected(links, n + len(recording.categories))[places.codes])
    first = tracks.sort_values("composition", kind="stable").groupby("group")[["composition", "split"]].first()
    tracks["composition"] = tracks["group"].map(first["composition"])
    if tracks["drawn"].all():
        tracks["split"] = tracks["group"].map(first["split"])
    return tracks.drop(columns="group")


def describe(before: pd.DataFrame, after: pd.DataFrame, left_out: Sequence[str]) -> list[str]:
    """What `settle` found and did, in a line, and in another which copies have different keys."""
    groups = [group for _, group in after[after["recording"].duplicated(keep=False)].groupby("recording")]
    if not groups:
        return []
    scored = set(after.loc[after["split"].isin(["valid", "test", "extra"]), "recording"])
    unscored = after["split"].isin(["train", "pretrain"]) & ~after.index.isin(left_out)
    skipped = unscored & after["recording"].isin(scored)
    facts = [
        f"{count} {what}"
        for count, what in (
            (int((before["split"] != after["split"]).sum()), "went to another split, so that copies share one"),
            (len(left_out), "left out of training and validation, as copies of scored ones"),
            (int(skipped.sum()), "not pre-trained on, as copies of scored ones"),
        )
        if count
    ]
    lines = [
        f"{len(groups)} recordings are there more than once, in {sum(map(len, groups))} tracks "
        f"({' = '.join(groups[0].index[:2])}"
        + ", ..." * (len(groups) > 1)
        + "). "
        + ("Of all tracks, " + "; ".join(facts) + "." if facts else "None had to move.")
    ]
    named = [group[group["key"] >= 0] for group in groups]
    if unlike := [group for group in named if group["key"].nunique() > 1]:
        shown = [
            " = ".join(f"{track} ({label})" for track, label in group.drop_duplicates("key")["label"].items())
            for group in unlike[:5]
        ]
        lines.append(
            f"{len(unlike)} recordings have different keys in different tracks; correct the labels: {'; '.join(shown)}"
            + "; ..." * (len(unlike) > len(shown))
            + "."
        )
    return lines
