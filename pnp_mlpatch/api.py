"""``reconstruct``: the three families in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from pnp_mlpatch import denoisers, operators, solvers
from pnp_mlpatch.denoisers import as_denoiser, describe, for_complex
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.solvers import Callback, Result, Solver, State, Tuned, make_problem, schedules
from pnp_mlpatch.tuning import auto, noise_level, tunable

UNIT_TOP = 60 / 255  # top of the range of a denoiser for images in [0, 1]
MISMATCH = 1e-4  # of an adjoint, above which ``check`` warns


def reconstruct(
    q: Tensor,
    A: operators.LinearOperator,
    D: denoisers.Denoiser | str = "mlpatch",
    solver: Solver | str = "admm",
    *,
    noise: float | Tensor | None = None,
    x0: Tensor | None = None,
    state: State | None = None,
    callbacks: Sequence[Callback] = (),
    record: Mapping[str, Callable[[Tensor], Any]] | None = None,
    history: dict[str, list[float]] | None = None,
    progress: bool | None = None,
    tune: str | None = None,
    check: bool = False,
    **settings: Any,
) -> Result:
    r"""Find the image f with ``q = A f + n`` by a plug-and-play solver.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    D : Denoiser or str
        A denoiser or its name. Denoisers of grey images are adapted to complex images by
        :func:`~pnp_mlpatch.denoisers.complex_channels`.
    solver : Solver or str
        A solver or its name.
    noise : float or Tensor, optional
        Standard deviation of n in the units of q: a number, a tensor (B,) or a map. Where it is
        needed for the level and not given, it is estimated from the data.
    x0 : Tensor, optional
        Start, by default ``A.initial(q)``.
    state : State, optional
        State of an earlier run to resume from.
    callbacks, record, history, progress
        As for :meth:`~pnp_mlpatch.solvers.Solver.run`.
    tune : {"auto"}, optional
        ``"auto"`` searches for the level and the number of iterations
        (:func:`pnp_mlpatch.tuning.auto`). This takes nine runs.
    check : bool
        Measure first whether the adjoint of A is its transpose, and warn if it is not.
    **settings
        Settings of a solver given by name, such as ``sigma`` and ``iterations``;
        ``solvers.info(name)`` lists them.

    Returns
    -------
    Result
        ``result.tuned`` says which settings were chosen, and the noise that was used. It is None
        where nothing was chosen.

    Raises
    ------
    InputError
        If the data, the noise or a setting does not fit.
    InputTypeError
        If settings are given for a solver object, or an argument has the wrong type.

    Notes
    -----
    One call is one run. For a solver given by name without ``sigma`` and ``alpha``, the level
    follows from the noise (:func:`pnp_mlpatch.solvers.schedules.from_noise`); solvers that have a
    rule of their own (hqs, dpir, pgd, fista) and samplers keep it. A resumed run has the same
    level, since it follows from the same data.

    Examples
    --------
    >>> import torch
    >>> from pnp_mlpatch import operators, reconstruct
    >>> from pnp_mlpatch.operators.mask import Mask, random_mask
    >>> truth = torch.linspace(0, 1, 32).repeat(32, 1)[None, None]
    >>> A = Mask(random_mask((32, 32), keep=0.5))
    >>> result = reconstruct(A(truth), A, "tv", noise=0.02, sigma=0.05, iterations=30)
    >>> bool((result.x - truth).abs().mean() < 0.02)
    True
    >>> print(reconstruct(A(truth), A, "tv", noise=0.02).tuned)
    sigma = 0.05204; noise given: 0.02. The level follows from the noise (schedules.from_noise).
    """
    if tune not in (None, "auto"):
        raise InputError(
            f"reconstruct: tune must be 'auto' (search for the settings) or None, got {tune!r}."
        )
    if tune == "auto" and state is not None:
        raise InputError(
            "reconstruct: tune='auto' chooses before the first step, and cannot go on from a "
            "state. Leave one of them out."
        )
    # a setting that is None is one that was left out
    settings = {
        name: value
        for name, value in settings.items()
        if value is not None or name not in ("sigma", "alpha")
    }
    by_name = isinstance(solver, str)
    solver = _solver(solver, settings)
    D = _denoiser(D, q, A)
    if isinstance(A, (operators.Emission, operators.Transmission)):
        _check_counts(q, A, noise)
        noise = 1.0 if noise is None and by_name and "alpha" not in settings else noise
    if check and isinstance(A, operators.LinearOperator) and isinstance(q, Tensor):
        with operators.data_on(q.device):
            _warn_of_mismatch(A)
    run: Any = {"x0": x0, "callbacks": callbacks, "record": record, "progress": progress}
    if tune == "auto":
        return auto(q, A, D, solver, noise=noise, **run)
    tuned = None
    if by_name and not {"sigma", "alpha"} & settings.keys():
        solver, noise, tuned = level_from_noise(q, A, D, solver, noise)
    result = solver.run(q, A, D, noise=noise, state=state, history=history, **run)
    return replace(result, tuned=tuned)


def _solver(solver: Solver | str, settings: dict[str, Any]) -> Solver:
    """Return the solver object; settings go with a name only."""
    if isinstance(solver, str):
        return solvers.make(solver, **settings)
    if settings:
        raise InputTypeError(
            f"reconstruct: settings ({', '.join(settings)}) go with a solver given by name; "
            "set them on the solver object instead."
        )
    if not isinstance(solver, Solver):
        raise InputTypeError(
            f"reconstruct: solver must be a name or a Solver object, got {solver!r}."
        )
    return solver


def _denoiser(D: denoisers.Denoiser | str, q: Tensor, A: Any) -> denoisers.Denoiser:
    """Return the denoiser, by its name on the device of the data, adapted to complex images."""
    if isinstance(D, str) or not callable(D):
        D = as_denoiser(D)
        if isinstance(D, nn.Module) and isinstance(q, Tensor):
            D = D.to(q.device)
    complex_image = isinstance(A, operators.LinearOperator) and A.complex_image
    return for_complex(D) if complex_image else D


def level_from_noise(
    q: Tensor,
    A: operators.LinearOperator,
    D: denoisers.Denoiser,
    solver: Solver,
    noise: float | Tensor | None,
) -> tuple[Solver, float | Tensor, Tuned | None]:
    r"""Set the level of a solver from the noise of the data, and estimate that where it is None.

    Parameters
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        Data.
    A : LinearOperator
    D : Denoiser
        Its range of levels says in which units images are.
    solver : Solver
        Solvers with a rule of their own, and samplers, keep it.
    noise : float, Tensor or None
        Standard deviation of the noise.

    Returns
    -------
    solver : Solver
    noise : float or Tensor
    tuned : Tuned or None
        What was chosen or estimated; None where nothing was.
    """
    make_problem(q, A, noise)  # errors about the data come first
    estimated = noise is None
    noise = noise_level(q, A) if noise is None else noise
    if not tunable(solver) or cast(Any, solver).sigma is None:
        why = f"{type(solver).__name__} takes its levels from the noise, or has its own."
        return solver, noise, Tuned({}, noise, True, {}, why) if estimated else None
    known = describe(D).sigma_range
    scale = 1.0 if known is None else known[1] / UNIT_TOP
    with operators.data_on(q.device):
        level: Any = {"sigma": schedules.from_noise(A, noise, scale=scale, images=len(q))}
    why = "The level follows from the noise (schedules.from_noise)."
    return replace(cast(Any, solver), **level), noise, Tuned(level, noise, estimated, {}, why)


def _check_counts(
    q: Tensor, A: operators.Emission | operators.Transmission, noise: float | Tensor | None
) -> None:
    """Refuse other data and noise than those that an operator of counts has made of them."""
    who = type(A).__name__
    known = isinstance(q, Tensor) and q.is_floating_point() and q.shape[1:] == A.q.shape[1:]
    if known and q.device == A.q.device and q.dtype == A.q.dtype and not torch.allclose(q, A.q):
        raise InputError(
            f"reconstruct: {who} has its data in A.q, made of its counts, and q is not that. Call "
            "reconstruct(A.q, A, D, noise=1.0)."
        )
    if noise is not None and not bool((torch.as_tensor(noise) == 1).all()):
        raise InputError(
            f"reconstruct: the noise of A.q of {who} is 1: the counts say how far they can be "
            "trusted. Give noise=1.0; leave data out by a mask as the operator inside."
        )


def _warn_of_mismatch(A: operators.LinearOperator) -> None:
    mismatch = operators.adjoint_mismatch(A)
    if mismatch > MISMATCH:
        warnings.warn(
            f"reconstruct: |<A x, y> - <x, A^H y>| / (|A x| |y|) = {mismatch:.1e} for "
            f"{type(A).__name__}: its adjoint is not its transpose, so solvers may stall or "
            "diverge. See pnp_mlpatch.testing.check_operator.",
            stacklevel=3,
        )


__all__ = ["level_from_noise", "reconstruct"]
