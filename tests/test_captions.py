"""Pictures in executed notebooks have alternative texts, and nbconvert shows them."""

import html
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter

from keymyna_lib.run.captions import captions, describe

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def described(source, pictures):
    outputs = [nbformat.v4.new_output("stream", text="a line")]
    outputs += [nbformat.v4.new_output("display_data", {"image/png": PIXEL}) for _ in range(pictures)]
    cell = nbformat.v4.new_code_cell(source, outputs=outputs)
    describe(cell)
    return cell, [output.metadata.get("image/png", {}).get("alt") for output in cell.outputs[1:]]


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('stage.figure(figure, "design", data=found)', ["design"]),
        ('stage.figure(figure, named("confusion", task))', ["confusion", "confusion"]),
        ('pictures.append((f"piano_roll_{name}", figure))', ["piano_roll_major", "piano_roll_minor"]),
        ('figure = axis.plot(table["x"], label="no name of a figure")', [None]),
        ('show("design", "heads")', [None]),  # which of them it is cannot be told
        ('x = table["doubt"]\nstage.figure(\n    figure, "trust", data=x\n)', ["trust"]),
    ],
)
def test_pictures_get_the_text_of_the_figures_that_a_cell_names(source, names):
    _, found = described(source, len(names))
    assert found == [name and captions()[name]["alt"] for name in names]


def test_the_text_is_in_the_html_of_a_notebook():
    cell, _ = described('stage.figure(figure, "design")', 1)
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert f'alt="{captions()["design"]["alt"]}"' in html.unescape(page)


def test_every_figure_of_the_notebooks_is_described():
    staged, ids = set(), set()
    for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            ids.add(cell["id"])
            staged |= set(re.findall(r'stage\.figure\(\s*\w+,\s*"(\w+)"', "".join(cell["source"])))
    assert "design" in staged and staged <= set(captions())
    for name, of in captions().items():
        assert name in ids or 40 < len(of["caption"]) < 700, name
        assert 30 < len(of["alt"]) < 400, name


def test_the_speed_figure_names_the_gpu_that_was_measured():
    stored = json.loads((Path(__file__).parent.parent / "results/gpu.json").read_text(encoding="utf-8"))
    assert stored["machine"]["gpu"] in captions()["speed"]["caption"]


def test_a_picture_that_is_no_figure_gets_the_text_of_its_cell():
    cell, _ = described("axis.plot(x)", 1)
    cell["id"] = "10-pass-picture"
    describe(cell)
    assert cell.outputs[1].metadata["image/png"]["alt"] == captions()["10-pass-picture"]["alt"]
