"""Settings from the data themselves: ``auto``, all of them; ``chi2``, alpha lowered until the data are met (Morozov), sigma by cross-validation, one recipe for CT."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor
from tqdm.auto import tqdm

from pnp_mlpatch.denoisers import Denoiser, describe
from pnp_mlpatch.denoisers import _base as denoisers
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.judging import STEP, HeldOut, OnAll, Task, Walk
from pnp_mlpatch.loss import Loss
from pnp_mlpatch.noise import noise_level, probe, reached
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import (
    Callback,
    Problem,
    Result,
    Solver,
    Tuned,
    checked_start,
    make_problem,
    mark_outside,
    noise_in_start,
    schedules,
    solve,
    warn_outside,
    worst,
)
from pnp_mlpatch.solvers import registry as solver_registry


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
    where nothing was measured. Raises what :func:`~pnp_mlpatch.solvers.make_problem` raises.
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
        raise InputTypeError(
            f"discrepancy: solver must be a Solver object, such as solvers.make('fast_admm'), got {solver!r}."
        )
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
        again: Any = held | {
            "alpha": factor * last["alpha"] / problem.unit**2,
            "iterations": iterations,
        }
        runs.append(
            replace(cast(Any, solver), **again).run(
                q, A, D, noise=noise, x0=x, callbacks=callbacks, progress=progress
            )
        )
        x = torch.where(misses.reshape(-1, 1, 1, 1), runs[-1].x, x)
        found = torch.where(misses, _chi2(problem, x, measured), found)
    return Discrepancy(x, factor, found, tuple(runs))


def sure(
    q: Tensor,
    A: LinearOperator,
    estimate: Callable[[Tensor], Tensor],
    *,
    noise: float | Tensor,
    level: float | None = None,
    probes: int = 1,
    seed: int = 0,
) -> Tensor:
    r"""What an estimate misses of the data without their noise, in units of the noise, without the truth: Stein's unbiased estimate, (B,).

        |A (x(q) - f)|^2 / (m noise^2)  ~  |A x(q) - q|^2 / (m noise^2) - 1 + 2 div / m
        div = sum_i d(A x(q))_i / dq_i  ~  mean over b of <b, A x(q + eps b) - A x(q)> / eps        eps = noise / 10

    with m data that depend on the image, and ``probes`` random changes b (:func:`~pnp_mlpatch.noise.probe`). ``estimate`` is x(q), any function of the data, such as
    ``lambda q: reconstruct(q, A, D, noise=noise, sigma=sigma).x``; it is called 1 + probes times. What a mask leaves out does not
    count: to choose settings there, hold data out (:func:`cross_validate`). ``noise`` is a number, (B,), or a map, infinite where
    nothing was measured. What a blur nearly hides hardly counts either; with a ``level``, the deviation that images may have where the data tell nothing, it does:

        |B A (x(q) - f)|^2 / E|B e|^2,    B = (A^H A + c)^-1 A^H,  c = (noise / level)^2        (:class:`~pnp_mlpatch.loss.Loss`)

    Raises :class:`InputError` for settings that make no sense, and for a noise that is none.

    Stein 1981; Monte Carlo, Ramani, Blu and Unser 2008; of the image, Eldar 2009.
    """
    misfit, divergence = _probe(q, A, estimate, noise, level, probes, seed, "sure")
    return misfit - 1 + 2 * divergence


def gcv(
    q: Tensor,
    A: LinearOperator,
    estimate: Callable[[Tensor], Tensor],
    *,
    noise: float | Tensor,
    level: float | None = None,
    probes: int = 1,
    seed: int = 0,
) -> Tensor:
    r"""Generalised cross-validation, which needs the noise up to a factor only: its least value is where settings are best, (B,).

        gcv = (|A x(q) - q|^2 / (m noise^2)) / (1 - div / m)^2

    with div and the arguments as for :func:`sure`; at the truth's best it is about 1 plus sure, so sqrt(gcv) noise estimates the noise. Data of which all are
    followed (div = m) have an infinite one. Golub, Heath and Wahba 1979; with random changes, Hutchinson 1990.
    """
    misfit, divergence = _probe(q, A, estimate, noise, level, probes, seed, "gcv")
    return misfit / (1 - divergence).clamp_min(1e-12).square()


def _probe(
    q: Tensor,
    A: LinearOperator,
    estimate: Callable[[Tensor], Tensor],
    noise: float | Tensor,
    level: float | None,
    probes: int,
    seed: int,
    who: str,
) -> tuple[Tensor, Tensor]:
    """The misfit and the divergence, over what noise alone would make of a residual, of each image (B,)."""
    if not callable(estimate):
        raise InputTypeError(
            f"{who}: estimate must be a function of the data, got {type(estimate).__name__}. Example: lambda q: A.initial(q)."
        )
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 1:
        raise InputError(f"{who}: probes must be an integer >= 1, got {probes!r}.")
    if level is not None and (
        isinstance(level, bool) or not isinstance(level, (int, float)) or not 0 < level < math.inf
    ):
        raise InputError(
            f"{who}: level is a deviation of images, a number > 0, or None for the error of the data; got {level!r}."
        )
    with torch.no_grad():
        problem = make_problem(q, A, noise)
        problem.known_noise(who)
        deviation = _map_of(q, A, noise)
        seen = torch.isfinite(deviation) & reached(A)
        clean, generator = torch.where(seen, q, 0.0), torch.Generator().manual_seed(seed)
        size = torch.where(seen, deviation, 0.0)
        changes = [size * probe(q, seen.expand_as(q), generator) for _ in range(probes)]
        loss = Loss(
            problem,
            deviation,
            seen,
            None if level is None else torch.full((len(q),), float(level)).to(q),
        )
        fit, (expected, _) = A(estimate(clean)), loss.size(changes)
        divergence = torch.zeros_like(expected)
        for b in changes:
            moved = loss.see(A(estimate(clean + STEP * b)) - fit)
            divergence += (loss.see(b) * moved).flatten(1).sum(1).double() / STEP / probes
        return loss.see(fit - clean).flatten(1).square().sum(
            1
        ).double() / expected, divergence / expected


RANGE = (
    1 / 15,
    4,
)  # levels: from 1/15 of the denoiser's top, so many, each twice the one before; on all data one more, the top
STEPS = 3  # how often the factor of the best is multiplied and divided by 4, at most
PRIOR = 2.0  # times the top of the denoiser's range: the deviation of images by which their errors are judged
WHOLE = 0.5  # of an image that is measured as far as this nothing is held out
HELD = 30000  # how many data are held out, of all parts together, where noise is nearly all, unless there are not as many
HALVES = 3  # of so many parts the estimates are the start of the last run


def auto(
    q: Tensor,
    A: LinearOperator,
    D: Denoiser,
    solver: Solver,
    *,
    noise: float | Tensor | None = None,
    x0: Tensor | None = None,
    part: float = 0.1,
    folds: int | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    record: Mapping[str, Callable[[Tensor], Any]] | None = None,
    progress: bool | None = None,
) -> Result:
    r"""A reconstruction with nothing to choose: level, balance and the number of iterations are those whose error is least, as far as the data tell it.

        (sigma, factor, K) = argmin of the error expected of new data, in units of the noise        alpha = factor (noise / sigma)^2

    The solver runs its N = ``iterations`` at constant levels, from 1/15 of the top of the denoiser's range (of the deviation of the start, for one that
    tells none), and with one that rises geometrically to the top: where a prior is weak, the way is better than where it leads. Constant levels where the
    error still falls go on to 2 N. Then alpha of the best of them is multiplied and divided by 4, as long as that helps.

    **Where at least half as many data as pixels were measured** all of the runs are on all of the data, and the error is that of Stein, or where the noise is
    estimated, that of generalised cross-validation, which needs it up to a factor only (:func:`sure`, :func:`gcv`, with three random changes of the data):

        |B (A x_K - q)|^2 / N + 2 div / N                 (|B (A x_K - q)|^2 / N) / (1 - div / N)^2                 N = E|B e|^2, e the noise

    It is 1 + |B A (x - f)|^2 / N on the average, with f the truth. Operators whose data step has a closed form (``A.closed_form``: blurs, masks, shear) are judged by the
    error of the image, with B = (A^H A + c)^-1 A^H, c = (noise / (2 top))^2: twice the top of the range is what an image may be that the data tell nothing of; the others by
    that of the data, B = 1 / noise (:class:`~pnp_mlpatch.loss.Loss`), in which what A nearly hides hardly counts.

    Of each way the last iteration is taken whose error is above the least by no more than its standard error, 2 |noise B^T B A (x - y)| / N for two
    estimates: it is nearer to where the way leads, and where data do not tell that the start was better there is no reason to keep some of it. The best way
    is that of the least error. What is returned is a mean of these x_k of all ways:

        x = sum_k w_k x_k,    w = argmin |B (A x - q)|^2 / N + 2 sum_k w_k div_k / N    over w_k >= 0, sum_k w_k = 1

    Estimates that data do not tell apart may be far from each other, and their mean is nearer to the truth than they are,

        |x - f|^2 = sum_k w_k |x_k - f|^2 - sum_k w_k |x_k - x|^2

    on the average. But what is hidden is in no such error, and there a way of small weight may be far off: of the means between this one and the best way alone
    the nearest to that is taken whose error is as good to within its standard error. Settings, state and history are those of the best one alone; "share" in ``tried`` has the weights.

    **Where less was measured**, such as by masks, that would tell nothing of the rest. The runs are without a random ``part`` H of the data, held out by an
    infinite noise:

        e = mean over H of |A x_K - q|^2 / noise^2         held-out data H, from the others; 1 + what x_K misses
        d = the same over the others                       how closely x_K follows what it was shown
        1 + s [(1 - t)^2 (e - 1) + t^2] + (1 - s) (e - 1)

    with (1 - t)^2 = d / e: what x_K makes of a datum that it is shown is t of that datum and 1 - t of what the others predict, exactly so for linear
    estimates (leave-one-out), and t^2 is the noise that it takes over. The share s of the image that was measured, the number of data over that of
    pixels, has this error; the rest has that of what is predicted. A ``noise`` that exceeds the least e, which holds all of it, is taken for that.
    The errors are means over so many ``folds``, parts that do not overlap. A level that rises is then followed on all data, K iterations. With a constant one the
    first half of these go without one part, and the others start from the mean of three such estimates: a network may have several fixed points, and from
    another start it may come to one that was not judged. Among estimates that are as good as the best to within half a standard error (of the
    paired differences; a whole one where nearly nothing but noise is left, an error below 1.05) the one furthest from the data is taken: there the error
    alone cannot tell.

    Runs that lag behind in the first part, or by their misfit or the first change, are left out of the others; the error that is told of them on all data is
    then a lower bound. Each image of a batch has its own sigma, factor and K.

    ``noise`` is that of :func:`~pnp_mlpatch.solvers.make_problem`; None estimates it (:func:`~pnp_mlpatch.noise.noise_level`).
    ``x0`` is a start for all data, which are then run K iterations from there; it may hold what the data say that are held out. ``folds``, which always holds out,
    is by default 3 where that is done, 2 above 30000 data an image and 1 above 60000; where nearly nothing but noise is left, as many as hold out 30000
    data, or all of them. All of it costs about 20 to 30 runs; 8 with masks and many data, 60 with masks and little but noise.

    The result's ``tuned`` says what was chosen: sigma and factor are settings of the solver, "iterations" is K. The statuses are "stopped": an estimate that stops
    early is no fixed point.

    Raises :class:`InputError` for solvers without a level that may be chosen so (hqs has a schedule of its own; samplers), and what
    :func:`cross_validate` raises. Stein 1981; of the image, Eldar 2009; Golub, Heath and Wahba 1979; Stone 1974; means of estimates, Breiman 1996; what is taken
    over, Craven and Wahba 1979; the standard error, Breiman et al. 1984.
    """
    if not isinstance(solver, Solver):
        raise InputTypeError(
            f"auto: solver must be a Solver object, such as solvers.make('admm'), got {solver!r}."
        )
    start = time.perf_counter()
    if not tunable(solver):
        raise InputError(
            f"auto: {type(solver).__name__} has no level of the denoiser that may be chosen so. Take admm, drs, red, pgd ..., or cross_validate."
        )
    with torch.no_grad():
        level = noise_level(q, A) if noise is None else noise
        problem = make_problem(q, A, level)
        problem.known_noise("auto")
        if x0 is not None:
            checked_start(x0, problem, type(solver).__name__)
        high = _top(problem, D)
        N, B = solver.iterations, len(q)
        deviation, seen = _map_of(q, A, level), reached(A)
        seen = seen & torch.isfinite(deviation)
        measured = seen.flatten(1).sum(1)
        share = (measured / problem.A.initial(problem.q)[0].numel()).clamp_max(1).expand(B)
        whole = folds is None and bool((share >= WHOLE).all())
        few, most = _folds(int(measured.min()), part, folds)
        bar = tqdm(
            total=None, desc="auto", unit="run", disable=None if progress is None else not progress
        )
        task = Task(
            solver,
            q,
            A,
            D,
            level,
            deviation,
            noise is None,
            seen,
            share,
            PRIOR * high,
            x0,
            seed,
            bar.update,
        )
        judge = OnAll(task) if whole else HeldOut(task, part, few, most)
        one = torch.ones(B, dtype=q.dtype, device=q.device)
        first, along = _first(problem, high), torch.linspace(0, 1, N).to(high)[:, None]
        levels = (
            schedules.geometric(RANGE[0], 1.0, RANGE[1] + 1)
            if whole
            else [RANGE[0] * 2**k for k in range(RANGE[1])]
        )
        walks = [
            Walk(first * (high / first) ** along, one),
            *(Walk((high * s).expand(N, B), one) for s in levels),
        ]
        with bar:
            best = judge.judge(walks)
            for step in (4.0, 0.25) if task.balances else ():
                for _ in range(STEPS):
                    walks.append(Walk(best.sigma[:N], best.factor * step))
                    best = judge.judge(walks)
                    if not bool((best.walk == len(walks) - 1).any()):
                        break

        sigma, K = best.sigma, best.iterations.to(q.device)
        rises = ~(sigma == sigma[0]).all(0)
        settings: dict[str, Any] = {
            "sigma": sigma[: int(K.max())] if bool(rises.any()) else sigma[0]
        } | ({"alpha_scale": best.factor} if task.balances else {})
        begun = torch.where(rises, 0, K // 2) * (x0 is None and not whole)

        def until(many: Tensor) -> Callback:
            return lambda state: state.iteration >= many

        if isinstance(judge, HeldOut) and bool(
            (begun > 0).any()
        ):  # from where the data that were shown lead
            without: Any = {"tol": 0.0} | task.exact | settings | {"iterations": int(begun.max())}
            walk, starts = replace(cast(Any, solver), **without), []
            for held in judge.parts[:HALVES]:
                known = torch.where(held, torch.inf, deviation)
                starts.append(
                    solve(
                        walk, make_problem(q, A, known), D, callbacks=[until(begun)], progress=False
                    ).x
                )
            x0 = torch.where(
                (begun > 0).reshape(-1, 1, 1, 1),
                torch.stack(starts).mean(0),
                problem.A.initial(problem.q),
            )
    rest = K - begun
    last: Any = settings | {"tol": 0.0, "iterations": int(rest.max())}
    result = solve(
        replace(cast(Any, solver), **last),
        make_problem(q, A, level),
        D,
        x0=x0,
        callbacks=[*callbacks, until(rest)],
        record=record,
        progress=progress,
    )
    kind = (
        "a level that rises"
        if bool(rises.all())
        else "a level that rises for some"
        if bool(rises.any())
        else "a constant level"
    )
    x = (
        result.x
        if best.x is None
        else torch.where((best.many > 0).reshape(-1, 1, 1, 1), best.x, result.x)
    )
    half = (
        ", the second half of them from the mean of runs without a part,"
        if bool((begun > 0).any())
        else ""
    )
    mean = (
        f" The estimate is a mean of {_span(best.many, '')} of them."
        if bool((best.many > 1).any())
        else ""
    )
    why = (
        f"{len(walks)} ways of {_span(torch.tensor([len(walk.sigma) for walk in walks]))} were tried {judge.how}, {kind} is "
        f"{'best' if best.least else 'as good as the best, to within chance, and ' + judge.prefers}, with "
        f"{_span(K)}{half} and alpha = factor (noise / sigma)^2.{mean}"
    )
    columns = {
        "sigma": torch.cat([walk.sigma for walk in walks]).double(),
        "factor": torch.cat([walk.factor.expand_as(walk.sigma) for walk in walks]).double(),
        "iteration": torch.cat(
            [torch.arange(1.0, len(walk.sigma) + 1, dtype=torch.float64) for walk in walks]
        ),
        "error": best.errors,
        "share": best.shares,
    }
    tuned = Tuned(settings | {"iterations": K}, level, noise is None, columns, why)
    statuses = mark_outside(
        ["stopped" if name == "outside" else name for name in result.statuses], problem, x0, x
    )
    result = replace(
        result,
        x=x,
        tuned=tuned,
        statuses=statuses,
        status=worst(statuses),
        seconds=time.perf_counter() - start,
    )
    warn_outside(result, f"auto ({type(solver).__name__})")
    return result


def tunable(solver: Solver) -> bool:
    """Whether :func:`auto` can choose for this solver: it has a level that may be any, and rise as it runs."""
    return solver.rising and "sigma" in {f.name for f in fields(cast(Any, solver))}


def _top(problem: Problem, D: Denoiser) -> Tensor:
    """The largest level for each image, (B,): the top of the denoiser's range, or the deviation of the start."""
    known = describe(D).sigma_range
    high = problem.A.initial(problem.q).flatten(1).std(1)
    high = high if known is None else torch.full_like(high, known[1])
    if not bool((high > 0).all()):
        raise InputError(
            "auto: the start is constant, and the denoiser tells no range of sigma. Give sigma=."
        )
    return high


