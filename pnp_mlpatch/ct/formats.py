"""Formats of projections on disk: HDF5, NumPy, zarr, TIFF files and folders of them, 2DeteCT."""

from __future__ import annotations

import re
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._hdf5 import open_hdf5
from pnp_mlpatch.ct._scan_file import Frames, ScanFile, average
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.reading import check_zarr, refuse_special, refuse_zip_bomb
from pnp_mlpatch.io.stored import StoredArray, along
from pnp_mlpatch.io.tiff import open_files, open_pages, read_page

HDF5 = (".h5", ".hdf5", ".hdf", ".nxs")
NUMPY = (".npy", ".npz")
TIFF = (".tif", ".tiff")
ZARR = (".zarr",)


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
        raise InputTypeError(f"read_scan: expected the path of a scan, got {type(path).__name__}.")
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
    found = _open(path, name)
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
    if path.is_dir():
        return _open_folder(path)
    if suffix in TIFF:
        return ScanFile(open_pages(path), "sad", {"format": "TIFF"})
    hint = " DICOM images are read by read_dicom." if suffix in (".dcm", ".ima") else ""
    raise InputError(
        f"{path}: unknown ending '{suffix}'. Readable: {', '.join((*HDF5, *NUMPY, *TIFF, *ZARR))}, "
        f"folders of TIFF.{hint}"
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
    data = StoredArray(array.shape, array.dtype, lambda *span: array[along(*span)])
    return ScanFile(data, "sad", meta)


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


# ---- folders


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Return a key that sorts file names with the numbers in them as numbers.

    Parameters
    ----------
    path : Path
        A file.

    Returns
    -------
    list of tuple
    """
    return [
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"([0-9]+)", path.name)
        if part
    ]


def _open_folder(path: Path) -> ScanFile:
    """Read a folder of TIFF files, one projection each, or a slice of 2DeteCT."""
    inside = {p.name: p for p in path.iterdir()}
    if "sinogram.tif" in inside and {"dark.tif", "flat1.tif", "flat2.tif"} & set(inside):
        return _open_2detect(path)
    files = [p for p in inside.values() if p.suffix.lower() in TIFF and not p.name.startswith(".")]
    if not files:
        folders = ", ".join(sorted(p.name for p in inside.values() if p.is_dir())) or "none"
        raise FileError(
            f"{path}: no TIFF files in this folder. Its folders: {folders}; DICOM images are "
            "read by read_dicom."
        )
    files.sort(key=natural_key)
    _look_at_names(files, path)
    meta = {"format": "TIFF folder", "first": files[0].name, "last": files[-1].name}
    return ScanFile(open_files(files, path), "asd", meta)


def _look_at_names(files: list[Path], path: Path) -> None:
    """Warn of files whose names are unlike the others, and of numbers left out."""
    frames = [re.sub(r"[0-9]+", "#", file.stem) for file in files]
    usual = max(set(frames), key=frames.count)
    strays = [file.name for file, frame in zip(files, frames, strict=True) if frame != usual]
    last = [
        re.findall(r"[0-9]+", f.stem)[-1:]
        for f, frame in zip(files, frames, strict=True)
        if frame == usual
    ]
    numbers = sorted(int(number[0]) for number in last if number)
    steps = np.diff(numbers)
    usual_step = int(np.median(steps)) if len(steps) else 1
    gaps = (
        [numbers[k] + usual_step for k in np.flatnonzero(steps > usual_step)] if usual_step else []
    )
    said = []
    if strays and len(strays) < len(files) / 2:
        said.append(
            f"the names {', '.join(strays[:4])} are unlike the other {len(files) - len(strays)}"
        )
    if gaps:
        said.append(f"the numbers {', '.join(map(str, gaps[:4]))} are left out")
    if said:
        warnings.warn(
            f"{path}: {' and '.join(said)}. Each of the {len(files)} files is taken as one "
            "projection, in this order; angles that are equally spaced are then wrong. Move what "
            "is no projection away, and give the angles of those that are there.",
            stacklevel=6,
        )


def _open_2detect(path: Path) -> ScanFile:
    """Read a slice of 2DeteCT (Kiss et al. 2023)."""
    data = open_pages(path / "sinogram.tif")
    if len(data.shape) != 2 or data.shape[0] < 2:
        raise InputError(
            f"{path / 'sinogram.tif'}: expected one sinogram (angles, detectors) of 2DeteCT, "
            f"got {data.shape}."
        )
    dark, *flats = (
        average(iter(read_page(path / name)), path, name)
        for name in ("dark.tif", "flat1.tif", "flat2.tif")
    )
    one, two = (field.mean for field in flats)
    if one.shape != two.shape:
        raise InputError(
            f"{path}: flat1.tif and flat2.tif have {one.shape[0]} and {two.shape[0]} "
            "detectors, expected equally many."
        )
    theta = np.linspace(0, 360, data.shape[0])[:-1]
    meta = {"format": "2DeteCT", "flat": "flat1.tif, flat2.tif", "dark": "dark.tif"}
    return ScanFile(data, "sad", meta, theta, True, Frames((one + two) / 2), dark, closed=True)


__all__ = ["natural_key", "open_scan_file", "split_name"]
