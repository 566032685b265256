"""Plug-and-play proximal gradient descent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputTypeError
from pnp_mlpatch.solvers import _anderson as anderson
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import (
    Problem,
    Solver,
    State,
    check_settings,
    column,
    curvatures,
    register,
)


@dataclass(frozen=True)
class PGDState(State):
    """``x`` is the denoised variable, ``ahead`` where the next step starts (x, unless points are mixed); ``tau`` (B,) the step size."""

    ahead: Tensor
    tau: Tensor


@register("pgd")
@dataclass(frozen=True)
class PGD(Solver):
    r"""Proximal gradient descent with a denoiser in place of the proximal map.

        x_k = D( x_{k-1} - tau A^H (A x_{k-1} - q), sigma_k )        tau < 2 / |A|^2

    ``tau`` is the step size; ``None`` takes 1 / |A|^2, one for each image if these have noise maps of their own. ``sigma`` is the level given to
    the denoiser: a number, a sequence with one for each iteration, or a tensor (B,) with one for each image; ``None`` takes
    sqrt(tau) noise, the level at which D is the proximal map of the same prior that ADMM at any sigma has. A larger sigma
    regularises more.

    Needs no data step, so it serves every operator; it takes more iterations than ADMM where A is ill-conditioned.

    ``white = True`` weighs the data by the inverse standard deviation of their noise s, in place of the inverse variance,

        x_k = D( x_{k-1} + tau A^H s^-1 (q - A x_{k-1}), tau )        tau < 2 / |s^-1/2 A|^2

    With a unitary A (weak lensing) the noise that a step carries into the estimate is then white, of standard deviation tau, whatever
    the noise map: what D was trained for. ``sigma`` is tau unless it is given, ``tau`` by default 1 / |s^-1/2 A|^2, the smallest noise.

    ``anderson`` = m > 0 mixes the last m points (:mod:`~pnp_mlpatch.solvers._anderson`), for images that are to be exact; the fixed points
    are the same. Give a constant ``sigma`` then.

    Kamilov, Mansour, Wohlberg 2017. White: PnPMass, 2026, arXiv 2603.22006.
    """

    state_type: ClassVar[type[State]] = PGDState
    rising: ClassVar[bool] = True

    iterations: int = 100
    sigma: schedules.Schedule | None = None
    tau: float | None = None
    tol: float = 1e-4
    white: bool = False
    anderson: int = 0

    def __post_init__(self) -> None:
        check_settings(self, tau=self.tau)
        anderson.check_depth(self.anderson, "PGD")
        if self.tau is not None and not finite_number(self.tau):
            raise InputTypeError(f"PGD: tau must be one number, got {self.tau!r}.")
        if not isinstance(self.white, bool):
            raise InputTypeError(f"PGD: white must be True or False, got {self.white!r}.")
        if self.sigma is not None:
            schedules.check_schedule(self.sigma, "PGD: sigma")

    def init(self, problem: Problem, x0: Tensor) -> PGDState:
        memory, mixing = anderson.empty(x0, self.anderson)
        return PGDState(
            x=x0,
            iteration=0,
            ahead=x0,
            tau=self._step_size(problem, x0),
            memory=memory,
            mixing=mixing,
        )

    def _step_size(self, problem: Problem, x0: Tensor) -> Tensor:
        if self.tau is not None:
            return x0.new_full((len(x0),), float(self.tau))
        A, noise = problem.A, problem.known_noise("PGD (white)") if self.white else 1.0
        if self.white and problem.noise_map is not None:
            A, noise = A.weighted(problem.noise_map.sqrt() / noise), 1.0
        return torch.as_tensor(noise).to(x0) / curvatures(A, x0, "PGD")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        assert isinstance(state, PGDState)
        if self.sigma is None:
            noise = 1.0 if self.white else problem.known_noise("PGD (or give sigma)")
            return {
                "sigma": (state.tau if self.white else state.tau**0.5) * noise,
                "tau": state.tau,
            }
        return {"sigma": schedules.level(self.sigma, state.iteration), "tau": state.tau}

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> PGDState:
        assert isinstance(state, PGDState)
        z = state.ahead
        if not self.white:
            gradient = problem.A.normal(z) - problem.Aty
        elif (
            problem.noise_map is not None
        ):  # A and q are divided by the map already, once more than here
            weight = problem.noise_map / problem.known_noise("PGD (white)") ** 2
            gradient = problem.A.adjoint(weight * (problem.A(z) - problem.q))
        else:
            gradient = (problem.A.normal(z) - problem.Aty) / column(
                problem.known_noise("PGD (white)")
            )
        x = denoise(z - column(state.tau) * gradient, self.levels(problem, state)["sigma"])
        mixed = anderson.mix(z, x, state.memory, state.mixing)
        return PGDState(
            x=x,
            iteration=state.iteration + 1,
            ahead=mixed.point,
            tau=state.tau,
            fixed_point=mixed.fixed_point,
            memory=mixed.memory,
            mixing=mixed.mixing,
        )
