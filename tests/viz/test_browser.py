"""Every notebook with a control, in JupyterLab in a headless Chromium.

All cells run, a control of every figure is moved, and the figure follows.
"""

import json
import re
from configparser import ConfigParser
from contextlib import contextmanager

import pytest
from browser import CHROMIUM, answers, lab, opened, shown, stop_kernels
from controls import makers_of_controls, shown_maker
from helpers import ROOT

SKIPPED = ConfigParser(delimiters=["="])
SKIPPED.read(ROOT / "settings.ini")
FLAGS = set(SKIPPED["DEFAULT"]["tst_flags"].split())
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]
TRACEBACK = "Traceback (most recent call last)"
ENDED = f"""() => [...document.querySelectorAll('.jp-OutputArea pre')].some(pre =>
    pre.innerText.trim() === 'ALL-DONE' || pre.innerText.includes('{TRACEBACK}'))"""


MAKERS = makers_of_controls()


def shown_controls(path):
    "How many boxes of controls a notebook leaves on the page."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return sum(shown_maker(text, MAKERS) is not None for text in code)


NOTEBOOKS = {
    path: shown_controls(path)
    for path in sorted(ROOT.glob("nbs/**/*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts
}
NOTEBOOKS = {path: count for path, count in NOTEBOOKS.items() if count}


def is_skipped(text):
    "Whether a cell carries a flag that tests skip, or exports."
    flags = re.findall(r"^#\| (\w+)", text, re.MULTILINE)
    return bool(FLAGS & set(flags)) or "nbdev_export()" in text


def runnable(path):
    "A notebook without outputs, skipped cells and the export; its last cell says it was reached."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cells = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            cells.append(cell)
        elif not is_skipped("".join(cell["source"])):
            cells.append({**cell, "outputs": []})
    reached = dict(
        cell_type="code",
        id="done",
        metadata={},
        execution_count=None,
        outputs=[],
        source='print("ALL" + "-DONE")',
    )
    return json.dumps({**notebook, "cells": [*cells, reached]})


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    "One JupyterLab for all notebooks, on copies: it saves what it opens."
    root = tmp_path_factory.mktemp("notebooks")
    (root / "results").symlink_to(ROOT / "results")  # some lessons draw stored runs
    folder = root / "nbs"
    for path in NOTEBOOKS:
        copy = root / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(runnable(path), encoding="utf-8")
    with lab(folder, tmp_path_factory.mktemp("jupyter")) as address:
        yield address


def test_the_scan_finds_notebooks():
    assert {"interactive_figure", "volume_browser", "affinity_explorer", "metrics_lab"} <= MAKERS
    names = {path.stem for path in NOTEBOOKS}
    assert names >= {"widgets", "volume_browser", "03_affinity_explorer", "03_metrics_lab"}
    assert names >= {"01_vnet", "02_affinity", "06_method_comparison"}


@contextmanager
def run_in_lab(jupyter, browser, path, picture):
    "The page of a notebook after *Run All Cells*; its last state becomes a picture."
    with opened(browser, viewport={"width": 1600, "height": 1000}) as page:
        try:
            page.goto(f"{jupyter}/lab/tree/{path.relative_to(ROOT / 'nbs').as_posix()}?reset")
            page.wait_for_selector(".jp-Notebook .jp-Cell")
            page.wait_for_selector("#jupyterlab-splash", state="detached")
            status = page.locator("#jp-main-statusbar")
            status.get_by_text("| Idle").wait_for()  # earlier, "Run All" runs nothing
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
            page.wait_for_function(ENDED)
            errors = page.locator(".jp-OutputArea pre").filter(has_text=TRACEBACK)
            assert errors.count() == 0, errors.first.inner_text()[-1500:]
            yield page
        finally:
            page.screenshot(path=picture)
            stop_kernels(jupyter)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_figures_follow_their_controls(path, jupyter, browser, tmp_path):
    with run_in_lab(jupyter, browser, path, tmp_path / f"{path.stem}.png") as page:
        boxes = page.locator(".jp-OutputArea .widget-vbox:has(.js-plotly-plot)")
        boxes.nth(NOTEBOOKS[path] - 1).wait_for(state="attached")
        for number in range(boxes.count()):
            assert answers(page, boxes.nth(number)), (
                f"no control changes figure {number}; the page shows:\n{shown(page)}"
            )


def test_a_guess_and_an_exercise_answer(jupyter, browser, tmp_path):
    path = ROOT / "nbs/03_mean_teacher/01_ema.ipynb"
    with run_in_lab(jupyter, browser, path, tmp_path / "exercise.png") as page:
        guess = page.locator(".widget-vbox:has-text('Guess first.')").first
        assert not guess.locator(".js-plotly-plot").count()
        guess.get_by_role("button", name="averaged ones").focus()
        page.keyboard.press("Enter")
        guess.locator(".js-plotly-plot").wait_for()
        assert "You guessed averaged ones. The result is its own." in guess.inner_text()

        exercise = page.locator(".widget-vbox:has-text('ema 2.')").first
        answer = exercise.locator("input")
        for typed, reply in (("100", "Not yet. The newest student"), ("99", "Right.")):
            answer.fill(typed)
            answer.press("Tab")
            exercise.get_by_role("button", name="check").click()
            exercise.get_by_text(reply).wait_for()
        exercise.scroll_into_view_if_needed()
