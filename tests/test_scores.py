import re
from pathlib import Path

import music21
import numpy as np
import pandas as pd
import pytest

from keymyna_lib import keys
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered import notation
from keymyna_lib.corpus.rendered import scores as module
from keymyna_lib.corpus.rendered.scores import ScoreSet, audit, last_bass_pitch, load_scores, pitch_class_histogram

CORPUS = Path(music21.__file__).parent / "corpus"


def chords(*pitches, length=4.0):
    """Notes of chords one after another, soprano first, each `length` beats."""
    return np.array(
        [(i * length, length, p, part) for i, chord in enumerate(pitches) for part, p in enumerate(chord)], np.float32
    )


A_MINOR, E_MAJOR, A_MAJOR, D_MINOR = (72, 69, 64, 57), (71, 68, 64, 52), (73, 69, 64, 45), (74, 69, 65, 50)


# --- the audit ---


@pytest.mark.parametrize(
    "last, key, reason, interval",
    [
        (A_MINOR, "A minor", "", None),
        (A_MAJOR, "A minor", "", None),  # Picardy third
        (A_MINOR, "A major", "", None),  # only the bass is looked at
        (E_MAJOR, "A minor", "ends on another note than the tonic", 7),  # half close
        (A_MINOR, "C major", "ends on another note than the tonic", 9),  # relative minor
        (D_MINOR, "A minor", "ends on another note than the tonic", 5),  # a misread signature
    ],
)
def test_audit_compares_the_close_with_the_key(last, key, reason, interval):
    notes = chords(A_MINOR, D_MINOR, E_MAJOR, last)
    assert audit(notes, keys.parse_key(key)) == (reason, interval)


def test_audit_wants_sixteen_beats():
    notes = chords(A_MINOR, E_MAJOR, A_MINOR, length=5.0)
    assert audit(notes, keys.parse_key("A minor"))[0] == "shorter than 16 beats"


def test_the_last_bass_is_the_lowest_note_that_ends_last():
    # The bass rests below a last chord that the upper voices take up again; a late alto moves inside it.
    notes = np.array([(0, 2, 40, 3), (2, 2, 60, 2), (2, 1, 62, 1), (3, 1, 64, 1), (2, 2, 67, 0)], np.float32)
    assert last_bass_pitch(notes) == 60


def test_histogram_is_weighted_by_duration():
    notes = np.array([(0, 3, 60, 0), (3, 1, 67, 0), (0, 4, 48, 1)], np.float32)
    expected = np.zeros(12)
    expected[[0, 7]] = 7 / 8, 1 / 8
    np.testing.assert_allclose(pitch_class_histogram(notes), expected)


# --- reading MusicXML ---


def _read_bach(name):
    jobs = {job["piece_id"]: job for job in module._chorale_jobs(CORPUS)}
    return notation.read_musicxml(jobs[name]["data"])


@pytest.mark.parametrize(
    "name, extension",
    [
        ("bwv66.6", "mxl"),
        ("bwv269", "mxl"),
        ("bwv227.3", "mxl"),  # two sopranos in the last
        ("bwv248.64-6", "mxl"),
        ("bwv171.6", "mxl"),
        ("bwv67.4", "xml"),  # an orchestra; doublings; plain XML
    ],
)
def test_chorales_agree_with_music21(name, extension):
    notes, key, beats_per_bar = _read_bach(name)
    path = CORPUS / "bach" / f"{name}.{extension}"
    score = music21.converter.parse(path, forceSource=True, storePickle=False)
    expected = []
    voices = [p for p in score.parts if p.partName.lower().startswith(("soprano", "alto", "tenor", "bass"))]
    for number, part in enumerate(voices):
        for note in part.stripTies().flatten().notes:
            if not note.duration.isGrace:
                expected += [(note.offset, note.quarterLength, p.midi, number) for p in note.pitches]
    expected = sorted(expected, key=lambda n: (n[0], n[3], n[2]))
    np.testing.assert_allclose(notes, np.array(expected, float), atol=1e-5)
    written = score.recurse().getElementsByClass("Key")[0]
    assert key == keys.key_index(written.tonic.pitchClass, written.mode)
    assert beats_per_bar == score.recurse().getElementsByClass("TimeSignature")[0].barDuration.quarterLength


