"""Which notebooks run, in which order and how many at a time, and which can be skipped."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from keymyna_lib.base import files, hashing, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import publication
from keymyna_lib.run import parameters
from keymyna_lib.run.live import LiveBars, Screen
from keymyna_lib.run.project import Project
from keymyna_lib.run.schedule import Task, usual_jobs, work_off

if TYPE_CHECKING:
    from keymyna_lib.corpus.corpus import Corpus

OBJECTIVES, PITCH = "50_objectives", "55_pitch"
RENDERED, RECORDINGS = "00_data", "05_recordings"  # the notebooks that build a corpus; the second takes a data root
MOST_HASHED = 1 << 25  # bytes of a file that is read whenever the runner looks whether it has changed
WHERE = "scheduler"  # the parameter that says where to work, and not what: no result depends on it

Values = dict[str, dict[str, parameters.Value]]  # notebook -> name -> value
Execute = Callable[[Project, str, str, dict[str, Any], Mapping[str, str], LiveBars], None]  # as `execute.execute`


@dataclass(frozen=True)
class Notebook:
    """One step of the pipeline."""

    name: str  # "20_linear_probe"
    title: str
    needs: tuple[str, ...]  # notebooks whose published results it reads
    reads: tuple[str, ...]  # others whose results it reads where there are any; to run it does not start them
    after: tuple[str, ...]  # others whose work in the cache it takes up, and would do again if it ran beside them
    minutes: dict[str, float]  # profile -> expected time
    parameters: dict[str, parameters.Parameter]
    on_request: bool  # runs only when named
    alone: bool  # nothing runs beside it
    completes: str  # what is complete once it has run, and is said then
    only_drawn: tuple[str, ...]  # parameters that a figure shows and no number depends on

    @property
    def number(self) -> int:
        """The leading number."""
        return int(self.name.split("_")[0])

    @property
    def inputs(self) -> tuple[str, ...]:
        """The notebooks that it comes after and whose results its own depend on."""
        return self.needs + self.reads


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise KeyMynaError(f"cannot read {path}: {error}") from None


def load_notebooks(project: Project) -> dict[str, Notebook]:
    """All notebooks by name, in the order in which they run: that of `pipeline.toml`.

    Raises
    ------
    KeyMynaError
        When a notebook is not described, or is to come after one that does not come before it.
    """
    described = _read_toml(project.library / "run" / "pipeline.toml")
    order = {name: place for place, name in enumerate(described)}
    present = {path.stem: path for path in (project.root / "notebooks").glob("[0-9][0-9]_*.ipynb")}
    if unknown := sorted(present.keys() - order.keys()):
        raise KeyMynaError(f"{project.show(present[unknown[0]])} is not described in pipeline.toml.")
    found: dict[str, Notebook] = {}
    for path in sorted(present.values(), key=lambda path: order[path.stem]):
        entry = described[path.stem]
        earlier = *entry["needs"], *entry.get("reads", ()), *entry.get("after", ())
        absent = [each for each in earlier if each not in found]
        if absent:
            raise KeyMynaError(f"{path.stem} needs {', '.join(absent)}: no such notebook before it.")
        found[path.stem] = Notebook(
            path.stem,
            entry["title"],
            tuple(entry["needs"]),
            tuple(entry.get("reads", ())),
            tuple(entry.get("after", ())),
            entry["minutes"],
            parameters.declared(path),
            entry.get("on_request", False),
            entry.get("alone", False),
            entry.get("completes", ""),
            tuple(entry.get("only_drawn", ())),
        )
    if not found:
        raise KeyMynaError(f"there are no notebooks in {project.root / 'notebooks'}.")
    return found


def resolve(
    project: Project, notebooks: dict[str, Notebook], profile: str, overrides: list[tuple[str, str]]
) -> dict[str, dict[str, parameters.Value]]:
    """The parameters that each notebook runs with (see `parameters.resolve`)."""
    profiles = _read_toml(project.library / "run" / "profiles.toml")
    unknown = [name for name in (profile, *profiles) if name not in paths.PROFILES]
    if unknown:
        raise KeyMynaError(f"profiles.toml: no profile {unknown[0]!r}, only {', '.join(paths.PROFILES)}.")
    return parameters.resolve(
        {n.name: n.parameters for n in notebooks.values()}, profile, profiles.get(profile, {}), overrides
    )


def select(notebooks: dict[str, Notebook], only: list[str], start: str | None) -> tuple[list[str], set[str]]:
    """The notebooks to look at, in order, and among them those asked for; the others are merely needed.

    Parameters
    ----------
    only, start : numbers ("20", "0") or full names; neither means all except those that run on request only.
    """

    def find(text: str) -> Notebook:
        for notebook in notebooks.values():
            if text == notebook.name or (text.isdecimal() and int(text) == notebook.number):
                return notebook
        raise KeyMynaError(
            f"there is no notebook {text}. There are:\n"
            + "\n".join(f"  {n.name}  {n.title}" for n in notebooks.values())
        )

    if only:
        asked = {find(text).name for text in only}
    else:
        first = find(start).number if start is not None else 0
        asked = {n.name for n in notebooks.values() if n.number >= first and not n.on_request}
    return _builds_on(notebooks, asked), asked


def fingerprint(project: Project, notebook: Notebook, values: dict[str, parameters.Value]) -> dict[str, Any]:
    """Hashes of everything that a notebook's results depend on: parameters, cells, code, what it reads, users' files.

    The runner itself is left out, as it affects results only through the parameters. Of what an earlier notebook
    published, only its outputs and its runs' content count: one that ran again with the same outcome makes nothing
    after it rerun.
    """
    cells = [
        (cell["cell_type"], cell["source"], cell.get("metadata", {}).get("tags", []))
        for cell in parameters.read_cells(project.source(notebook.name))
    ]
    code = [p for p in project.library.iterdir() if p.name not in {"run", "__main__.py", "__pycache__"}]
    brought = parameters.local_paths(values, project.root)
    asked = {name: value for name, value in values.items() if name != WHERE}
    return {
        "parameters": hashing.sha256_json(asked),
        "notebook": hashing.sha256_json(cells),
        "code": hashing.source_hash(*sorted(code), project.root / paths.LOCK.name),
        "inputs": {need: _outcome(project, values["profile"], need) for need in notebook.inputs},
        "files brought": {name: hashing.listing_hash(path) for name, path in brought.items()},
    }


def _outcome(project: Project, profile: str, notebook: str) -> str:
    """Hash of what a notebook published; attempts at one run that came to the same end are the same."""
    index = _index(project, profile, notebook)
    ran = []
    for run in index.get("runs", []):
        name = run.rpartition("-a")[0]
        content = {}
        for path in sorted((project.made / "results" / profile / "runs" / run).glob("*")):
            if path.name != "provenance.json" and path.is_file():
                content[path.name] = hashing.sha256_bytes(path.read_bytes().replace(run.encode(), name.encode()))
        ran.append([name, content])
    return hashing.sha256_json([ran, index.get("outputs")])


def _index(project: Project, profile: str, notebook: str) -> dict[str, Any]:
    """What a notebook published last, {} if nothing; a damaged index is replaced by the runner's own copy of it."""
    path = project.index(profile, notebook)
    with contextlib.suppress(KeyMynaError):
        return publication.read_index(path)
    try:
        copy = files.read_json(project.state(profile, notebook))["index"]
        files.discard(path)
        publication.write_index(path, copy)
        return publication.read_index(path)
    except (KeyMynaError, KeyError, TypeError):
        return {}


