"""Conformal intervals cover what they say, on images they have not seen; ranks and their test; what
is refused.
"""

from __future__ import annotations

import math

import pytest
import torch

from pnp_mlpatch import denoisers, samples, solvers
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.operators.mask import Mask, random_mask
from pnp_mlpatch.uncertainty import Intervals, calibrate, chi2_uniform, coverage, ranks


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- conformal intervals


def test_the_factor_is_the_quantile_with_its_correction():
    """Scores 1 ... 19 at the level 0.9: rank ceil(20 * 0.9) = 18. At 0.95 the 19th; above that,
    there are too few.
    """
    x, std = torch.zeros(1, 1, 1, 19), torch.full((1, 1, 1, 19), 2.0)
    truth = (
        2
        * torch.arange(1.0, 20).reshape(1, 1, 1, 19)[..., torch.randperm(19)]
        * torch.tensor([1.0, -1.0] * 10)[:19]
    )
    assert calibrate(x, std, truth, 0.9) == Intervals(factor=18.0, level=0.9, floor=0.02)
    assert calibrate(x, std, truth, 0.95).factor == 19
    with pytest.raises(
        InputError, match=r"for the level 0\.96, 24 pixels or more are needed, got 19"
    ):
        calibrate(x, std, truth, 0.96)
    low, high = calibrate(x, std, truth, 0.9).interval(x + 1, std)
    assert torch.equal(low, x + 1 - 36)
    assert torch.equal(high, x + 1 + 36)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("wrong", [1.0, 0.2])
def test_gaussian_errors(level, wrong):
    """Whatever std is multiplied by, the coverage is that asked for; with the right std, the factor
    is the Gaussian's quantile.
    """
    std = 0.1 + draw(20, 1, 30, 30, seed=1).abs()
    truth, x = std * draw(20, 1, 30, 30, seed=2), torch.zeros(20, 1, 30, 30, dtype=torch.float64)
    found = calibrate(x[:10], wrong * std[:10], truth[:10], level)
    quantile = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64)))
    assert wrong * found.factor == pytest.approx(quantile, rel=0.03)
    covered = coverage(*found.interval(x[10:], wrong * std[10:]), truth[10:])
    assert covered.shape == (10,)
    assert float(covered.mean()) == pytest.approx(level, abs=0.01)


def test_a_pixel_without_deviation_does_not_decide():
    x, truth, std = (
        torch.zeros(1, 1, 10, 10),
        torch.full((1, 1, 10, 10), 0.5),
        torch.ones(1, 1, 10, 10),
    )
    std[..., 0, :] = 0.0
    found = calibrate(x, std, truth, 0.85)
    assert found.factor == pytest.approx(0.5)
    assert found.floor == pytest.approx(0.01 * math.sqrt(0.9))
    low, high = found.interval(x, std)
    assert float(high[..., 0, :].max()) == pytest.approx(0.5 * found.floor)
    assert float(coverage(low, high, truth)) == pytest.approx(0.9)


def test_coverage_is_of_each_image_and_includes_the_ends():
    truth = torch.tensor([0.0, 1.0, 2.0, 3.0]).reshape(1, 1, 1, 4).repeat(2, 1, 1, 1)
    low, high = torch.full_like(truth, 1.0), torch.full_like(truth, 2.0)
    high[1] = 1.5
    assert coverage(low, high, truth).tolist() == [0.5, 0.25]


def test_samples_of_a_photograph(photo_parts):
    """A photograph in 32 parts, half of their pixels missing: every second part, as on a
    chessboard, calibrates the others.
    """
    truth, x, std = photo_parts
    here = (
        torch.arange(32).reshape(8, 4).add(torch.arange(8)[:, None]).remainder(2).bool().flatten()
    )
    found = calibrate(x[here], std[here], truth[here])
    covered = coverage(*found.interval(x[~here], std[~here]), truth[~here])
    assert float(covered.mean()) == pytest.approx(0.9, abs=0.02)
    raw = coverage(x - 1.645 * std, x + 1.645 * std, truth)
    assert abs(float(raw.mean()) - 0.9) > 0.02  # the deviations alone are not enough
    error = (truth - x).abs()
    assert (
        float(torch.corrcoef(torch.stack([std.flatten(), error.flatten()]))[0, 1]) > 0.3
    )  # they know where the errors are


@pytest.fixture(scope="module")
def photo_parts():
    truth = (
        samples.camera().unfold(2, 32, 64).unfold(3, 32, 128).reshape(32, 1, 32, 32).contiguous()
    )
    A, noise = Mask(random_mask((32, 32), keep=0.5)), 4 / 255
    q = (
        A(truth)
        + noise
        * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
        * A.mask.float()
    )
    solver = solvers.make("skrock", iterations=7, burn_in=2, stages=3, sigma=10 / 255)
    state = solver.run(q, A, denoisers.make("mlpatch"), noise=noise, progress=False).state
    return truth, state.x, state.std


