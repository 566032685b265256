"""What solvers with gradient steps on the data share: their settings and levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputTypeError
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, check_settings
from pnp_mlpatch.solvers._problem import Problem, curvatures


@dataclass(frozen=True)
class GradientState(State):
    """State of a solver with gradient steps: x is the denoised variable.

    Parameters
    ----------
    ahead : Tensor, shape (B, C, H, W)
        Where the next step starts.
    tau : Tensor, shape (B,)
        The step size.
    """

    ahead: Tensor
    tau: Tensor


G = TypeVar("G", bound=GradientState)


@dataclass(frozen=True)
class Gradient(Solver[G]):
    """A solver that alternates a gradient step of size ``tau`` and a denoiser.

    Parameters
    ----------
    iterations : int
        Number of steps at most.
    sigma : float, sequence of float, Tensor of shape (B,) or (K, B), or None
        Level given to the denoiser; None is sqrt(tau) noise.
    tau : float or None
        Step size. None is 1 / |A|^2, for each image.
    tol : float
        Relative change below which an image has converged.
    """

    rising: ClassVar[bool] = True

    iterations: int = 100
    sigma: schedules.Schedule | None = None
    tau: float | None = None
    tol: float = 1e-4

    def __post_init__(self) -> None:
        check_settings(self, tau=self.tau)
        who = type(self).__name__
        if self.tau is not None and not finite_number(self.tau):
            raise InputTypeError(f"{who}: tau must be one number, got {self.tau!r}.")
        if self.sigma is not None:
            schedules.check_schedule(self.sigma, f"{who}: sigma")

    def step_size(self, problem: Problem, x0: Tensor) -> Tensor:
        """Return tau for each image (B,)."""
        if self.tau is not None:
            return x0.new_full((len(x0),), float(self.tau))
        return 1 / curvatures(problem.A, x0, type(self).__name__)

    def levels(self, problem: Problem, state: G) -> dict[str, float | Tensor]:
        """Return sigma and tau of the step that follows ``state``."""
        if self.sigma is not None:
            return {"sigma": schedules.level(self.sigma, state.iteration), "tau": state.tau}
        noise = problem.known_noise(f"{type(self).__name__} (or give sigma)")
        return {"sigma": state.tau**0.5 * noise, "tau": state.tau}
