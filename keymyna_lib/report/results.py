"""Runs, their provenance, and tables traced back to them.

A run is one immutable directory, results/<profile>/runs/<id>/:

    config.json       what was asked for, and the hashes of what went in
    metrics.csv       long format: run_id, experiment, dataset, split, metric, value, n, seed
    predictions.csv   per track: track_id, reference, estimate, ... (where there are any)
    provenance.json   commit, dirty flag, code hash, packages, device, start and end, notebook, scale

The id is experiment-hash-sSEED-aATTEMPT; the hash covers configuration, seed, code and inputs, so a repeat of the
same run is a new attempt and nothing is overwritten. A notebook that has finished publishes the ids of its runs in
results/<profile>/index/<notebook>.json; later notebooks and tables read nothing else.
"""

from __future__ import annotations

import datetime as dt
import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import read_json, write_json, write_text
from keymyna_lib.base.hashing import sha256_file, sha256_json, source_hash
from keymyna_lib.base.machine import cpu_name

METRIC_COLUMNS = ["run_id", "experiment", "dataset", "split", "metric", "value", "n", "seed"]
_NOT_IN_RUNS = {"run", "report", "experiments/conclusions.py", "base/progress.py", "base/errors.py", "__main__.py"}
# What the numbers may depend on; the lock file lists the rest.
_PACKAGES = (
    "torch",
    "torchaudio",
    "numpy",
    "scipy",
    "scikit-learn",
    "librosa",
    "essentia",
    "music21",
    "symusic",
    "tinysoundfont",
    "pretty_midi",
)


@functools.lru_cache(maxsize=1)
def code_hash() -> str:
    """SHA-256 over the library and the lock file; every run, table and figure names it.

    Left out are the runner, which acts on results through the notebooks' parameters only, and what merely presents
    stored runs: tables and figures are made anew without training anything again.
    """
    left_out = [paths.LIBRARY / name for name in _NOT_IN_RUNS]
    parts = sorted(
        path
        for path in paths.LIBRARY.rglob("*")
        if path.suffix in {".py", ".toml", ".csv"} and not any(path.is_relative_to(place) for place in left_out)
    )
    return source_hash(*parts, paths.LOCK)


def notebook_hash(notebook: str) -> str:
    """SHA-256 over the source of a notebook's cells."""
    path = paths.NOTEBOOKS / f"{notebook}.ipynb"
    return sha256_json(["".join(cell["source"]) for cell in read_json(path)["cells"]])


@functools.lru_cache(maxsize=1)
def _commit() -> dict[str, Any]:
    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", paths.ROOT, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # The outputs of a run do not make its code dirty.
        changed = git("status", "--porcelain", "--", ":!results", ":!figures")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}  # not a git clone, for instance an unpacked archive


