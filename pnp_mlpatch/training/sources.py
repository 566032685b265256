"""Where training images come from: folders of pictures, stacks in array files, and generators."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.images import READABLE, read_image
from pnp_mlpatch.training._generated import GENERATED, PROCEDURAL, SIDE, generator
from pnp_mlpatch.training._source import Source, below
from pnp_mlpatch.training._stacks import STACKS, split_name, stack

VALIDATED = 16  # at most so many images of a stack are validated on


def open_sources(
    data: str | Sequence[str],
    channels: int,
    smallest: int,
    window: Sequence[float] | None = None,
    seed: int = 0,
) -> list[Source]:
    """Open the sources of training images.

    Parameters
    ----------
    data : str or sequence of str
        "procedural", "convergence" or "clusters" (generated images), an array file FILE or
        FILE:NAME, or a folder of pictures; or several of these.
    channels : int
        Channels that the images must have.
    smallest : int
        Pixels that the images must have along each side, at least.
    window : sequence of two floats, optional
        Values of array files that become 0 and 1.
    seed : int
        Of the generated images.

    Returns
    -------
    list of Source
        One for each item. A generator counts as many images as all pictures and stacks together, so
        that it gives half of the windows.

    Raises
    ------
    FileError
        For a file or folder without usable images.
    InputError
        For mass maps with more than one channel.
    """
    sources, generated = [], []
    for item in [data] if isinstance(data, str) else data:
        path, _ = split_name(item)
        if item in GENERATED:
            if item != PROCEDURAL and channels != 1:
                raise InputError(
                    f"train: '{item}' has one channel, the network has {channels}. "
                    "Set model.channels = 1."
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
    """Iterate over the images to validate on.

    Parameters
    ----------
    sources : sequence of Source

    Yields
    ------
    Tensor, shape (C, H, W)
        All pictures, and up to 16 evenly spaced images of every stack.
    """
    for source in sources:
        few = (
            source.count
            if Path(split_name(source.name)[0]).suffix.lower() not in STACKS
            and source.name not in GENERATED
            else VALIDATED
        )
        for k in np.linspace(0, source.count - 1, min(source.count, few)).round():
            yield source.whole(int(k))


def read_folder(folder: str | PathLike[str], channels: int, smallest: int) -> list[Tensor]:
    """Read all pictures of a folder, sorted by name.

    A file that cannot be read, or is too small, is skipped with a warning that names it.

    Parameters
    ----------
    folder : str or path
    channels : int
        Channels that the images must have; pictures become grey where it is 1.
    smallest : int
        Pixels that the images must have along each side, at least.

    Returns
    -------
    list of Tensor, shape (C, H, W)
        float32, in [0, 1].

    Raises
    ------
    FileError
        If the folder is missing or no picture is left.
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
                f"skipped: {path} has shape {tuple(image.shape)}, "
                f"needs {channels} x >= {smallest} x >= {smallest}",
                stacklevel=2,
            )
            continue
        images.append(image)
    if not images:
        raise FileError(
            f"{folder}: no usable picture ({', '.join(READABLE)}) of at least "
            f"{smallest} x {smallest} pixels."
        )
    return images


def pictures(name: str, images: Sequence[Tensor]) -> Source:
    """Make a source of images in memory.

    Parameters
    ----------
    name : str
    images : sequence of Tensor, shape (C, H, W)

    Returns
    -------
    Source
    """

    def window(k: int, size: int, step: int, rng: np.random.Generator) -> Tensor:
        top, left = (below(n - size + 1, rng) for n in images[k].shape[1:])
        return images[k][:, top : top + size, left : left + size]

    return Source(name, len(images), window, lambda k: images[k])


def check_data(data: Any, key: str) -> None:
    """Check the setting ``data`` or ``validation``.

    Parameters
    ----------
    data : str or sequence of str
    key : str
        The name of the setting, for the message.

    Raises
    ------
    InputTypeError
        For anything else.
    """
    items = [data] if isinstance(data, str) else data
    if (
        not isinstance(items, (list, tuple))
        or not items
        or not all(isinstance(item, str) and item for item in items)
    ):
        raise InputTypeError(
            f"train: {key} must be a folder, an array file, or one of {', '.join(GENERATED)}, "
            f"or a list of these; got {data!r}."
        )


def check_window(window: Any) -> None:
    """Check the setting ``window``.

    Parameters
    ----------
    window : sequence of two floats, optional

    Raises
    ------
    InputError
        Unless it is None or two numbers in order.
    """
    fine = window is None or (
        isinstance(window, (list, tuple)) and len(window) == 2 and all(map(finite_number, window))
    )
    if not fine or (window is not None and not window[0] < window[1]):
        raise InputError(
            "train: window must be [low, high] with low < high, the values mapped to 0 and 1; "
            f"got {window!r}."
        )
