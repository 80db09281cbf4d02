import itertools
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from keymyna_lib import heads
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.tensors import save_tensors
from keymyna_lib.evaluate import mirex_scores, track_predictions
from keymyna_lib.experiments.head_study import grid_table
from keymyna_lib.heads import HEADS, HeadSpec, Rows, TrainedHead, linear_probe_grid, select, train_heads, wide_mlp_grid
from keymyna_lib.model import EncoderConfig, build_encoder, save_encoder

DIM = 10
BUDGET = dict(max_steps=24, eval_every=8, patience=5, seed=3, dtype=torch.float64)


def clusters(n_tracks, *, seed, windows=3, noise=1.5):
    """A Gaussian cluster for each key, off centre and of uneven scale; every track has several windows."""
    centres = np.random.default_rng(0).normal(size=(24, DIM))
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n_tracks) % 24)
    track = rng.permutation(np.repeat(np.arange(n_tracks), windows))
    x = (centres[labels[track]] + noise * rng.normal(size=(len(track), DIM))) * np.arange(1, DIM + 1) / 5 + 3
    return Rows(x.astype(np.float32), labels[track], track)


TRAIN, VALID = clusters(72, seed=1), clusters(48, seed=2)


def one_at_a_time(spec, train=TRAIN, valid=VALID, *, max_steps, eval_every, patience, seed, dtype):
    """The same head with torch.nn and torch.optim.Adam, autograd, and the library's random streams."""
    torch_specs = [DIM, *spec.hidden, 24]
    layers = [torch.nn.Linear(a, b, dtype=dtype) for a, b in itertools.pairwise(torch_specs)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, heads._initial(seed, torch_specs)):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    optimizer = torch.optim.Adam(
        [p for layer in layers for p in layer.parameters()], lr=spec.lr, weight_decay=spec.weight_decay
    )
    mean, std = train.x.to(dtype).mean(0), train.x.to(dtype).std(0, correction=0)

    def logits(x, draws=None):
        def drop(a):
            return a if draws is None else a * (draws >= spec.dropout) / (1 - spec.dropout)

        x = (x - mean) / std if spec.standardize else x
        x = x if spec.hidden else drop(x)
        for i, layer in enumerate(layers):
            x = layer(x)
            if i < len(spec.hidden):
                x = drop(torch.relu(x)) if i == 0 else torch.relu(x)
        return x

    batches, noise = heads._batches(train, spec, seed, dtype), heads._noise(seed, spec, DIM, "cpu")
    labels = np.zeros(int(valid.track.max()) + 1, dtype=int)
    labels[valid.track.numpy()] = valid.y.numpy()
    best, curve = None, []
    for step in range(1, max_steps + 1):
        x, target = next(batches)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits(x, next(noise)), target).backward()
        optimizer.step()
        if step % eval_every and step < max_steps:
            continue
        with torch.no_grad():
            out = logits(valid.x.to(dtype))
            loss = torch.nn.functional.cross_entropy(out, valid.y).item()
            estimate = track_predictions(out.softmax(1), valid.track).argmax(1)
        score = mirex_scores(labels, estimate, fifths="both").mean()
        curve.append((step, score, loss))
        if best is None or (score, -loss) > (best[1], -best[2]):
            best = (step, score, loss, [p.detach().clone() for layer in layers for p in layer.parameters()])
        if step - best[0] >= patience * eval_every:
            break
    return best, curve


def assert_same(head, best, curve):
    assert head.best_step == best[0]
    np.testing.assert_allclose(head.valid_curve, curve, rtol=1e-9)
    np.testing.assert_allclose([head.valid_score, head.valid_loss], best[1:3], rtol=1e-9)
    assert len(head.parameters) == len(best[3])
    for ours, theirs in zip(head.parameters.values(), best[3]):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("hidden", [(), (12,), (12, 7)])
