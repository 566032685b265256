"""Training images and the batches cut from them."""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from pnp_mlpatch.denoisers.mlpatch import reflect
from pnp_mlpatch.errors import FileError, InputError
from pnp_mlpatch.imageio import READABLE, read_image


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
            warnings.warn(f"skipped: {path} has shape {tuple(image.shape)}, needs {channels} x >= {smallest} x >= {smallest}", stacklevel=2)
            continue
        images.append(image)
    if not images:
        raise FileError(f"{folder}: no usable picture ({', '.join(READABLE)}) of at least {smallest} x {smallest} pixels.")
    return images


def cut(
    image: Tensor, window: tuple[int, int], size: int, place: tuple[int, int], crop: int, halo: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The block of side ``crop + 2 halo`` around ``place`` of the ``size`` window at ``window``, and white noise for it.

    Image and noise are both reflected at the border of the window, so a pixel and its mirror carry the same draw.
    """
    rows, cols = (reflect(torch.arange(corner - halo, corner + crop + halo), size) for corner in place)
    block = image[:, (window[0] + rows)[:, None], window[1] + cols]
    top, left = int(rows.min()), int(cols.min())
    noise = torch.randn(image.shape[0], int(rows.max()) - top + 1, int(cols.max()) - left + 1, generator=generator)
    return block, noise[:, (rows - top)[:, None], cols - left]


def symmetric(block: Tensor, symmetry: int) -> Tensor:
    """One of the 8 symmetries of the square, numbered 0 to 7."""
    if symmetry & 1:
        block = block.flip(-1)
    if symmetry & 2:
        block = block.flip(-2)
    return block.transpose(-1, -2) if symmetry & 4 else block


def batch(
    images: list[Tensor], *, size: int, crop: int, halo: int, count: int, sigma_max: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy blocks (B, C, crop + 2 halo, ...), their clean middles (B, C, crop, crop), and sigma (B, 1, 1, 1)."""

    def draw(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    clean, noise = [], []
    for _ in range(count):
        image = images[draw(len(images))]
        window = (draw(image.shape[1] - size + 1), draw(image.shape[2] - size + 1))
        place = (draw(size - crop + 1), draw(size - crop + 1))
        block, white = cut(image, window, size, place, crop, halo, generator)
        symmetry = draw(8)
        clean.append(symmetric(block, symmetry))
        noise.append(symmetric(white, symmetry))
    blocks = torch.stack(clean)
    sigma = torch.rand(count, 1, 1, 1, generator=generator) * sigma_max
    middle = slice(halo, halo + crop)
    return blocks + sigma * torch.stack(noise), blocks[:, :, middle, middle], sigma
