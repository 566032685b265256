"""Arrays that stay on disk and are read in ranges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StoredArray:
    """An array on disk, of which one range along one axis is read at a time.

    Parameters
    ----------
    shape : tuple of int
        The shape of the whole array.
    dtype : numpy.dtype
        Its type on disk.
    part : callable
        ``part(axis, start, stop)`` returns the elements start ... stop - 1 along an axis, and
        all elements along the others.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    part: Callable[[int, int, int], np.ndarray]


def along(axis: int, start: int, stop: int) -> tuple[slice, ...]:
    """Return the index of a range along one axis.

    Parameters
    ----------
    axis : int
        The axis, counted from 0.
    start, stop : int
        The range start ... stop - 1.

    Returns
    -------
    tuple of slice
    """
    return (slice(None),) * axis + (slice(start, stop),)


def in_memory(array: np.ndarray) -> StoredArray:
    """Return an array in memory as a stored one.

    Parameters
    ----------
    array : ndarray
        The array.

    Returns
    -------
    StoredArray
    """
    return StoredArray(array.shape, array.dtype, lambda *span: array[along(*span)])


__all__ = ["StoredArray", "along", "in_memory"]
