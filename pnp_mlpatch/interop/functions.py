"""An operator of two functions of torch tensors; and the checks that all conversions share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch._checks import torch_device
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator

Map = Callable[[Tensor], Tensor]

# Which call takes an object, by the package that its class comes from.
_CALLS = {
    "astra": "from_astra(...)",
    "deepinv": "from_deepinv(physics, image_shape)",
    "numpy": "from_scipy(matrix, image_shape)",
    "odl": "from_odl(operator)",
    "scipy": "from_scipy(operator, image_shape)",
}


class FunctionOperator(LinearOperator):
    r"""The operator that :func:`from_functions` makes.

    Parameters
    ----------
    A, At : callable
        Functions of batches.
    image_shape, data_shape : sequence of int
        Of one image and its data.
    normal : callable or None
        A^T A.
    who : str
        The name in error messages.
    device : torch.device, str or None
        Where the functions compute; None if on any device.
    """

    def __init__(
        self,
        A: Map,
        At: Map,
        image_shape: Sequence[int],
        data_shape: Sequence[int],
        normal: Map | None,
        who: str,
        device: torch.device | str | None = None,
    ):
        super().__init__(
            checked_shape(image_shape, who, "image_shape", axes=3),
            checked_shape(data_shape, who, "data_shape"),
        )
        self._functions, self.who = {"A": A, "At": At, "normal": normal}, who
        if device is not None:
            place = torch.empty(0, device=torch_device(device, who))
            self.register_buffer("_place", place, persistent=False)

    @classmethod
    def example(cls) -> FunctionOperator:
        """Return differences along the rows, (1, 5, 7) -> (1, 5, 6)."""

        def At(y: Tensor) -> Tensor:
            x = y.new_zeros(*y.shape[:-1], 7)
            x[..., 1:] += y
            x[..., :-1] -= y
            return x

        return from_functions(lambda x: x[..., 1:] - x[..., :-1], At, (1, 5, 7), (1, 5, 6))

    def _who(self) -> str:
        return self.who

    def _forward(self, x: Tensor) -> Tensor:
        return self._call("A", x, self.data_shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._call("At", y, self.image_shape)

    def _normal(self, x: Tensor) -> Tensor:
        if self._functions["normal"] is None:
            return super()._normal(x)
        return self._call("normal", x, self.image_shape)

    def _call(self, name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        function = self._functions[name]
        assert function is not None
        y = function(x)
        if not isinstance(y, Tensor) or not y.is_floating_point():
            came = f"{y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise InputTypeError(
                f"{self.who}: {name} must return a tensor of real floats, got {came}. "
                "Complex values travel as two channels: torch.view_as_real."
            )
        if tuple(y.shape) != (x.shape[0], *shape):
            raise InputError(
                f"{self.who}: {name} must take a batch {tuple(x.shape)} to {(x.shape[0], *shape)}, "
                f"got {tuple(y.shape)} back. Is the batch axis kept, "
                "and are image_shape and data_shape right?"
            )
        return y.to(x)


def from_functions(
    A: Map,
    At: Map,
    image_shape: Sequence[int],
    data_shape: Sequence[int],
    *,
    normal: Map | None = None,
    device: torch.device | str | None = None,
) -> FunctionOperator:
    r"""Make an operator of two functions of batches.

    The functions take float32 and float64 and do not change their input. They need not be
    differentiable, since the gradient of A is At. Modules in them are moved and copied by the
    caller.

    Parameters
    ----------
    A : callable
        (B, C, H, W) -> (B, \*data_shape).
    At : callable
        Its transpose, back.
    image_shape : sequence of int
        (C, H, W).
    data_shape : sequence of int
        The shape of the data of one image.
    normal : callable, optional
        A^T A, if there is a faster way than one after the other.
    device : torch.device or str, optional
        The device of the tensors that the functions hold, such as "cuda". Data on another one are
        then refused. Without it the functions compute where their argument is.

    Returns
    -------
    FunctionOperator

    Raises
    ------
    InputTypeError
        If A or At cannot be called; on use, if one returns no real tensor.
    InputError
        If a shape or the device cannot be; on use, if a function returns another shape.
    """
    for name, function in (("A", A), ("At", At), ("normal", A if normal is None else normal)):
        if not callable(function):
            raise InputTypeError(
                f"from_functions: {name} must be a function of a tensor (B, ...), "
                f"got {type(function).__name__}.{hint(function)}"
            )
    return FunctionOperator(A, At, image_shape, data_shape, normal, "from_functions", device)


def checked_shape(
    shape: Sequence[int], who: str, name: str, axes: int | None = None
) -> tuple[int, ...]:
    """Return a shape as a tuple of integers >= 1.

    Parameters
    ----------
    shape : sequence of int
        The shape.
    who, name : str
        For messages.
    axes : int, optional
        How many there are.

    Returns
    -------
    tuple of int

    Raises
    ------
    InputError
        If it is not one.
    """
    words = "(C, H, W), three" if axes == 3 else "a sequence of"
    try:
        sizes = tuple(int(n) for n in shape)
        good = (
            sizes == tuple(shape)
            and len(sizes) >= 1
            and min(sizes) >= 1
            and axes in (None, len(sizes))
        )
    except (TypeError, ValueError):
        sizes, good = (), False
    if not good:
        raise InputError(f"{who}: {name} must be {words} integers >= 1, got {shape!r}.")
    return sizes


def checked_operator(A: Any, who: str) -> LinearOperator:
    """Return A if it is an operator of this package.

    Parameters
    ----------
    A : object
        What was given.
    who : str
        For messages.

    Returns
    -------
    LinearOperator

    Raises
    ------
    InputTypeError
        With the call to use, if it is not.
    """
    if not isinstance(A, LinearOperator):
        raise InputTypeError(
            f"{who}: A must be a LinearOperator of pnp_mlpatch, got {type(A).__name__}.{hint(A)}"
        )
    return A


def hint(given: Any) -> str:
    """Say which call takes an object.

    Parameters
    ----------
    given : object
        The object.

    Returns
    -------
    str
        A sentence to end a message with, or nothing.
    """
    if isinstance(given, LinearOperator):
        return " It is an operator of pnp_mlpatch already: use it as it is."
    for kind in type(given).__mro__:
        call = _CALLS.get(kind.__module__.partition(".")[0])
        if call:
            return f" Use {call}."
    if callable(given):
        return " Make an operator with from_functions(A, At, image_shape, data_shape)."
    return ""
