"""Photon counts: noise maps that differ between images or are infinite, weights in the
preconditioner, the exact data term.
"""

from __future__ import annotations

import math

import pytest
import torch

from pnp_mlpatch import denoisers, reconstruct
from pnp_mlpatch.ct.counts import line_integrals, simulate_counts
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.linalg import pcg
from pnp_mlpatch.operators import Transmission
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import make_problem
from pnp_mlpatch.testing import adjoint_mismatch, optimality


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def A():
    return Radon(image_shape=(1, 20, 20), angles=16, cache=False)


@pytest.fixture(scope="module")
def truth():
    rows, cols = torch.meshgrid(torch.arange(20.0) - 9.5, torch.arange(20.0) - 9.5, indexing="ij")
    disc = 0.08 * ((rows**2 + cols**2) < 64) + 0.05 * (((rows - 2) ** 2 + (cols + 3) ** 2) < 9)
    return torch.stack([disc, disc.T])[:, None].float()


# ---- noise maps


def test_one_noise_map_for_each_image(A, truth):
    q, std = A(truth), 0.05 + draw(2, *A.data_shape)
    D = denoisers.make("tv")
    together = reconstruct(
        q, A, D, noise=std, sigma=0.02, iterations=4, tol=0, data_iterations=200, progress=False
    ).x
    for k in range(2):
        alone = reconstruct(
            q[k : k + 1],
            A,
            D,
            noise=std[k],
            sigma=0.02,
            iterations=4,
            tol=0,
            data_iterations=200,
            progress=False,
        ).x
        assert float((together[k] - alone[0]).norm() / alone.norm()) < 1e-3


def test_what_was_not_measured_has_no_influence(A, truth):
    q, std = A(truth), torch.full((1, *A.data_shape), 0.05)
    std[..., 7] = math.inf
    broken = q.clone()
    broken[..., 7] = math.nan
    settings = {"sigma": 0.02, "iterations": 3, "progress": False}
    one = reconstruct(broken, A, "tv", noise=std, **settings).x
    broken[..., 7] = 1e6
    assert torch.equal(reconstruct(broken, A, "tv", noise=std, **settings).x, one)
    assert torch.isfinite(one).all()


def test_dead_elements_leave_no_rings_in_the_start(A, truth):
    q, std = A(truth), torch.full((1, *A.data_shape), 0.05)
    std[..., 9], std[..., 0], std[:, :, 3] = math.inf, math.inf, math.inf
    problem = make_problem(q, A, std)
    start, whole = problem.A.initial(problem.q), A.initial(q)
    zeros = A.initial(torch.where(torch.isinf(std), torch.zeros_like(q), q))
    assert float((start - whole).norm()) < 0.5 * float((zeros - whole).norm())
    row = torch.tensor([[[[2.0, 0.0, 0.0, 5.0, 0.0]]]])
    filled = A._fill(row, torch.tensor([True, False, False, True, False]).expand_as(row))
    assert torch.equal(filled, torch.tensor([[[[2.0, 3.0, 4.0, 5.0, 5.0]]]]))


def test_nan_where_something_was_measured_is_refused(A, truth):
    q, std = A(truth), torch.full((1, *A.data_shape), 0.05)
    std[..., 7] = math.inf
    q[0, 0, 3, 4] = math.nan
    with pytest.raises(InputError, match="1 of the data are NaN or infinite"):
        make_problem(q, A, std)
    with pytest.raises(InputError, match="the noise is infinite everywhere"):
        make_problem(A(truth), A, torch.full(A.data_shape, math.inf))


def test_weights_of_images_belong_to_their_batch(A):
    B = A.weighted(draw(2, *A.data_shape) + 0.5)
    assert adjoint_mismatch(B) < 1e-6
    assert optimality(B, B.norm() ** 2) < 1e-5
    with pytest.raises(InputError, match="one weight for each of 2 images, got 3 images"):
        B(draw(3, *A.image_shape))
    with pytest.raises(InputError, match="does not broadcast"):
        make_problem(draw(2, *A.data_shape), A, torch.ones(3, *A.data_shape))


