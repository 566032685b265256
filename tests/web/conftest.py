"""A headless Chromium for the tests of pages; they are skipped where there is none."""

from __future__ import annotations

import shutil

import pytest

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser():
    """Debian's Chromium, driven by Playwright."""
    reason = "Playwright is not installed: pip install 'pnp-mlpatch[web]'"
    api = pytest.importorskip("playwright.sync_api", reason=reason)
    path = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium; on Debian: apt-get install chromium")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A new page, which must stay without errors and ask nothing of other machines."""
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    faults: list[str] = []
    local = ("file:", "data:", "blob:", "about:", "http://127.0.0.1", "ws://127.0.0.1")

    def see(message) -> None:
        if message.type == "error":
            faults.append(message.text)

    def ask(request) -> None:
        if not request.url.startswith(local):
            faults.append(request.url)

    page.on("console", see)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", ask)
    page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
    yield page
    page.close()
    assert faults == []
