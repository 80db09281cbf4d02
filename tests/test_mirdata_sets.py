"""Data sets that mirdata reads: labels, splits that leak nothing, checksums, and downloads by our own fetch."""

import itertools
import json
import logging
import re
import runpy
import shutil
import sys
import zipfile

import layouts_open as layouts
import mirdata
import pandas as pd
import pytest
from mirdata.validate import md5

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import fetch, mirdata_sets
from keymyna_lib.corpus.recordings.dataset import COLUMNS, examine
from keymyna_lib.corpus.recordings.mirdata_sets import FMAKeys, GuitarSet, MirdataGiantSteps

SETS = {
    FMAKeys: layouts.write_fma_keys,
    GuitarSet: layouts.write_guitarset,
    MirdataGiantSteps: layouts.write_giantsteps_key_mirdata,
}
GUITARSET_SHEETS = """
    BN1-129-Eb BN1-147-Gb BN2-131-B BN2-166-Ab BN3-119-G BN3-154-E Funk1-114-Ab Funk1-97-C Funk2-108-Eb Funk2-119-G
    Funk3-112-C# Funk3-98-A Jazz1-130-D Jazz1-200-B Jazz2-110-Bb Jazz2-187-F# Jazz3-137-Eb Jazz3-150-C Rock1-130-A
    Rock1-90-C# Rock2-142-D Rock2-85-F Rock3-117-Bb Rock3-148-C SS1-100-C# SS1-68-E SS2-107-Ab SS2-88-F SS3-84-Bb
    SS3-98-C""".split()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A data root with all three, and what is expected of them."""
    root = tmp_path_factory.mktemp("root")
    return root, {kind: write(root, seconds=1.0) for kind, write in SETS.items()}


@pytest.fixture
def copy(written, tmp_path):
    """A data root of one's own."""
    return shutil.copytree(written[0], tmp_path / "root")


@pytest.mark.parametrize("kind", SETS)
def test_every_track_is_found_missing_corrupt_or_excluded(written, kind):
    root, expected = written
    table = examine(kind(), root, show=False)
    assert {
        name: table[column].to_dict()
        for name, column in (("keys", "key"), ("excluded", "excluded"), ("states", "state"), ("splits", "split"))
    } == expected[kind]
    assert set(COLUMNS) <= set(table) and table.index.is_monotonic_increasing
    assert set(table["state"]) == {"found", "missing", "corrupt", "excluded"}
    assert (table.loc[table["state"] == "found", "n_samples"] > 14000).all()


@pytest.mark.parametrize("kind", SETS)
def test_mirdata_itself_finds_the_layout_whole_but_for_what_was_spoilt(written, kind):
    """Its own reader and its own check of the files, on the layouts that these tests write."""
    root, expected = written
    one = kind()
    loader = mirdata.initialize(kind.loader, data_home=str(one.folder(root)), version=kind.version)
    loader.index_path = str(next(one.folder(root).glob("*_index_*.json")))
    missing, wrong = loader.validate(verbose=False)
    absent = {track for track, state in expected[kind]["states"].items() if state == "missing"}
    assert len(wrong["tracks"]) == 1 and absent <= set(missing["tracks"])  # GuitarSet lacks its other recordings
    table = one.index(root)
    for track_id, track in loader.load_tracks().items():
        path = track.audio_mic_path if kind is GuitarSet else track.audio_path
        assert path == str(one.folder(root) / table.loc[track_id, "path"])
        if expected[kind]["states"][track_id] == "found":
            assert table.loc[track_id, "md5"] == md5(path)


@pytest.mark.parametrize("kind", SETS)
def test_an_editors_byte_order_mark_in_the_index_makes_no_difference(written, copy, kind):
    (path,) = kind().folder(copy).glob("*_index_*.json")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    pd.testing.assert_frame_equal(kind().index(copy), kind().index(written[0]))


