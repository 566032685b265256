"""Detector elements finer than the pixels, taken together."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pnp_mlpatch import cli
from pnp_mlpatch.ct import FanBeam, ParallelBeam, coordinates, read_scan, simulate_counts, sizes
from pnp_mlpatch.ct.binning import (
    bin_geometry,
    bin_mean,
    bin_sum,
    divide,
    divide_pixels,
    elements_in_a_pixel,
)
from pnp_mlpatch.ct.truncation import Frame, crop
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.pipelines.ct_slab import read_slab
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume

SIDE, NOISE = 24, 0.02
FINE = ParallelBeam((3 * SIDE, 3 * SIDE), 60, 3 * SIDE + 1, pixel=2.0)
COARSE = replace(FINE, shape=(SIDE, SIDE), pixel=6.0)
FAN = FanBeam(
    (SIDE, SIDE), angles=60, source_origin=500.0, origin_detector=300.0, pixel=6.0, detectors=91,
    spacing=3.2, offset=1.0, arc=True,
)  # fmt: skip


def phantom() -> torch.Tensor:
    rows, cols = np.mgrid[: 3 * SIDE, : 3 * SIDE] / (3 * SIDE) - 0.5
    image = 0.02 * ((rows / 0.32) ** 2 + ((cols - 0.03) / 0.4) ** 2 < 1)
    image += 0.02 * (np.hypot(rows - 0.1, cols + 0.15) < 0.07)
    return torch.from_numpy(image).float()[None, None]


@pytest.mark.parametrize("geometry", [FINE, FAN])
@pytest.mark.parametrize("factor", [2, 3, 5])
def test_bins_lie_where_their_elements_do(geometry, factor):
    found = bin_geometry(geometry, factor)
    left = sizes(geometry)[0] % factor // 2
    places = coordinates(geometry)[left:][: factor * sizes(found)[0]]
    assert torch.allclose(coordinates(found), places.reshape(-1, factor).mean(1))
    assert sizes(found)[1] == pytest.approx(factor * sizes(geometry)[1])


def test_bins_leave_out_what_was_not_measured():
    values = torch.tensor([[9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 9.0]])
    seen = torch.tensor([[True, True, False, True, False, False, False, True]])
    assert bin_sum(values, seen, 3).tolist() == [[4.0, 0.0]]
    assert bin_mean(values, seen, 3).tolist() == [[2.0, 0.0]]
    assert bin_geometry(FINE, 1) is FINE
    assert elements_in_a_pixel(COARSE) == 3
    assert elements_in_a_pixel(FAN) == pytest.approx(6 / (3.2 * 500 / 800))
    found = [divide(ratio) for ratio in (0.5, 1.9, 2.0, 3.0, 4.0, 6.0, 9.1)]
    assert found == [(1, 1), (1, 1), (2, 1), (3, 1), (3, 1), (3, 2), (3, 3)]
    fine = divide_pixels(FAN, 2)
    assert (fine.shape, fine.pixel, sizes(fine)) == ((48, 48), 3.0, sizes(FAN))
    image = torch.arange(64.0).reshape(1, 8, 8)
    whole = torch.nn.functional.avg_pool2d(image[:, 1:-1, 1:-1], 2)
    assert torch.equal(crop(image, Frame(1, 2)), whole)
    with pytest.raises(InputError, match="fewer than the 99 of a bin"):
        bin_geometry(FINE, 99)


def test_the_noise_of_bins_fits(tmp_path):
    q = simulate(Radon(FINE, cache=False), phantom())[0][0]
    counts = simulate_counts(q, 2000.0, seed=1)
    np.save(tmp_path / "c.npy", counts[0].numpy())
    scan = read_scan(tmp_path / "c.npy", kind="counts", flat=2000.0, angles=FINE.theta)
    slab = read_slab(scan, VolumeConfig(bin=3, outliers=False, gain=1.0), 0, 1)
    assert slab.q.shape == slab.noise.shape == (1, 60, SIDE)
    error = (slab.q - bin_mean(q, torch.ones_like(q, dtype=torch.bool), 3)) / slab.noise
    assert float(error.square().mean()) == pytest.approx(1, abs=0.1)
    config = VolumeConfig(bin=3, outliers=False, likelihood="poisson", gain=1.0)
    measured, blank, _ = read_slab(scan, config, 0, 1).counts
    assert float(blank.min()) == float(blank.max()) == 6000
    assert torch.equal(measured, counts[..., :72].unflatten(-1, (-1, 3)).sum(-1))


def volume(path, geometry, config) -> tuple[float, dict]:
    out = path.with_name("v.npy")
    scan = read_scan(path, kind="line integrals", angles=geometry.theta)
    reconstruct_volume(scan, geometry, "tv", out, config, progress=False)
    truth = torch.nn.functional.avg_pool2d(phantom(), 3)
    record = json.loads(out.with_suffix(".json").read_text())
    return float(psnr(torch.from_numpy(np.load(out))[:, None], truth, 0.04)), record


def test_coarse_pixels_are_no_worse_than_without_the_discrepancy_rule(tmp_path, recwarn):
    q = simulate(Radon(FINE, cache=False), phantom())[0][0]
    draw = torch.Generator().manual_seed(0)
    np.save(tmp_path / "q.npy", (q + NOISE * torch.randn(q.shape, generator=draw))[0].numpy())
    config = VolumeConfig(noise=NOISE)
    found, record = volume(tmp_path / "q.npy", COARSE, config)
    assert record["bin"] == record["seen"]["elements in a bin"] == 1
    assert record["seen"]["parts of a pixel"] == 3
    assert record["shape"] == [1, SIDE, SIDE]
    binned, record = volume(tmp_path / "q.npy", COARSE, replace(config, bin=3, preset="fast"))
    assert record["geometry"]["detectors"] == 3 * SIDE + 1
    assert record["noise"] == NOISE
    assert record["result"]["noise"] == [pytest.approx(NOISE / math.sqrt(3))]
    assert not [w for w in recwarn if "elements wide" in str(w.message)]
    fixed, _ = volume(tmp_path / "q.npy", COARSE, replace(config, bin=1, preset="fast"))
    assert binned > fixed
    assert found > binned + 1
    with pytest.warns(UserWarning, match="a pixel is 3 detector elements wide.*or leave out bin"):
        volume(tmp_path / "q.npy", COARSE, replace(config, bin=1, iterations=1))


def test_the_shell_bins(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    q = simulate(Radon(FINE, cache=False), phantom())[0][0]
    np.save("q.npy", q[0].numpy())
    words = ["ct", "q.npy", "--kind", "line-integrals", "--angles", "60", "--spacing", "2"]
    words += ["--pixel", "4", "--shape", "36", "36", "--denoiser", "tv", "--iterations", "2"]
    assert cli.main([*words, "--out", "v.npy"]) == 0
    assert "pixels are solved in 2^2 parts" in capsys.readouterr().out
    assert cli.main([*words, "--bin", "4", "--out", "v4.npy"]) == 0
    assert "4 detector elements are taken as one" in capsys.readouterr().out
    assert json.loads((tmp_path / "v4.json").read_text())["bin"] == 4
    assert cli.main([*words, "--bin", "0", "--out", "v4.npy"]) == 2
    assert "bin must be an integer >= 1" in capsys.readouterr().err