def test_musicxml_ties_chords_and_second_voices():
    def note(step, octave, duration, extra="", alter=0):
        return (
            f"<note>{extra}<pitch><step>{step}</step><alter>{alter}</alter>"
            f"<octave>{octave}</octave></pitch><duration>{duration}</duration>"
        )

    head = (
        "<attributes><divisions>2</divisions><key><fifths>-3</fifths><mode>minor</mode></key>"
        "<time><beats>2</beats><beat-type>4</beat-type></time></attributes>"
    )
    soprano = (
        f"<measure>{head}{note('C', 5, 4)}<tie type='start'/></note></measure>"
        f"<measure>{note('C', 5, 2)}<tie type='stop'/></note>"
        f"{note('E', 5, 2, alter=-1)}</note></measure>"
    )
    bass = (
        f"<measure><attributes><divisions>2</divisions></attributes>"
        f"{note('C', 3, 2)}</note>{note('G', 3, 2, '<chord/>')}</note>"
        "<note><rest/><duration>2</duration></note><backup><duration>4</duration></backup>"
        f"<forward><duration>2</duration></forward>{note('E', 3, 2, alter=-1)}</note></measure>"
    )
    parts = {"Soprano": soprano, "Alto": soprano, "Tenor": soprano, "Bass": bass, "Timpani": bass}
    names = "".join(f"<score-part id='{n}'><part-name>{n}</part-name></score-part>" for n in parts)
    music = "".join(f"<part id='{n}'>{measures}</part>" for n, measures in parts.items())
    xml = f"<score-partwise><part-list>{names}</part-list>{music}</score-partwise>"
    notes, key, beats_per_bar = notation.read_musicxml(xml.encode())
    assert key == keys.parse_key("C minor") and beats_per_bar == 2
    assert notes[notes[:, 3] == 0].tolist() == [[0, 3, 72, 0], [3, 1, 75, 0]]
    assert notes[notes[:, 3] == 3].tolist() == [[0, 1, 48, 3], [0, 1, 55, 3], [1, 1, 51, 3]]
    assert notes[:, 3].max() == 3
    assert notation.read_musicxml(xml.replace("Tenor", "Viola").encode()) is None


# --- reading ABC ---


def _abc(body, key="D", metre="2/4"):
    return f"X: 1\nT:A title\nM:{metre}\nL:1/8\nR:reel\nK:{key}\n{body}\n"


@pytest.mark.parametrize(
    "body, key, expected",
    [
        ("D2F2|c2f2|", "D", [(0, 1, 62), (1, 1, 66), (2, 1, 73), (3, 1, 78)]),  # the key signature
        ("=c2c2|c2^d2|", "D", [(0, 1, 72), (1, 1, 72), (2, 1, 73), (3, 1, 75)]),  # accidentals, bars
        ("A>B c<d|", "C", [(0, 0.75, 69), (0.75, 0.25, 71), (1, 0.25, 72), (1.25, 0.75, 74)]),  # broken rhythm
        ("(3ABc d2|", "C", [(0, 1 / 3, 69), (1 / 3, 1 / 3, 71), (2 / 3, 1 / 3, 72), (1, 1, 74)]),  # a triplet
        ("A2-A2|B4|", "C", [(0, 2, 69), (2, 2, 71)]),  # a tie
        ('"Am"{c}~A2 !trill!uB2|[DA]4|', "C", [(0, 1, 69), (1, 1, 71), (2, 2, 62), (2, 2, 69)]),  # left out
        ("|:A4|1B4:|2c4|]", "C", [(0, 2, 69), (2, 2, 71), (4, 2, 69), (6, 2, 72)]),  # two endings
        ("A4 % a comment\nB4|\n\nc4|", "C", [(0, 2, 69), (2, 2, 71)]),  # ends at a blank line
        ("[V:1]A4|\n[V:2]C4|\n[V:1]B4|", "C", [(0, 2, 69), (2, 2, 71)]),  # the first voice
    ],
)
def test_abc_by_hand(body, key, expected):
    notes, beats_per_bar = notation.read_abc([_abc(body, key)])[0]
    np.testing.assert_allclose(notes, [(*note, 0) for note in expected], atol=1e-6)
    assert beats_per_bar == 2


