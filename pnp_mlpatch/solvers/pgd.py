"""Plug-and-play proximal gradient descent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputTypeError
from pnp_mlpatch.solvers._base import State, register
from pnp_mlpatch.solvers._fixed_point import EstimateIteration, EstimateState
from pnp_mlpatch.solvers._gradient import Gradient, GradientState
from pnp_mlpatch.solvers._problem import Problem, column, curvatures


@dataclass(frozen=True)
class PGDState(GradientState, EstimateState):
    """State of PGD: ``ahead`` is x, unless points are mixed."""


@register("pgd")
@dataclass(frozen=True)
class PGD(Gradient[PGDState], EstimateIteration[PGDState]):
    r"""Proximal gradient descent with a denoiser for the proximal map.

    .. math:: x_k = D(x_{k-1} - \tau A^H (A x_{k-1} - q), \sigma_k), \qquad \tau < 2 / |A|^2

    Parameters
    ----------
    iterations : int
        Number of steps at most.
    sigma : float, sequence of float, Tensor of shape (B,) or (K, B), or None
        Level given to the denoiser. None is sqrt(tau) noise, the level at which D is the proximal
        map of the same prior that ADMM at any sigma has. A larger sigma regularises more.
    tau : float or None
        Step size. None is :math:`1 / |A|^2`, one for each image if these have noise maps of their
        own.
    tol : float
        Relative change below which an image has converged.
    white : bool
        Weigh the data by the inverse standard deviation s of their noise, rather than the inverse
        variance:

        .. math::

            x_k = D(x_{k-1} + \tau A^H s^{-1} (q - A x_{k-1}), \tau), \qquad
            \tau < 2 / |s^{-1/2} A|^2

        With a unitary A (weak lensing) the noise that a step carries into the estimate is then
        white, of standard deviation tau, whatever the noise map: what D was trained for.
        ``sigma`` is tau unless given, and ``tau`` by default :math:`1 / |s^{-1/2} A|^2`, the
        smallest noise.

    Notes
    -----
    It needs no data step, so it serves every operator. It takes more iterations than ADMM where A
    is ill-conditioned.

    References
    ----------
    Kamilov, Mansour and Wohlberg 2017; white, PnPMass, 2026, arXiv 2603.22006.
    """

    state_type: ClassVar[type[State]] = PGDState
    white: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.white, bool):
            raise InputTypeError(f"PGD: white must be True or False, got {self.white!r}.")

    def init(self, problem: Problem, x0: Tensor) -> PGDState:
        return PGDState(x0, 0, ahead=x0, tau=self.step_size(problem, x0))

    def step_size(self, problem: Problem, x0: Tensor) -> Tensor:
        if not self.white or self.tau is not None:
            return super().step_size(problem, x0)
        A, noise = problem.A, problem.known_noise("PGD (white)")
        if problem.noise_map is not None:
            A, noise = A.weighted(problem.noise_map.sqrt() / noise), 1.0
        return torch.as_tensor(noise).to(x0) / curvatures(A, x0, "PGD")

    def levels(self, problem: Problem, state: PGDState) -> dict[str, float | Tensor]:
        if self.white and self.sigma is None:
            return {"sigma": state.tau, "tau": state.tau}
        return super().levels(problem, state)

    def advance(
        self, problem: Problem, denoise: Denoiser, state: PGDState
    ) -> tuple[Tensor, PGDState]:
        z = state.ahead - column(state.tau) * self._gradient(problem, state.ahead)
        x = denoise(z, self.levels(problem, state)["sigma"])
        return x, replace(state, x=x)

    def _gradient(self, problem: Problem, z: Tensor) -> Tensor:
        if not self.white:
            return problem.A.normal(z) - problem.Aty
        noise = problem.known_noise("PGD (white)")
        if problem.noise_map is None:
            return (problem.A.normal(z) - problem.Aty) / column(noise)
        # A and q are divided by the map already, once more than here
        weight = problem.noise_map / noise**2
        return problem.A.adjoint(weight * (problem.A(z) - problem.q))
