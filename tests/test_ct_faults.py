"""Scans with a fault that nothing but the data tells of, and what the shell says about them."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_mlpatch import cli, denoisers, samples, solvers
from pnp_mlpatch.ct import (
    COUNTS,
    FanBeam,
    ParallelBeam,
    Scan,
    read_scan,
    simulate_counts,
)
from pnp_mlpatch.ct._ellipse import extend
from pnp_mlpatch.ct.center import find, look
from pnp_mlpatch.ct.truncation import cut_sides
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators._ringless import Ringless
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.pipelines import ct_check
from pnp_mlpatch.pipelines.ct_fit import say_chi2
from pnp_mlpatch.pipelines.ct_slab import estimate_noise
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume
from pnp_mlpatch.tuning import chi2, discrepancy

h5py = pytest.importorskip("h5py")

SIZE, VIEWS, PIXEL, DARK, PHOTONS = 48, 60, 8.0, 100.0, 5000.0
GEOMETRY = ParallelBeam((SIZE, SIZE), VIEWS, SIZE, pixel=PIXEL)
CONFIG = VolumeConfig(solver="fast_admm", iterations=25, sigma=0.05)


def phantom(size: int = SIZE) -> torch.Tensor:
    """(1, 1, size, size): a body with dense and light parts, off the axis, within the circle."""
    rows, cols = np.mgrid[:size, :size] / size - 0.5
    image = 0.02 * (((rows + 0.04) / 0.32) ** 2 + ((cols - 0.03) / 0.4) ** 2 < 1)
    image += 0.02 * (np.hypot(rows - 0.1, cols + 0.15) < 0.07)
    image -= 0.015 * (np.hypot(rows + 0.1, (cols - 0.15) / 1.3) < 0.12)
    return torch.from_numpy(image).float()[None, None]


TRUTH = phantom()
CLEAN = simulate(Radon(GEOMETRY, cache=False), TRUTH)[0][0]


def exchange(
    path: Path, q=CLEAN, geometry=GEOMETRY, gain=1.0, dark=True, photons=PHOTONS, spoil=None
) -> Path:
    """A Data Exchange file of one slice, in units of ``gain`` a photon, with 20 flats and darks."""
    shape = (20, 1, q.shape[-1])
    data = gain * simulate_counts(q[0][:, None], photons, seed=1).numpy() + DARK
    white = gain * simulate_counts(torch.zeros(shape), photons, seed=2).numpy() + DARK
    if spoil is not None:
        spoil(data[:, 0])
    with h5py.File(path, "w") as file:
        file["exchange/data"] = data.clip(0, 65535).astype(np.uint16)
        file["exchange/data_white"] = white.clip(0, 65535).astype(np.uint16)
        if dark:
            file["exchange/data_dark"] = np.full(shape, DARK, np.uint16)
        file["exchange/theta"] = np.rad2deg(geometry.theta.numpy())
    return path


def solve(path: Path, geometry=GEOMETRY, config=CONFIG, truth=TRUTH, **how) -> tuple[float, dict]:
    """PSNR by total variation, and what the record says; no warnings are expected."""
    out = path.with_name(f"{path.stem}_volume.npy")
    reconstruct_volume(read_scan(path, **how), geometry, "tv", out, config, progress=False)
    record = json.loads(out.with_suffix(".json").read_text())
    return float(psnr(torch.from_numpy(np.load(out))[:, None], truth, 0.04)), record


@pytest.fixture
def clean(tmp_path) -> float:
    """PSNR of the scan without a fault, of which nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return solve(exchange(tmp_path / "clean.h5"))[0]


# ---- a: gain


def test_the_gain_is_that_of_the_flats(tmp_path):
    path = exchange(tmp_path / "scan.h5", gain=6.0)
    given, _ = solve(path, config=replace(CONFIG, gain=6.0))
    found, record = solve(path)
    assert record["gain"] == pytest.approx(6, rel=0.1)
    assert record["seen"]["gain from"] == "flats"
    assert record["result"]["chi2"][0] < 1.3
    assert found > given - 0.3


