"""chi2 is 1 for the truth; alpha is halved for the images that do not meet their data, and for no
others.
"""

from __future__ import annotations

import math

import pytest
import torch

from pnp_mlpatch import denoisers, solvers
from pnp_mlpatch.ct import ParallelBeam
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.blur import Blur
from pnp_mlpatch.operators.identity import Identity
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.tuning import chi2, cross_validate, discrepancy, recipe

SIZE = 32


@pytest.fixture(scope="module")
def truth():
    """A smooth image and a rough one."""
    ramp = torch.linspace(0.2, 0.8, SIZE).repeat(SIZE, 1)
    rough = (torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(1)) > 0.5).float()
    return torch.stack([ramp, 0.5 * ramp + 0.5 * rough])[:, None]


def noisy(A, truth, noise, seed=0):
    y = A(truth)
    return y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(seed))


def too_smooth(x, sigma):
    """A denoiser that knows smooth images only: the mean over 5 x 5 pixels."""
    return torch.nn.functional.avg_pool2d(
        torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect"), 5, stride=1
    )


def mostly_smooth(x, sigma):
    """A linear denoiser of finite strength, so that it counts what alpha is."""
    return 0.2 * x + 0.8 * too_smooth(x, sigma)


OPERATORS = {
    "mask": lambda: Mask(random_mask((SIZE, SIZE), keep=0.5)),
    "blur": Blur.example,
    "radon": lambda: Radon(ParallelBeam((SIZE, SIZE), 24), cache=False),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_chi2_of_the_truth_is_one(name):
    A = OPERATORS[name]()
    x = torch.rand(3, *A.image_shape, generator=torch.Generator().manual_seed(0))
    seen = (
        A(torch.ones_like(x)) != 0
        if name == "mask"
        else torch.ones(3, *A.data_shape, dtype=torch.bool)
    )
    noise = torch.where(seen, torch.full(seen.shape, 0.1), torch.tensor(math.inf))
    q = noisy(A, x, 0.1)
    found = chi2(q, A, x, noise)
    assert found.shape == (3,)
    assert float((found - 1).abs().max()) < 4 * math.sqrt(2 / int(seen[0].sum()))


def test_chi2_counts_what_the_operator_sees():
    """The gaps of a mask are data without noise; rays beside the image are noise alone."""
    A = OPERATORS["mask"]()
    x = torch.rand(3, *A.image_shape, generator=torch.Generator().manual_seed(0))
    seen = A(torch.ones_like(x)) != 0
    found = chi2(torch.where(seen, noisy(A, x, 0.1), 0), A, x, 0.1)
    assert float((found - 1).abs().max()) < 4 * math.sqrt(2 / int(seen[0].sum()))
    R = Radon(ParallelBeam((SIZE, SIZE), 20, detectors=4 * SIZE), cache=False)
    x = torch.rand(3, *R.image_shape, generator=torch.Generator().manual_seed(0))
    found = chi2(noisy(R, x, 0.1), R, x, 0.1)
    m = int((R(torch.ones(1, *R.image_shape)) > 0).sum())
    assert m < R(x)[0].numel() / 2
    assert float((found - 1).abs().max()) < 4 * math.sqrt(2 / m)


def test_chi2_takes_numbers_images_and_maps(truth):
    A = Identity((1, SIZE, SIZE))
    q = noisy(A, truth, 0.1)
    one = chi2(q, A, truth, 0.1)
    assert torch.allclose(
        chi2(q, A, truth, torch.tensor([0.1, 0.2])), one * torch.tensor([1, 0.25])
    )
    assert torch.allclose(chi2(q, A, truth, torch.full((1, SIZE, SIZE), 0.1)), one)
    each = torch.tensor([0.1, 0.2])[:, None, None, None].expand(2, 1, SIZE, SIZE)
    assert torch.allclose(chi2(q, A, truth, each), one * torch.tensor([1, 0.25]))


def test_chi2_leaves_out_what_was_not_measured(truth):
    A = Identity((1, SIZE, SIZE))
    q = noisy(A, truth, 0.1)
    noise = torch.full((1, SIZE, SIZE), 0.1)
    noise[..., 10:] = math.inf
    expected = (q - truth)[..., :10].square().flatten(1).mean(1) / 0.01
    q[..., 10:] = math.nan
    assert torch.allclose(chi2(q, A, truth, noise), expected)


def test_alpha_is_halved_where_the_data_are_not_met(truth):
    A = Identity((1, SIZE, SIZE))
    q = noisy(A, truth, 0.1)
    solver = solvers.make("fast_admm", sigma=0.1, iterations=10, tol=0)
    found = discrepancy(
        q, A, mostly_smooth, solver, noise=0.1, lowest=0.1, iterations=5, progress=False
    )
    assert found.alpha_scale.tolist() == [1.0, 0.125]
    first = solver.run(q, A, mostly_smooth, noise=0.1, progress=False)
    assert torch.equal(found.x[0], first.x[0])
    assert float(found.chi2[0]) < 1
    assert torch.allclose(found.chi2, chi2(q, A, found.x, 0.1))
    assert float(found.chi2[1]) < 0.7 * float(chi2(q, A, first.x, 0.1)[1])
    assert [result.state.iteration for result in found.runs] == [10, 5, 5, 5]
    assert [result.history["alpha"][0] for result in found.runs] == pytest.approx(
        [1, 0.75, 0.625, 0.5625]
    )  # means of both images


@pytest.mark.parametrize("name", ["admm", "fast_admm", "hqs"])
@pytest.mark.parametrize("level", [0.1, (0.3, 0.2, 0.1)])
def test_images_of_a_batch_do_not_see_each_other(truth, name, level):
    A = Mask(random_mask((SIZE, SIZE), keep=0.7))
    noise = torch.full((2, *A.data_shape), 0.1)
    noise[1, ..., :4] = math.inf
    q = noisy(A, truth, 0.1)
    solver = solvers.make(name, sigma=level, iterations=6, tol=0)
    x0 = torch.full_like(truth, 0.5)
    together = discrepancy(
        q, A, mostly_smooth, solver, noise=noise, x0=x0, iterations=4, progress=False
    )
    for k in range(2):
        one = slice(k, k + 1)
        alone = discrepancy(
            q[one],
            A,
            mostly_smooth,
            solver,
            noise=noise[one],
            x0=x0[one],
            iterations=4,
            progress=False,
        )
        assert torch.equal(alone.alpha_scale, together.alpha_scale[one])
        assert torch.allclose(alone.x, together.x[one], atol=1e-6)
        assert torch.allclose(alone.chi2, together.chi2[one], rtol=1e-5)


def test_the_levels_of_the_last_step_are_held(truth):
    A = Identity((1, SIZE, SIZE))
    seen = []

    def watched(x, sigma):
        seen.append(float(sigma))
        return mostly_smooth(x, sigma)

    solver = solvers.make("hqs", sigma=(0.3, 0.2, 0.1), iterations=3, alpha_scale=0.5)
    found = discrepancy(
        noisy(A, truth, 0.1),
        A,
        watched,
        solver,
        noise=0.1,
        lowest=0.25,
        iterations=2,
        progress=False,
    )
    assert seen == pytest.approx([0.3, 0.2, 0.1, 0.1, 0.1, 0.1, 0.1])
    # the mean over the images, of which the rough one alone is lowered
    assert [run.history["alpha"] for run in found.runs[1:]] == [[0.375, 0.375], [0.3125, 0.3125]]


def test_where_alpha_changes_nothing_it_stays(truth):
    A = Identity((1, SIZE, SIZE))
    solver = solvers.make("hqs", sigma=0.1, iterations=3, alpha_scale=0.5)
    found = discrepancy(
        noisy(A, truth, 0.1), A, too_smooth, solver, noise=0.1, iterations=2, progress=False
    )
    assert found.alpha_scale.tolist() == [1, 1]
    assert [run.history["alpha"] for run in found.runs[1:]] == [[0.25, 0.25]]


def test_alpha_given_is_the_one_that_is_lowered(truth):
    A = Identity((1, SIZE, SIZE))
    solver = solvers.make("admm", alpha=3.0, iterations=5, tol=0)
    settings = {"noise": 0.1, "iterations": 3, "progress": False}
    q = noisy(A, truth, 0.1)[1:]
    once = discrepancy(q, A, mostly_smooth, solver, **settings)
    assert [result.history["alpha"][0] for result in once.runs] == [3.0, 1.5]
    found = discrepancy(q, A, mostly_smooth, solver, lowest=0.25, **settings)
    assert [result.history["alpha"][0] for result in found.runs] == [3.0, 1.5, 0.75]


def test_a_start_is_taken(truth):
    A = Identity((1, SIZE, SIZE))
    solver = solvers.make("fast_admm", sigma=0.1, iterations=1, tol=0)
    q = noisy(A, truth, 0.1)
    found = discrepancy(q, A, denoisers.make("tv"), solver, noise=0.1, x0=truth, progress=False)
    assert torch.equal(
        found.runs[0].x,
        solver.run(q, A, denoisers.make("tv"), noise=0.1, x0=truth, progress=False).x,
    )


def test_the_recipe(truth):
    """A level for each image, a start by TV, then the discrepancy; as written in a few lines by
    hand.
    """
    A = Radon(ParallelBeam((SIZE, SIZE), 40), cache=False)
    noise = torch.tensor([0.2, 1.0])
    q = A(truth) + noise[:, None, None, None] * torch.randn(
        2, *A.data_shape, generator=torch.Generator().manual_seed(0)
    )
    sigma = schedules.from_noise(A, noise)
    steps = []
    found = recipe(
        q,
        A,
        mostly_smooth,
        noise=noise,
        sigma=sigma,
        callbacks=[lambda state: steps.append(state.iteration)],
        progress=False,
    )
    tv = solvers.make("fast_admm", sigma=sigma, iterations=150, tol=5e-4)
    start = tv.run(q, A, denoisers.make("tv", strength=2.0), noise=noise, progress=False).x
    solver = solvers.make("fast_admm", sigma=sigma, iterations=40, tol=3e-4)
    expected = discrepancy(q, A, mostly_smooth, solver, noise=noise, x0=start, progress=False)
    assert torch.equal(found.x, expected.x)
    assert torch.equal(found.alpha_scale, expected.alpha_scale)
    assert len(steps) == sum(run.state.iteration for run in found.runs)
    once = recipe(q, A, mostly_smooth, noise=noise, sigma=sigma, lowest=1.0, progress=False)
    assert once.alpha_scale.tolist() == [1, 1]
    assert len(once.runs) == 1


def test_refusals(truth):
    A = Identity((1, SIZE, SIZE))
    q = A(truth)
    with pytest.raises(
        InputError,
        match=r"discrepancy: PGD has no setting alpha to lower. Use a solver with one, such as "
        r"admm",
    ):
        discrepancy(q, A, too_smooth, solvers.make("pgd"), noise=0.1)
    with pytest.raises(
        InputTypeError, match=r"discrepancy: solver must be a Solver object, .* got 'admm'"
    ):
        discrepancy(q, A, too_smooth, "admm", noise=0.1)
    for lowest in (0.0, 2.0, math.nan, True, "a"):
        with pytest.raises(InputError, match=r"discrepancy: lowest must be a number in \(0, 1\]"):
            discrepancy(q, A, too_smooth, solvers.make("admm"), noise=0.1, lowest=lowest)
    for iterations in (0, 1.5, True):
        with pytest.raises(InputError, match="discrepancy: iterations must be an integer >= 1"):
            discrepancy(q, A, too_smooth, solvers.make("admm"), noise=0.1, iterations=iterations)
    with pytest.raises(InputError, match="discrepancy: the noise level of the data is needed"):
        discrepancy(q, A, too_smooth, solvers.make("admm"), noise=None)
    with pytest.raises(InputError, match="chi2: the noise level of the data is needed"):
        chi2(q, A, truth, None)
    with pytest.raises(InputError, match="noise is a standard deviation, finite and > 0"):
        chi2(q, A, truth, 0.0)
    with pytest.raises(InputError, match="image"):
        chi2(q, A, truth[..., :5], 0.1)


# ---- cross-validation


def spectrum(shape):
    """The variances of the modes of images of standard deviation 1 with the covariance (0.05 -
    laplacian)^-2.
    """
    rows, cols = (
        2 - 2 * torch.cos(2 * math.pi * torch.fft.fftfreq(n, dtype=torch.float64))
        for n in shape[-2:]
    )
    values = 1 / (0.05 + rows[:, None] + cols) ** 2
    return values / values.mean()


def prior(x, sigma):
    """The proximal map of 0.1 sigma times the true prior: with alpha = (noise / sigma)^2 the
    balance is right at sigma = 0.1.
    """
    values = spectrum(x.shape)
    return torch.fft.ifft2(torch.fft.fft2(x) * (values / (values + 0.1 * sigma)).to(x.dtype)).real


def draws(count=6):
    e = torch.randn(
        count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    return torch.fft.ifft2(torch.fft.fft2(e) * spectrum((SIZE, SIZE)).sqrt()).real


KINDS = {
    "mask": lambda: Mask(random_mask((SIZE, SIZE), keep=0.5)),
    "blur": lambda: Blur(torch.ones(3, 3) / 9, (1, SIZE, SIZE)),
    "radon": lambda: Radon(ParallelBeam((SIZE, SIZE), 16), cache=False),
}


@pytest.mark.parametrize("name", KINDS)
def test_cross_validation_finds_a_level_as_good_as_the_best(name):
    """Six images, levels over two decades, of which the ends are bad: the chosen one costs a tenth
    of the error at most.
    """
    A, x = KINDS[name](), draws()
    noise = (0.5 if name == "mask" else 0.1) * float(A(x).std())
    q = A(x) + noise * torch.randn(
        6, *A.data_shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    q = q * (A(torch.ones_like(x)).abs() > 0)
    sigmas = (0.03, 0.1, 10.0)
    settings = {"iterations": 30, "data_iterations": 4, "tol": 1e-3}
    solver = solvers.make("admm", **settings)
    found = cross_validate(q, A, prior, solver, noise=noise, sigmas=sigmas, folds=2, progress=False)
    runs = [
        solvers.make("admm", sigma=s, **settings).run(q, A, prior, noise=noise, progress=False)
        for s in sigmas
    ]
    errors = torch.stack([(run.x - x).flatten(1).norm(dim=1) for run in runs])
    chosen = errors.gather(0, found.errors.argmin(0)[None])[0]
    assert torch.equal(found.sigma, found.sigmas[found.errors.argmin(0)])
    assert float((chosen / errors.amin(0)).median()) < 1.1
    assert float((errors.amax(0) / errors.amin(0)).min()) > 1.03


def test_cross_validation_is_of_each_image_and_of_what_was_measured():
    A, x = Identity((1, SIZE, SIZE)), draws(2)
    noise = torch.full((SIZE, SIZE), 0.3, dtype=torch.float64)
    noise[:, :5] = torch.inf
    q = noisy(A, x, 0.3)
    wild = torch.where(torch.isinf(noise), 1e6, q)
    solver = solvers.make("admm", iterations=10)
    one, two = (cross_validate(y, A, prior, solver, noise=noise, progress=False) for y in (q, wild))
    assert torch.equal(one.errors, two.errors)
    assert one.errors.shape == (6, 2)
    alone = cross_validate(q[1:], A, prior, solver, noise=noise, progress=False)
    assert torch.allclose(alone.errors[:, 0], one.errors[:, 1])
    both = cross_validate(
        q, A, prior, solver, noise=torch.tensor([0.3, 0.6], dtype=torch.float64), progress=False
    )
    assert both.errors.shape == (6, 2)
    mlpatch = denoisers.make("mlpatch")
    levels = cross_validate(
        q.float().clamp(0, 1),
        A,
        mlpatch,
        solvers.make("admm", iterations=1),
        noise=0.1,
        progress=False,
    ).sigmas
    assert torch.allclose(levels[[0, -1]], torch.tensor([6.0, 60.0]) / 255)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"solver": "admm"}, "solver must be a Solver object"),
        ({"holdout_fraction": 0}, "holdout_fraction must be a number between 0 and 1"),
        ({"holdout_fraction": 1.0}, "holdout_fraction must be a number between 0 and 1"),
        ({"holdout_fraction": 1e-9}, "leaves an image without data to predict"),
        ({"holdout_fraction": 0.5}, "folds must be an integer from 1 to 2"),
        ({"folds": 0}, "folds must be an integer from 1 to 10"),
        ({"sigmas": ()}, "one or more levels"),
        ({"sigmas": (0.1, -1)}, "sigmas must be finite and > 0"),
        ({"noise": None}, "noise"),
    ],
)
def test_what_cannot_be_cross_validated(given, words):
    A, x = Identity((1, 8, 8)), torch.rand(1, 1, 8, 8)
    settings = {"noise": 0.1, "solver": solvers.make("admm"), **given}
    with pytest.raises((InputError, InputTypeError), match=words):
        cross_validate(x, A, too_smooth, settings.pop("solver"), **settings)
