"""A notebook at work: the runs that it makes, and the tables and figures that it publishes when it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from keymyna_lib.base import paths
from keymyna_lib.base.checks import broken, one_of
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.base.files import atomic_path, write_json, write_text
from keymyna_lib.report import prose, provenance
from keymyna_lib.report.publication import Staging
from keymyna_lib.report.runs import (
    Run,
    copy_run,
    files_of,
    other_seeds,
    provenance_of,
    published_run,
    run_file,
    traced_to,
    write_csv,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from keymyna_lib.report.traced import TracedTable


class Stage:
    """A notebook in a profile; open it once, in the first cell after the parameters.

    Runs are kept as they end. Tables and figures are staged, and published together by `done`; until then, and after a
    kill, what the notebook published before stays in place (see `publication`).

    Parameters
    ----------
    notebook : its name, without suffix, for instance "20_linear_probe".
    profile : smoke, mini, mini-full, gpu or paper: the scale, and where everything is kept.

    Attributes
    ----------
    runs : ids of the notebook's runs so far, in order: those that it made and those that it took over.

    Raises
    ------
    KeyMynaError
        When there is no such profile; nothing is written then.
    """

    def __init__(self, notebook: str, profile: str):
        if unknown := broken({"profile": profile}, {"profile": one_of(paths.PROFILES)}):
            raise KeyMynaError(unknown[0])
        self.notebook, self.profile = notebook, profile
        self.runs: list[str] = []
        self._files: list[Path] = []
        self._note = ""  # of every caption
        self._staging = Staging(paths.ROOT / paths.LOCAL, profile, notebook)

    @contextlib.contextmanager
    def run(self, experiment: str, *, config: Any, seed: int, inputs: Mapping[str, str]) -> Iterator[Run]:
        """A new run of this notebook, see `runs.Run`."""
        with Run(
            experiment, profile=self.profile, notebook=self.notebook, config=config, seed=seed, inputs=inputs
        ) as run:
            yield run
        self.runs.append(run.run_id)
        self._files += run.files

    def keep_other_seeds(self, run_ids: Sequence[str]) -> None:
        """Take over the further seeds of some runs: what this notebook published earlier, alike in all but the seed.

        Seeds that cannot be taken over are named, here and in the captions of the tables that follow.
        """
        runs, left_out = other_seeds(self.profile, self.notebook, run_ids)
        self._take(runs)
        if left_out:
            seeds = ", ".join(f"{seed} (made {why})" for seed, why in left_out.items())
            self._note = f" Left out are the runs of seed {seeds}; run them again to have them here."
            print(self._note.strip())

    def take_over(self, experiment: str, config: Mapping[str, Any], corpus: str) -> str | None:
        """Take over a run that this notebook published earlier with this configuration; None if there is none."""
        run_id = published_run(self.profile, self.notebook, experiment, config, corpus)
        self._take([run_id] if run_id else [])
        return run_id

    def _take(self, run_ids: Sequence[str]) -> None:
        for run in run_ids:  # a committed one is copied
            copy_run(run_file(self.profile, run, ""), paths.results_dir(self.profile) / "runs")
        self.runs += run_ids
        self._files += [path for run in run_ids for path in files_of(self.profile, run)]

    def figure(
        self,
        figure: Figure,
        name: str,
        *,
        data: pd.DataFrame,
        parameters: Mapping[str, Any],
        runs: Sequence[str],
        seed: int | None = None,
    ) -> None:
        """Stage figures/<profile>/NAME.png, .pdf, .csv (the data drawn) and .json (runs, parameters, provenance)."""

        def place(suffix: str) -> Path:
            return self._staging.path(paths.figures_dir(self.profile) / f"{name}.{suffix}")

        # Without dates, so that the same picture is the same file.
        for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None, "Creator": None})):
            with atomic_path(place(suffix)) as temporary:
                figure.savefig(temporary, format=suffix, metadata=metadata)
        write_csv(place("csv"), data)
        origin = provenance.environment()
        write_json(
            place("json"),
            {
                "figure": name,
                "notebook": self.notebook,
                "scale": self.profile,
                "runs": list(runs),
                "parameters": dict(parameters),
                "seed": seed,
                **{key: origin[key] for key in ("commit", "dirty", "code_hash")},
            },
        )

    def table(self, name: str, table: TracedTable, *, caption: str) -> None:
        """Stage results/<profile>/tables/NAME.csv, .md and .trace.json (cell -> runs -> commit and notebook).

        Parameters
        ----------
        caption : one sentence above the Markdown version. Parameters set by hand are named after it: this notebook's
            own, and those that the runs behind the table were made with.
        """

        def place(suffix: str) -> Path:
            return self._staging.path(paths.results_dir(self.profile) / "tables" / f"{name}.{suffix}")

        run_ids = sorted({run for runs in table.cells.values() for run in runs})
        origins = {run: provenance_of(*traced_to(run, self.profile)) for run in run_ids}
        if changed := self._set_by_hand(origins.values()):
            caption += f" Not the profile's own values: {'; '.join(changed)}."
        caption += self._note
        write_csv(place("csv"), table.frame)
        write_text(place("md"), f"{caption}\n\n{markdown(table.frame)}\n")
        shown = ("commit", "dirty", "code_hash", "notebook", "scale")
        write_json(
            place("trace.json"),
            {
                "table": name,
                "made_by": self.notebook,
                "runs": {run: {key: origin[key] for key in shown} for run, origin in origins.items()},
                "cells": table.cells,
            },
        )

    def say(self, template: str, **given: prose.Table | str | int | float | bool) -> prose.Said:
        """State what the notebook found (see `prose.say`), and stage it as results/<profile>/findings/NOTEBOOK.md."""
        said = prose.say(template, **given)
        path = paths.results_dir(self.profile) / "findings" / f"{self.notebook}.md"
        write_text(self._staging.path(path), f"{said}\n")
        return said

    def _set_by_hand(self, origins: Iterable[Mapping[str, Any]]) -> list[str]:
        """Parameters set by hand in this notebook, and in those that runs of these provenances depend on."""
        told = [origin.get("set_by_hand", {}) for origin in origins]  # older runs have no such entry
        told.append({self.notebook: provenance.set_by_hand().get(self.notebook, [])})
        notebooks = sorted({notebook for each in told for notebook in each})
        return list(dict.fromkeys(line for name in notebooks for each in told for line in each.get(name, [])))

    def done(self, *, outputs: Mapping[str, Any] | None = None, files: Sequence[Path] = ()) -> None:
        """Publish: the runs, and what was staged. Tables and figures that are no longer made are removed.

        The index names all files with their sizes; the runner runs the notebook again when one is missing or was cut
        short.

        Parameters
        ----------
        outputs : plain values that later notebooks need, for instance the hash of the corpus.
        files : further files that others rely on.
        """
        relied_on = {_portable(path): path.stat().st_size for path in (*self._files, *files)}
        self._staging.publish(
            {
                "notebook": self.notebook,
                "runs": self.runs,
                "outputs": dict(outputs or {}),
                "files": relied_on | self._staging.sizes(),
                "code_hash": provenance.code_hash(),
            }
        )


def _portable(path: Path) -> str:
    """A path relative to the cache or the folder that runs write to, where it lies there, or else to the clone."""
    path = Path(path).resolve()
    bases = paths.CACHE, (paths.ROOT / paths.LOCAL).resolve()
    return path.relative_to(next(filter(path.is_relative_to, bases), paths.ROOT)).as_posix()


def markdown(table: pd.DataFrame) -> str:
    """A table as Markdown."""

    def line(values: Sequence[Any]) -> str:
        return "| " + " | ".join("" if pd.isna(v) else str(v) for v in values) + " |"

    return "\n".join([line(table.columns), line(["---"] * table.shape[1]), *map(line, table.to_numpy(dtype=object))])
