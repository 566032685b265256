"""What a file of projections holds, whatever its format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.stored import StoredArray


class Frames(NamedTuple):
    """Frames of one kind, by their statistics.

    Parameters
    ----------
    mean : ndarray
        float64.
    variance : ndarray, optional
        Between the frames, after each was scaled to the same mean. None for fewer than two.
    count : int
        How many there are.
    """

    mean: np.ndarray
    variance: np.ndarray | None = None
    count: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]


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
    flat, dark : Frames, optional
        The open-beam and the dark frames.
    closed : bool
        Whether the last projection repeats the first and is dropped.
    kept : ndarray of bool, optional
        Of the frames of an NXtomo file those that are projections.
    later : Frames, optional
        The open-beam frames after the scan; then ``flat`` are those before it.
    """

    data: StoredArray
    layout: str
    meta: dict[str, Any]
    theta: np.ndarray | None = None
    degrees: bool = False
    flat: Frames | None = None
    dark: Frames | None = None
    closed: bool = False
    kept: np.ndarray | None = None
    later: Frames | None = None


def average(frames: Iterable[np.ndarray], path: Path, what: str) -> Frames:
    """Take the mean and variance of frames of one shape, one at a time in memory.

    The variance is that of frames scaled to one mean, so that a beam that flickers as a whole does
    not count as noise. Frames of a dark field, whose mean is small, are taken as they are.

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
    Frames

    Raises
    ------
    InputError
        If there are no frames, or if they do not hold real numbers.
    """
    mean, squares, plain, level, count = None, None, None, 1.0, 0
    for frame in frames:
        if frame.dtype.kind not in "fiu":
            raise InputError(f"{path}: {what} holds {frame.dtype}, expected real numbers.")
        count += 1
        if mean is None or squares is None or plain is None:
            mean, squares = frame.astype(np.float64), np.zeros(frame.shape)
            level, plain = float(np.abs(mean).mean()), mean.copy()
            continue
        own = float(np.abs(frame).mean())
        scaled = frame * (level / own if 0.5 * own < level < 2 * own else 1.0)
        before = scaled - mean
        mean = mean + before / count
        squares = squares + before * (scaled - mean)
        plain = plain + (frame - plain) / count
    if mean is None or squares is None or plain is None:
        raise InputError(
            f"{path}: {what} holds no frames. Remove it, or give flat= and dark= yourself."
        )
    return Frames(plain, squares / (count - 1) if count > 1 else None, count)


def pooled(one: Frames, two: Frames) -> Frames:
    """Join frames before and after a scan: the mean of all of them, the variance within each.

    Parameters
    ----------
    one, two : Frames
        Of one shape.

    Returns
    -------
    Frames
    """
    mean = (one.count * one.mean + two.count * two.mean) / (one.count + two.count)
    known = [part for part in (one, two) if part.variance is not None]
    freedom = sum(part.count - 1 for part in known)
    if not known:
        return Frames(mean)
    squares = [np.multiply(part.count - 1, cast(Any, part.variance)) for part in known]
    return Frames(mean, np.sum(squares, axis=0) / freedom, freedom + 1)


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


__all__ = ["Frames", "ScanFile", "average", "format_ranges", "pooled"]
