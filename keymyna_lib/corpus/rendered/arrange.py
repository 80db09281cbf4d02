"""Seeded arrangements: instruments, tempo, tuning, room and noise of a score, as a plain description in JSON.

An arrangement imitates what makes recordings hard, and prevents anything except the notes from identifying a piece:
with scope "section" a piece is cut into sections of 5 to 8 s, and each draws its own tempo (around the piece's),
octave, tuning, instruments, balance, drums, level, room and noise. Whatever is constant within a piece is a shortcut
for a contrastive task. With scope "piece" there is one section, the whole piece, as in most recordings. All ranges are
our choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keymyna_lib.base.checks import RANGES, at_least, check, one_of
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.corpus.sound.draws import TEMPO_FACTOR, section_length, uniform
from keymyna_lib.corpus.sound.programmes import DRUM_KITS, FAMILIES, HATS, KICKS, SNARES

if TYPE_CHECKING:
    from keymyna_lib.corpus.rendered.scores import Score

ENSEMBLE_PROBABILITY = 0.4  # all parts on one programme: a choir, an organ, a consort

SCOPES = ("section", "piece")
MIXED = "mixed"  # of a corpus: either of these for each piece
TEMPO = {"chorale": (60.0, 100.0), "tune": (90.0, 160.0)}  # beats per minute
PITCH_RANGE = (36, 96)  # MIDI; octave shifts stay inside
PART_LEVEL = (-9.0, 0.0)  # dB, balance between the parts
DRUM_LEVEL = (-15.0, -3.0)  # dB, power relative to the pitched instruments
SECTION_LEVEL = (-12.0, 0.0)  # dB
REVERB_TIME = (0.15, 1.5)  # s for a decay of 60 dB
REVERB_LEVEL = (-20.0, -3.0)  # dB, power relative to the dry sound
NOISE_COLOUR = (0.0, 2.0)  # power falls as frequency^-colour: white 0, pink 1, brown 2


@dataclass(frozen=True, kw_only=True)
class ArrangementConfig:
    """What an arrangement may draw.

    seconds : longest excerpt, from a piece's beginning [s].
    scope : "section" draws instruments, drums, tuning, level, room, noise anew every 5 to 8 s, "piece" once; "mixed" is
        for a corpus, see `scope_of`.
    drum_probability : share of sections with drums.
    detune_cents : tuning offsets are uniform between minus and plus this [cents].
    snr_db : signal-to-noise ratios are uniform between these two [dB].

    Raises
    ------
    KeyMynaError
        When a value is out of range.
    """

    seconds: float
    scope: str
    drum_probability: float
    detune_cents: float
    snr_db: tuple[float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "snr_db", tuple(self.snr_db))
        check(
            self,
            {
                "seconds": at_least(1),
                "scope": one_of((*SCOPES, MIXED)),
                **{name: RANGES[name] for name in ("drum_probability", "detune_cents", "snr_db")},
            },
        )


def scope_of(scope: str, piece_id: str, seed: int) -> str:
    """Scope of a piece, "section" or "piece": that of its corpus, or with "mixed" one or the other by chance.

    The draw depends on the piece's name and the seed alone, so that a piece keeps its scope in a larger corpus.
    """
    if scope != MIXED:
        return scope
    return SCOPES[numpy_stream(seed, "scope", piece_id).integers(len(SCOPES))]


def arrange(score: Score, transposition: int, config: ArrangementConfig, rng: np.random.Generator) -> dict:
    """Draw an arrangement of the first `config.seconds` of a piece.

    Parameters
    ----------
    score : the piece; times in beats.
    transposition : semitones.
    config : what may be drawn; its scope is the piece's.
    rng : seeded by piece, so that the order of work never matters.

    Returns
    -------
    dict
        "transposition" [semitones], "tempo" [beats per minute], "duration" [s] and "sections", a list of
        dicts: "start", "length" [s]; "beat" (at its start), "tempo"; "octave" [semitones], "cents";
        "programmes", "levels" [dB] (one per part); "drums" (None or a pattern of one bar); "level" [dB];
        "reverb_time" [s], "reverb_level" [dB]; "snr" [dB], "colour"; "seed" of the draws made while rendering
        (velocities, impulse response, noise).

    Raises
    ------
    KeyMynaError
        When there are more than 15 parts, or the scope is that of a corpus.
    """
    n_parts = int(score.notes[:, 3].max()) + 1
    if n_parts > 15:
        raise KeyMynaError(f"{score.piece_id} has {n_parts} parts; MIDI has channels for 15 and the drums.")
    if config.scope not in SCOPES:
        raise KeyMynaError(f"scope {config.scope!r} is a corpus's; a piece has one of {', '.join(SCOPES)}.")
    tempo = uniform(rng, TEMPO[score.source])
    beat, end = float(score.notes[0, 0]), float((score.notes[:, 0] + score.notes[:, 1]).max())
    time, sections = 0.0, []
    while end - beat > 1e-3 and config.seconds - time > 1e-3:
        section_tempo = round(tempo * uniform(rng, TEMPO_FACTOR), 3)
        remaining = min(config.seconds - time, (end - beat) * 60 / section_tempo)
        length = section_length(remaining, rng) if config.scope == "section" else remaining
        stop = beat + length * section_tempo / 60
        sections.append(
            {
                "start": time,
                "length": length,
                "beat": beat,
                "tempo": section_tempo,
                "programmes": _programmes(n_parts, sections[-1]["programmes"] if sections else (), rng),
                "levels": [uniform(rng, PART_LEVEL) for _ in range(n_parts)],
                "octave": _octave(score.notes, beat, stop, transposition, rng),
                "cents": uniform(rng, (-config.detune_cents, config.detune_cents)),
                "drums": _drums(score, rng) if rng.random() < config.drum_probability else None,
                "level": uniform(rng, SECTION_LEVEL),
                "reverb_time": uniform(rng, REVERB_TIME),
                "reverb_level": uniform(rng, REVERB_LEVEL),
                "snr": uniform(rng, config.snr_db),
                "colour": uniform(rng, NOISE_COLOUR),
                "seed": int(rng.integers(2**32)),
            }
        )
        time, beat = round(time + length, 6), round(stop, 6)
    return {"transposition": int(transposition), "tempo": tempo, "duration": time, "sections": sections}


def shorten_rests(notes: np.ndarray, longest: float = 2.0) -> np.ndarray:
    """Cut rests of all parts, including the opening one, to `longest` beats.

    Some chorales pause while instruments play on. Takes and returns (note, 4) notes sorted by onset.

    >>> shorten_rests(np.array([[0.0, 1.0, 60, 0], [9.0, 1.0, 62, 0]]))[:, 0]
    array([0., 3.])
    """
    silent_from = np.maximum.accumulate(np.append(0, notes[:-1, 0] + notes[:-1, 1]))
    notes = notes.copy()
    notes[:, 0] -= np.cumsum(np.maximum(notes[:, 0] - silent_from - longest, 0))
    return notes


def _programmes(n_parts: int, previous: tuple | list, rng: np.random.Generator) -> list[int]:
    """One programme per part, drawn by family first, so that none dominates; none of the previous section's."""
    fresh = {name: [p for p in family if p not in previous] for name, family in FAMILIES.items()}
    families = [programmes for programmes in fresh.values() if programmes]

    def draw() -> int:
        programmes = families[rng.integers(len(families))]
        return programmes[rng.integers(len(programmes))]

    if rng.random() < ENSEMBLE_PROBABILITY:
        return [draw()] * n_parts
    return [draw() for _ in range(n_parts)]


