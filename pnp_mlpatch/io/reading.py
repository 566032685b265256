"""Checks of files before they are opened, and the rule for integers.

Booleans are 0 and 1. Integers in a *picture* are shares of the range of their type: 8 bit / 255, 16
bit / 65535; other types have no white and are refused. Integers in a *mask, weight or psf* are two
values, 0 and the one that means 1 (1, 255 or 65535); others are refused. Integers in *measurements*
(counts, angles, noise, Hounsfield units with their slope) are the numbers themselves.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Iterator
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError

ROOM, RATIO = (
    2**30,
    100,
)  # bytes that a file may always unfold to, and how many times its size beyond
FULL = (1.0, 255.0, 65535.0)  # what means "all" in integers


# ---- files


def refuse_special(path: str | PathLike[str]) -> None:
    """Refuse a pipe, a device or a socket, which may never end.

    Parameters
    ----------
    path : str or path
        A file that is to be read. One that is missing passes: its reader says so in its own words.

    Raises
    ------
    FileError
        If the path, or what it links to, is neither a file nor a folder.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = (
            "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        )
        raise FileError(
            f"{path}: expected a file, got {kind}. Save what it gives into a file first."
        )


def refuse_bomb(path: str | PathLike[str], size: int, *, stored: int | None = None) -> None:
    """Refuse contents that are far larger than the file that they come from.

    Parameters
    ----------
    path : str or path
        The file.
    size : int
        The bytes that its header claims, or that were unpacked so far.
    stored : int, optional
        The bytes on disk; by default the size of the file.

    Raises
    ------
    FileError
        If ``size`` is over 1 GiB and over 100 times the bytes on disk.
    """
    stored = os.stat(path).st_size if stored is None else stored
    if size > max(ROOM, RATIO * stored):
        raise FileError(
            f"{path}: its {stored} bytes claim to hold at least {size}. The file is damaged or "
            "made to fill the memory. "
            "If it is sound, save it without compression."
        )


# ---- integers


def brightness(array: np.ndarray, who: str) -> np.ndarray:
    """Return the values of a picture as float32: integers of 8 and 16 bit as shares of their range.

    Parameters
    ----------
    array : ndarray
        Real numbers. Floats keep their values.
    who : str
        The file, for messages.

    Returns
    -------
    ndarray
        float32, of the same shape.

    Raises
    ------
    InputError
        For integers of other types.
    """
    if array.dtype.kind in "iu":
        if array.dtype.kind == "i" or array.dtype.itemsize > 2:
            raise InputError(
                f"{who}: expected a picture of 8 or 16 bit, unsigned, or of floats, got "
                f"{array.dtype}, of which no value means white. "
                "Divide by the value of white and save as float32."
            )
        return array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max)
    return array.astype(np.float32)


def weights_of(values: Tensor, who: str) -> Tensor:
    """Return a mask, weight or psf as floats: integers are 0 and one other value, which becomes 1.

    Parameters
    ----------
    values : Tensor
        Real numbers, of any shape. Floats are returned as they are.
    who : str
        Who takes them, for messages.

    Returns
    -------
    Tensor
        Floats; float64 if booleans or integers were given.

    Raises
    ------
    InputError
        For integers other than 0 and one of 1, 255 and 65535.
    """
    if values.is_floating_point():
        return values
    floats = values.detach().double()
    top = float(floats.max()) if floats.numel() else 0.0
    if not bool(((floats == 0) | (floats == top)).all()) or top not in (0.0, *FULL):
        raise InputError(
            f"{who}: expected integers 0 and 1, or 0 and 255, got {values.dtype} from "
            f"{float(floats.min()):g} to {top:g}. "
            "Give weights as floats, such as x.double() / 255, and a mask as x > 0."
        )
    return floats / max(top, 1.0)


def two_levels(values: Tensor) -> float | None:
    """Find the upper level of a mask whose type was lost.

    Parameters
    ----------
    values : Tensor
        Floats.

    Returns
    -------
    float or None
        255 or 65535 if there are no values but 0 and it, else None.
    """
    top = float(values.max())
    return top if top in FULL[1:] and bool(((values == 0) | (values == top)).all()) else None


def plain_integers(array: np.ndarray, who: str) -> Tensor:
    """Booleans, 8 bit and other integers of an array as a tensor of bool, uint8 or int64.

    Parameters
    ----------
    array : ndarray
        Booleans or integers.
    who : str
        The file, for messages.

    Returns
    -------
    Tensor
        The same values.

    Raises
    ------
    InputError
        For values above 2^63 - 1.
    """
    if array.dtype == np.uint64 and array.size and int(array.max()) >= 2**63:
        raise InputError(
            f"{who}: integers up to {array.max()} do not fit 64 bit with a sign. Save floats."
        )
    kind = (
        np.bool_ if array.dtype.kind == "b" else np.uint8 if array.dtype == np.uint8 else np.int64
    )
    return torch.from_numpy(array.astype(kind))


