"""What solvers with a data step share: their settings, levels, and the call of the data step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from torch import Tensor

from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, check_settings
from pnp_mlpatch.solvers._problem import Problem, weight_of

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class SplittingState(State):
    """State of a solver with a data step.

    Parameters
    ----------
    data_residual : Tensor, shape (B,)
        Relative residual that the last data step reached, 0 where it is exact.
    """

    data_residual: Tensor

    def measures(self) -> dict[str, float | Tensor]:
        """Return the residual of the data step, for the history."""
        return super().measures() | {"data_residual": self.data_residual}


W = TypeVar("W", bound=State)
P = TypeVar("P", bound=SplittingState)


@dataclass(frozen=True)
class Weighted(Solver[W]):
    r"""A solver with a level ``sigma`` for the denoiser and a weight ``alpha`` for the data.

    Parameters
    ----------
    iterations : int
        Number of steps at most.
    sigma : float, sequence of float, or Tensor of shape (B,) or (K, B)
        Level given to the denoiser, in the units of the image: a number, one for each
        iteration (the last is held), one for each image, or both.
    alpha : float, Tensor of shape (B,), or None
        Weight of the data. None for :math:`\text{alpha\_scale} (\text{noise} / \sigma_k)^2`.
    alpha_scale : float or Tensor, shape (B,)
        Factor of that rule: 1 by statistics, more for a stronger denoiser.
    tol : float
        Relative change below which an image has converged.
    """

    rising: ClassVar[bool] = True

    iterations: int = 20
    sigma: schedules.Schedule | None = 15 / 255
    alpha: float | Tensor | None = None
    alpha_scale: float | Tensor = 1.0
    tol: float = 1e-4

    def __post_init__(self) -> None:
        check_settings(self, alpha=self.alpha, alpha_scale=self.alpha_scale)
        if self.sigma is not None or type(self).sigma is not None:  # None only as the default
            schedules.check_schedule(cast(Any, self.sigma), f"{type(self).__name__}: sigma")

    def level(self, state: W) -> schedules.Level:
        """Return the level of the denoiser for the step that follows ``state``."""
        assert self.sigma is not None
        return schedules.level(self.sigma, state.iteration)

    def levels(self, problem: Problem, state: W) -> dict[str, float | Tensor]:
        """Return sigma and alpha of the step that follows ``state``."""
        sigma, who = self.level(state), type(self).__name__
        alpha = weight_of(problem, self.alpha, sigma, who, self.alpha_scale)
        return {"sigma": sigma, "alpha": alpha}


@dataclass(frozen=True)
class Splitting(Weighted[P]):
    r"""A solver that alternates a data step and a denoiser.

    .. math:: h(z; \alpha) = (A^H A + \alpha)^{-1} (A^H q + \alpha z)

    Parameters
    ----------
    iterations, sigma, alpha, alpha_scale, tol
        As for :class:`Weighted`.
    data_iterations : int
        Iterations of preconditioned CG in a data step that has no closed form.
    data_tol : float
        Relative residual at which that ends earlier.
    """

    data_iterations: int = 2
    data_tol: float = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(self, data_iterations=self.data_iterations, data_tol=self.data_tol)

    def data_step(
        self,
        problem: Problem,
        z: Tensor,
        alpha: schedules.Level,
        start: Tensor,
        extra_iterations: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """h(z; alpha) from ``start``, and the relative residual (B,) that it reached."""
        iterations = self.data_iterations + extra_iterations
        return data_step(problem, z, alpha, start, self.data_tol, iterations)

    def for_mixing(self) -> Self:
        """Return the solver with data steps of at least 10 iterations."""
        return replace(self, data_iterations=max(self.data_iterations, 10))


def data_step(
    problem: Problem, z: Tensor, alpha: float | Tensor, x0: Tensor, tol: float, max_iter: int
) -> tuple[Tensor, Tensor]:
    """h(z; alpha) from ``x0``, and the relative residual (B,) that it reached."""
    f, info = problem.A.data_step(z, alpha, Aty=problem.Aty, x0=x0, tol=tol, max_iter=max_iter)
    return f, info.residual.detach()
