"""Denoising as an inverse problem: q = f + n."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch.operators._base import LinearOperator, Map, register
from pnp_mlpatch.operators._decomposable import DecomposableOperator
from pnp_mlpatch.operators._start import smooth_start


@register("identity")
class Identity(DecomposableOperator):
    """The identity, A x = x.

    Parameters
    ----------
    image_shape : sequence of int
        (C, H, W).
    """

    def __init__(self, image_shape: Sequence[int]):
        super().__init__(image_shape, image_shape)
        self.row_orthonormal = True
        self.weight: Tensor
        self.register_buffer("weight", torch.ones((), dtype=torch.float64))

    @classmethod
    def example(cls) -> Identity:
        return cls((2, 5, 7))

    def _d(self, dtype: torch.dtype) -> Tensor:
        return self.weight.to(dtype)

    def _initial(self, q: Tensor) -> Tensor:
        seen = self.weight > 0
        if bool(seen.all()):
            return (q / self.weight).to(q.dtype)
        return smooth_start(
            Identity(self.image_shape)._weighted(seen.double()),
            torch.where(seen, q / self.weight, 0.0).to(q.dtype),
        )

    def _weighted(self, weight: Tensor) -> LinearOperator:
        other = Identity(self.image_shape)
        other.weight, other.row_orthonormal = self.weight * weight, False
        return other

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map:
        # exact, for one map for each image
        inverse = 1 / ((self.weight.to(alpha.dtype) * weight).square() + alpha)
        return lambda r: r * inverse
