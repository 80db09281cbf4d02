"""Numbers in README and docs: filled in from results, and none beside them."""

import io
import json
import re
import subprocess
import tarfile

import pytest
from click.testing import CliRunner

from keymyna_lib.__main__ import main
from keymyna_lib.base import paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.report import pages

TABLE = """features,head,48 labels,all 9 labels,verdict
chroma,linear probe,"81.3 [76.1, 86.7]","-5.1 [-7.8, -2.8], p 0.002",better
"mel, mean",linear probe,1.26 x reference [1.19 to 1.34],1.5e+03 1/s,the opposite holds
chroma,wide MLP,not run: no GPU here,,undecided
chance,guess,10.4,10.4,not tested
"""


@pytest.fixture
def clone(tmp_path):
    """A clone with one table, one executed notebook, a run, and empty pages."""
    tables = tmp_path / "results" / "mini" / "tables"
    for folder in (tables, tmp_path / "docs", tmp_path / "notebooks", tmp_path / "keymyna_lib" / "run"):
        folder.mkdir(parents=True)
    (tables / "scores.csv").write_text(TABLE)
    (tables / "scores.md").write_text("A caption.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n")
    for page in ("README.md", "CONTRIBUTING.md", "notebooks/README.md", "docs/more.md"):
        (tmp_path / page).write_text("")
    (tmp_path / "keymyna_lib" / "run" / "pipeline.toml").write_text(
        '[10_a]\ntitle = "First"\n[20_b]\ntitle = "Second"\non_request = true\n[30_c]\ntitle = "Third"\n'
    )
    for name, seconds in {"10_a": 90, "20_b": 600}.items():
        write_json(
            tmp_path / "results" / "mini" / "notebooks" / f"{name}.ipynb",
            {"metadata": {"papermill": {"duration": seconds}}},
        )
    write_json(tmp_path / "results" / "mini" / "index" / "10_a.json", {"runs": ["r"]})
    write_json(
        tmp_path / "results" / "mini" / "runs" / "r" / "provenance.json",
        {"commit": "0123456789", "device": "a CPU", "threads": 2},
    )
    return tmp_path


