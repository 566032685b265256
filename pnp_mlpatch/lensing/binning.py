"""The shear map of a catalogue: galaxies on the pixels of a gnomonic projection."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing._plane import MAX_DISTANCE, Galaxies, Grid, Plane, on_plane
from pnp_mlpatch.lensing._shear_map import ShearMap
from pnp_mlpatch.lensing._sphere import Axes
from pnp_mlpatch.lensing.catalogue import Catalogue
from pnp_mlpatch.lensing.units import arcmin, pixel_text, radians

MAX_PIXELS = 8192  # a side


def bin_shear(
    catalogue: Catalogue,
    pixel: Any,
    *,
    shape: tuple[int, int] | None = None,
    centre: tuple[float, float] | None = None,
    least: int = 1,
) -> ShearMap:
    r"""Average a catalogue on the pixels of a gnomonic projection, North up, East to the left.

    The shear and its noise in a pixel are, with sums over its galaxies,

    .. math:: \gamma = \frac{\sum w e}{\sum w}, \qquad
              \sigma = \sigma_e \frac{\sqrt{\sum w^2}}{\sum w}, \qquad
              \sigma_e^2 = \frac{\sum w^2 |e|^2}{2 \sum w^2}.

    :math:`\sigma_e` is the rms of one component over the whole catalogue. The weights enter as in
    the variance of a mean, so that the noise is right on average where w follows the noise of each
    galaxy. Where the catalogue has a noise, the variance is
    :math:`\sum w^2 \sigma_i^2 / (\sum w)^2`.

    Away from the centre North is not up. Each ellipticity is first turned to the axes at the
    centre, :math:`e \exp(-2 i \psi)`, with :math:`\psi` the angle from North towards East of a
    galaxy's North after parallel transport to the centre along the great circle.

    Parameters
    ----------
    catalogue : Catalogue
        The galaxies.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    shape : tuple of int, optional
        Size (H, W) of the map, which lies about ``centre``. Galaxies outside are left out, with a
        warning. By default the map just holds all galaxies.
    centre : tuple of float, optional
        Place (ra, dec) in degrees where the plane touches the sky. By default the mean direction of
        the galaxies.
    least : int
        Pixels with fewer galaxies are unseen, >= 1.

    Returns
    -------
    ShearMap
        The map, with its WCS in the header.

    Raises
    ------
    InputError
        For a map above 8192 pixels a side, galaxies more than 60 degrees from the centre (without
        ``shape``), a map without galaxies, or ellipticities that are all 0, which have no noise.
    """
    _check_arguments(catalogue, least, "bin_shear")
    side = radians(pixel, "bin_shear: pixel")
    galaxies = Galaxies.of(catalogue)
    plane = _project(galaxies, side, centre)
    grid = _grid(plane, shape, pixel, side)
    gamma, noise = galaxies.average(plane, grid, least=least)
    return _shear_map(gamma, noise, plane, grid, pixel)


def bin_shear_tomographic(
    catalogue: Catalogue,
    pixel: Any,
    *,
    shape: tuple[int, int] | None = None,
    centre: tuple[float, float] | None = None,
    least: int = 1,
) -> dict[int, ShearMap]:
    """Average each tomographic bin of a catalogue on the same pixels.

    Parameters
    ----------
    catalogue : Catalogue
        The galaxies of all bins, with ``bins``. Those with a negative number are in none.
    pixel, shape, centre, least
        See :func:`bin_shear`. By default the map just holds the galaxies of all bins.

    Returns
    -------
    dict of int to ShearMap
        The map of each bin by its number, in order. The noise is that of the galaxies of the bin.

    Raises
    ------
    InputError
        If the catalogue has no bins, no galaxy is in one, or for a reason of :func:`bin_shear`.
    """
    who = "bin_shear_tomographic"
    _check_arguments(catalogue, least, who)
    if catalogue.bins is None:
        raise InputError(
            f"{who}: the catalogue has no bins. Give read_catalogue bins='COLUMN', or "
            "Catalogue(..., bins=)."
        )
    side, numbers = radians(pixel, f"{who}: pixel"), catalogue.bins.numpy()
    used = (numbers >= 0) & (catalogue.w > 0).numpy()
    if not used.any():
        raise InputError(
            f"{who}: no galaxy with a weight has a bin >= 0. Check the column of the bins."
        )
    plane = _project(Galaxies.of(catalogue, used), side, centre)
    grid, maps = _grid(plane, shape, pixel, side), {}
    for number in sorted({int(n) for n in numbers[used]}):
        galaxies = Galaxies.of(catalogue, used & (numbers == number))
        own = _project(galaxies, side, (plane.lon, plane.lat))
        gamma, noise = galaxies.average(own, grid, least=least)
        maps[number] = _shear_map(gamma, noise, plane, grid, pixel)
    return maps


def _check_arguments(catalogue: Any, least: Any, who: str) -> None:
    if not isinstance(catalogue, Catalogue):
        raise InputTypeError(
            f"{who}: expected a Catalogue, got {type(catalogue).__name__}. "
            "Read one with read_catalogue."
        )
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise InputError(f"{who}: least must be an integer >= 1, got {least!r}.")


def _shear_map(gamma: Tensor, noise: Tensor, plane: Plane, grid: Grid, pixel: Any) -> ShearMap:
    text = pixel.strip() if isinstance(pixel, str) else pixel_text(arcmin(pixel))
    cards = _cards(plane, grid, math.degrees(radians(pixel)))
    return ShearMap(gamma, noise, text, True, cards, binned=True)


def _project(galaxies: Galaxies, side: float, centre: tuple[float, float] | None) -> Plane:
    lon, lat = _mean_direction(galaxies.s) if centre is None else _checked_centre(centre)
    return on_plane(Axes.north_up(lon, lat), galaxies, side, (lon, lat))


def _mean_direction(s: np.ndarray) -> tuple[float, float]:
    x, y, z = (float(v) for v in s.mean(axis=1))
    if math.hypot(x, y, z) < 0.1:
        raise InputError(
            "bin_shear: the galaxies lie all over the sky, without a mean direction. "
            "Give centre= and shape=."
        )
    return math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))


def _checked_centre(centre: Any) -> tuple[float, float]:
    pair = isinstance(centre, (tuple, list)) and len(centre) == 2
    if (
        not pair
        or not all(finite_number(value) for value in centre)
        or not (-180 <= centre[0] <= 360 and -90 <= centre[1] <= 90)
    ):
        raise InputError(
            "bin_shear: centre must be (ra, dec) in degrees, -180 to 360 and -90 to 90, "
            f"got {centre!r}."
        )
    return float(centre[0]) % 360, float(centre[1])


def _grid(plane: Plane, shape: tuple[int, int] | None, pixel: Any, side: float) -> Grid:
    """Return the map of that shape about the centre, or the one that just holds all galaxies."""
    if shape is None:
        distance = math.degrees(math.acos(max(-1.0, min(1.0, float(plane.cos.min())))))
        if distance > MAX_DISTANCE:
            raise InputError(
                f"bin_shear: galaxies lie up to {distance:.4g} degrees from the centre; "
                f"a flat map holds {MAX_DISTANCE:g}. Cut the catalogue."
            )
        height, width = (math.floor(np.ptp(x) + 0.5) + 1 for x in (plane.eta, plane.xi))
        grid = Grid(height, width, -float(plane.eta.min()), float(plane.xi.max()))
    else:
        pair = isinstance(shape, (tuple, list)) and len(shape) == 2
        if not pair or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
            raise InputError(f"bin_shear: shape must be (H, W), two integers >= 1, got {shape!r}.")
        height, width = shape
        grid = Grid(height, width, (height - 1) / 2, (width - 1) / 2)
    if max(height, width) > MAX_PIXELS:
        span = " by ".join(f"{math.degrees(n * side):.4g}" for n in (width, height))
        raise InputError(
            f"bin_shear: a map of {span} degrees in pixels of {pixel} has {width} by {height} "
            f"pixels; at most {MAX_PIXELS} a side. "
            "Take larger pixels, or give shape= and centre=."
        )
    return grid


def _cards(plane: Plane, grid: Grid, side: float) -> str:
    """Return the cards of the WCS of a map, one a line."""
    header = require("astropy.io.fits", "The header of a map").Header()
    for axis, kind, value, step, reference in (
        (1, "RA---TAN", plane.lon, -side, grid.column),
        (2, "DEC--TAN", plane.lat, side, grid.row),
    ):
        header[f"CTYPE{axis}"] = kind
        header[f"CUNIT{axis}"] = "deg"
        header[f"CRVAL{axis}"] = value
        header[f"CRPIX{axis}"] = reference + 1
        header[f"CDELT{axis}"] = step
    header["RADESYS"] = "ICRS"
    return header.tostring(sep="\n", endcard=False, padding=False).rstrip()


__all__ = ["bin_shear", "bin_shear_tomographic"]
