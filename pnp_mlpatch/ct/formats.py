"""Formats of projections on disk, by their endings: NumPy and zarr here, others in their files."""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._dicom_header import is_dicom
from pnp_mlpatch.ct._folders import TIFF, open_folder
from pnp_mlpatch.ct._hdf5 import open_hdf5
from pnp_mlpatch.ct._scan_file import ScanFile
from pnp_mlpatch.ct._vendors import UNREAD, VENDORS
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.reading import check_zarr, refuse_special, refuse_zip_bomb
from pnp_mlpatch.io.stored import StoredArray, along, in_memory
from pnp_mlpatch.io.tiff import open_pages

HDF5 = (".h5", ".hdf5", ".hdf", ".nxs")
NUMPY = (".npy", ".npz")
ZARR = (".zarr",)
ARRAY = Path("the array")  # what messages call an array in memory
SLICES = (
    "DICOM holds slices, which are images already, not projections. To simulate a scan of one: "
    "pnp-mlpatch solve --simulate PATH --operator radon, or read_dicom in Python. Projections in "
    "DICOM (DICOM-CT-PD) are of helical scans, which are not read: rebin them to a fan beam and "
    "save them as .npy."
)


def split_name(path: str | PathLike[str], dataset: str | None) -> tuple[Path, str]:
    """Split FILE:NAME, such as "scan.h5:exchange/data", into the file and the dataset.

    Parameters
    ----------
    path : str or path
        The file, with or without a name.
    dataset : str, optional
        The name, if it is given apart.

    Returns
    -------
    path : Path
    name : str
        "" where there is none.

    Raises
    ------
    InputTypeError
        If ``path`` is no path.
    InputError
        If two different names are given.
    """
    if not isinstance(path, (str, PathLike)):
        raise InputTypeError(
            "read_scan: expected the path of a scan, or an array of numpy or torch, got "
            f"{type(path).__name__}."
        )
    text = str(path)
    file, colon, name = text.rpartition(":")
    if not colon or Path(file).suffix.lower() not in (*HDF5, *NUMPY, *TIFF, *ZARR):
        file, name = text, ""
    given = (dataset or "").strip("/")
    name = name.strip("/")
    if name and given and name != given:
        raise InputError(f"{path}: names the dataset '{name}', but dataset={dataset!r}. Name one.")
    return Path(file), given or name


def open_scan_file(path: Path, name: str) -> ScanFile:
    """Open projections in any of the formats; see :func:`~pnp_mlpatch.ct.read_scan`.

    Parameters
    ----------
    path : Path
        A file or a folder.
    name : str
        The array in it, or "".

    Returns
    -------
    ScanFile
        Its data are real numbers of two or three axes.

    Raises
    ------
    FileError
        If the file is missing or damaged, or has no such array.
    InputError
        For another ending, and for arrays of other types or shapes.
    """
    if not path.exists():
        raise FileError(f"{path}: no such file or folder. Check the path.")
    refuse_special(path)
    return check_numbers(_open(path, name), path)


def open_array(values: np.ndarray | Tensor) -> ScanFile:
    """Take an array in memory as a scan.

    Parameters
    ----------
    values : ndarray or Tensor
        The projections; they are not copied.

    Returns
    -------
    ScanFile
        Its ``meta`` has the sha256 of the values, by which a run that resumes knows them.

    Raises
    ------
    InputError, InputTypeError
        As :func:`open_scan_file`, and for types that numpy does not have.
    """
    if isinstance(values, Tensor):
        try:
            values = values.detach().cpu().numpy()
        except TypeError as error:
            raise InputTypeError(
                f"read_scan: expected numbers that numpy has, got {values.dtype}. Call .float()."
            ) from error
    found = check_numbers(ScanFile(in_memory(values), "sad", {"format": "array"}), ARRAY)
    found.meta["sha256"] = hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
    return found


def check_numbers(found: ScanFile, path: Path) -> ScanFile:
    """Check that projections are real numbers of two or three axes.

    Parameters
    ----------
    found : ScanFile
        The projections.
    path : Path
        Their file, for messages.

    Returns
    -------
    ScanFile
        ``found``.

    Raises
    ------
    InputError
        For other types or shapes.
    """
    shape, dtype = found.data.shape, found.data.dtype
    if dtype.kind not in "fiu":
        raise InputError(
            f"{path}: expected real numbers, got {dtype}. Name another dataset, or convert it."
        )
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError(
            f"{path}: expected 2 axes (angles, detectors) or 3 with slices, none empty, "
            f"got {shape}. Name another dataset."
        )
    return found


