"""Ctrl-C at the worst moments ends everything in one line."""

import os
import signal
import subprocess
import sys
import time

import pytest

from keymyna_lib.base import interrupts, paths

ONE_LINE = "\nstopped: what is finished is kept; run again to go on\n"
HEAD = """
import os, signal, sys, threading, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)
from keymyna_lib.__main__ import _one_message
from keymyna_lib.base import interrupts
import click
"""
TAIL = """
with _one_message():
    interrupts.apart(work)
"""


def run(code):
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", HEAD + code + "\ntry:" + TAIL.replace("\n", "\n    ") + "\n"
         "except click.exceptions.Exit as end:\n    sys.exit(end.exit_code)"],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def gone(pid):
    """Whether a process has ended; a zombie that nobody reaps has."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_one_that_comes_in_a_destructor_is_neither_lost_nor_shown():
    """Python would print it as an exception that it ignores, and go on."""
    code = """
class Resource:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass
def work():
    Resource()
    time.sleep(300)
"""
    ended = run(code)
    assert ended.communicate(timeout=600)[1] == ONE_LINE and ended.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_kernel_at_work_and_its_own_processes_end_with_the_runner(tmp_path, number):
    notebook = (
        '{"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": null, "source": '
        "\"import os, subprocess, time\\nchild = subprocess.Popen(['sleep', '300'])\\n"
        "open('pids.new', 'w').write(f'{os.getpid()} {child.pid}')\\nos.rename('pids.new', 'pids')\\n"
        'time.sleep(300)"}], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
    )
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "00_x.ipynb").write_text(notebook)
    running = run(f"""
signal.signal(signal.SIGTERM, signal.default_int_handler)
def work():
    from keymyna_lib.run import execute
    from keymyna_lib.run.project import Project
    from keymyna_lib.run.live import Screen
    bars = Screen(sys.stderr, print, moves=False).bars("00_x")
    project = Project(Path({str(tmp_path)!r}), Path({str(tmp_path)!r}) / "cache")
    execute.execute(project, "smoke", "00_x", {{}}, {{}}, bars)
""")
    pids = tmp_path / "pids"
    while not pids.exists() and running.poll() is None:
        time.sleep(0.05)
    os.kill(running.pid, number)
    assert running.communicate(timeout=600)[1] == ONE_LINE and running.returncode == 130
    assert all(gone(pid) for pid in pids.read_text().split())


def test_what_the_work_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        interrupts.apart(lambda: 1 / 0)
