"""How chords are played: strums, stabs, arpeggios, pads, power chords.

Each is a function of a cycle, the register's lowest pitch and a generator, and returns one cycle of notes. All
probabilities are our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from keymyna_lib.corpus.songs.cycle import Cycle, Note
from keymyna_lib.corpus.songs.grammar import pick
from keymyna_lib.corpus.songs.harmony import Chord, near, voicing
from keymyna_lib.corpus.songs.lines import answers, fifth_of, riff
from keymyna_lib.corpus.songs.rhythm import draw_rhythm

_POWER_LOW = 38  # lowest root of a power chord before transposition
_STRUMS = {"X-X--XXX": 3, "X-XXX-XX": 2, "X-XX-XXX": 3, "XXXXXXXX": 1, "X---X-XX": 2, "X-X-X-XX": 1}
_HOUSE = (
    (0, 0.75, 1.5, 2.5, 3.25),
    (0.5, 1.5, 2.5, 3.5),
    (0, 1.5, 3),
    (0, 0.75, 1.5, 2.25, 3, 3.5),
    (0.75, 1.5, 2.75),
    (0, 1.5, 2.5),
)
_CHARLESTON = ((0, 1.5), (0.5, 2.5), (1.5, 3), (0, 2.5), (1, 3), (1.5, 3.5), (0,))
_MONTUNO = (0, 0.5, 1.5, 2.5, 3.5)


def _struck(chord: Chord, onset: float, duration: float, low: int, velocity: int) -> list[Note]:
    return [(onset, duration, pitch, velocity) for pitch in voicing(chord.tones, low)]


def _long(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    ends = (*cycle.onsets[1:], cycle.length)
    notes: list[Note] = []
    for onset, end, chord in zip(cycle.onsets, ends, cycle.chords):
        notes += _struck(chord, onset, (end - onset) * 0.99, low, 78)
        if len(chord.tones) < 3:
            notes.append((onset, (end - onset) * 0.99, near(chord.root, low) + 12, 74))
    return notes


def _block(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return [
        note for onset, duration, chord in cycle.spans() for note in _struck(chord, onset, duration * 0.95, low, 86)
    ]


def _rhythmic(cycle: Cycle, low: int, beats: Iterable[float], length: float, velocity: int = 86) -> list[Note]:
    """Chords on these beats of every bar; a note lasts `length` beats or until the next one if that is 0."""
    beats = list(beats)
    notes: list[Note] = []
    for bar in np.arange(0, cycle.length, cycle.metre.beats).tolist():
        for beat, following in zip(beats, [*beats[1:], cycle.metre.beats]):
            if bar + beat < cycle.length - 1e-6:
                accent = velocity + (6 if beat % 1 == 0 else 0)
                notes += _struck(cycle.at(bar + beat), bar + beat, length or (following - beat) * 0.9, low, accent)
    return notes


def _every(cycle: Cycle, unit: float, first: float = 0.0) -> list[float]:
    return (np.arange(round(cycle.metre.beats / unit)) * unit + first).tolist()


def _quarters(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _rhythmic(cycle, low, _every(cycle, 1.0), 0.85 if rng.random() < 0.6 else 0.4)


def _triplets(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    unit = 1 / 3 if cycle.metre.steps == 3 else 1 / 2
    return _rhythmic(cycle, low, _every(cycle, unit), unit * 0.8, 78)


def _skank(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    half = 0.5 if cycle.metre.steps == 4 else 2 / 3
    return _rhythmic(cycle, low, _every(cycle, 1.0, half), 0.22, 90)


def _double_skank(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _rhythmic(cycle, low, sorted(_every(cycle, 1.0, 0.5) + _every(cycle, 1.0, 0.75)), 0.15, 88)


def _bubble(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    below = _rhythmic(cycle, low - 12, sorted(_every(cycle, 1.0, 0.25) + _every(cycle, 1.0, 0.75)), 0.15, 70)
    return below + _rhythmic(cycle, low, _every(cycle, 1.0, 0.5), 0.3, 84)


def _drawn_bar(cycle: Cycle, density: float, syncopation: float, rng: np.random.Generator) -> list[float]:
    return [step / cycle.metre.steps for step in draw_rhythm(cycle.metre, density, syncopation, rng)]


def _stabs(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _rhythmic(cycle, low, _drawn_bar(cycle, 0.3, 0.8, rng), 0.25, 96)


def _syncopated_chords(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _rhythmic(cycle, low, _drawn_bar(cycle, 0.45, max(0.4, cycle.syncopation), rng), 0.0)


def _house_stabs(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _rhythmic(cycle, low, _HOUSE[int(rng.random() * len(_HOUSE))], 0.3 + 0.3 * rng.random(), 92)


def _charleston(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    notes: list[Note] = []
    for bar in np.arange(0, cycle.length, cycle.metre.beats).tolist():
        for beat in _CHARLESTON[int(rng.random() * len(_CHARLESTON))]:
            if beat < cycle.metre.beats:
                at = min(bar + beat, cycle.length - 0.5)
                ahead = cycle.at(at + 0.5) if beat % 1 else cycle.at(at)  # an off-beat anticipates
                notes += _struck(ahead, at, 0.35 if rng.random() < 0.6 else 1.2, low, 84)
    return notes


def _trance_gate(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _rhythmic(cycle, low, _drawn_bar(cycle, 0.8, 1.0, rng), 0.2, 84)


def _funk16(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    bar = _drawn_bar(cycle, 0.55, 1.0, rng)
    tones = {chord: chord._replace(tones=chord.tones[-3:]) for chord in cycle.chords}
    thin = cycle._replace(chords=tuple(tones[chord] for chord in cycle.chords))
    return _rhythmic(thin, low + 7, bar, 0.16, 84)


def _strummed(cycle: Cycle, low: int, rng: np.random.Generator, power: bool) -> list[Note]:
    pattern = pick(_STRUMS, rng)
    unit = 1 / 2 if cycle.metre.steps == 4 else 1 / 3
    per_bar = round(cycle.metre.beats / unit)
    notes: list[Note] = []
    for i in range(round(cycle.length / unit)):
        if pattern[i % per_bar % len(pattern)] != "X":
            continue
        chord = cycle.at(i * unit)
        if power:
            strings = power_chord(chord, 40)
        else:
            strings = (near(chord.bass, 40), *voicing(chord.tones, low), near(chord.root, low) + 12)
        down = i % 2 == 0
        ordered = strings if down else strings[::-1][:4]
        length = unit * (1.5 if pattern[(i + 1) % per_bar % len(pattern)] != "X" else 0.95)
        notes += [(i * unit + 0.012 * k, length, pitch, 90 if down else 78) for k, pitch in enumerate(ordered)]
    return notes


def _strum(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _strummed(cycle, low, rng, power=False)


def _power_strum(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _strummed(cycle, low, rng, power=True)


def power_chord(chord: Chord, low: int) -> tuple[int, ...]:
    """Root, fifth and octave from the octave above `low`."""
    root = near(chord.root, low)
    return root, root + (fifth_of(chord) - chord.root) % 12, root + 12


def _power(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    kind = pick({"held": 2, "eighths": 3, "pushed": 2}, rng)
    unit = 0.5 if cycle.metre.steps == 4 else 1 / 3
    notes: list[Note] = []
    for onset, duration, chord in cycle.spans():
        strings = power_chord(chord, _POWER_LOW)
        if kind == "held":
            hits = [(0.0, duration * 0.97)]
        elif kind == "eighths":
            hits = [(i * unit, unit * 0.9) for i in range(round(duration / unit))]
        else:
            hits = (
                [(0.0, 3 * unit * 0.95), (3 * unit, duration - 3 * unit)] if duration > 3 * unit else [(0.0, duration)]
            )
        notes += [(onset + at, length, pitch, 94) for at, length in hits for pitch in strings]
    return notes


def _chug(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    """Muted strokes on the tonic or the root, a ringing chord where the harmony changes."""
    on_tonic = rng.random() < 0.4
    unit = 0.5 if cycle.metre.steps == 4 and rng.random() < 0.6 else 1 / cycle.metre.steps
    notes: list[Note] = []
    for onset, duration, chord in cycle.spans():
        notes += [(onset, 0.9, pitch, 98) for pitch in power_chord(chord, _POWER_LOW)]
        muted = near(0 if on_tonic else chord.root, _POWER_LOW)
        notes += [(onset + i * unit, unit * 0.5, muted, 84) for i in range(round(1 / unit), round(duration / unit))]
    return notes


def _power_gallop(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    parts = ((0, 0.4), (0.5, 0.2), (0.75, 0.2)) if cycle.metre.steps == 4 else ((0, 0.3), (1 / 3, 0.3), (2 / 3, 0.3))
    return [
        (onset + beat + part, length, pitch, 94)
        for onset, duration, chord in cycle.spans()
        for beat in range(max(1, round(duration)))
        for part, length in parts
        for pitch in power_chord(chord, _POWER_LOW)[:2]
    ]


def _riff_fifths(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    line = riff(cycle, _POWER_LOW, rng)
    return line + [(onset, duration, pitch + 7, velocity - 4) for onset, duration, pitch, velocity in line]


def _riff(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return riff(cycle, low, rng)


def _boogie_chords(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    late = 0.5 if cycle.metre.steps == 4 else 2 / 3
    figure = ((7, 9, 7, 9), (7, 9, 10, 9))[int(rng.random() * 2)]
    notes: list[Note] = []
    for onset, duration, chord in cycle.spans():
        root = near(chord.root, 40)
        minor = (chord.root + 3) % 12 in chord.tones
        for beat in range(max(1, round(duration))):
            upper = root + (7 if minor else figure[beat % 4])
            for at, length in ((beat, 0.5), (beat + late, 0.3)):
                notes += [(onset + at, length, root, 84), (onset + at, length, upper, 84)]
    return notes


def _arpeggiated(cycle: Cycle, low: int, unit: float, octaves: int, rng: np.random.Generator) -> list[Note]:
    order = pick({"up": 3, "down": 1, "up and down": 3, "broken": 2}, rng)
    ring = 1.0 if rng.random() < 0.5 else 2.0
    notes: list[Note] = []
    for onset, duration, chord in cycle.spans():
        ladder = [pitch + 12 * octave for octave in range(octaves) for pitch in voicing(chord.tones[:4], low)]
        if len(ladder) < 3:
            ladder.append(ladder[0] + 12)
        if order == "down":
            ladder = ladder[::-1]
        elif order == "up and down":
            ladder = ladder + ladder[-2:0:-1]
        elif order == "broken":
            ladder = [ladder[0], *(x for pair in zip(ladder[2:], ladder[1:]) for x in pair)]
        n = round(duration / unit)
        notes += [(onset + i * unit, unit * ring, ladder[i % len(ladder)], 88 if i == 0 else 80) for i in range(n)]
    return notes


def _arpeggio(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _arpeggiated(cycle, low, 1 / 2 if cycle.metre.steps == 4 else 1 / 3, 1, rng)


def _arp16(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _arpeggiated(cycle, low, 1 / cycle.metre.steps, 1 if rng.random() < 0.5 else 2, rng)


def _fingerpick(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    """The thumb alternates root and fifth on the beats, the fingers fill in."""
    fingers = [int(x * 3) for x in rng.random(8).tolist()]
    half = 0.5 if cycle.metre.steps == 4 else 2 / 3
    notes: list[Note] = []
    for onset, duration, chord in cycle.spans():
        upper = voicing(chord.tones, low)
        thumb = near(chord.bass, 40), near(fifth_of(chord), 43)
        for beat in range(max(1, round(duration))):
            notes.append((onset + beat, 1.0, thumb[beat % 2], 86))
            notes.append((onset + beat + half, 0.9, upper[fingers[beat % 8] % len(upper)], 80))
            if fingers[(beat + 3) % 8] == 0:
                notes.append((onset + beat, 0.9, upper[-1], 82))
    return notes


def _boom_chick(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    notes: list[Note] = []
    for onset, duration, chord in cycle.spans():
        thumb = near(chord.bass, 40), near(fifth_of(chord), 40)
        for beat in range(max(1, round(duration))):
            if beat == 0 or (cycle.metre.beats == 4 and beat % 2 == 0):
                notes.append((onset + beat, 0.8, thumb[beat // 2 % 2], 90))
            else:
                notes += _struck(chord, onset + beat, 0.4, low, 84)
    return notes


def _montuno(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    notes: list[Note] = []
    for bar in np.arange(0, cycle.length, 4).tolist():
        for i, beat in enumerate(_MONTUNO):
            if bar + beat >= cycle.length:
                break
            chord = cycle.at(bar + beat + (0.5 if beat == 3.5 else 0))  # the last one anticipates
            upper = voicing(chord.tones[:4], low)
            if i % 2 == 0:
                notes += [(bar + beat, 0.4, pitch, 90) for pitch in (near(chord.root, low), near(chord.root, low) + 12)]
            else:
                notes += [(bar + beat, 0.4, pitch, 84) for pitch in upper[1:]]
    return notes


PATTERNS: dict[str, Callable[[Cycle, int, np.random.Generator], list[Note]]] = {
    "long": _long,
    "block": _block,
    "quarters": _quarters,
    "triplets": _triplets,
    "skank": _skank,
    "double skank": _double_skank,
    "bubble": _bubble,
    "stabs": _stabs,
    "syncopated chords": _syncopated_chords,
    "house stabs": _house_stabs,
    "charleston": _charleston,
    "trance gate": _trance_gate,
    "funk16": _funk16,
    "strum": _strum,
    "power strum": _power_strum,
    "power": _power,
    "chug": _chug,
    "gallop": _power_gallop,
    "riff fifths": _riff_fifths,
    "riff": _riff,
    "boogie chords": _boogie_chords,
    "arpeggio": _arpeggio,
    "arp16": _arp16,
    "fingerpick": _fingerpick,
    "boom chick": _boom_chick,
    "montuno": _montuno,
    "answers": answers,
}
