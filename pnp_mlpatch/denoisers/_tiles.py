"""An image cut into tiles with a margin, which bounds the memory; and points sorted by tiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product

import torch
from torch import Tensor

from pnp_mlpatch.denoisers._bicubic import window
from pnp_mlpatch.denoisers._features import is_map

GPU_TILE, GPU_BYTES = 1024, 2**31  # on a GPU: the largest side, and what four layers may take


def gpu_tile(channels: float) -> int:
    """Choose the side of the tiles on a GPU, which small ones would leave idle.

    Parameters
    ----------
    channels : float
        Channels of the widest layer, float32, for each pixel.

    Returns
    -------
    int
    """
    return max(1, min(GPU_TILE, math.isqrt(int(GPU_BYTES / (16 * channels)))))


def aligned(size: int, fold: int) -> int:
    """Round ``size`` up to a multiple of ``fold``."""
    return -(-size // fold) * fold


def tiles(
    x: Tensor, sigma: Tensor, tile: int, margin: int, fold: int
) -> Iterator[tuple[slice, slice, slice, Tensor, Tensor]]:
    """Cut images into tiles; small images go together.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        The images, continued by reflection.
    sigma : Tensor, shape (B, 1, 1, 1) or (B, 1, H, W)
        The noise level; a map is cut as the images are.
    tile : int
        Side of the tiles.
    margin : int
        Pixels that a block has more than its tile, on every side.
    fold : int
        Divides ``margin`` and the sides of the blocks, which are larger at the bottom and on the
        right where they must be.

    Yields
    ------
    images, rows, columns : slice
        The place of the tile in ``x``.
    block : Tensor
        The tile with its margin.
    noise : Tensor
        ``sigma`` of these images, or its block.
    """
    batch, _, height, width = x.shape
    tile = aligned(tile, fold)
    step = max(1, tile**2 // (min(tile, height) * min(tile, width)))
    for b, top, left in product(
        range(0, batch, step), range(0, height, tile), range(0, width, tile)
    ):
        images, bottom, right = slice(b, b + step), min(top + tile, height), min(left + tile, width)
        low = top + aligned(bottom - top, fold) + margin
        far = left + aligned(right - left, fold) + margin
        place = top - margin, low, left - margin, far
        noise = window(sigma[images], *place) if is_map(sigma) else sigma[images]
        yield images, slice(top, bottom), slice(left, right), window(x[images], *place), noise


def points_by_tile(coords: Tensor, tile: int, width: int) -> list[Tensor]:
    """Sort points ``coords`` (Q, 2) of an image ``width`` pixels wide: indices, one list a tile."""
    down, across = (coords.clamp_min(0) / tile).long().unbind(dim=1)
    cell = down * (width // tile + 1) + across
    order = cell.argsort(stable=True)
    return [group for group in order.split(torch.bincount(cell).tolist()) if len(group)]
