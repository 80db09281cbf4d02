"""Other frozen encoders: the windows they hear, and HuBERT, wav2vec 2.0 and MERT against transformers itself."""

import json
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from keymyna_lib import features
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.encoders.huggingface import HuggingFaceEncoder, extract_audio, frozen_encoder
from keymyna_lib.spectrogram import SAMPLE_RATE, WINDOW, compress, mel_power

# The shape of the real thing, small: every field of MERT-v1-95M's configuration that HuBERT does not know is there.
TINY = dict(
    hidden_size=16,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=32,
    conv_dim=[8, 8, 8],
    conv_stride=[10, 8, 8],
    conv_kernel=[10, 8, 8],
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=4,
)
MERT = dict(
    model_type="mert_model",
    architectures=["MERTModel"],
    sample_rate=24000,
    feature_extractor_cqt=False,
    feature_extractor_cqt_bins=336,
    deepnorm=False,
    attention_relax=-1.0,
    torch_dtype="float32",
    transformers_version="4.27.1",
    tokenizer_class="Wav2Vec2CTCTokenizer",
    num_feat_extract_layers=3,
    auto_map={"AutoConfig": "configuration_MERT.MERTConfig", "AutoModel": "modeling_MERT.MERTModel"},
)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Ear:
    """An encoder that hands back what it hears."""

    def __init__(self, sample_rate, identity="ear"):
        self.name, self.sample_rate, self.identity = "ear", sample_rate, identity
        self.dim, self.heard = WINDOW * 512 * sample_rate // SAMPLE_RATE, 0

    def embed_audio(self, audio):
        self.heard += len(audio)
        return audio


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """14, 3 and 8 s of a tone of 300 Hz, and an unlabelled track."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    audio = {
        name: np.sin(2 * np.pi * 300 * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE).astype(np.float32)
        for name, seconds in (("a", 14.0), ("b", 3.0), ("c", 8.0), ("d", 2.0))
    }
    pictures = {name: compress(mel_power(samples))[0].T.numpy() for name, samples in audio.items()}
    return SimpleNamespace(
        hash="stand-in",
        manifest=pd.DataFrame({"key": [0, 1, 2, -1]}, index=list(audio)),
        audio=audio.__getitem__,
        spectrogram=pictures.__getitem__,
    )


def test_windows_are_those_of_the_spectrograms(corpus):
    heard, seen = (
        extract_audio(corpus, Ear(SAMPLE_RATE), show=False),
        features.extract(corpus, features.MEAN_MEL, show=False),
    )
    assert heard.track_ids == seen.track_ids == ("a", "b", "c")
    assert torch.equal(heard.track, seen.track) and torch.equal(heard.shift, seen.shift)
    last = (1 + 14 * SAMPLE_RATE // 512 - WINDOW) * 512  # the first sample of the last window of "a"
    for row, start in zip(heard.x[:3], (0, WINDOW * 512, last)):
        expected = corpus.audio("a")[start : start + WINDOW * 512]
        assert np.array_equal(row[: len(expected)], expected) and not row[len(expected) :].any()
    assert np.array_equal(heard.x[3][:48_000], corpus.audio("b")) and not heard.x[3][48_000:].any()


@pytest.mark.parametrize("rate", [24_000, 8_000, 22_050])
def test_resampled_windows_are_the_same_sound_from_the_same_moment(corpus, rate):
    windows = extract_audio(corpus, Ear(rate), track_ids=["a"], show=False).x
    seconds = 512 / SAMPLE_RATE * np.array([0, WINDOW, 1 + 14 * SAMPLE_RATE // 512 - WINDOW])
    for row, start in zip(windows, seconds):
        middle = np.arange(1000, 100_000 * rate // SAMPLE_RATE - 2000)
        expected = np.sin(2 * np.pi * 300 * (round(start * rate) + middle) / rate)
        np.testing.assert_allclose(row[middle], expected, atol=2e-3)


def test_the_cache_goes_by_encoder_and_tracks(corpus):
    first = Ear(SAMPLE_RATE)
    extract_audio(corpus, first, show=False)
    assert first.heard == 6
    for again, tracks, heard in (
        (Ear(SAMPLE_RATE), None, 0),
        (Ear(SAMPLE_RATE), ["c"], 2),
        (Ear(SAMPLE_RATE, "other"), None, 6),
    ):
        extract_audio(corpus, again, track_ids=tracks, show=False)
        assert again.heard == heard


@pytest.mark.parametrize(
    "source, message",
    [("nowhere", "there is no such folder"), ("owner/name@main", "expected the 40 hexadecimal digits")],
)
def test_sources_that_are_none(source, message):
    with pytest.raises(KeyMynaError, match=message):
        frozen_encoder(source)


def test_without_transformers_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(KeyMynaError, match="pip install .*transformers"):
        frozen_encoder(str(tmp_path))


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def models(transformers, tmp_path_factory):
    """Folders of randomly initialised models as transformers saves them, and the models, by kind."""
    made = {}
    for kind, family in (("hubert", "Hubert"), ("wav2vec2", "Wav2Vec2")):
        torch.manual_seed(5)  # the library draws from global state
        model = getattr(transformers, f"{family}Model")(getattr(transformers, f"{family}Config")(**TINY)).eval()
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)  # else every norm is the identity
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        (folder / "preprocessor_config.json").write_text(
            json.dumps(
                {"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 24000, "do_normalize": True}
            )
        )
        made[kind] = folder, model
    return made


def copy(folder, to, config=(), change=lambda state: state):
    """A model's folder again, with other fields in its configuration and other tensors."""
    to.mkdir()
    stored = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(stored | dict(config)))
    (to / "preprocessor_config.json").write_text((folder / "preprocessor_config.json").read_text())
    state = change(load_file(folder / "model.safetensors"))
    save_file({name: value.contiguous() for name, value in state.items()}, to / "model.safetensors")
    return to


