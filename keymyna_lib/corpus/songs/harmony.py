"""Chords spelt in Roman numerals, as intervals above the tonic.

A numeral is written from the major scale in both modes, as de Clercq and Temperley write rock harmony (2011): the
chords of C minor are i, bIII, iv, v, bVI, bVII. Capitals are major triads, small letters minor ones. What follows says
what is added ("7" is a dominant seventh on a major, a minor seventh on a minor triad), "/" names the chord that an
applied chord leads to, and ":" the bass: "3", "5" and "7" of the chord, or "1", the tonic as a pedal.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from keymyna_lib.base.errors import KeyMynaError

SCALES: dict[str, tuple[int, ...]] = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "phrygian dominant": (0, 1, 4, 5, 7, 8, 10),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "minor blues": (0, 3, 5, 6, 7, 10),
    "major blues": (0, 2, 3, 4, 7, 9),
    "mixed blues": (0, 2, 3, 4, 5, 7, 9, 10),
}
_DEGREES = {"i": 0, "ii": 2, "iii": 4, "iv": 5, "v": 7, "vi": 9, "vii": 11}
_ACCIDENTALS = {"": 0, "b": -1, "#": 1}
# Intervals above the root by what follows the numeral; those that are the same on both triads.
_FIXED = {
    "5": (0, 7),
    "o": (0, 3, 6),
    "o7": (0, 3, 6, 9),
    "ø7": (0, 3, 6, 10),
    "+": (0, 4, 8),
    "sus2": (0, 2, 7),
    "sus4": (0, 5, 7),
    "7sus4": (0, 5, 7, 10),
    "11": (0, 5, 7, 10, 14),
}
# Those that build on a major or a minor triad: what they add.
_ADDED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "": ((), ()),
    "6": ((9,), (9,)),
    "69": ((9, 14), (9, 14)),
    "7": ((10,), (10,)),
    "maj7": ((11,), (11,)),
    "9": ((10, 14), (10, 14)),
    "maj9": ((11, 14), (11, 14)),
    "add9": ((14,), (14,)),
    "m11": ((10, 14, 17), (10, 14, 17)),
    "13": ((10, 14, 21), (10, 14, 21)),
    "7b9": ((10, 13), (10, 13)),
    "7#9": ((10, 15), (10, 15)),
}
_NUMERAL = re.compile(r"([b#]?)([iv]+|[IV]+)([^/:]*)(?:/([b#]?)([iv]+|[IV]+))?(?::([1357]))?")
_BASSES = {"3": 1, "5": 2, "7": 3}


# The note of a scale that gives way to a chromatic one.
_YIELDS = {0: 1, 1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 6, 8: 9, 9: 8, 10: 11, 11: 10}


class Chord(NamedTuple):
    """A chord above a tonic.

    numeral : as written.
    root : semitones above the tonic, 0..11.
    tones : pitch classes above the tonic, from the root up.
    bass : pitch class above the tonic.
    """

    numeral: str
    root: int
    tones: tuple[int, ...]
    bass: int


@functools.cache
def chord(numeral: str) -> Chord:
    """The chord of a numeral.

    >>> chord("V7/ii")
    Chord(numeral='V7/ii', root=9, tones=(9, 1, 4, 7), bass=9)
    >>> chord("bVI").tones, chord("IV:1").bass
    ((8, 0, 3), 0)

    Raises
    ------
    KeyMynaError
        When it is none.
    """
    match = _NUMERAL.fullmatch(numeral)
    if match is None or match[2].lower() not in _DEGREES or (match[5] or "i").lower() not in _DEGREES:
        raise KeyMynaError(f"{numeral!r} is no Roman numeral.")
    accidental, degree, added, target_accidental, target, bass = match.groups()
    root = _ACCIDENTALS[accidental] + _DEGREES[degree.lower()]
    if target:
        root += _ACCIDENTALS[target_accidental] + _DEGREES[target.lower()]
    minor = degree.islower()
    if added in _FIXED:
        intervals = _FIXED[added]
    elif added in _ADDED:
        intervals = (0, 3 if minor else 4, 7, *_ADDED[added][minor])
    else:
        raise KeyMynaError(f"{numeral!r}: {added!r} is no kind of chord.")
    tones = tuple((root + interval) % 12 for interval in intervals)
    if bass == "1":
        lowest = 0
    else:
        place = _BASSES.get(bass, 0)
        if place >= len(tones):
            raise KeyMynaError(f"{numeral!r} has no such bass.")
        lowest = tones[place]
    return Chord(numeral, root % 12, tones, lowest)


@functools.cache
def scale_over(scale: str, tones: tuple[int, ...]) -> tuple[int, ...]:
    """Pitch classes to sing over a chord: the scale, whose notes give way to chromatic ones of the chord.

    >>> scale_over("minor", chord("V").tones)
    (0, 2, 3, 5, 7, 8, 11)
    """
    own = SCALES[scale]
    if scale.endswith(("pentatonic", "blues")):  # these clash with a chord on purpose
        return own
    foreign = {tone for tone in tones if tone not in own}
    gone = {_YIELDS[tone] for tone in foreign}
    if 1 in foreign and 9 in tones:  # the leading note of ii instead of the tonic, not a lowered second
        gone = gone - {2} | {0}
    return tuple(sorted(set(own) - gone | foreign))


@functools.cache
def pitches(classes: tuple[int, ...], low: int, high: int) -> tuple[int, ...]:
    """All pitches of some classes from `low` to `high`, both included."""
    return tuple(pitch for pitch in range(low, high + 1) if pitch % 12 in classes)


@functools.cache
def voicing(tones: tuple[int, ...], low: int) -> tuple[int, ...]:
    """The tones within the octave from `low`: neighbouring chords then move by small steps.

    >>> voicing(chord("IV").tones, 55)
    (57, 60, 65)
    """
    return tuple(sorted(low + (tone - low) % 12 for tone in tones))


def near(tone: int, low: int) -> int:
    """The pitch of a class within the octave from `low`."""
    return low + (tone - low) % 12
