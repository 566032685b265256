"""Meet the data to within their noise: chi-squared, the discrepancy principle, a recipe for CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.denoisers import _base as denoisers
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator, reached
from pnp_mlpatch.solvers import Callback, Problem, Result, Solver, make_problem, schedules
from pnp_mlpatch.solvers import _base as solvers

TV_STRENGTH = 2.0  # of the total variation that starts the recipe
TV_TOL = 5e-4
LEAST_FALL = 0.05  # of the excess of chi-squared, by which half of alpha is kept
TOL = 3e-4  # of the recipe with the denoiser


@dataclass(frozen=True)
class Preset:
    """How long the steps of :func:`recipe` take.

    Parameters
    ----------
    start, inner : int
        Iterations of the start by total variation, and of each of its denoisers, at most.
    iterations : int
        Iterations with the denoiser, at most.
    lowest : float
        The least scale of alpha; 1 leaves out the third step.
    """

    start: int
    inner: int
    iterations: int
    lowest: float


PRESETS = {"fast": Preset(20, 10, 6, 1.0), "standard": Preset(150, 60, 40, 0.5)}


@dataclass(frozen=True)
class Discrepancy:
    """What :func:`discrepancy` found.

    Attributes
    ----------
    x : Tensor, shape (B, C, H, W)
        The estimate.
    alpha_scale : Tensor, shape (B,)
        What the solver's alpha was multiplied by, for each image.
    chi2 : Tensor, shape (B,)
        Chi-squared of ``x`` per datum.
    runs : tuple of Result
        The solver's results in order. An image that met its data keeps the estimate it had.
    """

    x: Tensor
    alpha_scale: Tensor
    chi2: Tensor
    runs: tuple[Result, ...]


def chi2(q: Tensor, A: LinearOperator, x: Tensor, noise: float | Tensor) -> Tensor:
    r"""Chi-squared of an estimate per measured datum.

    .. math:: \chi^2(x) = \frac{1}{m} \sum_i (A x - q)_i^2 / \mathrm{noise}_i^2

    It is 1 for the truth, to within ``sqrt(2 / m)`` for m data. It is larger where x misses what
    the data show, and smaller where x follows their noise.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    x : Tensor, shape (B, C, H, W)
        Estimate.
    noise : float or Tensor
        Standard deviation in the units of q: a number, a tensor (B,), or a map, infinite where
        nothing was measured.

    Returns
    -------
    Tensor, shape (B,)

    Raises
    ------
    InputError
        If the noise is missing or not positive, or a shape does not fit.
    """
    with torch.no_grad():
        problem = make_problem(q, A, noise)
        problem.known_noise("chi2")
        return _chi2(problem, x)


def discrepancy(
    q: Tensor,
    A: LinearOperator,
    D: Denoiser,
    solver: Solver,
    *,
    noise: float | Tensor,
    x0: Tensor | None = None,
    lowest: float = 0.5,
    iterations: int = 20,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Discrepancy:
    r"""Run a solver, then halve alpha for each image whose residual exceeds its noise.

    .. math:: \alpha = s \, (\mathrm{noise} / \sigma)^2, \qquad s = 1, 1/2, \dots
        \quad \text{until} \quad \chi^2(x) \le 1 \ \text{or} \ s / 2 < \mathrm{lowest}

    The weight for s = 1 is right for a denoiser that knows this kind of image. A denoiser that
    smooths too much leaves a residual larger than the noise, which the data show without the
    truth. Alpha is never raised: a smaller residual is left alone. If the excess
    :math:`\chi^2 - 1` does not fall by a twentieth, it is not the denoiser that leaves it, but the
    model or the noise that is given; the estimate before is kept.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    D : Denoiser
    solver : Solver
        Any solver with a setting ``alpha``.
    noise : float or Tensor
        Standard deviation of the noise: a number, a tensor (B,), or a map.
    x0 : Tensor, optional
        Start of the first run, by default ``A.initial(q)``.
    lowest : float
        Least value of s, in (0, 1].
    iterations : int
        Iterations of each further run. It starts from the estimate before and keeps the levels of
        that run's last step.
    callbacks : sequence of callables
        Passed to every run.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    Discrepancy

    Raises
    ------
    InputError
        If the solver has no alpha, or a setting is out of range.

    Notes
    -----
    Images of a batch are independent, except that ``tol`` stops a run when all of them rest.

    References
    ----------
    Morozov 1966.
    """
    _check(solver, lowest, iterations)
    with torch.no_grad():
        problem = make_problem(q, A, noise)
        problem.known_noise("discrepancy")

    def run(solver: Solver, start: Tensor | None) -> Result:
        return solver.run(q, A, D, noise=noise, x0=start, callbacks=callbacks, progress=progress)

    result = run(solver, x0)
    runs, x, found = [result], result.x, _chi2(problem, result.x)
    last = solver.levels(problem, result.state)
    settings = {f.name for f in fields(cast(Any, solver))}
    held = {name: last[name] for name in settings & last.keys()}
    scale, falls = torch.ones_like(found), found > 1
    while bool((misses := falls & (found > 1) & (scale / 2 >= lowest)).any()):
        tried = torch.where(misses, scale / 2, scale)
        again: Any = held | {
            "alpha": tried * last["alpha"] / problem.unit**2,
            "iterations": iterations,
        }
        runs.append(run(replace(cast(Any, solver), **again), x))
        now = _chi2(problem, runs[-1].x)
        falls = misses & (now - 1 <= (1 - LEAST_FALL) * (found - 1))
        x = torch.where(falls.reshape(-1, 1, 1, 1), runs[-1].x, x)
        scale, found = torch.where(falls, tried, scale), torch.where(falls, now, found)
    return Discrepancy(x, scale, found, tuple(runs))


def recipe(
    q: Tensor,
    A: LinearOperator,
    D: Denoiser,
    *,
    noise: float | Tensor,
    sigma: schedules.Schedule,
    x0: Tensor | None = None,
    lowest: float = 0.5,
    preset: str = "standard",
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Discrepancy:
    r"""Run the one recipe for CT in this package.

    1. A start by total variation of strength 2: at most 150 iterations of ``fast_admm``.
    2. 40 iterations of ``fast_admm`` with the denoiser from there.
    3. :func:`discrepancy`: 20 more with half of alpha, where the residual exceeds the noise.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    D : Denoiser
    noise : float or Tensor
        Standard deviation of the noise.
    sigma : float, sequence or Tensor
        Level of the denoiser, such as ``schedules.from_noise(A, noise, scale=...)``.
    x0 : Tensor, optional
        Where the first step begins, by default ``A.initial(q)``.
    lowest : float
        Least scale of alpha; 1 leaves out the third step.
    preset : {"standard", "fast"}
        "fast" takes 20 short iterations for the start, 6 with the denoiser, and no third step.
    callbacks : sequence of callables
        Passed to the second and third step.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    Discrepancy

    Raises
    ------
    InputError
        As :func:`discrepancy`.
    """
    if preset not in PRESETS:
        raise InputError(f"recipe: preset must be one of {', '.join(PRESETS)}, got {preset!r}.")
    steps, make = PRESETS[preset], solvers.registry.make
    tv = denoisers.registry.make("tv", strength=TV_STRENGTH, iterations=steps.inner)
    smooth = make("fast_admm", iterations=steps.start, sigma=sigma, tol=TV_TOL)
    start = smooth.run(q, A, tv, noise=noise, x0=x0, progress=progress)
    solver = make("fast_admm", iterations=steps.iterations, sigma=sigma, tol=TOL)
    return discrepancy(
        q,
        A,
        D,
        solver,
        noise=noise,
        x0=start.x,
        lowest=max(lowest, steps.lowest),
        callbacks=callbacks,
        progress=progress,
    )


def _check(solver: Solver, lowest: float, iterations: int) -> None:
    if not isinstance(solver, Solver):
        raise InputTypeError(
            "discrepancy: solver must be a Solver object, such as solvers.make('fast_admm'), "
            f"got {solver!r}."
        )
    if "alpha" not in {f.name for f in fields(cast(Any, solver))}:
        raise InputError(
            f"discrepancy: {type(solver).__name__} has no setting alpha to lower. "
            "Use a solver with one, such as admm, fast_admm or hqs."
        )
    if isinstance(lowest, bool) or not isinstance(lowest, (int, float)) or not 0 < lowest <= 1:
        raise InputError(f"discrepancy: lowest must be a number in (0, 1], got {lowest!r}.")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise InputError(f"discrepancy: iterations must be an integer >= 1, got {iterations!r}.")


def _chi2(problem: Problem, x: Tensor) -> Tensor:
    """Chi-squared of the whitened problem, over the data that depend on the image."""
    with torch.no_grad():
        seen = reached(problem.A, len(problem.q), problem.q.device)
        r = torch.where(seen, problem.A(x) - problem.q, 0).flatten(1)
        noise = torch.as_tensor(problem.known_noise("chi2"), dtype=r.dtype, device=r.device)
        return r.square().sum(1) / (seen.flatten(1).sum(1) * noise**2)


__all__ = ["PRESETS", "Discrepancy", "chi2", "discrepancy", "recipe"]
