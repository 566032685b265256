"""Plug-and-play ADMM with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import (
    Problem,
    Solver,
    State,
    check_settings,
    column,
    data_step,
    register,
    weight_of,
)

KEEP = 0.999**0.5  # a step is kept if it makes the combined residual smaller by this


@dataclass(frozen=True)
class FastADMMState(State):
    """``x`` is the denoised variable v; ``f`` the data variable, ``u`` the scaled dual; ``ahead`` and ``dual_ahead`` v and u carried on.

    ``weight`` (B, 1, 1, 1) is the momentum's t_k, ``change`` (B, 1, 1, 1) the combined residual of the last step that was kept,
    ``moved`` that of the last step.
    """

    f: Tensor
    u: Tensor
    ahead: Tensor
    dual_ahead: Tensor
    weight: Tensor
    change: Tensor
    moved: Tensor
    data_residual: Tensor

    def measures(self) -> dict[str, float | Tensor]:
        return super().measures() | {"data_residual": self.data_residual}


@register("fast_admm")
@dataclass(frozen=True)
class FastADMM(Solver):
    r"""ADMM with Nesterov's momentum and restarts, for problems whose slow parts the data do not see: limited angles, wide gaps.

        f_k = h(v'_{k-1} - u'_{k-1}; alpha_k)        h(z; alpha) = (A^H A + alpha)^-1 (A^H q + alpha z)
        v_k = D(f_k + u'_{k-1}, sigma_k)
        u_k = u'_{k-1} + f_k - v_k                    alpha_k = factor (noise / sigma_k)^2
        (v', u')_k = (v, u)_k + (t_k - 1) / t_{k+1} ((v, u)_k - (v, u)_{k-1})        t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2

    as long as |u_k - u'_{k-1}|^2 + |v_k - v'_{k-1}|^2 falls; an image for which it does not goes back to the step before, with
    t = 1. The fixed points are those of :class:`~pnp_mlpatch.solvers.admm.ADMM`, and so are the settings.

    Goldstein, O'Donoghue, Setzer and Baraniuk 2014.
    """

    state_type: ClassVar[type[State]] = FastADMMState
    rising: ClassVar[bool] = True

    iterations: int = 20
    sigma: schedules.Schedule = 15 / 255
    alpha: float | Tensor | None = None
    factor: float | Tensor = 1.0
    tol: float = 1e-4
    data_iterations: int = 2
    data_tol: float = 1e-6

    def __post_init__(self) -> None:
        check_settings(
            self,
            alpha=self.alpha,
            factor=self.factor,
            data_iterations=self.data_iterations,
            data_tol=self.data_tol,
        )
        schedules.check_schedule(self.sigma, "FastADMM: sigma")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {
            "sigma": sigma,
            "alpha": weight_of(problem, self.alpha, sigma, "FastADMM", self.factor),
        }

    def init(self, problem: Problem, x0: Tensor) -> FastADMMState:
        zero, one = torch.zeros_like(x0), x0.new_ones(len(x0), 1, 1, 1)
        return FastADMMState(
            x=x0,
            iteration=0,
            f=x0,
            u=zero,
            ahead=x0,
            dual_ahead=zero,
            weight=one,
            change=one * torch.inf,
            moved=one * torch.inf,
            data_residual=x0.new_zeros(len(x0)),
        )

    def residuals(self, old: State, new: State) -> Tensor:
        """Relative change of the estimates, and at least a tenth of that of (v, u), by which steps are kept."""
        assert isinstance(new, FastADMMState)
        size = sizes(new.x).clamp_min(torch.finfo(new.x.dtype).tiny)
        return torch.maximum(super().residuals(old, new), 0.1 * new.moved.detach().flatten() / size)

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> FastADMMState:
        assert isinstance(state, FastADMMState)
        level = self.levels(problem, state)
        z = state.ahead - state.dual_ahead
        f, reached = data_step(
            problem, z, level["alpha"], state.f, self.data_tol, self.data_iterations
        )
        v = denoise(f + state.dual_ahead, level["sigma"])
        u = state.dual_ahead + f - v
        difference = torch.cat([u - state.dual_ahead, v - state.ahead], dim=1)
        change = column(sizes(difference))
        goes_on = change < KEEP * state.change
        weight = torch.where(
            goes_on, (1 + torch.sqrt(1 + 4 * state.weight**2)) / 2, torch.ones_like(change)
        )
        push = torch.where(goes_on, (state.weight - 1) / weight, torch.zeros_like(change))
        return FastADMMState(
            x=v,
            iteration=state.iteration + 1,
            f=f,
            u=u,
            ahead=torch.where(goes_on, v + push * (v - state.x), state.x),
            dual_ahead=torch.where(goes_on, u + push * (u - state.u), state.u),
            weight=weight,
            change=torch.where(goes_on, change, state.change / KEEP),
            moved=change,
            data_residual=reached,
        )


__all__ = ["FastADMM", "FastADMMState"]
