"""The check of a GPU, rehearsed on the CPU: its table, its comparisons, and what a failure costs."""

import dataclasses

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from keymyna_lib import heads
from keymyna_lib.__main__ import main
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json
from keymyna_lib.bench import goals, gpu, measure
from keymyna_lib.bench.goals import GOALS
from keymyna_lib.pretrain import Pretraining

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A cache and a place for results of its own; and no process is started."""
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(goals, "stored_at", lambda: tmp_path / "gpu.json")
    monkeypatch.setattr(gpu, "in_fresh_process", lambda function, *arguments, limit: function(*arguments))
    return tmp_path


def only(monkeypatch, **parts):
    """Leave out all parts but these; each is a function and the goals that it owes."""
    monkeypatch.setattr(gpu, "PARTS", parts)


def checks_of(part, tmp_path, said=None):
    bench = gpu.Bench(CPU, gpu.SIZES["tiny"], tmp_path)
    return [result for result in part(bench) if isinstance(result, gpu.Check)]


@pytest.fixture(scope="module")
def speed(tmp_path_factory):
    """All parts that measure, at tiny size."""
    folder, said = tmp_path_factory.mktemp("speed"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "CACHE", folder / "cache")
        patch.setattr(gpu, "READ_EVERY", 2)
        patch.setattr(gpu, "PARTS", {name: part for name, part in gpu.PARTS.items() if part[1]})
        found = gpu.run(CPU, size="tiny", out=folder / "gpu.json", say=said.append)
        assert not list(paths.CACHE.iterdir())
    return found, read_json(folder / "gpu.json"), said


def test_every_goal_is_measured_and_written(speed):
    found, written, said = speed
    assert found.passed and not found.failures
    table = goals.table(found.rows)
    assert list(table) == ["row", "measured", "goal", "met"] and len(table) == len(GOALS)
    assert set(table["met"]) <= {"yes", "no"} and not table["measured"].str.contains("not run|failed").any()
    assert {"commit", "dirty", "code_hash", "date", "cuda", "machine", "packages"} <= set(written)
    assert [row["median"] for row in written["measurements"]] == [row.median for row in found.rows]
    assert len(said) == len(found.rows)
    text = gpu.text(found)
    assert all(goal.case in text for goal in GOALS.values()) and written["code_hash"][:12] in text


def test_ratios_follow_from_the_rates(speed):
    rows = {(row.case, row.quantity, row.system, row.unit): row.median for row in speed[0].rows}
    case = GOALS["heads"].case
    ours, cpu = (rows[case, "head steps, rate", system, "1/s"] for system in (goals.OURS, goals.ON_CPU))
    assert rows[case, "head steps", goals.OURS, "x"] == pytest.approx(ours / cpu)
    case, batch = GOALS["reference"].case, gpu.SIZES["tiny"].batches[1]
    step = rows[GOALS["step"].case, "time of a step", goals.OURS, "ms"] / 1000
    theirs = rows[case, "examples", goals.REFERENCE, "1/s"]
    assert rows[case, "examples", goals.OURS, "x"] == pytest.approx(batch / step / theirs, rel=0.5)  # medians of rounds


def test_the_goals_are_those_that_were_set():
    assert [(goal.value, goal.unit) for goal in GOALS.values()] == [
        (100_000, "1/s"),
        (0.35, ""),
        (0.97, ""),
        (50, "x"),
        (10, "ms"),
        (1, "ms"),
        (5, "ms"),
        (30_000, "1/s"),
        (20, "x"),
    ]
    assert GOALS["step"].met(9.9) and not GOALS["step"].met(10.7)
    assert GOALS["rate"].met(109_000) and not GOALS["rate"].met(99_000)


def test_what_is_stored_is_shown_with_its_origin(home):
    rows = goals.stored()
    assert [row.case for row in rows] == [goal.case for goal in GOALS.values()]
    assert {row.note for row in rows} == {f"not run: {measure.NO_GPU}"} and set(goals.table(rows)["met"]) == {""}
    found = gpu.Found(home / "gpu.json", lambda line: None)
    found.add(GOALS["rate"].row([110_000.0, 120_000.0, 113_000.0]))
    found.add(GOALS["step"].missing("failed: MemoryError: too large"))
    found.about["machine"]["gpu"] = "A GPU"
    found.write()
    rate, step = goals.stored()
    code = f"code {found.about['code_hash'][:12]}"
    if found.about["commit"]:
        code = f"commit {found.about['commit'][:7]}"
    assert rate.median == 113_000 and rate.note == f"A GPU, {code}"
    assert step.note == f"failed: MemoryError: too large; A GPU, {code}" and step.median is None
    table = goals.table([rate, step]).set_index("row")
    assert table.loc["vit-s, batch 4096, from the store: examples"].tolist() == ["113,000 1/s", "100,000 1/s", "yes"]
    (home / "gpu.json").write_text("{")
    with pytest.raises(KeyMynaError, match=r"gpu\.json.*keymyna bench --gpu"):
        goals.stored()


def test_a_part_that_fails_costs_only_itself(home, monkeypatch):
    def breaks(bench):
        yield GOALS["rate"].row([1.0])
        raise MemoryError("too large")

    def works(bench):
        import warnings

        warnings.warn("the step is not recorded: here", stacklevel=1)
        yield gpu.Check("sum", 0.0, 0)

    only(monkeypatch, one=(breaks, ("rate", "ceiling")), two=(works, ()))
    said = []
    found = gpu.run(CPU, size="tiny", out=home / "gpu.json", say=said.append)
    assert [(row.median, row.note) for row in found.rows] == [(1.0, ""), (None, "failed: MemoryError: too large")]
    assert found.failures == ["one: failed: MemoryError: too large"] and not found.passed
    assert found.checks[0].passed and "PASS  sum: 0 (bound 0)" in said
    assert found.notes == ["two: UserWarning: the step is not recorded: here"]
    written = read_json(home / "gpu.json")
    assert (
        written["failures"] == found.failures
        and written["checks"][0]["passed"]
        and "two" in written["seconds_of_parts"]
    )


def test_no_part_begins_after_the_time_is_up(monkeypatch):
    only(monkeypatch, one=(lambda bench: iter([GOALS["rate"].row([1.0])]), ("rate",)))
    found = gpu.run(CPU, size="tiny", budget=0.0, say=lambda line: None)
    assert [row.note for row in found.rows] == ["not run: 0 s were over"]
    assert found.passed and not found.failures and found.not_begun == ["one"]
    assert "0 parts failed, 1 not begun for lack of time: one." in gpu.text(found)


@pytest.mark.parametrize(
    "value, passed", [(0.0, True), (1e-4, True), (2e-4, False), (float("nan"), False), (None, False)]
)
def test_a_check_passes_within_its_bound(value, passed):
    check = gpu.Check("losses", value, 1e-4, "" if value is not None else "no device")
    assert check.passed == passed and str(check).startswith("PASS" if passed else "FAIL")


@pytest.mark.parametrize(
    "name", ["what is drawn", "float32", "heads", "resuming", "bfloat16", "embedding", "processes"]
)
def test_comparisons_hold_on_the_cpu(home, name):
    found = checks_of(gpu.PARTS[name][0], home)
    assert found and all(check.passed for check in found), [str(check) for check in found]


def loses_an_update(run, take):
    """A step, the third one without its update."""
    before = {name: value.clone() for name, value in run.modules.state_dict().items()}
    take(run)
    if run.step == 3:
        run.modules.load_state_dict(before)


@pytest.mark.parametrize("part", [gpu.check_half, gpu.check_float32, gpu.check_resume])
def test_comparisons_notice_a_lost_update(home, monkeypatch, part):
    """In the first run of each pair, which is the one on the GPU."""
    runs, take = [], Pretraining.take_step

    def take_step(run):
        if run not in runs:
            runs.append(run)
        loses_an_update(run, take) if runs.index(run) % 2 == 0 else take(run)

    monkeypatch.setattr(Pretraining, "take_step", take_step)
    found = [dataclasses.replace(check, bound=min(check.bound, 2e-3)) for check in checks_of(part, home)]
    assert found and not any(check.passed for check in found), [str(check) for check in found]


def test_wrong_draws_and_wrong_heads_are_noticed(home, monkeypatch):
    subsets, seen = gpu.DeviceSampler.keep, []
    monkeypatch.setattr(
        gpu.DeviceSampler, "keep", lambda self, *a: subsets(self, *a).roll(len(seen.append(1) or seen), 1)
    )
    (check,) = checks_of(gpu.check_draws, home)
    assert check.found > 0 and not check.passed
    step, count = heads._Stack.step, []

    def drifts(stack, *arguments):
        step(stack, *arguments)
        count.append(1)
        next(iter(stack.parameters.values())).add_(1e-5 * (len(count) % 7))

    monkeypatch.setattr(heads._Stack, "step", drifts)
    assert not all(check.passed for check in checks_of(gpu.check_heads, home))


def test_without_a_gpu_one_line_says_so(home, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = CliRunner().invoke(main, ["bench", "--gpu"])
    assert done.exit_code == 1 and done.stderr.count("\n") == 1 and "no CUDA GPU" in done.stderr
    assert not (home / "gpu.json").exists()
    assert CliRunner().invoke(main, ["bench", "--gpu", "heads"]).exit_code == 2


@pytest.mark.parametrize("value, status", [(0.0, 0), (1.0, 1)])
def test_the_command_prints_the_table_and_its_status_is_that_of_the_checks(home, monkeypatch, value, status):
    only(monkeypatch, one=(lambda bench: iter([gpu.Check("sum", value, 0.5), GOALS["rate"].row([9.0])]), ("rate",)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    real = gpu.run
    monkeypatch.setattr(gpu, "run", lambda device, **options: real(CPU, **options))
    out = home / "other.json"
    done = CliRunner().invoke(main, ["bench", "--gpu", "--size", "tiny", "--out", str(out)])
    assert done.exit_code == status, done.output
    assert "9 1/s" in done.stdout and "100,000 1/s" in done.stdout and "not run" in done.stdout
    assert f"{1 - status} of 1 checks passed" in done.stdout and read_json(out)["checks"][0]["found"] == value
    assert np.isfinite(read_json(out)["seconds"]) and not (home / "gpu.json").exists()
    unfinished = CliRunner().invoke(main, ["bench", "--gpu", "--size", "tiny", "--budget", "0"])
    assert unfinished.exit_code == 3 and "not run: 0 s were over" in unfinished.stdout
    assert (home / "gpu.json").exists()
