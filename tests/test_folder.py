"""Folders of the user: what keys.csv may say and what it may not, splits that stay, and audio without labels."""

import collections
import os
import unicodedata

import layouts_open as layouts
import numpy as np
import pytest
import soundfile

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings.dataset import COLUMNS, examine
from keymyna_lib.corpus.recordings.folder import AudioFolder, UnlabelledFolder, unlabelled_folders


def write_keys(root, text, encoding="utf-8"):
    """folders/mine/keys.csv, without audio."""
    folder = root / "folders" / "mine"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "keys.csv").write_bytes(text.encode(encoding))
    return root


def columns_of(table):
    """A table of `examine` in the form of the layouts' expectations."""
    return {
        name: table[column].to_dict()
        for name, column in (("keys", "key"), ("excluded", "excluded"), ("states", "state"), ("splits", "split"))
    }


def splits_of(root, rows, columns=("file", "artist", "composition")):
    """Splits of a table without that column, by file."""
    lines = [",".join(("key", *columns))] + [",".join(("C major", *row)) for row in rows]
    return AudioFolder("mine").index(write_keys(root, "\n".join(lines)))["split"].to_dict()


def test_every_track_is_found_missing_corrupt_or_excluded(tmp_path):
    expected = layouts.write_folder(tmp_path, tracks=10, seconds=1.0)
    table = examine(AudioFolder("mine"), tmp_path, show=False)
    assert columns_of(table) == expected and set(COLUMNS) <= set(table)
    assert table.loc["odd/c.wav", ["label", "artist"]].to_list() == ["C major / A minor", "Artist 3"]
    assert table.loc["disc 1/001.flac", ["title", "genre", "composition", "md5"]].to_list() == [
        "Title, 1",
        "Folk",
        "tune 0",
        "",
    ]
    lengths = table.loc[table["state"] == "found", "n_samples"]
    assert (abs(lengths - 16000) < 1500).all() and (table.loc[table["state"] != "found", "n_samples"] == 0).all()


def test_name_and_place(tmp_path):
    one, other = AudioFolder("my songs"), UnlabelledFolder("x.2024")
    assert (one.name, one.folder(tmp_path)) == ("folder:my songs", tmp_path / "folders" / "my songs")
    assert (other.name, other.folder(tmp_path)) == ("unlabelled:x.2024", tmp_path / "unlabelled" / "x.2024")
    assert "folders/my songs" in one.how and not one.sources()


@pytest.mark.parametrize("kind", [AudioFolder, UnlabelledFolder])
@pytest.mark.parametrize("name", ["", "..", ".hidden", "a/b", "/etc", "a:b"])
def test_a_folder_goes_by_a_plain_name(kind, name):
    with pytest.raises(KeyMynaError, match="its name alone"):
        kind(name)


@pytest.mark.parametrize(
    "text",
    [
        "file,key\na.wav,Eb minor\n",
        "\ufefffile,key\r\na.wav,Eb minor\r\n",
        'key , file\n"Eb minor", ./a.wav \n\n',
        "file,key,title\na.wav,D#m,\n",
        "file,key\n.\\a.wav,D#m\n",
        "sep=;\rFILE;Key;title\ra.wav;D#m;\r;;\r",
        "key\tfile\tTitle\nD#m\ta.wav\n",
    ],
)
def test_ways_to_write_the_same_table(tmp_path, text):
    (row,) = AudioFolder("mine").index(write_keys(tmp_path, text)).itertuples()
    assert (row.Index, row.path, row.key, row.title, row.composition) == ("a.wav", "a.wav", 15, "", "a.wav")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty: expected a header with the columns 'file'"),
        ("key,artist\nC major,a\n", "no column 'file'"),
        ("file,artist\na.wav,b\n", "no column 'key'"),
        ("file:key\na.wav:C major\n", "no column 'file'.*'file:key', separated by commas"),
        ("file,key,spilt\na.wav,C major,test\n", "unknown column 'spilt'"),
        ("file,key,key\na.wav,C,C\n", "twice"),
        ("file,key\na.wav,C major\nb.wav,D major\n./a.wav,C major\n", "line 4.*'a.wav'.*second time"),
        ("file,key\na.wav,C major\n../b.wav,C major\n", "line 3.*'../b.wav'.*inside"),
        ("file,key\nsub/../../b.wav,C major\n", "inside"),
        ("file,key\n/etc/b.wav,C major\n", "inside"),
        ("file,key\nC:\\Music\\b.wav,C major\n", "'C:/Music/b.wav'.*inside"),
        ("file,key\n..\\b.wav,C major\n", "inside"),
        ("file,key\nx/b.wav,C major\nx\\b.wav,C major\n", "'x/b.wav'.*second time"),
        ("file,key\n,C major\n", "line 2.*inside"),
        ("file,key\na.wav,C major,more\n", "line 2: more cells"),
        ("file,key,split\na.wav,C major,train\nb.wav,C major,validation\n", "line 3.*'validation'.*train, valid, test"),
        ("file,key,split\na.wav,C major,train\nb.wav,C major,\n", "line 3.*split ''"),
        (
            "file,key,composition,split\na.wav,C,Air,train\nb.wav,C,Jig,test\nc.wav,C, air ,test\n",
            "line 4.*'air'.*train.*test",
        ),
        ("file,key\n", "none of its 0 labels"),
        ("file,key\na.wav,K major\nb.wav,?\n", "none of its 2 labels.*'K major'"),
    ],
)
def test_mistakes_in_the_table(tmp_path, text, message):
    write_keys(tmp_path, text)
    with pytest.raises(KeyMynaError, match=f"(?s)keys.csv.*{message}"):
        AudioFolder("mine").index(tmp_path)


