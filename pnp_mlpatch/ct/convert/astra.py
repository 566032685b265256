"""Geometries of ASTRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.ct.convert._checks import NEAR, as_count, as_plain, as_vector, entry
from pnp_mlpatch.ct.convert._rigid import RigidScan
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam, sizes
from pnp_mlpatch.errors import InputError, InputTypeError

KINDS = ("parallel", "fanflat", "parallel_vec", "fanflat_vec")


def from_astra(projection: Mapping[str, Any], volume: Mapping[str, Any]) -> Geometry:
    """Convert the geometries of ``astra.create_proj_geom`` and ``astra.create_vol_geom``.

    Parameters
    ----------
    projection : mapping
        Of the type "parallel", "fanflat", "parallel_vec" or "fanflat_vec".
    volume : mapping
        A plane, centred on the origin.

    Returns
    -------
    ParallelBeam or FanBeam
        In the unit of the window of the volume.

    Raises
    ------
    InputError
        For other types, pixels that are not square, an image that is not centred on the origin,
        and vectors that describe no circular scan or a detector that runs backwards.
    InputTypeError
        For anything but two dicts.

    Notes
    -----
    A row (r, c, u) or (s, c, u) of vectors has e = u / abs(u), d a quarter turn further, spacing =
    abs(u) and offset = c . e; a fan has source_origin = -s . d and origin_detector = c . d. These
    must be the same for all angles, and s . e = 0 or r x d = 0.
    """
    who = "from_astra"
    for name, given, maker in (
        ("projection", projection, "create_proj_geom"),
        ("volume", volume, "create_vol_geom"),
    ):
        if not isinstance(given, Mapping):
            raise InputTypeError(
                f"{who}: {name} must be a dict of astra.{maker}, got {type(given).__name__}."
            )
    shape, pixel = _window(volume, who)
    kind = entry(projection, "type", who)
    if kind not in KINDS:
        raise InputError(
            f"{who}: type must be parallel, fanflat, parallel_vec or fanflat_vec, got {kind!r}. "
            "Give the scan of one slice."
        )
    count = as_count(entry(projection, "DetectorCount", who), "DetectorCount", who)
    if kind.endswith("_vec"):
        first, centre, element = _vectors(projection, who)
        place: dict[str, Any] = {"source": first} if kind == "fanflat_vec" else {"ray": first}
        return RigidScan(who, shape, pixel, count, element, centre, **place).geometry()
    angles = as_vector(entry(projection, "ProjectionAngles", who), "ProjectionAngles", who)
    common = {"pixel": pixel, "spacing": as_plain(entry(projection, "DetectorWidth", who))}
    if kind == "parallel":
        return ParallelBeam(shape, angles, count, **common)
    return FanBeam(
        shape,
        angles,
        count,
        source_origin=as_plain(entry(projection, "DistanceOriginSource", who)),
        origin_detector=as_plain(entry(projection, "DistanceOriginDetector", who)),
        **common,
    )


def to_astra(geometry: Geometry) -> tuple[dict[str, Any], dict[str, Any]]:
    """Convert a geometry to the dicts of ASTRA.

    Parameters
    ----------
    geometry : ParallelBeam or FanBeam
        A scan with a flat detector.

    Returns
    -------
    projection, volume : dict
        What ``astra.create_proj_geom`` and ``create_vol_geom`` would make, in the unit of the
        geometry: "parallel" or "fanflat", and with an offset the same as vectors.

    Raises
    ------
    InputError
        For an arc: ASTRA has flat detectors only in the plane.
    InputTypeError
        For anything but a geometry.
    """
    if not isinstance(geometry, (ParallelBeam, FanBeam)):
        raise InputTypeError(
            f"to_astra: expected a ParallelBeam or a FanBeam, got {type(geometry).__name__}."
        )
    fan = isinstance(geometry, FanBeam)
    if isinstance(geometry, FanBeam) and geometry.arc:
        raise InputError(
            "to_astra: ASTRA has no arc of detectors in the plane, only flat ones, got arc=True. "
            "Project with Radon(geometry)."
        )
    (height, width), (count, spacing) = geometry.shape, sizes(geometry)
    x, y = width * geometry.pixel / 2, height * geometry.pixel / 2
    window = {"WindowMinX": -x, "WindowMaxX": x, "WindowMinY": -y, "WindowMaxY": y}
    volume = {"GridRowCount": height, "GridColCount": width, "option": window}
    if geometry.offset:
        kind = "fanflat_vec" if fan else "parallel_vec"
        return {"type": kind, "DetectorCount": count, "Vectors": _rows(geometry)}, volume
    projection: dict[str, Any] = {
        "type": "parallel",
        "DetectorWidth": spacing,
        "DetectorCount": count,
        "ProjectionAngles": np.asarray(geometry.angles),
    }
    if isinstance(geometry, FanBeam):
        projection["type"] = "fanflat"
        projection["DistanceOriginSource"] = geometry.source_origin
        projection["DistanceOriginDetector"] = geometry.origin_detector
    return projection, volume


def _rows(geometry: Geometry) -> np.ndarray:
    """ASTRA's vectors (r or s, c, u): c = origin_detector d + offset e, u = spacing e."""
    theta = np.asarray(geometry.angles)
    e, d = np.stack([np.cos(theta), np.sin(theta)], 1), np.stack([-np.sin(theta), np.cos(theta)], 1)
    first, behind = d, 0.0
    if isinstance(geometry, FanBeam):
        first, behind = -geometry.source_origin * d, geometry.origin_detector
    return np.concatenate([first, behind * d + geometry.offset * e, sizes(geometry)[1] * e], 1)


