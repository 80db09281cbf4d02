"""Songs: a form, a progression for each kind of section, and parts that play them, all in one key.

A song is drawn from the stream of a seed and its number, whatever else is composed before it. Everything is composed
with tonic C and transposed at the end, so that the same song in two keys differs by a transposition and nothing else.
Notes are made when asked for, section by section: an excerpt costs no more than its length, and is a part of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.corpus.songs import chords, lines, rhythm
from keymyna_lib.corpus.songs.cycle import Cycle, Note
from keymyna_lib.corpus.songs.grammar import KINDS, Kind, Progression, draw_progression, pick
from keymyna_lib.corpus.songs.harmony import Chord, chord
from keymyna_lib.corpus.songs.rhythm import DRUMS, METRES, Metre
from keymyna_lib.corpus.songs.styles import ENERGY, FORMS, STYLES, Style

DRUMS_PART = -1
LEAD, BASS, SOLO = 0, 1, 2  # parts that every song has, whether or not they play; layers follow
_BASS_LOW = 33
_SIX_EIGHT = 0.55  # a style's tempo counts quarters; a beat of 6/8 is slower
_SLOWEST = 36.0  # beats per minute
_TUNEFUL = ("verse", "prechorus", "chorus", "hook", "bridge", "head", "drop", "break")
_REFRAINS = ("chorus", "hook", "drop", "head", "verse")
_OCCASIONAL = ("thirds", "answers")  # layers that cannot carry a section
_LIFTS = {1: 2, 2: 3, 3: 0.5}  # semitones of a late modulation


class Part(NamedTuple):
    """Who plays.

    role : "lead" or "solo"; of the bass one of `lines.BASSES`; of a layer one of `chords.PATTERNS`, or "thirds".
    sound : of `styles.SOUNDS`; sounds : all that the style has for such a part, with weights.
    low : lowest pitch of its register with tonic C.
    energy : sections with less energy mostly go without it.
    """

    role: str
    sound: str
    sounds: Mapping[str, float]
    low: int
    energy: float


class Section(NamedTuple):
    """A section of a song.

    role : verse, chorus, ...; "end" is a held tonic.
    start, length : [beats].
    chords : of the cycle that repeats throughout, (onset from the section's start, duration) [beats] and chord.
    key : local key, 0..23.
    parts : that play.
    """

    role: str
    start: float
    length: float
    chords: tuple[tuple[float, float, Chord], ...]
    key: int
    parts: tuple[int, ...]


class Material(NamedTuple):
    """What all sections of a role play.

    cycle : the chords and what goes with them.
    accompaniment, tune : roles with the same chords whose accompaniment and tune these are; often its own.
    bars : of the tune, after which it repeats.
    density : of the tune, see `lines.melody`.
    drums : of `rhythm.DRUMS`.
    """

    cycle: Cycle
    accompaniment: str
    tune: str
    bars: int
    density: float
    drums: str


@dataclass(frozen=True, eq=False)
class Song:
    """A song; its notes come from `notes`.

    key : 0..23. Where a song modulates, the key that it begins in; sections hold the local ones.
    kind : of harmony, of `grammar.KINDS`.
    tempo : beats per minute; a beat is a quarter, in 12/8 and 6/8 three eighths.
    swing : place of the second half of `swing_unit` beats, 0.5 for straight ones.
    parts : see `Part`; the drums, part -1, are not among them.
    """

    seed: int
    index: int
    style: str
    kind: str
    key: int
    tempo: float
    metre: str
    swing: float
    parts: tuple[Part, ...]
    sections: tuple[Section, ...]
    _materials: Mapping[str, Material] = field(repr=False)
    _made: dict[tuple[str, int], np.ndarray] = field(default_factory=dict, repr=False)  # by role and part, in C

    @property
    def genre(self) -> str:
        """The style's genre."""
        return STYLES[self.style].genre

    @property
    def length(self) -> float:
        """Beats."""
        return self.sections[-1].start + self.sections[-1].length

    @property
    def seconds(self) -> float:
        """Length [s]."""
        return self.length * 60 / self.tempo

    def in_key_of(self, tonic: int) -> Song:
        """The same song with another tonic, from 6 semitones below C to 5 above."""
        lift = keys.pitch_class(tonic - keys.tonic(self.key))
        sections = tuple(s._replace(key=int(keys.transpose(s.key, lift))) for s in self.sections)
        return replace(self, key=int(keys.transpose(self.key, lift)), sections=sections)

    def notes(self, start: float = 0.0, stop: float = np.inf) -> np.ndarray:
        """Notes that sound between two beats, sorted by onset.

        Returns
        -------
        (note, 5) float32: onset [beats of the song], duration [beats], MIDI pitch, part, velocity (1..127). Drums are
        part -1, their pitch a percussion key of General MIDI.
        """
        wanted = [i for i, s in enumerate(self.sections) if s.start < stop and s.start + s.length > start]
        played = np.concatenate([self._section_notes(i) for i in wanted] or [np.zeros((0, 5))])
        sounding = (played[:, 0] < stop) & (played[:, 0] + played[:, 1] > start)
        played = played[sounding]
        return played[np.lexsort((played[:, 2], played[:, 3], played[:, 0]))].astype(np.float32)

    def local_keys(self) -> list[tuple[float, int]]:
        """(first beat, key) of each stretch in one key: one, unless the song modulates."""
        found: list[tuple[float, int]] = []
        for section in self.sections:
            if not found or found[-1][1] != section.key:
                found.append((section.start, section.key))
        return found

    def chords(self, start: float = 0.0, stop: float = np.inf) -> list[tuple[float, float, Chord]]:
        """(onset, duration) [beats of the song] and chord of all chords between two beats."""
        found = []
        for s in self.sections:
            cycle = s.chords[-1][0] + s.chords[-1][1]
            for again in np.arange(s.start, s.start + s.length - 1e-6, cycle).tolist():
                for onset, duration, sounding in s.chords:
                    on, off = again + onset, min(again + onset + duration, s.start + s.length)
                    if on < min(stop, off) and off > start:
                        found.append((on, off - on, sounding))
        return found

    def _section_notes(self, i: int) -> np.ndarray:
        section = self.sections[i]
        style = STYLES[self.style]
        rng = numpy_stream(self.seed, "song", self.index, "played", i)
        lift = keys.pitch_class(keys.tonic(section.key) + 6) - 6
        home = keys.pitch_class(keys.tonic(self.key) + 6) - 6
        lift = home + keys.pitch_class(lift - home)  # a modulation leads upwards
        arrays = [self._drums(section, rng)]
        for part in (part for part in section.parts if part != DRUMS_PART):
            made, length = self._part_notes(section.role, part)
            if len(made):
                repeats = max(1, int(np.ceil(section.length / length - 1e-6)))
                tiled = np.tile(made, (repeats, 1))
                tiled[:, 0] += np.repeat(np.arange(repeats) * length, len(made))
                tiled[:, 2] += lift
                arrays.append(tiled)
        played = np.concatenate(arrays)
        played = played[played[:, 0] < section.length - 1e-6]
        if self.swing != 0.5:
            ends = rhythm.swung(played[:, 0] + played[:, 1], self.swing, style.swing_unit)
            played[:, 0] = rhythm.swung(played[:, 0], self.swing, style.swing_unit)
            played[:, 1] = np.maximum(ends - played[:, 0], 0.05)
        late = rng.standard_normal(len(played)) * style.loose * self.tempo / 60
        played[:, 0] = np.maximum(played[:, 0] + late, 0)
        played[:, 1] = np.minimum(played[:, 1], section.length - played[:, 0]).clip(0.02)
        played[:, 4] = np.round(played[:, 4] + 5 * rng.standard_normal(len(played))).clip(20, 127)
        played[:, 0] += section.start
        return played

    def _part_notes(self, role: str, part: int) -> tuple[np.ndarray, float]:
        """One part in a section, without swing and touch: (note, 5), and the beats after which it repeats."""
        material = self._materials[role]
        tuneful = self.parts[part].role in ("lead", "solo", "thirds")
        shared = material.tune if tuneful else material.accompaniment
        length = self._materials[shared].bars * material.cycle.metre.beats if tuneful else material.cycle.length
        if (shared, part) not in self._made:
            rng = numpy_stream(self.seed, "song", self.index, shared, part)
            made = np.array(self._play(shared, part, rng), np.float64).reshape(-1, 4)
            self._made[shared, part] = np.insert(made, 3, part, axis=1)
        return self._made[shared, part], length

    def _play(self, role: str, part: int, rng: np.random.Generator) -> list[Note]:
        its, genre = self.parts[part], STYLES[self.style].genre
        cycle, _, _, bars, density, _ = self._materials[role]
        if part == BASS:
            return lines.BASSES["roots" if role == "end" else its.role](cycle, its.low, rng)
        if its.role == "lead":
            return lines.melody(cycle, bars, its.low, its.low + 17, density, rng)
        if its.role == "solo":
            solo = cycle._replace(scale=_solo_scale(cycle.scale, rng))
            return lines.melody(solo, bars, its.low, its.low + 22, min(0.95, density + 0.25), rng, improvised=True)
        if its.role == "thirds":
            tune = [
                (on, length, int(pitch), int(v)) for on, length, pitch, _, v in self._part_notes(role, LEAD)[0].tolist()
            ]
            return lines.thirds(tune, cycle)
        pattern = "long" if role == "end" else its.role
        low = its.low - 14 if pattern == "riff" and genre in ("rock", "metal") else its.low
        return chords.PATTERNS[pattern](cycle, low, rng)

    def _drums(self, section: Section, rng: np.random.Generator) -> np.ndarray:
        pattern = self._materials[section.role].drums
        if DRUMS_PART not in section.parts or pattern == "none":
            return np.zeros((0, 5))
        metre = METRES[self.metre]
        strokes = rhythm.drum_bars(
            pattern,
            metre,
            round(section.length / metre.beats),
            rng.random() < 0.6 and pattern not in ("swing", "brushes"),
            rng,
        )
        if section.role in ("chorus", "hook", "drop", "solo") and rng.random() < 0.5:
            strokes.append((0.0, 1.0, rhythm.CRASH, 100))
        return np.insert(np.array(strokes, np.float64).reshape(-1, 4), 3, DRUMS_PART, axis=1)


def compose(
    seed: int, index: int, *, tonic: int | None = None, style: str = "", mode: str = "", modulates: bool = False
) -> Song:
    """Compose a song.

    Parameters
    ----------
    seed, index : what it is drawn from: the same two make the same song.
    tonic : pitch class, drawn if None.
    style : of `styles.STYLES`; drawn if empty, genres alike.
    mode : "major" or "minor"; as the style has it if empty.
    modulates : whether the last refrain and all that follows it is 1 to 3 semitones higher.

    Raises
    ------
    KeyMynaError
        When there is no such style or mode.
    """
    if style and style not in STYLES:
        raise KeyMynaError(f"style {style!r}: expected one of {', '.join(STYLES)}.")
    if mode and mode not in keys.MODES:
        raise KeyMynaError(f"mode {mode!r}: expected one of {keys.MODES}.")
    rng = numpy_stream(seed, "song", index)
    drawn_tonic = int(rng.random() * 12)
    style = style or _drawn_style(rng)
    its = STYLES[style]
    kinds = {name: weight for name, weight in its.kinds.items() if mode in ("", KINDS[name].mode)}
    kind = pick(kinds or {name: 1 for name in KINDS if KINDS[name].mode == mode}, rng)
    metre = pick({name: w for name, w in its.metres.items() if _drums_fitting(its, METRES[name])}, rng)
    tempo = round(its.tempo[0] + (its.tempo[1] - its.tempo[0]) * rng.random(), 2)
    tempo = max(_SLOWEST, round(tempo * _SIX_EIGHT, 2)) if metre == "6/8" else tempo
    swing = round(its.swing[0] + (its.swing[1] - its.swing[0]) * rng.random(), 3)
    swing = swing if METRES[metre].steps == 4 else 0.5
    parts = _drawn_parts(its, rng)
    form = [
        (word.rstrip("0123456789"), int(word.lstrip("abcdefghijklmnopqrstuvwxyz")))
        for word in FORMS[pick(its.forms, rng)].split()
    ]
    if rng.random() < 0.7:
        form.append(("end", 2))
    cycles = _drawn_cycles(KINDS[kind], its, METRES[metre], tuple(dict.fromkeys(role for role, _ in form)), rng)
    key = keys.key_index(0, KINDS[kind].mode)
    lift = pick(_LIFTS, rng)
    sections = _sections(form, cycles, METRES[metre], key, parts, its, lift if modulates else 0, rng)
    materials = _materials(cycles, sections, its, METRES[metre], rng)
    song = Song(seed, index, style, kind, key, tempo, metre, swing, parts, sections, materials)
    return song.in_key_of(drawn_tonic if tonic is None else tonic)


def _materials(
    cycles: Mapping[str, Cycle], sections: tuple[Section, ...], style: Style, metre: Metre, rng: np.random.Generator
) -> dict[str, Material]:
    fitting = _drums_fitting(style, metre)
    usual = pick(fitting, rng)
    refrain = next(role for role in _REFRAINS if role in cycles)
    materials = {}
    for role, cycle in cycles.items():
        other = role in ("chorus", "hook", "solo", "bridge") and rng.random() < 0.25
        alike = next(name for name, its in cycles.items() if its == cycle)
        hook = role in ("intro", "outro", "interlude", "build") and cycle == cycles[refrain]
        low, high = style.density
        materials[role] = Material(
            cycle,
            alike,
            refrain if hook else role,
            round(max(s.length for s in sections if s.role == role) / metre.beats),
            low + (high - low) * rng.random(),
            pick(fitting, rng) if other else usual,
        )
    return materials


def _drawn_style(rng: np.random.Generator) -> str:
    by_genre: dict[str, list[str]] = {}
    for name, its in STYLES.items():
        by_genre.setdefault(its.genre, []).append(name)
    genre = list(by_genre)[int(rng.random() * len(by_genre))]
    return by_genre[genre][int(rng.random() * len(by_genre[genre]))]


def _drums_fitting(style: Style, metre: Metre) -> dict[str, float]:
    steps = metre.beats * metre.steps
    waltz = metre == METRES["3/4"]
    return {
        name: weight
        for name, weight in style.drums.items()
        if all(len(row) == steps for row in DRUMS[name].values())
        and (not DRUMS[name] or steps != 12 or ("waltz" in name) == waltz)
    }


def _drawn_parts(style: Style, rng: np.random.Generator) -> tuple[Part, ...]:
    bass_role = pick(style.bass, rng)
    parts = [
        Part("lead", pick(style.voices, rng), style.voices, 55 + int(rng.random() * 11), 0.0),
        Part(bass_role, pick(style.bass_sounds, rng), style.bass_sounds, _BASS_LOW, 0.25),
        Part("solo", pick(style.solos, rng), style.solos, 57 + int(rng.random() * 10), 0.0),
    ]
    chances = rng.random(len(style.layers)).tolist()
    for layer in [layer for layer, chance in zip(style.layers, chances) if chance < layer.chance]:
        role, sound = pick(layer.patterns, rng), pick(layer.sounds, rng)
        parts.append(Part(role, sound, layer.sounds, 50 + int(rng.random() * 9), layer.energy))
    if all(part.role in _OCCASIONAL for part in parts[SOLO + 1 :]):
        layer = style.layers[0]
        parts.append(Part(pick(layer.patterns, rng), pick(layer.sounds, rng), layer.sounds, 52, layer.energy))
    return tuple(parts)


def _drawn_cycles(
    kind: Kind, style: Style, metre: Metre, roles: tuple[str, ...], rng: np.random.Generator
) -> dict[str, Cycle]:
    """What each kind of section plays over: verse and chorus often the same, the bridge something else."""
    colour = pick(kind.colours, rng)
    scale = pick(kind.scales, rng)
    riff, riff_length = lines.draw_riff(metre, _riff_scale(kind, rng), style.syncopation, rng)

    def cycle(progression: Progression) -> Cycle:
        onsets, durations, found = zip(*progression)
        onsets = tuple(onset * metre.beats for onset in onsets)
        length = onsets[-1] + durations[-1] * metre.beats
        return Cycle(onsets, found, length, metre, scale, riff, riff_length, style.syncopation)

    def drawn(name: str = "") -> Progression:
        its = KINDS[name] if name else kind
        return draw_progression(its, colour if colour in its.colours else pick(its.colours, rng), rng)

    def closing(progression: Progression) -> Progression:
        """The last chord leads back to the tonic."""
        *first, (onset, duration, _) = progression
        close = chord(pick(kind.close, rng))
        if first:
            return (*first, (onset, duration, close))
        return (onset, duration / 2, progression[0][2]), (onset + duration / 2, duration / 2, close)

    main = drawn()
    contrast = kind.bridges[int(rng.random() * len(kind.bridges))]
    one_loop = rng.random() < (0.75 if style.genre in ("electronic", "hip-hop", "blues", "jazz") else 0.35)
    refrain = main if one_loop or not kind.bars else drawn() if rng.random() < 0.75 else drawn(contrast)
    bridge = closing(drawn(contrast)) if kind.bars else main
    before = closing(drawn()) if kind.bars else main
    tonic = next((c for _, _, c in main if c.root == 0 and c.bass == 0), chord("I" if kind.mode == "major" else "i"))
    found = {
        "verse": main,
        "head": main,
        "chorus": refrain,
        "hook": refrain,
        "drop": refrain,
        "solo": main if rng.random() < 0.6 else refrain,
        "intro": main if rng.random() < 0.6 else refrain,
        "outro": refrain,
        "break": main,
        "build": main if rng.random() < 0.5 else before,
        "interlude": main,
        "prechorus": before,
        "bridge": bridge,
        "end": ((0.0, 2.0, tonic),),
    }
    return {role: cycle(found[role]) for role in roles}


def _riff_scale(kind: Kind, rng: np.random.Generator) -> str:
    if kind.mode == "minor":
        return pick({"minor pentatonic": 4, "minor blues": 2, "minor": 1}, rng)
    return pick({"major pentatonic": 3, "mixed blues": 1 if len(kind.scales) > 1 else 0, "major": 1}, rng)


def _sections(
    form: list[tuple[str, int]],
    cycles: dict[str, Cycle],
    metre: Metre,
    key: int,
    parts: tuple[Part, ...],
    style: Style,
    lift: int,
    rng: np.random.Generator,
) -> tuple[Section, ...]:
    refrains = [i for i, (role, _) in enumerate(form) if role == next(r for r in _REFRAINS if r in cycles)]
    sings = {role: rng.random() < style.melody for role in cycles}
    hums = {role: rng.random() < 0.3 for role in cycles}
    start, sections = 0.0, []
    for i, (role, bars) in enumerate(form):
        cycle = cycles[role]
        length = float(bars * metre.beats)
        if length < cycle.length or not _squares(cycle, metre):
            length = cycle.length * max(1, round(length / cycle.length))
        energy = ENERGY.get(role, 0.6) + 0.15 * rng.standard_normal()
        playing = [j for j, part in enumerate(parts) if j > SOLO and part.energy <= energy]
        if all(parts[j].role in _OCCASIONAL for j in playing):
            playing.append(next(j for j in range(SOLO + 1, len(parts)) if parts[j].role not in _OCCASIONAL))
        has_bass = rng.random() < {"intro": 0.6, "break": 0.35}.get(role, 0.97)
        has_drums = rng.random() < {"intro": 0.5, "break": 0.2, "bridge": 0.75, "build": 0.7, "end": 0.3}.get(
            role, 0.97
        )
        sung = sings[role] if role in _TUNEFUL else hums[role] and role not in ("solo", "end")
        playing += [LEAD] * sung + [BASS] * has_bass + [DRUMS_PART] * has_drums + [SOLO] * (role == "solo")
        if not sung:
            playing = [j for j in playing if j < 0 or parts[j].role != "thirds"]
        local = int(keys.transpose(key, lift)) if lift and refrains and i >= refrains[-1] else key
        found = tuple(zip(cycle.onsets, np.diff((*cycle.onsets, cycle.length)).tolist(), cycle.chords))
        sections.append(Section(role, start, length, found, local, tuple(sorted(set(playing)))))
        start += length
    return tuple(sections)


def _squares(cycle: Cycle, metre: Metre) -> bool:
    """Whether a cycle fits into sections of 4, 8, 16 bars without remainder."""
    bars = cycle.length / metre.beats
    return bars in (1, 2, 4, 8, 16)


def _solo_scale(scale: str, rng: np.random.Generator) -> str:
    usual = {
        "minor": "minor pentatonic",
        "dorian": "minor blues",
        "major": "major pentatonic",
        "mixolydian": "mixed blues",
    }
    return usual.get(scale, scale) if rng.random() < 0.5 else scale
