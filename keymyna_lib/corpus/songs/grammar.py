"""Progressions of popular music, drawn from probabilistic grammars: one for each kind of harmony.

A grammar rewrites the symbol S until only Roman numerals are left. Its rules are written one a line, the alternatives
separated by "|", each behind its weight; a numeral may say how many bars it lasts ("I7*4"), otherwise the chords of a
cycle share its bars as metre does, by halving. What the rules say is common knowledge of harmony textbooks and of the
corpus studies named in the package's docstring; the weights are our choice.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from keymyna_lib.corpus.songs.harmony import Chord, chord

# (onset, duration, chord), times in bars from the start of the cycle.
Progression = tuple[tuple[float, float, Chord], ...]
_LONGEST = 8  # chords of a cycle whose rules don't say how long they last


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of harmony.

    mode : of the key.
    rules : the grammar, see above.
    scales : of melodies and riffs, with weights.
    bars : lengths of a cycle, with weights; none where the rules say how long chords last.
    colours : what may be added to plain triads, a name of COLOURS, with weights.
    close : chords that lead back to the tonic, with weights.
    bridges : kinds of a contrasting section.
    """

    mode: str
    rules: str
    scales: Mapping[str, float]
    bars: Mapping[int, float] = field(default_factory=dict)
    colours: Mapping[str, float] = field(default_factory=lambda: {"plain": 1})
    close: Mapping[str, float] = field(default_factory=lambda: {"V": 1})
    bridges: tuple[str, ...] = ()


# What plain triads become by numeral, and how often: the colours of a style.
COLOURS: dict[str, dict[str, Mapping[str, float]]] = {
    "plain": {"V": {"V": 8, "V7": 2, "V7sus4": 0.5}},
    "open": {
        "I": {"I": 3, "Iadd9": 3, "Isus2": 1},
        "IV": {"IV": 2, "IVadd9": 2, "IVmaj7": 1, "IVsus2": 1},
        "V": {"V": 3, "Vsus4": 2, "V7sus4": 1},
        "vi": {"vi": 2, "vi7": 2, "viadd9": 1},
        "ii": {"ii": 1, "ii7": 2},
        "i": {"i": 3, "iadd9": 2, "i7": 1},
        "bVI": {"bVI": 3, "bVImaj7": 1, "bVIadd9": 1},
        "bIII": {"bIII": 3, "bIIIadd9": 1},
        "bVII": {"bVII": 3, "bVIIsus2": 1, "bVII6": 0.5},
        "iv": {"iv": 2, "ivadd9": 1, "iv7": 1},
    },
    "sevenths": {
        "I": {"Imaj7": 4, "I": 2, "I6": 1},
        "ii": {"ii7": 1},
        "iii": {"iii7": 1},
        "IV": {"IVmaj7": 3, "IV": 1},
        "V": {"V7": 2, "V11": 1, "V7sus4": 1},
        "vi": {"vi7": 1},
        "i": {"i7": 3, "i": 2, "i9": 1},
        "iv": {"iv7": 3, "iv": 1},
        "v": {"v7": 1},
        "bIII": {"bIIImaj7": 2, "bIII": 1},
        "bVI": {"bVImaj7": 2, "bVI": 1},
        "bVII": {"bVII7": 1, "bVII": 2},
    },
    "jazz": {
        "I": {"Imaj7": 4, "I69": 2, "Imaj9": 2, "I6": 1},
        "ii": {"ii7": 3, "ii9": 2},
        "iii": {"iii7": 1},
        "IV": {"IVmaj7": 3, "IVmaj9": 1},
        "V": {"V7": 3, "V9": 2, "V13": 2, "V7b9": 1},
        "vi": {"vi7": 3, "vi9": 1},
        "i": {"i6": 2, "i7": 2, "i69": 1, "i9": 2},
        "iv": {"iv7": 2, "iv6": 1},
        "v": {"v7": 1},
        "bIII": {"bIIImaj7": 1},
        "bVI": {"bVImaj7": 1, "bVI7": 1},
        "bVII": {"bVII9": 1, "bVII7": 1},
    },
    "dance": {
        "i": {"i": 3, "i7": 3, "i9": 2},
        "iv": {"iv7": 2, "iv": 2, "iv9": 1},
        "v": {"v7": 2, "v": 2},
        "bVI": {"bVImaj7": 2, "bVI": 3},
        "bIII": {"bIIImaj7": 1, "bIII": 3},
        "bVII": {"bVII": 3, "bVIIsus4": 1},
        "I": {"I": 3, "Imaj7": 2, "Iadd9": 1},
        "IV": {"IV": 2, "IVmaj7": 2},
        "ii": {"ii7": 1, "ii": 1},
        "vi": {"vi": 1, "vi7": 1},
    },
}

