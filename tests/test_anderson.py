"""Anderson acceleration: GMRES on linear problems, the same fixed points in fewer iterations, a
safeguard, states that resume.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pnp_mlpatch import denoisers, reconstruct, samples, solvers
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.solvers import Result, anderson, make_problem
from pnp_mlpatch.solvers._anderson import empty, mix

SHAPE = (1, 8, 6)
SOLVERS = ["admm", "drs", "hqs", "pgd", "red"]


def linear(seed=0, images=2):
    """z -> G z + c with a symmetric G of norm 0.97, its fixed points, one for each image."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64, generator=generator)).Q
    G = basis @ torch.diag(torch.linspace(-0.5, 0.97, 48, dtype=torch.float64)) @ basis.T
    c = torch.randn(images, 48, dtype=torch.float64, generator=generator)
    answer = torch.linalg.solve(torch.eye(48, dtype=torch.float64) - G, c.T).T.reshape(-1, *SHAPE)
    return lambda z: (z.flatten(1) @ G + c).reshape(z.shape), answer


def iterate(g, z, steps, depth):
    memory, mixing = empty(z, depth)
    for _ in range(steps):
        z, memory, mixing = mix(z, g(z), memory, mixing)
    return z


def plain(g, z, steps):
    for _ in range(steps):
        z = g(z)
    return z


def test_on_a_linear_map_it_is_a_krylov_method():
    g, answer = linear()
    start = torch.zeros_like(answer)
    alone, mixed = plain(g, start, 40), iterate(g, start, 40, 12)
    assert float((mixed - answer).norm()) < 1e-3 * float((alone - answer).norm())
    whole = iterate(g, start, 52, 50)  # as many points as there are dimensions: exact
    assert float((whole - answer).norm()) < 1e-6 * float(answer.norm())


def test_images_do_not_see_each_other():
    g, answer = linear(images=2)
    both = iterate(g, torch.zeros_like(answer), 15, 5)
    one = iterate(lambda z: g(torch.cat([z, z]))[:1], torch.zeros_like(answer[:1]), 15, 5)
    assert torch.allclose(both[:1], one, atol=1e-12)


def test_a_point_that_is_worse_is_taken_back():
    """After a residual of more than twice the least: g of the best point that is remembered, then
    no mixing for m steps, and 2 m the next time.
    """
    z = torch.zeros(1, *SHAPE, dtype=torch.float64)
    first, *kept = mix(z, z + 0.1, *empty(z, 3))
    point, memory, mixing = mix(first, first + 7.0, *kept)
    assert torch.allclose(point, z + 0.1)
    assert mixing[0].tolist() == [0.0, float("inf"), 3.0, 6.0]
    assert mix(first, first + 0.15, *kept)[2][0, 0] == 2
    for step in range(3):
        expected = point + 0.1 + 0.01 * step
        point, memory, mixing = mix(point, expected, memory, mixing)
        assert torch.equal(point, expected), "it waits"
    assert not torch.equal(mix(point, 0.9 * point, memory, mixing)[0], 0.9 * point), (
        "it mixes again"
    )


def test_where_nothing_contracts_it_ends_with_the_plain_iteration():
    """A map that turns by a right angle and grows a little: mixing may not make it worse than it
    is.
    """
    turn = torch.tensor([[0.0, -1.001], [1.001, 0.0]], dtype=torch.float64)
    z = torch.ones(1, 1, 1, 2, dtype=torch.float64)
    mixed = iterate(lambda z: torch.sin(z @ turn.T * 1.5), z, 300, 4)
    assert bool(torch.isfinite(mixed).all())
    assert float(mixed.norm()) < 10


