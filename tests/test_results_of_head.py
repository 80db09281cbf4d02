"""The committed results of `mini` are those of this commit's code.

Read it so: after a change of code that may change results, it fails, and names what changed, until the results are made
anew at a clean commit (`./run_all.sh --force --publish`) and committed. Comments, docstrings, layout, the runner, and
code that no notebook imports may change without that.
"""

import functools
import io
import json
import subprocess
import tarfile

import pytest

from keymyna_lib.base import files, hashing, paths
from keymyna_lib.run import parameters, pipeline
from keymyna_lib.run.project import Project

ON_REQUEST = {"70_speed"}  # it measures the machine, whenever it is asked to
code_of, imports_of = functools.cache(hashing._code_of), functools.cache(hashing._imports_of)


def git(*arguments):
    return subprocess.run(["git", "-C", paths.ROOT, *arguments], capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def tree_of(tmp_path_factory):
    """The folder with the files of a commit; the tests skip where the commit is not in this clone."""

    @functools.cache
    def unpacked(commit):
        try:
            packed = git("archive", "--format=tar", commit)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip(f"commit {commit} is not in this clone: its code cannot be compared")
        folder = tmp_path_factory.mktemp("tree")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        return folder

    return unpacked


@pytest.fixture(scope="module")
def stored(tree_of):
    return tree_of("HEAD") / "results" / "mini"


def commits_of(stored, notebook):
    """The commits that a notebook's runs and figures name."""
    index = files.read_json(stored / "index" / f"{notebook}.json")
    origins = [stored / "runs" / run / "provenance.json" for run in index["runs"]]
    origins += [stored.parents[1] / name for name in index["files"] if name.startswith("figures/") and "json" in name]
    return {files.read_json(path)["commit"] for path in origins}


def decides(root, notebook, folder):
    """Part -> hash of all that the results of a notebook depend on, in the tree of a commit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "LIBRARY", root / "keymyna_lib")
        cells = parameters.read_cells(root / "notebooks" / f"{notebook}.ipynb")
        code = folder / f"{hashing.sha256_bytes(str(root).encode())[:8]}_{notebook}.py"
        code.write_text("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
        found, todo = {"the notebook's code": code_of(code)}, list(imports_of(code))
        while todo:
            name = todo.pop()
            if name not in found and name not in hashing._PLUMBING and not name.startswith("keymyna_lib.run."):
                source = hashing._source_of(name)
                found[name] = code_of(source)
                todo += imports_of(source)
        locked = (root / paths.LOCK.name).read_text(encoding="utf-8").splitlines()
        found["the lock"] = "\n".join(line for line in locked if not line.lstrip().startswith("#"))
        for path in (path for kind in ("csv", "toml") for path in (root / "keymyna_lib").rglob(f"*.{kind}")):
            if "run" not in path.relative_to(root).parts:
                found[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
        project = Project(root, folder)
        values = pipeline.resolve(project, pipeline.load_notebooks(project), "mini", [])[notebook]
        found["the profile's parameters"] = json.dumps(values, sort_keys=True)
    return found


NOTEBOOKS = [path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb")) if path.stem not in ON_REQUEST]


def test_results_of_one_commit(stored):
    made_at = {notebook: commits_of(stored, notebook) for notebook in NOTEBOOKS}
    assert len(set().union(*made_at.values())) == 1, made_at


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_the_commit_of_the_results_had_the_code_of_this_one(notebook, stored, tree_of, tmp_path):
    commits = commits_of(stored, notebook) or set().union(*(commits_of(stored, each) for each in NOTEBOOKS))
    for commit in sorted(commits):
        then, now = (decides(tree_of(each), notebook, tmp_path) for each in (commit, "HEAD"))
        changed = sorted(part for part in then.keys() | now.keys() if then.get(part) != now.get(part))
        assert not changed, f"{notebook} was made at {commit[:10]}, and since then these changed: {', '.join(changed)}"
