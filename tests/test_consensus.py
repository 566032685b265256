"""ADMM with several data terms: exact answers, the fixed points of ADMM on the stack, noise; and
DPIR, a preset.
"""

from __future__ import annotations

import copy

import pytest
import torch

from pnp_mlpatch import operators, reconstruct, samples, solvers
from pnp_mlpatch.cli import main
from pnp_mlpatch.errors import InputError, InputTypeError, PnPError
from pnp_mlpatch.interop import from_functions
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.operators.stack import Stack
from pnp_mlpatch.solvers import make_problem, schedules
from pnp_mlpatch.solvers.hqs import HQS, HQSState

SHAPE = (1, 8, 6)
PIXELS = 48
SIGMA = 0.6
LEVELS = (0.5, 0.2, 0.9)
EXACT = {"data_iterations": 200, "data_tol": 1e-13}


def gaussian(x, sigma):
    """(1 + sigma^2 L)^-1 x, L the five-point Laplacian with periodic borders: the proximal map of
    <x, L x> / 2 at eta = sigma^2.
    """
    rows, cols = (
        2 - 2 * torch.cos(2 * torch.pi * torch.fft.fftfreq(n, dtype=x.dtype)) for n in x.shape[-2:]
    )
    eta = torch.as_tensor(sigma, dtype=x.dtype).square().reshape(-1, 1, 1, 1)
    return torch.fft.ifft2(torch.fft.fft2(x) / (1 + eta * (rows[:, None] + cols))).real


def matrix_of(function):
    return function(torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, *SHAPE)).flatten(1).T


