r"""Catalogues of galaxies, and the shear maps that they make.

Ellipticities are shear estimates along the axes x = East (growing right ascension) and y = North (growing declination): e_1 > 0 is
stretched along right ascension, e_2 > 0 along the diagonal on which right ascension and declination grow together. With the position
angle phi from North through East, and |e| = (a - b) / (a + b) or the distortion divided by its responsivity,

    e_1 = -|e| cos(2 phi),   e_2 = |e| sin(2 phi).

Surveys differ: where x is West, e_2 has the other sign, and ``flip_e2`` turns it. With the wrong one, E modes become a mixture of E and B.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.reading import refuse_special
from pnp_mlpatch.lensing.fits import FITS, ShearMap, as_path, pixel_text, split_source, with_fits
from pnp_mlpatch.lensing.units import arcmin, radians

TABLES = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv"}
LARGEST = 8192  # pixels a side
WIDEST = 60.0  # degrees from the centre


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Galaxies: ``ra`` and ``dec`` in degrees, ``e1`` and ``e2`` along (East, North), weights ``w``; (N,) float64 tensors.

    Galaxies of weight 0 do not count, whatever their ellipticity. Raises :class:`InputError` for lengths that differ, no galaxies, places
    that are not on the sky, negative or NaN weights, and ellipticities that are NaN or not below 1, with their number.
    """

    ra: Tensor
    dec: Tensor
    e1: Tensor
    e2: Tensor
    w: Tensor

    def __post_init__(self) -> None:
        names = ("ra", "dec", "e1", "e2", "w")
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.is_complex() or value.ndim != 1:
                raise InputTypeError(
                    f"Catalogue: {name} must be a real tensor (N,), got {tuple(getattr(value, 'shape', ())) or type(value)}."
                )
            object.__setattr__(self, name, value.detach().cpu().double())
        lengths = [len(getattr(self, name)) for name in names]
        if len(set(lengths)) > 1:
            raise InputError(
                f"Catalogue: ra, dec, e1, e2 and w must be equally long, got {lengths}."
            )
        if bad := _count(~((self.w >= 0) & torch.isfinite(self.w))):
            raise InputError(
                f"Catalogue: {bad} of {lengths[0]} weights are negative, NaN or infinite. Give weights >= 0, 0 for what is not used."
            )
        used = self.w > 0
        if not bool(used.any()):
            raise InputError(
                "Catalogue: no galaxy has a weight above 0. Check the column of weights."
            )
        for name, low, high in (("ra", -180, 360), ("dec", -90, 90)):
            value = getattr(self, name)
            if bad := _count(used & ~((value >= low) & (value <= high))):
                raise InputError(
                    f"Catalogue: {name} of {bad} galaxies is NaN or outside {low} to {high} degrees. Are the columns swapped, or in another unit?"
                )
        if bad := _count(used & ~(torch.hypot(self.e1, self.e2) < 1)):
            raise InputError(
                f"Catalogue: the ellipticity of {bad} of {lengths[0]} galaxies is NaN or not below 1. Cut them, or give them the weight 0."
            )

    def __len__(self) -> int:
        return len(self.ra)


def _count(x: Tensor) -> int:
    return int(x.sum())


