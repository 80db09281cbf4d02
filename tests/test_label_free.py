"""Agreement without labels: of stand-ins whose answers are known, and of templates on cadences of known keys."""

import numpy as np
import pandas as pd
import pytest
import tones

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute.processes import Processes
from keymyna_lib.evaluate import NO_KEY
from keymyna_lib.experiments.controls import template_keys
from keymyna_lib.experiments.label_free import (
    FIRST,
    SECOND,
    SHIFTS,
    WHOLE,
    agreement,
    listen,
    pairs,
    right_where_agreed,
    transposed,
)
from keymyna_lib.keys import transpose

ONE = Processes(1)


class Recordings:
    """Cadences of known keys by track id; those of `modulating` are in another key in their second half."""

    def __init__(self, keys, modulating=()):
        self.keys, self.modulating = keys, modulating

    def audio(self, track_id):
        key = self.keys[track_id]
        if track_id not in self.modulating:
            return tones.cadence(key, 16.0)
        return np.concatenate([tones.cadence(key, 8.0), tones.cadence((key + 1) % 12, 8.0)])


def pitch(audio):
    """MIDI number of the strongest partial of a pure tone."""
    spectrum = np.abs(np.fft.rfft(audio * np.hanning(len(audio))))
    return 69 + 12 * np.log2(spectrum.argmax() * 16000 / len(audio) / 440)


def constant(audio):
    return {"constant": 7}


def by_pitch(audio):
    """The pitch class of a tone, as a major key: right at any pitch."""
    return {"by pitch": round(pitch(audio)) % 12}


def silent(audio):
    return {"silent": NO_KEY}


class Tones:
    def audio(self, track_id):
        return np.sin(2 * np.pi * 440 * 2 ** (int(track_id) / 12) * np.arange(32000) / 16000).astype(np.float32)


def test_audio_is_transposed_by_exactly_so_many_semitones():
    tone = Tones().audio("0")
    for semitones in (-7, -1, 0.5, 4, 12):
        moved = transposed(tone, semitones)
        assert pitch(moved) == pytest.approx(69 + semitones, abs=0.15)
        assert len(moved) == pytest.approx(len(tone) / 2 ** (semitones / 12), abs=2)
        assert np.sqrt(np.mean(moved[800:-800] ** 2)) == pytest.approx(np.sqrt(0.5), rel=0.01)
    assert transposed(tone, 0) is tone


def test_systems_of_known_behaviour():
    tracks = [str(n) for n in range(0, 12, 2)]
    answers = listen(Tones(), tracks, [constant, by_pitch, silent], client=ONE, progress=False)
    assert len(answers) == len(tracks) * 3 * (3 + len(SHIFTS))
    table = agreement(answers, seed=0).set_index(["system", "measure"])
    assert table.loc[("constant", "halves"), ["same", "same_low", "same_high", "weighted"]].tolist() == [1, 1, 1, 1]
    assert table.loc[("constant", "halves"), ["same_chance", "weighted_chance"]].tolist() == [1, 1]
    # Transposed back, the answer has moved by every distance on the circle of fifths: once by a fifth.
    assert table.loc[("constant", "transposition"), "same"] == 0
    assert table.loc[("constant", "transposition"), "weighted"] == pytest.approx(0.5 / 6)
    assert table.loc[("constant", "transposition"), "weighted_chance"] == pytest.approx(0.5 / 6)
    for measure in ("halves", "transposition"):
        assert table.loc[("by pitch", measure), ["same", "weighted"]].tolist() == [1, 1]
        # Of six keys that are whole tones apart, none is a fifth from another.
        assert table.loc[("by pitch", measure), "same_chance"] == pytest.approx(1 / 6)
        assert table.loc[("by pitch", measure), "weighted_chance"] == pytest.approx(1 / 6)
        assert table.loc[("silent", measure), ["same", "weighted", "same_chance"]].tolist() == [0, 0, 0]
    assert (table["tracks"] == len(tracks)).all()