@pytest.mark.parametrize(
    "metre, beat, beats_per_bar",
    [("6/8", 1.5, 2), ("9/8", 1.5, 3), ("12/8", 1.5, 4), ("3/8", 1.5, 1), ("3/4", 1, 3), ("C|", 1, 4), ("C", 1, 4)],
)
def test_a_beat_is_a_quarter_or_a_dotted_one(metre, beat, beats_per_bar):
    notes, found = notation.read_abc([_abc("A3 B3|", metre=metre)])[0]
    assert found == beats_per_bar
    np.testing.assert_allclose(notes[:, 0], [0, 1.5 / beat], atol=1e-6)


def test_abc_tunes_read_together_are_those_read_alone():
    tunes = [job["data"] for job in module._tune_jobs(CORPUS)[1000:1040]]
    for together, tune in zip(notation.read_abc(tunes), tunes):
        alone = notation.read_abc([tune])[0]
        np.testing.assert_array_equal(together[0], alone[0])
        assert together[1] == alone[1]


def test_unreadable_abc_is_none():
    assert notation.read_abc(["X:1\nM:none\nK:C\nABc|"]) == [None]


@pytest.mark.parametrize(
    "text, key",
    [
        ("D", "D major"),
        ("Am", "A minor"),
        (" G min ", "G minor"),
        ("Bb maj", "Bb major"),
        ("F# Minor", "F# minor"),
        ("E Minor", "E minor"),
        ("EMin", "E minor"),
        ("Amix", None),
        ("A Dorian", None),
        ("EM", None),
        ("Hp", None),
        ("D % no tonal centre", None),
        ("Dmix=c", None),
        ("", None),
        ("Bn", None),
    ],
)
def test_plain_keys(text, key):
    assert notation.plain_key(text) == (None if key is None else keys.parse_key(key))


# --- the whole corpus ---


def test_what_is_kept(scores):
    counts = scores.table.groupby(["source", scores.table.key.map(keys.mode)]).size()
    assert counts.to_dict() == {
        ("chorale", "major"): 203,
        ("chorale", "minor"): 120,
        ("tune", "major"): 2881,
        ("tune", "minor"): 429,
    }
    assert scores.table.index.is_unique
    assert all(re.fullmatch(r"[\w.-]+", piece_id) for piece_id in scores.table.index)
    assert not set(scores.table.index) & set(scores.exclusions.piece_id)


def test_what_is_left_out(scores):
    assert scores.exclusions.groupby(["source", "reason"]).size().to_dict() == {
        ("chorale", "ends on another note than the tonic"): 85,
        ("chorale", "no key and mode encoded"): 1,
        ("chorale", "not in four voices"): 1,
        ("tune", "changes key"): 33,
        ("tune", "ends on another note than the tonic"): 690,
        ("tune", "not plain major or minor"): 215,
    }
    ends = scores.exclusions.reason.str.startswith("ends on")
    assert scores.exclusions.interval[ends].between(1, 11).all()
    assert scores.exclusions.interval[~ends].isna().all()


