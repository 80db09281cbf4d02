import unicodedata

import hypothesis
import hypothesis.strategies
import pytest

from keymyna_lib.base.text import identity, visible


@pytest.mark.parametrize(
    "written, seen",
    [
        ("Am\0", "Am"),
        ("A\u200bm", "Am"),
        ("\ufeffA minor", "A minor"),
        ("A\u00a0\t minor\r\n", "A minor"),
        ("e\u0301", "é"),
        ("\u2028a\x1fb", "a b"),
        ("e\u200b\u0301", "é"),
        ("C♯\ufe0f", "C♯"),
    ],
)
def test_what_cannot_be_seen_is_gone(written, seen):
    assert visible(written) == seen
    assert visible(visible(written)) == visible(written)


@pytest.mark.parametrize(
    "one, other",
    [
        ("Émilie Simon", "e\u0301milie  SIMON"),
        ("Straße", "STRASSE"),
        ("ﬁn", "FIN"),
        ("ΑΣ", "ας"),
        ("İstanbul", "i\u0307stanbul"),
        ("Å", "\u212b"),
        ("Guns N\u2019 Roses", "guns n' roses"),
        ("N\u00b4Sync", "n`sync"),
        ("\u201cWeird Al\u201d", '"weird al"'),
        ("Jay\u2011Z", "JAY\u2013z"),
        ("İSTANBUL", "istanbul"),
        ("IŞIK", "ışık"),
    ],
)
def test_one_name_in_two_spellings_is_one(one, other):
    assert identity(one) == identity(other) == identity(identity(one))


def test_other_names_are_others():
    assert len({identity(name) for name in ("a", "á", "ab", "a b", "a-b", "a'b", "")}) == 7


@hypothesis.given(hypothesis.strategies.text())
def test_once_is_enough(text):
    for function in (visible, identity):
        assert function(function(text)) == function(text)
        assert function(unicodedata.normalize("NFD", text)) == function(unicodedata.normalize("NFC", text))
    assert identity(visible(text)) == identity(text)