def test_a_table_that_is_not_there_or_not_utf8(tmp_path):
    with pytest.raises(KeyMynaError, match="keys.csv does not exist.*columns file and key"):
        AudioFolder("mine").index(tmp_path)
    with pytest.raises(KeyMynaError, match="keys.csv, line 2, character 2 cannot be read.*UTF-8"):
        AudioFolder("mine").index(write_keys(tmp_path, "file,key\nbéla.wav,C major\n", encoding="latin-1"))


def test_files_are_found_however_their_names_are_written(tmp_path):
    """As one disk keeps a name and another one, or a spreadsheet, writes it."""
    root = write_keys(tmp_path, "file,key\nDisc/Été.WAV,C\nplain.wav,C\ngone.wav,C\n")
    (folder := root / "folders" / "mine").joinpath("keys.csv").rename(folder / "KEYS.CSV")
    (folder / "._KEYS.CSV").write_bytes(b"\0\5\26\7")
    decomposed = "e\u0301te\u0301.wav"
    (folder / "disc").mkdir()
    for name in (f"disc/{decomposed}", "plain.wav", "._plain.wav"):
        (folder / name).touch()
    assert AudioFolder("Mine").index(root)["path"].to_dict() == {
        "Disc/Été.WAV": f"disc/{decomposed}",
        "plain.wav": "plain.wav",
        "gone.wav": "gone.wav",
    }
    (folder / "keys.csv").touch()
    with pytest.raises(KeyMynaError, match="'KEYS.CSV' and 'keys.csv' are one name"):
        AudioFolder("mine").index(root)


@pytest.mark.parametrize("other", ["A.wav", "./A.WAV", "\uff41.wav"])
def test_two_spellings_of_a_file_are_the_file_twice(tmp_path, other):
    with pytest.raises(KeyMynaError, match="line 3.*second time, after line 2"):
        AudioFolder("mine").index(write_keys(tmp_path, f"file,key\na.wav,C\n{other},C\n"))


def test_a_name_longer_than_any_disk_takes_is_a_missing_file(tmp_path):
    table = examine(AudioFolder("mine"), write_keys(tmp_path, f"file,key\n{'a' * 5000}.wav,C\n"), show=False)
    assert list(table["state"]) == ["missing"]


def test_a_split_is_the_word_that_a_reader_sees(tmp_path):
    text = "file,key,split\na.wav,C,\uff34rain\u200b\nb.wav,C,\u00a0TEST\n"
    assert AudioFolder("mine").index(write_keys(tmp_path, text))["split"].to_list() == ["train", "test"]


def test_a_given_split_may_tear_an_artist_apart(tmp_path):
    text = "file,key,artist,split\na.wav,C,Bach,train\nb.wav,C,Bach,test\n"
    assert AudioFolder("mine").index(write_keys(tmp_path, text))["split"].to_list() == ["train", "test"]


def test_splits_are_drawn_by_composition_else_artist_else_file(tmp_path):
    rows = [(f"{i}.wav", f"artist {i % 97}" if i % 3 else "", f"tune {i % 83}" if i % 2 else "") for i in range(1200)]
    splits = splits_of(tmp_path, rows)
    by_group = collections.defaultdict(set)
    for file, artist, tune in rows:
        by_group[tune or artist or file].add(splits[file])
    assert all(len(found) == 1 for found in by_group.values())
    assert len({split for split in by_group.values() for split in split}) == 3
    alone = [next(iter(found)) for group, found in by_group.items() if group.endswith(".wav")]  # 200 files
    assert {*alone} == {"train", "valid", "test"}
    torn = collections.defaultdict(set)
    for file, artist, tune in rows:
        if tune and artist:
            torn[artist].add(splits[file])
    assert max(map(len, torn.values())) > 1  # the composition comes before the artist


