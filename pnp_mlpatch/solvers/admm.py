"""Plug-and-play ADMM."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.solvers import _anderson as anderson
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import (
    Problem,
    Solver,
    State,
    check_settings,
    data_step,
    register,
    weight_of,
)


@dataclass(frozen=True)
class ADMMState(State):
    """``x`` is the denoised variable v; ``f`` the data variable, ``u`` the scaled dual.

    ``start`` is where the next data step starts, ``data_residual`` (B,) what the last one reached; ``moved`` (B,) is |v_k - v_(k-1)|,
    ``scale`` (B,) by what sigma is multiplied where residuals are balanced.
    """

    f: Tensor
    u: Tensor
    start: Tensor
    data_residual: Tensor
    moved: Tensor | None = field(default=None, kw_only=True)
    scale: Tensor | None = field(default=None, kw_only=True)

    def measures(self) -> dict[str, float | Tensor]:
        found = super().measures() | {"data_residual": self.data_residual}
        if self.moved is None:
            return found
        tiny = torch.finfo(self.x.dtype).tiny
        size = torch.maximum(sizes(self.f), sizes(self.x)).clamp_min(tiny)
        return found | {
            "primal": sizes(self.f - self.x) / size,
            "dual": self.moved / sizes(self.u).clamp_min(tiny),
        }


@register("admm")
@dataclass(frozen=True)
class ADMM(Solver):
    r"""The alternating direction method of multipliers with a denoiser in place of the proximal map.

        f_k = h(v_{k-1} - u_{k-1}; alpha_k)        h(z; alpha) = (A^H A + alpha)^-1 (A^H q + alpha z)
        v_k = D(f_k + u_{k-1}, sigma_k)
        u_k = u_{k-1} + f_k - v_k                  alpha_k = factor (noise / sigma_k)^2

    started from v_0 = x0, u_0 = 0; the estimate is v. ``sigma`` is the level given to the denoiser, in the units of the
    image: a number, a sequence with one for each iteration (held at its last), or a tensor (B,) with one for each image. It
    acts like a step size sigma^2: the same denoiser at a larger sigma regularises more. ``factor`` is 1 by statistics, more for a stronger
    denoiser; ``alpha`` overrides the rule above.

    Where the data step has no closed form it runs ``data_iterations`` steps of preconditioned CG from f_{k-1} + (f_{k-1} - f_{k-2}) / 2, one
    more in each of the first three iterations, in which the start moves most, or fewer if the relative residual ``data_tol`` is
    reached; the history has the residual that was reached, ``data_residual``.

    The history has the residuals of Boyd et al., relative: "primal" |f - v| / max(|f|, |v|), "dual" |v_k - v_{k-1}| / |u|, and
    "fixed_point" |f_k - v_{k-1}| / |v_{k-1} + u_{k-1}|, by which z = v + u moves.

    ``anderson`` = m > 0 mixes the last m points (:mod:`~pnp_mlpatch.solvers._anderson`), for images that are to be exact; the fixed points
    are the same. Give a constant ``sigma`` then.

    ``balance`` = K > 0 balances those two in the first K iterations: where the primal residual is more than 10 times the dual one, sigma of that
    image is divided by sqrt(2), and the other way about, within 1/8 to 8 of what was given; u goes with sigma^2, as the scaled dual of the same multiplier. With
    the proximal map of a prior this changes the way and not the answer; other denoisers regularise by their sigma, so it
    chooses one (Boyd et al. 2011, 3.4.1; relative residuals, Wohlberg 2017).

    With the augmented Lagrangian |f - v + u|^2 the second line has a plus; the talk that the project starts from prints a minus.

    Boyd et al. 2011; Venkatakrishnan, Bouman, Wohlberg 2013.
    """

    state_type: ClassVar[type[State]] = ADMMState
    rising: ClassVar[bool] = True

    iterations: int = 20
    sigma: schedules.Schedule = 15 / 255
    alpha: float | Tensor | None = None
    factor: float | Tensor = 1.0
    tol: float = 1e-4
    data_iterations: int = 2
    data_tol: float = 1e-6
    anderson: int = 0
    balance: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.balance, bool) or not isinstance(self.balance, int) or self.balance < 0:
            raise InputError(
                f"ADMM: balance is for how many iterations residuals are balanced, an integer >= 0, got {self.balance!r}."
            )
        if self.balance and self.anderson:
            raise InputError(
                "ADMM: anderson mixes points of one iteration, and balance changes it. Take one of them."
            )
        check_settings(
            self,
            alpha=self.alpha,
            factor=self.factor,
            data_iterations=self.data_iterations,
            data_tol=self.data_tol,
        )
        anderson.check_depth(self.anderson, "ADMM")
        schedules.check_schedule(self.sigma, "ADMM: sigma")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        if self.balance and isinstance(state, ADMMState) and state.scale is not None:
            scale = state.scale.to(problem.q)
            alpha = None if self.alpha is None else self.alpha / scale**2
            return {
                "sigma": sigma * scale,
                "alpha": weight_of(problem, alpha, sigma * scale, "ADMM", self.factor),
            }
        return {"sigma": sigma, "alpha": weight_of(problem, self.alpha, sigma, "ADMM", self.factor)}

    def init(self, problem: Problem, x0: Tensor) -> ADMMState:
        memory, mixing = anderson.empty(x0, self.anderson)
        zero = x0.new_zeros(len(x0))
        return ADMMState(
            x=x0,
            iteration=0,
            f=x0,
            u=torch.zeros_like(x0),
            start=x0,
            data_residual=zero,
            moved=zero,
            scale=zero.double() + 1 if self.balance else None,
            memory=memory,
            mixing=mixing,
        )

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> ADMMState:
        assert isinstance(state, ADMMState)
        level = self.levels(problem, state)
        steps = anderson.steps(self.data_iterations, self.anderson) + (state.iteration < 3)
        f, reached = data_step(
            problem, state.x - state.u, level["alpha"], state.start, self.data_tol, steps
        )
        memory, mixing = (
            (state.memory, state.mixing) if state.iteration else (None, None)
        )  # x0 + 0 is no v + u with v = D(v + u)
        mixed = anderson.mix(state.x + state.u, f + state.u, memory, mixing)
        v = denoise(mixed.point, level["sigma"])
        new = ADMMState(
            x=v,
            iteration=state.iteration + 1,
            f=f,
            u=mixed.point - v,
            start=1.5 * f - 0.5 * state.f,
            data_residual=reached,
            moved=sizes(v - state.x),
            fixed_point=mixed.fixed_point
            if state.iteration
            else torch.full_like(mixed.fixed_point, torch.nan),
            memory=mixed.memory if state.iteration else state.memory,
            mixing=mixed.mixing if state.iteration else state.mixing,
            scale=state.scale,
        )
        return self._balanced(new) if 0 < state.iteration < self.balance else new

    def _balanced(self, state: ADMMState) -> ADMMState:
        """The state with sigma and u of the images whose residuals differ by more than ten times changed."""
        assert state.scale is not None
        found = state.measures()
        ratio = torch.as_tensor(found["primal"]).double() / torch.as_tensor(
            found["dual"]
        ).double().clamp_min(1e-30)
        change = torch.where(ratio > 10, 0.5**0.5, torch.where(ratio < 0.1, 2**0.5, 1.0))
        scale = (state.scale * change).clamp(1 / 8, 8)
        weight = ((scale / state.scale) ** 2).to(state.u).reshape(-1, 1, 1, 1)
        return replace(state, scale=scale, u=state.u * weight)


__all__ = ["ADMM", "ADMMState"]
