"""Official checkpoints, here imitated with vit-pytorch, into our encoder and back; the hub; the model card."""

import functools
import hashlib
import os
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json, write_json
from keymyna_lib.base.tensors import save_tensors
from keymyna_lib.encoders.card import write_model_card
from keymyna_lib.encoders.hub import HubFile, checkpoint
from keymyna_lib.encoders.official import encoder_of, load_official
from keymyna_lib.model import PATCHES, PRESETS, EncoderConfig, build_encoder, save_encoder
from keymyna_lib.report.runs import Run, run_file

REVISION = "0123456789abcdef0123456789abcdef01234567"


def simple_vit(patch, preset="vit-toy"):
    from vit_pytorch import SimpleViT

    dim, depth, heads, hidden = PRESETS[preset]
    return SimpleViT(
        image_size=(128, 192),
        patch_size=patch,
        num_classes=7,
        dim=dim,
        depth=depth,
        heads=heads,
        mlp_dim=hidden,
        channels=1,
    ).eval()


def official(patch):
    """A state dict as the authors' code saves it, with a head of two layers, and what it must compute."""
    torch.manual_seed(3)  # the reference draws from global state
    model = simple_vit(PATCHES[patch][0])
    state = {name: value for name, value in model.state_dict().items() if not name.startswith("linear_head")}
    model.linear_head = torch.nn.Identity()
    models = [model]
    if patch == "hybrid":
        models.append(simple_vit(PATCHES[patch][1]))
        models[1].transformer, models[1].linear_head = model.transformer, torch.nn.Identity()
        state |= {
            name.replace("embedding.", "embedding_b."): value
            for name, value in models[1].state_dict().items()
            if name.startswith("to_patch_embedding.")
        }
    head = {"linear_head.0.weight": torch.ones(9, 64), "linear_head.2.weight": torch.ones(5, 9)}
    return state, head, lambda images: torch.cat([model(images[:, None]) for model in models], dim=1)


def spectrograms():
    return torch.rand(2, 128, 192, generator=torch.Generator().manual_seed(0)) * 5


def write(path, state):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.fixture
def toy():
    state, head, _ = official("vertical")
    return state | head


@pytest.mark.parametrize("patch", ["vertical", "square", "hybrid"])
@pytest.mark.parametrize(
    "name, wrap",
    [
        ("model.safetensors", lambda state: state),
        ("myna.pth", lambda state: state),
        ("last.ckpt", lambda state: {"state_dict": {f"module.encoder.{n}": v for n, v in state.items()}, "epoch": 3}),
    ],
)
def test_an_official_checkpoint_computes_what_its_own_model_does(tmp_path, patch, name, wrap):
    state, head, expected = official(patch)
    path = write(tmp_path / name, wrap(state | head))
    encoder, origin = load_official(path, patch=patch, scale="log1p")
    with torch.no_grad():
        torch.testing.assert_close(encoder(spectrograms()), expected(spectrograms()), atol=1e-5, rtol=1e-5)
    assert not encoder.training and origin.config == encoder.config == EncoderConfig("vit-toy", patch, "log1p")
    assert origin.source == name and origin.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert origin.n_parameters == sum(value.numel() for value in state.values())
    assert {dropped.split("encoder.")[-1] for dropped in origin.dropped} == set(head)


@pytest.mark.parametrize("patch", ["vertical", "square", "hybrid"])
def test_there_and_back_is_exact(tmp_path, patch):
    state, head, _ = official(patch)
    encoder, _ = load_official(write(tmp_path / "theirs.pth", state | head), patch=patch, scale="linear")
    save_encoder(encoder, tmp_path / "ours.safetensors")
    back = load_file(tmp_path / "ours.safetensors")
    assert set(back) == set(state) and all(torch.equal(back[name], state[name]) for name in state)
    again, _ = load_official(tmp_path / "ours.safetensors", patch=patch, scale="linear")
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_power_is_fed_as_power(toy):
    """The authors' models take mel power; ours take log(1 + power), as stored, and undo it."""
    power = spectrograms() * 100
    expected = official("vertical")[2]
    encoder, _ = encoder_of(toy, "toy", patch="vertical", scale="linear")
    with torch.no_grad():
        torch.testing.assert_close(encoder(power.log1p()), expected(power), atol=1e-4, rtol=1e-4)


