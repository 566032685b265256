"""Bicubic sampling of an image that is continued by reflection."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError


def cubic(t: Tensor) -> Tensor:
    r"""Evaluate the cubic convolution kernel, the weight of bicubic sampling.

    Keys 1981, with a = -0.75; it is zero beyond a distance of 2.
    """
    a = -0.75
    t = t.abs()
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))


def reflect(index: Tensor, size: int) -> Tensor:
    """Continue indices by reflection about the first and last element: 2 1 0 1 2."""
    if size == 1:
        return torch.zeros_like(index)
    index = index.remainder(2 * (size - 1))
    return torch.minimum(index, 2 * (size - 1) - index)


def window(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    """Cut rows top ... bottom - 1 and columns left ... right - 1 out of an image.

    ``x`` (B, C, H, W) is continued by reflection.
    """
    height, width = x.shape[-2:]
    if top >= 0 and left >= 0 and bottom <= height and right <= width:
        return x[:, :, top:bottom, left:right]
    rows = reflect(torch.arange(top, bottom, device=x.device), height)
    cols = reflect(torch.arange(left, right, device=x.device), width)
    return x[:, :, rows[:, None], cols]


def neighbours(x: Tensor, pixels: Tensor, reach: int) -> Tensor:
    """Cut the neighbours of each of ``pixels`` (b, Q, 2) out of an image: (B, C, Q, K, K).

    K = 2 reach + 1; b = 1 or B; pixels are (row, column). ``x`` (B, C, H, W) is continued by
    reflection.
    """
    taps = torch.arange(-reach, reach + 1, device=x.device)
    rows = reflect(pixels[..., :1] + taps, x.shape[-2])
    cols = reflect(pixels[..., 1:] + taps, x.shape[-1])
    if len(pixels) == 1:
        return x[:, :, rows[0, :, :, None], cols[0, :, None, :]]
    images = torch.arange(len(x), device=x.device)[:, None, None, None]
    return x[images, :, rows[..., :, None], cols[..., None, :]].movedim(-1, 1)


def sample(x: Tensor, coords: Tensor, offsets: Tensor) -> Tensor:
    """Sample an image at ``coords + offsets`` by bicubic interpolation: (B, C, Q, M).

    ``x`` (B, C, H, W) is continued by reflection.

    ``coords`` (b, Q, 2) and ``offsets`` (b, q, M, 2), with b = 1 or B and q = 1 or Q, are (row,
    column) in pixels, pixel centres at the integers. Each sample is a sum of 4 x 4 pixels, gathered
    with all their channels at once.
    """
    batch, channels, height, width = x.shape
    base = coords.floor()
    where = (coords - base)[
        :, :, None
    ] + offsets  # b, Q, M, 2: small numbers, whatever the size of the image
    cell = where.detach().floor()
    taps = torch.arange(-1, 3, device=x.device)
    weights = cubic((where - cell)[..., None] - taps)
    weights = (weights[..., 0, :, None] * weights[..., 1, None, :]).to(x.dtype)  # b, Q, M, 4, 4
    pixels = (base[:, :, None] + cell).long()[..., None] + taps
    index = (
        reflect(pixels[..., 0, :], height)[..., None] * width
        + reflect(pixels[..., 1, :], width)[..., None, :]
    )
    index = index + torch.arange(batch, device=x.device).reshape(-1, 1, 1, 1, 1) * (height * width)
    table = x.movedim(1, -1).reshape(-1, channels)
    weights = weights.expand(batch, -1, -1, -1, -1).reshape(-1, 16)
    samples = F.embedding_bag(index.reshape(-1, 16), table, per_sample_weights=weights, mode="sum")
    return samples.reshape(batch, *index.shape[1:3], channels).movedim(-1, 1)


def polar_offsets(radius: float, rings: int, angles: int) -> Tensor:
    """Make ``rings x angles`` offsets (row, column) on circles of equally spaced radii.

    Every second ring is turned by half a step.
    """
    r = radius * torch.arange(1, rings + 1, dtype=torch.float64) / rings
    turn = 0.5 * (torch.arange(rings) % 2)
    angle = 2 * math.pi * (torch.arange(angles)[None] + turn[:, None]) / angles
    return (
        torch.stack([r[:, None] * angle.sin(), r[:, None] * angle.cos()], dim=-1)
        .reshape(-1, 2)
        .float()
    )


def square_offsets(side: int) -> Tensor:
    """Make the offsets (row, column) of a square of neighbours about its middle, ``side`` odd."""
    axis = torch.arange(side) - side // 2
    return torch.stack(torch.meshgrid(axis, axis, indexing="ij"), dim=-1).reshape(-1, 2).float()


def check_coords(x: Tensor, coords: Tensor, who: str) -> None:
    """Raise unless ``coords`` are places within the pixels of ``x``."""
    if not isinstance(coords, Tensor) or not coords.is_floating_point():
        raise InputTypeError(
            f"{who}: coords must be a floating tensor of shape (Q, 2) or (B, Q, 2): "
            "(row, column) in pixels."
        )
    if (
        coords.ndim not in (2, 3)
        or coords.shape[-1] != 2
        or (coords.ndim == 3 and len(coords) not in (1, len(x)))
    ):
        raise InputError(
            f"{who}: coords must have shape (Q, 2) or ({len(x)}, Q, 2), (row, column) in pixels, "
            f"got {tuple(coords.shape)}."
        )
    height, width = x.shape[-2:]
    low, high = coords.new_tensor([-0.5, -0.5]), coords.new_tensor([height - 0.5, width - 0.5])
    if not bool(((coords >= low) & (coords <= high)).all()):
        raise InputError(
            f"{who}: coordinates must lie in [-0.5, {height - 0.5}] x [-0.5, {width - 0.5}] for an "
            f"image of {height} x {width} pixels; some do not (or are NaN). "
            "They are in pixels, not in [-1, 1]."
        )
