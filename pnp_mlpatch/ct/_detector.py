"""The geometry of a scan from what is known of its apparatus."""

from __future__ import annotations

import math
import warnings
from typing import Any

from torch import Tensor

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.ct.fbp import whole_turn
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam
from pnp_mlpatch.errors import InputError

BEAMS = ("parallel", "fan", "arc")
WHO = "Scan.geometry"


def detector_geometry(
    beam: str,
    theta: Tensor,
    detectors: int,
    *,
    shape: tuple[int, int] | None,
    pixel: float | None,
    spacing: float | None,
    center: float | None,
    offset: float | None,
    source_origin: float | None,
    origin_detector: float | None,
) -> Geometry:
    """Return the geometry of a scan; :meth:`pnp_mlpatch.ct.Scan.geometry` describes it.

    Parameters
    ----------
    beam : str
        One of ``BEAMS``.
    theta : Tensor, shape (angles,)
        The angles in radians.
    detectors : int
        The number of detector elements.
    shape, pixel, spacing, center, offset, source_origin, origin_detector
        As in :meth:`pnp_mlpatch.ct.Scan.geometry`.

    Returns
    -------
    ParallelBeam or FanBeam
    """
    if beam not in BEAMS:
        raise InputError(f"{WHO}: beam must be one of {', '.join(BEAMS)}, got {beam!r}.")
    lengths = _source(beam, {"source_origin": source_origin, "origin_detector": origin_detector})
    for name, value in (("pixel", pixel), ("spacing", spacing)):
        if value is not None and not (finite_number(value) and value > 0):
            raise InputError(f"{WHO}: {name} must be a length > 0, got {value!r}.")
    distance = sum(lengths.values()) if lengths else 1.0
    magnification = distance / lengths["source_origin"] if lengths else 1.0
    if pixel is None:
        pixel = 1.0 if spacing is None else spacing / magnification
    if spacing is None:
        spacing = pixel * magnification
    offset = _offset(center, offset, detectors, spacing)
    if shape is None:
        half = detectors * spacing / 2
        if whole_turn(theta):  # then each side of the detector sees all around the axis
            half += abs(offset)
        side = max(1, math.floor(2 * _seen(beam, half, lengths) / pixel + 1e-6))
        shape = (side, side)
    common: dict[str, Any] = {"pixel": pixel, "spacing": spacing, "offset": offset}
    if beam == "parallel":
        return ParallelBeam(shape, theta, detectors, **common)
    return FanBeam(shape, theta, detectors, **lengths, **common, arc=beam == "arc")


def _source(beam: str, lengths: dict[str, float | None]) -> dict[str, float]:
    """Where the source and the detector are; nothing for a parallel beam."""
    found: dict[str, float] = {}
    for name, value in lengths.items():
        flag = f"{name} (--{name.replace('_', '-')})"
        if beam == "parallel":
            if value is not None:
                raise InputError(
                    f"{WHO}: {flag} is for beam='fan' and beam='arc'; a parallel beam has no "
                    "source."
                )
            continue
        if value is None:
            raise InputError(
                f"{WHO}: beam='{beam}' needs {flag}, a length in the unit of pixel. From source "
                "to detector it is source_origin + origin_detector."
            )
        least = ">= 0" if name == "origin_detector" else "> 0"
        if not finite_number(value) or value < 0 or (value == 0 and least == "> 0"):
            raise InputError(f"{WHO}: {flag} must be a length {least}, got {value!r}.")
        found[name] = value
    return found


def _seen(beam: str, half: float, lengths: dict[str, float]) -> float:
    """Return the radius of the disc about the axis that half the length of a detector sees."""
    if beam == "parallel":
        return half
    angle = half / sum(lengths.values())
    angle = math.atan(angle) if beam == "fan" else min(angle, math.pi / 2)
    return lengths["source_origin"] * math.sin(angle)


def _offset(center: float | None, offset: float | None, detectors: int, spacing: float) -> float:
    """Return the shift of the detector, from the element of the rotation axis if that is given."""
    if center is None:
        return 0.0 if offset is None else offset
    if offset is not None:
        raise InputError(f"{WHO}: center and offset say the same in two ways; give one.")
    middle = (detectors - 1) / 2
    if not finite_number(center) or not -0.5 < center < detectors - 0.5:
        raise InputError(
            f"{WHO}: center {center:g} lies off the detector, whose elements are 0 ... "
            f"{detectors - 1}; its middle is {middle:g}."
        )
    if center == detectors / 2:
        warnings.warn(
            f"{WHO}: center {center:g} is half an element right of the middle, {middle:g}: "
            "elements are counted from 0, and a whole number is the middle of one. If it is the "
            "default of tomopy, which counts from the edge (D / 2), subtract 0.5.",
            stacklevel=4,
        )
    return (middle - center) * spacing


__all__ = ["BEAMS", "detector_geometry"]
