"""Checks of the values of other packages."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError

Values = Sequence[float] | Tensor | np.ndarray
NEAR = 1e-6  # relative to a length of the scan: the same length


def entry(values: Mapping[str, Any], name: str, who: str) -> Any:
    """Return the entry of a dict; raise :class:`InputError` where it is missing."""
    try:
        return values[name]
    except KeyError as error:
        raise InputError(
            f"{who}: expected an entry {name!r}, got {', '.join(map(str, values))}. Make the dict "
            "with ASTRA."
        ) from error


def is_count(value: Any) -> bool:
    """Whether a value is an integer; a bool is not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def as_count(value: Any, name: str, who: str) -> int:
    """Check an integer >= 1; raise :class:`InputError` for anything else."""
    if not is_count(value) or value < 1:
        raise InputError(f"{who}: {name} must be an integer >= 1, got {value!r}.")
    return int(value)


def as_plain(value: Any) -> Any:
    """Convert a number of NumPy to one of Python; return others as they are."""
    return float(value) if finite_number(value) else value


def as_pair(value: Any, name: str, who: str) -> tuple[Any, Any]:
    """Return a number twice, or the two values (y, x); raise :class:`InputError` for others."""
    values = value.tolist() if isinstance(value, (np.ndarray, Tensor)) else value
    values = [values, values] if isinstance(values, numbers.Number) else values
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 2:
        raise InputError(f"{who}: {name} must be a number or (y, x) of the slice, got {value!r}.")
    return values[0], values[1]


def as_vector(values: Any, name: str, who: str) -> Tensor:
    """Real numbers as a float64 tensor; raise :class:`InputTypeError` for anything else."""
    try:
        # through NumPy, which keeps Python's numbers whole
        tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
        if tensor.is_complex():
            raise TypeError("complex")
        tensor = tensor.detach().cpu().to(torch.float64)
        return tensor.reshape(1) if tensor.ndim == 0 else tensor
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"{who}: {name} must be a sequence of real numbers, got {values!r}."
        ) from error


def warn_half(who: str, what: str, advice: str) -> None:
    """Warn that another package turns the image about a point beside its centre."""
    warnings.warn(
        f"{who}: {what}, half a pixel from the centre of the image, about which our geometry "
        f"turns. {advice}",
        stacklevel=3,
    )
