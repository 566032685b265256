r"""The base of operators of photon counts: a data step by Newton's method on their likelihood."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputTypeError
from pnp_mlpatch.linalg import CGInfo, dot, pcg
from pnp_mlpatch.operators._base import LinearOperator, Map
from pnp_mlpatch.operators._weighted import norm_of_images

NEWTON_TOL = 0.1  # relative residual to which the equations of a Newton step are solved
HALVINGS = 20  # of a Newton step, at most
TINY = 1e-30


class Counts(LinearOperator):
    r"""Counts whose mean depends on A f, as an operator: weighted least squares of A otherwise.

    The data step minimises :math:`L(A f) + \tfrac{\alpha}{2} |f - z|^2`, where L is the negative
    log-likelihood. A subclass makes ``linear``, the operator A weighted, and the data ``q`` that go
    with it, and writes ``objective`` (L) and ``_expand``.

    Parameters
    ----------
    A : LinearOperator
    counts : Tensor, shape (B, \*A.data_shape)
    """

    likelihood = True
    takes = "an operator"  # in words
    rounding = 0.0  # of the objective, relative to the counts: a step may raise it by so much
    linear: LinearOperator
    q: Tensor

    def __init__(self, A: LinearOperator, counts: Tensor):
        who = type(self).__name__
        if not isinstance(A, LinearOperator):
            raise InputTypeError(f"{who}: A must be {self.takes}, got {type(A).__name__}.")
        super().__init__(A.image_shape, A.data_shape)
        A._check(counts, "data", f"{who}(A, counts)", "counts")
        self.operator = A
        self.counts: Tensor

    @abstractmethod
    def objective(self, p: Tensor) -> Tensor:
        r"""Return L(p) of each image, shape (B, 1, ...), float64; p is (B, \*data_shape)."""

    @abstractmethod
    def _expand(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return A^H L'(p), the size (B,) that it is judged by, and the root of L''(p)."""

    def _forward(self, x: Tensor) -> Tensor:
        return self.linear._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.linear._adjoint(y)

    def _precondition(self, alpha: Tensor) -> Map | None:
        return self.linear._precondition(alpha)

    def _initial(self, q: Tensor) -> Tensor:
        return self.linear._initial(q)

    def _norm(self, iterations: int, tol: float) -> float:
        return norm_of_images(self, iterations, tol)

    def _solve(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> tuple[Tensor, CGInfo]:
        with torch.no_grad():
            f = x0.clone() if len(x0) == len(z) else x0.expand_as(z)
            p, used = self.operator._forward(f), 0
            while True:
                slope, size, weight = self._expand(p)
                gradient = slope + alpha * (f - z)
                residual = gradient.flatten(1).norm(dim=1) / size.clamp_min(TINY)
                if used >= max_iter or bool((residual <= tol).all()):
                    return f, CGInfo(used, residual)
                direction, info = self._newton(gradient, weight, alpha, max_iter - used)
                used += max(1, info.iterations)
                f, p, moved = self._descend(f, p, direction, z, alpha)
                if not moved:  # at the precision of the numbers
                    used = max_iter

    def _newton(
        self, gradient: Tensor, weight: Tensor, alpha: Tensor, max_iter: int
    ) -> tuple[Tensor, CGInfo]:
        def normal(x: Tensor) -> Tensor:
            return self.operator._adjoint(weight.square() * self.operator._forward(x)) + alpha * x

        return pcg(
            normal,
            -gradient,
            torch.zeros_like(gradient),
            precondition=self.operator._precondition_weighted(alpha, weight),
            tol=NEWTON_TOL,
            max_iter=max_iter,
        )

    def _descend(
        self, f: Tensor, p: Tensor, direction: Tensor, z: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor, bool]:
        """Find the largest step of 1, 1/2, 1/4 ... that lowers the objective, of each image."""
        change = self.operator._forward(direction)

        def ray(step: Tensor) -> Tensor:
            return p + step.reshape(-1, *[1] * (p.ndim - 1)) * change

        def value(step: Tensor) -> Tensor:
            at = f + step * direction - z
            fidelity = self.objective(ray(step)).reshape(-1, 1, 1, 1)
            return fidelity + 0.5 * alpha * dot(at, at).double()

        step = torch.ones_like(f[:, :1, :1, :1])
        before = value(torch.zeros_like(step)) + self.rounding * self.counts.sum().double()
        for _ in range(HALVINGS):
            worse = ~(value(step) <= before)
            if not bool(worse.any()):
                break
            step = torch.where(worse, step / 2, step)
        step = torch.where(value(step) <= before, step, torch.zeros_like(step))
        return f + step * direction, ray(step), bool((step > 0).any())
