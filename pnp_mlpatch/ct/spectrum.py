r"""The spectrum of A^H A in closed form, from which come preconditioners of the data step.

A pixel leaves a footprint on the detector. Two pixels at the distance d share, over all angles a of
a parallel beam,

.. math:: k(d) = \frac{\mathrm{pixel}^2}{s} \sum_a g_a(d \cdot e_a)

with s the width of a detector element, d and s in pixels, and g_a the autocorrelation of the
footprint, a convolution of boxes of unit area: "linear" two of width max(abs(cos), abs(sin)),
"line" those of widths abs(cos) and abs(sin), "strip" one of width s in addition. A fan beam has the
same kernel near the centre of rotation. Up to sampling, A^H A is the convolution with k.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pnp_mlpatch.ct.geometry import Geometry, ParallelBeam


def normal_kernel(geometry: Geometry, projector: str) -> Tensor:
    """Return the kernel of A^H A on the grid of twice the size.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    projector : str
        "linear", "line" or "strip".

    Returns
    -------
    Tensor, shape (2 H, 2 W), float64
        k(d), with d = 0 at the corner.
    """
    height, width = geometry.shape
    fine, reach = 128, 8  # samples a pixel, half length in pixels of the table of g
    spacing = geometry.width / geometry.pixel
    reach = max(reach, math.ceil(spacing) + 4)
    frequency = torch.fft.rfftfreq(2 * reach * fine, 1 / fine).double()
    rows = torch.fft.fftfreq(2 * height, 1 / (2 * height)).double()[:, None]
    cols = torch.fft.fftfreq(2 * width, 1 / (2 * width)).double()[None, :]
    kernel = torch.zeros(2 * height, 2 * width, dtype=torch.float64)
    for angle in geometry.theta.tolist():
        c, s = abs(math.cos(angle)), abs(math.sin(angle))
        boxes = {"linear": (max(c, s), max(c, s)), "line": (c, s), "strip": (c, s, spacing)}[
            projector
        ]
        g = torch.ones_like(frequency)
        for box in boxes:
            g = g * torch.sinc(frequency * box) ** 2
        table = torch.fft.irfft(g) * fine
        distance = (cols * math.cos(angle) - rows * math.sin(angle)).abs_()
        kernel += table[distance.mul_(fine).round_().long().clamp_max_(reach * fine)]
    return kernel * (geometry.pixel**2 / spacing)


def embedded(kernel: Tensor) -> Tensor:
    """Return the eigenvalues of the convolution on the grid of twice the size.

    Parameters
    ----------
    kernel : Tensor, shape (2 H, 2 W)
        As of :func:`normal_kernel`.

    Returns
    -------
    Tensor, shape (2 H, W + 1)
        Negative ones are clipped to 0.
    """
    return torch.fft.rfft2(kernel).real.clamp_min(0)


def circulant(kernel: Tensor) -> Tensor:
    r"""Return the eigenvalues of the circulant nearest to the convolution in the Frobenius norm.

    .. math:: c(d) = \sum_w k(w) (1 - |w_1| / H) (1 - |w_2| / W)

    over the wraps w of d. It is positive where the convolution is.

    Parameters
    ----------
    kernel : Tensor, shape (2 H, 2 W)
        As of :func:`normal_kernel`.

    Returns
    -------
    Tensor, shape (H, W // 2 + 1)

    References
    ----------
    T. Chan, An optimal circulant preconditioner, SIAM J. Sci. Stat. Comput. 1988.
    """
    for axis in (0, 1):
        size = kernel.shape[axis] // 2
        share = (1 - torch.arange(size, dtype=kernel.dtype) / size).reshape(-1, *[1] * (1 - axis))
        kernel = kernel.narrow(axis, 0, size) * share + kernel.narrow(axis, size, size) * (
            1 - share
        )
    return torch.fft.rfft2(kernel).real.clamp_min(0)


def coverage(geometry: Geometry) -> float:
    """Return the part of the directions of half a turn that the rays cover.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.

    Returns
    -------
    float
        1 for a full scan, 2/3 for 120 degrees of parallel beam.
    """
    theta = torch.remainder(geometry.theta, math.pi).sort().values
    gaps = torch.diff(theta, append=theta[:1] + math.pi)
    apart = gaps[gaps > 1e-6]  # over a whole turn directions come twice
    usual = float(apart.median()) if len(apart) > 1 else math.pi
    fan = (
        0.0
        if isinstance(geometry, ParallelBeam)
        else max(geometry.shape) * geometry.pixel / 2 / geometry.source_origin
    )
    missing = float((gaps - 3 * usual - 2 * fan).clamp_min(0).sum())
    return 1 - missing / math.pi


__all__ = ["circulant", "coverage", "embedded", "normal_kernel"]
