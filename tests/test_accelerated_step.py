"""Steps on the device: they compute what a plain step computes, resume exactly, and nothing bad goes unnoticed."""

import copy

import pytest
import torch
from store_stand_in import TRAIN, VALID, config, store

from keymyna_lib import pretrain as pretraining
from keymyna_lib.accelerated import step as steps
from keymyna_lib.accelerated.sampler import sampler_for
from keymyna_lib.accelerated.step import READ_EVERY, DeviceStep, steps_on_device, worth_compiling
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.bench import material
from keymyna_lib.bench import step as bench_step
from keymyna_lib.model import EncoderConfig
from keymyna_lib.objectives import Batch
from keymyna_lib.pretrain import Pretraining, learning_rate, pretrain

HYBRID = EncoderConfig("vit-toy", "hybrid", "linear")
CASES = [
    dict(loss="infonce"),
    dict(loss="sogclr", optimizer="adamw", projection_dim=0),
    dict(encoder=HYBRID, crop_frames=40, loss="sogclr"),
    dict(encoder=HYBRID, crop_frames=40, micro_batch=3),
    dict(objective="supervised", mask_ratio=0.0),
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.fixture(scope="module")
def corpus():
    return store()


@pytest.fixture
def on_device(monkeypatch):
    """Runs take their steps by `DeviceStep` wherever they are."""
    monkeypatch.setattr(pretraining, "steps_on_device", lambda device, objective: True)


def run_of(corpus, settings, store_bytes=10**9):
    run = Pretraining(settings, corpus, TRAIN, VALID, store_bytes=store_bytes)
    run.modules.train()
    return run


def plain_step(run, sampler, step):
    """The step spelled out: whole crops, masked by the encoder, an optimizer that knows nothing of graphs."""
    encoder, objective = run.encoder, run.objective
    sampler.prepare(step)
    tracks = sampler.tracks()
    crops = encoder.trim(sampler.crops(tracks).whole())
    batch = Batch(crops.unflatten(0, (sampler.views, -1)), tracks, sampler.keys(tracks))
    if run.config.objective == "supervised":
        outputs = objective(encoder, batch, None)
    else:
        means = []
        for i, branch in enumerate(encoder.branches):
            rows, columns = branch[0].grid(crops)
            keep = sampler.keep(i, rows * columns, run.config.mask_ratio)
            means.append(encoder.tokens(branch, crops, keep).mean(dim=1))
        outputs = torch.stack([objective.head(mean).unflatten(0, (2, -1)) for mean in means])
    loss = objective.loss(outputs, batch)
    run.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(run.modules.parameters(), run.config.clip_norm)
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(step, run.config)
    run.optimizer.step()
    return loss.item(), objective.measure(outputs, batch).item()


@pytest.mark.parametrize("changes", CASES)
def test_a_step_is_the_plain_step(corpus, on_device, monkeypatch, changes):
    settings = config(**changes)
    fast = run_of(corpus, settings)
    sampler = sampler_for(settings, fast.encoder, fast.objective, corpus, TRAIN, torch.device("cpu"), 10**9)
    monkeypatch.setattr(pretraining, "steps_on_device", lambda device, objective: False)
    slow = run_of(corpus, settings)
    expected = [plain_step(slow, sampler, step) for step in range(4)]
    for _ in range(4):
        fast.take_step()
    fast.settle()
    for record, (loss, measure) in zip(fast.history, expected):
        assert record["loss"] == pytest.approx(loss, abs=1e-5) and record["measure"] == pytest.approx(measure)
        assert record["lr"] == learning_rate(record["step"], settings)
    for (name, one), other in zip(fast.modules.state_dict().items(), slow.modules.state_dict().values()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5, msg=name)


@pytest.mark.parametrize(
    "changes", [*CASES, dict(augmentation="timbre and pitch", mask_ratio=0.0), dict(precision="bf16")]
)
@pytest.mark.parametrize("store_bytes", [0, 10**9])
def test_killed_and_resumed_equals_unbroken(corpus, on_device, tmp_path, monkeypatch, changes, store_bytes):
    settings = config(**changes)

    def train(name):
        return pretrain(settings, corpus, TRAIN, VALID, tmp_path / name, show=False, store_bytes=store_bytes)

    unbroken, curve = train("a.safetensors")

    class Killed(Exception):
        pass

    real = Pretraining.take_step

    def dies_at_five(self):
        if self.step == 5:
            raise Killed
        real(self)

    monkeypatch.setattr(Pretraining, "take_step", dies_at_five)
    with pytest.raises(Killed):
        train("b.safetensors")
    monkeypatch.setattr(Pretraining, "take_step", real)
    resumed, curve2 = train("b.safetensors")
    for name, value in unbroken.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert curve.drop(columns="seconds").equals(curve2.drop(columns="seconds")) and len(curve) == 6
    assert curve["valid_measure"].notna().tolist() == [False, False, True] * 2


def test_losses_are_read_several_at_a_time(corpus, on_device):
    run = run_of(corpus, config(steps=40))
    for taken in range(1, 2 * READ_EVERY + 4):
        run.take_step()
        assert len(run.history) == taken // READ_EVERY * READ_EVERY
    run.settle()
    assert [record["step"] for record in run.history] == list(range(2 * READ_EVERY + 3))
    run.settle()
    assert len(run.history) == 2 * READ_EVERY + 3


def test_a_loss_that_is_not_finite_is_noticed_and_never_saved(corpus, on_device, tmp_path):
    settings = config(steps=200, lr=1e30, checkpoint_every=200, validate_every=200)
    with pytest.raises(KeyMynaError, match=r"the loss became nan at step ([2-9]|1\d); lower lr"):
        pretrain(settings, corpus, TRAIN, VALID, tmp_path / "c.safetensors", show=False)
    assert not (tmp_path / "c.safetensors").exists()


def compiled_step(run):
    """The step of a run, compiled."""
    parts = run.encoder, run.objective, run.optimizer, run.device_step.sampler
    return DeviceStep(*parts, clip_norm=1.0, precision="fp32", compiled=True, recorded=True)


def test_what_cannot_be_compiled_is_taken_without(corpus, on_device, monkeypatch):
    def compiler(function, **options):
        def fails():
            raise RuntimeError("no compiler here")

        return fails

    monkeypatch.setattr(torch, "compile", compiler)
    run, plain = run_of(corpus, config()), run_of(corpus, config())
    run.device_step = compiled_step(run)
    with pytest.warns(UserWarning, match="not compiled: RuntimeError: no compiler here"):
        run.take_step()
    run.take_step()
    for _ in range(2):
        plain.take_step()
    assert run.device_step.read() == plain.device_step.read()


def test_the_compiler_sees_one_graph(corpus, on_device, monkeypatch):
    """No operation of the step leaves the compiled graph; what it computes stays the same."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, **options, backend="eager", fullgraph=True))
    for changes in (*CASES, dict(augmentation="timbre and pitch", mask_ratio=0.0)):
        run, plain = run_of(corpus, config(**changes)), run_of(corpus, config(**changes))
        run.device_step = compiled_step(run)
        for _ in range(3):
            run.take_step()
            plain.take_step()
        found, expected = run.device_step.read(), plain.device_step.read()
        assert found == [pytest.approx(pair, abs=1e-4) for pair in expected], changes


def test_who_takes_steps_on_the_device(corpus, monkeypatch):
    cuda = torch.device("cuda")
    of = {
        name: run_of(corpus, config(objective=name, mask_ratio=0.5)).objective
        for name in ("contrastive", "reconstruction", "supervised")
    }
    assert steps_on_device(cuda, of["contrastive"]) and steps_on_device(cuda, of["supervised"])
    assert not steps_on_device(cuda, of["reconstruction"])
    assert not steps_on_device(torch.device("cpu"), of["contrastive"])
    monkeypatch.setattr(steps.ranks, "world", lambda: 2)
    assert not steps_on_device(cuda, of["contrastive"])


def test_long_runs_are_compiled_and_short_ones_are_not(corpus):
    run = run_of(corpus, config())

    def worth(**changes):
        return worth_compiling(config(**changes), run.encoder, run.objective)

    assert not worth(steps=1000) and worth(steps=100_000)
    assert not worth(steps=20_000) and worth(steps=20_000, batch_size=100_000)


def test_a_bare_step_keeps_its_batch_and_draws_its_masks(on_device, tmp_path):
    folder = tmp_path / "corpus"
    material.write_corpus(folder, 12, 60)
    run = bench_step.our_run(folder, config(crop_frames=40), store_bytes=10**9)
    run.device_step.sampler.prepare(0)
    expected = run.device_step.sampler.crops(run.device_step.sampler.tracks()).whole()
    sampler = bench_step.ResidentCrops(run.device_step.sampler)
    crops, masks = [], []
    for step in range(3):
        sampler.prepare(step)
        crops.append(sampler.crops(sampler.tracks()).whole())
        masks.append(sampler.keep(0, 20, 0.5))
    assert all(torch.equal(drawn, expected) for drawn in crops) and not torch.equal(masks[0], masks[2])
    bench_step.our_bare_step(folder, config(crop_frames=40))()


@needs_gpu
@pytest.mark.parametrize("changes", CASES)
def test_a_gpu_computes_what_the_cpu_computes(corpus, on_device, changes):
    losses = {}
    for device in ("cpu", "cuda"):
        run = run_of(corpus, config(**changes, device=device, steps=100_000))
        for _ in range(8):  # the first by single kernels, the others by the recorded graph
            run.take_step()
        run.settle()
        losses[device] = [record["loss"] for record in run.history]
        assert device == "cpu" or run.device_step._graph is not None
    assert losses["cuda"] == pytest.approx(losses["cpu"], abs=1e-4)


@needs_gpu
def test_half_precision_stays_near(corpus):
    losses = []
    for precision in ("fp32", "bf16"):
        run = run_of(corpus, config(device="cuda", precision=precision))
        for _ in range(6):
            run.take_step()
        run.settle()
        losses.append([record["loss"] for record in run.history])
    assert losses[1] == pytest.approx(losses[0], rel=0.03, abs=0.03)


@needs_gpu
def test_many_compiled_runs_in_one_process(corpus):
    """The compiler's limit of versions of one function is not met."""
    for seed in range(3):
        run = run_of(corpus, config(device="cuda", steps=200_000, seed=seed))
        run.take_step()
        assert run.device_step._compiled
    assert copy.copy(run.device_step.read())
