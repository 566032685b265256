"""A report in a browser: no errors, the slider and the window move, nothing foreign runs."""

from __future__ import annotations

import pytest
import torch

from pnp_mlpatch.viz import Report, write_report

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture
def opened(page, tmp_path):
    """A report of a ramp from -1000 to 1000 against black, opened."""
    ramp = torch.linspace(-1000, 1000, 40).repeat(30, 1)
    ramp[0, 0] = torch.nan
    write_report(
        tmp_path / "r.html",
        Report(
            f"A ramp {EVIL}",
            {"ramp": ramp, "black": torch.full((30, 40), -1000.0), EVIL: -ramp},
            truth=ramp + 5,
            statuses=("converged",),
            settings={EVIL: EVIL},
            command=EVIL,
            window=(-1000, 1000),
            unit="HU",
        ),
    )
    page.goto((tmp_path / "r.html").as_uri())
    page.wait_for_selector("html[data-ready=yes]")
    return page


def grey(page, canvas: str, row: int, column: int) -> list[int]:
    """The colour of a pixel of a canvas."""
    return page.evaluate(
        "([id, r, c]) => [...document.getElementById(id).getContext('2d')"
        ".getImageData(c, r, 1, 1).data]",
        [canvas, row, column],
    )


def edge(page) -> float:
    """Where the image on the left ends, in per cent."""
    clip = page.evaluate("getComputedStyle(document.getElementById('before')).clipPath")
    cut = page.evaluate("document.getElementById('stage').style.getPropertyValue('--cut')")
    assert clip.startswith("inset(0px")
    return float(cut.rstrip("%"))


def test_the_slider_moves(opened):
    opened.locator("#cut").fill("80")
    assert edge(opened) == 80
    box = opened.locator("#stage").bounding_box()
    at = box["y"] + box["height"] / 2
    opened.mouse.move(box["x"] + 0.8 * box["width"], at)
    opened.mouse.down()
    opened.mouse.move(box["x"] + 0.25 * box["width"], at, steps=5)
    opened.mouse.up()
    assert edge(opened) == pytest.approx(25, abs=1)
    assert opened.locator("#cut").input_value() in ("25", "24.5", "25.5")


def test_the_grey_scale_is_that_of_the_window(opened):
    assert grey(opened, "after", 5, 39) == [255, 255, 255, 255]
    assert grey(opened, "after", 5, 0) == [0, 0, 0, 255]
    assert grey(opened, "after", 0, 0) == [190, 190, 190, 255]  # not known
    assert grey(opened, "before", 5, 39) == [0, 0, 0, 255]
    opened.get_by_role("button", name="soft tissue").click()  # -160 to 240
    value = -1000 + 2000 * 20 / 39
    assert grey(opened, "after", 5, 20)[0] == pytest.approx(255 * (value + 160) / 400, abs=2)
    assert grey(opened, "after", 5, 30)[0] == 255
    assert opened.locator("#level-shown").inner_text() == "40 HU"
    opened.locator("#which").select_option("2")
    assert grey(opened, "before", 5, 0)[0] == 255


def test_values_are_read_and_zoomed(opened):
    opened.get_by_role("button", name="4x").click()
    stage, room = (opened.locator(name).bounding_box() for name in ("#stage", ".scroll"))
    assert stage["width"] == pytest.approx(4 * room["width"], rel=0.02)
    opened.get_by_role("button", name="1x").click()
    box = opened.locator("#stage").bounding_box()
    opened.mouse.move(box["x"] + 39.5 / 40 * box["width"], box["y"] + 10.5 / 30 * box["height"])
    said = opened.locator("#readout").inner_text()
    assert said.startswith("row 10 from the top, column 39: ramp 1000; black -1000; ")


@pytest.mark.parametrize("width", [1200, 420])
def test_nothing_is_cut_off(opened, width):
    opened.set_viewport_size({"width": width, "height": 900})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    assert opened.locator("h1").inner_text() == f"A ramp {EVIL}"


def test_it_is_seen_without_scripts(browser, tmp_path):
    write_report(tmp_path / "r.html", Report("x", {"a": torch.rand(20, 30)}))
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((tmp_path / "r.html").as_uri())
    assert page.locator("img.still").bounding_box()["width"] > 300
    context.close()
