"""Solvers that are fixed-point iterations z -> g(z), so that they can be accelerated."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.solvers._base import Solver, State
from pnp_mlpatch.solvers._problem import Problem

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class FixedPointState(State):
    """State of a fixed-point iteration.

    Parameters
    ----------
    fixed_point : Tensor, shape (B,), or None
        Relative residual :math:`|g(z) - z| / |z|` of the step that led here. NaN where z was the
        start and no point of the iteration.
    """

    fixed_point: Tensor | None = field(default=None, kw_only=True)

    def measures(self) -> dict[str, float | Tensor]:
        """Return the residual of the fixed point, for the history."""
        found = super().measures()
        return found if self.fixed_point is None else found | {"fixed_point": self.fixed_point}


@dataclass(frozen=True)
class EstimateState(FixedPointState):
    """State of an iteration in the estimate itself.

    Parameters
    ----------
    ahead : Tensor, shape (B, C, H, W)
        Where the next step starts: x, unless points are mixed.
    """

    ahead: Tensor


F = TypeVar("F", bound=FixedPointState)
E = TypeVar("E", bound=EstimateState)


class FixedPoint(Solver[F]):
    """A fixed-point iteration z -> g(z) in three hooks, which :func:`anderson` accelerates.

    A step is ``settle(advance(point))``.

    Attributes
    ----------
    warm_up : int
        Number of first steps whose z is no point of the iteration: 1 where the start is not
        of the form that every later z has.
    """

    warm_up: ClassVar[int] = 0

    @abstractmethod
    def point(self, state: F) -> Tensor:
        """Return z.

        Parameters
        ----------
        state : State
            The state.

        Returns
        -------
        Tensor, shape (B, ...)
        """

    @abstractmethod
    def advance(self, problem: Problem, denoise: Denoiser, state: F) -> tuple[Tensor, F]:
        """Apply the map.

        Parameters
        ----------
        problem : Problem
            The problem.
        denoise : Denoiser
            D(x, sigma).
        state : State
            The state before the step.

        Returns
        -------
        tuple of Tensor and State
            g(z), and the state with what was computed on the way.
        """

    @abstractmethod
    def settle(self, problem: Problem, denoise: Denoiser, state: F, point: Tensor) -> F:
        """Go to a new point.

        Parameters
        ----------
        problem : Problem
            The problem.
        denoise : Denoiser
            D(x, sigma).
        state : State
            The state that ``advance`` returned.
        point : Tensor, shape (B, ...)
            The next z: g(z), or a mixture.

        Returns
        -------
        State
            The state after the step.
        """

    def for_mixing(self) -> Self:
        """Return this solver as it is accelerated: with a map that is constant and exact enough.

        Returns
        -------
        FixedPoint

        Raises
        ------
        InputError
            If its map changes from step to step.
        """
        return self

    def propose(self, problem: Problem, denoise: Denoiser, state: F) -> tuple[Tensor, F]:
        """``advance``, with the residual of the fixed point noted in the state."""
        z = self.point(state)
        g, state = self.advance(problem, denoise, state)
        residual = sizes(g - z) / sizes(z).clamp_min(torch.finfo(z.dtype).tiny)
        if state.iteration < self.warm_up:
            residual = torch.full_like(residual, torch.nan)
        return g, replace(state, fixed_point=residual)

    def step(self, problem: Problem, denoise: Denoiser, state: F) -> F:
        """Do one iteration."""
        point, state = self.propose(problem, denoise, state)
        return self.settle(problem, denoise, state, point)


class EstimateIteration(FixedPoint[E]):
    """A fixed-point iteration in the estimate itself: z is x, unless points are mixed."""

    def point(self, state: E) -> Tensor:
        """Return where the next step starts."""
        return state.ahead

    def settle(self, problem: Problem, denoise: Denoiser, state: E, point: Tensor) -> E:
        """Let the next step start at ``point``."""
        return replace(state, iteration=state.iteration + 1, ahead=point)
