"""What each window of a synthetic piece contains: the ground truth for what can be read off an embedding.

All of it is known from the score and its arrangement (see `arrange`); no audio is analysed. Windows are those of
`features`: end to end, the last one aligned to the recording's end. The padding after the end of a short recording
does not count.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.rendered.build import SONG, played_notes
from keymyna_lib.corpus.rendered.scores import load_scores
from keymyna_lib.corpus.sound.production import speed
from keymyna_lib.corpus.sound.programmes import FAMILIES, SONG_FAMILIES
from keymyna_lib.corpus.sound.render import DRUM_PART
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE, WINDOW, window_starts

CHROMA_COLUMNS: tuple[str, ...] = tuple(f"chroma_{pitch_class}" for pitch_class in range(12))
_MEANS = {"tuning": "cents", "snr": "snr", "tempo": "tempo"}  # column -> a section's entry
_FAMILY_OF_PROGRAMME = {
    programme: name
    for families in (SONG_FAMILIES, FAMILIES)
    for name, family in families.items()
    for programme in family
}


def window_properties(corpus: Corpus, track_ids: Sequence[str], frames: int = WINDOW) -> pd.DataFrame:
    """Properties of every window of some tracks, row for row as in `features.extract(...).select(track_ids)`.

    Parameters
    ----------
    corpus : its manifest is read; the scores come from the cache.
    track_ids : tracks, in the order that the rows are to have.
    frames : length of a window.

    Returns
    -------
    DataFrame
        One row per window. track_id; track (its position in `track_ids`); split; source; composition; start [s]; key
        (0..23), tonic (0..11) and mode ("major" or "minor") of the track, as it sounds.
        tuning [cents], snr [dB], tempo [beats per minute]: means over the sections, weighted by their time in the
        window; the tuning includes what the production's speed does.
        family (of `programmes.FAMILIES`, or else of SONG_FAMILIES; the instrument of part 0: melody or soprano) and
        drums (bool; of a song, whether any are struck in the window) of the section
        that fills most of the window, the first of equals; purity, its share of the window (0..1]; families, those of
        all parts in all sections that the window touches, in alphabetical order, joined by "+".
        register [MIDI number]: mean pitch of the notes weighted by their time in the window, with transposition and
        the section's octave, without tuning; missing where no note sounds.
        chroma_0 .. chroma_11: share of each pitch class, C first, of the time that notes sound, drums excepted; they
        sum to 1, and are 0 where no note sounds.
        A note lasts as long as it is held (a section's end cuts it): decay and ringing are ignored.

    Raises
    ------
    KeyMynaError
        When there is no track, or one that the corpus does not have.
    """
    track_ids = list(track_ids)
    if not track_ids:
        raise KeyMynaError("track_ids is empty: pass at least one track.")
    if missing := [name for name in track_ids if name not in corpus.manifest.index]:
        raise KeyMynaError(
            f"track_ids: no track {missing[0]!r} in the corpus ({len(missing)} missing); pass some of corpus.tracks()."
        )
    manifest = corpus.manifest.loc[track_ids]
    scores = None if (manifest["source"] == SONG).all() else load_scores()
    parts = [
        _of_track(
            played_notes(row.piece_id, row.source, row.arrangement, scores),
            json.loads(row.arrangement),
            window_starts(row.n_frames, frames),
            frames,
        )
        for row in manifest.itertuples()
    ]
    track = np.repeat(np.arange(len(parts)), [len(part["start"]) for part in parts])
    known = manifest.iloc[track]
    of_tracks = {
        "track_id": known.index,
        "track": track,
        "split": known["split"].to_numpy(),
        "source": known["source"].to_numpy(),
        "composition": known["composition"].to_numpy(),
        "key": known["key"].to_numpy(),
        "tonic": keys.tonic(known["key"]).to_numpy(),
        "mode": known["key"].map(keys.mode).to_numpy(),
    }
    return pd.DataFrame({**of_tracks, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}})


def _of_track(notes: np.ndarray, arrangement: dict, starts: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """Columns that differ between the windows of a track, each (window,), from the windows' first frames."""
    start, cents = starts * HOP / SAMPLE_RATE, speed(arrangement.get("production"))
    faster = 2 ** (cents / 1200)  # time is told as it was before the production's change of speed
    begin = start * faster
    end = np.minimum(begin + frames * HOP / SAMPLE_RATE * faster, arrangement["duration"])
    sections, drums = arrangement["sections"], notes[:, 3] == DRUM_PART
    found = {
        "start": start,
        **_of_sections(sections, begin, end),
        **_of_notes(notes[~drums, :4], sections, arrangement["transposition"], begin, end),
    }
    found["tuning"] = found["tuning"] + cents
    found["tempo"] = found["tempo"] * faster
    if notes.shape[1] > 4:
        on, off, _ = np.concatenate([_played(notes[drums, :4], s, 0) for s in sections], axis=1)
        found["drums"] = _overlap(begin, end, on, off).any(axis=1)
    return found


def _of_sections(sections: Sequence[dict], begin: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
    """What the sections that windows from `begin` to `end` [s] touch are played on and how, each (window,)."""
    first, length = (np.array([section[name] for section in sections]) for name in ("start", "length"))
    share = _overlap(begin, end, first, first + length)  # (window, section)
    share /= share.sum(axis=1, keepdims=True)
    longest = share.argmax(axis=1)
    families = [[_FAMILY_OF_PROGRAMME[programme] for programme in section["programmes"]] for section in sections]
    heard = [{family for i in np.flatnonzero(row) for family in families[i]} for row in share]
    return {
        **{name: share @ [section[entry] for section in sections] for name, entry in _MEANS.items()},
        "family": np.array([of_parts[0] for of_parts in families])[longest],
        "drums": np.array([section["drums"] is not None for section in sections])[longest],
        "purity": share.max(axis=1),
        "families": np.array(["+".join(sorted(names)) for names in heard]),
    }


def _of_notes(
    notes: np.ndarray, sections: Sequence[dict], transposition: int, begin: np.ndarray, end: np.ndarray
) -> dict[str, np.ndarray]:
    """Register and chroma of windows from `begin` to `end` [s], each (window,)."""
    on, off, pitch = np.concatenate([_played(notes, section, transposition) for section in sections], axis=1)
    held = _overlap(begin, end, on, off)  # (window, note)
    total = held.sum(axis=1)
    chroma = held @ np.eye(12)[keys.pitch_class(pitch.astype(int))] / np.where(total > 0, total, 1)[:, None]
    return {
        "register": np.divide(held @ pitch, total, out=np.full(len(total), np.nan), where=total > 0),
        **dict(zip(CHROMA_COLUMNS, chroma.T)),
    }


def _played(notes: np.ndarray, section: dict, transposition: int) -> np.ndarray:
    """Onset [s], end [s] and MIDI pitch of a section's notes, (3, note), cut at its bounds as `render` does."""
    beats_per_second = section["tempo"] / 60
    first, last = section["beat"], section["beat"] + section["length"] * beats_per_second
    onset, duration, pitch, _ = notes.T.astype(np.float64)
    on, off = onset.clip(first, last), (onset + duration).clip(first, last)
    on, off = (section["start"] + (beats - first) / beats_per_second for beats in (on, off))
    return np.stack([on, off, np.round(pitch) + transposition + section["octave"]])[:, off > on]


def _overlap(begin: np.ndarray, end: np.ndarray, on: np.ndarray, off: np.ndarray) -> np.ndarray:
    """Time that each of some spans (row) shares with each of others (column): (row, column) [s]."""
    return (np.minimum(end[:, None], off) - np.maximum(begin[:, None], on)).clip(min=0)
