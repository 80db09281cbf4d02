"""The model file: what is read is what was written, and what is none is refused."""

import json

import models
import numpy as np
import pytest
import torch
from safetensors import safe_open

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.tensors import save_tensors
from keymyna_lib.heads import TrainedHead
from keymyna_lib.key_model import KeyModel
from keymyna_lib.keys import KEY_NAMES
from keymyna_lib.model import save_encoder

X = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
SPECTROGRAMS = torch.rand(2, 128, 196, generator=torch.Generator().manual_seed(1))
SAID = dict(temperature=1.7, max_entropy=0.3, persistence=2.5)
SAID |= dict(name="toy", licence="MIT", data_card="docs/toy.md", commit="0123abc")


def test_what_is_read_is_what_was_written(tmp_path):
    model = models.model(heads=2, **SAID)
    model.encoder.crop_frames = 98
    model.save(tmp_path / "model.safetensors")
    again = KeyModel.load(tmp_path / "model.safetensors")
    assert {name: getattr(again, name) for name in SAID} == SAID
    assert again.encoder.config == model.encoder.config and again.encoder.crop_frames == 98
    assert not again.encoder.training and list(again.heads) == list(model.heads)
    assert torch.equal(again.encoder(SPECTROGRAMS), model.encoder(SPECTROGRAMS))
    np.testing.assert_array_equal(again.probabilities(X), model.probabilities(X))
    with safe_open(tmp_path / "model.safetensors", "pt") as file:  # for other readers
        header = json.loads(file.metadata()["key_model"])
    assert header["keys"] == list(KEY_NAMES) and header["licence"] == "MIT" and header["encoder"]["preset"] == "vit-toy"


def test_half_precision_halves_the_file_and_rounds_the_weights(tmp_path):
    model = models.model()
    sizes = {}
    for stored in ("float32", "float16"):
        model.save(tmp_path / stored, stored=stored)
        sizes[stored] = (tmp_path / stored).stat().st_size
    assert sizes["float16"] < 0.55 * sizes["float32"]
    again = KeyModel.load(tmp_path / "float16")
    for name, value in again.encoder.state_dict().items():
        expected = model.encoder.state_dict()[name]
        assert value.dtype == torch.float32 and torch.allclose(value, expected, rtol=2**-11, atol=2**-25)
    (head,), (was,) = again.heads.values(), model.heads.values()
    assert torch.equal(head.mean, was.mean) and torch.equal(head.std, was.std)
    np.testing.assert_allclose(again.probabilities(X), model.probabilities(X), atol=0.01)


def test_several_heads_answer_with_their_mean():
    model = models.model(heads=3)
    each = [head.window_probabilities(X) for head in model.heads.values()]
    np.testing.assert_allclose(model.probabilities(X), sum(each) / 3, rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_divides_logarithms_and_changes_no_order(temperature):
    model = models.model(temperature=temperature)
    p = model.probabilities(X).astype(np.float64)
    expected = p ** (1 / temperature)
    found = model.calibrated(p)
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(found.argsort(), p.argsort())
    certain = model.calibrated(np.eye(24, dtype=np.float32))
    assert np.isfinite(certain).all() and (certain.argmax(axis=1) == np.arange(24)).all()


def test_what_would_not_fit_is_not_written(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(KeyMynaError, match=r"would take 0\.\d MB, and may take 0\.1\..*float16"):
        models.model().save(path, most=100_000)
    with pytest.raises(KeyMynaError, match="stored 'int8': expected one of float32, float16"):
        models.model().save(path, stored="int8")
    model = models.model()
    model.heads["probe 0"].parameters["bias.0"][3] = 1e5
    with pytest.raises(KeyMynaError, match=r"head\.0\.bias\.0 cannot be stored as float16"):
        model.save(path, stored="float16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(temperature=0), "temperature 0"),
        (dict(temperature=float("nan")), "temperature nan"),
        (dict(max_entropy=3.2), "max_entropy 3.2"),
        (dict(persistence=-1.0), "persistence -1.0"),
        (dict(heads=0), "one head or more"),
    ],
)
def test_impossible_values_are_refused(fields, message):
    with pytest.raises(KeyMynaError, match=message):
        models.model(**fields)


def test_weights_whose_products_overflow_give_no_key(tmp_path):
    model = models.model(name="toy")
    with torch.no_grad():
        for weight in model.encoder.parameters():
            weight.mul_(1e30)
    model.save(tmp_path / "model.safetensors")
    again = KeyModel.load(tmp_path / "model.safetensors")
    with pytest.raises(KeyMynaError, match="key model toy gives NaN: its weights are too large"):
        again.probabilities(again.encoder(SPECTROGRAMS))


def test_a_head_of_another_encoder_is_refused(tmp_path):
    save_encoder(models.model().encoder, tmp_path / "encoder.safetensors")
    models.head(10).save(tmp_path / "other.safetensors")
    with pytest.raises(KeyMynaError, match=r"other\.safetensors takes 10 features, and the encoder gives 64"):
        KeyModel.of_files(tmp_path / "encoder.safetensors", tmp_path / "other.safetensors")


def test_what_is_no_key_model_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(KeyMynaError, match="does not exist"):
        KeyModel.load(path)
    models.head().save(path)
    with pytest.raises(KeyMynaError, match="is a head of this library; expected a key model"):
        KeyModel.load(path)
    models.write(path)
    with pytest.raises(KeyMynaError, match="is a key model of this library; expected a head"):
        TrainedHead.load(path)
    whole = bytearray(path.read_bytes())
    whole[-1000] ^= 1
    path.write_bytes(whole)
    with pytest.raises(KeyMynaError, match="its content has changed since it was written"):
        KeyModel.load(path)
    save_tensors(path, {"encoder.x": torch.zeros(1)})
    with pytest.raises(KeyMynaError, match="holds encoder.x, and not the header"):
        KeyModel.load(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda header, tensors: header.update(keys=[*KEY_NAMES[1:], KEY_NAMES[0]]), "another order"),
        (lambda header, tensors: header.update(temperature=-1), "temperature -1"),
        (lambda header, tensors: header.pop("heads"), "heads"),
        (lambda header, tensors: header["encoder"].update(preset="vit-xs"), "does not fit its configuration"),
        (lambda header, tensors: header["encoder"].update(crop_frames=0), "crop_frames 0"),
        (lambda header, tensors: tensors.pop("head.0.mean"), "mean"),
        (lambda header, tensors: tensors.update({"head.1.mean": torch.zeros(64)}), "holds head 1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path, change, message):
    path = models.write(tmp_path / "model.safetensors")
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(file.metadata()["key_model"])
    change(header, tensors)
    save_tensors(path, tensors, key_model=json.dumps(header))
    with pytest.raises(KeyMynaError, match=rf"model\.safetensors.*{message}"):
        KeyModel.load(path)
