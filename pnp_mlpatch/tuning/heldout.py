"""Cross-validation: judge settings by how well data that were held out are predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser, describe
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Solver, make_problem, schedules, solve
from pnp_mlpatch.tuning.noise import reached
from pnp_mlpatch.tuning.sure import noise_as_map

LEVELS = 6  # levels that are tried by default, from a tenth of the top of the denoiser's range
DEFAULT_TOP = 60 / 255  # of denoisers that tell no range


@dataclass(frozen=True)
class CrossValidation:
    """What :func:`cross_validate` found.

    Attributes
    ----------
    sigma : Tensor, shape (B,)
        The level of least error for each image.
    sigmas : Tensor, shape (S,)
        All levels that were tried.
    errors : Tensor, shape (S, B)
        Their errors on the held-out data, in units of the noise.
    """

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
    holdout_fraction: float = 0.1,
    folds: int = 3,
    seed: int = 0,
    progress: bool | None = None,
) -> CrossValidation:
    r"""Choose the level of the denoiser by cross-validation.

    .. math::
        \hat\sigma = \arg\min_s \frac{1}{|H|} \sum_{i \in H} (A x_s - q)_i^2 / \mathrm{noise}_i^2

    where H is a random part of the data that the solver does not see, and :math:`x_s` its
    estimate from the others at level s. The error is averaged over ``folds`` disjoint parts.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    D : Denoiser
    solver : Solver
        Any solver with a setting ``sigma``; its other settings are kept.
    noise : float or Tensor
        Standard deviation of the noise: a number, a tensor (B,), or a map. Data of infinite noise
        are not held out.
    sigmas : sequence of float, optional
        Levels to try. By default six, from a tenth of the top of the denoiser's range to the top;
        6/255 to 60/255 where it tells no range.
    holdout_fraction : float
        Fraction of the data that is held out at a time, in (0, 1).
    folds : int
        Number of parts. The cost is ``folds * len(sigmas)`` runs.
    seed : int
        Seed of the random parts.
    progress : bool, optional
        Whether to show a progress bar.

    Returns
    -------
    CrossValidation
        Each image has its own level: ``reconstruct(..., sigma=found.sigma)``.

    Raises
    ------
    InputError
        If the solver has no sigma, a level is not positive, or a part is empty.

    Notes
    -----
    Data that depend on each other, such as averages of neighbours, are predicted too easily. The
    level is then too low.

    References
    ----------
    Stone 1974; Golub, Heath and Wahba 1979.
    """
    who = "cross_validate"
    if not isinstance(solver, Solver):
        raise InputTypeError(
            f"{who}: solver must be a Solver object, such as solvers.make('admm'), got {solver!r}."
        )
    if "sigma" not in {f.name for f in fields(cast(Any, solver))}:
        raise InputError(f"{who}: {type(solver).__name__} has no setting sigma to choose.")
    check_folds(who, holdout_fraction, folds)
    if sigmas is None:
        top = (describe(D).sigma_range or (0.0, DEFAULT_TOP))[1]
        sigmas = schedules.geometric(top / 10, top, LEVELS)
    if len(sigmas) == 0:
        raise InputError(f"{who}: sigmas must be one or more levels > 0, got none.")
    schedules.check_schedule(sigmas, f"{who}: sigmas")
    with torch.no_grad():
        make_problem(q, A, noise).known_noise(who)
        level = noise_as_map(q, A, noise)
        seen = torch.isfinite(level) & reached(A, len(q), q.device)
        table = q.new_zeros(len(sigmas), len(q))
        for held in holdout_masks(seen, A, holdout_fraction, folds, seed, who):
            known = torch.where(held, torch.inf, level)
            for row, sigma in zip(table, sigmas, strict=True):
                again: Any = {"sigma": sigma}
                at_level = replace(cast(Any, solver), **again)
                x = solve(at_level, make_problem(q, A, known), D, progress=progress).x
                row += mean_square(standardised(A(x), q, level, held), held) / folds
    levels = torch.tensor(list(sigmas), dtype=q.dtype, device=q.device)
    return CrossValidation(levels[table.argmin(dim=0)], levels, table)


def holdout_masks(
    seen: Tensor, A: LinearOperator, holdout_fraction: float, folds: int, seed: int, who: str
) -> list[Tensor]:
    """Disjoint random parts of the measured data, one mask of the shape of ``seen`` a fold.

    Parameters
    ----------
    seen : Tensor
        True where data were measured.
    A : LinearOperator
        The operator.
    holdout_fraction : float
        Part of the data in each mask.
    folds : int
        Number of masks.
    seed : int
        Seed of the draw.
    who : str
        The caller, for messages.

    Returns
    -------
    list of Tensor
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(A.data_shape, generator=generator).to(seen.device)
    masks = []
    for fold in range(folds):
        low, high = fold * holdout_fraction, (fold + 1) * holdout_fraction
        held = (draw >= low) & (draw < high) & seen
        if not bool(held.flatten(1).any(1).all() and (seen & ~held).flatten(1).any(1).all()):
            raise InputError(
                f"{who}: holding out {holdout_fraction:g} of the data leaves an image without "
                "data to predict, or to learn from. Change holdout_fraction."
            )
        masks.append(held)
    return masks


def standardised(fit: Tensor, q: Tensor, noise: Tensor, where: Tensor) -> Tensor:
    r"""Residuals over the noise, 0 outside of ``where``.

    Parameters
    ----------
    fit : Tensor
        A x.
    q : Tensor, shape (B, \*data_shape)
        Data.
    noise : float or Tensor
        Standard deviation of the noise: a number, (B,) or a map.
    where : Tensor
        True where the data count.

    Returns
    -------
    Tensor
    """
    residual = fit - torch.where(where, q, 0.0)
    return torch.where(where, residual / torch.where(where, noise, 1.0), 0.0)


def mean_square(r: Tensor, where: Tensor) -> Tensor:
    r"""Mean of r^2 over ``where``, for each image, shape (B,).

    Parameters
    ----------
    r : Tensor, shape (B, \*data_shape)
        A residual.
    where : Tensor
        True where the data count.

    Returns
    -------
    Tensor, shape (B,)
    """
    return r.flatten(1).square().sum(1) / where.flatten(1).sum(1)


def check_folds(who: str, holdout_fraction: float, folds: int) -> None:
    """Raise unless the fraction is in (0, 1) and so many folds fit.

    Parameters
    ----------
    who : str
        The caller, for messages.
    holdout_fraction : float
        Part of the data in each mask.
    folds : int
        Number of masks.
    """
    number = isinstance(holdout_fraction, (int, float)) and not isinstance(holdout_fraction, bool)
    if not number or not 0 < holdout_fraction < 1:
        raise InputError(
            f"{who}: holdout_fraction must be a number between 0 and 1, got {holdout_fraction!r}."
        )
    most = max(1, int(1 / holdout_fraction + 1e-9))
    if isinstance(folds, bool) or not isinstance(folds, int) or not 1 <= folds <= most:
        raise InputError(
            f"{who}: folds must be an integer from 1 to {most}, since parts of "
            f"{holdout_fraction:g} do not overlap; got {folds!r}."
        )


__all__ = ["CrossValidation", "cross_validate"]