def write_json(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def shown(clone, what):
    text = pages.filled(f"It is <!--= {what} -->old<!--/-->.", clone / "README.md", clone)
    return re.fullmatch(r"It is <!--= .* -->(.*)<!--/-->\.", text, re.DOTALL)[1]


def test_the_time_of_a_whole_run_is_told_beside_the_sum_of_its_notebooks(clone):
    write_json(clone / "results" / "mini" / "run.json", {"jobs": 2, "seconds": 66.0})
    assert shown(clone, "mini/minutes / run / minutes") == "1.1"
    assert shown(clone, "mini/minutes / total / minutes") == "1.5"


@pytest.mark.parametrize(
    "what, expected",
    [
        ("mini/scores / chroma, linear probe / 48 labels", "81.3 [76.1, 86.7]"),
        ("mini/scores / chroma, linear probe / 48 labels / value", "81.3"),
        ("mini/scores / chroma, linear probe / all * / interval", "-5.1 [-7.8, -2.8]"),
        ("mini/scores / chroma, linear probe / all * / +.0f", "-5"),
        ("mini/scores / mel, mean / 48 labels / value", "1.26"),
        ("mini/scores / mel, mean, linear* / all 9 labels / ,.0f", "1,500"),
        ("mini/scores / chroma, linear* / verdict / answer", "yes"),
        ("mini/scores / mel* / verdict / answer", "no"),
        ("mini/scores / *wide MLP / verdict / answer", "undecided"),
        ("mini/scores / chance, guess / verdict / answer", "not run"),
        ("mini/scores / chroma, linear probe / all * / answer", "no"),
        ("mini/scores / *wide MLP / 48 labels / value", "not run"),
        ("mini/scores / *wide MLP / all * / interval", "not run"),
        ("mini/not_made / anything / at all / value", "not run"),
        ("mini/not_made", "\nnot run\n"),
        ("mini/scores", "\nA caption.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"),
        ("mini/minutes / 10_a / minutes", "1.5"),
        ("mini/minutes / total / minutes", "1.5"),  # without what runs on request
        ("mini/minutes / 20_b / minutes / .0f", "10"),
        ("mini-full/minutes / total / minutes", "not run"),
        ("mini/record / record / commit", "0123456"),
        ("mini/record / record / device", "a CPU, 2 threads"),
        ("mini-full/record / record / commit", "not run"),
        ("model / test: all, accuracy / points / interval", "not run"),
        ("model", "\nnot run\n"),
        ("gpu / case, ours, examples / median / .0f", "not run"),
        ("gpu/record / record / commit", "not run"),
    ],
)
def test_what_a_mark_shows(clone, what, expected):
    assert shown(clone, what) == expected


def test_the_cards_of_model_and_gpu(clone):
    rows = [
        {"set": "test: all", "measure": "accuracy", "value": 0.8128, "low": 0.7, "high": 0.95, "tracks": 9},
        {"set": "test: all", "measure": "calibration error", "value": 0.021, "low": None, "high": None, "tracks": 9},
        {"set": "songs", "measure": "boundaries", "value": None, "low": None, "high": None, "tracks": 0},
    ]
    rows.insert(0, {**rows[0], "set": "valid: all", "value": 0.9})
    write_json(clone / "keymyna_lib" / "models" / "default.json", {"scores": rows})
    assert shown(clone, "model / test: all, accuracy / points") == "81.3 [70.0, 95.0]"
    assert shown(clone, "model / test: all, cal* / points / value") == "2.1"
    assert shown(clone, "model / songs, boundaries / points") == "not run"
    assert shown(clone, "model").splitlines()[3] == "| test: all | accuracy | 81.3 [70.0, 95.0] | 9 |"  # no validation
    assert shown(clone, "model / valid: all, accuracy / points / value") == "90.0"
    one = {"case": "batch 8", "system": "ours", "quantity": "examples", "median": 41234.5, "unit": "1/s"}
    measured = {"measurements": [one, {**one, "case": "batch 9", "median": None}], "machine": {"gpu": "a GPU"}}
    checks = {"checks": [{"passed": True}, {"passed": False}], "commit": "0123456789"}
    write_json(clone / "results" / "gpu.json", measured | checks)
    assert shown(clone, "gpu / batch 8, ours, examples / median / ,.0f") == "41,234"
    assert shown(clone, "gpu / batch 9, ours, examples / median / ,.0f") == "not run"
    assert shown(clone, "gpu/record / record / passed") == "1/2"


def test_the_list_of_notebooks_links_executed_copies_from_where_the_page_is(clone):
    text = pages.filled("<!--= mini/reading -->\n<!--/-->", clone / "notebooks" / "README.md", clone)
    assert "| [10_a](../results/mini/notebooks/10_a.ipynb) | First | 1.5 |" in text
    assert "| [20_b](../results/mini/notebooks/20_b.ipynb) | Second | 10.0, on request |" in text
    assert "| [30_c](30_c.ipynb) | Third | not run |" in text


@pytest.mark.parametrize(
    "text, message",
    [
        ("a <!--= mini/scores / tonnetz / 48 labels -->1<!--/-->", "0 rows are named so"),
        ("a <!--= mini/scores / *linear probe / 48 labels -->1<!--/-->", "2 rows are named so"),
        ("a <!--= mini/scores / mel* / 48 * labels -->1<!--/-->", "0 columns are named so, of features, head, 48"),
        ("a <!--= mini/scores / mel* / *labels -->1<!--/-->", "2 columns"),
        ("a <!--= mini/scores / mel* / 48 labels / interval -->1<!--/-->", "no interval in '1.26 x"),
        ("a <!--= mini/scores / mel* / 48 labels / nonsense -->1<!--/-->", "Invalid format specifier"),
        ("a <!--= mini/scores / mel* / head / answer -->1<!--/-->", "linear probe"),
        ("a <!--= mini/scores / mel* -->1<!--/-->", "column"),
        ("a <!--= mini/scores / mel* / 48 labels -->1", "not closed"),
        ("a <!--= mini/scores / mel* / 48 labels --> <!--= mini/scores / mel* / 48 labels -->1<!--/-->", "not closed"),
        ("a\n<!--= mini/scores / mel* / 48 labels -->1<!--/-->", "begin its line"),
        ("\n- <!--= mini/scores / mel* / 48 labels -->1<!--/-->", "begin its line"),
    ],
)
def test_a_mark_that_names_nothing_is_an_error_that_names_the_page(clone, text, message):
    with pytest.raises(KeyMynaError, match=re.escape(message)) as error:
        pages.filled(text, clone / "docs" / "more.md", clone)
    assert str(error.value).startswith("docs/more.md: ")


@pytest.mark.parametrize(
    "text",
    [
        "a score of 88.3",
        "88.3",
        "it gains +3.8 points",
        "by 4 points",
        "81 [70, 90]",
        "| 0.99 |",
        "84.35, as published",
        "12 minutes",
        "1 ms a step",
        "10.5 ms",
        "10 x as fast",
        "35,000 windows per second",
        "107,000 examples a second",
        "it fell by −0.7",
    ],
)
def test_what_looks_like_a_result(text):
    assert len(pages.unmarked(f"Here\n{text}\nthere")) >= 1
    assert not pages.unmarked(f"Here <!--= mini/scores / a / b -->{text}<!--/--> there")
    assert not pages.unmarked(f"Here `{text}` there")
    assert not pages.unmarked(f"Here\n\n```sh\n{text}\n```\n\nthere")


@pytest.mark.parametrize(
    "text",
    [
        "windows of 6.25 s",
        "16 kHz, 0.31 GB, a 0.6 M encoder",
        "95 % intervals",
        "48 labels and 604 tracks",
        "CC BY 4.0",
        "[arXiv:2604.10021](https://arxiv.org/abs/2604.10021)",
        "128 x 2 frames",
        "[notebook](results/a-0.5.ipynb)",
        "v1.2.0",
    ],
)
def test_what_does_not(text):
    assert pages.unmarked(f"Here {text} there") == []


def test_the_command_rewrites_pages_once_and_nothing_if_one_is_wrong(clone, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", clone)
    readme, more = clone / "README.md", clone / "docs" / "more.md"
    readme.write_text("It is <!--= mini/scores / mel* / 48 labels / value -->2<!--/-->.\n")
    more.write_text("It is 88.3.\n")
    found = CliRunner().invoke(main, ["docs"])
    assert found.exit_code == 1 and "docs/more.md: 'It is 88.3. ' looks like a result" in found.output
    assert "-->2<!--" in readme.read_text()
    more.write_text("")
    assert CliRunner().invoke(main, ["docs"]).output == "rewritten: README.md\n"
    assert readme.read_text() == "It is <!--= mini/scores / mel* / 48 labels / value -->1.26<!--/-->.\n"
    assert CliRunner().invoke(main, ["docs"]).output == "every page says what the results say\n"


# The pages of this clone, as they were committed: what a run of one's own has made since is nothing to them.


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    if not (paths.ROOT / ".git").exists():
        pytest.skip("not a git clone: what was committed cannot be told from what was run")
    folder = tmp_path_factory.mktemp("committed")
    packed = subprocess.run(["git", "-C", paths.ROOT, "archive", "HEAD"], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_pages_say_what_the_results_say(committed):
    for page in pages.pages(committed):
        text = page.read_text()
        assert pages.filled(text, page, committed) == text, f"{page.name}: keymyna docs writes it anew"


def test_no_result_in_a_page_is_typed_by_hand(committed):
    for page in pages.pages(committed):
        assert pages.unmarked(page.read_text()) == [], page.name


def test_links_lead_somewhere(committed):
    for page in (*pages.pages(committed), committed / "docs" / "reliability.md", committed / "CHANGELOG.md"):
        prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)\s]+)\)", prose):
            if link.startswith("https://"):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def anchors(page):
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short(committed):
    read = re.sub(r"<!--.*?-->|\]\([^)]*\)", "", (committed / "README.md").read_text(), flags=re.DOTALL)
    assert len(re.findall(r"\S*\w\S*", read)) <= 1200


def test_pages_begin_with_their_purpose(committed):
    for page in sorted((committed / "docs").glob("*.md")):
        title, first = page.read_text().split("\n\n")[:2]
        assert title.startswith("# "), page.name
        assert page.name == "reliability.md" or first.startswith("This page "), page.name
