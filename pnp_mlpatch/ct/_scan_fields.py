"""The open beam and the dark field of a scan: what the caller gives, as frames."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pnp_mlpatch.ct._scan_file import Frames, average
from pnp_mlpatch.ct.formats import open_scan_file, split_name
from pnp_mlpatch.errors import InputError, InputTypeError
from pnp_mlpatch.io.arrays import read_array

Field = Tensor | np.ndarray | float | str | PathLike[str]


def read_field(
    value: Field | Frames | None, slices: int, detectors: int, what: str, path: Path
) -> Frames | None:
    """Return the open beam or the dark field as one value for each slice and detector.

    Parameters
    ----------
    value : number, array, path or Frames, optional
        A number, (detectors,), (slices, detectors), (frames, slices, detectors), or a file of
        one of these. Frames are averaged.
    slices, detectors : int
        The shape of the scan.
    what : str
        "flat" or "dark", for messages.
    path : Path
        The scan, for messages.

    Returns
    -------
    Frames
        Of arrays (slices, detectors). None if ``value`` is None.

    Raises
    ------
    InputTypeError
        For anything but real numbers.
    InputError
        For other shapes.
    """
    if value is None:
        return None
    found = value if isinstance(value, Frames) else _given_frames(value, what, path)
    if slices == 1 and found.mean.ndim == 2 and len(found.mean) > 1:
        found = average(iter(found.mean), path, what)
    shape = found.mean.shape
    if shape not in ((), (detectors,), (1, detectors), (slices, detectors)):
        raise InputError(
            f"{path}: {what} has shape {shape}, but the projections have {slices} slices x "
            f"{detectors} detectors. Expected a number, (detectors,), (slices, detectors) or "
            "(frames, slices, detectors). Is the layout right?"
        )
    return found


def mean_field(frames: Frames | None, slices: int, detectors: int) -> Tensor | None:
    """Return the mean of frames.

    Parameters
    ----------
    frames : Frames, optional
        As of :func:`read_field`.
    slices, detectors : int
        The shape of the scan.

    Returns
    -------
    Tensor, shape (slices, detectors), float32, or None
    """
    if frames is None:
        return None
    return torch.from_numpy(np.broadcast_to(frames.mean, (slices, detectors)).astype(np.float32))


def _given_frames(value: Field, what: str, path: Path) -> Frames:
    """Return a field that was given; the frames of a file are averaged one by one."""
    if isinstance(value, (str, PathLike)) and not str(value).lower().endswith(".npy"):
        stored = open_scan_file(*split_name(value, None)).data
        count = stored.shape[0]
        if len(stored.shape) == 3:
            frames = (stored.part(0, k, k + 1)[0] for k in range(count))
            return average(frames, path, what)
        array = stored.part(0, 0, count)
    elif isinstance(value, (str, PathLike)):  # of any number of axes
        array = read_array(value).numpy()
    else:
        try:
            array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"{path}: {what} must be a number, an array or a file, got {type(value).__name__}."
            ) from error
    if array.dtype.kind not in "fiu":
        raise InputTypeError(f"{path}: {what} must hold real numbers, got {array.dtype}.")
    return average(iter(array), path, what) if array.ndim == 3 and len(array) else Frames(array)


__all__ = ["Field", "mean_field", "read_field"]
