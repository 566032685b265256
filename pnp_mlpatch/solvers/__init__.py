"""Solvers by name: ``names()``, ``make(name, ...)``, ``info(name)``; and bases to write one."""

from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._anderson import Anderson, anderson
from pnp_mlpatch.solvers._base import Callback, Solver, State, check_settings, register, registry
from pnp_mlpatch.solvers._driver import checked, checked_start, solve
from pnp_mlpatch.solvers._fixed_point import FixedPoint, FixedPointState
from pnp_mlpatch.solvers._problem import Problem, make_problem, noise_in_start, per_image, weight_of
from pnp_mlpatch.solvers._result import Result, Tuned
from pnp_mlpatch.solvers._splitting import Splitting, SplittingState, data_step
from pnp_mlpatch.solvers._stopping import mark_outside, warn_outside, worst

names, get, make, info = registry.names, registry.get, registry.make, registry.info

__all__ = [
    "Anderson",
    "Callback",
    "FixedPoint",
    "FixedPointState",
    "Problem",
    "Result",
    "Solver",
    "Splitting",
    "SplittingState",
    "State",
    "Tuned",
    "anderson",
    "check_settings",
    "checked",
    "checked_start",
    "data_step",
    "get",
    "info",
    "make",
    "make_problem",
    "mark_outside",
    "names",
    "noise_in_start",
    "per_image",
    "register",
    "registry",
    "schedules",
    "solve",
    "warn_outside",
    "weight_of",
    "worst",
]
