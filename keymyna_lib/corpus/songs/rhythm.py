"""Rhythm: metres, drawn rhythms, drum patterns, swing.

A metre has beats, and steps to a beat: four (sixteenths) where the beat is halved, three where it is divided in three
(shuffles written as 12/8, and 6/8 in two beats). Drum patterns and their probabilities are our choice.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Metre(NamedTuple):
    """beats : in a bar. steps : in a beat."""

    beats: int
    steps: int


METRES = {"4/4": Metre(4, 4), "3/4": Metre(3, 4), "12/8": Metre(4, 3), "6/8": Metre(2, 3)}

# General MIDI percussion keys.
KICK, STICK, SNARE, CLAP, HAT, PEDAL_HAT, OPEN_HAT = 36, 37, 38, 39, 42, 44, 46
LOW_TOM, MIDDLE_TOM, HIGH_TOM, CRASH, RIDE, TAMBOURINE, COWBELL = 41, 47, 50, 49, 51, 54, 56
OPEN_CONGA, LOW_CONGA, MARACAS, CLAVES, SHAKER = 63, 64, 70, 75, 82
BELL = 53

# Chances of a stroke by the letter of a pattern.
_CHANCES = {"X": 1.0, "x": 0.95, "o": 0.5, "-": 0.15, ".": 0.0}
_ACCENTS = {"X": 112, "x": 98, "o": 78, "-": 58, ".": 0}

# By name: one bar each, percussion key -> a letter for each step. Patterns of 16 fit 4/4, of 12 fit 12/8 (or 3/4, as
# their names say), of 6 fit 6/8.
DRUMS: dict[str, dict[int, str]] = {
    "rock": {KICK: "X...-.o-x.x...-.", SNARE: "....X..-.-..X...", HAT: "x.x.x.x.x.x.x.x."},
    "rock2": {KICK: "X.x...-.x.....o.", SNARE: "....X.......X..-", HAT: "x...x...x...x..."},
    "half-time": {KICK: "X.....o...o...-.", SNARE: "........X.......", HAT: "x.x.x.x.x.x.x.x."},
    "tom rock": {KICK: "X...x...x...x...", LOW_TOM: "x.x.x.x.x.x.x.x.", SNARE: "....o.......X..."},
    "pop": {KICK: "X.....o.x.-...-.", SNARE: "....X.......X...", HAT: "x.x.x.x.x.x.x.o."},
    "pop16": {
        KICK: "X..o....x.o..-..",
        SNARE: "....X.......X...",
        HAT: "xoxoxoxoxoxoxoxo",
        TAMBOURINE: "..o...o...o...o.",
    },
    "ballad": {KICK: "X.....-.o.......", STICK: "....X.......X...", HAT: "x...x...x...x..."},
    "disco": {
        KICK: "X...X...X...X...",
        SNARE: "....X.......X...",
        HAT: "x.-.x.-.x.-.x.-.",
        OPEN_HAT: "..x...x...x...x.",
    },
    "disco16": {
        KICK: "X...X...X...X...",
        CLAP: "....X.......X...",
        HAT: "xoxoxoxoxoxoxoxo",
        COWBELL: "-.-.-.-.-.-.-.-.",
    },
    "house": {
        KICK: "X...X...X...X...",
        CLAP: "....X.......X...",
        OPEN_HAT: "..x...x...x...x.",
        SHAKER: "oooooooooooooooo",
    },
    "techno": {
        KICK: "X...X...X...X...",
        HAT: "--o---o---o---o-",
        OPEN_HAT: "..x...x...x...x.",
        RIDE: "o...o...o...o...",
    },
    "trance": {
        KICK: "X...X...X...X...",
        CLAP: "....X.......X...",
        HAT: "oxoxoxoxoxoxoxox",
        OPEN_HAT: "..x...x...x...x.",
    },
    "breakbeat": {KICK: "X.o.......x..-..", SNARE: "....X..o-o..X..-", HAT: "x.x.x.x.x.x.x.x."},
    "drum'n'bass": {
        KICK: "X.........X.....",
        SNARE: "....X..-.-..X.-.",
        HAT: "x.xox.xox.xox.xo",
        RIDE: "-.-.-.-.-.-.-.-.",
    },
    "dubstep": {KICK: "X.....o....-....", SNARE: "........X.......", HAT: "x..x..x..x..x.o."},
    "boom bap": {KICK: "X..o...-..x..o..", SNARE: "....X.......X..-", HAT: "x.x.x.x.x.x.x.x."},
    "trap": {KICK: "X......o..x...o.", CLAP: "........X.......", HAT: "x.xox.xxx.xoxoxo", OPEN_HAT: "..............o."},
    "hip-hop": {KICK: "X.o....o..x.....", CLAP: "....X.......X...", HAT: "x.x.x.xox.x.x.xo"},
    "one drop": {KICK: "........X.......", STICK: "........X.......", HAT: "x.x.x.x.x.x.x.x."},
    "rockers": {KICK: "X...x...X...x...", STICK: "....o...X...o...", HAT: "x.x.x.xox.x.x.xo"},
    "steppers": {KICK: "X...X...X...X...", STICK: "........X.......", HAT: "..x...x...x...x."},
    "funk": {KICK: "X.x...-...x..o..", SNARE: "....X..o.o.-X..o", HAT: "x.xox.x.x.xox.x."},
    "funk16": {KICK: "X..x..o..ox...-.", SNARE: "....X..o....X.-.", HAT: "xxxxxxxxxxxxxxxx"},
    "motown": {KICK: "X...x.o.x...x...", SNARE: "X...X...X...X...", TAMBOURINE: "..x.x...x.x.x.x."},
    "soul": {KICK: "X.....x.o.x.....", SNARE: "....X.......X...", HAT: "x.x.x.x.x.x.x.x."},
    "metal": {KICK: "X.xxx.xxX.xxx.xx", SNARE: "....X.......X...", CRASH: "o...x...x...x..."},
    "double kick": {KICK: "xxxxxxxxxxxxxxxx", SNARE: "....X.......X...", RIDE: "x...x...x...x..."},
    "blast": {KICK: "x.x.x.x.x.x.x.x.", SNARE: ".x.x.x.x.x.x.x.x", RIDE: "x.x.x.x.x.x.x.x."},
    "punk": {KICK: "X..xX.x.X..xX.x.", SNARE: "..X...X...X...X.", HAT: "x.x.x.x.x.x.x.x."},
    "train": {KICK: "X...X...X...X...", SNARE: "oxXooxXooxXooxXo"},
    "country": {KICK: "X.......X.....-.", SNARE: "....X.......X...", HAT: "x.o.x.o.x.o.x.o."},
    "swing": {
        RIDE: "X...x.o.X...x.o.",
        PEDAL_HAT: "....x.......x...",
        KICK: "o...-...-.-.-...",
        SNARE: "..-...-.-.--..-.",
    },
    "brushes": {SNARE: "x.-.x.o.x.-.x.o.", PEDAL_HAT: "....x.......x...", KICK: "o.......o......."},
    "bossa nova": {KICK: "X.....x.X.....x.", STICK: "X..x..x...x..x..", HAT: "xoxoxoxoxoxoxoxo"},
    "samba": {KICK: "x..Xx..Xx..Xx..X", SNARE: "xoxxoxxoxoxxoxxo", SHAKER: "xoxoxoxoxoxoxoxo"},
    "salsa": {
        CLAVES: "..x.x...x..x..x.",
        OPEN_CONGA: "......x.......xx",
        LOW_CONGA: "x.o.....x.o.....",
        BELL: "X...X...X...X...",
    },
    "reggaeton": {KICK: "X...X...X...X...", SNARE: "...x..x....x..x.", HAT: "x.x.x.x.x.x.x.x."},
    "cumbia": {KICK: "X.......X.......", MARACAS: "x.xxx.xxx.xxx.xx", LOW_CONGA: "....x.......x.x."},
    "shuffle": {KICK: "X.....X.-...", SNARE: "...X.....X.-", HAT: "x.xx.xx.xx.x"},
    "slow 12/8": {KICK: "X....-X.....", SNARE: "...X.....X..", HAT: "xxxxxxxxxxxx"},
    "texas shuffle": {KICK: "X..X..X..X..", SNARE: "x.xX.xx.xX.x", RIDE: "x.xx.xx.xx.x"},
    "waltz": {KICK: "X...........", STICK: "....x...x...", HAT: "x...x...x..."},
    "jazz waltz": {RIDE: "X...x.o.x...", PEDAL_HAT: "....x.......", KICK: "o.......-..."},
    "six-eight": {KICK: "X....o", SNARE: "...X..", HAT: "xxxxxx"},
    "none": {},
}
_FILLS = (
    {SNARE: "x.x.x.xx", KICK: "x...x..."},
    {HIGH_TOM: "x.x.....", MIDDLE_TOM: "....xx..", LOW_TOM: "......xx"},
    {SNARE: "xxxx....", HIGH_TOM: "....xx..", LOW_TOM: "......xx"},
    {SNARE: "..x..x.x", KICK: "x..x..x."},
)


def drum_bars(pattern: str, metre: Metre, bars: int, fill: bool, rng: np.random.Generator) -> list[tuple]:
    """Strokes of some bars: one drawn bar repeated, a second drawing of it every fourth, a fill in the last.

    Returns
    -------
    (onset, duration, percussion key, velocity) of each, in beats from the start.
    """
    rows = DRUMS[pattern]
    if not rows:
        return []
    usual, varied = (_draw_bar(rows, metre.steps, rng) for _ in range(2))
    length = metre.beats
    fill_from = length
    strokes: list[tuple] = []
    for bar in range(bars):
        last = fill and bar == bars - 1 and metre.steps == 4 and length == 4
        if last:
            fill_from = 2
            strokes += [
                (bar * length + 2 + on, 0.2, key, velocity)
                for on, _, key, velocity in _draw_bar(_FILLS[int(rng.random() * len(_FILLS))], 4, rng)
            ]
        chosen = varied if bar % 4 == 3 else usual
        strokes += [(bar * length + on, d, key, v) for on, d, key, v in chosen if not last or on < fill_from]
    return strokes


def _draw_bar(rows: dict[int, str], steps: int, rng: np.random.Generator) -> list[tuple]:
    chance = rng.random(sum(map(len, rows.values()))).tolist()
    place, strokes = 0, []
    for key, row in rows.items():
        for step, letter in enumerate(row):
            if chance[place] < _CHANCES[letter]:
                strokes.append((step / steps, 0.2, key, _ACCENTS[letter]))
            place += 1
    return strokes


def draw_rhythm(metre: Metre, density: float, syncopation: float, rng: np.random.Generator, bars: int = 1) -> list[int]:
    """Steps of some bars on which notes start; never none.

    Parameters
    ----------
    density : about the share of eighths (or of thirds of a beat) that start a note.
    syncopation : 0 for onsets on strong steps, 1 for all steps alike.
    """
    n = bars * metre.beats * metre.steps
    drawn = rng.random(n).tolist()
    onsets = []
    for step in range(n):
        if step % (metre.beats * metre.steps) == 0:
            strength = 1.6
        elif step % metre.steps == 0:
            strength = 1.25 - 0.5 * syncopation
        elif metre.steps == 3 or step % 2 == 0:
            strength = 0.8 + 0.1 * syncopation
        else:
            strength = 0.08 + 0.35 * syncopation
        if drawn[step] < density * strength:
            onsets.append(step)
    return onsets or [0]


def swung(beats: np.ndarray, ratio: float, unit: float) -> np.ndarray:
    """Onsets with the second half of every unit late: it starts at `ratio` of the unit (0.5 straight, 2/3 triplets).

    Parameters
    ----------
    unit : 1 swings eighths, 0.5 sixteenths [beats].

    >>> swung(np.array([0.0, 0.5, 0.75, 1.0]), 0.6, 1.0).tolist()
    [0.0, 0.6, 0.8, 1.0]
    """
    whole = np.floor(beats / unit + 1e-9) * unit
    part = (beats - whole) / unit
    return whole + unit * np.where(part < 0.5, part * 2 * ratio, ratio + (part - 0.5) * 2 * (1 - ratio))
