"""Outside predictions: any name of a track finds it and no other, answers without a key score 0, nothing is lost."""

from types import SimpleNamespace

import layouts_published as layouts
import mir_eval
import pandas as pd
import pytest
from click.testing import CliRunner

from keymyna_lib import __main__ as cli
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.recordings import tasks
from keymyna_lib.experiments import scoring
from keymyna_lib.keys import KEY_NAMES, camelot


@pytest.fixture
def corpus():
    """Tracks of all 24 keys in each split."""
    rows = [
        (f"{split}{i}", split, i % 24, "tune", f"{split}{i}")
        for split, n in (("train", 24), ("test", 48), ("extra", 24))
        for i in range(n)
    ]
    manifest = pd.DataFrame(rows, columns=["track_id", "split", "key", "source", "composition"]).set_index("track_id")
    return SimpleNamespace(manifest=manifest, tracks=lambda split: list(manifest.index[manifest["split"] == split]))


@pytest.fixture
def outside(tmp_path, corpus):
    """A folder with the estimates of one outside system: right on all test tracks, by several notations."""
    tracks = corpus.tracks("test")
    names = [KEY_NAMES[key] if i % 2 else camelot(key) for i, key in enumerate(corpus.manifest.loc[tracks, "key"])]
    table = pd.DataFrame({"track": tracks, "key": names})
    path = tmp_path / "outside" / "toy" / "MadKey.csv"
    path.parent.mkdir(parents=True)

    def write(change=lambda table: table):
        change(table.copy()).to_csv(path, index=False)
        return scoring.outside_predictions(tmp_path / "outside", "toy", corpus)

    return write


def test_outside_predictions_are_scored_like_the_rest(outside, corpus):
    found = outside()
    assert list(found) == ["MadKey"] and list(found["MadKey"]["track_id"]) == corpus.tracks("test")
    assert found["MadKey"]["score"].eq(1).all()
    extra = pd.DataFrame({"track": corpus.tracks("extra"), "key": ["C major"] * 24})
    more = outside(lambda table: pd.concat([table, extra]))["MadKey"]
    assert len(more) == 72 and more["score"][48:].sum() == pytest.approx(24 / 24 * (1 + 2 * 0.5 + 0.3 + 0.2))


def test_an_outside_track_that_may_be_either_of_two_is_refused(tmp_path):
    """Numbers of one data set are numbers of another as well."""
    tracks = {"test": ["billboard/1000"], "extra": ["fma_keys/1000"]}
    manifest = pd.DataFrame(
        {"source": ["billboard", "fma_keys"], "composition": "c", "key": [0, 5]},
        index=["billboard/1000", "fma_keys/1000"],
    )
    corpus = SimpleNamespace(manifest=manifest, tracks=lambda split: tracks[split])
    path = tmp_path / "toy" / "a.csv"
    path.parent.mkdir()
    path.write_text("track,key\n1000,C major\n")
    with pytest.raises(KeyMynaError, match="line 2: track '1000' may be 'billboard/1000' or 'fma_keys/1000'"):
        scoring.outside_predictions(tmp_path, "toy", corpus)
    path.write_text("\ufefftrack,key\nbillboard/1000,C major\n", encoding="utf-8")
    assert list(scoring.outside_predictions(tmp_path, "toy", corpus)["a"]["track_id"]) == ["billboard/1000"]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.rename(columns={"key": "estimate"}), "MadKey.csv: no column 'key'"),
        (lambda t: t.drop(index=5), "no estimate for track 'test5' .1 missing; 47 of 47 rows"),
        (lambda t: pd.concat([t, t.iloc[1:2].assign(key="G#")]), "line 50: track 'test1' is listed twice.*line 3"),
        (lambda t: t.assign(key="H-Stück"), "MadKey.csv, line 2, column 'key': 'H-Stück'"),
    ],
)
def test_outside_predictions_refuse(outside, change, message):
    with pytest.raises(KeyMynaError, match=message):
        outside(change)


def scored(tmp_path, ids, lines, say=print):
    """The estimates that a list of lines "name,key" gives to tracks, of which none must be there."""
    ids = ["anchor/0", *ids]
    manifest = pd.DataFrame(
        {"source": [track.rpartition("/")[0].split("/")[0] for track in ids], "composition": "c", "key": 0}, index=ids
    )
    path = tmp_path / "a.csv"
    path.write_text("\n".join(["track,key", *lines, "anchor/0,C"]), encoding="utf-8")
    table = scoring.score_list(path, manifest, ids[:1], ids[1:], say=say)
    return table.set_index("track_id")["estimate"].drop("anchor/0").to_dict()


