import collections
import csv
import pickle
from pathlib import Path

import hypothesis
import hypothesis.strategies
import mir_eval
import numpy as np
import pytest

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError

ALL = range(24)
MAJOR_SCALE, MINOR_SCALE = (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10)


def signature(key):
    """Sharps (positive) or flats (negative) of a key, from -5 to 6, found by its scale's notes.

    The signature with n sharps is the diatonic set of F C G D A E B moved n fifths up.
    """
    notes = {(key + step) % 12 for step in (MAJOR_SCALE if key < 12 else MINOR_SCALE)}
    return next(n for n in range(-5, 7) if notes == {(5 + 7 * (i + n)) % 12 for i in range(7)})


def test_all_pairs_of_relations_against_mir_eval():
    score_of = {"same": 1.0, "fifth": 0.5, "relative": 0.3, "parallel": 0.2, "other": 0.0}
    for r in ALL:
        for e in ALL:
            names = keys.KEY_NAMES[r], keys.KEY_NAMES[e]
            up, down = mir_eval.key.weighted_score(*names), mir_eval.key.weighted_score(*names[::-1])
            assert score_of[keys.RELATIONS[keys.relation(r, e)]] == max(up, down)
            assert keys.fifth_direction(r, e) == (up == 0.5) - (down == 0.5)


def test_relations_broadcast():
    table = keys.relation(np.arange(24)[:, None], np.arange(24))
    assert table.shape == (24, 24)
    assert np.bincount(table.ravel()).tolist() == [24, 48, 24, 24, 456]
    np.testing.assert_array_equal(table, table.T)
    direction = keys.fifth_direction(np.arange(24)[:, None], np.arange(24))
    np.testing.assert_array_equal(direction, -direction.T)
    assert [keys.RELATIONS[i] for i in keys.relation(0, [0, 7, 5, 21, 12, 1])] == [
        "same",
        "fifth",
        "fifth",
        "relative",
        "parallel",
        "other",
    ]


def test_small_unsigned_labels_do_not_wrap():
    r, e = np.divmod(np.arange(576), 24)
    for function in (keys.relation, keys.fifth_direction):
        np.testing.assert_array_equal(function(r.astype(np.uint8), e.astype(np.uint8)), function(r, e))


def test_spelling_has_the_fewest_accidentals():
    assert len(set(keys.KEY_NAMES)) == keys.N_KEYS == 24
    for key in ALL:
        name, n = keys.KEY_NAMES[key], signature(key)
        tonic, mode = name.split()
        assert mode == keys.mode(key) == keys.MODES[int(keys.is_minor(key))]
        # Sharps on a tie (six of either): then an accidental in the name is that of the signature.
        assert "b" not in tonic if n > 0 else "#" not in tonic
        assert keys.parse_key(name) == key == keys.key_index(keys.tonic(key), mode)


