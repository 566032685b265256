"""Settings from the data themselves: ``chi2``, alpha lowered until the data are met (Morozov), sigma by cross-validation, one recipe for CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from pnp_mlpatch.denoisers.base import Denoiser
from pnp_mlpatch.denoisers.tv import TV
from pnp_mlpatch.denoisers.wrap import describe
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators.base import LinearOperator
from pnp_mlpatch.solvers import schedules
from pnp_mlpatch.solvers.base import Callback, Problem, Result, Solver, make_problem
from pnp_mlpatch.solvers.fast_admm import FastADMM


@dataclass(frozen=True)
class Discrepancy:
    """What :func:`discrepancy` found, one number for each image of the batch.

    ``x`` (B, C, H, W) is the estimate, ``factor`` (B,) what the solver's alpha was multiplied by, ``chi2`` (B,) that of x, and ``runs`` the
    results of the solver one after the other; an image whose chi2 was low enough keeps the x that it had.
    """

    x: Tensor
    factor: Tensor
    chi2: Tensor
    runs: tuple[Result, ...]


def chi2(q: Tensor, A: LinearOperator, x: Tensor, noise: float | Tensor) -> Tensor:
    r"""How well x explains the data, for each image: the mean of |A x - q|^2 / noise^2 over what was measured, (B,).

    It is 1 for the truth, to sqrt(2 / m) with m data; more where x misses what the data show, less where it follows their noise. ``q`` is
    (B, \*A.data_shape), ``x`` (B, C, H, W), ``noise`` the standard deviation in the units of q: a number, a tensor (B,), or a map, infinite
    where nothing was measured. Raises what :func:`~pnp_mlpatch.solvers.base.make_problem` raises.
    """
    with torch.no_grad():
        problem = make_problem(q, A, noise)
        problem.known_noise("chi2")
        return _chi2(problem, x, _measured(q, noise))


def discrepancy(
    q: Tensor,
    A: LinearOperator,
    D: Denoiser,
    solver: Solver,
    *,
    noise: float | Tensor,
    x0: Tensor | None = None,
    lowest: float = 0.25,
    iterations: int = 20,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Discrepancy:
    r"""Run ``solver``; then halve alpha for each image that does not meet its data, and go on, until it does.

        chi2(x) <= 1    or    factor / 2 < lowest,        alpha = factor (noise / sigma)^2,    factor = 1, 1/2, 1/4, ...

    alpha = (noise / sigma)^2 is what statistics says of the balance of data and prior, for a denoiser that knows this kind of image.
    One that smooths it too much leaves a residual larger than the noise, which the data tell without the truth. A residual that is
    smaller is left alone: alpha is never raised.

    ``solver`` is any that has a setting ``alpha``. Each halving runs it for at most ``iterations`` from the estimate before, with the
    levels of its last step, and with the same ``callbacks``. Images do not see each other, except that ``tol`` stops a run when all of the
    batch stand still.

    Raises :class:`InputError` for a solver without alpha, and for ``lowest`` outside of (0, 1]. Morozov 1966.
    """
    if not isinstance(solver, Solver):
        raise InputTypeError(f"discrepancy: solver must be a Solver object, such as solvers.make('fast_admm'), got {solver!r}.")
    settings = {f.name for f in fields(cast(Any, solver))}
    if "alpha" not in settings:
        raise InputError(
            f"discrepancy: {type(solver).__name__} has no setting alpha to lower. Use a solver with one, such as admm, fast_admm or hqs."
        )
    if isinstance(lowest, bool) or not isinstance(lowest, (int, float)) or not 0 < lowest <= 1:
        raise InputError(f"discrepancy: lowest must be a number in (0, 1], got {lowest!r}.")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 1:
        raise InputError(f"discrepancy: iterations must be an integer >= 1, got {iterations!r}.")
    with torch.no_grad():
        problem = make_problem(q, A, noise)
        problem.known_noise("discrepancy")
        measured = _measured(q, noise)
    result = solver.run(q, A, D, noise=noise, x0=x0, callbacks=callbacks, progress=progress)
    runs, x, found = [result], result.x, _chi2(problem, result.x, measured)
    last = solver.levels(problem, result.state)
    held = {name: last[name] for name in settings & last.keys()}
    factor = torch.ones_like(found)
    while bool((misses := (found > 1) & (factor / 2 >= lowest)).any()):
        factor = torch.where(misses, factor / 2, factor)
        again: Any = held | {"alpha": factor * last["alpha"], "iterations": iterations}
        runs.append(replace(cast(Any, solver), **again).run(q, A, D, noise=noise, x0=x, callbacks=callbacks, progress=progress))
        x = torch.where(misses.reshape(-1, 1, 1, 1), runs[-1].x, x)
        found = torch.where(misses, _chi2(problem, x, measured), found)
    return Discrepancy(x, factor, found, tuple(runs))


@dataclass(frozen=True)
class CrossValidation:
    """What :func:`cross_validate` found: ``sigma`` (B,), the level of each image; ``errors`` (S, B), those of all ``sigmas`` (S,)."""

    sigma: Tensor
    sigmas: Tensor
    errors: Tensor


def cross_validate(
    q: Tensor,
    A: LinearOperator,
    D: Denoiser,
    solver: Solver,
    *,
    noise: float | Tensor,
    sigmas: Sequence[float] | None = None,
    part: float = 0.1,
    folds: int = 3,
    seed: int = 0,
    progress: bool | None = None,
) -> CrossValidation:
    r"""The level of the denoiser that predicts best what it was not shown: no truth, and nothing to look at.

        sigma = argmin_s mean over H of |A x_s - q|^2 / noise^2

    H is a random ``part`` of the data, held out by an infinite noise, and x_s what ``solver`` makes of the others at the level s, with
    its other settings; the mean goes over so many ``folds``, parts that do not overlap: one alone is at the mercy of a few edges. Any operator, any denoiser, any solver with a setting ``sigma``; each image of the batch has its own level, which
    solvers take as it is: ``reconstruct(..., sigma=found.sigma)``. ``sigmas`` are by default six from 1/10 of the denoiser's range to
    its top, 6 to 60/255 where it tells none; the cost is that of ``folds`` times so many runs. Where ``noise`` is a map, infinite data are not held out.

    Data that are not independent of each other, such as averages of neighbours, are predicted too easily; the level is then too low.

    Raises :class:`InputError` for a solver without sigma, levels that are not > 0, and parts that are outside of (0, 1), or without a datum.
    Stone 1974; Golub, Heath and Wahba 1979 for its generalised form.
    """
    if not isinstance(solver, Solver):
        raise InputTypeError(f"cross_validate: solver must be a Solver object, such as solvers.make('admm'), got {solver!r}.")
    if "sigma" not in {f.name for f in fields(cast(Any, solver))}:
        raise InputError(f"cross_validate: {type(solver).__name__} has no setting sigma to choose.")
    if isinstance(part, bool) or not isinstance(part, (int, float)) or not 0 < part < 1:
        raise InputError(f"cross_validate: part must be a number between 0 and 1, got {part!r}.")
    if isinstance(folds, bool) or not isinstance(folds, int) or not 1 <= folds <= 1 / part + 1e-9:
        raise InputError(
            f"cross_validate: folds must be an integer from 1 to {int(1 / part + 1e-9)}, parts of {part:g} do not overlap; got {folds!r}."
        )
    if sigmas is None:
        top = (describe(D).sigma_range or (0.0, 60 / 255))[1]
        sigmas = schedules.geometric(top / 10, top, 6)
    if len(sigmas) == 0:
        raise InputError("cross_validate: sigmas must be one or more levels > 0, got none.")
    schedules.check_schedule(sigmas, "cross_validate: sigmas")
    with torch.no_grad():
        make_problem(q, A, noise).known_noise("cross_validate")
        level = torch.as_tensor(noise, dtype=q.dtype, device=q.device)
        level = level.reshape(-1, *[1] * (q.ndim - 1)) if level.ndim == 1 and len(A.data_shape) > 1 else level
        level = level.expand(level.shape[0] if level.ndim == q.ndim else 1, *A.data_shape)  # one map for all images, if it is the same
        draw = torch.rand(A.data_shape, generator=torch.Generator().manual_seed(seed)).to(q.device)
        seen = torch.isfinite(level) & (_reached(A) > 0)
        table = q.new_zeros(len(sigmas), len(q))
        for fold in range(folds):
            held = (draw >= fold * part) & (draw < (fold + 1) * part) & seen
            count = held.flatten(1).sum(1)
            if not bool((count > 0).all()) or not bool((seen & ~held).flatten(1).any(1).all()):
                raise InputError(
                    f"cross_validate: a part of {part:g} leaves an image without data to predict, or to learn from. Change it."
                )
            known = torch.where(held, torch.inf, level)
            for row, sigma in zip(table, sigmas, strict=True):
                again: Any = {"sigma": sigma}
                x = replace(cast(Any, solver), **again).run(q, A, D, noise=known, progress=progress).x
                missed = torch.where(held, (A(x) - torch.where(held, q, 0.0)) / torch.where(held, level, 1.0), 0.0)
                row += missed.flatten(1).square().sum(1) / count / folds
    levels = torch.tensor(list(sigmas), dtype=q.dtype, device=q.device)
    return CrossValidation(levels[table.argmin(dim=0)], levels, table)


def _reached(A: LinearOperator) -> Tensor:
    """Which data depend on the image at all, 0 where none does: a random image is seen there; what a mask leaves out predicts nothing."""
    x = torch.rand(1, *A.image_shape, generator=torch.Generator().manual_seed(0)).to(A._device())
    return A(x + 1).abs()


def recipe(
    q: Tensor,
    A: LinearOperator,
    D: Denoiser,
    *,
    noise: float | Tensor,
    sigma: schedules.Schedule,
    lowest: float = 0.25,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
) -> Discrepancy:
    """The one recipe of the CT of this package, for any image and scan, with nothing to choose:

    1. a start by total variation of strength 2: 150 iterations of fast_admm, fewer if they stand still;
    2. 40 iterations of fast_admm with D from there;
    3. :func:`discrepancy`: 20 more with half of alpha, and with a quarter, for the images whose residual exceeds the noise.

    ``sigma`` is ``schedules.from_noise(A, noise, scale=...)``; what it gives is in docs/ct.md. ``lowest`` = 1 leaves out the third step. The
    ``callbacks`` are those of the second and third. Raises what :func:`discrepancy` raises.
    """
    start = FastADMM(iterations=150, sigma=sigma, tol=5e-4).run(q, A, TV(strength=2.0), noise=noise, progress=progress)
    solver = FastADMM(iterations=40, sigma=sigma, tol=3e-4)
    return discrepancy(q, A, D, solver, noise=noise, x0=start.x, lowest=lowest, callbacks=callbacks, progress=progress)


def _chi2(problem: Problem, x: Tensor, measured: Tensor) -> Tensor:
    """chi2 of the whitened problem, where what was not measured is 0 on both sides; ``measured`` (B,) are counts."""
    with torch.no_grad():
        r = (problem.A(x) - problem.q).flatten(1)
        noise = torch.as_tensor(problem.known_noise("chi2"), dtype=r.dtype, device=r.device)
        return r.square().sum(1) / (measured * noise**2)


def _measured(q: Tensor, noise: float | Tensor) -> Tensor:
    """How many of the data of each image were measured, (B,): where a map of the noise is finite, else all."""
    seen = torch.ones_like(q, dtype=torch.bool)
    if isinstance(noise, Tensor) and noise.ndim > 1:
        seen = torch.isfinite(noise).to(q.device).expand_as(q)
    return seen.flatten(1).sum(1)


__all__ = ["CrossValidation", "Discrepancy", "chi2", "cross_validate", "discrepancy", "recipe"]
