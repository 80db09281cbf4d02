"""The mel front end: audio to the spectrograms that the encoder sees, how they are stored, and where windows start.

Conventions: mono audio at 16 kHz in [-1, 1]; power spectrograms with a centred, reflected Hann window of 2048
samples and a hop of 512 (32 ms); 128 bands on the Slaney scale with Slaney's area normalisation, 0 Hz to 8 kHz
(as in the paper's reference implementation). Stored spectrograms are float16 and (frame, mel); everything in memory is
(mel, frame).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from keymyna_lib.base.errors import KeyMynaError

SAMPLE_RATE = 16_000  # Hz
PEAK = 0.9  # of full scale: what every track is scaled to before its spectrogram is taken
N_FFT = 2048  # samples
HOP = 512  # samples
N_MELS = 128
_CHUNK = 256  # frames transformed at once; their spectra stay in a core's cache
_BLOCK = 16  # bands weighted at once
WINDOW = 196  # frames in one embedding window: 100,000 samples, 6.25 s, 98 vertical tokens


def _slaney_hz(mel: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: 200/3 Hz a mel up to 1 kHz, from there a factor of 6.4 every 27 mels."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))


_SLANEY_TOP = 15 + 27 * np.log(SAMPLE_RATE / 2 / 1000) / np.log(6.4)  # mel at half the sample rate


def band_edges() -> np.ndarray:
    """(mel + 2,) Hz: band b begins at edge b, peaks at edge b + 1 and ends at edge b + 2."""
    return _slaney_hz(np.linspace(0, _SLANEY_TOP, N_MELS + 2))


@functools.lru_cache(maxsize=64)
def mel_filterbank(shift: float = 0.0) -> torch.Tensor:
    """Mel filterbank that hears everything `shift` semitones higher.

    Pitch shifting by s semitones multiplies every frequency by r = 2^(s/12). Its mel spectrogram is obtained without
    touching the audio by weighting a bin at f Hz as the filters weight r f: no phase vocoder, no change of tempo,
    and all shifts share one Fourier transform (our choice). What an upward shift would carry past 8 kHz is lost,
    and a downward one leaves the top bands empty, as with any pitch shift at this sample rate.

    Parameters
    ----------
    shift : semitones; 0 is the plain filterbank.

    Returns
    -------
    (mel, frequency) float32, 128 x 1025.
    """
    edges = band_edges()[:, None]  # a band's neighbours are where it ends
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    heard = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE) * 2 ** (shift / 12)
    bank = np.minimum((heard - left) / (centre - left), (right - heard) / (right - centre)).clip(0).astype(np.float32)
    bank = (bank * (2 / (right - left))).astype(np.float32)
    return torch.from_numpy(bank)


@functools.lru_cache(maxsize=64)
def _filter_blocks(shift: float) -> list[tuple[slice, slice, torch.Tensor]]:
    """`mel_filterbank` without most of its zeros: blocks of bands, the bins they hear, and weights (bin, band)."""
    bank, blocks = mel_filterbank(shift), []
    for first in range(0, N_MELS, _BLOCK):
        bands = slice(first, first + _BLOCK)
        heard = bank[bands].any(dim=0).nonzero()[:, 0].tolist()
        if heard:
            bins = slice(heard[0], heard[-1] + 1)
            blocks.append((bands, bins, bank[bands, bins].T.contiguous()))
    return blocks


def mel_power(audio: np.ndarray | torch.Tensor, shifts: Sequence[float] = (0.0,)) -> torch.Tensor:
    """Mel power spectrograms of one recording, one for each pitch shift.

    Parameters
    ----------
    audio : (sample,) in [-1, 1] at 16 kHz.
    shifts : semitones.

    Returns
    -------
    (shift, mel, frame) float32; frame t is centred on sample 512 t, and there are 1 + samples // 512 of them.

    Raises
    ------
    KeyMynaError
        When the audio is not one channel of at least 1,025 samples.
    """
    audio = torch.as_tensor(audio, dtype=torch.float32)
    if audio.ndim != 1 or len(audio) <= N_FFT // 2:
        raise KeyMynaError(
            f"audio of shape {tuple(audio.shape)}: expected one channel of more than {N_FFT // 2} "
            f"samples ({N_FFT / 2 / SAMPLE_RATE:.2f} s at {SAMPLE_RATE} Hz)."
        )
    padded = torch.nn.functional.pad(audio[None], (N_FFT // 2, N_FFT // 2), mode="reflect")[0]
    frames = padded.unfold(0, N_FFT, HOP)
    mels = torch.zeros(len(shifts), len(frames), N_MELS)
    for first in range(0, len(frames), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        _weigh(frames[chunk], shifts, mels[:, chunk])
    return mels.mT


def _weigh(frames: torch.Tensor, shifts: Sequence[float], mels: torch.Tensor) -> None:
    """Frames of samples (frame, N_FFT), at most _CHUNK, to mel power, into `mels` (shift, frame, mel)."""
    spectrum = torch.fft.rfft(frames * torch.hann_window(N_FFT))
    power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag)
    for mel, shift in zip(mels, shifts):
        for bands, bins, weights in _filter_blocks(float(shift)):
            torch.mm(power[:, bins], weights, out=mel[:, bands])


def mel_pieces(blocks: Iterable[np.ndarray], shift: float = 0.0) -> Iterator[torch.Tensor]:
    """`mel_power` of a recording that comes block by block: the same numbers, in memory that does not grow.

    Parameters
    ----------
    blocks : (sample,) each, of any lengths, more than 1,024 samples together.
    shift : semitones.

    Yields
    ------
    (mel, frame) float32, 256 frames a piece and the rest in the last.
    """
    half, span = N_FFT // 2, N_FFT + (_CHUNK - 1) * HOP  # samples: of the margin, under one piece
    held, padded = torch.empty(0), False
    for block in blocks:
        held = torch.cat([held, torch.as_tensor(block, dtype=torch.float32)])
        if not padded and len(held) > half:
            held, padded = torch.cat([held[1 : half + 1].flip(0), held]), True
        while padded and len(held) >= span:
            yield _piece(held[:span], shift)
            held = held[_CHUNK * HOP :]  # still more than the margin at the end mirrors
    held = torch.cat([held, held[-half - 1 : -1].flip(0)])
    while len(held) >= N_FFT:
        yield _piece(held[:span], shift)
        held = held[_CHUNK * HOP :]


def _piece(samples: torch.Tensor, shift: float) -> torch.Tensor:
    frames = samples.unfold(0, N_FFT, HOP)
    mels = torch.zeros(1, len(frames), N_MELS)
    _weigh(frames, [shift], mels)
    return mels[0].T


def compress(power: torch.Tensor) -> torch.Tensor:
    """Mel power to its stored form, log(1 + power) in float16 (mel power itself overflows float16)."""
    return torch.log1p(power).to(torch.float16)


def expand(stored: torch.Tensor) -> torch.Tensor:
    """Inverse of `compress`: mel power in float32, to about 5e-4 relative times log(1 + power)."""
    return torch.expm1(stored.float())


def n_frames(n_samples: int) -> int:
    """Frames of a recording of so many samples.

    >>> n_frames(30 * SAMPLE_RATE)
    938
    """
    return 1 + n_samples // HOP


def window_frames(crop_frames: int) -> int:
    """Length of the windows that an encoder embeds, frames: that of its training crops, and WINDOW at most.

    It has been trained on no positions beyond its crops; longer crops leave the tracks' windows as they are.
    """
    return min(crop_frames, WINDOW)


def window_starts(frames: int, window: int = WINDOW) -> np.ndarray:
    """First frames of the windows that cover a recording: end to end, the last one aligned to the end.

    A rest of less than a second has no window of its own, which would count the end twice: the last whole window is
    moved to the end instead. A recording shorter than a window gets one, to be padded by the caller.

    Returns
    -------
    (window,) int64, increasing.

    Examples
    --------
    >>> window_starts(500).tolist()
    [0, 196, 304]
    >>> window_starts(393).tolist(), window_starts(100).tolist()
    ([0, 197], [0])
    """
    last = max(frames - window, 0)
    whole = np.arange(0, last, window)
    return np.append(whole[last - whole >= SAMPLE_RATE // HOP], last)
