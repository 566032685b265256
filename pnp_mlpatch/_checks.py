"""Checks of arguments that several modules make."""

from __future__ import annotations

import math
import numbers
from typing import Any


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
