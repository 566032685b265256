"""What restores convergence, and judges without the truth: random and shifted symmetries, spectral
scaling, balanced residuals, SURE and GCV.
"""

from __future__ import annotations

import pytest
import torch

from pnp_mlpatch import averaged, contracted, denoisers, equivariant, reconstruct, solvers
from pnp_mlpatch.convergence import lipschitz
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.tuning import gcv, sure
from pnp_mlpatch.tuning.noise import probe

SHAPE = (1, 9, 12)


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def uneven(x, sigma):
    """A denoiser that knows up from down: a mean with the pixel above."""
    return 0.7 * x + 0.3 * torch.cat([x[..., :1, :], x[..., :-1, :]], dim=-2)


def striding(x, sigma):
    """One that sees images by strides of two, as U-Nets do: means of blocks, at full size."""
    h, w = x.shape[-2:]
    p = torch.nn.functional.pad(x, (0, w % 2, 0, h % 2), mode="replicate")
    return torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(p, 2), scale_factor=2)[
        ..., :h, :w
    ]


# ---- symmetries


def test_a_random_symmetry_is_one_of_the_group_and_a_function_of_the_image():
    E, x = equivariant(uneven, draw="random"), rand(40, *SHAPE)
    once = E(x, 0.1)
    assert torch.equal(once, E(x, 0.1))
    assert torch.equal(once[7:9], E(x[7:9], 0.1)), "an image does not depend on its batch"
    candidates = []
    from pnp_mlpatch.denoisers import SYMMETRIES, turned

    for g in SYMMETRIES:
        candidates.append(turned(uneven(turned(x, g), 0.1), g, back=True))
    which = torch.stack([(once - c).abs().amax(dim=(1, 2, 3)) == 0 for c in candidates])
    assert bool(which.any(0).all())
    assert len(set(which.int().argmax(0).tolist())) >= 4, (
        "flips left and right change nothing here, so 4 are different"
    )
    assert not torch.equal(once, equivariant(uneven, draw="random", seed=5)(x, 0.1))


def test_the_mean_of_random_symmetries_is_the_average_over_all():
    x = rand(1, *SHAPE)
    every = equivariant(uneven)(x, 0.1)
    mean = sum(equivariant(uneven, draw="random", seed=k)(x, 0.1) for k in range(400)) / 400
    assert float((mean - every).abs().max()) < 0.15 * float((uneven(x, 0.1) - every).abs().max())


@pytest.mark.parametrize("shape", [(1, 9, 12), (1, 16, 16), (2, 5, 7)])
def test_shifts(shape):
    """D of strides 2 averaged over all shifts commutes with shifts, away from the border."""
    x = rand(2, *shape)
    E = equivariant(striding, "shifts")
    assert E(x, 0.1).shape == x.shape
    assert torch.allclose(equivariant(lambda x, s: x, "shifts")(x, 0.1), x, atol=1e-14)
    if min(shape[1:]) > 8:
        moved = E(x.roll((1, 1), (-2, -1)), 0.1).roll((-1, -1), (-2, -1))
        inner = (..., slice(4, -4), slice(4, -4))
        assert torch.allclose(moved[inner], E(x, 0.1)[inner], atol=1e-12)
        assert not torch.allclose(
            striding(x.roll((1, 1), (-2, -1)), 0.1).roll((-1, -1), (-2, -1))[inner],
            striding(x, 0.1)[inner],
            atol=1e-3,
        )


@pytest.mark.parametrize("draw", ["all", "random"])
@pytest.mark.parametrize("group", ["dihedral", "rotations", "shifts"])
def test_levels_go_with_the_images(group, draw):
    """D = x sigma with a map, (B,) and a number: no symmetry moves the level against the image."""
    E, x = (
        equivariant(
            lambda x, s: (
                x
                * (s if not isinstance(s, torch.Tensor) or s.ndim != 1 else s.reshape(-1, 1, 1, 1))
            ),
            group,
            draw=draw,
        ),
        rand(3, *SHAPE),
    )
    levels = rand(3, 1, *SHAPE[1:], seed=1)
    assert torch.allclose(E(x, levels), x * levels)
    assert torch.allclose(E(x, levels[:, 0, 0, 0]), x * levels[:, :1, :1, :1])
    assert torch.allclose(E(x, 0.5), x * 0.5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"draw": "one"}, "draw must be"),
        ({"seed": -1}, "seed must be"),
        ({"group": "all"}, "group must be"),
    ],
)
def test_symmetries_that_are_none(settings, words):
    with pytest.raises(InputError, match="equivariant: " + words):
        equivariant(uneven, **settings)


def test_a_solver_with_random_symmetries_resumes_bit_for_bit():
    A, D = Mask(random_mask(SHAPE[1:], keep=0.5)), equivariant(denoisers.make("tv"), draw="random")
    q, settings = A(rand(2, *SHAPE)), {"noise": 0.1, "sigma": 0.2, "iterations": 8, "tol": 0.0}
    whole = reconstruct(q, A, D, **settings)
    half = reconstruct(q, A, D, callbacks=[lambda s: s.iteration == 3], **settings)
    assert torch.equal(reconstruct(q, A, D, state=half.state, **settings).x, whole.x)


