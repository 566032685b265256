"""Plug-and-play half-quadratic splitting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers import _anderson as anderson
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import (
    Problem,
    Solver,
    State,
    check_settings,
    data_step,
    noise_in_start,
    register,
    weight_of,
)


@dataclass(frozen=True)
class HQSState(State):
    """``x`` is the denoised variable, ``ahead`` where the next step starts (x, unless points are mixed); ``f`` the data variable;
    ``data_residual`` (B,) what the data step reached; ``noise`` (B,) what the noise is in the start, where the schedule is made from it."""

    ahead: Tensor
    f: Tensor
    data_residual: Tensor
    noise: Tensor | None = None

    def measures(self) -> dict[str, float | Tensor]:
        return super().measures() | {"data_residual": self.data_residual}


@register("hqs")
@dataclass(frozen=True)
class HQS(Solver):
    r"""Half-quadratic splitting: ADMM without the dual, so the noise level has to fall over the iterations.

        f_k = h(x_{k-1}; alpha_k)        h(z; alpha) = (A^H A + alpha)^-1 (A^H q + alpha z)
        x_k = D(f_k, sigma_k)            alpha_k = lam (noise / sigma_k)^2

    ``sigma`` is a number, a sequence with one level for each iteration (held at its last), or a tensor (B,) with one for each
    image; ``None`` is the schedule of DPIR over ``iterations``, one for each image, from 49/255 down to the noise level
    (:func:`~pnp_mlpatch.solvers._schedules.dpir`): that of the image, which is the root mean square of what noise like that of the data becomes in
    ``A.initial``. ``lam`` = 0.23 is DPIR's. ``alpha`` overrides the rule above.
    ``data_iterations`` and ``data_tol`` are those of :class:`~pnp_mlpatch.solvers.admm.ADMM`.

    ``anderson`` = m > 0 mixes the last m points (:mod:`~pnp_mlpatch.solvers._anderson`), for images that are to be exact; the fixed points
    are the same. Give a constant ``sigma`` then.

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
    anderson: int = 0

    def __post_init__(self) -> None:
        anderson.check_depth(self.anderson, "HQS")
        check_settings(
            self,
            alpha=self.alpha,
            lam=self.lam,
            data_iterations=self.data_iterations,
            data_tol=self.data_tol,
        )
        if self.sigma is not None:
            schedules.check_schedule(self.sigma, "HQS: sigma")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = (
            self._sigma(state)
            if self.sigma is None
            else schedules.level(self.sigma, state.iteration)
        )
        alpha = weight_of(problem, self.alpha, sigma, "HQS", self.lam)
        return {"sigma": sigma, "alpha": alpha}

    def _sigma(self, state: State) -> Tensor:
        """The level of each image (B,) in its schedule."""
        assert isinstance(state, HQSState)
        assert state.noise is not None
        made = [schedules.dpir(float(noise), self.iterations) for noise in state.noise]
        return state.noise.new_tensor([schedules.level(one, state.iteration) for one in made])

    def init(self, problem: Problem, x0: Tensor) -> HQSState:
        memory, mixing = anderson.empty(x0, self.anderson)
        noise = (
            noise_in_start(problem, "HQS (or give sigma and alpha)") if self.sigma is None else None
        )
        zero = x0.new_zeros(len(x0))
        return HQSState(
            x=x0,
            iteration=0,
            ahead=x0,
            f=x0,
            data_residual=zero,
            noise=noise,
            memory=memory,
            mixing=mixing,
        )

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> HQSState:
        assert isinstance(state, HQSState)
        level = self.levels(problem, state)
        f, reached = data_step(
            problem,
            state.ahead,
            level["alpha"],
            state.f,
            self.data_tol,
            anderson.steps(self.data_iterations, self.anderson),
        )
        x = denoise(f, level["sigma"])
        mixed = anderson.mix(state.ahead, x, state.memory, state.mixing)
        return HQSState(
            x=x,
            iteration=state.iteration + 1,
            ahead=mixed.point,
            f=f,
            data_residual=reached,
            noise=state.noise,
            fixed_point=mixed.fixed_point,
            memory=mixed.memory,
            mixing=mixed.mixing,
        )
