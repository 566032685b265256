"""Kept reconstructions over all operators and solvers: a change of structure must not change a
result.

``python tests/test_reference.py`` adds those that are missing. After a change that is meant to
change results, delete the file first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pnp_mlpatch import denoisers, operators, samples, solvers
from pnp_mlpatch.operators.mask import random_mask

KEPT = Path(__file__).with_name("reference") / "reconstructions.npz"
SIDE, NOISE = 24, 0.02
SETTINGS = {
    "ula": {"iterations": 8},
    "skrock": {"iterations": 4},
    "split_gibbs": {"iterations": 8},
}


def truth() -> torch.Tensor:
    """A detail of the sample photograph, (1, 1, 24, 24), float64."""
    return samples.camera()[..., 60 : 60 + SIDE, 230 : 230 + SIDE].double().contiguous()


def operator(name: str) -> operators.LinearOperator:
    """A small operator of each kind, on one or two channels of 24 x 24 pixels."""
    shape = (1, SIDE, SIDE)
    psf = torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 3.0, 1.0])).double() / 20
    mask = random_mask((SIDE, SIDE), keep=0.6, seed=1)
    match name:
        case "blur":
            return operators.make("blur", psf=psf, image_shape=shape)
        case "identity":
            return operators.make("identity", image_shape=shape)
        case "lensing":
            return operators.make("lensing", weight=mask)
        case "mask":
            return operators.make("mask", mask=mask)
        case "radon":
            return operators.make("radon", image_shape=(1, SIDE, SIDE), angles=20, cache=False)
        case "stack":
            blur = operators.make("blur", psf=psf, image_shape=shape)
            return operators.make("stack", blocks=[blur, operators.make("mask", mask=mask)])
    raise ValueError(name)


CASES = [(name, "admm", "tv") for name in ("blur", "identity", "lensing", "mask", "radon", "stack")]
CASES += [("blur", name, "tv") for name in solvers.names() if name != "admm"]
CASES += [("radon", "fast_admm", "tv"), ("stack", "consensus", "tv"), ("mask", "hqs", "tv")]
CASES += [("mask", "admm", "mlpatch"), ("blur", "dpir", "dncnn")]


def reconstruction(case: tuple[str, str, str]) -> torch.Tensor:
    """A few iterations of a solver, from data with seeded noise."""
    settings, told = {"iterations": 6} | SETTINGS.get(case[1], {}), NOISE
    if case[0] == "radon":
        # projections are in float32: with an alpha as large as A^T A their rounding, which differs
        # between processors, is not amplified; nor does it decide on the last step of CG
        settings, told = settings | {"data_tol": 1e-12, "data_iterations": 300}, 100 * NOISE
    A, solver = operator(case[0]), solvers.make(case[1], **settings)
    f = torch.cat([truth(), 0 * truth()], dim=1) - 0.5 if case[0] == "lensing" else truth()
    D = denoisers.make("tv", tol=0.0) if case[2] == "tv" else denoisers.make(case[2])
    f = f if case[2] == "tv" else f.float()
    q = A(f)
    q = q + NOISE * torch.randn(
        q.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    ).to(q)
    return solver.run(q, A, D, noise=told, progress=False).x


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_results_are_the_kept_ones(case):
    name = "-".join(case)
    with np.load(KEPT) as kept:
        if name not in kept:
            pytest.fail(f"no kept result of {name}: run `python tests/test_reference.py` to add it")
        expected = torch.from_numpy(kept[name])
    found = reconstruction(case).double()
    tolerance = 1e-6 if case[2] == "tv" else 1e-5  # networks compute in float32
    assert float((found - expected).abs().max()) <= tolerance * max(
        1.0, float(expected.abs().max())
    )


if __name__ == "__main__":  # adds what is missing; results that are there stay
    KEPT.parent.mkdir(exist_ok=True)
    results = dict(np.load(KEPT)) if KEPT.exists() else {}
    for case in CASES:
        if "-".join(case) not in results:
            results["-".join(case)] = reconstruction(case).double().numpy()
    np.savez_compressed(KEPT, **results)
