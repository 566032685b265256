"""Plug-and-play FISTA: accelerated proximal gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputTypeError
from pnp_mlpatch.linalg import dot, power_of_two, sizes
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, check_settings, register
from pnp_mlpatch.solvers._problem import Problem, column, curvatures


@dataclass(frozen=True)
class FISTAState(State):
    """``x`` is the denoised variable, ``ahead`` the point y of the next step, ``weight`` (B, 1, 1, 1) its t, ``tau`` (B,) the step size."""

    ahead: Tensor
    weight: Tensor
    tau: Tensor


@register("fista")
@dataclass(frozen=True)
class FISTA(Solver):
    r"""Proximal gradient descent with momentum, which restarts for each image by itself, and a denoiser for the proximal map.

        x_k = D( y_{k-1} - tau A^H (A y_{k-1} - q), sigma_k )                                tau <= 1 / |A|^2
        y_k = x_k + (t_{k-1} - 1) / t_k (x_k - x_{k-1})        t_k = (1 + sqrt(1 + 4 t_{k-1}^2)) / 2

    from y_0 = x0, t_0 = 1; where <y_{k-1} - x_k, x_k - x_{k-1}> > 0 the momentum points uphill, and t_k = 1, y_k = x_k. The fixed
    points are those of :class:`~pnp_mlpatch.solvers.pgd.PGD`, and so are ``sigma`` (``None``: sqrt(tau) noise, the level at which D is
    the proximal map of the prior that ADMM has) and ``tau`` (``None``: 1 / |A|^2).

    For operators without a data step, where PGD takes too many iterations. With exact proximal maps the objective falls as 1 / k^2;
    with other denoisers nothing is proved, and PGD is the safer choice.

    Beck and Teboulle 2009; restarts, O'Donoghue and Candes 2015.
    """

    state_type: ClassVar[type[State]] = FISTAState
    rising: ClassVar[bool] = True

    iterations: int = 100
    sigma: schedules.Schedule | None = None
    tau: float | None = None
    tol: float = 1e-4

    def __post_init__(self) -> None:
        check_settings(self, tau=self.tau)
        if self.tau is not None and not finite_number(self.tau):
            raise InputTypeError(f"FISTA: tau must be one number, got {self.tau!r}.")
        if self.sigma is not None:
            schedules.check_schedule(self.sigma, "FISTA: sigma")

    def init(self, problem: Problem, x0: Tensor) -> FISTAState:
        tau = (
            1 / curvatures(problem.A, x0, "FISTA")
            if self.tau is None
            else x0.new_full((len(x0),), float(self.tau))
        )
        return FISTAState(
            x=x0, iteration=0, ahead=x0, weight=x0.new_ones(len(x0), 1, 1, 1), tau=tau
        )

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        assert isinstance(state, FISTAState)
        if self.sigma is None:
            return {
                "sigma": state.tau**0.5 * problem.known_noise("FISTA (or give sigma)"),
                "tau": state.tau,
            }
        return {"sigma": schedules.level(self.sigma, state.iteration), "tau": state.tau}

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> FISTAState:
        assert isinstance(state, FISTAState)
        y = state.ahead
        x = denoise(
            y - column(state.tau) * (problem.A.normal(y) - problem.Aty),
            self.levels(problem, state)["sigma"],
        )
        moved = x - state.x
        unit = column(power_of_two(sizes(moved)))  # the product stays in the range of float32
        uphill = dot((y - x) / unit, moved / unit) > 0
        weight = torch.where(
            uphill, torch.ones_like(state.weight), (1 + torch.sqrt(1 + 4 * state.weight**2)) / 2
        )
        ahead = torch.where(uphill, x, x + (state.weight - 1) / weight * moved)
        return FISTAState(
            x=x, iteration=state.iteration + 1, ahead=ahead, weight=weight, tau=state.tau
        )


__all__ = ["FISTA", "FISTAState"]
