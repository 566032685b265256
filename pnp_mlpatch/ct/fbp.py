r"""Filtered backprojection for parallel and fan beams (Kak and Slaney 1988).

.. math::
    \text{parallel:} \quad f(p) &= \sum_a w_a (h * [q_a r_a])(p \cdot e_a) \\
    \text{fan, flat:} \quad f(p) &= \sum_a w_a U^{-2} (h * [q_a \cos\gamma \, r_a])(u) \\
    \text{fan, arc:} \quad f(p) &= \sum_a w_a L^{-2}
        (h (\gamma / \sin\gamma)^2 * [q_a S \cos\gamma \, r_a])(\gamma)

with h the ramp filter under a window, S the distance from the source to the centre, U the distance
of p from the source along the beam, divided by S, and L that from the source; w_a is the part of
the circle that the angle stands for. A line that is measured twice, by the ray (a, k) and by its
opposite, is shared between the two: r + r' = 1. With c, which falls to 0 at the ends of the
detector and of the range of angles,

.. math:: r = c / (c + c'), \qquad c = \sin^2(\tfrac{\pi}{2} \min(1, t / F))

for the angle, times the same for the detector; t is the distance from the nearest end and F the
length of the overlap. This is 1/2 over a whole turn, Parker's weights over a short scan (Parker
1982), those of a detector whose middle lies beside the axis (half acquisition, half-fan; Wang
2002), and those of any other range of angles (Noo et al. 2002). Angles may be in any order and
unevenly spaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.ct.geometry import Geometry, ParallelBeam, coordinates, sizes

# a wedge that was not scanned is more; over it the weights rise at the ends of the range of angles
SHORTEST = math.radians(10)


def fbp(
    geometry: Geometry, q: Tensor, window: str, back_project: Callable[[Tensor], Tensor]
) -> Tensor:
    """Reconstruct images by filtered backprojection.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    q : Tensor, shape (B, angles, detectors)
        Sinograms.
    window : str
        "hann" or "none".
    back_project : callable
        The transpose of the projector, for parallel beams.

    Returns
    -------
    Tensor, shape (B, H, W)
    """
    width, share = sizes(geometry)[1], weights(geometry).to(q)
    if not isinstance(geometry, ParallelBeam):
        share = share * torch.cos(_fan_angles(geometry, coordinates(geometry))).to(q)
    sides, offset = _completed(geometry)
    weighted = F.pad(q * share, sides)
    if isinstance(geometry, ParallelBeam):
        filtered = _filter(weighted, _ramp(_length(weighted), window))
        if width == geometry.pixel and sides == (0, 0):  # the transpose interpolates linearly
            return back_project(filtered) / geometry.pixel**2
        return _backprojection(geometry, filtered / width, offset)
    # an angle, or a length at the centre
    spacing = width / (geometry.distance if geometry.arc else geometry.magnification)
    ramp = _ramp(_length(weighted), window, spacing if geometry.arc else None)
    return _backprojection(geometry, _filter(weighted, ramp) / spacing, offset)


def _completed(geometry: Geometry) -> tuple[tuple[int, int], float]:
    """How many elements make the short side of the detector as long as the other, and the offset.

    Opposite rays stand in for those, whose weight is 0; but what was filtered goes on beyond the
    last ray that was measured.
    """
    spacing, offset = sizes(geometry)[1], geometry.offset
    more = math.ceil(2 * abs(offset) / spacing - 1e-6)
    if more == 0 or (isinstance(geometry, ParallelBeam) and _half_turn(geometry.theta)):
        return (0, 0), offset
    return (
        ((more, 0), offset - more * spacing / 2)
        if offset > 0
        else ((0, more), offset + more * spacing / 2)
    )


def _half_turn(theta: Tensor) -> bool:
    """Whether half of the circle or more was not scanned: parallel beams see a line once."""
    return float(_gaps(theta, 2 * math.pi)[1].max()) > math.pi - 1e-6


def weights(geometry: Geometry, used: Tensor | None = None) -> Tensor:
    """Return the weight of each ray in filtered backprojection.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    used : Tensor, shape (angles,), bool, optional
        The projections that were measured; the others get no weight, and their neighbours stand
        for them. By default all.

    Returns
    -------
    Tensor, shape (angles, detectors), float64
        ``w r`` of the module's formulas, in radians.
    """
    count, spacing = sizes(geometry)
    out = torch.zeros(len(geometry.theta), count, dtype=torch.float64)
    rows = torch.ones(len(out), dtype=torch.bool) if used is None else used.cpu()
    theta = geometry.theta[rows]
    if not len(theta):
        return out
    u = coordinates(geometry)
    ends = u[0] - spacing / 2, u[-1] + spacing / 2
    if isinstance(geometry, ParallelBeam):
        # both directions of a line count alike
        if abs(geometry.offset) < 1e-6 * spacing or _half_turn(theta):
            out[rows] = quadrature(theta, math.pi)[:, None].expand(-1, count)
            return out
        share = redundancy(theta, u, torch.zeros_like(u), (float(ends[0]), float(ends[1])))
    else:
        gamma = _fan_angles(geometry, u)
        low, high = _fan_angles(geometry, torch.stack(ends)).tolist()
        share = redundancy(theta, gamma, gamma, (low, high))
    out[rows] = quadrature(theta, 2 * math.pi)[:, None] * share
    return out


def whole_turn(theta: Tensor) -> bool:
    """Return whether angles go all around: no wedge of the circle is left out.

    Parameters
    ----------
    theta : Tensor, shape (angles,)
        Radians.

    Returns
    -------
    bool
    """
    return not bool(_gaps(theta, 2 * math.pi)[2].any()) and not _half_turn(theta)


def quadrature(theta: Tensor, period: float) -> Tensor:
    """Return the part of the period that each angle stands for: half the gaps to its neighbours.

    Parameters
    ----------
    theta : Tensor, shape (angles,)
        Radians.
    period : float
        pi or 2 pi.

    Returns
    -------
    Tensor, shape (angles,)
        Radians. A wedge that was not scanned counts for none.
    """
    if len(theta) == 1:
        return torch.full_like(theta, period)
    order, gaps, missing = _gaps(theta, period)
    gaps = torch.where(missing, gaps[~missing].max(), gaps)
    out = torch.empty_like(theta)
    out[order] = (gaps + gaps.roll(1)) / 2
    return out


def redundancy(theta: Tensor, place: Tensor, gamma: Tensor, ends: tuple[float, float]) -> Tensor:
    """Return the share r of each ray in its line.

    Parameters
    ----------
    theta : Tensor, shape (angles,)
        The angles that were measured, in radians.
    place : Tensor, shape (detectors,)
        Where the elements are, 0 on the axis: lengths for parallel beams, angles for fans.
    gamma : Tensor, shape (detectors,)
        The angles of the rays within the fan; 0 for parallel beams. The opposite of a ray is seen
        from theta + pi - 2 gamma, at -place.
    ends : tuple of float
        Where the detector begins and ends.

    Returns
    -------
    Tensor, shape (angles, detectors)
    """

    def on_detector(x: Tensor) -> Tensor:
        return _rise(torch.minimum(x - ends[0], ends[1] - x) / (2 * min(-ends[0], ends[1])))

    one = _scanned(theta, theta[:, None]) * on_detector(place)
    other = _scanned(theta, theta[:, None] + math.pi - 2 * gamma) * on_detector(-place)
    return torch.where(
        one + other > 0, one / (one + other).clamp_min(1e-300), torch.full_like(one, 0.5)
    )


def _rise(part: Tensor) -> Tensor:
    return torch.sin(math.pi / 2 * part.clamp(0, 1)) ** 2


def _scanned(theta: Tensor, angle: Tensor) -> Tensor:
    """1 for an angle well within the range of the angles theta, 0 outside, smooth between."""
    order, gaps, missing = _gaps(theta, 2 * math.pi)
    if not bool(missing.any()):
        return torch.ones_like(angle)
    usual = float(gaps[~missing].max())
    wedges = [
        (start + usual / 2, gap - usual)
        for start, gap in zip(theta[order][missing].tolist(), gaps[missing].tolist(), strict=True)
    ]
    scanned = 2 * math.pi - sum(size for _, size in wedges)
    inside = torch.full_like(angle, 2 * math.pi)
    for start, size in wedges:
        before, after = (
            torch.remainder(start - angle, 2 * math.pi),
            torch.remainder(angle - start - size, 2 * math.pi),
        )
        inside = torch.minimum(
            inside, torch.where(before + after < 2 * math.pi, torch.minimum(before, after), 0.0)
        )
    return _rise(inside / max(scanned - math.pi, SHORTEST))


def _gaps(theta: Tensor, period: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the order of the angles, the gap after each in this order, and which gaps are wedges.

    A wedge was not scanned. Wedges are few, at most one gap of eight or one in all, more than three
    times as large as the largest of the others, and more than 10 degrees.
    """
    turned = torch.remainder(theta + 1e-9, period)
    order = turned.argsort()
    gaps = torch.diff(turned[order], append=turned[order][:1] + period)
    largest = gaps.sort(descending=True).values.tolist()
    few = range(1, min(len(gaps) - 1, max(2, len(gaps) // 8 + 1))) if len(gaps) > 2 else range(0)
    limits = [largest[k] for k in few if largest[k - 1] > max(3 * largest[k], SHORTEST)]
    return order, gaps, gaps > (limits[-1] if limits else period)


def _fan_angles(geometry: Geometry, u: Tensor) -> Tensor:
    """Return the angle from the central ray to each place u on the detector of a fan."""
    assert not isinstance(geometry, ParallelBeam)
    return u / geometry.distance if geometry.arc else torch.atan(u / geometry.distance)


def _backprojection(geometry: Geometry, filtered: Tensor, offset: float) -> Tensor:
    """Sum over the angles at the pixel centres, weighted by distance in a fan.

    Interpolation on the detector is linear.
    """
    height, width = geometry.shape
    theta = geometry.theta
    x = ((torch.arange(width, dtype=torch.float64) - (width - 1) / 2) * geometry.pixel).to(
        filtered.device
    )[None, :]
    y = (((height - 1) / 2 - torch.arange(height, dtype=torch.float64)) * geometry.pixel).to(
        filtered.device
    )[:, None]
    total = filtered.new_zeros(len(filtered), height, width)
    count = filtered.shape[-1]
    for index, angle in enumerate(theta.tolist()):
        across, along = (
            x * math.cos(angle) + y * math.sin(angle),
            y * math.cos(angle) - x * math.sin(angle),
        )
        if isinstance(geometry, ParallelBeam):
            place, weight = across, torch.ones_like(across)
        elif geometry.arc:
            depth = geometry.source_origin + along
            place, weight = (
                torch.atan2(across, depth) * geometry.distance,
                geometry.source_origin / (across**2 + depth**2),
            )
        else:
            depth = geometry.source_origin + along
            place, weight = (
                across / depth * geometry.distance,
                (geometry.source_origin / depth) ** 2,
            )
        k = (place - offset) / sizes(geometry)[1] + (count - 1) / 2
        places = torch.stack([(2 * k - count + 1) / count, torch.zeros_like(k)], dim=-1).to(
            filtered
        )[None]
        row = filtered[:, index].unsqueeze(0).unsqueeze(2)  # (1, B, 1, detectors)
        value = F.grid_sample(
            row, places, mode="bilinear", padding_mode="zeros", align_corners=False
        )[0]
        total += value * weight.to(filtered)
    return total


def _length(q: Tensor) -> int:
    return 2 ** math.ceil(math.log2(2 * q.shape[-1]))


def _filter(q: Tensor, ramp: Tensor) -> Tensor:
    size, count = 2 * (len(ramp) - 1), q.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(q, n=size) * ramp.to(q), n=size)[..., :count].contiguous()


def _ramp(size: int, window: str, arc: float | None = None) -> Tensor:
    """Return the ramp filter for unit spacing, from its band-limited impulse response, windowed.

    ``arc`` is the angle of an element.
    """
    n = torch.fft.fftfreq(size, 1 / size).double()
    odd = n.remainder(2) == 1
    response = torch.where(
        odd, -1 / (math.pi * n.where(n != 0, torch.ones_like(n))) ** 2, torch.zeros_like(n)
    )
    response[0] = 0.25
    if arc is not None:
        angle = (n * arc).clamp(-3, 3)
        response = response / torch.sinc(angle / math.pi) ** 2
    ramp = torch.fft.rfft(response).real
    return (
        ramp * 0.5 * (1 + torch.cos(2 * math.pi * torch.fft.rfftfreq(size).double()))
        if window == "hann"
        else ramp
    )


__all__ = ["fbp", "quadrature", "redundancy", "weights", "whole_turn"]
