"""What all executors have in common: the progress bar, and an end when the caller stops asking."""

import functools
import pickle

from keymyna_lib.compute.executor import Executor, call


class Backwards(Executor):
    """Does the last task first, in this process."""

    here = True

    def __init__(self):
        self.begun, self.closed = [], False

    def _results(self, function, tasks, desc, ordered):
        try:
            for i in reversed(range(len(tasks))):
                self.begun.append(i)
                yield i, function(*tasks[i])
        finally:
            self.closed = True


def test_the_bar_counts_what_tasks_are_made_of(capsys):
    results = Backwards().map(abs, [(-2,), (3,)], desc="absolute", unit="row", sizes=[4, 6])
    assert next(results) == (1, 3)
    assert next(results) == (0, 2)
    shown = capsys.readouterr().err  # it is whole though the caller has not come back after the last result
    assert "absolute: 100%" in shown and "10/10" in shown and "row/s" in shown and shown.endswith("\n")
    assert list(results) == [] and capsys.readouterr().err == ""


def test_what_is_not_asked_for_is_not_done():
    executor = Backwards()
    results = executor.map(abs, [(-1,)] * 3, desc="", show=False)
    assert next(results) == (2, 1)
    results.close()
    assert executor.begun == [2] and executor.closed


class Shared:
    """Counts how often it is unpickled."""

    opened = 0

    def __reduce__(self):
        return opened, ()


def opened():
    Shared.opened += 1
    return Shared()


def second(shared, number):
    return number


def test_a_worker_unpickles_a_function_once():
    sent = pickle.dumps(functools.partial(second, Shared()))
    assert [call(sent, i) for i in range(5)] == list(range(5)) and Shared.opened == 1
