"""What :func:`~pnp_mlpatch.pipelines.mass_map.map_mass` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class MassMap:
    """The result of :func:`map_mass`, on the pixels of the shear map.

    Parameters
    ----------
    kappa : Tensor, shape (2, H, W)
        E, the mean of the posterior, and B, which gravity does not make: that of the smoothed
        Kaiser-Squires map, a check.
    spread : Tensor, shape (H, W)
        Standard deviation of the denoised draws. On generated maps the error is below it in 23 % of
        the measured pixels; ``std`` is that of the errors.
    smoothed : Tensor, shape (2, H, W)
        E and B of Kaiser-Squires, smoothed by ``settings["width"]``.
    statistics : dict
        Those of :func:`~pnp_mlpatch.lensing.statistics.describe_map` for E; of the smoothed map "E
        rms smoothed", "B rms", and "B rms of noise", that of the same shears, each turned by a
        random angle. A B rms that is much larger indicates systematic errors of the shear, or a
        wrong sign: "signs" has what :func:`~pnp_mlpatch.lensing.signs.check_signs` found.
    settings : dict
        All settings that were used.
    seconds : float
        Computing time.
    residual : Tensor, shape (2, H, W)
        Shear of the map less the data, in units of the noise; 0 where nothing was measured.
    kappa_low, kappa_high : Tensor, shape (H, W), or None
        With ``errors=True``, ends of the interval of each pixel, which holds the true E with the
        probability 0.9 if the sky is like the generated maps. The true E is shifted to the mean of
        the map over the measured pixels, since shear does not determine the mean.
    std : Tensor, shape (H, W), or None
        With ``errors=True``, root mean square of the errors of pixels like this one.
    peaks : tuple of dict, or None
        With ``errors=True``, the peaks of E above 0.05 inside the mask, the highest first: "row",
        "column", "kappa", and "low", "high" and "std", which were calibrated with peaks.
    """

    kappa: Tensor
    spread: Tensor
    smoothed: Tensor
    statistics: dict[str, Any]
    settings: dict[str, Any]
    seconds: float
    residual: Tensor
    kappa_low: Tensor | None = None
    kappa_high: Tensor | None = None
    std: Tensor | None = None
    peaks: tuple[dict[str, Any], ...] | None = None


__all__ = ["MassMap"]
