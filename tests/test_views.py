"""Augmentations of stored spectrograms, against closed forms and against audio that was really shifted."""

import numpy as np
import pytest
import torch

from keymyna_lib import views
from keymyna_lib.spectrogram import HOP, SAMPLE_RATE, mel_power


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tone(frequency, seconds=2.0):
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.5 * sum(np.sin(2 * np.pi * frequency * h * time) / h for h in range(1, 6))).astype(np.float32)


@pytest.mark.parametrize("semitones", [-4.0, 0.0, 3.0])
def test_shifted_bands_are_those_of_shifted_audio(semitones):
    frequency = 880.0
    here = mel_power(tone(frequency))
    there = mel_power(tone(frequency * 2 ** (semitones / 12)))[0].mean(1).log1p()
    shifted = views.shift_bands(here, torch.tensor([semitones]))[0].mean(1).log1p()
    similar = torch.nn.functional.cosine_similarity(shifted, there, dim=0)
    untouched = torch.nn.functional.cosine_similarity(here[0].mean(1).log1p(), there, dim=0)
    assert similar > 0.9  # interpolation smears a little
    assert (semitones == 0 and torch.allclose(shifted, there, atol=1e-4)) or similar > untouched + 0.1


def test_what_comes_from_outside_the_bands_is_silence():
    up = views.shift_bands(torch.ones(1, 128, 2), torch.tensor([4.0]))[0, :, 0]
    down = views.shift_bands(torch.ones(1, 128, 2), torch.tensor([-4.0]))[0, :, 0]
    assert up[0] == 0 and up[-1] == 1 and down[-1] == 0 and down[0] == pytest.approx(1)


def test_a_reverb_tail_decays_by_60_db_in_its_time_and_sums_to_its_level():
    power = torch.zeros(2, 1, 400)
    power[:, :, 0] = 1.0
    times, levels = torch.tensor([0.5, 1.5]), torch.tensor([-3.0, -10.0])
    tail = views.reverb_tail(power, times, levels)
    assert (tail[:, :, 0] == 0).all()
    assert torch.allclose(tail.sum(2)[:, 0], 10 ** (levels / 10), rtol=1e-3)
    frames = times * SAMPLE_RATE / HOP
    for row, count in enumerate(frames):
        slope = 10 * torch.log10(tail[row, 0, 10] / tail[row, 0, 1]) / 9
        assert slope * count == pytest.approx(-60, rel=1e-3)


def test_noise_has_its_level_and_its_colour():
    power = torch.rand(2, 128, 500)
    noise = views.coloured_noise(power, torch.tensor([6.0, 0.0]), torch.tensor([0.0, 2.0]), generator())
    ratio = 10 * torch.log10(power.mean((1, 2)) / noise.mean((1, 2)))
    assert torch.allclose(ratio, torch.tensor([6.0, 0.0]), atol=0.3)
    white, brown = noise.mean(2)
    assert white[10:20].mean() == pytest.approx(white[100:110].mean().item(), rel=0.1)
    centres = torch.from_numpy(views.band_centres())
    expected = (centres[20] / centres[100]) ** -2
    assert brown[20] / brown[100] == pytest.approx(expected.item(), rel=0.2)


def test_views_are_seeded_each_their_own_and_finite():
    crops = torch.rand(1, 128, 20).mul(5).expand(3, -1, -1).half()
    first = views.augment(crops, generator(1), pitch_shift=True)
    assert torch.equal(first, views.augment(crops, generator(1), pitch_shift=True))
    assert torch.isfinite(first).all() and (first >= 0).all() and first.dtype == torch.float32
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, views.augment(crops, generator(2), pitch_shift=True))


def test_without_pitch_shift_a_peak_stays_in_its_band():
    crops = torch.zeros(8, 128, 30)
    crops[:, 40] = 8.0
    crops += 0.01
    shifted = views.augment(crops, generator(), pitch_shift=True).mean(2).argmax(1)
    assert (views.augment(crops, generator(), pitch_shift=False).mean(2).argmax(1) == 40).all()
    assert (shifted != 40).any()
