"""Local keys of songs against the notes that sound, of chorales against what stands in the analyses."""

import numpy as np
import pytest

from keymyna_lib.corpus.rendered import local_keys
from keymyna_lib.corpus.rendered.notation import measure_onsets
from keymyna_lib.corpus.songs.compose import compose
from keymyna_lib.experiments.controls import profile_key
from keymyna_lib.keys import parse_key, relation
from keymyna_lib.spectrogram import SAMPLE_RATE

DRAWN = dict(detune_cents=10.0, snr_db=(30.0, 40.0))


@pytest.mark.parametrize("index", range(6))
def test_a_song_modulates_where_it_is_said_to(index):
    made = local_keys.song_passage(7, index, modulates=True, seconds=60.0, **DRAWN)
    first, second = made.local_keys
    assert first.start == 0 and first.end == second.start and 8 < first.end < 52
    assert (second.key - first.key) % 12 in (1, 2, 3) and first.key // 12 == second.key // 12
    # The same song without its modulation has the notes of the first part, and lower ones afterwards.
    section = made.arrangement["sections"][0]
    plain = compose(7, index, tonic=0).notes(
        section["beat"], section["beat"] + section["length"] * section["tempo"] / 60
    )
    changed = compose(7, index, tonic=0, modulates=True).local_keys()[1][0]
    for notes in (plain, made.notes):
        assert len(notes)
    before = plain[:, 0] < changed - 1e-3
    np.testing.assert_array_equal(plain[before, 2], made.notes[before, 2])
    lifted = (made.notes[~before, 2] - plain[~before, 2])[made.notes[~before, 3] >= 0]
    assert set(lifted) == {(second.key - first.key) % 12}
    at = (changed - section["beat"]) * 60 / section["tempo"]
    assert first.end == pytest.approx(at, rel=0.02)  # but for the speed of the production


def test_a_song_that_stays_has_one_key_and_lasts_as_long_as_it_sounds():
    made = local_keys.song_passage(7, 0, modulates=False, seconds=12.0, **DRAWN)
    (only,) = made.local_keys
    assert only.key == compose(7, 0, tonic=0).key // 12 * 12 + made.arrangement["transposition"] % 12
    assert only.end == pytest.approx(len(made.audio()) / SAMPLE_RATE)


MUSIC = """<score-partwise><part-list><score-part id="P1"/></part-list><part id="P1">
<measure number="0"><attributes><divisions>2</divisions>
  <time><beats>4</beats><beat-type>4</beat-type></time></attributes>
  <note><duration>2</duration></note></measure>
<measure number="1"><note><duration>6</duration></note></measure>
<measure number="1a"><note><duration>2</duration></note><note><chord/><duration>2</duration></note></measure>
<measure number="2"><note><duration>8</duration></note><backup><duration>8</duration></backup>
  <note><duration>4</duration></note></measure>
</part></score-partwise>"""


def test_bars_begin_where_the_one_before_ends():
    assert measure_onsets(MUSIC.encode()) == {0: (0.0, 1.0), 1: (1.0, 4.0), 2: (5.0, 4.0)}


def test_an_analysis_is_read():
    text = (
        "Time Signature: 4/4\nm0 b4 G: I\nm1 I b2 IV D: I b2.5 V b:\nm1var1 E: I\nm2 i b3 a: iv C: ii b4 I\nm9 F: I\n"
    )
    changes, tonics = local_keys.read_analysis(text, measure_onsets(MUSIC.encode()))
    names = {"G major": 0.0, "D major": 2.0, "B minor": 2.5, "C major": 7.0}
    assert changes == tuple((beat, parse_key(name)) for name, beat in names.items())
    assert tonics == [(0.0, 7), (1.0, 7), (2.0, 2), (5.0, parse_key("B minor")), (8.0, 0)]


@pytest.fixture(scope="module")
def chorales():
    return local_keys.analysed_chorales()


def test_chorales_with_analyses(chorales):
    by_name = {name: changes for name, _, changes in chorales}
    assert len(chorales) >= 15 and "bwv184.5" not in by_name  # its score is in another key than the analysis
    assert by_name["bwv269"] == ((0.0, 7),)
    # Riemenschneider 6: F: m0 to m4, C: from m4 b1 (beats 16 with the upbeat), F: from m6.
    assert by_name["bwv281"] == ((0.0, 5), (16.0, 0), (24.0, 5))


def test_the_notes_of_a_chorale_agree_with_its_local_keys(chorales):
    """Against another judge: key profiles of the notes of every longer stretch, which a shift of bars would spoil."""
    agreed = []
    for _, notes, changes in chorales:
        ends = [*(beat for beat, _ in changes[1:]), float((notes[:, 0] + notes[:, 1]).max())]
        for (begin, key), end in zip(changes, ends):
            if end - begin >= 8:
                inside = (notes[:, 0] >= begin) & (notes[:, 0] < end)
                histogram = np.bincount(notes[inside, 2].astype(int) % 12, notes[inside, 1], minlength=12)
                agreed.append(relation(key, profile_key(histogram, "temperley")) == 0)
    assert len(agreed) > 40 and np.mean(agreed) > 0.8


def test_chorale_passages_sound_as_long_as_their_keys(chorales):
    (made,) = local_keys.chorale_passages(0, count=1, **DRAWN)
    assert made.name == chorales[0][0] and made.local_keys[0].start == 0
    assert made.local_keys[-1].end == pytest.approx(made.arrangement["duration"], abs=0.01)
