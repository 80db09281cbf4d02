"""Whatever is killed and when: tables, figures and index of a notebook are either all of before or all of after."""

import os
import shutil
from pathlib import Path

import pytest

from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import publication
from keymyna_lib.report.publication import Staging

BEFORE = {"tables/a.csv": "a1", "tables/b.csv": "b1", "figures/p.png": "p1"}
AFTER = {"tables/b.csv": "b2 longer", "figures/p.png": "p2", "figures/q.png": "q2"}


def final(root, name):
    return root / ("figures/smoke" if name.startswith("figures") else "results/smoke") / name.removeprefix("figures/")


def stage(root, made):
    staging = Staging(root, "smoke", "20_x")
    for name, text in made.items():
        files.write_text(staging.path(final(root, name)), text)
    return staging


def publish(root, made):
    staging = stage(root, made)
    staging.publish({"runs": [made.get("tables/b.csv")], "outputs": {}, "files": staging.sizes()})


def shown(root):
    """What lies in the clone: text by path, and the index; nothing staged or half-way."""
    found = {
        path.relative_to(root).as_posix(): path.read_text()
        for folder in ("results/smoke/tables", "figures/smoke")
        for path in (root / folder).rglob("*")
        if path.is_file()
    }
    return found, publication.read_index(root / "results/smoke/index/20_x.json")


def expected(root, made):
    found = {final(root, name).relative_to(root).as_posix(): text for name, text in made.items()}
    sizes = {name: len(text) for name, text in found.items()}
    return found, {"runs": [made["tables/b.csv"]], "outputs": {}, "files": sizes}


def killed_at(step, work):
    """Do some work in a process of its own, which dies just before its nth change of the disk; False if it ended."""
    child = os.fork()
    if not child:
        left = [step]

        def counted(function):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return function(*arguments, **options)

            return call

        os.replace, os.rename, os.mkdir = counted(os.replace), counted(os.rename), counted(os.mkdir)
        os.unlink, os.rmdir = counted(os.unlink), counted(os.rmdir)
        Path.unlink = counted(Path.unlink)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_what_is_published_replaces_what_was(tmp_path):
    publish(tmp_path, BEFORE)
    assert shown(tmp_path) == expected(tmp_path, BEFORE)
    publish(tmp_path, AFTER)
    assert shown(tmp_path) == expected(tmp_path, AFTER)
    assert not list((tmp_path / "results/smoke/.staged").iterdir())
    assert not list((tmp_path / "results/smoke/.publishing").iterdir())


def test_nothing_changes_before_a_notebook_is_done(tmp_path):
    publish(tmp_path, BEFORE)
    stage(tmp_path, AFTER)
    assert shown(tmp_path) == expected(tmp_path, BEFORE)
    publish(tmp_path, {"tables/b.csv": "b3"})  # what the unfinished one staged is gone
    assert shown(tmp_path) == expected(tmp_path, {"tables/b.csv": "b3"})


def test_a_kill_at_any_moment_leaves_all_of_before_or_all_of_after(tmp_path):
    outcomes = []
    for step in range(1000):
        root = tmp_path / str(step)
        publish(root, BEFORE)
        killed = killed_at(step, lambda root=root: publish(root, AFTER))
        if not (root / "results/smoke/.publishing/20_x").exists() and outcomes[-1:] != ["after"]:
            assert shown(root) == expected(root, BEFORE)  # without any help
        Staging(root, "smoke", "30_other")  # whoever comes next
        outcomes.append("after" if shown(root) == expected(root, AFTER) else "before")
        assert shown(root) == expected(root, AFTER if outcomes[-1] == "after" else BEFORE)
        assert not list((root / "results/smoke/.publishing").iterdir())
        shutil.rmtree(root)
        if not killed:
            break
    turn = outcomes.index("after")
    assert turn > 5 and len(outcomes) - turn > 5 and set(outcomes[:turn]) == {"before"} == set(outcomes) - {"after"}
    assert set(outcomes[turn:]) == {"after"}


def test_two_processes_stage_apart_and_the_last_to_publish_is_whole(tmp_path):
    other = stage(tmp_path, BEFORE)
    child = os.fork()
    if not child:
        publish(tmp_path, AFTER)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert shown(tmp_path) == expected(tmp_path, AFTER)
    other.publish({"runs": ["b1"], "outputs": {}, "files": other.sizes()})
    assert shown(tmp_path) == expected(tmp_path, BEFORE)


def test_completing_is_itself_safe_from_kills(tmp_path):
    for step in range(1000):
        root = tmp_path / str(step)
        publish(root, BEFORE)
        staging = stage(root, AFTER)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(publication, "_complete", lambda *_: None)  # killed right after the rename
            staging.publish({"runs": ["b2 longer"], "outputs": {}, "files": staging.sizes()})
        killed = killed_at(step, lambda root=root: publication.complete(root, "smoke"))
        publication.complete(root, "smoke")
        assert shown(root) == expected(root, AFTER)
        if not killed:
            break
    assert step > 5


def test_a_notebook_that_is_done_stages_nothing_more(tmp_path):
    staging = stage(tmp_path, BEFORE)
    staging.publish({"runs": [], "outputs": {}, "files": staging.sizes()})
    for again in (lambda: staging.path(tmp_path / "x"), lambda: staging.publish({"files": {}})):
        with pytest.raises(KeyMynaError, match="from its first cell"):
            again()


def test_what_cannot_be_moved_is_named_and_moved_later(tmp_path):
    publish(tmp_path, BEFORE)
    obstacle = tmp_path / "figures/smoke/q.png"
    obstacle.mkdir()
    with pytest.raises(KeyMynaError, match=r"cannot write .*q\.png"):
        publish(tmp_path, AFTER)
    obstacle.rmdir()
    publication.complete(tmp_path, "smoke")
    assert shown(tmp_path) == expected(tmp_path, AFTER)
