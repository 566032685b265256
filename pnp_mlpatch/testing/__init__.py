"""The contracts of the three families, for the authors of plugins.

``check_operator``, ``check_denoiser`` and ``check_solver`` return the list of their checks. If one
fails they raise :class:`~pnp_mlpatch.errors.ContractError`, which explains every failure.
"""

from pnp_mlpatch.operators import adjoint_mismatch
from pnp_mlpatch.testing._checks import Check
from pnp_mlpatch.testing._denoisers import check_denoiser
from pnp_mlpatch.testing._operators import check_operator, optimality
from pnp_mlpatch.testing._solvers import check_solver

__all__ = [
    "Check",
    "adjoint_mismatch",
    "check_denoiser",
    "check_operator",
    "check_solver",
    "optimality",
]
