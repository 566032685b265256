"""Operators by name: ``names()``, ``make(name, ...)``, ``info(name)``; and the bases for writing one."""

from pnp_mlpatch.operators._base import (
    DecomposableOperator,
    LinearOperator,
    Weighted,
    register,
    registry,
)
from pnp_mlpatch.operators._transmission import Transmission

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = [
    "DecomposableOperator",
    "LinearOperator",
    "Transmission",
    "Weighted",
    "get",
    "info",
    "make",
    "names",
    "register",
    "registry",
]
