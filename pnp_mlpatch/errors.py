"""The exceptions of the package.

A message says who complains, what was expected, what came, and what to do. Each class also derives
from the builtin that a caller would catch by habit (``ValueError``, ``TypeError``, ...).
"""

from __future__ import annotations

from typing import Any


class PnPError(Exception):
    """Base class of all errors of this package."""


class InputError(PnPError, ValueError):
    """A value that cannot be used: wrong shape, not finite, out of range."""


class InputTypeError(PnPError, TypeError):
    """A value of the wrong type or dtype."""


class UnknownPlugin(PnPError, LookupError):
    """No plugin of that name."""


class BrokenPlugin(PnPError, ImportError):
    """A plugin that is listed but cannot be imported."""


class MissingPackage(PnPError, ImportError):
    """An optional package that the call needs is not installed."""


class WeightsError(PnPError, ValueError):
    """A weights or checkpoint file that is missing, corrupt, or for another model."""


class FileError(PnPError, OSError):
    """A data or image file that cannot be read or written."""


class ClusterError(PnPError, RuntimeError):
    """Workers or a scheduler that are gone, or do not fit this process."""


class ContractError(PnPError, AssertionError):
    """A plugin that breaks the contract of its family; raised by :mod:`pnp_mlpatch.testing`."""


class Diverged(PnPError, ArithmeticError):
    """An iteration produced values that are not finite.

    Parameters
    ----------
    message : str
        What happened.
    state : State, optional
        The last finite state; ``solver.run(..., state=error.state)`` resumes from it.
    """

    def __init__(self, message: str, state: Any = None):
        super().__init__(message)
        self.state = state
