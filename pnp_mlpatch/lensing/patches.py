r"""Patches of a field: where they lie, and the weights that blend their maps.

The patches of a map of H x W pixels are windows of equal size that overlap. The weight of a patch
is a product of one factor for its rows and one for its columns. A factor is 1 inside, 0 in the
outer part of the overlap, and rises from 0 to 1 in the middle third of it,

.. math:: w(u) = \sin^2(\pi u / 2), \qquad 0 \le u \le 1,

where the weight of the neighbour is 1 - w. So the weights of all patches sum to one in each pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing.units import radians

RAMP = 1 / 3  # of the overlap, in its middle: where the weights go from 0 to 1


@dataclass(frozen=True)
class Patch:
    """A window of a map, and its weights.

    Parameters
    ----------
    row, column : int
        Its first pixel in the map.
    shape : tuple of int
        Its size (h, w) in pixels.
    row_weights, column_weights : Tensor, shape (h,) and (w,)
        Factors of its weights.
    """

    row: int
    column: int
    shape: tuple[int, int]
    row_weights: Tensor
    column_weights: Tensor

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the map."""
        height, width = self.shape
        return slice(self.row, self.row + height), slice(self.column, self.column + width)

    @property
    def weights(self) -> Tensor:
        """The weights (h, w) of its pixels, float64."""
        return self.row_weights[:, None] * self.column_weights[None]


def patches_of(shape: tuple[int, int], pixel: Any, size: Any, overlap: Any) -> list[Patch]:
    """Divide a map into overlapping patches.

    Parameters
    ----------
    shape : tuple of int
        Size (H, W) of the map.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    size : str or astropy quantity
        Largest side of a patch, an angle with its unit. The patches have equal sides, no longer
        than this.
    overlap : str or astropy quantity
        What two neighbours share, an angle with its unit, at most two thirds of the
        side.

    Returns
    -------
    list of Patch
        Row by row. One patch if the map is no larger than ``size``.

    Raises
    ------
    InputError
        If the overlap is more than two thirds of the size, or the size below three pixels.
    """
    side = radians(pixel, "patches_of: pixel")
    most = math.floor(radians(size, "patches_of: size") / side + 1e-9)
    shared = math.ceil(radians(overlap, "patches_of: overlap") / side - 1e-9)
    if most < 3 or 3 * shared > 2 * most:
        raise InputError(
            f"patches_of: patches must share at most two thirds of their size, and have 3 "
            f"pixels or more; got size {size!r} ({most} pixels of {pixel}) and overlap {overlap!r} "
            f"({shared}). Take larger patches or a smaller overlap."
        )
    rows, columns = (_axis(n, most, shared) for n in shape)
    return [Patch(row, column, (len(r), len(c)), r, c) for row, r in rows for column, c in columns]


def blend(maps: list[Tensor], patches: list[Patch], shape: tuple[int, int]) -> Tensor:
    r"""Blend the maps of patches, :math:`\sum_p w_p x_p` with :math:`\sum_p w_p = 1`.

    Parameters
    ----------
    maps : list of Tensor, shape (..., h, w)
        The map of each patch.
    patches : list of Patch
        The patches, see :func:`patches_of`.
    shape : tuple of int
        Size (H, W) of the whole map.

    Returns
    -------
    Tensor, shape (..., H, W)
    """
    whole = maps[0].new_zeros(*maps[0].shape[:-2], *shape, dtype=torch.float64)
    for x, patch in zip(maps, patches, strict=True):
        rows, columns = patch.window
        whole[..., rows, columns] += patch.weights.to(x.device) * x
    return whole.to(maps[0].dtype)


def seams(patches: list[Patch], shape: tuple[int, int]) -> Tensor:
    """Return where more than one patch has a weight.

    Parameters
    ----------
    patches : list of Patch
        The patches.
    shape : tuple of int
        Size (H, W) of the whole map.

    Returns
    -------
    Tensor of bool, shape (H, W)
    """
    count = torch.zeros(shape, dtype=torch.int64)
    for patch in patches:
        count[patch.window] += patch.weights > 0
    return count > 1


def offsets(maps: list[Tensor], patches: list[Patch], seen: Tensor) -> Tensor:
    r"""Find a constant for each patch that makes overlapping maps agree.

    Shear does not tell the mean of the convergence, so each patch has its own. The constants are

    .. math:: \arg\min_c \sum_{p, q} \sum_x w_p w_q (x_p + c_p - x_q - c_q)^2, \qquad
              \sum_p c_p = 0,

    with the inner sum over the pixels that were seen.

    Parameters
    ----------
    maps : list of Tensor, shape (h, w)
        The map of each patch.
    patches : list of Patch
        The patches.
    seen : Tensor of bool, shape (H, W)
        Where the whole map was measured.

    Returns
    -------
    Tensor, shape (P,)
        The constants, to be added; float64.
    """
    count = len(patches)
    matrix, right = torch.zeros(count, count).double(), torch.zeros(count).double()
    for p in range(count):
        for q in range(p + 1, count):
            weight, difference = _shared(maps, patches, p, q, seen)
            matrix[p, p] += weight
            matrix[q, q] += weight
            matrix[p, q] -= weight
            matrix[q, p] -= weight
            right[p] -= difference
            right[q] += difference
    found = torch.linalg.pinv(matrix, hermitian=True) @ right
    return found - found.mean()


def _shared(
    maps: list[Tensor], patches: list[Patch], p: int, q: int, seen: Tensor
) -> tuple[float, float]:
    """Return the sum of w_p w_q, and that of w_p w_q (x_p - x_q)."""
    a, b = patches[p], patches[q]
    rows = max(a.row, b.row), min(a.row + a.shape[0], b.row + b.shape[0])
    columns = max(a.column, b.column), min(a.column + a.shape[1], b.column + b.shape[1])
    if rows[0] >= rows[1] or columns[0] >= columns[1]:
        return 0.0, 0.0

    def part(x: Tensor, patch: Patch) -> Tensor:
        i, j = (slice(n[0] - m, n[1] - m) for n, m in ((rows, patch.row), (columns, patch.column)))
        return x[i, j].double()

    weight = part(a.weights, a) * part(b.weights, b) * seen[slice(*rows), slice(*columns)]
    difference = part(maps[p], a) - part(maps[q], b)
    return float(weight.sum()), float((weight * difference).sum())


def _axis(length: int, most: int, shared: int) -> list[tuple[int, Tensor]]:
    """Return the first pixel of each patch along one axis, and its factors of the weights."""
    count = 1 if length <= most else math.ceil((length - shared) / (most - shared))
    side = math.ceil((length + (count - 1) * shared) / count)
    starts = [round(k * (length - side) / max(count - 1, 1)) for k in range(count)]
    factors = [torch.ones(side, dtype=torch.float64) for _ in starts]
    for k in range(count - 1):
        first, end = starts[k + 1], starts[k] + side
        centre, ramp = (first + end) / 2, max((end - first) * RAMP, 1.0)
        place = torch.arange(first, end, dtype=torch.float64) + 0.5
        u = ((place - centre) / ramp + 0.5).clamp(0, 1)
        rise = torch.sin(math.pi / 2 * u).square()
        factors[k][first - starts[k] :] *= 1 - rise
        factors[k + 1][: end - first] *= rise
    return list(zip(starts, factors, strict=True))


__all__ = ["Patch", "blend", "offsets", "patches_of", "seams"]
