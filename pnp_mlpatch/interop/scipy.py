"""To and from ``scipy.sparse.linalg.LinearOperator``, sparse matrices and dense arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.interop.functions import FunctionOperator, checked_operator, checked_shape, hint
from pnp_mlpatch.operators import LinearOperator


def from_scipy(
    operator: Any, image_shape: Sequence[int], data_shape: Sequence[int] | None = None
) -> LinearOperator:
    r"""Make an operator of a real matrix (M, N).

    Images (C, H, W) with C H W = N are flattened in C order (rows first). The adjoint is
    ``rmatvec``, which for real matrices is the transpose. Everything runs on the host; results have
    the dtype and device of the input.

    Parameters
    ----------
    operator : scipy.sparse.linalg.LinearOperator, sparse matrix, sparse array or ndarray
        The matrix.
    image_shape : sequence of int
        (C, H, W).
    data_shape : sequence of int, optional
        The shape of the M products; (M,) by default.

    Returns
    -------
    LinearOperator

    Raises
    ------
    InputTypeError
        For other types and for complex matrices.
    InputError
        If the sizes do not agree, or there is no ``rmatvec``.
    """
    linalg = require("scipy.sparse.linalg", "from_scipy")
    sparse = require("scipy.sparse", "from_scipy")
    is_matrix = sparse.issparse(operator) or isinstance(operator, np.ndarray)
    if not is_matrix and not isinstance(operator, linalg.LinearOperator):
        raise InputTypeError(
            "from_scipy: expected a scipy LinearOperator, a sparse matrix or a numpy array, "
            f"got {type(operator).__name__}.{hint(operator)}"
        )
    if len(operator.shape) != 2:
        raise InputError(
            f"from_scipy: expected a matrix (M, N), got an array of shape {tuple(operator.shape)}."
        )
    if not _is_real(operator.dtype):
        raise InputTypeError(
            f"from_scipy: the matrix must be real, got {operator.dtype}. "
            "Write complex numbers as two real channels."
        )
    rows, columns = operator.shape
    image_shape = checked_shape(image_shape, "from_scipy", "image_shape", axes=3)
    data_shape = (rows,) if data_shape is None else data_shape
    data_shape = checked_shape(data_shape, "from_scipy", "data_shape")
    _check_size("image_shape", image_shape, columns, operator.shape)
    _check_size("data_shape", data_shape, rows, operator.shape)
    operator = linalg.aslinearoperator(operator)
    try:
        probe = operator.rmatvec(np.zeros(rows, np.float32))
    except NotImplementedError as error:
        raise InputError(
            "from_scipy: this LinearOperator has no rmatvec, so no adjoint. "
            "Make it as LinearOperator(shape, matvec=..., rmatvec=...)."
        ) from error
    if not _is_real(probe.dtype):
        raise InputTypeError(
            "from_scipy: rmatvec returns complex numbers. "
            "Write complex numbers as two real channels."
        )
    return FunctionOperator(
        lambda x: _each(operator.matvec, x, data_shape),
        lambda y: _each(operator.rmatvec, y, image_shape),
        image_shape,
        data_shape,
        None,
        "from_scipy",
    )


def _check_size(name: str, shape: tuple[int, ...], size: int, matrix: tuple[int, int]) -> None:
    if math.prod(shape) != size:
        raise InputError(
            f"from_scipy: {name} {shape} has {math.prod(shape)} elements, "
            f"but the matrix is {matrix[0]} x {matrix[1]} "
            f"(it takes images of {matrix[1]} and gives data of {matrix[0]} elements)."
        )


def _is_real(dtype: Any) -> bool:
    return dtype is None or not np.issubdtype(dtype, np.complexfloating)


def _each(product: Callable[[np.ndarray], np.ndarray], x: Tensor, shape: tuple[int, ...]) -> Tensor:
    vectors = x.detach().cpu().contiguous().flatten(1).numpy()
    products = np.stack([product(vector) for vector in vectors])
    if products.dtype.kind != "f":
        raise InputTypeError(
            f"from_scipy: the products must be real floats, got {products.dtype}. "
            "Return x.astype(np.float32)."
        )
    return torch.from_numpy(products).reshape(-1, *shape).to(x)


def to_scipy(A: LinearOperator, *, dtype: Any = "float32") -> Any:
    """Make a ``scipy.sparse.linalg.LinearOperator`` on flattened images and data, in C order.

    Its ``matvec``, ``rmatvec`` and their matrix forms (the columns go through A as one batch) are
    what scipy's ``lsqr``, ``cg`` and ``svds`` need.

    Parameters
    ----------
    A : LinearOperator
        The operator.
    dtype : {"float32", "float64"} or numpy.dtype
        The precision in which A is applied, and of the products.

    Returns
    -------
    scipy.sparse.linalg.LinearOperator
        Of shape (M, N) with N = C H W.

    Raises
    ------
    InputTypeError
        For another A or dtype; on use, for complex vectors.
    """
    linalg = require("scipy.sparse.linalg", "to_scipy")
    A = checked_operator(A, "to_scipy")
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = None
    if kind not in (np.float32, np.float64):
        raise InputTypeError(f"to_scipy: dtype must be 'float32' or 'float64', got {dtype!r}.")

    def product(
        function: Callable[[Tensor], Tensor], shape: tuple[int, ...]
    ) -> Callable[[np.ndarray], np.ndarray]:
        def columns(vectors: np.ndarray) -> np.ndarray:
            if np.iscomplexobj(vectors):
                raise InputTypeError(
                    "to_scipy: the operator is real, the vector is complex. "
                    "Apply it to the real and imaginary parts."
                )
            rows = np.ascontiguousarray(vectors.reshape(len(vectors), -1).T, dtype=kind)
            batch = torch.from_numpy(rows).reshape(-1, *shape)
            with torch.no_grad():
                out = function(batch.to(A.device)).flatten(1).T.cpu().numpy()
            return out.reshape(-1, *vectors.shape[1:])

        return columns

    forward, adjoint = product(A, A.image_shape), product(A.adjoint, A.data_shape)
    size = (math.prod(A.data_shape), math.prod(A.image_shape))
    return linalg.LinearOperator(
        size, matvec=forward, rmatvec=adjoint, matmat=forward, rmatmat=adjoint, dtype=kind
    )