@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_side_by_side_equals_one_at_a_time(hidden, mixup):
    specs = [
        HeadSpec(hidden, dropout, lr, weight_decay, 16, standardize, mixup)
        for dropout, lr, weight_decay, standardize in [
            (0.0, 1e-2, 0.0, True),
            (0.5, 1e-2, 1e-2, True),
            (0.9, 1e-2, 0.0, False),
            (0.5, 3e-2, 1e-2, False),
            (0.0, 3e-2, 0.1, False),
            (0.5, 1e-2, 0.0, True),
        ]
    ]
    for head, spec in zip(train_heads(specs, TRAIN, VALID, **BUDGET), specs):
        assert head.spec == spec
        assert_same(head, *one_at_a_time(spec, **BUDGET))


class Autograd(HeadSpec):
    """The same MLP, which as another kind of head goes the way of those without gradients by hand."""


class Cosine(HeadSpec):
    """A vector per key; outputs are ten cosines."""

    def initial(self, dim, seed):
        return {"direction": np.random.default_rng(seed + 100).normal(size=(24, dim))}

    def logits(self, parameters, x, drop=lambda x: x):
        x = torch.nn.functional.normalize(drop(x), dim=-1)
        return 10 * x @ torch.nn.functional.normalize(parameters["direction"], dim=-1).mT


class Tanh(HeadSpec):
    """An MLP with another nonlinearity."""

    def logits(self, parameters, x, drop=lambda x: x):
        hidden = drop(torch.tanh(x @ parameters["weight.0"].mT + parameters["bias.0"][..., None, :]))
        return hidden @ parameters["weight.1"].mT + parameters["bias.1"][..., None, :]


SCALARS = [(0.0, 1e-2, 0.0, 16, True), (0.5, 1e-2, 1e-2, 16, False), (0.9, 3e-2, 0.0, 16, True)]