def by_hand(model, audio, layer):
    values = (audio - audio.mean(1, keepdim=True)) / (audio.var(1, unbiased=False, keepdim=True) + 1e-7).sqrt()
    with torch.no_grad():
        states = model(values, output_hidden_states=True).hidden_states
    return torch.stack(states).mean(dim=(0, 2)) if layer == "mean" else states[layer].mean(dim=1)


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
@pytest.mark.parametrize("layer", ["mean", 0, 3])
def test_embeddings_are_the_mean_hidden_states(models, kind, layer):
    folder, model = models[kind]
    audio = 0.1 * noise(11, 24_000) + 0.3  # more than a batch, not yet of mean 0 and variance 1
    encoder = frozen_encoder(str(folder), "cpu", layer)
    found = encoder.embed_audio(audio)
    torch.testing.assert_close(found, by_hand(model, audio, layer), atol=1e-4, rtol=1e-4)
    assert found.shape == (11, encoder.dim) and encoder.sample_rate == 24_000 and encoder.extras == []
    assert encoder.name == (folder.name if layer == "mean" else f"{folder.name}, layer {layer}")


def test_another_process_is_sent_where_the_model_lies(models):
    encoder = frozen_encoder(str(models["hubert"][0]), "cpu", 2)
    sent = pickle.dumps(encoder)
    twin, audio = pickle.loads(sent), noise(2, 24_000)
    assert len(sent) < 1000 and pickle.loads(sent) is twin  # read once
    assert (twin.name, twin.identity) == (encoder.name, encoder.identity)
    assert torch.equal(twin.embed_audio(audio), encoder.embed_audio(audio))


def test_audio_is_left_alone_where_the_preprocessor_says_so(models, tmp_path):
    folder = copy(models["hubert"][0], tmp_path / "plain")
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 16000, "do_normalize": False}))
    encoder, audio = frozen_encoder(str(folder), "cpu", 3), 0.1 * noise(2, 16_000)
    with torch.no_grad():
        expected = models["hubert"][1](audio).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(encoder.embed_audio(audio), expected, atol=1e-4, rtol=1e-4)
    assert encoder.sample_rate == 16_000


def old_names(state):
    """Weight normalisation as it was stored before torch 2.0, and is in MERT-v1-95M."""
    new = "parametrizations.weight.original"
    assert sum(new in name for name in state) == 2
    return {name.replace(f"{new}0", "weight_g").replace(f"{new}1", "weight_v"): value for name, value in state.items()}


def test_mert_is_read_as_hubert_and_its_code_is_not_run(models, tmp_path):
    folder, model = models["hubert"]
    mert = copy(folder, tmp_path / "mert", MERT)
    torch.save(old_names(load_file(mert / "model.safetensors")), mert / "pytorch_model.bin")
    (mert / "model.safetensors").unlink()
    for name in ("configuration_MERT.py", "modeling_MERT.py"):
        (mert / name).write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    audio = noise(2, 24_000)
    found = frozen_encoder(str(mert), "cpu").embed_audio(audio)
    torch.testing.assert_close(found, by_hand(model, audio, "mean"), atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "run").exists()


def test_the_published_configuration_of_mert_95m_gives_its_published_size(transformers):
    """211 tensors of 94,371,712 values are in its pytorch_model.bin."""
    with torch.device("meta"):
        state = transformers.HubertModel(transformers.HubertConfig()).state_dict()
    assert len(state) == 211 and sum(value.numel() for value in state.values()) == 94_371_712


