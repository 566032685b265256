"""``pnp-mlpatch ct``, in-process on small scans, and killed in a process of its own."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import pnp_mlpatch
from pnp_mlpatch import cli
from pnp_mlpatch.ct.counts import simulate_counts
from pnp_mlpatch.ct.geometry import FanBeam, ParallelBeam, as_dict
from pnp_mlpatch.io.images import read_image
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon

h5py = pytest.importorskip("h5py")

SIZE, SLICES, ANGLES, PIXEL, BLANK, DARK = 40, 5, 30, 1.5, 2000, 30
TV = "--denoiser tv --set denoiser.iterations=15 --iterations 4 --sigma 0.06 --batch 2 --threads 1"
PARALLEL = ParallelBeam((SIZE, SIZE), ANGLES, SIZE, pixel=PIXEL)


def phantom(slices: int = SLICES, size: int = SIZE) -> torch.Tensor:
    """(slices, H, W) attenuation per mm: a disc of 0.02 within the field of view, with a dense disc
    that moves and a hole.
    """
    rows, cols = np.mgrid[:size, :size] / size - 0.5
    images = []
    for k in range(slices):
        image = 0.02 * (rows**2 + cols**2 < 0.17) + 0.01 * (
            (cols - 0.12) ** 2 + (rows - 0.2 * math.sin(k)) ** 2 < 0.01
        )
        images.append(image - 0.02 * ((np.abs(cols + 0.2) < 0.07) & (np.abs(rows) < 0.1)))
    return torch.from_numpy(np.stack(images)).float()


TRUTH = phantom()


def measured(geometry=PARALLEL, truth=TRUTH) -> np.ndarray:
    """Counts (slices, angles, detectors), uint16."""
    q = Radon(geometry, cache=False)(truth[:, None])[:, 0]
    return simulate_counts(q, float(BLANK + DARK), float(DARK), seed=1).numpy().astype(np.uint16)


COUNTS = measured()


def exchange(path, counts=COUNTS, geometry=PARALLEL, white=True) -> None:
    """A Data Exchange file: projections first, angles in degrees."""
    slices, _, detectors = counts.shape
    with h5py.File(path, "w") as file:
        file["exchange/data"] = counts.transpose(1, 0, 2)
        if white:
            file["exchange/data_white"] = np.full((3, slices, detectors), BLANK + DARK, np.uint16)
        file["exchange/data_dark"] = np.full((2, slices, detectors), DARK, np.uint16)
        file["exchange/theta"] = np.rad2deg(geometry.theta.numpy())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with scan.h5, counts.npy and q.npy (line integrals)."""
    monkeypatch.chdir(tmp_path)
    exchange("scan.h5")
    np.save("counts.npy", COUNTS)
    np.save("q.npy", (-np.log((COUNTS.astype(float) - DARK).clip(0.5) / BLANK)).astype(np.float32))
    return tmp_path


@pytest.fixture
def run(here, capsys):
    """Call ``pnp-mlpatch ct``: (exit status, stdout, stderr)."""

    def call(line: str, settings: str = TV):
        status = cli.main(["ct", *line.split(), *settings.split()])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def fails(run):
    """Call with arguments that must fail in one line on stderr; return that line."""

    def call(line: str, settings: str = TV) -> str:
        before = sorted(os.listdir())
        status, out, err = run(line, settings)
        assert status == 2
        assert err.startswith("pnp-mlpatch: ")
        assert err.count("\n") == 1
        assert out == ""
        assert sorted(os.listdir()) == before
        return err

    return call


def score(x, truth=TRUTH) -> float:
    return float(psnr(torch.as_tensor(x)[:, None], truth[:, None], 0.03).mean())


def volume(path="v.npy") -> torch.Tensor:
    if path.endswith(".h5"):
        with h5py.File(path) as file:
            return torch.from_numpy(file["volume"][()])
    return torch.from_numpy(np.load(path))


# ---- what comes out


