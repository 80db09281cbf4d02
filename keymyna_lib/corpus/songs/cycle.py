"""The chords that a part plays over, and what parts are made of."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from keymyna_lib.corpus.songs.harmony import Chord
from keymyna_lib.corpus.songs.rhythm import Metre

Note = tuple[float, float, int, int]  # onset [beats], duration [beats], MIDI pitch with tonic C, velocity


class RiffNote(NamedTuple):
    """onset, duration [beats]; interval above the root [semitones]."""

    onset: float
    duration: float
    interval: int


class Cycle(NamedTuple):
    """A progression in beats, and what is common to all parts that play over it.

    onsets : of the chords, ascending from 0.
    chords : as many.
    length : of the cycle.
    scale : of `harmony.SCALES`.
    riff : of the song, some bars of `riff_length` beats.
    syncopation : 0..1.
    """

    onsets: tuple[float, ...]
    chords: tuple[Chord, ...]
    length: float
    metre: Metre
    scale: str
    riff: tuple[RiffNote, ...]
    riff_length: float
    syncopation: float

    def at(self, beat: float) -> Chord:
        """The chord of a beat; the cycle repeats."""
        return self.chords[bisect_right(self.onsets, beat % self.length + 1e-6) - 1]

    def spans(self) -> Iterator[tuple[float, float, Chord]]:
        """(onset, duration, chord) of each chord, cut at the bars."""
        ends = (*self.onsets[1:], self.length)
        for onset, end, chord in zip(self.onsets, ends, self.chords):
            while onset < end - 1e-6:
                bar_ends = (onset // self.metre.beats + 1) * self.metre.beats
                yield onset, min(bar_ends, end) - onset, chord
                onset = min(bar_ends, end)

    def steps(self) -> int:
        """Steps of the metre in the cycle."""
        return round(self.length * self.metre.steps)
