"""The batches of a step, cut from the training images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.denoisers import reflect, sample
from pnp_mlpatch.training._source import Source, below
from pnp_mlpatch.training.config import TrainConfig


class Batch(NamedTuple):
    """What one step trains on: given ``noisy`` and ``sigma``, the network should answer ``clean``.

    Parameters
    ----------
    noisy : Tensor, shape (B, C, crop + 2 halo, crop + 2 halo)
        Blocks; with ``coords``, whole windows.
    sigma : Tensor, shape (B, 1, 1, 1)
    clean : Tensor, shape (B, C, crop, crop)
        The middles of the blocks; with ``coords``, the values there, (B, C, Q).
    coords : Tensor, shape (B, Q, 2), or None
        (row, column) in pixels of ``noisy``.
    """

    noisy: Tensor
    sigma: Tensor
    clean: Tensor
    coords: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """Move the batch to a device; to a GPU from pinned memory, so that nobody waits.

        Parameters
        ----------
        device : torch.device

        Returns
        -------
        Batch
        """

        def move(part: Tensor) -> Tensor:
            if device.type != "cuda":
                return part.to(device)
            return part.pin_memory().to(device, non_blocking=True)

        return Batch(*(None if part is None else move(part) for part in self))  # type: ignore


def batch(
    sources: Sequence[Source], config: TrainConfig, halo: int, step: int, numbers: Iterable[int]
) -> Batch:
    """Make the batch of a step.

    Parameters
    ----------
    sources : sequence of Source
    config : TrainConfig
    halo : int
        Pixels that the network needs around a block.
    step : int
    numbers : iterable of int
        Which images of the batch to make. Each follows from (seed, step, number) alone.

    Returns
    -------
    Batch
    """
    noisy, sigmas, clean, coords = [], [], [], []
    for number in numbers:
        rng = np.random.default_rng((config.seed, step, number))
        window = (
            draw(sources, config.size, step, rng)
            if config.scale == 1
            else scaled(sources, config, step, rng)
        )
        window = symmetric(window, below(8, rng))
        window = window[rng.permutation(len(window))] if config.permute else window
        sigma = config.level + rng.random() * (config.sigma_max - config.level)
        if config.task == "upscale":
            shown, target, where = shrink(window, config.factor, config.queries, rng)
            shown = shown + sigma * white(tuple(shown.shape), rng) if sigma else shown
            coords.append(where)
        elif config.pixels:
            shown = window + sigma * white(tuple(window.shape), rng)
            where = torch.from_numpy(rng.integers(config.size, size=(config.pixels, 2)))
            target = window[:, where[:, 0], where[:, 1]]
            if config.jitter:
                moved = where + config.jitter * torch.from_numpy(
                    2 * rng.random((config.pixels, 2)) - 1
                )
                where = moved.clamp(-0.5, config.size - 0.5)
                target = sample(window[None], where[None], torch.zeros(1, 1, 1, 2))[0, ..., 0]
            coords.append(where.float())
        else:
            place = (
                below(config.size - config.crop + 1, rng),
                below(config.size - config.crop + 1, rng),
            )
            first, second = window.chunk(2) if config.task == "pairs" else (window, window)
            block, noise = cut(first, place, config.crop, halo, rng)
            shown = block + math.sqrt(sigma**2 - config.level**2) * noise
            rows, cols = (slice(start, start + config.crop) for start in place)
            target = second[:, rows, cols]
        noisy.append(shown)
        clean.append(target)
        sigmas.append(sigma)
    column = torch.tensor(sigmas, dtype=torch.float32).reshape(-1, 1, 1, 1)
    return Batch(
        torch.stack(noisy), column, torch.stack(clean), torch.stack(coords) if coords else None
    )


def draw(sources: Sequence[Source], size: int, step: int, rng: np.random.Generator) -> Tensor:
    """Draw a random window of an image drawn uniformly from those of all sources.

    Parameters
    ----------
    sources : sequence of Source
    size, step : int
    rng : numpy.random.Generator

    Returns
    -------
    Tensor, shape (C, size, size)
    """
    k = below(sum(source.count for source in sources), rng)
    which = 0
    while k >= sources[which].count:
        k -= sources[which].count
        which += 1
    return sources[which].window(k, size, step, rng)


def scaled(
    sources: Sequence[Source], config: TrainConfig, step: int, rng: np.random.Generator
) -> Tensor:
    """Draw a larger window and shrink it by a random factor between ``config.scale`` and 1.

    Parameters
    ----------
    sources : sequence of Source
    config : TrainConfig
    step : int
    rng : numpy.random.Generator

    Returns
    -------
    Tensor, shape (C, size, size)
    """
    larger = round(config.size / (config.scale + (1 - config.scale) * rng.random()))
    window = draw(sources, larger, step, rng)
    if larger == config.size:
        return window
    filtering = shrinking(larger, config.size, larger / config.size).float()
    return filtering @ window @ filtering.T


def white(shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Draw white noise of standard deviation 1.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator

    Returns
    -------
    Tensor
        float32.
    """
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def cut(
    window: Tensor, place: tuple[int, int], crop: int, halo: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Cut a block out of a window, and draw white noise for it.

    Window and noise are both reflected at the border of the window, so a pixel and its mirror carry
    the same draw.

    Parameters
    ----------
    window : Tensor, shape (C, S, S)
    place : tuple of two ints
        Row and column of the block's first pixel.
    crop, halo : int
        Side of the block, and pixels around it.
    rng : numpy.random.Generator

    Returns
    -------
    block, noise : Tensor, shape (C, crop + 2 halo, crop + 2 halo)
    """
    row, col = place
    if min(place) >= halo and max(place) + crop + halo <= window.shape[-1]:
        block = window[:, row - halo : row + crop + halo, col - halo : col + crop + halo]
        return block, white(tuple(block.shape), rng)
    rows, cols = (
        reflect(torch.arange(corner - halo, corner + crop + halo), window.shape[-1])
        for corner in place
    )
    top, left = int(rows.min()), int(cols.min())
    noise = white((window.shape[0], int(rows.max()) - top + 1, int(cols.max()) - left + 1), rng)
    return window[:, rows[:, None], cols], noise[:, (rows - top)[:, None], cols - left]


def symmetric(block: Tensor, symmetry: int) -> Tensor:
    """Apply one of the 8 symmetries of the square.

    Parameters
    ----------
    block : Tensor, shape (..., S, S)
    symmetry : int
        0 to 7.

    Returns
    -------
    Tensor, shape (..., S, S)
    """
    if symmetry & 1:
        block = block.flip(-1)
    if symmetry & 2:
        block = block.flip(-2)
    return block.transpose(-1, -2) if symmetry & 4 else block


def shrink(
    window: Tensor, factor: float, queries: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Shrink a window, and draw pixels of it to ask for.

    The coarse grid lies at a random shift, uniform over one pixel of the window and what n * factor
    leaves of S, n = floor(S / factor). So the pixels lie at all fractions of the coarse grid.

    Parameters
    ----------
    window : Tensor, shape (C, S, S)
    factor : float
    queries : int
    rng : numpy.random.Generator

    Returns
    -------
    low : Tensor, shape (C, n, n)
        The small image.
    values : Tensor, shape (C, queries)
    coords : Tensor, shape (queries, 2)
        In pixels of ``low``, pixel centres at the integers: ``(i + 1/2 - shift) / factor - 1/2``.
    """
    size = window.shape[-1]
    count = int(size / factor)
    shifts = [-0.5 + rng.random() * (size - count * factor + 1) for _ in range(2)]
    down, across = (shrinking(size, count, factor, shift).float() for shift in shifts)
    low = down @ window @ across.T
    where, pixels = [], []
    for shift in shifts:
        first, last = (
            max(0, math.ceil(shift - 0.5)),
            min(size - 1, math.floor(shift + count * factor - 0.5)),
        )
        pixel = first + torch.from_numpy(rng.random(queries) * (last - first + 1)).long()
        pixels.append(pixel)
        where.append((pixel + 0.5 - shift) / factor - 0.5)
    coords = torch.stack(where, dim=-1).float().clamp(-0.5, count - 0.5)
    return low, window[:, pixels[0], pixels[1]], coords


def shrinking(size: int, count: int, factor: float, shift: float = 0.0) -> Tensor:
    """Make the antialiased bicubic filter from ``size`` to ``count`` pixels.

    Parameters
    ----------
    size, count : int
    factor : float
        By how much the kernel (Keys 1981, a = -0.5) is stretched; it is cut at the border.
    shift : float
        Output pixel i is centred at ``(i + 1/2) factor + shift - 1/2``.

    Returns
    -------
    Tensor, shape (count, size)
        float64; rows have sum 1. At shift 0 and size = count * factor it is
        ``F.interpolate(mode="bicubic", antialias=True)``.
    """
    centre = (torch.arange(count, dtype=torch.float64) + 0.5) * factor + shift - 0.5
    t = ((torch.arange(size, dtype=torch.float64) - centre[:, None]) / factor).abs()
    near, far = (1.5 * t - 2.5) * t * t + 1, -0.5 * (((t - 5) * t + 8) * t - 4)
    weight = torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    return weight / weight.sum(dim=1, keepdim=True)