def test_a_data_exchange_file(run):
    status, out, _ = run("scan.h5 --out v.h5 --spacing 1.5 --preview p.png --plot g.png")
    assert status == 0
    assert "counts, 30 angles x 40 detectors; 5 slices of 40 x 40" in out
    assert "5 max_iter" in out
    assert run("scan.h5 --out fbp.h5 --spacing 1.5 --fbp")[0] == 0
    assert score(volume("v.h5")) > score(volume("fbp.h5")) + 3
    made = json.loads(Path("v.json").read_text())
    assert made["version"] == pnp_mlpatch.__version__
    assert made["source"] == "scan.h5"
    assert made["meta"]["denoiser"] == {
        "name": "tv",
        "strength": 0.8,
        "iterations": 15,
        "tol": 1e-4,
    }
    assert (made["sigma"], made["iterations"], made["batch"]) == (0.06, 4, 2)
    assert made["result"]["iterations"] == [4] * SLICES
    assert made["geometry"]["angles"] == pytest.approx(PARALLEL.theta.tolist())
    assert made["scan"]["format"] == "Data Exchange"
    assert json.loads(Path("fbp.json").read_text())["meta"] == {"denoiser": None}
    for name in ("p.png", "g.png"):
        assert min(read_image(name).shape[-2:]) > 200
        assert float(read_image(name).std()) > 0.05
    assert run("scan.h5 --out w.h5 --spacing 1.5 --quiet")[1:] == ("", "")
    assert Path("w.h5").read_bytes() == Path("v.h5").read_bytes()


def test_a_report_tells_the_reason_of_every_choice(run):
    """The recipe on counts; then line integrals by a solver, with what was given."""
    recipe = "--denoiser tv --set denoiser.iterations=5 --preset fast --batch 5 --threads 1"
    assert run("scan.h5 --out v.h5 --spacing 1.5 --report r.html", recipe)[0] == 0
    told = Path("r.html").read_text(encoding="utf-8")
    record = json.loads(Path("v.json").read_text())
    chosen = told.split("What was chosen, and why")[1].split("Pictures of the run")[0]
    for name in (
        *("window", "gain", "noise", "preset", "iterations at most", "sigma", "scale of alpha"),
        *("rotation axis", "truncation", "outliers", "offsets of elements", "pixel", "projector"),
    ):
        row = chosen.split(f'<th scope="row">{name}</th>')[1].split("</tr>")[0]
        assert len(row.split('<td class="remark">')[1]) > 10, name
    assert "99.5th percentile" in chosen
    assert f"{record['result']['chi2'][2]:.3f} per datum" in told
    assert "scan.h5, slice 2 of 0 to 4" in told
    assert "Whiteness" in told
    assert "pnp-mlpatch ct scan.h5 --out v.h5 --spacing 1.5 --report r.html" in told
    assert Path("r.html").stat().st_size < 3e6
    line = "q.npy --layout sad --angles 30 --out w.npy --spacing 1.5 --mu-water 0.02 --noise 0.05"
    assert run(f"{line} --slices 1:2 --report w.html")[0] == 0
    told = Path("w.html").read_text(encoding="utf-8")
    for words in ("soft tissue", "w.npy, HU", "slice 1 of 1 to 1"):
        assert words in told
    assert "scale of alpha" not in told
    assert run(f"{line} --slices 1:2 --fbp --report f.html", "")[0] == 0
    assert "Filtered backprojection alone" in Path("f.html").read_text(encoding="utf-8")


def test_a_report_of_a_truncated_object_has_no_residual(run):
    np.save("cut.npy", np.load("q.npy")[..., 12:-12])
    line = "cut.npy --layout sad --angles 30 --out c.npy --spacing 1.5 --slices 0:1"
    assert run(f"{line} --report c.html")[0] == 0
    told = Path("c.html").read_text(encoding="utf-8")
    assert "The object goes on beyond the detector" in told
    assert "the margin was cut off" in told
    assert "Whiteness" not in told