def read_catalogue(
    path: str | PathLike[str],
    *,
    ra: str = "ra",
    dec: str = "dec",
    e1: str = "e1",
    e2: str = "e2",
    w: str | None = "w",
    flip_e2: bool = False,
) -> Catalogue:
    """A catalogue from the first table of a FITS file, of "file.fits[NAME]", or from a .csv or .ecsv file.

    ``ra``, ``dec``, ``e1``, ``e2`` and ``w`` name columns, in any case. Right ascension and declination are degrees unless the column
    has another unit (rad, hourangle, ...); hours without a unit are not guessed. Without a column "w", or with ``w=None``, all galaxies
    weigh the same. ``flip_e2`` changes the sign of e_2, for catalogues whose x is West.

    Raises :class:`FileError` for a file that is missing, damaged or without these columns, :class:`InputError` for units and values that
    cannot be, see :class:`Catalogue`, and :class:`MissingPackage` without astropy.
    """
    if not isinstance(flip_e2, bool):
        raise InputTypeError(f"read_catalogue: flip_e2 must be True or False, got {flip_e2!r}.")
    path, which = split_source(str(as_path(path, "read_catalogue")), Path(path))
    wanted = {"ra": ra, "dec": dec, "e1": e1, "e2": e2, **({} if w is None else {"w": w})}
    for name, column in wanted.items():
        if not isinstance(column, str):
            raise InputTypeError(
                f"read_catalogue: {name} must be the name of a column, got {column!r}."
            )

    told: set[str] = set()  # which places have a unit

    def pick(names: list[str], get: Callable[[str], tuple[Any, Any]]) -> dict[str, np.ndarray]:
        found = {
            name: _column(names, column, name, path, absent=name == "w" and column == "w")
            for name, column in wanted.items()
        }
        read = {
            name: (*get(column), column) for name, column in found.items() if column is not None
        }
        told.update(name for name in ("ra", "dec") if str(read[name][1] or "").strip())
        return {
            name: _values(values, unit, name, column, path)
            for name, (values, unit, column) in read.items()
        }

    if path.name.lower().endswith(FITS):

        def get(hdus: Any) -> dict[str, np.ndarray]:
            tables = [k for k, hdu in enumerate(hdus) if hasattr(hdu, "columns")]
            keys = [
                k
                for k in tables
                if which in (None, k) or str(which).upper() == str(hdus[k].name).upper()
            ]
            if not keys:
                held = ", ".join(f"[{k}] {hdus[k].name}" for k in tables) or "none"
                raise FileError(
                    f"{path}: no table{'' if which is None else f' [{which}]'}. Tables in the file: {held}."
                )
            hdu = hdus[keys[0]]
            return pick(
                list(hdu.columns.names),
                lambda column: (_with_nulls(hdu, column), hdu.columns[column].unit),
            )

        columns = with_fits(path, get)
    elif path.suffix.lower() in TABLES:
        table = _table(path)
        columns = pick(list(table.colnames), lambda column: (table[column], table[column].unit))
    else:
        raise InputError(
            f"{path}: unknown ending '{path.suffix}'. Readable: {', '.join((*FITS, *TABLES))}."
        )
    columns.setdefault("w", np.ones(len(columns["ra"])))
    if not told and len(columns["ra"]):
        _warn_radians(columns["ra"], columns["dec"], path)
    if flip_e2:
        columns["e2"] = -columns["e2"]
    try:
        return Catalogue(**{name: torch.from_numpy(values) for name, values in columns.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _with_nulls(hdu: Any, column: str) -> Any:
    """A column of a FITS table, its integers masked where they are TNULL."""
    values, null = hdu.data[column], hdu.columns[column].null
    return (
        np.ma.masked_equal(values, null)
        if null is not None and np.asarray(values).dtype.kind in "iu"
        else values
    )


def _table(path: Path) -> Any:
    table = require("astropy.table", "Reading a table").Table
    refuse_special(path)
    if not path.is_file():
        raise FileError(f"{path}: no such file. Check the path.")
    try:
        return table.read(path, format=TABLES[path.suffix.lower()])
    except Exception as error:  # astropy lets a dozen kinds through
        raise FileError(
            f"{path}: not a readable {path.suffix} table ({' '.join(str(error).split())[:300]})."
        ) from error


def _column(names: list[str], column: str, what: str, path: Path, *, absent: bool) -> str | None:
    """The column of that name, in any case; None if it may be absent and is."""
    found = [name for name in names if name == column] or [
        name for name in names if name.lower() == column.lower()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise FileError(
            f"{path}: the columns {', '.join(found)} differ in case only. Name one: {what}='{found[0]}'."
        )
    if not absent:
        raise FileError(
            f"{path}: no column '{column}'. It holds: {', '.join(names) or 'none'}. Name one: {what}='NAME'."
        )
    others = [name for name in names if "weight" in name.lower()]
    if others:
        warnings.warn(
            f"{path}: no column 'w', so all galaxies weigh the same. Was w='{others[0]}' meant?",
            stacklevel=4,
        )
    return None


def _values(values: Any, unit: Any, what: str, column: str, path: Path) -> np.ndarray:
    """A column as float64, angles in degrees, NaN where the table has no value."""
    mask = np.ma.getmaskarray(values) if hasattr(values, "mask") else None
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        hint = " Convert sexagesimal places to degrees." if what in ("ra", "dec") else ""
        raise InputError(
            f"{path}: column '{column}' must hold one real number a row, got {array.dtype} {array.shape}.{hint}"
        )
    array = array.astype(np.float64)
    if mask is not None:
        array[mask] = np.nan
    if what in ("ra", "dec") and unit is not None and str(unit).strip():
        array *= _degrees(str(unit).strip(), what, column, path)
    return array


def _warn_radians(ra: np.ndarray, dec: np.ndarray, path: Path) -> None:
    """Places without a unit that all fit radians are degrees by the rule, but may be meant otherwise."""
    if np.ptp(ra) > 0 and np.abs(ra).max() <= 2 * math.pi and np.abs(dec).max() <= math.pi / 2:
        width, height = (60 * float(np.ptp(x)) for x in (ra, dec))
        warnings.warn(
            f"{path}: right ascension and declination, taken for degrees, span {width:.3g} by {height:.3g} arcmin; as radians they "
            f"would span {width * 0.9549:.3g} by {height * 0.9549:.3g} degrees. If they are radians, give the columns the unit rad.",
            stacklevel=3,
        )


def _degrees(unit: str, what: str, column: str, path: Path) -> float:
    if unit.lower() in ("deg", "degree", "degrees"):
        return 1.0
    if what == "ra" and unit.lower() in ("h", "hr", "hour", "hours"):
        return 15.0
    try:
        return float(require("astropy.units", "Reading units").Unit(unit).to("deg"))
    except PnPError:
        raise
    except Exception as error:  # astropy's own kinds, which are not imported here
        raise InputError(
            f"{path}: the unit '{unit}' of column '{column}' is no angle. Give degrees, or a unit such as rad or hourangle."
        ) from error


def bin_shear(
    catalogue: Catalogue,
    pixel: Any,
    *,
    shape: tuple[int, int] | None = None,
    centre: tuple[float, float] | None = None,
    least: int = 1,
) -> ShearMap:
    r"""The shear map of a catalogue: weighted means on the pixels of a gnomonic projection, North up, East to the left.

        gamma = sum(w e) / sum(w),   noise = sigma_e sqrt(sum(w^2)) / sum(w),   sigma_e^2 = sum(w^2 |e|^2) / (2 sum(w^2))

    the first two over the galaxies of a pixel, sigma_e over the catalogue: the rms of one component, weighted as the variance of a mean
    weighs it, so that the noise is right on average too where w follows the noise of each galaxy.
    Away from ``centre`` North is not up: each ellipticity is first turned to the axes at the centre,

        e exp(-2 i psi),   psi = the angle from North towards East of a galaxy's North, carried to the centre along the great circle.

    ``pixel`` is the side of a pixel with its unit; ``centre`` the place (ra, dec) in degrees where the plane touches the sky, by
    default the mean direction of the galaxies. With ``shape`` (H, W) the map lies about it, and galaxies beyond are left out, with a
    warning; by default it holds all galaxies just so. Pixels with fewer than ``least`` galaxies are unseen. The WCS is in the header.

    Raises :class:`InputError` for a map above 8192 pixels a side, galaxies further than 60 degrees from the centre (without ``shape``),
    a map without galaxies, and ellipticities that are all 0, which have no noise.
    """
    if not isinstance(catalogue, Catalogue):
        raise InputTypeError(
            f"bin_shear: expected a Catalogue, got {type(catalogue).__name__}. Read one with read_catalogue."
        )
    if isinstance(least, bool) or not isinstance(least, int) or least < 1:
        raise InputError(f"bin_shear: least must be an integer >= 1, got {least!r}.")
    side = radians(pixel, "bin_shear: pixel")
    used = (catalogue.w > 0).numpy()
    ra, dec, e1, e2, w = (
        getattr(catalogue, name).numpy()[used] for name in ("ra", "dec", "e1", "e2", "w")
    )
    a, d = np.radians(ra), np.radians(dec)
    s = np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)])
    lon, lat = _mean_direction(s) if centre is None else _centre(centre)
    xi, eta, cos, turn = _tangent(s, a, d, math.radians(lon), math.radians(lat))
    xi, eta = xi / side, eta / side
    if shape is None:
        if (far := math.degrees(math.acos(max(-1.0, min(1.0, float(cos.min())))))) > WIDEST:
            raise InputError(
                f"bin_shear: galaxies lie up to {far:.4g} degrees from the centre; a flat map holds {WIDEST:g}. Cut the catalogue."
            )
        shape = (math.floor(np.ptp(eta) + 0.5) + 1, math.floor(np.ptp(xi) + 0.5) + 1)
        first = (
            -float(eta.min()),
            float(xi.max()),
        )  # row and column where the plane touches the sky
    else:
        if (
            not isinstance(shape, (tuple, list))
            or len(shape) != 2
            or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape)
        ):
            raise InputError(f"bin_shear: shape must be (H, W), two integers >= 1, got {shape!r}.")
        first = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    height, width = shape
    if max(shape) > LARGEST:
        span = " by ".join(f"{math.degrees(n * side):.4g}" for n in (width, height))
        raise InputError(
            f"bin_shear: a map of {span} degrees in pixels of {pixel} has {width} by {height} pixels; at most {LARGEST} a side. "
            "Take larger pixels, or give shape= and centre=."
        )
    front = cos > math.cos(math.radians(WIDEST))
    rows = np.floor(np.where(front, first[0] + eta, -1) + 0.5).astype(np.int64)
    columns = np.floor(np.where(front, first[1] - xi, -1) + 0.5).astype(np.int64)
    inside = front & (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    if not inside.any():
        raise InputError(
            f"bin_shear: no galaxy lies in the map of {width} by {height} pixels about ({lon:.6g}, {lat:.6g}). Check centre=."
        )
    if not inside.all():
        warnings.warn(
            f"bin_shear: {int((~inside).sum())} of {len(w)} galaxies lie outside of the map.",
            stacklevel=2,
        )
    sigma = math.sqrt(float((w**2 * (e1**2 + e2**2)).sum() / (2 * (w**2).sum())))
    if sigma == 0:
        raise InputError(
            "bin_shear: all ellipticities are 0, so their noise is not known. Check the columns e1 and e2."
        )
    place = (rows * width + columns)[inside]
    e = ((e1 + 1j * e2) * np.exp(-2j * turn))[inside]
    w = w[inside]

    def total(values: np.ndarray | None) -> Tensor:
        return torch.from_numpy(np.bincount(place, values, minlength=height * width)).reshape(
            height, width
        )

    weight, seen = total(w), total(None) >= least
    gamma = torch.stack([total(w * e.real), total(w * e.imag)]) / weight
    noise = sigma * total(w**2).sqrt() / weight
    if not bool(seen.any()):
        raise InputError(
            f"bin_shear: no pixel has {least} galaxies, at most {int(total(None).max())}. Take larger pixels or a smaller least."
        )
    cards = _cards_of(lon, lat, math.degrees(side), first)
    text = pixel.strip() if isinstance(pixel, str) else pixel_text(arcmin(pixel))
    return ShearMap(
        torch.where(seen, gamma, 0.0), torch.where(seen, noise, torch.inf), text, True, cards
    )


def _mean_direction(s: np.ndarray) -> tuple[float, float]:
    x, y, z = (float(v) for v in s.mean(axis=1))
    if math.hypot(x, y, z) < 0.1:
        raise InputError(
            "bin_shear: the galaxies lie all over the sky, without a mean direction. Give centre= and shape=."
        )
    return math.degrees(math.atan2(y, x)) % 360, math.degrees(math.atan2(z, math.hypot(x, y)))


def _centre(centre: Any) -> tuple[float, float]:
    whole = (
        isinstance(centre, (tuple, list))
        and len(centre) == 2
        and all(finite_number(value) for value in centre)
    )
    if not whole or not (-180 <= centre[0] <= 360 and -90 <= centre[1] <= 90):
        raise InputError(
            f"bin_shear: centre must be (ra, dec) in degrees, -180 to 360 and -90 to 90, got {centre!r}."
        )
    return float(centre[0]) % 360, float(centre[1])


def _tangent(
    s: np.ndarray, a: np.ndarray, d: np.ndarray, lon: float, lat: float
) -> tuple[np.ndarray, ...]:
    """Places on the plane, East and North in radians; the cosine of the distance to the centre; and psi, see :func:`bin_shear`."""
    east = np.array([-math.sin(lon), math.cos(lon), 0.0])
    north = np.array(
        [-math.sin(lat) * math.cos(lon), -math.sin(lat) * math.sin(lon), math.cos(lat)]
    )
    middle = np.array([math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)])
    x, y, cos = east @ s, north @ s, middle @ s
    up = np.stack(
        [-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)]
    )  # North at each galaxy
    carried = (middle @ up) / np.maximum(
        1 + cos, 1e-12
    )  # up - carried (s + middle) is up at the centre
    depth = np.maximum(cos, 1e-6)
    return x / depth, y / depth, cos, np.arctan2(east @ up - carried * x, north @ up - carried * y)


def _cards_of(lon: float, lat: float, side: float, first: tuple[float, float]) -> str:
    header = require("astropy.io.fits", "The header of a map").Header()
    for axis, kind, value, step, reference in (
        (1, "RA---TAN", lon, -side, first[1]),
        (2, "DEC--TAN", lat, side, first[0]),
    ):
        header[f"CTYPE{axis}"] = kind
        header[f"CUNIT{axis}"] = "deg"
        header[f"CRVAL{axis}"] = value
        header[f"CRPIX{axis}"] = reference + 1
        header[f"CDELT{axis}"] = step
    header["RADESYS"] = "ICRS"
    return header.tostring(sep="\n", endcard=False, padding=False).rstrip()


__all__ = ["Catalogue", "bin_shear", "read_catalogue"]