def dense():
    matrix = (
        torch.randn(30, PIXELS, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 8
    )
    return from_functions(
        lambda x: x.flatten(1) @ matrix.to(x).T,
        lambda y: (y @ matrix.to(y)).reshape(-1, *SHAPE),
        SHAPE,
        (30,),
    )


BLOCKS = {
    "mask": lambda: Mask(random_mask(SHAPE[1:], keep=0.5)),
    "blur": lambda: Blur(gaussian_psf(0.7), SHAPE),
    "dense": dense,
}


def stacked(names=("mask", "blur")):
    A = Stack([BLOCKS[name]() for name in names])
    return A, torch.randn(
        2, *A.data_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )


def off(x, exact):
    return float((x - exact).norm() / exact.norm())


def most_probable(A, q, noise):
    """The minimum of |(A x - q) / noise|^2 / 2 + <x, L x> / 2 by a dense solve, noise (1, m) or (B,
    m).
    """
    one = torch.eye(PIXELS, dtype=torch.float64)
    L = (torch.linalg.inv(matrix_of(lambda x: gaussian(x, SIGMA))) - one) / SIGMA**2
    M = matrix_of(A)
    found = []
    for k in range(len(q)):
        w = noise[min(k, len(noise) - 1)] ** -2
        found.append(torch.linalg.solve(M.T @ (w[:, None] * M) + L, M.T @ (w * q[k])))
    return torch.stack(found).reshape(-1, *SHAPE)


def solve(name, A, q, noise, **settings):
    return reconstruct(
        q,
        A,
        gaussian,
        name,
        noise=noise,
        **({"sigma": SIGMA, "iterations": 3000, "tol": 1e-13} | EXACT | settings),
    )


# ---- where it comes to rest


@pytest.mark.parametrize("names", [("mask", "blur"), ("mask", "blur", "dense"), ("blur",)])
def test_rest_is_the_most_probable_image(names):
    A, q = stacked(names)
    noise = A.noise(LEVELS[: len(names)])
    exact = most_probable(A, q, noise)
    result = solve("consensus", A, q, noise)
    assert result.status == "converged"
    assert off(result.x, exact) < 1e-6
    assert off(result.state.f, result.x.repeat(1, len(names), 1, 1)) < 1e-6
    settings = {"sigma": SIGMA, "iterations": 3000, "tol": 1e-13} | EXACT
    mixed = solvers.anderson(solvers.make("consensus", **settings), 5)
    assert off(mixed.run(q, A, gaussian, noise=noise).x, exact) < 1e-6


def test_rest_with_one_noise_for_all_does_not_depend_on_the_number_of_terms():
    """alpha_i = (noise / sigma)^2 / n: the mean of n terms is denoised at sigma, whatever n."""
    A, q = stacked()
    result = solve("consensus", A, q, 0.3)
    assert (
        off(result.x, most_probable(A, q, torch.full((1, *A.data_shape), 0.3, dtype=torch.float64)))
        < 1e-6
    )
    assert result.history["alpha"][-1] == pytest.approx((0.3 / SIGMA) ** 2)
    B = BLOCKS["blur"]()
    twice, once = Stack([B, B]), Stack([B])  # the same data twice is half the variance
    data = q[:, :PIXELS]
    doubled = solve("consensus", twice, torch.cat([data, data], 1), 0.3)
    assert off(doubled.x, solve("consensus", once, data, 0.3 / 2**0.5).x) < 1e-8


def test_maps_within_blocks_and_for_each_image():
    A, q = stacked()
    uneven = 0.2 + torch.rand(
        2, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    for noise in (
        A.noise([0.5, uneven[0]]),
        A.noise([torch.tensor([0.4, 0.7]).reshape(2, 1, 1, 1), uneven]),
    ):
        assert off(solve("consensus", A, q, noise).x, most_probable(A, q, noise)) < 1e-6


@pytest.mark.parametrize("alpha", [None, 250.0])
def test_the_fixed_points_are_those_of_admm_for_a_denoiser_that_is_not_linear(alpha, mlpatch):
    truth = samples.camera()[..., 100:110, 200:212].contiguous().double()
    A = Stack([Mask(random_mask((10, 12), keep=0.4)), Blur(gaussian_psf(1.2), (1, 10, 12))])
    q = A(truth) + 0.02 * torch.randn(
        1, *A.data_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    settings = {
        "noise": A.noise([0.02, 0.03]),
        "sigma": 0.05,
        "alpha": alpha,
        "iterations": 400,
        "tol": 1e-7,
        "data_iterations": 60,
        "data_tol": 1e-9,
    }
    D = copy.deepcopy(mlpatch).double()  # in float32 its rounding is as large as tol
    one, other = (reconstruct(q, A, D, name, **settings) for name in ("consensus", "admm"))
    assert one.status == other.status == "converged"
    assert off(one.x, other.x) < 1e-5


# ---- step by step


def iterates(name, problem, steps, depth=0, **settings):
    solver = solvers.make(name, **({"sigma": SIGMA} | settings))
    solver = solvers.anderson(solver, depth) if depth else solver
    states = solver.iterate(problem, gaussian, solver.init(problem, problem.A.initial(problem.q)))
    return [next(states) for _ in range(steps)]


@pytest.mark.parametrize("settings", [{}, {"depth": 3}, {"sigma": [0.6, 0.5, 0.4]}])
@pytest.mark.parametrize("name", ["mask", "blur", "dense"])
def test_one_term_is_admm(name, settings):
    A = BLOCKS[name]()
    q = torch.rand(2, *A.data_shape, dtype=torch.float64)
    for operator, data in ((A, q), (Stack([A]), q.flatten(1))):
        problems = make_problem(data, operator, 0.3), make_problem(q, A, 0.3)
        for one, other in zip(
            iterates("consensus", problems[0], 12, **settings),
            iterates("admm", problems[1], 12, **settings),
            strict=True,
        ):
            assert off(one.x, other.x) < 1e-9
            assert {
                k: pytest.approx(v.tolist(), abs=1e-9, nan_ok=True)
                for k, v in one.measures().items()
            } == {k: v.tolist() for k, v in other.measures().items()}


def test_a_step_is_its_equations():
    A, q = stacked()
    state = iterates("consensus", make_problem(q, A, A.noise([0.5, 0.2])), 3)[-1]
    u, f, v = state.u.chunk(2, 1), [], 0
    for k, (block, part, level) in enumerate(zip(A.blocks, A.split(q), (0.5, 0.2), strict=True)):
        f.append(
            block.data_step(state.x - u[k], (level / SIGMA) ** 2 / 2, Aty=block.adjoint(part))[0]
        )
        v = v + (f[k] + u[k]) / 2
    v = gaussian(v, SIGMA)
    new = solvers.make("consensus", sigma=SIGMA).step(
        make_problem(q, A, A.noise([0.5, 0.2])), gaussian, state
    )
    assert off(new.x, v) < 1e-12
    assert off(new.f, torch.cat(f, 1)) < 1e-12
    assert off(new.u, torch.cat([u[k] + f[k] - v for k in range(2)], 1)) < 1e-12


def test_levels_of_their_own_and_a_batch_that_is_its_images():
    A, q = stacked(("mask", "blur", "dense"))
    sigma, noise = (
        torch.tensor([0.3, 0.7], dtype=torch.float64),
        A.noise([torch.tensor([0.2, 0.4]).reshape(2, 1, 1, 1), 0.3, torch.tensor([[0.1], [0.9]])]),
    )
    together = solve("consensus", A, q, noise, sigma=sigma, iterations=9, tol=0)
    for k in range(2):
        alone = solve(
            "consensus",
            A,
            q[k : k + 1],
            noise[k : k + 1],
            sigma=float(sigma[k]),
            iterations=9,
            tol=0,
        )
        assert off(together.x[k : k + 1], alone.x) < 1e-9


def test_an_image_that_has_converged_rests():
    A, q = stacked()
    q = torch.cat([1e-3 * A(torch.ones(1, *SHAPE, dtype=torch.float64)), q[:1]])
    settings = {"tol": 1e-6, "iterations": 500}
    noise = A.noise([torch.tensor([0.5, 0.1]).reshape(2, 1, 1, 1), 0.2])
    together = solve("consensus", A, q, noise, **settings)
    for k in range(2):
        assert (
            off(
                together.x[k : k + 1],
                solve("consensus", A, q[k : k + 1], noise[k : k + 1], **settings).x,
            )
            < 1e-8
        )
    assert together.statuses == ("converged", "converged")


def test_it_resumes_to_the_same_bits(tmp_path):
    A, q = stacked()
    solver = solvers.make("consensus", sigma=0.4, iterations=11, tol=0)
    noise = A.noise([0.3, 0.1])
    whole = solver.run(q, A, gaussian, noise=noise)
    half = solver.run(q, A, gaussian, noise=noise, callbacks=[lambda state: state.iteration == 5])
    half.state.save(tmp_path / "state.pt")
    rest = solver.run(q, A, gaussian, noise=noise, state=solver.load_state(tmp_path / "state.pt"))
    assert torch.equal(rest.x, whole.x)
    assert {
        "primal",
        "dual",
        "fixed_point",
        "data_residual",
        "sigma",
        "alpha",
    } < whole.history.keys()
    assert whole.state.f.shape == (2, 2, 8, 6)


def test_two_data_sets_are_better_than_one_and_few_steps_are_enough(mlpatch):
    truth = samples.camera()[..., 100:164, 200:264].contiguous()
    A = Stack([Mask(random_mask((64, 64), keep=0.3)), Blur(gaussian_psf(1.5), (1, 64, 64))])
    levels = (0.1, 0.01)
    generator = torch.Generator().manual_seed(0)
    data = [
        q + s * torch.randn(q.shape, generator=generator)
        for q, s in zip(A.split(A(truth)), levels, strict=True)
    ]
    q, settings = A.join(data), {"sigma": 15 / 255, "tol": 0}
    both = reconstruct(q, A, mlpatch, "consensus", noise=A.noise(levels), **settings).x
    alone = [
        reconstruct(p, B, mlpatch, "admm", noise=s, **settings).x
        for p, B, s in zip(data, A.blocks, levels, strict=True)
    ]
    assert float(psnr(both, truth)) > max(float(psnr(x, truth)) for x in alone) + 0.3
    admm = reconstruct(q, A, mlpatch, "admm", noise=A.noise(levels), **settings).x
    rest = reconstruct(
        q, A, mlpatch, "consensus", noise=A.noise(levels), **(settings | {"iterations": 80})
    ).x
    assert off(both, rest) < 0.8 * off(admm, rest)


def test_projections_and_pixels_of_one_image(mlpatch):
    truth = samples.camera()[..., 100:148, 200:248].contiguous()
    A = operators.make(
        "stack",
        blocks=[
            Radon(image_shape=(1, 48, 48), angles=10, cache=False),
            Mask(random_mask((48, 48), keep=0.2)),
        ],
    )
    clean = A.split(A(truth))
    levels = (0.01 * float(clean[0].square().mean().sqrt()), 0.02)
    q = A.join(
        [
            p + s * torch.randn(p.shape, generator=torch.Generator().manual_seed(2))
            for p, s in zip(clean, levels, strict=True)
        ]
    )
    x = reconstruct(q, A, mlpatch, "consensus", noise=A.noise(levels), sigma=20 / 255).x
    assert float(psnr(x, truth)) > float(psnr(A.blocks[0].initial(A.split(q)[0]), truth)) + 3


# ---- errors


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"alpha": -1}, InputError, "Consensus: alpha must be finite and > 0, got -1"),
        ({"sigma": 0}, InputError, "Consensus: sigma must be finite and > 0, got 0"),
        ({"data_iterations": 0}, InputError, "Consensus: data_iterations must be finite and > 0"),
        ({"iterations": 0}, InputError, "Consensus: iterations must be an integer >= 1"),
        ({"rho": 1.0}, InputTypeError, "The solver 'consensus' has no setting 'rho'"),
    ],
)
def test_settings(settings, error, words):
    A, q = stacked()
    with pytest.raises(error, match=words):
        reconstruct(q, A, gaussian, "consensus", noise=0.1, **settings)


