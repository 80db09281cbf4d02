"""Front ends: what an encoder hears, by name. The paper's is "mel"; "log-frequency" has bands of equal musical width.

A log-frequency band spans a quarter tone, so a transposition moves a spectrogram up or down by whole bands and does
nothing else, and neighbouring semitones stay apart down to the bass, where mel bands are several semitones wide. It is
a constant-Q transform (Brown, 1991) of 7 octaves from C1, 24 bands each, computed octave by octave: one set of complex
kernels for the highest octave, and the audio decimated by two for each octave below (Schoerkhuber and Klapuri, 2010).
Frames are those of the mel spectrogram, one every 512 samples, and so are the stored form and the windows.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.spectrogram import HOP, N_FFT, N_MELS, SAMPLE_RATE, band_edges, mel_pieces, mel_power

BANDS_PER_OCTAVE, OCTAVES = 24, 7
N_BANDS = {"mel": N_MELS, "log-frequency": BANDS_PER_OCTAVE * OCTAVES}
FRONT_ENDS = tuple(N_BANDS)
_LOWEST = 440 * 2 ** (-45 / 12)  # Hz, C1
_FULL_SCALE = 1e5  # power of a sine at full scale; log(1 + power) bends 50 dB below it (our choice)
_Q = 1 / (2 ** (1 / BANDS_PER_OCTAVE) - 1)  # centre frequency over the distance to the next band
_MOST_TUNING = 1.0  # semitones; beyond, the highest octave would reach into what decimation cuts off
_HALF_KERNEL = 139  # samples from a kernel's centre to its end: half the longest window, at the largest tuning
_HALF_DECIMATOR = 13  # the same of the low-pass filter, which is 80 dB down where it would fold into a band
_CHUNK = 256  # frames transformed at once
_RUN = 32  # samples decimated by one row of a matrix product
_MARGIN = 20 * HOP  # samples that a frame's lowest band reaches to either side, and the filters above it


def band_centres(front_end: str = "mel") -> np.ndarray:
    """(band,) Hz."""
    if front_end == "mel":
        return band_edges()[1:-1]
    return _LOWEST * 2 ** (np.arange(N_BANDS[front_end]) / BANDS_PER_OCTAVE)


def front_end_of(spectrograms: Tensor) -> str:
    """The front end that spectrograms (..., band, frame) come from, by their number of bands.

    >>> front_end_of(torch.zeros(168, 196))
    'log-frequency'
    """
    for name, n_bands in N_BANDS.items():
        if spectrograms.shape[-2] == n_bands:
            return name
    raise KeyMynaError(
        f"spectrograms of shape {tuple(spectrograms.shape)}: expected (..., band, frame) with one of "
        f"{', '.join(map(str, N_BANDS.values()))} bands."
    )


def same_front_end(encoder: str, corpus: str) -> None:
    """Refuse, with a KeyMynaError, to show an encoder of one front end the spectrograms of another."""
    if encoder != corpus:
        raise KeyMynaError(
            f"the encoder takes {encoder} spectrograms, and the corpus holds {corpus} ones: build it with front_end "
            f"{encoder!r}, or take an encoder of front_end {corpus!r}."
        )


def power(audio: np.ndarray | Tensor, front_end: str = "mel", tuning: float = 0.0) -> Tensor:
    """Power spectrogram of one recording.

    Parameters
    ----------
    audio : (sample,) in [-1, 1] at 16 kHz. Beyond its ends, log-frequency bands hear silence.
    front_end : one of FRONT_ENDS.
    tuning : semitones by which everything is heard higher; for "log-frequency" at most 1 up or down (`transpose_bands`
        does more).

    Returns
    -------
    (band, frame) float32; frame t is centred on sample 512 t, and there are 1 + samples // 512 of them. In a
    log-frequency band a sine of amplitude a at its centre has the power 10^5 a^2.

    Raises
    ------
    KeyMynaError
        When the audio is not one channel of at least 1,025 samples.
    """
    audio = torch.as_tensor(audio, dtype=torch.float32)
    if front_end == "mel" or audio.ndim != 1 or len(audio) <= N_FFT // 2:
        return mel_power(audio, [tuning])[0]
    return torch.cat(list(power_pieces([audio], front_end, tuning)), dim=1)


def power_pieces(
    blocks: Iterable[np.ndarray | Tensor], front_end: str = "mel", tuning: float = 0.0
) -> Iterator[Tensor]:
    """`power` of a recording that comes block by block: the same numbers, in memory that does not grow.

    Parameters
    ----------
    blocks : (sample,) each, of any lengths, more than 1,024 samples together.
    front_end, tuning : as in `power`.

    Yields
    ------
    (band, frame) float32, 256 frames a piece and the rest in the last.
    """
    if front_end == "mel":
        yield from mel_pieces(blocks, tuning)
        return
    if not abs(tuning) <= _MOST_TUNING:
        raise KeyMynaError(f"tuning {tuning}: expected at most {_MOST_TUNING} semitone up or down.")
    step, reach = _CHUNK * HOP, (_CHUNK - 1) * HOP + 2 * _MARGIN + 1
    held, samples = torch.zeros(_MARGIN), 0
    for block in blocks:
        block = torch.as_tensor(block, dtype=torch.float32)
        held, samples = torch.cat([held, block]), samples + len(block)
        while len(held) >= reach:
            yield _octaves(held[:reach], tuning)
            held = held[step:]
            samples -= step
    frames = 1 + samples // HOP
    held = torch.nn.functional.pad(held, (0, reach))
    for first in range(0, frames, _CHUNK):
        n = min(_CHUNK, frames - first)
        yield _octaves(held[first * HOP : (first + _CHUNK - 1) * HOP + 2 * _MARGIN + 1], tuning)[:, :n]


def transpose_bands(spectrograms: Tensor, semitones: int) -> Tensor:
    """Log-frequency spectrograms (..., band, frame), power or stored, transposed upwards by whole semitones.

    What would come from beyond the lowest or highest band is silence.

    >>> transpose_bands(torch.eye(168)[:, :1], 1).argmax().item()
    2
    """
    by = semitones * BANDS_PER_OCTAVE // 12
    moved = torch.zeros_like(spectrograms)
    here, there = slice(max(by, 0), min(by, 0) or None), slice(max(-by, 0), min(-by, 0) or None)
    moved[..., here, :] = spectrograms[..., there, :]
    return moved


@functools.lru_cache(maxsize=64)
def _kernels(tuning: float) -> Tensor:
    """(sample, 2 x band) float32: real parts, then imaginary ones, of the highest octave's kernels.

    A band's kernel is a Hann window of Q periods around a complex exponential, its absolute values summing to 2, so
    that a sine of amplitude 1 gives 1.
    """
    time = np.arange(-_HALF_KERNEL, _HALF_KERNEL + 1)[:, None]
    octave = np.arange(BANDS_PER_OCTAVE) / BANDS_PER_OCTAVE
    cycles = _LOWEST * 2 ** (OCTAVES - 1 + octave - tuning / 12) / SAMPLE_RATE  # a sample
    phase = np.clip(time * cycles / _Q, -0.5, 0.5)
    window = np.cos(np.pi * phase) ** 2
    kernels = 2 * window / window.sum(axis=0) * np.exp(-2j * np.pi * cycles * time)
    return torch.from_numpy(np.concatenate([kernels.real, kernels.imag], axis=1).astype(np.float32))


@functools.cache
def _decimator() -> Tensor:
    """(input, output) float32: _RUN samples of the lower half of the frequencies from those around them.

    A half-band low-pass filter, a sinc under a Kaiser window, as a matrix: one product is faster than a convolution.
    """
    taps = np.sinc(np.arange(-_HALF_DECIMATOR, _HALF_DECIMATOR + 1) / 2) * np.kaiser(2 * _HALF_DECIMATOR + 1, 8.0)
    filters = np.zeros((2 * _RUN + 2 * _HALF_DECIMATOR, _RUN), np.float32)
    for output in range(_RUN):
        filters[2 * output : 2 * output + len(taps), output] = taps / taps.sum()
    return torch.from_numpy(filters)


def _decimate(samples: Tensor) -> Tensor:
    """Every other one of (sample,), from the first on, of what remains below half the frequencies."""
    size = (len(samples) + 1) // 2
    padded = torch.nn.functional.pad(samples, (_HALF_DECIMATOR, _HALF_DECIMATOR + 2 * _RUN))
    filters = _decimator().to(samples.device)
    return (padded.unfold(0, len(filters), 2 * _RUN) @ filters).flatten()[:size]


def _octaves(samples: Tensor, tuning: float) -> Tensor:
    """(band, frame) of samples that begin _MARGIN before the first frame's centre and end as far after the last's."""
    n_frames = (len(samples) - 1 - 2 * _MARGIN) // HOP + 1
    kernels, found = _kernels(tuning).to(samples.device), []
    hop, margin = HOP, _MARGIN
    for _ in range(OCTAVES):
        # The highest octave's windows are half a hop long: a frame's power is the mean over two, side by side.
        windows = max(2 * hop // HOP, 1)
        step = hop // windows
        first = margin - _HALF_KERNEL - (windows - 1) * step // 2
        frames = samples[first:].unfold(0, 2 * _HALF_KERNEL + 1, step)[: n_frames * windows]
        real, imaginary = (frames @ kernels).split(BANDS_PER_OCTAVE, dim=1)
        found.append((real.square() + imaginary.square()).unflatten(0, (n_frames, windows)).mean(dim=1))
        samples, hop, margin = _decimate(samples), hop // 2, margin // 2
    return _FULL_SCALE * torch.cat(found[::-1], dim=1).T
