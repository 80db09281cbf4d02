"""Music whose key changes, with the key at every moment: synthetic songs that modulate, and chorales with analyses.

The songs are ours (`songs.compose`); most of a song is in one key, and the end a little higher. The chorales are those
of Bach's that music21's corpus holds twice: as a score, and as an analysis in Roman numerals by experts (Andrew Jones
and Dmitri Tymoczko), which names local keys. Its madrigals by Monteverdi have analyses too, and are left out: their
music is older than major and minor. An analysis is kept only when it fits the score: under most of the chords that it
calls a tonic in root position, the bass has to be the tonic.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keymyna_lib import keys
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.corpus.rendered import arrange, notation
from keymyna_lib.corpus.rendered.scores import Score, chorale_file
from keymyna_lib.corpus.songs import arrange as song_arrange
from keymyna_lib.corpus.songs.compose import compose
from keymyna_lib.corpus.sound import render
from keymyna_lib.corpus.sound.production import speed

FITTING = 0.8  # least share of tonic chords over the tonic
_MIDDLE = (0.3, 0.7)  # of an excerpt, where a song changes its key
_LOCAL_KEY = re.compile(r"([A-Ga-g])([#b]*):")


class LocalKey(NamedTuple):
    """start, end [s or beats]; key 0 to 23."""

    start: float
    end: float
    key: int


@dataclass(frozen=True)
class Passage:
    """Music with its local keys, ready to be rendered.

    name : of the piece.
    notes, arrangement : as of `render.render`.
    local_keys : end to end, from 0 to the end [s], as it sounds.
    """

    name: str
    notes: np.ndarray
    arrangement: dict
    local_keys: tuple[LocalKey, ...]

    def audio(self) -> np.ndarray:
        """(sample,) int16 at 16 kHz."""
        return render.render(self.notes, self.arrangement)


def song_passage(
    seed: int, index: int, *, modulates: bool, seconds: float, detune_cents: float, snr_db: tuple[float, float]
) -> Passage:
    """An excerpt of a synthetic song; if it modulates, it does so in the excerpt's middle part.

    Parameters
    ----------
    seed, index : of the song.
    seconds : of the excerpt, or the whole song if that is shorter [s].
    detune_cents, snr_db : as of `songs.arrange.arrange`.
    """
    song = compose(seed, index, tonic=0, modulates=modulates)
    rng = numpy_stream(seed, "song with local keys", index)
    arrangement = song_arrange.arrange(
        song,
        int(rng.integers(12)) - 6,
        seconds=seconds,
        scope="piece",
        detune_cents=detune_cents,
        snr_db=snr_db,
        rng=rng,
    )
    changes = song.local_keys()
    if len(changes) > 1:
        (section,) = arrangement["sections"]
        beats = section["length"] * section["tempo"] / 60
        section["beat"] = float(np.clip(changes[1][0] - rng.uniform(*_MIDDLE) * beats, 0, song.length - beats))
    return _passage(f"song-{seed}-{index:06d}", song.notes(*song_arrange.excerpt(arrangement)), arrangement, changes)


def chorale_passages(
    seed: int,
    *,
    detune_cents: float,
    snr_db: tuple[float, float],
    without: Container[str] = (),
    count: int | None = None,
) -> Iterator[Passage]:
    """The chorales with fitting analyses, whole, each on instruments that it keeps; `count` of them at most.

    Parameters
    ----------
    without : pieces to leave out, such as those that a model was trained on.
    """
    config = arrange.ArrangementConfig(
        seconds=3600, scope="piece", drum_probability=0.0, detune_cents=detune_cents, snr_db=snr_db
    )
    wanted = (one for one in analysed_chorales() if one[0] not in without)
    for name, notes, changes in itertools.islice(wanted, count):
        score = Score(name, "chorale", "bach", "", changes[0][1], 4, True, notes)
        rng = numpy_stream(seed, "chorale with local keys", name)
        yield _passage(name, notes, arrange.arrange(score, int(rng.integers(12)) - 6, config, rng), changes)


def _passage(name: str, notes: np.ndarray, arrangement: dict, changes: Sequence[tuple[float, int]]) -> Passage:
    """With local keys [s] of an arrangement in one section, from (first beat, key) of the untransposed piece."""
    (section,) = arrangement["sections"]
    seconds_per_beat = 60 / section["tempo"] / 2 ** (speed(arrangement.get("production")) / 1200)
    end = render.n_samples(arrangement) / render.SAMPLE_RATE
    times = [(beat - section["beat"]) * seconds_per_beat for beat, _ in changes]
    found: list[LocalKey] = []
    for begin, after, (_, key) in zip([0.0, *times[1:]], [*times[1:], end], changes):
        begin, after = max(begin, 0.0), min(after, end)
        if after - begin > 1e-6:
            found.append(LocalKey(begin, after, int(keys.transpose(key, arrangement["transposition"]))))
    return Passage(name, notes, arrangement, tuple(found))


def analysed_chorales() -> list[tuple[str, np.ndarray, tuple[tuple[float, int], ...]]]:
    """(name, notes (note, 4), (first beat, key) of each stretch in one key) of the chorales whose analyses fit.

    All of them have simple metres, so that a beat is a quarter in score and analysis.
    """
    from music21.corpus.chorales import ChoraleListRKBWV  # slow to import, and needed only here

    numbered = ChoraleListRKBWV().byRiemenschneider
    corpus = Path(importlib.util.find_spec("music21").submodule_search_locations[0]) / "corpus"
    found = []
    for path in sorted((corpus / "bach/choraleAnalyses").glob("*.rntxt")):
        name = f"bwv{numbered[int(path.stem[-3:])]['bwv']}"
        data = chorale_file(next((corpus / "bach").glob(f"{name}.[mx][xm]l")))
        parsed, bars = notation.read_musicxml(data), notation.measure_onsets(data)
        if parsed is None:
            continue
        changes, tonics = read_analysis(path.read_text(encoding="utf-8"), bars)
        if changes and _fit(parsed[0], tonics) >= FITTING:
            found.append((name, parsed[0], changes))
    return found


def read_analysis(
    text: str, bars: dict[int, tuple[float, float]]
) -> tuple[tuple[tuple[float, int], ...], list[tuple[float, int]]]:
    """Where an analysis in music21's RomanText has its keys, and where it has their tonic triads in root position.

    Variants are left out. A beat in an upbeat is counted back from the bar line after it.

    Parameters
    ----------
    text : lines as "m2 IV6 F: I6 b2 I": a bar, chords, "b" and a beat, local keys, of which small letters are minor.
    bars : (onset, length) [beats] of each bar of the score, see `notation.measure_onsets`.

    Returns
    -------
    (first beat, key) of each stretch in one key, and (beat, key) of each such chord.
    """
    changes: list[tuple[float, int]] = []
    tonics = []
    usual = float(np.median([length for _, length in bars.values()]))
    for number, line in re.findall(r"(?m)^m(\d+)\s+(.*)$", text):
        if int(number) not in bars:
            continue
        onset, length = bars[int(number)]
        first = onset - (usual - length) * (int(number) == min(bars))
        beat = max(first, onset)
        for token in line.split():
            if placed := re.fullmatch(r"b(\d+(?:\.\d+)?)", token):
                beat = max(first + float(placed[1]) - 1, onset)
            elif named := _LOCAL_KEY.fullmatch(token):
                letter, accidentals = named.groups()
                key = keys.parse_key(f"{letter.upper()}{accidentals} {'minor' if letter.islower() else 'major'}")
                if changes and changes[-1][0] == beat:
                    changes.pop()  # a chord that is read in three keys
                if not changes or changes[-1][1] != key:
                    changes.append((beat, key))
            elif token == ("i" if changes and keys.is_minor(changes[-1][1]) else "I") and changes:
                tonics.append((beat, changes[-1][1]))
    return tuple(changes), tonics


def _fit(notes: np.ndarray, tonics: Sequence[tuple[float, int]]) -> float:
    """Share of the tonic chords whose lowest note is the tonic; 0 without any."""
    right = []
    for beat, key in tonics:
        sounding = (notes[:, 0] <= beat + 0.01) & (notes[:, 0] + notes[:, 1] > beat + 0.01)
        pitches = notes[sounding, 2]
        right.append(len(pitches) > 0 and keys.pitch_class(int(pitches.min())) == keys.tonic(key))
    return float(np.mean(right)) if right else 0.0
