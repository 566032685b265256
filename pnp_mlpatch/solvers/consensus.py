"""Plug-and-play ADMM with several data terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.operators import LinearOperator
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


@runtime_checkable
class Blocks(Protocol):
    """An operator made of several: ``blocks``, which are operators of one image, and ``split``, which gives each its data."""

    @property
    def blocks(self) -> Iterable[nn.Module]: ...

    def split(self, y: Tensor) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class ConsensusState(State):
    """``x`` is the denoised variable v; ``f`` and ``u`` (B, n C, H, W) the data variables and scaled duals of the n terms.

    ``start`` is where the next data steps start, ``data_residual`` (B,) the largest that the last ones reached; ``moved`` (B,) is
    |v_k - v_(k-1)|.
    """

    f: Tensor
    u: Tensor
    start: Tensor
    data_residual: Tensor
    moved: Tensor | None = field(default=None, kw_only=True)

    def measures(self) -> dict[str, float | Tensor]:
        found = super().measures() | {"data_residual": self.data_residual}
        if self.moved is None:
            return found
        v = _copies(self.x, self.f)
        tiny, terms = torch.finfo(v.dtype).tiny, v.shape[1] / self.x.shape[1]
        size = torch.maximum(sizes(self.f), sizes(v)).clamp_min(tiny)
        return found | {
            "primal": sizes(self.f - v) / size,
            "dual": terms**0.5 * self.moved / sizes(self.u).clamp_min(tiny),
        }


@register("consensus")
@dataclass(frozen=True)
class Consensus(Solver):
    r"""ADMM with a data step for each of several data sets q_i = A_i f + n_i, which agree on one image.

        min  sum_i 1/(2 noise_i^2) |A_i f_i - q_i|^2 + R(v)    so that    f_i = v,    i = 1, ..., n

        f_i = h_i(v - u_i; alpha_i)            h_i(z; alpha) = (A_i^H A_i + alpha)^-1 (A_i^H q_i + alpha z)
        v   = D(mean_i (f_i + u_i), sigma)
        u_i = u_i + f_i - v                    alpha_i = factor (noise_i / sigma)^2 / n

    started from v = x0, u_i = 0; the estimate is v. With the penalty rho/2 |f_i - v + u_i|^2 of each term, v is the minimum of

        R(v) + sum_i rho/2 |f_i - v + u_i|^2 = R(v) + n rho/2 |v - mean_i (f_i + u_i)|^2 + constant

    and D(., sigma) stands for the proximal map of R at eta = sigma^2, so 1 / (n rho) = sigma^2, and alpha_i = rho noise_i^2 as above. The
    fixed points are those of :class:`~pnp_mlpatch.solvers.admm.ADMM` with the stacked operator, for every denoiser:

        sum_i A_i^H (A_i v - q_i) / noise_i^2 + u / sigma^2 = 0,    v = D(v + u, sigma),    u = mean_i u_i

    The data steps are those of the blocks, and exact where theirs are, while that of the stack takes many iterations.

    The operator is a stack of blocks, ``operators.make("stack", blocks=[A_1, A_2])``, the noise one number for all, or a map
    (``A.noise([...])``), which is divided out. Any other operator is one term, and the iterates are those of ADMM. ``alpha`` is in place of
    (noise / sigma)^2, once a map is divided out; each term has alpha / n. All other settings, and the columns "primal", "dual" and
    "fixed_point" of the history, are those of ADMM, over all terms. A step costs A_i^H q_i of each block more.

    Boyd et al. 2011 (section 7.1); Buzzard, Chan, Sreehari and Bouman 2018 (MACE).
    """

    state_type: ClassVar[type[State]] = ConsensusState
    rising: ClassVar[bool] = True

    iterations: int = 20
    sigma: schedules.Schedule = 15 / 255
    alpha: float | Tensor | None = None
    factor: float | Tensor = 1.0
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
        anderson.check_depth(self.anderson, "Consensus")
        schedules.check_schedule(self.sigma, "Consensus: sigma")

    def levels(self, problem: Problem, state: State) -> dict[str, float | Tensor]:
        sigma = schedules.level(self.sigma, state.iteration)
        return {
            "sigma": sigma,
            "alpha": weight_of(problem, self.alpha, sigma, "Consensus", self.factor),
        }

    def init(self, problem: Problem, x0: Tensor) -> ConsensusState:
        f = x0.repeat(1, len(_terms(problem)), 1, 1)
        memory, mixing = anderson.empty(f, self.anderson)
        zero = x0.new_zeros(len(x0))
        return ConsensusState(
            x=x0,
            iteration=0,
            f=f,
            u=torch.zeros_like(f),
            start=f,
            data_residual=zero,
            moved=zero,
            memory=memory,
            mixing=mixing,
        )

    def step(self, problem: Problem, denoise: Denoiser, state: State) -> ConsensusState:
        assert isinstance(state, ConsensusState)
        level, terms = self.levels(problem, state), _terms(problem)
        steps = anderson.steps(self.data_iterations, self.anderson) + (state.iteration < 3)
        before = _copies(state.x, state.f)
        done = [
            data_step(term, z, level["alpha"] / len(terms), start, self.data_tol, steps)
            for term, z, start in zip(
                terms,
                (before - state.u).chunk(len(terms), 1),
                state.start.chunk(len(terms), 1),
                strict=True,
            )
        ]
        f = torch.cat([image for image, _ in done], dim=1)
        memory, mixing = (
            (state.memory, state.mixing) if state.iteration else (None, None)
        )  # as in ADMM
        mixed = anderson.mix(before + state.u, f + state.u, memory, mixing)
        v = denoise(torch.stack(mixed.point.chunk(len(terms), 1)).mean(0), level["sigma"])
        return ConsensusState(
            x=v,
            iteration=state.iteration + 1,
            f=f,
            u=mixed.point - _copies(v, f),
            start=1.5 * f - 0.5 * state.f,
            data_residual=torch.stack([reached for _, reached in done]).amax(0),
            moved=sizes(v - state.x),
            fixed_point=mixed.fixed_point
            if state.iteration
            else torch.full_like(mixed.fixed_point, torch.nan),
            memory=mixed.memory if state.iteration else state.memory,
            mixing=mixed.mixing if state.iteration else state.mixing,
        )


def _terms(problem: Problem) -> list[Problem]:
    """The problem of each data set; the problem itself where the operator has no blocks."""
    A = problem.A
    if not isinstance(A, Blocks):
        return [problem]
    blocks = [cast(LinearOperator, block) for block in A.blocks]
    return [
        replace(problem, q=q, A=block, Aty=block.adjoint(q))
        for block, q in zip(blocks, A.split(problem.q), strict=True)
    ]


def _copies(x: Tensor, like: Tensor) -> Tensor:
    """x (B, C, H, W), so often one after the other that it has the channels of ``like``."""
    return x.repeat(1, like.shape[1] // x.shape[1], 1, 1)


__all__ = ["Blocks", "Consensus", "ConsensusState"]
