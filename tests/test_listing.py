"""Names in folders: one file in every spelling, two that look the same refused, and what macOS leaves behind unseen."""

import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.listing import Listing


@pytest.fixture
def top(tmp_path):
    for name in ("Keys.CSV", "._Keys.CSV", ".DS_Store", "a/B/E\u0301.key", "a/._E\u0301.key", "a/c.KEY", "a/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    "asked, found",
    [
        ("keys.csv", "Keys.CSV"),
        ("Keys.CSV", "Keys.CSV"),
        ("A/b/\u00c9.KEY", "a/B/E\u0301.key"),
        ("a/b/e.key", "a/b/e.key"),
        ("Keys.csv/deeper", "Keys.csv/deeper"),
    ],
)
def test_a_file_is_found_however_it_is_written(top, asked, found):
    listing = Listing(top)
    assert listing.find(asked) == found
    assert listing.one(asked) == (top / found if (top / found).exists() else None)


def test_two_names_that_look_the_same(top):
    (top / "keys.csv").touch()
    with pytest.raises(KeyMynaError, match="'Keys.CSV' and 'keys.csv' are one name"):
        Listing(top).one("keys.csv")
    with pytest.raises(KeyMynaError, match="are one name"):
        Listing(top).find("KEYS.csv")
    assert Listing(top).find("keys.csv") == "keys.csv"


def test_files_below_a_folder_by_their_ending(top):
    (top / "a" / "round").symlink_to(top)
    (top / "linked").symlink_to(top / "a" / "B")
    found = Listing(top).below(".Key")
    assert [str(path.relative_to(top)) for path in found] == ["a/B/E\u0301.key", "a/c.KEY", "linked/E\u0301.key"]
    assert len(Listing(top).below(".key", "A/b")) == 1 and Listing(top / "none").below(".key") == []
    assert Listing(top).names() == ["Keys.CSV", "a", "linked"]
