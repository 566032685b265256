"""Starlets, MCALens, and halos of dark matter: right values."""

import math

import numpy as np
import pytest
import torch

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing import (
    convergence_spectrum,
    lognormal_convergence,
    mcalens,
    nfw_convergence,
    shear_of,
    starlet,
    wiener,
)
from pnp_mlpatch.lensing.halos import random_halos

PIXEL = "0.5 arcmin"


@pytest.mark.parametrize("shape", [(40, 33), (16, 70)])
def test_starlet_bands_add_up_and_have_no_mean(shape):
    x = torch.rand(2, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bands = starlet(x, 3)
    assert bands.shape == (2, 4, *shape)
    torch.testing.assert_close(bands.sum(dim=1, keepdim=True), x)
    flat = starlet(torch.ones(1, 1, *shape, dtype=torch.float64), 3)
    torch.testing.assert_close(flat[:, :-1], torch.zeros_like(flat[:, :-1]))


def test_starlet_of_a_point_is_the_difference_of_splines():
    x = torch.zeros(1, 1, 33, 33, dtype=torch.float64)
    x[0, 0, 16, 16] = 1
    line = np.array([1, 4, 6, 4, 1]) / 16
    fine = np.pad(-np.outer(line, line), 14)
    fine[16, 16] += 1
    np.testing.assert_allclose(starlet(x, 2)[0, 0], fine, atol=1e-12)


def scene(noise=0.02):
    """A cluster on a log-normal map, its shear with noise, and a mask."""
    kappa = 0.5 * lognormal_convergence((64, 64), PIXEL, seed=1)
    kappa = kappa + nfw_convergence((64, 64), PIXEL, peak=0.8, scale="3 arcmin", core="1 arcmin")
    kappa = kappa - kappa.mean()
    std = torch.full((64, 64), noise)
    std[5:15, 40:50] = torch.inf
    seen = torch.isfinite(std)
    e = torch.randn(1, 2, 64, 64, generator=torch.Generator().manual_seed(0))
    return kappa, torch.where(seen, shear_of(kappa) + noise * e, 0.0), std


def test_mcalens_restores_a_cluster_that_the_wiener_filter_makes_too_low():
    kappa, gamma, noise = scene(noise=0.15)
    near = (slice(None), slice(None), slice(30, 35), slice(30, 35))
    sparse = mcalens(gamma, noise, convergence_spectrum, PIXEL)
    smooth = wiener(gamma, noise, convergence_spectrum, PIXEL)
    shares = [float(x[near].mean() / kappa[near].mean()) for x in (sparse, smooth)]
    assert shares[1] < 0.6 < 0.8 < shares[0] < 1.1
    assert (sparse - kappa).square().mean() < 0.8 * (smooth - kappa).square().mean()


def test_without_significant_coefficients_mcalens_is_the_wiener_filter():
    _, gamma, noise = scene()
    found = mcalens(gamma, noise, convergence_spectrum, PIXEL, threshold=1e6, rounds=1)
    torch.testing.assert_close(found, wiener(gamma, noise, convergence_spectrum, PIXEL))


def test_mcalens_does_not_see_what_was_not_measured():
    _, gamma, noise = scene()
    other = torch.where(torch.isfinite(noise), gamma, 7.0)
    a, b = (
        mcalens(g, noise, convergence_spectrum, PIXEL, rounds=1, iterations=3)
        for g in (gamma, other)
    )
    assert torch.equal(a, b)


def test_the_mean_of_a_halo_within_a_radius_is_that_of_the_formula():
    r"""Mean NFW convergence within x: 4 g(x) / x^2, g = ln(x / 2) + arccosh(1 / x) / sqrt(1 - x^2)
    (Wright and Brainerd 2000), in the units where the profile is 2 f(x).
    """
    side, scale = 801, 400.0  # pixels
    kappa = nfw_convergence((side, side), "1 arcmin", peak=1.0, scale="400 arcmin", core="1 arcmin")
    r = torch.arange(side) - side // 2
    x = (r[:, None] ** 2 + r[None] ** 2).sqrt() / scale
    for far in (0.5, 0.9):
        g = math.log(far / 2) + math.acosh(1 / far) / math.sqrt(1 - far**2)
        f = (1 - math.acosh(1 / far) / math.sqrt(1 - far**2)) / (far**2 - 1)
        ring = kappa[0, 0][(x - far).abs() < 0.01].mean()
        within = kappa[0, 0][x < far].mean()
        assert abs(float(within / ring) / (4 * g / far**2 / (2 * f)) - 1) < 0.01


def test_halos_are_where_and_as_high_as_asked_for():
    options = {"peak": 0.7, "center": (10, 20), "axis_ratio": 0.5}
    kappa = nfw_convergence((32, 40), PIXEL, **options, angle=math.pi / 2)[0, 0]
    assert kappa.argmax() == 10 * 40 + 20
    assert abs(float(kappa.max()) - 0.7) < 1e-6
    assert kappa[15, 20] > kappa[10, 25]  # long along the rows
    turned = nfw_convergence((32, 40), PIXEL, **options)[0, 0]
    assert turned[15, 20] < turned[10, 25]
    drawn = [random_halos(64, PIXEL, np.random.default_rng(k)) for k in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert all(bool(torch.isfinite(d).all()) and float(d.min()) > 0 for d in drawn)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: starlet(torch.rand(1, 1, 16, 16), 4), "scales must be an integer >= 1"),
        (lambda: starlet(torch.rand(1, 1, 16, 16), 0), "scales must be an integer >= 1"),
        (lambda: nfw_convergence((8, 8), PIXEL, peak=-1.0), "peak must be above 0"),
        (lambda: nfw_convergence((8, 8), PIXEL, peak=1.0, axis_ratio=2.0), "at most 1, got 2.0"),
        (lambda: nfw_convergence((8, 8), PIXEL, peak=1.0, scale="3 kg"), "3 kg"),
        (lambda: nfw_convergence((8,), PIXEL, peak=1.0), r"shape must be \(H, W\)"),
        (lambda: nfw_convergence((8, 8), PIXEL, peak=1.0, core="0 arcmin"), "core"),
        (
            lambda: mcalens(*scene()[1:], convergence_spectrum, PIXEL, threshold=0.0),
            "threshold must be > 0",
        ),
        (
            lambda: mcalens(*scene()[1:], convergence_spectrum, PIXEL, rounds=0),
            "rounds must be an integer >= 1",
        ),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(InputError, match=words):
        call()
