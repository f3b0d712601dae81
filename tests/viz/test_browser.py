"""Every notebook with a control, in JupyterLab in a headless Chromium: all cells run, a control of every figure is moved, the figure follows."""

import json
import re
from configparser import ConfigParser

import pytest
from browser import CHROMIUM, OPTIONS, answers, lab, stop_kernels
from helpers import ROOT

SKIPPED = ConfigParser(delimiters=["="])
SKIPPED.read(ROOT / "settings.ini")
FLAGS = set(SKIPPED["DEFAULT"]["tst_flags"].split())
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]
MAKES = re.compile(
    r"^(?!def )\s*(\w+) = (?:\w*explore|browse|\w+_explorer|\w+_lab)\(", re.MULTILINE
)


def shown_controls(path):
    "How many boxes of controls a notebook leaves on the page: cells that make one and end with its name."
    count = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and "#| export" not in text:
            count += sum(text.rstrip().endswith("\n" + name) for name in MAKES.findall(text))
    return count


NOTEBOOKS = {
    path: count
    for path in sorted(ROOT.glob("nbs/**/*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts and (count := shown_controls(path))
}


def runnable(path):
    "A notebook without outputs, skipped cells and the export, with a last cell that says it was reached."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code" or not (
            FLAGS & set(re.findall(r"^#\| (\w+)", text, re.MULTILINE)) or "nbdev_export()" in text
        ):
            cells.append({**cell, "outputs": []} if cell["cell_type"] == "code" else cell)
    done = dict(
        cell_type="code",
        id="done",
        metadata={},
        execution_count=None,
        outputs=[],
        source='print("ALL" + "-DONE")',
    )
    return json.dumps({**notebook, "cells": cells + [done]})


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    "One JupyterLab for all notebooks, on copies: it saves what it opens."
    root = tmp_path_factory.mktemp("notebooks")
    (root / "results").symlink_to(ROOT / "results")  # some lessons draw stored runs
    folder = root / "nbs" / "chapter"
    folder.mkdir(parents=True)
    for path in NOTEBOOKS:
        (folder / path.name).write_text(runnable(path), encoding="utf-8")
    with lab(folder, tmp_path_factory.mktemp("jupyter")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    "One Chromium."
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        yield opened
        opened.close()


def test_the_scan_finds_notebooks():
    assert {"widgets", "volume_browser", "03_affinity_explorer", "03_metrics_lab"} <= {
        path.stem for path in NOTEBOOKS
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_follow_their_controls(path, jupyter, browser, tmp_path):
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(900_000)
    try:
        page.goto(f"{jupyter}/lab/tree/{path.name}?reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_selector("#jupyterlab-splash", state="detached")
        page.locator("#jp-main-statusbar").get_by_text(
            "| Idle"
        ).wait_for()  # earlier, "Run All" runs nothing
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        page.wait_for_function("""() => [...document.querySelectorAll('.jp-OutputArea pre')].some(
            p => p.innerText.trim() === 'ALL-DONE' || p.innerText.includes('Traceback (most recent call last)'))""")
        errors = page.locator(".jp-OutputArea pre").filter(
            has_text="Traceback (most recent call last)"
        )
        assert errors.count() == 0, errors.first.inner_text()[-1500:]
        boxes = page.locator(".jp-OutputArea .widget-vbox:has(.js-plotly-plot)")
        boxes.first.wait_for()
        page.wait_for_timeout(1000)
        assert boxes.count() >= NOTEBOOKS[path], (
            f"{boxes.count()} boxes of controls, not {NOTEBOOKS[path]}"
        )
        for number in range(boxes.count()):
            assert answers(page, boxes.nth(number)), f"no control changes figure {number}"
    finally:
        page.screenshot(path=tmp_path / f"{path.stem}.png")
        page.close()
        stop_kernels(jupyter)
