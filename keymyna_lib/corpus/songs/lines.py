"""Single lines over a progression: basses, riffs, melodies, second voices.

Each bass is a function of a cycle, the register's lowest pitch and a generator, and returns one cycle of notes. All
probabilities are our choice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np

from keymyna_lib.corpus.songs.cycle import Cycle, Note, RiffNote
from keymyna_lib.corpus.songs.grammar import pick
from keymyna_lib.corpus.songs.harmony import SCALES, Chord, near, pitches, scale_over
from keymyna_lib.corpus.songs.rhythm import Metre, draw_rhythm

_BOOGIE = {
    True: ((0, 3, 7, 10), (0, 7, 10, 7), (0, 0, 7, 10)),  # over a minor third
    False: ((0, 4, 7, 9, 10, 9, 7, 4), (0, 4, 7, 9), (0, 7, 9, 7), (0, 0, 4, 5), (0, 4, 7, 4)),
}
_PHRASES = {"AAAB": 3, "ABAB": 3, "AABA": 2, "ABAC": 3, "AABB": 1, "ABCB": 1, "AAAA": 1}


def fifth_of(chord: Chord) -> int:
    """Pitch class of the fifth, perfect or not; of the fourth in a chord that has neither."""
    return next((tone for tone in chord.tones if (tone - chord.root) % 12 in (6, 7, 8)), (chord.root + 7) % 12)


def third_of(chord: Chord) -> int | None:
    """Pitch class of the third; None in a power chord or a suspension."""
    return next((tone for tone in chord.tones if (tone - chord.root) % 12 in (3, 4)), None)


def _roots(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    again = rng.random() < 0.4  # struck again in the middle of a bar
    notes = []
    for onset, duration, chord in cycle.spans():
        pitch = near(chord.bass, low)
        if again and duration > 2:
            notes += [(onset, 1.5, pitch, 92), (onset + 1.5, duration - 1.5, pitch, 84)]
        else:
            notes.append((onset, duration * 0.95, pitch, 92))
    return notes


def _repeated(cycle: Cycle, low: int, unit: float, first: float = 0.0, length: float = 0.9) -> list[Note]:
    notes = []
    for onset, duration, chord in cycle.spans():
        pitch = near(chord.bass, low)
        for i in range(round(duration / unit)):
            at = onset + i * unit + first
            notes.append((at, unit * length, pitch, 96 if at % 1 == 0 else 84))
    return notes


def _eighths(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _repeated(cycle, low, 1 / 2 if cycle.metre.steps == 4 else 1 / 3)


def _offbeat(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _repeated(cycle, low, 1.0, first=0.5, length=0.4)


def _sixteenths(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    notes = []
    for onset, duration, chord in cycle.spans():
        pitch = near(chord.bass, low)
        for beat in range(round(duration)):
            notes += [
                (onset + beat + part, 0.2, pitch, velocity) for part, velocity in ((0.25, 84), (0.5, 96), (0.75, 84))
            ]
    return notes


def _gallop(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    parts = ((0, 0.4), (0.5, 0.2), (0.75, 0.2)) if cycle.metre.steps == 4 else ((0, 0.3), (1 / 3, 0.3), (2 / 3, 0.3))
    return [
        (onset + beat + part, length, near(chord.bass, low), 94)
        for onset, duration, chord in cycle.spans()
        for beat in range(max(1, round(duration)))
        for part, length in parts
    ]


def _pedal(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    unit = pick({0.5: 2, 1.0: 2, 0.25: 0.5}, rng) if cycle.metre.steps == 4 else 1.0
    return [(i * unit, unit * 0.85, near(0, low), 92) for i in range(round(cycle.length / unit))]


def _octaves(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    half = 0.5 if cycle.metre.steps == 4 else 2 / 3
    notes = []
    for onset, duration, chord in cycle.spans():
        pitch = near(chord.bass, low)
        for beat in range(max(1, round(duration))):
            notes += [(onset + beat, 0.45, pitch, 96), (onset + beat + half, 0.3, pitch + 12, 86)]
    return notes


def _root_fifth(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    beats = cycle.metre.beats
    unit = 2 if beats == 4 else beats
    notes = []
    for onset, duration, chord in cycle.spans():
        root, fifth = near(chord.bass, low), near(fifth_of(chord), low)
        for i in range(max(1, round(duration / unit))):
            second = i % 2 == 1 or (unit == beats and onset // beats % 2 == 1)
            notes.append((onset + i * unit, min(unit, duration) * 0.8, fifth if second else root, 84 if second else 96))
    return notes


def _bossa(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    notes = []
    for onset, duration, chord in cycle.spans():
        root, fifth = near(chord.bass, low), near(fifth_of(chord), low)
        for i in range(max(1, round(duration / 2))):
            first, second = (root, fifth) if i % 2 == 0 else (fifth, root if duration > 2 else fifth)
            notes += [(onset + 2 * i, 1.4, first, 92), (onset + 2 * i + 1.5, 0.45, second, 80)]
    return notes


def _tumbao(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    notes = [(0.0, 1.4, near(cycle.chords[0].bass, low), 90)]
    for bar in np.arange(0, cycle.length, 4).tolist():
        now, then = cycle.at(bar + 1.5), cycle.at(bar + 4)
        notes += [(bar + 1.5, 1.4, near(fifth_of(now), low), 88), (bar + 3, 1.0, near(then.bass, low), 96)]
    return notes


def _walking(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    onsets = (*cycle.onsets, cycle.length)
    notes: list[Note] = []
    pitch = near(cycle.chords[0].bass, low)
    for i, chord in enumerate(cycle.chords):
        start, end = onsets[i], onsets[i + 1]
        goal = near(cycle.chords[(i + 1) % len(cycle.chords)].bass, low)
        beats = max(1, round(end - start))
        allowed = pitches(scale_over(cycle.scale, chord.tones), low - 3, low + 16)
        tones = pitches(chord.tones, low - 3, low + 16)
        for beat in range(beats):
            left = beats - beat
            if beat == 0:
                pitch = min((p for p in tones if p % 12 == chord.bass), key=lambda p: abs(p - pitch))
            elif left == 1:  # the next root from a semitone or a step beside it
                pitch = goal + pick({-1: 3, 1: 2, 2: 1, -2: 1, 7: 1, -5: 0.5}, rng)
            else:
                step = 1 if goal > pitch else -1
                source = tones if rng.random() < 0.55 else allowed
                pitch = _moved(source, pitch, step if rng.random() < 0.75 else -step)
            notes.append((start + beat, 0.9, pitch, 90))
            if rng.random() < 0.08:
                notes.append((start + beat + 0.5, 0.3, pitch, 74))
    return notes


def _boogie(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    kinds = {minor: options[int(rng.random() * len(options))] for minor, options in _BOOGIE.items()}
    double = rng.random() < 0.5
    late = 0.5 if cycle.metre.steps == 4 else 2 / 3
    notes = []
    for onset, duration, chord in cycle.spans():
        minor = third_of(chord) == (chord.root + 3) % 12
        for beat in range(max(1, round(duration))):
            figure = kinds[minor]
            pitch = near(chord.root, low) + figure[(round(onset) % cycle.metre.beats + beat) % len(figure)]
            notes.append((onset + beat, 0.45 if double else 0.9, pitch, 94))
            if double:
                notes.append((onset + beat + late, 0.25, pitch, 82))
    return notes


def _patterned(
    cycle: Cycle, low: int, rng: np.random.Generator, density: float, tones: dict, rest: float
) -> list[Note]:
    """One drawn bar (or two) of rhythm and degrees, repeated over the chords."""
    bars = 2 if rng.random() < 0.4 and cycle.length >= 2 * cycle.metre.beats else 1
    onsets = draw_rhythm(cycle.metre, density, cycle.syncopation, rng, bars)
    if onsets[0] and rng.random() > rest:
        onsets = [0, *onsets]
    drawn = [pick(tones, rng) for _ in onsets]
    long = rng.random() < 0.6
    unit, n = cycle.metre.steps, bars * cycle.metre.beats * cycle.metre.steps
    notes = []
    for start in range(0, cycle.steps(), n):
        for step, degree, following in zip(onsets, drawn, [*onsets[1:], n]):
            if start + step >= cycle.steps():
                break
            chord = cycle.at((start + step) / unit)
            length = (following - step) / unit * 0.9
            pitch = near(chord.bass, low)
            if degree == "fifth":
                pitch = near(fifth_of(chord), low)
            elif degree == "octave":
                pitch += 12
            elif degree == "third":
                pitch = near(chord.tones[min(1, len(chord.tones) - 1)], low)
            elif degree == "seventh":
                pitch = near(chord.tones[3], low) if len(chord.tones) > 3 else pitch
            notes.append(((start + step) / unit, length if long else min(length, 0.4), pitch, 92))
    return notes


def _syncopated(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    tones = {"root": 6, "octave": 1.5, "fifth": 1.5, "seventh": 0.7}
    return _patterned(cycle, low, rng, 0.35 + 0.4 * rng.random(), tones, rest=0.0)


def _reggae(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    return _patterned(cycle, low, rng, 0.45, {"root": 5, "fifth": 2, "third": 1.5, "octave": 1}, rest=0.5)


def _sustained(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    extra = pick({None: 2, 2.5: 1, 1.75: 1, 3.0: 1}, rng) if cycle.metre.beats == 4 else None
    notes = []
    for onset, duration, chord in cycle.spans():
        pitch = near(chord.bass, low)
        if extra and duration > extra:
            notes += [(onset, extra * 0.95, pitch, 96), (onset + extra, duration - extra, pitch, 90)]
        else:
            notes.append((onset, duration * 0.98, pitch, 96))
    return notes


def draw_riff(
    metre: Metre, scale: str, syncopation: float, rng: np.random.Generator
) -> tuple[tuple[RiffNote, ...], float]:
    """A riff of one or two bars from the root, and its length [beats]; low notes come back most."""
    bars = 2 if rng.random() < 0.5 else 1
    onsets = draw_rhythm(metre, 0.45 + 0.35 * rng.random(), syncopation, rng, bars)
    if onsets[0]:
        onsets = [0, *onsets]
    n = bars * metre.beats * metre.steps
    classes = SCALES[scale]
    place, riff = 0, []
    for step, following in zip(onsets, [*onsets[1:], n]):
        interval = classes[place % len(classes)] + 12 * (place // len(classes))
        length = (following - step) / metre.steps
        riff.append(RiffNote(step / metre.steps, min(length, 1.5) * 0.9, interval))
        move = pick({0: 2, 1: 2, -1: 2, 2: 1, -2: 1, 3: 0.4}, rng)
        place = 0 if rng.random() < 0.35 else min(max(place + move, -2), len(classes) + 1)
    return tuple(riff), n / metre.steps


def riff(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    """The song's riff on every chord's root, bent into the scale over the chord."""
    notes = []
    for start in np.arange(0, cycle.length - 1e-6, cycle.riff_length).tolist():
        for onset, duration, interval in cycle.riff:
            if start + onset >= cycle.length - 1e-6:
                break
            chord = cycle.at(start + onset)
            root = near(chord.bass, low)
            allowed = pitches((*scale_over(cycle.scale, chord.tones), *chord.tones), low - 6, low + 30)
            notes.append((start + onset, duration, _nearest(allowed, root + interval), 94))
    return notes


BASSES: dict[str, Callable[[Cycle, int, np.random.Generator], list[Note]]] = {
    "roots": _roots,
    "eighths": _eighths,
    "offbeat": _offbeat,
    "sixteenths": _sixteenths,
    "gallop": _gallop,
    "pedal": _pedal,
    "octaves": _octaves,
    "root fifth": _root_fifth,
    "bossa": _bossa,
    "tumbao": _tumbao,
    "walking": _walking,
    "boogie": _boogie,
    "syncopated": _syncopated,
    "reggae": _reggae,
    "sustained": _sustained,
    "riff": riff,
}


def melody(
    cycle: Cycle, bars: int, low: int, high: int, density: float, rng: np.random.Generator, *, improvised: bool = False
) -> list[Note]:
    """A tune: phrases of one or two bars whose rhythm and contour come back, as `_PHRASES` says.

    On the beat it sings chord tones or, at times, the note above one and then its resolution; between beats it moves
    through the scale. The last phrase of a section closes on the tonic or, more rarely, on its third or fifth.

    Parameters
    ----------
    bars : of the section; the cycle repeats under it.
    low, high : register.
    improvised : a solo: longer runs, and no phrase comes back.
    """
    metre = cycle.metre
    long = 2 if bars % 2 == 0 and rng.random() < 0.75 else 1
    steps = long * metre.beats * metre.steps
    plan = "ABCDEFGH" if improvised else pick(_PHRASES, rng)
    closing = pick({0: 6, _third(cycle): 2, 7: 2}, rng)
    phrases: dict[str, tuple[list[int], list[int], float]] = {}
    notes: list[Note] = []
    pitch = near(pick({0: 3, 7: 2, _third(cycle): 2}, rng), (low + high) // 2 - 5)
    middle = (low + high) / 2
    n = max(1, bars // long)
    for i in range(n):
        name = plan[i % len(plan)]
        if name not in phrases:
            onsets = draw_rhythm(metre, density, cycle.syncopation, rng, long)
            breath = int((1 - rng.random() * 0.35) * steps)  # a rest at the end of a phrase
            onsets = [step for step in onsets if step < breath] or [0]
            moves = rng.random(len(onsets)).tolist()
            phrases[name] = onsets, [_move(x, improvised) for x in moves], rng.random()
        onsets, moves, legato = phrases[name]
        drawn = rng.random(len(onsets)).tolist()
        for k, step in enumerate(onsets):
            beat = (i * steps + step) / metre.steps
            following = onsets[k + 1] if k + 1 < len(onsets) else min(steps, step + 2 * metre.steps)
            length = min((following - step) / metre.steps, 2.0) * (0.95 if legato < 0.7 else 0.6)
            chord = cycle.at(beat)
            allowed = pitches(scale_over(cycle.scale, chord.tones), low, high)
            move = moves[k] if abs(pitch - middle) < 7 or (pitch > middle) != (moves[k] > 0) else -moves[k]
            pitch = _moved(allowed, pitch, move)
            if step % metre.steps == 0 and length > 0.3:
                if drawn[k] < 0.7:
                    pitch = _nearest(pitches(chord.tones, low, high), pitch)
                elif drawn[k] < 0.82 and following - step > metre.steps // 2 and length > 0.6:
                    resolution = _nearest(pitches(chord.tones, low, high - 3), pitch)
                    above = _moved(allowed, resolution, 1)
                    notes += [(beat, length / 2, above, 96), (beat + length / 2, length / 2, resolution, 88)]
                    pitch = resolution
                    continue
            if k == len(onsets) - 1 and (i == n - 1 or (i % len(plan) == len(plan) - 1 and drawn[k] < 0.6)):
                pitch = _nearest(pitches((closing,), low, high), pitch)
                length = max(length, 1.0)
            notes.append((beat, length, pitch, 98 if step % metre.steps == 0 else 88))
    return notes


def _third(cycle: Cycle) -> int:
    """The third above the tonic in the cycle's scale, 3 or 4."""
    return 4 if 4 in SCALES[cycle.scale] and "minor" not in cycle.scale else 3


