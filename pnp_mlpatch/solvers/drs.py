"""Plug-and-play Douglas-Rachford splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError
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
class DRSState(State):
    """``x`` is the denoised variable; ``f`` the data variable, ``z`` the point that is carried; ``data_residual`` as in ADMM."""

    f: Tensor
    z: Tensor
    data_residual: Tensor

    def measures(self) -> dict[str, float | Tensor]:
        return super().measures() | {"data_residual": self.data_residual}


@register("drs")
@dataclass(frozen=True)
class DRS(Solver):
    r"""Douglas-Rachford splitting: reflections about the data and about the denoiser in turn, over- or under-relaxed by ``lam``.

        f_k = h(2 x_{k-1} - z_{k-1}; alpha_k)        h(z; alpha) = (A^H A + alpha)^-1 (A^H q + alpha z)
        z_k = z_{k-1} + lam (f_k - x_{k-1})          0 < lam < 2
        x_k = D(z_k, sigma_k)                        alpha_k = factor (noise / sigma_k)^2

    from x_0 = z_0 = x0; the estimate is x. With lam = 1 it is :class:`~pnp_mlpatch.solvers.admm.ADMM`, iterate by iterate, in the
    variable z = f + u, u = z - x. The fixed points are those of ADMM for every lam:

        x = D(x + u, sigma)        A^H (A x - q) + alpha u = 0

    In z the step is z + lam/2 (R_h R_D z - z) with the reflections R_h = 2 h - 1, which is nonexpansive, and R_D = 2 D - 1: it
    converges, for lam in (0, 2), if R_D is nonexpansive too (:func:`pnp_mlpatch.convergence.expansion` measures it). lam = 1.5 often
    saves a third of the iterations; lam < 1 damps one that swings. The other settings are those of ADMM, whose data step it has.

    ``anderson`` = m > 0 mixes the last m points (:mod:`~pnp_mlpatch.solvers._anderson`), for images that are to be exact; the fixed points
    are the same. Give a constant ``sigma`` then.

    Douglas and Rachford 1956; Lions and Mercier 1979; relaxed, Eckstein and Bertsekas 1992; plug-and-play, Buzzard et al. 2018.
    """

    state_type: ClassVar[type[State]] = DRSState
    rising: ClassVar[bool] = True

    iterations: int = 20
    sigma: schedules.Schedule = 15 / 255
    alpha: float | Tensor | None = None
    factor: float | Tensor = 1.0
    lam: float = 1.0
    tol: float = 1e-4
    data_iterations: int = 2
    data_tol: float = 1e-6
    anderson: int = 0

    def __post_init__(self) -> None:
        check_settings(
            self,
            alpha=self.alpha,
            factor=self.factor,
            data_iterations=self.data_iterations,
            data_tol=self.data_tol,
        )
        anderson.check_depth(self.anderson, "DRS")
        schedules.check_schedule(self.sigma, "DRS: sigma")
        if not finite_number(self.lam) or not 0 < self.lam < 2:
            raise InputError(f"DRS: lam must be a number in (0, 2), got {self.lam!r}.")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {"sigma": sigma, "alpha": weight_of(problem, self.alpha, sigma, "DRS", self.factor)}

    def init(self, problem: Problem, x0: Tensor) -> DRSState:
        memory, mixing = anderson.empty(x0, self.anderson)
        return DRSState(
            x=x0,
            iteration=0,
            f=x0,
            z=x0,
            data_residual=x0.new_zeros(len(x0)),
            memory=memory,
            mixing=mixing,
        )

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> DRSState:
        assert isinstance(state, DRSState)
        level = self.levels(problem, state)
        f, reached = data_step(
            problem,
            2 * state.x - state.z,
            level["alpha"],
            state.f,
            self.data_tol,
            anderson.steps(self.data_iterations, self.anderson),
        )
        memory, mixing = (
            (state.memory, state.mixing) if state.iteration else (None, None)
        )  # x0 is not D(z0)
        mixed = anderson.mix(state.z, state.z + self.lam * (f - state.x), memory, mixing)
        return DRSState(
            x=denoise(mixed.point, level["sigma"]),
            iteration=state.iteration + 1,
            f=f,
            z=mixed.point,
            data_residual=reached,
            fixed_point=mixed.fixed_point
            if state.iteration
            else torch.full_like(mixed.fixed_point, torch.nan),
            memory=mixed.memory if state.iteration else state.memory,
            mixing=mixed.mixing if state.iteration else state.mixing,
        )


__all__ = ["DRS", "DRSState"]
