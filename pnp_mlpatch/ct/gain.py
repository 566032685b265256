r"""Detector units per photon, from the spread of what ought to be equal.

Photons follow Poisson's distribution. A detector of gain g that adds electronic noise e shows

.. math:: \mathrm{mean} = g N + \mathrm{dark}, \qquad \mathrm{variance} = g^2 N + e^2
          = g \, (\mathrm{mean} - \mathrm{dark}) + e^2

so the slope of the variance over the mean is g (photon transfer, Janesick 2007).
"""

from __future__ import annotations

import numpy as np

from pnp_mlpatch.ct._scan_file import Frames

AIR = (0.9, 1.1)  # the transmission of a ray that met nothing, as the median over the angles
LEAST = 0.7  # and that of its darkest readings
SAME = 0.1  # a gain that differs from 1 by less is 1: the counts are photons
ENOUGH = 4  # frames after the first
LEAST_READINGS = 200  # of a variance that is right to 10 %


def gain_of_flats(flat: Frames | None, dark: Frames | None) -> float | None:
    """Estimate the gain from the spread of the flat frames.

    Parameters
    ----------
    flat, dark : Frames, optional
        The open beam and the dark field.

    Returns
    -------
    float or None
        Detector units per photon. None for fewer than two frames, for frames that do not differ,
        and for too few detector elements.
    """
    if flat is None or flat.variance is None:
        return None
    level = flat.mean - (0.0 if dark is None else dark.mean)
    spread = flat.variance
    if dark is not None and dark.variance is not None:
        spread = spread - dark.variance
    level, spread = np.broadcast_arrays(level, spread)
    lit = np.isfinite(spread) & (level > 0)
    if lit.sum() * (flat.count - 1) < LEAST_READINGS:
        return None
    freedom, ratio = flat.count - 1, spread[lit] / level[lit]
    found = float(np.median(ratio)) / (1 - 2 / (9 * freedom)) ** 3  # Wilson and Hilferty 1931
    if freedom >= ENOUGH:  # the mean without broken elements is more precise
        found = float(ratio[ratio < 4 * found].mean())
    return settle(found, int(lit.sum()) * freedom)


def gain_of_air(counts: np.ndarray, flat: np.ndarray, dark: np.ndarray) -> float | None:
    """Estimate the gain from the readings beside the object, which differ by their noise alone.

    Parameters
    ----------
    counts : ndarray, shape (angles, detectors)
        One slice.
    flat, dark : ndarray, shape (detectors,)
        Its open beam and dark field.

    Returns
    -------
    float or None
        Detector units per photon; None where no element sees air at all angles, or where there
        are too few of them.

    Notes
    -----
    The variance is half of that of differences of neighbouring angles, so that slow changes of the
    beam do not count. Changes from one angle to the next are divided out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        passed = (counts - dark) / (flat - dark)
        usual, least = np.median(passed, axis=0), np.percentile(passed, 5, axis=0)
    air = (usual > AIR[0]) & (usual < AIR[1]) & (least > LEAST)
    if air.sum() < 4 or air.sum() * (len(counts) - 1) < LEAST_READINGS:
        return None
    level = np.median(passed[:, air], axis=1, keepdims=True)
    steps = np.diff(passed[:, air] / level, axis=0)
    spread = (1.4826 * np.median(np.abs(steps - np.median(steps)), axis=0)) ** 2 / 2
    found = float(np.median(spread * (flat - dark)[air] / np.median(passed[:, air], axis=0)))
    return settle(found, steps.size)


def settle(gain: float, readings: int) -> float | None:
    """Return 1 for a gain that is 1 within its error or a tenth, and None for one that cannot be.

    Parameters
    ----------
    gain : float
        The estimate.
    readings : int
        How many it is from.

    Returns
    -------
    float or None
    """
    if not np.isfinite(gain) or gain <= 0:
        return None
    error = 1.65 * (2 / readings) ** 0.5  # of a variance by the median (Rousseeuw and Croux 1993)
    return 1.0 if abs(gain - 1) < max(SAME, 3 * error) else gain


__all__ = ["gain_of_air", "gain_of_flats", "settle"]
