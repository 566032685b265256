"""Volumes whose slices are denoised along three planes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from pnp_mlpatch import cli
from pnp_mlpatch.ct import ParallelBeam, read_scan
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators._ringless import Ringless
from pnp_mlpatch.operators._sliced import Sliced
from pnp_mlpatch.operators.radon import Radon, simulate
from pnp_mlpatch.pipelines.ct_estimate import estimate_volume
from pnp_mlpatch.pipelines.ct_merge import merge_shards
from pnp_mlpatch.pipelines.ct_shards import reconstruct_shard
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig, reconstruct_volume

SIDE, SLICES = 24, 8
GEOMETRY = ParallelBeam((SIDE, SIDE), 20, 36, pixel=10.0)
CONFIG = VolumeConfig(slabs=4, iterations=4, noise=0.02)


def stack() -> torch.Tensor:
    """Slices of a body that change little from one to the next, (slices, 1, H, W)."""
    rows, cols = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    body = 0.02 * ((rows / 0.35) ** 2 + (cols / 0.4) ** 2 < 1)
    bones = [np.hypot(rows - 0.1, cols - 0.02 * k + 0.1) < 0.08 for k in range(SLICES)]
    return torch.from_numpy(np.stack([body + 0.01 * bone for bone in bones])).float()[:, None]


@pytest.fixture
def scan(tmp_path):
    q = simulate(Radon(GEOMETRY, cache=False), stack())[0]
    q = q + 0.02 * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "scan.npy", q[:, 0].numpy())
    return read_scan(tmp_path / "scan.npy", kind="line integrals", angles=GEOMETRY.theta)


def volume(scan, config: VolumeConfig, name: str = "v.npy", **how) -> np.ndarray:
    out = scan.path.with_name(name)
    reconstruct_volume(scan, GEOMETRY, "tv", out, config, progress=False, **how)
    return np.load(out)


def error(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean((x - stack()[:, 0].numpy()) ** 2)))


@pytest.mark.parametrize("more", [{"iterations": 8, "solver": "fast_admm"}, {"preset": "fast"}])
def test_stacks_are_better_than_slices_that_lie_close(scan, more):
    found = volume(scan, VolumeConfig(slabs=4, **more))
    record = json.loads(scan.path.with_name("v.json").read_text())
    assert record["slabs"] == record["batch"] == 4
    assert len(record["result"]["chi2"]) == SLICES
    assert len(set(record["result"]["chi2"])) == SLICES
    assert error(found) < 0.9 * error(volume(scan, VolumeConfig(**more)))


def test_a_stack_overlaps_its_neighbours_so_parts_and_shards_have_the_same_bits(scan):
    whole = volume(scan, CONFIG)
    out = scan.path.with_name("shards.npy")
    for number in (1, 2):
        reconstruct_shard(scan, GEOMETRY, "tv", out, (number, 2), CONFIG, progress=False)
    merge_shards(out)
    assert np.array_equal(np.load(out), whole)
    halves = [VolumeConfig(slabs=4, iterations=4, noise=0.02, slices=s) for s in ((0, 4), (4, 8))]
    parts = [volume(scan, config, "part.npy") for config in halves]
    assert np.array_equal(np.concatenate(parts), whole)


def test_slices_without_data_are_left_out_of_the_stack(scan):
    values = np.load(scan.path)
    values[3] = np.nan
    np.save(scan.path, values)
    broken = read_scan(scan.path, kind="line integrals", angles=GEOMETRY.theta)
    with pytest.warns(UserWarning, match="nothing was measured in the slices 3"):
        found = volume(broken, CONFIG)
    assert not found[3].any()
    assert found[4].max() > 0.015


def test_stacks_of_slices_with_weights_and_offsets_of_elements():
    draw = torch.Generator().manual_seed(1)
    A = Radon(image_shape=(1, 12, 12), angles=9, cache=False)
    weight = torch.rand(3, *A.data_shape, generator=draw) + 0.5
    x = torch.rand(1, 3, 12, 12, generator=draw)
    y = torch.rand(1, 3, *A.data_shape[1:], generator=draw)
    T = Sliced(A, 3)
    assert torch.allclose(T(x)[0, 1], A(x[:, 1:2])[0, 0])
    assert torch.allclose(T.initial(y)[0, 1], A.initial(y[:, 1:2])[0, 0])
    ringless = Sliced(Ringless(A, weight, torch.tensor([0.0, 0.1, 0.2])), 3)
    for operator in (T, T.weighted(weight.transpose(0, 1)), ringless):
        assert float((operator(x) * y).sum()) == pytest.approx(
            float((x * operator.adjoint(y)).sum()), rel=1e-4
        )
        found, _ = operator.data_step(x, 1.0, Aty=operator.adjoint(operator(x)), x0=0 * x)
        assert torch.allclose(found, x, atol=1e-4)
    with pytest.raises(InputError, match="Sliced is made of an operator"):
        Sliced.example()


def test_what_does_not_fit_is_refused(scan, capsys, monkeypatch):
    with pytest.raises(InputError, match="slabs must be an integer >= 1"):
        VolumeConfig(slabs=0)
    with pytest.raises(InputError, match="slabs are for the likelihood 'gaussian'"):
        VolumeConfig(slabs=4, likelihood="poisson")
    monkeypatch.chdir(scan.path.parent)
    words = ["ct", "scan.npy", "--kind", "line-integrals", "--angles", "20", "--shape", "24", "24"]
    words += ["--pixel", "10", "--denoiser", "tv", "--iterations", "2", "--slabs", "4"]
    assert cli.main([*words, "--out", "v.npy"]) == 0
    with pytest.raises(SystemExit):
        cli.main([*words, "--batch", "2", "--out", "v.npy"])
    assert "--batch: not allowed with argument --slabs" in capsys.readouterr().err


def test_the_estimate_is_of_a_stack(scan):
    found = estimate_volume(scan, GEOMETRY, "tv", scan.path.with_name("v.npy"), CONFIG)
    assert found.slices == SLICES
    assert found.seconds > 0
