"""Stored runs: how they are written, and how later notebooks and tables read them.

A run is one immutable directory, results/<profile>/runs/<id>/:

    config.json       what was asked for, and the hashes of what went in
    metrics.csv       one number per row, columns METRIC_COLUMNS
    predictions.csv   per track: track_id, reference, estimate, ... (where there are any)
    provenance.json   commit, dirty flag, code hash, packages, device, start and end, notebook, scale, and the
                      parameters set by hand

The id is experiment-hash-sSEED-aATTEMPT; the hash covers configuration, seed, code and inputs, so a repeat of the
same run is a new attempt and nothing is overwritten. A notebook that is done publishes the ids of its runs in
results/<profile>/index/<notebook>.json (see `stage.Stage`); later notebooks and their tables read nothing else.

All of this lies in the folder `local` of the clone, where only what was made here is read: a notebook that has not run
here counts as not run, whatever is committed. There are two exceptions. Further seeds (`other_seeds`, `published_run`):
of a notebook that has not run here, the committed runs of the same code are taken over, that is, copied. And another
profile, with which a reader compares its own (`or_committed`).
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import discard, read_json, write_json, write_text
from keymyna_lib.base.hashing import sha256_file, sha256_json
from keymyna_lib.report import provenance, publication

METRIC_COLUMNS = [
    "run_id",
    "experiment",
    "dataset",  # source of the tracks, or "all"
    "split",
    "condition",  # what was done to the tracks or asked of them: an augmentation, a property, a pilot's learning rate
    "features",  # an encoder's or others, as named in the tables
    "layer",  # of the encoder: "patches", "layer 1", ..., "embedding"; "input" where there is no encoder
    "budget",  # labelled training tracks; 0 for all
    "metric",
    "value",
    "n",
    "seed",
]  # condition, features, layer and budget are empty where they do not apply


class Run:
    """A run being written; use it as a context manager.

    Its directory appears whole when the block ends, and not at all when it raises. Large files and unfinished work are
    in the cache, and stay there after a failure.

    Parameters
    ----------
    experiment : what kind of run, for instance "linear_probe".
    profile : smoke, mini, mini-full, gpu or paper: the scale, and where it is kept.
    notebook : the notebook that makes it, without suffix.
    config : a dataclass or dictionary of plain values, everything that the numbers depend on.
    seed : the run's seed.
    inputs : name -> hash of what went in: "corpus", "pretrain" (the encoder).

    Attributes
    ----------
    run_id : known once the block is entered.
    files : all that was written, known once the block has ended.
    """

    def __init__(
        self, experiment: str, *, profile: str, notebook: str, config: Any, seed: int, inputs: Mapping[str, str]
    ):
        self.experiment, self.profile, self.notebook, self.seed = experiment, profile, notebook, seed
        values = asdict(config) if is_dataclass(config) else dict(config)
        self.config = {"experiment": experiment, "seed": seed, "inputs": dict(inputs), **values}
        self._notebook_hash = provenance.notebook_hash(notebook)
        self._identity = (
            f"{experiment}-{sha256_json([self.config, provenance.code_hash(), self._notebook_hash])[:10]}-s{seed}"
        )
        self.run_id = ""
        self.files: list[Path] = []
        self._metrics: list[dict[str, Any]] = []
        self._predictions: pd.DataFrame | None = None
        self._tables: dict[str, pd.DataFrame] = {}
        self._artifacts: dict[str, Path] = {}

    def __enter__(self) -> Run:
        places = [folder(self.profile) / "runs" for folder in (paths.results_dir, paths.committed_dir)]
        places[0].mkdir(parents=True, exist_ok=True)
        taken = [int(path.name.rsplit("-a", 1)[1]) for runs in places for path in runs.glob(f"{self._identity}-a*")]
        self.run_id = f"{self._identity}-a{max(taken, default=0) + 1}"
        self.started = provenance.now()
        return self

    def metric(
        self,
        dataset: str,
        split: str,
        metric: str,
        value: float,
        n: int,
        *,
        condition: str = "",
        features: str | None = None,
        layer: str = "",
        budget: int | None = None,
    ) -> None:
        """Record one number, measured on `n` tracks (or windows, where it is of a layer); see METRIC_COLUMNS.

        Features and label budget are those of the run's configuration where they are not given.
        """
        self._metrics.append(
            {
                "run_id": self.run_id,
                "experiment": self.experiment,
                "dataset": dataset,
                "split": split,
                "condition": condition,
                "features": self.config.get("features", "") if features is None else features,
                "layer": layer,
                "budget": self.config.get("budget") if budget is None else budget,
                "metric": metric,
                "value": float(value),
                "n": int(n),
                "seed": self.seed,
            }
        )

    def predictions(self, table: pd.DataFrame) -> None:
        """Record what was predicted for each track: track_id, reference, estimate, and any further columns."""
        if not {"track_id", "reference", "estimate"} <= set(table.columns):
            raise KeyMynaError("predictions need the columns track_id, reference and estimate.")
        self._predictions = table

    def attach(self, name: str, table: pd.DataFrame) -> None:
        """Store a further table with the run, as NAME.csv."""
        self._tables[name] = table

    def artifact_path(self, name: str) -> Path:
        """Where to write a large file of this run: in the cache, not committed."""
        self._artifacts[name] = _artifact_path(self.profile, self.run_id, name)
        return self._artifacts[name]

    def resumable_path(self, name: str) -> Path:
        """Where to keep unfinished work; the same place for every attempt at this run until one succeeds."""
        return paths.CACHE / "unfinished" / self.profile / self._identity / name

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is not None:
            return
        final = paths.results_dir(self.profile) / "runs" / self.run_id
        folder = Path(tempfile.mkdtemp(dir=final.parent, prefix=".unfinished-"))
        try:
            folder.chmod(0o755)
            write_json(folder / "config.json", self.config)
            metrics = pd.DataFrame(self._metrics, columns=METRIC_COLUMNS).astype({"budget": "Int64"})
            write_csv(folder / "metrics.csv", metrics)
            if self._predictions is not None:
                write_csv(folder / "predictions.csv", self._predictions)
            for name, table in self._tables.items():
                write_csv(folder / f"{name}.csv", table)
            write_json(
                folder / "provenance.json",
                {
                    **provenance.environment(),
                    "run_id": self.run_id,
                    "notebook": self.notebook,
                    "notebook_hash": self._notebook_hash,
                    "scale": self.profile,
                    "artifacts": {name: sha256_file(path) for name, path in self._artifacts.items()},
                    "started": self.started,
                    "ended": provenance.now(),
                    "corpus_hash": self.config["inputs"].get("corpus"),
                    "set_by_hand": _concerning(self.profile, self.notebook, self.config["inputs"]),
                },
            )
            os.replace(folder, final)
            shutil.rmtree(paths.CACHE / "unfinished" / self.profile / self._identity, ignore_errors=True)
            self.files = [*final.iterdir(), *self._artifacts.values()]
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _concerning(profile: str, notebook: str, inputs: Mapping[str, str]) -> dict[str, list[str]]:
    """The parameters set by hand without those of notebooks that made another corpus than that of a run."""
    told = provenance.set_by_hand()
    for other in set(told) - {notebook}:
        outputs = published(profile, other)["outputs"] if _index(profile, other).exists() else {}
        # An encoder of another notebook's run may have been trained on either corpus.
        if "folder" in outputs and outputs["corpus"] != inputs.get("corpus") and "encoder_run" not in inputs:
            del told[other]
    return told


def _index(profile: str, notebook: str) -> Path:
    return paths.results_dir(profile) / "index" / f"{notebook}.json"


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table atomically, without index, floats with six decimals: repeats are the same byte for byte."""
    write_text(path, table.to_csv(index=False, float_format="%.6f"))


