"""What split Gibbs sampling keeps of its draws, and its noise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers._base import State

BLOCK = 128  # pixels a side of a block of noise
FIELD = 2**25  # pixels from the origin of a field to its ends


@dataclass(frozen=True)
class SplitGibbsState(State):
    """State of split Gibbs sampling: x is the mean of the denoised draws since the burn-in.

    Parameters
    ----------
    z : Tensor, shape (B, C, H, W)
        The last denoised draw.
    square : Tensor, shape (B, C, H, W)
        Sum of the squared deviations of the draws from x.
    count : int
        Number of draws in the mean.
    data_residual : Tensor, shape (B,)
        Relative residual that the last data step reached.
    """

    z: Tensor
    square: Tensor
    count: int
    data_residual: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation of the denoised draws (B, C, H, W)."""
        return (self.square / max(self.count - 1, 1)).sqrt()

    def measures(self) -> dict[str, float | Tensor]:
        """Return the residual of the data step, for the history."""
        return super().measures() | {"data_residual": self.data_residual}

    def follow(self, z: Tensor, reached: Tensor, *, counts: bool) -> SplitGibbsState:
        """Return the state after the draw ``z``, which ``counts`` or is of the burn-in."""
        new = replace(self, x=z, iteration=self.iteration + 1, z=z, data_residual=reached)
        if not counts:
            return replace(new, count=0)
        if not self.count:
            return replace(new, count=1)
        x = self.x + (z - self.x) / (self.count + 1)
        square = self.square + (z - self.x) * (z - x)
        return replace(new, x=x, square=square, count=self.count + 1)


def remaining(noise: float | Tensor, sigma: float) -> float | Tensor:
    r"""Return the noise of the data without white noise of deviation sigma.

    .. math:: \sqrt{\max(\text{noise}^2 - \sigma^2, (\sigma / 10)^2)}

    Parameters
    ----------
    noise : float or Tensor
        Standard deviation of the noise: a number, or a map, infinite where nothing was measured.
        Where it is below sigma, the result exceeds the noise of the data.
    sigma : float
        Deviation that is taken out.

    Returns
    -------
    float or Tensor
    """
    if isinstance(noise, Tensor):
        return (noise.square() - sigma**2).clamp_min((sigma / 10) ** 2).sqrt()
    return max(noise**2 - sigma**2, (sigma / 10) ** 2) ** 0.5


def white(
    seed: int, like: tuple[Tensor, ...], origin: tuple[int, int] | None = None
) -> list[Tensor]:
    """White noise of variance one like each tensor, the same for all images of a batch.

    With ``origin``, the row and column of the first pixel of the first tensor in an endless field,
    it is cut from the noise of that field; the other tensors have the same centre.
    """
    if origin is None:
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(x.shape[1:], generator=generator).to(x).expand_as(x) for x in like]
    (height, width), drawn = like[0].shape[-2:], []
    for number, x in enumerate(like):
        row = origin[0] - (x.shape[-2] - height) // 2
        column = origin[1] - (x.shape[-1] - width) // 2
        noise = [
            field_noise((seed, number, c), row, column, x.shape[-2:]) for c in range(x.shape[1])
        ]
        drawn.append(torch.stack(noise).to(x).expand_as(x))
    return drawn


def check_origin(origin: Any) -> None:
    """Raise unless ``origin`` is a place (row, column) in a field."""
    whole = isinstance(origin, (tuple, list)) and len(origin) == 2
    if not whole or any(
        isinstance(n, bool) or not isinstance(n, int) or abs(n) >= FIELD for n in origin
    ):
        raise InputError(
            "SplitGibbs: origin must be (row, column), two integers between "
            f"-{FIELD} and {FIELD}, got {origin!r}."
        )


def field_noise(key: tuple[int, int, int], row: int, column: int, shape: tuple[int, ...]) -> Tensor:
    """Return a window of an endless field of white noise: blocks of pixels, each with its seed."""
    height, width = shape
    whole = np.empty((height, width), np.float32)
    for i in range(row // BLOCK, (row + height - 1) // BLOCK + 1):
        for j in range(column // BLOCK, (column + width - 1) // BLOCK + 1):
            place = ((i + 2**19) << 40) + ((j + 2**19) << 20) + (key[1] << 16) + key[2]
            draw = np.random.Generator(np.random.Philox(key=[key[0], place]))
            block = draw.standard_normal((BLOCK, BLOCK), dtype=np.float32)
            top, left = i * BLOCK - row, j * BLOCK - column
            rows, columns = slice(max(top, 0), top + BLOCK), slice(max(left, 0), left + BLOCK)
            part = whole[rows, columns]
            skip = rows.start - top, columns.start - left
            part[:] = block[skip[0] :, skip[1] :][: part.shape[0], : part.shape[1]]
    return torch.from_numpy(whole)
