r"""The aperture mass: a filter of the tangential shear, with its signal-to-noise.

With :math:`\gamma_t` and :math:`\gamma_\times` the tangential and the cross component of the shear
about the centre of an aperture of radius R,

.. math:: M = \int U(\theta) \kappa \, d^2\theta = \int Q(\theta) \gamma_t \, d^2\theta, \qquad
          Q(\theta) = \frac{2}{\theta^2} \int_0^\theta \theta' U(\theta') d\theta' - U(\theta)

where U has the integral 0, so that the mean of the convergence does not count (Schneider 1996).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing.estimators import check_maps, weights
from pnp_mlpatch.lensing.units import radians

EXTENT = 5.0  # radii at which the Gaussian filter is cut: Q is 1e-4 of its maximum there


def aperture_mass(
    gamma: Tensor,
    noise: Tensor,
    radius: Any,
    pixel: Any,
    *,
    filter: str = "polynomial",
    flip_ra: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Compute the aperture mass about every pixel, for any mask and noise map.

    With the sums over measured pixels, and the weights :math:`w = 1 / \text{noise}^2`,

    .. math:: M = \int Q \, d^2\theta \; \frac{\sum w Q \gamma_t}{\sum w Q}, \qquad
              S = \frac{\sum w Q \gamma_t}{\sqrt{\sum w Q^2}}

    so that noise alone gives S the variance 1, near holes and borders too. The filters are

    .. math:: \text{polynomial:} \quad Q = \frac{6}{\pi R^2} t^2 (1 - t^2), \quad
              U = \frac{9}{\pi R^2} (1 - t^2) (1/3 - t^2), \quad t = \theta / R < 1

    .. math:: \text{gaussian:} \quad Q = \frac{t^2}{4 \pi R^2} e^{-t^2 / 2}, \quad
              U = \frac{1}{2 \pi R^2} (1 - t^2 / 2) e^{-t^2 / 2}

    Parameters
    ----------
    gamma : Tensor, shape (B, 2, H, W)
        The shear; its values where nothing was measured do not count.
    noise : Tensor, shape (H, W)
        Standard deviation of each component, infinite where nothing was measured.
    radius : str or astropy quantity
        R, an angle with its unit, of a pixel or more.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    filter : str
        "polynomial" or "gaussian". The polynomial has a finite radius; the Gaussian is cut at 5 R.
    flip_ra : bool
        See :class:`~pnp_mlpatch.lensing.fits.ShearMap`.

    Returns
    -------
    mass : Tensor, shape (B, 2, H, W)
        M of the tangential and of the cross component, E and B. 0 where the aperture holds no
        measured pixel.
    snr : Tensor, shape (B, 2, H, W)
        Their signal-to-noise S.

    Raises
    ------
    InputError
        If shapes do not fit, the radius is below a pixel, or the filter has another name.

    References
    ----------
    Schneider (1996); Schneider, van Waerbeke, Jain and Kruse (1998) for the polynomial; Crittenden
    et al. (2002) and Jarvis, Bernstein and Jain (2004) for the Gaussian.
    """
    check_maps(gamma, "aperture_mass", (2,))
    if noise.shape != gamma.shape[-2:]:
        raise InputError(
            f"aperture_mass: the noise map must be {tuple(gamma.shape[-2:])}, got "
            f"{tuple(noise.shape)}."
        )
    R = radians(radius, "aperture_mass: radius") / radians(pixel)
    if R < 1:
        raise InputError(
            f"aperture_mass: the radius {radius} is {R:.2g} pixels; take one pixel or more."
        )
    w = weights(noise).to(gamma.device).double()
    Q, cos, sin = _filter(R, filter, w)
    total = _correlated(w, Q).clamp_min(0)
    square = _correlated(w, Q.square()).clamp_min(0)
    g1, g2 = (w * gamma.double()).unbind(1)
    g2 = -g2 if flip_ra else g2
    tangential = -_correlated(g1, Q * cos) - _correlated(g2, Q * sin)
    cross = _correlated(g1, Q * sin) - _correlated(g2, Q * cos)
    sums = torch.stack([tangential, cross], dim=1)
    enough = total > 1e-9 * float(w.max()) * float(Q.max())  # below it is rounding of the FFT
    mass = torch.where(enough, float(Q.sum()) * sums / total.where(enough, 1.0), 0.0)
    snr = torch.where(enough, sums * square.where(enough, 1.0).rsqrt(), 0.0)
    return mass.to(gamma.dtype), snr.to(gamma.dtype)


def _filter(R: float, name: str, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Q, cos 2 phi and sin 2 phi (K, K) about the middle pixel, for R in pixels."""
    if name not in ("polynomial", "gaussian"):
        raise InputError(f"aperture_mass: filter must be 'polynomial' or 'gaussian', got {name!r}.")
    reach = math.floor(R if name == "polynomial" else EXTENT * R)
    line = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    y, x = line[:, None], line[None]
    square = x**2 + y**2
    t2 = square / R**2
    if name == "polynomial":
        Q = (6 / (math.pi * R**2)) * t2 * (1 - t2).clamp_min(0)
    else:
        Q = t2 * torch.exp(-t2 / 2) / (4 * math.pi * R**2) * (t2 <= EXTENT**2)
    below = square.clamp_min(1)  # Q is 0 in the middle
    return Q, (x**2 - y**2) / below, 2 * x * y / below


def _correlated(x: Tensor, k: Tensor) -> Tensor:
    """Return sum over d of k(d) x(. + d), with x = 0 outside of the map (..., H, W)."""
    reach, (height, width) = k.shape[-1] // 2, x.shape[-2:]
    size = (height + 2 * reach, width + 2 * reach)
    wide = torch.fft.rfft2(F.pad(x, [reach] * 4))
    shifted = torch.roll(
        F.pad(k, [0, size[1] - k.shape[-1], 0, size[0] - k.shape[-2]]), (-reach,) * 2, (0, 1)
    )
    found = torch.fft.irfft2(wide * torch.fft.rfft2(shifted).conj(), size)
    return found[..., reach : reach + height, reach : reach + width]


__all__ = ["aperture_mass"]
