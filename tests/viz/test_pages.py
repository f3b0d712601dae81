"""Pages of a run and of an evaluation, opened in Chromium."""

import numpy as np
import pytest
from browser import CHROMIUM, opened

from lgermt.data.phantom import make_phantom
from lgermt.viz.cases_page import cases_html, thumbnails
from lgermt.viz.report import ShownCase, report_html

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)"),
]
pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CLASSES = ("body", "left_vein", "right_vein", "aorta")
WIDTHS_OF_FIGURES = """() => [...document.querySelectorAll('.grid > div')].map(
    cell => [cell.clientWidth, cell.querySelector('.main-svg').clientWidth])"""
TICKS = """() => [...document.querySelectorAll('.grid > div')].map(cell => ['x', 'y'].map(
    axis => cell.querySelectorAll(`.${axis}tick text`).length))"""
AXES = """() => [...document.querySelectorAll('.grid .xtitle, .grid .ytitle')].map(
    title => title.textContent)"""
WIDE_TABLES = """() => [...document.querySelectorAll('.scroll')].map(
    box => box.scrollWidth - box.clientWidth)"""
DETAILS = {"hd95_mm": 25.5, "volume_error_ml": -12.34, "pieces": 113, "island_voxels": 4982}


def scored(case, dices):
    "A case of four classes."
    numbers = {"jaccard": 0.5, "asd": 2.0, "hd95": 7.0}
    of_class = {name: {"dice": value, **numbers} for name, value in zip(CLASSES, dices)}
    return {"id": case, "dice": sum(dices) / len(dices), **numbers, "classes": of_class}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "A report of one class, one of four classes and two channels, and a page of cases."
    folder = tmp_path_factory.mktemp("pages")
    image, truth = make_phantom(3, shape=(96, 72, 48))
    labels = truth * (1 + np.digitize(np.arange(96), (30, 54, 66))[:, None, None]).astype(np.uint8)
    found = np.roll(labels, 3, axis=0)
    moved, both = np.roll(truth, 3, axis=0), np.stack([image, -image])
    log = [{"iteration": n, "loss": 1 / (1 + n)} for n in range(20)]
    cases = [scored("A", (0.9, 0.8, 0.0, 0.5)), scored("B", (0.9, 0.7, 0.6, 0.5))]
    settings = {"classes": list(CLASSES), "channels": ["t1", "lge"]}
    numbers = {"dice": 0.87, "jaccard": 0.77, "asd": 11.33, "hd95": 28.07}
    one = [{"id": "phantom_026", **numbers, **DETAILS, "largest_piece": {"hd95": 2.0}}]
    pictures = thumbnails(both, {"truth": labels, "prediction": found}, CLASSES)
    texts = {
        "one": report_html(
            log, one, [ShownCase("A", image, truth, moved, (1.25, 1.25, 1.25))], {}, "one class"
        ),
        "four": report_html(log, cases, [ShownCase("B", both, labels, found)], settings, "four"),
        "cases": cases_html(cases, [pictures] * 2, "cases"),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("width", [400, 420, 700, 1400, 1920])
@pytest.mark.parametrize("name", ["one", "four", "cases"])
def test_a_page_fits_its_window(pages, browser, name, width):
    with opened(browser, viewport={"width": width, "height": 900}) as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(f"file://{pages}/{name}.html")
        if name != "cases":
            page.wait_for_function("document.querySelectorAll('.grid .main-svg').length >= 3")
            for cell, figure in page.evaluate(WIDTHS_OF_FIGURES):
                assert cell == figure  # not as wide as the page, which it was in a growing grid
            assert all(min(ticks) >= 2 for ticks in page.evaluate(TICKS))
            unit = "mm" if name == "one" else "voxel"
            assert {title[1:] for title in page.evaluate(AXES)} == {f" ({unit})"}
            assert page.locator(".js-plotly-plot canvas").count()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not errors


def test_no_column_of_the_table_is_out_of_sight(pages, browser):
    with opened(browser, viewport={"width": 1200, "height": 900}) as page:
        page.goto(f"file://{pages}/one.html")
        assert page.get_by_text("largest piece: 95HD (voxel)", exact=True).is_visible()
        assert page.evaluate(WIDE_TABLES) == [0]


def test_a_click_on_a_class_hides_it_in_both_surfaces(pages, browser):
    with opened(browser, viewport={"width": 1400, "height": 900}) as page:
        page.goto(f"file://{pages}/four.html")
        surface = page.locator(".js-plotly-plot:has(canvas)")
        surface.locator(".legendtoggle").nth(1).click()
        page.wait_for_function(
            """() => {
                const figure = document.querySelector('.js-plotly-plot:has(canvas)');
                const hidden = figure.data.filter(mesh => mesh.visible === 'legendonly');
                return hidden.length === 2 && hidden.every(mesh => mesh.name === 'left_vein');
            }"""
        )
