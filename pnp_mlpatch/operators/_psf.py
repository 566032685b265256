"""Point spread functions: Gaussian, motion, defocus, and from a file."""

from __future__ import annotations

import math
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.errors import InputError
from pnp_mlpatch.io.arrays import read_array
from pnp_mlpatch.io.images import read_image

PARTS = 16  # points per pixel, in each direction, at which lines and disks are sampled
SLACK = 1e-9  # of a length, so that rounding adds no empty rows


def gaussian_psf(sigma: float, size: int | None = None) -> Tensor:
    """Return a Gaussian point spread function with sum 1.

    Parameters
    ----------
    sigma : float
        The standard deviation in pixels, > 0.
    size : int, optional
        The number of rows and columns, odd; an even one is raised by 1. By default the kernel ends
        at 3 standard deviations.

    Returns
    -------
    Tensor, shape (size, size), float64
    """
    if not (finite_number(sigma) and sigma > 0):
        raise InputError(f"gaussian_psf: sigma must be finite and > 0, got {sigma!r}.")
    if size is not None and (not isinstance(size, int) or size < 1):
        raise InputError(f"gaussian_psf: size must be an integer >= 1, got {size!r}.")
    half = (size // 2) if size else max(1, round(3 * sigma))
    t = torch.arange(-half, half + 1, dtype=torch.float64)
    g = torch.exp(-(t**2) / (2 * sigma**2))
    psf = g[:, None] * g
    return psf / psf.sum()


def motion_psf(length: float, angle: float = 0.0) -> Tensor:
    r"""Return the point spread function of a motion along a line, with sum 1.

    The centre moves evenly from :math:`-v/2` to :math:`v/2`, with

    .. math:: v = \text{length} \, (\cos\text{angle}, \sin\text{angle})

    to the right and up. Between pixels it is split by bilinear weights.

    Parameters
    ----------
    length : float
        The length of the way in pixels, > 0.
    angle : float
        The direction in radians, counter-clockwise from the direction of the rows.

    Returns
    -------
    Tensor, shape (K, L), float64
        Both sides are odd, and as small as the line allows.
    """
    if not (finite_number(length) and length > 0):
        raise InputError(f"motion_psf: length must be finite and > 0, in pixels, got {length!r}.")
    if not finite_number(angle):
        raise InputError(f"motion_psf: angle must be a finite number of radians, got {angle!r}.")
    count = PARTS * math.ceil(length)
    t = length * ((torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5)
    return path_psf(-math.sin(angle) * t, math.cos(angle) * t)


def path_psf(rows: Tensor, columns: Tensor) -> Tensor:
    """Return the point spread function of a path, such as that of a shaken camera, with sum 1.

    Every point counts alike, and is split between the nearest pixels by bilinear weights.

    Parameters
    ----------
    rows, columns : Tensor, shape (N,)
        Points of the path in pixels, relative to the centre of the point spread function.

    Returns
    -------
    Tensor, shape (K, L), float64
        Both sides are odd, and as small as the path allows.
    """
    if rows.ndim != 1 or rows.shape != columns.shape or not len(rows):
        raise InputError(
            "path_psf: rows and columns must be two tensors (N,) of one length >= 1, "
            f"got {tuple(rows.shape)} and {tuple(columns.shape)}."
        )
    points = torch.stack([rows, columns]).detach().cpu().double()
    if not bool(torch.isfinite(points).all()):
        raise InputError("path_psf: rows and columns must be finite.")
    half = [math.ceil(float(v) - SLACK) for v in points.abs().amax(1)]
    psf = torch.zeros(2 * half[0] + 3, 2 * half[1] + 3, dtype=torch.float64)  # a border to cut
    points = points + torch.tensor(half).double()[:, None] + 1
    base = points.floor()
    part = points - base
    for down in (0, 1):
        for right in (0, 1):
            weight = (part[0] if down else 1 - part[0]) * (part[1] if right else 1 - part[1])
            psf.index_put_(
                ((base[0] + down).long(), (base[1] + right).long()), weight, accumulate=True
            )
    psf = psf[1:-1, 1:-1]
    return psf / psf.sum()


def disk_psf(radius: float) -> Tensor:
    """Return the point spread function of a lens out of focus, a disk, with sum 1.

    Parameters
    ----------
    radius : float
        In pixels, > 0.

    Returns
    -------
    Tensor, shape (K, K), float64
        The part of each pixel that the disk covers; K is odd.
    """
    if not (finite_number(radius) and radius > 0):
        raise InputError(f"disk_psf: radius must be finite and > 0, in pixels, got {radius!r}.")
    half = max(0, math.ceil(radius - 0.5 - SLACK))
    side = 2 * half + 1
    t = (torch.arange(PARTS * side, dtype=torch.float64) + 0.5) / PARTS - 0.5 - half
    inside = (t[:, None].square() + t.square() <= radius**2).double()
    psf = inside.reshape(side, PARTS, side, PARTS).mean((1, 3))
    return psf / psf.sum()


def read_psf(path: str | PathLike[str]) -> Tensor:
    """Read a point spread function from a picture or a .npy file, and scale it to sum 1.

    Parameters
    ----------
    path : str or path
        A picture, whose colours are averaged, or an array (K, L).

    Returns
    -------
    Tensor, shape (K, L), float64

    Raises
    ------
    FileError
        If the file cannot be read.
    InputError
        If it holds no array (K, L), or values that are not finite or have a sum <= 0.
    """
    path = Path(path)
    array = read_array(path) if path.suffix == ".npy" else read_image(path, gray=True)
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2 or array.is_complex():
        raise InputError(
            f"{path}: a point spread function is a real array (K, L), got one of "
            f"shape {tuple(array.shape)}, {array.dtype}."
        )
    psf = array.double()
    if not bool(torch.isfinite(psf).all()) or float(psf.sum()) <= 0:
        raise InputError(f"{path}: a point spread function must be finite and have a sum > 0.")
    return psf / psf.sum()


__all__ = ["disk_psf", "gaussian_psf", "motion_psf", "path_psf", "read_psf"]
