"""The campaign: real smoke runs that are killed, damaged, starved of disk space, doubled and out of time.

    python tests/campaign.py                     everything, in about 25 minutes on 2 idle cores
    python tests/campaign.py kills --times 5     one part of it, smaller
    python tests/campaign.py table               docs/reliability.md from docs/reliability.json, nothing is run

Not part of the suite. It needs an environment that satisfies requirements.lock, works in clones of the last commit in a
temporary folder, and compares the tables of each run byte for byte with those of an undisturbed one. Each part replaces
its own rows in the JSON. A full disk needs the right to mount a tmpfs. All draws are those of --seed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keymyna_lib.base import files, paths
from keymyna_lib.base.machine import cpu_name

JSON, TABLE = paths.ROOT / "docs" / "reliability.json", paths.ROOT / "docs" / "reliability.md"
PATIENCE = 60.0  # s until a signal that was sent counts as ignored
PARTS = {  # what takes long comes last
    "twice": "two runs at once in one clone",
    "clock": "all files dated in the future, and long ago",
    "kills": "signals at random moments of a run, a resume after each",
    "damage": "each kind of file damaged",
    "disk": "a disk that is full",
}
INTRODUCTION = """# What was done to it, and what happened

Real runs of `./run_all.sh --profile smoke`, interrupted and damaged as listed, on {machine}, each row at
its commit. "tables" compares those at the end with those of an undisturbed run, byte for byte. Made by
`python tests/campaign.py`, which see.

"""


@dataclass
class Clone:
    """A clone, and a cache of its own."""

    root: Path
    cache: Path
    options: list[str]

    def start(self, *arguments: str) -> Running:
        """`./run_all.sh --profile smoke`, in a session of its own."""
        environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "KEYMYNA_CACHE": str(self.cache)}
        environment.pop("PYTHONPATH", None)
        process = subprocess.Popen(
            ["./run_all.sh", "--profile", "smoke", *(arguments or self.options)],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return Running(process)

    def run(self, *arguments: str) -> Running:
        """The same, waited for."""
        running = self.start(*arguments)
        running.wait()
        return running

    def tables(self) -> dict[str, bytes]:
        """The tables, and the data of the figures, by name."""
        found = [
            path
            for folder in ("results/smoke/tables", "figures/smoke")
            for path in (self.root / "local" / folder).glob("*.csv")
        ]
        return {path.name: path.read_bytes() for path in found}

    def copy(self, folder: Path) -> Clone:
        """An independent copy, with the files' times."""
        shutil.copytree(self.root, folder / "clone", symlinks=True)
        shutil.copytree(self.cache, folder / "cache", symlinks=True)
        return Clone(folder / "clone", folder / "cache", self.options)


@dataclass
class Running:
    """A runner at work, and what it has said."""

    process: subprocess.Popen
    lines: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    over: bool = False

    def __post_init__(self) -> None:
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            with self.news:
                self.lines.append(line.rstrip())
                self.news.notify_all()
        with self.news:
            self.over = True
            self.news.notify_all()

    def reach(self, number: str) -> None:
        """Wait until that notebook begins or is skipped, or the run is over."""
        with self.news:
            self.news.wait_for(lambda: self.over or number in self.begun + self.skipped)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status."""
        status = self.process.wait(timeout)
        self.listener.join(PATIENCE)
        return status

    def stop(self, number: int, *, group: bool) -> bool:
        """Send a signal to the runner, or to it and its kernels; False if it had to be forced in the end."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.process.pid, number)
        try:
            self.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.wait()
            return False
        return True

    @property
    def ran(self) -> list[str]:
        """Numbers of the notebooks that were run to their end."""
        return [line.split()[1][:2] for line in self.lines if line.startswith("[") and "  done in " in line]

    @property
    def begun(self) -> list[str]:
        """Numbers of the notebooks that were begun."""
        return [line.split()[1][:2] for line in self.lines if line.startswith("[") and line.endswith("...")]

    @property
    def skipped(self) -> list[str]:
        """Numbers of the notebooks that were up to date."""
        return [line.split()[1][:2] for line in self.lines if line.startswith("[") and "  skipped: " in line]

    @property
    def at_work(self) -> str:
        """Numbers of the notebooks that were begun and not run to their end, or "start"."""
        return " and ".join(number for number in self.begun if number not in self.ran) or "start"

    @property
    def said(self) -> str:
        """Its error in one line, without paths."""
        found = [line for line in self.lines if line.strip()]
        start = next((i for i, line in enumerate(found) if line.startswith("error:")), len(found) - 1)
        return " ".join(" ".join(found[start : start + 3]).split())[:300]

    @property
    def traceback(self) -> str:
        """The end of what it said if it showed a traceback, in one line and without folders; "" otherwise."""
        first = next((i for i, line in enumerate(self.lines) if "Traceback (most" in line), None)
        if first is None:
            return ""
        print("\n".join(self.lines[max(0, first - 1) :][-60:]), flush=True)
        shown = " ".join(" ".join([*self.lines[max(0, first - 1) : first], *self.lines[first + 1 :][-6:]]).split())
        return re.sub(r"/\S*/", "", shown)[-400:]


