"""``reconstruct``: the three families in one call."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from pnp_mlpatch import denoisers, operators, solvers
from pnp_mlpatch.denoisers import as_denoiser
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.noise import noise_level
from pnp_mlpatch.solvers import Callback, Result, Solver, State, Tuned
from pnp_mlpatch.tuning import auto, tunable

FEWEST = 100  # data an image, below which nothing is tuned unless it is asked for


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
    """Find the image f with ``q = A f + n`` by a plug-and-play solver.

    ``q`` is (B, *A.data_shape); ``D`` a denoiser or its name; ``solver`` a solver or its name, with its ``settings`` (``sigma``,
    ``iterations`` ...; ``solvers.info(name)`` lists them). ``noise`` is the standard deviation of n in the units of q: a number,
    a tensor (B,) or a map.

    Without ``sigma`` and ``alpha`` (or with None) the data choose (``tune="auto"``, :func:`pnp_mlpatch.tuning.auto`): the settings of the least error are
    taken, as held-out data tell it, or as Stein's estimate does, and then the mean of what was tried whose error is least. A ``noise``
    that is not given is estimated. ``result.tuned`` says what was chosen and why. That takes the time of about 20 to 30 runs;
    ``tune="off"`` takes the solver's defaults instead. Solvers whose level follows from the noise (hqs, dpir, pgd, fista) and samplers
    keep it, with a noise that may be estimated, and so do problems of fewer than 100 data. ``tune="auto"`` is for a solver object, and
    for pgd and fista, too. A ``state`` to go on from is never tuned.

    ``check`` measures first whether the adjoint of A is its transpose, and warns with the mismatch if it is above 1e-4. The other
    arguments are those of :meth:`~pnp_mlpatch.solvers.Solver.run`.

    >>> import torch
    >>> from pnp_mlpatch import operators, reconstruct
    >>> from pnp_mlpatch.operators.mask import Mask, random_mask
    >>> truth = torch.linspace(0, 1, 32).repeat(32, 1)[None, None]
    >>> A = Mask(random_mask((32, 32), keep=0.5))
    >>> result = reconstruct(A(truth), A, "tv", noise=0.02, sigma=0.05, iterations=30)
    >>> bool((result.x - truth).abs().mean() < 0.02)
    True
    >>> reconstruct(A(truth), A, "tv", noise=0.02).tuned is not None
    True
    """
    if tune not in (None, "auto", "off"):
        raise InputError(
            f"reconstruct: tune must be 'auto', 'off' or None (auto where neither sigma nor alpha is given), got {tune!r}."
        )
    # a setting that is None is one that was left out
    settings = {
        name: value
        for name, value in settings.items()
        if value is not None or name not in ("sigma", "alpha")
    }
    left_open = (
        state is None and isinstance(solver, str) and not {"sigma", "alpha"} & settings.keys()
    )
    enough = isinstance(q, Tensor) and math.prod(q.shape[1:]) >= FEWEST and len(q) > 0
    chosen = tune == "auto" or (tune is None and left_open and enough)
    if isinstance(solver, str):
        solver = solvers.make(solver, **settings)
    elif settings:
        raise InputTypeError(
            f"reconstruct: settings ({', '.join(settings)}) go with a solver given by name; set them on the solver object instead."
        )
    if not isinstance(solver, Solver):
        raise InputTypeError(
            f"reconstruct: solver must be a name or a Solver object, got {solver!r}."
        )
    if isinstance(D, str) or not callable(D):
        D = as_denoiser(D)
    if check and isinstance(A, operators.LinearOperator):
        mismatch = operators.adjoint_mismatch(A)
        if mismatch > 1e-4:
            warnings.warn(
                f"reconstruct: |<A x, y> - <x, A^H y>| / (|A x| |y|) = {mismatch:.1e} for {type(A).__name__}: its adjoint is not its transpose, "
                "so solvers may stall or diverge. See pnp_mlpatch.testing.check_operator.",
                stacklevel=2,
            )
    if chosen and tunable(solver) and (tune == "auto" or cast(Any, solver).sigma is not None):
        if state is not None:
            raise InputError(
                "reconstruct: tune='auto' chooses before the first step, and cannot go on from a state. Leave one of them out."
            )
        return auto(
            q,
            A,
            D,
            solver,
            noise=noise,
            x0=x0,
            callbacks=callbacks,
            record=record,
            progress=progress,
        )
    tuned = None
    if chosen and noise is None:
        noise = noise_level(q, A)
        tuned = Tuned(
            {},
            noise,
            True,
            {},
            f"{type(solver).__name__} takes its levels from the noise, or has its own.",
        )
    result = solver.run(
        q,
        A,
        D,
        noise=noise,
        x0=x0,
        state=state,
        callbacks=callbacks,
        record=record,
        history=history,
        progress=progress,
    )
    return replace(result, tuned=tuned)
