"""JupyterLab as `make lab` starts it: a notebook that is opened stays as it is."""

import json
import shutil
from contextlib import ExitStack

import pytest
from browser import CHROMIUM, PATIENCE, lab, opened, shown
from helpers import ROOT

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]
LESSON = ROOT / "nbs/03_mean_teacher/01_ema.ipynb"
SAVING = "@jupyterlab/docmanager-extension:plugin"


def notebook_in_lab(folder, stack, browser, saving):
    "Opens a copy of a lesson in a JupyterLab with these settings; the copy and the page."
    notebook = folder / "notebooks/lesson.ipynb"
    notebook.parent.mkdir(parents=True)
    shutil.copyfile(LESSON, notebook)
    plugins = {SAVING: {**saving, "autosaveInterval": 2}}  # the usual two minutes are long
    address = stack.enter_context(lab(notebook.parent, folder / "settings", **plugins))
    page = stack.enter_context(opened(browser))
    page.goto(f"{address}/lab/tree/lesson.ipynb")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    return notebook, page


def test_opening_a_notebook_changes_nothing_on_disk(tmp_path, browser):
    before = LESSON.read_bytes()
    settings = json.loads((ROOT / "docs/lab/overrides.json").read_text(encoding="utf-8"))
    with ExitStack() as stack:
        ours, _ = notebook_in_lab(tmp_path / "ours", stack, browser, settings[SAVING])
        # without our settings the lesson is saved, so the test can fail; until then ours had time
        usual, page = notebook_in_lab(tmp_path / "usual", stack, browser, {})
        for _ in range(PATIENCE // 500):
            if usual.read_bytes() != before:
                break
            page.wait_for_timeout(500)
        else:
            raise AssertionError(f"JupyterLab never saved it; the page shows:\n{shown(page)}")
        assert ours.read_bytes() == before
