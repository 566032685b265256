"""Angles with their unit, and the noise of a shear map from the density of galaxies."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError

RADIANS = {
    "rad": 1.0,
    "deg": math.pi / 180,
    "arcmin": math.pi / 10_800,
    "arcsec": math.pi / 648_000,
}
SHAPE_NOISE = 0.26  # standard deviation of one component of the ellipticity of galaxies


def radians(angle: Any, who: str = "pixel") -> float:
    """An angle with its unit, in radians: a text such as ``"0.29 arcmin"`` (rad, deg, arcmin, arcsec), or a quantity of astropy.

    Raises :class:`InputTypeError` for a bare number, which tells no unit, and :class:`InputError` for what is no positive angle.
    """
    hint = f"{who}: give an angle with its unit, as '0.29 arcmin' (rad, deg, arcmin, arcsec) or a quantity of astropy"
    if hasattr(angle, "to_value"):
        try:
            value = float(angle.to_value("rad"))
        except Exception as error:  # astropy's own kinds, which are not imported here
            raise InputError(f"{hint}; got {angle!r} ({error}).") from error
    elif isinstance(angle, str):
        found = re.fullmatch(r"\s*([-+0-9.eE]+)\s*([A-Za-z]+)\s*", angle)
        if not found or found[2] not in RADIANS or not finite_number(_number(found[1])):
            raise InputError(f"{hint}; got {angle!r}.")
        value = float(found[1]) * RADIANS[found[2]]
    else:
        raise InputTypeError(f"{hint}; got {angle!r}.")
    if not 0 < value < math.pi:
        raise InputError(f"{who}: an angle must be positive and below 180 degrees, got {angle!r}.")
    return value


def arcmin(angle: Any, who: str = "pixel") -> float:
    """An angle with its unit, in minutes of arc; see :func:`radians`."""
    return radians(angle, who) / RADIANS["arcmin"]


def pixel_noise(
    n_gal: float | Tensor, pixel: Any, shape_noise: float = SHAPE_NOISE
) -> float | Tensor:
    r"""The standard deviation of each component of the mean shear in a pixel.

        sigma_pix = shape_noise / sqrt(n_gal A_pix)

    ``n_gal`` is the number of galaxies for each square arcminute, a number or a map; ``pixel`` the side of a pixel, with its unit;
    ``shape_noise`` the standard deviation of one component of the ellipticity of a galaxy. Where a map has no galaxies the noise is
    infinite: not measured. Raises :class:`InputError` for a density that is negative, NaN, or nowhere positive.
    """
    if not finite_number(shape_noise) or shape_noise <= 0:
        raise InputError(f"pixel_noise: shape_noise must be > 0, got {shape_noise!r}.")
    area = arcmin(pixel) ** 2
    if isinstance(n_gal, Tensor):
        if not n_gal.is_floating_point():
            n_gal = n_gal.to(torch.get_default_dtype())
        if (
            not bool(torch.isfinite(n_gal).all())
            or float(n_gal.min()) < 0
            or float(n_gal.max()) == 0
        ):
            raise InputError(
                "pixel_noise: n_gal must be finite, >= 0 and somewhere > 0: galaxies for each square arcminute."
            )
        return shape_noise * (n_gal * area).rsqrt()
    if not finite_number(n_gal) or n_gal <= 0:
        raise InputError(
            f"pixel_noise: n_gal must be > 0, galaxies for each square arcminute, got {n_gal!r}."
        )
    return shape_noise / math.sqrt(n_gal * area)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


__all__ = ["SHAPE_NOISE", "arcmin", "pixel_noise", "radians"]
