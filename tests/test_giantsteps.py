"""GiantSteps Key and GiantSteps MTG: their layouts, what is used of them, and that nothing tested on is trained on."""

import collections
import shutil

import layouts_published as layouts
import pandas as pd
import pytest

from keymyna_lib import keys
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.text import visible
from keymyna_lib.corpus.recordings.dataset import examine
from keymyna_lib.corpus.recordings.fetch import fetch
from keymyna_lib.corpus.recordings.giantsteps import GiantStepsKey, GiantStepsMTG


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both data sets, once for the tests that only read them."""
    root = tmp_path_factory.mktemp("data")
    return root, layouts.write_giantsteps_key(root, seconds=1.0), layouts.write_giantsteps_mtg_keys(root, seconds=1.0)


@pytest.fixture
def copy(written, tmp_path):
    shutil.copytree(written[0], tmp_path, dirs_exist_ok=True)
    return tmp_path


def artists(table):
    return {name.strip().casefold() for cell in table["artist"] for name in cell.split(",")}


@pytest.mark.parametrize("dataset, number", [(GiantStepsKey(), 1), (GiantStepsMTG(), 2)], ids=["key", "mtg"])
def test_every_track_is_found_missing_corrupt_or_excluded(written, dataset, number):
    root, expected = written[0], written[number]
    table = examine(dataset, root, show=False)
    assert {
        column: table[name].to_dict()
        for column, name in (("keys", "key"), ("excluded", "excluded"), ("states", "state"))
    } == expected
    assert (table.loc[table["state"] == "found", "n_samples"] == 16000).all()
    assert set(table["state"]) == {"found", "missing", "corrupt", "excluded"}


def test_the_604_are_all_for_the_test(written):
    table = GiantStepsKey().index(written[0])
    used = table["excluded"] == ""
    assert (table.loc[used, "split"] == "test").all() and (table.loc[~used, "split"] == "").all()
    first = table.loc["10001.LOFI"]
    assert (first["label"], first["key"], first["genre"]) == ("F major", 5, "trance")
    assert first["path"] == "audio/10001.LOFI.mp3" and len(first["md5"]) == 32


def test_no_labels_at_all(copy):
    for path in (copy / "giantsteps_key" / "annotations" / "key").iterdir():
        path.unlink()
    with pytest.raises(KeyMynaError, match="annotations/key has no"):
        GiantStepsKey().index(copy)


@pytest.mark.parametrize("mark", ["keys_gs+", "meta"])
def test_mirdatas_revision_is_refused(copy, mark):
    """With the 604's annotations beside it as well as without them."""
    (copy / "giantsteps_key" / mark).mkdir()
    with pytest.raises(KeyMynaError, match="(?s)mirdata.*600 tracks.*never mixed"):
        GiantStepsKey().index(copy)
    shutil.rmtree(copy / "giantsteps_key" / "annotations")
    with pytest.raises(KeyMynaError, match="mirdata"):
        GiantStepsMTG().index(copy)


