"""TIFF files of numbers: read page by page as they are stored, written page by page."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, PnPError
from pnp_mlpatch.io.images import tiff_kind
from pnp_mlpatch.io.stored import StoredArray, along
from pnp_mlpatch.io.voxels import Voxels

BIG_TIFF = 2**32  # bytes from which on a file needs 64-bit offsets
DESCRIPTION = 270  # the tag of a text
Entry = tuple[int, int, int]  # of a tag: type, number, and value or place


# ---- reading


def read_page(path: Path) -> np.ndarray:
    """Read the first page of a TIFF file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    ndarray, shape (H, W)
        The numbers in the type in which they are stored.

    Raises
    ------
    FileError
        If the file is missing or damaged.
    InputError
        For colour, and for numbers that Pillow does not read as stored.
    """
    with _tiff(path) as file:
        return _pixels(file, path)


def open_pages(path: Path) -> StoredArray:
    """Open a TIFF file, of which a slab keeps one page at a time in memory.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    StoredArray
        Of shape (H, W), or (pages, H, W) if the file has several pages.

    Raises
    ------
    FileError, InputError
        As :func:`read_page`, and for pages of different size or type.
    """
    first = read_page(path)
    with _tiff(path) as file:
        count = getattr(file, "n_frames", 1)
    if count == 1:
        return StoredArray(first.shape, first.dtype, lambda *span: read_page(path)[along(*span)])

    def pages(numbers: range) -> Iterator[np.ndarray]:
        with _tiff(path) as file:
            for number in numbers:
                file.seek(number)
                yield _pixels(file, path)

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        found = pages(range(start, stop) if axis == 0 else range(count))
        return _stacked(found, stack, axis, start, stop, path)

    stack = StoredArray((count, *first.shape), first.dtype, part)
    return stack


def open_files(files: Sequence[Path], folder: Path) -> StoredArray:
    """Open TIFF files of one page each as one stack.

    Parameters
    ----------
    files : sequence of Path
        The files, in order.
    folder : Path
        Where they lie, for messages.

    Returns
    -------
    StoredArray
        Of shape (files, H, W).

    Raises
    ------
    FileError, InputError
        As :func:`open_pages`.
    """
    first = read_page(files[0])

    def part(axis: int, start: int, stop: int) -> np.ndarray:
        found = (read_page(file) for file in (files[start:stop] if axis == 0 else files))
        return _stacked(found, stack, axis, start, stop, folder)

    stack = StoredArray((len(files), *first.shape), first.dtype, part)
    return stack


def _stacked(
    pages: Iterator[np.ndarray], stack: StoredArray, axis: int, start: int, stop: int, path: Path
) -> np.ndarray:
    """Range start:stop along one axis of a stack; one page is in memory at a time."""
    shape = tuple(stop - start if k == axis else n for k, n in enumerate(stack.shape))
    result = np.empty(shape, stack.dtype)
    cut = along(axis - 1, start, stop) if axis else ()
    for k, page in enumerate(pages):
        number = k + (0 if axis else start)
        if page.shape != stack.shape[1:]:
            raise InputError(
                f"{path}: page {number} has {page.shape} pixels, the first has "
                f"{stack.shape[1:]}. Crop them to one size."
            )
        if not np.can_cast(page.dtype, stack.dtype):
            raise InputError(
                f"{path}: page {number} holds {page.dtype}, the first {stack.dtype}. "
                "Save all in one type."
            )
        result[k] = page[cut]
    return result


def _pixels(file: Any, path: Path) -> np.ndarray:
    """Read the numbers of a page as they are stored; raise for types that Pillow converts."""
    bits, signed, white = tiff_kind(file) if file.format == "TIFF" else (8, False, False)
    if white or (signed and bits == 8) or bits not in (8, 16, 32, 64):
        raise InputError(
            f"{path}: expected numbers of 8, 16 or 32 bit with black at 0, got "
            f"{'signed ' if signed else ''}{bits} bit{' with white at 0' if white else ''}. "
            "Save it in 16 bit or float."
        )
    file.load()
    array = np.asarray(file)
    if file.mode == "I" and bits == 32 and not signed:
        array = array.view(np.uint32)  # Pillow has signed ones only
    if array.ndim != 2 or not file.mode.startswith(("L", "I", "F")):
        raise InputError(
            f"{path}: expected one channel of numbers, got a TIFF of mode '{file.mode}'. "
            "Convert it to greyscale or float."
        )
    return array


@contextmanager
def _tiff(path: Path) -> Iterator[Any]:
    """Open a TIFF file for reading; what Pillow raises becomes a :class:`FileError`."""
    Image = require("PIL.Image", "Reading TIFF")
    try:
        with Image.open(path) as file:
            yield file
    except PnPError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds for damaged files
        raise FileError(
            f"{path}: cannot be read as TIFF ({error or type(error).__name__}). Copy it again."
        ) from error


# ---- writing


def write_pages(
    path: Path,
    chunks: Iterator[np.ndarray],
    shape: tuple[int, int, int],
    voxels: Voxels | None = None,
    big_from: int = BIG_TIFF,
) -> None:
    """Write float32 pages, chunk by chunk: the pixels of all pages, then their directories.

    Pillow would keep all pages in memory. (TIFF 6.0; BigTIFF from ``big_from`` bytes on.) The size
    of voxels is written as ImageJ does: pixels per unit in XResolution and YResolution, the unit
    and the distance of slices in the description of the first page.

    Parameters
    ----------
    path : Path
        The file.
    chunks : iterator of ndarray
        Pages (k, H, W), little-endian float32, which make up ``shape``.
    shape : tuple of int
        (pages, H, W).
    voxels : Voxels, optional
        The size of a voxel.
    big_from : int
        Size in bytes from which on offsets have 64 bits.
    """
    pages, height, width = shape
    size = 4 * height * width
    big = pages * (size + 256) >= big_from
    start = 16 if big else 8
    texts, extra = _describe(pages, voxels, start + pages * size, big)
    after = start + pages * size + len(extra)  # of all pixels, where the directories begin
    if big:
        head = struct.pack("<2s3HQ", b"II", 43, 8, 0, after)
    else:
        head = struct.pack("<2sHI", b"II", 42, after)
    with path.open("wb") as file:
        file.write(head)
        for chunk in chunks:
            file.write(chunk.data)
        file.write(extra)
        for k in range(pages):
            more = {tag: entry for tag, entry in texts.items() if tag != DESCRIPTION or k == 0}
            _write_directory(file, (width, height), start + k * size, k == pages - 1, big, more)


def _describe(
    pages: int, voxels: Voxels | None, place: int, big: bool
) -> tuple[dict[int, Entry], bytes]:
    """Return the tags of resolution and description, and the bytes at ``place`` they refer to."""
    if voxels is None:
        return {}, b""
    dz, dy, dx = voxels.size
    lines = ["ImageJ=1.54f", f"images={pages}", f"slices={pages}"]
    lines += [f"unit={voxels.length}"] if voxels.length else []
    lines += [f"spacing={dz:.12g}", "loop=false"]
    lines += [f"units of values={voxels.units}"] if voxels.units else []
    text = ("\n".join(lines) + "\n").encode() + b"\0"
    across, down = (struct.pack("<2I", *_rational(1 / side)) for side in (dx, dy))
    padding = b"\0" * (-len(text) % 8)
    tags = {
        DESCRIPTION: (2, len(text), place + 16),
        282: (5, 1, struct.unpack("<Q", across)[0] if big else place),  # 8 bytes fit in there
        283: (5, 1, struct.unpack("<Q", down)[0] if big else place + 8),
        296: (3, 1, 1),  # no unit of the standard: that of the description
    }
    return tags, across + down + text + padding


def _rational(value: float) -> tuple[int, int]:
    """Return two integers of 32 bit whose ratio is the value, to 1e-9 or better where it fits."""
    top = 2**32 - 1
    found = Fraction(value).limit_denominator(max(1, min(10**9, int(top / max(value, 1e-9)))))
    return min(found.numerator, top), found.denominator


def _write_directory(
    file: BinaryIO,
    size: tuple[int, int],
    offset: int,
    last: bool,
    big: bool,
    more: dict[int, Entry],
) -> None:
    """Write the tags of a page (W, H) of one uncompressed strip of floats."""
    width, height = size
    wide = 16 if big else 4  # integers of 64 bit
    tags: dict[int, Entry] = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (4, 1, 32),  # bits of a sample
        259: (4, 1, 1),  # no compression
        262: (4, 1, 1),  # black is zero
        273: (wide, 1, offset),
        277: (4, 1, 1),  # samples of a pixel
        278: (4, 1, height),  # rows in the strip
        279: (wide, 1, 4 * width * height),
        339: (4, 1, 3),  # IEEE floats
        **more,
    }
    count, entry, pointer = ("<Q", "<2H2Q", "<Q") if big else ("<H", "<2H2I", "<I")
    length = struct.calcsize(count) + len(tags) * struct.calcsize(entry) + struct.calcsize(pointer)
    following = 0 if last else file.tell() + length
    entries = b"".join(struct.pack(entry, tag, *tags[tag]) for tag in sorted(tags))
    file.write(struct.pack(count, len(tags)) + entries + struct.pack(pointer, following))


__all__ = ["open_files", "open_pages", "read_page", "write_pages"]
