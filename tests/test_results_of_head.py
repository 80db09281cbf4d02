"""The committed results, and the cards of the models, are those of this commit's code.

Read it so: after a change of code that may change results, it fails, and names what changed, until the results are made
anew at a clean commit (docs/release.md) and committed. Comments, docstrings, layout, the runner, what does not count in
the cache's keys either (`hashing._PLUMBING`), modules that no notebook imports, and functions that no such module names
may change without that.
"""

import ast
import functools
import io
import json
import subprocess
import tarfile

import pytest

from keymyna_lib.base import files, hashing, paths
from keymyna_lib.key_model import DEFAULT
from keymyna_lib.run import parameters, pipeline
from keymyna_lib.run.project import Project

SPEED = "70_speed"  # run when it is asked for, to measure the machine
MODELS = DEFAULT.parent
imports_of = functools.cache(hashing._imports_of)


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


def commits_of(stored, notebook):
    """The commits that a notebook's runs and figures name, if it has any."""
    index = files.read_json(stored / "index" / f"{notebook}.json")
    origins = [stored / "runs" / run / "provenance.json" for run in index["runs"]]
    origins += [stored.parents[1] / name for name in index["files"] if name.startswith("figures/") and "json" in name]
    return {files.read_json(path)["commit"] for path in origins}


def named_by(node):
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name, asname=str()):
            return name


@functools.cache
def definitions(source):
    """Name -> the code of a source file's functions and classes, the rest under "", each with the names in it."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    found = {"": []}
    for node in tree.body:
        found.setdefault(node.name if isinstance(node, ast.ClassDef | ast.FunctionDef) else "", []).append(node)
    return {
        name: (hashing._dump(nodes), {named_by(one) for top in nodes for one in ast.walk(top)})
        for name, nodes in found.items()
    }


def code_behind(root, start):
    """Part -> code of a source file and of all that it imports of the library in a tree, if anything there names it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "LIBRARY", root / "keymyna_lib")
        sources, todo = {start.stem: start}, list(imports_of(start))
        while todo:
            name = todo.pop()
            if name not in sources and name not in hashing._PLUMBING and not name.startswith("keymyna_lib.run."):
                sources[name] = hashing._source_of(name)
                todo += imports_of(sources[name])
    everything = {(module, name): found for module in sources for name, found in definitions(sources[module]).items()}
    named, last = {"", *definitions(start)}, set()
    while named != last:
        last = named
        named = named.union(*(names for (_, name), (_, names) in everything.items() if name in last))
    return {f"{module} {name}".strip(): code for (module, name), (code, _) in everything.items() if name in named}


def locked(root):
    lines = (root / paths.LOCK.name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))


@functools.cache
def decides(root, profile, notebook, folder):
    """Part -> all that the results of a notebook depend on, in the tree of a commit."""
    cells = parameters.read_cells(root / "notebooks" / f"{notebook}.ipynb")
    code = folder / "code" / root.name / f"{notebook}.py"
    code.parent.mkdir(parents=True, exist_ok=True)
    code.write_text("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    found = {**code_behind(root, code), "the lock": locked(root)}
    for path in (path for kind in ("csv", "toml") for path in (root / "keymyna_lib").rglob(f"*.{kind}")):
        if "run" not in path.relative_to(root).parts:
            found[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
    if notebook == SPEED:  # no weight changes a time
        found["gpu.json"] = hashing.sha256_file(root / "results" / "gpu.json")
    elif any(part.startswith("keymyna_lib.key_model") for part in found):
        models = sorted((root / "keymyna_lib" / MODELS.name).iterdir())
        found |= {path.name: hashing.sha256_file(path) for path in models}
    project = Project(root, folder)
    values = pipeline.resolve(project, pipeline.load_notebooks(project), profile, [])[notebook]
    found["the profile's parameters"] = json.dumps(values, sort_keys=True)
    return found


def changed(then, now):
    return sorted(part for part in then.keys() | now.keys() if then.get(part) != now.get(part))


PUBLISHED = [
    (folder.parent.name, path.stem)
    for folder in sorted(paths.ROOT.glob("results/*/index"))
    for path in sorted(folder.glob("*.json"))
]


def test_all_results_of_mini_are_of_one_commit(tree_of):
    stored = tree_of("HEAD") / "results" / "mini"
    notebooks = [notebook for profile, notebook in PUBLISHED if profile == "mini" and notebook != SPEED]
    made_at = {notebook: commits_of(stored, notebook) for notebook in notebooks}
    assert len(made_at) > 10 and len(set().union(*made_at.values())) == 1, made_at


@pytest.mark.parametrize("profile, notebook", PUBLISHED)
def test_the_commit_of_the_results_had_the_code_of_this_one(profile, notebook, tree_of, tmp_path_factory):
    stored, folder = tree_of("HEAD") / "results" / profile, tmp_path_factory.getbasetemp()
    commits = commits_of(stored, notebook) or commits_of(stored, "00_data")  # the two were run together
    assert commits
    for commit in sorted(commits):
        then, now = (decides(tree_of(each), profile, notebook, folder) for each in (commit, "HEAD"))
        assert not changed(then, now), f"{profile}: {notebook} was made at {commit[:10]}; since then these changed"


@pytest.mark.parametrize("card", sorted(MODELS.glob("*.json")), ids=lambda path: path.stem)
def test_the_commit_of_a_card_had_the_recipe_of_this_one(card, tree_of):
    origin = files.read_json(card)["provenance"]
    assert not origin["dirty"]
    then, now = (
        {**code_behind(root, root / "keymyna_lib" / "experiments" / "recipe.py"), "the lock": locked(root)}
        for root in map(tree_of, (origin["commit"], "HEAD"))
    )
    assert not changed(then, now), f"{card.name} was made at {origin['commit'][:10]}; since then these changed"


def test_the_default_models_card_is_of_its_file():
    assert files.read_json(DEFAULT.with_suffix(".json"))["model"] == hashing.sha256_file(DEFAULT)
