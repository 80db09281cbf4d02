"""`--publish`: what was made here becomes what is committed.

Each notebook's index, runs, tables, figures and executed copy are put in place as a whole, by the journal of
`publication`: after a kill every notebook is as it was before or as it was made here, and the next `--publish` goes on.
At the end, runs that no index names any longer are removed, and the page is made anew.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from keymyna_lib.base import files
from keymyna_lib.report import publication
from keymyna_lib.report.navigation import moved
from keymyna_lib.run import page, pipeline
from keymyna_lib.run.project import Project


def publish(project: Project, profile: str, notebooks: Sequence[str]) -> list[str]:
    """Replace the committed results of some notebooks by those made here; committing them is left to git.

    Parameters
    ----------
    notebooks : their names; all have run here.

    Returns
    -------
    The notebooks that keep earlier results, although they have some: those that were not among `notebooks`.

    Raises
    ------
    KeyMynaError
        When an index is missing or damaged, or a file cannot be moved.
    """
    results = project.root / "results" / profile
    with pipeline.locked(project, profile):
        there = {*notebooks, *(path.stem for path in (results / "notebooks").glob("*.ipynb"))}
        for notebook in notebooks:
            _put_in_place(project, profile, notebook, _elsewhere(project, there))
        if (whole := project.whole_run(profile)).is_file():
            files.write_text(project.root / project.named(whole), whole.read_text(encoding="utf-8"))
        indices = {path.stem: publication.read_index(path) for path in sorted((results / "index").glob("*.json"))}
        named = {run for index in indices.values() for run in index["runs"]}
        for folder in (results / "runs").glob("*"):
            if folder.name not in named:
                files.discard(folder)
        page.write(project, profile, project.root)
    return [name for name in indices if name not in notebooks]


def _elsewhere(project: Project, there: Collection[str]) -> dict[str, Path]:
    """The notebooks without a copy in a profile: as executed in the default profile or, failing that, their source."""
    folders = (project.root / "notebooks", project.root / "results" / "mini" / "notebooks")
    found = {path.stem: path for folder in folders for path in folder.glob("[0-9][0-9]_*.ipynb")}
    return {name: path for name, path in found.items() if name not in there}


def _put_in_place(project: Project, profile: str, notebook: str, elsewhere: Mapping[str, Path]) -> None:
    index = publication.read_index(project.index(profile, notebook))
    staging = publication.Staging(project.root, profile, notebook)
    executed = project.executed(profile, notebook)
    if executed.is_file():  # its links lead to files of the clone, by paths relative to it
        place = project.root / project.named(executed)
        text = executed.read_text(encoding="utf-8")
        files.write_text(staging.path(place), moved(text, executed.parent, place.parent, elsewhere))
    for name in index["files"]:
        if (made := project.made / name).is_file():  # the others are of the cache
            place = staging.path(project.root / name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(made, place)
    staging.publish(index)
