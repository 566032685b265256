r"""The rotation axis, from what the projections of one slice say about each other.

Two conditions tell it. The centre of mass of a parallel projection is that of the object, so

.. math:: \frac{\sum_k k \, q_{ak}}{\sum_k q_{ak}} = c + a_1 \cos\theta_a + a_2 \sin\theta_a

for the element c of the axis (Helgason and Ludwig). And a line that is measured twice, from
opposite sides, has one integral. The first needs projections that show the whole object, the
second a whole turn; it holds for fans and for half acquisition as well. Where neither can be used,
for truncated projections over half a turn and for the short scan of a fan, the criterion is the
residual of a cheap reconstruction: what some iterations of conjugate gradients leave of the data.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct._center_residual import residual
from pnp_mlpatch.ct.counts import line_integrals
from pnp_mlpatch.ct.fbp import whole_turn
from pnp_mlpatch.ct.geometry import Geometry, ParallelBeam, sizes
from pnp_mlpatch.ct.scan import COUNTS, Scan
from pnp_mlpatch.ct.truncation import cut_sides
from pnp_mlpatch.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VIEWS = 96  # of the cheap reconstruction
FEW_VIEWS = 8
LARGEST_ERROR = 0.25  # elements: what is less certain is refused
OVERLAP = 0.1  # of the detector, seen from both sides
LEAST_POWER = 0.25  # of the mean square, in the part that is seen from both sides
SMOOTHING = 1.0  # elements, so that interpolation does not smooth the noise of some candidates


@dataclass(frozen=True, eq=False)
class Center:
    """Where the rotation axis projects to.

    Parameters
    ----------
    center : float
        The detector element, counted from 0; a whole number is the middle of an element.
    error : float
        Its standard error, in elements.
    method : str
        "centre of mass", "opposite rays" or "residual".
    mismatch : float
        What is left at this centre: the mean square of what the criterion compares, relative to
        that of the data.
    candidates, criterion : Tensor, shape (N,)
        The criterion, relative to its least value.
    tilt : float, optional
        The change of the centre from one slice to the next, in elements.
    """

    center: float
    error: float
    method: str
    mismatch: float
    candidates: Tensor = field(repr=False)
    criterion: Tensor = field(repr=False)
    tilt: float | None = None

    def plot(self) -> Figure:
        """Draw the criterion over the candidates.

        Returns
        -------
        matplotlib.figure.Figure
        """
        from pnp_mlpatch.ct._draw import draw_criterion

        return draw_criterion(self)


def find(scan: Scan, geometry: Geometry | None = None, *, slice_index: int | None = None) -> Center:
    """Find the rotation axis of a scan.

    Parameters
    ----------
    scan : Scan
        Counts or line integrals.
    geometry : ParallelBeam or FanBeam, optional
        The beam and its lengths; its ``offset`` is not used. By default a parallel beam.
    slice_index : int, optional
        The slice that is read. By default the one in the middle; then the slices at a quarter and
        at three quarters tell the tilt of the axis.

    Returns
    -------
    Center

    Raises
    ------
    InputError
        Where the scan cannot tell: for fewer than 8 views, for a slice without object, and where
        the standard error is above 0.25 element.

    Notes
    -----
    Of tomopy's convention, which counts from the edge of the detector, subtract 0.5.
    """
    geometry = scan.geometry() if geometry is None else geometry
    count = scan.shape[0]
    middle = count // 2 if slice_index is None else slice_index
    q, seen = sinogram(scan, middle)
    found = look(geometry, q, seen)
    if found is None:
        found = _by_residual(geometry, q, seen)
    _check(found, scan, middle)
    if slice_index is None and count >= 4:
        ends = count // 4, (3 * count) // 4
        sides = [look(geometry, *sinogram(scan, k)) for k in ends]
        if all(side is not None and side.error <= LARGEST_ERROR for side in sides):
            one, other = (side.center for side in sides if side is not None)
            found = replace(found, tilt=(other - one) / (ends[1] - ends[0]))
    return found


def look(geometry: Geometry, q: Tensor, seen: Tensor) -> Center | None:
    """Find the axis by the cheap conditions alone.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        Its ``offset`` is not used.
    q : Tensor, shape (angles, detectors)
        Line integrals of one slice.
    seen : Tensor, shape (angles, detectors), bool
        What was measured.

    Returns
    -------
    Center or None
        None where neither condition can be used: too few views, a limited angle of a fan, parallel
        projections over half a turn that do not show the whole object.
    """
    if len(q) < FEW_VIEWS or not bool(seen.any()):
        return None
    data = _filled(q, seen)
    if whole_turn(geometry.theta):
        return _by_opposite_rays(geometry, data)
    if isinstance(geometry, ParallelBeam) and cut_sides(q, seen) == (False, False):
        return _by_mass(geometry, data)
    return None


def sinogram(scan: Scan, index: int) -> tuple[Tensor, Tensor]:
    """Read the line integrals of a slice.

    Parameters
    ----------
    scan : Scan
        Counts or line integrals.
    index : int
        The slice.

    Returns
    -------
    q : Tensor, shape (angles, detectors)
    seen : Tensor, shape (angles, detectors), bool
        What was measured.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come again where the volume is read
        raw = scan.read(index, index + 1)[0]
        if scan.kind != COUNTS:
            seen = torch.isfinite(raw)
            return raw.masked_fill(~seen, 0.0), seen
        if scan.flat is None:
            raise InputError(f"{scan.path}: counts need the open beam. Give flat=I0 (--blank I0).")
        dark = 0.0 if scan.dark is None else scan.dark[index]
        q, std = line_integrals(raw, scan.flat[index], dark)
    return q, torch.isfinite(std)


