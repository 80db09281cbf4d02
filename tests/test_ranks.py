"""Two processes against one: the same losses, gradients and states, and checkpoints that fit either."""

import contextlib
import io
import json
import multiprocessing
import os
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch.distributed import TCPStore

from keymyna_lib import model, objectives
from keymyna_lib.__main__ import main
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.compute import ranks
from keymyna_lib.compute.ranks import gather, joined
from keymyna_lib.experiments import upstream
from keymyna_lib.losses import InfoNCE, SogCLR, top1
from keymyna_lib.model import EncoderConfig, kept_tokens
from keymyna_lib.pretrain import CropSampler, PretrainConfig, Pretraining, pretrain
from keymyna_lib.report.runs import artifact
from keymyna_lib.run import parameters, pipeline, torchrun
from keymyna_lib.run.project import Project

WORLD, FRAMES = 2, 20


def serve(rank, pipe):
    """A worker: calls what it is told to, in the environment that torchrun would give it."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD),
        "LOCAL_WORLD_SIZE": str(WORLD),
        "MASTER_ADDR": "127.0.0.1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    for port, function, arguments in iter(pipe.recv, None):
        os.environ["MASTER_PORT"] = str(port)
        pipe.send(function(*arguments))


@pytest.fixture(scope="module")
def on_two(fork_server):
    """Calls a function of this module in two processes, and returns what each of them returned."""
    context, workers = multiprocessing.get_context("forkserver"), []
    for rank in range(WORLD):
        here, there = context.Pipe()
        workers.append((context.Process(target=serve, args=(rank, there), daemon=True), here))
        workers[-1][0].start()
        there.close()  # so that the end of the worker is the end of the pipe

    def call(function, *arguments):
        # As torchrun does, the parent keeps the store by which the processes find each other, on a port that is free.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for _, pipe in workers:
            pipe.send((store.port, function, arguments))
        assert all(pipe.poll(1200) for _, pipe in workers), "the workers wait for each other"
        return [pipe.recv() for _, pipe in workers]

    yield call
    for process, _ in workers:
        process.kill()


@pytest.fixture
def one_thread():
    """The parent rounds as the workers do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# The group


def test_without_torchrun_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    rows = torch.rand(3, 2)
    with joined("cpu"):
        assert (ranks.rank(), ranks.world()) == (0, 1) and gather(rows) is rows


def test_an_incomplete_environment_and_a_missing_gpu_are_said(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "0")  # the process that has a GPU says it, for the others are silent
    with pytest.raises(KeyMynaError, match="RANK, MASTER_ADDR, MASTER_PORT is missing.*torchrun"), joined("cpu"):
        pass
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(KeyMynaError, match="2 processes .* only 1 .*: lower torchrun's --nproc-per-node"),
        joined("cuda"),
    ):
        pass


def weigh_everyone():
    with joined("cpu"):
        rank = ranks.rank()
        rows = (torch.arange(6.0).reshape(2, 3) + 10 * rank).requires_grad_()
        everyone = gather(rows)
        (everyone * (rank + 1) * torch.arange(12.0).reshape(4, 3)).sum().backward()
        with ranks.alone():
            alone = gather(rows) is rows and ranks.world() == 1
        return rank, everyone.tolist(), rows.grad.tolist(), alone, ranks.world()


def test_gathered_rows_and_their_gradient(on_two):
    """Process r weighs cell c of all rows by (r + 1) c, so that each cell's gradient is 3 c."""
    for rank, (found, everyone, gradient, alone, world) in enumerate(on_two(weigh_everyone)):
        assert (found, alone, world) == (rank, True, 2)
        assert everyone == [*torch.arange(6.0).reshape(2, 3).tolist(), *(torch.arange(6.0).reshape(2, 3) + 10).tolist()]
        assert gradient == (3 * torch.arange(12.0).reshape(4, 3)[2 * rank : 2 * rank + 2]).tolist()


