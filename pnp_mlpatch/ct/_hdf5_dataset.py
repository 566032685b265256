"""Datasets of HDF5 files, of which blocks may never have been written."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._scan_file import format_ranges
from pnp_mlpatch.errors import FileError, PnPError
from pnp_mlpatch.io.stored import StoredArray, along

Block = tuple[tuple[int, int], ...]  # (start, stop) along each axis


@contextmanager
def hdf5_file(path: Path) -> Iterator[Any]:
    """Open an HDF5 file for reading; what h5py raises becomes a :class:`FileError`.

    Parameters
    ----------
    path : Path
        The file.

    Yields
    ------
    h5py.File

    Raises
    ------
    FileError
        If the file is damaged, or compressed by a filter that is not installed.
    """
    h5py = require("h5py", "Reading an HDF5 file")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileError(
            f"{path}: not a whole HDF5 file ({error}). Copy or download it again."
        ) from error
    with file:
        try:
            yield file
        except PnPError:
            raise
        except (OSError, RuntimeError, KeyError) as error:
            raise FileError(
                f"{path}: cannot be read ({error}). Is the file whole? If a compression is "
                "missing: pip install hdf5plugin, and import hdf5plugin first."
            ) from error


def stored_dataset(path: Path, key: str, dataset: Any) -> StoredArray:
    """Return a dataset as a stored array; blocks that were never written are read as NaN.

    Parameters
    ----------
    path : Path
        The file.
    key : str
        The name of the dataset in it.
    dataset : h5py.Dataset
        The open dataset.

    Returns
    -------
    StoredArray
        It opens the file again for each part.

    Raises
    ------
    FileError
        If more than half of the dataset is missing. Less is warned of.
    """
    shape, gaps = dataset.shape or (), find_gaps(dataset, path)
    stored = StoredArray(shape, dataset.dtype, lambda *span: _read(path, key, span, gaps))
    if not gaps:
        return stored
    lost = sum(math.prod(stop - start for start, stop in gap) for gap in gaps)
    share = lost / max(1, math.prod(shape))
    places = sorted({k for gap in gaps for k in range(*gap[0])}) if shape else []
    what = (
        f"{path}: /{key}, {shape}: {share:.0%} of it was never written or its source is gone, "
        f"at {format_ranges(places)} of the first axis"
    )
    if share > 0.5:
        raise FileError(
            f"{what}. Copy the whole file with the files that it refers to, "
            "or name another dataset."
        )
    warnings.warn(f"{what}; it gets no weight. Did the acquisition break off?", stacklevel=5)
    return stored


def find_gaps(dataset: Any, path: Path) -> list[Block]:
    """Return the blocks of a dataset that hold no data.

    Parameters
    ----------
    dataset : h5py.Dataset
        The open dataset.
    path : Path
        Its file.

    Returns
    -------
    list of tuple
        Chunks that were never written, and the parts of a virtual dataset whose source is gone,
        each as (start, stop) along each axis.
    """
    shape = dataset.shape or ()
    if not shape or 0 in shape:
        return []
    if dataset.is_virtual:
        return [gap for source in dataset.virtual_sources() for gap in _source_gaps(source, path)]
    if dataset.chunks is None:
        compact = dataset.id.get_create_plist().get_layout() == 0
        stored = dataset.id.get_storage_size() > 0 or compact or dataset.external
        return [] if stored else [tuple((0, n) for n in shape)]
    counts = [math.ceil(n / chunk) for n, chunk in zip(shape, dataset.chunks, strict=True)]
    if dataset.id.get_num_chunks() >= math.prod(counts):
        return []
    return [
        tuple(
            (int(k) * chunk, min((int(k) + 1) * chunk, n))
            for k, chunk, n in zip(place, dataset.chunks, shape, strict=True)
        )
        for place in np.argwhere(~_written_chunks(dataset, counts))
    ]


def _written_chunks(dataset: Any, counts: Sequence[int]) -> np.ndarray:
    """Which chunks were written, an array of bool with one element a chunk."""
    written = np.zeros(counts, dtype=bool)

    def note(info: Any) -> None:
        starts = zip(info.chunk_offset, dataset.chunks, strict=True)
        written[tuple(start // chunk for start, chunk in starts)] = True

    if hasattr(dataset.id, "chunk_iter"):
        dataset.id.chunk_iter(note)
    else:  # an HDF5 before 1.12.3
        for k in range(dataset.id.get_num_chunks()):
            note(dataset.id.get_chunk_info(k))
    return written


def _source_gaps(source: Any, path: Path) -> list[Block]:
    """Return the gaps of the part of a virtual dataset that one source holds."""
    h5py = require("h5py", "Reading an HDF5 file")
    first, last = source.vspace.get_select_bounds()
    block: Block = tuple((int(a), int(b) + 1) for a, b in zip(first, last, strict=True))
    if "%b" in source.file_name:  # numbered files, which HDF5 itself counts
        return []
    file = path if source.file_name == "." else path.parent / source.file_name
    try:
        with h5py.File(file, "r") as held:
            dataset = held.get(source.dset_name)
            if isinstance(dataset, h5py.Dataset):
                gaps = find_gaps(dataset, file)
                if dataset.shape != tuple(stop - start for start, stop in block):
                    return [block] if gaps else []
                return [
                    tuple((a + x, a + y) for (a, _), (x, y) in zip(block, gap, strict=True))
                    for gap in gaps
                ]
    except OSError:
        pass
    return [block]


def _read(path: Path, key: str, span: tuple[int, int, int], gaps: Sequence[Block]) -> np.ndarray:
    """Return a range (axis, start, stop) of a dataset, NaN in its gaps."""
    axis, start, stop = span
    with hdf5_file(path) as file:
        values = file[key][along(axis, start, stop)]
    if not gaps or values.dtype.kind not in "fiu":
        return values
    values = values.astype(np.float32)
    for gap in gaps:
        low, high = max(gap[axis][0] - start, 0), min(gap[axis][1], stop) - start
        if low < high:
            cut = [slice(*one) for one in gap]
            cut[axis] = slice(low, high)
            values[tuple(cut)] = np.nan
    return values


__all__ = ["find_gaps", "hdf5_file", "stored_dataset"]
