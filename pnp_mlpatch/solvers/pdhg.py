"""The plug-and-play primal-dual hybrid gradient method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, check_settings, register
from pnp_mlpatch.solvers._problem import Problem, curvatures, per_image, weight_of


@dataclass(frozen=True)
class PDHGState(State):
    """``x`` is the denoised variable, ``ahead`` its extrapolation, ``y`` (B, data) the dual, ``step_size`` (B,) its step s."""

    ahead: Tensor
    y: Tensor
    step_size: Tensor


@register("pdhg")
@dataclass(frozen=True)
class PDHG(Solver):
    r"""The primal-dual hybrid gradient method of Chambolle and Pock: the data term is dualised, so only A and A^H are needed.

        y_k = (y_{k-1} + s (A x'_{k-1} - q)) / (1 + s alpha_k)        s = 1 / |A|^2
        x_k = D(x_{k-1} - A^H y_k, sigma_k)                           alpha_k = alpha_scale (noise / sigma_k)^2
        x'_k = 2 x_k - x_{k-1}

    from x_0 = x'_0 = x0, y_0 = 0. It is the method for min_x max_y <A x, y> - F*(y) + sigma^2 R(x) with F(p) = |p - q|^2 / (2 alpha)
    and D the proximal map of sigma^2 R, so of step 1, which leaves s |A|^2 <= 1 for the dual's. At rest y = (A x - q) / alpha, and
    with u = -A^H y

        x = D(x + u, sigma)        A^H (A x - q) + alpha u = 0

    which are the fixed points of :class:`~pnp_mlpatch.solvers.admm.ADMM` at the same sigma and alpha. ``sigma`` and ``alpha`` are as there.

    For operators without a data step, or with a costly one, at a sigma of one's choice: PGD has to take sqrt(tau) noise for the same
    result. It converges if D is firmly nonexpansive (2 D - 1 nonexpansive); where A has small singular values it takes many iterations.

    Chambolle and Pock 2011; with a denoiser, Ono 2017.
    """

    state_type: ClassVar[type[State]] = PDHGState
    rising: ClassVar[bool] = True

    iterations: int = 100
    sigma: schedules.Schedule = 15 / 255
    alpha: float | Tensor | None = None
    alpha_scale: float | Tensor = 1.0
    tol: float = 1e-4

    def __post_init__(self) -> None:
        check_settings(self, alpha=self.alpha, alpha_scale=self.alpha_scale)
        schedules.check_schedule(self.sigma, "PDHG: sigma")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {
            "sigma": sigma,
            "alpha": weight_of(problem, self.alpha, sigma, "PDHG", self.alpha_scale),
        }

    def init(self, problem: Problem, x0: Tensor) -> PDHGState:
        size = 1 / curvatures(problem.A, x0, "PDHG")
        return PDHGState(x=x0, iteration=0, ahead=x0, y=torch.zeros_like(problem.q), step_size=size)

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> PDHGState:
        assert isinstance(state, PDHGState)
        level, s = self.levels(problem, state), per_image(state.step_size, problem.q, "PDHG: step")
        y = (state.y + s * (problem.A(state.ahead) - problem.q)) / (
            1 + s * per_image(level["alpha"], problem.q, "PDHG: alpha")
        )
        x = denoise(state.x - problem.A.adjoint(y), level["sigma"])
        return PDHGState(
            x=x,
            iteration=state.iteration + 1,
            ahead=2 * x - state.x,
            y=y,
            step_size=state.step_size,
        )


__all__ = ["PDHG", "PDHGState"]
