"""The benchmark: its harness on a clock of our own, the reference against the library, and every promised row."""

import dataclasses
import functools
import gc
import time

import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner

from keymyna_lib import heads
from keymyna_lib.__main__ import main
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json
from keymyna_lib.base.seeds import torch_stream
from keymyna_lib.bench import data, goals, growth, material, measure, reference, report, step
from keymyna_lib.bench import heads as bench_heads
from keymyna_lib.bench.sizes import SIZES
from keymyna_lib.corpus.corpus import open_corpus
from keymyna_lib.experiments.cost import product_flops
from keymyna_lib.heads import HeadSpec
from keymyna_lib.losses import SogCLR
from keymyna_lib.model import EncoderConfig, build_encoder, random_keep
from keymyna_lib.spectrogram import N_MELS


class Clock:
    """Time that passes only when something is done, and a little more slowly each round."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def action(self, name, *seconds):
        left = list(seconds)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_systems_take_turns_and_ratios_are_of_one_round():
    clock = Clock()
    # The machine becomes ten times slower in the second round: the ratio does not notice.
    a, b = clock.action("a", 9, 2, 1, 10, 1), clock.action("b", 9, 2, 4, 40, 4)
    found = measure.alternate({"a": a, "b": b}, 0.0, clock=clock, least_rounds=3)
    assert clock.log == ["a", "a", "b", "b", *"ab" * 3]
    assert found.seconds == {"a": [1, 10, 1], "b": [4, 40, 4]}
    rates = found.rows("step", "case", "work", "1/s", {"a": 8.0, "b": 16.0}, ratios=[("a", "b")])
    assert [(r.system, r.unit, r.median, r.n, r.ratio_to) for r in rates] == [
        ("a", "1/s", 8.0, 3, ""),
        ("b", "1/s", 4.0, 3, ""),
        ("a", "x", 2.0, 3, "b"),
    ]
    assert rates[2].low == rates[2].high == 2.0 and rates[0].low == pytest.approx(4.4)


def test_rounds_go_on_until_the_time_is_up_and_short_actions_are_repeated():
    clock = Clock()
    found = measure.alternate(
        {"a": clock.action("a", 0.5), "b": clock.action("b", 0.01)}, 11.0, clock=clock, least_seconds=0.05
    )
    assert clock.log[4:10] == ["a", *"bbbbb"] and len(found.seconds["a"]) == 19  # 1.02 s to warm up, 0.55 s a round
    assert found.seconds["b"] == pytest.approx([0.01] * 19)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.7, -0.5])
def test_exponents_of_power_laws_are_exact(power):
    sizes = [1, 2, 5, 40]
    assert measure.exponent(sizes, [3 * s**power for s in sizes]) == pytest.approx((power, 3.0))


def test_exponents_need_two_sizes_and_positive_values():
    for sizes, values in (([2, 2], [1, 1]), ([1, 2], [1, 0]), ([1], [1])):
        with pytest.raises(KeyMynaError, match="power law"):
            measure.exponent(sizes, values)


def test_counted_operations_are_those_of_the_closed_form():
    x, tokens = torch.randn(7, 30, requires_grad=True), torch.randn(3, 2, 11, 64)
    layer = torch.nn.Linear(30, 50)
    assert product_flops(lambda: layer(x).sum().backward()) == 3 * 2 * 7 * 30 * 50
    attention = torch.nn.functional.scaled_dot_product_attention
    assert product_flops(lambda: attention(tokens, tokens, tokens)) == 2 * 2 * 3 * 2 * 11 * 11 * 64


def test_memory_is_that_of_a_fresh_process():
    ballast = np.ones(60_000_000)  # 480 MB here, which a child must not count
    held = measure.in_fresh_process(measure.peak_of, functools.partial, np.ones, 25_000_000)
    assert held["above imports"] == pytest.approx(200e6, rel=0.15)
    assert held["above imports"] < held["peak"] < measure.peak_memory() and len(ballast)


def test_mapped_files_are_not_anonymous_memory(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100_000_000))
    before = measure.anonymous_memory()
    mapped = np.memmap(tmp_path / "file", mode="r")
    assert mapped.sum() == 0 and measure.anonymous_memory() - before < 20e6
    held = np.ones(12_500_000)
    assert measure.anonymous_memory() - before == pytest.approx(held.nbytes, rel=0.2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return material.write_corpus(tmp_path_factory.mktemp("bench") / "corpus", 10, 300)


def test_the_reference_step_is_ours_in_loss_and_gradients():
    encoder = build_encoder(EncoderConfig("vit-toy", "vertical", "linear"), torch_stream(0, "weights"))
    plain = reference.ReferenceEncoder("vit-toy")
    plain.load_state_dict(encoder.state_dict())
    stored = 3 * torch.rand(2, 6, N_MELS, 40, generator=torch_stream(1, "weights"))
    tracks = torch.tensor([4, 0, 7, 2, 5, 1])
    ours, theirs = SogCLR(9, 0.1, 0.9), reference.ReferenceSogCLR(9, 0.1, 0.9)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.0)
    for seed in (2, 3, 4):  # from the second time on, with the state that was left
        generator = torch_stream(seed, "weights")
        encoder.zero_grad()
        loss = ours(*encoder(stored.flatten(0, 1), 0.75, generator).unflatten(0, (2, -1)), tracks)
        loss.backward()
        keeps = random_keep(12, 20, 0.75, torch_stream(seed, "weights")).split(6)
        value = reference.step(plain, theirs, optimizer, (tracks, list(stored.expm1()[:, :, None])), 0.75, keeps)
        assert value == pytest.approx(loss.item(), rel=1e-4)
        torch.testing.assert_close(theirs.u[:, 0], ours.log_u.exp(), rtol=1e-4, atol=0)
        gradients = dict(plain.named_parameters())
        for name, parameter in encoder.named_parameters():
            scale = parameter.grad.abs().max()
            torch.testing.assert_close(
                gradients[name].grad / scale, parameter.grad / scale, rtol=0, atol=1e-4, msg=name
            )


def test_the_reference_loss_is_the_one_that_the_authors_call():
    contrastive = pytest.importorskip("libauc.losses.contrastive")
    ours, theirs = (
        reference.ReferenceSogCLR(20, 0.1, 0.9),
        contrastive.GCLoss_v1(N=20, tau=0.1, gamma=0.9, device="cpu"),
    )
    for seed in range(5):
        generator = torch_stream(seed, "projections")
        tracks = torch.randperm(20, generator=generator)[:8]
        rows = torch.randn(2, 8, 5, generator=generator)
        found, expected = (rows.clone().requires_grad_() for _ in range(2))
        value, value_expected = ours(*found, tracks), theirs(*expected, tracks)
        assert value.item() == pytest.approx(value_expected.item(), rel=1e-5, abs=1e-6)
        value.backward()
        value_expected.backward()
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.u, theirs.u, rtol=1e-5, atol=0)


def test_the_reference_masks_keep_as_many_tokens_and_are_drawn_one_by_one(monkeypatch):
    plain, seen = reference.ReferenceEncoder("vit-toy"), []
    plain.transformer.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    draws, randperm = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda n: draws.append(n) or randperm(n))
    plain(torch.rand(3, 1, N_MELS, 196), 0.9)
    assert seen == [(3, 10, 64)] and draws == [98, 98, 98]


def test_reference_files_hold_the_same_crops(corpus, tmp_path):
    tracks = corpus.tracks(split="train")
    files = material.write_reference_files(tmp_path / "reference", corpus, tracks)
    ((numbers, views),) = list(reference.loader(files, 50, len(files), workers=0, seed=0))
    assert sorted(numbers.tolist()) == list(range(9)) and [v.shape for v in views] == [(9, 1, N_MELS, 50)] * 2
    for number, crop in zip(numbers, views[1]):
        whole = np.expm1(corpus.spectrogram(tracks[number]).astype(np.float32)).T
        assert any(np.array_equal(crop[0], whole[:, start : start + 50]) for start in range(251))


@pytest.mark.parametrize("hidden", [(), (7,), (6, 6)])
def test_reference_heads_are_ours_one_at_a_time(hidden):
    train, valid = material.rows(12, 3, 5, seed=0), material.rows(4, 3, 5, seed=1)
    train.x, valid.x = train.x.double(), valid.x.double()
    spec = HeadSpec(hidden, 0.0, 1e-2, 1e-3, 8)
    ours, _ = heads.train_heads(
        [spec, dataclasses.replace(spec, lr=1e-3)],
        train,
        valid,
        max_steps=9,
        eval_every=9,
        patience=1,
        seed=3,
        dtype=torch.float64,
    )
    module = reference.head(spec, 5).double()
    linear = [layer for layer in module if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(linear, heads._initial(3, [5, *hidden, 24])):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    rows, drawn = (
        reference.prepared(train, True),
        heads._batches(reference.prepared(train, True), spec, 3, torch.float64),
    )
    batches = ((torch.zeros(8), x, target.argmax(1)) for x, target in drawn)
    reference.train_head(module, spec, batches, 9)
    assert rows.x.std(0, correction=0) == pytest.approx(np.ones(5))
    for i, layer in enumerate(linear):
        torch.testing.assert_close(layer.weight.detach(), ours.parameters[f"weight.{i}"], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(layer.bias.detach(), ours.parameters[f"bias.{i}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("steps, epochs", [(2, 0), (4, 1), (7, 2)])
def test_only_whole_epochs_pay_for_their_estimates(monkeypatch, steps, epochs):
    rows, spec, means = material.rows(4, 3, 5), HeadSpec(batch_size=4), []
    monkeypatch.setattr(reference.np, "mean", lambda outputs, axis: means.append(len(outputs)) or np.zeros(24))
    reference.train_head(reference.head(spec, 5), spec, reference.head_loader(rows, spec, 0), steps)
    assert means == [3] * 4 * epochs  # three windows of each of four tracks, three steps an epoch


def test_a_bare_step_is_the_libraries_step_on_one_batch(corpus):
    settings = step.config("vit-toy", 4, 0.0)  # masks would be drawn after the crops
    bare, whole = step.our_run(corpus.path, settings), step.our_run(corpus.path, settings)
    bare.train_sampler = step.Resident(bare)
    bare.take_step()
    whole.take_step()
    assert bare.history[0]["loss"] == whole.history[0]["loss"]
    bare.take_step()
    assert torch.equal(bare.train_sampler.tracks_of_step(1, 4, 0), whole.train_sampler.tracks_of_step(0, 4, 0))


def test_drawing_stops_at_the_cap(corpus):
    """Without the cap the same draw is made: it is the cap that stops it."""
    batch_size = 512  # 51 MB of crops, more than the C library ever keeps for reuse
    assert growth.draw_capped(corpus.path, batch_size, 0) > 0
    with pytest.raises(KeyMynaError, match="draw_capped, in a process of its own: .*([Mm]emory|killed)"):
        measure.in_fresh_process(growth.draw_capped, corpus.path, batch_size, 50_000_000)


def draw_with_room(path, room):
    return growth.draw_capped(path, 4, psutil.Process().memory_info().data + room)


def test_the_cap_is_not_on_what_is_mapped(tmp_path):
    """A store of 128 MB is drawn from by a process that may have 60 MB more than it starts with."""
    corpus = material.write_corpus(tmp_path / "corpus", 500, 1000)
    assert measure.in_fresh_process(draw_with_room, corpus.path, 60_000_000) > 0


def test_a_written_corpus_opens_like_any_other(corpus):
    assert open_corpus(corpus.path).hash == corpus.hash
    assert len(corpus.tracks(split="train")) == 9 and len(corpus.tracks(split="valid")) == 1
    assert corpus.spectrogram("noise-000009").shape == (300, N_MELS)
    assert np.isfinite(corpus.frames[0]).all() and corpus.frames[0][:100].astype(np.float32).std() > 1


def test_a_ratio_of_two_precisions_says_so(tmp_path):
    settings, small = step.config("vit-toy", 4, 0.5), dataclasses.replace(SIZES["tiny"], tracks=8)
    for precision, note in (("fp32", ""), ("bf16", "reference implementation in fp32")):
        rows = step.compare(tmp_path, small, dataclasses.replace(settings, precision=precision), 0.0)
        assert {row.note for row in rows if "reference implementation" in (row.system, row.ratio_to)} == {note}
        assert {row.note for row in rows if "reference implementation" not in (row.system, row.ratio_to)} == {""}


def test_both_ways_draw_their_batches_in_this_process(tmp_path):
    """A loader's own processes would fetch batches while the library has its turn."""
    size = dataclasses.replace(SIZES["tiny"], tracks=8, loader_workers=2)
    started = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            data,
            "reference_batches",
            lambda files, settings, workers: (
                started.append(workers) or step.reference_batches(files, settings, workers)
            ),
        )
        rows = data.store_to_batch(tmp_path, size, step.config("vit-toy", 4, 0.5), 0.0)
    assert started == [0] and {row.system for row in rows} == {"ours", "reference implementation"}


