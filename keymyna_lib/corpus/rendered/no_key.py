"""Sound without a key, made when it is needed: noise of several colours, drums alone, and twelve-tone rows.

A system that always names a key is wrong about all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keymyna_lib.base.checks import at_least, check
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.corpus.rendered import arrange
from keymyna_lib.corpus.rendered.scores import Score
from keymyna_lib.corpus.songs import arrange as song_arrange
from keymyna_lib.corpus.songs.compose import compose
from keymyna_lib.corpus.sound import render
from keymyna_lib.corpus.sound.effects import add_noise, with_rms
from keymyna_lib.spectrogram import PEAK, SAMPLE_RATE

KINDS = ("noise", "drums", "atonal")
_COLOURS = (0.0, 1.0, 2.0)  # white, pink, brown
_LENGTHS = (0.25, 0.5, 0.5, 1.0, 1.5)  # beats of an atonal note
_REGISTERS = (72, 60, 48)  # lowest pitch of each atonal part
_PER_SONG = 20  # songs that may be tried until one has drums enough
_STROKES = 4  # a second; drums with fewer may be next to silent


@dataclass(frozen=True, kw_only=True)
class NoKeyConfig:
    """What is made.

    count : recordings of each of KINDS.
    seconds : of each [s].
    seed : of every draw.
    detune_cents, snr_db : as of `arrange.ArrangementConfig`, of drums and atonal music.

    Raises
    ------
    KeyMynaError
        When a value is out of range.
    """

    count: int
    seconds: float
    seed: int
    detune_cents: float = 30.0
    snr_db: tuple[float, float] = (5.0, 40.0)

    def __post_init__(self) -> None:
        check(self, {"count": at_least(1), "seconds": at_least(1)}, of="sound without a key")


def recordings(config: NoKeyConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, (sample,) int16 at 16 kHz) of each recording, kind by kind."""
    makers = {"noise": coloured_noise, "drums": drums_alone, "atonal": twelve_tone}
    for kind in KINDS:
        for number in range(config.count):
            yield kind, makers[kind](config, number)


def coloured_noise(config: NoKeyConfig, number: int) -> np.ndarray:
    """White, pink and brown noise in turn, (sample,) int16."""
    rng = numpy_stream(config.seed, "noise", number)
    silence = with_rms(np.ones(round(config.seconds * SAMPLE_RATE), np.float32), 0.0)
    noise = add_noise(silence, 0.0, _COLOURS[number % len(_COLOURS)], rng) - silence
    return np.round(noise * (PEAK * 32767 / np.abs(noise).max())).astype(np.int16)


def drums_alone(config: NoKeyConfig, number: int) -> np.ndarray:
    """The drums of a synthetic song, in its room and with its noise, (sample,) int16.

    Raises
    ------
    KeyMynaError
        When none of many songs has drums, which is not to be expected.
    """
    rng = numpy_stream(config.seed, "drums", number)
    for i in range(_PER_SONG):
        song = compose(config.seed, _PER_SONG * number + i, tonic=0)
        arrangement = song_arrange.arrange(
            song,
            0,
            seconds=config.seconds,
            scope="piece",
            detune_cents=config.detune_cents,
            snr_db=config.snr_db,
            rng=rng,
        )
        notes = song.notes(*song_arrange.excerpt(arrangement))
        strokes = notes[notes[:, 3] == render.DRUM_PART]
        if len(strokes) >= _STROKES * arrangement["duration"]:
            return render.render(strokes, arrangement)
    raise KeyMynaError(f"seed {config.seed} draws {_PER_SONG} songs without drums; take another seed.")


def twelve_tone_notes(beats: float, rng: np.random.Generator) -> np.ndarray:
    """(note, 4) onset [beats], duration [beats], MIDI pitch, part: each part plays rows of all twelve pitch classes.

    No pitch class comes again before the others have been there (the rule of dodecaphony), so that none is the tonic.
    """
    notes = []
    for part, low in enumerate(_REGISTERS):
        onset, row = 0.0, np.empty(0, int)
        while onset < beats:
            if not len(row):
                row = rng.permutation(12)
            length = float(rng.choice(_LENGTHS))
            notes.append((onset, length, low + row[0], part))
            onset, row = onset + length, row[1:]
    found = np.array(notes, np.float32)
    return found[np.lexsort((found[:, 2], found[:, 3], found[:, 0]))]


def twelve_tone(config: NoKeyConfig, number: int) -> np.ndarray:
    """Atonal music in three parts on instruments drawn by chance, (sample,) int16."""
    rng = numpy_stream(config.seed, "atonal", number)
    notes = twelve_tone_notes(4 * config.seconds, rng)  # longer than any tempo can need
    score = Score(f"atonal-{number}", "tune", "", "", 0, 4, False, notes)
    drawn = arrange.ArrangementConfig(
        seconds=config.seconds,
        scope="piece",
        drum_probability=0.0,
        detune_cents=config.detune_cents,
        snr_db=config.snr_db,
    )
    return render.render(notes, arrange.arrange(score, 0, drawn, rng))
