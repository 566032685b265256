"""Checks of arguments that several modules make."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch

from pnp_mlpatch.errors import InputError


def finite_number(value: Any) -> bool:
    """Return whether a value is a real, finite number; a string or a bool is not.

    Parameters
    ----------
    value : object
        The value.

    Returns
    -------
    bool
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def torch_device(device: Any, who: str) -> torch.device:
    """Return a device of torch, with its number.

    Parameters
    ----------
    device : torch.device or str
        Such as "cuda".
    who : str
        Who takes it, for the message.

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        If there is no such device here.
    """
    try:
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, TypeError, AssertionError) as error:  # torch without CUDA asserts it
        raise InputError(
            f'{who}: device must be one of torch that is there, such as "cpu" or "cuda", '
            f"got {device!r} ({str(error).partition(chr(10))[0]})."
        ) from error
