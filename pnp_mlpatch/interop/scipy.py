"""To and from ``scipy.sparse.linalg.LinearOperator``, sparse matrices and dense arrays."""

from __future__ import annotations

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
    """The operator of a real matrix (M, N): a scipy LinearOperator, a sparse matrix or array, or a dense ndarray.

    Images (C, H, W) with C H W = N are flattened in C order (rows first), one after the other; the product, M numbers, gets the
    ``data_shape``, (M,) by default. The adjoint is ``rmatvec``, which for real operators is the transpose. Everything runs
    on the host; the result has the dtype and device of the input.

    Raises :class:`InputTypeError` for other types and for complex matrices, :class:`InputError` if the sizes do not agree or
    there is no ``rmatvec``.
    """
    linalg = require("scipy.sparse.linalg", "from_scipy")
    sparse = require("scipy.sparse", "from_scipy")
    is_matrix = sparse.issparse(operator) or isinstance(operator, np.ndarray)
    if not is_matrix and not isinstance(operator, linalg.LinearOperator):
        raise InputTypeError(
            f"from_scipy: expected a scipy LinearOperator, a sparse matrix or a numpy array, got {type(operator).__name__}.{hint(operator)}"
        )
    if len(operator.shape) != 2:
        raise InputError(
            f"from_scipy: expected a matrix (M, N), got an array of shape {tuple(operator.shape)}."
        )
    if not _is_real(operator.dtype):
        raise InputTypeError(
            f"from_scipy: the matrix must be real, got {operator.dtype}. Write complex numbers as two real channels."
        )
    rows, columns = operator.shape
    image_shape = checked_shape(image_shape, "from_scipy", "image_shape", axes=3)
    data_shape = (
        (rows,) if data_shape is None else checked_shape(data_shape, "from_scipy", "data_shape")
    )
    for name, shape, size in (
        ("image_shape", image_shape, columns),
        ("data_shape", data_shape, rows),
    ):
        if int(np.prod(shape)) != size:
            raise InputError(
                f"from_scipy: {name} {shape} has {int(np.prod(shape))} elements, but the matrix is {rows} x {columns} "
                f"(it takes images of {columns} and gives data of {rows} elements)."
            )
    operator = linalg.aslinearoperator(operator)
    try:
        probe = operator.rmatvec(np.zeros(rows, np.float32))
    except NotImplementedError as error:
        raise InputError(
            "from_scipy: this LinearOperator has no rmatvec, so no adjoint. Make it as LinearOperator(shape, matvec=..., rmatvec=...)."
        ) from error
    if not _is_real(probe.dtype):
        raise InputTypeError(
            "from_scipy: rmatvec returns complex numbers. Write complex numbers as two real channels."
        )
    return FunctionOperator(
        lambda x: _each(operator.matvec, x, data_shape),
        lambda y: _each(operator.rmatvec, y, image_shape),
        image_shape,
        data_shape,
        None,
        "from_scipy",
    )


def _is_real(dtype: Any) -> bool:
    return dtype is None or not np.issubdtype(dtype, np.complexfloating)


def _each(product: Callable[[np.ndarray], np.ndarray], x: Tensor, shape: tuple[int, ...]) -> Tensor:
    vectors = x.detach().cpu().contiguous().flatten(1).numpy()
    products = np.stack([product(vector) for vector in vectors])
    if products.dtype.kind != "f":
        raise InputTypeError(
            f"from_scipy: the products must be real floats, got {products.dtype}. Return x.astype(np.float32)."
        )
    return torch.from_numpy(products).reshape(-1, *shape).to(x)


def to_scipy(A: LinearOperator, *, dtype: Any = "float32") -> Any:
    """A ``scipy.sparse.linalg.LinearOperator`` (M, N) on flattened images (N = C H W) and data, in C order.

    ``dtype`` is float32 or float64, the precision in which A is applied and the dtype of the products. ``matvec``, ``rmatvec``,
    and their matrix forms (the columns go through A as one batch) are there, so that scipy's ``lsqr``, ``cg``, ``svds`` ... work.

    Raises :class:`InputTypeError` for another A or dtype, and, on use, for complex vectors.
    """
    linalg = require("scipy.sparse.linalg", "to_scipy")
    A = checked_operator(A, "to_scipy")
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = None
    if kind not in (np.float32, np.float64):
        raise InputTypeError(f"to_scipy: dtype must be 'float32' or 'float64', got {dtype!r}.")
    device = next((b.device for b in A.buffers()), torch.device("cpu"))

    def product(
        function: Callable[[Tensor], Tensor], shape: tuple[int, ...]
    ) -> Callable[[np.ndarray], np.ndarray]:
        def columns(vectors: np.ndarray) -> np.ndarray:
            if np.iscomplexobj(vectors):
                raise InputTypeError(
                    "to_scipy: the operator is real, the vector is complex. Apply it to the real and imaginary parts."
                )
            batch = torch.from_numpy(
                np.ascontiguousarray(vectors.reshape(len(vectors), -1).T, dtype=kind)
            ).reshape(-1, *shape)
            with torch.no_grad():
                out = function(batch.to(device)).flatten(1).T.cpu().numpy()
            return out.reshape(-1, *vectors.shape[1:])

        return columns

    forward, adjoint = product(A, A.image_shape), product(A.adjoint, A.data_shape)
    size = (int(np.prod(A.data_shape)), int(np.prod(A.image_shape)))
    return linalg.LinearOperator(
        size, matvec=forward, rmatvec=adjoint, matmat=forward, rmatmat=adjoint, dtype=kind
    )
