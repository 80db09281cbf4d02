"""Findings as prose: numbers and the words that depend on them come from tables, and none is typed."""

import ast
import re

import nbformat
import pandas as pd
import pytest

from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import prose
from keymyna_lib.report.stage import Stage
from keymyna_lib.report.traced import TracedTable


@pytest.fixture
def gain():
    table = TracedTable(["head", "labels"])
    for head, labels, cell, verdict in (
        ("linear probe", "48 labels", "+5.1 [+1.2, +9.0]", "better"),
        ("linear probe", "all 9 labels", "-5.1 [-9.0, -1.2]", "worse"),
        ("wide MLP", "48 labels", "+0.3 [-2.1, +2.7]", "undecided"),
        ("wide MLP", "all 9 labels", "+2.0 [+0.1, +4.0]", "undecided"),  # not after Holm's correction
        ("template", "none", "not run", "undecided"),
    ):
        row = table.row(head, labels)
        row.cell("ours minus theirs", cell, ["run"])
        row.cell("verdict", verdict)
    return table


@pytest.mark.parametrize(
    "place, text",
    [
        ("linear probe, 48 labels / ours * / gains", "gains 5.1 [1.2, 9.0]"),
        ("linear\n  probe, all * /\n ours minus theirs / gains", "loses 5.1 [1.2, 9.0]"),
        ("linear probe, all * / ours minus theirs / gains", "loses 5.1 [1.2, 9.0]"),
        ("wide MLP, {n} labels / ours * / gains", "differs by an undecided +0.3 [-2.1, +2.7]"),
        ("wide MLP, all * / ours * / gains", "differs by an undecided +2.0 [+0.1, +4.0]"),
        ("linear probe, 48 labels / ours * / more|less|as much", "more"),
        ("linear probe, all * / ours * / more|less|as much", "less"),
        ("wide MLP, all * / ours * / more|less|as much", "as much"),
        ("linear probe, all * / verdict / more|less|as much", "less"),
        ("linear probe, 48 labels / ours * / interval", "+5.1 [+1.2, +9.0]"),
        ("linear probe, 48 labels / ours * / value", "+5.1"),
        ("linear probe, 48 labels / ours * / .0f", "5"),
        ("linear probe, 48 labels / verdict / answer", "yes"),
        ("linear probe, 48 labels / verdict", "better"),
        ("template / ours * / gains", "not run"),
        ("template / ours * / more|less|as much", "not run"),
    ],
)
def test_places_of_a_table(gain, place, text):
    assert prose.say(f"It {{gain / {place}}}.", gain=gain, n=48) == f"It {text}."


def test_adjusted_p_decides_where_a_cell_has_one():
    cells = {"a": "-5.3 [-9.2, -1.2], p 0.031", "b": "-3.6 [-8.6, -1.0], p 0.494", "c": "+5.3 [+1.2, +9.2], p < 0.001"}
    table = pd.DataFrame({"system": cells.keys(), "difference": cells.values()})
    said = [prose.say(f"{{t / {name} / difference / up|down|level}}", t=table) for name in cells]
    assert said == ["down", "level", "up"]


def test_frames_and_plain_values():
    frame = pd.DataFrame({"score": [0.7512, None]}, index=pd.Index(["ours", "theirs"], name="system"))
    text = "{frame / ours / score / .0%} of {n}, {frame / theirs / score}: {share / .1f}; they {same / agree|differ}"
    assert prose.say(text, frame=frame, n="all", share=0.25, same=False) == "75% of all, not run: 0.2; they differ"
    assert prose.say("{share / .0%} of {24} keys, {0.5} each", share=0.25) == "25% of 24 keys, 0.5 each"


def test_a_template_may_be_indented_and_shows_as_markdown():
    said = prose.say("\n    ## What we found\n\n    - {n} runs\n    ", n=3)
    assert (
        said == "## What we found\n\n- 3 runs"
        and said._repr_markdown_() == said
        and type(said._repr_markdown_()) is str
    )


