"""The key vocabulary: labels, spelling, transposition, relations. Arithmetic on keys belongs here and nowhere else.

A key is an integer 0..23: 0-11 are the major keys with tonic C, C#, ..., B (pitch class 0..11),
12-23 the minor keys in the same order. Functions take integers or integer arrays alike.
"""

from __future__ import annotations

import re

import numpy as np

from keymyna_lib.base.errors import KeyMynaError

N_KEYS = 24
MODES = ("major", "minor")
# The usual spelling of each key: the one with fewer accidentals in its signature, sharps on a tie.
_TONICS = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
KEY_NAMES: tuple[str, ...] = tuple(f"{t} {m}" for m in MODES for t in _TONICS[m])
_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
LABEL_PROBLEMS = ("no key", "several keys", "modal", "not a key")  # why a label is not one major or minor key
_NO_KEY = ("", "-", "n", "x", "?", "n/a", "na", "nan", "none", "no key", "unknown", "silence")
_TONIC = r"[A-Ga-g](?:[#♯b♭B]*|[\s-]?(?i:sharp|flat))"
_MAJOR, _MINOR = r"(?:(?i:major|maj)|M)", r"(?:(?i:minor|min)|m)"
_MODAL = r"(?i:modal|(?:ion|dor|phr|phryg|lyd|mix|mixolyd|aeo|aeol|loc|locr)(?:ian)?)"
# Codes that count fifths: their form, the number of C major and A minor, the letters of minor. Camelot, then Open Key.
_CODES = ((r"(0?[1-9]|1[0-2])([ABab])", 8, "Aa"), (r"(0?[1-9]|1[0-2])([dm])", 1, "m"))

RELATIONS = ("same", "fifth", "relative", "parallel", "other")  # the five MIREX classes

# Majors along the circle, each followed by its relative minor, from C.
CIRCLE_OF_FIFTHS: tuple[int, ...] = tuple(k for i in range(12) for k in (7 * i % 12, 12 + (7 * i + 9) % 12))


class KeyLabelError(KeyMynaError):
    """A label that is not one major or minor key; `reason` is one of LABEL_PROBLEMS."""

    def __init__(self, label: str, reason: str) -> None:
        super().__init__(label, reason)
        self.label, self.reason = label, reason

    def __str__(self) -> str:
        return f"{self.label!r} is not one major or minor key ({self.reason}); write it like 'Eb minor', 'Ebm' or '2A'."


def key_index(tonic_pc: int, mode: str) -> int:
    """Key of a tonic (pitch class, any octave) and a mode ("major" or "minor").

    >>> KEY_NAMES[key_index(9, "minor")]
    'A minor'

    Raises
    ------
    KeyMynaError
        When the mode is neither.
    """
    if mode not in MODES:
        raise KeyMynaError(f"mode {mode!r}: expected one of {MODES}.")
    return int(tonic_pc) % 12 + 12 * MODES.index(mode)


def tonic(key):
    """Pitch class of the tonic, 0..11 with C = 0.

    >>> tonic(parse_key("A minor"))
    9
    """
    return key % 12


def pitch_class(pitch):
    """Pitch class of a pitch, or of an interval [semitones], in any octave: 0..11."""
    return pitch % 12


def is_minor(key):
    """True for minor keys."""
    return key >= 12


