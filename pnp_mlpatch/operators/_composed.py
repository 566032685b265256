"""Operators made of operators: products, sums, multiples, adjoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators._algebra import between, check_linear
from pnp_mlpatch.operators._base import LinearOperator, Map
from pnp_mlpatch.operators._weighted import norm_of_images


class Product(LinearOperator):
    r"""The operator :math:`x \mapsto A (B x)`, made by ``A @ B``.

    If :math:`B B^H = 1`, the data step follows from that of A, and takes conjugate gradients only
    where A does (:func:`~pnp_mlpatch.operators._algebra.between`). If A is unitary, it is that of
    B. Otherwise it takes conjugate gradients.

    Parameters
    ----------
    A, B : LinearOperator
        The data of B have the shape of the images of A.

    Raises
    ------
    InputTypeError
        If one is not an operator.
    InputError
        If the shapes or the devices do not fit.
    """

    def __init__(self, A: LinearOperator, B: Any):
        _check_operators("A @ B", A, B)
        if B.data_shape != A.image_shape:
            raise InputError(
                f"A @ B: A ({A._who()}) takes images {A.image_shape}, but B ({B._who()}) has data "
                f"{B.data_shape}. (A @ B)(x) is A(B(x)): give an A for the data of B, or change "
                "their order."
            )
        super().__init__(B.image_shape, A.data_shape)
        self.outer, self.inner = A, B
        self.complex_image = (A.complex_image or B.complex_image) and B.image_shape[0] == 2
        self.row_orthonormal = A.row_orthonormal and B.row_orthonormal

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Product is made of two operators by A @ B.")

    @property
    def closed_form(self) -> bool:
        if _unitary(self.outer):
            return self.inner.closed_form
        return self.inner.row_orthonormal and self.outer.closed_form

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer._forward(self.inner._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._adjoint(y))

    def _normal(self, x: Tensor) -> Tensor:
        return self.inner._adjoint(self.outer._normal(self.inner._forward(x)))

    def _inverse(self, alpha: Tensor) -> Map | None:
        if not self.closed_form:
            return None
        if _unitary(self.outer):
            return self.inner._inverse(alpha)
        solve = self.outer._inverse(alpha)
        return None if solve is None else between(self.inner, alpha, solve)

    def _precondition(self, alpha: Tensor) -> Map | None:
        if _unitary(self.outer):
            return self.inner._precondition(alpha)
        solve = self.outer._precondition(alpha) if self.inner.row_orthonormal else None
        return None if solve is None else between(self.inner, alpha, solve)

    def _initial(self, q: Tensor) -> Tensor:
        return self.inner._initial(self.outer._initial(q))

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor | None:
        return self.outer._fill(q, seen)

    def _weighted(self, weight: Tensor) -> LinearOperator:
        return Product(self.outer._weighted(weight), self.inner)

    def _weighted_each(self, weight: Tensor) -> LinearOperator:
        return Product(self.outer._weighted_each(weight), self.inner)

    def for_images(self, rows: Tensor) -> LinearOperator:
        outer, inner = self.outer.for_images(rows), self.inner.for_images(rows)
        same = outer is self.outer and inner is self.inner
        return self if same else Product(outer, inner)

    def _norm(self, iterations: int, tol: float) -> float:
        return norm_of_images(self, iterations, tol)


class Sum(LinearOperator):
    r"""The operator :math:`x \mapsto A x \pm B x`, made by ``A + B`` and ``A - B``.

    Its data step takes conjugate gradients.

    Parameters
    ----------
    A, B : LinearOperator
        With the same image_shape and the same data_shape.
    sign : float
        1, or -1 for the difference.

    Raises
    ------
    InputTypeError
        If one is not an operator.
    InputError
        If the shapes or the devices do not fit.
    """

    def __init__(self, A: LinearOperator, B: Any, sign: float = 1.0):
        text = "A + B" if sign > 0 else "A - B"
        _check_operators(text, A, B)
        for what, one, other in (
            ("images", A.image_shape, B.image_shape),
            ("data", A.data_shape, B.data_shape),
        ):
            if one != other:
                raise InputError(
                    f"{text}: both must have the same {what}, but A ({A._who()}) has {one} and "
                    f"B ({B._who()}) {other}. For several data sets of one image take the "
                    "operator 'stack'."
                )
        super().__init__(A.image_shape, A.data_shape)
        self.first, self.second, self.sign = A, B, sign
        self.complex_image = A.complex_image or B.complex_image

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Sum is made of two operators by A + B or A - B.")

    def _forward(self, x: Tensor) -> Tensor:
        return self.first._forward(x) + self.sign * self.second._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.first._adjoint(y) + self.sign * self.second._adjoint(y)

    def for_images(self, rows: Tensor) -> LinearOperator:
        first, second = self.first.for_images(rows), self.second.for_images(rows)
        same = first is self.first and second is self.second
        return self if same else Sum(first, second, self.sign)

    def _norm(self, iterations: int, tol: float) -> float:
        return norm_of_images(self, iterations, tol)


class Scaled(LinearOperator):
    r"""The operator :math:`x \mapsto s \, (A x)`, made by ``s * A``.

    Its data step is exact if that of A is:

    .. math:: (s^2 A^H A + \alpha)^{-1} b = (A^H A + \alpha / s^2)^{-1} b / s^2

    Parameters
    ----------
    operator : LinearOperator
        A.
    scale : float
        s, not 0.
    """

    def __init__(self, operator: LinearOperator, scale: float):
        super().__init__(operator.image_shape, operator.data_shape)
        self.operator, self.scale = operator, scale
        self.complex_image = operator.complex_image
        self.row_orthonormal = operator.row_orthonormal and abs(scale) == 1

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Scaled is made of a number and an operator by s * A.")

    @property
    def closed_form(self) -> bool:
        return self.operator.closed_form

    def _forward(self, x: Tensor) -> Tensor:
        return self.scale * self.operator._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.scale * self.operator._adjoint(y)

    def _normal(self, x: Tensor) -> Tensor:
        return self.scale**2 * self.operator._normal(x)

    def _inverse(self, alpha: Tensor) -> Map | None:
        return self._from(self.operator._inverse(alpha / self.scale**2))

    def _precondition(self, alpha: Tensor) -> Map | None:
        return self._from(self.operator._precondition(alpha / self.scale**2))

    def _from(self, solve: Map | None) -> Map | None:
        return None if solve is None else lambda b: solve(b / self.scale**2)

    def _initial(self, q: Tensor) -> Tensor:
        return self.operator._initial(q / self.scale)

    def _fill(self, q: Tensor, seen: Tensor) -> Tensor | None:
        return self.operator._fill(q, seen)

    def _weighted(self, weight: Tensor) -> LinearOperator:
        return self._signed(self.operator._weighted(abs(self.scale) * weight))

    def _weighted_each(self, weight: Tensor) -> LinearOperator:
        return self._signed(self.operator._weighted_each(abs(self.scale) * weight))

    def _signed(self, operator: LinearOperator) -> LinearOperator:
        return operator if self.scale > 0 else Scaled(operator, -1.0)

    def for_images(self, rows: Tensor) -> LinearOperator:
        chosen = self.operator.for_images(rows)
        return self if chosen is self.operator else Scaled(chosen, self.scale)

    def _norm(self, iterations: int, tol: float) -> float:
        return abs(self.scale) * self.operator._norm(iterations, tol)


class Transposed(LinearOperator):
    r"""The operator :math:`y \mapsto A^H y`, made by ``A.T``.

    Its data step is a division if :math:`A A^H = 1`. Otherwise it takes conjugate gradients. If
    that of A is exact, their preconditioner is the inverse itself, which only rounding spoils:

    .. math:: (A A^H + \alpha)^{-1} b = \frac{1}{\alpha} \left[ b - A (A^H A + \alpha)^{-1} A^H b
        \right]

    Parameters
    ----------
    operator : LinearOperator
        A, whose data have three axes.
    """

    def __init__(self, operator: LinearOperator):
        super().__init__(operator.data_shape, operator.image_shape)
        self.operator = operator
        self.row_orthonormal = _unitary(operator)

    @classmethod
    def of(cls, operator: LinearOperator) -> LinearOperator:
        """Return the adjoint of an operator; that of an adjoint is the operator itself."""
        if isinstance(operator, Transposed):
            return operator.operator
        if len(operator.data_shape) != 3:
            raise InputError(
                f"A.T: the data of {operator._who()} have shape {operator.data_shape}, and images "
                "have three axes (C, H, W). Apply A.adjoint(y) instead."
            )
        check_linear("A.T", operator)
        return cls(operator)

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Transposed is made of an operator by A.T.")

    @property
    def closed_form(self) -> bool:
        return self.operator.row_orthonormal

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._forward(y)

    def _inverse(self, alpha: Tensor) -> Map | None:
        return (lambda b: b / (1 + alpha)) if self.closed_form else None

    def _precondition(self, alpha: Tensor) -> Map | None:
        A, solve = self.operator, self.operator._inverse(alpha)
        if solve is None:
            return None
        return lambda b: (b - A._forward(solve(A._adjoint(b)))) / alpha

    def for_images(self, rows: Tensor) -> LinearOperator:
        chosen = self.operator.for_images(rows)
        return self if chosen is self.operator else Transposed(chosen)

    def _norm(self, iterations: int, tol: float) -> float:
        return self.operator._norm(iterations, tol)


def product(A: LinearOperator, B: Any) -> LinearOperator:
    """Return A @ B, with numbers taken out, so that exact data steps stay exact."""
    if isinstance(A, Scaled):
        return scaled(product(A.operator, B), A.scale)
    if isinstance(B, Scaled):
        return scaled(product(A, B.operator), B.scale)
    return Product(A, B)


def scaled(A: LinearOperator, number: Any) -> LinearOperator:
    """Return the operator times a real number, finite and not 0."""
    check_linear("c * A", A)
    if isinstance(number, Tensor) and number.ndim == 0 and not number.is_complex():
        number = number.item()
    if isinstance(number, Tensor):
        raise InputTypeError(
            f"{A._who()}: got A * tensor of shape {tuple(number.shape)}. A is applied by A(x) and "
            "takes weights by A.weighted(w); c * A takes one real number."
        )
    try:
        value = float(number)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"{A._who()}: c * A takes a real number, got {type(number).__name__}. "
            "The product of operators is A @ B."
        ) from error
    if isinstance(number, (str, bool)) or not finite_number(value) or value == 0:
        raise InputError(f"{A._who()}: in c * A, c must be finite and not 0, got {number!r}.")
    if isinstance(A, Scaled):
        A, value = A.operator, A.scale * value
    return Scaled(A, value)


def _unitary(A: LinearOperator) -> bool:
    """Return whether A has orthonormal rows and is square."""
    return (
        A.row_orthonormal and torch.Size(A.image_shape).numel() == torch.Size(A.data_shape).numel()
    )


def _check_operators(text: str, A: LinearOperator, B: Any) -> None:
    """Raise unless both are operators on one device."""
    if isinstance(B, Tensor):
        raise InputTypeError(f"{text}: B is a tensor. Apply the operator A ({A._who()}) by A(x).")
    if not isinstance(B, LinearOperator):
        raise InputTypeError(
            f"{text}: B must be an operator, got {type(B).__name__}. "
            "See pnp_mlpatch.interop for those of other packages."
        )
    check_linear(text, A)
    check_linear(text, B)
    devices = {str(buffer.device) for C in (A, B) for buffer in C.buffers()}
    if len(devices) > 1:
        raise InputError(
            f"{text}: the operators are on {' and '.join(sorted(devices))}. "
            "Move them to one device with .to(device)."
        )
