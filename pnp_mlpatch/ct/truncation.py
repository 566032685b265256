"""Objects that are larger than what the detector sees: noticed, and given room.

Readings at an end of the detector are far from zero where the object goes on beyond. Its image is
then reconstructed on a larger grid, with detector elements beside the detector that measured
nothing, and cut out at the end. What the data do not tell, a slow change of the values in the field
of view, stays as the start has it. So filtered backprojection takes for these elements the
projections of the ellipses that fit the scan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.ct.geometry import FanBeam, Geometry, sizes
from pnp_mlpatch.ct.scan import Scan

END = 0.02  # of the detector, at either side
CUT = 0.08  # of the largest line integrals: more at an end is object, not air
BLOCKS, OFTEN = 20, 0.1  # of the views, and the part of them at which the object is cut
MARGIN = 0.5  # of the detector, that is added at either side
ROOM = 1.5  # of the detector, the least side of the image


def cut_sides(q: Tensor, seen: Tensor) -> tuple[bool, bool]:
    """Tell at which end of the detector the object goes on.

    Parameters
    ----------
    q : Tensor, shape (angles, detectors)
        Line integrals of one slice.
    seen : Tensor, shape (angles, detectors), bool
        What was measured.

    Returns
    -------
    tuple of bool
        Left (element 0) and right: whether the median of the outermost 2 % of the elements, at
        least 2, is more than 8 % of the 99th percentile of the slice, in more than a tenth of 20
        blocks of views.
    """
    values = torch.where(seen, q, torch.nan).numpy().astype(np.float64)
    alive = seen.any(0).nonzero().flatten()
    if not len(alive):
        return False, False
    values = values[:, int(alive[0]) : int(alive[-1]) + 1]
    top = float(np.nanpercentile(values, 99))
    width = min(max(2, math.ceil(END * values.shape[1])), values.shape[1])
    if not top > 0:
        return False, False
    found = []
    for end in (values[:, :width], values[:, -width:]):
        known = end[np.isfinite(end).any(1)]
        blocks = np.array_split(known, min(BLOCKS, len(known))) if len(known) else []
        medians = np.array([np.nanmedian(block) for block in blocks])
        noise = np.nanmedian(np.abs(np.diff(end, axis=0))) if len(end) > 1 else 0.0
        least = np.array([4 * noise / math.sqrt(block.size) for block in blocks])
        cut = medians > np.maximum(CUT * top, least)
        found.append(bool(len(medians) and cut.mean() > OFTEN))
    return found[0], found[1]


def widen(scan: Scan, geometry: Geometry) -> tuple[Scan, Geometry, int]:
    """Give the object room beside the detector.

    Parameters
    ----------
    scan : Scan
        The projections.
    geometry : ParallelBeam or FanBeam
        The scan, with the image that is wanted.

    Returns
    -------
    scan : Scan
        With half a detector more at either side, which measured nothing (NaN).
    geometry : ParallelBeam or FanBeam
        With the same elements, and an image with a margin all around.
    margin : int
        The margin, in pixels; :func:`crop` takes it away.
    """
    count, spacing = sizes(geometry)
    more = math.ceil(MARGIN * count)
    seen = (
        count * geometry.width / geometry.pixel
        if isinstance(geometry, FanBeam)
        else (count * spacing / geometry.pixel)
    )
    room = max(0, math.ceil((ROOM * seen - min(geometry.shape)) / 2))

    def field(values: Tensor | None) -> Tensor | None:
        if values is None:
            return None
        return torch.nn.functional.pad(values[None], (more, more), mode="replicate")[0]

    slices, angles, _ = scan.shape
    wide = replace(
        scan,
        shape=(slices, angles, count + 2 * more),
        flat=field(scan.flat),
        dark=field(scan.dark),
        slab=_Wide(scan.slab, more),
    )
    height, width = geometry.shape
    larger = replace(
        geometry,
        shape=(height + 2 * room, width + 2 * room),
        detectors=count + 2 * more,
        spacing=spacing,
    )
    return wide, larger, room


@dataclass(frozen=True)
class _Wide:
    """Slices with ``more`` elements at either side that measured nothing."""

    slab: Callable[[int, int], np.ndarray]
    more: int

    def __call__(self, start: int, stop: int) -> np.ndarray:
        part = np.asarray(self.slab(start, stop)).astype(np.float32)
        return np.pad(part, ((0, 0), (0, 0), (self.more, self.more)), constant_values=np.nan)


@dataclass(frozen=True)
class Frame:
    """How the image that is wanted lies in the one that is solved.

    Parameters
    ----------
    margin : int
        Pixels of the larger image at every side.
    fine : int
        Pixels of it along a side of a pixel that is wanted.
    """

    margin: int = 0
    fine: int = 1


def crop(image: Tensor, frame: Frame) -> Tensor:
    """Take the margin away, and average over the pixels that are wanted.

    Parameters
    ----------
    image : Tensor, shape (..., H, W)
        Images that were solved.
    frame : Frame
        How they lie.

    Returns
    -------
    Tensor, shape (..., (H - 2 margin) / fine, (W - 2 margin) / fine)
    """
    if frame.margin:
        inner = slice(frame.margin, -frame.margin)
        image = image[..., inner, inner]
    if frame.fine == 1:
        return image
    parts = image.unflatten(-1, (-1, frame.fine)).unflatten(-3, (-1, frame.fine))
    return parts.mean((-3, -1))


__all__ = ["Frame", "crop", "cut_sides", "widen"]
