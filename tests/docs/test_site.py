"""The whole static site, opened in Chromium: figures, folds, links, alternative texts, axe-core."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import opened
from helpers import ROOT
from links import dead_links, read_page

pytestmark = pytest.mark.slow

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
AXE = Path(sys.prefix, "axe/node_modules/axe-core/axe.min.js")
LESSON = "lessons/03_mean_teacher/01_ema.html"
HANDBOOK = "lessons/handbook/volume_browser.html"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The built site."
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, ROOT / "docs/build.py", folder],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return folder


@pytest.fixture(params=[1400, 420])
def page(request, chromium):
    "A page of a wide and of a narrow screen."
    with opened(chromium, viewport={"width": request.param, "height": 1000}) as page:
        yield page


def test_no_link_is_dead(site):
    dead, count = dead_links(site)
    assert count > 10_000
    assert not dead, "\n".join(dead[:40])


def test_nothing_is_asked_of_the_network_and_every_picture_has_a_text(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?:", text), path
        without = [image for image in re.findall(r"<img[^>]*>", text) if 'alt="' not in image]
        assert not without, (path, without)
        empty = [image for image in re.findall(r'<img[^>]*alt=""[^>]*>', text)]
        assert not empty, (path, empty)


def test_the_front_page_has_a_card_with_a_picture_for_every_chapter(site):
    text = (site / "index.html").read_text(encoding="utf-8")
    chapters = sorted(ROOT.glob("nbs/[0-9]*_*/"))
    cards = re.findall(r'<section class="chapter".*?</section>', text)
    assert len(cards) == len(chapters) + 1  # and the method on one page
    assert all("<img" in card for card in cards)
    for group in ("For learners", "For users", "For contributors"):
        assert group in text
    lessons = {path.relative_to(ROOT / "nbs").with_suffix(".html") for path in numbered_lessons()}
    linked = set(read_page(site / "index.html").links)
    assert {f"lessons/{lesson}" for lesson in lessons} <= linked
    assert "| ---" not in text  # tables are tables


def numbered_lessons():
    "The lessons of the course."
    return ROOT.glob("nbs/[0-9]*/*.ipynb")


def test_figures_folds_and_api(site, page):
    page.goto(f"file://{site}/{LESSON}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.locator("math").count()
    setup = page.locator("details", has_text="Setup: show the imports").first
    assert setup.get_attribute("open") is None
    assert page.locator("details.hide").count() > 3  # the checks
    code = page.locator("div.cell_input").last
    page.get_by_role("button", name="Hide the code").click()
    assert not code.is_visible()
    page.get_by_role("button", name="Show the code").click()
    chapters = page.locator(".sidebar-tree .caption").all_text_contents()
    assert chapters[0].strip() == "Start" and "4 Structure" in map(str.strip, chapters)
    assert page.locator('.sidebar-tree a[href="03_schedules.html"]').count() == 1
    page.goto(f"file://{site}/{HANDBOOK}")
    assert page.get_by_text("This figure has controls").count()
    assert "entropy_map" in (site / "api/losses.entropy.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index.html", LESSON, HANDBOOK, "api/losses.entropy.html"])
def test_axe_finds_nothing_serious(site, page, name, scheme):
    if not AXE.exists():
        pytest.skip(f"no axe-core (npm install --prefix {AXE.parents[2]} axe-core)")
    page.emulate_media(color_scheme=scheme)
    page.goto(f"file://{site}/{name}")
    page.wait_for_load_state("load")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [
        (violation["id"], node["html"][:200], node["failureSummary"])
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
    assert not serious, serious[:5]
