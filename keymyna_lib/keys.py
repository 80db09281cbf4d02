"""The key vocabulary: labels, spelling, transposition, relations. Arithmetic on keys belongs here and nowhere else.

A key is an integer 0..23: 0-11 are the major keys with tonic C, C#, ..., B (pitch class 0..11),
12-23 the minor keys in the same order. Functions take integers or integer arrays alike.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace

import numpy as np

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.text import visible

N_KEYS = 24
MODES = ("major", "minor")
# The usual spelling of each key: the one with fewer accidentals in its signature, sharps on a tie.
_TONICS = {
    "major": ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    "minor": ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "Bb", "B"),
}
KEY_NAMES: tuple[str, ...] = tuple(f"{t} {m}" for m in MODES for t in _TONICS[m])
LABEL_PROBLEMS = ("no key", "several keys", "modal", "not a key")  # why a label is not one major or minor key

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


_LETTERS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11, "h": 11}
_SOLFEGE = dict(zip("do dó ut re ré mi fa fá sol la lá si".split(), (0, 0, 0, 2, 2, 4, 5, 5, 7, 9, 9, 11)))


def _german_tonics() -> dict[str, int]:
    """Names that hold their accidental, without case: cis, cisis, Swedish ciss; ces, ceses, es, as; Dutch bes."""
    found = {"bes": 10}
    for letter, pc in _LETTERS.items():
        if letter != "b":
            flat = letter + ("s" if letter in "ae" else "es")
            found |= {flat: pc - 1, flat + "s": pc - 1, flat + "es": pc - 2}
            found |= {letter + "is": pc + 1, letter + "iss": pc + 1, letter + "isis": pc + 2}
    return found


_GERMAN = _german_tonics()
_GLYPHS = {"#": 1, "x": 2, "𝄪": 2, "b": -1, "𝄫": -2, "♮": 0}
_SHARP, _FLAT = "sharp|di[eè]se|diesis|sostenido|sustenido", "flat|b[eé]moll?e?"
_BETWEEN = r"[\s/|;,&+=()\[\]{}<>\\~·•→_-]"  # keys of one label, and a number behind them
_END = r"(?![^\W_]|[#♯♭])"
_TONIC = rf"""(?: (?P<german>(?i:{"|".join(sorted(_GERMAN, key=len, reverse=True))}))
    | (?P<natural>(?i:{"|".join(_SOLFEGE)}|[a-h]))
      (?: \s?(?P<glyphs>[#♯]+|x|𝄪|[b♭]+|𝄫|♮) | (?P<capitals>B+) | (?P<hyphens>-+)(?=[^\w#♯♭-]|$)
        | [\s_-]*(?P<twice>(?i:dou?ble|doppio)[\s_-]*)?(?: (?P<sharp>(?i:{_SHARP})) | (?P<flat>(?i:{_FLAT})) )
        | [\s_-]*(?i:natural) )? )"""
_MODE = r"""(?: (?P<major>(?i:major|maj\.?|majeur|maggiore|magg\.?|mayor|maior|majör|groot)|M)
    | (?P<minor>(?i:(?:(?:natural|harmonic|melodic)\s)?minor|min\.?|mineur|minore|menor|minör|klein)|m)
    | (?P<dur>(?i:dur|dúr|duuri)) | (?P<moll>(?i:molli|moll?)) )"""
_MODAL = r"(?i:modal|(?:ion|dor|phr|phryg|lyd|mix|mixolyd|aeo|aeol|loc|locr)(?:ian)?)"
_NAME = re.compile(rf"{_TONIC}(?:[\s:_(-]*{_MODE})?{_END}", re.VERBOSE)
_MODE_ALONE = re.compile(rf"{_MODE}{_END}", re.VERBOSE)
_MODAL_NAME = re.compile(rf"(?:{_TONIC}[\s:_-]*)?{_MODAL}{_END}", re.VERBOSE)
# Codes that count fifths: Camelot, where C major is 8B, or Open Key, where it is 1d.
_CODE = re.compile(rf"(?P<number>0?[1-9]|1[0-2])\s?(?:(?P<camelot>[ABab])|(?P<open>[dm])){_END}")
_SEPARATOR = re.compile(rf"{_BETWEEN}+(?:(?i:or|and|to|aka|und|ou|et)\s+)?")
_NUMBER, _UNIT = r"\d{1,4}(?:[.,]\d{1,3})?", r"\s?(?i:cents?|ct|c|¢|%|hz|bpm)"
_RESIDUE = re.compile(
    rf"""(?P<gap>[\s,;/|(\[]*)
    (?: [+±-]\s?{_NUMBER}(?P<unit>{_UNIT})? | {_NUMBER}{_UNIT} | -?\s?(?i:energy(?:\slevel)?):?\s?\d{{1,2}} )
    {_END}[)\]]*""",
    re.VERBOSE,
)
_NO_KEY = frozenset(
    "|n|x|o|0|0 0|all|none|null|nil|na|nan|nat|n a|#n a|n c|nc|no|no key|nokey|no chord|no tonality|no tonal center|"
    "keyless|no key detected|no key found|key not found|not found|not detected|not available|not applicable|not tonal|"
    "non tonal|nontonal|atonal|unpitched|silence|silent|noise|off key|offkey|unknown|unknown key|key unknown|unk|"
    "unclassified|undefined|undetermined|unspecified|unlabelled|unlabeled|missing|empty|blank|tbd".split("|")
)
_PUNCTUATION = str.maketrans(dict.fromkeys("-_.,;:/|?!*~()[]{}<>", " "))
# Dashes, and the two letters of Turkish that match "i" in any case.
_ALIKE = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-") | {"\u0130": "I", "\u0131": "i"}
)


@dataclass(frozen=True)
class _Spelt:
    """A key as a label spells it.

    mode : "" where the label leaves it open.
    german : whether its mode is a German word or, where it is open, its tonic a German name in small letters.
    """

    tonic: str
    pc: int
    mode: str
    german: bool = False


def parse_key(text: str) -> int:
    """Key of a written label, in any notation.

    Names are English ("Eb minor", "F♯ maj", "E-flat major", "Dm", "Fx minor"), Harte's ("A:min"), German ("cis-Moll",
    "Es-dur", "H"), solfège ("do majeur", "sol# minore", "Mi bemol mayor") or music21's ("E- major"). Codes are Camelot,
    "8B" and "8A" being C major and A minor, and Open Key, "1d" and "1m" being the same. One key written several times
    is one key: "C#m/Dbm", "Am (8A)", "F♯/G♭ minor". A number behind a key, which is a detuning ("A#m +50"), an energy
    ("8A - 7") or a tempo, is left out.

    Where notations contradict each other, and no word decides:

    - A lone tonic is major, in small letters too ("b" is B major); "cis", "h" alone, which mean minor in German only,
      are refused.
    - "B" is English, but German before "Dur" and "Moll": "B-Dur" is Bb major.
    - A hyphen right behind a tonic is music21's flat unless a letter follows: "E- major" is Eb major and "A-minor" A
      minor. Alone, "E-" is Eb major and "e-" Eb minor, as music21 writes them.
    - Case matters only where nothing else decides: "CM" is major and "Cm" minor, "2m" is E minor and "2M" nothing.

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
    label = str(text).strip()
    # A tag's texts end in NUL, and several are separated by it. NFKC would make solfège of a diminished "D\u00ba".
    plain = unicodedata.normalize("NFKC", label.strip("\0 ").replace("\0", "/").replace("\u00ba", "\u00b0"))
    plain = visible(plain).translate(_ALIKE).strip("\"'\u2018\u2019\u201c\u201d ")
    if plain in ("-1", "-1.0") or " ".join(plain.casefold().translate(_PUNCTUATION).split()) in _NO_KEY:
        raise KeyLabelError(label, "no key")
    key = _one_key(plain.rstrip(".,; ").strip("()[]{}<> "))
    if isinstance(key, str):
        raise KeyLabelError(label, key)
    return key


def _one_key(text: str) -> int | str:
    """The key that a label names, or the reason why it names no single one."""
    codes: set[int] = set()
    names: dict[_Spelt, int] = {}  # how often each is there
    n_tonics = n_modes = n_modal = place = 0
    while True:
        settled = True  # whether a number right behind can only be a residue: "C-7" is a chord
        if match := _CODE.match(text, place):
            codes.add(_of_code(match))
        elif match := _MODAL_NAME.match(text, place):
            n_tonics, n_modal = n_tonics + bool(match["german"] or match["natural"]), n_modal + 1
        elif match := _NAME.match(text, place):
            name = _of_name(match)
            names[name] = names.get(name, 0) + 1
            settled = name.mode != ""
        elif match := _MODE_ALONE.match(text, place):
            n_modes += 1
        else:
            return "not a key"
        place = match.end()
        while (number := _RESIDUE.match(text, place)) and (settled or number["gap"] or number["unit"]):
            place = number.end()
        if place == len(text):
            break
        if not (between := _SEPARATOR.match(text, place)):
            return "not a key"
        place = between.end()
    if n_modes or n_modal:
        n_tonics += sum(names.values()) + len(codes)
        n_modes += sum(n for name, n in names.items() if name.mode)
        return "several keys" if n_tonics > 1 or n_modes > 1 else "modal" if n_modal else "not a key"
    found = codes.union(_settle(list(names)))
    if len(found) > 1:
        return "several keys"
    return found.pop() if found and None not in found else "not a key"


def _settle(names: list[_Spelt]) -> list[int | None]:
    """Keys of the names of one label; None for one that means different keys in different languages."""
    if any(name.german and name.mode for name in names):
        german_b = [name.tonic == "b" and (name.german or not name.mode) for name in names]
        names = [replace(name, pc=10) if b else name for name, b in zip(names, german_b)]
    found: list[int | None] = []
    for name in names:
        # "F#/Gb minor": the mode of the second spelling is that of the first.
        shared = {other.mode for other in names if other.pc == name.pc and other.tonic != name.tonic}
        modes = {name.mode} if name.mode else shared - {""} or {"" if name.german else "major"}
        found += [key_index(name.pc, mode) if mode else None for mode in modes]
    return found


def _of_code(match: re.Match[str]) -> int:
    minor = (match["camelot"] or "").casefold() == "a" or match["open"] == "m"
    major_tonic = 7 * (int(match["number"]) - (8 if match["camelot"] else 1))
    return key_index(major_tonic + 9, "minor") if minor else key_index(major_tonic, "major")


def _of_name(match: re.Match[str]) -> _Spelt:
    mode = "major" if match["major"] or match["dur"] else "minor" if match["minor"] or match["moll"] else ""
    written = match["german"] or match["natural"]
    tonic = written.casefold()
    german = bool(match["dur"] or match["moll"])
    if not mode and written.islower():
        german = bool(match["german"]) or tonic == "h"
        mode = "minor" if match["hyphens"] and tonic in _LETTERS else ""
    if match["german"]:
        return _Spelt(tonic, _GERMAN[tonic] % 12, mode, german)
    if match["sharp"] or match["flat"]:
        glyphs = ("#" if match["sharp"] else "b") * (2 if match["twice"] else 1)
    else:
        glyphs = match["glyphs"] or "b" * len(match["capitals"] or match["hyphens"] or "")
    glyphs = glyphs.replace("♯", "#").replace("♭", "b")
    pc = (_LETTERS | _SOLFEGE)[tonic] + sum(_GLYPHS[glyph] for glyph in glyphs)
    return _Spelt(tonic + glyphs, pc % 12, mode, german)


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


def open_key(key: int) -> str:
    """Open Key code, the other wheel of DJs: C major is 1d, A minor 1m, a fifth up adds one.

    >>> open_key(parse_key("C major")), open_key(parse_key("E minor"))
    ('1d', '2m')
    """
    number = int(camelot(key)[:-1])
    return f"{(number + 4) % 12 + 1}{'d' if key < 12 else 'm'}"


def short_name(key: int) -> str:
    """The key in two or three characters, as the tag TKEY of ID3 has it.

    >>> short_name(parse_key("F# minor")), short_name(parse_key("Bb major"))
    ('F#m', 'Bb')
    """
    return _TONICS[mode(key)][tonic(key)] + ("m" if is_minor(key) else "")


# How a key is written in a tag.
NOTATIONS = {"key": short_name, "camelot": camelot, "openkey": open_key}
