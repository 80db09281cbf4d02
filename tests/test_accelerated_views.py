"""Augmentations drawn on the device do to a spectrogram what the CPU's do."""

import numpy as np
import pytest
import torch

from keymyna_lib import views
from keymyna_lib.accelerated import views as on_device
from keymyna_lib.accelerated.draws import Draws


@pytest.fixture
def power():
    return torch.rand(5, 128, 60, generator=torch.Generator().manual_seed(0)).square() * 50


def test_bands_are_librosas():
    np.testing.assert_allclose(on_device.band_centres(torch.device("cpu")), views.band_centres(), rtol=1e-6)


def test_shifts_are_the_same(power):
    semitones = torch.tensor([-4.0, -0.3, 0.0, 1.0, 3.7])
    torch.testing.assert_close(
        on_device.shift_bands(power, semitones), views.shift_bands(power, semitones), rtol=1e-3, atol=2e-3
    )


def test_tails_are_the_same(power):
    times, levels = torch.tensor([0.15, 0.4, 0.8, 1.2, 1.5]), torch.tensor([-20.0, -15.0, -10.0, -5.0, -3.0])
    torch.testing.assert_close(
        on_device.reverb_tail(power, times, levels), views.reverb_tail(power, times, levels), rtol=1e-4, atol=1e-5
    )


def test_noise_is_the_same(power):
    snr, colour = torch.tensor([0.0, 5.0, 10.0, 15.0, 20.0]), torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0])
    uniforms = torch.rand(4, *power.shape, generator=torch.Generator().manual_seed(7))
    expected = views.coloured_noise(power, snr, colour, torch.Generator().manual_seed(7))
    torch.testing.assert_close(on_device.coloured_noise(power, snr, colour, uniforms), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", views.AUGMENTATIONS)
def test_views_are_distributed_as_on_the_cpu(name):
    """Mean and spread, by band, of many views of one crop; only the draws differ."""
    crops = torch.rand(128, 40, generator=torch.Generator().manual_seed(1)).mul(5).half().expand(1500, -1, -1)
    here = views.AUGMENTATIONS[name](crops, torch.Generator().manual_seed(2)).float()
    there = on_device.AUGMENTATIONS[name](crops, Draws(torch.tensor(3))).float()
    assert here.shape == there.shape and here.dtype == there.dtype
    torch.testing.assert_close(there.mean(dim=(0, 2)), here.mean(dim=(0, 2)), rtol=0.05, atol=0.05)
    torch.testing.assert_close(there.std(dim=(0, 2)), here.std(dim=(0, 2)), rtol=0.1, atol=0.05)


def test_a_step_draws_the_same_views_again_and_another_others(power):
    crops = power.log1p()

    def view(key):
        return on_device.AUGMENTATIONS["timbre and pitch"](crops, Draws(torch.tensor(key)))

    assert torch.equal(view(1), view(1)) and not torch.allclose(view(1), view(2))
