"""What notebooks take from earlier ones: the right corpus, the encoder made on it, and errors that say what to run."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pandas as pd
import pytest

from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.experiments import upstream
from keymyna_lib.model import EncoderConfig, build_encoder, save_encoder
from keymyna_lib.report.runs import Run
from keymyna_lib.report.stage import Stage


def publish(notebook, runs=(), **outputs):
    stage = Stage(notebook, "smoke")
    stage.runs += runs
    stage.done(outputs=outputs)


@pytest.fixture
def corpora(home, monkeypatch):
    """A rendered corpus and no recordings; corpora open as their folder's name, with that of their content."""

    def opened(path):
        return SimpleNamespace(
            path=path,
            hash=f"content of {path.name}",
            tasks=lambda: ["giantsteps"],
            of_task=lambda name: f"{path.name}, {name}",
        )

    monkeypatch.setattr(upstream, "open_corpus", opened)
    publish("00_data", corpus="content of rendered", folder="corpus/rendered")
    publish("05_recordings", corpus="", folder="")


def pretrained(corpus, config, heard=()):
    with Run("pretrain", profile="smoke", notebook="10_pretrain", config=config, seed=0, inputs={}) as run:
        for seed, name in enumerate(("encoder", "untrained")):
            encoder = build_encoder(EncoderConfig("vit-toy", "vertical", "log1p"), torch_stream(seed, "weights"))
            save_encoder(encoder, run.artifact_path(f"{name}.safetensors"))
        run.attach("training_tracks", pd.DataFrame({"track_id": list(heard)}))
    publish("10_pretrain", [run.run_id], corpus=corpus, encoder="e")


def test_recordings_take_the_place_of_the_rendered_corpus(corpora):
    assert upstream.corpus_of("smoke").hash == "content of rendered"
    publish("05_recordings", corpus="content of recorded", folder="corpus/recorded")
    assert upstream.corpus_of("smoke").hash == "content of recorded"
    assert upstream.rendered_corpus_of("smoke").hash == "content of rendered"
    assert upstream.task_of("smoke", "") == upstream.task_of("smoke", "giantsteps") == "recorded, giantsteps"


def test_a_corpus_that_is_not_the_published_one_says_what_to_run(corpora):
    publish("05_recordings", corpus="another", folder="corpus/recorded")
    with pytest.raises(KeyMynaError, match="--only 05 --force"):
        upstream.corpus_of("smoke")


def test_encoders_are_those_made_on_this_corpus(corpora, monkeypatch):
    pretrained("content of rendered", {"encoder": {"preset": "vit-toy"}, "steps": 30, "batch_size": 8})
    encoders = upstream.encoders_of("smoke")
    assert list(encoders) == [upstream.TRAINED, upstream.UNTRAINED] and not any(e.training for e in encoders.values())
    first, second = (next(e.parameters()).detach() for e in encoders.values())
    assert first.shape == second.shape
    assert upstream.inputs_of("smoke") == {"corpus": "content of rendered", "pretrain": "e"}
    monkeypatch.setattr(upstream, "frozen_encoder", lambda name, device: SimpleNamespace(identity=f"content of {name}"))
    assert upstream.inputs_of("smoke", "mert")["frozen"] == "content of mert"
    assert upstream.describe_encoder("smoke") == "vit-toy after 30 pre-training steps of batch 8"
    publish("05_recordings", corpus="content of recorded", folder="corpus/recorded")
    with pytest.raises(KeyMynaError, match="--only 10 --force"):
        upstream.encoders_of("smoke")


def test_what_was_heard_in_pretraining_is_known(corpora):
    pretrained("content of rendered", {"encoder": {"preset": "vit-toy"}}, heard=["gtzan/1", "007"])
    assert upstream.pretraining_tracks_of("smoke") == ["gtzan/1", "007"]
    pretrained("content of rendered", {"encoder": {"preset": "vit-s"}, "weights": {"source": "owner/name/file"}})
    assert upstream.pretraining_tracks_of("smoke") == []


def test_given_weights_are_named(corpora):
    pretrained("content of rendered", {"encoder": {"preset": "vit-s"}, "weights": {"source": "owner/name/file"}})
    assert upstream.describe_encoder("smoke") == "vit-s with the weights of owner/name/file"
    assert upstream.window_of("smoke") == 196


@pytest.mark.parametrize("crop_frames, window", [(98, 98), (196, 196), (400, 196)])
def test_windows_are_as_long_as_the_crops_of_pretraining(corpora, monkeypatch, crop_frames, window):
    pretrained("content of rendered", {"encoder": {"preset": "vit-toy"}, "crop_frames": crop_frames})
    assert upstream.window_of("smoke") == window
    asked = {}
    monkeypatch.setattr(upstream, "extract", lambda corpus, name, *_, frames, **__: asked.setdefault(name, frames))
    monkeypatch.setattr(
        upstream, "add_shifted", lambda *_, frames, **__: {"shifted": asked.setdefault("shifted", frames)}
    )
    monkeypatch.setattr(upstream, "frozen_encoder", lambda name, device: SimpleNamespace(name=name))
    monkeypatch.setattr(
        upstream, "extract_audio", lambda corpus, other, *, frames, **_: asked.setdefault(other.name, frames)
    )
    upstream.feature_sets(None, {"ours": None}, "mert", shifts={"a": [1]}, frames=window)
    assert asked == dict.fromkeys(("ours", "mean mel", "chroma", "shifted", "mert"), window)


def test_of_notebooks_side_by_side_one_extracts_at_a_time(home, monkeypatch):
    """The sets that both want have one place for their parts, which the first to end removes."""
    one, at_work = threading.Lock(), threading.Barrier(2)

    def extract(corpus, name, *_, **__):
        assert one.acquire(blocking=False)
        with contextlib.suppress(threading.BrokenBarrierError):
            at_work.wait(0.1)  # time for the other to come in, if it may
        one.release()
        return name

    monkeypatch.setattr(upstream, "extract", extract)
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(upstream.feature_sets, None, {"ours": None}) for _ in range(2)]
    assert [list(each.result()) for each in found] == [["ours", "mean mel", "chroma"]] * 2


def test_the_papers_tasks_come_first():
    corpus = SimpleNamespace(
        tasks=lambda: ["billboard", "folder:a", "giantsteps"], of_task=lambda name: f"view of {name}"
    )
    assert list(upstream.tasks_of(corpus).items()) == [
        (name, f"view of {name}") for name in ("giantsteps", "billboard", "folder:a")
    ]


@pytest.mark.parametrize(
    "task, expected",
    [("giantsteps", "GiantSteps Key (604)"), ("rendered", "the synthetic corpus"), ("folder:mine", "folder:mine")],
)
def test_material(task, expected):
    assert upstream.material(task) == expected