@pytest.mark.parametrize(
    "text", ["a score of 88.3", "88", "+3.8", "by -4", "12 minutes", "81 [70, 90]", "p<0.05", "3 of 4"]
)
def test_a_typed_number_is_refused(text):
    with pytest.raises(KeyMynaError, match="is typed"):
        prose.say(f"It is {text}.")


@pytest.mark.parametrize(
    "text",
    [
        "top-1",
        "L2",
        "`0.5`",
        "$2^{s/12}$",
        "[20](20_linear_probe.ipynb)",
        "notebooks 20 and 30",
        "notebook 90",
        "{24} keys",
    ],
)
def test_what_is_no_result_may_be_typed(text):
    assert prose.typed(f"It is {text}.") == []


@pytest.mark.parametrize(
    "place, message",
    [
        ("{nobody}", "neither a table nor a value is called 'nobody'"),
        ("{nobody / a / b}", "neither a table nor a value is called 'nobody'"),
        ("{gain / tonnetz / verdict}", "0 rows are named so"),
        ("{gain / linear probe / verdict}", "2 rows are named so"),
        ("{gain / wide MLP, all * / score}", "0 columns are named so, of head, labels, ours minus theirs, verdict"),
        ("{gain / wide MLP, all * / ours * / more|less}", "three words"),
        ("{gain / wide MLP, all * / labels / gains}", "neither an interval nor a verdict"),
        ("{n / nonsense}", "Invalid format specifier"),
    ],
)
def test_a_place_that_names_nothing_is_an_error(gain, place, message):
    with pytest.raises(KeyMynaError, match=re.escape(message)):
        prose.say(f"It {place}.", gain=gain, n=48)


def test_things_in_a_row():
    assert prose.listed(["a", "b", "c"]) == "a, b and c"
    assert (prose.listed([1, 2]), prose.listed(["a"]), prose.listed([])) == ("1 and 2", "a", "none")


def test_a_stage_stores_what_was_said_and_removes_it_when_it_is_no_longer_said(home):
    stage = Stage("20_x", "smoke")
    stage.say("It is {n}.", n=3)
    path = home / "local/results/smoke/findings/20_x.md"
    assert not path.exists()
    stage.done()
    assert path.read_text() == "It is 3.\n"
    Stage("20_x", "smoke").done()
    assert not path.exists()


# The notebooks of this clone.

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
HEADINGS = ["What we found", "What it means", "Caveats", "Next"]


def cells_of(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def templates(cell):
    """The texts within `say(...)` of a code cell."""
    source = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in cell.source.splitlines())
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    said = [call for call in calls if getattr(call.func, "attr", getattr(call.func, "id", "")) == "say"]
    texts = [node for call in said for of in call.args for node in ast.walk(of) if isinstance(node, ast.Constant)]
    return [node.value for node in texts if isinstance(node.value, str)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_ends_in_what_it_found_with_no_number_typed(path):
    code = cells_of(path, "code")
    said = "\n".join(text for cell in code for text in templates(cell))
    assert prose.typed(said) == []
    assert re.findall(r"^ *## (.*)$", "\n".join(templates(code[-2])), flags=re.M) == HEADINGS
    prose_cells = "\n".join(cell.source for cell in cells_of(path, "markdown"))
    assert not re.search(rf"^#+ ({'|'.join(HEADINGS)}|Reproduced and published)$", prose_cells, flags=re.M)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_plumbing_is_folded(path):
    code = cells_of(path, "code")
    for cell in code:
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        assert folded == ("hide-input" in cell.metadata.get("tags", [])), cell.source[:60]
    shown = [cell.source for cell in code if "hide-input" not in cell.metadata.get("tags", [])]
    assert not any("check_cell(" in source or "stage.say(" in source or "stage.done(" in source for source in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_code_fits_the_width_of_a_reader(path):
    lines = [line for cell in cells_of(path, "code") for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 100] == []