@pytest.mark.parametrize("hidden", [(), (12,), (12, 7)])
def test_gradients_by_hand_are_those_of_autograd(hidden):
    budget = BUDGET | {"patience": 1}  # heads stop one by one
    specs = [kind(hidden, *scalars) for kind in (HeadSpec, Autograd) for scalars in SCALARS]
    trained = train_heads(specs, TRAIN, VALID, **budget)
    for by_hand, other in zip(trained[:3], trained[3:]):
        assert type(other.spec) is Autograd and by_hand.best_step == other.best_step
        np.testing.assert_allclose(by_hand.valid_curve, other.valid_curve, rtol=1e-9)
        for name, tensor in by_hand.parameters.items():
            torch.testing.assert_close(tensor, other.parameters[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind, hidden", [(Cosine, ()), (Tanh, (30,))])
def test_a_head_of_another_kind_is_one_small_class(kind, hidden, tmp_path, monkeypatch):
    easy, held_out = clusters(240, seed=5, noise=0.3), clusters(48, seed=6, noise=0.3)
    specs = [kind(hidden, 0.1, lr) for lr in (3e-2, 1e-6)] + [HeadSpec(hidden, 0.1, 3e-2)]
    trained = train_heads(specs, easy, held_out, max_steps=150, eval_every=25, patience=10, seed=0)
    assert [head.spec for head in trained] == specs
    assert trained[0].valid_score > 0.9 > 0.6 > trained[1].valid_score
    estimate = trained[0].predict(held_out.x, held_out.track).argmax(1)
    score = mirex_scores(labels_of(held_out), estimate, fifths="both").mean()
    assert score == pytest.approx(trained[0].valid_score, abs=1e-12)

    with pytest.raises(KeyMynaError, match=f"{kind.__name__} has no name in heads.HEADS"):
        trained[0].save(tmp_path / "head.safetensors")
    with monkeypatch.context() as patch:
        patch.setitem(HEADS, "another", kind)
        trained[0].save(tmp_path / "head.safetensors")
    with pytest.raises(KeyMynaError, match="head.safetensors .*'another'"):
        TrainedHead.load(tmp_path / "head.safetensors")
    monkeypatch.setitem(HEADS, "another", kind)
    loaded = TrainedHead.load(tmp_path / "head.safetensors")
    assert type(loaded.spec) is kind and loaded.spec == specs[0]
    np.testing.assert_array_equal(loaded.window_probabilities(VALID.x), trained[0].window_probabilities(VALID.x))


def test_early_stopping_keeps_the_best_check():
    # A learning rate that soon overshoots: the heads stop at different checks, the best is not the last.
    budget = BUDGET | dict(max_steps=300, eval_every=3, patience=4)
    specs = [HeadSpec((), 0.0, lr, batch_size=32) for lr in (1e-2, 3e-2, 1e-1, 1.0)]
    trained = train_heads(specs, TRAIN, VALID, **budget)
    stops = [head.valid_curve[-1][0] for head in trained]
    assert len(set(stops)) > 1 and min(stops) < 300
    for head, spec in zip(trained, specs):
        best, curve = one_at_a_time(spec, **budget)
        assert_same(head, best, curve)
        assert head.best_step < head.valid_curve[-1][0]
        estimate = head.predict(VALID.x, VALID.track).argmax(1)
        score = mirex_scores(labels_of(VALID), estimate, fifths="both").mean()
        assert score == pytest.approx(head.valid_score, abs=1e-12)
        best_score, best_loss = max((s, -loss) for _, s, loss in head.valid_curve)
        assert -head.valid_loss == best_loss and score == pytest.approx(best_score, abs=1e-12)


def labels_of(rows):
    labels = np.zeros(int(rows.track.max()) + 1, dtype=int)
    labels[rows.track.numpy()] = rows.y.numpy()
    return labels


def test_a_head_that_diverges_is_never_a_best_check():
    """Its outputs are NaN, the first of which is the largest: C major for every track, without a word."""
    budget = BUDGET | {"dtype": torch.float32}
    with pytest.raises(KeyMynaError, match=r"never finite.*lower its learning rate \(now 1e\+99\)"):
        train_heads([HeadSpec(lr=1e99), HeadSpec((8,), lr=1e99)], TRAIN, VALID, **budget)
    with pytest.raises(KeyMynaError, match=r"weight decay \(now 1e\+99\)"):
        train_heads([HeadSpec((8,), lr=1e-2, weight_decay=1e99)], TRAIN, VALID, **budget)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_batches_and_draws_for_a_recorded_step_are_the_usual_ones(monkeypatch, mixup):
    monkeypatch.setattr(heads, "DRAWN_AHEAD", 3)
    spec = HeadSpec((7,), 0.5, batch_size=50, mixup=mixup)
    one_hot = torch.eye(24, dtype=torch.float64)
    resident = heads._ResidentBatches(TRAIN.x, TRAIN.y, spec, 5, one_hot)
    batches, noise = heads._batches(TRAIN, spec, 5, torch.float64), heads._noise(5, spec, DIM, "cpu")
    for _ in range(11):  # over the end of an epoch, and of what was drawn ahead
        resident.prepare()
        assert all(torch.equal(a, b) for a, b in zip(resident.batch(), next(batches)))
        assert torch.equal(resident.noise, next(noise))


def test_the_way_of_a_gpu_gives_the_same_heads(monkeypatch):
    """On the CPU, unrecorded: rows drawn ahead, and stopped heads that are trained on with the others."""
    grid = [HeadSpec(hidden, p, lr, batch_size=16) for hidden in [(), (9,)] for p in (0.0, 0.5) for lr in (1e-3, 0.1)]
    budget = BUDGET | dict(max_steps=90, patience=2)
    expected = train_heads(grid, TRAIN, VALID, **budget)
    lengths = {len(head.valid_curve) for head in expected}
    assert len(lengths) > 2 and min(lengths) < 6  # heads of one stack stop at different checks
    recorded, kept = heads.Recorded, heads._Stack.keep
    made, kept_of = [], []
    monkeypatch.setattr(heads, "_stays_on_device", lambda device: True)
    monkeypatch.setattr(heads, "Recorded", lambda *arguments: made.append(1) or recorded(*arguments))
    monkeypatch.setattr(
        heads._Stack, "keep", lambda stack, going: kept_of.append((len(going), len(stack.heads))) or kept(stack, going)
    )
    found = train_heads(grid, TRAIN, VALID, **budget)
    for one, other in zip(found, expected):
        assert one.valid_curve == [pytest.approx(check) for check in other.valid_curve]
        assert one.best_step == other.best_step
        for name, value in other.parameters.items():
            torch.testing.assert_close(one.parameters[name], value, rtol=1e-9, atol=1e-12)
    assert all(2 * going <= heads_before for going, heads_before in kept_of) and len(made) == 2 + len(kept_of)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@needs_gpu
@pytest.mark.parametrize("hidden", [(), (9,), (6, 6)])
def test_a_gpu_trains_the_heads_of_a_cpu(monkeypatch, hidden):
    """With dropout, its draws made on the host."""
    noise = heads._noise

    class HostDraws(heads._ResidentBatches):
        def __init__(self, x, y, spec, seed, one_hot):
            super().__init__(x, y, spec, seed, one_hot)
            self.draws = noise(seed, spec, x.shape[1], "cpu")

        def prepare(self):
            super().prepare()
            self.noise.copy_(next(self.draws))

    monkeypatch.setattr(heads, "_ResidentBatches", HostDraws)
    grid = [HeadSpec(hidden, p, lr, batch_size=16, mixup=0.4) for p in (0.0, 0.5) for lr in (1e-3, 1e-2)]
    found, expected = (train_heads(grid, TRAIN, VALID, **BUDGET, device=device) for device in ("cuda", "cpu"))
    for one, other in zip(found, expected):
        assert one.valid_curve == [pytest.approx(check) for check in other.valid_curve]
        for name, value in other.parameters.items():
            torch.testing.assert_close(one.parameters[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("hidden", [(), (8,)])
def test_heads_that_diverge_cost_the_others_nothing(hidden, tmp_path, caplog):
    budget = BUDGET | {"dtype": torch.float32}
    sound = [HeadSpec(hidden, lr=lr) for lr in (1e-6, 1e-2)]
    lost = [HeadSpec(hidden, lr=1e99), HeadSpec(hidden, lr=1e-2, weight_decay=1e99)]
    alone = train_heads(sound, TRAIN, VALID, **budget)
    assert not caplog.records
    trained = train_heads([lost[0], *sound, lost[1]], TRAIN, VALID, **budget)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("2 of 4 heads are out of the choice") and "learning rate (now 1e+99)" in said
    assert select(trained).spec == select(alone).spec and [head.spec for head in trained[1:3]] == sound
    for head, expected in zip(trained[1:3], alone):
        np.testing.assert_allclose(head.valid_curve, expected.valid_curve, rtol=1e-5)
    assert grid_table(trained)["valid_score"].isna().tolist() == [True, False, False, True]
    for head in (trained[0], trained[3]):  # as it began, so that it can be kept like any other
        head.save(tmp_path / "head.safetensors")
        loaded = TrainedHead.load(tmp_path / "head.safetensors")
        assert loaded.best_step == 0 and np.isfinite(loaded.window_probabilities(VALID.x)).all()
        assert select([loaded, trained[1]]) is trained[1]


def test_a_head_does_not_depend_on_its_neighbours_or_on_the_size_of_stacks(monkeypatch):
    specs = [
        HeadSpec(hidden, p, lr, 1e-4, batch, True)
        for hidden in [(), (8,)]
        for p in (0.25, 0.75)
        for lr in (1e-3, 1e-1)
        for batch in (16, 40)
    ]
    together = train_heads(specs, TRAIN, VALID, **BUDGET)
    monkeypatch.setattr(heads, "STACK_LIMITS", {"cpu": (1, 1)})
    apart = train_heads(specs[::-1], TRAIN, VALID, **BUDGET)[::-1]
    monkeypatch.setattr(heads, "ACTIVATIONS", {"cpu": 1})
    alone = [train_heads([spec], TRAIN, VALID, **BUDGET)[0] for spec in specs[:3]]
    for head, *others in list(zip(together, apart, alone)) + list(zip(together, apart)):
        for other in others:
            assert head.spec == other.spec
            np.testing.assert_allclose(head.valid_curve, other.valid_curve, rtol=1e-9)
            for name, tensor in head.parameters.items():
                torch.testing.assert_close(tensor, other.parameters[name], rtol=1e-8, atol=1e-10)


def test_several_threads_change_nothing():
    specs = [
        HeadSpec(hidden, p, 1e-2, batch_size=batch)
        for hidden in [(), (8,), (8, 8)]
        for p in (0.25, 0.75)
        for batch in (16, 40)
    ]
    runs, before = [], torch.get_num_threads()
    for threads in (1, 3):
        try:
            torch.set_num_threads(threads)
            runs.append(train_heads(specs, TRAIN, VALID, **BUDGET))
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
    for a, b in zip(*runs):
        assert a.valid_curve == b.valid_curve
        assert all(torch.equal(a.parameters[k], b.parameters[k]) for k in a.parameters)


def test_repeats_are_identical_and_seeds_differ():
    specs = [HeadSpec((16,), 0.5, mixup=1.0, batch_size=16), HeadSpec((), 0.5, batch_size=16)]
    budget = BUDGET | {"dtype": torch.float32}
    runs = [train_heads(specs, TRAIN, VALID, **(budget | {"seed": s})) for s in (5, 5, 6)]
    for a, b, c in zip(*runs):
        assert a.valid_curve == b.valid_curve != c.valid_curve
        assert all(torch.equal(a.parameters[k], b.parameters[k]) for k in a.parameters)


def test_scaler_is_fitted_on_training_rows_only():
    far = Rows(VALID.x * 100 - 7, VALID.y, VALID.track)
    specs = [HeadSpec(standardize=True), HeadSpec(standardize=False)]
    scaled, raw = train_heads(specs, TRAIN, far, **BUDGET)
    np.testing.assert_allclose(scaled.mean, TRAIN.x.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(scaled.std, TRAIN.x.double().numpy().std(0), rtol=1e-12)
    assert (raw.mean == 0).all() and (raw.std == 1).all()
    # The first batches are the same whatever the validation rows: so are the parameters after one check.
    once = BUDGET | {"max_steps": 8}
    for a, b in zip(train_heads(specs, TRAIN, far, **once), train_heads(specs, TRAIN, VALID, **once)):
        assert all(torch.equal(a.parameters[k], b.parameters[k]) for k in a.parameters)


def test_constant_feature_is_harmless():
    x = TRAIN.x.clone()
    x[:, 0] = 2.0
    (head,) = train_heads([HeadSpec()], Rows(x, TRAIN.y, TRAIN.track), VALID, **BUDGET)
    assert head.std[0] == 1 and np.isfinite(head.predict(VALID.x, VALID.track)).all()


def test_heads_learn_the_clusters():
    easy, held_out = clusters(240, seed=5, noise=0.3), clusters(48, seed=6, noise=0.3)
    specs = [HeadSpec((), 0.1, 3e-2), HeadSpec((256,), 0.5, 1e-2), HeadSpec((), 0.1, 1e-6)]
    trained = train_heads(specs, easy, held_out, max_steps=300, eval_every=25, patience=10, seed=0)
    assert min(trained[0].valid_score, trained[1].valid_score) > 0.95 > 0.5 > trained[2].valid_score
    assert select(trained) in trained[:2]


def test_epochs_draw_every_row_once():
    spec = HeadSpec(batch_size=30)
    rows = Rows(torch.arange(70.0)[:, None], torch.zeros(70, dtype=int), torch.arange(70))
    batches = heads._batches(rows, spec, 0, torch.float32)
    drawn = torch.cat([next(batches)[0] for _ in range(7)])[:, 0]  # 210 rows, three epochs
    for epoch in drawn.view(3, 70):
        assert sorted(epoch.tolist()) == list(range(70))
    wide = heads._batches(rows, HeadSpec(batch_size=100), 0, torch.float32)  # a batch larger than the data
    assert next(wide)[0].shape == (100, 1)


def test_mixup_mixes_inputs_and_labels_alike():
    rows = Rows(torch.eye(24), torch.arange(24), torch.arange(24))
    x, target = next(heads._batches(rows, HeadSpec(batch_size=24, mixup=0.5), 0, torch.float32))
    torch.testing.assert_close(x, target)
    torch.testing.assert_close(target.sum(1), torch.ones(24))
    assert ((target > 0).sum(1) == 2).sum() > 12


def test_dropout_draws_have_the_stated_rate():
    draws = next(heads._noise(0, HeadSpec((500,), batch_size=200), DIM, "cpu"))
    assert draws.shape == (200, 500)
    assert (draws < 0.95).double().mean() == pytest.approx(0.95, abs=0.003)


def test_grids_have_the_papers_size():
    assert len(set(linear_probe_grid())) == 216
    assert len(set(linear_probe_grid(hidden=[[]]))) == 108
    assert len(set(wide_mlp_grid())) == 28
    assert HeadSpec((4096, 4096), 0.99, 3e-4, 1e-4, 64) in wide_mlp_grid()
    assert (8192, 8192) not in {spec.hidden for spec in wide_mlp_grid()}


def test_select_breaks_ties_by_loss():
    def head(score, loss):
        return TrainedHead(HeadSpec(), {}, torch.zeros(1), torch.ones(1), [], 1, score, loss)

    assert select([head(0.5, 1.0), head(0.6, 3.0), head(0.6, 2.0)]).valid_loss == 2.0


@pytest.mark.parametrize("spec", [HeadSpec(), HeadSpec((6, 5), 0.5, standardize=False)])
def test_round_trip(tmp_path, spec):
    (head,) = train_heads([spec], TRAIN, VALID, **(BUDGET | {"dtype": torch.float32}))
    path = tmp_path / "head.safetensors"
    head.save(path)
    loaded = TrainedHead.load(path)
    for name in ("spec", "valid_curve", "best_step", "valid_score", "valid_loss"):
        assert getattr(loaded, name) == getattr(head, name)
    np.testing.assert_array_equal(
        loaded.predict(VALID.x, VALID.track), head.predict(VALID.x.numpy(), VALID.track.numpy())
    )


def test_load_refuses_what_is_no_head(tmp_path):
    path = tmp_path / "head.safetensors"
    with pytest.raises(KeyMynaError, match="does not exist"):
        TrainedHead.load(path)
    path.write_bytes(b"damaged")
    with pytest.raises(KeyMynaError, match="head.safetensors"):
        TrainedHead.load(path)
    save_file({"mean": torch.zeros(2)}, path)
    with pytest.raises(KeyMynaError, match="head.safetensors holds mean, and not the record of a head"):
        TrainedHead.load(path)
    save_encoder(build_encoder(EncoderConfig("vit-toy"), torch.Generator()), path)
    with pytest.raises(KeyMynaError, match="head.safetensors is an encoder of this library; expected a head"):
        TrainedHead.load(path)
    assert path.exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weight.0": torch.zeros(24, 9)}, r"weight\.0 is \(24, 9\), not \(24, 3\)"),
        ({"mean": torch.zeros(4)}, r"std is \(3,\), not \(4,\)"),
        ({"bias.0": None}, r"bias\.0 is missing"),
        ({"weight.1": torch.zeros(24, 24)}, r"weight\.1 is not the head's"),
        ({"mean": None}, "is damaged, or is not a head"),
        ({"std": torch.zeros(3)}, "std holds values that are not positive"),
        ({"weight.0": torch.full((24, 3), float("inf"))}, r"tensor weight\.0 holds NaN or infinity"),
        ({"std": torch.tensor([1.0, float("nan"), 1.0])}, "tensor std holds NaN"),
    ],
)
def test_load_refuses_a_head_whose_tensors_do_not_fit(tmp_path, change, message):
    head = {"mean": torch.zeros(3), "std": torch.ones(3), "weight.0": torch.zeros(24, 3), "bias.0": torch.zeros(24)}
    record = dict(spec=asdict(HeadSpec()), valid_curve=[], best_step=1, valid_score=0.5, valid_loss=1.0)
    path, record = tmp_path / "head.safetensors", json.dumps(record)
    save_tensors(path, head, head=record)
    TrainedHead.load(path)
    save_tensors(path, {name: value for name, value in {**head, **change}.items() if value is not None}, head=record)
    with pytest.raises(KeyMynaError, match=rf"head\.safetensors.*{message}") as caught:
        TrainedHead.load(path)
    assert "elete" not in str(caught.value)


@pytest.mark.parametrize(
    "field, value",
    [
        ("lr", -1e-3),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("weight_decay", -1.0),
        ("batch_size", 0),
        ("batch_size", 1.5),
        ("hidden", (0,)),
        ("hidden", (4, 4, 4)),
        ("mixup", -1.0),
        ("standardize", "off"),
    ],
)
def test_bad_specs(field, value):
    with pytest.raises(KeyMynaError, match=field):
        HeadSpec(**{field: value})


def test_bad_rows():
    x, y, track = np.zeros((4, 2), np.float32), np.arange(4), np.arange(4)
    with pytest.raises(KeyMynaError, match="0 to 23"):
        Rows(x, y + 21, track)
    with pytest.raises(KeyMynaError, match="0 to 23"):
        Rows(x, y - 1, track)
    with pytest.raises(KeyMynaError, match="numbered from 0"):
        Rows(x, y, track - 1)
    with pytest.raises(KeyMynaError, match=r"1 of 4 .*NaN.*embed them again"):
        Rows(np.where(np.arange(4)[:, None] == 2, np.nan, x), y, track)
    for shapes in [(x[0], y, track), (x, y[:3], track), (x, y, track[:3]), (x[:0], y[:0], track[:0])]:
        with pytest.raises(KeyMynaError, match="shapes"):
            Rows(*shapes)


def test_bad_calls():
    with pytest.raises(KeyMynaError, match="patience"):
        train_heads([HeadSpec()], TRAIN, VALID, **(BUDGET | {"patience": 0}))
    with pytest.raises(KeyMynaError, match="at least one head"):
        train_heads([], TRAIN, VALID, **BUDGET)
    with pytest.raises(KeyMynaError, match="same features"):
        train_heads([HeadSpec()], TRAIN, Rows(VALID.x[:, 1:], VALID.y, VALID.track), **BUDGET)
    with pytest.raises(KeyMynaError, match="one and the same key"):
        train_heads([HeadSpec()], TRAIN, Rows(VALID.x, VALID.y.flip(0), VALID.track), **BUDGET)
    with pytest.raises(KeyMynaError, match="numbered"):
        train_heads([HeadSpec()], TRAIN, Rows(VALID.x, VALID.y, VALID.track + 1), **BUDGET)
    (head,) = train_heads([HeadSpec()], TRAIN, VALID, **BUDGET)
    with pytest.raises(KeyMynaError, match="takes"):
        head.predict(VALID.x[:, 1:], VALID.track)
