"""Arrangement to audio: TinySoundFont with the General MIDI bank TimGM6mb.sf2 (shipped with the package pretty_midi),
a synthetic room and coloured noise. Mono, 16 kHz; a pure function of the notes and the arrangement.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import scipy.fft
import tinysoundfont

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered.arrange import PROGRAMME_LOUDNESS
from keymyna_lib.spectrogram import PEAK, SAMPLE_RATE

FADE_IN = 0.01  # s at the start of a section
RING_OUT = 0.15  # s for which a section fades out under the next one
VELOCITY = (75, 110)  # MIDI
_DRUM_CHANNEL = 9
_CHANNELS = [c for c in range(16) if c != _DRUM_CHANNEL]
_LOUDNESS = min(PROGRAMME_LOUDNESS.values())  # dB to which every programme is brought; volume can only lower
_FLUSH = SAMPLE_RATE // 10  # samples within which silenced voices die away
_SILENCE = 1e-6  # RMS; below it, audio is not scaled to a level

# An event: (sample, 0 for off or 1 for on, channel, MIDI key, velocity); sorted, offs come first.
Event = tuple[int, int, int, int, int]


def soundfont_path() -> Path:
    """TimGM6mb.sf2 in the installed package pretty_midi, found without importing it.

    Raises
    ------
    KeyMynaError
        When the package or the file is missing.
    """
    spec = importlib.util.find_spec("pretty_midi")
    path = Path(spec.submodule_search_locations[0]) / "TimGM6mb.sf2" if spec else None
    if path is None or not path.is_file():
        raise KeyMynaError(
            "TimGM6mb.sf2 is missing: it comes with the package pretty_midi. Install what "
            "requirements.lock names and run again."
        )
    return path


def n_samples(arrangement: dict) -> int:
    """Length of an arrangement in samples."""
    return round(arrangement["duration"] * SAMPLE_RATE)


def render(notes: np.ndarray, arrangement: dict) -> np.ndarray:
    """Render an arrangement.

    Parameters
    ----------
    notes : (note, 4) onset [beats], duration [beats], MIDI pitch, part.
    arrangement : see `arrange.arrange`.

    Returns
    -------
    (sample,) int16, `arrangement["duration"]` seconds at 16 kHz, peak at 0.9 of full scale.
    """
    audio = np.zeros(n_samples(arrangement), np.float32)
    for section in arrangement["sections"]:
        clip = render_section(notes, section, arrangement["transposition"])
        start = round(section["start"] * SAMPLE_RATE)
        clip = clip[: len(audio) - start]
        audio[start : start + len(clip)] += clip
    return np.round(audio * (PEAK * 32767 / max(np.abs(audio).max(), _SILENCE))).astype(np.int16)


def render_section(notes: np.ndarray, section: dict, transposition: int) -> np.ndarray:
    """One section with its fades: (sample,) float32, longer by RING_OUT, the music at its level (dB re RMS 1)."""
    rng = np.random.default_rng(section["seed"])
    length = round((section["length"] + RING_OUT) * SAMPLE_RATE)
    audio = _with_rms(_play(_note_events(notes, section, transposition, rng), section, length), 0.0)
    if section["drums"]:
        drums = _play(_drum_events(section, rng), section, length)
        audio += _with_rms(drums, section["drums"]["level"])
    audio = add_room(audio, section["reverb_time"], section["reverb_level"], rng)
    audio = add_noise(_with_rms(audio, section["level"]), section["snr"], section["colour"], rng)
    fade_in, ring_out = round(FADE_IN * SAMPLE_RATE), round(RING_OUT * SAMPLE_RATE)
    audio[:fade_in] *= np.linspace(0, 1, fade_in, dtype=np.float32)
    audio[-ring_out:] *= np.linspace(1, 0, ring_out, dtype=np.float32)
    return audio


def add_room(audio: np.ndarray, reverb_time: float, level: float, rng: np.random.Generator) -> np.ndarray:
    """Add reverberation: convolution with exponentially decaying white noise of unit energy.

    Parameters
    ----------
    audio : (sample,) float32.
    reverb_time : s in which the response falls by 60 dB, after which it is cut off.
    level : dB, mean power of the reverberation of white noise relative to the noise.

    Returns
    -------
    (sample,) float32, the same length.
    """
    decay = np.arange(round(reverb_time * SAMPLE_RATE), dtype=np.float32)
    response = rng.standard_normal(len(decay), dtype=np.float32) * 10 ** (-3 * decay / max(len(decay), 1))
    response *= 10 ** (level / 20) / np.linalg.norm(response)
    size = scipy.fft.next_fast_len(len(audio) + len(response), real=True)
    wet = scipy.fft.irfft(scipy.fft.rfft(audio, size) * scipy.fft.rfft(response, size), size)
    return audio + wet[: len(audio)]


def add_noise(audio: np.ndarray, snr: float, colour: float, rng: np.random.Generator) -> np.ndarray:
    """Add noise whose power falls as frequency^-colour above 50 Hz (none below), `snr` dB under the audio's.

    Parameters
    ----------
    audio : (sample,) float32; its mean power is the reference.

    Returns
    -------
    (sample,) float32.
    """
    size = scipy.fft.next_fast_len(len(audio), real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(size, dtype=np.float32))
    frequency = scipy.fft.rfftfreq(size, 1 / SAMPLE_RATE).astype(np.float32)
    spectrum *= np.where(frequency < 50, 0, np.maximum(frequency, 50) ** np.float32(-colour / 2))
    noise = scipy.fft.irfft(spectrum, size)[: len(audio)]
    return audio + noise * (_rms(audio) / _rms(noise) * 10 ** (-snr / 20))


def _rms(audio: np.ndarray) -> np.float32:
    # Not np.dot: a threaded BLAS may sum in another order from run to run.
    return np.sqrt(np.einsum("i,i->", audio, audio) / np.float32(len(audio)))


def _with_rms(audio: np.ndarray, level: float) -> np.ndarray:
    """Scale to an RMS of `level` dB (re 1); silence stays silent."""
    return audio * np.float32(10 ** (level / 20) / max(_rms(audio), _SILENCE))


def _note_events(notes: np.ndarray, section: dict, transposition: int, rng: np.random.Generator) -> list[Event]:
    """Notes of a section; a note held across its boundary is cut off there and struck again by the next section."""
    rate = SAMPLE_RATE * 60 / section["tempo"]  # samples per beat
    start, stop = section["beat"], section["beat"] + section["length"] * section["tempo"] / 60
    on, off = np.maximum(notes[:, 0], start), np.minimum(notes[:, 0] + notes[:, 1], stop)
    heard = off - on > 1e-3
    on, off = (np.round((t[heard] - start) * rate).astype(int) for t in (on, off))
    pitch = np.round(notes[heard, 2]).astype(int) + transposition + section["octave"]
    part = notes[heard, 3].astype(int)
    velocity = rng.integers(*VELOCITY, len(on), endpoint=True)
    events = []
    for a, b, c, k, v in zip(on.tolist(), off.tolist(), part.tolist(), pitch.tolist(), velocity.tolist()):
        events += [(a, 1, _CHANNELS[c], k, v), (b, 0, _CHANNELS[c], k, 0)]
    return sorted(events)


def _drum_events(section: dict, rng: np.random.Generator) -> list[Event]:
    drums, tempo = section["drums"], section["tempo"]
    beats = section["length"] * tempo / 60
    events = []
    for key, strokes in drums["strokes"]:
        for bar in np.arange(0, beats, drums["bar"]):
            times = [round((bar + s) * SAMPLE_RATE * 60 / tempo) for s in strokes if bar + s < beats]
            events += [(t, 1, _DRUM_CHANNEL, key, int(rng.integers(*VELOCITY, endpoint=True))) for t in times]
    return sorted(events)


@functools.lru_cache(maxsize=1)
def _synth() -> tuple[tinysoundfont.Synth, int]:
    synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE)
    return synth, synth.sfload(str(soundfont_path()))


def _play(events: list[Event], section: dict, length: int) -> np.ndarray:
    """(sample,) float32: the events on the section's programmes, balance, tuning and drum kit."""
    synth, bank = _synth()
    for channel, programme, level in zip(_CHANNELS, section["programmes"], section["levels"]):
        synth.program_select(channel, bank, 0, programme)
        gain = level + _LOUDNESS - PROGRAMME_LOUDNESS[programme]  # dB; the synth's is (volume / 127)^3
        synth.control_change(channel, 7, round(127 * 10 ** (gain / 60)))
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