def test_the_gain_is_that_of_air_where_there_is_one_flat(tmp_path):
    small = GEOMETRY if CLEAN.shape[-1] == SIZE else None
    q = torch.nn.functional.pad(CLEAN, (10, 10))
    path = exchange(tmp_path / "scan.h5", q, gain=6.0)
    wide = replace(small, detectors=SIZE + 20)
    _, record = solve(path, wide, flat=6 * PHOTONS + DARK)
    assert record["seen"]["gain from"] == "readings beside the object"
    assert record["gain"] == pytest.approx(6, rel=0.25)


def test_a_gain_that_nothing_tells_is_warned_of(tmp_path):
    q = CLEAN[..., 14:-14]  # within the object
    path = exchange(tmp_path / "scan.h5", q)
    inside = replace(GEOMETRY, detectors=SIZE - 28)
    with pytest.warns(UserWarning, match=r"the gain.* is taken as 1"):
        solve(path, inside, flat=PHOTONS + DARK)


# ---- b: outliers


def test_saturated_readings_and_hot_elements_have_no_weight(tmp_path, clean):
    def spoil(data):
        draw = np.random.default_rng(0)
        data.reshape(-1)[draw.choice(data.size, 12, replace=False)] = 65535
        data[:, 17] *= 4
        data[:, 30] = 3000.0  # stuck

    found, record = solve(exchange(tmp_path / "scan.h5", spoil=spoil))
    assert record["result"]["bad_elements"] == [[17, 30]]
    assert 8 <= len(record["result"]["zingers"][0]) <= 16
    assert found > clean - 1
    kept, _ = solve(tmp_path / "scan.h5", config=replace(CONFIG, outliers=False))
    assert kept < clean - 3


def test_zingers_of_line_integrals(tmp_path):
    noisy = CLEAN + 0.02 * torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "q.npy", noisy[0].numpy())
    before, record = solve(tmp_path / "q.npy", angles=GEOMETRY.theta)
    assert record["result"]["outliers"] == [0]
    noisy[0, 4::9, 20] += 2.0
    np.save(tmp_path / "q.npy", noisy[0].numpy())
    after, record = solve(tmp_path / "q.npy", angles=GEOMETRY.theta)
    assert [20 in place for place in record["result"]["zingers"][0]] == [True] * 7
    assert after > before - 0.5


# ---- c: centre


@pytest.mark.parametrize("off", [1.9, 1.0])
def test_a_forgotten_centre_is_warned_of(tmp_path, off, clean):
    moved = replace(GEOMETRY, offset=-off * PIXEL)
    q = simulate(Radon(moved, cache=False), TRUTH)[0][0]
    path = exchange(tmp_path / "scan.h5", q)
    with pytest.warns(UserWarning, match="the views fit each other at") as told:
        solve(path)
    said = next(str(w.message) for w in told if "fit each other" in str(w.message))
    right = (SIZE - 1) / 2 + off
    assert float(said.partition("each other at ")[2].split()[0]) == pytest.approx(right, abs=0.2)
    if off == 1.0:  # with more, the object nearly leaves the detector
        assert solve(path, moved)[0] > clean - 1


def counted(geometry, photons: float, truth=TRUTH) -> Scan:
    counts = simulate_counts(simulate(Radon(geometry, cache=False), truth)[0][0], photons, seed=0)
    flat = torch.full((1, counts.shape[-1]), photons)
    return Scan(
        Path("scan"),
        COUNTS,
        tuple(counts.shape),
        geometry.theta,
        flat,
        None,
        {},
        lambda a, b: counts[a:b].numpy(),
    )


def scans():
    theta = torch.arange(VIEWS) * (2 * math.pi / VIEWS)
    distances = {"source_origin": 600.0, "origin_detector": 300.0}
    yield "half turn", replace(GEOMETRY, offset=2.3 * PIXEL)
    yield "whole turn", ParallelBeam((SIZE,) * 2, theta, SIZE, pixel=PIXEL, offset=-1.7 * PIXEL)
    yield "half acquisition", ParallelBeam((SIZE,) * 2, theta, 32, pixel=PIXEL, offset=8.4 * PIXEL)
    fan = FanBeam((SIZE,) * 2, theta, SIZE + 16, pixel=PIXEL, **distances)
    yield "fan", replace(fan, offset=1.3 * fan.spacing)
    yield "arc", replace(fan, offset=-2.6 * fan.spacing, arc=True)


