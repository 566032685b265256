"""Geometries of ODL."""

from __future__ import annotations

from typing import Any

import numpy as np

from pnp_mlpatch.ct.convert._checks import NEAR
from pnp_mlpatch.ct.convert._rigid import RigidScan
from pnp_mlpatch.ct.geometry import Geometry
from pnp_mlpatch.errors import InputError, InputTypeError

WHO = "from_odl"


def from_odl(geometry: Any, space: Any) -> Geometry:
    """Convert a geometry of ODL 1.0 (``odl.applications.tomo``).

    Parameters
    ----------
    geometry : odl.applications.tomo.Parallel2dGeometry or FanBeamGeometry
        With a flat detector, or ``det_curvature_radius`` equal to src_radius + det_radius, which
        is our arc.
    space : odl.DiscretizedSpace
        A uniform space of two axes, centred on the axis of rotation.

    Returns
    -------
    ParallelBeam or FanBeam
        In the unit of the space.

    Raises
    ------
    InputError
        For a space or a detector that is not uniform, pixels that are not square, an image that
        is not centred on the axis of rotation, shifts that vary, and other curvatures.
    InputTypeError
        For anything else.

    Notes
    -----
    ODL's images are indexed [x, y], both upwards: ours = numpy.rot90(theirs) and theirs =
    numpy.rot90(ours, -1). Sinograms are as ours. Angles are ``geometry.angles``, the midpoints of
    the cells of its partition, and our e is ``det_axis``: theta is theirs for the default initial
    vectors, and turned with any others. The offset is the midpoint of the detector. For an arc,
    spacing and offset are multiplied by the radius.

    ODL's ``RayTransform`` on astra_cpu ignores the offset and the initial vectors of a parallel
    beam and has no arc. Its adjoint is the transpose times the weighting of the range over that of
    the domain.
    """
    shape, pixel, middle = _plane(geometry, space)
    detector = geometry.det_partition
    angles = np.asarray(geometry.angles, dtype=np.float64)
    axis = np.asarray(geometry.det_axis(angles), dtype=np.float64).reshape(-1, 2)
    centre = np.asarray(geometry.det_refpoint(angles), dtype=np.float64).reshape(-1, 2) - middle
    source, radius = None, getattr(geometry, "det_curvature_radius", None)
    if hasattr(geometry, "src_position"):
        source = np.asarray(geometry.src_position(angles), dtype=np.float64).reshape(-1, 2) - middle
        distance = geometry.src_radius + geometry.det_radius
        if radius is not None and abs(radius - distance) > NEAR * distance:
            raise InputError(
                f"{WHO}: det_curvature_radius must be None or src_radius + det_radius = "
                f"{distance:g}, an arc about the source, got {radius:g}."
            )
    unit = 1.0 if radius is None else float(radius)
    return RigidScan(
        WHO,
        shape,
        pixel,
        detector.size,
        element=axis * float(detector.cell_sides[0]) * unit,
        centre=centre,
        source=source,
        shift=float(detector.mid_pt[0]) * unit,
        arc=radius is not None,
    ).geometry()


def _plane(geometry: Any, space: Any) -> tuple[tuple[int, int], float, np.ndarray]:
    """Return the shape (H, W), the pixel and the middle of the space."""
    needed = ("angles", "det_axis", "det_refpoint", "det_partition")
    if getattr(geometry, "ndim", None) != 2 or not all(hasattr(geometry, name) for name in needed):
        raise InputTypeError(
            f"{WHO}: expected a Parallel2dGeometry or a FanBeamGeometry, got "
            f"{type(geometry).__name__}."
        )
    grid = getattr(space, "partition", None)
    if grid is None or getattr(space, "ndim", None) != 2:
        raise InputTypeError(
            f"{WHO}: expected a space of odl.uniform_discr with two axes, got "
            f"{type(space).__name__}."
        )
    if not grid.is_uniform or not geometry.det_partition.is_uniform:
        raise InputError(
            f"{WHO}: the space and the detector must be uniform, got sampling that varies. "
            "Resample the data."
        )
    across, upwards = (float(side) for side in grid.cell_sides)
    if abs(across - upwards) > NEAR * across:
        raise InputError(
            f"{WHO}: pixels must be square, got sides {across:g} x {upwards:g}. Resample the image."
        )
    middle = np.asarray(grid.mid_pt, dtype=np.float64)
    return (int(grid.shape[1]), int(grid.shape[0])), across, middle


__all__ = ["from_odl"]
