"""The report page: made of the committed results, whole, with nothing loaded from anywhere, and everything escaped."""

import base64
import io
import re
import subprocess
import tarfile

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat import v4
from PIL import Image

from keymyna_lib.base import files, paths
from keymyna_lib.base.errors import KeyMynaError
from keymyna_lib.experiments.conclusions import SCOPE_CLAIM
from keymyna_lib.report.publication import read_index
from keymyna_lib.run import findings, page, pipeline, stored
from keymyna_lib.run.project import Project

HOSTILE = "<script>alert('&\"')</script>"


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """The results of mini as they were committed, in a folder of their own."""
    if not (paths.ROOT / ".git").exists():
        pytest.skip("not a git clone: what was committed cannot be told from what was run")
    folder = tmp_path_factory.mktemp("committed")
    parts = ["results/mini", "results/mini-full/tables", "figures/mini"]
    packed = subprocess.run(
        ["git", "-C", paths.ROOT, "archive", "HEAD", *parts], capture_output=True, check=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def titles():
    return {name: notebook.title for name, notebook in sorted(pipeline.load_notebooks(Project()).items())}


@pytest.fixture(scope="module")
def html(committed, titles):
    return page.build(committed, "mini", titles, committed)


@pytest.fixture(scope="module")
def soup(html):
    return BeautifulSoup(html, "html.parser")


def without_pictures(html):
    """The page as it reads. Pictures, packed anew by each version of Pillow, are named by what they were made of."""
    return re.sub(r'data:image/png;base64,[\w+/=]+|<meta name="made-of" content="\w+">', "", html)


def test_the_committed_page_is_what_the_committed_results_give(committed, html):
    """If not: `keymyna report --committed` makes it anew."""
    stored_page = (committed / "results" / "mini" / page.NAME).read_text(encoding="utf-8")
    assert without_pictures(stored_page) == without_pictures(html)


def test_it_is_small_and_loads_nothing(html, soup):
    assert len(html) < 3_000_000
    assert not soup.find_all(["script", "link", "iframe", "object", "embed", "base"])
    assert not re.search(r"url\(|@import|srcset", html)
    sources = [tag["src"] for tag in soup.find_all(src=True)]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert soup.find("meta", attrs={"name": "viewport"}) and "@media print" in soup.style.text


def test_every_link_leads_somewhere(committed, soup):
    links = [tag["href"] for tag in soup.find_all("a", href=True)]
    ids = {tag["id"] for tag in soup.find_all(id=True)}
    assert len(links) > 300 and len(ids) == len(soup.find_all(id=True))
    for link in set(links):
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            assert ":" not in link and (committed / "results" / "mini" / link).is_file(), link


def test_each_table_is_there_cell_by_cell_as_it_is_stored(committed, soup):
    results = committed / "results" / "mini"
    names = {
        path.rpartition("/")[2].removesuffix(".csv")
        for index in (results / "index").glob("*.json")
        for path in read_index(index)["files"]
        if path.startswith("results/mini/tables/") and path.endswith(".csv")
    }
    assert {"table1", "conclusions", "robustness"} <= names
    for name in names:
        stored_table = pd.read_csv(results / "tables" / f"{name}.csv", dtype=str, keep_default_na=False)
        rows = [
            [cell.text for cell in row.find_all(["th", "td"])] for row in soup.find(id=f"table-{name}").find_all("tr")
        ]
        assert rows == [list(stored_table.columns), *stored_table.to_numpy().tolist()]


def test_each_figure_is_there_with_caption_and_alternative(committed, soup):
    pictures = {path.stem for path in (committed / "figures" / "mini").glob("*.png")}
    figures = {tag["id"].removeprefix("figure-"): tag for tag in soup.find_all("figure")}
    assert set(figures) == pictures
    for name, figure in figures.items():
        assert figure.img["alt"] not in ("", name.replace("_", " ")), f"{name} has no caption in captions.toml"


def test_a_traced_number_links_to_its_run(committed, soup):
    trace = files.read_json(committed / "results" / "mini" / "tables" / "robustness.trace.json")["cells"]
    cells = soup.find(id="table-robustness").find_all("a", class_="traced")
    assert len(cells) == len(trace)
    (run,) = {run for runs in trace.values() for run in runs}
    assert {cell["href"] for cell in cells} == {f"runs/{run}/provenance.json"}


def test_times_and_commits_are_those_stored(committed, soup):
    results = committed / "results" / "mini"
    rows = {row.th.text: row.text for row in soup.find(id="ran").find_all("tr")[1:]}
    origin = files.read_json(next(results.glob("runs/pretrain-*/provenance.json")))
    executed = files.read_json(results / "notebooks" / "10_pretrain.ipynb")
    row = rows["10_pretrain"]
    assert origin["commit"][:10] in row and origin["device"] in row
    assert pipeline.duration(executed["metadata"]["papermill"]["duration"]) in row


# A small profile


@pytest.fixture
def project(tmp_path):
    """One notebook that has published hostile text and a figure, and one that has not run."""
    made = Project(tmp_path / "clone", tmp_path / "cache")
    (made.library / "run").mkdir(parents=True)
    names = {"10_first": HOSTILE, "20_second": "Second"}
    (made.library / "run" / "pipeline.toml").write_text(
        "".join(f"[{name}]\ntitle = '''{title}'''\nneeds = []\nminutes = {{}}\n" for name, title in names.items())
    )
    for name in names:
        parameters = v4.new_code_cell('profile = "mini"  # scale', metadata={"tags": ["parameters"]})
        files.write_text(made.source(name), nbformat.writes(v4.new_notebook(cells=[parameters])))
    results, figures = made.made / "results" / "mini", made.made / "figures" / "mini"
    frame = pd.DataFrame([[HOSTILE, HOSTILE, "not run"]], columns=["name", HOSTILE, "verdict"])
    (results / "tables").mkdir(parents=True)
    figures.mkdir(parents=True)
    frame.to_csv(results / "tables" / "odd.csv", index=False)
    files.write_text(results / "tables" / "odd.md", f"{HOSTILE}\n\n| name |\n")
    files.write_json(
        results / "tables" / "odd.trace.json", {"made_by": "10_first", "cells": {f"{HOSTILE} / {HOSTILE}": ["gone-1"]}}
    )
    axis = plt.figure(figsize=(20, 2)).add_subplot()
    axis.imshow(np.arange(40).reshape(4, 10))
    axis.figure.savefig(figures / "odd.png", dpi=100)
    plt.close(axis.figure)
    made_files = {"results/mini/tables/odd.csv": 1, "figures/mini/odd.png": 1}
    files.write_json(made.index("mini", "10_first"), {"runs": ["gone-1"], "outputs": {}, "files": made_files})
    return made


def test_everything_is_escaped(project):
    html = page.write(project, "mini", project.made).read_text()
    soup = BeautifulSoup(html, "html.parser")
    assert not soup.find("script") and HOSTILE not in html
    assert [cell.text for cell in soup.find(id="table-odd").find_all(["th", "td"])] == [
        "name", HOSTILE, "verdict", HOSTILE, HOSTILE, "not run",
    ]  # fmt: skip
    assert HOSTILE in soup.find(id="nb-10_first").h2.text and HOSTILE in soup.find(id="table-odd").p.text


def test_what_has_not_run_says_so(project):
    soup = BeautifulSoup(page.write(project, "mini", project.made).read_text(), "html.parser")
    for part in ("main-result", "conclusions", "nb-20_second"):
        assert soup.find(id=part).p.text == "not run"
    verdicts = [row.find_all("td")[0].text for row in soup.find(id="summary").find_all("tr")[1:]]
    assert verdicts == ["not run"] * 6
    assert "not run" in soup.find(id="ran").find_all("tr")[2].text
    with pytest.raises(KeyMynaError, match="profile smoke has no results"):
        page.write(project, "smoke", project.made)


def test_what_only_the_larger_profile_has_tested_is_taken_from_what_is_committed(project, committed):
    results = project.made / "results" / "mini"
    soup = BeautifulSoup(page.build(project.made, "mini", {}, committed), "html.parser")
    links = {tag["href"] for tag in soup.find_all("a", href=True) if "mini-full" in tag["href"]}
    assert "In profile mini-full." in soup.text and links and all((results / link).is_file() for link in links)
    (project.made / "results" / "mini-full" / "tables").mkdir(parents=True)  # run here, with nothing to tell
    assert "mini-full" not in BeautifulSoup(page.build(project.made, "mini", {}, committed), "html.parser").text


def test_pictures_are_made_smaller(project):
    soup = BeautifulSoup(page.write(project, "mini", project.made).read_text(), "html.parser")
    with Image.open(project.made / "figures/mini/odd.png") as picture:
        assert picture.width == 2000
    with Image.open(io.BytesIO(base64.b64decode(soup.img["src"].partition(",")[2]))) as picture:
        assert picture.size == (1400, 140)
    assert (soup.img["width"], soup.img["height"]) == ("1250", "125")


def test_damage_is_named(project):
    page.write(project, "mini", project.made)
    (project.made / "figures/mini/odd.png").write_bytes(b"no picture")
    with pytest.raises(KeyMynaError, match="odd.png is no picture"):
        page.write(project, "mini", project.made)
    (project.made / "figures/mini/odd.png").unlink()
    with pytest.raises(KeyMynaError, match="odd.png is no picture"):
        page.write(project, "mini", project.made)
    table = project.made / "results/mini/tables/odd.csv"
    table.write_text(table.read_text() + "one cell\n")
    with pytest.raises(KeyMynaError, match="table odd is damaged"):
        page.write(project, "mini", project.made)


def test_it_is_written_when_something_has_changed_and_only_then(project):
    path = page.write(project, "mini", project.made)
    first, before = path.read_bytes(), path.stat().st_mtime_ns
    assert page.write(project, "mini", project.made).stat().st_mtime_ns == before
    path.unlink()
    assert page.write(project, "mini", project.made).read_bytes() == first
    table = project.made / "results/mini/tables/odd.csv"
    table.write_text(table.read_text().replace("not run", "holds"))
    assert page.write(project, "mini", project.made).read_bytes() != first


# Findings

GAIN = stored.parse(
    "pretraining_gain",
    "head,labels,gain,verdict\nlinear probe,48 labels,+1.0,better\nlinear probe,all,+0.5,better\n"
    "wide MLP,48 labels,+1.0,better\nwide MLP,all,-0.1,undecided\n",
)
ROBUST = "augmentation,{}\n" + "\n".join(
    ["a,0.9,0.8,90,80,95,85", "b,0.7,0.8,80,70,85,75", "c,0.9,0.1,60,50,65,55", "pitch up,0,1,0,100,0,100"]
)
MEASURES = ",".join(
    f'"{measure}, {encoder}"'
    for measure in ("cosine", "key (linear probe)", "key (wide MLP)")
    for encoder in ("pre-trained", "untrained")
)


def test_findings_are_cells_of_the_tables():
    claims = "claim,labels,seeds,verdict,evidence,p\n" + "\n".join(
        f"masked contrastive pre-training beats {rival} at equal steps,{labels},2,{verdict},x{i},0.01"
        for i, (rival, labels, verdict) in enumerate(
            [
                ("bare contrastive", "48 labels", "does not"),
                ("augmented contrastive", "48 labels", "cannot be told"),
                ("augmented contrastive", "all", "not tested"),
                ("masked reconstruction", "48 labels", "holds"),  # no rival of masking
            ]
        )
    )
    _, probe, mlp, masking, robust, best = findings.findings(
        {
            "pretraining_gain": GAIN,
            "heads": stored.parse("heads", 'head,a,"a, minus default"\ndefault,1,\nno pitch shift,2,-9\n'),
            "table1": stored.parse(
                "table1", "features,head,48 labels,all\npre-trained,wide MLP,1,2\nchroma,wide MLP,3,4\nchroma,x,5,6\n"
            ),
            "conclusions": stored.parse("conclusions", claims),
            "robustness": stored.parse("robustness", ROBUST.format(MEASURES)),
        }
    )
    assert probe.found.verdict == "holds" and probe.found.cells == ("48 labels: +1.0, better", "all: +0.5, better")
    assert mlp.found.verdict == "holds in 1 of 2" and mlp.found.table == "pretraining_gain"
    assert mlp.found.cells[2:] == ("without pitch shifting, a encoder: -9", "scores, 48 labels: 1, on chroma 3")
    assert masking.found.verdict == "the opposite in 1 of 2" and masking.found.table == "conclusions"
    assert [cell.split(": ")[1][:2] for cell in masking.found.cells] == ["x0", "x1"]
    assert robust.found.verdict == "holds in 2 of 3" and "under 2 of 3 changes" in robust.found.text
    assert robust.found.cells == (
        "estimates that stay, linear probe: 80 %, untrained 70 %",
        "estimates that stay, wide MLP: 85 %, untrained 75 %",
    )
    assert best.found.verdict == "not run" and not best.found.cells


def test_the_objective_is_judged_in_both_corpora():
    stays = "where pieces keep their sound, there is a gain over no pre-training: masked contrastive"
    lines = [
        (SCOPE_CLAIM, "holds"),
        ("masked contrastive pre-training beats no pre-training", "holds"),
        (stays, "cannot be told"),
        (f"{stays}, on free recordings", "does not"),  # another objective
    ]
    claims = "claim,labels,verdict,evidence\n" + "".join(
        f'"{claim}",48 labels,{verdict},x{i}\n' for i, (claim, verdict) in enumerate(lines)
    )
    found = findings.findings({"conclusions": stored.parse("conclusions", claims)})[0].found
    assert found.verdict == "holds in 2 of 3"
    assert [cell.partition(": ")[2] for cell in found.cells] == ["x0, holds", "x1, holds", "x2, cannot be told"]


def test_where_claims_were_tested_their_verdict_counts():
    claim = "under the paper's linear probe, pre-training beats no pre-training"
    claims = f'claim,labels,seeds,verdict,evidence,p\n"{claim}",48 labels,1,cannot be told,+1.0,0.2\n'
    claims += '"robust: after changes, it keeps the key more often",none,1,does not,-9,0.01\n'
    objective, probe, mlp, _, robust, _ = findings.findings(
        {"pretraining_gain": GAIN, "conclusions": stored.parse("conclusions", claims)}
    )
    assert objective.found.verdict == "not run"
    assert probe.found.verdict == "undecided" and probe.found.cells == ("48 labels: +1.0, cannot be told",)
    assert probe.found.table == "conclusions" and mlp.found.table == "pretraining_gain"
    assert robust.found.verdict == "does not" and robust.found.cells == ("it keeps the key more often: -9, does not",)
