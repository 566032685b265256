r"""Line integrals whose detector elements have an unknown offset each.

.. math:: q_{ak} = (A f)_{ak} + o_k + n_{ak}, \qquad o_k \sim N(0, \tau^2), \quad
          n_{ak} \sim N(0, 1 / w_{ak}^2)

An error of the gain of an element is such an offset, and a ring in the image. The offsets are
integrated out, so that f is estimated as if with them. What is left is weighted least squares with

.. math:: W^{1/2} = (I - \gamma_k v_k v_k^T) \, w, \qquad v_{ak} = w_{ak} / \sqrt{s_k}, \quad
          s_k = \sum_a w_{ak}^2, \quad (1 - \gamma_k)^2 = 1 / (1 + \tau^2 s_k)

for the readings of the element k: their mean counts for little, their changes for all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators._base import LinearOperator, Map
from pnp_mlpatch.operators._weighted import Weighted

FEWEST = 48  # elements of a detector whose differences are told from those of an object


class Ringless(LinearOperator):
    r"""The operator :math:`f \mapsto W^{1/2} A f`, for data :math:`W^{1/2} q` with noise 1.

    Parameters
    ----------
    operator : LinearOperator
        A, with data (C, angles, detectors).
    weight : Tensor, shape (B, C, angles, detectors)
        1 / standard deviation of the noise of each reading; 0 for what was not measured.
    spread : Tensor, shape (B,)
        Standard deviation of the offsets, in the unit of the data.
    """

    def __init__(self, operator: LinearOperator, weight: Tensor, spread: Tensor):
        super().__init__(operator.image_shape, operator.data_shape)
        self.operator = operator
        self.weight: Tensor
        self.spread: Tensor
        self._lost: Tensor
        self._direction: Tensor
        self.register_buffer("weight", weight.clone(), persistent=False)
        self.register_buffer("spread", spread.clone(), persistent=False)
        total = weight.square().sum(-2, keepdim=True)
        root = (1 + spread.reshape(-1, 1, 1, 1).square() * total).rsqrt()  # 1 - gamma
        self.register_buffer("_lost", 1 - root, persistent=False)
        self.register_buffer("_direction", weight / total.clamp_min(1e-30).sqrt(), persistent=False)

    @classmethod
    def example(cls) -> LinearOperator:
        raise InputError("Ringless is made of an operator, its weights and the spread of offsets.")

    def whiten(self, q: Tensor) -> Tensor:
        r"""Return :math:`W^{1/2} q`.

        Parameters
        ----------
        q : Tensor, shape (B, C, angles, detectors)
            Line integrals.

        Returns
        -------
        Tensor, shape (B, C, angles, detectors)
        """
        return self._reduce(self.weight.to(q.dtype) * q)

    def _reduce(self, y: Tensor) -> Tensor:
        v = self._direction.to(y.dtype)
        return y - self._lost.to(y.dtype) * v * (v * y).sum(-2, keepdim=True)

    def _forward(self, x: Tensor) -> Tensor:
        return self.whiten(self.operator._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        reduced = self.weight.to(y.dtype) * self._reduce(y)
        return self.operator._adjoint(reduced.contiguous())

    def _precondition(self, alpha: Tensor) -> Map | None:
        return self.operator._precondition_weighted(alpha, self.weight.to(alpha.dtype))

    def _initial(self, q: Tensor) -> Tensor:
        v, lost = self._direction.to(q.dtype), self._lost.to(q.dtype)
        full = q + lost / (1 - lost) * v * (v * q).sum(-2, keepdim=True)
        return Weighted(self.operator, self.weight)._initial(full)

    def for_images(self, rows: Tensor) -> LinearOperator:
        return Ringless(self.operator.for_images(rows), self.weight[rows], self.spread[rows])

    def offsets(self, q: Tensor, x: Tensor) -> Tensor:
        """Return the offset of each element that fits an image.

        Parameters
        ----------
        q : Tensor, shape (B, C, angles, detectors)
            Line integrals.
        x : Tensor, shape (B, C, H, W)
            The image.

        Returns
        -------
        Tensor, shape (B, C, detectors)
        """
        power = self.weight.to(q.dtype).square()
        left = (power * (q - self.operator(x))).sum(-2)
        return left / (power.sum(-2) + self.spread.reshape(-1, 1, 1).to(q.dtype) ** -2)


def element_spread(q: Tensor, noise: Tensor) -> Tensor:
    r"""Estimate how much the elements of a detector differ from their neighbours.

    Parameters
    ----------
    q : Tensor, shape (B, angles, detectors)
        Line integrals.
    noise : Tensor, shape (B, angles, detectors)
        Their standard deviation; infinite where nothing was measured.

    Returns
    -------
    Tensor, shape (B,)
        The standard deviation of the offsets. It is that of fourth differences along the detector
        of the mean over the angles: what the first half of the angles has in common with the
        second, which noise and object have not (Gnanadesikan and Kettenring 1972).
    """
    power = noise.double().square().reciprocal()
    half = q.shape[1] // 2
    found = []
    for one, weight in zip(q.double(), power, strict=True):
        parts = [(weight[rows], one[rows]) for rows in (slice(half), slice(half, None))]
        alive = (parts[0][0].sum(0) > 0) & (parts[1][0].sum(0) > 0)
        if int(alive.sum()) < FEWEST:
            found.append(0.0)
            continue
        means = [((w * y).sum(0) / w.sum(0).clamp_min(1e-30))[alive] for w, y in parts]
        first, second = (torch.diff(mean, n=4) for mean in means)
        common = (_variance(first + second) - _variance(first - second)) / 4
        found.append(max(0.0, common / 70) ** 0.5)
    return torch.tensor(found, dtype=q.dtype)


def _variance(d: Tensor) -> float:
    """Return the variance by the median absolute deviation."""
    return float((d - d.median()).abs().median() / 0.6745) ** 2


__all__ = ["Ringless", "element_spread"]
