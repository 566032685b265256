"""Filtered backprojection where rays are measured twice in a part of the detector only, or
projections are missing.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from pnp_mlpatch import cli
from pnp_mlpatch.ct import FanBeam, ParallelBeam
from pnp_mlpatch.ct.fbp import weights, whole_turn
from pnp_mlpatch.ct.geometry import rays
from pnp_mlpatch.operators.radon import Radon

N, RADIUS = 64, 26.0
FAN = {"source_origin": 140.0, "origin_detector": 140.0, "spacing": 2.0}


def degrees(first, last, n):
    return torch.deg2rad(first + (last - first) / n * torch.arange(n, dtype=torch.float64))


def disc(geometry):
    """Exact integrals (1, 1, angles, detectors) of a disc of value 1 about the axis."""
    start, end = rays(geometry)
    along = (end - start) / (end - start).norm(dim=-1, keepdim=True)
    away = start[..., 0] * along[..., 1] - start[..., 1] * along[..., 0]
    return (2 * (RADIUS**2 - away**2).clamp_min(0).sqrt()).float()[None, None]


def parts(x):
    """The values within the disc, and those about it."""
    y = torch.arange(N) - (N - 1) / 2
    r = (y[:, None] ** 2 + y**2).sqrt()
    return x[r < RADIUS - 3], x[(r > RADIUS + 3) & (r < RADIUS + 5)]


TWICE = {
    "half acquisition": ParallelBeam((N, N), degrees(0, 360, 240), 46, offset=16.0),
    "half acquisition, other side, other elements": ParallelBeam(
        (N, N), degrees(0, -360, 241), 66, offset=-15.7, spacing=0.7
    ),
    "half acquisition, random angles": ParallelBeam(
        (N, N),
        torch.rand(500, generator=torch.Generator().manual_seed(0)) * 2 * math.pi,
        46,
        offset=16.0,
    ),
    "half acquisition, one half denser": ParallelBeam(
        (N, N), torch.cat([degrees(0, 180, 90), degrees(180, 360, 180)]), 46, offset=16.0
    ),
    "270 degrees, offset": ParallelBeam((N, N), degrees(0, 270, 240), 70, offset=7.0),
    "half-fan": FanBeam((N, N), degrees(0, 360, 240), 46, offset=32.0, **FAN),
    "half-fan, arc": FanBeam((N, N), degrees(0, 360, 240), 46, offset=-32.0, arc=True, **FAN),
    "short scan, offset": FanBeam((N, N), degrees(30, 330, 240), 70, offset=13.0, **FAN),
    "fan, whole view": FanBeam((N, N), degrees(0, 360, 240), 80, **FAN),
}


@pytest.mark.parametrize("name", TWICE)
def test_rays_that_are_measured_twice_count_once(name):
    geometry = TWICE[name]
    inside, outside = parts(Radon(geometry, backend="astra_cpu").fbp(disc(geometry))[0, 0])
    assert float((inside - 1).abs().max()) < 0.04
    assert float(outside.abs().max()) < 0.05
    assert float(inside.mean()) == pytest.approx(1, abs=0.006)
    assert float(outside.mean()) == pytest.approx(0, abs=0.006)


@pytest.mark.parametrize("name", TWICE)
def test_the_weights_of_a_ray_and_its_opposite(name):
    geometry = TWICE[name]
    share = weights(geometry)
    assert share.shape == (len(geometry.theta), geometry.detectors)
    assert float(share.min()) >= 0
    if whole_turn(
        geometry.theta
    ):  # the rays through the axis are seen twice, those at the far end once
        near = (geometry.detectors - 1) / 2 - geometry.offset / geometry.spacing
        axis = np.interp(near, np.arange(geometry.detectors), share.sum(0).numpy())
        far = share.sum(0)[-1 if geometry.offset > 0 else 0]
        assert float(axis) == pytest.approx(math.pi, rel=0.05)
        assert float(far) == pytest.approx(
            math.pi if geometry.offset == 0 else 2 * math.pi, rel=0.05
        )


def test_a_turn_is_whole_or_not():
    assert whole_turn(degrees(0, 360, 5))
    assert whole_turn(-degrees(0, 360, 90))
    assert not whole_turn(degrees(0, 180, 4))
    assert not whole_turn(degrees(0, 330, 90))
    assert not whole_turn(torch.zeros(1, dtype=torch.float64))


def test_two_wedges_that_were_not_scanned():
    """Directions of 0 to 120 degrees, from two sides: each angle stands for its own part, as in one
    pass.
    """
    theta = torch.cat([degrees(0, 60, 60), degrees(240, 300, 60)])
    geometry = ParallelBeam((N, N), theta, 80, offset=5.0)
    assert weights(geometry).flatten().tolist() == pytest.approx([math.radians(1)] * (120 * 80))
    fan = FanBeam((N, N), theta, 80, **FAN)
    assert float(weights(fan).max()) < math.radians(1.1)


@pytest.mark.parametrize("kind", ["parallel", "half-fan"])
def test_projections_without_weight_do_not_darken_the_start(kind):
    geometry = ParallelBeam((N, N), 240, 80) if kind == "parallel" else TWICE["half-fan"]
    A, q = Radon(geometry, backend="astra_cpu"), disc(geometry)
    seen = torch.ones_like(q)
    seen[:, :, 40:45] = 0
    seen[:, :, ::7] = 0
    inside, _ = parts(A.weighted(seen).initial(seen * q)[0, 0])
    assert float(inside.mean()) == pytest.approx(1, abs=0.01)
    both = A.weighted(torch.cat([seen, torch.ones_like(seen)])).initial(
        torch.cat([seen * q, q])
    )  # each image its own
    torch.testing.assert_close(both[1:], A.initial(q), rtol=0, atol=1e-5)


def test_ct_of_half_acquisition(tmp_path, monkeypatch, capsys):
    """The command line: the values, the window that comes from them, and an image that holds all
    that is seen.
    """
    monkeypatch.chdir(tmp_path)
    geometry = TWICE["half acquisition"]
    np.save("q.npy", 0.02 * disc(geometry)[0].numpy())
    np.savetxt("angles.txt", geometry.theta.numpy())
    assert (
        cli.main(
            [
                "ct",
                "q.npy",
                "--out",
                "v.npy",
                "--angles",
                "angles.txt",
                "--center",
                "6.5",
                "--fbp",
                "--quiet",
            ]
        )
        == 0
    )
    x, made = torch.from_numpy(np.load("v.npy")[0]), json.loads((tmp_path / "v.json").read_text())
    assert x.shape == (78, 78)  # 2 (46 / 2 + 16)
    inside, outside = parts(x[7:71, 7:71])
    assert float(inside.mean()) == pytest.approx(0.02, rel=0.01)
    assert float(outside.abs().max()) < 0.002
    assert made["window"][1] == pytest.approx(1.2 * 0.02, rel=0.05)
