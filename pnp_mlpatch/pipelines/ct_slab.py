"""A few slices of a scan as the solvers take them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch._optional import require
from pnp_mlpatch.ct import COUNTS, Scan, dead_bins, line_integrals
from pnp_mlpatch.ct.binning import bin_mean, bin_sum
from pnp_mlpatch.ct.outliers import bad_elements, bright, zingers
from pnp_mlpatch.ct.stripes import remove_stripes
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.operators._ringless import element_spread
from pnp_mlpatch.pipelines.ct_config import VolumeConfig
from pnp_mlpatch.pipelines.ct_digest import tensor_digest

DIFFERENCES = ((0, 2), (0, 4), (2, 2), (2, 0))  # along the angles and along the detector
LEAST_SPREAD = 0.006  # of line integrals: gain errors of 0.6 %; objects show half of that
INSIDE = 0.1  # rays above this part of the largest line integrals pass through the object


@dataclass(frozen=True)
class Slab:
    """Slices as they are solved; B of them are live.

    Parameters
    ----------
    live : Tensor, shape (slices,), bool
        The slices in which something was measured.
    q : Tensor, shape (B, angles, detectors)
        Line integrals, 0 where missing.
    missing : Tensor, shape (B, angles, detectors), bool
        What was not measured.
    noise : Tensor, shape (B,) or (B, angles, detectors)
        The standard deviation of ``q``.
    counts : tuple of Tensor, optional
        Counts, blank and background in photons, for the likelihood "poisson".
    digest : str
        The sha256 of what was read.
    rejected : tuple of dict
        For each of the B slices "outliers", their number, "zingers", the first 100 of them as
        (angle, detector), and "bad_elements".
    spread : Tensor, shape (B,), optional
        How much the elements differ from their neighbours, beyond their noise; 0 where that is no
        more than an object may do.
    stack : bool
        Whether the live slices are denoised together, as the channels of one image.
    """

    live: Tensor
    q: Tensor
    missing: Tensor
    noise: Tensor
    counts: tuple[Tensor, Tensor, Tensor] | None = None
    digest: str = ""
    rejected: tuple[dict[str, Any], ...] = ()
    spread: Tensor | None = None
    stack: bool = False


def read_slab(scan: Scan, config: VolumeConfig, start: int, stop: int) -> Slab:
    """Read slices of a scan.

    Parameters
    ----------
    scan : Scan
        Counts or line integrals.
    config : VolumeConfig
        The settings.
    start, stop : int
        The slices start ... stop - 1.

    Returns
    -------
    Slab

    Raises
    ------
    InputError, FileError
        As :meth:`~pnp_mlpatch.ct.Scan.read` and :func:`~pnp_mlpatch.ct.line_integrals`.
    """
    raw = scan.read(start, stop)
    if scan.kind == COUNTS:
        slab = _from_counts(scan, config, raw, start, stop)
    else:
        slab = _from_integrals(config, raw)
    if config.stripes and len(slab.q):
        pairs = zip(slab.q, ~slab.missing, strict=True)
        slab = replace(slab, q=torch.stack([remove_stripes(*pair) for pair in pairs]))
    if config.bin is not None and config.bin > 1 and len(slab.q):
        slab = _binned(slab, config.bin)
    if config.rings and not config.stripes and len(slab.q) and slab.counts is None:
        noise = slab.noise.reshape(len(slab.q), *(slab.noise.shape[1:] or (1, 1)))
        noise = noise.expand_as(slab.q).masked_fill(slab.missing, torch.inf)
        spread = element_spread(slab.q, noise)
        slab = replace(slab, spread=spread.where(spread > LEAST_SPREAD, 0.0))
    return replace(slab, digest=tensor_digest(raw), stack=config.slabs is not None)


def _from_integrals(config: VolumeConfig, raw: Tensor) -> Slab:
    """Line integrals with the noise that is given or estimated for each slice."""
    missing = ~torch.isfinite(raw)
    live = ~missing.flatten(1).all(1)
    if not bool(live.any()):
        return Slab(live, raw[:0], raw[:0] > 0, raw[:0])
    raw, missing = raw[live], missing[live]
    if config.noise is None:
        noise = estimate_noise(raw)
    else:
        noise = raw.new_full((len(raw),), config.noise)
    slab = Slab(live, raw.masked_fill(missing, 0.0), missing, noise)
    return _reject(slab, torch.zeros_like(missing)) if config.outliers else slab


def _from_counts(scan: Scan, config: VolumeConfig, raw: Tensor, start: int, stop: int) -> Slab:
    """Convert counts to line integrals with a map of the noise."""
    assert scan.flat is not None
    flat = scan.flat[start:stop, None]
    dark = torch.zeros_like(flat) if scan.dark is None else scan.dark[start:stop, None]
    live = ~dead_bins(raw, flat, dark).all(-1)
    if not bool(live.any()):
        return Slab(live, raw[:0], raw[:0] > 0, raw[:0])
    raw, flat, dark = raw[live], flat[live], dark[live]
    gain = 1.0 if config.gain is None else config.gain
    q, std = line_integrals(raw, flat, dark, electronic=config.electronic, gain=gain)
    slab = Slab(live, q, torch.isinf(std), std)
    if config.outliers:
        dtype = np.dtype(scan.meta.get("dtype", "float32"))
        top = float(np.iinfo(dtype).max) if dtype.kind in "iu" and dtype.itemsize <= 2 else None
        slab = _reject(slab, bright(raw, flat, dark, top))
    if config.likelihood == "poisson":
        counts = _photons(config, gain, raw, flat, dark, slab.missing)
        slab = replace(slab, counts=counts)
    return slab


def _reject(slab: Slab, found: Tensor) -> Slab:
    """Take outliers as not measured: those ``found`` already, bad elements, and zingers."""
    noise = slab.noise.reshape(len(slab.q), *(slab.noise.shape[1:] or (1, 1)))
    noise = noise.masked_fill(slab.missing, torch.inf)
    broken = bad_elements(slab.q, noise, ~slab.missing)
    seen = ~(slab.missing | found | broken[:, None])
    single = (found | zingers(slab.q, noise, seen)) & ~slab.missing & ~broken[:, None]
    missing = ~seen | single
    whole = missing.flatten(1).all(1)  # nothing would be left: then nothing is an outlier
    missing = torch.where(whole[:, None, None], slab.missing, missing)
    rejected = tuple(
        {
            "outliers": int((missing[k] & ~slab.missing[k]).sum()),
            "zingers": single[k].nonzero()[:100].tolist(),
            "bad_elements": broken[k].nonzero().flatten().tolist(),
        }
        for k in range(len(missing))
    )
    noise = slab.noise if slab.noise.ndim == 1 else slab.noise.masked_fill(missing, torch.inf)
    q = slab.q.masked_fill(missing, 0.0)
    return replace(slab, q=q, missing=missing, noise=noise, rejected=rejected)


def _binned(slab: Slab, factor: int) -> Slab:
    """Take each ``factor`` neighbouring elements as one."""
    seen = ~slab.missing
    count = bin_sum(seen.to(slab.q), seen, factor)
    if slab.noise.ndim == 1:
        noise = slab.noise / math.sqrt(factor)
    else:
        variance = bin_sum(slab.noise.square(), seen, factor)
        noise = torch.where(count > 0, variance.sqrt() / count.clamp_min(1), torch.inf)
    counts = slab.counts
    if counts is not None:
        counts = tuple(bin_sum(part, seen, factor) for part in counts)
    q = bin_mean(slab.q, seen, factor)
    return replace(slab, q=q, missing=count == 0, noise=noise, counts=counts)


def _photons(
    config: VolumeConfig, gain: float, raw: Tensor, flat: Tensor, dark: Tensor, missing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, blank and background, shifted by the variance of the electronic noise.

    The sum c + e^2 has the mean and the variance of Poisson's distribution (Snyder et al. 1993).
    """
    extra = (config.electronic / gain) ** 2
    background = (dark / gain + extra).nan_to_num(0.0, 0.0, 0.0)
    parts = (raw / gain + extra, (flat - dark) / gain, background)
    counts, blank, background = (
        part.expand_as(raw).masked_fill(missing, 0.0).clamp_min(0.0) for part in parts
    )
    return counts, blank, background


