"""Choose the level of the denoiser and the number of iterations by an estimate of the error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers import Denoiser, describe
from pnp_mlpatch.errors import Diverged, InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import (
    Callback,
    Problem,
    Result,
    Solver,
    State,
    Tuned,
    checked_start,
    make_problem,
    schedules,
    solve,
)
from pnp_mlpatch.tuning.config import AutoConfig
from pnp_mlpatch.tuning.criteria import (
    Criterion,
    HeldOutCriterion,
    Run,
    choose_criterion,
)
from pnp_mlpatch.tuning.noise import noise_level

DATA_ITERATIONS = 10  # least number for runs without some of the data


@dataclass(frozen=True)
class Choice:
    """The best settings of each image: its candidate and number of iterations, shape (B,)."""

    candidate: Tensor
    iterations: Tensor
    scores: Tensor


def auto(
    q: Tensor,
    A: LinearOperator,
    D: Denoiser,
    solver: Solver,
    *,
    noise: float | Tensor | None = None,
    x0: Tensor | None = None,
    config: AutoConfig | None = None,
    callbacks: Sequence[Callback] = (),
    record: Mapping[str, Callable[[Tensor], Any]] | None = None,
    progress: bool | None = None,
) -> Result:
    r"""Search for the settings of least estimated error, and run the solver with them.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    D : Denoiser
    solver : Solver
        A solver with a level ``sigma`` that may be any, such as admm, drs or red.
        Its ``iterations`` are the most that are run.
    noise : float or Tensor, optional
        Standard deviation of the noise: a number, a tensor (B,) or a map. By default it is
        estimated, :func:`~pnp_mlpatch.tuning.noise_level`.
    x0 : Tensor, optional
        Start of all runs, by default ``A.initial(q)``.
    config : AutoConfig, optional
        Settings of the search.
    callbacks, record, progress
        Of the last run; see :meth:`~pnp_mlpatch.solvers.Solver.run`.

    Returns
    -------
    Result
        Of the last run. ``tuned.settings`` are settings of the solver, with "iterations";
        ``tuned.tried`` has the score of every iteration of every candidate.

    Raises
    ------
    InputError
        If the solver has no such level, or the data are too few.

    Notes
    -----
    1. Candidates are constant levels of the denoiser, up to the top of its range.
    2. The error of each iteration is estimated without the truth. With data for at least half of
       the pixels the criterion is SURE, or GCV where the noise is estimated
       (:class:`~pnp_mlpatch.tuning.criteria.SureCriterion`): of the image where the data step has
       a closed form, else of the data. With fewer data a part of them is held out
       (:class:`~pnp_mlpatch.tuning.criteria.HeldOutCriterion`).
    3. The solver runs once more, with the best candidate, to its iteration of least error.

    Each image of a batch has its own settings. The status is "stopped": an estimate that stops
    early is no fixed point.
    """
    start = time.perf_counter()
    config = config or AutoConfig()
    _check(solver)
    with torch.no_grad():
        level = noise_level(q, A) if noise is None else noise
        problem = make_problem(q, A, level)
        if x0 is not None:
            checked_start(x0, problem, type(solver).__name__)
        top = top_level(problem, D)
        criterion = choose_criterion(q, A, level, noise is None, problem, top, config)
        candidates = [top * s for s in schedules.geometric(config.lowest, 1.0, config.levels)]
        search = _Search(solver, q, A, D, x0, criterion, candidates)
        if search.runs > config.max_runs:
            raise InputError(
                f"auto: {len(candidates)} candidates with {criterion.runs} runs each, and the "
                f"last, need {search.runs} runs, more than max_runs = {config.max_runs}. "
                "Take fewer levels or folds."
            )
        hidden = None if progress is None else not progress
        with tqdm(total=search.runs - 1, desc="auto", unit="run", disable=hidden) as bar:
            choice = search.choose(bar)
    sigma, K = search.sigma(choice), choice.iterations
    last: Any = {"sigma": sigma, "tol": 0.0, "iterations": int(K.max())}
    result = replace(cast(Any, solver), **last).run(
        q,
        A,
        D,
        noise=level,
        x0=x0,
        callbacks=[*callbacks, lambda state: state.iteration >= K],
        record=record,
        progress=progress,
    )
    settings = {"sigma": sigma, "iterations": K}
    tuned = Tuned(settings, level, noise is None, search.tried(choice), search.why)
    return replace(result, tuned=tuned, seconds=time.perf_counter() - start)


def tunable(solver: Solver) -> bool:
    """Whether :func:`auto` can choose for a solver: its level ``sigma`` may be any, and rise.

    Parameters
    ----------
    solver : Solver
        The solver.

    Returns
    -------
    bool
    """
    return solver.rising and "sigma" in {f.name for f in fields(cast(Any, solver))}


@dataclass(frozen=True)
class _Search:
    """What is run: a solver with levels, (B,) each, judged by a criterion."""

    solver: Solver
    q: Tensor
    A: LinearOperator
    D: Denoiser
    x0: Tensor | None
    criterion: Criterion
    candidates: list[Tensor]

    @property
    def runs(self) -> int:
        """Runs of all candidates, and the last one."""
        return len(self.candidates) * self.criterion.runs + 1

    def choose(self, bar: tqdm) -> Choice:
        """Run every candidate, and take for each image the iterate of least score."""
        N = self.solver.iterations
        curves = [self.criterion.measure(self._run(one, bar), N) for one in self.candidates]
        misfit = torch.cat([curve.misfit for curve in curves])
        evidence = torch.cat([curve.evidence for curve in curves])
        scores = self.criterion.score(misfit, evidence)
        row = scores.argmin(0)
        return Choice(row // N, row % N + 1, scores)

    def _run(self, sigma: Tensor, bar: tqdm) -> Run:
        settings: Any = {"tol": 0.0, "sigma": sigma}
        held_out = isinstance(self.criterion, HeldOutCriterion)
        if held_out and "data_iterations" in {f.name for f in fields(cast(Any, self.solver))}:
            most = max(DATA_ITERATIONS, cast(Any, self.solver).data_iterations)
            settings["data_iterations"] = most
        solver = replace(cast(Any, self.solver), **settings)

        def run(q: Tensor, noise: float | Tensor, look: Callable[[State], None]) -> None:
            with suppress(Diverged):
                problem = make_problem(q, self.A, noise)
                solve(solver, problem, self.D, x0=self.x0, callbacks=[look], progress=False)
            bar.update()

        return run

    def sigma(self, choice: Choice) -> Tensor:
        """Return the chosen level of each image, (B,)."""
        return torch.stack(self.candidates).gather(0, choice.candidate[None])[0]

    def tried(self, choice: Choice) -> dict[str, Tensor]:
        """Columns with one row for each iteration of each candidate."""
        N = self.solver.iterations
        count = torch.arange(1.0, N + 1, dtype=torch.float64)
        return {
            "sigma": torch.stack(self.candidates).repeat_interleave(N, 0).double(),
            "iteration": count.repeat(len(self.candidates)),
            "score": choice.scores,
        }

    @property
    def why(self) -> str:
        """In words, how the settings were chosen."""
        return (
            f"Least {self.criterion.name} of {len(self.candidates)} candidates with "
            f"{self.solver.iterations} iterations each ({self.runs} runs)."
        )


def _check(solver: Solver) -> None:
    if not isinstance(solver, Solver):
        raise InputTypeError(
            f"auto: solver must be a Solver object, such as solvers.make('admm'), got {solver!r}."
        )
    if not tunable(solver):
        raise InputError(
            f"auto: {type(solver).__name__} has no level of the denoiser that can be searched. "
            "Take admm, drs, red, pgd ..., or cross_validate."
        )


def top_level(problem: Problem, D: Denoiser) -> Tensor:
    """Top of the denoiser's range, or the deviation of the start, for each image, (B,).

    Parameters
    ----------
    problem : Problem
        Data, operator and noise.
    D : Denoiser
        The denoiser.

    Returns
    -------
    Tensor, shape (B,)
    """
    known = describe(D).sigma_range
    top = problem.A.initial(problem.q).flatten(1).std(1)
    top = top if known is None else torch.full_like(top, known[1])
    if not bool((top > 0).all()):
        raise InputError(
            "auto: the start is constant, and the denoiser tells no range of sigma. Give sigma=."
        )
    return top


__all__ = ["auto", "top_level", "tunable"]
