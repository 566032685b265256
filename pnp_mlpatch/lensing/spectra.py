r"""Angular power spectra of flat maps: a fit to use, tables, and what a map has.

With kappa^ the discrete Fourier transform of a map of N pixels of side p (radians), ``C(l) = p^2 / N <|kappa^(l)|^2>``, l = 2 pi times
the frequency in 1/rad, in steradian; so white noise of standard deviation s has C = s^2 p^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.lensing.units import radians

Spectrum = Callable[[Tensor], Tensor]
EDGES = tuple(
    300 * (20_000 / 300) ** (k / 16) for k in range(17)
)  # 16 bins, equal in log l, from 300 to 20000


def convergence_spectrum(ell: Tensor) -> Tensor:
    r"""The convergence of sources at redshift 1, C(l) = 1.057e-10 (l/6565)^-0.917 (1 + l/6565)^-2.414 steradian; C(0) = 0.

    A fit to a simulated map (kappaTNG, Osato, Liu and Haiman 2021) for l from 300 to 30000, whose rms is 0.021 at 0.3 arcmin.
    """
    t = ell.clamp_min(1e-3) / 6565
    return torch.where(ell > 0, 1.057e-10 * t**-0.917 * (1 + t) ** -2.414, torch.zeros_like(t))


def tabulated(ell: Any, C: Any) -> Spectrum:
    """A spectrum from a table, as pyccl.angular_cl or CAMB give it: log C linear in log l, continued by its last slopes; C(0) = 0.

    ``ell`` rising and > 0, ``C`` > 0, two or more of each. Raises :class:`InputError` for others.
    """
    x, y = (torch.as_tensor(values, dtype=torch.float64).flatten() for values in (ell, C))
    if (
        len(x) != len(y)
        or len(x) < 2
        or not bool(((x > 0) & (y > 0)).all())
        or not bool((x[1:] > x[:-1]).all())
    ):
        raise InputError(
            "tabulated: ell must rise and be > 0, C be > 0, and both have the same number of values, two or more."
        )
    x, y = x.log(), y.log()

    def spectrum(ell: Tensor) -> Tensor:
        at = ell.double().clamp_min(1e-3).log()
        k = torch.searchsorted(x, at).clamp(1, len(x) - 1)
        value = y[k - 1] + (at - x[k - 1]) * (y[k] - y[k - 1]) / (x[k] - x[k - 1])
        return torch.where(ell > 0, value.exp(), torch.zeros_like(value)).to(ell.dtype)

    return spectrum


def wavenumbers(shape: Sequence[int], pixel: Any) -> Tensor:
    """|l| (H, W) in 1/rad at the frequencies of ``torch.fft.fft2`` of maps of this shape, float64."""
    p = radians(pixel)
    rows, cols = (2 * math.pi * torch.fft.fftfreq(n, p, dtype=torch.float64) for n in shape[-2:])
    return torch.hypot(rows[:, None], cols[None])


def power(ell: Tensor, spectrum: Spectrum, pixel: Any) -> Tensor:
    """The variance of each Fourier mode for white noise of variance one: C(l) / p^2. Raises :class:`InputError` if some is negative or NaN."""
    values = spectrum(ell)
    if not bool(torch.isfinite(values).all()) or float(values.min()) < 0:
        raise InputError("spectrum: must be finite and >= 0 at all l, in steradian; it is not.")
    return values / radians(pixel) ** 2


def power_spectrum(
    x: Tensor,
    pixel: Any,
    *,
    other: Tensor | None = None,
    edges: Sequence[float] = EDGES,
    mask: Tensor | None = None,
    taper: bool = True,
) -> tuple[Tensor, Tensor]:
    r"""The mean spectrum of maps in bins of l, (l, C), both (bins,); with ``other`` maps, the cross-spectrum Re <x^ conj(other^)>.

        C(l) = p^2 / sum(w^2) mean over the bin of |(w (x - mean))^(l)|^2

    ``x`` (..., H, W); w is the ``mask`` (H, W), in [0, 1], times a Hann window with ``taper``, which a field that is not periodic needs:
    its edges would else look like power at small scales. Bins without a mode hold NaN. Raises :class:`InputError` for other shapes.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        raise InputTypeError("power_spectrum: expected maps (..., H, W), a floating tensor.")
    if other is not None and other.shape != x.shape:
        raise InputError(
            f"power_spectrum: both maps must have one shape, got {tuple(x.shape)} and {tuple(other.shape)}."
        )
    if len(edges) < 2 or any(not a < b for a, b in pairwise(edges)):
        raise InputError("power_spectrum: edges must be two or more rising values of l.")
    shape = x.shape[-2:]
    w = torch.ones(shape, dtype=torch.float64, device=x.device)
    if mask is not None:
        if tuple(mask.shape) != tuple(shape) or not bool(mask.any()):
            raise InputError(
                f"power_spectrum: mask must have the shape {tuple(shape)} and not be all zero, got {tuple(mask.shape)}."
            )
        w = mask.to(w)
    if taper:
        for n, axis in zip(shape, (-2, -1), strict=True):
            window = (
                torch.sin(
                    math.pi * (torch.arange(n, dtype=torch.float64, device=x.device) + 0.5) / n
                )
                ** 2
            )
            w = w * window.unsqueeze(-1 if axis == -2 else 0)
    modes = [
        torch.fft.fft2(_less_mean(m.double(), w)) for m in ((x,) if other is None else (x, other))
    ]
    values = (
        (modes[0] * modes[-1].conj()).real.reshape(-1, *shape).mean(0)
        * radians(pixel) ** 2
        / w.square().sum()
    )
    ell = wavenumbers(shape, pixel).to(x.device)
    bins = (
        torch.bucketize(ell.flatten(), torch.tensor(edges, dtype=torch.float64, device=x.device))
        - 1
    )
    inside = (bins >= 0) & (bins < len(edges) - 1)
    sums = torch.zeros(3, len(edges) - 1, dtype=torch.float64, device=x.device)
    for row, each in zip(sums, (torch.ones_like(ell), ell, values), strict=True):
        row.index_add_(0, bins[inside], each.flatten()[inside])
    return sums[1] / sums[0], sums[2] / sums[0]


def _less_mean(x: Tensor, w: Tensor) -> Tensor:
    """w (x - mean), the mean weighted by w."""
    return w * (x - (w * x).sum(dim=(-2, -1), keepdim=True) / w.sum())


__all__ = [
    "EDGES",
    "Spectrum",
    "convergence_spectrum",
    "power",
    "power_spectrum",
    "tabulated",
    "wavenumbers",
]