@pytest.mark.parametrize(
    "text, name",
    [
        ("C major", "C major"),
        ("c minor", "C minor"),
        ("C", "C major"),
        ("Am", "A minor"),
        ("CM", "C major"),
        ("Bb", "Bb major"),
        ("b", "B major"),
        ("bm", "B minor"),
        ("bb minor", "Bb minor"),
        ("B:min", "B minor"),
        ("Eb minor", "D# minor"),
        ("E♭ min", "D# minor"),
        ("F♯ maj", "F# major"),
        ("Gb major", "F# major"),
        ("Cb major", "B major"),
        ("B# minor", "C minor"),
        ("E#:maj", "F major"),
        ("F## minor", "G minor"),
        ("  d#   MINOR ", "D# minor"),
        ("Abm", "G# minor"),
        ("D#m", "D# minor"),
        ("D# min", "D# minor"),
        ("ebm", "D# minor"),
        ("abm", "G# minor"),
        ("bbm", "Bb minor"),
        ("bb", "Bb major"),
        ("BB MINOR", "Bb minor"),
        ("C M", "C major"),
        ("C m", "C minor"),
        ("C:maj", "C major"),
        ("A:min", "A minor"),
        ("A:minor", "A minor"),
        ("B#", "C major"),
        ("Cb", "B major"),
        ("c-sharp minor", "C# minor"),
        ("E flat Major", "Eb major"),
        ("A-minor", "A minor"),
        ("G♯ min", "G# minor"),
        ("6A", "G minor"),
        ("06a", "G minor"),
        ("12B", "E major"),
        ("1b", "B major"),
        ("1d", "C major"),
        ("2m", "E minor"),
        ("9d", "Ab major"),
        ("12m", "D minor"),
        ("\uff23\u266f\u3000minor", "C# minor"),
        ("C #m", "C# minor"),
        ("C\u266f\ufe0f minor", "C# minor"),
        ("E b minor", "D# minor"),
        ("Fx minor", "G minor"),
        ("F\U0001d12a:min", "G minor"),
        ("B\U0001d12b", "A major"),
        ("F double sharp minor", "G minor"),
        ("A natural minor", "A minor"),
        ("8 A", "A minor"),
        ("\ufeff8A\0", "A minor"),
        # German, with its B and H.
        ("cis-Moll", "C# minor"),
        ("Es-dur", "Eb major"),
        ("as moll", "G# minor"),
        ("H", "B major"),
        ("Hm", "B minor"),
        ("h-moll", "B minor"),
        ("B-Dur", "Bb major"),
        ("b moll", "Bb minor"),
        ("Bb-Dur", "Bb major"),
        ("B major", "B major"),
        ("Heses-Dur", "A major"),
        ("Fiss-moll", "F# minor"),
        # Solfege.
        ("do majeur", "C major"),
        ("sol# mineur", "G# minor"),
        ("la minore", "A minor"),
        ("Si bémol majeur", "Bb major"),
        ("Re\u0301 die\u0300se mineur", "D# minor"),
        ("Mi bemol mayor", "Eb major"),
        ("Lá menor", "A minor"),
        ("SOL M\u0130N\u00d6R", "G minor"),
        ("Solm", "G minor"),
        ("lab", "Ab major"),
        # Hyphens: flats of music21, or none.
        ("E- major", "Eb major"),
        ("e- minor", "D# minor"),
        ("B-- minor", "A minor"),
        ("E-", "Eb major"),
        ("e-", "D# minor"),
        ("A\u2013minor", "A minor"),
        ("A - minor", "A minor"),
        ("A--minor", "A minor"),
        # One key in two or three spellings.
        ("C#m/Dbm", "C# minor"),
        ("F\u266f/G\u266d Major", "F# major"),
        ("F#/Gb minor", "F# minor"),
        ("D# minor / Eb", "D# minor"),
        ("B/A#-Moll", "Bb minor"),
        ("8A/Am", "A minor"),
        ("7m/D♯m/E♭m", "D# minor"),
        ("Am (8A)", "A minor"),
        ("8A - Am", "A minor"),
        ("8A-Am", "A minor"),
        ("Abm/G#m 1A", "G# minor"),
        ("la mineur = A minor", "A minor"),
        ("Am\0Am\0", "A minor"),
        ("Am or 1m", "A minor"),
        # What players leave in tags.
        ("A#m +50", "Bb minor"),
        ("Am -12 cents", "A minor"),
        ("F#m (+3.5)", "F# minor"),
        ("8A - 7", "A minor"),
        ("8A - Energy 7", "A minor"),
        ("8A - 128.00", "A minor"),
        ('"Am"', "A minor"),
        ("[8A]", "A minor"),
        # What people write around a key.
        ("C major.", "C major"),
        ("Am.,", "A minor"),
        ("Eb (minor)", "D# minor"),
        ("F\u266f(m)", "F# minor"),
    ],
)
def test_parse(text, name):
    assert keys.KEY_NAMES[keys.parse_key(text)] == name


