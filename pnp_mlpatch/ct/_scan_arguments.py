"""Angles and layout of a scan: what the caller gives replaces what the file holds."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.ct._geometry_checks import SAME
from pnp_mlpatch.ct._scan_file import ScanFile
from pnp_mlpatch.errors import FileError, InputError, InputTypeError
from pnp_mlpatch.io.reading import refuse_special

AXES = {"a": "angles", "s": "slices", "d": "detectors"}
FILLED = 3  # zeros at the end of the angles: as many are numbers that were never written
Angles = Tensor | np.ndarray | Sequence[float] | str | PathLike[str]


# ---- layout


def choose_layout(layout: str | None, found: ScanFile, path: Path) -> str:
    """Return the order of the axes, such as "sad".

    Parameters
    ----------
    layout : str, optional
        The order that was asked for; by default that of the format.
    found : ScanFile
        The file.
    path : Path
        Its path, for messages.

    Returns
    -------
    str

    Raises
    ------
    InputError
        If ``layout`` does not name each axis once.
    """
    axes = len(found.data.shape)
    if layout is None:
        return found.layout if axes == 3 else "ad"
    letters = "sad" if axes == 3 else "ad"
    if not isinstance(layout, str) or sorted(layout) != sorted(letters):
        raise InputError(
            f"{path}: layout must name the {axes} axes of {found.data.shape} by the letters "
            f"{', '.join(f'{k} ({AXES[k]})' for k in letters)}, each once, such as '{letters}'; "
            f"got {layout!r}."
        )
    if found.kept is not None and not layout.startswith("a"):
        raise InputError(
            f"{path}: image_key tells the frames of the first axis apart, so the layout begins "
            f"with 'a', got '{layout}'."
        )
    return layout


def scan_shape(
    stored: tuple[int, ...], order: str, theta: np.ndarray | None, path: Path
) -> tuple[int, int, int]:
    """Return the shape (slices, angles, detectors) of an array.

    Parameters
    ----------
    stored : tuple of int
        The shape on disk.
    order : str
        Its axes, as of :func:`choose_layout`.
    theta : ndarray, optional
        The angles.
    path : Path
        The file, for messages.

    Returns
    -------
    tuple of int

    Raises
    ------
    InputError
        If another axis has as many elements as there are angles.
    """
    slices, count, detectors = (stored[order.index(axis)] if axis in order else 1 for axis in "sad")
    if theta is not None and len(theta) != count and len(theta) in stored:
        other = order[stored.index(len(theta))]
        swapped = order.translate(str.maketrans(f"a{other}", f"{other}a"))
        raise InputError(
            f"{path}: with the layout '{order}', {stored} has {count} angles, but {len(theta)} "
            f"angles are known, as many as there would be {AXES[other]}. The array seems "
            f"transposed: give layout='{swapped}'."
        )
    return slices, count, detectors


# ---- angles


def choose_angles(
    angles: Angles | None, degrees: bool | None, found: ScanFile, path: Path
) -> tuple[np.ndarray | None, bool]:
    """Return the angles and whether they are degrees: those given before those of the file.

    Parameters
    ----------
    angles : array-like or path, optional
        The angles that were given.
    degrees : bool, optional
        Their unit that was given.
    found : ScanFile
        The file.
    path : Path
        Its path, for messages.

    Returns
    -------
    theta : ndarray or None
        float64, one number for each projection; None where they are not known.
    degrees : bool

    Raises
    ------
    FileError
        If a file of angles cannot be read.
    InputError, InputTypeError
        If the angles are not a sequence of finite numbers, or if there are none whose unit
        ``degrees`` could be.
    """
    if angles is None:
        if found.theta is not None:
            unit = found.degrees if degrees is None else degrees
            return _flat_angles(found.theta, path), unit
        if degrees is not None:
            raise InputError(
                f"{path}: degrees={degrees} gives the unit of angles, but there are none in the "
                "file. Give angles=."
            )
        return None, False
    if isinstance(angles, (str, PathLike)):
        angles = _read_angles(Path(angles))
    try:
        array = np.asarray(angles.detach().cpu() if isinstance(angles, Tensor) else angles)
    except (TypeError, ValueError) as error:
        raise InputTypeError(
            f"{path}: angles must be a sequence of numbers or a file, got {type(angles).__name__}."
        ) from error
    array = _flat_angles(array, path)
    if found.kept is not None and len(array) == len(found.kept):
        array = array[found.kept]
    return array, bool(degrees)


def _read_angles(path: Path) -> np.ndarray:
    """Read the angles of a .npy file, or of a text with one number a line."""
    refuse_special(path)
    try:
        if path.suffix.lower() == ".npy":
            return np.load(path, allow_pickle=False)
        return np.loadtxt(path, ndmin=1)
    except Exception as error:  # numpy lets the errors of zipfile, tokenize and ast through
        raise FileError(
            f"{path}: not a readable file of angles ({error}). Expected .npy, or a text with one "
            "number a line."
        ) from error


def _flat_angles(array: np.ndarray, path: Path) -> np.ndarray:
    """Angles as a vector of float64."""
    if array.dtype.kind not in "fiu":
        raise InputTypeError(f"{path}: angles must be real numbers, got {array.dtype}.")
    lost = np.flatnonzero(~np.isfinite(array.reshape(-1)))
    if len(lost) and array.size == max(array.shape):
        raise InputError(
            f"{path}: angles must be one finite number for each projection, got {len(lost)} that "
            f"are not finite, from number {lost[0]} on. Did the scan break off? Give angles=."
        )
    if array.ndim == 0 or array.size != max(array.shape):
        raise InputError(
            f"{path}: angles must be one finite number for each projection, got an array "
            f"{array.shape}."
        )
    return array.reshape(-1).astype(np.float64)


def to_radians(theta: np.ndarray, degrees: bool, count: int, path: Path) -> Tensor:
    """Check the angles of a scan and convert them to radians.

    Parameters
    ----------
    theta : ndarray
        The angles.
    degrees : bool
        Their unit: degrees, or else radians.
    count : int
        The number of projections.
    path : Path
        The file, for messages.

    Returns
    -------
    Tensor, shape (count,), float64

    Raises
    ------
    InputError
        If their number differs from that of the projections, or if they cannot be radians. Angles
        that repeat, go back and forth or seem to have another unit are warned of.
    """
    if len(theta) != count:
        raise InputError(
            f"{path}: {len(theta)} angles for {count} projections; there must be one for each. "
            "Drop those without projection."
        )
    end = count - int(np.flatnonzero(theta)[-1]) - 1 if theta.any() else count
    if FILLED <= end < count:
        raise InputError(
            f"{path}: the last {end} of the {count} angles are 0, as where a scan broke off. Give "
            "angles= of all projections; those that were not measured get no weight."
        )
    span, reach = float(np.ptp(theta)), float(np.abs(theta).max())
    if degrees and len(theta) > 4 and span <= 2 * math.pi + 1e-6:
        warnings.warn(
            f"{path}: {len(theta)} angles span only {span:.4g} degrees; they look like radians. "
            "Then say degrees=False.",
            stacklevel=3,
        )
    if not degrees and reach > 4 * math.pi + 1e-6:
        raise InputError(
            f"{path}: angles reach {reach:.4g}, which cannot be radians; they look like degrees. "
            "Say degrees=True."
        )
    radians = np.deg2rad(theta) if degrees else theta
    repeated = int((np.diff(np.sort(radians)) < SAME).sum())
    if repeated:
        warnings.warn(
            f"{path}: {repeated} of the {count} angles repeat. Were all of them measured?",
            stacklevel=3,
        )
    steps = np.diff(radians)
    if (steps > 0).any() and (steps < 0).any():
        warnings.warn(
            f"{path}: the angles go back and forth. Fine for interlaced scans; else check their "
            "order and unit.",
            stacklevel=3,
        )
    return torch.from_numpy(radians)


__all__ = [
    "AXES",
    "Angles",
    "choose_angles",
    "choose_layout",
    "scan_shape",
    "to_radians",
]
