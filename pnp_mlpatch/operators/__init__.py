"""Operators by name, ``names()``, ``make(name, ...)``, ``info(name)``; and their base classes."""

from pnp_mlpatch.operators._base import LinearOperator, register, registry
from pnp_mlpatch.operators._decomposable import DecomposableOperator
from pnp_mlpatch.operators._emission import Emission
from pnp_mlpatch.operators._place import data_on
from pnp_mlpatch.operators._transmission import Transmission
from pnp_mlpatch.operators._verify import adjoint_mismatch, check_foreign, reached
from pnp_mlpatch.operators._weighted import Weighted

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = [
    "DecomposableOperator",
    "Emission",
    "LinearOperator",
    "Transmission",
    "Weighted",
    "adjoint_mismatch",
    "check_foreign",
    "data_on",
    "get",
    "info",
    "make",
    "names",
    "reached",
    "register",
    "registry",
]
