"""The static site of two lessons, and the apps: built, opened in Chromium, looked at."""

import os
import re
import subprocess
import sys

import pytest
from browser import CHROMIUM, OPTIONS, answers, server
from helpers import ROOT

pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture
def page():
    "A page of a Chromium."
    if CHROMIUM is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        page = opened.new_page(viewport={"width": 1600, "height": 1000})
        page.set_default_timeout(600_000)
        yield page
        opened.close()


def test_the_site_shows_figures_and_asks_nothing_of_the_network(tmp_path, page):
    subprocess.run(
        [sys.executable, ROOT / "docs/build.py", tmp_path, "01_entropy", "03_schedules"],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for html in tmp_path.rglob("*.html"):
        text = html.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?:", text), html
    assert "entropy_map" in (tmp_path / "api/losses.entropy.html").read_text(encoding="utf-8")
    page.goto(f"file://{tmp_path}/lessons/04_structure/01_entropy.html")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator("math").count()
    chapters = page.locator(".sidebar-tree .caption").all_text_contents()
    assert [title.strip() for title in chapters] == [
        "Start",
        "3 Mean teacher",
        "4 Structure",
        "API",
    ]
    for target in ("../03_mean_teacher/03_schedules.html", "../../api/losses.html"):
        assert page.locator(f'.sidebar-tree a[href="{target}"]').count() == 1


def test_an_app_answers(tmp_path, page):
    with server(
        "voila", ROOT, tmp_path, "--Voila.ip=127.0.0.1", "apps/metrics_lab.ipynb"
    ) as address:
        page.goto(address)
        box = page.locator(".widget-vbox:has(.js-plotly-plot)").first
        box.wait_for()
        assert answers(page, box)
        page.screenshot(path=tmp_path / "app.png")
