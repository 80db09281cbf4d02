"""`./run_all.sh --verify`: doctored tables are told from those that another machine's rounding makes."""

import dataclasses
import json
import subprocess

import nbformat
import pytest
from nbformat import v4

from keymyna_lib.base import files, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.run import page, pipeline, stored, verify
from keymyna_lib.run.project import Project

GAIN = """head,labels,gain,verdict,seeds
linear probe,48 labels,"+11.6 [+7.1, +16.4]",better,3
linear probe,150 labels,"+2.0 [+0.1, +4.0]",better,3
"wide MLP, shifted",48 labels,"+2.3 [-1.0, +5.7]",undecided,3
wide MLP,150 labels,not run,,0
"""
CELLS = {
    f"{row} / {column}": ["run-1"]
    for row in ("linear probe, 48 labels", "linear probe, 150 labels", "wide MLP, shifted, 48 labels")
    for column in ("gain", "verdict")
}
TRACE = json.dumps({"made_by": "90_tables", "cells": CELLS})
GAINS = stored.parse("gains", GAIN, "Gains.\n\n| head |", TRACE)


def doctored(old: str, new: str) -> verify.Comparison:
    """How the table with one change compares with the table as it was."""
    assert GAIN.count(old) == 1
    return verify.compare("gains", stored.parse("gains", GAIN.replace(old, new), "", TRACE), GAINS)


def outcomes(found: verify.Comparison) -> dict[str, int]:
    """The outcomes other than that a cell is the same."""
    return {outcome: n for outcome, n in found.cells.items() if outcome != verify.SAME}


def test_a_table_agrees_with_itself():
    found = verify.compare("gains", GAINS, GAINS)
    assert found.cells == {verify.SAME: 20} and found.status == "the same" and not found.notes


@pytest.mark.parametrize("old, new, within", [
    # the interval is 9.3 wide: a quarter is more than 2 points, so 2 and one digit for rounding; its ends twice that
    ("+11.6 [+7.1, +16.4]", "+13.7 [+7.1, +16.4]", True),
    ("+11.6 [+7.1, +16.4]", "+13.8 [+7.1, +16.4]", False),
    ("+11.6 [+7.1, +16.4]", "+9.5 [+3.0, +16.4]", True),
    ("+11.6 [+7.1, +16.4]", "+9.4 [+3.0, +16.4]", False),
    ("+11.6 [+7.1, +16.4]", "+11.6 [+2.8, +16.4]", False),
    ("+11.6 [+7.1, +16.4]", "+11.6 [+7.1, +20.6]", True),
    # 3.9 wide: a quarter is 0.975, less than the 1 point that is always allowed
    ("+2.0 [+0.1, +4.0]", "+3.1 [+0.2, +4.9]", True),
    ("+2.0 [+0.1, +4.0]", "+3.2 [+0.2, +4.9]", False),
    # 6.7 wide: 1.675 and one digit
    ("+2.3 [-1.0, +5.7]", "+4.0 [-0.2, +7.0]", True),
    ("+2.3 [-1.0, +5.7]", "+4.1 [-0.2, +7.0]", False),
])  # fmt: skip
def test_a_score_may_move_by_a_share_of_its_interval(old, new, within):
    assert outcomes(doctored(old, new)) == {verify.WITHIN if within else verify.DIFFERS: 1}


def test_a_changed_verdict_differs_and_a_close_call_is_called_one():
    """The second row's interval ends 0.1 above zero: undecided on another machine is no contradiction."""
    assert outcomes(doctored(",better,3\nlinear probe,150", ",undecided,3\nlinear probe,150")) == {verify.DIFFERS: 1}
    assert outcomes(doctored("undecided", "worse")) == {verify.CLOSE: 1}  # +2.3 [-1.0, +5.7]
    flipped = doctored('"+2.0 [+0.1, +4.0]",better', '"+1.4 [-1.0, +3.7]",undecided')
    assert outcomes(flipped) == {verify.CLOSE: 2}
    assert flipped.status == "agrees" and all("close call" in note for note in flipped.notes)
    assert outcomes(doctored('"+2.0 [+0.1, +4.0]",better', '"-2.0 [-4.0, -0.1]",worse')) == {verify.DIFFERS: 2}
    assert outcomes(doctored('"+2.0 [+0.1, +4.0]",better', '"+2.0 [+0.1, +4.0]",worse')) == {verify.DIFFERS: 1}


@pytest.mark.parametrize("old, new, note", [
    ('"wide MLP, shifted",48 labels,"+2.3 [-1.0, +5.7]",undecided,3\n', "", "wide MLP, shifted, 48 labels is missing"),
    ("wide MLP,150", "linear probe,all 9 labels,\"+1.0 [+0.5, +1.5]\",better,3\nwide MLP,150", "all 9 labels is new"),
    ("undecided,3", "undecided,2", "3 committed, 2 here"),
    ("not run,,0", '"+1.0 [+0.5, +1.5]",,0', "not run committed"),
    ("+2.3 [-1.0, +5.7]", "not run", "not run here"),
    ("+2.3 [-1.0, +5.7]", "+2.3", "+2.3 here"),
])  # fmt: skip
def test_rows_counts_and_what_was_not_run_are_exact(old, new, note):
    found = doctored(old, new)
    assert outcomes(found) == {verify.DIFFERS: 1} and found.status == "differs"
    assert len(found.notes) == 1 and note in found.notes[0]


def test_columns_that_come_and_go_differ():
    without = stored.parse("gains", GAIN.replace("seeds", "draws"), "", TRACE)
    assert outcomes(verify.compare("gains", without, GAINS)) == {verify.DIFFERS: 2}


