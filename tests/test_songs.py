from __future__ import annotations

import itertools
import json

import matplotlib.pyplot as plt
import numpy as np
import pytest

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import numpy_stream
from keymyna_lib.corpus.rendered.build import SongConfig, plan_songs, played_notes
from keymyna_lib.corpus.songs import chords, grammar, lines, rhythm, styles
from keymyna_lib.corpus.songs.arrange import arrange, excerpt
from keymyna_lib.corpus.songs.card import card_counts, data_card, excerpt_of, progressions, songs_of
from keymyna_lib.corpus.songs.compose import DRUMS_PART, LEAD, compose
from keymyna_lib.corpus.songs.grammar import COLOURS, KINDS, draw_progression
from keymyna_lib.corpus.songs.harmony import SCALES, chord, scale_over
from keymyna_lib.corpus.sound import production
from keymyna_lib.corpus.sound.programmes import PROGRAMME_LOUDNESS
from keymyna_lib.experiments.controls import profile_key
from keymyna_lib.report import songs as pictures

DIATONIC = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}


@pytest.fixture(scope="module")
def songs():
    return [compose(3, i) for i in range(240)]


@pytest.fixture(scope="module")
def played(songs):
    return [song.notes(0, 64) for song in songs]


def weights(notes: np.ndarray) -> np.ndarray:
    """Time that each pitch class sounds, drums excepted."""
    pitched = notes[notes[:, 3] != DRUMS_PART]
    return np.bincount(pitched[:, 2].astype(int) % 12, pitched[:, 1], 12)


def test_chords_are_those_of_music21():
    """Those that both spell alike: music21 reads some qualities in the key's own scale."""
    from music21 import roman

    names = "I iv v bII bIII bVI bVII V7 ii7 iv7 iiø7 viio7 #ivo7 V/V V7/ii V7/IV IV/bVII"
    for name in names.split():
        theirs = roman.RomanNumeral(name, "C", caseMatters=True)
        assert {pitch.pitchClass for pitch in theirs.pitches} == set(chord(name).tones), name


def test_bad_numerals():
    for numeral in ("", "VIII", "Ixyz", "I:7", "H"):
        with pytest.raises(KeyMynaError, match="numeral|chord|bass"):
            chord(numeral)


def test_scales_give_way_to_chords():
    for scale, numeral in itertools.product(SCALES, ("I", "V", "V7/V", "V7/ii", "iv", "bVI", "bII")):
        tones = chord(numeral).tones
        sung = scale_over(scale, tones)
        assert sung == tuple(sorted(set(sung))) and set(sung) <= set(range(12))
        if "blues" not in scale and "pentatonic" not in scale:
            assert set(tones) <= set(sung) and 6 <= len(sung) <= 8


def test_grammars_spell_chords_and_fill_cycles():
    rng = np.random.default_rng(0)
    for kind in KINDS.values():
        assert all(KINDS[name].mode == kind.mode for name in kind.bridges)
        assert all(scale in SCALES for scale in kind.scales) and all(chord(name) for name in kind.close)
        found = set()
        for _ in range(30):
            progression = draw_progression(kind, grammar.pick(kind.colours, rng), rng)
            onsets, durations, chords_ = zip(*progression)
            np.testing.assert_allclose(np.cumsum((0, *durations))[:-1], onsets)
            if kind.bars:
                assert onsets[-1] + durations[-1] in kind.bars and min(durations) >= 0.25
            assert any(c.root == 0 for c in chords_)  # the tonic is in every cycle
            found.add(tuple(c.numeral for c in chords_))
        assert len(found) > 3
    for colour in COLOURS.values():
        for plain, coloured in colour.items():
            assert all(chord(name).root == chord(plain).root for name in coloured)


def test_thirds_of_the_tonic_chord_tell_the_mode():
    """No triad on the tonic has the other third; a blue note above a seventh and V of iv are no such triads."""
    rng = np.random.default_rng(1)
    for kind in KINDS.values():
        wrong = 3 if kind.mode == "major" else 4
        for _ in range(40):
            for _, _, c in draw_progression(kind, grammar.pick(kind.colours, rng), rng):
                if c.root == 0 and c.numeral not in ("I7#9", "V7/iv"):
                    assert wrong not in c.tones, (kind, c)


