"""FITS files as astropy opens them: their images, names and headers."""

from __future__ import annotations

import gzip
import io
import math
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from pnp_mlpatch.io.reading import refuse_bomb, refuse_special

FITS = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fts.gz", ".fits.fz")
_STRUCTURE = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|PCOUNT|GCOUNT|EXTEND|GROUPS|BSCALE|BZERO|BLANK|BUNIT"
    r"|DATAMIN|DATAMAX|EXTNAME|EXTVER|EXTLEVEL|INHERIT|CHECKSUM|DATASUM|DATE"
    r"|(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA|CNAME|PV|PS)[3-9](_\d+)?[A-Z]?"
    r"|(CD|PC)(\d_[3-9]|[3-9]_\d)[A-Z]?"
)
_WCS = re.compile(
    r"(CTYPE|CRVAL|CRPIX|CDELT|CUNIT|CROTA|CNAME)\d+[A-Z]?|(CD|PC|PV|PS)\d+_\d+[A-Z]?"
    r"|(WCSAXES|WCSNAME|LONPOLE|LATPOLE|RADESYS|EQUINOX)[A-Z]?"
)
_FILTERS = threading.RLock()


def as_path(path: Any, who: str) -> Path:
    """Return the path of a file; refuse other values."""
    if not isinstance(path, (str, PathLike)):
        raise InputTypeError(f"{who}: expected the path of a file, got {type(path).__name__}.")
    return Path(path)


@contextmanager
def astropy_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect what astropy warns of instead of showing it.

    Warning filters belong to the whole process. Two threads that set and restore them at once
    would leave them changed, so one waits for the other.
    """
    with _FILTERS, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def with_fits(path: Path, get: Callable[[Any], Any]) -> Any:
    """Return ``get(hdus)`` for a FITS file; raise :class:`FileError` where it cannot be read.

    The exceptions of astropy, and its warnings of a truncated file, become a FileError too.
    """
    fits = require("astropy.io.fits", "Reading FITS")
    refuse_special(path)
    if not path.is_file():
        kind = "a folder, not a FITS file" if path.is_dir() else "no such file"
        raise FileError(f"{path}: {kind}. Check the path.")
    if not path.name.lower().endswith(FITS):
        raise InputError(f"{path}: unknown ending. Readable: {', '.join(FITS)} and .npy.")
    with astropy_warnings() as caught:
        try:
            with fits.open(_unpacked(path), memmap=False, lazy_load_hdus=False) as hdus:
                for warning in caught:
                    text = str(warning.message)
                    if "truncated" in text or "Error validating header" in text:
                        raise FileError(
                            f"{path}: not a whole FITS file ({' '.join(text.split())}). "
                            "Copy or download it again."
                        )
                return get(hdus)
        except PnPError:
            raise
        except Exception as error:  # astropy lets the errors of numpy, zlib and its own through
            raise FileError(
                f"{path}: not a whole FITS file ({error}). Check the file, or copy it again."
            ) from error


def _unpacked(path: Path) -> Path | io.BytesIO:
    """Return the file, or its unpacked content: astropy accepts a truncated .gz of any size."""
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


def split_source(text: str, path: Path) -> tuple[Path, str | int | None]:
    """Split "NAME", "[3]", "other.fits[NAME]" or "other.npy" into (file, name or number)."""
    file, bracket, inside = text.partition("[") if text.endswith("]") else (text, "", "")
    name = inside[:-1].strip()
    which = (int(name) if name.isdigit() else name) if bracket else None
    if file.lower().endswith((*FITS, ".npy")):
        return Path(file), which
    return path, which if bracket and not file else text


# ---- images


def image_numbers(hdus: Any) -> list[int]:
    """Return the numbers of the HDUs that hold an image."""
    return [k for k, hdu in enumerate(hdus) if hdu.is_image and hdu.shape]


def hdu_names(path: Path) -> list[str]:
    """Return the names of the HDUs in capitals, "" where there is none; empty for .npy."""
    if path.suffix.lower() == ".npy":
        return []
    return with_fits(path, lambda hdus: [str(hdu.name).upper() for hdu in hdus])


def listed(path: Path) -> str:
    """Return the images of a file, for messages."""
    return "an array" if path.suffix.lower() == ".npy" else with_fits(path, _listed)


def _listed(hdus: Any) -> str:
    found = [f"[{k}] {hdus[k].name} {hdus[k].shape}" for k in image_numbers(hdus)]
    return ", ".join(found) or "none"


def read_image(path: Path, which: str | int | None) -> tuple[np.ndarray, str, str]:
    """Read an image as float64, its cards without structure, and its name for messages."""
    if isinstance(which, str):
        path, which = split_source(which, path)
    if path.suffix.lower() == ".npy":
        if which is not None:
            raise InputError(
                f"{path}: a .npy file holds one array, without a name; got [{which}]. Leave it "
                "away."
            )
        return read_array(path, finite=False).double().numpy(), "", str(path)

    def get(hdus: Any) -> tuple[Any, str, str]:
        k, name = _find(hdus, which, path)
        refuse_bomb(path, 8 * math.prod(hdus[k].shape))  # those of .fz are compressed
        return (
            np.asarray(hdus[k].data),
            cards_of(hdus[k].header, hdus[0].header if k else None),
            name,
        )

    data, cards, name = with_fits(path, get)
    return data.astype(np.float64), cards, name


def _find(hdus: Any, which: str | int | None, path: Path) -> tuple[int, str]:
    """Return the number of an image, and its name for messages."""
    images, names = image_numbers(hdus), [str(hdu.name).upper() for hdu in hdus]
    if which is None:
        if len(images) != 1:
            raise FileError(
                f"{path}: has {len(images)} images, so name one: '{path}[NAME]'. "
                f"Images in the file: {_listed(hdus)}."
            )
        k = images[0]
    elif isinstance(which, int):
        k = which
    else:
        k = names.index(which.upper()) if which.upper() in names else -1
    name = f"{path}[{which if which is not None else names[k] or k}]"
    if k not in images:
        problem = "holds no image" if 0 <= k < len(hdus) else "no such HDU"
        raise FileError(f"{name}: {problem}. Images in the file: {_listed(hdus)}.")
    return k, name


def as_plane(data: np.ndarray, name: str) -> Tensor:
    """Return an array as a map (H, W); refuse other shapes."""
    if data.ndim != 2:
        raise InputError(
            f"{name}: expected an image (H, W), got {data.shape}. "
            "Name another HDU, or split the cube."
        )
    return torch.from_numpy(data)


# ---- headers


def cards_of(header: Any, primary: Any = None) -> str:
    """Return the cards of a header that do not describe its array, one a line.

    Those of the primary HDU are added, and its WCS where the image has none.
    """
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


def header_of(cards: str) -> Any:
    """Return the header of astropy with these cards."""
    return require("astropy.io.fits", "Reading FITS").Header.fromstring(cards, sep="\n")
