"""The key vocabulary: labels, spelling, transposition, relations. Nobody else does modulo-12 arithmetic on keys.

A key is an integer 0..23: 0-11 are the major keys with tonic C, C#, ..., B (pitch class 0..11),
12-23 the minor keys in the same order. Functions take integers or integer arrays alike.
"""

from __future__ import annotations

import re

import numpy as np

from keymyna_lib.errors import KeyMynaError

N_KEYS = 24
MODES = ("major", "minor")
# The usual spelling of each key: the one with fewer accidentals in its signature, sharps on a tie.
_TONICS = {"major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
           "minor": ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "Bb", "B")}
KEY_NAMES: tuple[str, ...] = tuple(f"{t} {m}" for m in MODES for t in _TONICS[m])
_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}

RELATIONS = ("same", "fifth", "relative", "parallel", "other")  # the five MIREX classes

# Majors along the circle, each followed by its relative minor, from C.
CIRCLE_OF_FIFTHS: tuple[int, ...] = tuple(k for i in range(12) for k in (7 * i % 12, 12 + (7 * i + 9) % 12))


def key_index(tonic_pc: int, mode: str) -> int:
    """Key of a tonic (pitch class, any octave) and a mode ("major" or "minor")."""
    if mode not in MODES:
        raise KeyMynaError(f"mode {mode!r}: expected one of {MODES}.")
    return int(tonic_pc) % 12 + 12 * MODES.index(mode)


def tonic(key):
    """Pitch class of the tonic, 0..11 with C = 0."""
    return key % 12


def is_minor(key):
    """True for minor keys."""
    return key >= 12


def mode(key: int) -> str:
    """"major" or "minor"."""
    return MODES[int(key) // 12]


def transpose(key, semitones):
    """The key `semitones` higher (negative: lower), same mode."""
    return (key + semitones) % 12 + 12 * (key // 12)


def parse_key(text: str) -> int:
    """Key of a written name such as "Eb minor", "c# Minor", "F♯ maj" or "Dm".

    Raises
    ------
    KeyMynaError
        When the text is not one plain major or minor key.
    """
    match = re.fullmatch(r"\s*([A-Ga-g])\s*([#♯b♭]*)[\s:]*(major|maj|minor|min|m|)\s*", str(text), flags=re.I)
    # A lone "M" or "m" differs by its case only.
    if not match:
        raise KeyMynaError(f"{text!r} is not a major or minor key; write it like 'Eb minor'.")
    letter, accidentals, suffix = match.groups()
    pc = _LETTERS[letter.upper()] + sum(1 if a in "#♯" else -1 for a in accidentals)
    minor = suffix == "m" or suffix.lower().startswith("min")
    return key_index(pc, "minor" if minor else "major")


def fifth_direction(reference, estimate):
    """+1 where the estimate's tonic is a fifth above the reference's in the same mode, -1 where below, else 0."""
    reference, estimate = np.asarray(reference, np.int64), np.asarray(estimate, np.int64)
    same_mode = reference // 12 == estimate // 12
    interval = (estimate - reference) % 12
    return np.where(same_mode & (interval == 7), 1, np.where(same_mode & (interval == 5), -1, 0))


def relation(reference, estimate):
    """MIREX class of each estimate: an array of indices into RELATIONS.

    "fifth" covers both directions (see `fifth_direction`); "relative" shares the signature, "parallel" the tonic.
    """
    reference, estimate = np.broadcast_arrays(np.asarray(reference, np.int64), np.asarray(estimate, np.int64))
    interval = (estimate - reference) % 12
    major_to_minor = (reference < 12) & (estimate >= 12)
    minor_to_major = (reference >= 12) & (estimate < 12)
    relative = (major_to_minor & (interval == 9)) | (minor_to_major & (interval == 3))
    parallel = (major_to_minor | minor_to_major) & (interval == 0)
    return np.select([reference == estimate, fifth_direction(reference, estimate) != 0, relative, parallel],
                     [0, 1, 2, 3], default=4)


def camelot(key: int) -> str:
    """Camelot wheel code used by DJs: C major is 8B, A minor 8A, a fifth up adds one."""
    major_tonic = tonic(key) if key < 12 else (tonic(key) + 3) % 12
    return f"{(7 * major_tonic + 7) % 12 + 1}{'B' if key < 12 else 'A'}"
