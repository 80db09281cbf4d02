"""Arrangement to audio: TinySoundFont with a General MIDI bank, a synthetic room, coloured noise and a production.

Mono, 16 kHz; a pure function of the notes and the arrangement. An arrangement is a dict as of `rendered.arrange`:
"duration" [s], "transposition" [semitones] and "sections". It may also have "soundfont", a name that `soundfonts.find`
knows, and "production" (see `production`), for the whole piece; a section may have

    "production"  one of its own, which changes no speed
    "parts"       a chain of effects for each part, empty for those that stay as they are
    "drums"       without "strokes" where the notes hold the drums: as part DRUM_PART, whose pitches are General MIDI
                  percussion keys
"""

from __future__ import annotations

import functools

import numpy as np
import tinysoundfont

from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.corpus.sound import production, soundfonts
from keymyna_lib.corpus.sound.effects import SILENCE, add_noise, add_room, duck, with_rms
from keymyna_lib.corpus.sound.programmes import FAMILIES, KICKS, PROGRAMME_LOUDNESS
from keymyna_lib.spectrogram import PEAK, SAMPLE_RATE

DRUM_PART = -1
FADE_IN = 0.01  # s at the start of a section
RING_OUT = 0.15  # s for which a section fades out under the next one
VELOCITY = (75, 110)  # MIDI, of notes that have none
_DRUM_CHANNEL = 9
_CHANNELS = [c for c in range(16) if c != _DRUM_CHANNEL]
# dB to which every programme is brought; volume can only lower
_LOUDNESS = min(dB for family in FAMILIES.values() for dB in family.values())
_FLUSH = SAMPLE_RATE // 10  # samples within which silenced voices die away

# An event: (sample, 0 for off or 1 for on, channel, MIDI key, velocity); sorted, offs come first.
Event = tuple[int, int, int, int, int]


def n_samples(arrangement: dict) -> int:
    """Length of an arrangement in samples."""
    n = round(arrangement["duration"] * SAMPLE_RATE)
    produced = arrangement.get("production")
    return production.length_after(n, produced["chain"]) if produced else n


def render(notes: np.ndarray, arrangement: dict) -> np.ndarray:
    """Render an arrangement.

    Parameters
    ----------
    notes : (note, 4) onset [beats], duration [beats], MIDI pitch, part; or (note, 5) with MIDI velocity. Part
        DRUM_PART is the drums.
    arrangement : see `rendered.arrange.arrange` and this module.

    Returns
    -------
    (sample,) int16, `n_samples(arrangement)` at 16 kHz: "duration" seconds unless the production changes the speed.
    Peak at 0.9 of full scale.

    Raises
    ------
    KeyMynaError
        When the SoundFont or an effect is not known.
    """
    audio = np.zeros(round(arrangement["duration"] * SAMPLE_RATE), np.float32)
    produced = arrangement.get("production")
    soundfont = arrangement.get("soundfont", soundfonts.DEFAULT)
    for section in arrangement["sections"]:
        clip = render_section(
            notes,
            section,
            arrangement["transposition"],
            soundfont=soundfont,
            sidechain=produced["sidechain"] if produced else None,
        )
        start = round(section["start"] * SAMPLE_RATE)
        clip = clip[: len(audio) - start]
        audio[start : start + len(clip)] += clip
    if produced:
        audio = production.apply(audio, produced["chain"])
    return np.round(audio * (PEAK * 32767 / max(np.abs(audio).max(), SILENCE))).astype(np.int16)


def render_section(
    notes: np.ndarray,
    section: dict,
    transposition: int,
    *,
    soundfont: str = soundfonts.DEFAULT,
    sidechain: dict | None = None,
) -> np.ndarray:
    """One section with its fades: (sample,) float32, longer by RING_OUT, the music at its level (dB re RMS 1).

    `sidechain` is that of the piece's production; a section's own production goes before it.
    """
    rng = numpy_stream(section["seed"], "section")
    length = round((section["length"] + RING_OUT) * SAMPLE_RATE)
    produced = section.get("production")
    sidechain = produced["sidechain"] if produced else sidechain
    events = _note_events(notes, section, transposition, rng)
    audio = with_rms(_play_parts(events, section, length, soundfont), 0.0)
    if section["drums"]:
        strokes = _drum_events(notes, section, rng)
        if sidechain:
            audio = duck(audio, sorted({at for at, _, _, key, _ in strokes if key in KICKS}), **sidechain)
        drums = _play(strokes, section, length, soundfont)
        audio += with_rms(drums, section["drums"]["level"])
    audio = add_room(audio, section["reverb_time"], section["reverb_level"], rng)
    if produced:
        audio = production.apply(audio, produced["chain"])
    audio = add_noise(with_rms(audio, section["level"]), section["snr"], section["colour"], rng)
    fade_in, ring_out = round(FADE_IN * SAMPLE_RATE), round(RING_OUT * SAMPLE_RATE)
    audio[:fade_in] *= np.linspace(0, 1, fade_in, dtype=np.float32)
    audio[-ring_out:] *= np.linspace(1, 0, ring_out, dtype=np.float32)
    return audio


