"""Images at rest: the images of a batch that still move are solved as a batch of their own."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.solvers._base import Solver, State
from pnp_mlpatch.solvers._problem import Problem
from pnp_mlpatch.solvers._stopping import Growth


class Batch:
    """Step the images that move, and leave those at rest as they are.

    Parameters
    ----------
    solver : Solver
        The solver.
    problem : Problem
        The problem of all images.
    state : State
        The state before the first step.

    Attributes
    ----------
    resting, halted : Tensor of bool, shape (B,)
        Images at rest, and those among them that callbacks stopped.
    rows : Tensor of int, or None
        The images that the last step moved, None for all.
    """

    def __init__(self, solver: Solver[Any], problem: Problem, state: State):
        nobody = torch.zeros(len(state.x), dtype=torch.bool)
        self.resting = nobody if state.resting is None else state.resting.cpu()
        self.halted = self._cut_for = nobody
        self.rows: Tensor | None = None
        self._whole = self._part = (solver, problem)
        self._growth = Growth(state.x)

    def step(self, denoise: Denoiser, state: State) -> tuple[State, dict[str, float | Tensor]]:
        """Take one step; return the state, and what is known of the images that moved.

        That is the residual, the measures, and which run "away", for :meth:`refuse`.
        """
        images = len(state.x)
        if not torch.equal(self._cut_for, self.resting):
            self._cut(images, state.x.device)
        solver, problem = self._part
        before = state if self.rows is None else take(state, self.rows, images)
        after = solver.step(problem, denoise, before)
        away = self._growth.look(after, self.rows)
        found = {"residual": solver.residuals(before, after), "away": away} | after.measures()
        return after if self.rows is None else put(state, self.rows, after, images), found

    def refuse(self, away: Tensor, old: State, new: State) -> None:
        """Raise :class:`Diverged` if an image that the step to ``new`` moved is ``away``."""
        self._growth.refuse(type(self._part[0]).__name__, away, old, new, self.rows)

    def rest(self, state: State, arrived: Tensor) -> State:
        """Put images that moved and have ``arrived`` at rest, and return the state."""
        moved = ~self.resting
        self.resting = self.resting.clone()
        self.resting[moved] = arrived.cpu()
        return self._marked(state)

    def halt(self, state: State, answers: list[object]) -> State:
        """Put images that the ``answers`` of callbacks stop at rest, and return the state."""
        for answer in answers:
            if isinstance(answer, Tensor) and answer.dtype == torch.bool:
                self.halted = self.halted | (answer.cpu() & ~self.resting)
        self.resting = self.resting | self.halted
        return self._marked(state)

    def _marked(self, state: State) -> State:
        resting = self.resting.to(state.x.device) if bool(self.resting.any()) else None
        return replace(state, resting=resting)

    def _cut(self, images: int, device: torch.device) -> None:
        """Cut solver and problem to the images that move."""
        self._cut_for = self.resting
        self.rows = (~self.resting).nonzero().flatten().to(device)
        solver, problem = self._whole
        self._part = _settings_of(solver, self.rows, images), _problem_of(problem, self.rows)


def take(state: State, rows: Tensor, images: int) -> State:
    """Return the images ``rows`` of a state, and of the states in it."""
    nested = {
        name: take(value, rows, images)
        for name, value in _values(state).items()
        if isinstance(value, State)
    }
    return replace(state, **_rows(state, rows, images), **nested)


def put(state: State, rows: Tensor, part: State, images: int) -> State:
    """``state`` with its images ``rows`` from ``part``, and the numbers of ``part``."""
    changes = _values(part)
    for name, new in changes.items():
        old = getattr(state, name)
        if isinstance(old, State):
            changes[name] = put(old, rows, new, images)
        elif isinstance(new, Tensor) and isinstance(old, Tensor) and old.shape[:1] == (images,):
            changes[name] = old.index_put((rows.to(old.device),), new)
    return replace(state, **changes | {"resting": state.resting})


def _problem_of(problem: Problem, rows: Tensor) -> Problem:
    """Return the problem of the images ``rows``."""
    taken = _rows(problem, rows, len(problem.q))
    if problem.noise_map is not None and problem.noise_map.ndim < problem.q.ndim:
        taken.pop("noise_map", None)  # one map for all
    return replace(problem, A=problem.A.for_images(rows), **taken)


def _settings_of(solver: Solver[Any], rows: Tensor, images: int) -> Solver[Any]:
    """Return a solver with the settings (B,) and schedules (K, B) of the images ``rows``."""
    changes: dict[str, Any] = {}
    for name, value in _values(solver).items():
        if isinstance(value, Tensor) and value.shape[-1:] == (images,):
            changes[name] = value[..., rows.to(value.device)]
        elif isinstance(value, Solver):
            changes[name] = _settings_of(value, rows, images)
    return replace(cast(Any, solver), **changes)


def _values(thing: Any) -> dict[str, Any]:
    """Return the fields of a dataclass."""
    return {f.name: getattr(thing, f.name) for f in fields(thing)}


def _rows(thing: Any, rows: Tensor, images: int) -> dict[str, Any]:
    """Return the images ``rows`` of the fields of a dataclass with one entry an image."""
    return {
        name: value[rows.to(value.device)]
        for name, value in _values(thing).items()
        if isinstance(value, Tensor) and value.shape[:1] == (images,)
    }
