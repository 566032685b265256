"""Right answers at the edges: batches, noise maps, units, starts, foreign operators,
gaps in data.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from pnp_mlpatch import interop, reconstruct, samples, solvers
from pnp_mlpatch.denoisers import registry as denoisers
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.linalg import pcg
from pnp_mlpatch.metrics import psnr
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import State, make_problem, noise_in_start
from pnp_mlpatch.tuning import noise_level

TV = denoisers.make("tv")


@pytest.fixture(scope="module")
def photo():
    return samples.camera()[..., 100:148, 200:240]


def white(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Downsample(LinearOperator):
    """Every second pixel; no start of its own."""

    def __init__(self, shape):
        super().__init__((1, *shape), (1, -(-shape[0] // 2), -(-shape[1] // 2)))

    def _forward(self, x):
        return x[..., ::2, ::2].clone()

    def _adjoint(self, y):
        x = y.new_zeros(len(y), *self.image_shape)
        x[..., ::2, ::2] = y
        return x

    @classmethod
    def example(cls):
        return cls((7, 8))


# ---- noise: of each image, in its units


@pytest.mark.parametrize("solver", ["hqs", "dpir", "pgd", "fista"])
@pytest.mark.parametrize("kind", ["numbers", "maps"])
def test_an_image_does_not_depend_on_the_noise_of_the_others(solver, kind, photo):
    images = torch.cat([photo, photo.flip(-1)])
    A, n = Mask(random_mask((48, 40), keep=0.5)), torch.tensor([0.02, 0.25])
    q = A(images) + A.mask.float() * n.reshape(-1, 1, 1, 1) * white(images.shape)
    noise = (
        n
        if kind == "numbers"
        else n.reshape(-1, 1, 1, 1).expand_as(q) * (1 + torch.rand(1, 48, 40))
    )
    settings = {"iterations": 4, "progress": False}
    batch = reconstruct(q, A, TV, solver, noise=noise, **settings).x
    for k in range(2):
        alone = reconstruct(q[k : k + 1], A, TV, solver, noise=noise[k : k + 1], **settings).x
        assert float((batch[k] - alone[0]).abs().max()) < 1e-5


@pytest.mark.parametrize("white_data", [False, True])
def test_the_white_step_of_an_image_is_its_own(white_data, photo):
    A, n = Identity((1, 48, 40)), torch.tensor([0.02, 0.25])
    q = photo + n.reshape(-1, 1, 1, 1) * white((2, 1, 48, 40))
    solver = solvers.make("pgd", iterations=3, white=white_data)
    batch = solver.run(q, A, TV, noise=n, progress=False)
    mapped = solver.run(q, A, TV, noise=n.reshape(-1, 1, 1, 1).expand_as(q), progress=False)
    alone = solver.run(q[1:], A, TV, noise=0.25, progress=False)
    for found in (batch, mapped):
        assert float((found.x[1] - alone.x[0]).abs().max()) < 1e-5


@pytest.mark.parametrize("solver", ["hqs", "dpir", "pgd"])
def test_a_noise_map_of_one_value_is_that_number(solver, photo):
    A = Blur(gaussian_psf(1.2), (1, 48, 40))
    q = A(photo) + 0.03 * white(photo.shape)
    one, many = (
        reconstruct(q, A, TV, solver, noise=n, iterations=6, progress=False)
        for n in (0.03, torch.full(A.data_shape, 0.03))
    )
    assert float((one.x - many.x).abs().max()) < 1e-4
    assert one.history["sigma"][-1] == pytest.approx(many.history["sigma"][-1], rel=1e-3)


def test_a_schedule_ends_at_the_noise_of_the_image_not_of_the_data():
    A = Radon(image_shape=(1, 24, 24), angles=30, cache=False)
    noise = 5.0  # of line integrals of 24 pixels
    level = float(noise_in_start(make_problem(torch.zeros(1, *A.data_shape), A, noise), "test"))
    draws = A.initial(noise * white((8, *A.data_shape), 5))
    assert level == pytest.approx(float(draws.square().mean().sqrt()), rel=0.15)
    q = A(torch.rand(1, 1, 24, 24)) + 0.2 * white((1, *A.data_shape))
    result = reconstruct(q, A, TV, "hqs", noise=0.2, progress=False)
    expected = float(noise_in_start(make_problem(q, A, 0.2), "test"))
    assert result.history["sigma"][-1] == pytest.approx(expected, rel=1e-3)
    assert result.history["sigma"][-1] < 0.1  # 0.2 is the first level of the schedule


# ---- units


@pytest.mark.parametrize("unit", [1e-30, 1e-12, 1e18, 1e30])
def test_conjugate_gradients_in_any_units(unit):
    generator = torch.Generator().manual_seed(0)
    M = torch.randn(20, 20, generator=generator)
    M = M @ M.T / 20 + 0.1 * torch.eye(20)
    b = torch.randn(2, 20, generator=generator)
    exact = torch.linalg.solve(M.double(), b.double().T).T
    for scale in (unit, unit * 1e-3):  # a batch of two units
        units = torch.tensor([[unit], [scale]])
        x, info = pcg(lambda v: v @ M, b * units, torch.zeros_like(b), tol=1e-5, max_iter=200)
        error = (x.double() / units.double() - exact).norm(dim=1) / exact.norm(dim=1)
        assert float(error.max()) < 1e-3
        assert float(info.residual.max()) < 1e-4


@pytest.mark.parametrize(
    "solver", ["admm", "fast_admm", "drs", "red", "pgd", "fista", "pdhg", "consensus"]
)
@pytest.mark.parametrize("unit", [1e-30, 1e30])
def test_solvers_in_any_units(solver, unit, photo):
    A = Radon(image_shape=(1, 16, 16), angles=12, cache=False)
    x, settings = photo[..., :16, :16], {"iterations": 6, "progress": False}
    q = A(x)
    noise = (
        0.01
        * float(q.mean())
        * (0.5 + torch.rand(A.data_shape, generator=torch.Generator().manual_seed(0)))
    )
    results = [
        reconstruct(
            (q.double() * u).float(),
            A,
            lambda v, s: 0.9 * v,
            solver,
            noise=noise * u,
            sigma=0.05 * u,
            **settings,
        )
        for u in (1.0, unit)
    ]
    first, other = results[0].x.double(), results[1].x.double() / unit
    assert float((other - first).norm() / first.norm()) < 1e-3
    for one, two in zip(
        results[0].history["residual"], results[1].history["residual"], strict=True
    ):
        assert one == pytest.approx(two, rel=0.02)


# ---- starts


@pytest.mark.parametrize("unit", [1e-20, 1.0, 1e20])
def test_the_start_of_an_operator_without_one_is_a_smooth_image(unit, photo):
    A = Downsample((48, 40))
    start = A.initial((A(photo).double() * unit).float()).double() / unit
    assert float(psnr(start.float(), photo)) > 25  # A^H q / |A|^2: 9 dB
    M = random_mask((48, 40), keep=0.3).flatten().bool()
    rows = torch.eye(48 * 40)[M]
    B = interop.from_scipy(rows.numpy(), (1, 48, 40))
    assert float(psnr(B.initial(B(photo)), photo)) > 20


def test_the_readmes_operator_ends_in_an_image(photo):
    A = Downsample((48, 40))
    q = A(photo) + 0.01 * white((1, 1, 24, 20))
    result = reconstruct(q, A, "mlpatch", noise=0.01, sigma=15 / 255, iterations=20, progress=False)
    assert result.status != "outside"
    assert float(psnr(result.x, photo)) > 25


def test_a_start_does_not_take_what_was_not_measured_for_zero():
    ramp = (torch.linspace(0.3, 1.0, 48)[:, None] * torch.linspace(0.5, 1.0, 40))[None, None]
    gap = torch.zeros(48, 40, dtype=torch.bool)
    gap[10:20, 10:20] = True
    noise = torch.where(gap, torch.inf, 0.01)
    for A in (Identity((1, 48, 40)), Blur(gaussian_psf(1.0), (1, 48, 40)), Downsample((48, 40))):
        at = noise[None] if A.data_shape == (1, 48, 40) else noise[None, ::2, ::2]
        for images in (1, 2):  # one map for all, and one for each
            problem = make_problem(
                A(ramp).expand(images, -1, -1, -1), A, at.expand(images, *A.data_shape)
            )
            start = problem.A.initial(problem.q)
            assert float((start - ramp)[..., gap].abs().max()) < 0.05, A


# ---- results that cannot be used


@pytest.mark.parametrize("x0", ["given", "default"])
def test_a_result_far_outside_is_never_converged(x0, photo):
    A = Mask(random_mask((48, 40), keep=0.5))

    def amplifier(x, sigma):  # of what the data do not see
        return torch.where(A.mask > 0, x, 50.0)

    start = torch.zeros_like(photo) if x0 == "given" else None
    solver = solvers.make("hqs", iterations=60, sigma=0.1, tol=1e-3)
    with pytest.warns(UserWarning, match="far outside the range of its start"):
        result = solver.run(A(photo), A, amplifier, noise=0.01, x0=start, progress=False)
    assert result.status == "outside"


def test_a_peak_that_data_ask_for_is_not_outside(recwarn):
    A = Blur(gaussian_psf(3.0), (1, 32, 32))
    star = torch.zeros(1, 1, 32, 32)
    star[..., 16, 16] = 1.0
    result = reconstruct(
        A(star),
        A,
        lambda x, s: x.clamp_min(0),
        noise=1e-3,
        sigma=0.1,
        iterations=100,
        progress=False,
    )
    assert float(result.x.max()) > 6 * float(A(star).max())
    assert result.status != "outside"
    assert not recwarn.list


# ---- foreign operators


def function_operator(A, At):
    return interop.from_functions(A, At, (1, 12, 10), (1, 12, 10))


def test_foreign_operators_are_checked_when_they_are_first_used(recwarn):
    q = torch.rand(1, 1, 12, 10)
    wrong = {
        "transpose": (lambda x: 2 * x, lambda y: y),
        "transpose of A": (lambda x: x.roll(1, -1), lambda y: y.roll(1, -1)),
        "not linear": (lambda x: x.clamp(0, 1), lambda y: y),
        "not linear: ": (lambda x: x + 1, lambda y: y),
        "NaN or infinite": (lambda x: x / 0, lambda y: y),
    }
    for words, (A, At) in wrong.items():
        with pytest.raises(InputError, match=words):
            reconstruct(q, function_operator(A, At), TV, noise=0.1, sigma=0.1, progress=False)
    kept = function_operator(*wrong["transpose"])
    kept.verified = True
    reconstruct(q, kept, TV, noise=0.1, sigma=0.1, iterations=2, progress=False)
    calls = []
    right = function_operator(lambda x: calls.append(1) or 2 * x, lambda y: 2 * y)
    make_problem(q, right, 0.1)
    first = len(calls)
    make_problem(q, right, 0.1)
    assert (first, len(calls)) == (3, 3)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="not the transpose"):
        make_problem(q, function_operator(lambda x: x, lambda y: 1.01 * y), 0.1)


def test_an_operator_inside_another_is_checked_too():
    class Wrong(Downsample):
        def _adjoint(self, y):
            return 3 * super()._adjoint(y)

    A = Wrong((12, 10))
    q = torch.rand(1, *A.data_shape)
    for operator, data in ((A, q), (A.weighted(torch.full(A.data_shape, 2.0)), q)):
        with pytest.raises(InputError, match="transpose"):
            make_problem(data, operator, 0.1)


# ---- the search, and settings that are left out


def test_a_registered_solver_with_a_number_for_sigma_is_run_as_it_is(photo):
    @solvers.register("edges_plain")
    @dataclass(frozen=True)
    class Plain(solvers.Solver):
        iterations: int = 5
        sigma: float = 0.05
        tol: float = 1e-4

        def init(self, problem, x0):
            return State(x0, 0)

        def step(self, problem, denoise, state):
            x = problem.A.data_step(
                state.x, (problem.known_noise("Plain") / self.sigma) ** 2, Aty=problem.Aty
            )[0]
            return State(denoise(x, self.sigma), state.iteration + 1)

    try:
        A = Identity((1, 48, 40))
        result = reconstruct(
            photo + 0.05 * white(photo.shape), A, TV, "edges_plain", noise=0.05, progress=False
        )
        assert result.state.iteration == 5
    finally:
        del solvers.registry._made["edges_plain"]


def test_a_setting_that_is_none_is_left_out(photo):
    A = Identity((1, 12, 10))
    q = photo[..., :12, :10] + 0.05 * white((1, 1, 12, 10))
    both = [
        reconstruct(q, A, TV, noise=0.05, iterations=2, progress=False, **settings)
        for settings in ({}, {"sigma": None, "alpha": None})
    ]
    assert torch.equal(both[0].x, both[1].x)
    assert both[1].tuned is not None


# ---- data that are not there


def test_nan_under_a_mask_is_ignored(photo):
    A = Mask(random_mask((48, 40), keep=0.5))
    q = A(photo) + 0.01 * white(photo.shape) * A.mask.float()
    holes = torch.where(A.mask > 0, q, torch.nan)
    for settings in ({"noise": 0.01}, {"noise": torch.full(A.data_shape, 0.01)}):
        found = [
            reconstruct(data, A, TV, sigma=0.05, iterations=4, progress=False, **settings).x
            for data in (q, holes)
        ]
        assert torch.equal(*found)
    assert float(noise_level(holes, A)) == float(noise_level(torch.where(A.mask > 0, q, 7.0), A))
    q[..., A.mask[0].nonzero()[0, 0], A.mask[0].nonzero()[0, 1]] = torch.inf
    with pytest.raises(InputError, match=r"1 of the data .* infinite noise"):
        reconstruct(q, A, TV, noise=0.01, sigma=0.05, progress=False)


def test_the_noise_of_data_with_gaps():
    x = samples.camera()[..., 100:228, 200:328]
    q = x + 0.03 * white(x.shape)
    A = Identity((1, 128, 128))
    whole = float(noise_level(q, A))
    block = q.clone()
    block[..., 40:80] = 0
    assert float(noise_level(block, A)) == pytest.approx(whole, rel=0.1)  # 0.017 before
    filled = float(noise_level(q * random_mask((128, 128), keep=0.5), A))
    assert filled == pytest.approx(0.03, rel=0.3)  # 0.17 before
    with pytest.raises(InputError, match="that were measured"):
        noise_level(torch.zeros_like(q), A)
    # k-space: what is rough in its middle is the image
    lines = (torch.rand(128, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    lines[:10] = lines[-10:] = 1.0
    lines = lines.expand(128, 128)

    def fourier(z):
        return lines * torch.view_as_real(
            torch.fft.fft2(torch.complex(z[:, 0], z[:, 1]), norm="ortho")
        ).movedim(-1, 1)

    def back(y):
        y = lines * y
        return torch.view_as_real(
            torch.fft.ifft2(torch.complex(y[:, 0], y[:, 1]), norm="ortho")
        ).movedim(-1, 1)

    B = interop.from_functions(fourier, back, (2, 128, 128), (2, 128, 128))
    data = B(torch.cat([x, torch.zeros_like(x)], 1)) + 0.03 * lines * white((1, 2, 128, 128))
    assert float(noise_level(data, B)) == pytest.approx(0.03, rel=0.3)  # 0.05 before