_FUNCTIONAL_MAJOR = """
S > 4: A | 3: A A | 2: A C
A > 4: T P D | 2: T D | 2: T P T | 1: T D T
C > 3: P D T | 2: P T | 1: D T
T > 9: I | 2: I vi | 1: I iii | 1: I I:3 | 1: I V:3 vi | 1: I IV:1 | 1: I vi IV | 0.6: I iii vi
P > 5: IV | 3: ii | 1: IV ii | 1: ii IV | 1: vi ii | 0.7: V7/ii ii | 0.7: I7 IV | 0.6: V7/V | 0.5: IV:3
D > 7: V | 1: Vsus4 V | 1: V7 | 0.8: ii V | 0.7: V7/V V | 0.4: iii | 0.5: I:5 V
"""
_MIXTURE = """
S > 3: A | 3: A A | 2: A C
A > 3: T X | 3: T P D | 2: T X P
C > 2: X T | 2: P T | 1: X D
T > 6: I | 1: I vi | 1: I I:3 | 0.7: I bVII
P > 3: IV | 2: IV iv | 2: iv | 1: ii | 1: ii iv | 0.7: V7/V IV
X > 3: bVI bVII | 2: bVII IV | 2: bIII IV | 1: bVI | 1: bVI IV | 1: bVII | 1: bIII bVI | 0.5: iv bVII
D > 4: V | 2: bVII | 1: iv | 0.4: bII
"""
_LOOP_MAJOR = """
S > 5: R | 2: R R
R > 9: I V vi IV | 5: I vi IV V | 4: IV I V vi | 3: IV V vi I | 3: I IV vi V | 3: I IV V IV | 3: I IV I V
R > 2: I vi ii V
R > 2: I iii IV V | 2: I V IV V | 2: IV V I vi | 2: IV vi I V | 2: V vi IV I | 2: I V ii IV
R > 1: ii IV I V | 1: I ii IV V
R > 2: IV I V V | 2: I IV | 2: I V | 2: I IV V | 2: I iii vi IV | 1: I vi iii IV
R > 1: I V:3 vi IV
"""
_MIXOLYDIAN = """
S > 4: R | 2: R R | 1: R W
R > 6: I bVII IV I | 4: I bVII IV | 3: I bVII | 3: I IV bVII IV | 2: bVII IV I I | 2: I bVII:1 IV:1 I
R > 2: I v IV I
R > 2: I I bVII IV | 1: I v bVII IV | 1: I bVII I IV | 2: I bIII IV I | 1: I bVII bIII IV
W > 2: IV I bVII I | 1: V IV I I | 1: IV IV I I
"""
_FOLK_MAJOR = """
S > 4: O C | 2: O O C C | 2: O C O C
O > 4: I IV I V | 3: I I IV I | 3: I I V I | 2: I IV V I | 2: I V I I | 1: I I7 IV I | 1: IV IV I I
O > 1: I vi IV V
C > 5: I IV V I | 4: IV I V I | 3: I V I I | 2: I vi V I | 2: I I V I | 1: IV V I I | 1: V7/V V7/V V V
C > 1: ii V I I
"""
_DESCENT_MAJOR = """
S > 3: I V:3 vi I:5 IV I:3 ii V | 2: I V:3 vi iii IV I IV V | 2: I Imaj7:7 T | 1: I Imaj7:7 I7:7 IV iv I:5 V V
S > 1: I I+ vi I7:7 IV iv I V | 1: I iii:3 IV:3 I:5 IV I:3 ii V | 2: I V:3 IV:3 I | 1: I V:3 bVII IV:3 bVI V
T > 3: vi IV | 2: IV V
"""
_GOSPEL = """
S > 3: A B | 2: A A | 2: A | 1: A B A B
A > 4: I I7:3 IV #ivo7 | 3: I V/IV IV iv | 3: I IV:1 I V11 | 2: I III7 vi I7 | 2: I vi7 ii7 V11
A > 2: IV I:3 ii7 I:5
B > 4: I:5 V7/ii ii7 V11 | 3: I:5 vi7 ii7 V11 | 2: IV iv I V11 | 2: IV7 #ivo7 I:5 V7/ii | 1: ii7 #iio7 I:3 V11
B > 2: V7/ii V7/V V11 I
"""
_BLUES_MAJOR = """
S > 8: F M L | 1: E | 1: SIX
F > 4: I7*4 | 5: I7 IV7 I7*2 | 2: I7*3 I9 | 1: I7 IV7 I7*.5 V7*.5 I7
M > 6: IV7*2 I7*2 | 2: IV7*2 I7 V7/ii | 1: IV7 #ivo7 I7 V7/ii | 1: IV9*2 I7*2 | 1: IV7 iv7 I7*2
L > 5: V7 IV7 END | 2: V7*2 END | 2: ii7 V7 END | 1: V7 V7 I7*2 | 1: bVI7 V7 END
END > 4: I7 V7 | 3: I7*2 | 2: I7*.5 IV7*.5 I7*.5 V7*.5 | 1: I7*.5 I7*.5 ii7*.5 V7*.5
END > 1: I7*.5 V7/ii*.5 ii7*.5 V7*.5
E > 2: I7 V7 IV7*2 I7 V7 I7 V7 | 1: I7*2 IV7*2 I7 V7 I7 V7 | 1: I7 I7/IV IV7 #ivo7 I7 V7/ii V7/V V7
SIX > 1: I7*4 I7*4 IV7*2 I7*2 V7 IV7 I7*2
"""
_BLUES_MINOR = """
S > 7: F M L | 1: E
F > 4: i7*4 | 3: i7 iv7 i7*2 | 1: i6*4
M > 5: iv7*2 i7*2 | 1: iv7*2 i7 V7
L > 3: bVI7 V7 END | 2: V7 iv7 END | 1: v7 iv7 END | 1: iiø7 V7 END | 1: bVImaj7 V7#9 END | 1: iv7 V7 END
END > 3: i7*2 | 3: i7 V7 | 1: i7*.5 iv7*.5 i7*.5 V7*.5
E > 1: i7 i7 iv7 iv7 i7 V7 i7 V7
"""
_JAZZ_MAJOR = """
S > 4: A A B A | 4: A A | 3: A | 2: A B | 2: V1 V1
A > 3: H1 H2 | 2: H2 H2 | 2: H3 H2
H1 > 3: Imaj7 V7/ii ii7 V7 | 3: Imaj7*.5 vi7*.5 ii7*.5 V7*.5 iii7*.5 V7/ii*.5 ii7*.5 V7*.5 | 2: I6*2 ii7 V7
H1 > 2: Imaj7 #io7 ii7 #iio7 | 1: Imaj7 I7 IVmaj7 iv6 | 1: Imaj7*2 iiø7/ii V7/ii | 1: Imaj7*2 V7/V*2
H1 > 1: Imaj7 ii7/bIII*.5 V7/bIII*.5 ii7 V7 | 1: Imaj7*2 iv7 bVII7
H2 > 5: ii7 V7 Imaj7*2 | 3: ii7 V7 Imaj7*.5 V7/ii*.5 ii7*.5 V7*.5 | 2: ii7*.5 V7*.5 I6 ii7*.5 V7*.5 I6
H2 > 1: ii7 bII7 Imaj7*2
H2 > 1: V7/V ii7*.5 V7*.5 I6*2 | 1: iv7 bVII7 Imaj7*2 | 1: IVmaj7 iv6 Imaj7*.5 V7/ii*.5 ii7*.5 V7*.5
H3 > 3: iii7 V7/ii ii7 V7 | 1: IVmaj7 #ivø7*.5 VII7*.5 iii7 V7/ii | 1: vi7 V7/V ii7 V7
B > 3: V7/vi*2 V7/ii*2 V7/V*2 V7*2 | 2: ii7/IV V7/IV IVmaj7*2 ii7/V V7/V ii7 V7
B > 1: IVmaj7 iv6 Imaj7 V7/ii V7/V*2 ii7 V7
V1 > 2: Imaj7 vi7 ii7 V7 | 1: iii7*.5 vi7*.5 ii7*.5 V7*.5 Imaj7*2 | 1: Imaj7 bIIImaj7 bVImaj7 bII7
V1 > 1: Imaj7 IV7 iii7*.5 V7/ii*.5 ii7*.5 V7*.5
"""
_JAZZ_MINOR = """
S > 4: A A B A | 4: A A | 3: A | 2: A B
A > 3: H1 H2 | 2: H2 H2 | 1: H1 H1 H2
H1 > 3: i6*2 iiø7 V7b9 | 2: i7 iv7 i7 V7#9 | 2: i7 bVI7 iiø7 V7b9 | 1: i imaj7 i7 i6 | 2: i7 iv7 bVII7 bIIImaj7
H1 > 1: iv7 bVII7 bIIImaj7 bVImaj7 | 1: i7*.5 bVII7*.5 bVI7*.5 V7*.5 i7 i7
H2 > 5: iiø7 V7b9 i6*2 | 2: iiø7 V7#9 i7 V7 | 1: bVI7 V7 i6*2 | 1: iv7*.5 V7*.5 i6 iiø7*.5 V7*.5 i6
H2 > 1: iiø7 bII7 i7*2
B > 2: ii7/bIII V7/bIII bIIImaj7*2 iiø7 V7b9 i6*2 | 2: iv7 bVII7 bIIImaj7*2 iiø7 V7b9 i6 V7
B > 1: V7/iv*2 iv7*2 V7/V*2 V7*2
"""
_MODAL_JAZZ = """
S > 3: i7*8 | 2: i7*4 iv7*4 | 1: i9*4 bIImaj7*4 | 1: i7*2 IV9*2 i7*2 IV9*2 | 1: i7*4 i7*4 bII7*4 i7*4
"""
_FUNCTIONAL_MINOR = """
S > 4: A | 3: A A | 2: A C
A > 4: T P D | 2: T D | 2: T P T | 1: T D T
C > 3: P D T | 2: P T | 1: D T
T > 8: i | 2: i bVI | 1: i i:3 | 1: i v:3 bVI | 1: i bVII bIII | 1: i bIII
P > 5: iv | 2: bVI | 1: iiø7 | 1: iv bVI | 1: bVI iv | 0.6: V7/iv iv | 0.5: iv:3 | 0.4: bII:3
D > 6: V | 3: V7 | 2: v | 2: bVII | 1: iv V | 1: bVI V | 0.6: i:5 V | 0.5: Vsus4 V
"""
_AEOLIAN = """
S > 5: R | 2: R R2
R > 5: i bVI bVII | 5: i bVII bVI bVII | 4: i bVI bIII bVII | 3: i bVI iv bVII | 2: i bIII bVII iv
R > 2: i v bVI iv
R > 2: i bVII iv bVI | 2: i iv bVI bVII | 2: i bIII iv bVI | 2: i bVII | 1: i v iv i | 2: i bVI
R > 1: i bIII bVI bVII | 1: i iv v i
R2 > 3: bVI bVII i | 2: iv bVI bVII | 1: bIII bVII i | 1: bVI bIII bVII i | 1: iv i bVII i
"""
_LOOP_MINOR = """
S > 6: R | 2: R R
R > 8: i bVI bIII bVII | 4: bVI bVII i | 4: bVI bIII bVII i | 3: bVI bVII i i | 3: i bIII bVII bVI
R > 3: i bVII bVI bVII | 3: i bVI
R > 3: bVI bVII i bIII | 2: iv bVI i bVII | 3: i bIII bVI bVII | 2: i iv bVI bVII | 2: i bVI bVII i
R > 2: bVI i bVII bVII | 2: i v
R > 2: bIII bVII i bVI | 1: bVII i bVI bIII | 2: i bVI iv v | 2: i iv | 2: i bIII iv bVI | 2: iv i
R > 1: iv v i | 1: iv i bVI bVII
R > 1: bVI v i | 1: bVI v i bIII | 2: i i bVI bVII | 1: i v bVI bVII | 1: bVI iv i bVII
"""
_DORIAN = """
S > 4: R | 1: R R
R > 6: i IV | 2: i i IV IV | 3: i bVII IV | 2: i bVII IV i | 2: i bIII IV | 1: i bIII bVII IV
R > 1: i IV bVII i | 1: i ii | 1: i IV i bVII
R > 1: i v IV i | 1: i bVI IV bVII
"""
_PHRYGIAN = """
S > 3: R | 1: R R
R > 4: i bII | 2: i bII bIII bII | 1: i bII bVII i | 1: i bVI bII i | 2: i i bII i | 1: bII i
"""
_ANDALUSIAN = """
S > 5: i bVII bVI V | 2: i bVII bVI V7 | 1: i iv bVI V | 1: i V:3 bVII:1 IV:3 iv:3 V | 1: i bVII bVI bVII
S > 1: i bVII:1 bVI V
S > 1: i imaj7 i7 i6 | 1: i v:3 iv:3 V
"""
_LATIN_MINOR = """
S > 4: R | 2: R R
R > 4: i iv V V | 3: i iv V i | 3: i V | 3: i iv V iv | 2: i bVII bVI V | 2: i V V i | 1: iv i V i
R > 1: i V7/iv iv V | 1: i bVI V
"""
_LATIN_MAJOR = """
S > 4: R | 2: R R
R > 4: I IV V IV | 3: I IV V V | 2: I V V I | 3: I V | 2: I vi ii V | 2: I ii V I | 1: I V7/ii ii V
R > 1: I IV ii V | 1: ii V I vi
"""
_BOSSA = """
S > 3: A B | 2: A A | 2: A
A > 3: Imaj7*2 V7/V*2 | 2: Imaj7 bIIIo7 ii7 V7 | 2: Imaj7*2 ii7 bII7 | 1: I69 vi7 ii9 V13
B > 3: ii7 V7 Imaj7*2 | 2: ii7 bII7 Imaj7*2 | 1: IVmaj7 iv6 iii7 V7/ii*.5 V7*.5 | 1: ii7*2 iv6*2
"""
_POWER_MINOR = """
S > 4: R | 3: R R2 | 1: R R
R > 4: I5 bVI5 bVII5 | 3: I5 bVII5 bVI5 bVII5 | 3: I5 bIII5 IV5 | 2: I5 bVI5 bIII5 bVII5
R > 2: I5 bIII5 bVII5 IV5 | 3: I5 I5 bVI5 bVII5
R > 2: I5 IV5 bIII5 I5 | 2: I5 bIII5 bVI5 V5 | 2: I5 I5 bIII5 bVII5 | 1: I5 bVII5 | 1: I5 IV5 bVI5 V5
R > 1: I5 bVI5 IV5 V5
R2 > 2: bVI5 bVII5 I5 I5 | 2: bIII5 bVII5 I5 I5 | 1: IV5 IV5 I5 I5 | 1: bVI5 bVI5 bVII5 bVII5
"""
_POWER_CHROMATIC = """
S > 4: R | 2: R R
R > 3: I5 bII5 I5 bIII5 | 2: I5 I5 bII5 I5 | 2: I5 bV5 IV5 bIII5 | 2: I5 bVI5 bV5 V5
R > 1: I5 bIII5 bII5 I5 | 1: I5 I5 bV5 IV5
R > 2: I5 bVII5 bVI5 bII5 | 1: I5 bIII5 bV5 IV5 | 1: I5 bII5 bIII5 bII5 | 1: I5 V5 bVI5 bII5
"""
_POWER_MAJOR = """
S > 4: R | 2: R R
R > 4: I5 IV5 V5 | 3: I5 V5 VI5 IV5 | 2: I5 IV5 V5 IV5 | 2: I5 VI5 IV5 V5 | 2: I5 bVII5 IV5 I5
R > 1: IV5 I5 V5 VI5 | 1: I5 IV5 I5 V5
R > 1: I5 III5 IV5 V5 | 1: I5 V5 IV5 IV5 | 1: I5 II5 IV5 V5
"""
_FUNK = """
S > 4: R | 1: R R
R > 5: I9 | 3: I7 IV7 | 3: I9 IV9 | 2: I7 bVII7 | 2: I7 I7 IV7 I7 | 2: I13 bVII13 | 1: I7 ii7
R > 1: I9 I9 IV9 bVII9 | 1: I7#9 | 1: I7 bIII7 IV7 I7
"""
_FUNK_MINOR = """
S > 4: R | 1: R R
R > 5: i7 | 4: i7 IV9 | 3: i9 | 2: i7 bVII | 2: i7 iv7 | 2: i7 bIII IV7 | 1: i9 IV13 | 1: i7 v7
R > 1: i7 bVImaj7 V7#9 | 1: i7 IV9 bVII7 i7
"""
_SOUL = """
S > 3: R | 3: R R2 | 1: R R
R > 3: I vi ii V | 3: I IV | 2: I ii7 iii7 IV | 2: Imaj7 IVmaj7 | 2: I iii IV V11 | 2: I I7 IV iv
R > 2: vi7 ii7 V11 Imaj7 | 2: Imaj7 ii7
R > 2: IVmaj7 iii7 ii7 Imaj7 | 1: Imaj7 bVIImaj7 | 1: I V/vi vi IV | 2: ii7 V11 Imaj7 Imaj7
R2 > 2: IV V iii vi | 1: IVmaj7 V11 iii7 vi7 | 2: ii7 iii7 IV V11 | 1: IV iv I:3 V7/ii | 1: IV I IV V
"""
_SOUL_MINOR = """
S > 3: R | 2: R R
R > 3: i7 iv7 | 3: i9 bVImaj7 | 2: i7 iv7 bVII bIIImaj7 | 2: i7 bVImaj7 iv7 V7#9 | 2: bVImaj7 v7 i7 i7
R > 2: i7 v7 | 2: iv9 i9
R > 2: i7 iv7 V7b9 i7 | 1: bVImaj7 bVII i9 | 1: iiø7 V7b9 i9 i9
"""
_VAMP_MAJOR = """
S > 3: I | 3: I IV | 3: I bVII | 2: I IV:1 | 2: I ii:1 | 2: I V | 1: I iii | 2: I vi | 1: Imaj7 IVmaj7
S > 1: I IVmaj7 | 1: I ii
"""
_VAMP_MINOR = """
S > 4: i | 3: i bVII | 3: i bVI | 3: i iv | 2: i v | 2: i IV | 1: i bIII | 1: i bII | 1: i bVII:1
S > 1: i bVI:1 | 1: i7 iv7
"""
_DRONE_MINOR = """
S > 6: i | 2: i bVII:1 | 2: i bVI:1 | 2: i7 bIII7:1 | 1: i ii:1 i bIII | 1: i bIIImaj7:1 iv7:1 i
S > 1: i7 bvii7 | 2: i7 iv7:1 | 1: i bII:1
"""
_DRONE_MAJOR = """
S > 4: I | 2: I IV:1 | 2: I bVII:1 | 1: Imaj7 IImaj7 | 1: I ii:1 | 1: Imaj9 IVmaj9:1
"""
_REGGAE = """
S > 4: R | 2: R R
R > 4: I IV | 3: I V | 3: I IV V IV | 2: I ii | 2: I vi | 2: I V vi IV | 2: I IV I V | 1: I vi ii V
R > 2: I bVII | 1: I iii IV V | 1: I ii iii ii
"""
_REGGAE_MINOR = """
S > 4: R | 2: R R
R > 4: i iv | 3: i bVII | 2: i bVII bVI bVII | 2: i v | 2: i bVI | 1: i iv v i | 2: i | 1: i bVI bVII i
R > 1: i bIII bVII i | 1: iv i | 1: i iv bVII i
"""

