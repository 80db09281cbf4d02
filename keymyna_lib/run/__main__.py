"""Command line of the runner; `run_all.sh` hands over to it."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
from pathlib import Path

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.run import pipeline, warmup
from keymyna_lib.run.project import Project

EXAMPLES = """
examples:
  ./run_all.sh                           every notebook in order, on 2 cores within half an hour
  ./run_all.sh --profile smoke           the same at toy size, in a few minutes
  ./run_all.sh --list                    notebooks, parameters and their values
  ./run_all.sh --only 20 -p seeds 5,6    notebook 20 and what it needs, with other seeds
  ./run_all.sh --from 20 --force         20 and all later ones, even if nothing has changed
  ./run_all.sh --profile paper --data-root ~/music   the paper's data sets, as far as they are in that folder
  ./run_all.sh --tests -k keys           the tests, or those that match; the rest of the line goes to pytest

A notebook whose parameters, code and inputs are those of its last success is skipped.
A value for -p is an int, float, string, true, false, or a list such as 48,150.
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="./run_all.sh",
        allow_abbrev=False,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Set up the environment, then run the notebooks in order. Results go to "
        "results/<profile>/ and figures/<profile>/.",
    )
    made.add_argument(
        "--profile",
        choices=paths.PROFILES,
        default="mini",
        help="size of it all: toy, small (the default), or the paper's",
    )
    made.add_argument(
        "--data-root",
        metavar="DIR",
        help="folder with data sets of recordings, see notebook 05; without it, or with none, rendered scores are used",
    )
    made.add_argument("--offline", action="store_true", help="never touch the network; what is missing stays missing")
    which = made.add_mutually_exclusive_group()
    which.add_argument(
        "--only",
        metavar="N",
        action="append",
        default=[],
        help="run notebook number N and, where not up to date, what it needs (repeatable)",
    )
    which.add_argument("--from", metavar="N", dest="start", help="run notebook number N and all later ones")
    made.add_argument("--force", action="store_true", help="run those asked for even if nothing has changed")
    made.add_argument(
        "-p",
        nargs=2,
        metavar=("NAME", "VALUE"),
        action="append",
        default=[],
        dest="overrides",
        help="set a parameter in every notebook that declares it (repeatable)",
    )
    made.add_argument("--list", action="store_true", help="list the notebooks and their parameters, and stop")
    made.add_argument("--tests", nargs=argparse.REMAINDER, metavar="...", help="run the test suite instead")
    return made


def run_tests(arguments: list[str]) -> None:
    """Replace this process by pytest: a worker a core, at most four, with one thread each."""
    warmup.compile_librosa()
    os.chdir(paths.ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = str(min(len(os.sched_getaffinity(0)), 4))
    # In the order that conftest.py gives them: the files with the most tests are not those that take longest.
    options = ["-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *options, *arguments])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; status 0, or 1 for a failure, 2 for a wrong option, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    overrides = [tuple(pair) for pair in options.overrides]
    with_recordings = options.data_root not in (None, "none")
    if with_recordings:
        overrides.append(("data_root", str(Path(options.data_root).expanduser().resolve())))
    if options.offline:
        overrides.append(("offline", "true"))
        os.environ["HF_HUB_OFFLINE"] = "1"  # the model hub's own switch, for weights and other encoders
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a Ctrl-C: kernels are shut down
    try:
        if with_recordings and not (options.data_root and Path(options.data_root).expanduser().is_dir()):
            raise KeyMynaError(f"--data-root {options.data_root!r} is not a folder.")
        if options.tests is not None:
            run_tests(options.tests)
        elif options.list:
            print(pipeline.describe(Project(), options.profile))
        else:
            # Threads that spin while they wait make two busy programs on few cores crawl; alone it costs nothing.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
            if options.data_root is None and pipeline.on_recordings(Project(), options.profile):
                raise KeyMynaError(
                    f"the results of profile {options.profile} are those of recordings. Give --data-root DIR "
                    "again, or --data-root none to train on rendered scores in their place."
                )
            warmup.compile_librosa()
            pipeline.run(
                Project(),
                options.profile,
                only=options.only,
                start=options.start,
                force=options.force,
                overrides=overrides,
            )
    except KeyMynaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\nstopped: {interrupt or 'interrupted'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}:
            raise
        print(
            f"error: cannot write{' ' + str(error.filename) if error.filename else ''}: {error.strerror}. "
            "Free some space or mend its permissions and run again.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
