r"""Shear maps from FITS files, and convergence maps into them.

Arrays keep the order of FITS as astropy and numpy show it, (H, W) = (NAXIS2, NAXIS1): the last axis is the first of FITS, x, and row 0 is
the lowest of the picture, so that rows count upwards, y. These are the axes of :mod:`pnp_mlpatch.operators.lensing`.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.reading import refuse_bomb, refuse_special
from pnp_mlpatch.lensing.units import RADIANS, SHAPE_NOISE, arcmin, pixel_noise, radians

FITS = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz")
PAIRS, CUBES = (("GAMMA1", "GAMMA2"), ("E1", "E2"), ("G1", "G2")), ("SHEAR", "GAMMA")
COARSE = 0.2  # degrees: a pixel beyond it, in a header without CUNIT, was meant in arcmin
TURNED = (
    3.0  # degrees between columns and right ascension from which on flip_ra cannot describe a map
)
_STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|EXTEND|GROUPS|BSCALE|BZERO|BLANK|BUNIT|DATAMIN|DATAMAX|EXTNAME|EXTVER|EXTLEVEL"
    r"|INHERIT|CHECKSUM|DATASUM|DATE|(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA|CNAME|PV|PS)[3-9](_\d+)?[A-Z]?|(CD|PC)(\d_[3-9]|[3-9]_\d)[A-Z]?"
)
_WCS = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA|CNAME)\d+[A-Z]?|(CD|PC|PV|PS)\d+_\d+[A-Z]?|(WCSAXES|WCSNAME|LONPOLE|LATPOLE|RADESYS|EQUINOX)[A-Z]?"
)
_PROVENANCE = (
    "pnp|"  # begins a HISTORY card of provenance, which ends with "|", so that no space is lost
)
_FILTERS = threading.RLock()
Source = str | int | Tensor  # of a map


@dataclass(frozen=True, eq=False)
class ShearMap:
    r"""A shear map and its noise, on square pixels of the tangent plane.

    ``gamma`` (2, H, W) float64 is gamma_1 and gamma_2, or the reduced shear, 0 where unseen; ``noise`` (H, W) float64 the standard
    deviation of each component, infinite where nothing was measured; ``pixel`` the side of a pixel with its unit, "0.293 arcmin".
    With ``flip_ra`` the columns run towards smaller right ascension (or, with rows towards smaller declination, towards larger)
    while gamma is given along (right ascension, declination), so that

        gamma_1 = gamma_1(column, row),   gamma_2 = -gamma_2(column, row).

    ``header`` holds the cards of the file, WCS and others, a line each, for the output. Pixels whose shear is NaN or infinite become
    unseen, with a warning. Raises :class:`InputError` for shapes that do not fit, a noise that is NaN or not positive, a shear further
    than 6 standard deviations beyond 1, which is none, and a map without a measured pixel.
    """

    gamma: Tensor
    noise: Tensor
    pixel: str
    flip_ra: bool = False
    header: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        gamma, noise = self.gamma, self.noise
        if not all(isinstance(x, Tensor) and not x.is_complex() for x in (gamma, noise)):
            raise InputTypeError(
                "ShearMap: gamma and noise must be real tensors, (2, H, W) and (H, W)."
            )
        if (
            gamma.ndim != 3
            or gamma.shape[0] != 2
            or noise.shape != gamma.shape[1:]
            or noise.numel() == 0
        ):
            raise InputError(
                f"ShearMap: expected gamma (2, H, W) and noise (H, W), got {tuple(gamma.shape)} and {tuple(noise.shape)}."
            )
        if not isinstance(self.pixel, str):
            raise InputTypeError(
                f"ShearMap: pixel must be a text with its unit, '0.29 arcmin', got {self.pixel!r}."
            )
        radians(self.pixel, "ShearMap: pixel")
        if not isinstance(self.flip_ra, bool) or not isinstance(self.header, str):
            raise InputTypeError("ShearMap: flip_ra must be True or False, and header a text.")
        gamma, noise = gamma.detach().double(), noise.detach().double()
        known = torch.isfinite(gamma).all(0)
        lost = int((~known & torch.isfinite(noise)).sum())
        noise = torch.where(known, noise, torch.inf)
        if bad := int((~(noise > 0)).sum()):
            raise InputError(
                f"ShearMap: the noise of {bad} pixels is NaN or not > 0. Give standard deviations > 0, infinite where nothing was measured, "
                "or a mask that leaves these pixels out."
            )
        seen = torch.isfinite(noise)
        if not bool(seen.any()):
            raise InputError(
                "ShearMap: no pixel is measured. Check the mask (not 0 = seen) and the noise (infinite = not measured)."
            )
        gamma = torch.where(seen, gamma, 0.0)
        size = torch.hypot(gamma[0], gamma[1])
        if wild := int((seen & (size > 1 + 6 * noise)).sum()):
            raise InputError(
                f"ShearMap: in {wild} pixels the shear is far beyond 1 (up to {float(size.max()):.4g}), which no shear is. "
                "Is it in per cent? If it marks pixels without data, mask them or make them NaN."
            )
        if lost:
            warnings.warn(
                f"ShearMap: the shear of {lost} pixels is NaN or infinite; they count as not measured.",
                stacklevel=3,
            )
        for name, value in (("gamma", gamma), ("noise", noise)):
            object.__setattr__(self, name, value)

    @property
    def seen(self) -> Tensor:
        """(H, W), True where something was measured."""
        return torch.isfinite(self.noise)


# ---- reading


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
    r"""A shear map from a FITS file, or a .npy array (2, H, W).

    The two components are the images GAMMA1 and GAMMA2, E1 and E2, or G1 and G2 (the names of HDUs, EXTNAME, in any case), or a cube
    (2, H, W) named SHEAR or GAMMA, or alone in its file. ``gamma1`` and ``gamma2`` name others, or ``gamma1`` alone a cube.
    The noise is the image NOISE (standard deviations, infinite where nothing was measured), or follows from the image NGAL, galaxies for
    each square arcminute, and ``shape_noise``, see :func:`~pnp_mlpatch.lensing.units.pixel_noise`; ``noise`` or ``n_gal``, one of both,
    give a number for all pixels, or another map. The image MASK, or ``mask``, is 0 where nothing is seen; it may be absent.

    An image is told by "NAME", "[3]" (its number from 0), "other.fits[NAME]", "other.fits" if it has one only, or "other.npy".

    ``pixel`` comes from the WCS of the file, else give it with its unit, "0.29 arcmin". ``flip_ra`` is, by default, whether
    right ascension falls along the columns, False without a celestial WCS: the shear is taken to be along (right ascension, declination).
    Give False for shear along (columns, rows).

    Raises :class:`FileError` for a file that is missing, not FITS, not whole, or without these images; :class:`InputError` for
    shapes, sizes of pixels, orientations and values that cannot be, see :class:`ShearMap`; :class:`MissingPackage` without astropy.
    """
    path = as_path(path, "read_shear")
    if flip_ra is not None and not isinstance(flip_ra, bool):
        raise InputTypeError(f"read_shear: flip_ra must be True, False or None, got {flip_ra!r}.")
    if noise is not None and n_gal is not None:
        raise InputError("read_shear: give noise or n_gal, not both.")
    gamma, cards = _components(path, gamma1, gamma2)
    shape = tuple(gamma.shape[1:])
    side, flip = _sky(cards, path, pixel, flip_ra)
    names = _names(path)
    if mask is None and "MASK" in names:
        mask = "MASK"
    seen = torch.isfinite(gamma).all(0)
    if mask is not None:
        values = _map(mask, path, shape, "mask")
        if bad := int(torch.isnan(values).sum()):
            raise InputError(
                f"{path}: {bad} pixels of the mask are NaN. Put 0 where nothing is seen, 1 elsewhere."
            )
        inside = values != 0
    else:
        inside = torch.ones(shape, dtype=torch.bool)
    if noise is None and n_gal is None:
        noise, n_gal = (
            ("NOISE", None)
            if "NOISE" in names
            else (None, "NGAL")
            if "NGAL" in names
            else (None, None)
        )
    if noise is None and n_gal is None:
        raise InputError(
            f"{path}: the noise is not known. Give noise=, the standard deviation of a component, or n_gal=, galaxies for each "
            f"square arcminute: numbers, or maps. Images in the file: {_listed(path)}."
        )
    if noise is not None:
        std = _map(noise, path, shape, "noise")
    else:
        density = _map(n_gal, path, shape, "n_gal")
        density = torch.where(inside & (seen | (density > 0)), density, 0.0)
        if bad := int((~(density >= 0) | torch.isinf(density)).sum()):
            raise InputError(
                f"{path}: n_gal of {bad} pixels is NaN, infinite or negative. Give galaxies for each square arcminute, or mask these pixels."
            )
        std = (
            torch.as_tensor(pixel_noise(density, side, shape_noise))
            if bool(density.any())
            else torch.full(shape, math.inf)
        )
    try:
        return ShearMap(
            torch.where(inside, gamma, 0.0), torch.where(inside, std, torch.inf), side, flip, cards
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_map(
    path: str | PathLike[str], hdu: str | int | None = None
) -> tuple[Tensor, str | None, str]:
    """One map (H, W) float64 of a FITS or .npy file, the side of its pixels with the unit or None, and the cards of its header.

    ``hdu`` is the name or number of an image; by default KAPPA_E, KAPPA, or the only one. Values may be NaN. Raises as :func:`read_shear`.
    """
    path = as_path(path, "read_map")
    if hdu is None:
        hdu = next((name for name in ("KAPPA_E", "KAPPA") if name in _names(path)), None)
    data, cards, name = _image(path, hdu)
    return _plane(data, name), _scale(cards, path)[0] if cards else None, cards


def read_provenance(path: str | PathLike[str]) -> dict[str, Any]:
    """What :func:`write_convergence` was given as ``provenance``; empty where the file has none. Raises :class:`FileError` for other files."""
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


def as_path(path: Any, who: str) -> Path:
    if not isinstance(path, (str, PathLike)):
        raise InputTypeError(f"{who}: expected the path of a file, got {type(path).__name__}.")
    return Path(path)


@contextmanager
def _astropy_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """What astropy warns of, collected instead of shown.

    The filters belong to the whole process: two threads that set and restore them at once would leave them changed for good, so
    one waits for the other.
    """
    with _FILTERS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def with_fits(path: Path, get: Callable[[Any], Any]) -> Any:
    """``get`` of the HDUs of a FITS file; what astropy raises, and its warnings of a file that is not whole, become a :class:`FileError`."""
    fits = require("astropy.io.fits", "Reading FITS")
    refuse_special(path)
    if not path.is_file():
        raise FileError(
            f"{path}: {'a folder, not a FITS file' if path.is_dir() else 'no such file'}. Check the path."
        )
    if not path.name.lower().endswith(FITS):
        raise InputError(f"{path}: unknown ending. Readable: {', '.join(FITS)} and .npy.")
    with _astropy_warnings() as caught:
        try:
            with fits.open(_unpacked(path), memmap=False, lazy_load_hdus=False) as hdus:
                for warning in caught:
                    text = str(warning.message)
                    if "truncated" in text or "Error validating header" in text:
                        raise FileError(
                            f"{path}: not a whole FITS file ({' '.join(text.split())}). Copy or download it again."
                        )
                return get(hdus)
        except PnPError:
            raise
        except Exception as error:  # astropy lets the errors of numpy, zlib and its own through
            raise FileError(
                f"{path}: not a whole FITS file ({error}). Check the file, or copy it again."
            ) from error


def _unpacked(path: Path) -> Path | io.BytesIO:
    """The file, or what gzip makes of it: astropy passes over a .gz that breaks off, and unpacks without bound."""
    with path.open("rb") as file:
        head = file.read(4)
    if head[:3] in (b"BZh", b"\xfd7z", b"PK\3") or head[:2] == b"\x1f\x9d":
        raise FileError(f"{path}: compressed by something else than gzip. Unpack it first.")
    if head[:2] != b"\x1f\x8b":
        return path
    content = io.BytesIO()
    with gzip.open(path) as packed:
        while part := packed.read(2**24):
            content.write(part)
            refuse_bomb(path, content.tell())
    content.seek(0)
    return content


def _names(path: Path) -> list[str]:
    """The names of the HDUs, in capitals, "" where there is none."""
    return (
        []
        if path.suffix.lower() == ".npy"
        else with_fits(path, lambda hdus: [str(hdu.name).upper() for hdu in hdus])
    )


def _listed(path: Path) -> str:
    """The images of a file, for messages."""
    if path.suffix.lower() == ".npy":
        return "an array"
    return with_fits(path, _images)


def _images(hdus: Any) -> str:
    return (
        ", ".join(
            f"[{k}] {hdu.name} {hdu.shape}"
            for k, hdu in enumerate(hdus)
            if hdu.is_image and hdu.shape
        )
        or "none"
    )


def split_source(text: str, path: Path) -> tuple[Path, str | int | None]:
    """ "NAME", "[3]", "other.fits[NAME]", "other.fits", "other.npy" -> (file, name, number or None)."""
    file, bracket, inside = text.partition("[") if text.endswith("]") else (text, "", "")
    name = inside[:-1].strip()
    which = (int(name) if name.isdigit() else name) if bracket else None
    if file.lower().endswith((*FITS, ".npy")):
        return Path(file), which
    return path, which if bracket and not file else text


def _image(path: Path, which: str | int | None) -> tuple[np.ndarray, str, str]:
    """An image as float64, the cards of its header that are not structure, and its name for messages."""
    if isinstance(which, str):
        path, which = split_source(which, path)
    if path.suffix.lower() == ".npy":
        return _array(path, which), "", str(path)

    def get(hdus: Any) -> tuple[Any, str, str]:
        images = [k for k, hdu in enumerate(hdus) if hdu.is_image and hdu.shape]
        names = [str(hdu.name).upper() for hdu in hdus]
        if which is None:
            if len(images) != 1:
                raise FileError(
                    f"{path}: has {len(images)} images, so name one: '{path}[NAME]'. Images in the file: {_images(hdus)}."
                )
            k = images[0]
        elif isinstance(which, int):
            k = which
        else:
            k = names.index(which.upper()) if which.upper() in names else -1
        name = f"{path}[{which if which is not None else names[k] or k}]"
        if not 0 <= k < len(hdus):
            raise FileError(f"{name}: no such HDU. Images in the file: {_images(hdus)}.")
        if k not in images:
            raise FileError(f"{name}: holds no image. Images in the file: {_images(hdus)}.")
        refuse_bomb(path, 8 * math.prod(hdus[k].shape))  # those of .fz are compressed
        return np.asarray(hdus[k].data), _cards(hdus[k].header, hdus[0].header if k else None), name

    data, cards, name = with_fits(path, get)
    return data.astype(np.float64), cards, name


def _array(path: Path, which: Any) -> np.ndarray:
    if which is not None:
        raise InputError(
            f"{path}: a .npy file holds one array, without a name; got [{which}]. Leave it away."
        )
    return read_array(path, finite=False).double().numpy()


def _plane(data: np.ndarray, name: str) -> Tensor:
    if data.ndim != 2:
        raise InputError(
            f"{name}: expected an image (H, W), got {data.shape}. Name another HDU, or split the cube."
        )
    return torch.from_numpy(data)


def _components(
    path: Path, gamma1: str | int | None, gamma2: str | int | None
) -> tuple[Tensor, str]:
    """gamma (2, H, W), and the cards of the header of gamma_1."""
    for name, value in (("gamma1", gamma1), ("gamma2", gamma2)):
        if isinstance(value, bool) or not (value is None or isinstance(value, (str, int))):
            raise InputTypeError(
                f"read_shear: {name} must be the name or number of an HDU, got {value!r}."
            )
    if gamma1 is None and gamma2 is not None:
        raise InputError(
            "read_shear: gamma2 is named but gamma1 is not. Name both, or with gamma1 alone a cube (2, H, W)."
        )
    if gamma1 is None and path.suffix.lower() != ".npy":
        names = _names(path)
        pair = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
        gamma1, gamma2 = pair or (
            next((name for name in CUBES if name in names), with_fits(path, _cube)),
            None,
        )
        if gamma1 is None:
            wanted = ", ".join(" and ".join(pair) for pair in PAIRS)
            raise FileError(
                f"{path}: expected images {wanted}, or a cube (2, H, W) named {' or '.join(CUBES)}; images in the file: {_listed(path)}. "
                "Name them: gamma1='NAME', gamma2='NAME'."
            )
    data, cards, name = _image(path, gamma1)
    if gamma2 is not None:
        other, _, two = _image(path, gamma2)
        first, second = _plane(data, name), _plane(other, two)
        if first.shape != second.shape:
            raise InputError(
                f"{name} is {tuple(first.shape)} but {two} is {tuple(second.shape)}. Both components need one shape."
            )
        return torch.stack([first, second]), cards
    if data.ndim != 3 or data.shape[0] != 2:
        raise InputError(
            f"{name}: expected a cube (2, H, W) of both components, got {data.shape}. Of two images, name gamma1 and gamma2."
        )
    return torch.from_numpy(data), cards


def _cube(hdus: Any) -> int | None:
    """The number of the only image of a file, if it has the axes of a cube of two components."""
    images = [k for k, hdu in enumerate(hdus) if hdu.is_image and hdu.shape]
    return (
        images[0]
        if len(images) == 1 and len(hdus[images[0]].shape) == 3 and hdus[images[0]].shape[0] == 2
        else None
    )


def _map(value: Any, path: Path, shape: tuple[int, ...], what: str) -> Tensor:
    """A map (H, W) float64 from a number, a tensor, or an image told by its name."""
    if isinstance(value, Tensor) and not value.is_complex():
        values, name = value.detach().cpu().double(), f"read_shear: {what}"
    elif what != "mask" and (
        finite_number(value) or (isinstance(value, str) and _number(value) is not None)
    ):
        number = float(value)
        if not number > 0:
            raise InputError(f"read_shear: {what} must be > 0, got {value!r}.")
        return torch.full(shape, number, dtype=torch.float64)
    elif isinstance(value, str) or (
        what == "mask" and isinstance(value, int) and not isinstance(value, bool)
    ):
        data, _, name = _image(path, value)
        values = _plane(data, name)
    else:
        raise InputTypeError(
            f"read_shear: {what} must be a number, a tensor (H, W) or the name of an image, got {value!r}."
        )
    if tuple(values.shape) != shape:
        raise InputError(
            f"{name} is {tuple(values.shape)}, the shear is {shape}. Both need one shape."
        )
    return values


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# ---- headers


def _cards(header: Any, primary: Any = None) -> str:
    """The cards that are not structure, a line each; those of the primary HDU too, and its WCS where the image has none."""
    kept = header.copy()
    if primary is not None:
        own = any(_WCS.fullmatch(key) for key in header if key != "EQUINOX")
        kept.extend(
            (card for card in primary.cards if not (own and _WCS.fullmatch(card.keyword))),
            unique=True,
            update=False,
        )
    for key in {key for key in kept if _STRUCTURE.fullmatch(key)}:
        kept.remove(key, remove_all=True)
    if finite_number(kept.get("WCSAXES")) and kept["WCSAXES"] > 2:
        kept["WCSAXES"] = 2
    return kept.tostring(sep="\n", endcard=False, padding=False).rstrip()


def _header(cards: str) -> Any:
    return require("astropy.io.fits", "Reading FITS").Header.fromstring(cards, sep="\n")


def _wcs(cards: str, path: Path) -> Any:
    """astropy's WCS of the first two axes."""
    wcs = require("astropy.wcs", "Reading the WCS of FITS")
    with _astropy_warnings():
        try:
            return wcs.WCS(_header(cards), naxis=2)
        except Exception as error:  # of wcslib, a dozen kinds
            raise FileError(
                f"{path}: its WCS cannot be read ({' '.join(str(error).split())}). Correct the header."
            ) from error


