r"""Detector elements finer than the pixels: neighbours are taken as one.

A pixel that is several elements wide cannot show what the elements see. Its line integral is the
mean over the bin,

.. math:: q_b = \frac{1}{n_b} \sum_{k \in b} q_k, \qquad
          \mathrm{noise}_b^2 = \frac{1}{n_b^2} \sum_{k \in b} \mathrm{noise}_k^2

over the n_b elements that were measured. Elements that make no whole bin, fewer than one bin at
either end, are left out.

Bins alone lose what the elements see between the pixels. So the pixels are divided as well, by at
most three, and the image is averaged in the end.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from pnp_mlpatch.ct.geometry import FanBeam, Geometry, sizes
from pnp_mlpatch.errors import InputError

FINEST = 3  # parts of a pixel along a side


def elements_in_a_pixel(geometry: Geometry) -> float:
    """Return how many detector elements fit into a pixel, as seen at the centre of the image.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.

    Returns
    -------
    float
    """
    width = geometry.width if isinstance(geometry, FanBeam) else sizes(geometry)[1]
    return geometry.pixel / width


def divide(ratio: float) -> tuple[int, int]:
    """Return by how many pixels are divided along a side, and how many elements make a bin.

    Parameters
    ----------
    ratio : float
        Elements in a pixel.

    Returns
    -------
    tuple of int
        1 and 1 for fewer than two elements.
    """
    fine = max(1, min(FINEST, int(ratio + 1e-6)))
    return fine, 1 if fine == 1 else max(1, round(ratio / fine))


def divide_pixels(geometry: Geometry, fine: int) -> Geometry:
    """Return the geometry with each pixel divided along both sides.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    fine : int
        By how many.

    Returns
    -------
    ParallelBeam or FanBeam
        With the same elements.
    """
    count, spacing = sizes(geometry)
    height, width = geometry.shape
    return replace(
        geometry,
        shape=(height * fine, width * fine),
        pixel=geometry.pixel / fine,
        detectors=count,
        spacing=spacing,
    )


def bin_geometry(geometry: Geometry, factor: int) -> Geometry:
    """Return the geometry of a detector whose elements are bins.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        The scan.
    factor : int
        Elements of a bin; 1 changes nothing.

    Returns
    -------
    ParallelBeam or FanBeam

    Raises
    ------
    InputError
        If the detector has fewer elements.
    """
    if factor == 1:
        return geometry
    count, spacing = sizes(geometry)
    if factor > count:
        raise InputError(
            f"bin: the detector has {count} elements, fewer than the {factor} of a bin. "
            "Give a smaller bin."
        )
    left, right = _rest(count, factor)
    return replace(
        geometry,
        detectors=count // factor,
        spacing=factor * spacing,
        offset=geometry.offset + (left - right) / 2 * spacing,
    )


def bin_mean(values: Tensor, seen: Tensor, factor: int) -> Tensor:
    """Return the mean over the measured elements of each bin, 0 where there are none.

    Parameters
    ----------
    values : Tensor, shape (..., detectors)
        Such as line integrals.
    seen : Tensor, shape (..., detectors), bool
        What was measured.
    factor : int
        Elements of a bin.

    Returns
    -------
    Tensor, shape (..., detectors // factor)
    """
    return bin_sum(values, seen, factor) / bin_sum(seen.to(values), seen, factor).clamp_min(1)


def bin_sum(values: Tensor, seen: Tensor, factor: int) -> Tensor:
    """Return the sum over the measured elements of each bin.

    Parameters
    ----------
    values : Tensor, shape (..., detectors)
        Such as counts, or variances.
    seen : Tensor, shape (..., detectors), bool
        What was measured.
    factor : int
        Elements of a bin.

    Returns
    -------
    Tensor, shape (..., detectors // factor)
    """
    left, right = _rest(values.shape[-1], factor)
    whole = F.pad(torch.where(seen, values, torch.zeros_like(values)), (-left, -right))
    return whole.unflatten(-1, (-1, factor)).sum(-1)


def _rest(count: int, factor: int) -> tuple[int, int]:
    """How many elements are left out at either end."""
    left = count % factor // 2
    return left, count % factor - left


__all__ = ["bin_geometry", "bin_mean", "bin_sum", "divide", "divide_pixels", "elements_in_a_pixel"]