@pytest.mark.parametrize(("name", "geometry"), scans(), ids=[name for name, _ in scans()])
def test_the_centre_is_found(name, geometry):
    right = (geometry.detectors - 1) / 2 - geometry.offset / geometry.spacing
    start = replace(geometry, offset=0.0)
    found = find(counted(geometry, 1e4), start)
    assert found.center == pytest.approx(right, abs=0.12)
    assert found.error < 0.1
    assert found.method == ("centre of mass" if name == "half turn" else "opposite rays")


def test_a_scan_that_does_not_tell_the_centre_is_refused():
    few = ParallelBeam((SIZE,) * 2, 5, SIZE, pixel=PIXEL)
    with pytest.raises(InputError, match="does not tell the rotation axis"):
        find(counted(few, 1e4), few)
    limited = ParallelBeam((SIZE,) * 2, torch.arange(20) * math.radians(1), SIZE, pixel=PIXEL)
    with pytest.raises(InputError, match="does not tell the rotation axis"):
        find(counted(limited, 300.0), limited)
    noise = 0.01 * torch.randn(VIEWS, SIZE, generator=torch.Generator().manual_seed(0))
    assert look(GEOMETRY, noise, noise < 1) is None  # no object


# ---- d and e: the discrepancy rule, and the noise of line integrals


def test_alpha_stays_where_chi2_does_not_fall():
    A = Radon(replace(GEOMETRY, shape=(16, 16), pixel=3 * PIXEL), cache=False)
    q = CLEAN[None] + 0.02 * torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(0))
    solver = solvers.make("admm", sigma=0.002, iterations=30)
    tv = denoisers.make("tv", strength=0.5)
    found = discrepancy(q, A, tv, solver, noise=0.02, progress=False)
    assert float(found.chi2) > 2  # pixels of three elements cannot show the data
    assert found.alpha_scale.tolist() == [1.0]
    assert torch.equal(found.x, found.runs[0].x)
    assert chi2(q, A, found.x, 0.02).tolist() == pytest.approx(found.chi2.tolist())


def test_noise_of_a_textured_object():
    image = TRUTH * (1 + 0.5 * torch.rand(TRUTH.shape, generator=torch.Generator().manual_seed(0)))
    fine = ParallelBeam((SIZE, SIZE), 360, SIZE, pixel=PIXEL)
    q = simulate(Radon(fine, cache=False), image)[0][0]
    noisy = q + 0.02 * torch.randn(q.shape, generator=torch.Generator().manual_seed(1))
    assert float(estimate_noise(noisy)) == pytest.approx(0.02, rel=0.08)


# ---- f: truncation


def test_a_truncated_scan_is_noticed_and_given_room(tmp_path, monkeypatch):
    part = replace(GEOMETRY, detectors=28, shape=(28, 28))
    q = CLEAN[..., 10:-10]
    path = exchange(tmp_path / "scan.h5", q)
    rows, cols = np.mgrid[:28, :28] - 13.5
    inside = torch.from_numpy(np.hypot(rows, cols) < 12)
    truth = TRUTH[..., 10:-10, 10:-10]

    def error() -> float:
        solve(path, part, truth=truth)
        x = torch.from_numpy(np.load(tmp_path / "scan_volume.npy"))
        assert x.shape == (1, 28, 28)
        return float((x[0] - truth[0, 0])[inside].square().mean().sqrt())

    with pytest.warns(UserWarning, match="goes on beyond the detector"):
        found = error()
    monkeypatch.setattr(ct_check, "_is_truncated", lambda geometry, cut: False)
    assert found < 0.8 * error()
    assert cut_sides(CLEAN[0], torch.ones_like(CLEAN[0], dtype=torch.bool)) == (False, False)