@functools.lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Commit, code hash, package versions and machine: the part of the provenance that all runs share."""
    import torch

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    return {
        **_commit(),
        "code_hash": code_hash(),
        "python": platform.python_version(),
        "packages": versions,
        "system": platform.system(),
        "device": device,
        "threads": torch.get_num_threads(),
    }


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


class Run:
    """A run being written; use it as a context manager. Without an exception it is kept, else it leaves no trace.

    Parameters
    ----------
    experiment : what kind of run, for instance "linear_probe".
    profile : smoke, mini, mini-full or paper: the scale, and where it is kept.
    notebook : the notebook that makes it, without suffix.
    config : a dataclass or dictionary of plain values, everything that the numbers depend on.
    seed : the run's seed.
    inputs : name -> hash of what went in: "corpus", "pretrain" (the encoder).
    """

    def __init__(
        self, experiment: str, *, profile: str, notebook: str, config: Any, seed: int, inputs: Mapping[str, str]
    ):
        self.experiment, self.profile, self.notebook, self.seed = experiment, profile, notebook, seed
        values = asdict(config) if is_dataclass(config) else dict(config)
        self.config = {"experiment": experiment, "seed": seed, "inputs": dict(inputs), **values}
        self._notebook_hash = notebook_hash(notebook)
        self._identity = f"{experiment}-{sha256_json([self.config, code_hash(), self._notebook_hash])[:10]}-s{seed}"
        self.run_id = ""
        self._metrics: list[dict[str, Any]] = []
        self._predictions: pd.DataFrame | None = None
        self._tables: dict[str, pd.DataFrame] = {}
        self._artifacts: dict[str, Path] = {}

    def __enter__(self) -> Run:
        runs = paths.results_dir(self.profile) / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name.rsplit("-a", 1)[1]) for path in runs.glob(f"{self._identity}-a*")]
        self.run_id = f"{self._identity}-a{max(taken, default=0) + 1}"
        self.started = now()
        return self

    def metric(self, dataset: str, split: str, metric: str, value: float, n: int) -> None:
        """Record one number, measured on `n` tracks."""
        self._metrics.append(
            dict(
                zip(
                    METRIC_COLUMNS,
                    (self.run_id, self.experiment, dataset, split, metric, float(value), int(n), self.seed),
                )
            )
        )

    def predictions(self, table: pd.DataFrame) -> None:
        """Record what was predicted for each track: track_id, reference, estimate and whatever else is known."""
        if not {"track_id", "reference", "estimate"} <= set(table.columns):
            raise KeyMynaError("predictions need the columns track_id, reference and estimate.")
        self._predictions = table

    def attach(self, name: str, table: pd.DataFrame) -> None:
        """Keep a further table with the run, as NAME.csv."""
        self._tables[name] = table

    def artifact_path(self, name: str) -> Path:
        """Where a large file of this run is to be written (in the cache, not committed)."""
        self._artifacts[name] = _artifact_path(self.profile, self.run_id, name)
        return self._artifacts[name]

    def resumable_path(self, name: str) -> Path:
        """Where unfinished work is kept; the same for every attempt at this run until one succeeds."""
        return paths.CACHE / "unfinished" / self.profile / self._identity / name

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            return
        final = paths.results_dir(self.profile) / "runs" / self.run_id
        folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=".unfinished-"))
        try:
            folder.chmod(0o755)
            write_json(folder / "config.json", self.config)
            write_csv(folder / "metrics.csv", pd.DataFrame(self._metrics, columns=METRIC_COLUMNS))
            if self._predictions is not None:
                write_csv(folder / "predictions.csv", self._predictions)
            for name, table in self._tables.items():
                write_csv(folder / f"{name}.csv", table)
            write_json(
                folder / "provenance.json",
                {
                    **environment(),
                    "run_id": self.run_id,
                    "notebook": self.notebook,
                    "notebook_hash": self._notebook_hash,
                    "scale": self.profile,
                    "artifacts": {name: sha256_file(path) for name, path in self._artifacts.items()},
                    "started": self.started,
                    "ended": now(),
                    "corpus_hash": self.config["inputs"].get("corpus"),
                },
            )
            os.replace(folder, final)
            shutil.rmtree(paths.CACHE / "unfinished" / self.profile / self._identity, ignore_errors=True)
            _written.update([*final.iterdir(), *self._artifacts.values()])
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically: no index, floats with six decimals, so that repeats are byte for byte the same."""
    write_text(path, table.to_csv(index=False, float_format="%.6f"))


def _artifact_path(profile: str, run_id: str, name: str) -> Path:
    return paths.CACHE / "artifacts" / profile / run_id / name


def artifact(profile: str, run_id: str, name: str) -> Path:
    """Path of a run's large file.

    Raises
    ------
    KeyMynaError
        When it is not on this machine, or not what the run wrote.
    """
    path = _artifact_path(profile, run_id, name)
    provenance = read_json(paths.results_dir(profile) / "runs" / run_id / "provenance.json")
    if not path.exists() or sha256_file(path) != provenance["artifacts"][name]:
        raise KeyMynaError(
            f"{name} of run {run_id} is missing from this machine's cache, or damaged; make it again: "
            f"./run_all.sh --profile {profile} --only {provenance['notebook'][:2]} --force"
        )
    return path


_written: set[Path] = set()  # by this process: runs with their artifacts, tables, figures


def note_written(*written: Path) -> None:
    """Count files among what this notebook has made."""
    _written.update(written)


