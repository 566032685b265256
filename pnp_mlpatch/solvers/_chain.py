"""What ULA and SK-ROCK share: their settings, and the start of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.solvers import _schedules as schedules
from pnp_mlpatch.solvers._base import Solver, State, check_settings
from pnp_mlpatch.solvers._langevin import ChainState, start
from pnp_mlpatch.solvers._problem import Problem


@dataclass(frozen=True)
class Chain(Solver[ChainState]):
    """A sampler by Langevin steps; its settings are those of ULA."""

    state_type: ClassVar[type[State]] = ChainState

    iterations: int = 1000
    sigma: schedules.Schedule = 10 / 255
    delta: float | Tensor | None = None
    burn_in: int = 200
    seed: int = 0
    tol: float = 0.0
    box: tuple[float, float] | None = None
    keep: int = 32

    def __post_init__(self) -> None:
        who, delta, sigma, box = type(self).__name__, self.delta, self.sigma, self.box
        check_settings(self, delta=delta)
        if delta is not None and not isinstance(delta, Tensor) and not finite_number(delta):
            raise InputTypeError(f"{who}: delta must be a number or a tensor (B,), got {delta!r}.")
        schedules.check_schedule(sigma, f"{who}: sigma")
        check_counts(who, burn_in=(self.burn_in, 0), seed=(self.seed, 0), keep=(self.keep, 1))
        if isinstance(sigma, Sequence) and len(sigma) > self.burn_in + 1:
            raise InputError(
                f"{who}: the {len(sigma)} levels of sigma must end with the burn-in: "
                "the samples are of one density. "
                f"Set burn_in to {len(sigma) - 1} or more, or give fewer levels."
            )
        two = isinstance(box, tuple) and len(box) == 2 and all(map(finite_number, box))
        if box is not None and not (two and box[0] < box[1]):
            raise InputError(
                f"{who}: box must be None or (low, high), two numbers with low < high, got {box!r}."
            )

    def residuals(self, old: ChainState, new: ChainState) -> Tensor:
        """Return the largest relative change of the batch, whose images stop together."""
        largest = super().residuals(old, new)
        return largest.max().expand_as(largest)

    def init(self, problem: Problem, x0: Tensor) -> ChainState:
        """Start a chain without samples."""
        return start(problem, x0)


def check_counts(who: str, **counts: tuple[int, int]) -> None:
    """Raise unless each value of (value, least) is an integer of at least ``least``."""
    for name, (value, least) in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(f"{who}: {name} must be an integer >= {least}, got {value!r}.")
