r"""Filtered backprojection for parallel and fan beams (Kak and Slaney 1988).

    parallel       f(p) = sum_a w_a  (h * q_a)(p . e_a)
    fan, flat      f(p) = sum_a w_a / U^2  (h * [q_a cos(gamma) r_a])(u)        U = the distance of p from the source along the beam / SO
    fan, arc       f(p) = sum_a w_a / L^2  (h (gamma / sin(gamma))^2 * [q_a SO cos(gamma) r_a])(gamma)        L = the distance of p from the source

with h the ramp filter under a window, w_a the part of the circle that the angle stands for, and r_a the share of a ray that is
measured twice: 1/2 over a whole turn, smooth weights over a short scan (Parker 1982). Angles may be in any order and unevenly spaced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.ct.geometry import Geometry, ParallelBeam, coordinates, sizes


def fbp(geometry: Geometry, q: Tensor, window: str, back_project: Callable[[Tensor], Tensor]) -> Tensor:
    """Images (B, H, W) of sinograms (B, angles, detectors); ``back_project`` is the transpose of the projector, for parallel beams."""
    width = sizes(geometry)[1]
    if isinstance(geometry, ParallelBeam):
        filtered = _filter(q, _ramp(_length(q), window)) * quadrature(geometry.theta, math.pi)[:, None].to(q)
        if width == geometry.pixel:  # then the transpose interpolates linearly, and is fast
            return back_project(filtered) / geometry.pixel**2
        return _backprojection(geometry, filtered / width)
    u, theta = coordinates(geometry).to(q.device), geometry.theta.to(q.device)
    spacing = width / (geometry.distance if geometry.arc else geometry.magnification)  # an angle, or a length at the centre
    gamma = u / geometry.distance if geometry.arc else torch.atan(u / geometry.distance)
    share = redundancy(theta.cpu(), gamma.cpu()).to(q)
    ramp = _ramp(_length(q), window, spacing if geometry.arc else None)
    weighted = q * (share * torch.cos(gamma).to(q))
    filtered = _filter(weighted, ramp) * (quadrature(theta.cpu(), 2 * math.pi)[:, None].to(q) / spacing)
    return _backprojection(geometry, filtered)


def quadrature(theta: Tensor, period: float) -> Tensor:
    """The part of the period that each angle stands for: half the gaps to its neighbours; a wedge that was not scanned counts for none.

    Such a wedge is a gap of more than three times the next largest.
    """
    if len(theta) == 1:
        return torch.full_like(theta, period)
    turned = torch.remainder(theta + 1e-9, period)
    order = turned.argsort()
    gaps = torch.diff(turned[order], append=turned[order][:1] + period)
    largest = gaps.sort().values[-2:]
    if len(gaps) > 2 and largest[1] > 3 * largest[0]:
        gaps = torch.where(gaps == largest[1], largest[0], gaps)
    out = torch.empty_like(theta)
    out[order] = (gaps + gaps.roll(1)) / 2
    return out


def redundancy(theta: Tensor, gamma: Tensor) -> Tensor:
    """r (angles, detectors): the weights of the rays of a fan, such as add to 1 over the two ways of measuring a line.

    Over a whole turn 1/2; over less, Parker's smooth weights for the range that was scanned; below half a turn plus the fan 1.
    """
    order = torch.remainder(theta + 1e-9, 2 * math.pi).sort().values
    gaps = torch.diff(order, append=order[:1] + 2 * math.pi)
    usual = gaps.sort().values[-2:][0]
    if float(gaps.max()) <= 3 * float(usual):
        return torch.full((len(theta), len(gamma)), 0.5, dtype=theta.dtype)
    start = float(order[(int(gaps.argmax()) + 1) % len(order)])
    span = 2 * math.pi - float(gaps.max()) + float(usual)
    delta = (span - math.pi) / 2
    if delta < float(gamma.abs().max()):
        return torch.ones(len(theta), len(gamma), dtype=theta.dtype)
    beta = torch.remainder(theta - start + 1e-9, 2 * math.pi)[:, None]
    g = gamma[None]  # the same line is seen from beta + pi + 2 gamma, at -gamma
    rise, fall = 2 * (delta + g), 2 * (delta - g)
    up = torch.sin(math.pi / 2 * (beta / rise.clamp_min(1e-9)).clamp(0, 1)) ** 2
    down = torch.sin(math.pi / 2 * ((span - beta) / fall.clamp_min(1e-9)).clamp(0, 1)) ** 2
    return torch.minimum(up, down)


def _backprojection(geometry: Geometry, filtered: Tensor) -> Tensor:
    """The sum over the angles at the pixel centres, weighted by distance in a fan; linear interpolation on the detector."""
    height, width = geometry.shape
    theta = geometry.theta
    x = ((torch.arange(width, dtype=torch.float64) - (width - 1) / 2) * geometry.pixel).to(filtered.device)[None, :]
    y = (((height - 1) / 2 - torch.arange(height, dtype=torch.float64)) * geometry.pixel).to(filtered.device)[:, None]
    total = filtered.new_zeros(len(filtered), height, width)
    count = filtered.shape[-1]
    for index, angle in enumerate(theta.tolist()):
        across, along = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        if isinstance(geometry, ParallelBeam):
            place, weight = across, torch.ones_like(across)
        elif geometry.arc:
            depth = geometry.source_origin + along
            place, weight = torch.atan2(across, depth) * geometry.distance, geometry.source_origin / (across**2 + depth**2)
        else:
            depth = geometry.source_origin + along
            place, weight = across / depth * geometry.distance, (geometry.source_origin / depth) ** 2
        k = ((place - geometry.offset) / sizes(geometry)[1] + (count - 1) / 2).to(filtered)
        left = k.floor()
        part = k - left
        left = left.long() + 1
        row = F.pad(filtered[:, index], (1, 1))  # nothing beyond the detector
        value = row[:, left.clamp(0, count)] * (1 - part) + row[:, (left + 1).clamp(1, count + 1)] * part
        inside = (k > -1) & (k < count)
        total += value * (weight.to(filtered) * inside)
    return total


def _length(q: Tensor) -> int:
    return 2 ** math.ceil(math.log2(2 * q.shape[-1]))


def _filter(q: Tensor, ramp: Tensor) -> Tensor:
    size, count = 2 * (len(ramp) - 1), q.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(q, n=size) * ramp.to(q), n=size)[..., :count].contiguous()


def _ramp(size: int, window: str, arc: float | None = None) -> Tensor:
    """The ramp filter for unit spacing from its band-limited impulse response, under a window; ``arc`` is the angle of an element."""
    n = torch.fft.fftfreq(size, 1 / size).double()
    odd = n.remainder(2) == 1
    response = torch.where(odd, -1 / (math.pi * n.where(n != 0, torch.ones_like(n))) ** 2, torch.zeros_like(n))
    response[0] = 0.25
    if arc is not None:
        angle = (n * arc).clamp(-3, 3)
        response = response / torch.sinc(angle / math.pi) ** 2
    ramp = torch.fft.rfft(response).real
    return ramp * 0.5 * (1 + torch.cos(2 * math.pi * torch.fft.rfftfreq(size).double())) if window == "hann" else ramp


__all__ = ["fbp", "quadrature", "redundancy"]
