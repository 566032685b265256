r"""Transmission counts as an operator: its data step is the proximal map of their likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators._base import LinearOperator
from pnp_mlpatch.operators._counts import TINY, Counts

LEAST_COUNT = 0.5  # photons, where a logarithm of counts is taken


class Transmission(Counts):
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

    takes = "an operator of line integrals"

    def __init__(
        self,
        A: LinearOperator,
        counts: Tensor,
        blank: float | Tensor,
        background: float | Tensor = 0.0,
    ):
        super().__init__(A, counts)
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

    def for_images(self, rows: Tensor) -> Transmission:
        counts, blank, background = (
            v[rows] if v.ndim > len(self.data_shape) and len(v) > 1 else v
            for v in (self.counts, self.blank, self.background)
        )
        return Transmission(self.operator, counts, blank, background)

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

    def _expand(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        signal = self._mean(p) - self.background
        mean = (signal + self.background).clamp_min(TINY)
        ratio = torch.where(self.blank > 0, self.counts / mean, torch.ones_like(signal))
        pull, push = self.operator._adjoint(signal * ratio), self.operator._adjoint(signal)
        size = pull.flatten(1).norm(dim=1) + push.flatten(1).norm(dim=1)
        return pull - push, size, (signal.square() / mean).sqrt()


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
