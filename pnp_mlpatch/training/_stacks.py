"""Stacks of training images in array files, read piece by piece."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, PnPError
from pnp_mlpatch.io.reading import (
    check_hdf5,
    check_zarr,
    refuse_bomb,
    refuse_special,
    refuse_zip_bomb,
)
from pnp_mlpatch.training._source import Source, below

STACKS = (".npy", ".npz", ".h5", ".hdf5", ".zarr")


def split_name(item: str) -> tuple[str, str]:
    """Split "scans.h5:train/slices" into file and name; the name is empty where there is none."""
    path, colon, name = item.rpartition(":")
    return (path, name) if colon and Path(path).suffix.lower() in STACKS else (item, "")


def stack(item: str, channels: int, smallest: int, window: Sequence[float] | None = None) -> Source:
    """Open images in one array (N, H, W) or (N, C, H, W).

    Only the pixels of a window are read, when they are asked for, so a stack may be larger than
    memory. An .npz alone is read as a whole, in its own precision.

    Parameters
    ----------
    item : str
        ``file.npy``, ``file.npz``, ``file.h5`` or ``folder.zarr``, then ``:NAME`` of the array.
        Without a name, the file must hold exactly one array of three or more dimensions.
    channels, smallest : int
        Channels, and the least number of pixels along each side, that the images must have.
    window : sequence of two floats, optional
        Maps values to (v - low) / (high - low), cut to [0, 1]. By default they are used as they
        are.

    Returns
    -------
    Source

    Raises
    ------
    FileError
        For a file that is missing, damaged or of another shape, and for integers without a
        ``window``; later, for values that are not finite.
    """
    path, name = split_name(item)
    try:
        array = _open_array(Path(path), name)
    except PnPError:
        raise
    except Exception as error:  # numpy, zipfile, h5py and zarr raise a dozen kinds
        raise FileError(
            f"{item}: cannot be read as a stack of images ({error or type(error).__name__})."
        ) from error
    shape = tuple(array.shape)
    if not isinstance(array, np.ndarray):  # those are mapped or in memory
        largest = max(math.prod(shape[1:]), math.prod(getattr(array, "chunks", None) or ()))
        refuse_bomb(path, largest * np.dtype(array.dtype).itemsize)
    _check_array(item, array, channels, smallest, window)
    part = functools.partial(_part, item, array, channels, window)

    def draw(k: int, size: int, step: int, rng: np.random.Generator) -> Tensor:
        top, left = (below(n - size + 1, rng) for n in shape[-2:])
        return part(k, slice(top, top + size), slice(left, left + size))

    middle = part(shape[0] // 2, slice(None), slice(None))
    low, high = float(middle.min()), float(middle.max())
    if high - low > 10:
        warnings.warn(
            f"{item}: values run from {low:.4g} to {high:.4g}, and sigma is in their units. "
            "Set window = [low, high] to map them to [0, 1].",
            stacklevel=2,
        )
    return Source(item, shape[0], draw, lambda k: part(k, slice(None), slice(None)))


def _check_array(
    item: str, array: Any, channels: int, smallest: int, window: Sequence[float] | None
) -> None:
    """Raise :class:`FileError` unless the array holds usable images."""
    shape, kind = tuple(array.shape), np.dtype(array.dtype).kind
    found = shape[1] if len(shape) == 4 else 1
    if len(shape) not in (3, 4) or 0 in shape or found != channels or kind not in "fiub":
        wanted = "(N, H, W)" if channels == 1 else f"(N, {channels}, H, W)"
        raise FileError(
            f"{item}: expected images in an array {wanted} of real numbers, "
            f"got {shape} of {array.dtype}."
        )
    if min(shape[-2:]) < smallest:
        raise FileError(
            f"{item}: its images have {shape[-2]} x {shape[-1]} pixels, "
            f"at least {smallest} x {smallest} are needed."
        )
    if kind in "iu" and window is None:
        raise FileError(
            f"{item}: holds {array.dtype}. Set window = [low, high] to map it to [0, 1]: "
            "[0, 255] for 8 bit, [-1024, 1024] for HU."
        )


def _part(
    item: str,
    array: Any,
    channels: int,
    window: Sequence[float] | None,
    k: int,
    rows: slice,
    cols: slice,
) -> Tensor:
    """Read a part of image k, float32 (C, h, w)."""
    try:
        values = np.asarray(array[k, ..., rows, cols])
    except Exception as error:  # h5py, zarr and their codecs raise a dozen kinds
        raise FileError(
            f"{item}: image {k} cannot be read ({error}). Is the file whole?"
        ) from error
    part = torch.from_numpy(values.astype(np.float32)).reshape(channels, *values.shape[-2:])
    if not bool(torch.isfinite(part).all()):
        raise FileError(f"{item}: image {k} holds NaN or infinite values. Replace them first.")
    return part if window is None else ((part - window[0]) / (window[1] - window[0])).clamp(0, 1)


def _open_array(path: Path, name: str) -> Any:
    """Open the array of that name in a file, or the only one of three or more dimensions."""
    if not path.exists():
        raise FileError(f"{path}: no such file or folder of training images.")
    refuse_special(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        if name:
            raise FileError(
                f"{path}:{name}: a .npy file holds one array, without a name. Leave ':{name}' away."
            )
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if suffix == ".npz":
        refuse_zip_bomb(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files if key == name or not name}
    elif suffix == ".zarr":
        check_zarr(path)
        group = require("zarr", "Reading a .zarr folder").open(str(path), mode="r")
        arrays = dict(_members(group, "")) if hasattr(group, "arrays") else {name: group}
    else:
        arrays = _hdf5_arrays(require("h5py", "Reading an HDF5 file").File(path, "r"), name, path)
    if name:
        if name not in arrays:
            raise FileError(f"{path}: holds no array '{name}'.")
        return arrays[name]
    found = [key for key, array in arrays.items() if len(array.shape) >= 3]
    if len(found) != 1:
        raise FileError(
            f"{path}: expected one array of images, found {len(found)} with three or more "
            f"dimensions ({', '.join(found) or 'none'}). "
            f"Name one: '{path}:NAME'."
        )
    return arrays[found[0]]


def _hdf5_arrays(file: Any, name: str, path: Path) -> dict[str, Any]:
    """Find the array of that name, or all; raise for those in other files, or never written."""
    check_hdf5(file, name, path)
    found = (
        {name: file[name]}
        if name and hasattr(file.get(name), "shape")
        else {}
        if name
        else dict(_members(file, "", path))
    )
    for key, array in found.items():
        if len(array.shape) < 3 or 0 in array.shape or array.is_virtual:
            continue
        chunks = (
            math.prod(-(-n // k) for n, k in zip(array.shape, array.chunks, strict=True))
            if array.chunks
            else 1
        )
        written = (
            array.id.get_num_chunks() if array.chunks else int(array.id.get_storage_size() > 0)
        )
        if written < chunks:
            raise FileError(
                f"{path}:{key}: {chunks - written} of its {chunks} chunks were never written and "
                "would be zeros. Write them."
            )
    return found


def _members(group: Any, prefix: str, hdf5: Path | None = None) -> Iterator[tuple[str, Any]]:
    """Iterate over the arrays of an HDF5 or zarr group and of its groups, with their paths."""
    for key in sorted(group):
        if hdf5 is not None:
            check_hdf5(group, key, hdf5)
        member = group[key]
        if hasattr(member, "shape"):
            yield prefix + key, member
        else:
            yield from _members(member, f"{prefix}{key}/", hdf5)
