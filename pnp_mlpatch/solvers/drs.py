"""Plug-and-play Douglas-Rachford splitting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._fixed_point import FixedPoint, FixedPointState
from pnp_mlpatch.solvers._problem import Problem
from pnp_mlpatch.solvers._splitting import Splitting, SplittingState


@dataclass(frozen=True)
class DRSState(SplittingState, FixedPointState):
    """State of DRS: x is the denoised variable.

    Parameters
    ----------
    f : Tensor, shape (B, C, H, W)
        The data variable.
    z : Tensor, shape (B, C, H, W)
        The point that is carried.
    """

    f: Tensor
    z: Tensor


@register("drs")
@dataclass(frozen=True)
class DRS(Splitting[DRSState], FixedPoint[DRSState]):
    r"""Douglas-Rachford splitting with over- or under-relaxation.

    From :math:`x_0 = z_0`, the start, with :math:`0 < \lambda < 2` for ``relaxation`` and the
    estimate x,

    .. math::

        f_k &= h(2 x_{k-1} - z_{k-1}; \alpha_k), \qquad
            h(z; \alpha) = (A^H A + \alpha)^{-1} (A^H q + \alpha z) \\
        z_k &= z_{k-1} + \lambda (f_k - x_{k-1}) \\
        x_k &= D(z_k, \sigma_k), \qquad
            \alpha_k = \text{alpha\_scale} \, (\text{noise} / \sigma_k)^2

    Parameters
    ----------
    iterations, sigma, alpha, alpha_scale, tol, data_iterations, data_tol
        As for :class:`~pnp_mlpatch.solvers.admm.ADMM`.
    relaxation : float
        :math:`\lambda`, between 0 and 2. 1.5 often saves a third of the iterations; less than 1
        damps an iteration that oscillates.

    Notes
    -----
    With :math:`\lambda = 1` it is ADMM, iterate by iterate, in the variable z = f + u, u = z - x.
    The fixed points are those of ADMM for every :math:`\lambda`:

    .. math:: x = D(x + u, \sigma), \qquad A^H (A x - q) + \alpha u = 0

    In z the step is :math:`z + \lambda/2 \, (R_h R_D z - z)` with the reflections :math:`R_h = 2
    h - 1`, which is nonexpansive, and :math:`R_D = 2 D - 1`. It converges if :math:`R_D` is
    nonexpansive too (:func:`pnp_mlpatch.convergence.expansion` measures it).

    References
    ----------
    Douglas and Rachford 1956; Lions and Mercier 1979; relaxed, Eckstein and Bertsekas 1992;
    plug-and-play, Buzzard et al. 2018.
    """

    state_type: ClassVar[type[State]] = DRSState
    warm_up: ClassVar[int] = 1  # the start x is not D(z)

    relaxation: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not finite_number(self.relaxation) or not 0 < self.relaxation < 2:
            raise InputError(
                f"DRS: relaxation must be a number in (0, 2), got {self.relaxation!r}."
            )

    def init(self, problem: Problem, x0: Tensor) -> DRSState:
        return DRSState(x0, 0, x0.new_zeros(len(x0)), f=x0, z=x0)

    def point(self, state: DRSState) -> Tensor:
        return state.z

    def advance(
        self, problem: Problem, denoise: Denoiser, state: DRSState
    ) -> tuple[Tensor, DRSState]:
        alpha = self.levels(problem, state)["alpha"]
        f, reached = self.data_step(problem, 2 * state.x - state.z, alpha, state.f)
        z = state.z + self.relaxation * (f - state.x)
        return z, replace(state, f=f, data_residual=reached)

    def settle(
        self, problem: Problem, denoise: Denoiser, state: DRSState, point: Tensor
    ) -> DRSState:
        x = denoise(point, self.levels(problem, state)["sigma"])
        return replace(state, x=x, iteration=state.iteration + 1, z=point)


__all__ = ["DRS", "DRSState"]
