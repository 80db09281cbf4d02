"""McGill Billboard: names of files, splits that keep songs whole, the literature's split where its lists are there."""

import shutil
import unicodedata

import layouts_published as layouts
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.text import visible
from keymyna_lib.corpus.recordings.billboard import Billboard
from keymyna_lib.corpus.recordings.dataset import examine
from keymyna_lib.corpus.recordings.fetch import fetch


@pytest.fixture
def written(tmp_path):
    return tmp_path, layouts.write_billboard(tmp_path, seconds=1.0)


def annotate(root, songs):
    """Annotations alone: {id: (artist, title, label)}."""
    folder = root / "billboard" / "bb"
    folder.mkdir(parents=True, exist_ok=True)
    for number, (artist, title, label) in songs.items():
        name = f"mcgill-billboard_{number}-{artist}-{title}".replace(" ", "_")
        (folder / f"{name}.key").write_text(label, encoding="utf-8")


def test_every_track_is_found_missing_corrupt_or_excluded(written):
    root, expected = written
    table = examine(Billboard(), root, show=False)
    assert {
        column: table[name].to_dict()
        for column, name in (("keys", "key"), ("excluded", "excluded"), ("states", "state"))
    } == expected
    assert {path.split(".")[-1] for path in table["path"]} == {"mp3", "wav", "flac"}
    assert (table.loc[table["state"] == "found", "n_samples"] == 16000).all()
    assert table.loc["0004", ["artist", "title"]].to_list() == ["The Band 4", "Song Number 4"]


def test_songs_are_not_torn_apart_and_the_shares_are_the_literatures(written):
    table = Billboard().index(written[0])
    used = table[table["excluded"] == ""]
    for i in range(3, 32, 4):  # the same song under another number
        one, other = table.loc[f"{i - 1:04d}"], table.loc[f"{i:04d}"]
        assert one["composition"] == other["composition"] and one["split"] == other["split"] != ""
    assert used["composition"].nunique() == len(used) - 8
    assert (used.groupby("composition")["split"].nunique() == 1).all()
    counts = used["split"].value_counts() / len(used)
    assert all(abs(counts[name] - share) < 0.06 for name, share in (("train", 0.625), ("valid", 0.125), ("test", 0.25)))
    assert (table.loc[table["excluded"] != "", "split"] == "").all()
    assert Billboard().index(written[0])["split"].equals(table["split"])


def test_one_song_by_its_letters_and_digits(tmp_path):
    songs = ["Björk-Joga", "Bjork-JÓGA_(Remix)", "Bjo\u0308rk-Jo\u200bga", "Bjork-Jo_ga", "Bjork-Joga_2", "Other-Joga"]
    annotate(tmp_path, {i: (*song.split("-"), "C major") for i, song in enumerate(songs)})
    table = Billboard().index(tmp_path)
    one, same, as_well, *others = table["composition"]
    assert one == same == as_well and len({one, *others}) == 4
    assert table.loc["2", ["artist", "title"]].to_list() == ["Björk", "Joga"]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_list_names_a_song_in_either_form(tmp_path, forms):
    listed, on_disk = (unicodedata.normalize(form, "Beyoncé") for form in forms)
    annotate(tmp_path, {i: (on_disk, f"Song {i}", "C major") for i in range(3)})
    for name, i in (("val", 1), ("test", 2)):
        (tmp_path / "billboard" / f"eusipco2017_{name}.fold").write_text(
            f"mcgill-billboard_{i}-{listed}-Song_{i}\n", encoding="utf-8"
        )
    assert Billboard().index(tmp_path)["split"].to_dict() == {"0": "train", "1": "valid", "2": "test"}


def test_lossless_audio_first(written):
    root, _ = written
    audio = root / "billboard" / "audio"
    (audio / "0000.flac").write_bytes((audio / "0002.flac").read_bytes())  # beside 0000.mp3
    assert Billboard().index(root).loc["0000", "path"] == "audio/0000.flac"