def test_mlpatch_is_the_default(run):
    line = "scan.h5 --out v.npy --spacing 1.5 --slices 1:3 --mu-water 0.02"
    assert (
        run(
            line,
            "--weights mlpatch-ct --iterations 3 --threads 1 --set denoiser.tile=64 --set "
            "solver.data_iterations=3",
        )[0]
        == 0
    )
    made = json.loads(Path("v.json").read_text())
    used = {"name": "mlpatch", "weights": "mlpatch-ct", "tile": 64, "precision": "float32"}
    assert made["meta"]["denoiser"] == used
    assert made["settings"] == {"data_iterations": 3}
    assert made["slices"] == [1, 3]
    assert made["window"] == [-1024, 1024]
    assert made["units"] == "HU"
    x = volume()
    assert x.shape == (2, SIZE, SIZE)
    inside = TRUTH[1:3] == 0.02
    assert float(x[inside].mean()) == pytest.approx(0, abs=40)
    assert score((x / 1000 + 1) * 0.02, TRUTH[1:3]) > 23


def test_the_recipe_is_the_default(run):
    line = "scan.h5 --out v.npy --spacing 1.5 --slices 1:3"
    plain = "--denoiser tv --set denoiser.iterations=15 --threads 1"
    status, out, _ = run(line, plain)
    assert status == 0
    assert "2 max_iter" in out or "2 converged" in out
    made = json.loads(Path("v.json").read_text())
    assert (made["solver"], made["sigma"], made["iterations"], made["settings"]) == (
        None,
        None,
        None,
        {},
    )
    assert all(factor in (1, 0.5, 0.25) for factor in made["result"]["alpha_scale"])
    assert score(volume(), TRUTH[1:3]) > 26
    assert run(f"{line} --solver admm", plain)[0] == 0
    first = volume()
    for given in ("--iterations 20", "--sigma 0.0784313725490196", "--set solver.tol=1e-4"):
        assert run(f"{line} {given}", plain)[0] == 0
        assert json.loads(Path("v.json").read_text())["result"]["alpha_scale"] == [None, None]
        assert torch.equal(volume(), first)


def test_counts_of_an_array(run):
    line = "counts.npy --out v.npy --angles 30 --spacing 1.5"
    assert run(f"{line} --blank {BLANK + DARK} --dark {DARK}")[0] == 0
    first = volume()
    np.save("flat.npy", np.full((SLICES, SIZE), BLANK + DARK))
    np.save("dark.npy", np.full((2, SLICES, SIZE), DARK))
    np.savetxt("angles.txt", np.arange(30) * 6.0)
    assert (
        run(
            "counts.npy --out v.npy --angles angles.txt --degrees --spacing 1.5 --blank "
            "flat.npy --dark dark.npy"
        )[0]
        == 0
    )
    assert torch.allclose(volume(), first, atol=1e-5)
    np.save("turned.npy", COUNTS.transpose(2, 1, 0))
    assert (
        run(
            "turned.npy --layout das --out v.npy --angles 30 --spacing 1.5 --blank "
            f"{BLANK + DARK} --dark {DARK}"
        )[0]
        == 0
    )
    assert torch.equal(volume(), first)
    for settings in (
        "--likelihood poisson",
        "--electronic 5",
        "--solver hqs --set solver.alpha_scale=1",
        "--sigma 0.1 0.08 0.06",
    ):
        assert run(f"{line} --blank {BLANK + DARK} --dark {DARK} {settings}")[0] == 0
        assert score(volume()) > score(first) - 3


