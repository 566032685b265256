r"""Catalogues of galaxies.

Ellipticities are shear estimates along x = East (growing right ascension) and y = North (growing
declination). A galaxy with :math:`e_1 > 0` is stretched along right ascension; one with
:math:`e_2 > 0` along the diagonal on which right ascension and declination grow together. With the
position angle :math:`\phi` from North through East, and :math:`|e| = (a - b) / (a + b)` or the
distortion divided by its responsivity,

.. math:: e_1 = -|e| \cos 2 \phi, \qquad e_2 = |e| \sin 2 \phi.

Surveys differ: where x is West, e_2 has the other sign, and ``flip_e2`` changes it. Where the
column of right ascension grows to the West, ``flip_ra`` changes its sign. With one wrong sign, E
modes become a mixture of E and B (:mod:`pnp_mlpatch.lensing.signs`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.reading import refuse_special
from pnp_mlpatch.lensing._hdus import FITS, as_path, split_source, with_fits

TABLES = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv"}


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Galaxies with their places, ellipticities and weights, N of each.

    Galaxies of weight 0 do not count, whatever their ellipticity. All fields are kept as float64.

    Parameters
    ----------
    ra : Tensor, shape (N,)
        Right ascension in degrees, -180 to 360.
    dec : Tensor, shape (N,)
        Declination in degrees, -90 to 90.
    e1, e2 : Tensor, shape (N,)
        Ellipticities along (East, North), of modulus below 1.
    w : Tensor, shape (N,)
        Weights, >= 0.
    bins : Tensor, shape (N,), optional
        Number of the tomographic bin of each galaxy, an integer; negative for none. Kept as int64.
    noise : Tensor, shape (N,), optional
        Standard deviation of one component, > 0, where it is known; by default the rms of all.

    Raises
    ------
    InputError
        If lengths differ, no galaxy has a weight, places are not on the sky, weights are negative
        or NaN, or ellipticities are NaN or not below 1. The message says how many.
    InputTypeError
        If a field is no real tensor (N,).
    """

    ra: Tensor
    dec: Tensor
    e1: Tensor
    e2: Tensor
    w: Tensor
    bins: Tensor | None = None
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        names = ("ra", "dec", "e1", "e2", "w")
        for name in names:
            value = getattr(self, name)
            if not isinstance(value, Tensor) or value.is_complex() or value.ndim != 1:
                got = tuple(getattr(value, "shape", ())) or type(value)
                raise InputTypeError(f"Catalogue: {name} must be a real tensor (N,), got {got}.")
            object.__setattr__(self, name, value.detach().cpu().double())
        lengths = [len(getattr(self, name)) for name in names]
        if len(set(lengths)) > 1:
            raise InputError(
                f"Catalogue: ra, dec, e1, e2 and w must be equally long, got {lengths}."
            )
        if bad := int((~((self.w >= 0) & torch.isfinite(self.w))).sum()):
            raise InputError(
                f"Catalogue: {bad} of {lengths[0]} weights are negative, NaN or infinite. "
                "Give weights >= 0, 0 for what is not used."
            )
        used = self.w > 0
        if not bool(used.any()):
            raise InputError(
                "Catalogue: no galaxy has a weight above 0. Check the column of weights."
            )
        for name, low, high in (("ra", -180, 360), ("dec", -90, 90)):
            value = getattr(self, name)
            if bad := int((used & ~((value >= low) & (value <= high))).sum()):
                raise InputError(
                    f"Catalogue: {name} of {bad} galaxies is NaN or outside {low} to {high} "
                    "degrees. Are the columns swapped, or in another unit?"
                )
        if bad := int((used & ~(torch.hypot(self.e1, self.e2) < 1)).sum()):
            raise InputError(
                f"Catalogue: the ellipticity of {bad} of {lengths[0]} galaxies is NaN or not below "
                "1. Cut them, or give them the weight 0."
            )
        object.__setattr__(self, "bins", _bin_numbers(self.bins, lengths[0]))
        object.__setattr__(self, "noise", _known_noise(self.noise, used))

    def __len__(self) -> int:
        return len(self.ra)


def _known_noise(noise: Any, used: Tensor) -> Tensor | None:
    """Return the noise of each entry (N,), if it is known."""
    if noise is None:
        return None
    values = torch.as_tensor(noise).detach().cpu().double()
    if values.shape != used.shape or not bool((values[used] > 0).all()):
        raise InputError(f"Catalogue: noise must be standard deviations > 0, {tuple(used.shape)}.")
    return values


