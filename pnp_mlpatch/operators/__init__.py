"""Operators by name: ``names()``, ``make(name, ...)``, ``info(name)``; and the bases for writing one."""

from pnp_mlpatch.operators.base import DecomposableOperator, LinearOperator, register, registry

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = ["DecomposableOperator", "LinearOperator", "get", "info", "make", "names", "register"]
