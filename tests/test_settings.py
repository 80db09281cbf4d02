"""Encoder settings: which notebooks declare them, with which defaults, and what a profile or `-p` makes of them."""

import json
from dataclasses import fields

import pytest

from keymyna_lib.model import EncoderConfig
from keymyna_lib.pretrain import PretrainConfig
from keymyna_lib.run import parameters, pipeline
from keymyna_lib.run.project import Project

# Setting -> numbers of the notebooks that declare it, so that `-p` reaches them and a reader sees it.
DECLARED = {
    "preset": "10 50 60",
    "patch": "10 50 60",
    "scale": "10 50 60",
    "front_end": "",  # the notebooks' corpora are in mel bands, as the paper's
    "objective": "10",  # notebook 50 compares objectives, notebook 60 is about the contrastive one
    "mask_ratio": "00 10 50 60 85",  # Figure 1 in 00 shows it
    "augmentation": "10 60",  # part of the objectives of notebook 50
    "crop_frames": "00 10 50 60",
    "crop_distance": "10 50 60",
    "loss": "10 50 60",
    "temperature": "10 50 60",
    "gamma": "10 50 60",
    "projection_dim": "10 50 60",
    "transpositions": "",  # of an objective of notebook 50, as its augmentations are
    "steps": "10 50 60",
    "batch_size": "10 50 60",
    "micro_batch": "10 50 60",
    "optimizer": "10 50 60",
    "lr": "10 50 60",
    "weight_decay": "10 50 60",
    "warmup_steps": "10",  # a share of the steps in 50 and 60, whose lengths vary
    "clip_norm": "10 50 60",
    "precision": "10 50 60",
    "device": "10 20 30 40 45 50 55 60 65 85",
    "checkpoint_every": "10 50 60",
    "validate_every": "10 50 60",
    "seed": "10 40 50 55 60 85",  # in 40 and 55, of other draws
}
# Defaults that differ from the library's: the length that validation chose in `mini`, and many runs against one.
OWN = {
    ("10_pretrain", "steps"): 20,
    ("10_pretrain", "warmup_steps"): 2,
    ("10_pretrain", "validate_every"): 5,
    ("60_design", "steps"): 75,
    ("50_objectives", "validate_every"): 50,
    ("60_design", "validate_every"): 50,
}
TRAINING = ("10_pretrain", "50_objectives", "60_design")


@pytest.fixture(scope="module")
def notebooks():
    return pipeline.load_notebooks(Project())


def defaults():
    return {field.name: field.default for kind in (EncoderConfig, PretrainConfig) for field in fields(kind)}


def runs(notebooks, profile, *overrides):
    """What the notebooks that train would train, by their parameters."""
    values = pipeline.resolve(Project(), notebooks, profile, list(overrides))
    return {name: PretrainConfig.from_parameters(values[name]) for name in TRAINING}


def test_which_notebooks_declare_a_setting(notebooks):
    found = {
        name: " ".join(book.name[:2] for book in notebooks.values() if name in book.parameters)
        for name in defaults()
        if name != "encoder"
    }
    assert found == DECLARED


def test_defaults_of_the_notebooks_are_the_librarys(notebooks):
    library = defaults()
    differing = {
        (book.name, name): parameter.default
        for book in notebooks.values()
        for name, parameter in book.parameters.items()
        if name in library and (parameter.default, type(parameter.default)) != (library[name], type(library[name]))
    }
    assert differing == OWN


def test_notebooks_train_by_what_they_declare():
    for name in TRAINING:
        code = "".join(c["source"] for c in parameters.read_cells(Project().source(name)) if c["cell_type"] == "code")
        assert code.count("PretrainConfig.from_parameters(globals()") == 1 and "PretrainConfig(" not in code, name


def test_a_changed_setting_reaches_all_who_train(notebooks):
    typed = [("mask_ratio", "0.75"), ("scale", "linear"), ("precision", "bf16"), ("loss", "infonce")]
    typed += [("temperature", "0.2"), ("crop_frames", "98"), ("patch", "square"), ("gamma", "0.5")]
    for name, config in runs(notebooks, "mini", *typed).items():
        assert config.encoder == EncoderConfig("vit-xxs", "square", "linear"), name
        assert (config.mask_ratio, config.precision, config.loss) == (0.75, "bf16", "infonce"), name
        assert (config.temperature, config.crop_frames, config.gamma) == (0.2, 98, 0.5), name
    figure_1 = pipeline.resolve(Project(), notebooks, "mini", typed)["00_data"]
    assert (figure_1["mask_ratio"], figure_1["crop_frames"]) == (0.75, 98)


def test_the_paper_profile_is_the_papers_in_every_notebook(notebooks):
    for name, config in runs(notebooks, "paper").items():
        assert config.encoder == EncoderConfig("vit-s", "vertical", "linear"), name
        assert (config.objective, config.mask_ratio, config.augmentation) == ("contrastive", 0.9, "none"), name
        assert (config.crop_frames, config.crop_distance, config.projection_dim) == (196, 0, 0), name
        assert (config.loss, config.temperature, config.gamma) == ("sogclr", 0.1, 0.9), name
        assert (config.optimizer, config.lr, config.weight_decay) == ("adam", 3e-4, 1e-5), name
        assert config.precision == "bf16", name


def test_what_a_profile_shares_is_said_once():
    """A notebook's own table holds what is its own, or differs from what is shared."""
    profiles = pipeline._read_toml(Project().library / "run" / "profiles.toml")
    for profile, tables in profiles.items():
        shared = tables.get(parameters.SHARED, {})
        repeated = {
            f"{profile}.{notebook}.{name}"
            for notebook, table in tables.items()
            if notebook != parameters.SHARED
            for name, value in table.items()
            if shared.get(name) == value
        }
        assert repeated == set(), json.dumps(sorted(repeated))