@pytest.mark.parametrize("dataset", [GiantStepsKey(), GiantStepsMTG()], ids=lambda x: x.name)
def test_what_is_downloaded_is_what_is_read(written, tmp_path, dataset):
    """From a mirror with the archive as GitHub makes it: all in one folder, named by repository and commit."""
    root, mirror = tmp_path / "data", tmp_path / "mirror"
    (source,) = dataset.sources()
    assert source.urls[0] == f"{dataset.url}/archive/{dataset.commit}.zip"
    shutil.copytree(dataset.folder(written[0]), mirror)
    tree = tmp_path / "tree"
    for name in ("annotations", "md5"):
        shutil.move(mirror / name, tree / f"{dataset.repository}-{dataset.commit}" / name)
    shutil.make_archive(str(mirror / source.path.removesuffix(".zip")), "zip", tree)
    if dataset.name != "giantsteps_key":
        shutil.copytree(written[0] / "giantsteps_key", root / "giantsteps_key")
    with pytest.raises(KeyMynaError, match=f"(?s){dataset.name}.*does not exist.*{dataset.url}"):
        dataset.index(root)
    folder, url = dataset.folder(root), mirror.as_uri()
    assert list(fetch(dataset.sources(), folder, mirror=url, show=False)["state"]) == ["fetched"]
    pd.testing.assert_frame_equal(dataset.index(root), dataset.index(written[0]))
    table = examine(dataset, written[0], show=False)
    wanted = {source.path: source for source in dataset.audio_sources(root)}
    assert set(wanted) == set(table.loc[table["state"] != "excluded", "path"])
    assert all(row.md5 == wanted[row.path].md5 for row in table.itertuples() if row.path in wanted)
    assert [[url.split("/")[2] for url in source.urls] for source in wanted.values()] == (
        [["www.cp.jku.at", "geo-samples.beatport.com"]] * len(wanted)
    )
    local = fetch(list(wanted.values()), folder, mirror=url, offline=True, show=False).set_index("path")["state"]
    by_path = table.set_index("path")["state"]
    # A broken file of the right checksum comes over as it is; one of the wrong checksum does not.
    assert set(local.index[local == "failed"]) == {
        path for path in wanted if by_path[path] == "missing" or "20003" in path or "40008" in path
    }


def test_mtg_is_only_used_beside_what_is_tested_on(copy):
    shutil.rmtree(copy / "giantsteps_key")
    with pytest.raises(KeyMynaError, match="(?s)beside the annotations of giantsteps_key.*giantsteps-key-dataset"):
        GiantStepsMTG().index(copy)


def test_tracks_of_the_test_set_are_told_by_their_number_and_by_their_recording(copy):
    def state(track_id):
        return GiantStepsMTG().index(copy).loc[track_id, "excluded"]

    assert state("10001.LOFI") == state("40009.LOFI") == "in GiantSteps Key"
    (copy / "giantsteps_mtg_keys" / "md5" / "40009.LOFI.md5").write_text("0" * 32)
    (copy / "giantsteps_key" / "annotations" / "key" / "10001.LOFI.key").unlink()
    assert state("10001.LOFI") == state("40009.LOFI") == ""


def test_parameters_of_mtg(copy):
    def used(**parameters):
        table = GiantStepsMTG(**parameters).index(copy)
        return table[table["excluded"] == ""]

    strict, unsure, many = used(), used(min_confidence=1), used(single_key=False)
    assert set(unsure.index) - set(strict.index) == {"40005.LOFI"} and unsure.loc["40005.LOFI", "key"] == 14
    assert set(many.index) - set(strict.index) == {"40002.LOFI", "40003.LOFI"}
    assert list(many.loc[["40002.LOFI", "40003.LOFI"], "key"]) == [5 + 12, 10]  # F minor, A# major
    for other in (unsure, many):
        pd.testing.assert_series_equal(other["split"].reindex(strict.index), strict["split"])
    with pytest.raises(KeyMynaError, match="min_confidence=3"):
        GiantStepsMTG(min_confidence=3)


def test_mtg_has_titles_and_artists_and_its_splits_share_none(written):
    table = GiantStepsMTG().index(written[0])
    row = table.loc["30002.LOFI"]
    assert (row["artist"], row["title"], row["genre"]) == ("Artist 1, Guest 2", "Title 30002 (Original Mix)", "Techno")
    assert row["composition"] == table.loc["30001.LOFI", "composition"] != table.loc["30000.LOFI", "composition"]
    used = table[table["excluded"] == ""]
    train, valid = (used[used["split"] == name] for name in ("train", "valid"))
    assert len(train) + len(valid) == len(used) and 0 < len(valid) < len(train)
    assert not artists(train) & artists(valid)
    assert (table.loc[table["excluded"] != "", "split"] == "").all()


