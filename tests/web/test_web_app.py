"""The app in a browser: an inpainting to its picture, a stop, and a broken upload in words."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time

import pytest

PICTURE = "html[data-ready=yes]"


@pytest.fixture(scope="module")
def address():
    """The app on a free port, in a process of its own."""
    pytest.importorskip("panel", reason="Panel is not installed: pip install 'pnp-mlpatch[web]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-m", "pnp_mlpatch.cli", "app", "--no-browser", "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *words], env=environment)
    for _ in range(240):
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, "the app ended"
        time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/"
    process.terminate()
    process.wait(30)


@pytest.fixture
def app(page, address):
    """The form, with a quick denoiser."""
    page.set_default_timeout(120_000)
    page.goto(address)
    page.get_by_text("press Run").wait_for()
    page.get_by_label("Denoiser").select_option("tv")
    return page


def run(app) -> None:
    app.get_by_role("button", name="Run").click()


def test_an_inpainting_to_its_picture(app):
    run(app)
    app.get_by_text("Finished after 20 iterations.").wait_for()
    frame = app.frame_locator("iframe[title=report]")
    frame.locator(PICTURE).wait_for()
    told = frame.locator("body").inner_text()
    assert float(re.search(r"PSNR\s+([\d.]+) dB", told)[1]) > 21
    assert "photograph: mask, tv, admm" in told
    frame.locator("#cut").fill("70")
    assert frame.locator("#after").evaluate("canvas => canvas.width") == 128
    drawn = "c => new Set(c.getContext('2d').getImageData(0, 0, 128, 128).data).size"
    assert frame.locator("#after").evaluate(drawn) > 50
    app.get_by_role("button", name="Show the code").click()
    app.get_by_text("random_mask((height, width), keep=0.3, seed=0)").first.wait_for()


def test_it_stops(app):
    app.get_by_label("Iterations").fill("500")
    app.get_by_label("Iterations").press("Tab")
    run(app)
    app.get_by_text("It runs.").wait_for()
    app.get_by_role("button", name="Stop").click()
    app.get_by_text(re.compile(r"Finished after \d+ iterations\.")).wait_for()
    assert int(re.search(r"\d+", app.locator("#said").inner_text())[0]) < 500


def test_a_broken_upload_is_refused_in_words(app):
    app.get_by_label("Picture").select_option("upload")
    run(app)
    app.get_by_text("Choose a file to upload first").wait_for()
    broken = {"name": "bad<b>.png", "mimeType": "image/png", "buffer": b"no picture"}
    app.locator("input[type=file]").set_input_files(files=[broken])
    app.get_by_text("Upload complete", exact=True).wait_for()
    run(app)
    app.get_by_text("bad<b>.png: cannot be read as a picture").wait_for()
    assert "/tmp" not in app.locator("#said").inner_text()
