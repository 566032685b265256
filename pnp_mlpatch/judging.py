"""How settings are judged without the truth: :class:`OnAll`, by runs on all of the data, and :class:`HeldOut`, by runs without some of them.

Both follow walks, runs at levels that are given, and choose one of their iterations for each image. :func:`pnp_mlpatch.tuning.auto` is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.errors import Diverged
from pnp_mlpatch.loss import CHANCE, Loss, stacked, toward
from pnp_mlpatch.noise import probe
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Solver, State, make_problem, solve

LONG = 2  # how many times ``iterations`` a walk of a constant level goes on while its error falls
FALL = 0.02  # by more than this, of the expected error less that of the noise, in the last quarter
RACE = 3.0  # how many standard errors a walk may lag behind the best after the first change or part
PROBES = 3  # random changes of the data, where all are used
STEP = 0.1  # by how much of the noise data are changed
ERRORS = (
    0.5,
    1.0,
)  # how many a smoother estimate may be where parts are held out: the second where noise is nearly all
NOISE = 1.05  # which it is where the error expected of new data, in units of the noise, is below this; more parts are held out then


@dataclass(frozen=True)
class Walk:
    """A run to try: the level at each iteration (N, B), and by what alpha is multiplied (B,)."""

    sigma: Tensor
    factor: Tensor

    @property
    def constant(self) -> bool:
        return bool((self.sigma == self.sigma[0]).all())

    def longer(self, N: int) -> Walk:
        """The same constant level for N iterations more."""
        return replace(self, sigma=self.sigma[:1].expand(len(self.sigma) + N, -1))


@dataclass(frozen=True)
class Choice:
    """The walk of each image (B,), its levels (N, B), factor (B,) and iterations (B,); its row in the table of all ``errors`` (R, B).

    ``least`` is whether that has the least error, for every image; ``shares`` (R, B) says what part each row has in the estimate, and ``x`` is that
    (B, C, H, W), where it is known.
    """

    walk: Tensor
    sigma: Tensor
    factor: Tensor
    iterations: Tensor
    least: bool
    shares: Tensor
    errors: Tensor
    x: Tensor | None = None

    @property
    def many(self) -> Tensor:
        """How many rows have a part in the estimate of each image, (B,)."""
        return (self.shares > 0).sum(0)


@dataclass(frozen=True)
class Task:
    """What settings are chosen for: a solver, data, an operator, a denoiser and a start.

    ``noise`` is as solvers take it, ``deviation`` a map of it, ``estimated`` whether it is; ``seen`` says where anything was measured, ``share`` (B,) of how much
    of the image, and ``level`` (B,) how far from it an image may be that they tell nothing of; ``seed`` draws the changes, and ``ran`` is called before each run.
    """

    solver: Solver
    q: Tensor
    A: LinearOperator
    D: Denoiser
    noise: float | Tensor
    deviation: Tensor
    estimated: bool
    seen: Tensor
    share: Tensor
    level: Tensor
    x0: Tensor | None
    seed: int
    ran: Callable[[], object]

    @property
    def balances(self) -> bool:
        """Whether the solver has a factor of alpha to choose."""
        return "alpha_scale" in self._settings and cast(Any, self.solver).alpha is None

    @property
    def exact(self) -> dict[str, Any]:
        """Settings of runs without a part: data steps that are nearly exact, where they are iterative."""
        steps = "data_iterations" in self._settings
        return {"data_iterations": max(10, cast(Any, self.solver).data_iterations)} if steps else {}

    @property
    def _settings(self) -> set[str]:
        return {f.name for f in fields(cast(Any, self.solver))}

    def at(self, walk: Walk, settings: dict[str, Any] | None = None) -> Solver:
        """The solver for a walk, to its end."""
        self.ran()
        chosen: Any = {"tol": 0.0, "sigma": walk.sigma, "iterations": len(walk.sigma)} | (
            settings or {}
        )
        return replace(
            cast(Any, self.solver),
            **chosen,
            **({"alpha_scale": walk.factor} if self.balances else {}),
        )


class OnAll:
    """Runs on all of the data, judged by Stein's estimate, or where the noise is estimated by generalised cross-validation; of the image where h has a closed form.

    A walk stands for its last iteration whose error chance does not tell from its least: nearer to where it leads, and less of where it came from.
    """

    prefers = "the later"

    def __init__(self, task: Task):
        problem = make_problem(task.q, task.A, task.noise)
        self.task, self.paths = task, list[_Path]()
        self.loss = Loss(
            problem, task.deviation, task.seen, task.level if problem.A.closed_form else None
        )
        generator, size = (
            torch.Generator().manual_seed(task.seed),
            torch.where(task.seen, task.deviation, 0.0),
        )
        self.changes = [
            size * probe(task.q, task.seen.expand_as(task.q), generator) for _ in range(PROBES)
        ]
        self.size, self.count = self.loss.size(self.changes)

    def judge(self, walks: list[Walk]) -> Choice:
        """Follow the walks that are new, as long as their errors fall, and choose; ``walks`` that go on are replaced by longer ones."""
        task, N = self.task, self.task.solver.iterations
        for k in range(len(self.paths), len(walks)):
            least = (
                torch.stack([path.error.min(0).values for path in self.paths]).min(0).values
                if self.paths
                else None
            )
            path = self._follow(task.at(walks[k]), least)
            while (
                walks[k].constant
                and len(walks[k].sigma) < LONG * N
                and path.whole
                and _fell(path.error)
            ):
                walks[k] = walks[k].longer(N)
                path = self._follow(task.at(walks[k]), least, path)
            self.paths.append(replace(path, states=()))
        return self._choice(walks)

    @property
    def how(self) -> str:
        """In words, for what a result says."""
        of = "data" if self.loss.level is None else "image"
        return f"on all of the data; as {'GCV' if self.task.estimated else 'SURE'} of the {of} with {PROBES} random changes tells"

    def _choice(self, walks: Sequence[Walk]) -> Choice:
        """For each image the walk of least error, and of what all walks stand for the mean whose error is least, as near to what that one stands for as chance allows."""
        task, errors = self.task, torch.cat([path.error for path in self.paths])
        given = self.loss.see(task.q)
        rows, share = (
            torch.stack([path.row for path in self.paths]),
            torch.zeros(len(walks), len(task.q), dtype=torch.float64),
        )
        least = torch.stack(
            [
                path.error.min(0).values
                if path.judged
                else torch.full_like(path.error[0], torch.inf)
                for path in self.paths
            ]
        )
        for b in range(len(task.q)):
            mine = [
                k
                for k, path in enumerate(self.paths)
                if path.judged and bool(torch.isfinite(path.error[:, b]).any())
            ]
            if mine:
                fits, size = torch.stack([self.paths[k].fit[b] for k in mine]), float(self.size[b])
                residuals = (fits - given[b]).flatten(1).double()
                moved = torch.stack(
                    [self.paths[k].divergence[:, rows[k, b], b].mean() for k in mine]
                )
                noise = float(errors[:, b].min()) if task.estimated else 1.0
                products, moved = (residuals @ residuals.T / size).cpu(), (noise * moved).cpu()
                best = int(least[mine, b].argmin())

                def deviation(
                    z: Tensor, b: int = b, fits: Tensor = fits, scale: float = noise**0.5 / size
                ) -> float:
                    apart = torch.zeros_like(given)
                    apart[b] = (z.to(fits).reshape(-1, *[1] * (fits.ndim - 1)) * fits).sum(0)
                    return float(self.loss.deviation(apart)[b]) * scale

                share[mine, b] = toward(best, stacked(products, moved), products, moved, deviation)
        share = share.to(errors.device)
        x, part = torch.stack([path.x for path in self.paths]), share.reshape(*share.shape, 1, 1, 1)
        x = torch.where(part > 0, part.to(x.dtype) * x, 0.0).sum(0)
        shares = [
            torch.zeros_like(path.error).scatter(0, rows[k : k + 1], share[k : k + 1])
            for k, path in enumerate(self.paths)
        ]
        best, begins = (
            least.argmin(0),
            torch.tensor([0, *(len(path.error) for path in self.paths)]).to(rows).cumsum(0),
        )
        return _chosen(
            walks,
            (begins[best] + rows.gather(0, best[None])[0]).cpu(),
            errors,
            torch.cat(shares),
            x,
        )

    def _follow(self, solver: Solver, least: Tensor | None, before: _Path | None = None) -> _Path:
        """Run on all data, or go on from the path ``before``; then on changed ones, as long as the error is not far above ``least``."""
        task, see, size = self.task, self.loss.see, self.size
        q, A = task.q, task.A
        N, B = solver.iterations - (0 if before is None else len(before.misfit)), len(q)

        def run(data: Tensor, which: int, look: Callable[[State], None]) -> State | None:
            state = None if before is None else before.states[which]
            start = task.x0 if state is None else None
            try:
                return solve(
                    solver,
                    make_problem(data, A, task.noise),
                    task.D,
                    x0=start,
                    state=state,
                    callbacks=[look],
                    progress=False,
                ).state
            except Diverged:
                return None

        def column(values: list[Tensor]) -> Tensor:
            rest = torch.full((N - len(values), B), torch.inf, dtype=torch.float64, device=q.device)
            return torch.cat([torch.stack(values), rest]) if values else rest

        given, xs, fits = see(q), list[Tensor](), list[Tensor]()

        def keep(state: State) -> None:
            xs.append(state.x)
            fits.append(see(A(state.x)))

        end = run(q, 0, keep)
        misfit = column(
            [(mine - given).flatten(1).square().sum(1).double() / size for mine in fits]
        )
        divergence, states = (
            [torch.zeros_like(misfit)],
            [end],
        )  # no less, for an estimate that is of use
        for k, change in enumerate(self.changes):
            far = _error(misfit, torch.stack(divergence), task.estimated).min(0).values
            if (
                before is None
                and least is not None
                and bool((far > least * (1 + RACE * (2 / self.count).sqrt())).all())
            ):
                break
            moved, b = list[Tensor](), see(change)

            def compare(state: State, b: Tensor = b, moved: list[Tensor] = moved) -> None:
                if len(moved) < len(fits):
                    moved.append(
                        ((see(A(state.x)) - fits[len(moved)]) * b).flatten(1).sum(1).double()
                        / (STEP * size)
                    )

            states.append(run(q + STEP * change, 1 + k, compare))
            divergence = [*divergence[k == 0 :], column(moved)]
        begun, trace = 0, torch.stack(divergence)
        if before is not None:
            begun, misfit, trace = (
                len(before.misfit),
                torch.cat([before.misfit, misfit]),
                torch.cat([before.divergence, trace], dim=1),
            )
        error = _error(misfit, trace, task.estimated)

        def pick(row: Tensor, new: list[Tensor], old: Tensor | None, nothing: Tensor) -> Tensor:
            """Of each image what it was at its ``row``, which may be one of before."""
            picked = []
            for b, k in enumerate(row.tolist()):
                if k < begun and old is not None:
                    picked.append(old[b])
                else:
                    picked.append(new[k - begun][b] if new else nothing[b])
            return torch.stack(picked)

        none = torch.zeros_like(given)
        low = pick(error.argmin(0), fits, None if before is None else before.low, none)
        row = (
            error.argmin(0)
            if before is None
            else torch.where(error.argmin(0) < begun, before.row, error.argmin(0))
        )
        unit = (error.min(0).values if task.estimated else torch.ones_like(size)).sqrt() / size
        for k, fit in enumerate(fits):
            near = error[begun + k] - error.min(0).values <= CHANCE * unit * self.loss.deviation(
                fit - low
            )
            row = torch.where(near, torch.maximum(row, torch.full_like(row, begun + k)), row)
        x = pick(row, xs, None if before is None else before.x, q.new_zeros(B, *A.image_shape))
        fit = pick(row, fits, None if before is None else before.fit, none)
        return _Path(
            misfit, trace, error, tuple(states), row, x, fit, low, len(states) == 1 + PROBES
        )


class HeldOut:
    """Runs without a part of the data, judged by how well it is predicted and how closely the others are followed.

    ``parts`` are random masks of a ``part`` of the data each, which do not overlap. The first ``few`` are held out in turn; where noise is nearly all,
    ``most``.
    """

    prefers = "the smoother"

    def __init__(self, task: Task, part: float, few: int, most: int):
        draw = torch.rand(task.A.data_shape, generator=torch.Generator().manual_seed(task.seed)).to(
            task.q.device
        )
        self.parts = [
            (draw >= fold * part) & (draw < (fold + 1) * part) & task.seen for fold in range(most)
        ]
        self.task, self.part, self.few, self.looks = task, part, few, list[list[_Look]]()

    def judge(self, walks: list[Walk]) -> Choice:
        """Look at the walks that are new, then at all that do not lag, and choose; ``walks`` that go on are replaced by longer ones."""
        first = not self.looks
        choice = self._look_at(walks)
        if (
            first
            and self.few < len(self.parts)
            and bool((choice.errors.min(0).values < NOISE).any())
        ):
            self.few = len(self.parts)
            choice = self._look_at(walks)
        return choice

    @property
    def how(self) -> str:
        """In words, for what a result says."""
        return f"without some of the data ({self.few} x {self.part:.0%}); as these tell"

    def _look_at(self, walks: list[Walk]) -> Choice:
        task, share, N = self.task, self.task.share, self.task.solver.iterations

        def look(walk: Walk, part: int, before: _Look | None = None) -> _Look:
            return _look(task.at(walk, task.exact), task, self.parts[part], before)

        self.looks += [[look(walk, 0)] for walk in walks[len(self.looks) :]]
        for k, mine in enumerate(self.looks):
            if not _lags(mine, self.looks, share):
                while (
                    len(mine) == 1
                    and walks[k].constant
                    and len(walks[k].sigma) < LONG * N
                    and _falls(mine[0], share)
                ):
                    walks[k] = walks[k].longer(N)
                    mine[0] = look(walks[k], 0, mine[0])
                mine[:] = [replace(one, state=None) for one in mine]
                mine += [
                    replace(look(walks[k], part), state=None) for part in range(len(mine), self.few)
                ]
        return _smoother(walks, self.looks, share)


@dataclass(frozen=True)
class _Look:
    """A walk without the data ``held`` (B, n): its squared errors there (N, B, n), and the mean of those at the others (N, B), in units of the noise;
    ``state`` is where it ended."""

    errors: Tensor
    misfit: Tensor
    held: Tensor
    state: State | None


def _error(misfit: Tensor, divergence: Tensor, estimated: bool) -> Tensor:
    """SURE plus 1, or where the noise is estimated GCV, of a misfit (N, B) and divergences (P, N, B), over the noise; infinite where they are not finite."""
    t = divergence.mean(0)
    error = misfit / (1 - t).clamp_min(1e-6).square() if estimated else misfit + 2 * t
    return torch.where(torch.isfinite(misfit) & torch.isfinite(t), error, torch.inf)


@dataclass(frozen=True)
class _Path:
    """A walk on all data: the misfit |B (A x - q)|^2 (N, B) and the divergence (P, N, B), over E|B e|^2, infinite where it diverged, and the ``error`` (N, B), 1 + what
    is lost (:class:`~pnp_mlpatch.loss.Loss`); ``states`` are where it and its P changed copies ended, and it was ``judged`` if there are all of them.

    ``row`` (B,) is the last iteration whose error is above the least by no more than CHANCE standard errors of that; ``x`` (B, C, H, W) is the estimate there, ``fit``
    is B A x of it, and ``low`` that of least error.
    """

    misfit: Tensor
    divergence: Tensor
    error: Tensor
    states: tuple[State | None, ...]
    row: Tensor
    x: Tensor
    fit: Tensor
    low: Tensor
    judged: bool

    @property
    def whole(self) -> bool:
        """Whether it may go on: it was followed with all changes, and nothing diverged."""
        return self.judged and all(state is not None for state in self.states)


def _look(solver: Solver, task: Task, held: Tensor, before: _Look | None = None) -> _Look:
    """Run without ``held``, or go on from where the look ``before`` ended; a run that diverges has infinite errors from there on."""
    q, A, deviation = task.q, task.A, task.deviation
    errors: list[Tensor] = [] if before is None else list(before.errors)
    misfits: list[Tensor] = [] if before is None else list(before.misfit)
    held, seen = held.expand_as(q), task.seen.expand_as(q)
    place, state = held.any(0), None if before is None else before.state
    rest = seen & ~held

    def look(state: State) -> None:
        r = torch.where(
            seen, (A(state.x) - torch.where(seen, q, 0.0)) / torch.where(seen, deviation, 1.0), 0.0
        ).square()
        errors.append(torch.where(held, r, 0.0)[:, place].double())
        misfits.append(
            torch.where(rest, r, 0.0).flatten(1).sum(1).double() / rest.flatten(1).sum(1)
        )

    try:
        known = torch.where(held, torch.inf, deviation)
        state = solve(
            solver, make_problem(q, A, known), task.D, state=state, callbacks=[look], progress=False
        ).state
    except Diverged:
        state = None
    e = torch.full(
        (solver.iterations, len(q), int(place.sum())),
        torch.inf,
        dtype=torch.float64,
        device=q.device,
    )
    m = torch.zeros(solver.iterations, len(q), dtype=torch.float64, device=q.device)
    if errors:
        e[: len(errors)], m[: len(errors)] = torch.stack(errors), torch.stack(misfits)
    return _Look(e, m, held[:, place], state)


def _expected(
    looks: Sequence[Sequence[_Look]], parts: int, share: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The error expected of new data in units of the noise, each iteration of each walk a row: as the first ``parts`` tell (R, B); by each datum,
    less a constant (R, B, n); and the misfits (R, B).

    Walks that were not run on as many, and iterations that diverged, have infinite ones.
    """
    full = next(mine for mine in looks if len(mine) >= parts)
    held = torch.cat([look.held for look in full[:parts]], dim=1).double()
    told = [
        torch.cat([look.errors for look in mine[:parts]], dim=2)
        if len(mine) >= parts
        else torch.full((len(mine[0].errors), *held.shape), torch.inf).to(held)
        for mine in looks
    ]
    errors = torch.cat(told)
    misfit = torch.cat(
        [torch.stack([look.misfit for look in mine[:parts]]).mean(0) for mine in looks]
    )
    mean = errors.sum(2) / held.sum(1)
    finite = torch.isfinite(mean)
    noise = mean.min(0).values.clamp(
        torch.finfo(torch.float32).tiny, 1.0
    )  # it can be no more than the least error
    kept = torch.where(
        finite, (misfit / mean.clamp_min(torch.finfo(torch.float32).tiny)).clamp_max(1), 1.0
    )
    taken = share * (1 - kept.sqrt()).square()
    errors = (
        (share * kept + 1 - share)[..., None] * (errors - noise[:, None]) / noise[:, None]
        + taken[..., None]
    ) * held
    return torch.where(finite, 1 + errors.sum(2) / held.sum(1), torch.inf), errors, misfit


