"""What the world coordinate system of a FITS header says of a map: pixel size and orientation."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.lensing._hdus import astropy_warnings, header_of
from pnp_mlpatch.lensing.units import RADIANS, arcmin, pixel_text

COARSE = 0.2  # degrees; a larger pixel, in a header without CUNIT, was probably meant in arcmin
MAX_ROTATION = 3.0  # degrees between columns and right ascension that flip_ra can neglect


def _wcs(cards: str, path: Path) -> Any:
    """Make astropy's WCS of the first two axes."""
    wcs = require("astropy.wcs", "Reading the WCS of FITS")
    with astropy_warnings():
        try:
            return wcs.WCS(header_of(cards), naxis=2)
        except Exception as error:  # of wcslib, a dozen kinds
            raise FileError(
                f"{path}: its WCS cannot be read ({' '.join(str(error).split())}). "
                "Correct the header."
            ) from error


def pixel_scale(cards: str, path: Path) -> tuple[str | None, Any]:
    """Return the side of a pixel with its unit (None if the header lacks it), and the WCS."""
    found = _wcs(cards, path)
    units = [str(unit) for unit in found.wcs.cunit]
    if not found.has_celestial and (units[0] != units[1] or units[0] not in RADIANS):
        return None, found
    header = header_of(cards)
    columns, rows = (float(side) for side in np.hypot(*found.pixel_scale_matrix))
    if abs(columns - rows) > 0.01 * max(columns, rows):
        raise InputError(
            f"{path}: pixels must be square, the WCS says {columns:.6g} by {rows:.6g} {units[0]}. "
            "Resample the map."
        )
    side = math.sqrt(columns * rows)
    if found.has_celestial and side > COARSE and "CUNIT1" not in header:
        raise InputError(
            f"{path}: the WCS says pixels of {side:.6g} degrees, the unit of FITS where CUNIT1 is "
            "absent. If arcmin were meant, put CUNIT1 and CUNIT2 = 'arcmin' or CDELT in degrees "
            "into the header; if it is right, put CUNIT1 = 'deg'."
        )
    return pixel_text(side * RADIANS[units[0]] / RADIANS["arcmin"]), found


def pixel_and_flip(cards: str, path: Path, pixel: Any, flip_ra: bool | None) -> tuple[str, bool]:
    """``pixel`` and ``flip_ra`` of a shear map, from what was given and what the header says."""
    side, found = pixel_scale(cards, path) if cards else (None, None)
    if pixel is not None:
        given = arcmin(pixel, "read_shear: pixel")
        if side is not None and abs(given / arcmin(side) - 1) > 0.01:
            raise InputError(
                f"{path}: the header says pixels of {side}, pixel= says {pixel}. Leave pixel= away "
                "if the header is right, else correct the header."
            )
        side = pixel.strip() if isinstance(pixel, str) else pixel_text(given)
    if side is None:
        raise InputError(
            f"{path}: the size of a pixel is not known, there is no WCS. Give pixel='0.29 arcmin'."
        )
    if flip_ra is not None or found is None or not found.has_celestial:
        return side, bool(flip_ra)
    d = found.pixel_scale_matrix[[found.wcs.lng, found.wcs.lat]]  # d (RA, Dec) / d (column, row)
    angle = math.degrees(
        max(math.atan2(abs(d[1, 0]), abs(d[0, 0])), math.atan2(abs(d[0, 1]), abs(d[1, 1])))
    )
    if angle > MAX_ROTATION:
        raise InputError(
            f"{path}: the map is turned by {angle:.3g} degrees against (right ascension, "
            "declination), and the axes of the shear may be too. Resample it with north up, or, "
            "if the shear is along (columns, rows), give flip_ra=False."
        )
    return side, bool(d[0, 0] * d[1, 1] < 0)