def test_shares_of_a_step_count_what_is_drawn_once():
    x = torch.randn(300, 300)
    drawing = step._Timed(lambda: torch.mm(x, x))

    def whole():
        time.sleep(0.5)  # much longer than the products, even on a busy machine
        drawing()
        torch.bmm(x[None], x[None])

    found = step.shares_of(whole, drawing)
    assert sum(found.values()) == pytest.approx(1) and found[step.REST] > 0.5
    assert found["matrix products"] == 0 < min(found[step.DRAWING], found["attention"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The whole benchmark at tiny size, in this process only; "shares" are those of each profiled step, in order."""
    shares = []

    def noted(found):
        shares.append(found)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(goals, "stored_at", lambda: paths.CACHE / "gpu.json")
        patch.setattr(step, "LEAST_TURN", 0.005)
        patch.setitem(measure.alternate.__kwdefaults__, "least_seconds", 0.005)
        patch.setattr("keymyna_lib.bench.song.process", lambda *arguments: lambda: None)
        for module in ("step", "growth"):
            patch.setattr(
                f"keymyna_lib.bench.{module}.in_fresh_process", lambda function, *arguments: function(*arguments)
            )
        patch.setattr(step, "shares_of", lambda *arguments, one=step.shares_of: noted(one(*arguments)))
        few = {"dropouts": (0.5,), "lrs": (1e-3,), "weight_decays": (0.0,)}
        patch.setattr(bench_heads, "linear_probe_grid", functools.partial(heads.linear_probe_grid, **few))
        patch.setattr(gc, "collect", lambda *_: 0)  # after each case, among all that the tests have imported
        out = tmp_path_factory.mktemp("out") / "bench.json"
        done = CliRunner().invoke(main, ["bench", "--size", "tiny", "--budget", "0.1", "--out", str(out)])
        assert done.exit_code == 0, done.output
        assert not list(paths.CACHE.iterdir())
        return read_json(out) | {"shares": shares}


def test_every_promised_row_is_there(tiny):
    rows = report.frame(tiny)
    assert list(rows) == [field.name for field in dataclasses.fields(measure.Measurement)]
    assert (
        set(tiny["machine"]) >= {"cpu", "cores", "threads", "torch", "gpu"} and tiny["date"] and tiny["size"] == "tiny"
    )
    of = {(r.subject, r.system, r.quantity, r.ratio_to) for r in rows.itertuples()}
    assert of >= {
        ("step", "ours", "examples", "reference implementation"),
        ("step", "ours", "share of the ceiling", ""),
        ("step", "reference implementation", "share of the ceiling", ""),
        ("step", "matrix product", "arithmetic", ""),
        ("step", "ours", "memory, peak", ""),
        ("step", "reference implementation", "memory, above imports", ""),
        ("step", "ours, mask 0.9", "examples", "ours, mask 0"),
        ("step", "ours", "examples", "ours, bare"),
        *(
            ("step", system, f"share: {part}", "")
            for system in ("ours", "reference implementation")
            for part in ("attention", "drawing the batch")
        ),
        ("data", "ours", "examples", "reference implementation"),
        ("data", "ours", "share of the step that draws its batch", ""),
        *(("data", "ours", part, "") for part in ("whole", "decode alone", "resample alone", "mel alone")),
        *(("data", "ours", "audio", other) for other in ("nnAudio", "librosa", "torchaudio")),
        ("embedding", "ours", "windows", "reference implementation"),
        ("embedding", "ours, from mp3", "tracks of 8 s", ""),
        ("heads", "ours", "head steps", "reference implementation"),
        ("heads", "ours", "head steps", "reference implementation, one thread"),
        ("song", "ours, one thread", "songs", "essentia"),
        ("heads", "ours", "share of the roofline", ""),
        ("song", "ours", "songs", "essentia"),
        ("song", "ours", "share of importing torch", ""),
    }
    assert {row.case for row in rows[rows["subject"] == "heads"].itertuples() if row.ratio_to} == {
        "probe grid, linear half",
        "probe grid, hidden half",
        "grid B (wide MLP)",
    }
    grown = rows[(rows["subject"] == "growth") & (rows["quantity"] == "exponent")]
    assert sorted(grown["case"]) == [
        "embedding by tracks",
        "linear heads by their number",
        "memory by batch",
        "memory by corpus",
        "song by seconds",
        "step by batch",
        "unmasked step by tokens",
    ]


def test_what_needs_a_gpu_says_that_it_was_not_run(tiny):
    rows = report.frame(tiny)
    without = rows[rows["n"] == 0]
    assert set(without["note"]) == {f"not run: {measure.NO_GPU}"} and without["median"].isna().all()
    aims = without[without["subject"] == "gpu"]
    assert aims["case"].tolist() == [goal.case for goal in goals.GOALS.values()]
    without = without.drop(aims.index)
    assert set(without["subject"]) == {"step", "embedding", "heads"} and without["case"].str.contains("GPU").all()
    text = report.text(tiny)
    assert text.count("not run: no GPU here") == len(without) + len(aims) and tiny["machine"]["cpu"] in text


def test_rows_are_in_order_and_parts_are_parts(tiny):
    rows = report.frame(tiny).query("n > 0")
    assert (rows["low"] <= rows["median"]).all() and (rows["median"] <= rows["high"]).all()
    for system, rounds in (("ours", tiny["shares"][::2]), ("reference implementation", tiny["shares"][1::2])):
        parts = rows[rows["quantity"].str.startswith("share: ") & (rows["system"] == system)].set_index("quantity")
        assert parts["median"].between(0, 1).all() and (parts["median"] > 0).sum() == len(parts) == len(step.PARTS) + 2
        for part, row in parts.iterrows():
            taken = [shares[part.removeprefix("share: ")] for shares in rounds]
            assert row["median"] == pytest.approx(np.median(taken))
        assert len(rounds) >= 3 and all(sum(shares.values()) == pytest.approx(1) for shares in rounds)
    assert rows.loc[rows["quantity"] != "exponent", "low"].min() > 0


def test_one_case_that_fails_costs_only_itself(monkeypatch, tmp_path):
    def fails(seconds):
        raise MemoryError("too large")

    monkeypatch.setattr(paths, "CACHE", tmp_path)
    row = measure.summary("song", "b", "ours", "songs", "1/s", [1.0])
    monkeypatch.setattr(
        "keymyna_lib.bench.song.cases",
        lambda size, folder: [measure.Case("song", "a", fails), measure.Case("song", "b", lambda seconds: [row])],
    )
    found = report.frame(report.measure_all(["song"], size="tiny", budget=1.0, show=False))
    assert list(found["note"]) == ["not run: MemoryError: too large", ""] and list(found["case"]) == ["a", "b"]


def test_what_a_case_leaves_over_is_shared_out(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr(paths, "CACHE", tmp_path)
    monkeypatch.setattr(
        "keymyna_lib.bench.song.cases",
        lambda size, folder: [
            measure.Case("song", str(weight), lambda seconds: given.append(seconds) or [], weight)
            for weight in (1, 0, 3)
        ],
    )
    report.measure_all(["song"], size="tiny", budget=1e6, show=False)
    assert given == pytest.approx([25e4, 0, 1e6], abs=1000)


@pytest.mark.parametrize(
    "subjects, changes", [(["steps"], {}), (["step"], {"size": "huge"}), (["step"], {"budget": 0.0})]
)
def test_bad_requests_are_refused(subjects, changes):
    with pytest.raises(KeyMynaError, match="choose from|budget"):
        report.measure_all(subjects, **changes)


def test_the_least_time_of_a_head_counts_its_optimizer():
    from keymyna_lib.bench.heads import floor_seconds

    grid = [HeadSpec((1000,), batch_size=10)]
    weights, parameters = 500 * 1000 + 1000 * 24, 501 * 1000 + 1001 * 24
    arithmetic = 2 * 10 * (2 * 500 * 1000 + 3 * 1000 * 24)
    assert floor_seconds(grid, 500, 1e9, 1e30) == pytest.approx(arithmetic / 1e9)
    moved = 4 * (2 * (500 * 1000 + 10 * 1500) + 3 * (1000 * 24 + 10 * 1024)) + 28 * parameters
    assert floor_seconds(grid, 500, 1e30, 1e9) == pytest.approx(moved / 1e9) and weights < parameters


def test_sizes_are_alike_in_kind():
    assert SIZES["full"].store_mb[-1] == 10 * SIZES["full"].cap_mb and SIZES["full"].masks[0] == 0.0
    for size in SIZES.values():
        assert {preset for preset, _, _ in size.steps} == set(size.presets)