@pytest.mark.parametrize(
    "reason, texts",
    [
        (
            "no key",
            ["", " ", "-", "\u2013", "N", "X", "unknown", "None", "?", float("nan"), None, "o", "0", "-1", "all"]
            + ["No-Key", "no_key", "(no key)", "N/A", "n.a.", "Not applicable", "Unclassified", "SILENCE", "atonal\0"]
            + ["0.0", "-1.0", "#N/A"],  # of a spreadsheet
        ),
        (
            "several keys",
            [
                "F minor / G# major",
                "G minor/major",
                "C major; A minor",
                "C major minor",
                "C/D",
                "A-A# minor",
                "E / B / A minor",
                "F / F# minor",
                "Am or C",
                "8A/8B",
                "E flat major | C minor",
                "D dorian / A minor",
                "Am\0Cm",
                "C/Cm",
                "8A - 7A",
                "F#/Gb/Gm",
                "B-Dur/H-Dur",
                "E B minor",
            ],
        ),
        (
            "modal",
            [
                "D dorian",
                "C:dor",
                "E phrygian",
                "Dmix",
                "mixolydian",
                "F# Lydian",
                "A:aeolian",
                "Bb modal",
                "C major dorian",
            ],
        ),
        (
            "not a key",
            [
                "h",
                "cis",
                "Dº",
                "minor",
                "1",
                "13A",
                "0B",
                "2M",
                "9D",
                "Am7",
                "C:7",
                "C:",
                "Dad",
                "key of C",
                "loco",
                "C -",
                "C-7",
                "#",
                "fis",
            ],
        ),
    ],
)
def test_parse_refuses(reason, texts):
    assert reason in keys.LABEL_PROBLEMS
    for text in texts:
        with pytest.raises(keys.KeyLabelError, match="major or minor key") as error:
            keys.parse_key(text)
        assert (text, error.value.reason) == (text, reason) and isinstance(error.value, KeyMynaError)


def test_a_label_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(keys.KeyLabelError("D dorian", "modal")))
    assert error.reason == "modal" and "'D dorian'" in str(error)


def test_open_key_codes_go_along_the_circle_of_fifths():
    codes = [f"{n}{mode}" for n in range(1, 13) for mode in "dm"]
    assert tuple(map(keys.parse_key, codes)) == keys.CIRCLE_OF_FIFTHS


def labels(name):
    path = Path(__file__).resolve().parents[2] / "shared" / "data" / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"no {path.name} beside the repository")
    with open(path, encoding="utf-8", newline="") as file:
        return [row["key"] for row in csv.DictReader(file)]


def outcome(label):
    try:
        return keys.mode(keys.parse_key(label))
    except keys.KeyLabelError as error:
        return error.reason


def test_all_labels_of_giantsteps_key():
    written = labels("giantsteps_key")
    assert len(written) == 604
    pitch_class = dict(zip(("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B"), range(12)))
    for label in written:
        tonic, mode = label.split()
        assert keys.parse_key(label) == pitch_class[tonic] + 12 * (mode == "minor")


def test_all_labels_of_giantsteps_mtg():
    """1,349 with one key, as many as InceptionKeyNet lists."""
    written = labels("giantsteps_mtg_keys")
    counts = collections.Counter(map(outcome, written))
    assert counts == {
        "major": sum(x.strip().endswith("major") and "/" not in x for x in written),
        "minor": sum(x.strip().endswith("minor") and not {"/", "-"} & set(x) for x in written),
        "no key": 73,
        "several keys": 64,
    }
    assert counts["major"] + counts["minor"] == 1349


def test_key_index():
    assert keys.key_index(-1, "minor") == 23 and keys.key_index(61, "major") == 1
    with pytest.raises(KeyMynaError, match="dorian"):
        keys.key_index(0, "dorian")