# ---- the conditions


def _by_mass(geometry: ParallelBeam, data: np.ndarray) -> Center | None:
    """Find the axis from the centres of mass of parallel projections."""
    mass = data.sum(1)
    if not (mass > 0.5 * np.median(mass)).all() or np.median(mass) <= 0:
        return None
    place = (data * np.arange(data.shape[1])).sum(1) / mass
    theta = geometry.theta.numpy()
    terms = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta)], axis=1)
    solution = np.linalg.lstsq(terms, place, rcond=None)[0]
    left = place - terms @ solution
    variance = (left**2).sum() / max(1, len(theta) - 3)
    error = math.sqrt(variance * np.linalg.pinv(terms.T @ terms)[0, 0])
    center = float(solution[0])
    candidates = np.linspace(center - 2, center + 2, 41)
    lost = 1 + ((candidates - center) / max(error, 1e-9)) ** 2 / max(1, len(theta) - 3)
    return _center(center, error, "centre of mass", variance / data.shape[1], candidates, lost)


def _by_opposite_rays(geometry: Geometry, data: np.ndarray) -> Center:
    """Find the axis at which opposite rays agree best."""
    ndimage = require("scipy.ndimage", "Finding the rotation axis")
    smooth = ndimage.gaussian_filter1d(data, SMOOTHING, axis=1, mode="nearest")
    count = data.shape[1]
    rows = np.linspace(0, len(data) - 1, min(len(data), 48)).round().astype(int)
    step = max(1.0, count / 256)
    wide = np.arange(OVERLAP / 2 * count, (1 - OVERLAP / 2) * count, step)
    centers = [_least(geometry, smooth, rows, wide)[0]]
    whole = wide, np.zeros(0)
    for part in (rows, rows[::2], rows[1::2]):
        center = centers[0]
        for width in (2 * step, 0.75):
            near = np.linspace(center - width, center + width, 17)
            center, lost = _least(geometry, smooth, part, near)
        centers.append(center)
        if part is rows:
            whole = near, lost
    error = abs(centers[2] - centers[3]) / 2
    return _center(centers[1], error, "opposite rays", float(whole[1].min()), *whole)


