"""ADMM with one data term or several: the state, and the iteration in v + u."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.solvers._fixed_point import FixedPoint, FixedPointState
from pnp_mlpatch.solvers._problem import Problem
from pnp_mlpatch.solvers._splitting import Splitting, SplittingState


@dataclass(frozen=True)
class DualState(SplittingState, FixedPointState):
    """State of ADMM with n data terms, n = 1 where there is one.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        The denoised variable v.
    f, u : Tensor, shape (B, n C, H, W)
        The data variables and their scaled duals.
    start : Tensor, shape (B, n C, H, W)
        Where the next data steps start.
    moved : Tensor, shape (B,)
        |v_k - v_{k-1}|.
    scale : Tensor of shape (B,), or None
        What sigma is multiplied by where residuals are balanced.
    """

    f: Tensor
    u: Tensor
    start: Tensor
    moved: Tensor
    scale: Tensor | None = field(default=None, kw_only=True)

    @property
    def terms(self) -> int:
        """The number n of data terms."""
        return self.f.shape[1] // self.x.shape[1]

    @property
    def v(self) -> Tensor:
        """v, once for each data term: (B, n C, H, W)."""
        return self.x if self.terms == 1 else self.x.repeat(1, self.terms, 1, 1)

    def measures(self) -> dict[str, float | Tensor]:
        """Return the primal and dual residuals of Boyd et al. as well, relative."""
        v, tiny = self.v, torch.finfo(self.x.dtype).tiny
        size = sizes(self.f).maximum(sizes(v)).clamp_min(tiny)
        return super().measures() | {
            "primal": sizes(self.f - v) / size,
            "dual": self.terms**0.5 * self.moved / sizes(self.u).clamp_min(tiny),
        }


D = TypeVar("D", bound=DualState)


@dataclass(frozen=True)
class Dual(Splitting[D], FixedPoint[D]):
    r"""ADMM with n data terms, as a fixed-point iteration in z = v + u.

    .. math::

        f_i = h_i(v - u_i; \alpha / n), \qquad v = D(\text{mean}_i (f_i + u_i), \sigma), \qquad
        u_i = u_i + f_i - v
    """

    warm_up: ClassVar[int] = 1  # x0 + 0 is no v + u with v = D(v + u)

    def terms(self, problem: Problem) -> Sequence[Problem]:
        """Return the problem of each data term; one by default."""
        return (problem,)

    def init(self, problem: Problem, x0: Tensor) -> D:
        """Start with v = x0 and u = 0."""
        zero, n = x0.new_zeros(len(x0)), len(self.terms(problem))
        f = x0 if n == 1 else x0.repeat(1, n, 1, 1)
        return cast(Any, self.state_type)(x0, 0, zero, f, torch.zeros_like(f), f, zero)

    def point(self, state: D) -> Tensor:
        """Return v + u of each term."""
        return state.v + state.u

    def advance(self, problem: Problem, denoise: Denoiser, state: D) -> tuple[Tensor, D]:
        """Do the data steps."""
        terms, extra = self.terms(problem), int(state.iteration < 3)
        n, alpha = len(terms), self.levels(problem, state)["alpha"] / len(terms)
        points, starts = (state.v - state.u).chunk(n, 1), state.start.chunk(n, 1)
        done = [
            self.data_step(term, z, alpha, start, extra)
            for term, z, start in zip(terms, points, starts, strict=True)
        ]
        f = done[0][0] if n == 1 else torch.cat([f for f, _ in done], 1)
        reached = torch.stack([residual for _, residual in done]).amax(0)
        start = 1.5 * f - 0.5 * state.f
        return f + state.u, replace(state, f=f, start=start, data_residual=reached)

    def settle(self, problem: Problem, denoise: Denoiser, state: D, point: Tensor) -> D:
        """Denoise the mean over the terms."""
        n, sigma = state.terms, self.levels(problem, state)["sigma"]
        v = denoise(point if n == 1 else torch.stack(point.chunk(n, 1)).mean(0), sigma)
        new = replace(state, x=v, iteration=state.iteration + 1, moved=sizes(v - state.x))
        return replace(new, u=point - new.v)