def test_everything_named_in_styles_exists():
    for style in styles.STYLES.values():
        assert style.production in production.STYLES
        assert set(style.kinds) <= set(KINDS) and set(style.forms) <= set(styles.FORMS)
        assert set(style.drums) <= set(rhythm.DRUMS) and set(style.metres) <= set(rhythm.METRES)
        assert set(style.bass) <= set(lines.BASSES)
        assert all(set(layer.patterns) <= {*chords.PATTERNS, "thirds"} for layer in style.layers)
        sounds = (style.voices, style.solos, style.bass_sounds, *(layer.sounds for layer in style.layers))
        assert all(set(names) <= set(styles.SOUNDS) for names in sounds)
    assert all(set(programmes) <= set(PROGRAMME_LOUDNESS) for programmes in styles.SOUNDS.values())
    assert {"blues", "country", "disco", "hip-hop", "jazz", "metal", "pop", "reggae", "rock", "electronic", "soul"} <= {
        style.genre for style in styles.STYLES.values()
    }


def test_drum_patterns():
    for name, rows in rhythm.DRUMS.items():
        assert len({len(row) for row in rows.values()}) <= 1, name
        assert all(35 <= key <= 81 or key == rhythm.SHAKER for key in rows)


def test_swing():
    straight = np.array([0, 0.25, 0.5, 1, 1.5])
    np.testing.assert_allclose(rhythm.swung(straight, 2 / 3, 1.0), [0, 1 / 3, 2 / 3, 1, 5 / 3])
    np.testing.assert_allclose(rhythm.swung(straight, 0.5, 1.0), straight)
    many = np.sort(np.random.default_rng(0).uniform(0, 9, 200))
    assert (np.diff(rhythm.swung(many, 0.62, 0.5)) >= 0).all()


def test_songs_repeat_and_do_not_depend_on_order(songs, played):
    again = compose(3, 100)
    np.testing.assert_array_equal(again.notes(0, 64), played[100])
    assert again.sections == songs[100].sections and again.parts == songs[100].parts
    assert not np.array_equal(compose(4, 100).notes(0, 64), played[100])


def test_another_key_is_an_exact_transposition(songs):
    for song in songs[:40]:
        here, there = song.in_key_of(0), compose(3, song.index, tonic=4)
        assert there.key == keys.transpose(here.key, 4)
        a, b = here.notes(16, 48), there.notes(16, 48)
        a[a[:, 3] != DRUMS_PART, 2] += 4
        np.testing.assert_array_equal(np.sort(a, axis=0), np.sort(b, axis=0))


def test_excerpts_are_parts_of_the_whole(songs):
    for song in songs[:10]:
        whole = compose(3, song.index).notes()
        start, stop = song.length / 3, song.length / 3 + 20
        sounding = (whole[:, 0] < stop) & (whole[:, 0] + whole[:, 1] > start)
        np.testing.assert_array_equal(song.notes(start, stop), whole[sounding])


def test_notes_are_playable(songs, played):
    for song, notes in zip(songs, played):
        onset, duration, pitch, part, velocity = notes.T
        assert len(notes) and (np.diff(onset) >= 0).all() and (duration > 0).all()
        assert ((velocity >= 1) & (velocity <= 127)).all() and part.max() < len(song.parts) <= 15
        pitched = part != DRUMS_PART
        assert pitch[pitched].min() >= 22 and pitch[pitched].max() <= 100
        assert set(pitch[~pitched].astype(int)) <= {
            key for rows in (*rhythm.DRUMS.values(), *rhythm._FILLS) for key in rows
        } | {rhythm.CRASH}
        assert (onset < song.length).all() and song.seconds > 30


