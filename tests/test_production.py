from __future__ import annotations

import json

import numpy as np
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.sound import effects, production
from keymyna_lib.spectrogram import SAMPLE_RATE

AUDIO = (0.1 * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)).astype(np.float32)


def draws(style: str, n: int = 200, **options) -> list[dict]:
    return [production.draw(style, np.random.default_rng(seed), **options) for seed in range(n)]


def names(chain: list[dict]) -> list[str]:
    return [step["effect"] for step in chain]


@pytest.mark.parametrize("style", production.STYLES)
def test_a_production_is_json_and_follows_from_its_seed(style):
    first, again = draws(style, 20), draws(style, 20)
    assert first == again == json.loads(json.dumps(first))
    assert len({json.dumps(one) for one in first}) == 20
    for one in first[:4]:
        produced = production.apply(AUDIO, one["chain"])
        assert np.isfinite(produced).all() and produced.dtype == np.float32
        assert len(produced) == production.length_after(len(AUDIO), one["chain"])
        np.testing.assert_array_equal(produced, production.apply(AUDIO, json.loads(json.dumps(one))["chain"]))


def test_the_speed_stays_within_what_is_left_of_a_quarter_tone():
    for most in (0.0, 15.0, 50.0):
        speeds = [production.speed(one) for style in production.STYLES for one in draws(style, 60, cents=most)]
        assert max(map(abs, speeds)) <= most
        assert (max(speeds) > 0.8 * most and min(speeds) < -0.8 * most) if most else not any(speeds)
    unchanged = draws("jazz", cents=0.0)
    assert {production.length_after(1000, one["chain"]) for one in unchanged} == {1000}
    assert "play_at" in {name for one in unchanged for name in names(one["chain"])}  # wow alone keeps the length
    assert production.speed(None) == 0


def test_styles_differ_where_they_should():
    pumped = {style: np.mean([one["sidechain"] is not None for one in draws(style)]) for style in ("trance", "jazz")}
    assert pumped["trance"] == pytest.approx(0.7, abs=0.13) and pumped["jazz"] == 0  # 4 standard deviations
    swept = {style: np.mean(["sweep" in names(one["chain"]) for one in draws(style)]) for style in ("techno", "folk")}
    assert swept["techno"] > swept["folk"] + 0.2
    squashed = {
        style: np.mean([step["gain"] for one in draws(style) for step in one["chain"] if step["effect"] == "limit"])
        for style in ("metal", "classical")
    }
    assert squashed["metal"] > squashed["classical"] + 5


def test_guitars_are_driven_where_the_style_has_it():
    def drives(programme: int, style: str) -> list[float]:
        chains = [production.draw_part(programme, style, np.random.default_rng(seed)) for seed in range(100)]
        return [step["drive"] for chain in chains for step in chain if step["effect"] == "saturate"]

    assert len(drives(30, "metal")) == 100 and min(drives(30, "metal")) >= 20
    assert not drives(30, "house") and not drives(0, "metal") and not drives(24, "metal")  # a piano, a nylon guitar
    assert 10 < len(drives(27, "reggae")) < 60


def test_a_chain_is_run_in_its_order():
    chain = [{"effect": "clip", "gain": 6.0}, {"effect": "play_at", "cents": 1200.0}]
    expected = effects.play_at(effects.clip(AUDIO, gain=6.0), cents=1200.0)
    np.testing.assert_array_equal(production.apply(AUDIO, chain), expected)
    np.testing.assert_array_equal(production.apply(AUDIO, []), AUDIO)
    assert production.length_after(len(AUDIO), chain) == len(AUDIO) // 2


def test_what_is_not_known_is_named():
    with pytest.raises(KeyMynaError, match="style 'polka'.*jazz"):
        production.draw("polka", np.random.default_rng(0))
    with pytest.raises(KeyMynaError, match="style 'polka'.*jazz"):
        production.draw_part(0, "polka", np.random.default_rng(0))
    with pytest.raises(KeyMynaError, match="effect 'wah'.*saturate"):
        production.apply(AUDIO, [{"effect": "wah"}])