def _bin_numbers(bins: Any, count: int) -> Tensor | None:
    """Return the numbers of the bins (N,) as integers, if there are bins."""
    if bins is None:
        return None
    if not isinstance(bins, Tensor) or bins.is_complex() or tuple(bins.shape) != (count,):
        got = tuple(getattr(bins, "shape", ())) or type(bins)
        raise InputTypeError(f"Catalogue: bins must be a real tensor ({count},), got {got}.")
    numbers = bins.detach().cpu()
    if bad := int((numbers != numbers.nan_to_num(0.5).round()).sum()):
        raise InputError(
            f"Catalogue: the bins of {bad} of {count} galaxies are no integers. Give numbers such "
            "as 0, 1, 2, and -1 for none; np.digitize makes them from redshifts."
        )
    return numbers.long()


@dataclass(frozen=True)
class _Table:
    """The columns of a table: their names, and ``get(name)`` -> (values, unit)."""

    names: list[str]
    get: Callable[[str], tuple[Any, Any]]


def read_catalogue(
    path: str | PathLike[str],
    *,
    ra: str = "ra",
    dec: str = "dec",
    e1: str = "e1",
    e2: str = "e2",
    w: str | None = "w",
    bins: str | None = None,
    flip_e2: bool = False,
    flip_ra: bool = False,
) -> Catalogue:
    """Read a catalogue from a table in a FITS, .csv or .ecsv file.

    Parameters
    ----------
    path : str or path
        The file, or "file.fits[NAME]". By default the first table of a FITS file.
    ra, dec : str
        Names of columns, in any case: right ascension and declination. They are degrees unless the
        column has another unit (rad, hourangle, ...). Hours without a unit are not recognised.
    e1, e2 : str
        Names of columns: the ellipticities.
    w : str or None
        Name of the column of weights. With None, or without a column "w", all weights are 1.
    bins : str, optional
        Name of a column: the number of the tomographic bin.
    flip_e2 : bool
        Change the sign of e_2, for catalogues whose x is West.
    flip_ra : bool
        Change the sign of right ascension, for tables in which it grows to the West, such as
        offsets along the columns of an image.

    Returns
    -------
    Catalogue
        The galaxies.

    Raises
    ------
    FileError
        If the file is missing, damaged, or without these columns.
    InputError
        If units or values are invalid, see :class:`Catalogue`.
    MissingPackage
        Without astropy.
    """
    for name, flip in (("flip_e2", flip_e2), ("flip_ra", flip_ra)):
        if not isinstance(flip, bool):
            raise InputTypeError(f"read_catalogue: {name} must be True or False, got {flip!r}.")
    path, which = split_source(str(as_path(path, "read_catalogue")), Path(path))
    wanted = {"ra": ra, "dec": dec, "e1": e1, "e2": e2} | ({} if w is None else {"w": w})
    wanted |= {} if bins is None else {"bins": bins}
    for name, column in wanted.items():
        if not isinstance(column, str):
            raise InputTypeError(
                f"read_catalogue: {name} must be the name of a column, got {column!r}."
            )
    if path.name.lower().endswith(FITS):
        table = with_fits(path, lambda hdus: _fits_table(hdus, which, wanted.values(), path))
    elif path.suffix.lower() in TABLES:
        table = _text_table(path)
    else:
        raise InputError(
            f"{path}: unknown ending '{path.suffix}'. Readable: {', '.join((*FITS, *TABLES))}."
        )
    columns = _read(table, wanted, path)
    columns.setdefault("w", np.ones(len(columns["ra"])))
    if flip_e2:
        columns["e2"] = -columns["e2"]
    try:
        found = Catalogue(**{name: torch.from_numpy(values) for name, values in columns.items()})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return replace(found, ra=-found.ra % 360) if flip_ra else found


def _read(table: _Table, wanted: dict[str, str], path: Path) -> dict[str, np.ndarray]:
    """Return the wanted columns as float64, by their use."""
    found, any_unit = {}, False
    for name, asked in wanted.items():
        column = _find(table.names, asked, name, path, optional=name == "w" and asked == "w")
        if column is not None:
            values, unit = table.get(column)
            unit = str(unit or "").strip() if name in ("ra", "dec") else ""
            any_unit = any_unit or bool(unit)
            found[name] = _values(values, unit, name, column, path)
    if not any_unit and len(found["ra"]):
        _warn_radians(found["ra"], found["dec"], path)
    return found


