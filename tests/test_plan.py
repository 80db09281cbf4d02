"""Parameters, checked alone, together and with the corpus before anything runs; and the same check in a notebook."""

import ast
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from corpora import small_corpus

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.corpus.corpus import Corpus
from keymyna_lib.corpus.rendered.build import plan_corpus
from keymyna_lib.run import execute, parameters, pipeline, plan
from keymyna_lib.run.project import Project

NOTEBOOKS = pipeline.load_notebooks(Project())
FREE = {
    "recordings",
    "free_recordings",
    "soundfont",
    "fetch_soundfont",
    "task",
    "interactive",
    "model",
    "track",
    "weights",
    "data_root",
    "mirror",
    "predictions",
    "frozen",
    "offline",
    "tune",
    "mtg_single_key",
}
FREE |= {"interactive", "model", "track"}
# May be negative, or infinite in no sense that would matter.
NEGATIVE = {"snr_db", "test_shifts"}


def values_of(profile="mini", only=(), **typed):
    """What the notebooks get for a profile and -p."""
    found = pipeline.resolve(Project(), NOTEBOOKS, profile, [(name, str(value)) for name, value in typed.items()])
    return {name: table for name, table in found.items() if not only or name[:2] in only}


def problems(profile="mini", only=(), corpus=None, **typed):
    return plan.problems(values_of(profile, only, **typed), root=paths.ROOT, corpus=corpus)


def corpus_of(train=60, valid=12, test=12, task="rendered"):
    """A corpus of which only the manifest is looked at."""
    splits = ["train"] * train + ["valid"] * valid + ["test"] * test
    manifest = pd.DataFrame({"split": splits, "source": "tune", "task": task, "key": np.arange(len(splits)) % 24})
    manifest["sha256"] = [f"{i:064x}" for i in range(len(splits))]
    return Corpus({}, paths.CACHE, "hash", manifest.rename_axis("track_id"), None, pd.DataFrame(), None)


def all_parameters():
    return {
        (book.name, name): parameter.default
        for book in NOTEBOOKS.values()
        for name, parameter in book.parameters.items()
    }


def is_numeric(default):
    values = default if isinstance(default, list) else [default]
    return all(type(value) in (int, float) for value in values) and values != []


# A value for itself


def test_every_parameter_has_a_rule_or_is_free_text_or_a_switch():
    assert {name for book, name in all_parameters() if name not in plan.rules_of(book)} == FREE


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, -math.inf, None, "1"])
def test_no_number_may_be_what_makes_no_sense(bad):
    for (book, name), default in all_parameters().items():
        if is_numeric(default) and not (bad == -1 and name in NEGATIVE):
            rule = plan.rules_of(book)[name]
            tried = [bad, *default[1:]] if isinstance(default, list) else bad
            assert plan.broken({name: tried}, {name: rule}), (book, name, bad)
            assert plan.broken({name: default}, {name: rule}) == [], (book, name)


@pytest.mark.parametrize("profile", paths.PROFILES)
def test_the_profiles_keep_every_rule(profile):
    assert problems(profile) == []


def test_the_names_of_factors_and_rows_are_those_of_the_notebooks():
    for notebook, names in (("60_design", list(plan.FACTORS)), ("65_heads", list(plan.ROWS))):
        code = "\n".join(
            c["source"] for c in parameters.read_cells(Project().source(notebook)) if "variants = {" in c["source"]
        )
        (keys,) = [
            [key.value for key in node.value.keys]
            for node in ast.parse(code).body
            if isinstance(node, ast.Assign) and node.targets[0].id == "variants"
        ]
        assert keys == names


