from __future__ import annotations

import numpy as np
import pytest
from test_arrange import draw, make_score

from keymyna_lib.corpus.sound import effects, programmes, render, soundfonts
from keymyna_lib.spectrogram import SAMPLE_RATE

# Krumhansl and Kessler's (1982) probe-tone ratings for C major
C_MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])


def plain(
    notes, programme: int = 80, seconds: float = 3.0, transposition: int = 0, **changes
) -> tuple[np.ndarray, dict]:
    """Notes on one programme at 60 beats a minute, with nothing else to hear."""
    notes = np.array(notes, np.float32)
    parts = int(notes[:, 3].max()) + 1
    section = {
        "start": 0.0,
        "length": seconds,
        "beat": 0.0,
        "tempo": 60.0,
        "programmes": [programme] * parts,
        "levels": [0.0] * parts,
        "octave": 0,
        "cents": 0.0,
        "drums": None,
        "level": 0.0,
        "reverb_time": 0.2,
        "reverb_level": -200.0,
        "snr": 200.0,
        "colour": 0.0,
        "seed": 0,
    } | changes
    return notes, {"transposition": transposition, "tempo": 60.0, "duration": seconds, "sections": [section]}


def fundamental(samples: np.ndarray) -> float:
    """Strongest frequency in the steady part, Hz, to about 0.05 Hz."""
    steady = samples[8000:40000].astype(float)
    size = 1 << 19
    spectrum = np.abs(np.fft.rfft(steady * np.hanning(len(steady)), size))
    return np.argmax(spectrum) * SAMPLE_RATE / size


@pytest.mark.parametrize("cents", [0.0, 30.0, -30.0])
@pytest.mark.parametrize("transposition", [0, 5, -6])
def test_pitch_tuning_and_transposition(cents, transposition):
    samples = render.render(*plain([(0, 3, 69, 0)], transposition=transposition, cents=cents))
    expected = 440 * 2 ** ((transposition + cents / 100) / 12)
    assert 1200 * np.log2(fundamental(samples) / expected) == pytest.approx(0, abs=4)


def test_octave_shift():
    assert fundamental(render.render(*plain([(0, 3, 69, 0)], octave=-12))) == pytest.approx(220, abs=1)


def test_notes_sound_when_they_should():
    samples = render.render(*plain([(0.5, 0.5, 69, 0), (2, 0.5, 69, 0)])).astype(float)
    loud = np.sqrt(np.mean(samples.reshape(-1, 800) ** 2, axis=1)) > 500  # 50 ms
    assert not loud[:10].any() and loud[10:20].all() and not loud[26:40].any() and loud[40:50].all()


def test_section_starts_amid_the_score_and_strikes_held_notes_anew():
    notes, arrangement = plain([(0, 10, 69, 0), (5, 1, 81, 0)], seconds=2.0, beat=4.0)
    samples = render.render(notes, arrangement)
    assert fundamental(np.tile(samples[4000:14000], 5)) == pytest.approx(440, abs=3)
    assert np.abs(samples[:3200].astype(float)).max() > 1000


def chroma(samples: np.ndarray) -> np.ndarray:
    """Magnitude by pitch class, C first: each bin of one long spectrum goes to its nearest semitone."""
    magnitude = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    frequency = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    heard = (frequency > 60) & (frequency < 2000)
    pitch_class = np.round(12 * np.log2(frequency[heard] / 440) + 69).astype(int) % 12
    return np.bincount(pitch_class, magnitude[heard], 12)


@pytest.mark.parametrize("transposition", [0, 3, -6])
def test_key_profile_finds_the_key(transposition):
    chords = [(0, 4, 7, 12), (5, 9, 12, 17), (7, 11, 14, 19), (0, 4, 7, 12)]
    notes = [(b, 1, 60 + p, i) for b in range(12) for i, p in enumerate(chords[b % 4])]
    heard = chroma(render.render(*plain(notes, programme=0, seconds=12.0, transposition=transposition)))
    fit = [np.corrcoef(np.roll(C_MAJOR, k), heard)[0, 1] for k in range(12)]
    assert np.argmax(fit) == transposition % 12


