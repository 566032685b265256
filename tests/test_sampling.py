"""Samplers on Gaussian posteriors, whose means and covariances are known, those of the discretised
chains too; streaming; resuming.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from pnp_mlpatch import reconstruct, solvers
from pnp_mlpatch.errors import Diverged, InputError, InputTypeError
from pnp_mlpatch.operators.blur import Blur, gaussian_psf
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.solvers import Result, make_problem
from pnp_mlpatch.solvers._langevin import follow, start
from pnp_mlpatch.solvers.skrock import chebyshev, longest
from pnp_mlpatch.uncertainty import chi2_uniform, ranks

H, W = 6, 5
PIXELS = H * W
NOISE, SIGMA = 0.5, 0.6
NAMES = ["ula", "skrock"]


def spectrum(like):
    """The variances of the prior at each frequency, (H, W): 1 / (2 + eigenvalue of
    the Laplacian).
    """
    rows, cols = (
        2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64))
        for n in like.shape[-2:]
    )
    return (1 / (2 + rows[:, None] + cols)).to(like)


def wiener(x, sigma):
    """The denoiser of Gaussian images: Sigma (Sigma + sigma^2)^-1 x."""
    prior = spectrum(x)
    variance = torch.as_tensor(sigma, dtype=x.dtype).square().reshape(-1, 1, 1, 1)
    return torch.fft.ifft2(torch.fft.fft2(x) * prior / (prior + variance)).real


def posterior(chains=1, sigma=SIGMA):
    """A mask, data, the precision P of the posterior of one chain, its mean and covariance; all
    channels have the same data.
    """
    A = Mask(random_mask((H, W), keep=0.6, seed=2), channels=chains)
    q = A(
        2
        * torch.randn(
            1, 1, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        ).expand(1, chains, H, W)
    )
    eye = torch.eye(PIXELS, dtype=torch.float64).reshape(PIXELS, 1, H, W)
    D = wiener(eye, sigma).flatten(1)
    seen = A.mask.expand(chains, H, W)[0].flatten().double()
    P = torch.diag(seen) / NOISE**2 + (torch.eye(PIXELS, dtype=torch.float64) - D) / sigma**2
    return SimpleNamespace(
        A=A,
        q=q,
        P=P,
        cov=torch.linalg.inv(P),
        mean=torch.linalg.solve(P, q[0, 0].flatten() / NOISE**2),
    )


def of_eigenvalues(P, function):
    values, vectors = torch.linalg.eigh(P)
    return vectors @ torch.diag(function(values)) @ vectors.T


def ula_covariance(P, delta):
    return torch.linalg.inv(P @ (torch.eye(len(P)) - delta * P / 2))


def skrock_covariance(P, delta, stages):
    """By the polynomials in closed form: cos and cosh of multiples, with T_s and U_(s-1) the
    Chebyshev polynomials.
    """
    _, w_1 = chebyshev(stages)
    w_0 = 1 + 0.05 / stages**2

    def T(z):
        z = torch.as_tensor(z, dtype=torch.float64)
        return torch.where(
            z.abs() <= 1,
            torch.cos(stages * torch.acos(z.clamp(-1, 1))),
            torch.cosh(stages * torch.acosh(z.clamp_min(1))),
        )

    def U(z):
        z = torch.as_tensor(z, dtype=torch.float64)
        angle, outside = torch.acos(z.clamp(-1, 1)), torch.acosh(z.clamp_min(1))
        return torch.where(
            z.abs() <= 1,
            torch.sin(stages * angle) / torch.sin(angle),
            torch.sinh(stages * outside) / torch.sinh(outside),
        )

    def variance(p):
        z = w_0 - w_1 * delta * p
        step = T(z) / T(w_0)
        noise = U(z) / U(w_0) * (1 - w_1 * delta * p / 2)
        return 2 * delta * noise**2 / (1 - step**2)

    return of_eigenvalues(P, variance)


def sampled(problem, name, **settings):
    """The state, and that of the squared deviations of the samples from the exact mean, of which
    the variance is the mean.
    """
    mean, squares = problem.mean.reshape(H, W), []

    def follow_squares(state):
        if state.count:
            before = (
                squares.pop()
                if squares
                else start(make_problem(problem.q, problem.A, NOISE), problem.q)
            )
            squares.append(follow(before, (state.sample - mean).square(), 0, 32))

    settings |= {"noise": NOISE, "sigma": SIGMA, "progress": False, "callbacks": [follow_squares]}
    return reconstruct(problem.q, problem.A, wiener, name, **settings).state, squares[0]


def in_standard_errors(states, mean, covariance):
    """Errors of mean and variance, averaged over the chains, over their standard errors by the
    effective sample size, for each pixel.
    """
    errors = []
    for state, exact in zip(states, (mean, covariance.diagonal()), strict=True):
        width = (state.std.square() / state.effective_samples).sum(1)[0].sqrt() / state.x.shape[1]
        errors.append((state.x.mean(1)[0] - exact.reshape(H, W)) / width)
    return errors


# ---- known answers


CHAINS = [
    ("ula", {"delta": 0.15, "iterations": 900, "burn_in": 200}),
    ("ula", {"iterations": 1400, "burn_in": 400}),
    ("skrock", {"stages": 5, "iterations": 360, "burn_in": 60}),
    ("skrock", {"stages": 10, "delta": 8.0, "iterations": 420, "burn_in": 60}),
    ("skrock", {"stages": 2, "delta": 0.3, "iterations": 700, "burn_in": 200}),
]


def covariance_of(name, settings, P, delta):
    return (
        ula_covariance(P, delta)
        if name == "ula"
        else skrock_covariance(P, delta, settings["stages"])
    )


@pytest.mark.parametrize(("name", "settings"), CHAINS)
def test_mean_and_variance_are_those_of_the_discretised_chain(name, settings):
    problem = posterior(chains=96)
    states = sampled(problem, name, **settings)
    delta = settings.get("delta")
    if delta is None:
        L = 1 / NOISE**2 + 1 / SIGMA**2
        delta = (
            1 / (3 * L)
            if name == "ula"
            else min(0.8 * longest(settings["stages"]) / L, 4 * SIGMA**2)
        )
    of_mean, of_variance = in_standard_errors(
        states, problem.mean, covariance_of(name, settings, problem.P, delta)
    )
    assert float(of_mean.abs().max()) < 3
    assert float(of_variance.abs().max()) < 3
    assert float(of_mean.square().mean()) > 0.2  # the standard errors are not just large
    assert float(in_standard_errors(states, problem.mean, 1.3 * problem.cov)[1].abs().max()) > 5
    assert float(in_standard_errors(states, problem.mean + 0.1, problem.cov)[0].abs().max()) > 5


def test_long_steps_make_ula_too_wide_and_skrock_too_narrow():
    """What the docstrings say of the discretisation, seen in the samples: the errors against the
    exact posterior are far beyond chance.
    """
    problem = posterior(chains=96)
    wide = in_standard_errors(
        sampled(problem, "ula", delta=0.15, iterations=650, burn_in=200), problem.mean, problem.cov
    )
    narrow = in_standard_errors(
        sampled(problem, "skrock", stages=10, delta=8.0, iterations=180, burn_in=40),
        problem.mean,
        problem.cov,
    )
    assert float(wide[1].mean()) > 5
    assert float(narrow[1].mean()) < -5
    assert float(wide[0].square().mean()) < 2
    assert float(narrow[0].square().mean()) < 2


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(
            "ula", {"delta": 0.006, "iterations": 8000, "burn_in": 600}, marks=pytest.mark.slow
        ),
        ("skrock", {"stages": 3, "delta": 0.04, "iterations": 2500, "burn_in": 150}),
    ],
)
def test_with_small_steps_it_is_the_posterior(name, settings):
    problem = posterior(chains=6)
    exact = (
        covariance_of(name, settings, problem.P, settings["delta"]).diagonal()
        / problem.cov.diagonal()
    )
    assert float((exact - 1).abs().max()) < 0.03
    of_mean, of_variance = in_standard_errors(
        sampled(problem, name, **settings), problem.mean, problem.cov
    )
    assert float(of_mean.abs().max()) < 3
    assert float(of_variance.abs().max()) < 3


@pytest.fixture(scope="module")
def drawn():
    """Each of 1200 channels: an image drawn from the prior, data of it, a chain; 19 samples of one
    pixel.
    """
    chains, keep = 1200, 10
    generator = torch.Generator().manual_seed(5)
    like = torch.zeros(1, chains, H, W)
    width = (spectrum(like) + SIGMA**2).sqrt()  # the prior has the noise of sigma added
    truth = torch.fft.ifft2(
        torch.fft.fft2(torch.randn(like.shape, generator=generator)) * width
    ).real
    A = Blur(gaussian_psf(0.6), (chains, H, W))
    q = A(truth) + NOISE * torch.randn(truth.shape, generator=generator)
    solver = solvers.make(
        "skrock", sigma=SIGMA, stages=4, delta=0.2, burn_in=40, iterations=40 + 19 * 32, keep=keep
    )
    state = solver.run(q, A, wiener, noise=NOISE, progress=False).state
    assert state.thinning == 32
    assert len(state.samples) == 19
    return SimpleNamespace(
        samples=state.samples[:, 0, :, 3, 2], mean=state.x[0, :, 3, 2], truth=truth[0, :, 3, 2]
    )


def test_ranks_of_the_truth_are_uniform(drawn):
    assert chi2_uniform(ranks(drawn.samples, drawn.truth), 19) > 1e-3


@pytest.mark.parametrize("scale", [0.75, 1.35])
def test_ranks_see_samples_that_are_too_narrow_or_too_wide(drawn, scale):
    changed = drawn.mean + scale * (drawn.samples - drawn.mean)
    assert chi2_uniform(ranks(changed, drawn.truth), 19) < 1e-3


def test_effective_samples_against_theory():
    """White prior and data: each pixel is an autoregression with phi = 1 - delta p, of n (1 - phi)
    / (1 + phi) effective samples.
    """
    A, q = Identity((1, 48, 48)), torch.zeros(1, 1, 48, 48)

    def D(x, sigma):
        return x / (1 + sigma**2)

    p = 1 / NOISE**2 + 1 / (1 + SIGMA**2)
    for phi in (0.0, 0.8):
        state = reconstruct(
            q,
            A,
            D,
            "ula",
            noise=NOISE,
            sigma=SIGMA,
            delta=(1 - phi) / p,
            iterations=4050,
            burn_in=50,
            progress=False,
        ).state
        n = state.count * (1 - phi) / (1 + phi)
        assert float(state.effective_samples.mean()) == pytest.approx(n, rel=0.06)
        means = (
            state.x.square().mean().sqrt()
        )  # the true mean is 0: its scatter over the pixels is the error
        assert float(means) == pytest.approx(
            float((state.std.square() / state.effective_samples).mean().sqrt()), rel=0.1
        )


def test_the_box_holds_what_the_prior_does_not():
    """No data but at one pixel, a flat prior: without a box the variance grows with the chain, with
    one it stays near that of the box.
    """
    A = Mask(torch.arange(20).eq(0).expand(1, 1, 20))
    q = torch.full((1, 1, 1, 20), 0.5) * A.mask

    def run(box):
        return reconstruct(
            q,
            A,
            lambda x, sigma: x,
            "ula",
            noise=0.1,
            sigma=0.1,
            delta=3e-3,
            iterations=3000,
            burn_in=200,
            box=box,
            progress=False,
        ).state

    assert float(run(None).std[..., 1:].mean()) > 0.6
    state = run((0.0, 1.0))
    assert float(state.std[..., 1:].mean()) == pytest.approx(
        0.33, abs=0.04
    )  # (1 / 12 + ...)^1/2: uniform with Gaussian ends
    assert float(state.x[..., 1:].mean()) == pytest.approx(0.5, abs=0.1)


# ---- streaming


def fed(draws, keep, burn_in=0):
    problem = make_problem(torch.zeros(2, 1, 3, 4), Identity((1, 3, 4)), 1.0)
    state = start(problem, torch.zeros(2, 1, 3, 4))
    for draw in draws:
        state = follow(state, draw, burn_in, keep)
    return state


def draws_of(n):
    return (
        torch.randn(n, 2, 1, 3, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
        + 3
    )


def test_mean_deviation_and_quantiles_are_those_of_all_samples():
    draws = draws_of(90)
    state = fed(draws, keep=64, burn_in=10)
    assert torch.equal(state.samples, draws[10:])
    assert torch.allclose(state.x, draws[10:].mean(0), atol=1e-12)
    assert torch.allclose(state.std, draws[10:].std(0), atol=1e-12)
    for p in (0, 0.05, 0.5, 0.731, 1):
        assert torch.allclose(state.quantile(p), torch.quantile(draws[10:], p, dim=0), atol=1e-12)


def test_memory_is_bounded_and_what_is_kept_is_evenly_spaced():
    draws = draws_of(3000)
    state, keep = fed(draws[:0], 16), 16
    for n, draw in enumerate(draws, 1):
        state = follow(state, draw, 0, keep)
        assert state.kept.shape[1] <= 2 * keep - 1
        assert state.batches.shape[1] <= 31
        assert n < keep or state.kept.shape[1] >= keep
    t, b = state.thinning, state.batch_size
    assert t == 128
    assert torch.equal(state.samples, draws[t - 1 :: t])
    whole = draws[: len(draws) // b * b].reshape(-1, b, *draws.shape[1:]).mean(1)
    assert torch.allclose(state.batches.transpose(0, 1), whole, atol=1e-12)
    assert torch.allclose(state.partial, draws[len(whole) * b :].sum(0), atol=1e-10)
    assert torch.allclose(state.x, draws.mean(0), atol=1e-12)
    assert torch.allclose(state.std, draws.std(0), atol=1e-12)
    error = (state.quantile(0.9) - torch.quantile(draws, 0.9, dim=0)).abs().mean()
    assert 0 < float(error) < 0.35  # 23 samples of 3000


def test_independent_draws_are_worth_their_number():
    state = fed(draws_of(4000), keep=128)
    assert float(state.effective_samples.mean()) == pytest.approx(4000, rel=0.1)
    constant = fed(torch.ones(40, 2, 1, 3, 4, dtype=torch.float64), keep=8)
    assert bool((constant.effective_samples == 40).all())
    assert bool(fed(draws_of(15), keep=8).effective_samples.isnan().all())


def test_before_the_burn_in_ends():
    draws = draws_of(5)
    state = fed(draws, keep=4, burn_in=5)
    assert torch.equal(state.x, draws[-1])
    assert len(state.samples) == state.count == 0
    assert not state.std.any()
    with pytest.raises(InputError, match="quantile: no sample is kept yet, all steps were burn-in"):
        state.quantile(0.5)
    state = follow(state, draws[0], 5, 4)
    assert torch.equal(state.quantile(0.3), draws[0])
    for bad in (-0.1, 1.1, "0.5", math.nan):
        with pytest.raises(InputError, match="quantile: p must be a number from 0 to 1"):
            state.quantile(bad)


# ---- resuming, batches


def run(name, q=None, noise=NOISE, state=None, x0=None, callbacks=(), **settings):
    problem = posterior()
    settings = {"iterations": 90, "burn_in": 10, "keep": 4, "sigma": SIGMA} | settings
    q = problem.q if q is None else q
    return solvers.make(name, **settings).run(
        q, problem.A, wiener, noise=noise, state=state, x0=x0, callbacks=callbacks, progress=False
    )


def same(a, b):
    return all(
        torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
        for x, y in ((getattr(a, f), getattr(b, f)) for f in a.__dataclass_fields__)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", [3, 10, 11, 47])
def test_a_killed_run_goes_on_to_the_same_bits(name, after, tmp_path):
    class Killed(Exception):
        pass

    def save_and_die(state):
        if state.iteration == after:
            state.save(tmp_path / "state.pt")
            raise Killed

    whole = run(name)
    with pytest.raises(Killed):
        run(name, callbacks=[save_and_die])
    again = run(name, state=solvers.get(name).load_state(tmp_path / "state.pt"))
    assert same(whole.state, again.state)
    whole.save(tmp_path / "result.pt")
    back = Result.load(tmp_path / "result.pt")
    assert same(back.state, whole.state)
    assert torch.equal(back.state.effective_samples, whole.state.effective_samples)


@pytest.mark.parametrize("name", NAMES)
def test_random_numbers_are_those_of_the_seed(name):
    first = run(name).x
    assert torch.equal(first, run(name).x)
    seeds = [run(name, seed=seed).x for seed in (1, 4096, 2**40)]  # torch would take 2^40 for 0
    assert all(not torch.allclose(first, other, atol=1e-3) for other in seeds)


@pytest.mark.parametrize("name", NAMES)
def test_images_with_levels_of_their_own(name):
    q = torch.cat([posterior().q * k for k in (1, 2, -1)])
    noise, sigma, delta = (
        torch.tensor([0.3, 0.5, 0.8]),
        torch.tensor([0.6, 0.4, 0.9]),
        torch.tensor([0.02, 0.04, 0.01]),
    )
    for settings in ({}, {"delta": delta}, {"box": (-1.0, 1.0)}):
        together = run(name, q, noise, sigma=sigma, **settings)
        assert together.state.samples.shape[1:] == q.shape
        for k in range(3):
            own = settings | ({"delta": float(delta[k])} if "delta" in settings else {})
            alone = run(name, q[k : k + 1], float(noise[k]), sigma=float(sigma[k]), **own)
            for one, all_ in zip(
                (alone.x, alone.state.std, alone.state.samples[-1]),
                (together.x, together.state.std, together.state.samples[-1]),
                strict=True,
            ):
                assert torch.allclose(one, all_[k : k + 1], atol=1e-5)
    assert (
        len(
            {
                float(v)
                for v in solvers.make(name, sigma=sigma)
                .levels(make_problem(q, posterior().A, noise), together.state)["delta"]
                .flatten()
            }
        )
        == 3
    )


@pytest.mark.parametrize("name", NAMES)
def test_noise_maps(name):
    """One map is whitening; with a map for each image, each has its own delta, as if
    it were alone.
    """
    problem = posterior()
    q = torch.cat([problem.q, 2 * problem.q])
    noise = 0.3 + torch.rand(
        2, 1, H, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ) * torch.tensor([1.0, 9.0]).reshape(2, 1, 1, 1)
    noise[:, :, 0, 0] = torch.inf
    together = run(name, q, noise, x0=torch.zeros_like(q))
    for k in range(2):
        alone = run(name, q[k : k + 1], noise[k], x0=torch.zeros_like(q[:1]))
        assert torch.allclose(together.x[k : k + 1], alone.x, atol=1e-5)
    weights = torch.where(torch.isinf(noise[0]), 0.0, 1 / noise[0])
    by_hand = solvers.make(name, iterations=90, burn_in=10, keep=4, sigma=SIGMA).run(
        q[:1] * weights,
        Mask(problem.A.mask * weights),
        wiener,
        noise=1.0,
        x0=torch.zeros_like(q[:1]),
        progress=False,
    )
    by_map = solvers.make(name, iterations=90, burn_in=10, keep=4, sigma=SIGMA).run(
        q[:1], problem.A, wiener, noise=noise[0], x0=torch.zeros_like(q[:1]), progress=False
    )
    assert torch.allclose(by_hand.x, by_map.x, atol=1e-5)


def test_a_chain_of_one_goes_on_with_the_other_and_levels_fall_in_the_burn_in():
    levels = (1.2, 0.9, SIGMA)
    first = run("ula", iterations=20, sigma=levels)
    assert first.history["sigma"][:4] == pytest.approx([1.2, 0.9, SIGMA, SIGMA])
    assert first.history["delta"][0] > first.history["delta"][3]
    rest = run("skrock", state=first.state)
    assert rest.state.count == 80


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_stop_together(name):
    q = torch.cat([posterior().q, 100 * posterior().q])
    result = run(name, q, iterations=5000, tol=2e-3)
    assert result.status == "converged"
    assert result.state.iteration < 5000
    assert result.state.kept.shape[0] == 2


# ---- what goes wrong


@pytest.mark.parametrize(("name", "factor"), [("ula", 2.0), ("skrock", longest(5))])
def test_a_step_that_is_too_long_diverges(name, factor):
    """Just below the stable limit of the stiffest direction it stays, above it does not."""
    stiffest = float(torch.linalg.eigvalsh(posterior().P).max())
    assert torch.isfinite(run(name, delta=0.95 * factor / stiffest, iterations=600).x).all()
    with pytest.raises(Diverged, match="Likely causes: a step size"):
        run(name, delta=1.3 * factor / stiffest, iterations=600)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ({"delta": 0}, InputError, "delta must be finite and > 0, got 0"),
        ({"delta": "long"}, InputTypeError, "delta must be a number, got 'long'"),
        (
            {"delta": [0.1, 0.2]},
            InputTypeError,
            r"delta must be a number or a tensor \(B,\), got \[0.1, 0.2\]",
        ),
        ({"burn_in": -1}, InputError, "burn_in must be an integer >= 0, got -1"),
        ({"seed": 1.5}, InputError, "seed must be an integer >= 0, got 1.5"),
        ({"keep": 0}, InputError, "keep must be an integer >= 1, got 0"),
        ({"keep": True}, InputError, "keep must be an integer >= 1, got True"),
        ({"box": (1, 0)}, InputError, r"box must be None or \(low, high\), .* got \(1, 0\)"),
        ({"box": 1.0}, InputError, "box must be None"),
        (
            {"sigma": [0.3, 0.2, 0.1], "burn_in": 1},
            InputError,
            "the 3 levels of sigma must end with the burn-in.* Set burn_in to 2 or more",
        ),
        ({"sigma": 0.0}, InputError, "sigma must be finite and > 0"),
    ],
)
def test_settings_that_make_no_sense(name, bad, error, words):
    with pytest.raises(error, match=f"{'ULA' if name == 'ula' else 'SKROCK'}: .*{words}"):
        solvers.make(name, **bad)


@pytest.mark.parametrize("name", NAMES)
def test_levels_that_do_not_fit_the_batch(name):
    for bad in ({"sigma": torch.ones(3)}, {"delta": torch.ones(3)}):
        with pytest.raises(
            InputError, match=rf"{next(iter(bad))} must be a number or of shape \(1,\), got \(3,\)"
        ):
            run(name, **bad)
    with pytest.raises(InputError, match="the noise level of the data is needed"):
        run(name, noise=None)
    for stages in (1, 2.0, True):
        with pytest.raises(InputError, match="SKROCK: stages must be an integer >= 2"):
            solvers.make("skrock", stages=stages)