@pytest.mark.parametrize(
    "typed, expected",
    [
        ({"temperature": 0}, "10, 50, 60: temperature 0.0: expected a positive number."),
        ({"clip_norm": -1}, "10, 50, 60: clip_norm -1.0"),
        ({"gamma": 1.5}, "10, 50, 60: gamma 1.5"),
        ({"seed": -1}, "10, 40, 50, 55, 60, 85: seed -1"),
        ({"seeds": "0,0"}, "20, 30, 45, 65: seeds [0, 0]: expected a list of different values"),
        ({"draws": ""}, "50, 60: draws []"),
        ({"dropouts": "0.5,1"}, "20, 30, 45, 50, 65: dropouts [0.5, 1.0]"),
        ({"device": "gpu"}, "device 'gpu': expected auto, cpu or cuda."),
        ({"preset": "vit-l"}, "10, 50, 60: preset 'vit-l'"),
        ({"tasks": "giantstep"}, "05: task 'giantstep': choose among giantsteps"),
        ({"extra": "gzan"}, "05: data set 'gzan'"),
        ({"scheduler": "local:0"}, "00, 05, 20, 30: scheduler 'local:0'"),
        (
            {"budgets": "1,48,200,0"},
            "50, 60: budgets [1, 48, 200, 0]: expected a list of different values, 1 or more, each at least 2",
        ),
        ({"beside": "mini-ful"}, "50, 80: beside 'mini-ful': expected nothing, or one of smoke, mini"),
        ({"beside": "mini"}, "50, 80: beside 'mini': it is the profile itself"),
        (
            {"objectives": ["masked contrastive", "masked contrastive, on free recordings"]},
            "50: objectives, 'masked contrastive, on free recordings': free_recordings says where its material is",
        ),
        (
            {"objectives": ["masked contrastive", "masked contrastive, on the other corpus"]},
            "50: objectives, 'masked contrastive, on the other corpus': beside says where its material is",
        ),
        ({"seconds": 0.5}, "00: seconds 0.5: expected at least 1."),
        ({"detune_cents": 60.0}, "00: detune_cents 60.0: expected 0 to 50."),
        ({"data_root": "/does/not/exist"}, "05: data_root '/does/not/exist' is not a folder."),
        ({"predictions": "/does/not/exist"}, "15: predictions '/does/not/exist' is not a folder."),
        ({"weights": "myna.pt"}, "10: weights 'myna.pt': there is no such file"),
        ({"frozen": "mert"}, "20, 30: frozen 'mert': there is no such folder"),
        ({"model": "best.safetensors"}, "85: model 'best.safetensors': there is no such file or run."),
        ({"recordings": "/does/not/exist"}, "45: recordings '/does/not/exist' is not a folder."),
        ({"soundfont": "FluidR4"}, "FluidR4': expected one of TimGM6mb, FluidR3, or the path of an .sf2 file."),
        ({"soundfont": "TimGM6mb"}, "45: soundfont 'TimGM6mb' is what the corpus is played by"),
        ({"n_test_songs": 0}, "45: n_test_songs 0: expected at least 1."),
        ({"test_shifts": "-1,0,1"}, "45: test_shifts [-1, 0, 1]: 0 is the recording itself"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_notebooks(typed, expected):
    assert any(expected in sentence for sentence in problems(**typed)), problems(**typed)


# Together


@pytest.mark.parametrize(
    "profile, only, typed, expected",
    [
        ("smoke", (), {"budgets": "24,0"}, ["90: headline_budget: 48", "50: shown_budgets: 48"]),
        ("mini", ("20",), {"cnn_seeds": "[]"}, []),
        ("mini", ("30",), {"budgets": "24,0"}, ["30: budgets [24, 0], shift_steps [1, 2, 6]: give one"]),
        (
            "mini",
            ("10",),
            {"steps": 10, "warmup_steps": 15},
            [
                "10: warmup_steps 15: expected no more than steps, which is 10; a tenth of them, as in the paper, is "
                "-p warmup_steps 1."
            ],
        ),
        ("mini", ("10",), {"steps": 10, "warmup_steps": 1}, []),
        (
            "mini",
            (),
            {"patch": "hybrid"},
            ["50: objectives, 'masked reconstruction': reconstruction with patches 'hybrid'"],
        ),
        ("mini", ("10",), {"crop_frames": 1}, ["10: crop_frames 1: patches 'vertical' are 2 frames wide"]),
        ("mini", ("60",), {"factors": "patches", "crop_frames": 60}, ["60: patches, 'horizontal': crop_frames 60"]),
        ("mini", ("10",), {"objective": "reconstruction", "mask_ratio": 0}, ["10: reconstruction with"]),
        ("mini", (), {"objectives": "supervised"}, ["50: objectives ['supervised']"]),
        ("mini", (), {"widths": 1024, "widest_pair": 512}, ["30: widest_pair 512, widths [1024]"]),
        ("mini", ("65",), {"map_tracks": 4, "max_shift": 0}, ["65: map_tracks 4", "65: max_shift 0"]),
        ("mini", ("40",), {"n_tracks": 1, "perplexity": 50}, ["40: perplexity 50"]),
        ("mini", ("85",), {"compared_tracks": 5}, ["85: n_neighbours 5, compared_tracks 5"]),
        ("mini", ("85",), {"compared_tracks": 0}, []),
        ("mini", (), {"task": "giantsteps"}, ["40, 50, 60, 65, 80: task 'giantsteps': expected one of rendered"]),
        ("mini", ("05",), {"fetch": "gtzan"}, ["05: fetch = ['gtzan']: data_root says where"]),
    ],
)
def test_what_is_at_odds_is_named(profile, only, typed, expected):
    found = problems(profile, only, **typed)
    assert len(found) == len(expected), found
    assert all(any(sentence.startswith(start) for sentence in found) for start in expected), found


def test_everything_wrong_is_said_at_once_and_nothing_twice():
    found = problems(lr=-1, budgets="24,0", headline_budget=12, patch="hybrid", predictions="nowhere")
    assert [sentence.split(":")[0] for sentence in found] == ["10, 50, 60", "15", "30", "50", "50", "90"]
    assert len(set(found)) == len(found)


def test_budgets_of_one_notebook_alone_need_not_suit_the_others():
    assert problems(only=("00", "05", "10", "20"), budgets="24,0") == []
    assert problems(only=("50",), budgets="24,0", shown_budgets="24") == []


def test_heads_that_are_read_side_by_side_have_the_same_budgets_and_seeds():
    values = values_of("smoke")
    values["30_wide_mlp"] |= {"seeds": [0, 2], "budgets": [0, 48]}  # another order is no difference
    found = plan.problems(values, root=paths.ROOT)
    assert found == ["20, 30: seeds [0, 1] in notebook 20 and [0, 2] in 30: the tables need the same in both."]


# With the corpus


@pytest.mark.parametrize(
    "only, typed, expected",
    [
        (("10",), {"batch_size": 61}, ["10: batch_size 61: there are 60 tracks to train on; lower it."]),
        (("10",), {"batch_size": 61, "weights": str(paths.LOCK)}, []),
        (("50",), {"batch_size": 32, "tuning_budget": 61}, ["50: tuning_budget 61: rendered has 60"]),
        (("60",), {"factors": "batch", "batch_sizes": "16,64"}, ["60: batch_size 64"]),
        (("20",), {"budgets": "60,61"}, ["20: budgets 61: rendered has 60 labelled training tracks; 0 takes all."]),
        (("65",), {"optimism_budgets": "61"}, ["65: optimism_budgets 61"]),
        (("40",), {"n_tracks": 0, "perplexity": 400}, ["40: perplexity 400"]),
    ],
)
def test_tracks_that_are_not_there_are_not_asked_for(only, typed, expected):
    found = problems("smoke", only, corpus_of(), **typed)
    assert len(found) == len(expected) and all(map(str.startswith, found, expected)), found


def test_an_empty_split_is_said_once_for_all_notebooks():
    found = problems("smoke", ("10", "20"), corpus_of(valid=0))
    assert found == ["10, 20: rendered has no track in 'valid': take more tracks."]


@pytest.mark.usefixtures("known_compositions")
@pytest.mark.parametrize(
    "changes, typed, expected",
    [({}, {}, None), ({}, {"n_tracks": 8}, "n_tracks"), ({"drum_probability": 0.0}, {}, "property 'drums'")],
)
def test_what_notebook_55_could_not_probe_is_refused_before_50_trains(scores, changes, typed, expected):
    config = small_corpus(n_chorales=60, n_tunes=120, seconds=8.0, snr_db=(0.0, 15.0), **changes)
    manifest = plan_corpus(config, scores).assign(task="rendered", sha256="")
    corpus = Corpus({}, paths.CACHE, "hash", manifest, None, pd.DataFrame(), None)
    values = values_of("smoke", ("55",), **typed)
    found = plan.problems(values, root=paths.ROOT, rendered=corpus)
    assert (found == []) if expected is None else all(line.startswith("55: ") for line in found), found
    assert expected is None or any(expected in line for line in found), found


# The runner


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The notebooks and their profiles in a place of their own, where none can be run."""
    shutil.copytree(paths.NOTEBOOKS, tmp_path / "notebooks")
    (tmp_path / "keymyna_lib" / "run").mkdir(parents=True)
    for name in ("pipeline.toml", "profiles.toml"):
        shutil.copy(paths.LIBRARY / "run" / name, tmp_path / "keymyna_lib" / "run")
    shutil.copy(paths.LOCK, tmp_path)

    class Ran(Exception):
        pass

    def none(project, profile, notebook, *_):
        raise Ran(notebook)

    monkeypatch.setattr(execute, "execute", none)
    made = Project(tmp_path, tmp_path / ".cache")
    return made, Ran


def test_the_runner_refuses_before_the_first_notebook(project):
    made, ran = project
    with pytest.raises(KeyMynaError, match=r"(?s)10, 50, 60: temperature.*90: headline_budget"):
        pipeline.run(made, "smoke", overrides=[("temperature", "0"), ("budgets", "24,0")], say=lambda line: None)
    with pytest.raises(ran, match="00_data"):
        pipeline.run(made, "smoke", say=lambda line: None)


def test_the_runner_compares_with_the_corpus_as_soon_as_it_is_there(project, monkeypatch):
    made, ran = project
    monkeypatch.setattr(
        pipeline, "outdated", lambda p, notebook, v: ("" if notebook.number < 10 else "x", {"finished": ""})
    )
    monkeypatch.setattr(pipeline, "_corpus", lambda *_: corpus_of())
    with pytest.raises(KeyMynaError, match=r"10, 50, 60: batch_size 100: (.|\n)*  60: batch_size 61: there are 60"):
        pipeline.run(
            made,
            "smoke",
            overrides=[("batch_size", "100"), ("factors", "batch"), ("batch_sizes", "61")],
            say=lambda line: None,
        )
    with pytest.raises(ran, match="10_pretrain"):
        pipeline.run(made, "smoke", say=lambda line: None)


# In a notebook


def cell(notebook, **changes):
    """A notebook's globals as they are after its cell of parameters, some changed."""
    return {name: p.default for name, p in NOTEBOOKS[notebook].parameters.items()} | changes


@pytest.mark.parametrize(
    "notebook, name, given, expected",
    [
        ("05_recordings", "mtg_single_key", "false", False),
        ("05_recordings", "mtg_single_key", "No", False),
        ("05_recordings", "mtg_single_key", 0, False),
        ("05_recordings", "offline", "1", True),
        ("05_recordings", "tasks", "giantsteps", ["giantsteps"]),
        ("05_recordings", "tasks", "giantsteps,folder:mine", ["giantsteps", "folder:mine"]),
        ("05_recordings", "fetch", "", []),
        ("05_recordings", "fetch", "gtzan", None),
        ("05_recordings", "data_root", None, None),
        ("05_recordings", "mtg_confidence", 1.0, None),
        ("20_linear_probe", "budgets", 48, [48]),
        ("20_linear_probe", "budgets", "48, 0", [48, 0]),
        ("20_linear_probe", "seeds", "0,1", [0, 1]),
        ("20_linear_probe", "seeds", (3, 4), [3, 4]),
        ("20_linear_probe", "seeds", "[5]", [5]),
        ("20_linear_probe", "seeds", ["5", 6], [5, 6]),
        ("20_linear_probe", "standardize", "no", [False]),
        ("20_linear_probe", "lrs", 1, [1.0]),
        ("20_linear_probe", "lrs", "fast", None),
        ("20_linear_probe", "seeds", None, None),
        ("20_linear_probe", "max_steps", "100", 100),
        ("20_linear_probe", "max_steps", True, None),
        ("20_linear_probe", "max_steps", math.nan, None),
        ("10_pretrain", "lr", "1e-3", 1e-3),
        ("10_pretrain", "lr", math.inf, None),
        ("10_pretrain", "lr", 10**400, None),
        ("10_pretrain", "preset", 3, None),
        ("50_objectives", "tune", "off", False),
        (
            "50_objectives",
            "objectives",
            "'masked contrastive', 'augmented contrastive, pitch-shifted'",
            ["masked contrastive", "augmented contrastive, pitch-shifted"],
        ),
        ("15_controls", "profile", "smol", None),
    ],
)
def test_a_cell_is_read_as_the_runner_reads_a_command_line(notebook, name, given, expected):
    namespace = cell(notebook, **{name: given})
    if expected is None:
        with pytest.raises(KeyMynaError, match=f"(?s)parameters of {notebook}:.*{name}"):
            plan.check_cell(notebook, namespace)
        assert namespace[name] is given
    else:
        plan.check_cell(notebook, namespace)
        assert namespace[name] == expected and type(namespace[name]) is type(expected)


def test_a_cell_keeps_what_is_right_and_leaves_other_names_alone():
    for notebook in NOTEBOOKS:
        namespace = cell(notebook, np=np, other=[1, "a"])
        before = dict(namespace)
        plan.check_cell(notebook, namespace)
        assert namespace == before and all(type(namespace[name]) is type(before[name]) for name in before)


def test_a_cell_is_checked_together_too_and_names_all_that_is_wrong():
    with pytest.raises(KeyMynaError) as caught:
        plan.check_cell("30_wide_mlp", cell("30_wide_mlp", budgets="24,0", dropouts=1, patience="x", profile="smol"))
    wrong = sorted(line.split()[0] for line in str(caught.value).splitlines()[1:])
    assert wrong == ["budgets", "dropouts", "patience", "profile"]


def test_names_that_papermill_injects_must_be_declared():
    history = [
        "",
        'profile = "mini"\npredictions = ""',
        '# Parameters\nprofile = "mini"\npredictionz = "x"\n',
        "import x",
    ]
    with pytest.raises(KeyMynaError, match="predictionz: the notebook declares no such parameter, only profile, pred"):
        plan.check_cell("15_controls", cell("15_controls", predictionz="x", In=history))
    history[2] = '# Parameters\nPAPERMILL_INPUT_PATH = "a"\nprofile = "mini"\n'
    plan.check_cell("15_controls", cell("15_controls", In=history, tables={}))
    for own in ("# Parameters of my own\nx = 1", "# Parameters\n%time x = 1"):
        plan.check_cell("15_controls", cell("15_controls", In=[*history, own], x=1))


def test_a_parameter_that_is_not_set_is_named():
    namespace = cell("15_controls")
    del namespace["predictions"]
    with pytest.raises(KeyMynaError, match="predictions is not set; run the cell of parameters first"):
        plan.check_cell("15_controls", namespace)
