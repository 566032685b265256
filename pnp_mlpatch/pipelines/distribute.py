"""Denoise images that are larger than the memory, block by block, by one process or many.

A local denoiser needs a margin of ``D.info.field`` pixels about a block. Blocks begin where the
tiles of an MLPatch begin, so it computes the same tiles as for the whole image: the result has the
same bits, for any number of workers. Borders of the image are left to the denoiser, with its rule
(MLPatch: reflection about the border pixels).
"""

from __future__ import annotations

import math
import pickle
import shutil
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.denoisers import Denoiser, as_denoiser, describe
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.lock import lock
from pnp_mlpatch.io.reading import check_zarr
from pnp_mlpatch.pipelines.ct_batch import torch_threads
from pnp_mlpatch.pipelines.workers import check_workers, packed

if TYPE_CHECKING:
    import dask.array as da
    from distributed import Client

BLOCK = 2048  # pixels: the side of a block, 16 MiB of float32


def denoise(
    array: da.Array,
    D: Denoiser | str,
    sigma: float,
    *,
    overlap: int | None = None,
    block: int = BLOCK,
    threads: int = 1,
) -> da.Array:
    """Denoise a dask array; nothing is computed yet.

    Parameters
    ----------
    array : dask.array.Array, shape (H, W), (C, H, W) or (B, C, H, W)
        float32 or float64.
    D : denoiser or str
        A local denoiser; anything that :func:`~pnp_mlpatch.denoisers.as_denoiser` takes.
    sigma : float
        Noise level, in the units of the image.
    overlap : int, optional
        Pixels of margin about a block; by default what the denoiser says of itself.
    block : int
        Side of the blocks; rounded up to a multiple of the tiles of the denoiser.
    threads : int
        Threads of torch for a block. The last bits of the result depend on them.

    Returns
    -------
    dask.array.Array
        Of the shape and dtype of ``array``.

    Raises
    ------
    InputTypeError
        For anything but a dask array of floats, and for denoisers that cannot be pickled.
    InputError
        For a denoiser that does not say how far it sees, without ``overlap``; and for an overlap
        that is less than it needs.

    Examples
    --------
    >>> import dask.array as da
    >>> from pnp_mlpatch import denoisers
    >>> D = denoisers.make("mlpatch", weights="mlpatch-grey")
    >>> denoise(da.zeros((300, 200), dtype="float32"), D, 0.1, block=128).numblocks
    (3, 2)
    """
    who = "distribute.denoise"
    dask_array = require("dask.array", who)
    if not isinstance(array, dask_array.Array):
        raise InputTypeError(
            f"{who}: expected a dask array, got {type(array).__name__}. Make one by "
            "dask.array.from_array or from_zarr."
        )
    if array.dtype not in (np.float32, np.float64) or array.ndim not in (2, 3, 4):
        raise InputTypeError(
            f"{who}: expected float32 or float64 of shape (H, W), (C, H, W) or (B, C, H, W), got "
            f"{array.dtype} of shape {array.shape}."
        )
    if not finite_number(sigma) or sigma < 0:
        raise InputError(f"{who}: sigma must be a number >= 0, got {sigma!r}.")
    for name, value in (("block", block), ("threads", threads)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{who}: {name} must be an integer >= 1, got {value!r}.")
    D = as_denoiser(D) if isinstance(D, str) or not callable(D) else D
    field, step = _margin(D, overlap, who), tile_step(D)
    lead = step * -(-field // step)  # so that blocks with their margin begin at a tile
    side = max(step * -(-block // step), lead)
    axes = (array.ndim - 2, array.ndim - 1)
    chunks: dict[int, Any] = dict.fromkeys(axes, side)
    chunks |= {axis: 1 if axis == array.ndim - 4 else -1 for axis in range(array.ndim - 2)}
    array = _joined(array.rechunk(cast(Any, chunks)), axes, lead)
    depth: dict[int, Any] = dict.fromkeys(range(array.ndim), 0)
    depth |= {axis: (lead, field) for axis in axes if array.numblocks[axis] > 1}
    job = require("dask", who).delayed(packed(D, who, "the denoiser"), pure=True)
    return array.map_overlap(
        _block,
        depth=depth,
        boundary="none",
        dtype=array.dtype,
        meta=np.empty((0,) * array.ndim, array.dtype),
        allow_rechunk=False,
        job=job,
        sigma=float(sigma),
        threads=threads,
    )


def denoise_zarr(
    source: str | PathLike[str],
    out: str | PathLike[str],
    D: Denoiser | str,
    sigma: float,
    *,
    overlap: int | None = None,
    block: int = BLOCK,
    threads: int = 1,
    client: Client | None = None,
) -> Path:
    """Denoise an image in a zarr store into another one, in bounded memory.

    Parameters
    ----------
    source : str or path
        A zarr array (H, W), (C, H, W) or (B, C, H, W) of float32 or float64.
    out : str or path
        The store that is written, whole or not at all. There must be none.
    D, sigma, overlap, block, threads
        As in :func:`denoise`.
    client : distributed.Client, optional
        Its workers make the blocks, and see both stores under the same paths. By default this
        process makes them, one after the other.

    Returns
    -------
    Path
        ``out``, of which a chunk is a block.

    Raises
    ------
    FileError
        If the source cannot be read, or ``out`` exists or cannot be written.
    InputError, InputTypeError
        As :func:`denoise`.
    """
    who, path = "distribute.denoise_zarr", Path(out)
    dask_array, zarr = require("dask.array", who), require("zarr", who)
    if path.exists():
        raise FileError(f"{path}: is there already. Remove it, or choose another name.")
    if not path.absolute().parent.is_dir():
        raise FileError(f"{path}: there is no folder {path.parent}. Create it first.")
    array = _opened(dask_array, zarr, Path(source))
    result = denoise(array, D, sigma, overlap=overlap, block=block, threads=threads)
    if client is not None:
        check_workers(client, who)
    partial = path.absolute().with_name(f".{path.name}.partial")
    with lock(path):
        shutil.rmtree(partial, ignore_errors=True)
        try:
            target = zarr.create_array(
                str(partial),
                shape=result.shape,
                chunks=tuple(max(sizes) for sizes in result.chunks),
                dtype=result.dtype,
            )
            scheduler = "synchronous" if client is None else client
            dask_array.store(result, target, lock=False, scheduler=scheduler)
            partial.rename(path)
        except OSError as error:
            reason = error.strerror or error
            raise FileError(f"{path}: could not be written ({reason}). Make room.") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return path


def tile_step(D: Denoiser) -> int:
    """Return where the tiles of a denoiser begin: at multiples of this number of pixels.

    Parameters
    ----------
    D : denoiser
        Any denoiser, which may hold others.

    Returns
    -------
    int
        1 for a denoiser without tiles.
    """
    parts = D.modules() if isinstance(D, nn.Module) else [D]
    found = [(getattr(part, "tile", None), getattr(part, "fold", 1)) for part in parts]
    return math.lcm(*(fold * -(-tile // fold) for tile, fold in found if isinstance(tile, int)), 1)


def _margin(D: Denoiser, overlap: int | None, who: str) -> int:
    """Return how many pixels about a block are needed."""
    known = describe(D)
    if overlap is None:
        if known.field is None:
            raise InputError(
                f"{who}: the denoiser {known.name} does not say how far it sees (info.field). Give "
                "overlap, in pixels, if it is local; a result of blocks is wrong if it is not."
            )
        return known.field
    if isinstance(overlap, bool) or not isinstance(overlap, int) or overlap < 0:
        raise InputError(f"{who}: overlap must be an integer >= 0, got {overlap!r}.")
    if known.field is not None and overlap < known.field:
        raise InputError(
            f"{who}: the denoiser {known.name} sees {known.field} pixels far, so overlap must be "
            f"at least that, got {overlap}."
        )
    return overlap


def _joined(array: da.Array, axes: Sequence[int], lead: int) -> da.Array:
    """Join a last block that is smaller than the margin with the one before it."""
    chunks = list(array.chunks)
    for axis in axes:
        sizes = chunks[axis]
        if len(sizes) > 1 and sizes[-1] < lead:
            chunks[axis] = (*sizes[:-2], sizes[-2] + sizes[-1])
    return array.rechunk(cast(Any, tuple(chunks)))


def _opened(dask_array: Any, zarr: Any, source: Path) -> da.Array:
    """Return the array of a store, not read yet."""
    if not source.exists():
        raise FileError(f"{source}: no such store. Check the path.")
    check_zarr(source)
    try:
        found = zarr.open_array(str(source.absolute()), mode="r")
    except Exception as error:  # zarr raises a dozen kinds
        raise FileError(
            f"{source}: not a readable zarr array ({error or type(error).__name__}). For an array "
            "of a group give its folder."
        ) from error
    return dask_array.from_array(found, chunks=found.chunks, asarray=False)


def _block(x: np.ndarray, job: bytes, sigma: float, threads: int) -> np.ndarray:
    """Denoise a block with its margin."""
    D = pickle.loads(job)
    shape = x.shape
    with torch_threads(threads), torch.no_grad():
        images = torch.from_numpy(np.ascontiguousarray(x)).reshape(-1, *_channels(shape))
        return D(images, sigma).reshape(shape).numpy()


def _channels(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape) if len(shape) == 2 else shape[-3:]


__all__ = ["denoise", "denoise_zarr", "tile_step"]
