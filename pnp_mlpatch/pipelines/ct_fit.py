"""How well slices fit their data, in words, and whether their values can be."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
from torch import Tensor

from pnp_mlpatch import denoisers, solvers
from pnp_mlpatch.ct import Geometry, Scan
from pnp_mlpatch.ct.truncation import crop
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.operators.radon import Radon
from pnp_mlpatch.pipelines.ct_check import Seen, some
from pnp_mlpatch.pipelines.ct_config import VolumeConfig
from pnp_mlpatch.pipelines.ct_recipe import backproject, solve_slab
from pnp_mlpatch.pipelines.ct_slab import read_slab
from pnp_mlpatch.solvers import schedules

SUSPECT = 1.5  # chi-squared: above it a slice does not fit its data
POSSIBLE_HU = (-900.0, 10000.0)  # of the densest half per cent of a slice
LOOK = "the gain, the centre, outliers, truncation and units"


def choose_window(config: VolumeConfig, fbp: Tensor, scan: Scan) -> tuple[float, float]:
    """Return the window that is given, or the default.

    Parameters
    ----------
    config : VolumeConfig
        The settings.
    fbp : Tensor, shape (H, W)
        Filtered backprojection of the middle slice, in attenuation.
    scan : Scan
        For messages.

    Returns
    -------
    tuple of float

    Raises
    ------
    InputError
        If the slice shows no attenuation.
    """
    if config.window is not None:
        return float(config.window[0]), float(config.window[1])
    if config.mu_water is not None:
        return -1024.0, 1024.0
    high = 1.2 * float(np.percentile(fbp.numpy(), 99.5))
    if not high > 0:
        raise InputError(
            f"{scan.path}: the slice in the middle shows no attenuation, so it tells no window. "
            "Give window = (low, high)."
        )
    return 0.0, high


def check_units(middle: Tensor, mu_water: float | None) -> list[str]:
    """Say where Hounsfield units cannot be.

    Parameters
    ----------
    middle : Tensor, shape (H, W)
        Filtered backprojection of the middle slice, in attenuation.
    mu_water : float, optional
        As in the settings.

    Returns
    -------
    list of str
    """
    if mu_water is None:
        return []
    top = float(some(middle.flatten()).quantile(0.995))
    hu = 1000 * (top / mu_water - 1)
    if POSSIBLE_HU[0] < hu < POSSIBLE_HU[1]:
        return []
    power = round(math.log10(max(top / mu_water, 1e-9)))
    return [
        f"the densest half per cent of the middle slice has {hu:.5g} HU, {top / mu_water:.2g} of "
        f"water. The lengths seem to be {10.0**power:g} of the unit that mu_water = {mu_water:g} "
        "is for (0.0193 is 1 / mm: then spacing= and pixel= are in mm)"
    ]


def check_fit(scan: Scan, geometry: Geometry, seen: Seen) -> tuple[float, Tensor]:
    """Reconstruct the middle slice cheaply, and measure how well it fits its data.

    Parameters
    ----------
    scan : Scan
        The scan.
    geometry : ParallelBeam or FanBeam
        Its geometry.
    seen : Seen
        As of :func:`examine`.

    Returns
    -------
    chi2 : float
        Of 60 iterations with total variation.
    fbp : Tensor, shape (H, W)
        Filtered backprojection, in attenuation.
    """
    config, middle = seen.config, seen.facts["slice"]
    data, geometry, frame = seen.room(scan, geometry)
    A = Radon(geometry, backend=config.backend, memory=config.memory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        slab = replace(read_slab(data, config, middle, middle + 1), counts=None)
    fbp = backproject(A, slab)
    scale = 1.2 * max(float(some(fbp).quantile(0.995)), 1e-12)
    noise = slab.noise if slab.noise.ndim == 1 else slab.noise[:, None]
    sigma = schedules.from_noise(A, noise, scale=scale)
    smooth = denoisers.registry.make("tv", strength=2.0)
    solver = solvers.registry.make("fast_admm", sigma=sigma, iterations=60)
    x, rows = solve_slab(A, smooth, solver, scale, slab)
    del x
    return rows[0]["chi2"], crop(fbp[0, 0], frame)


def say_chi2(chi2: list[float | None], first: int = 0) -> str | None:
    """Say which slices do not fit their data.

    Parameters
    ----------
    chi2 : list of float or None
        Of each slice.
    first : int
        The number of the first one.

    Returns
    -------
    str or None
        None where all fit.
    """
    bad = {
        first + k: value for k, value in enumerate(chi2) if value is not None and value > SUSPECT
    }
    if not bad:
        return None
    worst = max(bad, key=lambda k: bad[k])
    shown = ", ".join(map(str, list(bad)[:8])) + (", ..." if len(bad) > 8 else "")
    return (
        f"{len(bad)} of {len(chi2)} slices do not fit their data ({shown}): chi^2 is "
        f"{bad[worst]:.3g} in slice {worst}, and 1 where noise is all that is left. Their values "
        f"may be wrong; look at {LOOK}"
    )


__all__ = ["check_fit", "check_units", "choose_window", "say_chi2"]
