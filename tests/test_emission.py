"""Poisson images: the exact proximal map, its agreement with least squares, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pnp_mlpatch import as_denoiser, reconstruct, solvers
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import Emission
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.hadamard import Hadamard
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.testing import adjoint_mismatch
from pnp_mlpatch.tuning import auto

SHAPE = (1, 7, 8)
OPERATORS = {
    "identity": lambda: Identity(SHAPE),
    "weighted": lambda: Identity(SHAPE).weighted(0.5 + draw(*SHAPE, seed=9)),
    "mask": lambda: Mask(random_mask((7, 8), keep=0.6, seed=2)),
    "blur": lambda: Blur(gaussian_psf(0.8), SHAPE),
    "reflected blur": lambda: Blur(gaussian_psf(0.8), SHAPE, "reflect"),
    "valid blur": lambda: Blur(gaussian_psf(0.5), SHAPE, "valid"),
}
EXACT = ("identity", "weighted", "mask")


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def poisson(mean, seed=0):
    return torch.poisson(mean, generator=torch.Generator().manual_seed(seed))


def problem(name, gain, background):
    A = OPERATORS[name]()
    truth = draw(2, *SHAPE, seed=1)
    counts = poisson(gain * A(truth) + background)
    return A, truth, Emission(A, counts, gain, background)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("gain", "background"), [(2.0, 0.0), (30.0, 0.5), (1e4, 20.0)])
@pytest.mark.parametrize("strength", [0.03, 1.0, 30.0])
def test_data_step_is_the_proximal_map(name, gain, background, strength):
    """The slope of a strictly convex function is 0 there, and SciPy finds no lower value."""
    A, truth, E = problem(name, gain, background)
    z = truth + 0.2 * (draw(2, *SHAPE, seed=3) - 0.5)
    alpha = strength * gain * torch.tensor([1.0, 3.0], dtype=torch.float64)
    f, info = E.data_step(z, alpha, Aty=E.adjoint(E.q), tol=1e-8, max_iter=500)
    assert (info.iterations == 0) == (name in EXACT)
    one, start = E.for_images(torch.tensor([1])), truth[1].numpy().ravel()

    def value(x):
        leaf = torch.from_numpy(x).reshape(1, *SHAPE).requires_grad_()
        penalty = 0.5 * alpha[1] * (leaf - z[1]).square().sum()
        total = one.objective(A(leaf)).sum() + penalty
        (slope,) = torch.autograd.grad(total, leaf)
        return float(total.detach()), slope.numpy().ravel()

    least, slope = value(f[1].numpy().ravel())
    assert np.linalg.norm(slope) < 1e-6 * np.linalg.norm(value(start)[1])
    best = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 300})
    assert least <= best.fun + 1e-9 * max(1.0, abs(best.fun))
    assert best.fun - least < 0.05 * (value(start)[0] - least)  # it came near


def test_the_root_of_one_pixel_is_the_minimum_on_a_grid():
    """Also where the likelihood is continued, for counts of 0 and z far below 0."""
    counts = torch.tensor([0.0, 0.0, 1.0, 3.0, 200.0]).double().reshape(1, 1, 1, 5)
    E = Emission(Identity((1, 1, 5)), counts, gain=10.0, background=0.2)
    for z in (-3.0, 0.0, 0.3, 20.0):
        f = E.data_step(torch.full_like(counts, z), 40.0, Aty=E.adjoint(E.q))[0]
        grid = torch.linspace(-0.5, 25, 500_001).double()
        for c, x in zip(counts.flatten(), f.flatten(), strict=True):
            y, eps = 10 * grid + 0.2, 0.01
            at, below = y.clamp_min(eps), (y - eps).clamp_max(0)
            terms = at - c * at.log() + (1 - c / eps) * below
            terms = terms + c.clamp_min(eps) / (2 * eps**2) * below**2 + 20 * (grid - z) ** 2
            assert abs(float(grid[terms.argmin()] - x)) < 6e-5


def test_newton_agrees_with_the_root():
    counts = poisson(5 * draw(2, *SHAPE))
    delta = torch.ones(1, 1)
    one, other = (Emission(A, counts, 5.0, 0.3) for A in (Identity(SHAPE), Blur(delta, SHAPE)))
    z = draw(2, *SHAPE, seed=4)
    steps = [
        E.data_step(z, 2.0, Aty=E.adjoint(E.q), tol=1e-10, max_iter=1000)[0] for E in (one, other)
    ]
    assert torch.allclose(*steps, atol=1e-6)


def test_the_data_step_is_less_biased_than_weighted_least_squares():
    """The mean over many draws of 1.5 photons a pixel, of which a fifth are 0."""
    level, gain, count = 0.5, 3.0, 400
    truth = torch.full((count, *SHAPE), level)
    counts = torch.poisson(gain * truth, generator=torch.Generator().manual_seed(0))
    E = Emission(Identity(SHAPE), counts, gain)
    exact = E.data_step(truth, 30.0, Aty=E.adjoint(E.q))[0]
    naive = Identity(SHAPE).weighted(gain * counts.clamp_min(1).rsqrt())
    q = counts * counts.clamp_min(1).rsqrt()
    squares = naive.data_step(truth, 30.0, Aty=naive.adjoint(q))[0]
    bias = [abs(float((x - level).mean())) for x in (exact, squares)]
    assert bias[0] < 0.02
    assert bias[1] > 3 * bias[0]


@pytest.mark.parametrize("name", ["identity", "blur"])
def test_many_photons_agree_with_weighted_least_squares(name):
    A, gain = OPERATORS[name](), 1e6
    truth = 0.2 + 0.6 * draw(1, *SHAPE)
    E = Emission(A, poisson(gain * A(truth)), gain)
    settings = {"sigma": 0.02, "iterations": 5, "data_iterations": 50, "progress": False}
    exact = reconstruct(E.q, E, "tv", noise=1.0, **settings).x
    std = (gain * A(truth)).sqrt() / gain
    squares = reconstruct(E.counts / gain, A, "tv", noise=std, **settings).x
    assert float((exact - squares).norm() / squares.norm()) < 2e-4


def gaussian_prior(x, sigma):
    """The proximal map of |f|^2 / (2 s^2) with s = 0.5, at sigma^2."""
    return x / (1 + sigma**2 / 0.25)


@pytest.mark.parametrize("name", ["mask", "valid blur"])
def test_solvers_reach_the_estimate_of_a_gaussian_prior(name):
    """ADMM that of the likelihood, which is one data step; PGD that of weighted least squares."""
    _, truth, E = problem(name, 4.0, 0.5)
    one = E.for_images(torch.tensor([0]))
    zero, settings = torch.zeros_like(truth[:1]), {"tol": 0, "progress": False}
    exact = one.data_step(zero, 4.0, Aty=one.adjoint(one.q), tol=1e-9, max_iter=500)[0]
    admm = reconstruct(
        one.q, one, gaussian_prior, noise=1.0, sigma=0.4, iterations=60, data_iterations=20,
        **settings,
    ).x  # fmt: skip
    assert float((admm - exact).norm() / exact.norm()) < 1e-4
    squares = one.linear.data_step(zero, 4.0, Aty=one.adjoint(one.q), tol=1e-9, max_iter=500)[0]
    pgd = reconstruct(one.q, one, gaussian_prior, "pgd", noise=1.0, iterations=300, **settings).x
    assert float((pgd - squares).norm() / squares.norm()) < 1e-4
    assert float((squares - exact).norm() / exact.norm()) > 1e-3


@pytest.mark.parametrize("solver", ["admm", "hqs"])
@pytest.mark.parametrize("name", ["identity", "blur"])
def test_solvers_remove_the_noise(name, solver):
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(8.0), indexing="ij")
    truth = (0.1 + 0.8 * (rows + columns > 7))[None, None]
    A = OPERATORS[name]()
    E = Emission(A, torch.poisson(20 * A(truth), generator=torch.Generator().manual_seed(0)), 20.0)
    assert adjoint_mismatch(E) < 1e-6
    settings = {"sigma": 0.15} if solver == "admm" else {}
    result = reconstruct(E.q, E, "tv", solver, noise=1.0, iterations=12, progress=False, **settings)
    start = E.initial(E.q)
    assert float((result.x - truth).norm()) < 0.9 * float((start - truth).norm())


@pytest.mark.parametrize("name", ["identity", "blur"])
def test_images_of_a_batch_are_solved_as_alone(name):
    A, _, E = problem(name, torch.tensor([5.0, 500.0]).reshape(2, 1, 1, 1), 0.0)
    settings = {"noise": 1.0, "iterations": 3, "tol": 0.0, "progress": False}
    both = reconstruct(E.q, E, "tv", **settings)
    alone = [Emission(A, E.counts[k : k + 1], E.gain[k : k + 1]) for k in range(2)]
    for k, one in enumerate(alone):
        result = reconstruct(one.q, one, "tv", **settings)
        assert torch.allclose(
            both.tuned.settings["sigma"][k], torch.tensor(result.tuned.settings["sigma"]), rtol=1e-4
        )
        assert torch.allclose(both.x[k], result.x[0], atol=1e-4)
    assert E.norm() == pytest.approx(max(one.norm() for one in alone), rel=1e-3)


def test_the_start_has_no_weights_in_it():
    truth = 0.2 + 0.6 * draw(2, *SHAPE)
    E = Emission(Identity(SHAPE), 50 * truth, 50.0)
    assert torch.allclose(E.initial(E.q), truth)


def test_data_of_any_shape():
    A = Hadamard((1, 8, 8), rows=torch.eye(8)[:1] + torch.eye(8)[0][:, None])  # all see the mean
    counts = torch.full((1, *A.data_shape), 7.0)
    E = Emission(A, counts, 2.0, 1.0)
    f, info = E.data_step(
        torch.full((1, 1, 8, 8), 0.5), 1.0, Aty=E.adjoint(E.q), tol=1e-5, max_iter=300
    )
    assert torch.isfinite(f).all()
    assert float(info.residual) < 1e-4


def test_the_deviance_is_about_the_number_of_data():
    A, truth = Identity((1, 60, 60)), 0.3 + draw(1, 1, 60, 60).float()
    E = Emission(A, torch.poisson(100 * truth, generator=torch.Generator().manual_seed(0)), 100.0)
    assert abs(2 * float(E.objective(A(truth))) / 3600 - 1) < 0.1
    assert float(E.objective(E.counts / 100)) < 1e-6


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda A, c: Emission(A, -c),
            InputError,
            "counts must be finite and >= 0, in photons, got",
        ),
        (lambda A, c: Emission(A, c.fill_(math.nan)), InputError, "counts must be finite and >= 0"),
        (lambda A, c: Emission(A, c, 0.0), InputError, "gain must be finite and > 0, in photons"),
        (lambda A, c: Emission(A, c, -2.0), InputError, "gain must be finite and > 0"),
        (lambda A, c: Emission(A, c, math.inf), InputError, "gain must be finite and > 0"),
        (lambda A, c: Emission(A, c, 1.0, -1.0), InputError, "background must be finite and >= 0"),
        (
            lambda A, c: Emission(A, c, 1.0, 5.0),
            InputError,
            "no count of image 0 is above the background, so nothing is seen",
        ),
        (
            lambda A, c: Emission(A, 0 * c),
            InputError,
            "no count of image 0 is above the background",
        ),
        (lambda A, c: Emission(A, c, "high"), InputError, "gain must be a number or broadcast"),
        (lambda A, c: Emission(A, c, torch.ones(3)), InputError, "gain must be a number or broad"),
        (
            lambda A, c: Emission(A, c[..., 1:]),
            InputError,
            r"Emission\(A, counts\) takes counts of",
        ),
        (
            lambda A, c: Emission(A, c.int()),
            InputTypeError,
            "takes float32 or float64, got torch.i",
        ),
        (lambda A, c: Emission("blur", c), InputTypeError, "A must be an operator, got str"),
        (lambda A, c: Emission.example(), InputError, "Emission is made by Emission"),
        (
            lambda A, c: Emission(A, c, torch.ones(5)),
            InputError,
            r"got a tensor \(5,\). One number for each image has the shape \(B, 1",
        ),
        (
            lambda A, c: Emission(A, c) @ A,
            InputError,
            r"A @ B: Emission .* Emission\(A @ B, counts",
        ),
        (lambda A, c: A + Emission(A, c), InputError, r"A \+ B: Emission has the data step of its"),
        (lambda A, c: 2 * Emission(A, c), InputError, r"c \* A: Emission has the data step of its"),
        (lambda A, c: Emission(A, c).T, InputError, r"A\.T: Emission has the data step of its"),
        (lambda A, c: reconstruct(c, Emission(A, c, 9.0), "tv"), InputError, "its data in A.q"),
        (
            lambda A, c: reconstruct(Emission(A, c).q, Emission(A, c), "tv", noise=0.1),
            InputError,
            "noise of A.q of Emission is 1: .* Give noise=1.0",
        ),
    ],
)
def test_bad_input(make, error, words):
    with pytest.raises(error, match=words):
        make(Identity(SHAPE), draw(1, *SHAPE) + 1)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_of_each_image_everywhere(tmp_path):
    A = Blur(gaussian_psf(0.8), SHAPE).weighted(draw(2, *SHAPE, seed=4) + 0.1)
    truth = draw(2, *SHAPE)
    q = A(truth) + 0.05 * (draw(2, *SHAPE, seed=5) - 0.5)
    result = reconstruct(q, A, "tv", iterations=2, progress=False)
    assert result.tuned.estimated
    assert len(result.tuned.settings["sigma"]) == 2
    result.report(tmp_path / "r.html", q=q, A=A)
    admm = solvers.make("admm", sigma=0.1, iterations=2)
    for shape, keep in ((SHAPE, 1.0), ((1, 24, 24), 0.3)):  # of few data some are held out
        A = Mask(random_mask(shape[1:], keep=keep)).weighted(draw(2, *shape) + 0.1)
        A = A @ Blur(gaussian_psf(0.8), shape)
        found = auto(A(draw(2, *shape)), A, as_denoiser("tv"), admm, noise=0.05)
        assert found.x.shape == (2, *shape)
