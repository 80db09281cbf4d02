import difflib
import itertools

import numpy as np
import pandas as pd
import pytest

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.rendered import compositions
from keymyna_lib.corpus.rendered.compositions import (
    composition_ids,
    melodic_shingles,
    normalise_title,
    select,
    transpositions,
)
from keymyna_lib.corpus.rendered.scores import ScoreSet
from keymyna_lib.corpus.splits import assign_splits, label_budget


def _score_set(pieces):
    """A ScoreSet of (piece_id, source, title, pitches, one a beat)."""
    table = pd.DataFrame([(i, s, t) for i, s, t, _ in pieces], columns=["piece_id", "source", "title"])
    notes = [np.array([(k, 1, p, 0) for k, p in enumerate(pitches)], np.float32) for *_, pitches in pieces]
    return ScoreSet(
        table.set_index("piece_id"), pd.DataFrame(), np.concatenate(notes), np.cumsum([0, *map(len, notes)])
    )


def _tune(seed, n=60):
    return np.random.default_rng(seed).integers(60, 80, n)


# --- what a composition is ---


@pytest.mark.parametrize(
    "titles",
    [
        ("The Irish Washerwoman", "IRISH WASHERWOMAN -- JIG", "Irish Washerwoman., The"),
        ("Was mein Gott will, das g’scheh’ allzeit", "Was mein Gott will das gscheh allzeit"),
        ("Nun ruhen alle Wälder", "Nun ruhen alle Walder 2"),
        ("O'Carolan's Devotion", "O’Carolans Devotion"),
        ("Wa\u0308lder", "Wälder", "\uff37älder", "Wäl\u00adder"),
    ],
)
def test_titles_that_are_the_same(titles):
    assert len({normalise_title(title) for title in titles}) == 1 and normalise_title(titles[0])


@pytest.mark.parametrize(
    "title",
    ["Quick Step 25th Regt.", "An Irish Air", "A Jig", "Untitled", "", "March 3d. Regt.", "BWV 248.9-s", "Allemanda."],
)
def test_generic_titles_identify_nothing(title):
    assert normalise_title(title) == ""


def test_components_of_titles_and_melodies():
    first, second, third = _tune(0), _tune(1), _tune(2)
    ids = composition_ids(
        _score_set(
            [
                ("a", "tune", "The Green Fields", first),
                ("b", "tune", "Green Fields -- Reel", second),  # a's title
                ("c", "tune", "Another Name", np.concatenate([second[:50] + 5, third[:10]])),  # b's, a fourth up
                ("d", "tune", "A Jig", _tune(3)),
                ("e", "tune", "A Jig", _tune(4)),  # a title that says nothing
                ("f", "tune", "Alone", third),
            ]
        )
    )
    assert ids.to_dict() == {"a": "a", "b": "a", "c": "a", "d": "d", "e": "e", "f": "f"}


def test_chorales_are_compared_on_the_beat():
    plain = _tune(5, 40)
    notes = [(k, 1, p, 0) for k, p in enumerate(plain)]
    ornamented = [n for k, p in enumerate(plain) for n in ((k, 0.5, p + 3, 0), (k + 0.5, 0.5, p + 4, 0))]
    plain, ornamented = np.array(notes, np.float32), np.array(ornamented, np.float32)
    assert melodic_shingles(plain, "chorale") == melodic_shingles(ornamented, "chorale")
    assert melodic_shingles(plain, "tune") != melodic_shingles(ornamented, "tune")


def test_grouping_ignores_transposition(scores, pieces):
    shifts = np.random.default_rng(0).integers(-6, 6, len(scores.table))
    notes = scores._notes.copy()
    notes[:, 2] += np.repeat(shifts, np.diff(scores._offsets))
    moved = ScoreSet(scores.table, scores.exclusions, notes, scores._offsets)
    pd.testing.assert_series_equal(composition_ids(moved), pieces.composition)


