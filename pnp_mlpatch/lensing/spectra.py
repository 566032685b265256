r"""Angular power spectra of flat maps: a fit to use, tables, and the spectrum of a map.

With :math:`\hat\kappa` the discrete Fourier transform of a map of N pixels of side p (radians),

.. math:: C(l) = \frac{p^2}{N} \langle |\hat\kappa(l)|^2 \rangle

in steradian, with l = 2 pi times the frequency in 1/rad. White noise of standard deviation s has
:math:`C = s^2 p^2`.
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
    r"""Return the spectrum of the convergence of sources at redshift 1.

    .. math:: C(l) = 1.057 \cdot 10^{-10} (l/6565)^{-0.917} (1 + l/6565)^{-2.414}, \qquad C(0) = 0

    It is a fit to a simulated map for l from 300 to 30000, whose rms is 0.021 at 0.3 arcmin.

    Parameters
    ----------
    ell : Tensor
        l in 1/rad, >= 0.

    Returns
    -------
    Tensor
        C(l) in steradian, of the shape of ``ell``.

    References
    ----------
    Osato, Liu and Haiman (2021), kappaTNG.
    """
    t = ell.clamp_min(1e-3) / 6565
    return torch.where(ell > 0, 1.057e-10 * t**-0.917 * (1 + t) ** -2.414, torch.zeros_like(t))


def tabulated(ell: Any, C: Any) -> Spectrum:
    """Make a spectrum from a table, such as one of pyccl.angular_cl or CAMB.

    log C is linear in log l between the entries, and continued with its last slopes; C(0) = 0.

    Parameters
    ----------
    ell : array_like
        Rising values of l in 1/rad, > 0, two or more.
    C : array_like
        Values of C(l) in steradian, > 0, as many.

    Returns
    -------
    callable
        C(l), a function of a tensor l.

    Raises
    ------
    InputError
        If the table is not as described.
    """
    x, y = (torch.as_tensor(values, dtype=torch.float64).flatten().cpu() for values in (ell, C))
    if (
        len(x) != len(y)
        or len(x) < 2
        or not bool(((x > 0) & (y > 0)).all())
        or not bool((x[1:] > x[:-1]).all())
    ):
        raise InputError(
            "tabulated: ell must rise and be > 0, C be > 0, and both have the same number of "
            "values, two or more."
        )
    log_ell, log_C = x.log(), y.log()

    def spectrum(ell: Tensor) -> Tensor:
        x, y = log_ell.to(ell.device), log_C.to(ell.device)
        at = ell.double().clamp_min(1e-3).log()
        k = torch.searchsorted(x, at).clamp(1, len(x) - 1)
        value = y[k - 1] + (at - x[k - 1]) * (y[k] - y[k - 1]) / (x[k] - x[k - 1])
        return torch.where(ell > 0, value.exp(), torch.zeros_like(value)).to(ell.dtype)

    return spectrum


def wavenumbers(shape: Sequence[int], pixel: Any) -> Tensor:
    """Return :math:`|l|` at the frequencies of ``torch.fft.fft2``.

    Parameters
    ----------
    shape : sequence of int
        Shape of the maps; the last two entries are (H, W).
    pixel : str or astropy quantity
        Side of a pixel with its unit.

    Returns
    -------
    Tensor, shape (H, W)
        In 1/rad, float64.
    """
    p = radians(pixel)
    rows, cols = (2 * math.pi * torch.fft.fftfreq(n, p, dtype=torch.float64) for n in shape[-2:])
    return torch.hypot(rows[:, None], cols[None])


def power(ell: Tensor, spectrum: Spectrum, pixel: Any) -> Tensor:
    """Return the variance of each Fourier mode, relative to white noise of variance one.

    Parameters
    ----------
    ell : Tensor
        l in 1/rad.
    spectrum : callable
        C(l) in steradian, a function of l.
    pixel : str or astropy quantity
        Side p of a pixel with its unit.

    Returns
    -------
    Tensor
        :math:`C(l) / p^2`, of the shape of ``ell``.

    Raises
    ------
    InputError
        If the spectrum is negative or not finite somewhere.
    """
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
    r"""Compute the mean spectrum of maps in bins of l, or the cross-spectrum of two maps.

    .. math:: C(l) = \frac{p^2}{\sum w^2} \langle |\widehat{w (x - \bar x)}(l)|^2 \rangle, \qquad
              \mathrm{Re} \langle \hat x \, \bar{\hat y} \rangle \text{ with another map } y

    Parameters
    ----------
    x : Tensor, shape (..., H, W)
        Maps, over which the mean is taken.
    pixel : str or astropy quantity
        Side p of a pixel with its unit.
    other : Tensor, shape (..., H, W), optional
        The maps y, for the cross-spectrum.
    edges : sequence of float
        Rising edges of the bins in l.
    mask : Tensor, shape (H, W), optional
        Weights w in [0, 1].
    taper : bool
        Multiply w by a Hann window. A field that is not periodic needs it: its edges would
        otherwise add power at small scales.

    Returns
    -------
    l, C : Tensor, shape (bins,)
        Mean l and mean spectrum of each bin; NaN in bins without a mode.

    Raises
    ------
    InputError
        If shapes or edges do not fit.
    """
    if not isinstance(x, Tensor) or x.ndim < 2 or not x.is_floating_point():
        raise InputTypeError("power_spectrum: expected maps (..., H, W), a floating tensor.")
    if other is not None and other.shape != x.shape:
        raise InputError(
            f"power_spectrum: both maps must have one shape, got {tuple(x.shape)} and "
            f"{tuple(other.shape)}."
        )
    if len(edges) < 2 or any(not a < b for a, b in pairwise(edges)):
        raise InputError("power_spectrum: edges must be two or more rising values of l.")
    w = _window(x, mask, taper)
    first = torch.fft.fft2(_less_mean(x.double(), w))
    second = first if other is None else torch.fft.fft2(_less_mean(other.to(w), w))
    values = (first * second.conj()).real.reshape(-1, *w.shape).mean(0)
    values = values * radians(pixel) ** 2 / w.square().sum()
    return _binned(wavenumbers(w.shape, pixel).to(x.device), values, edges)


def _window(x: Tensor, mask: Tensor | None, taper: bool) -> Tensor:
    """Return the weights (H, W) of a map: the mask, times a Hann window with ``taper``."""
    shape = x.shape[-2:]
    w = torch.ones(shape, dtype=torch.float64, device=x.device)
    if mask is not None:
        if tuple(mask.shape) != tuple(shape) or not bool(mask.any()):
            raise InputError(
                f"power_spectrum: mask must have the shape {tuple(shape)} and not be all zero, "
                f"got {tuple(mask.shape)}."
            )
        w = mask.to(w)
    if taper:
        for n, axis in zip(shape, (-2, -1), strict=True):
            centres = torch.arange(n, dtype=torch.float64, device=x.device) + 0.5
            hann = torch.sin(math.pi * centres / n) ** 2
            w = w * hann.unsqueeze(-1 if axis == -2 else 0)
    return w


def _binned(ell: Tensor, values: Tensor, edges: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the means of l and of the values in each bin; NaN in bins without a mode."""
    limits = torch.tensor(edges, dtype=torch.float64, device=ell.device)
    bins = torch.bucketize(ell.flatten(), limits) - 1
    inside = (bins >= 0) & (bins < len(edges) - 1)
    sums = torch.zeros(3, len(edges) - 1, dtype=torch.float64, device=ell.device)
    for row, each in zip(sums, (torch.ones_like(ell), ell, values), strict=True):
        row.index_add_(0, bins[inside], each.flatten()[inside])
    return sums[1] / sums[0], sums[2] / sums[0]


def _less_mean(x: Tensor, w: Tensor) -> Tensor:
    """Return w (x - mean), the mean weighted by w."""
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
