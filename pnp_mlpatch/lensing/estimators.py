"""Estimate the convergence without a denoiser: Kaiser-Squires and the Wiener filter.

Shear maps are (B, 2, H, W), gamma_1 and gamma_2; convergence maps are (B, 2, H, W), E and B. Axes
and signs are those of :mod:`pnp_mlpatch.operators.lensing`. A noise map (H, W) holds the standard
deviation of each component, infinite where nothing was measured.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing.spectra import Spectrum, power, wavenumbers
from pnp_mlpatch.lensing.units import radians


def kernel(
    shape: tuple[int, ...], *, flip_ra: bool = False, dtype: torch.dtype = torch.float64
) -> Tensor:
    r"""Return the kernel that takes the convergence to the shear, at the frequencies of ``fft2``.

    .. math:: D(k) = \frac{k_1^2 - k_2^2 + 2 i k_1 k_2}{|k|^2}, \qquad D(0) = 0

    Parameters
    ----------
    shape : tuple of int
        Shape of the maps; the last two entries are (H, W).
    flip_ra : bool
        Return the conjugate, see :class:`~pnp_mlpatch.lensing.fits.ShearMap`.
    dtype : torch.dtype
        Type of the maps, float32 or float64.

    Returns
    -------
    Tensor, shape (H, W)
        Complex.
    """
    rows, cols = (torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[-2:])
    square = (rows[:, None] ** 2 + cols[None] ** 2).clamp_min(1e-300)
    d = torch.complex(
        (cols[None] ** 2 - rows[:, None] ** 2) / square, 2 * cols[None] * rows[:, None] / square
    )
    return (d.conj().resolve_conj() if flip_ra else d).to(
        torch.complex64 if dtype == torch.float32 else torch.complex128
    )


def shear_of(kappa: Tensor, *, flip_ra: bool = False) -> Tensor:
    r"""Compute the shear of convergence maps that are periodic.

    .. math:: \hat\gamma = D \hat\kappa

    Parameters
    ----------
    kappa : Tensor, shape (B, 1, H, W) or (B, 2, H, W)
        Maps of E, or of E and B.
    flip_ra : bool
        See :class:`~pnp_mlpatch.lensing.fits.ShearMap`.

    Returns
    -------
    Tensor, shape (B, 2, H, W)
        The shear.
    """
    check_maps(kappa, "shear_of", (1, 2))
    if kappa.shape[1] == 1:
        kappa = torch.cat([kappa, torch.zeros_like(kappa)], dim=1)
    return _times(kappa, kernel(kappa.shape, flip_ra=flip_ra, dtype=kappa.dtype).to(kappa.device))


def kaiser_squires(gamma: Tensor, *, flip_ra: bool = False) -> Tensor:
    r"""Compute the Kaiser-Squires estimate of the convergence.

    .. math:: \hat\kappa = \bar D \hat\gamma

    Parameters
    ----------
    gamma : Tensor, shape (B, 2, H, W)
        The shear, 0 where nothing was measured.
    flip_ra : bool
        See :class:`~pnp_mlpatch.lensing.fits.ShearMap`.

    Returns
    -------
    Tensor, shape (B, 2, H, W)
        E and B, of mean zero.

    References
    ----------
    Kaiser and Squires (1993).
    """
    check_maps(gamma, "kaiser_squires", (2,))
    return _times(
        gamma, kernel(gamma.shape, flip_ra=flip_ra, dtype=gamma.dtype).conj().to(gamma.device)
    )


def smoothed(x: Tensor, width: Any, pixel: Any) -> Tensor:
    r"""Smooth maps by a Gaussian, :math:`\hat x(l) \exp(-l^2 w^2 / 2)`.

    Parameters
    ----------
    x : Tensor, shape (..., H, W)
        Maps, taken as periodic.
    width : str or astropy quantity
        Standard deviation w of the Gaussian, an angle with its unit.
    pixel : str or astropy quantity
        Side of a pixel with its unit.

    Returns
    -------
    Tensor, shape (..., H, W)
        The smoothed maps.
    """
    ell = wavenumbers(x.shape, pixel).to(x.device)
    return torch.fft.ifft2(
        torch.fft.fft2(x) * torch.exp(-0.5 * (ell * radians(width, "width")) ** 2).to(x.dtype)
    ).real


def optimal_width(
    noise: float | Tensor, spectrum: Spectrum, pixel: Any, shape: tuple[int, int] = (512, 512)
) -> str:
    r"""Find the Gaussian that smooths Kaiser-Squires best, for a signal of known spectrum.

    .. math:: \arg\min_w \sum_l C(l) (1 - G)^2 + N G^2, \qquad
              G = \exp(-l^2 w^2 / 2), \quad N = \sigma^2 p^2

    Parameters
    ----------
    noise : float or Tensor
        Standard deviation :math:`\sigma` of each component of the shear: a number, or a map, of
        which the harmonic mean of the variances over the measured pixels is taken.
    spectrum : callable
        C(l) in steradian, a function of l.
    pixel : str or astropy quantity
        Side p of a pixel with its unit.
    shape : tuple of int
        Size (H, W) of the grid on which the sum is taken.

    Returns
    -------
    str
        The width, such as "1.7 arcmin", from a quarter of a pixel to 64 pixels, to a thousandth.
    """
    variance = (
        1 / weights(noise)[weights(noise) > 0].mean()
        if isinstance(noise, Tensor)
        else torch.tensor(float(noise) ** 2)
    )
    ell = wavenumbers(shape, pixel)
    signal = power(ell, spectrum, pixel)

    def loss(x: float) -> float:
        G = torch.exp(-0.5 * (ell * math.exp(x)) ** 2)
        return float((signal * (1 - G) ** 2 + float(variance) * G**2).mean())

    p = radians(pixel)
    optimize = require("scipy.optimize", "The optimal width")
    found = optimize.minimize_scalar(
        loss, bounds=(math.log(p / 4), math.log(64 * p)), method="bounded", options={"xatol": 1e-3}
    )
    return f"{math.exp(found.x) * 10_800 / math.pi:.4g} arcmin"


def weights(noise: Tensor) -> Tensor:
    """Return the inverse variance of a noise map.

    Parameters
    ----------
    noise : Tensor, shape (H, W)
        Standard deviations > 0, infinite where nothing was measured.

    Returns
    -------
    Tensor, shape (H, W)
        1 / noise^2, 0 where the noise is infinite.

    Raises
    ------
    InputError
        If the noise is NaN or not positive, or nothing was measured.
    """
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise InputTypeError(
            "noise: expected a floating tensor (H, W), standard deviations, infinite where nothing "
            "was measured."
        )
    bad = int((~(noise > 0)).sum())
    if bad or not bool(torch.isfinite(noise).any()):
        raise InputError(
            f"noise: {bad} pixels are NaN or not > 0, {int(torch.isfinite(noise).sum())} of "
            f"{noise.numel()} are measured. "
            "Give standard deviations > 0, infinite where nothing was measured."
        )
    return noise.square().reciprocal()


def from_reduced(g: Tensor, kappa: Tensor) -> Tensor:
    r"""Return the shear of a reduced shear, :math:`\gamma = g (1 - \kappa)`.

    Parameters
    ----------
    g : Tensor, shape (B, 2, H, W)
        The reduced shear.
    kappa : Tensor, shape (B, 1, H, W) or (B, 2, H, W)
        An estimate of E; further channels are not used.

    Returns
    -------
    Tensor, shape (B, 2, H, W)
        The shear.
    """
    return g * (1 - kappa[:, :1])


def reduced(gamma: Tensor, kappa: Tensor) -> Tensor:
    r"""Return the reduced shear, :math:`g = \gamma / (1 - \kappa)`, which galaxy shapes measure.

    Parameters
    ----------
    gamma : Tensor, shape (B, 2, H, W)
        The shear.
    kappa : Tensor, shape (B, 1, H, W) or (B, 2, H, W)
        E, below 1; further channels are not used.

    Returns
    -------
    Tensor, shape (B, 2, H, W)
        The reduced shear.

    Raises
    ------
    InputError
        If kappa >= 1 somewhere, as inside a strong lens.
    """
    if not bool((kappa[:, :1] < 1).all()):
        raise InputError(
            "reduced: kappa must be below 1 everywhere; it is the convergence, dimensionless."
        )
    return gamma / (1 - kappa[:, :1])


def _times(x: Tensor, d: Tensor) -> Tensor:
    field = torch.fft.ifft2(d * torch.fft.fft2(torch.complex(x[:, 0], x[:, 1])))
    return torch.stack([field.real, field.imag], dim=1)


def check_maps(x: Tensor, who: str, channels: tuple[int, ...]) -> None:
    """Raise unless the maps are a finite batch.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Maps.
    who : str
        Who takes them, for messages.
    channels : tuple of int
        The values of C that are accepted.

    Raises
    ------
    InputTypeError
        If ``x`` is no tensor of float32 or float64.
    InputError
        If it has another shape, or values that are not finite.
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        raise InputTypeError(f"{who}: expected a float32 or float64 tensor of maps (B, 2, H, W).")
    if x.ndim != 4 or x.shape[1] not in channels:
        raise InputError(
            f"{who}: expected maps (B, {' or '.join(map(str, channels))}, H, W), got "
            f"{tuple(x.shape)}."
        )
    if not bool(torch.isfinite(x).all()):
        raise InputError(
            f"{who}: {int((~torch.isfinite(x)).sum())} values are NaN or infinite. Put 0 there, "
            "and no weight."
        )


__all__ = [
    "from_reduced",
    "kaiser_squires",
    "kernel",
    "optimal_width",
    "reduced",
    "shear_of",
    "smoothed",
    "weights",
]
