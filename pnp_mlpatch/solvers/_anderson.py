r"""Anderson acceleration of a solver that is a fixed-point iteration z -> g(z).

With r = g(z) - z and the last m points z_j, r_j, each image of a batch by itself,

.. math::

    z_{next} = z + \beta r - \sum_j \gamma_j [(z - z_j) + \beta (r - r_j)], \qquad
    \gamma = \arg\min |r - \sum_j \gamma_j (r - r_j)|^2

which is GMRES on z = g(z) for a linear g. With beta = 2 the step goes beyond g(z), as
over-relaxation does. So does the first step, which has nothing to mix.

An image whose residual exceeds twice its least one goes back to g of the best point in memory. It
does not mix for the next m iterations, for 2 m the next time, and so on. Where g is no
contraction, and mixing does not help, the plain iteration is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.linalg import power_of_two, sizes
from pnp_mlpatch.solvers._base import Solver, State
from pnp_mlpatch.solvers._fixed_point import FixedPoint, FixedPointState
from pnp_mlpatch.solvers._problem import Problem

WORSE = 2.0  # how much larger than the least the residual of a mixed point may be
BETA = 2.0
RIDGE = 1e-10  # of the trace of the normal equations, in float64
LARGEST = 1e4  # sum of |gamma| above which points are not mixed


@dataclass(frozen=True)
class AndersonState(State):
    """State of an accelerated solver.

    Parameters
    ----------
    inner : FixedPointState
        State of the solver.
    memory : Tensor, shape (B, 2, m, ...)
        The last m points and their residuals, the newest last.
    mixing : Tensor, shape (B, 4), float64
        How many points are held, the least |r|, how many iterations to wait, and how many the
        next time.
    """

    inner: FixedPointState
    memory: Tensor
    mixing: Tensor

    def measures(self) -> dict[str, float | Tensor]:
        """Return what the solver measured."""
        return self.inner.measures()


@dataclass(frozen=True)
class Anderson(Solver[AndersonState]):
    """A solver with Anderson acceleration; made by :func:`anderson`."""

    state_type: ClassVar[type[State]] = AndersonState

    solver: FixedPoint[Any]
    depth: int

    @property
    def iterations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Number of steps at most, of the solver."""
        return self.solver.iterations

    @property
    def tol(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Relative change below which an image has converged, of the solver."""
        return self.solver.tol

    def levels(self, problem: Problem, state: AndersonState) -> dict[str, float | Tensor]:
        """Return the levels of the solver."""
        return self.solver.levels(problem, state.inner)

    def residuals(self, old: AndersonState, new: AndersonState) -> Tensor:
        """Return those of the solver, but at least the residual of the fixed point.

        A mixed step may be short by chance.
        """
        change, fixed_point = self.solver.residuals(old.inner, new.inner), new.inner.fixed_point
        assert fixed_point is not None
        return torch.maximum(change, fixed_point.detach())

    def init(self, problem: Problem, x0: Tensor) -> AndersonState:
        """Return the state before the first step, with an empty memory."""
        inner = self.solver.init(problem, x0)
        memory, mixing = empty(self.solver.point(inner), self.depth)
        return AndersonState(inner.x, inner.iteration, inner, memory, mixing)

    def step(self, problem: Problem, denoise: Denoiser, state: AndersonState) -> AndersonState:
        """Do one iteration from the mixed point."""
        if type(state.inner) is not self.solver.state_type:
            raise InputTypeError(
                f"anderson: state must be that of an accelerated {type(self.solver).__name__}, "
                f"got one with a {type(state.inner).__name__}."
            )
        point, memory, mixing = self.solver.point(state.inner), state.memory, state.mixing
        g, inner = self.solver.propose(problem, denoise, state.inner)
        if inner.iteration < self.solver.warm_up:
            point = g
        else:
            point, memory, mixing = mix(point, g, memory, mixing)
        inner = self.solver.settle(problem, denoise, inner, point)
        return AndersonState(inner.x, inner.iteration, inner, memory, mixing)


def anderson(solver: Solver[Any], depth: int = 5) -> Anderson:
    """Accelerate a solver by mixing its last points.

    For images that are to be exact: the fixed points are the same and take fewer
    iterations. Give the solver a constant ``sigma``.

    Parameters
    ----------
    solver : FixedPoint
        Such as ADMM, Consensus, DRS, HQS, PGD or RED. Its data steps take at least 10
        iterations of CG, because mixing amplifies their errors.
    depth : int
        Number of points that are mixed, from 1 to 50. The memory holds 2 ``depth`` batches.

    Returns
    -------
    Anderson

    Raises
    ------
    InputError, InputTypeError
        If the solver is no fixed-point iteration, its map changes, or the depth is out of range.

    References
    ----------
    Anderson 1965; Walker and Ni 2011; safeguards, Zhang, O'Donoghue and Boyd 2020.

    Examples
    --------
    >>> from pnp_mlpatch import solvers
    >>> solvers.anderson(solvers.make("drs", iterations=50), depth=3).iterations
    50
    """
    if not isinstance(solver, FixedPoint):
        raise InputTypeError(
            "anderson: solver must be a fixed-point iteration, such as "
            f"solvers.make('admm'), got {solver!r}."
        )
    if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= 50:
        raise InputError(
            f"anderson: depth is how many points are mixed, an integer from 1 to 50, got {depth!r}."
        )
    return Anderson(solver.for_mixing(), depth)


def empty(z: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Return the memory and mixing of :class:`AndersonState` before the first point, a ``z``."""
    start = torch.tensor([0.0, torch.inf, 0.0, depth], dtype=torch.float64, device=z.device)
    return z.new_zeros(len(z), 2, depth, *z.shape[1:]), start.repeat(len(z), 1)


def mix(z: Tensor, g: Tensor, memory: Tensor, mixing: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the point after ``z``, and the memory and mixing; ``g`` is g(z), (B, C, H, W)."""
    r, depth = g - z, memory.shape[2]
    size = sizes(r)
    count, least, wait, pause = mixing.unbind(1)
    held = torch.arange(depth, device=z.device) >= depth - count[:, None]  # the newest is the last
    points, residuals = memory[:, 0], memory[:, 1]
    failed = (size.double() > WORSE * least) | ~torch.isfinite(size)

    unit = power_of_two(size).reshape(-1, 1, 1, 1)  # squares stay in the range of float32
    gamma = _weights(r / unit, residuals / unit[:, None], held, failed)
    mixes = (count > 0) & (wait <= 0) & (gamma.abs().sum(1) < LARGEST)
    gamma = torch.where(mixes[:, None], gamma, 0.0).to(z.dtype)
    first = (count == 0) & (wait <= 0) & ~failed
    beta = torch.where(mixes | first, BETA, 1.0).to(z.dtype)[:, None, None, None]
    change = z[:, None] - points + beta[:, None] * (r[:, None] - residuals)
    step = (change * (held * gamma)[..., None, None, None]).sum(1)

    norm = (residuals / unit[:, None]).flatten(2).norm(dim=2)
    best = torch.where(held, norm, torch.inf).argmin(1)
    chosen = torch.arange(len(z), device=z.device)
    back = points[chosen, best] + residuals[chosen, best]
    point = torch.where(failed[:, None, None, None], back, z + beta * r - step)

    newest = torch.stack([z, r], dim=1)[:, :, None]
    least = torch.where(failed, torch.inf, torch.minimum(least, size.double()))
    count = torch.where(failed, 0.0, (count + 1).clamp_max(depth))
    wait = torch.where(failed, pause, (wait - 1).clamp_min(0))
    pause = torch.where(failed, 2 * pause, pause)
    memory = torch.cat([memory[:, :, 1:], newest], dim=2)
    return point, memory, torch.stack([count, least, wait, pause], dim=1)


def _weights(r: Tensor, residuals: Tensor, held: Tensor, failed: Tensor) -> Tensor:
    """Return gamma (B, m) in float64, by least squares over the held residuals; 0 if failed."""
    dr = ((r[:, None] - residuals) * held[..., None, None, None]).flatten(2)
    gram = (dr @ dr.transpose(1, 2)).double()
    right = (dr @ r.flatten(1)[..., None]).double()
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    eye = torch.eye(held.shape[1], dtype=torch.float64, device=r.device)
    gram = gram + (RIDGE * trace + (trace == 0)) * eye + torch.diag_embed((~held).double())
    gram = torch.where(failed[:, None, None], eye, gram)
    gamma = torch.linalg.solve(gram, right)[..., 0]
    return torch.where(failed[:, None], 0.0, gamma)