def test_line_integrals(run):
    assert run("q.npy --out v.npy --angles 30 --spacing 1.5")[0] == 0
    made = json.loads(Path("v.json").read_text())
    assert made["scan"]["kind"] == "line integrals"
    assert all(0.02 < value < 0.06 for value in made["result"]["noise"])
    assert score(volume()) > 23
    assert run("q.npy --out v.npy --angles 30 --spacing 1.5 --noise 0.03 --window 0 0.04")[0] == 0
    made = json.loads(Path("v.json").read_text())
    assert made["result"]["noise"] == pytest.approx([0.03] * SLICES)
    assert made["window"] == [0, 0.04]
    with h5py.File("named.h5", "w") as file:
        file["data"] = np.load("q.npy")
    first = volume()
    for scan in ("named.h5:data", "named.h5 --dataset data"):
        assert (
            run(
                f"{scan} --out v.npy --angles 30 --spacing 1.5 --noise 0.03 --window 0 "
                "0.04 --kind line-integrals"
            )[0]
            == 0
        )
        assert torch.equal(volume(), first)


@pytest.mark.parametrize("arc", [False, True], ids=["flat", "arc"])
def test_fan_beam(run, arc):
    geometry = FanBeam(
        (SIZE, SIZE),
        48,
        50,
        source_origin=150.0,
        origin_detector=80.0,
        spacing=2.0,
        pixel=PIXEL,
        arc=arc,
    )
    exchange("fan.h5", measured(geometry), geometry)
    distances = (
        f"--beam {'arc' if arc else 'fan'} --source-origin 150 --origin-detector 80 --spacing 2"
    )
    assert run(f"fan.h5 --out v.npy --pixel 1.5 --shape 40 40 {distances}")[0] == 0
    assert score(volume()) > 27
    assert run(f"fan.h5 --out w.npy --angles 48 --pixel 1.5 --shape 40 40 {distances}")[0] == 0
    assert torch.allclose(volume("w.npy"), volume(), atol=1e-4)
    assert run(f"fan.h5 --out small.npy {distances} --fbp")[0] == 0
    side = volume("small.npy").shape[-1]
    assert 45 <= side <= 50  # the field of view in pixels of a detector at the centre
    assert json.loads(Path("small.json").read_text())["geometry"]["pixel"] == pytest.approx(
        2 * 150 / 230
    )


def test_centre_of_rotation(run):
    geometry = ParallelBeam((SIZE, SIZE), ANGLES, 46, pixel=PIXEL, offset=2.5 * PIXEL)
    exchange("off.h5", measured(geometry), geometry)
    shape = "--shape 40 40 --spacing 1.5"
    assert run(f"off.h5 --out v.npy {shape} --center 20")[0] == 0
    first = volume()
    assert score(first) > 24
    assert run(f"off.h5 --out v.npy {shape} --offset 3.75")[0] == 0
    assert torch.equal(volume(), first)
    assert run(f"off.h5 --out v.npy {shape}")[0] == 0
    assert score(volume()) < score(first) - 5


def test_geometry_file(run, fails):
    assert run("scan.h5 --out v.npy --spacing 1.5")[0] == 0
    first = volume()
    Path("g.json").write_text(json.dumps(as_dict(PARALLEL)))
    Path("g.toml").write_text('type = "ParallelBeam"\nshape = [40, 40]\npixel = 1.5\n')
    Path("old.json").write_text(Path("v.json").read_text())
    for name in ("g.json", "g.toml", "old.json"):
        assert run(f"scan.h5 --out v.npy --geometry {name}")[0] == 0
        assert torch.allclose(volume(), first, atol=1e-5)
    assert (
        run(
            f"counts.npy --out v.npy --geometry g.toml --angles 30 --blank {BLANK + DARK} "
            f"--dark {DARK}"
        )[0]
        == 0
    )
    assert torch.allclose(volume(), first, atol=1e-5)
    assert "leave out --pixel, --source-origin" in fails(
        "scan.h5 --out v.npy --geometry g.json --pixel 1 --source-origin 3"
    )
    assert "has the angles; leave out --angles" in fails(
        "scan.h5 --out v.npy --geometry g.json --angles 30"
    )
    assert "would overwrite v.json" in fails("scan.h5 --out v.npy --geometry v.json")
    assert "neither it nor the scan tells the angles" in fails(
        "counts.npy --out v.npy --blank 2000 --geometry g.toml"
    )
    for text, words in (
        ("{", "cannot be read as JSON"),
        ("[3]", "expected a table"),
        ('{"type": "ConeBeam"}', "must be one of"),
    ):
        Path("bad.json").write_text(text)
        assert words in fails("scan.h5 --out v.npy --geometry bad.json")
    Path("bad.json").write_text('{"type": "ParallelBeam", "shape": [40, 40], "angels": 3}')
    assert "angels" in fails("scan.h5 --out v.npy --geometry bad.json")
    assert "none.toml" in fails("scan.h5 --out v.npy --geometry none.toml")


