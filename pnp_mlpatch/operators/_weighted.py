"""Operators whose data are multiplied by a map of weights."""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators._base import LinearOperator, Map
from pnp_mlpatch.operators._start import smooth_start


class Weighted(LinearOperator):
    r"""The operator :math:`f \mapsto w \cdot (A f)`; its data step takes conjugate gradients.

    Parameters
    ----------
    operator : LinearOperator
        A.
    weight : Tensor, shape data_shape or (B, \*data_shape)
        One map for all images, or one for each.
    """

    def __init__(self, operator: LinearOperator, weight: Tensor):
        super().__init__(operator.image_shape, operator.data_shape)
        self.operator = operator
        self.complex_image = operator.complex_image
        self.weight: Tensor
        self.register_buffer("weight", weight.clone(), persistent=False)

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Weighted is made by A.weighted(weight).")

    def _forward(self, x: Tensor) -> Tensor:
        return self._for(x) * self.operator._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._adjoint((self._for(y) * y).contiguous())

    @property
    def _each(self) -> bool:
        """Whether there is one weight for each image."""
        return self.weight.ndim > len(self.data_shape)

    def _for(self, x: Tensor) -> Tensor:
        if self._each and x.shape[0] != self.weight.shape[0]:
            raise InputError(
                f"{self._who()}: there is one weight for each of {self.weight.shape[0]} images, "
                f"got {x.shape[0]} images. Give a batch of that size."
            )
        return self.weight.to(x.dtype)

    def _precondition(self, alpha: Tensor) -> Map | None:
        return self.operator._precondition_weighted(alpha, self.weight.to(alpha.dtype))

    def _initial(self, q: Tensor) -> Tensor:
        weight = self._for(q)
        seen = torch.broadcast_to(weight > 0, q.shape)
        divisor = torch.where(weight > 0, weight, torch.ones_like(weight))
        q = torch.where(seen, q / divisor, torch.zeros_like(q))
        filled = q if bool(seen.all()) else self.operator._fill(q, seen)
        if filled is None:
            return smooth_start(Weighted(self.operator, (self.weight > 0).to(q.dtype)), q)
        return self.operator._initial(filled)

    def _weighted(self, weight: Tensor) -> LinearOperator:
        return Weighted(self.operator, self.weight * weight)

    def for_images(self, rows: Tensor) -> LinearOperator:
        chosen = self.operator.for_images(rows)
        if not self._each:
            return self if chosen is self.operator else Weighted(chosen, self.weight)
        return Weighted(chosen, self.weight[rows])

    def _norm(self, iterations: int, tol: float) -> float:
        return norm_of_images(self, iterations, tol)


def norm_of_images(A: LinearOperator, iterations: int, tol: float) -> float:
    """Return the norm of an operator made of others: the largest of those of its images.

    Parameters
    ----------
    A : LinearOperator
        Parts of it may have one weight for each image.
    iterations, tol : int, float
        As for :meth:`LinearOperator.norm`.

    Returns
    -------
    float
    """
    images = max([len(B.weight) for B in A.modules() if isinstance(B, Weighted) and B._each] + [1])
    if images == 1:
        return LinearOperator._norm(A, iterations, tol)
    return max(A.for_images(torch.tensor([k]))._norm(iterations, tol) for k in range(images))