def test_shapes_do_not_tell_vertical_from_square(tmp_path, toy):
    path = write(tmp_path / "myna.pth", toy)
    with pytest.raises(KeyMynaError, match="vit-toy with vertical or square patches alike: say which"):
        load_official(path, scale="linear")
    write_json(tmp_path / "config.json", {"patch_size": [128, 2], "additional_patch_size": None})
    encoder, origin = load_official(path, scale="linear")
    assert encoder.config.patch == origin.declared_patch == "vertical"
    with pytest.raises(
        KeyMynaError, match="is for vertical patches according to the config.json beside it, not for square"
    ):
        load_official(path, patch="square", scale="linear")
    write_json(tmp_path / "config.json", {"patch_size": [128, 2], "additional_patch_size": 16})
    with pytest.raises(KeyMynaError, match="config.json: patches of"):  # the hybrid's two, the wrong way round
        load_official(path, patch="vertical", scale="linear")


def test_a_hybrid_needs_no_word():
    state, _, _ = official("hybrid")
    assert encoder_of(state, "toy", scale="linear")[0].config.patch == "hybrid"


@pytest.mark.parametrize(
    "change, asked, message",
    [
        (lambda s: s.pop("transformer.layers.1.0.to_qkv.weight"), {}, r"layers\.1\.0\.to_qkv\.weight is missing"),
        (
            lambda s: s.update({"to_patch_embedding.2.weight": torch.zeros(64, 512)}),
            {},
            r"to_patch_embedding\.2\.weight is \(64, 512\), not \(64, 256\)",
        ),
        (lambda s: s.update({"pos_embedding": torch.zeros(96, 64)}), {}, "pos_embedding is not the encoder's"),
        (lambda s: s.pop("transformer.norm.weight"), {}, r"one tensor transformer\.norm\.weight, found 0"),
        (lambda s: s.update({f"teacher.{name}": value for name, value in s.items()}), {}, "found 2"),
        (lambda s: None, {"preset": "vit-s"}, "fits vit-toy with vertical or square patches, not vit-s with vertical"),
        (lambda s: None, {"patch": "hybrid"}, "fits vit-toy with vertical or square patches, not any size with hybrid"),
        (lambda s: None, {"patch": "diagonal"}, "patch 'diagonal'"),
    ],
)
def test_whatever_does_not_fit_is_refused(toy, change, asked, message):
    change(toy)
    with pytest.raises(KeyMynaError, match=f"(?s)^.*{message}"):
        encoder_of(toy, "toy", **{"preset": None, "patch": "vertical", "scale": "linear"} | asked)


def test_more_can_be_left_out_by_name_but_no_part_of_the_encoder(toy):
    toy["preprocessor.stft.wsin"] = torch.zeros(3)
    _, dropped = encoder_of(toy, "toy", patch="vertical", scale="linear", drop=["preprocessor"])
    assert sorted(dropped) == ["linear_head.0.weight", "linear_head.2.weight", "preprocessor.stft.wsin"]
    with pytest.raises(KeyMynaError, match="is missing"):
        encoder_of(toy, "toy", patch="vertical", scale="linear", drop=["preprocessor", "to_qkv"])


class Trap:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
def test_loading_runs_no_code(tmp_path, toy, suffix):
    path = write(tmp_path / f"trap{suffix}", {"model": toy, "args": Trap(tmp_path / "sprung")})
    with pytest.raises(KeyMynaError, match="would run code"):
        load_official(path, patch="vertical", scale="linear")
    assert not (tmp_path / "sprung").exists()
    torch.load(path, weights_only=False)  # else the trap was none
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("none.pth", None, "does not exist"),
        ("none.safetensors", None, "does not exist"),
        ("cut.safetensors", b"cut", "damaged"),
        ("cut.bin", b"cut", "damaged"),
        ("weights.h5", b"", "ends in .safetensors"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(KeyMynaError, match=f"{name}.*{message}"):
        load_official(tmp_path / name, scale="linear")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, toy, suffix):
    broken = toy["transformer.norm.weight"].clone()
    broken[3] = float("nan")
    path = write(tmp_path / f"model{suffix}", {**toy, "transformer.norm.weight": broken})
    with pytest.raises(
        KeyMynaError, match=rf"model{suffix}: tensor transformer\.norm\.weight holds NaN or inf.*1 of 64"
    ):
        load_official(path, patch="vertical", scale="linear")