def test_one_artist_in_two_spellings_is_not_torn_apart(copy):
    path = copy / "giantsteps_mtg_keys" / "annotations" / "beatport_metadata.txt"
    before = GiantStepsMTG().index(copy)
    one, other = (before.index[before["split"] == name][0] for name in ("train", "valid"))
    lines = path.read_text(encoding="utf-8").splitlines()
    for track_id, artist in ((one, "Émilie Simon, X1"), (other, "E\u0301MILIE\u00a0 SIMON")):
        old = before.loc[track_id, "artist"]
        number = track_id.removesuffix(".LOFI")
        lines = [line.replace(old, artist) if line.startswith(f"{number}\t") else line for line in lines]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    after = GiantStepsMTG().index(copy)
    assert after.loc[one, "composition"] == after.loc[other, "composition"]
    assert after.loc[one, "artist"] == "Émilie Simon, X1"


def test_one_recording_under_two_numbers_is_not_torn_apart(copy):
    md5 = copy / "giantsteps_mtg_keys" / "md5"
    before = GiantStepsMTG().index(copy)
    one = before.index[before["split"] == "train"][0]
    other = before.index[before["split"] == "valid"][0]
    shutil.copy(md5 / f"{one}.md5", md5 / f"{other}.md5")
    after = GiantStepsMTG().index(copy)
    assert after.loc[one, "composition"] == after.loc[other, "composition"]
    assert after.loc[one, "split"] == after.loc[other, "split"]


@pytest.mark.parametrize(
    "file, old, new, message",
    [
        ("annotations.txt", "MANUAL KEY", "KEY", "annotations.txt: no column 'MANUAL KEY'.*separated by tabs"),
        ("annotations.txt", "\n30001\t", "\n30000\t", "annotations.txt, line 3: no ID, or that of another row"),
        ("annotations.txt", "C major\t2", "C major\t7", "annotations.txt: the confidence of track 30000 is '7'"),
        ("beatport_metadata.txt", "\n30001\t", "\n99999\t", "beatport_metadata.txt has no track 30001"),
        (
            "beatport_metadata.txt",
            "Guest",
            "\udcff",
            "beatport_metadata.txt, line 4, character 17 cannot be read.*UTF-8",
        ),
    ],
)
def test_damaged_annotations_are_named(copy, file, old, new, message):
    path = copy / "giantsteps_mtg_keys" / "annotations" / file
    path.write_text(path.read_text().replace(old, new), encoding="utf-8", errors="surrogateescape")
    with pytest.raises(KeyMynaError, match=message):
        GiantStepsMTG().index(copy)


