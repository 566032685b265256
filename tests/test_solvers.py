"""Solvers: exact answers where there are some, states, histories, schedules, noise in physical
units.
"""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch

from pnp_mlpatch import operators, reconstruct, solvers
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import make_problem, schedules


def gaussian_prior(x, sigma):
    """The proximal map of R(f) = |f|^2 / (2 s^2) with s = 0.5, at eta = sigma^2: the exact denoiser
    of that prior.
    """
    eta = sigma**2 if not isinstance(sigma, torch.Tensor) else (sigma**2).reshape(-1, 1, 1, 1)
    return x / (1 + eta / 0.25)


@pytest.mark.parametrize("operator", operators.names())
def test_admm_and_pgd_reach_the_closed_form_of_a_gaussian_prior(operator):
    """min 1/(2 noise^2) |q - A f|^2 + |f|^2 / (2 s^2) = data step at z = 0, alpha =
    noise^2 / s^2.
    """
    A = operators.get(operator).example()
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, *A.data_shape, dtype=torch.float64, generator=generator)
    noise = 0.7 * A.norm()
    iterative = not A.closed_form
    q = q.float() if iterative else q
    exact = A.data_step(
        torch.zeros(2, *A.image_shape, dtype=q.dtype),
        noise**2 / 0.25,
        Aty=A.adjoint(q),
        tol=1e-7,
        max_iter=500,
    )[0]
    tol = 1e-5 if iterative else 1e-8
    data = {"data_iterations": 50, "data_tol": 1e-7}
    admm = reconstruct(
        q, A, gaussian_prior, "admm", noise=noise, sigma=0.5, iterations=400, tol=0, **data
    )
    pgd = reconstruct(q, A, gaussian_prior, "pgd", noise=noise, iterations=3000, tol=0)
    for result in (admm, pgd):
        assert float((result.x - exact).norm() / exact.norm()) < tol


def test_hqs_with_one_image_is_two_alternating_steps():
    A = Identity((1, 4, 4))
    q = torch.rand(1, 1, 4, 4)
    result = reconstruct(
        q, A, gaussian_prior, "hqs", noise=0.1, sigma=[0.4, 0.2], iterations=2, alpha_scale=0.23
    )
    x = q
    for sigma in (0.4, 0.2):
        alpha = 0.23 * (0.1 / sigma) ** 2
        x = gaussian_prior((q + alpha * x) / (1 + alpha), sigma)
    assert torch.allclose(result.x, x, atol=1e-6)
    assert result.history["sigma"] == [0.4, 0.2]
    assert result.history["alpha"][1] == pytest.approx(0.23 / 4)


@pytest.fixture(scope="module")
def inpainting(photo):
    A = Mask(random_mask((96, 80), keep=0.4))
    q = (
        A(photo)
        + 0.02
        * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
        * A.mask.float()
    )
    return A, q, photo


DEBLUR = [
    ("admm", {"sigma": 0.03}),
    ("hqs", {"iterations": 12}),
    ("pgd", {"sigma": 0.03, "iterations": 60}),
]


@pytest.mark.parametrize(("name", "settings"), DEBLUR)
def test_every_solver_deblurs(name, settings, mlpatch, photo):
    A = Blur(gaussian_psf(1.3), (1, 96, 80))
    q = A(photo) + 0.01 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(1))
    result = reconstruct(
        q, A, mlpatch, name, noise=0.01, record={"psnr": lambda x: psnr(x, photo)}, **settings
    )
    assert result.history["psnr"][-1] > float(psnr(q, photo)) + 2
    assert result.history["psnr"][-1] == pytest.approx(float(psnr(result.x, photo)))


def test_admm_inpaints_better_than_its_start(inpainting, mlpatch):
    A, q, truth = inpainting
    result = reconstruct(q, A, mlpatch, noise=0.02, sigma=0.06)
    assert float(psnr(result.x, truth)) > float(psnr(A.initial(q), truth)) + 0.5


