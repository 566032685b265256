r"""Poisson images as an operator: its data step is the proximal map of their likelihood."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.linalg import CGInfo
from pnp_mlpatch.operators._base import LinearOperator
from pnp_mlpatch.operators._counts import TINY, Counts
from pnp_mlpatch.operators._decomposable import DecomposableOperator
from pnp_mlpatch.operators._verify import reached

LEAST_MEAN = 0.01  # photons, below which the likelihood is continued by a parabola
LEAST_COUNT = 0.25  # photons, the least variance of the weighted least squares
NEIGHBOURS = 5  # rows and columns over which the counts are averaged for it


class Emission(Counts):
    r"""Photon counts of an image, c ~ Poisson(g A f + b): low light, fluorescence, astronomy.

    The data step is the proximal map of the negative log-likelihood, so it is unbiased where counts
    are few or 0. It is exact where A multiplies each pixel by a number (identity, mask). Otherwise
    this operator is weighted least squares: ``E(f)`` is :math:`\sqrt{w} \, g A f`, with 1 / w the
    mean of the counts nearby, and ``E.q`` are the data that go with it. Solvers that take gradients
    in place of the data step (pgd) see the weighted least squares.

    Parameters
    ----------
    A : LinearOperator
        From the image to what arrives, which is not negative.
    counts : Tensor, shape (B, \*A.data_shape)
        c, in photons, >= 0.
    gain : float or Tensor
        The photons g for a value of 1 of A f, > 0; broadcasts to ``counts``.
    background : float or Tensor
        The mean background b, in photons, >= 0; broadcasts to ``counts``.

    Attributes
    ----------
    q : Tensor, shape (B, \*A.data_shape)
        The data to give to a solver, whose noise is 1.

    Raises
    ------
    InputError
        If shapes do not fit, values are not finite, counts or background are negative, the gain is
        not > 0, or no count of an image is above the background.

    Notes
    -----
    .. math::

        h(z; \alpha) = \arg\min_f \sum_i [y_i - c_i \log y_i] + \tfrac{\alpha}{2} |f - z|^2,
        \qquad y = g A f + b

    Below :math:`\epsilon` = 0.01 photons the term of each datum is continued by its tangent and the
    curvature :math:`\max(c_i, \epsilon) / \epsilon^2`. For c = 0 its least value is then at
    y = 0. So y stays above a negative part of :math:`\epsilon`. With A = diag(d) each pixel is the
    root of a quadratic equation. Else Newton's method is used; each step is solved by
    preconditioned CG, and halved until it descends. ``max_iter`` of the data step counts all CG
    steps. No gradients flow through these.

    References
    ----------
    Figueiredo and Bioucas-Dias 2010.

    Examples
    --------
    ::

        E = Emission(A, counts, gain=10.0)
        result = reconstruct(E.q, E, D, noise=1.0)
    """

    rounding = 1e-14

    def __init__(
        self,
        A: LinearOperator,
        counts: Tensor,
        gain: float | Tensor = 1.0,
        background: float | Tensor = 0.0,
    ):
        super().__init__(A, counts)
        self.gain: Tensor
        self.background: Tensor
        for name, value in (("counts", counts), ("gain", gain), ("background", background)):
            self.register_buffer(name, _photons(name, value, counts), persistent=False)
        seen = (self.counts > self.background).flatten(1).any(1)
        if not bool(seen.all()):
            raise InputError(
                f"Emission: no count of image {int((~seen).nonzero()[0])} is above the background, "
                "so nothing is seen of it. Check the background, which is a mean in photons, or "
                "leave the image out."
            )
        near = _nearby(self.counts, reached(A, device=self.counts.device))
        weight = self.gain * near.clamp_min(LEAST_COUNT).rsqrt()
        self.linear = A.weighted(weight)
        self.q: Tensor
        q = (weight / self.gain) * (self.counts - self.background)
        self.register_buffer("q", q, persistent=False)

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Emission is made by Emission(A, counts, gain, background).")

    def for_images(self, rows: Tensor) -> Emission:
        counts, gain, background = (
            v[rows] if len(v) > 1 else v for v in (self.counts, self.gain, self.background)
        )
        return Emission(self.operator, counts, gain, background)

    def objective(self, p: Tensor) -> Tensor:
        r"""Return the negative log-likelihood of an image, less that of the best possible.

        Parameters
        ----------
        p : Tensor, shape (B, \*data_shape)
            A f of the image f.

        Returns
        -------
        Tensor, shape (B, 1, ...), float64
            Of each image. Twice this is the deviance, which is about the number of data where
            counts are many.
        """
        c, eps = self.counts.double(), LEAST_MEAN
        y = self.gain.double() * p.double() + self.background.double()
        at = y.clamp_min(eps)
        below = (y - eps).clamp_max(0)
        log = torch.where(c > 0, c * torch.log(c.clamp_min(TINY) / at), torch.zeros_like(c))
        terms = at - c + log + (1 - c / eps) * below
        terms = terms + c.clamp_min(eps) / (2 * eps**2) * below.square()
        return terms.flatten(1).sum(1).reshape(-1, *[1] * (p.ndim - 1))

    def _slopes(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return the first and the second derivative of the terms of the objective by p."""
        c, g, eps = self.counts, self.gain, LEAST_MEAN
        y = g * p + self.background
        at, below = y.clamp_min(eps), (y - eps).clamp_max(0)
        steep = c.clamp_min(eps) / eps**2
        first = 1 - c / at + steep * below
        second = torch.where(below < 0, steep, c / at.square())
        return g * first, g.square() * second

    def _expand(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        first, second = self._slopes(p)
        pull = self.operator._adjoint(first)
        scale = self.operator._adjoint(self.gain.expand_as(p).contiguous())
        return pull, pull.flatten(1).norm(dim=1) + scale.flatten(1).norm(dim=1), second.sqrt()

    def _solve(
        self, z: Tensor, alpha: Tensor, Aty: Tensor, x0: Tensor, tol: float, max_iter: int
    ) -> tuple[Tensor, CGInfo]:
        if _is_diagonal(self.operator):
            return self._roots(z, alpha), CGInfo(0, z.new_zeros(len(z)))
        return super()._solve(z, alpha, Aty, x0, tol, max_iter)

    def _roots(self, z: Tensor, alpha: Tensor) -> Tensor:
        """Return the data step of each pixel, where A multiplies it by a number d."""
        assert isinstance(self.operator, DecomposableOperator)
        c, b, eps = self.counts.double(), self.background.double(), LEAST_MEAN
        d = self.gain.double() * self.operator._d(torch.float64)
        a, x = alpha.double(), z.double()
        s, m = d.square() / a, b + d * x  # y = m where c = y
        half = (m - s) / 2
        root = (half.square() + s * c).sqrt()
        y = torch.where(half > 0, half + root, s * c / (root - half).clamp_min(TINY))
        steep = c.clamp_min(eps) / eps**2
        low = (m + s * (c / eps - 1 + eps * steep)) / (1 + s * steep)
        y = torch.where(y < eps, low, y)
        slope = torch.where(y < eps, 1 - c / eps + steep * (y - eps), 1 - c / y.clamp_min(eps))
        return (x - d * slope / a).to(z.dtype)


def _is_diagonal(A: LinearOperator) -> bool:
    """Return whether A multiplies each pixel by a real number."""
    hooks = ("_u", "_uh", "_v", "_vh", "_forward", "_adjoint")
    return isinstance(A, DecomposableOperator) and all(
        getattr(type(A), name) is getattr(DecomposableOperator, name) for name in hooks
    )


def _nearby(counts: Tensor, seen: Tensor) -> Tensor:
    """Return the mean of the counts nearby, where A sees something; of all if they have no rows."""
    seen = seen.to(counts).expand_as(counts)
    sums = torch.stack([counts * seen, seen])
    if counts.ndim < 4:
        sums = sums.mean(-1, keepdim=True).expand_as(sums)
    else:
        half = NEIGHBOURS // 2
        sums = F.avg_pool2d(sums.flatten(0, -4), NEIGHBOURS, 1, half).reshape(sums.shape)
    return sums[0] / sums[1].clamp_min(TINY)


def _photons(name: str, value: float | Tensor, counts: Tensor) -> Tensor:
    """Return ``value`` in the shape of the counts, or raise :class:`InputError`."""
    try:
        photons = torch.as_tensor(value, dtype=counts.dtype, device=counts.device).detach()
        photons = photons.expand_as(counts)
    except (TypeError, ValueError, RuntimeError) as error:
        got = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise InputError(
            f"Emission: {name} must be a number or broadcast to the counts "
            f"{tuple(counts.shape)}, got {got}. "
            "One number for each image has the shape (B, 1, ...)."
        ) from error
    least = float(photons.min())
    if not bool(torch.isfinite(photons).all()) or least < 0 or (name == "gain" and least == 0):
        what = "> 0, in photons for a value of 1" if name == "gain" else ">= 0, in photons"
        raise InputError(
            f"Emission: {name} must be finite and {what}, got values from {least:g} to "
            f"{float(photons.max()):g}. Leave data that were not measured out by a mask as A, "
            "and take offsets of the camera off first."
        )
    return photons.contiguous()


__all__ = ["Emission"]
