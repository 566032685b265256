"""Iterative linear algebra on batches: each image of a batch converges on its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class CGInfo:
    """What an iterative solve reached.

    Parameters
    ----------
    iterations : int
        Steps taken.
    residual : Tensor, shape (B,)
        The relative residual :math:`|b - A x| / |b|` of each image.
    """

    iterations: int
    residual: Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each image of a batch.

    Parameters
    ----------
    a, b : Tensor, shape (B, ...)
        Two batches.

    Returns
    -------
    Tensor, shape (B, 1, ...)
        It broadcasts against them.
    """
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.ndim - 1))


def sizes(x: Tensor) -> Tensor:
    """Return the norm of each image of a batch, also where its square leaves the range of float32.

    Parameters
    ----------
    x : Tensor, shape (B, ...)
        A batch.

    Returns
    -------
    Tensor, shape (B,)
    """
    x = x.detach().flatten(1)
    largest = x.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return (x / largest).norm(dim=1) * largest[:, 0]


def pcg(
    normal: Map,
    b: Tensor,
    x0: Tensor,
    *,
    precondition: Map | None = None,
    tol: float = 1e-6,
    max_iter: int = 100,
) -> tuple[Tensor, CGInfo]:
    r"""Solve ``normal(x) = b`` by preconditioned conjugate gradients (Hestenes and Stiefel 1952).

    An image that has converged is not moved any more. Every step is differentiable. Each image is
    computed in units of its own, so that squares stay in the range of float32.

    Parameters
    ----------
    normal : callable
        A symmetric positive definite map of batches.
    b : Tensor, shape (B, ...)
        The right-hand side.
    x0 : Tensor, shape (B, ...)
        The start.
    precondition : callable, optional
        A symmetric positive definite map close to the inverse.
    tol : float
        Stop when :math:`|b - A x| \le tol \, |b|` for every image. The true residual is checked;
        rounding bounds it from below, at about 1e-7 times the condition number in float32.
    max_iter : int
        Stop after so many steps.

    Returns
    -------
    x : Tensor, shape (B, ...)
    info : CGInfo
    """
    residual = b - normal(x0)
    with torch.no_grad():  # a power of two changes no digit
        largest = torch.stack([v.detach().flatten(1).abs().amax(1) for v in (b, residual)])
        unit = power_of_two(torch.where(largest[0] > 0, largest[0], largest[1])).reshape(
            -1, *[1] * (b.ndim - 1)
        )
    x, info = _pcg(normal, b / unit, x0 / unit, residual / unit, precondition, tol, max_iter)
    return x * unit, info


def power_of_two(size: Tensor) -> Tensor:
    """Return the power of two next to each number.

    Parameters
    ----------
    size : Tensor
        Numbers >= 0.

    Returns
    -------
    Tensor
        1 for 0 and for what is not finite.
    """
    usable = torch.isfinite(size) & (size > 0)
    exponent = torch.frexp(torch.where(usable, size, torch.ones_like(size)))[1]
    return torch.ldexp(torch.ones_like(size), exponent.clamp(-120, 120))


def _pcg(
    normal: Map,
    b: Tensor,
    x: Tensor,
    r: Tensor,
    precondition: Map | None,
    tol: float,
    max_iter: int,
) -> tuple[Tensor, CGInfo]:
    """:func:`pcg` from ``x`` with the residual ``r``, where b is about 1."""
    z = precondition(r) if precondition else r
    p, rz = z, dot(r, z)
    goal = tol**2 * dot(b, b)
    tiny = torch.finfo(b.dtype).tiny
    steps, reached = 0, math.inf
    while steps < max_iter:
        active = dot(r, r) > goal
        if not bool(active.any()):
            # rounding separates the recursive residual from the true one: restart from that
            r = b - normal(x) if steps else r
            worst = float((dot(r, r) / goal.clamp_min(tiny)).detach().max())
            if worst <= 1 or worst > 0.5 * reached:
                break
            reached = worst
            z = precondition(r) if precondition else r
            p, rz = z, dot(r, z)
            active = dot(r, r) > goal
        q = normal(p)
        curvature = dot(p, q)
        active = active & (curvature > tiny)
        step = torch.where(active, rz / curvature.clamp_min(tiny), torch.zeros_like(rz))
        x, r = x + step * p, r - step * q
        z = precondition(r) if precondition else r
        rz, before = dot(r, z), rz
        p = z + torch.where(active, rz / before.clamp_min(tiny), torch.zeros_like(rz)) * p
        steps += 1
    norm = dot(b, b).sqrt().clamp_min(tiny)
    return x, CGInfo(steps, (dot(r, r).sqrt() / norm).flatten())


def largest_eigenvalue(
    normal: Map, x: Tensor, *, iterations: int = 100, tol: float = 1e-3
) -> float:
    r"""Return an upper bound of the largest eigenvalue, by the Lanczos method.

    Parameters
    ----------
    normal : callable
        A symmetric positive semidefinite map.
    x : Tensor, shape (1, ...)
        The start, which should be random.
    iterations : int
        The most steps.
    tol : float
        How much too high the bound may be, relative.

    Returns
    -------
    float

    Notes
    -----
    With :math:`\theta` the largest eigenvalue of the tridiagonal matrix and :math:`\rho` its
    residual, an eigenvalue of the map lies within :math:`\rho` of :math:`\theta`. The iteration
    stops when :math:`\rho \le tol \, \theta / 10`, after ten steps at least, and returns
    :math:`\theta (1 + tol / 2) + \rho`.
    """
    v = x / sizes(x).reshape(-1, *[1] * (x.ndim - 1))
    before, beta = torch.zeros_like(v), 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    theta = rho = 0.0
    for step in range(iterations):
        w = normal(v) - beta * before
        alpha = float(dot(v, w))
        w = w - alpha * v
        w = w - float(dot(v, w)) * v  # once more, for what rounding left
        diagonal.append(alpha)
        T = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            T = T + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(T)
        beta = float(sizes(w))
        theta, rho = float(values[-1]), beta * abs(float(vectors[-1, -1]))
        if (
            not math.isfinite(beta)
            or beta <= 10 * torch.finfo(x.dtype).eps * theta
            or (step >= 9 and rho <= 0.1 * tol * theta)
        ):
            break
        before, v = v, w / beta
        beside.append(beta)
    return theta * (1 + tol / 2) + rho


def laplacian(x: Tensor) -> Tensor:
    """Apply the five-point Laplacian to each channel, with no flow over the border.

    It is symmetric and negative semidefinite.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.

    Returns
    -------
    Tensor, shape (B, C, H, W)
    """
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:] - 4 * x
