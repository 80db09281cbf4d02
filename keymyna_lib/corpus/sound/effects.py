"""Effects of studios and carriers: each a pure function of audio and of plain parameters.

Audio is (sample,) float32 at 16 kHz of any level; silence stays silent. Unless an effect says otherwise it keeps the
length, and the level (RMS) where it would change it only by the way. Levels are in dB relative to the audio's own RMS.
Effects that draw noise take its seed. Strengths are what the caller asks for.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import scipy.fft
import scipy.ndimage
import scipy.signal
import soundfile

from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.spectrogram import SAMPLE_RATE

SILENCE = 1e-6  # RMS; below it, audio is not scaled to a level
LOOK_AHEAD = 0.005  # s by which a limiter sees a peak before it comes
_BLOCK = 64  # samples (4 ms), the step of a compressor's envelope and of a swept filter
_MP3_DELAY = 576 + 529  # samples: LAME's encoder delay and that of any Layer III decoder
_OGG_BLOCK = SAMPLE_RATE  # samples written at once: libsndfile keeps a whole block on the stack


def rms(audio: np.ndarray) -> np.float32:
    """Root mean square."""
    # Not np.dot: a threaded BLAS may sum in another order from run to run.
    return np.sqrt(np.einsum("i,i->", audio, audio) / np.float32(len(audio)))


def with_rms(audio: np.ndarray, level: float) -> np.ndarray:
    """Scale to an RMS of `level` dB (re 1); silence stays silent."""
    return audio * np.float32(10 ** (level / 20) / max(rms(audio), SILENCE))


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
    return audio + noise * (rms(audio) / rms(noise) * 10 ** (-snr / 20))


def hiss(audio: np.ndarray, *, snr: float, colour: float, seed: int) -> np.ndarray:
    """`add_noise` with its own seed: the noise of a carrier."""
    return add_noise(audio, snr, colour, numpy_stream(seed, "hiss"))


def hum(audio: np.ndarray, *, frequency: float, level: float) -> np.ndarray:
    """Add mains hum: `frequency` Hz and the next four harmonics, each 6 dB below the one before; `level` dB in all."""
    turn = 2 * np.pi * frequency / SAMPLE_RATE * np.arange(len(audio))
    added = sum(2.0**-n * np.sin((n + 1) * turn) for n in range(5)).astype(np.float32)
    return audio + added * (rms(audio) / rms(added) * np.float32(10 ** (level / 20)))


def saturate(audio: np.ndarray, *, drive: float, bias: float = 0.0) -> np.ndarray:
    """Distort by tanh, at twice the sample rate so that little is mirrored.

    Parameters
    ----------
    drive : dB by which the RMS, taken where there is sound, is raised above the knee at 1. About 0 is tape, 10 an
        overdriven and 30 a distorted guitar.
    bias : offset before the knee; 0 gives odd harmonics only, 0.3 plainly even ones too, as valves do.
    """
    loud = _active_rms(audio)
    if loud < SILENCE:
        return audio
    raised = scipy.signal.resample_poly(audio, 2, 1) * np.float32(10 ** (drive / 20) / loud)
    bent = np.tanh(raised + np.float32(bias)) - np.float32(np.tanh(bias))
    return _at_level_of(audio, scipy.signal.resample_poly(bent, 1, 2)[: len(audio)])


def peaking_filter(frequency: float, gain: float, q: float) -> np.ndarray:
    """One peaking band as a (1, 6) second-order section (R. Bristow-Johnson's Audio EQ Cookbook, W3C 2021).

    Parameters
    ----------
    frequency, gain : centre in Hz, and the gain there in dB.
    q : the centre over the bandwidth between the points of half the gain.
    """
    amplitude, angle = 10 ** (gain / 40), 2 * np.pi * frequency / SAMPLE_RATE
    alpha, centre = np.sin(angle) / (2 * q), -2 * np.cos(angle)
    section = np.array(
        [[1 + alpha * amplitude, centre, 1 - alpha * amplitude, 1 + alpha / amplitude, centre, 1 - alpha / amplitude]]
    )
    return section / section[0, 3]


def shelving_filter(frequency: float, gain: float, *, high: bool) -> np.ndarray:
    """A low or high shelf of slope 1 as a (1, 6) second-order section (the same cookbook).

    Parameters
    ----------
    frequency, gain : where half the gain (in dB) is reached [Hz], and the gain of the shelf [dB].
    """
    a, angle = 10 ** (gain / 40), 2 * np.pi * frequency / SAMPLE_RATE
    cos, slope = np.cos(angle) * (1 if high else -1), np.sin(angle) * np.sqrt(2 * a)  # 2 sqrt(A) alpha, S = 1
    sign = -1 if high else 1
    section = np.array(
        [
            [
                a * (a + 1 + (a - 1) * cos + slope),
                sign * 2 * a * (a - 1 + (a + 1) * cos),
                a * (a + 1 + (a - 1) * cos - slope),
                a + 1 - (a - 1) * cos + slope,
                -sign * 2 * (a - 1 - (a + 1) * cos),
                a + 1 - (a - 1) * cos - slope,
            ]
        ]
    )
    return section / section[0, 3]


def equalise(audio: np.ndarray, *, bands: Sequence[Sequence]) -> np.ndarray:
    """Shelving and peaking filters, level kept.

    Parameters
    ----------
    bands : each ["low", frequency, gain], ["high", frequency, gain] or ["peak", frequency, gain, q] [Hz, dB].
    """
    sections = [
        peaking_filter(*values) if kind == "peak" else shelving_filter(*values, high=kind == "high")
        for kind, *values in bands
    ]
    return _at_level_of(audio, scipy.signal.sosfilt(np.concatenate(sections), audio).astype(np.float32))


def band_limit(audio: np.ndarray, *, low: float, high: float) -> np.ndarray:
    """Second-order Butterworth high pass at `low` Hz and fourth-order low pass at `high` Hz; 0 leaves one out."""
    sections = []
    if low:
        sections.append(scipy.signal.butter(2, low, "highpass", fs=SAMPLE_RATE, output="sos"))
    if high:
        sections.append(scipy.signal.butter(4, high, "lowpass", fs=SAMPLE_RATE, output="sos"))
    return _at_level_of(audio, scipy.signal.sosfilt(np.concatenate(sections), audio).astype(np.float32))


def sweep(audio: np.ndarray, *, kind: str, low: float, high: float, period: float, phase: float) -> np.ndarray:
    """A second-order filter whose corner glides between two frequencies, as disc jockeys and synthesizers do.

    Parameters
    ----------
    kind : "lowpass" or "highpass".
    low, high : bounds of the corner [Hz], which moves evenly in octaves as a cosine.
    period : s from one bound and back.
    phase : turns; the corner is highest at 0 and lowest at 0.5.
    """
    out, state = np.empty_like(audio), np.zeros(2, np.float32)
    block = 4 * _BLOCK
    at = np.arange(0, len(audio), block)
    height = 0.5 + 0.5 * np.cos(2 * np.pi * (at / SAMPLE_RATE / period + phase))
    corner = np.tan(np.pi * low * (high / low) ** height / SAMPLE_RATE)  # of Butterworth's filter by bilinear transform
    scale = 1 / (1 + np.sqrt(2) * corner + corner**2)
    zeros = np.array([1.0, 2.0, 1.0]) if kind == "lowpass" else np.array([1.0, -2.0, 1.0])
    b = np.outer(scale * corner**2 if kind == "lowpass" else scale, zeros).astype(np.float32)
    a = np.stack([np.ones_like(corner), 2 * scale * (corner**2 - 1), scale * (1 - np.sqrt(2) * corner + corner**2)], 1)
    for i, (start, poles) in enumerate(zip(at.tolist(), a.astype(np.float32))):
        span = audio[start : start + block]
        out[start : start + block], state = scipy.signal.lfilter(b[i], poles, span, zi=state)
    return out


def compress(audio: np.ndarray, *, threshold: float, ratio: float, attack: float, release: float) -> np.ndarray:
    """A feed-forward compressor on the RMS of 4 ms (Giannoulis, Massberg and Reiss, JAES 2012), level kept.

    Parameters
    ----------
    threshold : dB; each dB of the envelope above it leaves 1 / ratio dB.
    attack, release : time constants of the gain [s].
    """
    level = rms(audio)
    if level < SILENCE:
        return audio
    blocks = np.pad(audio, (0, -len(audio) % _BLOCK)).reshape(-1, _BLOCK)
    envelope = 10 * np.log10(np.einsum("ij,ij->i", blocks, blocks) / _BLOCK + 1e-12) - 20 * np.log10(level)
    target = -np.maximum(envelope - threshold, 0) * (1 - 1 / ratio)
    falling, rising = (np.exp(-_BLOCK / SAMPLE_RATE / max(t, 1e-4)) for t in (attack, release))
    gain, now = [], 0.0
    for aim in target.tolist():
        keep = falling if aim < now else rising
        now = aim + (now - aim) * keep
        gain.append(now)
    centres = (np.arange(len(gain)) + 0.5) * _BLOCK
    factor = 10 ** (np.interp(np.arange(len(audio)), centres, gain) / 20)
    return _at_level_of(audio, audio * factor.astype(np.float32))


def limit(audio: np.ndarray, *, gain: float) -> np.ndarray:
    """Take the peaks down by `gain` dB, with 5 ms of look-ahead and no overshoot; what is softer stays as it is.

    The gain that each sample needs is held for twice the look-ahead around it and averaged over as long.
    """
    peak = np.abs(audio).max(initial=0)
    if peak == 0:
        return audio
    ceiling, size = peak * 10 ** (-gain / 20), 2 * round(LOOK_AHEAD * SAMPLE_RATE) + 1
    needed = ceiling / np.maximum(np.abs(audio), ceiling)
    held = scipy.ndimage.minimum_filter1d(needed.astype(np.float64), size)
    return audio * scipy.ndimage.uniform_filter1d(held, size).astype(np.float32)


def clip(audio: np.ndarray, *, gain: float) -> np.ndarray:
    """Cut off everything above the peak less `gain` dB."""
    ceiling = np.abs(audio).max(initial=0) * np.float32(10 ** (-gain / 20))
    return audio.clip(-ceiling, ceiling)


def duck(audio: np.ndarray, times: Sequence[int], *, depth: float, release: float) -> np.ndarray:
    """Side-chain compression: at each time the level drops by `depth` dB and returns within `release` s; not kept.

    Parameters
    ----------
    times : samples, ascending: the strokes of the kick drum.
    """
    if not len(times):
        return audio
    # From 5 ms before the stroke, as a look-ahead does; otherwise the drop would click.
    attack, back = round(LOOK_AHEAD * SAMPLE_RATE), max(round(release * SAMPLE_RATE), 1)
    dip = depth * np.concatenate([np.linspace(0, 1, attack), 0.5 + 0.5 * np.cos(np.linspace(0, np.pi, back))])
    reduction = np.zeros(len(audio) + len(dip) + attack)
    for time in times:
        span = reduction[time : time + len(dip)]
        np.maximum(span, dip[: len(span)], out=span)
    return audio * (10 ** (-reduction[attack : attack + len(audio)] / 20)).astype(np.float32)


def chorus(audio: np.ndarray, *, depth: float, rate: float, mix: float) -> np.ndarray:
    """Add two copies, 15 ms late give or take `depth` ms at `rate` Hz in opposite phase, each `mix` times as loud."""
    time = np.arange(len(audio), dtype=np.float64)
    swing = depth / 1000 * SAMPLE_RATE * np.sin(2 * np.pi * rate * time / SAMPLE_RATE)
    late = 0.015 * SAMPLE_RATE
    copies = _read_at(audio, time - late - swing) + _read_at(audio, time - late + swing)
    return _at_level_of(audio, audio + np.float32(mix) * copies)


def length_at_speed(n_samples: int, cents: float) -> int:
    """Length of audio [samples] after `play_at` changed its speed.

    >>> length_at_speed(16000, 1200), length_at_speed(16000, 0)
    (8000, 16000)
    """
    return round(n_samples * 2 ** (-cents / 1200))


def play_at(audio: np.ndarray, *, cents: float, wow: float = 0.0, rate: float = 0.55, seed: int = 0) -> np.ndarray:
    """Change speed and with it pitch, as a turntable or a tape machine does; the length changes.

    Parameters
    ----------
    cents : of the pitch.
    wow : largest deviation of the pitch around that [cents], a sine of `rate` Hz (0.55: a record's turn); flutter, a
        fifth as deep, twelve times as fast.
    seed : of their phases.
    """
    time = np.arange(length_at_speed(len(audio), cents)) * 2 ** (cents / 1200)
    phases = numpy_stream(seed, "wow").uniform(0, 2 * np.pi, 2)
    for depth, hertz, phase in ((wow, rate, phases[0]), (wow / 5, 12 * rate, phases[1])):
        if depth:
            # the integral of a pitch deviation of depth * cos
            swing = (2 ** (depth / 1200) - 1) * SAMPLE_RATE / (2 * np.pi * hertz)
            time = time + swing * np.sin(2 * np.pi * hertz * time / SAMPLE_RATE + phase)
    return _read_at(audio, time)


def code_mp3(audio: np.ndarray, *, level: float) -> np.ndarray:
    """Encode as MP3 at a constant rate and decode, in memory (libsndfile with LAME), aligned to the input.

    `level` is libsndfile's compression level in [0, 1): at 16 kHz, 0.95 gives 16 kbit/s, 0.8 gives 40. LAME
    writes its delay into a first frame that at 32 kbit/s and less is too small for it; the decoded audio is
    then late by that delay, and longer.
    """
    buffer = io.BytesIO()
    soundfile.write(
        buffer,
        audio,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=level,
        bitrate_mode="CONSTANT",
    )
    buffer.seek(0)
    decoded = soundfile.read(buffer)[0]
    late = _MP3_DELAY if len(decoded) > len(audio) else 0
    return decoded[late : late + len(audio)]


def code_ogg(audio: np.ndarray, *, level: float) -> np.ndarray:
    """Encode as Ogg Vorbis and decode, in memory; `level` in [0, 1] is 1 less the quality."""
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", SAMPLE_RATE, 1, "VORBIS", format="OGG", compression_level=level) as file:
        for start in range(0, len(audio), _OGG_BLOCK):
            file.write(audio[start : start + _OGG_BLOCK])
    buffer.seek(0)
    return soundfile.read(buffer)[0][: len(audio)]


def code(audio: np.ndarray, *, format: str, level: float) -> np.ndarray:
    """Lossy coding there and back: `code_mp3` or `code_ogg` of the audio at a peak of 0.9."""
    peak = np.abs(audio).max(initial=0)
    if peak < SILENCE:
        return audio
    scale = np.float32(0.9 / peak)
    coded = {"mp3": code_mp3, "ogg": code_ogg}[format](audio * scale, level=level)
    return np.pad(coded, (0, len(audio) - len(coded))).astype(np.float32) / scale


# Those that a chain may name: all with parameters by name only.
EFFECTS: dict[str, Callable[..., np.ndarray]] = {
    one.__name__: one
    for one in (saturate, equalise, band_limit, sweep, compress, limit, clip, chorus, play_at, hiss, hum, code)
}


def _active_rms(audio: np.ndarray) -> float:
    """RMS over the blocks of 4 ms that are at most 40 dB softer than the loudest."""
    whole = audio[: len(audio) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    power = np.einsum("ij,ij->i", whole, whole) / _BLOCK
    return float(np.sqrt(power[power >= power.max(initial=0) * 1e-4].mean())) if len(power) else 0.0


def _at_level_of(audio: np.ndarray, changed: np.ndarray) -> np.ndarray:
    return changed * np.float32(rms(audio) / max(rms(changed), SILENCE))


def _read_at(audio: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The audio between its samples, at `time` [samples]: cubic Hermite interpolation (Catmull and Rom); 0 outside."""
    padded = np.pad(audio, (2, 3))
    time = np.clip(time, -1, len(audio)) + 2
    at = time.astype(np.int64)
    x = (time - at).astype(np.float32)
    before, here, after, beyond = (padded[at + offset] for offset in (-1, 0, 1, 2))
    slope = after - before
    curve = 2 * before - 5 * here + 4 * after - beyond
    bend = 3 * (here - after) + beyond - before
    return here + np.float32(0.5) * x * (slope + x * (curve + x * bend))
