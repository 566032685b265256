"""Geometries and sinograms of deepinv."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pnp_mlpatch.ct.convert._checks import (
    Values,
    as_count,
    as_plain,
    as_vector,
    is_count,
    warn_half,
)
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, coordinates, sizes
from pnp_mlpatch.errors import InputError, InputTypeError

WHO = "from_deepinv"


def from_deepinv(
    img_width: int,
    angles: int | Values,
    *,
    circle: bool = False,
    fan_beam: bool = False,
    fan_parameters: Mapping[str, float] | None = None,
) -> Geometry:
    """Convert the geometry of ``deepinv.physics.Tomography`` (deepinv 0.5) of these arguments.

    Parameters
    ----------
    img_width : int
        The side of the image.
    angles : int or sequence of float
        Degrees, or n of them in 180.
    circle : bool
        Whether the detector has P = img_width elements; else P = ceil(sqrt(2) img_width). Their
        size is that of a pixel.
    fan_beam : bool
        Whether the beam is a fan.
    fan_parameters : mapping, optional
        As in deepinv, in the unit of ``pixel_spacing``; what is missing has deepinv's default.

    Returns
    -------
    ParallelBeam or FanBeam

    Raises
    ------
    InputError
        For numbers out of range and unknown ``fan_parameters``.

    Warns
    -----
    UserWarning
        Where P - img_width is odd: deepinv then turns about a point half a pixel from the centre
        of the image, in x and in y.

    Notes
    -----
    deepinv's images are ours, its sinograms (detectors, angles) and in other units:
    :func:`deepinv_sinogram` converts them. Its angle phi is theta for parallel beams, and theta =
    phi - pi / 2 for fans. A fan in P pixels is drawn into P - 1, so that its ``pixel`` is
    pixel_spacing P / (P - 1).
    """
    width = as_count(img_width, "img_width", WHO)
    padded = width if circle else math.ceil(math.sqrt(2) * width)
    if width < 2:
        raise InputError(f"{WHO}: img_width must be >= 2, got {width}.")
    if is_count(angles):
        count = as_count(angles, "angles", WHO)
        degrees = torch.arange(count, dtype=torch.float64) * (180 / count)
    else:
        degrees = as_vector(angles, "angles", WHO)
    if (padded - width) % 2:
        advice = "Another img_width, or circle=True, avoids it."
        warn_half(WHO, f"deepinv pads {width} to {padded} pixels", advice)
    if not fan_beam:
        return ParallelBeam((width, width), degrees, padded, degrees=True)
    words = _fan(width, fan_parameters)
    return FanBeam(
        (width, width),
        degrees - 90,
        as_count(words["n_detector_pixels"], "n_detector_pixels", WHO),
        source_origin=as_plain(words["source_radius"]),
        origin_detector=as_plain(words["detector_radius"]),
        pixel=as_plain(words["pixel_spacing"]) * padded / (padded - 1),
        spacing=as_plain(words["detector_spacing"]),
        degrees=True,
    )


def _fan(width: int, given: Mapping[str, float] | None) -> dict[str, float]:
    """Return the parameters of a fan, with deepinv's defaults."""
    default = {
        "pixel_spacing": 0.5 / width,
        "source_radius": 57.5,
        "detector_radius": 57.5,
        "n_detector_pixels": 258,
        "detector_spacing": 0.077,
    }
    if not isinstance(given, (Mapping, type(None))):
        raise InputTypeError(f"{WHO}: fan_parameters must be a dict, got {type(given).__name__}.")
    unknown = sorted(set(map(str, given or {})) - set(default))
    if unknown:
        raise InputError(
            f"{WHO}: fan_parameters has {', '.join(default)}, got {', '.join(unknown)}."
        )
    return default | dict(given or {})


def deepinv_sinogram(sinogram: Tensor, geometry: Geometry, norm: float = 1.0) -> Tensor:
    r"""Convert a sinogram of deepinv to ours.

    deepinv sums over pixels, in a fan over steps of one pixel along the beam rather than along the
    ray:

    .. math:: q_\mathrm{ours}[a, k] = q_\mathrm{theirs}[k, a] \;
              \mathrm{norm} \cdot \mathrm{pixel} / \cos \gamma_k,
              \qquad \cos \gamma_k = 1 \text{ for parallel beams}

    Parameters
    ----------
    sinogram : Tensor, shape (..., detectors, angles)
        Of deepinv.
    geometry : ParallelBeam or FanBeam
        Of :func:`from_deepinv`.
    norm : float
        ``physics.operator_norm`` of a Tomography made with ``normalize=True``, which divides by
        it.

    Returns
    -------
    Tensor, shape (..., angles, detectors)

    Raises
    ------
    InputError
        For another shape.
    InputTypeError
        For integers.
    """
    count, number = sizes(geometry)[0], len(geometry.theta)
    if not isinstance(sinogram, Tensor) or sinogram.shape[-2:] != (count, number):
        got = tuple(sinogram.shape) if isinstance(sinogram, Tensor) else type(sinogram).__name__
        raise InputError(
            f"deepinv_sinogram: expected a tensor (..., {count}, {number}), detectors and angles, "
            f"got {got}."
        )
    if not sinogram.is_floating_point():
        raise InputTypeError(
            f"deepinv_sinogram: expected floating-point data, got {sinogram.dtype}. Call "
            "sinogram.float() first."
        )
    scale = float(norm) * geometry.pixel
    factor = torch.full((count,), scale, device=sinogram.device, dtype=torch.float64)
    if isinstance(geometry, FanBeam):
        factor *= torch.sqrt(1 + (coordinates(geometry).to(factor) / geometry.distance) ** 2)
    return sinogram.transpose(-2, -1) * factor.to(sinogram)


__all__ = ["deepinv_sinogram", "from_deepinv"]
