"""What browser tests share as a fixture."""

import pytest
from browser import CHROMIUM, OPTIONS


@pytest.fixture(scope="module")
def browser():
    "One Chromium."
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=OPTIONS)
        yield opened
        opened.close()