def _vectors(projection: Mapping[str, Any], who: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of ASTRA's vectors as source or ray, middle of the detector, and element."""
    vectors = as_vector(entry(projection, "Vectors", who), "Vectors", who).numpy()
    if vectors.ndim != 2 or vectors.shape[1] != 6 or not np.isfinite(vectors).all():
        raise InputError(
            f"{who}: Vectors must be finite, of shape (angles, 6), got shape {vectors.shape}."
        )
    return vectors[:, :2], vectors[:, 2:4], vectors[:, 4:]


def _window(volume: Mapping[str, Any], who: str) -> tuple[tuple[int, int], float]:
    """Return the shape and the pixel of ASTRA's volume."""
    if "GridSliceCount" in volume:
        raise InputError(
            f"{who}: the volume must be a plane, got one with GridSliceCount. Give "
            "astra.create_vol_geom(rows, columns)."
        )
    names = ("GridRowCount", "GridColCount")
    height, width = (as_count(entry(volume, name, who), name, who) for name in names)
    option = entry(volume, "option", who)
    if not isinstance(option, Mapping):
        raise InputTypeError(
            f"{who}: the option of the volume must be a dict, got {type(option).__name__}. Make "
            "it with astra.create_vol_geom."
        )
    edges = [entry(option, f"Window{name}", who) for name in ("MinX", "MaxX", "MinY", "MaxY")]
    if not all(finite_number(edge) for edge in edges):
        raise InputError(f"{who}: the window of the volume must be finite numbers, got {edges!r}.")
    left, right, low, high = (float(edge) for edge in edges)
    wide, tall = (right - left) / width, (high - low) / height
    if not wide > 0 or abs(wide - tall) > NEAR * wide:
        raise InputError(
            f"{who}: pixels must be square, got {wide:g} x {tall:g}. Give the volume a window with "
            "the ratio of its sides."
        )
    if max(abs(left + right), abs(low + high)) > 2 * NEAR * max(right - left, high - low):
        raise InputError(
            f"{who}: the image must be centred on the origin, the axis of rotation, got the window "
            f"x {left:g} ... {right:g}, y {low:g} ... {high:g}. Reconstruct a centred image, and "
            "crop it."
        )
    return (height, width), wide


__all__ = ["from_astra", "to_astra"]