def _artifact_path(profile: str, run_id: str, name: str) -> Path:
    return paths.CACHE / "artifacts" / profile / run_id / name


def artifact(profile: str, run_id: str, name: str) -> Path:
    """Path of a run's large file.

    Raises
    ------
    KeyMynaError
        When it is not in this machine's cache, or is not what the run wrote.
    """
    path = _artifact_path(profile, run_id, name)
    origin = provenance_of(profile, run_id)
    if not path.exists() or sha256_file(path) != origin["artifacts"][name]:
        raise KeyMynaError(
            f"{name} of run {run_id} is missing from this machine's cache, or damaged; make it again: "
            f"./run_all.sh --profile {profile} --only {origin['notebook'][:2]} --force"
        )
    return path


def published(profile: str, notebook: str, *, or_committed: bool = False) -> dict[str, Any]:
    """What a notebook published last.

    Parameters
    ----------
    or_committed : take what is committed where the notebook has not run here: for another profile than the reader's
        own, which is compared with it and need not have run.

    Raises
    ------
    KeyMynaError
        When it has not run here in this profile.
    """
    path = _index(profile, notebook)
    if or_committed and not path.exists():
        path = paths.committed_dir(profile) / "index" / path.name
    if not path.exists():
        raise KeyMynaError(
            f"notebook {notebook} has not run here in profile {profile!r}: "
            f"./run_all.sh --profile {profile} --only {notebook[:2]}"
        )
    return publication.read_index(path)


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations agree in all that both name, the seed and the inputs excepted."""
    return all(one[key] == other[key] for key in one.keys() & other.keys() - {"seed", "inputs"})


def _kin(config: Mapping[str, Any], code: str) -> str:
    """What the runs of one configuration share across seeds: configuration without the seed, corpus and code."""
    shared = {key: value for key, value in config.items() if key not in ("seed", "inputs")}
    return sha256_json([shared, config["inputs"].get("corpus"), code])


def _published_runs(profile: str, notebook: str) -> dict[str, tuple[dict[str, Any], str]]:
    """Run id -> (configuration, code hash) of what a notebook published last, here or else as committed."""
    indices = [folder(profile) / "index" / f"{notebook}.json" for folder in (paths.results_dir, paths.committed_dir)]
    runs = next((publication.read_index(path)["runs"] for path in indices if path.exists()), [])
    folders = [_folder(profile, run) for run in runs]
    return {
        folder.name: (read_json(folder / "config.json"), read_json(folder / "provenance.json")["code_hash"])
        for folder in folders
        if folder.exists()
    }


def other_seeds(profile: str, notebook: str, run_ids: Sequence[str]) -> tuple[list[str], dict[int, str]]:
    """Runs that a notebook published earlier and that differ from some of these by the seed alone: further seeds.

    Returns
    -------
    runs : their ids.
    left_out : the seeds of runs that would belong to them, had they not been made by other code or on another corpus;
        and which of the two.
    """
    made = [config_of(profile, run) for run in run_ids]
    code = provenance.code_hash()
    seeds: dict[str, set[int]] = {}
    for config in made:
        seeds.setdefault(_kin(config, code), set()).add(config["seed"])
    found, left_out = [], {}
    for run, (config, its_code) in _published_runs(profile, notebook).items():
        if config["seed"] not in seeds.get(_kin(config, its_code), {config["seed"]}):
            found.append(run)
        elif _kin(config, its_code) not in seeds and any(_alike(config, each) for each in made):
            left_out[config["seed"]] = "by another version of the code" if its_code != code else "on another corpus"
    own = {config["seed"] for config in made} | {config_of(profile, run)["seed"] for run in found}
    return found, {seed: why for seed, why in sorted(left_out.items()) if seed not in own}


def published_run(profile: str, notebook: str, experiment: str, config: Mapping[str, Any], corpus: str) -> str | None:
    """A run that a notebook published with this code and configuration, whatever its seed; None if there is none."""
    wanted = _kin({"experiment": experiment, "inputs": {"corpus": corpus}, **config}, provenance.code_hash())
    return next((run for run, found in _published_runs(profile, notebook).items() if _kin(*found) == wanted), None)


def load_runs(profile: str, notebooks: Sequence[str], *, or_committed: bool = False) -> pd.DataFrame:
    """The runs that notebooks published last, see `describe_runs`.

    Parameters
    ----------
    or_committed : see `published`.

    Raises
    ------
    KeyMynaError
        When a notebook has not run, or as `describe_runs`.
    """
    return describe_runs(
        profile, [run for each in notebooks for run in published(profile, each, or_committed=or_committed)["runs"]]
    )


def describe_runs(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """One row per run: run_id, notebook, experiment, seed, its configuration, input_<name>, commit, dirty, code_hash.

    Raises
    ------
    KeyMynaError
        When a run is missing, or when the runs were made from different corpora, encoders or code.
    """
    rows = []
    for run_id in run_ids:
        config, origin = config_of(profile, run_id), provenance_of(profile, run_id)
        shown = {key: origin[key] for key in ("notebook", "commit", "dirty", "code_hash")}
        inputs = {f"input_{name}": value for name, value in config["inputs"].items()}
        rows.append({**config, **inputs, "run_id": run_id, **shown})
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


def files_of(profile: str, run_id: str) -> list[Path]:
    """All files of a run: those in its directory, and of its large files those in this machine's cache."""
    folders = _folder(profile, run_id), _artifact_path(profile, run_id, "")
    return [path for folder in folders for path in sorted(folder.glob("*"))]