def estimate_noise(q: Tensor) -> Tensor:
    r"""Estimate the standard deviation of white noise in line integrals, one for each slice.

    .. math:: \hat\sigma = \min_d \frac{\mathrm{median} |d - \mathrm{median}(d)|}{0.6745 |d|}

    over rays through the object: their mean over 3 x 5 is > 0.1 of the 99th percentile. Where
    there is air, counts are many and the noise is less. The differences d are the second and the
    fourth along the detector, the second along the angles, and the second along both; ``|d|`` is
    the root of the sum of the squares of their weights. What the object changes adds to each of
    them, so the least is best.

    Parameters
    ----------
    q : Tensor, shape (..., angles, detectors)
        Line integrals. Values that are not finite are left out.

    Returns
    -------
    Tensor, shape (...)
        At least 1e-4 of the 99th percentile, so never 0.

    Raises
    ------
    InputTypeError
        For anything but a tensor of real floats of two axes or more.
    InputError
        If there are no three neighbouring finite values.

    Notes
    -----
    Interpolated or smoothed data seem less noisy than they are. What the object itself changes
    from one ray to the next counts as noise: nothing for many views, more for few views on coarse
    detectors.

    References
    ----------
    Donoho, De-noising by soft-thresholding, IEEE Trans. Inf. Theory 1995; here with second
    differences in place of wavelets.
    """
    if not isinstance(q, Tensor) or not q.is_floating_point() or q.ndim < 2:
        raise InputTypeError(
            "estimate_noise: expected line integrals (..., angles, detectors), a tensor of real "
            "floats."
        )
    slices = q.detach().cpu().double().reshape(-1, *q.shape[-2:]).numpy()
    levels = [_noise_of_slice(one) for one in slices]
    return torch.tensor(levels, dtype=q.dtype, device=q.device).reshape(q.shape[:-2])


