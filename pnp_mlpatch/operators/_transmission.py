r"""The exact data term of transmission counts, as an operator whose data step is a proximal map by Newton's method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.linalg import CGInfo, dot, pcg
from pnp_mlpatch.operators._base import LinearOperator

INNER = 0.1  # how far the linear equations of a Newton step are solved


class Transmission(LinearOperator):
    r"""Photon counts c ~ Poisson(b exp(-A f) + r) behind any operator A of line integrals, with the blank scan b and the background r.

    The data step is the proximal map of the negative logarithm of the likelihood,

        h(z; alpha) = argmin_f sum_i [ybar_i - c_i log(ybar_i)] + alpha/2 |f - z|^2        ybar = b exp(-A f) + r

    by Newton's method with Fisher's weights (b exp(-A f))^2 / ybar, each step by preconditioned CG, with steps halved until they descend.
    It needs no logarithm of the data, so it is unbiased where counts are few or 0. Elsewhere it agrees with weighted least
    squares, which this operator is otherwise: ``T(f)`` is sqrt(w) A f with w = (c - r)^2 / c, and ``T.q`` are the data that go with it. Use

        T = Transmission(A, counts, blank)
        reconstruct(T.q, T, D, noise=1.0, sigma=...)

    ``counts`` are (B, *A.data_shape), >= 0, in photons; ``blank`` and ``background`` broadcast to them. Bins with blank 0 have no weight. Solvers
    that take gradients in place of the data step (pgd) see the weighted least squares. ``max_iter`` of the data step counts all CG
    steps; no gradients flow through it.

    Raises :class:`InputError` for other shapes, and for negative or non-finite values. Erdogan and Fessler 1999.
    """

    def __init__(
        self,
        A: LinearOperator,
        counts: Tensor,
        blank: float | Tensor,
        background: float | Tensor = 0.0,
    ):
        if not isinstance(A, LinearOperator):
            raise InputTypeError(
                f"Transmission: A must be an operator of line integrals, got {type(A).__name__}."
            )
        super().__init__(A.image_shape, A.data_shape)
        A._check(counts, A.data_shape, "Transmission(A, counts)", "counts", "image", A.image_shape)
        values = [counts.detach()]
        for name, value in (("blank", blank), ("background", background)):
            try:
                values.append(
                    torch.as_tensor(value, dtype=counts.dtype, device=counts.device).expand_as(
                        counts
                    )
                )
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"Transmission: {name} must be a number or broadcast to the counts {tuple(counts.shape)}, got {value!r}."
                ) from error
        for name, value in zip(("counts", "blank", "background"), values, strict=True):
            if not bool(torch.isfinite(value).all()) or float(value.min()) < 0:
                raise InputError(
                    f"Transmission: {name} must be finite and >= 0, in photons. Give bins that were not measured a blank of 0."
                )
        if not bool((values[1] > 0).any()):
            raise InputError(
                "Transmission: the blank scan is 0 everywhere, so nothing was measured."
            )
        self.operator = A
        self.counts: Tensor
        self.blank: Tensor
        self.background: Tensor
        for name, value in zip(("counts", "blank", "background"), values, strict=True):
            self.register_buffer(name, value.contiguous(), persistent=False)
        net = (self.counts - self.background).clamp_min(0.5)
        seen = self.blank > 0
        weight = torch.where(seen, net / self.counts.clamp_min(0.5).sqrt(), torch.zeros_like(net))
        self.linear = A.weighted(weight)
        self.q: Tensor
        self.register_buffer(
            "q",
            torch.where(seen, weight * torch.log(self.blank.clamp_min(1e-30) / net), weight),
            persistent=False,
        )

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Transmission is made by Transmission(A, counts, blank).")

    def _forward(self, x: Tensor) -> Tensor:
        return self.linear._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.linear._adjoint(y)

    def _precondition(self, alpha: Tensor) -> Callable[[Tensor], Tensor] | None:
        return self.linear._precondition(alpha)

    def _initial(self, q: Tensor) -> Tensor:
        return self.linear._initial(q)

    def for_images(self, rows: Tensor) -> Transmission:
        counts, blank, background = (
            v[rows] if v.ndim > len(self.data_shape) and len(v) > 1 else v
            for v in (self.counts, self.blank, self.background)
        )
        return Transmission(self.operator, counts, blank, background)

    def objective(self, p: Tensor) -> Tensor:
        """The negative logarithm of the likelihood of line integrals p = A f, less that of the best possible; of each image, (B, 1, ...)."""
        c = self.counts.double()  # the terms nearly cancel
        mean = self._mean(p.double())
        terms = (
            mean
            - c
            + torch.where(
                c > 0,
                c * torch.log(c.clamp_min(1e-30) / mean.clamp_min(1e-30)),
                torch.zeros_like(c),
            )
        )
        return (
            torch.where(self.blank > 0, terms, torch.zeros_like(c))
            .flatten(1)
            .sum(1)
            .reshape(-1, *[1] * (p.ndim - 1))
        )

    def _mean(self, p: Tensor) -> Tensor:
        return self.blank * torch.exp(-p.clamp_min(-30)) + self.background

    def _solve(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> tuple[Tensor, CGInfo]:
        with torch.no_grad():
            f = x0 if len(x0) == len(z) else x0.expand_as(z)
            p, used = self.operator._forward(f), 0
            while True:
                signal = self._mean(p) - self.background
                ratio = torch.where(
                    self.blank > 0,
                    self.counts / (signal + self.background).clamp_min(1e-30),
                    torch.ones_like(signal),
                )
                pull, push = self.operator._adjoint(signal * ratio), self.operator._adjoint(signal)
                gradient = pull - push + alpha * (f - z)
                size = (pull.flatten(1).norm(dim=1) + push.flatten(1).norm(dim=1)).clamp_min(1e-30)
                residual = gradient.flatten(1).norm(dim=1) / size
                if used >= max_iter or bool((residual <= tol).all()):
                    return f.clone() if f is x0 else f, CGInfo(used, residual)
                weight = (signal.square() / (signal + self.background).clamp_min(1e-30)).sqrt()
                solved = self._newton(gradient, weight, alpha, max_iter - used)
                direction, used = solved[0], used + max(1, solved[1].iterations)
                f, p, moved = self._descend(f, p, direction, z, alpha)
                if not moved:  # at the precision of the numbers
                    used = max_iter

    def _newton(
        self, gradient: Tensor, weight: Tensor, alpha: Tensor, budget: int
    ) -> tuple[Tensor, CGInfo]:
        def normal(x: Tensor) -> Tensor:
            return self.operator._adjoint(weight.square() * self.operator._forward(x)) + alpha * x

        precondition = self.operator._precondition_weighted(alpha, weight)
        return pcg(
            normal,
            -gradient,
            torch.zeros_like(gradient),
            precondition=precondition,
            tol=INNER,
            max_iter=budget,
        )

    def _descend(
        self, f: Tensor, p: Tensor, direction: Tensor, z: Tensor, alpha: Tensor
    ) -> tuple[Tensor, Tensor, bool]:
        """The largest step of 1, 1/2, 1/4 ... along the direction that lowers the objective of each image."""
        change = self.operator._forward(direction)

        def value(step: Tensor) -> Tensor:
            at = f + step * direction - z
            ray = step.reshape(-1, *[1] * (p.ndim - 1))
            return (
                self.objective(p + ray * change).reshape(-1, 1, 1, 1)
                + 0.5 * alpha * dot(at, at).double()
            )

        step = torch.ones_like(f[:, :1, :1, :1])
        before = value(torch.zeros_like(step))
        for _ in range(12):
            worse = ~(value(step) <= before)
            if not bool(worse.any()):
                break
            step = torch.where(worse, step / 2, step)
        step = torch.where(value(step) <= before, step, torch.zeros_like(step))
        return (
            f + step * direction,
            p + step.reshape(-1, *[1] * (p.ndim - 1)) * change,
            bool((step > 0).any()),
        )


__all__ = ["Transmission"]
