"""Regularisation by denoising."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._fixed_point import EstimateIteration, EstimateState
from pnp_mlpatch.solvers._problem import Problem, column, curvatures, per_image
from pnp_mlpatch.solvers._splitting import Splitting, SplittingState


@dataclass(frozen=True)
class REDState(SplittingState, EstimateState):
    """State of RED: x is the estimate, a data variable.

    Parameters
    ----------
    norm2 : Tensor, shape (B,)
        :math:`|A|^2`, 0 where it is not used.
    """

    norm2: Tensor


@register("red")
@dataclass(frozen=True)
class RED(Splitting[REDState], EstimateIteration[REDState]):
    r"""Regularisation by denoising: the misfit and what the denoiser removes balance.

    .. math::

        A^H (A x - q) / \text{noise}^2 + \rho \, (x - D(x, \sigma)) = 0, \qquad
        \rho = \alpha / \text{noise}^2

    It is reached by ``form``. With "fixed_point",

    .. math::

        x_k = h(D(x_{k-1}, \sigma_k); \alpha_k), \qquad
            h(z; \alpha) = (A^H A + \alpha)^{-1} (A^H q + \alpha z)

    and with "gradient", from :math:`x = x_{k-1}`,

    .. math::

        x_k = x - \tau [A^H (A x - q) + \alpha_k (x - D(x, \sigma_k))], \qquad
            \tau = 1 / (|A|^2 + \alpha_k)

    Parameters
    ----------
    iterations, sigma, alpha, alpha_scale, tol, data_iterations, data_tol
        As for :class:`~pnp_mlpatch.solvers.admm.ADMM`; the last two are for "fixed_point".
    form : str
        "fixed_point" needs a data step and is much faster with one. "gradient" needs A and its
        adjoint only.

    Notes
    -----
    By default :math:`\rho = 1 / \sigma^2`. For the D of least squares :math:`(D(x, \sigma) - x) /
    \sigma^2` is then the gradient of the logarithm of the density of images blurred by noise of
    deviation sigma (Tweedie 1947), and x the most probable image under that density. The
    iteration contracts if D does.

    x is a data variable: what the data show is in it as it is, where ADMM gives the denoised
    side. At a constant sigma and the same alpha, :class:`~pnp_mlpatch.solvers.hqs.HQS` goes to
    D(x, sigma).

    References
    ----------
    Romano, Elad and Milanfar 2017; as a score, Reehorst and Schniter 2019.
    """

    state_type: ClassVar[type[State]] = REDState

    iterations: int = 50
    form: str = "fixed_point"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form not in ("fixed_point", "gradient"):
            raise InputError(f"RED: form must be 'fixed_point' or 'gradient', got {self.form!r}.")

    def init(self, problem: Problem, x0: Tensor) -> REDState:
        zero = x0.new_zeros(len(x0))
        norm2 = curvatures(problem.A, x0, "RED") if self.form == "gradient" else zero
        return REDState(x0, 0, ahead=x0, data_residual=zero, norm2=norm2)

    def advance(
        self, problem: Problem, denoise: Denoiser, state: REDState
    ) -> tuple[Tensor, REDState]:
        level, z = self.levels(problem, state), state.ahead
        d, alpha = denoise(z, level["sigma"]), level["alpha"]
        if self.form == "fixed_point":
            x, reached = self.data_step(problem, d, alpha, z)
            return x, replace(state, x=x, data_residual=reached)
        alpha = per_image(alpha, z, "RED: alpha")
        gradient = problem.A.normal(z) - problem.Aty + alpha * (z - d)
        x = z - gradient / (column(state.norm2) + alpha)
        return x, replace(state, x=x)


__all__ = ["RED", "REDState"]
