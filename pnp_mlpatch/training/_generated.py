"""Generated training images: random pictures and mass maps."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.lensing.fields import HALOS, WIDER, random_convergence
from pnp_mlpatch.training._source import Source, below

PROCEDURAL, CONVERGENCE, CLUSTERS = "procedural", "convergence", "clusters"
GENERATED = (PROCEDURAL, CONVERGENCE, CLUSTERS)
SIDE = 256  # pixels
BANK = 128  # images in use
REFRESH = 4  # steps until the oldest is replaced
STREAM = (
    2**31
)  # keeps the random numbers of images apart from those of steps, whose third is below it


def generator(
    name: str, channels: int, side: int, seed: int, count: int = 0, bank: int = BANK
) -> Source:
    """Make a source of images without end.

    ``bank`` images are in use, and every 4 steps the oldest is replaced by a new one. Which images
    a step sees follows from ``seed`` and the step alone.

    Parameters
    ----------
    name : str
        "procedural": random pictures (:func:`dead_leaves`). "convergence": log-normal mass maps
        (:func:`~pnp_mlpatch.lensing.fields.random_convergence`). "clusters": the same with halos
        on three maps of ten, and a wider range of amplitudes.
    channels, side, seed : int
    count : int
        As how many images the source counts; 0: ``bank``.
    bank : int

    Returns
    -------
    Source
    """

    @functools.lru_cache(maxsize=bank + 1)
    def image(number: int) -> Tensor:
        rng = np.random.default_rng((seed, number, STREAM))
        if name == CONVERGENCE:
            return random_convergence(side, rng)
        if name == CLUSTERS:
            return random_convergence(side, rng, halos=HALOS, amplitudes=WIDER)
        return dead_leaves(side, channels, rng)

    def window(k: int, size: int, step: int, rng: np.random.Generator) -> Tensor:
        picture = image(step // REFRESH + below(bank, rng))
        top, left = (below(side - size + 1, rng) for _ in range(2))
        return picture[:, top : top + size, left : left + size]

    return Source(name, count or bank, window, image)


def dead_leaves(side: int, channels: int, rng: np.random.Generator) -> Tensor:
    """Make a random picture of discs, boxes and half-planes that cover one another.

    They are flat, shaded or have a grating. Edges are antialiased, and some pictures are blurred.

    Parameters
    ----------
    side, channels : int
    rng : numpy.random.Generator

    Returns
    -------
    Tensor, shape (channels, side, side)
        In [0, 1].

    References
    ----------
    Lee, Mumford and Huang 2001: radii follow the density r^-3 of natural images.
    """
    picture = np.empty((channels, side, side), dtype=np.float32)
    picture[:] = rng.random((channels, 1, 1))
    least, most = 2.0, side / 2
    leaves = 8 + below(160, rng)
    radii = np.sort((least**-2 - rng.random(leaves) * (least**-2 - most**-2)) ** -0.5)[::-1]
    # large ones first, so that all is covered
    radii[: leaves // 4] = np.sort(rng.uniform(side / 12, most, leaves // 4))[::-1]
    for radius in radii:
        _add_leaf(picture, radius, rng)
    result = torch.from_numpy(picture).clamp(0, 1)
    blur = rng.random() * 3 - 1.5
    return (_blurred(result, blur) if blur > 0 else result).contiguous()


def _add_leaf(picture: np.ndarray, radius: float, rng: np.random.Generator) -> None:
    """Paint a disc, box or half-plane at a random place over a picture (C, side, side)."""
    channels, side = picture.shape[:2]
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
        contrast, frequency = np.float32(0.3 * rng.random()), np.float32(rng.uniform(0.3, 2.5))
        colour = colour + contrast * np.sin(frequency * v)
    part = picture[:, top:bottom, left:right]
    part += cover * (colour - part)


def _blurred(picture: Tensor, width: float) -> Tensor:
    """Blur a picture (C, H, W) by a Gaussian of standard deviation ``width`` in pixels."""
    t = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-t * t / (2 * width * width))
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1)
    for _ in range(2):  # along one axis, then, turned, along the other
        padded = F.pad(picture[:, None], (4, 4, 0, 0), mode="replicate")
        picture = F.conv2d(padded, kernel)[:, 0].transpose(-1, -2)
    return picture