def _scale(cards: str, path: Path) -> tuple[str | None, Any]:
    """The side of a pixel with its unit, None where the header does not tell it; and the WCS."""
    found = _wcs(cards, path)
    units = [str(unit) for unit in found.wcs.cunit]
    if not found.has_celestial and (units[0] != units[1] or units[0] not in RADIANS):
        return None, found
    header = _header(cards)
    columns, rows = (
        float(side) for side in np.hypot(*found.pixel_scale_matrix)
    )  # sides of a pixel along x and y
    if abs(columns - rows) > 0.01 * max(columns, rows):
        raise InputError(
            f"{path}: pixels must be square, the WCS says {columns:.6g} by {rows:.6g} {units[0]}. Resample the map."
        )
    side = math.sqrt(columns * rows)
    if found.has_celestial and side > COARSE and "CUNIT1" not in header:
        raise InputError(
            f"{path}: the WCS says pixels of {side:.6g} degrees, the unit of FITS where CUNIT1 is absent. If arcmin were meant, "
            f"put CUNIT1 and CUNIT2 = 'arcmin' or CDELT in degrees into the header; if it is right, put CUNIT1 = 'deg'."
        )
    return pixel_text(side * RADIANS[units[0]] / RADIANS["arcmin"]), found


def pixel_text(side: float) -> str:
    return f"{float(f'{side:.13g}')!r} arcmin"  # 0.293, not 0.29300000000000004


