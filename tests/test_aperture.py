"""The aperture mass: closed forms, masks, and the variance of its signal-to-noise."""

import math

import pytest
import torch

from pnp_mlpatch.errors import PnPError
from pnp_mlpatch.lensing import aperture_mass, shear_of

PIXEL = "0.5 arcmin"
FILTERS = ("polynomial", "gaussian")


def halo(width, side=128, height=0.1):
    """E (1, 1, H, W) of a Gaussian in the middle, and its shear; width in pixels."""
    line = torch.arange(side, dtype=torch.float64) - side // 2
    kappa = height * torch.exp(-(line[:, None] ** 2 + line[None] ** 2) / (2 * width**2))
    return kappa[None, None], shear_of(kappa[None, None])


def expected(width, radius, kind, height=0.1):
    """The integral of U times a Gaussian halo, in closed form."""
    a, b = 1 / (2 * radius**2), 1 / (2 * width**2)
    if kind == "gaussian":
        return height * a * b / (a + b) ** 2
    c, e = radius**2 / (2 * width**2), math.exp(-(radius**2) / (2 * width**2))
    moments = [(1 - e) / c]  # of t^(2 n) exp(-c t^2) d(t^2) from 0 to 1
    for n in (1, 2):
        moments.append((n * moments[-1] - e) / c)
    return 9 * height * (moments[0] / 3 - 4 / 3 * moments[1] + moments[2])


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("width", [4, 8])
def test_value_of_a_gaussian_halo(kind, width):
    """Sums over pixels give the integral of U kappa."""
    _, gamma = halo(width)
    radius = 16 if kind == "polynomial" else 6
    noise = torch.full((128, 128), 0.1, dtype=torch.float64)
    mass, snr = aperture_mass(gamma, noise, f"{radius / 2} arcmin", PIXEL, filter=kind)
    assert float(mass[0, 0, 64, 64]) == pytest.approx(expected(width, radius, kind), rel=0.01)
    assert mass[0, 0].argmax() == snr[0, 0].argmax() == 64 * 128 + 64
    assert float(mass[0, 1].abs().max()) < 0.02 * float(mass[0, 0].max())  # no B


@pytest.mark.parametrize("kind", FILTERS)
def test_the_mass_of_a_singular_sphere(kind):
    r"""Isothermal sphere, :math:`\kappa = \gamma_t = E / (2 \theta)`: the integral of Q gamma_t."""
    line = torch.arange(-64, 64, dtype=torch.float64)
    y, x = line[:, None], line[None]
    r = torch.hypot(x, y).clamp_min(0.5)
    size = -1.0 / (2 * r)
    gamma = torch.stack([size * (x**2 - y**2) / r**2, size * 2 * x * y / r**2])[None]
    radius = 20 if kind == "polynomial" else 8
    mass, _ = aperture_mass(
        gamma, torch.ones(128, 128, dtype=torch.float64), f"{radius / 2} arcmin", PIXEL, filter=kind
    )
    # pi E times the integral of Q: 2 E / R (1/3 - 1/5) * 6 / 2, and E / (4 R) sqrt(pi / 2)
    right = (
        6 / radius * (1 / 3 - 1 / 5)
        if kind == "polynomial"
        else math.sqrt(math.pi / 2) / 4 / radius
    )
    assert float(mass[0, 0, 64, 64]) == pytest.approx(right, rel=0.01)


@pytest.mark.parametrize("kind", FILTERS)
def test_noise_alone_has_variance_one(kind):
    """Also beside holes and borders, and with noise of two levels."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.full((64, 64), 0.2)
    noise[:, 32:] = 0.5
    noise[20:28, 15:23] = torch.inf
    seen = torch.isfinite(noise)
    white = torch.randn(150, 2, 64, 64, generator=generator)
    gamma = torch.where(seen, noise.where(seen, torch.zeros(())) * white, 0.0)
    mass, snr = aperture_mass(
        gamma, noise, "3 arcmin" if kind == "polynomial" else "1 arcmin", PIXEL, filter=kind
    )
    variance = snr.double().var(0)
    for place in (slice(0, 3), slice(20, 28), slice(30, 36), slice(None)):
        assert float(variance[:, place].mean()) == pytest.approx(1, abs=0.06)
    assert float(variance.min()) > 0.5
    assert float(variance.max()) < 1.7
    assert float((snr[:, 0] * snr[:, 1]).mean()) == pytest.approx(0, abs=0.01)
    assert float(mass.abs().max()) < 1


def test_what_is_not_measured_does_not_count():
    _, gamma = halo(5, side=64)
    noise = torch.full((64, 64), 0.1, dtype=torch.float64)
    noise[20:26, 28:34] = torch.inf
    wild = torch.where(torch.isfinite(noise), gamma, 1e3)
    for one, two in zip(
        aperture_mass(gamma, noise, "4 arcmin", PIXEL),
        aperture_mass(wild, noise, "4 arcmin", PIXEL),
        strict=True,
    ):
        assert torch.allclose(one, two, atol=1e-9)
    whole = aperture_mass(gamma, torch.full_like(noise, 0.1), "4 arcmin", PIXEL)[0]
    holed = aperture_mass(gamma, noise, "4 arcmin", PIXEL)[0]
    assert float(holed[0, 0, 32, 32]) == pytest.approx(float(whole[0, 0, 32, 32]), rel=0.05)
    far = torch.full((64, 64), torch.inf, dtype=torch.float64)
    far[:4, :4] = 0.1
    mass, snr = aperture_mass(gamma, far, "4 arcmin", PIXEL)
    assert float(mass[..., 20:, :].abs().max()) == float(snr[..., 20:, :].abs().max()) == 0


def test_a_map_that_is_shifted_and_flipped():
    """Linear correlation: no wrap around the border; flip_ra undoes the other sign of gamma_2."""
    _, gamma = halo(3, side=64)
    noise = torch.full((64, 64), 0.1, dtype=torch.float64)
    whole = aperture_mass(gamma, noise, "4 arcmin", PIXEL)[1]
    part = aperture_mass(gamma[..., 10:, 10:], noise[10:, 10:], "4 arcmin", PIXEL)[1]
    assert torch.allclose(part[..., 10:-10, 10:-10], whole[..., 20:-10, 20:-10], atol=1e-9)
    turned = gamma * torch.tensor([1.0, -1.0], dtype=torch.float64)[:, None, None]
    assert torch.allclose(aperture_mass(turned, noise, "4 arcmin", PIXEL, flip_ra=True)[1], whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"radius": "0.3 arcmin"}, "take one pixel or more"),
        ({"radius": 3.0}, "unit"),
        ({"filter": "tophat"}, "must be 'polynomial' or 'gaussian'"),
        ({"noise": torch.ones(8, 9)}, r"noise map must be \(16, 16\)"),
        ({"noise": torch.zeros(16, 16)}, "not > 0"),
        ({"gamma": torch.zeros(2, 16, 16)}, r"expected maps \(B, 2, H, W\)"),
    ],
)
def test_what_has_no_aperture_mass(change, words):
    given = {"gamma": torch.zeros(1, 2, 16, 16), "noise": torch.ones(16, 16), "radius": "2 arcmin"}
    with pytest.raises(PnPError, match=words):
        aperture_mass(**{**given, **change}, pixel=PIXEL)