def test_intervals_are_saved(tmp_path):
    found = Intervals(1.7, 0.9, 0.01)
    found.save(tmp_path / "i.json")
    assert Intervals.load(tmp_path / "i.json") == found
    for bad in (
        "",
        "[]",
        '{"factor": 1.0}',
        '{"factor": -1, "level": 0.9, "floor": 0}',
        '{"factor": "1", "level": 0.9, "floor": 0}',
    ):
        (tmp_path / "i.json").write_text(bad)
        with pytest.raises(FileError, match=r"i\.json: not saved intervals .*Calibrate again"):
            Intervals.load(tmp_path / "i.json")
    with pytest.raises(FileError, match=r"none\.json"):
        Intervals.load(tmp_path / "none.json")


# ---- ranks


def test_ranks():
    chain = torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, 4)
    assert ranks(chain, torch.tensor([0.0, 1.5, 2.5, 9.0])).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("width", "shift", "fits"),
    [(1.0, 0.0, True), (0.8, 0.0, False), (1.25, 0.0, False), (1.0, 0.15, False)],
)
@pytest.mark.parametrize(("K", "bins"), [(19, 10), (30, 7)])
def test_ranks_of_draws_are_uniform_and_others_are_found_out(width, shift, fits, K, bins):
    p = chi2_uniform(ranks(shift + width * draw(K, 3000, seed=3), draw(3000, seed=4)), K, bins)
    assert (p > 1e-3) == fits


def test_chi2_against_scipy():
    from scipy.stats import chisquare

    r = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3] * 2)
    assert chi2_uniform(r, 3, 4) == pytest.approx(chisquare([8, 12, 14, 6]).pvalue)
    assert chi2_uniform(r, 3, 3) == pytest.approx(chisquare([20, 14, 6], [20, 10, 10]).pvalue)


# ---- what is refused

GOOD = torch.rand(2, 1, 3, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: calibrate(GOOD, GOOD, GOOD[:1]),
            InputError,
            r"calibrate: x, std, truth must have one shape .*\(1, 1, 3, 4\)",
        ),
        (
            lambda: calibrate(GOOD[0], GOOD[0], GOOD[0]),
            InputError,
            "calibrate: x, std, truth must have one shape",
        ),
        (
            lambda: calibrate(GOOD.numpy(), GOOD, GOOD),
            InputTypeError,
            "calibrate: x must be a torch tensor .*, got ndarray",
        ),
        (
            lambda: calibrate(GOOD, GOOD.int(), GOOD),
            InputTypeError,
            "calibrate: std must be a torch tensor .*, got torch.int32",
        ),
        (
            lambda: calibrate(GOOD, -GOOD, GOOD),
            InputError,
            "calibrate: std is a standard deviation, >= 0; got -",
        ),
        (lambda: calibrate(GOOD, 0 * GOOD, GOOD), InputError, "calibrate: std is 0 everywhere"),
        (
            lambda: calibrate(GOOD, GOOD, GOOD / 0),
            InputError,
            "calibrate: truth holds 24 values that are NaN or infinite",
        ),
        (
            lambda: calibrate(GOOD, GOOD, GOOD, 1.0),
            InputError,
            "calibrate: level must be a number between 0 and 1, .*got 1.0",
        ),
        (
            lambda: calibrate(GOOD, GOOD, GOOD, "90"),
            InputError,
            "calibrate: level must be a number between 0 and 1, .*got '90'",
        ),
        (
            lambda: Intervals(1.0, 0.9, 0.1).interval(GOOD, GOOD[:1]),
            InputError,
            "interval: x, std must have one shape",
        ),
        (
            lambda: coverage(GOOD + 1, GOOD, GOOD),
            InputError,
            "coverage: low must be <= high; it is not at 24 pixels",
        ),
        (
            lambda: coverage(GOOD, GOOD, GOOD[..., 1:]),
            InputError,
            "coverage: low, high, truth must have one shape",
        ),
        (lambda: ranks(GOOD, GOOD), InputError, r"ranks: samples must be \(K, ...\) of a truth"),
        (lambda: ranks(GOOD[:0], GOOD[0]), InputError, r"ranks: samples must be \(K, ...\)"),
        (lambda: ranks([1.0], GOOD), InputTypeError, "ranks: samples must be a torch tensor"),
        (
            lambda: chi2_uniform(GOOD, 9),
            InputTypeError,
            "chi2_uniform: the ranks must be a tensor of integers",
        ),
        (
            lambda: chi2_uniform(torch.arange(100) % 10, 9, 11),
            InputError,
            "chi2_uniform: 9 samples have 10 ranks, too few for 11 bins",
        ),
        (
            lambda: chi2_uniform(torch.arange(100) % 10, 8, 5),
            InputError,
            "chi2_uniform: ranks must be from 0 to samples = 8",
        ),
        (
            lambda: chi2_uniform(torch.arange(40) % 10, 9),
            InputError,
            "chi2_uniform: 5 ranks or more are expected in each bin, here 4",
        ),
        (
            lambda: chi2_uniform(torch.arange(100) % 10, 9.0),
            InputError,
            "chi2_uniform: samples must be an integer >= 1",
        ),
        (
            lambda: chi2_uniform(torch.arange(100) % 10, 9, True),
            InputError,
            "chi2_uniform: bins must be an integer >= 2",
        ),
    ],
)
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()
