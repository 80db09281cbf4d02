"""Sound without a key: its spectra, its strokes and its pitch classes are those that it is named after."""

from dataclasses import replace

import numpy as np
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered import no_key
from keymyna_lib.corpus.rendered.no_key import NoKeyConfig
from keymyna_lib.spectrogram import SAMPLE_RATE

CONFIG = NoKeyConfig(count=1, seconds=6.0, seed=5)


@pytest.fixture(scope="module")
def made():
    return dict(no_key.recordings(CONFIG))


def test_there_is_some_of_each_kind_as_long_as_asked(made):
    assert tuple(made) == no_key.KINDS
    for samples in made.values():
        assert samples.dtype == np.int16 and np.abs(samples).max() == pytest.approx(0.9 * 32767, abs=2)
        assert len(samples) == pytest.approx(6 * SAMPLE_RATE, rel=0.03)  # a production may change the speed


def test_all_of_it_is_drawn_from_the_seed(made):
    again = dict(no_key.recordings(CONFIG))
    other = dict(no_key.recordings(replace(CONFIG, seed=6)))
    for kind, samples in made.items():
        assert np.array_equal(again[kind], samples) and not np.array_equal(other[kind][:1000], samples[:1000])


@pytest.mark.parametrize("number, slope", [(0, 0.0), (1, -1.0), (2, -2.0)])
def test_noise_has_the_slope_of_its_colour(number, slope):
    samples = no_key.coloured_noise(replace(CONFIG, seconds=20.0), number).astype(float)
    power = np.square(np.abs(np.fft.rfft(samples.reshape(-1, 8000)))).mean(axis=0)
    hz = np.fft.rfftfreq(8000, 1 / SAMPLE_RATE)
    of = (hz > 100) & (hz < 6000)
    assert np.polyfit(np.log(hz[of]), np.log(power[of]), 1)[0] == pytest.approx(slope, abs=0.1)


def test_only_drums_are_heard_where_there_are_only_drums(monkeypatch):
    heard = []
    monkeypatch.setattr(no_key.render, "render", lambda notes, arrangement: heard.append(notes))
    for number in range(3):
        no_key.drums_alone(CONFIG, number)
    assert all((notes[:, 3] == -1).all() and len(notes) > 12 for notes in heard) and len(heard) == 3


def test_each_part_plays_all_twelve_before_any_comes_again():
    notes = no_key.twelve_tone_notes(120, np.random.default_rng(0))
    for part in range(3):
        mine = notes[notes[:, 3] == part]
        classes = mine[:, 2].astype(int)[: len(mine) // 12 * 12].reshape(-1, 12) % 12
        assert len(classes) > 5 and (np.sort(classes, axis=1) == np.arange(12)).all()
        np.testing.assert_allclose(mine[1:, 0], (mine[:, 0] + mine[:, 1])[:-1], rtol=1e-6)
        assert mine[-1, :2].sum() >= 120


def test_nothing_cannot_be_asked_for():
    with pytest.raises(KeyMynaError, match="count 0"):
        NoKeyConfig(count=0, seconds=5.0, seed=0)