# ---- spectral scaling


def sharpen(x, sigma):
    """It amplifies what is rough by up to 1.4, and keeps means: PGD with it diverges where the data
    do not hold.
    """
    p = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="circular")
    return x + 0.05 * (
        4 * x - p[..., :-2, 1:-1] - p[..., 2:, 1:-1] - p[..., 1:-1, :-2] - p[..., 1:-1, 2:]
    )


def test_spectral_scaling_makes_a_diverging_solver_converge():
    A = Mask(random_mask(SHAPE[1:], keep=0.3))
    q, settings = (
        A(rand(1, *SHAPE)),
        {"noise": 1.0, "sigma": 1.0, "tau": 1.0, "iterations": 400, "tol": 1e-8},
    )
    wild = reconstruct(q, A, sharpen, "pgd", **settings | {"iterations": 12, "tol": 0})
    assert wild.history["residual"][-1] > 0.1
    bound = lipschitz(sharpen, rand(1, *SHAPE), 1.0, iterations=60)
    assert 1.2 < bound < 1.45
    tame = reconstruct(
        q,
        A,
        contracted(sharpen, 1.02 * bound),
        "pgd",
        **settings | {"iterations": 4000, "tol": 1e-6},
    )
    assert tame.status == "converged"
    assert lipschitz(contracted(sharpen, bound), rand(1, *SHAPE), 1.0, iterations=60) <= 1 + 1e-6
    firm = reconstruct(
        q,
        A,
        averaged(contracted(sharpen, bound)),
        "admm",
        alpha=0.3,
        sigma=1.0,
        iterations=4000,
        tol=1e-6,
    )
    assert firm.status == "converged"
    x = rand(2, 3, 6, 5)
    assert torch.allclose(contracted(sharpen, 2.0)(x, 0.1).mean((-2, -1)), x.mean((-2, -1)))


@pytest.mark.parametrize("bound", [0.9, float("nan"), "2", True])
def test_bounds_that_are_none(bound):
    with pytest.raises(InputError, match="contracted: bound must be a number >= 1"):
        contracted(sharpen, bound)


# ---- balanced residuals


