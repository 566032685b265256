"""Stripes removed by algotom, where it is installed."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from pnp_mlpatch.ct import read_scan
from pnp_mlpatch.ct.stripes import remove_stripes
from pnp_mlpatch.errors import InputError, MissingPackage
from pnp_mlpatch.pipelines.ct_slab import read_slab
from pnp_mlpatch.pipelines.ct_volume import VolumeConfig


@pytest.fixture
def algotom(monkeypatch):
    """A package of that name that doubles what it gets."""
    got: list[np.ndarray] = []

    def remove_all_stripe(sinogram):
        got.append(sinogram.copy())
        return 2 * sinogram

    for name in ("algotom", "algotom.prep", "algotom.prep.removal"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["algotom.prep.removal"].remove_all_stripe = remove_all_stripe
    return got


def test_what_was_not_measured_is_interpolated_before_and_0_after(algotom):
    q = torch.tensor([[1.0, 0.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    seen = torch.tensor([[True, False, True, True], [False] * 4])
    assert remove_stripes(q, seen).tolist() == [[2, 0, 6, 8], [0, 0, 0, 0]]
    assert algotom[0].tolist() == [[1, 2, 3, 4], [0, 0, 0, 0]]


def test_a_margin_that_saw_nothing_is_left_out(algotom):
    q = torch.tensor([[0.0, 1.0, 2.0, 0.0, 0.0], [0.0, 3.0, 4.0, 0.0, 0.0]])
    seen = torch.tensor([[False, True, True, False, False]] * 2)
    assert remove_stripes(q, seen).tolist() == [[0, 2, 4, 0, 0], [0, 6, 8, 0, 0]]
    assert algotom[0].tolist() == [[1, 2], [3, 4]]
    assert not remove_stripes(q, ~seen & seen).any()
    assert len(algotom) == 1


def test_what_algotom_refuses_is_said(algotom, monkeypatch):
    def refuse(sinogram):
        raise ValueError("no noise")

    monkeypatch.setattr(sys.modules["algotom.prep.removal"], "remove_all_stripe", refuse)
    with pytest.raises(InputError, match=r"4 angles x 5 detectors \(no noise\)"):
        remove_stripes(torch.zeros(4, 5), torch.ones(4, 5, dtype=torch.bool))


def test_slices_are_filtered_one_by_one_in_place_of_rings(algotom, tmp_path):
    draw = np.random.default_rng(0)
    values = (0.05 * draw.normal(size=(2, 1, 64)) + draw.normal(size=(2, 40, 64)) * 0.01) + 1
    np.save(tmp_path / "q.npy", values.astype(np.float32))
    scan = read_scan(tmp_path / "q.npy", kind="line integrals", angles=np.arange(40) * 0.07)
    plain = read_slab(scan, VolumeConfig(outliers=False), 0, 2)
    found = read_slab(scan, VolumeConfig(outliers=False, stripes=True), 0, 2)
    assert float(plain.spread.min()) > 0
    assert found.spread is None
    assert torch.equal(found.q, 2 * plain.q)
    assert len(algotom) == 2
    with pytest.raises(InputError, match="stripes are for the likelihood 'gaussian'"):
        VolumeConfig(stripes=True, likelihood="poisson")


def test_without_the_package():
    if importlib.util.find_spec("algotom"):
        pytest.skip("algotom is installed")
    with pytest.raises(MissingPackage, match="Removing stripes needs the package 'algotom'"):
        remove_stripes(torch.zeros(4, 4), torch.ones(4, 4, dtype=torch.bool))
