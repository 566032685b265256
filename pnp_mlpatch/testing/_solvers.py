"""The contract of solvers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain, islice

import torch
from torch import Tensor

from pnp_mlpatch._checks import torch_device
from pnp_mlpatch.denoisers import Denoiser
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Problem, Result, Solver, State, make_problem
from pnp_mlpatch.testing._checks import Check, at_most, guarded, judge, relative

NOISE = 0.05  # of the simulated data, relative to their root mean square
STATUSES = ("converged", "max_iter", "stalled", "oscillating", "stopped", "outside")


def shrink(x: Tensor, sigma: float | Tensor) -> Tensor:
    """Denoise by x / (1 + sigma): linear, contractive, and enough to drive a solver.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    sigma : float or Tensor, shape (B,)
        The noise level.

    Returns
    -------
    Tensor, shape (B, C, H, W)
    """
    return x / (1 + (sigma.reshape(-1, 1, 1, 1) if isinstance(sigma, Tensor) else sigma))


@dataclass(frozen=True)
class _Case:
    """A small problem for a solver, and its whole run."""

    solver: Solver
    A: LinearOperator
    D: Denoiser
    q: Tensor
    noise: float
    problem: Problem
    x0: Tensor
    whole: Result

    def run(self, **settings: object) -> Result:
        return self.solver.run(
            self.q,
            self.A,
            self.D,
            noise=self.noise,
            progress=False,
            **settings,  # type: ignore[arg-type]
        )


def check_solver(
    solver: Solver,
    A: LinearOperator,
    D: Denoiser = shrink,
    *,
    device: torch.device | str | None = None,
) -> list[Check]:
    """Check the contract of a solver.

    Steps are pure and repeatable, batches are independent, states resume bit for bit, gradients
    flow, and the data are fitted.

    Parameters
    ----------
    solver : Solver
        With its settings.
    A : LinearOperator
        A small instance, of which data are simulated.
    D : callable
        A denoiser for its images.
    device : torch.device or str, optional
        Where the data are; by default where A is.

    Returns
    -------
    list of Check

    Raises
    ------
    ContractError
        If a check fails.
    """
    generator = torch.Generator().manual_seed(0)
    place = A.device if device is None else torch_device(device, "check_solver")
    clean = A(torch.rand(2, *A.image_shape, generator=generator).to(place))
    noise = NOISE * float(clean.square().mean().sqrt())
    q = clean + noise * torch.randn(clean.shape, generator=generator).to(clean)
    problem, kept = make_problem(q, A, noise), q.clone()
    who = f"Solver {type(solver).__name__} with {type(A).__name__}"
    steps = judge(who, _steps(solver, problem, D, A.initial(q)))  # a run needs steps that work
    calls: list[int] = []

    def counted(x: Tensor, sigma: float | Tensor) -> Tensor:
        calls.append(len(x))
        return D(x, sigma)

    whole = solver.run(q, A, counted, noise=noise, progress=False)
    case = _Case(solver, A, D, q, noise, problem, A.initial(q), whole)
    called = Check("the denoiser is called", bool(calls), "A run ended without a call of D.")
    return steps + judge(who, chain([called], _runs(case), _batch(case), _fit(case, kept)))


def _steps(solver: Solver, problem: Problem, D: Denoiser, x0: Tensor) -> Iterator[Check]:
    with torch.no_grad():
        state = solver.init(problem, x0)
        before = _copies(state)
        one, two = solver.step(problem, D, state), solver.step(problem, D, state)
    yield Check("a step is a function of the state", torch.equal(one.x, two.x))
    same = all(torch.equal(getattr(state, name), value) for name, value in before.items())
    yield Check("a step does not change the state", same, "It writes into it; clone it first.")
    counts = state.iteration == 0 and one.iteration == 1
    yield Check("a step counts itself", counts, f"{state.iteration} -> {one.iteration}")
    finite = one.x.shape == x0.shape and bool(torch.isfinite(one.x).all())
    yield Check("the estimate is a finite image", finite, f"{tuple(one.x.shape)}")


def _copies(state: State) -> dict[str, Tensor]:
    """Return the finite tensors of a state."""
    values = {field.name: getattr(state, field.name) for field in fields(state)}
    return {
        name: value.clone()
        for name, value in values.items()
        if isinstance(value, Tensor) and not bool(torch.isnan(value).any())
    }


def _runs(case: _Case) -> Iterator[Check]:
    whole, last = case.whole, case.whole.state.iteration
    ends = whole.status in STATUSES and last <= case.solver.iterations
    yield Check("run ends with a status", ends, whole.status)
    columns = {name: len(values) for name, values in whole.history.items()}
    name = "the history has a row for each iteration"
    yield Check(name, set(columns.values()) == {last}, str(columns))
    yield Check("run is repeatable", torch.equal(whole.x, case.run().x))
    half = case.run(callbacks=[lambda state: state.iteration >= max(1, last // 2)])
    resumed = case.run(state=half.state)
    same = torch.equal(whole.x, resumed.x) or half.state.iteration == last
    yield Check("a stopped run resumes to the same result", same)


def _batch(case: _Case) -> Iterator[Check]:
    """Check the first image alone, for as many steps as both take."""
    solver, q, A, D, x0 = case.solver, case.q, case.A, case.D, case.x0
    single = solver.run(q[:1], A, D, noise=case.noise, x0=x0[:1], progress=False)
    steps = min(single.state.iteration, case.whole.state.iteration)

    def after(problem: Problem, start: Tensor) -> Tensor:
        states = solver.iterate(problem, D, solver.init(problem, start))
        return list(islice(states, steps))[-1].x

    alone = after(make_problem(q[:1], A, case.noise), x0[:1])
    gap = relative(alone, after(case.problem, x0)[:1])
    yield at_most("an image does not depend on the others of its batch", gap, 1e-4)


def _fit(case: _Case, kept: Tensor) -> Iterator[Check]:
    q = case.q
    yield Check("the data are not changed", torch.equal(q, kept))

    def gradient() -> Check:
        data = q.clone().requires_grad_(True)
        live = make_problem(data, case.A, case.noise)
        new = case.solver.step(live, case.D, case.solver.init(live, case.x0))
        (g,) = torch.autograd.grad(new.x.square().sum(), data)
        good = bool(torch.isfinite(g).all()) and float(g.abs().max()) > 0
        return Check("gradients flow to the data", good)

    yield guarded("gradients flow to the data", gradient)
    misfit = float((case.A(case.whole.x) - q).norm() / q.norm())
    yield Check("the data are fitted", misfit < 0.5, f"|A x - q| / |q| = {misfit:.3f}")