# Losses

LOSSES = {"infonce": lambda: InfoNCE(0.2), "sogclr": lambda: SogCLR(7, 0.2, 0.6)}
# Two steps' tracks; on two processes the even ones are the first's. One comes twice, as at the end of an epoch.
STEPS = ([0, 1, 2, 5, 6, 3], [4, 1, 6, 3, 4, 5])


def steps_of(name, rank, world):
    """Loss, top-1 and gradient of a linear layer for each step, on the rows of one process; the state at the end."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(len(STEPS), 2, 6, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    loss, found = LOSSES[name](), []
    for tracks, rows in zip(map(torch.tensor, STEPS), inputs):
        own = tracks % world == rank
        projected = rows[:, own] @ weight
        value = loss(*projected, tracks[own])
        (gradient,) = torch.autograd.grad(value, weight)
        means = [
            gather(torch.as_tensor(x, dtype=torch.float64)[None]).mean(dim=0).numpy()
            for x in (value.detach(), top1(*projected, tracks[own]), gradient)
        ]
        found.append(means)
    return found, {key: state.numpy() for key, state in loss.state_dict().items()}


def share_of_steps(name):
    with joined("cpu"):
        return steps_of(name, ranks.rank(), WORLD)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_gradients_and_states_are_those_of_the_joint_batch(on_two, one_thread, name):
    expected, states = steps_of(name, 0, 1)
    for found, state in on_two(share_of_steps, name):
        for step, (both, single) in enumerate(zip(found, expected)):
            for what, x, y in zip(("loss", "top-1", "gradient"), both, single):
                np.testing.assert_allclose(x, y, rtol=0, atol=1e-6, err_msg=f"{what} of step {step}")
        assert state.keys() == states.keys()
        for key in state:
            assert state[key].shape == (7,)
            np.testing.assert_allclose(state[key], states[key], rtol=0, atol=1e-6, err_msg=key)


# The loop


def config(**changes):
    """A run without chance in it, except for the order of tracks: a batch is all tracks, a crop all of a track."""
    values = dict(
        encoder=EncoderConfig("vit-toy", "vertical", "log1p"),
        mask_ratio=0.5,
        crop_frames=FRAMES,
        temperature=0.2,
        gamma=0.5,
        projection_dim=16,
        steps=4,
        batch_size=8,
        warmup_steps=2,
        clip_norm=0.1,
        device="cpu",
        checkpoint_every=2,
        validate_every=2,
    )
    return PretrainConfig(**values | changes)


def tracks_of(split="train"):
    return [f"t{i}" for i in (range(8) if split == "train" else (8, 9, 10))]


def stand_in():
    """Eleven tracks of one crop each, eight of them for training; a stand-in for the spectrogram store."""
    frames = np.random.default_rng(0).gamma(0.7, 2, (11 * FRAMES, 128)).astype(np.float16)
    names = tracks_of() + tracks_of("valid")
    places = pd.DataFrame({"shard": 0, "first_frame": FRAMES * np.arange(11), "n_frames": FRAMES}, index=names)
    return SimpleNamespace(
        frames=[frames],
        hash="stand-in",
        front_end="mel",
        tracks=tracks_of,
        pretraining_tracks=lambda labelled: tracks_of(),
        manifest=pd.DataFrame({"key": np.arange(11) % 3}, index=names),
        offsets=places,
    )


def keep_without_chance(batch, n_tokens, mask_ratio, generator):
    """The first tokens of the first half of a batch (one view), the last ones of the second."""
    order = torch.arange(n_tokens).expand(batch, -1).clone()
    order[batch // 2 :] = order[batch // 2 :].flip(1)
    return order[:, : kept_tokens(n_tokens, mask_ratio)]


def trained(settings, checkpoint, killed_at=None):
    """Pre-train; the curve, the gradients of every step as they were applied, and the weights. Or be killed before."""
    gradients, real = [], Pretraining.take_step

    def watched(run):
        if run.step == killed_at:
            raise InterruptedError
        real(run)
        gradients.append({name: p.grad.clone().numpy() for name, p in run.modules.named_parameters()})

    with joined("cpu"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretraining, "take_step", watched)
        patch.setattr(model, "random_keep", keep_without_chance)
        # The decoder is shown half of the patches, the same ones of each track.
        patch.setattr(objectives, "random_keep", lambda batch, n, *_: torch.arange(n).expand(batch, -1))
        try:
            encoder, curve = pretrain(settings, stand_in(), tracks_of(), tracks_of("valid"), checkpoint, show=False)
        except (InterruptedError, KeyMynaError) as error:
            return error.with_traceback(None)  # what its frames hold would outlive the group
    return (
        curve.drop(columns="seconds"),
        gradients,
        {name: value.numpy() for name, value in encoder.state_dict().items()},
    )


def assert_alike(found, expected):
    (curve, gradients, weights), (curve1, gradients1, weights1) = found, expected
    np.testing.assert_allclose(curve, curve1, rtol=1e-5)
    for step, gradient in enumerate(gradients1[-len(gradients) :]):
        for name, value in gradient.items():
            np.testing.assert_allclose(gradients[step][name], value, rtol=0, atol=1e-6, err_msg=f"{step} {name}")
    for name, value in weights1.items():
        np.testing.assert_allclose(weights[name], value, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "changes", [dict(), dict(loss="infonce"), dict(objective="supervised"), dict(objective="reconstruction")], ids=str
)
def test_training_is_that_of_one_process(on_two, one_thread, tmp_path, changes):
    settings = config(**changes)
    expected = trained(settings, tmp_path / "one.safetensors")
    assert max(np.abs(value).max() for value in expected[1][0].values()) > 1e-3
    first, second = on_two(trained, settings, tmp_path / "two.safetensors")
    assert first[0].equals(second[0])
    assert all(np.array_equal(value, second[2][name]) for name, value in first[2].items())
    assert_alike(first, expected)


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (2, 2)])
def test_a_checkpoint_is_resumed_on_any_number_of_processes(on_two, one_thread, tmp_path, before, after):
    """Killed in the step after it was written; all else is the unbroken run of one process."""

    def on(count, *arguments):
        return on_two(trained, *arguments) if count == 2 else [trained(*arguments)]

    path, unbroken = tmp_path / "killed.safetensors", tmp_path / "unbroken.safetensors"
    assert all(isinstance(found, InterruptedError) for found in on(before, config(), path, 3))
    halfway = load_file(path)
    expected = trained(config(), unbroken)
    assert {name: value.shape for name, value in halfway.items()} == {
        name: value.shape for name, value in load_file(unbroken).items()
    }
    resumed = on(after, config(), path)[0]
    assert len(resumed[0]) == 4 and len(resumed[1]) == 2  # the curve is whole, two steps were left
    assert_alike(resumed, expected)
    state = load_file(path)["modules.objective._loss.log_u"]
    assert state.shape == (8,) and state.unique().numel() == 8
    torch.testing.assert_close(state, load_file(unbroken)["modules.objective._loss.log_u"], rtol=0, atol=1e-4)


def find_own(checkpoints):
    return trained(config(steps=6), checkpoints[int(os.environ["RANK"])])


def test_what_cannot_be_shared_is_said(on_two, tmp_path):
    for found in on_two(trained, config(batch_size=7), tmp_path / "odd.safetensors"):
        assert "batch_size 7" in str(found) and "2 processes" in str(found)
    trained(config(steps=6), tmp_path / "a.safetensors", 3)
    for found in on_two(find_own, [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]):
        assert isinstance(found, KeyMynaError) and "do not see the same" in str(found)


def test_processes_draw_from_tracks_of_their_own():
    corpus, names = stand_in(), tracks_of() + tracks_of("valid")
    own = [CropSampler(corpus, names, FRAMES, rank=rank, world=3) for rank in range(3)]
    assert sorted(len(sampler) for sampler in own) == [3, 4, 4]
    seen = []
    for sampler in own:
        epoch = sampler.tracks_of_step(0, len(sampler), seed=5)
        batch = sampler.batch(epoch, 1, torch.Generator())
        for crop, track, key in zip(batch.crops[0], batch.tracks, batch.keys):
            assert np.array_equal(crop.T.numpy(), corpus.frames[0][track * FRAMES : (track + 1) * FRAMES])
            assert key == corpus.manifest["key"].iloc[int(track)]
        seen += batch.tracks.tolist()
    assert sorted(seen) == list(range(11))
    # Their orders have nothing to do with each other, and one process draws as it always did.
    orders = [
        CropSampler(corpus, names * 3, FRAMES, rank=rank, world=3).tracks_of_step(0, 11, 5).tolist()
        for rank in range(3)
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert CropSampler(corpus, names, FRAMES).tracks_of_step(0, 11, 5).tolist() == orders[0]


# The command

CHANGED = [("crop_frames", str(FRAMES)), ("batch_size", "6"), ("steps", "5"), ("seed", "3"), ("device", "cpu")]


def commanded(cache):
    """What the command returns and prints, on the stand-in for a corpus, with its cache in a folder."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(torchrun, "corpus_of", lambda profile: stand_in())
        patch.setattr(paths, "CACHE", cache)
        patch.setattr(torchrun, "Project", lambda: Project(cache=cache))
        patch.setattr(pipeline, "outdated", lambda *_: ("", {}))
        options = ["--profile", "smoke", *(word for pair in CHANGED for word in ("-p", *pair))]
        status = main(["pretrain", *options], standalone_mode=False)
    return status, printed.getvalue()


