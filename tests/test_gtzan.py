"""GTZAN with Lerch's keys: his numbers count from A."""

import collections
import shutil

import layouts_published as layouts
import pytest

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings.dataset import examine
from keymyna_lib.corpus.recordings.fetch import fetch
from keymyna_lib.corpus.recordings.gtzan import GTZAN


@pytest.fixture
def written(tmp_path):
    return tmp_path, layouts.write_gtzan(tmp_path, seconds=1.0)


def annotate(root, labels):
    """Annotations alone: {track_id: text}."""
    for track_id, text in labels.items():
        folder = root / "gtzan" / "gtzan_key" / "genres" / track_id.split(".")[0]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{track_id}.lerch.txt").write_text(text)


def test_every_track_is_found_missing_corrupt_or_excluded(written):
    root, expected = written
    table = examine(GTZAN(), root, show=False)
    assert {
        column: table[name].to_dict()
        for column, name in (("keys", "key"), ("excluded", "excluded"), ("states", "state"))
    } == expected
    assert table.loc["jazz.00054", "state"] == "corrupt" and "jazz.00054" in table.loc["jazz.00054", "problem"]
    used = table["excluded"] == ""
    assert (table.loc[used, "split"] == "test").all() and (table.loc[~used, "split"] == "").all()
    assert table.loc["pop.00001", ["path", "genre"]].to_list() == ["genres/pop/pop.00001.au", "pop"]
    assert (table.loc[table["state"] == "found", "n_samples"] == 16000).all()


@pytest.mark.parametrize(
    "label, name",
    [
        (0, "A major"),
        (1, "Bb major"),
        (2, "B major"),
        (3, "C major"),
        (4, "Db major"),
        (11, "Ab major"),
        (12, "A minor"),
        (13, "Bb minor"),
        (14, "B minor"),
        (15, "C minor"),
        (22, "G minor"),
        (23, "G# minor"),
    ],
)
def test_numbers_count_from_a(tmp_path, label, name):
    annotate(tmp_path, {"rock.00000": f"{label}\n"})
    assert keys.KEY_NAMES[GTZAN().index(tmp_path).loc["rock.00000", "key"]] == name


def test_what_is_no_number_of_a_key(tmp_path):
    annotate(tmp_path, {"rock.00000": "-1", "rock.00001": "24", "rock.00002": "C major", "rock.00003": ""})
    assert GTZAN().index(tmp_path)["excluded"].to_list() == ["no key", "not a key", "not a key", "not a key"]


def test_a_track_without_audio_is_looked_for_as_wav(tmp_path):
    annotate(tmp_path, {"rock.00000": "3"})
    table = examine(GTZAN(), tmp_path, show=False)
    assert table.loc["rock.00000", ["path", "state"]].to_list() == ["genres/rock/rock.00000.wav", "missing"]


def test_the_keys_are_downloaded_and_the_audio_is_brought(written, tmp_path):
    root, mirror, tree = tmp_path / "other", tmp_path / "mirror", tmp_path / "tree"
    (source,) = GTZAN().sources()
    top = tree / f"gtzan_key-{source.urls[0].split('/')[-1].removesuffix('.zip')}"
    shutil.copytree(written[0] / "gtzan" / "gtzan_key", top / "gtzan_key")
    mirror.mkdir()
    shutil.make_archive(str(mirror / source.path.removesuffix(".zip")), "zip", tree)
    with pytest.raises(KeyMynaError, match="(?s)gtzan_key.*github.com/alexanderlerch.*genres.tar.gz"):
        GTZAN().index(root)
    fetch(GTZAN().sources(), root / "gtzan", mirror=mirror.as_uri(), offline=True, show=False)
    table = examine(GTZAN(), root, show=False)
    assert table["key"].to_dict() == written[1]["keys"] and set(table["state"]) == {"missing", "excluded"}
    annotate(root, {"rock.00000": "3"})  # a folder of one's own comes first
    assert list(GTZAN().index(root).index) == ["rock.00000"]


def test_the_published_labels(tmp_path):
    published = layouts.reference("gtzan_key").set_index("track_id").squeeze()
    annotate(tmp_path, published)
    table = GTZAN().index(tmp_path)
    assert len(table) == 1000 and table["excluded"].value_counts().to_dict() == {"": 837, "no key": 163}
    names = [f"{tonic} {mode}" for mode in ("major", "minor") for tonic in "A A# B C C# D D# E F F# G G#".split()]
    assert {track_id: key for track_id, key in table["key"].items() if key >= 0} == {
        track_id: keys.parse_key(names[int(label)]) for track_id, label in published.items() if label != "-1"
    }
    counted = collections.Counter(keys.KEY_NAMES[key] for key in table["key"] if key >= 0)
    assert [counted[name] for name in ("A minor", "C major", "F# major", "A major")] == [77, 56, 9, 35]
    assert table[table["excluded"] != ""].groupby("genre").size().to_dict() == {
        "blues": 2,
        "classical": 100,
        "country": 1,
        "disco": 2,
        "hiphop": 19,
        "jazz": 21,
        "metal": 7,
        "pop": 6,
        "reggae": 3,
        "rock": 2,
    }
    assert table.loc["jazz.00054", "excluded"] == "no key"