def test_radon_data_step_of_two_warm_steps_is_enough(mlpatch, photo):
    truth = photo[..., :64, :64].contiguous()
    A = Radon(image_shape=(1, 64, 64), angles=30, cache=False)
    q = A(truth)
    noise = 0.01 * float(q.square().mean().sqrt())
    q = q + noise * torch.randn(q.shape, generator=torch.Generator().manual_seed(0))
    few = reconstruct(q, A, mlpatch, noise=noise, sigma=20 / 255, iterations=12, tol=0)
    exact = reconstruct(
        q,
        A,
        mlpatch,
        noise=noise,
        sigma=20 / 255,
        iterations=12,
        tol=0,
        data_iterations=200,
        data_tol=1e-7,
    )
    assert abs(float(psnr(few.x, truth)) - float(psnr(exact.x, truth))) < 0.1
    assert float((few.x - exact.x).norm() / exact.x.norm()) < 5e-3
    assert float(psnr(few.x, truth)) > float(psnr(A.initial(q), truth)) + 3


def test_a_noise_map_equals_whitening_by_hand():
    A = Mask(random_mask((10, 12), keep=0.8))
    noise = 0.05 + 0.1 * torch.rand(1, 10, 12)
    q = torch.rand(2, 1, 10, 12) * A.mask.float()
    by_map = reconstruct(q, A, gaussian_prior, noise=noise, sigma=0.3, iterations=7, tol=0)
    by_hand = reconstruct(
        q / noise, Mask(A.mask / noise), gaussian_prior, noise=1.0, sigma=0.3, iterations=7, tol=0
    )
    assert torch.allclose(by_map.x, by_hand.x, atol=1e-5)
    constant = reconstruct(
        q, A, gaussian_prior, noise=torch.full((1, 10, 12), 0.1), sigma=0.3, iterations=7, tol=0
    )
    number = reconstruct(q, A, gaussian_prior, noise=0.1, sigma=0.3, iterations=7, tol=0)
    assert torch.allclose(constant.x, number.x, atol=1e-5)


def test_a_noise_map_on_radon_is_weighted_least_squares():
    A = Radon(image_shape=(1, 16, 16), angles=12, cache=False)
    noise = 1.0 + torch.rand(A.data_shape, generator=torch.Generator().manual_seed(0))
    q = A(torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(1)))
    problem = make_problem(q, A, noise)
    f = problem.A.data_step(torch.zeros(1, 1, 16, 16), 0.5, Aty=problem.Aty, max_iter=300)[0]
    gradient = A.adjoint((A(f) - q) / noise**2) + 0.5 * f
    assert float(gradient.norm() / problem.Aty.norm()) < 1e-5
    assert float(psnr(problem.A.initial(problem.q), A.initial(q))) > 60


def test_batches_with_their_own_noise_and_sigma():
    A = Mask(random_mask((10, 12), keep=0.7))
    q = torch.rand(3, 1, 10, 12) * A.mask.float()
    noise, sigma = torch.tensor([0.02, 0.1, 0.3]), torch.tensor([0.1, 0.2, 0.4])
    together = reconstruct(q, A, gaussian_prior, noise=noise, sigma=sigma, iterations=6, tol=0)
    for k in range(3):
        alone = reconstruct(
            q[k : k + 1],
            A,
            gaussian_prior,
            noise=float(noise[k]),
            sigma=float(sigma[k]),
            iterations=6,
            tol=0,
        )
        assert torch.allclose(together.x[k : k + 1], alone.x, atol=1e-5)