def _open(path: Path, name: str) -> ScanFile:
    """Read a file or a folder that exists."""
    suffix = path.suffix.lower()
    if suffix in HDF5 and path.is_file():
        return open_hdf5(path, name)
    if suffix in NUMPY and path.is_file():
        return _open_numpy(path, name)
    if suffix in ZARR and path.is_dir():
        return _open_zarr(path, name)
    if name:
        raise InputError(
            f"{path}: '{name}' names an array in it, but only HDF5, .npz and .zarr hold arrays "
            "with names. Leave it away."
        )
    if is_dicom(path):
        raise InputError(f"{path}: {SLICES}")
    if path.is_dir():
        return open_folder(path)
    if suffix in TIFF:
        return ScanFile(open_pages(path), "sad", {"format": "TIFF"})
    if suffix in VENDORS:
        return VENDORS[suffix](path)
    readable = ", ".join((*HDF5, *NUMPY, *TIFF, *ZARR, *VENDORS))
    hint = f" {UNREAD[suffix]}" if suffix in UNREAD else ""
    raise InputError(
        f"{path}: unknown ending '{suffix}'. Readable: {readable}, folders of TIFF.{hint}"
    )


# ---- NumPy


def _open_numpy(path: Path, name: str) -> ScanFile:
    """Read a .npy file, mapped, or one array of an .npz file, read as a whole."""
    if path.suffix.lower() == ".npy" and name:
        raise InputError(
            f"{path}: '{name}' names an array in it, but a .npy file holds one, without a name. "
            "Leave it away."
        )
    try:
        refuse_zip_bomb(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):
            with array as file:
                array = _member(file, path, name)
    except PnPError:
        raise
    except Exception as error:  # numpy lets the errors of zipfile, tokenize and ast through
        raise FileError(
            f"{path}: not a readable {path.suffix} file ({error or type(error).__name__}). "
            "Copy it again."
        ) from error
    meta = {"format": "NumPy", **({"dataset": name} if name else {})}
    return ScanFile(in_memory(array), "sad", meta)


def _member(file: Any, path: Path, name: str) -> np.ndarray:
    """Return the array of an .npz file that is named, or the only one."""
    if name or len(file.files) == 1:
        key = name or file.files[0]
        if key in file.files:
            return file[key]
    problem = f"no array '{name}'" if name else "several arrays"
    raise FileError(
        f"{path}: {problem}. It holds: {', '.join(file.files) or 'no arrays'}. "
        f"Name one: '{path}:NAME'."
    )


# ---- zarr


def _open_zarr(path: Path, name: str) -> ScanFile:
    """Open a zarr array, or an array of a group."""
    check_zarr(path)
    zarr = require("zarr", "Reading a .zarr folder")
    try:
        found = zarr.open(str(path), mode="r")
        if isinstance(found, zarr.Group):
            arrays = sorted(key for key, _ in found.arrays())
            if not name and len(arrays) == 1:
                name = arrays[0]
            if not name or not isinstance(found.get(name), zarr.Array):
                problem = f"no array '{name}'" if name else "several arrays"
                raise FileError(
                    f"{path}: {problem}. It holds: {', '.join(arrays) or 'no arrays'}. "
                    f"Name one: '{path}:NAME'."
                )
            found = found[name]
        elif name:
            raise InputError(f"{path}: is one array, without a name. Leave '{name}' away.")
    except PnPError:
        raise
    except Exception as error:  # zarr raises a dozen kinds
        raise FileError(
            f"{path}: not a readable zarr store ({error or type(error).__name__}). Copy it again."
        ) from error

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(found[along(axis, start, stop)])
        except Exception as error:  # so do its codecs
            raise FileError(
                f"{path}: cannot be read ({error or type(error).__name__}). Copy it again."
            ) from error

    meta = {"format": "zarr", **({"dataset": name} if name else {})}
    return ScanFile(StoredArray(found.shape, np.dtype(found.dtype), part), "sad", meta)


__all__ = ["ARRAY", "check_numbers", "open_array", "open_scan_file", "split_name"]
