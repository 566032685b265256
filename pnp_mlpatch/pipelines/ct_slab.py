"""A few slices of a scan as the solvers take them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.ct import COUNTS, Scan, dead_bins, line_integrals
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.pipelines.ct_config import VolumeConfig
from pnp_mlpatch.pipelines.ct_digest import tensor_digest

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
    """

    live: Tensor
    q: Tensor
    missing: Tensor
    noise: Tensor
    counts: tuple[Tensor, Tensor, Tensor] | None = None
    digest: str = ""


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
    return replace(slab, digest=tensor_digest(raw))


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
    return Slab(live, raw.masked_fill(missing, 0.0), missing, noise)


def _from_counts(scan: Scan, config: VolumeConfig, raw: Tensor, start: int, stop: int) -> Slab:
    """Convert counts to line integrals with a map of the noise."""
    assert scan.flat is not None
    flat = scan.flat[start:stop, None]
    dark = torch.zeros_like(flat) if scan.dark is None else scan.dark[start:stop, None]
    live = ~dead_bins(raw, flat, dark).all(-1)
    if not bool(live.any()):
        return Slab(live, raw[:0], raw[:0] > 0, raw[:0])
    raw, flat, dark = raw[live], flat[live], dark[live]
    q, std = line_integrals(raw, flat, dark, electronic=config.electronic, gain=config.gain)
    missing, counts = torch.isinf(std), None
    if config.likelihood == "poisson":
        counts = _photons(config, raw, flat, dark, missing)
    return Slab(live, q, missing, std, counts)


def _photons(
    config: VolumeConfig, raw: Tensor, flat: Tensor, dark: Tensor, missing: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, blank and background, shifted by the variance of the electronic noise.

    The sum c + e^2 has the mean and the variance of Poisson's distribution (Snyder et al. 1993).
    """
    extra = (config.electronic / config.gain) ** 2
    background = (dark / config.gain + extra).nan_to_num(0.0, 0.0, 0.0)
    parts = (raw / config.gain + extra, (flat - dark) / config.gain, background)
    counts, blank, background = (
        part.expand_as(raw).masked_fill(missing, 0.0).clamp_min(0.0) for part in parts
    )
    return counts, blank, background


def estimate_noise(q: Tensor) -> Tensor:
    r"""Estimate the standard deviation of white noise in line integrals, one for each slice.

    .. math:: \hat\sigma = \frac{\mathrm{median} |d - \mathrm{median}(d)|}{0.6745 \sqrt 6},
              \qquad d_k = q_{k-1} - 2 q_k + q_{k+1}

    along the detector, over rays through the object: q > 0.1 of the 99th percentile. Where there
    is air, counts are many and the noise is less.

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
    from one detector to the next counts as noise: a few per cent on fine detectors, more on
    coarse ones.

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
    """Estimate the noise of one slice (angles, detectors)."""
    before, here, after = q[:, :-2], q[:, 1:-1], q[:, 2:]
    d = after - 2 * here + before
    finite = np.isfinite(d)
    if not finite.any():
        raise InputError(
            f"estimate_noise: no three neighbouring values of {q.shape} are finite. Give the noise."
        )
    top = float(np.percentile(q[np.isfinite(q)], 99))
    with np.errstate(invalid="ignore"):
        inside = finite & (np.minimum(np.minimum(after, here), before) > INSIDE * top)
    d = d[inside if inside.sum() >= 64 else finite]
    level = float(np.median(np.abs(d - np.median(d)))) / (0.6745 * math.sqrt(6))
    return max(level, 1e-4 * abs(top), 1e-12)


__all__ = ["Slab", "estimate_noise", "read_slab"]