@pytest.mark.parametrize("name", solvers.names())
def test_a_saved_state_resumes_to_the_same_result(name, tmp_path, inpainting):
    A, q, _ = inpainting
    settings = {"admm": {"sigma": 0.05}, "hqs": {"sigma": 0.05}, "pgd": {"sigma": 0.05}}.get(
        name, {}
    )
    solver = solvers.make(name, iterations=9, tol=0, **settings)
    whole = solver.run(q, A, gaussian_prior, noise=0.02)
    half = solver.run(
        q, A, gaussian_prior, noise=0.02, callbacks=[lambda state: state.iteration == 4]
    )
    assert half.status == "stopped"
    assert half.state.iteration == 4
    half.state.save(tmp_path / "state.pt")
    state = solver.load_state(tmp_path / "state.pt")
    resumed = solver.run(q, A, gaussian_prior, noise=0.02, state=state)
    assert torch.equal(resumed.x, whole.x)
    assert len(resumed.history["residual"]) == 5


def test_status_callbacks_and_owning_the_loop(inpainting):
    A, q, _ = inpainting
    seen = []
    result = reconstruct(
        q,
        A,
        gaussian_prior,
        noise=0.02,
        sigma=0.3,
        iterations=500,
        tol=1e-3,
        callbacks=[lambda s: seen.append(s.iteration)],
    )
    assert result.status == "converged"
    assert seen == result.history["iteration"] == list(range(1, result.state.iteration + 1))
    solver = solvers.make("admm", sigma=0.3, tol=0)
    problem = make_problem(q, A, 0.02)
    states = solver.iterate(problem, gaussian_prior, solver.init(problem, A.initial(q)))
    for _ in range(result.state.iteration):
        state = next(states)
    assert torch.equal(state.x, result.x)


def test_gradients_through_an_unrolled_solver():
    A = Blur(gaussian_psf(1.0), (1, 12, 12))
    q = A(torch.rand(1, 1, 12, 12))
    weight = torch.tensor(0.3, requires_grad=True)
    solver = solvers.make("admm", sigma=0.2, tol=0)
    problem = make_problem(q, A, 0.05)
    states = solver.iterate(
        problem, lambda x, sigma: x / (1 + weight * sigma), solver.init(problem, A.initial(q))
    )
    for _ in range(4):
        x = next(states).x
    (gradient,) = torch.autograd.grad(x.square().sum(), weight)
    step = 1e-3

    def energy(w):
        states = solver.iterate(
            problem, lambda x, sigma: x / (1 + w * sigma), solver.init(problem, A.initial(q))
        )
        return [next(states).x for _ in range(4)][-1].double().square().sum()

    assert float(gradient) == pytest.approx(
        float((energy(0.3 + step) - energy(0.3 - step)) / (2 * step)), rel=2e-2
    )


def test_schedules():
    levels = schedules.dpir(2 / 255, 8)
    assert len(levels) == 8
    assert levels[0] == pytest.approx(49 / 255)
    assert levels[-1] == pytest.approx(2 / 255)
    ratios = [b / a for a, b in itertools.pairwise(levels)]
    assert max(ratios) - min(ratios) < 1e-9
    assert schedules.level([0.3, 0.1], 5) == 0.1
    assert schedules.level(0.2, 5) == 0.2
    assert schedules.geometric(1.0, 0.1, 1) == (0.1,)
    assert math.isclose(schedules.geometric(1.0, 0.25, 3)[1], 0.5)
    for bad in ((0.0, 1.0, 3), (1.0, -1.0, 3), (1.0, 0.5, 0)):
        with pytest.raises(ValueError, match="geometric"):
            schedules.geometric(*bad)


def test_a_result_in_a_notebook():
    """One line of text, and a picture with words; the figure shows itself as a picture."""
    A, x = (
        operators.make("identity", image_shape=(1, 16, 16)),
        torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0)),
    )
    result = reconstruct(x, A, "tv", noise=0.1, sigma=0.1, iterations=2, progress=False)
    assert re.fullmatch(
        r"Result\(converged after 2 iterations, \S+ s, x \(2, 1, 16, 16\) from \S+ to \S+\)",
        repr(result),
    ), repr(result)
    shown = result._repr_html_()
    assert 'src="data:image/png;base64,iVBOR' in shown
    assert "converged" in shown
    assert "The image no longer changed" in shown
    assert "<script" not in shown
    assert result.plot()._repr_png_().startswith(b"\x89PNG")