def test_dead_bins_and_nan(run):
    assert run("scan.h5 --out whole.npy --spacing 1.5 --window 0 0.04")[0] == 0
    counts = COUNTS.astype(np.float32)
    counts[:, 4, 10:13] = np.nan
    exchange("dead.h5", counts)
    with h5py.File("dead.h5", "r+") as file:
        file["exchange/data_white"][:, :, 21] = 0
        file["exchange/data"][:, :, 21] = 0
    assert run("dead.h5 --out v.npy --spacing 1.5 --window 0 0.04")[0] == 0
    assert bool(torch.isfinite(volume()).all())
    assert score(volume()) > score(volume("whole.npy")) - 1
    assert score(volume(), volume("whole.npy")) > 30


# ---- mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("none.h5 --out v.npy", "none.h5: no such file or folder"),
        ("half.h5 --out v.npy", "not a whole HDF5 file"),
        ("empty.h5 --out v.npy", "no dataset /exchange/data"),
        ("empty.h5:data --out v.npy", "no dataset 'data'"),
        ("half.npy --out v.npy --angles 30", "not a readable .npy file"),
        ("noflat.h5 --out v.npy", "counts need the open beam"),
        ("counts.npy --out v.npy --angles 30", "--blank I0"),
        (
            "counts.npy --out v.npy --blank 2000",
            "tells no angles. Give --angles FILE, or --angles N for equally spaced ones "
            "(30 projections)",
        ),
        ("counts.npy --out v.npy --blank 2000 --angles 31", "31 angles for 30 projections"),
        (
            "counts.npy --out v.npy --blank 2000 --angles 40",
            "seems transposed: give --layout 'sda'",
        ),
        ("counts.npy --out v.npy --blank 2000 --angles 0", "must be >= 1"),
        ("counts.npy --out v.npy --blank 2000 --angles 30 --layout asd", "give --layout 'sad'"),
        ("counts.npy --out v.npy --blank 2000 --angles 30 --layout xyz", "layout must name"),
        ("counts.npy --out v.npy --blank 2000 --angles 30 --degrees", "--angles 30 needs none"),
        ("counts.npy --out v.npy --blank much --angles 30", "much"),
        ("q.npy --out v.npy --angles none.txt", "none.txt"),
        ("q.npy --out v.npy --angles 30 --likelihood poisson", "is for counts"),
        ("q.npy --out v.npy --angles 30 --noise -1", "noise must be a number > 0"),
        (
            "q.npy --out v.npy --angles 30 --kind line-integrals --blank 5",
            "--blank and --dark are for counts",
        ),
        ("scan.h5 --out v.npy --noise 0.1", "counts bring their noise"),
        (
            "scan.h5 --out v.npy --center 41",
            "--center 41 lies off the detector, whose elements are 0 ... 39; its middle is 19.5",
        ),
        ("scan.h5 --out v.npy --center -3", "lies off the detector"),
        ("scan.h5 --out v.npy --center 20 --offset 1", "give one"),
        ("scan.h5 --out v.npy --offset 1000", "off the detector"),
        ("scan.h5 --out v.npy --source-origin 100", "a parallel beam has no source"),
        ("scan.h5 --out v.npy --beam fan --origin-detector 3", "--beam fan needs --source-origin"),
        ("scan.h5 --out v.npy --beam fan --source-origin 100", "needs --origin-detector"),
        (
            "scan.h5 --out v.npy --beam fan --source-origin 0 --origin-detector 3",
            "--source-origin must be a length > 0",
        ),
        (
            "scan.h5 --out v.npy --beam fan --source-origin 5 --origin-detector 3 --shape "
            "40 40 --pixel 1",
            "lies within the image",
        ),
        ("scan.h5 --out v.npy --pixel 0", "--pixel must be a length > 0"),
        ("scan.h5 --out v.npy --spacing nan", "--spacing must be a length > 0"),
        ("scan.h5 --out v.npy --shape 0 4", "shape must be (H, W)"),
        ("scan.h5 --out v.npy --slices 3", "expected START:STOP"),
        ("scan.h5 --out v.npy --slices 3:9", "which has 0:5"),
        ("scan.h5 --out v.npy --slices 3:3", "slices 3:3"),
        ("scan.h5 --out v.npy --window 1 0", "low < high"),
        ("scan.h5 --out v.npy --sigma -1", "sigma must be a number > 0"),
        ("scan.h5 --out v.npy --iterations 0", "iterations must be an integer >= 1"),
        ("scan.h5 --out v.npy --batch 0", "batch must be an integer >= 1"),
        ("scan.h5 --out v.npy --memory -1", "memory must be a number > 0"),
        ("scan.h5 --out v.npy --denoiser tvv", "Did you mean 'tv'"),
        ("scan.h5 --out v.npy --weights x", "weights"),
        ("scan.h5 --out v.npy --solver adm", "Did you mean 'admm'"),
        ("scan.h5 --out v.npy --set operator.angles=3", "is set by its geometry"),
        ("scan.h5 --out v.npy --set solver.sigma=3", "give --sigma"),
        ("scan.h5 --out v.npy --set solver.step=3", "step"),
        ("scan.h5 --out v.npy --device nowhere", "--device nowhere: cannot be used"),
        ("scan.h5 --out v.png", "unknown ending '.png'"),
        ("scan.h5 --out none/v.npy", "there is no folder none"),
        ("scan.h5 --out scan.h5", "this is the input"),
        ("scan.h5 --out v.npy --preview p.gif", "ending in .png"),
        ("scan.h5 --out v.npy --report p.png", "must end in .html"),
        ("scan.h5 --out v.npy --report r.html --shard 1/2", "which a shard has not"),
        ("scan.h5 --out v.npy --plot none/p.png", "there is no folder none"),
    ],
)
def test_mistakes_are_told_in_one_line(fails, here, line, message):
    (here / "half.h5").write_bytes((here / "scan.h5").read_bytes()[:3000])
    (here / "half.npy").write_bytes((here / "counts.npy").read_bytes()[:1000])
    h5py.File("empty.h5", "w").close()
    exchange("noflat.h5", white=False)
    given = line.split()
    settings = TV.split()
    for flag in ("--sigma", "--iterations", "--batch"):  # a later one would win
        if flag in given:
            settings[settings.index(flag) : settings.index(flag) + 2] = []
    if "--denoiser" in given:
        settings[:2] = []
    assert message in fails(line, " ".join(settings))


