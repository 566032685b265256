"""How far estimates are from the truth, as data tell it without the truth: :class:`Loss`, and of several estimates the mean for which that is least."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pnp_mlpatch.solvers import Problem

RIDGE = 1e-6  # what is added to the products of residuals, so that estimates that are the same have the same part
CHANCE = 1.0  # standard errors that errors may be apart and be taken for the same


@dataclass(frozen=True)
class Loss:
    r"""What estimates are judged by, which can be told without the truth f since it depends on A f only.

        loss(x) = |B A (x - f)|^2 / E|B e|^2                e the noise of the data

        B r = (A^H A + c)^-1 A^H r,   c = (noise / level)^2         with a ``level`` (B,): the image that a residual r shows
        B r = r / noise                                             without one: the data

    The first is Wiener's estimate from r, for a white image of the deviation ``level``: it is near x - f wherever A passes more than c, so that this is the error of
    the image, but for what the data do not tell. The second weighs that error by A^H A: what a blur nearly hides hardly counts.

    ``noise`` is a map of the noise (1 or B, \*data_shape), ``seen`` says where anything was measured; ``problem`` is what a solver sees of both. Stein 1981; errors of
    the image, Eldar 2009; with Wiener's inverse of a blur, Xue, Luisier and Blu 2013.
    """

    problem: Problem
    noise: Tensor
    seen: Tensor
    level: Tensor | None = None

    def see(self, r: Tensor) -> Tensor:
        r"""B r for a residual (B, \*data_shape) in the units of the data; nothing is seen where nothing was measured."""
        r = torch.where(self.seen, r / torch.where(self.seen, self.noise, 1.0), 0.0)
        return (
            r
            if self.level is None
            else self._step(self.problem.A.adjoint(self._unit(r) * r), self.level)
        )

    def size(self, changes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """E|B e|^2 (B,) from ``changes`` drawn like the noise; and of how many data, without a level, the loss varies as much.

        The number is E|B e|^2 squared over E|B^T B e|^2: m without a level.
        """
        seen = [self.see(change) for change in changes]
        size = torch.stack([_square(mine) for mine in seen]).mean(0)
        return size, size.square() / torch.stack(
            [_square(self._again(mine)) for mine in seen]
        ).mean(0)

    def deviation(self, difference: Tensor) -> Tensor:
        """The standard error 2 |B^T B A (x - y)| of how much the estimated |B A (x - f)|^2 of x is above that of y, (B,), from ``difference`` = B A (x - y)."""
        return 2 * _square(self._again(difference)).sqrt()

    def _again(self, v: Tensor) -> Tensor:
        """B^T v, in units of the noise."""
        if self.level is None:
            return v
        y = self.problem.A(self._step(v, self.level))
        return torch.where(self.seen, self._unit(y) * y, 0.0)

    def _step(self, v: Tensor, level: Tensor) -> Tensor:
        """(A^H A + c)^-1 v."""
        return self.problem.A.data_step(
            torch.zeros_like(v), (self._unit(v).flatten() / level).square(), Aty=v
        )[0]

    def _unit(self, like: Tensor) -> Tensor:
        """The noise that is left when a map is divided out, a column with a number for each image."""
        unit = torch.as_tensor(self.problem.known_noise("Loss")).to(like).expand(len(like))
        return unit.reshape(-1, *[1] * (like.ndim - 1))


def stacked(products: Tensor, moved: Tensor) -> Tensor:
    r"""The mean of estimates of which Stein's estimate is least, by its weights (K,), >= 0 with the sum 1.

        min  sum_kl w_k w_l <r_k, r_l> / N + 2 sum_k w_k div_k / N            r_k = B (A x_k - q),   N = E|B e|^2

    ``products`` (K, K) are those of the residuals over N, ``moved`` (K,) the divergences over N (:class:`Loss`). By active sets: estimates with a part are added one
    by one, by the gradient, and those whose part would be negative leave. Breiman 1996 (stacked regressions); with Stein's estimate, Blu and Luisier 2007.
    """
    t, one = moved.double(), torch.ones(len(moved), dtype=torch.float64)
    H = products.double() + RIDGE * one.diag()
    w, some = torch.zeros_like(t), [int((H.diag() + 2 * t).argmin())]
    w[some] = 1.0
    for _ in range(20 * len(t)):
        inner = torch.linalg.solve(H[some][:, some], torch.stack([one[some], t[some]], dim=1))
        aim = (
            inner[:, 0] * (1 + inner[:, 1].sum()) / inner[:, 0].sum() - inner[:, 1]
        )  # the least of these alone, with the sum 1
        if bool((aim > 0).all()):
            w[some] = aim
            gradient = H @ w + t
            if float(gradient.min()) >= float(w @ gradient) - 1e-10:
                break
            some.append(int(gradient.argmin()))
        else:
            shrinks = aim <= 0
            part = (w[some] / (w[some] - aim).clamp_min(torch.finfo(torch.float64).tiny))[
                shrinks
            ].min()
            w[some] = torch.where(
                shrinks & (w[some] <= part * (w[some] - aim) * (1 + 1e-12)),
                0.0,
                w[some] + part * (aim - w[some]),
            )
            some = w.nonzero()[:, 0].tolist()
    return w / w.sum()


def toward(
    best: int, w: Tensor, products: Tensor, moved: Tensor, deviation: Callable[[Tensor], float]
) -> Tensor:
    r"""Of the means between the estimate ``best`` and that of the weights ``w`` (K,) of :func:`stacked`, the nearest to ``best`` that data do not tell from w.

        w + s z,  z = e_best - w,  0 <= s <= 1        SURE(w + s z) - SURE(w) = s g + s^2 d^2 <= CHANCE s deviation(z)

    with d^2 = z^T P z, g = 2 z^T (P w + moved) >= 0; ``products`` P and ``moved`` are those of :func:`stacked`, and ``deviation`` (z) is the standard error of what
    Stein's estimate tells of two estimates sum_k z_k x_k apart.
    """
    z = -w
    z[best] += 1
    d2, g = float(z @ products @ z), 2 * float(z @ (products @ w + moved))
    if d2 <= 0:
        return w
    s = (CHANCE * deviation(z) - g) / d2
    return w + min(max(s, 0.0), 1.0) * z


def _square(v: Tensor) -> Tensor:
    return v.flatten(1).square().sum(1).double()


__all__ = ["Loss", "stacked", "toward"]
