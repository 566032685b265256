"""The contract of operators."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor

from pnp_mlpatch.operators import LinearOperator, adjoint_mismatch
from pnp_mlpatch.testing._checks import Check, at_most, guarded, judge, refuses, relative

UNMATCHED = "The adjoint is the transpose of the matrix of A: no weights, no other interpolation."


def optimality(
    A: LinearOperator,
    alpha: float,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tol: float = 1e-6,
    max_iter: int = 1000,
) -> float:
    r"""Measure the relative residual of the data step at random z and q.

    .. math:: |A^H (A f - q) + \alpha (f - z)| \, / \, |A^H q + \alpha z|

    Parameters
    ----------
    A : LinearOperator
        The operator.
    alpha : float
        > 0.
    seed : int
        Of the random numbers.
    dtype : torch.dtype
        The precision.
    tol, max_iter : float, int
        Of the data step.

    Returns
    -------
    float
    """
    generator = torch.Generator().manual_seed(seed)
    z, q = (
        torch.randn(2, *shape, generator=generator, dtype=dtype).to(A.device)
        for shape in (A.image_shape, A.data_shape)
    )
    Aty = A.adjoint(q)
    f, _ = A.data_step(z, alpha, Aty=Aty, tol=tol, max_iter=max_iter)
    return float((A.adjoint(A(f) - q) + alpha * (f - z)).norm() / (Aty + alpha * z).norm())


def check_operator(A: LinearOperator, *, tol: float = 1e-6) -> list[Check]:
    """Check the contract of an operator.

    It covers shapes, linearity, the adjoint (by batches, autograd and ``torch.func.vjp``),
    :math:`A^H A`, the norm, the data step, the start, weights, copies and errors.

    Parameters
    ----------
    A : LinearOperator
        A small instance.
    tol : float
        The most that the adjoint may be off, in float32.

    Returns
    -------
    list of Check

    Raises
    ------
    ContractError
        If a check fails.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, *A.image_shape, generator=generator).to(A.device)
    y = torch.randn(3, *A.data_shape, generator=generator).to(A.device)
    groups = (_maps(A, x, y), _adjoints(A, x, y, tol), _data_steps(A, x, y), _others(A, x))
    return judge(f"Operator {type(A).__name__}", chain(*groups))


def _maps(A: LinearOperator, x: Tensor, y: Tensor) -> Iterator[Check]:
    kept_x, kept_y = x.clone(), y.clone()
    Ax, Aty = A(x), A.adjoint(y)
    generator = torch.Generator().manual_seed(4)
    other = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
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
    bent = (A(2 * x - 3 * other) - (2 * Ax - 3 * A(other))).norm() / size
    yield at_most("A is linear", float(bent), 1e-5)
    alone = torch.cat([A(x[k : k + 1]) for k in range(3)])
    name = "a batch is the same as its images one by one"
    yield at_most(name, float((alone - Ax).norm() / size), 1e-5)
    yield Check("float64 in, float64 out", A(x.double()).dtype == torch.float64)
    strided = x.transpose(-1, -2).contiguous().transpose(-1, -2)
    yield at_most("non-contiguous input", relative(A(strided), Ax), 1e-6)


def _adjoints(A: LinearOperator, x: Tensor, y: Tensor, tol: float) -> Iterator[Check]:
    Aty = A.adjoint(y)
    yield at_most("adjoint: <A x, y> = <x, A^H y>", adjoint_mismatch(A), tol, UNMATCHED)
    double = adjoint_mismatch(A, dtype=torch.float64)
    yield at_most("adjoint in float64 input", double, tol, UNMATCHED)
    yield at_most("normal = A^H A", relative(A.normal(x), A.adjoint(A(x))), 1e-5)
    name = "autograd: the backward of A is A^H and of A^H is A"

    def autograd() -> Check:
        leaf, dual = x.clone().requires_grad_(True), y.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(A(leaf), leaf, y)
        (back,) = torch.autograd.grad(A.adjoint(dual), dual, x)
        return at_most(name, max(relative(gradient, Aty), relative(back, A(x))), 1e-6)

    yield guarded(name, autograd)

    def functional() -> Check:
        pull = torch.func.vjp(A, x)[1]
        return at_most("torch.func.vjp", relative(pull(y)[0], Aty), 1e-6)

    yield guarded("torch.func.vjp", functional)


def _data_steps(A: LinearOperator, x: Tensor, y: Tensor) -> Iterator[Check]:
    Aty, norm = A.adjoint(y), A.norm()
    bounds = norm > 0 and float(A(x).norm() / x.norm()) <= 1.01 * norm
    yield Check("norm() bounds |A x| / |x|", bounds, f"norm {norm:.4g}")
    for decade in range(-3, 3):
        alpha = norm**2 * 10.0**decade
        name = f"data step solves its equation at alpha = {alpha:.1e}"
        yield at_most(name, optimality(A, alpha), 1e-5)
    if A.row_orthonormal:
        yield at_most("row_orthonormal: A A^H = 1", relative(A(A.adjoint(y)), y), 1e-5)
    info = A.data_step(x, norm**2, Aty=Aty)[1]
    yield Check(
        "data step tells its steps (0 in closed form) and the residual of each image",
        info.residual.shape == (3,) and (info.iterations == 0) == A.closed_form,
        f"{info.iterations} steps, closed_form {A.closed_form}, {tuple(info.residual.shape)}",
    )
    name = "data step with one alpha an image"

    def per_image() -> Check:
        alpha = norm**2 * torch.tensor([0.1, 1.0, 10.0], device=x.device)
        together = A.data_step(x, alpha, Aty=Aty, max_iter=1000)[0]
        rows = [slice(k, k + 1) for k in range(3)]
        alone = [A.data_step(x[r], alpha[r], Aty=Aty[r], max_iter=1000)[0] for r in rows]
        return at_most(name, relative(together, torch.cat(alone)), 1e-4)

    yield guarded(name, per_image)


def _others(A: LinearOperator, x: Tensor) -> Iterator[Check]:
    Ax = A(x)

    def start() -> Check:
        x0 = A.initial(Ax)
        good = x0.shape == x.shape and x0.dtype == x.dtype and bool(torch.isfinite(x0).all())
        return Check("initial(q) is a finite image", good, f"{tuple(x0.shape)}")

    yield guarded("initial(q) is a finite image", start)
    name = "weighted(w) is w A, with its adjoint and data step"

    def weighted() -> Check:
        draw = torch.rand(A.data_shape, generator=torch.Generator().manual_seed(1))
        weight = draw.to(x.device) + 0.5
        B = A.weighted(weight)
        error = max(relative(B(x), weight * Ax), adjoint_mismatch(B), optimality(B, B.norm() ** 2))
        return at_most(name, error, 1e-5)

    yield guarded(name, weighted)
    yield at_most("a deep copy is the same operator", relative(copy.deepcopy(A)(x), Ax), 1e-6)
    yield refuses(A, (x[0], x.int(), x[..., :-1], x.to(torch.complex64), None))