def tracebacks(found: list[str]) -> str:
    """How many there were, and the different ones."""
    shown = [text for text in found if text]
    return f"; {len(shown)} tracebacks: {' // '.join(dict.fromkeys(shown))}" if shown else ""


class Campaign:
    """Its undisturbed run, its folder, and its rows.

    Parameters
    ----------
    options : of every run, in place of all notebooks; for trying the campaign itself.
    """

    def __init__(self, folder: Path, seed: int, options: list[str]):
        self.folder, self.seed, self.options = folder, seed, options
        self.part, self.rows = "", []
        self.reference: Clone | None = None
        self.order: list[str] = []  # numbers of the notebooks
        self.reference = self._undisturbed()

    def fresh(self, name: str, root: Path | None = None) -> Clone:
        """A new clone of the last commit, its cache empty but for what librosa has compiled and the parsed scores.

        Parsing takes a minute or two, is done in one piece, and would be all that is ever interrupted.
        """
        folder = (root or self.folder) / name
        subprocess.run(["git", "clone", "--quiet", paths.ROOT, folder / "clone"], check=True)
        for known in ("compiled", "scores"):
            if (source := (self.reference.cache if self.reference else paths.CACHE) / known).is_dir():
                shutil.copytree(source, folder / "cache" / known)
        return Clone(folder / "clone", folder / "cache", self.options)

    def _undisturbed(self) -> Clone:
        print("the undisturbed run ...", flush=True)
        began, clone = time.monotonic(), self.fresh("reference")
        running = clone.run()
        if running.process.returncode:
            raise SystemExit(f"the undisturbed run failed: {running.said}")
        self.order = running.ran
        print(f"  took {time.monotonic() - began:.0f} s, {len(clone.tables())} tables", flush=True)
        return clone

    @contextlib.contextmanager
    def finished(self, name: str) -> Iterator[Clone]:
        """A copy of the undisturbed run, removed afterwards."""
        clone = self.reference.copy(self.folder / name)
        yield clone
        shutil.rmtree(self.folder / name)

    def add(self, tried: str, happened: str, clone: Clone) -> None:
        """A row: what was tried, what happened, and whether the tables are those of the undisturbed run."""
        tables, expected = clone.tables(), self.reference.tables()
        differ = sorted(name for name in {*tables, *expected} if tables.get(name) != expected.get(name))
        outcome = f"{', '.join(differ)} differ" if differ else "identical"
        self.rows.append({"part": self.part, "tried": tried, "happened": happened, "tables": outcome})
        print(f"  {tried}: {happened}; tables {outcome}", flush=True)


