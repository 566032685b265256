"""Where a patch lies in a field, and what the field knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser, describe


@dataclass(frozen=True)
class Place:
    """The place of a patch in its field.

    Parameters
    ----------
    origin : tuple of int, optional
        Row and column of its first pixel in the field, whose noise it shares.
    outside : Tensor, shape (1, 1, H, W), optional
        E, with the border, that the data of the field tell and those of the patch alone do not.
    field : str, optional
        The sha256 of the data of the field, from which ``outside`` follows up to rounding.
    """

    origin: tuple[int, int] | None = None
    outside: Tensor | None = None
    field: str | None = None

    def about(self) -> dict[str, Any]:
        """Return what tells the place from others, in plain JSON values."""
        found = {"origin": self.origin and list(self.origin), "field": self.field}
        return {key: value for key, value in found.items() if value is not None}


class Shifted:
    """A denoiser of maps less a known map, D(x + c, sigma) - c."""

    def __init__(self, D: Denoiser, c: Tensor):
        self.D, self.c, self.info = D, c, describe(D)

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        c = self.c.to(x)
        return self.D(x + c, sigma) - c


def add_e(kappa: Tensor, e: Tensor) -> Tensor:
    """Add a map (1, 1, H, W) to E of maps (B, 2, H, W)."""
    return torch.cat([kappa[:, :1] + e, kappa[:, 1:]], dim=1)