def on_recordings(project: Project, profile: str) -> bool:
    """Whether a profile's results are those of recordings, from a data root that was given."""
    return bool(_index(project, profile, RECORDINGS).get("outputs", {}).get("folder"))


def outdated(project: Project, notebook: Notebook, values: dict[str, parameters.Value]) -> tuple[str, dict[str, Any]]:
    """Why a notebook has to run ("" if it need not), and the note on its last success ({} if none)."""
    try:
        state = files.read_json(project.state(values["profile"], notebook.name))
        then, produced = dict(state["fingerprint"]), {name: list(mark) for name, mark in state["files"].items()}
    except (
        KeyMynaError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ):  # absent, or of another version, or damaged: run it again
        return "no earlier success", {}
    now = fingerprint(project, notebook, values)
    changed = [part for part in now if now[part] != then.get(part)]
    if changed:
        return f"{' and '.join(changed)} changed", state
    if altered := _altered(project, produced):
        return f"{altered[0]} is missing or was altered", state
    if not _index(project, values["profile"], notebook.name):
        return f"{project.show(project.index(values['profile'], notebook.name))} is missing or damaged", state
    return "", state


Mark = list[int | str]  # size [bytes], then sha256, or time of change [ns] above MOST_HASHED


def mark_of(path: Path) -> Mark | None:
    """What is noted of a file, to see later whether it has changed; None if there is no such file, or no access."""
    try:
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns if stat.st_size > MOST_HASHED else hashing.sha256_file(path)]
    except OSError:
        return None