def kills(campaign: Campaign, times: int, gap: tuple[float, float]) -> None:
    """Signals in notebooks spread over one run, at random moments, a resume after each."""
    draw, clone = random.Random(f"{campaign.seed} kills"), campaign.fresh("kills")
    others = max(1, times // 5)
    signals = ["SIGTERM"] * others + ["SIGINT"] * others
    signals += ["SIGKILL"] * (times - len(signals))
    draw.shuffle(signals)
    sent, at, stubborn, traced = Counter(), Counter(), 0, []
    running = clone.start()
    for name, number in zip(signals, sorted(draw.choices(campaign.order, k=times))):
        running.reach(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(draw.uniform(*gap))
            break
        # Ctrl-C in a terminal reaches the group; a scheduler's kill may reach the runner alone.
        stubborn += not running.stop(getattr(signal, name), group=name == "SIGINT" or draw.random() < 0.5)
        traced.append(running.traceback)
        sent[name] += 1
        at[running.at_work] += 1
        running = clone.start()
    status = running.wait()
    happened = f"hit {', '.join(f'{number} ({n} times)' for number, n in sorted(at.items()))}; resumed after each; "
    happened += f"in the end status {status}" + (f" ({running.said})" if status else "")
    happened += f"; ignored {stubborn} times" if stubborn else ""
    happened += tracebacks(traced)
    what = ", ".join(f"{n} {name}" for name, n in sorted(sent.items())) or "no signal"
    campaign.add(f"{what} at random moments, {gap[0]:g} to {gap[1]:g} s after the start of a notebook", happened, clone)
    shutil.rmtree(clone.root.parent)


def flip(path: Path, draw: random.Random) -> None:
    """Change one byte, and not the size."""
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def in_its_place(path: Path) -> None:
    """A folder where the file was: unreadable even for root, whom no mode stops."""
    path.unlink()
    (path / "x").mkdir(parents=True)


DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "a flipped bit": flip,
    "cut": lambda path, draw: os.truncate(path, draw.randrange(path.stat().st_size)),
    "emptied": lambda path, _: os.truncate(path, 0),
    "unreadable": lambda path, _: in_its_place(path),
}
# What is damaged, where it lies, and what has to run to meet it where the runner would see no reason to.
KINDS = {
    "a corpus's index": ("cache/corpus/*/corpus.json", ()),
    "a corpus's manifest": ("cache/corpus/*/manifest.csv", ()),
    "a corpus's places": ("cache/corpus/*/places.csv", ()),
    "a shard's audio": ("cache/corpus/*/shard-*/audio.i16", ()),
    "a shard's spectrograms": ("cache/corpus/*/shard-*/spectrograms.f16", ()),
    "a shard's hashes": ("cache/corpus/*/shard-*/hashes.csv", ()),
    "the parsed scores": ("cache/scores/*/*", ("--only", "00", "--force")),
    "features": ("cache/features/*/*.safetensors", ("--only", "20", "--force")),
    "an encoder or a head": ("cache/artifacts/smoke/*/*.safetensors", ()),
    "a checkpoint": ("cache/pretraining/*.safetensors", ("--only", "50", "--force")),
    "a note of the runner": ("cache/state/smoke/*.json", ()),
    "a notebook's index": ("clone/local/results/smoke/index/*.json", ()),
    "a stored run": ("clone/local/results/smoke/runs/*/*", ()),
    "a table": ("clone/local/results/smoke/tables/*", ()),
}


def damage(campaign: Campaign, each: int) -> None:
    """Every kind of file damaged in `each` of the four ways; then one call of the runner."""
    draw = random.Random(f"{campaign.seed} damage")
    for number, (kind, (pattern, arguments)) in enumerate(KINDS.items()):
        ways = [list(DAMAGE)[(number + i) % len(DAMAGE)] for i in range(each)]
        for way in ways:
            with campaign.finished("damaged") as clone:
                found = sorted(path for path in clone.root.parent.glob(pattern) if path.is_file())
                if not found:
                    campaign.add(f"{kind}, {way}", "there is no such file in this run", clone)
                    continue
                DAMAGE[way](path := draw.choice(found), draw)
                running = clone.run(*arguments) if arguments else clone.run()
                status = running.process.returncode
                happened = f"status {status}; ran {', '.join(running.ran) or 'nothing'}"
                if arguments and not status:
                    running = clone.run()
                    status = running.process.returncode
                    happened += f", then {', '.join(running.ran) or 'nothing'}"
                happened += f" ({running.said})" if status else ""
                campaign.add(f"{kind} ({path.name}), {way}", happened, clone)


def disk(campaign: Campaign, left: float) -> None:
    """A run in a tmpfs that is full, but for at most `left` MB, as each notebook in turn begins."""
    draw = random.Random(f"{campaign.seed} disk")
    place = campaign.folder / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8g", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        campaign.add("a full disk", "not tried: a tmpfs cannot be mounted here", campaign.reference)
        return
    try:
        clone = campaign.fresh("run", place)
        full, unnoticed, traced = [], [], []

        def resize(size: str) -> None:
            subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)

        for number in campaign.order:
            running = clone.start()
            running.reach(number)
            resize(f"{shutil.disk_usage(place).used // 1024 + int(1024 * draw.uniform(0.1 * left, left))}k")
            status = running.wait()
            resize("8g")
            if not status:
                unnoticed.append(number)
                break
            said = " ".join(running.lines)
            if not any(word in said for word in ("No space", "are free", "disk is full", "Free some")):
                campaign.add("a full disk", f"in {running.at_work}: {running.said}", clone)
                return
            full.append(running.at_work)
            traced.append(running.traceback)
        status = clone.run().process.returncode
        times = ", ".join(f"{number} ({n} times)" for number, n in Counter(full).items())
        happened = f"full in {times}; given space each time, it resumed; in the end status {status}"
        happened += f"; it came to its end though full from {unnoticed[0]} on" if unnoticed else ""
        campaign.add("a disk that is full", happened + tracebacks(traced), clone)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def twice(campaign: Campaign) -> None:
    """Two runs at once in one clone, then a third."""
    with campaign.finished("twice") as clone:
        both = [clone.start("--only", "20", "--force") for _ in range(2)]
        statuses = sorted(running.wait() for running in both)
        refused = [running.said for running in both if running.process.returncode]
        again = clone.run()
        happened = f"statuses {statuses[0]} and {statuses[1]}"
        happened += (
            " (being run already)" if len(refused) == 1 and "being run already" in refused[0] else f" ({refused})"
        )
        campaign.add("two runs at once in one clone", f"{happened}; a third: {again.process.returncode}", clone)