def test_fma_keys_takes_artists_and_the_official_split_from_the_fma(written):
    table = FMAKeys().index(written[0])
    assert table.loc["7", ["label", "artist", "title", "genre", "composition"]].to_list() == [
        "C Major",
        "Artist, the 0th",
        '"Title" 0 in two lines',
        "Folk",
        "artist 0",
    ]
    facts = pd.read_csv(FMAKeys().folder(written[0]) / "fma_metadata" / "tracks.csv", header=[0, 1], index_col=0)
    for track_id, row in table.iterrows():
        assert facts.loc[int(track_id), ("set", "split")].startswith(row["split"])
        assert row["composition"] == f"artist {facts.loc[int(track_id), ('artist', 'id')]}"
    assert set(table["split"]) == {"train", "valid", "test"}
    assert (table.groupby("composition")["split"].nunique() == 1).all() and table["composition"].nunique() < len(table)


def test_guitarset_keeps_a_progression_of_a_style_together(tmp_path):
    """On the ids of the whole data set: 6 players, 30 lead sheets, as accompaniment and as solo."""
    ids = [
        f"{player:02d}_{sheet}_{mode}" for player in range(6) for sheet in GUITARSET_SHEETS for mode in ("comp", "solo")
    ]
    folder = tmp_path / "guitarset"
    (folder / "annotation").mkdir(parents=True)
    tracks = {}
    for track_id in ids:
        key = re.search("-([A-G][b#]?)_", track_id)[1]
        events = [{"time": 0.0, "duration": 9.0, "value": f"{key}:major"}]
        jams = {"annotations": [{"namespace": "key_mode", "data": events}]}
        (folder / "annotation" / f"{track_id}.jams").write_text(json.dumps(jams))
        names = ("audio_mic", "audio_mix", "audio_hex", "audio_hex_cln")
        tracks[track_id] = {name: [f"{name}/{track_id}.wav", "0" * 32] for name in names}
        tracks[track_id]["jams"] = [f"annotation/{track_id}.jams", "0" * 32]
    (folder / "guitarset_index_1.1.0.json").write_text(json.dumps({"version": "1.1.0", "tracks": tracks}))
    table = GuitarSet().index(tmp_path)
    assert len(table) == 360 and (table["excluded"] == "").all()
    assert table["split"].value_counts().to_dict() == {"train": 240, "valid": 72, "test": 48}
    assert (table.groupby("composition")["split"].nunique() == 1).all() and table["composition"].nunique() == 15
    for track_id, row in table.iterrows():  # Jazz2-110-Bb and Jazz2-187-F# are one
        assert row["composition"] == re.match(r"\d+_([A-Za-z]+\d)-", track_id)[1]
    by_split = {split: set(part["composition"]) for split, part in table.groupby("split")}
    assert by_split["test"] == {"BN2", "Funk3"} and by_split["valid"] == {"Funk2", "SS1", "Rock3"}


def test_guitarset_row(written):
    row = GuitarSet().index(written[0]).loc["05_BN2-131-B_solo"]
    assert row[["path", "label", "key", "artist", "genre"]].to_list() == [
        "audio_mono-mic/05_BN2-131-B_solo_mic.wav",
        "B:minor",
        23,
        "player 05",
        "Bossa Nova",
    ]


def test_the_600_of_mirdata_are_for_testing_alone_and_not_the_604(written):
    one = MirdataGiantSteps()
    table = one.index(written[0])
    assert (table["split"] == "test").all() and one.name != "giantsteps_key"
    row = table.loc["5"]
    assert row[["label", "key", "artist", "title", "genre"]].to_list() == [
        "F minor aeolian",
        17,
        "Artist 4, Guest",
        "1004 Artist 4 - Träck Nr. 4 (Original Mix)",
        "Electronica",
    ]
    assert table.loc["6", "genre"] == "Acid"


