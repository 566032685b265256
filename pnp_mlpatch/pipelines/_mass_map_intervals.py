r"""Intervals of a mass map, learned from maps whose truth is known.

Errors grow with the height of the map, and differ between measured pixels, edges and holes. In each
of these regions the quantiles 5 % and 95 % of the errors are functions of the height, a table of
bins. With c the centre and h half the width of such an interval of errors, a factor f >= 1, the
conformal quantile of :math:`|truth - x - c| / h` over maps that a table was not made from, corrects
what the table promises too much (Romano, Patterson and Candes 2019):

.. math:: [low, high] = x + c \mp f h
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.lensing import arcmin, peaks
from pnp_mlpatch.uncertainty import calibrate

LEVEL = 0.9  # probability that a pixel is in its interval
PEAK = 0.05  # height above which peaks are listed
NEAR, FAR = 1.0, 2.5  # arcmin from the mask's edge, between which regions change
REGIONS = ("seen", "edge", "unseen", "farther", "far")
PIXELS, PEAKS = 200, 40  # least errors in a bin of a table
LEAST_TOP = 0.01  # height from which errors may grow beyond what was learned
GROWTH, BINS = 1.5, 12  # bins grow to the middle, up to a twelfth of all errors


@dataclass(frozen=True)
class Known:
    """A map whose truth is known, both (H, W) less their mean over the measured pixels."""

    x: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Table:
    """Errors as functions of the height up to ``top``: bins (N,) of quantiles and mean squares."""

    height: np.ndarray
    low: np.ndarray
    high: np.ndarray
    square: np.ndarray
    top: float
    factor: float = 1.0

    def interval(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the ends and the standard deviation at values of the map; x lies inside."""
        centre, half = self.at(x)
        half = self.factor * half
        std = np.sqrt(np.interp(x, self.height, self.square)) * self._growth(x)
        return x + np.minimum(centre - half, 0), x + np.maximum(centre + half, 0), std

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the centre and the half width of the errors at values of the map, uncorrected."""
        growth = self._growth(x)
        low, high = (growth * np.interp(x, self.height, values) for values in (self.low, self.high))
        return (low + high) / 2, (high - low) / 2

    def _growth(self, x: np.ndarray) -> np.ndarray:
        """Return a factor of errors above ``top``: there they grow as the root of x."""
        return np.sqrt(np.maximum(x / max(self.top, LEAST_TOP), 1))


@dataclass(frozen=True)
class Calibration:
    """The tables of the regions, and of peaks; None where there were too few of these."""

    regions: Tensor
    tables: dict[int, Table]
    peaks: Table | None

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return low, high and std of a map (H, W), less its mean over the measured pixels."""
        found = [torch.zeros(x.shape, dtype=torch.float64) for _ in range(3)]
        for region, table in self.tables.items():
            here = self.regions == region
            for values, part in zip(found, table.interval(_numbers(x[here])), strict=True):
                values[here] = torch.from_numpy(part)
        low, high, std = (values.to(x.dtype) for values in found)
        return torch.minimum(low, x), torch.maximum(high, x), std

    def rows(self, x: Tensor, seen: Tensor, mean: float) -> tuple[dict[str, Any], ...]:
        """Return the peaks of a map, of which the mean was subtracted, with their intervals."""
        places = peaks(x.where(seen, 0.0), PEAK, seen)
        rows, columns = places.unbind(1)
        at = [values[rows, columns].double().numpy() for values in self.maps(x)]
        heights = _numbers(x[rows, columns])
        if self.peaks is not None:
            at = list(self.peaks.interval(heights))
        numbers = np.stack([heights + mean, at[0] + mean, at[1] + mean, at[2]], axis=1)
        return tuple(
            {"row": row, "column": column}
            | dict(zip(("kappa", "low", "high", "std"), values, strict=True))
            for (row, column), values in zip(places.tolist(), numbers.tolist(), strict=True)
        )