def prior(x, sigma):
    """The proximal map of 1/2 |x|^2 at sigma^2."""
    return x / (1 + torch.as_tensor(sigma, dtype=x.dtype).square().reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("off", [0.2, 5.0])
def test_balancing_saves_iterations_and_keeps_the_answer_of_a_proximal_map(off):
    A = Blur(gaussian_psf(1.0), SHAPE)
    q = A(rand(2, *SHAPE))
    settings = {"noise": 0.5, "sigma": off, "iterations": 3000, "tol": 1e-9}
    exact = reconstruct(q, A, prior, sigma=0.7, noise=0.5, iterations=5000, tol=1e-13)
    plain, balanced = (
        reconstruct(q, A, prior, **settings),
        reconstruct(q, A, prior, balance=30, **settings),
    )
    for result in (plain, balanced):
        assert float((result.x - exact.x).norm() / exact.x.norm()) < 1e-5
    assert balanced.state.iteration < plain.state.iteration
    assert balanced.history["sigma"][0] == pytest.approx(off)
    assert off / 8 <= balanced.history["sigma"][-1] <= 8 * off
    assert balanced.history["sigma"][-1] != pytest.approx(off)
    half = reconstruct(q, A, prior, balance=30, callbacks=[lambda s: s.iteration == 5], **settings)
    assert torch.equal(
        reconstruct(q, A, prior, balance=30, state=half.state, **settings).x, balanced.x
    )


def test_balance_errors():
    with pytest.raises(InputError, match="balance is for how many iterations"):
        solvers.make("admm", balance=-1)
    with pytest.raises(InputError, match="Use one of them"):
        solvers.anderson(solvers.make("admm", balance=3), 3)


# ---- SURE and GCV


def test_sure_is_the_risk_of_a_linear_estimate():
    """x = q / (1 + c) for an identity: the divergence is m / (1 + c), and the mean of SURE over
    noises is the risk.
    """
    A, truth, noise = Identity(SHAPE), rand(1, *SHAPE), 0.3
    for c in (0.0, 0.3, 2.0):

        def estimate(q, c=c):
            return q / (1 + c)

        found, risks = [], []
        for k in range(60):
            q = truth + noise * torch.randn(
                truth.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(k)
            )
            found.append(float(sure(q, A, estimate, noise=noise)))
            risks.append(float((estimate(q) - truth).square().mean() / noise**2))
            misfit = float((estimate(q) - q).square().mean() / noise**2)
            assert found[-1] == pytest.approx(misfit - 1 + 2 / (1 + c), abs=1e-9)
            assert float(gcv(q, A, estimate, noise=noise)) == pytest.approx(
                misfit / max(1 - 1 / (1 + c), 1e-12) ** 2, rel=1e-6, abs=1e-12
            )
        assert sum(found) / 60 == pytest.approx(sum(risks) / 60, abs=0.08)


def test_sure_and_gcv_choose_the_level_that_is_best():
    A, noise, D = Blur(gaussian_psf(0.8), (1, 32, 32)), 0.1, denoisers.make("tv")
    truth = torch.zeros(1, 1, 32, 32)
    truth[..., 8:20, 10:26] = 1.0
    q = A(truth) + noise * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    found = {"error": [], "sure": [], "gcv": []}
    for level in (0.02, 0.06, 0.15, 0.4):

        def estimate(q, level=level):
            return reconstruct(q, A, D, noise=noise, sigma=level, alpha=0.5, iterations=15, tol=0).x

        found["error"].append(float((A(estimate(q)) - A(truth)).square().mean()) / noise**2)
        found["sure"].append(float(sure(q, A, estimate, noise=noise)))
        found["gcv"].append(float(gcv(q, A, estimate, noise=noise)))
    assert len({values.index(min(values)) for values in found.values()}) == 1, found
    assert max(abs(a - b) for a, b in zip(found["sure"], found["error"], strict=True)) < 0.15


def test_maps_and_masks_count_only_what_was_measured():
    A = Mask(random_mask(SHAPE[1:], keep=0.5))
    q = A(rand(2, *SHAPE))
    noise = torch.full(SHAPE, 0.2, dtype=torch.float64)
    noise[:, 2] = torch.inf
    broken = torch.where(torch.isinf(noise), torch.nan, q)
    found = sure(broken, A, lambda q: 0.5 * q, noise=noise)
    seen = (A(torch.ones_like(q)) > 0) & torch.isfinite(noise)
    by_hand = [float((0.25 * q[k][seen[k]].square() / 0.04).mean() - 1 + 2 * 0.5) for k in range(2)]
    assert found.tolist() == pytest.approx(by_hand)


def test_probes_are_white_and_flat():
    """All of the data: a flat spectrum, so that traces of convolutions are exact; part of them:
    nothing elsewhere, and a mean square of 1.
    """
    q, everything = rand(2, 3, 16, 20), torch.ones(2, 3, 16, 20, dtype=torch.bool)
    b = probe(q, everything, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.fft.fftn(b, dim=(1, 2, 3), norm="ortho").abs(), torch.ones_like(q), atol=1e-10, rtol=0
    )
    assert not torch.equal(b[0], b[1])
    assert float(b.abs().quantile(0.1)) > 0.4, "a gaussian has 0.13"
    half = probe(q, torch.arange(20) < 9, torch.Generator().manual_seed(0))
    assert bool((half[..., 9:] == 0).all())
    torch.testing.assert_close(half[..., :9].square().mean((1, 2, 3)), torch.ones(2).double())
    assert torch.equal(probe(q.float(), everything, torch.Generator().manual_seed(0)), b.float())
    nothing = probe(q, torch.zeros(20, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert bool((nothing == 0).all())
    for shape in [(1, 1), (3, 1, 7)]:  # signs, where there is one datum
        assert probe(
            torch.zeros(shape),
            torch.ones(shape, dtype=torch.bool),
            torch.Generator().manual_seed(0),
        ).square().mean() == pytest.approx(1)


def test_probes_tell_any_trace_and_that_of_a_blur_better_than_signs():
    """A matrix without any structure, to 4 standard errors; a blur that changes over the image, to
    little more than half their deviation.
    """
    generator, m = torch.Generator().manual_seed(1), 14 * 14
    q, everything = torch.zeros(400, 1, 14, 14).double(), torch.ones(1, 14, 14, dtype=torch.bool)
    J = torch.randn(m, m, generator=generator).double()
    b = probe(q, everything, torch.Generator().manual_seed(2)).flatten(1)
    signs = 2.0 * torch.randint(0, 2, b.shape, generator=generator).double() - 1
    told = torch.einsum("ki,ij,kj->k", b, J, b)
    assert abs(float(told.mean() - J.trace())) < 4 * float(told.std()) / 20
    place = torch.cartesian_prod(torch.arange(14.0), torch.arange(14.0)).double()
    near = torch.exp(-torch.cdist(place, place).square() / 8)
    J = (1 + place[:, :1] / 14) * near / near.sum(1, keepdim=True)
    flat, rough = (torch.einsum("ki,ij,kj->k", v, J, v) for v in (b, signs))
    assert abs(float(flat.mean() - J.trace())) < 4 * float(flat.std()) / 20
    assert float(flat.std()) < 0.6 * float(rough.std())


def test_errors_of_sure():
    A, q = Identity(SHAPE), rand(1, *SHAPE)
    with pytest.raises(InputTypeError, match="sure: estimate must be a function"):
        sure(q, A, q, noise=0.1)
    with pytest.raises(InputError, match="gcv: probes must be an integer >= 1"):
        gcv(q, A, lambda q: q, noise=0.1, probes=0)
    with pytest.raises(InputError, match="noise is a standard deviation"):
        sure(q, A, lambda q: q, noise=-1.0)
