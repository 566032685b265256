"""The site in a browser: its search finds what it should; pages ask nothing of other machines."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"


class Quiet(SimpleHTTPRequestHandler):
    """A server of files that says nothing."""

    def do_GET(self):
        if self.path != "/favicon.ico":  # the site has none, and browsers ask for one
            return super().do_GET()
        self.send_response(204)
        self.end_headers()

    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the site that `make docs` has built."""
    if not (SITE / "search.html").exists():
        pytest.skip("the site is not built: run make docs first")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_search_finds_reconstruct(site, page):
    page.goto(f"{site}/search.html?q=reconstruct")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(a => a.href)")
    assert any("api/pnp_mlpatch.html#pnp_mlpatch.reconstruct" in link for link in found)


@pytest.mark.parametrize("width", [1200, 420])
def test_the_first_page_fits_its_window(site, page, width):
    """Wide code and tables scroll by themselves; the page does not."""
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{site}/index.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".sd-card").count() == 6


def test_an_example_can_be_downloaded(site, page):
    page.goto(f"{site}/gallery/inpainting.html")
    assert page.locator("a[href$='inpainting.ipynb']").count() > 0
    assert page.locator("a[href$='inpainting.py']").count() > 0
    assert page.locator("article img").count() > 0