@pytest.mark.parametrize(
    "name",
    [
        "giantsteps_key/1004923.LOFI",
        "giantsteps/1004923",
        "GiantSteps/1004923.lofi.MP3",
        "1004923.LOFI",
        "1004923",
        "1004923.LOFI.mp3",
        "1004923.LOFI.mp3.key",
        "1004923.flac",
        "./audio/1004923.mp3",
        "/home/fma/giantsteps_key/audio/1004923.LOFI.mp3",
        r"C:\\Music\\1004923.LOFI.mp3",
        "\u200b 1004923",
    ],
)
def test_a_track_goes_by_its_id_with_or_without_folders_and_endings(tmp_path, name):
    ids = ["giantsteps_key/1004923.LOFI", "giantsteps_key/1004924.LOFI", "gtzan/blues.00001"]
    assert scored(tmp_path, ids, [f"{name},A minor"]) == {"giantsteps_key/1004923.LOFI": 21}


@pytest.mark.parametrize(
    "name", ["gtzan/1004923", "fma/1004923.LOFI", "100492", "1004923.1", "1004923/other", "", "/", ".mp3", "LOFI"]
)
def test_other_names_are_of_other_tracks_and_counted(tmp_path, name):
    said = []
    assert scored(tmp_path, ["giantsteps_key/1004923.LOFI"], [f"{name},H"], said.append) == {}
    assert len(said) == 1 and "tracks that are not scored here: 1, such as" in said[0]


def test_the_closest_file_of_a_folder_is_meant(tmp_path):
    ids = [f"folder:mine/{name}" for name in ("a.wav", "Disc 1/a.wav", "Disc 2/b.wav", "c.wav", "c.mp3", "É.wav")]
    rows = {
        "a.wav": ids[0],
        "disc 1/A.wav": ids[1],
        "/data/folders/mine/Disc 1/a": ids[1],
        "b": ids[2],
        "folder:mine/Disc 2/b.wav": ids[2],
        "c.mp3": ids[4],
        "mine/E\u0301": ids[5],
        "disc 3/a.wav": None,
        "/elsewhere/a.wav": None,
        "folder:other/a.wav": None,
        "disc 1/b.wav": None,
    }
    for name, track in rows.items():
        assert scored(tmp_path, ids, [f"{name},D"]) == ({track: 2} if track else {}), name
    with pytest.raises(KeyMynaError, match="line 3: track 'c' may be 'folder:mine/c.wav' or 'folder:mine/c.mp3'"):
        scored(tmp_path, ids, ["b,D", "c,D"])


@pytest.mark.parametrize("name", ["4", "4.0", "04.mp3", "billboard/4", "audio/4.flac", "0004"])
def test_a_number_is_found_without_the_zeros_that_a_spreadsheet_drops(tmp_path, name):
    ids = ["billboard/0004", "billboard/0040", "gtzan/blues.00004"]
    assert scored(tmp_path, ids, [f"{name},D"]) == {"billboard/0004": 2}


def test_a_number_without_zeros_may_be_ambiguous_but_an_exact_one_is_not(tmp_path):
    ids = ["billboard/0007", "fma_keys/7"]
    assert scored(tmp_path, ids, ["7,D", "0007.wav,E", "billboard/7,E"]) == {ids[1]: 2, ids[0]: 4}
    with pytest.raises(KeyMynaError, match="'07' may be 'billboard/0007' or 'fma_keys/7'"):
        scored(tmp_path, ids, ["07,D"])
    assert scored(tmp_path, ids, ["70,D", "0.7,D", "7.1,D", "-7,D", "7e0,D"]) == {}


def test_a_name_that_a_training_track_shares_is_ambiguous(tmp_path, corpus):
    manifest = corpus.manifest.rename(index={"train0": "x/one", "test0": "y/one"})
    path = tmp_path / "a.csv"
    path.write_text("track,key\none,C\n")
    with pytest.raises(KeyMynaError, match="'one' may be"):
        scoring.score_list(path, manifest.assign(source=manifest.index.str[0]), ["y/one"])


@pytest.mark.parametrize("header, row", [("file,key", "/music/one.mp3,D"), ("file,key,track", "else,D,one")])
def test_a_list_of_files_is_one_of_tracks_unless_it_has_both(tmp_path, corpus, header, row):
    path = tmp_path / "a.csv"
    path.write_text(f"{header}\n{row}\n")
    manifest = corpus.manifest.rename(index={"test0": "y/one"})
    found = scoring.score_list(path, manifest.assign(source=manifest.index.str[0]), ["y/one"])
    assert list(found["estimate"]) == [2]


