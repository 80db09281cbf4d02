"""The paths of a clone and its cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from keymyna_lib.base import paths


@dataclass(frozen=True)
class Project:
    """A clone and its cache; the tests hand in throw-away ones."""

    root: Path = paths.ROOT
    cache: Path = paths.CACHE

    @property
    def made(self) -> Path:
        """Where runs write, laid out as the clone itself; it has the committed results under the same names."""
        return self.root / paths.LOCAL

    @property
    def library(self) -> Path:
        """The library's folder."""
        return self.root / paths.LIBRARY.name

    def source(self, notebook: str) -> Path:
        """The notebook as written, without outputs."""
        return self.root / "notebooks" / f"{notebook}.ipynb"

    def executed(self, profile: str, notebook: str) -> Path:
        """Its executed copy, there only after a success."""
        return self.made / "results" / profile / "notebooks" / f"{notebook}.ipynb"

    def partial(self, profile: str, notebook: str) -> Path:
        """The copy that is being executed, or that a failure left behind."""
        return self.cache / "partial" / profile / f"{notebook}.ipynb"

    def index(self, profile: str, notebook: str) -> Path:
        """What the notebook published: its runs and the files that it made."""
        return self.made / "results" / profile / "index" / f"{notebook}.json"

    def state(self, profile: str, notebook: str) -> Path:
        """The runner's note on its last success on this machine."""
        return self.cache / "state" / profile / f"{notebook}.json"

    def whole_run(self, profile: str) -> Path:
        """How long it took when last all notebooks that run unasked ran in one go, and how many at a time."""
        return self.made / "results" / profile / "run.json"

    def named(self, path: Path) -> str:
        """A file that was made here, by the name that an index has for it and that it keeps when it is published."""
        return path.relative_to(self.made).as_posix()

    def places(self, name: str) -> list[Path]:
        """Where a file that an index names may lie: results and figures as made here, all else in clone or cache."""
        made = name.startswith(("results/", "figures/"))
        return [self.made / name] if made else [self.root / name, self.cache / name]

    def show(self, path: Path) -> str:
        """A path as a reader in the clone types it."""
        return os.path.relpath(path, self.root) if path.is_relative_to(self.root) else str(path)
