"""A batch of slices as the channels of one image."""

from __future__ import annotations

from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators._base import LinearOperator, Map


class Sliced(LinearOperator):
    r"""The operator of n images of one channel, as one of a stack (n, H, W).

    Parameters
    ----------
    operator : LinearOperator
        Of images (1, H, W). It may hold something for each of them, such as weights.
    slices : int
        n. There is one stack, so that a batch has one image.
    """

    def __init__(self, operator: LinearOperator, slices: int):
        super().__init__((slices, *operator.image_shape[1:]), (slices, *operator.data_shape[1:]))
        self.operator, self.slices = operator, slices

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Sliced is made of an operator and the number of slices.")

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._forward(_apart(x)).transpose(0, 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._adjoint(_apart(y)).transpose(0, 1)

    def _normal(self, x: Tensor) -> Tensor:
        return self.operator._normal(_apart(x)).transpose(0, 1)

    def _precondition(self, alpha: Tensor) -> Map | None:
        return _each(self.operator._precondition(alpha.expand(self.slices, 1, 1, 1)))

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map | None:
        weight = weight.expand(1, *self.data_shape).transpose(0, 1)
        alpha = alpha.expand(self.slices, 1, 1, 1)
        return _each(self.operator._precondition_weighted(alpha, weight))

    def _initial(self, q: Tensor) -> Tensor:
        return self.operator._initial(_apart(q)).transpose(0, 1)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor | None:
        filled = self.operator._fill(_apart(q), _apart(seen))
        return None if filled is None else filled.transpose(0, 1)


def _apart(x: Tensor) -> Tensor:
    """Return a stack (1, n, ...) as a batch (n, 1, ...)."""
    return x.transpose(0, 1).contiguous()


def _each(solve: Map | None) -> Map | None:
    return None if solve is None else lambda r: solve(_apart(r)).transpose(0, 1)


__all__ = ["Sliced"]
