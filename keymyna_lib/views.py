"""Random augmentations of stored spectrograms: the usual views of contrastive learning, where masking is not the view.

They act on power spectrograms, not on audio, because the store holds spectrograms and a phase vocoder would cost more
than the training step. Ranges are those of the synthetic corpus's own arrangements where it varies the same thing, else
our choice. A new augmentation is a function and an entry in `AUGMENTATIONS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from keymyna_lib import front_ends
from keymyna_lib.corpus.rendered.arrange import NOISE_COLOUR, REVERB_LEVEL, REVERB_TIME, SECTION_LEVEL
from keymyna_lib.spectrogram import HOP, N_MELS, SAMPLE_RATE

FILTER_DB = 12.0  # a random equaliser: knots uniform in plus or minus this, dB
FILTER_KNOTS = 6
SNR_DB = (0.0, 20.0)
PITCH_SEMITONES = 4.0  # plus or minus, not rounded to semitones


def augment(crops: Tensor, generator: torch.Generator, *, pitch_shift: bool) -> Tensor:
    """Filter, reverb, noise and gain, drawn anew for each crop; with `pitch_shift` also a shift of up to 4 semitones.

    Parameters
    ----------
    crops : (batch, band, frame) log(1 + power), any float type.
    generator : on the CPU.

    Returns
    -------
    (batch, band, frame) float32 log(1 + power), on the crops' device.
    """
    power = crops.float().expm1()
    batch, device = len(power), power.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (low + (high - low) * torch.rand(batch, *shape, generator=generator)).to(device)

    if pitch_shift:
        power = shift_bands(power, uniform(-PITCH_SEMITONES, PITCH_SEMITONES))
    knots = uniform(-FILTER_DB, FILTER_DB, 1, FILTER_KNOTS)
    response = torch.nn.functional.interpolate(knots, power.shape[1], mode="linear", align_corners=True).mT
    power = power * 10 ** (response / 10)
    power = power + reverb_tail(power, uniform(*REVERB_TIME), uniform(*REVERB_LEVEL))
    power = power + coloured_noise(power, uniform(*SNR_DB), uniform(*NOISE_COLOUR), generator)
    return (power * 10 ** (uniform(*SECTION_LEVEL, 1, 1) / 10)).log1p()


def shift_bands(power: Tensor, semitones: Tensor) -> Tensor:
    """Shift the pitch of power (batch, band, frame) by (batch,) semitones, by interpolation between bands.

    Band b of the result takes what lay `semitones` below it; what would come from outside the bands is 0. Log-frequency
    spectrograms move by the nearest number of whole bands.
    """
    front_end = front_ends.front_end_of(power)
    centres = band_centres(front_end)
    if front_end == "log-frequency":
        semitones = (semitones * front_ends.BANDS_PER_OCTAVE / 12).round() / (front_ends.BANDS_PER_OCTAVE / 12)
    sources = centres[None] * 2 ** (-semitones.cpu().numpy()[:, None] / 12)
    found = np.interp(sources, centres, np.arange(len(centres)), left=-1, right=len(centres))
    places = torch.from_numpy(found).to(power)  # (batch, band), in bands
    low = places.floor().clamp(0, len(centres) - 2).long()
    share = (places - low)[..., None].clamp(0, 1)
    rows = torch.arange(len(power), device=power.device)[:, None]
    mixed = torch.lerp(power[rows, low], power[rows, low + 1], share)
    return mixed * ((places >= 0) & (places <= len(centres) - 1))[..., None]


def reverb_tail(power: Tensor, times: Tensor, levels_db: Tensor) -> Tensor:
    """Exponentially decaying tail of power (batch, band, frame): reverberation times [s] and levels [dB], (batch,).

    The tail of a frame sounds in the frames after it, its power summing to `levels_db` below that of the frame.
    """
    decay = 10 ** (-6 * HOP / SAMPLE_RATE / times)[:, None]
    gain = 10 ** (levels_db / 10)[:, None] * (1 - decay)
    tail, tails = torch.zeros_like(power[..., 0]), []
    for frame in power.unbind(2):
        tails.append(tail)
        tail = decay * tail + gain * frame
    return torch.stack(tails, dim=2)


def coloured_noise(power: Tensor, snr_db: Tensor, colour: Tensor, generator: torch.Generator) -> Tensor:
    """Noise for power (batch, band, frame): density ~ frequency^-colour, `snr_db` [dB] below the crop; both (batch,).

    Each cell fluctuates as the mean of the few spectral bins in a band does, by a gamma distribution of shape 4.
    A mel band's power is a density; a log-frequency band's, whose width grows with frequency, is that times frequency.
    """
    front_end = front_ends.front_end_of(power)
    centres = torch.from_numpy(band_centres(front_end) / 1000).to(power)[None]
    slope = centres ** (float(front_end == "log-frequency") - colour[:, None])
    slope = slope / slope.mean(dim=1, keepdim=True)
    level = power.mean(dim=(1, 2)) * 10 ** (-snr_db / 10)
    uniforms = torch.rand(4, *power.shape, generator=generator).clamp_(min=1e-12).to(power)
    fluctuation = -uniforms.log().mean(dim=0)  # the mean of four exponentials
    return level[:, None, None] * slope[..., None] * fluctuation


@functools.cache
def band_centres(front_end: str = "mel") -> np.ndarray:
    """(band,) centre frequencies of the bands, Hz."""
    if front_end != "mel":
        return front_ends.band_centres(front_end)
    import librosa  # here, because it costs a second to import

    return librosa.mel_frequencies(N_MELS + 2, fmin=0.0, fmax=SAMPLE_RATE / 2)[1:-1]


def unchanged(crops: Tensor, generator: torch.Generator) -> Tensor:
    """The crops as they are."""
    return crops


# By the name that a configuration uses: (batch, band, frame) log(1 + power) crops and a CPU generator to views of them.
AUGMENTATIONS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": unchanged,
    "timbre": functools.partial(augment, pitch_shift=False),
    "timbre and pitch": functools.partial(augment, pitch_shift=True),
}