def _marks(project: Project, name: str) -> list[Mark]:
    """The marks of a file that an index names."""
    return [mark for place in project.places(name) if (mark := mark_of(place))]


def _altered(project: Project, produced: dict[str, Mark]) -> list[str]:
    """The outputs that are no longer there as they were noted."""
    return [name for name, mark in produced.items() if mark not in _marks(project, name)]


def _set_aside(project: Project, profile: str, altered: list[str]) -> None:
    """Take runs one of whose files was lost or altered out of what counts, so that they are made again.

    Their folders are moved to the cache, as are folders that lie where a file should be: the runner deletes nothing.
    """
    of_runs = f"results/{profile}/runs/", f"artifacts/{profile}/"
    runs = {Path(name).parent.name for name in altered if name.startswith(of_runs)}
    places = [project.made / "results" / profile / "runs" / run for run in runs]
    places += [place for name in altered for place in project.places(name)]
    for place in places:
        if place.is_dir():
            aside = project.cache / "damaged" / profile / place.name
            files.discard(aside)  # of an earlier time
            aside.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(place, aside)


def published(project: Project, profile: str, notebook: str, since: int | None) -> dict[str, Mark]:
    """The files that a notebook says it made, and its executed copy, each with its mark.

    Parameters
    ----------
    since : modification time [ns] of its index before it ran, None if there was none.

    Raises
    ------
    KeyMynaError
        When it published nothing in this run, or names a file that is not there: its results would be stale.
    """
    index = project.index(profile, notebook)
    if modified(index) in (None, since):
        raise KeyMynaError(
            f"{notebook} ran to its end without writing {project.show(index)}: it must call `done` on its Stage."
        )
    produced = {}
    for name, size in publication.read_index(index)["files"].items():
        produced[name] = next((mark for mark in _marks(project, name) if mark[0] == size), None)
        if produced[name] is None:
            raise KeyMynaError(f"{project.show(index)} names {name}, which is not there with that size.")
    executed = project.executed(profile, notebook)
    return produced | {project.named(executed): mark_of(executed)}


def modified(path: Path) -> int | None:
    """Modification time [ns], None if the file is absent."""
    return path.stat().st_mtime_ns if path.exists() else None


@contextlib.contextmanager
def locked(project: Project, profile: str) -> Iterator[None]:
    """Hold the profile against a second runner; the operating system releases it even after a kill.

    Raises
    ------
    KeyMynaError
        When another process holds it; names that process.
    """
    path = project.state(profile, "runner").with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        files.discard(path)
    try:
        held = filelock.FileLock(path, blocking=False).acquire()
    except filelock.Timeout:
        holder = path.read_text(encoding="ascii").strip()
        raise KeyMynaError(
            f"profile {profile} is being run already (process {holder}). Wait for it, or stop it."
        ) from None
    with held:
        path.write_text(str(os.getpid()), encoding="ascii")  # the lock is on the file, whatever it contains
        yield