def test_sections_follow_each_other(songs):
    for song in songs:
        for before, after in itertools.pairwise(song.sections):
            assert after.start == before.start + before.length
        assert {s.key for s in song.sections} == {song.key} == {key for _, key in song.local_keys()}
        spans = song.chords()
        onsets, durations = np.array([s[0] for s in spans]), np.array([s[1] for s in spans])
        np.testing.assert_allclose(onsets[1:], (onsets + durations)[:-1], atol=1e-6)
        assert onsets[0] == 0 and onsets[-1] + durations[-1] == pytest.approx(song.length)


def test_all_styles_modes_and_tonics_are_drawn():
    card = data_card(compose(0, i) for i in range(600))
    assert set(card["style"]) == set(styles.STYLES) and set(card["key"]) == set(range(24))
    assert card["genre"].value_counts().min() > 600 / 12 / 2
    minor = (card["mode"] == "minor").groupby(card["genre"]).mean()
    assert minor["electronic"] > 0.75 and minor["metal"] > 0.75 and minor["country"] < 0.35
    counts = card_counts(card)
    assert (counts.groupby("property")["songs"].sum() == 600).all()
    assert progressions(card).attrs["different"] > 250
    assert pictures.song_histograms(card).axes


@pytest.mark.parametrize("profile", ["krumhansl", "temperley"])
def test_plain_diatonic_songs_are_heard_in_their_key(profile):
    """By templates made for other music; chance would agree on 4 of 100."""
    agree = []
    for style, mode in itertools.product(("country", "ballad", "ska", "gospel", "latin pop"), keys.MODES):
        for i in range(8):
            song = compose(1, i, style=style, mode=mode)
            assert keys.mode(song.key) == mode
            relation = keys.relation(song.key, int(profile_key(weights(song.notes()), profile)))
            agree.append(relation == 0)
    assert np.mean(agree) > 0.7


def test_notes_are_mostly_of_the_key(songs, played):
    shares = []
    for song, notes in zip(songs, played):
        heard = weights(notes)
        scale = [(tone + keys.tonic(song.key)) % 12 for tone in DIATONIC[keys.mode(song.key)]]
        shares.append(heard[scale].sum() / heard.sum())
    assert np.mean(shares) > 0.9 and np.quantile(shares, 0.05) > 0.65


def test_long_notes_on_the_beat_are_chord_tones():
    inside, n = 0, 0
    for i in range(40):
        song = compose(2, i, style=("pop", "country", "soul", "synth pop")[i % 4], tonic=0)
        spans = song.chords()
        onsets = np.array([s[0] for s in spans])
        notes = song._part_notes("verse", LEAD)[0]
        section = next(s for s in song.sections if s.role == "verse")
        for onset, _, pitch, _, _ in notes[(notes[:, 0] % 1 == 0) & (notes[:, 1] >= 0.9)]:
            if onset < section.length:
                sounding = spans[np.searchsorted(onsets, section.start + onset, side="right") - 1][2]
                inside, n = inside + (pitch % 12 in sounding.tones), n + 1
    assert n > 100 and inside / n > 0.6


def test_the_bass_closes_on_the_tonic():
    """In songs that end on a held chord, the last and lowest note."""
    for i in range(60):
        song = compose(5, i)
        last = song.sections[-1]
        if last.role == "end":
            notes = song.notes(last.start, last.start + last.length)
            notes = notes[notes[:, 3] == 1]
            if len(notes):
                assert notes[-1, 2] % 12 == keys.tonic(song.key)


def test_modulation():
    for i in range(20):
        plain, song = compose(6, i), compose(6, i, modulates=True)
        (_, first), (at, second) = song.local_keys()
        assert first == plain.key == song.key and 0 < at < song.length
        step = (second - first) % 12
        assert step in (1, 2, 3) and keys.mode(first) == keys.mode(second)
        a, b = plain.notes(at), song.notes(at)
        late = a[:, 0] >= at
        a[(a[:, 3] != DRUMS_PART) & late, 2] += step
        assert sorted(a[late, 2].tolist()) == sorted(b[b[:, 0] >= at, 2].tolist())
        np.testing.assert_array_equal(plain.notes(0, at - 8), song.notes(0, at - 8))