def test_shares_of_the_drawn_splits(tmp_path):
    drawn = collections.Counter(splits_of(tmp_path, [(f"{i}.wav",) for i in range(4000)], ["file"]).values())
    # Three standard deviations of a binomial draw of 4,000.
    assert abs(drawn["train"] - 2800) < 87 and abs(drawn["valid"] - 600) < 68 and abs(drawn["test"] - 600) < 68


def test_added_tracks_and_another_order_leave_the_splits_as_they_are(tmp_path):
    rows = [(f"{i}.wav", f"artist {i // 2}", "") for i in range(60)]
    before = splits_of(tmp_path, rows)
    after = splits_of(tmp_path, [("new.wav", "artist 3", ""), *reversed(rows), ("newer.wav", "nobody", "")])
    assert {file: after[file] for file in before} == before and after["new.wav"] == before["6.wav"]


def test_spelling_of_a_composition_does_not_tear_it_apart(tmp_path):
    same = [f"The  tune {i}" for i in range(40)], [f"the Tune {i}" for i in range(40)]
    one, other = (splits_of(tmp_path, [(f"{i}.wav", "", tune) for i, tune in enumerate(tunes)]) for tunes in same)
    assert one == other and len(set(one.values())) == 3


SEEN_AS_ONE = [
    ("Émilie Simon", "E\u0301milie Simon"),
    ("Beyoncé", "BEYONCE\u0301"),
    ("Björk", "\uff22jo\u0308rk"),
    ("Sigur Rós", "Sigur\u00a0 Rós\u200b"),
    ("Straße", "STRASSE"),
    ("Ελλάδα", "ΕΛΛΆΔΑ"),
]


@pytest.mark.parametrize("column", ["artist", "composition"])
@pytest.mark.parametrize("names", SEEN_AS_ONE)
def test_names_that_look_the_same_are_one_group(tmp_path, column, names):
    rows = [(f"{i}.wav", names[i % 2]) for i in range(2)]
    lines = "\n".join([f"key,file,{column}"] + [",".join(("C major", *row)) for row in rows])
    table = AudioFolder("mine").index(write_keys(tmp_path, lines))
    assert table["composition"].nunique() == 1 == table["split"].nunique()


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_is_found_in_either_form_of_its_name(tmp_path, forms):
    written, on_disk = (unicodedata.normalize(form, "Là/Émilie  ガ.wav") for form in forms)
    root = write_keys(tmp_path, f"file,key\n{written},Am\ngone/é.wav,C\nLà/é.wav,C\n")
    path = root / "folders" / "mine" / on_disk
    path.parent.mkdir()
    soundfile.write(path, np.zeros(16000), 16000)
    table = examine(AudioFolder("mine"), root, show=False)
    assert table["state"].to_dict() == {"Là/Émilie ガ.wav": "found", "gone/é.wav": "missing", "Là/é.wav": "missing"}
    assert table.loc["Là/Émilie ガ.wav", "path"] == on_disk
    both = write_keys(tmp_path, f"file,key\n{written},Am\n{on_disk},Am\n")
    with pytest.raises(KeyMynaError, match="line 3: file .* second time"):
        AudioFolder("mine").index(both)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_folder_is_found_in_either_form_of_its_name(tmp_path, forms):
    named, on_disk = (unicodedata.normalize(form, "Beyoncé") for form in forms)
    (tmp_path / "unlabelled" / on_disk).mkdir(parents=True)
    (tmp_path / "unlabelled" / on_disk / "a.wav").write_bytes(b"")
    assert unlabelled_folders(tmp_path) == ["unlabelled:Beyoncé"]
    assert list(UnlabelledFolder(named).index(tmp_path).index) == ["a.wav"]


def test_files_whose_names_look_the_same_are_all_there(tmp_path):
    names = [unicodedata.normalize(form, "é.wav") for form in ("NFC", "NFD")]
    (tmp_path / "unlabelled" / "more").mkdir(parents=True)
    for name in names:
        (tmp_path / "unlabelled" / "more" / name).write_bytes(b"")
    if len(os.listdir(tmp_path / "unlabelled" / "more")) == 2:  # the disk keeps them apart
        assert set(UnlabelledFolder("more").index(tmp_path)["path"]) == set(names)