def test_templates_hear_transposition_and_modulation():
    keys = {"c": 0, "a flat": 8, "d minor": 14, "modulating": 5}
    answers = listen(Recordings(keys, ["modulating"]), list(keys), [template_keys], shifts=(-3, 2), client=ONE)
    table = pairs(answers)
    table = table[table["system"] == "template-temperley"].set_index(["measure", "track_id"]).sort_index()
    assert table.loc["transposition", "same"].mean() == 1
    halves = table.loc["halves"]
    assert halves["same"].to_dict() == {"c": 1, "a flat": 1, "d minor": 1, "modulating": 0}
    assert halves.loc["modulating", ["one", "other"]].tolist() == [5, 6]
    assert table.loc["transposition"].loc["d minor", "one"].tolist() == [14, 14]


def made_up(rng, tracks, agree):
    """Answers of a system that repeats itself with a given probability, and else names any key."""
    rows = []
    for track in tracks:
        key = int(rng.integers(24))
        for part, shift in ((WHOLE, 0), (FIRST, 0), (SECOND, 0), (WHOLE, 3)):
            heard = key if rng.random() < agree or part == FIRST or (part == WHOLE and not shift) else rng.integers(24)
            rows.append((track, "made up", part, shift, int(transpose(int(heard), shift))))
    return pd.DataFrame(rows, columns=["track_id", "system", "part", "shift", "estimate"])


def test_shares_and_intervals_of_a_system_that_sometimes_agrees():
    answers = made_up(np.random.default_rng(0), [f"t{n}" for n in range(3000)], 0.6)
    table = agreement(answers, n_resamples=500, seed=1)
    expected = 0.6 + 0.4 / 24
    for row in table.itertuples():
        assert row.same == pytest.approx(expected, abs=0.03) and row.same_low < expected < row.same_high
        assert row.weighted == pytest.approx(0.6 + 0.4 * 2.5 / 24, abs=0.03)
        assert row.same_chance == pytest.approx(1 / 24, abs=0.01)
        assert row.weighted_chance == pytest.approx(2.5 / 24, abs=0.01)
    assert agreement(answers, n_resamples=500, seed=1).equals(table)
    groups = pd.Series("one", index=answers["track_id"].unique())
    together = agreement(answers, groups=groups, n_resamples=50, seed=1)
    assert (together["same_low"] == together["same_high"]).all()


def test_agreement_beside_truth():
    """Of four tracks, halves agree on three; two of these are right, and the fourth is."""
    heard = {"a": (0, 0, 0), "b": (5, 5, 5), "c": (7, 2, 2), "d": (9, 1, 2)}  # whole and halves
    rows = [
        (track, "made up", part, 0, key)
        for track, keys in heard.items()
        for part, key in zip((WHOLE, FIRST, SECOND), keys)
    ]
    rows += [(track, "made up", WHOLE, 3, 0) for track in heard]  # plays no part
    answers = pd.DataFrame(rows, columns=["track_id", "system", "part", "shift", "estimate"])
    keys = pd.Series({"d": 9, "a": 0, "c": 3, "b": 5, "unheard": 1})
    table = right_where_agreed(answers, keys, seed=0).set_index("agreed")
    assert table.loc[True, ["tracks", "right"]].tolist() == [3, pytest.approx(2 / 3)]
    assert table.loc[True, "low"] < 2 / 3 < table.loc[True, "high"]
    assert table.loc[False, ["tracks", "right", "low", "high"]].tolist() == [1, 1, 1, 1]
    together = right_where_agreed(answers, keys, groups=pd.Series("one", index=keys.index), seed=0).set_index("agreed")
    assert together.loc[True, "low"] == together.loc[True, "high"]


@pytest.mark.parametrize("shifts", [(), (0,), (1.5,)])
def test_shifts_that_are_refused(shifts):
    with pytest.raises(KeyMynaError, match="whole semitones"):
        listen(Tones(), ["0"], [constant], shifts=shifts, client=ONE)


def test_recordings_too_short_for_halves_are_refused(monkeypatch):
    monkeypatch.setattr(Tones, "audio", lambda self, track_id: np.zeros(4000, np.float32))
    with pytest.raises(KeyMynaError, match="track 3 is too short.*0.25 s"):
        listen(Tones(), ["3"], [constant], client=ONE, progress=False)
    with pytest.raises(KeyMynaError, match="0 tracks"):
        listen(Tones(), [], [constant], client=ONE)