def _octave(notes: np.ndarray, start: float, stop: float, transposition: int, rng: np.random.Generator) -> int:
    """-12, 0 or 12 semitones that keep the notes between two beats inside PITCH_RANGE; else 0."""
    sounding = notes[(notes[:, 0] < stop) & (notes[:, 0] + notes[:, 1] > start), 2]
    low, high = (sounding.min(), sounding.max()) if len(sounding) else (60, 60)
    lowest, highest = PITCH_RANGE[0] - transposition, PITCH_RANGE[1] - transposition
    shifts = [s for s in (-12, 0, 12) if lowest <= low + s and high + s <= highest] or [0]
    return shifts[rng.integers(len(shifts))]


def _drums(score: Score, rng: np.random.Generator) -> dict:
    """A pattern of one bar: beats of kick, snare and hi-hat, from the section's start; keys; kit."""
    onsets = score.notes[:, 0] % 1
    thirds = (np.abs(onsets[:, None] - [1 / 3, 2 / 3]) < 0.02).sum() > (np.abs(onsets - 0.5) < 0.02).sum()
    steps = np.round(np.arange(0, score.beats_per_bar, 1 / 3 if thirds else 1 / 2), 4)
    on_beat = steps % 1 == 0
    kick = rng.random(len(steps)) < np.where(on_beat, 0.4, 0.15)
    kick[0] = True
    snare = rng.random(len(steps)) < np.where(on_beat & (steps % 2 == 1), 0.8, 0.1)
    hat = rng.random(len(steps)) < np.where(on_beat, 0.9, rng.choice([0.1, 0.9]))
    return {
        "kit": int(rng.choice(DRUM_KITS)),
        "bar": score.beats_per_bar,
        "level": uniform(rng, DRUM_LEVEL),
        "strokes": [
            [int(rng.choice(keys)), steps[hits].tolist()]
            for keys, hits in ((KICKS, kick), (SNARES, snare), (HATS, hat))
        ],
    }