def test_unknown_names():
    with pytest.raises(KeyMynaError, match="polka"):
        compose(0, 0, style="polka")
    with pytest.raises(KeyMynaError, match="dorian"):
        compose(0, 0, mode="dorian")
    assert compose(0, 0, style="techno", mode="major").key < 12


@pytest.mark.parametrize("scope", ["piece", "section"])
def test_arrangements(songs, scope):
    starts = []
    for song in songs[:60]:
        made = arrange(
            song, 3, seconds=30, scope=scope, detune_cents=25, snr_db=(10.0, 30.0), rng=numpy_stream(0, song.index)
        )
        again = arrange(
            song, 3, seconds=30, scope=scope, detune_cents=25, snr_db=(10.0, 30.0), rng=numpy_stream(0, song.index)
        )
        assert made == again == json.loads(json.dumps(made))
        first, last = excerpt(made)
        assert 0 <= first < last <= song.length + 1e-3 and made["duration"] <= 30 + 1e-6
        starts.append(first / song.length)
        for section in made["sections"]:
            assert len(section["programmes"]) == len(section["levels"]) == len(section["parts"]) == len(song.parts)
            assert set(section["programmes"]) <= set(PROGRAMME_LOUDNESS)
        tuning = made["sections"][0]["cents"] + production.speed(made.get("production"))
        assert abs(tuning) <= 25
        assert (len(made["sections"]) == 1) == (scope == "piece")
    assert min(starts) < 0.1 and max(starts) > 0.6


@pytest.fixture(scope="module")
def plan():
    few = dict(n_songs=30, seconds=20.0, scope="mixed", detune_cents=20.0, snr_db=(30.0, 40.0), seed=0)
    return plan_songs(SongConfig(**few))


def test_songs_of_a_corpus_are_in_the_keys_that_sound(plan):
    for track, song in songs_of(plan).items():
        assert song.key == plan.key[track] and f"{song.style}, {song.kind}" == plan.title[track]
        transposed = played_notes(track, "song", plan.arrangement[track], None)
        pitched = transposed[:, 3] != DRUMS_PART
        transposed[pitched, 2] += plan.transposition[track]
        start, stop = excerpt(json.loads(plan.arrangement[track]))
        np.testing.assert_array_equal(song.notes(start, stop), transposed)


def test_an_excerpt_is_what_sounds_in_a_track(plan):
    for track, song in songs_of(plan).items():
        found = excerpt_of(song, plan.arrangement[track])
        start, stop = excerpt(json.loads(plan.arrangement[track]))
        whole = song.notes(start, stop)
        held = (whole[:, 0] + whole[:, 1]).clip(max=stop) - whole[:, 0].clip(min=start)
        np.testing.assert_allclose(found.notes[:, 1], held, atol=1e-4)
        assert found.notes[:, 0].min() >= start and (found.notes[:, :2].sum(axis=1) <= stop + 1e-3).all()
        assert found.sections[0][1] <= start and all(start < beat < stop for _, beat in found.sections[1:])
        assert found.chords[0][1] <= start and all(start < beat < stop for _, beat in found.chords[1:])


def test_piano_roll(plan):
    (track, song), *_ = songs_of(plan).items()
    figure = pictures.piano_roll(*excerpt_of(song, plan.arrangement[track]), "a song")
    assert len(figure.axes) == 2 and figure.axes[0].get_title("left") == "a song"


def test_names_of_sections_in_a_piano_roll_do_not_overlap(plan):
    left_out = 0
    for track, song in itertools.islice(songs_of(plan).items(), 6):
        played = excerpt_of(song, plan.arrangement[track])
        figure = pictures.piano_roll(*played, "a song")
        figure.draw_without_rendering()
        names = {name for name, _ in played.sections}
        drawn = [text for text in figure.axes[0].texts if text.get_text().strip() in names]
        boxes = sorted((text.get_window_extent() for text in drawn), key=lambda box: box.x0)
        assert boxes and all(one.x1 <= other.x0 for one, other in itertools.pairwise(boxes))
        left_out += len(played.sections) - len(drawn)
        plt.close(figure)
    assert left_out <= 6