def publish(
    profile: str,
    notebook: str,
    *,
    runs: Sequence[str] = (),
    outputs: Mapping[str, Any] | None = None,
    files: Sequence[Path] = (),
) -> None:
    """Say that a notebook is done: what later notebooks need to know of it.

    All runs, tables and figures written by this process are named with their sizes; the runner runs the notebook again
    when one is missing or cut short. Tables and figures that it made before and makes no longer are removed.

    Parameters
    ----------
    runs : ids of its runs, in order.
    outputs : plain values, for instance the hash of the corpus.
    files : further files that others rely on.
    """
    sizes = {_portable(path): path.stat().st_size for path in sorted({*files, *_written}, key=str)}
    index = paths.results_dir(profile) / "index" / f"{notebook}.json"
    shown = [_portable(folder) + "/" for folder in (paths.results_dir(profile) / "tables", paths.figures_dir(profile))]
    for name in read_json(index)["files"] if index.exists() else {}:
        if name not in sizes and name.startswith(tuple(shown)):
            (paths.ROOT / name).unlink(missing_ok=True)
    write_json(
        index,
        {
            "notebook": notebook,
            "runs": list(runs),
            "outputs": dict(outputs or {}),
            "files": sizes,
            "code_hash": code_hash(),
            "changed": os.environ.get(paths.CHANGED, ""),
        },
    )


def changed_parameters(profile: str, notebook: str) -> list[str]:
    """Parameters set by hand (-p), "name = value", for a notebook and those of its profile that have published."""
    index = (paths.results_dir(profile) / "index").glob("*.json")
    # An index that an earlier version left behind, until its notebook runs again, has no such entry.
    texts = [read_json(path).get("changed", "") for path in sorted(index) if path.stem != notebook]
    return list(
        dict.fromkeys(line for text in (*texts, os.environ.get(paths.CHANGED, "")) for line in text.splitlines())
    )


def _portable(path: Path) -> str:
    """A path relative to the clone, or to the cache when it lies there."""
    path = Path(path).resolve()
    if path.is_relative_to(paths.CACHE):
        return path.relative_to(paths.CACHE).as_posix()
    return path.relative_to(paths.ROOT).as_posix()


def published(profile: str, notebook: str) -> dict[str, Any]:
    """What a notebook published last.

    Raises
    ------
    KeyMynaError
        When it has not run yet in this profile.
    """
    path = paths.results_dir(profile) / "index" / f"{notebook}.json"
    if not path.exists():
        raise KeyMynaError(
            f"notebook {notebook} has not run in profile {profile!r}: "
            f"./run_all.sh --profile {profile} --only {notebook[:2]}"
        )
    return read_json(path)


def _kin(config: Mapping[str, Any], code: str) -> str:
    """What runs of different seeds have in common: configuration without the seed, corpus and code."""
    shared = {key: value for key, value in config.items() if key not in ("seed", "inputs")}
    return sha256_json([shared, config["inputs"].get("corpus"), code])


def _published_runs(profile: str, notebook: str) -> dict[str, tuple[dict[str, Any], str]]:
    """Run id -> (configuration, code hash) of what a notebook published last; empty when it has not run."""
    path = paths.results_dir(profile) / "index" / f"{notebook}.json"
    folders = [paths.results_dir(profile) / "runs" / run for run in read_json(path)["runs"]] if path.exists() else []
    return {
        folder.name: (read_json(folder / "config.json"), read_json(folder / "provenance.json")["code_hash"])
        for folder in folders
        if folder.exists()
    }


def other_seeds(profile: str, notebook: str, run_ids: Sequence[str]) -> list[str]:
    """Runs that a notebook published earlier under other seeds, alike in all else to some of these: its further seeds."""
    folder = paths.results_dir(profile) / "runs"
    seeds: dict[str, set[int]] = {}
    for run in run_ids:
        config = read_json(folder / run / "config.json")
        seeds.setdefault(_kin(config, code_hash()), set()).add(config["seed"])
    return [
        run
        for run, (config, code) in _published_runs(profile, notebook).items()
        if config["seed"] not in seeds.get(_kin(config, code), {config["seed"]})
    ]