def thirds(tune: Sequence[Note], cycle: Cycle) -> list[Note]:
    """A second voice a third below a tune, a fourth where the third would be foreign to the scale."""
    notes = []
    for onset, duration, pitch, velocity in tune:
        chord = cycle.at(onset)
        allowed = scale_over(cycle.scale if len(SCALES[cycle.scale]) > 6 else _diatonic(cycle), chord.tones)
        below = next(pitch - step for step in (3, 4, 5, 2, 12) if (pitch - step) % 12 in allowed or step == 12)
        notes.append((onset, duration, below, velocity - 10))
    return notes


def answers(cycle: Cycle, low: int, rng: np.random.Generator) -> list[Note]:
    """A short figure of chord tones late in every other bar: what brass and strings play between lines."""
    beats = cycle.metre.beats
    figure = draw_rhythm(cycle.metre, 0.6, cycle.syncopation, rng)
    figure = [step for step in figure if step >= beats * cycle.metre.steps // 2] or [beats * cycle.metre.steps // 2]
    moves = [_move(x, False) for x in rng.random(len(figure)).tolist()]
    every = 2 if cycle.length >= 2 * beats else 1
    notes: list[Note] = []
    pitch = low + 7
    for bar in range(every - 1, round(cycle.length / beats), every):
        for step, move, following in zip(figure, moves, [*figure[1:], beats * cycle.metre.steps]):
            beat = bar * beats + step / cycle.metre.steps
            pitch = _moved(pitches(cycle.at(beat).tones, low, low + 18), pitch, move)
            notes.append((beat, (following - step) / cycle.metre.steps * 0.9, pitch, 88))
    return notes


def _diatonic(cycle: Cycle) -> str:
    return "major" if _third(cycle) == 4 else "minor"


def _move(draw: float, improvised: bool) -> int:
    """Steps in a scale from a draw in [0, 1): mostly one, down as often as up; some repetitions and leaps."""
    bounds = (0.32, 0.62, 0.7, 0.78, 0.85, 0.93, 0.97) if improvised else (0.25, 0.5, 0.72, 0.8, 0.88, 0.93, 0.97)
    moves = (1, -1, 0, 2, -2, 3, -3, 4)
    return moves[sum(draw >= bound for bound in bounds)]


def _nearest(ladder: tuple[int, ...], pitch: int) -> int:
    """The nearest pitch of an ascending ladder, the lower one on a tie."""
    at = bisect_left(ladder, pitch)
    if at == 0:
        return ladder[0]
    if at == len(ladder):
        return ladder[-1]
    return ladder[at] if ladder[at] - pitch < pitch - ladder[at - 1] else ladder[at - 1]


def _moved(ladder: tuple[int, ...], pitch: int, steps: int) -> int:
    """The pitch so many rungs from the nearest one, inside the ladder."""
    at = bisect_left(ladder, _nearest(ladder, pitch)) + steps
    return ladder[min(max(at, 0), len(ladder) - 1)]
