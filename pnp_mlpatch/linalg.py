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
    """Steps taken, and the relative residual |b - A x| / |b| reached by each image, shape (B,)."""

    iterations: int
    residual: Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each image of a batch, shaped (B, 1, ...) to broadcast against it."""
    return (a * b).flatten(1).sum(dim=1).reshape(-1, *[1] * (a.ndim - 1))


def pcg(
    normal: Map, b: Tensor, x0: Tensor, *, precondition: Map | None = None, tol: float = 1e-6, max_iter: int = 100
) -> tuple[Tensor, CGInfo]:
    """Preconditioned conjugate gradients for ``normal(x) = b``, symmetric positive definite, on a batch (B, ...).

    Stops when ``|b - normal(x)| <= tol |b|`` for every image (checked with the true residual, which rounding bounds from below:
    about 1e-7 times the condition number in float32), or after ``max_iter`` steps; an image that has arrived is not moved any
    more. ``precondition`` applies an approximation of the inverse. Arguments are not changed, and every step is
    differentiable (Hestenes and Stiefel 1952).
    """
    x, r = x0, b - normal(x0)
    z = precondition(r) if precondition else r
    p, rz = z, dot(r, z)
    goal = tol**2 * dot(b, b)
    tiny = torch.finfo(b.dtype).tiny
    steps, reached = 0, math.inf
    while steps < max_iter:
        active = dot(r, r) > goal
        if not bool(active.any()):
            # the recursive residual drifts from the true one by rounding: go on from that, as long as it helps
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


def power_iteration(normal: Map, x: Tensor, *, iterations: int = 100, tol: float = 1e-4) -> float:
    """The largest eigenvalue of a symmetric positive semidefinite map, from the start ``x`` (1, ...)."""
    value = 0.0
    for _ in range(iterations):
        x = x / x.norm().clamp_min(torch.finfo(x.dtype).tiny)
        y = normal(x)
        before, value = value, float((x * y).sum())
        if abs(value - before) <= tol * abs(value):
            break
        x = y
    return value


def laplacian(x: Tensor) -> Tensor:
    """The five-point Laplacian of each channel of (B, C, H, W), with no flow over the border; symmetric, negative semidefinite."""
    p = F.pad(x, (1, 1, 1, 1), mode="replicate")
    return p[..., :-2, 1:-1] + p[..., 2:, 1:-1] + p[..., 1:-1, :-2] + p[..., 1:-1, 2:] - 4 * x
