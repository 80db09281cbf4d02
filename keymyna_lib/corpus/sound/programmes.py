"""General MIDI programmes and drums: which are sound in TimGM6mb.sf2, and how loud they are there.

A programme is a number from 0. Loudness [dB] is the mean power of notes of 0.5 s, MIDI 48 to 84 in major thirds at
velocity 90; it balances the parts. Of the 128, those are left out that are silent or mistuned between MIDI 36 and 96 or
have mostly inharmonic partials.
"""

from __future__ import annotations

# For scores, by family, with loudness; without those that swell too slowly for a fast tune.
FAMILIES: dict[str, dict[int, int]] = {
    "keys": {0: -32, 2: -33, 4: -26, 5: -29, 6: -33, 7: -31},
    "organ": {16: -25, 19: -29, 20: -25},
    "mallet": {10: -26, 11: -20, 12: -28, 108: -21},
    "plucked": {15: -33, 24: -23, 25: -27, 26: -20, 46: -16, 105: -22, 107: -22},
    "bass": {32: -22, 33: -19, 35: -20},
    "strings": {40: -21, 41: -21, 42: -21, 44: -22, 45: -26, 50: -38, 110: -22},
    "voice": {53: -27, 85: -18, 91: -23},
    "brass": {56: -21, 57: -25, 58: -21, 59: -27, 60: -16, 62: -25},
    "reed": {64: -20, 66: -23, 68: -18, 69: -24, 70: -25, 71: -23, 111: -20},
    "pipe": {73: -18, 74: -23, 75: -25, 79: -15},
    "synth": {80: -29, 84: -27, 87: -18, 90: -26},
}

# For songs, where a style picks what it plays: those above and, where they are used in popular music, others that are
# sound in the register of their part.
SONG_FAMILIES: dict[str, dict[int, int]] = {
    "piano": {0: -32, 1: -33, 2: -33, 3: -34},
    "electric piano": {4: -26, 5: -29},
    "clavinet": {6: -33, 7: -31},
    "organ": {16: -25, 19: -29, 20: -25},
    "mallet": {10: -26, 11: -20, 12: -28, 108: -21},
    "acoustic guitar": {24: -23, 25: -27},
    "clean guitar": {26: -20, 27: -30},
    "muted guitar": {28: -23},
    "driven guitar": {29: -27, 30: -26},
    "banjo": {105: -22},
    "upright bass": {32: -22, 43: -22},
    "electric bass": {33: -19, 34: -23, 35: -20},
    "slap bass": {36: -19, 37: -26},
    "synth bass": {38: -21, 39: -14, 87: -18},
    "strings": {44: -22, 48: -31, 50: -38},
    "slow strings": {49: -30, 51: -24},
    "fiddle": {40: -21, 110: -22},
    "choir": {52: -23, 53: -27, 54: -24, 91: -23},
    "brass": {56: -21, 57: -25, 60: -16, 61: -28},
    "synth brass": {62: -25, 63: -20},
    "sax": {64: -20, 66: -23},
    "reed": {68: -18, 71: -23},
    "flute": {73: -18, 75: -25, 79: -15},
    "synth lead": {80: -29, 81: -28, 82: -20, 83: -20, 84: -27, 85: -18},
    "pluck": {46: -16, 90: -26, 96: -20, 99: -22, 100: -18},
    "pad": {88: -20, 89: -25, 92: -23, 93: -29, 95: -28, 103: -19},
}
PROGRAMME_LOUDNESS: dict[int, int] = {
    p: dB for families in (FAMILIES, SONG_FAMILIES) for family in families.values() for p, dB in family.items()
}
GUITARS = frozenset(range(26, 31))  # electric ones
SUSTAINED = frozenset((*range(16, 21), *range(48, 55), *range(88, 96)))  # organs, ensembles and pads

DRUM_KITS = (0, 8, 16, 24, 25, 40)  # presets of bank 128
KICKS, SNARES, HATS = (35, 36), (37, 38, 40), (42, 44, 46, 51)  # General MIDI percussion keys
