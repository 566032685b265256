"""Plug-and-play half-quadratic splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers.base import Denoiser
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.solvers.base import Problem, Solver, State, check_settings, data_step, register


@dataclass(frozen=True)
class HQSState(State):
    """``x`` is the denoised variable; ``f`` the data variable; ``data_residual`` (B,) what the data step reached."""

    f: Tensor
    data_residual: Tensor

    def measures(self) -> dict[str, float | Tensor]:
        return {"data_residual": self.data_residual.max()}


@register("hqs")
@dataclass(frozen=True)
class HQS(Solver):
    r"""Half-quadratic splitting: ADMM without the dual, so the noise level has to fall over the iterations.

        f_k = h(x_{k-1}; alpha_k)        h(z; alpha) = (A^H A + alpha)^-1 (A^H q + alpha z)
        x_k = D(f_k, sigma_k)            alpha_k = lam (noise / sigma_k)^2

    ``sigma`` is a number, a sequence with one level for each iteration (held at its last), or a tensor (B,) with one for each
    image; ``None`` is the schedule of DPIR over ``iterations``, from 49/255 down to the noise level
    (:func:`~pnp_mlpatch.solvers.schedules.dpir`). ``lam`` = 0.23 is DPIR's. ``alpha`` overrides the rule above.
    ``data_iterations`` and ``data_tol`` are those of :class:`~pnp_mlpatch.solvers.admm.ADMM`.

    Geman and Yang 1995; Zhang et al. 2021 (DPIR).
    """

    state_type: ClassVar[type[State]] = HQSState

    iterations: int = 8
    sigma: schedules.Schedule | None = None
    alpha: float | Tensor | None = None
    lam: float = 0.23
    tol: float = 0.0
    data_iterations: int = 10
    data_tol: float = 1e-6

    def __post_init__(self) -> None:
        check_settings(self, alpha=self.alpha, lam=self.lam, data_iterations=self.data_iterations, data_tol=self.data_tol)
        if self.sigma is not None:
            schedules.check_schedule(self.sigma, "HQS: sigma")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        if self.sigma is None:
            noise = problem.known_noise("HQS (or give sigma and alpha)")
            schedule: schedules.Schedule = schedules.dpir(float(torch.as_tensor(noise).min()), self.iterations)
        else:
            schedule = self.sigma
        sigma = schedules.level(schedule, state.iteration)
        alpha = self.lam * (problem.known_noise("HQS (or give alpha)") / sigma) ** 2 if self.alpha is None else self.alpha
        return {"sigma": sigma, "alpha": alpha}

    def init(self, problem: Problem, x0: Tensor) -> HQSState:
        return HQSState(x=x0, iteration=0, f=x0, data_residual=x0.new_zeros(len(x0)))

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> HQSState:
        assert isinstance(state, HQSState)
        level = self.levels(problem, state)
        f, reached = data_step(problem, state.x, level["alpha"], state.f, self.data_tol, self.data_iterations)
        return HQSState(x=denoise(f, level["sigma"]), iteration=state.iteration + 1, f=f, data_residual=reached)
