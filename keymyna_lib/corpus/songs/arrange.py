"""Seeded arrangements of songs: an excerpt, its instruments, balance, tuning, room and production, as JSON.

The same description as of scores (see `rendered.arrange`), played by `sound.render`. With scope "piece" the excerpt
keeps its instruments and its sound throughout, as recordings do; with "section" both change every 5 to 8 s, among what
the style allows. All ranges are our choice.
"""

from __future__ import annotations

import numpy as np

from keymyna_lib.corpus.songs.compose import Part, Song
from keymyna_lib.corpus.songs.grammar import pick
from keymyna_lib.corpus.songs.styles import SOUNDS, STYLES
from keymyna_lib.corpus.sound import production
from keymyna_lib.corpus.sound.draws import TEMPO_FACTOR, section_length, uniform

# dB by role; other parts at the last.
LEVELS = {"lead": (-4.0, 3.0), "solo": (-3.0, 3.0), "bass": (-5.0, 3.0), "thirds": (-12.0, -4.0), "long": (-13.0, -4.0)}
OTHER_LEVEL = (-10.0, -1.0)
# Kits (presets of bank 128) and the level of the drums [dB, relative to the pitched parts], by genre.
KITS = {
    "blues": (0, 8),
    "country": (0, 8),
    "disco": (0, 8, 24),
    "hip-hop": (25, 24, 0),
    "jazz": (40, 0),
    "rock": (0, 8, 16),
    "metal": (16, 0),
    "pop": (0, 8, 16, 24),
    "reggae": (0, 8),
    "electronic": (24, 25),
    "soul": (0, 8),
    "latin": (0, 8),
}
DRUM_LEVELS = {"jazz": (-14.0, -4.0), "country": (-12.0, -2.0), "hip-hop": (-6.0, 4.0), "electronic": (-6.0, 4.0)}
OTHER_DRUM_LEVEL = (-9.0, 2.0)
LEVEL = (-12.0, 0.0)  # dB, of a section with scope "section"
REVERB_TIME = (0.15, 1.5)  # s for a decay of 60 dB
REVERB_LEVEL = (-24.0, -6.0)  # dB, power relative to the dry sound
NOISE_COLOUR = (0.0, 2.0)  # power falls as frequency^-colour


def arrange(
    song: Song,
    transposition: int,
    *,
    seconds: float,
    scope: str,
    detune_cents: float,
    snr_db: tuple[float, float],
    rng: np.random.Generator,
) -> dict:
    """Draw an arrangement of an excerpt from anywhere in a song.

    Parameters
    ----------
    song : with tonic C; times in beats.
    transposition : semitones.
    seconds : of the excerpt, or the whole song if that is shorter [s].
    scope : "piece" or "section".
    detune_cents, snr_db : as of `rendered.arrange.ArrangementConfig`.
    rng : seeded by piece.

    Returns
    -------
    dict
        As of `rendered.arrange.arrange`; the sections have "drums" without "strokes" (the song's notes hold them),
        "parts" (a chain of effects each) and, with scope "section", a "production"; with scope "piece" the whole has
        one. "song" is the seed and number that it is composed from.
    """
    style = STYLES[song.style]
    duration = min(float(seconds), song.seconds)
    beat = round(float(rng.random() * (song.length - duration * song.tempo / 60)), 3)
    whole = scope == "piece"
    time, sections = 0.0, []
    while duration - time > 1e-3 and song.length - beat > 1e-3:
        tempo = song.tempo if whole else round(song.tempo * uniform(rng, TEMPO_FACTOR), 3)
        remaining = min(duration - time, (song.length - beat) * 60 / tempo)
        length = remaining if whole else section_length(remaining, rng)
        programmes = [_programme(part, rng, drawn_anew=not whole) for part in song.parts]
        cents = uniform(rng, (-detune_cents, detune_cents))
        section = {
            "start": time,
            "length": length,
            "beat": beat,
            "tempo": tempo,
            "programmes": programmes,
            "levels": [uniform(rng, _level(part, i)) for i, part in enumerate(song.parts)],
            "octave": 0,
            "cents": cents,
            "drums": {
                "kit": int(rng.choice(KITS[style.genre])),
                "level": uniform(rng, DRUM_LEVELS.get(style.genre, OTHER_DRUM_LEVEL)),
            },
            "parts": [production.draw_part(programme, style.production, rng) for programme in programmes],
            "level": 0.0 if whole else uniform(rng, LEVEL),
            "reverb_time": uniform(rng, REVERB_TIME),
            "reverb_level": uniform(rng, REVERB_LEVEL),
            "snr": uniform(rng, snr_db),
            "colour": uniform(rng, NOISE_COLOUR),
            "seed": int(rng.integers(2**32)),
        }
        if not whole:
            section["production"] = production.draw(style.production, rng, cents=0.0)
        sections.append(section)
        time, beat = round(time + length, 6), round(beat + length * tempo / 60, 6)
    arrangement = {
        "song": [song.seed, song.index],
        "transposition": int(transposition),
        "tempo": song.tempo,
        "duration": time,
        "sections": sections,
    }
    if whole:
        room = max(0.0, detune_cents - abs(sections[0]["cents"]))  # tuning and speed together stay within detune_cents
        arrangement["production"] = production.draw(style.production, rng, cents=room)
    return arrangement


def excerpt(arrangement: dict) -> tuple[float, float]:
    """First and last beat of an arrangement."""
    last = arrangement["sections"][-1]
    return arrangement["sections"][0]["beat"], last["beat"] + last["length"] * last["tempo"] / 60


def _programme(part: Part, rng: np.random.Generator, *, drawn_anew: bool) -> int:
    """A programme of the part's sound, or of any sound that the style has for such a part."""
    sound = SOUNDS[pick(part.sounds, rng) if drawn_anew else part.sound]
    first = 0.5  # the usual one most often
    return sound[0] if rng.random() < first else sound[int(rng.random() * len(sound))]


def _level(part: Part, i: int) -> tuple[float, float]:
    return LEVELS.get("bass" if i == 1 else part.role, OTHER_LEVEL)
