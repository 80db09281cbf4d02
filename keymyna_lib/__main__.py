"""The command `keymyna`, also `python -m keymyna_lib`: one sub-command for each thing that is started from a shell.

Each sub-command imports what it needs when it runs, so that help and a run that skips everything start at once.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from keymyna_lib import __version__
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.terminal import Notes, echo, plain
from keymyna_lib.bench.sizes import SIZES, SUBJECTS

_COMMITTED = "the committed tables"  # what --verify compares with unless it names a folder
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS}


class _Commands(click.Group):
    """Ends whatever stops a sub-command, or the help, in one message and a status."""

    def make_context(self, *arguments: Any, **options: Any) -> click.Context:
        with _one_message():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_message():
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
        return
    except KeyMynaError as error:
        status, message = 1, f"error: {error}"
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "keymyna_lib":
            raise
        status = 1
        message = (
            f"error: {error.name} is not installed. All that the notebooks need: pip install '.[notebooks]' in a "
            "clone, or ./run_all.sh."
        )
    except KeyboardInterrupt as interrupt:
        status, message = 130, f"\nstopped: {str(interrupt) or 'interrupted'}"
    except BrokenPipeError:  # the reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(141) from None
    except OSError as error:
        if error.errno not in _CANNOT_WRITE:
            raise
        where = f" {error.filename}" if error.filename else ""
        status = 1
        message = (
            f"error: cannot write{where}: {error.strerror}. Free some space or correct its permissions and run again."
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":  # under torchrun, once on each machine
        click.echo(message, err=True)
    raise click.exceptions.Exit(status)


class _RunContext(click.Context):
    command_path = "./run_all.sh"  # what users of a clone type, in help and in hints


class _Run(click.Command):
    context_class = _RunContext

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Everything after --tests is pytest's, even what looks like an option of ours."""
        cut = args.index("--tests") + 1 if "--tests" in args else len(args)
        super().parse_args(ctx, args[:cut])
        ctx.args += args[cut:]
        return ctx.args


_profile = click.option(
    "--profile",
    type=click.Choice(paths.PROFILES),
    default="mini",
    show_default=True,
    help="Scale of everything, from toy size to the paper's.",
)
_overrides = click.option(
    "-p",
    "overrides",
    nargs=2,
    type=str,
    multiple=True,
    metavar="NAME VALUE",
    help="Set a parameter in every notebook that declares it (repeatable).",
)


@click.group(
    cls=_Commands,
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)
@click.version_option(__version__, prog_name="keymyna")
def main() -> None:
    """KeyMyna, reproduced: masked contrastive pre-training for music audio key detection.

    \b
    Exit status: 0, or 1 for a failure, 2 for a wrong option, 130 after Ctrl-C.
    """


