"""The contracts of the three families, for the authors of plugins: ``check_operator``, ``check_denoiser``, ``check_solver``.

Each returns the list of its checks and raises :class:`ContractError`, with every failure explained, if one does not hold.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.denoisers import Denoiser, describe
from pnp_mlpatch.errors import ContractError, PnPError
from pnp_mlpatch.operators import LinearOperator
from pnp_mlpatch.solvers import Solver, make_problem


@dataclass(frozen=True)
class Check:
    """One check: what holds if it passes, whether it does, and the measured figure or the reason."""

    name: str
    passed: bool
    detail: str = ""


def _judge(who: str, checks: Iterator[Check]) -> list[Check]:
    done = list(checks)
    failed = [check for check in done if not check.passed]
    if failed:
        lines = "\n".join(f"  - {check.name}: {check.detail}" for check in failed)
        raise ContractError(f"{who} breaks {len(failed)} of {len(done)} checks:\n{lines}")
    return done


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-30))


def _at_most(name: str, value: float, bound: float, advice: str = "") -> Check:
    return Check(
        name,
        math.isfinite(value) and value <= bound,
        f"{value:.2e} (at most {bound:.0e}). {advice}".strip(),
    )


def _guarded(name: str, function: Callable[[], Check]) -> Check:
    try:
        return function()
    except Exception as error:
        return Check(name, False, f"raised {type(error).__name__}: {error}")


def adjoint_mismatch(
    A: LinearOperator, *, batch: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32
) -> float:
    """|<A x, y> - <x, A^H y>| / (|A x| |y|) for random x and y, accumulated in float64."""
    generator = torch.Generator().manual_seed(seed)
    device = next((b.device for b in A.buffers()), torch.device("cpu"))
    x = torch.randn(batch, *A.image_shape, generator=generator, dtype=dtype).to(device)
    y = torch.randn(batch, *A.data_shape, generator=generator, dtype=dtype).to(device)
    Ax, Aty = A(x).double(), A.adjoint(y).double()
    gap = (Ax * y).sum() - (x * Aty).sum()
    return float(gap.abs() / (Ax.norm() * y.double().norm()).clamp_min(1e-30))


def optimality(
    A: LinearOperator,
    alpha: float,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> float:
    """Relative residual of the data step, |A^H (A f - q) + alpha (f - z)| / |A^H q + alpha z|, at random z and q."""
    generator = torch.Generator().manual_seed(seed)
    device = next((b.device for b in A.buffers()), torch.device("cpu"))
    z = torch.randn(2, *A.image_shape, generator=generator, dtype=dtype).to(device)
    q = torch.randn(2, *A.data_shape, generator=generator, dtype=dtype).to(device)
    Aty = A.adjoint(q)
    f = A.data_step(z, alpha, Aty=Aty, tol=tol, max_iter=max_iter)[0]
    return float((A.adjoint(A(f) - q) + alpha * (f - z)).norm() / (Aty + alpha * z).norm())


def check_operator(A: LinearOperator, *, tol: float = 1e-6) -> list[Check]:
    """Shapes, linearity, adjoint (by batches, autograd and ``torch.func.vjp``), A^H A, data step, start, copies, errors.

    ``tol`` bounds the adjoint mismatch in float32. Raises :class:`ContractError`.
    """
    return _judge(f"Operator {type(A).__name__}", _operator_checks(A, tol))


def _operator_checks(A: LinearOperator, tol: float) -> Iterator[Check]:
    device = next((b.device for b in A.buffers()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    x, x2 = (torch.randn(3, *A.image_shape, generator=generator).to(device) for _ in range(2))
    y = torch.randn(3, *A.data_shape, generator=generator).to(device)
    kept_x, kept_y = x.clone(), y.clone()
    Ax, Aty = A(x), A.adjoint(y)
    size = Ax.norm()
    yield Check(
        "A(x) has the data shape, A.adjoint(y) the image shape",
        Ax.shape == y.shape and Aty.shape == x.shape,
        f"{tuple(Ax.shape)}, {tuple(Aty.shape)}",
    )
    yield Check(
        "dtype and device are kept",
        Ax.dtype == x.dtype and Aty.dtype == x.dtype and Ax.device == x.device,
        f"{Ax.dtype}, {Aty.dtype}",
    )
    yield Check("inputs are not changed", torch.equal(x, kept_x) and torch.equal(y, kept_y))
    yield _at_most(
        "A is linear", float((A(2 * x - 3 * x2) - (2 * Ax - 3 * A(x2))).norm() / size), 1e-5
    )
    yield _at_most(
        "a batch is the same as its images one by one",
        float((torch.cat([A(x[k : k + 1]) for k in range(3)]) - Ax).norm() / size),
        1e-5,
    )
    advice = "The adjoint is the transpose of the matrix of A: no weights, no other interpolation."
    yield _at_most("adjoint: <A x, y> = <x, A^H y>", adjoint_mismatch(A), tol, advice)
    yield _at_most(
        "adjoint in float64 input", adjoint_mismatch(A, dtype=torch.float64), tol, advice
    )
    yield Check("float64 in, float64 out", A(x.double()).dtype == torch.float64)
    yield _at_most("normal = A^H A", _relative(A.normal(x), A.adjoint(Ax)), 1e-5)

    def autograd() -> Check:
        leaf = x.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(A(leaf), leaf, y)
        dual = y.clone().requires_grad_(True)
        (back,) = torch.autograd.grad(A.adjoint(dual), dual, x)
        return _at_most(
            "autograd: the backward of A is A^H and of A^H is A",
            max(_relative(gradient, Aty), _relative(back, Ax)),
            1e-6,
        )

    yield _guarded("autograd: the backward of A is A^H and of A^H is A", autograd)

    def functional() -> Check:
        pull = torch.func.vjp(A, x)[1]
        return _at_most("torch.func.vjp", _relative(pull(y)[0], Aty), 1e-6)

    yield _guarded("torch.func.vjp", functional)
    strided = (
        torch.randn(3, *A.image_shape[:1], *A.image_shape[:0:-1], generator=generator)
        .to(device)
        .transpose(-1, -2)
    )
    yield _at_most("non-contiguous input", _relative(A(strided), A(strided.contiguous())), 1e-6)
    norm = A.norm()
    yield Check(
        "norm() bounds |A x| / |x|",
        norm > 0 and float(size / x.norm()) <= 1.01 * norm,
        f"norm {norm:.4g}",
    )
    for decade in range(-3, 3):
        alpha = norm**2 * 10.0**decade
        yield _at_most(
            f"data step solves its equation at alpha = {alpha:.1e}", optimality(A, alpha), 1e-5
        )

    def per_image() -> Check:
        alpha = norm**2 * torch.tensor([0.1, 1.0, 10.0], device=device)
        together = A.data_step(x, alpha, Aty=Aty, max_iter=1000)[0]
        alone = torch.cat(
            [
                A.data_step(x[k : k + 1], float(alpha[k]), Aty=Aty[k : k + 1], max_iter=1000)[0]
                for k in range(3)
            ]
        )
        return _at_most("data step with one alpha an image", _relative(together, alone), 1e-4)

    yield _guarded("data step with one alpha an image", per_image)

    def start() -> Check:
        x0 = A.initial(Ax)
        good = x0.shape == x.shape and x0.dtype == x.dtype and bool(torch.isfinite(x0).all())
        return Check("initial(q) is a finite image", good, f"{tuple(x0.shape)}")

    yield _guarded("initial(q) is a finite image", start)

    def weighted() -> Check:
        weight = (
            torch.rand(A.data_shape, generator=torch.Generator().manual_seed(1)).to(device) + 0.5
        )
        B = A.weighted(weight)
        error = max(_relative(B(x), weight * Ax), adjoint_mismatch(B), optimality(B, B.norm() ** 2))
        return _at_most("weighted(w) is w A, with its adjoint and data step", error, 1e-5)

    yield _guarded("weighted(w) is w A, with its adjoint and data step", weighted)
    yield _at_most("a deep copy is the same operator", _relative(copy.deepcopy(A)(x), Ax), 1e-6)

    def refused() -> Check:
        for bad in (x[0], x.int(), x[..., :-1], x.to(torch.complex64), None):
            try:
                A(bad)  # type: ignore[arg-type]
            except PnPError:
                continue
            return Check(
                "bad input is refused",
                False,
                f"{type(bad).__name__} {getattr(bad, 'shape', '')} {getattr(bad, 'dtype', '')} went through",
            )
        return Check("bad input is refused", True)

    yield _guarded("bad input is refused", refused)


def check_denoiser(
    D: Denoiser, *, channels: int | None = None, sigma: float = 0.1, stateless_only: bool = False
) -> list[Check]:
    """Shapes (odd, non-square, tiny), dtype, purity, repeatability, independence of the batch, sigma by image, locality, effect.

    ``channels`` is read from ``D.info`` if it is there, else 1. ``sigma`` is a level that D can take. ``stateless_only``
    leaves out the check that white noise is reduced on a smooth image, for networks without trained weights. Raises
    :class:`ContractError`.
    """
    return _judge(
        f"Denoiser {describe(D).name}", _denoiser_checks(D, channels, sigma, stateless_only)
    )


def _smooth(channels: int, height: int, width: int) -> Tensor:
    rows = torch.linspace(0, 3, height)[:, None]
    cols = torch.linspace(0, 2, width)[None, :]
    return (
        (0.5 + 0.3 * torch.sin(rows) * torch.cos(cols))
        .expand(1, channels, height, width)
        .contiguous()
    )


def _denoiser_checks(
    D: Denoiser, channels: int | None, sigma: float, stateless_only: bool
) -> Iterator[Check]:
    info = describe(D)
    c = channels or info.channels or 1
    generator = torch.Generator().manual_seed(0)
    x = (_smooth(c, 37, 30) + sigma * torch.randn(3, c, 37, 30, generator=generator)).contiguous()
    kept = x.clone()
    with torch.no_grad():
        y = D(x, sigma)
        if not isinstance(y, Tensor):
            yield Check(
                "returns a tensor", False, f"got {type(y).__name__}. Wrap it with as_denoiser(...)."
            )
            return
        yield Check(
            "shape, dtype and device are kept",
            y.shape == x.shape and y.dtype == x.dtype and y.device == x.device,
            f"{tuple(y.shape)} {y.dtype}",
        )
        yield Check(
            "input is not changed", torch.equal(x, kept), "D writes into its input; clone it first."
        )
        again = D(x, sigma)
        yield Check(
            "the same call gives the same result",
            torch.equal(y, again),
            f"differs by {float((y - again).abs().max()):.1e}: D keeps state or draws random numbers.",
        )
        alone = torch.cat([D(x[k : k + 1], sigma) for k in range(3)])
        gap = float((alone - y).abs().max())
        yield _at_most(
            "an image does not depend on the others of its batch",
            gap,
            1e-4,
            "Is a batch norm in training mode?",
        )
        yield Check("the result is finite", bool(torch.isfinite(y).all()))

        def levels() -> Check:
            ladder = torch.tensor([0.3, 0.6, 1.0]) * sigma
            batch, single = (
                D(x, ladder),
                torch.cat([D(x[k : k + 1], float(ladder[k])) for k in range(3)]),
            )
            return _at_most("sigma as a tensor (B,)", float((batch - single).abs().max()), 1e-4)

        yield _guarded("sigma as a tensor (B,)", levels)
        if info.sigma == "input":
            yield Check(
                "sigma changes the result",
                not torch.equal(D(x, sigma), D(x, sigma / 4)),
                "info.sigma is 'input', but D ignores it.",
            )
        for shape in ((1, 1), (1, 9), (13, 1), (7, 11)):

            def tiny(shape: tuple[int, int] = shape) -> Check:
                small = torch.rand(1, c, *shape, generator=generator)
                out = D(small, sigma)
                return Check(
                    f"takes {shape[0]} x {shape[1]} pixels",
                    out.shape == small.shape and bool(torch.isfinite(out).all()),
                    f"{tuple(out.shape)}",
                )

            yield _guarded(f"takes {shape[0]} x {shape[1]} pixels", tiny)
        strided = x.transpose(-1, -2)
        yield _at_most(
            "non-contiguous input",
            float((D(strided, sigma) - D(strided.contiguous(), sigma)).abs().max()),
            1e-4,
        )
        double = D(x.double(), sigma)
        yield Check(
            "float64 in, float64 out",
            double.dtype == torch.float64 and float((double - y).abs().max()) < 1e-3,
            f"{double.dtype}",
        )
        if info.field is not None:
            big = torch.rand(1, c, 2 * info.field + 9, 2 * info.field + 9, generator=generator)
            touched = big.clone()
            touched[..., 0, :] += 1
            touched[..., :, 0] += 1
            reach = slice(info.field + 1, None)
            same = torch.equal(
                D(big, sigma)[..., reach, reach], D(touched, sigma)[..., reach, reach]
            )
            yield Check(
                f"pixels further than field = {info.field} have no influence",
                same,
                "info.field is too small, or D is not local.",
            )
        if not stateless_only:
            clean = _smooth(c, 64, 64)
            noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
            before, after = (
                float((noisy - clean).square().mean()),
                float((D(noisy, sigma) - clean).square().mean()),
            )
            yield Check(
                "noise on a smooth image is reduced",
                after < 0.5 * before,
                f"mean squared error {before:.2e} -> {after:.2e}",
            )

        def refused() -> Check:
            for bad in (x[0], x.int(), None):
                try:
                    D(bad, sigma)  # type: ignore[arg-type]
                except PnPError:
                    continue
                return Check(
                    "bad input is refused",
                    False,
                    f"{type(bad).__name__} {getattr(bad, 'shape', '')} went through",
                )
            return Check("bad input is refused", True)

        yield _guarded("bad input is refused", refused)


def _mean_filter(x: Tensor, sigma: float | Tensor) -> Tensor:
    """A linear, contractive denoiser: x / (1 + c), enough to drive a solver."""
    return (
        x / (1 + sigma) if not isinstance(sigma, Tensor) else x / (1 + sigma.reshape(-1, 1, 1, 1))
    )


def check_solver(solver: Solver, A: LinearOperator, D: Denoiser = _mean_filter) -> list[Check]:
    """Steps are pure and repeatable, batches are independent, states resume bit for bit, gradients flow, the data are fitted.

    Raises :class:`ContractError`.
    """
    return _judge(
        f"Solver {type(solver).__name__} with {type(A).__name__}", _solver_checks(solver, A, D)
    )


def _solver_checks(solver: Solver, A: LinearOperator, D: Denoiser) -> Iterator[Check]:
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(2, *A.image_shape, generator=generator)
    noise = 0.05 * float(A(truth).square().mean().sqrt())
    clean = A(truth)
    q = clean + noise * torch.randn(clean.shape, generator=generator)
    kept = q.clone()
    problem = make_problem(q, A, noise)
    x0 = A.initial(q)
    with torch.no_grad():
        state = solver.init(problem, x0)
        one = solver.step(problem, D, state)
        two = solver.step(problem, D, state)
    yield Check("the data are not changed", torch.equal(q, kept))
    yield Check("a step is a function of the state", torch.equal(one.x, two.x))
    yield Check(
        "a step counts itself",
        state.iteration == 0 and one.iteration == 1,
        f"{state.iteration} -> {one.iteration}",
    )
    yield Check(
        "the estimate is a finite image",
        one.x.shape == truth.shape and bool(torch.isfinite(one.x).all()),
        f"{tuple(one.x.shape)}",
    )
    whole = solver.run(q, A, D, noise=noise, progress=False)
    yield Check(
        "run ends with a status",
        whole.status in ("converged", "max_iter", "stalled", "oscillating", "stopped", "outside")
        and whole.state.iteration <= solver.iterations,
        whole.status,
    )
    columns = {name: len(values) for name, values in whole.history.items()}
    yield Check(
        "the history has a row for each iteration",
        set(columns.values()) == {whole.state.iteration},
        str(columns),
    )
    again = solver.run(q, A, D, noise=noise, progress=False)
    yield Check("run is repeatable", torch.equal(whole.x, again.x))
    half = solver.run(
        q,
        A,
        D,
        noise=noise,
        progress=False,
        callbacks=[lambda s: s.iteration >= max(1, whole.state.iteration // 2)],
    )
    resumed = solver.run(q, A, D, noise=noise, progress=False, state=half.state)
    yield Check(
        "a stopped run resumes to the same result",
        torch.equal(whole.x, resumed.x) or half.state.iteration == whole.state.iteration,
    )
    single = solver.run(q[:1], A, D, noise=noise, x0=x0[:1], progress=False)
    steps = min(single.state.iteration, whole.state.iteration)
    both = [
        s
        for s, _ in zip(
            solver.iterate(problem, D, solver.init(problem, x0)), range(steps), strict=False
        )
    ][-1]
    one_image = [
        s
        for s, _ in zip(
            solver.iterate(
                make_problem(q[:1], A, noise), D, solver.init(make_problem(q[:1], A, noise), x0[:1])
            ),
            range(steps),
            strict=False,
        )
    ][-1]
    yield _at_most(
        "an image does not depend on the others of its batch",
        _relative(one_image.x, both.x[:1]),
        1e-4,
    )

    def gradient() -> Check:
        data = q.clone().requires_grad_(True)
        live = make_problem(data, A, noise)
        new = solver.step(live, D, solver.init(live, x0))
        (g,) = torch.autograd.grad(new.x.square().sum(), data)
        return Check(
            "gradients flow to the data", bool(torch.isfinite(g).all()) and float(g.abs().max()) > 0
        )

    yield _guarded("gradients flow to the data", gradient)
    misfit = float((A(whole.x) - q).norm() / q.norm())
    yield Check("the data are fitted", misfit < 0.5, f"|A x - q| / |q| = {misfit:.3f}")
