"""Where training images come from: folders of pictures, stacks in array files read piece by piece, and two generators."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import FileError, InputError, InputTypeError, PnPError
from pnp_mlpatch.io.images import READABLE, read_image
from pnp_mlpatch.io.reading import (
    check_hdf5,
    check_zarr,
    refuse_bomb,
    refuse_special,
    refuse_zip_bomb,
)
from pnp_mlpatch.lensing.fields import random_convergence

STACKS = (".npy", ".npz", ".h5", ".hdf5", ".zarr")
PROCEDURAL, CONVERGENCE = "procedural", "convergence"
SIDE, BANK, REFRESH = (
    256,
    128,
    4,
)  # generated images: pixels a side, how many are in use, steps until the oldest is replaced
VALIDATED = 16  # at most so many images of a stack are validated on


@dataclass(frozen=True)
class Source:
    """``count`` images; ``window(k, size, step, rng)`` is a random part (C, size, size) of image k, ``whole(k)`` all of it (C, H, W).

    Only the generators, whose image k is replaced from time to time, look at ``step``.
    """

    name: str
    count: int
    window: Callable[[int, int, int, np.random.Generator], Tensor]
    whole: Callable[[int], Tensor]


def open_sources(
    data: str | Sequence[str],
    channels: int,
    smallest: int,
    window: Sequence[float] | None = None,
    seed: int = 0,
) -> list[Source]:
    """One source for each item of ``data``: "procedural" or "convergence" (:func:`generator`), an array file ``FILE`` or ``FILE:NAME``
    (:func:`stack`), else a folder of pictures.

    The images must have ``channels`` channels and at least ``smallest`` pixels a side. A generator counts as many images as all
    pictures and stacks together, so that it gives half of the windows. Raises :class:`FileError` naming the file or folder, and
    :class:`InputError` for "convergence" with more than one channel.
    """
    sources, generated = [], []
    for item in [data] if isinstance(data, str) else data:
        path, _ = split_name(item)
        if item in (PROCEDURAL, CONVERGENCE):
            if item == CONVERGENCE and channels != 1:
                raise InputError(
                    f"train: '{CONVERGENCE}' has one channel, the network has {channels}. Set model.channels = 1."
                )
            generated += [item] if item not in generated else []
        elif Path(path).suffix.lower() in STACKS:
            sources.append(stack(item, channels, smallest, window))
        else:
            sources.append(pictures(item, read_folder(item, channels, smallest)))
    count = sum(source.count for source in sources)
    return sources + [
        generator(name, channels, max(SIDE, smallest), seed, count) for name in generated
    ]


def whole_images(sources: Sequence[Source]) -> Iterator[Tensor]:
    """The images to validate on, one by one: all pictures, and up to 16 evenly spaced images of every stack."""
    for source in sources:
        few = (
            source.count
            if Path(split_name(source.name)[0]).suffix.lower() not in STACKS
            and source.name not in (PROCEDURAL, CONVERGENCE)
            else VALIDATED
        )
        for k in np.linspace(0, source.count - 1, min(source.count, few)).round():
            yield source.whole(int(k))


def below(high: int, rng: np.random.Generator) -> int:
    """A random integer 0 ... high - 1."""
    return int(rng.random() * high)


# ---- pictures


def read_folder(folder: str | PathLike[str], channels: int, smallest: int) -> list[Tensor]:
    """All pictures of a folder, sorted by name, as float32 tensors (C, H, W) in [0, 1].

    A file that cannot be read, or that is smaller than ``smallest`` pixels a side, is skipped with a warning that names it.
    Raises :class:`FileError` if the folder is missing or no picture is left.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder of training images.")
    images = []
    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in READABLE):
        try:
            image = read_image(path, gray=channels == 1)[0]
        except (FileError, InputError) as error:
            warnings.warn(f"skipped: {error}", stacklevel=2)
            continue
        if image.shape[0] != channels or min(image.shape[1:]) < smallest:
            warnings.warn(
                f"skipped: {path} has shape {tuple(image.shape)}, needs {channels} x >= {smallest} x >= {smallest}",
                stacklevel=2,
            )
            continue
        images.append(image)
    if not images:
        raise FileError(
            f"{folder}: no usable picture ({', '.join(READABLE)}) of at least {smallest} x {smallest} pixels."
        )
    return images


def pictures(name: str, images: Sequence[Tensor]) -> Source:
    """Images (C, H, W) that are in memory."""

    def window(k: int, size: int, step: int, rng: np.random.Generator) -> Tensor:
        top, left = (below(n - size + 1, rng) for n in images[k].shape[1:])
        return images[k][:, top : top + size, left : left + size]

    return Source(name, len(images), window, lambda k: images[k])


# ---- stacks of images in one array