@main.command(cls=_Run, short_help="Run the notebooks, or the tests.")
@_profile
@click.option(
    "--data-root",
    metavar="DIR",
    help="Folder with data sets of recordings, in place of the synthetic corpus (notebook 05).",
)
@click.option("--offline", is_flag=True, help="Never touch the network; what is missing stays missing.")
@click.option(
    "--only",
    metavar="N",
    multiple=True,
    help="Run notebook number N and, where not up to date, what it needs (repeatable).",
)
@click.option("--from", "start", metavar="N", help="Run notebook N and all of higher number.")
@click.option("--force", is_flag=True, help="Run them even if nothing has changed.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="Notebooks at a time, usually 2.")
@_overrides
@click.option(
    "--verify",
    is_flag=False,
    flag_value=_COMMITTED,
    metavar="[DIR]",
    help="Compare with the committed tables or DIR's.",
)
@click.option("--publish", is_flag=True, help="Then replace the committed results.")
@click.option("--list", "listed", is_flag=True, help="List notebooks and parameters, and stop.")
@click.option("--tests", is_flag=True, help="Run the test suite instead; the rest of the line goes to pytest.")
@click.pass_context
def run(
    ctx: click.Context,
    profile: str,
    data_root: str | None,
    offline: bool,
    only: tuple[str, ...],
    start: str | None,
    force: bool,
    jobs: int | None,
    overrides: tuple[tuple[str, str], ...],
    verify: str | None,
    publish: bool,
    listed: bool,
    tests: bool,
) -> None:
    """Run the notebooks that are not up to date. Results, and a report, go to local/results/<profile>.

    --publish replaces the committed ones, after --verify only if they agree. A value for -p is an int, float, string,
    true, false, or a list such as 48,150.

    \b
    Examples:
      ./run_all.sh                           every notebook, on 2 cores in a quarter of an hour
      ./run_all.sh --profile smoke           the same at toy size, in a few minutes
      ./run_all.sh --list                    notebooks, parameters and their values
      ./run_all.sh --only 20 -p seeds 5,6    notebook 20 and what it needs, with other seeds
      ./run_all.sh --from 20 --force         20 and all of higher number, even if unchanged
      ./run_all.sh --profile paper --data-root ~/music   the paper's data sets found in that folder
      ./run_all.sh --verify                  everything, then compared with the committed tables
      ./run_all.sh --tests -k keys           the tests that match
    """
    if only and start is not None:
        raise click.UsageError("--only and --from exclude each other.")
    if verify not in (None, _COMMITTED) and not Path(verify).is_dir():
        raise KeyMynaError(f"--verify {verify!r} is not a folder.")
    from keymyna_lib.base import interrupts
    from keymyna_lib.run import pipeline, warmup
    from keymyna_lib.run.project import Project

    given = list(overrides)
    with_recordings = data_root not in (None, "none")
    if with_recordings:
        if not (data_root and paths.expanded(data_root).is_dir()):
            raise KeyMynaError(f"--data-root {data_root!r} is not a folder.")
        given.append(("data_root", str(paths.expanded(data_root).resolve())))
    if offline:
        given.append(("offline", "true"))
        os.environ["HF_HUB_OFFLINE"] = "1"  # the model hub's own switch, for weights and other encoders
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill is a Ctrl-C: kernels are shut down
    if tests:
        warmup.compile_librosa()
        _become_pytest(ctx.args)
    elif listed:
        click.echo(pipeline.describe(Project(), profile))
    else:
        # Threads that spin while they wait make two busy programs on few cores crawl; alone it costs nothing.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if data_root is None and pipeline.on_recordings(Project(), profile):
            raise KeyMynaError(
                f"the results of profile {profile} are those of recordings. Give --data-root DIR "
                "again, or --data-root none to train on the synthetic corpus in their place."
            )

        def work() -> None:
            warmup.compile_librosa()
            ran = pipeline.run(
                Project(), profile, only=list(only), start=start, force=force, overrides=given, jobs=jobs
            )
            try:
                agrees = verify is None or _verify(profile, verify)
            finally:
                _write_page(profile)
            if not agrees:
                raise click.exceptions.Exit(1)
            if publish:
                _publish(profile, ran)
            elif verify is None:
                click.echo(
                    "Not compared with the committed tables: --verify does so. Not published: --publish does so."
                )
            else:
                click.echo("Not published: --publish puts these results in place of the committed ones.")

        interrupts.apart(work)


def _write_page(profile: str, *, committed: bool = False) -> None:
    from keymyna_lib.run import page
    from keymyna_lib.run.project import Project

    project = Project()
    path = page.write(project, profile, project.root if committed else project.made)
    click.echo(f"Report: {project.show(path)}")


def _publish(profile: str, notebooks: list[str]) -> None:
    """Replace committed results by those made here, and say what to do next."""
    from keymyna_lib.run import publish
    from keymyna_lib.run.project import Project

    if kept := publish.publish(Project(), profile, notebooks):
        click.echo(f"Earlier results stay of: {', '.join(kept)}")
    click.echo(f"Published: results/{profile}/ and figures/{profile}/. Then: keymyna docs, and commit.")


def _verify(profile: str, against: str) -> bool:
    """Compare the tables made here with those committed or given; whether they agree."""
    from keymyna_lib.run import verify
    from keymyna_lib.run.project import Project

    project = Project()
    found = verify.verify(project, profile, None if against == _COMMITTED else Path(against))
    click.echo(verify.text(found))
    click.echo(f"Written to {project.show(verify.write(project, profile, found))}")
    return found.agrees


def _become_pytest(arguments: list[str]) -> None:
    """Replace this process by pytest: a worker more than cores, at most five, with one thread each."""
    os.chdir(paths.ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    workers = str(min(len(os.sched_getaffinity(0)), 4) + 1)  # a third of their time they wait for other processes
    # In the order that conftest.py gives them: the files with the most tests are not those that take longest.
    options = ["-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *options, *arguments])


@main.command(short_help="Write a profile's report, one page.")
@_profile
@click.option("--committed", is_flag=True, help="Of the committed results, not of those made here.")
def report(profile: str, committed: bool) -> None:
    """Write report.html, beside a profile's results and from them: summary, figures, tables, conclusions, what ran.

    Every run does this at its end. The page needs no network and nothing beside it; its links lead to the traces.

    \b
    Examples:
      keymyna report --profile mini-full
      keymyna report --committed             after a change of captions
    """
    _write_page(profile, committed=committed)


@main.command(short_help="Pre-train on several processes, under torchrun.")
@_profile
@_overrides
def pretrain(profile: str, overrides: tuple[tuple[str, str], ...]) -> None:
    """Pre-train as notebook 10 would, on as many processes as torchrun starts.

    The corpus must be there already, and the notebook then only records the training. Whichever of the two stopped
    halfway, the other resumes from its checkpoint, on any number of processes.

    \b
    Example:
      ./run_all.sh --profile paper --only 00 --only 05 -p steps 200000
      torchrun --nproc-per-node 8 -m keymyna_lib pretrain --profile paper -p steps 200000
      ./run_all.sh --profile paper -p steps 200000
    """
    from keymyna_lib.run import torchrun

    torchrun.train(profile, list(overrides))


@main.command(short_help="Pack a profile for a machine that has torch and little else.")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.tar.gz")
@_profile
@_overrides
@click.option(
    "--python",
    default=f"{sys.version_info[0]}.{sys.version_info[1]}",
    show_default=True,
    metavar="VERSION",
    help="Python of the other machine.",
)
@click.option(
    "--there",
    multiple=True,
    metavar="NAME",
    help="A package that it has besides torch, numpy, pandas, scikit-learn and matplotlib (repeatable).",
)
def bundle(
    out: Path, profile: str, overrides: tuple[tuple[str, str], ...], python: str, there: tuple[str, ...]
) -> None:
    """Pack code, parsed scores and the packages that another machine (Linux, x86-64) lacks into OUT.tar.gz.

    There, `python run.py` in the unpacked folder runs the notebooks, all of them or in the order given, goes on where
    it stopped when it is started again, and packs the results; `keymyna unbundle` brings them back. It renders the
    synthetic corpus itself and needs no network. Commit first: results name the commit.

    \b
    Example:
      keymyna bundle gpu.tar.gz --profile gpu --python 3.12 --there numba --there llvmlite
      (there)  tar xf gpu.tar.gz && python3 keymyna/run.py 50 60
      keymyna unbundle results.tar.gz
    """
    from keymyna_lib.run import bundle as bundles
    from keymyna_lib.run.project import Project

    made = bundles.write(Project(), profile, out, overrides=overrides, python=python, there=there)
    dirty = ", with uncommitted changes" if made["dirty"] else ""
    click.echo(f"{out}: {out.stat().st_size / 1e6:.0f} MB, profile {profile}, commit {made['commit']}{dirty}")
    click.echo(f"packages: {', '.join(made['packages'])}")


@main.command(short_help="Bring back the results of a bundle.")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RESULTS...")
def unbundle(results: tuple[Path, ...]) -> None:
    """Bring the results of a bundle back: the archive that its run.py wrote, or its parts in order.

    They are checked first, and refused if they were made by another version of the code. Afterwards the runner counts
    their notebooks as up to date, tables and figures included.

    \b
    Example:
      keymyna unbundle results.tar.gz
    """
    from keymyna_lib.run import bundle as bundles
    from keymyna_lib.run.project import Project

    found = bundles.bring_back(Project(), results)
    _write_page(found["profile"])
    click.echo(f"profile {found['profile']}, from {found['origin']['device']}: {', '.join(found['notebooks'])}")


@main.command(short_help="Measure how fast the library is here.")
@click.argument("subjects", nargs=-1, type=click.Choice(SUBJECTS), metavar="[SUBJECT]...")
@click.option("--gpu", is_flag=True, help="Instead: check and measure pre-training on the GPU, in under four minutes.")
@click.option(
    "--budget",
    type=float,
    default=1800.0,
    show_default=True,
    metavar="SECONDS",
    help="Time for all of it, about; each case takes at least three rounds. With --gpu: 230, and nothing begins later.",
)
@click.option("--size", type=click.Choice(list(SIZES)), default="full", show_default=True, help="tiny is for tests.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default="bench.json",
    show_default=True,
    help="Where the measurements go, as JSON. With --gpu: results/gpu.json, which is committed.",
)
@click.pass_context
def bench(ctx: click.Context, subjects: tuple[str, ...], gpu: bool, budget: float, size: str, out: Path) -> None:
    """Measure how fast the library is on this machine, print a table and write JSON.

    SUBJECT is one of step, data, embedding, heads, song and growth; all of them by default.

    With --gpu, whether the GPU computes what the CPU computes, and how fast pre-training, embedding and heads are there
    beside their goals. The exit status is 1 when a comparison or a part fails, 3 when none does but parts did not
    begin for lack of time; a goal that is missed does not change it.

    \b
    Examples:
      keymyna bench                          everything, in about half an hour
      keymyna bench heads data --budget 300 --out speed.json
      keymyna bench --gpu                    on a machine with a GPU
    """
    if gpu:
        if subjects:
            raise click.UsageError("--gpu measures what it measures: leave out the subjects.")
        ctx.exit(_bench_gpu(size, **{name: ctx.params[name] for name in ("budget", "out") if _given(ctx, name)}))
    from keymyna_lib.bench import report

    found = report.measure_all(subjects or SUBJECTS, size=size, budget=budget)
    report.write(found, out)
    click.echo(report.text(found))


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT


def _bench_gpu(size: str, **given: Any) -> int:
    """Status of `bench --gpu`; `given` is what was given of budget and out."""
    import torch

    if not torch.cuda.is_available():
        raise KeyMynaError("this machine shows no CUDA GPU; run keymyna bench --gpu where there is one.")
    from keymyna_lib.bench import goals
    from keymyna_lib.bench import gpu as on_gpu

    found = on_gpu.run(torch.device("cuda"), size=size, **{"out": goals.stored_at(), **given}, say=click.echo)
    click.echo(on_gpu.text(found))
    if not found.passed:
        return 1
    return 3 if found.not_begun else 0


@main.command(short_help="Print the key of sound files.")
@click.argument("files", nargs=-1, required=True, metavar="FILE_OR_FOLDER...")
@click.option("--model", default="", metavar="M", help="Model file, run, or encoder; by default the package's model.")
@click.option("--head", default="", metavar="FILE", help="Head to go with an encoder, ours or official weights.")
@click.option("--patch", metavar="P", help="Patches of official weights, if they fit several.")
@click.option("--notation", type=click.Choice(["key", "camelot", "openkey"]), help="The only one shown, or written.")
@click.option("--json", "as_json", is_flag=True, help="Print an array of objects, errors included.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, errors included.")
@click.option("--segments", is_flag=True, help="Show the key over time too, under each file; not with --csv.")
@click.option("--write-tags", is_flag=True, help="Write keys into the files' tags: F#m, or as --notation says.")
@click.option("--dry-run", is_flag=True, help="With --write-tags: only show what would be written.")
@click.option("--jobs", type=click.IntRange(1), metavar="N", help="Files at a time.  [default: one per core]")
@click.option("--device", type=click.Choice(["cpu", "cuda", "auto"]), default="cpu", show_default=True)
@click.pass_context
def predict(
    ctx: click.Context,
    files: tuple[str, ...],
    model: str,
    head: str,
    patch: str | None,
    notation: str | None,
    as_json: bool,
    as_csv: bool,
    segments: bool,
    write_tags: bool,
    dry_run: bool,
    jobs: int | None,
    device: str,
) -> None:
    """Print the key of sound files (wav, flac, ogg, mp3; with the package av, m4a and more) and of all in folders.

    Shown are the key, its probability, the runner-up, the tuning in cents from A at 440 Hz, and the file's own tag. A
    file that cannot be read is reported, the others are still done, and the exit status is 1.

    \b
    Examples:
      keymyna predict --model model.safetensors song.mp3
      keymyna predict --model model.safetensors --write-tags --notation camelot ~/music
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    if segments and as_csv:
        raise click.UsageError("--segments has no place in --csv: take --json.")
    if dry_run and not write_tags:
        raise click.UsageError("--dry-run goes with --write-tags.")
    from keymyna_lib.tool.session import predict_files

    logging.basicConfig(handlers=[Notes()])
    ctx.exit(
        predict_files(
            files,
            model=(model, head, patch),
            shown="json" if as_json else "csv" if as_csv else "table",
            notation=notation or "",
            tagging=(notation or "key") if write_tags else "",
            dry_run=dry_run,
            jobs=jobs,
            device=device,
            segments=segments,
        )
    )


@main.command("make-model", short_help="Make the key model anew.")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--recipe", "name", type=click.Choice(["default", "toy"]), default="default", show_default=True)
@click.option("--front-end", type=click.Choice(["mel", "log-frequency"]), default="mel", show_default=True)
@click.option(
    "--data-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Pre-train on its unlabelled recordings too, see notebook 05.",
)
@click.option(
    "--compared-on",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Compare the model with itself on the unlabelled recordings of this data root, instead of --data-root's.",
)
@click.option(
    "--real",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Score on the labelled mel spectrograms in this folder too.",
)
@click.option("--held-out", metavar="S", help="Score on songs played by this SoundFont too, FluidR3 for instance.")
@click.option("--device", default="auto", show_default=True, metavar="D", help="auto, cpu or cuda.")
def make_model(
    out: Path,
    name: str,
    front_end: str,
    data_root: Path | None,
    compared_on: Path | None,
    real: Path | None,
    held_out: str | None,
    device: str,
) -> None:
    """Make a key model and write it to FILE: build the corpus, pre-train the encoder, train the heads, score it.

    What it scores is printed, and written beside FILE as JSON. All that was done before, in this or another run, is
    taken from the cache; stopped with Ctrl-C, it goes on where it was.

    \b
    Example:
      keymyna make-model model.safetensors
    """
    from keymyna_lib.corpus.corpus import Corpus
    from keymyna_lib.corpus.recordings import tasks
    from keymyna_lib.corpus.recordings.folder import unlabelled_folders
    from keymyna_lib.experiments import recipe
    from keymyna_lib.report import provenance

    def unlabelled(root: Path | None) -> Corpus | None:
        if root is None:
            return None
        sets = [tasks.dataset(one) for one in unlabelled_folders(root)]
        return tasks.unlabelled_corpus(sets, root, front_end=front_end)[0]

    recordings = unlabelled(data_root)
    wanted = recipe.RECIPES[name](front_end)
    made = recipe.make(wanted, recordings=recordings, device=device, name=name)
    made.model.save(out, stored="float16")
    others = {f"songs on {held_out}": recipe.held_out(wanted, held_out)} if held_out else {}
    compared = unlabelled(compared_on) or recordings
    table = recipe.report(made, others=others, unlabelled=compared, real=real)
    folders = {"--data-root": data_root, "--compared-on": compared_on, "--real": real}
    command = ["keymyna make-model FILE", f"--recipe {name} --front-end {front_end}"]
    command += [f"{option} DIR" for option, folder in folders.items() if folder]
    command += [f"--held-out {held_out}"] if held_out else []
    recipe.write_card(table, out, command=" ".join(command), provenance=provenance.environment())
    click.echo(table.round(3).to_string(index=False))


@main.command(short_help="Score lists of keys against a data set's labels.")
@click.argument("task", metavar="TASK")
@click.argument("lists", nargs=-1, required=True, metavar="LIST...")
@click.option("--data-root", required=True, metavar="DIR", help="Folder with the data sets; their annotations suffice.")
@click.pass_context
def score(ctx: click.Context, task: str, lists: tuple[str, ...], data_root: str) -> None:
    """Score each LIST, a table with the columns track (or file) and key, on TASK's test tracks.

    TASK is a task or a data set of notebook 05. Printed are tracks, MIREX weighted score with both fifths, its 95 %
    interval, the score with ascending fifths alone, accuracy, and answers without a key, which score 0. A list that
    cannot be scored is reported, the others are still done, and the exit status is 1.

    \b
    Example:
      keymyna score giantsteps madmom.csv --data-root ~/music
    """
    from keymyna_lib.corpus.recordings import tasks
    from keymyna_lib.evaluate import NO_KEY, bootstrap_interval, summary
    from keymyna_lib.experiments import scoring

    def say(note: str) -> None:
        echo(plain(note), err=True)

    labels, absent = tasks.labels(task, paths.expanded(data_root))
    for name, why in absent.items():
        say(f"without {name}: {why}")
    test, status = list(labels.index[labels["split"] == "test"]), 0
    click.echo("list\ttracks\tweighted_both\tlow\thigh\tweighted_ascending\taccuracy\tno_key")
    for file in lists:
        try:
            table = scoring.score_list(Path(file), labels, test, say=say)
        except KeyMynaError as error:
            echo(plain(f"error: {error}"), err=True)
            status = 1
            continue
        metrics = summary(table["reference"].to_numpy(), table["estimate"].to_numpy())
        low, high = bootstrap_interval(table["score"], groups=table["composition"], seed=0)
        values = (metrics["weighted_both"], low, high, metrics["weighted_ascending"], metrics["accuracy"])
        none = int((table["estimate"] == NO_KEY).sum())
        echo("\t".join([plain(file), str(len(table)), *(f"{value:.4f}" for value in values), str(none)]))
    ctx.exit(status)


@main.command(short_help="Write the committed results into README and docs, and links into notebooks.")
def docs() -> None:
    """Write the results into the places that README and docs mark for them, see keymyna_lib/report/pages.py.

    The notebooks get their first and last lines, see keymyna_lib/report/navigation.py.

    Nothing is written when a mark names no result, or a number looks like a result and has no mark.

    \b
    Example:
      keymyna docs
    """
    from keymyna_lib.report import navigation, pages

    if not (paths.ROOT / "README.md").is_file():
        raise KeyMynaError("keymyna docs belongs to a clone: this is an installed package.")
    changed = [
        str(page.relative_to(paths.ROOT)) for page in (*pages.rewrite(paths.ROOT), *navigation.rewrite(paths.ROOT))
    ]
    click.echo(f"rewritten: {', '.join(changed)}" if changed else "every page says what the results say")


if __name__ == "__main__":
    main()