def test_preconditioner_of_weights_halves_the_iterations():
    """Counts through a body: D C D against one mean weight, and against none."""
    n = 64
    A = Radon(image_shape=(1, n, n), angles=90, cache=False)
    rows, cols = torch.meshgrid(torch.arange(n) - 31.5, torch.arange(n) - 31.5, indexing="ij")
    body = (0.1 * ((rows / 20) ** 2 + (cols / 28) ** 2 < 1)).float()[None, None]
    q, std = line_integrals(simulate_counts(A(body), 1e4), 1e4)
    problem = make_problem(q, A, std)
    assert float(std.max() / std.min()) > 8
    alpha = torch.full((1, 1, 1, 1), 1e4)
    b = problem.Aty + alpha * body
    start = A.fbp(q)
    counts = {}
    for name, precondition in {
        "none": None,
        "mean": A._precondition(alpha / float(problem.A.weight.square().mean())),
        "D C D": problem.A._precondition(alpha),
    }.items():
        counts[name] = pcg(
            lambda x: problem.A._normal(x) + alpha * x,
            b,
            start,
            precondition=precondition,
            tol=1e-3,
            max_iter=300,
        )[1].iterations
    assert counts["D C D"] < counts["mean"] < counts["none"]
    assert counts["D C D"] <= 0.5 * counts["none"]


# ---- the exact data term


@pytest.mark.parametrize(("photons", "background"), [(5.0, 0.0), (50.0, 2.0), (1e3, 0.0)])
def test_data_step_is_the_proximal_map(A, truth, photons, background):
    """The gradient of the negative log-likelihood and of the penalty, by autograd in double
    precision, is 0 there.
    """
    counts = torch.poisson(
        photons * torch.exp(-A(truth)) + background, generator=torch.Generator().manual_seed(0)
    )
    T = Transmission(A, counts, photons, background)
    z, alpha = truth + 0.01 * draw(2, 1, 20, 20), torch.tensor([300.0, 3000.0])
    f, info = T.data_step(z, alpha, Aty=T.adjoint(T.q), max_iter=300)
    assert float(info.residual.max()) < 1e-5
    leaf = f.double().requires_grad_(True)

    def objective(x):
        mean = photons * torch.exp(-A(x)) + background
        return (mean - counts * torch.log(mean)).sum() + (
            0.5 * alpha.reshape(-1, 1, 1, 1) * (x - z) ** 2
        ).sum()

    (gradient,) = torch.autograd.grad(objective(leaf), leaf)
    (before,) = torch.autograd.grad(
        objective(z.double().requires_grad_(True)), [leaf], allow_unused=True
    )
    assert before is None
    assert float(gradient.norm()) < 1e-3 * float(A.adjoint(counts).norm())
    near = f + 1e-3 * draw(2, 1, 20, 20, seed=3)
    assert float(objective(near.double())) > float(objective(f.double()))


def test_few_photons_are_less_biased_than_their_logarithms(A, truth):
    """The mean over many draws: weighted least squares is dragged by the logarithm and its weights,
    the likelihood is not.
    """
    photons, draws = 3.0, 100
    many = truth[:1].expand(draws, -1, -1, -1)
    counts = simulate_counts(A(many.contiguous()), photons, seed=1)
    T = Transmission(A, counts, photons)
    alpha = 30.0
    exact = T.data_step(many, alpha, Aty=T.adjoint(T.q), max_iter=60)[0]
    q, std = line_integrals(counts, photons)
    B = A.weighted(1 / std)
    squares = B.data_step(many, alpha, Aty=B.adjoint(q / std))[0]
    inside = truth[0, 0] > 0
    bias = [float((x.mean(0)[0] - truth[0, 0])[inside].mean()) for x in (exact, squares)]
    assert abs(bias[0]) < 0.5 * abs(bias[1])