def _fits_table(hdus: Any, which: str | int | None, wanted: Iterable[str], path: Path) -> _Table:
    """Return the table of that name or number, or the first one with the wanted columns."""
    tables = [k for k, hdu in enumerate(hdus) if hasattr(hdu, "columns")]
    chosen = [
        k for k in tables if which in (None, k) or str(which).upper() == str(hdus[k].name).upper()
    ]
    if not chosen:
        held = ", ".join(f"[{k}] {hdus[k].name}" for k in tables) or "none"
        asked = "" if which is None else f" [{which}]"
        raise FileError(f"{path}: no table{asked}. Tables in the file: {held}.")
    hdu, lower, content = hdus[chosen[0]], {name.lower() for name in wanted}, {}
    for column in hdu.columns:
        if column.name.lower() in lower:
            values = hdu.data[column.name]
            if column.null is not None and np.asarray(values).dtype.kind in "iu":  # TNULL
                values = np.ma.masked_equal(values, column.null)
            content[column.name] = (values, column.unit)
    return _Table(list(hdu.columns.names), content.__getitem__)


def _text_table(path: Path) -> _Table:
    reader = require("astropy.table", "Reading a table").Table
    refuse_special(path)
    if not path.is_file():
        raise FileError(f"{path}: no such file. Check the path.")
    try:
        table = reader.read(path, format=TABLES[path.suffix.lower()])
    except Exception as error:  # astropy lets a dozen kinds through
        raise FileError(
            f"{path}: not a readable {path.suffix} table ({' '.join(str(error).split())[:300]})."
        ) from error
    return _Table(list(table.colnames), lambda column: (table[column], table[column].unit))


def _find(names: list[str], column: str, what: str, path: Path, *, optional: bool) -> str | None:
    """Return the column of that name, in any case; None if it is optional and missing."""
    found = [name for name in names if name == column]
    found = found or [name for name in names if name.lower() == column.lower()]
    if len(found) == 1:
        return found[0]
    if found:
        raise FileError(
            f"{path}: the columns {', '.join(found)} differ in case only. "
            f"Name one: {what}='{found[0]}'."
        )
    if not optional:
        raise FileError(
            f"{path}: no column '{column}'. It holds: {', '.join(names) or 'none'}. "
            f"Name one: {what}='NAME'."
        )
    others = [name for name in names if "weight" in name.lower()]
    if others:
        warnings.warn(
            f"{path}: no column 'w', so all galaxies weigh the same. Was w='{others[0]}' meant?",
            stacklevel=4,
        )
    return None


def _values(values: Any, unit: str, what: str, column: str, path: Path) -> np.ndarray:
    """Read a column as float64, angles in degrees, NaN where the table has no value."""
    mask = np.ma.getmaskarray(values) if hasattr(values, "mask") else None
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "fiu":
        hint = " Convert sexagesimal places to degrees." if what in ("ra", "dec") else ""
        raise InputError(
            f"{path}: column '{column}' must hold one real number a row, "
            f"got {array.dtype} {array.shape}.{hint}"
        )
    array = array.astype(np.float64)
    if mask is not None:
        array[mask] = np.nan
    return array * _degrees(unit, what, column, path) if unit else array


def _degrees(unit: str, what: str, column: str, path: Path) -> float:
    """Return the unit of an angle in degrees."""
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
            f"{path}: the unit '{unit}' of column '{column}' is no angle. "
            "Give degrees, or a unit such as rad or hourangle."
        ) from error


def _warn_radians(ra: np.ndarray, dec: np.ndarray, path: Path) -> None:
    """Warn where places without a unit, which are read as degrees, could be radians."""
    if np.ptp(ra) > 0 and np.abs(ra).max() <= 2 * math.pi and np.abs(dec).max() <= math.pi / 2:
        width, height = (60 * float(np.ptp(x)) for x in (ra, dec))
        warnings.warn(
            f"{path}: right ascension and declination, taken for degrees, span {width:.3g} by "
            f"{height:.3g} arcmin; as radians they would span {math.degrees(width / 60):.3g} "
            f"by {math.degrees(height / 60):.3g} degrees. "
            "If they are radians, give the columns the unit rad.",
            stacklevel=4,
        )


__all__ = ["Catalogue", "read_catalogue"]