@pytest.mark.parametrize(
    "kind, file",
    [
        (FMAKeys, "fma_keys_index_1.0.json"),
        (FMAKeys, "fma_keys_metadata.csv"),
        (FMAKeys, "fma_metadata/tracks.csv"),
        (GuitarSet, "guitarset_index_1.1.0.json"),
        (GuitarSet, "annotation/00_BN2-131-B_solo.jams"),
        (MirdataGiantSteps, "giantsteps_key_index_+.json"),
        (MirdataGiantSteps, "keys_gs+/1002 Artist 2 - Träck Nr. 2 (Original Mix).txt"),
        (MirdataGiantSteps, "meta/1002 Artist 2 - Träck Nr. 2 (Original Mix).json"),
    ],
)
@pytest.mark.parametrize("damage", ["absent", "cut", "binary"])
def test_annotations_that_are_missing_or_damaged(copy, kind, file, damage):
    path = kind().folder(copy) / file
    content = path.read_bytes()
    path.unlink()
    if damage != "absent":
        path.write_bytes(content[: len(content) // 3] if damage == "cut" else b"\x00\xff\xfe" * 40)
    if (damage, path.suffix) == ("cut", ".txt"):
        path.write_bytes(b"")
        assert kind().index(copy).loc["3", "excluded"] == "no key"
        return
    with pytest.raises(KeyMynaError) as error:
        kind().index(copy)
    assert str(kind().folder(copy)) in str(error.value) and "\n" not in str(error.value)
    if damage == "absent":
        assert path.name in str(error.value) and "Download it, or bring" in str(error.value)


def test_fma_metadata_of_another_version(copy):
    """Without a track, without a column, with a split that nobody knows."""
    path = FMAKeys().folder(copy) / "fma_metadata" / "tracks.csv"
    whole = path.read_text()
    for old, new, message in (
        ("\n7,", "\n8,", "track 7 are missing"),
        (",split", ",part", "split"),
        ("validation", "dev", "dev"),
    ):
        text = whole.replace(old, new)
        assert text != whole
        path.write_text(text)
        with pytest.raises(KeyMynaError, match=message):
            FMAKeys().index(copy)


def test_a_label_that_mirdata_does_not_know_is_one_clear_error(copy):
    path = FMAKeys().folder(copy) / "fma_keys_metadata.csv"
    path.write_text(path.read_text().replace("C Major", "H Major"))
    with pytest.raises(KeyMynaError, match="annotations of track 7 .*'H'"):
        FMAKeys().index(copy)


def test_the_corrected_labels_of_fmakv2_are_read_from_the_same_place(copy):
    """FMAKv2 has the columns in another order, and one more."""
    path = FMAKeys().folder(copy) / "fma_keys_metadata.csv"
    before, labels = FMAKeys().index(copy), pd.read_csv(path).replace("C Major", "G# minor")
    columns = ["index", "key_and_mode", "track_id", "spotify_uri"]
    labels.assign(index=range(len(labels)))[columns].to_csv(path, index=False)
    after = FMAKeys().index(copy)
    assert before.loc["7", "key"] == 0 and after.loc["7", "key"] == 20
    assert before.loc[before["key"] != 0, "key"].equals(after.loc[before["key"] != 0, "key"])


@pytest.mark.parametrize(
    "kind, count, first",
    [
        (FMAKeys, 13, "fma_keys_index_1.0.json"),
        (GuitarSet, 3, "guitarset_index_1.1.0.json"),
        (MirdataGiantSteps, 4, "giantsteps_key_index_+.json"),
    ],
)
def test_sources_are_whole_and_of_known_content(kind, count, first):
    sources = kind().sources()
    assert len(sources) == count and sources[0].path == first and not sources[0].extract
    assert len({source.path for source in sources}) == count
    for source in sources:
        (url,) = source.urls
        assert url.startswith("https://") and (len(source.md5) == 32 or len(source.sha256) == 64)
        assert bool(source.extract) == source.path.endswith(".zip")
        assert not source.path.startswith("/") and ".." not in source.path


def test_each_archive_of_fma_keys_can_be_had_by_itself():
    archives = [source for source in FMAKeys().sources() if "10719860" in source.urls[0] and source.extract]
    ranges = [tuple(map(int, re.fullmatch(r"(\d+)-(\d+)\.zip", source.path).groups())) for source in archives]
    assert ranges[0] == (0, 19) and ranges[-1] == (110, 124)
    assert all(b == after for (_, end), (b, _) in itertools.pairwise(ranges) for after in [end + 1])
    assert archives[0].size == 4_150_442_299 and len({source.md5 for source in archives}) == 10


def test_guitarset_fetches_the_microphone_only():
    _, *archives = ((source.path, source.extract) for source in GuitarSet().sources())
    assert archives == [(f"{folder}/{folder}.zip", folder) for folder in ("annotation", "audio_mono-mic")]


def pack(archive, base, members):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for member in members:
            file.write(member, member.relative_to(base))


@pytest.mark.parametrize(
    "kind, archives",
    [
        (FMAKeys, {"000-019.zip": (".", ["000/*", "001/*", "002/*"]), "fma_metadata.zip": (".", ["fma_metadata/*"])}),
        (
            GuitarSet,
            {
                "annotation/annotation.zip": ("annotation", ["annotation/*"]),
                "audio_mono-mic/audio_mono-mic.zip": ("audio_mono-mic", ["audio_mono-mic/*"]),
            },
        ),
        (
            MirdataGiantSteps,
            {
                "keys.zip": (".", ["keys_gs+/*"]),
                "original_metadata.zip": (".", ["meta/*"]),
                "audio.zip": (".", ["audio/*"]),
            },
        ),
    ],
)
def test_what_is_fetched_is_what_is_read(written, tmp_path, kind, archives):
    """Archives packed as their publishers pack them, fetched from a mirror: the index is that of the written layout."""
    root, expected = written
    one, mirror = kind(), tmp_path / "mirror"
    for name, (base, patterns) in archives.items():
        members = [file for pattern in patterns for file in sorted(one.folder(root).glob(pattern))]
        pack(mirror / name, one.folder(root) / base, members)
    for file in one.folder(root).iterdir():
        if file.is_file():
            shutil.copy(file, mirror / file.name)
    sources = [
        fetch.Source((), source.path, extract=source.extract)
        for source in one.sources()
        if (mirror / source.path).exists()
    ]
    assert {source.path for source in sources} >= set(archives) and len(sources) >= 3
    done = fetch.fetch(sources, one.folder(tmp_path), mirror=mirror.as_uri(), show=False)
    assert (done["state"] == "fetched").all(), done
    pd.testing.assert_frame_equal(one.index(tmp_path), one.index(root))
    states = examine(one, tmp_path, show=False)["state"].to_dict()
    there = {track for track in states if kind is not FMAKeys or int(track) < 3000}
    assert {track: states[track] for track in there} == {track: expected[kind]["states"][track] for track in there}
    assert all(states[track] in ("missing", "excluded") for track in set(states) - there)


def test_the_sources_are_those_of_mirdata():
    """Its own table of downloads, asked in its own way."""
    for kind in SETS:
        loader = mirdata.initialize(kind.loader, version=kind.version)
        known = {remote.url: remote for remote in loader.remotes.values()}
        ours = [source for source in kind().sources()[1:] if "unil" not in source.urls[0]]
        for source in ours:
            remote = known[source.urls[0]]
            assert source.md5 == remote.checksum and source.path.endswith(remote.filename)
        missing = set(known) - {source.urls[0] for source in ours}
        assert len(missing) == (3 if kind is GuitarSet else 0)  # GuitarSet's other microphones


def test_mirdata_is_imported_late_and_leaves_the_logger_alone(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mirdata"]:
        monkeypatch.delitem(sys.modules, name)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.WARNING)
    fresh = runpy.run_path(mirdata_sets.__file__, run_name="fresh")
    assert "mirdata" not in sys.modules
    assert fresh["GuitarSet"]().sources()
    assert "mirdata" in sys.modules and not root.handlers and root.level == logging.WARNING


def test_cards():
    for kind in SETS:
        assert all(getattr(kind, name) for name in ("name", "title", "citation", "licence", "size", "url", "how"))
        assert f"<data root>/{kind.name}" in kind.how
