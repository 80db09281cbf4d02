"""Tasks side by side: order, waiting, one alone, failures, and an end that waits for nobody."""

import random
import subprocess
import sys
import threading

import pytest

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.run import schedule
from keymyna_lib.run.schedule import Task, work_off

WAIT = 60.0  # s; a test that is right never waits so long


class Log:
    """What has begun and ended, in order, and tasks that end when they are told to."""

    def __init__(self, *held):
        self.events, self.threads = [], set()
        self.may_end = {name: threading.Event() for name in held}
        self.has_begun = {name: threading.Event() for name in held}

    def begin(self, name):
        def work():
            self.threads.add(threading.current_thread())
            if name in self.may_end:
                self.has_begun[name].set()
                assert self.may_end[name].wait(WAIT)
            self.events.append(f"-{name}")

        self.events.append(f"+{name}")
        return work


def together(*names):
    """Tasks that end only when all of them have begun."""
    barrier = threading.Barrier(len(names))

    def begin(name):
        return lambda: barrier.wait(WAIT) if name in names else None

    return begin


def test_one_at_a_time_goes_by_the_order_in_the_callers_thread():
    log = Log()
    work_off([Task("a"), Task("c", ["a"]), Task("b", alone=True), Task("d", ["a", "c"])], log.begin, 1)
    assert log.events == ["+a", "-a", "+c", "-c", "+b", "-b", "+d", "-d"]
    assert log.threads == {threading.current_thread()}


def test_two_that_do_not_wait_for_each_other_run_at_once():
    work_off([Task("a"), Task("b", ["a"]), Task("c", ["a"])], together("b", "c"), 2)
    with pytest.raises(threading.BrokenBarrierError):  # which one at a time never would
        barrier = threading.Barrier(2)
        work_off([Task("b"), Task("c")], lambda name: lambda: barrier.wait(0.1), 1)


def test_of_those_that_may_begin_the_first_in_order_does():
    log = Log("a", "b")
    tasks = [Task("a"), Task("b"), Task("c", ["a"]), Task("d"), Task("e", ["b"])]

    def end():
        for name in ("b", "a"):
            assert log.has_begun[name].wait(WAIT)
            log.may_end[name].set()

    threading.Thread(target=end).start()
    work_off(tasks, log.begin, 2)
    assert log.events[:2] == ["+a", "+b"]
    assert log.events.index("+c") > log.events.index("-a") and log.events.index("+e") > log.events.index("-b")


def test_a_task_waits_only_for_those_that_are_to_be_done():
    log = Log()
    work_off([Task("b", ["a"])], log.begin, 2)
    assert log.events == ["+b", "-b"]


def test_what_has_nothing_left_to_do_holds_nobody_back():
    done = []
    work_off([Task("a"), Task("b", ["a"])], done.append, 2)
    assert done == ["a", "b"]


@pytest.mark.parametrize("seed", range(20))
def test_any_graph_is_worked_off_as_it_demands(seed):
    """Brute force: at every moment, what runs, what it waits for, and how many there are."""
    draw = random.Random(seed)
    names = [f"t{i}" for i in range(12)]
    tasks = [
        Task(name, draw.sample(names[:i], min(i, draw.randint(0, 2))), alone=draw.random() < 0.15)
        for i, name in enumerate(names)
    ]
    by_name, lock, working, done, most = {task.name: task for task in tasks}, threading.Lock(), set(), [], 3

    def begin(name):
        with lock:
            assert set(by_name[name].after) <= set(done)
            working.add(name)
            assert len(working) <= most and (len(working) == 1 or not any(by_name[one].alone for one in working))
        pause = threading.Event()

        def work():
            pause.wait(draw.random() * 0.003)
            with lock:
                working.remove(name)
                done.append(name)

        return work

    work_off(tasks, begin, most)
    assert sorted(done) == sorted(names)


def test_after_a_failure_none_begins_and_those_at_work_end(monkeypatch):
    monkeypatch.setattr(schedule, "SOON", 0.0)
    log, said = Log("b"), []

    def begin(name):
        work = log.begin(name)

        def fail():
            assert log.has_begun["b"].wait(WAIT)
            raise KeyMynaError("a is broken")

        return fail if name == "a" else work

    def say(line):
        said.append(line)
        log.may_end["b"].set()

    with pytest.raises(KeyMynaError, match="^a is broken$"):
        work_off([Task("a"), Task("b"), Task("c")], begin, 2, say)
    assert log.events == ["+a", "+b", "-b"]
    assert said == ["A notebook has failed, and no other begins. Still at work: b."]


def test_all_that_fail_are_named():
    barrier = threading.Barrier(2)

    def begin(name):
        def fail():
            barrier.wait(WAIT)
            raise KeyMynaError(f"{name} is broken")

        return fail

    with pytest.raises(KeyMynaError) as caught:
        work_off([Task("a"), Task("b")], begin, 2)
    assert sorted(str(caught.value).splitlines()) == ["a is broken", "b is broken"]


def test_a_fault_of_another_kind_is_raised_as_it_is():
    def begin(name):
        return lambda: 1 / 0

    with pytest.raises(ZeroDivisionError):
        work_off([Task("a"), Task("b")], begin, 2)


def test_what_is_refused_before_it_begins_lets_the_others_end():
    log = Log()

    def begin(name):
        if name == "b":
            raise KeyMynaError("no such value")
        return log.begin(name)

    with pytest.raises(KeyMynaError, match="no such value"):
        work_off([Task("a"), Task("b"), Task("c")], begin, 2)
    assert log.events == ["+a", "-a"]


def test_as_many_as_suit_the_machine_are_two_or_one(monkeypatch):
    torch = pytest.importorskip("torch")
    for cores, gpu, jobs in ((1, False, 1), (2, False, 2), (64, False, 2), (64, True, 1)):
        monkeypatch.setattr(schedule.os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert schedule.usual_jobs() == jobs
    monkeypatch.setattr(schedule, "usual_jobs", lambda: 2)
    work_off([Task("a"), Task("b")], together("a", "b"), None)


def test_a_process_can_end_while_tasks_are_at_work():
    """As it does on Ctrl-C, when it waits for the tasks in another thread."""
    code = """
import threading, time
from keymyna_lib.run.schedule import Task, work_off
at_work = threading.Barrier(3)
def begin(name):
    return lambda: (at_work.wait(60), time.sleep(600))
threading.Thread(target=work_off, args=([Task("a"), Task("b")], begin, 2), daemon=True).start()
at_work.wait(60)
"""
    subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, check=True, timeout=300)