def _against(mean: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """By how much each row is worse than the best for its image, and the standard error of that, (R, B)."""
    best = mean.argmin(0)
    least = errors.gather(0, best[None, :, None].expand(1, -1, errors.shape[2]))
    difference = torch.where(torch.isfinite(mean)[..., None], errors - least, 0.0)
    return mean - mean.min(0).values, difference.std(2) / errors.shape[2] ** 0.5


def _smoother(walks: Sequence[Walk], looks: Sequence[Sequence[_Look]], share: Tensor) -> Choice:
    """For each image the row furthest from the data of those that are as good as the best, to within ERRORS."""
    mean, errors, misfit = _expected(looks, max(len(mine) for mine in looks), share)
    worse, deviation = _against(mean, errors)
    slack = torch.where(mean.min(0).values < NOISE, ERRORS[1], ERRORS[0])
    row = torch.where(worse <= slack * deviation, misfit, -1.0).argmax(0).cpu()
    shares = torch.zeros_like(mean).scatter(0, row.to(mean.device)[None], 1.0)
    return _chosen(walks, row, mean, shares)


def _lags(mine: Sequence[_Look], looks: Sequence[Sequence[_Look]], share: Tensor) -> bool:
    """Whether no iteration of a walk comes near the best of all, for any image, as far as it was run."""
    others = [look for look in looks if len(look) >= len(mine)]
    mean, errors, _ = _expected([*others, mine], len(mine), share)
    worse, deviation = _against(mean, errors)
    N = len(mine[0].errors)
    return not bool((worse[-N:] <= RACE * deviation[-N:]).any())


def _falls(look: _Look, share: Tensor) -> bool:
    """Whether a walk would be better for going on, for any image."""
    return look.state is not None and _fell(_expected([[look]], 1, share)[0])


def _chosen(
    walks: Sequence[Walk], row: Tensor, errors: Tensor, shares: Tensor, x: Tensor | None = None
) -> Choice:
    """What the ``row`` (B,) of the table of ``errors`` (R, B) stands for."""
    walk = torch.cat([torch.full((len(walk.sigma),), k) for k, walk in enumerate(walks)])[row]
    start = torch.tensor([0, *(len(walk.sigma) for walk in walks)]).cumsum(0)[walk]
    its = [walks[k] for k in walk.tolist()]
    N = max(len(walk.sigma) for walk in its)
    sigma = torch.stack(
        [
            walk.sigma[torch.arange(N).clamp_max(len(walk.sigma) - 1), b]
            for b, walk in enumerate(its)
        ],
        dim=1,
    )
    factor = torch.stack([walk.factor[b] for b, walk in enumerate(its)])
    least = bool((row == errors.argmin(0).cpu()).all())
    return Choice(walk, sigma, factor, row - start + 1, least, shares, errors, x)


def _fell(error: Tensor) -> bool:
    """Whether an error (N, B) fell by FALL of what is not noise in its last quarter, for any image."""
    end = len(error) - 1
    return bool((error[end - end // 4] - error[end] > FALL * (error[end] - 1).abs()).any())
