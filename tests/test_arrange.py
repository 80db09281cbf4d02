from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import tinysoundfont
from corpora import small_corpus

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered import arrange
from keymyna_lib.corpus.rendered.scores import Score
from keymyna_lib.corpus.sound import programmes, soundfonts
from keymyna_lib.spectrogram import SAMPLE_RATE

CONFIG = small_corpus(n_chorales=0, n_tunes=0, seconds=30.0)


def make_score(beats: int = 64, parts: int = 4, source: str = "chorale") -> Score:
    chord = (72, 67, 64, 48)
    notes = [(b, 1, chord[p % 4], p) for b in range(beats) for p in range(parts)]
    return Score("piece", source, "bach", "A piece", 0, 4, False, np.array(notes, np.float32))


def draw(seed: int, score: Score | None = None, transposition: int = 0, **changes) -> dict:
    config = dataclasses.replace(CONFIG, **changes)
    return arrange.arrange(score or make_score(), transposition, config, np.random.default_rng(seed))


def test_an_arrangement_is_json_and_follows_from_its_seed():
    assert draw(1) == draw(1) == json.loads(json.dumps(draw(1)))
    assert draw(1) != draw(2)


@pytest.mark.parametrize("beats", [12, 20, 64])
@pytest.mark.parametrize("seed", range(10))
def test_sections_cover_the_excerpt_without_gaps(beats, seed):
    plan = draw(seed, make_score(beats))
    time = beat = 0.0
    for section in plan["sections"]:
        assert section["start"] == pytest.approx(time, abs=1e-5)
        assert section["beat"] == pytest.approx(beat, abs=1e-5)
        assert 2.8 < section["length"] <= 8 or len(plan["sections"]) == 1
        time += section["length"]
        beat += section["length"] * section["tempo"] / 60
    assert plan["duration"] == pytest.approx(time, abs=1e-4)
    # either the excerpt is full or the piece is at its end
    assert plan["duration"] == pytest.approx(30, abs=1e-3) or beat == pytest.approx(beats, abs=1e-2)


def test_sections_redraw_every_nuisance():
    for seed in range(20):
        sections = draw(seed)["sections"]
        for before, after in itertools.pairwise(sections):
            assert not set(before["programmes"]) & set(after["programmes"])
        for name in ("tempo", "cents", "level", "reverb_time", "reverb_level", "snr", "colour", "seed"):
            assert len({s[name] for s in sections}) >= len(sections) - 1, name  # draws are rounded
    with_drums = [s["drums"] is not None for seed in range(200) for s in draw(seed)["sections"]]
    assert np.mean(with_drums) == pytest.approx(0.5, abs=0.06)


def test_scope_piece_draws_once():
    plan = draw(3, scope="piece")
    assert len(plan["sections"]) == 1 and plan["sections"][0]["length"] == plan["duration"] == 30.0


def test_draws_stay_in_range():
    for seed in range(100):
        plan = draw(seed, transposition=-6, snr_db=(3.0, 4.0), detune_cents=10.0)
        assert 60 <= plan["tempo"] <= 100
        for section in plan["sections"]:
            assert abs(section["cents"]) <= 10 and 3 <= section["snr"] <= 4
            assert section["octave"] in (0, 12)  # the bass, now at MIDI 42, has no octave below it
            assert len(section["programmes"]) == len(section["levels"]) == 4
            if section["drums"]:
                kick, beats = section["drums"]["strokes"][0]
                assert kick in programmes.KICKS and 0.0 in beats and max(beats) < 4


def test_compound_tunes_get_triplet_drums():
    notes = np.array([(b + k / 3, 1 / 3, 60, 0) for b in range(60) for k in range(3)], np.float32)
    jig = Score("jig", "tune", "oneills", "A jig", 0, 2, False, notes)
    drums = [s["drums"] for s in draw(0, jig, drum_probability=1.0)["sections"]]
    off_beat = {round(b % 1, 2) for d in drums for _, beats in d["strokes"] for b in beats}
    assert off_beat <= {0, 0.33, 0.67} and len(off_beat) > 1


def test_long_rests_are_shortened():
    notes = np.array([(5, 1, 60, 0), (5, 4, 48, 1), (7, 1, 62, 0), (30, 1, 64, 0), (32, 1, 60, 0)], np.float32)
    short = arrange.shorten_rests(notes)
    assert short[:, 0].tolist() == [2, 2, 4, 8, 10]  # rests of 5 and 21 beats have become 2
    np.testing.assert_array_equal(short[:, 1:], notes[:, 1:])
    np.testing.assert_array_equal(arrange.shorten_rests(short), short)


def test_scope_of_a_piece():
    names = [f"piece {i}" for i in range(400)]
    assert {arrange.scope_of("piece", name, 0) for name in names} == {"piece"}
    drawn = [arrange.scope_of("mixed", name, 0) for name in names]
    assert set(drawn) == {"section", "piece"} and 160 < drawn.count("piece") < 240  # +- 4 standard deviations
    assert drawn == [arrange.scope_of("mixed", name, 0) for name in names]
    assert drawn != [arrange.scope_of("mixed", name, 1) for name in names]
    with pytest.raises(KeyMynaError, match="'mixed'.*section, piece"):
        draw(0, scope="mixed")


def test_too_many_parts():
    with pytest.raises(KeyMynaError, match="15"):
        draw(0, make_score(parts=16))


def test_loudness_of_the_programmes_is_that_of_the_soundfont():
    synth = tinysoundfont.Synth(samplerate=SAMPLE_RATE)
    bank = synth.sfload(str(soundfonts.find(soundfonts.DEFAULT)))
    for programme, loudness in programmes.PROGRAMME_LOUDNESS.items():
        power = []
        for key in range(48, 85, 4):
            synth.program_select(0, bank, 0, programme)
            synth.noteon(0, key, 90)
            stereo = np.frombuffer(synth.generate(8000), np.float32).reshape(-1, 2)
            power.append(np.mean(np.square(stereo.mean(axis=1))))
            synth.sounds_off()
            synth.generate(1600)
        assert 10 * np.log10(np.mean(power)) == pytest.approx(loudness, abs=1), programme
        assert min(power) > np.mean(power) / 100, programme  # audible everywhere