def split_name(item: str) -> tuple[str, str]:
    """``scans.h5:train/slices`` -> ("scans.h5", "train/slices"); the name is empty where there is none."""
    path, colon, name = item.rpartition(":")
    return (path, name) if colon and Path(path).suffix.lower() in STACKS else (item, "")


def stack(item: str, channels: int, smallest: int, window: Sequence[float] | None = None) -> Source:
    """Images in one array (N, H, W) or (N, C, H, W): ``file.npy``, ``file.npz``, ``file.h5`` or ``folder.zarr``, then ``:NAME`` of the array.

    Without a name, the file must hold exactly one array of three or more dimensions. Only the pixels of a window are read, when
    they are asked for, so a stack may be larger than memory; an .npz alone is read as a whole, and kept in its own precision.
    Values are used as they are, or, with ``window`` = [low, high], mapped to (v - low) / (high - low) and cut to [0, 1].

    Raises :class:`FileError` for a file that is missing, damaged or of another shape, for integers without a ``window``, and,
    when they are met, for values that are not finite.
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
    shape, kind = tuple(array.shape), np.dtype(array.dtype).kind
    if not isinstance(array, np.ndarray):  # those are mapped or in memory
        largest = max(math.prod(shape[1:]), math.prod(getattr(array, "chunks", None) or ()))
        refuse_bomb(path, largest * np.dtype(array.dtype).itemsize)
    if (
        len(shape) not in (3, 4)
        or 0 in shape
        or (shape[1] if len(shape) == 4 else 1) != channels
        or kind not in "fiub"
    ):
        wanted = "(N, H, W)" if channels == 1 else f"(N, {channels}, H, W)"
        raise FileError(
            f"{item}: expected images in an array {wanted} of real numbers, got {shape} of {array.dtype}."
        )
    if min(shape[-2:]) < smallest:
        raise FileError(
            f"{item}: its images have {shape[-2]} x {shape[-1]} pixels, at least {smallest} x {smallest} are needed."
        )
    if kind in "iu" and window is None:
        raise FileError(
            f"{item}: holds {array.dtype}. Set window = [low, high] to map it to [0, 1]: [0, 255] for 8 bit, [-1024, 1024] for HU."
        )

    def part(k: int, rows: slice, cols: slice) -> Tensor:
        try:
            values = np.asarray(array[k, ..., rows, cols])
        except Exception as error:  # h5py, zarr and their codecs raise a dozen kinds
            raise FileError(
                f"{item}: image {k} cannot be read ({error}). Is the file whole?"
            ) from error
        values = torch.from_numpy(values.astype(np.float32)).reshape(channels, *values.shape[-2:])
        if not bool(torch.isfinite(values).all()):
            raise FileError(f"{item}: image {k} holds NaN or infinite values. Replace them first.")
        return (
            values
            if window is None
            else ((values - window[0]) / (window[1] - window[0])).clamp(0, 1)
        )

    def draw(k: int, size: int, step: int, rng: np.random.Generator) -> Tensor:
        top, left = (below(n - size + 1, rng) for n in shape[-2:])
        return part(k, slice(top, top + size), slice(left, left + size))

    middle = part(shape[0] // 2, slice(None), slice(None))
    if float(middle.max() - middle.min()) > 10:
        warnings.warn(
            f"{item}: values run from {float(middle.min()):.4g} to {float(middle.max()):.4g}, and sigma is in their units. "
            "Set window = [low, high] to map them to [0, 1].",
            stacklevel=2,
        )
    return Source(item, shape[0], draw, lambda k: part(k, slice(None), slice(None)))


def _open_array(path: Path, name: str) -> Any:
    """The array of that name in a file, or the only one of three or more dimensions; read lazily where the format can."""
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
            f"{path}: expected one array of images, found {len(found)} with three or more dimensions ({', '.join(found) or 'none'}). "
            f"Name one: '{path}:NAME'."
        )
    return arrays[found[0]]


def _hdf5_arrays(file: Any, name: str, path: Path) -> dict[str, Any]:
    """The array of that name, or all; raise for one that is in other files, or was never written."""
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
                f"{path}:{key}: {chunks - written} of its {chunks} chunks were never written and would be zeros. Write them."
            )
    return found


def _members(group: Any, prefix: str, hdf5: Path | None = None) -> Iterator[tuple[str, Any]]:
    """The arrays of an HDF5 or zarr group and of its groups, with their paths."""
    for key in sorted(group):
        if hdf5 is not None:
            check_hdf5(group, key, hdf5)
        member = group[key]
        if hasattr(member, "shape"):
            yield prefix + key, member
        else:
            yield from _members(member, f"{prefix}{key}/", hdf5)


# ---- generated images


def generator(
    name: str, channels: int, side: int, seed: int, count: int = 0, bank: int = BANK
) -> Source:
    """Images without end: ``bank`` are in use, and every 4 steps the oldest is replaced by a new one.

    "procedural" are random pictures (:func:`dead_leaves`), "convergence" log-normal mass maps (:func:`random_convergence`).

    Which images a step sees follows from ``seed`` and the step alone.
    """

    @functools.lru_cache(maxsize=bank + 1)
    def image(number: int) -> Tensor:
        rng = np.random.default_rng((seed, number, GENERATED_STREAM))
        return (
            random_convergence(side, rng)
            if name == CONVERGENCE
            else dead_leaves(side, channels, rng)
        )

    def window(k: int, size: int, step: int, rng: np.random.Generator) -> Tensor:
        picture = image(step // REFRESH + below(bank, rng))
        top, left = (below(side - size + 1, rng) for _ in range(2))
        return picture[:, top : top + size, left : left + size]

    return Source(name, count or bank, window, image)


GENERATED_STREAM = (
    2**31
)  # keeps the random numbers of the images apart from those of the steps, whose third number is below it


def dead_leaves(side: int, channels: int, rng: np.random.Generator) -> Tensor:
    """A random picture (C, side, side) in [0, 1]: discs, boxes and half-planes that cover one another, flat, shaded or with a grating.

    Radii follow the density r^-3 of natural images (Lee, Mumford, Huang 2001), edges are antialiased, and some pictures are blurred.
    """
    picture = np.empty((channels, side, side), dtype=np.float32)
    picture[:] = rng.random((channels, 1, 1))
    least, most = 2.0, side / 2
    leaves = 8 + below(160, rng)
    radii = np.sort((least**-2 - rng.random(leaves) * (least**-2 - most**-2)) ** -0.5)[::-1]
    radii[: leaves // 4] = np.sort(rng.uniform(side / 12, most, leaves // 4))[
        ::-1
    ]  # large ones first, so that all is covered
    for radius in radii:
        row, col, angle, stretch, kind, paint = rng.random(6)
        row, col, angle = row * side, col * side, angle * math.pi
        reach = radius * 1.5 + 1
        top, bottom = max(0, int(row - reach)), min(side, int(row + reach) + 1)
        left, right = max(0, int(col - reach)), min(side, int(col + reach) + 1)
        y = (np.arange(top, bottom, dtype=np.float32) - np.float32(row))[:, None]
        x = (np.arange(left, right, dtype=np.float32) - np.float32(col))[None]
        u, v = np.cos(angle) * y + np.sin(angle) * x, np.cos(angle) * x - np.sin(angle) * y
        if kind < 0.5:
            inside = radius - np.sqrt(u * u + v * v)
        else:
            inside = np.minimum(radius - np.abs(u), radius * (0.2 + 0.8 * stretch) - np.abs(v))
        cover = np.clip(inside + 0.5, 0, 1)
        colour = rng.random((channels, 1, 1)).astype(np.float32)
        if paint < 0.4:
            colour = colour + np.float32(rng.normal() * 0.3 / radius) * u
        elif paint < 0.7:
            colour = colour + np.float32(0.3 * rng.random()) * np.sin(
                np.float32(rng.uniform(0.3, 2.5)) * v
            )
        part = picture[:, top:bottom, left:right]
        part += cover * (colour - part)
    result = torch.from_numpy(picture).clamp(0, 1)
    blur = rng.random() * 3 - 1.5
    if blur > 0:
        t = torch.arange(-4, 5, dtype=torch.float32)
        kernel = torch.exp(-t * t / (2 * blur * blur))
        kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
        for _ in range(2):  # along one axis, then, turned, along the other
            padded = torch.nn.functional.pad(result[:, None], (4, 4, 0, 0), mode="replicate")
            result = torch.nn.functional.conv2d(padded, kernel)[:, 0].transpose(-1, -2)
    return result.contiguous()


def check_data(data: Any, key: str) -> None:
    """Raise :class:`InputTypeError` unless ``data`` is a text or a list of texts."""
    items = [data] if isinstance(data, str) else data
    if (
        not isinstance(items, (list, tuple))
        or not items
        or not all(isinstance(item, str) and item for item in items)
    ):
        raise InputTypeError(
            f"train: {key} must be a folder, an array file, '{PROCEDURAL}' or '{CONVERGENCE}', or a list of these; got {data!r}."
        )


def check_window(window: Any) -> None:
    """Raise :class:`InputError` unless ``window`` is None or two numbers in order."""
    fine = window is None or (
        isinstance(window, (list, tuple)) and len(window) == 2 and all(map(finite_number, window))
    )
    if not fine or (window is not None and not window[0] < window[1]):
        raise InputError(
            f"train: window must be [low, high] with low < high, the values mapped to 0 and 1; got {window!r}."
        )