@pytest.mark.parametrize("answer", ["N", "X", "no key", "", "-", "C major / A minor", "D dorian"])
def test_an_answer_without_a_single_key_scores_nothing_and_is_counted(outside, corpus, capsys, answer):
    assert mir_eval.key.weighted_score("C major", "X") == 0
    table = outside(lambda table: table.assign(key=table["key"].where(table.index >= 3, answer)))["MadKey"]
    assert list(table["estimate"][:3]) == [-1] * 3 and table["score"].to_list() == [0.0] * 3 + [1.0] * 45
    assert "and score 0: 3 of 48." in capsys.readouterr().out


def test_zeros_among_names_are_no_key_and_nothing_else_is_refused(outside, capsys):
    """Keys by number, of which 0 is C major, would pass for answers without a key."""
    mixed = outside(lambda table: table.assign(key=table["key"].where(table.index >= 3, "0")))["MadKey"]
    assert mixed["score"].to_list() == [0.0] * 3 + [1.0] * 45 and "(no key) and score 0: 3" in capsys.readouterr().out
    for answers in (0, 0.0):
        with pytest.raises(KeyMynaError, match=r"MadKey.csv, column 'key': every answer is 0\. Write each key's name"):
            outside(lambda table, answers=answers: table.assign(key=answers))
    with pytest.raises(KeyMynaError, match="MadKey.csv, line 3, column 'key': '1'"):
        outside(lambda table: table.assign(key=range(len(table))))


def test_a_list_without_rows_says_so(outside):
    with pytest.raises(KeyMynaError, match="MadKey.csv has a header and no rows; write one row for each track"):
        outside(lambda table: table[:0])


def test_repeated_rows_are_counted_if_they_agree(outside, capsys):
    more = outside(lambda t: pd.concat([t, t.iloc[:4], pd.DataFrame({"track": ["train0", "?"], "key": ["H", "H"]})]))
    assert len(more["MadKey"]) == 48
    said = capsys.readouterr().out
    assert "repeat a track with the same key: 4." in said and "not scored here: 2, such as 'train0'" in said


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_lists_as_spreadsheets_save_them(tmp_path, corpus, encoding):
    folder = tmp_path / "TOY"
    folder.mkdir()
    rows = [
        "sep=;",
        "Key ; TRACK",
        *(f"{KEY_NAMES[i % 24]};{track}.mp3" for i, track in enumerate(corpus.tracks("test"))),
    ]
    (folder / "Mad.CSV").write_bytes("\r\n".join(rows).encode(encoding))
    (folder / "._Mad.CSV").write_bytes(b"\0\5\26\7")
    (found,) = scoring.outside_predictions(tmp_path, "toy", corpus).items()
    assert found[0] == "Mad" and found[1]["score"].eq(1).all()


def test_a_folder_that_gives_nothing_says_what_was_looked_for_and_found(tmp_path, corpus):
    def refused(folder, message):
        with pytest.raises(KeyMynaError, match=f"(?s){message}"):
            scoring.predicted_tasks(folder, ["toy", "folder:mine"])

    looked = "toy/<system>.csv, folder:mine/<system>.csv"
    refused(tmp_path / "none", f"none does not exist.*{looked}")
    refused(tmp_path, f"{looked} in it; it is empty")
    (tmp_path / "Mad.csv").write_text("track,key\n")
    refused(tmp_path / "Mad.csv", f"Mad.csv is a file.*{looked}")
    (tmp_path / "tyo").mkdir()
    refused(tmp_path, f"{looked} in it; there are Mad.csv, tyo")
    (tmp_path / "Toy").mkdir()
    (tmp_path / "Toy" / "Mad.xlsx").touch()
    refused(tmp_path, "Toy has no file <system>.csv in it; there are Mad.xlsx")
    said = []
    (tmp_path / "Toy" / "Mad.csv").touch()
    (tmp_path / "Toy" / ".DS_Store").touch()
    found = scoring.predicted_tasks(tmp_path, ["toy", "folder:mine"], say=said.append)
    assert found == {"toy": {"Mad": tmp_path / "Toy" / "Mad.csv"}}
    assert said == [f"{tmp_path}: not used: Mad.csv, tyo, Toy/Mad.xlsx."]
    (tmp_path / "Toy" / "MAD.CSV").touch()
    refused(tmp_path, "'MAD.CSV' and 'Mad.csv' have one name")
    (tmp_path / "toy").mkdir()
    refused(tmp_path, "'Toy' and 'toy' are one name")


