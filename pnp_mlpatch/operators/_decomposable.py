"""Operators with a singular value decomposition that is cheap to apply."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pnp_mlpatch.operators._base import LinearOperator, Map


class DecomposableOperator(LinearOperator):
    r"""An operator :math:`A = V \, \mathrm{diag}(d) \, U`, with U unitary and :math:`V^H V = 1`.

    The data step is exact, at the price of one U and one :math:`U^H`:

    .. math:: (A^H A + \alpha)^{-1} b = U^H \left[ (|d|^2 + \alpha)^{-1} U b \right]

    The hooks are ``_u``, ``_uh``, ``_v`` and ``_vh``, the identity by default, and ``_d``, which
    broadcasts against ``_u(x)`` and may be complex.

    Parameters
    ----------
    image_shape : sequence of int
        (C, H, W).
    data_shape : sequence of int
        The shape of the data of one image.
    """

    def _u(self, x: Tensor) -> Tensor:
        return x

    def _uh(self, s: Tensor) -> Tensor:
        return s

    def _v(self, s: Tensor) -> Tensor:
        return s

    def _vh(self, y: Tensor) -> Tensor:
        return y

    @abstractmethod
    def _d(self, dtype: torch.dtype) -> Tensor:
        """Return the diagonal, in the precision of the real ``dtype``."""

    def _squared(self, dtype: torch.dtype) -> Tensor:
        d = self._d(dtype)
        return (d * d.conj()).real

    def _forward(self, x: Tensor) -> Tensor:
        return self._v(self._d(x.dtype) * self._u(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._uh(self._d(y.dtype).conj() * self._vh(y))

    def _normal(self, x: Tensor) -> Tensor:
        return self._uh(self._squared(x.dtype) * self._u(x))

    def _inverse(self, alpha: Tensor) -> Map:
        values = self._squared(alpha.dtype) + alpha
        return lambda b: self._uh(self._u(b) / values)
