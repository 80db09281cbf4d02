"""Text as people see it: what looks the same is the same.

Labels, artists, titles and file names come from spreadsheets, tags and disks that spell one letter in several ways.
They are normalised once, where they enter, and compared by `identity`.
"""

from __future__ import annotations

import re
import unicodedata

# Zero-width marks and the byte order mark, which nobody sees, and every other character of control.
_UNSEEN = ("Cc", "Cf")
# Variation selectors, which choose between the glyphs of one character: a sharp may carry one.
_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
# What keyboards and editors make of an apostrophe, a quote and a hyphen; and a Turkish letter, "I" in capitals.
_ALIKE = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u02b9\u02bb\u02bc\u2032\u00b4`", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"')
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-")
    | {"\u0131": "i"}
)


def visible(text: str) -> str:
    """The text in Unicode's composed form (NFC), without what cannot be seen, white space collapsed to single blanks.

    >>> visible("\\ufeff E\\u0301milie\\u00a0 Simon\\0") == "Émilie Simon"
    True
    """
    seen = (
        " " if character.isspace() else character
        for character in text
        if character.isspace() or not (character in _SELECTORS or unicodedata.category(character) in _UNSEEN)
    )
    # Composed last: what is not seen may stand between a letter and its accent.
    return unicodedata.normalize("NFC", " ".join("".join(seen).split()))


def identity(text: str) -> str:
    """What two names share if a reader takes them for one.

    Without case, width, the ways to compose a letter, and the shapes of apostrophes, quotes and dashes.

    >>> identity("Ｂjörk") == identity("BJO\\u0308RK"), identity("Guns N\u2019 Roses") == identity("guns n' roses")
    (True, True)
    """
    # Before NFKC, which makes an accent of its own of a "\u00b4"; and after it, as it makes some of them itself.
    text = unicodedata.normalize("NFC", text).translate(_ALIKE)
    folded = unicodedata.normalize("NFKC", visible(unicodedata.normalize("NFKC", text)).casefold()).translate(_ALIKE)
    # Case folding can undo the composition, and keeps the dot of Turkish capitals.
    return unicodedata.normalize("NFC", re.sub("i\u0307+", "i", folded))