def test_many_photons_agree_with_weighted_least_squares(A, truth):
    counts = simulate_counts(A(truth), 1e6)
    T = Transmission(A, counts, 1e6)
    q, std = line_integrals(counts, 1e6)
    exact = reconstruct(
        T.q, T, "tv", noise=1.0, sigma=0.01, iterations=5, data_iterations=20, progress=False
    ).x
    squares = reconstruct(
        q, A, "tv", noise=std, sigma=0.01, iterations=5, data_iterations=20, progress=False
    ).x
    assert float((exact - squares).norm() / squares.norm()) < 5e-3


def test_solves_by_admm_and_starts_from_filtered_backprojection(A, truth):
    counts = simulate_counts(A(truth), 200.0)
    T = Transmission(A, counts, 200.0)
    assert adjoint_mismatch(T) < 1e-6
    result = reconstruct(T.q, T, "tv", noise=1.0, sigma=0.05, iterations=40, progress=False)
    start = T.initial(T.q)
    assert float((result.x - truth).norm()) < 0.8 * float((start - truth).norm())
    assert len(result.history["data_residual"]) == result.state.iteration


def test_dead_bins_have_no_influence(A, truth):
    counts, blank = simulate_counts(A(truth), 500.0), torch.full(A.data_shape, 500.0)
    blank[..., 4] = 0
    T = Transmission(A, counts, blank)
    other = counts.clone()
    other[..., 4] = 77.0
    U = Transmission(A, other, blank)
    step = [V.data_step(truth, 10.0, Aty=V.adjoint(V.q))[0] for V in (T, U)]
    assert torch.equal(*step)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda A, c: Transmission(A, -c, 10.0),
            InputError,
            "counts must be finite and >= 0, in photons",
        ),
        (
            lambda A, c: Transmission(A, c.fill_(math.nan), 10.0),
            InputError,
            "counts must be finite",
        ),
        (lambda A, c: Transmission(A, c, -1.0), InputError, "blank must be finite and >= 0"),
        (lambda A, c: Transmission(A, c, 0.0), InputError, "blank scan is 0 everywhere"),
        (
            lambda A, c: Transmission(A, c, torch.ones(3)),
            InputError,
            "blank must be a number or broadcast to the counts",
        ),
        (lambda A, c: Transmission(A, c, "many"), PnPError, "blank must be a number"),
        (
            lambda A, c: Transmission(A, c[..., 1:], 10.0),
            InputError,
            r"Transmission\(A, counts\) takes counts of shape",
        ),
        (
            lambda A, c: Transmission("radon", c, 10.0),
            InputTypeError,
            "A must be an operator of line integrals, got str",
        ),
        (lambda A, c: Transmission.example(), InputError, "is made by Transmission"),
    ],
)
def test_bad_input(A, make, error, words):
    with pytest.raises(error, match=words):
        make(A, draw(1, *A.data_shape) + 1)


# ---- what the data step reports


def test_residual_is_reported_for_each_image(A, truth):
    z, Aty = draw(2, *A.image_shape), A.adjoint(A(truth))
    f, info = A.data_step(z, torch.tensor([1.0, 100.0]), Aty=Aty, max_iter=3)
    alpha = torch.tensor([1.0, 100.0]).reshape(-1, 1, 1, 1)
    b = Aty + alpha * z
    direct = (A.normal(f) + alpha * f - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    assert info.iterations == 3
    assert torch.allclose(info.residual, direct, rtol=1e-3)
    identity = Identity((1, 4, 4))
    _, info = identity.data_step(draw(2, 1, 4, 4), 1.0, Aty=draw(2, 1, 4, 4))
    assert (info.iterations, info.residual.tolist()) == (0, [0.0, 0.0])


@pytest.mark.parametrize("solver", ["admm", "hqs"])
def test_history_has_the_residual_of_the_data_step(A, truth, solver):
    few = reconstruct(
        A(truth),
        A,
        "tv",
        solver,
        noise=0.1,
        sigma=0.02,
        iterations=3,
        data_iterations=1,
        progress=False,
    )
    many = reconstruct(
        A(truth),
        A,
        "tv",
        solver,
        noise=0.1,
        sigma=0.02,
        iterations=3,
        data_iterations=60,
        progress=False,
    )
    assert all(
        a > 2 * b
        for a, b in zip(few.history["data_residual"], many.history["data_residual"], strict=True)
    )
