"""Solvers by name: ``names()``, ``make(name, ...)``, ``info(name)``; and the base for writing one."""

from pnp_mlpatch.solvers.base import Problem, Result, Solver, State, make_problem, register, registry

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = ["Problem", "Result", "Solver", "State", "get", "info", "make", "make_problem", "names", "register"]
