r"""Transmission counts as an operator: its data step is the proximal map of their likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.linalg import CGInfo, dot, pcg
from pnp_mlpatch.operators._base import LinearOperator, Map
from pnp_mlpatch.operators._weighted import norm_of_images

NEWTON_TOL = 0.1  # relative residual to which the equations of a Newton step are solved
HALVINGS = 12  # of a Newton step, at most
LEAST_COUNT = 0.5  # photons, where a logarithm of counts is taken
TINY = 1e-30


class Transmission(LinearOperator):
    r"""Photon counts behind an operator A of line integrals, c ~ Poisson(b exp(-A f) + r).

    The data step is the proximal map of the negative log-likelihood. It takes no logarithm of the
    data, so it is unbiased where counts are few or 0. Elsewhere it agrees with weighted least
    squares, and that is what this operator is otherwise: ``T(f)`` is :math:`\sqrt{w} A f` with
    :math:`w = (c - r)^2 / c`, and ``T.q`` are the data that go with it. Solvers that take gradients
    in place of the data step (pgd) see the weighted least squares.

    Parameters
    ----------
    A : LinearOperator
        Line integrals.
    counts : Tensor, shape (B, \*A.data_shape)
        c, in photons, >= 0.
    blank : float or Tensor
        The blank scan b, in photons, >= 0; broadcasts to ``counts``. Bins with 0 have no weight.
    background : float or Tensor
        The mean background r, in photons, >= 0; broadcasts to ``counts``.

    Attributes
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        The data to give to a solver, whose noise is 1.

    Raises
    ------
    InputError
        If shapes do not fit, or values are negative or not finite.

    Notes
    -----
    .. math::

        h(z; \alpha) = \arg\min_f \sum_i [\bar y_i - c_i \log \bar y_i]
                       + \tfrac{\alpha}{2} |f - z|^2, \qquad \bar y = b \, e^{-A f} + r

    by Newton's method with the Fisher weights :math:`(b e^{-A f})^2 / \bar y`. Each step is solved
    by preconditioned CG, and halved until it descends. ``max_iter`` of the data step counts all CG
    steps. No gradients flow through it.

    References
    ----------
    Erdogan and Fessler 1999.

    Examples
    --------
    ::

        T = Transmission(A, counts, blank)
        result = reconstruct(T.q, T, D, noise=1.0)
    """

    likelihood = True

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
        A._check(counts, "data", "Transmission(A, counts)", "counts")
        self.operator = A
        self.counts: Tensor
        self.blank: Tensor
        self.background: Tensor
        for name, value in (("counts", counts), ("blank", blank), ("background", background)):
            self.register_buffer(name, _photons(name, value, counts), persistent=False)
        seen = self.blank > 0
        if not bool(seen.any()):
            raise InputError(
                "Transmission: the blank scan is 0 everywhere, so nothing was measured."
            )
        net = (self.counts - self.background).clamp_min(LEAST_COUNT)
        weight = net / self.counts.clamp_min(LEAST_COUNT).sqrt()
        weight = torch.where(seen, weight, torch.zeros_like(net))
        self.linear = A.weighted(weight)
        self.q: Tensor
        q = torch.where(seen, weight * torch.log(self.blank.clamp_min(TINY) / net), weight)
        self.register_buffer("q", q, persistent=False)

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Transmission is made by Transmission(A, counts, blank).")

    def _forward(self, x: Tensor) -> Tensor:
        return self.linear._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.linear._adjoint(y)

    def _precondition(self, alpha: Tensor) -> Map | None:
        return self.linear._precondition(alpha)

    def _initial(self, q: Tensor) -> Tensor:
        return self.linear._initial(q)

    def for_images(self, rows: Tensor) -> Transmission:
        counts, blank, background = (
            v[rows] if v.ndim > len(self.data_shape) and len(v) > 1 else v
            for v in (self.counts, self.blank, self.background)
        )
        return Transmission(self.operator, counts, blank, background)

    def _norm(self, iterations: int, tol: float) -> float:
        return norm_of_images(self, iterations, tol)

    def objective(self, p: Tensor) -> Tensor:
        r"""Return the negative log-likelihood of line integrals, less that of the best possible.

        Parameters
        ----------
        p : Tensor, shape (B, \*data_shape)
            A f.

        Returns
        -------
        Tensor, shape (B, 1, ...), float64
            Of each image.
        """
        c = self.counts.double()  # the terms nearly cancel
        mean = self._mean(p.double())
        ratio = c.clamp_min(TINY) / mean.clamp_min(TINY)
        terms = mean - c + torch.where(c > 0, c * torch.log(ratio), torch.zeros_like(c))
        terms = torch.where(self.blank > 0, terms, torch.zeros_like(c))
        return terms.flatten(1).sum(1).reshape(-1, *[1] * (p.ndim - 1))

    def _mean(self, p: Tensor) -> Tensor:
        return self.blank * torch.exp(-p.clamp_min(-30)) + self.background

    def _solve(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> tuple[Tensor, CGInfo]:
        with torch.no_grad():
            f = x0.clone() if len(x0) == len(z) else x0.expand_as(z)
            p, used = self.operator._forward(f), 0
            while True:
                signal = self._mean(p) - self.background
                mean = (signal + self.background).clamp_min(TINY)
                ratio = torch.where(self.blank > 0, self.counts / mean, torch.ones_like(signal))
                pull, push = self.operator._adjoint(signal * ratio), self.operator._adjoint(signal)
                gradient = pull - push + alpha * (f - z)
                size = (pull.flatten(1).norm(dim=1) + push.flatten(1).norm(dim=1)).clamp_min(TINY)
                residual = gradient.flatten(1).norm(dim=1) / size
                if used >= max_iter or bool((residual <= tol).all()):
                    return f, CGInfo(used, residual)
                weight = (signal.square() / mean).sqrt()
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
        before = value(torch.zeros_like(step))
        for _ in range(HALVINGS):
            worse = ~(value(step) <= before)
            if not bool(worse.any()):
                break
            step = torch.where(worse, step / 2, step)
        step = torch.where(value(step) <= before, step, torch.zeros_like(step))
        return f + step * direction, ray(step), bool((step > 0).any())


def _photons(name: str, value: float | Tensor, counts: Tensor) -> Tensor:
    """``value`` in the shape of the counts, or :class:`InputError`."""
    try:
        photons = torch.as_tensor(value, dtype=counts.dtype, device=counts.device).detach()
        photons = photons.expand_as(counts)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Transmission: {name} must be a number or broadcast to the counts "
            f"{tuple(counts.shape)}, got {value!r}."
        ) from error
    if not bool(torch.isfinite(photons).all()) or float(photons.min()) < 0:
        raise InputError(
            f"Transmission: {name} must be finite and >= 0, in photons. "
            "Give bins that were not measured a blank of 0."
        )
    return photons.contiguous()


__all__ = ["Transmission"]
