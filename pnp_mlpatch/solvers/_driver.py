"""The loop that drives every solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.solvers._base import Callback, S, Solver, State
from pnp_mlpatch.solvers._batch import Batch
from pnp_mlpatch.solvers._log import Log, on_host
from pnp_mlpatch.solvers._problem import Problem
from pnp_mlpatch.solvers._result import Result
from pnp_mlpatch.solvers._stopping import Growth, Watch, mark_outside, worst


@torch.no_grad()
def solve(
    solver: Solver[Any],
    problem: Problem,
    D: Denoiser,
    *,
    x0: Tensor | None = None,
    state: State | None = None,
    callbacks: Sequence[Callback] = (),
    record: Mapping[str, Callable[[Tensor], Any]] | None = None,
    history: dict[str, list[float]] | None = None,
    progress: bool | None = None,
) -> Result:
    """Run a solver on a problem that is made already, without gradients.

    Parameters
    ----------
    solver : Solver
        The solver.
    problem : Problem
        The problem, of :func:`make_problem`.
    D : Denoiser
        D(x, sigma).
    x0, state, callbacks, record, history, progress
        As for :meth:`Solver.run`, which makes the problem, calls this, and warns of images that
        end "outside".

    Returns
    -------
    Result

    Raises
    ------
    Diverged
        If an estimate is not finite, or runs away. It holds the last finite state.
    InputError, InputTypeError
        If an argument does not fit.
    """
    log, denoise, stopped = Log(history, record), checked(D), False
    if x0 is None and state is None:
        x0 = problem.A.initial(problem.q)
    state = start(solver, problem, x0, state)
    batch, watch = Batch(solver, problem, state), Watch(solver.iterations, state)
    with tqdm(
        total=max(0, solver.iterations - state.iteration),
        desc=type(solver).__name__,
        disable=None if progress is None else not progress,
    ) as bar:
        while state.iteration < solver.iterations and not stopped and not batch.resting.all():
            old = state
            state, found = batch.step(denoise, old)
            levels, found = on_host(solver.levels(problem, old), found)
            batch.refuse(torch.as_tensor(found.pop("away")), old, state)
            row = log.add(state, levels, found, batch.rows)
            state = batch.rest(state, torch.as_tensor(found["residual"] < solver.tol))
            watch.see(old, state)
            bar.update()
            bar.set_postfix({n: f"{row[n]:.3g}" for n in ("residual", *log.record)}, refresh=False)
            answers = [callback(state) for callback in callbacks]
            stopped = any(answer is True for answer in answers)
            state = batch.halt(state, answers)
    per_image = log.per_image
    statuses = watch.statuses(
        per_image.get("residual"), batch.resting, batch.halted, stopped, solver.tol
    )
    statuses = mark_outside(statuses, problem, x0, state.x)
    return Result(
        state.x,
        worst(statuses),
        state,
        log.history,
        log.seconds,
        statuses,
        per_image,
        complex_image=problem.A.complex_image,
    )


def iterate(solver: Solver[S], problem: Problem, D: Denoiser, state: S) -> Iterator[S]:
    """Endless states after ``state``; see :meth:`Solver.iterate`."""
    denoise, growth = checked(D), Growth(state.x)
    while True:
        new = solver.step(problem, denoise, state)
        growth.refuse(type(solver).__name__, growth.look(new), state, new)
        state = new
        yield state


def start(solver: Solver[Any], problem: Problem, x0: Tensor | None, state: State | None) -> State:
    """Make the first state from ``x0``; or the ``state`` to resume from, checked."""
    who = type(solver).__name__
    if state is None:
        return solver.init(problem, checked_start(x0, problem, who))
    if type(state) is not solver.state_type:
        raise InputTypeError(
            f"{who}: state must be {solver.state_type.__name__} from an earlier run, "
            f"got {type(state).__name__}."
        )
    checked_start(state.x, problem, who)
    return state


def checked_start(x0: Tensor | None, problem: Problem, who: str) -> Tensor:
    """Return the start; raise unless it is an image of the problem and finite."""
    q, shape = problem.q, (problem.q.shape[0], *problem.A.image_shape)
    expected, got = f"{shape} {q.dtype} on {q.device}", type(x0).__name__
    if isinstance(x0, Tensor):
        got = f"{tuple(x0.shape)} {x0.dtype} on {x0.device}"
    if got != expected:
        elsewhere = isinstance(x0, Tensor) and x0.device != q.device
        advice = f" Move it with .to({str(q.device)!r})." if elsewhere else ""
        raise InputError(f"{who}: the start must be {expected}, got {got}.{advice}")
    assert x0 is not None
    if not bool(torch.isfinite(x0.detach()).all()):
        raise InputError(f"{who}: the start holds NaN or infinite values.")
    return x0


def checked(D: Denoiser) -> Denoiser:
    """``D`` with its output checked: a tensor of the same shape, dtype and device."""
    if not callable(D):
        raise InputTypeError(
            "solver: the denoiser must be callable as D(x, sigma), "
            f"got {type(D).__name__}. See as_denoiser."
        )
    name = getattr(D, "__name__", type(D).__name__)

    def denoise(x: Tensor, sigma: float | Tensor) -> Tensor:
        sigma = sigma.to(x.device) if isinstance(sigma, Tensor) else sigma
        try:
            y = D(x, sigma)
        except RuntimeError as error:
            weights = D.parameters() if isinstance(D, nn.Module) else iter(())
            place = next((w.device for w in weights), x.device)
            if place == x.device:
                raise
            raise InputError(
                f"denoiser {name}: its weights are on {place}, the image on {x.device}. "
                f"Move it with .to({str(x.device)!r})."
            ) from error
        if not isinstance(y, Tensor):
            raise InputTypeError(
                f"denoiser {name}: expected a tensor back, got {type(y).__name__}. "
                "Wrap it with as_denoiser(...)."
            )
        if y.shape != x.shape or y.dtype != x.dtype or y.device != x.device:
            raise InputError(
                f"denoiser {name}: expected {tuple(x.shape)} {x.dtype} on {x.device} back, "
                f"got {tuple(y.shape)} {y.dtype} on {y.device}. "
                "Wrap it with as_denoiser(...), or per_channel(...) if it takes one channel."
            )
        return y

    return denoise
