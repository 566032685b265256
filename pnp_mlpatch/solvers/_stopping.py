"""How a run ends: images that run away, converge, stall, oscillate, or leave their range."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pnp_mlpatch.errors import Diverged
from pnp_mlpatch.linalg import sizes
from pnp_mlpatch.solvers._problem import Problem

if TYPE_CHECKING:
    from pnp_mlpatch.solvers._base import State
    from pnp_mlpatch.solvers._result import Result

SERIOUS = ("outside", "stopped", "oscillating", "stalled", "max_iter")  # the worst first
RUNAWAY = 1e3  # how many times its first size an estimate may have
REACH = 3.0  # how many times the range of its start an estimate may be outside of it


class Growth:
    """Raise when an estimate runs away.

    It does if it is not finite, or 10^3 times as large as at first after growing by 5 % at each of
    the last five steps.
    """

    def __init__(self, x: Tensor):
        self.first = self.last = sizes(x)
        self.steps, self.growing = 0, torch.zeros_like(self.last)

    def look(self, new: State, rows: Tensor | None = None) -> Tensor:
        """Look at a step to ``new``, of all images or of the ``rows``: which of them run away."""
        size = sizes(new.x)
        finite = torch.isfinite(new.x.detach()).flatten(1).all(dim=1)
        self.steps += 1
        at = torch.arange(len(self.first), device=size.device) if rows is None else rows
        if self.steps <= 3:
            self.first = self.first.index_put((at,), torch.maximum(self.first[at], size))
        grows = size > 1.05 * self.last[at]
        growing = torch.where(grows, self.growing[at] + 1, 0.0)
        self.growing = self.growing.index_put((at,), growing)
        self.last = self.last.index_put((at,), size)
        return ~finite | ((size > RUNAWAY * self.first[at]) & (growing >= 5))

    def refuse(
        self, who: str, away: Tensor, old: State, new: State, rows: Tensor | None = None
    ) -> None:
        """Raise :class:`Diverged`, with the last finite state ``old``, if any image is ``away``."""
        if bool(away.any()):
            at = torch.arange(len(self.first)) if rows is None else rows.cpu()
            numbers = ", ".join(map(str, at[away.cpu()].tolist()[:8]))
            which = f" of image {numbers}" if len(self.first) > 1 else ""
            what = f"is more than {RUNAWAY:g} times as large as at the start, and grows"
            finite = bool(torch.isfinite(new.x.detach()).all())
            raise Diverged(
                f"{who}: the estimate{which} {what if finite else 'is not finite'} "
                f"after iteration {new.iteration}. Likely causes: a step size or sigma too large, "
                "a denoiser that amplifies, an adjoint that is not the transpose of A "
                "(testing.check_operator), an image outside the range of the denoiser "
                "(use rescaled). The last finite state is in .state of this error.",
                old,
            )


class Watch:
    """Tell the status of each image from the last quarter of its run.

    Parameters
    ----------
    iterations : int
        Iterations of the whole run.
    state : State
        State before the first step.
    """

    def __init__(self, iterations: int, state: State):
        self.window = max(12, (iterations - state.iteration) // 4)
        self.enough = iterations - state.iteration >= 2 * self.window
        self.begin, self.start = iterations - self.window, state.x
        self.path, self.end = state.x.new_zeros(len(state.x), dtype=torch.float64), state.x

    def see(self, old: State, new: State) -> None:
        """Note the step from ``old`` to ``new``."""
        if old.iteration == self.begin:
            self.start, self.path = old.x, torch.zeros_like(self.path)
        if old.iteration >= self.begin:
            self.path = self.path + sizes(new.x - old.x).double()
        self.end = new.x

    def statuses(
        self, residuals: Tensor | None, resting: Tensor, halted: Tensor, stopped: bool, tol: float
    ) -> tuple[str, ...]:
        """Return the status of each image, from residuals (K, B) and masks at rest (B,)."""
        left = "stopped" if stopped else "max_iter"
        names = ["converged" if rests else left for rests in resting.tolist()]
        names = ["stopped" if halts else name for name, halts in zip(names, halted, strict=True)]
        if residuals is None or not self.enough or "max_iter" not in names or tol == 0:
            return tuple(names)
        half = self.window // 2
        recent = residuals[-half:].median(dim=0).values
        before = residuals[-2 * half : -half].median(dim=0).values
        net, path = sizes(self.end - self.start).double().cpu(), self.path.cpu()
        for k, name in enumerate(names):
            if name == "max_iter" and bool(recent[k] > 0.95 * before[k]):
                names[k] = "oscillating" if bool(net[k] < 0.3 * path[k]) else "stalled"
        return tuple(names)


def worst(statuses: Sequence[str]) -> str:
    """Return the status that needs attention most."""
    return next((name for name in SERIOUS if name in statuses), "converged")


@torch.no_grad()
def mark_outside(
    statuses: Sequence[str], problem: Problem, start: Tensor | None, x: Tensor
) -> tuple[str, ...]:
    """Give the status "outside" to images far outside their range, if the data do not ask for that.

    Parameters
    ----------
    statuses : sequence of str
        Status of each image.
    problem : Problem
        The problem.
    start : Tensor of shape (B, C, H, W), or None
        Start of the run, if one was given.
    x : Tensor, shape (B, C, H, W)
        Estimates.

    Returns
    -------
    tuple of str

    Notes
    -----
    Far is 3 times the range of 0, of the start and of A.initial(q) beyond that range. The data
    ask for it if they are fitted worse, by 5 %, once x is clipped: the peaks of a deconvolution
    are genuine.
    """
    low = high = x.new_zeros(len(x))
    for find in (lambda: start, lambda: problem.A.initial(problem.q)):
        image = find()
        if image is None:
            continue
        flat = image.flatten(1)
        low, high = torch.minimum(low, flat.amin(1)), torch.maximum(high, flat.amax(1))
        span = REACH * (high - low)
        least, most = ((low - span).reshape(-1, 1, 1, 1), (high + span).reshape(-1, 1, 1, 1))
        far = ((x < least) | (x > most)).flatten(1).any(1)
        if not bool(far.any()):
            return tuple(statuses)
    cut = torch.minimum(torch.maximum(x, least), most)
    misfit, clipped = (sizes(problem.A(image) - problem.q) for image in (x, cut))
    outside = far & (span > 0) & (clipped <= 1.05 * misfit)
    return tuple(
        "outside" if away else name for name, away in zip(statuses, outside.tolist(), strict=True)
    )


def warn_outside(result: Result, who: str) -> None:
    """Warn of images whose status is "outside"."""
    numbers = [k for k, name in enumerate(result.statuses) if name == "outside"]
    if numbers:
        which = f" of image {', '.join(map(str, numbers[:8]))}" if len(result.statuses) > 1 else ""
        values = result.x[numbers]
        warnings.warn(
            f"{who}: the estimate{which}, {float(values.min()):.3g} to {float(values.max()):.3g}, "
            "is far outside the range of its start, and the data do not ask for that: "
            "do not use it. Likely causes: a denoiser that amplifies (convergence.expansion "
            "measures it, averaged and a smaller sigma help), or an image outside the range of "
            "the denoiser (rescaled).",
            stacklevel=3,
        )
