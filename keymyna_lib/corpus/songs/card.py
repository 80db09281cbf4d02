"""Data card of synthetic songs: what was drawn, counted; and what sounds in an excerpt of one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.corpus.songs import arrange
from keymyna_lib.corpus.songs.compose import Song, compose

COUNTED = ("genre", "style", "kind", "mode", "tonic", "metre")


class Excerpt(NamedTuple):
    """What sounds in an excerpt of a song, in the order that `report.songs.piano_roll` takes it.

    notes : (note, 5) as of `Song.notes`, cut at the excerpt's bounds.
    roles : of the parts.
    sections, chords : role and numeral, with onsets [beats], of those that sound.
    """

    notes: np.ndarray
    roles: list[str]
    sections: list[tuple[str, float]]
    chords: list[tuple[str, float]]


def songs_of(manifest: pd.DataFrame) -> dict[str, Song]:
    """The songs of a corpus in the keys that they sound in, by track_id.

    Parameters
    ----------
    manifest : rows of songs, with columns arrangement and key.
    """
    rows = manifest[["arrangement", "key"]].itertuples()
    return {row.Index: compose(*json.loads(row.arrangement)["song"], tonic=keys.tonic(row.key)) for row in rows}


def excerpt_of(song: Song, arrangement: str) -> Excerpt:
    """What sounds of a song in a track whose arrangement (JSON, as in the manifest) this is."""
    start, stop = arrange.excerpt(json.loads(arrangement))
    notes = song.notes(start, stop)
    ends = (notes[:, 0] + notes[:, 1]).clip(max=stop)
    notes[:, 0] = notes[:, 0].clip(min=start)
    notes[:, 1] = ends - notes[:, 0]
    return Excerpt(
        notes,
        [part.role for part in song.parts],
        [(s.role, s.start) for s in song.sections if s.start < stop and s.start + s.length > start],
        [(chord.numeral, onset) for onset, _, chord in song.chords(start, stop)],
    )


def data_card(songs: Iterable[Song]) -> pd.DataFrame:
    """What each song is.

    Returns
    -------
    One row per song: index; style, genre, kind (of harmony), mode, key (0..23), tonic (0..11), tempo [beats per
    minute], metre, swing, seconds (of the whole song), parts (how many), sections (roles, joined by spaces), numerals
    (of the cycle of its first section with a tune, or of its first section).
    """
    rows = []
    for song in songs:
        main = next((s for s in song.sections if s.role in ("verse", "head", "drop")), song.sections[0])
        rows.append(
            {
                "index": song.index,
                "style": song.style,
                "genre": song.genre,
                "kind": song.kind,
                "mode": keys.mode(song.key),
                "key": song.key,
                "tonic": keys.tonic(song.key),
                "tempo": song.tempo,
                "metre": song.metre,
                "swing": song.swing,
                "seconds": round(song.seconds, 1),
                "parts": len(song.parts),
                "sections": " ".join(s.role for s in song.sections),
                "numerals": " ".join(chord.numeral for _, _, chord in main.chords),
            }
        )
    return pd.DataFrame(rows)


def card_counts(card: pd.DataFrame) -> pd.DataFrame:
    """Songs by property of COUNTED and value: columns property, value, major, minor, songs; most first."""
    tables = []
    for name in COUNTED:
        values = card[name].map(lambda tonic: keys.KEY_NAMES[tonic].split()[0]) if name == "tonic" else card[name]
        counts = pd.crosstab(values, card["mode"]).reindex(columns=keys.MODES, fill_value=0)
        counts["songs"] = counts.sum(axis=1)
        counts = counts.sort_values("songs", ascending=False, kind="stable").rename_axis("value").reset_index()
        tables.append(counts.assign(property=name))
    return pd.concat(tables, ignore_index=True)[["property", "value", *keys.MODES, "songs"]]


def progressions(card: pd.DataFrame, n: int = 20) -> pd.DataFrame:
    """The n commonest cycles of chords: columns numerals, songs; attrs["different"] counts all cycles."""
    counts = card["numerals"].value_counts()
    table = counts.head(n).rename_axis("numerals").reset_index(name="songs")
    table.attrs["different"] = len(counts)
    return table
