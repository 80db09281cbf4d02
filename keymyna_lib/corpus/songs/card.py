"""Data card of synthetic songs: what was drawn, counted."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from keymyna_lib import keys
from keymyna_lib.corpus.songs.compose import Song

COUNTED = ("genre", "style", "kind", "mode", "tonic", "metre")


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
