r"""MCALens: a convergence map as a Gaussian part and a part that is sparse in wavelets.

.. math::

    \gamma = A (\kappa_G + \kappa_S) + n

The Gaussian part has a known spectrum, the sparse one is positive, with few starlet coefficients:
the peaks of clusters, which the Wiener filter makes too low.

References
----------
Starck, Themelis, Jeffrey, Peel and Lanusse 2021. Starlets: Starck, Fadili and Murtagh 2007.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing._wiener import wiener
from pnp_mlpatch.lensing.estimators import check_maps, kaiser_squires, shear_of, weights
from pnp_mlpatch.lensing.spectra import Spectrum

SPLINE = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
DRAWS = 16  # of the noise, for the standard deviations of the coefficients


def starlet(x: Tensor, scales: int) -> Tensor:
    """Compute the starlet transform, whose bands add up to the image.

    Parameters
    ----------
    x : Tensor, shape (B, 1, H, W)
        Images, mirrored at their border.
    scales : int
        Number of bands with structures of about 2, 4, 8 ... pixels, >= 1. One more holds the rest.

    Returns
    -------
    Tensor, shape (B, scales + 1, H, W)
        From fine to coarse.

    Raises
    ------
    InputError
        If ``scales`` is not a whole number from 1 on, or the images are too small for it.
    """
    check_maps(x, "starlet", (1,))
    whole = isinstance(scales, int) and not isinstance(scales, bool) and scales >= 1
    if not whole or 2**scales >= min(x.shape[-2:]):
        raise InputError(
            f"starlet: scales must be an integer >= 1 with 2^scales below the sides of the image, "
            f"{tuple(x.shape[-2:])}, got {scales!r}."
        )
    bands = []
    for k in range(scales):
        coarse = _smooth(x, 2**k)
        bands.append(x - coarse)
        x = coarse
    return torch.cat([*bands, x], dim=1)


def mcalens(
    gamma: Tensor,
    noise: Tensor,
    spectrum: Spectrum,
    pixel: Any,
    *,
    threshold: float = 4.0,
    scales: int = 5,
    rounds: int = 4,
    iterations: int = 20,
    flip_ra: bool = False,
    seed: int = 0,
) -> Tensor:
    r"""Compute a convergence map by the sum of a sparse and a Gaussian part.

    In turn the sparse part takes iterations

    .. math:: \kappa_S \leftarrow [H(\kappa_S + \mu \, \mathrm{Re} A^H N^{-1}
              (\gamma - A (\kappa_S + \kappa_G)))]_+

    where H keeps the starlet coefficients above ``threshold`` standard deviations of the noise, and
    the Gaussian part is the Wiener filter of :math:`\gamma - A \kappa_S`.

    Parameters
    ----------
    gamma : Tensor, shape (B, 2, H, W)
        The shear.
    noise : Tensor, shape (H, W)
        Standard deviation of each component, infinite where nothing was measured.
    spectrum : callable
        C(l) in steradian of the Gaussian part, a function of l.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    threshold : float
        > 0; 5 in the publication. The finest band, which is all noise, is left out.
    scales : int
        See :func:`starlet`.
    rounds, iterations : int
        Turns, and iterations of the sparse part in each, >= 1.
    flip_ra : bool
        See :class:`~pnp_mlpatch.lensing.fits.ShearMap`.
    seed : int
        Of the noise whose coefficients give the standard deviations.

    Returns
    -------
    Tensor, shape (B, 1, H, W)
        E.

    Raises
    ------
    InputError
        If shapes do not fit or a number is out of its range.

    References
    ----------
    Starck, Themelis, Jeffrey, Peel and Lanusse 2021. There the Gaussian part takes steps as well;
    here it is the exact Wiener filter.
    """
    check_maps(gamma, "mcalens", (2,))
    if not finite_number(threshold) or threshold <= 0:
        raise InputError(f"mcalens: threshold must be > 0, got {threshold!r}.")
    for name, value in (("rounds", rounds), ("iterations", iterations)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"mcalens: {name} must be an integer >= 1, got {value!r}.")
    w = weights(noise).to(gamma)
    mu = 1 / w.max()

    def back(residual: Tensor) -> Tensor:
        return kaiser_squires(mu * w * residual, flip_ra=flip_ra)[:, :1]

    least = threshold * _deviations(back, noise.to(gamma), scales, seed)
    sparse, smooth = (torch.zeros_like(gamma[:, :1]) for _ in range(2))
    for _ in range(rounds):
        for _ in range(iterations):
            missed = gamma - shear_of(sparse + smooth, flip_ra=flip_ra)
            bands = starlet(sparse + back(missed), scales)
            kept = torch.where(bands[:, :-1].abs() > least, bands[:, :-1], 0)
            sparse = kept.sum(dim=1, keepdim=True).clamp_min(0)
        rest = gamma - shear_of(sparse, flip_ra=flip_ra)
        smooth = wiener(rest, noise, spectrum, pixel, flip_ra=flip_ra)
    return sparse + smooth


def _deviations(back: Any, noise: Tensor, scales: int, seed: int) -> Tensor:
    """Return the std (1, scales, H, W) of the starlet coefficients of noise; the finest: inf."""
    generator = torch.Generator().manual_seed(seed)
    seen = torch.isfinite(noise)
    total = torch.zeros(1, scales, *noise.shape, dtype=noise.dtype, device=noise.device)
    for _ in range(DRAWS):
        e = torch.randn(1, 2, *noise.shape, generator=generator).to(noise)
        total += starlet(back(torch.where(seen, noise, 0.0) * e), scales)[:, :-1] ** 2 / DRAWS
    bands = total.split(1, dim=1)
    found = torch.cat([_smooth(b, 2**k) for k, b in enumerate(bands)], dim=1).sqrt()
    found[:, 0] = torch.inf
    return found


def _smooth(x: Tensor, step: int) -> Tensor:
    """Smooth images (B, 1, H, W) by the spline with ``step - 1`` zeros between its values."""
    line = torch.tensor(SPLINE, dtype=x.dtype, device=x.device)
    for shape, pad in (((1, 1, 5, 1), (0, 0, 2, 2)), ((1, 1, 1, 5), (2, 2, 0, 0))):
        wide = _mirrored(x, [step * p for p in pad])
        x = F.conv2d(wide, line.reshape(shape), dilation=step)
    return x


def _mirrored(x: Tensor, pad: list[int]) -> Tensor:
    """Continue images by reflection, also further than they are wide."""
    while any(pad):
        now = [min(p, n - 1) for p, n in zip(pad, [x.shape[3]] * 2 + [x.shape[2]] * 2, strict=True)]
        x = F.pad(x, now, mode="reflect")
        pad = [p - n for p, n in zip(pad, now, strict=True)]
    return x


__all__ = ["mcalens", "starlet"]
