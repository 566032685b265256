"""ADMM with momentum has the fixed points of ADMM and reaches them sooner; a level for the denoiser
from the noise of the data.
"""

from __future__ import annotations

import math

import pytest
import torch

from pnp_mlpatch import solvers
from pnp_mlpatch.ct import ParallelBeam
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import make_problem, schedules

GAMMA = 0.05


def gaussian_prior(x, sigma):
    """The proximal map of 1/2 |grad x|^2 with circular differences: (1 + gamma L)^-1 x."""
    rows = 2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(x.shape[-2]))[:, None]
    cols = 2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(x.shape[-1]))[None]
    return torch.fft.ifft2(torch.fft.fft2(x) / (1 + GAMMA * (rows + cols))).real


@pytest.fixture(scope="module")
def problem():
    truth = torch.rand(2, 1, 24, 24, generator=torch.Generator().manual_seed(0)).cumsum(-1) / 12
    A = Mask(random_mask((24, 24), keep=0.4))
    return make_problem(A(truth), A, 0.05)


def steps_to(problem, name, tolerance, limit=3000):
    solver = solvers.make(name, alpha=1.0)
    states = solver.iterate(
        problem, gaussian_prior, solver.init(problem, torch.zeros_like(problem.Aty))
    )
    exact = solution(problem)
    for count, state in enumerate(states, start=1):
        if float((state.x - exact).norm() / exact.norm()) < tolerance or count == limit:
            return count
    raise AssertionError


def solution(problem):
    """The minimiser of 1/2 |A x - q|^2 + gamma/2 |grad x|^2 by a dense solve in float64: what alpha
    = 1 leads to.
    """
    n = 24 * 24
    basis = torch.eye(n, dtype=torch.float64).reshape(n, 1, 24, 24)
    laplace = torch.linalg.inv(
        torch.stack([gaussian_prior(b[None].float(), 0.0).double().flatten() for b in basis])
    ) - torch.eye(n)
    matrix = torch.diag(problem.A.mask.expand(1, 24, 24).double().flatten()) + laplace
    return (
        torch.linalg.solve(matrix, problem.Aty.double().flatten(1).T)
        .T.reshape(2, 1, 24, 24)
        .float()
    )


def test_reaches_the_solution_sooner(problem):
    plain, fast = steps_to(problem, "admm", 1e-3), steps_to(problem, "fast_admm", 1e-3)
    assert fast < 0.6 * plain < 1800


def test_images_of_a_batch_restart_on_their_own(problem):
    solver = solvers.make("fast_admm", alpha=1.0, iterations=40, tol=0)
    together = solver.run(problem.q, problem.A, gaussian_prior, progress=False).x
    for k in range(2):
        alone = solver.run(problem.q[k : k + 1], problem.A, gaussian_prior, progress=False).x
        assert float((alone - together[k : k + 1]).abs().max()) < 1e-5


def test_an_expansive_denoiser_is_held_back_by_restarts(problem):
    """Steps that do not lower the combined residual are taken back."""
    solver = solvers.make("fast_admm", alpha=1.0, iterations=60, tol=0)
    result = solver.run(problem.q, problem.A, lambda x, sigma: 1.02 * x - 0.01, progress=False)
    assert torch.isfinite(result.x).all()


def test_level_from_noise_is_that_of_its_formula():
    A = Identity((1, 200, 200))
    assert schedules.from_noise(A, 0.02) == pytest.approx(math.sqrt(0.15 * 0.02), rel=0.01)
    assert schedules.from_noise(A, 20.0, scale=1000.0) == pytest.approx(
        1000 * math.sqrt(0.15 * 0.02), rel=0.01
    )
    assert schedules.from_noise(A, 1e-9) == 5 / 255
    assert schedules.from_noise(A, 1.0) == 50 / 255


def test_level_from_noise_takes_maps_with_gaps():
    A = Radon(ParallelBeam((32, 32), 40), cache=False)
    noise = torch.full((1, *A.data_shape), 0.3)
    one = schedules.from_noise(A, 0.3)
    assert schedules.from_noise(A, noise) == pytest.approx(one)
    noise[..., ::2] = math.inf
    assert 5 / 255 < schedules.from_noise(A, noise) < one


def test_level_from_noise_is_one_an_image():
    A = Radon(ParallelBeam((32, 32), 40), cache=False)
    each = torch.tensor([0.1, 0.2, 0.4])
    levels = schedules.from_noise(A, each)
    assert levels.tolist() == pytest.approx(
        [schedules.from_noise(A, float(level)) for level in each]
    )
    maps = each[:, None, None, None].expand(3, *A.data_shape).clone()
    assert torch.allclose(schedules.from_noise(A, maps), levels)
    maps[1, ..., ::2] = math.inf
    assert float(schedules.from_noise(A, maps)[1]) == pytest.approx(
        schedules.from_noise(A, maps[1:2])
    )


@pytest.mark.parametrize(
    ("noise", "scale"),
    [(0.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.1, 0.0), (torch.zeros(1, 4, 4), 1.0)],
)
def test_level_from_noise_refuses(noise, scale):
    with pytest.raises(InputError, match="from_noise: noise and scale must be > 0"):
        schedules.from_noise(Identity((1, 4, 4)), noise, scale=scale)