def published_run(profile: str, notebook: str, experiment: str, config: Mapping[str, Any], corpus: str) -> str | None:
    """A run of this code that a notebook published with this configuration, whatever its seed; None if there is none."""
    wanted = _kin({"experiment": experiment, "inputs": {"corpus": corpus}, **config}, code_hash())
    return next((run for run, found in _published_runs(profile, notebook).items() if _kin(*found) == wanted), None)


def load_runs(profile: str, notebooks: Sequence[str]) -> pd.DataFrame:
    """One row a published run: run_id, notebook, experiment, seed, the flat configuration, commit, code_hash.

    Raises
    ------
    KeyMynaError
        When a notebook has not run, a run is missing, or the runs were made from different corpora, encoders or code.
    """
    rows = []
    for notebook in notebooks:
        for run_id in published(profile, notebook)["runs"]:
            folder = paths.results_dir(profile) / "runs" / run_id
            config, provenance = read_json(folder / "config.json"), read_json(folder / "provenance.json")
            rows.append(
                {
                    **config,
                    **{f"input_{k}": v for k, v in config["inputs"].items()},
                    "run_id": run_id,
                    "notebook": notebook,
                    "commit": provenance["commit"],
                    "dirty": provenance["dirty"],
                    "code_hash": provenance["code_hash"],
                }
            )
    runs = pd.DataFrame(rows)
    for column, what in (
        ("input_corpus", "corpora"),
        ("input_pretrain", "encoders"),
        ("code_hash", "versions of the code"),
    ):
        if column in runs and runs[column].nunique() > 1:
            raise KeyMynaError(
                f"the runs of profile {profile!r} were made from {runs[column].nunique()} different "
                f"{what}; make them anew together: ./run_all.sh --profile {profile} --force"
            )
    return runs


def run_file(profile: str, run_id: str, name: str) -> Path:
    """Path of one of a run's files."""
    return paths.results_dir(profile) / "runs" / run_id / name


def config_of(profile: str, run_id: str) -> dict[str, Any]:
    """What a run was asked to do."""
    return read_json(run_file(profile, run_id, "config.json"))


def load_metrics(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """The metrics of runs, long format, stacked."""
    return pd.concat([pd.read_csv(run_file(profile, run_id, "metrics.csv")) for run_id in run_ids], ignore_index=True)


def load_predictions(profile: str, run_id: str) -> pd.DataFrame:
    """The per-track predictions of a run."""
    return pd.read_csv(run_file(profile, run_id, "predictions.csv"))


def save_table(
    name: str, table: pd.DataFrame, trace: Mapping[str, Sequence[str]], *, profile: str, notebook: str, caption: str
) -> None:
    """Write a table to results/<profile>/tables/: NAME.csv, NAME.md and NAME.trace.json.

    Parameters
    ----------
    table : the first columns name the row; every cell that holds a measurement must be traced.
    trace : "row / column" -> ids of the runs behind the cell, where "row" joins the leading label columns by ", ".
    caption : one sentence above the Markdown version; parameters set by hand are named behind it.
    """
    folder = paths.results_dir(profile) / "tables"
    runs = {}
    for run in sorted({run for cell in trace.values() for run in cell}):
        provenance = read_json(paths.results_dir(profile) / "runs" / run / "provenance.json")
        runs[run] = {key: provenance[key] for key in ("commit", "dirty", "code_hash", "notebook", "scale")}
    note_written(*(folder / f"{name}.{suffix}" for suffix in ("csv", "md", "trace.json")))
    write_csv(folder / f"{name}.csv", table)
    if changed := changed_parameters(profile, notebook):
        caption += f" Not the profile's own values: {'; '.join(changed)}."
    write_text(folder / f"{name}.md", f"{caption}\n\n{markdown(table)}\n")
    write_json(
        folder / f"{name}.trace.json",
        {"table": name, "made_by": notebook, "runs": runs, "cells": {cell: list(ids) for cell, ids in trace.items()}},
    )


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""

    def line(values: Sequence[Any]) -> str:
        return "| " + " | ".join("" if pd.isna(v) else str(v) for v in values) + " |"

    return "\n".join([line(table.columns), line(["---"] * table.shape[1]), *map(line, table.to_numpy(dtype=object))])
