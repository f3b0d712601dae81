"""The apps, in a folder with a space in its name, on a run with a relative folder of data."""

import re
import shutil
import subprocess
import sys

import pytest
from browser import CHROMIUM, answers, opened, server, shown
from helpers import ROOT

from lgermt.data.datasets import write_phantoms

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
APPS = sorted(path.name for path in ROOT.glob("apps/*.ipynb"))
SETTINGS = "--labeled 2 --iterations 2 --patch 48 48 32 --base-channels 4 --device cpu"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "A copy of the program with a run on data of its own."
    project = tmp_path_factory.mktemp("my projects") / "a course"
    for name in ("apps", "lgermt"):
        shutil.copytree(ROOT / name, project / name)
    (project / "data").mkdir()
    write_phantoms(project / "data/mine")
    command = [sys.executable, "-m", "lgermt.train", "--data", "data/mine", "--out", "runs/mine"]
    subprocess.run([*command, *SETTINGS.split()], cwd=project, check=True)
    return project


def test_an_unknown_run_gives_one_line(tmp_path):
    command = [sys.executable, ROOT / "apps/start.py", "runs/nothing"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("RUN=runs/nothing: no last.pt there")
    assert ended.stderr.count("\n") == 1


def test_the_start_page_says_what_each_app_is_and_the_apps_answer(project, tmp_path, chromium):
    script = project / "apps/start.py"
    with (
        server((script, "runs/mine"), project, tmp_path, "--Voila.ip=127.0.0.1") as address,
        opened(chromium, viewport={"width": 1400, "height": 1000}) as page,
    ):
        page.goto(address)
        links = [link.get_attribute("href") for link in page.get_by_role("link").all()]
        assert sorted(link.rpartition("/")[2] for link in links) == APPS
        assert page.locator("li p").count() == len(APPS)
        assert str(project / "runs/mine") in page.content()
        for name in ("volume_browser", "affinity", "metrics_lab"):
            page.goto(f"{address}/voila/render/{name}.ipynb")
            box = page.locator(".lgermt-explorer:has(.js-plotly-plot)").first
            box.wait_for()
            assert answers(page, box), f"{name} shows:\n{shown(page)}"
            sliders = box.locator(".widget-slider:visible")
            assert sliders.count()
            assert "iteration" not in sliders.all_inner_texts()  # a run has one moment
        page.goto(f"{address}/voila/render/live_training.ipynb")
        page.get_by_text(re.compile("[1-9][0-9]* of 150 iterations")).wait_for()
    assert not (project / "apps/data").exists()