@pytest.mark.parametrize("fan", [False, True])
def test_projections_go_on_as_those_of_an_ellipse(fan):
    shape, angles = (64, 64), torch.arange(40) * (2 * math.pi / 40)
    geometry = (
        FanBeam(shape, angles, source_origin=200.0, origin_detector=100.0, detectors=64)
        if fan
        else ParallelBeam(shape, angles, 64)
    )
    rows, cols = np.mgrid[:64, :64] - 31.5
    body = ((rows - 2) / 20) ** 2 + ((cols + 3) / 28) ** 2 < 1
    lung = (rows / 6) ** 2 + ((cols - 6) / 5) ** 2 < 1
    x = torch.from_numpy(0.02 * body - 0.01 * lung).float()[None, None]
    q = Radon(geometry, cache=False)(x)[0, 0]
    seen = torch.zeros_like(q, dtype=torch.bool)
    seen[:, 14:-14] = True
    found = extend(geometry, torch.where(seen, q, 0.0), seen)
    error = (found - q)[~seen]
    assert float(error.square().mean().sqrt()) < 0.1 * float(q.max())
    assert abs(float(error.mean())) < 0.3 * float(q[~seen].mean())
    assert extend(geometry, 0 * q, seen) is None
    assert extend(geometry, q, ~seen & seen) is None


def test_inside_a_truncated_scan_values_are_those_of_the_whole(tmp_path):
    rows, cols = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    inside = torch.from_numpy(np.hypot(rows, cols) < 13)
    scores = []
    for count in (SIZE, 30):
        more = (SIZE - count) // 2
        q, part = CLEAN[..., more : SIZE - more], replace(GEOMETRY, detectors=count)
        path = exchange(tmp_path / f"{count}.h5", q)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solve(path, part)
        x = torch.from_numpy(np.load(tmp_path / f"{count}_volume.npy"))[0]
        scores.append(float((x - TRUTH[0, 0])[inside].square().mean().log10() * -10))
    assert scores[1] > scores[0] - 3.5


# ---- g and h: words, and honest mistakes


def test_chi2_decides_the_words():
    assert say_chi2([0.9, 1.2, None]) is None
    said = say_chi2([0.9, 177.0, None, 3.0], first=10)
    assert said.startswith("2 of 4 slices do not fit their data (11, 13): chi^2 is 177 in slice 11")
    assert "gain, the centre, outliers, truncation" in said


def test_the_shell_says_what_fits_and_checks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    moved = replace(GEOMETRY, offset=-1.9 * PIXEL)
    exchange(tmp_path / "scan.h5", simulate(Radon(moved, cache=False), TRUTH)[0][0], gain=6.0)
    words = "ct scan.h5 --spacing 8 --shape 48 48"
    run = f"{words} --out v.npy --denoiser tv --solver admm --iterations 5".split()
    with pytest.warns(UserWarning, match="fit each other at 25"):
        assert cli.main(run) == 0
    out = capsys.readouterr().out
    assert "gain 5." in out or "gain 6." in out
    assert "1 of 1 slices do not fit their data" in out
    assert cli.main([*words.split(), "--check"]) == 1
    out = capsys.readouterr().out
    assert "by centre of mass" in out
    assert "! the rotation axis is taken at element 23.50" in out
    assert cli.main([*words.split(), "--check", "--center", "auto"]) == 0
    out = capsys.readouterr().out
    assert "is at element 25.4" in out or "is at element 25.3" in out
    assert not list(tmp_path.glob("v.tif"))
    assert cli.main(["ct", "scan.h5", "--mu-water", "0.0193", "--out", "w.npy"]) == 2
    assert "Give --spacing or --pixel" in capsys.readouterr().err
    again = f"{words} --fbp --center tomopy:25.9 --out v.npy".split()
    with pytest.warns(UserWarning, match="exists, and will be replaced"):
        cli.main(again)


@pytest.mark.parametrize(
    ("length", "said"), [(8000.0, "0.001 of"), (0.8, "10 of")], ids=["um", "cm"]
)
def test_lengths_in_another_unit(tmp_path, length, said):
    path = exchange(tmp_path / "scan.h5")
    other = replace(GEOMETRY, pixel=length, spacing=length)
    with pytest.warns(UserWarning, match=rf"densest .* The lengths seem to be {said}"):
        solve(path, other, replace(CONFIG, mu_water=0.02), truth=TRUTH)