def run_file(profile: str, run_id: str, name: str) -> Path:
    """Path of one of a run's files."""
    return _folder(profile, run_id) / name


def _folder(profile: str, run_id: str) -> Path:
    """The directory of a run: as made here, or else the committed one."""
    here, committed = (folder(profile) / "runs" / run_id for folder in (paths.results_dir, paths.committed_dir))
    return committed if committed.exists() and not here.exists() else here


def copy_run(run: Path, runs: Path) -> None:
    """Copy the directory of a run into a folder of runs, as a whole, if it is not there."""
    if not (copy := runs / run.name).exists():
        unfinished = runs / f".unfinished-{run.name}"
        discard(unfinished)
        shutil.copytree(run, unfinished)
        os.replace(unfinished, copy)


def config_of(profile: str, run_id: str) -> dict[str, Any]:
    """The configuration of a run, with its experiment, seed and inputs."""
    return read_json(run_file(profile, run_id, "config.json"))


def name_elsewhere(run_id: str, of: str, profile: str) -> str:
    """What a run of profile `of` is called in the traces of a profile.

    >>> name_elsewhere("probe-0123456789-s0-a1", "mini-full", "mini")
    'mini-full/probe-0123456789-s0-a1'
    """
    return run_id if of == profile else f"{of}/{run_id}"


