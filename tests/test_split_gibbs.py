"""Split Gibbs sampling: the mean of the posterior where it is known, and what the solver promises
of its random numbers.
"""

import pytest
import torch

from pnp_mlpatch import reconstruct
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing import wiener
from pnp_mlpatch.lensing.spectra import convergence_spectrum, power, wavenumbers
from pnp_mlpatch.operators.lensing import Lensing
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.solvers import make
from pnp_mlpatch.solvers.split_gibbs import SplitGibbs, remaining

PIXEL = "0.5 arcmin"


def gaussian(shape, amplitude=1.0):
    """The denoiser of Gaussian images of the spectrum of lensing: linear, and the best there is."""
    prior = amplitude * power(wavenumbers(shape, PIXEL), convergence_spectrum, PIXEL)

    def D(x, sigma):
        E = torch.fft.ifft2(
            torch.fft.fft2(x[:, :1]) * (prior / (prior + sigma**2)).to(x.dtype)
        ).real
        return torch.cat([E, torch.zeros_like(E)], dim=1) if x.shape[1] == 2 else E

    return D, prior


def survey(shape=(32, 32), seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.where(
        random_mask(shape, keep=0.8) > 0,
        0.05 + 0.1 * torch.rand(shape, generator=generator, dtype=torch.float64),
        torch.inf,
    )
    q = torch.where(
        torch.isfinite(noise),
        0.1 * torch.randn(1, 2, *shape, generator=generator, dtype=torch.float64),
        0.0,
    )
    return q, noise


@pytest.mark.parametrize(("sigma", "bound"), [(0.05, 0.02), (0.03, 0.006)])
def test_with_the_gaussian_denoiser_the_mean_is_the_wiener_filter(sigma, bound):
    """The noise split as the messenger field splits it. What is left is the mean shear, the one
    mode of which A A^H is 0, not 1.
    """
    q, noise = survey()
    D, _ = gaussian(q.shape[-2:])
    exact = wiener(q, noise, convergence_spectrum, PIXEL, tol=1e-10)
    settings = {
        "noise": remaining(noise, sigma),
        "sigma": sigma,
        "burn_in": 40,
        "x0": 0 * q,
        "progress": False,
    }
    few, many = (
        reconstruct(
            q, Lensing(image_shape=(2, 32, 32)), D, "split_gibbs", iterations=n, **settings
        ).x
        for n in (140, 1040)
    )
    assert float((many[:, :1] - exact).norm() / exact.norm()) < bound
    assert (
        float((few - many).norm() / many.norm()) < 0.01
    )  # pairs of opposite draws: the error falls as 1 / n


def test_without_splitting_the_noise_of_t_adds_to_that_of_the_data():
    """A mask: the mean is the posterior's for noise^2 + sigma^2, as the equations say."""
    A = Mask(random_mask((24, 20), keep=0.6))
    D, prior = gaussian((24, 20), amplitude=400.0)
    noise, sigma = 0.3, 0.2
    q = A(
        torch.randn(1, 1, 24, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    )
    run = reconstruct(
        q,
        A,
        D,
        "split_gibbs",
        noise=noise,
        sigma=sigma,
        iterations=2040,
        burn_in=40,
        progress=False,
    )
    n = 24 * 20
    eye = torch.eye(n, dtype=torch.float64)
    C = torch.fft.ifft2(prior * torch.fft.fft2(eye.reshape(n, 24, 20))).real.reshape(n, n)
    M = torch.diag(A(torch.ones(1, 1, 24, 20, dtype=torch.float64)).flatten())
    exact = C @ M @ torch.linalg.solve(M @ C @ M + (noise**2 + sigma**2) * eye, q.flatten())
    assert float((run.x.flatten() - exact).norm() / exact.norm()) < 0.05


def test_draws_follow_from_the_seed_and_resume():
    q, noise = survey()
    D, _ = gaussian((32, 32))
    A = Lensing(image_shape=(2, 32, 32))
    solver = SplitGibbs(iterations=12, sigma=0.05, burn_in=3)
    whole = solver.run(q, A, D, noise=noise, progress=False)
    half = SplitGibbs(iterations=7, sigma=0.05, burn_in=3).run(q, A, D, noise=noise, progress=False)
    again = solver.run(q, A, D, noise=noise, state=half.state, progress=False)
    assert torch.equal(whole.x, again.x)
    assert torch.equal(whole.state.std, again.state.std)
    assert not torch.equal(
        whole.x,
        SplitGibbs(iterations=12, sigma=0.05, burn_in=3, seed=1)
        .run(q, A, D, noise=noise, progress=False)
        .x,
    )
    both = solver.run(torch.cat([q, 0 * q]), A, D, noise=noise, progress=False)
    assert torch.allclose(both.x[:1], whole.x, atol=1e-12)


def test_mean_and_deviation_are_those_of_the_draws():
    q, noise = survey()
    D, _ = gaussian((32, 32))
    draws = []
    solver = SplitGibbs(iterations=9, sigma=0.05, burn_in=2)
    result = solver.run(
        q,
        Lensing(image_shape=(2, 32, 32)),
        D,
        noise=noise,
        callbacks=[lambda s: draws.append(s.z)],
        progress=False,
    )
    kept = torch.stack(draws[2:])
    assert torch.allclose(result.x, kept.mean(0), atol=1e-12)
    assert torch.allclose(result.state.std, kept.std(0), atol=1e-12)
    assert torch.equal(
        SplitGibbs(iterations=2, burn_in=5, sigma=0.05)
        .run(q, Lensing(image_shape=(2, 32, 32)), D, noise=noise, progress=False)
        .x,
        draws[1],
    )


def test_remaining_noise():
    noise = torch.tensor([0.5, 0.1, 0.01, torch.inf])
    assert remaining(0.5, 0.3) == pytest.approx(0.4)
    assert torch.allclose(remaining(noise, 0.3), torch.tensor([0.4, 0.03, 0.03, torch.inf]))
    assert remaining(0.1, 0.3) == pytest.approx(0.03)


@pytest.mark.parametrize(
    "bad",
    [
        {"burn_in": -1},
        {"burn_in": 1.5},
        {"seed": -1},
        {"seed": True},
        {"seed": 4096},
        {"sigma": 0},
        {"iterations": 0},
    ],
)
def test_settings_that_make_no_sense(bad):
    with pytest.raises(InputError, match=f"SplitGibbs: {next(iter(bad))}"):
        make("split_gibbs", **bad)
    with pytest.raises(InputError, match="noise"):
        SplitGibbs().run(
            torch.zeros(1, 1, 4, 4), Mask(torch.ones(4, 4)), lambda x, s: x, progress=False
        )