def cells():
    return [
        cell["source"]
        for cell in parameters.read_cells(paths.NOTEBOOKS / f"{upstream.PRETRAINED}.ipynb")
        if cell["cell_type"] == "code"
    ]


def values_of(profile, overrides):
    project = Project()
    return pipeline.resolve(project, pipeline.load_notebooks(project), profile, overrides)[upstream.PRETRAINED]


def test_the_command_trains_what_the_notebook_then_only_records(on_two, tmp_path, monkeypatch):
    (status, printed), other = on_two(commanded, tmp_path)
    assert not status and printed.startswith("Trained.") and other == (None, "")
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(upstream, "corpus_of", lambda profile: stand_in())
    monkeypatch.setattr(Pretraining, "take_step", lambda run: pytest.fail("trained again"))
    space = values_of("smoke", CHANGED)
    sources = cells()
    for source in sources[1 : 1 + next(i for i, source in enumerate(sources) if "train_encoder(run" in source)]:
        exec(source, space)
    run = tmp_path / "local/results/smoke/runs" / space["run"].run_id
    assert pd.read_csv(run / "history.csv")["step"].tolist() == [0, 1, 2, 3, 4]
    assert json.loads((run / "config.json").read_text())["batch_size"] == 6
    assert artifact("smoke", space["run"].run_id, "encoder.safetensors").exists()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_command_wants_the_corpus_that_the_notebook_will_find(tmp_path, monkeypatch, rank):
    """And says so once on each machine."""
    monkeypatch.setattr(torchrun, "Project", lambda: Project(cache=tmp_path))
    monkeypatch.setenv("LOCAL_RANK", rank)
    done = CliRunner().invoke(main, ["pretrain", "--profile", "smoke"])
    assert done.exit_code == 1
    said = re.search(r"notebook 00_data is not up to date \(no earlier success\).*--only 00", done.stderr)
    assert said if rank == "0" else done.output == ""


def test_official_weights_are_not_trained():
    with pytest.raises(KeyMynaError, match="weights 'some.ckpt'"):
        torchrun.config_of(values_of("mini", [("weights", "some.ckpt")]))
