"""To and from ``odl.Operator`` (Adler et al.), without its weighted inner products."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.interop.functions import FunctionOperator, checked_operator, hint
from pnp_mlpatch.operators import LinearOperator


def from_odl(operator: Any) -> LinearOperator:
    r"""Make an operator of a linear ODL operator between real tensor spaces.

    A domain of shape (H, W) means images (1, H, W), one of shape (C, H, W) images of that shape;
    the data have the shape of the range. Images go through one by one, in the precision of the
    domain (ODL's tomography is float32 only), on the host.

    Parameters
    ----------
    operator : odl.Operator
        Linear, with an adjoint.

    Returns
    -------
    LinearOperator

    Raises
    ------
    InputTypeError
        If it is not a linear operator, or not real.
    InputError
        If its spaces or weightings are others, or there is no adjoint.

    Notes
    -----
    The axes are ODL's: in the usual 2-D spaces the first is x and the second y, upwards. ODL's
    adjoint belongs to inner products with weights, :math:`\langle u, v \rangle = \sum w u v`. The
    transpose, which is taken here, is

    .. math:: A^T y = w_{domain} \, A^*(y / w_{range})
    """
    odl = require("odl", "from_odl")
    spaces = require("odl.core.space.base_tensors", "from_odl")
    if not isinstance(operator, odl.Operator):
        raise InputTypeError(
            f"from_odl: expected an odl.Operator, got {type(operator).__name__}.{hint(operator)}"
        )
    who = f"from_odl({type(operator).__name__})"
    if not operator.is_linear:
        raise InputTypeError(
            f"{who}: the operator is not linear. Its derivative at a point is: "
            "from_odl(operator.derivative(x))."
        )
    for name, space in (("domain", operator.domain), ("range", operator.range)):
        if not isinstance(space, spaces.TensorSpace):
            raise InputError(
                f"{who}: its {name} must be one space of arrays, got {type(space).__name__}. "
                "Compose it with a projection."
            )
        if space.dtype_identifier not in ("float32", "float64"):
            raise InputTypeError(
                f"{who}: its {name} must be float32 or float64, got {space.dtype_identifier}."
            )
    if len(operator.domain.shape) not in (2, 3):
        raise InputError(
            f"{who}: its domain must have shape (H, W) or (C, H, W), got {operator.domain.shape}."
        )
    try:
        adjoint = operator.adjoint
    except NotImplementedError as error:
        raise InputError(
            f"{who}: the operator has no adjoint, which every solver needs."
        ) from error
    w_domain, w_range = (
        _weight(space, who, name)
        for space, name in ((operator.domain, "domain"), (operator.range, "range"))
    )
    image_shape = (1, *operator.domain.shape)[-3:]
    return FunctionOperator(
        lambda x: _each(operator, x, operator.range.shape),
        lambda y: w_domain.to(y) * _each(adjoint, y / w_range.to(y), image_shape),
        image_shape,
        operator.range.shape,
        None,
        who,
    )


def _weight(space: Any, who: str, name: str) -> Tensor:
    """Return the weight of the inner product of a space, a number or an array."""
    weighting = space.weighting
    if not hasattr(weighting, "weight") or weighting.exponent != 2.0:
        raise InputError(
            f"{who}: the inner product of its {name} must have a weight, a number or an array, "
            f"got {weighting!r}."
        )
    return torch.as_tensor(weighting.weight, dtype=torch.float64)


def _each(operator: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    space = operator.domain
    images = x.detach().cpu().to(getattr(torch, space.dtype_identifier)).reshape(-1, *space.shape)
    out = [torch.as_tensor(operator(space.element(image.numpy())).data) for image in images]
    return torch.stack(out).reshape(-1, *shape).to(x)


@cache
def _operator_class() -> type:
    odl = require("odl", "to_odl")

    class TorchOperator(odl.Operator):
        """The operator that :func:`to_odl` makes, and, turned round, its adjoint."""

        def __init__(self, A: LinearOperator, dtype: str, transposed: bool):
            self.A, self.dtype, self.transposed = A, dtype, transposed
            shapes = (A.data_shape, A.image_shape) if transposed else (A.image_shape, A.data_shape)
            super().__init__(*(odl.rn(shape, dtype=dtype) for shape in shapes), linear=True)

        def _call(self, x: Any) -> np.ndarray:
            batch = torch.as_tensor(x.data)[None].to(self.A.device)
            with torch.no_grad():
                out = self.A.adjoint(batch) if self.transposed else self.A(batch)
            return out[0].cpu().numpy()

        @property
        def adjoint(self) -> TorchOperator:
            return TorchOperator(self.A, self.dtype, not self.transposed)

    return TorchOperator


def to_odl(A: LinearOperator, *, dtype: str = "float32") -> Any:
    """Make a linear ``odl.Operator`` from ``odl.rn(A.image_shape)`` to ``odl.rn(A.data_shape)``.

    Its spaces have no weights, so its ``adjoint`` is A^T.

    Parameters
    ----------
    A : LinearOperator
        The operator.
    dtype : {"float32", "float64"}
        Of the spaces.

    Returns
    -------
    odl.Operator

    Raises
    ------
    InputTypeError
        For another A or dtype.
    """
    checked_operator(A, "to_odl")
    if dtype not in ("float32", "float64"):
        raise InputTypeError(f"to_odl: dtype must be 'float32' or 'float64', got {dtype!r}.")
    return _operator_class()(A, dtype, False)