def _note_events(notes: np.ndarray, section: dict, transposition: int, rng: np.random.Generator) -> list[Event]:
    """Notes of a section; a note held across its boundary is cut off there and struck again by the next section."""
    rate = SAMPLE_RATE * 60 / section["tempo"]  # samples per beat
    start, stop = section["beat"], section["beat"] + section["length"] * section["tempo"] / 60
    on, off = np.maximum(notes[:, 0], start), np.minimum(notes[:, 0] + notes[:, 1], stop)
    heard = (off - on > 1e-3) & (notes[:, 3] != DRUM_PART)
    on, off = (np.round((t[heard] - start) * rate).astype(int) for t in (on, off))
    pitch = np.round(notes[heard, 2]).astype(int) + transposition + section["octave"]
    part = notes[heard, 3].astype(int)
    if notes.shape[1] > 4:
        velocity = _velocities(notes[heard])
    else:
        velocity = rng.integers(*VELOCITY, len(on), endpoint=True)
    events = []
    for a, b, c, k, v in zip(on.tolist(), off.tolist(), part.tolist(), pitch.tolist(), velocity.tolist()):
        events += [(a, 1, _CHANNELS[c], k, v), (b, 0, _CHANNELS[c], k, 0)]
    return sorted(events)


def _drum_events(notes: np.ndarray, section: dict, rng: np.random.Generator) -> list[Event]:
    drums, tempo = section["drums"], section["tempo"]
    beats = section["length"] * tempo / 60
    if "strokes" not in drums:
        return _played_drums(notes, section["beat"], beats, tempo)
    events = []
    for key, strokes in drums["strokes"]:
        for bar in np.arange(0, beats, drums["bar"]):
            times = [round((bar + s) * SAMPLE_RATE * 60 / tempo) for s in strokes if bar + s < beats]
            events += [(t, 1, _DRUM_CHANNEL, key, int(rng.integers(*VELOCITY, endpoint=True))) for t in times]
    return sorted(events)


def _played_drums(notes: np.ndarray, start: float, beats: float, tempo: float) -> list[Event]:
    """Strokes among the notes, from the beat `start` on; they ring as long as they do."""
    at = notes[:, 0] - start
    struck = (notes[:, 3] == DRUM_PART) & (at > -1e-3) & (at < beats - 1e-3)
    sample = np.round(np.maximum(at[struck], 0) * SAMPLE_RATE * 60 / tempo).astype(int).tolist()
    keys = np.round(notes[struck, 2]).astype(int).tolist()
    return sorted((t, 1, _DRUM_CHANNEL, key, v) for t, key, v in zip(sample, keys, _velocities(notes[struck]).tolist()))


def _velocities(notes: np.ndarray) -> np.ndarray:
    return np.round(notes[:, 4]).clip(1, 127).astype(int)


@functools.lru_cache(maxsize=2)
def _synth(soundfont: str) -> tuple[tinysoundfont.Synth, int]:
    synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE)
    return synth, synth.sfload(str(soundfonts.find(soundfont)))


@functools.cache
def loudness(soundfont: str, programme: int) -> float:
    """Loudness of a programme in a SoundFont as `programmes` defines it [dB]; at most 20 ms.

    It is looked up for the default one and measured in others.
    """
    if soundfont == soundfonts.DEFAULT:
        return PROGRAMME_LOUDNESS[programme]
    synth, bank = _synth(soundfont)
    synth.program_select(0, bank, 0, programme)
    synth.control_change(0, 7, 127)
    synth.set_tuning(0, 0.0)
    power = []
    for key in range(48, 85, 4):
        synth.noteon(0, key, 90)
        stereo = np.frombuffer(synth.generate(SAMPLE_RATE // 2), np.float32).reshape(-1, 2)
        power.append(np.mean(np.square(stereo.mean(axis=1))))
        synth.sounds_off()
        synth.generate(_FLUSH)
    return float(10 * np.log10(np.mean(power) + SILENCE**2))


def _play_parts(events: list[Event], section: dict, length: int, soundfont: str) -> np.ndarray:
    """(sample,) float32: the parts together; those with a chain of effects are played apart and sent through it."""
    chains = {_CHANNELS[part]: chain for part, chain in enumerate(section.get("parts", ())) if chain}
    audio = _play([event for event in events if event[2] not in chains], section, length, soundfont)
    for channel, chain in chains.items():
        alone = _play([event for event in events if event[2] == channel], section, length, soundfont)
        audio += production.apply(alone, chain)
    return audio


def _play(events: list[Event], section: dict, length: int, soundfont: str) -> np.ndarray:
    """(sample,) float32: the events on the section's programmes, balance, tuning and drum kit."""
    synth, bank = _synth(soundfont)
    programmes = [soundfonts.instead(soundfont, programme) for programme in section["programmes"]]
    measured = [loudness(soundfont, programme) for programme in programmes]  # first, for it uses a channel
    for channel, programme, level, own in zip(_CHANNELS, programmes, section["levels"], measured):
        gain = level + _LOUDNESS - own  # dB; the synth's is (volume / 127)^3
        synth.program_select(channel, bank, 0, programme)
        synth.control_change(channel, 7, min(round(127 * 10 ** (gain / 60)), 127))
        synth.set_tuning(channel, section["cents"] / 100)
    if section["drums"]:
        synth.program_select(_DRUM_CHANNEL, bank, 128, section["drums"]["kit"], True)
    buffer = memoryview(bytearray(8 * length))  # stereo float32
    time = 0
    for at, on, channel, key, velocity in [*events, (length, 0, _CHANNELS[0], 0, 0)]:
        if at > time:
            synth.generate_simple(at - time, buffer[8 * time : 8 * at])
            time = at
        if on:
            synth.noteon(channel, key, velocity)
        else:
            synth.noteoff(channel, key)
    synth.sounds_off()
    synth.generate_simple(_FLUSH)  # so that nothing of this call is heard in the next
    stereo = np.frombuffer(buffer, np.float32)
    return (stereo[0::2] + stereo[1::2]) * np.float32(0.5)