def _noise_of_slice(q: np.ndarray) -> float:
    """Return the noise of one slice (angles, detectors)."""
    known = q[np.isfinite(q)]
    if not np.isfinite(np.diff(q, 2, axis=1)).any():
        raise InputError(
            f"estimate_noise: no three neighbouring values of {q.shape} are finite. Give the noise."
        )
    top = float(np.percentile(known, 99))
    smooth = require("scipy.ndimage", "Estimating the noise").uniform_filter(
        np.nan_to_num(q, nan=0.0, posinf=0.0, neginf=0.0), (3, 5), mode="nearest"
    )  # so that noise does not choose the rays
    inside = np.where(np.isfinite(q) & (smooth > INSIDE * top), q, np.nan)
    levels = []
    for orders in DIFFERENCES:
        d, power = inside, 1
        for axis, order in enumerate(orders):
            d = np.diff(d, order, axis=axis)
            power *= math.comb(2 * order, order)  # the sum of the squares of the weights
        d = d[np.isfinite(d)]
        if len(d) >= 64:
            levels.append(_spread(d) / math.sqrt(power))
    if not levels:
        d = np.diff(q, 2, axis=1)
        levels = [_spread(d[np.isfinite(d)]) / math.sqrt(6)]
    return max(min(levels), 1e-4 * abs(top), 1e-12)


def _spread(d: np.ndarray) -> float:
    """Return the standard deviation by the median absolute deviation."""
    return float(np.median(np.abs(d - np.median(d)))) / 0.6745


__all__ = ["Slab", "estimate_noise", "read_slab"]