def test_missing_metadata_is_named(copy):
    (copy / "giantsteps_mtg_keys" / "annotations" / "beatport_metadata.txt").unlink()
    with pytest.raises(KeyMynaError, match="beatport_metadata.txt does not exist. Get the annotations again"):
        GiantStepsMTG().index(copy)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The published annotations, without audio, and the tables they are written from."""
    key, mtg, lists = (
        layouts.reference(name) for name in ("giantsteps_key", "giantsteps_mtg_keys", "inceptionkeynet_subsets")
    )
    root = tmp_path_factory.mktemp("published")
    for name, table in (("giantsteps_key", key), ("giantsteps_mtg_keys", mtg)):
        for folder in ("annotations/key", "annotations/genre", "md5"):
            (root / name / folder).mkdir(parents=True)
        for row in table.itertuples():
            (root / name / "md5" / f"{row.track_id}.md5").write_text(row.md5_mp3)
            (root / name / "annotations" / "genre" / f"{row.track_id}.genre").write_text(row.genre)
    for row in key.itertuples():
        (root / "giantsteps_key" / "annotations" / "key" / f"{row.track_id}.key").write_text(row.key)
    numbers = mtg["track_id"].str.removesuffix(".LOFI")
    annotations = root / "giantsteps_mtg_keys" / "annotations"
    pd.DataFrame({"ID": numbers, "MANUAL KEY": mtg["key"], "C": mtg["confidence"]}).to_csv(
        annotations / "annotations.txt", sep="\t", index=False
    )
    facts = {"ID": numbers, "ARTIST": mtg["artist"], "SONG TITLE": "x", "MIX": "", "BP GENRE": mtg["genre"]}
    pd.DataFrame(facts).to_csv(annotations / "beatport_metadata.txt", sep="\t", index=False)
    return root, key, mtg, lists


def test_the_published_604(published):
    root, key, *_ = published
    table = GiantStepsKey().index(root)
    assert len(table) == 604 and (table["split"] == "test").all() and (table["excluded"] == "").all()
    flats = dict(zip("Db Eb Gb Ab".split(), "C# D# F# G#".split()))  # where this project spells otherwise, in minor
    names = [
        name
        if name in keys.KEY_NAMES
        else " ".join([flats[name.split()[0]], "minor"])
        if "minor" in name
        else "F# major"
        for name in key["key"]
    ]
    assert table["key"].map(lambda k: keys.KEY_NAMES[k]).to_dict() == dict(zip(key["track_id"], names))


@pytest.mark.parametrize(
    "parameters, count",
    [({}, 1159), ({"min_confidence": 0}, 1349), ({"min_confidence": 1}, 1333), ({"single_key": False}, 1182)],
)
def test_the_published_mtg_tracks(published, parameters, count):
    """1,159 are JukeMIR's (923 + 236), 1,349 those on InceptionKeyNet's list."""
    root = published[0]
    table = GiantStepsMTG(**parameters).index(root)
    used = table[table["excluded"] == ""]
    assert len(table) == 1486 and len(used) == count
    train, valid = (used[used["split"] == name] for name in ("train", "valid"))
    assert len(train) + len(valid) == count and 0.1 < len(valid) / count < 0.15
    assert not artists(train) & artists(valid) and not set(train["md5"]) & set(valid["md5"])
    assert set(used["key"]) == set(range(24)) == set(train["key"])
    strict = GiantStepsMTG().index(root)
    strict = strict.loc[strict["excluded"] == "", "split"]
    assert used["split"].reindex(strict.index).to_dict() == strict.to_dict()  # whatever the parameters


def test_no_published_mtg_track_is_among_the_604(published):
    root, key, mtg, _ = published
    assert not set(key["track_id"]) & set(mtg["track_id"]) and not set(key["md5_mp3"]) & set(mtg["md5_mp3"])
    assert "in GiantSteps Key" not in set(GiantStepsMTG().index(root)["excluded"])


def test_why_published_mtg_tracks_are_excluded(published):
    reasons = collections.Counter(GiantStepsMTG().index(published[0])["excluded"])
    # 72 "-" and one blank; 64 with a second key or mode; of the others 174 + 16 with confidence 1 and 0.
    assert reasons == {"": 1159, "no key": 73, "several keys": 64, "low confidence": 190}


def test_the_tracks_with_one_key_are_those_on_inceptionkeynets_list(published):
    """Its entries count the tracks with one key in the order of annotations.txt and name their artists."""
    root, _, mtg, lists = published
    listed = lists[lists["dataset"] == "GiantSteps MTG Key"]
    table = GiantStepsMTG(min_confidence=0).index(root)
    ours = [track_id for track_id in mtg["track_id"] if table.loc[track_id, "excluded"] == ""]
    by_place = {int(row.index_in_source): visible(row.artist) for row in listed.itertuples()}
    assert by_place == {place: table.loc[track_id, "artist"] for place, track_id in enumerate(ours)}


def test_a_checksum_that_is_none_is_an_error_and_a_file_name_behind_it_is_left_out(tmp_path):
    layouts.write_giantsteps_key(tmp_path, seconds=0.2)
    path = tmp_path / "giantsteps_key" / "md5" / "10001.LOFI.md5"
    md5 = path.read_text().strip()
    path.write_text(f"{md5.upper()} *10001.LOFI.mp3\n")
    assert GiantStepsKey().index(tmp_path).loc["10001.LOFI", "md5"] == md5
    for damaged in ("<!DOCTYPE html>", md5[:16], "version https://git-lfs.github.com/spec/v1"):
        path.write_text(damaged)
        with pytest.raises(KeyMynaError, match="10001.LOFI.md5: .* is no md5"):
            GiantStepsKey().index(tmp_path)
