"""What split Gibbs sampling keeps of its draws, and its noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pnp_mlpatch.solvers._base import State


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


def white(seed: int, like: tuple[Tensor, ...]) -> list[Tensor]:
    """White noise of variance one like each tensor, the same for all images of a batch."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(x.shape[1:], generator=generator).to(x).expand_as(x) for x in like]