def test_transpose_is_a_group_action():
    every = np.arange(24)
    for s in range(-13, 14):
        moved = keys.transpose(every, s)
        assert sorted(moved) == list(ALL)
        np.testing.assert_array_equal(moved // 12, every // 12)
        np.testing.assert_array_equal(keys.transpose(moved, -s), every)
        np.testing.assert_array_equal(keys.transpose(moved, 3), keys.transpose(every, s + 3))
        assert [keys.transpose(k, s) for k in ALL] == moved.tolist()
    assert keys.KEY_NAMES[keys.transpose(keys.parse_key("B minor"), 2)] == "C# minor"


def test_transposition_keeps_relations():
    r, e = np.divmod(np.arange(576), 24)
    for s in range(12):
        moved = keys.transpose(r, s), keys.transpose(e, s)
        np.testing.assert_array_equal(keys.relation(*moved), keys.relation(r, e))
        np.testing.assert_array_equal(keys.fifth_direction(*moved), keys.fifth_direction(r, e))


def test_circle_of_fifths():
    circle = np.array(keys.CIRCLE_OF_FIFTHS)
    assert sorted(circle) == list(ALL)
    majors, minors = circle[::2], circle[1::2]
    assert keys.KEY_NAMES[majors[0]] == "C major" and keys.KEY_NAMES[minors[0]] == "A minor"
    assert (keys.fifth_direction(majors, np.roll(majors, -1)) == 1).all()
    assert (keys.fifth_direction(minors, np.roll(minors, -1)) == 1).all()
    assert (keys.relation(majors, minors) == keys.RELATIONS.index("relative")).all()
    round_trip = [0, 1, 2, 3, 4, 5, 6, -5, -4, -3, -2, -1]
    assert [signature(k) for k in majors] == [signature(k) for k in minors] == round_trip


def test_camelot():
    wheel = {
        "B major": "1B",
        "G# minor": "1A",
        "Eb major": "5B",
        "C major": "8B",
        "A minor": "8A",
        "G major": "9B",
        "E minor": "9A",
        "E major": "12B",
        "C# minor": "12A",
        "F major": "7B",
        "D minor": "7A",
    }
    assert {name: keys.camelot(keys.parse_key(name)) for name in wheel} == wheel
    assert len({keys.camelot(k) for k in ALL}) == 24
    for key in ALL:
        number = int(keys.camelot(key)[:-1])
        assert keys.parse_key(keys.camelot(key)) == key
        assert int(keys.camelot(keys.transpose(key, 7))[:-1]) == number % 12 + 1


def test_open_key_is_the_other_wheel():
    wheel = {"C major": "1d", "A minor": "1m", "G major": "2d", "F major": "12d", "D minor": "12m", "F# minor": "4m"}
    assert {name: keys.open_key(keys.parse_key(name)) for name in wheel} == wheel


@pytest.mark.parametrize("notation", keys.NOTATIONS)
def test_a_key_written_in_a_tag_is_read_as_the_same(notation):
    written = [keys.NOTATIONS[notation](key) for key in ALL]
    assert [keys.parse_key(text) for text in written] == list(ALL)
    assert all(len(text) <= 3 and text.isascii() for text in written)  # as TKEY of ID3 demands


# Writers of the notations in use: each gives all that it may write for a key.
ENGLISH = [("C", "B#", "Dbb"), ("C#", "Db", "Bx"), ("D", "Cx", "Ebb"), ("D#", "Eb"), ("E", "Fb"), ("F", "E#", "Gbb")]
ENGLISH += [("F#", "Gb"), ("G", "Fx", "Abb"), ("G#", "Ab"), ("A", "Gx", "Bbb"), ("A#", "Bb"), ("B", "Cb", "Ax")]
GERMAN = "C,H-is;C-is,D-es;D;D-is,E-s;E,F-es;F,E-is;F-is,G-es;G;G-is,A-s;A,H-es-es;A-is,B;H,C-es".replace("-", "")
SOLFEGE = [("do", "ut"), ("do#", "réb"), ("re",), ("ré♯", "mi b"), ("mi",), ("fa",), ("Fa dièse", "SOL BEMOL")]
SOLFEGE += [("sol",), ("sol#", "La♭"), ("la",), ("sib", "si bemolle"), ("si",)]


def english(key):
    mode = keys.mode(key)
    for tonic in ENGLISH[key % 12]:
        for spelt in (tonic, tonic.replace("#", "♯").replace("b", "♭"), tonic.lower()):
            yield f"{spelt}{'m' if key >= 12 else 'M'}"
            yield from (f"{spelt} {word}" for word in (mode, mode.upper(), mode[:3]))
            yield f"{spelt}:{mode[:3]}"
        letter, accidental = tonic[0], {"": "", "#": "-sharp", "b": " flat", "x": " double sharp", "bb": "-double-flat"}
        yield f"{letter}{accidental[tonic[1:]]} {mode}"
        if "#" not in tonic and "x" not in tonic:  # music21
            name = tonic[0] + tonic[1:].replace("b", "-")
            yield f"{name if key < 12 else name.lower()} {mode}"


def german(key):
    for tonic in GERMAN.split(";")[key % 12].split(","):
        yield from (f"{tonic}-Dur", f"{tonic}dur", tonic) if key < 12 else (f"{tonic.lower()}-Moll", f"{tonic} moll")


def solfege(key):
    words = ("majeur", "maggiore", "mayor", "maior") if key < 12 else ("mineur", "minore", "menor", "m")
    return (f"{tonic} {word}" for tonic in SOLFEGE[key % 12] for word in words)


def codes(key):
    camelot = keys.camelot(key)
    yield from (camelot, camelot.lower(), camelot.zfill(3), f"{camelot[:-1]} {camelot[-1]}")
    fifths, mode = divmod(keys.CIRCLE_OF_FIFTHS.index(key), 2)
    yield from (f"{fifths + 1}{'dm'[mode]}", f"{fifths + 1:02d}{'dm'[mode]}")


WRITERS = (english, german, solfege, codes)
WRITTEN = {
    key: sorted(
        {text for writer in WRITERS for text in writer(key)} - {"B"} if key != 11 else {*english(11), "B", "1B"}
    )
    for key in ALL
}
KEYS = hypothesis.strategies.sampled_from(range(24))
STEPS = hypothesis.strategies.integers(-1000, 1000)
RESIDUES = hypothesis.strategies.sampled_from(["", " +50", " -12 cents", " (+3.5)", " - 7", "\0", " 440 Hz"])
SEPARATORS = hypothesis.strategies.sampled_from(["/", " / ", " - ", "; ", " ", "|", ", ", " or ", "\0", " = "])


def test_every_writer_is_read():
    assert sum(map(len, WRITTEN.values())) > 800
    for key, texts in WRITTEN.items():
        for text in texts:
            assert keys.parse_key(text) == key, text


@hypothesis.given(hypothesis.strategies.data(), KEYS, KEYS, SEPARATORS, RESIDUES)
def test_two_spellings_are_one_key_or_several(data, one, other, separator, residue):
    texts = [data.draw(hypothesis.strategies.sampled_from(WRITTEN[key])) for key in (one, other)]
    hypothesis.assume(not any(text in ("B", "bM") or text.endswith(("Dur", "dur", "Moll", "moll")) for text in texts))
    label = separator.join(texts) + residue
    if one == other:
        assert keys.parse_key(label) == one
    else:
        with pytest.raises(keys.KeyLabelError) as error:
            keys.parse_key(label)
        assert error.value.reason == "several keys"


@hypothesis.given(
    hypothesis.strategies.one_of(
        hypothesis.strategies.text(max_size=30),
        hypothesis.strategies.text("ABHabcdehmisx#♯b♭-+/|() 018:\0İıº\ud800", max_size=30),
        hypothesis.strategies.lists(
            hypothesis.strategies.sampled_from(
                [text for texts in WRITTEN.values() for text in texts] + list("/- :+0b#")
            ),
            max_size=6,
        ).map("".join),
    )
)
def test_any_text_is_a_key_or_a_label_error(text):
    assert outcome(text) in keys.MODES + keys.LABEL_PROBLEMS
    assert outcome(text) == outcome(f" {text}  ")


@pytest.mark.parametrize("part", ["b", "A-", "A ", "(", "-", "C #", "+1", "#", "8A/", "Cis", "energy", "double"])
def test_a_long_label_takes_no_longer_by_the_letter(part):
    """All notations are read in one pass: where one were read again and again, a minute would not be enough."""
    for text in (part * 20_000, "C" + part * 20_000, "C" + part * 20_000 + "!"):
        outcome(text)


@hypothesis.given(KEYS, STEPS, STEPS)
def test_transpositions_are_a_group(key, one, other):
    there = keys.transpose(key, one)
    assert keys.transpose(there, other) == keys.transpose(key, one + other)
    assert keys.transpose(there, -one) == key == keys.transpose(key, 0) == keys.transpose(key, 12)
    assert keys.mode(there) == keys.mode(key) and keys.tonic(there) == (keys.tonic(key) + one) % 12


@hypothesis.given(KEYS, KEYS, STEPS)
def test_relations_are_symmetric_and_move_with_their_keys(one, other, step):
    assert keys.relation(one, other) == keys.relation(other, one)
    assert keys.fifth_direction(one, other) == -keys.fifth_direction(other, one)
    moved = keys.transpose(one, step), keys.transpose(other, step)
    assert keys.relation(*moved) == keys.relation(one, other)
    assert (keys.relation(one, other) == keys.RELATIONS.index("same")) == (one == other)
