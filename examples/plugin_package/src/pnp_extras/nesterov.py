"""Plug-and-play proximal gradient descent with Nesterov's momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers import Problem, Solver, State, check_settings
from pnp_mlpatch.solvers._schedules import Schedule, check_schedule, level


@dataclass(frozen=True)
class NesterovState(State):
    """``x`` is x_k, ``before`` is x_{k-1}, ``t`` is t_k; ``tau`` is the step size."""

    before: Tensor
    t: float
    tau: float


@dataclass(frozen=True)
class Nesterov(Solver):
    """Proximal gradient descent with Nesterov's momentum; a denoiser is the proximal map.

        t_k = (1 + sqrt(1 + 4 t_{k-1}^2)) / 2
        y_k = x_{k-1} + (t_{k-1} - 1) / t_k (x_{k-1} - x_{k-2})
        x_k = D( y_k - tau A^T (A y_k - q), sigma_k )                 tau <= 1 / |A|^2

    started from x_0 = x_{-1} = x0, t_0 = 1. ``tau`` is the step size; ``None`` takes 1 / |A|^2,
    with the norm from a power iteration. ``sigma`` is the level given to the denoiser: a number, a
    sequence with one for each iteration, or a tensor (B,) with one for each image; ``None`` takes
    sqrt(tau) noise.

    Convergence is proved for proximal maps. With other denoisers momentum may carry the estimate
    past its best: keep ``iterations`` small, as here, or take ``pgd``, or ``fista``, whose momentum
    restarts.

    Beck and Teboulle 2009; Kamilov, Mansour, Wohlberg 2017.
    """

    state_type: ClassVar[type[State]] = NesterovState
    rising: ClassVar[bool] = True  # sigma may be a schedule, so the search may choose it

    iterations: int = 20
    sigma: Schedule | None = None
    tau: float | None = None
    tol: float = 1e-4

    def __post_init__(self) -> None:
        check_settings(self, tau=self.tau)
        if self.sigma is not None:
            check_schedule(self.sigma, "Nesterov: sigma")

    def init(self, problem: Problem, x0: Tensor) -> NesterovState:
        tau = 1 / max(1.001 * problem.A.norm() ** 2, 1e-30) if self.tau is None else float(self.tau)
        return NesterovState(x=x0, iteration=0, before=x0, t=1.0, tau=tau)

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        assert isinstance(state, NesterovState)
        if self.sigma is None:
            return {
                "sigma": state.tau**0.5 * problem.known_noise("Nesterov (or give sigma)"),
                "tau": state.tau,
            }
        return {"sigma": level(self.sigma, state.iteration), "tau": state.tau}

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> NesterovState:
        assert isinstance(state, NesterovState)
        t = (1 + (1 + 4 * state.t**2) ** 0.5) / 2
        y = state.x + (state.t - 1) / t * (state.x - state.before)
        gradient = problem.A.normal(y) - problem.Aty
        x = denoise(y - state.tau * gradient, self.levels(problem, state)["sigma"])
        return NesterovState(x=x, iteration=state.iteration + 1, before=state.x, t=t, tau=state.tau)
