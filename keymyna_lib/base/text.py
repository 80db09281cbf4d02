"""Text as people see it: what looks the same is the same.

Labels, artists, titles and file names come from spreadsheets, tags and disks that spell one letter in several ways.
They are normalised once, where they enter, and compared by `identity`.
"""

from __future__ import annotations

import unicodedata

# Zero-width marks and the byte order mark, which nobody sees, and every other character of control.
_UNSEEN = ("Cc", "Cf")
# Variation selectors, which choose between the glyphs of one character: a sharp may carry one.
_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


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
    """What two names share if a reader takes them for one: without case, width and the ways to compose a letter.

    >>> identity("Ｂjörk") == identity("BJO\\u0308RK")
    True
    """
    # Case folding can undo the composition, hence a second time.
    return unicodedata.normalize("NFKC", visible(unicodedata.normalize("NFKC", text)).casefold())
