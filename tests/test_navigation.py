"""The links from notebook to notebook, to the paper and to the modules."""

import json
import re

import nbformat
import pytest

from keymyna_lib.base import paths
from keymyna_lib.report import navigation

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


@pytest.fixture
def clone(tmp_path):
    described = """
[00_a]
paper = "Table 1"
code = ["heads", "report.tables"]
[20_b_c]
paper = "its claims"
code = ["heads"]
[30_absent]
"""
    (tmp_path / "keymyna_lib" / "run").mkdir(parents=True)
    (tmp_path / "keymyna_lib" / "run" / "pipeline.toml").write_text(described)
    (tmp_path / "notebooks").mkdir()
    for name in ("00_a", "20_b_c"):
        node = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_markdown_cell("# Title"), nbformat.v4.new_code_cell("1")]
        )
        nbformat.write(node, tmp_path / "notebooks" / f"{name}.ipynb")
    return tmp_path


def test_notebooks_get_their_links_once(clone):
    first, second = (clone / "notebooks" / f"{name}.ipynb" for name in ("00_a", "20_b_c"))
    assert navigation.rewrite(clone) == [first, second]
    assert navigation.rewrite(clone) == []
    top, title, code, end = nbformat.read(first, 4).cells
    assert (title.source, code.source) == ("# Title", "1")
    assert top.source == (
        "[all notebooks, words explained](README.md) | [20 b c →](20_b_c.ipynb)\n\n"
        "In the [paper](https://arxiv.org/abs/2604.10021): Table 1. "
        "Code: [`heads`](../keymyna_lib/heads.py), [`report.tables`](../keymyna_lib/report/tables.py)."
    )
    assert end.source == "[all notebooks, words explained](README.md) | [20 b c →](20_b_c.ipynb)"
    assert (
        nbformat.read(second, 4).cells[-1].source
        == "[← 00 a](00_a.ipynb) | [all notebooks, words explained](README.md)"
    )
    nbformat.validate(nbformat.read(second, 4))


def test_stale_links_are_replaced(clone):
    navigation.rewrite(clone)
    path = clone / "notebooks" / "00_a.ipynb"
    fresh = path.read_text()
    node = json.loads(fresh)
    node["cells"][0]["source"] = ["old"]
    path.write_text(json.dumps(node))
    assert navigation.rewrite(clone) == [path] and path.read_text() == fresh


@pytest.mark.parametrize(
    "link, there",
    [
        ("README.md", "../../../notebooks/README.md"),
        ("../docs/speed.md#gpu", "../../../docs/speed.md#gpu"),
        ("20_b_c.ipynb", "20_b_c.ipynb"),
        ("20_b_c.ipynb#What-it-means", "20_b_c.ipynb#What-it-means"),
        ("https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
        ("#here", "#here"),
    ],
)
def test_links_of_an_executed_copy_lead_where_those_of_the_source_do(clone, link, there):
    source, copies = clone / "notebooks", clone / "results" / "mini" / "notebooks"
    assert navigation.rebased(f"See [it]({link}).", source, copies) == f"See [it]({there})."
    assert navigation.rebased(f"See [it]({there}).", copies, source) == f"See [it]({link})."


@pytest.mark.parametrize("link", ["20_b_c.ipynb", "20_b_c.ipynb#What-it-means"])
def test_where_a_notebook_has_no_copy_links_lead_to_another_one(clone, link):
    source, copies = clone / "notebooks", clone / "results" / "full" / "notebooks"
    elsewhere = {"20_b_c": clone / "results" / "mini" / "notebooks" / "20_b_c.ipynb"}
    there = navigation.rebased(f"See [it]({link}) and [that](00_a.ipynb).", source, copies, elsewhere)
    assert there == f"See [it](../../mini/notebooks/{link}) and [that](00_a.ipynb)."
    assert navigation.rebased(there, copies, source) == f"See [it]({link}) and [that](00_a.ipynb)."


def test_links_in_what_a_notebook_says_are_moved_too(clone):
    source, copies = clone / "notebooks", clone / "results" / "mini" / "notebooks"
    said = nbformat.v4.new_output("display_data", {"text/markdown": "[which](../docs/datasets.md)", "text/plain": "x"})
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("say()", outputs=[said])])
    there = nbformat.reads(navigation.moved(nbformat.writes(node), source, copies), 4)
    assert there.cells[0].outputs[0].data["text/markdown"] == "[which](../../../docs/datasets.md)"


def test_a_copy_that_is_moved_is_otherwise_the_same(clone):
    source, copies = clone / "notebooks", clone / "results" / "mini" / "notebooks"
    navigation.rewrite(clone)
    text = (source / "00_a.ipynb").read_text()
    there = navigation.moved(text, source, copies)
    assert "(../../../keymyna_lib/heads.py)" in there and "(20_b_c.ipynb)" in there
    assert navigation.moved(there, copies, source) == text
    assert navigation.moved('{"seed": 1}', source, copies) == '{"seed": 1}'


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_this_clone_are_current_and_lead_somewhere(path):
    cells = nbformat.read(path, 4).cells
    expected = navigation.navigation(paths.ROOT)[path.stem]
    assert {cells[0].id: cells[0].source, cells[-1].id: cells[-1].source} == expected, "keymyna docs writes them"
    for cell in cells:
        prose = re.sub(r"`[^`\n]*`", "", cell.source) if cell.cell_type == "markdown" else ""
        for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", prose):
            assert link.startswith("https://") or (path.parent / link).exists(), link
