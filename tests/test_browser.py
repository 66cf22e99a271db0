"""JupyterLab and the report in a real browser: the notebook runs there, a slider changes the figure, the page asks nobody for anything.

Needs playwright (extra `dev`) and a Chromium on the machine (Debian: apt-get install chromium); skipped where either is missing.
SPEC_TOOLKIT_SHOTS=folder keeps pictures of what was seen.
"""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
pytest.importorskip("jupyterlab")
import test_report

from spec_toolkit import notebooks, paths, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
TOKEN = "a-test"
SECONDS = 60_000  # at most, in ms, of anything waited for


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        except sync_api.Error as error:  # a stub that wants to install the real one is no browser
            pytest.skip(f"{CHROMIUM} does not start: {str(error).splitlines()[0]}")
        yield found
        found.close()


class Watched:
    """A page, what it asked for beyond its own address, and what it complained of."""

    def __init__(self, browser, width, height, own):
        self.page, self.asked, self.errors = browser.new_page(viewport={"width": width, "height": height}), [], []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(own) else (self.asked.append(route.request.url), route.abort()))

    def shot(self, name):
        if folder := os.environ.get("SPEC_TOOLKIT_SHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    test_report.write(folder / "results")
    return report.write(folder / "results", folder / "out", {}, progress=False)


@pytest.mark.parametrize("width", [1280, 400])
def test_the_report_in_a_browser(browser, page_path, width):
    seen = Watched(browser, width, 900, page_path.as_uri())
    seen.page.goto(page_path.as_uri())
    images = seen.page.evaluate("Array.from(document.images, i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width, i.alt])")
    assert len(images) == 6 and all(complete and natural > 300 and shown > 200 and alt for complete, natural, shown, alt in images)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width  # wide things scroll in boxes of their own
    for place in ("ladder", "batch_scaling", "other_rungs"):
        seen.page.evaluate("name => document.getElementById(name).scrollIntoView()", place)
        seen.shot(f"report-{width}-{place}")
    seen.page.click("nav a[href='#method']")
    assert seen.page.locator("h2#method").is_visible()
    folded = seen.page.locator("details").first
    folded.locator("summary").click()
    assert folded.locator("table").is_visible()
    assert seen.asked == [] and seen.errors == []
    seen.page.close()


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a free port, in a folder with a small copy of the notebook; its address."""
    notebook = json.loads(notebooks.find_notebook("own_kernel").read_text())
    cell = next(cell for cell in notebook["cells"] if cell["id"] == "parameters")
    cell["source"] = ["batch = 2\ndraft_len = 4\nvocab = 1024\nacceptance = 0.5\nrivals = []\nsave_as = ''\nout = 'outputs'"]
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "own_kernel.ipynb").write_text(json.dumps(notebook))
    settings = tmp_path / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    words = ["--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={tmp_path / 'work'}",
             "--LabApp.extension_manager=readonly"]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *words], stdout=log, stderr=log, cwd=tmp_path,
                                  env={**os.environ, **own, "PYTHONPATH": str(paths.PACKAGE.parent)})
    address = f"http://127.0.0.1:{port}/"
    try:
        end = time.monotonic() + 60
        while server.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}api", timeout=2)
                break
            time.sleep(0.2)
        assert server.poll() is None, (tmp_path / "lab.log").read_text()[-3000:]
        yield address
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)
        server.kill()


def test_own_kernel_in_jupyterlab(browser, lab):
    seen = Watched(browser, 1280, 1000, lab)
    page = seen.page
    page.set_default_timeout(SECONDS)
    page.goto(f"{lab}lab/tree/own_kernel.ipynb?token={TOKEN}&reset")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    page.locator(".jp-Toolbar-kernelName", has_text="Python 3").wait_for()
    page.locator(".jp-StatusBar-TextItem", has_text="Python 3 (ipykernel) | Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    answer = page.locator(".jp-OutputArea-output", has_text="mine is exact: ")
    try:
        answer.wait_for()
    finally:
        seen.shot("lab-ran")
    assert page.locator(".jp-OutputArea-output", has_text="FAIL broken").count() == 1 and page.locator(".jp-RenderedText[data-mime-type*='stderr']").count() == 0
    picture, sentence = page.locator("img.widget-image"), page.locator(".widget-html-content", has_text="tokens for each request")
    picture.scroll_into_view_if_needed()
    seen.shot("lab-before")
    before, said = picture.get_attribute("src"), sentence.inner_text()
    handle = page.locator(".widget-slider", has_text="acceptance").locator(".noUi-handle")
    handle.focus()
    handle.press("End")
    page.wait_for_function("before => document.querySelector('img.widget-image').src != before", arg=before)
    page.wait_for_function("said => Array.from(document.querySelectorAll('.widget-html-content'), e => e.innerText).every(text => text != said)", arg=said)
    assert "5.00 tokens for each request" in sentence.inner_text()  # acceptance 1: all 4 drafts and the bonus
    assert picture.evaluate("image => image.complete && image.naturalWidth") > 300
    seen.shot("lab-after")
    answer.scroll_into_view_if_needed()
    seen.shot("lab-answer")
    page.close()