def run(
    project: Project,
    profile: str,
    *,
    only: list[str] | None = None,
    start: str | None = None,
    force: bool = False,
    overrides: list[tuple[str, str]] | None = None,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
    execute: Execute | None = None,
    jobs: int | None = 1,
) -> list[str]:
    """Run the notebooks that are asked for and not up to date, and what they need; after a failure, begin none.

    Parameters
    ----------
    only, start : see `select`.
    force : run those asked for even if nothing has changed.
    overrides : (name, value as typed).
    say : where each line of progress goes.
    execute : what executes a notebook; papermill, see `execute.execute`, by default.
    jobs : how many notebooks run at a time; None for as many as suit this machine. No result depends on it.

    Returns
    -------
    The notebooks asked for and those that they need, in order; all are up to date now.

    Raises
    ------
    KeyMynaError
        For bad input, before anything runs, or for the notebooks that failed; those beside them have ended.
    """
    notebooks = load_notebooks(project)
    values = resolve(project, notebooks, profile, overrides or [])
    plain = resolve(project, notebooks, profile, [])
    order, asked = select(notebooks, only or [], start)
    check = _Check(project, {name: values[name] for name in order}, plain)
    screen = Screen(sys.stderr, say, moves=sys.stderr.isatty() and sys.stdout.isatty())
    heads = {name: f"[{position}/{len(order)}] {name}" for position, name in enumerate(order, 1)}
    tasks = [Task(name, notebooks[name].inputs + notebooks[name].after, notebooks[name].alone) for name in order]
    ran: set[str] = set()
    with locked(project, profile):
        publication.complete(project.made, profile)
        began = time.monotonic()

        def begin(name: str) -> Callable[[], None] | None:
            notebook, head = notebooks[name], heads[name]
            reason, state = ("forced", {}) if force and name in asked else outdated(project, notebook, values[name])
            if not reason:
                screen.say(f"{head}  skipped: unchanged since {state['finished']}")
                return None
            check.before(notebook)
            changed = _set_by_hand(project, notebooks, name, values, plain)
            told = {paths.SET_BY_HAND: json.dumps({each: lines for each, lines in changed.items() if lines})}
            expected = f", about {notebook.minutes[profile]:g} min" if profile in notebook.minutes else ""
            screen.say(f"{head}  {notebook.title} ({reason}{expected}) ...")
            work = _prepared(project, notebook, values[name], state, told, execute)

            ran.add(name)

            def do() -> None:
                started, bars = time.monotonic(), screen.bars(head)
                try:
                    work(bars)
                finally:
                    bars.close()
                now = time.monotonic()
                screen.say(f"{head}  done in {duration(now - started)} (total {duration(now - began)})")
                if notebook.completes:
                    screen.say(
                        f"{notebook.completes}, after {duration(now - began)}: {paths.LOCAL}/results/{profile}/tables/"
                    )

            return do

        work_off(tasks, begin, jobs, screen.say)
        seconds = time.monotonic() - began
        if ran >= {notebook.name for notebook in notebooks.values() if not notebook.on_request}:
            files.write_json(project.whole_run(profile), {"seconds": round(seconds, 1), "jobs": jobs or usual_jobs()})
        say(
            f"All done in {duration(seconds)}. Executed notebooks, tables and runs: "
            f"{paths.LOCAL}/results/{profile}/; figures: {paths.LOCAL}/figures/{profile}/"
        )
    return order


class _Check:
    """The parameters of a whole run, checked when the first notebook is about to run: where all is up to date, they
    have been already, and the modules that know what is allowed take seconds to import. Checked again against the
    corpus as soon as that is there, before anything is trained on it.

    Parameters
    ----------
    values, plain : of the notebooks that are to run, as asked for and as the profile has them.
    """

    def __init__(self, project: Project, values: Values, plain: Values):
        self._project, self._values = project, values
        # The profiles' own values are known to do, and trying what notebook 55 asks takes a while.
        read = ((RENDERED, None), (PITCH, None), (OBJECTIVES, "crop_frames"))
        self._try_pitch = PITCH in values and any(
            values[notebook] != plain[notebook] if name is None else values[notebook][name] != plain[notebook][name]
            for notebook, name in read
        )
        self._checked: set[bool] = set()  # without the corpus, and with it

    def before(self, notebook: Notebook) -> None:
        """Check what has not been checked when this notebook is the next to run."""
        with_corpus = RENDERED in notebook.needs  # which is up to date by now
        if with_corpus in self._checked:
            return
        from keymyna_lib.run import plan

        profile = self._values[notebook.name]["profile"]
        maker = RECORDINGS if on_recordings(self._project, profile) else RENDERED
        plan.refuse(
            self._values,
            root=self._project.root,
            corpus=_corpus(self._project, profile, maker) if with_corpus else None,
            rendered=_corpus(self._project, profile, RENDERED) if with_corpus and self._try_pitch else None,
        )
        self._checked |= {with_corpus, False}


def _corpus(project: Project, profile: str, maker: str) -> Corpus | None:
    """A notebook's corpus; None where it cannot be opened, which the notebook that needs it will say."""
    from keymyna_lib.corpus.corpus import open_corpus

    try:
        return open_corpus(project.cache / files.read_json(project.index(profile, maker))["outputs"]["folder"])
    except (KeyMynaError, KeyError, OSError):
        return None


def _builds_on(notebooks: dict[str, Notebook], asked: set[str], *, reads: bool = False) -> list[str]:
    """Some notebooks and those that they need, or also those that they read, however indirectly; in order."""
    found = set(asked)
    for notebook in reversed(notebooks.values()):
        if notebook.name in found:
            found.update(notebook.inputs if reads else notebook.needs)
    return [each for each in notebooks if each in found]