@pytest.fixture(scope="module")
def annotations(tmp_path_factory):
    """The keys of GTZAN and Billboard, without audio."""
    root = tmp_path_factory.mktemp("root")
    layouts.write_gtzan(root, seconds=0.2)
    layouts.write_billboard(root, seconds=0.2)
    for path in [*root.rglob("*.wav"), *root.rglob("*.au"), *root.rglob("*.mp3"), *root.rglob("*.flac")]:
        path.unlink()
    return root


@pytest.mark.parametrize("name", ["gtzan", "Billboard"])
def test_a_list_is_scored_from_the_command_line_without_audio(annotations, tmp_path, name):
    labels, absent = tasks.labels(name, annotations)
    test = labels[labels["split"] == "test"]
    answers = [KEY_NAMES[(key + 6) % 12] if i % 2 else KEY_NAMES[key] for i, key in enumerate(test["key"])]
    right = sum(i % 2 == 0 for i in range(len(test)))
    pd.DataFrame({"track": test.index.str.split("/").str[-1], "key": answers}).to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.csv").write_text("track,key\nanother,C\n")
    call = ["score", name, str(tmp_path / "b.csv"), str(tmp_path / "a.csv"), "--data-root", str(annotations)]
    done = CliRunner().invoke(cli.main, call)
    row = dict(zip(*(line.split("\t") for line in done.stdout.splitlines())))
    assert not absent and int(row["tracks"]) == len(test) > 5 and row["no_key"] == "0"
    assert float(row["accuracy"]) == pytest.approx(right / len(test), abs=1e-4)
    assert float(row["low"]) <= float(row["weighted_both"]) <= float(row["high"])
    assert done.exit_code == 1 and f"b.csv: no estimate for track '{test.index[0]}'" in done.stderr


@pytest.mark.parametrize(
    "name, message",
    [("giant", "'giant': choose a task"), ("fma", "fma: no labels of test tracks.*fma_keys"), ("folder:x", "keys.csv")],
)
def test_labels_that_are_not_there(annotations, name, message):
    with pytest.raises(KeyMynaError, match=f"(?s){message}"):
        tasks.labels(name, annotations)


def test_the_names_of_tasks_and_folders_are_taken_in_any_case_and_a_wrong_root_is_said(annotations, tmp_path):
    (tmp_path / "folders" / "mine").mkdir(parents=True)
    (tmp_path / "folders" / "mine" / "keys.csv").write_text("file,key,split\na.wav,C,test\n")
    assert list(tasks.labels("Folder:Mine", tmp_path)[0]["key"]) == [0]
    with pytest.raises(KeyMynaError, match="giantsteps, billboard, fma.*or folder:NAME") as error:
        tasks.labels("folder:", tmp_path)
    assert str(error.value).count("billboard") == 1
    with pytest.raises(KeyMynaError, match="none' is not a folder"):
        tasks.labels("gtzan", tmp_path / "none")


def test_giantsteps_is_scored_without_its_training_set(tmp_path):
    folder = tmp_path / "giantsteps_key" / "annotations" / "key"
    folder.mkdir(parents=True)
    (folder / "1.LOFI.key").write_text("A minor")
    labels, absent = tasks.labels("giantsteps", tmp_path)
    assert labels["key"].to_dict() == {"giantsteps_key/1.LOFI": 21} and list(absent) == ["giantsteps_mtg_keys"]


def test_a_number_of_giantsteps_that_both_data_sets_have_means_the_test_track(tmp_path):
    layouts.write_giantsteps_key(tmp_path, seconds=0.2)
    layouts.write_giantsteps_mtg_keys(tmp_path, seconds=0.2)
    labels, _ = tasks.labels("giantsteps", tmp_path)
    test = labels[labels["split"] == "test"]
    numbers = test.index.str.extract(r"/(\d+)", expand=False)
    shared = set(numbers).intersection(path.name.split(".")[0] for path in tmp_path.glob("giantsteps_mtg_keys/md5/*"))
    assert shared
    lines = [f"{number},{KEY_NAMES[key]}" for number, key in zip(numbers, test["key"])]
    (tmp_path / "a.csv").write_text("\n".join(["track,key", *lines]))
    assert scoring.score_list(tmp_path / "a.csv", labels, list(test.index))["score"].eq(1).all()