def test_every_piece_ends_on_its_tonic_and_is_in_order(scores):
    for piece_id, row in scores.table.iterrows():
        notes = scores.notes(piece_id)
        last = max(notes.tolist(), key=lambda n: (round(n[0] + n[1], 3), -n[2]))
        assert int(last[2]) % 12 == row.key % 12, piece_id
        assert (np.diff(notes[:, 0]) >= 0).all() and (notes[:, 1] > 0).all() and notes[0, 0] >= 0
        assert notes[:, 2].min() > 24 and notes[:, 2].max() < 108
        assert notes[:, 3].max() == (0 if row.source == "tune" else 3 if piece_id not in {"bwv227.3", "bwv27.6"} else 4)


def test_kept_keys_agree_with_the_published_analyses(scores):
    """Twenty chorales have analyses by music theorists: an opinion on the key that the audit has not seen."""
    opening = {}
    for path in (CORPUS / "bach" / "choraleAnalyses").glob("*.rntxt"):
        text = path.read_text(encoding="utf-8")
        tonic = re.search(r"(?m)^m\d+.*? ([A-Ga-g][#b]*):", text)[1]
        opening[path.stem] = keys.parse_key(tonic + ("m" if tonic[0].islower() else ""))
    numbers = music21.corpus.chorales.ChoraleListRKBWV().byRiemenschneider
    analysed = {f"bwv{numbers[int(stem[-3:])]['bwv']}": key for stem, key in opening.items()}
    kept = scores.table[scores.table.analysed]
    assert len(analysed) == 20 and set(kept.index) <= set(analysed)
    disagree = [i for i in kept.index if kept.key[i] != analysed[i]]
    assert len(kept) == 11 and disagree == ["bwv153.1"]  # a Phrygian close, or a half close


def test_unknown_piece_is_named(scores):
    with pytest.raises(KeyMynaError, match="no-such-piece"):
        scores.score("no-such-piece")
    score = scores.score("bwv269")
    assert score.analysed and score.beats_per_bar == 3 and keys.KEY_NAMES[score.key] == "G major"


# --- the cache ---


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A cache in a temporary folder, and a parser that returns two pieces and counts its calls."""
    rows = [("a", "chorale", "bach", "None", 12, 4, True), ("b", "tune", "ryans", 'Jig, "2nd"', 3, 2, False)]
    columns = ["piece_id", "source", "collection", "title", "key", "beats_per_bar", "analysed"]
    exclusions = pd.DataFrame(
        {
            "piece_id": ["c", "d"],
            "source": "tune",
            "collection": "airds",
            "title": ["", "NA"],
            "reason": ["ends", "changes key"],
            "interval": [5, None],
            "key_written": ["Dm", ""],
        }
    )
    made = ScoreSet(
        pd.DataFrame(rows, columns=columns).set_index("piece_id"),
        exclusions.astype({"interval": "Int64"}),
        np.arange(20, dtype=np.float32).reshape(5, 4),
        np.array([0, 2, 5]),
    )
    calls = []
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(module, "_parse_corpus", lambda: calls.append(1) or made)
    return made, calls, tmp_path


def test_cache_round_trip(small):
    made, calls, _ = small
    for found in (load_scores(), load_scores()):
        pd.testing.assert_frame_equal(found.table, made.table)
        pd.testing.assert_frame_equal(found.exclusions, made.exclusions)
        np.testing.assert_array_equal(found.notes("b"), made.notes("b"))
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["notes.npz", "table.csv", "exclusions.csv", "sha256.json"])
@pytest.mark.parametrize("damage", ["truncate", "delete", "change"])
def test_damaged_cache_is_rebuilt(small, name, damage, capsys):
    _, calls, cache = small
    load_scores()
    path = next(cache.glob(f"scores/*/{name}"))
    data = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "delete":
        path.unlink()
    else:
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    load_scores()
    assert len(calls) == 2 and "parsing the scores again" in capsys.readouterr().out
    load_scores()
    assert len(calls) == 2 and path.read_bytes() == data
