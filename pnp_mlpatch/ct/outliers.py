"""Readings and detector elements that tell nothing of the object.

A reading is an outlier if it is at the largest number of its type (saturated), far brighter than
the open beam, or far from both of its neighbourhoods: the readings of the same projection beside it
and those of the same element before and after it (a zinger). An element is bad if it differs by
more than a tenth from the elements beside it in most projections (hot, dead, or of another gain
than the flat field says).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require

BRIGHT = 1.5  # of the open beam: no object is brighter
FAR = 8.0  # standard deviations
LEAST = 0.1  # of a line integral: less is a matter of gain, not of a broken element
MOST_VIEWS = 0.4  # in which an element differs from its neighbours
USUAL = 4.0  # times the share of views of the median element
WIDTH = 5  # readings of a median


def bright(counts: Tensor, flat: Tensor, dark: Tensor, top: float | None) -> Tensor:
    """Find readings that are saturated, or far brighter than the open beam.

    Parameters
    ----------
    counts : Tensor, shape (slices, angles, detectors)
        In detector units.
    flat, dark : Tensor
        Open beam and dark field, broadcast to ``counts``.
    top : float, optional
        The largest number of the type of the file; None for numbers that have none.

    Returns
    -------
    Tensor, shape (slices, angles, detectors), bool
    """
    found = counts - dark > BRIGHT * (flat - dark).clamp_min(0)
    return found if top is None else found | (counts >= top)


def zingers(q: Tensor, std: Tensor, seen: Tensor) -> Tensor:
    """Find single readings far from their neighbours in both directions.

    Parameters
    ----------
    q : Tensor, shape (slices, angles, detectors)
        Line integrals.
    std : Tensor
        Their standard deviation, broadcast to ``q``.
    seen : Tensor, shape (slices, angles, detectors), bool
        What was measured and is not an outlier already.

    Returns
    -------
    Tensor, shape (slices, angles, detectors), bool
        Those off by more than 8 standard deviations, by more than 0.1, and by four times the
        median of what the readings around them are off by.
    """
    out = torch.zeros_like(seen)
    for k in range(len(q)):
        values, level = _arrays(q[k], std.expand_as(q)[k], seen[k])
        beside = np.abs(values - _median(values, (1, WIDTH)))
        before = np.abs(values - _median(values, (WIDTH, 1)))
        usual = np.maximum(
            _median(beside, (WIDTH, WIDTH)),
            _median(before, (WIDTH, WIDTH)),
        )
        limit = np.maximum(np.maximum(FAR * level, LEAST), FAR / 2 * usual)
        out[k] = torch.from_numpy(np.minimum(beside, before) > limit)
    return out & seen


def bad_elements(q: Tensor, std: Tensor, seen: Tensor) -> Tensor:
    """Find elements that differ from their neighbours in most projections.

    Parameters
    ----------
    q, std, seen
        As in :func:`zingers`.

    Returns
    -------
    Tensor, shape (slices, detectors), bool
        Those off by more than 4 standard deviations and by more than 0.1 in 40 % of the views or
        more, and four times as often as the median element.
    """
    out = torch.zeros(len(q), q.shape[-1], dtype=torch.bool)
    for k in range(len(q)):
        values, level = _arrays(q[k], std.expand_as(q)[k], seen[k])
        beside = np.abs(values - _median(values, (1, WIDTH)))
        often = (beside > np.maximum(FAR / 2 * level, LEAST)).mean(0)
        limit = max(MOST_VIEWS, USUAL * float(np.median(often)))
        out[k] = torch.from_numpy(often > limit) & seen[k].any(0)
    return out


def _arrays(q: Tensor, std: Tensor, seen: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return line integrals, interpolated where nothing was measured, and the noise about each."""
    values, level = q.double().numpy().copy(), std.double().numpy().copy()
    places = np.arange(values.shape[1])
    for k, known in enumerate(seen.numpy()):
        if known.any() and not known.all():
            values[k, ~known] = np.interp(places[~known], places[known], values[k, known])
            level[k, ~known] = np.interp(places[~known], places[known], level[k, known])
    level[~np.isfinite(level)] = 0.0
    return values, _median(level, (1, WIDTH))


def _median(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the running median; at the borders the last value is repeated."""
    ndimage = require("scipy.ndimage", "Finding outliers")
    return ndimage.median_filter(values, size, mode="nearest")


__all__ = ["bad_elements", "bright", "zingers"]
