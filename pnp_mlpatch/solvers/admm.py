"""Plug-and-play ADMM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers.base import Denoiser
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.solvers.base import Problem, Solver, State, check_settings, data_step, register, weight_of


@dataclass(frozen=True)
class ADMMState(State):
    """``x`` is the denoised variable v; ``f`` the data variable, ``u`` the scaled dual.

    ``start`` is where the next data step starts, ``data_residual`` (B,) what the last one reached.
    """

    f: Tensor
    u: Tensor
    start: Tensor
    data_residual: Tensor

    def measures(self) -> dict[str, float | Tensor]:
        return {"data_residual": self.data_residual.max()}


@register("admm")
@dataclass(frozen=True)
class ADMM(Solver):
    r"""The alternating direction method of multipliers with a denoiser in place of the proximal map.

        f_k = h(v_{k-1} - u_{k-1}; alpha_k)        h(z; alpha) = (A^H A + alpha)^-1 (A^H q + alpha z)
        v_k = D(f_k + u_{k-1}, sigma_k)
        u_k = u_{k-1} + f_k - v_k                  alpha_k = (noise / sigma_k)^2

    started from v_0 = x0, u_0 = 0; the estimate is v. ``sigma`` is the level given to the denoiser, in the units of the
    image: a number, a sequence with one for each iteration (held at its last), or a tensor (B,) with one for each image. It
    acts like a step size sigma^2: the same denoiser at a larger sigma regularises more. ``alpha`` overrides the rule above.

    Where the data step has no closed form it runs ``data_iterations`` steps of preconditioned CG from f_{k-1} + (f_{k-1} - f_{k-2}) / 2, one
    more in each of the first three iterations, in which the start moves most, or fewer if the relative residual ``data_tol`` is
    reached; the history has the residual that was reached, ``data_residual``.

    With the augmented Lagrangian |f - v + u|^2 the second line has a plus; the talk that the project starts from prints a minus.

    Boyd et al. 2011; Venkatakrishnan, Bouman, Wohlberg 2013.
    """

    state_type: ClassVar[type[State]] = ADMMState

    iterations: int = 20
    sigma: schedules.Schedule = 15 / 255
    alpha: float | Tensor | None = None
    tol: float = 1e-4
    data_iterations: int = 2
    data_tol: float = 1e-6

    def __post_init__(self) -> None:
        check_settings(self, alpha=self.alpha, data_iterations=self.data_iterations, data_tol=self.data_tol)
        schedules.check_schedule(self.sigma, "ADMM: sigma")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {"sigma": sigma, "alpha": weight_of(problem, self.alpha, sigma, "ADMM")}

    def init(self, problem: Problem, x0: Tensor) -> ADMMState:
        return ADMMState(x=x0, iteration=0, f=x0, u=torch.zeros_like(x0), start=x0, data_residual=x0.new_zeros(len(x0)))

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> ADMMState:
        assert isinstance(state, ADMMState)
        level = self.levels(problem, state)
        steps = self.data_iterations + (state.iteration < 3)
        f, reached = data_step(problem, state.x - state.u, level["alpha"], state.start, self.data_tol, steps)
        v = denoise(f + state.u, level["sigma"])
        return ADMMState(x=v, iteration=state.iteration + 1, f=f, u=state.u + f - v, start=1.5 * f - 0.5 * state.f, data_residual=reached)


__all__ = ["ADMM", "ADMMState"]
