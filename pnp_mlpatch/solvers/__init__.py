"""Solvers by name: ``names()``, ``make(name, ...)``, ``info(name)``; and the bases for writing one."""

from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import (
    Callback,
    Problem,
    Result,
    Solver,
    State,
    Tuned,
    check_settings,
    make_problem,
    per_image,
    register,
    registry,
)

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = [
    "Callback",
    "Problem",
    "Result",
    "Solver",
    "State",
    "Tuned",
    "check_settings",
    "get",
    "info",
    "make",
    "make_problem",
    "names",
    "per_image",
    "register",
    "registry",
    "schedules",
]
