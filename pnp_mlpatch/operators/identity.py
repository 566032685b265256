"""Denoising as an inverse problem: q = f + n."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pnp_mlpatch.operators._base import DecomposableOperator, LinearOperator, register, smooth_start


@register("identity")
class Identity(DecomposableOperator):
    """A x = x on images of ``image_shape`` (C, H, W)."""

    def __init__(self, image_shape: Sequence[int]):
        super().__init__(image_shape, image_shape)
        self.weight: Tensor
        self.register_buffer("weight", torch.ones((), dtype=torch.float64))

    @classmethod
    def example(cls) -> Identity:
        return cls((2, 5, 7))

    def _d(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)

    def _initial(self, q: Tensor) -> Tensor:
        seen = self.weight > 0
        if not bool(seen.all()):
            return smooth_start(
                Identity(self.image_shape)._weighted(seen.double()),
                torch.where(seen, q / self.weight, 0.0).to(q.dtype),
            )
        return (q / self.weight).to(q.dtype)

    def _weighted(self, weight: Tensor) -> LinearOperator:
        other = Identity(self.image_shape)
        other.weight = self.weight * weight
        return other

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
        inverse = 1 / (
            (self.weight.to(alpha.dtype) * weight).square() + alpha
        )  # exact, for maps of each image
        return lambda r: r * inverse