_MAJOR_SCALES = {"major": 5, "major pentatonic": 4, "major blues": 0.7}
_MINOR_SCALES = {"minor": 5, "minor pentatonic": 4, "minor blues": 0.7}
_BLUES_SCALES = {"minor blues": 3, "mixed blues": 4, "major blues": 2, "minor pentatonic": 1}
_SQUARE = {4: 6, 8: 3, 2: 1}
_POP = {"plain": 5, "open": 4, "sevenths": 1.5}

KINDS: dict[str, Kind] = {
    "functional": Kind(
        mode="major",
        rules=_FUNCTIONAL_MAJOR,
        scales=_MAJOR_SCALES,
        bars={4: 4, 8: 5},
        colours=_POP,
        close={"V": 4, "V7": 1, "IV": 1},
        bridges=("functional", "mixture", "descent"),
    ),
    "mixture": Kind(
        mode="major",
        rules=_MIXTURE,
        scales=_MAJOR_SCALES | {"mixolydian": 1},
        bars={4: 4, 8: 4},
        colours={"plain": 3, "open": 2},
        close={"V": 2, "bVII": 2, "iv": 1},
        bridges=("mixture", "functional"),
    ),
    "four-chord loop": Kind(
        mode="major",
        rules=_LOOP_MAJOR,
        scales=_MAJOR_SCALES,
        bars=_SQUARE,
        colours=_POP,
        close={"V": 3, "IV": 2, "Vsus4": 1},
        bridges=("four-chord loop", "functional", "mixture"),
    ),
    "mixolydian": Kind(
        mode="major",
        rules=_MIXOLYDIAN,
        scales={"mixolydian": 4, "major pentatonic": 3, "minor pentatonic": 2, "mixed blues": 2},
        bars=_SQUARE,
        close={"V": 1, "bVII": 2, "IV": 1},
        bridges=("mixolydian", "mixture"),
    ),
    "folk": Kind(
        mode="major",
        rules=_FOLK_MAJOR,
        scales={"major": 3, "major pentatonic": 4},
        bars={8: 5, 4: 2, 16: 2},
        close={"V": 3, "V7": 2},
        bridges=("folk", "functional"),
    ),
    "descent": Kind(
        mode="major",
        rules=_DESCENT_MAJOR,
        scales={"major": 1},
        bars={4: 2, 8: 3},
        close={"V": 2, "V7sus4": 1},
        bridges=("functional",),
    ),
    "gospel": Kind(
        mode="major",
        rules=_GOSPEL,
        scales={"major": 2, "major pentatonic": 3, "major blues": 2, "mixed blues": 1},
        bars={4: 2, 8: 3},
        colours={"plain": 1, "sevenths": 3},
        close={"V11": 1, "V7": 1},
        bridges=("gospel", "soul"),
    ),
    "blues": Kind(
        mode="major",
        rules=_BLUES_MAJOR,
        scales=_BLUES_SCALES,
        close={"V7": 1},
        bridges=("blues", "blues", "mixolydian"),
    ),
    "jazz": Kind(
        mode="major",
        rules=_JAZZ_MAJOR,
        scales={"major": 4, "mixed blues": 1, "major blues": 1},
        colours={"jazz": 1},
        close={"V7": 1},
        bridges=("jazz",),
    ),
    "bossa": Kind(
        mode="major", rules=_BOSSA, scales={"major": 1}, colours={"jazz": 1}, close={"V7": 1}, bridges=("jazz",)
    ),
    "latin": Kind(mode="major", rules=_LATIN_MAJOR, scales={"major": 1}, bars=_SQUARE, bridges=("latin",)),
    "power": Kind(
        mode="major",
        rules=_POWER_MAJOR,
        scales={"major": 3, "major pentatonic": 2},
        bars=_SQUARE,
        close={"V5": 2, "IV5": 1},
        bridges=("power", "four-chord loop"),
    ),
    "funk": Kind(
        mode="major",
        rules=_FUNK,
        scales={"mixed blues": 3, "mixolydian": 2, "minor pentatonic": 2, "major blues": 1},
        bars={2: 3, 4: 3, 1: 1},
        close={"V7#9": 1, "V11": 1, "IV9": 1},
        bridges=("funk", "mixolydian"),
    ),
    "soul": Kind(
        mode="major",
        rules=_SOUL,
        scales={"major": 3, "major pentatonic": 3, "major blues": 1},
        bars={4: 4, 2: 1, 8: 2},
        colours={"plain": 1, "sevenths": 3},
        close={"V11": 2, "V7": 1},
        bridges=("soul", "gospel", "mixture"),
    ),
    "vamp": Kind(
        mode="major",
        rules=_VAMP_MAJOR,
        scales={"major": 2, "major pentatonic": 2, "mixolydian": 1},
        bars={2: 3, 4: 4, 1: 1},
        colours={"plain": 1, "open": 1, "dance": 1},
        close={"V": 1, "IV": 1},
        bridges=("four-chord loop", "mixture", "vamp"),
    ),
    "drone": Kind(
        mode="major",
        rules=_DRONE_MAJOR,
        scales={"major": 2, "lydian": 0.5, "mixolydian": 1, "major pentatonic": 1},
        bars={1: 1, 2: 3, 4: 3},
        colours={"dance": 1},
        close={"IV:1": 1},
        bridges=("drone", "four-chord loop"),
    ),
    "reggae": Kind(
        mode="major",
        rules=_REGGAE,
        scales={"major": 2, "major pentatonic": 3},
        bars={2: 3, 4: 4},
        colours={"plain": 3, "sevenths": 1},
        close={"V": 2, "IV": 1},
        bridges=("reggae", "functional"),
    ),
    "minor functional": Kind(
        mode="minor",
        rules=_FUNCTIONAL_MINOR,
        scales={"minor": 4, "harmonic minor": 2, "minor pentatonic": 2},
        bars={4: 4, 8: 5},
        colours={"plain": 4, "open": 2, "sevenths": 1},
        close={"V": 3, "V7": 1, "bVII": 1},
        bridges=("minor functional", "aeolian"),
    ),
    "aeolian": Kind(
        mode="minor",
        rules=_AEOLIAN,
        scales=_MINOR_SCALES,
        bars=_SQUARE,
        colours={"plain": 5, "open": 3},
        close={"bVII": 3, "v": 1, "V": 1},
        bridges=("aeolian", "minor functional"),
    ),
    "minor loop": Kind(
        mode="minor",
        rules=_LOOP_MINOR,
        scales=_MINOR_SCALES,
        bars=_SQUARE,
        colours={"plain": 4, "open": 2, "dance": 3},
        close={"bVII": 3, "v": 1, "V": 0.5},
        bridges=("minor loop", "aeolian", "minor functional"),
    ),
    "dorian": Kind(
        mode="minor",
        rules=_DORIAN,
        scales={"dorian": 4, "minor pentatonic": 3, "minor blues": 1},
        bars={2: 2, 4: 5, 8: 1},
        colours={"plain": 3, "dance": 2},
        close={"bVII": 1, "v": 1, "IV": 1},
        bridges=("dorian", "aeolian"),
    ),
    "phrygian": Kind(
        mode="minor",
        rules=_PHRYGIAN,
        scales={"phrygian": 1},
        bars={2: 2, 4: 4},
        close={"bII": 1, "bvii": 0.3},
        bridges=("phrygian", "aeolian"),
    ),
    "andalusian": Kind(
        mode="minor",
        rules=_ANDALUSIAN,
        scales={"minor": 2, "harmonic minor": 2, "minor pentatonic": 1},
        bars={4: 3, 2: 1, 8: 1},
        close={"V": 1},
        bridges=("minor functional", "aeolian"),
    ),
    "minor blues": Kind(
        mode="minor",
        rules=_BLUES_MINOR,
        scales={"minor blues": 4, "minor pentatonic": 3, "dorian": 1},
        close={"V7": 2, "v7": 1},
        bridges=("minor blues",),
    ),
    "minor jazz": Kind(
        mode="minor",
        rules=_JAZZ_MINOR,
        scales={"minor": 2, "harmonic minor": 2, "melodic minor": 1, "minor blues": 1},
        colours={"jazz": 1},
        close={"V7b9": 1},
        bridges=("minor jazz",),
    ),
    "modal jazz": Kind(
        mode="minor",
        rules=_MODAL_JAZZ,
        scales={"dorian": 4, "minor pentatonic": 1},
        close={"V7#9": 1},
        bridges=("minor jazz", "modal jazz"),
    ),
    "minor latin": Kind(
        mode="minor",
        rules=_LATIN_MINOR,
        scales={"harmonic minor": 2, "minor": 2},
        bars=_SQUARE,
        bridges=("minor latin", "andalusian"),
    ),
    "minor power": Kind(
        mode="minor",
        rules=_POWER_MINOR,
        scales={"minor": 3, "minor pentatonic": 3, "minor blues": 1},
        bars=_SQUARE,
        close={"V5": 1, "bVII5": 2},
        bridges=("minor power", "aeolian"),
    ),
    "chromatic power": Kind(
        mode="minor",
        rules=_POWER_CHROMATIC,
        scales={"phrygian": 3, "minor blues": 2, "minor": 1, "harmonic minor": 1},
        bars={2: 3, 4: 4},
        close={"bII5": 1, "V5": 1},
        bridges=("minor power", "chromatic power"),
    ),
    "minor funk": Kind(
        mode="minor",
        rules=_FUNK_MINOR,
        scales={"dorian": 2, "minor pentatonic": 3, "minor blues": 2},
        bars={2: 3, 4: 3, 1: 1},
        close={"V7#9": 2, "v7": 1},
        bridges=("minor funk", "minor soul"),
    ),
    "minor soul": Kind(
        mode="minor",
        rules=_SOUL_MINOR,
        scales={"minor": 2, "minor pentatonic": 3, "dorian": 1, "minor blues": 1},
        bars={4: 4, 2: 2},
        colours={"plain": 1, "sevenths": 3},
        close={"V7#9": 1, "v7": 1},
        bridges=("minor soul", "minor functional"),
    ),
    "minor vamp": Kind(
        mode="minor",
        rules=_VAMP_MINOR,
        scales=_MINOR_SCALES,
        bars={2: 3, 4: 4, 1: 1},
        colours={"plain": 2, "dance": 2, "open": 1},
        close={"bVII": 1, "v": 1, "V": 0.5},
        bridges=("aeolian", "minor loop", "minor vamp"),
    ),
    "minor drone": Kind(
        mode="minor",
        rules=_DRONE_MINOR,
        scales={"minor": 4, "minor pentatonic": 3, "dorian": 1, "phrygian": 1},
        bars={1: 2, 2: 3, 4: 3},
        colours={"dance": 3, "plain": 2},
        close={"bVII:1": 1, "v": 1},
        bridges=("minor drone", "minor loop"),
    ),
    "minor reggae": Kind(
        mode="minor",
        rules=_REGGAE_MINOR,
        scales={"minor": 3, "minor pentatonic": 3, "dorian": 0.5},
        bars={2: 3, 4: 4},
        colours={"plain": 3, "dance": 1},
        close={"bVII": 1, "v": 1, "iv": 1},
        bridges=("minor reggae", "aeolian"),
    ),
}