def regions_of(seen: Tensor, pixel: str) -> Tensor:
    """Return the region (H, W) of every pixel, a number of ``REGIONS``.

    Measured pixels within an arcminute of one that is not, or of the end of the map, are the edge;
    unseen pixels count by their distance from measured ones, along rows, columns and diagonals.
    """
    near, far = (max(1, round(reach / arcmin(pixel))) for reach in (NEAR, FAR))
    edge = seen & ~_within(seen, near)
    unseen, farther, lonely = (REGIONS.index(name) for name in ("unseen", "farther", "far"))
    found = torch.where(seen, edge.long(), lonely)
    for reach, region in ((far, farther), (near, unseen)):
        found[~seen & ~_within(~seen, reach, border=True)] = region
    return found


def _within(x: Tensor, reach: int, border: bool = False) -> Tensor:
    """Return where all pixels up to ``reach`` away are True; ``border``: outside of the map too."""
    padded = F.pad((~x).float()[None, None], [reach] * 4, value=0.0 if border else 1.0)
    return F.max_pool2d(padded, 2 * reach + 1, 1)[0, 0] == 0


def calibrated(maps: Sequence[Known], seen: Tensor, pixel: str) -> Calibration:
    """Learn the intervals from two maps or more."""
    regions = regions_of(seen, pixel)
    everywhere = _learned([_errors(known, None) for known in maps], PIXELS)
    assert everywhere is not None
    tables = {}
    for region in regions.unique().tolist():
        found = _learned([_errors(known, regions == region) for known in maps], PIXELS)
        tables[region] = found or everywhere
    return Calibration(regions, tables, _learned([_of_peaks(k, seen) for k in maps], PEAKS))


Errors = tuple[np.ndarray, np.ndarray]  # values of a map, and truth less these


def _errors(known: Known, where: Tensor | None) -> Errors:
    x, truth = _numbers(known.x), _numbers(known.truth)
    inside = slice(None) if where is None else where.numpy()
    return x[inside].ravel(), (truth - x)[inside].ravel()


def _of_peaks(known: Known, seen: Tensor) -> Errors:
    rows, columns = peaks(known.x.where(seen, 0.0), PEAK, seen).unbind(1)
    x = _numbers(known.x[rows, columns])
    return x, _numbers(known.truth[rows, columns]) - x


def _numbers(x: Tensor) -> np.ndarray:
    return x.double().numpy()


def _learned(errors: Sequence[Errors], least: int) -> Table | None:
    """Return a table with its factor; None if one has fewer than ``least`` errors in each half."""
    halves = errors[::2], errors[1::2]
    whole, found = _table(errors, least), [_table(half, least) for half in halves]
    tables = [table for table in found if table is not None]
    if whole is None or len(tables) < len(halves):
        return None
    centre, half, error = [], [], []
    for table, other in zip(tables, reversed(halves), strict=True):
        x, e = (np.concatenate(part) for part in zip(*other, strict=True))
        for values, part in zip((centre, half, error), (*table.at(x), e), strict=True):
            values.append(part)
    given = (torch.from_numpy(np.concatenate(v))[None, None, None] for v in (centre, half, error))
    return replace(whole, factor=max(calibrate(*given, level=LEVEL).factor, 1.0))


def _table(errors: Sequence[Errors], least: int) -> Table | None:
    """Return the quantiles of errors in bins of the height; None if they are fewer than a bin."""
    x, e = (np.concatenate(part) for part in zip(*errors, strict=True))
    if len(x) < least:
        return None
    order = np.argsort(x, kind="stable")
    x, e = x[order], e[order]
    bins = [slice(a, b) for a, b in pairwise(_edges(len(x), least))]
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.array([np.quantile(e[b], tails) for b in bins]).T
    height, square = np.array([(np.median(x[b]), np.square(e[b]).mean()) for b in bins]).T
    return Table(height, low, high, square, float(x[-1]))


def _edges(count: int, least: int) -> list[int]:
    """Return edges of bins of ``count`` sorted values: small at both ends, larger in the middle."""
    edges, size = [0], float(least)
    while edges[-1] + size <= count / 2:
        edges.append(int(edges[-1] + size))
        size = max(min(GROWTH * size, count / BINS), float(least))
    inner = edges[1:-1] if len(edges) > 1 and edges[-1] + least > count / 2 else edges[1:]
    return [0, *inner, *(count - edge for edge in reversed(inner)), count]
