r"""Read shear maps from FITS files, and write convergence maps into them.

Arrays keep the order that astropy and numpy show, (H, W) = (NAXIS2, NAXIS1). The last axis is x,
the first axis of FITS; row 0 is the lowest of the picture, so that y grows with the row. These are
the axes of :mod:`pnp_mlpatch.operators.lensing`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.lensing._hdus import (
    as_path,
    as_plane,
    astropy_warnings,
    hdu_names,
    header_of,
    listed,
    read_image,
    split_source,
    with_fits,
)
from pnp_mlpatch.lensing._maps import Source, components, map_of, mask_of, noise_of_density
from pnp_mlpatch.lensing._shear_map import ShearMap
from pnp_mlpatch.lensing._wcs import pixel_and_flip, pixel_scale
from pnp_mlpatch.lensing.units import SHAPE_NOISE, arcmin

_PROVENANCE = "pnp|"  # begins a HISTORY card of provenance; it ends with "|", so spaces are kept


def read_shear(
    path: str | PathLike[str],
    *,
    gamma1: str | int | None = None,
    gamma2: str | int | None = None,
    noise: float | Source | None = None,
    n_gal: float | Source | None = None,
    mask: Source | None = None,
    shape_noise: float = SHAPE_NOISE,
    pixel: Any = None,
    flip_ra: bool | None = None,
) -> ShearMap:
    r"""Read a shear map from a FITS file, or from a .npy array (2, H, W).

    The components are the images GAMMA1 and GAMMA2, E1 and E2, or G1 and G2 (EXTNAME, in any case),
    or a cube (2, H, W) that is named SHEAR or GAMMA or is alone in its file.

    An image is named by "NAME", "[3]" (its number from 0), "other.fits[NAME]", "other.fits" (if it
    has one image), or "other.npy".

    Parameters
    ----------
    path : str or path
        The file.
    gamma1, gamma2 : str or int, optional
        Names or numbers of the two components, or with ``gamma1`` alone of a cube.
    noise : float, str or Tensor, optional
        Standard deviation of each component: a number, a map (H, W), or the name of an image.
        By default the image NOISE. Infinite where nothing was measured.
    n_gal : float, str or Tensor, optional
        Galaxies per square arcminute, from which the noise follows, see
        :func:`~pnp_mlpatch.lensing.units.pixel_noise`. By default the image NGAL. Give ``noise`` or
        ``n_gal``, not both.
    mask : str, int or Tensor, optional
        0 where nothing is seen. By default the image MASK, if there is one.
    shape_noise : float
        Standard deviation of one component of the ellipticity of a galaxy.
    pixel : str or astropy quantity, optional
        Side of a pixel with its unit, "0.29 arcmin". By default from the WCS of the file.
    flip_ra : bool, optional
        See :class:`ShearMap`. By default, whether right ascension falls along the columns; False
        without a celestial WCS. The shear is taken to be along (right ascension, declination); give
        False if it is along (columns, rows).

    Returns
    -------
    ShearMap
        The shear, its noise, and the cards of the header.

    Raises
    ------
    FileError
        If the file is missing, damaged, not FITS, or without these images.
    InputError
        If shapes, pixel sizes, orientation or values are invalid, see :class:`ShearMap`.
    MissingPackage
        Without astropy.
    """
    path = as_path(path, "read_shear")
    if flip_ra is not None and not isinstance(flip_ra, bool):
        raise InputTypeError(f"read_shear: flip_ra must be True, False or None, got {flip_ra!r}.")
    if noise is not None and n_gal is not None:
        raise InputError("read_shear: give noise or n_gal, not both.")
    gamma, cards = components(path, gamma1, gamma2)
    side, flip = pixel_and_flip(cards, path, pixel, flip_ra)
    names = hdu_names(path)
    inside = mask_of("MASK" if mask is None and "MASK" in names else mask, path, gamma)
    if noise is None and n_gal is None:
        noise = "NOISE" if "NOISE" in names else None
        n_gal = "NGAL" if noise is None and "NGAL" in names else None
    if noise is not None:
        std = map_of(noise, path, tuple(gamma.shape[1:]), "noise")
    elif n_gal is not None:
        std = noise_of_density(n_gal, path, gamma, inside, side, shape_noise)
    else:
        raise InputError(
            f"{path}: the noise is not known. Give noise=, the standard deviation of a component, "
            "or n_gal=, galaxies per square arcminute: numbers, or maps. "
            f"Images in the file: {listed(path)}."
        )
    gamma, std = torch.where(inside, gamma, 0.0), torch.where(inside, std, torch.inf)
    try:
        return ShearMap(gamma, std, side, flip, cards)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_map(
    path: str | PathLike[str], hdu: str | int | None = None
) -> tuple[Tensor, str | None, str]:
    """Read one map from a FITS or .npy file.

    Parameters
    ----------
    path : str or path
        The file.
    hdu : str or int, optional
        Name or number of an image. By default KAPPA_E, KAPPA, or the only image.

    Returns
    -------
    values : Tensor, shape (H, W)
        float64; may hold NaN.
    pixel : str or None
        Side of a pixel with its unit, None if the header does not tell it.
    header : str
        The cards of the header, one a line.

    Raises
    ------
    FileError
        If the file is missing, damaged, or without this image.
    InputError
        If the image is not (H, W), or its pixels are not square.
    """
    path = as_path(path, "read_map")
    if hdu is None:
        hdu = next((name for name in ("KAPPA_E", "KAPPA") if name in hdu_names(path)), None)
    data, cards, name = read_image(path, hdu)
    return as_plane(data, name), pixel_scale(cards, path)[0] if cards else None, cards


def read_provenance(path: str | PathLike[str]) -> dict[str, Any]:
    """Read the ``provenance`` that :func:`write_convergence` was given.

    Parameters
    ----------
    path : str or path
        A FITS file.

    Returns
    -------
    dict
        Plain JSON values; empty where the file has none.

    Raises
    ------
    FileError
        If the file cannot be read, or its provenance is damaged.
    """
    path = as_path(path, "read_provenance")
    lines = with_fits(path, lambda hdus: [str(line) for line in hdus[0].header.get("HISTORY", [])])
    text = "".join(
        line[len(_PROVENANCE) : -1]
        for line in lines
        if line.startswith(_PROVENANCE) and line.endswith("|")
    )
    try:
        return json.loads(text) if text else {}
    except json.JSONDecodeError as error:
        raise FileError(
            f"{path}: its provenance is damaged ({error}). Write the file again."
        ) from error


def write_convergence(
    path: str | PathLike[str],
    kappa: Tensor,
    shear: ShearMap,
    *,
    more: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write E and B as the images KAPPA_E and KAPPA_B of a FITS file, float32.

    The file is written whole or not at all. All images get the WCS and the other cards of
    ``shear``. BUNIT is empty: the convergence has no dimension. Equal input gives equal bytes.

    Parameters
    ----------
    path : str or path
        A file ending in .fits, .fit or .fts.
    kappa : Tensor, shape (2, H, W) or (1, 2, H, W)
        The convergence, E and B.
    shear : ShearMap
        The shear map that ``kappa`` comes from.
    more : mapping of str to Tensor, optional
        Further maps (H, W) by name, such as MASK or SPREAD. Booleans become 0 and 1.
    provenance : mapping, optional
        Plain JSON values, kept in HISTORY cards of the primary HDU, see :func:`read_provenance`.

    Raises
    ------
    InputError
        If a shape, name or ending is invalid, or values of kappa are not finite.
    InputTypeError
        If a map is no tensor, or ``provenance`` is not JSON.
    FileError
        If the file cannot be written.
    """
    fits = require("astropy.io.fits", "Writing FITS")
    path = as_path(path, "write_convergence")
    if path.suffix.lower() not in (".fits", ".fit", ".fts"):
        raise InputError(f"{path}: unknown ending '{path.suffix}'. Writable: .fits, .fit, .fts.")
    images = _images_to_write(path, kappa, shear, more or {})
    cards = header_of(shear.header)
    if not {"CDELT1", "CD1_1"} & set(cards):  # no WCS: at least the size of the pixels
        for axis in (1, 2):
            cards[f"CDELT{axis}"], cards[f"CUNIT{axis}"] = arcmin(shear.pixel), "arcmin"
    primary = fits.PrimaryHDU()
    history = [str(line) for line in cards.get("HISTORY", [])]
    history = [line for line in history if not line.startswith(_PROVENANCE)]
    cards.remove("HISTORY", ignore_missing=True, remove_all=True)
    primary.header.extend(cards.cards, unique=False, update=False)
    for line in history + _history(path, provenance or {}):
        primary.header.add_history(line)
    for key in ("COMMENT", ""):
        cards.remove(key, ignore_missing=True, remove_all=True)
    hdus = fits.HDUList([primary])
    for name, values in images.items():
        array = values.detach().cpu().numpy()
        array = array.astype(np.uint8 if array.dtype == np.bool_ else np.float32)
        hdu = fits.ImageHDU(array, name=name)
        hdu.header["BUNIT"] = ("", "dimensionless" if name.startswith("KAPPA") else "")
        hdu.header.extend(cards.cards, unique=False, update=False)
        hdus.append(hdu)

    def write(temporary: Path) -> None:
        hdus.writeto(temporary, overwrite=True, output_verify="silentfix+ignore")

    with astropy_warnings():  # of cards of the input that it would write otherwise
        atomic_write(path, write)