def test_known_settings_come_together(pieces):
    for group in (
        ["bwv244.17", "bwv244.44", "bwv248.64-s"],  # O Haupt voll Blut und Wunden
        ["bwv13.6", "bwv44.7", "bwv97.9", "bwv244.10", "bwv392"],  # Innsbruck, under four titles
        ["bwv227.1", "bwv227.7", "bwv358", "bwv64.8"],
    ):  # Jesu, meine Freude
        assert pieces.composition[group].nunique() == 1
    assert pieces.composition["bwv244.17"] != pieces.composition["bwv244.10"]
    fisher = pieces[pieces.title.str.contains("Fisher's.*Hornpipe", case=False)]
    assert len(fisher) >= 3 and fisher.composition.nunique() == 1


def test_components_stay_small(pieces):
    sizes = pieces.groupby("composition").size()
    assert sizes.max() <= 12 and len(sizes) > 0.7 * len(pieces)
    assert (pieces.groupby("composition").source.nunique() == 1).all()


# --- splits ---


def test_no_composition_straddles_splits(pieces):
    assert (pieces.groupby("composition").split.nunique() == 1).all()


def test_no_title_straddles_splits(pieces):
    """By another rule than the library's: the bare letters of titles that hold at least three words."""
    bare = pieces.title.str.lower().str.replace(r"^the |, the$|-- \w+\W*$", "", regex=True)
    bare = bare[bare.str.split().str.len() >= 3].str.replace(r"[^a-zäöüß]", "", regex=True)
    bare = bare[~bare.str.contains("quickstep|regt|march|regiment|air|dance|waltz")]
    splits = pieces.split[bare.index].groupby(bare).nunique()
    assert (splits > 1).sum() == 0 and (bare.value_counts() > 1).sum() > 100


def _line(scores, piece_id):
    """Intervals of a piece's top line, found with a dictionary."""
    top = {}
    for onset, _, pitch, part in scores.notes(piece_id).tolist():
        if part == 0:
            top[onset] = max(top.get(onset, 0), int(pitch))
    pitches = [top[onset] for onset in sorted(top)]
    return [b - a for a, b in itertools.pairwise(pitches)]


def test_no_tune_straddles_splits(scores, pieces):
    """Brute force: 120 test tunes against every training tune, by runs of six intervals and by alignment."""
    tunes = pieces[pieces.source == "tune"]
    lines = {i: _line(scores, i) for i in tunes.index}
    runs = {i: {tuple(line[k : k + 6]) for k in range(len(line) - 5)} for i, line in lines.items()}
    train = tunes.index[tunes.split == "train"]
    tested = np.random.default_rng(0).choice(tunes.index[tunes.split == "test"], 120, replace=False)
    worst = 0.0
    for i in tested:
        shared = {j: len(runs[i] & runs[j]) / min(len(runs[i]), len(runs[j])) for j in train}
        nearest = max(shared, key=shared.get)
        worst = max(worst, shared[nearest])
        alignment = difflib.SequenceMatcher(None, lines[i], lines[nearest], autojunk=False)
        common = sum(block.size for block in alignment.get_matching_blocks() if block.size >= 6)
        assert common < 0.6 * min(len(lines[i]), len(lines[nearest])), (i, nearest)
    assert worst < compositions.SAME_MELODY


def test_no_chorale_melody_straddles_splits(scores, pieces):
    """Brute force over all chorales: the soprano's pitch on each beat."""

    def runs(piece_id):
        soprano = [n for n in scores.notes(piece_id).tolist() if n[3] == 0]
        first, end = soprano[0][0], max(n[0] + n[1] for n in soprano)
        pitches = [[n[2] for n in soprano if n[0] <= first + k + 1e-4][-1] for k in range(round(end - first))]
        steps = [b - a for a, b in itertools.pairwise(pitches)]
        return {tuple(steps[k : k + 6]) for k in range(len(steps) - 5)}

    chorales = pieces[pieces.source == "chorale"]
    found = {i: runs(i) for i in chorales.index}
    for i in chorales.index[chorales.split == "test"]:
        for j in chorales.index[chorales.split != "test"]:
            assert len(found[i] & found[j]) < 0.35 * min(len(found[i]), len(found[j])), (i, j)


