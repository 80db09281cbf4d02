"""Compositions (scores that are versions of one piece), and the choice and transposition of pieces.

A composition is a connected component of pieces under two relations: the same normalised title, or a near-identical
melody in any key. Splits keep compositions whole, so that no tune is learned in one setting and tested in another. All
draws come from generators seeded by the caller's seed and the purpose. Everything here is our choice.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base import seeds
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.text import identity
from keymyna_lib.corpus.rendered.scores import ScoreSet
from keymyna_lib.corpus.splits import SPLITS

# Two melodies count as one when they share this part of the shorter one's shingles (runs of NGRAM intervals). In
# this corpus, pairs at 0.2 to 0.3 are mostly chance and those above mostly variants (checked by eye), and the
# largest component has 11 of 3,633 pieces; with runs of 4 the same threshold joins nearly half of them.
NGRAM = 6
SAME_MELODY = 0.3
# Words that name a kind of piece, a setting or an edition rather than one piece.
_GENERIC = frozenset(
    """
    air airs allemanda allemande an and around bwv by celebrated clog clogs cotillion cotillon dance
    dances double duet favorite favourite first fling for from german gigue highland hornpipe in irish jig
    jigg jigs lancashire march marches medley minuet new no of old on or original polka polonaise quick
    quickmarch quickstep reel reels regiment regt rondo royal scotch second set setting single slip
    slipjig slow song spanish step strathspey strathspeys strathsy the third to tune turkish unknown
    untitled variations version walk waltz way welch welsh with
""".split()
)


def normalise_title(title: str) -> str:
    """What the titles of one piece share: its sorted words without accents, articles, numbers and names of dances.

    Returns "" for a generic title, which identifies nothing.

    >>> normalise_title("The Trip to Dingle (2nd Set)"), normalise_title("Quick Step 25th Regt.")
    ('dingle trip', '')
    """
    text = unicodedata.normalize("NFKD", identity(title))
    text = "".join(c for c in text if not unicodedata.combining(c) and c not in "'’`:")
    words = set(re.findall(r"[a-z]{2,}", re.sub(r"\b\d+(st|nd|rd|th|d)?\b", " ", text)))
    return " ".join(sorted(words - _GENERIC))


def melody(notes: np.ndarray, source: str) -> np.ndarray:
    """Pitches of the melody (part 0, highest note): (step,) int.

    A tune is read note by note, a chorale on the beat, because its settings differ in passing notes.
    """
    notes = notes[notes[:, 3] == 0]
    notes = notes[np.lexsort((-notes[:, 2], notes[:, 0]))]
    notes = notes[np.diff(notes[:, 0], prepend=-1) > 0]
    if source == "chorale":
        beats = np.arange(notes[0, 0], (notes[:, 0] + notes[:, 1]).max() - 1e-3)
        notes = notes[np.searchsorted(notes[:, 0], beats + 1e-3) - 1]
    return notes[:, 2].astype(int)


def melodic_shingles(notes: np.ndarray, source: str) -> list[str]:
    """Every run of `NGRAM` intervals of the melody (semitones) as text; transposition does not change them."""
    intervals = [f"{i:+d}" for i in np.diff(melody(notes, source))]
    return [source + "".join(intervals[i : i + NGRAM]) for i in range(max(1, len(intervals) - NGRAM + 1))]


def composition_ids(scores: ScoreSet) -> pd.Series:
    """Composition of each kept piece: the name of the component's first piece, indexed by piece_id."""
    import scipy.sparse  # here, with what follows, because they cost a second to import
    from scipy.sparse.csgraph import connected_components
    from sklearn.feature_extraction.text import CountVectorizer

    table = scores.table
    shingles = [melodic_shingles(scores.notes(i), s) for i, s in table.source.items()]
    counts = CountVectorizer(analyzer=list, binary=True, dtype=np.int32).fit_transform(shingles)
    shared = scipy.sparse.triu(counts @ counts.T, 1).tocoo()
    size = np.asarray(counts.sum(axis=1)).ravel()
    near = shared.data >= SAME_MELODY * np.minimum(size[shared.row], size[shared.col])
    titles = table.title.map(normalise_title).to_numpy()
    titled = np.flatnonzero(titles != "")
    # Pieces of one title all link to the first of them.
    first = pd.Series(titled).groupby(titles[titled]).transform("first").to_numpy()
    rows = np.concatenate([shared.row[near], titled])
    columns = np.concatenate([shared.col[near], first])
    graph = scipy.sparse.coo_matrix((np.ones(len(rows)), (rows, columns)), (len(table), len(table)))
    component = connected_components(graph, directed=False)[1]
    names = pd.Series(table.index, table.index).groupby(component).transform("first")
    return names.rename("composition")


def select(table: pd.DataFrame, *, n_chorales: int, n_tunes: int, seed: int) -> list[str]:
    """Pieces of a profile, in the table's order: all minor ones, but at most half of a small profile.

    The sample is proportional over the splits.

    Parameters
    ----------
    table : one row per piece with columns source, key, split.
    n_chorales, n_tunes : how many; 0 for all.
    """
    chosen: set[str] = set()
    for source, n, name in (("chorale", n_chorales, "n_chorales"), ("tune", n_tunes, "n_tunes")):
        pieces = table[table.source == source]
        if not 0 <= n <= len(pieces):
            raise KeyMynaError(f"{name}={n}: there are {len(pieces)}; 0 takes them all.")
        minor = pieces[keys.is_minor(pieces.key)]
        major = pieces.drop(minor.index)
        n_minor = min(len(minor), max(n // 2, n - len(major))) if n else len(minor)
        n_major = n - n_minor if n else len(major)
        for group, count, purpose in ((minor, n_minor, "minor"), (major, n_major, "major")):
            generator = seeds.numpy_stream(seed, f"select {source} {purpose}")
            place = pd.Series(0.0, group.index)  # of each piece within its split, from 0 to 1
            for split in SPLITS:
                members = group.index[group.split == split]
                place[members] = (generator.permutation(len(members)) + 0.5) / max(len(members), 1)
            chosen.update(place.sort_values(kind="stable").index[:count])
    return [piece for piece in table.index if piece in chosen]


def transpositions(table: pd.DataFrame, *, seed: int) -> pd.Series:
    """Semitones (-6..+5) to transpose each piece by, so that the tonics come out near-uniform.

    Within each split, source and mode the pieces take the twelve tonics in turn, both in random order, so that the
    counts of two tonics differ by at most one.

    Parameters
    ----------
    table : one row per piece with columns split, source, key.
    """
    shift = pd.Series(0, table.index, name="transposition")
    for group, pieces in table.groupby(["split", "source", table.key.map(keys.mode).rename("mode")]):
        generator = seeds.numpy_stream(seed, f"transpositions {group}")
        tonics = generator.permutation(12)[np.arange(len(pieces)) % 12]
        order = pieces.index[generator.permutation(len(pieces))]
        shift[order] = keys.pitch_class(tonics - keys.tonic(pieces.key[order].to_numpy()) + 6) - 6
    return shift