def _images_to_write(
    path: Path, kappa: Tensor, shear: ShearMap, more: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the maps of :func:`write_convergence` by the names of their HDUs, checked."""
    if not isinstance(kappa, Tensor) or not kappa.is_floating_point():
        raise InputTypeError(
            f"{path}: kappa must be a floating tensor (2, H, W), E and B, got "
            f"{getattr(kappa, 'dtype', type(kappa).__name__)}."
        )
    if not isinstance(shear, ShearMap):
        raise InputTypeError(
            f"{path}: shear must be the ShearMap that kappa comes from, got {type(shear).__name__}."
        )
    shape = tuple(shear.noise.shape)
    maps = kappa[0] if kappa.ndim == 4 and kappa.shape[0] == 1 else kappa
    if tuple(maps.shape) != (2, *shape):
        raise InputError(
            f"{path}: kappa must be (2, {shape[0]}, {shape[1]}), as the shear, "
            f"got {tuple(kappa.shape)}. Cut the padding away."
        )
    if bad := int((~torch.isfinite(maps)).sum()):
        raise InputError(f"{path}: {bad} values of kappa are NaN or infinite; it was not written.")
    images = {"KAPPA_E": maps[0], "KAPPA_B": maps[1]}
    for name, values in more.items():
        if not isinstance(values, Tensor) or values.is_complex():
            raise InputTypeError(
                f"{path}: {name} must be a real tensor (H, W), got {type(values).__name__}."
            )
        key = str(name).upper()
        if not re.fullmatch(r"[A-Z][A-Z0-9_-]{0,39}", key) or key in (*images, "PRIMARY"):
            raise InputError(
                f"{path}: {name!r} cannot name an image. "
                "Take letters, digits, _ and -, and each name once."
            )
        if tuple(values.shape) != shape:
            raise InputError(
                f"{path}: {name} must be {shape}, as the shear, got {tuple(values.shape)}."
            )
        images[key] = values
    return images


def _history(path: Path, provenance: Mapping[str, Any]) -> list[str]:
    """JSON in pieces that fit a card."""
    if not provenance:
        return []
    try:
        text = json.dumps(dict(provenance), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"{path}: provenance must be plain JSON values: texts, finite numbers, lists, "
            f"dictionaries ({error})."
        ) from error
    size = 72 - len(_PROVENANCE) - 1
    return [f"{_PROVENANCE}{text[k : k + size]}|" for k in range(0, len(text), size)]


__all__ = [
    "ShearMap",
    "read_map",
    "read_provenance",
    "read_shear",
    "split_source",
    "write_convergence",
]