def test_rendering_is_a_pure_function():
    """The synthesizer is kept between calls: nothing of one may be heard in the next."""
    score = make_score()
    plans = [draw(seed, drum_probability=0.5) for seed in range(3)]
    first = [render.render(score.notes, p) for p in plans]
    render._synth.cache_clear()
    again = [render.render(score.notes, p) for p in reversed(plans)][::-1]
    for a, b, plan in zip(first, again, plans):
        assert a.dtype == np.int16 and len(a) == render.n_samples(plan) == 480_000
        np.testing.assert_array_equal(a, b)
        assert np.abs(a).max() == round(render.PEAK * 32767)


def test_every_section_is_heard():
    score = make_score()
    for seed in range(3):
        plan = draw(seed)
        samples = render.render(score.notes, plan).astype(float) / 32768
        for section in plan["sections"]:
            start = round(section["start"] * SAMPLE_RATE)
            clip = samples[start : start + round(section["length"] * SAMPLE_RATE)]
            assert np.sqrt(np.mean(clip**2)) > 0.01


@pytest.mark.parametrize("snr", [0.0, 10.0, 30.0])
@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_noise_level_and_colour(snr, colour):
    audio = np.sin(np.arange(100_000, dtype=np.float32))
    noise = effects.add_noise(audio, snr, colour, np.random.default_rng(0)) - audio
    assert 10 * np.log10(np.mean(audio**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequency = np.fft.rfftfreq(len(noise), 1 / SAMPLE_RATE)
    low, high = (np.mean(power[(frequency > f) & (frequency < 1.1 * f)]) for f in (400, 4000))
    assert 10 * np.log10(low / high) == pytest.approx(10 * colour, abs=1.5)


def test_noise_of_a_rendering_has_its_level():
    clean, noisy = (render.render(*plain([(0, 3, 69, 0)], snr=snr))[2000:].astype(float) for snr in (200.0, 12.0))
    scale = clean @ noisy / (clean @ clean)  # each was normalised to its own peak
    ratio = np.sum((scale * clean) ** 2) / np.sum((noisy - scale * clean) ** 2)
    assert 10 * np.log10(ratio) == pytest.approx(12, abs=0.5)


def test_room_decays_as_it_should():
    impulse = np.zeros(16_000, np.float32)
    impulse[0] = 1
    wet = effects.add_room(impulse, 1.0, -6.0, np.random.default_rng(0)) - impulse
    assert 10 * np.log10(np.sum(wet.astype(float) ** 2)) == pytest.approx(-6, abs=0.1)
    early, late = (np.mean(wet[i : i + 1600] ** 2) for i in (0, 8000))
    assert 10 * np.log10(early / late) == pytest.approx(30, abs=1.5)


def test_drums_have_their_level():
    score = make_score()
    plan = draw(0, drum_probability=1.0)
    section = plan["sections"][0] | {"reverb_level": -200.0, "snr": 200.0, "level": 0.0}
    with_drums = render.render_section(score.notes, section, 0)
    without = render.render_section(score.notes, section | {"drums": None}, 0)
    scale = np.vdot(with_drums, without) / np.vdot(without, without)
    ratio = 10 * np.log10(np.sum((with_drums / scale - without) ** 2) / np.sum(without**2))
    assert ratio == pytest.approx(section["drums"]["level"], abs=1)


def level(audio: np.ndarray) -> float:
    return 10 * np.log10(np.mean(audio.astype(float) ** 2) + 1e-20)


def test_velocities_are_those_of_the_notes():
    """The same for every note, they are as loud as each other; otherwise they are not."""
    soft, loud = (
        render.render(*plain([(0, 1, 60, 0, velocity), (2, 1, 60, 0, 100)])).astype(float) for velocity in (40, 100)
    )
    early, late = slice(1600, 14400), slice(33600, 46400)
    assert level(loud[early]) - level(loud[late]) == pytest.approx(0, abs=0.2)
    assert level(soft[early]) - level(soft[late]) < -6
    drawn = render.render(*plain([(b / 2, 0.5, 60, 0) for b in range(6)])).astype(float)
    assert np.ptp([level(drawn[at : at + 6000]) for at in range(1000, 46_000, 8000)]) > 0.3


def test_drums_of_the_notes_sound_when_they_are_struck():
    strokes = [(b, 0.25, 38, render.DRUM_PART, 100) for b in (0.5, 1.5, 2.5)]
    notes, arrangement = plain([(0, 3, 69, 0, 100), *strokes])
    arrangement["sections"][0]["drums"] = {"kit": 0, "level": 0.0}
    with_drums = render.render_section(notes, arrangement["sections"][0], 0)
    without = render.render_section(notes, arrangement["sections"][0] | {"drums": None}, 0)
    without_notes = render.render_section(notes[:1], arrangement["sections"][0] | {"drums": None}, 0)
    np.testing.assert_array_equal(without, without_notes)  # the drums are nobody's notes
    share = np.vdot(with_drums, without) / np.vdot(without, without)
    drums = np.abs(with_drums - share * without)
    for stroke in (0.5, 1.5, 2.5):
        at = round(stroke * SAMPLE_RATE)
        assert drums[at : at + 800].max() > 20 * drums[at - 800 : at - 20].max()


def test_drums_before_the_section_are_not_struck_in_it():
    strokes = [(b, 1, 38, render.DRUM_PART, 100) for b in (0.9, 1.0, 3.0)]
    drums = {"beat": 1.0, "drums": {"kit": 0, "level": 0.0}, "length": 2.0}
    notes, arrangement = plain([(0, 5, 69, 0, 100), *strokes], **drums)
    section = arrangement["sections"][0]
    assert [event[0] for event in render._drum_events(notes, section, np.random.default_rng(0))] == [0]


def test_a_part_with_a_chain_is_played_apart():
    """A pure tone (an ocarina) gets odd harmonics; the other part stays as it was."""
    driven = [{"effect": "saturate", "drive": 15.0}]
    notes = [(0, 3, 69, 0, 100), (0, 3, 76, 1, 100)]
    bare, first, both = (
        render.render(*plain(notes, programme=79, parts=parts)).astype(float)[8000:40000]
        for parts in ([[], []], [driven, []], [driven, driven])
    )

    def harmonic(samples: np.ndarray, key: int, n: int) -> float:
        near = np.abs(np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE) - n * 440 * 2 ** ((key - 69) / 12)) < 12
        return 10 * np.log10(np.sum(np.abs(np.fft.rfft(samples * np.hanning(len(samples))))[near] ** 2))

    def third(samples: np.ndarray, key: int) -> float:
        return harmonic(samples, key, 3) - harmonic(samples, key, 1)

    assert third(first, 69) > third(bare, 69) + 15 and third(both, 69) == pytest.approx(third(first, 69), abs=2)
    assert third(first, 76) < third(bare, 76) + 6 and third(both, 76) > third(bare, 76) + 15
    unchanged = harmonic(first, 76, 1) - harmonic(first, 69, 1)
    assert unchanged == pytest.approx(harmonic(bare, 76, 1) - harmonic(bare, 69, 1), abs=3)


def test_parts_without_a_chain_are_played_as_ever():
    score, plan = make_score(), draw(0)
    for section in plan["sections"]:
        section["parts"] = [[]] * 4
    np.testing.assert_array_equal(render.render(score.notes, plan), render.render(score.notes, draw(0)))


def produced(*chain: dict, sidechain: dict | None = None) -> dict:
    return {"style": "pop", "sidechain": sidechain, "chain": list(chain)}


def test_the_kick_ducks_the_pitched_parts():
    kicks = [(b, 0.25, 36, render.DRUM_PART, 1) for b in (0.5, 1.5, 2.5)]
    notes, arrangement = plain([(0, 3, 81, 0, 100), *kicks], programme=79)
    section = arrangement["sections"][0] | {"drums": {"kit": 0, "level": -60.0}}
    flat = render.render_section(notes, section, 0)
    pumped = render.render_section(notes, section, 0, sidechain={"depth": 12.0, "release": 0.3})
    ratio = [level(pumped[at : at + 400]) - level(flat[at : at + 400]) for at in (8000, 8000 + 6000)]
    assert ratio[0] - ratio[1] == pytest.approx(-12, abs=1)
    own = section | {"production": produced(sidechain={"depth": 12.0, "release": 0.3})}
    np.testing.assert_array_equal(render.render_section(notes, own, 0), pumped)


def test_a_production_of_the_piece_changes_its_speed_and_length():
    notes, arrangement = plain([(0, 3, 69, 0)])
    arrangement["production"] = produced({"effect": "play_at", "cents": 50.0})
    samples = render.render(notes, arrangement)
    assert len(samples) == render.n_samples(arrangement) == round(3 * SAMPLE_RATE * 2 ** (-50 / 1200))
    assert 1200 * np.log2(fundamental(samples) / 440) == pytest.approx(50, abs=4)
    assert np.abs(samples).max() == round(render.PEAK * 32767)


def test_a_production_of_a_section_is_of_that_section_alone():
    score, plan = make_score(), draw(0)
    plan["sections"][1]["production"] = produced({"effect": "band_limit", "low": 0, "high": 400.0})
    clips = [render.render_section(score.notes, section, 0) for section in plan["sections"][:2]]
    bare = [render.render_section(score.notes, section, 0) for section in draw(0)["sections"][:2]]
    np.testing.assert_array_equal(clips[0], bare[0])
    assert np.corrcoef(clips[1], bare[1])[0, 1] < 0.99
    assert level(clips[1]) == pytest.approx(level(bare[1]), abs=1)


def test_another_soundfont_is_measured(monkeypatch):
    """Its programmes come at the loudness of the default one's: tried on a copy of that by another name."""
    path = str(soundfonts.find(soundfonts.DEFAULT))
    for programme in (0, 33, 39, 80):
        known = programmes.PROGRAMME_LOUDNESS[programme]
        assert render.loudness(path, programme) == pytest.approx(known, abs=1)
    notes = [(0, 3, 69, 0)]
    samples = []
    for soundfont in (soundfonts.DEFAULT, path):
        _, arrangement = plain(notes, programme=79)
        samples.append(render.render(np.array(notes, np.float32), arrangement | {"soundfont": soundfont}))
    assert fundamental(samples[1]) == pytest.approx(440, abs=1)
    assert np.corrcoef(*samples)[0, 1] > 0.999


def test_measuring_a_soundfont_leaves_no_trace():
    """The second part's programme is measured while the first waits to be played."""
    path = str(soundfonts.find(soundfonts.DEFAULT))
    notes, arrangement = plain([(0, 3, 60, 0), (0, 3, 67, 1)], programmes=[79, 50], levels=[0.0, -6.0])
    render.loudness.cache_clear()
    fresh = render.render(notes, arrangement | {"soundfont": path})
    np.testing.assert_array_equal(render.render(notes, arrangement | {"soundfont": path}), fresh)
    assert np.corrcoef(fresh, render.render(notes, arrangement))[0, 1] > 0.999


def test_silence_stays_silent():
    samples = render.render(*plain([(50, 1, 69, 0)]))
    assert not samples.any()


def test_rendering_is_what_it_has_been():
    """Levels of every 1.5 s as the first rendering had them [dB]: a change of the sound is another corpus."""
    samples = render.render(make_score().notes, draw(1)).astype(float)
    known = [70.84, 69.68, 70.05, 69.95, 67.36, 67.06, 66.44, 66.0, 68.05, 66.57]
    known += [66.74, 66.92, 69.57, 73.07, 73.48, 73.55, 74.37, 75.09, 74.57, 75.13]
    np.testing.assert_allclose([level(part) for part in samples.reshape(20, -1)], known, atol=0.01)


def test_kits_and_programmes_exist_in_the_soundfont():
    synth, bank = render._synth(soundfonts.DEFAULT)
    assert all(synth.sfpreset_name(bank, 0, p) for p in programmes.PROGRAMME_LOUDNESS)
    assert all(synth.sfpreset_name(bank, 128, k) for k in programmes.DRUM_KITS)
