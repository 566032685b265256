"""Volumes (slices, H, W) in files, written as a whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.tiff import write_pages
from pnp_mlpatch.io.voxels import Voxels

Shape = tuple[int, int, int]


def write_volume(
    path: str | PathLike[str],
    volume: Tensor | Iterable[Tensor],
    shape: Sequence[int],
    *,
    meta: dict[str, Any] | None = None,
    voxels: Voxels | None = None,
) -> None:
    """Write a volume as float32. Equal content makes equal bytes.

    Parameters
    ----------
    path : str or path
        A .npy, .tif (one page a slice) or .h5 file (dataset "volume").
    volume : Tensor, shape (slices, H, W), or iterable of Tensor
        The volume, or chunks (k, H, W) of it from the first slice to the last, of which one is
        in memory at a time.
    shape : sequence of int
        (slices, H, W).
    meta : dict, optional
        Plain JSON values, written beside the volume with the ending .json.
    voxels : Voxels, optional
        Their size and units. HDF5 gets the attributes ``units``, ``voxel_size``,
        ``voxel_size_units`` and, as Fiji reads it, ``element_size_um``; TIFF the tags of ImageJ.

    Raises
    ------
    InputError
        For another ending or shape, and for values that are not finite.
    InputTypeError
        For anything but tensors of real numbers, and for ``meta`` that JSON cannot hold.
    FileError
        If the file cannot be written; an earlier file is kept.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"{path}: unknown ending '{suffix}'. Writable: {', '.join(WRITERS)}.")
    if len(shape) != 3 or any(
        isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape
    ):
        raise InputError(
            f"{path}: shape must be (slices, H, W), integers >= 1, got {tuple(shape)}."
        )
    text = _as_json(path, meta)
    size = (shape[0], shape[1], shape[2])
    chunks = _checked((volume,) if isinstance(volume, Tensor) else volume, size, path)
    atomic_write(path, lambda temporary: WRITERS[suffix](temporary, chunks, size, voxels))
    if meta is not None:
        _write_beside(path, text)


def write_report(path: Path, meta: dict[str, Any]) -> None:
    """Write what is known of a volume beside it, with the ending .json.

    Parameters
    ----------
    path : Path
        The volume.
    meta : dict
        Plain JSON values.

    Raises
    ------
    InputTypeError
        For values that JSON cannot hold.
    FileError
        If the file cannot be written.
    """
    _write_beside(path, _as_json(path, meta))


def _as_json(path: Path, meta: dict[str, Any] | None) -> str:
    try:
        return json.dumps(meta, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{path}: meta must be plain JSON values ({error}).") from error


def _write_beside(path: Path, text: str) -> None:
    beside = path.with_suffix(".json")
    atomic_write(beside, lambda temporary: temporary.write_bytes(text.encode()))


def _checked(chunks: Iterable[Tensor], shape: Shape, path: Path) -> Iterator[np.ndarray]:
    """Return the chunks as little-endian float32; raise unless they make up the shape."""
    done = 0
    for chunk in chunks:
        if not isinstance(chunk, Tensor) or chunk.is_complex():
            got = chunk.dtype if isinstance(chunk, Tensor) else type(chunk).__name__
            raise InputTypeError(f"{path}: expected tensors (k, H, W) of real numbers, got {got}.")
        if chunk.ndim != 3 or tuple(chunk.shape[1:]) != shape[1:] or done + len(chunk) > shape[0]:
            raise InputError(
                f"{path}: expected {shape} in all; after {done} slices came "
                f"{tuple(chunk.shape)}. Nothing was written."
            )
        array = chunk.detach().cpu().float().contiguous().numpy().astype("<f4", copy=False)
        if not np.isfinite(array).all():
            raise InputError(
                f"{path}: slices {done} to {done + len(chunk) - 1} hold NaN or infinite values; "
                "nothing was written."
            )
        done += len(chunk)
        yield array
    if done != shape[0]:
        raise InputError(f"{path}: expected {shape[0]} slices, got {done}. Nothing was written.")


def _write_npy(
    path: Path, chunks: Iterator[np.ndarray], shape: Shape, voxels: Voxels | None
) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(chunk.data)


def _write_hdf5(
    path: Path, chunks: Iterator[np.ndarray], shape: Shape, voxels: Voxels | None
) -> None:
    with require("h5py", "Writing an HDF5 file").File(path, "w") as file:
        volume, done = file.create_dataset("volume", shape, "<f4", track_times=False), 0
        for chunk in chunks:
            volume[done : done + len(chunk)] = chunk
            done += len(chunk)
        if voxels is not None:
            said = {"units": voxels.units, "voxel_size_units": voxels.length}
            volume.attrs.update({key: text for key, text in said.items() if text})
            volume.attrs["voxel_size"] = np.asarray(voxels.size, "<f8")
            if voxels.micrometres is not None:
                volume.attrs["element_size_um"] = np.asarray(voxels.micrometres, "<f8")


WRITERS = {
    ".npy": _write_npy,
    ".tif": write_pages,
    ".tiff": write_pages,
    ".h5": _write_hdf5,
    ".hdf5": _write_hdf5,
}

__all__ = ["write_report", "write_volume"]