def test_a_file_that_breaks_off_within(run, here):
    """The header is whole, the projections are not: told when they are read."""
    content = (here / "scan.h5").read_bytes()
    with h5py.File("scan.h5") as file:
        offset = file["exchange/data"].id.get_offset()
    (here / "cut.h5").write_bytes(content[: offset + 100])
    status, _, err = run("cut.h5 --out v.npy")
    assert status == 2
    assert err.count("\n") == 1
    assert "cut.h5" in err


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["ct", "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert out.count("  pnp-mlpatch ct ") >= 4
    assert "--blank I0|FILE" in out


def test_the_angles_of_lodopab_in_the_help():
    """Rays of ODL's parallel beam, with its axes, are those of the angles that the
    help computes.
    """
    odl = pytest.importorskip("odl")
    from odl.applications import tomo

    space = odl.uniform_discr([-0.13] * 2, [0.13] * 2, (40, 40))
    beam = tomo.parallel_beam_geometry(space, 20, 57)
    ours = (np.arange(20) + 0.5) * np.pi / 20 - np.pi / 2
    x, y = beam.det_axis(
        beam.angles
    ).T  # ODL's first axis runs down the rows, its second along them
    assert np.allclose(np.stack([y, -x]), [np.cos(ours), np.sin(ours)])
    assert pytest.approx(7.1676e-4, rel=1e-4) == 0.26 * 2**0.5 / 513
    assert pytest.approx(7.1823e-4, rel=1e-4) == 0.26 / 362


# ---- going on, and memory


def process(*words: str) -> list[str]:
    return [sys.executable, "-m", "pnp_mlpatch.cli", "ct", *words]


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["h5", "npy", "tif"])
def test_killed_and_run_again(here, ending, tmp_path_factory):
    """SIGKILL when the first batches are done; the same command goes on to the same bytes."""
    counts = np.concatenate([COUNTS, COUNTS[::-1]])
    exchange("many.h5", counts)
    words = [
        "many.h5",
        "--spacing",
        "1.5",
        "--denoiser",
        "tv",
        "--set",
        "denoiser.iterations=30",
        "--set",
        "denoiser.tol=0.0",
    ]
    words += [
        "--iterations",
        "40",
        "--set",
        "solver.tol=0.0",
        "--batch",
        "2",
        "--threads",
        "1",
        "--quiet",
    ]
    root = Path(pnp_mlpatch.__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    whole, out, journal = f"whole.{ending}", f"v.{ending}", Path(f".v.{ending}.partial.json")
    subprocess.run(process(*words, "--out", whole), check=True, env=environment)
    with subprocess.Popen(process(*words, "--out", out), env=environment) as running:
        until = time.monotonic() + 120
        while not (journal.exists() and json.loads(journal.read_text())["done"]):
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    assert 0 < len(json.loads(journal.read_text())["done"]) < 5
    assert not Path(out).exists()
    other = subprocess.run(
        process(*words, "--out", out, "--sigma", "0.2"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert other.returncode == 2
    assert "sigma: " in other.stderr
    assert "--no-resume" in other.stderr
    words.remove("--quiet")
    done = subprocess.run(
        process(*words, "--out", out), env=environment, check=True, capture_output=True, text=True
    )
    assert "of them from an earlier run" in done.stdout
    assert Path(out).read_bytes() == Path(whole).read_bytes()
    assert Path("v.json").read_bytes() == Path("whole.json").read_bytes()
    assert not journal.exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_slices(here):
    """The peak of a process: 30 times the slices, 46 MB of counts and 31 MB of volume more, and
    less than 16 MB more memory.
    """
    code = (
        "import resource, sys; from pnp_mlpatch.cli import main; status = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)"
    )
    geometry = ParallelBeam((160, 160), 120, 160)
    few = measured(geometry, phantom(8, 160) / 2)
    environment = {**os.environ, "PYTHONPATH": str(Path(pnp_mlpatch.__file__).parent.parent)}
    peaks = []
    for name, counts in (("few", few), ("many", np.tile(few, (38, 1, 1)))):
        exchange(f"{name}.h5", counts, geometry)
        words = [
            "ct",
            f"{name}.h5",
            "--out",
            f"{name}.out.h5",
            "--fbp",
            "--quiet",
            "--threads",
            "1",
        ]
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(
            int(done.stdout) / 1024 if sys.platform != "darwin" else int(done.stdout) / 2**20
        )
    assert volume("many.out.h5").shape == (304, 160, 160)
    assert peaks[1] - peaks[0] < 16


def test_the_centre_of_tomopy(run):
    with pytest.warns(
        UserWarning,
        match=r"center 20 is half an element right of the middle, 19.5.*tomopy.*subtract 0.5",
    ):
        assert run("scan.h5 --out v.npy --spacing 1.5 --slices 1:2 --fbp --center 20", "")[0] == 0
