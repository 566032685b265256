"""The HTML report: what it tells, that nothing of it runs but its own script, that it is small."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pnp_mlpatch import cli, denoisers, operators, reconstruct, solvers
from pnp_mlpatch.errors import FileError, InputError, MissingPackage
from pnp_mlpatch.io.images import write_image
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.solvers import Result
from pnp_mlpatch.solvers._stopping import SERIOUS
from pnp_mlpatch.tuning import chi2
from pnp_mlpatch.viz import Report, write_report
from pnp_mlpatch.viz._fit import Fit, fit
from pnp_mlpatch.viz._of_result import chosen, fit_plots
from pnp_mlpatch.viz._packed import default_window, pack, shrink, through
from pnp_mlpatch.viz._words import STATUS, say_chi2, say_whiteness
from pnp_mlpatch.viz.report import render

EVIL = '<script>alert("x")</script>'


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and not self.scripts:
            self.scripts.append(data)
        elif not (self.tags and self.tags[-1][0] == "style"):
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return " ".join(self.words)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def run(request):
    """Truth, operator, data and result of an inpainting by total variation."""
    truth = torch.linspace(0, 1, 40).repeat(36, 1)[None, None]
    A = Mask(random_mask((36, 40), keep=0.6))
    q = A(truth + 0.05 * noise(1, 1, 36, 40))
    return truth, A, q, reconstruct(q, A, "tv", noise=0.05, iterations=15, progress=False)


def safe(text: str) -> Page:
    """A page with one script, ours, that nothing outside of it is loaded by, and no handlers."""
    page = Page(text)
    assert [tag for tag, _ in page.tags].count("script") == 1
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "data:image/png;").startswith("data:image/png;")
    policy = next(a["content"] for tag, a in page.tags if "http-equiv" in a)
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    return page


def test_it_tells_what_is_known(run, tmp_path):
    truth, A, q, result = run
    D = denoisers.make("mlpatch", weights="mlpatch-samples-grey")
    result.report(
        tmp_path / "r.html", q=q, A=A, D=D, truth=truth, command="python it.py", title="A test"
    )
    page = safe((tmp_path / "r.html").read_text(encoding="utf-8"))
    told = page.text
    for words in ("A test", STATUS[result.status][0], STATUS[result.status][1]):
        assert words in told
    found = fit(q, A, result.x, 0.05).chi2
    assert f"{found:.3f} per datum" in told
    assert found == pytest.approx(float(chi2(q, A, result.x, 0.05)))
    for words in ("The level follows from the noise", "(noise / sigma)^2", "python it.py", "PSNR"):
        assert words in told, words
    assert "licence" in told  # of the card
    captions = [a["data-caption"] for tag, a in page.tags if a.get("class") == "source"]
    assert captions == ["result", "start", "truth"]


def test_it_needs_nothing_but_a_result(run, tmp_path):
    result = run[3]
    result.report(tmp_path / "r.htm")
    safe((tmp_path / "r.htm").read_text(encoding="utf-8"))
    result.save(tmp_path / "r.pt")
    Result.load(tmp_path / "r.pt").report(tmp_path / "again.html")
    several = reconstruct(
        noise(3, 3, 20, 24).sigmoid(),
        operators.make("identity", image_shape=(3, 20, 24)),
        "tv",
        noise=0.1,
        iterations=2,
    )
    several.report(tmp_path / "colour.html")
    told = (tmp_path / "colour.html").read_text(encoding="utf-8")
    assert "first of 3 images" in told
    assert 'data-colour="yes"' in told
    assert 'id="level"' not in told


def test_no_text_from_outside_runs(run, tmp_path):
    truth, A, q, result = run
    D = denoisers.make("mlpatch", weights="mlpatch-samples-grey")
    D.card = {"licence": EVIL, EVIL: "</script><img src=x onerror=alert(1)>"}
    told = 'it\'s "quoted" & <b>'
    result.report(
        tmp_path / "r.html",
        q=q,
        A=A,
        D=D,
        truth=truth,
        title=EVIL,
        command=f"run '{EVIL}'",
        settings={EVIL: {"a": told}, "file": f"{EVIL}.png"},
    )
    page = safe((tmp_path / "r.html").read_text(encoding="utf-8"))
    for words in (EVIL, told, f"{EVIL}.png"):
        assert words in page.text
    assert page.text.count("alert") >= 5
    assert not [1 for tag, a in page.tags if tag == "img" and "onerror" in a]
    captions = Report("x", {EVIL: truth, '" onload="alert(1)': truth}, notes=[EVIL], unit=EVIL)
    safe(render(captions))


def test_a_file_name_and_a_card_with_a_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "<script>alert(1)<!--.png"
    write_image(name, torch.linspace(0, 1, 24).repeat(20, 1)[None, None])
    D = denoisers.make("mlpatch", weights="mlpatch-samples-grey")
    D.save("evil.safetensors", {**D.card, "licence": EVIL})
    line = "--operator identity --noise 0.1 --set solver.iterations=2 --report r.html --quiet"
    words = ["solve", "--simulate", name, *line.split(), "--output", "o.png"]
    words += ["--set", "denoiser.weights=evil.safetensors"]
    assert cli.main(words) == 0
    page = safe(Path("r.html").read_text(encoding="utf-8"))
    assert name in page.text
    assert EVIL in page.text
    assert "pnp-mlpatch solve --simulate '<script>alert(1)<!--.png'" in page.text


def test_solve_writes_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_image("x.png", torch.linspace(0, 1, 32).repeat(32, 1)[None, None])
    line = "solve --simulate x.png --operator mask --set operator.keep=0.5 --noise 0.05"
    line += " --denoiser tv --output o.png"
    assert cli.main([*line.split(), "--tune", "--report", "tune.html", "--quiet"]) == 0
    told = safe(Path("tune.html").read_text(encoding="utf-8")).text
    assert json.loads(Path("o.json").read_text())["tuned"]["why"] in told
    assert "What the search tried" in told
    assert "--tune --report tune.html" in told
    for wrong, words in (("o.png", "must end in .html"), ("x/y.html", "no folder")):
        assert cli.main([*line.split(), "--report", wrong]) == 2
        assert words in capsys.readouterr().err
    assert cli.main([*line.replace("o.png", "o.npy").split(), "--report", "x.html"]) == 0


def test_errors_are_said_and_leave_no_file(run, tmp_path, monkeypatch):
    truth, _, q, result = run
    with pytest.raises(InputError, match=r"must end in \.html"):
        result.report(tmp_path / "r.pdf")
    with pytest.raises(InputError, match="belong together"):
        result.report(tmp_path / "r.html", q=q)
    with pytest.raises(InputError, match=r"truth= must have the shape \(1, 1, 36, 40\)"):
        result.report(tmp_path / "r.html", truth=truth[..., :30])
    with pytest.raises(InputError, match="expected an image"):
        write_report(tmp_path / "r.html", Report("x", {"result": torch.zeros(3)}))
    with pytest.raises(InputError, match="the image 'b' has shape"):
        write_report(tmp_path / "r.html", Report("x", {"a": truth, "b": truth[..., :30]}))
    with pytest.raises(InputError, match="the truth has shape"):
        write_report(tmp_path / "r.html", Report("x", {"a": truth}, truth=truth[..., :30]))
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(FileError, match="it is a folder"):
        result.report(tmp_path / "folder.html")
    (tmp_path / "folder.html").rmdir()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingPackage, match="pip install jinja2"):
        result.report(tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


# ---- what is drawn


def decoded(png: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")).astype(int)


def test_packed_values_come_back():
    x = 3 * noise(1, 20, 30) - 1
    x[0, 2, 3] = torch.nan
    packed = pack("x", x, upwards=False)
    pixels = decoded(packed.png)
    code = 16 * pixels[:20, :, 0] + pixels[20:, :, 0]
    values = packed.low + (packed.high - packed.low) * (code - 1) / 4094
    known = code > 0
    assert (~known).sum() == 1
    assert not known[2, 3]
    step = (packed.high - packed.low) / 4094
    np.testing.assert_allclose(values[known], x[0].numpy()[known], atol=0.51 * step)
    turned = decoded(pack("x", x, upwards=True).png)
    np.testing.assert_array_equal(turned[:20], pixels[:20][::-1])


def test_a_report_is_small_even_of_noise():
    """Noise cannot be compressed: two images of 720 x 720 pixels, and a residual."""
    x, y, r = (noise(720, 720, seed=k) for k in range(3))
    plots = fit_plots(Fit(r, torch.ones(720, 720, dtype=torch.bool), 1.0))
    text = render(Report("x", {"a": x, "b": y}, truth=x + y, plots=plots))
    assert len(text.encode()) < 3e6


def test_large_images_are_means_of_blocks():
    x = torch.arange(1600.0).repeat(1000, 1)[None]
    small, factor = shrink(x)
    assert factor == 3
    assert small.shape == (1, 334, 534)
    assert small[0, 0, :3].tolist() == [1.0, 4.0, 7.0]
    assert "mean of 3 x 3 pixels" in pack("x", x, False).caption


def test_the_picture_through_a_window():
    x = torch.tensor([[0.0, 0.5, 1.0, 2.0, torch.nan]])[None]
    shown = decoded(through(x, (0.0, 1.0), "gray", False))
    assert shown[0, :, 0].tolist() == [0, 128, 255, 255, 190]
    assert bool((shown == shown[..., :1]).all())
    error = decoded(through(x - 1, (-1.0, 1.0), "RdBu_r", False))
    assert error[0, 0, 2] > error[0, 0, 0]  # too low is blue
    assert error[0, 3, 0] > error[0, 3, 2]  # too high is red
    assert default_window([torch.rand(1, 30, 30)]) == (0.0, 1.0)
    low, high = default_window([1000 * torch.rand(1, 30, 30) - 200])
    assert -230 < low < -190
    assert 790 < high < 830


# ---- the fit


def test_the_residual_of_the_truth_is_white_noise(run):
    truth, A, *_ = run
    q = A(truth + 0.05 * noise(1, 1, 36, 40, seed=3))
    found = fit(q, A, truth, 0.05)
    assert torch.equal(found.measured, (A.mask > 0).expand(1, 36, 40))
    assert found.chi2 == pytest.approx(1, abs=4 * (2 / 864) ** 0.5)
    assert "White" in found.whiteness()[1]
    assert fit(q, A, truth, None).chi2 is None
    seen = torch.full((1, 36, 40), 0.05)
    seen[..., :10] = torch.inf
    assert not bool(fit(q, A, truth, seen).measured[..., :10].any())


def test_structure_in_the_residual_is_found():
    r = noise(40, 50)
    r[:, 1:] = 0.6 * r[:, :-1] + 0.8 * r[:, 1:]
    found = Fit(r, torch.ones(40, 50, dtype=torch.bool), 1.0)
    rows, errors = found.correlations()["along a row"]
    assert rows[0] == pytest.approx(0.48, abs=0.1)
    assert errors[0] == pytest.approx((40 * 49) ** -0.5)
    assert "Not white" in found.whiteness()[1]
    assert "along a row, 1 apart" in found.whiteness()[1]
    line = Fit(noise(2000), torch.ones(2000, dtype=torch.bool), 1.0)
    assert list(line.correlations()) == ["along a row"]
    assert Fit(noise(5, 5), torch.ones(5, 5, dtype=torch.bool), 1.0).whiteness() is None


def test_words():
    assert say_chi2(1.0, False) == "Noise is all that is left."
    assert "does not fit" in say_chi2(3.0, False)
    assert "estimated" in say_chi2(1.0, True)
    assert "closer" in say_chi2(0.5, False)
    assert say_whiteness(0.05, "here", 0.06).startswith("White")
    assert "follows the noise" in say_whiteness(-0.3, "here", 0.01)
    assert {"converged", *SERIOUS} <= set(STATUS)


def test_each_choice_has_its_reason(run):
    _, A, q, result = run
    rows = {name: (value, why) for name, value, why in chosen(result)}
    assert rows["noise"] == ("0.05", "given")
    assert rows["sigma"][1] == result.tuned.why
    assert "noise / sigma" in rows["alpha"][1]
    plain = reconstruct(q, A, "tv", solvers.make("hqs", iterations=2), noise=0.05)
    assert chosen(plain) == []
    rows = {name: why for name, _, why in chosen(reconstruct(q, A, "tv", "hqs", iterations=2))}
    assert "second differences" in rows["noise"]


def test_the_policy_names_the_script_and_the_style(run):
    text = render(Report("x", {"result": run[3].x}))
    style = re.search(r"<style>(.*?)</style>", text, flags=re.S)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in text
    assert "style=" not in text


def test_the_wheel_has_the_page(tmp_path):
    words = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(words, cwd=Path(__file__).parents[1], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"pnp_mlpatch/viz/page/report.{end}" for end in ("html.jinja", "css", "js")} <= {*names}
