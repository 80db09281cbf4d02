"""A copy of this clone to run notebooks in."""

import os
import shutil
import subprocess
import sys

from keymyna_lib.base import paths
from keymyna_lib.run import warmup

COPIED = ("keymyna_lib", "notebooks", "requirements.lock", "pyproject.toml")


FORKED = paths.ROOT / "tests" / "forked_kernels.py"


def run_in(clone, *arguments, profile="smoke", forked=True):
    """The runner in the copy, with a cache of its own; its kernels are forked, see `forked_kernels`, or started."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(clone),
        "KEYMYNA_CACHE": str(clone / ".cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [FORKED] if forked else ["-m", "keymyna_lib", "run"]
    done = subprocess.run(
        [sys.executable, *command, "--profile", profile, *arguments],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3600,  # a guard against what hangs; a busy machine may need half an hour
    )
    return done.returncode, done.stdout + done.stderr


def copy_of_the_sources(folder):
    """What a run needs, the parsed scores, which take two minutes to parse, and the note that librosa is compiled."""
    for name in COPIED:
        source = paths.ROOT / name
        if source.is_dir():
            # Compiled modules stay valid, as their sources keep their times; others may be writing some just now.
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy(source, folder / name)
    warmup.compile_librosa()
    for known in ("scores", "compiled"):
        shutil.copytree(paths.CACHE / known, folder / ".cache" / known)
    return folder