def _first(problem: Problem, high: Tensor) -> Tensor:
    """Where the level begins to rise, (B,): a quarter of what the noise becomes in the start, from 1/15 to 1/2 of the top."""
    s = noise_in_start(problem, "auto")
    return torch.minimum(torch.maximum(s / 4, high * RANGE[0]), high / 2)


def _folds(measured: int, part: float, folds: int | None) -> tuple[int, int]:
    """How many parts are held out, and how many where noise is nearly all."""
    if isinstance(part, bool) or not isinstance(part, (int, float)) or not 0 < part < 1:
        raise InputError(f"auto: part must be a number between 0 and 1, got {part!r}.")
    parts = max(1, int(1 / part + 1e-9))
    if folds is not None and (
        isinstance(folds, bool) or not isinstance(folds, int) or not 1 <= folds <= parts
    ):
        raise InputError(
            f"auto: folds must be an integer from 1 to {parts}, parts of {part:g} do not overlap; got {folds!r}."
        )
    if measured * part < 8:
        raise InputError(
            f"auto: {measured} data are too few to hold out a part of {part:g}. Give sigma=."
        )
    if folds is not None:
        return folds, folds
    few = min(3 if measured < HELD else 2 if measured < 2 * HELD else 1, parts)
    return few, max(few, min(parts, math.ceil(HELD / (measured * part))))