def _sky(cards: str, path: Path, pixel: Any, flip_ra: bool | None) -> tuple[str, bool]:
    """``pixel`` and ``flip_ra`` from what was given and what the header says."""
    side, found = _scale(cards, path) if cards else (None, None)
    if pixel is not None:
        given = arcmin(pixel, "read_shear: pixel")
        if side is not None and abs(given / arcmin(side) - 1) > 0.01:
            raise InputError(
                f"{path}: the header says pixels of {side}, pixel= says {pixel}. Leave pixel= away if the header is right, else correct the header."
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
    if angle > TURNED:
        raise InputError(
            f"{path}: the map is turned by {angle:.3g} degrees against (right ascension, declination), and so may be the axes of the shear. "
            "Resample it with north up, or, if the shear is along (columns, rows), give flip_ra=False."
        )
    return side, bool(d[0, 0] * d[1, 1] < 0)


# ---- writing


def write_convergence(
    path: str | PathLike[str],
    kappa: Tensor,
    shear: ShearMap,
    *,
    more: Mapping[str, Tensor] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write E and B, ``kappa`` (2, H, W) or (1, 2, H, W), as the images KAPPA_E and KAPPA_B of a FITS file, float32, whole or not at all.

    ``more`` holds further maps (H, W) by name, such as NOISE, MASK (boolean ones become 0 and 1) or SPREAD. All images have the WCS and the
    other cards of ``shear``, and an empty BUNIT: the convergence has no dimension. ``provenance`` are plain JSON values, kept in
    HISTORY cards of the primary HDU for :func:`read_provenance`. The same input gives the same bytes.

    Raises :class:`InputError` for other shapes, names and endings, and values of kappa that are not finite; :class:`InputTypeError` for what
    is no tensor, or not JSON; :class:`FileError` where the file cannot be written.
    """
    fits = require("astropy.io.fits", "Writing FITS")
    path = as_path(path, "write_convergence")
    if path.suffix.lower() not in (".fits", ".fit", ".fts"):
        raise InputError(f"{path}: unknown ending '{path.suffix}'. Writable: .fits, .fit, .fts.")
    if not isinstance(kappa, Tensor) or not kappa.is_floating_point():
        raise InputTypeError(
            f"{path}: kappa must be a floating tensor (2, H, W), E and B, got {getattr(kappa, 'dtype', type(kappa).__name__)}."
        )
    if not isinstance(shear, ShearMap):
        raise InputTypeError(
            f"{path}: shear must be the ShearMap that kappa comes from, got {type(shear).__name__}."
        )
    shape = tuple(shear.noise.shape)
    maps = kappa[0] if kappa.ndim == 4 and kappa.shape[0] == 1 else kappa
    if tuple(maps.shape) != (2, *shape):
        raise InputError(
            f"{path}: kappa must be (2, {shape[0]}, {shape[1]}), as the shear, got {tuple(kappa.shape)}. Cut the padding away."
        )
    if bad := int((~torch.isfinite(maps)).sum()):
        raise InputError(f"{path}: {bad} values of kappa are NaN or infinite; it was not written.")
    images = {"KAPPA_E": maps[0], "KAPPA_B": maps[1]}
    for name, values in (more or {}).items():
        if not isinstance(values, Tensor) or values.is_complex():
            raise InputTypeError(
                f"{path}: {name} must be a real tensor (H, W), got {type(values).__name__}."
            )
        if (
            not re.fullmatch(r"[A-Z][A-Z0-9_-]{0,39}", key := str(name).upper())
            or key in images
            or key == "PRIMARY"
        ):
            raise InputError(
                f"{path}: {name!r} cannot name an image. Take letters, digits, _ and -, and each name once."
            )
        if tuple(values.shape) != shape:
            raise InputError(
                f"{path}: {name} must be {shape}, as the shear, got {tuple(values.shape)}."
            )
        images[key] = values
    cards = _header(shear.header)
    if not {"CDELT1", "CD1_1"} & set(cards):  # no WCS: at least the size of the pixels
        for axis in (1, 2):
            cards[f"CDELT{axis}"], cards[f"CUNIT{axis}"] = arcmin(shear.pixel), "arcmin"
    primary = fits.PrimaryHDU()
    history = [str(line) for line in cards.get("HISTORY", [])]
    cards.remove("HISTORY", ignore_missing=True, remove_all=True)
    primary.header.extend(cards.cards, unique=False, update=False)
    for line in [line for line in history if not line.startswith(_PROVENANCE)] + _history(
        path, provenance or {}
    ):
        primary.header.add_history(line)
    for key in ("COMMENT", ""):
        cards.remove(key, ignore_missing=True, remove_all=True)
    hdus = fits.HDUList([primary])
    for name, values in images.items():
        array = values.detach().cpu().numpy()
        hdu = fits.ImageHDU(
            array.astype(np.uint8 if array.dtype == np.bool_ else np.float32), name=name
        )
        hdu.header["BUNIT"] = ("", "dimensionless" if name.startswith("KAPPA") else "")
        hdu.header.extend(cards.cards, unique=False, update=False)
        hdus.append(hdu)
    with _astropy_warnings():  # of cards of the input that it would write otherwise
        atomic_write(
            path,
            lambda temporary: hdus.writeto(
                temporary, overwrite=True, output_verify="silentfix+ignore"
            ),
        )


def _history(path: Path, provenance: Mapping[str, Any]) -> list[str]:
    """JSON in pieces that fit a card."""
    if not provenance:
        return []
    try:
        text = json.dumps(dict(provenance), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"{path}: provenance must be plain JSON values: texts, finite numbers, lists, dictionaries ({error})."
        ) from error
    size = 72 - len(_PROVENANCE) - 1
    return [f"{_PROVENANCE}{text[k : k + size]}|" for k in range(0, len(text), size)]


__all__ = ["ShearMap", "read_map", "read_provenance", "read_shear", "write_convergence"]
