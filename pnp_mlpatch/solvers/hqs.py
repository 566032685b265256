"""Plug-and-play half-quadratic splitting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._fixed_point import EstimateIteration, EstimateState
from pnp_mlpatch.solvers._problem import Problem, noise_in_start
from pnp_mlpatch.solvers._splitting import Splitting, SplittingState


@dataclass(frozen=True)
class HQSState(SplittingState, EstimateState):
    """State of HQS: x is the denoised variable.

    Parameters
    ----------
    f : Tensor, shape (B, C, H, W)
        The data variable.
    noise : Tensor of shape (B,), or None
        Noise in the start, where the schedule is made from it. It is on the CPU, so that its levels
        do not make anyone wait for a GPU.
    """

    f: Tensor
    noise: Tensor | None = None


@register("hqs")
@dataclass(frozen=True)
class HQS(Splitting[HQSState], EstimateIteration[HQSState]):
    r"""Half-quadratic splitting: ADMM without the dual, so the noise level has to fall.

    .. math::

        f_k &= h(x_{k-1}; \alpha_k), \qquad
            h(z; \alpha) = (A^H A + \alpha)^{-1} (A^H q + \alpha z) \\
        x_k &= D(f_k, \sigma_k), \qquad
            \alpha_k = \text{alpha\_scale} \, (\text{noise} / \sigma_k)^2

    Parameters
    ----------
    iterations : int
        Number of steps at most.
    sigma : float, sequence of float, Tensor of shape (B,) or (K, B), or None
        Level given to the denoiser, as for :class:`~pnp_mlpatch.solvers.admm.ADMM`. None is the
        schedule of DPIR over ``iterations``, one for each image, from 49/255 down to the noise in
        the image (:func:`~pnp_mlpatch.solvers._schedules.dpir`): the root mean square of what
        noise like that of the data becomes in ``A.initial``.
    alpha : float, Tensor of shape (B,), or None
        Weight of the data step, in place of the rule above.
    alpha_scale : float or Tensor, shape (B,)
        Factor of that rule; 0.23 is that of DPIR.
    tol : float
        Relative change below which an image has converged; 0 for none.
    data_iterations, data_tol
        As for ADMM.

    References
    ----------
    Geman and Yang 1995; Zhang et al. 2021 (DPIR).
    """

    state_type: ClassVar[type[State]] = HQSState
    rising: ClassVar[bool] = False

    iterations: int = 8
    sigma: schedules.Schedule | None = None
    alpha_scale: float | Tensor = 0.23
    tol: float = 0.0
    data_iterations: int = 10

    def level(self, state: HQSState) -> schedules.Level:
        if self.sigma is not None:
            return super().level(state)
        assert state.noise is not None
        made = [schedules.dpir(noise, self.iterations) for noise in state.noise.tolist()]
        return state.noise.new_tensor([schedules.level(one, state.iteration) for one in made])

    def init(self, problem: Problem, x0: Tensor) -> HQSState:
        who = "HQS (or give sigma and alpha)"
        noise = noise_in_start(problem, who).cpu() if self.sigma is None else None
        exact = x0.new_zeros(len(x0))
        return HQSState(x0, 0, ahead=x0, data_residual=exact, f=x0, noise=noise)

    def advance(
        self, problem: Problem, denoise: Denoiser, state: HQSState
    ) -> tuple[Tensor, HQSState]:
        level = self.levels(problem, state)
        f, reached = self.data_step(problem, state.ahead, level["alpha"], state.f)
        x = denoise(f, level["sigma"])
        return x, replace(state, x=x, f=f, data_residual=reached)
