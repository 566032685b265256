"""Geometries of TIGRE."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pnp_mlpatch._checks import finite_number
from pnp_mlpatch.ct.convert._checks import NEAR, Values, as_count, as_pair, as_plain, as_vector
from pnp_mlpatch.ct.geometry import FanBeam, Geometry, ParallelBeam
from pnp_mlpatch.errors import InputError, InputTypeError

WHO = "from_tigre"


def from_tigre(
    DSO: float,
    DSD: float,
    nVoxel: int | Sequence[int],
    sVoxel: float | Sequence[float] | None = None,
    nDetector: int = 0,
    dDetector: float = 0.0,
    angles: Values = (),
    offDetector: float = 0.0,
    *,
    dVoxel: float | Sequence[float] | None = None,
    mode: str = "cone",
) -> Geometry:
    """Convert the middle slice of a geometry of TIGRE, in its words.

    Parameters
    ----------
    DSO, DSD : float
        From the source to the origin and to the detector; void for ``mode`` "parallel".
    nVoxel : int or sequence of int
        The image: N, or (y, x).
    sVoxel, dVoxel : float or sequence of float, optional
        The size of the image, or that of a voxel: a number, or (y, x). Give one of them.
    nDetector, dDetector, offDetector : int, float, float
        Number, width and offset of the detector elements along u.
    angles : sequence of float
        Radians.
    mode : str
        "cone" or "parallel".

    Returns
    -------
    ParallelBeam or FanBeam
        In the unit of the lengths.

    Raises
    ------
    InputError
        For voxels that are not square, DSD < DSO, another mode, and what the geometry refuses.
    InputTypeError
        Unless one of ``sVoxel`` and ``dVoxel`` is given.

    Notes
    -----
    As its sources say (Siddon_projection.cu; TIGRE itself was not run): the source of the angle
    alpha is at DSO (cos alpha, sin alpha), u grows along (-sin alpha, cos alpha), and the rows of
    an image upwards. Hence theta = alpha + pi / 2, and for a slice [y, x] ours = flipud(theirs).
    Sinograms are as ours.

    References
    ----------
    Biguri et al., TIGRE, Biomed. Phys. Eng. Express 2016.
    """
    if mode not in ("cone", "parallel"):
        raise InputError(f"{WHO}: mode must be 'cone' or 'parallel', got {mode!r}.")
    shape, pixel = _voxels(nVoxel, sVoxel, dVoxel)
    count = as_count(nDetector, "nDetector", WHO)
    theta = as_vector(angles, "angles", WHO) + math.pi / 2
    common = {"pixel": pixel, "spacing": as_plain(dDetector), "offset": as_plain(offDetector)}
    if mode == "parallel":
        return ParallelBeam(shape, theta, count, **common)
    if not finite_number(DSO) or not finite_number(DSD) or not 0 < DSO <= DSD:
        raise InputError(
            f"{WHO}: expected 0 < DSO <= DSD, source to origin and source to detector, got DSO = "
            f"{DSO!r}, DSD = {DSD!r}."
        )
    lengths = {"source_origin": float(DSO), "origin_detector": float(DSD - DSO)}
    return FanBeam(shape, theta, count, **lengths, **common)


def _voxels(
    nVoxel: int | Sequence[int],
    sVoxel: float | Sequence[float] | None,
    dVoxel: float | Sequence[float] | None,
) -> tuple[tuple[int, int], float]:
    """Return the shape of the image and the side of a pixel."""
    if (sVoxel is None) == (dVoxel is None):
        raise InputTypeError(
            f"{WHO}: give one of sVoxel, the size of the image, and dVoxel, that of a voxel; got "
            f"{'neither' if dVoxel is None else 'both'}."
        )
    height, width = (as_count(n, "nVoxel", WHO) for n in as_pair(nVoxel, "nVoxel", WHO))
    name, given = ("dVoxel", dVoxel) if sVoxel is None else ("sVoxel", sVoxel)
    lengths = [as_plain(value) for value in as_pair(given, name, WHO)]
    if not all(finite_number(value) and value > 0 for value in lengths):
        raise InputError(f"{WHO}: sVoxel and dVoxel are lengths > 0, got {given!r}.")
    tall, wide = lengths if sVoxel is None else (lengths[0] / height, lengths[1] / width)
    if abs(tall - wide) > NEAR * wide:
        raise InputError(
            f"{WHO}: voxels must be square in the slice, got {tall:g} x {wide:g}. Give nVoxel and "
            "sVoxel of the slice, (y, x)."
        )
    return (height, width), wide


__all__ = ["from_tigre"]