def test_heads_and_what_only_training_needs_are_named_and_left_out(models, tmp_path):
    folder, model = models["wav2vec2"]

    def wrapped(state):
        state.pop("masked_spec_embed")
        return {f"wav2vec2.{name}": value for name, value in state.items()} | {
            "lm_head.weight": torch.zeros(3, 16),
            "quantizer.codevectors": torch.zeros(2),
        }

    encoder = frozen_encoder(str(copy(folder, tmp_path / "wrapped", change=wrapped)), "cpu")
    assert sorted(encoder.extras) == ["lm_head.weight", "quantizer.codevectors"]
    audio = noise(2, 24_000)
    torch.testing.assert_close(encoder.embed_audio(audio), by_hand(model, audio, "mean"), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "config, change, message",
    [
        ({"model_type": "bert"}, {}, "model_type 'bert' is none of hubert"),
        (MERT | {"attention_relax": 32.0}, {}, "attention_relax is 32.0"),
        (MERT | {"feature_extractor_cqt": True}, {}, "feature_extractor_cqt is True"),
        (
            {},
            {"encoder.layers.1.final_layer_norm.bias": None},
            r"encoder\.layers\.1\.final_layer_norm\.bias is missing",
        ),
        ({}, {"encoder.extra": torch.zeros(2)}, r"encoder\.extra is unknown"),
        ({}, {"encoder.layer_norm.bias": torch.zeros(3)}, "(?s)does not fit its config.json.*size mismatch"),
        ({}, {"feature_projection.projection.weight": None}, "expected one tensor feature_projection"),
        ({"num_hidden_layers": 2}, {}, "is unknown"),
        ({"conv_kernel": [10, 8]}, {}, "config.json does not describe a Hubert model"),
    ],
)
def test_what_is_no_such_model_is_refused(models, tmp_path, config, change, message):
    def changed(state):
        return {name: value for name, value in (state | change).items() if value is not None}

    folder = copy(models["hubert"][0], tmp_path / "changed", config, changed)
    with pytest.raises(KeyMynaError, match=message):
        frozen_encoder(str(folder), "cpu")


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_file_is_named(models, tmp_path, name):
    folder = copy(models["hubert"][0], tmp_path / "part")
    (folder / name).unlink()
    with pytest.raises(KeyMynaError, match=name):
        frozen_encoder(str(folder), "cpu")


@pytest.mark.parametrize("layer", [4, -1, "last"])
def test_there_are_only_so_many_layers(models, layer):
    with pytest.raises(KeyMynaError, match="expected 'mean', or 0 to 3"):
        frozen_encoder(str(models["hubert"][0]), "cpu", layer)


def test_the_identity_is_of_layer_weights_and_preprocessing(models, tmp_path):
    folder, again = (copy(models["hubert"][0], tmp_path / name) for name in ("model", "again"))
    other = copy(folder, tmp_path / "other", change=lambda s: s | {"encoder.layer_norm.bias": torch.ones(16)})
    plain = copy(folder, tmp_path / "plain")
    (plain / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 24000, "do_normalize": False}))
    made = [
        HuggingFaceEncoder(path, "cpu", layer, name="x").identity
        for path, layer in ((folder, "mean"), (folder, 1), (other, "mean"), (plain, "mean"))
    ]
    assert len(set(made)) == 4 and frozen_encoder(str(again), "cpu").identity == made[0]


def test_from_the_hub_by_its_commit(models, monkeypatch):
    folder, asked = models["hubert"][0], []

    def hf_hub_download(repo, name, *, revision):
        asked.append((repo, name, revision))
        return str(folder / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    encoder = frozen_encoder(f"owner/model@{'a' * 40}", "cpu")
    assert encoder.name == "model"
    assert asked == [
        ("owner/model", name, "a" * 40) for name in ("config.json", "preprocessor_config.json", "model.safetensors")
    ]


def test_features_end_to_end(models, corpus):
    encoder = frozen_encoder(str(models["hubert"][0]), "cpu")
    features = extract_audio(corpus, encoder, show=False)
    assert features.x.shape == (6, 16) and features.select(["c"]).x.shape == (2, 16)
    silence = torch.zeros(1, WINDOW * 768)
    silence[0, : 3 * 24_000] = torch.sin(2 * torch.pi * 300 * torch.arange(3 * 24_000) / 24_000)  # track "b"
    torch.testing.assert_close(features.x[3:4], encoder.embed_audio(silence), atol=1e-2, rtol=1e-2)