@pytest.mark.parametrize(
    "metadata, kind", [("head", "a head"), ("fingerprint", "a checkpoint"), ("track_ids", "a feature set")]
)
def test_another_file_of_this_library_is_told_apart(tmp_path, metadata, kind):
    save_tensors(tmp_path / "x.safetensors", {"mean": torch.zeros(3)}, **{metadata: "{}"})
    with pytest.raises(KeyMynaError, match=f"x.safetensors is {kind} .*expected the weights of an encoder"):
        load_official(tmp_path / "x.safetensors", scale="linear")


@pytest.mark.parametrize(
    "content, message",
    [(b"", "is empty"), (b"<html>", "is a web page"), (b"RIFFxxxx", "is a sound file"), (b"\x80\x02..", "damaged")],
)
def test_a_pickled_file_that_is_something_else_is_told_apart(tmp_path, content, message):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(KeyMynaError, match=rf"model\.pth {message}|model\.pth is {message}"):
        load_official(tmp_path / "model.pth", scale="linear")
    assert (tmp_path / "model.pth").exists()


def test_a_truncated_pickle_is_damaged_and_an_empty_state_dict_is_said_to_be(tmp_path, toy):
    path = write(tmp_path / "model.pth", toy)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(KeyMynaError, match=r"model\.pth is"):
        load_official(path, patch="vertical", scale="linear")
    torch.save({}, path)
    with pytest.raises(KeyMynaError, match="found 0 among none at all"):
        load_official(path, patch="vertical", scale="linear")


@pytest.mark.parametrize(
    "text", ["[1, 2]", '{"patch_size": true', '{"patch_size": "big"}', '{"patch_size": [16, {}]}', ""]
)
def test_a_configuration_that_is_something_else_is_named(tmp_path, toy, text):
    path = write(tmp_path / "model.safetensors", toy)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(KeyMynaError, match=r"config\.json"):
        load_official(path, scale="linear")


@pytest.mark.filterwarnings("ignore:Sparse invariant", "ignore:torch.quantize", "ignore:.*TypedStorage")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: (value * 100).to(torch.int8), "of type int8; weights are floating-point"),
        (lambda value: torch.complex(value, value), "of type complex64"),
        (lambda value: value.to_sparse(), "of type float32, sparse"),
        (lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8), "of type qint8"),
        (lambda value: value.to(torch.float8_e4m3fn), "of type float8_e4m3fn"),
        (lambda value: value.double() * 1e60, "holds NaN or infinity"),
    ],
)
def test_tensors_that_would_be_read_as_other_numbers_are_refused(tmp_path, toy, change, message):
    torch.save({name: change(value) for name, value in toy.items()}, tmp_path / "w.pt")
    with pytest.raises(KeyMynaError, match=rf"w\.pt: tensor \S+ (is )?{message}"):
        load_official(tmp_path / "w.pt", scale="log1p", patch="vertical")


def test_a_suffix_in_capitals_is_one_and_a_wrong_one_is_named(tmp_path, toy):
    torch.save(toy, tmp_path / "W.PT")
    load_official(tmp_path / "W.PT", scale="log1p", patch="vertical")
    save_file(toy, tmp_path / "w.bin")
    with pytest.raises(KeyMynaError, match=r"w\.bin is a \.safetensors file by another name; rename it"):
        load_official(tmp_path / "w.bin", scale="log1p", patch="vertical")


def test_numbers_that_are_no_tensors_are_refused(tmp_path):
    torch.save({"epoch": 3, "loss": 0.5}, tmp_path / "log.pth")
    with pytest.raises(KeyMynaError, match="log.pth does not hold a state dict"):
        load_official(tmp_path / "log.pth", scale="linear")