def pick(weights: Mapping, rng: np.random.Generator):
    """One key of a mapping, drawn by the weights that are its values."""
    place = rng.random() * sum(weights.values())
    for name, weight in weights.items():
        place -= weight
        if place < 0:
            return name
    return name


def draw_progression(kind: Kind, colour: str, rng: np.random.Generator) -> Progression:
    """A cycle of chords.

    Parameters
    ----------
    kind : whose grammar it comes from.
    colour : of COLOURS: what is added to plain triads, the same way wherever a numeral comes back.

    Returns
    -------
    (onset, duration, chord) of each, without gaps, in bars.
    """
    words = _expand(kind, rng)
    names = [word.partition("*")[0] for word in words]
    coloured = {name: pick(COLOURS[colour].get(name, {name: 1}), rng) for name in dict.fromkeys(names)}
    if kind.bars:
        fitting = {bars: weight for bars, weight in kind.bars.items() if len(words) <= 2 * bars}
        durations = divide(len(words), pick(fitting or {max(kind.bars): 1}, rng))
    else:
        durations = [float(word.partition("*")[2] or 1) for word in words]
    onsets = np.cumsum([0.0, *durations]).tolist()
    return tuple((on, duration, chord(coloured[name])) for on, duration, name in zip(onsets, durations, names))


