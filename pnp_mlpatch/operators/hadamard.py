"""Single-pixel camera: some of the Walsh-Hadamard coefficients of an image."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.reading import weights_of
from pnp_mlpatch.operators._base import Map, register
from pnp_mlpatch.operators._decomposable import DecomposableOperator
from pnp_mlpatch.operators._inputs import check_seed

ROW_STREAM = 0x77616C73  # added to seeds, so that rows and noise of one seed are independent


@register("hadamard")
class Hadamard(DecomposableOperator):
    r"""Some rows of the orthonormal Walsh-Hadamard transform; each channel is measured alike.

    .. math:: (A x)_m = \sum_{ij} W^H_{u_m i} \, W^W_{v_m j} \, x_{ij}

    :math:`W^n` is the matrix of the Walsh functions with entries :math:`\pm 1 / \sqrt n`. Its row u
    changes its sign u times (sequency order). The first row measures the mean. The data are
    (C, M), low sequencies first: those with small :math:`(u / H)^2 + (v / W)^2`. The data step is
    exact.

    Parameters
    ----------
    image_shape : sequence of int
        (C, H, W); H and W are powers of two.
    keep : float, optional
        The part of the rows that is measured, in (0, 1]. Either this or ``rows``.
    low : float
        With ``keep``: the part of these that has the lowest sequencies, from 0 to 1. The others are
        drawn at random; the mean is always measured.
    seed : int
        Of these random numbers.
    rows : Tensor, shape (H, W), optional
        Which rows (u, v) are measured, by values that are not 0.

    Raises
    ------
    InputError
        If H or W is no power of two, a number is out of its range, ``rows`` has another shape or
        only zeros, or not exactly one of ``keep`` and ``rows`` is given.
    InputTypeError
        If ``rows`` is not a real tensor.

    References
    ----------
    Duarte et al. 2008.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        keep: float | None = None,
        low: float = 0.5,
        seed: int = 0,
        rows: Tensor | None = None,
    ):
        super().__init__(image_shape, image_shape)
        channels, height, width = self.image_shape
        _check_sides(height, width)
        if (keep is None) == (rows is None):
            raise InputError(
                "Hadamard: give either keep, the part of the rows that is measured, or rows, a "
                "mask (H, W) of them."
            )
        order = _low_first(height, width)
        if rows is not None:
            chosen = order[_checked_rows(rows, (height, width)).flatten().cpu()[order]]
        else:
            chosen = _drawn(order, keep, low, seed)
        u, v = chosen // width, chosen % width
        self.data_shape = (channels, len(chosen))
        self.index: Tensor
        self.weight: Tensor
        self.register_buffer("index", _natural(u, height) * width + _natural(v, width))
        self.register_buffer("weight", torch.ones(self.data_shape, dtype=torch.float64))

    @classmethod
    def example(cls) -> Hadamard:
        return cls((2, 8, 4), keep=0.6)

    def _u(self, x: Tensor) -> Tensor:
        return walsh_hadamard(x.flatten(-2)).reshape(x.shape)

    def _uh(self, s: Tensor) -> Tensor:
        return self._u(s)

    def _v(self, s: Tensor) -> Tensor:
        return s.flatten(-2)[..., self.index]

    def _vh(self, y: Tensor) -> Tensor:
        _, height, width = self.image_shape
        full = y.new_zeros(*y.shape[:-1], height * width).index_copy(-1, self.index, y)
        return full.unflatten(-1, (height, width))

    def _d(self, dtype: torch.dtype) -> Tensor:
        return self._vh(self.weight.to(dtype))

    def _weighted(self, weight: Tensor) -> Hadamard:
        weighted = copy.deepcopy(self)
        weighted.weight = self.weight * weight
        return weighted

    def _precondition_weighted(self, alpha: Tensor, weight: Tensor) -> Map:
        # exact, for one map for each image
        values = self._vh((self.weight.to(alpha.dtype) * weight).square()) + alpha
        return lambda r: self._uh(self._u(r) / values)


def walsh_hadamard(x: Tensor) -> Tensor:
    """Return the orthonormal Walsh-Hadamard transform along the last axis; it is its own inverse.

    Parameters
    ----------
    x : Tensor, shape (..., n)
        n is a power of two.

    Returns
    -------
    Tensor, shape (..., n)
        In natural (Hadamard) order.
    """
    n, step = x.shape[-1], 1
    y = x.reshape(-1, n)
    while step < n:
        a, b = y.reshape(-1, n // (2 * step), 2, step).unbind(2)
        y = torch.stack([a + b, a - b], 2)
        step *= 2
    return y.reshape(x.shape) / n**0.5


def _natural(sequency: Tensor, n: int) -> Tensor:
    """Return the places of Walsh functions in natural order: the bits of a Gray code, reversed."""
    gray = sequency ^ (sequency >> 1)
    place = torch.zeros_like(gray)
    for bit in range(n.bit_length() - 1):
        place = 2 * place + ((gray >> bit) & 1)
    return place


def _low_first(height: int, width: int) -> Tensor:
    """Return the flat places (u, v) of all rows, those of low sequency first."""
    u, v = torch.arange(height) / height, torch.arange(width) / width
    return torch.argsort((u[:, None].square() + v.square()).flatten(), stable=True)


def _drawn(order: Tensor, keep: float | None, low: float, seed: int) -> Tensor:
    """Return the part ``keep`` of the rows, in their order."""
    if not (finite_number(keep) and 0 < float(keep or 0) <= 1):
        raise InputError(f"Hadamard: keep must be a number in (0, 1], got {keep!r}.")
    if not (finite_number(low) and 0 <= low <= 1):
        raise InputError(f"Hadamard: low must be a number from 0 to 1, got {low!r}.")
    count = max(1, round(float(keep or 0) * len(order)))
    first = max(1, round(low * count))
    generator = torch.Generator().manual_seed(ROW_STREAM + check_seed("Hadamard", seed))
    others = torch.randperm(len(order) - first, generator=generator)[: count - first] + first
    return torch.cat([order[:first], order[others.sort().values]])


def _checked_rows(rows: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return which rows are measured, as booleans; raise unless there are some."""
    if not isinstance(rows, Tensor) or rows.is_complex():
        raise InputTypeError(
            "Hadamard: rows must be a real torch tensor (H, W), in sequency order."
        )
    if tuple(rows.shape) != shape:
        raise InputError(f"Hadamard: rows must have the shape {shape}, got {tuple(rows.shape)}.")
    rows = weights_of(rows.detach(), "Hadamard: rows")
    if not bool(torch.isfinite(rows).all()) or not bool(rows.any()):
        raise InputError("Hadamard: rows must be finite and not zero everywhere; 1 means measured.")
    return rows != 0


def _check_sides(height: int, width: int) -> None:
    """Raise unless both are powers of two."""
    if height & (height - 1) or width & (width - 1):
        up, right = (1 << (n - 1).bit_length() for n in (height, width))
        raise InputError(
            f"Hadamard: the sides of the image must be powers of two, got {height} x {width}. "
            f"Pad it to {up} x {right}, for example by torch.nn.functional.pad(x, "
            f"(0, {right - width}, 0, {up - height})), or cut it."
        )


__all__ = ["Hadamard", "walsh_hadamard"]
