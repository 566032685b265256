"""OME-Zarr 0.5: a volume with its smaller versions, as napari and neuroglancer open it.

A level is an array of zarr format 3 without compression, of which each chunk is one file of plain
numbers, little-endian float32. So every process can write its own chunks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError
from pnp_mlpatch.io.atomic import atomic_write
from pnp_mlpatch.io.voxels import Voxels

SMALLEST = 256  # pixels: no level is made of one whose sides are at most so long
OURS = "pnp_mlpatch"  # the attribute by which a store of this package is known
Shape = tuple[int, int, int]


def levels(shape: Shape) -> list[Shape]:
    """Return the shapes of the levels: rows and columns are halved, slices are kept.

    Parameters
    ----------
    shape : tuple of int
        (slices, H, W).

    Returns
    -------
    list of tuple
        The first is ``shape``.
    """
    found = [shape]
    while max(found[-1][1:]) > SMALLEST:
        slices, height, width = found[-1]
        found.append((slices, -(-height // 2), -(-width // 2)))
    return found


def chunk_file(store: Path, level: int, number: int) -> Path:
    """Return the file of a chunk.

    Parameters
    ----------
    store : Path
        The folder.
    level : int
        0 for the whole resolution.
    number : int
        The chunk along the slices.

    Returns
    -------
    Path
    """
    return store / str(level) / "c" / str(number) / "0" / "0"


def write_chunk(path: Path, x: Tensor, slices: int) -> None:
    """Write a chunk, whole or not at all.

    Parameters
    ----------
    path : Path
        The file.
    x : Tensor, shape (k, H, W)
        On the CPU, k at most ``slices``; zeros follow.
    slices : int
        The slices of a chunk.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    array = x.contiguous().numpy().astype("<f4", copy=False)
    rest = np.zeros((slices - len(array), *array.shape[1:]), "<f4")

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(array.data)
            file.write(rest.data)

    atomic_write(path, write)


def write_levels(
    store: Path, chunks: Iterable[Tensor], shape: Shape, slices: int, voxels: Voxels, name: str
) -> None:
    """Write the smaller levels and the metadata of a store whose level 0 has all its chunks.

    Parameters
    ----------
    store : Path
        The folder.
    chunks : iterable of Tensor
        The chunks of level 0.
    shape : tuple of int
        (slices, H, W).
    slices : int
        The slices of a chunk.
    voxels : Voxels
        Their size and units.
    name : str
        The name of the image.

    Raises
    ------
    FileError
        If they cannot be written.
    MissingPackage
        Without zarr 3.
    """
    sizes = levels(shape)
    for number, x in enumerate(chunks):
        for level in range(1, len(sizes)):
            # the mean of what there is of 2 x 2 pixels
            x = F.avg_pool2d(x[:, None], 2, ceil_mode=True)[:, 0]
            write_chunk(chunk_file(store, level, number), x, slices)
    try:
        _write_metadata(store, sizes, slices, voxels, name)
    except OSError as error:
        raise FileError(f"{store}: could not be written ({error.strerror}). Make room.") from error


def _write_metadata(
    store: Path, sizes: list[Shape], slices: int, voxels: Voxels, name: str
) -> None:
    """Write the zarr.json of the group and of the levels."""
    zarr = require("zarr", "Writing a .zarr folder")
    for found in (store / "zarr.json", *store.glob("*/zarr.json")):
        found.unlink(missing_ok=True)
    dz, *sides = voxels.size
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [
                {"type": "scale", "scale": [dz, *[side * 2**level for side in sides]]},
                # the centre of the first pixel
                {
                    "type": "translation",
                    "translation": [0.0, *[side * (2**level - 1) / 2 for side in sides]],
                },
            ],
        }
        for level in range(len(sizes))
    ]
    unit = {"unit": voxels.name} if voxels.name else {}
    axes = [{"name": axis, "type": "space", **unit} for axis in "zyx"]
    image = {"name": name, "axes": axes, "datasets": datasets, "type": "mean of 2 x 2 pixels"}
    ours = {"chunk": slices, **({"units": voxels.units} if voxels.units else {})}
    attributes = {"ome": {"version": "0.5", "multiscales": [image]}, OURS: ours}
    group = zarr.create_group(str(store), attributes=attributes, zarr_format=3)
    for level, size in enumerate(sizes):
        group.create_array(
            str(level),
            shape=size,
            chunks=(slices, *size[1:]),
            dtype="float32",
            compressors=None,
            filters=None,
            fill_value=0,
            dimension_names=tuple("zyx"),
        )


def check_replaceable(store: Path, shape: Shape, slices: int) -> None:
    """Check that what lies in the place of a store is one of this package and of the same chunks.

    Parameters
    ----------
    store : Path
        The folder, which need not exist.
    shape : tuple of int
        (slices, H, W) of the volume that will be written.
    slices : int
        The slices of a chunk.

    Raises
    ------
    FileError
        If it is another folder, a store of other chunks, or half written.
    """
    advice = "Remove it, or choose another name."
    if not store.exists():
        return
    if not store.is_dir():
        raise FileError(f"{store}: expected a zarr store or nothing, got a file. {advice}")
    try:
        group = _metadata(store)
        known = group["attributes"][OURS]
        found = _metadata(store / "0")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{store}: there is a folder that is no whole volume of this package "
            f"({type(error).__name__}). {advice}"
        ) from error
    chunks = found["chunk_grid"]["configuration"]["chunk_shape"]
    if known.get("chunk") != slices or chunks[1:] != list(shape[1:]):
        raise FileError(
            f"{store}: there is a volume with chunks of {tuple(chunks)}, this run writes "
            f"{(slices, *shape[1:])}. {advice}"
        )


def _metadata(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "zarr.json").read_text(encoding="utf-8"))


__all__ = ["check_replaceable", "chunk_file", "levels", "write_chunk", "write_levels"]