def test_other_errors():
    A, q = stacked()
    with pytest.raises(
        InputError, match=r"Consensus \(or give alpha\): the noise level of the data is needed"
    ):
        reconstruct(q, A, gaussian, solvers.make("consensus"))
    assert torch.isfinite(reconstruct(q, A, gaussian, "consensus", alpha=0.3).x).all()
    result = reconstruct(q, A, gaussian, "admm", noise=0.1, iterations=2)
    with pytest.raises(
        InputTypeError,
        match="Consensus: state must be ConsensusState from an earlier run, got ADMMState",
    ):
        reconstruct(q, A, gaussian, "consensus", noise=0.1, state=result.state)
    unseen = torch.cat([torch.full((2, PIXELS), 0.1), torch.full((2, PIXELS), torch.inf)], 1)
    with pytest.raises(
        PnPError, match=r"all weights of block 1, Blur, are zero. Leave the block out"
    ):
        reconstruct(q, A, gaussian, "consensus", noise=unseen)


# ---- DPIR


def test_dpir_is_hqs_with_its_schedule(mlpatch):
    made = solvers.make("dpir", iterations=6)
    assert type(made) is HQS
    assert made == HQS(iterations=6)
    assert (solvers.make("dpir").iterations, solvers.make("dpir").alpha_scale) == (8, 0.23)
    A = BLOCKS["blur"]()
    q = torch.rand(2, *SHAPE)
    one = reconstruct(q, A, mlpatch, "dpir", noise=0.02)
    other = HQS().run(q, A, mlpatch, noise=0.02)
    assert torch.equal(one.x, other.x)
    assert isinstance(one.state, HQSState)
    assert one.history["sigma"] == pytest.approx(schedules.dpir(0.02, 8))
    assert one.history["sigma"][0] == pytest.approx(49 / 255)
    assert one.history["sigma"][-1] == pytest.approx(0.02)
    assert one.history["alpha"][-1] == pytest.approx(0.23)


def test_dpir_is_a_name_like_the_others(capsys):
    import subprocess
    import sys

    assert "dpir" in solvers.names()
    info = solvers.info("dpir")
    assert info.doc.startswith('The solver "hqs" with the settings of DPIR')
    assert "alpha_scale" in info.signature
    assert info.source == "built in"
    with pytest.raises(
        InputTypeError,
        match=r"The solver 'dpir' has no setting 'alpha_scal'. Did you mean 'alpha_scale'",
    ):
        solvers.make("dpir", alpha_scal=1.0)
    with pytest.raises(InputError, match="HQS: alpha_scale must be finite and > 0"):
        solvers.make("dpir", alpha_scale=-1.0)
    # before hqs was imported
    code = "from pnp_mlpatch import solvers; print(type(solvers.make('dpir')).__name__)"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "HQS"
    )
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "dpir" in listed
    assert "consensus" in listed
    assert "stack" in listed