def test_unlabelled_audio_at_any_depth(tmp_path):
    expected = layouts.write_unlabelled(tmp_path, seconds=1.0)
    table = examine(UnlabelledFolder("more"), tmp_path, show=False)
    assert columns_of(table) == expected and set(table.loc[:, "path"]) == set(table.index)
    assert (table["label"] == "").all() and (table["md5"] == "").all()


def test_links_and_names_that_no_table_can_hold(tmp_path):
    layouts.write_unlabelled(tmp_path / "elsewhere", tracks=3, seconds=1.0)
    (tmp_path / "unlabelled").mkdir()
    (tmp_path / "unlabelled" / "linked").symlink_to(tmp_path / "elsewhere" / "unlabelled" / "more")
    folder = UnlabelledFolder("linked").folder(tmp_path)
    (folder / "LOUD.WAV").symlink_to(folder / "000.wav")
    (folder / "round").symlink_to(folder)
    with open(os.fsencode(folder) + b"/caf\xe9.wav", "wb") as file:
        file.write(b"latin-1")
    states = examine(UnlabelledFolder("linked"), tmp_path, show=False)["state"].to_dict()
    assert states == {
        "000.wav": "found",
        "LOUD.WAV": "found",
        "one/001.flac": "found",
        "one/two/002.ogg": "found",
        "one/broken.mp3": "corrupt",
        "notes.txt": "excluded",
        "one/cover.jpg": "excluded",
        r"caf\xe9.wav": "excluded",
    }


def test_every_file_without_a_label_is_read_or_named(tmp_path):
    """Endings in any case, of any format; content where the ending says nothing."""
    folder = tmp_path / "unlabelled" / "all"
    folder.mkdir(parents=True)
    for name in ("a.WAVE", "b.wav", "c", "d.bak"):
        soundfile.write(folder / name, np.zeros(16000), 16000, format="WAV")
    soundfile.write(folder / "e.snd", np.zeros(16000), 16000, format="AU")
    soundfile.write(folder / "f.AIFC", np.zeros(16000), 16000, format="AIFF")
    for name in ("g.m4a", "h.mp2", "i.wma", "j.webm", "k.mkv"):
        (folder / name).write_bytes(b"no audio")
    for name in ("l.jpg", "m.pdf", "n", "o.txt"):
        (folder / name).write_bytes("words".encode("utf-16"))
    table = examine(UnlabelledFolder("all"), tmp_path, show=False)
    assert {state: "".join(name[0] for name in group.index) for state, group in table.groupby("state")} == {
        "found": "abcdef",
        "corrupt": "ghijk",
        "excluded": "lmno",
    }
    assert set(table.loc[table["state"] == "excluded", "excluded"]) == {"not a sound file"}
    assert all(name in problem for name, problem in table.loc[table["state"] == "corrupt", "problem"].items())


def test_an_empty_or_missing_folder_of_audio(tmp_path):
    with pytest.raises(KeyMynaError, match="more does not exist. Put audio into"):
        UnlabelledFolder("more").index(tmp_path)
    (tmp_path / "unlabelled" / "more" / "deep").mkdir(parents=True)
    (tmp_path / "unlabelled" / "more" / "deep" / "list.txt").write_text("")
    with pytest.raises(KeyMynaError, match="more has no audio in it"):
        UnlabelledFolder("more").index(tmp_path)


def test_which_folders_there_are(tmp_path):
    assert unlabelled_folders(tmp_path) == []
    for name in ("b", "a c", ".hidden"):
        (tmp_path / "unlabelled" / name).mkdir(parents=True)
    (tmp_path / "unlabelled" / "file.wav").write_text("")
    assert unlabelled_folders(tmp_path) == ["unlabelled:a c", "unlabelled:b"]


def test_audio_without_a_line_in_the_table_is_named(tmp_path):
    folder = write_keys(tmp_path, "file,key\ncaf\u00e9.wav,C\n./in/b.wav,D\n") / "folders" / "mine"
    (folder / "in").mkdir()
    for name in ("cafe\u0301.wav", "in/b.wav", "in/c", "d.WAVE", ".hidden.wav"):
        soundfile.write(folder / name, np.zeros(16000), 16000, format="WAV")
    (folder / "e.m4a").write_bytes(b"no audio")
    (folder / "cover.jpg").write_bytes(b"no audio")
    os.mkfifo(folder / "pipe")
    table = examine(AudioFolder("mine"), tmp_path, show=False)
    assert table[table["state"] == "found"].index.to_list() == ["caf\u00e9.wav", "in/b.wav"]
    left = table[table["state"] == "excluded"]
    assert left.index.to_list() == ["d.WAVE", "e.m4a", "in/c"] and set(left["excluded"]) == {"not in keys.csv"}
    assert len(table) == 5