def test_the_literatures_split(written):
    root, expected = written
    folder = root / "billboard" / "bb" / "splits"
    folder.mkdir()
    stems = {path.name.split("_")[1].split("-")[0]: path.stem for path in (root / "billboard").rglob("*.key")}
    valid, test = ["0000", "0003"], ["0001", "0002", "1000"]
    for name, ids in (("val", valid), ("test", test)):
        before = Billboard().index(root)["split"]
        (folder / f"eusipco2017_{name}.fold").write_text("".join(f"{stems[i]}\n" for i in ids))
    split = Billboard().index(root)["split"]
    assert set(split.index[split == "valid"]) == set(valid) and set(split.index[split == "test"]) == {"0001", "0002"}
    used = {track_id for track_id, reason in expected["excluded"].items() if not reason}
    assert set(split.index[split == "train"]) == used - {"0000", "0003", "0001", "0002"}
    assert not split.equals(before)  # with one list alone it is still ours
    assert (before == "valid").sum() > 2
    (folder / "eusipco2017_test.fold").write_text("mcgill-billboard_77-No-Song\n")
    with pytest.raises(KeyMynaError, match="(?s)eusipco2017_test.fold, line 1 names 'mcgill-billboard_77-No-Song'"):
        Billboard().index(root)


def test_the_archive_is_downloaded_and_the_audio_is_brought(written, tmp_path):
    root, mirror = tmp_path / "other", tmp_path / "mirror"
    mirror.mkdir()
    shutil.make_archive(str(mirror / "bb"), "zip", written[0] / "billboard", "bb")
    with pytest.raises(KeyMynaError, match="(?s)mcgill-billboard_.*bb.zip.*audio"):
        Billboard().index(root)
    fetch(Billboard().sources(), root / "billboard", mirror=mirror.as_uri(), offline=True, show=False)
    table = examine(Billboard(), root, show=False)
    assert table["key"].to_dict() == written[1]["keys"] and set(table["state"]) == {"missing", "excluded"}
    assert table.loc["0000", "path"] == "audio/0000.flac"


def test_the_encrypted_address_is_asked_first():
    (source,) = Billboard().sources()
    assert [url.split("://")[0] for url in source.urls] == ["https", "http"]


def test_songs_without_a_key_leave_nothing_to_split(tmp_path):
    annotate(tmp_path, {1: ("A", "B", "C mixolydian"), 2: ("A", "C", "")})
    table = Billboard().index(tmp_path)
    assert table["excluded"].to_list() == ["modal", "no key"] and table["split"].to_list() == ["", ""]


def test_unexpected_names_are_named(tmp_path):
    annotate(tmp_path, {1: ("A", "B", "C major")})
    (tmp_path / "billboard" / "mcgill-billboard_12.key").write_text("C major")
    with pytest.raises(KeyMynaError, match="mcgill-billboard_12.key: expected mcgill-billboard_<id>"):
        Billboard().index(tmp_path)
    (tmp_path / "billboard" / "mcgill-billboard_12.key").rename(tmp_path / "billboard" / "mcgill-billboard_1-C-D.key")
    with pytest.raises(KeyMynaError, match="'1' is named twice"):
        Billboard().index(tmp_path)


def test_the_published_songs(tmp_path):
    """The 617 that InceptionKeyNet found audio of: no song twice, artists and titles as it reads them."""
    lists = layouts.reference("inceptionkeynet_subsets")
    songs = lists[lists["dataset"] == "McGill Billboard Key"].set_index("index_in_source")
    annotate(
        tmp_path,
        {i: (row.artist, row.title, ("C major", "A minor", "Bb:min")[int(i) % 3]) for i, row in songs.iterrows()},
    )
    table = Billboard().index(tmp_path)
    assert len(table) == 617 and table["composition"].nunique() == 617
    assert {name: table[name].to_dict() for name in ("artist", "title")} == {
        name: songs[name].map(visible).to_dict() for name in ("artist", "title")
    }
    counts, shares = table["split"].value_counts(), {"train": 0.625, "valid": 0.125, "test": 0.25}
    assert all(abs(counts[name] - share * 617) < 2 for name, share in shares.items())


def test_endings_in_capitals_are_found(written):
    root, _ = written
    before = examine(Billboard(), root, show=False)
    for path in (root / "billboard" / "audio").iterdir():
        path.rename(path.with_suffix(path.suffix.upper()))
    after = examine(Billboard(), root, show=False)
    assert after["state"].equals(before["state"])
    assert after.loc[after["state"] == "found", "path"].str.contains(r"\.(?:MP3|WAV|FLAC)$").all()