# ---- containers


def refuse_zip_bomb(path: str | PathLike[str]) -> None:
    """Refuse a zip file, such as .npz, whose members are far larger than the file.

    Parameters
    ----------
    path : str or path
        The file. What is no zip file passes.

    Raises
    ------
    FileError
        As :func:`refuse_bomb`.
    """
    refuse_special(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            refuse_bomb(path, sum(member.file_size for member in file.infolist()))


def check_hdf5(
    group: Any, name: str, path: str | PathLike[str], *, allow_gaps: bool = False
) -> None:
    """Refuse an HDF5 object that lies in other files, but for those in the folder of the file.

    Parameters
    ----------
    group : h5py.Group
        Where the name begins.
    name : str
        The path of the object. One that does not exist passes.
    path : str or path
        The file.
    allow_gaps : bool
        Whether sources of virtual datasets may be missing: the reader marks their values.

    Raises
    ------
    FileError
        For external storage, and for links and virtual datasets whose files are elsewhere or gone.
    """
    h5py = require("h5py", "Reading an HDF5 file")
    for part in [part for part in name.split("/") if part]:
        links = getattr(group, "id", None) and getattr(group.id, "links", None)
        if not links or not links.exists(part.encode()):
            return
        kind = links.get_info(part.encode()).type
        if kind == h5py.h5l.TYPE_EXTERNAL:
            _neighbour(os.fsdecode(links.get_val(part.encode())[0]), path, f"'{name}' is a link")
        elif kind == h5py.h5l.TYPE_SOFT:
            target = os.fsdecode(links.get_val(part.encode()))
            if target.strip("/") != part:
                root = group.file if target.startswith("/") else group
                check_hdf5(root, target, path, allow_gaps=allow_gaps)
        group = group.get(part)
    if isinstance(group, h5py.Dataset):
        if group.external:
            raise FileError(
                f"{path}: '{name}' keeps its values in {group.external[0][0]}. Copy them into the "
                "file, as h5repack does."
            )
        for source in group.virtual_sources() if group.is_virtual else ():
            if source.file_name != ".":
                what = f"'{name}' is virtual, with values"
                _neighbour(source.file_name, path, what, allow_missing=allow_gaps)


def _neighbour(
    name: str, path: str | PathLike[str], what: str, *, allow_missing: bool = False
) -> None:
    folder = os.path.abspath(os.path.dirname(path) or ".")
    target = os.path.normpath(os.path.join(folder, name))
    if os.path.commonpath([folder, target]) != folder:
        raise FileError(
            f"{path}: {what} into {name}, outside of its folder. If you trust it, copy or link "
            "that file into the folder."
        )
    if "%" not in name and not allow_missing and not os.path.exists(target):
        raise FileError(f"{path}: {what} into {name}, which is not there. Copy it too.")
    refuse_special(target)


CODECS = {
    "adler32", "astype", "bitround", "bitshuffle", "blosc", "blosc2", "bytes", "bz2", "crc32",
    "crc32c", "delta", "endian", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3",
    "lz4", "lzma", "packbits", "pcodec", "quantize", "sharding_indexed", "shuffle",
    "transpose", "zfpy", "zlib", "zstd",
}  # fmt: skip


def check_zarr(folder: str | PathLike[str]) -> None:
    """Refuse a zarr store with codecs that run code, such as pickle.

    Plain compressors and filters pass.

    Parameters
    ----------
    folder : str or path
        The store, formats 2 and 3. Only its metadata are read.

    Raises
    ------
    FileError
        For other codecs, and for metadata that are not JSON.
    """
    for here, folders, files in os.walk(folder):
        for name in {".zarray", ".zmetadata", "zarr.json"} & set(files):
            path = os.path.join(here, name)
            refuse_special(path)
            try:
                with open(path, encoding="utf-8") as file:
                    found = json.load(file)
                used = set(_codecs(found))
            except (OSError, ValueError, RecursionError) as error:
                raise FileError(
                    f"{path}: cannot be read ({error}). Copy the store again."
                ) from error
            if bad := sorted(used - CODECS):
                raise FileError(
                    f"{path}: has the codec {', '.join(bad)}; only plain compression is read. Save "
                    "the array again with zstd or blosc."
                )
        if ".zarray" in files or ("c" in folders and "zarr.json" in files):
            folders.clear()  # chunks


def _codecs(value: Any) -> Iterator[str]:
    """Return the names of all codecs in zarr's metadata."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if key in ("compressor", "filters", "codecs", "index_codecs"):
                for codec in inside if isinstance(inside, list) else [inside] if inside else []:
                    name = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
                    yield str(name).removeprefix("numcodecs.")
            if key != "attributes":
                yield from _codecs(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _codecs(inside)
