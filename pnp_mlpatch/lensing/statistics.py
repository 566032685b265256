"""Statistics of convergence maps, with and without a known truth.

PSNR misleads for such maps, since the map that is zero everywhere has a high one. It comes last,
beside that of the zero map.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.errors import InputError
from pnp_mlpatch.lensing.spectra import power_spectrum

LEVELS = (0.05, 0.1, 0.15)  # heights above which peaks are counted


def peaks(x: Tensor, level: float, mask: Tensor | None = None) -> Tensor:
    """Find the peaks of a map: pixels above all 8 neighbours, not on the border.

    Parameters
    ----------
    x : Tensor, shape (H, W)
        The map.
    level : float
        Peaks must be higher than this.
    mask : Tensor, shape (H, W), optional
        Peaks where it is 0 are left out.

    Returns
    -------
    Tensor, shape (K, 2)
        Rows and columns, highest peak first.
    """
    inner = x[1:-1, 1:-1]
    if inner.numel() == 0:
        return torch.zeros(0, 2, dtype=torch.long, device=x.device)
    higher = torch.ones_like(inner, dtype=torch.bool)
    for down in range(3):
        for right in range(3):
            if (down, right) != (1, 1):
                higher &= inner > x[down : down + inner.shape[0], right : right + inner.shape[1]]
    found = F.pad(higher & (inner > level), [1] * 4)
    if mask is not None:
        found = found & (mask.to(x.device) > 0)
    places = found.nonzero()
    return places[x[places[:, 0], places[:, 1]].argsort(descending=True, stable=True)]


def describe_map(kappa: Tensor, pixel: Any, mask: Tensor | None = None) -> dict[str, Any]:
    """Describe a map without a known truth.

    Parameters
    ----------
    kappa : Tensor, shape (1, H, W) or (2, H, W)
        E, or E and B.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    mask : Tensor, shape (H, W), optional
        Where it is 0, nothing counts. The mean over the mask is subtracted.

    Returns
    -------
    dict
        Plain numbers: "rms", "skewness" and "peaks" (their numbers above each height) of E, "B
        rms", and the spectrum of E, "l" and "C".
    """
    e, seen = _inside(kappa[0], mask)
    values = e[seen]
    std = float(values.std())
    found: dict[str, Any] = {
        "rms": std,
        "skewness": float((values**3).mean()) / max(std, 1e-30) ** 3,
        "B rms": float(_inside(kappa[1], mask)[0][seen].std()) if len(kappa) > 1 else None,
        "peaks": {f"{level:g}": len(peaks(e, level, mask)) for level in LEVELS},
    }
    ell, C = power_spectrum(e, pixel, mask=seen.double())
    return found | {"l": _plain(ell), "C": _plain(C)}


def judge(kappa: Tensor, truth: Tensor, pixel: Any, mask: Tensor | None = None) -> dict[str, Any]:
    r"""Compare a map with the truth.

    x and t are the map and the truth, less their means over the mask.

    Parameters
    ----------
    kappa : Tensor, shape (H, W), (1, H, W) or (2, H, W)
        E, or E and B.
    truth : Tensor, shape (H, W)
        The true E.
    pixel : str or astropy quantity
        Side of a pixel with its unit.
    mask : Tensor, shape (H, W), optional
        Where it is 0, nothing counts.

    Returns
    -------
    dict
        Plain numbers, ready for JSON. "rmse"; "nrmse" = :math:`|x - t| / |t|`; "pearson" =
        :math:`\langle x, t \rangle / (|x| |t|)`; the numbers of "peaks" and "true peaks" above each
        height, and their difference, "peaks error"; "pdf distance", the Wasserstein 1 distance of
        the values over the rms of t; "skewness" and "true skewness"; "B rms". In bins of "l":
        "ratio" = :math:`C_{xx} / C_{tt}` and "r" = :math:`C_{xt} / \sqrt{C_{xx} C_{tt}}`. Last
        "psnr" and "psnr of zero", for the range of t.

    Raises
    ------
    InputError
        If shapes differ.
    """
    kappa = kappa[None] if kappa.ndim == 2 else kappa
    if truth.ndim != 2 or kappa.shape[-2:] != truth.shape:
        raise InputError(
            "judge: expected a map (H, W) or (2, H, W) and its truth (H, W), got "
            f"{tuple(kappa.shape)}, {tuple(truth.shape)}."
        )
    x, seen = _inside(kappa[0].double(), mask)
    t, _ = _inside(truth.double().to(x.device), mask)
    a, b = x[seen], t[seen]
    size = float(b.norm())
    rmse, rms = float((a - b).square().mean().sqrt()), float(b.square().mean().sqrt())
    window = seen.double()
    ell, Cx = power_spectrum(x, pixel, mask=window)
    _, Ct = power_spectrum(t, pixel, mask=window)
    _, Cxt = power_spectrum(x, pixel, other=t, mask=window)
    counts, true_counts = (
        {f"{level:g}": len(peaks(m, level, mask)) for level in LEVELS} for m in (x, t)
    )
    span = float(b.max() - b.min())
    return {
        "rmse": rmse,
        "nrmse": float((a - b).norm()) / size,
        "pearson": float((a * b).sum()) / max(float(a.norm()) * size, 1e-30),
        "peaks": counts,
        "true peaks": true_counts,
        "peaks error": {level: counts[level] - true_counts[level] for level in counts},
        "pdf distance": float((a.sort().values - b.sort().values).abs().mean()) / rms,
        "skewness": _skewness(a),
        "true skewness": _skewness(b),
        "B rms": float(_inside(kappa[1].double(), mask)[0][seen].std()) if len(kappa) > 1 else None,
        "l": _plain(ell),
        "ratio": _plain(Cx / Ct),
        "r": _plain(Cxt / (Cx * Ct).sqrt().clamp_min(1e-300)),
        "psnr": 20 * math.log10(span / max(rmse, 1e-30)),
        "psnr of zero": 20 * math.log10(span / rms),
    }


def _skewness(x: Tensor) -> float:
    return float((x**3).mean()) / max(float(x.square().mean().sqrt()), 1e-30) ** 3


def _inside(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the map less its mean over the mask, 0 outside; and the mask as booleans."""
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.to(x.device) > 0
    if seen.shape != x.shape or not bool(seen.any()):
        raise InputError(
            f"mask: must have the shape {tuple(x.shape)} of the map and not be all zero, got "
            f"{tuple(seen.shape)}."
        )
    return torch.where(seen, x - x[seen].mean(), torch.zeros_like(x)), seen


def _plain(x: Tensor) -> list[float | None]:
    return [None if math.isnan(v) else v for v in x.tolist()]


__all__ = ["LEVELS", "describe_map", "judge", "peaks"]
