r"""Random maps of the convergence: log-normal fields of a given spectrum.

With g a Gaussian field of variance s^2 and correlation xi_g, and kappa_0 > 0 the convergence of an empty line of sight, negated,

    kappa = kappa_0 (exp(g - s^2 / 2) - 1),    xi_g(r) = ln(1 + xi(r) / kappa_0^2)

has mean zero and exactly the correlation xi, of which the spectrum is the Fourier transform (Coles and Jones 1991; for lensing,
Taruya et al. 2002; Xavier, Abdalla and Joachimi 2016). kappa_0 sets the skewness: small means many peaks and flat voids.
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
from pnp_mlpatch.lensing.spectra import Spectrum, convergence_spectrum, power, wavenumbers
from pnp_mlpatch.lensing.units import radians

SHIFT, SHIFT_SPREAD = (
    0.028,
    0.005,
)  # kappa_0 for sources at redshift 1, and how much it differs between maps
AMPLITUDES = (0.7, 1.7)  # of training maps: other redshifts of the sources, other cosmologies
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
    r"""``count`` log-normal maps (count, 1, H, W) of the convergence, float32, cut from larger periodic fields.

    ``pixel`` is the side of a pixel with its unit, ``spectrum`` a function of l that gives C(l) in steradian, ``shift`` is kappa_0,
    and ``amplitude`` multiplies the map. The same seed gives the same maps, and the first of them do not depend on ``count``.
    Raises :class:`InputError` for a shape, shift or amplitude that is not positive, and for a spectrum without a log-normal field.
    """
    whole = (
        isinstance(shape, (tuple, list))
        and len(shape) == 2
        and all(isinstance(n, int) and n >= 1 for n in shape)
    )
    if not whole or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(
            f"lognormal_convergence: shape must be (H, W) and count >= 1, integers, got {shape!r} and {count!r}."
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


def random_convergence(side: int, rng: np.random.Generator) -> Tensor:
    """One map (1, side, side) to train on: kappa_0 normal about 0.028 with 0.005, the amplitude uniform in 0.7 to 1.7, pixels of 0.293 arcmin."""
    shift = (
        SHIFT + SHIFT_SPREAD * round(4 * min(max(rng.standard_normal(), -2.0), 2.0)) / 4
    )  # in quarters, so that tables are shared
    amplitude = AMPLITUDES[0] + (AMPLITUDES[1] - AMPLITUDES[0]) * rng.random()
    root = _root((side, side), radians(PIXEL), convergence_spectrum, shift).float()
    return (amplitude * _field(root, rng, (side, side), shift))[None]


def _field(root: Tensor, rng: np.random.Generator, shape: tuple[int, ...], shift: float) -> Tensor:
    """A corner of the periodic log-normal field whose Gaussian has modes of the standard deviation ``root`` (h, w // 2 + 1)."""
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
    """The standard deviations of the modes of g, half of them, on a grid wider by ``MARGIN``: float64."""
    size = tuple(2 * math.ceil(MARGIN * n / 2) if n > 1 else 2 for n in shape)
    unit = f"{pixel!r} rad"
    correlation = torch.fft.ifft2(power(wavenumbers(size, unit), spectrum, unit)).real
    ratio = 1 + correlation / shift**2
    if float(ratio.min()) <= 0:
        raise InputError(
            f"lognormal_convergence: with this spectrum there is no log-normal field of shift {shift:.4g}. Take a larger one."
        )
    return torch.fft.fft2(ratio.log()).real.clamp_min(0).sqrt()[:, : size[1] // 2 + 1].contiguous()


__all__ = ["PIXEL", "SHIFT", "lognormal_convergence", "random_convergence"]
