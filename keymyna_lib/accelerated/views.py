"""The augmentations of `keymyna_lib.views` with their random numbers drawn on the device, in a form that compiles.

The same changes with the same distributions, from other draws. Bands are looked up and the tail is one matrix product,
where the CPU interpolates in NumPy and runs through the frames one by one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from keymyna_lib import front_ends, views
from keymyna_lib.accelerated.draws import Draws
from keymyna_lib.corpus.rendered.arrange import NOISE_COLOUR, REVERB_LEVEL, REVERB_TIME, SECTION_LEVEL
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE

_PURPOSES = range(1000, 1007)  # of draws


def augment(crops: Tensor, draws: Draws, *, pitch_shift: bool) -> Tensor:
    """As `views.augment`: (batch, band, frame) log(1 + power) to float32 views of the same shape."""
    power = crops.float().expm1()
    shift, knot, time, level, snr, colour, gain = (
        functools.partial(_uniform, draws, purpose, len(power)) for purpose in _PURPOSES
    )
    if pitch_shift:
        power = shift_bands(power, shift(-views.PITCH_SEMITONES, views.PITCH_SEMITONES))
    knots = knot(-views.FILTER_DB, views.FILTER_DB, 1, views.FILTER_KNOTS)
    response = torch.nn.functional.interpolate(knots, power.shape[1], mode="linear", align_corners=True).mT
    power = power * 10 ** (response / 10)
    power = power + reverb_tail(power, time(*REVERB_TIME), level(*REVERB_LEVEL))
    uniforms = draws.uniform(_PURPOSES[-1] + 1, 4, *power.shape)
    power = power + coloured_noise(power, snr(*views.SNR_DB), colour(*NOISE_COLOUR), uniforms)
    return (power * 10 ** (gain(*SECTION_LEVEL, 1, 1) / 10)).log1p()


def _uniform(draws: Draws, purpose: int, batch: int, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * draws.uniform(purpose, batch, *shape)


def shift_bands(power: Tensor, semitones: Tensor) -> Tensor:
    """As `views.shift_bands`."""
    front_end = front_ends.front_end_of(power)
    centres = band_centres(power.device, front_end)
    if front_end == "log-frequency":
        semitones = (semitones * front_ends.BANDS_PER_OCTAVE / 12).round() / (front_ends.BANDS_PER_OCTAVE / 12)
    sources = centres * 2 ** (-semitones[:, None] / 12)
    low = (torch.searchsorted(centres, sources, right=True) - 1).clamp(0, len(centres) - 2)
    share = (sources - centres[low]) / (centres[low + 1] - centres[low])
    inside = ((sources >= centres[0]) & (sources <= centres[-1]))[..., None]
    rows = torch.arange(len(power), device=power.device)[:, None]
    return torch.lerp(power[rows, low], power[rows, low + 1], share.clamp(0, 1)[..., None]) * inside


def reverb_tail(power: Tensor, times: Tensor, levels_db: Tensor) -> Tensor:
    """As `views.reverb_tail`: each frame of the tail is a weighted sum of all frames before it."""
    frames = torch.arange(power.shape[2], device=power.device)
    lag = frames[None, :] - frames[:, None] - 1  # from row to column; the frame itself and later ones do not count
    decay = (-6 * HOP / SAMPLE_RATE / times)[:, None, None]  # powers of ten a frame
    gain = 10 ** (levels_db / 10)[:, None, None] * (1 - 10**decay)
    weights = torch.where(lag >= 0, gain * 10 ** (decay * lag.clamp(min=0)), 0.0)
    with torch.autocast(power.device.type, enabled=False):
        return power @ weights


def coloured_noise(power: Tensor, snr_db: Tensor, colour: Tensor, uniforms: Tensor) -> Tensor:
    """As `views.coloured_noise`, with its four uniform numbers a cell at hand: (4, batch, band, frame)."""
    front_end = front_ends.front_end_of(power)
    slope = (band_centres(power.device, front_end) / 1000) ** (float(front_end == "log-frequency") - colour[:, None])
    slope = slope / slope.mean(dim=1, keepdim=True)
    level = power.mean(dim=(1, 2)) * 10 ** (-snr_db / 10)
    fluctuation = -uniforms.clamp(min=1e-12).log().mean(dim=0)
    return level[:, None, None] * slope[..., None] * fluctuation


def band_centres(device: torch.device, front_end: str = "mel") -> Tensor:
    """(band,) float32 centres of a front end's bands on a device, Hz; a constant to the compiler."""
    return _band_centres_on(device, front_end)


@functools.cache
def _band_centres_on(device: torch.device, front_end: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(front_ends.band_centres(front_end))).to(device, torch.float32)


# As `views.AUGMENTATIONS`, from draws of the device instead of a generator.
AUGMENTATIONS: dict[str, Callable[[Tensor, Draws], Tensor]] = {
    "none": lambda crops, draws: crops,
    "timbre": functools.partial(augment, pitch_shift=False),
    "timbre and pitch": functools.partial(augment, pitch_shift=True),
}