def _map_of(q: Tensor, A: LinearOperator, noise: float | Tensor) -> Tensor:
    """The noise as a map of the data, (1 or B, *data_shape)."""
    level = torch.as_tensor(noise, dtype=q.dtype, device=q.device)
    level = (
        level.reshape(-1, *[1] * (q.ndim - 1))
        if level.ndim == 1 and len(A.data_shape) > 1
        else level
    )
    return level.expand(
        level.shape[0] if level.ndim == q.ndim else 1, *A.data_shape
    )  # one map for all images, if it is the same


def _span(many: Tensor, what: str = " iterations") -> str:
    low, high = int(many.min()), int(many.max())
    return f"{low}{what}" if low == high else f"{low} to {high}{what}"


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
        raise InputTypeError(
            f"cross_validate: solver must be a Solver object, such as solvers.make('admm'), got {solver!r}."
        )
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
        level = _map_of(q, A, noise)
        draw = torch.rand(A.data_shape, generator=torch.Generator().manual_seed(seed)).to(q.device)
        seen = torch.isfinite(level) & reached(A)
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
                x = solve(
                    replace(cast(Any, solver), **again),
                    make_problem(q, A, known),
                    D,
                    progress=progress,
                ).x
                missed = torch.where(
                    held, (A(x) - torch.where(held, q, 0.0)) / torch.where(held, level, 1.0), 0.0
                )
                row += missed.flatten(1).square().sum(1) / count / folds
    levels = torch.tensor(list(sigmas), dtype=q.dtype, device=q.device)
    return CrossValidation(levels[table.argmin(dim=0)], levels, table)


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
    make = solver_registry.make
    smooth = denoisers.registry.make("tv", strength=2.0)
    start = make("fast_admm", iterations=150, sigma=sigma, tol=5e-4).run(
        q, A, smooth, noise=noise, progress=progress
    )
    solver = make("fast_admm", iterations=40, sigma=sigma, tol=3e-4)
    return discrepancy(
        q,
        A,
        D,
        solver,
        noise=noise,
        x0=start.x,
        lowest=lowest,
        callbacks=callbacks,
        progress=progress,
    )


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


__all__ = [
    "CrossValidation",
    "Discrepancy",
    "auto",
    "chi2",
    "cross_validate",
    "discrepancy",
    "gcv",
    "recipe",
    "sure",
    "tunable",
]