def clock(campaign: Campaign) -> None:
    """All files' times in the future, and long ago, as after a clock that was wrong."""
    with campaign.finished("clock") as clone:
        for year, moment in (("2096", 4e9), ("1980", 3.2e8)):
            for place in (clone.root, clone.cache):
                for path in place.rglob("*"):
                    if not path.is_symlink():
                        os.utime(path, (moment, moment))
            running = clone.run()
            happened = f"status {running.process.returncode}; ran {', '.join(running.ran) or 'nothing'}"
            campaign.add(f"all files dated {year}", happened, clone)


def report(found: dict) -> str:
    """The text of docs/reliability.md."""
    lines = ["| tried | what happened | tables | commit |", "| --- | --- | --- | --- |"]
    for row in found["rows"]:
        happened = row["happened"].replace("|", "/")
        lines.append(f"| {row['tried']} | {happened} | {row['tables']} | {row['commit']} |")
    done = {row["part"] for row in found["rows"]}
    lines += [f"| {what} | not run | | |" for part, what in PARTS.items() if part not in done]
    return INTRODUCTION.format(**found) + "\n".join(lines) + "\n"


def main() -> None:
    """Run the parts that are asked for, and store what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = list(PARTS)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}, table; all without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--times", type=int, default=20, help="signals, a fifth SIGTERM, a fifth SIGINT, the rest SIGKILL"
    )
    parser.add_argument("--gap", type=float, nargs=2, default=(1.0, 20.0), help="seconds of work between signals")
    parser.add_argument("--each", type=int, default=1, help="ways of damage for each kind of file, at most 4")
    parser.add_argument("--left", type=float, default=0.5, help="MB that a full disk has left, at most")
    parser.add_argument("--only", nargs="*", default=[], help="notebooks, in place of all; to try the campaign itself")
    parser.add_argument("--out", type=Path, default=JSON)
    parser.add_argument("--show", action="store_true", help="print the table, too")
    given = parser.parse_args()
    # Whoever started this in the background has it ignore Ctrl-C, and every run would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = given.parts or list(parts)
    if unknown := set(asked) - {*parts, "table"}:
        parser.error(f"there is no part {', '.join(unknown)}")
    found = files.read_json(given.out) if given.out.exists() else {"rows": []}
    if asked != ["table"]:
        lock = paths.LIBRARY / "run" / "environment.py", paths.LOCK
        if problem := subprocess.run([sys.executable, *lock], capture_output=True, text=True).stderr:
            parser.error(f"this environment does not satisfy requirements.lock: {problem}")
        commit = subprocess.run(
            ["git", "-C", paths.ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        )
        found["machine"] = f"{cpu_name()}, {len(os.sched_getaffinity(0))} cores"
        with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
            campaign = Campaign(Path(folder), given.seed, [word for one in given.only for word in ("--only", one)])
            work = {
                "kills": lambda: kills(campaign, given.times, tuple(given.gap)),
                "damage": lambda: damage(campaign, given.each),
                "disk": lambda: disk(campaign, given.left),
                "twice": lambda: twice(campaign),
                "clock": lambda: clock(campaign),
            }
            for part in (part for part in parts if part in asked):
                print(part, flush=True)
                campaign.part, campaign.rows = part, []
                began = time.monotonic()
                work[part]()
                print(f"  {part} took {time.monotonic() - began:.0f} s", flush=True)
                kept = [row for row in found["rows"] if row["part"] != part]
                made = [row | {"commit": commit.stdout.strip()} for row in campaign.rows]
                found["rows"] = sorted([*kept, *made], key=lambda row: parts.index(row["part"]))
                files.write_json(given.out, found)
    text = report(found)
    files.write_text(TABLE if given.out == JSON else given.out.with_suffix(".md"), text)
    if given.show:
        print(text)


if __name__ == "__main__":
    main()