def traced_to(run: str, profile: str) -> tuple[str, str]:
    """Profile and id of a run as the traces of a profile call it, see `name_elsewhere`.

    >>> traced_to("mini-full/probe-0123456789-s0-a1", "mini")
    ('mini-full', 'probe-0123456789-s0-a1')
    """
    of, _, run_id = run.rpartition("/")
    return of or profile, run_id


def provenance_of(profile: str, run_id: str) -> dict[str, Any]:
    """Where a run comes from: commit, code, packages, machine, notebook, time."""
    return read_json(run_file(profile, run_id, "provenance.json"))


def load_metrics(profile: str, run_ids: Sequence[str]) -> pd.DataFrame:
    """The metrics of runs, one number per row, columns METRIC_COLUMNS; text that does not apply is empty.

    Raises
    ------
    KeyMynaError
        When a run was stored by an earlier version, with other columns.
    """
    text = ["condition", "features", "layer"]
    tables = []
    for run_id in run_ids:
        path = run_file(profile, run_id, "metrics.csv")
        table = pd.read_csv(path, dtype={"budget": "Int64"} | dict.fromkeys(text, str))
        if list(table) != METRIC_COLUMNS:
            raise KeyMynaError(f"{path}: columns {', '.join(table)}: made by another version; run its notebook again.")
        tables.append(table.fillna(dict.fromkeys(text, "")))
    return pd.concat(tables, ignore_index=True)


def load_predictions(profile: str, run_id: str) -> pd.DataFrame:
    """The per-track predictions of a run."""
    return pd.read_csv(run_file(profile, run_id, "predictions.csv"))
