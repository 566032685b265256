"""The arithmetic of operators: ``A @ B``, ``A + B``, ``A - B``, ``c * A``, ``-A``, ``A.T``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.linalg import Map

if TYPE_CHECKING:
    from pnp_mlpatch.operators._base import LinearOperator


class Algebra:
    """The arithmetic of operators; the results are operators.

    - ``A @ B`` is A(B(x)); the data of B have the shape of the images of A.
    - ``A + B`` and ``A - B`` have the same images and data.
    - ``c * A``, with a real number c, finite and not 0; ``-A``.
    - ``A.T`` is the adjoint; the data of A have three axes, as an image.

    Operators whose data step is that of counts have ``likelihood = True``, and no arithmetic.
    """

    likelihood: bool = False

    def __matmul__(self, other: Any) -> LinearOperator:
        from pnp_mlpatch.operators._composed import product

        return product(cast("LinearOperator", self), other)

    def __add__(self, other: Any) -> LinearOperator:
        from pnp_mlpatch.operators._composed import Sum

        return Sum(cast("LinearOperator", self), other)

    def __sub__(self, other: Any) -> LinearOperator:
        from pnp_mlpatch.operators._composed import Sum

        return Sum(cast("LinearOperator", self), other, sign=-1.0)

    def __mul__(self, number: Any) -> LinearOperator:
        from pnp_mlpatch.operators._composed import scaled

        return scaled(cast("LinearOperator", self), number)

    __rmul__ = __mul__

    def __neg__(self) -> LinearOperator:
        return self * -1.0

    @property
    def T(self) -> LinearOperator:
        """The adjoint as an operator, whose images are the data of this one."""
        from pnp_mlpatch.operators._composed import Transposed

        return Transposed.of(cast("LinearOperator", self))


def check_linear(text: str, A: LinearOperator) -> None:
    """Refuse operators of counts, whose likelihood their products and multiples would lose.

    Parameters
    ----------
    text : str
        The expression, for the message.
    A : LinearOperator
        A part of it.
    """
    if A.likelihood:
        raise InputError(
            f"{text}: {A._who()} has the data step of its counts, which would be lost. Put the "
            f"composed operator into it: {A._who()}(A @ B, counts)."
        )


def between(B: LinearOperator, alpha: Tensor, inverse: Map) -> Map:
    r"""Return the data step of A B, where :math:`B B^H = 1`, from that of A.

    .. math:: (B^H A^H A B + \alpha)^{-1} b = (1 - B^H B) \, b / \alpha
        + B^H (A^H A + \alpha)^{-1} B b

    The first part is projected twice, because 1 / alpha magnifies its rounding.

    Parameters
    ----------
    B : LinearOperator
        One with orthonormal rows.
    alpha : Tensor, shape (B, 1, 1, 1)
        The weight, > 0.
    inverse : callable
        :math:`(A^H A + \alpha)^{-1}`, or a map close to it.

    Returns
    -------
    callable
    """

    def solve(b: Tensor) -> Tensor:
        y = B._forward(b)
        f = (b - B._adjoint(y)) / alpha
        return f + B._adjoint(inverse(y) - B._forward(f))

    return solve