def _set_by_hand(
    project: Project, notebooks: dict[str, Notebook], name: str, values: Values, plain: Values
) -> dict[str, list[str]]:
    """`_differences` of a notebook and of those that it builds on; of one merely read, as it ran last, if it has."""
    needed, found = set(_builds_on(notebooks, {name})), {}
    for each in _builds_on(notebooks, {name}, reads=True):
        ran_with = values[each]
        if each not in needed:
            try:
                then = files.read_json(project.state(values[name]["profile"], each))["parameters"]
                ran_with = {key: then[key] for key in plain[each]}
            except (KeyMynaError, KeyError, TypeError):  # it has not run, or is of another version
                continue
        found[each] = _differences(project, ran_with, plain[each], notebooks[each].only_drawn)
    return found


def _differences(
    project: Project,
    values: dict[str, parameters.Value],
    plain: dict[str, parameters.Value],
    passed_over: tuple[str, ...],
) -> list[str]:
    """Parameters that differ from the profile's own values, as "name = value"; committed tables hold no local path."""
    here = parameters.local_paths(values, project.root)
    changed = {key: value for key, value in values.items() if value != plain[key] and key not in (WHERE, *passed_over)}
    return [f"{key} = {here[key].name if key in here else value!r}" for key, value in changed.items()]


def _prepared(
    project: Project,
    notebook: Notebook,
    values: dict[str, parameters.Value],
    state: dict[str, Any],
    environment: Mapping[str, str],
    execute: Execute | None,
) -> Callable[[LiveBars], None]:
    """Clear the way for a notebook that is to run; what is left is to run it and to note its success.

    Parameters
    ----------
    state : the note on its last success, {} if there is none or it is not to count.
    environment : variables of its kernel.
    """
    profile, name = values["profile"], notebook.name
    note, before = fingerprint(project, notebook, values), modified(project.index(profile, name))
    # From here on the last success no longer counts: a kill may come between its publication and its executed copy.
    altered = _altered(project, state.get("files", {}))
    if not _index(project, profile, name):
        files.discard(project.index(profile, name))
    files.discard(project.state(profile, name))
    _set_aside(project, profile, altered)
    given = {
        key: value for key, value in values.items() if key == "profile" or value != notebook.parameters[key].default
    }
    if execute is None:
        from keymyna_lib.run import execute as by_papermill  # which takes 2 s to import: not for a skipped notebook

        execute = by_papermill.execute

    def work(bars: LiveBars) -> None:
        started = time.monotonic()
        execute(project, profile, name, given, environment, bars)
        seconds = time.monotonic() - started
        files.write_json(
            project.state(profile, name),
            {
                "fingerprint": note,
                "parameters": values,
                "seconds": round(seconds, 1),
                "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
                "files": published(project, profile, name, before),
                "index": publication.read_index(project.index(profile, name)),
            },
        )

    return work


def duration(seconds: float) -> str:
    """A time span for people: "42 s", "8 min 12 s", "3 h 5 min"."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def describe(project: Project, profile: str) -> str:
    """The text of `--list`: each notebook with what it needs, its time and its parameters for a profile."""
    notebooks = load_notebooks(project)
    values = resolve(project, notebooks, profile, [])
    lines = [f"Profile {profile}. A value that the profile changes is marked with *."]
    for notebook in notebooks.values():
        facts = [f"needs {', '.join(need[:2] for need in notebook.needs)}"] if notebook.needs else []
        facts += [f"reads {', '.join(each[:2] for each in notebook.reads)} if run"] if notebook.reads else []
        facts += [f"about {notebook.minutes[profile]:g} min"] if profile in notebook.minutes else []
        facts += ["only when named by --only"] if notebook.on_request else []
        facts += ["nothing beside it"] if notebook.alone else []
        lines += ["", f"{notebook.name}  {notebook.title}" + (f" ({'; '.join(facts)})" if facts else "")]
        rows = []
        for parameter in notebook.parameters.values():
            value = values[notebook.name][parameter.name]
            mark = "*" if value != parameter.default and parameter.name != "profile" else " "
            rows.append((f"{mark} {parameter.name}", parameter.type_name, repr(value), parameter.comment))
        widths = [min(max(len(row[i]) for row in rows), 36) for i in range(3)]
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0])).rstrip() for row in rows
        ]
    return "\n".join(lines)
