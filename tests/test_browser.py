"""Notebook 85 as somebody uses it: opened in JupyterLab by a real browser, its panel tried.

Needs Chromium and its driver (Debian: apt-get install chromium chromium-driver); skipped where they are not there.
"""

import json
import os
import shutil
import subprocess
import sys
import time

import models
import pytest
import tones
from clones import copy_of_the_sources
from corpora import small_corpus

from keymyna_lib.base import files
from keymyna_lib.corpus.rendered.build import build_corpus
from keymyna_lib.report.publication import write_index

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
PATIENCE = 600  # s, a guard against what hangs on a busy machine
TOKEN = "of-the-test"
PICTURE, FAILED = ".jp-RenderedImage img", ".jp-OutputArea .ansi-red-fg"  # of a cell; the second in a traceback

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver here (Debian: chromium, chromium-driver)"
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory, scores):
    """A copy of this clone with a small corpus, and notebook 85 set to it and to a tiny model."""
    folder = copy_of_the_sources(tmp_path_factory.mktemp("clone"))
    corpus = build_corpus(small_corpus(n_chorales=12, n_tunes=24), progress=False, cache=folder / ".cache")
    made = {"corpus": corpus.hash, "folder": str(corpus.path.relative_to(folder / ".cache"))}
    for name, outputs in (("00_data", made), ("05_recordings", {"corpus": "", "folder": ""})):
        index = {"notebook": name, "runs": [], "outputs": outputs, "files": {}}
        write_index(folder / "local" / "results" / "smoke" / "index" / f"{name}.json", index)
    model = models.write(folder / "model.safetensors")
    notebook = folder / "notebooks" / "85_try_it.ipynb"
    node = json.loads(notebook.read_text())
    (cell,) = [cell for cell in node["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    values = {"profile": "smoke", "model": str(model), "compared_tracks": 6}
    given = [line for line in cell["source"] if line.split(" = ")[0] not in values]
    cell["source"] = [f"{name} = {value!r}\n" for name, value in values.items()] + given
    files.write_json(notebook, node)
    return folder


@pytest.fixture(scope="module")
def lab(clone, tmp_path_factory):
    """The address of a JupyterLab that serves the clone, with settings of its own."""
    own = tmp_path_factory.mktemp("jupyter")
    places = {f"JUPYTER_{name}_DIR": str(own / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0"]
    command += [f"--ServerApp.root_dir={clone}", f"--IdentityProvider.token={TOKEN}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    environment = {**os.environ, **places, "PYTHONPATH": str(clone), "KEYMYNA_CACHE": str(clone / ".cache")}
    with open(own / "log", "w") as log:
        process = subprocess.Popen(command, cwd=clone, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: list(own.glob("RUNTIME/jpserver-*.json")) or process.poll() is not None)
        assert process.poll() is None, (own / "log").read_text()[-3000:]
        (said,) = own.glob("RUNTIME/jpserver-*.json")
        yield files.read_json(said)["url"]
    finally:
        process.terminate()  # and with it its kernels
        process.wait(60)


@pytest.fixture(scope="module")
def page(lab):
    """The notebook in the browser, all its cells run."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # As high as the whole notebook, for JupyterLab takes cells that are out of sight out of the page.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=1500,8000"):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        browser.get(f"{lab}lab/tree/notebooks/85_try_it.ipynb?token={TOKEN}")
        page = Page(browser)
        ready = "return window.jupyterapp?.shell.currentWidget?.context?.sessionContext?.session?.kernel?.status"
        wait_for(lambda: browser.execute_script(ready) == "idle")
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wait_for(lambda: len(page.find(PICTURE)) == 4 or page.find(FAILED))
        yield page
    finally:
        browser.quit()


class Page:
    """What is on the page, and what somebody does there."""

    def __init__(self, browser):
        self.browser = browser

    def find(self, selector):
        return self.browser.find_elements("css selector", selector)

    def answer(self):
        """The line of the answer."""
        return self.browser.execute_script("return document.querySelector('.widget-html-content')?.innerText || ''")

    def pictures(self):
        """The pictures that are shown, as they are drawn."""
        return self.browser.execute_script(
            """return [...document.querySelectorAll('img.widget-image')].filter(i => i.offsetParent && i.naturalWidth)
            .map(i => {
                const canvas = Object.assign(document.createElement('canvas'),
                                             {width: i.naturalWidth, height: i.naturalHeight});
                canvas.getContext('2d').drawImage(i, 0, 0);
                return canvas.toDataURL();
            })"""
        )

    def seconds_of_sound(self):
        """Length of what the player holds; None where there is no player."""
        return self.browser.execute_script(
            "return [...document.querySelectorAll('audio')].find(a => a.offsetParent)?.duration"
        )

    def choose(self, place):
        """Choose a track of the corpus by its place in the list; its name."""
        option = self.find(".widget-dropdown option")[place]
        option.click()
        return option.text

    def send(self, path):
        """Send a file: press the button and choose it in the dialogue that opens, which no page can see."""
        self.browser.execute_script(
            """const click = HTMLInputElement.prototype.click;
            HTMLInputElement.prototype.click = function() {
                HTMLInputElement.prototype.click = click;
                this.id = 'chosen';
                document.body.append(this);
            }"""
        )
        self.find("button.widget-upload")[0].click()
        self.find("#chosen")[0].send_keys(str(path))
        self.browser.execute_script("document.getElementById('chosen').remove()")


def wait_for(found):
    """Wait until something is true."""
    until = time.monotonic() + PATIENCE
    while not (value := found()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.1)
    return value


def test_it_opens_with_pictures_and_a_silent_panel(page):
    assert len(page.find(PICTURE)) == 4 and not page.find(FAILED)
    assert page.pictures() == [] and page.answer() == "" and page.seconds_of_sound() is None


def test_another_track_is_another_answer_and_other_pictures(page):
    first = page.choose(1)
    wait_for(lambda: page.answer().startswith(first) and len(page.pictures()) == 4)
    seen, said = page.pictures(), page.answer()
    wait_for(page.seconds_of_sound)
    second = page.choose(2)
    wait_for(lambda: page.answer().startswith(second) and len(page.pictures()) == 4)
    assert page.answer() != said
    wait_for(lambda: not set(page.pictures()) & set(seen))


def test_a_file_is_sent_and_heard(page, tmp_path):
    tones.write(tmp_path / "cadence.wav", 3, seconds=8.0)
    page.send(tmp_path / "cadence.wav")
    wait_for(lambda: page.answer().startswith("cadence.wav: ") and len(page.pictures()) == 4)
    wait_for(lambda: page.seconds_of_sound() == pytest.approx(8, abs=0.01))


def test_text_with_the_name_of_a_sound_file_is_one_line(page, tmp_path):
    (tmp_path / "words.wav").write_text("words " * 500)
    page.send(tmp_path / "words.wav")
    wait_for(lambda: page.answer().startswith("words.wav is not a sound file"))
    assert page.answer().count("\n") == 0
    wait_for(lambda: page.pictures() == [] and page.seconds_of_sound() is None)
    assert not page.find(FAILED) and "Traceback" not in page.browser.page_source


def test_the_slider_draws_another_mask(page):
    name = page.choose(1)
    wait_for(lambda: page.answer().startswith(name) and len(page.pictures()) == 4)
    before = page.pictures()
    handle = page.find(".widget-slider .noUi-handle")[0]
    handle.send_keys("\ue012")  # the left arrow
    wait_for(lambda: page.pictures()[0] != before[0])
    assert page.pictures()[1:] == before[1:]
