r"""Shear maps on HEALPix pixels, to catalogues and back, and their FITS files (with astropy).

A map of resolution ``nside`` has :math:`12 \, \text{nside}^2` pixels, in the order RING or NESTED
(Gorski et al. 2005). Right ascension is the longitude and declination the latitude, in the frame of
the map. Shear is along (East, North), as in :mod:`pnp_mlpatch.lensing.catalogue`; where its x is
West, as in the convention of CMB maps (COSMO), :math:`\gamma_2` has the other sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing._hdus import as_path, astropy_warnings, with_fits
from pnp_mlpatch.lensing._shear_map import ShearMap
from pnp_mlpatch.lensing._sphere import directions, plane_of
from pnp_mlpatch.lensing.catalogue import Catalogue
from pnp_mlpatch.lensing.units import radians

UNSEEN = -1.6375e30  # what HEALPix files have where nothing was measured
MAX_NSIDE = 2**20


def healpix_centres(nside: int, pixels: Any = None, *, nest: bool = False) -> Tensor:
    """Return the centres of HEALPix pixels.

    Parameters
    ----------
    nside : int
        Resolution, a power of two.
    pixels : array_like of int, optional
        Numbers of pixels; by default all.
    nest : bool
        Whether they count in the order NESTED.

    Returns
    -------
    Tensor, shape (2, N)
        Right ascension, 0 to 360, and declination in degrees, float64.

    Raises
    ------
    InputError
        If ``nside`` or a number does not exist.

    References
    ----------
    Gorski et al. 2005.
    """
    _check_nside(nside, "healpix_centres")
    count = 12 * nside**2
    numbers = np.arange(count) if pixels is None else np.asarray(pixels)
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        raise InputError(
            f"healpix_centres: pixels must be integers (N,), got {numbers.dtype} {numbers.shape}."
        )
    numbers = numbers.astype(np.int64)
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() < count):
        raise InputError(
            f"healpix_centres: pixels of nside {nside} are from 0 to {count - 1}, got "
            f"{numbers.min()} to {numbers.max()}."
        )
    z, phi = (_nested if nest else _ring)(nside, numbers)
    return torch.from_numpy(np.stack([np.degrees(phi) % 360, np.degrees(np.arcsin(z))]))


def healpix_catalogue(gamma: Tensor, noise: Tensor, *, nest: bool = False) -> Catalogue:
    r"""Make a catalogue of the measured pixels of a HEALPix shear map.

    Each pixel becomes an entry at its centre with the weight :math:`1 / \sigma^2`. ``bin_shear``
    then averages those in a pixel of the plane, with the noise :math:`(\sum 1 / \sigma^2)^{-1/2}`,
    so take pixels of the plane that are no smaller than those of the sphere; smaller ones are
    partly empty.

    Parameters
    ----------
    gamma : Tensor, shape (2, 12 nside^2)
        The shear along (East, North).
    noise : Tensor, shape (12 nside^2,)
        Standard deviation of each component; infinite, NaN, 0 or UNSEEN where nothing was measured.
    nest : bool
        Whether the order is NESTED.

    Returns
    -------
    Catalogue
        With ``noise``.

    Raises
    ------
    InputError
        If the shapes are those of no HEALPix map, or nothing was measured.
    """
    if not all(isinstance(x, Tensor) and x.is_floating_point() for x in (gamma, noise)):
        raise InputTypeError("healpix_catalogue: gamma and noise must be floating tensors.")
    nside = math.isqrt(max(noise.numel(), 1) // 12)
    if noise.ndim != 1 or 12 * nside**2 != len(noise) or gamma.shape != (2, len(noise)):
        raise InputError(
            "healpix_catalogue: expected gamma (2, 12 nside^2) and noise (12 nside^2,), got "
            f"{tuple(gamma.shape)} and {tuple(noise.shape)}."
        )
    _check_nside(nside, "healpix_catalogue")
    gamma, noise = gamma.detach().cpu().double(), noise.detach().cpu().double()
    seen = torch.isfinite(noise) & (noise > 0) & (gamma.abs() < 1e30).all(0)
    if not bool(seen.any()):
        raise InputError(
            "healpix_catalogue: no pixel is measured. Give noise > 0, a standard deviation, and "
            "a finite shear."
        )
    pixels = seen.nonzero().flatten().numpy()
    ra, dec = healpix_centres(nside, pixels, nest=nest)
    e1, e2 = gamma[:, seen]
    return Catalogue(ra, dec, e1, e2, noise[seen].square().reciprocal(), noise=noise[seen])


def to_healpix(maps: Tensor, shear: ShearMap, nside: int, *, nest: bool = False) -> Tensor:
    """Interpolate maps on a tangent plane at the centres of HEALPix pixels (cubic splines).

    Parameters
    ----------
    maps : Tensor, shape (C, H, W)
        Scalar maps, such as ``MassMap.kappa``, on the pixels of ``shear``.
    shear : ShearMap
        The map of :func:`~pnp_mlpatch.lensing.binning.bin_shear`, whose WCS places the pixels.
    nside : int
        Resolution, a power of two. Its pixels should be no larger than those of the maps, since
        nothing is averaged.
    nest : bool
        Whether the order is NESTED.

    Returns
    -------
    Tensor, shape (C, 12 nside^2)
        float64; NaN outside of the map and where the nearest pixel was not measured.
    """
    if not isinstance(maps, Tensor) or maps.shape[-2:] != shear.noise.shape or maps.ndim != 3:
        raise InputError(
            f"to_healpix: maps must be (C, {', '.join(map(str, shear.noise.shape))}), as the "
            f"shear, got {tuple(getattr(maps, 'shape', ()))}."
        )
    ndimage = require("scipy.ndimage", "Interpolating to HEALPix")
    _check_nside(nside, "to_healpix")
    (axes, row, column), side = plane_of(shear, "to_healpix"), radians(shear.pixel)
    centres = healpix_centres(nside, nest=nest).numpy()
    xi, eta, cos = axes.project(directions(*centres))
    rows, columns = row + eta / side, column - xi / side
    height, width = shear.noise.shape
    inside = (cos > 0.1) & (rows > -0.5) & (rows < height - 0.5)
    inside &= (columns > -0.5) & (columns < width - 0.5)
    places = np.stack([rows[inside], columns[inside]])
    near = np.rint(places).astype(np.int64).clip(0, [[height - 1], [width - 1]])
    seen = shear.seen.numpy()[near[0], near[1]]
    whole = np.full((len(maps), centres.shape[1]), np.nan)
    for x, found in zip(maps, whole, strict=True):
        values = ndimage.map_coordinates(
            x.detach().cpu().double().numpy(), places, order=3, mode="nearest"
        )
        found[inside] = np.where(seen, values, np.nan)
    return torch.from_numpy(whole)


def read_healpix(path: str | PathLike[str], columns: list[str]) -> tuple[Tensor, bool]:
    """Read columns of a HEALPix FITS file: of the whole sky, or of a part with their pixels.

    Parameters
    ----------
    path : str or path
        The file, as healpy writes it.
    columns : list of str
        Their names, in any case.

    Returns
    -------
    tuple of Tensor, shape (C, 12 nside^2), and bool
        The maps, float64, NaN where nothing was measured, and whether the order is NESTED.

    Raises
    ------
    FileError
        If the file is none, or has no such column.
    """
    path = as_path(path, "read_healpix")

    def get(hdus: Any) -> tuple[Tensor, bool]:
        for hdu in hdus:
            if str(hdu.header.get("PIXTYPE", "")).strip().upper() == "HEALPIX":
                return _maps(hdu, columns, path)
        raise FileError(f"{path}: no HEALPix table (PIXTYPE = 'HEALPIX'). Is it a flat map?")

    return with_fits(path, get)


def write_healpix(
    path: str | PathLike[str], maps: Mapping[str, Tensor], *, nest: bool = False
) -> None:
    """Write HEALPix maps to a FITS file that healpy reads, the measured pixels only.

    Parameters
    ----------
    path : str or path
        The file, written whole or not at all.
    maps : mapping of str to Tensor, shape (12 nside^2,)
        The maps by the names of their columns; NaN where there is nothing.
    nest : bool
        Whether their order is NESTED.

    Raises
    ------
    InputError
        If they are no HEALPix maps of one size.
    FileError
        If the file cannot be written.
    """
    fits, path = require("astropy.io.fits", "Writing FITS"), as_path(path, "write_healpix")
    lengths = {len(x) for x in maps.values() if isinstance(x, Tensor) and x.ndim == 1}
    nside = math.isqrt(max(lengths or {0}) // 12)
    if len(lengths) != 1 or lengths != {12 * nside**2} or any(x.ndim != 1 for x in maps.values()):
        raise InputError(
            f"{path}: expected HEALPix maps (12 nside^2,) of one size, got "
            f"{[tuple(getattr(x, 'shape', ())) for x in maps.values()]}."
        )
    _check_nside(nside, "write_healpix")
    values = {name: x.detach().cpu().double() for name, x in maps.items()}
    pixels = torch.stack([torch.isfinite(x) for x in values.values()]).any(0).nonzero().flatten()
    columns = [fits.Column("PIXEL", "K", array=pixels.numpy())] + [
        fits.Column(name, "E", array=x[pixels].nan_to_num(UNSEEN).numpy())
        for name, x in values.items()
    ]
    table = fits.BinTableHDU.from_columns(columns, name="XTENSION")
    for key, value in (
        ("PIXTYPE", "HEALPIX"),
        ("ORDERING", "NESTED" if nest else "RING"),
        ("NSIDE", nside),
        ("INDXSCHM", "EXPLICIT"),
        ("OBJECT", "PARTIAL"),
        ("OBS_NPIX", len(pixels)),
        ("COORDSYS", "C"),
    ):
        table.header[key] = value
    hdus = fits.HDUList([fits.PrimaryHDU(), table])
    with astropy_warnings():
        atomic_write(path, lambda temporary: hdus.writeto(temporary, overwrite=True))


def _maps(hdu: Any, columns: list[str], path: Any) -> tuple[Tensor, bool]:
    """Return the columns of a HEALPix table as whole maps, and whether they are NESTED."""
    header, known = hdu.header, {name.upper(): name for name in hdu.columns.names}
    nside, order = header.get("NSIDE", 0), str(header.get("ORDERING", "")).strip().upper()
    if order not in ("RING", "NESTED", "NEST"):
        raise FileError(f"{path}: ORDERING must be RING or NESTED, got {order!r}.")
    _check_nside(nside, str(path))
    if missing := [name for name in columns if name.upper() not in known]:
        raise FileError(
            f"{path}: no column '{missing[0]}'. It holds: {', '.join(hdu.columns.names)}."
        )
    found = [np.asarray(hdu.data[known[name.upper()]], np.float64).ravel() for name in columns]
    whole = np.full((len(columns), 12 * nside**2), np.nan)
    if str(header.get("INDXSCHM", "")).strip().upper() == "EXPLICIT":
        key = known.get("PIXEL", hdu.columns.names[0])
        pixels = np.asarray(hdu.data[key], np.int64).ravel()
    else:
        pixels = np.arange(len(found[0])) + int(header.get("FIRSTPIX", 0))
    if len(pixels) != len(found[0]) or not (pixels.min() >= 0 and pixels.max() < whole.shape[1]):
        raise FileError(f"{path}: its pixels do not fit NSIDE = {nside}. Write the file again.")
    whole[:, pixels] = np.stack(found)
    whole[~(np.abs(whole) < 1e30)] = np.nan
    return torch.from_numpy(whole), order != "RING"


def _check_nside(nside: Any, who: str) -> None:
    whole = isinstance(nside, int) and not isinstance(nside, bool) and 1 <= nside <= MAX_NSIDE
    if not whole or nside & (nside - 1):
        raise InputError(f"{who}: nside must be a power of two, up to 2^20, got {nside!r}.")


def _ring(nside: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return z and the longitude of pixels in the order RING (equations 2 to 9)."""
    count, cap = 12 * nside**2, 2 * nside * (nside - 1)
    south = pixels >= count - cap
    p = np.where(south, count - 1 - pixels, pixels)
    polar = p < cap
    half = (p + 1) / 2
    ring = np.floor(np.sqrt(half - np.sqrt(np.floor(half)))).astype(np.int64) + 1
    ring = np.where(polar, ring, (p - cap) // (4 * nside) + nside)
    j = np.where(polar, p + 1 - 2 * ring * (ring - 1), (p - cap) % (4 * nside) + 1)
    z = np.where(polar, 1 - ring**2 / (3 * nside**2), 4 / 3 - 2 * ring / (3 * nside))
    shift = np.where(polar | ((ring - nside) % 2 == 0), 0.5, 1.0)
    phi = math.pi / 2 * (j - shift) / np.where(polar, ring, nside)
    return np.where(south, -z, z), np.where(south, 2 * math.pi - phi, phi)


def _nested(nside: int, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return z and the longitude of pixels in the order NESTED (equations 10 to 17)."""
    face, inside = pixels // nside**2, pixels % nside**2
    x, y = (
        sum(((inside >> (2 * bit + odd)) & 1) << bit for bit in range(nside.bit_length()))
        for odd in (0, 1)
    )
    ring = (face // 4 + 2) * nside - x - y - 1
    per = np.minimum(np.minimum(ring, 4 * nside - ring), nside)
    cap = 1 - per**2 / (3 * nside**2)
    z = np.where(ring < nside, cap, np.where(ring > 3 * nside, -cap, (2 - ring / nside) * 2 / 3))
    first = 2 * (face % 4) + (face // 4 != 1)
    return z, math.pi / 4 * ((first * per + x - y) % (8 * per)) / per


__all__ = [
    "healpix_catalogue",
    "healpix_centres",
    "read_healpix",
    "to_healpix",
    "write_healpix",
]