@pytest.mark.parametrize("column, there, here, outcome", [
    ("minutes", "1.0", "99.0", verify.TIMING),
    ("time [s]", "1.0", "99.0", verify.TIMING),
    ("tempo", "1", "9", verify.DIFFERS),
    ("hours", "1.83", "1.84", verify.DIFFERS),
    ("TFLOP", "1.5", "1.6", verify.WITHIN),
    ("TFLOP", "1.5", "1.7", verify.DIFFERS),
    ("cosine", "0.98", "0.95", verify.WITHIN),
    ("cosine", "0.98", "0.94", verify.DIFFERS),
    ("retrieval", "98", "95", verify.WITHIN),
    ("retrieval", "98", "94", verify.DIFFERS),
    ("p", "0.0012", "0.0490", verify.WITHIN),
    ("p", "0.0012", "0.0510", verify.DIFFERS),
    ("score", "50.7 (+12.0 [+9.0, +15.0])", "51.9 (+13.5 [+9.0, +15.0])", verify.WITHIN),
    ("score", "50.7 (+12.0 [+9.0, +15.0])", "51.9 (+13.7 [+9.0, +15.0])", verify.DIFFERS),
    ("minus default", "-6.0 [-9.0, -4.0], p 0.008", "-6.1 [-9.0, -4.0], p < 0.001", verify.WITHIN),
    ("minus default", "-6.0 [-9.0, -4.0], p 0.008", "-6.1 [-9.0, -4.0], p 0.061", verify.DIFFERS),
])  # fmt: skip
def test_each_kind_of_column_has_its_tolerance(column, there, here, outcome):
    trace = f'{{"made_by": "20_x", "cells": {{"a / {column}": ["run-1"]}}}}'
    tables = [stored.parse("t", f'name,{column}\na,"{text}"\n', "", trace) for text in (here, there)]
    assert outcomes(verify.compare("t", *tables)) == {outcome: 1}


def test_a_table_of_the_speed_notebook_is_all_timings():
    timed = dataclasses.replace(GAINS, made_by="70_speed")
    assert set(verify.compare("gains", GAINS, timed).cells) == {verify.TIMING}


@pytest.fixture
def project(tmp_path):
    """A clone with one committed table, which this machine has made anew."""
    made = Project(tmp_path / "clone", tmp_path / "cache")
    (made.library / "run").mkdir(parents=True)
    names = ("70_speed", "90_tables")
    (made.library / "run" / "pipeline.toml").write_text(
        "".join(f'[{name}]\ntitle = "{name}"\nneeds = []\nminutes = {{}}\n' for name in names)
    )
    for name in names:
        parameters = v4.new_code_cell('profile = "mini"  # scale', metadata={"tags": ["parameters"]})
        files.write_text(made.source(name), nbformat.writes(v4.new_notebook(cells=[parameters])))
    for place in (made.root, made.made):
        for name, maker in (("gains", "90_tables"), ("speed", "70_speed")):
            files.write_text(place / "results/mini/tables" / f"{name}.csv", GAIN)
            files.write_text(place / "results/mini/tables" / f"{name}.trace.json", TRACE.replace("90_tables", maker))
    note_made(made)
    files.write_text(made.root / ".gitignore", f"{paths.LOCAL}/\n")
    for arguments in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "Results"],
    ):
        subprocess.run(["git", *arguments], cwd=made.root, check=True)
    return made


def note_made(project):
    """The runner's note that 90_tables made its table here."""
    table = project.made / "results/mini/tables/gains.csv"
    files.write_json(project.state("mini", "90_tables"), {"files": {project.named(table): pipeline.mark_of(table)}})


def test_what_was_not_made_here_verifies_nothing(project):
    found = verify.verify(project, "mini")
    assert found.agrees and {table.table: table.status for table in found.tables} == {
        "gains": "the same",
        "speed": "not run here",
    }
    project.state("mini", "90_tables").unlink()
    assert not verify.verify(project, "mini").agrees


def test_the_committed_table_is_what_counts(project):
    table = project.made / "results/mini/tables/gains.csv"
    table.write_text(GAIN.replace("+11.6", "+21.6"))
    note_made(project)
    found = verify.verify(project, "mini")
    assert not found.agrees and found.summary.startswith("Not verified: 19 of 20 cells agree with commit ")
    assert "+11.6 [+7.1, +16.4] committed, +21.6 [+7.1, +16.4] here" in verify.text(found)
    table.unlink()
    assert [each.status for each in verify.verify(project, "mini").tables] == ["differs", "not run here"]


def test_without_git_a_folder_is_asked_for(project, tmp_path):
    (project.root / ".git").rename(tmp_path / "elsewhere")
    with pytest.raises(KeyMynaError, match="--verify DIR"):
        verify.verify(project, "mini")
    given = project.root / "results/mini/tables"
    assert verify.verify(project, "mini", given).agrees


def test_a_profile_without_committed_tables_is_named(project):
    with pytest.raises(KeyMynaError, match="no tables of profile smoke"):
        verify.verify(project, "smoke")


def test_it_is_written_beside_the_report_and_shown_in_it_until_the_tables_change(project):
    for name in ("70_speed", "90_tables"):
        files.write_json(project.index("mini", name), {"runs": [], "outputs": {}, "files": {}})
    found = verify.verify(project, "mini")
    written = verify.write(project, "mini", found)
    assert found.summary in written.read_text() and verify.RULE in written.read_text()
    html = page.write(project, "mini", project.made).read_text()
    assert f'<a href="#verification">{found.summary}</a>' in html
    (project.made / "results/mini/tables/gains.csv").write_text(GAIN.replace("+11.6", "+11.7"))
    assert 'href="#verification"' not in page.write(project, "mini", project.made).read_text()
