"""What a file of projections holds, whatever its format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.stored import StoredArray


@dataclass(frozen=True)
class ScanFile:
    """The projections of a file and, where its format knows them, angles and fields.

    Parameters
    ----------
    data : StoredArray
        The projections, of two or three axes.
    layout : str
        The order of three axes: a permutation of "sad" (slices, angles, detectors).
    meta : dict
        Plain JSON values that say what was found where.
    theta : ndarray, optional
        The angles, one for each projection.
    degrees : bool
        The unit of ``theta``: degrees, or else radians.
    flat, dark : ndarray, optional
        The means of the open-beam and of the dark frames.
    closed : bool
        Whether the last projection repeats the first and is dropped.
    kept : ndarray of bool, optional
        Of the frames of an NXtomo file those that are projections.
    """

    data: StoredArray
    layout: str
    meta: dict[str, Any]
    theta: np.ndarray | None = None
    degrees: bool = False
    flat: np.ndarray | None = None
    dark: np.ndarray | None = None
    closed: bool = False
    kept: np.ndarray | None = None


def mean_frame(frames: Iterable[np.ndarray], path: Path, what: str) -> np.ndarray:
    """Average frames of one shape in float64, one at a time in memory.

    Parameters
    ----------
    frames : iterable of ndarray
        The frames.
    path : Path
        The file, for messages.
    what : str
        The name of the field, for messages.

    Returns
    -------
    ndarray
        float64.

    Raises
    ------
    InputError
        If there are no frames, or if they do not hold real numbers.
    """
    total, count = None, 0
    for frame in frames:
        if frame.dtype.kind not in "fiu":
            raise InputError(f"{path}: {what} holds {frame.dtype}, expected real numbers.")
        total = frame.astype(np.float64) if total is None else total + frame
        count += 1
    if total is None:
        raise InputError(
            f"{path}: {what} holds no frames. Remove it, or give flat= and dark= yourself."
        )
    return total / count


def format_ranges(numbers: Iterable[int]) -> str:
    """Write sorted integers as ranges: 1, 2, 3, 7 becomes "1 ... 3, 7".

    Parameters
    ----------
    numbers : iterable of int
        Integers in increasing order.

    Returns
    -------
    str
        At most eight ranges.
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = int(number)
        else:
            runs.append([int(number), int(number)])
    shown = [str(a) if a == b else f"{a} ... {b}" for a, b in runs[:8]]
    return ", ".join(shown) + (", ..." if len(runs) > 8 else "")


__all__ = ["ScanFile", "format_ranges", "mean_frame"]
