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
    """Convert an angle with its unit to radians.

    Parameters
    ----------
    angle : str or astropy quantity
        A text such as ``"0.29 arcmin"``, in rad, deg, arcmin or arcsec; > 0 and < 180 degrees.
    who : str
        What the angle is, for messages.

    Returns
    -------
    float
        The angle in radians.

    Raises
    ------
    InputTypeError
        If the angle is a bare number, which has no unit.
    InputError
        If it is no positive angle.

    Examples
    --------
    >>> round(radians("180 arcsec"), 6)
    0.000873
    """
    hint = (
        f"{who}: give an angle with its unit, as '0.29 arcmin' (rad, deg, arcmin, arcsec) "
        "or a quantity of astropy"
    )
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
    """Convert an angle with its unit to minutes of arc, see :func:`radians`.

    Parameters
    ----------
    angle : str or astropy quantity
        The angle.
    who : str
        What the angle is, for messages.

    Returns
    -------
    float
        The angle in minutes of arc.
    """
    return radians(angle, who) / RADIANS["arcmin"]


def pixel_text(side: float) -> str:
    """Write the side of a pixel as a text.

    Parameters
    ----------
    side : float
        Side of a pixel in minutes of arc.

    Returns
    -------
    str
        Such as "0.293 arcmin", without the last digits, which are rounding errors.
    """
    return f"{float(f'{side:.13g}')!r} arcmin"


def pixel_noise(
    n_gal: float | Tensor, pixel: Any, shape_noise: float = SHAPE_NOISE
) -> float | Tensor:
    r"""Return the standard deviation of each component of the mean shear in a pixel.

    .. math:: \sigma_{pix} = \sigma_e / \sqrt{n_{gal} A_{pix}}

    Parameters
    ----------
    n_gal : float or Tensor
        Galaxies per square arcminute, a number > 0 or a map >= 0.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    shape_noise : float
        Standard deviation of one component of the ellipticity of a galaxy, > 0.

    Returns
    -------
    float or Tensor
        The noise; infinite (not measured) where a map has no galaxies.

    Raises
    ------
    InputError
        If the density is negative, NaN, or nowhere positive.
    """
    if not finite_number(shape_noise) or shape_noise <= 0:
        raise InputError(f"pixel_noise: shape_noise must be > 0, got {shape_noise!r}.")
    area = arcmin(pixel) ** 2
    if isinstance(n_gal, Tensor):
        if not n_gal.is_floating_point():
            n_gal = n_gal.to(torch.get_default_dtype())
        finite = bool(torch.isfinite(n_gal).all())
        if not finite or float(n_gal.min()) < 0 or float(n_gal.max()) == 0:
            raise InputError(
                "pixel_noise: n_gal must be finite, >= 0 and somewhere > 0, in galaxies per square "
                "arcminute."
            )
        return shape_noise * (n_gal * area).rsqrt()
    if not finite_number(n_gal) or n_gal <= 0:
        raise InputError(
            f"pixel_noise: n_gal must be > 0, in galaxies per square arcminute, got {n_gal!r}."
        )
    return shape_noise / math.sqrt(n_gal * area)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


__all__ = ["SHAPE_NOISE", "arcmin", "pixel_noise", "pixel_text", "radians"]