def _least(
    geometry: Geometry, data: np.ndarray, rows: np.ndarray, candidates: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the candidate of least mismatch, refined by a parabola, and the mismatch of all."""
    lost = np.array([_mismatch(geometry, data, rows, center) for center in candidates])
    return _vertex(candidates, lost), lost


def _mismatch(geometry: Geometry, data: np.ndarray, rows: np.ndarray, center: float) -> float:
    """Return the mean square of the difference of opposite rays, relative to that of both."""
    count, spacing = sizes(geometry)
    k = np.arange(count)
    other = 2 * center - k
    both = (other >= 0) & (other <= count - 1)
    if both.sum() < OVERLAP * count:
        return math.inf
    u = (k - center)[both] * spacing
    gamma = np.zeros_like(u)
    if not isinstance(geometry, ParallelBeam):
        gamma = u / geometry.distance if geometry.arc else np.arctan(u / geometry.distance)
    theta = np.mod(geometry.theta.numpy(), 2 * math.pi)
    order = np.argsort(theta)
    around = np.concatenate([theta[order], theta[order][:1] + 2 * math.pi])
    opposite = np.mod(theta[rows][:, None] + math.pi - 2 * gamma - around[0], 2 * math.pi)
    row = np.interp(opposite + around[0], around, np.arange(len(around)))
    column = np.broadcast_to(other[both], row.shape)
    turned = data[np.concatenate([order, order[:1]])]
    ndimage = require("scipy.ndimage", "Finding the rotation axis")
    there = ndimage.map_coordinates(turned, [row, column], order=1)
    here = data[rows][:, both]
    power = (here**2).sum() + (there**2).sum()
    if power < LEAST_POWER * 2 * (data**2).mean() * here.size:  # air agrees with air
        return math.inf
    return float(((here - there) ** 2).sum() / power)


# ---- the residual of a cheap reconstruction


def _by_residual(geometry: Geometry, q: Tensor, seen: Tensor) -> Center:
    """Find the axis of least residual, within a fifth of the detector about its middle."""
    few = torch.linspace(0, len(q) - 1, min(len(q), VIEWS)).round().long()
    count = q.shape[1]
    center, span, iterations = (count - 1) / 2, 0.1 * count, 5
    near = np.linspace(center - span, center + span, 13)
    lost = np.array([residual(geometry, q, seen, few[::2], c, iterations) for c in near])
    center = _vertex(near, lost)
    found: list[float] = []
    whole = near, lost
    for views in (few, few[::2], few[1::2]):
        own = center
        for span in (max(1.5, 0.02 * count), 0.75, 0.5) if views is few else (0.5,):
            near = np.linspace(own - span, own + span, 5)
            lost = np.array([residual(geometry, q, seen, views, c, 10) for c in near])
            own = _vertex(near, lost)
        if views is few:
            center, whole = own, (near, lost)
        found.append(own)
    error = abs(found[1] - found[2]) / 2 if len(few) >= 4 * FEW_VIEWS else math.inf
    return _center(center, error, "residual", float(whole[1].min()), *whole)


# ---- small parts


def _vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Return where the parabola through the least value and its two neighbours is least."""
    k = int(np.argmin(y))
    if k in (0, len(x) - 1) or not np.isfinite(y[k - 1 : k + 2]).all():
        return float(x[k])
    bend = y[k - 1] - 2 * y[k] + y[k + 1]
    return float(x[k] + (x[1] - x[0]) * (0.5 * (y[k - 1] - y[k + 1]) / bend if bend > 0 else 0.0))


def _filled(q: Tensor, seen: Tensor) -> np.ndarray:
    """Return line integrals as float64, interpolated where nothing was measured."""
    out, known = q.double().numpy().copy(), seen.numpy()
    places = np.arange(out.shape[1])
    for row, here in zip(out, known, strict=True):
        if here.any() and not here.all():
            row[~here] = np.interp(places[~here], places[here], row[here])
    return out


def _center(
    center: float,
    error: float,
    method: str,
    mismatch: float,
    candidates: np.ndarray,
    lost: np.ndarray,
) -> Center:
    least = max(float(lost.min()), 1e-30)
    curve = torch.from_numpy(np.asarray(lost, dtype=np.float64) / least)
    return Center(center, error, method, mismatch, torch.from_numpy(candidates), curve)


def _check(found: Center, scan: Scan, index: int) -> None:
    """Raise where the scan does not tell the axis."""
    count = scan.shape[2]
    if found.error <= LARGEST_ERROR and 0 <= found.center <= count - 1:
        return
    raise InputError(
        f"{scan.path}: slice {index} does not tell the rotation axis: element {found.center:.2f} "
        f"by {found.method}, with a standard error of {found.error:.2g} elements, above "
        f"{LARGEST_ERROR}. Give center=, or another slice, with more structure or more views."
    )


__all__ = ["Center", "find", "look", "sinogram"]
