"""JupyterLab as `make lab` starts it: a notebook that is opened stays as it is."""

import json

import pytest
from browser import CHROMIUM, lab
from helpers import ROOT

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]
SAVING = "@jupyterlab/docmanager-extension:plugin"


@pytest.mark.parametrize("ours", [True, False])
def test_opening_a_notebook_changes_nothing_on_disk(tmp_path, browser, ours):
    notebook = tmp_path / "lesson.ipynb"
    before = (ROOT / "nbs/03_mean_teacher/01_ema.ipynb").read_bytes()
    notebook.write_bytes(before)
    settings = json.loads((ROOT / "docs/lab/overrides.json").read_text(encoding="utf-8"))
    saving = settings[SAVING] if ours else {}
    plugins = {SAVING: {**saving, "autosaveInterval": 2}}  # the usual two minutes are long
    with lab(tmp_path, tmp_path / "settings", **plugins) as address:
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{address}/lab/tree/lesson.ipynb")
        page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
        for _ in range(40):
            page.wait_for_timeout(500)
            if notebook.read_bytes() != before:
                break
        changed = notebook.read_bytes() != before
        page.close()
    assert changed != ours  # without our settings it is saved, so the test can fail