def divide(n: int, bars: float) -> list[float]:
    """Durations of n chords in some bars: the longest span, the last of equals, is halved until there are n.

    >>> divide(3, 4), divide(5, 4)
    ([2.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.5, 0.5])
    """
    spans = [float(bars)]
    while len(spans) < n:
        at = max(range(len(spans)), key=lambda i: (spans[i], i))
        spans[at : at + 1] = [spans[at] / 2] * 2
    return spans


def _expand(kind: Kind, rng: np.random.Generator) -> list[str]:
    """Words of a drawn cycle; one that is too long for its bars is drawn again."""
    rules = _parsed(kind.rules)
    longest = min(_LONGEST, 2 * max(kind.bars)) if kind.bars else 64
    while True:
        words, waiting = [], ["S"]
        while waiting:
            word = waiting.pop()
            if word in rules:
                waiting += reversed(pick(rules[word], rng))
            else:
                words.append(word)
        if len(words) <= longest:
            return words


@functools.cache
def _parsed(rules: str) -> dict[str, dict[tuple[str, ...], float]]:
    parsed: dict[str, dict[tuple[str, ...], float]] = {}
    for line in rules.strip().splitlines():
        symbol, _, alternatives = line.partition(" > ")
        for alternative in alternatives.split(" | "):
            weight, _, words = alternative.partition(": ")
            parsed.setdefault(symbol, {})[tuple(words.split())] = float(weight)
    return parsed
