"""`--publish`: the committed results become those made here, notebook by notebook, and lose what nothing names."""

import nbformat
import pytest
from nbformat import v4

from keymyna_lib.base import files
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import publication
from keymyna_lib.report.stage import Stage
from keymyna_lib.report.traced import TracedTable
from keymyna_lib.run import page
from keymyna_lib.run.project import Project
from keymyna_lib.run.publish import publish


@pytest.fixture
def project(home):
    """A clone with two notebooks, whose stages write into it."""
    made = Project(home, home / ".cache")
    described = "".join(f'[{name}]\ntitle = "{name}"\nneeds = []\nminutes = {{}}\n' for name in ("10_a", "20_b"))
    files.write_text(made.library / "run" / "pipeline.toml", described)
    for name in ("10_a", "20_b"):
        parameters = v4.new_code_cell('profile = "smoke"  # scale', metadata={"tags": ["parameters"]})
        files.write_text(made.source(name), nbformat.writes(v4.new_notebook(cells=[parameters])))
    return made


def make(project, notebook, seed=0, tables=("t",)):
    """A run of a notebook with tables of its one number, its seed; the run's id."""
    stage = Stage(notebook, "smoke")
    with stage.run("probe", config={}, seed=seed, inputs={"corpus": "c1"}) as run:
        run.metric("all", "test", "accuracy", seed, 4)
        large = run.artifact_path("head.safetensors")
        files.write_text(large, "weights")
    for name in tables:
        table = TracedTable(["system"])
        table.row("ours").cell("score", str(seed), [run.run_id])
        stage.table(f"{notebook}_{name}", table, caption="A caption.")
    stage.done()
    files.write_text(project.executed("smoke", notebook), f'{{"seed": {seed}}}')
    return run.run_id


def below(root):
    """The files of a profile by name with their content, the page left out: its links differ."""
    left_out = {page.NAME, ".publishing.lock"}
    return {
        path.relative_to(root / "results").as_posix(): path.read_bytes()
        for path in (root / "results" / "smoke").rglob("*")
        if path.is_file() and path.name not in left_out
    }


def test_nothing_is_committed_before(project):
    make(project, "10_a")
    assert not (project.root / "results").exists() and not (project.root / "figures").exists()


def test_all_of_a_run_is_put_in_place_and_what_was_there_goes(project):
    make(project, "10_a", tables=("t", "u"))
    first = make(project, "20_b")
    assert publish(project, "smoke", ["10_a", "20_b"]) == []
    assert below(project.root) == below(project.made)
    again = make(project, "20_b")
    other = make(project, "10_a", seed=3)
    assert again == first.replace("-a1", "-a2")  # attempts are counted across both
    assert publish(project, "smoke", ["10_a", "20_b"]) == []
    committed = project.root / "results" / "smoke"
    assert {path.name for path in (committed / "runs").iterdir()} == {again, other}
    assert {path.stem for path in (committed / "tables").glob("*.csv")} == {"10_a_t", "20_b_t"}
    before = below(project.root)
    assert before.items() <= below(project.made).items()  # where earlier runs stay
    publish(project, "smoke", ["10_a", "20_b"])
    assert below(project.root) == before


def test_the_time_of_the_last_whole_run_is_published_and_stays(project):
    make(project, "10_a")
    files.write_json(project.whole_run("smoke"), {"jobs": 2, "seconds": 60.0})
    publish(project, "smoke", ["10_a"])
    project.whole_run("smoke").unlink()
    publish(project, "smoke", ["10_a"])
    assert files.read_json(project.root / "results" / "smoke" / "run.json") == {"jobs": 2, "seconds": 60.0}


def test_notebooks_that_were_not_run_keep_their_committed_results(project):
    runs = [make(project, "10_a"), make(project, "20_b")]
    publish(project, "smoke", ["10_a", "20_b"])
    files.discard(project.made)
    new = make(project, "20_b", seed=5)
    assert publish(project, "smoke", ["20_b"]) == ["10_a"]
    committed = project.root / "results" / "smoke"
    assert {path.name for path in (committed / "runs").iterdir()} == {runs[0], new}
    assert publication.read_index(committed / "index" / "10_a.json")["runs"] == [runs[0]]
    with pytest.raises(KeyMynaError, match="10_a"):
        publish(project, "smoke", ["10_a"])  # it has not run here


def test_the_committed_page_is_of_the_committed_results(project):
    make(project, "20_b", seed=7)
    publish(project, "smoke", ["20_b"])
    html = (project.root / "results" / "smoke" / page.NAME).read_text()
    assert "nb-20_b" in html and 'id="table-20_b_t"' in html
    assert not (project.made / "results" / "smoke" / page.NAME).exists()


def test_a_publication_that_was_cut_short_is_completed_by_the_next(project):
    for seed in (0, 1):
        for notebook in ("10_a", "20_b"):
            make(project, notebook, seed=seed)
        if seed == 0:
            publish(project, "smoke", ["10_a", "20_b"])
    before, moved, move = below(project.root), [], publication._move

    def move_some(path, final):
        if len(moved) == 3:
            raise KeyMynaError("cut short")
        moved.append(final)
        move(path, final)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyMynaError, match="cut short"):
        patch.setattr(publication, "_move", move_some)
        publish(project, "smoke", ["10_a", "20_b"])
    now = below(project.root)
    assert all(now[name] == content for name, content in before.items() if "20_b" in name)  # not touched yet
    assert publish(project, "smoke", ["10_a", "20_b"]) == []
    assert below(project.root).items() <= below(project.made).items()
    runs = [publication.read_index(project.index("smoke", name))["runs"] for name in ("10_a", "20_b")]
    assert sorted(path.name for path in (project.root / "results/smoke/runs").iterdir()) == sorted(
        run for each in runs for run in each
    )
