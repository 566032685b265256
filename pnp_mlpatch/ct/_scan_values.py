"""Values of a scan that are not what they are taken for."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from pnp_mlpatch.ct._scan_file import format_ranges
from pnp_mlpatch.errors import InputError

COUNTS, INTEGRALS = "counts", "line integrals"
MAX_INTEGRAL = 20  # line integrals of any body are less: exp(-20) is one photon in 5e8


def check_integrals(values: np.ndarray, path: Path, *, sure: bool) -> None:
    """Raise where line integrals look like counts; warn if the user says that they are not.

    Parameters
    ----------
    values : ndarray
        Of some slices.
    path : Path
        The scan, for messages.
    sure : bool
        Whether the user says that they are line integrals.

    Raises
    ------
    InputError
        Where they look like counts.
    """
    known = values[np.isfinite(values)]
    beyond, top = int((known > MAX_INTEGRAL).sum()), float(known.max(initial=0.0))
    if beyond:
        seen = (
            f"{beyond} of {values.size} line integrals are above {MAX_INTEGRAL}, up to {top:.4g}: "
            f"no body lets through so little, exp(-{MAX_INTEGRAL})"
        )
    elif top >= 2 and bool((known == np.round(known)).all()):
        seen = f"all of them are whole numbers, up to {top:.4g}"
    else:
        return
    advice = (
        "If they are counts, say kind='counts' and give the open beam (on the command line --kind "
        "counts --blank I0); if the file holds it under a name of its own, give that; if single "
        "rays are broken, set them to NaN"
    )
    if not sure:
        raise InputError(
            f"{path}: {seen}. {advice}; if they are line integrals, say kind='{INTEGRALS}'."
        )
    if beyond:
        warnings.warn(f"{path}: {seen}. {advice}.", stacklevel=3)


def drop_dead_projections(values: np.ndarray, path: Path) -> None:
    """Set projections that are one number in every ray, where others are not, to NaN; warn.

    Parameters
    ----------
    values : ndarray, shape (slices, angles, detectors)
        Counts, changed in place.
    path : Path
        The scan, for messages.
    """
    if values.shape[2] < 8:
        return
    dead = (values == values[..., :1]).all(-1)
    dead[dead.all(-1)] = False  # a slice in which nothing was measured
    if dead.any():
        values[dead] = np.nan
        warnings.warn(
            f"{path}: the projections {format_ranges(np.flatnonzero(dead.any(0)))} are the same "
            "number in every ray; they get no weight.",
            stacklevel=3,
        )


__all__ = ["COUNTS", "INTEGRALS", "MAX_INTEGRAL", "check_integrals", "drop_dead_projections"]