def test_transmissions_are_no_line_integrals(tmp_path):
    np.save(tmp_path / "t.npy", torch.exp(-CLEAN)[0].numpy())
    with pytest.raises(InputError, match="like transmissions, whose logarithm was not taken"):
        solve(tmp_path / "t.npy", angles=GEOMETRY.theta)
    with pytest.warns(UserWarning, match="like transmissions"):
        solve(tmp_path / "t.npy", angles=GEOMETRY.theta, kind="line integrals")


def test_flats_and_darks_swapped_or_missing(tmp_path):
    path = exchange(tmp_path / "scan.h5", gain=6.0, dark=False)
    with pytest.warns(UserWarning, match="there is no dark field, though the counts are no photon"):
        solve(path)
    path = exchange(tmp_path / "scan.h5")
    with pytest.raises(InputError, match=r"nothing was measured between them. Are they swapped\?"):
        solve(path, flat=DARK, dark=PHOTONS)


def test_a_fan_or_half_a_turn_taken_for_a_whole_one(tmp_path):
    theta = torch.arange(VIEWS) * (2 * math.pi / VIEWS)
    whole = ParallelBeam((SIZE,) * 2, theta, SIZE, pixel=PIXEL)
    path = exchange(tmp_path / "scan.h5", geometry=whole)  # the views are of half a turn
    with pytest.warns(UserWarning, match=r"opposite rays differ .* Is it a fan beam"):
        solve(path, whole)
    fan = FanBeam((SIZE,) * 2, theta, SIZE, pixel=PIXEL, source_origin=600.0, origin_detector=0.0)
    q = simulate(Radon(fan, cache=False), TRUTH)[0][0]
    path = exchange(tmp_path / "fan.h5", q, whole, photons=50000.0)
    with pytest.warns(UserWarning, match=r"opposite rays differ .* Is it a fan beam"):
        solve(path, whole)


