"""The residual of a cheap reconstruction with the rotation axis at a candidate."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from pnp_mlpatch.ct._astra import AstraPair
from pnp_mlpatch.ct.geometry import Geometry, ParallelBeam, sizes
from pnp_mlpatch.ct.truncation import cut_sides

BINS = 256  # detector elements: more are binned


def residual(
    geometry: Geometry, q: Tensor, seen: Tensor, views: Tensor, center: float, iterations: int
) -> float:
    """Return what a few iterations of conjugate gradients leave of the data, as a share of them.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        Its ``offset`` is not used.
    q : Tensor, shape (angles, detectors)
        Line integrals.
    seen : Tensor, shape (angles, detectors), bool
        What was measured.
    views : Tensor, shape (N,), int64
        The projections that are used.
    center : float
        The element of the axis.
    iterations : int
        How many.

    Returns
    -------
    float
    """
    bins = -(-q.shape[1] // BINS)
    spacing = sizes(geometry)[1] * bins
    count = q.shape[1] // bins
    data, known = (
        part[views, : count * bins].reshape(len(views), count, bins) for part in (q, seen.float())
    )
    weight = known.mean(-1)
    data = (data * known).sum(-1) / known.sum(-1).clamp_min(1)
    middle = (center - (bins - 1) / 2) / bins
    side = max(8, round(max(geometry.shape) * geometry.pixel / _width(geometry, spacing)))
    side = min(side, 2 * count)
    if any(cut_sides(q, seen)):  # room for what goes on beyond the detector
        side = round(1.5 * side)
    coarse = replace(
        geometry,
        shape=(side, side),
        pixel=_width(geometry, spacing),
        angles=tuple(geometry.theta[views].tolist()),
        detectors=count,
        spacing=spacing,
        offset=((count - 1) / 2 - middle) * spacing,
    )
    pair = AstraPair(coarse, "linear" if isinstance(coarse, ParallelBeam) else "line")
    left = (weight * data)[None]
    whole = float(left.square().sum())
    slope = pair.back_project(weight * left)
    step, size = slope, float(slope.square().sum())
    for _ in range(iterations):
        moved = weight * pair.forward_project(step)
        left = left - size / float(moved.square().sum()) * moved
        slope = pair.back_project(weight * left)
        before, size = size, float(slope.square().sum())
        step = slope + size / before * step
    return float(left.square().sum()) / whole


def _width(geometry: Geometry, spacing: float) -> float:
    """Return the width of an element, as seen at the axis."""
    return spacing if isinstance(geometry, ParallelBeam) else spacing / geometry.magnification


__all__ = ["residual"]
