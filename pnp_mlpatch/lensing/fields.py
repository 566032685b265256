r"""Random maps of the convergence: log-normal fields of a given spectrum.

With g a Gaussian field of variance :math:`s^2` and correlation :math:`\xi_g`, and
:math:`\kappa_0 > 0` the negative convergence of an empty line of sight,

.. math:: \kappa = \kappa_0 (\exp(g - s^2 / 2) - 1), \qquad
          \xi_g(r) = \ln(1 + \xi(r) / \kappa_0^2)

has mean zero and exactly the correlation :math:`\xi`, whose Fourier transform is the spectrum
(Coles and Jones 1991; for lensing, Taruya et al. 2002; Xavier, Abdalla and Joachimi 2016).
:math:`\kappa_0` sets the skewness: a small value gives many peaks and flat voids.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing.halos import random_halos
from pnp_mlpatch.lensing.spectra import Spectrum, convergence_spectrum, power, wavenumbers
from pnp_mlpatch.lensing.units import radians

SHIFT, SHIFT_SPREAD = (
    0.028,
    0.005,
)  # kappa_0 for sources at redshift 1, and how much it differs between maps
AMPLITUDES = (0.7, 1.7)  # of training maps: other redshifts of the sources, other cosmologies
HALOS, WIDER = 0.3, (0.5, 1.75)  # of training maps with clusters: their share, and amplitudes
PIXEL = "0.293 arcmin"
MARGIN = (
    1.5  # fields are made so much wider than the map that is cut from them, since they are periodic
)


def lognormal_convergence(
    shape: tuple[int, int],
    pixel: Any = PIXEL,
    *,
    seed: int,
    count: int = 1,
    spectrum: Spectrum = convergence_spectrum,
    shift: float = SHIFT,
    amplitude: float = 1.0,
) -> Tensor:
    r"""Draw log-normal maps of the convergence, cut from larger periodic fields.

    Parameters
    ----------
    shape : tuple of int
        Size (H, W) of a map.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    seed : int
        Seed, >= 0. The same seed gives the same maps; the first ones do not depend on ``count``.
    count : int
        Number of maps, >= 1.
    spectrum : callable
        C(l) in steradian, a function of l.
    shift : float
        :math:`\kappa_0`, > 0.
    amplitude : float
        Factor of the maps, > 0.

    Returns
    -------
    Tensor, shape (count, 1, H, W)
        float32.

    Raises
    ------
    InputError
        If an argument is not positive, or no log-normal field has this spectrum and shift.
    """
    whole = (
        isinstance(shape, (tuple, list))
        and len(shape) == 2
        and all(isinstance(n, int) and n >= 1 for n in shape)
    )
    if not whole or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(
            f"lognormal_convergence: shape must be (H, W) and count >= 1, integers, got {shape!r} "
            f"and {count!r}."
        )
    for name, value in (("shift", shift), ("amplitude", amplitude)):
        if not finite_number(value) or value <= 0:
            raise InputError(f"lognormal_convergence: {name} must be > 0, got {value!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"lognormal_convergence: seed must be an integer >= 0, got {seed!r}.")
    root = _root(tuple(shape), radians(pixel), spectrum, float(shift))
    maps = [
        _field(root, np.random.default_rng((seed, k)), tuple(shape), shift) for k in range(count)
    ]
    return (amplitude * torch.stack(maps)[:, None]).float()


def random_convergence(
    side: int,
    rng: np.random.Generator,
    *,
    halos: float = 0.0,
    amplitudes: tuple[float, float] = AMPLITUDES,
) -> Tensor:
    r"""Draw one map to train on, with random skewness and amplitude.

    :math:`\kappa_0` is normal about 0.028 with standard deviation 0.005; pixels are 0.293 arcmin.

    Parameters
    ----------
    side : int
        Side of the map in pixels.
    rng : numpy.random.Generator
        Source of the random numbers.
    halos : float
        The share of maps with bright halos beside the log-normal field, which lacks clusters, from
        0 to 1 (:func:`~pnp_mlpatch.lensing.halos.random_halos`).
    amplitudes : tuple of two floats
        The amplitude of the log-normal field is uniform between them.

    Returns
    -------
    Tensor, shape (1, side, side)
        float32.
    """
    shift = (
        SHIFT + SHIFT_SPREAD * round(4 * min(max(rng.standard_normal(), -2.0), 2.0)) / 4
    )  # in quarters, so that tables are shared
    amplitude = amplitudes[0] + (amplitudes[1] - amplitudes[0]) * rng.random()
    root = _root((side, side), radians(PIXEL), convergence_spectrum, shift).float()
    kappa = amplitude * _field(root, rng, (side, side), shift)
    if halos and rng.random() < halos:
        kappa = kappa + random_halos(side, PIXEL, rng)
    return kappa[None]


def _field(root: Tensor, rng: np.random.Generator, shape: tuple[int, ...], shift: float) -> Tensor:
    """Draw a corner of a periodic field; ``root`` (h, w // 2 + 1) is the std of its modes."""
    height, width = root.shape[0], _width(root)
    white = torch.from_numpy(rng.standard_normal((height, width), dtype=np.float32)).to(root.dtype)
    g = torch.fft.irfft2(root * torch.fft.rfft2(white), (height, width))
    weight = torch.full_like(root, 2)
    weight[:, 0] = weight[:, -1] = 1
    variance = float((weight * root**2).sum()) / (height * width)
    return shift * torch.expm1(g[: shape[0], : shape[1]] - variance / 2)


def _width(root: Tensor) -> int:
    return 2 * (root.shape[1] - 1)  # fields have even widths


@functools.lru_cache(maxsize=32)
def _root(shape: tuple[int, int], pixel: float, spectrum: Spectrum, shift: float) -> Tensor:
    """Return the standard deviations of half of the modes of g, on a grid wider by ``MARGIN``."""
    size = tuple(2 * math.ceil(MARGIN * n / 2) if n > 1 else 2 for n in shape)
    unit = f"{pixel!r} rad"
    correlation = torch.fft.ifft2(power(wavenumbers(size, unit), spectrum, unit)).real
    ratio = 1 + correlation / shift**2
    if float(ratio.min()) <= 0:
        raise InputError(
            "lognormal_convergence: with this spectrum there is no log-normal field of shift "
            f"{shift:.4g}. Take a larger one."
        )
    return torch.fft.fft2(ratio.log()).real.clamp_min(0).sqrt()[:, : size[1] // 2 + 1].contiguous()


__all__ = ["PIXEL", "SHIFT", "lognormal_convergence", "random_convergence"]