def test_a_stray_file_among_the_projections(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for k in (0, 1, 2, 4, 5):
        image.fromarray(np.full((2, 8), 7, np.uint16)).save(tmp_path / f"view_{k:03d}.tif")
    image.fromarray(np.full((2, 8), 7, np.uint16)).save(tmp_path / "overview.tif")
    with pytest.warns(UserWarning, match=r"overview.tif are unlike the other 5 and the numbers 3 "):
        read_scan(tmp_path)


# ---- i: parts of a scan


def test_parts_of_a_scan_have_one_window(tmp_path):
    q = torch.stack([CLEAN[0], 2 * CLEAN[0], CLEAN[0], CLEAN[0]])
    np.save(tmp_path / "q.npy", q.numpy())
    scan = read_scan(tmp_path / "q.npy", angles=GEOMETRY.theta)
    whole = reconstruct_volume(scan, GEOMETRY, "tv", tmp_path / "v.npy", CONFIG, progress=False)
    part = replace(CONFIG, slices=(1, 2))
    one = reconstruct_volume(scan, GEOMETRY, "tv", tmp_path / "w.npy", part, progress=False)
    assert one.window == whole.window
    first, second = np.load(tmp_path / "v.npy")[1], np.load(tmp_path / "w.npy")[0]
    assert np.allclose(first, second, atol=1e-6)


# ---- rings


def test_errors_of_gain_make_no_rings(tmp_path):
    size = 64
    hu = samples.chest_ct().clamp(-1000, 1024)
    hu = torch.nn.functional.interpolate(hu, size=(size, size), mode="area")
    rows, cols = np.mgrid[:size, :size] - (size - 1) / 2
    hu[..., torch.from_numpy(np.hypot(rows, cols) > 0.46 * size)] = -1000
    truth = 0.0193 * (1 + hu / 1000)
    geometry = ParallelBeam((size, size), 90, size, pixel=6.25)
    q = simulate(Radon(geometry, cache=False), truth)[0][0]
    spread = torch.randn(size, generator=torch.Generator().manual_seed(3))
    path = exchange(tmp_path / "scan.h5", q - torch.log1p(0.03 * spread), geometry, photons=2e4)
    found, record = solve(path, geometry, truth=truth)
    assert record["result"]["element_spread"][0] == pytest.approx(0.03, rel=0.5)
    ringed, _ = solve(path, geometry, replace(CONFIG, rings=False), truth=truth)
    assert found > ringed + 1


def test_offsets_of_elements_are_integrated_out():
    A = Radon(GEOMETRY, cache=False)
    weight = torch.rand(2, *A.data_shape, generator=torch.Generator().manual_seed(0)) * 20
    weight[:, :, :, 7] = 0
    T = Ringless(A, weight, torch.tensor([0.1, 0.0]))
    check_operator_pair(T)
    w = weight[0, 0, :, 3].double()
    y = torch.zeros(2, *A.data_shape)
    y[:, :, :, 3] = torch.rand(VIEWS, generator=torch.Generator().manual_seed(1))
    precision = torch.linalg.inv(torch.diag(w**-2) + 0.01 * torch.ones(VIEWS, VIEWS))
    values = y[0, 0, :, 3].double()
    expected = float(values @ precision @ values)
    assert float(T.whiten(y)[0].square().sum()) == pytest.approx(expected, rel=1e-4)
    assert torch.allclose(T.whiten(y)[1], weight[1] * y[1])  # no offsets: plain weights


def check_operator_pair(T) -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.rand(2, *T.image_shape, generator=draw)
    y = torch.rand(2, *T.data_shape, generator=draw)
    left = (T(x) * y).flatten(1).sum(1)
    assert left.tolist() == pytest.approx((x * T.adjoint(y)).flatten(1).sum(1).tolist(), rel=1e-4)


# ---- half acquisition, stacks and presets


def test_half_acquisition_is_as_good_as_the_whole_detector(tmp_path):
    theta = torch.arange(2 * VIEWS) * (math.pi / VIEWS)
    whole = ParallelBeam((SIZE,) * 2, theta, SIZE, pixel=PIXEL)
    half = replace(whole, detectors=30, offset=9.0 * PIXEL)
    scores = []
    for geometry in (whole, half):
        q = simulate(Radon(geometry, cache=False), TRUTH)[0][0]
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # its near side is cut on purpose
            path = exchange(tmp_path / f"{geometry.detectors}.h5", q, geometry)
            scores.append(solve(path, geometry)[0])
    assert scores[1] > scores[0] - 1


def test_slabs_denoise_every_plane():
    seen = []

    def blur(x, sigma):
        seen.append(tuple(x.shape))
        return x.mean((2, 3), keepdim=True).expand_as(x) * sigma

    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found = denoisers.slabs(blur, chunk=4)(x, torch.tensor([1.0, 0.5]))
    means = [x.mean((2, 3), keepdim=True), x.mean((1, 3), keepdim=True)]
    expected = sum(means) + x.mean((1, 2), keepdim=True)
    expected = expected * torch.tensor([1.0, 0.5]).reshape(-1, 1, 1, 1) / 3
    assert torch.allclose(found, expected.expand_as(x), atol=1e-6)
    assert max(shape[0] for shape in seen) == 4
    for planes in ((), ("zz",)):
        with pytest.raises(InputError, match="planes must be one or more of xy, xz, yz"):
            denoisers.slabs(blur, planes)
    with pytest.raises(InputError, match="chunk must be an integer >= 1"):
        denoisers.slabs(blur, chunk=0)


def test_presets(tmp_path):
    path = exchange(tmp_path / "scan.h5")
    fast, record = solve(path, config=VolumeConfig(preset="fast"))
    assert record["result"]["iterations"][0] <= 6
    assert record["preset"] == "fast"
    assert fast > 25
    with pytest.raises(InputError, match="preset must be one of fast, standard, got"):
        VolumeConfig(preset="slow")


def test_the_width_of_an_element_is_that_of_the_file(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File(exchange(Path("scan.h5")), "a") as file:
        file["measurement/instrument/detector/x_pixel_size"] = 8000.0
        file["measurement/instrument/detector/x_pixel_size"].attrs["units"] = "um"
    words = ["ct", "scan.h5", "--shape", "48", "48", "--fbp", "--mu-water", "0.02", "--out"]
    assert cli.main([*words, "v.npy"]) == 0
    assert "an element is 8 mm wide, by the file" in capsys.readouterr().out
    assert json.loads(Path("v.json").read_text())["geometry"]["pixel"] == 8.0
    with pytest.warns(UserWarning, match="--spacing is 0.8, but by the file an element is 8 mm"):
        cli.main([*words, "w.npy", "--spacing", "0.8"])
