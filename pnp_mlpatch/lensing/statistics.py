r"""How good a map of the convergence is, when the truth is known; and what can be said when it is not.

PSNR misleads for such maps, since the map that is zero everywhere has a high one. It comes last, with that of the zero map beside it.
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
    """(K, 2) rows and columns of the peaks of a map (H, W) above ``level``, highest first: pixels above all 8 neighbours, not on the border."""
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
        found = found & (mask > 0)
    places = found.nonzero()
    return places[x[places[:, 0], places[:, 1]].argsort(descending=True, stable=True)]


def describe_map(kappa: Tensor, pixel: Any, mask: Tensor | None = None) -> dict[str, Any]:
    """What a map tells without a truth: rms of E and of B, skewness, peak counts, and the spectrum of E; a dictionary of plain numbers.

    ``kappa`` (1 or 2, H, W), E and B; all but the spectrum's Hann window is over the ``mask`` (H, W), of E less its mean there.
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
    r"""A map against the truth, E (H, W) or (E, B) (2, H, W) against E; a dictionary of plain numbers, ready for JSON.

    Both less their means over the ``mask`` (H, W), x and t: "rmse" and "nrmse" = |x - t| / |t|, "pearson" = <x, t> / (|x| |t|), "peaks"
    above each height in both and "peaks error" = their difference; in bins of l "ratio" = C_xx / C_tt and "r" = C_xt / sqrt(C_xx C_tt);
    "pdf distance", the mean distance of the sorted values (Wasserstein 1) over the rms of t; "skewness" of both, "B rms"; at the end
    "psnr" and that of zero, for the range of t. Raises :class:`InputError` for shapes that differ.
    """
    kappa = kappa[None] if kappa.ndim == 2 else kappa
    if truth.ndim != 2 or kappa.shape[-2:] != truth.shape:
        raise InputError(
            f"judge: expected a map (H, W) or (2, H, W) and its truth (H, W), got {tuple(kappa.shape)}, {tuple(truth.shape)}."
        )
    x, seen = _inside(kappa[0].double(), mask)
    t, _ = _inside(truth.double(), mask)
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
    """The map less its mean over the mask, 0 outside; and the mask as booleans."""
    seen = torch.ones_like(x, dtype=torch.bool) if mask is None else mask.to(x.device) > 0
    if seen.shape != x.shape or not bool(seen.any()):
        raise InputError(
            f"mask: must have the shape {tuple(x.shape)} of the map and not be all zero, got {tuple(seen.shape)}."
        )
    return torch.where(seen, x - x[seen].mean(), torch.zeros_like(x)), seen


def _plain(x: Tensor) -> list[float | None]:
    return [None if math.isnan(v) else v for v in x.tolist()]


__all__ = ["LEVELS", "describe_map", "judge", "peaks"]
