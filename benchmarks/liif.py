"""LIIF, a baseline for upscaling at continuous coordinates: an encoder on the grid, and an MLP on
the codes next to the coordinate.

Written from the paper: Chen, Liu, Wang 2021, "Learning Continuous Image Representation with Local
Implicit Image Function", arXiv 2012.09161; the encoder is the EDSR-baseline of Lim et al. 2017
without its upsampling. benchmarks/superres.py trains and measures it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Network, check_image, sigma_column
from pnp_mlpatch.errors import InputError


class Block(nn.Module):
    """``h + conv(relu(conv(h)))``."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(F.relu(self.first(h)))


class LIIF(Network):
    """The value at p from the four codes z_t around it, weighted by the areas S_t of the opposite
    rectangles (local ensemble)

        s(p) = sum_t S_t MLP(z_t, 2 (p - v_t), 2 / factor)

    with v_t the pixel of the code, and distances and cell in units of half a pixel, as in the
    paper. A code is the 3 x 3 neighbourhood of encoder features (zeros outside the image). Beyond
    the border the codes go on by mirroring. The image is taken as (x - 0.5) / 0.5.

    The first layer of the MLP on the 3 x 3 codes is a 3 x 3 convolution of the features, so it is
    computed once for all that use a code.

    ``blocks`` residual blocks of ``width`` channels; ``hidden`` are the widths of the MLP.
    ``factor`` is the one of the training: the cell of a network that has seen but one factor says
    nothing, so it stays at that value unless ``at`` is given another. ``skip`` adds the bilinear
    interpolation of the image, which the paper does not have; a short training gains from it. Sigma
    is ignored.
    """

    kind = "liif"
    sigma_use = "ignored"

    def __init__(
        self,
        channels: int = 1,
        *,
        width: int = 64,
        blocks: int = 16,
        hidden: Sequence[int] = (256, 256, 256, 256),
        factor: float = 2.0,
        skip: bool = False,
        sigma_max: float = 0.0,
    ):
        config = {
            "channels": channels,
            "width": width,
            "blocks": blocks,
            "hidden": list(hidden),
            "factor": factor,
            "skip": skip,
            "sigma_max": sigma_max,
        }
        super().__init__(channels, float(sigma_max), config)
        self.factor, self.skip = factor, skip
        self.head = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(
            *(Block(width) for _ in range(blocks)), nn.Conv2d(width, width, 3, padding=1)
        )
        self.code = nn.Conv2d(
            width, hidden[0], 3, padding=1
        )  # this and place: one layer, on 9 width + 4 numbers
        self.place = nn.Linear(4, hidden[0], bias=False)
        bound = 1 / math.sqrt(9 * width + 4)
        for values in (self.code.weight, self.code.bias, self.place.weight):
            nn.init.uniform_(values, -bound, bound)
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(hidden, (*hidden[1:], channels), strict=True)
        )

    @classmethod
    def example(cls) -> LIIF:
        return cls(width=8, blocks=1, hidden=(16, 16)).eval().requires_grad_(False)

    def forward(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        return self.upscale(x, 1, sigma)

    def at(
        self,
        x: Tensor,
        coords: Tensor,
        sigma: float | Tensor = 0.0,
        factor: float | None = None,
        chunk: int = 16384,
    ) -> Tensor:
        """The values (B, C, Q) at ``coords`` (Q, 2) or (B, Q, 2): (row, column) in pixels of ``x``,
        pixel centres at the integers.

        ``factor`` sets the cell, the size of an output pixel: 1 / factor pixels of ``x``.
        """
        check_image(x, "LIIF.at", self.channels)
        sigma_column(sigma, x, "LIIF.at", self.sigma_max)
        if (
            coords.shape[-1] != 2
            or coords.ndim not in (2, 3)
            or (coords.ndim == 3 and len(coords) not in (1, len(x)))
        ):
            raise InputError(
                f"LIIF.at: coords must have shape (Q, 2) or ({len(x)}, Q, 2), got "
                f"{tuple(coords.shape)}."
            )
        coords, codes = (
            coords.reshape(-1, coords.shape[-2], 2).expand(len(x), -1, -1),
            self.encode(x),
        )
        parts = [
            self.decode(x, codes, part, factor or self.factor)
            for part in coords.split(chunk, dim=1)
        ]
        return torch.cat(parts, dim=2).to(x.dtype)

    def upscale(self, x: Tensor, factor: float, sigma: float | Tensor = 0.0) -> Tensor:
        """``x`` (B, C, H, W) on a grid finer by ``factor`` >= 1: fine pixel i lies at ``(i + 0.5) /
        factor - 0.5``.
        """
        check_image(x, "LIIF.upscale", self.channels)
        if not finite_number(factor) or factor < 1:
            raise InputError(f"LIIF.upscale: factor must be a number >= 1, got {factor!r}.")
        size = [math.floor(n * factor + 1e-9) for n in x.shape[-2:]]
        axes = [
            (torch.arange(n, dtype=torch.float64, device=x.device) + 0.5) / factor - 0.5
            for n in size
        ]
        coords = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 2)
        return self.at(x, coords, sigma).reshape(*x.shape[:2], *size)

    def encode(self, x: Tensor) -> Tensor:
        """What the first layer of the MLP makes of the codes: (B, H, W, hidden)."""
        h = self.head((x.to(self.head.weight.dtype) - 0.5) / 0.5)
        return self.code(h + self.blocks(h)).permute(0, 2, 3, 1)

    def decode(self, x: Tensor, codes: Tensor, coords: Tensor, factor: float) -> Tensor:
        """The ensemble at ``coords`` (B, Q, 2): (B, C, Q)."""
        images = torch.arange(len(x), device=x.device)[:, None]
        answers, skipped = x.new_zeros(()), x.new_zeros(())
        for corner, area in neighbours(coords):
            row, col = (corner[..., k].long().clamp(0, x.shape[2 + k] - 1) for k in range(2))
            distance = 2 * (coords - corner)
            place = torch.cat([distance, torch.full_like(distance, 2 / factor)], dim=-1).to(
                self.place.weight.dtype
            )
            h = codes[images, row, col] + self.place(place)
            for layer in self.layers:
                h = layer(F.relu(h))
            answers = answers + area.to(x.dtype)[..., None] * h
            skipped = skipped + area.to(x.dtype)[..., None] * x[images, :, row, col]
        answers = answers * 0.5 + (skipped if self.skip else 0.5)
        return answers.movedim(-1, 1)


def neighbours(coords: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels (..., 2) around ``coords`` (..., 2), each with its weight (...): the area of
    the rectangle to the opposite one.
    """
    base = coords.floor()
    fraction = coords - base
    for shift in ((0, 0), (0, 1), (1, 0), (1, 1)):
        shift = coords.new_tensor(shift)
        yield base + shift, (1 - shift - fraction).abs().prod(dim=-1)
