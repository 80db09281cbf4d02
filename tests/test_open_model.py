"""Which model somebody means."""

import json
import os

import models
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.model import save_encoder
from keymyna_lib.report.runs import Run
from keymyna_lib.tool import open_model as opening
from keymyna_lib.tool.open_model import open_model

X = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))


def is_toy(model):
    """Whether it answers as the model of these tests does."""
    expected = models.model()
    np.testing.assert_array_equal(model.probabilities(X), models.head().window_probabilities(X))
    state = model.encoder.state_dict()
    return all(torch.equal(value, state[name]) for name, value in expected.encoder.state_dict().items())


@pytest.fixture
def files(tmp_path):
    made = models.model()
    made.heads = {"probe": models.head()}
    made.save(tmp_path / "model.safetensors")
    save_encoder(made.encoder, tmp_path / "encoder.safetensors")
    models.head().save(tmp_path / "head.safetensors")
    state = {f"module.{name}": value for name, value in made.encoder.state_dict().items()}
    save_file(state, tmp_path / "myna.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"patch_size": [128, 2]}))
    return tmp_path


def test_files(files):
    assert is_toy(open_model(str(files / "model.safetensors")))
    assert is_toy(open_model(str(files / "encoder.safetensors"), str(files / "head.safetensors")))
    official = open_model(str(files / "myna.safetensors"), str(files / "head.safetensors"))
    assert is_toy(official) and official.encoder.config.scale == "linear"
    (files / "config.json").unlink()
    official = open_model(str(files / "myna.safetensors"), str(files / "head.safetensors"), patch="vertical")
    assert is_toy(official)


@pytest.mark.parametrize(
    "name, head, message",
    [
        ("model", "head", "has a head of its own: leave --head out"),
        ("encoder", "", "needs a head that was trained on it: add --head FILE"),
        ("myna", "", "needs a head that was trained on it: add --head FILE"),
        ("head", "", "is a head of this library: give it as --head"),
        ("none", "", "there is no such file or run. Give a model file; a run"),
        ("~no.such.user/none", "", "~no.such.user/none.safetensors: there is no such file or run"),
        ("", "head", "give both"),
    ],
)
def test_what_is_no_model_or_lacks_a_head_is_told(files, name, head, message):
    given = [
        f"{part}.safetensors" if part and part[0] == "~" else part and str(files / f"{part}.safetensors")
        for part in (name, head)
    ]
    with pytest.raises(KeyMynaError, match=message):
        open_model(*given)


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "is empty"),
        (b"\x80\x04\x95..", "is a pickle"),
        (b"<html>404", "is a web page"),
        (slice(0, -1), "is cut short"),
        (slice(0, 100), "is cut short"),
        (None, "is a pipe or a device"),
    ],
)
def test_a_damaged_model_lacks_no_head(files, content, problem):
    path = files / "given.safetensors"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else (files / "model.safetensors").read_bytes()[content])
    with pytest.raises(KeyMynaError, match=f"given.safetensors {problem}.*Give a model file"):
        open_model(str(path))


def test_the_model_of_the_package(files, monkeypatch):
    monkeypatch.setattr(opening, "DEFAULT", files / "none.safetensors")
    with pytest.raises(KeyMynaError, match="comes without a model. Name one by --model: a model file; a run"):
        open_model()
    monkeypatch.setattr(opening, "DEFAULT", files / "model.safetensors")
    assert is_toy(open_model())


def test_a_run_by_id_or_folder(home, files):
    def run(experiment, notebook, write, **config):
        inputs = {"corpus": "c", **config.pop("inputs", {})}
        with Run(experiment, profile="mini", notebook=notebook, config=config, seed=0, inputs=inputs) as made:
            for name in write:
                made.artifact_path(name).parent.mkdir(parents=True, exist_ok=True)
                made.artifact_path(name).write_bytes((files / name).read_bytes())
        return made.run_id

    (files / "untrained.safetensors").write_bytes((files / "encoder.safetensors").read_bytes())
    pretrained = run("pretrain", "10_pretrain", ["encoder.safetensors", "untrained.safetensors"])
    stored = json.loads((paths.results_dir("mini") / "runs" / pretrained / "provenance.json").read_text())
    inputs = {"pretrain": stored["artifacts"]["encoder.safetensors"]}
    for features in ("pre-trained", "untrained"):
        probe = run("linear_probe", "20_linear_probe", ["head.safetensors"], features=features, inputs=inputs)
        assert is_toy(open_model(probe)) and is_toy(open_model(str(paths.results_dir("mini") / "runs" / probe)))
    assert is_toy(open_model(pretrained, str(files / "head.safetensors")))
    chroma = run("linear_probe", "20_linear_probe", ["head.safetensors"], features="chroma", inputs=inputs)
    inputs = {"pretrain": "another"}
    orphan = run("linear_probe", "20_linear_probe", ["head.safetensors"], features="pre-trained", inputs=inputs)
    for name, head, message in (
        (pretrained, "", "made an encoder, which needs a head"),
        (probe, str(files / "head.safetensors"), "has a head of its own"),
        (chroma, "", r"no head on an encoder of ours \(features: chroma\)"),
        (orphan, "", "is no longer there"),
        (str(files), "", "is no run of this clone"),
    ):
        with pytest.raises(KeyMynaError, match=message):
            open_model(name, head)
    (paths.CACHE / "artifacts" / "mini" / probe / "head.safetensors").unlink()
    with pytest.raises(KeyMynaError, match="missing from this machine's cache.*--only 20 --force"):
        open_model(probe)