def mode(key: int) -> str:
    """The mode of one key, "major" or "minor"."""
    return MODES[int(key) // 12]


def transpose(key, semitones):
    """The key `semitones` higher (negative: lower), same mode.

    >>> KEY_NAMES[transpose(parse_key("B minor"), 3)]
    'D minor'
    >>> transpose(np.array([0, 12]), -1).tolist()
    [11, 23]
    """
    return (key + semitones) % 12 + 12 * (key // 12)


def parse_key(text: str) -> int:
    """Key of a written label.

    Names such as "Eb minor", "c# Minor", "F♯ maj", "E-flat major", "Dm", "A:min" (Harte) and "B#" (a lone tonic is
    major); Camelot codes, "8B" and "8A" being C major and A minor; Open Key codes, "1d" and "1m" being the same. Case
    matters only where nothing else decides: "CM" is major and "Cm" minor, "2m" is E minor and "2M" nothing.

    Raises
    ------
    KeyLabelError
        When the label is not one major or minor key.

    Examples
    --------
    >>> parse_key("C major"), parse_key("E-flat minor"), parse_key("8A") == parse_key("Am")
    (0, 15, True)
    >>> parse_key("D dorian")
    Traceback (most recent call last):
    keymyna_lib.keys.KeyLabelError: 'D dorian' is not one major or minor key (modal); write it like 'Eb minor', ...
    """
    text = str(text).strip()
    if text.casefold() in _NO_KEY:
        raise KeyLabelError(text, "no key")
    key = _one_key(text)
    if key is None:
        raise KeyLabelError(text, _why_not_one(text))
    return key


def _one_key(text: str) -> int | None:
    if match := re.fullmatch(rf"({_TONIC})(?:[\s:_-]*({_MAJOR}|{_MINOR}))?", text):
        name, suffix = match.groups()
        accidental = name[1:].casefold()
        pc = _LETTERS[name[0].upper()] + sum(map(accidental.count, ("#", "♯", "sharp")))
        pc -= sum(map(accidental.count, ("b", "♭", "flat")))
        return key_index(pc, "minor" if suffix and re.fullmatch(_MINOR, suffix) else "major")
    for pattern, number_of_c, minor in _CODES:
        if match := re.fullmatch(pattern, text):
            tonic_of_major = 7 * (int(match[1]) - number_of_c)
            return key_index(tonic_of_major + 9, "minor") if match[2] in minor else key_index(tonic_of_major, "major")
    return None


def _why_not_one(text: str) -> str:
    """The reason why a label is not one key: by the tonics, modes and other words that it is made of."""
    tonics = modes = modal = 0
    for word in re.split(r"[\s/|;,&+:_-]+", text):
        if re.fullmatch(rf"{_MAJOR}|{_MINOR}", word):
            modes += 1
        elif _one_key(word) is not None:
            tonics += 1
        elif re.fullmatch(rf"({_TONIC})?{_MODAL}", word):
            modal += 1
        elif word.casefold() not in ("", "sharp", "flat", "and", "or", "to"):
            return "not a key"
    if tonics > 1 or modes > 1:
        return "several keys"
    return "modal" if modal else "not a key"


def fifth_direction(reference, estimate):
    """+1 where the estimate's tonic is a fifth above the reference's in the same mode, -1 where below, else 0.

    >>> fifth_direction([0, 0, 0], [7, 5, 0]).tolist()
    [1, -1, 0]
    """
    reference, estimate = np.asarray(reference, np.int64), np.asarray(estimate, np.int64)
    same_mode = reference // 12 == estimate // 12
    interval = (estimate - reference) % 12
    return np.where(same_mode & (interval == 7), 1, np.where(same_mode & (interval == 5), -1, 0))


def relation(reference, estimate):
    """MIREX class of each estimate: an array of indices into RELATIONS.

    "fifth" covers both directions (see `fifth_direction`); "relative" shares the signature, "parallel" the tonic.

    >>> [RELATIONS[i] for i in relation(parse_key("C"), [parse_key(name) for name in ("G", "F", "Am", "Cm", "D")])]
    ['fifth', 'fifth', 'relative', 'parallel', 'other']
    """
    reference, estimate = np.broadcast_arrays(np.asarray(reference, np.int64), np.asarray(estimate, np.int64))
    interval = (estimate - reference) % 12
    major_to_minor = (reference < 12) & (estimate >= 12)
    minor_to_major = (reference >= 12) & (estimate < 12)
    relative = (major_to_minor & (interval == 9)) | (minor_to_major & (interval == 3))
    parallel = (major_to_minor | minor_to_major) & (interval == 0)
    return np.select(
        [reference == estimate, fifth_direction(reference, estimate) != 0, relative, parallel], [0, 1, 2, 3], default=4
    )


def camelot(key: int) -> str:
    """Camelot wheel code used by DJs: C major is 8B, A minor 8A, a fifth up adds one.

    >>> camelot(parse_key("C major")), camelot(parse_key("E minor"))
    ('8B', '9A')
    """
    major_tonic = tonic(key) if key < 12 else (tonic(key) + 3) % 12
    return f"{(7 * major_tonic + 7) % 12 + 1}{'B' if key < 12 else 'A'}"
