"""What the tests of site and apps share."""

import pytest
from browser import CHROMIUM, OPTIONS


@pytest.fixture(scope="module")
def chromium():
    "A Chromium."
    if CHROMIUM is None:
        pytest.skip("no Chromium (Debian: apt-get install chromium)")
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        yield opened
        opened.close()