@pytest.mark.parametrize("revision", ["main", "v1.0", REVISION[:12], REVISION.upper(), ""])
def test_only_a_commit_pins_a_file_of_the_hub(revision):
    with pytest.raises(KeyMynaError, match="expected the 40 hexadecimal digits"):
        HubFile("owner/name", "model.safetensors", revision)


def test_a_parameter_names_a_file_or_a_place_on_the_hub(tmp_path):
    (tmp_path / "a@b.pth").touch()
    for text in (f"{tmp_path}/a@b.pth", "none.pth"):
        assert str(checkpoint(text)) == text
    assert checkpoint(f"owner/name/sub/model.pth@{REVISION}") == HubFile("owner/name", "sub/model.pth", REVISION)
    for text, message in ((f"owner/name@{REVISION}", "owner/name/file@commit"), ("owner/name/a.pth@main", "40 hexa")):
        with pytest.raises(KeyMynaError, match=message):
            checkpoint(text)


def test_without_the_hubs_client_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(KeyMynaError, match="pip install .*huggingface-hub"):
        HubFile("owner/name", "model.safetensors", REVISION).download()


def test_a_file_of_the_hub_is_asked_for_by_its_commit(tmp_path, monkeypatch, toy):
    write(tmp_path / "model.safetensors", toy)
    write_json(tmp_path / "config.json", {"patch_size": [128, 2]})
    asked = []

    def hf_hub_download(repo, name, *, revision):
        asked.append((repo, name, revision))
        return str(tmp_path / name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    _, origin = load_official(HubFile("owner/name", "model.safetensors", REVISION), scale="linear")
    assert asked == [("owner/name", name, REVISION) for name in ("model.safetensors", "config.json")]
    assert (origin.source, origin.revision) == ("owner/name/model.safetensors", REVISION)
    assert origin.declared_patch == "vertical"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server that answers as the hub does, for one repository; its files by name, and what it was asked."""
    client = pytest.importorskip("huggingface_hub")
    files, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            asked.append(f"{self.command} {self.path}")
            body = files.get(self.path.removeprefix(f"/owner/name/resolve/{REVISION}/"))
            self.send_response(404 if body is None else 200)
            self.send_header("X-Repo-Commit", REVISION)
            if body is None:
                self.send_header("X-Error-Code", "EntryNotFound")
            else:
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            return body or b""

        def do_GET(self):
            self.wfile.write(self.do_HEAD())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(
        client,
        "hf_hub_download",
        functools.partial(client.hf_hub_download, endpoint=address, cache_dir=tmp_path / "cache"),
    )
    yield SimpleNamespace(files=files, asked=asked)
    server.shutdown()


def test_the_real_client_fetches_once_and_names_what_is_absent(hub, tmp_path, toy):
    hub.files["model.safetensors"] = write(tmp_path / "made.safetensors", toy).read_bytes()
    source = HubFile("owner/name", "model.safetensors", REVISION)
    with pytest.raises(KeyMynaError, match=f"config.json of owner/name at {REVISION} cannot be downloaded"):
        load_official(source, scale="linear")
    hub.files["config.json"] = b'{"patch_size": 16}'
    _, origin = load_official(source, scale="linear")
    assert origin.sha256 == hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert origin.config.patch == "square" and hub.asked
    hub.asked.clear()
    assert load_official(source, scale="linear")[1] == origin and hub.asked == []  # from the cache, without a network


@pytest.fixture
def run(home):
    """An encoder of ours, the run that made it and one that scored it."""
    encoder = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch.Generator().manual_seed(0))
    config = {"encoder": vars(encoder.config), "steps": 137, "batch_size": 29, "mask_ratio": 0.85, "device": "auto"}
    with Run(
        "pretrain", profile="smoke", notebook="10_pretrain", config=config, seed=4, inputs={"corpus": "c0ffee"}
    ) as made:
        path = made.artifact_path("encoder.safetensors")
        save_encoder(encoder, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with Run(
        "linear_probe",
        profile="smoke",
        notebook="20_linear_probe",
        seed=0,
        inputs={"pretrain": digest},
        config={"features": "pre-trained", "head": "linear probe", "budget": 48},
    ) as probe:
        for metric, value in (
            ("weighted_both", 0.61234),
            ("weighted_ascending", 0.59871),
            ("accuracy", 0.5),
            ("share_fifth", 0.1),
        ):
            probe.metric("all", "test", metric, value, 31)
        probe.metric("all", "valid", "weighted_both", 0.99, 31)
    manifest = pd.DataFrame(
        {"source": ["tune", "tune", "chorale", "tune"], "duration": [1800.0, 900.0, 3600.0, 9e9]}, index=list("abcd")
    )
    corpus = SimpleNamespace(hash="c0ffee", path=home, manifest=manifest, pretraining_tracks=lambda: list("abc"))
    return SimpleNamespace(path=path, id=made.run_id, probe=probe.run_id, corpus=corpus, digest=digest)


def card_of(run, **changed):
    arguments = dict(corpus=run.corpus, profile="smoke", run_id=run.id, scored_by=[run.probe], licence="mit")
    return write_model_card(run.path, **arguments | changed)


def rows_of(text, heading):
    """The table under a heading, as lists of cells, without its head."""
    section = text.split(f"## {heading}\n")[1].split("\n## ")[0]
    return [re.split(r"\s*\|\s*", line.strip("| ")) for line in section.splitlines() if line.startswith("|")][2:]


def test_the_card_says_what_the_runs_stored(run):
    card = card_of(run)
    text = card.read_text()
    assert card.parent == run.path.parent and yaml.safe_load(text.split("---")[1])["license"] == "mit"
    assert rows_of(text, "Data") == [["chorale", "1", "1.0"], ["tune", "2", "0.75"]]
    settings = dict(rows_of(text, "Training"))
    assert settings == {"batch_size": "29", "mask_ratio": "0.85", "seed": "4", "steps": "137"}
    assert rows_of(text, "Scores") == [
        ["pre-trained", "linear probe", "48", "all", "0.6123", "0.5987", "0.5000", "31", run.probe]
    ]
    origin = dict(rows_of(text, "Provenance"))
    assert run.digest in origin["file"] and run.id in origin["run"] and origin["corpus"] == "c0ffee"


def test_the_cards_lines_load_the_encoder(run, monkeypatch):
    monkeypatch.chdir(run.path.parent)
    (lines,) = re.findall(r"```python\n(.*?)```", card_of(run).read_text(), re.S)
    exec(lines, space := {})
    assert space["encoder"].config == EncoderConfig("vit-toy", "vertical", "log1p")


def test_a_row_of_a_comparison_holds_its_own_scores(run):
    with Run(
        "objective",
        profile="smoke",
        notebook="50_objectives",
        seed=0,
        inputs={"corpus": "c0ffee"},
        config={"name": "masked contrastive", "steps": 7},
    ) as made:
        path = made.artifact_path("encoder.safetensors")
        save_encoder(build_encoder(EncoderConfig("vit-toy"), torch.Generator().manual_seed(1)), path)
        for budget, value in ((0, 0.75), (24, 0.25)):
            made.metric("all", "test", "weighted_both", value, 31, budget=budget)
    text = write_model_card(
        path, run.corpus, profile="smoke", run_id=made.run_id, scored_by=[made.run_id], licence="mit"
    ).read_text()
    assert [row[2:5] for row in rows_of(text, "Scores")] == [["all", "all", "0.7500"], ["24", "all", "0.2500"]]


def test_a_card_is_of_this_file_this_corpus_and_these_scores(run, tmp_path):
    scored = run_file("smoke", run.probe, "config.json")
    write_json(scored, read_json(scored) | {"inputs": {"pretrain": "another"}})
    with pytest.raises(KeyMynaError, match=f"{run.probe} did not score"):
        card_of(run)
    with pytest.raises(KeyMynaError, match="another corpus"):
        card_of(run, corpus=SimpleNamespace(hash="other", path=tmp_path))
    made = run_file("smoke", run.id, "config.json")
    write_json(made, read_json(made) | {"weights": {"source": "owner/name/model.pth"}})
    with pytest.raises(KeyMynaError, match="trained nothing: its encoder was published as owner/name/model.pth"):
        card_of(run)
    save_encoder(build_encoder(EncoderConfig("vit-toy"), torch.Generator().manual_seed(1)), run.path)
    with pytest.raises(KeyMynaError, match="is not the encoder that run"):
        card_of(run)