def test_fractions_of_every_source_and_mode(pieces):
    shares = pd.crosstab(pieces.split, [pieces.source, pieces.key >= 12], normalize="columns")
    for split, share in (("train", 0.7), ("valid", 0.15), ("test", 0.15)):
        np.testing.assert_allclose(shares.loc[split], share, atol=0.01)


def test_analysed_chorales_are_for_testing(pieces):
    assert pieces.analysed.sum() == 11 and set(pieces.split[pieces.analysed]) == {"test"}


def test_splits_are_seeded(pieces):
    table = pieces.drop(columns="split")
    pd.testing.assert_series_equal(assign_splits(table, seed=0), pieces.split)
    assert (assign_splits(table, seed=1) != pieces.split).any()


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1)])
def test_bad_fractions(pieces, fractions):
    with pytest.raises(KeyMynaError, match="fractions"):
        assign_splits(pieces, seed=0, fractions=fractions)


# --- the selection of a profile ---


def test_mini_takes_all_minor_pieces_and_keeps_the_fractions(pieces):
    chosen = pieces.loc[select(pieces, n_chorales=300, n_tunes=1500, seed=0)]
    assert chosen.source.value_counts().to_dict() == {"tune": 1500, "chorale": 300}
    assert keys.is_minor(chosen.key).sum() == keys.is_minor(pieces.key).sum()
    shares = pd.crosstab(chosen.split, chosen.source, normalize="columns")
    np.testing.assert_allclose(shares.loc["train"], 0.7, atol=0.015)
    np.testing.assert_allclose(shares.loc["test"], 0.15, atol=0.015)
    assert list(chosen.index) == [i for i in pieces.index if i in set(chosen.index)]


def test_small_and_full_selections(pieces):
    small = pieces.loc[select(pieces, n_chorales=40, n_tunes=100, seed=0)]
    assert keys.is_minor(small.key).groupby(small.source).mean().to_dict() == {"chorale": 0.5, "tune": 0.5}
    assert select(pieces, n_chorales=0, n_tunes=0, seed=0) == list(pieces.index)
    assert select(pieces, n_chorales=40, n_tunes=100, seed=1) != list(small.index)


@pytest.mark.parametrize("numbers", [{"n_chorales": 1000, "n_tunes": 0}, {"n_chorales": 0, "n_tunes": -1}])
def test_impossible_selections(pieces, numbers):
    with pytest.raises(KeyMynaError, match="n_"):
        select(pieces, **numbers, seed=0)


# --- transpositions ---


def test_transposed_tonics_are_near_uniform(pieces):
    chosen = pieces.loc[select(pieces, n_chorales=300, n_tunes=1500, seed=0)]
    shift = transpositions(chosen, seed=0)
    assert shift.between(-6, 5).all()
    transposed = keys.transpose(chosen.key, shift)
    assert (keys.is_minor(transposed) == keys.is_minor(chosen.key)).all()
    for _, group in transposed.groupby([chosen.split, chosen.source, chosen.key >= 12]):
        counts = np.bincount(keys.tonic(group), minlength=12)
        assert counts.max() - counts.min() <= 1
    pd.testing.assert_series_equal(shift, transpositions(chosen, seed=0))
    assert (shift != transpositions(chosen, seed=1)).any()


# --- label budgets ---


def test_label_budgets_are_nested_and_spread_over_the_keys(pieces):
    train = pieces[pieces.split == "train"]
    train = train.assign(key=keys.transpose(train.key, transpositions(pieces, seed=0)[train.index]))
    everything = label_budget(train, 0, seed=3)
    assert sorted(everything) == sorted(train.index)
    for n in (1, 24, 48, 150, 500):
        budget = label_budget(train, n, seed=3)
        assert budget == everything[:n]
        counts = np.bincount(train.key[budget], minlength=24)
        available = np.bincount(train.key, minlength=24)
        # Each key is as full as any other, unless it has run out.
        assert all(c >= counts.max() - 1 or c == a for c, a in zip(counts, available))
    assert label_budget(train, 48, seed=3) != label_budget(train, 48, seed=4)


@pytest.mark.parametrize("n", [-1, 10_000])
def test_impossible_budgets(pieces, n):
    with pytest.raises(KeyMynaError, match=str(n)):
        label_budget(pieces, n, seed=0)