@pytest.mark.parametrize("name", SOLVERS)
def test_the_fixed_points_are_the_same_in_fewer_iterations(name):
    A = Blur(gaussian_psf(1.0), (1, 16, 14))
    truth = samples.camera()[..., 100:116, 200:214].double()
    q = A(truth) + 0.02 * torch.randn(
        truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    D = denoisers.make("tv", iterations=100, tol=1e-9)
    solver = solvers.make(name, sigma=0.06, iterations=400, tol=1e-6)
    plain = solver.run(q, A, D, noise=0.02)
    mixed = anderson(solver, 5).run(q, A, D, noise=0.02)
    assert mixed.status == "converged"
    assert float((mixed.x - plain.x).norm() / plain.x.norm()) < 1e-4
    assert mixed.state.iteration < 0.7 * plain.state.iteration
    assert mixed.per_image["fixed_point"][-1].max() < 1e-6


@pytest.mark.parametrize("name", SOLVERS)
def test_it_resumes_bit_for_bit(name, tmp_path):
    A = Blur(gaussian_psf(0.7), SHAPE)
    q = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    solver = anderson(solvers.make(name, sigma=0.3, iterations=14, tol=0.0), 3)
    D = denoisers.make("tv")
    whole = reconstruct(q, A, D, solver, noise=0.1)
    half = reconstruct(q, A, D, solver, noise=0.1, callbacks=[lambda s: s.iteration == 6])
    half.state.save(tmp_path / "state.pt")
    half.save(tmp_path / "result.pt")
    for state in (
        solver.load_state(tmp_path / "state.pt"),
        Result.load(tmp_path / "result.pt").state,
    ):
        assert torch.equal(reconstruct(q, A, D, solver, noise=0.1, state=state).x, whole.x)


def test_gradients_flow():
    A, q = Identity(SHAPE), torch.rand(1, *SHAPE, dtype=torch.float64, requires_grad=True)
    solver = anderson(solvers.make("admm", sigma=0.3), 2)
    problem = make_problem(q, A, 0.1)
    states = solver.iterate(problem, lambda x, s: x / 1.1, solver.init(problem, q.detach()))
    for _ in range(4):
        state = next(states)
    (g,) = torch.autograd.grad(state.x.sum(), q)
    assert bool(torch.isfinite(g).all())
    assert float(g.abs().max()) > 0


@pytest.mark.parametrize("depth", [0, -1, 1.5, 51, True])
def test_invalid_depths(depth):
    with pytest.raises(InputError, match="depth is how many points are mixed, an integer from 1"):
        anderson(solvers.make("admm"), depth)


@pytest.mark.parametrize("name", ["fista", "fast_admm", "ula"])
def test_solvers_that_are_no_fixed_point_iterations(name):
    with pytest.raises(InputTypeError, match="solver must be a fixed-point iteration"):
        anderson(solvers.make(name))


def test_images_at_rest_are_those_of_single_runs():
    """A batch is cut to the images that move: settings and states within the wrapper too."""
    A, q = Identity(SHAPE), torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    levels, D = torch.tensor([0.02, 0.4]), denoisers.make("tv", iterations=100)
    solver = anderson(solvers.make("pgd", sigma=levels, iterations=60, tol=1e-4, tau=0.3), 3)
    both = solver.run(q, A, D, noise=0.1)
    lengths = []
    for k in (0, 1):
        one = replace(solver, solver=replace(solver.solver, sigma=float(levels[k])))
        alone = one.run(q[k : k + 1], A, D, noise=0.1)
        assert torch.allclose(alone.x, both.x[k : k + 1], atol=1e-5)
        lengths.append(alone.state.iteration)
    assert len(set(lengths)) == 2
    assert both.state.iteration == max(lengths)


def test_a_state_of_another_solver_is_refused():
    A, q = Identity(SHAPE), torch.rand(1, *SHAPE)
    settings = {"sigma": 0.1, "iterations": 3, "tol": 0.0}
    D = denoisers.make("tv")
    half = anderson(solvers.make("drs", **settings)).run(q, A, D, noise=0.1)
    with pytest.raises(InputTypeError, match="an accelerated ADMM, got one with a DRSState"):
        anderson(solvers.make("admm", sigma=0.1)).run(q, A, D, noise=0.1, state=half.state)
